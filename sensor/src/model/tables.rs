//! The tables of the kernel and of the daemon, and what found no room in them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{UnreadFlows, Word, word};

/// The flow table.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct FlowTable {
    /// Flows in it.
    pub size: u64,
    /// Its capacity in flows.
    pub capacity: u64,
    /// Flows reaped since the tables were made.
    pub reaped: u64,
    /// New flows refused, by reason.
    pub refused: FlowsRefused,
    /// Packets booked to a device's overflow record.
    pub overflow_packets: u64,
}

/// New flows without a place in the table, by reason.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct FlowsRefused {
    /// No slot was free.
    pub table_full: u64,
    /// The device had used up its share of the table.
    pub share_used: u64,
    /// The index had no room near the flow's hash.
    pub index_full: u64,
}

/// The device table.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct DeviceTable {
    /// Devices in it.
    pub size: u64,
    /// Devices it has room for.
    pub capacity: u64,
    /// Devices in it that are settled: servers answered them on two days, or the configuration names them.
    pub settled: u64,
    /// Packets of devices without a place.
    pub overflow_packets: u64,
    /// Hits that could not be counted because the hit table was full: each is a packet, a decision, or all that
    /// a flow carried in one direction under a decision.
    pub hits_lost: u64,
}

/// The sample ring.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ring {
    /// The samples by kind.
    pub samples: Vec<SampleCounts>,
}

/// Samples of one kind.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct SampleCounts {
    /// The kind: the protocol that the samples were taken for.
    #[serde(deserialize_with = "word::one")]
    pub kind: Word,
    /// Samples put into the ring.
    pub taken: u64,
    /// Samples not taken because their device had used up its share of the ring, or the ring was too full for
    /// their kind.
    pub shed: u64,
    /// Refused questions not put there because the same device had just asked for the same name.
    pub suppressed: u64,
    /// Samples lost because the ring had no room.
    pub lost: u64,
}

/// The tables of names, and the entries that they had no room for.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct NameTables {
    /// Names in the lists.
    pub list_names: u64,
    /// Addresses, keys, questions and aliases of devices, evicted to make room for others of the same device, or of one
    /// with less.
    pub addresses_evicted: u64,
    /// Names at addresses that were evicted to make room, or found none.
    pub names_evicted: u64,
    /// Refusals of devices that were forgotten to make room for later ones.
    pub refusals_evicted: u64,
    /// Parties.
    pub parties: u64,
    /// Parties of devices that were evicted to make room: their traffic is booked to `other`.
    pub parties_refused: u64,
    /// Facts about devices that found no room.
    pub devices_refused: u64,
}

/// Payloads that could not be decoded.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct DecodeFailures {
    /// The decoder.
    #[serde(deserialize_with = "word::one")]
    pub decoder: Word,
    /// The reason.
    #[serde(deserialize_with = "word::one")]
    pub reason: Word,
    /// How many.
    pub count: u64,
}

/// Names that the daemon judges, outside of the kernel, since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judging {
    /// From the copy of a payload to the verdict in its flow.
    pub latency: Latency,
    /// Flows that policies by name apply to and that could not be judged.
    pub unread: Vec<UnreadFlows>,
    /// Observations that were lost because the thread that counts them was behind.
    pub records_lost: u64,
    /// Resets that could not be sent to the servers of refused connections, which wait until they time out.
    pub resets_failed: u64,
    /// Payloads that were read in part.
    pub cut: CutPayloads,
}

/// Payloads in several pieces whose missing pieces were given up, by reason. The pieces that had come are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CutPayloads {
    /// Their device already had as many incomplete payloads as one device may have.
    pub share_used: u64,
    /// All devices together already had as many as they may have.
    pub no_room: u64,
    /// The remaining pieces did not come in time.
    pub rest_late: u64,
    /// A piece in the middle was missing.
    pub piece_lost: u64,
}

/// The time that verdicts took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// The number that took at most as long as the bound at the same index, and longer than the one before; the
    /// last count is of those that took longer than any bound.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// The sum of all of them.
    pub total: Duration,
}

impl Latency {
    /// The bounds of the counts.
    pub const BOUNDS: [Duration; 10] = [
        Duration::from_micros(50),
        Duration::from_micros(100),
        Duration::from_micros(200),
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_millis(2),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(20),
        Duration::from_millis(50),
    ];

    /// Counts one.
    pub fn add(&mut self, took: Duration) {
        let place = Self::BOUNDS.partition_point(|bound| *bound < took);
        self.counts[place] += 1;
        self.total += took;
    }
}
