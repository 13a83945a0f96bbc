//! QUIC Initial packets (RFC 9000, RFC 9001, RFC 9369), the drafts before them, and gQUIC.
//!
//! The Initial packets of a client are encrypted under keys that anybody can derive who saw the
//! first of them: from its destination connection ID (RFC 9001, section 5.2). In them lies a TLS
//! ClientHello, in CRYPTO frames of any order, over as many packets as it takes.

mod google;
mod keys;

use self::keys::Keys;
use super::{
    Failure, Progress,
    reader::Reader,
    stream::{MAX_STREAM, Stream},
    tls::{self, ClientHello, Transport},
};

/// Packets of one datagram that are looked at.
pub const MAX_PACKETS: usize = 8;

/// Connection attempts of one flow that are followed at a time: the one before a Retry or a
/// version negotiation, and the one after it.
pub const MAX_ATTEMPTS: usize = 2;

/// The longest connection ID (RFC 9000, section 17.2).
const MAX_CONNECTION_ID: usize = 20;

/// A version whose Initial packets can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// RFC 9000.
    V1,
    /// RFC 9369.
    V2,
    /// draft-ietf-quic-transport, from 22 to 34.
    Draft(u8),
    /// Facebook's, after the draft of that number.
    Mvfst(u8),
    /// gQUIC with its own handshake: 24 to 43, 46, and 50.
    Q(u8),
    /// gQUIC with the handshake of TLS: 50 and 51.
    T(u8),
}

impl Version {
    /// By the number on the wire. `None` for one that cannot be read.
    pub const fn from_number(number: u32) -> Option<Self> {
        match (number, number.to_be_bytes()) {
            (0x0000_0001, _) => Some(Self::V1),
            (0x6b33_43cf, _) => Some(Self::V2),
            (0xface_b001, _) => Some(Self::Mvfst(22)),
            (0xface_b002, _) => Some(Self::Mvfst(27)),
            (_, [0xff, 0, 0, draft @ 22..=34]) => Some(Self::Draft(draft)),
            (_, [b'Q', b'0', tens @ b'0'..=b'9', ones @ b'0'..=b'9']) => {
                match (tens - b'0') * 10 + (ones - b'0') {
                    number @ (24..=43 | 46 | 50) => Some(Self::Q(number)),
                    _ => None,
                }
            }
            (_, [b'T', b'0', b'5', ones @ b'0'..=b'1']) => Some(Self::T(50 + (ones - b'0'))),
            _ => None,
        }
    }

    /// Its name for people: `1`, `2`, `draft-29`, `mvfst-27`, `Q050`, `T051`.
    pub fn label(self) -> String {
        match self {
            Self::V1 => "1".into(),
            Self::V2 => "2".into(),
            Self::Draft(number) => format!("draft-{number}"),
            Self::Mvfst(number) => format!("mvfst-{number}"),
            Self::Q(number) => format!("Q{number:03}"),
            Self::T(number) => format!("T{number:03}"),
        }
    }

    /// The type bits of an Initial packet (RFC 9000, section 17.2; RFC 9369, section 3.2).
    const fn initial_type(self) -> u8 {
        match self {
            Self::V2 => 0b01,
            _ => 0b00,
        }
    }

    /// The type bits of a Retry packet, the only one of a known version without a length.
    const fn retry_type(self) -> u8 {
        match self {
            Self::V2 => 0b00,
            _ => 0b11,
        }
    }
}

/// The first message of a client over QUIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The version of the packets it came in.
    pub version: Version,
    /// The hello. gQUIC's own has nothing but a name.
    pub hello: ClientHello,
    /// The program and the device it runs on, from gQUIC's own hello.
    pub user_agent: Option<String>,
}

/// Whether a datagram may belong to the start of a QUIC connection: a long header with a version
/// that can be read, a version negotiation that offers one, or the header of gQUIC with its
/// version.
pub fn looks_like(payload: &[u8]) -> bool {
    match payload {
        [0x80..=0xff, 0, 0, 0, 0, ..] => offers_known_version(payload),
        [0x80..=0xff, a, b, c, d, ..] => {
            let number = u32::from_be_bytes([*a, *b, *c, *d]);
            match Version::from_number(number) {
                Some(Version::Q(..=46)) => google::PublicHeader::read(payload).is_some(),
                version => version.is_some(),
            }
        }
        _ => google::PublicHeader::read(payload).is_some(),
    }
}

