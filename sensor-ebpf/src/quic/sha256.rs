//! SHA-256 (FIPS 180-4), as far as HKDF over short inputs needs it.

/// The state between two blocks: eight words.
pub type State = [u32; 8];

/// The state before the first block.
pub const START: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Words of a block.
pub const BLOCK: usize = 16;

const ROUNDS: usize = 64;

static CONSTANTS: [u32; ROUNDS] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// A block, and room for the words that are made of it.
pub type Schedule = [u32; ROUNDS];

/// Takes the block at the beginning of the schedule into the state.
///
/// `twice` gives a word twice, in the lower and in the upper half: so one shift rotates it. The kernel's
/// machine has no rotation, and its compiler would make three instructions of each.
#[inline(always)]
pub fn compress(state: &mut State, schedule: &mut Schedule, twice: impl Fn(u32) -> u64) {
    for at in BLOCK..ROUNDS {
        let [before, after] = [schedule[at - 15], schedule[at - 2]];
        let early = twice(before);
        let late = twice(after);
        let early = (early >> 7 ^ early >> 18) as u32 ^ before >> 3;
        let late = (late >> 17 ^ late >> 19) as u32 ^ after >> 10;
        schedule[at] = schedule[at - 16]
            .wrapping_add(early)
            .wrapping_add(schedule[at - 7])
            .wrapping_add(late);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for at in (0..ROUNDS).step_by(8) {
        macro_rules! round {
            ($at:expr, $a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident) => {{
                let twice_e = twice($e);
                let twice_a = twice($a);
                let first = $h
                    .wrapping_add((twice_e >> 6 ^ twice_e >> 11 ^ twice_e >> 25) as u32)
                    .wrapping_add($g ^ $e & ($f ^ $g))
                    .wrapping_add(CONSTANTS[at + $at])
                    .wrapping_add(schedule[at + $at]);
                $d = $d.wrapping_add(first);
                $h = first
                    .wrapping_add((twice_a >> 2 ^ twice_a >> 13 ^ twice_a >> 22) as u32)
                    .wrapping_add($a & $b | $c & ($a | $b));
            }};
        }
        round!(0, a b c d e f g h);
        round!(1, h a b c d e f g);
        round!(2, g h a b c d e f);
        round!(3, f g h a b c d e);
        round!(4, e f g h a b c d);
        round!(5, d e f g h a b c);
        round!(6, c d e f g h a b);
        round!(7, b c d e f g h a);
    }
    for (word, more) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(more);
    }
}

/// A word twice, for [`compress`].
#[inline(always)]
pub const fn twice(word: u32) -> u64 {
    (word as u64) << 32 | word as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        // "abc"; and the message of two blocks (FIPS 180-2, appendix B).
        let mut schedule = [0; ROUNDS];
        schedule[0] = 0x6162_6380;
        schedule[15] = 24;
        let mut state = START;
        compress(&mut state, &mut schedule, twice);
        let expected = [
            0xba78_16bf,
            0x8f01_cfea,
            0x4141_40de,
            0x5dae_2223,
            0xb003_61a3,
            0x9617_7a9c,
            0xb410_ff61,
            0xf200_15ad,
        ];
        assert_eq!(state, expected);

        let message = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        let mut block = [0; 128];
        block[..message.len()].copy_from_slice(message);
        block[message.len()] = 0x80;
        block[126..].copy_from_slice(&(message.len() as u16 * 8).to_be_bytes());
        let mut state = START;
        for block in block.chunks(64) {
            let mut schedule = [0; ROUNDS];
            for (word, octets) in schedule.iter_mut().zip(block.as_chunks::<4>().0) {
                *word = u32::from_be_bytes(*octets);
            }
            compress(&mut state, &mut schedule, twice);
        }
        let expected = [
            0x248d_6a61,
            0xd206_38b8,
            0xe5c0_2693,
            0x0c3e_6039,
            0xa33c_e459,
            0x64ff_2167,
            0xf6ec_edd4,
            0x19db_06c1,
        ];
        assert_eq!(state, expected);
    }
}
