//! The messages between client and daemon: plain data.
//!
//! The daemon speaks first: a line with its [`Hello`]. The client answers with its own and its [`Request`], a line
//! each, if both have the same number of the protocol. The daemon sends the [`Response`]s, a line each, the last
//! one [`Response::End`] or [`Response::Failed`].

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use crate::{
    model::{
        DecodeFailures, Device, DeviceRefused, DeviceTable, Flow, FlowTable, Interface, NameTables,
        OverrideState, Party, Pause, PolicyHits, PolicyState, Ring, Snapshot, Ticks,
        echo::DeviceEchoes, history::StoreState,
    },
    policy::explain::{Explanation, RefusedBefore},
};

/// The number of this protocol: another one means that requests or responses are others.
pub const PROTOCOL: u32 = 1;

/// The first line of each side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The number of its protocol.
    pub protocol: u32,
    /// The version of its program.
    pub version: String,
}

impl Hello {
    /// The hello of this program.
    pub fn ours() -> Self {
        Self {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// A request of the command line. Devices, names and addresses are as somebody typed them: the daemon alone
/// knows what they stand for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The devices, their identities and their parties: a [`Response::Device`] for each.
    Devices {
        /// Only the devices of this MAC address, IP address or name.
        device: Option<String>,
    },
    /// The open flows and their names: a [`Response::Flow`] for each.
    Flows {
        /// Only those of the devices of this MAC address, IP address or name.
        device: Option<String>,
        /// Which of them, and in which order.
        order: Order,
    },
    /// The names and addresses that were refused: a [`Response::Refused`] for each device that was refused any.
    Refused {
        /// Only those of the devices of this MAC address, IP address or name.
        device: Option<String>,
    },
    /// The parties that follow visits: a [`Response::Findings`] for each device of which visits or uploads are marked.
    Findings {
        /// Only those of the devices of this MAC address, IP address or name.
        device: Option<String>,
    },
    /// Hooks, tables, policy, names and losses: a [`Response::Status`].
    Status,
    /// The verdicts of the policies on a name or an address: a [`Response::Explained`].
    Explain {
        /// The device, by its MAC address, IP address or name.
        device: String,
        /// The name or the address, and perhaps a port.
        subject: String,
    },
    /// Block or allow a name and everything below it: a [`Response::Overridden`].
    Override {
        /// The name and the devices.
        about: About,
        /// How long it holds, in seconds, 1 to those of 365 days; `None`: until it is taken back.
        holds_for: Option<u64>,
        /// Whether it is blocked; otherwise it is allowed.
        blocks: bool,
    },
    /// Take back a block or allow: a [`Response::Forgotten`].
    Forget(About),
    /// Have policies refuse nothing for a time: a [`Response::Paused`].
    Pause {
        /// The devices, as in [`About`]; `None`: all.
        devices: Option<String>,
        /// How long it holds, as in `Override`.
        holds_for: Option<u64>,
    },
    /// End pauses: a [`Response::Resumed`].
    Resume {
        /// The devices of the pause; `None`: every pause ends.
        devices: Option<String>,
    },
    /// Write the history up to now: a [`Response::HistoryWritten`].
    WriteHistory,
    /// Delete the history: a [`Response::HistoryForgotten`].
    ForgetHistory {
        /// The device, by its MAC address, IP address or name; `None`: all.
        device: Option<String>,
    },
}

/// Which flows are listed, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// All, in the order of the table.
    Table,
    /// Those with the most bytes, the largest first, at most this many; 0: all.
    Largest(usize),
}

impl Order {
    /// The most flows that are listed, the largest first; `None`: all, in the order of the table.
    pub fn most(self) -> Option<NonZeroUsize> {
        match self {
            Self::Table => None,
            Self::Largest(most) => Some(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MAX)),
        }
    }
}

/// A name, and the devices for which a command blocks or allows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The name, as `domains` has names.
    pub name: String,
    /// The devices: a MAC or IP address, a name, `group:…`, `vendor:…` or `kind:…`; `None`: all.
    pub devices: Option<String>,
}

