//! How much a device exchanges with whom: the flows' counts, booked to parties.
//!
//! Every series that leaves this module only grows while it is shown, and what a device exchanges
//! is always the sum of its parties and of `other`. A party has a series of its own once it is
//! among the device's largest; what it exchanged before stays in `other`, so that nothing is
//! counted twice and nothing steps back. One that is overtaken loses its series and is counted in
//! `other` from then on; it comes back with the counts it left with.

use std::{collections::HashMap, sync::Arc};

use super::party::{hidden::Hidden, lists::Category, networks::Network};

/// Parties that are known at most, of all devices together; further ones are `other`.
pub const MAX_PARTIES: usize = 16_384;

/// Parties that are counted for one device at most; further ones are `other`.
pub const MAX_PARTIES_OF_DEVICE: usize = 4_096;

/// Parties that are counted for all devices at most, each as often as a device has it: about
/// 10 MiB.
pub const MAX_PAIRS: usize = 65_536;

/// Octets in both directions, and flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Octets by number of [`Direction`](sensor_ebpf::flow::Direction).
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
pub struct PartyId(u32);

impl PartyId {
    /// All that have no number of their own.
    pub const OTHER: Self = Self(0);
    /// Whoever is in the house or on the link itself.
    pub const LOCAL: Self = Self(1);
}

/// What is known of a party.
#[derive(Clone, Debug, Default)]
pub struct PartyInfo {
    /// The registrable domain of its name, or its address.
    pub name: Arc<str>,
    /// Who it belongs to.
    pub owner: Option<Arc<str>>,
    /// What the lists call the names under this domain that are counted here: one domain is several
    /// parties where lists tell its names apart.
    pub category: Option<Category>,
    /// Where its first address is.
    pub network: Network,
}

/// Every party that was seen.
#[derive(Debug)]
pub struct Parties {
    /// By domain, and by category: none, then as they are numbered.
    numbers: HashMap<Arc<str>, [Option<PartyId>; 1 + Category::ALL.len()]>,
    infos: Vec<PartyInfo>,
    /// Devices with a party, all parties together.
    pairs: usize,
    refused: u64,
}

impl Default for Parties {
    fn default() -> Self {
        let named = |name: &str| PartyInfo {
            name: name.into(),
            ..PartyInfo::default()
        };
        let infos = vec![named("other"), named("local")];
        // So that what calls itself `other` is no second party of this name.
        let numbers = [PartyId::OTHER, PartyId::LOCAL].map(|id| {
            let mut numbers = [None; 1 + Category::ALL.len()];
            numbers[0] = Some(id);
            (Arc::clone(&infos[id.0 as usize].name), numbers)
        });
        Self {
            numbers: HashMap::from(numbers),
            infos,
            pairs: 0,
            refused: 0,
        }
    }
}

impl Parties {
    /// The number of a party, given to it now where it has none; [`PartyId::OTHER`] where there is
    /// no room.
    pub fn number(
        &mut self,
        name: &str,
        category: Option<Category>,
        about: impl FnOnce() -> PartyInfo,
    ) -> PartyId {
        let place = category.map_or(0, |category| 1 + category as usize);
        if let Some(id) = self.numbers.get(name).and_then(|numbers| numbers[place]) {
            return id;
        }
        if self.infos.len() >= MAX_PARTIES {
            self.refused += 1;
            return PartyId::OTHER;
        }
        let id = PartyId(self.infos.len() as u32);
        let info = about();
        self.numbers.entry(Arc::clone(&info.name)).or_default()[place] = Some(id);
        self.infos.push(info);
        id
    }

    /// What is known of a party.
    pub fn info(&self, id: PartyId) -> &PartyInfo {
        &self.infos[id.0 as usize]
    }

    /// How many there are, `other` and `local` among them.
    pub fn count(&self) -> usize {
        self.infos.len()
    }

    /// Takes room for what one more device has with a party; counts where there is none.
    fn take_room(&mut self, of_device: usize) -> bool {
        let room = of_device < MAX_PARTIES_OF_DEVICE && self.pairs < MAX_PAIRS;
        if room {
            self.pairs += 1;
        } else {
            self.refused += 1;
        }
        room
    }

