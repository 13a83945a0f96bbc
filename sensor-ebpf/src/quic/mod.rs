//! Opens the Initials of QUIC clients (RFC 9001, section 5; RFC 9369, section 3), in which their hellos lie.
//!
//! An Initial is encrypted under keys that anybody can derive who sees it. The kernel derives them, checks the
//! tag, and decrypts the packet where it was copied to. What a server would not read is not believed: a packet
//! whose tag is wrong says nothing.
//!
//! The steps are apart from each other, because the kernel's verifier checks each of them once ([`Steps`]). All
//! that they keep lies in an [`Opening`], which is too large for a stack.

pub mod aes;
pub mod budget;
pub mod frames;
pub mod ghash;
pub mod header;
pub mod keys;
pub mod sha256;

use self::{
    aes::{Block, Counter, ROUND_KEYS, RoundKeys, Tables},
    frames::Frame,
    ghash::{Ghash, Multiples},
    header::{Header, Read},
    keys::Keys,
    sha256::{Schedule, State},
};
use crate::{
    assembly::{Assembly, Put},
    packet::{Packet, PacketMut},
    said::records,
    sample::MAX_PAYLOAD,
};

/// All that is kept from one step to the next.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Opening {
    /// SHA-256's block, and the words that are made of it.
    pub schedule: Schedule,
    /// SHA-256's state.
    pub state: State,
    /// The states of HMAC under the key at hand.
    pub inner: State,
    /// The same.
    pub outer: State,
    /// The key at hand.
    pub secret: State,
    /// AES's round keys at hand.
    pub round_keys: RoundKeys,
    /// The counter blocks of the packet.
    pub counter: Counter,
    /// The first byte of the packet and the four at its number, as they were.
    pub protected: [u32; 2],
    /// The nonce of the packet.
    pub nonce: [u32; 3],
    /// Where its frames begin.
    pub from: u32,
    /// The block to which the hash is added for the tag: the first counter block, encrypted.
    pub tag: ghash::Element,
    /// The hash over the packet.
    pub hash: Ghash,
    /// The keys of the packet.
    pub keys: Keys,
    /// The header of the packet.
    pub header: Header,
    /// The frame at hand.
    pub frame: Frame,
}

impl Opening {
    /// Nothing was done.
    pub const EMPTY: Self = Self {
        schedule: [0; 64],
        state: [0; 8],
        inner: [0; 8],
        outer: [0; 8],
        secret: [0; 8],
        round_keys: [0; ROUND_KEYS],
        counter: Counter::NONE,
        protected: [0; 2],
        nonce: [0; 3],
        from: 0,
        tag: [0; 2],
        hash: Ghash::EMPTY,
        keys: Keys::NONE,
        header: Header::NONE,
        frame: Frame::NONE,
    };
}

/// Bytes of the tag.
pub const TAG: usize = 16;

/// Bytes of a block.
const BLOCK: usize = 16;

/// The most blocks that one step takes.
pub const BLOCKS_AT_ONCE: usize = 8;

/// The steps of which the kernel makes functions that are checked apart.
pub trait Steps {
    /// All that they keep.
    fn opening(&mut self) -> &mut Opening;
    /// [`sha256::compress`].
    fn compress(&mut self);
    /// Makes round keys: of the payload's key, or of the header's.
    fn expand(&mut self, is_header: bool);
    /// [`unprotect`].
    fn unprotect(&mut self) -> usize;
    /// [`protect`].
    fn protect(&mut self);
    /// [`begin_hash`].
    fn begin_hash(&mut self);
    /// [`hash_blocks`].
    fn hash_blocks(&mut self, from: usize, count: usize);
    /// [`hash_rest`].
    fn hash_rest(&mut self, from: usize, len: usize);
    /// [`decrypt_blocks`].
    fn decrypt_blocks(&mut self, from: usize, first: usize, count: usize);
    /// [`is_tag`].
    fn is_tag(&mut self, header_len: usize, len: usize) -> bool;
}

