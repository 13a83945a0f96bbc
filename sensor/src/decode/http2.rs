//! HTTP/2 (RFC 9113) in the clear, from the client, as far as it names hosts.
//!
//! Every stream of a connection has a request of its own. Only header blocks are read: all of them, because
//! each changes the table by which the next is compressed.

use super::{Failure, hpack::Decoder, name, stream::MAX_STREAM, text};

/// The first bytes of a client (section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most bytes of a header block, compressed: half of those held of a stream, so that a frame with a whole
/// block is held whole.
pub const MAX_BLOCK: usize = MAX_STREAM / 2;

/// The fewest bytes by which the preface is told from requests of HTTP/1.
const TELLING: usize = 4;

/// Bytes before the payload of a frame (section 4.1).
const HEADER: usize = 9;

/// Whether a stream that starts so is HTTP/2, as far as it goes.
pub fn looks_like(stream: &[u8]) -> bool {
    let there = stream.len().min(PREFACE.len());
    there >= TELLING && stream[..there] == PREFACE[..there]
}

/// The next step in reading a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes are read or can be skipped, including those that have not come yet.
    Over(usize),
    /// More has to come first.
    More,
}

/// A request, as far as it names its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The host that `:authority` names, or the field `host` in its absence (section 8.3.1), without
    /// the port.
    pub host: Option<String>,
    /// It names something that is no host name.
    pub no_host_name: bool,
    /// The first `user-agent`, where it has text for people.
    pub user_agent: Option<String>,
}

/// The client's side of a connection.
#[derive(Debug, Default)]
pub struct Connection {
    decoder: Decoder,
    phase: Phase,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Preface,
    /// The frame that has to follow it (section 3.4).
    Settings,
    Frame,
    /// The rest of a header block, of the stream with this number (section 6.10).
    Block(u32, Vec<u8>),
}

/// Types of frames (section 6).
mod kind {
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const CONTINUATION: u8 = 9;
}

/// Flags of frames with headers (section 6.2).
mod flag {
    pub(super) const END_HEADERS: u8 = 0x04;
    pub(super) const PADDED: u8 = 0x08;
    pub(super) const PRIORITY: u8 = 0x20;
}

impl Connection {
    /// Reads one thing from the held bytes of the stream, and returns a request if one is whole.
    ///
    /// # Errors
    ///
    /// [`Failure::Malformed`] for bytes that no server takes, [`Failure::Limit`] for a header block longer than
    /// [`MAX_BLOCK`] or [`hpack::MAX_FIELDS`](super::hpack::MAX_FIELDS) or a table larger than
    /// [`hpack::MAX_TABLE`](super::hpack::MAX_TABLE). The bytes after it cannot be read.
    pub fn step(&mut self, held: &[u8]) -> Result<(Step, Option<Request>), Failure> {
        if self.phase == Phase::Preface {
            let there = held.len().min(PREFACE.len());
            if held[..there] != PREFACE[..there] {
                return Err(Failure::Malformed);
            }
            if there < PREFACE.len() {
                return Ok((Step::More, None));
            }
            self.phase = Phase::Settings;
            return Ok((Step::Over(PREFACE.len()), None));
        }
        let Some(header) = held.first_chunk::<HEADER>() else {
            return Ok((Step::More, None));
        };
        let [high, middle, low, kind, flags, stream @ ..] = *header;
        let len = u32::from_be_bytes([0, high, middle, low]) as usize;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        let begun = match std::mem::replace(&mut self.phase, Phase::Frame) {
            Phase::Settings if kind != kind::SETTINGS => return Err(Failure::Malformed),
            Phase::Block(of, _) if kind != kind::CONTINUATION || of != stream => {
                return Err(Failure::Malformed);
            }
            Phase::Block(_, block) => Some(block),
            _ => None,
        };
        match kind {
            kind::HEADERS => {}
            kind::CONTINUATION if begun.is_some() => {}
            kind::CONTINUATION | kind::PUSH_PROMISE => return Err(Failure::Malformed),
            _ => return Ok((Step::Over(HEADER + len), None)),
        }
        if len > MAX_BLOCK {
            return Err(Failure::Limit);
        }
        let Some(payload) = held.get(HEADER..HEADER + len) else {
            if let Some(block) = begun {
                self.phase = Phase::Block(stream, block);
            }
            return Ok((Step::More, None));
        };
        let mut block = begun.unwrap_or_default();
        match kind {
            kind::HEADERS => block.extend_from_slice(fragment(payload, flags)?),
            _ => block.extend_from_slice(payload),
        }
        if block.len() > MAX_BLOCK {
            return Err(Failure::Limit);
        }
        let request = if flags & flag::END_HEADERS != 0 {
            self.request(&block)?
        } else {
            self.phase = Phase::Block(stream, block);
            None
        };
        Ok((Step::Over(HEADER + len), request))
    }

