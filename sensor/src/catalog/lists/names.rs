//! A million names: found by any name below them, in little memory.
//!
//! All lie in one block of memory, each after its facts, and are found by a hash of their labels from the
//! right: a lookup takes one step for each label. The hash is keyed at random, so that no list can be crafted
//! to be slow.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::{super::domain::LONGEST_NAME, Category, MOST_NAMES, OwnerNumber, Reason, Said};

/// The most labels that a name of [`LONGEST_NAME`] octets can have.
const MOST_LABELS: usize = LONGEST_NAME.div_ceil(2);

/// Names, and the facts for each.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// How many there may be.
    room: usize,
    records: Records,
    index: Index,
    hashing: RandomState,
    /// The most labels that a name has.
    deepest: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self::with_room(MOST_NAMES)
    }
}

impl Names {
    /// None, with room for so many.
    pub(super) fn with_room(room: usize) -> Self {
        Self {
            room,
            records: Records::default(),
            index: Index::default(),
            hashing: RandomState::new(),
            deepest: 0,
        }
    }

    /// Adds a name, in any case; if it is there already, its facts are joined with the new ones.
    pub(super) fn add(&mut self, name: &str, said: Said) -> Result<(), Reason> {
        let mut lower = [0; LONGEST_NAME];
        let name = lower_case(name, &mut lower).ok_or(Reason::NotAName)?;
        let whole = Suffixes::of(name, &self.hashing).zip(1..).last();
        let (Suffix { hash, .. }, depth) = whole.ok_or(Reason::NotAName)?;
        if let Some(place) = self.place(name, hash) {
            let said = self.records.said(place).beside(said);
            self.records.say(place, said);
            return Ok(());
        }
        if self.len() >= self.room {
            return Err(Reason::Full);
        }
        let place = self.records.add(name, said).ok_or(Reason::Full)?;
        self.index.add(hash, place);
        self.deepest = self.deepest.max(depth);
        Ok(())
    }

    /// The facts for a name, in any case, joined with those of all names above it.
    pub(super) fn find(&self, name: &str) -> Option<Said> {
        let mut lower = [0; LONGEST_NAME];
        let name = lower_case(name, &mut lower)?;
        // All hashes first, then all places, so that the processor waits for memory once, not at each label.
        let mut suffixes = [Suffix::default(); MOST_LABELS];
        let mut count = 0;
        let all = Suffixes::of(name, &self.hashing).take(self.deepest);
        for (place, suffix) in suffixes.iter_mut().zip(all) {
            *place = suffix;
            count += 1;
        }
        let longest_first = suffixes[..count].iter().rev();
        longest_first
            .filter_map(|suffix| {
                let place = self.place(&name[usize::from(suffix.start)..], suffix.hash)?;
                Some(self.records.said(place))
            })
            .reduce(Said::over)
    }

    /// Whether this very name is there, in lower case.
    pub(super) fn has(&self, name: &str) -> bool {
        let whole = Suffixes::of(name, &self.hashing).last();
        whole.is_some_and(|whole| self.place(name, whole.hash).is_some())
    }

    /// All, in lower case, in the order in which they were added.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Said)> {
        self.records.iter()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.index.used
    }

    /// The octets that they take.
    pub(super) fn memory(&self) -> usize {
        self.records.octets.capacity() + self.index.slots.len() * size_of::<Slot>()
    }

    /// Gives back the memory that was reserved for further ones.
    pub(super) fn shrink(&mut self) {
        self.records.octets.shrink_to_fit();
    }

    fn place(&self, name: &str, hash: u32) -> Option<u32> {
        self.index
            .find(hash, |place| self.records.is_name(place, name))
    }
}

/// A name in lower case, without its final dot; `None` where it cannot be one.
fn lower_case<'b>(name: &str, buffer: &'b mut [u8; LONGEST_NAME]) -> Option<&'b str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    str::from_utf8(lower).ok().filter(|name| !name.is_empty())
}

/// A part of a name: from the start of a label to the end.
#[derive(Clone, Copy, Debug, Default)]
struct Suffix {
    start: u8,
    /// The lower half of the hash of its labels.
    hash: u32,
}

/// The suffixes of a name of at most [`LONGEST_NAME`] octets, the shortest first.
struct Suffixes<'n, H> {
    name: &'n str,
    /// Where the last suffix began, without its dot; `None` after the whole name.
    rest: Option<usize>,
    hasher: H,
}

impl<'n, H: Hasher> Suffixes<'n, H> {
    fn of(name: &'n str, hashing: &impl BuildHasher<Hasher = H>) -> Self {
        Self {
            name,
            rest: Some(name.len()),
            hasher: hashing.build_hasher(),
        }
    }
}

