//! The bytes that clients send before TLS or a request: empty lines (RFC 9112, section 2.2), the lines of a dialogue
//! that ends with STARTTLS, the messages of SOCKS 5 (RFC 1928, RFC 1929), the header of the PROXY protocol (HAProxy,
//! 2014).

use crate::{kind::LOOKED_AT, packet::Packet};

/// How a client's stream goes on where no message begins that a reader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prelude {
    /// Behind so many bytes.
    Bytes(usize),
    /// Behind the end of a line.
    Line,
    /// More bytes have to be there before it can be told.
    Short,
    /// With something that nobody here reads.
    Other,
}

/// Tells how a stream of which `there` bytes are there goes on, from a place on at which `first` stands (the rest
/// zero where it is shorter). `begins`: it is the first byte of the stream.
#[inline(always)]
pub fn prelude<P: Packet + ?Sized>(
    stream: &P,
    first: &[u8; LOOKED_AT],
    there: usize,
    begins: bool,
) -> Prelude {
    const PROXY: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
    const PROXY_HEADER: usize = 16;

    let [one, two, three, four, five, ..] = *first;
    let mut different = 0;
    let mut at = 0;
    while at < PROXY.len() {
        different |= first[at] ^ PROXY[at];
        at += 1;
    }
    if different == 0 {
        let rest = u16::from_be_bytes([first[14], first[15]]);
        return Prelude::Bytes(PROXY_HEADER + rest as usize);
    }
    if is_line(first, there) {
        return Prelude::Line;
    }
    if one == 5 && begins {
        return Prelude::Bytes(2 + two as usize);
    }
    if one == 5 && matches!(two, 1..=3) && three == 0 {
        match four {
            1 => return Prelude::Bytes(10),
            3 => return Prelude::Bytes(7 + five as usize),
            4 => return Prelude::Bytes(22),
            _ => {}
        }
    }
    if one == 1 && !begins {
        let name = 2 + two as usize;
        return match stream.load::<1>(name) {
            Some([word]) => Prelude::Bytes(name + 1 + word as usize),
            None => Prelude::Short,
        };
    }
    if there < LOOKED_AT {
        return Prelude::Short;
    }
    Prelude::Other
}

/// How many bytes of the line that begins a stream are there, its end included; `None` where its end is not among
/// the first `most`.
#[inline(always)]
pub fn line<P: Packet + ?Sized>(stream: &P, most: usize) -> Option<usize> {
    let mut at = 0;
    while at < most {
        let [byte] = stream.load::<1>(at)?;
        at += 1;
        if byte == b'\n' {
            return Some(at);
        }
    }
    None
}

/// Whether the line of `len` bytes that begins a stream is the first one of a request. That of a command, such as
/// `EHLO name`, may look like it as far as the first word goes.
#[inline(always)]
pub fn is_request<P: Packet + ?Sized>(stream: &P, len: usize) -> bool {
    /// The version, without its last digit, and the end of the line.
    const END: usize = 10;

    let Some(end) = stream.load::<END>(len.wrapping_sub(END)) else {
        return false;
    };
    let from = if end[END - 2] == b'\r' { 0 } else { 1 };
    let mut different = 0;
    for (at, byte) in b"HTTP/1.".iter().enumerate() {
        different |= end[from + at] ^ byte;
    }
    different == 0
}

/// Whether a stream begins with a line of text, as far as its first bytes go.
#[inline(always)]
pub const fn is_line(first: &[u8; LOOKED_AT], len: usize) -> bool {
    let mut others = 0;
    let mut inside = 1;
    let mut at = 0;
    while at < LOOKED_AT {
        let byte = first[at] as u64;
        inside &= (at as u64).wrapping_sub(len as u64) >> 63;
        others |= inside & (is_of_line(byte) ^ 1);
        // 1 where the byte ends the line.
        let ends = (byte ^ b'\n' as u64).wrapping_sub(1) >> 63;
        inside &= ends ^ 1;
        at += 1;
    }
    others & 1 == 0 && len != 0
}

/// 1 for a printable byte, and for one that ends a line or stands in one as a blank.
#[inline(always)]
const fn is_of_line(byte: u64) -> u64 {
    const BLANKS: u64 = 1 << b'\t' | 1 << b'\n' | 1 << b'\r';
    const LINES: u64 = !((1 << b' ') - 1) | BLANKS;
    // 1 where it is below 64, and in the set of what lines are made of.
    let is_low = byte.wrapping_sub(64) >> 63;
    let is_line = is_low & (LINES >> (byte & 63));
    // 1 from 64 to 126.
    let is_high = (byte.wrapping_sub(127) >> 63) & (is_low ^ 1);
    (is_line | is_high) & 1
}

/// Whether all of a payload's first bytes are printable, or end a line.
///
/// Without a branch in the loop: the verifier goes both ways of each, at every byte.
#[inline(always)]
pub const fn is_text(first: &[u8; LOOKED_AT], len: usize) -> bool {
    let mut others = 0;
    let mut at = 0;
    while at < LOOKED_AT {
        let is_inside = (at as u64).wrapping_sub(len as u64) >> 63;
        others |= is_inside & (is_of_line(first[at] as u64) ^ 1);
        at += 1;
    }
    others & 1 == 0 && len != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stream: &[u8], begins: bool, expected: Prelude) {
        let mut first = [0; LOOKED_AT];
        let there = stream.len().min(LOOKED_AT);
        first[..there].copy_from_slice(&stream[..there]);
        let found = prelude(stream, &first, stream.len(), begins);
        assert_eq!(found, expected, "{}", stream.escape_ascii());
    }

    #[test]
    fn what_stands_before_a_message_is_told() {
        for (stream, begins, expected) in [
            (&b"\r\nGET / HTTP/1.1\r\n"[..], true, Prelude::Line),
            (b"EHLO a.example\r\n", true, Prelude::Line),
            (
                b"a STARTTLS\r\n\x16\x03\x01\x06\x79\x01\x00\x06\x75\x03\x03",
                true,
                Prelude::Line,
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.1 1 443\r\n",
                true,
                Prelude::Line,
            ),
            (
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
                true,
                Prelude::Bytes(28),
            ),
            (b"\x05\x01\x00", true, Prelude::Bytes(3)),
            (b"\x05\x02\x00\x01", true, Prelude::Bytes(4)),
            (
                b"\x05\x01\x00\x03\x09a.example\x01\xbb",
                false,
                Prelude::Bytes(16),
            ),
            (
                b"\x05\x01\x00\x01\xc6\x33\x64\x07\x01\xbb",
                false,
                Prelude::Bytes(10),
            ),
            (b"\x01\x04user\x04word", false, Prelude::Bytes(11)),
            (b"\x01\x04us", false, Prelude::Short),
            (b"\x16", true, Prelude::Short),
            (&[0xaa; 30], true, Prelude::Other),
        ] {
            check(stream, begins, expected);
        }
    }

    #[test]
    fn a_request_is_told_from_a_command() {
        for (stream, expected) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], true),
            (b"GET / HTTP/1.0\nHost: a\n", true),
            (b"EHLO a.example\r\nSTARTTLS\r\n", false),
            (b"AUTH TLS\r\n", false),
            (b"\n", false),
        ] {
            let len = line(stream, 512).expect("a line");
            assert_eq!(
                is_request(stream, len),
                expected,
                "{}",
                stream.escape_ascii()
            );
        }
        assert_eq!(line(&b"no end"[..], 512), None);
        assert_eq!(line(&b"late\n"[..], 3), None);
    }
}
