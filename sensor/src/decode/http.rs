//! HTTP/1 requests (RFC 9112).
//!
//! Written by hand, because every request that some server answers must give its host, and because a strict
//! parser rejects the whole head for a fault in a line that does not matter here: bare line feeds, a byte
//! beyond ASCII, a NUL in another header, a folded line.

use super::{Failure, Progress, name, text};

/// The most octets of a stream in which a request's host is looked for.
pub const MAX_HEAD: usize = 8192;

/// The most octets of a head that is read to its end.
pub const MAX_WHOLE_HEAD: usize = super::stream::MAX_STREAM;

/// The most octets of the line before a chunk.
const MAX_CHUNK_LINE: usize = 1024;

/// The longest `User-Agent` that is kept, in octets.
pub const MAX_USER_AGENT: usize = 256;

/// The longest method, in octets.
const MAX_METHOD: usize = 32;

/// The most octets of empty lines and spaces before a request (RFC 9112, section 2.2: a server
/// should ignore at least one such line).
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

/// The facts of a request, above all its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The method as it was sent, at most 32 letters, digits, hyphens and underscores.
    pub method: String,
    /// The host that the first `Host` header names, without the port.
    pub host: Option<String>,
    /// The port that the `Host` header names.
    pub port: Option<u16>,
    /// The host that the request line names: a target in absolute form, or of `CONNECT`. It overrides
    /// [`Self::host`] (RFC 9112, section 3.2.2).
    pub target_host: Option<String>,
    /// The port that the request line names.
    pub target_port: Option<u16>,
    /// Whether the one of the two that counts names something that is no host name.
    pub no_host_name: bool,
    /// The first `User-Agent`, if it came together with the field that names the host: text for people, at most
    /// [`MAX_USER_AGENT`] bytes.
    pub user_agent: Option<String>,
}

impl Request {
    /// The host that the request is for.
    pub fn name(&self) -> Option<&str> {
        self.target_host.as_deref().or(self.host.as_deref())
    }

    /// A request of which only the line is known.
    fn of(line: &RequestLine<'_>) -> Self {
        let mut request = Self {
            method: String::from_utf8_lossy(line.method).into_owned(),
            ..Self::default()
        };
        if let Some(authority) = line.authority() {
            (request.target_host, request.target_port) = name::authority(authority);
            request.no_host_name = request.target_host.is_none() && !authority.is_empty();
        }
        request
    }

    /// Takes the value of the first field `Host`. An empty one names none (RFC 9112, section 3.2).
    fn take_host(&mut self, value: &[u8]) {
        (self.host, self.port) = name::authority(value);
        if self.target_host.is_none() && !value.is_empty() {
            self.no_host_name |= self.host.is_none();
        }
    }
}

/// A whole head, and the kind of body that follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its content.
    pub request: Request,
    /// Its bytes, with those before it and the empty line after it.
    pub len: usize,
    /// The body.
    pub body: Body,
}

/// The bytes between a request's head and the next request (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes.
    Sized(u64),
    /// Chunks, each after its size (section 7.1).
    Chunked,
    /// Another protocol, if the server accepts it (RFC 9110, section 7.8); else a request.
    Other,
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
/// [`Failure::Malformed`] for bytes that are no request, [`Failure::Unsupported`] for a protocol that only
/// looks like HTTP/1 (RTSP, SIP, HTTP/2), [`Failure::Limit`] if [`MAX_HEAD`] bytes name no host and have no
/// end.
pub fn request(stream: &[u8]) -> Result<Progress<Request>, Failure> {
    let head = &stream[..stream.len().min(MAX_HEAD)];
    match read(skip_empty(head))? {
        Progress::Incomplete if stream.len() >= MAX_HEAD => Err(Failure::Limit),
        progress => Ok(progress),
    }
}

