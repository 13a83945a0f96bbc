//! The aggregate, from records to a snapshot. It uses no clock, no channel and no kernel.
//!
//! A reading of the tables gives the books (`books`); [observations](crate::classify) in between give names to
//! flows, to addresses ([dns_answers]) and to devices ([identity]). The counts of flows are booked to
//! parties when a reading comes ([traffic]), as the [catalog](crate::catalog) names them.

pub mod address_names;
mod books;
pub mod dns_answers;
mod flows;
pub mod history;
mod house;
pub mod identity;
pub mod refused;
pub mod traffic;

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use sensor_ebpf::{
    flow::{Direction, FlowKey, FlowRecord},
    parse::{Address, Family, Mac},
    sample::{Head, Kind, NO_SLOT, is_service},
};

pub use books::{action, flow, remote_end};

use self::{
    address_names::AddressNames,
    books::Reading,
    dns_answers::Answers,
    flows::{FlowState, Flows},
    history::Pending,
    house::Resolvers,
    identity::{Fact, Identity, IdentityOverride},
    refused::{Refusal, Refusals},
    traffic::{Amount, Counted, Parties, PartyId, Traffic},
};
use crate::{
    catalog::{Catalog, Shown, is_local, resolvers::Hidden},
    classify::{Classified, ECH_PROVIDERS, Expired, Observation, Outcome, Source, Unread},
    decode::{Failure, dhcp4, dhcp6, dns, router_advertisement},
    model::{self, ByDirection, DnsQuestion, FlowFacts, PartyTraffic, Snapshot, Ticks},
    record::{Clock, Record},
};

/// How long a flow may be without a name before its counts are booked to no name, in seconds: a name comes with
/// the first packets.
const PATIENCE: f64 = 2.0;

/// How long a device is remembered that was in no reading, in seconds.
const UNLISTED_FOR: f64 = 15.0;

/// The most devices of which something is kept before a reading has them. Devices of the kernel's table always
/// have room, because that table is bounded. MAC addresses that somebody makes up when it is full are not in
/// it, and are forgotten again.
const MAX_UNLISTED: usize = 1_024;

/// The most devices of which something is kept after they left the kernel's table: those that were not settled
/// are forgotten first.
const MAX_LEFT: usize = 1_024;

/// How long it is kept after that, in seconds: 30 days.
const LEFT_FOR: f64 = 30.0 * 24.0 * 60.0 * 60.0;

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
    refusals: Refusals,
    parties: Parties,
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

/// The state of a device beside its books.
#[derive(Debug, Default)]
struct DeviceState {
    identity: Identity,
    /// The conclusion, until a new fact may change it.
    conclusion: Option<model::Conclusion>,
    traffic: Traffic,
    /// Its traffic by party as snapshots have it, until another booking.
    shown: Option<ShownParties>,
    /// Whether it is in the kernel's table.
    is_listed: bool,
    /// The time of the first fact, or of its leaving the table, in seconds since the Unix epoch.
    noted: f64,
    /// Seconds since the Unix epoch of its first packet; 0 before a snapshot.
    first_seen: f64,
    /// Whether it was settled when it left the table: its identity is kept, and its traffic is not.
    left: Option<bool>,
}

/// The traffic of a device with the parties that have a series.
#[derive(Clone, Debug)]
struct ShownParties {
    parties: Box<[PartyId]>,
    traffic: Arc<[PartyTraffic]>,
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
            refusals: Refusals::default(),
            swept: 0.0,
            parties: Parties::default(),
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

    /// Keeps every DNS question from now on, for [`questions`](Self::questions), without a bound: captures use
    /// it, which have one.
    pub fn keep_questions(&mut self) {
        self.questions = Some(Kept::default());
    }

