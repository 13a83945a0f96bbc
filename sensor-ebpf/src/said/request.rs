//! HTTP/1 requests (RFC 9112, section 3).

use super::{Found, Place, Text, lower};
use crate::{name::NAME_CAPACITY, packet::Packet};

/// Octets in which the field `Host` has to begin. Browsers send it first.
const SEARCHED: usize = 1_408;

/// The longest method that is looked for, and the space behind it.
const LONGEST_METHOD: usize = 12;

/// Where the host stands that the field `Host` names.
#[inline(always)]
pub fn host<P: Packet + ?Sized>(stream: &P) -> Place {
    /// What begins the field, in lower case.
    const FIELD: u64 = u64::from_be_bytes(*b"\0\0\nhost:");
    const FIELD_MASK: u64 = 0x0000_ffff_ffff_ffff;
    const END: u64 = 0x0000_0000_0d0a_0d0a;
    const END_MASK: u64 = 0x0000_0000_ffff_ffff;

    let mut last = 0_u64;
    let mut at = 0;
    while at < SEARCHED {
        let Some([octet]) = stream.load::<1>(at) else {
            return Place::Unknown;
        };
        last = last << 8 | lower(octet) as u64;
        at += 1;
        if last & FIELD_MASK == FIELD {
            return Place::At(at);
        }
        if last & END_MASK == END {
            return Place::Nowhere;
        }
    }
    Place::Unknown
}

/// Where the host stands in the request's target, where it has one: a request to a proxy (RFC 9112,
/// section 3.2.2), which stands above the field, and `CONNECT` (section 3.2.3).
#[inline(always)]
pub fn target<P: Packet + ?Sized>(stream: &P) -> Place {
    const SCHEME: [u8; 7] = *b"http://";

    let mut at = 0;
    while at < LONGEST_METHOD {
        let Some([octet]) = stream.load::<1>(at) else {
            return Place::Unknown;
        };
        at += 1;
        if octet != b' ' {
            continue;
        }
        let Some(start) = stream.load::<7>(at) else {
            return Place::Unknown;
        };
        let lower = start.map(|octet| octet.to_ascii_lowercase());
        if lower == SCHEME {
            return Place::At(at + SCHEME.len());
        }
        if start[0] == b'/' || start[0] == b'*' {
            return Place::Nowhere;
        }
        return Place::At(at);
    }
    Place::Unknown
}

/// The most blanks before a host.
const MAX_BLANKS: usize = 8;

/// Copies a host up to its port, its path or its end. With a name of a user before it, which nobody
/// sends any more (RFC 9110, section 4.2.4), it is unread.
#[inline(always)]
pub fn name<P: Packet + ?Sized>(stream: &P, place: Place, text: &mut Text) -> Found {
    const ENDS: u64 = ends(b"\t\r\n /:?#");

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
    let mut done = 0;
    while done < NAME_CAPACITY {
        let Some([octet]) = stream.load::<1>(from + done) else {
            return Found::Unread;
        };
        if octet < 64 && ENDS >> octet & 1 != 0 {
            text.end(done);
            // What ends in a digit or begins with a bracket is an address (RFC 3986, section 3.2.2;
            // WHATWG URL, section 3.5).
            let last = text.octets[(text.len as usize).wrapping_sub(1) % NAME_CAPACITY];
            let is_address = last.is_ascii_digit() || text.octets[0] == b'[';
            return match text.len == 0 || is_address {
                true => Found::Nameless,
                false => Found::Name,
            };
        }
        if octet == b'@' {
            return Found::Unread;
        }
        text.put(done, octet);
        done += 1;
    }
    Found::Unread
}

/// The set of some octets below 64.
const fn ends(octets: &[u8]) -> u64 {
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
            "GET / HTTP/1.1\nHOST: \t a.example. \n",
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
        check("GET / HTTP/1.1\r\nHost:\r\n", host, Nameless, "");
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
        check("GET / HT", host, Unread, "");
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
        check("GET htt", target, Unread, "");
        check("NOMETHODATALL", target, Unread, "");
    }
}
