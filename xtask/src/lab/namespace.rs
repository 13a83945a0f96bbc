//! A host's world of its own: a network namespace, and a mount namespace for the files that differ from the
//! machine's.
//!
//! Neither has a name anywhere. The kernel takes them away with the last process and the last
//! descriptor that hold them, with every interface, filter and pinned map in them: a lab leaves
//! nothing behind, however its process ends. (`ip netns exec` is no way in: it mounts a /sys of its
//! own, which hides what is mounted below the old one.)

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, anyhow};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    process::{Signal, getpid, getppid, set_parent_process_death_signal},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// The mounts of a host where the machine has something else.
#[derive(Clone, Debug)]
pub(crate) enum Mount {
    /// A file in the place of another.
    File {
        /// The file.
        source: PathBuf,
        /// The file that it hides.
        target: PathBuf,
    },
    /// A BPF file system, on a folder that exists.
    Bpf(PathBuf),
}

/// A network namespace and a mount namespace.
#[derive(Clone, Debug)]
pub(crate) struct Namespaces {
    net: Arc<OwnedFd>,
    mount: Arc<OwnedFd>,
}

impl Namespaces {
    /// Makes both, with `mounts` in place.
    pub(crate) fn new(mounts: Vec<Mount>) -> Result<Self> {
        // A thread, because it changes worlds and cannot come back.
        thread::spawn(move || Self::unshare(&mounts))
            .join()
            .map_err(|_| anyhow!("the thread that makes a namespace panicked"))?
    }

    fn unshare(mounts: &[Mount]) -> Result<Self> {
        let flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
        // SAFETY: namespaces are a thread's own, as is what NEWNS implies (root and working
        // folder); this thread shares no descriptor table anew and ends with this function.
        unsafe { unshare_unsafe(flags) }
            .context("no namespaces for the lab: it takes root (CAP_SYS_ADMIN)")?;
        // Mounts made here must not appear in the machine's own tree.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).context("cannot keep the lab's mounts to itself")?;
        for one in mounts {
            match one {
                Mount::File { source, target } => mount_bind(source, target),
                Mount::Bpf(folder) => mount("bpf", folder, "bpf", MountFlags::empty(), None),
            }
            .with_context(|| format!("cannot mount {one:?}"))?;
        }
        let open = |name| {
            File::open(Path::new("/proc/thread-self/ns").join(name))
                .map(|file| Arc::new(file.into()))
                .with_context(|| format!("cannot hold the lab's {name} namespace"))
        };
        Ok(Self {
            net: open("net")?,
            mount: open("mnt")?,
        })
    }

    /// The namespaces that another process holds under these descriptors.
    pub(crate) fn of(process: u32, descriptors: [i32; 2]) -> Result<Self> {
        let open = |descriptor: i32| {
            let path = format!("/proc/{process}/fd/{descriptor}");
            File::open(&path)
                .map(|file| Arc::new(file.into()))
                .with_context(|| format!("cannot open {path}: has the lab ended?"))
        };
        Ok(Self {
            net: open(descriptors[0])?,
            mount: open(descriptors[1])?,
        })
    }

    /// The numbers of the descriptors, for [`of`](Self::of).
    pub(crate) fn descriptors(&self) -> [i32; 2] {
        [self.net.as_raw_fd(), self.mount.as_raw_fd()]
    }

    /// The command, to be run in these namespaces, ended by the kernel with the thread that
    /// starts it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let here = CString::new(here.as_os_str().as_bytes()).unwrap_or_default();
        let namespaces = self.clone();
        let parent = getpid();
        let enter = move || -> io::Result<()> {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(parent) {
                // The process that started this one has ended before the signal was set.
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            namespaces.move_into_net()?;
            let mount = namespaces.mount.as_fd();
            move_into_link_name_space(mount, Some(LinkNameSpaceType::Mount))?;
            // The move set the working folder to the new root.
            rustix::process::chdir(here.as_c_str())?;
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made; nothing allocates or locks.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `work` on a thread in the network namespace. Sockets made there stay there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| self.move_into_net().map(|()| work()));
            match inside.join() {
                Ok(result) => result.context("cannot enter a host of the lab"),
                // A panic is the caller's: an assertion inside a host fails the test outside.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn move_into_net(&self) -> io::Result<()> {
        move_into_link_name_space(self.net.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }
}
