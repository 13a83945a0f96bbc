//! The name that the start of a payload says: the server it is for.
//!
//! The kernel reads with these readers the messages that lie whole in one packet, merged or not, piece by
//! piece: a message longer than a piece is read on from a stored place. User space reads messages in several
//! packets, and encrypted ones, with decoders of its own; so these readers may be strict, and leave to it every
//! message that is not plain.

pub mod hello;
pub mod initial;
pub mod prelude;
pub mod question;
pub mod records;
pub mod request;

use crate::{name::NAME_CAPACITY, wire};

/// A name as it was said: in lower case, labels separated by dots, without a dot at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Text {
    /// Its octets.
    pub octets: [u8; NAME_CAPACITY],
    /// How many count, at most 255.
    pub len: u64,
}

wire! { Text { octets: [u8; NAME_CAPACITY], len: u64 } }

impl Default for Text {
    fn default() -> Self {
        Self {
            octets: [0; NAME_CAPACITY],
            len: 0,
        }
    }
}

/// The result of looking for a name in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Found {
    /// A name.
    Name = 1,
    /// All bytes that could say a name are here, and they say none.
    Nameless = 2,
    /// The name cannot be told from this payload alone.
    Unread = 3,
    /// The name's field holds no host name. No rule is about it, and it is unread, not nameless, because its
    /// receiver may read a name in it.
    NoHostName = 4,
}

/// Where a name stands in a payload. Finding it and copying it are two steps, because the verifier
/// would go through the second once for each way through the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind so many octets.
    At(usize),
    /// Nowhere.
    Nowhere,
    /// Not to be told from this payload alone.
    Unknown,
}

impl Place {
    /// As a number: numbers that no octet's place in a payload can have stand for the others.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        match self {
            Self::At(at) => at as u32,
            Self::Nowhere => u32::MAX,
            Self::Unknown => u32::MAX - 1,
        }
    }

    /// The place with this number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            u32::MAX => Self::Nowhere,
            0xffff_fffe => Self::Unknown,
            at => Self::At(at as usize),
        }
    }
}

impl Text {
    /// The name.
    pub fn as_octets(&self) -> &[u8] {
        self.octets.get(..self.len as usize).unwrap_or_default()
    }

    /// Writes one octet.
    #[inline(always)]
    fn put(&mut self, at: usize, octet: u8) {
        if at < NAME_CAPACITY {
            self.octets[at] = lower(octet);
        }
    }

    /// Says how many octets were written, and takes a dot at the end away.
    #[inline(always)]
    fn end(&mut self, len: usize) {
        let dot = len > 0 && self.octets[(len - 1) % NAME_CAPACITY] == b'.';
        self.len = len as u64 - dot as u64;
    }

    /// Makes a host name of the octets written: without the port behind it, which servers that look for a bare
    /// name ignore, and without a dot at its end.
    ///
    /// A name has 1 to 255 bytes, in labels of 1 to 63 letters, digits, hyphens and underscores, as in user
    /// space's `decode::name::host`. Any other text is [`Found::NoHostName`].
    #[inline(always)]
    pub fn settle(&mut self) -> Found {
        self.settle_by(|number, _| number)
    }

    /// As [`settle`](Self::settle). `hide` gives the same number, stripped of what is known about it, as
    /// [`Packet::forget`](crate::packet::Packet::forget) does.
    #[inline(always)]
    pub fn settle_by(&mut self, hide: impl Fn(u64, u64) -> u64) -> Found {
        let first = self.octets[0] as u64;
        let len = self.without_port(self.len as usize % NAME_CAPACITY, &hide);
        let len = hide(len as u64, first) as usize % NAME_CAPACITY;
        let has_dot = self.before(len, 1, &hide) == b'.';
        let len = hide(len as u64 - u64::from(has_dot && len != 0), first) as usize % NAME_CAPACITY;
        self.len = len as u64;
        let mut odd = 0;
        let mut label = 0;
        let mut at = 0;
        while at < NAME_CAPACITY {
            if at >= len {
                break;
            }
            // No branch for what is read: the verifier goes both ways of each, at every byte.
            let octet = self.octets[at];
            let noise = octet as u64;
            let is_dot = hide(is_zero((octet ^ b'.') as u64), noise);
            let is_plain = hide(is_of_label(octet), noise);
            odd |= is_dot & is_zero(label) | 1 & !(is_dot | is_plain);
            odd |= LONGEST_LABEL.wrapping_sub(label) >> 63;
            odd = hide(odd, noise);
            label = hide((label + 1) & is_dot.wrapping_sub(1), noise);
            at += 1;
        }
        if odd != 0 || label == 0 || label > LONGEST_LABEL || len > LONGEST_NAME {
            return Found::NoHostName;
        }
        Found::Name
    }