/// A line of the daemon's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// A device.
    Device(Box<DeviceReport>),
    /// A flow.
    Flow(Box<Flow>),
    /// The names and addresses that were refused to a device.
    Refused(DeviceRefused),
    /// The parties to which a device uploads something after visits.
    Findings(Box<DeviceEchoes>),
    /// Hooks, tables, policy, names and losses.
    Status {
        /// The numbers.
        status: Box<Status>,
        /// The time zone of schedules in the daemon's configuration; `None`: the machine's.
        time_zone: Option<String>,
    },
    /// The verdicts on a name or an address.
    Explained {
        /// The verdicts, and why.
        explanation: Box<Explanation>,
        /// As in `Status`.
        time_zone: Option<String>,
    },
    /// A name is blocked or allowed from now on.
    Overridden {
        /// The override.
        said: OverrideState,
        /// Names of a block that devices or their owners would miss.
        missed: Vec<String>,
        /// The policies that refuse an allowed name all the same, by its address.
        refused_before: Vec<RefusedBefore>,
        /// As in `Status`.
        time_zone: Option<String>,
    },
    /// An override holds no more, or there was none.
    Forgotten {
        /// The override; `None`: there was none.
        forgotten: Option<OverrideState>,
        /// The overrides of the same name that hold for other devices.
        others: Vec<OverrideState>,
        /// The name and the devices, as the daemon understood them.
        about: About,
        /// As in `Status`.
        time_zone: Option<String>,
    },
    /// Policies refuse nothing to these devices from now on.
    Paused {
        /// The pause.
        pause: Pause,
        /// As in `Status`.
        time_zone: Option<String>,
    },
    /// Pauses ended, at least one.
    Resumed {
        /// Those that ended.
        ended: Vec<Pause>,
        /// Those that go on.
        others: Vec<Pause>,
        /// As in `Status`.
        time_zone: Option<String>,
    },
    /// The history is on disk up to now.
    HistoryWritten {
        /// The file; `None` where there is no history.
        file: Option<String>,
    },
    /// The history of a device, or of all, is deleted.
    HistoryForgotten {
        /// The MAC address of the device; `None`: all.
        device: Option<String>,
        /// Whether there was any.
        was_there: bool,
    },
    /// The request failed, for this reason. Nothing follows.
    Failed(String),
    /// That was all.
    End {
        /// Entries that the request's limit left out.
        left_out: u64,
    },
}

/// A device, and the facts about others that its listing shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceReport {
    /// The device.
    pub device: Device,
    /// The name of the device that it probably is ([`Device::probably_same_as`]), if that has one.
    pub same_as_name: Option<String>,
    /// The facts about its parties, where one device was asked for.
    pub parties: Vec<Party>,
}

impl DeviceReport {
    /// A device for a listing of all devices.
    pub fn brief(device: &Device, snapshot: &Snapshot) -> Self {
        let known = device.probably_same_as.as_ref().and_then(|known| {
            let mut devices = snapshot.devices.iter();
            devices.find(|other| other.device == *known)
        });
        Self {
            device: device.clone(),
            same_as_name: known.and_then(|known| known.identity.name.clone()),
            parties: Vec::new(),
        }
    }

    /// A device with the facts about its parties.
    pub fn full(device: &Device, snapshot: &Snapshot) -> Self {
        let is_its = |party: &&Party| {
            let mut with = device.parties.iter();
            with.any(|with| with.party == party.party && with.category == party.category)
        };
        Self {
            parties: snapshot.parties.iter().filter(is_its).cloned().collect(),
            ..Self::brief(device, snapshot)
        }
    }
}

/// Everything of a snapshot but the devices and their parties.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// As in [`Snapshot`].
    pub interfaces: Vec<Interface>,
    /// As in [`Snapshot`].
    pub unbooked_packets: u64,
    /// As in [`Snapshot`].
    pub flow_table: FlowTable,
    /// As in [`Snapshot`].
    pub device_table: DeviceTable,
    /// As in [`Snapshot`].
    pub ring: Ring,
    /// As in [`Snapshot`].
    pub decode_failures: Vec<DecodeFailures>,
    /// As in [`Snapshot`].
    pub names: NameTables,
    /// As in [`Snapshot`].
    pub policy: PolicyState,
    /// As in [`Snapshot`].
    pub policy_hits: Vec<PolicyHits>,
    /// As in [`Snapshot`].
    pub commands: Vec<OverrideState>,
    /// As in [`Snapshot`].
    pub is_time_unknown: bool,
    /// As in [`Snapshot`].
    #[serde(default)]
    pub history: Option<StoreState>,
    /// As in [`Snapshot`].
    pub ticks: Ticks,
}

impl From<&Snapshot> for Status {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            interfaces: snapshot.interfaces.clone(),
            unbooked_packets: snapshot.unbooked_packets,
            flow_table: snapshot.flow_table,
            device_table: snapshot.device_table,
            ring: snapshot.ring.clone(),
            decode_failures: snapshot.decode_failures.clone(),
            names: snapshot.names,
            policy: snapshot.policy.clone(),
            policy_hits: snapshot.policy_hits.clone(),
            commands: snapshot.commands.clone(),
            is_time_unknown: snapshot.is_time_unknown,
            history: snapshot.history.clone(),
            ticks: snapshot.ticks,
        }
    }
}
