//! The data that the history is made of: batches of differences, and the state of the store.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::echo::Echo;

/// The amounts of a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes on the wire, by number of the direction: upload, then download.
    pub bytes: [u64; 2],
    /// Packets on the wire, as `bytes`.
    pub packets: [u64; 2],
    /// Flows that began.
    pub flows: u64,
    /// Refused names and flows.
    pub refused: u64,
    /// Those of `refused` that came shortly after the same was refused before.
    pub retried: u64,
}

impl Counts {
    /// Adds other amounts.
    pub fn add(&mut self, other: &Self) {
        for direction in 0..2 {
            self.bytes[direction] += other.bytes[direction];
            self.packets[direction] += other.packets[direction];
        }
        self.flows += other.flows;
        self.refused += other.refused;
        self.retried += other.retried;
    }

    /// These amounts without others, and never less than zero.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let less = |of: fn(&Self) -> [u64; 2]| {
            let (all, less) = (of(self), of(other));
            [0, 1].map(|direction| all[direction].saturating_sub(less[direction]))
        };
        Self {
            bytes: less(|counts| counts.bytes),
            packets: less(|counts| counts.packets),
            flows: self.flows.saturating_sub(other.flows),
            refused: self.refused.saturating_sub(other.refused),
            retried: self.retried.saturating_sub(other.retried),
        }
    }

    /// Whether some amount is less than the same of other amounts.
    pub fn is_less_than(&self, other: &Self) -> bool {
        let pairs = self.bytes.iter().zip(&other.bytes);
        let mut pairs = pairs.chain(self.packets.iter().zip(&other.packets));
        pairs.any(|(one, other)| one < other) || self.flows < other.flows
    }

    /// Whether there is nothing.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// The way in which the other side of traffic is written down.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum PartyKind {
    /// By its name.
    Party,
    /// By its name, because the configuration asks for the names of all.
    Site,
    /// All names and addresses that are not written down.
    Sites,
    /// Everything in the house or on the link itself.
    Local,
    /// Parties for which there was no room.
    Other,
    /// Bytes that no flow has any more, or never had.
    Unattributed,
}

impl PartyKind {
    /// As the store has it.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The other side of traffic, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The way in which it is written down.
    pub kind: PartyKind,
    /// Its name; that of its kind where it has none.
    pub name: Arc<str>,
    /// Its category.
    pub category: Option<&'static str>,
    /// Its owner.
    pub owner: Option<Arc<str>>,
    /// The country of its first address, two capital letters (ISO 3166-1).
    pub country: Option<Arc<str>>,
    /// The TLS stacks by which the device reached it, at most [`MOST_STACKS`]; none where it has no name.
    pub stacks: Vec<String>,
}

/// The most TLS stacks of a device that are kept for one party.
pub const MOST_STACKS: usize = 8;

impl Party {
    /// All of a kind that has no names.
    pub fn all_of(kind: PartyKind) -> Self {
        Self {
            kind,
            name: kind.name().into(),
            category: None,
            owner: None,
            country: None,
            stacks: Vec::new(),
        }
    }
}

/// The amounts of a device since the last batch.
#[derive(Clone, Debug)]
pub struct DeviceBatch {
    /// Its MAC address, or `multicast` or `other` for a record that devices share.
    pub device: String,
    /// Its name for people.
    pub name: Option<String>,
    /// The number by which the kernel's record of it is told from an earlier one of the same address: jiffies
    /// at its first packet.
    pub began: u64,
    /// Steady time of its first packet, in seconds.
    pub began_at: f64,
    /// Everything that the kernel counted for it, up to which the amounts reach; `None` where it left the
    /// kernel's table, and its counts went to those of `other`.
    pub position: Option<Counts>,
    /// The amounts by party.
    pub parties: Vec<(Party, Counts)>,
    /// The parties that follow visits, where a look is over since the last batch.
    pub echoes: Vec<Echo>,
}

/// The amounts of all devices since they were taken last.
#[derive(Clone, Debug, Default)]
pub struct Differences {
    /// The devices. One may be there twice: it left, and came back.
    pub devices: Vec<DeviceBatch>,
    /// Devices that are in the kernel's table, and of which nothing is written down.
    pub unrecorded: Vec<String>,
    /// The counts of such devices that left the kernel's table: they are in those of `other` now.
    pub moved: Counts,
}

/// A full local hour.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hour {
    /// Seconds since the Unix epoch at which it began.
    pub start: i64,
    /// The local day in which it lies, as in `2026-11-30`.
    pub day: String,
}

/// The amounts of all devices since the last batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The identity of the kernel's tables: another one means that they count from zero.
    pub tables: String,
    /// The number of the boot, in hexadecimal digits.
    pub boot: String,
    /// Steady time of its end, in seconds, and how long after boot that is.
    pub steady: f64,
    /// Seconds from boot to its end.
    pub since_boot: f64,
    /// Seconds since the Unix epoch of its start.
    pub start: f64,
    /// Seconds since the Unix epoch of its end.
    pub end: f64,
    /// The local hour to which it belongs; `None` where it spans several, because the clock was not known.
    pub hour: Option<Hour>,
    /// Whether it is the first of this daemon.
    pub is_first: bool,
    /// Whether it is the last of this daemon.
    pub is_last: bool,
    /// The amounts.
    pub of: Differences,
}

impl Batch {
    /// How many rows it has at most.
    pub fn rows(&self) -> usize {
        let devices = self.of.devices.iter();
        let rows = devices.map(|device| 1 + device.parties.len() + device.echoes.len());
        rows.sum()
    }
}

/// The state of the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreState {
    /// The database.
    pub file: String,
    /// Why nothing can be written at the moment.
    pub problem: Option<String>,
    /// The damaged file that was set aside since the daemon started.
    pub set_aside: Option<String>,
    /// Its size in bytes.
    pub bytes: u64,
    /// The size in bytes at which the oldest rows are deleted.
    pub most_bytes: u64,
    /// Seconds since the Unix epoch up to which it has everything; 0 before the first commit.
    pub until: f64,
    /// Batches that were committed since the daemon started.
    pub commits: u64,
    /// Attempts to commit that failed since the daemon started.
    pub failures: u64,
    /// Batches since the daemon started whose parties were lost: their bytes are in the row `unattributed`.
    pub batches_lost: u64,
    /// Rows that were deleted because the file reached its size.
    pub rows_evicted: u64,
}
