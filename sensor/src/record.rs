//! All that can ever arrive from a source.

use bytes::Bytes;
use sensor_ebpf::{
    books::{
        ByDirection, DeviceRecord, FAMILIES, Hit, HitKey, InterfaceRecord, Losses, Opens, Tally,
        family_index,
    },
    flow::FlowRecord,
    parse::Family,
    sample::{Head, Judged},
};

/// One thing that a source says. A reading is the whole of the tables: `Tables` first, the others
/// in any order, up to the tick that makes a snapshot of them.
#[derive(Clone, Debug)]
pub enum Record {
    /// A reading begins: the state of the tables themselves; boxed, because there is one and many flows.
    Tables(Box<Tables>),
    /// The name of a policy.
    Policy(PolicyName),
    /// An interface's record; boxed, because there are few of them and many flows.
    Interface(Box<InterfaceReading>),
    /// A device's record.
    Device(DeviceReading),
    /// A live flow's record and the number of its slot.
    Flow(u32, FlowRecord),
    /// The sums of the live flows of this reading that have no record of their own; behind the records of devices
    /// and interfaces.
    Steady(Box<FlowSums>),
    /// The last counts of a flow whose slot is free from now on.
    Reaped(u32, FlowRecord),
    /// A slot that held what no flow can be, and is free from now on.
    Discarded(u32),
    /// A device, as a MAC address's word, that has no record of its own any more, and whether it was settled.
    Left(u64, bool),
    /// How often a policy applied.
    Hits(HitKey, Hit),
    /// A policy matched a flow.
    Judged(Judged),
    /// An early payload of a flow; boxed, because there are few of them and many flows.
    Sample(Box<Sample>),
}

/// Takes the records of a source.
pub trait Reader {
    /// Takes a record.
    fn take(&mut self, record: Record);

    /// Whether the flow in a slot is known with these bytes, by number of the direction: then it needs no record of
    /// its own, and is in the [sums](Record::Steady). A slot that was given back, as a record tells, has no known
    /// flow.
    fn knows(&self, slot: u32, bytes: [u64; 2]) -> bool;
}

/// A closure knows no flow.
impl<F: FnMut(Record)> Reader for F {
    fn take(&mut self, record: Record) {
        self(record);
    }

    fn knows(&self, _: u32, _: [u64; 2]) -> bool {
        false
    }
}

/// The part of a live flow that sums need.
#[derive(Clone, Copy, Debug)]
pub struct FlowCounts {
    /// Number of the device's record.
    pub device: u32,
    /// Number of the interface's record; out of range where it has none.
    pub interface: u32,
    /// The family of its addresses.
    pub family: Family,
    /// The direction of the first packet, by number.
    pub opened_by: u8,
    /// When the last packet came, in jiffies since boot.
    pub last_seen: u64,
    /// Packets and bytes.
    pub wire: ByDirection<Tally>,
}

impl From<&FlowRecord> for FlowCounts {
    fn from(flow: &FlowRecord) -> Self {
        Self {
            device: flow.device,
            interface: flow.interface,
            family: flow.key.family(),
            opened_by: flow.opened_by,
            last_seen: flow.last_seen,
            wire: [
                Tally {
                    packets: flow.upload_packets,
                    bytes: flow.upload_bytes,
                },
                Tally {
                    packets: flow.download_packets,
                    bytes: flow.download_bytes,
                },
            ],
        }
    }
}

/// Sums over live flows.
#[derive(Clone, Debug)]
pub struct FlowSums {
    /// How many flows there are.
    pub flows: u64,
    /// By number of the device's record.
    pub devices: Box<[OfFlows]>,
    /// Packets and bytes by number of the interface's record.
    pub interfaces: Box<[ByDirection<Tally>]>,
}

impl FlowSums {
    /// The sums over no flow, with room for so many devices and interfaces.
    pub fn new(devices: u32, interfaces: u32) -> Self {
        Self {
            flows: 0,
            devices: vec![OfFlows::default(); devices as usize].into(),
            interfaces: vec![ByDirection::default(); interfaces as usize].into(),
        }
    }

