//! Puts an answer on the wire in the place of the frame that was refused.
//!
//! Not inlined into the programs: a refused packet is rare, and may take its time.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH,
        BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action, xdp_md,
    },
    helpers::{
        bpf_clone_redirect, bpf_l4_csum_replace, bpf_redirect, bpf_skb_adjust_room,
        bpf_skb_change_tail, bpf_skb_store_bytes, bpf_xdp_adjust_head, bpf_xdp_adjust_tail,
        bpf_xdp_get_buff_len,
    },
    programs::{TcContext, XdpContext},
};
use sensor_ebpf::{
    answer::{
        ANSWER_CAPACITY, Headers, NETWORK_OFFSET_LIMIT, Refusal, Refused, To, answer_question,
        dns_message, echo_question,
        limit::Limited,
        place_of_message, refuse, seal,
        syn::{LINK_LEN, Syn},
    },
    books::Note,
    flow::Direction,
    packet::Packet,
    parse::{Family, Mac, parse},
    said::Found,
};

use crate::{
    frame::{AllBytes, Frame, LinearFrame, SocketBuffer},
    global,
    judge::read_question,
    sample::{Payload, sample_again},
    seen::Action,
    table::{interfaces, limits, scratch, settings},
    verifier::{masked, one_to},
};

/// The mark of a socket buffer that is an answer of ours.
pub(crate) const ANSWER_MARK: u32 = 0x5e4d_0a05;

/// Leaves the facts about the refused frame that was just seen in this CPU's buffer, for an answer. Gives
/// whether one may be due.
#[inline(always)]
fn take<P: Packet>(frame: &P) -> u32 {
    let take = || {
        let seen = scratch::seen()?;
        let buffer = scratch::refusal()?;
        buffer.refused = Refused::of(frame, &seen.headers(frame)?)?;
        buffer.flow = seen.fingerprint;
        Some(())
    };
    u32::from(take().is_some())
}

global! {
    /// Whether the frame that was read gets an answer: the answers of each flow and device are limited.
    fn is_admitted(ifindex: u32, action: u32, direction: u32) -> u32 {
        let Some(refusal) = scratch::refusal() else {
            return 0;
        };
        let (direction, device) = match direction {
            0 => (Direction::Upload, refusal.refused.source_mac()),
            _ => (Direction::Download, refusal.refused.destination_mac()),
        };
        let limited = match Action::from_number(action) {
            Action::NxDomain | Action::Zero => Limited::Dns,
            _ => refusal.refused.limited(direction),
        };
        match limits::admit(limited, device.word(), refusal.flow) {
            Ok(()) => 1,
            Err(reason) => {
                interfaces::count_silent(ifindex, reason);
                0
            }
        }
    }
}

/// Composes the refusal of the frame that was read, in the receiver's buffer. Gives its length; `None` where
/// none is due.
#[inline(always)]
fn compose<P: Packet>(frame: &P, to: To) -> Option<usize> {
    let buffer = scratch::answer(to)?;
    let refused = with_bounds(frame)?;
    let len = refuse(frame, &refused, to, buffer)?;
    (len <= ANSWER_CAPACITY).then_some(len)
}

/// Composes the headers before a DNS message of so many bytes in the sender's buffer. Apart from other
/// answers, with which it would take more stack than there is. Gives the length of the whole.
#[inline(always)]
fn compose_question<P: Packet>(frame: &P, message: usize) -> Option<usize> {
    if message == 0 || message > ANSWER_CAPACITY {
        return None;
    }
    let buffer = scratch::answer(To::Sender)?;
    let refused = with_bounds(frame)?;
    let len = answer_question(frame, &refused, message, buffer)?;
    (len <= ANSWER_CAPACITY).then_some(len)
}

/// The facts about the refused frame, with offsets that the verifier knows to be bounded.
#[inline(always)]
fn with_bounds<P: Packet>(frame: &P) -> Option<Refused> {
    let refused = scratch::refusal()?.refused;
    Some(refused.with_offsets(
        bounded(refused.network_offset())?,
        frame.forget(refused.transport_offset(), 0),
    ))
}

