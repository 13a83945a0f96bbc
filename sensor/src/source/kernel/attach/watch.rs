//! All interfaces with programs: the look at them, twice a second.

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use sensor_ebpf::books::Way;

use super::{
    Attached, Means,
    fill::fill,
    place::{Tools, sweep_filters},
    ports::PortEntries,
    records,
    seat::{Held, Role},
    target::{BRIDGE, Part, Target, counted_twice, targets},
};
use crate::{
    config::{HookChoice, Interface},
    model::Hook,
    source::kernel::{
        Error,
        driver::{self, Drivers},
        failed::retried,
        flowtables::{self, Flowtables},
        links::{Link, Links},
        lock::InterfaceLock,
        netlink::Netlink,
        pins::{self, LinkPin},
        readers, text,
    },
};

/// Why uploads are not refused at XDP, where a frame was refused that could not be handed on with a note.
const NO_METADATA: &str =
    "its driver has no metadata in which XDP could hand what it refuses on to TC";

/// The key of failures to tell programs at ports about addresses and ports. No interface has a space in its
/// name.
const PORTS: &str = "all ports";

/// All interfaces with programs.
pub(in crate::source::kernel) struct Attachments {
    attached: Vec<Attached>,
    tools: Tools,
    drivers: Drivers,
    /// The failure that was logged last, by interface, and that of the ports' maps under [`PORTS`].
    said: HashMap<String, String>,
    whole: bool,
    /// The interfaces as they were when it was last looked for frames that are counted twice.
    weighed: Links,
    flowtables: Flowtables,
    /// The entries that the programs at bridges' ports were told: the machine's own addresses, and the
    /// ports.
    told: PortEntries,
}

impl Attachments {
    /// # Errors
    ///
    /// When the kernel refuses a socket.
    pub(in crate::source::kernel) fn new() -> Result<Self, Error> {
        let refused = |source| Error::System {
            what: "the kernel cannot be asked about interfaces",
            source,
        };
        Ok(Self {
            attached: Vec::new(),
            tools: Tools::new(Netlink::route().map_err(refused)?),
            drivers: Drivers::open().map_err(refused)?,
            said: HashMap::new(),
            whole: false,
            weighed: Links::default(),
            flowtables: Flowtables::default(),
            told: PortEntries::default(),
        })
    }

