//! Programs at XDP, in the driver or in the stack.

use std::{io, os::fd::AsFd as _};

use super::{
    Error, Hook, Place, Role,
    seat::{Held, Seat},
};
use crate::source::kernel::{
    calls::{self, Point},
    pins,
};

/// The upload programs, for a frame in one buffer and for one in several (kernel 5.18).
const PROGRAMS: [&str; 2] = ["upload", "upload_frags"];

impl Place<'_> {
    /// Puts the upload program at XDP. `before`: where an earlier start had it.
    pub(super) fn seat_xdp(&mut self, hook: Hook, before: Hook) -> Result<Seat, Error> {
        let pin = self.pin(Role::Upload);
        if before == hook
            && let Some(seat) = self.adopt_xdp(hook)
        {
            return Ok(seat);
        }
        let point = match hook {
            Hook::XdpGeneric => Point::XdpGeneric,
            _ => Point::XdpNative,
        };
        // Before the old one goes: the verifier takes its time.
        self.programs.get(PROGRAMS[0])?;
        // Two modes of XDP exclude each other. What is at TC stays until XDP is there: where XDP is
        // not to be had, nothing was without accounting and filter.
        let at_tc = matches!(before, Hook::Tcx | Hook::Clsact);
        if !at_tc {
            pins::end_link(&pin);
        }
        let seat = match self.attach_xdp(PROGRAMS[0], hook, point) {
            Ok(seat) => seat,
            Err(Error::System { source, .. }) => match source.raw_os_error() {
                // Somebody else's program, or no interface any more.
                Some(libc::EBUSY | libc::EEXIST | libc::ENODEV) => {
                    return Err(self.refused(hook, &source));
                }
                // An MTU that needs several buffers: EINVAL, ERANGE or EOPNOTSUPP, as the driver
                // likes.
                _ => match self.attach_xdp(PROGRAMS[1], hook, point) {
                    Ok(seat) => seat,
                    Err(_) => return Err(self.refused(hook, &source)),
                },
            },
            Err(error) => return Err(error),
        };
        if at_tc {
            pins::end_link(&pin);
            self.remove_filters(Role::Upload, |_| true)?;
        }
        if let Held::Link(link) = &seat.held {
            pins::pin_link(link.as_fd(), &pin)?;
        }
        Ok(seat)
    }

    fn attach_xdp(
        &mut self,
        program: &'static str,
        hook: Hook,
        point: Point,
    ) -> Result<Seat, Error> {
        let loaded = self.programs.get(program)?;
        let link = calls::attach(loaded.fd.as_fd(), self.index, point);
        let link = link.map_err(|source: io::Error| Error::System {
            what: "the program cannot be attached",
            source,
        })?;
        Ok(Seat {
            role: Role::Upload,
            program,
            id: loaded.id,
            hook,
            held: Held::Link(link),
            moved: false,
        })
    }

    /// Puts the new program in the place of the old one without a gap.
    fn adopt_xdp(&mut self, hook: Hook) -> Option<Seat> {
        let link = calls::pinned(&self.pin(Role::Upload)).ok()?;
        let state = calls::state(link.as_fd()).ok()?;
        if state.ifindex != self.index {
            return None;
        }
        for program in PROGRAMS {
            let Ok(loaded) = self.programs.get(program) else {
                continue;
            };
            if calls::replace(link.as_fd(), loaded.fd.as_fd()).is_ok() {
                return Some(Seat {
                    role: Role::Upload,
                    program,
                    id: loaded.id,
                    hook,
                    held: Held::Link(link),
                    moved: false,
                });
            }
        }
        None
    }
}
