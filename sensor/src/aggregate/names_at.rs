//! Which names are at an address: what a flow that tells no name may be about.
//!
//! Servers share addresses. That an address is one of a refused name says nothing of a flow that told
//! no name, unless every name that is known there is refused.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};

/// Addresses that are remembered at most; the one that was learned first leaves.
pub const MAX_ADDRESSES: usize = 16_384;

/// Names of one address that are told apart. An address with more is nobody's.
pub const MAX_NAMES: usize = 64;

/// How long a name counts at least, in seconds: flows go on with an address when its time to live is
/// over.
const AT_LEAST: f64 = 3600.0;

/// The names at addresses.
#[derive(Debug, Default)]
pub struct NamesAt {
    addresses: HashMap<IpAddr, Vec<Known>>,
    /// In the order in which they were learned.
    order: VecDeque<IpAddr>,
    changed: HashSet<IpAddr>,
}

/// A name at an address.
#[derive(Debug)]
struct Known {
    name: Arc<str>,
    /// Seconds since the Unix epoch.
    until: f64,
    /// A DNS answer said so; otherwise a device did, when it spoke to the address.
    answered: bool,
}

impl NamesAt {
    /// Takes that a DNS answer gave `name` the address for `ttl` seconds from `now` on.
    pub fn answer(&mut self, name: &str, address: IpAddr, ttl: u32, now: f64) {
        self.learn(name, address, f64::from(ttl), now, true);
    }

    /// Takes that a device said `name` to the address. It may say what it likes: such a name can
    /// excuse the address, and never blame it.
    pub fn said(&mut self, name: &str, address: IpAddr, now: f64) {
        self.learn(name, address, 0.0, now, false);
    }

    fn learn(&mut self, name: &str, address: IpAddr, ttl: f64, now: f64, answered: bool) {
        let until = now + ttl.max(AT_LEAST);
        if !self.addresses.contains_key(&address) {
            if self.addresses.len() >= MAX_ADDRESSES
                && let Some(first) = self.order.pop_front()
            {
                self.addresses.remove(&first);
                self.changed.insert(first);
            }
            self.order.push_back(address);
        }
        let known = self.addresses.entry(address).or_default();
        if let Some(known) = known.iter_mut().find(|known| *known.name == *name) {
            known.until = until;
            if answered && !known.answered {
                known.answered = true;
                self.changed.insert(address);
            }
            return;
        }
        if known.len() > MAX_NAMES {
            return;
        }
        known.push(Known {
            name: name.into(),
            until,
            answered,
        });
        self.changed.insert(address);
    }

    /// The addresses at which names came or went since the last call.
    pub fn changed(&mut self) -> Vec<IpAddr> {
        self.changed.drain().collect()
    }

    /// All addresses, in the order in which they were learned.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.order.iter().copied()
    }

    /// The rules that refuse every name at an address, where `refusing` tells those of a name; none
    /// where no answer gave the address to a name, or where too many names are there.
    pub fn refusing(&self, address: IpAddr, now: f64, refusing: impl Fn(&str) -> u64) -> u64 {
        let Some(known) = self.addresses.get(&address) else {
            return 0;
        };
        let valid = || known.iter().filter(|known| now <= known.until);
        if known.len() > MAX_NAMES || !valid().any(|known| known.answered) {
            return 0;
        }
        valid().fold(u64::MAX, |set, known| set & refusing(&known.name))
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

    #[test]
    fn an_address_is_that_of_refused_names_while_no_other_is_there() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let mut names = NamesAt::default();
        assert_eq!(names.refusing(address, 0.0, refusing), 0);
        names.said("blocked.example", address, 0.0);
        assert_eq!(names.refusing(address, 0.0, refusing), 0, "a device's word");
        names.answer("blocked.example", address, 60, 0.0);
        names.answer("worse.example", address, 10_000, 0.0);
        assert_eq!(names.changed(), [address]);
        assert_eq!(names.refusing(address, 0.0, refusing), 0b01);
        assert_eq!(names.refusing(address, AT_LEAST + 1.0, refusing), 0b11);
        names.said("allowed.example", address, 0.0);
        assert_eq!(names.changed(), [address]);
        assert_eq!(names.refusing(address, 0.0, refusing), 0);
        assert!(names.changed().is_empty());
    }

    #[test]
    fn an_address_of_many_names_is_nobodys() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let mut names = NamesAt::default();
        for number in 0..=MAX_NAMES {
            assert_eq!(names.refusing(address, 0.0, |_| 1), u64::from(number > 0));
            names.answer(&format!("{number}.example"), address, 0, 0.0);
        }
        assert_eq!(names.refusing(address, 0.0, |_| 1), 0);
    }
}
