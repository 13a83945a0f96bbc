//! The devices of which something is kept: those of the kernel's table, those heard of before a reading has them,
//! and those that left the table.

use std::collections::hash_map::Entry;

use sensor_ebpf::parse::Mac;

use super::{
    Aggregate,
    identity::{Fact, Identity},
    snapshot::ShownParties,
    traffic::Traffic,
};
use crate::model;

/// The most devices of which something is kept before a reading has them. Devices of the kernel's table always
/// have room, because that table is bounded. MAC addresses that somebody makes up when it is full are not in
/// it, and are forgotten again.
pub(super) const MAX_UNLISTED: usize = 1_024;

/// The most devices of which something is kept after they left the kernel's table: those that were not settled
/// are forgotten first.
pub(super) const MAX_LEFT: usize = 1_024;

/// How long it is kept after that, in seconds: 30 days.
const LEFT_FOR: f64 = 30.0 * 24.0 * 60.0 * 60.0;

/// The state of a device beside its books.
#[derive(Debug, Default)]
pub(super) struct DeviceState {
    pub(super) identity: Identity,
    /// The conclusion, until a new fact may change it.
    pub(super) conclusion: Option<model::Conclusion>,
    pub(super) traffic: Traffic,
    /// Its traffic by party as snapshots have it, until another booking.
    pub(super) shown: Option<ShownParties>,
    /// Whether it is in the kernel's table.
    pub(super) is_listed: bool,
    /// The time of the first fact, or of its leaving the table, in seconds since the Unix epoch.
    pub(super) noted: f64,
    /// Seconds since the Unix epoch of its first packet; 0 before a snapshot.
    pub(super) first_seen: f64,
    /// Whether it was settled when it left the table: its identity is kept, and its traffic is not.
    pub(super) left: Option<bool>,
}

impl Aggregate {
    pub(super) fn device(&mut self, mac: Mac) -> Option<&mut DeviceState> {
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
    pub(super) fn list(&mut self, mac: Mac) -> &mut DeviceState {
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

    /// Forgets the traffic of a device that left the kernel's table, and keeps its identity.
    pub(super) fn let_go(&mut self, mac: Mac, settled: bool) {
        self.leave_history(mac);
        self.answers.forget_device(mac);
        self.address_names.forget_device(mac);
        self.stacks.forget_device(mac);
        self.parties.forget_device(mac);
        self.refusals.forget_device(mac);
        self.echo.forget(mac);
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
    pub(super) fn forget_unlisted(&mut self, before: f64) {
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

    pub(super) fn note(&mut self, mac: Mac, fact: Fact) {
        let now = self.now;
        if let Some(device) = self.device(mac)
            && device.identity.note(fact, now)
        {
            device.conclusion = None;
        }
    }
}
