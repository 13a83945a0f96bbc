//! Programs on interfaces: which are wanted, what the kernel has, and what is done about the difference.
//!
//! `seat` is one program on one interface, and whether it still is there · `xdp` and `tc` put it there ·
//! `records` are where it books to. Nothing here is remembered that the kernel can be asked.

mod records;
mod seat;
mod tc;
mod xdp;

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{HashMap as KernelHashMap, Map, MapData},
    programs::{ProgramFd, SchedClassifier, Xdp},
};

use sensor_ebpf::parse::Mac;

use super::{
    Error,
    books::{Books, are_there, text},
    driver::Drivers,
    flowtables::{self, Flowtable},
    links::{Link, Links},
    load::{load_program, program},
    lock::{InterfaceLock, TablesLock},
    netlink::Netlink,
    pins::{self, pinned},
    preflight,
};
use crate::{
    config::{Config, HookChoice, Interface},
    model::Hook,
};
use seat::{Held, Role, Seat, Standing};
use tc::Side;

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
            match source.raw_os_error() {
                Some(libc::ENODEV) => Err(missing()),
                _ => Err(Error::System {
                    what: "the interface cannot be looked up",
                    source,
                }),
            }
        }
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

/// A program that was loaded: the verifier takes its time for each, so it stays loaded.
pub(super) struct Loaded {
    fd: ProgramFd,
    id: u32,
}

/// The programs of the object, each loaded when it is first wanted.
struct Programs<'a> {
    object: &'a mut Ebpf,
    loaded: &'a mut HashMap<&'static str, Arc<Loaded>>,
}

impl Programs<'_> {
    fn xdp(&mut self, name: &'static str) -> Result<Arc<Loaded>, Error> {
        self.load(name, |object| {
            let program: &mut Xdp = program(object, name);
            load_program(program.load(), name)?;
            let refused = |source| Error::Program {
                program: name,
                source,
            };
            let id = program.info().map_err(refused)?.id();
            let fd = program.fd().map_err(refused)?.try_clone();
            Ok((fd, id))
        })
    }

    fn tc(&mut self, name: &'static str) -> Result<Arc<Loaded>, Error> {
        self.load(name, |object| {
            let program: &mut SchedClassifier = program(object, name);
            load_program(program.load(), name)?;
            let refused = |source| Error::Program {
                program: name,
                source,
            };
            let id = program.info().map_err(refused)?.id();
            let fd = program.fd().map_err(refused)?.try_clone();
            Ok((fd, id))
        })
    }

    fn load(
        &mut self,
        name: &'static str,
        load: impl FnOnce(&mut Ebpf) -> Result<(io::Result<ProgramFd>, u32), Error>,
    ) -> Result<Arc<Loaded>, Error> {
        if let Some(loaded) = self.loaded.get(name) {
            return Ok(Arc::clone(loaded));
        }
        let (fd, id) = load(self.object)?;
        let fd = fd.map_err(|source| Error::System {
            what: "a program has no descriptor",
            source,
        })?;
        let loaded = Arc::new(Loaded { fd, id });
        self.loaded.insert(name, Arc::clone(&loaded));
        Ok(loaded)
    }
}

/// An interface that programs are put on, and with what.
struct Place<'a> {
    name: &'a str,
    index: u32,
    directory: &'a Path,
    programs: Programs<'a>,
    netlink: &'a mut Netlink,
}

