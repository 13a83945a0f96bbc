//! HTTP/1 requests (RFC 9112, section 3).

use super::{Found, Place, Text, is_below, is_zero, lower};
use crate::{name::NAME_CAPACITY, packet::Packet};

/// Bytes in which the field `Host` has to begin: the longest head of a request that servers accept (nginx and
/// Apache 8 KiB).
pub const SEARCHED: usize = 8_192;

/// The most bytes that are looked at at a time.
const SEARCHED_AT_ONCE: usize = 256;

/// The longest method that is looked for, and the space behind it.
const LONGEST_METHOD: usize = 12;

/// How far the field `Host` was looked for: the place of the next byte, the last ones before it, and
/// whether the search is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search(u64);

impl Search {
    /// Nothing was looked at.
    pub const START: Self = Self(0);

    const LAST_BITS: u32 = 40;
    const LAST: u64 = (1 << Self::LAST_BITS) - 1;
    const OVER: u64 = 1 << 63;

    /// The place of the next byte.
    #[inline(always)]
    pub const fn at(self) -> usize {
        ((self.0 & !Self::OVER) >> Self::LAST_BITS) as usize
    }

    /// Whether the search is over: the field is found, or known to be missing.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        self.0 & Self::OVER != 0
    }

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The search with this number.
    #[inline(always)]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Where the host stands that the field `Host` names.
pub fn host<P: Packet + ?Sized>(stream: &P) -> Place {
    let mut before = Search::START;
    loop {
        let search = search(stream, before);
        if search.is_over() {
            return found(stream, search);
        }
        if search == before {
            return Place::Unknown;
        }
        before = search;
    }
}

/// Looks for the field `Host`, as far as the bytes are there and within the first [`SEARCHED`]. Gives the same
/// search where the next byte is not there.
///
/// Fields that go on in another line, and blanks around the name of a field (RFC 9112, sections 5.1 and 5.2),
/// are not looked through: some servers accept them and some do not.
#[inline(always)]
pub fn search<P: Packet + ?Sized>(stream: &P, search: Search) -> Search {
    let mut last = search.0 & Search::LAST;
    let mut at = search.at();
    let mut stops = 0;
    let mut done = 0;
    while done < SEARCHED_AT_ONCE && stops == 0 {
        let Some([octet]) = stream.load::<1>(at + done) else {
            break;
        };
        let begins_line = is_zero(last & 0xff ^ LINE_END);
        let ends_field = is_zero(last & Search::LAST ^ FIELD);
        let is_blank = is_below(octet, b' ' + 1);
        // One branch for all that ends the search: the verifier goes both ways of each, at every octet.
        stops = begins_line & is_blank | ends_field & (is_blank | is_zero((octet ^ b':') as u64));
        last = last << 8 | lower(octet) as u64;
        done += 1;
    }
    at = stream.forget(at + done, last);
    if stops == 0 && at >= SEARCHED {
        return search;
    }
    Search(
        last & Search::LAST
            | (at as u64) << Search::LAST_BITS
            | if stops != 0 { Search::OVER } else { 0 },
    )
}

/// The beginning of the field, in lower case.
const FIELD: u64 = u64::from_be_bytes(*b"\0\0\0\nhost");
const LINE_END: u64 = b'\n' as u64;

/// The result of a search that is over. The next byte behind it is looked at once more.
#[inline(always)]
pub fn found<P: Packet + ?Sized>(stream: &P, search: Search) -> Place {
    let last = search.0 & Search::LAST;
    let at = search.at();
    match (last >> 8 & 0xff, last as u8) {
        (LINE_END, b'\n') => Place::Nowhere,
        (LINE_END, b'\r') if stream.load::<1>(at) == Some(*b"\n") => Place::Nowhere,
        (_, b':') => Place::At(at),
        _ => Place::Unknown,
    }
}

/// How far the end of a request's head was looked for: the place of the next byte, and the last ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// The place of the next byte: behind the head, where it ended.
    pub at: usize,
    /// The last eight bytes before it, in lower case.
    pub last: u64,
}

/// The result of looking for the end of a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum End {
    /// The next byte is not there, or stands in another piece.
    More = 0,
    /// The request is over: another may follow at once.
    Over = 1,
    /// A body may follow, of which nobody here reads the length.
    Body = 2,
}

