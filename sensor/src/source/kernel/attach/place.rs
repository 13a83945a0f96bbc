//! One interface, and the tools to put programs on it.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::{Ebpf, programs::ProgramFd};
use sensor_ebpf::books::InterfaceRecord;

use super::{
    Means,
    seat::{Held, Role, Seat},
    tc::{self, Filter, Side},
};
use crate::{
    config::HookChoice,
    model::Hook,
    source::kernel::{
        Error,
        calls::{self, Cause},
        links::{Link, Links},
        load::{descriptor, loaded},
        netlink::Netlink,
        pins, readers, text,
    },
};

/// A program that was loaded: the verifier takes its time for each, so it stays loaded.
pub(super) struct Loaded {
    pub(super) fd: ProgramFd,
    pub(super) id: u32,
}

/// The programs of the object, each loaded when it is first wanted, and its reader before it.
pub(super) struct Programs<'a> {
    pub(super) object: &'a mut Ebpf,
    known: &'a mut Known,
    /// Where the readers of payloads are pinned.
    pub(super) directory: &'a Path,
}

impl Programs<'_> {
    /// The program of this name, with its reader behind it.
    pub(super) fn get(&mut self, name: &'static str) -> Result<Arc<Loaded>, Error> {
        if let Some(loaded) = self.known.loaded.get(name) {
            return Ok(Arc::clone(loaded));
        }
        let now = Instant::now();
        self.known.refused.may_try(name, now)?;
        let loaded = self
            .load(name)
            .inspect_err(|error| self.known.refused.note(name, error, now))?;
        let loaded = Arc::new(loaded);
        self.known.loaded.insert(name, Arc::clone(&loaded));
        Ok(loaded)
    }

    fn load(&mut self, name: &'static str) -> Result<Loaded, Error> {
        readers::put(self.object, Some(self.directory), name)?;
        let program = loaded(self.object, name)?;
        let refused = |source| Error::Program {
            program: name,
            source,
        };
        let id = program.info().map_err(refused)?.id();
        let fd = descriptor(program, name)?;
        Ok(Loaded { fd, id })
    }
}

/// The programs that were asked for.
#[derive(Default)]
struct Known {
    loaded: HashMap<&'static str, Arc<Loaded>>,
    refused: Refusals,
}

