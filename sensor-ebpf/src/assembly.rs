//! The beginning of a client's stream, put together from several packets.
//!
//! A hello of today has two segments, a request may be cut anywhere, and segments come in any order. Their
//! bytes are put where they belong until they lie there without a hole as far as a reader needs them. The name is
//! judged when the packet that completes it is there, before it goes on.
//!
//! A byte that was there first stays. Where another says something else, no reader can know which of the two the
//! server takes: the stream is in [conflict](Assembly::CONFLICT), and is not read.

use crate::{packet::Packet, quic::keys::Keys, said::records, sample::MAX_PAYLOAD, wire};

/// The most streams of one device that are put together at a time.
pub const MOST_OF_DEVICE: usize = 16;

/// Bytes of a stream that are put together.
pub const CAPACITY: usize = 4096;

/// Whole words are written, of which the last may begin at the last byte.
const ROOM: usize = CAPACITY + 8;

/// A stream that is put together. The programs alone read and write it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Assembly {
    /// The connection that has it, an [`Owner`]'s word; 0: it is free.
    pub owner: u64,
    /// 1 while a program writes.
    pub lock: u64,
    /// When it was written last, in nanoseconds since boot; 0: never.
    pub touched: u64,
    /// TCP: how far behind the first byte of the stream the first byte stands that is kept.
    pub base: u32,
    /// How many bytes are there without a hole, from the first one that is kept.
    pub filled: u32,
    /// Where the message begins that is read.
    pub start: u32,
    /// Where the message ends that was judged last; 0 before.
    pub judged_to: u32,
    /// [`Assembly::CONFLICT`], [`Assembly::ENOUGH`]. Bits are set one by one, by several CPUs.
    pub flags: u64,
    /// The last bytes before the message that is read, where that is the rest of a request's head, whose host is
    /// judged; 0 where it is not.
    pub rest: u64,
    /// QUIC: the keys of the connection's first Initial.
    pub keys: Keys,
    /// A bit for each byte that is there.
    pub present: [u64; Assembly::WORDS],
    /// The bytes.
    pub bytes: [u8; ROOM],
}

wire! {
    Assembly {
        owner: u64, lock: u64, touched: u64, base: u32, filled: u32, start: u32, judged_to: u32,
        flags: u64, rest: u64, keys: Keys, present: [u64; Assembly::WORDS], bytes: [u8; ROOM],
    }
}

/// The result of putting bytes into an [`Assembly`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Put {
    /// They are there, as far as there is room.
    There = 1,
    /// One of them is not what stood in its place before.
    Conflict = 2,
}

impl Assembly {
    /// In `flags`: bytes were said twice, and differ.
    pub const CONFLICT: u64 = 1;
    /// In `flags`: user space has got all packets of the flow that it gets.
    pub const ENOUGH: u64 = 2;

    /// Words of `present`.
    pub const WORDS: usize = CAPACITY / 64;

    /// One in which nothing is.
    pub const EMPTY: Self = Self {
        owner: 0,
        lock: 0,
        touched: 0,
        base: 0,
        filled: 0,
        start: 0,
        judged_to: 0,
        flags: 0,
        rest: 0,
        keys: Keys::NONE,
        present: [0; Self::WORDS],
        bytes: [0; ROOM],
    };

    /// The bytes that are there without a hole, from the first one of the message that is read.
    pub fn message(&self) -> &[u8] {
        self.bytes
            .get(self.start as usize..self.filled as usize)
            .unwrap_or_default()
    }

    /// Writes the header of a record to the beginning: so a hello that comes in QUIC's CRYPTO frames is read as one
    /// that comes in TLS. [`advance`](Self::advance) has to follow.
    #[inline(always)]
    pub fn begin_hello(&mut self) {
        for (place, byte) in records::ONE.iter().enumerate() {
            self.bytes[place] = *byte;
        }
        self.present[0] |= (1 << records::ONE.len()) - 1;
    }

