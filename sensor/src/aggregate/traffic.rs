//! The traffic of devices by party: the flows' counts, booked to parties.
//!
//! Every series that leaves this module only grows while it is shown. A device's traffic is always the sum of
//! its parties and of `other`. A party has a series of its own once it is among the device's largest; its
//! earlier traffic stays in `other`, so that nothing is counted twice and nothing steps back. A party that is
//! overtaken loses its series and is counted in `other` from then on; it comes back with the counts it left
//! with.
//!
//! A device has a share of the parties. At its limit, its own party without traffic for longest makes room for
//! a new one. A party without a series that is silent for long is forgotten, and begins anew when it comes
//! back.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::Arc,
};

use sensor_ebpf::parse::Mac;
use strum::VariantArray as _;

use crate::{
    catalog::{PartyInfo, lists::Category, resolvers::Hidden},
    quota::{Limits, Quota},
};

/// The most parties, each counted as often as a device has it: some 12 MiB.
pub const PARTIES: Limits = Limits {
    of_device: 2_048,
    in_all: 32_768,
};

/// The parties of a device, those with the latest traffic, that are kept for [`SILENT_FOR`]; further ones are
/// kept for [`MANY_SILENT_FOR`].
const FEW: usize = 256;

/// How long a party without a series may be silent, in seconds: a day, and an hour where a device has many.
const SILENT_FOR: f64 = 86_400.0;
const MANY_SILENT_FOR: f64 = 3_600.0;

/// Bytes in both directions, and flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes by number of [`Direction`](sensor_ebpf::flow::Direction).
    pub bytes: [u64; 2],
    /// Flows by the direction of their first packet.
    pub flows: [u64; 2],
}

impl Amount {
    fn add(&mut self, other: Self) {
        for direction in 0..2 {
            self.bytes[direction] += other.bytes[direction];
            self.flows[direction] += other.flows[direction];
        }
    }

    fn total(self) -> u64 {
        self.bytes[0] + self.bytes[1]
    }
}

/// A party by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartyId(NonZeroU32);

impl PartyId {
    /// All parties that have no number of their own.
    pub const OTHER: Self = Self(NonZeroU32::MIN);
    /// All parties in the house or on the link itself.
    pub const LOCAL: Self = Self(NonZeroU32::MIN.saturating_add(1));
}

/// The parties of all devices, and the traffic with each.
#[derive(Debug)]
pub struct Parties {
    /// By domain, and by category: none, then as they are numbered.
    numbers: HashMap<Arc<str>, [Option<PartyId>; 1 + Category::VARIANTS.len()]>,
    known: HashMap<PartyId, Known>,
    /// The latest number given.
    last: PartyId,
    pairs: Quota<Mac, PartyId, WithParty>,
    /// Devices that lost a party to another device, until they are taken.
    losers: HashSet<Mac>,
}

/// A party, and how many devices have it.
#[derive(Debug)]
struct Known {
    info: PartyInfo,
    devices: usize,
}

impl Default for Parties {
    fn default() -> Self {
        let mut parties = Self {
            numbers: HashMap::new(),
            known: HashMap::new(),
            last: PartyId::LOCAL,
            pairs: Quota::new(PARTIES),
            losers: HashSet::new(),
        };
        // So that a name `other` is no second party of this name.
        for (id, name) in [(PartyId::OTHER, "other"), (PartyId::LOCAL, "local")] {
            let info = PartyInfo {
                name: name.into(),
                ..PartyInfo::default()
            };
            parties.add(id, info);
        }
        parties
    }
}

impl Parties {
    /// The number of a party that a device has from now on; `now` is in seconds since the Unix epoch.
    pub fn number(
        &mut self,
        device: Mac,
        name: &str,
        category: Option<Category>,
        now: f64,
        about: impl FnOnce() -> PartyInfo,
    ) -> PartyId {
        let numbers = self.numbers.get(name);
        let id = match numbers.and_then(|numbers| numbers[place(category)]) {
            Some(id) => id,
            None => {
                let id = self.unused();
                self.add(id, about());
                id
            }
        };
        self.enter(device, id, now);
        id
    }

