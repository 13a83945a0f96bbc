//! Which names are at an address: what a flow that tells no name may be about.
//!
//! Servers share addresses. That an address is one of a refused name says nothing of a flow that told
//! no name, unless every name that is known there is refused. A flow that tells no name is every one
//! whose payload says none: TLS and HTTP without one, and all other protocols. So an address is
//! blamed only while a DNS answer that did so is fresh.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    ops::{AddAssign, SubAssign},
};

use crate::decode::name::MAX_NAME;

/// Addresses that are remembered at most; the one that was learned first leaves.
pub const MAX_ADDRESSES: usize = 16_384;

/// Names of one address that are told apart. An address with more is nobody's.
pub const MAX_NAMES: usize = 64;

/// Names at all addresses together, and their octets: devices may say what they like, and to whom. The
/// address that was learned first makes room.
pub const MAX_ALL_NAMES: usize = 65_536;
/// See [`MAX_ALL_NAMES`].
pub const MAX_OCTETS: usize = 4 << 20;

/// Changed addresses that are told one by one.
const MAX_CHANGED: usize = 2 * MAX_ADDRESSES;

/// How long a name counts at least, in seconds: flows go on with an address when its time to live is
/// over.
const AT_LEAST: f64 = 3600.0;

/// How long a name counts at most, in seconds, whatever its time to live (RFC 8767, section 4).
const AT_MOST: f64 = 604_800.0;

/// Seconds between two searches for names whose time is over.
const SWEEP: f64 = 60.0;

/// The names at addresses.
#[derive(Debug, Default)]
pub struct NamesAt {
    addresses: HashMap<IpAddr, Place>,
    /// In the order in which they were learned.
    order: VecDeque<IpAddr>,
    /// What is at all addresses together.
    size: Size,
    changed: Changed,
    /// Seconds since the Unix epoch.
    swept: f64,
    evicted: u64,
}

/// Names, and their octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    names: usize,
    octets: usize,
}

/// Addresses at which something changed; where there are [`MAX_CHANGED`], it may have everywhere.
#[derive(Debug, Default)]
struct Changed(HashSet<IpAddr>);

/// An address. Times are seconds since the Unix epoch.
#[derive(Debug, Default)]
struct Place {
    known: Vec<Known>,
    /// Until when a name counts for which there was no room.
    crowded_until: Option<f64>,
}

/// A name at an address. Times are seconds since the Unix epoch.
#[derive(Debug)]
struct Known {
    name: Box<str>,
    until: f64,
    /// Until when a DNS answer says so; `None` where only a device did, when it spoke to the address.
    answered_until: Option<f64>,
}

impl NamesAt {
    /// Takes that a DNS answer gave `name` the address for `ttl` seconds from `now` on. What is too long
    /// for the name of a host is none.
    pub fn answer(&mut self, name: &str, address: IpAddr, ttl: u32, now: f64) {
        let until = now + f64::from(ttl).clamp(AT_LEAST, AT_MOST);
        self.learn(name, address, until, Some(until), now);
    }

    /// Takes that a device said `name` to the address. It may say what it likes: such a name can
    /// excuse the address, and never blame it.
    pub fn said(&mut self, name: &str, address: IpAddr, now: f64) {
        self.learn(name, address, now + AT_LEAST, None, now);
    }

    fn learn(
        &mut self,
        name: &str,
        address: IpAddr,
        until: f64,
        answered_until: Option<f64>,
        now: f64,
    ) {
        if name.len() > MAX_NAME {
            return;
        }
        let place = self.addresses.get_mut(&address);
        let known = place.and_then(|place| place.find(name));
        if let Some(known) = known {
            if known.renew(until, answered_until, now) {
                self.changed.insert(address);
            }
            return;
        }
        self.make_room(name.len(), address);
        let place = self.addresses.entry(address).or_insert_with(|| {
            self.order.push_back(address);
            Place::default()
        });
        self.changed.insert(address);
        if place.known.len() >= MAX_NAMES {
            self.size -= place.forget_names(now);
        }
        if place.known.len() >= MAX_NAMES {
            let before = place.crowded_until.unwrap_or(until);
            place.crowded_until = Some(before.max(until));
            self.evicted += 1;
            return;
        }
        self.size += Size::of(name);
        place.known.push(Known {
            name: name.into(),
            until,
            answered_until,
        });
    }

