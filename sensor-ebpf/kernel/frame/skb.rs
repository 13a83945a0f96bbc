//! Frames at TC.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_skb_load_bytes, bpf_skb_pull_data},
    programs::TcContext,
};
use sensor_ebpf::{
    books::{Note, Tally},
    packet::Packet,
    parse::{Parsed, parse, protocol},
    sample::MAX_PAYLOAD,
};

use super::{Frame, Linear};
use crate::{global, verifier::forget};

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

/// The note that an XDP program left before a frame, which is there no more afterwards.
#[inline(always)]
pub(crate) fn take_note(skb: *mut __sk_buff) -> Option<Note> {
    // SAFETY: the context is valid while the program runs; the note lies between the start of the metadata
    // and that of the frame, as compared.
    unsafe {
        let place = (*skb).data_meta as usize;
        if place + size_of::<Note>() > (*skb).data as usize {
            return None;
        }
        let place = place as *mut Note;
        let note = place.read();
        if note.magic != Note::MAGIC {
            return None;
        }
        (&raw mut (*place).magic).write(0);
        Some(note)
    }
}

/// The bytes of a socket buffer, those in pages included: each load is a call.
pub(crate) struct AllBytes(pub(crate) *mut __sk_buff);

impl Packet for AllBytes {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the context is valid while the program runs; `bytes` has room for `N` bytes.
        let status = unsafe {
            bpf_skb_load_bytes(
                self.0.cast(),
                offset as u32,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        };
        (status == 0).then_some(bytes)
    }

    #[inline(always)]
    fn forget(&self, offset: usize, noise: u64) -> usize {
        forget(offset, noise)
    }
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
    /// The context that the kernel handed to the program.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut __sk_buff {
        self.skb
    }

    /// The mark that another part of the stack gave it.
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
                // The length that the queueing discipline will be told: headers once for each segment.
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

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn is_of_this_machine(&self) -> bool {
        // SAFETY: the context is valid while the program runs.
        let came_in = unsafe { (*self.skb).ingress_ifindex };
        matches!(self.side, Side::Egress) && came_in == 0
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        let (size, segments) = unsafe { ((*self.skb).gso_size, (*self.skb).gso_segs) };
        // A guest's or a tunnel's super-packet is not counted yet: 0 of them are several too.
        match segments {
            1 => 0,
            _ => size,
        }
    }

    /// Headers can reach into the paged part of the buffer: the kernel moves them to the front.
    ///
    /// Only where a parse ends early, for want of them: it may copy, and most buffers have all their
    /// headers in front.
    #[inline(always)]
    fn revealed(self) -> Self {
        /// More than any header chain of a real packet.
        const HEADERS: u32 = 512;
        let headers = self.len().min(HEADERS);
        if self.octets.end - self.octets.start < headers as usize && is_cut_short(self.skb) != 0 {
            // SAFETY: the context is valid while the program runs; the pointers of `self` are not used
            // any more.
            let _ = unsafe { bpf_skb_pull_data(self.skb, headers) };
        }
        // In any case: from here on there is one way through the program, whatever came before.
        Self::new(self.skb, self.side)
    }
}

global! {
    /// Whether the headers of a socket buffer do not lie in front of it as far as they are read. A function of
    /// its own, because Linux 6.1 would go through what follows once for each place at which they may end.
    fn is_cut_short(skb: *mut __sk_buff) -> u32 {
        u32::from(parse(&SocketBuffer::ingress(&TcContext::new(skb))).is_err())
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
