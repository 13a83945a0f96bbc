//! gQUIC, from Chromium's wire layout specification and source: headers, frames, and the hello of
//! its own handshake.
//!
//! Before Q050 the first packets of a client are in clear and carry a checksum, which is checked: a packet that
//! only looks like one gives no name.

use super::{Version, read_crypto, skip_padding};
use crate::decode::{
    Failure, Progress, name,
    reader::Reader,
    stream::{MAX_STREAM, Stream},
    tls::ClientHello,
};

/// Tags of a hello that are looked at; Chromium refuses more.
const MAX_TAGS: usize = 128;

/// The longest text that is kept of a client's `User-Agent`, in bytes.
const MAX_USER_AGENT: usize = 256;

/// A packet of a version before Q050, which is not encrypted.
pub(super) struct PublicHeader<'a> {
    pub(super) version: Version,
    pub(super) connection: &'a [u8],
    /// The part before the frames that the checksum covers.
    header: &'a [u8],
    /// The checksum and the frames.
    rest: &'a [u8],
}

impl<'a> PublicHeader<'a> {
    /// `None` if the payload is not such a packet with its version, as a client sends it.
    pub(super) fn read(payload: &'a [u8]) -> Option<Self> {
        match *payload.first()? {
            0x80.. => Self::read_long(payload),
            flags => Self::read_public(payload, flags),
        }
    }

    /// Before Q044: flags, connection ID, version, packet number.
    fn read_public(payload: &'a [u8], flags: u8) -> Option<Self> {
        let is_with_version = flags & public::VERSION != 0 && flags & public::RESET == 0;
        if !is_with_version || flags & public::CONNECTION_ID == 0 || flags & public::UNUSED != 0 {
            return None;
        }
        let mut rest = Reader(payload);
        rest.u8()?;
        let connection = rest.take(8)?;
        let version = match Version::from_number(rest.u32()?)? {
            version @ Version::Q(..=43) => version,
            _ => return None,
        };
        rest.take([1, 2, 4, 6][usize::from(flags >> 4 & 0b11)])?;
        Some(Self::new(version, connection, payload, rest))
    }

    /// Q046: the long header of draft-ietf-quic-transport-17, with four bits for the length of each
    /// connection ID, and without a length of the packet.
    fn read_long(payload: &'a [u8]) -> Option<Self> {
        let mut rest = Reader(payload);
        let first = rest.u8()?;
        let version = match Version::from_number(rest.u32()?)? {
            version @ Version::Q(46) => version,
            _ => return None,
        };
        let is_initial = first >> 4 & 0b11 == 0;
        let lengths = rest.u8()?;
        let [destination, source] = [lengths >> 4, lengths & 0x0f].map(|len| match len {
            0 => 0,
            len => usize::from(len) + 3,
        });
        let connection = rest.take(destination)?;
        rest.take(source)?;
        rest.take(usize::from(first & 0b11) + 1)?;
        is_initial.then(|| Self::new(version, connection, payload, rest))
    }

    fn new(
        version: Version,
        connection: &'a [u8],
        payload: &'a [u8],
        Reader(rest): Reader<'a>,
    ) -> Self {
        Self {
            version,
            connection,
            header: &payload[..payload.len() - rest.len()],
            rest,
        }
    }

    /// The frames, if the checksum is right.
    pub(super) fn body(&self) -> Result<&'a [u8], Failure> {
        let (checksum, body) = self.rest.split_first_chunk().ok_or(Failure::Truncated)?;
        let sender: &[u8] = match self.version {
            Version::Q(37..) => b"Client",
            _ => b"",
        };
        if *checksum != checksum_of([self.header, body, sender]) {
            return Err(Failure::Undecryptable);
        }
        // Up to Q033 there is an octet of flags in front of the frames.
        Ok(match self.version {
            Version::Q(..=33) => body.get(1..).unwrap_or_default(),
            _ => body,
        })
    }
}

/// Flags of the public header.
mod public {
    pub(super) const VERSION: u8 = 0x01;
    pub(super) const RESET: u8 = 0x02;
    /// Of eight octets, the only length that a client uses.
    pub(super) const CONNECTION_ID: u8 = 0x08;
    pub(super) const UNUSED: u8 = 0xc0;
}

/// FNV-1a of 128 bits, of which the lower 96 are sent, the lowest octet first.
fn checksum_of(parts: [&[u8]; 3]) -> [u8; 12] {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = (1 << 88) + 0x13b;
    let hash = parts.into_iter().flatten().fold(BASIS, |hash, octet| {
        (hash ^ u128::from(*octet)).wrapping_mul(PRIME)
    });
    let mut sent = [0; 12];
    sent.copy_from_slice(&hash.to_le_bytes()[..12]);
    sent
}

