//! The prelude that a client may send before the stream that is meant: SOCKS, the PROXY protocol, a few lines
//! of text.

use super::{http, http2, reader::Reader, tls};

/// The longest line before a hello or HTTP, in bytes (RFC 5321, section 4.5.3.1.4).
const MAX_LINE: usize = 512;

/// The most lines of text before them.
const MAX_LINES: usize = 8;

/// The most messages of SOCKS and headers of the PROXY protocol before them: two proxies, each of
/// which asks for a password.
const MAX_MESSAGES: usize = 8;

/// The longest text of SOCKS 4, in bytes with the zero at its end.
const MAX_TEXT: usize = 256;

/// The most bytes behind the fixed part of a PROXY header, version 2.
const MAX_PROXY: usize = 4_096;

/// The prelude at the start of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prelude {
    /// So many bytes, after which the stream that is meant begins; 0 if it begins at once.
    Whole(usize),
    /// The start of a prelude whose end has not come.
    Begun,
}

/// The prelude of a client's stream, before the stream that is meant.
///
/// It is made of messages of SOCKS 5 (RFC 1928, sections 3 and 4; RFC 1929) and 4 (with the name of a host,
/// 4A), headers of the PROXY protocol in both versions, and lines of text, which count only if a TLS hello or
/// HTTP follows them.
pub fn prelude(stream: &[u8]) -> Prelude {
    let mut at = 0;
    for _ in 0..MAX_MESSAGES {
        let rest = &stream[at..];
        if at > 0 && matches!(rest, [5] | [5, 1] | [5, 1, 0]) {
            // After a list of methods this is the start of a request, and no second list.
            return Prelude::Begun;
        }
        match proxy(rest).or_else(|| socks(rest)) {
            Some(Prelude::Whole(len)) => at += len,
            Some(Prelude::Begun) => return Prelude::Begun,
            None => break,
        }
    }
    match lines(&stream[at..]) {
        Prelude::Whole(len) => Prelude::Whole(at + len),
        Prelude::Begun => Prelude::Begun,
    }
}

/// Lines of text before a hello or HTTP; none where neither follows.
fn lines(stream: &[u8]) -> Prelude {
    let mut at = 0;
    for _ in 0..MAX_LINES {
        let rest = &stream[at..];
        let line = rest.iter().take(MAX_LINE).position(|octet| *octet == b'\n');
        let Some(line) = line.map(|end| &rest[..=end]) else {
            break;
        };
        let is_text = |octet: &u8| octet.is_ascii_graphic() || octet.is_ascii_whitespace();
        if !line.iter().all(is_text) {
            break;
        }
        at += line.len();
        let rest = &stream[at..];
        let begins = rest.len() > 2 && tls::looks_like(rest)
            || http2::looks_like(rest)
            || http::looks_like(rest);
        if !rest.is_empty() && begins {
            return Prelude::Whole(at);
        }
        if may_begin(rest) {
            return Prelude::Begun;
        }
    }
    Prelude::Whole(0)
}

/// Whether these bytes may be the start of a hello or of HTTP, and are too few to tell.
fn may_begin(bytes: &[u8]) -> bool {
    matches!(bytes, [22] | [22, 3])
        || !bytes.is_empty() && (http2::PREFACE.starts_with(bytes) || http::may_begin(bytes))
}

/// A header of the PROXY protocol (haproxy, doc/proxy-protocol.txt, sections 2.1 and 2.2); `None` where
/// there is none.
fn proxy(stream: &[u8]) -> Option<Prelude> {
    const TEXT: &[u8] = b"PROXY ";
    const LONGEST_TEXT: usize = 107;
    const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
    const HEADER: usize = 16;

    let begins_with = |start: &[u8]| {
        let there = stream.len().min(start.len());
        there > 0 && stream[..there] == start[..there]
    };
    if begins_with(TEXT) {
        let end = stream
            .iter()
            .take(LONGEST_TEXT)
            .position(|octet| *octet == b'\n');
        return match end {
            Some(end) => Some(Prelude::Whole(end + 1)),
            None if stream.len() < LONGEST_TEXT && stream.len() > 1 => Some(Prelude::Begun),
            None => None,
        };
    }
    // A line end alone may stand before a request as well.
    if stream.len() > 4 && begins_with(SIGNATURE) {
        let Some(header) = stream.first_chunk::<HEADER>() else {
            return Some(Prelude::Begun);
        };
        let len = usize::from(u16::from_be_bytes([header[14], header[15]]));
        return match len {
            0..=MAX_PROXY if stream.len() >= HEADER + len => Some(Prelude::Whole(HEADER + len)),
            0..=MAX_PROXY => Some(Prelude::Begun),
            _ => None,
        };
    }
    None
}

