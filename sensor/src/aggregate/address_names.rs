//! The names that a device knows at an address: a flow of its own that tells no name may be to any of them.
//!
//! Servers share addresses. An address of a refused name refuses a flow that told no name only if every name
//! that the device knows there is refused. Flows that tell no name are all those whose payload has none: TLS
//! and HTTP without one, and all other protocols. So an address is blamed only while a DNS answer that gave it
//! to the name is fresh.
//!
//! An answer blames the address for the device that got it, and a name excuses it for the device that sent the
//! name: no device decides about another.

use std::{
    collections::HashSet,
    mem,
    net::IpAddr,
    ops::{Deref, DerefMut},
    slice,
    sync::Arc,
};

use sensor_ebpf::parse::Mac;

use crate::{
    decode::name::MAX_NAME,
    quota::{Limits, Quota},
};

/// The memory for names, in bytes, which is bounded because devices may send any name to any address. The
/// address whose latest name is oldest is evicted first.
pub const LIMITS: Limits = Limits {
    of_device: 1 << 20,
    in_all: 4 << 20,
};

/// The cost of an address, and that of each of its names beside the name's own bytes.
const ADDRESS_COST: usize = 208;
const NAME_COST: usize = 64;

/// The cost of a name to which another one leads, beside its own bytes.
const ALIAS_COST: usize = 16;

/// The most addresses that are remembered, each counted as often as a device knows it.
pub const MAX_PLACES: usize = LIMITS.in_all / (ADDRESS_COST + NAME_COST);

/// The most names that are remembered at one address. An address with more is blamed for none.
pub const MAX_NAMES: usize = 64;

/// The most changed addresses that are reported one by one.
const MAX_CHANGED: usize = 2 * MAX_PLACES;

/// How long a name counts at least, in seconds: programs go on using an address after its time to live.
const AT_LEAST: f64 = 3600.0;

/// How long a name counts at most, in seconds, even if its time to live is longer (RFC 8767, section 4).
const AT_MOST: f64 = 604_800.0;

/// Seconds between two searches for expired names.
const SWEEP: f64 = 60.0;

/// An address as a device knows it.
pub type Place = (Mac, IpAddr);

/// The names at the addresses that devices know.
#[derive(Debug)]
pub struct AddressNames {
    places: Quota<Mac, IpAddr, Names>,
    changed: Changed,
    /// Seconds since the Unix epoch.
    swept: f64,
    /// Names.
    evicted: u64,
}

/// Places at which something changed; if there are [`MAX_CHANGED`], any other may have changed as well.
#[derive(Debug, Default)]
struct Changed(HashSet<Place>);

/// The names at an address. Times are seconds since the Unix epoch.
#[derive(Debug, Default)]
struct Names {
    known: Few,
    /// The time until which a name counts that found no room.
    crowded_until: Option<f64>,
}

/// A name at an address. Times are seconds since the Unix epoch.
#[derive(Debug)]
struct Known {
    /// Shared with the flows, and with other addresses, that have the name.
    name: Arc<str>,
    /// The further names to which the latest answer led from it.
    aliases: Box<[Box<str>]>,
    until: f64,
    /// The time until which a DNS answer gives it; `None` if only the device sent it to the address.
    answered_until: Option<f64>,
}

/// Names, in the order in which they came. Most addresses have one, which takes no memory of its own.
#[derive(Debug, Default)]
enum Few {
    #[default]
    None,
    One(Known),
    More(Vec<Known>),
}

impl Deref for Few {
    type Target = [Known];

    fn deref(&self) -> &[Known] {
        match self {
            Self::None => &[],
            Self::One(known) => slice::from_ref(known),
            Self::More(all) => all,
        }
    }
}

impl DerefMut for Few {
    fn deref_mut(&mut self) -> &mut [Known] {
        match self {
            Self::None => &mut [],
            Self::One(known) => slice::from_mut(known),
            Self::More(all) => all,
        }
    }
}

impl Few {
    fn push(&mut self, known: Known) {
        *self = match mem::take(self) {
            Self::None => Self::One(known),
            Self::One(first) => Self::More(vec![first, known]),
            Self::More(mut all) => {
                all.push(known);
                Self::More(all)
            }
        };
    }

