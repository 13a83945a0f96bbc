//! TLS ClientHellos (RFC 8446, section 4.1.2; server name, RFC 6066, section 3).

use super::{Found, Place, Text};
use crate::{name::NAME_CAPACITY, packet::Packet};

/// The most extensions that are looked through at a time.
const EXTENSIONS_AT_ONCE: usize = 32;

/// How far a hello was looked through: the place in the payload where the walk goes on, its stage there, and
/// the end of the bytes to look through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk(u64);

impl Walk {
    /// Nothing was looked at.
    pub const START: Self = Self::new(0, 0, stage::HEADERS);

    const PLACE_BITS: u32 = 20;
    const PLACE: u64 = (1 << Self::PLACE_BITS) - 1;

    #[inline(always)]
    const fn new(at: usize, end: usize, stage: u64) -> Self {
        Self(
            (at as u64 & Self::PLACE)
                | (end as u64 & Self::PLACE) << Self::PLACE_BITS
                | stage << (2 * Self::PLACE_BITS),
        )
    }

    /// Where the bytes are that are looked at next, as long as [`place`](Self::place) gives none.
    #[inline(always)]
    pub const fn at(self) -> usize {
        (self.0 & Self::PLACE) as usize
    }

    #[inline(always)]
    const fn end(self) -> usize {
        (self.0 >> Self::PLACE_BITS & Self::PLACE) as usize
    }

    #[inline(always)]
    const fn stage(self) -> u64 {
        self.0 >> (2 * Self::PLACE_BITS)
    }

    /// Where the list of names stands, once that is known.
    #[inline(always)]
    pub const fn place(self) -> Option<Place> {
        match self.stage() {
            stage::FOUND => Some(Place::At(self.at())),
            stage::NOWHERE => Some(Place::Nowhere),
            stage::UNKNOWN => Some(Place::Unknown),
            _ => None,
        }
    }

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The walk with this number.
    #[inline(always)]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// The field at which a [`Walk`] goes on, or how it ended.
mod stage {
    pub(super) const HEADERS: u64 = 0;
    pub(super) const SESSION: u64 = 1;
    pub(super) const CIPHERS: u64 = 2;
    pub(super) const COMPRESSION: u64 = 3;
    pub(super) const EXTENSIONS: u64 = 4;
    pub(super) const EXTENSION: u64 = 5;
    pub(super) const FOUND: u64 = 6;
    pub(super) const NOWHERE: u64 = 7;
    pub(super) const UNKNOWN: u64 = 8;
}

/// Where the list of names stands in a hello that begins with the payload. The hello need not be
/// there to its end.
///
/// A hello that is cut into several records is not looked through.
pub fn names<P: Packet + ?Sized>(stream: &P) -> Place {
    let mut before = Walk::START;
    loop {
        let walk = walk(stream, before);
        if let Some(place) = walk.place() {
            return place;
        }
        if walk == before {
            return Place::Unknown;
        }
        before = walk;
    }
}

/// Looks a hello through, as far as its bytes are there: by the lengths of its fields, wherever these lie.
/// Gives the same walk where the next bytes are not there.
#[inline(always)]
pub fn walk<P: Packet + ?Sized>(stream: &P, walk: Walk) -> Walk {
    const HANDSHAKE: u8 = 22;
    const MAJOR_VERSION: u8 = 3;
    const CLIENT_HELLO: u8 = 1;
    const HEADERS: usize = 9;
    const HANDSHAKE_HEADER: u32 = 4;
    /// Behind both headers, the version and the random octets.
    const SESSION_IDENTIFIER: usize = HEADERS + 2 + 32;

    let unknown = Walk::new(0, 0, stage::UNKNOWN);
    let (mut at, mut end, mut stage) = (walk.at(), walk.end(), walk.stage());
    if stage == stage::HEADERS {
        let Some(headers) = stream.load::<HEADERS>(0) else {
            return walk;
        };
        let [kind, major, _, high, low, message, hello @ ..] = headers;
        let record = u32::from_be_bytes([0, 0, high, low]);
        let hello = u32::from_be_bytes([0, hello[0], hello[1], hello[2]]);
        if kind != HANDSHAKE
            || major != MAJOR_VERSION
            || message != CLIENT_HELLO
            || record < hello + HANDSHAKE_HEADER
        {
            return unknown;
        }
        (at, stage) = (SESSION_IDENTIFIER, stage::SESSION);
        end = stream.forget(HEADERS + hello as usize, record as u64);
    }
    if stage == stage::SESSION {
        let Some([len]) = stream.load::<1>(at) else {
            return Walk::new(at, end, stage);
        };
        at = stream.forget(at + 1 + len as usize, end as u64);
        stage = stage::CIPHERS;
    }
    if stage == stage::CIPHERS {
        let Some(len) = stream.load::<2>(at) else {
            return Walk::new(at, end, stage);
        };
        at = stream.forget(at + 2 + u16::from_be_bytes(len) as usize, end as u64);
        stage = stage::COMPRESSION;
    }
    if stage == stage::COMPRESSION {
        let Some([len]) = stream.load::<1>(at) else {
            return Walk::new(at, end, stage);
        };
        at = stream.forget(at + 1 + len as usize, end as u64);
        stage = stage::EXTENSIONS;
    }
    if stage == stage::EXTENSIONS {
        if at == end {
            // A hello of old without extensions.
            return Walk::new(0, 0, stage::NOWHERE);
        }
        let Some(len) = stream.load::<2>(at) else {
            return Walk::new(at, end, stage);
        };
        at = stream.forget(at + 2, end as u64);
        end = stream.forget(at + u16::from_be_bytes(len) as usize, end as u64);
        stage = stage::EXTENSION;
    }
    if stage != stage::EXTENSION {
        return unknown;
    }
    extensions(stream, at, end)
}

#[inline(always)]
fn extensions<P: Packet + ?Sized>(stream: &P, start: usize, end: usize) -> Walk {
    const SERVER_NAME: [u8; 2] = [0, 0];

    let mut at = start;
    let mut seen = 0;
    while seen < EXTENSIONS_AT_ONCE {
        at = stream.forget(at, end as u64);
        if at == end {
            return Walk::new(0, 0, stage::NOWHERE);
        }
        let Some([kind_high, kind_low, len_high, len_low]) = stream.load::<4>(at) else {
            break;
        };
        if [kind_high, kind_low] == SERVER_NAME {
            return Walk::new(at + 4, end, stage::FOUND);
        }
        at += 4 + u16::from_be_bytes([len_high, len_low]) as usize;
        seen += 1;
    }
    Walk::new(at, end, stage::EXTENSION)
}

/// Reads the name in a list of names, which has one, of the only type there is.
#[inline(always)]
pub fn name<P: Packet + ?Sized>(stream: &P, list: Place, text: &mut Text) -> Found {
    match copy_name(stream, list, text) {
        Found::Name => text.settle(),
        found => found,
    }
}

/// Copies the name at its place in a list of names. [`Text::settle`] makes a host name of it.
#[inline(always)]
pub fn copy_name<P: Packet + ?Sized>(stream: &P, list: Place, text: &mut Text) -> Found {
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
    text.len = len as u64;
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
        check(&hello(&[sni(&"x".repeat(255))]), Found::NoHostName, "");
        check(&hello(&[sni(&"x".repeat(256))]), Found::Unread, "");
        check(
            &hello(&[sni("www.example:443")]),
            Found::Name,
            "www.example",
        );
        check(&hello(&[sni("www. example")]), Found::NoHostName, "");
    }
}