    /// Makes room for a name at an address. The address itself stays: what is learned of it is to be
    /// held against what is known.
    fn make_room(&mut self, octets: usize, address: IpAddr) {
        let is_known = self.addresses.contains_key(&address);
        while self.size.names >= MAX_ALL_NAMES
            || self.size.octets + octets > MAX_OCTETS
            || self.addresses.len() >= MAX_ADDRESSES && !is_known
        {
            let Some(first) = self.order.pop_front() else {
                return;
            };
            if first == address {
                self.order.push_back(first);
            } else if let Some(place) = self.addresses.remove(&first) {
                let size = place.size();
                self.size -= size;
                self.evicted += size.names as u64;
                self.changed.insert(first);
            }
        }
    }

    /// The addresses at which names came or went since the last call, or were forgotten because their
    /// time was over: that is looked for once a minute. `None` where they are so many that it may be all
    /// that ever were there.
    pub fn changed(&mut self, now: f64) -> Option<HashSet<IpAddr>> {
        // A clock that was set back begins another minute.
        if !(self.swept..self.swept + SWEEP).contains(&now) {
            self.swept = now;
            self.forget_expired(now);
        }
        let Changed(changed) = std::mem::take(&mut self.changed);
        (changed.len() < MAX_CHANGED).then_some(changed)
    }

    /// All addresses, in the order in which they were learned.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.order.iter().copied()
    }

    /// The rules that refuse every name at an address, where `refusing` tells those of a name; none
    /// where no answer gave the address to a name, or where too many names are there.
    pub fn refusing(&self, address: IpAddr, now: f64, refusing: impl Fn(&str) -> u64) -> u64 {
        let Some(place) = self.addresses.get(&address) else {
            return 0;
        };
        if place.crowded_until.is_some_and(|until| now <= until) || !place.is_answered(now) {
            return 0;
        }
        let valid = place.known.iter().filter(|known| now <= known.until);
        valid.fold(u64::MAX, |set, known| set & refusing(&known.name))
    }

    /// Names that left to make room, with their addresses, or found none at theirs.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    fn forget_expired(&mut self, now: f64) {
        self.addresses.retain(|address, place| {
            let gone = place.forget_names(now);
            self.size -= gone;
            if place.forget_words(now) || gone.names > 0 {
                self.changed.insert(*address);
            }
            !place.known.is_empty() || place.crowded_until.is_some()
        });
        self.order
            .retain(|address| self.addresses.contains_key(address));
    }
}

impl Place {
    fn is_answered(&self, now: f64) -> bool {
        let mut answered = self.known.iter().filter_map(|known| known.answered_until);
        answered.any(|until| now <= until)
    }

    fn find(&mut self, name: &str) -> Option<&mut Known> {
        self.known.iter_mut().find(|known| *known.name == *name)
    }

    fn size(&self) -> Size {
        let mut size = Size::default();
        for known in &self.known {
            size += Size::of(&known.name);
        }
        size
    }

    /// Forgets the names whose time is over, and gives how much that was.
    fn forget_names(&mut self, now: f64) -> Size {
        let mut gone = self.size();
        self.known.retain(|known| now <= known.until);
        gone -= self.size();
        gone
    }

    /// Forgets of what is left that an answer said it, or that there was more, where the time of that
    /// is over. Gives whether it was.
    fn forget_words(&mut self, now: f64) -> bool {
        let is_over = |until: &mut f64| *until < now;
        let mut is_changed = self.crowded_until.take_if(is_over).is_some();
        for known in &mut self.known {
            is_changed |= known.answered_until.take_if(is_over).is_some();
        }
        is_changed
    }
}

impl Size {
    fn of(name: &str) -> Self {
        Self {
            names: 1,
            octets: name.len(),
        }
    }
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.names += other.names;
        self.octets += other.octets;
    }
}

impl SubAssign for Size {
    fn sub_assign(&mut self, other: Self) {
        self.names -= other.names;
        self.octets -= other.octets;
    }
}

impl Changed {
    fn insert(&mut self, address: IpAddr) {
        if self.0.len() < MAX_CHANGED {
            self.0.insert(address);
        }
    }
}

