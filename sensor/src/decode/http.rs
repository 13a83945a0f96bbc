//! HTTP/1 requests (RFC 9112).
//!
//! By hand, because a client's name is wanted from every request that some server answers, and
//! because a strict parser gives up on the whole head for what stands in a line that nobody asks
//! about: bare line feeds, an octet beyond ASCII, a NUL in another header, a folded line.

use super::{Failure, Progress, name, text};

/// The most octets of a stream in which a request's host is looked for.
pub const MAX_HEAD: usize = 8192;

/// The longest `User-Agent` that is kept, in octets.
pub const MAX_USER_AGENT: usize = 256;

/// The longest method, in octets.
const MAX_METHOD: usize = 32;

/// The most octets of empty lines before a request (RFC 9112, section 2.2: a server should ignore
/// at least one such line).
const MAX_EMPTY: usize = 8;

/// The methods of the IANA registry and of the protocols on HTTP that a household has (UPnP, SSDP).
/// A request line with one of them is taken even if the rest of it is wrong.
const METHODS: [&[u8]; 44] = [
    b"ACL",
    b"BASELINE-CONTROL",
    b"BIND",
    b"CHECKIN",
    b"CHECKOUT",
    b"CONNECT",
    b"COPY",
    b"DELETE",
    b"GET",
    b"HEAD",
    b"LABEL",
    b"LINK",
    b"LOCK",
    b"M-SEARCH",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MKREDIRECTREF",
    b"MKWORKSPACE",
    b"MOVE",
    b"NOTIFY",
    b"OPTIONS",
    b"ORDERPATCH",
    b"PATCH",
    b"POST",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"PUT",
    b"QUERY",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SUBSCRIBE",
    b"TRACE",
    b"UNBIND",
    b"UNCHECKOUT",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
    b"UPDATE",
    b"UPDATEREDIRECTREF",
    b"VERSION-CONTROL",
];

/// What a request says of the one it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The method as it was sent, at most 32 letters, digits, hyphens and underscores.
    pub method: String,
    /// The host that the first `Host` header names, without the port.
    pub host: Option<String>,
    /// The port that the `Host` header names.
    pub port: Option<u16>,
    /// The host that the request line names: a target in absolute form, or of `CONNECT`. It wins
    /// over [`Self::host`] (RFC 9112, section 3.2.2).
    pub target_host: Option<String>,
    /// The port that the request line names.
    pub target_port: Option<u16>,
    /// The first `User-Agent`, if it came together with what names the host: text for people, at most
    /// [`MAX_USER_AGENT`] octets.
    pub user_agent: Option<String>,
}

impl Request {
    /// The host that the request is for.
    pub fn name(&self) -> Option<&str> {
        self.target_host.as_deref().or(self.host.as_deref())
    }
}

/// Whether a stream that starts so carries HTTP/1 requests: a known method, or a request line that
/// is whole and ends with the version.
pub fn looks_like(stream: &[u8]) -> bool {
    match RequestLine::read(skip_empty(stream)) {
        Ok(Progress::Complete(_)) => true,
        Ok(Progress::Incomplete) => starts_with_method(skip_empty(stream)),
        Err(_) => false,
    }
}

/// Reads the first request of a stream, as far as it names its host.
///
/// The request is complete with its first `Host` header, or with the end of its headers. The
/// header counts once the line behind it has begun: it may be continued there.
///
/// # Errors
///
/// [`Failure::Malformed`] for what is no request, [`Failure::Unsupported`] for a protocol that only
/// looks like HTTP/1 (RTSP, SIP, HTTP/2), [`Failure::Limit`] where [`MAX_HEAD`] octets name no host
/// and have no end.
pub fn request(stream: &[u8]) -> Result<Progress<Request>, Failure> {
    let head = &stream[..stream.len().min(MAX_HEAD)];
    match read(skip_empty(head))? {
        Progress::Incomplete if stream.len() >= MAX_HEAD => Err(Failure::Limit),
        progress => Ok(progress),
    }
}

fn read(head: &[u8]) -> Result<Progress<Request>, Failure> {
    let Progress::Complete((line, rest)) = RequestLine::read(head)? else {
        return Ok(Progress::Incomplete);
    };
    let mut request = Request {
        method: String::from_utf8_lossy(line.method).into_owned(),
        ..Request::default()
    };
    if let Some(authority) = line.authority() {
        (request.target_host, request.target_port) = host_and_port(authority);
    }

    let mut headers = Headers { rest };
    let mut named = false;
    let whole = loop {
        match headers.next() {
            Next::Header(header) => {
                if header.is(b"host") && !named {
                    (request.host, request.port) = host_and_port(&header.value());
                    named = true;
                } else if header.is(b"user-agent") && request.user_agent.is_none() {
                    let text = text::readable(&header.value(), MAX_USER_AGENT);
                    request.user_agent = (!text.is_empty()).then_some(text);
                }
                if named && request.user_agent.is_some() {
                    break true;
                }
            }
            Next::End => break true,
            Next::More => break false,
        }
    };
    if named || whole {
        Ok(Progress::Complete(request))
    } else {
        Ok(Progress::Incomplete)
    }
}

