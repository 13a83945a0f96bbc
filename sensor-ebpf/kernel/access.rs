//! Packet memory: the only `unsafe` that touches it.

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::{bpf_skb_load_bytes, bpf_skb_pull_data, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use sensor_ebpf::{
    books::Tally,
    packet::{OFFSET_LIMIT, Packet},
    parse::{Parsed, protocol},
    sample::MAX_PAYLOAD,
};

use crate::sample;

/// A frame at a hook: its octets, where it is, and what the wire carried for it.
pub(crate) trait Frame: Packet {
    /// The kernel's index of the interface.
    fn ifindex(&self) -> u32;
    /// Packets and octets on the wire; `parsed` is the first of them where the frame is several.
    fn wire(&self, parsed: Option<&Parsed>) -> Tally;
    /// The same frame with more of its octets readable, where some are not.
    fn reveal(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
    /// Copies the payload that starts at `offset` to this CPU's buffer; gives 0 where nobody reads it.
    fn sample(&self, offset: u32) -> u32;
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

/// See [`Packet::forget`]: a number and twice another, which to the verifier is any number.
#[inline(always)]
pub(crate) fn forget(offset: usize, noise: u64) -> usize {
    let mut forgotten = offset;
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "{forgotten} ^= {noise}",
            "{forgotten} ^= {noise}",
            forgotten = inout(reg) forgotten,
            noise = in(reg) noise,
            options(pure, nomem, nostack),
        );
    }
    forgotten & (OFFSET_LIMIT - 1)
}

/// A frame at XDP that lies in one buffer.
pub(crate) struct LinearFrame {
    octets: Linear,
    context: *mut xdp_md,
}

impl LinearFrame {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        Self {
            octets: Linear {
                start: context.data(),
                end: context.data_end(),
            },
            context: context.ctx,
        }
    }

    /// Writes a value; `None` where the frame is too short.
    #[inline(always)]
    pub(crate) fn store<T>(&self, offset: usize, value: T) -> Option<()> {
        let place = self.octets.at::<T>(offset)?;
        // SAFETY: between the start and the end of the packet, as just compared.
        unsafe { place.write_unaligned(value) };
        Some(())
    }
}

impl Packet for LinearFrame {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.octets.load(offset)
    }

    #[inline(always)]
    fn forget(&self, offset: usize, noise: u64) -> usize {
        forget(offset, noise)
    }
}

impl Frame for LinearFrame {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn wire(&self, _parsed: Option<&Parsed>) -> Tally {
        Tally {
            packets: 1,
            bytes: (self.octets.end - self.octets.start) as u64,
        }
    }

    #[inline(always)]
    fn sample(&self, offset: u32) -> u32 {
        sample::sample_linear(self.context, offset)
    }
}

impl LinearFrame {
    /// Copies up to `len` octets, at most [`MAX_PAYLOAD`], and gives how many there were.
    ///
    /// By hand: the helper that does it is not in Linux 5.15.
    #[inline(always)]
    pub(crate) fn copy(&self, offset: usize, len: usize, to: &mut [u8; MAX_PAYLOAD]) -> usize {
        const STEP: usize = 8;
        let mut copied = 0;
        for step in 0..MAX_PAYLOAD / STEP {
            if copied + STEP > len {
                break;
            }
            let Some(octets) = self.load::<STEP>(offset + copied) else {
                break;
            };
            to[step * STEP..step * STEP + STEP].copy_from_slice(&octets);
            copied += STEP;
        }
        if copied == len {
            return len;
        }
        // The octets that are left are the last of eight that end with the payload: headers lie
        // before it, and what was copied already is copied again as it is.
        let last = forget((offset + len).wrapping_sub(STEP), len as u64);
        let Some(octets) = self.load::<STEP>(last) else {
            return copied;
        };
        if len < STEP {
            let word = u64::from_le_bytes(octets) >> (8 * (STEP - len));
            to[..STEP].copy_from_slice(&word.to_le_bytes());
        } else if let Some(place) = to.get_mut(len - STEP..len) {
            place.copy_from_slice(&octets);
        }
        len
    }
}

/// A frame at XDP that may lie in several buffers. The headers lie in the first: drivers put at
/// least 256 octets there, and what does not is counted as truncated.
pub(crate) struct MultiBufferFrame(LinearFrame);

impl MultiBufferFrame {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        Self(LinearFrame::new(context))
    }
}

impl Packet for MultiBufferFrame {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset)
    }

    #[inline(always)]
    fn forget(&self, offset: usize, noise: u64) -> usize {
        forget(offset, noise)
    }
}

impl Frame for MultiBufferFrame {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.0.ifindex()
    }

    #[inline(always)]
    fn wire(&self, _parsed: Option<&Parsed>) -> Tally {
        // SAFETY: the context is valid while the program runs.
        let bytes = unsafe { bpf_xdp_get_buff_len(self.0.context) };
        Tally { packets: 1, bytes }
    }

    #[inline(always)]
    fn sample(&self, offset: u32) -> u32 {
        sample::sample_frags(self.0.context, offset)
    }
}