/// Reads frames before Q050: the data of the crypto stream goes into `crypto`. The first frame of another kind
/// ends the reading: their layout differs between versions, and a client's first packet has none.
pub(super) fn frames(version: Version, frames: &[u8], crypto: &mut Stream) -> Result<(), Failure> {
    let is_big_endian = !matches!(version, Version::Q(..=38));
    let mut rest = Reader(frames);
    while let Some(kind @ frame::STREAM..) = rest.u8() {
        stream_frame(kind, is_big_endian, &mut rest, crypto).ok_or(Failure::Malformed)?;
    }
    Ok(())
}

/// `1fdooossB`: whether a length is there, how long the offset and the number of the stream are.
fn stream_frame(
    kind: u8,
    is_big_endian: bool,
    rest: &mut Reader<'_>,
    crypto: &mut Stream,
) -> Option<()> {
    const CRYPTO_STREAM: u64 = 1;
    let mut number = |len: u8| {
        let octets = rest.take(len.into())?;
        let add = |number: u64, octet: &u8| number << 8 | u64::from(*octet);
        Some(match is_big_endian {
            true => octets.iter().fold(0, add),
            false => octets.iter().rev().fold(0, add),
        })
    };
    let stream = number((kind & 0b11) + 1)?;
    let offset = number(match kind >> 2 & 0b111 {
        0 => 0,
        len => len + 1,
    })?;
    let len = match kind & 0x20 {
        0 => None,
        _ => Some(number(2)? as usize),
    };
    let octets = rest.take(len.unwrap_or(rest.0.len()))?;
    if stream == CRYPTO_STREAM
        && let Ok(offset) = u32::try_from(offset)
        && offset < MAX_STREAM as u32
    {
        crypto.segment(offset, octets);
    }
    Some(())
}

/// Frames of Q050, T050 and T051, which have CRYPTO frames as in RFC 9000 beside frames of gQUIC.
/// The first frame of another kind ends the reading.
pub(super) fn encrypted_frames(frames: &[u8], crypto: &mut Stream) -> Result<(), Failure> {
    let mut rest = Reader(frames);
    while let Some(kind) = rest.u8() {
        match kind {
            frame::PADDING => skip_padding(&mut rest),
            frame::PING | frame::PING_OF_RFC => {}
            frame::CRYPTO | frame::CRYPTO_OF_RFC => {
                read_crypto(&mut rest, crypto).ok_or(Failure::Malformed)?;
            }
            _ => break,
        }
    }
    Ok(())
}

/// Frame types, and the bit that STREAM frames have.
mod frame {
    pub(super) const PADDING: u8 = 0x00;
    pub(super) const PING_OF_RFC: u8 = 0x01;
    pub(super) const CRYPTO_OF_RFC: u8 = 0x06;
    pub(super) const PING: u8 = 0x07;
    pub(super) const CRYPTO: u8 = 0x08;
    pub(super) const STREAM: u8 = 0x80;
}

/// The hello of gQUIC's own handshake: `CHLO`, the number of tags, each tag with the end of its
/// value, and the values.
pub(super) fn hello(octets: &[u8]) -> Result<Progress<(ClientHello, Option<String>)>, Failure> {
    let mut rest = Reader(octets);
    let (Some(kind), Some(count), Some(_)) = (rest.array(), rest.u16(), rest.u16()) else {
        return Ok(Progress::Incomplete);
    };
    if kind != *b"CHLO" {
        return Err(Failure::Malformed);
    }
    let count = usize::from(count.swap_bytes());
    if count > MAX_TAGS {
        return Err(Failure::Limit);
    }
    let Some(tags) = rest.take(count * 8) else {
        return Ok(Progress::Incomplete);
    };
    let mut hello = ClientHello::default();
    let mut user_agent = None;
    let mut start = 0;
    for [a, b, c, d, end @ ..] in tags.as_chunks::<8>().0 {
        let end = u32::from_le_bytes(*end) as usize;
        if end > MAX_STREAM {
            return Err(Failure::Limit);
        }
        if end < start {
            return Err(Failure::Malformed);
        }
        let Some(value) = rest.0.get(start..end) else {
            return Ok(Progress::Incomplete);
        };
        start = end;
        match &[*a, *b, *c, *d] {
            b"SNI\0" => {
                hello.server_name = name::host(value);
                hello.no_host_name = hello.server_name.is_none();
            }
            b"UAID" => user_agent = printable(value),
            _ => {}
        }
    }
    Ok(Progress::Complete((hello, user_agent)))
}

