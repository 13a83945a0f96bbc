//! A million names: found by any name below them, in little memory.
//!
//! All lie in one block of memory, each behind its facts and without the end that it shares with the name before,
//! and are found by a hash of their labels from the right: a lookup takes one step for each label. The hash is keyed at random, so that no list can be crafted
//! to be slow.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, Hasher, RandomState},
};

use strum::VariantArray as _;

use super::{
    super::domain::{LONGEST_NAME, is_at_or_below},
    Category, Facts, MOST_NAMES, OwnerNumber, Reason,
};

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
    pub(super) fn add(&mut self, name: &str, said: Facts) -> Result<(), Reason> {
        let mut lower = [0; LONGEST_NAME];
        let name = lower_case(name, &mut lower).ok_or(Reason::NotAName)?;
        let whole = Suffixes::of(name, &self.hashing).zip(1..).last();
        let (Suffix { hash, .. }, depth) = whole.ok_or(Reason::NotAName)?;
        if let Some(place) = self.place(name, hash) {
            let before = self.records.said(place);
            let said = before.beside(said);
            if said != before {
                self.records.say(place, said);
            }
            return Ok(());
        }
        if self.len() >= self.room {
            return Err(Reason::Full);
        }
        let place = self.records.add(name, said).ok_or(Reason::Full)?;
        if self.index.is_full() {
            self.index_anew((self.index.slots.len() * 2).max(Index::LEAST_SLOTS));
        } else {
            self.index.add(hash, place);
        }
        self.deepest = self.deepest.max(depth);
        Ok(())
    }

    /// The facts for a name, in any case, joined with those of all names above it.
    pub(super) fn find(&self, name: &str) -> Option<Facts> {
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
            .reduce(Facts::over)
    }

    /// The facts for exactly this name, in lower case.
    pub(super) fn of(&self, name: &str) -> Option<Facts> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return None;
        }
        let whole = Suffixes::of(name, &self.hashing).last()?;
        Some(self.records.said(self.place(name, whole.hash)?))
    }

    /// Visits all, in lower case, in the order in which they were added.
    pub(super) fn each(&self, mut visit: impl FnMut(&str, Facts)) {
        self.records.each(|_, name, said| visit(name, said));
    }

    /// Visits those that are one of these, in lower case, or above or below one of them.
    pub(super) fn each_about(&self, about: &[&str], mut visit: impl FnMut(&str, Facts)) {
        let mut above = BTreeSet::new();
        for name in about {
            let mut rest = *name;
            while let Some((_, shorter)) = rest.split_once('.') {
                rest = shorter;
                above.insert(rest);
            }
        }
        above.retain(|name| !about.iter().any(|other| is_at_or_below(name, other)));
        for name in above {
            if let Some(said) = self.of(name) {
                visit(name, said);
            }
        }
        self.records.each_below(about, visit);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.index.used
    }

    /// The octets that they take.
    pub(super) fn memory(&self) -> usize {
        self.records.memory() + self.index.slots.len() * (size_of::<u32>() + size_of::<u8>())
    }

    /// Gives back the memory that was reserved for further ones.
    pub(super) fn shrink(&mut self) {
        self.records.shrink();
        let enough = Index::slots_for(self.len());
        if enough < self.index.slots.len() {
            self.index_anew(enough);
        }
    }

    /// Makes the index of all names anew, with so many slots. The old one goes first, so that memory never holds
    /// both.
    fn index_anew(&mut self, slots: usize) {
        self.index = Index::default();
        let mut index = Index::with_slots(slots);
        self.records.each(|place, name, _| {
            if let Some(whole) = Suffixes::of(name, &self.hashing).last() {
                index.add(whole.hash, place);
            }
        });
        self.index = index;
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

/// Names with their facts, in the order in which they were added.
///
/// A name is stored as the number of bytes of its end that are those of the name before it, and the rest of it:
/// most lists are in some order. Each [`RUN`]th is stored whole, so that few have to be read to have one.
#[derive(Clone, Debug, Default)]
struct Records {
    octets: Vec<u8>,
    /// Where each run of names begins.
    runs: Vec<u32>,
    len: u32,
    last: Record,
    /// The facts of names about which later lists had more to say, by the names' places.
    amended: HashMap<u32, Facts>,
}

/// The names from one that is stored whole to the next.
const RUN: u32 = 16;

/// A stored name with its facts. The name lies at the end of the buffer, so that a next one with the same end
/// changes only what is before that.
#[derive(Clone, Copy, Debug)]
struct Record {
    buffer: [u8; LONGEST_NAME],
    length: u8,
    said: Facts,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            buffer: [0; LONGEST_NAME],
            length: 0,
            said: Facts {
                line: 0,
                list: 0,
                owner: None,
                category: None,
            },
        }
    }
}

