//! Finds the parts of policies that can never match, because an earlier policy decides all of it.
//!
//! The most specific part of a policy wins; of equally specific ones, the first. So a part has no
//! effect where an earlier policy has the same part, for the same devices at the same times or
//! more, under the same conditions or fewer.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    path::Path,
};

use ipnet::IpNet;

use crate::{
    catalog::{NetworkSelector, lists::Category},
    config::{
        Config, DeviceOverride,
        places::PolicyPlaces,
        problem::{Level, Problem},
        value::excerpt,
        weekly::Week,
    },
    policy::{DeviceSelector, Policy, Ports, Transport},
};

/// The parts of policies that never match, of a configuration that has no error: at most 64
/// policies.
pub(in crate::config) fn problems(config: &Config, places: &[PolicyPlaces]) -> Vec<Problem> {
    let weeks: Vec<Week> = (config.policies.iter())
        .map(|policy| Week::of(&policy.schedule))
        .collect();
    let mut earlier = Earlier {
        config,
        places,
        weeks,
        rules: Vec::new(),
        parts: HashMap::new(),
        covers: HashMap::new(),
    };
    let mut problems = Vec::new();
    for (number, (policy, places)) in config.policies.iter().zip(places).enumerate() {
        let rules = rules(number, policy, places);
        let covers: Vec<Vec<Cover>> = (rules.iter()).map(|rule| earlier.covers_of(rule)).collect();
        problems.extend(of_policy(&earlier, number, &rules, &covers));
        for rule in rules {
            earlier.add(rule);
        }
    }
    problems
}

/// A part of a policy's subject: the smallest thing that can be equal in two policies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What<'a> {
    Domain(&'a str),
    List(&'a Path),
    Owner(String),
    Category(Category),
    Remote(IpNet),
    Country(&'a str),
    Asn(u32),
    Organisation(String),
    Everything,
    EncryptedDns,
}

impl What<'_> {
    /// Its text in a message, where it has a place of its own.
    fn text(&self) -> String {
        match self {
            Self::Domain(name) | Self::Country(name) => (*name).to_owned(),
            Self::List(file) => file.display().to_string(),
            Self::Owner(name) | Self::Organisation(name) => name.clone(),
            Self::Category(category) => category.name().to_owned(),
            Self::Remote(prefix) => prefix.to_string(),
            Self::Asn(number) => format!("AS{number}"),
            Self::Everything => "ports".to_owned(),
            Self::EncryptedDns => "encrypted_dns".to_owned(),
        }
    }
}

/// Parts of a policy that are under the same conditions.
struct Rule<'a> {
    policy: usize,
    parts: Vec<(What<'a>, Range<usize>)>,
    /// Remote addresses that a name is to be at; empty: anywhere.
    addresses: HashSet<What<'a>>,
    /// Empty: all.
    ports: Vec<Ports>,
    is_quic: bool,
}

/// The policies that cover a part, as a set of their numbers, and where the first has it.
#[derive(Clone, Debug, Default)]
struct Cover {
    policies: u64,
    first: Option<(usize, Range<usize>)>,
}

fn rules<'a>(number: usize, policy: &'a Policy, places: &PolicyPlaces) -> Vec<Rule<'a>> {
    let mut names = Vec::new();
    let domains = policy.domains.iter().map(|name| What::Domain(name));
    names.extend(domains.zip(places.domains.iter().cloned()));
    let lists = policy.lists.iter().map(|file| What::List(file));
    names.extend(lists.zip(places.lists.iter().cloned()));
    let owners = (policy.owners.iter()).map(|owner| What::Owner(owner.to_lowercase()));
    names.extend(owners.zip(places.owners.iter().cloned()));
    let categories = policy.categories.iter().copied().map(What::Category);
    names.extend(categories.zip(places.categories.iter().cloned()));

    let mut addresses = Vec::new();
    let remotes = policy.remotes.iter().copied().map(What::Remote);
    addresses.extend(remotes.zip(places.remotes.iter().cloned()));
    let countries = policy.countries.iter().map(|code| What::Country(code));
    addresses.extend(countries.zip(places.countries.iter().cloned()));
    let networks = policy.networks.iter().map(|network| match network {
        NetworkSelector::Asn(number) => What::Asn(*number),
        NetworkSelector::Organisation(name) => What::Organisation(name.to_lowercase()),
    });
    addresses.extend(networks.zip(places.networks.iter().cloned()));

    let mut rules = Vec::new();
    let mut rule = |parts, addresses, ports, is_quic| {
        rules.push(Rule {
            policy: number,
            parts,
            addresses,
            ports,
            is_quic,
        });
    };
    let ports = policy.ports.clone();
    let has_others = policy.quic.is_some() || policy.encrypted_dns.is_some();
    if !names.is_empty() {
        let conditions = addresses.into_iter().map(|(what, _)| what).collect();
        rule(names, conditions, ports, false);
    } else if !addresses.is_empty() {
        rule(addresses, HashSet::new(), ports, false);
    } else if !ports.is_empty() || !has_others {
        let part = (What::Everything, places.ports.clone());
        rule(vec![part], HashSet::new(), ports, false);
    }
    if policy.quic.is_some() {
        let part = (What::Everything, places.quic.clone());
        let ports = vec![Ports {
            first: 443,
            last: 443,
            transport: Transport::Udp,
        }];
        rule(vec![part], HashSet::new(), ports, true);
    }
    if policy.encrypted_dns.is_some() {
        let part = (What::EncryptedDns, places.encrypted_dns.clone());
        rule(vec![part], HashSet::new(), Vec::new(), false);
    }
    rules
}

