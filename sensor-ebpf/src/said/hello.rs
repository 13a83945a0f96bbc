//! TLS ClientHellos (RFC 8446, section 4.1.2; server name, RFC 6066, section 3).

use super::{Found, Place, Text};
use crate::{name::NAME_CAPACITY, packet::Packet};

/// The most extensions that are looked through. Browsers send about twenty.
const MAX_EXTENSIONS: usize = 64;

/// Where the list of names stands in a hello that begins with the payload. The hello need not be
/// there to its end.
///
/// A hello that is cut into several records is not looked through.
#[inline(always)]
pub fn names<P: Packet + ?Sized>(stream: &P) -> Place {
    const HANDSHAKE: u8 = 22;
    const MAJOR_VERSION: u8 = 3;
    const CLIENT_HELLO: u8 = 1;
    const HANDSHAKE_HEADER: usize = 4;
    /// Behind both headers, the version and the random octets.
    const SESSION_IDENTIFIER: usize = 5 + HANDSHAKE_HEADER + 2 + 32;

    let Some(headers) = stream.load::<9>(0) else {
        return Place::Unknown;
    };
    let [
        kind,
        major,
        _,
        record_high,
        record_low,
        message,
        len_high,
        len_middle,
        len_low,
    ] = headers;
    if kind != HANDSHAKE || major != MAJOR_VERSION || message != CLIENT_HELLO {
        return Place::Unknown;
    }
    let record = u32::from_be_bytes([0, 0, record_high, record_low]);
    let hello = u32::from_be_bytes([0, len_high, len_middle, len_low]);
    if record < hello + HANDSHAKE_HEADER as u32 {
        return Place::Unknown;
    }
    let Some([len]) = stream.load::<1>(SESSION_IDENTIFIER) else {
        return Place::Unknown;
    };
    let at = stream.forget(SESSION_IDENTIFIER + 1 + len as usize, hello as u64);
    let Some(len) = stream.load::<2>(at) else {
        return Place::Unknown;
    };
    let cipher_suites = u16::from_be_bytes(len) as usize;
    let at = stream.forget(at + 2 + cipher_suites, hello as u64);
    let Some([compression]) = stream.load::<1>(at) else {
        return Place::Unknown;
    };
    let at = stream.forget(at + 1 + compression as usize, hello as u64);
    let end = SESSION_IDENTIFIER - 2 - 32 + hello as usize;
    if at == end {
        // A hello of old without extensions.
        return Place::Nowhere;
    }
    let Some(len) = stream.load::<2>(at) else {
        return Place::Unknown;
    };
    let len = u16::from_be_bytes(len) as usize;
    extensions(stream, at + 2, at + 2 + len)
}

#[inline(always)]
fn extensions<P: Packet + ?Sized>(stream: &P, start: usize, end: usize) -> Place {
    const SERVER_NAME: [u8; 2] = [0, 0];

    let mut at = start;
    let mut seen = 0;
    while seen < MAX_EXTENSIONS {
        at = stream.forget(at, end as u64);
        if at == end {
            return Place::Nowhere;
        }
        let Some([kind_high, kind_low, len_high, len_low]) = stream.load::<4>(at) else {
            return Place::Unknown;
        };
        if [kind_high, kind_low] == SERVER_NAME {
            return Place::At(at + 4);
        }
        at += 4 + u16::from_be_bytes([len_high, len_low]) as usize;
        seen += 1;
    }
    Place::Unknown
}

/// Reads the name in a list of names, which has one, of the only type there is.
#[inline(always)]
pub fn name<P: Packet + ?Sized>(stream: &P, list: Place, text: &mut Text) -> Found {
    const HOST_NAME: u8 = 0;

    let at = match list {
        Place::At(at) => at,
        Place::Nowhere => return Found::Nameless,
        Place::Unknown => return Found::Unread,
    };
    let Some([_, _, kind, len_high, len_low]) = stream.load::<5>(at) else {
        return Found::Unread;
    };
    let len = u16::from_be_bytes([len_high, len_low]) as usize;
    if kind != HOST_NAME || len >= NAME_CAPACITY {
        return Found::Unread;
    }
    let from = stream.forget(at + 5, len as u64);
    let mut done = 0;
    while done < NAME_CAPACITY {
        if done >= len {
            break;
        }
        let Some([octet]) = stream.load::<1>(from + done) else {
            return Found::Unread;
        };
        text.put(done, octet);
        done += 1;
    }
    text.end(len);
    Found::Name
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = std::vec![3, 3];
        body.extend([7; 32]);
        body.push(32);
        body.extend([8; 32]);
        body.extend([0, 4, 0x13, 1, 0x13, 2, 1, 0]);
        let mut all = Vec::new();
        for (kind, data) in extensions {
            all.extend(kind.to_be_bytes());
            all.extend((data.len() as u16).to_be_bytes());
            all.extend(data);
        }
        body.extend((all.len() as u16).to_be_bytes());
        body.extend(all);
        let mut record = std::vec![22, 3, 1];
        record.extend((body.len() as u16 + 4).to_be_bytes());
        record.extend([1, 0]);
        record.extend((body.len() as u16).to_be_bytes());
        record.extend(body);
        record
    }

    fn sni(name: &str) -> (u16, Vec<u8>) {
        let len = name.len() as u16;
        let mut data = (len + 3).to_be_bytes().to_vec();
        data.push(0);
        data.extend(len.to_be_bytes());
        data.extend(name.as_bytes());
        (0, data)
    }

    #[track_caller]
    fn check(stream: &[u8], found: Found, expected: &str) {
        let mut text = Text::default();
        assert_eq!(name(stream, names(stream), &mut text), found);
        if found == Found::Name {
            assert_eq!(text.as_octets(), expected.as_bytes());
        }
    }

    #[test]
    fn a_name_is_read_as_soon_as_it_is_there() {
        let first = (0xff01, std::vec![0]);
        let share = (51, std::vec![1; 1_200]);
        let stream = hello(&[first.clone(), sni("WWW.Example."), share.clone()]);
        let known_from = 9 + 34 + 33 + 8 + 2 + 5 + 4 + 5 + "www.example.".len();
        for end in 0..stream.len() {
            let found = match end >= known_from {
                true => Found::Name,
                false => Found::Unread,
            };
            check(&stream[..end], found, "www.example");
        }
        check(&hello(&[first.clone(), share.clone()]), Found::Nameless, "");
        check(&hello(&[share, first])[..300], Found::Unread, "");
    }

    #[test]
    fn what_is_no_hello_in_one_record_is_unread() {
        let mut stream = hello(&[sni("www.example")]);
        stream[4] -= 1;
        check(&stream, Found::Unread, "");
        check(b"\x15\x03\x01\x00\x02\x01\x00", Found::Unread, "");
        let long = "x".repeat(255);
        check(&hello(&[sni(&long)]), Found::Name, &long);
        check(&hello(&[sni(&"x".repeat(256))]), Found::Unread, "");
    }
}
