//! Puts an answer on the wire in the place of the frame that was refused.
//!
//! Not inlined into the programs: a refused packet is rare, and may take its time.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action, xdp_md},
    helpers::{
        bpf_clone_redirect, bpf_redirect, bpf_skb_change_tail, bpf_skb_store_bytes,
        bpf_xdp_adjust_head, bpf_xdp_adjust_tail,
    },
    programs::{TcContext, XdpContext},
};
use sensor_ebpf::{
    answer::{
        ANSWER_CAPACITY, NETWORK_OFFSET_LIMIT, Refusal, Refused, To, answer_question, dns_message,
        echo_question, place_of_message, refuse, seal,
    },
    packet::Packet,
    parse::parse,
};

use crate::{
    frame::{Frame, LinearFrame, SocketBuffer},
    global,
    sample::Payload,
    seen::Action,
    table::{interfaces, scratch},
    verifier::masked,
};

/// The mark of a socket buffer that is an answer of ours.
pub(crate) const ANSWER_MARK: u32 = 0x5e4d_0a05;

/// Reads the refused frame, and leaves in this CPU's buffer what an answer needs to know of it. Gives
/// whether one is due.
#[inline(always)]
fn read<P: Packet>(frame: &P, more: impl FnOnce(Refused) -> Refused) -> u32 {
    let refused = parse(frame).ok().and_then(|parsed| Refused::of(&parsed));
    match (refused.map(more), scratch::refused()) {
        (Some(refused), Some(buffer)) => {
            *buffer = refused;
            1
        }
        _ => 0,
    }
}

/// Composes the answer to the frame that was read, in the buffer of whom it is for. Gives its length;
/// 0 where none is due.
#[inline(always)]
fn compose<P: Packet>(frame: &P, action: Action, message: usize, to: To) -> Option<usize> {
    let buffer = scratch::answer(to)?;
    let refused = *scratch::refused()?;
    let refused = refused.with_offsets(
        bounded(refused.network_offset())?,
        frame.forget(refused.transport_offset(), 0),
    );
    let len = match action {
        Action::NxDomain | Action::Zero => {
            if message == 0 || message > ANSWER_CAPACITY {
                return None;
            }
            answer_question(frame, &refused, message, buffer)?
        }
        _ => refuse(frame, &refused, to, buffer)?,
    };
    (len <= ANSWER_CAPACITY).then_some(len)
}

global! {
    /// Writes the last octets of a composed answer, and gives its length; 0 where there is none.
    fn finish(to: u32, len: u32) -> u32 {
        const SENDER: u32 = To::Sender as u32;
        let to = match to {
            SENDER => To::Sender,
            _ => To::Receiver,
        };
        let (Some(buffer), Some(refused)) = (scratch::answer(to), scratch::refused()) else {
            return 0;
        };
        let Some(network) = bounded(refused.network_offset()) else {
            return 0;
        };
        let refused = refused.with_offsets(network, refused.transport_offset());
        match seal(&refused, masked::<LENGTHS>(len as usize), buffer) {
            Some(()) => len,
            None => 0,
        }
    }
}

global! {
    /// [`read`] at XDP.
    fn read_xdp(context: *mut xdp_md) -> u32 {
        read(&LinearFrame::new(&XdpContext::new(context)), |refused| {
            refused
        })
    }
}

global! {
    /// [`read`] at TC.
    fn read_tc(skb: *mut __sk_buff) -> u32 {
        let frame = SocketBuffer::ingress(&TcContext::new(skb));
        read(&frame, |refused| refused.in_socket_buffer(&frame))
    }
}

global! {
    /// [`compose`] at XDP, for the sender.
    fn compose_xdp(context: *mut xdp_md, action: u32, message: u32) -> u32 {
        let frame = LinearFrame::new(&XdpContext::new(context));
        compose(
            &frame,
            Action::from_number(action),
            message as usize,
            To::Sender,
        )
        .unwrap_or(0) as u32
    }
}

global! {
    /// [`compose`] at TC, for the sender.
    fn compose_tc(skb: *mut __sk_buff, action: u32, message: u32) -> u32 {
        let frame = SocketBuffer::ingress(&TcContext::new(skb));
        compose(
            &frame,
            Action::from_number(action),
            message as usize,
            To::Sender,
        )
        .unwrap_or(0) as u32
    }
}

global! {
    /// [`compose`] at TC, for the sender of a download. Apart from questions, which would take more stack
    /// than there is.
    fn compose_reset(skb: *mut __sk_buff) -> u32 {
        let frame = SocketBuffer::egress(&TcContext::new(skb));
        compose(&frame, Action::Reject, 0, To::Sender).unwrap_or(0) as u32
    }
}

