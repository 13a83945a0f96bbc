//! Copies early payloads, piece by piece, to a buffer, from which they are judged and go on to user space.
//!
//! Reached by the few packets that a flow's [`Watch`](sensor_ebpf::sample::Watch) wants, after they were
//! booked; never by a steady one. The program in which the frame came in hands over to a program of its own
//! ([`reader`](crate::reader)), which reads them.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use sensor_ebpf::{
    books::MULTICAST_DEVICE,
    flow::{Direction, FlowKey},
    kind::{Kind, LOOKED_AT},
    packet::Packet,
    parse::{parse, protocol, tcp_flag},
    said::initial,
    sample::{Head, MAX_DATAGRAMS, MAX_PAYLOAD, MAX_PIECES, NO_SLOT},
    watch::Early,
};

use crate::{
    clock,
    frame::{Frame, LinearFrame, MultiBufferFrame, SocketBuffer, copy_skb, copy_xdp},
    global, quote,
    reader::{phase, source},
    seen::{Booked, Seen},
    table::{
        flows, readers, ring,
        scratch::{self, Reading, Sample},
        settings,
    },
    verifier::{forget, forgotten, masked, one_to},
};

global! {
    /// Writes the head before the copy of a payload, with the flow of a slot where it has one, and notes the
    /// device by the number of its record. Apart from its callers, whose share of the stack it would double.
    pub(crate) fn begin_sample(seen: &Seen, slot: u32, device: u32) -> u32 {
        let (Some(sample), Some(reading)) = (scratch::sample(), scratch::reading()) else {
            return 0;
        };
        reading.device = device;
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
    /// Sets the watch of the flow behind the payload in this CPU's buffer, by the kind that the payload was
    /// taken for, and marks the sample where no more is wanted. Gives whether this payload was wanted.
    pub(crate) fn watch_on() -> u32 {
        let (Some(sample), Some(settings)) = (scratch::sample(), settings::settings()) else {
            return 1;
        };
        let (Some(flow), Some(first)) = (
            flows::in_slot(sample.head.slot),
            sample.payload.first_chunk::<LOOKED_AT>(),
        ) else {
            return 1;
        };
        let taken = match sample.head.kind {
            0 => None,
            number => Kind::from_number(number),
        };
        let direction = Direction::from_number(sample.head.direction);
        let early = Early {
            key: &sample.head.key,
            direction,
            first,
            len: sample.head.payload as usize,
            place: sample.head.place(),
        };
        let before = flow.line.watch();
        if !before.wants(direction) {
            // Another CPU took the last.
            return 0;
        }
        let after = before.behind(taken, &early, settings.watched_payloads);
        if after != before {
            flow.line.set_watch(after);
        }
        if !after.wants(direction) {
            sample.head.flags |= Head::LAST;
        }
        1
    }
}

/// The head before the copy of a frame's payload, as far as the frame tells it.
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
        payload: seen.payload,
        captured: 0,
        kind: 0,
        direction: seen.direction,
        flags: match seen.tcp_flags & tcp_flag::URG {
            0 => 0,
            _ => Head::URGENT,
        },
        piece: 0,
        epoch: 0,
        suppressed: 0,
    }
}

/// A frame whose payload can be read on, by a program of its own.
pub(crate) trait Sampled: Frame {
    /// Goes on in the program that reads payloads; comes back where there is none.
    fn read_on(&self, direction: Direction);

    /// The number of the connection that an Initial in a payload at `offset` begins; 0 where none does.
    #[inline(always)]
    fn connection(&self, offset: usize, port: u16) -> u32 {
        connection(self, offset, port)
    }

    /// Reads the fields of ICMP and TCP that the parser leaves out.
    fn look(&self, seen: &Seen) -> u64;

    /// Tells user space of the frame in this CPU's buffer, where it is a router advertisement.
    #[inline(always)]
    fn tell_advertisement(&self) {}
}

impl Sampled for LinearFrame {
    #[inline(always)]
    fn read_on(&self, _direction: Direction) {
        readers::read_on_linear(&XdpContext::new(self.context()));
    }

    #[inline(always)]
    fn look(&self, seen: &Seen) -> u64 {
        quote::look_xdp(seen, self.context())
    }
}

impl Sampled for MultiBufferFrame {
    #[inline(always)]
    fn read_on(&self, _direction: Direction) {
        readers::read_on_frags(&XdpContext::new(self.context()));
    }

    #[inline(always)]
    fn look(&self, seen: &Seen) -> u64 {
        quote::look_xdp(seen, self.context())
    }
}

impl Sampled for SocketBuffer {
    #[inline(always)]
    fn read_on(&self, direction: Direction) {
        readers::read_on_skb(&TcContext::new(self.context()), direction);
    }

    #[inline(always)]
    fn look(&self, seen: &Seen) -> u64 {
        quote::look_skb(seen, self.context())
    }

