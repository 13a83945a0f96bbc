//! The books of the kernel: every frame through the real programs, and the real tables read.
//!
//! The kernel knows neither when a packet was captured, nor that a frame was inside of another packet: both
//! are put right here. Frames inside of a tunnel run over tables of their own.

use std::{collections::HashMap, iter};

use bytes::Bytes;
use sensor_ebpf::{
    books::{DeviceRecord, FIRST_DEVICE, FURTHER_DEVICES, MULTICAST_DEVICE},
    flow::{Direction, FlowKey, FlowRecord, Judgement},
    sample::{Kind, NO_SLOT, wanted_of},
};

use super::{
    Seen,
    hashing::Multilinear,
    host::Fragments,
    tables::{DEVICES, FLOWS, Reading, add, add_both},
    tunnel::Place,
};
use crate::{
    record::Record,
    source::kernel::{self, ONE_PAGE, Runner, enter_own_namespace},
};

/// The programs, kept from one capture to the next.
#[derive(Default)]
pub struct Programs {
    payloads: u8,
    places: [Option<Tables>; Place::ALL.len()],
}

/// The programs of one place, and their tables.
struct Tables {
    runner: Runner,
    /// Which of the capture's flows is in a slot.
    flows: HashMap<u32, u32, Multilinear>,
}

/// A flow that the kernel opened.
struct Opened {
    place: Place,
    slot: u32,
    /// The number of its device among those of all places.
    device: u32,
    first_seen: u64,
    last_seen: u64,
}

/// The books of one capture.
pub(super) struct Run<'a> {
    programs: &'a mut Programs,
    /// In the order in which they were opened.
    opened: Vec<Opened>,
    numbers: HashMap<FlowKey, u32, Multilinear>,
    devices: Devices,
    fragments: Fragments,
    last_multicast: u64,
    /// Samples emitted, by kind.
    samples: [u64; Kind::COUNT],
    /// Places where anything was seen.
    used: [bool; Place::ALL.len()],
}

impl Programs {
    /// Loads the programs in a network namespace of their own, in which the calling thread stays; of a
    /// new flow `payloads` payloads in each direction are wanted.
    ///
    /// # Errors
    ///
    /// When the privilege is missing, or the kernel refuses a call.
    pub fn load(payloads: u8) -> Result<Self, kernel::Error> {
        enter_own_namespace()?;
        let mut programs = Self {
            payloads,
            ..Self::default()
        };
        programs.place(Place::Capture)?;
        Ok(programs)
    }

    fn place(&mut self, place: Place) -> Result<&mut Tables, kernel::Error> {
        let tables = &mut self.places[place as usize];
        match tables {
            Some(tables) => Ok(tables),
            None => Ok(tables.insert(Tables {
                runner: Runner::load(FLOWS, DEVICES, self.payloads)?,
                flows: HashMap::default(),
            })),
        }
    }

    /// The books of a capture, emptied of those before.
    pub(super) fn begin(&mut self) -> Result<Run<'_>, kernel::Error> {
        for tables in self.places.iter_mut().flatten() {
            let slots: Vec<_> = tables.flows.drain().map(|(slot, _)| slot).collect();
            tables.runner.clear(&slots)?;
        }
        Ok(Run {
            programs: self,
            opened: Vec::new(),
            numbers: HashMap::default(),
            devices: Devices::default(),
            fragments: Fragments::default(),
            last_multicast: 0,
            samples: [0; Kind::COUNT],
            used: [false; Place::ALL.len()],
        })
    }
}

