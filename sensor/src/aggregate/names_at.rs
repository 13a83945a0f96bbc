//! Which names are at an address: what a flow that tells no name may be about.
//!
//! Servers share addresses. That an address is one of a refused name says nothing of a flow that told
//! no name, unless every name that is known there is refused. A flow that tells no name is every one
//! whose payload says none: TLS and HTTP without one, and all other protocols. So an address is
//! blamed only while a DNS answer that did so is fresh.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
};

/// Addresses that are remembered at most; the one that was learned first leaves.
pub const MAX_ADDRESSES: usize = 16_384;

/// Names of one address that are told apart. An address with more is nobody's.
pub const MAX_NAMES: usize = 64;

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
    changed: HashSet<IpAddr>,
    /// Seconds since the Unix epoch.
    swept: f64,
}

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
    /// Takes that a DNS answer gave `name` the address for `ttl` seconds from `now` on.
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
        if !self.addresses.contains_key(&address) {
            if self.addresses.len() >= MAX_ADDRESSES
                && let Some(first) = self.order.pop_front()
            {
                self.addresses.remove(&first);
                self.changed.insert(first);
            }
            self.order.push_back(address);
        }
        let place = self.addresses.entry(address).or_default();
        if let Some(known) = place.known.iter_mut().find(|known| *known.name == *name) {
            if known.renew(until, answered_until, now) {
                self.changed.insert(address);
            }
            return;
        }
        self.changed.insert(address);
        if place.known.len() >= MAX_NAMES {
            place.known.retain(|known| now <= known.until);
        }
        if place.known.len() >= MAX_NAMES {
            let before = place.crowded_until.unwrap_or(until);
            place.crowded_until = Some(before.max(until));
            return;
        }
        place.known.push(Known {
            name: name.into(),
            until,
            answered_until,
        });
    }

    /// The addresses at which names came or went since the last call, or were forgotten because their
    /// time was over: that is looked for once a minute.
    pub fn changed(&mut self, now: f64) -> HashSet<IpAddr> {
        // A clock that was set back begins another minute.
        if !(self.swept..self.swept + SWEEP).contains(&now) {
            self.swept = now;
            self.forget_expired(now);
        }
        std::mem::take(&mut self.changed)
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

    fn forget_expired(&mut self, now: f64) {
        self.addresses.retain(|address, place| {
            if place.forget_expired(now) {
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

    /// Forgets what is over, and gives whether there was anything.
    fn forget_expired(&mut self, now: f64) -> bool {
        let is_over = |until: &mut f64| *until < now;
        let names = self.known.len();
        self.known.retain(|known| now <= known.until);
        let mut is_changed = self.known.len() < names;
        for known in &mut self.known {
            is_changed |= known.answered_until.take_if(is_over).is_some();
        }
        is_changed | self.crowded_until.take_if(is_over).is_some()
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

    fn address(last: u16) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from(0xc633_0000 + u32::from(last)))
    }

    fn rules(names: &NamesAt, now: f64) -> u64 {
        names.refusing(address(1), now, refusing)
    }

    fn changed(names: &mut NamesAt, now: f64) -> Vec<IpAddr> {
        names.changed(now).into_iter().collect()
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
}
