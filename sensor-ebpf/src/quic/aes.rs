//! AES-128 (FIPS 197), forwards only: for one block, and in counter mode.
//!
//! By tables (Daemen and Rijmen, "AES Proposal: Rijndael", 1999, section 5.2.1). Their places in memory depend on
//! the keys, which here are no secret: they come from the packet itself.

/// A block: four columns, the first byte of each the lowest.
pub type Block = [u32; 4];

/// Words of all round keys.
pub const ROUND_KEYS: usize = 44;

/// The round keys.
pub type RoundKeys = [u32; ROUND_KEYS];

/// Each byte through the substitution and the mixing of columns, by its row.
pub static TABLES: [[u32; 256]; 4] = tables();

/// How the tables are read. The kernel's machine has no load from a base and a scaled index: its programs say how they
/// come to the place with the fewest instructions.
pub trait Tables: Copy {
    /// The entry of a row's table for the row's byte of a column. The rows are 0 to 3; `OF` says which byte it is.
    fn entry<const ROW: usize, const OF: usize>(self, column: u32) -> u32;
}

/// The tables, read as the compiler reads an array.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Tables for Plain {
    #[inline(always)]
    fn entry<const ROW: usize, const OF: usize>(self, column: u32) -> u32 {
        TABLES[ROW][(column >> (8 * OF) & 0xff) as usize]
    }
}

/// Through the substitution alone. A table has it in two of its bytes.
const SUBSTITUTED: [u32; 4] = [0xff, 0xff00, 0xff_0000, 0xff00_0000];

#[inline(always)]
fn mixed<const ROW: usize>(tables: impl Tables, column: u32) -> u32 {
    tables.entry::<ROW, ROW>(column)
}

/// The byte of a row, substituted, in its place.
#[inline(always)]
fn substituted(tables: impl Tables, rows: [u32; 4]) -> u32 {
    let [first, second, third, fourth] = rows;
    tables.entry::<2, 0>(first) & SUBSTITUTED[0]
        ^ tables.entry::<3, 1>(second) & SUBSTITUTED[1]
        ^ tables.entry::<0, 2>(third) & SUBSTITUTED[2]
        ^ tables.entry::<1, 3>(fourth) & SUBSTITUTED[3]
}

/// Makes the round keys of a key that stands in the first four words.
#[inline(always)]
pub fn expand(keys: &mut RoundKeys, tables: impl Tables) {
    let mut constant = 1;
    for at in (4..ROUND_KEYS).step_by(4) {
        let last = keys[at - 1].rotate_right(8);
        let last = substituted(tables, [last; 4]) ^ constant;
        constant = doubled(constant);
        keys[at] = keys[at - 4] ^ last;
        keys[at + 1] = keys[at - 3] ^ keys[at];
        keys[at + 2] = keys[at - 2] ^ keys[at + 1];
        keys[at + 3] = keys[at - 1] ^ keys[at + 2];
    }
}

/// A column of the next round, of those four in which its bytes stand, by row.
#[inline(always)]
fn column(tables: impl Tables, rows: [u32; 4], key: u32) -> u32 {
    let [first, second, third, fourth] = rows;
    mixed::<0>(tables, first)
        ^ mixed::<1>(tables, second)
        ^ mixed::<2>(tables, third)
        ^ mixed::<3>(tables, fourth)
        ^ key
}

/// The rounds from the one whose keys stand at a place on.
#[inline(always)]
fn rounds(mut block: Block, keys: &RoundKeys, tables: impl Tables, from: usize) -> Block {
    for at in (from..ROUND_KEYS - 4).step_by(4) {
        let [a, b, c, d] = block;
        block = [
            column(tables, [a, b, c, d], keys[at]),
            column(tables, [b, c, d, a], keys[at + 1]),
            column(tables, [c, d, a, b], keys[at + 2]),
            column(tables, [d, a, b, c], keys[at + 3]),
        ];
    }
    let [a, b, c, d] = block;
    [
        substituted(tables, [a, b, c, d]) ^ keys[ROUND_KEYS - 4],
        substituted(tables, [b, c, d, a]) ^ keys[ROUND_KEYS - 3],
        substituted(tables, [c, d, a, b]) ^ keys[ROUND_KEYS - 2],
        substituted(tables, [d, a, b, c]) ^ keys[ROUND_KEYS - 1],
    ]
}

/// Encrypts a block.
#[inline(always)]
pub fn encrypt(block: Block, keys: &RoundKeys, tables: impl Tables) -> Block {
    let [a, b, c, d] = block;
    let block = [a ^ keys[0], b ^ keys[1], c ^ keys[2], d ^ keys[3]];
    rounds(block, keys, tables, 4)
}

/// Counter blocks that differ in their last byte alone: the part of the first two rounds that all have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// The last column before the first round, with a counter of 0.
    last: u32,
    /// The first column behind the first round, but for the counter's byte.
    first: u32,
    /// The columns behind the second round, but for the byte that comes from that column.
    second: Block,
}

impl Counter {
    /// Of no nonce.
    pub const NONE: Self = Self {
        last: 0,
        first: 0,
        second: [0; 4],
    };

