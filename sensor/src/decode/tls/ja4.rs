//! JA4: the fingerprint of a TLS client by its hello.
//!
//! The rules are those of the specification that FoxIO publishes under the BSD 3-Clause licence
//! (`technical_details/JA4.md` in the repository FoxIO-LLC/ja4). Nothing here is of the further methods of JA4+,
//! which have another licence.

use std::fmt::{self, Write as _};

use sha2::{Digest as _, Sha256};

use super::{extension, is_reserved};
use crate::decode::reader::Reader;

/// The largest number of ciphers or extensions that the two digits of a fingerprint show.
const MOST_SHOWN: usize = 99;

/// Bytes of the first field: all of it is ASCII.
const HEAD: usize = 10;

/// Bytes of the hash in the second and in the third field, each byte two hexadecimal digits.
const HASH: usize = 6;

/// The protocol that carries a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TLS records over TCP.
    Tcp,
    /// CRYPTO frames of QUIC.
    Quic,
}

/// The JA4 of a hello. It is shown in 36 characters, as in `t13d1516h2_8daaf6152771_e5627efa2ab1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ja4 {
    head: [u8; HEAD],
    ciphers: [u8; HASH],
    extensions: [u8; HASH],
    transport: Transport,
}

/// The TLS stack of a client: the second field of the JA4 of a hello over TCP, twelve hexadecimal digits.
///
/// The programs of a device that use one library have one stack, however their hellos differ in extensions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stack([u8; HASH]);

/// The parts of a hello that its JA4 is made of.
#[derive(Default)]
pub(super) struct Parts<'a> {
    /// The `legacy_version` field.
    pub(super) version: u16,
    /// The list of `supported_versions`, where there is one.
    pub(super) versions: Option<&'a [u8]>,
    /// The cipher suites.
    pub(super) ciphers: &'a [u8],
    /// The types of all extensions, reserved ones left out.
    pub(super) extensions: Vec<u16>,
    /// The first protocol of ALPN that is not reserved; empty where there is none.
    pub(super) protocol: &'a [u8],
    /// The list of `signature_algorithms`.
    pub(super) signatures: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Takes an extension. One whose content does not fit its length adds nothing but its type.
    pub(super) fn take(&mut self, kind: u16, data: Reader<'a>) {
        if is_reserved(&kind.to_be_bytes()) {
            return;
        }
        self.extensions.push(kind);
        let mut data = data;
        match kind {
            extension::ALPN => {
                let mut list = data.vector16().unwrap_or(Reader(&[]));
                while let Some(Reader(protocol)) = list.vector8() {
                    if !is_reserved(protocol) {
                        self.protocol = protocol;
                        return;
                    }
                }
            }
            extension::SUPPORTED_VERSIONS => {
                self.versions = Some(data.vector8().map_or(&[], |list| list.0));
            }
            extension::SIGNATURE_ALGORITHMS => {
                self.signatures = data.vector16().map_or(&[], |list| list.0);
            }
            _ => {}
        }
    }

    /// The fingerprint of a hello with these parts.
    pub(super) fn ja4(mut self, transport: Transport) -> Ja4 {
        let has_name = self.extensions.contains(&extension::SERVER_NAME);
        let mut ciphers: Vec<u16> = numbers(self.ciphers).collect();
        let head = self.head(transport, has_name, ciphers.len());
        ciphers.sort_unstable();
        let mut hash = Sha256::new();
        add(&mut hash, ciphers.iter().copied());
        let ciphers = shortened(hash, ciphers.is_empty());

        self.extensions
            .retain(|kind| !matches!(*kind, extension::SERVER_NAME | extension::ALPN));
        self.extensions.sort_unstable();
        let mut hash = Sha256::new();
        add(&mut hash, self.extensions.iter().copied());
        let mut signatures = numbers(self.signatures).peekable();
        if signatures.peek().is_some() {
            hash.update(b"_");
            add(&mut hash, signatures);
        }
        let extensions = shortened(hash, self.extensions.is_empty());
        Ja4 {
            head,
            ciphers,
            extensions,
            transport,
        }
    }

    fn head(&self, transport: Transport, has_name: bool, ciphers: usize) -> [u8; HEAD] {
        let [version, minor] = match self.versions {
            Some(list) => version(numbers(list).max().unwrap_or_default()),
            None => version(self.version),
        };
        let [ten_ciphers, ciphers] = digits(ciphers);
        let [ten_extensions, extensions] = digits(self.extensions.len());
        let [first, last] = ends(self.protocol);
        [
            match transport {
                Transport::Tcp => b't',
                Transport::Quic => b'q',
            },
            version,
            minor,
            if has_name { b'd' } else { b'i' },
            ten_ciphers,
            ciphers,
            ten_extensions,
            extensions,
            first,
            last,
        ]
    }
}