    /// Adds a flow. Its counts are in no sum by a number for which there is no room.
    pub fn add(&mut self, flow: &FlowCounts) {
        self.flows += 1;
        if let Some(sums) = self.interfaces.get_mut(flow.interface as usize) {
            add(sums, flow.wire);
        }
        if let Some(of_flows) = self.devices.get_mut(flow.device as usize) {
            of_flows.add(flow);
        }
    }
}

/// The sums of the live flows of a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfFlows {
    /// Packets and bytes by number of the family.
    pub tallies: [ByDirection<Tally>; FAMILIES],
    /// Flows by number of the family and direction of their first packet.
    pub opened: [ByDirection<u64>; FAMILIES],
    /// The time of the last packet, in jiffies since boot; 0 without flows.
    pub last_seen: u64,
}

impl OfFlows {
    /// Adds a flow of the device.
    pub fn add(&mut self, flow: &FlowCounts) {
        let family = family_index(flow.family);
        add(&mut self.tallies[family], flow.wire);
        self.opened[family][usize::from(flow.opened_by & 1)] += 1;
        self.last_seen = self.last_seen.max(flow.last_seen);
    }

    /// Adds the sums of other flows of the device.
    pub fn join(&mut self, others: &Self) {
        for (sums, more) in self.tallies.iter_mut().zip(others.tallies) {
            add(sums, more);
        }
        let opened = self.opened.as_flattened_mut().iter_mut();
        for (sum, more) in opened.zip(others.opened.as_flattened()) {
            *sum += more;
        }
        self.last_seen = self.last_seen.max(others.last_seen);
    }
}

/// Adds packets and bytes, direction by direction.
pub fn add(sums: &mut ByDirection<Tally>, more: ByDirection<Tally>) {
    for (sum, more) in sums.iter_mut().zip(more) {
        sum.packets += more.packets;
        sum.bytes += more.bytes;
    }
}

/// A payload that may carry a name or an identity.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The packet's flow, and the kind of the sample.
    pub head: Head,
    /// Its octets, as many as were captured.
    pub octets: Bytes,
}

/// The tables themselves.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// The counts of losses.
    pub losses: Losses,
    /// Flows there is room for.
    pub flow_capacity: u32,
    /// Devices there is room for.
    pub device_capacity: u32,
    /// Flows reaped since the tables were made.
    pub reaped: u64,
    /// The policy generation in force.
    pub generation: u32,
    /// Policies in force.
    pub policies: u64,
    /// Prefixes in force, both families.
    pub prefixes: u64,
    /// Names in force.
    pub names: u64,
    /// Reloads that took effect since the tables were made.
    pub reloads: u64,
    /// Reloads that were refused since the tables were made.
    pub reloads_refused: u64,
    /// Whether Initials of QUIC are opened in the kernel.
    pub opens_initials: Opens,
    /// How the kernel counts time.
    pub clock: Clock,
}

/// How jiffies relate to the time of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Jiffies in a second.
    pub hz: u64,
    /// The time at which jiffies were 0, in milliseconds since the Unix epoch, by the clock that they are
    /// compared with. The time may be negative: jiffies do not begin at 0, and the machine's clock may.
    pub epoch_millis: i64,
}

impl Clock {
    /// A clock of so many jiffies in a second, which showed this time, in seconds since the Unix epoch, at so
    /// many jiffies.
    pub fn at(hz: u64, jiffies: u64, time: f64) -> Self {
        let since = jiffies as f64 / hz.max(1) as f64;
        Self {
            hz,
            epoch_millis: ((time - since) * 1e3).round() as i64,
        }
    }

    /// Seconds since the Unix epoch.
    pub fn unix_seconds(self, jiffies: u64) -> f64 {
        self.epoch_millis as f64 / 1e3 + jiffies as f64 / self.hz.max(1) as f64
    }
}

/// The name of a policy.
#[derive(Clone, Debug)]
pub struct PolicyName {
    /// Its identity in records.
    pub identity: u16,
    /// Its name in the configuration.
    pub name: String,
}

/// An interface's record and its number.
#[derive(Clone, Copy, Debug)]
pub struct InterfaceReading {
    /// The number by which flows name it.
    pub number: u32,
    /// The record.
    pub record: InterfaceRecord,
}

/// A device's record and its number.
#[derive(Clone, Copy, Debug)]
pub struct DeviceReading {
    /// The number by which flows name it.
    pub number: u32,
    /// The record.
    pub record: DeviceRecord,
}