    /// The kept questions, in order.
    pub fn questions(&self) -> &[DnsQuestion] {
        match &self.questions {
            Some(kept) => &kept.questions,
            None => &[],
        }
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

    /// Everything as a snapshot. The ticks are the daemon's own, because no table has them.
    pub fn snapshot(&mut self, ticks: Ticks) -> Snapshot {
        self.forget_unlisted(self.now - UNLISTED_FOR);
        self.forget_what_is_over();
        let mut snapshot = self.reading.snapshot(ticks);
        let top = self.catalog.top;
        for mac in self.parties.take_losers() {
            if let Some(device) = self.devices.get_mut(&mac) {
                device.shown = None;
            }
        }
        let mut named = vec![];
        let mut places = HashMap::new();
        for (place, device) in snapshot.devices.iter_mut().enumerate() {
            let Some(mac) = device.mac else { continue };
            let state = self.devices.entry(mac).or_default();
            places.insert(mac, place);
            let shown = state.shown.take().unwrap_or_else(|| {
                self.parties.choose(mac, top);
                shown_parties(mac, &state.traffic, &self.parties)
            });
            device.parties = Arc::clone(&state.shown.insert(shown).traffic);
            describe(device, state);
            if state.first_seen != 0.0 {
                device.first_seen = device.first_seen.min(state.first_seen);
            }
            state.first_seen = device.first_seen;
            let conclusion = state.conclusion.take().unwrap_or_else(|| {
                state
                    .identity
                    .conclude(mac.octets(), self.overrides.get(&mac))
            });
            device.identity = state.conclusion.insert(conclusion).clone();
            named.push((mac, device.first_seen, device.last_seen));
        }
        let identities: Vec<_> = named
            .iter()
            .filter_map(|(mac, first, last)| {
                let state = self.devices.get(mac)?;
                Some((mac.octets(), &state.identity, *first, *last))
            })
            .collect();
        for (device, known) in identity::probably_same(&identities) {
            if let Some(place) = places.get(&Mac::new(device)) {
                snapshot.devices[*place].probably_same_as = Some(Mac::new(known).to_string());
            }
        }
        snapshot.parties = self.parties_of(&snapshot);
        snapshot.decode_failures = self
            .failures
            .iter()
            .map(|((decoder, failure), count)| model::DecodeFailures {
                decoder,
                reason: failure.name(),
                count: *count,
            })
            .collect();
        snapshot.names = model::NameTables {
            list_names: self.catalog.lists.len() as u64,
            addresses_evicted: self.answers.evicted(),
            names_evicted: self.address_names.evicted(),
            refusals_evicted: self.refusals.evicted(),
            parties: self.parties.count() as u64,
            parties_refused: self.parties.evicted(),
            devices_refused: self.devices_refused,
        };
        snapshot
    }

    /// The parties that some device has a series for, and `other`.
    fn parties_of(&self, snapshot: &Snapshot) -> Vec<model::Party> {
        let mut shown: Vec<_> = snapshot
            .devices
            .iter()
            .filter_map(|device| self.devices.get(&device.mac?)?.shown.as_ref())
            .flat_map(|shown| shown.parties.iter().copied())
            .chain([PartyId::OTHER])
            .collect();
        shown.sort_unstable();
        shown.dedup();
        let party = |id| {
            let info = self.parties.info(id);
            model::Party {
                party: info.name.to_string(),
                category: info.category.map(|category| category.name()),
                owner: info.owner.as_deref().map(str::to_owned),
                country: info.network.country.clone(),
                asn: info.network.asn,
                organisation: info.network.organisation.clone(),
            }
        };
        shown.into_iter().map(party).collect()
    }

    /// The facts that a flow in a slot told, and those about its party.
    pub fn facts(&self, slot: u32, record: &FlowRecord) -> FlowFacts {
        let key = &record.key;
        let Some(remote) = ip_of(key, key.remote()) else {
            return FlowFacts::default();
        };
        let flow = self.flows.get(slot, key).unwrap_or(&FlowState::NONE);
        let (name, source) = match self.flows.name(flow) {
            Some((name, source)) => (Some(Arc::clone(name)), Some(source)),
            None => self.name_by_dns(key, remote).unzip(),
        };
        // For display only: nothing is concluded or counted by it.
        let by_another = match name {
            Some(_) => None,
            None => self.answers.find_of_another(remote, self.now),
        };
        let details = self.flows.details(flow);
        let shown = self.shown(record, flow, name.as_deref(), remote);
        let hidden = self.catalog.hidden(&shown);
        let is_refused = record.judgement().decision.verdict.refuses();
        let info = self.catalog.about(name.as_deref(), remote);
        FlowFacts {
            party: Some(info.name.to_string()),
            owner: info.owner.as_deref().map(str::to_owned),
            category: info.category.map(|category| category.name()),
            country: info.network.country,
            asn: info.network.asn,
            name_source: source
                .or(by_another.is_some().then_some(Source::Dns))
                .map(Source::name),
            name_by_another: by_another.is_some(),
            name: name.or(by_another).map(|name| name.to_string()),
            alpn: details
                .map(|details| details.alpn.clone())
                .filter(|alpn| !alpn.is_empty()),
            ech: details.is_some_and(|details| details.ech),
            quic_version: details.and_then(|details| details.quic_version.clone()),
            hidden: hidden.map(|hidden| hidden.name()),
            unread: flow.unread.filter(|_| !is_refused).map(Unread::name),
        }
    }

    /// The properties of a flow by which the catalog tells why its name is hidden.
    fn shown<'a>(
        &self,
        record: &FlowRecord,
        flow: &FlowState,
        name: Option<&'a str>,
        remote: IpAddr,
    ) -> Shown<'a> {
        let key = &record.key;
        let watch = record.watch();
        // Another protocol may run at the port of a service, and no reader hears it: then no payload was heard,
        // while all of it was wanted.
        let began = self.clock.unix_seconds(record.first_seen);
        let is_unheard = !flow.spoke()
            && watch.wants(Direction::Upload)
            && record.upload_packets > 0
            && began >= self.since
            && self.now - began >= PATIENCE;
        Shown {
            name,
            remote,
            protocol: key.protocol(),
            port: key.remote_port(),
            is_tunnel: flow.tunnel.is_some(),
            is_ech: self.is_ech(key, flow, remote),
            says_hello: matches!(self.flows.name(flow), Some((_, Source::Tls | Source::Quic))),
            is_readable: flow.is_dns() || is_service(key) && !is_unheard && !flow.spoke(),
            spoke: flow.spoke() || !watch.wants(Direction::Upload),
        }
    }

    fn name_by_dns(&self, key: &FlowKey, remote: IpAddr) -> Option<(Arc<str>, Source)> {
        let name = self.answers.find(key.mac(), remote, self.now)?;
        Some((name, Source::Dns))
    }

    /// Whether a flow's hello is indeed encrypted. Browsers put the extension into every hello, so that those
    /// with another name inside do not stand out (GREASE, RFC 9849, section 6.2). The extension counts if the
    /// outer name is that of a provider, or if the device learned a key for another name at this address.
    fn is_ech(&self, key: &FlowKey, flow: &FlowState, remote: IpAddr) -> bool {
        if !self.flows.details(flow).is_some_and(|details| details.ech) {
            return false;
        }
        // A hello to an address has no outer name, and hides nothing.
        let Some((outside, Source::Tls | Source::Quic)) = self.flows.name(flow) else {
            return false;
        };
        if ECH_PROVIDERS.contains(&&**outside) {
            return true;
        }
        let inside = self.answers.find(key.mac(), remote, self.now);
        inside.is_some_and(|inside| inside != *outside && self.answers.has_key(key.mac(), &inside))
    }

    fn device(&mut self, mac: Mac) -> Option<&mut DeviceState> {
        if !self.devices.contains_key(&mac) {
            if self.unlisted >= MAX_UNLISTED {
                self.devices_refused += 1;
                return None;
            }
            self.unlisted += 1;
        }
        let now = self.now;
        Some(self.devices.entry(mac).or_insert_with(|| DeviceState {
            noted: now,
            ..DeviceState::default()
        }))
    }

    /// The state of a device that is in the kernel's table.
    fn list(&mut self, mac: Mac) -> &mut DeviceState {
        let device = match self.devices.entry(mac) {
            Entry::Occupied(device) => {
                let device = device.into_mut();
                if !device.is_listed && device.left.is_none() {
                    self.unlisted -= 1;
                }
                device.left = None;
                device
            }
            Entry::Vacant(place) => place.insert(DeviceState::default()),
        };
        device.is_listed = true;
        device
    }

    /// Forgets expired answers and parties.
    fn forget_what_is_over(&mut self) {
        // After a clock was set back, another minute begins.
        if (self.swept..self.swept + SWEEP).contains(&self.now) {
            return;
        }
        self.swept = self.now;
        self.answers.forget_expired(self.now);
        self.parties.forget_silent(self.now);
    }

    /// Forgets the traffic of a device that left the kernel's table, and keeps its identity.
    fn let_go(&mut self, mac: Mac, settled: bool) {
        self.leave_history(mac);
        self.answers.forget_device(mac);
        self.address_names.forget_device(mac);
        self.parties.forget_device(mac);
        self.refusals.forget_device(mac);
        let Some(device) = self.devices.get_mut(&mac) else {
            return;
        };
        if !device.is_listed && device.left.is_none() {
            self.unlisted -= 1;
        }
        *device = DeviceState {
            identity: std::mem::take(&mut device.identity),
            first_seen: device.first_seen,
            noted: self.now,
            left: Some(settled),
            ..DeviceState::default()
        };
        let before = self.now - LEFT_FOR;
        self.devices
            .retain(|_, device| device.left.is_none() || device.noted > before);
        let left = |device: &DeviceState| device.left.map(|settled| (settled, device.noted));
        let count = self.devices.values().filter_map(left).count();
        if count > MAX_LEFT
            && let Some(mac) = self
                .devices
                .iter()
                .filter_map(|(mac, device)| Some((left(device)?, *mac)))
                .min_by(|((settled, noted), _), ((other, at), _)| {
                    settled.cmp(other).then(noted.total_cmp(at))
                })
                .map(|(_, mac)| mac)
        {
            self.devices.remove(&mac);
        }
    }

    /// Forgets, and counts, the devices that no reading had since `before`.
    fn forget_unlisted(&mut self, before: f64) {
        if self.unlisted == 0 {
            return;
        }
        let known = self.devices.len();
        self.devices
            .retain(|_, device| device.is_listed || device.left.is_some() || device.noted > before);
        let forgotten = known - self.devices.len();
        self.unlisted -= forgotten;
        self.devices_refused += forgotten as u64;
    }

    fn note(&mut self, mac: Mac, fact: Fact) {
        let now = self.now;
        if let Some(device) = self.device(mac)
            && device.identity.note(fact, now)
        {
            device.conclusion = None;
        }
    }

    /// Books the counts of a flow since the last time.
    fn book(&mut self, slot: u32, record: &FlowRecord, last: bool) {
        let key = &record.key;
        let counted = [record.upload_bytes, record.download_bytes];
        self.flows.enter(slot, key);
        let booked = self.flows.booked(slot);
        if booked == Some(counted) {
            return;
        }
        let opens = booked.is_none();
        let began = self.clock.unix_seconds(record.first_seen);
        // A start reaps what was idle before it reads anything: such flows are from before, whatever their time says
        // without a clock.
        let is_from_before = self.clock.hz == 0 || began < self.since;
        if opens && is_from_before {
            self.flows.set_booked(slot, counted);
            self.skip_in_history(slot, record);
            return self.note_flow(record, None);
        }
        let Some(remote) = ip_of(key, key.remote()) else {
            return self.account(slot, record, counted, PartyId::LOCAL, None);
        };
        if !self.flows.enter(slot, key).is_named() {
            // Its name may still be in the ring.
            if !last && self.now - began < PATIENCE {
                let booked = booked.unwrap_or_default();
                let bytes = [0, 1].map(|at| counted[at].saturating_sub(booked[at]));
                return self.wait_in_history(slot, record, bytes, opens);
            }
            if let Some((name, source)) = self.name_by_dns(key, remote) {
                self.flows.set_name(slot, key, &name, source);
            }
        }
        let state = self.flows.enter(slot, key);
        let known = state.party;
        let name = self
            .flows
            .get(slot, key)
            .and_then(|flow| self.flows.name(flow));
        let name = name.map(|(name, _)| Arc::clone(name));
        let party = match known {
            Some(party) if self.parties.has(key.mac(), party) => party,
            // The party was evicted to make room for others: numbering it again and again would evict them.
            Some(_) => PartyId::OTHER,
            None => self.party(key.mac(), name.as_deref(), remote),
        };
        self.flows.enter(slot, key).party = Some(party);
        let flow = self.flows.get(slot, key).unwrap_or(&FlowState::NONE);
        let shown = self.shown(record, flow, name.as_deref(), remote);
        let hidden = self.catalog.hidden(&shown);
        self.account(slot, record, counted, party, hidden);
        if opens {
            self.note_flow(record, name.as_deref());
        }
    }

    /// Notes the facts that a new flow tells of the device itself.
    fn note_flow(&mut self, record: &FlowRecord, name: Option<&str>) {
        let key = &record.key;
        // Only a packet from the device shows that an address is its own.
        if record.upload_packets > 0
            && let Some(local) = ip_of(key, key.local())
        {
            self.note(key.mac(), Fact::Address(local));
        }
        if let Some(name) = name {
            self.note(key.mac(), Fact::Name(name.to_owned()));
        }
    }

    fn party(&mut self, mac: Mac, name: Option<&str>, remote: IpAddr) -> PartyId {
        if name.is_none() && is_local(remote) {
            return PartyId::LOCAL;
        }
        let info = self.catalog.about(name, remote);
        let (name, category, now) = (Arc::clone(&info.name), info.category, self.now);
        self.parties.number(mac, &name, category, now, || info)
    }

    /// Books the counts of a flow since the last time to a party.
    fn account(
        &mut self,
        slot: u32,
        record: &FlowRecord,
        counted: [u64; 2],
        party: PartyId,
        hidden: Option<Hidden>,
    ) {
        let mut amount = Amount::default();
        let booked = self.flows.booked(slot);
        let opens = booked.is_none();
        let booked = booked.unwrap_or_else(|| {
            amount.flows[usize::from(record.opened_by & 1)] = 1;
            [0; 2]
        });
        for (sum, (counted, booked)) in amount.bytes.iter_mut().zip(counted.into_iter().zip(booked))
        {
            *sum = counted.saturating_sub(booked);
        }
        self.flows.set_booked(slot, counted);
        self.book_in_history(slot, record, amount.bytes, opens, party);
        let of = Counted {
            party,
            hidden,
            category: self.parties.info(party).category,
        };
        // A device with a flow is in the table.
        let mac = record.key.mac();
        self.list(mac);
        if let Some(device) = self.devices.get_mut(&mac) {
            let place = (mac, &mut self.parties);
            device.traffic.book(of, amount, place, self.now);
            device.shown = None;
        }
    }

    /// Takes the observation of one payload. `now` is in seconds since the Unix epoch.
    pub fn observe(&mut self, mut heard: Observation, now: f64) {
        self.now = now;
        match heard.kind {
            Kind::Mdns => self.mdns(&heard.head, &heard.octets),
            Kind::Dhcp4 => self.dhcp4(&heard.head, &heard.octets),
            Kind::Dhcp6 => self.dhcp6(&heard.head, &heard.octets),
            Kind::RouterAdvertisement => self.router_advertisement(&heard.head, &heard.octets),
            _ => {
                self.told(&mut heard);
                self.take_payload(heard);
            }
        }
    }

    /// Keeps the facts that a flow told.
    fn told(&mut self, heard: &mut Observation) {
        let head = heard.head;
        // A sample of a flow before the present one came too late.
        if head.slot == NO_SLOT || self.flows.has_another(head.slot, &head.key) {
            return;
        }
        if let Outcome::Name(name, _) = &heard.outcome
            && let Some(remote) = ip_of(&head.key, head.key.remote())
            && name.parse::<IpAddr>().is_err()
        {
            let place = (head.key.mac(), remote);
            self.address_names.said(Arc::clone(name), place, self.now);
        }
        // Counts are booked by the new facts from now on.
        self.flows.take(head.slot, heard);
    }

    /// Counts a payload whose rest never came. `now` is in seconds since the Unix epoch.
    pub fn expire(&mut self, given: &Expired, now: f64) {
        self.now = now;
        self.fail(given.decoder, given.why);
        if let Some(flow) = self.flows.get_mut(given.slot, &given.key) {
            let failed = (!flow.is_named()).then_some(Unread::Failed(given.why));
            flow.unread = given.unread.or(flow.unread).or(failed);
        }
    }

    fn fail(&mut self, decoder: &'static str, failure: Failure) {
        *self.failures.entry((decoder, failure)).or_default() += 1;
    }

    fn take_payload(&mut self, heard: Observation) {
        let head = &heard.head;
        if let Some((decoder, failure)) = heard.failure {
            self.fail(decoder, failure);
        }
        let uploaded = head.direction == Direction::Upload as u8;
        if let Some(user_agent) = heard.user_agent
            && uploaded
            && let Some(from) = ip_of(&head.key, head.key.local())
        {
            self.note(head.key.mac(), Fact::UserAgent(user_agent, from));
        }
        for (message, answers) in heard.messages.into_iter().zip(heard.answers) {
            self.dns(head, message, answers);
        }
    }

    /// Takes a DNS message; `answers` says whether it answers a question of the device.
    fn dns(&mut self, head: &Head, message: dns::Message, answers: bool) {
        let key = &head.key;
        let uploaded = head.direction == Direction::Upload as u8;
        if answers {
            let device = key.mac();
            let by_house = ip_of(key, key.remote())
                .is_some_and(|server| self.resolvers.have(server, &self.catalog));
            if message.ech {
                for question in &message.questions {
                    self.answers.learn_key(device, &question.name);
                }
            }
            let mut shared: Option<Arc<str>> = None;
            for record in &message.addresses {
                let (name, address) = (&*record.name, record.address);
                // Most messages have one name, and several addresses of it.
                shared.take_if(|shared| **shared != *name);
                let known = shared.get_or_insert_with(|| name.into());
                let aliases = message.aliases.iter();
                let aliases = aliases.filter(|alias| alias.name == name);
                let aliases: Vec<_> = aliases.map(|alias| &*alias.target).collect();
                let place = (device, address);
                let known = Arc::clone(known);
                self.address_names
                    .answer(known, &aliases, place, record.ttl, self.now);
                self.answers
                    .learn(device, (name, address), record.ttl, by_house, self.now);
            }
        }
        if !message.response && uploaded {
            for question in &message.questions {
                self.note(key.mac(), Fact::Name(question.name.clone()));
            }
        }
        self.keep(head, message);
    }

    /// Keeps a message's questions, if they are wanted.
    fn keep(&mut self, head: &Head, message: dns::Message) {
        let Some(kept) = &mut self.questions else {
            return;
        };
        let key = &head.key;
        let local = books::end(key, key.local(), key.local_port());
        let remote = books::end(key, key.remote(), key.remote_port());
        // The device may itself be the server.
        let asks = (head.direction == Direction::Upload as u8) != message.response;
        let (client, server) = if asks {
            (local, remote)
        } else {
            (remote, local)
        };
        // A device that registers a name asks for it to be set (RFC 2136).
        let updates = message.updates.into_iter().map(|update| dns::Question {
            name: update.name,
            kind: update.kind,
        });
        for question in message.questions.into_iter().chain(updates) {
            let question = DnsQuestion {
                client: client.clone(),
                server: server.clone(),
                name: question.name,
                kind: dns::kind_name(question.kind),
                answers: match message.response {
                    true => message.answers.clone(),
                    false => Vec::new(),
                },
                id: message.id,
            };
            kept.keep(question, message.response);
        }
    }

    fn mdns(&mut self, head: &Head, octets: &[u8]) {
        let message = match dns::message(octets) {
            Ok(message) => message,
            Err(failure) => return self.fail("mdns", failure),
        };
        // Messages that reach the device are about other devices.
        if head.direction != Direction::Upload as u8 || !message.response {
            return;
        }
        let mac = head.key.mac();
        if is_of_another(&head.key, &message) {
            return;
        }
        if let Some(from) = ip_of(&head.key, head.key.local()) {
            for host in message.hosts {
                self.note(mac, Fact::MdnsHost(host, from));
            }
        }
        for service in message.services {
            self.note(
                mac,
                Fact::MdnsService {
                    kind: service.kind,
                    instance: service.instance,
                    text: service.text,
                },
            );
        }
    }

    fn dhcp4(&mut self, head: &Head, octets: &[u8]) {
        let message = match dhcp4::message(octets) {
            Ok(message) => message,
            Err(failure) => return self.fail("dhcp4", failure),
        };
        let uploaded = head.direction == Direction::Upload as u8;
        if message.reply {
            if uploaded {
                self.note(head.key.mac(), Fact::Router);
            } else if let Some(server) = ip_of(&head.key, head.key.remote()) {
                let named = message.dns_servers.into_iter().map(IpAddr::from);
                self.resolvers.name(server, named);
            }
            return;
        }
        if !uploaded {
            return;
        }
        let mac = head.key.mac();
        // A repeater sends the requests of its clients; any device may claim to, but only about itself.
        if message.client != mac.octets() {
            self.note(mac, Fact::ClientBehind(message.client));
        } else {
            self.note(
                mac,
                Fact::Dhcp4 {
                    host_name: message.host_name,
                    fqdn: message.fqdn,
                    vendor_class: message.vendor_class,
                    parameters: message.parameters,
                    client_id: message.client_id,
                },
            );
        }
    }

    /// Takes the resolvers that an advertisement of the gateway names. The programs copy those alone that this
    /// machine sends.
    fn router_advertisement(&mut self, head: &Head, octets: &[u8]) {
        match router_advertisement::message(octets) {
            Ok(message) => {
                if head.direction != Direction::Upload as u8
                    && let Some(router) = ip_of(&head.key, head.key.remote())
                {
                    let named = message.dns_servers.into_iter().map(IpAddr::from);
                    self.resolvers.name(router, named);
                }
            }
            Err(failure) => self.fail("router-advertisement", failure),
        }
    }

    fn dhcp6(&mut self, head: &Head, octets: &[u8]) {
        let message = match dhcp6::message(octets) {
            Ok(message) => message,
            Err(failure) => return self.fail("dhcp6", failure),
        };
        const ADVERTISE: u8 = 2;
        const REPLY: u8 = 7;
        const RECONFIGURE: u8 = 10;
        if head.direction != Direction::Upload as u8 {
            if message.kind == REPLY
                && let Some(server) = ip_of(&head.key, head.key.remote())
            {
                let named = message.dns_servers.into_iter().map(IpAddr::from);
                self.resolvers.name(server, named);
            }
            return;
        }
        let mac = head.key.mac();
        if matches!(message.kind, ADVERTISE | REPLY | RECONFIGURE) {
            self.note(mac, Fact::Router);
            return;
        }
        let (enterprise, vendor_class) = message.vendor_class.unzip();
        self.note(
            mac,
            Fact::Dhcp6 {
                fqdn: message.fqdn,
                enterprise,
                vendor_class: vendor_class.map(|texts| texts.join(" ")),
            },
        );
    }
}

