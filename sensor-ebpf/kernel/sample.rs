//! Copies early payloads to a buffer, from which they are judged and go on to user space.
//!
//! Reached by the few packets that a flow's [`Watch`](sensor_ebpf::sample::Watch) wants, after they
//! were booked; never by a steady one. A function of its own for each kind of frame, because each
//! reaches its payload in another way; the verifier checks it apart from the parser.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::bpf_xdp_get_buff_len,
    programs::XdpContext,
};
use sensor_ebpf::{
    flow::{Direction, Judgement},
    kind::{Kind, LOOKED_AT, classify},
    packet::{OFFSET_LIMIT, Packet},
    parse::{protocol, tcp_flag},
    sample::{Head, MAX_PAYLOAD, NO_SLOT},
    watch::Early,
};

use crate::{
    clock,
    frame::{Frame, LinearFrame, MultiBufferFrame, SocketBuffer, copy_frags, copy_skb},
    global,
    seen::Seen,
    table::{
        flows,
        scratch::{self, Sample},
        settings,
    },
    verifier::{forget, masked, one_to},
};

global! {
    /// Writes what goes before the copy of a payload, of the flow in a slot where it has one. Apart from
    /// its callers, whose share of the stack it would double.
    pub(crate) fn begin_sample(seen: &Seen, slot: u32) -> u32 {
        let Some(sample) = scratch::sample() else {
            return 0;
        };
        sample.head = head(seen);
        if slot != NO_SLOT
            && let Some(flow) = flows::in_slot(slot)
        {
            flow.describe(seen.direction(), &mut sample.head);
        }
        0
    }
}

global! {
    /// Says what is wanted of the flow behind the payload in this CPU's buffer, by what that was taken
    /// for, and marks the sample where nothing more is. Gives 0.
    pub(crate) fn watch_on() -> u32 {
        let (Some(sample), Some(settings)) = (scratch::sample(), settings::settings()) else {
            return 0;
        };
        let (Some(flow), Some(first)) = (
            flows::in_slot(sample.head.slot),
            sample.payload.first_chunk::<LOOKED_AT>(),
        ) else {
            return 0;
        };
        let taken = match sample.head.kind {
            0 => None,
            number => Kind::from_number(number),
        };
        let direction = match sample.head.direction {
            0 => Direction::Upload,
            _ => Direction::Download,
        };
        let early = Early {
            key: &sample.head.key,
            direction,
            first,
            len: sample.head.payload as usize,
            place: sample.head.place(),
        };
        let before = flow.judgement().watch;
        if !before.wants(direction) {
            // Another CPU took the last.
            return 0;
        }
        let after = before.behind(taken, &early, settings.watched_payloads);
        if after != before {
            flow.add_to_judgement(Judgement::watching(before, after));
        }
        if !after.wants(direction) {
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
        piece: 0,
    }
}

/// A frame whose payload can be copied.
pub(crate) trait Sampled: Frame {
    /// Copies the payload that starts at `offset` to this CPU's buffer; gives 0 where nobody reads it.
    fn sample(&self, offset: u32) -> u32;
}

impl Sampled for LinearFrame {
    #[inline(always)]
    fn sample(&self, offset: u32) -> u32 {
        sample_linear(self.context(), offset)
    }
}

impl Sampled for MultiBufferFrame {
    #[inline(always)]
    fn sample(&self, offset: u32) -> u32 {
        sample_frags(self.context(), offset)
    }
}

impl Sampled for SocketBuffer {
    #[inline(always)]
    fn sample(&self, offset: u32) -> u32 {
        sample_skb(self.context(), offset)
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
    fn sample_skb(skb: *mut __sk_buff, offset: u32) -> u32 {
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
