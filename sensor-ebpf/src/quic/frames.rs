//! The frames of an Initial (RFC 9000, sections 12.4 and 19), of which CRYPTO frames carry the hello.

use super::header::varint;
use crate::{packet::Packet, sample::MAX_PAYLOAD};

/// The most frames of a packet that are read.
pub const MAX_FRAMES: usize = 200;

/// A frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Frame {
    /// Where the next one begins; 0 where this one is none that an Initial has.
    pub next: u32,
    /// CRYPTO: where its bytes begin in the packet.
    pub from: u32,
    /// CRYPTO: how many they are; 0 of another frame.
    pub len: u32,
    /// CRYPTO: their place in the stream.
    pub at: u32,
}

impl Frame {
    /// None.
    pub const NONE: Self = Self {
        next: 0,
        from: 0,
        len: 0,
        at: 0,
    };
}

mod kind {
    pub(super) const PING: u8 = 0x01;
    pub(super) const ACK: u8 = 0x02;
    pub(super) const ACK_ECN: u8 = 0x03;
    pub(super) const CRYPTO: u8 = 0x06;
    pub(super) const CLOSE: u8 = 0x1c;
}

/// The longest stream of which a byte's place is told.
const MAX_STREAM: u64 = 0xffff;

/// Reads the frame at a place, of a packet whose frames end at `end`, once the padding before it is
/// [skipped](skip_padding). ACK frames are those of [`skip_ack`].
#[inline(always)]
pub fn read<P: Packet + ?Sized>(packet: &P, at: usize, end: usize) -> Frame {
    let none = Frame::default();
    let Some([kind]) = packet.load::<1>(at) else {
        return none;
    };
    let noise = u64::from(kind);
    match kind {
        kind::PING => Frame {
            next: at as u32 + 1,
            ..none
        },
        // The last that is said.
        kind::CLOSE => Frame {
            next: end as u32,
            ..none
        },
        kind::CRYPTO => {
            let place = varint(packet, at + 1);
            let at = packet.forget(at + 1 + place.bytes, noise);
            let len = varint(packet, at);
            let from = packet.forget(at + len.bytes, noise);
            if place.bytes == 0
                || len.bytes == 0
                || place.value > MAX_STREAM
                || len.value > end as u64
                || from + len.value as usize > end
            {
                return none;
            }
            Frame {
                next: packet.forget(from + len.value as usize, noise) as u32,
                from: from as u32,
                len: len.value as u32,
                at: place.value as u32,
            }
        }
        _ => none,
    }
}

/// The most ranges of an ACK frame that are read.
const MAX_RANGES: u64 = 32;

/// Where the next frame begins behind an ACK frame at a place; 0 where none is there, or its end is not.
#[inline(always)]
pub fn skip_ack<P: Packet + ?Sized>(packet: &P, at: usize) -> usize {
    /// The largest number, the delay, how many ranges, and the first of them.
    const FIELDS: usize = 4;
    const COUNTS: usize = 3;

    let Some([kind]) = packet.load::<1>(at) else {
        return 0;
    };
    if kind != kind::ACK && kind != kind::ACK_ECN {
        return 0;
    }
    let mut place = at + 1;
    let mut left = FIELDS as u64;
    let counts = if kind == kind::ACK_ECN { COUNTS } else { 0 };
    for field in 0..FIELDS + 2 * MAX_RANGES as usize + COUNTS {
        if left == 0 {
            return place;
        }
        let number = varint(packet, place);
        if number.bytes == 0 {
            return 0;
        }
        if field == 2 {
            if number.value > MAX_RANGES {
                return 0;
            }
            left += 2 * number.value + counts as u64;
        }
        left -= 1;
        place = packet.forget(place + number.bytes, number.value);
    }
    0
}

/// The place behind the padding at a place, at most `end`.
#[inline(always)]
pub fn skip_padding<P: Packet + ?Sized>(packet: &P, at: usize, end: usize) -> usize {
    let mut at = at;
    for _ in 0..MAX_PAYLOAD / 8 {
        // The tag stands behind the frames, so whole words are there.
        let Some(word) = packet.load::<8>(at) else {
            return end;
        };
        let word = u64::from_le_bytes(word);
        if word != 0 {
            at += word.trailing_zeros() as usize / 8;
            break;
        }
        at = packet.forget(at + 8, word);
    }
    if at > end { end } else { at }
}
