//! The short way of most packets.

use sensor_ebpf::{
    books::Settings,
    flow::{Direction, FlowKey},
    parse::{Parsed, protocol, tcp_flag},
    said::initial,
    sample::NO_SLOT,
};

use crate::{
    clock,
    frame::Frame,
    table::{flows, settings},
};

/// Counts a packet of a flow that is known, passes, and has no payload wanted: one search in the set that its
/// fingerprint leads to, one cache line. `Err` books nothing, and gives the slot in which a line with the
/// fingerprint was found, for the long way.
///
/// Frames from and to group addresses have no flow, so they are not found here.
#[inline(always)]
pub(crate) fn steady<F: Frame>(
    frame: &F,
    parsed: &Parsed,
    key: &FlowKey,
    fingerprint: u64,
    direction: Direction,
    settings: &Settings,
) -> Result<(), u32> {
    let Some((line, slot)) = flows::find_line(fingerprint, settings) else {
        return Err(NO_SLOT);
    };
    if !line.is_steady(direction, settings::generation(settings))
        || parsed.tcp_flags & tcp_flag::SYN != 0
        || may_begin_connection(frame, parsed, key, direction)
    {
        return Err(slot);
    }
    line.touch(direction, parsed.tcp_flags, clock::jiffies());
    line.count(direction, frame.wire(Some(parsed)));
    Ok(())
}

/// Whether a QUIC connection may begin with it, at the ports of one that is known.
#[inline(always)]
fn may_begin_connection<F: Frame>(
    frame: &F,
    parsed: &Parsed,
    key: &FlowKey,
    direction: Direction,
) -> bool {
    if parsed.protocol != protocol::UDP || direction != Direction::Upload {
        return false;
    }
    if frame.segment() != 0 {
        return true;
    }
    match frame.load::<5>(parsed.payload_offset()) {
        Some(first) if key.remote_port() == initial::PORT => initial::is_long(first[0]),
        Some(first) => initial::is_opened(first),
        None => false,
    }
}
