//! Capture files: the same records as the kernel gives.
//!
//! `capture` reads the file · `frame` makes an Ethernet frame of every packet · `sides` says which
//! end is the device · `tunnel` finds the packet inside of a packet · `host` or `programs` book it ·
//! `reading` tells the tables at the end.

mod capture;
mod frame;
mod hashing;
mod host;
mod programs;
mod sides;
mod tables;
mod tunnel;

use std::{collections::BTreeMap, io::Read, ops::ControlFlow};

use ipnet::IpNet;
use sensor_ebpf::{
    books::{Losses, Tally},
    flow::{Direction, FlowRecord},
    parse::{Parsed, Piece, parse},
    skip::Skip,
};

pub use capture::Damage;
pub use frame::Unreadable;
pub use programs::Programs;
pub use tables::Booked;
pub use tunnel::Place;

use crate::{record::Record, source::kernel};
use capture::Captured;
use frame::{Frame, Framed};
use host::Host;
use programs::Run;
use sides::Sides;
use tables::Reading;

/// How captures are replayed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Addresses that are local, whichever side began.
    pub lan: Vec<IpNet>,
    /// Payloads of a new flow that are wanted in each direction, 0 to 15.
    pub payloads: u8,
}

/// The content of a capture, and how it was accounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Packets, and the octets they had on their links.
    pub captured: Tally,
    /// Octets that the frames of the books have more than the packets on their links, because the
    /// headers of a link were replaced by Ethernet's.
    pub framing: i64,
    /// Packets of which no frame could be made.
    pub unreadable: BTreeMap<Unreadable, Tally>,
    /// The counts of the frames in the books.
    pub booked: Booked,
    /// Why the file was not read to its end.
    pub damage: Option<Damage>,
}

/// A frame on its way into the books.
struct Seen<'a> {
    frame: Frame<'a>,
    /// With the addresses that [`Sides`] gave it.
    parsed: Result<Parsed, Skip>,
    direction: Direction,
    place: Place,
    /// Microseconds since the Unix epoch.
    at: u64,
}

/// How long after a flow's first packet the flow is emitted, before the end, in microseconds: an address
/// gets the name that was asked for when the address was used.
const TOLD_AFTER: u64 = 3_000_000;

/// The engine that books the frames.
pub enum Engine {
    /// The code that the kernel programs are made of, in this process.
    Host,
    /// The kernel programs themselves.
    Kernel(Box<Programs>),
}

impl Engine {
    /// The kernel's, for captures replayed with these options. The calling thread stays in a
    /// network namespace of its own.
    ///
    /// # Errors
    ///
    /// When the privilege is missing, or the kernel refuses a call.
    pub fn kernel(options: &Options) -> Result<Self, kernel::Error> {
        Ok(Self::Kernel(Box::new(Programs::load(options.payloads)?)))
    }

    fn begin(&mut self, options: &Options) -> Result<Books<'_>, kernel::Error> {
        Ok(match self {
            Self::Host => Books::Host(Box::new(Host::new(options.payloads))),
            Self::Kernel(programs) => Books::Kernel(Box::new(programs.begin()?)),
        })
    }
}

