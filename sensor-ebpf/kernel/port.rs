//! A bridge's ports: frames that go from one to another, and frames that leave by several.
//!
//! A frame from port to port is local: no other end of the house sees it, and policies are not about it unless
//! the configuration says so. The addresses of the machine itself tell whether it is local: a frame that is
//! neither for one of them nor from one of them was not routed here.
//!
//! A bridge sends a frame to a group address, or to a device that it has not heard of, out of several
//! ports, one after the other, on one CPU. Every frame has a number (`tc_index`) from its way into the
//! bridge: copies have the same one. It is booked where it leaves first.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, programs::TcContext};
use sensor_ebpf::{
    books::Tally,
    flow::Direction,
    packet::Packet,
    parse::{Mac, Parsed},
    skip::Skip,
};

use crate::{
    frame::{Frame, SocketBuffer},
    sample::Sampled,
    seen::Seen,
    table::ports::{self, Out},
};

/// A frame that comes in by a port.
pub(crate) struct PortFrame(SocketBuffer);

impl PortFrame {
    /// A frame, which has its number from now on.
    #[inline(always)]
    pub(crate) fn ingress(context: &TcContext) -> Self {
        give_number(context);
        Self(SocketBuffer::ingress(context))
    }
}

impl Packet for PortFrame {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset)
    }

    #[inline(always)]
    fn forget(&self, offset: usize, noise: u64) -> usize {
        self.0.forget(offset, noise)
    }
}

impl Frame for PortFrame {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.0.ifindex()
    }

    #[inline(always)]
    fn wire(&self, parsed: Option<&Parsed>) -> Tally {
        self.0.wire(parsed)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        self.0.segment()
    }

    #[inline(always)]
    fn revealed(self) -> Self {
        Self(self.0.revealed())
    }

    #[inline(always)]
    fn aside(&self, parsed: &Parsed, direction: Direction) -> Option<Skip> {
        let to = parsed.destination_mac;
        let is_local = direction == Direction::Upload && !to.is_group() && !ports::is_own(to);
        (is_local && !ports::judges_local(self.ifindex())).then_some(Skip::Local)
    }
}

impl Sampled for PortFrame {
    #[inline(always)]
    fn read_on(&self, direction: Direction) {
        self.0.read_on(direction);
    }

    #[inline(always)]
    fn connection(&self, offset: usize, port: u16) -> u32 {
        self.0.connection(offset, port)
    }

    #[inline(always)]
    fn look(&self, seen: &Seen) -> u64 {
        self.0.look(seen)
    }
}

/// Numbers a frame on its way into a bridge.
#[inline(always)]
pub(crate) fn give_number(context: &TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*context.skb.skb).tc_index = ports::next_number() };
    TC_ACT_UNSPEC
}

/// The facts about a frame that leaves by a port, before it is read.
#[inline(always)]
pub(crate) fn leaves(frame: &SocketBuffer) -> Out {
    // SAFETY: the context is valid while the program runs.
    let number = unsafe { (*frame.context()).tc_index };
    let to = frame
        .load::<6>(0)
        .map_or(0, |octets| Mac::new(octets).word());
    Out {
        number,
        ifindex: frame.ifindex(),
        to,
        refused: 0,
    }
}

/// Why a frame that leaves by a port is not booked to its device, and whether it goes no further.
#[inline(always)]
pub(crate) fn aside(frame: &SocketBuffer, out: &Out) -> Option<(Skip, bool)> {
    let from = Mac::new(frame.load::<6>(6)?);
    let to = Mac::from_word(out.to);
    // A frame to a group leaves by every other port as a copy: it was booked when it came in.
    if !ports::is_own(from) && (to.is_group() || !ports::judges_local(out.ifindex)) {
        return Some((Skip::Local, false));
    }
    ports::as_copy(out).map(|refused| (Skip::Copy, refused))
}
