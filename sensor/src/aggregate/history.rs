//! The differences that the history is made of: amounts by device and party since they were taken last.
//!
//! The kernel's counts of a device are its position. A batch takes the position up to which its amounts reach,
//! so that the store can tell how many bytes no party has. Flows that wait for their name are part of neither.
//!
//! Most names stay out of it. A party is taken by its name where lists call it telemetry, advertising or
//! dns-bypass, where it belongs to the vendor of the device itself, or where a policy that names it refused or
//! observed it. Everything else is the one party `sites`.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use sensor_ebpf::{
    books::{FURTHER_DEVICES, MULTICAST_DEVICE},
    flow::FlowRecord,
    parse::Mac,
    policy::{Layer, Verdict},
};

use super::{Aggregate, books, echoes::new_echoes, refused::Refusal, traffic::PartyId};
use crate::{
    catalog::{PartyInfo, lists::Category},
    decode::tls::Stack,
    model::{
        Device,
        history::{Counts, DeviceBatch, Differences, MOST_STACKS, Party, PartyKind},
    },
    policy::BLOCKED,
    slots::Slots,
};

/// The most parties of a device in one batch; further ones are the party `other`.
pub const MOST_PARTIES: usize = 96;

/// The most devices with amounts that left the kernel's table between two batches.
const MOST_LEFT: usize = 1_024;

/// The names that may be written down, and of which devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether all names may be.
    pub all_names: bool,
    /// Devices of which nothing is.
    pub unrecorded: HashSet<Mac>,
    /// The policies that name what they are about, by their names.
    pub naming_policies: HashSet<String>,
}

/// The amounts since the last batch.
#[derive(Debug, Default)]
pub struct Pending {
    rules: Rules,
    /// The packets of flows that are booked, by slot, modulo 2³², by number of the direction.
    packets: Slots<[u32; 2]>,
    /// The counts of flows that wait for their name, in the present reading.
    waiting: HashMap<Mac, Counts>,
    devices: HashMap<Mac, OfDevice>,
    /// Those of devices that left the kernel's table.
    left: Vec<(Mac, OfDevice)>,
    /// The counts of unrecorded devices that left.
    moved: Counts,
    known: HashMap<Mac, Known>,
}

/// The facts about a device that rows need.
#[derive(Debug, Default)]
struct Known {
    vendor: Option<Box<str>>,
    name: Option<Box<str>>,
}

/// The amounts of a device by party.
#[derive(Debug, Default)]
struct OfDevice(HashMap<(PartyKind, Option<PartyId>), OfParty>);

/// The amounts of a device with one party.
#[derive(Debug)]
struct OfParty {
    party: Party,
    counts: Counts,
    /// The TLS stacks by which the device reached it, where it has a name.
    stacks: Vec<Stack>,
}

impl OfParty {
    fn new(party: Party) -> Self {
        Self {
            party,
            counts: Counts::default(),
            stacks: Vec::new(),
        }
    }
}

impl OfDevice {
    fn add(
        &mut self,
        kind: PartyKind,
        id: Option<PartyId>,
        counts: &Counts,
        stack: Option<Stack>,
        party: impl FnOnce() -> Party,
    ) {
        let is_new = !self.0.contains_key(&(kind, id));
        let is_surplus = is_new && id.is_some() && self.0.len() >= MOST_PARTIES;
        let of_party = match is_surplus {
            true => {
                let other = || OfParty::new(Party::all_of(PartyKind::Other));
                let place = self.0.entry((PartyKind::Other, None));
                place.or_insert_with(other)
            }
            false => {
                let place = self.0.entry((kind, id));
                place.or_insert_with(|| OfParty::new(party()))
            }
        };
        of_party.counts.add(counts);
        if let Some(stack) = stack
            && id.is_some()
            && !is_surplus
            && of_party.stacks.len() < MOST_STACKS
            && !of_party.stacks.contains(&stack)
        {
            of_party.stacks.push(stack);
        }
    }