    /// Puts `len` bytes of a payload, at most [`MAX_PAYLOAD`], to their place behind the first byte that is kept:
    /// those from byte `from` on. Bytes behind the last place are left out.
    pub fn put<P: Packet + ?Sized>(
        &mut self,
        at: usize,
        payload: &P,
        from: usize,
        len: usize,
    ) -> Put {
        let hide = |number, _| number;
        let Some(len) = Self::room(at, len) else {
            return Put::There;
        };
        let mut put = Put::There;
        if !self.has_any_of(at, len, hide) {
            self.put_new(at, payload, from, len, hide);
            self.mark(at, len, hide);
            self.advance(hide);
            return put;
        }
        for done in (0..len).step_by(EACH) {
            let len = (len - done).min(EACH);
            if self.put_each(at + done, payload, from + done, len, hide) == Put::Conflict {
                put = Put::Conflict;
            }
        }
        self.advance(hide);
        put
    }

    /// How many of `len` bytes have a place from `at` on; `None` where none has.
    #[inline(always)]
    pub const fn room(at: usize, len: usize) -> Option<usize> {
        let room = CAPACITY.saturating_sub(at);
        match if len > room { room } else { len } {
            0 => None,
            len => Some(len),
        }
    }

    /// Whether any of some bytes is there, 1 at least.
    ///
    /// Here and below, `hide` gives the same number, stripped of what is known about it, as
    /// [`Packet::forget`] does.
    #[inline(always)]
    pub fn has_any_of(&self, at: usize, len: usize, hide: impl Fn(usize, u64) -> usize) -> bool {
        let range = Range::of(at, len);
        let mut any = self.present[range.first % Self::WORDS] & range.head
            | self.present[range.last % Self::WORDS] & range.tail;
        let mut word = range.first + 1;
        for _ in 0..MAX_PAYLOAD / 64 {
            if word >= range.last {
                break;
            }
            word = hide(word, any);
            any |= self.present[word % Self::WORDS];
            word += 1;
        }
        any != 0
    }

    /// Notes that some bytes are there, 1 at least.
    #[inline(always)]
    pub fn mark(&mut self, at: usize, len: usize, hide: impl Fn(usize, u64) -> usize) {
        let range = Range::of(at, len);
        self.present[range.first % Self::WORDS] |= range.head;
        self.present[range.last % Self::WORDS] |= range.tail;
        let mut word = range.first + 1;
        for _ in 0..MAX_PAYLOAD / 64 {
            if word >= range.last {
                break;
            }
            word = hide(word, self.owner);
            self.present[word % Self::WORDS] = u64::MAX;
            word += 1;
        }
    }

    /// Copies bytes for which there is [`room`](Self::room), and of which none is there. [`mark`](Self::mark) and
    /// [`advance`](Self::advance) have to follow.
    #[inline(always)]
    pub fn put_new<P: Packet + ?Sized>(
        &mut self,
        at: usize,
        payload: &P,
        from: usize,
        len: usize,
        hide: impl Fn(usize, u64) -> usize,
    ) {
        let mut done = 0;
        for _ in 0..MAX_PAYLOAD / 8 {
            if done + 8 > len {
                break;
            }
            let word: [u8; 8] = payload.load(from + done).unwrap_or_default();
            let place = hide(at + done, u64::from_le_bytes(word)) % CAPACITY;
            self.bytes[place..place + 8].copy_from_slice(&word);
            done = hide(done + 8, u64::from_le_bytes(word));
        }
        for _ in 0..8 {
            if done >= len {
                break;
            }
            let [byte] = payload.load(from + done).unwrap_or_default();
            self.bytes[hide(at + done, byte.into()) % CAPACITY] = byte;
            done += 1;
        }
    }

    /// Puts at most [`EACH`] bytes, for which there is [`room`](Self::room), of which some are there: these stay,
    /// and are compared. [`advance`](Self::advance) has to follow the last.
    #[inline(always)]
    pub fn put_each<P: Packet + ?Sized>(
        &mut self,
        at: usize,
        payload: &P,
        from: usize,
        len: usize,
        hide: impl Fn(usize, u64) -> usize,
    ) -> Put {
        let mut different = 0;
        let mut done = 0;
        for _ in 0..EACH {
            if done >= len {
                break;
            }
            let [byte] = payload.load(from + done).unwrap_or_default();
            let place = hide(at + done, byte.into()) % CAPACITY;
            let word = &mut self.present[place / 64];
            // No branch: the verifier would go both ways of it, at every byte.
            let kept = hide((*word >> (place % 64) & 1) as usize, byte.into()) as u8;
            let kept = kept.wrapping_neg();
            *word |= 1 << (place % 64);
            let before = self.bytes[place];
            different |= (before ^ byte) & kept;
            self.bytes[place] = before & kept | byte & !kept;
            done = hide(done + 1, byte.into());
        }
        match different {
            0 => Put::There,
            _ => Put::Conflict,
        }
    }

