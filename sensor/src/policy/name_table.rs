//! The table of names, as the kernel has it.

use std::{fmt, ops::Deref, sync::Arc};

use sensor_ebpf::name::{
    NAME_BUCKET_ENTRIES, NAME_BUCKETS_PROBED, NameBucket, NameEntry, Names, name_bucket,
};

/// The buckets of a table: in the daemon's own memory until they are put in force, in the kernel's then, so
/// that there is one copy of them.
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
    /// A power of two of them.
    pub buckets: Buckets,
    /// Names that policies are about; not all need an entry.
    pub count: u64,
}

impl Default for NameTable {
    fn default() -> Self {
        Self {
            secret: 0,
            buckets: Buckets::Own(vec![NameBucket::default()]),
            count: 0,
        }
    }
}

/// Two names cannot be told from each other under this secret, or too many lie in one place.
pub(super) struct Collision;

impl NameTable {
    /// The table of hashes and their chains: half full at most, and an eighth at least, but for
    /// rounding up.
    pub(super) fn new(
        secret: u64,
        entries: impl Iterator<Item = (u64, u16)> + Clone,
    ) -> Result<Self, Collision> {
        let half_full = (entries.clone().count() * 2)
            .div_ceil(NAME_BUCKET_ENTRIES)
            .next_power_of_two();
        // Names that still crowd into the same buckets do so under this secret alone.
        for buckets in [1, 2, 4].map(|times| half_full * times) {
            let mut buckets = vec![NameBucket::default(); buckets];
            let mut fits = true;
            for (hash, chain) in entries.clone() {
                match add(&mut buckets, hash, chain) {
                    Added::Yes => {}
                    Added::Twice => return Err(Collision),
                    Added::NoRoom => fits = false,
                }
            }
            if fits {
                return Ok(Self {
                    secret,
                    buckets: Buckets::Own(buckets),
                    count: 0,
                });
            }
        }
        Err(Collision)
    }
}

/// Puts a hash with its chain into the first place that it may have.
pub(super) fn add(buckets: &mut [NameBucket], hash: u64, chain: u16) -> Added {
    for (bucket, place) in places(buckets.len(), hash) {
        let place = &mut buckets[bucket].entries[place];
        let entry = NameEntry(*place);
        if entry.is_empty() {
            *place = NameEntry::new(hash, chain).0;
            return Added::Yes;
        }
        if entry.is_of(hash) {
            return Added::Twice;
        }
    }
    Added::NoRoom
}

/// Gives another chain to a hash of the table; returns whether the hash is there.
pub(super) fn replace(buckets: &mut [NameBucket], hash: u64, chain: u16) -> bool {
    for (bucket, place) in places(buckets.len(), hash) {
        let place = &mut buckets[bucket].entries[place];
        let entry = NameEntry(*place);
        if entry.is_empty() {
            return false;
        }
        if entry.is_of(hash) {
            *place = NameEntry::new(hash, chain).0;
            return true;
        }
    }
    false
}

/// The places that a hash may have among so many buckets, in the order in which they are looked at: buckets,
/// and the places in each.
fn places(buckets: usize, hash: u64) -> impl Iterator<Item = (usize, usize)> {
    let mask = buckets as u32 - 1;
    let first = name_bucket(hash, mask);
    let buckets =
        (0..NAME_BUCKETS_PROBED).map(move |step| (first.wrapping_add(step) & mask) as usize);
    buckets.flat_map(|bucket| (0..NAME_BUCKET_ENTRIES).map(move |place| (bucket, place)))
}

/// The outcome of adding an entry.
pub(super) enum Added {
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