/// Reads the head of a request to its end.
///
/// # Errors
///
/// As [`request`], and [`Failure::Malformed`] if the kind of its body is not told, or told in two ways;
/// [`Failure::Limit`] if it does not end in [`MAX_WHOLE_HEAD`] bytes.
pub fn head(stream: &[u8]) -> Result<Progress<Head>, Failure> {
    let start = skip_empty(stream);
    let incomplete = || match stream.len() >= MAX_WHOLE_HEAD {
        true => Err(Failure::Limit),
        false => Ok(Progress::Incomplete),
    };
    let Progress::Complete((line, rest)) = RequestLine::read(start)? else {
        return incomplete();
    };
    let mut request = Request::of(&line);
    let mut framing = Framing::default();
    let mut named = false;
    let mut headers = Headers { rest };
    loop {
        match headers.next() {
            Next::Header(header) if header.is(b"host") && !named => {
                request.take_host(&header.value());
                named = true;
            }
            Next::Header(header) => framing.take(&header)?,
            Next::End => break,
            Next::More => return incomplete(),
        }
    }
    let other = framing.upgrades || request.method.eq_ignore_ascii_case("CONNECT");
    Ok(Progress::Complete(Head {
        request,
        len: stream.len() - headers.rest.len(),
        body: framing.body(other)?,
    }))
}

/// Reads the line before a chunk: its size, and the octets of the line.
///
/// # Errors
///
/// [`Failure::Malformed`] where there is no size, [`Failure::Limit`] where the line does not end.
pub fn chunk(stream: &[u8]) -> Result<Progress<(u64, usize)>, Failure> {
    let Some((line, rest)) = split_line(stream) else {
        return match stream.len() >= MAX_CHUNK_LINE {
            true => Err(Failure::Limit),
            false => Ok(Progress::Incomplete),
        };
    };
    // Behind a semicolon stand extensions (RFC 9112, section 7.1.1).
    let size = line.split(|octet| *octet == b';').next();
    let size = str::from_utf8(size.unwrap_or_default().trim_ascii());
    let size = size.ok().filter(|size| !size.starts_with('+'));
    match size.map(|size| u64::from_str_radix(size, 16)) {
        Some(Ok(size)) => Ok(Progress::Complete((size, stream.len() - rest.len()))),
        _ => Err(Failure::Malformed),
    }
}

/// The octets of a stream's first line, with its end; `None` where it has none yet.
pub fn line(stream: &[u8]) -> Option<usize> {
    split_line(stream).map(|(_, rest)| stream.len() - rest.len())
}

/// The facts of the headers about the body.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    upgrades: bool,
}

impl Framing {
    fn take(&mut self, header: &Header<'_>) -> Result<(), Failure> {
        if header.is(b"content-length") {
            let value = header.value();
            let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let text = str::from_utf8(&value).ok().filter(|_| is_number);
            let length = text.and_then(|text| text.parse().ok());
            if length.is_none() || self.length.is_some() && self.length != length {
                return Err(Failure::Malformed);
            }
            self.length = length;
        } else if header.is(b"transfer-encoding") {
            let value = header.value();
            let last = value.rsplit(|octet| *octet == b',').next();
            let last = last.unwrap_or_default().trim_ascii();
            if !last.eq_ignore_ascii_case(b"chunked") {
                return Err(Failure::Malformed);
            }
            self.chunked = true;
        } else if header.is(b"upgrade") {
            self.upgrades = true;
        }
        Ok(())
    }

    fn body(&self, other: bool) -> Result<Body, Failure> {
        match (self.chunked, self.length) {
            // One server believes the one, another the other (section 6.3, point 3).
            (true, Some(_)) => Err(Failure::Malformed),
            (true, None) => Ok(Body::Chunked),
            (false, None | Some(0)) if other => Ok(Body::Other),
            (false, length) => Ok(Body::Sized(length.unwrap_or(0))),
        }
    }
}

