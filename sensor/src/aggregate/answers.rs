//! Which names led to which addresses, by the DNS answers that devices got.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use sensor_ebpf::{flow::FlowKey, parse::Mac};

use crate::decode::{dns, name::MAX_NAME};

/// Addresses that are remembered at most; the one that was learned first leaves.
pub const MAX_ADDRESSES: usize = 16_384;

/// Devices that are remembered for one address at most; the one that was told first leaves.
pub const MAX_DEVICES: usize = 16;

/// Names with a key for encrypted hellos that are remembered at most; the first one leaves.
pub const MAX_KEYS: usize = 4_096;

/// Questions without an answer that are remembered at most; the first one leaves.
pub const MAX_QUESTIONS: usize = 4_096;

/// Questions of one message that are remembered at most: servers answer one.
const MAX_NAMES: usize = 2;

/// How long an answer names flows at least, in seconds: programs go on with an address when its
/// time to live is over, and resolvers on the way shorten it.
pub const AT_LEAST: f64 = 3600.0;

/// A name that an answer led from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The name that was asked.
    pub name: Arc<str>,
    /// Another device asked, not this one.
    pub by_another: bool,
}

/// The answers of late.
#[derive(Debug, Default)]
pub struct Answers {
    addresses: HashMap<IpAddr, Vec<Told>>,
    /// In the order in which they were learned.
    order: VecDeque<IpAddr>,
    /// Names whose servers take encrypted hellos (RFC 9848), and the order in which they came.
    keys: HashSet<Arc<str>>,
    order_of_keys: VecDeque<Arc<str>>,
    /// Questions without an answer yet, and the order in which they came.
    questions: HashMap<(FlowKey, u16), Vec<String>>,
    order_of_questions: VecDeque<(FlowKey, u16)>,
    evicted: u64,
}

/// A device was told that a name has the address.
#[derive(Debug)]
struct Told {
    device: Mac,
    name: Arc<str>,
    /// Seconds since the Unix epoch.
    until: f64,
}

impl Answers {
    /// Takes a question that a device asked.
    pub fn ask(&mut self, key: &FlowKey, message: &dns::Message) {
        let asked = (*key, message.id);
        let names = message.questions.iter().take(MAX_NAMES);
        let names = names.map(|question| question.name.clone()).collect();
        if self.questions.insert(asked, names).is_some() {
            return;
        }
        self.order_of_questions.push_back(asked);
        // Those that were answered are in the order still.
        if self.order_of_questions.len() > MAX_QUESTIONS
            && let Some(first) = self.order_of_questions.pop_front()
            && self.questions.remove(&first).is_some()
        {
            self.evicted += 1;
        }
    }

    /// Whether an answer is one to a question that was asked, of which it is the first: what nobody
    /// asked for names nothing (RFC 5452, section 9.1).
    pub fn asked(&mut self, key: &FlowKey, message: &dns::Message) -> bool {
        let asked = (*key, message.id);
        let is_answer = self.questions.get(&asked).is_some_and(|names| {
            let mut answered = message.questions.iter().take(MAX_NAMES);
            answered.len() == names.len() && answered.all(|question| names.contains(&question.name))
        });
        if is_answer {
            self.questions.remove(&asked);
        }
        is_answer
    }

    /// Takes an answer to `device`: `name` has `address` for `ttl` seconds from `now` on. What is
    /// too long for the name of a host is none.
    pub fn learn(&mut self, device: Mac, name: &str, address: IpAddr, ttl: u32, now: f64) {
        if name.len() > MAX_NAME {
            return;
        }
        let until = now + f64::from(ttl).max(AT_LEAST);
        if !self.addresses.contains_key(&address) {
            if self.addresses.len() >= MAX_ADDRESSES
                && let Some(first) = self.order.pop_front()
            {
                self.addresses.remove(&first);
                self.evicted += 1;
            }
            self.order.push_back(address);
        }
        let told = self.addresses.entry(address).or_default();
        let known = told.iter().position(|told| told.device == device);
        let name = match known {
            Some(place) if *told[place].name == *name => told.remove(place).name,
            Some(place) => {
                told.remove(place);
                name.into()
            }
            None => name.into(),
        };
        if told.len() >= MAX_DEVICES {
            told.remove(0);
            self.evicted += 1;
        }
        // The last is the latest.
        told.push(Told {
            device,
            name,
            until,
        });
    }