/// The policies before the one that is looked at.
struct Earlier<'a> {
    config: &'a Config,
    places: &'a [PolicyPlaces],
    weeks: Vec<Week>,
    rules: Vec<Rule<'a>>,
    /// Where each part stands: the number of its rule, and its place.
    parts: HashMap<What<'a>, Vec<(usize, Range<usize>)>>,
    /// Whether the devices and times of one policy include all those of another.
    covers: HashMap<(usize, usize), bool>,
}

impl<'a> Earlier<'a> {
    fn add(&mut self, rule: Rule<'a>) {
        let number = self.rules.len();
        for (what, place) in &rule.parts {
            let parts = self.parts.entry(what.clone()).or_default();
            parts.push((number, place.clone()));
        }
        self.rules.push(rule);
    }

    /// The earlier policies that cover each part of a rule.
    fn covers_of(&mut self, rule: &Rule<'_>) -> Vec<Cover> {
        let mut by_rule: HashMap<usize, bool> = HashMap::new();
        let mut covers = Vec::with_capacity(rule.parts.len());
        for (what, _) in &rule.parts {
            let mut cover = Cover::default();
            for (number, place) in self.parts.get(what).into_iter().flatten() {
                let Some(wider) = self.rules.get(*number) else {
                    continue;
                };
                let is_covered = *by_rule.entry(*number).or_insert_with(|| {
                    let pair = (wider.policy, rule.policy);
                    let (config, weeks) = (self.config, &self.weeks);
                    let of_policy = self.covers.entry(pair);
                    *of_policy.or_insert_with(|| {
                        weeks[pair.0].has_all_of(&weeks[pair.1])
                            && has_all_devices_of(config, pair.0, pair.1)
                    }) && has_all_conditions_of(wider, rule)
                });
                if is_covered {
                    cover.policies |= 1 << wider.policy;
                    cover.first.get_or_insert((wider.policy, place.clone()));
                }
            }
            covers.push(cover);
        }
        covers
    }

    fn name(&self, policy: usize) -> &str {
        &self.config.policies[policy].name
    }
}

