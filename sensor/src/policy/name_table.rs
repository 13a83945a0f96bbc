//! The table of names, as the kernel has it.

use std::{cmp::Reverse, collections::BTreeMap, fmt, ops::Deref, sync::Arc};

use sensor_ebpf::name::{
    NAME_BUCKET_ENTRIES, NAME_BUCKETS_PROBED, NameBucket, NameEntry, Names, name_bucket,
};

/// The buckets of a table: in the daemon's own memory until they are put in force, in the kernel's then, so
/// that there is one copy of them.
#[derive(Clone)]
pub enum Buckets {
    /// In the daemon's own memory.
    Own(Vec<NameBucket>),
    /// In the kernel's, where nobody writes to them any more.
    Kernels(Arc<dyn AsRef<[NameBucket]> + Send + Sync>),
}

impl Deref for Buckets {
    type Target = [NameBucket];

    fn deref(&self) -> &[NameBucket] {
        match self {
            Self::Own(buckets) => buckets,
            Self::Kernels(buckets) => (**buckets).as_ref(),
        }
    }
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} buckets", self.len())
    }
}

/// Names and their chains, by their hashes.
#[derive(Debug)]
pub struct NameTable {
    /// The secret of the hashes.
    pub secret: u64,
    /// A power of two of them, without the changes.
    pub buckets: Buckets,
    /// The buckets that stand in the place of those with the same numbers: of a million names a command changes
    /// few, and the others need no copy until they are put in force.
    pub changes: BTreeMap<usize, NameBucket>,
    /// Names that policies are about; not all need an entry.
    pub count: u64,
}

impl Default for NameTable {
    fn default() -> Self {
        Self {
            secret: 0,
            buckets: Buckets::Own(vec![NameBucket::default()]),
            changes: BTreeMap::new(),
            count: 0,
        }
    }
}

/// Buckets to which entries are written.
pub(super) trait Writable {
    /// How many there are.
    fn len(&self) -> usize;

    /// The bucket with a number below that.
    fn get(&self, number: usize) -> &NameBucket;

    /// The same, to be changed.
    fn get_mut(&mut self, number: usize) -> &mut NameBucket;
}

/// A changed bucket is kept apart.
impl Writable for NameTable {
    fn len(&self) -> usize {
        self.buckets.len()
    }

    fn get(&self, number: usize) -> &NameBucket {
        let changed = self.changes.get(&number);
        changed.unwrap_or_else(|| &self.buckets[number])
    }

    fn get_mut(&mut self, number: usize) -> &mut NameBucket {
        let bucket = self.changes.entry(number);
        bucket.or_insert_with(|| self.buckets[number])
    }
}

/// Two names cannot be told from each other under this secret, or too many lie in one place.
pub(super) struct Collision;

impl NameTable {
    /// The table of hashes and their chains: half full at most, and an eighth at least, but for
    /// rounding up.
    ///
    /// Of a million names, entries and table take 16 MiB each. The table is filled in the order of its buckets, and
    /// memory that no entry is in any more goes back meanwhile, so that both together take little more than one.
    pub(super) fn new(secret: u64, mut entries: Vec<(u64, u16)>) -> Result<Self, Collision> {
        /// After so many entries their memory is given back.
        const GIVEN_BACK: usize = 1 << 16;

        let half_full = (entries.len() * 2)
            .div_ceil(NAME_BUCKET_ENTRIES)
            .next_power_of_two();
        // Names that still crowd into the same buckets do so under this secret alone.
        for size in [1, 2, 4].map(|times| half_full * times) {
            let bucket_of = |hash: u64| name_bucket(hash, size as u32 - 1);
            entries.sort_unstable_by_key(|(hash, _)| Reverse(bucket_of(*hash)));
            let hashes = entries.iter().rev().map(|(hash, _)| *hash);
            if !fit(size, hashes) {
                continue;
            }
            let mut growing = Growing {
                size,
                buckets: Vec::with_capacity(size),
            };
            while let Some((hash, chain)) = entries.pop() {
                let Added::Yes = add(&mut growing, hash, chain) else {
                    return Err(Collision);
                };
                if entries.len().is_multiple_of(GIVEN_BACK) {
                    entries.shrink_to_fit();
                }
            }
            growing.buckets.resize(size, NameBucket::default());
            return Ok(Self {
                secret,
                buckets: Buckets::Own(growing.buckets),
                ..Self::default()
            });
        }
        Err(Collision)
    }
}

