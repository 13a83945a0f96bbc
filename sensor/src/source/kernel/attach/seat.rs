//! One program on one interface: its role, the link or filter that holds it there, and whether it still is
//! there.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use super::{
    Place,
    tc::{self, Side},
};
use crate::{
    model::Hook,
    source::kernel::{calls, links::Link, pins},
};

/// The role of a program on an interface; at most one program has each role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source::kernel) enum Role {
    /// Reads the frames that devices send.
    Upload,
    /// Reads the frames that devices receive.
    Download,
    /// Numbers the frames that the machine sends over a bridge whose ports are watched.
    Number,
    /// Answers the packets that XDP refused and handed on.
    Answer,
}

impl Role {
    pub(in crate::source::kernel) const ALL: [Self; 4] =
        [Self::Upload, Self::Download, Self::Number, Self::Answer];

    /// The word for it in names of pins and in messages.
    pub(in crate::source::kernel) const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Number => "number",
            Self::Answer => "answer",
        }
    }

    /// Which side of TC it is at, where it is at TC.
    pub(super) const fn side(self) -> Side {
        match self {
            Self::Upload | Self::Answer => Side::Ingress,
            Self::Download | Self::Number => Side::Egress,
        }
    }

    /// The handle of its filter, by which the next start finds it. No two share one: under the
    /// queueing discipline `ingress`, both sides of TC are the same.
    pub(super) const fn handle(self) -> u32 {
        match self {
            Self::Upload => 94,
            Self::Download => 95,
            Self::Number => 96,
            Self::Answer => 97,
        }
    }

    /// The programs that can have this part at TC.
    pub(super) const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Upload => &["upload_tc", "upload_port"],
            Self::Download => &["download", "download_port"],
            Self::Number => &["number"],
            Self::Answer => &["answer_noted"],
        }
    }
}

/// A program that was put on an interface.
pub(in crate::source::kernel) struct Seat {
    pub(super) role: Role,
    /// Its name in the object.
    pub(super) program: &'static str,
    /// The kernel's number of it.
    pub(super) id: u32,
    pub(super) hook: Hook,
    pub(super) held: Held,
    /// Whether it was to be held by a filter, even where the kernel has links.
    pub(super) by_filter: bool,
    /// Whether it was moved before foreign programs once already.
    pub(super) moved: bool,
}

impl Seat {
    /// Ends the link of a program whose place another program has taken, unless both are in the same link.
    pub(super) fn make_room_for(self, other: &Self) {
        let Held::Link { link, .. } = &self.held else {
            return;
        };
        let id = |link: &OwnedFd| calls::state(link.as_fd()).map(|state| state.id).ok();
        let is_same = match &other.held {
            Held::Link { link: new, .. } => id(link) == id(new),
            Held::Filter { .. } => false,
        };
        if !is_same {
            let _ = calls::detach(link.as_fd());
        }
    }
}

/// The object that holds a program on an interface.
pub(super) enum Held {
    /// A link, which ends when neither this descriptor nor a pin holds it.
    Link { link: OwnedFd, is_pinned: bool },
    /// A filter of the clsact queueing discipline.
    Filter { priority: u16 },
}

impl Held {
    /// A link that was pinned before.
    pub(super) const fn adopted(link: OwnedFd) -> Self {
        Self::Link {
            link,
            is_pinned: true,
        }
    }
}

/// The kernel's state at the place where a program was put.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The program is there. Programs that stand before it may end the chain.
    Sound {
        before: Vec<String>,
        /// Whether it can be put before them.
        can_move: bool,
    },
    /// The program is missing, and why.
    Missing(String),
}

impl Place<'_> {
    /// Looks at the kernel's state at the place where a program was put.
    ///
    /// An error is that of the look itself, and says nothing about the program.
    pub(super) fn standing(&mut self, seat: &Seat, link: &Link) -> io::Result<Standing> {
        match &seat.held {
            Held::Filter { priority } => self.standing_filter(seat, *priority),
            Held::Link { link: held, .. } => {
                let state = calls::state(held.as_fd())?;
                if state.ifindex != self.index {
                    return Ok(Standing::Missing("its link was detached".to_owned()));
                }
                if state.program != seat.id {
                    let other = state.program;
                    return Ok(Standing::Missing(format!(
                        "program {other} was put into its link"
                    )));
                }
                match seat.hook {
                    Hook::Tcx => self.standing_tcx(seat),
                    _ if link.xdp.contains(&seat.id) => Ok(Standing::sound()),
                    _ => Ok(Standing::Missing(
                        "the interface does not name it as its XDP program".to_owned(),
                    )),
                }
            }
        }
    }

    fn standing_tcx(&self, seat: &Seat) -> io::Result<Standing> {
        let programs = calls::programs_at(self.index, seat.role.side().point())?;
        match programs.iter().position(|program| *program == seat.id) {
            Some(place) => Ok(Standing::Sound {
                before: programs[..place]
                    .iter()
                    .map(|program| format!("program {program} (tcx)"))
                    .collect(),
                can_move: true,
            }),
            None => Ok(Standing::Missing(
                "it is not among the programs of its place".to_owned(),
            )),
        }
    }

    fn standing_filter(&mut self, seat: &Seat, priority: u16) -> io::Result<Standing> {
        let side = seat.role.side();
        if side == Side::Egress
            && tc::ingress_qdisc(self.netlink, self.index)?.as_deref() != Some(tc::CLSACT)
        {
            return self.without_clsact();
        }
        let filters = tc::filters(self.netlink, self.index, side)?;
        let is_place = |filter: &tc::Filter| {
            filter.priority == priority && filter.handle == seat.role.handle()
        };
        match filters.iter().position(is_place) {
            Some(place) if filters[place].program == seat.id => {
                let before = &filters[..place];
                let mut names: Vec<_> = match calls::programs_at(self.index, side.point()) {
                    Ok(programs) => programs
                        .iter()
                        .map(|program| format!("program {program} (tcx)"))
                        .collect(),
                    // Older than 6.6.
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Vec::new(),
                    Err(error) => return Err(error),
                };
                // The newest filter of one priority comes first; a lower priority is that of foreign
                // filters.
                let can_move =
                    names.is_empty() && before.iter().all(|one| one.priority == priority);
                names.extend(before.iter().map(tc::Filter::text));
                Ok(Standing::Sound {
                    before: names,
                    can_move,
                })
            }
            Some(place) => Ok(Standing::Missing(format!(
                "{} has its place",
                filters[place].text()
            ))),
            None => self.without_clsact(),
        }
    }

    /// Why a filter is missing.
    fn without_clsact(&mut self) -> io::Result<Standing> {
        let qdisc = tc::ingress_qdisc(self.netlink, self.index)?;
        Ok(Standing::Missing(match qdisc.as_deref() {
            Some(tc::CLSACT) => "its filter was deleted".to_owned(),
            Some(other) => format!("the queueing discipline clsact was replaced by {other}"),
            None => "the queueing discipline clsact was deleted".to_owned(),
        }))
    }

    /// Takes a program off its interface. A link or filter that is gone is no error.
    pub(super) fn unseat(&mut self, seat: &Seat) {
        match &seat.held {
            Held::Link { link, .. } => {
                let _ = calls::detach(link.as_fd());
                let _ = pins::end_link(&self.pin(seat.role));
            }
            Held::Filter { .. } => {
                let _ = self.remove_filters(seat.role, |_| true);
            }
        }
    }
}

impl Standing {
    fn sound() -> Self {
        Self::Sound {
            before: Vec::new(),
            can_move: false,
        }
    }
}