impl Record {
    fn octets(&self) -> &[u8] {
        &self.buffer[LONGEST_NAME - usize::from(self.length)..]
    }

    fn name(&self) -> &str {
        // Only texts are added.
        str::from_utf8(self.octets()).unwrap_or_default()
    }

    fn set_name(&mut self, name: &[u8]) {
        self.buffer[LONGEST_NAME - name.len()..].copy_from_slice(name);
        self.length = name.len() as u8;
    }
}

/// The last bytes of a name, at most eight, by which a name below it is known from nearly all others.
struct End {
    bytes: u64,
    /// The bits that count.
    mask: u64,
}

impl End {
    fn of(name: &str) -> Self {
        let name = name.as_bytes();
        let (mut bytes, mut mask) = ([0; 8], [0; 8]);
        let known = name.iter().rev().zip(bytes.iter_mut().zip(&mut mask).rev());
        for (octet, (byte, bits)) in known {
            (*byte, *bits) = (*octet, u8::MAX);
        }
        Self {
            bytes: u64::from_ne_bytes(bytes),
            mask: u64::from_ne_bytes(mask),
        }
    }

    /// Whether the record's name may end so. Before a short name lies the end of another one, so that it may be
    /// taken for a longer one.
    fn is_of(&self, record: &Record) -> bool {
        let last = record.buffer.last_chunk().copied().unwrap_or_default();
        (u64::from_ne_bytes(last) ^ self.bytes) & self.mask == 0
    }
}

impl Records {
    /// Bytes of whole facts: line, list, owner and category.
    const FACTS: usize = 9;

    /// In the place of the lines since the name before: the facts follow whole.
    const WHOLE: u8 = u8::MAX;

    /// Adds a name of at most [`LONGEST_NAME`] octets; its place, unless there is no room.
    fn add(&mut self, name: &str, said: Facts) -> Option<u32> {
        let place = self.len;
        let name = name.as_bytes();
        let next = place.checked_add(1)?;
        let (shared, lines) = if place.is_multiple_of(RUN) {
            self.runs.push(u32::try_from(self.octets.len()).ok()?);
            (0, None)
        } else {
            let pairs = self.last.octets().iter().rev().zip(name.iter().rev());
            let shared = pairs.take_while(|(one, other)| one == other).count();
            (shared, said.lines_after(self.last.said))
        };
        let rest = &name[..name.len() - shared];
        self.octets
            .extend([shared as u8, rest.len() as u8, lines.unwrap_or(Self::WHOLE)]);
        if lines.is_none() {
            self.octets.extend(said.stored());
        }
        self.octets.extend(rest);
        self.last.set_name(name);
        self.last.said = said;
        self.len = next;
        Some(place)
    }

    /// The facts at a place.
    fn said(&self, place: u32) -> Facts {
        let amended = self.amended.get(&place);
        amended.copied().unwrap_or_else(|| self.record(place).said)
    }

    fn say(&mut self, place: u32, said: Facts) {
        self.amended.insert(place, said);
    }

    fn is_name(&self, place: u32, name: &str) -> bool {
        self.record(place).octets() == name.as_bytes()
    }

    fn record(&self, place: u32) -> Record {
        let mut record = Record::default();
        let mut at = self.runs[(place / RUN) as usize] as usize;
        for _ in 0..=place % RUN {
            at = self.read(at, &mut record);
        }
        record
    }