    #[inline(always)]
    fn tell_advertisement(&self) {
        tell_advertisement(self.context());
    }

    #[inline(always)]
    fn connection(&self, offset: usize, port: u16) -> u32 {
        match self.segment() {
            0 => connection(self, offset, port),
            segment => connections(self.context(), offset as u32, segment, port.into()),
        }
    }
}

/// See [`Sampled::connection`]. At other ports than that of HTTP/3, only versions count that are opened: by
/// chance, too many other packets look like Initials of one that is not known.
#[inline(always)]
fn connection<P: Packet + ?Sized>(packet: &P, offset: usize, port: u16) -> u32 {
    match packet.load::<5>(offset) {
        Some(first) if port == initial::PORT || initial::is_opened(first) => {
            initial::connection(packet, offset)
        }
        _ => 0,
    }
}

global! {
    /// The number of the connection that a datagram begins, of those that a socket buffer stands for. Where
    /// several begin one, a number that is none of theirs, and the same each time; 0 where none does.
    fn connections(skb: *mut __sk_buff, offset: u32, segment: u32, port: u32) -> u32 {
        let mut all = 0;
        let mut at = offset as usize;
        for _ in 0..MAX_DATAGRAMS {
            let one = connection_at(skb, at as u32, port);
            if one == NO_DATAGRAM {
                break;
            }
            if one != 0 && one != all {
                all = all.wrapping_mul(3).wrapping_add(one) | 1;
            }
            at = forgotten(at + segment as usize, u64::from(all));
        }
        all
    }
}

/// In what [`connection_at`] gives: the frame ends there. No connection has an even number.
const NO_DATAGRAM: u32 = 2;

global! {
    /// The number of the connection that the datagram at a place in a socket buffer begins; 0 where it
    /// begins none.
    fn connection_at(skb: *mut __sk_buff, at: u32, port: u32) -> u32 {
        /// The first bytes of an Initial: up to the identifier's eighth.
        const BEGINNING: u32 = 14;

        let Some(sample) = scratch::sample() else {
            return NO_DATAGRAM;
        };
        if !copy_skb(skb, at, BEGINNING, &mut sample.payload) {
            return NO_DATAGRAM;
        }
        sample.head.captured = BEGINNING;
        connection(&Payload(sample), 0, port as u16)
    }
}

global! {
    /// Notes the packet for the program that reads on: how long the frame is, and how long each datagram
    /// that it stands for. Gives whether there is something to read.
    pub(crate) fn hand_over(seen: &Seen, booked: u32, frame_len: u32, segment: u32) -> u32 {
        let (Some(sample), Some(reading)) = (scratch::sample(), scratch::reading()) else {
            return 0;
        };
        let rest = seen.payload.min(frame_len.saturating_sub(seen.payload_offset));
        if rest == 0 {
            return 0;
        }
        let is_datagrams = seen.key.protocol() == protocol::UDP;
        reading.booked = booked;
        reading.action = Booked::from_number(booked).action() as u32;
        reading.start = seen.payload_offset;
        reading.rest = rest;
        reading.segment = if is_datagrams { segment } else { 0 };
        reading.packets = 0;
        reading.opened = 0;
        begin_packet(sample, reading);
        1
    }
}

/// The next packet begins at `reading.start`.
#[inline(always)]
fn begin_packet(sample: &mut Sample, reading: &mut Reading) {
    reading.payload = match reading.segment {
        0 => reading.rest,
        segment => reading.rest.min(segment),
    };
    reading.phase = phase::FIRST;
    reading.source = source::FRAME;
    reading.there = reading.payload;
    reading.untold = 0;
    reading.origin = 0;
    reading.claims = 1;
    reading.window = 0;
    reading.piece = 0;
    reading.decided = 0;
    sample.head.captured = 0;
    sample.head.kind = 0;
    sample.head.piece = 0;
    sample.head.payload = match reading.segment {
        // As the packet says, of which the frame may have less.
        0 => reading.seen.payload,
        _ => reading.payload,
    };
    sample.head.flags &= !(Head::JUDGED | Head::REFUSED | Head::LAST | Head::MORE);
}

/// Goes over to the next packet that the frame stands for, and gives whether there is one.
#[inline(always)]
pub(crate) fn next_packet() -> bool {
    let (Some(sample), Some(reading)) = (scratch::sample(), scratch::reading()) else {
        return false;
    };
    reading.packets += 1;
    if reading.segment == 0 || reading.packets >= MAX_DATAGRAMS || reading.rest <= reading.payload {
        return false;
    }
    reading.start += reading.payload;
    reading.rest -= reading.payload;
    begin_packet(sample, reading);
    true
}

