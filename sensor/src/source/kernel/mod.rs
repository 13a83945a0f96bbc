//! The kernel's side: the only module that names `aya`.
//!
//! `load` makes or adopts the maps · `pins` keeps them and the links · `attach` puts programs on interfaces
//! and sees that they stay · `links` lists the interfaces, and tells when they come and go, `driver` tells
//! of their drivers, `flowtables` of traffic that goes past them · `netlink` and `calls` ask the kernel ·
//! `books` reads the tables, `flows` that of the flows · `readers` puts the programs that read payloads
//! behind the others · `reap` takes the last counts of idle flows · `policy` is the one place that writes
//! policy down · `ring` drains samples, `pieces` puts them together · `verdicts` writes those on names ·
//! `clock` tells jiffies from time, and whether the time is known · `lock` keeps a second instance out ·
//! `run` runs the programs over frames of a capture · `failed` counts calls about maps that failed,
//! `faults` has them fail in tests · `preflight` tells in a sentence what the system lacks.

mod attach;
mod books;
mod calls;
mod clock;
mod driver;
pub mod failed;
#[cfg(test)]
pub(crate) mod faults;
mod flows;
mod flowtables;
mod links;
mod load;
mod lock;
mod netlink;
mod pieces;
mod pins;
mod policy;
pub mod preflight;
mod readers;
mod reap;
mod ring;
mod routes;
mod run;
mod shares;
mod table;
mod verdicts;

use std::{io, path::PathBuf};

use aya::maps::MapError;

use crate::causes::in_one_line;

pub use attach::{Attached, available, counted_twice, ifindex, unload};
pub use books::{Books, FlowLine};
pub use clock::is_synchronised;
pub use driver::driver;
pub use links::{Link, LinkChanges, Links, own_addresses};
pub use load::Kernel;
pub use policy::{DeviceRules, Installed};
pub use ring::{Messages, Samples};
pub use routes::default_routes;
pub use run::{LONGEST, ONE_PAGE, Runner, enter_own_namespace};
pub use verdicts::Verdicts;

/// Errors between the daemon and the kernel. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing can be pinned there.
    #[error(
        "{} is not on a BPF file system: mount one (`mount -t bpf bpf {}`) or set \
         daemon.pin_directory to a directory on one", path.display(), mount.display()
    )]
    NoBpffs {
        /// The pin directory.
        path: PathBuf,
        /// Where a mount would help.
        mount: PathBuf,
    },
    /// The pin directory cannot be made or read.
    #[error("the pin directory {} cannot be used: {source}{}", path.display(), advice(source))]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing is pinned there.
    #[error(
        "no sensor has its tables at {}: start one (`sensor run`), or name its configuration \
         with --config", path.display()
    )]
    NotRunning {
        /// The pin directory.
        path: PathBuf,
    },
    /// Too little privilege.
    #[error(
        "too little privilege for BPF ({missing}): run as root, or give the process CAP_BPF, \
         CAP_NET_ADMIN and CAP_PERFMON"
    )]
    Privilege {
        /// The missing privilege.
        missing: String,
    },
    /// Kernel too old.
    #[error("this kernel is {found}; the sensor needs Linux 6.1 or newer")]
    KernelTooOld {
        /// Its release.
        found: String,
    },
    /// Another order of bytes.
    #[error("this machine is big-endian; the sensor runs on little-endian ones only")]
    BigEndian,
    /// Another sensor has the pin directory.
    #[error(
        "another sensor (process {holder}) uses the tables at {}: stop it first, or give this one \
         a daemon.pin_directory of its own", path.display()
    )]
    TablesInUse {
        /// The pin directory.
        path: PathBuf,
        /// Its process.
        holder: String,
    },
    /// Another sensor watches the interface.
    #[error(
        "another sensor (process {holder}) is already on interface {interface}: two on one \
         interface would count every packet twice; stop it, or take the interface out of one of \
         the configurations"
    )]
    InterfaceInUse {
        /// The interface.
        interface: String,
        /// Its process.
        holder: String,
    },
    /// The runtime directory, or a file in it, cannot be made or used.
    #[error(
        "{} cannot be used, for the sensor's locks and its socket: {problem}; make it a directory of the \
         sensor's own, or set daemon.runtime_directory to another one", path.display()
    )]
    RuntimeDirectory {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// No interface of that name.
    #[error(
        "interface {interface} does not exist: `ip link` lists those that do; a name that comes \
         and goes is attached when it comes, if at least one other is there at the start"
    )]
    NoInterface {
        /// The interface.
        interface: String,
    },
    /// A foreign XDP program.
    #[error(
        "interface {interface} already has an XDP program that is not ours: detach it (`ip link \
         set dev {interface} xdp off`), or set hook = \"tc\" for this interface to work beside it"
    )]
    ForeignXdp {
        /// The interface.
        interface: String,
    },
    /// The wanted hook is not to be had.
    #[error(
        "interface {interface} does not take a program at {hook}: {reason}; hook = \"auto\" takes the best there is"
    )]
    Hook {
        /// The interface.
        interface: String,
        /// Which hook.
        hook: &'static str,
        /// The kernel's reason.
        reason: String,
    },
    /// A program cannot be attached, for a reason that is not the interface's.
    #[error("interface {interface}: a program cannot be attached: {source}; it is tried again")]
    Attach {
        /// The interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// The programs attached to an interface cannot be listed.
    #[error(
        "interface {interface}: what is attached to it cannot be looked at: {source}; nothing was changed"
    )]
    Look {
        /// The interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// Its ports are to be watched, and it has none.
    #[error(
        "interface {interface} is no bridge: `ports = true` is about the ports of one; leave it out to watch the interface itself"
    )]
    NoBridge {
        /// The interface.
        interface: String,
    },
    /// Too many interfaces.
    #[error(
        "the sensor is on {limit} interfaces, or flows of those that are gone are not over yet: there is room for no more; take interfaces out of the configuration, or ports off their bridge"
    )]
    TooManyInterfaces {
        /// How many.
        limit: u32,
    },
    /// The policy does not fit.
    #[error("the policy does not fit into the kernel's tables: {0}")]
    PolicyTooLarge(String),
    /// The pinned tables are of another version.
    #[error(
        "the pinned tables are of another version of the sensor: `sensor unload` removes them, and the counters start at zero"
    )]
    ForeignLayout,
    /// A map could not be mapped into memory.
    #[error("map {map} cannot be mapped into memory: {source}")]
    MapMemory {
        /// Its name.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A map refused.
    #[error("map {map} cannot be used: {}", in_one_line(source))]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// The kernel refused the object.
    #[error("the kernel refused the sensor's programs: {}", in_one_line(.0))]
    Load(#[from] aya::EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refused program {program}: {}", in_one_line(.source))]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        source: aya::programs::ProgramError,
    },
    /// A program was refused a short time ago, and is not tried again yet.
    #[error("{reason}")]
    RefusedBefore {
        /// The text of the earlier error.
        reason: String,
    },
    /// Anything else the system refused.
    #[error("{what}: {source}")]
    System {
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// Whether nothing is pinned where a table should be.
    fn is_missing(&self) -> bool {
        let Self::Map {
            source: MapError::SyscallError(error),
            ..
        } = self
        else {
            return false;
        };
        error.io_error.kind() == io::ErrorKind::NotFound
    }

    /// Whether a table has another shape than this version's. Every other error says nothing about the table.
    fn is_of_shape(&self) -> bool {
        // `ENOTSUPP` of the kernel: a map of a type that cannot be mapped into memory (kernel/bpf/syscall.c,
        // `bpf_map_mmap`). EINVAL: it was not made for that.
        const NOT_SUPPORTED: i32 = 524;
        match self {
            Self::ForeignLayout => true,
            Self::MapMemory { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::EINVAL | NOT_SUPPORTED))
            }
            Self::Map { source, .. } => matches!(
                source,
                MapError::InvalidMapType { .. }
                    | MapError::InvalidKeySize { .. }
                    | MapError::InvalidValueSize { .. }
                    | MapError::InvalidValueStride { .. }
                    | MapError::Unsupported { .. }
            ),
            _ => false,
        }
    }

    /// The same error, or that of too little privilege where that is behind it.
    fn or_privilege(self) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&self);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>()
                && error.kind() == io::ErrorKind::PermissionDenied
            {
                return Self::Privilege {
                    missing: error.to_string(),
                };
            }
            cause = error.source();
        }
        self
    }
}

