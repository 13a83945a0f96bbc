//! Marks of a device in time: its visits, and the uploads to each party, in whole seconds.
//!
//! A mark takes one to three bytes: the difference to the one before. A device's marks are kept for seven days or
//! 160 KiB, and those of all devices take 6 MiB at most; the oldest go first, those of the device that has most.
//! All marks of a device reach back to the same time, its *since*.

use std::collections::HashMap;

use super::{Recipient, visits::Owner};

/// Seconds for which marks are kept: seven days.
pub(super) const KEPT_FOR: u32 = 7 * 86_400;

/// The most bytes of one device's marks.
pub(super) const OF_DEVICE: usize = 160 << 10;

/// The most bytes of all devices' marks.
pub(super) const IN_ALL: usize = 6 << 20;

/// The most parties of one device that have marks; the one without an upload for longest makes room for another.
pub(super) const MOST_PARTIES: usize = 512;

/// Bytes that the table's entry of a series takes, beside the name of its party.
const ENTRY: usize = 96;

/// The network stack of a device from which a connection came, by its number on that device, from 1.
pub(super) type StackNumber = u8;

/// Times in whole seconds in ascending order, each with the number of a site and of a stack, where one is told.
///
/// Each mark is the difference to the one before in groups of seven bits, the lowest first. A byte 0, which no
/// difference has, and a byte behind it are the stack of all marks from there on. In a series that has sites, the
/// difference is one higher, and twice the site's number follows, and one if the mark is a second choice.
#[derive(Debug, Default)]
pub(super) struct Series {
    bytes: Vec<u8>,
    has_sites: bool,
    owner: Option<Owner>,
    /// The time before the first mark, and the stack before it.
    base: u32,
    first_stack: StackNumber,
    last: u32,
    stack: StackNumber,
}

/// A mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Seconds.
    pub(super) time: u32,
    /// The site's number; 0 in a series without sites.
    pub(super) site: u16,
    /// Whether it is the visit only if the mark before it turns out to be none.
    pub(super) is_second: bool,
    /// The stack; 0 where it is not told.
    pub(super) stack: StackNumber,
}

impl Series {
    /// An empty series whose marks have sites.
    pub(super) fn of_visits() -> Self {
        Self {
            has_sites: true,
            ..Self::default()
        }
    }

    /// Adds a mark, unless the last one is of the same second or later.
    pub(super) fn push(&mut self, mark: Mark) {
        if self.bytes.is_empty() {
            self.base = mark.time.saturating_sub(1);
            self.last = self.base;
            self.first_stack = mark.stack;
            self.stack = mark.stack;
        }
        let is_late = mark.time < self.last || mark.time == self.last && !mark.is_second;
        if is_late {
            return;
        }
        // A vector that doubles would waste half of a budget that is counted in bytes.
        const MOST: usize = 8;
        if self.bytes.capacity() - self.bytes.len() < MOST {
            self.bytes.reserve_exact(MOST + self.bytes.len() / 8);
        }
        if mark.stack != self.stack {
            self.bytes.extend([0, mark.stack]);
            self.stack = mark.stack;
        }
        let difference = mark.time - self.last;
        match self.has_sites {
            true => {
                write(&mut self.bytes, difference + 1);
                let site = u32::from(mark.site) << 1;
                write(&mut self.bytes, site | u32::from(mark.is_second));
            }
            false => write(&mut self.bytes, difference),
        }
        self.last = mark.time;
    }

    /// The marks, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Mark> {
        self.places().map(|(mark, _)| mark)
    }

    /// The marks, each with the place of the first byte behind it.
    fn places(&self) -> impl Iterator<Item = (Mark, usize)> {
        let mut at = 0;
        let mut mark = Mark {
            time: self.base,
            site: 0,
            is_second: false,
            stack: self.first_stack,
        };
        std::iter::from_fn(move || {
            while *self.bytes.get(at)? == 0 {
                mark.stack = self.bytes[at + 1];
                at += 2;
            }
            mark.time += read(&self.bytes, &mut at);
            if self.has_sites {
                mark.time -= 1;
                let site = read(&self.bytes, &mut at);
                mark.site = (site >> 1) as u16;
                mark.is_second = site & 1 == 1;
            }
            Some((mark, at))
        })
    }

    /// Removes the marks before a time.
    fn trim(&mut self, since: u32) {
        if self.base >= since {
            return;
        }
        let gone = self
            .places()
            .take_while(|(mark, _)| mark.time < since)
            .last();
        let Some((last, end)) = gone else { return };
        self.bytes.drain(..end);
        self.bytes
            .shrink_to(self.bytes.len() + self.bytes.len() / 8);
        self.base = last.time;
        self.first_stack = last.stack;
    }

    /// The time of the last mark.
    fn last(&self) -> u32 {
        self.last
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size(&self) -> usize {
        self.bytes.capacity()
    }
}