    /// The facts known of a party; those of `other` for a party that no device has any more.
    pub fn info(&self, id: PartyId) -> &PartyInfo {
        static NOTHING: std::sync::LazyLock<PartyInfo> =
            std::sync::LazyLock::new(PartyInfo::default);
        let known = self.known.get(&id);
        let known = known.or_else(|| self.known.get(&PartyId::OTHER));
        known.map_or(&NOTHING, |known| &known.info)
    }

    /// The number of parties, `other` and `local` among them.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// The number of parties, each counted as often as a device has it.
    #[cfg(test)]
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Whether a device still has a party.
    pub fn has(&self, device: Mac, id: PartyId) -> bool {
        id == PartyId::OTHER || self.pairs.get(device, &id).is_some()
    }

    /// The number of times that a party of a device was evicted for another.
    pub fn evicted(&self) -> u64 {
        self.pairs.evicted()
    }

    /// The devices that lost a party to another device since the last call.
    pub fn take_losers(&mut self) -> impl Iterator<Item = Mac> + use<> {
        std::mem::take(&mut self.losers).into_iter()
    }

    /// Gives series to the `top` largest parties of a device. Once more, without a booking in between, it changes
    /// nothing.
    ///
    /// A party with a series keeps it until another is twice as large, so that parties of about equal size do
    /// not come and go.
    pub fn choose(&mut self, device: Mac, top: usize) {
        let mut shown: Vec<_> = self.with_series(device, true);
        let mut waiting: Vec<_> = self.with_series(device, false);
        shown.sort_unstable();
        waiting.sort_unstable();
        while shown.len() > top {
            let (_, smallest) = shown.remove(0);
            self.show(device, smallest, false);
        }
        let mut smallest = shown.into_iter();
        let mut free = top - smallest.len();
        while let Some((octets, party)) = waiting.pop() {
            if free > 0 {
                free -= 1;
            } else {
                match smallest.next() {
                    Some((least, leaves)) if octets > 2 * least => self.show(device, leaves, false),
                    _ => break,
                }
            }
            self.show(device, party, true);
        }
    }

    /// The parties of a device that have series: the amount shown for each, and its amount in all.
    pub fn shown(&self, device: Mac) -> impl Iterator<Item = (PartyId, Amount, Amount)> {
        let shown = self.pairs.iter_of(device).filter(|(_, with)| with.is_shown);
        shown.map(|(party, with)| {
            let shown = with.shown.as_deref().copied().unwrap_or_default();
            (*party, shown, with.all)
        })
    }

    /// Forgets the parties without a series that are silent for long.
    pub fn forget_silent(&mut self, now: f64) {
        let devices = self.pairs.devices();
        let mut counts: HashMap<_, _> = devices
            .map(|device| (device, self.pairs.len_of(device)))
            .collect();
        let mut gone = Vec::new();
        self.pairs.retain(|device, party, with| {
            let count = counts.entry(device).or_default();
            let silent = now - with.last;
            let is_late = silent > SILENT_FOR || *count > FEW && silent > MANY_SILENT_FOR;
            if with.is_shown || !is_late {
                return Some(1);
            }
            *count -= 1;
            gone.push(*party);
            None
        });
        for party in gone {
            self.let_go(party);
        }
        if self.known.capacity() > 4 * self.known.len().max(FEW) {
            self.known.shrink_to_fit();
            self.numbers.shrink_to_fit();
        }
    }

    /// Forgets the parties of a device.
    pub fn forget_device(&mut self, device: Mac) {
        for (party, _) in self.pairs.remove_device(device) {
            self.let_go(party);
        }
    }

    /// The traffic of a device with a party, which becomes the device's latest; it is added if it is new.
    fn enter(&mut self, device: Mac, id: PartyId, now: f64) -> Option<&mut WithParty> {
        if self.pairs.get(device, &id).is_none() {
            let known = self.known.get_mut(&id)?;
            known.devices += 1;
            let mut gone = Vec::new();
            let leaves = |loser, party, _| gone.push((loser, party));
            self.pairs
                .insert(device, id, WithParty::default(), 1, leaves);
            for (loser, party) in gone {
                self.let_go(party);
                self.losers.insert(loser);
            }
        }
        let with = self.pairs.renew(device, &id)?;
        with.last = now;
        Some(with)
    }

    fn add(&mut self, id: PartyId, info: PartyInfo) {
        let numbers = self.numbers.entry(Arc::clone(&info.name)).or_default();
        numbers[place(info.category)] = Some(id);
        self.known.insert(id, Known { info, devices: 0 });
    }

