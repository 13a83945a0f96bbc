//! The table of names, as the kernel has it.

use sensor_ebpf::name::{
    NAME_BUCKET_ENTRIES, NAME_BUCKETS_PROBED, NameBucket, NameEntry, Names, name_bucket,
};

/// Names and their chains, by their hashes.
#[derive(Debug)]
pub struct NameTable {
    /// The secret of the hashes.
    pub secret: u64,
    /// A power of two of them.
    pub buckets: Vec<NameBucket>,
    /// Names that policies are about; not all need an entry.
    pub count: u64,
}

impl Default for NameTable {
    fn default() -> Self {
        Self {
            secret: 0,
            buckets: vec![NameBucket::default()],
            count: 0,
        }
    }
}

/// Two names cannot be told from each other under this secret, or too many lie in one place.
pub(super) struct Collision;

impl NameTable {
    /// The table of hashes and their chains: half full at most, and an eighth at least, but for
    /// rounding up.
    pub(super) fn new(secret: u64, entries: &[(u64, u16)]) -> Result<Self, Collision> {
        let half_full = (entries.len() * 2)
            .div_ceil(NAME_BUCKET_ENTRIES)
            .next_power_of_two();
        // Names that still crowd into the same buckets do so under this secret alone.
        for buckets in [1, 2, 4].map(|times| half_full * times) {
            let mut table = Self {
                secret,
                buckets: vec![NameBucket::default(); buckets],
                count: 0,
            };
            let mut fits = true;
            for (hash, chain) in entries {
                match table.add(*hash, *chain) {
                    Added::Yes => {}
                    Added::Twice => return Err(Collision),
                    Added::NoRoom => fits = false,
                }
            }
            if fits {
                return Ok(table);
            }
        }
        Err(Collision)
    }

    fn add(&mut self, hash: u64, chain: u16) -> Added {
        let mask = self.mask();
        let mut number = name_bucket(hash, mask);
        for _ in 0..NAME_BUCKETS_PROBED {
            for place in &mut self.buckets[number as usize].entries {
                let entry = NameEntry(*place);
                if entry.is_empty() {
                    *place = NameEntry::new(hash, chain).0;
                    return Added::Yes;
                }
                if entry.is_of(hash) {
                    return Added::Twice;
                }
            }
            number = (number + 1) & mask;
        }
        Added::NoRoom
    }
}

enum Added {
    Yes,
    Twice,
    NoRoom,
}

impl Names for NameTable {
    fn bucket(&self, number: u32) -> Option<&NameBucket> {
        self.buckets.get(number as usize)
    }

    fn mask(&self) -> u32 {
        self.buckets.len() as u32 - 1
    }
}
