//! The policy in force, and the commands that change it for a while.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ByDirection, Tally, Word, word};

/// How often a policy applied to packets of a device.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PolicyHits {
    /// The device's MAC address.
    pub device: String,
    /// The policy's name.
    pub policy: String,
    /// `observe`, `allow`, `reject` or `drop`.
    #[serde(deserialize_with = "word::one")]
    pub action: Word,
    /// The layer that the policy matched: `address`, `dns`, `tls`, `quic` or `http`.
    #[serde(deserialize_with = "word::one")]
    pub layer: Word,
    /// Flows and DNS questions that it decided.
    pub decided: u64,
    /// By direction.
    pub hits: ByDirection<Tally>,
}

/// The policy in force.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PolicyState {
    /// The generation number; a flow judged under another one is judged again.
    pub generation: u32,
    /// Policies in force.
    pub policies: u64,
    /// Prefixes in force, both families.
    pub prefixes: u64,
    /// Names in force.
    pub names: u64,
    /// Packets of servers that were held until the verdict on a name.
    pub held: u64,
    /// Flows whose hold expired before there was a verdict.
    pub hold_expired: u64,
    /// Streams that the kernel did not put together, by reason: the daemon judges the names in them.
    #[serde(deserialize_with = "word::keys")]
    pub unassembled: BTreeMap<Word, u64>,
    /// Whether the kernel judges the names in QUIC: `on`; `off`, as configured; `interpreted`, because the kernel
    /// does not compile programs; `refused`, because it does not take the program.
    #[serde(deserialize_with = "word::one")]
    pub kernel_quic: Word,
    /// The files that policies may refer to.
    pub lists: Vec<PolicyList>,
    /// Reloads that took effect since the tables were made.
    pub reloads: u64,
    /// Reloads that were refused since the tables were made.
    pub reloads_refused: u64,
    /// Devices whose own rules have no place in the kernel: the rules for everybody apply to them.
    pub devices_left_out: u64,
    /// The pauses that hold.
    pub pauses: Vec<Pause>,
}

/// A file that policies may refer to: a list, or a database of networks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PolicyList {
    /// The file.
    pub list: String,
    /// Names in it that are used; `None`: the file is no list.
    pub names: Option<u64>,
    /// Lines that are not used; `None`: the file is no list.
    pub bad_lines: Option<u64>,
    /// The time at which the file was written, in seconds since the Unix epoch; 0 if it could never be read.
    pub modified: f64,
    /// Whether it could not be read the last time: its earlier content, if any, stays in force.
    pub kept: bool,
    /// Whether it has no place in the kernel's tables: only its exceptions are in force.
    pub left_out: bool,
}

/// The block or the exception that a command set for a name and everything below it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverrideState {
    /// The name.
    pub name: String,
    /// `blocked` or `allowed`.
    #[serde(deserialize_with = "word::one")]
    pub is: Word,
    /// The devices that it is for, as they were typed; `None`: all.
    pub devices: Option<String>,
    /// Seconds since the Unix epoch of the command.
    pub since: f64,
    /// Seconds since the Unix epoch at which it ends; `None`: when a command takes it back.
    pub until: Option<f64>,
    /// Seconds for which it holds once the machine's clock is set, if the machine was booted meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<f64>,
}

/// A time in which policies refuse nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// The devices that it is for; `None`: all.
    pub devices: Option<String>,
    /// Seconds since the Unix epoch of the command.
    pub since: f64,
    /// Seconds since the Unix epoch at which it ends; `None`: when a command ends it.
    pub until: Option<f64>,
}
