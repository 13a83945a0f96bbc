//! One sensor on one interface, one on one set of tables.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
    process::geteuid,
};

use super::Error;

/// Makes the runtime directory, for this user alone, where there is none.
///
/// # Errors
///
/// It cannot be made, or something is there in which other users could replace files.
pub(super) fn make_runtime_directory(directory: &Path) -> Result<(), Error> {
    let refused = |problem: String| Error::RuntimeDirectory {
        path: directory.to_owned(),
        problem,
    };
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    let found = made.and_then(|()| fs::symlink_metadata(directory));
    // A file or a broken link is in its place.
    let found = found.or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => fs::symlink_metadata(directory),
        _ => Err(error),
    });
    let found = found.map_err(|error| refused(error.to_string()))?;
    let owner = found.uid();
    let kind = found.file_type();
    if kind.is_symlink() {
        Err(refused(format!("it is a symbolic link of user {owner}")))
    } else if !kind.is_dir() {
        Err(refused(format!("it is a file of user {owner}")))
    } else if owner != 0 && owner != geteuid().as_raw() {
        Err(refused(format!("it belongs to user {owner}")))
    } else if found.mode() & 0o022 != 0 {
        Err(refused(
            "other users may write to it (`chmod 0700` keeps them out)".to_owned(),
        ))
    } else {
        Ok(())
    }
}

/// Holds an interface for this process while it lives.
///
/// The lock is on a file whose name carries the network namespace and the interface's number there, so that
/// sensors in two namespaces do not meet. The kernel lifts it when the process ends, however that happens.
pub(super) struct InterfaceLock {
    file: File,
    path: PathBuf,
}

impl InterfaceLock {
    pub(super) fn take(directory: &Path, interface: &str, index: u32) -> Result<Self, Error> {
        make_runtime_directory(directory)?;
        let refused = |source| Error::System {
            what: "the interface cannot be locked",
            source,
        };
        // The namespace of the thread: a test has one of its own.
        let namespace = fs::metadata("/proc/thread-self/ns/net")
            .map_err(refused)?
            .ino();
        let path = directory.join(format!("interface-{namespace}-{index}.lock"));
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits() as i32)
                .open(&path)
                .map_err(|error| Error::RuntimeDirectory {
                    path: path.clone(),
                    problem: error.to_string(),
                })?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // The sensor that held it may have removed the file in between.
                Ok(()) if is_same(&file, &path) => return Ok(Self { file, path }),
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::InterfaceInUse {
                        interface: interface.to_owned(),
                        holder: holder_of_lock(&file),
                    });
                }
                Err(errno) => return Err(refused(errno.into())),
            }
        }
    }
}

impl Drop for InterfaceLock {
    fn drop(&mut self) {
        // While the lock is held: nobody else removes the file or takes it for its own.
        if is_same(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether an open file is the one of this name, and not one that was removed.
fn is_same(file: &File, path: &Path) -> bool {
    let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let held = file.metadata().map(of);
    let there = path.metadata().map(of);
    matches!((held, there), (Ok(held), Ok(there)) if held == there)
}

/// Holds a set of pinned tables for this process while it lives.
pub(super) struct TablesLock {
    directory: File,
}

impl TablesLock {
    pub(super) fn take(directory: &Path) -> Result<Self, Error> {
        let refused = |source| Error::PinDirectory {
            path: directory.to_owned(),
            source,
        };
        let file = File::open(directory).map_err(refused)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { directory: file }),
            Err(Errno::WOULDBLOCK) => Err(Error::TablesInUse {
                path: directory.to_owned(),
                holder: holder_of_lock(&file),
            }),
            Err(errno) => Err(refused(errno.into())),
        }
    }

    /// Whether the lock is on the folder of this name, and not on one that was removed.
    pub(super) fn is_on(&self, directory: &Path) -> bool {
        is_same(&self.directory, directory)
    }
}

/// The process that holds the lock on a file, from /proc/locks.
fn holder_of_lock(file: &File) -> String {
    let inode = file
        .metadata()
        .map(|metadata| metadata.ino())
        .unwrap_or_default();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| {
            fields
                .get(5)
                .and_then(|id| id.rsplit(':').next()?.parse().ok())
                == Some(inode)
        })
        .and_then(|fields| fields.get(4).map(|pid| (*pid).to_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A folder for a runtime directory of a test.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("sensor-run-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn an_interface_is_held_once_and_free_again_afterwards() -> Result<(), Error> {
        let directory = folder("held");
        let held = InterfaceLock::take(&directory, "lan0", 7)?;
        let mode = fs::metadata(&directory).expect("it was made").mode();
        assert_eq!(mode & 0o777, 0o700);
        let again = InterfaceLock::take(&directory, "lan0", 7).err();
        let process = std::process::id().to_string();
        assert!(
            matches!(&again, Some(Error::InterfaceInUse { holder, .. }) if *holder == process),
            "{again:?}"
        );
        let other = InterfaceLock::take(&directory, "lan1", 8)?;
        drop(held);
        InterfaceLock::take(&directory, "lan0", 7)?;
        drop(other);
        // Nothing is left but the directory, and a file of a sensor that was killed is taken over.
        assert_eq!(fs::read_dir(&directory).expect("it is there").count(), 0);
        let killed = InterfaceLock::take(&directory, "lan0", 7)?;
        let left = killed.path.clone();
        drop(killed);
        fs::write(&left, "").expect("written");
        InterfaceLock::take(&directory, "lan0", 7)?;
        fs::remove_dir_all(&directory).expect("removed");
        Ok(())
    }

    #[test]
    fn a_place_that_is_not_the_sensors_is_named() {
        let directory = folder("place");
        let said = |directory: &Path| {
            let error = make_runtime_directory(directory).expect_err("it is refused");
            error.to_string()
        };
        fs::write(&directory, "").expect("written");
        assert!(
            said(&directory).contains("it is a file of user"),
            "{}",
            said(&directory)
        );
        fs::remove_file(&directory).expect("removed");
        symlink("/tmp", &directory).expect("a link");
        assert!(said(&directory).contains("it is a symbolic link of user"));
        fs::remove_file(&directory).expect("removed");
        make_runtime_directory(&directory).expect("it is made");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).expect("changed");
        assert!(said(&directory).contains("other users may write to it"));
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("changed");
        make_runtime_directory(&directory).expect("it can be used");
        if geteuid().is_root() {
            std::os::unix::fs::chown(&directory, Some(65_534), None).expect("given away");
            assert!(said(&directory).contains("it belongs to user 65534"));
        }
        fs::remove_dir_all(&directory).expect("removed");
    }
}
