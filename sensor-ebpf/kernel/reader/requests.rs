//! Requests: the host that each names, in its field and in its target, and the request behind one that has no body.

use sensor_ebpf::{
    kind::{Kind, LOOKED_AT, classify},
    policy::Layer,
    said::{
        Found, Place,
        request::{End, Search},
    },
    watch::Early,
};

use super::{
    DONE,
    assemble::{OTHER, assembly_from, end_assembled, skip_line},
    at_hand, choose, finish, go_to, leave, phase, source, tell,
};
use crate::{
    field, global,
    judge::{
        conclude_with, decide_about, find_end, find_host, find_target, found_host, read_host,
        refuses, settled,
    },
    table::{assemblies, scratch},
};

global! {
    /// A request, as far as its bytes are there.
    pub(super) fn step_host() -> u32 {
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
    pub(super) fn step_host_found() -> u32 {
        let Some(reading) = scratch::reading() else {
            return DONE;
        };
        let place = Place::from_number(found_host(reading.state));
        go_to(reading, place, phase::HOST_NAME)
    }
}

global! {
    /// The host in a request's field.
    pub(super) fn step_host_name() -> u32 {
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
    pub(super) fn step_target() -> u32 {
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
        if refuses(reading.decided) {
            return finish(found, Layer::Http);
        }
        conclude_with(found, Layer::Http as u32);
        // Where the head goes on in later packets, they may say more of one that is unread.
        if reading.source != source::FRAME && found != Found::Unread as u32 {
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
    pub(super) fn step_end() -> u32 {
        let Some(reading) = scratch::reading() else {
            return DONE;
        };
        let before = reading.rest_at;
        let end = find_end();
        if end == End::More as u32 {
            return match reading.rest_at == before {
                true if reading.found == Found::Unread as u32 => leave(1),
                true => keep_head(),
                false => reading.rest_at,
            };
        }
        if end == End::Over as u32 && reading.rest_at < reading.there {
            return begin_next();
        }
        if reading.source == source::FRAME && reading.found == Found::Unread as u32 {
            // It may be a part of a request that only looks like one.
            return leave(1);
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
    pub(super) fn keep_head() -> u32 {
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
        tell()
    }
}

global! {
    /// Goes over to the message behind the request that was read.
    pub(super) fn begin_next() -> u32 {
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
    pub(super) fn step_next() -> u32 {
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