    /// Finds how many bytes are there without a hole.
    #[inline(always)]
    pub fn advance(&mut self, hide: impl Fn(usize, u64) -> usize) {
        let mut word = self.filled as usize / 64;
        for _ in 0..Self::WORDS {
            word = hide(word, self.owner);
            if word >= Self::WORDS || self.present[word % Self::WORDS] != u64::MAX {
                break;
            }
            word += 1;
        }
        self.filled = match word {
            Self::WORDS.. => CAPACITY as u32,
            _ => word as u32 * 64 + self.present[word % Self::WORDS].trailing_ones(),
        };
    }

    /// Copies bytes that are there without a hole, from a place behind the beginning of the message that is read.
    /// Gives how many, at most [`WINDOW`].
    #[inline(always)]
    pub fn copy_out(
        &self,
        at: usize,
        to: &mut [u8; MAX_PAYLOAD],
        hide: impl Fn(usize, u64) -> usize,
    ) -> usize {
        let from = self.start as usize + at;
        let there = (self.filled as usize).saturating_sub(from);
        let mut done = 0;
        for _ in 0..WINDOW / 8 {
            let place = hide(from + done, self.owner) % CAPACITY;
            let mut word = [0; 8];
            word.copy_from_slice(&self.bytes[place..place + 8]);
            let place = hide(done, self.owner) % WINDOW;
            to[place..place + 8].copy_from_slice(&word);
            done += 8;
            if done >= there {
                break;
            }
        }
        if there > WINDOW { WINDOW } else { there }
    }
}

/// How many bytes are compared at once.
pub const EACH: usize = 64;

/// How many bytes are copied at once for a reader.
pub const WINDOW: usize = 512;

/// The words in which the bits of some bytes lie.
struct Range {
    first: usize,
    last: usize,
    /// Which bits of the first word.
    head: u64,
    /// Which bits of the last one.
    tail: u64,
}

impl Range {
    /// Of `len` bytes, 1 at least.
    #[inline(always)]
    const fn of(at: usize, len: usize) -> Self {
        let end = at + len - 1;
        let (first, last) = (at / 64, end / 64);
        let (head, tail) = (u64::MAX << (at % 64), u64::MAX >> (63 - end % 64));
        match first == last {
            true => Self {
                first,
                last,
                head: head & tail,
                tail: head & tail,
            },
            false => Self {
                first,
                last,
                head,
                tail,
            },
        }
    }
}

/// Why a stream was not put together, and its names are left to user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Unassembled {
    /// The device has [`MOST_OF_DEVICE`] already.
    OfDevice = 0,
    /// No assembly of the pool was free, of those that the device may use.
    Full = 1,
    /// Another CPU wrote the assembly at that moment.
    Busy = 2,
    /// QUIC: more Initials than the budgets of the device or of all admit ([`budget`](crate::quic::budget)).
    Initials = 3,
}

impl Unassembled {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All, at the place of their number.
    pub const ALL: [Self; 4] = [Self::OfDevice, Self::Full, Self::Busy, Self::Initials];

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OfDevice => "device",
            Self::Full => "full",
            Self::Busy => "busy",
            Self::Initials => "initials",
        }
    }
}

/// The owner of an [`Assembly`]: a connection of a flow of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The number of the device's record.
    pub device: u32,
    /// The slot of the flow.
    pub flow: u32,
    /// Which connection of the flow: a [`Judgement`](crate::flow::Judgement)'s epoch, never 0.
    pub epoch: u8,
    /// QUIC: the number of the connection; 0 for TCP.
    pub connection: u32,
}

impl Owner {
    const EPOCH: u32 = 24;
    const CONNECTION: u32 = 30;
    const DEVICE: u32 = 48;

    /// The part of [`of_device`](Self::of_device) that all connections of a flow have in common.
    #[inline(always)]
    pub const fn flow_of(of_device: u64) -> u64 {
        of_device & ((1 << Self::CONNECTION) - 1)
    }

