//! Reads a packet's payload, piece by piece: names in uploads, and all that goes to user space.
//!
//! In programs of their own, behind those in which frames come in ([`readers`](crate::table::readers)). A
//! program fetches the piece that [`go_on`] asks for, until it asks for none: so nothing but the fetching knows
//! frames. The state of the reading stands in this CPU's buffers from one step to the next.

mod assemble;
mod requests;

use sensor_ebpf::{
    books::Opens,
    flow::Direction,
    kind::{Kind, LOOKED_AT, classify, is_service},
    parse::protocol,
    policy::{Layer, Rules as _, Verdict},
    quic::header::{LEAST_DATAGRAM, Version},
    said::{Found, Place, hello::Walk, initial, question},
    sample::{Head, MAX_PAYLOAD, MAX_PIECES, NO_SLOT, wanted_of},
};

use self::{
    assemble::{
        claim, end_assembled, fetch_message, is_named, judged_up_to, keep_watch, may_be_part, seek,
        step_assembled, step_put,
    },
    requests::{step_end, step_host, step_host_found, step_host_name, step_next, step_target},
};
use crate::{
    global,
    judge::{
        conclude_with, decide_about, find_names, is_question_alone, message_behind,
        read_framed_question, read_question, read_server_name, refuses, settled, wait,
    },
    sample::{next_packet, watch_on},
    seen::Action,
    table::{
        flows, ring,
        rules::Rulebook,
        scratch::{self, Reading, Sample},
        settings, told,
    },
};

/// The next step with the packet at hand.
pub(crate) mod phase {
    /// The packet begins: its kind is told.
    pub(crate) const FIRST: u32 = 0;
    /// A datagram with a DNS question.
    pub(crate) const QUESTION: u32 = 1;
    /// A stream of DNS messages, at one of them.
    pub(crate) const MESSAGE: u32 = 2;
    /// A hello, up to its list of names.
    pub(crate) const HELLO: u32 = 3;
    /// The name in that list.
    pub(crate) const SERVER_NAME: u32 = 4;
    /// A request, up to the field that names the host.
    pub(crate) const HOST: u32 = 5;
    /// The end of that search.
    pub(crate) const HOST_FOUND: u32 = 6;
    /// The host in that field.
    pub(crate) const HOST_NAME: u32 = 7;
    /// The host in the request's target.
    pub(crate) const TARGET: u32 = 8;
    /// The pieces go into the ring.
    pub(crate) const TELL: u32 = 9;
    /// The question to answer stands in the first piece.
    pub(crate) const OVER: u32 = 10;
    /// The pieces go into the assembly of their connection.
    pub(crate) const PUT: u32 = 11;
    /// The message in the assembly begins: its kind is told.
    pub(crate) const ASSEMBLED: u32 = 12;
    /// The end of a request's head is looked for.
    pub(crate) const END: u32 = 13;
    /// The message behind a request in the frame begins: its kind is told.
    pub(crate) const NEXT: u32 = 14;
    /// A datagram in which an Initial may be: the program that opens it goes on.
    pub(crate) const INITIAL: u32 = 15;
    /// A message that could not be read is left to user space.
    pub(crate) const LEAVE: u32 = 16;
}

/// Where the bytes are that are read.
pub(crate) mod source {
    /// The frame at hand.
    pub(crate) const FRAME: u32 = 0;
    /// The assembly of its connection.
    pub(crate) const ASSEMBLY: u32 = 1;
    /// The same, of a hello that is cut into several records of TLS.
    pub(crate) const RECORDS: u32 = 2;
}

/// The result of [`go_on`] where nothing is left to do.
const DONE: u32 = u32::MAX;

/// The most pieces that are asked for: of the longest stream of DNS messages one for each, and all that go
/// into the ring; of [`MAX_DATAGRAMS`](sensor_ebpf::sample::MAX_DATAGRAMS) datagrams eight for each.
const STEPS: u32 = 1_024;

/// Reads the packet that was handed over; `fetch` brings the piece that begins at a place. Gives the action on
/// the frame.
#[inline(always)]
pub(crate) fn read(fetch: impl Fn(u32) -> u32) -> Action {
    run(fetch, || go_on())
}

/// As [`read`], where nothing is judged.
#[inline(always)]
pub(crate) fn copy(fetch: impl Fn(u32) -> u32) -> Action {
    run(fetch, || copy_on())
}