fn skip_empty(stream: &[u8]) -> &[u8] {
    let empty = stream
        .iter()
        .take(MAX_EMPTY)
        .take_while(|octet| matches!(octet, b'\r' | b'\n'))
        .count();
    &stream[empty..]
}

/// The length of the known method that the octets start with, if what follows can not be more of
/// the word.
fn known_method(octets: &[u8]) -> Option<usize> {
    METHODS.iter().find_map(|method| {
        let (start, rest) = octets.split_at_checked(method.len())?;
        let ends = match rest.first() {
            Some(octet) => octet.is_ascii_whitespace() || matches!(octet, b'/' | b'*'),
            None => true,
        };
        (ends && start.eq_ignore_ascii_case(method)).then_some(method.len())
    })
}

/// Whether the line, of which the end is not there yet, starts with a method and a target.
fn starts_with_method(line: &[u8]) -> bool {
    known_method(line).is_some_and(|length| {
        let target = line[length..].trim_ascii_start();
        target.first().is_none_or(u8::is_ascii_graphic)
    })
}

/// Whether it is what a request asks for, and not the argument of a command that another protocol
/// calls the same (`get key`).
fn is_target(octets: &[u8]) -> bool {
    octets.is_empty()
        || octets.starts_with(b"/")
        || octets.starts_with(b"*")
        || octets.windows(3).any(|octets| octets == b"://")
}

fn is_word(octets: &[u8]) -> bool {
    octets.first().is_some_and(u8::is_ascii_alphabetic)
        && octets.len() <= MAX_METHOD
        && octets
            .iter()
            .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
}

struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
}

impl<'a> RequestLine<'a> {
    /// The line, and what is behind it.
    fn read(head: &'a [u8]) -> Result<Progress<(Self, &'a [u8])>, Failure> {
        let Some((line, rest)) = split_line(head) else {
            return if Self::may_become(head) {
                Ok(Progress::Incomplete)
            } else {
                Err(Failure::Malformed)
            };
        };
        let line = line.trim_ascii();
        let (before, version) = split_version(line)?;
        if let Some(length) = known_method(line) {
            let target = before.get(length..).unwrap_or_default().trim_ascii();
            if !version && !is_target(target) {
                return Err(Failure::Malformed);
            }
            let method = &line[..length];
            return Ok(Progress::Complete((Self { method, target }, rest)));
        }
        // A method that nobody knows: then at least the version has to be there.
        let end = before
            .iter()
            .position(|octet| octet.is_ascii_whitespace() || *octet == b'/')
            .unwrap_or(before.len());
        let (method, target) = before.split_at(end);
        if !version || !is_word(method) {
            return Err(Failure::Malformed);
        }
        let target = target.trim_ascii();
        Ok(Progress::Complete((Self { method, target }, rest)))
    }

    /// Whether a line that has no end yet may become a request line.
    fn may_become(start: &[u8]) -> bool {
        let word = start
            .iter()
            .position(|octet| octet.is_ascii_whitespace() || matches!(octet, b'/' | b'*'))
            .unwrap_or(start.len());
        start.is_empty()
            || is_word(&start[..word])
                && start
                    .iter()
                    .all(|octet| !octet.is_ascii_control() || octet.is_ascii_whitespace())
    }

    /// The host and port in the target, if it is one that has them.
    fn authority(&self) -> Option<&'a [u8]> {
        if self.method.eq_ignore_ascii_case(b"CONNECT") {
            return Some(self.target);
        }
        let (scheme, rest) = self.target.split_at_checked(7)?;
        let rest = if scheme.eq_ignore_ascii_case(b"http://") {
            rest
        } else if scheme.eq_ignore_ascii_case(b"https:/") {
            rest.strip_prefix(b"/")?
        } else {
            return None;
        };
        let end = rest
            .iter()
            .position(|octet| matches!(octet, b'/' | b'?' | b'#') || octet.is_ascii_whitespace())
            .unwrap_or(rest.len());
        let authority = &rest[..end];
        // User information is no part of the host (RFC 3986, section 3.2.1).
        let user = authority.iter().rposition(|octet| *octet == b'@');
        Some(user.map_or(authority, |place| &authority[place + 1..]))
    }
}