    /// Whether a header block was begun whose end has not come.
    pub fn is_in_block(&self) -> bool {
        matches!(self.phase, Phase::Block(..))
    }

    /// Reads a whole header block. A block after a body is no request, because it has no method.
    fn request(&mut self, block: &[u8]) -> Result<Option<Request>, Failure> {
        const MAX_USER_AGENT: usize = super::http::MAX_USER_AGENT;
        let (mut has_method, mut authority, mut host, mut user_agent) = (false, None, None, None);
        let mut request = Request::default();
        self.decoder.block(block, |name, value| match name {
            b":method" => has_method = true,
            b":authority" if authority.is_none() => authority = Some(value.to_vec()),
            b"host" if host.is_none() => host = Some(value.to_vec()),
            b"user-agent" if user_agent.is_none() => {
                user_agent = Some(text::readable(value, MAX_USER_AGENT));
            }
            _ => {}
        })?;
        if !has_method {
            return Ok(None);
        }
        request.user_agent = user_agent.filter(|text| !text.is_empty());
        let named = authority.filter(|name| !name.is_empty()).or(host);
        if let Some(named) = named.filter(|name| !name.is_empty()) {
            request.host = name::authority(&named).0;
            request.no_host_name = request.host.is_none();
        }
        Ok(Some(request))
    }
}

