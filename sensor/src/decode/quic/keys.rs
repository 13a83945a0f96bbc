//! The keys of Initial packets, and how they open one (RFC 9001, section 5).

use aes::{
    Aes128,
    cipher::{BlockCipherEncrypt, KeyInit},
};
use aes_gcm::{Aes128Gcm, aead::AeadInOut};
use hkdf::Hkdf;
use sha2::Sha256;

use super::Version;

/// The keys of the Initial packets that a client sends.
#[derive(Debug)]
pub(super) struct Keys {
    payload: Aes128Gcm,
    iv: [u8; IV],
    header: Aes128,
}

const KEY: usize = 16;
const IV: usize = 12;
const TAG: usize = 16;

/// Bytes of a packet from which its header protection is made, and their offset from the packet number's first
/// byte (RFC 9001, section 5.4.2).
const SAMPLE: usize = 16;
const SAMPLE_AFTER: usize = 4;

impl Keys {
    /// Derives them from the destination connection ID of the client's first packet (RFC 9001,
    /// section 5.2). `None` for versions that do not encrypt.
    pub(super) fn new(version: Version, connection: &[u8]) -> Option<Self> {
        let salt = salt(version)?;
        let labels = match version {
            Version::V2 => &LABELS_V2,
            _ => &LABELS,
        };
        let mut secret = [0; 32];
        let mut key = [0; KEY];
        let mut iv = [0; IV];
        let mut header = [0; KEY];
        Hkdf::<Sha256>::new(Some(salt), connection)
            .expand(CLIENT_LABEL, &mut secret)
            .ok()?;
        let secret = Hkdf::<Sha256>::from_prk(&secret).ok()?;
        secret.expand(labels.key, &mut key).ok()?;
        secret.expand(labels.iv, &mut iv).ok()?;
        secret.expand(labels.header, &mut header).ok()?;
        Some(Self {
            payload: Aes128Gcm::new(&key.into()),
            iv,
            header: Aes128::new(&header.into()),
        })
    }

    /// Decrypts a packet whose number begins at `number`: `opened` is then its frames. `false` where
    /// it was not encrypted under these keys.
    pub(super) fn open(&self, packet: &[u8], number: usize, opened: &mut Vec<u8>) -> bool {
        self.try_open(packet, number, opened).is_some()
    }

    fn try_open(&self, packet: &[u8], number: usize, opened: &mut Vec<u8>) -> Option<()> {
        let sample = packet
            .get(number + SAMPLE_AFTER..)?
            .first_chunk::<SAMPLE>()?;
        let mut mask = (*sample).into();
        self.header.encrypt_block(&mut mask);

        opened.clear();
        opened.extend_from_slice(packet);
        let first = opened.first_mut()?;
        *first ^= mask[0] & 0x0f;
        let number_len = usize::from(*first & 0b11) + 1;
        let mut nonce = self.iv;
        for at in 0..number_len {
            let octet = &mut opened[number + at];
            *octet ^= mask[1 + at];
            nonce[IV - number_len + at] ^= *octet;
        }

        let (header, rest) = opened.split_at_mut_checked(number + number_len)?;
        let (payload, tag) = rest.split_last_chunk_mut::<TAG>()?;
        self.payload
            .decrypt_inout_detached(&nonce.into(), header, payload.into(), &(*tag).into())
            .ok()?;
        opened.truncate(packet.len() - TAG);
        opened.drain(..number + number_len);
        Some(())
    }
}

