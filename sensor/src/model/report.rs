//! The data of a report: what a device sent in some days, to whom, and who hears of its visits.

use serde::Serialize;

use super::echo::{Echo, IdleUploads};

/// The report of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Its MAC address.
    pub device: String,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Seconds since the Unix epoch at which the report begins: the start of a local hour.
    pub since: i64,
    /// Seconds since the Unix epoch at which it was made.
    pub made: i64,
    /// The local day of `since` and that of `made`, as `2026-11-08`.
    pub days_from_to: [String; 2],
    /// All of its traffic in that time, that of times which no hour has included: what the kernel counted.
    pub total: Amounts,
    /// All of it in the time of the same length before; `None` where the history does not reach so far.
    pub before: Option<Amounts>,
    /// The first page in three sentences.
    pub sentences: Vec<String>,
    /// Each local day.
    pub days: Vec<Day>,
    /// The owners of parties, those that got most first.
    pub owners: Vec<Owner>,
    /// The parties that follow visits, or did.
    pub echoes: Vec<Echo>,
    /// The visits so far that count, and the number at which the next look comes; `None` where no daemon tells.
    pub visits: Option<[u32; 2]>,
    /// Uploads of the last 24 hours while nobody used it; none where no daemon tells.
    pub idle: Vec<IdleUploads>,
    /// The news since the time before.
    pub changes: Vec<Change>,
    /// The times that no hour has.
    pub gaps: Vec<Gap>,
    /// The share of the traffic, 0 to 1, of which the recipient cannot be told; `None` where no daemon tells.
    pub hidden: Option<f64>,
}

impl Report {
    /// Its name, or its MAC address.
    pub fn called(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.device)
    }
}

/// Amounts of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    /// Bytes that left the device.
    pub upload_bytes: u64,
    /// Bytes that reached it.
    pub download_bytes: u64,
    /// Flows that began.
    pub flows: u64,
    /// Refused names and flows.
    pub refused: u64,
    /// Those of `refused` that came within ten minutes after the same was refused.
    pub retried: u64,
}

impl Amounts {
    /// The sum of both.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            upload_bytes: self.upload_bytes.saturating_add(other.upload_bytes),
            download_bytes: self.download_bytes.saturating_add(other.download_bytes),
            flows: self.flows.saturating_add(other.flows),
            refused: self.refused.saturating_add(other.refused),
            retried: self.retried.saturating_add(other.retried),
        }
    }

    /// These without others, which are a part of them.
    pub const fn without(self, part: Self) -> Self {
        Self {
            upload_bytes: self.upload_bytes.saturating_sub(part.upload_bytes),
            download_bytes: self.download_bytes.saturating_sub(part.download_bytes),
            flows: self.flows.saturating_sub(part.flows),
            refused: self.refused.saturating_sub(part.refused),
            retried: self.retried.saturating_sub(part.retried),
        }
    }
}

/// A local day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Day {
    /// As `2026-11-08`.
    pub day: String,
    /// Its traffic; of the first day, what came since the report begins.
    pub amounts: Amounts,
    /// The bytes of `amounts` that went to the parties of one owner with an echo, or to telemetry.
    pub telemetry_upload_bytes: u64,
}

/// The parties of one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The owner; the party where it is not known.
    pub owner: String,
    /// Its category: its parties of another one are another row.
    pub category: Option<String>,
    /// The parties, those that got most first.
    pub parties: Vec<String>,
    /// Their countries, by the first address of each.
    pub countries: Vec<String>,
    /// The traffic with all of them.
    pub amounts: Amounts,
    /// How many visits were looked at, and how many of them one of the parties followed, for the one that followed
    /// most; `None` where none follows.
    pub after_visits: Option<[u32; 2]>,
    /// Whether it is no party: sites whose names are not kept, the house itself, bytes that have no party.
    pub is_no_party: bool,
}

/// A difference to the time of the same length before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Change {
    /// A party that the device never had before.
    NewParty {
        /// The party.
        party: String,
        /// Its category.
        category: Option<String>,
        /// Seconds since the Unix epoch of its first traffic.
        first_seen: i64,
    },
    /// A country to which none of its parties belonged in the time before.
    NewCountry {
        /// Two capital letters (ISO 3166-1).
        country: String,
        /// A party there.
        party: String,
    },
    /// An owner that got at least twice as much as before, and at least a mebibyte more.
    MoreToOwner {
        /// The owner.
        owner: String,
        /// Bytes of upload now.
        upload_bytes: u64,
        /// Bytes of upload before.
        before: u64,
    },
}

/// A time that no hour has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Seconds since the Unix epoch.
    pub start: i64,
    /// Seconds since the Unix epoch.
    pub end: i64,
    /// `no-daemon`, `reboot`, `tables-made-anew`, `batch-lost` or `clock-unknown`.
    pub reason: String,
    /// Whether counts of that time are lost.
    pub lost: bool,
}
