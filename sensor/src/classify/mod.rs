//! From payloads to observations: the names that flows say, before anybody counts them.
//!
//! The [`Classifier`] has the readers of every flow (`streams`, `http_requests`). An [`Observation`] goes to the
//! judge of names (`verdict`), and then to the aggregate. Knows no clock, no channel and no kernel.

mod http_requests;
mod overlap;
mod start;
mod streams;
mod verdict;

use std::{mem, sync::Arc};

use bytes::Bytes;
use sensor_ebpf::{
    flow::FlowKey,
    parse::Mac,
    sample::{Head, Kind, NO_SLOT},
};

pub use verdict::{ByAddress, ByName, Concerns, InForce, Judge, Judged, Ruling, Unread};

use self::streams::{Readers, Told};
use crate::{
    decode::{Failure, dns, tunnel::Tunnel},
    quota::{Limits, Quota},
    record::{Record, Sample},
};

/// How long something that was begun is waited for, in seconds.
pub const UNFINISHED_FOR: f64 = 15.0;

/// Flows that may wait for more of something at a time; of one more, the one that waits longest of the
/// device that has most of them is let go. Each holds what a flow is watched for, 16 KiB where that is
/// four payloads in each direction.
pub const MAX_WAITING: usize = 4_096;

/// Flows of one device that may wait for more of something at a time; of one more, the device's own that
/// waits longest is let go.
pub const MAX_WAITING_OF_DEVICE: usize = 512;

/// Flows of which is kept what they have told, to see whether they say something else at the same
/// place, and what the next requests of HTTP/2 are read by: some 2 KiB each, at most 30 KiB. Of one
/// more, that of the device that has most of them is let go.
pub const MAX_KEPT: usize = 1_024;

/// Names that hellos with another name inside have outside.
pub const ECH_PROVIDERS: [&str; 1] = ["cloudflare-ech.com"];

/// Where a flow's name is from, the best first.
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

/// What a hello says beside the name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The application protocols it offers.
    pub alpn: Vec<String>,
    /// It is encrypted; the name is the one it is wrapped in.
    pub ech: bool,
    /// The version of QUIC.
    pub quic_version: Option<String>,
}

/// What is known of a flow's name after a payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The payload told nothing, and nobody looks for a name in it.
    #[default]
    Nothing,
    /// The name that the flow has told, now or before. A request may have an address for its host,
    /// which no rule by name is about.
    Name(Arc<str>, Source),
    /// All was read that could tell a name, and there is none: a hello or a request without one, a
    /// protocol that tells none.
    Nameless,
    /// The rest of something is waited for.
    Waiting,
    /// It could not be read, and why.
    Unread(Failure),
    /// The connection began elsewhere, or before: its hello does not come.
    NoHello,
    /// It is in fragments, of which the kernel reads no payload.
    Fragment,
}

/// What one payload brought, for whom it concerns.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Whose payload it was.
    pub head: Head,
    /// What it was taken for.
    pub kind: Kind,
    /// Of what devices say of themselves to all (multicast DNS, DHCP): the payload.
    pub octets: Bytes,
    /// It is DNS, whether it could be read or not.
    pub is_dns: bool,
    /// DNS messages.
    pub messages: Vec<dns::Message>,
    /// What the program that speaks calls itself.
    pub user_agent: Option<String>,
    /// Another connection has taken the flow's ports: what the one before told is not its own.
    pub another: bool,
    /// All had been told before this payload came.
    pub told_before: bool,
    /// What is known of the flow's name.
    pub outcome: Outcome,
    /// What a hello says beside the name.
    pub details: Option<Box<Details>>,
    /// It is a tunnel.
    pub tunnel: Option<Tunnel>,
    /// Nothing more is to be learned from the flow.
    pub settled: bool,
    /// It is one of the payloads of an HTTP connection, each request of which names a host.
    pub requests: bool,
    /// The hosts of the requests that are whole with this payload; the first one's with it too.
    pub hosts: Vec<Arc<str>>,
    /// Behind what the flow has told is something that could not be read, and why; or what it told is
    /// in doubt.
    pub doubt: Option<Failure>,
    /// What could not be decoded, and by which decoder.
    pub failure: Option<(&'static str, Failure)>,
    /// A policy is about the names of the device, and this one could not be judged.
    pub unread: Option<Unread>,
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
            user_agent: None,
            another: false,
            told_before: false,
            outcome: Outcome::Nothing,
            details: None,
            tunnel: None,
            settled: false,
            requests: false,
            hosts: Vec::new(),
            doubt: None,
            failure: None,
            unread: None,
        }
    }

    /// Whether a device speaks of itself, and not to whom a flow is with.
    pub const fn is_announcement(&self) -> bool {
        matches!(self.kind, Kind::Mdns | Kind::Dhcp4 | Kind::Dhcp6)
    }
}

