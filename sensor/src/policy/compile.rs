//! From policies to tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::Arc,
};

use ipnet::IpNet;
use sensor_ebpf::{
    name::{MAX_LABELS, MAX_NAMES, Suffixes},
    policy::{
        Chain, MAX_CHAINS, MAX_DEVICES, MAX_PORT_RANGES, MAX_PREFIXES, MAX_RULES, PortRange, Rule,
        Verdict, rule_flag,
    },
};

use super::{
    ALLOWED, BLOCKED, Compiled, NameTable, Override, PolicyLists, Scope,
    name_table::{self, Added, Collision},
};
use crate::{
    catalog::{
        Catalog,
        domain::is_at_or_below,
        embedded::Embedded,
        lists::{Category, Entry, Listed, Lists},
    },
    policy::{Action, Answer, Policy, Ports, Transport},
};

/// Policies that do not fit into the tables. The text says which limit they exceed, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {}", self.help())]
pub struct TooLarge {
    /// The limit that the policies exceed.
    pub what: TooMuch,
}

/// A limit of the tables that the policies exceed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Rules.
    #[error("the policies make {0} rules, and there is room for {MAX_RULES}")]
    Rules(usize),
    /// Names.
    #[error("the policies are about {count} names, and there is room for {MAX_NAMES}")]
    Names {
        /// How many.
        count: usize,
        /// The list with the most of them, and how many it has.
        largest: Option<(String, u64)>,
    },
    /// Prefixes.
    #[error(
        "the policies are about {count} {family} prefixes, and there is room for {MAX_PREFIXES}"
    )]
    Prefixes {
        /// How many.
        count: usize,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The policy that is about the most of them, and about how many.
        largest: (String, usize),
    },
    /// Devices.
    #[error(
        "the policies have rules of their own for {0} devices that the configuration or commands name, and \
         there is room for {MAX_DEVICES}"
    )]
    Devices(usize),
    /// Combinations of rules.
    #[error("the names and prefixes of the policies overlap in more than {MAX_CHAINS} ways")]
    Chains,
    /// Names that are taken for each other.
    #[error(
        "the lists have names that cannot be told from each other, whichever of {MOST_SECRETS} \
         secrets they are looked up by"
    )]
    Alike,
}

impl TooLarge {
    /// The advice to the user.
    pub fn help(&self) -> String {
        match &self.what {
            TooMuch::Rules(_) => "put policies with the same devices, ports and action into one; \
                                  what commands said of each device is a rule too"
                .to_owned(),
            TooMuch::Names {
                largest: Some((list, names)),
                ..
            } => format!(
                "take a smaller list in the place of the largest, {list}, which has {names}"
            ),
            TooMuch::Names { .. } => "take some out of `domains`".to_owned(),
            TooMuch::Prefixes {
                largest: (policy, count),
                ..
            } => format!(
                "policy `{policy}` is about {count} of them; have it name fewer countries, networks \
                 or remotes"
            ),
            TooMuch::Devices(_) => {
                "have policies be about all devices, and name the few that are to be left alone; or take \
                 devices out of groups"
                    .to_owned()
            }
            TooMuch::Chains => "let fewer policies be about the same".to_owned(),
            TooMuch::Alike => {
                "a list was made to have them: leave out the one that is new".to_owned()
            }
        }
    }
}

impl From<TooMuch> for TooLarge {
    fn from(what: TooMuch) -> Self {
        Self { what }
    }
}

/// Questions by which a device looks for DNS that the house cannot read: Firefox's canary, Apple's
/// Private Relay, and the discovery of designated resolvers (RFC 9462).
pub(super) const DISCOVERY: [&str; 4] = [
    "use-application-dns.net",
    "mask.icloud.com",
    "mask-h2.icloud.com",
    "_dns.resolver.arpa",
];

/// How many secrets are tried until all names can be told from each other. Under one secret, two of a
/// million names are taken for each other in fewer than 1 of a million cases.
const MOST_SECRETS: u32 = 64;

/// The names under which policies are counted.
pub fn policy_names<'p>(
    policies: &'p [Policy],
    temporary: &[Override],
) -> impl Iterator<Item = &'p str> {
    let said = match temporary.is_empty() {
        true => [].as_slice(),
        false => [BLOCKED, ALLOWED].as_slice(),
    };
    let policies = policies.iter().map(|policy| policy.name.as_str());
    policies.chain(said.iter().copied())
}

/// Compiles policies. `identities` has every name of [`policy_names`].
///
/// # Errors
/// They do not fit.
pub fn compile(
    policies: &[Policy],
    temporary: &[Override],
    catalog: &Catalog,
    lists: &PolicyLists,
    identities: &HashMap<String, u16>,
) -> Result<Compiled, TooLarge> {
    let parts = parts(policies, temporary, catalog, lists, identities);
    parts.finish(catalog, policies.len() as u64)
}

/// The most names of which something may have changed for [`recompile`].
const MOST_CHANGED: usize = 8;

