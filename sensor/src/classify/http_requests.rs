//! The requests of an HTTP connection, one after the other (RFC 9112, section 9.3) or side by side (RFC 9113,
//! section 5), each of which names a host of its own.

use std::{mem, sync::Arc};

use super::overlap::Kept;
use crate::decode::{
    Failure, Progress,
    http::{self, Body},
    http2::{self, Connection, Step},
    stream::{Stream, is_padding},
};

/// The most octets of a body that are passed over before the first of those behind them has come:
/// sequence numbers are compared within half of their range.
const MAX_SKIP: u64 = 1 << 30;

/// The reader of these requests.
#[derive(Debug)]
pub(super) struct Requests {
    /// The bytes not read yet.
    stream: Stream,
    phase: Phase,
    /// The sequence number at which an incomplete header block of HTTP/2 began.
    block: Option<u32>,
    /// The heads that were read last.
    kept: Kept,
    /// Whether a request named something that is no host name.
    is_odd: bool,
    user_agent: Option<String>,
}

#[derive(Debug)]
enum Phase {
    /// A request, or nothing yet.
    Head,
    /// Another protocol, if the server has taken it up.
    Other,
    /// So many octets of a body; whether some of it was passed over ahead.
    Body(u64, bool),
    /// The size of a chunk.
    Chunk,
    /// The end of a chunk.
    ChunkEnd(u64, bool),
    /// The trailers that may follow the last chunk.
    Trailers,
    /// HTTP/2, from the start or after an upgrade.
    Frames(Box<Connection>),
    /// The rest of an unread payload of a frame, in bytes; and whether some of it was skipped ahead.
    Payload(Box<Connection>, u64, bool),
    /// HTTP/2 whose table, by which the next header block is compressed, was forgotten.
    Forgotten,
    /// A protocol that is not read here.
    Over,
}

impl Requests {
    /// The connection whose first request begins `behind` bytes after the first that is held.
    pub(super) fn new(mut stream: Stream, behind: usize) -> Self {
        stream.skip(behind);
        Self {
            kept: Kept::new(stream.start().unwrap_or(0)),
            stream,
            phase: Phase::Head,
            block: None,
            is_odd: false,
            user_agent: None,
        }
    }

    /// Whether a request named something that is no host name since the last time.
    pub(super) fn take_odd(&mut self) -> bool {
        mem::take(&mut self.is_odd)
    }

    /// The `User-Agent` of the program that speaks HTTP/2, if it came since the last call.
    pub(super) fn take_user_agent(&mut self) -> Option<String> {
        self.user_agent.take()
    }

    /// Takes a segment, which may have been captured in part. Returns the hosts of the requests that are now
    /// whole, and the reason why other hosts are not known.
    pub(super) fn segment(
        &mut self,
        sequence: u32,
        octets: &[u8],
        payload: u32,
    ) -> (Vec<Arc<str>>, Option<Failure>) {
        let waits_for_none = matches!(self.phase, Phase::Head) && self.stream.is_empty();
        if waits_for_none && is_padding(octets) {
            return (Vec::new(), None);
        }
        if self.kept.contradicts(sequence, octets) {
            return (Vec::new(), Some(Failure::Conflict));
        }
        self.stream.segment(sequence, octets);
        self.read(sequence, octets.len() as u32, payload)
    }

    /// Reads the held bytes, after a segment was taken of which `captured` bytes were copied. Returns the same
    /// as [`segment`](Self::segment).
    pub(super) fn read(
        &mut self,
        sequence: u32,
        captured: u32,
        payload: u32,
    ) -> (Vec<Arc<str>>, Option<Failure>) {
        let mut hosts = Vec::new();
        loop {
            match self.step(&mut hosts) {
                Ok(true) => {}
                Ok(false) => break,
                // The server may still answer the requests before it.
                Err(failure) => return (hosts, Some(failure)),
            }
        }
        let place = self.position().wrapping_sub(sequence);
        let is_cut = !matches!(self.phase, Phase::Over) && (captured..payload).contains(&place);
        // The packet has more bytes than were copied.
        (hosts, is_cut.then_some(Failure::Limit))
    }

    /// The sequence number of the next byte to read, or of the header block to which it belongs, if incomplete
    /// bytes are held.
    pub(super) fn waits_at(&self) -> Option<u32> {
        let waits = !matches!(self.phase, Phase::Over) && !self.stream.is_empty();
        self.block.or(waits.then(|| self.position()))
    }

    /// Drops the bytes kept for comparison, and the table of HTTP/2: later requests of HTTP/2 are unread
    /// because nothing can decompress them.
    pub(super) fn forget_kept(&mut self) {
        self.kept.forget();
        if matches!(self.phase, Phase::Frames(_) | Phase::Payload(..)) {
            self.phase = Phase::Forgotten;
        }
    }

    fn position(&self) -> u32 {
        self.stream.start().unwrap_or(0)
    }

