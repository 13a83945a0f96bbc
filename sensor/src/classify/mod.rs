//! From payloads to observations: the names that flows tell, before they are counted.
//!
//! The [`Classifier`] has the readers of every flow (`streams`, `http_requests`). An [`Observation`] goes to
//! the judge of names (`verdict`), and then to the aggregate. The module uses no clock, no channel and no
//! kernel.

mod http_requests;
mod overlap;
pub mod questions;
mod start;
mod streams;
mod verdict;

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    sync::Arc,
};

use bytes::Bytes;
use sensor_ebpf::{
    flow::{Direction, FlowKey},
    parse::Mac,
    sample::{Head, Kind, NO_SLOT},
};

pub use verdict::{
    ActiveRules, ByAddress, ByName, Concerns, Judge, Judged, Refused, Ruling, Unread,
};

use self::{
    questions::{Questions, Targets},
    streams::{FlowMemory, Readers},
};
use crate::{
    decode::{
        Failure, dns,
        tls::{Ja4, Stack},
        tunnel::Tunnel,
    },
    interned::{Interned, Number},
    quota::{Limits, Quota},
    record::{Record, Sample},
    slots::Slots,
};

/// How long a reader waits for the rest of a payload, in seconds.
pub const UNFINISHED_FOR: f64 = 15.0;

/// The most flows whose readers wait for more at a time. For one more, the device with the most of them loses
/// the one that waits longest. Each holds the bytes for which a flow is watched: 16 KiB, if that is four
/// payloads in each direction.
pub const MAX_WAITING: usize = 4_096;

/// The most flows of one device whose readers wait for more at a time. For one more, the device loses the one
/// that waits longest.
pub const MAX_WAITING_OF_DEVICE: usize = 512;

/// The most flows of which the bytes read are kept, to see whether other bytes come at the same place, and the
/// table by which the next requests of HTTP/2 are read: some 2 KiB each, at most 30 KiB. For one more, the
/// device with the most of them loses one.
pub const MAX_KEPT: usize = 1_024;

/// The outer names of hellos that hide another name.
pub const ECH_PROVIDERS: [&str; 1] = ["cloudflare-ech.com"];

/// The source of a flow's name, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The SNI of a TLS ClientHello.
    Tls,
    /// The SNI of a QUIC Initial.
    Quic,
    /// The host of an HTTP request.
    Http,
    /// A DNS answer that the device got.
    Dns,
}

impl Source {
    /// Its name in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Http => "http",
            Self::Dns => "dns",
        }
    }
}

/// The facts of a hello beside the name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Details {
    /// The application protocols that it offers.
    pub alpn: Vec<String>,
    /// Whether it is encrypted; the name is then the outer one.
    pub ech: bool,
    /// The version of QUIC.
    pub quic_version: Option<String>,
    /// The fingerprint of the client.
    pub ja4: Option<Ja4>,
}

/// The knowledge of a flow's name after a payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The payload told nothing, and nobody looks for a name in it.
    #[default]
    Nothing,
    /// The name that the flow has told, now or before. The host of a request may be an address, to which no
    /// rule by name applies.
    Name(Arc<str>, Source),
    /// All payload that could tell a name was read, and there is none: a hello or a request without one, or a
    /// protocol without names.
    Nameless,
    /// A reader waits for the rest of a payload.
    Waiting,
    /// It could not be read, for this reason.
    Unread(Failure),
    /// The connection began elsewhere, or before: its hello does not come.
    NoHello,
    /// It is in fragments, of which the kernel reads no payload.
    Fragment,
}