/// Compiles the same policies and lists once more with other commands, `said.1` in the place of `said.0`.
/// Only names whose overrides changed are visited, and those above and below them. `None`: all has to be
/// compiled anew, because too much changed or the earlier tables have no room for the change.
pub fn recompile(
    before: &Compiled,
    said: (&[Override], &[Override]),
    policies: &[Policy],
    catalog: &Catalog,
    lists: &PolicyLists,
    identities: &HashMap<String, u16>,
) -> Option<Compiled> {
    let (said_before, said) = said;
    let changed = Vec::from_iter(changed(said_before, said));
    if changed.len() > MOST_CHANGED {
        return None;
    }
    let parts = parts(policies, said, catalog, lists, identities);
    if parts.rules.len() > MAX_RULES {
        return None;
    }
    let mut chains = parts.renumbered(before);
    let mut tree = Tree::new(before.names.secret);
    // A line for each name that may change. All names are looked at once, because that is most of the work.
    let mut affected = String::new();
    parts.each_name(catalog, Some(&changed), |name, own| {
        tree.say(name, own);
        if changed.iter().any(|one| is_at_or_below(name, one)) {
            affected.push_str(name);
            affected.push('\n');
        }
    });
    for name in &changed {
        tree.say(name, &Own::default());
        affected.push_str(name);
        affected.push('\n');
    }
    tree.sort().ok()?;
    let mut count = before.names.count;
    for name in &changed {
        if let Some(own) = tree.own(name) {
            let was_said = said_before.iter().any(|one| one.domain == *name);
            count -= u64::from(was_said || own.is_of_policy());
            count += u64::from(own.has_rules());
        }
    }
    let mut table = NameTable {
        secret: before.names.secret,
        buckets: before.names.buckets.clone(),
        changes: before.names.changes.clone(),
        count,
    };
    for name in affected.lines() {
        let Some(found) = tree.resolve(name) else {
            continue;
        };
        let number = chains.number(&tree.chains[found.rules]).ok()? as u16;
        // An existing entry stays, even if its chain is that of the name above.
        if name_table::replace(&mut table, found.hash, number) || !tree.is_entry(found) {
            continue;
        }
        let Added::Yes = name_table::add(&mut table, found.hash, number) else {
            return None;
        };
    }
    let names = (table, Arc::clone(&before.exceptions));
    Some(parts.compiled(chains, before.prefixes.clone(), names, before.policies))
}

/// The names whose overrides are others than before, or the same ones in another order: of two that are for a device,
/// the newer one decides.
fn changed<'s>(before: &'s [Override], after: &'s [Override]) -> BTreeSet<&'s str> {
    let by_name = |said: &'s [Override]| {
        let mut by_name: HashMap<&str, Vec<&Override>> = HashMap::new();
        for one in said {
            by_name.entry(&one.domain).or_default().push(one);
        }
        by_name
    };
    let (before, after) = (by_name(before), by_name(after));
    let names = before.keys().chain(after.keys()).copied();
    names
        .filter(|name| before.get(name) != after.get(name))
        .collect()
}

/// Takes policies apart, rule by rule.
fn parts<'p>(
    policies: &'p [Policy],
    temporary: &'p [Override],
    catalog: &'p Catalog,
    lists: &'p PolicyLists,
    identities: &HashMap<String, u16>,
) -> Parts<'p> {
    let mut parts = Parts {
        left_out: Some(lists.left_out()),
        ..Parts::default()
    };
    let identity = |name: &str| identities.get(name).copied().unwrap_or(0);
    // The newest first.
    for temporary in temporary.iter().rev() {
        let name = if temporary.blocks { BLOCKED } else { ALLOWED };
        let mut rule = rule(identity(name), temporary.action());
        rule.flags = rule_flag::BY_NAME;
        let who = Scope {
            devices: temporary.device.iter().cloned().collect(),
            schedule: Vec::new(),
        };
        let number = parts.rule(rule, who);
        parts.domains.push((&temporary.domain, number, true));
    }
    for policy in policies {
        let identity = identity(&policy.name);
        let by_name = !(policy.domains.is_empty()
            && policy.lists.is_empty()
            && policy.owners.is_empty()
            && policy.categories.is_empty());
        let by_address = !(policy.remotes.is_empty()
            && policy.countries.is_empty()
            && policy.networks.is_empty());
        let aside = policy.encrypted_dns.is_some() || policy.quic.is_some();
        let who = Scope {
            devices: policy.devices.clone(),
            schedule: policy.schedule.clone(),
        };
        if by_name || by_address || !policy.ports.is_empty() || !aside {
            let mut rule = rule(identity, policy.action);
            set_ports(&mut rule, &policy.ports);
            if by_name {
                rule.flags = name_flags(policy);
                if by_address {
                    rule.flags |= rule_flag::AND_REMOTE;
                }
            }
            let number = parts.rule(rule, who.clone());
            for domain in &policy.domains {
                parts.domains.push((domain, number, false));
            }
            for list in policy.lists.iter().filter_map(|file| lists.get(file)) {
                parts.lists.push((&list.names, number));
            }
            parts
                .owners
                .extend(policy.owners.iter().map(|owner| (owner.as_str(), number)));
            let categories = policy.categories.iter();
            parts
                .categories
                .extend(categories.map(|category| (*category, number)));
            if by_address {
                let found = catalog
                    .networks
                    .prefixes(&policy.countries, &policy.networks);
                let prefixes = policy.remotes.iter().copied().chain(found);
                parts.about(&policy.name, number, prefixes, &catalog.embedded);
            } else if !by_name {
                parts.everywhere.push(number);
            }
        }
        if let Some(action) = policy.quic {
            let mut rule = rule(identity, action);
            set_ports(&mut rule, &[port(443, Transport::Udp)]);
            let number = parts.rule(rule, who.clone());
            parts.everywhere.push(number);
        }
        if let Some(action) = policy.encrypted_dns {
            let mut by_port = rule(identity, action);
            set_ports(&mut by_port, &[port(853, Transport::Any)]);
            let number = parts.rule(by_port, who.clone());
            parts.everywhere.push(number);

            let mut by_address = rule(identity, action);
            set_ports(&mut by_address, &[port(443, Transport::Any)]);
            let number = parts.rule(by_address, who.clone());
            let addresses = catalog.resolvers.encrypted_addresses();
            let prefixes = addresses.map(IpNet::from);
            parts.about(&policy.name, number, prefixes, &catalog.embedded);

            let mut by_name = rule(identity, action);
            // An address in answer to a canary would be taken for consent.
            by_name.flags = name_flags(policy) & !rule_flag::ZERO;
            let number = parts.rule(by_name, who.clone());
            parts
                .domains
                .extend(DISCOVERY.map(|name| (name, number, false)));
            parts.resolvers.push(number);
        }
    }
    parts
}