/// A message of SOCKS; `None` where there is none.
fn socks(stream: &[u8]) -> Option<Prelude> {
    let whole = |rest: Option<Reader<'_>>| match rest {
        Some(rest) => Prelude::Whole(stream.len() - rest.0.len()),
        None => Prelude::Begun,
    };
    match *stream {
        // A request, which has no other form; the list of methods that looks like one offers GSSAPI,
        // or more that hardly anybody has.
        [5, 1, 0, kind @ (1 | 3 | 4), ref rest @ ..] => Some(whole(request(kind, rest))),
        [5, methods, ref rest @ ..] if (1..=16).contains(&methods) => {
            let mut rest = Reader(rest);
            Some(whole(rest.take(methods.into()).map(|_| rest)))
        }
        [1, name, ref rest @ ..] if name > 0 => {
            let mut rest = Reader(rest);
            let name = rest.take(name.into());
            if name.is_some_and(|name| name.contains(&0)) {
                return None;
            }
            let password = name.and_then(|_| rest.vector8());
            Some(whole(password.map(|_| rest)))
        }
        [4, 1 | 2, ref rest @ ..] => {
            let mut rest = Reader(rest);
            let Some([_, _, address @ ..]) = rest.array::<6>() else {
                return Some(Prelude::Begun);
            };
            // The address stands for a name behind the user's.
            let is_named = address[..3] == [0; 3] && address[3] != 0;
            for _ in 0..1 + usize::from(is_named) {
                if !text(&mut rest) {
                    // Its end has not come, or it is none.
                    return (rest.0.len() < MAX_TEXT).then_some(Prelude::Begun);
                }
            }
            Some(whole(Some(rest)))
        }
        _ => None,
    }
}

/// The rest after a request of SOCKS 5 for an address of this kind.
fn request(kind: u8, rest: &[u8]) -> Option<Reader<'_>> {
    const PORT: usize = 2;
    let mut rest = Reader(rest);
    let len = match kind {
        1 => 4,
        4 => 16,
        _ => usize::from(rest.u8()?),
    };
    rest.take(len + PORT)?;
    Some(rest)
}

/// Skips a text that ends with a zero, and returns whether there is one.
fn text(rest: &mut Reader<'_>) -> bool {
    let end = rest.0.iter().take(MAX_TEXT).position(|octet| *octet == 0);
    end.is_some_and(|end| rest.take(end + 1).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    const FRAMES: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252];

    #[test]
    fn what_is_meant_begins_behind_it() {
        for before in [
            &b""[..],
            b"\x05\x01\x00",
            b"\x05\x02\x00\x02\x01\x04user\x04word\x05\x01\x00\x03\x06a.test\x01\xbb",
            b"\x05\x01\x00\x05\x01\x00\x01\xc6\x33\x64\x07\x01\xbb",
            b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb",
            b"\x04\x01\x01\xbb\xc6\x33\x64\x07me\0",
            b"\x04\x01\x01\xbb\0\0\0\x01\0a.test\0",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 443\r\n",
            b"PROXY UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\x9c\x40\x01\xbb",
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
            b"PROXY UNKNOWN\r\n\x05\x01\x00\x05\x01\x00\x01\xc6\x33\x64\x07\x01\xbb",
            b"1 CAPABILITY\r\n2 STARTTLS\r\n",
            b"HELLO 1.0 program\n",
        ] {
            for meant in [REQUEST, HELLO, FRAMES] {
                let stream = [before, meant].concat();
                let whole = Prelude::Whole(before.len());
                assert_eq!(prelude(&stream), whole, "{before:02x?}");
                // Cut within what is meant, it is passed over or still begun.
                for end in before.len() + 1..stream.len() {
                    let part = prelude(&stream[..end]);
                    assert!(
                        part == whole || part == Prelude::Begun,
                        "{before:02x?} {end}"
                    );
                }
            }
            // As far as it goes it is either begun, or as much as is whole.
            for end in 0..before.len() {
                if let Prelude::Whole(len) = prelude(&before[..end]) {
                    assert!(len <= end);
                }
            }
        }
    }

    #[test]
    fn what_is_none_is_not_passed_over() {
        for stream in [
            &b"SSH-2.0-OpenSSH_10\r\n\0\0\x05\x14"[..],
            b"EHLO a.test\r\nMAIL FROM:<b@c.test>\r\n",
            b"\x01\x00\x02",
            b"\x04\x09\x02",
            b"\x00\x05\x01",
            b"caf\xc3\xa9\r\nGET / HTTP/1.1\r\n",
        ] {
            assert_eq!(prelude(stream), Prelude::Whole(0), "{stream:02x?}");
        }
        for stream in [
            &b"PROXY"[..],
            b"PRO",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
            b"\x05\x02\x00",
            b"SSH-2.0-OpenSSH_10\r\nabc",
        ] {
            assert_eq!(prelude(stream), Prelude::Begun, "{stream:02x?}");
        }
    }

    proptest! {
        #[test]
        fn it_lies_within_the_stream(stream in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Prelude::Whole(len) = prelude(&stream) {
                prop_assert!(len <= stream.len());
            }
        }
    }
}
