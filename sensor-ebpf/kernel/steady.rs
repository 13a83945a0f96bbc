//! The short way of most packets.

use aya_ebpf::helpers::bpf_jiffies64;
use sensor_ebpf::{
    flow::{Direction, FlowKey, Judgement},
    parse::{plain, protocol, tcp_flag},
    said::initial,
};

use crate::{
    frame::Frame,
    table::{flows, settings},
};

/// The short way of most packets: a plain frame of a flow that is known, passes, and has told what
/// it is. `None` books nothing, and the long way does it.
///
/// Frames from and to group addresses have no flow, so they are not found here.
#[inline(always)]
pub(crate) fn steady<F: Frame>(frame: &F, direction: Direction) -> Option<()> {
    let parsed = plain(frame)?;
    let settings = settings::settings()?;
    let key = FlowKey::new(&parsed, direction, frame.ifindex());
    if parsed.tcp_flags & tcp_flag::SYN != 0 {
        return None;
    }
    if parsed.protocol == protocol::UDP
        && direction == Direction::Upload
        && key.remote_port() == initial::PORT
        && (frame.segment() != 0
            || frame
                .load::<1>(parsed.payload_offset())
                .is_some_and(|[first]| initial::is_long(first)))
    {
        // A connection may begin, at the ports of one that is known; of several datagrams in any.
        return None;
    }
    let flow = flows::find_near(key.hash(&settings.hash_secret), &key, settings)?;
    let judgement = flow.judgement_word() & Judgement::steady_mask(direction);
    if judgement != Judgement::steady(settings::generation(settings)) {
        return None;
    }
    // SAFETY: the helper reads a clock.
    flow.touch(direction, parsed.tcp_flags, unsafe { bpf_jiffies64() });
    flow.count(direction, frame.wire(Some(&parsed)));
    Some(())
}
