//! Refusals of policies, and their causes.

use serde::{Deserialize, Serialize};

/// A name or an address that was refused to a device of late.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// The name; the address and port of the other side where a flow told no name.
    pub what: String,
    /// The layer that refused it: `dns`, `tls`, `quic`, `http` or `address`.
    pub layer: String,
    /// The policy; `blocked` for a command.
    pub policy: String,
    /// `reject` or `drop`.
    pub action: String,
    /// The refused name to which a DNS answer (CNAME) led from this one.
    pub alias_of: Option<String>,
    /// The list that has the refused name.
    pub list: Option<String>,
    /// The line of the list, from 1.
    pub line: Option<u32>,
    /// How often it was refused.
    pub count: u64,
    /// Seconds since the Unix epoch of the last time.
    pub last: f64,
}

/// A device, and what was refused to it of late.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceRefused {
    /// Its MAC address, as in [`Device`](super::Device).
    pub device: String,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The refusals, the latest first.
    pub refused: Vec<Refused>,
}
