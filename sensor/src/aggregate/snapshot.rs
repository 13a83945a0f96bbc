//! A snapshot of everything, for the sinks and the commands.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use sensor_ebpf::parse::Mac;

use super::{
    Aggregate,
    devices::DeviceState,
    identity::{self, Identity},
    traffic::{Amount, Parties, PartyId, Traffic},
};
use crate::model::{self, ByDirection, PartyTraffic, Snapshot, Ticks};

/// How long a device is remembered that was in no reading, in seconds.
pub(super) const UNLISTED_FOR: f64 = 15.0;

/// The traffic of a device with the parties that have a series.
#[derive(Clone, Debug)]
pub(super) struct ShownParties {
    parties: Box<[PartyId]>,
    traffic: Arc<[PartyTraffic]>,
}

impl Aggregate {
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
    pub(super) fn parties_of(&self, snapshot: &Snapshot) -> Vec<model::Party> {
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