/// One flow's attempts to open a connection, as far as their Initial packets were seen.
#[derive(Debug, Default)]
pub struct Initials {
    /// The last one is the newest.
    attempts: Vec<Attempt>,
}

impl Initials {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether none is followed.
    pub fn are_none(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Takes the payload of one datagram: all the packets in it (RFC 9000, section 12.2).
    ///
    /// Packets may come in any order. After a Retry the client derives its keys anew, from the
    /// connection ID that the server gave it (RFC 9001, section 5.2); after a negotiation it may
    /// start anew, or go on in another version under keys from the first connection ID (RFC 9369,
    /// section 4.1). All of that is tried.
    ///
    /// A packet number is taken as it stands: before anything is acknowledged, none is
    /// shortened (RFC 9000, section 17.1).
    ///
    /// # Errors
    /// Why nothing was learned of this datagram. The next one may be right.
    pub fn datagram(
        &mut self,
        from_client: bool,
        payload: &[u8],
    ) -> Result<Progress<Hello>, Failure> {
        if !from_client {
            // Of all that a server may say, only this changes what the client says next: after a
            // version negotiation (RFC 9000, section 6.2) it has not said anything yet.
            if matches!(payload, [0x80..=0xff, 0, 0, 0, 0, ..]) {
                self.attempts.clear();
            }
            return Ok(Progress::Incomplete);
        }
        if let Some(header) = google::PublicHeader::read(payload) {
            return self.public(&header);
        }
        let mut learned = false;
        let mut failure = None;
        let mut rest = payload;
        for _ in 0..MAX_PACKETS {
            // A packet with a short header is encrypted under other keys, and is the last.
            if !matches!(rest, [0x80..=0xff, ..]) {
                break;
            }
            let outcome = LongHeader::read(rest).and_then(|header| {
                rest = &rest[header.packet.len()..];
                match header.is_initial {
                    true => self.initial(&header).map(Some),
                    false => Ok(None),
                }
            });
            match outcome {
                Ok(Some(Progress::Complete(hello))) => return Ok(Progress::Complete(hello)),
                Ok(Some(Progress::Incomplete)) => learned = true,
                Ok(None) => {}
                Err(why) => {
                    failure = failure.or(Some(why));
                    // Without its length nothing is known of what follows.
                    if why != Failure::Undecryptable {
                        break;
                    }
                }
            }
        }
        match failure {
            Some(why) if !learned => Err(why),
            _ => Ok(Progress::Incomplete),
        }
    }

    /// An Initial packet under the keys of one of the attempts, or of a new one.
    fn initial(&mut self, header: &LongHeader<'_>) -> Result<Progress<Hello>, Failure> {
        let mut opened = Vec::new();
        let known = self
            .attempts
            .iter_mut()
            .rev()
            .find_map(|attempt| attempt.open(header, &mut opened).then_some(attempt));
        if let Some(attempt) = known {
            return attempt.frames(&opened);
        }
        let is_tried = |attempt: &Attempt| attempt.is(header.version, header.destination);
        if self.attempts.iter().any(is_tried) {
            return Err(Failure::Undecryptable);
        }
        let mut attempt = Attempt::new(header.version, header.destination);
        if !attempt.open(header, &mut opened) {
            return Err(Failure::Undecryptable);
        }
        self.add(attempt).frames(&opened)
    }

    /// A packet of gQUIC that is not encrypted.
    fn public(&mut self, header: &google::PublicHeader<'_>) -> Result<Progress<Hello>, Failure> {
        let body = header.body()?;
        let known = self
            .attempts
            .iter()
            .position(|attempt| attempt.is(header.version, header.connection));
        let attempt = match known {
            Some(place) => &mut self.attempts[place],
            None => self.add(Attempt::new(header.version, header.connection)),
        };
        google::frames(header.version, body, &mut attempt.crypto)?;
        attempt.hello()
    }

    fn add(&mut self, attempt: Attempt) -> &mut Attempt {
        if self.attempts.len() == MAX_ATTEMPTS {
            self.attempts.remove(0);
        }
        self.attempts.push(attempt);
        let newest = self.attempts.len() - 1;
        &mut self.attempts[newest]
    }
}

/// One attempt: the keys that its first packet leads to, and what its CRYPTO frames carried.
#[derive(Debug)]
struct Attempt {
    version: Version,
    connection: ConnectionId,
    keys: Option<Keys>,
    crypto: Stream,
}

impl Attempt {
    fn new(version: Version, connection: &[u8]) -> Self {
        Self {
            version,
            connection: ConnectionId::new(connection),
            keys: Keys::new(version, connection),
            crypto: match version {
                // A stream of several hellos, each of them whole: any of them may be the first that
                // is seen.
                Version::Q(_) => Stream::new(None),
                // Offsets count from zero, as if a SYN had the number before it.
                _ => Stream::new(Some(u32::MAX)),
            },
        }
    }