/// Whether the packet at hand has an Initial that is to be opened before anything else. Where the program that does
/// is not there, the reader goes on without it.
#[inline(always)]
pub(crate) fn has_initial() -> bool {
    match scratch::reading() {
        Some(reading) if reading.phase == phase::INITIAL => {
            reading.phase = phase::LEAVE;
            true
        }
        _ => false,
    }
}

#[inline(always)]
fn run(fetch: impl Fn(u32) -> u32, step: impl Fn() -> u32) -> Action {
    let mut at = 0;
    for _ in 0..STEPS {
        if fetch_message(at) == 0 {
            fetch(at);
        }
        at = step();
        if at == DONE {
            break;
        }
    }
    match scratch::reading() {
        Some(reading) => Action::from_number(reading.action),
        None => Action::Pass,
    }
}

/// This CPU's buffers of the packet at hand.
#[inline(always)]
fn at_hand() -> Option<(&'static mut Sample, &'static mut Reading)> {
    Some((scratch::sample()?, scratch::reading()?))
}

global! {
    /// Takes one step, and gives from which byte of the payload on the next one needs it; [`DONE`] where
    /// there is none.
    fn go_on() -> u32 {
        let Some(reading) = scratch::reading() else {
            return DONE;
        };
        match reading.phase {
            phase::FIRST => begin(),
            phase::QUESTION => step_question(),
            phase::MESSAGE => step_message(),
            phase::HELLO => step_hello(),
            phase::SERVER_NAME => step_server_name(),
            phase::HOST => step_host(),
            phase::HOST_FOUND => step_host_found(),
            phase::HOST_NAME => step_host_name(),
            phase::TARGET => step_target(),
            phase::PUT => step_put(),
            phase::ASSEMBLED => step_assembled(),
            phase::END => step_end(),
            phase::NEXT => step_next(),
            phase::LEAVE => leave(0),
            phase::TELL => tell_piece(),
            _ => DONE,
        }
    }
}

global! {
    /// As [`go_on`], where nothing is judged.
    fn copy_on() -> u32 {
        let Some(reading) = scratch::reading() else {
            return DONE;
        };
        match reading.phase {
            phase::FIRST => recognise(),
            phase::TELL => tell_piece(),
            _ => DONE,
        }
    }
}

global! {
    /// Tells the kind of the payload whose first piece is there. Goes over to the next packet where no reader
    /// wants it.
    fn recognise() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return DONE;
        };
        let Some(first) = sample.payload.first_chunk::<LOOKED_AT>() else {
            return DONE;
        };
        let kind = match sample.head.captured {
            0 => None,
            _ => classify(&sample.head.key, first, sample.head.payload as usize),
        };
        if let Some(kind) = kind {
            sample.head.kind = kind as u8;
        }
        let wanted = watch_on();
        if wanted == 0 && reading.packets != 0 {
            // The packets before were all that the flow's watch wanted.
            return DONE;
        }
        if kind.is_none() {
            return next();
        }
        reading.phase = phase::TELL;
        0
    }
}

global! {
    /// As [`recognise`], and chooses the reader: for uploads of devices that rules by name apply to, where they
    /// are not refused already.
    fn begin() -> u32 {
        let at = recognise();
        let (Some(settings), Some((sample, reading))) = (settings::settings(), at_hand()) else {
            return DONE;
        };
        if reading.phase != phase::TELL {
            return at;
        }
        let rules = Rulebook::new(settings::generation(settings), settings);
        let device = rules.for_device(sample.head.key.mac());
        if device & rules.name_rules() == 0
            || Verdict::from_number(reading.booked as u8).refuses()
        {
            return at;
        }
        reading.strict = u32::from(device & rules.strict_rules() != 0);
        reading.found = Found::Nameless as u32;
        // The server reads a byte less of what is urgent.
        if sample.head.flags & Head::URGENT != 0 {
            return at;
        }
        if sample.head.key.protocol() == protocol::TCP && seek() != 0 {
            reading.phase = phase::PUT;
            return 0;
        }
        choose(sample.head.kind.into());
        if reading.phase == phase::INITIAL {
            return DONE;
        }
        if reading.phase == phase::TELL && sample.payload[0] == b'\r' && is_named(sample.head.slot) {
            // Empty lines may stand before a further request.
            reading.phase = phase::NEXT;
        }
        if reading.phase == phase::TELL {
            return leave(u32::from(may_be_part(&sample.head)));
        }
        at
    }
}