    /// A number that no party has. A flow may still have that of a forgotten party, so it is not reused soon.
    fn unused(&mut self) -> PartyId {
        loop {
            // Around to those of `other` and `local`, which are known.
            let next = self.last.0.checked_add(1).unwrap_or(NonZeroU32::MIN);
            self.last = PartyId(next);
            if !self.known.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// Takes that a device no longer has a party.
    fn let_go(&mut self, id: PartyId) {
        let Some(known) = self.known.get_mut(&id) else {
            return;
        };
        known.devices -= 1;
        if known.devices > 0 || matches!(id, PartyId::OTHER | PartyId::LOCAL) {
            return;
        }
        let Some(Known { info, .. }) = self.known.remove(&id) else {
            return;
        };
        if let Some(numbers) = self.numbers.get_mut(&info.name) {
            numbers[place(info.category)] = None;
            if numbers.iter().all(Option::is_none) {
                self.numbers.remove(&info.name);
            }
        }
    }

    fn with_series(&self, device: Mac, is_shown: bool) -> Vec<(u64, PartyId)> {
        let parties = self.pairs.iter_of(device);
        parties
            .filter(|(_, with)| with.is_shown == is_shown)
            .map(|(party, with)| (with.all.total(), *party))
            .collect()
    }

    fn show(&mut self, device: Mac, party: PartyId, is_shown: bool) {
        if let Some(with) = self.pairs.get_mut(device, &party) {
            with.is_shown = is_shown;
        }
    }
}

fn place(category: Option<Category>) -> usize {
    category.map_or(0, |category| 1 + category as usize)
}

/// The traffic of one device with one party.
#[derive(Clone, Debug, Default)]
struct WithParty {
    all: Amount,
    /// The part that was booked while the party had a series of its own; most never have one.
    shown: Option<Box<Amount>>,
    is_shown: bool,
    /// The time of the last booking, in seconds since the Unix epoch.
    last: f64,
}

/// All traffic of one device.
#[derive(Debug, Default)]
pub struct Traffic {
    all: Amount,
    other: Amount,
    hidden: [Amount; Hidden::VARIANTS.len()],
    categories: [Amount; Category::VARIANTS.len()],
}

/// The labels of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The other side.
    pub party: PartyId,
    /// The reason why its name is not known.
    pub hidden: Option<Hidden>,
    /// The category that the lists have for it.
    pub category: Option<Category>,
}

impl Traffic {
    /// Books new counts of a flow of a device; the party is the device's. `now` is in seconds since the Unix
    /// epoch.
    pub fn book(
        &mut self,
        of: Counted,
        amount: Amount,
        (device, parties): (Mac, &mut Parties),
        now: f64,
    ) {
        if let Some(hidden) = of.hidden {
            self.hidden[hidden as usize].add(amount);
        }
        if let Some(category) = of.category {
            self.categories[category as usize].add(amount);
        }
        self.all.add(amount);
        let with = match of.party {
            PartyId::OTHER => None,
            party => parties.enter(device, party, now),
        };
        if let Some(with) = with {
            with.all.add(amount);
            if with.is_shown {
                with.shown.get_or_insert_default().add(amount);
                return;
            }
        }
        self.other.add(amount);
    }

    /// The traffic that is booked to no series of a party.
    pub fn other(&self) -> Amount {
        self.other
    }

    /// The traffic with all parties but these, given the traffic with each of these in all.
    pub fn other_in_all(&self, shown: impl Iterator<Item = Amount>) -> Amount {
        let mut other = self.all;
        for all in shown {
            for direction in 0..2 {
                other.bytes[direction] -= all.bytes[direction];
                other.flows[direction] -= all.flows[direction];
            }
        }
        other
    }

    /// The traffic without a name, by reason.
    pub fn hidden(&self) -> impl Iterator<Item = (Hidden, Amount)> {
        Hidden::VARIANTS.iter().copied().zip(self.hidden)
    }

