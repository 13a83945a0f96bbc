//! The rules that the kernel and the judge know for addresses: those that refuse every name that a device
//! knows there.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use crate::aggregate::address_names::{AddressNames, Place};

/// The rules at addresses, for each device, under the policies in force: other policies have other rules,
/// and the kernel forgets those it was told. So each policy begins with a new one.
///
/// An address that is not here is not in the kernel either.
#[derive(Debug)]
pub(super) struct Learned {
    rules: Arc<RwLock<HashMap<Place, u64>>>,
    /// All addresses are to be looked at, because none was, or because the kernel did not take all it was
    /// told.
    afresh: bool,
}

impl Default for Learned {
    fn default() -> Self {
        Self {
            rules: Arc::default(),
            afresh: true,
        }
    }
}

impl Learned {
    /// The rules at all addresses at the moment, for policies that are put in force together with them.
    pub(super) fn of(
        names: &mut AddressNames,
        now: f64,
        refusing: impl Fn(&str, &[Box<str>]) -> u64,
    ) -> Self {
        // All are looked at.
        names.changed(now);
        let mut rules = HashMap::new();
        for place in names.places() {
            let refusing = names.refusing(place, now, &refusing);
            if refusing != 0 {
                rules.insert(place, refusing);
            }
        }
        Self {
            rules: Arc::new(RwLock::new(rules)),
            afresh: false,
        }
    }