fn name_flags(policy: &Policy) -> u8 {
    let mut flags = rule_flag::BY_NAME;
    if policy.answer == Answer::Zero {
        flags |= rule_flag::ZERO;
    }
    if policy.strict {
        flags |= rule_flag::STRICT;
    }
    if policy.without_aliases {
        flags |= rule_flag::NO_ALIASES;
    }
    flags
}

const fn port(port: u16, transport: Transport) -> Ports {
    Ports {
        first: port,
        last: port,
        transport,
    }
}

fn rule(policy: u16, action: Action) -> Rule {
    let verdict = match action {
        Action::Observe => Verdict::Pass,
        Action::Allow => Verdict::Allow,
        Action::Reject => Verdict::Reject,
        Action::Drop => Verdict::Drop,
    };
    Rule {
        policy,
        verdict: verdict as u8,
        ..Rule::default()
    }
}

fn set_ports(rule: &mut Rule, ports: &[Ports]) {
    for (place, range) in rule.ports.iter_mut().zip(ports) {
        let protocol = match range.transport {
            Transport::Any => 0,
            Transport::Tcp => 6,
            Transport::Udp => 17,
        };
        *place = PortRange {
            first: range.first,
            last: range.last,
            protocol,
        };
    }
    rule.port_ranges = ports.len().min(MAX_PORT_RANGES) as u32;
}