    /// Reads one thing, and returns whether there may be more.
    fn step(&mut self, hosts: &mut Vec<Arc<str>>) -> Result<bool, Failure> {
        if self.stream.conflict() {
            return Err(Failure::Conflict);
        }
        let held = self.stream.contiguous();
        match self.phase {
            Phase::Head => {
                // Empty lines before a request are ignored (section 2.2).
                let empty = held
                    .iter()
                    .take_while(|octet| matches!(octet, b'\r' | b'\n'))
                    .count();
                if empty > 0 {
                    self.pass(empty);
                    return Ok(true);
                }
                if held.is_empty() {
                    return Ok(false);
                }
                if http2::looks_like(held) {
                    self.phase = Phase::Frames(Box::default());
                    return Ok(true);
                }
                let Progress::Complete(head) = http::head(held)? else {
                    return Ok(false);
                };
                hosts.extend(head.request.name().map(Arc::from));
                self.is_odd |= head.request.no_host_name;
                self.pass(head.len);
                self.phase = match head.body {
                    Body::Sized(octets) => Phase::Body(octets, false),
                    Body::Chunked => Phase::Chunk,
                    Body::Other => Phase::Other,
                };
                Ok(true)
            }
            Phase::Other => {
                let Some(first) = held.first() else {
                    return Ok(false);
                };
                let is_request = first.is_ascii_alphabetic() || matches!(first, b'\r' | b'\n');
                self.phase = match is_request {
                    true => Phase::Head,
                    false => Phase::Over,
                };
                Ok(true)
            }
            Phase::Body(0, _) => {
                self.phase = Phase::Head;
                Ok(true)
            }
            Phase::Body(octets, ahead) => Ok(match self.skip(octets, ahead) {
                Some(left) => {
                    self.phase = Phase::Body(left, true);
                    true
                }
                None => false,
            }),
            Phase::Chunk => {
                let Progress::Complete((size, line)) = http::chunk(held)? else {
                    return Ok(false);
                };
                self.stream.skip(line);
                self.phase = match size {
                    0 => Phase::Trailers,
                    size => Phase::ChunkEnd(size, false),
                };
                Ok(true)
            }
            Phase::ChunkEnd(0, _) => {
                let Some(line) = http::line(held) else {
                    return match held.len() > 2 {
                        true => Err(Failure::Malformed),
                        false => Ok(false),
                    };
                };
                if line > 2 {
                    return Err(Failure::Malformed);
                }
                self.stream.skip(line);
                self.phase = Phase::Chunk;
                Ok(true)
            }
            Phase::ChunkEnd(octets, ahead) => Ok(match self.skip(octets, ahead) {
                Some(left) => {
                    self.phase = Phase::ChunkEnd(left, true);
                    true
                }
                None => false,
            }),
            Phase::Trailers => {
                let Some(line) = http::line(held) else {
                    return match held.len() >= http::MAX_WHOLE_HEAD {
                        true => Err(Failure::Limit),
                        false => Ok(false),
                    };
                };
                if matches!(held[..line], [b'\n'] | [b'\r', b'\n']) {
                    self.phase = Phase::Head;
                }
                self.stream.skip(line);
                Ok(true)
            }
            Phase::Frames(_) => self.frames(hosts),
            Phase::Payload(_, octets, ahead) => {
                let left = self.skip(octets, ahead);
                let Phase::Payload(connection, ..) = mem::replace(&mut self.phase, Phase::Over)
                else {
                    return Ok(false);
                };
                self.phase = match left {
                    Some(0) => Phase::Frames(connection),
                    Some(left) => Phase::Payload(connection, left, true),
                    None => Phase::Payload(connection, octets, ahead),
                };
                Ok(left.is_some())
            }
            Phase::Forgotten if !held.is_empty() => Err(Failure::Limit),
            Phase::Forgotten | Phase::Over => Ok(false),
        }
    }

    /// Reads the frames of HTTP/2 that are held, and gives whether there may be more. They are passed over
    /// at once: a segment may have thousands of them.
    fn frames(&mut self, hosts: &mut Vec<Arc<str>>) -> Result<bool, Failure> {
        let start = self.position();
        let Phase::Frames(connection) = &mut self.phase else {
            return Ok(false);
        };
        let held = self.stream.contiguous();
        let (mut passed, mut left) = (0, 0);
        while left == 0 {
            let rest = &held[passed..];
            let (step, request) = connection.step(rest)?;
            let at = start.wrapping_add(passed as u32);
            let begins = connection.is_in_block().then_some(at);
            self.block = begins.map(|begins| self.block.unwrap_or(begins));
            if let Some(request) = request {
                hosts.extend(request.host.map(Arc::from));
                self.is_odd |= request.no_host_name;
                self.user_agent = request.user_agent.or(self.user_agent.take());
            }
            let Step::Over(octets) = step else {
                break;
            };
            left = octets.saturating_sub(rest.len()) as u64;
            passed += octets.min(rest.len());
        }
        self.pass(passed);
        if left > 0
            && let Phase::Frames(connection) = mem::replace(&mut self.phase, Phase::Over)
        {
            self.phase = Phase::Payload(connection, left, false);
        }
        Ok(left > 0)
    }

    /// Passes over octets that were read.
    fn pass(&mut self, octets: usize) {
        let start = self.position();
        if let Some(read) = self.stream.contiguous().get(..octets) {
            self.kept.add(start, read);
        }
        self.stream.skip(octets);
    }

    /// Passes over octets of a body, and gives how many are left of it; `None` where those have to
    /// come first that were passed over `ahead`.
    fn skip(&mut self, octets: u64, ahead: bool) -> Option<u64> {
        if ahead && self.stream.contiguous().is_empty() {
            return None;
        }
        let now = octets.min(MAX_SKIP);
        self.stream.skip(now as usize);
        Some(octets - now)
    }
}
