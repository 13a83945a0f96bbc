//! GHASH, by which AES-GCM tells whether a packet was changed (NIST SP 800-38D, section 6.4).
//!
//! A block is a polynomial over two elements, its first bit the lowest power (section 6.3): here two words, the
//! highest bit of the first one is that of x to the power of 0, and a shift to the right multiplies by x.

/// A block: two words, the first byte of the block the highest of the first.
pub type Element = [u64; 2];

/// The sum so far, and the multiples of the hash key by all polynomials of a byte.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ghash {
    /// The sum.
    pub sum: Element,
    /// The multiples.
    pub multiples: [Element; 256],
}

impl Ghash {
    /// Without a key.
    pub const EMPTY: Self = Self {
        sum: [0; 2],
        multiples: [[0; 2]; 256],
    };

    /// Begins anew, under a hash key.
    #[inline(always)]
    pub fn begin(&mut self, key: Element) {
        /// x to the power of 128 is 1 + x + x^2 + x^7.
        const REDUCED: u64 = 0xe1 << 56;

        self.sum = [0; 2];
        self.multiples[0] = [0; 2];
        let mut power = key;
        let mut bit = 0x80;
        for _ in 0..8 {
            self.multiples[bit % 256] = power;
            let [high, low] = power;
            let carry = (low & 1).wrapping_neg();
            power = [high >> 1 ^ carry & REDUCED, low >> 1 | high << 63];
            bit >>= 1;
        }
        for top in 1..8 {
            let top = 1 << top;
            for rest in 1..top {
                let [one, other] = [self.multiples[top], self.multiples[rest]];
                self.multiples[top | rest] = [one[0] ^ other[0], one[1] ^ other[1]];
            }
        }
    }

    /// The multiple by a byte of a word, 0 for its highest.
    #[inline(always)]
    pub fn multiple<const BYTE: u32>(&self, word: u64) -> Element {
        self.multiples[(word >> (56 - 8 * BYTE) & 0xff) as usize]
    }

    /// Takes one block. `multiples` reads the table, as [`aes::Tables`](super::aes::Tables) those of AES.
    #[inline(always)]
    pub fn add(&mut self, block: Element, multiples: impl Multiples) {
        let high = self.sum[0] ^ block[0];
        let low = self.sum[1] ^ block[1];
        // The product has up to 248 bits: it is reduced once.
        let (mut first, mut second, mut third, mut fourth) = (0, 0, 0, 0);
        macro_rules! step {
            ($byte:expr) => {{
                let of_high = multiples.of::<$byte>(self, high);
                let of_low = multiples.of::<$byte>(self, low);
                fourth = fourth >> 8 | third << 56;
                third = (third >> 8 | second << 56) ^ of_low[1];
                second = (second >> 8 | first << 56) ^ of_high[1] ^ of_low[0];
                first = first >> 8 ^ of_high[0];
            }};
        }
        step!(7);
        step!(6);
        step!(5);
        step!(4);
        step!(3);
        step!(2);
        step!(1);
        step!(0);
        second ^= fourth ^ fourth >> 1 ^ fourth >> 2 ^ fourth >> 7;
        third ^= fourth << 63 ^ fourth << 62 ^ fourth << 57;
        first ^= third ^ third >> 1 ^ third >> 2 ^ third >> 7;
        second ^= third << 63 ^ third << 62 ^ third << 57;
        self.sum = [first, second];
    }
}

/// How the table of multiples is read.
pub trait Multiples: Copy {
    /// [`Ghash::multiple`].
    fn of<const BYTE: u32>(self, hash: &Ghash, word: u64) -> Element;
}

/// As the compiler reads an array.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Multiples for Plain {
    #[inline(always)]
    fn of<const BYTE: u32>(self, hash: &Ghash, word: u64) -> Element {
        hash.multiple::<BYTE>(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification() {
        // McGrew and Viega, "The Galois/Counter Mode of Operation", test case 2.
        let mut hash = Ghash::EMPTY;
        hash.begin([0x66e9_4bd4_ef8a_2c3b, 0x884c_fa59_ca34_2b2e]);
        hash.add([0x0388_dace_60b6_a392, 0xf328_c2b9_71b2_fe78], Plain);
        assert_eq!(hash.sum, [0x5e2e_c746_9170_6288, 0x2c85_b068_5353_deb7]);
        hash.add([0, 0x80], Plain);
        assert_eq!(hash.sum, [0xf38c_bb1a_d692_23dc, 0xc345_7ae5_b6b0_f885]);
    }
}