/// Chooses the reader of a message, by its kind's number.
#[inline(always)]
fn choose(kind: u32) {
    const DNS: u32 = Kind::Dns as u32;
    const TLS: u32 = Kind::Tls as u32;
    const HTTP: u32 = Kind::Http as u32;
    const QUIC: u32 = Kind::Quic as u32;

    let Some((sample, reading)) = at_hand() else {
        return;
    };
    let is_udp = sample.head.key.protocol() == protocol::UDP;
    reading.kind = kind;
    reading.state = 0;
    reading.phase = match kind {
        DNS if is_udp => phase::QUESTION,
        DNS if is_service(&sample.head.key) => phase::MESSAGE,
        TLS => phase::HELLO,
        HTTP => phase::HOST,
        QUIC if may_be_opened(sample, reading) => phase::INITIAL,
        _ => phase::TELL,
    };
}

/// Whether Initials in the datagram at hand are opened: where it is as long as a server wants it, and lies whole in
/// this CPU's buffer.
#[inline(always)]
fn may_be_opened(sample: &Sample, reading: &mut Reading) -> bool {
    /// One program goes on in another 33 times at most: there and back for each.
    const MOST: u32 = 12;

    let opens =
        settings::settings().is_some_and(|settings| settings.opens_initials == Opens::On as u64);
    let [first, version @ .., _, _, _] = *sample.payload.first_chunk::<8>().unwrap_or(&[0; 8]);
    if !opens
        || !initial::is_long(first)
        || Version::from_wire(u32::from_be_bytes(version)).is_none()
        || (sample.head.captured as usize) < LEAST_DATAGRAM
        || sample.head.captured != reading.payload
        || reading.opened >= MOST
    {
        return false;
    }
    reading.opened += 1;
    true
}

/// Leaves a message that could not be read: to the packets that come behind this one, where `is_part` says that
/// they may complete it, and to user space.
#[inline(always)]
fn leave(is_part: u32) -> u32 {
    let Some((sample, reading)) = at_hand() else {
        return DONE;
    };
    if reading.strict != 0 {
        wait(&reading.seen, &sample.head);
    }
    if reading.source != source::FRAME {
        keep_watch(sample.head.slot);
    } else if is_part != 0 && sample.head.key.protocol() == protocol::TCP && claim() != 0 {
        reading.phase = phase::PUT;
        return 0;
    }
    tell()
}

/// Goes over to putting the pieces into the ring.
#[inline(always)]
fn tell() -> u32 {
    let Some((sample, reading)) = at_hand() else {
        return DONE;
    };
    if reading.untold != 0 {
        return next();
    }
    reading.phase = phase::TELL;
    if reading.source == source::FRAME && reading.origin == 0 {
        return reading.window;
    }
    reading.source = source::FRAME;
    reading.origin = 0;
    sample.head.captured = 0;
    0
}

/// Judges by the name that was found; then the pieces go into the ring.
#[inline(always)]
fn finish(found: u32, layer: Layer) -> u32 {
    conclude_with(found, layer as u32);
    let Some(reading) = scratch::reading() else {
        return DONE;
    };
    if found == Found::Unread as u32 {
        return leave(1);
    }
    if reading.source != source::FRAME && found != Found::NoHostName as u32 {
        end_assembled(found);
    }
    tell()
}

global! {
    /// A datagram with a question.
    fn step_question() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return DONE;
        };
        let found = read_question(0);
        if !is_service(&sample.head.key) && (found != Found::Name as u32 || is_question_alone() == 0) {
            // At another port a question is known by all of its bytes.
            reading.phase = phase::TELL;
            return 0;
        }
        reading.decided = decide_about(found, Layer::Dns as u32);
        finish(found, Layer::Dns)
    }
}

global! {
    /// A message in a stream. One that is refused ends the stream; of others the latest is the flow's.
    fn step_message() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return DONE;
        };
        let start = reading.state as u32;
        let read_to = reading.window + sample.head.captured;
        let reaches = |from: u32| {
            from + question::FRAMED_NAME as u32 <= read_to || read_to >= reading.there
        };
        if start != reading.window && !reaches(start) {
            return start;
        }
        let found = read_framed_question(start);
        if found != Found::Name as u32 && found != Found::Nameless as u32 {
            return finish(found, Layer::Dns);
        }
        let decided = decide_about(found, Layer::Dns as u32);
        if decided != 0 {
            reading.decided = decided;
        }
        if found == Found::Name as u32 {
            reading.found = found;
        }
        if refuses(decided) {
            return finish(found, Layer::Dns);
        }
        let next = message_behind(start);
        if next >= reading.there {
            if next > reading.there && reading.source == source::FRAME {
                judged_up_to(next);
            }
            return finish(reading.found, Layer::Dns);
        }
        if next >= question::SEARCHED as u32 {
            return finish(Found::Unread as u32, Layer::Dns);
        }
        reading.state = u64::from(next);
        if reaches(next) { reading.window } else { next }
    }
}