/// The part of a header block in a frame of headers, between what may stand around it.
fn fragment(payload: &[u8], flags: u8) -> Result<&[u8], Failure> {
    /// Stream and weight (section 5.3.2 of RFC 7540).
    const PRIORITY: usize = 5;
    let (padding, payload) = match flags & flag::PADDED {
        0 => (0, payload),
        _ => {
            let (padding, rest) = payload.split_first().ok_or(Failure::Malformed)?;
            (usize::from(*padding), rest)
        }
    };
    let before = if flags & flag::PRIORITY == 0 {
        0
    } else {
        PRIORITY
    };
    let end = payload
        .len()
        .checked_sub(padding)
        .ok_or(Failure::Malformed)?;
    payload.get(before..end).ok_or(Failure::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = (payload.len() as u32).to_be_bytes();
        [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn start() -> Vec<u8> {
        [&PREFACE[..], &frame(kind::SETTINGS, 0, 0, &[])].concat()
    }

    /// `GET /` over http for this authority.
    fn block(authority: &str) -> Vec<u8> {
        let mut block = vec![0x82, 0x86, 0x84, 0x41, authority.len() as u8];
        block.extend(authority.bytes());
        block
    }

    /// The requests of a stream of which nothing is missing, and why reading ended.
    fn requests(stream: &[u8]) -> (Vec<Request>, Option<Failure>) {
        let mut connection = Connection::default();
        let (mut requests, mut rest) = (Vec::new(), stream);
        loop {
            match connection.step(rest) {
                Ok((step, request)) => {
                    requests.extend(request);
                    match step {
                        Step::Over(octets) => rest = rest.get(octets..).unwrap_or_default(),
                        Step::More => return (requests, None),
                    }
                }
                Err(failure) => return (requests, Some(failure)),
            }
        }
    }

    fn hosts(stream: &[u8]) -> (Vec<Option<String>>, Option<Failure>) {
        let (requests, failure) = requests(stream);
        (
            requests.into_iter().map(|request| request.host).collect(),
            failure,
        )
    }

    fn some(host: &str) -> Option<String> {
        Some(host.to_owned())
    }

    #[test]
    fn each_stream_names_its_host() {
        let padded = [
            &[3][..],
            &[0, 0, 0, 0, 15],
            &block("Padded.Example:8080"),
            &[0; 3],
        ]
        .concat();
        let (first, second) = (block("split.example"), 9);
        let stream = [
            start(),
            frame(8, 0, 0, &[0, 0, 255, 255]),
            frame(kind::HEADERS, flag::END_HEADERS, 1, &block("a.example")),
            frame(0, 1, 1, b"body"),
            frame(
                kind::HEADERS,
                flag::END_HEADERS | flag::PADDED | flag::PRIORITY,
                3,
                &padded,
            ),
            // The authority of the latest entry.
            frame(
                kind::HEADERS,
                flag::END_HEADERS,
                5,
                &[0x82, 0x86, 0x84, 0xbe],
            ),
            frame(kind::HEADERS, 0, 7, &first[..second]),
            frame(kind::CONTINUATION, flag::END_HEADERS, 7, &first[second..]),
            // Trailers: a field, and no method.
            frame(kind::HEADERS, flag::END_HEADERS, 7, &[0, 1, b'x', 1, b'y']),
        ]
        .concat();
        let expected = [
            some("a.example"),
            some("padded.example"),
            some("padded.example"),
            some("split.example"),
        ];
        assert_eq!(hosts(&stream), (expected.to_vec(), None));
        for end in 0..stream.len() {
            let (hosts, failure) = hosts(&stream[..end]);
            assert_eq!(failure, None, "{end}");
            assert!(expected.starts_with(&hosts), "{end}");
        }
    }

    #[test]
    fn the_field_counts_where_there_is_no_authority() {
        let with = |fields: &[u8]| {
            let block = [&[0x82, 0x86, 0x84], fields].concat();
            let stream = [start(), frame(kind::HEADERS, flag::END_HEADERS, 1, &block)].concat();
            let (requests, failure) = requests(&stream);
            assert_eq!(failure, None);
            requests[0].clone()
        };
        assert_eq!(with(b"\x66\x06b.test").host, some("b.test"));
        assert_eq!(with(b""), Request::default());
        // As in HTTP/1.
        for authority in ["a.test", "a.test:", "a.test:80", "me@a.test:80", "A.test.:"] {
            let field = [&[0x41, authority.len() as u8], authority.as_bytes()].concat();
            assert_eq!(with(&field).host, some("a.test"), "{authority}");
        }
        let odd = with(b"\x41\x05a b.c");
        assert!(odd.host.is_none() && odd.no_host_name);
        let told = with(b"\x41\x06a.test\x7a\x06curl/8");
        assert_eq!(told.user_agent.as_deref(), Some("curl/8"));
        // Only the first is read: each of its repetitions may be as long as the table.
        let told = with(b"\x41\x06a.test\x7a\x02\x01\x02\x7a\x06curl/8");
        assert_eq!(told.user_agent, None);
    }

    #[test]
    fn what_no_server_takes_is_an_error() {
        let headers = frame(kind::HEADERS, flag::END_HEADERS, 1, &block("a.test"));
        let begun = frame(kind::HEADERS, 0, 1, &block("a.test"));
        for (frames, failure) in [
            ([&PREFACE[..], &headers].concat(), Failure::Malformed),
            (
                [start(), frame(kind::CONTINUATION, 4, 1, &[])].concat(),
                Failure::Malformed,
            ),
            (
                [start(), frame(kind::PUSH_PROMISE, 4, 1, &[])].concat(),
                Failure::Malformed,
            ),
            (
                [start(), begun.clone(), headers].concat(),
                Failure::Malformed,
            ),
            (
                [start(), begun, frame(kind::CONTINUATION, 4, 3, &[])].concat(),
                Failure::Malformed,
            ),
            (
                [start(), frame(kind::HEADERS, 4 | flag::PADDED, 1, &[9, 0])].concat(),
                Failure::Malformed,
            ),
            (
                [start(), frame(kind::HEADERS, 4, 1, &[0xff, 0xff])].concat(),
                Failure::Malformed,
            ),
            (
                [start(), frame(kind::HEADERS, 4, 1, &vec![0; MAX_BLOCK + 1])].concat(),
                Failure::Limit,
            ),
            (
                b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
                Failure::Malformed,
            ),
        ] {
            assert_eq!(hosts(&frames), (Vec::new(), Some(failure)));
        }
    }

    proptest! {
        #[test]
        fn every_step_ends(octets in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = requests(&[start(), octets].concat());
        }
    }
}
