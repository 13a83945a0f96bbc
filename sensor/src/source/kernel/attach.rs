//! Programs on interfaces: the best hook there is, pinned, so that it outlives the daemon.

use std::{
    ffi::CString,
    fs, io,
    mem::offset_of,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use aya::{
    Ebpf,
    maps::{HashMap as KernelHashMap, MapData},
    programs::{
        ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
        xdp::XdpLink,
    },
    sys::SyscallError,
};
use sensor_ebpf::{books::InterfaceRecord, flow::Direction};

use super::{
    Error,
    books::{Books, are_there, text},
    load::{PINNED, load_program, pinned, program},
    lock::{InterfaceLock, TablesLock},
    preflight, readers,
};
use crate::{
    config::{Config, HookChoice, Interface},
    model::Hook,
};

/// Where our filters stand on kernels without tcx: early, with a handle by which the next start
/// finds them.
const PRIORITY: u16 = 94;
const HANDLE: TcHandle = TcHandle::new(0, 94);

/// The longest name of an interface (linux/if.h, IFNAMSIZ less the closing zero).
const NAME_CAPACITY: usize = 15;

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
    _lock: InterfaceLock,
}

/// The number of an interface in this process's network namespace.
///
/// # Errors
///
/// When there is none of that name.
pub fn ifindex(interface: &str) -> Result<u32, Error> {
    let missing = || Error::NoInterface {
        interface: interface.to_owned(),
    };
    let name = CString::new(interface).map_err(|_| missing())?;
    // SAFETY: the name is a string that ends with a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(missing()),
        index => Ok(index),
    }
}

/// Whether another sensor has the tables or one of the interfaces; asked before anything is touched.
///
/// # Errors
///
/// Who it is.
pub fn available(config: &Config) -> Result<(), Error> {
    for interface in &config.interfaces {
        InterfaceLock::take(&interface.name)?;
    }
    if config.daemon.pin_directory.is_dir() {
        TablesLock::take(&config.daemon.pin_directory)?;
    }
    Ok(())
}

pub(super) fn attach(
    programs: &mut Ebpf,
    books: &Books,
    directory: &Path,
    interface: &Interface,
) -> Result<Attached, Error> {
    let index = ifindex(&interface.name)?;
    let lock = InterfaceLock::take(&interface.name)?;
    let number = record_number(books, &interface.name)?;
    // Before the first packet: the programs book to the record.
    let mut numbers: KernelHashMap<MapData, u32, u32> =
        KernelHashMap::try_from(pinned(directory, "INTERFACE_INDEX")?).map_err(|source| {
            Error::Map {
                map: "INTERFACE_INDEX",
                source,
            }
        })?;
    let before = books.interfaces.read(number).ifindex;
    if before != index {
        let _ = numbers.remove(&before);
        remove_links(directory, &interface.name);
    }
    numbers
        .insert(index, number, 0)
        .map_err(|source| Error::Map {
            map: "INTERFACE_INDEX",
            source,
        })?;
    books
        .interfaces
        .half(number, offset_of!(InterfaceRecord, ifindex))
        .store(index, Ordering::Release);

    let place = Place {
        name: &interface.name,
        index,
        directory,
    };
    let upload = place.upload(
        programs,
        interface.hook,
        hook_of(books, number, Direction::Upload),
    )?;
    let download = place.tc(programs, "download", Direction::Download)?;
    set_hooks(books, number, upload, download);
    Ok(Attached {
        interface: interface.name.clone(),
        ifindex: index,
        upload,
        download,
        _lock: lock,
    })
}

/// Notes that an interface went away. The kernel has detached what was on it.
pub(super) fn forget(books: &Books, directory: &Path, interface: &str) {
    remove_links(directory, interface);
    if let Some((number, _)) = books
        .interface_records()
        .find(|(_, record)| text(&record.name) == interface)
    {
        set_hooks(books, number, Hook::None, Hook::None);
    }
}

/// Takes our programs off the interfaces of an earlier start that are not in the configuration, and
/// notes of those that are gone that they have none.
pub(super) fn tidy(books: &Books, directory: &Path, config: &Config) {
    for (_, record) in books.interface_records() {
        let name = text(&record.name);
        let wanted = config
            .interfaces
            .iter()
            .any(|interface| interface.name == name);
        if !wanted {
            let [upload, download] = record.hooks.map(Hook::from_number);
            remove_filters(&name, upload, download);
        }
        if !wanted || ifindex(&name).is_err() {
            forget(books, directory, &name);
        }
    }
    readers::sweep(directory);
}