    /// As a batch has them.
    fn into_parties(self) -> Vec<(Party, Counts)> {
        let finished = |of_party: OfParty| {
            let stacks = of_party.stacks.iter().map(Stack::to_string).collect();
            let party = Party {
                stacks,
                ..of_party.party
            };
            (party, of_party.counts)
        };
        self.0.into_values().map(finished).collect()
    }
}

impl Pending {
    /// Whether a policy by name decided about a flow, and names what it is about.
    fn is_named(&self, policy: Option<&str>, layer: Layer) -> bool {
        layer != Layer::Address
            && policy.is_some_and(|policy| {
                policy == BLOCKED || self.rules.naming_policies.contains(policy)
            })
    }

    /// The way in which a party of a device is written down.
    fn kind(&self, device: Mac, info: &PartyInfo, is_named: bool) -> PartyKind {
        match (&*info.name, info.category) {
            ("local", None) => return PartyKind::Local,
            ("other", None) => return PartyKind::Other,
            _ => {}
        }
        let is_listed = matches!(
            info.category,
            Some(Category::Telemetry | Category::Advertising | Category::DnsBypass)
        );
        // Of the lists' other names, those of the device's own vendor alone tell nothing of its user.
        let known = self.known.get(&device);
        let vendor = known.and_then(|known| known.vendor.as_deref());
        let is_vendors = info.category == Some(Category::NeverBlock)
            && match (vendor, info.owner.as_deref()) {
                (Some(vendor), Some(owner)) => vendor.eq_ignore_ascii_case(owner),
                _ => false,
            };
        match is_listed || is_vendors || is_named {
            true => PartyKind::Party,
            false if self.rules.all_names => PartyKind::Site,
            false => PartyKind::Sites,
        }
    }

    fn add(
        &mut self,
        device: Mac,
        id: Option<PartyId>,
        info: &PartyInfo,
        is_named: bool,
        counts: &Counts,
        stack: Option<Stack>,
    ) {
        if counts.is_zero() || self.rules.unrecorded.contains(&device) {
            return;
        }
        let kind = self.kind(device, info, is_named);
        let (id, party): (_, Box<dyn FnOnce() -> Party>) = match kind {
            PartyKind::Party | PartyKind::Site => (
                id,
                Box::new(|| Party {
                    kind,
                    name: Arc::clone(&info.name),
                    category: info.category.map(Category::name),
                    owner: info.owner.clone(),
                    country: info.network.country.as_deref().map(Arc::from),
                    stacks: Vec::new(),
                }),
            ),
            _ => (None, Box::new(|| Party::all_of(kind))),
        };
        let of_device = self.devices.entry(device).or_default();
        of_device.add(kind, id, counts, stack, party);
    }

    /// The packets of a flow that were not booked before, which are booked from now on.
    fn packets(&mut self, slot: u32, record: &FlowRecord, is_new: bool) -> [u64; 2] {
        let counted = [record.upload_packets, record.download_packets];
        let booked = self.packets.get_or_insert_with(slot, || [0; 2]);
        if is_new {
            *booked = [0; 2];
        }
        let more = [0, 1].map(|direction| {
            u64::from((counted[direction] as u32).wrapping_sub(booked[direction]))
        });
        *booked = counted.map(|packets| packets as u32);
        more
    }
}

impl Aggregate {
    /// Has amounts for the history kept from now on, by these rules, or none.
    ///
    /// Kept amounts stay as they are; those of devices that are unrecorded from now on are forgotten.
    pub fn keep_history(&mut self, rules: Option<Rules>) {
        let Some(rules) = rules else {
            self.history = None;
            return;
        };
        let history = self.history.get_or_insert_default();
        history
            .devices
            .retain(|mac, _| !rules.unrecorded.contains(mac));
        history
            .left
            .retain(|(mac, _)| !rules.unrecorded.contains(mac));
        history.rules = rules;
    }