/// Looks for the end of a request's head, at most `most` bytes. Every field that says that a body follows (RFC 9112,
/// section 6) is taken for one, wherever its name stands.
#[inline(always)]
pub fn rest<P: Packet + ?Sized>(stream: &P, rest: &mut Rest, most: usize) -> End {
    const CONTENT_LENGTH: u64 = u64::from_be_bytes(*b"ontent-l");
    const TRANSFER_ENCODING: u64 = u64::from_be_bytes(*b"ransfer-");
    const UPGRADE: u64 = u64::from_be_bytes(*b"upgrade:");
    const LINES: u64 = b'\n' as u64 * 0x101;
    const EMPTY_LINE: u64 = u64::from_be_bytes(*b"\0\0\0\0\0\n\r\n");

    let mut last = rest.last;
    let mut done = 0;
    let mut over = 0;
    let mut body = 0;
    while done < most {
        let Some([byte]) = stream.load::<1>(rest.at + done) else {
            break;
        };
        last = last << 8 | lower(byte) as u64;
        over |= is_none(last & 0xffff ^ LINES) | is_none(last & 0xff_ffff ^ EMPTY_LINE);
        body |= is_none(last ^ CONTENT_LENGTH)
            | is_none(last ^ TRANSFER_ENCODING)
            | is_none(last ^ UPGRADE);
        done += 1;
        // One branch for all that ends the search: the verifier goes both ways of each, at every byte.
        if over | body != 0 {
            break;
        }
    }
    rest.at = stream.forget(rest.at + done, last);
    rest.last = last;
    match (body, over) {
        (0, 0) => End::More,
        (0, _) => End::Over,
        _ => End::Body,
    }
}

/// 1 where a number is 0, 0 where it is another. Without a branch, as [`is_zero`], which takes numbers below 2^63.
#[inline(always)]
const fn is_none(number: u64) -> u64 {
    ((number | number.wrapping_neg()) >> 63) ^ 1
}

/// Where the host stands in the request's target, where it has one: a request to a proxy (RFC 9112,
/// section 3.2.2), which stands above the field, and `CONNECT` (section 3.2.3).
#[inline(always)]
pub fn target<P: Packet + ?Sized>(stream: &P) -> Place {
    const CONNECT: [u8; 8] = *b"connect ";
    const HTTP: [u8; 7] = *b"http://";
    const HTTPS: [u8; 8] = *b"https://";

    if let Some(method) = stream.load::<8>(0)
        && method.map(|octet| octet.to_ascii_lowercase()) == CONNECT
    {
        return Place::At(CONNECT.len());
    }
    let mut at = 0;
    while at < LONGEST_METHOD {
        let Some([octet]) = stream.load::<1>(at) else {
            return Place::Unknown;
        };
        at += 1;
        if octet > b' ' {
            continue;
        }
        if octet != b' ' {
            return Place::Unknown;
        }
        if let Some([b'/' | b'*']) = stream.load::<1>(at) {
            return Place::Nowhere;
        }
        let Some(start) = stream.load::<8>(at) else {
            return Place::Unknown;
        };
        let start = start.map(|octet| octet.to_ascii_lowercase());
        if start == HTTPS {
            return Place::At(at + HTTPS.len());
        }
        if start[..7] == HTTP {
            return Place::At(at + HTTP.len());
        }
        return Place::Unknown;
    }
    Place::Unknown
}

/// The most blanks before a host.
const MAX_BLANKS: usize = 8;

/// The octets that end a host, beside a port.
const ENDS: u64 = set(b"\t\r\n /?#");

/// Copies a host up to its port, its path or its end.
///
/// The host is unread where a user's name stands before it, which clients no longer send (RFC 9110, section
/// 4.2.4), where no port follows the colon, and where it is empty: it may stand in the next line.
#[inline(always)]
pub fn name<P: Packet + ?Sized>(stream: &P, place: Place, text: &mut Text) -> Found {
    match copy_name(stream, place, text) {
        Found::Name => text.settle(),
        found => found,
    }
}

