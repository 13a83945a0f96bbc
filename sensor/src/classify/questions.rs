//! The DNS questions of devices, and the names to which the answers lead.
//!
//! An answer counts for the device that asked for it, and for no other. A name that leads to another one (CNAME)
//! is judged by that one too, where a policy refuses it.

use std::sync::Arc;

use sensor_ebpf::{flow::FlowKey, parse::Mac};

use crate::{
    decode::{dns, name::MAX_NAME},
    quota::{Limits, Quota},
};

/// Questions without an answer that are remembered.
pub const QUESTIONS: Limits = Limits {
    of_device: 512,
    in_all: 4_096,
};

/// The memory for names and the names to which they lead, in bytes. The name with the oldest answer is evicted
/// first.
pub const ALIASES: Limits = Limits {
    of_device: 1 << 17,
    in_all: 1 << 20,
};

/// The cost of a name that leads to others, beside its own bytes and those of the others, and the cost of each of
/// the others.
const NAME_COST: usize = 224;
const TARGET_COST: usize = 32;

/// Questions of one message that are remembered at most: servers answer one.
const MAX_NAMES: usize = 2;

/// How long a name leads to others after an answer, in seconds: programs and their resolvers go on using an
/// answer after its time to live.
const LEADS_FOR: f64 = 24.0 * 3600.0;

/// The names to which a name leads, in order; none where it is no alias.
pub type Targets = Arc<[Box<str>]>;

/// The questions and aliases of all devices.
#[derive(Debug)]
pub struct Questions {
    /// Questions without an answer yet.
    open: Quota<Mac, (FlowKey, u16), Vec<String>>,
    aliases: Quota<Mac, Arc<str>, Alias>,
}

#[derive(Debug)]
struct Alias {
    targets: Targets,
    /// In seconds of the caller's clock.
    until: f64,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            open: Quota::new(QUESTIONS),
            aliases: Quota::new(ALIASES),
        }
    }
}

impl Questions {
    /// Takes a question of a device.
    pub fn ask(&mut self, key: &FlowKey, message: &dns::Message) {
        let asked = (*key, message.id);
        let names = message.questions.iter().take(MAX_NAMES);
        let names = names.map(|question| question.name.clone()).collect();
        self.open.insert(key.mac(), asked, names, 1, |_, _, _| {});
    }

    /// Whether a message is the first answer to a question that was asked: an answer that nobody asked for
    /// names nothing (RFC 5452, section 9.1). The names to which it leads are kept. `now` is in seconds.
    pub fn answer(&mut self, key: &FlowKey, message: &dns::Message, now: f64) -> bool {
        let (device, asked) = (key.mac(), (*key, message.id));
        let is_answer = self.open.get(device, &asked).is_some_and(|names| {
            let mut answered = message.questions.iter().take(MAX_NAMES);
            answered.len() == names.len() && answered.all(|question| names.contains(&question.name))
        });
        if is_answer {
            self.open.remove(device, &asked);
            for question in message.questions.iter().take(MAX_NAMES) {
                self.lead(device, &question.name, message, now);
            }
        }
        is_answer
    }

    /// Keeps the names to which an answer leads from a name; an answer with addresses and without such names
    /// ends the earlier ones.
    fn lead(&mut self, device: Mac, name: &str, message: &dns::Message, now: f64) {
        let aliases = message.aliases.iter().filter(|alias| alias.name == name);
        let aliases = aliases.filter(|alias| alias.target.len() <= MAX_NAME);
        let targets: Targets = aliases.map(|alias| Box::from(&*alias.target)).collect();
        if targets.is_empty() {
            if message.addresses.iter().any(|record| record.name == name) {
                self.aliases.remove(device, name);
            }
            return;
        }
        if name.len() > MAX_NAME {
            return;
        }
        let cost = targets.iter().map(|target| TARGET_COST + target.len());
        let cost = NAME_COST + name.len() + cost.sum::<usize>();
        let until = now + LEADS_FOR;
        let alias = Alias { targets, until };
        self.aliases
            .insert(device, name.into(), alias, cost, |_, _, _| {});
    }

    /// The names to which a name leads, by the answers that a device got; `None` where it is no alias.
    pub fn targets(&self, device: Mac, name: &str, now: f64) -> Option<&Targets> {
        let alias = self.aliases.get(device, name)?;
        (now <= alias.until).then_some(&alias.targets)
    }