fn read(head: &[u8]) -> Result<Progress<Request>, Failure> {
    let Progress::Complete((line, rest)) = RequestLine::read(head)? else {
        return Ok(Progress::Incomplete);
    };
    let mut request = Request::of(&line);

    let mut headers = Headers { rest };
    let mut named = false;
    let whole = loop {
        match headers.next() {
            Next::Header(header) => {
                if header.is(b"host") && !named {
                    request.take_host(&header.value());
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
        .take_while(|octet| matches!(octet, b'\r' | b'\n' | b' ' | b'\t'))
        .count();
    &stream[empty..]
}

/// Whether the bytes may be the start of a request line whose end has not come: a method, known or not,
/// and what can be a target behind it.
pub fn may_begin(bytes: &[u8]) -> bool {
    const SCHEMES: [&[u8]; 2] = [b"http://", b"https://"];
    let line = skip_empty(bytes);
    let word = line
        .iter()
        .position(|octet| octet.is_ascii_whitespace() || matches!(octet, b'/' | b'*'))
        .unwrap_or(line.len());
    let (method, target) = line.split_at(word);
    let target = target.trim_ascii_start();
    let is_target = is_target(target)
        || SCHEMES.iter().any(|scheme| {
            let there = target.len().min(scheme.len());
            target[..there].eq_ignore_ascii_case(&scheme[..there])
        });
    (1..MAX_HEAD).contains(&line.len())
        && !line.contains(&b'\n')
        && RequestLine::may_become(line)
        && is_word(method)
        && is_target
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

/// Whether it is the target of a request, and not the argument of a command that has the same name in another
/// protocol (`get key`).
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
    /// The line, and the bytes after it.
    fn read(head: &'a [u8]) -> Result<Progress<(Self, &'a [u8])>, Failure> {
        let Some((line, rest)) = split_line(head) else {
            return if Self::may_become(head) {
                Ok(Progress::Incomplete)
            } else {
                Err(Failure::Malformed)
            };
        };
        let line = line.trim_ascii_end();
        if !Self::may_become(line) {
            return Err(Failure::Malformed);
        }
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

    /// Whether bytes that start so may be a request line: a word, and no control characters.
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
        Some(&rest[..end])
    }
}

/// The part of a request line before the version at its end, and whether there is a version. `HTTP/1.1` is
/// found even without the space that should be before it.
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
    /// The bytes end within a header.
    More,
}

impl<'a> Headers<'a> {
    fn next(&mut self) -> Next<'a> {
        let Some((line, rest)) = split_line(self.rest) else {
            return Next::More;
        };
        if line.is_empty() {
            self.rest = rest;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(stream: impl AsRef<[u8]>) -> Request {
        match request(stream.as_ref()) {
            Ok(Progress::Complete(request)) => request,
            other => panic!("{other:?}: {}", String::from_utf8_lossy(stream.as_ref())),
        }
    }

    #[test]
    fn a_head_says_what_follows_it() {
        let body = |fields: &str| {
            let stream = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\nrest");
            match head(stream.as_bytes())? {
                Progress::Complete(head) => {
                    assert_eq!(&stream[head.len..], "rest");
                    assert_eq!(head.request.name(), Some("a.test"));
                    Ok(head.body)
                }
                Progress::Incomplete => panic!("{stream}"),
            }
        };
        assert_eq!(body(""), Ok(Body::Sized(0)));
        assert_eq!(body("Content-Length: 7\r\n"), Ok(Body::Sized(7)));
        assert_eq!(
            body("Content-Length: 7\r\ncontent-length:7\r\n"),
            Ok(Body::Sized(7))
        );
        assert_eq!(body("Transfer-Encoding: Chunked\r\n"), Ok(Body::Chunked));
        assert_eq!(
            body("Transfer-Encoding: gzip, chunked\r\n"),
            Ok(Body::Chunked)
        );
        assert_eq!(body("Upgrade: websocket\r\n"), Ok(Body::Other));
        for fields in [
            "Content-Length: 7\r\nContent-Length: 8\r\n",
            "Content-Length: +7\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
        ] {
            assert_eq!(body(fields), Err(Failure::Malformed), "{fields}");
        }
        let endless = [b"GET / HTTP/1.1\r\nX: ", &[b'x'; MAX_WHOLE_HEAD][..]].concat();
        assert_eq!(head(&endless), Err(Failure::Limit));
        assert_eq!(head(&endless[..100]), Ok(Progress::Incomplete));
    }

    #[test]
    fn a_chunk_has_its_size_before_it() {
        assert_eq!(chunk(b"1aF\r\nx"), Ok(Progress::Complete((0x1af, 5))));
        assert_eq!(chunk(b"0;x=y\n"), Ok(Progress::Complete((0, 6))));
        assert_eq!(chunk(b"1a"), Ok(Progress::Incomplete));
        for line in [&b"\r\n"[..], b"+1\r\n", b"G\r\n", b"fffffffffffffffff\r\n"] {
            assert_eq!(chunk(line), Err(Failure::Malformed));
        }
        assert_eq!(chunk(&[b'1'; MAX_CHUNK_LINE]), Err(Failure::Limit));
    }

    #[test]
    fn a_request_as_a_phone_sends_it() {
        let stream = "POST /track/v4 HTTP/1.1\r\nContent-Type: application/octet-stream\r\n\
                      User-Agent: Dalvik/2.1.0 (Linux; Redmi Note 8)\r\nHost: Tracking.MIUI.com:8080\r\n\
                      Content-Length: 5\r\n\r\nhello";
        let expected = Request {
            method: "POST".to_owned(),
            host: Some("tracking.miui.com".to_owned()),
            port: Some(8080),
            target_host: None,
            target_port: None,
            user_agent: Some("Dalvik/2.1.0 (Linux; Redmi Note 8)".to_owned()),
            no_host_name: false,
        };
        assert!(looks_like(stream.as_bytes()));
        assert_eq!(read(stream), expected);
        assert_eq!(expected.name(), Some("tracking.miui.com"));
    }

    #[test]
    fn the_host_is_found_in_whatever_a_server_answers() {
        for stream in [
            "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET / HTTP/1.0\nHost: a.example\n\n",
            "\r\n\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "get / http/1.1\r\nhost: a.example\r\n\r\n",
            "GET / HTTP/1.1\r\nhOsT:a.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\ta.example \t\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n a.example\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a.example\r\n\r\n",
            "GET / HTTP/1.1\r\nX: 1\r\n\tHost: b.example\r\nHost: a.example\r\n\r\n",
            "GET / HTTP/1.1\r\nno header\r\nHost: a.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example.\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-type:\0x\r\nX-\u{ff}: \u{1}\r\nHost: a.example\r\n\r\n",
            "GET            /long HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /with space HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET\t/\tHTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET / HTTP/1.\r\nHost: a.example\r\n\r\n",
            "GET /HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /\r\nHost: a.example\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "OPTIONS HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "M-SEARCH * HTTP/1.1\r\nHOST: a.example\r\n\r\n",
            "QUERY /users HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "CCM_POST / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: the rest is to come",
        ] {
            assert!(looks_like(stream.as_bytes()), "{stream:?}");
            assert_eq!(
                read(stream).host.as_deref(),
                Some("a.example"),
                "{stream:?}"
            );
        }
    }

    #[test]
    fn the_host_and_its_port() {
        for (value, host, port) in [
            ("a.example:8080", Some("a.example"), Some(8080)),
            ("a.example:", Some("a.example"), None),
            ("a.example:99999", Some("a.example"), None),
            ("192.0.2.1:1234", Some("192.0.2.1"), Some(1234)),
            ("[2001:DB8::1]", Some("2001:db8::1"), None),
            ("[2001:db8::1]:443", Some("2001:db8::1"), Some(443)),
            ("2001:db8::1", Some("2001:db8::1"), None),
            ("", None, None),
            ("a.example, b.example", None, None),
            ("user@a.example", Some("a.example"), None),
            ("a b.example", None, None),
            ("<script>", None, None),
            ("m\u{fc}nchen.example", None, None),
            (":80", None, None),
        ] {
            let read = read(format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n"));
            assert_eq!((read.host.as_deref(), read.port), (host, port), "{value:?}");
        }
        // A line that goes on elsewhere is one value, with a space between.
        assert_eq!(
            read("GET / HTTP/1.1\r\nHost: a\r\n .example\r\n\r\n").host,
            None
        );
    }

    #[test]
    fn the_request_line_wins_over_the_header() {
        for (line, host, port) in [
            ("GET http://B.example/x HTTP/1.1", Some("b.example"), None),
            (
                "GET HTTP://b.example:81?x HTTP/1.1",
                Some("b.example"),
                Some(81),
            ),
            (
                "GET https://me:pw@b.example/ HTTP/1.1",
                Some("b.example"),
                None,
            ),
            (
                "CONNECT b.example:443 HTTP/1.1",
                Some("b.example"),
                Some(443),
            ),
            ("CONNECT [::1]:443 HTTP/1.1", Some("::1"), Some(443)),
            ("GET /http://b.example/ HTTP/1.1", None, None),
            ("GET ftp://b.example/ HTTP/1.1", None, None),
            ("GET http:/// HTTP/1.1", None, None),
            ("CONNECT / HTTP/1.1", None, None),
        ] {
            let read = read(format!("{line}\r\nHost: a.example\r\n\r\n"));
            assert_eq!(
                (read.target_host.as_deref(), read.target_port),
                (host, port),
                "{line}"
            );
            assert_eq!(read.name(), Some(host.unwrap_or("a.example")), "{line}");
        }
    }

    #[test]
    fn a_request_without_a_host_is_complete_with_its_end() {
        for stream in ["GET /\r\n\r\n", "GET / HTTP/1.0\r\nAccept: */*\r\n\r\n"] {
            assert_eq!(read(stream).name(), None);
        }
    }

    #[test]
    fn the_user_agent_is_text_for_people() {
        let long = "x".repeat(1000);
        for (value, kept) in [
            ("a\u{1b}[0m\u{7f}b", Some("a[0mb")),
            ("", None),
            (long.as_str(), Some(&long[..MAX_USER_AGENT])),
        ] {
            let stream =
                format!("GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: {value}\r\n\r\n");
            assert_eq!(read(stream).user_agent.as_deref(), kept);
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (stream, failure) in [
            (
                &b"HTTP/1.1 200 OK\r\nHost: a.example\r\n\r\n"[..],
                Failure::Malformed,
            ),
            (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                Failure::Malformed,
            ),
            (
                b"\0\0GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
                Failure::Malformed,
            ),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Failure::Malformed),
            (b"EHLO a.example\r\n", Failure::Malformed),
            (b"220 mail.example ESMTP\r\n", Failure::Malformed),
            (b"get key\r\n", Failure::Malformed),
            (b"{\"jsonrpc\": \"2.0\"}\n", Failure::Malformed),
            (b"GETX / \r\n", Failure::Malformed),
            (b"GET \0 HTTP/1.1\r\n\r\n", Failure::Malformed),
            (
                b"DESCRIBE rtsp://a.example/ RTSP/1.0\r\n\r\n",
                Failure::Unsupported,
            ),
            (
                b"OPTIONS sip:a.example SIP/2.0\r\n\r\n",
                Failure::Unsupported,
            ),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Failure::Unsupported),
        ] {
            assert_eq!(request(stream), Err(failure), "{}", stream.escape_ascii());
            assert!(!looks_like(stream), "{}", stream.escape_ascii());
        }
        assert!(!looks_like(b""));
        assert!(!looks_like(b"GETTER"));
        assert!(!looks_like(b"PUT \x00\x01"));
        assert!(looks_like(b"PUT /the/start/of/a/path"));
    }

    #[test]
    fn the_head_is_bounded() {
        let endless = format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_HEAD));
        assert_eq!(request(endless.as_bytes()), Err(Failure::Limit));
        let start = "GET / HTTP/1.1\r\nCookie: ";
        let late = format!("{start}{}\r\nHost: a.example\r\n\r\n", "x".repeat(MAX_HEAD));
        assert_eq!(request(late.as_bytes()), Err(Failure::Limit));
        let fits = format!(
            "{start}{}\r\nHost: a.example\r\n\r\n",
            "x".repeat(MAX_HEAD - 100)
        );
        assert_eq!(read(fits).name(), Some("a.example"));
    }

    /// Checks that the facts of a stream do not depend on where its segments end.
    fn check_prefixes(stream: &[u8]) {
        let whole = request(stream);
        for length in 0..stream.len() {
            match (request(&stream[..length]), &whole) {
                (Ok(Progress::Incomplete), _) => {}
                (Ok(Progress::Complete(part)), Ok(Progress::Complete(whole))) => {
                    assert_eq!(part.name(), whole.name(), "{length}");
                    assert_eq!(part.method, whole.method);
                }
                (part, whole) => assert_eq!(&part, whole, "{length}"),
            }
        }
    }

    const STREAMS: [&str; 6] = [
        "\r\nGET / HTTP/1.1\r\nHost: a.example:80\r\nUser-Agent: x\r\n\r\nbody",
        "GET / HTTP/1.1\nX: y\n z\nHost:\n\ta.example\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\n .example\r\n\r\n",
        "CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "MADEUP /x HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET /\r\n\r\n",
    ];

    #[test]
    fn segments_do_not_matter() {
        for stream in STREAMS {
            check_prefixes(stream.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_safe(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = looks_like(&octets);
            if let Ok(Progress::Complete(request)) = request(&octets) {
                prop_assert!(request.method.len() <= MAX_METHOD);
            }
        }

        #[test]
        fn changed_requests_are_safe(
            stream in prop::sample::select(STREAMS.to_vec()),
            changes in prop::collection::vec(
                (any::<prop::sample::Index>(), prop::sample::select(b"\r\n \t:/H\0\xffa.".to_vec())),
                1..6,
            ),
        ) {
            let mut octets = stream.as_bytes().to_vec();
            for (place, octet) in changes {
                let place = place.index(octets.len());
                octets[place] = octet;
            }
            check_prefixes(&octets);
        }

        #[test]
        fn what_a_strict_parser_finds_is_found(
            method in "[A-Z]{1,12}",
            path in "/[!-~]{0,20}",
            names in prop::collection::vec("[!#-'*+.0-9A-Z^-z|~-]{1,12}", 0..6),
            values in prop::collection::vec("[ -~\t]{0,20}", 6),
            host in "[a-z0-9-]{1,10}(\\.[a-z]{1,5}){0,3}",
            place in 0usize..6,
        ) {
            let mut stream = format!("{method} {path} HTTP/1.1\r\n");
            for (at, value) in values.iter().enumerate() {
                if at == place {
                    stream += &format!("Host: {host}\r\n");
                }
                if let Some(name) = names.get(at) {
                    stream += &format!("{name}: {value}\r\n");
                }
            }
            stream += "\r\n";
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut oracle = httparse::Request::new(&mut headers);
            prop_assume!(oracle.parse(stream.as_bytes()).is_ok_and(|status| status.is_complete()));
            let said = oracle
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case("host"))
                .and_then(|header| name::host(header.value));
            let Ok(Progress::Complete(read)) = request(stream.as_bytes()) else {
                panic!("{stream:?}");
            };
            prop_assert_eq!(read.host, said);
            prop_assert_eq!(Some(read.method.as_str()), oracle.method);
        }
    }
}
