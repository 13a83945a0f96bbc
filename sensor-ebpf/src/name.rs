//! Names: how a name finds the rules that are about it.
//!
//! User space compiles every name that a policy is about, a million at most, to a table of hashes: it leads
//! from a name to the chain of rules for it and everything below it. A chain includes the rules of the names
//! above, so that of all suffixes of a name the longest that is in the table decides alone, as the longest
//! prefix does for addresses.
//!
//! Hashes are taken from the end of a name to its start: one pass gives those of all its suffixes. The table
//! holds 48 bits of a hash beside those that choose the bucket, under a secret that is drawn anew where two
//! listed names would share them. A name that is not listed is taken for a listed one with a probability of 1
//! in 2^44 at most; no sender can search for such a name without the secret.

use crate::wire;

/// The most octets of a name (RFC 1035, section 2.3.4, without the length octets that frame it:
/// 253), and room for what has no end.
pub const NAME_CAPACITY: usize = 256;

/// The most labels that a listed name may have. Of a longer name that is asked for, the last so many
/// are looked at.
pub const MAX_LABELS: usize = 16;

/// The most names of one policy set.
pub const MAX_NAMES: usize = 1_000_000;

/// Entries of one bucket: one cache line.
pub const NAME_BUCKET_ENTRIES: usize = 8;

/// How many neighbouring buckets an entry may lie in.
pub const NAME_BUCKETS_PROBED: u32 = 2;

/// One cache line of the table: [`NameEntry`]s by their number, the used ones first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NameBucket {
    /// The entries.
    pub entries: [u64; NAME_BUCKET_ENTRIES],
}

wire! { NameBucket { entries: [u64; NAME_BUCKET_ENTRIES] } }

/// A name in the table: 48 bits of its hash, and in the lowest 16 the number of its chain plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameEntry(pub u64);

impl NameEntry {
    const CHAIN: u64 = 0xffff;

    /// The entry of a name with this hash.
    #[inline(always)]
    pub const fn new(hash: u64, chain: u16) -> Self {
        Self(hash & !Self::CHAIN | (chain as u64 + 1) & Self::CHAIN)
    }

    /// Whether nothing lies here, nor behind it.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 & Self::CHAIN == 0
    }

    /// Whether it is that of a name with this hash.
    #[inline(always)]
    pub const fn is_of(self, hash: u64) -> bool {
        (self.0 ^ hash) & !Self::CHAIN == 0
    }

    /// The number of the chain.
    #[inline(always)]
    pub const fn chain(self) -> u32 {
        (self.0 & Self::CHAIN) as u32 - 1
    }
}

/// The bucket in which the search for a hash starts, of a power-of-two number of buckets.
#[inline(always)]
pub const fn name_bucket(hash: u64, mask: u32) -> u32 {
    hash as u32 & mask
}

/// The factor for each octet under a secret: odd, so that no bit of the hash is lost. Names that collide under
/// one secret do not under another.
#[inline(always)]
pub const fn hash_multiplier(secret: u64) -> u64 {
    mixed(!secret) | 1
}

/// The start value of a hash.
#[inline(always)]
pub const fn hash_start(secret: u64) -> u64 {
    0xcbf2_9ce4_8422_2325 ^ secret
}

/// The hash with one more octet, the one before those that it has already: as FNV-1a (Fowler, Noll,
/// Vo), but under [`hash_multiplier`], which nobody knows, and not under a known prime.
#[inline(always)]
pub const fn hash_octet(hash: u64, octet: u8, multiplier: u64) -> u64 {
    (hash ^ octet as u64).wrapping_mul(multiplier)
}

/// The hash that is looked up: all its bits depend on all of the name, and on the secret.
#[inline(always)]
pub const fn hash_end(hash: u64, secret: u64) -> u64 {
    mixed(hash ^ secret)
}

/// The finalizer of MurmurHash3 (Appleby, 2011).
#[inline(always)]
const fn mixed(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The hashes of a name's suffixes: of its last label first, of all of it last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Suffixes {
    /// [`hash_end`] of each; 0 behind the last.
    pub hashes: [u64; MAX_LABELS],
    /// How many count.
    pub len: u64,
}

wire! { Suffixes { hashes: [u64; MAX_LABELS], len: u64 } }

