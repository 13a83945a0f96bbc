//! Copies early payloads to a buffer, from which they are judged and go on to user space.
//!
//! Reached by the few packets that a flow's [`Watch`](sensor_ebpf::sample::Watch) wants, after they
//! were booked; never by a steady one. A function of its own for each kind of frame, because each
//! reaches its payload in another way; the verifier checks it apart from the parser.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::bpf_xdp_get_buff_len,
    programs::{TcContext, XdpContext},
};
use sensor_ebpf::{
    flow::{Direction, FlowKey},
    packet::{OFFSET_LIMIT, Packet},
    parse::{parse, protocol, tcp_flag},
    sample::{Head, LOOKED_AT, MAX_PAYLOAD, NO_SLOT, classify},
};

use crate::{
    clock,
    frame::{Frame, LinearFrame, MultiBufferFrame, SocketBuffer, copy_frags, copy_skb},
    global, quote,
    seen::Seen,
    table::{
        flows,
        scratch::{self, Sample},
    },
    verifier::{forget, masked, one_to},
};

global! {
    /// Writes what goes before the copy of a payload, of the flow in a slot where it has one. Apart from
    /// its callers, whose share of the stack it would double.
    pub(crate) fn begin_sample(seen: &Seen, slot: u32, is_last: u32) -> u32 {
        let Some(sample) = scratch::sample() else {
            return 0;
        };
        sample.head = head(seen);
        if slot != NO_SLOT
            && let Some(flow) = flows::in_slot(slot)
        {
            flow.describe(seen.direction(), &mut sample.head);
        }
        if is_last != 0 {
            sample.head.flags |= Head::LAST;
        }
        0
    }
}

/// What goes before the copy of a frame's payload, as far as the frame tells it.
#[inline(always)]
fn head(seen: &Seen) -> Head {
    Head {
        key: seen.key,
        at: seen.now,
        nanoseconds: clock::nanoseconds(),
        slot: NO_SLOT,
        // A SYN has a number of its own, before that of the data it may carry (RFC 7413).
        sequence: match seen.key.protocol() {
            protocol::TCP => seen
                .sequence
                .wrapping_add(u32::from(seen.tcp_flags & tcp_flag::SYN != 0)),
            _ => 0,
        },
        initial_sequence: 0,
        payload: u32::from(seen.payload),
        captured: 0,
        kind: 0,
        direction: seen.direction & 1,
        flags: match seen.tcp_flags & tcp_flag::URG {
            0 => 0,
            _ => Head::URGENT,
        },
        epoch: 0,
    }
}

/// A frame whose payload can be copied.
pub(crate) trait Sampled: Frame {
    /// Copies the payload that starts at `offset` to this CPU's buffer; gives 0 where nobody reads it.
    fn sample(&self, offset: u32) -> u32;
    /// What the parser leaves out, of ICMP and resets; its headers start at these offsets.
    fn look(&self, seen: &Seen, network: u32, transport: u32) -> u64;
}

impl Sampled for LinearFrame {
    #[inline(always)]
    fn sample(&self, offset: u32) -> u32 {
        sample_linear(self.context(), offset)
    }

    #[inline(always)]
    fn look(&self, seen: &Seen, network: u32, transport: u32) -> u64 {
        quote::look_xdp(seen, self.context(), network, transport)
    }
}

impl Sampled for MultiBufferFrame {
    #[inline(always)]
    fn sample(&self, offset: u32) -> u32 {
        sample_frags(self.context(), offset)
    }

    #[inline(always)]
    fn look(&self, seen: &Seen, network: u32, transport: u32) -> u64 {
        quote::look_xdp(seen, self.context(), network, transport)
    }
}

impl Sampled for SocketBuffer {
    #[inline(always)]
    fn sample(&self, offset: u32) -> u32 {
        sample_skb(self.context(), offset)
    }

    #[inline(always)]
    fn look(&self, seen: &Seen, network: u32, transport: u32) -> u64 {
        quote::look_skb(seen, self.context(), network, transport)
    }
}

/// What all three do: how much there is, the copy, and what it is. Gives whether somebody reads it.
#[inline(always)]
fn take(
    offset: u32,
    frame_len: u32,
    copy: impl FnOnce(u32, u32, &mut [u8; MAX_PAYLOAD]) -> Option<u32>,
) -> u32 {
    u32::from(try_take(offset, frame_len, copy).is_some())
}

