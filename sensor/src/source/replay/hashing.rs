//! The hash of the flow tables on the host: the kernel's, as a `Hasher`.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Makes hashers that share one secret, drawn when the table is made: no capture can choose keys
/// that fall into one place. See [`FlowKey::hash`](sensor_ebpf::flow::FlowKey::hash).
#[derive(Clone, Debug)]
pub(super) struct Multilinear {
    secret: u64,
}

impl Default for Multilinear {
    fn default() -> Self {
        Self {
            secret: RandomState::new().hash_one(0),
        }
    }
}

impl BuildHasher for Multilinear {
    type Hasher = Sum;

    fn build_hasher(&self) -> Sum {
        Sum {
            sum: 0,
            multiplier: self.secret,
        }
    }
}

/// A sum of the words of a key, each times a secret number.
#[derive(Debug)]
pub(super) struct Sum {
    sum: u64,
    multiplier: u64,
}

impl Hasher for Sum {
    fn write(&mut self, octets: &[u8]) {
        for chunk in octets.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        // SplitMix64's sequence: a secret number for each place (Steele and others, 2014).
        self.multiplier = self.multiplier.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.sum = self
            .sum
            .wrapping_add(number.wrapping_mul(mixed(self.multiplier) | 1));
    }

    fn finish(&self) -> u64 {
        mixed(self.sum)
    }
}

/// SplitMix64's finalizer.
fn mixed(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
