//! Policies as configured: their devices, subjects, schedules and actions.

use std::{fmt, path::PathBuf};

use ipnet::IpNet;
use sensor_ebpf::{parse::Mac, policy::Verdict};

use crate::{
    catalog::{NetworkSelector, lists::Category},
    model::Kind,
};

/// One policy: its devices, its names, addresses and ports, its schedule and its action.
///
/// Its conditions: names (`domains`, `lists`, `owners`, `categories`), addresses (`remotes`, `countries`,
/// `networks`) and ports. Each of the three that is given has to match, by one of its entries. Beside that,
/// `encrypted_dns` and `quic` apply to this traffic of the same devices, with actions of their own; a
/// policy that has one of these and none of the three conditions applies to nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Its name in metrics, 1 to 63 bytes of `a-z 0-9 - _`.
    pub name: String,
    /// The devices it is about; empty: all.
    pub devices: Vec<DeviceSelector>,
    /// Names, each with everything below it; lower case, punycode, without a final dot.
    pub domains: Vec<String>,
    /// Files of names, absolute.
    pub lists: Vec<PathBuf>,
    /// Names whose owner is one of these, as the lists say; compared without case.
    pub owners: Vec<String>,
    /// Names of one of these categories, as the lists say.
    pub categories: Vec<Category>,
    /// The remote prefixes it is about, canonical.
    pub remotes: Vec<IpNet>,
    /// Countries of remote addresses: two capital letters (ISO 3166-1).
    pub countries: Vec<String>,
    /// Networks of remote addresses.
    pub networks: Vec<NetworkSelector>,
    /// The remote ports it is about, at most 8 ranges; empty: all ports and protocols.
    pub ports: Vec<Ports>,
    /// The action on DNS that the house cannot read: DoT, DoQ, DoH of known resolvers, and the questions by
    /// which devices look for encrypted DNS.
    pub encrypted_dns: Option<Action>,
    /// The action on QUIC. Browsers without QUIC fall back to TCP, where the kernel sees the names.
    pub quic: Option<Action>,
    /// When it applies; empty: always.
    pub schedule: Vec<Span>,
    /// The action on flows and questions that it matches.
    pub action: Action,
    /// How a refused DNS question is answered.
    pub answer: Answer,
    /// Whether data from the server waits until the flow's name is judged, at most
    /// [`Names::hold`](crate::config::Names::hold).
    pub strict: bool,
    /// Whether names that lead to its names by a DNS answer (CNAME) are left alone.
    pub without_aliases: bool,
}

impl Policy {
    /// Whether it is about names.
    pub const fn has_names(&self) -> bool {
        !(self.domains.is_empty()
            && self.lists.is_empty()
            && self.owners.is_empty()
            && self.categories.is_empty())
    }

    /// Whether it is about addresses; if it is about names as well, those at these addresses.
    pub const fn has_addresses(&self) -> bool {
        !(self.remotes.is_empty() && self.countries.is_empty() && self.networks.is_empty())
    }

    /// Whether the policy depends on lists: on their names and addresses, or on their exceptions.
    pub const fn asks_lists(&self) -> bool {
        !(self.lists.is_empty() && self.owners.is_empty() && self.categories.is_empty())
            || self.encrypted_dns.is_some()
    }

    /// Whether the policy depends on databases of networks.
    pub const fn asks_networks(&self) -> bool {
        !(self.countries.is_empty() && self.networks.is_empty())
    }
}

/// Devices that a policy is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum DeviceSelector {
    /// By MAC address.
    Mac([u8; 6]),
    /// Every `[[device]]` with this name.
    Name(String),
    /// Every `[[device]]` of this group.
    Group(String),
    /// Every device of this vendor, as it is found out or said in `[[device]]`; without case.
    Vendor(String),
    /// Every device of this kind, as it is found out or said in `[[device]]`.
    Kind(Kind),
}

/// As `devices` has it.
impl fmt::Display for DeviceSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => Mac::new(*mac).fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Group(group) => write!(f, "group:{group}"),
            Self::Vendor(vendor) => write!(f, "vendor:{vendor}"),
            Self::Kind(kind) => write!(f, "kind:{}", kind.name()),
        }
    }
}

/// A span of the week, in local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The days on which it begins: bit 0 is Monday, bit 6 Sunday; never none.
    pub days: u8,
    /// Minutes after midnight at which it begins, 0 to 1,439.
    pub from: u16,
    /// Minutes after midnight at which it ends, 1 to 1,440; where that is not after `from`, on the
    /// day that follows.
    pub to: u16,
}

/// How a refused DNS question is answered.
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
#[strum(serialize_all = "lowercase")]
pub enum Answer {
    /// The name does not exist (RFC 2308).
    #[default]
    NxDomain,
    /// Its address is 0.0.0.0 or ::; of other types there is nothing.
    Zero,
}

/// A range of remote ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// First, included.
    pub first: u16,
    /// Last, included.
    pub last: u16,
    /// TCP, UDP or both.
    pub transport: Transport,
}

/// The transports that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Both.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The action on flows and questions that a policy matches.
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
pub enum Action {
    /// It passes, and is counted as traffic that would have been refused.
    #[default]
    Observe,
    /// It passes, whatever less specific policies say.
    Allow,
    /// It goes no further, and the device is told.
    Reject,
    /// It goes no further, in silence.
    Drop,
}

impl Action {
    /// As in the configuration and in metrics.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl From<Verdict> for Action {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Observe,
            Verdict::Allow => Self::Allow,
            Verdict::Reject => Self::Reject,
            Verdict::Drop => Self::Drop,
        }
    }
}
