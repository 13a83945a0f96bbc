//! Reads a packet's payload, piece by piece: names in uploads, and all that goes to user space.
//!
//! In programs of their own, behind those in which frames come in ([`readers`](crate::table::readers)). A
//! program fetches the piece that [`go_on`] asks for, until it asks for none: so nothing but the fetching knows
//! frames. The state of the reading stands in this CPU's buffers from one step to the next.

use sensor_ebpf::{
    assembly::{Assembly, CAPACITY, Owner, Put, WINDOW},
    flow::{Direction, Judgement},
    kind::{Kind, LOOKED_AT, classify, is_service},
    name::NAME_CAPACITY,
    parse::protocol,
    policy::{Layer, Rules as _, Verdict},
    said::{
        Found, Place,
        hello::Walk,
        prelude::{self, Prelude},
        question,
        request::{End, Search},
    },
    sample::{Head, MAX_PAYLOAD, MAX_PIECES, NO_SLOT, Watch, wanted_of},
    watch::Early,
};

use crate::{
    field, global,
    judge::{
        conclude_with, decide_about, find_end, find_host, find_names, find_target, found_host,
        is_question_alone, message_behind, read_framed_question, read_host, read_question,
        read_server_name, refuses, settled, wait,
    },
    sample::{Payload, next_packet, watch_on},
    seen::Action,
    table::{
        assemblies::{self, NONE},
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

/// Whether a payload whose kind is not known may belong to a message: because others come before it or behind, or
/// because it stands before the message.
#[inline(always)]
fn may_be_part(head: &Head) -> bool {
    head.kind == Kind::Stream as u8 && (head.place() != 0 || skip_prelude(1) != OTHER)
}

/// Whether a name was judged in the flow in a slot, or it is known to say none.
#[inline(always)]
fn is_named(slot: u32) -> bool {
    flows::in_slot(slot).is_some_and(|flow| Judgement::unpack(flow.line.judgement_word()).named)
}

/// Chooses the reader of a message, by its kind's number.
#[inline(always)]
fn choose(kind: u32) {
    const DNS: u32 = Kind::Dns as u32;
    const TLS: u32 = Kind::Tls as u32;
    const HTTP: u32 = Kind::Http as u32;

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
        _ => phase::TELL,
    };
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

global! {
    /// Looks for the assembly that the connection of the packet at hand has. Gives whether it has one.
    fn seek() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return 0;
        };
        reading.assembly = NONE;
        if sample.head.slot == NO_SLOT || sample.head.place() == Early::SOMEWHERE {
            return 0;
        }
        let owner = Owner {
            device: reading.device,
            flow: sample.head.slot,
            epoch: sample.head.epoch as u8,
            connection: 0,
        };
        reading.owner = owner.of_device();
        reading.assembly = assemblies::find_assembly(reading.device, reading.owner);
        let Some(assembly) = assemblies::numbered(reading.assembly) else {
            return 0;
        };
        let flags = field!(assembly, flags).load();
        if flags & Assembly::CONFLICT != 0 {
            // Nobody knows which bytes the server takes. Messages that are whole in a packet are judged as ever.
            reading.claims = 0;
            return 0;
        }
        reading.untold = flags & Assembly::ENOUGH;
        let judged_to = field!(assembly, judged_to).load();
        let at = sample.head.place().wrapping_sub(field!(assembly, base).load());
        if judged_to != 0 && at as i32 >= judged_to as i32 {
            // The next message begins with this packet.
            return 0;
        }
        reading.rereads = u32::from(judged_to == 0);
        1
    }
}

global! {
    /// Takes an assembly for the connection of the packet at hand, where its first bytes may be kept. Gives
    /// whether there was one.
    fn claim() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return 0;
        };
        let place = sample.head.place().wrapping_add(reading.origin);
        let is_named = is_named(sample.head.slot);
        let kind = sample.head.kind;
        // Every request and every question names a host. Of a hello, the first is judged.
        let is_next = kind == Kind::Http as u8 || kind == Kind::Dns as u8;
        if sample.head.place() == Early::SOMEWHERE || reading.claims == 0 || is_named && !is_next {
            return 0;
        }
        // A message that begins here begins the assembly; of a part of one, the stream does. A part of a question or
        // of a request may look like one.
        let is_part = kind == Kind::Stream as u8 || is_next && !is_named;
        let base = if is_part { 0 } else { place };
        if place - base >= CAPACITY as u32 {
            return 0;
        }
        // A hello may be whole, and in several records.
        reading.rereads = u32::from(kind == Kind::Stream as u8 || kind == Kind::Tls as u8);
        reading.assembly = assembly_from(base);
        if reading.origin != 0 {
            reading.origin = 0;
            sample.head.captured = 0;
        }
        u32::from(reading.assembly != NONE)
    }
}