/// Takes our programs off an interface. What was counted there stays in the books.
pub(super) fn detach(books: &Books, directory: &Path, attached: &Attached) {
    remove_filters(&attached.interface, attached.upload, attached.download);
    forget(books, directory, &attached.interface);
}

/// The number of an interface's record, given once and kept over every absence.
fn record_number(books: &Books, interface: &str) -> Result<u32, Error> {
    if let Some((number, _)) = books
        .interface_records()
        .find(|(_, record)| text(&record.name) == interface)
    {
        return Ok(number);
    }
    let limit = books.interfaces.len();
    let number = (0..limit)
        .find(|number| books.interfaces.read(*number).name[0] == 0)
        .ok_or(Error::TooManyInterfaces { limit })?;
    let mut name = [0; 16];
    let octets = &interface.as_bytes()[..interface.len().min(NAME_CAPACITY)];
    name[..octets.len()].copy_from_slice(octets);
    for (word, octets) in name.as_chunks::<8>().0.iter().enumerate().rev() {
        // The first octet last: it says that the record is taken.
        books
            .interfaces
            .word(number, offset_of!(InterfaceRecord, name) + word * 8)
            .store(u64::from_ne_bytes(*octets), Ordering::Release);
    }
    Ok(number)
}

fn set_hooks(books: &Books, number: u32, upload: Hook, download: Hook) {
    let hooks = u32::from(upload.number()) | u32::from(download.number()) << 16;
    books
        .interfaces
        .half(number, offset_of!(InterfaceRecord, hooks))
        .store(hooks, Ordering::Release);
}

fn hook_of(books: &Books, number: u32, direction: Direction) -> Hook {
    Hook::from_number(books.interfaces.read(number).hooks[direction as usize])
}

/// An interface that programs are put on.
struct Place<'a> {
    name: &'a str,
    index: u32,
    directory: &'a Path,
}