    /// Of a nonce of 12 bytes, as three columns.
    #[inline(always)]
    pub fn new(nonce: [u32; 3], keys: &RoundKeys, tables: impl Tables) -> Self {
        let [a, b, c] = [nonce[0] ^ keys[0], nonce[1] ^ keys[1], nonce[2] ^ keys[2]];
        let d = keys[3];
        let first = mixed::<0>(tables, a) ^ mixed::<1>(tables, b) ^ mixed::<2>(tables, c) ^ keys[4];
        let [b, c, d] = [
            column(tables, [b, c, d, a], keys[5]),
            column(tables, [c, d, a, b], keys[6]),
            column(tables, [d, a, b, c], keys[7]),
        ];
        Self {
            last: keys[3],
            first,
            second: [
                mixed::<1>(tables, b) ^ mixed::<2>(tables, c) ^ mixed::<3>(tables, d) ^ keys[8],
                mixed::<0>(tables, b) ^ mixed::<1>(tables, c) ^ mixed::<2>(tables, d) ^ keys[9],
                mixed::<0>(tables, c) ^ mixed::<1>(tables, d) ^ mixed::<3>(tables, b) ^ keys[10],
                mixed::<0>(tables, d) ^ mixed::<2>(tables, b) ^ mixed::<3>(tables, c) ^ keys[11],
            ],
        }
    }

    /// The block with a counter below 256, encrypted.
    #[inline(always)]
    pub fn block(&self, counter: u32, keys: &RoundKeys, tables: impl Tables) -> Block {
        let first = self.first ^ mixed::<3>(tables, self.last ^ counter << 24);
        let [a, b, c, d] = self.second;
        let block = [
            a ^ mixed::<0>(tables, first),
            b ^ mixed::<3>(tables, first),
            c ^ mixed::<2>(tables, first),
            d ^ mixed::<1>(tables, first),
        ];
        rounds(block, keys, tables, 12)
    }
}

/// Twice a number in the field of 256 (FIPS 197, section 4.2.1).
const fn doubled(number: u32) -> u32 {
    ((number << 1) ^ ((number >> 7) * 0x11b)) & 0xff
}

const fn tables() -> [[u32; 256]; 4] {
    let mut tables = [[0; 256]; 4];
    // Powers of 3 and of its inverse, so that each is the other's inverse: (FIPS 197, section 5.1.1).
    let (mut power, mut inverse) = (1_u32, 1_u32);
    let mut step = 0;
    while step < 256 {
        let number = if step == 255 { 0 } else { power };
        let image = if step == 255 { 0 } else { inverse as u8 };
        let image = (image
            ^ image.rotate_left(1)
            ^ image.rotate_left(2)
            ^ image.rotate_left(3)
            ^ image.rotate_left(4)
            ^ 0x63) as u32;
        let mixed = doubled(image) | image << 8 | image << 16 | (doubled(image) ^ image) << 24;
        let mut row = 0;
        while row < 4 {
            tables[row][number as usize] = mixed.rotate_left(8 * row as u32);
            row += 1;
        }
        power ^= doubled(power);
        inverse = third(inverse);
        step += 1;
    }
    tables
}

/// A number through 3, in the same field: 3 times 0xf6 is 1.
const fn third(number: u32) -> u32 {
    let mut product = 0;
    let mut power = number;
    let mut bits = 0xf6;
    while bits != 0 {
        if bits & 1 != 0 {
            product ^= power;
        }
        power = doubled(power);
        bits >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(octets: [u8; 16]) -> Block {
        let (words, _) = octets.as_chunks::<4>();
        [0, 1, 2, 3].map(|at: usize| u32::from_le_bytes(words[at]))
    }

    #[test]
    fn the_example_of_the_standard() {
        // FIPS 197, appendix B.
        let mut keys = [0; ROUND_KEYS];
        keys[..4].copy_from_slice(&columns(
            *b"\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3c",
        ));
        expand(&mut keys, Plain);
        assert_eq!(keys[43].swap_bytes(), 0xb663_0ca6);
        let block = columns(*b"\x32\x43\xf6\xa8\x88\x5a\x30\x8d\x31\x31\x98\xa2\xe0\x37\x07\x34");
        let expected =
            columns(*b"\x39\x25\x84\x1d\x02\xdc\x09\xfb\xdc\x11\x85\x97\x19\x6a\x0b\x32");
        assert_eq!(encrypt(block, &keys, Plain), expected);
    }

    #[test]
    fn counters_share_the_first_rounds() {
        let mut keys = [0; ROUND_KEYS];
        keys[..4].copy_from_slice(&[0x0123_4567, 0x89ab_cdef, 0xdead_beef, 0x0bad_cafe]);
        expand(&mut keys, Plain);
        let nonce = [0x1111_2222, 0x3333_4444, 0x5555_6666];
        let counter = Counter::new(nonce, &keys, Plain);
        for number in 0..256 {
            let block = [nonce[0], nonce[1], nonce[2], number << 24];
            assert_eq!(
                counter.block(number, &keys, Plain),
                encrypt(block, &keys, Plain)
            );
        }
    }
}