/// Opens the packet whose header was read, under the keys that are there. Gives where its frames begin; `None`
/// where it was not encrypted under these keys, and is as it was.
#[inline(always)]
pub fn open<S: Steps>(steps: &mut S) -> Option<usize> {
    steps.expand(true);
    let from = steps.unprotect();
    if from == 0 {
        return None;
    }
    steps.expand(false);
    steps.begin_hash();
    let Header { start, end, .. } = steps.opening().header;
    let header_len = from.wrapping_sub(start as usize);
    let len = (end as usize).wrapping_sub(from).wrapping_sub(TAG);
    hash(steps, start as usize, header_len);
    hash(steps, from, len);
    if !steps.is_tag(header_len, len) {
        steps.protect();
        return None;
    }
    let blocks = len.div_ceil(BLOCK);
    let mut done = 0;
    for _ in 0..MOST_BLOCKS / BLOCKS_AT_ONCE {
        if done >= blocks {
            break;
        }
        steps.decrypt_blocks(from + done * BLOCK, done, blocks - done);
        done += BLOCKS_AT_ONCE;
    }
    Some(from)
}

/// Blocks of the longest packet.
const MOST_BLOCKS: usize = MAX_PAYLOAD / BLOCK;

#[inline(always)]
fn hash<S: Steps>(steps: &mut S, from: usize, len: usize) {
    let blocks = len / BLOCK;
    let mut done = 0;
    for _ in 0..MOST_BLOCKS / BLOCKS_AT_ONCE {
        if done >= blocks {
            break;
        }
        steps.hash_blocks(from + done * BLOCK, blocks - done);
        done += BLOCKS_AT_ONCE;
    }
    if !len.is_multiple_of(BLOCK) {
        steps.hash_rest(from + blocks * BLOCK, len % BLOCK);
    }
}

/// Makes round keys: of the header's key, or of the payload's.
#[inline(always)]
pub fn expand(opening: &mut Opening, is_header: bool, tables: impl Tables) {
    let key = if is_header {
        opening.keys.header
    } else {
        opening.keys.payload
    };
    opening.round_keys[..4].copy_from_slice(&key);
    aes::expand(&mut opening.round_keys, tables);
}

/// Takes the header's protection away (RFC 9001, section 5.4), and makes the nonce of its number (section 5.3).
/// Gives where the payload begins behind the header; 0 where the packet is too short.
#[inline(always)]
pub fn unprotect<P: PacketMut + ?Sized>(
    opening: &mut Opening,
    packet: &mut P,
    tables: impl Tables,
) -> usize {
    /// Bytes behind the number's first one, where those stand that the mask is made of.
    const SAMPLE: usize = 4;

    let start = opening.header.start as usize;
    let number = opening.header.number as usize;
    let end = opening.header.end as usize;
    let Some(sample) = packet.load::<16>(number + SAMPLE) else {
        return 0;
    };
    let Some([first]) = packet.load::<1>(start) else {
        return 0;
    };
    let Some(bytes) = packet.load::<4>(number) else {
        return 0;
    };
    let mask = aes::encrypt(columns(sample), &opening.round_keys, tables);
    opening.protected = [first.into(), u32::from_le_bytes(bytes)];
    let first = first ^ mask[0] as u8 & 0x0f;
    let len = (first & 3) as usize + 1;
    let mask = (mask[0] >> 8 | mask[1] << 24) & (u64::MAX >> (64 - 8 * len)) as u32;
    let bytes = u32::from_le_bytes(bytes) ^ mask;
    packet.store(start, [first]);
    packet.store(number, bytes.to_le_bytes());
    // The number stands in the last bytes of the nonce.
    let value = bytes.swap_bytes() >> (32 - 8 * len);
    let [one, two, three] = opening.keys.iv;
    opening.nonce = [one, two, three ^ value.swap_bytes()];
    let from = packet.forget(number + len, u64::from(bytes));
    if from + TAG > end { 0 } else { from }
}