    /// All rules.
    pub(super) fn all(&self) -> HashMap<Place, u64> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.clone()
    }

    /// Looks at every address the next time, because the changes were fetched and did not reach the kernel.
    pub(super) const fn look_afresh(&mut self) {
        self.afresh = true;
    }

    /// Gives the rules for a device at an address, now and after each [`update`](Self::update); `None`: no
    /// rule refuses all that the device knows there.
    pub(super) fn at(&self) -> impl Fn(Place) -> Option<u64> + Send + Sync + use<> {
        let rules = Arc::clone(&self.rules);
        move |place| {
            let rules = rules.read().unwrap_or_else(PoisonError::into_inner);
            rules.get(&place).copied()
        }
    }

    /// Looks at the addresses whose names changed, and has the kernel told the rules that are new: `tell`
    /// is given rules by place, 0 for a place that the kernel is to forget, those first. `refusing` gives
    /// the rules that refuse a name.
    ///
    /// # Errors
    /// Those of `tell`. All is told again the next time.
    pub(super) fn update<E>(
        &mut self,
        names: &mut AddressNames,
        now: f64,
        refusing: impl Fn(&str, &[Box<str>]) -> u64,
        tell: impl FnOnce(Vec<(Place, u64)>) -> Result<(), E>,
    ) -> Result<(), E> {
        let news = self.news(names, now, refusing);
        if news.is_empty() {
            self.afresh = false;
            return Ok(());
        }
        let (gone, come): (Vec<_>, Vec<_>) = news.into_iter().partition(|(_, rules)| *rules == 0);
        // Every rule that the kernel may have is here, whether it takes the news or not.
        self.change(|rules| rules.extend(come.iter().copied()));
        let removed: HashSet<_> = gone.iter().map(|(place, _)| *place).collect();
        let told = tell([gone, come].concat());
        self.afresh = told.is_err();
        if told.is_ok() {
            self.change(|rules| rules.retain(|place, _| !removed.contains(place)));
        }
        told
    }

    fn news(
        &self,
        names: &mut AddressNames,
        now: f64,
        refusing: impl Fn(&str, &[Box<str>]) -> u64,
    ) -> Vec<(Place, u64)> {
        let changed = names.changed(now);
        let everywhere = self.afresh || changed.is_none();
        let mut looked_at = changed.unwrap_or_default();
        let known = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        if everywhere {
            looked_at.extend(known.keys().copied().chain(names.places()));
        }
        let news = looked_at.into_iter().filter_map(|place| {
            let rules = names.refusing(place, now, &refusing);
            let before = known.get(&place).copied().unwrap_or(0);
            let is_news = rules != before || self.afresh && rules != 0;
            is_news.then_some((place, rules))
        });
        news.collect()
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<Place, u64>)) {
        change(&mut self.rules.write().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::{collection::vec, prelude::*, sample::select};
    use sensor_ebpf::parse::Mac;

    use super::*;
    use crate::aggregate::address_names::{LIMITS, MAX_PLACES};

    /// An event for names at addresses, or for the policies.
    #[derive(Clone, Debug)]
    enum Step {
        Answer(&'static str, u8, u32),
        Said(&'static str, u8),
        /// Other policies: these names are refused.
        Install(Vec<&'static str>),
        /// A tick, so many seconds after the one before; the kernel takes so much of what it is told.
        Tick(f64, Option<usize>),
    }

    const NAMES: [&str; 4] = ["a.example", "b.example", "c.example", "d.example"];

    fn a_step() -> impl Strategy<Value = Step> {
        let name = || select(&NAMES[..]);
        let ttl = select(&[0_u32, 5_000, 86_400][..]);
        // A tick finds every name that is over, because there is a minute between two ticks, or no time at
        // all.
        let passed = prop_oneof![Just(0.0), 60.0..4_000.0, Just(90_000.0)];
        let taken = prop_oneof![4 => Just(None), 1 => (0_usize..3).prop_map(Some)];
        prop_oneof![
            4 => (name(), 0..3_u8, ttl).prop_map(|(name, at, ttl)| Step::Answer(name, at, ttl)),
            3 => (name(), 0..3_u8).prop_map(|(name, at)| Step::Said(name, at)),
            1 => prop::sample::subsequence(&NAMES[..], 0..=4).prop_map(Step::Install),
            6 => (passed, taken).prop_map(|(passed, taken)| Step::Tick(passed, taken)),
        ]
    }

    /// Three places: two addresses, one of them as two devices know it.
    fn place(number: u8) -> Place {
        let mac = Mac::new([2, 0, 0, 0, 0, number / 2]);
        (mac, IpAddr::from([192, 0, 2, number % 2]))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_kernel_has_what_the_names_say_and_nothing_else(steps in vec(a_step(), 1..60)) {
            const HOUR: f64 = 3_600.0;
            let mut kernel: HashMap<Place, u64> = HashMap::new();
            let (mut learned, mut names) = (Learned::default(), AddressNames::default());
            let mut refused = vec![NAMES[0], NAMES[1]];
            let mut now = 0.0;
            // All names ever told: the name, where, until when, whether an answer told it.
            let mut told = vec![];
            for step in steps {
                match step {
                    Step::Answer(name, at, ttl) => {
                        names.answer(name, &[], place(at), ttl, now);
                        told.push((name, place(at), now + f64::from(ttl).max(HOUR), true));
                    }
                    Step::Said(name, at) => {
                        names.said(name, place(at), now);
                        told.push((name, place(at), now + HOUR, false));
                    }
                    Step::Install(names) => {
                        refused = names;
                        kernel.clear();
                        learned = Learned::default();
                    }
                    Step::Tick(passed, taken) => {
                        now += passed;
                        let refusing = |name: &str, _: &[Box<str>]| match NAMES.iter().position(|one| *one == name) {
                            Some(place) if refused.contains(&name) => 0b1 | 0b10 << place,
                            _ => 0,
                        };
                        let done = learned.update(&mut names, now, refusing, |news| {
                            for (place, rules) in news.iter().take(taken.unwrap_or(news.len())) {
                                match rules {
                                    0 => kernel.remove(place),
                                    rules => kernel.insert(*place, *rules),
                                };
                            }
                            if taken.is_some_and(|taken| taken < news.len()) { Err(()) } else { Ok(()) }
                        });
                        for at in 0..3 {
                            let place = place(at);
                            let here = told.iter().filter(|(_, where_, until, _)| {
                                *where_ == place && now <= *until
                            });
                            let is_answered = here.clone().any(|(.., answered)| *answered);
                            let rules = here.fold(u64::MAX, |set, (name, ..)| set & refusing(name, &[]));
                            let rules = if is_answered { rules } else { 0 };
                            if done.is_ok() {
                                let has = kernel.get(&place).copied();
                                prop_assert_eq!(has.unwrap_or(0), rules, "{:?} at {}", place, now);
                                prop_assert_eq!(learned.at()(place), has);
                            } else {
                                let may_have = learned.at()(place).is_some();
                                prop_assert!(may_have || !kernel.contains_key(&place));
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_left_among_many_is_forgotten() {
        let (mut learned, mut names) = (Learned::default(), AddressNames::default());
        let mut kernel: HashMap<Place, u64> = HashMap::new();
        let mut tick = |learned: &mut Learned, names: &mut AddressNames| {
            learned.update(
                names,
                0.0,
                |_, _| 1,
                |news| {
                    for (place, rules) in news {
                        match rules {
                            0 => kernel.remove(&place),
                            rules => kernel.insert(place, rules),
                        };
                        assert!(kernel.len() <= MAX_PLACES);
                    }
                    Ok::<_, ()>(())
                },
            )?;
            Ok::<_, ()>(kernel.len())
        };
        let place = |number: u32| {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
            (Mac::new([2, 0, 0, 0, 0, 1]), IpAddr::from(address))
        };
        names.answer("a.example", &[], place(0), 0, 0.0);
        let cost = names.cost();
        let most = LIMITS.of_device / cost;
        assert_eq!(tick(&mut learned, &mut names), Ok(1));
        for number in 1..4 * MAX_PLACES as u32 {
            names.answer("a.example", &[], place(number), 0, 0.0);
        }
        assert_eq!(tick(&mut learned, &mut names), Ok(most));
        assert_eq!(learned.at()(place(0)), None);
        // The oldest makes room for an address that no answer gave.
        names.said("b.example", place(0), 0.0);
        assert_eq!(tick(&mut learned, &mut names), Ok(most - 1));
    }
}