/// Something that a flow began and that is waited for no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The flow.
    pub key: FlowKey,
    /// The slot of its record.
    pub slot: u32,
    /// What decoder waited for it.
    pub decoder: &'static str,
    /// Why it waits no longer: [`Failure::Truncated`] or [`Failure::Limit`].
    pub why: Failure,
    /// As in [`Observation`].
    pub unread: Option<Unread>,
}

/// The readers of all flows.
#[derive(Debug)]
pub struct Classifier {
    /// By the number of the slot.
    flows: Vec<Flow>,
    /// Flows whose readers wait for more, by slot and hash, in the order in which they began.
    waiting: Quota<Mac, (u32, u64), Waiting>,
    /// Flows of which something is kept that they have told, by slot and hash, the oldest first. Some
    /// of them have ended.
    kept: Quota<Mac, (u32, u64), ()>,
    given_up: Vec<Expired>,
}

impl Default for Classifier {
    fn default() -> Self {
        Self {
            flows: Vec::new(),
            waiting: Quota::new(Limits {
                of_device: MAX_WAITING_OF_DEVICE,
                in_all: MAX_WAITING,
            }),
            kept: Quota::new(Limits {
                of_device: MAX_KEPT,
                in_all: MAX_KEPT,
            }),
            given_up: Vec::new(),
        }
    }
}

/// Records of a source, each payload among them replaced by what it says.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "flows are most of what there is, and go through one by one"
)]
pub enum Classified {
    /// Any record but a sample.
    Record(Record),
    /// A sample says this; boxed, because there are few of them and many flows.
    Observation(Box<Observation>),
    /// It is waited no longer for something that a flow began.
    Expired(Expired),
}

/// A flow whose readers wait.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    slot: u32,
    key: FlowKey,
    since: f64,
}

/// What is held of the flow in a slot. Most flows are settled: of those it is the name, which is
/// judged again when another policy comes in force, and what tells another connection with the same
/// ports.
#[derive(Debug, Default)]
struct Flow {
    /// Tells whether it is still the same flow; 0 where there is none.
    hash: u64,
    told: Told,
    name: Option<(Arc<str>, Source)>,
    /// It is counted among those that could not be judged.
    is_unread: bool,
    reading: Option<Box<Reading>>,
}

/// Readers, and since when they wait, in seconds since the Unix epoch.
#[derive(Debug, Default)]
struct Reading {
    readers: Readers,
    waits_since: f64,
}

impl Classifier {
    /// Puts in the place of a sample what it says, and gives on every other record. Where a flow
    /// gives its slot back, its readers go. `now` is in seconds since the Unix epoch.
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