impl Ja4 {
    /// The client's TLS stack. `None` for a hello over QUIC: nearly all clients offer the same three suites of
    /// TLS 1.3 there.
    pub fn stack(&self) -> Option<Stack> {
        (self.transport == Transport::Tcp).then_some(Stack(self.ciphers))
    }
}

impl fmt::Display for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.head {
            f.write_char(character.into())?;
        }
        for hash in [self.ciphers, self.extensions] {
            write!(f, "_{}", Stack(hash))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Stack {
    /// Its twelve digits as a number.
    pub fn number(self) -> u64 {
        self.0
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The numbers of two bytes in a list, without reserved ones (RFC 8701).
fn numbers(list: &[u8]) -> impl Iterator<Item = u16> {
    let pairs = list.as_chunks().0.iter();
    pairs
        .filter(|pair| !is_reserved(*pair))
        .map(|pair| u16::from_be_bytes(*pair))
}

/// A version of the protocol in two characters; drafts of TLS 1.3 are unknown ones.
const fn version(number: u16) -> [u8; 2] {
    match number {
        0x0304 => *b"13",
        0x0303 => *b"12",
        0x0302 => *b"11",
        0x0301 => *b"10",
        0x0300 => *b"s3",
        0x0002 => *b"s2",
        _ => *b"00",
    }
}

/// A count in two digits, [`MOST_SHOWN`] for a larger one.
fn digits(count: usize) -> [u8; 2] {
    let count = count.min(MOST_SHOWN) as u8;
    [b'0' + count / 10, b'0' + count % 10]
}

/// The first and the last character of a protocol; of its hexadecimal digits, where either is neither a letter
/// nor a digit.
fn ends(protocol: &[u8]) -> [u8; 2] {
    let (Some(first), Some(last)) = (protocol.first(), protocol.last()) else {
        return *b"00";
    };
    match first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        true => [*first, *last],
        false => [hex(first >> 4), hex(last & 0xf)],
    }
}

const fn hex(digit: u8) -> u8 {
    match digit {
        ..10 => b'0' + digit,
        _ => b'a' + digit - 10,
    }
}

/// Adds numbers in four hexadecimal digits each, with commas between them.
fn add(hash: &mut Sha256, numbers: impl Iterator<Item = u16>) {
    for (at, number) in numbers.enumerate() {
        if at > 0 {
            hash.update(b",");
        }
        let [high, low] = number.to_be_bytes();
        hash.update([high >> 4, high & 0xf, low >> 4, low & 0xf].map(hex));
    }
}

/// The start of a hash; zeros for that of an empty list.
fn shortened(hash: Sha256, is_empty: bool) -> [u8; HASH] {
    let mut start = [0; HASH];
    if !is_empty {
        start.copy_from_slice(&hash.finalize()[..HASH]);
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(numbers: &[u16]) -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect()
    }

    /// The fingerprint of the specification's example with other parts.
    fn example(change: impl for<'a> FnOnce(&mut Parts<'a>)) -> String {
        let ciphers = list(&[
            0x4a4a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013,
            0xc014, 0x009c, 0x009d, 0x002f, 0x0035,
        ]);
        let signatures = list(&[
            0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601,
        ]);
        let mut parts = Parts {
            version: 0x0303,
            versions: Some(&[0xfa, 0xfa, 3, 4, 3, 3]),
            ciphers: &ciphers,
            extensions: vec![
                0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023,
                0x0012, 0x002b, 0xff01, 0x000b, 0x000a, 0x0015,
            ],
            protocol: b"h2",
            signatures: &signatures,
        };
        change(&mut parts);
        parts.ja4(Transport::Tcp).to_string()
    }

    #[test]
    fn the_specifications_example_comes_out() {
        assert_eq!(example(|_| {}), "t13d1516h2_8daaf6152771_e5627efa2ab1");
        let without = example(|parts| parts.signatures = &[]);
        assert_eq!(without, "t13d1516h2_8daaf6152771_6d807ffa2a79");
    }

    #[test]
    fn an_empty_list_is_zeros() {
        let bare = example(|parts| parts.extensions = vec![0, 16]);
        assert_eq!(bare, "t13d1502h2_8daaf6152771_000000000000");
        let reserved = example(|parts| parts.ciphers = &[0x0a, 0x0a]);
        assert_eq!(reserved, "t13d0016h2_000000000000_e5627efa2ab1");
    }

    #[test]
    fn counts_have_two_digits() {
        let many = [0x13, 0x01].repeat(100);
        let many = numbers(&many).count();
        assert_eq!([9, 99, many].map(digits), [*b"09", *b"99", *b"99"]);
    }

    /// The examples of the specification, and those of RFC 7301's registry.
    #[test]
    fn a_protocol_is_told_by_its_ends() {
        for (protocol, expected) in [
            (&b""[..], b"00"),
            (b"h2", b"h2"),
            (b"http/1.1", b"h1"),
            (b"x", b"xx"),
            (&[0xab], b"ab"),
            (&[0xab, 0xcd], b"ad"),
            (&[0x30, 0xab], b"3b"),
            (&[0x30, 0x31, 0xab, 0xcd], b"3d"),
            (&[0x30, 0xab, 0xcd, 0x31], b"01"),
            (b"h2 ", b"60"),
        ] {
            assert_eq!(ends(protocol), *expected, "{protocol:?}");
        }
    }

    #[test]
    fn the_version_is_the_highest_of_the_list_or_the_old_field() {
        let head = |version, versions| {
            let of = example(|parts| {
                parts.version = version;
                parts.versions = versions;
            });
            of[1..3].to_owned()
        };
        for (version, expected) in [
            (0x0304, "13"),
            (0x0303, "12"),
            (0x0302, "11"),
            (0x0301, "10"),
            (0x0300, "s3"),
            (0x0002, "s2"),
            (0x0305, "00"),
        ] {
            assert_eq!(head(version, None), expected);
        }
        assert_eq!(head(0x0303, Some(&[3, 1, 3, 2])), "11");
        // A draft is no version, and the highest number all the same.
        assert_eq!(head(0x0303, Some(&[0x7f, 28, 3, 4])), "00");
        assert_eq!(head(0x0303, Some(&[0x1a, 0x1a])), "00");
    }

    #[test]
    fn quic_tells_no_stack() {
        let parts = || Parts {
            ciphers: &[0x13, 1, 0x13, 2, 0x13, 3],
            ..Parts::default()
        };
        let quic = parts().ja4(Transport::Quic);
        assert_eq!(quic.to_string(), "q00i030000_55b375c5d22e_000000000000");
        assert_eq!(quic.stack(), None);
        let stack = parts().ja4(Transport::Tcp).stack();
        assert_eq!(stack.unwrap().to_string(), "55b375c5d22e");
    }
}