/// The facts of one payload, for the judge and the aggregate.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The head of the sample, with the key of its flow.
    pub head: Head,
    /// The kind of payload that it was taken for.
    pub kind: Kind,
    /// The payload of announcements that devices send to all (multicast DNS, DHCP).
    pub octets: Bytes,
    /// Whether it is DNS, readable or not.
    pub is_dns: bool,
    /// DNS messages.
    pub messages: Vec<dns::Message>,
    /// Of each of the messages, whether it answers a question of the device.
    pub answers: Vec<bool>,
    /// The `User-Agent` of the program.
    pub user_agent: Option<String>,
    /// Whether another connection has taken the flow's ports: it did not tell the earlier facts.
    pub another: bool,
    /// Whether all had been told before this payload came.
    pub told_before: bool,
    /// The knowledge of the flow's name.
    pub outcome: Outcome,
    /// The facts of a hello beside the name.
    pub details: Option<Box<Details>>,
    /// The tunnel, if it is one.
    pub tunnel: Option<Tunnel>,
    /// Whether nothing more can be learned from the flow.
    pub settled: bool,
    /// Whether it is a payload of an HTTP connection, each request of which names a host.
    pub requests: bool,
    /// The hosts of the requests that this payload completes, the first request included.
    pub hosts: Vec<Arc<str>>,
    /// The told names that DNS answers to the device led from to other names, each with those.
    pub aliases: Vec<(Arc<str>, Targets)>,
    /// The reason why payload after the told facts could not be read, or why those facts are in doubt.
    pub doubt: Option<Failure>,
    /// The decoder that failed, and the reason.
    pub failure: Option<(&'static str, Failure)>,
    /// The reason why this one could not be judged, if a policy by name applies to the device.
    pub unread: Option<Unread>,
    /// The refusals that it led to.
    pub refused: Vec<Refused>,
}

impl Observation {
    /// Nothing yet.
    fn new(head: Head, kind: Kind) -> Self {
        Self {
            head,
            kind,
            octets: Bytes::new(),
            is_dns: false,
            messages: Vec::new(),
            answers: Vec::new(),
            user_agent: None,
            another: false,
            told_before: false,
            outcome: Outcome::Nothing,
            details: None,
            tunnel: None,
            settled: false,
            requests: false,
            hosts: Vec::new(),
            aliases: Vec::new(),
            doubt: None,
            failure: None,
            unread: None,
            refused: Vec::new(),
        }
    }

    /// The TLS stack that a hello over TCP in it tells.
    pub fn stack(&self) -> Option<Stack> {
        self.details.as_ref()?.ja4?.stack()
    }

    /// Whether a device tells of itself in it, and not to the party of a flow.
    pub const fn is_announcement(&self) -> bool {
        matches!(
            self.kind,
            Kind::Mdns | Kind::Dhcp4 | Kind::Dhcp6 | Kind::RouterAdvertisement
        )
    }
}

/// A wait for the rest of a flow's payload that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The flow.
    pub key: FlowKey,
    /// The slot of its record.
    pub slot: u32,
    /// The decoder that waited for it.
    pub decoder: &'static str,
    /// The reason why it waits no longer: [`Failure::Truncated`] or [`Failure::Limit`].
    pub why: Failure,
    /// As in [`Observation`].
    pub unread: Option<Unread>,
}

/// The readers of all flows.
#[derive(Debug)]
pub struct Classifier {
    flows: Slots<Flow>,
    names: Interned<str>,
    /// The readers of flows that wait for more, or keep bytes, by slot: few have any.
    readings: HashMap<u32, Box<Reading>>,
    /// Flows whose readers wait for more, by slot and hash, in the order in which they began.
    waiting: Quota<Mac, (u32, u64), Waiting>,
    /// Flows of which bytes that were read are kept, by slot and hash, the oldest first. Some of them have
    /// ended.
    kept: Quota<Mac, (u32, u64), ()>,
    given_up: Vec<Expired>,
    questions: Questions,
}