    /// How often a party had no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// What one device exchanges with one party.
#[derive(Clone, Copy, Debug, Default)]
struct WithParty {
    all: Amount,
    /// The part that was booked while the party had a series of its own.
    shown: Amount,
    is_shown: bool,
}

/// What one device exchanges.
#[derive(Debug, Default)]
pub struct Traffic {
    parties: HashMap<PartyId, WithParty>,
    other: Amount,
    hidden: [Amount; Hidden::ALL.len()],
    categories: [Amount; Category::ALL.len()],
}

/// Of whom a count is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The other side.
    pub party: PartyId,
    /// Why its name is not known.
    pub hidden: Option<Hidden>,
    /// What the lists call it.
    pub category: Option<Category>,
}

impl Traffic {
    /// Books a flow's new counts.
    pub fn book(&mut self, of: Counted, amount: Amount, parties: &mut Parties) {
        if let Some(hidden) = of.hidden {
            self.hidden[hidden as usize].add(amount);
        }
        if let Some(category) = of.category {
            self.categories[category as usize].add(amount);
        }
        let is_new = !self.parties.contains_key(&of.party);
        if of.party == PartyId::OTHER || (is_new && !parties.take_room(self.parties.len())) {
            self.other.add(amount);
            return;
        }
        let with = self.parties.entry(of.party).or_default();
        with.all.add(amount);
        match with.is_shown {
            true => with.shown.add(amount),
            false => self.other.add(amount),
        }
    }

    /// Gives series to the `top` largest parties.
    ///
    /// One that has a series keeps it until another is twice as large: of parties that are about
    /// equal, none comes and goes.
    pub fn choose(&mut self, top: usize) {
        let mut shown: Vec<_> = self.with_series(true);
        let mut waiting: Vec<_> = self.with_series(false);
        shown.sort_unstable();
        waiting.sort_unstable();
        while shown.len() > top {
            let (_, smallest) = shown.remove(0);
            self.show(smallest, false);
        }
        let mut smallest = shown.into_iter();
        let mut free = top - smallest.len();
        while let Some((octets, party)) = waiting.pop() {
            if free > 0 {
                free -= 1;
            } else {
                match smallest.next() {
                    Some((least, leaves)) if octets > 2 * least => self.show(leaves, false),
                    _ => break,
                }
            }
            self.show(party, true);
        }
    }

    fn with_series(&self, is_shown: bool) -> Vec<(u64, PartyId)> {
        self.parties
            .iter()
            .filter(|(_, with)| with.is_shown == is_shown)
            .map(|(party, with)| (with.all.total(), *party))
            .collect()
    }

    fn show(&mut self, party: PartyId, is_shown: bool) {
        if let Some(with) = self.parties.get_mut(&party) {
            with.is_shown = is_shown;
        }
    }

    /// The parties that have series: what is shown for each, and in all.
    pub fn shown(&self) -> impl Iterator<Item = (PartyId, Amount, Amount)> {
        self.parties
            .iter()
            .filter(|(_, with)| with.is_shown)
            .map(|(party, with)| (*party, with.shown, with.all))
    }

    /// What is booked to none of them.
    pub fn other(&self) -> Amount {
        self.other
    }

    /// What is exchanged with none of them.
    pub fn other_in_all(&self) -> Amount {
        let mut other = self.other;
        for (_, shown, all) in self.shown() {
            for direction in 0..2 {
                other.bytes[direction] -= all.bytes[direction] - shown.bytes[direction];
                other.flows[direction] -= all.flows[direction] - shown.flows[direction];
            }
        }
        other
    }

    /// What has no name, by reason.
    pub fn hidden(&self) -> impl Iterator<Item = (Hidden, Amount)> {
        Hidden::ALL.into_iter().zip(self.hidden)
    }