global! {
    /// Puts the piece in this CPU's buffer into the connection's assembly. Behind the last one, the message there
    /// is read.
    fn step_put() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return DONE;
        };
        let Some(assembly) = assemblies::numbered(reading.assembly) else {
            return tell();
        };
        let captured = sample.head.captured;
        let base = field!(assembly, base).load();
        // How far behind the first byte that is kept the piece begins: it may begin before it.
        let at = sample.head.place().wrapping_sub(base).wrapping_add(reading.window);
        let before = match (at as i32) < 0 {
            true => at.wrapping_neg(),
            false => 0,
        };
        if before < captured && at.wrapping_add(before) < CAPACITY as u32 {
            let owner = reading.owner | u64::from(reading.device) << 48;
            let len = captured - before;
            let put = assemblies::put_piece(reading.assembly, owner, at.wrapping_add(before), before, len);
            if put != Put::There as u32 {
                // In conflict, or another's by now: the packet is read by itself.
                reading.claims = 0;
                sample.head.captured = 0;
                choose(sample.head.kind.into());
                if reading.phase == phase::TELL {
                    return leave(0);
                }
                return 0;
            }
        }
        let next = reading.window + captured;
        if captured == MAX_PAYLOAD as u32 && next < reading.payload && next < CAPACITY as u32 {
            return next;
        }
        let is_settled = field!(assembly, judged_to).load() != 0
            || field!(assembly, flags).load() & Assembly::CONFLICT != 0;
        if reading.rereads == 0 || is_settled {
            if !is_settled {
                keep_watch(sample.head.slot);
            }
            return tell_again();
        }
        let filled = field!(assembly, filled).load();
        reading.there = filled.wrapping_sub(field!(assembly, start).load());
        reading.source = source::ASSEMBLY;
        reading.phase = phase::ASSEMBLED;
        sample.head.captured = 0;
        0
    }
}

/// Goes over to putting the pieces into the ring, from the first one on.
#[inline(always)]
fn tell_again() -> u32 {
    match scratch::reading() {
        Some(reading) => {
            reading.source = source::ASSEMBLY;
            tell()
        }
        None => DONE,
    }
}

/// Has the next payloads of a flow come here too, where its watch has run out before its message is whole: user
/// space gets no more of them.
#[inline(always)]
fn keep_watch(slot: u32) {
    let (Some(flow), Some(reading)) = (flows::in_slot(slot), scratch::reading()) else {
        return;
    };
    let watch = flow.line.watch();
    if let Some(assembly) = assemblies::numbered(reading.assembly)
        && !watch.wants(Direction::Upload)
        && field!(assembly, filled).load() < CAPACITY as u32
    {
        field!(assembly, flags).store(field!(assembly, flags).load() | Assembly::ENOUGH);
        flow.line
            .set_watch(Watch::new(1, watch.of(Direction::Download)));
    }
}

global! {
    /// Brings the window of an assembled message that begins at a place to this CPU's buffer. Gives 0 where
    /// the frame is read.
    fn fetch_message(at: u32) -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return 0;
        };
        if reading.source == source::FRAME {
            return 0;
        }
        reading.window = at;
        sample.head.captured = match reading.source {
            source::RECORDS => assemblies::fetch_records(reading.assembly, at),
            _ => assemblies::fetch_assembled(reading.assembly, at),
        };
        1
    }
}

global! {
    /// Tells the kind of the message in the assembly, behind what stands before it.
    fn step_assembled() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return DONE;
        };
        let (Some(first), Some(assembly)) = (
            sample.payload.first_chunk::<LOOKED_AT>(),
            assemblies::numbered(reading.assembly),
        ) else {
            return DONE;
        };
        if sample.head.captured == 0 {
            return leave(0);
        }
        let flags = field!(assembly, flags);
        if flags.load() & Assembly::HEAD != 0 {
            flags.store(flags.load() & !Assembly::HEAD);
            reading.kind = Kind::Http as u32;
            reading.rest_at = 0;
            reading.rest_last = field!(assembly, rest).load();
            reading.phase = phase::END;
            return 0;
        }
        let kind = classify(&sample.head.key, first, reading.there as usize);
        if let Some(kind) = kind
            && !(kind == Kind::Http && is_command() != 0)
        {
            choose(kind as u32);
        }
        if reading.phase != phase::ASSEMBLED && reading.phase != phase::TELL {
            return 0;
        }
        reading.phase = phase::ASSEMBLED;
        let start = field!(assembly, start);
        let before = start.load();
        let skipped = skip_prelude(u32::from(before == 0 && field!(assembly, base).load() == 0));
        if skipped == OTHER {
            // Nobody reads it: another connection may have the assembly.
            field!(assembly, judged_to).store(1);
            return tell();
        }
        if skipped == 0 || skipped > reading.there {
            return leave(0);
        }
        start.store(before + skipped);
        reading.there -= skipped;
        sample.head.captured = 0;
        0
    }
}

