//! The other sides of traffic.

use serde::{Deserialize, Serialize};

use super::{ByDirection, Word, word};

/// The facts known of a party.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Party {
    /// As in [`PartyTraffic`].
    pub party: String,
    /// As in [`PartyTraffic`].
    #[serde(deserialize_with = "word::maybe")]
    pub category: Option<Word>,
    /// The owner.
    pub owner: Option<String>,
    /// The country of its first address, two capital letters (ISO 3166-1).
    pub country: Option<String>,
    /// The number of the autonomous system of its first address.
    pub asn: Option<u32>,
    /// The organisation that runs this autonomous system.
    pub organisation: Option<String>,
}

/// The traffic of a device with one party since the daemon started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PartyTraffic {
    /// The registrable domain, the address where there is no name, `local`, or `other`.
    pub party: String,
    /// `telemetry`, `advertising`, `dns-bypass` or `never-block`: one domain is several parties
    /// where lists tell its names apart.
    #[serde(deserialize_with = "word::maybe")]
    pub category: Option<Word>,
    /// Bytes while the party had a series of its own; for `other`, all bytes that are in no such series.
    pub bytes: ByDirection<u64>,
    /// Flows by the direction of their first packet, counted as `bytes` is.
    pub flows: ByDirection<u64>,
    /// All bytes; for `other`, those of all parties that have no series.
    pub bytes_in_all: ByDirection<u64>,
    /// All flows, counted as `bytes_in_all` is.
    pub flows_in_all: ByDirection<u64>,
}
