//! The socket's file: where it is, who may have made it, and who is at the other end.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, MetadataExt as _},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::socket_peercred,
    },
    process::geteuid,
};
use tokio::net::UnixListener;

/// The most bytes that the path of a socket can have (`unix(7)`).
const LONGEST_PATH: usize = 107;

/// The place of a daemon's socket.
#[derive(Clone, Debug)]
pub struct Place {
    file: PathBuf,
    pin_directory: PathBuf,
}

impl Place {
    /// The place of the daemon with these directories. The file's name has the hash (FNV-1a, 64 bits) of the
    /// pin directory's path, so that daemons with tables of their own share a runtime directory.
    pub fn new(runtime_directory: &Path, pin_directory: &Path) -> Self {
        let path = pin_directory.as_os_str().as_bytes();
        let hash = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            file: runtime_directory.join(format!("control-{hash:016x}.sock")),
            pin_directory: pin_directory.to_owned(),
        }
    }

    /// The socket's file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The pin directory of the daemon.
    pub(super) fn pin_directory(&self) -> &Path {
        &self.pin_directory
    }
}

/// The socket that a daemon listens on. Its file goes with it.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    file: PathBuf,
    /// Device and inode of the file.
    identity: (u64, u64),
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A file that somebody else put there stays.
        if identity(&self.file).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.file);
        }
    }
}

fn identity(file: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(file)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Listens for requests. The socket of a daemon that has ended is replaced.
///
/// # Errors
///
/// Another process listens there, something else has the place, or the path is too long for a socket.
pub fn bind(place: &Place) -> anyhow::Result<Listener> {
    bind_file(place).with_context(|| {
        format!(
            "`sensor devices`, `flows` and `status` will show no names, `explain` not what is in force, and \
             `block`, `allow` and `forget` will not work: the daemon has no socket for requests about {}",
            place.pin_directory.display()
        )
    })
}

fn bind_file(place: &Place) -> anyhow::Result<Listener> {
    let file = place.file.as_path();
    anyhow::ensure!(
        file.as_os_str().len() <= LONGEST_PATH,
        "{} is longer than the {LONGEST_PATH} bytes that a socket's path can have: set a shorter \
         daemon.runtime_directory",
        file.display()
    );
    make_room(file)?;
    let socket =
        StdListener::bind(file).with_context(|| format!("{} cannot be made", file.display()))?;
    socket.set_nonblocking(true)?;
    Ok(Listener {
        socket: UnixListener::from_std(socket)?,
        file: file.to_owned(),
        identity: identity(file)?,
    })
}

/// Removes the socket of a daemon that has ended.
fn make_room(file: &Path) -> anyhow::Result<()> {
    let metadata = match fs::symlink_metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("{} cannot be looked at", file.display()));
        }
    };
    let kind = metadata.file_type();
    if !kind.is_socket() || metadata.uid() != geteuid().as_raw() {
        let what = match kind {
            kind if kind.is_dir() => "a directory",
            kind if kind.is_symlink() => "a symbolic link",
            kind if kind.is_socket() => "a socket",
            _ => "a file",
        };
        anyhow::bail!(
            "{} is {what} of user {}, and no socket of this daemon: remove it, and start the sensor again",
            file.display(),
            metadata.uid()
        );
    }
    anyhow::ensure!(
        !is_listened_at(file),
        "another process listens at {} (`ss -xlp` names it): end it, and start the sensor again; a daemon with \
         other tables has a daemon.pin_directory of its own",
        file.display()
    );
    fs::remove_file(file).with_context(|| format!("{} cannot be removed", file.display()))
}

/// Whether a process listens at a socket. It never waits.
fn is_listened_at(file: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connected = SocketAddrUnix::new(file).and_then(|address| {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address)
    });
    // EAGAIN: more clients wait there than the queue has room for.
    matches!(connected, Ok(()) | Err(Errno::AGAIN))
}

/// Whether the user at the other end may send requests, or may be believed, and who that is.
pub(super) fn trusted_user(socket: impl AsFd) -> Option<u32> {
    let peer = socket_peercred(socket).ok()?;
    (peer.uid.is_root() || peer.uid == geteuid()).then(|| peer.uid.as_raw())
}
