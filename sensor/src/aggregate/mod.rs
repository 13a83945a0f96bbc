//! The aggregate, from records to a snapshot. It uses no clock, no channel and no kernel.
//!
//! A reading of the tables gives the books (`books`); [observations](crate::classify) in between give names to
//! flows, to addresses ([dns_answers]) and to devices ([identity]). The counts of flows are booked to
//! parties when a reading comes ([traffic]), as the [catalog](crate::catalog) names them. Parties that follow each
//! visit to a site are found on the way ([echo]).

pub mod address_names;
mod booking;
mod books;
mod devices;
pub mod dns_answers;
pub mod echo;
mod echoes;
mod facts;
mod flows;
pub mod history;
mod house;
pub mod identity;
mod observe;
mod questions;
pub mod refused;
mod snapshot;
mod stacks;
pub mod traffic;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use sensor_ebpf::{
    flow::FlowKey,
    parse::{Address, Family, Mac},
};

pub use books::{action, flow, remote_end};

use self::{
    address_names::AddressNames,
    books::Reading,
    devices::DeviceState,
    dns_answers::Answers,
    echo::Echo,
    flows::Flows,
    history::Pending,
    house::Resolvers,
    identity::IdentityOverride,
    questions::Kept,
    refused::{Refusal, Refusals},
    stacks::Stacks,
    traffic::Parties,
};
use crate::{
    catalog::Catalog,
    classify::Classified,
    decode::Failure,
    model,
    record::{Clock, Record},
};

/// Seconds between two searches for expired answers and parties.
const SWEEP: f64 = 60.0;

/// The facts about devices in the configuration, by MAC address.
pub type Overrides = HashMap<Mac, IdentityOverride>;

/// All knowledge, put together from records.
#[derive(Debug)]
pub struct Aggregate {
    reading: Reading,
    catalog: Arc<Catalog>,
    overrides: Overrides,
    flows: Flows,
    devices: HashMap<Mac, DeviceState>,
    answers: Answers,
    address_names: AddressNames,
    resolvers: Resolvers,
    stacks: Stacks,
    refusals: Refusals,
    parties: Parties,
    echo: Echo,
    /// The time of the last search for expired entries, in seconds since the Unix epoch.
    swept: f64,
    failures: BTreeMap<(&'static str, Failure), u64>,
    /// Devices that no reading had yet.
    unlisted: usize,
    questions: Option<Kept>,
    devices_refused: u64,
    /// The amounts for the history, where one is kept.
    history: Option<Box<Pending>>,
    clock: Clock,
    /// The time at which it began to count, in seconds since the Unix epoch.
    since: f64,
    now: f64,
}

impl Default for Aggregate {
    fn default() -> Self {
        Self::new(Arc::default(), Overrides::default(), 0.0)
    }
}

impl Aggregate {
    /// An aggregate with this knowledge, which begins to count at `since`, in seconds since the Unix epoch. The
    /// counts that an older flow has already are booked to no party, so that nothing is booked twice when a
    /// daemon takes over the tables of another.
    pub fn new(catalog: Arc<Catalog>, overrides: Overrides, since: f64) -> Self {
        // Not by the default, which would read the built-in lists.
        Self {
            reading: Reading::default(),
            catalog,
            overrides,
            flows: Flows::default(),
            devices: HashMap::new(),
            answers: Answers::default(),
            address_names: AddressNames::default(),
            resolvers: Resolvers::default(),
            stacks: Stacks::default(),
            refusals: Refusals::default(),
            swept: 0.0,
            parties: Parties::default(),
            echo: Echo::default(),
            failures: BTreeMap::new(),
            unlisted: 0,
            questions: None,
            devices_refused: 0,
            history: None,
            since,
            clock: Clock::default(),
            now: 0.0,
        }
    }

    /// Replaces the catalog and the overrides; booked counts stay.
    pub fn learn(&mut self, catalog: Arc<Catalog>, overrides: Overrides) {
        self.catalog = catalog;
        self.overrides = overrides;
        for device in self.devices.values_mut() {
            device.conclusion = None;
            // Another number of them may have a series.
            device.shown = None;
        }
        self.flows.forget_parties();
    }

    /// Takes the addresses of the gateway itself: devices may send it DNS questions.
    pub fn set_own_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.resolvers.set_own(addresses);
    }

    /// Takes a result of a classifier. `now` is in seconds since the Unix epoch.
    pub fn take(&mut self, classified: Classified, now: f64) {
        match classified {
            Classified::Record(record) => self.apply(record, now),
            Classified::Observation(observation) => self.observe(*observation, now),
            Classified::Expired(expired) => self.expire(&expired, now),
        }
    }

    /// Takes one record of a source, except a sample. `now` is in seconds since the Unix epoch.
    pub fn apply(&mut self, record: Record, now: f64) {
        self.now = now;
        match &record {
            Record::Tables(tables) => {
                self.clock = tables.clock;
                self.begin_history_reading();
            }
            Record::Device(reading) if books::is_device(reading.number) => {
                self.list(Mac::from_word(reading.record.mac));
            }
            Record::Left(mac, settled) => self.let_go(Mac::from_word(*mac), *settled),
            Record::Flow(slot, flow) => self.book(*slot, flow, false),
            Record::Reaped(slot, flow) => {
                self.book(*slot, flow, true);
                self.flows.forget(*slot);
                self.reap_in_history(*slot);
            }
            Record::Discarded(slot) => {
                self.flows.forget(*slot);
                self.reap_in_history(*slot);
            }
            _ => {}
        }
        self.reading.apply(record);
    }

    /// Whether the flow in a slot has these bytes, by number of the direction, and they are booked: then its record
    /// would change nothing but the sums of live flows.
    #[inline]
    pub fn has_booked(&self, slot: u32, bytes: [u64; 2]) -> bool {
        self.flows.booked(slot) == Some(bytes)
    }

    /// Takes a refusal of a device. `now` is in seconds of steady time.
    pub fn refuse(&mut self, device: Mac, refusal: Refusal, now: f64) {
        self.now = now;
        let told = self.history.is_some().then(|| refusal.clone());
        let retried = self.refusals.add(device, refusal, now);
        if let Some(refusal) = told {
            self.refuse_in_history(device, &refusal, retried);
        }
    }

    /// The refusals of a device, the latest first.
    pub fn refused(&self, device: Mac) -> Vec<model::Refused> {
        self.refusals
            .of(device, |policy| self.reading.policy_name(policy))
    }

    /// The names at addresses.
    pub fn address_names(&mut self) -> &mut AddressNames {
        &mut self.address_names
    }

    /// Forgets expired answers and parties.
    fn forget_what_is_over(&mut self) {
        // After a clock was set back, another minute begins.
        if (self.swept..self.swept + SWEEP).contains(&self.now) {
            return;
        }
        self.swept = self.now;
        self.answers.forget_expired(self.now);
        self.stacks.forget_expired(self.now);
        self.parties.forget_silent(self.now);
    }
}

/// An end of a flow; `None` where it is not IP.
fn ip_of(key: &FlowKey, address: Address) -> Option<IpAddr> {
    let octets = address.octets();
    match key.family() {
        Family::V4 => {
            let [a, b, c, d, ..] = octets;
            Some(IpAddr::from([a, b, c, d]))
        }
        Family::V6 => Some(IpAddr::from(octets)),
        Family::Other => None,
    }
}

#[cfg(test)]
mod tests;