    /// Questions and aliases that left to make room.
    pub fn evicted(&self) -> u64 {
        self.open.evicted() + self.aliases.evicted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::dns::{AddressRecord, AliasRecord, Message, Question};

    fn key(device: u8, port: u16) -> FlowKey {
        crate::classify::tests::key_of(device, 17, port, 53)
    }

    fn asking(id: u16, name: &str) -> Message {
        let name = name.to_owned();
        Message {
            id,
            questions: vec![Question { name, kind: 1 }],
            ..Message::default()
        }
    }

    fn answering(id: u16, name: &str, targets: &[&str]) -> Message {
        Message {
            response: true,
            addresses: vec![AddressRecord {
                name: name.to_owned(),
                address: [192, 0, 2, 1].into(),
                ttl: 60,
            }],
            aliases: targets
                .iter()
                .map(|target| AliasRecord {
                    name: name.to_owned(),
                    target: (*target).to_owned(),
                })
                .collect(),
            ..asking(id, name)
        }
    }

    fn targets(questions: &Questions, device: u8, name: &str, now: f64) -> Vec<String> {
        let targets = questions.targets(key(device, 1).mac(), name, now);
        let targets = targets.into_iter().flat_map(|targets| targets.iter());
        targets.map(|target| target.to_string()).collect()
    }

    /// Asks and gets the answer in one.
    fn hear(questions: &mut Questions, device: u8, message: &Message, now: f64) {
        let key = key(device, 4_000);
        questions.ask(&key, message);
        assert!(questions.answer(&key, message, now));
    }

    #[test]
    fn an_answer_counts_once_and_for_who_asked() {
        let mut questions = Questions::default();
        let answer = answering(7, "a.example", &["b.example", "c.example"]);
        assert!(!questions.answer(&key(1, 4_000), &answer, 0.0));
        questions.ask(&key(1, 4_000), &asking(7, "a.example"));
        let wrong = [
            (key(2, 4_000), answer.clone()),
            (key(1, 4_001), answer.clone()),
            (key(1, 4_000), answering(8, "a.example", &["b.example"])),
            (key(1, 4_000), answering(7, "d.example", &["b.example"])),
        ];
        for (key, answer) in wrong {
            assert!(!questions.answer(&key, &answer, 0.0));
            assert_eq!(targets(&questions, 1, "a.example", 0.0), [""; 0]);
        }
        assert!(questions.answer(&key(1, 4_000), &answer, 0.0));
        let known = targets(&questions, 1, "a.example", 1.0);
        assert_eq!(known, ["b.example", "c.example"]);
        assert_eq!(targets(&questions, 2, "a.example", 1.0), [""; 0]);
        assert!(!questions.answer(&key(1, 4_000), &answer, 0.0), "again");
    }

    #[test]
    fn a_name_leads_on_until_another_answer_or_a_day_later() {
        let mut questions = Questions::default();
        let answer = answering(7, "a.example", &["b.example"]);
        hear(&mut questions, 1, &answer, 0.0);
        let empty = Message {
            addresses: Vec::new(),
            ..answering(7, "a.example", &[])
        };
        hear(&mut questions, 1, &empty, 1.0);
        let known = targets(&questions, 1, "a.example", LEADS_FOR);
        assert_eq!(known, ["b.example"], "no address is no news");
        let known = targets(&questions, 1, "a.example", LEADS_FOR + 1.0);
        assert_eq!(known, [""; 0]);
        hear(&mut questions, 1, &answering(7, "a.example", &[]), 2.0);
        assert_eq!(targets(&questions, 1, "a.example", 2.0), [""; 0]);
        assert_eq!(questions.aliases.cost(), 0);
    }

    #[test]
    fn what_a_device_asks_evicts_nothing_of_anothers() {
        let mut questions = Questions::default();
        let kept = answering(7, "a.example", &["b.example"]);
        hear(&mut questions, 2, &kept, 0.0);
        questions.ask(&key(2, 4_000), &asking(7, "a.example"));
        for number in 0..2_000_u16 {
            questions.ask(&key(1, 1_000 + number), &asking(number, "c.example"));
        }
        assert_eq!(questions.open.len(), QUESTIONS.of_device + 1);
        let mac = key(1, 1).mac();
        for number in 0..2_000 {
            let answer = answering(7, &format!("{number}.example"), &["b.example"]);
            hear(&mut questions, 1, &answer, 0.0);
            assert!(questions.aliases.cost_of(mac) <= ALIASES.of_device);
        }
        assert_eq!(targets(&questions, 1, "0.example", 0.0), [""; 0]);
        assert_eq!(targets(&questions, 1, "1999.example", 0.0), ["b.example"]);
        assert_eq!(targets(&questions, 2, "a.example", 0.0), ["b.example"]);
        assert!(questions.answer(&key(2, 4_000), &kept, 0.0));
        assert!(questions.evicted() > 2_000);
    }
}