/// The subjects of the policies, rule by rule.
#[derive(Default)]
struct Parts<'p> {
    /// The lists that are left out.
    left_out: Option<&'p BTreeSet<String>>,
    rules: Vec<Rule>,
    who: Vec<Scope>,
    /// Names that a policy names, and whether a command did.
    domains: Vec<(&'p str, u8, bool)>,
    lists: Vec<(&'p Lists, u8)>,
    owners: Vec<(&'p str, u8)>,
    categories: Vec<(Category, u8)>,
    /// Rules about resolvers that answer encrypted.
    resolvers: Vec<u8>,
    prefixes: Vec<(IpNet, u8)>,
    /// The IPv6 prefixes that stand for IPv4 ones, by their form.
    forms: Vec<Vec<(IpNet, u8)>>,
    /// The policies of rules about prefixes, by the rules' numbers.
    policies: BTreeMap<u8, &'p str>,
    everywhere: Vec<u8>,
}

impl<'p> Parts<'p> {
    /// The number of a rule; the same rule for the same devices has one number.
    fn rule(&mut self, rule: Rule, who: Scope) -> u8 {
        let known = self.rules.iter().zip(&self.who);
        let number = known
            .enumerate()
            .position(|(_, (other, others))| *other == rule && *others == who);
        let number = number.unwrap_or_else(|| {
            self.rules.push(rule);
            self.who.push(who);
            self.rules.len() - 1
        });
        u8::try_from(number).unwrap_or(u8::MAX)
    }

    /// Takes that a rule of a policy is about these prefixes.
    fn about(
        &mut self,
        policy: &'p str,
        number: u8,
        prefixes: impl Iterator<Item = IpNet>,
        embedded: &Embedded,
    ) {
        self.policies.insert(number, policy);
        for prefix in prefixes {
            let prefix = prefix.trunc();
            self.prefixes.push((prefix, number));
            let IpNet::V4(prefix) = prefix else {
                continue;
            };
            for (form, place) in embedded.forms(prefix).zip(0..) {
                if self.forms.len() == place {
                    self.forms.push(Vec::new());
                }
                self.forms[place].push((form.into(), number));
            }
        }
    }

    /// Adds the IPv6 prefixes that stand for IPv4 ones, as far as there is room. The prefixes as they are
    /// written are all in force in any case.
    fn add_forms(&mut self) {
        let is_v6 = |(prefix, _): &&(IpNet, u8)| matches!(prefix, IpNet::V6(_));
        let mut count = self.prefixes.iter().filter(is_v6).count();
        for form in std::mem::take(&mut self.forms) {
            count += form.len();
            if count > MAX_PREFIXES {
                tracing::warn!(
                    "the policies are about so many IPv4 prefixes that there is no room for the IPv6 \
                     addresses that stand for theirs (NAT64, 6to4): some of these pass"
                );
                return;
            }
            self.prefixes.extend(form);
        }
    }

    fn finish(mut self, catalog: &Catalog, policies: u64) -> Result<Compiled, TooLarge> {
        if self.rules.len() > MAX_RULES {
            return Err(TooMuch::Rules(self.rules.len()).into());
        }
        self.add_forms();
        let mut chains = Chains::default();
        // Two parts of a policy may be the same rule.
        let mut known = 0_u64;
        self.everywhere.retain(|number| {
            let is_new = known >> number & 1 == 0;
            known |= 1 << number;
            is_new
        });
        chains.number(&self.everywhere)?;
        let prefixes = self.prefix_chains(&mut chains)?;
        let names = self.name_table(catalog, &mut chains)?;
        let exceptions = self.exceptions(catalog, names.secret);
        Ok(self.compiled(chains, prefixes, (names, exceptions), policies))
    }

    /// The chains of before, by the numbers that they had, of the rules by the numbers that they have now.
    /// Those of rules that are gone have one less.
    fn renumbered(&self, before: &Compiled) -> Chains {
        let number_now = |number: &u8| {
            let number = usize::from(*number);
            let (rule, who) = (before.rules.get(number)?, before.who.get(number)?);
            let mut now = self.rules.iter().zip(&self.who);
            let now = now.position(|(other, others)| other == rule && others == who)?;
            u8::try_from(now).ok()
        };
        let now: Vec<_> = (0..before.rules.len() as u8)
            .map(|number| number_now(&number))
            .collect();
        let mut chains = Chains::default();
        for chain in &before.chains {
            let rules = chain.rules[..chain.len as usize].iter();
            let rules: Vec<u8> = rules
                .filter_map(|number| now.get(usize::from(*number)).copied().flatten())
                .collect();
            chains.push(&rules);
        }
        chains
    }

    /// The hashes of the exceptions of all lists, in ascending order.
    fn exceptions(&self, catalog: &Catalog, secret: u64) -> Arc<[u64]> {
        let of_policies = self.lists.iter().map(|(list, _)| *list);
        let mut hashes = Vec::new();
        for lists in std::iter::once(&catalog.lists).chain(of_policies) {
            lists.each_name(|entry| {
                if entry.listed.category == Some(Category::NeverBlock) {
                    hashes.extend(Suffixes::of(entry.what.as_bytes(), secret).whole());
                }
            });
        }
        hashes.sort_unstable();
        hashes.dedup();
        hashes.into()
    }

    fn compiled(
        self,
        chains: Chains,
        prefixes: BTreeMap<IpNet, u32>,
        (names, exceptions): (NameTable, Arc<[u64]>),
        policies: u64,
    ) -> Compiled {
        let bits = |flag: u8| {
            let rules = self.rules.iter().enumerate();
            rules
                .filter(|(_, rule)| rule.flags & flag != 0)
                .fold(0, |set, (number, _)| set | 1 << number)
        };
        Compiled {
            name_rules: bits(rule_flag::BY_NAME),
            strict_rules: bits(rule_flag::STRICT),
            rules: self.rules,
            chains: chains.chains,
            prefixes,
            names,
            exceptions,
            policies,
            who: self.who,
        }
    }

    fn prefix_chains(&self, chains: &mut Chains) -> Result<BTreeMap<IpNet, u32>, TooLarge> {
        let mut own: BTreeMap<IpNet, Vec<u8>> = BTreeMap::new();
        for (prefix, number) in &self.prefixes {
            let rules = own.entry(*prefix).or_default();
            if let Err(place) = rules.binary_search(number) {
                rules.insert(place, *number);
            }
        }
        self.check_room(&own)?;
        let mut prefixes = BTreeMap::new();
        // A prefix sorts before those it holds: the last of the stack that holds one is its parent.
        let mut holders: Vec<(IpNet, Vec<u8>)> = Vec::new();
        for (prefix, mut rules) in own {
            while holders
                .pop_if(|(holder, _)| !holder.contains(&prefix))
                .is_some()
            {}
            let less_specific = holders.last().map_or(&self.everywhere, |(_, rules)| rules);
            for number in less_specific {
                if !rules.contains(number) {
                    rules.push(*number);
                }
            }
            prefixes.insert(prefix, chains.number(&rules)?);
            holders.push((prefix, rules));
        }
        Ok(prefixes)
    }

    /// Whether the kernel has room for prefixes.
    fn check_room(&self, own: &BTreeMap<IpNet, Vec<u8>>) -> Result<(), TooLarge> {
        for (family, is_of) in [
            (
                "IPv4",
                (|prefix| matches!(prefix, IpNet::V4(_))) as fn(&IpNet) -> bool,
            ),
            ("IPv6", |prefix| matches!(prefix, IpNet::V6(_))),
        ] {
            let count = own.keys().filter(|prefix| is_of(prefix)).count();
            if count <= MAX_PREFIXES {
                continue;
            }
            let mut by_policy: BTreeMap<&str, usize> = BTreeMap::new();
            for numbers in own
                .iter()
                .filter(|(prefix, _)| is_of(prefix))
                .map(|(_, rules)| rules)
            {
                let mut names: Vec<_> = (numbers.iter())
                    .filter_map(|number| self.policies.get(number))
                    .collect();
                names.dedup();
                for name in names {
                    *by_policy.entry(name).or_default() += 1;
                }
            }
            let most = by_policy.iter().max_by_key(|(_, count)| **count);
            let largest = most.map_or_else(Default::default, |(name, of_it)| {
                ((*name).to_owned(), *of_it)
            });
            return Err(TooMuch::Prefixes {
                count,
                family,
                largest,
            }
            .into());
        }
        Ok(())
    }

    fn name_table(&self, catalog: &Catalog, chains: &mut Chains) -> Result<NameTable, TooLarge> {
        for _ in 0..MOST_SECRETS {
            // The secret must be unknown to the authors of lists, and to those who choose the names in
            // questions.
            let secret = RandomState::new().hash_one(0_u8);
            if let Ok(table) = self.name_table_under(secret, catalog, chains)? {
                return Ok(table);
            }
        }
        Err(TooMuch::Alike.into())
    }

    fn name_table_under(
        &self,
        secret: u64,
        catalog: &Catalog,
        chains: &mut Chains,
    ) -> Result<Result<NameTable, Collision>, TooLarge> {
        let Ok(mut tree) = self.tree(secret, catalog) else {
            return Ok(Err(Collision));
        };
        let owns = || tree.nodes.iter().map(|node| &tree.owns[node.own as usize]);
        let count = owns().filter(|own| own.has_rules()).count();
        // Overrides by commands have room of their own: no list is so large that nothing can be blocked any
        // more.
        if owns().filter(|own| own.is_of_policy()).count() > MAX_NAMES {
            let largest = self.largest_list(catalog);
            return Err(TooMuch::Names { count, largest }.into());
        }
        let mut result = Ok(());
        self.each_name(catalog, None, |name, _| {
            if result.is_ok()
                && let Some(found) = tree.resolve(name)
            {
                // The entry of the name above covers this name otherwise.
                tree.nodes[found.place].chain = match tree.is_entry(found) {
                    true => match chains.number(&tree.chains[found.rules]) {
                        Ok(number) => number,
                        Err(error) => {
                            result = Err(error);
                            return;
                        }
                    },
                    false => Node::NO_ENTRY,
                };
            }
        });
        result?;
        let entries = tree.nodes.into_iter();
        let entries = entries.filter(|node| node.chain != Node::NO_ENTRY);
        // These take the memory of the nodes.
        let entries = entries.map(|node| (node.hash, node.chain as u16)).collect();
        Ok(NameTable::new(secret, entries).map(|table| NameTable {
            count: count as u64,
            ..table
        }))
    }

    /// Whether the entries of a list count.
    fn uses(&self, listed: &Listed<'_>) -> bool {
        self.left_out
            .is_none_or(|left_out| left_out.is_empty() || !left_out.contains(listed.list))
    }

    /// The list with the most names that a policy is about, and how many they are.
    fn largest_list(&self, catalog: &Catalog) -> Option<(String, u64)> {
        let asked = |listed: &Listed<'_>| {
            let mut of_category = self.categories.iter();
            let mut of_owner = self.owners.iter();
            of_category.any(|(wanted, _)| Some(*wanted) == listed.category)
                || of_owner.any(|(wanted, _)| {
                    listed
                        .owner
                        .is_some_and(|owner| owner.eq_ignore_ascii_case(wanted))
                })
        };
        let mut counts: HashMap<String, u64> = HashMap::new();
        let mut count = |listed: &Listed<'_>| {
            if listed.category == Some(Category::NeverBlock) || !self.uses(listed) {
                return;
            }
            match counts.get_mut(listed.list) {
                Some(count) => *count += 1,
                None => drop(counts.insert(listed.list.to_owned(), 1)),
            }
        };
        for (list, _) in &self.lists {
            list.each_name(|entry| count(&entry.listed));
        }
        catalog.lists.each_name(|entry| {
            if asked(&entry.listed) {
                count(&entry.listed);
            }
        });
        let by_count = |(list, count): &(String, u64)| (*count, list.clone());
        counts.into_iter().max_by_key(by_count)
    }

    /// All names that matter, each with the rules about exactly this name.
    fn tree(&self, secret: u64, catalog: &Catalog) -> Result<Tree, Collision> {
        let mut tree = Tree::new(secret);
        self.each_name(catalog, None, |name, own| tree.say(name, own));
        tree.sort()?;
        Ok(tree)
    }

    /// Visits the names that matter, each with rules about exactly this name: a name is visited once for each
    /// place that has it, and has the rules of all places together. With `only`, it visits just its names and
    /// those above or below one of them.
    fn each_name(
        &self,
        catalog: &Catalog,
        only: Option<&[&str]>,
        mut visit: impl FnMut(&str, &Own),
    ) {
        let matters = |name: &str| {
            only.is_none_or(|only| {
                only.iter()
                    .any(|one| is_at_or_below(name, one) || is_at_or_below(one, name))
            })
        };
        let each_of = |lists: &Lists, visit: &mut dyn FnMut(Entry<'_, &str>)| match only {
            Some(names) => lists.each_name_about(names, visit),
            None => lists.each_name(visit),
        };
        let mut is_about_names = only.is_some();
        let mut said: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for (domain, number, is_said) in &self.domains {
            if !matters(domain) {
                continue;
            }
            is_about_names = true;
            if *is_said {
                // Of the same name, the newest command comes first; its rule may be an older one's too.
                let said = said.entry(domain).or_default();
                if !said.contains(number) {
                    said.push(*number);
                }
                continue;
            }
            let own = Own {
                explicit: 1 << number,
                ..Own::default()
            };
            visit(domain, &own);
        }
        for (domain, said) in said {
            let own = Own {
                said,
                ..Own::default()
            };
            visit(domain, &own);
        }
        let never = Own {
            never: true,
            ..Own::default()
        };
        for (list, number) in &self.lists {
            let listed = Own {
                listed: 1 << number,
                ..Own::default()
            };
            each_of(list, &mut |entry| {
                // The exceptions of a list that is left out still count.
                let own = match entry.listed.category {
                    Some(Category::NeverBlock) => &never,
                    _ if self.uses(&entry.listed) => &listed,
                    _ => return,
                };
                is_about_names = true;
                visit(entry.what, own);
            });
        }
        if !self.resolvers.is_empty() {
            let resolvers = self.resolvers.iter();
            let own = Own {
                listed: resolvers.fold(0, |set, number| set | 1 << number),
                ..Own::default()
            };
            for name in catalog.resolvers.encrypted_names() {
                if matters(name) {
                    is_about_names = true;
                    visit(name, &own);
                }
            }
        }
        if is_about_names || !self.owners.is_empty() || !self.categories.is_empty() {
            each_of(&catalog.lists, &mut |entry| {
                if let Some(own) = self.own_of_known(&entry.listed) {
                    visit(entry.what, &own);
                }
            });
        }
    }

    /// The rules about exactly a name of the catalog; `None` where there are none.
    fn own_of_known(&self, listed: &Listed<'_>) -> Option<Own> {
        let never = listed.category == Some(Category::NeverBlock);
        if !never && !self.uses(listed) {
            return None;
        }
        let categorised = listed.category.filter(|_| !self.categories.is_empty());
        let owned = listed.owner.filter(|_| !self.owners.is_empty());
        if !never && categorised.is_none() && owned.is_none() {
            return None;
        }
        let of_category = self.categories.iter();
        let by_category = of_category
            .filter(|(wanted, _)| Some(*wanted) == categorised)
            .fold(0, |set, (_, number)| set | 1 << number);
        let of_owner = self.owners.iter();
        let by_owner = of_owner
            .filter(|(wanted, _)| owned.is_some_and(|owner| owner.eq_ignore_ascii_case(wanted)))
            .fold(0, |set, (_, number)| set | 1 << number);
        Some(Own {
            never,
            has_category: categorised.is_some(),
            has_owner: owned.is_some(),
            by_category,
            by_owner,
            ..Own::default()
        })
    }
}