impl Place<'_> {
    /// Attaches the upload program where the configuration wants it.
    ///
    /// `auto` is XDP in the driver, else TC. XDP in the stack comes after GRO has merged frames
    /// and cannot tell how many they were (net/core/dev.c, `do_xdp_generic`); TC can.
    fn upload(&self, programs: &mut Ebpf, wanted: HookChoice, before: Hook) -> Result<Hook, Error> {
        match wanted {
            HookChoice::XdpNative => self.xdp(programs, Hook::XdpNative, before),
            HookChoice::XdpGeneric => self.xdp(programs, Hook::XdpGeneric, before),
            HookChoice::Tc => {
                // Before the old one goes: the verifier takes its time.
                loaded_tc(programs, self.directory, "upload_tc")?;
                self.remove_upload(before, Hook::Tcx);
                self.tc(programs, "upload_tc", Direction::Upload)
            }
            HookChoice::Auto => match self.xdp(programs, Hook::XdpNative, before) {
                Ok(hook) => Ok(hook),
                Err(reason) => {
                    tracing::info!(
                        "interface {}: uploads are read at TC, not at XDP: {reason}",
                        self.name
                    );
                    self.remove_upload(before, Hook::Tcx);
                    self.tc(programs, "upload_tc", Direction::Upload)
                }
            },
        }
    }

    fn xdp(&self, programs: &mut Ebpf, hook: Hook, before: Hook) -> Result<Hook, Error> {
        let pin = self.pin(Direction::Upload);
        if before == hook && self.replace_xdp(programs, &pin) {
            return Ok(hook);
        }
        let mode = match hook {
            Hook::XdpGeneric => XdpMode::Skb,
            _ => XdpMode::Driver,
        };
        // Before the old one goes: the verifier takes its time.
        let program = loaded_xdp(programs, self.directory, "upload")?;
        // Two modes of XDP exclude each other. What is at TC stays until XDP is there: where XDP is
        // not to be had, nothing was without accounting and filter.
        let at_tc = matches!(before, Hook::Tcx | Hook::Clsact);
        if !at_tc {
            self.remove_upload(before, Hook::None);
        }
        let link = match program.attach_to_if_index(self.index, mode) {
            // An MTU that needs several buffers: EINVAL, ERANGE or EOPNOTSUPP, as the driver likes.
            Err(error) if !matches!(errno(&error), Some(libc::EBUSY | libc::EEXIST)) => self
                .xdp_frags(programs, mode)
                .ok_or_else(|| self.refused(hook, &error))?,
            Err(error) => return Err(self.refused(hook, &error)),
            Ok(link) => program
                .take_link(link)
                .map_err(|error| self.refused(hook, &error))?,
        };
        if at_tc {
            self.remove_upload(before, Hook::None);
        }
        self.keep(link.try_into().ok(), &pin)?;
        Ok(hook)
    }

    fn xdp_frags(&self, programs: &mut Ebpf, mode: XdpMode) -> Option<XdpLink> {
        let program = loaded_xdp(programs, self.directory, "upload_frags").ok()?;
        let link = program.attach_to_if_index(self.index, mode).ok()?;
        program.take_link(link).ok()
    }

    /// Puts the new program in the place of the old one without a gap.
    fn replace_xdp(&self, programs: &mut Ebpf, pin: &Path) -> bool {
        for name in ["upload", "upload_frags"] {
            let Some(link) = pinned_link(pin).and_then(|link| XdpLink::try_from(link).ok()) else {
                return false;
            };
            let Ok(program) = loaded_xdp(programs, self.directory, name) else {
                continue;
            };
            if let Ok(link) = program.attach_to_link(link) {
                // The pin holds the link; ours must not end it.
                if let Ok(link) = program.take_link(link) {
                    std::mem::forget(FdLink::try_from(link));
                }
                return true;
            }
        }
        false
    }

    fn tc(
        &self,
        programs: &mut Ebpf,
        name: &'static str,
        direction: Direction,
    ) -> Result<Hook, Error> {
        let attach_type = match direction {
            Direction::Upload => TcAttachType::Ingress,
            Direction::Download => TcAttachType::Egress,
        };
        let pin = self.pin(direction);
        let program = loaded_tc(programs, self.directory, name)?;
        if let Some(link) =
            pinned_link(&pin).and_then(|link| SchedClassifierLink::try_from(link).ok())
            && let Ok(link) = program.attach_to_link(link)
        {
            if let Ok(link) = program.take_link(link) {
                std::mem::forget(FdLink::try_from(link));
            }
            return Ok(Hook::Tcx);
        }
        end_link(&pin);
        let tcx = TcAttachOptions::TcxOrder(aya::programs::LinkOrder::default());
        match program.attach_with_options(self.name, attach_type, tcx) {
            Ok(link) => {
                let link = program
                    .take_link(link)
                    .map_err(|error| self.refused(Hook::Tcx, &error))?;
                self.keep(link.try_into().ok(), &pin)?;
                Ok(Hook::Tcx)
            }
            // Older than 6.6: no tcx.
            Err(_) => self.clsact(program, attach_type),
        }
    }

    fn clsact(
        &self,
        program: &mut SchedClassifier,
        attach_type: TcAttachType,
    ) -> Result<Hook, Error> {
        // It is there already where somebody else, or an earlier start, made it.
        let _ = qdisc_add_clsact(self.name);
        // A filter at our place is an earlier start's: the kernel replaces it in one step.
        let replaced =
            SchedClassifierLink::attached(self.name, attach_type, PRIORITY, HANDLE, None)
                .ok()
                .and_then(|link| program.attach_to_link(link).ok());
        let link = match replaced {
            Some(link) => link,
            None => {
                let options = TcAttachOptions::Netlink(NlOptions {
                    priority: PRIORITY,
                    handle: HANDLE,
                    ..NlOptions::default()
                });
                program
                    .attach_with_options(self.name, attach_type, options)
                    .map_err(|error| self.refused(Hook::Clsact, &error))?
            }
        };
        let link = program
            .take_link(link)
            .map_err(|error| self.refused(Hook::Clsact, &error))?;
        // A filter stays until it is removed; dropping the link would remove it.
        std::mem::forget(link);
        Ok(Hook::Clsact)
    }

    /// Removes the upload program of an earlier start from where it is not wanted any more.
    fn remove_upload(&self, before: Hook, wanted: Hook) {
        if before != wanted {
            end_link(&self.pin(Direction::Upload));
        }
        if before == Hook::Clsact && wanted == Hook::None {
            remove_filter(self.name, TcAttachType::Ingress);
        }
    }

    /// Pins a link, so that it stays when the daemon goes.
    fn keep(&self, link: Option<FdLink>, pin: &Path) -> Result<(), Error> {
        let link = link.ok_or_else(|| Error::Hook {
            interface: self.name.to_owned(),
            hook: "a BPF link",
            reason: "this kernel attaches without one (older than 5.9)".to_owned(),
        })?;
        link.pin(pin)
            .map(drop)
            .map_err(|error| Error::PinDirectory {
                path: pin.to_owned(),
                source: io::Error::other(error),
            })
    }

    fn pin(&self, direction: Direction) -> PathBuf {
        link_pin(self.directory, self.name, direction)
    }

    fn refused(&self, hook: Hook, error: &ProgramError) -> Error {
        // EEXIST where it was attached in another mode, or without a link.
        if matches!(errno(error), Some(libc::EBUSY | libc::EEXIST)) {
            return Error::ForeignXdp {
                interface: self.name.to_owned(),
            };
        }
        Error::Hook {
            interface: self.name.to_owned(),
            hook: hook.name(),
            reason: super::chain(error),
        }
    }
}