/// Puts back the bytes that were under the header's protection.
#[inline(always)]
pub fn protect<P: PacketMut + ?Sized>(opening: &Opening, packet: &mut P) {
    let [first, number] = opening.protected;
    packet.store(opening.header.start as usize, [first as u8]);
    packet.store(opening.header.number as usize, number.to_le_bytes());
}

/// Makes of the payload's round keys all that its blocks have in common.
#[inline(always)]
pub fn begin_hash(opening: &mut Opening, tables: impl Tables) {
    let counter = Counter::new(opening.nonce, &opening.round_keys, tables);
    opening.tag = element(counter.block(1, &opening.round_keys, tables));
    opening.counter = counter;
    opening
        .hash
        .begin(element(aes::encrypt([0; 4], &opening.round_keys, tables)));
}

/// Hashes at most [`BLOCKS_AT_ONCE`] blocks.
#[inline(always)]
pub fn hash_blocks<P: Packet + ?Sized>(
    hash: &mut Ghash,
    packet: &P,
    from: usize,
    count: usize,
    multiples: impl Multiples,
) {
    let mut at = from;
    for done in 0..BLOCKS_AT_ONCE {
        if done >= count {
            break;
        }
        let Some(block) = packet.load::<BLOCK>(at) else {
            break;
        };
        hash.add(words(block), multiples);
        at = packet.forget(at + BLOCK, hash.sum[0]);
    }
}

/// Hashes the first 1 to 15 bytes of a block, filled up with zeros.
#[inline(always)]
pub fn hash_rest<P: Packet + ?Sized>(
    hash: &mut Ghash,
    packet: &P,
    from: usize,
    len: usize,
    multiples: impl Multiples,
) {
    let Some(block) = packet.load::<BLOCK>(from) else {
        return;
    };
    let [high, low] = words(block);
    let bits = 8 * (len as u32 % BLOCK as u32);
    let kept = |bits: u32| !(u64::MAX.checked_shr(bits).unwrap_or(0));
    let rest = [high & kept(bits), low & kept(bits.saturating_sub(64))];
    hash.add(rest, multiples);
}

/// Decrypts at most [`BLOCKS_AT_ONCE`] blocks, of which the first has a number.
#[inline(always)]
pub fn decrypt_blocks<P: PacketMut + ?Sized>(
    opening: &Opening,
    packet: &mut P,
    from: usize,
    first: usize,
    count: usize,
    tables: impl Tables,
) {
    /// The first counter encrypts the tag.
    const FIRST_COUNTER: u32 = 2;

    let mut at = from;
    for done in 0..BLOCKS_AT_ONCE {
        if done >= count {
            break;
        }
        let Some(block) = packet.load::<BLOCK>(at) else {
            break;
        };
        let counter = FIRST_COUNTER + (first + done) as u32;
        let [a, b, c, d] = opening
            .counter
            .block(counter & 0xff, &opening.round_keys, tables);
        let mask = u128::from(a) | u128::from(b) << 32 | u128::from(c) << 64 | u128::from(d) << 96;
        let plain = u128::from_le_bytes(block) ^ mask;
        packet.store(at, plain.to_le_bytes());
        at = packet.forget(at + BLOCK, u64::from(a));
    }
}

/// Whether the tag behind the packet is the one that its bytes have: of the header so many, and of the payload.
#[inline(always)]
pub fn is_tag<P: Packet + ?Sized>(
    opening: &mut Opening,
    packet: &P,
    header_len: usize,
    len: usize,
    multiples: impl Multiples,
) -> bool {
    let lens = [8 * header_len as u64, 8 * len as u64];
    opening.hash.add(lens, multiples);
    let Some(tag) = packet.load::<TAG>(opening.header.end as usize - TAG) else {
        return false;
    };
    let [high, low] = words(tag);
    let [hash_high, hash_low] = opening.hash.sum;
    let [mask_high, mask_low] = opening.tag;
    (high ^ hash_high ^ mask_high) | (low ^ hash_low ^ mask_low) == 0
}

