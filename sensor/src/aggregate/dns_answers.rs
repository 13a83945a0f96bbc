//! The names that led to addresses, by the DNS answers that devices got.
//!
//! An answer names the flows of the device that asked, and of no other, because a device can have a server of
//! its own answer anything. For display alone, an answer that another device got from a resolver of the house
//! may serve.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use sensor_ebpf::parse::Mac;

use crate::{
    decode::name::MAX_NAME,
    quota::{Limits, Quota},
};

/// Addresses that are remembered; the one with the oldest answer is evicted first.
pub const ADDRESSES: Limits = Limits {
    of_device: 4_096,
    in_all: 16_384,
};

/// Names with a key for encrypted hellos that are remembered.
pub const KEYS: Limits = Limits {
    of_device: 512,
    in_all: 4_096,
};

/// How long an answer names flows at least, in seconds: programs go on using an address after its time to live,
/// and resolvers on the way shorten it.
pub const AT_LEAST: f64 = 3600.0;

/// The recent answers.
#[derive(Debug)]
pub struct Answers {
    told: Quota<Mac, IpAddr, KnownName>,
    /// By address, the device that got the latest answer from a resolver of the house and still has it.
    by_house: HashMap<IpAddr, Mac>,
    /// Names whose servers take encrypted hellos (RFC 9848).
    keys: Quota<Mac, Arc<str>, ()>,
}

/// An answer by which a name has the address.
#[derive(Debug)]
struct KnownName {
    name: Arc<str>,
    /// Seconds since the Unix epoch.
    until: f64,
    /// Whether it is from a resolver of the house.
    by_house: bool,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            told: Quota::new(ADDRESSES),
            by_house: HashMap::new(),
            keys: Quota::new(KEYS),
        }
    }
}

impl Answers {
    /// Takes an answer to `device`: `name` has `address` for `ttl` seconds from `now` on. `by_house` says
    /// whether it came from a resolver of the house. A name that is too long for a host is ignored.
    pub fn learn(
        &mut self,
        device: Mac,
        (name, address): (&str, IpAddr),
        ttl: u32,
        by_house: bool,
        now: f64,
    ) {
        if name.len() > MAX_NAME {
            return;
        }
        let known = self.told.get(device, &address);
        let known = known.filter(|told| *told.name == *name);
        let told = KnownName {
            name: known.map_or_else(|| name.into(), |told| Arc::clone(&told.name)),
            until: now + f64::from(ttl).max(AT_LEAST),
            by_house,
        };
        let mut gone = Vec::new();
        let before = self.told.insert(device, address, told, 1, |of, at, _| {
            gone.push((of, at));
        });
        if by_house {
            self.by_house.insert(address, device);
        } else if before.is_some() {
            self.let_go(device, address);
        }
        for (device, address) in gone {
            self.let_go(device, address);
        }
    }

    /// The name by which a device knows an address: that of its latest answer.
    pub fn find(&self, device: Mac, address: IpAddr, now: f64) -> Option<Arc<str>> {
        let told = self.told.get(device, &address)?;
        (now <= told.until).then(|| Arc::clone(&told.name))
    }

    /// The name that a resolver of the house gave for an address to another device, which decides nothing.
    pub fn find_of_another(&self, address: IpAddr, now: f64) -> Option<Arc<str>> {
        let device = *self.by_house.get(&address)?;
        self.find(device, address, now)
    }

    /// Takes an answer to `device` that has a key for encrypted hellos to the servers of a name.
    pub fn learn_key(&mut self, device: Mac, name: &str) {
        if name.len() <= MAX_NAME && self.keys.renew(device, name).is_none() {
            self.keys.insert(device, name.into(), (), 1, |_, _, ()| {});
        }
    }

    /// Whether a device was told that the servers of a name take encrypted hellos.
    pub fn has_key(&self, device: Mac, name: &str) -> bool {
        self.keys.get(device, name).is_some()
    }

    /// Forgets the answers whose time is over.
    pub fn forget_expired(&mut self, now: f64) {
        let mut gone = Vec::new();
        self.told.retain(|device, address, told| {
            let is_over = told.until < now;
            if is_over && told.by_house {
                gone.push((device, *address));
            }
            (!is_over).then_some(1)
        });
        for (device, address) in gone {
            self.let_go(device, address);
        }
        if self.by_house.capacity() > 4 * self.by_house.len().max(64) {
            self.by_house.shrink_to_fit();
        }
    }

    /// Forgets all answers to a device.
    pub fn forget_device(&mut self, device: Mac) {
        let told: Vec<_> = self.told.remove_device(device).collect();
        for (address, _) in told {
            self.let_go(device, address);
        }
        self.keys.remove_device(device).for_each(drop);
    }

    /// Puts another device that has the address from a resolver of the house in the place of this one, which no
    /// longer has it.
    fn let_go(&mut self, device: Mac, address: IpAddr) {
        if self.by_house.get(&address) != Some(&device) {
            return;
        }
        let mut devices = self.told.devices();
        let has_it = |other: &Mac| {
            let told = self.told.get(*other, &address);
            told.is_some_and(|told| told.by_house)
        };
        match devices.find(has_it) {
            Some(other) => drop(self.by_house.insert(address, other)),
            None => drop(self.by_house.remove(&address)),
        }
    }

