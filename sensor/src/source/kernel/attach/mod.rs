//! Programs on interfaces: those that are wanted, those that the kernel has, and the changes from one to
//! the other.
//!
//! `target` says which programs are wanted where · `watch` looks at all interfaces, `fill` at one · `seat`
//! is one program on one interface, and whether it still is there · `place`, `xdp` and `tc` put it there ·
//! `records` are the records of interfaces that it counts in · `ports` tells programs at bridges' ports
//! about addresses and ports. Facts that the kernel can be asked are not remembered here.

mod fill;
mod place;
mod ports;
mod records;
mod seat;
mod target;
mod tc;
mod watch;
mod xdp;

use std::{ffi::CString, fs, io, path::Path};

use aya::Ebpf;
use sensor_ebpf::books::Way;

use super::{
    Error,
    books::{Books, are_there},
    calls::Cause,
    links::Links,
    lock::{InterfaceLock, TablesLock, make_runtime_directory},
    netlink::Netlink,
    pins, preflight,
};
use crate::{
    config::{Config, HookChoice},
    model::Hook,
};
use place::{Place, sweep_filters};
use seat::{Role, Seat};

pub use target::counted_twice;
pub(super) use watch::Attachments;

/// The number of an interface in this process's network namespace.
///
/// # Errors
///
/// [`Error::NoInterface`] when there is none of that name; any other when it cannot be known.
pub fn ifindex(interface: &str) -> Result<u32, Error> {
    let missing = || Error::NoInterface {
        interface: interface.to_owned(),
    };
    let name = CString::new(interface).map_err(|_| missing())?;
    // SAFETY: the name is a string that ends with a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => {
            let source = io::Error::last_os_error();
            match Cause::of(&source) {
                Cause::NoInterface => Err(missing()),
                _ => Err(Error::System {
                    what: "the interface cannot be looked up",
                    source,
                }),
            }
        }
        index => Ok(index),
    }
}

/// Checks that no other sensor has the tables or one of the interfaces, before anything is touched.
///
/// # Errors
///
/// Another sensor has one of them, the process has too little privilege, or the runtime directory cannot be
/// used; the error says which.
pub fn available(config: &Config) -> Result<(), Error> {
    preflight::privilege()?;
    let directory = &config.daemon.runtime_directory;
    make_runtime_directory(directory)?;
    for interface in &config.interfaces {
        match ifindex(&interface.name) {
            Ok(index) => drop(InterfaceLock::take(directory, &interface.name, index)?),
            // It may come later.
            Err(Error::NoInterface { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if config.daemon.pin_directory.is_dir() {
        TablesLock::take(&config.daemon.pin_directory)?;
    }
    Ok(())
}

/// An interface with programs on it.
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// The kernel's number of it.
    pub ifindex: u32,
    /// Where the upload program sits.
    pub upload: Hook,
    /// Where the download program sits.
    pub download: Hook,
    /// Its driver, where that tells its name.
    pub driver: Option<String>,
    /// Notes about it for people: the programs that stand before the sensor's.
    pub notes: Vec<String>,
    /// Of its record; a bridge whose ports are watched has none.
    number: Option<u32>,
    choice: HookChoice,
    /// How XDP answers the packets that it refuses.
    way: Way,
    seats: Vec<Seat>,
    /// Why programs are missing that were there, until they are put back.
    missing: Vec<(Role, String)>,
    /// Whether every program that is wanted is there.
    complete: bool,
    _lock: InterfaceLock,
}

impl Attached {
    fn seat(&self, role: Role) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.role == role)
    }

    fn hook(&self, role: Role) -> Hook {
        self.seat(role).map_or(Hook::None, |seat| seat.hook)
    }

    /// Notes a new program in the place of the one that was there and of one that is `gone`, and gives its
    /// place among all. Their links end.
    fn put(&mut self, seat: Seat, gone: Option<Seat>) -> usize {
        for old in [gone, self.take(seat.role)].into_iter().flatten() {
            old.make_room_for(&seat);
        }
        self.seats.push(seat);
        self.seats.len() - 1
    }

    /// Notes why a program is missing.
    fn note_missing(&mut self, role: Role, reason: String) {
        self.missing.retain(|(other, _)| *other != role);
        self.missing.push((role, reason));
    }

    fn take(&mut self, role: Role) -> Option<Seat> {
        let at = self.seats.iter().position(|seat| seat.role == role)?;
        Some(self.seats.swap_remove(at))
    }
}

/// Why a bond has no program at XDP in the driver: `xdp_md.ingress_ifindex` is the member's there
/// (drivers/net/bonding, `bond_xdp_set`).
const AT_MEMBERS: &str = "a bond runs XDP programs in the drivers of its members, where a frame does not \
                          say that it is the bond's";

/// The means to attach programs: the object, the tables, and the directories of the pins and of the locks.
pub(super) struct Means<'a> {
    pub(super) runtime_directory: &'a Path,
    pub(super) object: &'a mut Ebpf,
    pub(super) books: &'a Books,
    pub(super) directory: &'a Path,
}

/// Removes programs, tables and pins: everything the sensor ever put into the kernel.
///
/// # Errors
///
/// When no sensor has its tables there, when one is running, or when a pin cannot be removed.
pub fn unload(directory: &Path) -> Result<(), Error> {
    are_there(directory)?;
    preflight::privilege()?;
    let _lock = TablesLock::take(directory).map_err(Error::or_privilege)?;
    let refused = |source| Error::System {
        what: "the interfaces cannot be listed",
        source,
    };
    let mut netlink = Netlink::route().map_err(refused)?;
    let links = Links::read(&mut netlink).map_err(refused)?;
    if let Ok(books) = Books::open(directory, super::table::Access::Read) {
        for (_, record) in books.interface_records() {
            if record.hooks.contains(&Hook::Clsact.number()) {
                sweep_filters(&mut netlink, &links, &record, |_| true);
            }
        }
    }
    let refused = |source| Error::PinDirectory {
        path: directory.to_owned(),
        source,
    };
    pins::remove_all(directory).map_err(refused)?;
    match fs::remove_dir(directory) {
        // The directory may stay where it holds files that are not the sensor's, or is a mount point.
        Ok(()) | Err(_) => Ok(()),
    }
}