global! {
    /// Writes the last octets of a composed answer, and gives its length; 0 where there is none.
    fn finish(to: u32, len: u32) -> u32 {
        let buffer = scratch::answer(To::from_number(to));
        let (Some(buffer), Some(refused)) = (buffer, scratch::refusal()) else {
            return 0;
        };
        let refused = refused.refused;
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
    /// [`take`] at XDP.
    fn take_xdp(context: *mut xdp_md) -> u32 {
        take(&LinearFrame::new(&XdpContext::new(context)))
    }
}

global! {
    /// [`take`] at TC.
    fn take_tc(skb: *mut __sk_buff) -> u32 {
        take(&SocketBuffer::ingress(&TcContext::new(skb)))
    }
}

global! {
    /// Reads a frame that another program refused, and leaves the facts for an answer in this CPU's buffer.
    /// Gives whether one may be due.
    fn read(skb: *mut __sk_buff) -> u32 {
        let frame = SocketBuffer::ingress(&TcContext::new(skb));
        let read = || {
            let parsed = parse(&frame).ok()?;
            scratch::refusal()?.refused = Refused::of(&frame, &Headers::of(&parsed))?;
            Some(())
        };
        u32::from(read().is_some())
    }
}

global! {
    /// [`compose`] at XDP, for the sender.
    fn compose_xdp(context: *mut xdp_md) -> u32 {
        let frame = LinearFrame::new(&XdpContext::new(context));
        compose(&frame, To::Sender).unwrap_or(0) as u32
    }
}

global! {
    /// [`compose_question`] at XDP.
    fn compose_question_xdp(context: *mut xdp_md, message: u32) -> u32 {
        let frame = LinearFrame::new(&XdpContext::new(context));
        compose_question(&frame, message as usize).unwrap_or(0) as u32
    }
}

global! {
    /// [`compose`] at TC, for the sender.
    fn compose_tc(skb: *mut __sk_buff) -> u32 {
        let frame = SocketBuffer::ingress(&TcContext::new(skb));
        compose(&frame, To::Sender).unwrap_or(0) as u32
    }
}

global! {
    /// [`compose`] at TC, for the receiver.
    fn compose_onward(skb: *mut __sk_buff) -> u32 {
        let frame = SocketBuffer::ingress(&TcContext::new(skb));
        compose(&frame, To::Receiver).unwrap_or(0) as u32
    }
}

global! {
    /// [`compose_question`] at TC.
    fn compose_question_tc(skb: *mut __sk_buff, message: u32) -> u32 {
        let frame = SocketBuffer::ingress(&TcContext::new(skb));
        compose_question(&frame, message as usize).unwrap_or(0) as u32
    }
}

global! {
    /// Has resets that are composed from now on signed, or not: resets to a server come back to the programs.
    fn sign(is_for_server: u32) -> u32 {
        let (Some(settings), Some(refusal)) = (settings::settings(), scratch::refusal()) else {
            return 0;
        };
        let signature = match is_for_server {
            0 => 0,
            _ => settings.reset_signature as u32,
        };
        refusal.refused = refusal.refused.signed(signature);
        1
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
    /// because the verifier would go through the code behind it once for each length of the question.
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
        let place = match scratch::refusal() {
            Some(refusal) => place_of_message(&refusal.refused).unwrap_or(0) as u32,
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
/// Every place in the answer is this offset and a constant. The compiler does not repeat a comparison whose
/// result it knows, but it may keep a copy from before the comparison, of which the verifier of Linux 6.1
/// believes the worst. A masked register is bounded wherever it goes.
#[inline(always)]
fn bounded(offset: usize) -> Option<usize> {
    if offset >= NETWORK_OFFSET_LIMIT {
        return None;
    }
    Some(masked::<{ NETWORK_OFFSET_LIMIT as i32 - 1 }>(offset))
}

global! {
    /// Answers a refused upload at XDP: turns the frame into the answer and sends it back, or hands it on
    /// with a note for [`read_note`].
    pub(crate) fn answer_xdp(context: *mut xdp_md, action: u32) -> u32 {
        if action == Action::Reject as u32 && reset_syn(context) != 0 {
            return xdp_action::XDP_TX;
        }
        let ifindex = LinearFrame::new(&XdpContext::new(context)).ifindex();
        if take_xdp(context) == 0 || is_admitted(ifindex, action, Direction::Upload as u32) == 0 {
            return xdp_action::XDP_DROP;
        }
        if interfaces::notes_refused(ifindex) {
            return note(context, action);
        }
        let composed = match message_for(action) {
            0 => compose_xdp(context),
            message => compose_question_xdp(context, message),
        };
        let len = finish(To::Sender as u32, composed) as usize;
        let Some(answer) = scratch::answer(To::Sender) else {
            return xdp_action::XDP_DROP;
        };
        if len == 0 || !resize(context, len as i32) || !overwrite(context, answer, len) {
            interfaces::count_answer_failed(ifindex);
            return xdp_action::XDP_DROP;
        }
        count_answered(ifindex, len as u64);
        xdp_action::XDP_TX
    }
}

global! {
    /// Turns a refused SYN into its reset, where it goes the short way and the driver delivers frames that XDP
    /// sends back. Gives whether it did; where not, the frame is as it was.
    fn reset_syn(context: *mut xdp_md) -> u32 {
        let reset = || {
            let frame = LinearFrame::new(&XdpContext::new(context));
            let seen = scratch::seen()?;
            let header_len = seen.payload_offset.wrapping_sub(seen.transport_offset);
            let headers = seen.headers(&frame)?;
            let syn = Syn::of(&headers, seen.key.ports(), seen.sequence, header_len)?;
            let len = frame.len();
            if u64::from(len) != seen.wire.bytes {
                // The rest lies in other buffers.
                return None;
            }
            let record = interfaces::answering(frame.ifindex())?;
            let answer_len = match headers.family {
                Family::V4 => write_reset(&frame, &headers, syn.reset_v4())?,
                _ => write_reset(&frame, &headers, syn.reset_v6())?,
            };
            let surplus = len as usize - answer_len;
            // SAFETY: the context is valid while the program runs.
            let is_cut = surplus == 0
                || unsafe { bpf_xdp_adjust_tail(context, -(surplus as i32)) } == 0;
            // A frame may be longer than its IP packet.
            let sent = if is_cut { answer_len } else { len as usize };
            interfaces::count_answered_in(record, sent as u64);
            Some(())
        };
        u32::from(reset().is_some())
    }
}

/// Writes a reset over the frame with these headers. Gives the length of the whole.
#[inline(always)]
fn write_reset<const WORDS: usize>(
    frame: &LinearFrame,
    headers: &Headers,
    words: [u32; WORDS],
) -> Option<usize> {
    frame.store_words(LINK_LEN, words)?;
    frame.store(0, headers.source_mac.octets())?;
    frame.store(6, headers.destination_mac.octets())?;
    Some(LINK_LEN + size_of::<[u32; WORDS]>())
}

global! {
    /// Hands a refused frame on with a note of the answer to make. Where the driver has no room for the note,
    /// the frame goes no further.
    fn note(context: *mut xdp_md, action: u32) -> u32 {
        let Some(refusal) = scratch::refusal() else {
            return xdp_action::XDP_DROP;
        };
        let frame = LinearFrame::new(&XdpContext::new(context));
        let ifindex = frame.ifindex();
        let note = Note {
            magic: Note::MAGIC,
            action,
            destination: refusal.refused.destination_mac().word(),
        };
        if frame.annotate(note) {
            return xdp_action::XDP_PASS;
        }
        interfaces::count_note_failed(ifindex);
        xdp_action::XDP_DROP
    }
}

/// Makes the frame as long as its answer, in one buffer. Gives whether it could.
#[inline(always)]
fn resize(context: *mut xdp_md, len: i32) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe {
        let whole = bpf_xdp_get_buff_len(context) as i32;
        let linear = LinearFrame::new(&XdpContext::new(context)).wire(None).bytes as i32;
        let kept = linear.min(len);
        if kept != whole && bpf_xdp_adjust_tail(context, kept - whole) != 0 {
            return false;
        }
        // Drivers leave 256 bytes in front of a frame; behind it there may be none.
        kept == len || bpf_xdp_adjust_head(context, kept - len) == 0
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
    /// Answers a refused upload at TC.
    pub(crate) fn answer_tc(skb: *mut __sk_buff, action: u32) -> u32 {
        let ifindex = SocketBuffer::ingress(&TcContext::new(skb)).ifindex();
        if take_tc(skb) == 0
            || is_admitted(ifindex, action, Direction::Upload as u32) == 0
        {
            return TC_ACT_SHOT as u32;
        }
        tell_both(skb, action)
    }
}

global! {
    /// Answers an upload that XDP refused and handed on, which was for a MAC address.
    pub(crate) fn read_note(skb: *mut __sk_buff, action: u32, destination: u64) -> u32 {
        // The headers may lie in pages.
        let _ = SocketBuffer::ingress(&TcContext::new(skb)).revealed();
        if read(skb) == 0 {
            return TC_ACT_SHOT as u32;
        }
        let Some(refusal) = scratch::refusal() else {
            return TC_ACT_SHOT as u32;
        };
        refusal.refused = refusal.refused.sent_to(Mac::from_word(destination));
        if matches!(
            Action::from_number(action),
            Action::NxDomain | Action::Zero
        ) && (sample_again(skb) == 0 || read_question(0) != Found::Name as u32)
        {
            interfaces::count_answer_failed(SocketBuffer::ingress(&TcContext::new(skb)).ifindex());
            return TC_ACT_SHOT as u32;
        }
        tell_both(skb, action)
    }
}

/// Sends the device the answer to its upload that was read, out of the interface it came in by, and
/// ends the connection at the server too, where there is one.
#[inline(always)]
fn tell_both(skb: *mut __sk_buff, action: u32) -> u32 {
    let ifindex = SocketBuffer::ingress(&TcContext::new(skb)).ifindex();
    if find_checksum(skb) == 0 {
        interfaces::count_answer_failed(ifindex);
        return TC_ACT_SHOT as u32;
    }
    // Both before the frame is overwritten.
    sign(1);
    let to_server = match is_connection() {
        true => finish(To::Receiver as u32, compose_onward(skb)),
        false => 0,
    };
    sign(0);
    let composed = match message_for(action) {
        0 => compose_tc(skb),
        message => compose_question_tc(skb, message),
    };
    let to_device = finish(To::Sender as u32, composed);
    if to_device == 0 || straighten(skb) == 0 {
        interfaces::count_answer_failed(ifindex);
        return TC_ACT_SHOT as u32;
    }
    if to_server != 0 {
        send_to_server(skb, To::Receiver as u32, to_server);
    }
    let Some(answer) = scratch::answer(To::Sender) else {
        return TC_ACT_SHOT as u32;
    };
    if !put(skb, answer, to_device as usize) {
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

global! {
    /// Learns whether the checksum of the frame that was read is left to the network adapter
    /// (`CHECKSUM_PARTIAL`), and notes that with the facts for an answer. The frame's first bytes must not be
    /// read any more. Gives 0 where no answer can have the frame's place.
    ///
    /// No helper tells, but one behaves differently then: it leaves checksums alone that stand for no
    /// pseudo-header (`inet_proto_csum_replace4`).
    fn find_checksum(skb: *mut __sk_buff) -> u32 {
        /// Bytes that are replaced; any but 0 and 0xffff change every sum.
        const CHANGE: u64 = 0x1234;
        const TWO_BYTES: u64 = 2;

        let Some(refusal) = scratch::refusal() else {
            return 0;
        };
        let Some(before) = AllBytes(skb).load::<2>(0) else {
            return 0;
        };
        // SAFETY: the context is valid while the program runs.
        if unsafe { bpf_l4_csum_replace(skb, 0, 0, CHANGE, TWO_BYTES) } != 0 {
            return 0;
        }
        if AllBytes(skb).load::<2>(0) == Some(before) {
            if !refusal.refused.can_be_unfinished() {
                return 0;
            }
            refusal.refused = refusal.refused.with_unfinished_checksum();
        }
        1
    }
}

global! {
    /// Takes options and extension headers out of the frame that was read: an unfinished checksum begins behind
    /// them, and moves with the bytes after. Gives 0 where the answer's would be in another place.
    fn straighten(skb: *mut __sk_buff) -> u32 {
        const AFTER_NETWORK_HEADER: u32 = 0;

        let Some(refusal) = scratch::refusal() else {
            return 0;
        };
        let surplus = refusal.refused.surplus();
        if surplus == 0 {
            return 1;
        }
        // SAFETY: the context is valid while the program runs.
        let moved = unsafe {
            bpf_skb_adjust_room(
                skb,
                -(surplus as i32),
                AFTER_NETWORK_HEADER,
                u64::from(BPF_F_ADJ_ROOM_FIXED_GSO),
            )
        };
        u32::from(moved == 0 || !refusal.refused.is_unfinished())
    }
}

global! {
    /// Sends a server the reset in a buffer, as if the device had sent it: the way of uploads, where our own
    /// program knows it by its signature.
    fn send_to_server(skb: *mut __sk_buff, buffer: u32, len: u32) -> u32 {
        let ifindex = SocketBuffer::ingress(&TcContext::new(skb)).ifindex();
        let Some(answer) = scratch::answer(To::from_number(buffer)) else {
            return 0;
        };
        // SAFETY: the context is valid while the program runs.
        unsafe {
            let mark = (*skb).mark;
            // The marks by which the machine routes packets are not for the reset.
            (*skb).mark = 0;
            if !put(skb, answer, len as usize)
                || bpf_clone_redirect(skb, ifindex, u64::from(BPF_F_INGRESS)) != 0
            {
                interfaces::count_answer_failed(ifindex);
            }
            (*skb).mark = mark;
        }
        0
    }
}

/// Puts an answer into a socket buffer.
#[inline(always)]
fn put(skb: *mut __sk_buff, answer: &[u8; ANSWER_CAPACITY], len: usize) -> bool {
    const FLAGS: u32 = BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH;

    if len == 0 || len > ANSWER_CAPACITY {
        return false;
    }
    let len = one_to::<ANSWER_CAPACITY>(len as u32);
    // SAFETY: the context is valid while the program runs; the answer's buffer has room for `len`
    // bytes, as just compared.
    unsafe {
        bpf_skb_change_tail(skb, len, 0) == 0
            && bpf_skb_store_bytes(skb.cast(), 0, answer.as_ptr().cast(), len, u64::from(FLAGS))
                == 0
    }
}

global! {
    /// Turns a refused download into answers that end the flow at both ends: for the server, as if the device
    /// had sent one; for the device, in the place of the server's packet.
    pub(crate) fn answer_both(skb: *mut __sk_buff) -> u32 {
        let ifindex = SocketBuffer::ingress(&TcContext::new(skb)).ifindex();
        if take_tc(skb) == 0
            || is_admitted(ifindex, Action::Reject as u32, Direction::Download as u32) == 0
        {
            return TC_ACT_SHOT as u32;
        }
        if find_checksum(skb) == 0 {
            interfaces::count_answer_failed(ifindex);
            return TC_ACT_SHOT as u32;
        }
        // Both before the frame is overwritten. The server of datagrams is not told: it hears no more.
        sign(1);
        let to_server = match is_tcp() {
            true => finish(To::Sender as u32, compose_tc(skb)),
            false => 0,
        };
        sign(0);
        let to_device = finish(To::Receiver as u32, compose_onward(skb));
        if to_device == 0 {
            // Of other protocols the receiver of the packet is told nothing.
            if has_ports() {
                interfaces::count_answer_failed(ifindex);
            }
            return TC_ACT_SHOT as u32;
        }
        if straighten(skb) == 0 {
            interfaces::count_answer_failed(ifindex);
            return TC_ACT_SHOT as u32;
        }
        if to_server != 0 {
            send_to_server(skb, To::Sender as u32, to_server);
        }
        let Some(answer) = scratch::answer(To::Receiver) else {
            return TC_ACT_SHOT as u32;
        };
        if !put(skb, answer, to_device as usize) {
            interfaces::count_answer_failed(ifindex);
            return TC_ACT_SHOT as u32;
        }
        interfaces::count_replaced(ifindex, u64::from(to_device));
        TC_ACT_UNSPEC as u32
    }
}

/// Whether the frame that was read is TCP.
#[inline(always)]
fn is_tcp() -> bool {
    scratch::refusal().is_some_and(|refusal| refusal.refused.is_tcp())
}

/// Whether the frame that was read is TCP or UDP.
#[inline(always)]
fn has_ports() -> bool {
    scratch::refusal().is_some_and(|refusal| refusal.refused.has_ports())
}

/// Whether the frame that was read is of a TCP connection of which its receiver may know.
#[inline(always)]
fn is_connection() -> bool {
    scratch::refusal().is_some_and(|refusal| refusal.refused.is_tcp() && !refusal.refused.opens())
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