impl Default for Classifier {
    fn default() -> Self {
        Self {
            flows: Slots::default(),
            names: Interned::default(),
            readings: HashMap::new(),
            waiting: Quota::new(Limits {
                of_device: MAX_WAITING_OF_DEVICE,
                in_all: MAX_WAITING,
            }),
            kept: Quota::new(Limits {
                of_device: MAX_KEPT,
                in_all: MAX_KEPT,
            }),
            given_up: Vec::new(),
            questions: Questions::default(),
        }
    }
}

/// Records of a source, in which an observation replaces each payload.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "flows are most of what there is, and go through one by one"
)]
pub enum Classified {
    /// Any record but a sample.
    Record(Record),
    /// The observation of a sample; boxed, because there are few of them and many flows.
    Observation(Box<Observation>),
    /// A reader no longer waits for the rest of a flow's payload.
    Expired(Expired),
}

/// A flow whose readers wait.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    slot: u32,
    key: FlowKey,
    since: f64,
}

/// The state of the flow in a slot. Most flows are settled: of those it holds the name, which is judged again
/// when another policy comes into force, and the numbers that tell another connection with the same ports.
#[derive(Debug, Default)]
struct Flow {
    /// The hash of the flow's key, which tells whether the slot still has that flow; 0 if there is none.
    hash: u64,
    told: FlowMemory,
    name: Option<Number>,
    /// Where the name is from, if there is one.
    source: Option<Source>,
    /// Whether it is counted as one that could not be judged.
    is_unread: bool,
}

/// The most bytes that the state of a flow may take: there are as many as the kernel's table has flows.
const MOST_BYTES: usize = 32;

const _: () = assert!(size_of::<Flow>() <= MOST_BYTES);

/// The readers, and the time since which they wait, in seconds since the Unix epoch.
#[derive(Debug, Default)]
struct Reading {
    readers: Readers,
    waits_since: f64,
}

impl Classifier {
    /// Emits the observation of a sample, and every other record as it is. When a flow gives its slot back, its
    /// readers are dropped. `now` is in seconds since the Unix epoch.
    pub fn hear(&mut self, record: Record, now: f64, mut emit: impl FnMut(Classified)) {
        match record {
            Record::Sample(sample) => {
                if let Some(heard) = self.sample(&sample, now) {
                    emit(Classified::Observation(Box::new(heard)));
                }
                self.given_up()
                    .for_each(|given| emit(Classified::Expired(given)));
            }
            Record::Reaped(slot, flow) => {
                self.forget(slot, &flow.key);
                emit(Classified::Record(Record::Reaped(slot, flow)));
            }
            record => emit(Classified::Record(record)),
        }
    }

    /// Takes one payload; `None` if its kind is unknown. `now` is in seconds since the Unix epoch.
    pub fn sample(&mut self, sample: &Sample, now: f64) -> Option<Observation> {
        let mut heard = self.read(sample, now)?;
        self.match_answers(&mut heard, now);
        self.add_aliases(&mut heard, now);
        Some(heard)
    }

    /// Keeps the questions of a device, and marks the answers to them.
    fn match_answers(&mut self, heard: &mut Observation, now: f64) {
        let key = &heard.head.key;
        let uploaded = heard.head.direction == Direction::Upload as u8;
        for message in &heard.messages {
            let answers = message.response && !uploaded && self.questions.answer(key, message, now);
            heard.answers.push(answers);
            if !message.response && uploaded {
                self.questions.ask(key, message);
            }
        }
    }

    /// Adds the names to which DNS answers led the device from the told ones.
    fn add_aliases(&self, heard: &mut Observation, now: f64) {
        let told = match &heard.outcome {
            Outcome::Name(name, _) => Some(name),
            _ => None,
        };
        for name in told.into_iter().chain(&heard.hosts) {
            if let Some(targets) = self.questions.targets(heard.head.key.mac(), name, now) {
                heard.aliases.push((Arc::clone(name), Arc::clone(targets)));
            }
        }
    }

