//! Messages in several packets: their pieces go into the assembly of their connection, and the message there is read
//! like one in a frame.

use sensor_ebpf::{
    assembly::{Assembly, CAPACITY, Owner, Put, WINDOW},
    flow::{Direction, Judgement},
    kind::{Kind, LOOKED_AT, classify},
    name::NAME_CAPACITY,
    said::{
        Found,
        prelude::{self, Prelude},
    },
    sample::{Head, MAX_PAYLOAD, NO_SLOT, Watch},
    watch::Early,
};

use super::{DONE, at_hand, choose, leave, phase, source, tell};
use crate::{
    field, global,
    sample::Payload,
    table::{
        assemblies::{self, NONE},
        flows, ring, scratch,
    },
};

/// Whether a payload whose kind is not known may belong to a message: because others come before it or behind, or
/// because it stands before the message.
#[inline(always)]
pub(super) fn may_be_part(head: &Head) -> bool {
    head.kind == Kind::Stream as u8 && (head.place() != 0 || skip_prelude(1) != OTHER)
}

/// Whether a name was judged in the flow in a slot, or it is known to say none.
#[inline(always)]
pub(super) fn is_named(slot: u32) -> bool {
    flows::in_slot(slot).is_some_and(|flow| Judgement::unpack(flow.line.judgement_word()).named)
}

global! {
    /// Looks for the assembly that the connection of the packet at hand has. Gives whether it has one.
    pub(super) fn seek() -> u32 {
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
        reading.untold = u32::from(flags & Assembly::ENOUGH != 0);
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
    pub(super) fn claim() -> u32 {
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
    pub(super) fn step_put() -> u32 {
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
pub(super) fn tell_again() -> u32 {
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
pub(super) fn keep_watch(slot: u32) {
    let (Some(flow), Some(reading)) = (flows::in_slot(slot), scratch::reading()) else {
        return;
    };
    let watch = flow.line.watch();
    if let Some(assembly) = assemblies::numbered(reading.assembly)
        && !watch.wants(Direction::Upload)
        && field!(assembly, filled).load() < CAPACITY as u32
    {
        field!(assembly, flags).set(Assembly::ENOUGH);
        flow.line
            .set_watch(Watch::new(1, watch.of(Direction::Download)));
    }
}

global! {
    /// Brings the window of an assembled message that begins at a place to this CPU's buffer. Gives 0 where
    /// the frame is read.
    pub(super) fn fetch_message(at: u32) -> u32 {
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
    pub(super) fn step_assembled() -> u32 {
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
        let rest = field!(assembly, rest).exchange(0);
        if rest != 0 {
            reading.kind = Kind::Http as u32;
            reading.rest_at = 0;
            reading.rest_last = rest;
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
pub(super) const OTHER: u32 = u32::MAX;

global! {
    /// How many bytes stand before the next message in the assembly, as far as they can be told at once; 0 where more
    /// have to be there.
    pub(super) fn skip_prelude(begins: u32) -> u32 {
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
    pub(super) fn is_command() -> u32 {
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
    pub(super) fn skip_line() -> u32 {
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

global! {
    /// Notes that the message in the assembly was judged, and tells user space its name.
    pub(super) fn end_assembled(found: u32) -> u32 {
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
    /// The number of an assembly for the connection of the packet at hand, emptied, whose first byte to be kept
    /// stands at `base`; [`NONE`] where there is none.
    pub(super) fn assembly_from(base: u32) -> u32 {
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
    /// Notes that the message which begins with the packet at hand was judged, and goes on in later packets up to
    /// a place behind its beginning: those begin no other.
    pub(super) fn judged_up_to(to: u32) -> u32 {
        let Some((sample, reading)) = at_hand() else {
            return 0;
        };
        let place = sample.head.place();
        if place == Early::SOMEWHERE || reading.claims == 0 {
            return 0;
        }
        reading.assembly = assembly_from(place.wrapping_add(reading.origin));
        if let Some(assembly) = assemblies::numbered(reading.assembly) {
            field!(assembly, judged_to).store(to);
        }
        0
    }
}
