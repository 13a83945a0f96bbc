//! Allow rules by name that can never match, because an address rule rejects the connection first.
//!
//! Reported only where it is certain: one policy refuses, by address, all that the other is about,
//! for the same devices at the same times or more, and no third policy could let a part of that pass.

use std::{collections::HashSet, iter::successors};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::shadowed::{has_all_devices_of, has_all_ports_of};
use crate::{
    catalog::NetworkSelector,
    config::{
        Config,
        places::PolicyPlaces,
        problem::{Level, Problem},
        weekly::Week,
    },
    policy::{Action, Policy},
};

/// A problem for each policy whose allowed names never pass, of a configuration that has no error.
pub(in crate::config) fn problems(config: &Config, places: &[PolicyPlaces]) -> Vec<Problem> {
    let pairs = never_allowing(config).into_iter();
    let problems = pairs.map(|(allows, refuses)| {
        let [name, by] = [allows, refuses].map(|number| &config.policies[number].name);
        Problem {
            level: Level::Warning,
            message: format!("policy `{name}` never lets its names pass"),
            span: Some(places[allows].name.clone()),
            label: "its connections are refused by their addresses, before they send a name"
                .to_owned(),
            related: Some((places[refuses].name.clone(), "by this one")),
            help: format!(
                "allow addresses instead (`remotes`, `country`, `network`), or have `{by}` refuse \
                 names, fewer addresses, fewer devices or fewer hours"
            ),
        }
    });
    problems.collect()
}

/// The numbers of policies whose allowed names never pass, each with that of the one that refuses its
/// addresses.
pub(crate) fn never_allowing(config: &Config) -> Vec<(usize, usize)> {
    let policies = &config.policies;
    let allows = |policy: &Policy| policy.action == Action::Allow && policy.has_names();
    if !policies.iter().any(allows) {
        return Vec::new();
    }
    let weeks: Vec<Week> = (policies.iter())
        .map(|policy| Week::of(&policy.schedule))
        .collect();
    let parts: Vec<_> = (policies.iter().enumerate())
        .flat_map(|(number, policy)| parts(number, policy))
        .collect();
    let refuses = |part: &Part<'_>| matches!(part.action, Action::Reject | Action::Drop);
    let (refusing, passing): (Vec<_>, Vec<_>) = parts.iter().partition(|part| refuses(part));
    let is_refused_by = |number: usize, part: &Part<'_>| {
        let policy = &policies[number];
        // Cheap questions first: there may be many prefixes.
        part.is_of_policy
            && has_all_ports_of(&policies[part.policy].ports, &policy.ports)
            && weeks[part.policy].has_all_of(&weeks[number])
            && has_all_devices_of(config, part.policy, number)
            && passing.iter().all(|other| other.loses_to(part, part.most))
            && part.least_about(policy).is_some_and(|least| {
                passing
                    .iter()
                    .all(|other| other.loses_to(part, Some(least)))
            })
    };
    let allowing = (0..policies.len()).filter(|number| allows(&policies[*number]));
    let pairs = allowing.filter_map(|number| {
        let by = refusing.iter().find(|part| is_refused_by(number, part))?;
        Some((number, by.policy))
    });
    pairs.collect()
}

/// A part of a policy that decides by address.
struct Part<'a> {
    policy: usize,
    action: Action,
    /// Whether it is the policy's own subject, rather than `quic` or `encrypted_dns`.
    is_of_policy: bool,
    /// How specific it is at most: bits of a prefix, from 1; 0: everything. `None`: as specific as the
    /// databases have it.
    most: Option<u8>,
    remotes: HashSet<IpNet>,
    countries: &'a [String],
    networks: &'a [NetworkSelector],
}

fn parts(number: usize, policy: &Policy) -> Vec<Part<'_>> {
    let everything = |action| Part {
        policy: number,
        action,
        is_of_policy: false,
        most: Some(0),
        remotes: HashSet::new(),
        countries: &[],
        networks: &[],
    };
    let mut parts = Vec::new();
    let aside = policy.quic.is_some() || policy.encrypted_dns.is_some();
    if !policy.has_names() && (policy.has_addresses() || !policy.ports.is_empty() || !aside) {
        let longest = policy.remotes.iter().map(IpNet::prefix_len).max();
        parts.push(Part {
            is_of_policy: true,
            most: has_known_prefixes(policy).then(|| longest.map_or(0, |bits| bits + 1)),
            remotes: policy.remotes.iter().map(IpNet::trunc).collect(),
            countries: &policy.countries,
            networks: &policy.networks,
            ..everything(policy.action)
        });
    }
    parts.extend(policy.quic.map(everything));
    parts.extend(policy.encrypted_dns.map(|action| Part {
        most: None,
        ..everything(action)
    }));
    parts
}

impl Part<'_> {
    /// Whether another part wins wherever both are about an address, if that one is as specific there;
    /// `None`: it may be as specific as it gets.
    fn loses_to(&self, other: &Self, specific: Option<u8>) -> bool {
        let Some(most) = self.most else {
            return false;
        };
        specific.is_none_or(|specific| {
            most < specific || (most == specific && other.policy < self.policy)
        })
    }

    /// How specific this is at least, wherever a policy is about an address; `None` where it may not
    /// be about all of these addresses.
    fn least_about(&self, policy: &Policy) -> Option<u8> {
        if self.most == Some(0) {
            return Some(0);
        }
        if !policy.has_addresses() {
            let all: [IpNet; 2] = [Ipv4Net::default().into(), Ipv6Net::default().into()];
            let has_all = all.iter().all(|all| self.remotes.contains(all));
            return has_all.then_some(1);
        }
        let mut least = u8::MAX;
        for prefix in &policy.remotes {
            let mut holders = successors(Some(prefix.trunc()), IpNet::supernet);
            let holder = holders.find(|holder| self.remotes.contains(holder))?;
            least = least.min(holder.prefix_len() + 1);
        }
        let mut countries = policy.countries.iter();
        let mut networks = policy.networks.iter();
        let has_others = countries.all(|country| self.countries.contains(country))
            && networks.all(|network| self.networks.contains(network));
        // The prefixes of a database may be of any length.
        has_others.then_some(if has_known_prefixes(policy) { least } else { 1 })
    }
}

const fn has_known_prefixes(policy: &Policy) -> bool {
    policy.countries.is_empty() && policy.networks.is_empty()
}
