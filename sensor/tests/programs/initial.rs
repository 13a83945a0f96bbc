//! Initials of QUIC clients, sealed by rustls.

use rustls::{
    Side, Tls13CipherSuite,
    crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
    quic::{Keys, Version},
};

/// A client that begins a connection.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// 1, or RFC 9369's.
    pub(crate) version: u32,
    /// The destination connection ID of its first packet.
    pub(crate) first: Vec<u8>,
    /// That of this packet.
    pub(crate) destination: Vec<u8>,
    /// The connection ID that it wants for itself.
    pub(crate) source: Vec<u8>,
    pub(crate) token: Vec<u8>,
    /// Bytes of the packet's number, 1 to 4.
    pub(crate) number_len: usize,
}

pub(crate) const V2: u32 = 0x6b33_43cf;

impl Client {
    /// Of version 1, with an identifier of eight bytes of this number.
    pub(crate) fn new(number: u64) -> Self {
        let first = number
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_be_bytes()
            .to_vec();
        Self {
            version: 1,
            destination: first.clone(),
            first,
            source: vec![1, 2, 3],
            token: Vec::new(),
            number_len: 2,
        }
    }

    /// A packet with a number and these frames, padded so that the packet has at least `least` bytes.
    pub(crate) fn seal(&self, number: u32, frames: &[u8], least: usize) -> Vec<u8> {
        let (version, kind) = match self.version {
            V2 => (Version::V2, 0xd0),
            _ => (Version::V1, 0xc0),
        };
        let suite = TLS13_AES_128_GCM_SHA256.tls13();
        let quic = suite.and_then(Tls13CipherSuite::quic_suite);
        let quic = quic.expect("ring has QUIC for it");
        let keys = Keys::initial(version, quic.suite, quic.quic, &self.first, Side::Client).local;

        let mut header = vec![kind | (self.number_len as u8 - 1)];
        header.extend(self.version.to_be_bytes());
        header.push(self.destination.len() as u8);
        header.extend(&self.destination);
        header.push(self.source.len() as u8);
        header.extend(&self.source);
        header.extend(varint(self.token.len()));
        header.extend(&self.token);
        let before = header.len() + 2 + self.number_len;
        let mut payload = frames.to_vec();
        payload.resize(
            payload.len().max(least.saturating_sub(before + 16)).max(4),
            0,
        );
        header.extend((0x4000 | (self.number_len + payload.len() + 16) as u16).to_be_bytes());
        let place = header.len();
        header.extend(&number.to_be_bytes()[4 - self.number_len..]);
        let tag = keys
            .packet
            .encrypt_in_place(number.into(), &header, &mut payload)
            .expect("a packet");
        let mut packet = header;
        packet.extend(payload);
        packet.extend(tag.as_ref());
        let (head, rest) = packet.split_at_mut(place);
        let (number, rest) = rest.split_at_mut(4);
        let sample = rest[..16].to_vec();
        keys.header
            .encrypt_in_place(&sample, &mut head[0], &mut number[..self.number_len])
            .expect("a sample");
        packet
    }
}

/// A number of variable length (RFC 9000, section 16).
pub(crate) fn varint(number: usize) -> Vec<u8> {
    match number {
        0..64 => vec![number as u8],
        64..16_384 => (0x4000 | number as u16).to_be_bytes().to_vec(),
        _ => (0x8000_0000 | number as u32).to_be_bytes().to_vec(),
    }
}

/// A CRYPTO frame with these bytes of a stream.
pub(crate) fn crypto(at: usize, bytes: &[u8]) -> Vec<u8> {
    [&[6], &varint(at)[..], &varint(bytes.len()), bytes].concat()
}