    /// Takes the vendors and names of devices.
    pub fn know_devices(&mut self, devices: &[Device]) {
        let Some(history) = &mut self.history else {
            return;
        };
        let is_known = |mac: &Mac| devices.iter().any(|device| device.mac == Some(*mac));
        if history.known.len() > devices.len() {
            history.known.retain(|mac, _| is_known(mac));
        }
        for device in devices {
            let Some(mac) = device.mac else { continue };
            let identity = &device.identity;
            let Known { vendor, name } = history.known.entry(mac).or_default();
            if vendor.as_deref() != identity.vendor.as_deref() {
                *vendor = identity.vendor.as_deref().map(Box::from);
            }
            if name.as_deref() != identity.name.as_deref() {
                *name = identity.name.as_deref().map(Box::from);
            }
        }
    }

    /// Takes that a reading begins.
    pub(super) fn begin_history_reading(&mut self) {
        if let Some(history) = &mut self.history {
            history.waiting.clear();
        }
    }

    /// Takes that a flow waits for its name, with bytes that are not booked, and perhaps its opening.
    pub(super) fn wait_in_history(
        &mut self,
        slot: u32,
        record: &FlowRecord,
        bytes: [u64; 2],
        opens: bool,
    ) {
        let Some(history) = &mut self.history else {
            return;
        };
        let booked = match opens {
            true => [0; 2],
            false => history.packets.get(slot).copied().unwrap_or_default(),
        };
        let counted = [record.upload_packets, record.download_packets];
        let counts = Counts {
            bytes,
            packets: [0, 1].map(|direction| {
                u64::from((counted[direction] as u32).wrapping_sub(booked[direction]))
            }),
            flows: opens.into(),
            ..Counts::default()
        };
        history
            .waiting
            .entry(record.key.mac())
            .or_default()
            .add(&counts);
    }

    /// Takes that the counts of a flow up to now are booked to nobody.
    pub(super) fn skip_in_history(&mut self, slot: u32, record: &FlowRecord) {
        if let Some(history) = &mut self.history {
            history.packets(slot, record, true);
        }
    }

    /// Takes new counts of a flow.
    pub(super) fn book_in_history(
        &mut self,
        slot: u32,
        record: &FlowRecord,
        bytes: [u64; 2],
        opens: bool,
        party: PartyId,
    ) {
        let flow = self.flows.get(slot, &record.key);
        let stack = flow.and_then(|flow| self.stack(&record.key, flow));
        let Some(history) = &mut self.history else {
            return;
        };
        let counts = Counts {
            bytes,
            packets: history.packets(slot, record, opens),
            flows: opens.into(),
            ..Counts::default()
        };
        let decision = record.judgement().decision;
        let is_named = decision.verdict != Verdict::Allow
            && history.is_named(self.reading.name_of(decision.policy), decision.layer);
        let info = self.parties.info(party);
        let mac = record.key.mac();
        history.add(mac, Some(party), info, is_named, &counts, stack);
    }

    /// Takes a refusal of a device, of which `retried` came shortly after the same was refused before.
    pub(super) fn refuse_in_history(&mut self, device: Mac, refusal: &Refusal, retried: u64) {
        const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

        let Some(history) = &mut self.history else {
            return;
        };
        let counts = Counts {
            refused: refusal.count,
            retried,
            ..Counts::default()
        };
        let is_named = history.is_named(self.reading.name_of(refusal.policy), refusal.layer);
        let info = match refusal.layer {
            // An address, which is no name that lists know.
            Layer::Address => PartyInfo::default(),
            _ => {
                let name = refusal.what.strip_suffix('.').unwrap_or(&refusal.what);
                self.catalog
                    .about(Some(&name.to_ascii_lowercase()), NOWHERE)
            }
        };
        let now = self.now;
        let kind = history.kind(device, &info, is_named);
        let id = match kind {
            PartyKind::Party | PartyKind::Site => {
                let (name, category) = (Arc::clone(&info.name), info.category);
                let about = || info.clone();
                Some(self.parties.number(device, &name, category, now, about))
            }
            _ => None,
        };
        history.add(device, id, &info, is_named, &counts, None);
    }

