//! The compression of header fields in HTTP/2 (RFC 7541), as far as a reader needs it.
//!
//! Of a field that nobody asks about nothing is kept but its place in the table: an index of one byte
//! may stand for thousands of them, again and again.

use std::collections::VecDeque;

use super::{Failure, reader::Reader};

/// The size of the dynamic table before anybody changes it (RFC 9113, section 6.5.2), in the bytes of
/// RFC 7541, section 4.1.
const DEFAULT_TABLE: usize = 4_096;

/// The largest dynamic table that is followed. A client uses more than the default only where the
/// server allowed it.
pub const MAX_TABLE: usize = 16 * 1024;

/// The most bytes of names and values in a header block, decompressed: a byte may stand for a field as
/// long as the table. Servers take between 8 KiB and 1 MiB.
pub const MAX_FIELDS: usize = 64 * 1024;

/// The size that an entry of the table counts beside its text (section 4.1).
const ENTRY: usize = 32;

/// The names of the static table (appendix A), from index 1 on.
const STATIC: [&str; 61] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// The values of the static table that are not empty, by index.
const fn static_value(index: usize) -> &'static str {
    match index {
        2 => "GET",
        3 => "POST",
        4 => "/",
        5 => "/index.html",
        6 => "http",
        7 => "https",
        8 => "200",
        9 => "204",
        10 => "206",
        11 => "304",
        12 => "400",
        13 => "404",
        14 => "500",
        16 => "gzip, deflate",
        _ => "",
    }
}

/// A name and its value.
type Field = (Box<[u8]>, Box<[u8]>);

/// A decoder of the header blocks that one side of a connection sends, in order.
#[derive(Debug)]
pub struct Decoder {
    /// The latest entry first.
    entries: VecDeque<Field>,
    size: usize,
    limit: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            limit: DEFAULT_TABLE,
        }
    }
}