/// Questions in the order in which they came, each once however often it is sent.
#[derive(Debug, Default)]
struct Kept {
    questions: Vec<DnsQuestion>,
    /// By client, server, name, type and identifier.
    places: HashMap<(String, String, String, String, u16), usize>,
}

impl Kept {
    fn keep(&mut self, question: DnsQuestion, is_answered: bool) {
        let key = (
            question.client.clone(),
            question.server.clone(),
            question.name.clone(),
            question.kind.clone(),
            question.id,
        );
        match self.places.entry(key) {
            Entry::Vacant(place) => {
                place.insert(self.questions.len());
                self.questions.push(question);
            }
            Entry::Occupied(place) if is_answered => {
                self.questions[*place.get()].answers = question.answers;
            }
            Entry::Occupied(_) => {}
        }
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

/// Whether a multicast DNS message is passed on for another: it tells addresses of the family that
/// it is sent by, and the sender's is none of them. One that is sent from a link-local address
/// tells global ones alone.
fn is_of_another(key: &FlowKey, message: &dns::Message) -> bool {
    let Some(sender) = ip_of(key, key.local()) else {
        return false;
    };
    if matches!(sender, IpAddr::V6(address) if address.is_unicast_link_local()) {
        return false;
    }
    let mut told = message
        .addresses
        .iter()
        .map(|record| record.address)
        .filter(|address| address.is_ipv4() == sender.is_ipv4())
        .peekable();
    told.peek().is_some() && told.all(|address| address != sender)
}

/// A device's addresses, the most recent ones first.
fn addresses(identity: &Identity) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = identity.addresses().collect();
    addresses.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    addresses.into_iter().map(|(address, _)| address).collect()
}

fn bytes(amount: Amount) -> ByDirection<u64> {
    ByDirection {
        upload: amount.bytes[0],
        download: amount.bytes[1],
    }
}

fn flows(amount: Amount) -> ByDirection<u64> {
    ByDirection {
        upload: amount.flows[0],
        download: amount.flows[1],
    }
}

/// The traffic of a device by party, those with a series by their names, and `other` last.
fn shown_parties(mac: Mac, traffic: &Traffic, parties: &Parties) -> ShownParties {
    let with = |party, shown: Amount, all: Amount| PartyTraffic {
        party: parties.info(party).name.to_string(),
        category: parties.info(party).category.map(|category| category.name()),
        bytes: bytes(shown),
        flows: flows(shown),
        bytes_in_all: bytes(all),
        flows_in_all: flows(all),
    };
    let shown: Vec<_> = parties.shown(mac).collect();
    let mut by_name: Vec<_> = shown
        .iter()
        .map(|(party, shown, all)| with(*party, *shown, *all))
        .collect();
    by_name.sort_by(|one, other| (&one.party, one.category).cmp(&(&other.party, other.category)));
    let in_all = traffic.other_in_all(shown.iter().map(|(.., all)| *all));
    by_name.push(with(PartyId::OTHER, traffic.other(), in_all));
    ShownParties {
        parties: shown.iter().map(|(party, ..)| *party).collect(),
        traffic: by_name.into(),
    }
}

/// Adds the addresses of a device, and its traffic by reason of hiding and by category.
fn describe(device: &mut model::Device, state: &DeviceState) {
    device.addresses = addresses(&state.identity);
    device.hidden = state
        .traffic
        .hidden()
        .map(|(hidden, amount)| (hidden.name(), bytes(amount)))
        .collect();
    device.categories = state
        .traffic
        .categories()
        .map(|(category, amount)| (category.name(), bytes(amount)))
        .collect();
}

#[cfg(test)]
mod tests;