    fn retain(&mut self, keep: impl Fn(&Known) -> bool) {
        match self {
            Self::One(known) if !keep(known) => *self = Self::None,
            Self::None | Self::One(_) => {}
            Self::More(all) => all.retain(keep),
        }
    }
}

impl Default for AddressNames {
    fn default() -> Self {
        Self {
            places: Quota::new(LIMITS),
            changed: Changed::default(),
            swept: 0.0,
            evicted: 0,
        }
    }
}

impl AddressNames {
    /// Takes that a DNS answer to a device gave `name` the address for `ttl` seconds from `now` on, and led from
    /// the name to `aliases` on the way. A name that is too long for a host is ignored.
    pub fn answer(
        &mut self,
        name: impl Into<Arc<str>>,
        aliases: &[&str],
        place: Place,
        ttl: u32,
        now: f64,
    ) {
        let until = now + f64::from(ttl).clamp(AT_LEAST, AT_MOST);
        let aliases = aliases.iter().filter(|alias| alias.len() <= MAX_NAME);
        let aliases = aliases.map(|alias| Box::from(*alias)).collect();
        let learned = Known {
            name: name.into(),
            aliases,
            until,
            answered_until: Some(until),
        };
        self.learn(learned, place, now);
    }

    /// Takes that a device sent `name` to the address. Because a device may send any name, this one can excuse
    /// the address, and never blame it.
    pub fn said(&mut self, name: impl Into<Arc<str>>, place: Place, now: f64) {
        let learned = Known {
            name: name.into(),
            aliases: Box::default(),
            until: now + AT_LEAST,
            answered_until: None,
        };
        self.learn(learned, place, now);
    }

    fn learn(&mut self, learned: Known, place: Place, now: f64) {
        if learned.name.len() > MAX_NAME {
            return;
        }
        let (device, address) = place;
        let names = self.places.renew(device, &address);
        if let Some(known) = names.and_then(|names| names.find(&learned.name))
            && known.has_aliases_of(&learned)
        {
            if known.renew(&learned, now) {
                self.changed.insert(place);
            }
            return;
        }
        self.changed.insert(place);
        let mut names = self.places.remove(device, &address).unwrap_or_default();
        if names.known.len() >= MAX_NAMES {
            names.forget_names(now);
        }
        let is_full = names.known.len() >= MAX_NAMES;
        if let Some(known) = names.find(&learned.name) {
            known.renew(&learned, now);
            known.aliases = learned.aliases;
        } else if is_full {
            let before = names.crowded_until.unwrap_or(learned.until);
            names.crowded_until = Some(before.max(learned.until));
            self.evicted += 1;
        } else {
            names.known.push(learned);
        }
        let cost = names.cost();
        let leaves = |device, address, names: Names| {
            self.evicted += names.known.len() as u64;
            self.changed.insert((device, address));
        };
        self.places.insert(device, address, names, cost, leaves);
    }

    /// The names to which the latest DNS answer with addresses led a device from this name.
    pub fn aliases(&self, device: Mac, name: &str, now: f64) -> &[Box<str>] {
        let known = self
            .places
            .iter_of(device)
            .flat_map(|(_, names)| names.known.iter());
        let answered = known.filter(|known| *known.name == *name);
        let valid = answered.filter_map(|known| {
            let until = known.answered_until.filter(|until| now <= *until)?;
            Some((until, &known.aliases))
        });
        let latest = valid.max_by(|(one, _), (other, _)| one.total_cmp(other));
        latest.map_or(&[], |(_, aliases)| aliases)
    }

    /// The places at which names came or went since the last call, or expired: the search for expired names
    /// runs once a minute. `None` if they are so many that any place that ever was there may be among them.
    pub fn changed(&mut self, now: f64) -> Option<HashSet<Place>> {
        // After a clock was set back, another minute begins.
        if !(self.swept..self.swept + SWEEP).contains(&now) {
            self.swept = now;
            self.forget_expired(now);
        }
        let Changed(changed) = mem::take(&mut self.changed);
        (changed.len() < MAX_CHANGED).then_some(changed)
    }