    /// The names to which DNS answers led a device from this one.
    pub fn targets(&self, device: Mac, name: &str, now: f64) -> &[Box<str>] {
        let targets = self.questions.targets(device, name, now);
        targets.map_or(&[], |targets| targets)
    }

    /// DNS questions, and names that are aliases, that left to make room.
    pub fn questions_evicted(&self) -> u64 {
        self.questions.evicted()
    }

    /// The observation of a payload alone.
    fn read(&mut self, sample: &Sample, now: f64) -> Option<Observation> {
        let head = &sample.head;
        let kind = Kind::from_number(head.kind)?;
        let mut heard = Observation::new(*head, kind);
        if heard.is_announcement() {
            heard.octets = sample.octets.clone();
            return Some(heard);
        }
        if head.flags & Head::FRAGMENT != 0 {
            heard.outcome = Outcome::Fragment;
            return Some(heard);
        }
        if head.slot == NO_SLOT {
            let mut told = FlowMemory::default();
            Readers::default().sample(&mut told, None, &sample.octets, &mut heard);
            return Some(heard);
        }
        if head.flags & Head::NAME != 0 {
            return self.named(sample, kind, heard);
        }
        self.leave_to(head.slot, &head.key);
        let flow = enter(&mut self.flows, head.slot, &head.key);
        let mut reading = self.readings.remove(&head.slot).unwrap_or_default();
        let waited = reading.readers.wait();
        let went_on = reading.readers.go_on();
        let unfinished = waited.and_then(|_| reading.readers.unfinished());
        let known = flow.name.and_then(|number| self.names.get(number));
        let known = known.map(|name| &**name);
        reading
            .readers
            .sample(&mut flow.told, known, &sample.octets, &mut heard);
        if heard.another {
            flow.set_name(&mut self.names, None);
            flow.is_unread = false;
        }
        if let Outcome::Name(name, source) = &mut heard.outcome {
            flow.set_name(&mut self.names, Some((name, *source)));
            // The same memory for all who keep the name.
            if let Some((kept, _)) = flow.name(&self.names) {
                *name = Arc::clone(kept);
            }
        } else if heard.told_before
            && let Some((name, source)) = flow.name(&self.names)
        {
            // Repeat the name: an earlier observation may have been dropped.
            heard.outcome = Outcome::Name(Arc::clone(name), source);
        }
        // Of a connection that took the place of one that has told its name, more may be waited for.
        let waits = reading.readers.wait();
        let goes_on = reading.readers.go_on();
        if heard.settled && waits.is_none() && !goes_on {
            self.give_up_first(&heard, unfinished);
            return Some(heard);
        }
        if head.flags & Head::LAST != 0 && heard.outcome == Outcome::Waiting {
            // The kernel copies no more of the payload that the readers wait for.
            heard.outcome = Outcome::Unread(Failure::Limit);
        }
        let begins = waits.is_some() && waits != waited.filter(|_| !heard.another);
        if begins {
            reading.waits_since = now;
        }
        if !reading.readers.are_fresh() {
            self.readings.insert(head.slot, reading);
        }
        if goes_on && (!went_on || heard.another) {
            let hash = flow.hash;
            self.keep(head.key.mac(), head.slot, hash);
        }
        self.give_up_first(&heard, unfinished);
        if begins {
            let mac = head.key.mac();
            let waiting = Waiting {
                slot: head.slot,
                key: head.key,
                since: now,
            };
            let place = (head.slot, hash_of(&head.key));
            let mut surplus = Vec::new();
            let leaves = |_, _, waiting| surplus.push(waiting);
            self.waiting.insert(mac, place, waiting, 1, leaves);
            for waiting in surplus {
                self.let_go(waiting, Failure::Limit);
            }
        }
        Some(heard)
    }

