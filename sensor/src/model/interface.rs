//! Interfaces, their books, and where the programs sit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ByDirection, Tally, Word, word};

/// A LAN-facing interface.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Interface {
    /// Its name in the configuration.
    pub interface: String,
    /// Its number in the kernel; 0 while it is gone.
    pub ifindex: u32,
    /// The hooks at which the programs are attached.
    pub hooks: ByDirection<Hook>,
    /// All packets seen: flows, overflow, multicast, skipped and refused together.
    pub seen: ByDirection<Tally>,
    /// Packets booked to flows, live or reaped.
    pub flows: ByDirection<Tally>,
    /// Packets for which there was no flow.
    pub overflow: ByDirection<Tally>,
    /// Frames to group addresses.
    pub multicast: Tally,
    /// Frames not accounted to a device, by reason.
    #[serde(deserialize_with = "word::keys")]
    pub skipped: BTreeMap<Word, ByDirection<Tally>>,
    /// Downloads that were refused before they reached the device.
    pub refused: Tally,
    /// Packets that the sensor itself sent to devices.
    pub answered: Tally,
    /// Packets that the sensor sent to devices in place of refused downloads.
    pub replaced: Tally,
    /// Refused packets to which no answer could be sent.
    pub answers_failed: u64,
    /// Refused packets that were not answered because a limit was reached, by reason.
    #[serde(deserialize_with = "word::keys")]
    pub silent: BTreeMap<Word, u64>,
    /// Whether XDP hands refused packets on to TC, which answers them.
    pub is_noted: bool,
    /// Its driver, if the driver tells its name.
    pub driver: Option<String>,
    /// Notes on it for people: other programs that run before the sensor's.
    pub notes: Vec<String>,
}

impl Interface {
    /// The way in which answers to packets of devices leave; `None` while there is no upload program.
    pub const fn answers(&self) -> Option<&'static str> {
        match self.hooks.upload {
            Hook::None => None,
            Hook::XdpNative | Hook::XdpGeneric if self.is_noted => {
                Some("TC, to which XDP hands what it refuses")
            }
            Hook::XdpNative | Hook::XdpGeneric => Some("XDP"),
            Hook::Tcx | Hook::Clsact => Some("TC"),
        }
    }
}

/// The counts of one family of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyBooks {
    /// Packets and bytes.
    pub traffic: ByDirection<Tally>,
    /// Flows by the direction of their first packet.
    pub flows: ByDirection<u64>,
    /// The part of `traffic` for which the flow table had no place.
    pub overflow: ByDirection<Tally>,
}

/// The hook at which a program is attached.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Hook {
    /// Not attached: the interface is gone.
    #[default]
    None,
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack.
    XdpGeneric,
    /// TC by a BPF link (kernel 6.6 and newer).
    Tcx,
    /// TC by a clsact queueing discipline.
    Clsact,
}

impl Hook {
    /// The number that stands for it in an interface's record.
    pub const fn number(self) -> u16 {
        match self {
            Self::None => 0,
            Self::XdpNative => 1,
            Self::XdpGeneric => 2,
            Self::Tcx => 3,
            Self::Clsact => 4,
        }
    }

    /// The hook of a number in an interface's record.
    pub const fn from_number(number: u16) -> Self {
        match number {
            1 => Self::XdpNative,
            2 => Self::XdpGeneric,
            3 => Self::Tcx,
            4 => Self::Clsact,
            _ => Self::None,
        }
    }

    /// The metric label.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

word::serde_by_word!(Hook);
