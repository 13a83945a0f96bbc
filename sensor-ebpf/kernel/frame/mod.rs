//! Packet memory: every access to it.

mod skb;
mod xdp;

use sensor_ebpf::{books::Tally, flow::Direction, packet::Packet, parse::Parsed, skip::Skip};

pub(crate) use self::{
    skb::{AllBytes, SocketBuffer, copy_skb, take_note},
    xdp::{LinearFrame, MultiBufferFrame, copy_xdp},
};

/// A frame at a hook: its octets, its interface, and the packets on the wire that it stands for.
pub(crate) trait Frame: Packet {
    /// The kernel's index of the interface.
    fn ifindex(&self) -> u32;
    /// Packets and octets on the wire; `parsed` is the first of them where the frame is several.
    fn wire(&self, parsed: Option<&Parsed>) -> Tally;
    /// Bytes of the frame.
    fn len(&self) -> u32;
    /// Bytes of payload of each packet that the frame stands for, but the last; 0 where it is one.
    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }
    /// The same frame with its headers readable, where some are not.
    #[inline(always)]
    fn revealed(self) -> Self
    where
        Self: Sized,
    {
        self
    }
    /// Whether this machine itself sends the frame, and passes it on for nobody.
    #[inline(always)]
    fn is_of_this_machine(&self) -> bool {
        false
    }
    /// Why the frame is not booked to a device, although it can be read.
    #[inline(always)]
    fn aside(&self, _parsed: &Parsed, _direction: Direction) -> Option<Skip> {
        None
    }
}

/// The directly readable octets of a frame.
#[derive(Clone, Copy)]
struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    #[inline(always)]
    fn at<T>(self, offset: usize) -> Option<*mut T> {
        let start = self.start + offset;
        if start + size_of::<T>() > self.end {
            return None;
        }
        Some(start as *mut T)
    }

    #[inline(always)]
    fn load<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        let octets = self.at::<[u8; N]>(offset)?;
        // SAFETY: the octets lie between the start and the end of the packet, as just compared;
        // the verifier proves it again.
        Some(unsafe { octets.read() })
    }
}
