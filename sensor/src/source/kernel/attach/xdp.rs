//! Programs at XDP, in the driver or in the stack.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use super::{
    Error, Hook, Place, Role,
    seat::{Held, Seat},
};
use crate::source::kernel::calls::{self, Cause, Point};

/// The upload programs, for a frame in one buffer and for one in several (kernel 5.18).
const PROGRAMS: [&str; 2] = ["upload", "upload_frags"];

impl Place<'_> {
    /// Puts the upload program at XDP. `before`: where an earlier start had it.
    pub(super) fn seat_xdp(&mut self, hook: Hook, before: Hook) -> Result<Seat, Error> {
        let mut old = self.pinned(Role::Upload)?;
        if before == hook
            && let Some(link) = old.take()
        {
            if let Some((program, id)) = self.adopt_xdp(&link, hook)? {
                return Ok(seat(program, id, hook, Held::adopted(link)));
            }
            old = Some(link);
        }
        let point = match hook {
            Hook::XdpGeneric => Point::XdpGeneric,
            _ => Point::XdpNative,
        };
        // Before the old one goes: the verifier takes its time.
        self.programs.get(PROGRAMS[0])?;
        // Two modes of XDP exclude each other. A program at TC stays until XDP is there, so that no frame
        // goes without accounting and filter where XDP cannot be had.
        let at_tc = matches!(before, Hook::Tcx | Hook::Clsact);
        if !at_tc && let Some(old) = old.take() {
            let _ = calls::detach(old.as_fd());
        }
        let (program, id, link) = match self.attach_xdp(PROGRAMS[0], point) {
            Ok(attached) => attached,
            Err(Error::System { source, .. }) => match Cause::of(&source) {
                Cause::NoInterface | Cause::Taken | Cause::Ours => {
                    return Err(self.refused(hook, &source));
                }
                // An MTU that needs several buffers: EINVAL, ERANGE or EOPNOTSUPP, as the driver
                // likes.
                Cause::Refused => match self.attach_xdp(PROGRAMS[1], point) {
                    Ok(attached) => attached,
                    Err(_) => return Err(self.refused(hook, &source)),
                },
            },
            Err(error) => return Err(error),
        };
        if at_tc {
            // Where they stay, the new link ends.
            self.remove_filters(Role::Upload, |_| true)?;
        }
        if let Some(old) = old {
            let _ = calls::detach(old.as_fd());
        }
        Ok(seat(program, id, hook, self.held(Role::Upload, link)))
    }

    /// Attaches a program, and gives its name, its number and its link.
    fn attach_xdp(
        &mut self,
        program: &'static str,
        point: Point,
    ) -> Result<(&'static str, u32, OwnedFd), Error> {
        let loaded = self.programs.get(program)?;
        let link = calls::attach(loaded.fd.as_fd(), self.index, point);
        let link = link.map_err(|source: io::Error| Error::System {
            what: "the program cannot be attached",
            source,
        })?;
        Ok((program, loaded.id, link))
    }

    /// Puts the new program in the place of the old one without a gap, and gives its name and number; `None`
    /// where the link was detached.
    ///
    /// # Errors
    ///
    /// Why the new program cannot be put there: the old one stays.
    fn adopt_xdp(
        &mut self,
        link: &OwnedFd,
        hook: Hook,
    ) -> Result<Option<(&'static str, u32)>, Error> {
        let state = calls::state(link.as_fd()).map_err(|source| Error::Look {
            interface: self.name.to_owned(),
            source,
        })?;
        if state.ifindex != self.index {
            return Ok(None);
        }
        let mut refused = None;
        for program in PROGRAMS {
            let loaded = self.programs.get(program)?;
            let Err(error) = calls::replace(link.as_fd(), loaded.fd.as_fd()) else {
                return Ok(Some((program, loaded.id)));
            };
            if is_detached(&error) {
                return Ok(None);
            }
            let cause = Cause::of(&error);
            let first = refused.get_or_insert(error);
            if cause != Cause::Refused {
                return Err(self.refused(hook, first));
            }
        }
        match refused {
            Some(error) => Err(self.refused(hook, &error)),
            None => Ok(None),
        }
    }
}

/// Whether an error of a link's update says that the link was detached.
fn is_detached(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOLINK) || Cause::of(error) == Cause::NoInterface
}

fn seat(program: &'static str, id: u32, hook: Hook, held: Held) -> Seat {
    Seat {
        role: Role::Upload,
        program,
        id,
        hook,
        held,
        by_filter: false,
        moved: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_link_without_its_interface_is_detached() {
        for number in 1..=133 {
            let error = io::Error::from_raw_os_error(number);
            let expected = [libc::ENOLINK, libc::ENODEV].contains(&number);
            assert_eq!(is_detached(&error), expected, "{error}");
        }
    }
}