/// What is before the version at the end of a request line, and whether there is one. `HTTP/1.1`
/// is looked for without the space that should be before it.
fn split_version(line: &[u8]) -> Result<(&[u8], bool), Failure> {
    let Some(slash) = line.iter().rposition(|octet| *octet == b'/') else {
        return Ok((line, false));
    };
    let number = &line[slash + 1..];
    let is_number = number.len() <= 3
        && number.first().is_some_and(u8::is_ascii_digit)
        && number
            .iter()
            .all(|octet| octet.is_ascii_digit() || *octet == b'.');
    if !is_number {
        return Ok((line, false));
    }
    let before = &line[..slash];
    if let Some((before, word)) = before.split_at_checked(slash.saturating_sub(4))
        && word.eq_ignore_ascii_case(b"HTTP")
    {
        return if matches!(number[0], b'0' | b'1') && !before.is_empty() {
            Ok((before, true))
        } else if before.is_empty() {
            // A response.
            Err(Failure::Malformed)
        } else {
            Err(Failure::Unsupported)
        };
    }
    let protocol = before
        .iter()
        .rposition(u8::is_ascii_whitespace)
        .map_or(before, |place| &before[place + 1..]);
    if matches!(protocol, b"RTSP" | b"SIP" | b"ICAP") {
        return Err(Failure::Unsupported);
    }
    Ok((line, false))
}

/// The line up to the first line feed, without it and a carriage return, and what is behind.
fn split_line(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = octets.iter().position(|octet| *octet == b'\n')?;
    let line = &octets[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &octets[end + 1..]))
}

struct Headers<'a> {
    rest: &'a [u8],
}

enum Next<'a> {
    Header(Header<'a>),
    /// The empty line behind the headers.
    End,
    /// What is there ends within a header.
    More,
}

impl<'a> Headers<'a> {
    fn next(&mut self) -> Next<'a> {
        let Some((line, rest)) = split_line(self.rest) else {
            return Next::More;
        };
        if line.is_empty() {
            return Next::End;
        }
        // Lines that start with a space belong to the one before (RFC 9112, section 5.2).
        let mut end = line.len();
        let mut behind = rest;
        loop {
            match behind.first() {
                None => return Next::More,
                Some(b' ' | b'\t') => {
                    let Some((_, rest)) = split_line(behind) else {
                        return Next::More;
                    };
                    behind = rest;
                    end = self.rest.len() - behind.len();
                }
                Some(_) => break,
            }
        }
        let lines = &self.rest[..end];
        self.rest = behind;
        Next::Header(Header { lines })
    }
}

/// A header with the lines that continue it.
struct Header<'a> {
    lines: &'a [u8],
}

impl<'a> Header<'a> {
    fn split(&self) -> Option<(&'a [u8], &'a [u8])> {
        let colon = self.lines.iter().position(|octet| *octet == b':')?;
        Some((
            self.lines[..colon].trim_ascii(),
            self.lines[colon + 1..].trim_ascii(),
        ))
    }

    fn is(&self, name: &[u8]) -> bool {
        self.split()
            .is_some_and(|(written, _)| written.eq_ignore_ascii_case(name))
    }

    /// The value, with a space where it goes on in another line.
    fn value(&self) -> Vec<u8> {
        let value = self.split().map_or(&[][..], |(_, value)| value);
        let mut whole = Vec::with_capacity(value.len());
        for line in value.split(|octet| *octet == b'\n') {
            if !whole.is_empty() {
                whole.push(b' ');
            }
            whole.extend_from_slice(line.trim_ascii());
        }
        whole
    }
}

/// The host, if it is one, and the port behind it.
fn host_and_port(authority: &[u8]) -> (Option<String>, Option<u16>) {
    let (host, port) = match authority.iter().rposition(|octet| *octet == b':') {
        // An IPv6 address is in brackets (RFC 3986, section 3.2.2). Where it is not, it is taken
        // whole: which of its colons would be the port's, nobody can tell.
        Some(place)
            if authority[..place].contains(&b':') && !authority[..place].ends_with(b"]") =>
        {
            (authority, &[][..])
        }
        Some(place) => (&authority[..place], &authority[place + 1..]),
        None => (authority, &[][..]),
    };
    match name::host(host) {
        Some(host) => {
            let port = str::from_utf8(port).ok().and_then(|port| port.parse().ok());
            (Some(host), port)
        }
        None => (None, None),
    }
}