/// Whether so many buckets have a place for each of these hashes, taken in this order.
fn fit(size: usize, mut hashes: impl Iterator<Item = u64>) -> bool {
    let mut used = vec![0_u8; size];
    hashes.all(|hash| {
        let mut buckets = buckets(size, hash);
        let free = buckets.find(|bucket| usize::from(used[*bucket]) < NAME_BUCKET_ENTRIES);
        free.inspect(|bucket| used[*bucket] += 1).is_some()
    })
}

/// A table that is filled from its first bucket on, and takes memory as far as it is filled.
struct Growing {
    size: usize,
    buckets: Vec<NameBucket>,
}

impl Writable for Growing {
    fn len(&self) -> usize {
        self.size
    }

    fn get(&self, number: usize) -> &NameBucket {
        const EMPTY: &NameBucket = &NameBucket {
            entries: [0; NAME_BUCKET_ENTRIES],
        };
        self.buckets.get(number).unwrap_or(EMPTY)
    }

    fn get_mut(&mut self, number: usize) -> &mut NameBucket {
        if number >= self.buckets.len() {
            self.buckets.resize(number + 1, NameBucket::default());
        }
        &mut self.buckets[number]
    }
}

/// Puts a hash with its chain into the first place that it may have.
pub(super) fn add<W: Writable + ?Sized>(buckets: &mut W, hash: u64, chain: u16) -> Added {
    for (bucket, place) in places(buckets.len(), hash) {
        let entry = NameEntry(buckets.get(bucket).entries[place]);
        if entry.is_empty() {
            buckets.get_mut(bucket).entries[place] = NameEntry::new(hash, chain).0;
            return Added::Yes;
        }
        if entry.is_of(hash) {
            return Added::Twice;
        }
    }
    Added::NoRoom
}

/// Gives another chain to a hash of the table; returns whether the hash is there.
pub(super) fn replace<W: Writable + ?Sized>(buckets: &mut W, hash: u64, chain: u16) -> bool {
    for (bucket, place) in places(buckets.len(), hash) {
        let entry = NameEntry(buckets.get(bucket).entries[place]);
        if entry.is_empty() {
            return false;
        }
        if entry.is_of(hash) {
            buckets.get_mut(bucket).entries[place] = NameEntry::new(hash, chain).0;
            return true;
        }
    }
    false
}

/// The places that a hash may have among so many buckets, in the order in which they are looked at: buckets,
/// and the places in each.
fn places(size: usize, hash: u64) -> impl Iterator<Item = (usize, usize)> {
    buckets(size, hash)
        .flat_map(|bucket| (0..NAME_BUCKET_ENTRIES).map(move |place| (bucket, place)))
}

/// The buckets in which a hash may lie among so many, in the order in which they are looked at.
fn buckets(size: usize, hash: u64) -> impl Iterator<Item = usize> {
    let mask = size as u32 - 1;
    let first = name_bucket(hash, mask);
    (0..NAME_BUCKETS_PROBED).map(move |step| (first.wrapping_add(step) & mask) as usize)
}

/// The outcome of adding an entry.
pub(super) enum Added {
    Yes,
    Twice,
    NoRoom,
}

impl Names for NameTable {
    fn bucket(&self, number: u32) -> Option<&NameBucket> {
        let number = number as usize;
        let changed = self.changes.get(&number);
        changed.or_else(|| self.buckets.get(number))
    }

    fn mask(&self) -> u32 {
        self.buckets.len() as u32 - 1
    }
}