global! {
    /// [`compose`] at TC, for the receiver.
    fn compose_onward(skb: *mut __sk_buff) -> u32 {
        let frame = SocketBuffer::egress(&TcContext::new(skb));
        compose(&frame, Action::Reject, 0, To::Receiver).unwrap_or(0) as u32
    }
}

/// The DNS message by which a question is refused, composed in its place in the answer: its length, 0
/// where the action asks for none. Before the headers and not from within, which would take more stack
/// than Linux 6.1 gives.
#[inline(always)]
fn message_for(action: u32) -> u32 {
    match Action::from_number(action) {
        Action::NxDomain => compose_message(0),
        Action::Zero => compose_message(1),
        Action::Pass | Action::Reject | Action::Drop => 0,
    }
}

global! {
    /// Copies the question to the message that refuses it. Gives whether it could. A function of its own,
    /// because the verifier would go through what follows once for each length of the question.
    fn copy_question(place: u32) -> u32 {
        let (Some(buffer), Some(sample), Some(said)) = (
            scratch::answer(To::Sender),
            scratch::sample(),
            scratch::said(),
        ) else {
            return 0;
        };
        let place = masked::<127>(place as usize);
        let name_len = masked::<255>(said.text.len as usize);
        u32::from(echo_question(&Payload(sample), name_len, buffer, place).is_some())
    }
}

global! {
    /// Writes the DNS message that refuses the question which was copied when it was judged. Gives its
    /// length; 0 where it cannot be made.
    fn compose_message(zero: u32) -> u32 {
        let place = match scratch::refused() {
            Some(refused) => place_of_message(refused).unwrap_or(0) as u32,
            None => return 0,
        };
        if copy_question(place) == 0 {
            return 0;
        }
        let (Some(buffer), Some(sample), Some(said)) = (
            scratch::answer(To::Sender),
            scratch::sample(),
            scratch::said(),
        ) else {
            return 0;
        };
        let refusal = match zero {
            0 => Refusal::NxDomain,
            _ => Refusal::Zero,
        };
        let place = masked::<127>(place as usize);
        let name_len = masked::<255>(said.text.len as usize);
        dns_message(&Payload(sample), name_len, refusal, buffer, place).unwrap_or(0) as u32
    }
}

/// A mask that no length of an answer exceeds.
const LENGTHS: i32 = 2 * ANSWER_CAPACITY as i32 - 1;

/// The same offset where it is below [`NETWORK_OFFSET_LIMIT`].
///
/// Every place in the answer is this offset and a constant. What the compiler knows of it, it does
/// not compare again, but it may keep a copy from before the comparison, of which the verifier of
/// Linux 6.1 believes the worst. A masked register is bounded wherever it goes.
#[inline(always)]
fn bounded(offset: usize) -> Option<usize> {
    if offset >= NETWORK_OFFSET_LIMIT {
        return None;
    }
    Some(masked::<{ NETWORK_OFFSET_LIMIT as i32 - 1 }>(offset))
}

global! {
    /// Turns the frame into the answer and sends it back where it came from.
    pub(crate) fn answer_xdp(context: *mut xdp_md, action: u32) -> u32 {
        if read_xdp(context) == 0 {
            return xdp_action::XDP_DROP;
        }
        let len = finish(
            To::Sender as u32,
            compose_xdp(context, action, message_for(action)),
        ) as usize;
        let Some(answer) = scratch::answer(To::Sender) else {
            return xdp_action::XDP_DROP;
        };
        if len == 0 {
            return xdp_action::XDP_DROP;
        }
        // Not before: what a frame is made of does not outlive a call.
        let frame = LinearFrame::new(&XdpContext::new(context));
        let ifindex = frame.ifindex();
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
        if resized != 0 || !overwrite(context, answer, len) {
            interfaces::count_answer_failed(ifindex);
            return xdp_action::XDP_DROP;
        }
        count_answered(ifindex, len as u64);
        xdp_action::XDP_TX
    }
}