    /// Takes that the kernel's counts of a device went to those of `other`.
    pub(super) fn leave_history(&mut self, mac: Mac) {
        let Some(history) = &mut self.history else {
            return;
        };
        if history.rules.unrecorded.contains(&mac) {
            let mut before = self.reading.positions();
            if let Some((.., counts)) =
                before.find(|(_, record, _)| Mac::from_word(record.mac) == mac)
            {
                history.moved.add(&counts);
            }
            return;
        }
        let of_device = history.devices.remove(&mac).unwrap_or_default();
        history.waiting.remove(&mac);
        // The store finds out that others have left: their parties alone are lost.
        if history.left.len() < MOST_LEFT {
            history.left.push((mac, of_device));
        }
    }

    /// Takes that the slot of a flow is free.
    pub(super) fn reap_in_history(&mut self, slot: u32) {
        if let Some(history) = &mut self.history {
            history.packets.remove(slot);
        }
    }

    /// Forgets the amounts of a device, or of all, that were not taken yet.
    pub fn forget_history(&mut self, device: Option<Mac>) {
        let Some(history) = &mut self.history else {
            return;
        };
        let is_meant = |mac: &Mac| device.is_none_or(|device| device == *mac);
        history.devices.retain(|mac, _| !is_meant(mac));
        history.left.retain(|(mac, _)| !is_meant(mac));
    }

    /// The amounts since this was called last; `None` where none are kept.
    pub fn take_history(&mut self) -> Option<Differences> {
        let history = self.history.as_mut()?;
        let mut differences = Differences {
            moved: std::mem::take(&mut history.moved),
            ..Differences::default()
        };
        for (mac, of_device) in history.left.drain(..) {
            differences.devices.push(DeviceBatch {
                device: mac.to_string(),
                name: None,
                began: 0,
                began_at: 0.0,
                position: None,
                parties: of_device.into_parties(),
                echoes: Vec::new(),
            });
        }
        for (number, record, counts) in self.reading.positions() {
            let mac = books::is_device(number).then(|| Mac::from_word(record.mac));
            if let Some(mac) = mac
                && history.rules.unrecorded.contains(&mac)
            {
                differences.unrecorded.push(mac.to_string());
                continue;
            }
            let waiting = mac.and_then(|mac| history.waiting.get(&mac));
            let of_device = mac.and_then(|mac| history.devices.remove(&mac));
            let known = mac.and_then(|mac| history.known.get(&mac));
            let device = match (mac, number) {
                (Some(mac), _) => mac.to_string(),
                (None, MULTICAST_DEVICE) => "multicast".to_owned(),
                (None, FURTHER_DEVICES) => "other".to_owned(),
                (None, _) => continue,
            };
            differences.devices.push(DeviceBatch {
                device,
                name: known.and_then(|known| known.name.as_deref().map(str::to_owned)),
                began: record.first_seen,
                began_at: match mac {
                    Some(_) => self.clock.unix_seconds(record.first_seen),
                    // Nobody notes when the first packet of several devices came.
                    None => 0.0,
                },
                position: Some(counts.without(waiting.unwrap_or(&Counts::default()))),
                parties: of_device.map_or_else(Vec::new, OfDevice::into_parties),
                echoes: mac.map_or_else(Vec::new, |mac| {
                    new_echoes(&mut self.echo, &self.catalog, mac)
                }),
            });
        }
        // Devices without a record have no position to be compared with: they come with their record.
        history.devices.shrink_to_fit();
        Some(differences)
    }
}
