//! The data that sinks read: plain structs, made by the aggregate at every tick.

mod device;
pub mod echo;
mod flow;
pub mod history;
mod interface;
mod party;
mod policy;
mod refused;
pub mod report;
mod tables;
pub mod text;
pub(crate) mod word;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    device::{Conclusion, Device, EvidenceLine, Kind},
    flow::{DnsQuestion, Flow, FlowFacts, UnreadFlows},
    interface::{FamilyBooks, Hook, Interface},
    party::{Party, PartyTraffic},
    policy::{OverrideState, Pause, PolicyHits, PolicyList, PolicyState},
    refused::{DeviceRefused, Refused},
    tables::{
        CutPayloads, DecodeFailures, DeviceTable, FlowTable, FlowsRefused, Judging, Latency,
        NameTables, Ring, SampleCounts,
    },
    word::Word,
};

/// Everything that was known at one moment. Counters never step back while the kernel's tables
/// live; they outlive the daemon.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// One entry for each device, and `multicast` and `other` where they have traffic.
    pub devices: Vec<Device>,
    /// One entry for each interface that was ever attached.
    pub interfaces: Vec<Interface>,
    /// Packets to which a policy applied.
    pub policy_hits: Vec<PolicyHits>,
    /// Packets seen on an interface that has no record: the only ones that no book has.
    pub unbooked_packets: u64,
    /// The flow table.
    pub flow_table: FlowTable,
    /// Device table: devices known, capacity, and packets of devices without a place.
    pub device_table: DeviceTable,
    /// The sample ring.
    pub ring: Ring,
    /// The policy in force.
    pub policy: PolicyState,
    /// The parties that some device has a series for, and `other`.
    pub parties: Vec<Party>,
    /// Payloads that could not be decoded.
    pub decode_failures: Vec<DecodeFailures>,
    /// The tables of names.
    pub names: NameTables,
    /// Names that are judged outside of the kernel.
    pub judging: Judging,
    /// HTTP connections that were closed or could not be accepted, and requests that were refused, by reason,
    /// since the daemon started.
    pub http_failures: BTreeMap<&'static str, u64>,
    /// Calls about the kernel's maps that failed since the daemon started, by map.
    pub map_failures: BTreeMap<&'static str, u64>,
    /// Slots of the flow table with content that no flow can have, since the daemon started.
    pub damaged_flows: u64,
    /// Whether the machine's clock is not set yet: until then no policy with a schedule is in force.
    pub is_time_unknown: bool,
    /// The commands `sensor block` and `allow` that still hold, the newest last.
    pub commands: Vec<OverrideState>,
    /// The store of the history; `None` where there is none.
    pub history: Option<history::StoreState>,
    /// The ticks so far.
    pub ticks: Ticks,
}

impl Snapshot {
    /// Turns the times of devices from steady time into the wall clock's, which is ahead by `offset`.
    pub fn add_to_times(&mut self, offset: f64) {
        for device in &mut self.devices {
            for time in [&mut device.first_seen, &mut device.last_seen] {
                // 0: not known.
                if *time != 0.0 {
                    *time += offset;
                }
            }
        }
    }
}

/// `upload` leaves the device, `download` reaches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByDirection<T> {
    /// Leaves the device.
    pub upload: T,
    /// Reaches the device.
    pub download: T,
}

/// Packets and bytes as they were on the wire, Ethernet header included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The ticks so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Ticks {
    /// How many.
    pub count: u64,
    /// The CPU time of all of them.
    pub total: Duration,
    /// The CPU time of the last one.
    pub last: Duration,
}