    /// Reads the record at an offset, which follows the one in `record`, and gives the offset of the next.
    fn read(&self, at: usize, record: &mut Record) -> usize {
        let [shared, rest, lines] = self.octets[at..].first_chunk().copied().unwrap_or_default();
        let mut at = at + 3;
        if lines == Self::WHOLE {
            let facts = self.octets[at..].first_chunk().copied().unwrap_or_default();
            record.said = Facts::of_stored(facts);
            at += Self::FACTS;
        } else {
            record.said.line += u32::from(lines);
        }
        let rest = &self.octets[at..at + usize::from(rest)];
        let start = LONGEST_NAME - usize::from(shared) - rest.len();
        record.buffer[start..start + rest.len()].copy_from_slice(rest);
        record.length = (LONGEST_NAME - start) as u8;
        at + rest.len()
    }

    /// Visits those that are one of these names or below one.
    fn each_below(&self, names: &[&str], mut visit: impl FnMut(&str, Facts)) {
        let ends: Vec<End> = names.iter().map(|name| End::of(name)).collect();
        let mut record = Record::default();
        let mut at = 0;
        for place in 0..self.len {
            at = self.read(at, &mut record);
            // Of a million names hardly one is looked at as a text.
            let is_near = ends.iter().any(|end| end.is_of(&record));
            if is_near && names.iter().any(|name| is_at_or_below(record.name(), name)) {
                visit(record.name(), self.said(place));
            }
        }
    }

    /// Visits all, in the order in which they were added.
    fn each(&self, mut visit: impl FnMut(u32, &str, Facts)) {
        let mut record = Record::default();
        let mut at = 0;
        for place in 0..self.len {
            at = self.read(at, &mut record);
            let amended = match self.amended.is_empty() {
                true => None,
                false => self.amended.get(&place),
            };
            visit(
                place,
                record.name(),
                amended.copied().unwrap_or(record.said),
            );
        }
    }

    fn memory(&self) -> usize {
        self.octets.capacity()
            + self.runs.capacity() * size_of::<u32>()
            + self.amended.capacity() * size_of::<(u32, Facts)>()
    }

    fn shrink(&mut self) {
        self.octets.shrink_to_fit();
        self.runs.shrink_to_fit();
        self.amended.shrink_to_fit();
    }
}

impl Facts {
    /// By how many lines it follows another, from which it differs in nothing else; `None` where it does, or
    /// where they are too many for a byte.
    fn lines_after(self, other: Self) -> Option<u8> {
        let lines = self.line.checked_sub(other.line)?;
        let line = other.line;
        let is_alike = Self { line, ..self } == other;
        let lines = u8::try_from(lines).ok()?;
        (is_alike && lines != Records::WHOLE).then_some(lines)
    }

    fn stored(self) -> [u8; Records::FACTS] {
        let [a, b, c, d] = self.line.to_le_bytes();
        let [e, f] = self.list.to_le_bytes();
        let [g, h] = self.owner.map_or(0, OwnerNumber::get).to_le_bytes();
        let category = self.category.map_or(0, |category| category as u8 + 1);
        [a, b, c, d, e, f, g, h, category]
    }

    fn of_stored([a, b, c, d, e, f, g, h, category]: [u8; Records::FACTS]) -> Self {
        let category = usize::from(category).checked_sub(1);
        Self {
            line: u32::from_le_bytes([a, b, c, d]),
            list: u16::from_le_bytes([e, f]),
            owner: OwnerNumber::new(u16::from_le_bytes([g, h])),
            category: category.and_then(|number| Category::VARIANTS.get(number).copied()),
        }
    }
}

/// From a hash to the places that may have it: open addressing with linear steps.
#[derive(Clone, Debug, Default)]
struct Index {
    /// Places; at most three quarters of them in use.
    slots: Vec<u32>,
    /// The lowest bits of the hash of the name at each place: nearly no other name has to be read.
    tags: Vec<u8>,
    used: usize,
}

impl Index {
    const LEAST_SLOTS: usize = 64;

    /// No place is so large.
    const FREE: u32 = u32::MAX;

    fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.first(hash);
        loop {
            let place = self.slots[at];
            if place == Self::FREE {
                return None;
            }
            if self.tags[at] == tag(hash) && is_it(place) {
                return Some(place);
            }
            at = self.next(at);
        }
    }

    /// Whether there is no room for one more.
    fn is_full(&self) -> bool {
        (self.used + 1) * 4 > self.slots.len() * 3
    }

    /// How many slots so many places take.
    fn slots_for(used: usize) -> usize {
        (used * 4).div_ceil(3).max(Self::LEAST_SLOTS)
    }

    /// Empty, with so many slots, of which there are at least [`LEAST_SLOTS`](Self::LEAST_SLOTS).
    fn with_slots(slots: usize) -> Self {
        Self {
            slots: vec![Self::FREE; slots],
            tags: vec![0; slots],
            used: 0,
        }
    }

    fn add(&mut self, hash: u32, place: u32) {
        let mut at = self.first(hash);
        while self.slots[at] != Self::FREE {
            at = self.next(at);
        }
        self.slots[at] = place;
        self.tags[at] = tag(hash);
        self.used += 1;
    }

    /// The slot at which a search begins: the highest bits of the hash choose it.
    fn first(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.slots.len() as u64) >> u32::BITS) as usize
    }

    fn next(&self, at: usize) -> usize {
        match at + 1 {
            next if next < self.slots.len() => next,
            _ => 0,
        }
    }
}

/// The bits of a hash by which slots are told apart.
const fn tag(hash: u32) -> u8 {
    hash as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: u32) -> Facts {
        Facts {
            line,
            list: 3,
            owner: OwnerNumber::new(7),
            category: Some(Category::Telemetry),
        }
    }

    #[test]
    fn names_and_facts_come_back_as_they_were_added() {
        let mut names = Names::default();
        let mut expected = Vec::new();
        for number in 0..1_000_u32 {
            let name = match number % 3 {
                0 => format!("a{number}.site.example"),
                1 => format!("{number}.example"),
                _ => format!("x{number}"),
            };
            // Lines go on, jump, and go back; other facts change now and then.
            let line = match number % 7 {
                0 => number * 1_000,
                1 => 5,
                _ => 5 + number,
            };
            let facts = Facts {
                list: (number / 10) as u16,
                ..said(line)
            };
            names.add(&name, facts).expect("there is room");
            expected.push((name, facts));
        }
        let mut found = Vec::new();
        names.each(|name, facts| found.push((name.to_owned(), facts)));
        assert_eq!(found, expected);
        for (name, facts) in &expected {
            assert_eq!(names.find(name), Some(*facts), "{name}");
        }
        // Another list has more to say of a name.
        let first = Facts {
            category: None,
            ..said(1)
        };
        names.add("new.example", first).expect("there is room");
        names.add("new.example", said(9)).expect("there is room");
        assert_eq!(names.find("new.example"), Some(said(9)));
        names.each(|name, facts| assert!(name != "new.example" || facts == said(9)));
        assert_eq!(names.len(), 1_001);
    }

    #[test]
    fn names_about_others_are_those_at_above_and_below_them() {
        let all = [
            "a.b.example",
            "b.example",
            "xb.example",
            "example",
            "c.a.b.example",
            "other.test",
            "b.example.test",
            "le",
            "test",
        ];
        let mut names = Names::default();
        for (line, name) in (1..).zip(all) {
            names.add(name, said(line)).expect("there is room");
        }
        names.shrink();
        let about: [&[&str]; 7] = [
            &["b.example"],
            &["a.b.example", "test"],
            &["nothing.example"],
            &["le"],
            &["x.c.a.b.example"],
            &["a-very-long-name.of.no.list"],
            &[],
        ];
        for about in about {
            let mut found = Vec::new();
            names.each_about(about, |name, facts| {
                assert_eq!(names.of(name), Some(facts));
                found.push(name.to_owned());
            });
            found.sort_unstable();
            let is_near = |name: &&str| {
                let mut about = about.iter();
                about.any(|one| is_at_or_below(name, one) || is_at_or_below(one, name))
            };
            let mut expected: Vec<_> = all.into_iter().filter(is_near).collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "{about:?}");
        }
    }

    #[test]
    fn a_name_takes_few_bytes() {
        let mut names = Names::default();
        for number in 0..100_000_u64 {
            let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let name = format!("ads{}.site-{number:x}.example", spread >> 56 & 15);
            names
                .add(&name, said(number as u32))
                .expect("there is room");
        }
        names.shrink();
        assert!(names.memory() < 36 * names.len(), "{}", names.memory());
    }
}
