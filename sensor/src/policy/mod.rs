//! Policies: compiled from the configuration into tables that the kernel searches, and the same decisions
//! in user space.
//!
//! A policy is about names, addresses and ports. **The most specific policy wins; of equally specific ones,
//! the first in the configuration**: of names the longest that matches, of addresses the longest prefix. A
//! refusal by address comes first: the refused flow never says a name.
//!
//! | there is | and | a flow or question about | is |
//! | --- | --- | --- | --- |
//! | `domains = ["b.example"]` reject | | `b.example`, `a.b.example` | refused |
//! | | | `ab.example` | not touched |
//! | `domains = ["b.example"]` reject | `domains = ["a.b.example"]` allow, anywhere | `a.b.example` | allowed |
//! | `domains = ["b.example"]` reject | `domains = ["b.example"]` allow, later | `b.example` | refused |
//! | a list with `b.example`, reject | `a.b.example` never-block | `a.b.example` and below | not touched |
//! | a list with `x.a.b.example`, reject | `a.b.example` never-block | `x.a.b.example` | not touched |
//! | `domains = ["b.example"]` reject | `a.b.example` never-block | `a.b.example` | not touched |
//! | `domains = ["a.b.example"]` reject | `a.b.example` never-block | `a.b.example` | refused |
//! | `domains = ["x.a.b.example"]` reject | `a.b.example` never-block | `x.a.b.example` | refused |
//! | `category = "telemetry"` reject | `a.b.example` advertising below `b.example` telemetry | `a.b.example` | not touched |
//! | any of these | `sensor allow b.example` | `a.b.example` | allowed |
//! | any of these | `sensor block b.example` | `a.b.example` | refused |
//! | `domains = ["b.example"] ports = [443]` reject | | the DNS question for it | not touched |
//! | `domains = ["b.example"]` reject | | `c.example`, which DNS says is an alias (CNAME) of `b.example` | refused, by the daemon, unless `cname = false` |
//! | `domains = ["b.example"]` reject | `c.example` allowed or never-block | the same | not touched |
//! | nothing but `ports = [443]`, reject | `sensor allow b.example` | `b.example` at port 443 | refused, by its address |
//!
//! `rule` holds a policy as configured · `compile` makes the tables · `capacity` leaves out policies that
//! do not fit · `name_table` is the table of names · `lists` reads the policies' own lists · `schedule`
//! tells when a policy applies · `ruleset` decides in user space · `explain` tells why · `trial` tries policies on
//! the history.

mod capacity;
mod compile;
pub mod explain;
mod lists;
mod name_table;
mod rule;
mod ruleset;
mod schedule;
pub mod trial;

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use sensor_ebpf::policy::{Chain, Rule};

use crate::model::{Kind, OverrideState};

pub use self::{
    capacity::{Fitting, fitting},
    compile::{TooLarge, TooMuch, compile, policy_names, recompile},
    lists::PolicyLists,
    name_table::{Buckets, NameTable},
    rule::{Action, Answer, DeviceSelector, Policy, Ports, Span, Transport},
    ruleset::ActiveRules,
    schedule::{TimeOfWeek, Zone},
};

/// The policy name under which refusals by `sensor block` are counted.
pub const BLOCKED: &str = "blocked-by-command";
/// The policy name under which permissions by `sensor allow` are counted.
pub const ALLOWED: &str = "allowed-by-command";

/// An override of the policies: a name that `sensor block` or `sensor allow` was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// The name, with everything below it.
    pub domain: String,
    /// The devices; `None`: all.
    pub device: Option<DeviceSelector>,
    /// Whether the name is refused; otherwise it is allowed.
    pub blocks: bool,
    /// When the command ran, in seconds since the Unix epoch as the wall clock showed them; for display
    /// only. The order of the commands is that of their list.
    pub since: f64,
    /// How long the override holds.
    pub holds: Holds,
}

/// How long an override by a command holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Holds {
    /// Until a command takes it back.
    Always,
    /// Up to this steady time, in seconds.
    Until(f64),
    /// For so many seconds from when the wall clock is right: the time that was left when the machine
    /// booted. The override also holds until the clock is right.
    Rest(f64),
}

impl Holds {
    /// Whether it holds at a steady time.
    pub fn at(self, steady: f64) -> bool {
        match self {
            Self::Always | Self::Rest(_) => true,
            Self::Until(until) => steady < until,
        }
    }
}