/// Copies the piece of the payload that begins at a place to this CPU's buffer, unless it is there; gives
/// how many bytes of it there are.
#[inline(always)]
fn fetch(at: u32, copy: impl FnOnce(u32, u32, &mut [u8; MAX_PAYLOAD]) -> bool) -> u32 {
    let (Some(sample), Some(reading)) = (scratch::sample(), scratch::reading()) else {
        return 0;
    };
    if at == reading.window && sample.head.captured != 0 {
        return sample.head.captured;
    }
    sample.head.captured = 0;
    reading.window = at;
    let from = reading.origin.wrapping_add(at);
    if from >= reading.payload || from >= MAX_PIECES * MAX_PAYLOAD as u32 {
        return 0;
    }
    let len = one_to::<MAX_PAYLOAD>((reading.payload - from).min(MAX_PAYLOAD as u32));
    if at == 0 {
        // An older payload in the buffer must not be looked at. Word by word: the compiler would call a loop.
        for word in 0..LOOKED_AT / 8 {
            // SAFETY: the payload has room for more words, and lies behind a head of whole words.
            unsafe {
                let words = sample.payload.as_mut_ptr().cast::<u64>();
                ptr::write_volatile(words.add(word), 0);
            }
        }
    }
    let offset = reading.start.wrapping_add(from);
    if !copy(offset, len, &mut sample.payload) {
        return 0;
    }
    sample.head.captured = len;
    len
}

const _: () = assert!(MAX_PAYLOAD.is_power_of_two());

global! {
    /// [`fetch`] at XDP.
    pub(crate) fn fetch_xdp(context: *mut xdp_md, at: u32) -> u32 {
        fetch(at, |offset, len, to| copy_xdp(context, offset, len, to))
    }
}

global! {
    /// [`fetch`] at TC.
    pub(crate) fn fetch_skb(skb: *mut __sk_buff, at: u32) -> u32 {
        fetch(at, |offset, len, to| copy_skb(skb, offset, len, to))
    }
}

/// A piece of a payload, by the places that its bytes have in the payload.
pub(crate) struct Piece<'a> {
    payload: Payload<'a>,
    start: usize,
}

impl<'a> Piece<'a> {
    /// The piece in this CPU's buffer.
    #[inline(always)]
    pub(crate) fn of(sample: &'a Sample, reading: &Reading) -> Self {
        Self {
            payload: Payload(sample),
            start: reading.window as usize,
        }
    }
}

impl Packet for Piece<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.payload.load(offset.wrapping_sub(self.start))
    }

    #[inline(always)]
    fn forget(&self, offset: usize, noise: u64) -> usize {
        // Any place of a payload, and the longest length behind it.
        forgotten(offset, noise) & 0x3_ffff
    }
}

/// The copy of a payload.
pub(crate) struct Payload<'a>(pub(crate) &'a Sample);

impl Packet for Payload<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let offset = masked::<0x3_ffff>(offset);
        // An offset that is too large stays so. Behind the captured bytes lie those of an earlier payload.
        // Masked too, so that the verifier does not take it for the offset and a constant: that of
        // Linux 6.12 mixes up the bounds of the two.
        let end = masked::<0x3_ffff>(offset + N);
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
    /// Copies the ICMPv6 message of the frame in this CPU's buffer into the ring, where it is a router
    /// advertisement (RFC 4861, section 4.2).
    fn tell_advertisement(skb: *mut __sk_buff) -> u32 {
        const ADVERTISEMENT: u8 = 134;

        let Some(seen) = scratch::seen() else {
            return 0;
        };
        begin_sample(seen, NO_SLOT, MULTICAST_DEVICE);
        let (Some(sample), Some(reading)) = (scratch::sample(), scratch::reading()) else {
            return 0;
        };
        sample.head.payload = seen.transport_len;
        sample.head.kind = Kind::RouterAdvertisement as u8;
        sample.head.captured = 0;
        reading.start = seen.transport_offset;
        reading.payload = seen.transport_len;
        reading.window = 0;
        let len = fetch_skb(skb, 0);
        let Some(sample) = scratch::sample() else {
            return 0;
        };
        if len == 0 || sample.payload[0] != ADVERTISEMENT {
            return 0;
        }
        ring::submit(sample, len, Kind::RouterAdvertisement).into()
    }
}

global! {
    /// Copies the payload of an upload that was sampled before, by another program. Gives 0 where it
    /// cannot.
    pub(crate) fn sample_again(skb: *mut __sk_buff) -> u32 {
        let frame = SocketBuffer::ingress(&TcContext::new(skb));
        let (Ok(parsed), Some(sample), Some(reading)) =
            (parse(&frame), scratch::sample(), scratch::reading())
        else {
            return 0;
        };
        sample.head.key = FlowKey::new(&parsed, Direction::Upload, frame.ifindex());
        sample.head.payload = parsed.payload_in(frame.len() as usize) as u32;
        sample.head.captured = 0;
        reading.start = frame.forget(parsed.payload_offset(), 0) as u32;
        reading.payload = sample.head.payload;
        reading.window = 0;
        fetch_skb(skb, 0)
    }
}