    /// The name by which a device knows an address: the last it was told, else the last that any
    /// device was told.
    pub fn find(&self, device: Mac, address: IpAddr, now: f64) -> Option<Answered> {
        let told = self.addresses.get(&address)?;
        let valid = || told.iter().rev().filter(|told| now <= told.until);
        let own = valid().find(|told| told.device == device);
        let any = || valid().next();
        own.map(|told| Answered {
            name: Arc::clone(&told.name),
            by_another: false,
        })
        .or_else(|| {
            any().map(|told| Answered {
                name: Arc::clone(&told.name),
                by_another: true,
            })
        })
    }

    /// Takes an answer that has a key for encrypted hellos to the servers of a name.
    pub fn learn_key(&mut self, name: &str) {
        if name.len() > MAX_NAME {
            return;
        }
        if self.keys.contains(name) {
            return;
        }
        if self.keys.len() >= MAX_KEYS
            && let Some(first) = self.order_of_keys.pop_front()
        {
            self.keys.remove(&first);
            self.evicted += 1;
        }
        let name: Arc<str> = name.into();
        self.keys.insert(Arc::clone(&name));
        self.order_of_keys.push_back(name);
    }

    /// Whether the servers of a name take encrypted hellos.
    pub fn has_key(&self, name: &str) -> bool {
        self.keys.contains(name)
    }

    /// Addresses, devices, keys and questions that left to make room.
    pub fn evicted(&self) -> u64 {
        self.evicted
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

    #[test]
    fn a_devices_own_answer_comes_before_anothers() {
        let mut answers = Answers::default();
        answers.learn(PHONE, "a.example", address(1), 60, 0.0);
        answers.learn(LAPTOP, "b.example", address(1), 60, 1.0);
        let check = |device, name: &str, by_another| {
            let found = answers.find(device, address(1), 2.0).expect("an answer");
            assert_eq!((&*found.name, found.by_another), (name, by_another));
        };
        check(PHONE, "a.example", false);
        check(LAPTOP, "b.example", false);
        check(Mac::new([2, 0, 0, 0, 0, 3]), "b.example", true);
        assert_eq!(answers.find(PHONE, address(2), 2.0), None);
    }

    #[test]
    fn an_answer_ends() {
        let mut answers = Answers::default();
        answers.learn(PHONE, "a.example", address(1), 60, 0.0);
        answers.learn(PHONE, "b.example", address(2), 2 * AT_LEAST as u32, 0.0);
        assert!(answers.find(PHONE, address(1), AT_LEAST).is_some());
        assert!(answers.find(PHONE, address(1), AT_LEAST + 1.0).is_none());
        assert!(answers.find(PHONE, address(2), AT_LEAST + 1.0).is_some());
    }

    #[test]
    fn keys_are_bounded() {
        let mut answers = Answers::default();
        for number in 0..=MAX_KEYS {
            answers.learn_key(&number.to_string());
            answers.learn_key(&number.to_string());
        }
        assert!(!answers.has_key("0"));
        assert!(answers.has_key("1"));
        assert_eq!(answers.order_of_keys.len(), MAX_KEYS);
    }

    #[test]
    fn the_memory_is_bounded_and_the_first_leaves() {
        let mut answers = Answers::default();
        for last in 0..MAX_ADDRESSES as u32 + 10 {
            answers.learn(PHONE, "a.example", address(last), 60, 0.0);
        }
        for last in 0..MAX_DEVICES as u8 + 4 {
            answers.learn(
                Mac::new([2, 0, 0, 0, 1, last]),
                "b.example",
                address(99),
                60,
                0.0,
            );
        }
        assert_eq!(answers.addresses.len(), MAX_ADDRESSES);
        assert_eq!(answers.order.len(), MAX_ADDRESSES);
        assert_eq!(answers.evicted(), 10 + 5, "addresses and devices");
        assert_eq!(answers.addresses[&address(99)].len(), MAX_DEVICES);
        assert!(answers.find(PHONE, address(0), 1.0).is_none());
    }
}