impl Known {
    /// Takes the name again, and gives whether it had not counted any more, or had not been answered.
    fn renew(&mut self, until: f64, answered_until: Option<f64>, now: f64) -> bool {
        let is_valid = now <= self.until;
        self.until = self.until.max(until);
        let Some(answered) = answered_until else {
            return !is_valid;
        };
        let before = self.answered_until.replace(answered);
        if let Some(before) = before {
            self.answered_until = Some(before.max(answered));
        }
        !is_valid || before.is_none_or(|before| before < now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusing(name: &str) -> u64 {
        match name {
            "blocked.example" => 0b01,
            "worse.example" => 0b11,
            _ => 0,
        }
    }

    const NOWHERE: [IpAddr; 0] = [];

    fn address(last: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from(0xc633_0000 + last))
    }

    fn rules(names: &NamesAt, now: f64) -> u64 {
        names.refusing(address(1), now, refusing)
    }

    fn changed(names: &mut NamesAt, now: f64) -> Vec<IpAddr> {
        let changed = names.changed(now).expect("they are few");
        changed.into_iter().collect()
    }

    #[test]
    fn an_address_is_that_of_refused_names_while_no_other_is_there() {
        let mut names = NamesAt::default();
        assert_eq!(rules(&names, 0.0), 0);
        names.said("blocked.example", address(1), 0.0);
        assert_eq!(rules(&names, 0.0), 0, "a device's word");
        names.answer("blocked.example", address(1), 60, 0.0);
        names.answer("worse.example", address(1), 10_000, 0.0);
        assert_eq!(changed(&mut names, 0.0), [address(1)]);
        assert_eq!(rules(&names, 0.0), 0b01);
        assert_eq!(rules(&names, AT_LEAST + 1.0), 0b11);
        names.said("allowed.example", address(1), 0.0);
        assert_eq!(changed(&mut names, 0.0), [address(1)]);
        assert_eq!(rules(&names, 0.0), 0);
        assert_eq!(changed(&mut names, 0.0), NOWHERE);
    }

    #[test]
    fn what_time_changes_is_told_within_a_minute() {
        let mut names = NamesAt::default();
        names.answer("blocked.example", address(1), 7_200, 0.0);
        names.said("allowed.example", address(1), 0.0);
        assert_eq!(changed(&mut names, 0.0), [address(1)]);
        assert_eq!(changed(&mut names, AT_LEAST), NOWHERE);
        let over = AT_LEAST + SWEEP;
        assert_eq!(changed(&mut names, over), [address(1)], "the excuse");
        assert_eq!(rules(&names, over), 0b01);
        assert_eq!(changed(&mut names, 7_200.0), NOWHERE);
        let over = 7_200.0 + SWEEP;
        assert_eq!(changed(&mut names, over), [address(1)], "the blame");
        assert_eq!(rules(&names, over), 0);
        assert_eq!(names.addresses().count(), 0);
        // The clock was far ahead.
        names.answer("blocked.example", address(1), 0, 100.0);
        assert_eq!(changed(&mut names, 100.0), [address(1)]);
        let over = 100.0 + AT_LEAST + SWEEP;
        assert_eq!(changed(&mut names, over), [address(1)]);
    }

    #[test]
    fn a_name_whose_time_was_over_comes_again() {
        let over = AT_LEAST + 1.0;
        for (name, answered) in [
            ("blocked.example", true),
            ("allowed.example", true),
            ("allowed.example", false),
        ] {
            let mut names = NamesAt::default();
            let learn = |names: &mut NamesAt, now| match answered {
                true => names.answer(name, address(1), 0, now),
                false => names.said(name, address(1), now),
            };
            // In the same minute, so that nothing was forgotten yet.
            changed(&mut names, AT_LEAST - 1.0);
            learn(&mut names, 0.0);
            assert_eq!(changed(&mut names, AT_LEAST - 1.0), [address(1)]);
            assert_eq!(rules(&names, over), 0);
            learn(&mut names, over);
            assert_eq!(changed(&mut names, over), [address(1)], "{name}");
            learn(&mut names, over + 1.0);
            assert_eq!(changed(&mut names, over + 1.0), NOWHERE, "{name}");
        }
    }

    #[test]
    fn no_word_makes_a_name_count_shorter_and_a_devices_no_blame_longer() {
        const DAY: u32 = 86_400;
        let mut names = NamesAt::default();
        names.answer("blocked.example", address(1), DAY, 0.0);
        names.said("blocked.example", address(1), 10.0);
        names.answer("blocked.example", address(1), 0, 20.0);
        assert_eq!(rules(&names, f64::from(DAY)), 0b01);
        names.said("blocked.example", address(1), f64::from(DAY));
        assert_eq!(rules(&names, f64::from(DAY) + 1.0), 0);
        // By its time to live alone it would count for a hundred years.
        names.answer("blocked.example", address(1), u32::MAX, 0.0);
        assert_eq!(rules(&names, AT_MOST), 0b01);
        assert_eq!(rules(&names, AT_MOST + 1.0), 0);
    }

    #[test]
    fn an_address_of_many_names_is_nobodys_while_they_count() {
        let mut names = NamesAt::default();
        for number in 0..=MAX_NAMES {
            let rules = names.refusing(address(1), 0.0, |_| 1);
            assert_eq!(rules, u64::from(number > 0));
            names.answer(&format!("{number}.example"), address(1), 7_200, 0.0);
        }
        assert_eq!(names.refusing(address(1), 0.0, |_| 1), 0);
        changed(&mut names, 7_200.0);
        // The one that had no room may have been an allowed one.
        names.answer("0.example", address(1), 7_200, 3_600.0);
        assert_eq!(names.refusing(address(1), 7_200.0, |_| 1), 0);
        assert_eq!(names.refusing(address(1), 7_200.1, |_| 1), 1);
        assert_eq!(changed(&mut names, 7_260.0), [address(1)]);
        assert_eq!(names.refusing(address(1), 7_260.0, |_| 1), 1);
    }

    /// What is there by count, and by the books.
    fn sizes(names: &NamesAt) -> [Size; 2] {
        let mut counted = Size::default();
        for place in names.addresses.values() {
            counted += place.size();
        }
        assert_eq!(names.order.len(), names.addresses.len());
        [counted, names.size]
    }

    #[test]
    fn devices_fill_no_memory_with_what_they_say() {
        let long = "a".repeat(MAX_NAME - 5);
        for (of_each, suffix, most) in [
            (1, "", MAX_ADDRESSES),
            (50, "", MAX_ALL_NAMES),
            (50, &*long, MAX_OCTETS / MAX_NAME),
        ] {
            let mut names = NamesAt::default();
            let said = 2 * MAX_ALL_NAMES;
            for number in 0..said {
                let at = address((number / of_each) as u32);
                names.said(&format!("{:05}{suffix}", number % 99_999), at, 0.0);
            }
            let [counted, booked] = sizes(&names);
            assert_eq!(counted, booked);
            assert!((most - 50..=most).contains(&counted.names), "{counted:?}");
            assert!(counted.octets <= MAX_OCTETS);
            assert_eq!(names.evicted(), (said - counted.names) as u64);
            assert!(names.changed.0.len() <= MAX_CHANGED);
            assert_eq!(names.changed(0.0).is_none(), of_each == 1);
            changed(&mut names, AT_LEAST + 1.0);
            assert_eq!(sizes(&names), [Size::default(); 2], "all are over");
        }
    }

    #[test]
    fn room_is_not_made_by_an_address_for_its_own_names() {
        let mut names = NamesAt::default();
        names.said("allowed.example", address(1), 0.0);
        for number in 1..MAX_ALL_NAMES as u32 {
            names.said(&format!("{number}"), address(2 + number / 50), 0.0);
        }
        assert_eq!(names.evicted(), 0);
        names.answer("blocked.example", address(1), 0, 0.0);
        assert!(names.evicted() > 0);
        assert_eq!(rules(&names, 0.0), 0, "the allowed one is there still");
    }

    #[test]
    fn names_that_have_no_room_at_an_address_are_counted() {
        let mut names = NamesAt::default();
        for number in 0..MAX_NAMES + 3 {
            names.said(&number.to_string(), address(1), 0.0);
        }
        assert_eq!(names.evicted(), 3);
        // Those whose time is over make room.
        names.said("late", address(1), AT_LEAST + 1.0);
        assert_eq!(names.evicted(), 3);
        let [counted, booked] = sizes(&names);
        assert_eq!((counted.names, booked), (1, counted));
    }
}
