//! Devices, and how they are known.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use sensor_ebpf::parse::Mac;
use serde::{Deserialize, Serialize};

use super::{ByDirection, FamilyBooks, PartyTraffic, Refused, Word, word};

/// A device on the LAN side.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Device {
    /// Its MAC address in lower case with colons; `multicast` for frames to groups, `other` for
    /// all devices the table had no place for.
    pub device: String,
    /// The same address as a number; `None` for the shared records.
    #[serde(skip)]
    pub mac: Option<Mac>,
    /// The identity of the device.
    #[serde(flatten)]
    pub identity: Conclusion,
    /// The MAC address of the device that probably uses this random address: both send the same host name and
    /// ask for an address in the same way, and they were not seen at the same time.
    pub probably_same_as: Option<String>,
    /// The addresses that it sent from, the most recent first.
    pub addresses: Vec<IpAddr>,
    /// Books by family: `ipv4`, `ipv6`, `other`.
    #[serde(deserialize_with = "word::keys")]
    pub families: BTreeMap<Word, FamilyBooks>,
    /// The parties with which it exchanged most since the daemon started, by name, and `other` last. Snapshots
    /// share them while the device exchanges nothing.
    pub parties: Arc<[PartyTraffic]>,
    /// Bytes of flows whose name is hidden, by reason, since the daemon started.
    #[serde(deserialize_with = "word::keys")]
    pub hidden: BTreeMap<Word, ByDirection<u64>>,
    /// Bytes of flows for which the lists have a category, since the daemon started.
    #[serde(deserialize_with = "word::keys")]
    pub categories: BTreeMap<Word, ByDirection<u64>>,
    /// The refusals that it met since the daemon started, the latest first; filled where one device is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
    /// Flows that are in the table now.
    pub live_flows: u64,
    /// Whether servers answered it on two days, or the configuration names it.
    pub settled: bool,
    /// Seconds since the Unix epoch of the first packet; 0: not known, as in a record that devices share.
    pub first_seen: f64,
    /// Seconds since the Unix epoch of the last packet; 0: not known.
    pub last_seen: f64,
}

impl Device {
    /// Bytes, since the daemon started, of flows that hide their names.
    pub fn hidden_bytes(&self) -> u64 {
        self.hidden.values().map(sum).sum()
    }

    /// Bytes, since the daemon started, of all flows.
    pub fn known_bytes(&self) -> u64 {
        self.parties.iter().map(|with| sum(&with.bytes)).sum()
    }
}

const fn sum(both: &ByDirection<u64>) -> u64 {
    both.upload.saturating_add(both.download)
}

/// The kind of a device.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Kind {
    /// A telephone.
    Phone,
    /// A tablet or an electronic book.
    Tablet,
    /// A computer that somebody works at, or a server.
    Computer,
    /// A television set, or a box that turns a screen into one.
    Tv,
    /// Any other thing: loudspeaker, printer, lamp, camera, watch, game console.
    Iot,
    /// A device through which others reach the network: router, access point, repeater.
    Router,
    /// No observation tells the kind.
    #[default]
    Unknown,
}

impl Kind {
    /// The word for it in the configuration, in metrics and in JSON.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The identity of a device, as far as it can be concluded, and the evidence for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    /// Its name for people, at most 64 characters.
    pub name: Option<String>,
    /// Its kind.
    pub kind: Kind,
    /// The brand on it; if that is not known, the maker of its network hardware.
    pub vendor: Option<String>,
    /// Its model, as it calls itself.
    pub model: Option<String>,
    /// Its operating system, with the version if that is known.
    pub system: Option<String>,
    /// Whether its MAC address is a random one.
    pub random_mac: bool,
    /// The least number of devices that use this MAC address, as behind a repeater, itself included; 0 if
    /// nothing tells of more than one.
    pub shared_by: u32,
    /// The confidence of `kind`, 0 to 1; 0 if the kind is unknown.
    pub kind_confidence: f32,
    /// The confidence of `vendor`, 0 to 1; 0 if there is none.
    pub vendor_confidence: f32,
    /// The lesser of those of the two that are known; 0 if neither is.
    pub confidence: f32,
    /// The evidence for all this, the most trusted source first.
    pub evidence: Vec<EvidenceLine>,
}

impl Conclusion {
    /// The lesser confidence of kind and vendor, of those that are known; 0 if neither is.
    pub fn least_confidence(&self) -> f32 {
        let known = [
            (self.kind != Kind::Unknown, self.kind_confidence),
            (self.vendor.is_some(), self.vendor_confidence),
        ];
        let known = known.iter().filter(|(is_known, _)| *is_known);
        known
            .map(|(_, sure)| *sure)
            .reduce(f32::min)
            .unwrap_or_default()
    }
}

/// One observation of a device, and one conclusion that it suggests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvidenceLine {
    /// The source, for example `dhcp-host-name`.
    #[serde(deserialize_with = "word::one")]
    pub source: Word,
    /// The observed value, for example `Annas-iPhone`; at most 128 bytes.
    pub value: String,
    /// The property that it tells of: `name`, `kind`, `vendor`, `model` or `system`.
    #[serde(deserialize_with = "word::one")]
    pub about: Word,
    /// The value that it suggests, for example `phone`.
    pub suggests: String,
    /// Its weight, 0 to 1.
    pub weight: f32,
}

word::serde_by_word!(Kind);