#[inline(always)]
fn columns(octets: [u8; BLOCK]) -> Block {
    let words = u128::from_le_bytes(octets);
    [
        words as u32,
        (words >> 32) as u32,
        (words >> 64) as u32,
        (words >> 96) as u32,
    ]
}

#[inline(always)]
fn words(octets: [u8; BLOCK]) -> ghash::Element {
    let words = u128::from_be_bytes(octets);
    [(words >> 64) as u64, words as u64]
}

#[inline(always)]
fn element([a, b, c, d]: Block) -> ghash::Element {
    let word =
        |high: u32, low: u32| u64::from(high.swap_bytes()) << 32 | u64::from(low.swap_bytes());
    [word(a, b), word(c, d)]
}

/// Where the bytes of a datagram's hello go, and what is known of the connection.
pub trait Datagram {
    /// Reads the header of the packet at a place.
    fn header(&mut self, start: usize) -> (Read, Header);
    /// Whether one datagram more with an Initial is opened.
    fn admit(&mut self) -> bool;
    /// Goes over to the connection of the packet whose header was read, and has its keys there: those that are
    /// kept of it, or those that are derived. `false` where no connection begins with such a packet.
    fn begin(&mut self) -> bool;
    /// [`open`].
    fn open(&mut self) -> Option<usize>;
    /// Goes over to the connection of the flow whose hello is not whole yet, and has its keys there. `false` where
    /// there is none.
    ///
    /// Once the server has answered, a client's packets have another identifier, and the keys of the first.
    fn begin_other(&mut self) -> bool;
    /// Puts the hello's bytes of a packet to their places ([`take`]).
    fn take(&mut self, from: usize, end: usize) -> Taken;
}

/// The part of a hello that a packet had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Taken {
    /// Nothing, or nothing that can be read.
    Nothing = 0,
    /// Some bytes.
    Some = 1,
    /// Bytes that were said otherwise before: nobody knows which of them the server takes. It has the bits of the
    /// others.
    Conflict = 3,
}

impl Taken {
    /// The one with this number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number & 3 {
            0 => Self::Nothing,
            1 => Self::Some,
            _ => Self::Conflict,
        }
    }
}

/// Takes the hello's bytes of all packets in a datagram.
///
/// Packets behind the first for another connection are left out: receivers ignore them (RFC 9000, section 12.2).
#[inline(always)]
pub fn datagram<D: Datagram>(datagram: &mut D) -> Taken {
    let mut taken = Taken::Nothing;
    let mut start = 0;
    let mut is_first = true;
    for _ in 0..header::MAX_PACKETS {
        let (read, header) = datagram.header(start);
        if read == Read::Other {
            break;
        }
        start = header.end as usize;
        if read == Read::Skipped {
            continue;
        }
        if is_first && !datagram.admit() {
            break;
        }
        let mut from = None;
        if !is_first || datagram.begin() {
            from = datagram.open();
        }
        if from.is_none() && is_first && datagram.begin_other() {
            from = datagram.open();
        }
        is_first = false;
        let Some(from) = from else {
            continue;
        };
        match datagram.take(from, start - TAG) {
            Taken::Nothing => {}
            Taken::Some => taken = Taken::Some,
            Taken::Conflict => return Taken::Conflict,
        }
    }
    taken
}

/// Bytes before a hello in its assembly: the header of a record, as if it had come in one.
pub const BEFORE: usize = records::ONE.len();

/// How the frames of a packet are gone through.
pub trait Frames {
    /// [`take_one`].
    fn take_one(&mut self, at: usize, end: usize) -> usize;
    /// Notes what a frame had of the hello.
    fn note(&mut self, taken: Taken);
    /// The most that was noted of all frames of the datagram.
    fn taken(&self) -> Taken;
    /// The place behind the padding at a place.
    fn skip_padding(&mut self, at: usize, end: usize) -> usize;
    /// [`frames::read`].
    fn read(&mut self, at: usize, end: usize) -> Frame;
    /// [`frames::skip_ack`]; 0 where no ACK frame is there.
    fn skip_ack(&mut self, at: usize) -> usize;
    /// Puts bytes to a place behind the beginning of the hello.
    fn put(&mut self, at: usize, from: usize, len: usize) -> Put;
}

