//! Books the counts of flows to parties, once the name of a flow is known or does not come.

use std::{net::IpAddr, sync::Arc};

use sensor_ebpf::{flow::FlowRecord, parse::Mac};

use super::{
    Aggregate,
    flows::FlowState,
    identity::Fact,
    ip_of,
    traffic::{Amount, Counted, PartyId},
};
use crate::catalog::{is_local, resolvers::Hidden};

/// How long a flow may be without a name before its counts are booked to no name, in seconds: a name comes with
/// the first packets.
pub(super) const PATIENCE: f64 = 2.0;

impl Aggregate {
    /// Books the counts of a flow since the last time.
    pub(super) fn book(&mut self, slot: u32, record: &FlowRecord, last: bool) {
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
    pub(super) fn note_flow(&mut self, record: &FlowRecord, name: Option<&str>) {
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

    pub(super) fn party(&mut self, mac: Mac, name: Option<&str>, remote: IpAddr) -> PartyId {
        if name.is_none() && is_local(remote) {
            return PartyId::LOCAL;
        }
        let info = self.catalog.about(name, remote);
        let (name, category, now) = (Arc::clone(&info.name), info.category, self.now);
        self.parties.number(mac, &name, category, now, || info)
    }

    /// Books the counts of a flow since the last time to a party.
    pub(super) fn account(
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
        self.upload_to_echo(slot, record, party, amount.bytes[0]);
    }
}