    /// All addresses, as devices know them.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let places = self.places.iter();
        places.map(|(device, address, _)| (device, *address))
    }

    /// The rules that refuse every name that a device knows at an address, where `refusing` returns those of
    /// one name and the names to which it leads. None if no answer to the device gave the address to a name, or if too many names are there.
    pub fn refusing(
        &self,
        (device, address): Place,
        now: f64,
        refusing: impl Fn(&str, &[Box<str>]) -> u64,
    ) -> u64 {
        let Some(names) = self.places.get(device, &address) else {
            return 0;
        };
        if names.crowded_until.is_some_and(|until| now <= until) || !names.are_answered(now) {
            return 0;
        }
        let valid = names.known.iter().filter(|known| now <= known.until);
        valid.fold(u64::MAX, |set, known| {
            set & refusing(&known.name, &known.aliases)
        })
    }

    /// The number of names that were evicted with their addresses, or found no room at theirs.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The memory in use, in bytes.
    pub fn cost(&self) -> usize {
        self.places.cost()
    }

    /// Forgets all names that a device knows.
    pub fn forget_device(&mut self, device: Mac) {
        for (address, _) in self.places.remove_device(device) {
            self.changed.insert((device, address));
        }
    }

    fn forget_expired(&mut self, now: f64) {
        self.places.retain(|device, address, names| {
            let gone = names.forget_names(now);
            if names.forget_words(now) || gone {
                self.changed.insert((device, *address));
            }
            let is_kept = !names.known.is_empty() || names.crowded_until.is_some();
            is_kept.then(|| names.cost())
        });
    }
}

impl Names {
    fn are_answered(&self, now: f64) -> bool {
        let mut answered = self.known.iter().filter_map(|known| known.answered_until);
        answered.any(|until| now <= until)
    }

    fn find(&mut self, name: &str) -> Option<&mut Known> {
        self.known.iter_mut().find(|known| *known.name == *name)
    }

    fn cost(&self) -> usize {
        let names = self.known.iter();
        let names = names.map(|known| {
            let aliases = known.aliases.iter().map(|alias| ALIAS_COST + alias.len());
            NAME_COST + known.name.len() + aliases.sum::<usize>()
        });
        ADDRESS_COST + names.sum::<usize>()
    }

    /// Forgets the expired names, and returns whether there were any.
    fn forget_names(&mut self, now: f64) -> bool {
        let before = self.known.len();
        self.known.retain(|known| now <= known.until);
        self.known.len() < before
    }

    /// Forgets for the remaining names the answers that expired, and the names without room once their time is
    /// over. Returns whether there were any.
    fn forget_words(&mut self, now: f64) -> bool {
        let is_over = |until: &mut f64| *until < now;
        let mut is_changed = self.crowded_until.take_if(is_over).is_some();
        for known in self.known.iter_mut() {
            is_changed |= known.answered_until.take_if(is_over).is_some();
        }
        is_changed
    }
}

impl Changed {
    fn insert(&mut self, place: Place) {
        if self.0.len() < MAX_CHANGED {
            self.0.insert(place);
        }
    }
}

impl Known {
    /// Whether another observation of the name has the same aliases, or says nothing of them.
    fn has_aliases_of(&self, learned: &Self) -> bool {
        learned.answered_until.is_none() || self.aliases == learned.aliases
    }