    pub(in crate::source::kernel) fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// Whether every wanted program is on every wanted interface, as of the last look.
    pub(in crate::source::kernel) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The links that are held, with their pins.
    pub(in crate::source::kernel) fn links(&mut self, directory: &Path) -> Vec<LinkPin<'_>> {
        let mut links = Vec::new();
        for attached in &mut self.attached {
            for seat in &mut attached.seats {
                if let Held::Link { link, is_pinned } = &mut seat.held {
                    let role = seat.role.name();
                    links.push(LinkPin {
                        path: pins::link(directory, &attached.interface, role),
                        link: OwnedFd::as_fd(link),
                        is_pinned,
                    });
                }
            }
        }
        links
    }

    fn list(&mut self) -> Result<Links, Error> {
        Links::read(&mut self.tools.netlink).map_err(|source| Error::System {
            what: "the interfaces cannot be listed",
            source,
        })
    }

    /// Puts the programs on an interface at the start.
    ///
    /// # Errors
    ///
    /// Why it cannot have all of them: absent, taken, or without the wanted hook.
    pub(in crate::source::kernel) fn start(
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
        self.told.tell(means.object, &links, &targets, false)?;
        for target in &targets {
            let errors = self.look_at(&mut means, &links, target);
            if let Some(error) = errors.into_iter().next() {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Compares the kernel's state with the wanted one, and puts back missing programs and pins. A failure
    /// is logged once, and tried again at the next look.
    ///
    /// # Errors
    ///
    /// When the kernel does not list the interfaces: nothing was changed.
    pub(in crate::source::kernel) fn look(
        &mut self,
        mut means: Means<'_>,
        wanted: &[Interface],
    ) -> Result<(), Error> {
        // Until everything was looked at.
        let was_whole = std::mem::take(&mut self.whole);
        let links = self.list()?;
        let targets = targets(wanted, &links);
        self.leave(&mut means, &links, &targets);
        let told = self.told.tell(means.object, &links, &targets, true);
        let is_told = told.is_ok();
        self.say(PORTS, told.err().as_slice());
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
        // Interfaces that come and go have names without end.
        self.said.retain(|name, _| {
            name == PORTS
                || wanted.iter().any(|interface| interface.name == *name)
                || targets.iter().any(|target| target.link.name == *name)
        });
        for target in &targets {
            let errors = self.look_at(&mut means, &links, target);
            self.say(&target.link.name, &errors);
        }
        let is_complete = |target: &Target<'_>| {
            let name = &target.link.name;
            let mut attached = self.attached.iter();
            attached.any(|attached| attached.interface == *name && attached.complete)
        };
        self.whole = is_told && !missing && targets.iter().all(is_complete);
        if self.whole && !was_whole {
            // The programs of an earlier start have been replaced by now.
            readers::sweep(means.directory);
        }
        Ok(())
    }

    /// Logs which frames are counted twice, once for each relation between interfaces.
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

    /// Logs a failure once, though the attempt is repeated at every look.
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
            match links.numbered(attached.ifindex) {
                Some(link) => {
                    let (name, index) = (&attached.interface, attached.ifindex);
                    let mut place = self.tools.place(means, name, index);
                    for seat in &attached.seats {
                        place.unseat(seat);
                    }
                    match link.name == *name {
                        true => tracing::info!("interface {name}: no longer watched"),
                        false => tracing::warn!(
                            "interface {name} is called {} now: it is no longer watched under its old name",
                            link.name
                        ),
                    }
                }
                None => {
                    // The kernel has detached the programs that were on it.
                    for role in Role::ALL {
                        let pin = pins::link(means.directory, &attached.interface, role.name());
                        let _ = pins::end_link(&pin);
                    }
                    tracing::warn!(
                        "interface {} went away; what it counted stays",
                        attached.interface
                    );
                }
            }
            if let Some(number) = attached.number {
                records::release(means, number);
            }
        }
    }

    /// Checks one interface, and completes it; gives why programs are still missing.
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
        let mut not_xdp = self.not_xdp(links, target.link);
        // Offloaded packets pass a bridge by; where its ports are watched, they are seen there.
        let mut notes = match target.part {
            Part::Bridge => Vec::new(),
            Part::Whole | Part::Port { .. } => {
                flowtables::hidden(&self.flowtables.found, links, name)
            }
        };
        let attached = &mut self.attached[at];
        // Before the program is there that asks for it.
        attached.way = driver::way(target.choice, attached.driver.as_deref());
        if let Some(number) = attached.number {
            records::set_way(means.books, number, attached.way);
            if means.books.interfaces.read(number).notes_failed > 0 {
                match target.choice {
                    HookChoice::Auto => not_xdp = not_xdp.or_else(|| Some(NO_METADATA.to_owned())),
                    _ => notes.push(format!(
                        "{NO_METADATA}: what is rejected is dropped without an answer; set hook = \"tc\" or \
                         leave it out"
                    )),
                }
            }
        }
        let was_complete = attached.complete;
        let books = means.books;
        let place = self.tools.place(means, name, target.link.index);
        let errors = fill(attached, place, target, (not_xdp, notes), books);
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
        let lock = InterfaceLock::take(means.runtime_directory, name, target.link.index)?;
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
            way: Way::Note,
            seats: Vec::new(),
            missing: Vec::new(),
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
        let mut numbers = records::numbers(means.directory)?;
        if before != target.link.index {
            records::forget_index(&mut numbers, before, number);
            for role in Role::ALL {
                let _ = pins::end_link(&pins::link(means.directory, name, role.name()));
            }
        }
        // Before the first packet: the programs book to the record.
        retried(records::INTERFACE_INDEX, || {
            numbers.insert(target.link.index, number, 0)
        })?;
        records::set_ifindex(means.books, number, target.link.index);
        Ok(number)
    }

    /// Why XDP in the driver is not the place for an interface, where it is not.
    ///
    /// A network card that takes tags out of frames hands them on beside the frame, where TC finds
    /// them and XDP does not: devices of all VLANs would be booked without theirs, and answers would
    /// leave without.
    fn not_xdp(&self, links: &Links, link: &Link) -> Option<String> {
        if link.is_bond() {
            return Some(super::AT_MEMBERS.to_owned());
        }
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

    /// Fits the programs of an earlier start to the configuration: those on interfaces that are not in it
    /// any more come off, and interfaces that are gone are noted to have none.
    ///
    /// # Errors
    ///
    /// When the kernel does not list the interfaces: nothing was changed.
    pub(in crate::source::kernel) fn tidy(
        &mut self,
        mut means: Means<'_>,
        wanted: &[Interface],
    ) -> Result<(), Error> {
        let links = self.list()?;
        let targets = targets(wanted, &links);
        for (number, record) in means.books.interface_records() {
            let name = text(&record.name);
            let is_target =
                |target: &Target<'_>| target.link.name == name && target.part != Part::Bridge;
            if name == records::GONE || targets.iter().any(is_target) {
                continue;
            }
            sweep_filters(&mut self.tools.netlink, &links, &record, |bridge| {
                let mut targets = targets.iter();
                !targets.any(|target| target.link == bridge && target.part == Part::Bridge)
            });
            records::release(&mut means, number);
        }
        let is_wanted = |target: &Target<'_>, pin: &Path| {
            let roles = Role::ALL.into_iter();
            let mut roles =
                roles.filter(|role| (*role == Role::Number) == (target.part == Part::Bridge));
            roles.any(|role| pins::link(means.directory, &target.link.name, role.name()) == pin)
        };
        for pin in pins::links(means.directory) {
            if !targets.iter().any(|target| is_wanted(target, &pin))
                && let Err(error) = pins::end_link(&pin)
            {
                tracing::warn!("the link {} stays: {error}", pin.display());
            }
        }
        readers::sweep(means.directory);
        Ok(())
    }
}