/// The rules about exactly one name, as sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Own {
    /// By commands: in order, the newest first.
    said: Vec<u8>,
    explicit: u64,
    listed: u64,
    by_category: u64,
    by_owner: u64,
    has_category: bool,
    has_owner: bool,
    never: bool,
}

impl Own {
    fn has_rules(&self) -> bool {
        !self.said.is_empty() || self.is_of_policy()
    }

    /// Whether policies are about exactly this name; commands may be, too.
    fn is_of_policy(&self) -> bool {
        self.explicit | self.listed | self.by_category | self.by_owner != 0
    }

    /// The rules of two places about the same name. One place has all that commands said.
    fn with(&self, other: &Self) -> Self {
        Self {
            said: [&*self.said, &other.said].concat(),
            explicit: self.explicit | other.explicit,
            listed: self.listed | other.listed,
            by_category: self.by_category | other.by_category,
            by_owner: self.by_owner | other.by_owner,
            has_category: self.has_category || other.has_category,
            has_owner: self.has_owner || other.has_owner,
            never: self.never || other.never,
        }
    }
}

/// Names by their hashes alone, in 16 bytes each, and the rules about each and for all below it.
struct Tree {
    secret: u64,
    /// In the order of their hashes once they are sorted.
    nodes: Vec<Node>,
    /// For the highest bits of a hash, the first node that may have it.
    starts: Vec<u32>,
    /// The different values of `Own`, which are few.
    owns: Vec<Own>,
    own_numbers: HashMap<Own, u32>,
    /// The different rules that hold for names, which are few, and the chain of each.
    resolved: Vec<Resolved>,
    chains: Vec<Vec<u8>>,
    resolutions: HashMap<(usize, u32), usize>,
}