/// Copies a host, as [`name`] does. [`Text::settle`] makes a host name of it.
#[inline(always)]
pub fn copy_name<P: Packet + ?Sized>(stream: &P, place: Place, text: &mut Text) -> Found {
    const COLON: u64 = set(b":");
    /// The octets that end a host, and those that no host has: blanks and all below them.
    const STOPS: u64 = ENDS | COLON | ((1 << b' ') - 1);
    /// Set in letters, not in digits and dots.
    const OF_LETTERS: u8 = 0x40;

    let mut from = match place {
        Place::At(at) => at,
        Place::Nowhere => return Found::Nameless,
        Place::Unknown => return Found::Unread,
    };
    let mut blanks = 0;
    while blanks < MAX_BLANKS {
        let Some([octet]) = stream.load::<1>(from) else {
            return Found::Unread;
        };
        if octet != b' ' && octet != b'\t' {
            break;
        }
        from = stream.forget(from + 1, octet as u64);
        blanks += 1;
    }
    let mut all = 0;
    let mut last = b'@';
    let mut done = 0;
    while done < NAME_CAPACITY {
        let Some([octet]) = stream.load::<1>(from + done) else {
            return Found::Unread;
        };
        let is_listed = STOPS >> (octet & 63) & is_below(octet, 64);
        if is_listed | is_zero((octet ^ b'@') as u64) != 0 {
            last = octet;
            break;
        }
        all |= octet;
        text.put(done, octet);
        done += 1;
    }
    let done = stream.forget(done, last as u64);
    text.end(done);
    let is_end = last < 64 && (ENDS | COLON) >> last & 1 != 0;
    if !is_end || text.len == 0 {
        return Found::Unread;
    }
    if text.octets[0] == b'[' {
        // An address (RFC 3986, section 3.2.2).
        return Found::Nameless;
    }
    let behind = stream.forget(from + done, last as u64);
    let is_whole = match last {
        b':' => is_port(stream, behind + 1),
        _ => is_end_at(stream, behind),
    };
    if !is_whole {
        return Found::Unread;
    }
    // A host that ends in a digit and has no letters is an address too (WHATWG URL, section 3.5).
    let last = text.octets[(text.len as usize).wrapping_sub(1) % NAME_CAPACITY];
    match last.is_ascii_digit() && all & OF_LETTERS == 0 {
        true => Found::Nameless,
        false => Found::Name,
    }
}

/// Whether a host or a port ends before a place: a line ends there, a path begins, or blanks stand before the
/// end of the line or before the version. A field whose value goes on behind blanks names no host (RFC 9110,
/// section 7.2), and servers do not agree on what it names.
#[inline(always)]
fn is_end_at<P: Packet + ?Sized>(stream: &P, at: usize) -> bool {
    const VERSION_BEGINS: u8 = b'H';

    let mut blanks = 0;
    while blanks < MAX_BLANKS {
        let Some([octet]) = stream.load::<1>(at + blanks) else {
            return false;
        };
        if octet != b' ' && octet != b'\t' {
            let is_end = octet < 64 && ENDS >> octet & 1 != 0;
            return match blanks {
                0 => is_end,
                _ => matches!(octet, b'\r' | b'\n' | VERSION_BEGINS),
            };
        }
        blanks += 1;
    }
    false
}

/// Whether a port begins at a place, and ends.
#[inline(always)]
fn is_port<P: Packet + ?Sized>(stream: &P, at: usize) -> bool {
    const LONGEST_PORT: usize = 5;

    let mut digits = 0;
    while digits <= LONGEST_PORT {
        let Some([octet]) = stream.load::<1>(at + digits) else {
            return false;
        };
        if !octet.is_ascii_digit() {
            let behind = stream.forget(at + digits, octet as u64);
            return digits > 0 && is_end_at(stream, behind);
        }
        digits += 1;
    }
    false
}