    /// Takes the name again, and returns whether it had expired before, or had no valid answer.
    fn renew(&mut self, learned: &Self, now: f64) -> bool {
        let is_valid = now <= self.until;
        self.until = self.until.max(learned.until);
        let Some(answered) = learned.answered_until else {
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

    fn refusing(name: &str, aliases: &[Box<str>]) -> u64 {
        match aliases.last().map_or(name, |alias| alias) {
            "blocked.example" => 0b01,
            "worse.example" => 0b11,
            _ => 0,
        }
    }

    const NOWHERE: [Place; 0] = [];

    const PHONE: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
    const LAPTOP: Mac = Mac::new([2, 0, 0, 0, 0, 2]);

    fn at(device: Mac, last: u32) -> Place {
        let address = std::net::Ipv4Addr::from(0xc633_0000 + last);
        (device, address.into())
    }

    /// An address as the phone knows it.
    fn address(last: u32) -> Place {
        at(PHONE, last)
    }

    fn rules(names: &AddressNames, now: f64) -> u64 {
        names.refusing(address(1), now, refusing)
    }

    fn changed(names: &mut AddressNames, now: f64) -> Vec<Place> {
        let changed = names.changed(now).expect("they are few");
        changed.into_iter().collect()
    }

    #[test]
    fn an_address_is_that_of_refused_names_while_no_other_is_there() {
        let mut names = AddressNames::default();
        assert_eq!(rules(&names, 0.0), 0);
        names.said("blocked.example", address(1), 0.0);
        assert_eq!(rules(&names, 0.0), 0, "a device's word");
        names.answer("blocked.example", &[], address(1), 60, 0.0);
        names.answer("worse.example", &[], address(1), 10_000, 0.0);
        assert_eq!(changed(&mut names, 0.0), [address(1)]);
        assert_eq!(rules(&names, 0.0), 0b01);
        assert_eq!(rules(&names, AT_LEAST + 1.0), 0b11);
        names.said("allowed.example", address(1), 0.0);
        assert_eq!(changed(&mut names, 0.0), [address(1)]);
        assert_eq!(rules(&names, 0.0), 0);
        assert_eq!(changed(&mut names, 0.0), NOWHERE);
    }

    #[test]
    fn a_name_is_known_with_the_names_to_which_it_leads() {
        let mut names = AddressNames::default();
        let cloaked = ["edge.example", "blocked.example"];
        names.answer("shop.example", &cloaked, address(1), 60, 0.0);
        names.answer("shop.example", &cloaked, at(LAPTOP, 2), 60, 0.0);
        assert_eq!(rules(&names, 0.0), 0b01);
        let aliases =
            |names: &AddressNames, now| names.aliases(PHONE, "shop.example", now).to_vec();
        assert_eq!(*aliases(&names, 0.0), cloaked.map(Box::from));
        changed(&mut names, 0.0);
        // Its own word takes nothing away, and the same answer changes nothing.
        names.said("shop.example", address(1), 1.0);
        names.answer("shop.example", &cloaked, address(1), 60, 1.0);
        assert_eq!(changed(&mut names, 1.0), NOWHERE);
        let cost = names.cost();
        names.answer("shop.example", &["edge.example"], address(1), 60, 2.0);
        assert_eq!(changed(&mut names, 2.0), [address(1)]);
        assert_eq!(rules(&names, 2.0), 0);
        assert_eq!(names.cost(), cost - ALIAS_COST - "blocked.example".len());
        assert_eq!(*aliases(&names, 2.0), ["edge.example".into()]);
        assert_eq!(*aliases(&names, 3.0 + AT_LEAST), []);
        assert_eq!(*names.aliases(LAPTOP, "other.example", 0.0), []);
    }

    #[test]
    fn what_time_changes_is_told_within_a_minute() {
        let mut names = AddressNames::default();
        names.answer("blocked.example", &[], address(1), 7_200, 0.0);
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
        assert_eq!(names.places().count(), 0);
        // The clock was far ahead.
        names.answer("blocked.example", &[], address(1), 0, 100.0);
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
            let mut names = AddressNames::default();
            let learn = |names: &mut AddressNames, now| match answered {
                true => names.answer(name, &[], address(1), 0, now),
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
        let mut names = AddressNames::default();
        names.answer("blocked.example", &[], address(1), DAY, 0.0);
        names.said("blocked.example", address(1), 10.0);
        names.answer("blocked.example", &[], address(1), 0, 20.0);
        assert_eq!(rules(&names, f64::from(DAY)), 0b01);
        names.said("blocked.example", address(1), f64::from(DAY));
        assert_eq!(rules(&names, f64::from(DAY) + 1.0), 0);
        // By its time to live alone it would count for a hundred years.
        names.answer("blocked.example", &[], address(1), u32::MAX, 0.0);
        assert_eq!(rules(&names, AT_MOST), 0b01);
        assert_eq!(rules(&names, AT_MOST + 1.0), 0);
    }

    #[test]
    fn an_address_of_many_names_is_nobodys_while_they_count() {
        let mut names = AddressNames::default();
        for number in 0..=MAX_NAMES {
            let rules = names.refusing(address(1), 0.0, |_, _| 1);
            assert_eq!(rules, u64::from(number > 0));
            names.answer(format!("{number}.example"), &[], address(1), 7_200, 0.0);
        }
        assert_eq!(names.refusing(address(1), 0.0, |_, _| 1), 0);
        changed(&mut names, 7_200.0);
        // The one that had no room may have been an allowed one.
        names.answer("0.example", &[], address(1), 7_200, 3_600.0);
        assert_eq!(names.refusing(address(1), 7_200.0, |_, _| 1), 0);
        assert_eq!(names.refusing(address(1), 7_200.1, |_, _| 1), 1);
        assert_eq!(changed(&mut names, 7_260.0), [address(1)]);
        assert_eq!(names.refusing(address(1), 7_260.0, |_, _| 1), 1);
    }

    #[test]
    fn no_devices_word_or_answer_decides_about_another() {
        let mut names = AddressNames::default();
        let of = |names: &AddressNames, device| names.refusing(at(device, 1), 0.0, refusing);
        names.answer("blocked.example", &[], at(LAPTOP, 1), 60, 0.0);
        assert_eq!((of(&names, PHONE), of(&names, LAPTOP)), (0, 0b01));
        names.answer("blocked.example", &[], at(PHONE, 1), 60, 0.0);
        changed(&mut names, 0.0);
        names.said("allowed.example", at(LAPTOP, 1), 0.0);
        names.answer("allowed.example", &[], at(LAPTOP, 1), 60, 0.0);
        assert_eq!(changed(&mut names, 0.0), [at(LAPTOP, 1)]);
        assert_eq!((of(&names, PHONE), of(&names, LAPTOP)), (0b01, 0));
        for number in 0..=MAX_NAMES {
            names.said(format!("{number}.example"), at(LAPTOP, 1), 0.0);
        }
        assert_eq!(of(&names, PHONE), 0b01);
        names.forget_device(LAPTOP);
        assert_eq!(of(&names, PHONE), 0b01);
    }

    #[test]
    fn a_device_fills_no_memory_and_no_others_share_with_what_it_says() {
        let long = "a".repeat(MAX_NAME - 5);
        for (of_each, suffix) in [(1, ""), (50, ""), (50, &*long)] {
            let mut names = AddressNames::default();
            names.answer("blocked.example", &[], at(LAPTOP, 1), 60, 0.0);
            let said = 131_072;
            for number in 0..said {
                let place = address(number / of_each);
                names.said(format!("{:05}{suffix}", number % 99_999), place, 0.0);
            }
            let of_phone = names.places.cost_of(PHONE);
            let largest = ADDRESS_COST + 50 * (NAME_COST + MAX_NAME);
            assert!((LIMITS.of_device - largest..=LIMITS.of_device).contains(&of_phone));
            let known: usize = names
                .places
                .iter()
                .map(|(.., names)| names.known.len())
                .sum();
            assert_eq!(names.evicted(), u64::from(said) + 1 - known as u64);
            assert!(names.changed.0.len() <= MAX_CHANGED);
            assert_eq!(names.changed(0.0).is_none(), of_each == 1);
            let laptops = |names: &AddressNames| names.refusing(at(LAPTOP, 1), 0.0, refusing);
            assert_eq!(laptops(&names), 0b01);
            changed(&mut names, AT_LEAST + 1.0);
            assert_eq!((names.places.len(), names.cost()), (0, 0), "all are over");
        }
    }

    #[test]
    fn made_up_devices_fill_what_there_is_for_all_and_no_more() {
        let mut names = AddressNames::default();
        names.answer("blocked.example", &[], address(1), 60, 0.0);
        for number in 0..2 * MAX_PLACES as u32 {
            let [_, b, c, d] = number.to_be_bytes();
            names.said("a", at(Mac::new([6, 0, 0, b, c, d]), 1), 0.0);
        }
        assert!(names.cost() <= LIMITS.in_all);
        assert!(names.places.len() <= MAX_PLACES);
    }

    #[test]
    fn names_that_have_no_room_at_an_address_are_counted() {
        let mut names = AddressNames::default();
        for number in 0..MAX_NAMES + 3 {
            names.said(number.to_string(), address(1), 0.0);
        }
        assert_eq!(names.evicted(), 3);
        // Those whose time is over make room.
        names.said("late", address(1), AT_LEAST + 1.0);
        assert_eq!(names.evicted(), 3);
        let known = names.places.iter().map(|(.., names)| names.known.len());
        assert_eq!(known.sum::<usize>(), 1);
        assert_eq!(names.cost(), ADDRESS_COST + NAME_COST + "late".len());
    }
}