/// The advice for an error at the pin directory; empty where there is none.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EROFS) => "; mount its BPF file system writable (`mount -o remount,rw`)",
        Some(libc::ENOSPC) => "; remove pins from its BPF file system that nobody needs",
        Some(libc::EMFILE) => {
            "; let the process have more descriptors (`LimitNOFILE=` of its unit)"
        }
        _ => "",
    }
}

/// The text of a field, up to the first zero where it has one.
fn text(octets: &[u8]) -> String {
    let end = octets.iter().position(|octet| *octet == 0);
    String::from_utf8_lossy(&octets[..end.unwrap_or(octets.len())]).into_owned()
}

/// Waits until every BPF program that runs now has ended.
///
/// `MEMBARRIER_CMD_GLOBAL` waits for an RCU grace period (kernel/sched/membarrier.c), and programs
/// run inside RCU read-side critical sections. It takes tens of milliseconds and no CPU.
fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes no pointer.
    let status = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    // Refused on a nohz_full kernel.
    if status != 0 || is_one_preemptible_cpu() {
        // A program runs for microseconds, this waits a million.
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

/// Whether programs can be interrupted by this process on the only CPU there is.
///
/// `membarrier` waits for nothing where one CPU is online: elsewhere a program runs there to its end
/// before any process goes on, but not under PREEMPT_RT.
fn is_one_preemptible_cpu() -> bool {
    // SAFETY: the call takes no pointer.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    let version = rustix::system::uname();
    online == 1 && version.version().to_string_lossy().contains("PREEMPT_RT")
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn only_a_table_of_another_shape_is_no_table_of_ours() {
        let opening = |number| Error::Map {
            map: "FLOW_LINES",
            source: MapError::SyscallError(SyscallError {
                call: "BPF_OBJ_GET",
                io_error: io::Error::from_raw_os_error(number),
            }),
        };
        let mapping = |number| Error::MapMemory {
            map: "FLOW_LINES",
            source: io::Error::from_raw_os_error(number),
        };
        for number in [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOMEM,
            libc::EINTR,
            libc::EPERM,
            libc::EAGAIN,
        ] {
            for error in [opening(number), mapping(number)] {
                assert!(!error.is_of_shape() && !error.is_missing(), "{error}");
            }
        }
        assert!(opening(libc::ENOENT).is_missing());
        assert!(mapping(libc::EINVAL).is_of_shape());
        assert!(Error::ForeignLayout.is_of_shape());
        let other = Error::Map {
            map: "HITS",
            source: MapError::InvalidKeySize {
                size: 8,
                expected: 16,
            },
        };
        assert!(other.is_of_shape() && !other.is_missing());
    }
}
