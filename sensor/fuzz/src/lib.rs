//! The parts that the targets of the kernel's readers share: a payload as the kernel lays it before them, and
//! the checks that hold for each of them whatever it reads.

use sensor_ebpf::{
    flow::{Direction, FlowKey},
    name::NAME_CAPACITY,
    packet::Packet,
    parse::parse,
    said::{Found, Text},
    sample::{Kind, LOOKED_AT, MAX_PAYLOAD, MAX_PIECES, classify},
};

/// The mask of places in a payload.
const MASK: usize = 0x3_ffff;

/// A payload with the offsets of the kernel's: an offset that is too large stays so or begins anew, and is
/// never outside.
pub struct Payload<'a>(pub &'a [u8]);

/// The bytes of a payload from a place on that the kernel has at a time. They are fewer than its own piece, so
/// that fields often go over the end of one.
pub struct Piece<'a> {
    payload: Payload<'a>,
    start: usize,
}

impl<'a> Piece<'a> {
    const LEN: usize = 64;

    /// The piece that begins at a place.
    pub fn at(payload: &'a [u8], start: usize) -> Self {
        let end = payload.len().min(start + Self::LEN);
        Self {
            payload: Payload(&payload[..end]),
            start,
        }
    }
}

impl Packet for Piece<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        (offset >= self.start)
            .then(|| self.payload.load(offset))
            .flatten()
    }

    fn forget(&self, offset: usize, noise: u64) -> usize {
        self.payload.forget(offset, noise)
    }
}

impl Packet for Payload<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let offset = offset & MASK;
        let captured = self.0.len().min(MAX_PIECES as usize * MAX_PAYLOAD);
        self.0[..captured].get(offset..)?.first_chunk().copied()
    }

    fn forget(&self, offset: usize, _noise: u64) -> usize {
        offset & MASK
    }
}

/// Lets a reader read a payload, and gives what it found: the name, where there is one.
///
/// The kernel has one buffer for all names. The bytes of an earlier name in it must have no effect.
pub fn read(
    payload: &[u8],
    reader: impl Fn(&Payload<'_>, &mut Text) -> Found,
) -> (Found, Option<Vec<u8>>) {
    let read_over = |octets: [u8; NAME_CAPACITY]| {
        let mut text = Text { octets, len: 255 };
        let found = reader(&Payload(payload), &mut text);
        let name = (found == Found::Name).then(|| {
            assert!(text.len < NAME_CAPACITY as u64);
            text.as_octets().to_vec()
        });
        (found, name)
    };
    let outcome = read_over([0; NAME_CAPACITY]);
    // Octets that mean something to a reader.
    let mut left = [b'9'; NAME_CAPACITY];
    left[0] = b'[';
    assert_eq!(read_over(left), outcome);
    if let (_, Some(name)) = &outcome {
        assert!(!name.iter().any(u8::is_ascii_uppercase));
    }
    outcome
}

/// The kind that the kernel takes the first payload of a TCP stream for.
pub fn kind(stream: &[u8]) -> Option<Kind> {
    const ETHERTYPE: usize = 12;
    const IPV4: usize = 14;
    const PROTOCOL: usize = IPV4 + 9;
    let mut frame = [0; 54];
    frame[ETHERTYPE..][..2].copy_from_slice(&[8, 0]);
    frame[IPV4..][..4].copy_from_slice(&[0x45, 0, 0, 40]);
    frame[PROTOCOL] = 6;
    let key = FlowKey::new(&parse(&frame[..]).ok()?, Direction::Upload, 1);
    let mut first = [0; LOOKED_AT];
    let len = stream.len().min(LOOKED_AT);
    first[..len].copy_from_slice(&stream[..len]);
    classify(&key, &first, stream.len())
}