    /// Takes one payload; `None` where it is of no kind. `now` is in seconds since the Unix epoch.
    pub fn sample(&mut self, sample: &Sample, now: f64) -> Option<Observation> {
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
            let mut told = Told::default();
            Readers::default().sample(&mut told, None, &sample.octets, &mut heard);
            return Some(heard);
        }
        let flow = self.flow(head.slot, &head.key);
        let mut reading = flow.reading.take().unwrap_or_default();
        let waited = reading.readers.wait();
        let went_on = reading.readers.go_on();
        let unfinished = waited.and_then(|_| reading.readers.unfinished());
        let known = flow.name.as_ref().map(|(name, _)| &**name);
        reading
            .readers
            .sample(&mut flow.told, known, &sample.octets, &mut heard);
        if heard.another {
            flow.name = None;
            flow.is_unread = false;
        }
        if let Outcome::Name(name, source) = &heard.outcome {
            flow.name = Some((Arc::clone(name), *source));
        } else if heard.told_before
            && let Some((name, source)) = &flow.name
        {
            // Who is to know may have missed it.
            heard.outcome = Outcome::Name(Arc::clone(name), *source);
        }
        // Of a connection that took the place of one that has told its name, more may be waited for.
        let waits = reading.readers.wait();
        let goes_on = reading.readers.go_on();
        if heard.settled && waits.is_none() && !goes_on {
            self.give_up_first(&heard, unfinished);
            return Some(heard);
        }
        if head.flags & Head::LAST != 0 && heard.outcome == Outcome::Waiting {
            // What is waited for is not copied any more.
            heard.outcome = Outcome::Unread(Failure::Limit);
        }
        let begins = waits.is_some() && waits != waited.filter(|_| !heard.another);
        if begins {
            reading.waits_since = now;
        }
        if !reading.readers.are_fresh() {
            flow.reading = Some(reading);
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

    /// What was given up since the last call.
    pub fn given_up(&mut self) -> impl Iterator<Item = Expired> {
        mem::take(&mut self.given_up).into_iter()
    }

    /// Marks a flow as one that could not be judged, and gives whether it was not marked before.
    /// Flows without a slot are marked nowhere.
    pub fn mark_unread(&mut self, slot: u32, key: &FlowKey) -> bool {
        match self.flows.get_mut(slot as usize) {
            Some(flow) if flow.hash == hash_of(key) => !mem::replace(&mut flow.is_unread, true),
            _ => true,
        }
    }

    /// Puts another name in the place of the one that a flow told: by it the flow is judged again.
    pub fn rename(&mut self, slot: u32, key: &FlowKey, name: Arc<str>, source: Source) {
        if let Some(flow) = self.flows.get_mut(slot as usize)
            && flow.hash == hash_of(key)
        {
            flow.name = Some((name, source));
        }
    }

    /// How many slots may have a flow with a name.
    pub fn slots(&self) -> u32 {
        self.flows.len() as u32
    }

    /// The name that the flow in a slot told, if it is the flow with this key.
    pub fn name(&self, slot: u32, key: &FlowKey) -> Option<(&Arc<str>, Source)> {
        let flow = self.flows.get(slot as usize)?;
        let (name, source) = flow.name.as_ref()?;
        (flow.hash == hash_of(key)).then_some((name, *source))
    }

    /// Whether the name of the flow in a slot is that of a TCP connection that began with a SYN of this
    /// number, as far as both are known: ports are taken again before their next name is heard.
    pub fn began(&self, slot: u32, sequence: Option<u32>) -> bool {
        let known = self
            .flows
            .get(slot as usize)
            .and_then(|flow| flow.told.began());
        known.is_none() || sequence.is_none() || known == sequence
    }

    /// Forgets a flow that gave its slot back.
    pub fn forget(&mut self, slot: u32, key: &FlowKey) {
        if let Some(flow) = self.flows.get_mut(slot as usize)
            && flow.hash == hash_of(key)
        {
            *flow = Flow::default();
        }
    }

    /// What is held of the flow in a slot, made new where another was there.
    fn flow(&mut self, slot: u32, key: &FlowKey) -> &mut Flow {
        let slot = slot as usize;
        if slot >= self.flows.len() {
            self.flows.resize_with(slot + 1, Flow::default);
        }
        let flow = &mut self.flows[slot];
        let hash = hash_of(key);
        if flow.hash != hash {
            *flow = Flow {
                hash,
                ..Flow::default()
            };
        }
        flow
    }

    /// Gives up what a connection left unfinished whose ports another one has taken.
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

    /// Keeps what a flow has told a while, and lets go what is kept longest of the device that keeps
    /// most.
    fn keep(&mut self, mac: Mac, slot: u32, hash: u64) {
        let mut gone = Vec::new();
        let leaves = |_, flow, ()| gone.push(flow);
        self.kept.insert(mac, (slot, hash), (), 1, leaves);
        for (slot, hash) in gone {
            if let Some(flow) = self.flows.get_mut(slot as usize)
                && flow.hash == hash
                && let Some(reading) = &mut flow.reading
            {
                reading.readers.forget_kept();
                if reading.readers.wait().is_none() && !reading.readers.go_on() {
                    flow.reading = None;
                }
            }
        }
    }

    /// Lets the readers of a flow go, where they still wait for the same.
    fn let_go(&mut self, waiting: Waiting, why: Failure) {
        let is_same = |flow: &&mut Flow| {
            flow.hash == hash_of(&waiting.key)
                && flow.reading.as_ref().is_some_and(|reading| {
                    reading.waits_since == waiting.since && reading.readers.wait().is_some()
                })
        };
        let flow = self.flows.get_mut(waiting.slot as usize).filter(is_same);
        let Some(flow) = flow else {
            return;
        };
        let Some(mut reading) = flow.reading.take() else {
            return;
        };
        if let Some(decoder) = reading.readers.unfinished() {
            self.given_up.push(Expired {
                key: waiting.key,
                slot: waiting.slot,
                decoder,
                why,
                unread: None,
            });
        } else if reading.readers.stop_waiting() {
            flow.reading = Some(reading);
        }
    }
}

#[cfg(test)]
impl Classifier {
    /// How many flows have readers.
    pub(crate) fn readers(&self) -> usize {
        let flows = self.flows.iter();
        flows.filter(|flow| flow.reading.is_some()).count()
    }

    /// How many flows wait for more, or did until they were settled.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Of how many flows is kept what they have told.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Whether the readers of the flow in a slot, which has some, wait for more.
    pub(crate) fn waits(&self, slot: u32) -> Option<bool> {
        let reading = self.flows.get(slot as usize)?.reading.as_ref()?;
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