/// A name.
#[derive(Clone, Copy)]
struct Node {
    hash: u64,
    own: u32,
    /// Until the names are sorted, another hash, by which names of the same hash are told from each other; then
    /// the number of the chain.
    chain: u32,
}

impl Node {
    /// In the place of a chain: the name needs no entry of its own.
    const NO_ENTRY: u32 = u32::MAX;
}

/// A name of the tree, and the numbers of the rules that hold for it and for the name above it.
#[derive(Clone, Copy)]
struct Found {
    hash: u64,
    place: usize,
    rules: usize,
    above: usize,
}

/// The number of the empty rules above a name that has no name above it.
const ROOT: usize = 0;

impl Tree {
    /// The highest bits of a hash that find a node: some eight nodes have the same ones.
    const NODES_OF_START: usize = 8;

    fn new(secret: u64) -> Self {
        Self {
            secret,
            nodes: Vec::new(),
            starts: Vec::new(),
            owns: vec![Own::default()],
            own_numbers: HashMap::from([(Own::default(), 0)]),
            resolved: vec![Resolved::default()],
            chains: vec![Vec::new()],
            resolutions: HashMap::new(),
        }
    }

    /// Adds a name that has these rules; it may be there already.
    fn say(&mut self, name: &str, own: &Own) {
        let Some(hash) = self.hash(name) else {
            return;
        };
        let node = Node {
            hash,
            own: self.own_number(own),
            chain: another_hash(name),
        };
        self.nodes.push(node);
    }

