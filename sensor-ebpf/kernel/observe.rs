//! The steps for every frame: parse, find its flow, decide, account.
//!
//! The parser is inlined into each program; what follows is in global functions, which the verifier
//! checks once, for any argument, instead of once for every way that leads through the parser.

use sensor_ebpf::{
    books::{MULTICAST_DEVICE, Settings, Tally},
    flow::{Direction, FlowKey},
    parse::{Family, Parsed, Piece, parse, plain, protocol, tcp_flag},
    sample::NO_SLOT,
    skip::Skip,
};

use crate::{
    book, clock, fragment,
    frame::Frame,
    global, judge, quote,
    sample::{self, Sampled},
    seen::{Action, Seen},
    steady::steady,
    table::{devices, interfaces, scratch, settings},
};

/// Books one frame and says what becomes of it.
///
/// A steady packet of a known flow costs one search in the flow table and no other lookup.
#[inline(always)]
pub(crate) fn observe<F: Sampled>(frame: F, direction: Direction) -> Action {
    let Some(settings) = settings::settings() else {
        return Action::Pass;
    };
    let mut slot = NO_SLOT;
    let mut known = None;
    if let Some(parsed) = plain(&frame) {
        let key = FlowKey::new(&parsed, direction, frame.ifindex());
        let fingerprint = key.hash(&settings.hash_secret);
        match steady(&frame, &parsed, &key, fingerprint, direction, settings) {
            Ok(()) => return Action::Pass,
            Err(found) => slot = found,
        }
        known = Some((parsed, key, fingerprint));
    }
    let (frame, parsed, key, fingerprint) = match known {
        Some((parsed, key, fingerprint)) => (frame, parsed, key, fingerprint),
        None => {
            let frame = frame.revealed();
            let parsed = match parse(&frame) {
                Ok(parsed) => parsed,
                Err(reason) => return skip(&frame, direction, reason, None),
            };
            let key = FlowKey::new(&parsed, direction, frame.ifindex());
            (frame, parsed, key, 0)
        }
    };
    match direction {
        Direction::Upload if parsed.source_mac.is_group() => {
            return skip(&frame, direction, Skip::SourceIsGroup, None);
        }
        Direction::Download if parsed.destination_mac.is_group() => {
            return multicast(&frame, &parsed, &key);
        }
        Direction::Upload | Direction::Download => {}
    }
    if let Some(reason) = frame.aside(&parsed, direction) {
        return skip(&frame, direction, reason, Some(&parsed));
    }
    let found = (slot, fingerprint);
    if !note(&frame, &parsed, &key, found, direction) {
        return Action::Pass;
    }
    account(&frame, direction, settings)
}

/// Writes what is known of a frame to this CPU's buffer: not on the stack, of which the functions that follow need
/// the most. Gives whether there is a buffer.
#[inline(always)]
fn note<F: Sampled>(
    frame: &F,
    parsed: &Parsed,
    key: &FlowKey,
    (slot, fingerprint): (u32, u64),
    direction: Direction,
) -> bool {
    let Some(seen) = scratch::seen() else {
        return false;
    };
    *seen = Seen {
        key: *key,
        wire: frame.wire(Some(parsed)),
        now: clock::jiffies(),
        fingerprint,
        sequence: parsed.sequence,
        tcp_word: 0,
        payload: parsed.payload_in(frame.len() as usize) as u32,
        slot,
        network_offset: parsed.network_offset as u32,
        transport_offset: parsed.transport_offset as u32,
        payload_offset: parsed.payload_offset() as u32,
        transport_len: parsed.transport_len as u32,
        identification: parsed.identification,
        tcp_flags: parsed.tcp_flags,
        direction: direction as u8,
        piece: parsed.piece as u8,
        ethertype: parsed.ethertype,
        reserved: [0; 7],
    };
    true
}

/// Books the frame whose headers stand in this CPU's buffer. It reads them from there alone, so that the
/// verifier knows nothing of them any more: Linux 6.1 would go on with each outcome of the parser apart.
#[inline(always)]
fn account<F: Sampled>(frame: &F, direction: Direction, settings: &Settings) -> Action {
    let Some(seen) = scratch::seen() else {
        return Action::Pass;
    };
    if seen.key.protocol() == protocol::UDP && direction == Direction::Upload {
        let payload = frame.forget(seen.payload_offset as usize, seen.now);
        seen.sequence = frame.connection(payload, seen.key.remote_port());
    }
    let is_icmp = matches!(seen.key.protocol(), protocol::ICMP | protocol::ICMPV6)
        && seen.piece != Piece::Later as u8;
    if is_icmp || seen.tcp_flags & tcp_flag::RST != 0 || seen.is_servers_syn() {
        let word = frame.look(seen);
        match is_icmp {
            true => seen.key = seen.key.with_ports(word as u32),
            false => seen.tcp_word = word as u32,
        }
        if word & quote::QUOTES != 0 && quote::quoted_passes() != 0 {
            seen.key = seen.key.about_allowed(direction);
        }
    }
    if seen.piece == Piece::First as u8 {
        fragment::remember(seen);
    } else if seen.piece == Piece::Later as u8 {
        seen.key = seen.key.with_ports(fragment::ports_of_first(seen));
    }
    if seen.fingerprint == 0 {
        seen.fingerprint = seen.key.hash(&settings.hash_secret);
    }
    let booked = book::book(seen);
    if booked.is_fragment() {
        judge::tell_fragment();
        return booked.action();
    }
    if booked.wants_sample()
        && sample::hand_over(seen, booked.number(), frame.len(), frame.segment()) != 0
    {
        frame.read_on(direction);
    }
    booked.action()
}

#[inline(always)]
fn multicast<F: Sampled>(frame: &F, parsed: &Parsed, key: &FlowKey) -> Action {
    let wire = frame.wire(Some(parsed));
    count_multicast(
        frame.ifindex(),
        parsed.family as u32,
        wire.packets,
        wire.bytes,
    );
    // The house's resolvers may stand in a router advertisement.
    if parsed.protocol == protocol::ICMPV6
        && parsed.piece == Piece::Whole
        && frame.is_of_this_machine()
        && note(frame, parsed, key, (NO_SLOT, 0), Direction::Download)
    {
        frame.tell_advertisement();
    }
    Action::Pass
}

global! {
    /// Books a frame to a group address.
    fn count_multicast(ifindex: u32, family: u32, packets: u64, bytes: u64) -> u32 {
        let wire = Tally { packets, bytes };
        let family = Family::from_number(family as u8);
        devices::count_overflow(
            MULTICAST_DEVICE,
            family,
            Direction::Download,
            wire,
            clock::jiffies(),
        );
        interfaces::count_multicast(ifindex, wire);
        0
    }
}

/// Passes a frame that cannot be read, or is no device's, and counts it by reason.
#[inline(always)]
pub(crate) fn skip<F: Frame>(
    frame: &F,
    direction: Direction,
    reason: Skip,
    parsed: Option<&Parsed>,
) -> Action {
    let wire = frame.wire(parsed);
    count_skipped(
        frame.ifindex(),
        direction as u32,
        reason as u32,
        wire.packets,
        wire.bytes,
    );
    Action::Pass
}

global! {
    /// Books a frame that is not accounted to a device.
    fn count_skipped(ifindex: u32, direction: u32, reason: u32, packets: u64, bytes: u64) -> u32 {
        interfaces::count_skipped(ifindex, direction, reason, Tally { packets, bytes });
        0
    }
}
