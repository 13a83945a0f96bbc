//! The decisions of the kernel, made in user space for names that only user space can read.

use std::{collections::HashMap, sync::Arc};

use sensor_ebpf::{
    flow::FlowKey,
    name::{Suffixes, longest},
    parse::{Address, Family, Mac},
    policy::{
        Chain, Decision, Layer, Rule, Rules, Verdict, decide, decide_learned, decide_name,
        rule_flag,
    },
};

use super::Compiled;

/// Policies in force.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// The generation under which the kernel decides.
    pub generation: u32,
    /// The tables.
    pub compiled: Arc<Compiled>,
    /// The rules of the devices that have others than the default ones.
    pub devices: HashMap<[u8; 6], u64>,
    /// The rules of all other devices.
    pub default_rules: u64,
}

impl InForce {
    /// The decision about a flow by the name that it said; `None` where no rule is about the name.
    pub fn judge_name(&self, key: &FlowKey, name: &str, layer: Layer) -> Option<Decision> {
        let chain = self.compiled.chain_of(name)?;
        Some(decide_name(self, key, chain, layer)?.1)
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
    /// The rules that refuse this name at every address and port, up to the first rule that lets it pass.
    pub fn refusing(&self, name: &str) -> u64 {
        let chain = self.chain_of(name);
        let Some(chain) = chain.and_then(|chain| self.chains.get(chain as usize)) else {
            return 0;
        };
        let mut set = 0;
        for number in &chain.rules[..chain.len as usize] {
            let Some(rule) = self.rules.get(usize::from(*number)) else {
                continue;
            };
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

impl Rules for InForce {
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