    fn is(&self, version: Version, connection: &[u8]) -> bool {
        self.version == version && self.connection.octets() == connection
    }

    /// Decrypts a packet under the keys of this attempt. `false` where they are not the right ones.
    fn open(&mut self, header: &LongHeader<'_>, opened: &mut Vec<u8>) -> bool {
        let mut open = |keys: &Option<Keys>| {
            keys.as_ref()
                .is_some_and(|keys| keys.open(header.packet, header.number, opened))
        };
        if header.version == self.version {
            return open(&self.keys);
        }
        let keys = Keys::new(header.version, self.connection.octets());
        let fits = open(&keys);
        if fits {
            self.version = header.version;
            self.keys = keys;
        }
        fits
    }

    fn frames(&mut self, frames: &[u8]) -> Result<Progress<Hello>, Failure> {
        match self.version {
            Version::Q(_) | Version::T(_) => {
                google::encrypted_frames(frames, &mut self.crypto)?;
            }
            _ => read_frames(frames, &mut self.crypto).ok_or(Failure::Malformed)?,
        }
        self.hello()
    }

    /// The hello, as soon as it is whole.
    fn hello(&self) -> Result<Progress<Hello>, Failure> {
        if self.crypto.conflict() {
            return Err(Failure::Conflict);
        }
        let octets = self.crypto.contiguous();
        let hello = match self.version {
            Version::Q(_) => google::hello(octets)?,
            _ => match tls::handshake(octets, Transport::Quic)? {
                Progress::Complete(hello) => Progress::Complete((hello, None)),
                Progress::Incomplete => Progress::Incomplete,
            },
        };
        Ok(match hello {
            Progress::Complete((hello, user_agent)) => Progress::Complete(Hello {
                version: self.version,
                hello,
                user_agent,
            }),
            Progress::Incomplete => Progress::Incomplete,
        })
    }
}

/// A connection ID.
#[derive(Clone, Copy, Debug)]
struct ConnectionId {
    octets: [u8; MAX_CONNECTION_ID],
    len: usize,
}

impl ConnectionId {
    /// Of at most [`MAX_CONNECTION_ID`] octets.
    fn new(from: &[u8]) -> Self {
        let len = from.len().min(MAX_CONNECTION_ID);
        let mut octets = [0; MAX_CONNECTION_ID];
        octets[..len].copy_from_slice(&from[..len]);
        Self { octets, len }
    }

    fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

/// A packet with a long header of a version that can be read (RFC 9000, section 17.2).
struct LongHeader<'a> {
    version: Version,
    is_initial: bool,
    destination: &'a [u8],
    /// The packet as far as its length says.
    packet: &'a [u8],
    /// Where in it its number begins, which is protected.
    number: usize,
}

impl<'a> LongHeader<'a> {
    /// The first packet of these octets.
    fn read(octets: &'a [u8]) -> Result<Self, Failure> {
        let mut rest = Reader(octets);
        let (Some(first), Some(number)) = (rest.u8(), rest.u32()) else {
            return Err(Failure::Truncated);
        };
        let version = Version::from_number(number).ok_or(Failure::Unsupported)?;
        if let Version::Q(..=46) = version {
            // These have another header.
            return Err(Failure::Malformed);
        }
        let ids = |rest: &mut Reader<'a>| Some((rest.vector8()?.0, rest.vector8()?.0));
        let (destination, source) = ids(&mut rest).ok_or(Failure::Truncated)?;
        if destination.len().max(source.len()) > MAX_CONNECTION_ID {
            return Err(Failure::Malformed);
        }
        let kind = first >> 4 & 0b11;
        if kind == version.retry_type() {
            // Only a server sends it.
            return Err(Failure::Malformed);
        }
        let is_initial = kind == version.initial_type();
        if is_initial {
            let len = rest.varint_len().ok_or(Failure::Truncated)?;
            rest.take(len).ok_or(Failure::Truncated)?;
        }
        let len = rest.varint_len().ok_or(Failure::Truncated)?;
        let number = octets.len() - rest.0.len();
        rest.take(len).ok_or(Failure::Truncated)?;
        Ok(Self {
            version,
            is_initial,
            destination,
            packet: &octets[..number + len],
            number,
        })
    }
}

/// Frames that an Initial packet may have (RFC 9000, section 12.4); what CRYPTO frames carry goes
/// into the stream. `None` where they contradict themselves.
fn read_frames(frames: &[u8], crypto: &mut Stream) -> Option<()> {
    let mut rest = Reader(frames);
    while let Some(kind) = rest.u8() {
        match kind {
            frame::PADDING => skip_padding(&mut rest),
            frame::PING => {}
            frame::ACK | frame::ACK_ECN => {
                rest.varint()?;
                rest.varint()?;
                let ranges = rest.varint()?;
                rest.varint()?;
                for _ in 0..ranges {
                    rest.varint()?;
                    rest.varint()?;
                }
                if kind == frame::ACK_ECN {
                    rest.varint()?;
                    rest.varint()?;
                    rest.varint()?;
                }
            }
            frame::CRYPTO => read_crypto(&mut rest, crypto)?,
            // Nothing comes behind it that would count.
            frame::CONNECTION_CLOSE => return Some(()),
            _ => return None,
        }
    }
    Some(())
}

/// RFC 9000, section 19.6.
fn read_crypto(rest: &mut Reader<'_>, crypto: &mut Stream) -> Option<()> {
    let offset = rest.varint()?;
    let len = rest.varint_len()?;
    let octets = rest.take(len)?;
    if let Ok(offset) = u32::try_from(offset)
        && offset < MAX_STREAM as u32
    {
        crypto.segment(offset, octets);
    }
    Some(())
}

fn skip_padding(rest: &mut Reader<'_>) {
    let padding = rest
        .0
        .iter()
        .position(|octet| *octet != frame::PADDING)
        .unwrap_or(rest.0.len());
    rest.take(padding);
}

/// Frame types (RFC 9000, section 19).
mod frame {
    pub(super) const PADDING: u8 = 0x00;
    pub(super) const PING: u8 = 0x01;
    pub(super) const ACK: u8 = 0x02;
    pub(super) const ACK_ECN: u8 = 0x03;
    pub(super) const CRYPTO: u8 = 0x06;
    pub(super) const CONNECTION_CLOSE: u8 = 0x1c;
}

/// A version negotiation (RFC 9000, section 17.2.1) with a version that can be read.
fn offers_known_version(payload: &[u8]) -> bool {
    let mut rest = Reader(payload);
    let ids = rest
        .take(5)
        .and_then(|_| Some((rest.vector8()?, rest.vector8()?)));
    let (versions, []) = rest.0.as_chunks() else {
        return false;
    };
    ids.is_some()
        && versions
            .iter()
            .any(|number| Version::from_number(u32::from_be_bytes(*number)).is_some())
}

#[cfg(test)]
mod tests;
