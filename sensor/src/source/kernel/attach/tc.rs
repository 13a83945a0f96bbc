//! Programs at TC: by a link, first of all, where the kernel has that (6.6), else by a filter of the
//! clsact queueing discipline.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use super::{
    Error, Hook, Place, Role,
    seat::{Held, Seat},
};
use crate::source::kernel::{
    calls::{self, Point},
    netlink::{CREATE, ECHO, EXCLUSIVE, Message, Netlink, attributes, word},
    text,
};

/// The queueing discipline that filters of both sides belong to.
pub(super) const CLSACT: &str = "clsact";

/// The priority of the sensor's filters, unless foreign filters of another kind have it.
const PRIORITY: u16 = 1;

/// Which side of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source::kernel) enum Side {
    Ingress,
    Egress,
}

impl Side {
    pub(super) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    pub(super) const fn point(self) -> Point {
        match self {
            Self::Ingress => Point::TcxIngress,
            Self::Egress => Point::TcxEgress,
        }
    }

    /// `TC_H_CLSACT` with `TC_H_MIN_INGRESS` or `TC_H_MIN_EGRESS` (linux/pkt_sched.h).
    const fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

/// A filter at an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) priority: u16,
    pub(super) handle: u32,
    /// In host order; 3 (`ETH_P_ALL`) is every frame.
    protocol: u16,
    kind: String,
    /// The name that the program's owner gave it.
    program_name: String,
    pub(super) program: u32,
}

const ALL_FRAMES: u16 = 3;

impl Filter {
    /// Whether a sensor put it there for this role: on an interface that this sensor has locked, it is this
    /// one's. Earlier versions had one handle for all roles.
    pub(super) fn is_of(&self, role: Role) -> bool {
        Role::ALL.iter().any(|role| role.handle() == self.handle)
            && role.programs().contains(&self.program_name.as_str())
    }

    pub(super) fn is_ours(&self) -> bool {
        Role::ALL.into_iter().any(|role| self.is_of(role))
    }

    /// Whether a BPF filter of ours can have the same priority.
    fn leaves_room(&self) -> bool {
        self.kind == "bpf" && self.protocol == ALL_FRAMES
    }

    pub(super) fn text(&self) -> String {
        match self.kind.as_str() {
            "bpf" => format!(
                "the filter with pref {} (program {}, {})",
                self.priority, self.program, self.program_name
            ),
            kind => format!("the {kind} filter with pref {}", self.priority),
        }
    }
}

/// Octets of `struct tcmsg` (linux/rtnetlink.h).
const TCMSG: usize = 20;

