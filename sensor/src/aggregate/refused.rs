//! The refusals of late: for whom, by which policy, and why.

use sensor_ebpf::{
    parse::Mac,
    policy::{Layer, Verdict},
};

use super::books::action;
use crate::{
    model,
    quota::{Limits, Quota},
};

/// The memory for refusals, in bytes. The one that is longest ago is evicted first.
pub const LIMITS: Limits = Limits {
    of_device: 32 << 10,
    in_all: 512 << 10,
};

/// The cost of a refusal beside its texts.
const COST: usize = 224;

/// A refusal of the same within so many seconds is a retry.
const RETRY: f64 = 600.0;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The name, or the address and port of the other side where no name was told.
    pub what: String,
    /// The layer that refused it.
    pub layer: Layer,
    /// The action: reject or drop.
    pub verdict: Verdict,
    /// The identity of the policy.
    pub policy: u16,
    /// How often, since it was told the last time.
    pub count: u64,
    /// Why the policy is about it.
    pub cause: Cause,
}

/// Why a policy refused something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The refused name to which a DNS answer led from the told one.
    pub alias_of: Option<String>,
    /// The list that has the refused name, and the line, from 1.
    pub listed: Option<(String, u32)>,
}

/// The refusals of all devices.
#[derive(Debug)]
pub struct Refusals {
    of: Quota<Mac, Key, Entry>,
}

/// The refused name, and the layer and the policy that refused it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    what: String,
    layer: u8,
    policy: u16,
}

#[derive(Debug)]
struct Entry {
    verdict: Verdict,
    cause: Cause,
    count: u64,
    /// Steady time, in seconds.
    last: f64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            of: Quota::new(LIMITS),
        }
    }
}

impl Refusals {
    /// Takes a refusal of a device, and gives how many of it came shortly after the same was refused before.
    /// `now` is in seconds of steady time.
    pub fn add(&mut self, device: Mac, refusal: Refusal, now: f64) -> u64 {
        let key = Key {
            what: refusal.what,
            layer: refusal.layer as u8,
            policy: refusal.policy,
        };
        let before = self.of.remove(device, &key);
        let is_again = before
            .as_ref()
            .is_some_and(|entry| now - entry.last <= RETRY);
        let retried = match is_again {
            true => refusal.count,
            false => refusal.count.saturating_sub(1),
        };
        let before = before.map_or(0, |entry| entry.count);
        let list = refusal.cause.listed.as_ref();
        let texts = [
            Some(key.what.len()),
            refusal.cause.alias_of.as_ref().map(String::len),
            list.map(|(list, _)| list.len()),
        ];
        let cost = COST + texts.into_iter().flatten().sum::<usize>();
        let entry = Entry {
            verdict: refusal.verdict,
            cause: refusal.cause,
            count: before.saturating_add(refusal.count),
            last: now,
        };
        self.of.insert(device, key, entry, cost, |_, _, _| {});
        retried
    }

    /// The refusals of a device, the latest first. `name` gives the name of a policy by its identity.
    pub fn of(&self, device: Mac, name: impl Fn(u16) -> String) -> Vec<model::Refused> {
        let entries = self.of.iter_of(device);
        let mut all: Vec<_> = entries
            .map(|(key, entry)| {
                let (list, line) = entry.cause.listed.clone().unzip();
                model::Refused {
                    what: key.what.clone(),
                    layer: Layer::from_number(key.layer).name().to_owned(),
                    policy: name(key.policy),
                    action: action(entry.verdict).to_owned(),
                    alias_of: entry.cause.alias_of.clone(),
                    list,
                    line,
                    count: entry.count,
                    last: entry.last,
                }
            })
            .collect();
        all.sort_by(|one, other| other.last.total_cmp(&one.last));
        all
    }

    /// Forgets the refusals of a device.
    pub fn forget_device(&mut self, device: Mac) {
        self.of.remove_device(device).for_each(drop);
    }

    /// Refusals that left to make room.
    pub fn evicted(&self) -> u64 {
        self.of.evicted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
    const LAPTOP: Mac = Mac::new([2, 0, 0, 0, 0, 2]);

    fn refusal(what: &str, layer: Layer, policy: u16) -> Refusal {
        Refusal {
            what: what.to_owned(),
            layer,
            verdict: Verdict::Reject,
            policy,
            count: 1,
            cause: Cause::default(),
        }
    }

    fn of(refusals: &Refusals, device: Mac) -> Vec<model::Refused> {
        refusals.of(device, |policy| format!("policy-{policy}"))
    }

    #[test]
    fn the_latest_refusal_comes_first_with_how_often_and_why() {
        let mut refusals = Refusals::default();
        let mut first = refusal("a.example", Layer::Dns, 7);
        first.cause.listed = Some(("/ads.txt".to_owned(), 3));
        refusals.add(PHONE, first.clone(), 1.0);
        refusals.add(PHONE, refusal("192.0.2.1:443", Layer::Address, 8), 2.0);
        refusals.add(LAPTOP, refusal("b.example", Layer::Tls, 7), 2.0);
        first.count = 4;
        first.cause.listed = Some(("/ads.txt".to_owned(), 5));
        refusals.add(PHONE, first, 3.0);
        let told = of(&refusals, PHONE);
        let told: Vec<_> = told
            .iter()
            .map(|one| {
                (
                    &*one.what,
                    &*one.layer,
                    &*one.policy,
                    one.count,
                    one.last,
                    one.line,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("a.example", "dns", "policy-7", 5, 3.0, Some(5)),
                ("192.0.2.1:443", "address", "policy-8", 1, 2.0, None),
            ]
        );
        refusals.forget_device(PHONE);
        assert_eq!(
            (of(&refusals, PHONE).len(), of(&refusals, LAPTOP).len()),
            (0, 1)
        );
    }

    #[test]
    fn what_is_refused_to_a_device_evicts_nothing_of_anothers() {
        let mut refusals = Refusals::default();
        refusals.add(LAPTOP, refusal("b.example", Layer::Dns, 7), 0.0);
        let all = 10_000;
        for number in 0..all {
            let what = format!("{number}.{}", "a".repeat(number % 200));
            refusals.add(PHONE, refusal(&what, Layer::Dns, 7), number as f64);
            assert!(refusals.of.cost_of(PHONE) <= LIMITS.of_device);
        }
        let told = of(&refusals, PHONE);
        assert_eq!(told[0].last, (all - 1) as f64);
        assert_eq!(refusals.evicted(), (all - told.len()) as u64);
        assert_eq!(of(&refusals, LAPTOP).len(), 1);
        for number in 0..10_000_u16 {
            let [high, low] = number.to_be_bytes();
            let made_up = Mac::new([6, 0, 0, 0, high, low]);
            refusals.add(made_up, refusal("c.example", Layer::Dns, 7), 0.0);
        }
        assert!(refusals.of.cost() <= LIMITS.in_all);
    }
}