    fn own_number(&mut self, own: &Own) -> u32 {
        if let Some(number) = self.own_numbers.get(own) {
            return *number;
        }
        let number = self.owns.len() as u32;
        self.owns.push(own.clone());
        self.own_numbers.insert(own.clone(), number);
        number
    }

    /// The hash of a whole name. A name of too many labels is left out: its hash would be that of its last
    /// labels, and would match every name below them. Lists count it as a bad line, and the configuration
    /// refuses it.
    fn hash(&self, name: &str) -> Option<u64> {
        if name.split('.').count() > MAX_LABELS {
            return None;
        }
        Suffixes::of(name.as_bytes(), self.secret).whole()
    }

    /// Joins the rules of each name, and has names found from now on.
    fn sort(&mut self) -> Result<(), Collision> {
        self.nodes
            .sort_unstable_by_key(|node| (node.hash, node.chain, node.own));
        let mut joined: HashMap<(u32, u32), u32> = HashMap::new();
        let mut kept = 0_usize;
        for place in 0..self.nodes.len() {
            let node = self.nodes[place];
            let Some(last) = kept.checked_sub(1).map(|last| self.nodes[last]) else {
                kept = 1;
                continue;
            };
            if last.hash != node.hash {
                self.nodes[kept] = node;
                kept += 1;
                continue;
            }
            if last.chain != node.chain {
                return Err(Collision);
            }
            if last.own == node.own {
                continue;
            }
            let number = match joined.get(&(last.own, node.own)) {
                Some(number) => *number,
                None => {
                    let own = self.owns[last.own as usize].with(&self.owns[node.own as usize]);
                    let number = self.own_number(&own);
                    joined.insert((last.own, node.own), number);
                    number
                }
            };
            self.nodes[kept - 1].own = number;
        }
        self.nodes.truncate(kept);
        let starts = (kept / Self::NODES_OF_START).next_power_of_two();
        let bits = starts.ilog2();
        self.starts = vec![0; starts + 1];
        for node in &mut self.nodes {
            node.chain = Node::NO_ENTRY;
            self.starts[highest(node.hash, bits) + 1] += 1;
        }
        let mut before = 0;
        for start in &mut self.starts {
            before += *start;
            *start = before;
        }
        Ok(())
    }

    /// The place of the name with a hash.
    fn place(&self, hash: u64) -> Option<usize> {
        let bits = (self.starts.len() - 1).ilog2();
        let start = highest(hash, bits);
        let places = self.starts[start] as usize..self.starts[start + 1] as usize;
        let found = self.nodes[places.clone()]
            .iter()
            .position(|node| node.hash == hash);
        Some(places.start + found?)
    }