#[inline(always)]
fn try_take(
    offset: u32,
    frame_len: u32,
    copy: impl FnOnce(u32, u32, &mut [u8; MAX_PAYLOAD]) -> Option<u32>,
) -> Option<()> {
    let sample: &mut Sample = scratch::sample()?;
    let offset = offset & (OFFSET_LIMIT as u32 - 1);
    if offset >= frame_len {
        return None;
    }
    let len = sample
        .head
        .payload
        .min(frame_len - offset)
        .min(MAX_PAYLOAD as u32);
    if len == 0 {
        return None;
    }
    let len = one_to::<MAX_PAYLOAD>(len);
    // What was there before is not looked at. Word by word: the compiler would call a loop.
    for word in 0..LOOKED_AT / 8 {
        // SAFETY: the payload has room for more words, and lies behind a head of whole words.
        unsafe {
            let words = sample.payload.as_mut_ptr().cast::<u64>();
            ptr::write_volatile(words.add(word), 0);
        }
    }
    let len = copy(offset, len, &mut sample.payload)?;
    let kind = classify(
        &sample.head.key,
        sample.payload.first_chunk::<LOOKED_AT>()?,
        sample.head.payload as usize,
    )?;
    sample.head.kind = kind as u8;
    sample.head.captured = len;
    Some(())
}

const _: () = assert!(MAX_PAYLOAD.is_power_of_two());

global! {
    /// The payload of a frame that lies in one buffer.
    fn sample_linear(context: *mut xdp_md, offset: u32) -> u32 {
        let frame = LinearFrame::new(&XdpContext::new(context));
        let frame_len = frame.wire(None).bytes as u32;
        take(offset, frame_len, |offset, len, to| {
            Some(frame.copy(offset as usize, len as usize, to) as u32)
        })
    }
}

global! {
    /// The payload of a frame that may lie in several buffers.
    fn sample_frags(context: *mut xdp_md, offset: u32) -> u32 {
        // SAFETY: the context is valid while the program runs.
        let frame_len = unsafe { bpf_xdp_get_buff_len(context) } as u32;
        take(offset, frame_len, |offset, len, to| {
            copy_frags(context, offset, len, to).then_some(len)
        })
    }
}

global! {
    /// The payload of a socket buffer.
    pub(crate) fn sample_skb(skb: *mut __sk_buff, offset: u32) -> u32 {
        // SAFETY: the context is valid while the program runs.
        let frame_len = unsafe { (*skb).len };
        take(offset, frame_len, |offset, len, to| {
            copy_skb(skb, offset, len, to).then_some(len)
        })
    }
}

/// The copy of a payload.
pub(crate) struct Payload<'a>(pub(crate) &'a Sample);

impl Packet for Payload<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let offset = masked::<0x1_ffff>(offset);
        // An offset that is too large stays so. Behind what was captured lies what another payload left there.
        // Masked too, so that the verifier does not take it for the offset and a constant: that of
        // Linux 6.12 mixes up the bounds of the two.
        let end = masked::<0x1_ffff>(offset + N);
        if end > self.0.head.captured as usize || offset > MAX_PAYLOAD - N {
            return None;
        }
        // SAFETY: within the payload, as just compared.
        Some(unsafe { self.0.payload.as_ptr().add(offset).cast::<[u8; N]>().read() })
    }

    #[inline(always)]
    fn forget(&self, offset: usize, noise: u64) -> usize {
        forget(offset, noise)
    }
}

global! {
    /// Copies the payload of an upload that was sampled before, by another program. Gives 0 where it
    /// cannot.
    pub(crate) fn sample_again(skb: *mut __sk_buff) -> u32 {
        let frame = SocketBuffer::ingress(&TcContext::new(skb));
        let (Ok(parsed), Some(sample)) = (parse(&frame), scratch::sample()) else {
            return 0;
        };
        sample.head.key = FlowKey::new(&parsed, Direction::Upload, frame.ifindex());
        sample.head.payload = parsed.payload_len().unwrap_or(0) as u32;
        let offset = frame.forget(parsed.payload_offset(), 0);
        sample_skb(skb, offset as u32)
    }
}
