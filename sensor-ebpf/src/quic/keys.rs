//! The keys of a client's Initials: anybody can derive them from the destination connection ID of its first one
//! (RFC 9001, section 5.2; RFC 9369, section 3.3).

use super::{
    Opening, Steps,
    header::MAX_CONNECTION_ID,
    sha256::{BLOCK, START, State},
};
use crate::packet::Packet;

/// The keys, and which connection ID they were derived from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Keys {
    /// AES-128's, for the payload: columns as [`aes`](super::aes) has them.
    pub payload: [u32; 4],
    /// AES-128's, for the header's protection.
    pub header: [u32; 4],
    /// The nonce before the packet's number is added.
    pub iv: [u32; 3],
    /// Keep the size a multiple of eight; 0.
    pub reserved: u32,
}

impl Keys {
    /// None.
    pub const NONE: Self = Self {
        payload: [0; 4],
        header: [0; 4],
        iv: [0; 3],
        reserved: 0,
    };
}

/// The block of an HMAC key that all bytes are added to (RFC 2104, section 2).
const INNER_PAD: u32 = 0x3636_3636;
const OUTER_PAD: u32 = 0x5c5c_5c5c;

/// Bits of one block, and of a block and a digest behind it.
const BLOCK_BITS: u32 = 512;
const DIGEST_BITS: u32 = 256;

/// Behind a message.
const END: u32 = 0x80 << 24;

/// The states behind the first block of HMAC under the salts, by version: the inner one, then the outer one.
/// The test `the_states_are_those_of_the_salts` computes them.
static SALTS: [[State; 2]; 2] = [
    [
        [
            0x2d5e_ed97,
            0x70d7_1abf,
            0x4c9b_8799,
            0xc4eb_86b0,
            0xe9b1_6e41,
            0xd043_22f6,
            0xf73a_0cb2,
            0x9e23_a203,
        ],
        [
            0x0d3d_813d,
            0xcffa_6f1f,
            0x7dbc_b03e,
            0x9230_42dc,
            0xd15a_45f6,
            0x55ab_0325,
            0xf3c2_3aab,
            0x3742_6939,
        ],
    ],
    [
        [
            0x9f20_1982,
            0x7e77_1bd0,
            0x601a_8795,
            0x5d7a_b60d,
            0x2ff3_0d4b,
            0x7220_1a09,
            0x6eaa_0d12,
            0xca4e_4d6b,
        ],
        [
            0xbb15_3200,
            0x003b_cf3a,
            0xf998_76d1,
            0xf698_c9aa,
            0x804d_4d49,
            0x7a37_9cfe,
            0xc1eb_346e,
            0xadaf_299f,
        ],
    ],
];

/// A label, as a whole last block of HMAC's inner message: what HKDF-Expand-Label makes of it (RFC 8446, section
/// 7.1), the number 1 (RFC 5869, section 2.3), and the end.
const fn label(wanted: u8, label: &[u8]) -> [u32; BLOCK] {
    let mut octets = [0; 64];
    octets[1] = wanted;
    octets[2] = label.len() as u8;
    let mut at = 0;
    while at < label.len() {
        octets[3 + at] = label[at];
        at += 1;
    }
    let len = 3 + label.len() + 1;
    octets[len] = 1;
    octets[len + 1] = 0x80;
    let mut words = [0; BLOCK];
    let mut at = 0;
    while at < BLOCK {
        let word = [
            octets[4 * at],
            octets[4 * at + 1],
            octets[4 * at + 2],
            octets[4 * at + 3],
        ];
        words[at] = u32::from_be_bytes(word);
        at += 1;
    }
    words[BLOCK - 1] = BLOCK_BITS + 8 * (len as u32 + 1);
    words
}

static CLIENT: [u32; BLOCK] = label(32, b"tls13 client in");

/// The labels by version: of the payload's key, of the nonce, of the header's key.
static LABELS: [[[u32; BLOCK]; 3]; 2] = [
    [
        label(16, b"tls13 quic key"),
        label(12, b"tls13 quic iv"),
        label(16, b"tls13 quic hp"),
    ],
    [
        label(16, b"tls13 quicv2 key"),
        label(12, b"tls13 quicv2 iv"),
        label(16, b"tls13 quicv2 hp"),
    ],
];