    /// How many answers there are.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.told.len()
    }

    /// Addresses and keys that left to make room.
    pub fn evicted(&self) -> u64 {
        self.told.evicted() + self.keys.evicted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
    const LAPTOP: Mac = Mac::new([2, 0, 0, 0, 0, 2]);

    fn address(last: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from(0xc633_6400 + last))
    }

    fn found(answers: &Answers, device: Mac, last: u32, now: f64) -> Option<String> {
        let found = answers.find(device, address(last), now);
        found.map(|name| name.to_string())
    }

    fn shown(answers: &Answers, last: u32) -> Option<String> {
        let found = answers.find_of_another(address(last), 2.0);
        found.map(|name| name.to_string())
    }

    #[test]
    fn an_answer_is_that_of_the_device_that_asked() {
        let mut answers = Answers::default();
        answers.learn(PHONE, ("a.example", address(1)), 60, false, 0.0);
        answers.learn(LAPTOP, ("b.example", address(1)), 60, false, 1.0);
        assert_eq!(found(&answers, PHONE, 1, 2.0).as_deref(), Some("a.example"));
        assert_eq!(
            found(&answers, LAPTOP, 1, 2.0).as_deref(),
            Some("b.example")
        );
        assert_eq!(found(&answers, Mac::new([2, 0, 0, 0, 0, 3]), 1, 2.0), None);
        assert_eq!(found(&answers, PHONE, 2, 2.0), None);
    }

    #[test]
    fn another_devices_answer_is_shown_where_a_resolver_of_the_house_gave_it() {
        let mut answers = Answers::default();
        answers.learn(PHONE, ("forged.example", address(1)), 60, false, 0.0);
        assert_eq!(shown(&answers, 1), None);
        answers.learn(LAPTOP, ("b.example", address(1)), 60, true, 0.0);
        answers.learn(PHONE, ("forged.example", address(1)), 60, false, 1.0);
        assert_eq!(shown(&answers, 1).as_deref(), Some("b.example"));
        // One that has its answer by another server from then on leaves its place to who has one.
        answers.learn(PHONE, ("a.example", address(1)), 60, true, 2.0);
        assert_eq!(shown(&answers, 1).as_deref(), Some("a.example"));
        answers.learn(PHONE, ("forged.example", address(1)), 60, false, 2.0);
        assert_eq!(shown(&answers, 1).as_deref(), Some("b.example"));
        answers.forget_device(LAPTOP);
        assert_eq!(shown(&answers, 1), None);
        assert!(answers.by_house.is_empty());
    }

    #[test]
    fn an_answer_ends() {
        let mut answers = Answers::default();
        answers.learn(PHONE, ("a.example", address(1)), 60, true, 0.0);
        let long = 2 * AT_LEAST as u32;
        answers.learn(PHONE, ("b.example", address(2)), long, true, 0.0);
        let is_found = |answers: &Answers, last, now| found(answers, PHONE, last, now).is_some();
        assert!(is_found(&answers, 1, AT_LEAST));
        assert!(!is_found(&answers, 1, AT_LEAST + 1.0));
        assert!(is_found(&answers, 2, AT_LEAST + 1.0));
        answers.forget_expired(AT_LEAST + 1.0);
        assert_eq!((answers.told.len(), answers.by_house.len()), (1, 1));
        assert!(is_found(&answers, 2, AT_LEAST + 1.0));
        assert_eq!(answers.evicted(), 0);
    }

    #[test]
    fn what_a_device_is_told_evicts_nothing_of_anothers() {
        let mut answers = Answers::default();
        answers.learn(LAPTOP, ("b.example", address(1)), 60, true, 0.0);
        answers.learn_key(LAPTOP, "b.example");
        let beyond = 10;
        for number in 0..(ADDRESSES.of_device + beyond) as u32 {
            answers.learn(PHONE, ("a.example", address(number)), 60, true, 0.0);
        }
        for number in 0..KEYS.of_device + beyond {
            answers.learn_key(PHONE, &number.to_string());
            answers.learn_key(PHONE, &number.to_string());
        }
        assert_eq!(answers.told.len(), 1 + ADDRESSES.of_device);
        assert_eq!(answers.by_house.len(), ADDRESSES.of_device + 1);
        assert_eq!(answers.keys.len(), 1 + KEYS.of_device);
        assert_eq!(answers.evicted(), 2 * beyond as u64);
        assert_eq!(found(&answers, PHONE, 1, 1.0), None);
        assert!(found(&answers, PHONE, beyond as u32, 1.0).is_some());
        assert_eq!(
            found(&answers, LAPTOP, 1, 1.0).as_deref(),
            Some("b.example")
        );
        assert_eq!(shown(&answers, 1).as_deref(), Some("b.example"));
        assert!(answers.has_key(LAPTOP, "b.example") && !answers.has_key(PHONE, "b.example"));
        assert!(!answers.has_key(PHONE, "0") && answers.has_key(PHONE, "10"));
    }
}