impl Override {
    /// The override as shown to people; a steady time plus `offset` is the wall clock's.
    pub fn shown(&self, offset: f64) -> OverrideState {
        OverrideState {
            name: self.domain.clone(),
            is: match self.blocks {
                true => "blocked",
                false => "allowed",
            },
            devices: self.device.as_ref().map(ToString::to_string),
            since: self.since,
            until: match self.holds {
                Holds::Until(until) => Some(until + offset),
                Holds::Always | Holds::Rest(_) => None,
            },
            rest: match self.holds {
                Holds::Rest(rest) => Some(rest),
                Holds::Always | Holds::Until(_) => None,
            },
        }
    }

    /// The action on flows and questions about the name.
    pub const fn action(&self) -> Action {
        match self.blocks {
            true => Action::Reject,
            false => Action::Allow,
        }
    }
}

/// Policies as tables.
#[derive(Debug, Default)]
pub struct Compiled {
    /// By their numbers, which are bits of a set.
    pub rules: Vec<Rule>,
    /// By their numbers; the first is that of every address.
    pub chains: Vec<Chain>,
    /// Number of the chain of each prefix.
    pub prefixes: BTreeMap<IpNet, u32>,
    /// Chains of names.
    pub names: NameTable,
    /// The hashes of exceptions (`never-block`) under the secret of the names, in ascending order.
    pub exceptions: Arc<[u64]>,
    /// The rules by name.
    pub name_rules: u64,
    /// The rules by name for whose verdicts packets wait.
    pub strict_rules: u64,
    /// How many policies there are, temporary ones aside.
    pub policies: u64,
    /// The devices and times for which each rule applies.
    who: Vec<Scope>,
}

/// The devices and times for which a rule applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Scope {
    devices: Vec<DeviceSelector>,
    schedule: Vec<Span>,
}

/// The facts about a device by which policies select it.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceFacts<'a> {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The name that `[[device]]` gives it.
    pub name: Option<&'a str>,
    /// The groups that `[[device]]` has it in.
    pub groups: &'a [String],
    /// Its vendor.
    pub vendor: Option<&'a str>,
    /// Its kind.
    pub kind: Option<Kind>,
}

impl DeviceFacts<'_> {
    /// Whether a selector is about this device.
    pub fn are(&self, selector: &DeviceSelector) -> bool {
        match selector {
            DeviceSelector::Mac(mac) => *mac == self.mac,
            DeviceSelector::Name(name) => self.name == Some(name),
            DeviceSelector::Group(group) => self.groups.contains(group),
            DeviceSelector::Vendor(vendor) => self
                .vendor
                .is_some_and(|known| known.eq_ignore_ascii_case(vendor)),
            DeviceSelector::Kind(kind) => self.kind == Some(*kind),
        }
    }
}

impl Compiled {
    /// The rules that apply to a device at a time, in seconds since the Unix epoch; `None`: the time is not
    /// known, and no rule with a schedule applies.
    pub fn rules_of(&self, device: &DeviceFacts<'_>, zone: &Zone, now: Option<f64>) -> u64 {
        self.rules_where(zone, now, |who| {
            who.devices.is_empty() || who.devices.iter().any(|selector| device.are(selector))
        })
    }

    /// The rules that apply to every device at a time, as in [`rules_of`](Self::rules_of).
    pub fn default_rules(&self, zone: &Zone, now: Option<f64>) -> u64 {
        self.rules_where(zone, now, |who| who.devices.is_empty())
    }

    /// Whether rules with a device selector may apply to this device at some time.
    pub fn has_rules_of(&self, device: &DeviceFacts<'_>) -> bool {
        let mut who = self.who.iter();
        who.any(|who| who.devices.iter().any(|selector| device.are(selector)))
    }

    /// When a schedule begins or ends next, in seconds since the Unix epoch; `None`: never.
    pub fn next_change(&self, zone: &Zone, now: f64) -> Option<f64> {
        let changes = self
            .who
            .iter()
            .filter_map(|who| zone.next_change(&who.schedule, now));
        changes.min_by(f64::total_cmp)
    }

    fn rules_where(&self, zone: &Zone, now: Option<f64>, holds: impl Fn(&Scope) -> bool) -> u64 {
        let is_time = |schedule: &[Span]| match now {
            Some(now) => zone.is_within(schedule, now),
            None => schedule.is_empty(),
        };
        let rules = self.who.iter().enumerate();
        rules
            .filter(|(_, who)| holds(who) && is_time(&who.schedule))
            .fold(0, |set, (number, _)| set | 1 << number)
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