/// Puts the hello's bytes of a packet's frames to their places.
#[inline(always)]
pub fn take<F: Frames>(frames: &mut F, from: usize, end: usize) -> Taken {
    let mut at = from;
    for _ in 0..frames::MAX_FRAMES {
        at = frames.take_one(at, end);
        if at >= end {
            break;
        }
    }
    frames.taken()
}

/// Puts the hello's bytes of the frame at a place, behind padding, to their place, and notes what it had. Gives where
/// the next frame begins: `end` where there is none, or this one is none that an Initial has.
#[inline(always)]
pub fn take_one<F: Frames>(frames: &mut F, at: usize, end: usize) -> usize {
    let at = frames.skip_padding(at, end);
    if at >= end {
        return end;
    }
    let behind = frames.skip_ack(at);
    if behind != 0 {
        return behind;
    }
    let frame = frames.read(at, end);
    if frame.next == 0 {
        return end;
    }
    if frame.len != 0 {
        let place = BEFORE + frame.at as usize;
        match frames.put(place, frame.from as usize, frame.len as usize) {
            Put::There => frames.note(Taken::Some),
            Put::Conflict => frames.note(Taken::Conflict),
        }
    }
    frame.next as usize
}

/// Whether the hello in an assembly is there to its end, by its first bytes and how many are there without a hole.
#[inline(always)]
pub fn is_whole(assembly: &Assembly) -> bool {
    const HEADER: usize = 4;
    let [.., high, middle, low] = assembly
        .bytes
        .first_chunk::<{ BEFORE + HEADER }>()
        .copied()
        .unwrap_or_default();
    let len = u32::from_be_bytes([0, high, middle, low]);
    let filled = assembly.filled;
    filled >= (BEFORE + HEADER) as u32 && filled - ((BEFORE + HEADER) as u32) >= len
}

/// Reads the datagrams of one connection on the host: all steps one behind the other.
#[derive(Debug)]
pub struct Reader<'a> {
    opening: &'a mut Opening,
    datagram: &'a mut [u8],
    assembly: &'a mut Assembly,
    taken: u32,
}

impl<'a> Reader<'a> {
    /// Of a datagram, which is decrypted where it lies. The assembly has the bytes of the datagrams before it, and the
    /// keys of the first.
    pub const fn new(
        opening: &'a mut Opening,
        datagram: &'a mut [u8],
        assembly: &'a mut Assembly,
    ) -> Self {
        Self {
            opening,
            datagram,
            assembly,
            taken: 0,
        }
    }

    /// Takes the hello's bytes in it.
    pub fn read(&mut self) -> Taken {
        datagram(self)
    }
}

impl Datagram for Reader<'_> {
    fn header(&mut self, start: usize) -> (Read, Header) {
        let len = self.datagram.len();
        let read = header::read(self.datagram, start, len, &mut self.opening.header);
        (read, self.opening.header)
    }

    fn admit(&mut self) -> bool {
        true
    }

    fn begin(&mut self) -> bool {
        keys::begin(self.opening, self.datagram);
        let version = self.opening.header.version as usize;
        keys::derive(self, version);
        if self.assembly.filled == 0 {
            self.assembly.begin_hello();
            self.assembly.advance(|number, _| number);
            self.assembly.keys = self.opening.keys;
        }
        true
    }

    fn open(&mut self) -> Option<usize> {
        open(self)
    }

    fn begin_other(&mut self) -> bool {
        self.opening.keys = self.assembly.keys;
        true
    }

    fn take(&mut self, from: usize, end: usize) -> Taken {
        take(self, from, end)
    }
}