impl Decoder {
    /// Reads a whole header block, and shows each field: its name and its value.
    ///
    /// # Errors
    ///
    /// [`Failure::Malformed`] for a block that contradicts the format: those after it cannot be read either.
    /// [`Failure::Limit`] for a table larger than [`MAX_TABLE`], and for more than [`MAX_FIELDS`] bytes of
    /// fields.
    pub fn block(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Failure> {
        const INDEXED: u8 = 0x80;
        const INCREMENTAL: u8 = 0x40;
        const SIZE: u8 = 0x20;

        let mut left = MAX_FIELDS;
        let mut show = |name: &[u8], value: &[u8]| {
            let len = name.len() + value.len();
            left = left.checked_sub(len).ok_or(Failure::Limit)?;
            field(name, value);
            Ok(())
        };
        let mut rest = Reader(block);
        while let Some(first) = rest.0.first().copied() {
            if first & INDEXED != 0 {
                let index = number(&mut rest, 7)?;
                let (name, value) = self.entry(index)?;
                show(name, value)?;
            } else if first & INCREMENTAL != 0 {
                let (name, value) = self.literal(&mut rest, 6)?;
                show(&name, &value)?;
                self.insert(name, value);
            } else if first & SIZE != 0 {
                let limit = number(&mut rest, 5)?;
                if limit > MAX_TABLE {
                    return Err(Failure::Limit);
                }
                self.limit = limit;
                self.evict();
            } else {
                let (name, value) = self.literal(&mut rest, 4)?;
                show(&name, &value)?;
            }
        }
        Ok(())
    }

    /// A name, by index or in full, and a value in full.
    fn literal(&self, rest: &mut Reader<'_>, bits: u32) -> Result<Field, Failure> {
        let name = match number(rest, bits)? {
            0 => text(rest)?,
            index => self.entry(index)?.0.into(),
        };
        Ok((name, text(rest)?))
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Failure> {
        let place = index.checked_sub(1).ok_or(Failure::Malformed)?;
        if let Some(name) = STATIC.get(place) {
            return Ok((name.as_bytes(), static_value(index).as_bytes()));
        }
        let entry = self.entries.get(place - STATIC.len());
        let (name, value) = entry.ok_or(Failure::Malformed)?;
        Ok((name, value))
    }

    fn insert(&mut self, name: Box<[u8]>, value: Box<[u8]>) {
        self.size += name.len() + value.len() + ENTRY;
        self.entries.push_front((name, value));
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.limit
            && let Some((name, value)) = self.entries.pop_back()
        {
            self.size -= name.len() + value.len() + ENTRY;
        }
    }
}

/// A number that begins with the lower bits of the next byte (section 5.1).
fn number(rest: &mut Reader<'_>, bits: u32) -> Result<usize, Failure> {
    /// Bytes behind the first: numbers of 28 bits, more than any length here.
    const MOST: u32 = 4;
    let mask = (1_u8 << bits) - 1;
    let first = rest.u8().ok_or(Failure::Malformed)? & mask;
    let mut number = usize::from(first);
    if first != mask {
        return Ok(number);
    }
    for place in 0..MOST {
        let octet = rest.u8().ok_or(Failure::Malformed)?;
        number += usize::from(octet & 0x7f) << (7 * place);
        if octet & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Failure::Malformed)
}

/// A string behind its length (section 5.2).
fn text(rest: &mut Reader<'_>) -> Result<Box<[u8]>, Failure> {
    const HUFFMAN: u8 = 0x80;
    let first = rest.0.first().copied().ok_or(Failure::Malformed)?;
    let len = number(rest, 7)?;
    let octets = rest.take(len).ok_or(Failure::Malformed)?;
    if first & HUFFMAN == 0 {
        return Ok(octets.into());
    }
    huffman::decode(octets).map(Into::into)
}

mod huffman {
    use super::Failure;

    const SYMBOLS: usize = 257;
    const END: usize = 256;
    const LONGEST: usize = 30;
    /// The most bits that fill up the last byte.
    const MOST_PADDING: u32 = 7;

    /// How many bits the code of each byte has, and that of the end (appendix B). The codes follow from
    /// that: they are canonical, those of one length in the order of their symbols.
    const LENGTHS: [u8; SYMBOLS] = [
        13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30,
        28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
        5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
        7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5,
        7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22,
        22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23,
        22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22,
        21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26,
        26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20,
        24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27,
        27, 28, 27, 27, 27, 27, 27, 26, 30,
    ];

    /// The codes, by their lengths.
    struct Codes {
        /// The first code of each length.
        first: [u32; LONGEST + 1],
        /// How many there are of each.
        count: [u32; LONGEST + 1],
        /// Where those of each length begin in `symbols`.
        place: [u16; LONGEST + 1],
        symbols: [u16; SYMBOLS],
    }

    const CODES: Codes = {
        let mut codes = Codes {
            first: [0; LONGEST + 1],
            count: [0; LONGEST + 1],
            place: [0; LONGEST + 1],
            symbols: [0; SYMBOLS],
        };
        let mut code = 0;
        let mut placed = 0;
        let mut len = 1;
        while len <= LONGEST {
            code <<= 1;
            codes.first[len] = code;
            codes.place[len] = placed;
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if LENGTHS[symbol] as usize == len {
                    codes.symbols[placed as usize] = symbol as u16;
                    placed += 1;
                    code += 1;
                }
                symbol += 1;
            }
            codes.count[len] = code - codes.first[len];
            len += 1;
        }
        codes
    };

    /// The text that the codes stand for: at most eight fifths of their length.
    pub(super) fn decode(octets: &[u8]) -> Result<Vec<u8>, Failure> {
        static TABLE: Codes = CODES;
        let mut text = Vec::with_capacity(octets.len() + octets.len() / 2);
        let (mut code, mut len) = (0_u32, 0_usize);
        for octet in octets {
            for bit in (0..u8::BITS).rev() {
                code = code << 1 | u32::from(octet >> bit & 1);
                len += 1;
                let ahead = code.wrapping_sub(TABLE.first[len]);
                if ahead < TABLE.count[len] {
                    let place = usize::from(TABLE.place[len]) + ahead as usize;
                    let symbol = usize::from(TABLE.symbols[place]);
                    if symbol == END {
                        return Err(Failure::Malformed);
                    }
                    text.push(symbol as u8);
                    (code, len) = (0, 0);
                } else if len == LONGEST {
                    return Err(Failure::Malformed);
                }
            }
        }
        // Filled up with the first bits of the end, which are ones.
        let is_padding = len as u32 <= MOST_PADDING && code == (1 << len) - 1;
        match is_padding {
            true => Ok(text),
            false => Err(Failure::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = Vec<(String, String)>;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Failure> {
        let mut fields = Vec::new();
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        decoder.block(block, |name, value| fields.push((text(name), text(value))))?;
        Ok(fields)
    }

    fn octets(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hex"))
            .collect()
    }

    /// The requests of appendix C.3 and C.4: without Huffman codes and with them.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        for blocks in [
            [
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            [
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
        ] {
            let mut decoder = Decoder::default();
            let expected: [&[(&str, &str)]; 3] = [
                &[
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":path", "/"),
                    (":authority", "www.example.com"),
                ],
                &[
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":path", "/"),
                    (":authority", "www.example.com"),
                    ("cache-control", "no-cache"),
                ],
                &[
                    (":method", "GET"),
                    (":scheme", "https"),
                    (":path", "/index.html"),
                    (":authority", "www.example.com"),
                    ("custom-key", "custom-value"),
                ],
            ];
            for (block, expected) in blocks.into_iter().zip(expected) {
                let fields = fields(&mut decoder, &octets(block)).expect("an example");
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(name, value)| (&**name, &**value))
                    .collect();
                assert_eq!(fields, expected);
            }
            assert_eq!(decoder.size, 164);
        }
    }

    #[test]
    fn what_contradicts_the_format_is_an_error() {
        for (block, failure) in [
            // No index 0, none behind the table, no end of a number or of a text.
            ("80", Failure::Malformed),
            ("be", Failure::Malformed),
            ("ff", Failure::Malformed),
            ("ffffffffff7f", Failure::Malformed),
            ("410f7777", Failure::Malformed),
            ("41", Failure::Malformed),
            // The end as a symbol, padding of zeros, and of a whole byte.
            ("4184ffffffff", Failure::Malformed),
            ("418100", Failure::Malformed),
            ("4182 1fff", Failure::Malformed),
            ("3fe1ff03", Failure::Limit),
        ] {
            let read = fields(&mut Decoder::default(), &octets(block));
            assert_eq!(read, Err(failure), "{block}");
        }
        let read = fields(&mut Decoder::default(), &octets("3fe17f"));
        assert_eq!(read, Ok(Vec::new()), "a table of 16 KiB");
    }

    #[test]
    fn the_table_forgets_what_it_has_no_room_for() {
        let mut decoder = Decoder::default();
        // 40 bytes each, in a table of 100.
        let block = "3f45 4001 6103 622d 3140 0161 0362 2d32 4001 6103 622d 33";
        fields(&mut decoder, &octets(block)).expect("three fields");
        assert_eq!(decoder.entries.len(), 2);
        assert_eq!(&*decoder.entries[0].1, b"b-3");
        assert!(decoder.size <= decoder.limit);
        fields(&mut decoder, &octets("20")).expect("an empty table");
        assert!(decoder.entries.is_empty() && decoder.size == 0);
    }

    #[test]
    fn a_block_says_no_more_than_its_bound() {
        // A field of 4000 bytes, and indexes of one byte that repeat it; or names without values.
        let long = [&[0x40, 0x01, b'a', 0x7f, 0xa0, 0x1e][..], &[b'x'; 3_999]].concat();
        let long_name = [&[0x40, 0x7f, 0xa1, 0x1e][..], &[b'x'; 4_000], &[0]].concat();
        for (first, again) in [(long, &[0xbe][..]), (long_name, &[0x7e, 0])] {
            for (times, expected) in [(15, Ok(())), (16, Err(Failure::Limit))] {
                let block = [&first[..], &again.repeat(times)].concat();
                let mut bytes = 0;
                let read = Decoder::default().block(&block, |name, value| {
                    bytes += name.len() + value.len();
                });
                assert_eq!(read, expected, "{times}");
                assert!(bytes <= MAX_FIELDS, "{bytes}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_is_larger_than_its_bounds(
            blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
        ) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let mut longest = 0;
                let _ = decoder.block(&block, |name, value| {
                    longest = longest.max(name.len()).max(value.len());
                });
                prop_assert!(decoder.size <= decoder.limit && decoder.limit <= MAX_TABLE);
                let sum: usize = decoder.entries.iter().map(|(n, v)| n.len() + v.len() + ENTRY).sum();
                prop_assert_eq!(decoder.size, sum);
                prop_assert!(longest <= MAX_TABLE);
            }
        }
    }

    /// As another implementation encodes it.
    #[test]
    fn each_code_stands_for_its_byte() {
        let printable: Vec<u8> = (b' '..=b'~').collect();
        for (codes, text) in [
            (
                "53f8fe7febff2afc7fafebfbf9ff7f4b2ec002265a6dc75e7ee7dfffc83feffc \
                 ffd4376f5fc187163c997367d1a756bd9b776fe1c797e73fdffdffff0ffe7ff9 \
                 17ffd1c6490b2cd39ba75a29a8f5f6b109b7bf8f3ebdfffeff9ffefff7",
                &printable[..],
            ),
            (
                "ffc7ffffff9ffffff9fffcdfffed7ffffb7ffffffbffffee",
                b"\0\n\x7f\x80\xa0\xcf\xf9\xff",
            ),
        ] {
            assert_eq!(huffman::decode(&octets(codes)).as_deref(), Ok(text));
        }
    }
}