    /// The byte `back` places before the end of the first `len`. Its place is hidden from the compiler, which
    /// would know it to be small and leave out the bound that the verifier needs.
    #[inline(always)]
    fn before(&self, len: usize, back: usize, hide: &impl Fn(u64, u64) -> u64) -> u8 {
        let place = hide(len.wrapping_sub(back) as u64, self.octets[0] as u64);
        self.octets[place as usize % NAME_CAPACITY]
    }

    /// How many of the first `len` bytes stand before a port of one to five digits.
    #[inline(always)]
    fn without_port(&self, len: usize, hide: &impl Fn(u64, u64) -> u64) -> usize {
        const LONGEST_PORT: usize = 5;

        let mut digits = 0;
        while digits <= LONGEST_PORT {
            if digits >= len {
                break;
            }
            let octet = self.before(len, digits + 1, hide);
            if octet == b':' && digits != 0 {
                return len - 1 - digits;
            }
            if !octet.is_ascii_digit() {
                break;
            }
            digits += 1;
        }
        len
    }
}

/// The longest label of a host name, in bytes (RFC 1035, section 2.3.4).
const LONGEST_LABEL: u64 = 63;

/// The longest host name, in bytes, without the dot at its end: two more than DNS has (RFC 1035, section
/// 2.3.4), because servers that compare a name as text accept them.
const LONGEST_NAME: usize = 255;

/// 1 where a byte may stand in a label, in lower case. Without a branch, as [`lower`].
#[inline(always)]
const fn is_of_label(octet: u8) -> u64 {
    is_below(octet.wrapping_sub(b'a'), 26)
        | is_below(octet.wrapping_sub(b'0'), 10)
        | is_zero((octet ^ b'-') as u64)
        | is_zero((octet ^ b'_') as u64)
}

/// The octet as a lower-case letter, where it is a letter.
///
/// Without a branch: the verifier goes both ways of each, at every octet of a name.
#[inline(always)]
const fn lower(octet: u8) -> u8 {
    let from_a = (octet as u32).wrapping_sub(b'A' as u32);
    let is_upper = (from_a.wrapping_sub(26) & !from_a) >> 31;
    octet | (is_upper as u8) << 5
}

/// 1 where a number is 0, 0 where it is another below 2^63. Without a branch, as [`lower`].
#[inline(always)]
const fn is_zero(number: u64) -> u64 {
    number.wrapping_sub(1) >> 63
}

/// 1 where an octet is below another, or 0. Without a branch, as [`lower`].
#[inline(always)]
const fn is_below(octet: u8, limit: u8) -> u64 {
    (octet as u64).wrapping_sub(limit as u64) >> 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_lowered_and_nothing_else() {
        for octet in 0..=u8::MAX {
            assert_eq!(lower(octet), octet.to_ascii_lowercase());
        }
    }

    #[track_caller]
    fn settles(said: &[u8], found: Found, name: &str) {
        let mut text = Text::default();
        for (at, octet) in said.iter().enumerate() {
            text.put(at, *octet);
        }
        text.len = said.len() as u64;
        assert_eq!(text.settle(), found, "{}", said.escape_ascii());
        if found == Found::Name {
            assert_eq!(text.as_octets(), name.as_bytes());
        }
    }

    #[test]
    fn a_name_with_a_port_is_the_name_and_what_no_host_has_is_none() {
        for (said, name) in [
            ("WWW.Example.", "www.example"),
            ("www.example:443", "www.example"),
            ("www.example.:65535", "www.example"),
            ("nas:1", "nas"),
            ("-x-._y.example", "-x-._y.example"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            settles(said.as_bytes(), Found::Name, name);
        }
        for said in [
            &b""[..],
            b".",
            b"..",
            b".example",
            b"a..b",
            b"a.b..",
            b"a b",
            b"a\0",
            b"m\xc3\xbcnchen.example",
            b"http://a.example",
            b"a.example:",
            b"a.example:443.",
            b"a.example:123456",
            b"a.example:80:443",
            b":443",
            b".:443",
        ] {
            settles(said, Found::NoHostName, "");
        }
        settles(b"443", Found::Name, "443");
        let label = std::string::String::from_iter(['x'; 63]);
        settles(label.as_bytes(), Found::Name, &label);
        settles(&[b'x'; 64], Found::NoHostName, "");
        let longest = [&label[..]; 4].join(".");
        settles(longest.as_bytes(), Found::Name, &longest);
        let longer = [&label[..], &label, &label, &label[..62], "x"].join(".");
        settles(longer.as_bytes(), Found::NoHostName, "");
    }

    #[test]
    fn comparisons_without_a_branch_are_comparisons() {
        for octet in 0..=u8::MAX {
            assert_eq!(is_zero((octet ^ b':') as u64) == 1, octet == b':');
            assert_eq!(is_below(octet, 64) == 1, octet < 64);
        }
        assert_eq!(is_zero(i64::MAX as u64), 0);
    }
}