impl Suffixes {
    /// Of a name in lower case, labels separated by dots, without a dot at the end. The kernel has
    /// a loop of its own for it, over a buffer of fixed size.
    pub const fn of(name: &[u8], secret: u64) -> Self {
        let mut suffixes = Self {
            hashes: [0; MAX_LABELS],
            len: 0,
        };
        let multiplier = hash_multiplier(secret);
        let mut hash = hash_start(secret);
        let mut at = name.len();
        while at > 0 {
            at -= 1;
            hash = hash_octet(hash, name[at], multiplier);
            if at == 0 || name[at - 1] == b'.' {
                suffixes.hashes[suffixes.len as usize] = hash_end(hash, secret);
                suffixes.len += 1;
                if suffixes.len as usize == MAX_LABELS {
                    break;
                }
            }
        }
        suffixes
    }

    /// The hash of the whole name; `None` for no name.
    pub const fn whole(&self) -> Option<u64> {
        if self.len == 0 {
            None
        } else {
            Some(self.hashes[self.len as usize - 1])
        }
    }
}

/// The table of one side, wherever it lies.
pub trait Names {
    /// One bucket; `None` where there is no table.
    fn bucket(&self, number: u32) -> Option<&NameBucket>;
    /// Number of buckets minus one.
    fn mask(&self) -> u32;
}

/// The chain of a hash.
#[inline(always)]
pub fn find<N: Names>(names: &N, hash: u64) -> Option<u32> {
    let mask = names.mask();
    let mut number = name_bucket(hash, mask);
    let mut probed = 0;
    while probed < NAME_BUCKETS_PROBED {
        let bucket = names.bucket(number)?;
        let mut place = 0;
        while place < NAME_BUCKET_ENTRIES {
            let entry = NameEntry(bucket.entries[place]);
            if entry.is_empty() {
                return None;
            }
            if entry.is_of(hash) {
                return Some(entry.chain());
            }
            place += 1;
        }
        number = (number + 1) & mask;
        probed += 1;
    }
    None
}

/// The chain of the longest suffix that is in the table.
#[inline(always)]
pub fn longest<N: Names>(names: &N, suffixes: &Suffixes) -> Option<u32> {
    let mut at = MAX_LABELS;
    while at > 0 {
        at -= 1;
        // Not by their number: the verifier would go on with each number apart.
        let hash = suffixes.hashes[at];
        if hash != 0
            && let Some(chain) = find(names, hash)
        {
            return Some(chain);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;

    const SECRET: u64 = 7;

    struct Table(Vec<NameBucket>);

    impl Table {
        fn new(names: &[(&str, u16)]) -> Self {
            let mut table = Self(vec![NameBucket::default(); 4]);
            for (name, chain) in names {
                let hash = Suffixes::of(name.as_bytes(), SECRET)
                    .whole()
                    .expect("a name");
                let bucket = &mut table.0[name_bucket(hash, 3) as usize];
                let free = bucket.entries.iter_mut().find(|entry| **entry == 0);
                *free.expect("room") = NameEntry::new(hash, *chain).0;
            }
            table
        }

        fn chain(&self, name: &str) -> Option<u32> {
            longest(self, &Suffixes::of(name.as_bytes(), SECRET))
        }
    }

    impl Names for Table {
        fn bucket(&self, number: u32) -> Option<&NameBucket> {
            self.0.get(number as usize)
        }

        fn mask(&self) -> u32 {
            3
        }
    }

    #[test]
    fn the_longest_suffix_decides_and_labels_are_whole() {
        let table = Table::new(&[("example", 0), ("b.example", 1), ("a.b.example", 2)]);
        assert_eq!(table.chain("a.b.example"), Some(2));
        assert_eq!(table.chain("x.a.b.example"), Some(2));
        assert_eq!(table.chain("xa.b.example"), Some(1));
        assert_eq!(table.chain("ab.example"), Some(0));
        assert_eq!(table.chain("example"), Some(0));
        assert_eq!(table.chain("anexample"), None);
        assert_eq!(table.chain("example.org"), None);
        assert_eq!(table.chain(""), None);
    }

    #[test]
    fn of_more_labels_than_are_looked_at_the_last_count() {
        let table = Table::new(&[("b.example", 1)]);
        let long = std::string::String::from_iter(std::iter::repeat_n("x.", 100)) + "b.example";
        assert_eq!(table.chain(&long), Some(1));
    }
}