fn tcmsg(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG] {
    let mut fixed = [0; TCMSG];
    for (at, value) in [(4, ifindex), (8, handle), (12, parent), (16, info)] {
        fixed[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    fixed
}

const KIND: u16 = 1;
const OPTIONS: u16 = 2;

/// The filters of one side, in the order in which they run.
pub(super) fn filters(netlink: &mut Netlink, ifindex: u32, side: Side) -> io::Result<Vec<Filter>> {
    const GETTFILTER: u16 = 46;
    let fixed = tcmsg(ifindex, 0, side.parent(), 0);
    netlink.list(
        || Message::new(GETTFILTER, 0, &fixed),
        Vec::new,
        |filters, body| filters.extend(filter(body)),
    )
}

fn filter(body: &[u8]) -> Option<Filter> {
    const CHAIN: u16 = 11;
    const BPF_NAME: u16 = 7;
    const BPF_ID: u16 = 11;

    let info = word(body, 16)?;
    let mut filter = Filter {
        priority: (info >> 16) as u16,
        handle: word(body, 8)?,
        protocol: u16::from_be(info as u16),
        kind: String::new(),
        program_name: String::new(),
        program: 0,
    };
    for (kind, value) in attributes(body.get(TCMSG..)?) {
        match kind {
            KIND => filter.kind = text(value),
            // Only the first chain is run for every frame.
            CHAIN if word(value, 0)? != 0 => return None,
            OPTIONS => {
                for (kind, value) in attributes(value) {
                    match kind {
                        BPF_NAME => filter.program_name = text(value),
                        BPF_ID => filter.program = word(value, 0)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    // Without a handle it is the head of a priority's filters, each of which follows.
    (filter.handle != 0).then_some(filter)
}

/// The queueing discipline at the ingress of an interface: `clsact`, `ingress`, or none.
pub(super) fn ingress_qdisc(netlink: &mut Netlink, ifindex: u32) -> io::Result<Option<String>> {
    const GETQDISC: u16 = 38;
    let fixed = tcmsg(ifindex, 0, INGRESS_QUEUE, 0);
    match netlink.request(Message::new(GETQDISC, ECHO, &fixed)) {
        Ok(answer) => Ok(answer.and_then(|body| {
            attributes(body.get(TCMSG..)?)
                .find(|(kind, _)| *kind == KIND)
                .map(|(_, value)| text(value))
        })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `TC_H_CLSACT`, which is `TC_H_INGRESS` as well.
const INGRESS_QUEUE: u32 = 0xffff_fff1;

fn add_clsact(netlink: &mut Netlink, ifindex: u32) -> io::Result<()> {
    const NEWQDISC: u16 = 36;
    let fixed = tcmsg(ifindex, 0xffff_0000, INGRESS_QUEUE, 0);
    let mut message = Message::new(NEWQDISC, CREATE | EXCLUSIVE, &fixed);
    message.add(KIND, b"clsact\0");
    netlink.request(message).map(drop)
}

/// Adds a filter that runs a program, or puts the program in the place of the filter's that is there.
fn set_filter(
    netlink: &mut Netlink,
    ifindex: u32,
    role: Role,
    priority: u16,
    program: (BorrowedFd<'_>, &str),
) -> io::Result<()> {
    const NEWTFILTER: u16 = 44;
    const BPF_FD: u16 = 6;
    const BPF_NAME: u16 = 7;
    const BPF_FLAGS: u16 = 8;
    /// The program's answer is the action (`TCA_BPF_FLAG_ACT_DIRECT`).
    const DIRECT: u32 = 1;

    let info = u32::from(priority) << 16 | u32::from(ALL_FRAMES.to_be());
    let fixed = tcmsg(ifindex, role.handle(), role.side().parent(), info);
    let mut message = Message::new(NEWTFILTER, CREATE, &fixed);
    message.add(KIND, b"bpf\0");
    message.nest(OPTIONS, |options| {
        options.add(BPF_FD, &program.0.as_raw_fd().to_ne_bytes());
        options.add(BPF_NAME, &[program.1.as_bytes(), b"\0"].concat());
        options.add(BPF_FLAGS, &DIRECT.to_ne_bytes());
    });
    netlink.request(message).map(drop)
}

pub(super) fn remove_filter(
    netlink: &mut Netlink,
    ifindex: u32,
    side: Side,
    filter: &Filter,
) -> io::Result<()> {
    const DELTFILTER: u16 = 45;
    let info = u32::from(filter.priority) << 16 | u32::from(filter.protocol.to_be());
    let fixed = tcmsg(ifindex, filter.handle, side.parent(), info);
    let mut message = Message::new(DELTFILTER, 0, &fixed);
    message.add(KIND, b"bpf\0");
    netlink.request(message).map(drop)
}

/// The lowest priority that a filter of the sensor can have: 1, unless foreign filters keep it.
fn priority(filters: &[Filter]) -> u16 {
    (PRIORITY..u16::MAX)
        .find(|priority| {
            let mut there = filters.iter().filter(|one| one.priority == *priority);
            there.all(Filter::leaves_room)
        })
        .unwrap_or(u16::MAX)
}

impl Place<'_> {
    /// Puts a program at TC, in the place of one of ours that is there.
    pub(super) fn seat_tc(
        &mut self,
        role: Role,
        program: &'static str,
        by_filter: bool,
    ) -> Result<Seat, Error> {
        match by_filter {
            true => self.seat_filter(role, program, by_filter),
            false => match self.seat_tcx(role, program)? {
                Some(seat) => Ok(seat),
                // Older than 6.6.
                None => self.seat_filter(role, program, by_filter),
            },
        }
    }

    /// Puts a program at TC by a link; `None` where the kernel has no links there.
    fn seat_tcx(&mut self, role: Role, program: &'static str) -> Result<Option<Seat>, Error> {
        let loaded = self.programs.get(program)?;
        let point = role.side().point();
        let there = match calls::programs_at(self.index, point) {
            Ok(there) => there,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
            Err(error) => return Err(self.refused(Hook::Tcx, &error)),
        };
        let seat = |held| Seat {
            role,
            program,
            id: loaded.id,
            hook: Hook::Tcx,
            held,
            by_filter: false,
            moved: false,
        };
        let mut old = self.pinned(role)?;
        if let Some(link) = old.take() {
            if let Ok(state) = calls::state(link.as_fd())
                && state.ifindex == self.index
                && there.first() == Some(&state.program)
                && calls::replace(link.as_fd(), loaded.fd.as_fd()).is_ok()
            {
                return Ok(Some(seat(Held::adopted(link))));
            }
            old = Some(link);
        }
        // The old program goes when the new one is there: an error must not leave the interface with none. A
        // frame that comes in between is counted twice.
        let attach = || calls::attach(loaded.fd.as_fd(), self.index, point);
        let link = match (attach(), old.take()) {
            // The same program stands behind another one. The kernel checks that last (mprog.c): everything
            // that the new link needs was there.
            (Err(error), Some(old)) if error.raw_os_error() == Some(libc::EEXIST) => {
                let _ = calls::detach(old.as_fd());
                attach()
            }
            (attached, link) => {
                old = link;
                attached
            }
        };
        let link = link.map_err(|error| self.refused(Hook::Tcx, &error))?;
        // From a kernel without links, or of another hook. Where they stay, the new link ends.
        self.remove_filters(role, |_| true)?;
        if let Some(old) = old {
            let _ = calls::detach(old.as_fd());
        }
        Ok(Some(seat(self.held(role, link))))
    }

    /// By a filter, which stays until it is removed.
    fn seat_filter(
        &mut self,
        role: Role,
        program: &'static str,
        by_filter: bool,
    ) -> Result<Seat, Error> {
        let side = role.side();
        let loaded = self.programs.get(program)?;
        let index = self.index;
        let qdisc = ingress_qdisc(self.netlink, index);
        match (
            qdisc
                .map_err(|error| self.refused(Hook::Clsact, &error))?
                .as_deref(),
            side,
        ) {
            (Some(CLSACT), _) | (Some("ingress"), Side::Ingress) => {}
            // Filters at the egress of this discipline would run at ingress.
            (Some("ingress"), Side::Egress) => {
                return Err(Error::Hook {
                    interface: self.name.to_owned(),
                    hook: Hook::Clsact.name(),
                    reason: format!(
                        "an ingress queueing discipline stands where clsact must be (`tc qdisc del \
                         dev {} ingress` removes it, with the filters that somebody has there)",
                        self.name
                    ),
                });
            }
            _ => match add_clsact(self.netlink, index) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                    return Err(self.refused(Hook::Clsact, &error));
                }
                _ => {}
            },
        }
        let there = filters(self.netlink, index, side);
        let there = there.map_err(|error| self.refused(Hook::Clsact, &error))?;
        let priority = priority(&there);
        let old = self.pinned(role)?;
        let program_of = (loaded.fd.as_fd(), program);
        set_filter(self.netlink, index, role, priority, program_of)
            .map_err(|error| self.refused(Hook::Clsact, &error))?;
        // Only now, as with links.
        if let Some(old) = old {
            let _ = calls::detach(old.as_fd());
            let _ = fs::remove_file(self.pin(role));
        }
        // Where an earlier start had its own.
        self.remove_filters(role, |filter| {
            (filter.priority, filter.handle) != (priority, role.handle())
        })?;
        Ok(Seat {
            role,
            program,
            id: loaded.id,
            hook: Hook::Clsact,
            held: Held::Filter { priority },
            by_filter,
            moved: false,
        })
    }

    /// Removes filters of ours.
    pub(super) fn remove_filters(
        &mut self,
        role: Role,
        which: impl Fn(&Filter) -> bool,
    ) -> Result<(), Error> {
        let side = role.side();
        let remove = |netlink: &mut Netlink, index| {
            for filter in filters(netlink, index, side)? {
                if filter.is_of(role) && which(&filter) {
                    remove_filter(netlink, index, side, &filter)?;
                }
            }
            Ok(())
        };
        remove(self.netlink, self.index).map_err(|error| self.refused(Hook::Clsact, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(priority: u16, kind: &str, protocol: u16) -> Filter {
        Filter {
            priority,
            handle: 1,
            protocol,
            kind: kind.to_owned(),
            program_name: String::new(),
            program: 0,
        }
    }

    #[test]
    fn a_filter_of_ours_comes_first_where_it_can() {
        assert_eq!(priority(&[]), 1);
        assert_eq!(priority(&[foreign(5, "u32", 0x800)]), 1);
        assert_eq!(priority(&[foreign(1, "bpf", ALL_FRAMES)]), 1);
        assert_eq!(priority(&[foreign(1, "bpf", 0x800)]), 2);
        let taken = [
            foreign(1, "flower", 0x800),
            foreign(2, "matchall", ALL_FRAMES),
        ];
        assert_eq!(priority(&taken), 3);
    }

    #[test]
    fn a_filter_is_read_from_an_answer() {
        let info = 1 << 16 | u32::from(ALL_FRAMES.to_be());
        let mut message = Message::new(44, 0, &tcmsg(7, 95, Side::Egress.parent(), info));
        message.add(KIND, b"bpf\0");
        message.nest(OPTIONS, |options| {
            options.add(7, b"download\0");
            options.add(11, &77_u32.to_ne_bytes());
        });
        let body = message.body().to_vec();
        let read = filter(&body).expect("a filter");
        assert!(read.is_of(Role::Download) && !read.is_of(Role::Upload));
        assert_eq!((read.priority, read.program), (1, 77));
        for len in 0..body.len() {
            // The parser ends on every truncated message.
            let _ = filter(&body[..len]);
        }
    }
}