impl Place<'_> {
    fn pin(&self, role: Role) -> PathBuf {
        pins::link(self.directory, self.name, role.name())
    }

    fn refused(&self, hook: Hook, error: &io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::ENODEV) => Error::NoInterface {
                interface: self.name.to_owned(),
            },
            // What this process or the machine lacks says nothing about the hook.
            Some(
                libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::EPERM
                | libc::EINTR
                | libc::EAGAIN,
            ) => Error::Attach {
                interface: self.name.to_owned(),
                source: io::Error::from_raw_os_error(error.raw_os_error().unwrap_or_default()),
            },
            // EEXIST where it was attached in another mode, or without a link.
            Some(libc::EBUSY | libc::EEXIST)
                if matches!(hook, Hook::XdpNative | Hook::XdpGeneric) =>
            {
                Error::ForeignXdp {
                    interface: self.name.to_owned(),
                }
            }
            _ => Error::Hook {
                interface: self.name.to_owned(),
                hook: hook.name(),
                reason: error.to_string(),
            },
        }
    }

    /// Attaches the upload program where the configuration wants it.
    ///
    /// `auto` is XDP in the driver, else TC. XDP in the stack comes after GRO has merged frames
    /// and cannot tell how many they were (net/core/dev.c, `do_xdp_generic`); TC can.
    fn seat_upload(
        &mut self,
        (choice, program): (HookChoice, &'static str),
        before: Hook,
        not_xdp: Option<String>,
    ) -> Result<Seat, Error> {
        let reason = match choice {
            HookChoice::XdpNative => return self.seat_xdp(Hook::XdpNative, before),
            HookChoice::XdpGeneric => return self.seat_xdp(Hook::XdpGeneric, before),
            HookChoice::Tc | HookChoice::Clsact => None,
            HookChoice::Auto => match not_xdp {
                Some(reason) => Some(reason),
                None => match self.seat_xdp(Hook::XdpNative, before) {
                    Ok(seat) => return Ok(seat),
                    Err(error @ (Error::ForeignXdp { .. } | Error::Hook { .. })) => {
                        Some(error.to_string())
                    }
                    Err(error) => return Err(error),
                },
            },
        };
        if let Some(reason) = reason {
            tracing::info!(
                "interface {}: uploads are read at TC, not at XDP: {reason}",
                self.name
            );
        }
        self.seat_tc(Role::Upload, program, choice == HookChoice::Clsact)
    }

    /// Takes everything off that a sensor left here, whichever start it was.
    fn sweep(&mut self) {
        for role in Role::ALL {
            pins::end_link(&self.pin(role));
        }
        sweep_filters(self.netlink, self.index);
    }
}

fn sweep_filters(netlink: &mut Netlink, index: u32) {
    for side in Side::ALL {
        let there = tc::filters(netlink, index, side).unwrap_or_default();
        for filter in there.iter().filter(|filter| filter.is_ours()) {
            let _ = tc::remove_filter(netlink, index, side, filter);
        }
    }
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
    /// What is to be known about it: who stands before the sensor's programs.
    pub notes: Vec<String>,
    /// Of its record; a bridge whose ports are watched has none.
    number: Option<u32>,
    choice: HookChoice,
    seats: Vec<Seat>,
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

    fn take(&mut self, role: Role) -> Option<Seat> {
        let at = self.seats.iter().position(|seat| seat.role == role)?;
        Some(self.seats.swap_remove(at))
    }
}

/// What programs are attached with: the object, the tables, and where things are pinned.
pub(super) struct Means<'a> {
    pub(super) object: &'a mut Ebpf,
    pub(super) books: &'a Books,
    pub(super) directory: &'a Path,
}

/// An interface that is to have programs, and how it is to have them.
struct Target<'a> {
    link: &'a Link,
    choice: HookChoice,
    part: Part,
}

/// What an interface is to the sensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Devices are behind it.
    Whole,
    /// A bridge whose ports are watched.
    Bridge,
    /// One of its ports; whether policies are about what goes from port to port.
    Port { local: bool },
}

impl Target<'_> {
    /// The program for uploads at TC.
    const fn upload(&self) -> Option<&'static str> {
        match self.part {
            Part::Whole => Some("upload_tc"),
            Part::Port { .. } => Some("upload_port"),
            Part::Bridge => None,
        }
    }

    /// The programs that are wanted beside the upload program, which sits at `_upload`: all of them at
    /// TC.
    fn beside(&self, _upload: Hook) -> Vec<(Role, &'static str)> {
        match self.part {
            Part::Whole => vec![(Role::Download, "download")],
            Part::Port { .. } => vec![(Role::Download, "download_port")],
            Part::Bridge => vec![(Role::Number, "number")],
        }
    }
}

