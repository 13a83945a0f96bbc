//! All that can ever arrive from a source.

use bytes::Bytes;
use sensor_ebpf::{
    books::{DeviceRecord, Hit, HitKey, InterfaceRecord, Losses, Opens},
    flow::FlowRecord,
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
    /// The last counts of a flow whose slot is free from now on.
    Reaped(u32, FlowRecord),
    /// A device, as a MAC address's word, that has no record of its own any more, and whether it was settled.
    Left(u64, bool),
    /// How often a policy applied.
    Hits(HitKey, Hit),
    /// A policy matched a flow.
    Judged(Judged),
    /// An early payload of a flow; boxed, because there are few of them and many flows.
    Sample(Box<Sample>),
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
