//! Copies early payloads to a buffer, from which they are judged and go on to user space.
//!
//! Reached by the few packets that a flow's [`Watch`](sensor_ebpf::sample::Watch) wants, after they
//! were booked; never by a steady one. `observe` has written the sample's head by then. A function of
//! its own for each kind of frame, because each reaches its payload in another way; the verifier
//! checks it apart from the parser.

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::bpf_xdp_get_buff_len,
    programs::XdpContext,
};
use sensor_ebpf::{
    packet::OFFSET_LIMIT,
    sample::{LOOKED_AT, MAX_PAYLOAD, classify},
};

use crate::{
    access::{Frame as _, LinearFrame, copy_frags, copy_skb},
    maps::{self, Sample},
};

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
    let sample: &mut Sample = maps::sample_buffer()?;
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
    let len = bounded(len);
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

/// The same length, 1 to [`MAX_PAYLOAD`], by way of an instruction that the compiler does not look
/// into: the verifier of Linux 6.1 does not learn from a comparison with zero.
#[inline(always)]
fn bounded(len: u32) -> u32 {
    let mut less_one = len - 1;
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "{less_one} &= {mask}",
            less_one = inout(reg) less_one,
            mask = const MAX_PAYLOAD - 1,
            options(pure, nomem, nostack),
        );
    }
    less_one + 1
}

const _: () = assert!(MAX_PAYLOAD.is_power_of_two());

/// The payload of a frame that lies in one buffer.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sample_linear(context: *mut xdp_md, offset: u32) -> u32 {
    let frame = LinearFrame::new(&XdpContext::new(context));
    let frame_len = frame.wire(None).bytes as u32;
    take(offset, frame_len, |offset, len, to| {
        Some(frame.copy(offset as usize, len as usize, to) as u32)
    })
}

/// The payload of a frame that may lie in several buffers.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sample_frags(context: *mut xdp_md, offset: u32) -> u32 {
    // SAFETY: the context is valid while the program runs.
    let frame_len = unsafe { bpf_xdp_get_buff_len(context) } as u32;
    take(offset, frame_len, |offset, len, to| {
        copy_frags(context, offset, len, to).then_some(len)
    })
}

/// The payload of a socket buffer.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sample_skb(skb: *mut __sk_buff, offset: u32) -> u32 {
    // SAFETY: the context is valid while the program runs.
    let frame_len = unsafe { (*skb).len };
    take(offset, frame_len, |offset, len, to| {
        copy_skb(skb, offset, len, to).then_some(len)
    })
}