/// The interfaces that are to have programs, of those that are there.
fn targets<'a>(wanted: &[Interface], links: &'a Links) -> Vec<Target<'a>> {
    let mut targets = Vec::new();
    for interface in wanted {
        let Some(link) = links.named(&interface.name) else {
            continue;
        };
        if !interface.ports {
            targets.push(Target {
                link,
                choice: interface.hook,
                part: Part::Whole,
            });
            continue;
        }
        if link.kind != BRIDGE {
            continue;
        }
        // What stays in the bridge is told from what does not behind GRO, at TC alone.
        let choice = match interface.hook {
            HookChoice::Clsact => HookChoice::Clsact,
            _ => HookChoice::Tc,
        };
        let is_own = |port: &&Link| !wanted.iter().any(|other| other.name == port.name);
        let part = Part::Port {
            local: interface.local,
        };
        // The frames have their numbers before the ports see them.
        let bridge = Target {
            link,
            choice,
            part: Part::Bridge,
        };
        targets.push(bridge);
        targets.extend(links.members(link.index).filter(is_own).map(|link| Target {
            link,
            choice,
            part,
        }));
    }
    targets
}

/// What [`Link::kind`] is of a bridge.
const BRIDGE: &str = "bridge";

/// The pairs of watched interfaces that see the same frames, and why.
pub fn counted_twice(wanted: &[Interface], links: &Links) -> Vec<String> {
    let targets = targets(wanted, links);
    let mut names: Vec<_> = targets
        .iter()
        .filter(|target| target.part != Part::Bridge)
        .map(|target| target.link.name.as_str())
        .collect();
    // A port that is named itself is seen to as such: it is a port of the other one all the same.
    names.dedup();
    let mut pairs = Vec::new();
    for upper in &names {
        for lower in &names {
            if upper != lower
                && let Some(relation) = links.relation(upper, lower)
            {
                pairs.push(format!(
                    "frames of {lower} are counted at {upper} again: {relation}"
                ));
            }
        }
    }
    let bridges = wanted.iter().filter(|interface| interface.ports);
    for bridge in bridges {
        for own in wanted.iter().filter(|own| own.name != bridge.name) {
            let Some(link) = links.named(&bridge.name) else {
                continue;
            };
            if links.members(link.index).any(|port| port.name == own.name) {
                pairs.push(format!(
                    "{} is a port of {}, which is watched with all its ports",
                    own.name, bridge.name
                ));
            }
        }
    }
    pairs
}

/// The flowtables there were when it was last looked.
#[derive(Default)]
struct Flowtables {
    found: Vec<Flowtable>,
    looks: u32,
    /// Whether the kernel has no nftables, as far as is known.
    without: bool,
}

impl Flowtables {
    /// How many looks at interfaces there are for one at flowtables.
    const EVERY: u32 = 10;

    /// Looks, now and then. A kernel that knows no nftables tries to load them whenever it is asked:
    /// it is not asked again before the interfaces have changed.
    fn look(&mut self, has_changed: bool) {
        self.looks += 1;
        let is_time = self.looks % Self::EVERY == 1 && !self.without;
        if !is_time && !has_changed {
            return;
        }
        match flowtables::list() {
            Ok(found) => (self.found, self.without) = (found, false),
            Err(_) => self.without = true,
        }
    }
}

/// All interfaces with programs.
pub(super) struct Attachments {
    attached: Vec<Attached>,
    loaded: HashMap<&'static str, Arc<Loaded>>,
    netlink: Netlink,
    drivers: Drivers,
    /// What was said last about what cannot be had, by interface, and under no name of the looking
    /// itself.
    said: HashMap<String, String>,
    whole: bool,
    /// The interfaces as they were when it was last looked for frames that are counted twice.
    weighed: Links,
    flowtables: Flowtables,
    /// What the programs at bridges' ports were told: the machine's own addresses, and the ports.
    own: HashSet<[u8; 6]>,
    ports: HashMap<u32, bool>,
}