fn write(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read(bytes: &[u8], at: &mut usize) -> u32 {
    let mut number = 0;
    let mut shift = 0;
    while let Some(byte) = bytes.get(*at) {
        *at += 1;
        number |= u32::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

/// The marks of one device.
#[derive(Debug)]
pub(super) struct Marks {
    visits: Series,
    uploads: HashMap<Recipient, Series>,
    since: u32,
    size: usize,
    is_cut: bool,
}

/// The bytes of an entry without its marks.
fn entry(party: &Recipient) -> usize {
    ENTRY + party.name.len()
}

impl Marks {
    /// Without marks, from a time on.
    pub(super) fn new(since: u32) -> Self {
        let visits = Series::of_visits();
        Self {
            size: visits.size(),
            visits,
            uploads: HashMap::new(),
            since,
            is_cut: false,
        }
    }

    /// The time from which on all marks are there, in seconds.
    pub(super) fn since(&self) -> u32 {
        self.since
    }

    /// The bytes that they take.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Adds a visit, unless marks of its time went already.
    pub(super) fn visit(&mut self, visit: Mark) {
        if visit.time < self.since {
            return;
        }
        self.size -= self.visits.size();
        self.visits.push(visit);
        self.size += self.visits.size();
        self.keep_to_share(visit.time);
    }

    /// Adds an upload to a party of this owner, unless marks of its time went already.
    pub(super) fn upload(&mut self, party: &Recipient, owner: Option<Owner>, upload: Mark) {
        if upload.time < self.since {
            return;
        }
        if !self.uploads.contains_key(party) {
            self.make_room();
            self.uploads.insert(party.clone(), Series::default());
            self.size += entry(party);
        }
        if let Some(series) = self.uploads.get_mut(party) {
            self.size -= series.size();
            series.push(upload);
            series.owner = owner;
            self.size += series.size();
        }
        self.keep_to_share(upload.time);
    }

    /// The visits, the oldest first.
    pub(super) fn visits(&self) -> impl Iterator<Item = Mark> {
        self.visits.iter()
    }

    /// The parties that have uploads, in no order.
    pub(super) fn parties(&self) -> impl Iterator<Item = &Recipient> {
        self.uploads.keys()
    }

    /// The uploads to a party, the oldest first.
    pub(super) fn uploads(&self, party: &Recipient) -> impl Iterator<Item = Mark> {
        self.uploads.get(party).into_iter().flat_map(Series::iter)
    }

    /// The owner of a party, where lists know it.
    pub(super) fn owner(&self, party: &Recipient) -> Option<Owner> {
        self.uploads.get(party)?.owner
    }

    /// Removes the oldest sixteenth of the time that is covered, at least a second.
    pub(super) fn cut(&mut self) {
        let last = self.uploads.values().map(Series::last);
        let last = last.chain([self.visits.last()]).max().unwrap_or(0);
        let span = last.saturating_sub(self.since);
        self.trim(self.since + (span / 16).max(1));
        self.is_cut = true;
    }

    /// Removes marks that are older than seven days.
    pub(super) fn expire(&mut self, now: u32) {
        const SLACK: u32 = 3_600;

        if now.saturating_sub(self.since) > KEPT_FOR + SLACK {
            self.trim(now - KEPT_FOR);
        }
    }

    /// Whether marks of less than seven days went because they took too much room.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    fn make_room(&mut self) {
        if self.uploads.len() < MOST_PARTIES {
            return;
        }
        let silent = self.uploads.iter().min_by_key(|(_, series)| series.last());
        if let Some(party) = silent.map(|(party, _)| party.clone())
            && let Some(series) = self.uploads.remove(&party)
        {
            self.size -= entry(&party) + series.size();
        }
    }

    fn keep_to_share(&mut self, now: u32) {
        self.expire(now);
        while self.size > OF_DEVICE {
            let before = self.since;
            self.cut();
            if self.since <= before {
                return;
            }
        }
    }

    fn trim(&mut self, since: u32) {
        self.since = since;
        self.visits.trim(since);
        self.uploads.retain(|_, series| {
            series.trim(since);
            !series.is_empty()
        });
        self.size = self.counted();
    }

    fn counted(&self) -> usize {
        let uploads = self.uploads.iter();
        let uploads = uploads.map(|(party, series)| entry(party) + series.size());
        self.visits.size() + uploads.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn mark(time: u32, site: u16, stack: u8) -> Mark {
        Mark {
            time,
            site,
            is_second: false,
            stack,
        }
    }

    fn party(number: usize) -> Recipient {
        Recipient::party(format!("{number}.example").into())
    }

    #[test]
    fn marks_come_back_as_they_were() {
        let marks = [
            mark(1_796_000_000, 3, 0),
            mark(1_796_000_001, 300, 0),
            mark(1_796_000_128, 3, 2),
            mark(1_796_000_400, 40_000, 2),
            mark(1_796_200_000, 1, 0),
        ];
        let mut visits = Series::of_visits();
        let mut uploads = Series::default();
        for mark in marks {
            visits.push(mark);
            uploads.push(mark);
        }
        assert!(visits.iter().eq(marks));
        // A second choice may be in the same second.
        let second = Mark {
            is_second: true,
            ..marks[4]
        };
        visits.push(second);
        assert_eq!(visits.iter().last(), Some(second));
        let without_sites = marks.map(|mark| Mark { site: 0, ..mark });
        assert!(uploads.iter().eq(without_sites));
        // One byte up to 127 seconds; two for each change of the stack.
        assert_eq!(uploads.bytes.len(), 1 + 1 + (2 + 1) + 2 + (2 + 3));
        for since in [0, 1_796_000_128, 1_796_000_129, 1_796_000_400, u32::MAX] {
            uploads.trim(since);
            let rest = without_sites.iter().filter(|mark| mark.time >= since);
            assert!(uploads.iter().eq(rest.copied()), "{since}");
        }
        uploads.push(mark(1_796_300_000, 0, 1));
        assert!(uploads.iter().eq([mark(1_796_300_000, 0, 1)]));
    }

    #[test]
    fn a_second_has_one_mark() {
        let mut uploads = Series::default();
        for time in [10, 10, 11, 9, 11, 12] {
            uploads.push(mark(time, 0, 0));
        }
        let times: Vec<_> = uploads.iter().map(|mark| mark.time).collect();
        assert_eq!(times, [10, 11, 12]);
    }

    #[test]
    fn a_device_keeps_seven_days() {
        let mut marks = Marks::new(0);
        for day in 0..30 {
            marks.visit(mark(day * 86_400 + 1, 1, 0));
            marks.upload(&party(1), None, mark(day * 86_400 + 2, 0, 0));
        }
        marks.upload(&party(2), None, mark(29 * 86_400 + 3, 0, 0));
        assert_eq!(marks.visits().count(), 8);
        assert_eq!(marks.uploads(&party(1)).count(), 8);
        assert!(!marks.is_cut());
        marks.expire(50 * 86_400);
        assert_eq!((marks.visits().count(), marks.parties().count()), (0, 0));
    }

    #[test]
    fn a_device_keeps_to_its_share() {
        let mut marks = Marks::new(0);
        let parties: Vec<_> = (0..20).map(party).collect();
        let mut time = 1;
        while time < 5 * 86_400 {
            for party in &parties {
                marks.upload(party, None, mark(time, 0, 0));
            }
            assert!(marks.size() <= OF_DEVICE);
            time += 30;
        }
        assert!(marks.is_cut());
        // Each party's marks begin at the same time, and none of a later one is missing.
        let since = marks.since();
        assert!(since > 86_400 && since < 4 * 86_400, "{since}");
        for party in &parties {
            let kept = marks.uploads(party).count() as u32;
            assert!(kept.abs_diff((time - since) / 30) <= 1, "{kept}");
        }
        assert_eq!(marks.size(), marks.counted());
    }

    #[test]
    fn marks_of_a_time_that_went_are_not_added() {
        let mut marks = Marks::new(1_000);
        marks.visit(mark(999, 1, 0));
        marks.upload(&party(1), None, mark(999, 0, 0));
        assert_eq!((marks.visits().count(), marks.parties().count()), (0, 0));
        // A device that makes up so many names in one second that they have no room loses them.
        for number in 0..10 * MOST_PARTIES {
            let name = format!("{number}.{}.example", "a".repeat(240));
            marks.upload(&Recipient::party(name.into()), None, mark(1_000, 0, 0));
            assert!(marks.size() <= OF_DEVICE);
        }
        let since = marks.since();
        assert!(since > 1_000, "{since}");
        marks.visit(mark(1_000, 1, 0));
        assert!(marks.visits().all(|visit| visit.time >= since));
    }

    #[test]
    fn parties_beyond_the_most_take_the_place_of_the_most_silent_one() {
        let mut marks = Marks::new(0);
        for number in 0..MOST_PARTIES + 10 {
            let mark = mark(100 + number as u32, 0, 0);
            marks.upload(&party(number), None, mark);
            marks.upload(&party(0), None, mark);
        }
        assert_eq!(marks.parties().count(), MOST_PARTIES);
        assert_eq!(marks.size(), marks.counted());
        assert!(marks.uploads(&party(0)).count() > MOST_PARTIES);
        assert_eq!(marks.uploads(&party(1)).count(), 0);
    }
}
