//! Puts an answer on the wire in the place of the frame that was refused.
//!
//! Not inlined into the programs: a refused packet is rare, and may take its time.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, xdp_action, xdp_md},
    helpers::{
        bpf_redirect, bpf_skb_change_tail, bpf_skb_store_bytes, bpf_xdp_adjust_head,
        bpf_xdp_adjust_tail,
    },
    programs::{TcContext, XdpContext},
};
use sensor_ebpf::{
    answer::{ANSWER_CAPACITY, refuse},
    packet::Packet,
    parse::parse,
};

use crate::{
    access::{Frame, LinearFrame, SocketBuffer},
    maps,
};

/// The answer's octets and how many of them count; `None` where no answer is due.
#[inline(always)]
fn compose<P: Packet>(frame: &P) -> Option<(&'static [u8; ANSWER_CAPACITY], usize)> {
    let buffer = maps::answer_buffer()?;
    // SAFETY: the buffer is this CPU's, and no other program of this object runs on the CPU
    // before this one has ended.
    let buffer = unsafe { &mut *buffer };
    let parsed = parse(frame).ok()?;
    let len = refuse(frame, &parsed, buffer)?;
    (len <= ANSWER_CAPACITY).then_some((&*buffer, len))
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
    let longer = len as i32 - before;
    // Drivers promise room before a frame; behind a short one there may be none.
    // SAFETY: the context is valid while the program runs.
    let resized = unsafe {
        if longer > 0 {
            bpf_xdp_adjust_head(context, -longer)
        } else {
            bpf_xdp_adjust_tail(context, longer)
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
    maps::count_answered(ifindex, len as u64);
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
    maps::count_answered(ifindex, len as u64);
    // SAFETY: the helper notes where to send the buffer.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}