    /// Takes the name that the kernel put together from packets of which it did not tell all; `None` if the flow
    /// has told it already.
    fn named(
        &mut self,
        sample: &Sample,
        kind: Kind,
        mut heard: Observation,
    ) -> Option<Observation> {
        let source = match kind {
            Kind::Tls => Source::Tls,
            Kind::Http => Source::Http,
            Kind::Quic => Source::Quic,
            _ => return None,
        };
        let name: Arc<str> = str::from_utf8(&sample.octets).ok()?.into();
        let head = &sample.head;
        self.leave_to(head.slot, &head.key);
        let flow = enter(&mut self.flows, head.slot, &head.key);
        if flow
            .name(&self.names)
            .is_some_and(|(known, _)| *known == name)
        {
            return None;
        }
        flow.set_name(&mut self.names, Some((&name, source)));
        heard.outcome = Outcome::Name(name, source);
        Some(heard)
    }

    /// Lets readers go that wait since before a time, in seconds since the Unix epoch.
    pub fn forget_unfinished(&mut self, before: f64) {
        let mut late = Vec::new();
        let is_late = |waiting: &Waiting| waiting.since <= before;
        self.waiting
            .expire(is_late, |_, _, waiting| late.push(waiting));
        for waiting in late {
            self.let_go(waiting, Failure::Truncated);
        }
    }

    /// The waits that were given up since the last call.
    pub fn given_up(&mut self) -> impl Iterator<Item = Expired> {
        mem::take(&mut self.given_up).into_iter()
    }

    /// Marks a flow as one that could not be judged, and returns whether it was not marked before. Flows
    /// without a slot cannot be marked.
    pub fn mark_unread(&mut self, slot: u32, key: &FlowKey) -> bool {
        match self.flows.get_mut(slot) {
            Some(flow) if flow.hash == hash_of(key) => !mem::replace(&mut flow.is_unread, true),
            _ => true,
        }
    }

    /// Replaces the name that a flow told: the flow is judged again by the new one.
    pub fn rename(&mut self, slot: u32, key: &FlowKey, name: Arc<str>, source: Source) {
        if let Some(flow) = self.flows.get_mut(slot)
            && flow.hash == hash_of(key)
        {
            flow.set_name(&mut self.names, Some((&name, source)));
        }
    }

    /// How many slots may have a flow with a name.
    pub fn slots(&self) -> u32 {
        self.flows.end()
    }

    /// The name that the flow in a slot told, if it is the flow with this key.
    pub fn name(&self, slot: u32, key: &FlowKey) -> Option<(&Arc<str>, Source)> {
        let flow = self.flows.get(slot)?;
        let name = flow.name(&self.names)?;
        (flow.hash == hash_of(key)).then_some(name)
    }

    /// Whether the name of the flow in a slot is that of a TCP connection that began with a SYN of this
    /// number, as far as both are known: ports are taken again before their next name is heard.
    pub fn began(&self, slot: u32, sequence: Option<u32>) -> bool {
        let known = self.flows.get(slot).and_then(|flow| flow.told.began());
        known.is_none() || sequence.is_none() || known == sequence
    }

    /// Forgets a flow that gave its slot back.
    pub fn forget(&mut self, slot: u32, key: &FlowKey) {
        let hash = hash_of(key);
        let flow = self.flows.get(slot);
        if flow.is_some_and(|flow| flow.hash == hash)
            && let Some(mut flow) = self.flows.remove(slot)
        {
            flow.set_name(&mut self.names, None);
            self.readings.remove(&slot);
        }
    }

    /// Forgets the flow in a slot where it is another one than that of a key.
    fn leave_to(&mut self, slot: u32, key: &FlowKey) {
        let hash = hash_of(key);
        if let Some(flow) = self.flows.get_mut(slot)
            && flow.hash != hash
        {
            flow.set_name(&mut self.names, None);
            *flow = Flow {
                hash,
                ..Flow::default()
            };
            self.readings.remove(&slot);
        }
    }