/// In what [`skip_prelude`] gives: nobody reads what comes.
const OTHER: u32 = u32::MAX;

global! {
    /// How many bytes stand before the next message in the assembly, as far as they can be told at once; 0 where more
    /// have to be there.
    fn skip_prelude(begins: u32) -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return 0;
        };
        let Some(first) = sample.payload.first_chunk::<LOOKED_AT>() else {
            return 0;
        };
        let stream = Payload(sample);
        match prelude::prelude(&stream, first, reading.there as usize, begins != 0) {
            Prelude::Bytes(bytes) => bytes as u32,
            Prelude::Line => skip_line(),
            Prelude::Short => 0,
            Prelude::Other => OTHER,
        }
    }
}

global! {
    /// Whether a whole line begins in this CPU's buffer that is not the first one of a request.
    fn is_command() -> u32 {
        let line = skip_line();
        let Some(sample) = scratch::sample() else {
            return 0;
        };
        let len = line as usize;
        u32::from(line != 0 && line != OTHER && !prelude::is_request(&Payload(sample), len))
    }
}

global! {
    /// How many bytes the line has that begins in this CPU's buffer; 0 where its end is not there.
    fn skip_line() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return 0;
        };
        match prelude::line(&Payload(sample), WINDOW) {
            Some(line) => line as u32,
            None if reading.there as usize >= WINDOW => OTHER,
            None => 0,
        }
    }
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
    /// Notes that the message in the assembly was judged, and tells user space its name.
    fn end_assembled(found: u32) -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return 0;
        };
        let (Some(assembly), Some(said)) = (assemblies::numbered(reading.assembly), scratch::said())
        else {
            return 0;
        };
        field!(assembly, judged_to).store(field!(assembly, filled).load());
        let Some(kind) = Kind::from_number(reading.kind as u8) else {
            return 0;
        };
        if found != Found::Name as u32 || reading.untold == 0 {
            // User space reads the name in the same packets.
            return 0;
        }
        let whole = sample.head;
        sample.head.kind = reading.kind as u8;
        sample.head.flags |= Head::NAME;
        for at in 0..NAME_CAPACITY {
            sample.payload[at] = said.text.octets[at];
        }
        let len = said.text.len as u32 & 0xff;
        sample.head.payload = len;
        sample.head.captured = len;
        sample.head.piece = 0;
        ring::submit(sample, len, kind);
        sample.head = whole;
        0
    }
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
        reading.decided = decide_about(found, Layer::Tls as u32);
        finish(found, Layer::Tls)
    }
}

global! {
    /// A request, as far as its bytes are there.
    fn step_host() -> u32 {
        let Some(reading) = scratch::reading() else {
            return DONE;
        };
        let before = reading.state;
        let number = find_host(before);
        reading.state = number;
        let search = Search::from_number(number);
        if search.is_over() {
            reading.phase = phase::HOST_FOUND;
        } else if number == before {
            return go_to(reading, Place::Unknown, phase::HOST_NAME);
        }
        search.at() as u32
    }
}

global! {
    /// Reads the result of the search in a request.
    fn step_host_found() -> u32 {
        let Some(reading) = scratch::reading() else {
            return DONE;
        };
        let place = Place::from_number(found_host(reading.state));
        go_to(reading, place, phase::HOST_NAME)
    }
}

global! {
    /// The host in a request's field.
    fn step_host_name() -> u32 {
        let Some(reading) = scratch::reading() else {
            return DONE;
        };
        let found = settled(read_host(reading.place));
        let decided = decide_about(found, Layer::Http as u32);
        reading.decided = decided;
        reading.found = found;
        if refuses(decided) {
            return finish(found, Layer::Http);
        }
        reading.phase = phase::TARGET;
        0
    }
}