fn printable(octets: &[u8]) -> Option<String> {
    let is_text = octets.iter().all(|octet| matches!(octet, b' '..=b'~'));
    if octets.is_empty() || octets.len() > MAX_USER_AGENT || !is_text {
        return None;
    }
    String::from_utf8(octets.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::quic::{Hello, Initials, looks_like};

    const AGENT: &str = "Chrome/74.0.3729.157 Android 9; Redmi Note 8";

    fn chlo(tags: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut header = [&b"CHLO"[..], &(tags.len() as u16).to_le_bytes(), &[0, 0]].concat();
        let mut values = Vec::new();
        for (tag, value) in tags {
            values.extend_from_slice(value);
            header.extend_from_slice(*tag);
            header.extend_from_slice(&(values.len() as u32).to_le_bytes());
        }
        [header, values].concat()
    }

    fn named(name: &str) -> Vec<u8> {
        chlo(&[
            (b"PAD\0", &[b'-'; 700]),
            (b"SNI\0", name.as_bytes()),
            (b"UAID", AGENT.as_bytes()),
        ])
    }

    fn frame(offset: u16, octets: &[u8]) -> Vec<u8> {
        let len = (octets.len() as u16).to_be_bytes();
        [&[0xa4, 1], &offset.to_be_bytes()[..], &len, octets].concat()
    }

    /// A packet of Q043.
    fn packet(frames: &[u8]) -> Vec<u8> {
        let header = [&[0x09][..], &[0x5a; 8], b"Q043", &[1]].concat();
        let checksum = checksum_of([&header, frames, b"Client"]);
        [&header, &checksum[..], frames].concat()
    }

    fn read(datagrams: &[Vec<u8>]) -> Result<Option<Hello>, Failure> {
        let mut initials = Initials::new();
        for datagram in datagrams {
            if let Progress::Complete(hello) = initials.datagram(true, datagram)? {
                return Ok(Some(hello));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_hello_has_a_name_and_an_agent() {
        let datagram = packet(&frame(0, &named("www.Example.com")));
        assert!(looks_like(&datagram));
        let hello = read(&[datagram])
            .expect("it is right")
            .expect("it is whole");
        assert_eq!(hello.version, Version::Q(43));
        assert_eq!(hello.hello.server_name.as_deref(), Some("www.example.com"));
        assert_eq!(hello.user_agent.as_deref(), Some(AGENT));
    }

    #[test]
    fn a_hello_may_lie_in_two_packets() {
        let hello = named("www.example.com");
        let (low, high) = hello.split_at(300);
        let [low, high] = [packet(&frame(0, low)), packet(&frame(300, high))];
        let is_named = |datagrams: &[Vec<u8>]| {
            read(datagrams)
                .expect("it is right")
                .is_some_and(|hello| hello.hello.server_name.is_some())
        };
        assert!(is_named(&[low.clone(), high.clone()]));
        assert!(!is_named(&[low]));
    }

    #[test]
    fn what_is_damaged_gives_no_name() {
        let whole = packet(&frame(0, &named("www.example.com")));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert!(!matches!(read(&[damaged]), Ok(Some(_))), "octet {at}");
            assert!(
                !matches!(read(&[whole[..at].to_vec()]), Ok(Some(_))),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn tags_that_do_not_fit_are_refused() {
        let backwards = {
            let mut hello = chlo(&[(b"AAAA", b"aaaa"), (b"SNI\0", b"a.example")]);
            hello[20] = 2;
            hello
        };
        for (hello, failure) in [
            (b"REJ\0\0\0\0\0".to_vec(), Failure::Malformed),
            (b"CHLO\xff\xff\0\0".to_vec(), Failure::Limit),
            (
                b"CHLO\x01\0\0\0SNI\0\xff\xff\xff\xff".to_vec(),
                Failure::Limit,
            ),
            (backwards, Failure::Malformed),
        ] {
            assert_eq!(read(&[packet(&frame(0, &hello))]), Err(failure));
        }
        let control = chlo(&[(b"SNI\0", b"a\0b"), (b"UAID", b"a\x1bb")]);
        let hello = read(&[packet(&frame(0, &control))]).expect("it is right");
        let hello = hello.expect("it is whole");
        assert_eq!((hello.hello.server_name, hello.user_agent), (None, None));
    }
}
