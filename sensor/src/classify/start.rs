//! The protocol at the start of a stream, by its bytes, wherever they begin.

use sensor_ebpf::{
    flow::FlowKey,
    kind::{LOOKED_AT, is_service, may_be_framed_dns},
};

use crate::decode::{
    Failure, Progress,
    http::{self, Request},
    http2,
    prelude::{Prelude, prelude},
    tls::{self, ClientHello},
};

/// The start of a stream.
pub(super) enum Start {
    Hello(ClientHello),
    /// A request of HTTP/1, after so many bytes of a prelude.
    Request(Request, usize),
    /// HTTP/2, after so many bytes of a prelude.
    Frames(usize),
    /// DNS messages.
    Messages,
    /// Not yet enough; and whether the protocol is known.
    Incomplete(bool),
    /// A prelude, without a byte of the stream that follows it.
    Before,
    /// Nothing that is read here.
    Unknown,
    Failed(&'static str, Failure),
}

/// The fewest bytes by which a stream can be told.
const TELLING: usize = 6;

/// The fewest by which DNS in a stream can be told: a length and a header.
const TELLING_DNS: usize = 14;

impl Start {
    /// The start of a stream, or of a segment that may begin another.
    pub(super) fn of(key: &FlowKey, stream: &[u8]) -> Self {
        if may_be_dns(key, stream) {
            return match stream.len() {
                ..TELLING_DNS => Self::Incomplete(true),
                _ => Self::Messages,
            };
        }
        match Self::at(stream, 0) {
            Self::Unknown => {}
            start => return start,
        }
        match prelude(stream) {
            Prelude::Begun => Self::Before,
            Prelude::Whole(0) if stream.len() < TELLING => Self::Incomplete(true),
            Prelude::Whole(len) if len < stream.len() => {
                let meant = &stream[len..];
                match Self::at(meant, len) {
                    Self::Unknown if meant.len() < TELLING || http::may_begin(meant) => {
                        Self::Incomplete(false)
                    }
                    start => start,
                }
            }
            Prelude::Whole(0) => Self::Unknown,
            Prelude::Whole(_) => Self::Before,
        }
    }

    /// The start of a stream whose prelude had `behind` bytes.
    fn at(stream: &[u8], behind: usize) -> Self {
        const SERVER_HELLO: u8 = 2;

        if tls::looks_like(stream) {
            return match tls::client_hello(stream) {
                Ok(Progress::Complete(hello)) => Self::Hello(hello),
                Ok(Progress::Incomplete) => Self::Incomplete(true),
                Err(_) if stream.get(5) == Some(&SERVER_HELLO) => Self::Unknown,
                Err(failure) => Self::Failed("tls", failure),
            };
        }
        if http2::looks_like(stream) {
            return Self::Frames(behind);
        }
        if http::looks_like(stream) {
            return match http::request(stream) {
                Ok(Progress::Complete(request)) => Self::Request(request, behind),
                Ok(Progress::Incomplete) => Self::Incomplete(true),
                Err(failure) => Self::Failed("http", failure),
            };
        }
        Self::Unknown
    }

    /// Whether the bytes are still held: until more come, or beside later ones.
    pub(super) const fn is_read_on(&self) -> bool {
        !matches!(self, Self::Unknown | Self::Failed(..))
    }
}

/// Whether a segment in the middle of a stream may begin a readable protocol: with a word that starts a
/// request, or a record of TLS, after lines of text or at once.
pub(super) fn may_begin(octets: &[u8]) -> bool {
    let is_socks = matches!(octets, [1 | 4 | 5, ..]);
    decoder(octets).is_some() || http::may_begin(octets) || !is_socks && stands_before(octets)
}

/// Whether a segment may be a message of SOCKS, or its first byte.
pub(super) fn may_go_on(octets: &[u8]) -> bool {
    matches!(octets, [1 | 4 | 5]) || stands_before(octets)
}

/// The decoder that reads a stream, from its first byte or after its prelude.
pub(super) fn decoder(stream: &[u8]) -> Option<&'static str> {
    let of = |meant: &[u8]| {
        if tls::looks_like(meant) {
            return Some("tls");
        }
        // A line with a target: a word alone is no request.
        let is_line = || http::may_begin(meant) && meant.contains(&b'/');
        let is_http = http::looks_like(meant) || http2::looks_like(meant) || is_line();
        is_http.then_some("http")
    };
    of(stream).or_else(|| match prelude(stream) {
        Prelude::Whole(len) => of(&stream[len..]),
        Prelude::Begun => None,
    })
}

/// Whether a stream begins with a prelude.
pub(super) fn stands_before(stream: &[u8]) -> bool {
    prelude(stream) != Prelude::Whole(0)
}

/// Whether a stream may be one of DNS messages: by its port and its first bytes.
fn may_be_dns(key: &FlowKey, stream: &[u8]) -> bool {
    let mut first = [0; LOOKED_AT];
    let there = stream.len().min(LOOKED_AT);
    first[..there].copy_from_slice(&stream[..there]);
    is_service(key) && may_be_framed_dns(&first, stream.len())
}