    /// Gives up the unfinished payload of a connection if another one has taken its ports.
    fn give_up_first(&mut self, heard: &Observation, unfinished: Option<&'static str>) {
        if let Some(decoder) = unfinished.filter(|_| heard.another) {
            self.given_up.push(Expired {
                key: heard.head.key,
                slot: heard.head.slot,
                decoder,
                why: Failure::Truncated,
                unread: None,
            });
        }
    }

    /// Keeps the bytes read of a flow for a while, and drops those that are kept longest of the device that
    /// keeps most.
    fn keep(&mut self, mac: Mac, slot: u32, hash: u64) {
        let mut gone = Vec::new();
        let leaves = |_, flow, ()| gone.push(flow);
        self.kept.insert(mac, (slot, hash), (), 1, leaves);
        for (slot, hash) in gone {
            let flow = self.flows.get(slot);
            if flow.is_some_and(|flow| flow.hash == hash)
                && let Some(reading) = self.readings.get_mut(&slot)
            {
                reading.readers.forget_kept();
                if reading.readers.wait().is_none() && !reading.readers.go_on() {
                    self.readings.remove(&slot);
                }
            }
        }
    }

    /// Lets the readers of a flow go, where they still wait for the same.
    fn let_go(&mut self, waiting: Waiting, why: Failure) {
        let flow = self.flows.get(waiting.slot);
        if flow.is_none_or(|flow| flow.hash != hash_of(&waiting.key)) {
            return;
        }
        let Entry::Occupied(reading) = self.readings.entry(waiting.slot) else {
            return;
        };
        if reading.get().waits_since != waiting.since || reading.get().readers.wait().is_none() {
            return;
        }
        let mut reading = reading.remove();
        if let Some(decoder) = reading.readers.unfinished() {
            self.given_up.push(Expired {
                key: waiting.key,
                slot: waiting.slot,
                decoder,
                why,
                unread: None,
            });
        } else if reading.readers.stop_waiting() {
            self.readings.insert(waiting.slot, reading);
        }
    }
}

/// The state of the flow in a slot, which has no other flow.
fn enter<'f>(flows: &'f mut Slots<Flow>, slot: u32, key: &FlowKey) -> &'f mut Flow {
    flows.get_or_insert_with(slot, || Flow {
        hash: hash_of(key),
        ..Flow::default()
    })
}

impl Flow {
    /// The name that it told, and where it is from.
    fn name<'n>(&self, names: &'n Interned<str>) -> Option<(&'n Arc<str>, Source)> {
        Some((names.get(self.name?)?, self.source?))
    }

    /// Gives it another name, or none.
    fn set_name(&mut self, names: &mut Interned<str>, name: Option<(&Arc<str>, Source)>) {
        let number = name.and_then(|(name, _)| names.hold(name));
        if let Some(before) = mem::replace(&mut self.name, number) {
            names.release(before);
        }
        self.source = name.map(|(_, source)| source);
    }
}

#[cfg(test)]
impl Classifier {
    /// How many flows have readers.
    pub(crate) fn readers(&self) -> usize {
        self.readings.len()
    }

    /// How many flows wait for more, or did until they were settled.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The number of flows of which bytes read are kept.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Whether the readers of the flow in a slot, which has some, wait for more.
    pub(crate) fn waits(&self, slot: u32) -> Option<bool> {
        let reading = self.readings.get(&slot)?;
        Some(reading.readers.wait().is_some())
    }
}

/// Tells flows apart in a slot; never 0.
pub fn hash_of(key: &FlowKey) -> u64 {
    const MULTIPLIERS: [u64; 6] = [
        0x9e37_79b9_7f4a_7c15,
        0xbf58_476d_1ce4_e5b9,
        0x94d0_49bb_1331_11eb,
        0xd6e8_feb8_6659_fd93,
        0xa076_1d64_78bd_642f,
        0xe703_7ed1_a0b4_28db,
    ];
    key.hash(&MULTIPLIERS) | 1
}

#[cfg(test)]
mod tests;