    /// What lists have a category for.
    pub fn categories(&self) -> impl Iterator<Item = (Category, Amount)> {
        Category::ALL.into_iter().zip(self.categories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(octets: u64) -> Amount {
        Amount {
            bytes: [octets, 0],
            flows: [1, 0],
        }
    }

    fn of(party: u32) -> Counted {
        Counted {
            party: PartyId(party),
            hidden: None,
            category: None,
        }
    }

    fn shown(traffic: &Traffic) -> Vec<(u32, u64)> {
        let mut shown: Vec<_> = traffic
            .shown()
            .map(|(party, shown, _)| (party.0, shown.bytes[0]))
            .collect();
        shown.sort_unstable();
        shown
    }

    #[test]
    fn what_is_shown_and_other_are_all_there_is_and_only_grow() {
        let mut traffic = Traffic::default();
        let mut booked = 0;
        let mut before: HashMap<u32, u64> = HashMap::new();
        let mut other = 0;
        // A pattern without a period: parties overtake each other again and again.
        let mut state = 1_u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let party = 2 + (state >> 60) as u32;
            let octets = (state >> 40) & 0xfff << (party % 5);
            traffic.book(of(party), amount(octets), &mut Parties::default());
            booked += octets;
            traffic.choose(3);
            let now = shown(&traffic);
            assert!(now.len() <= 3);
            for (party, octets) in &now {
                assert!(*octets >= before.get(party).copied().unwrap_or(0));
                before.insert(*party, *octets);
            }
            assert!(traffic.other().bytes[0] >= other);
            other = traffic.other().bytes[0];
        }
        let with_series: u64 = traffic
            .parties
            .values()
            .map(|with| with.shown.bytes[0])
            .sum();
        assert_eq!(with_series + other, booked);
    }

    #[test]
    fn what_was_exchanged_before_a_series_began_is_the_partys_in_all() {
        let mut traffic = Traffic::default();
        traffic.book(of(2), amount(100), &mut Parties::default());
        traffic.book(of(3), amount(30), &mut Parties::default());
        traffic.choose(1);
        traffic.book(of(2), amount(7), &mut Parties::default());
        assert_eq!(traffic.other().bytes, [130, 0]);
        assert_eq!(traffic.other_in_all(), amount(30));
        let (_, shown, all) = traffic.shown().next().expect("one is shown");
        assert_eq!((shown.bytes[0], all.bytes[0]), (7, 107));
    }

    #[test]
    fn what_calls_itself_other_is_no_second_other() {
        let mut parties = Parties::default();
        for (name, id) in [("other", PartyId::OTHER), ("local", PartyId::LOCAL)] {
            let number = parties.number(name, None, || unreachable!("{name} is known"));
            assert_eq!(number, id);
        }
    }

    #[test]
    fn one_that_is_hardly_larger_does_not_take_a_series() {
        let mut traffic = Traffic::default();
        traffic.book(of(2), amount(100), &mut Parties::default());
        traffic.choose(1);
        traffic.book(of(3), amount(150), &mut Parties::default());
        traffic.choose(1);
        assert_eq!(shown(&traffic), [(2, 0)]);
        traffic.book(of(3), amount(100), &mut Parties::default());
        traffic.choose(1);
        traffic.book(of(3), amount(7), &mut Parties::default());
        assert_eq!(shown(&traffic), [(3, 7)]);
    }

    #[test]
    fn a_domain_is_a_party_for_each_category() {
        let mut parties = Parties::default();
        let mut number = |category| {
            parties.number("miui.com", category, || PartyInfo {
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
    fn parties_are_bounded() {
        let mut parties = Parties::default();
        let mut traffic = Traffic::default();
        for number in 0..MAX_PARTIES as u32 + 5 {
            let name = number.to_string();
            let id = parties.number(&name, None, || PartyInfo {
                name: name.as_str().into(),
                ..PartyInfo::default()
            });
            traffic.book(Counted { party: id, ..of(0) }, amount(1), &mut parties);
        }
        assert_eq!(parties.count(), MAX_PARTIES);
        // Those without a number, and those that the device has no room for.
        let without_room = MAX_PARTIES - 2 - MAX_PARTIES_OF_DEVICE;
        assert_eq!(parties.refused(), 7 + without_room as u64);
        assert_eq!(traffic.parties.len(), MAX_PARTIES_OF_DEVICE);
        assert_eq!(
            traffic.other().bytes[0],
            MAX_PARTIES as u64 + 5,
            "nothing has a series yet"
        );
    }

    #[test]
    fn what_all_devices_have_together_is_bounded() {
        let mut parties = Parties::default();
        let mut devices = Vec::new();
        for _ in 0..=MAX_PAIRS / MAX_PARTIES_OF_DEVICE {
            let mut traffic = Traffic::default();
            for party in 2..2 + MAX_PARTIES_OF_DEVICE as u32 {
                traffic.book(of(party), amount(1), &mut parties);
            }
            devices.push(traffic);
        }
        let pairs: usize = devices.iter().map(|traffic| traffic.parties.len()).sum();
        assert_eq!(pairs, MAX_PAIRS);
        assert_eq!(parties.refused(), MAX_PARTIES_OF_DEVICE as u64);
        // Who is counted already goes on.
        devices[0].book(of(2), amount(1), &mut parties);
        assert_eq!(parties.refused(), MAX_PARTIES_OF_DEVICE as u64);
    }
}
