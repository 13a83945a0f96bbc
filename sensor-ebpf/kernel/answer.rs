//! Puts an answer on the wire in the place of the frame that was refused.
//!
//! Not inlined into the programs: a refused packet is rare, and may take its time.

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, xdp_action, xdp_md},
    helpers::{
        bpf_redirect, bpf_skb_change_tail, bpf_skb_store_bytes, bpf_xdp_adjust_head,
        bpf_xdp_adjust_tail,
    },
    programs::{TcContext, XdpContext},
};
use sensor_ebpf::{
    answer::{ANSWER_CAPACITY, NETWORK_OFFSET_LIMIT, refuse},
    packet::Packet,
    parse::parse,
};

use crate::{
    access::{Frame, LinearFrame, SocketBuffer},
    maps,
};

/// The mark of a socket buffer that is an answer of ours.
pub(crate) const ANSWER_MARK: u32 = 0x5e4d_0a05;

/// The answer's octets and how many of them count; `None` where no answer is due.
#[inline(always)]
fn compose<P: Packet>(frame: &P) -> Option<(&'static [u8; ANSWER_CAPACITY], usize)> {
    let buffer = maps::answer_buffer()?;
    // SAFETY: the buffer is this CPU's, and no other program of this object runs on the CPU
    // before this one has ended.
    let buffer = unsafe { &mut *buffer };
    let mut parsed = parse(frame).ok()?;
    parsed.network_offset = bounded(parsed.network_offset)?;
    let len = refuse(frame, &parsed, buffer)?;
    (len <= ANSWER_CAPACITY).then_some((&*buffer, len))
}

/// The same offset where it is below [`NETWORK_OFFSET_LIMIT`], by way of an instruction that the
/// compiler does not look into.
///
/// Every place in the answer is this offset and a constant. What the compiler knows of it, it does
/// not compare again, but it may keep a copy from before the comparison, of which the verifier of
/// Linux 6.1 believes the worst. A masked register is bounded wherever it goes.
#[inline(always)]
fn bounded(offset: usize) -> Option<usize> {
    if offset >= NETWORK_OFFSET_LIMIT {
        return None;
    }
    let mut bounded = offset;
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "{bounded} &= {mask}",
            bounded = inout(reg) bounded,
            mask = const NETWORK_OFFSET_LIMIT - 1,
            options(pure, nomem, nostack),
        );
    }
    Some(bounded)
}

/// Turns the frame into the answer and sends it back where it came from.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn answer_xdp(context: *mut xdp_md) -> u32 {
    let frame = LinearFrame::new(&XdpContext::new(context));
    let ifindex = frame.ifindex();
    let Some((answer, len)) = compose(&frame) else {
        return xdp_action::XDP_DROP;
    };
    let before = frame.wire(None).bytes as i32;
    let growth = len as i32 - before;
    // SAFETY: the context is valid while the program runs.
    let resized = unsafe {
        match growth {
            // Drivers leave 256 octets in front of a frame; behind it there may be none.
            1.. => bpf_xdp_adjust_head(context, -growth),
            _ => bpf_xdp_adjust_tail(context, growth),
        }
    };
    if resized != 0 {
        maps::count_answer_failed(ifindex);
        return xdp_action::XDP_DROP;
    }
    let frame = LinearFrame::new(&XdpContext::new(context));
    let mut at = 0;
    // Even lengths only: every header and quote is a multiple of two octets.
    while at < ANSWER_CAPACITY - 1 {
        if at >= len {
            break;
        }
        if frame.store(at, [answer[at], answer[at + 1]]).is_none() {
            maps::count_answer_failed(ifindex);
            return xdp_action::XDP_DROP;
        }
        at += 2;
    }
    count_answered(ifindex, len as u64);
    xdp_action::XDP_TX
}

/// Turns the socket buffer into the answer and sends it out of the interface it came in by.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn answer_tc(skb: *mut __sk_buff) -> u32 {
    let frame = SocketBuffer::ingress(&TcContext::new(skb));
    let ifindex = frame.ifindex();
    let Some((answer, len)) = compose(&frame) else {
        return TC_ACT_SHOT as u32;
    };
    if len == 0 || len > ANSWER_CAPACITY {
        return TC_ACT_SHOT as u32;
    }
    // SAFETY: the context is valid while the program runs; the answer's buffer has room for `len`
    // octets, as just compared.
    let sent = unsafe {
        bpf_skb_change_tail(skb, len as u32, 0) == 0
            && bpf_skb_store_bytes(skb.cast(), 0, answer.as_ptr().cast(), len as u32, 0) == 0
    };
    if !sent {
        maps::count_answer_failed(ifindex);
        return TC_ACT_SHOT as u32;
    }
    // SAFETY: the context is valid; the helper notes where to send the buffer.
    unsafe {
        // It passes our own egress program, which is to let it go.
        (*skb).mark = ANSWER_MARK;
        bpf_redirect(ifindex, 0) as u32
    }
}

/// Books an answer that passes at egress on its way to the device.
#[inline(always)]
pub(crate) fn count<F: Frame>(frame: &F) {
    count_answered(frame.ifindex(), frame.wire(None).bytes);
}

/// Books an answer to the interface.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_answered(ifindex: u32, bytes: u64) -> u32 {
    maps::count_answered(ifindex, bytes);
    0
}
