//! The decisions of the kernel, made in user space for names that only user space can read.

use std::{collections::HashMap, sync::Arc};

use sensor_ebpf::{
    flow::FlowKey,
    name::{Suffixes, longest},
    parse::{Address, Family, Mac},
    policy::{
        Chain, Decision, Layer, MAX_RULES, Rule, Rules, Verdict, decide, decide_learned,
        decide_name, rule_flag,
    },
};

use super::Compiled;

/// Policies in force.
#[derive(Clone, Debug, Default)]
pub struct ActiveRules {
    /// The generation under which the kernel decides.
    pub generation: u32,
    /// The tables.
    pub compiled: Arc<Compiled>,
    /// The rules of the devices that have others than the default ones.
    pub devices: HashMap<[u8; 6], u64>,
    /// The rules of all other devices.
    pub default_rules: u64,
}

impl ActiveRules {
    /// The decision about a flow by the name that it said; `None` where no rule is about the name.
    pub fn judge_name(&self, key: &FlowKey, name: &str, layer: Layer) -> Option<Decision> {
        let chain = self.compiled.chain_of(name)?;
        Some(decide_name(self, key, chain, layer)?.1)
    }

    /// The decision about a flow by the name that it said, from which DNS led the device to other names: the first
    /// refused one of them refuses the flow, unless a rule allows the name or a list excepts it.
    pub fn judge_alias(
        &self,
        key: &FlowKey,
        name: &str,
        targets: &[Box<str>],
        layer: Layer,
    ) -> Option<Decision> {
        let own = self.judge_name(key, name, layer);
        let is_decided =
            |decision: &Decision| decision.verdict.refuses() || decision.verdict == Verdict::Allow;
        if targets.is_empty()
            || own.as_ref().is_some_and(is_decided)
            || self.compiled.is_excepted(name)
        {
            return own;
        }
        let refused = targets.iter().find_map(|target| {
            let chain = self.compiled.chain_of(target)?;
            let (rule, decision) = decide_name(self, key, chain, layer)?;
            let refuses = decision.verdict.refuses() && rule.flags & rule_flag::NO_ALIASES == 0;
            refuses.then_some(decision)
        });
        refused.or(own)
    }

    /// The decision about a flow by its addresses and ports.
    pub fn judge_address(&self, key: &FlowKey) -> Decision {
        decide(self, key)
    }

    /// The decision about a flow that said no name; the rules in `learned` refuse every name that is known
    /// at its address.
    pub fn judge_learned(&self, key: &FlowKey, learned: u64) -> Option<Decision> {
        decide_learned(self, key, learned)
    }

    /// Whether a rule by name applies to a device.
    pub fn applies_by_name(&self, mac: Mac) -> bool {
        self.for_device(mac) & self.compiled.name_rules != 0
    }
}

impl Compiled {
    /// The rules that refuse this name, or one of the names to which it leads, at every address and port.
    pub fn refusing(&self, name: &str, targets: &[Box<str>]) -> u64 {
        let own = self.refusing_alone(name);
        let is_allowed = || {
            let mut rules = self.rules_about(name);
            rules.any(|(_, rule)| rule.verdict == Verdict::Allow as u8)
        };
        // The devices that an allowing rule is about are not known here: it counts for all.
        if targets.is_empty() || is_allowed() || self.is_excepted(name) {
            return own;
        }
        let with_aliases = |number: &u8| {
            let rule = self.rules.get(usize::from(*number));
            rule.is_some_and(|rule| rule.flags & rule_flag::NO_ALIASES == 0)
        };
        let with_aliases = (0..MAX_RULES as u8).filter(with_aliases);
        let with_aliases = with_aliases.fold(0_u64, |set, number| set | 1 << number);
        let by_targets = targets.iter();
        let by_targets = by_targets.fold(0, |set, target| set | self.refusing_alone(target));
        own | by_targets & with_aliases
    }

    /// Whether a list excepts a name from refusal.
    fn is_excepted(&self, name: &str) -> bool {
        let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let suffixes = Suffixes::of(lower.as_bytes(), self.names.secret);
        let mut hashes = suffixes.hashes[..suffixes.len as usize].iter();
        hashes.any(|hash| self.exceptions.binary_search(hash).is_ok())
    }

    /// The rules about a name, in order, with their numbers.
    fn rules_about(&self, name: &str) -> impl Iterator<Item = (u8, &Rule)> {
        let chain = self.chain_of(name);
        let chain = chain.and_then(|chain| self.chains.get(chain as usize));
        let numbers = chain.map_or(&[][..], |chain| &chain.rules[..chain.len as usize]);
        let rule = |number: &u8| Some((*number, self.rules.get(usize::from(*number))?));
        numbers.iter().filter_map(rule)
    }

    /// The rules that refuse this name at every address and port, up to the first rule that lets it pass.
    fn refusing_alone(&self, name: &str) -> u64 {
        let mut set = 0;
        for (number, rule) in self.rules_about(name) {
            if !Verdict::from_number(rule.verdict).refuses() {
                // The devices of this rule are not known here: a name that it may let pass does not count
                // as refused.
                break;
            }
            if rule.port_ranges == 0 && rule.flags & rule_flag::AND_REMOTE == 0 {
                set |= 1 << number;
            }
        }
        set
    }

    pub(super) fn chain_of(&self, name: &str) -> Option<u32> {
        let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        longest(
            &self.names,
            &Suffixes::of(lower.as_bytes(), self.names.secret),
        )
    }
}

impl Rules for ActiveRules {
    fn for_device(&self, mac: Mac) -> u64 {
        let own = self.devices.get(&mac.octets());
        own.copied().unwrap_or(self.default_rules)
    }

    fn for_remote(&self, family: Family, remote: Address) -> Option<&Chain> {
        let octets = remote.octets();
        let (address, bits): (std::net::IpAddr, u8) = match family {
            Family::Other => return self.compiled.chains.first(),
            Family::V4 => ([octets[0], octets[1], octets[2], octets[3]].into(), 32),
            Family::V6 => (octets.into(), 128),
        };
        let prefixes = &self.compiled.prefixes;
        let found = (0..=bits).rev().find_map(|bits| {
            let prefix = ipnet::IpNet::new(address, bits).ok()?.trunc();
            prefixes.get(&prefix).copied()
        });
        self.compiled.chains.get(found.unwrap_or(0) as usize)
    }

    fn chain(&self, number: u32) -> Option<&Chain> {
        self.compiled.chains.get(number as usize)
    }

    fn rule(&self, number: u8) -> Option<&Rule> {
        self.compiled.rules.get(usize::from(number))
    }
}