/// The set of some octets below 64.
const fn set(octets: &[u8]) -> u64 {
    let mut set = 0;
    let mut at = 0;
    while at < octets.len() {
        set |= 1 << octets[at];
        at += 1;
    }
    set
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[track_caller]
    fn check(request: &str, place: fn(&[u8]) -> Place, found: Found, text: &str) {
        let mut said = Text::default();
        let place = Place::from_number(place(request.as_bytes()).number());
        assert_eq!(
            name(request.as_bytes(), place, &mut said),
            found,
            "{request}"
        );
        if found == Found::Name {
            assert_eq!(said.as_octets(), text.as_bytes(), "{request}");
        }
    }

    #[test]
    fn a_request_without_a_body_is_over_with_its_head() {
        for (stream, end, at) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET"[..], End::Over, 27),
            (b"GET / HTTP/1.0\n\nGET", End::Over, 16),
            (b"GET / HTTP/1.1\r\nHost: a\r\n", End::More, 25),
            (
                b"PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nGET",
                End::Body,
                25,
            ),
            (
                b"PUT / HTTP/1.1\r\nTRANSFER-encoding: chunked\r\n\r\n",
                End::Body,
                25,
            ),
            (
                b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
                End::Body,
                24,
            ),
        ] {
            let mut state = Rest::default();
            assert_eq!(rest(stream, &mut state, 500), end);
            assert_eq!(state.at, at, "{}", stream.escape_ascii());
            let mut state = Rest::default();
            let mut result = End::More;
            for _ in 0..40 {
                if result == End::More {
                    result = rest(stream, &mut state, 3);
                }
            }
            assert_eq!((result, state.at), (end, at));
        }
    }

    #[test]
    fn the_field_names_the_host() {
        use Found::{Name, Nameless, Unread};
        check(
            "GET / HTTP/1.1\r\nHost: A.Example\r\n\r\n",
            host,
            Name,
            "a.example",
        );
        check(
            "GET / HTTP/1.1\r\nhost:a.example:80\r\n",
            host,
            Name,
            "a.example",
        );
        check(
            "GET / HTTP/1.1\nHOST: \t a.example. \t\n",
            host,
            Name,
            "a.example",
        );
        check(
            "GET / HTTP/1.1\r\nX-Host: b\r\nHost: a\r\n",
            host,
            Name,
            "a",
        );
        check("GET / HTTP/1.1\r\nHost: a.exam", host, Unread, "");
        check("GET / HTTP/1.0\r\n\r\n", host, Nameless, "");
        check(
            "GET / HTTP/1.1\r\nHost: 192.0.2.1:80\r\n",
            host,
            Nameless,
            "",
        );
        check(
            "GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n",
            host,
            Nameless,
            "",
        );
        check("GET / HTTP/1.1\r\nHost: nas1\r\n", host, Name, "nas1");
        check("GET / HT", host, Unread, "");
    }

    #[test]
    fn a_field_that_is_not_plain_is_unread() {
        for fields in [
            "Host:\r\n",
            "Host:\r\n a.example\r\n",
            "Host:          a.example\r\n",
            "Host: \x0ca.example\r\n",
            "Host: a.example\0\r\n",
            "Host: a:b@c.example\r\n",
            "Host: a:80@c.example\r\n",
            "Host: a.example:\r\n",
            "Host: a.example:123456\r\n",
            "Host: a.example b.example\r\n",
            "Host: a.example \t20@c.example\r\n",
            "Host: a.example:80 b.example\r\n",
            "Host: 2001:db8::1\r\n",
            " Host: a.example\r\n",
            "X: y\r\n\tz\r\nHost: a.example\r\n",
            "\rHost: a.example\r\n",
            "Host : b.example\r\nHost: a.example\r\n",
            "Host\r\n : a.example\r\n",
        ] {
            let request = format!("GET / HTTP/1.1\r\n{fields}\r\n");
            check(&request, host, Found::Unread, "");
        }
    }

    #[test]
    fn what_lies_behind_the_fields_is_not_looked_at() {
        for end in ["\n\n", "\n\r\n", "\r\n\n", "\r\n\r\n"] {
            let request = format!("GET / HTTP/1.1{end}\nHost: a.example\r\n");
            check(&request, host, Found::Nameless, "");
        }
    }

    #[test]
    fn a_target_may_name_it() {
        use Found::{Name, Nameless, Unread};
        check(
            "GET http://A.example/x HTTP/1.1\r\n",
            target,
            Name,
            "a.example",
        );
        check(
            "GET HTTP://a.example:80 HTTP/1.1\r\n",
            target,
            Name,
            "a.example",
        );
        check(
            "GET http://b.example@a.example/ HTTP/1.1",
            target,
            Unread,
            "",
        );
        check(
            "CONNECT a.example:443 HTTP/1.1\r\n",
            target,
            Name,
            "a.example",
        );
        check("GET /http://a.example HTTP/1.1\r\n", target, Nameless, "");
        check("OPTIONS * HTTP/1.1\r\n", target, Nameless, "");
        check(
            "GET https://A.example/ HTTP/1.1\r\n",
            target,
            Name,
            "a.example",
        );
        check(
            "CONNECT  a.example:443 HTTP/1.1\r\n",
            target,
            Name,
            "a.example",
        );
        check("GET htt", target, Unread, "");
        check("NOMETHODATALL", target, Unread, "");
    }

    #[test]
    fn a_target_that_is_not_plain_is_unread() {
        for target_of in [
            "GET  http://a.example/ HTTP/1.1",
            "GET\thttp://a.example/ HTTP/1.1",
            "CONNECT\tab HTTP/1.1",
            "GET http://b:c@a.example/ HTTP/1.1",
            "GET http://b:80@a.example/ HTTP/1.1",
            "GET http:///x HTTP/1.1",
            "GET https:/a.example/ HTTP/1.1",
            "GET ftp://a.example/ HTTP/1.1",
            "GET a.example HTTP/1.1",
        ] {
            let request = format!("{target_of}\r\nHost: c.example\r\n\r\n");
            check(&request, target, Found::Unread, "");
        }
    }
}