/// An XDP program, loaded when it is first wanted, and its reader before it: the verifier takes its time
/// for each.
fn loaded_xdp<'a>(
    programs: &'a mut Ebpf,
    directory: &Path,
    name: &'static str,
) -> Result<&'a mut Xdp, Error> {
    readers::put(programs, Some(directory), name)?;
    let program: &mut Xdp = program(programs, name);
    if program.fd().is_err() {
        load_program(program.load(), name)?;
    }
    Ok(program)
}

/// A TC program, loaded when it is first wanted, and its reader before it.
fn loaded_tc<'a>(
    programs: &'a mut Ebpf,
    directory: &Path,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, Error> {
    readers::put(programs, Some(directory), name)?;
    let program: &mut SchedClassifier = program(programs, name);
    if program.fd().is_err() {
        load_program(program.load(), name)?;
    }
    Ok(program)
}

fn link_pin(directory: &Path, interface: &str, direction: Direction) -> PathBuf {
    // No name of an interface has a dot-free form that could collide: it is the whole suffix.
    directory.join(format!("link-{}-{interface}", direction.name()))
}

fn pinned_link(pin: &Path) -> Option<FdLink> {
    PinnedLink::from_pin(pin).ok().map(FdLink::from)
}

/// Takes the program of a pinned link off its interface, now, and removes the pin.
///
/// Without a pin the link would end as well, but some time later (`bpf_link_put` defers it), and
/// the interface would still be taken when the next program comes. `BPF_LINK_DETACH` is in Linux
/// since 5.9; aya does not have it.
fn end_link(pin: &Path) {
    const BPF_OBJ_GET: libc::c_int = 7;
    const BPF_LINK_DETACH: libc::c_int = 34;
    /// The part of `union bpf_attr` that opens a pin.
    #[repr(C)]
    struct ObjectGet {
        path: u64,
        fd: u32,
        flags: u32,
    }

    let Ok(path) = CString::new(pin.as_os_str().as_bytes()) else {
        return;
    };
    let get = ObjectGet {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the attribute lives as long as the call, and so does the path that it points to.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw const get,
            size_of_val(&get),
        )
    };
    if fd >= 0 {
        // SAFETY: the descriptor is new and nobody else's.
        let link = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let detach = link.as_raw_fd() as u32;
        // SAFETY: the attribute is the descriptor alone, and lives as long as the call. A link
        // whose interface is gone is refused, and has ended already.
        unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_LINK_DETACH,
                &raw const detach,
                size_of_val(&detach),
            )
        };
    }
    let _ = fs::remove_file(pin);
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
        _ => None,
    }
}

/// Removes the filters that no pin holds.
fn remove_filters(interface: &str, upload: Hook, download: Hook) {
    if upload == Hook::Clsact {
        remove_filter(interface, TcAttachType::Ingress);
    }
    if download == Hook::Clsact {
        remove_filter(interface, TcAttachType::Egress);
    }
}

fn remove_filter(interface: &str, attach_type: TcAttachType) {
    if let Ok(link) = SchedClassifierLink::attached(interface, attach_type, PRIORITY, HANDLE, None)
    {
        // Dropping the link removes the filter.
        drop(link);
    }
}

fn remove_links(directory: &Path, interface: &str) {
    for direction in Direction::ALL {
        end_link(&link_pin(directory, interface, direction));
    }
}

/// Removes every pin of ours. Links without a pin end, and their programs with them.
pub(super) fn remove_pins(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("link-") {
            end_link(&entry.path());
        } else if PINNED.contains(&name.as_ref()) || readers::is_pin(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
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
    if let Ok(books) = Books::open(directory, super::table::Access::Read) {
        for (_, record) in books.interface_records() {
            let name = text(&record.name);
            let [upload, download] = record.hooks.map(Hook::from_number);
            remove_filters(&name, upload, download);
        }
    }
    let refused = |source| Error::PinDirectory {
        path: directory.to_owned(),
        source,
    };
    remove_pins(directory).map_err(refused)?;
    match fs::remove_dir(directory) {
        // It holds something of somebody else's, or is a mount point: it may stay.
        Ok(()) | Err(_) => Ok(()),
    }
}
