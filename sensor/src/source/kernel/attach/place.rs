//! One interface, and with what programs are put on it.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{Ebpf, programs::ProgramFd};

use super::{
    Means,
    seat::{Role, Seat},
    tc::{self, Side},
};
use crate::{
    config::HookChoice,
    model::Hook,
    source::kernel::{
        Error,
        load::{descriptor, loaded},
        netlink::Netlink,
        pins, readers,
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
    pub(super) loaded: &'a mut HashMap<&'static str, Arc<Loaded>>,
    /// Where the readers of payloads are pinned.
    pub(super) directory: &'a Path,
}

impl Programs<'_> {
    /// The program of this name, with its reader behind it.
    pub(super) fn get(&mut self, name: &'static str) -> Result<Arc<Loaded>, Error> {
        if let Some(loaded) = self.loaded.get(name) {
            return Ok(Arc::clone(loaded));
        }
        readers::put(self.object, Some(self.directory), name)?;
        let program = loaded(self.object, name)?;
        let refused = |source| Error::Program {
            program: name,
            source,
        };
        let id = program.info().map_err(refused)?.id();
        let fd = descriptor(program, name)?;
        let loaded = Arc::new(Loaded { fd, id });
        self.loaded.insert(name, Arc::clone(&loaded));
        Ok(loaded)
    }
}

/// What programs are put on interfaces with, whichever interface it is.
pub(super) struct Tools {
    loaded: HashMap<&'static str, Arc<Loaded>>,
    pub(super) netlink: Netlink,
}

impl Tools {
    pub(super) fn new(netlink: Netlink) -> Self {
        Self {
            loaded: HashMap::new(),
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
                loaded: &mut self.loaded,
                directory: means.directory,
            },
            netlink: &mut self.netlink,
        }
    }
}

/// An interface that programs are put on, and with what.
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

    pub(super) fn refused(&self, hook: Hook, error: &io::Error) -> Error {
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

    /// Takes everything off that a sensor left here, whichever start it was.
    pub(super) fn sweep(&mut self) {
        for role in Role::ALL {
            pins::end_link(&self.pin(role));
        }
        sweep_filters(self.netlink, self.index);
    }
}

pub(super) fn sweep_filters(netlink: &mut Netlink, index: u32) {
    for side in Side::ALL {
        let there = tc::filters(netlink, index, side).unwrap_or_default();
        for filter in there.iter().filter(|filter| filter.is_ours()) {
            let _ = tc::remove_filter(netlink, index, side, filter);
        }
    }
}