impl Attachments {
    /// # Errors
    ///
    /// When the kernel refuses a socket.
    pub(super) fn new() -> Result<Self, Error> {
        let refused = |source| Error::System {
            what: "the kernel cannot be asked about interfaces",
            source,
        };
        Ok(Self {
            attached: Vec::new(),
            loaded: HashMap::new(),
            netlink: Netlink::route().map_err(refused)?,
            drivers: Drivers::open().map_err(refused)?,
            said: HashMap::new(),
            whole: false,
            weighed: Links::default(),
            flowtables: Flowtables::default(),
            own: HashSet::new(),
            ports: HashMap::new(),
        })
    }

    pub(super) fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// Whether every wanted program is on every wanted interface, as of the last look.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The links that are held, with the names of their pins.
    pub(super) fn links(&self, directory: &Path) -> Vec<(PathBuf, &OwnedFd)> {
        self.attached
            .iter()
            .flat_map(|attached| attached.seats.iter().map(move |seat| (attached, seat)))
            .filter_map(|(attached, seat)| match &seat.held {
                Held::Link(link) => {
                    let pin = pins::link(directory, &attached.interface, seat.role.name());
                    Some((pin, link))
                }
                Held::Filter { .. } => None,
            })
            .collect()
    }

    fn list(&mut self) -> Result<Links, Error> {
        Links::read(&mut self.netlink).map_err(|source| Error::System {
            what: "the interfaces cannot be listed",
            source,
        })
    }