    /// All but the device: what a device knows its own by, below 2^48.
    #[inline(always)]
    pub const fn of_device(&self) -> u64 {
        self.flow as u64 & 0xff_ffff
            | (self.epoch as u64 & 0x3f) << Self::EPOCH
            | (self.connection as u64 & 0x3_ffff) << Self::CONNECTION
    }

    /// As it stands in an assembly; never 0.
    #[inline(always)]
    pub const fn word(&self) -> u64 {
        self.of_device() | (self.device as u64 & 0xffff) << Self::DEVICE
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn put(assembly: &mut Assembly, at: usize, octets: &[u8]) -> Put {
        let mut padded = std::vec![0xee; 3];
        padded.extend(octets);
        assembly.put(at, &padded[..], 3, octets.len())
    }

    /// A stream of numbers that look random (Marsaglia's xorshift, 2003).
    fn random(seed: &mut u64, below: usize) -> usize {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed % below as u64) as usize
    }

    #[test]
    fn pieces_in_any_order_make_the_stream() {
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        let stream: Vec<u8> = (0..5_000).map(|_| random(&mut seed, 256) as u8).collect();
        for _ in 0..300 {
            let mut assembly = Assembly::EMPTY;
            let mut there = std::vec![false; CAPACITY];
            for _ in 0..60 {
                let at = random(&mut seed, 4_300);
                let most = [1, 3, 9, 70, 600, MAX_PAYLOAD][random(&mut seed, 6)];
                let len = (1 + random(&mut seed, most)).min(stream.len() - at);
                assert_eq!(put(&mut assembly, at, &stream[at..at + len]), Put::There);
                for byte in there.iter_mut().skip(at).take(len) {
                    *byte = true;
                }
                let filled = there.iter().take_while(|byte| **byte).count();
                assert_eq!(assembly.filled as usize, filled);
                assert_eq!(assembly.message(), &stream[..filled]);
            }
            for (at, is_there) in there.iter().enumerate() {
                assert_eq!(assembly.present[at / 64] >> (at % 64) & 1 != 0, *is_there);
            }
        }
    }

    #[test]
    fn what_is_said_twice_must_be_the_same() {
        let mut assembly = Assembly::EMPTY;
        assert_eq!(put(&mut assembly, 10, b"abcdefgh"), Put::There);
        assert_eq!(put(&mut assembly, 0, b"0123456789abcdefghij"), Put::There);
        assert_eq!(put(&mut assembly, 19, b"jk"), Put::There);
        assert_eq!(put(&mut assembly, 20, b"Kl"), Put::Conflict);
        assert_eq!(assembly.message(), b"0123456789abcdefghijkl");
        assert_eq!(put(&mut assembly, CAPACITY - 1, b"xy"), Put::There);
        assert_eq!(put(&mut assembly, CAPACITY, b"y"), Put::There);
        assert_eq!(put(&mut assembly, 5_000, b"y"), Put::There);
        assert_eq!(assembly.bytes[CAPACITY - 1], b'x');
    }

    #[test]
    fn a_window_has_what_is_there_of_a_message() {
        let mut assembly = Assembly::EMPTY;
        let stream: Vec<u8> = (0..CAPACITY).map(|at| (at / 3) as u8).collect();
        for at in (0..CAPACITY).step_by(1_024) {
            put(&mut assembly, at, &stream[at..at + 1_024]);
        }
        for (start, at) in [
            (0, 0),
            (0, 700),
            (9, 4_000),
            (100, 3_996),
            (4_096, 0),
            (0, 4_200),
        ] {
            assembly.start = start;
            let mut window = [0; MAX_PAYLOAD];
            let len = assembly.copy_out(at, &mut window, |number, _| number);
            let from = (start as usize + at).min(CAPACITY);
            let expected = &stream[from..CAPACITY.min(from + WINDOW)];
            assert_eq!(&window[..len], expected);
        }
    }

    #[test]
    fn owners_are_told_apart() {
        let owner = Owner {
            device: 7,
            flow: 81_919,
            epoch: 63,
            connection: 0,
        };
        for other in [
            Owner { device: 8, ..owner },
            Owner { flow: 0, ..owner },
            Owner { epoch: 1, ..owner },
            Owner {
                connection: 5,
                ..owner
            },
        ] {
            assert_ne!(owner.word(), other.word());
        }
        assert!(owner.of_device() < 1 << 48);
    }
}