impl Frames for Reader<'_> {
    fn take_one(&mut self, at: usize, end: usize) -> usize {
        take_one(self, at, end)
    }

    fn note(&mut self, taken: Taken) {
        self.taken |= taken as u32;
    }

    fn taken(&self) -> Taken {
        Taken::from_number(self.taken)
    }

    fn skip_padding(&mut self, at: usize, end: usize) -> usize {
        frames::skip_padding(self.datagram, at, end)
    }

    fn read(&mut self, at: usize, end: usize) -> Frame {
        frames::read(self.datagram, at, end)
    }

    fn skip_ack(&mut self, at: usize) -> usize {
        frames::skip_ack(self.datagram, at)
    }

    fn put(&mut self, at: usize, from: usize, len: usize) -> Put {
        let put = self.assembly.put(at, self.datagram, from, len);
        if put == Put::Conflict {
            self.assembly.flags |= Assembly::CONFLICT;
        }
        put
    }
}

impl Steps for Reader<'_> {
    fn opening(&mut self) -> &mut Opening {
        self.opening
    }

    fn compress(&mut self) {
        sha256::compress(
            &mut self.opening.state,
            &mut self.opening.schedule,
            sha256::twice,
        );
    }

    fn expand(&mut self, is_header: bool) {
        expand(self.opening, is_header, aes::Plain);
    }

    fn unprotect(&mut self) -> usize {
        unprotect(self.opening, self.datagram, aes::Plain)
    }

    fn protect(&mut self) {
        protect(self.opening, self.datagram);
    }

    fn begin_hash(&mut self) {
        begin_hash(self.opening, aes::Plain);
    }

    fn hash_blocks(&mut self, from: usize, count: usize) {
        hash_blocks(
            &mut self.opening.hash,
            self.datagram,
            from,
            count,
            ghash::Plain,
        );
    }

    fn hash_rest(&mut self, from: usize, len: usize) {
        hash_rest(
            &mut self.opening.hash,
            self.datagram,
            from,
            len,
            ghash::Plain,
        );
    }

    fn decrypt_blocks(&mut self, from: usize, first: usize, count: usize) {
        decrypt_blocks(self.opening, self.datagram, from, first, count, aes::Plain);
    }

    fn is_tag(&mut self, header_len: usize, len: usize) -> bool {
        is_tag(self.opening, self.datagram, header_len, len, ghash::Plain)
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;

    const RFC_9001: &[u8] = include_bytes!("../../../sensor/tests/data/initial-rfc9001-a2.bin");
    const RFC_9369: &[u8] = include_bytes!("../../../sensor/tests/data/initial-rfc9369-a2.bin");

    fn hexadecimal(words: &[u32]) -> std::string::String {
        words
            .iter()
            .map(|word| std::format!("{:08x}", word.swap_bytes()))
            .collect()
    }

    #[test]
    fn the_keys_and_packets_of_the_rfcs() {
        for (packet, keys) in [
            // RFC 9001, appendix A.1.
            (
                RFC_9001,
                [
                    "1f369613dd76d5467730efcbe3b1a22d",
                    "fa044b2f42a3fd3b46fb255c",
                    "9f50449e04a0e810283a1e9933adedd2",
                ],
            ),
            // RFC 9369, appendix A.1.
            (
                RFC_9369,
                [
                    "8b1a0bc121284290a29e0971b5cd045d",
                    "91f73e2351d8fa91660e909f",
                    "45b95e15235d6f45a6b19cbcb0294ba9",
                ],
            ),
        ] {
            let mut opening = Box::new(Opening::EMPTY);
            let mut assembly = Box::new(Assembly::EMPTY);
            let mut datagram = packet.to_vec();
            let taken = Reader::new(&mut opening, &mut datagram, &mut assembly).read();
            let [payload, iv, header] = keys;
            assert_eq!(hexadecimal(&opening.keys.payload), payload);
            assert_eq!(hexadecimal(&opening.keys.iv), iv);
            assert_eq!(hexadecimal(&opening.keys.header), header);
            assert_eq!(taken, Taken::Some);
            assert!(is_whole(&assembly));
            let mut text = crate::said::Text::default();
            let names = crate::said::hello::names(assembly.message());
            crate::said::hello::name(assembly.message(), names, &mut text);
            assert_eq!(text.as_octets(), b"example.com");
        }
    }
}