/// Writes the connection ID of a packet as the block behind a salt.
#[inline(always)]
pub fn begin<P: Packet + ?Sized>(opening: &mut Opening, packet: &P) {
    const CONNECTION: usize = 6;

    let from = opening.header.start as usize + CONNECTION;
    let len = opening.header.connection_len;
    for word in 0..BLOCK {
        opening.schedule[word] = 0;
    }
    for at in 0..=MAX_CONNECTION_ID {
        if at as u32 >= len {
            break;
        }
        let Some([octet]) = packet.load::<1>(from + at) else {
            break;
        };
        opening.schedule[at / 4] |= u32::from(octet) << (24 - 8 * (at % 4));
    }
    // No identifier is longer.
    let end = len as usize % 32;
    opening.schedule[end / 4 % BLOCK] |= END >> (8 * (end % 4));
    opening.schedule[BLOCK - 1] = BLOCK_BITS + 8 * len;
}

/// Derives the keys, of the version and from the block that was [begun](begin).
#[inline(always)]
pub fn derive<S: Steps>(steps: &mut S, version: usize) {
    let [inner, outer] = &SALTS[version % 2];
    steps.opening().state = *inner;
    steps.compress();
    end_hmac(steps, outer);
    set_key(steps);
    expand(steps, &CLIENT);
    set_key(steps);
    let [payload, nonce, header] = &LABELS[version % 2];
    expand(steps, payload);
    let opening = steps.opening();
    opening.keys.payload = first_columns(&opening.state);
    expand(steps, nonce);
    let opening = steps.opening();
    let [first, second, third, _] = first_columns(&opening.state);
    opening.keys.iv = [first, second, third];
    expand(steps, header);
    let opening = steps.opening();
    opening.keys.header = first_columns(&opening.state);
}

#[inline(always)]
fn first_columns(state: &State) -> [u32; 4] {
    [
        state[0].swap_bytes(),
        state[1].swap_bytes(),
        state[2].swap_bytes(),
        state[3].swap_bytes(),
    ]
}

/// The outer half of HMAC, over the digest of the inner one.
#[inline(always)]
fn end_hmac<S: Steps>(steps: &mut S, outer: &State) {
    let opening = steps.opening();
    for at in 0..8 {
        opening.schedule[at] = opening.state[at];
    }
    opening.schedule[8] = END;
    for at in 9..BLOCK - 1 {
        opening.schedule[at] = 0;
    }
    opening.schedule[BLOCK - 1] = BLOCK_BITS + DIGEST_BITS;
    opening.state = *outer;
    steps.compress();
}

/// Makes the digest that is there the key of HMAC.
#[inline(always)]
fn set_key<S: Steps>(steps: &mut S) {
    let opening = steps.opening();
    opening.secret = opening.state;
    begin_hmac(steps, INNER_PAD);
    let opening = steps.opening();
    opening.inner = opening.state;
    begin_hmac(steps, OUTER_PAD);
    let opening = steps.opening();
    opening.outer = opening.state;
}

#[inline(always)]
fn begin_hmac<S: Steps>(steps: &mut S, pad: u32) {
    let opening = steps.opening();
    for at in 0..8 {
        opening.schedule[at] = opening.secret[at] ^ pad;
    }
    for at in 8..BLOCK {
        opening.schedule[at] = pad;
    }
    opening.state = START;
    steps.compress();
}

/// HMAC over a label: the digest is then in the state.
#[inline(always)]
fn expand<S: Steps>(steps: &mut S, label: &[u32; BLOCK]) {
    let opening = steps.opening();
    opening.schedule[..BLOCK].copy_from_slice(label);
    opening.state = opening.inner;
    steps.compress();
    let outer = steps.opening().outer;
    end_hmac(steps, &outer);
}

#[cfg(test)]
mod tests {
    use super::{super::sha256, *};

    /// RFC 9001, section 5.2; RFC 9369, section 3.3.1.
    const SALT_OCTETS: [[u8; 20]; 2] = [
        *b"\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a",
        *b"\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9",
    ];

    #[test]
    fn the_states_are_those_of_the_salts() {
        let states = SALT_OCTETS.map(|salt| {
            [INNER_PAD, OUTER_PAD].map(|pad| {
                let mut schedule = [pad; 64];
                for (word, octets) in schedule.iter_mut().zip(salt.as_chunks::<4>().0) {
                    *word ^= u32::from_be_bytes(*octets);
                }
                let mut state = START;
                sha256::compress(&mut state, &mut schedule, sha256::twice);
                state
            })
        });
        assert_eq!(states, SALTS, "{states:#010x?}");
    }
}