global! {
    /// A hello, as far as its bytes are there.
    fn step_hello() -> u32 {
        let Some(reading) = scratch::reading() else {
            return DONE;
        };
        let before = reading.state;
        let number = find_names(before);
        reading.state = number;
        let walk = Walk::from_number(number);
        let place = match walk.place() {
            None if number != before => return walk.at() as u32,
            None => Place::Unknown,
            Some(Place::Unknown) if reading.source == source::ASSEMBLY && before == 0 => {
                // Perhaps it is in several records.
                reading.source = source::RECORDS;
                reading.state = 0;
                return 0;
            }
            Some(place) => place,
        };
        go_to(reading, place, phase::SERVER_NAME)
    }
}

/// Goes on where a name stands.
#[inline(always)]
fn go_to(reading: &mut Reading, place: Place, phase: u32) -> u32 {
    reading.place = place.number();
    reading.phase = phase;
    match place {
        Place::At(at) => at as u32,
        Place::Nowhere | Place::Unknown => reading.window,
    }
}

global! {
    /// The name in a hello.
    fn step_server_name() -> u32 {
        let Some(reading) = scratch::reading() else {
            return DONE;
        };
        let found = settled(read_server_name(reading.place));
        let layer = match reading.kind == Kind::Quic as u32 {
            true => Layer::Quic,
            false => Layer::Tls,
        };
        reading.decided = decide_about(found, layer as u32);
        finish(found, layer)
    }
}

global! {
    /// Puts the piece in this CPU's buffer into the ring, once it is the one that is due. Of refused questions,
    /// one a second for each device and name ([`told::admit`]): a device asks them again and again, and user
    /// space has nothing to do about them.
    fn tell_piece() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return DONE;
        };
        let (Some(kind), Some(said)) = (Kind::from_number(sample.head.kind), scratch::said()) else {
            return DONE;
        };
        let piece = reading.piece;
        if piece == 0 {
            if sample.head.slot == NO_SLOT && !is_service(&sample.head.key) {
                // User space has no way to rule on it; the packet is in the overflow's books.
                return next();
            }
            if sample.head.kind == Kind::Dns as u8 && sample.head.flags & Head::REFUSED != 0 {
                let Some(suppressed) = told::admit(sample.head.key.mac(), &said.suffixes) else {
                    ring::count_suppressed(Kind::Dns);
                    return next();
                };
                sample.head.suppressed = suppressed;
            }
        }
        let at = piece * MAX_PAYLOAD as u32;
        if reading.window != at {
            return at;
        }
        if sample.head.captured == 0 {
            return next();
        }
        let is_always = is_service(&sample.head.key)
            || flows::in_slot(sample.head.slot).is_some_and(|flow| {
                let direction = Direction::from_number(sample.head.direction);
                !flow.line.watch().runs_out(direction)
            });
        let end = at + sample.head.captured;
        let more = end < wanted_of(reading.payload, is_always) && piece + 1 < MAX_PIECES;
        sample.head.piece = piece as u8;
        sample.head.flags = match more {
            true => sample.head.flags | Head::MORE,
            false => sample.head.flags & !Head::MORE,
        };
        let told = ring::submit(sample, sample.head.captured, kind);
        if !told || !more {
            return next();
        }
        reading.piece = piece + 1;
        end
    }
}

/// Goes over to the next packet that the frame stands for. One refused packet ends the whole frame.
#[inline(always)]
fn next() -> u32 {
    let Some(reading) = scratch::reading() else {
        return DONE;
    };
    if Action::from_number(reading.action) == Action::Pass && next_packet() {
        return 0;
    }
    reading.phase = phase::OVER;
    match Action::from_number(reading.action) {
        // The question that is answered stands in the first piece.
        Action::NxDomain | Action::Zero if reading.window != 0 => 0,
        _ => DONE,
    }
}
