//! The tables at the end of a capture, as records.

use std::collections::BTreeMap;

use sensor_ebpf::{
    books::{ByDirection, DeviceRecord, FIRST_DEVICE, InterfaceRecord, Losses, Opens, Tally},
    flow::FlowRecord,
    skip::Skip,
};

use super::tunnel::Place;
use crate::record::{Clock, DeviceReading, InterfaceReading, Record, Tables};

/// Flows that one capture has room for; those beyond are booked to their device alone.
pub(super) const FLOWS: u32 = 262_144;

/// Devices that one capture has room for; those beyond share one record.
pub(super) const DEVICES: u32 = 16_384;

/// The policy generation in force: that of no policy.
pub(super) const GENERATION: u32 = 1;

/// Times are those of the capture, in microseconds since the Unix epoch.
const CLOCK: Clock = Clock {
    hz: 1_000_000,
    epoch_millis: 0,
};

/// All tables of one capture.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) losses: Losses,
    /// By the place's number; a place that was not seen has no record.
    pub(super) interfaces: [Option<Box<InterfaceRecord>>; Place::ALL.len()],
    /// By number.
    pub(super) devices: Vec<DeviceRecord>,
    /// By number of slot.
    pub(super) flows: Vec<FlowRecord>,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            losses: Losses::default(),
            interfaces: [const { None }; Place::ALL.len()],
            devices: vec![DeviceRecord::default(); FIRST_DEVICE as usize],
            flows: Vec::new(),
        }
    }
}

/// The counts of a capture's frames, those inside of tunnels left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Booked {
    /// Flows, those inside of tunnels counted as well.
    pub flows: u64,
    /// Frames of flows.
    pub accounted: Tally,
    /// Frames of devices that had no room for a further flow.
    pub overflow: Tally,
    /// Frames to groups.
    pub multicast: Tally,
    /// Frames that are not accounted to a device, by the [name](Skip::name) of the reason.
    pub skipped: BTreeMap<&'static str, Tally>,
}

impl Reading {
    /// The record of a place, made when it is first seen.
    pub(super) fn interface(&mut self, place: Place) -> &mut InterfaceRecord {
        self.interfaces[place as usize].get_or_insert_with(|| {
            let mut record = Box::<InterfaceRecord>::default();
            let name = place.name().as_bytes();
            record.name[..name.len()].copy_from_slice(name);
            record.ifindex = place.ifindex();
            record
        })
    }

    pub(super) fn booked(&self) -> Booked {
        let mut booked = Booked {
            flows: self.flows.len() as u64,
            ..Booked::default()
        };
        for flow in &self.flows {
            if flow.key.ifindex() == Place::Capture.ifindex() {
                add(&mut booked.accounted, upload(flow));
                add(&mut booked.accounted, download(flow));
            }
        }
        let Some(interface) = &self.interfaces[Place::Capture as usize] else {
            return booked;
        };
        add(&mut booked.multicast, interface.multicast);
        for tally in interface.overflow {
            add(&mut booked.overflow, tally);
        }
        for reason in Skip::ALL {
            for skipped in &interface.skipped {
                let tally = skipped[reason as usize];
                if tally.packets != 0 {
                    add(booked.skipped.entry(reason.name()).or_default(), tally);
                }
            }
        }
        booked
    }

    /// Tells that a reading begins: the state of the tables themselves.
    pub(super) fn begin(losses: Losses) -> Record {
        Record::Tables(Box::new(Tables {
            losses,
            flow_capacity: FLOWS,
            device_capacity: DEVICES,
            reaped: 0,
            generation: GENERATION,
            policies: 0,
            prefixes: 0,
            names: 0,
            reloads: 0,
            reloads_refused: 0,
            opens_initials: Opens::Off,
            clock: CLOCK,
        }))
    }

    /// Tells everything, as a reading of the kernel's tables does.
    pub(super) fn emit(self, mut emit: impl FnMut(Record)) {
        emit(Self::begin(self.losses));
        for (number, record) in self.interfaces.into_iter().enumerate() {
            if let Some(record) = record {
                emit(Record::Interface(Box::new(InterfaceReading {
                    number: number as u32,
                    record: *record,
                })));
            }
        }
        for (number, record) in self.devices.into_iter().enumerate() {
            emit(Record::Device(DeviceReading {
                number: number as u32,
                record,
            }));
        }
        for (slot, record) in self.flows.into_iter().enumerate() {
            emit(Record::Flow(slot as u32, record));
        }
    }
}

fn upload(flow: &FlowRecord) -> Tally {
    Tally {
        packets: flow.upload_packets,
        bytes: flow.upload_bytes,
    }
}

fn download(flow: &FlowRecord) -> Tally {
    Tally {
        packets: flow.download_packets,
        bytes: flow.download_bytes,
    }
}

/// Adds to a tally.
pub(super) fn add(sum: &mut Tally, tally: Tally) {
    sum.packets += tally.packets;
    sum.bytes += tally.bytes;
}

/// Adds to the tallies of both directions.
pub(super) fn add_both(sum: &mut ByDirection<Tally>, tallies: ByDirection<Tally>) {
    for (sum, tally) in sum.iter_mut().zip(tallies) {
        add(sum, tally);
    }
}