fn of_policy(
    earlier: &Earlier<'_>,
    number: usize,
    rules: &[Rule<'_>],
    covers: &[Vec<Cover>],
) -> Vec<Problem> {
    let name = earlier.name(number);
    let whole = (covers.iter().flatten()).fold(u64::MAX, |all, cover| all & cover.policies);
    let by = whole.trailing_zeros() as usize;
    if whole != 0
        && let Some(first) = earlier.config.policies.get(by)
    {
        let first = &first.name;
        return vec![Problem {
            level: Level::Warning,
            message: format!("policy `{name}` never matches"),
            span: Some(earlier.places[number].name.clone()),
            label: "an earlier policy decides all of it".to_owned(),
            related: Some((earlier.places[by].name.clone(), "this one")),
            help: format!(
                "put it before `{first}`, give `{first}` fewer devices or hours, or remove one of \
                 the two"
            ),
        }];
    }
    let parts = rules.iter().zip(covers).flat_map(|(rule, covers)| {
        let parts = rule.parts.iter().zip(covers);
        parts.map(move |(part, cover)| (rule, part, cover))
    });
    parts
        .filter_map(|(rule, (what, place), cover)| {
            let (by, first) = cover.first.clone()?;
            let what = if rule.is_quic {
                "quic".to_owned()
            } else {
                excerpt(&what.text())
            };
            Some(Problem {
                level: Level::Warning,
                message: format!("`{what}` never matches in policy `{name}`"),
                span: Some(place.clone()),
                label: "an earlier policy decides it".to_owned(),
                related: Some((first, "here, for all these devices and times")),
                help: format!(
                    "remove it from one of the two, or put policy `{name}` before `{}`",
                    earlier.name(by)
                ),
            })
        })
        .collect()
}

/// Whether all that is under the conditions of `narrower` is under those of `wider` too.
fn has_all_conditions_of(wider: &Rule<'_>, narrower: &Rule<'_>) -> bool {
    let has_address = |what: &What<'_>| match what {
        What::Remote(prefix) => {
            let above = |prefix: &IpNet| prefix.supernet();
            std::iter::successors(Some(*prefix), above)
                .any(|prefix| wider.addresses.contains(&What::Remote(prefix)))
        }
        other => wider.addresses.contains(other),
    };
    has_all_ports_of(&wider.ports, &narrower.ports)
        && (wider.addresses.is_empty()
            || (!narrower.addresses.is_empty() && narrower.addresses.iter().all(has_address)))
}

/// Whether ports are among others; none are all.
pub(in crate::config) fn has_all_ports_of(wider: &[Ports], narrower: &[Ports]) -> bool {
    let has_ports = |ports: &Ports| {
        wider.iter().any(|own| {
            let has_transport = own.transport == Transport::Any || own.transport == ports.transport;
            has_transport && own.first <= ports.first && ports.last <= own.last
        })
    };
    wider.is_empty() || (!narrower.is_empty() && narrower.iter().all(has_ports))
}

/// Whether one policy is about all devices of another, as far as the configuration tells.
pub(in crate::config) fn has_all_devices_of(
    config: &Config,
    wider: usize,
    narrower: usize,
) -> bool {
    let (wider, narrower) = (&config.policies[wider], &config.policies[narrower]);
    if wider.devices.is_empty() {
        return true;
    }
    let has_each = |selector: &DeviceSelector| {
        let mut meant = config.devices.iter().filter(|one| is_about(selector, one));
        meant.all(|device| wider.devices.iter().any(|own| is_about(own, device)))
    };
    !narrower.devices.is_empty()
        && narrower.devices.iter().all(|selector| {
            let is_same = |own: &DeviceSelector| match (own, selector) {
                (DeviceSelector::Vendor(own), DeviceSelector::Vendor(other)) => {
                    own.to_lowercase() == other.to_lowercase()
                }
                (own, other) => own == other,
            };
            let is_known = match selector {
                DeviceSelector::Mac(mac) => config.devices.iter().any(|device| device.mac == *mac),
                DeviceSelector::Name(_) | DeviceSelector::Group(_) => true,
                // Which devices these are, is found out while the daemon runs.
                DeviceSelector::Vendor(_) | DeviceSelector::Kind(_) => false,
            };
            wider.devices.iter().any(is_same) || (is_known && has_each(selector))
        })
}

/// Whether the configuration says that a device is one of these.
fn is_about(selector: &DeviceSelector, device: &DeviceOverride) -> bool {
    match selector {
        DeviceSelector::Mac(mac) => device.mac == *mac,
        DeviceSelector::Name(name) => device.name.as_ref() == Some(name),
        DeviceSelector::Group(group) => device.groups.contains(group),
        DeviceSelector::Vendor(vendor) => {
            (device.vendor.as_ref()).is_some_and(|own| own.to_lowercase() == vendor.to_lowercase())
        }
        DeviceSelector::Kind(kind) => device.kind == Some(*kind),
    }
}