impl Run<'_> {
    /// Runs a frame, and emits its payload where the kernel copied it. Gives whether the kernel took the
    /// frame.
    pub(super) fn observe(
        &mut self,
        seen: &Seen<'_>,
        emit: &mut impl FnMut(Record),
    ) -> Result<bool, kernel::Error> {
        let tables = self.programs.place(seen.place)?;
        self.used[seen.place as usize] = true;
        let live = tables.flows.len() as u64;
        let frame = &seen.frame;
        let runner = &mut tables.runner;
        if !runner.run(seen.direction, frame.header(), frame.body(), frame.len())? {
            return Ok(false);
        }
        let key = match &seen.parsed {
            Ok(parsed) => Some(self.fragments.key(seen, parsed)),
            Err(_) => None,
        };
        if tables.runner.losses().live_flows > live
            && let Some(key) = key
            && let Some(slot) = tables.runner.slot(&key)
        {
            let number = self.opened.len() as u32;
            tables.flows.insert(slot, number);
            self.numbers.insert(key, number);
            self.opened.push(Opened {
                place: seen.place,
                slot,
                device: self.devices.number(key.mac().word()),
                first_seen: seen.at,
                last_seen: seen.at,
            });
        }
        if let Ok(parsed) = &seen.parsed {
            if seen.direction == Direction::Download && parsed.destination_mac.is_group() {
                self.last_multicast = seen.at;
            }
            if let Some(number) = key.and_then(|key| self.numbers.get(&key)) {
                self.opened[*number as usize].last_seen = seen.at;
            }
        }
        let payload_offset = seen.parsed.map_or(0, |parsed| parsed.payload_offset());
        let captured = frame.captured().saturating_sub(payload_offset);
        tables.runner.samples(|record| {
            let Record::Sample(mut sample) = record else {
                return;
            };
            // The frame was filled up with zeros behind the captured bytes: these are cut off. The kernel's
            // test run takes one page of a download: captured bytes behind that are put there again.
            let handed = ONE_PAGE.saturating_sub(payload_offset);
            if seen.direction == Direction::Download && sample.octets.len() == handed {
                let payload = frame.from(payload_offset);
                let wanted = wanted_of(sample.head.payload, false) as usize;
                sample.octets = Bytes::copy_from_slice(&payload[..payload.len().min(wanted)]);
            }
            sample.octets.truncate(captured);
            sample.head.captured = sample.octets.len() as u32;
            sample.head.key = sample.head.key.on_interface(seen.place.ifindex());
            sample.head.at = seen.at;
            // The time of this machine tells nothing about the capture.
            sample.head.nanoseconds = 0;
            // Neither does the place of a flow in the table.
            sample.head.epoch = 0;
            sample.head.slot = tables
                .flows
                .get(&sample.head.slot)
                .copied()
                .unwrap_or(NO_SLOT);
            if !sample.octets.is_empty() {
                self.samples[usize::from(sample.head.kind)] += 1;
                emit(Record::Sample(sample));
            }
        });
        Ok(true)
    }

    /// The flow that was opened as the `number`th.
    pub(super) fn flow(&self, number: u32) -> Option<FlowRecord> {
        let opened = self.opened.get(number as usize)?;
        let tables = self.programs.places[opened.place as usize].as_ref()?;
        let flow = tables.runner.flow(opened.slot);
        Some(FlowRecord {
            first_seen: opened.first_seen,
            last_seen: opened.last_seen,
            device: opened.device,
            interface: opened.place as u32,
            judgement: Judgement {
                epoch: 0,
                ..flow.judgement()
            }
            .pack(),
            key: flow.key.on_interface(opened.place.ifindex()),
            ..flow
        })
    }

    /// When the first packet of the flow came that was opened as the `number`th.
    pub(super) fn first_seen(&self, number: u32) -> Option<u64> {
        Some(self.opened.get(number as usize)?.first_seen)
    }

    /// The tables at the end.
    pub(super) fn into_reading(mut self) -> Result<Reading, kernel::Error> {
        let mut reading = Reading::default();
        for place in Place::ALL {
            if let Some(tables) = &self.programs.places[place as usize]
                && self.used[place as usize]
            {
                add_place(&mut reading, &mut self.devices, place, &tables.runner)?;
            }
        }
        reading.flows = (0..self.opened.len() as u32)
            .filter_map(|number| self.flow(number))
            .collect();
        for flow in &reading.flows {
            let owner = &mut reading.devices[flow.device as usize];
            if owner.live_flows == 0 {
                owner.first_seen = flow.first_seen;
                owner.last_seen = flow.first_seen;
            }
            owner.live_flows += 1;
        }
        reading.losses.samples = self.samples;
        reading.losses.live_flows = reading.flows.len() as u64;
        reading.devices[MULTICAST_DEVICE as usize].last_seen = self.last_multicast;
        Ok(reading)
    }
}

/// Adds the counts of a place's tables other than those of flows.
fn add_place(
    reading: &mut Reading,
    devices: &mut Devices,
    place: Place,
    runner: &Runner,
) -> Result<(), kernel::Error> {
    let interface = runner.interface();
    let record = reading.interface(place);
    add_both(&mut record.overflow, interface.overflow);
    add(&mut record.multicast, interface.multicast);
    for (sums, skipped) in iter::zip(&mut record.skipped, interface.skipped) {
        for (sum, skipped) in iter::zip(sums, skipped) {
            add(sum, skipped);
        }
    }
    let losses = runner.losses();
    let sums = &mut reading.losses;
    sums.flow_table_full += losses.flow_table_full;
    sums.flow_share_used += losses.flow_share_used;
    sums.flow_index_full += losses.flow_index_full;
    sums.device_table_full += losses.device_table_full;
    for (sum, lost) in iter::zip(&mut sums.samples_lost, losses.samples_lost) {
        *sum += lost;
    }
    for number in [MULTICAST_DEVICE, FURTHER_DEVICES] {
        add_device(reading, number, &runner.device(number));
    }
    for (mac, number) in runner.devices()? {
        add_device(reading, devices.number(mac), &runner.device(number));
    }
    Ok(())
}

/// Adds the packets and bytes of a device without a flow.
fn add_device(reading: &mut Reading, number: u32, record: &DeviceRecord) {
    let number = number as usize;
    if number >= reading.devices.len() {
        reading.devices.resize(number + 1, DeviceRecord::default());
    }
    let sums = &mut reading.devices[number];
    sums.mac = record.mac;
    for (sums, overflow) in iter::zip(&mut sums.overflow, record.overflow) {
        add_both(sums, overflow);
    }
}

/// The numbers of devices by their MAC addresses, the same in every place.
#[derive(Default)]
struct Devices(HashMap<u64, u32, Multilinear>);

impl Devices {
    fn number(&mut self, mac: u64) -> u32 {
        let next = FIRST_DEVICE + self.0.len() as u32;
        *self.0.entry(mac).or_insert(next)
    }
}