    /// The rules about exactly a name of the tree.
    fn own(&self, name: &str) -> Option<&Own> {
        let place = self.place(self.hash(name)?)?;
        Some(&self.owns[self.nodes[place].own as usize])
    }

    /// The rules that hold for a name of the tree.
    fn resolve(&mut self, name: &str) -> Option<Found> {
        let hash = self.hash(name)?;
        let place = self.place(hash)?;
        let suffixes = Suffixes::of(name.as_bytes(), self.secret);
        let mut above = ROOT;
        for hash in &suffixes.hashes[..(suffixes.len as usize).saturating_sub(1)] {
            if let Some(place) = self.place(*hash) {
                above = self.below(above, self.nodes[place].own);
            }
        }
        let rules = self.below(above, self.nodes[place].own);
        Some(Found {
            hash,
            place,
            rules,
            above,
        })
    }

    /// The number of the rules that hold for a name with its own ones, below a name for which others hold.
    fn below(&mut self, above: usize, own: u32) -> usize {
        if let Some(number) = self.resolutions.get(&(above, own)) {
            return *number;
        }
        let resolved = self.resolved[above].below(&self.owns[own as usize]);
        let number = self.resolved.len();
        self.chains.push(resolved.chain());
        self.resolved.push(resolved);
        self.resolutions.insert((above, own), number);
        number
    }

    /// Whether a name needs an entry, because the chain of the name above it is another.
    fn is_entry(&self, found: Found) -> bool {
        self.chains[found.rules] != self.chains[found.above]
    }
}

/// So many of the highest bits of a hash, as a number.
const fn highest(hash: u64, bits: u32) -> usize {
    match bits {
        0 => 0,
        bits => (hash >> (u64::BITS - bits)) as usize,
    }
}

/// A hash of another kind than that of the table (FNV-1a: Fowler, Noll, Vo).
fn another_hash(name: &str) -> u32 {
    let octets = name.bytes();
    octets.fold(0x811c_9dc5, |hash, octet| {
        (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193)
    })
}

/// The rules that hold for a name and everything below it, the most specific first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resolved {
    said: Vec<u8>,
    rules: Vec<(u8, Because)>,
    never: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Because {
    Named,
    Listed,
    Category,
    Owner,
}

impl Resolved {
    /// The rules that hold for a name below this one, with its own ones.
    fn below(&self, own: &Own) -> Self {
        let mut said = own.said.clone();
        let above = self.said.iter().copied();
        said.extend(above.filter(|number| !own.said.contains(number)));
        let never = self.never || own.never;
        let mut own_rules: Vec<_> = numbers(own.explicit)
            .map(|number| (number, Because::Named))
            .collect();
        if !never {
            for (set, because) in [
                (own.listed, Because::Listed),
                (own.by_category, Because::Category),
                (own.by_owner, Because::Owner),
            ] {
                own_rules.extend(numbers(set).map(|number| (number, because)));
            }
            own_rules.sort_by_key(|(number, _)| *number);
        }
        let inherited = self.rules.iter().copied().filter(|(_, because)| {
            !own.never
                && match because {
                    Because::Category => !own.has_category,
                    Because::Owner => !own.has_owner,
                    Because::Named | Because::Listed => true,
                }
        });
        let mut rules: Vec<(u8, Because)> = Vec::new();
        for rule in own_rules.into_iter().chain(inherited) {
            // A rule by two reasons is kept by both: a longer name may take one of them away.
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        Self { said, rules, never }
    }

    /// The numbers of the rules in order, each once.
    fn chain(&self) -> Vec<u8> {
        let mut chain = self.said.clone();
        for (number, _) in &self.rules {
            if !chain.contains(number) {
                chain.push(*number);
            }
        }
        chain
    }
}

fn numbers(set: u64) -> impl Iterator<Item = u8> {
    (0..MAX_RULES as u8).filter(move |number| set >> number & 1 != 0)
}

/// Chains, each once.
#[derive(Default)]
struct Chains {
    numbers: HashMap<Vec<u8>, u32>,
    chains: Vec<Chain>,
}

impl Chains {
    fn number(&mut self, rules: &[u8]) -> Result<u32, TooLarge> {
        if let Some(number) = self.numbers.get(rules) {
            return Ok(*number);
        }
        if self.chains.len() == MAX_CHAINS {
            return Err(TooMuch::Chains.into());
        }
        Ok(self.push(rules))
    }

    /// Gives a chain the next number, whether there is another like it or not.
    fn push(&mut self, rules: &[u8]) -> u32 {
        let mut chain = Chain {
            len: rules.len() as u64,
            ..Chain::default()
        };
        for (place, number) in chain.rules.iter_mut().zip(rules) {
            *place = *number;
            chain.set |= 1 << number;
        }
        let number = self.chains.len() as u32;
        self.chains.push(chain);
        self.numbers.entry(rules.to_vec()).or_insert(number);
        number
    }
}