    /// Puts the programs on an interface at the start.
    ///
    /// # Errors
    ///
    /// Why it cannot have all of them: absent, taken, or without the wanted hook.
    pub(super) fn start(
        &mut self,
        mut means: Means<'_>,
        interface: &Interface,
    ) -> Result<(), Error> {
        let links = self.list()?;
        let targets = targets(std::slice::from_ref(interface), &links);
        if targets.is_empty() {
            let interface = interface.name.clone();
            return Err(match links.named(&interface) {
                Some(_) => Error::NoBridge { interface },
                None => Error::NoInterface { interface },
            });
        }
        self.tell_ports(&mut means, &links, &targets, false)?;
        for target in &targets {
            let errors = self.look_at(&mut means, &links, target);
            if let Some(error) = errors.into_iter().next() {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Tells the programs at bridges' ports which addresses are the machine's own, and which ports there
    /// are. `all`: what is not among these is forgotten.
    fn tell_ports(
        &mut self,
        means: &mut Means<'_>,
        links: &Links,
        targets: &[Target<'_>],
        all: bool,
    ) -> Result<(), Error> {
        let mut own = HashSet::new();
        let mut ports = HashMap::new();
        for target in targets {
            match target.part {
                Part::Bridge => own.extend(links.own_addresses(target.link.index)),
                Part::Port { local } => {
                    ports.insert(target.link.index, local);
                }
                Part::Whole => {}
            }
        }
        let mut addresses: KernelHashMap<_, u64, u32> = of_object(means.object, "OWN_ADDRESSES")?;
        let refused = |map| move |source| Error::Map { map, source };
        for address in own.difference(&self.own) {
            addresses
                .insert(Mac::new(*address).word(), 1, 0)
                .map_err(refused("OWN_ADDRESSES"))?;
        }
        if all {
            for address in self.own.difference(&own) {
                let _ = addresses.remove(&Mac::new(*address).word());
            }
        }
        let mut told: KernelHashMap<_, u32, u32> = of_object(means.object, "PORTS")?;
        if all {
            for ifindex in self
                .ports
                .keys()
                .filter(|ifindex| !ports.contains_key(ifindex))
            {
                let _ = told.remove(ifindex);
            }
        }
        for (ifindex, local) in &ports {
            if self.ports.get(ifindex) != Some(local) {
                told.insert(ifindex, u32::from(*local), 0)
                    .map_err(refused("PORTS"))?;
            }
        }
        match all {
            true => (self.own, self.ports) = (own, ports),
            false => {
                self.own.extend(own);
                self.ports.extend(ports);
            }
        }
        Ok(())
    }

    /// Compares what the kernel has with what should be, and puts back what is missing. What cannot be
    /// had is said once, and tried again at the next look.
    ///
    /// # Errors
    ///
    /// When the kernel does not list the interfaces: nothing was changed.
    pub(super) fn look(&mut self, mut means: Means<'_>, wanted: &[Interface]) -> Result<(), Error> {
        let links = self.list()?;
        let targets = targets(wanted, &links);
        self.leave(&mut means, &links, &targets);
        self.tell_ports(&mut means, &links, &targets, true)?;
        self.flowtables.look(self.weighed != links);
        self.say_counted_twice(wanted, &links);
        let no_bridges = wanted.iter().filter(|interface| {
            let link = links.named(&interface.name);
            interface.ports && link.is_some_and(|link| link.kind != BRIDGE)
        });
        let mut missing = wanted
            .iter()
            .any(|interface| links.named(&interface.name).is_none());
        for interface in no_bridges {
            missing = true;
            let interface = interface.name.clone();
            self.say(&interface.clone(), &[Error::NoBridge { interface }]);
        }
        for target in &targets {
            let errors = self.look_at(&mut means, &links, target);
            self.say(&target.link.name, &errors);
        }
        let is_complete = |target: &Target<'_>| {
            let name = &target.link.name;
            let mut attached = self.attached.iter();
            attached.any(|attached| attached.interface == *name && attached.complete)
        };
        self.whole = !missing && targets.iter().all(is_complete);
        Ok(())
    }

    /// Says which frames are counted twice, once for each way in which interfaces hang together.
    fn say_counted_twice(&mut self, wanted: &[Interface], links: &Links) {
        if self.weighed == *links {
            return;
        }
        for pair in counted_twice(wanted, links) {
            if !counted_twice(wanted, &self.weighed).contains(&pair) {
                tracing::warn!("{pair}; `sensor check` tells what to do");
            }
        }
        self.weighed = links.clone();
    }

    /// Says what cannot be had, once, though it is tried at every look.
    fn say(&mut self, interface: &str, errors: &[Error]) {
        if errors.is_empty() {
            self.said.remove(interface);
            return;
        }
        let text: Vec<_> = errors.iter().map(Error::to_string).collect();
        let text = text.join("; ");
        if self.said.get(interface) != Some(&text) {
            tracing::warn!("{text}");
            self.said.insert(interface.to_owned(), text);
        }
    }

    /// Lets go of interfaces that went away, and takes the programs off those that are not wanted any
    /// more.
    fn leave(&mut self, means: &mut Means<'_>, links: &Links, targets: &[Target<'_>]) {
        let is_wanted = |attached: &Attached| {
            targets.iter().any(|target| {
                target.link.name == attached.interface
                    && target.link.index == attached.ifindex
                    && (target.part == Part::Bridge) == attached.number.is_none()
            })
        };
        for attached in self
            .attached
            .extract_if(.., |attached| !is_wanted(attached))
        {
            let there = links.named(&attached.interface);
            match there.is_some_and(|link| link.index == attached.ifindex) {
                true => {
                    let mut place = Place {
                        name: &attached.interface,
                        index: attached.ifindex,
                        directory: means.directory,
                        programs: Programs {
                            object: means.object,
                            loaded: &mut self.loaded,
                        },
                        netlink: &mut self.netlink,
                    };
                    for seat in &attached.seats {
                        place.unseat(seat);
                    }
                    tracing::info!("interface {}: no longer watched", attached.interface);
                }
                false => {
                    // The kernel has detached what was on it.
                    for role in Role::ALL {
                        let pin = pins::link(means.directory, &attached.interface, role.name());
                        pins::end_link(&pin);
                    }
                    tracing::warn!(
                        "interface {} went away; what it counted stays",
                        attached.interface
                    );
                }
            }
            if let Some(number) = attached.number {
                release_record(means, number);
            }
        }
    }

    /// Sees to one interface; why it has not all that it should.
    fn look_at(&mut self, means: &mut Means<'_>, links: &Links, target: &Target<'_>) -> Vec<Error> {
        let name = &target.link.name;
        let known = self.attached.iter();
        let at = match known
            .map(|one| &one.interface)
            .position(|other| other == name)
        {
            Some(at) => at,
            None => match self.begin(means, target) {
                Ok(attached) => {
                    self.attached.push(attached);
                    self.attached.len() - 1
                }
                Err(error) => return vec![error],
            },
        };
        let not_xdp = self.strips_tags(links, target.link);
        let notes = flowtables::hidden(&self.flowtables.found, links, name);
        let attached = &mut self.attached[at];
        let was_complete = attached.complete;
        let place = Place {
            name,
            index: target.link.index,
            directory: means.directory,
            programs: Programs {
                object: means.object,
                loaded: &mut self.loaded,
            },
            netlink: &mut self.netlink,
        };
        let errors = fill(attached, place, target, (not_xdp, notes), means.books);
        attached.complete = errors.is_empty();
        let hooks = (attached.hook(Role::Upload), attached.hook(Role::Download));
        if hooks != (attached.upload, attached.download) || !was_complete {
            (attached.upload, attached.download) = hooks;
            if let Some(number) = attached.number {
                records::set_hooks(means.books, number, hooks.0, hooks.1);
            }
        }
        if attached.complete && !was_complete && attached.number.is_some() {
            tracing::info!(
                "interface {name}: uploads at {}, downloads at {}",
                attached.upload.name(),
                attached.download.name()
            );
        }
        // An interface that went away meanwhile is seen to at the next look.
        let is_gone = |error: &Error| matches!(error, Error::NoInterface { .. });
        errors.into_iter().filter(|error| !is_gone(error)).collect()
    }

    /// Takes an interface over: its lock, its record, and that the programs book to it.
    fn begin(&mut self, means: &mut Means<'_>, target: &Target<'_>) -> Result<Attached, Error> {
        let name = &target.link.name;
        let lock = InterfaceLock::take(name)?;
        let number = match target.part {
            Part::Bridge => None,
            Part::Whole | Part::Port { .. } => Some(self.record(means, target)?),
        };
        Ok(Attached {
            interface: name.clone(),
            ifindex: target.link.index,
            upload: Hook::None,
            download: Hook::None,
            driver: self.drivers.name(name),
            notes: Vec::new(),
            number,
            choice: target.choice,
            seats: Vec::new(),
            complete: false,
            _lock: lock,
        })
    }

    /// The record that the programs book an interface's frames to.
    fn record(&mut self, means: &mut Means<'_>, target: &Target<'_>) -> Result<u32, Error> {
        let name = &target.link.name;
        let in_use: HashSet<_> = self.attached.iter().filter_map(|one| one.number).collect();
        let number = records::number_of(means.books, name, &in_use)?;
        let before = means.books.interfaces.read(number).ifindex;
        let mut numbers = numbers(means.directory)?;
        if before != target.link.index {
            forget_index(&mut numbers, before, number);
            for role in Role::ALL {
                pins::end_link(&pins::link(means.directory, name, role.name()));
            }
        }
        // Before the first packet: the programs book to the record.
        numbers
            .insert(target.link.index, number, 0)
            .map_err(|source| Error::Map {
                map: INTERFACE_INDEX,
                source,
            })?;
        records::set_ifindex(means.books, number, target.link.index);
        Ok(number)
    }

    /// Why an interface's tags are not seen at XDP, where that matters.
    ///
    /// A network card that takes tags out of frames hands them on beside the frame, where TC finds
    /// them and XDP does not: devices of all VLANs would be booked without theirs, and answers would
    /// leave without.
    fn strips_tags(&self, links: &Links, link: &Link) -> Option<String> {
        let vlan = links.vlans_on(link.index).next()?;
        let strips = self.drivers.strips_tags(&link.name).unwrap_or(false);
        strips.then(|| {
            format!(
                "the interface takes VLAN tags out of frames before XDP sees them \
                 (rx-vlan-offload), and {} stands on it",
                vlan.name
            )
        })
    }

    /// Makes what an earlier start left fit the configuration: programs on interfaces that are not
    /// in it any more come off, and interfaces that are gone are noted to have none.
    ///
    /// # Errors
    ///
    /// When the kernel does not list the interfaces: nothing was changed.
    pub(super) fn tidy(&mut self, mut means: Means<'_>, wanted: &[Interface]) -> Result<(), Error> {
        let links = self.list()?;
        let targets = targets(wanted, &links);
        for (number, record) in means.books.interface_records() {
            let name = text(&record.name);
            let is_target =
                |target: &Target<'_>| target.link.name == name && target.part != Part::Bridge;
            if name == records::GONE || targets.iter().any(is_target) {
                continue;
            }
            match links.named(&name) {
                Some(link) => Place {
                    name: &name,
                    index: link.index,
                    directory: means.directory,
                    programs: Programs {
                        object: means.object,
                        loaded: &mut self.loaded,
                    },
                    netlink: &mut self.netlink,
                }
                .sweep(),
                None => {
                    for role in Role::ALL {
                        pins::end_link(&pins::link(means.directory, &name, role.name()));
                    }
                }
            }
            release_record(&mut means, number);
        }
        Ok(())
    }
}

/// Puts on an interface what it has not, and looks after what it has; why something is missing.
fn fill(
    attached: &mut Attached,
    mut place: Place<'_>,
    target: &Target<'_>,
    (not_xdp, mut notes): (Option<String>, Vec<String>),
    books: &Books,
) -> Vec<Error> {
    let mut errors = Vec::new();
    let recorded = attached
        .number
        .map(|number| books.interfaces.read(number).hooks[0]);
    let mut upload_before = recorded.map_or(Hook::None, Hook::from_number);
    let sound = look_after(attached, &mut place, target.link, Role::Upload, &mut notes);
    let missing = match sound {
        Ok(missing) => missing,
        Err(error) => {
            errors.push(error);
            None
        }
    };
    if missing.is_some() {
        upload_before = attached
            .take(Role::Upload)
            .map_or(Hook::None, |seat| seat.hook);
    }
    let at_xdp = attached.hook(Role::Upload) == Hook::XdpNative;
    let is_blinded = target.choice == HookChoice::Auto && at_xdp && not_xdp.is_some();
    let is_other = |seat: &Seat, program| {
        matches!(seat.hook, Hook::Tcx | Hook::Clsact) && seat.program != program
    };
    let is_changed = attached.choice != target.choice || is_blinded;
    let needs = |seat: Option<&Seat>, program| {
        seat.is_none_or(|seat| is_changed || is_other(seat, program))
    };
    if let Some(program) = target.upload()
        && needs(attached.seat(Role::Upload), program)
    {
        match place.seat_upload((target.choice, program), upload_before, not_xdp) {
            Ok(seat) => {
                say_put_back(&place, &seat, missing.as_deref());
                attached.take(Role::Upload);
                attached.seats.push(seat);
                attached.choice = target.choice;
            }
            Err(error) => errors.push(error),
        }
    }

    let by_filter = target.choice == HookChoice::Clsact;
    let wanted = target.beside(attached.hook(Role::Upload));
    for (role, program) in &wanted {
        let mut missing = None;
        match look_after(attached, &mut place, target.link, *role, &mut notes) {
            Ok(reason) => missing = reason,
            Err(error) => errors.push(error),
        }
        if missing.is_some() {
            attached.take(*role);
        }
        let is_as_wanted = attached.seat(*role).is_some_and(|seat| {
            seat.program == *program && (seat.hook == Hook::Clsact || !by_filter)
        });
        if is_as_wanted {
            continue;
        }
        match place.seat_tc(*role, program, by_filter) {
            Ok(seat) => {
                say_put_back(&place, &seat, missing.as_deref());
                attached.take(*role);
                attached.seats.push(seat);
            }
            Err(error) => errors.push(error),
        }
    }
    let is_unwanted = |seat: &mut Seat| {
        seat.role != Role::Upload && !wanted.iter().any(|(role, _)| *role == seat.role)
    };
    for seat in attached.seats.extract_if(.., is_unwanted) {
        place.unseat(&seat);
    }
    // Of some kinds of filters several are listed that are one to a person.
    notes.dedup();
    for note in &notes {
        if !attached.notes.contains(note) {
            tracing::warn!("interface {}: {note}", attached.interface);
        }
    }
    attached.notes = notes;
    errors
}

fn say_put_back(place: &Place<'_>, seat: &Seat, missing: Option<&str>) {
    if let Some(reason) = missing {
        tracing::warn!(
            "interface {}: the {} program was missing ({reason}); it is there again, at {}",
            place.name,
            seat.role.name(),
            seat.hook.name()
        );
    }
}

/// Looks whether a program that was put on an interface is there, and whether somebody stands before
/// it: then it is put first, once. Gives why it is missing.
fn look_after(
    attached: &mut Attached,
    place: &mut Place<'_>,
    link: &Link,
    role: Role,
    notes: &mut Vec<String>,
) -> Result<Option<String>, Error> {
    let Some(at) = attached.seats.iter().position(|seat| seat.role == role) else {
        return Ok(None);
    };
    let standing = |place: &mut Place<'_>, seat: &Seat| {
        place.standing(seat, link).map_err(|source| Error::Look {
            interface: place.name.to_owned(),
            source,
        })
    };
    let (mut before, can_move) = match standing(place, &attached.seats[at])? {
        Standing::Missing(reason) => return Ok(Some(reason)),
        Standing::Sound { before, can_move } => (before, can_move),
    };
    let seat = &attached.seats[at];
    if !before.is_empty() && can_move && !seat.moved {
        let (program, by_filter) = (seat.program, seat.hook == Hook::Clsact);
        place.unseat(seat);
        let mut seat = place.seat_tc(role, program, by_filter)?;
        seat.moved = true;
        tracing::warn!(
            "interface {}: {} came before the {} program, which was put first again",
            place.name,
            before.join(", "),
            role.name()
        );
        attached.seats[at] = seat;
        before = match standing(place, &attached.seats[at])? {
            Standing::Missing(reason) => return Ok(Some(reason)),
            Standing::Sound { before, .. } => before,
        };
    }
    notes.extend(before.iter().map(|other| {
        format!(
            "{other} stands before the {} program: what it drops, redirects or ends the chain with \
             (TCX_PASS, TC_ACT_OK) is neither counted nor filtered",
            role.name()
        )
    }));
    Ok(None)
}

/// A map of the object that is not pinned: it lives with the programs.
fn of_object<'o, T>(object: &'o mut Ebpf, map: &'static str) -> Result<T, Error>
where
    T: TryFrom<&'o mut Map, Error = aya::maps::MapError>,
{
    let found = object.map_mut(map).ok_or(Error::ForeignLayout)?;
    T::try_from(found).map_err(|source| Error::Map { map, source })
}

const INTERFACE_INDEX: &str = "INTERFACE_INDEX";

/// From the kernel's numbers of interfaces to those of their records.
fn numbers(directory: &Path) -> Result<KernelHashMap<MapData, u32, u32>, Error> {
    KernelHashMap::try_from(pinned(directory, INTERFACE_INDEX)?).map_err(|source| Error::Map {
        map: INTERFACE_INDEX,
        source,
    })
}

/// A number that an interface had. Another one may have it by now.
fn forget_index(numbers: &mut KernelHashMap<MapData, u32, u32>, ifindex: u32, number: u32) {
    if numbers.get(&ifindex, 0).is_ok_and(|found| found == number) {
        let _ = numbers.remove(&ifindex);
    }
}

/// Notes that an interface has no program. What was counted there stays in the books.
fn release_record(means: &mut Means<'_>, number: u32) {
    let before = means.books.interfaces.read(number).ifindex;
    if let Ok(mut numbers) = numbers(means.directory) {
        forget_index(&mut numbers, before, number);
    }
    records::set_hooks(means.books, number, Hook::None, Hook::None);
    records::set_ifindex(means.books, number, 0);
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
            if record.hooks.contains(&Hook::Clsact.number())
                && let Some(link) = links.named(&text(&record.name))
            {
                sweep_filters(&mut netlink, link.index);
            }
        }
    }
    let refused = |source| Error::PinDirectory {
        path: directory.to_owned(),
        source,
    };
    pins::remove_all(directory).map_err(refused)?;
    match fs::remove_dir(directory) {
        // It holds something of somebody else's, or is a mount point: it may stay.
        Ok(()) | Err(_) => Ok(()),
    }
}