    /// The traffic for which the lists have a category.
    pub fn categories(&self) -> impl Iterator<Item = (Category, Amount)> {
        Category::VARIANTS.iter().copied().zip(self.categories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
    const LAPTOP: Mac = Mac::new([2, 0, 0, 0, 0, 2]);

    fn amount(octets: u64) -> Amount {
        Amount {
            bytes: [octets, 0],
            flows: [1, 0],
        }
    }

    fn of(party: PartyId) -> Counted {
        Counted {
            party,
            hidden: None,
            category: None,
        }
    }

    /// Devices that exchange something with parties that are called by numbers.
    #[derive(Default)]
    struct House {
        parties: Parties,
        devices: HashMap<Mac, Traffic>,
        now: f64,
    }

    impl House {
        fn party(&mut self, device: Mac, number: u32) -> PartyId {
            let name = number.to_string();
            let about = || PartyInfo {
                name: name.as_str().into(),
                ..PartyInfo::default()
            };
            self.parties.number(device, &name, None, self.now, about)
        }

        fn book(&mut self, device: Mac, number: u32, octets: u64) {
            let party = of(self.party(device, number));
            let traffic = self.devices.entry(device).or_default();
            let place = (device, &mut self.parties);
            traffic.book(party, amount(octets), place, self.now);
        }

        fn shown(&self, device: Mac) -> Vec<(String, u64)> {
            let shown = self.parties.shown(device);
            let mut shown: Vec<_> = shown
                .map(|(party, shown, _)| {
                    let name = self.parties.info(party).name.to_string();
                    (name, shown.bytes[0])
                })
                .collect();
            shown.sort_unstable();
            shown
        }

        fn other(&self, device: Mac) -> u64 {
            self.devices[&device].other().bytes[0]
        }

        fn other_in_all(&self, device: Mac) -> Amount {
            let shown = self.parties.shown(device).map(|(.., all)| all);
            self.devices[&device].other_in_all(shown)
        }
    }

    #[test]
    fn what_is_shown_and_other_are_all_there_is_and_only_grow() {
        let mut house = House::default();
        let mut booked = 0;
        let mut before: HashMap<String, u64> = HashMap::new();
        let mut other = 0;
        // A pattern without a period: parties overtake each other again and again.
        let mut state = 1_u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let party = 2 + (state >> 60) as u32;
            let octets = (state >> 40) & 0xfff << (party % 5);
            house.book(PHONE, party, octets);
            booked += octets;
            house.parties.choose(PHONE, 3);
            let now = house.shown(PHONE);
            assert!(now.len() <= 3);
            for (party, octets) in now {
                let before = before.entry(party).or_default();
                assert!(octets >= *before);
                *before = octets;
            }
            assert!(house.other(PHONE) >= other);
            other = house.other(PHONE);
            let in_all = house.parties.shown(PHONE).map(|(.., all)| all.bytes[0]);
            let in_all: u64 = in_all.sum();
            assert_eq!(in_all + house.other_in_all(PHONE).bytes[0], booked);
        }
        let pairs = house.parties.pairs.iter();
        let with_series = pairs.filter_map(|(.., with)| with.shown.as_ref());
        let with_series: u64 = with_series.map(|shown| shown.bytes[0]).sum();
        assert_eq!(with_series + other, booked);
    }

    #[test]
    fn what_was_exchanged_before_a_series_began_is_the_partys_in_all() {
        let mut house = House::default();
        house.book(PHONE, 2, 100);
        house.book(PHONE, 3, 30);
        house.parties.choose(PHONE, 1);
        house.book(PHONE, 2, 7);
        assert_eq!(house.other(PHONE), 130);
        assert_eq!(house.other_in_all(PHONE), amount(30));
        let (_, shown, all) = house.parties.shown(PHONE).next().expect("one is shown");
        assert_eq!((shown.bytes[0], all.bytes[0]), (7, 107));
    }

    #[test]
    fn what_calls_itself_other_is_no_second_other() {
        let mut parties = Parties::default();
        for (name, id) in [("other", PartyId::OTHER), ("local", PartyId::LOCAL)] {
            let about = || unreachable!("{name} is known");
            let number = parties.number(PHONE, name, None, 0.0, about);
            assert_eq!(number, id);
        }
    }

    #[test]
    fn one_that_is_hardly_larger_does_not_take_a_series() {
        let mut house = House::default();
        let shown = |house: &House| house.shown(PHONE);
        house.book(PHONE, 2, 100);
        house.parties.choose(PHONE, 1);
        house.book(PHONE, 3, 150);
        house.parties.choose(PHONE, 1);
        assert_eq!(shown(&house), [("2".to_owned(), 0)]);
        house.book(PHONE, 3, 100);
        house.parties.choose(PHONE, 1);
        house.book(PHONE, 3, 7);
        assert_eq!(shown(&house), [("3".to_owned(), 7)]);
    }

    #[test]
    fn a_domain_is_a_party_for_each_category() {
        let mut parties = Parties::default();
        let mut number = |category| {
            parties.number(PHONE, "miui.com", category, 0.0, || PartyInfo {
                name: "miui.com".into(),
                category,
                ..PartyInfo::default()
            })
        };
        let plain = number(None);
        let telemetry = number(Some(Category::Telemetry));
        assert_ne!(plain, telemetry);
        assert_eq!(number(None), plain);
        assert_eq!(number(Some(Category::Telemetry)), telemetry);
        assert_eq!(parties.info(telemetry).category, Some(Category::Telemetry));
    }

    #[test]
    fn a_device_with_many_parties_loses_its_own() {
        let mut house = House::default();
        house.book(LAPTOP, 1, 50);
        let first = house.party(PHONE, 1);
        let beyond = 1_000;
        let parties = PARTIES.of_device as u32 + beyond;
        for number in 1..=parties {
            house.book(PHONE, number, 1);
        }
        assert_eq!(house.parties.pairs.len_of(PHONE), PARTIES.of_device);
        assert_eq!(house.parties.evicted(), u64::from(beyond));
        // `other`, `local`, and that of the laptop.
        assert_eq!(house.parties.count(), 3 + PARTIES.of_device);
        assert!(house.parties.has(LAPTOP, first) && !house.parties.has(PHONE, first));
        house.parties.choose(PHONE, 20);
        assert_eq!(house.other(PHONE), u64::from(parties));
        assert_eq!(house.other_in_all(PHONE).bytes[0], u64::from(parties) - 20);
        // The party with the most traffic has its series again at once.
        house.book(PHONE, 1, 1_000);
        house.parties.choose(PHONE, 20);
        assert!(house.shown(PHONE).iter().any(|(name, _)| name == "1"));
    }

    #[test]
    fn devices_with_less_than_their_share_lose_nothing() {
        let mut house = House::default();
        house.book(LAPTOP, 1, 50);
        for device in 3..=2 * (PARTIES.in_all / PARTIES.of_device) as u8 {
            for number in 0..PARTIES.of_device as u32 {
                house.book(Mac::new([2, 0, 0, 0, 0, device]), number, 1);
            }
        }
        assert_eq!(house.parties.pairs.len(), PARTIES.in_all);
        let has_it = house.party(LAPTOP, 1);
        let with = house.parties.pairs.get(LAPTOP, &has_it);
        assert_eq!(with.map(|with| with.all.bytes[0]), Some(50));
    }

    #[test]
    fn silent_parties_are_forgotten() {
        let mut house = House::default();
        for number in 0..1_000 {
            house.book(PHONE, number, 1);
        }
        for number in 0..100 {
            house.book(LAPTOP, number, 1);
        }
        house.book(PHONE, 7, 1_000);
        house.parties.choose(PHONE, 1);
        house.now = MANY_SILENT_FOR;
        house.book(PHONE, 8, 1);
        house.parties.forget_silent(MANY_SILENT_FOR);
        assert_eq!(house.parties.pairs.len(), 1_100);
        house.now += 1.0;
        house.parties.forget_silent(house.now);
        // The rest is no more than what may be silent for a day.
        assert_eq!(house.parties.pairs.len_of(PHONE), FEW);
        assert_eq!(house.parties.pairs.len_of(LAPTOP), 100);
        let kept = house.party(PHONE, 8);
        assert_eq!(house.parties.pairs.len_of(PHONE), FEW, "it was there");
        assert_eq!(&*house.parties.info(kept).name, "8");
        house.now += SILENT_FOR + 1.0;
        house.parties.forget_silent(house.now);
        assert_eq!(house.shown(PHONE), [("7".to_owned(), 0)]);
        assert_eq!((house.parties.pairs.len(), house.parties.count()), (1, 3));
        house.parties.forget_device(PHONE);
        assert_eq!(house.parties.count(), 2);
    }
}