/// Copies `len` octets, 1 to [`MAX_PAYLOAD`], out of all buffers of a frame.
#[inline(always)]
pub(crate) fn copy_frags(
    context: *mut xdp_md,
    offset: u32,
    len: u32,
    to: &mut [u8; MAX_PAYLOAD],
) -> bool {
    // SAFETY: the context is valid while the program runs; `to` has room for `len` octets.
    unsafe { bpf_xdp_load_bytes(context, offset, to.as_mut_ptr().cast(), len) == 0 }
}

/// Copies `len` octets, 1 to [`MAX_PAYLOAD`], out of a socket buffer, pages included.
#[inline(always)]
pub(crate) fn copy_skb(
    skb: *mut __sk_buff,
    offset: u32,
    len: u32,
    to: &mut [u8; MAX_PAYLOAD],
) -> bool {
    // SAFETY: the context is valid while the program runs; `to` has room for `len` octets.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, to.as_mut_ptr().cast(), len) == 0 }
}

/// Which side of the stack a socket buffer is at.
#[derive(Clone, Copy)]
enum Side {
    Ingress,
    Egress,
}

/// A frame at TC, possibly merged from several (GRO) or not yet split (GSO).
pub(crate) struct SocketBuffer {
    octets: Linear,
    skb: *mut __sk_buff,
    side: Side,
}

impl SocketBuffer {
    /// The mark that somebody in the stack gave it.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.skb).mark }
    }

    #[inline(always)]
    pub(crate) fn ingress(context: &TcContext) -> Self {
        Self::new(context.skb.skb, Side::Ingress)
    }

    #[inline(always)]
    pub(crate) fn egress(context: &TcContext) -> Self {
        Self::new(context.skb.skb, Side::Egress)
    }

    #[inline(always)]
    fn new(skb: *mut __sk_buff, side: Side) -> Self {
        // SAFETY: the context is valid while the program runs.
        let (start, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
        Self {
            octets: Linear { start, end },
            skb,
            side,
        }
    }
}

impl Packet for SocketBuffer {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.octets.load(offset)
    }

    #[inline(always)]
    fn forget(&self, offset: usize, noise: u64) -> usize {
        forget(offset, noise)
    }
}

impl Frame for SocketBuffer {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn wire(&self, parsed: Option<&Parsed>) -> Tally {
        // SAFETY: the context is valid while the program runs.
        let (len, gso_size, gso_segs, wire_len, tagged) = unsafe {
            let skb = &*self.skb;
            (
                skb.len,
                skb.gso_size,
                skb.gso_segs,
                skb.wire_len,
                skb.vlan_present,
            )
        };
        let (mut packets, mut bytes) = (1, u64::from(len));
        if gso_size != 0 {
            let headers = parsed.map_or(0, |parsed| self.header_len(parsed));
            packets = u64::from(gso_segs);
            if packets == 0 {
                // A guest's or a tunnel's super-packet, not counted yet (SKB_GSO_DODGY).
                let payload = u64::from(len).saturating_sub(headers);
                packets = payload.div_ceil(u64::from(gso_size)).max(1);
            }
            bytes = match self.side {
                // What the queueing discipline will be told: headers once for each segment.
                Side::Egress => u64::from(wire_len),
                // Not computed at ingress (net/core/dev.c, sch_handle_ingress).
                Side::Ingress => u64::from(len) + (packets - 1) * headers,
            };
        }
        if tagged != 0 {
            // The tag waits in the buffer's metadata for the device to insert it.
            bytes += 4 * packets;
        }
        Tally { packets, bytes }
    }

    /// Headers can reach into the paged part of the buffer: the kernel moves them to the front.
    ///
    /// Only after a parse that ended early: it may copy, and most buffers have all their headers
    /// in front.
    #[inline(always)]
    fn reveal(&self) -> Option<Self> {
        /// More than any header chain of a real packet.
        const HEADERS: u32 = 512;
        // SAFETY: the context is valid while the program runs.
        let len = unsafe { (*self.skb).len };
        if self.octets.end - self.octets.start >= len.min(HEADERS) as usize {
            return None;
        }
        // SAFETY: as above; the pointers of `self` are not used any more when this succeeded.
        if unsafe { bpf_skb_pull_data(self.skb, len.min(HEADERS)) } != 0 {
            return None;
        }
        Some(Self::new(self.skb, self.side))
    }

    #[inline(always)]
    fn sample(&self, offset: u32) -> u32 {
        sample::sample_skb(self.skb, offset)
    }
}

impl SocketBuffer {
    /// Octets of all headers up to the payload, which each segment repeats.
    #[inline(always)]
    fn header_len(&self, parsed: &Parsed) -> u64 {
        const TCP_DATA_OFFSET: usize = 12;
        const UDP_LEN: usize = 8;
        let transport = match parsed.protocol {
            protocol::TCP => match self.load::<2>(parsed.transport_offset + TCP_DATA_OFFSET) {
                Some([offset, _]) => usize::from(offset >> 4) * 4,
                None => 0,
            },
            _ => UDP_LEN,
        };
        (parsed.transport_offset + transport) as u64
    }
}