/// RFC 9001, section 5.2; RFC 9369, section 3.3.1; the drafts' sections of the same name; those of
/// gQUIC from Chromium.
const fn salt(version: Version) -> Option<&'static [u8; 20]> {
    Some(match version {
        Version::V1 | Version::Draft(33..) => &[
            0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8,
            0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a,
        ],
        Version::V2 => &[
            0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26,
            0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9,
        ],
        Version::Draft(29..=32) => &[
            0xaf, 0xbf, 0xec, 0x28, 0x99, 0x93, 0xd2, 0x4c, 0x9e, 0x97, 0x86, 0xf1, 0x9c, 0x61,
            0x11, 0xe0, 0x43, 0x90, 0xa8, 0x99,
        ],
        Version::Draft(23..=28) | Version::Mvfst(27) => &[
            0xc3, 0xee, 0xf7, 0x12, 0xc7, 0x2e, 0xbb, 0x5a, 0x11, 0xa7, 0xd2, 0x43, 0x2b, 0xb4,
            0x63, 0x65, 0xbe, 0xf9, 0xf5, 0x02,
        ],
        Version::Draft(_) | Version::Mvfst(_) => &[
            0x7f, 0xbc, 0xdb, 0x0e, 0x7c, 0x66, 0xbb, 0xe9, 0x19, 0x3a, 0x96, 0xcd, 0x21, 0x51,
            0x9e, 0xbd, 0x7a, 0x02, 0x64, 0x4a,
        ],
        Version::Q(50..) => &[
            0x50, 0x45, 0x74, 0xef, 0xd0, 0x66, 0xfe, 0x2f, 0x9d, 0x94, 0x5c, 0xfc, 0xdb, 0xd3,
            0xa7, 0xf0, 0xd3, 0xb5, 0x6b, 0x45,
        ],
        Version::Q(_) => return None,
        Version::T(50) => &[
            0x7f, 0xf5, 0x79, 0xe5, 0xac, 0xd0, 0x72, 0x91, 0x55, 0x80, 0x30, 0x4c, 0x43, 0xa2,
            0x36, 0x7c, 0x60, 0x48, 0x83, 0x10,
        ],
        Version::T(_) => &[
            0x7a, 0x4e, 0xde, 0xf4, 0xe7, 0xcc, 0xee, 0x5f, 0xa4, 0x50, 0x6c, 0x19, 0x12, 0x4f,
            0xc8, 0xcc, 0xda, 0x6e, 0x03, 0x3d,
        ],
    })
}

/// Labels as HKDF-Expand-Label takes them (RFC 8446, section 7.1): the length of what is wanted,
/// the length of the label, the label, and no context.
struct Labels {
    key: &'static [u8],
    iv: &'static [u8],
    header: &'static [u8],
}

const CLIENT_LABEL: &[u8] = b"\x00\x20\x0ftls13 client in\x00";

/// RFC 9001, section 5.1 and 5.4.
const LABELS: Labels = Labels {
    key: b"\x00\x10\x0etls13 quic key\x00",
    iv: b"\x00\x0c\x0dtls13 quic iv\x00",
    header: b"\x00\x10\x0dtls13 quic hp\x00",
};

/// RFC 9369, section 3.3.2.
const LABELS_V2: Labels = Labels {
    key: b"\x00\x10\x10tls13 quicv2 key\x00",
    iv: b"\x00\x0c\x0ftls13 quicv2 iv\x00",
    header: b"\x00\x10\x0ftls13 quicv2 hp\x00",
};

#[cfg(test)]
impl Keys {
    /// A packet as a client sends it: `header` ends with a packet number of four octets.
    pub(super) fn seal(&self, header: &[u8], frames: &[u8]) -> Vec<u8> {
        let at = header.len() - 4;
        let mut nonce = self.iv;
        for (octet, number) in nonce[IV - 4..].iter_mut().zip(&header[at..]) {
            *octet ^= number;
        }
        let mut payload = frames.to_vec();
        let tag = self
            .payload
            .encrypt_inout_detached(&nonce.into(), header, payload.as_mut_slice().into())
            .expect("it is not too long");
        let mut packet = [header, &payload, &tag].concat();
        let mut mask = [0; SAMPLE];
        mask.copy_from_slice(&packet[at + SAMPLE_AFTER..][..SAMPLE]);
        let mut mask = mask.into();
        self.header.encrypt_block(&mut mask);
        packet[0] ^= mask[0] & 0x0f;
        for (octet, mask) in packet[at..at + 4].iter_mut().zip(&mask[1..]) {
            *octet ^= mask;
        }
        packet
    }
}