/// Writes an answer over a frame of its length.
#[inline(always)]
fn overwrite(context: *mut xdp_md, answer: &[u8; ANSWER_CAPACITY], len: usize) -> bool {
    const STEP: usize = 8;

    let frame = LinearFrame::new(&XdpContext::new(context));
    let mut at = 0;
    for step in answer.as_chunks::<STEP>().0 {
        if at + STEP > len {
            break;
        }
        if frame.store(at, *step).is_none() {
            return false;
        }
        at += STEP;
    }
    // The last octets, of which some were written already: every answer is longer than a step.
    let last = masked::<LENGTHS>(len - STEP);
    match answer
        .get(last..)
        .and_then(|rest| rest.first_chunk::<STEP>())
    {
        Some(step) => frame.store(last, *step).is_some(),
        None => false,
    }
}

global! {
    /// Turns the socket buffer into the answer and sends it out of the interface it came in by.
    pub(crate) fn answer_tc(skb: *mut __sk_buff, action: u32) -> u32 {
        let ifindex = SocketBuffer::ingress(&TcContext::new(skb)).ifindex();
        if read_tc(skb) == 0 {
            return TC_ACT_SHOT as u32;
        }
        let len = finish(
            To::Sender as u32,
            compose_tc(skb, action, message_for(action)),
        ) as usize;
        let Some(answer) = scratch::answer(To::Sender) else {
            return TC_ACT_SHOT as u32;
        };
        if len == 0 {
            return TC_ACT_SHOT as u32;
        }
        if !put(skb, answer, len) {
            interfaces::count_answer_failed(ifindex);
            return TC_ACT_SHOT as u32;
        }
        // SAFETY: the context is valid; the helper notes where to send the buffer.
        unsafe {
            // It passes our own egress program, which is to let it go.
            (*skb).mark = ANSWER_MARK;
            bpf_redirect(ifindex, 0) as u32
        }
    }
}

/// Puts an answer into a socket buffer.
#[inline(always)]
fn put(skb: *mut __sk_buff, answer: &[u8; ANSWER_CAPACITY], len: usize) -> bool {
    if len == 0 || len > ANSWER_CAPACITY {
        return false;
    }
    // The verifier of Linux 6.1 does not learn from a comparison with zero.
    let len = masked::<{ ANSWER_CAPACITY as i32 - 1 }>(len - 1) + 1;
    // SAFETY: the context is valid while the program runs; the answer's buffer has room for `len`
    // octets, as just compared.
    unsafe {
        bpf_skb_change_tail(skb, len as u32, 0) == 0
            && bpf_skb_store_bytes(skb.cast(), 0, answer.as_ptr().cast(), len as u32, 0) == 0
    }
}

global! {
    /// Turns a refused download into what ends the flow at both ends: for the server, as if the device
    /// had sent it; for the device, in the place of what the server sent.
    pub(crate) fn answer_both(skb: *mut __sk_buff) -> u32 {
        let ifindex = SocketBuffer::egress(&TcContext::new(skb)).ifindex();
        if read_tc(skb) == 0 {
            return TC_ACT_SHOT as u32;
        }
        // Both before the frame is overwritten. The server of datagrams is not told: it hears no more.
        let to_server = match is_tcp() {
            true => finish(To::Sender as u32, compose_reset(skb)) as usize,
            false => 0,
        };
        let to_device = finish(To::Receiver as u32, compose_onward(skb)) as usize;
        if to_server != 0
            && let Some(answer) = scratch::answer(To::Sender)
        {
            // SAFETY: the context is valid while the program runs.
            unsafe {
                (*skb).mark = ANSWER_MARK;
                if !put(skb, answer, to_server)
                    || bpf_clone_redirect(skb, ifindex, u64::from(BPF_F_INGRESS)) != 0
                {
                    interfaces::count_answer_failed(ifindex);
                }
            }
        }
        let Some(answer) = scratch::answer(To::Receiver) else {
            return TC_ACT_SHOT as u32;
        };
        if to_device == 0 {
            return TC_ACT_SHOT as u32;
        }
        if !put(skb, answer, to_device) {
            interfaces::count_answer_failed(ifindex);
            return TC_ACT_SHOT as u32;
        }
        interfaces::count_replaced(ifindex, to_device as u64);
        TC_ACT_UNSPEC as u32
    }
}

/// Whether the frame that was read is TCP.
#[inline(always)]
fn is_tcp() -> bool {
    scratch::refused().is_some_and(|refused| refused.is_tcp())
}

/// Books an answer that passes at egress on its way to the device.
#[inline(always)]
pub(crate) fn count<F: Frame>(frame: &F) {
    count_answered(frame.ifindex(), frame.wire(None).bytes);
}

global! {
    /// Books an answer to the interface.
    fn count_answered(ifindex: u32, bytes: u64) -> u32 {
        interfaces::count_answered(ifindex, bytes);
        0
    }
}