global! {
    /// The host in a request's target. A request to a proxy names its host twice: one of them is enough.
    fn step_target() -> u32 {
        let Some(reading) = scratch::reading() else {
            return DONE;
        };
        let target = settled(read_host(find_target()));
        let decided = decide_about(target, Layer::Http as u32);
        if decided != 0 {
            reading.decided = decided;
        }
        if target != Found::Nameless as u32 {
            // Where it cannot be told what the target names, the field does not say it all.
            reading.found = target;
        }
        let found = reading.found;
        if found == Found::Unread as u32 || refuses(reading.decided) {
            return finish(found, Layer::Http);
        }
        conclude_with(found, Layer::Http as u32);
        if reading.source != source::FRAME {
            end_assembled(found);
        }
        reading.phase = phase::END;
        reading.rest_at = 0;
        reading.rest_last = 0;
        0
    }
}

global! {
    /// Looks for the end of a request's head, and goes on with the message behind it.
    fn step_end() -> u32 {
        let Some(reading) = scratch::reading() else {
            return DONE;
        };
        let before = reading.rest_at;
        let end = find_end();
        if end == End::More as u32 {
            return match reading.rest_at == before {
                true => keep_head(),
                false => reading.rest_at,
            };
        }
        if end == End::Over as u32 && reading.rest_at < reading.there {
            return begin_next();
        }
        if reading.source != source::FRAME
            && let Some(assembly) = assemblies::numbered(reading.assembly)
        {
            // The next message begins behind this one, or nobody here knows where.
            let to = field!(assembly, start).load().wrapping_add(reading.rest_at);
            field!(assembly, judged_to).store(to);
        }
        tell()
    }
}

global! {
    /// Has later packets be searched for the end of the head that was read up to the end of this one.
    fn keep_head() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return DONE;
        };
        let behind = reading.rest_at;
        if reading.source == source::FRAME {
            let place = sample.head.place().wrapping_add(reading.origin);
            if sample.head.place() == Early::SOMEWHERE || reading.claims == 0 {
                return tell();
            }
            reading.assembly = assembly_from(place.wrapping_add(behind));
        }
        let Some(assembly) = assemblies::numbered(reading.assembly) else {
            return tell();
        };
        if reading.source != source::FRAME {
            let start = field!(assembly, start);
            start.store(start.load().wrapping_add(behind));
        }
        field!(assembly, rest).store(reading.rest_last);
        field!(assembly, judged_to).store(0);
        field!(assembly, flags).store(field!(assembly, flags).load() | Assembly::HEAD);
        tell()
    }
}

global! {
    /// The number of an assembly for the connection of the packet at hand, emptied, whose first byte to be kept
    /// stands at `base`; [`NONE`] where there is none.
    fn assembly_from(base: u32) -> u32 {
        match scratch::reading() {
            Some(reading) if reading.assembly != NONE => {
                assemblies::begin_again(reading.assembly, reading.device, reading.owner, base)
            }
            Some(reading) => assemblies::claim_assembly(reading.device, reading.owner, base),
            None => NONE,
        }
    }
}

global! {
    /// Goes over to the message behind the request that was read.
    fn begin_next() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return DONE;
        };
        let behind = reading.rest_at;
        reading.there = reading.there.wrapping_sub(behind);
        reading.decided = 0;
        reading.found = Found::Nameless as u32;
        sample.head.captured = 0;
        if reading.source == source::FRAME {
            reading.origin = reading.origin.wrapping_add(behind);
            reading.phase = phase::NEXT;
            return 0;
        }
        if let Some(assembly) = assemblies::numbered(reading.assembly) {
            let start = field!(assembly, start);
            start.store(start.load().wrapping_add(behind));
            field!(assembly, judged_to).store(0);
        }
        reading.phase = phase::ASSEMBLED;
        0
    }
}

global! {
    /// Tells the kind of the message behind a request in the same packet.
    fn step_next() -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return DONE;
        };
        let Some(first) = sample.payload.first_chunk::<LOOKED_AT>() else {
            return DONE;
        };
        let kind = match sample.head.captured {
            0 => None,
            _ => classify(&sample.head.key, first, reading.there as usize),
        };
        if kind == Some(Kind::Http) {
            choose(Kind::Http as u32);
            return 0;
        }
        let line = skip_line();
        if line == OTHER || first[0] != b'\r' && (reading.there as usize) >= LOOKED_AT {
            return tell();
        }
        if line == 0 || line >= reading.there {
            return leave(1);
        }
        reading.rest_at = line;
        begin_next()
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