/// Reads a capture to its end or its damage: payloads are emitted as they come, the tables at the end. Each
/// record comes with its time in seconds since the Unix epoch.
///
/// # Errors
///
/// When the kernel refuses a program or a map; never with [`Engine::Host`]. A frame that the kernel does
/// not take is counted as [`Unreadable::NotTaken`].
pub fn replay(
    input: impl Read + Send,
    options: &Options,
    engine: &mut Engine,
    mut emit: impl FnMut(Record, f64),
) -> Result<Summary, kernel::Error> {
    let mut replay = Replay {
        sides: Sides::new(&options.lan),
        inner_sides: Sides::new(&options.lan),
        books: engine.begin(options)?,
        summary: Summary::default(),
        told: 0,
        now: 0,
    };
    let mut refused = None;
    emit(Reading::begin(Losses::default()), 0.0);
    let result = capture::read(input, |captured| {
        let told = replay.packet(&captured, &mut |record, at| emit(record, seconds(at)));
        match told {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                refused = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    if let Some(error) = refused {
        return Err(error);
    }
    let end = seconds(replay.now.saturating_add(TOLD_AFTER));
    let reading = replay.books.into_reading()?;
    let mut summary = replay.summary;
    summary.booked = reading.booked();
    summary.damage = result.err();
    reading.emit(|record| emit(record, end));
    Ok(summary)
}

/// The books of one capture.
enum Books<'a> {
    Host(Box<Host>),
    Kernel(Box<Run<'a>>),
}

impl Books<'_> {
    /// Books a frame, and gives whether it could be.
    fn observe(
        &mut self,
        seen: &Seen<'_>,
        emit: &mut impl FnMut(Record),
    ) -> Result<bool, kernel::Error> {
        match self {
            Self::Host(host) => {
                host.observe(seen, emit);
                Ok(true)
            }
            Self::Kernel(run) => run.observe(seen, emit),
        }
    }

    /// The flow that was opened as the `number`th, if its first packet came until a moment.
    fn opened_until(&self, number: u32, until: u64) -> Option<FlowRecord> {
        match self {
            Self::Host(host) => host
                .flow(number)
                .filter(|flow| flow.first_seen <= until)
                .copied(),
            Self::Kernel(run) => {
                run.first_seen(number).filter(|first| *first <= until)?;
                run.flow(number)
            }
        }
    }

    fn into_reading(self) -> Result<Reading, kernel::Error> {
        match self {
            Self::Host(host) => Ok(host.into_reading()),
            Self::Kernel(run) => run.into_reading(),
        }
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// One capture under way.
struct Replay<'a> {
    sides: Sides,
    inner_sides: Sides,
    books: Books<'a>,
    summary: Summary,
    /// Flows that were emitted before the end.
    told: u32,
    /// When the last packet came, in microseconds since the Unix epoch.
    now: u64,
}

impl Replay<'_> {
    fn packet(
        &mut self,
        captured: &Captured<'_>,
        emit: &mut impl FnMut(Record, u64),
    ) -> Result<(), kernel::Error> {
        let wire = Tally {
            packets: 1,
            bytes: captured.original_len.into(),
        };
        tables::add(&mut self.summary.captured, wire);
        self.now = captured.at;
        self.tell(emit);
        let seen = frame::framed(captured)
            .and_then(|framed| seen(framed, Place::Capture, captured.at, &mut self.sides));
        let seen = match seen {
            Ok(seen) => seen,
            Err(reason) => {
                tables::add(self.summary.unreadable.entry(reason).or_default(), wire);
                return Ok(());
            }
        };
        let mut emit = |record| emit(record, captured.at);
        if !self.books.observe(&seen, &mut emit)? {
            let not_taken = self.summary.unreadable.entry(Unreadable::NotTaken);
            tables::add(not_taken.or_default(), wire);
            return Ok(());
        }
        self.summary.framing += seen.frame.len() as i64 - i64::from(captured.original_len);
        if let Ok(parsed) = &seen.parsed
            && let Some((place, framed)) = tunnel::inner(&seen.frame, parsed)
            && let Ok(inner) = self::seen(framed, place, captured.at, &mut self.inner_sides)
        {
            self.books.observe(&inner, &mut emit)?;
        }
        Ok(())
    }

    /// Emits the flows that are old enough.
    fn tell(&mut self, emit: &mut impl FnMut(Record, u64)) {
        let until = self.now.saturating_sub(TOLD_AFTER);
        while let Some(flow) = self.books.opened_until(self.told, until) {
            emit(Record::Flow(self.told, flow), self.now);
            self.told += 1;
        }
    }
}

/// Parses a frame and finds its direction.
fn seen<'a>(
    mut framed: Framed<'a>,
    place: Place,
    at: u64,
    sides: &mut Sides,
) -> Result<Seen<'a>, Unreadable> {
    let mut parsed = parse(&framed.frame);
    let direction = match &mut parsed {
        Ok(parsed) if is_cut_short(&framed.frame, parsed) => return Err(Unreadable::CutShort),
        Err(_) if framed.frame.is_cut() => return Err(Unreadable::CutShort),
        Ok(parsed) => sides.settle(&mut framed, parsed),
        Err(_) => Direction::Upload,
    };
    Ok(Seen {
        frame: framed.frame,
        parsed,
        direction,
        place,
        at,
    })
}

/// Whether the headers that name a frame's flow were not captured, though the parser found none missing:
/// without ports, it books the start of a packet that has no room for them.
fn is_cut_short(frame: &Frame<'_>, parsed: &Parsed) -> bool {
    const TCP_HEADER: usize = 20;
    frame.is_cut()
        && parsed.piece == Piece::Later
        && frame.captured() < parsed.transport_offset + TCP_HEADER
}