impl<H: Hasher> Iterator for Suffixes<'_, H> {
    type Item = Suffix;

    fn next(&mut self) -> Option<Suffix> {
        let before = self.name.get(..self.rest?)?;
        let dot = before.rfind('.');
        let start = dot.map_or(0, |dot| dot + 1);
        self.hasher.write(&before.as_bytes()[start..]);
        self.hasher.write_u8(b'.');
        self.rest = dot;
        Some(Suffix {
            start: u8::try_from(start).ok()?,
            hash: self.hasher.finish() as u32,
        })
    }
}

/// Names, each after its facts.
#[derive(Clone, Debug, Default)]
struct Records {
    octets: Vec<u8>,
}

impl Records {
    /// Octets before the name: line, list, owner, category, and the length of the name.
    const HEAD: usize = 10;

    /// Adds a name of at most [`LONGEST_NAME`] octets; its place, unless there is no room.
    fn add(&mut self, name: &str, said: Said) -> Option<u32> {
        let place = u32::try_from(self.octets.len()).ok()?;
        let length = u8::try_from(name.len()).ok()?;
        self.octets.extend(said.stored());
        self.octets.push(length);
        self.octets.extend(name.as_bytes());
        Some(place)
    }

    fn said(&self, place: u32) -> Said {
        Said::of_stored(self.head(place))
    }

    fn say(&mut self, place: u32, said: Said) {
        let place = place as usize;
        self.octets[place..place + Self::HEAD - 1].copy_from_slice(&said.stored());
    }

    fn is_name(&self, place: u32, name: &str) -> bool {
        self.name(place) == name.as_bytes()
    }

    fn head(&self, place: u32) -> [u8; Self::HEAD] {
        let head = self.octets[place as usize..].first_chunk();
        head.copied().unwrap_or_default()
    }

    fn name(&self, place: u32) -> &[u8] {
        let [.., length] = self.head(place);
        let start = place as usize + Self::HEAD;
        &self.octets[start..start + usize::from(length)]
    }

    /// All, in the order in which they were added.
    fn iter(&self) -> impl Iterator<Item = (&str, Said)> {
        let mut place = 0;
        std::iter::from_fn(move || {
            if place as usize == self.octets.len() {
                return None;
            }
            let name = self.name(place);
            let said = self.said(place);
            place += (Self::HEAD + name.len()) as u32;
            // Only texts are added.
            Some((str::from_utf8(name).unwrap_or_default(), said))
        })
    }
}

impl Said {
    const STORED: usize = Records::HEAD - 1;

    fn stored(self) -> [u8; Self::STORED] {
        let [a, b, c, d] = self.line.to_le_bytes();
        let [e, f] = self.list.to_le_bytes();
        let [g, h] = self.owner.map_or(0, OwnerNumber::get).to_le_bytes();
        let category = self.category.map_or(0, |category| category as u8 + 1);
        [a, b, c, d, e, f, g, h, category]
    }

    fn of_stored([a, b, c, d, e, f, g, h, category, _]: [u8; Records::HEAD]) -> Self {
        let category = usize::from(category).checked_sub(1);
        Self {
            line: u32::from_le_bytes([a, b, c, d]),
            list: u16::from_le_bytes([e, f]),
            owner: OwnerNumber::new(u16::from_le_bytes([g, h])),
            category: category.and_then(|number| Category::ALL.get(number).copied()),
        }
    }
}

/// From a hash to the places that may have it: open addressing with linear steps.
#[derive(Clone, Debug, Default)]
struct Index {
    /// None, or a power of two, at most three quarters of them in use.
    slots: Vec<Slot>,
    used: usize,
}

/// The hash of a name, and its place.
#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    place: u32,
}

impl Slot {
    /// No place is so large: a record follows each.
    const FREE: Self = Self {
        hash: 0,
        place: u32::MAX,
    };

    const fn is_free(self) -> bool {
        self.place == Self::FREE.place
    }
}

impl Index {
    const LEAST_SLOTS: usize = 64;

    fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.is_free() {
                return None;
            }
            if slot.hash == hash && is_it(slot.place) {
                return Some(slot.place);
            }
            at = (at + 1) & mask;
        }
    }

    fn add(&mut self, hash: u32, place: u32) {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            let larger = (self.slots.len() * 2).max(Self::LEAST_SLOTS);
            let old = std::mem::replace(&mut self.slots, vec![Slot::FREE; larger]);
            for slot in old.into_iter().filter(|slot| !slot.is_free()) {
                self.put(slot);
            }
        }
        self.put(Slot { hash, place });
        self.used += 1;
    }

    fn put(&mut self, slot: Slot) {
        let mask = self.slots.len() - 1;
        let mut at = slot.hash as usize & mask;
        while !self.slots[at].is_free() {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }
}