/// The programs that could not be loaded, each with the reason and the time of the next attempt.
///
/// The verifier may take seconds for a program. At every look, that time would be missing for all else.
#[derive(Default)]
struct Refusals(HashMap<&'static str, Refusal>);

struct Refusal {
    reason: String,
    again: Instant,
    pause: Duration,
}

impl Refusals {
    /// How long a program is left alone after its first refusal; twice as long after each further one.
    const FIRST_PAUSE: Duration = Duration::from_secs(1);
    const LONGEST_PAUSE: Duration = Duration::from_secs(60);

    /// # Errors
    ///
    /// The last refusal's reason while its pause lasts.
    fn may_try(&self, program: &'static str, now: Instant) -> Result<(), Error> {
        match self.0.get(program) {
            Some(refusal) if now < refusal.again => Err(Error::RefusedBefore {
                reason: refusal.reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn note(&mut self, program: &'static str, error: &Error, now: Instant) {
        let before = self.0.get(program).map(|refusal| refusal.pause);
        let pause = before.map_or(Self::FIRST_PAUSE, |pause| {
            (pause * 2).min(Self::LONGEST_PAUSE)
        });
        let refusal = Refusal {
            reason: error.to_string(),
            again: now + pause,
            pause,
        };
        self.0.insert(program, refusal);
    }
}

/// The tools to put programs on interfaces, the same for every interface.
pub(super) struct Tools {
    known: Known,
    pub(super) netlink: Netlink,
}

impl Tools {
    pub(super) fn new(netlink: Netlink) -> Self {
        Self {
            known: Known::default(),
            netlink,
        }
    }

    /// An interface, with all that is needed to put programs on it.
    pub(super) fn place<'a>(
        &'a mut self,
        means: &'a mut Means<'_>,
        name: &'a str,
        index: u32,
    ) -> Place<'a> {
        Place {
            name,
            index,
            directory: means.directory,
            programs: Programs {
                object: means.object,
                known: &mut self.known,
                directory: means.directory,
            },
            netlink: &mut self.netlink,
        }
    }
}

/// An interface that programs are put on, and the tools for it.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) index: u32,
    pub(super) directory: &'a Path,
    pub(super) programs: Programs<'a>,
    pub(super) netlink: &'a mut Netlink,
}

impl Place<'_> {
    pub(super) fn pin(&self, role: Role) -> PathBuf {
        pins::link(self.directory, self.name, role.name())
    }

    /// The link that is pinned for a program, of this start or an earlier one.
    ///
    /// # Errors
    ///
    /// When there may be a link that cannot be opened: its program on the interface must not be taken for
    /// gone.
    pub(super) fn pinned(&self, role: Role) -> Result<Option<OwnedFd>, Error> {
        match calls::pinned(&self.pin(role)) {
            Ok(link) => Ok(Some(link)),
            // No table can be opened behind a read-only mount either, so that this process began before it
            // was read-only, and holds the link that is pinned there.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EROFS)) => {
                Ok(None)
            }
            Err(source) => Err(Error::Attach {
                interface: self.name.to_owned(),
                source,
            }),
        }
    }

    /// Pins a new link. Where that is refused, this process alone holds the link, and every look tries to
    /// pin it again.
    pub(super) fn held(&self, role: Role, link: OwnedFd) -> Held {
        let pinned = pins::pin_link(link.as_fd(), &self.pin(role));
        if let Err(error) = &pinned {
            tracing::warn!(
                "interface {}: the {} program ends with the sensor until its link can be pinned: {error}",
                self.name,
                role.name()
            );
        }
        Held::Link {
            link,
            is_pinned: pinned.is_ok(),
        }
    }

    pub(super) fn refused(&self, hook: Hook, error: &io::Error) -> Error {
        refused(self.name, hook, error)
    }

    /// Attaches the upload program where the configuration wants it.
    ///
    /// `auto` is XDP in the driver, else TC. XDP in the stack comes after GRO has merged frames
    /// and cannot tell how many they were (net/core/dev.c, `do_xdp_generic`); TC can.
    pub(super) fn seat_upload(
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
}

/// The meaning of the kernel's error at a hook of an interface.
fn refused(interface: &str, hook: Hook, error: &io::Error) -> Error {
    let interface = interface.to_owned();
    match Cause::of(error) {
        Cause::NoInterface => Error::NoInterface { interface },
        Cause::Ours => Error::Attach {
            interface,
            source: match error.raw_os_error() {
                Some(number) => io::Error::from_raw_os_error(number),
                None => error.kind().into(),
            },
        },
        // EEXIST where it was attached in another mode, or without a link.
        Cause::Taken if matches!(hook, Hook::XdpNative | Hook::XdpGeneric) => {
            Error::ForeignXdp { interface }
        }
        Cause::Taken | Cause::Refused => Error::Hook {
            interface,
            hook: hook.name(),
            reason: error.to_string(),
        },
    }
}

/// Removes the filters that a sensor left on the interface of a record, by its name and by its number,
/// because it may have another name by now. On its bridge, only those of programs that number frames, where
/// `is_left` says that they are not wanted there.
pub(super) fn sweep_filters(
    netlink: &mut Netlink,
    links: &Links,
    record: &InterfaceRecord,
    is_left: impl Fn(&Link) -> bool,
) {
    let mut remove = |link: &Link, is_meant: fn(&Filter) -> bool| {
        for side in Side::ALL {
            let there = tc::filters(netlink, link.index, side).unwrap_or_default();
            for filter in there.iter().filter(|filter| is_meant(filter)) {
                let _ = tc::remove_filter(netlink, link.index, side, filter);
            }
        }
    };
    let named = links.named(&text(&record.name));
    let numbered = links.numbered(record.ifindex);
    for link in [named, numbered].into_iter().flatten() {
        remove(link, Filter::is_ours);
        if let Some(bridge) = links.numbered(link.master)
            && is_left(bridge)
        {
            remove(bridge, |filter| filter.is_of(Role::Number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_missing_for_enodev_alone() {
        let hooks = [Hook::XdpNative, Hook::XdpGeneric, Hook::Tcx, Hook::Clsact];
        for hook in hooks {
            for number in 1..=133 {
                let error = refused("lan0", hook, &io::Error::from_raw_os_error(number));
                let is_missing = matches!(error, Error::NoInterface { .. });
                assert_eq!(is_missing, number == libc::ENODEV, "{hook:?}: {error}");
            }
            let refused = |number| refused("lan0", hook, &io::Error::from_raw_os_error(number));
            for number in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
                assert!(matches!(refused(number), Error::Attach { .. }), "{hook:?}");
            }
        }
        let busy = io::Error::from_raw_os_error(libc::EBUSY);
        let at = |hook| refused("lan0", hook, &busy);
        assert!(matches!(at(Hook::XdpNative), Error::ForeignXdp { .. }));
        assert!(matches!(at(Hook::Tcx), Error::Hook { .. }));
    }

    #[test]
    fn a_program_that_was_refused_is_tried_again_after_pauses_that_grow() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let may_try = |refusals: &Refusals, program, after| {
            refusals.may_try(program, start + Duration::from_secs(after))
        };
        assert!(may_try(&refusals, "upload", 0).is_ok());
        let error = Error::PolicyTooLarge("a reason".to_owned());
        refusals.note("upload", &error, start);
        let again = may_try(&refusals, "upload", 0).expect_err("it is left alone");
        assert_eq!(again.to_string(), error.to_string());
        assert!(may_try(&refusals, "download", 0).is_ok());
        assert!(may_try(&refusals, "upload", 1).is_ok());
        refusals.note("upload", &error, start);
        assert!(may_try(&refusals, "upload", 1).is_err());
        assert!(may_try(&refusals, "upload", 2).is_ok());
        for _ in 0..20 {
            refusals.note("upload", &error, start);
        }
        assert!(may_try(&refusals, "upload", 59).is_err());
        assert!(may_try(&refusals, "upload", 60).is_ok());
    }
}
