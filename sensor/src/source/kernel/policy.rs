//! The one place that writes policy down into the kernel.
//!
//! Policies become tables: a set of rules for each device, a chain of rules for each remote prefix,
//! and the rules. They are written to the side that is not in force; one store of the generation
//! number then puts them in force, and after a grace period the other side is cleared.

use std::{
    collections::{BTreeMap, HashMap},
    mem::offset_of,
    net::IpAddr,
    path::Path,
    sync::atomic::Ordering,
};

use aya::maps::{Array, HashMap as KernelHashMap, LpmTrie, MapData, MapError, lpm_trie::Key};
use ipnet::IpNet;
use sensor_ebpf::{
    books::{PolicyName, Settings},
    policy::{
        Chain, DeviceRulesKey, MAX_CHAINS, MAX_PORT_RANGES, MAX_RULES, PREFIX_SIDE_BITS, PortRange,
        PrefixV4, PrefixV6, Rule, Verdict,
    },
    wire::Wire,
};

use super::{Error, books::Books, grace_period, load::pinned, table::Raw};
use crate::config::{Action, Config, DeviceSelector, Policy, Transport};

/// What was put in force.
#[derive(Clone, Copy, Debug)]
pub struct Installed {
    /// The generation number.
    pub generation: u32,
    /// Policies.
    pub policies: u64,
    /// Prefixes, both families.
    pub prefixes: u64,
}

/// Policies as the kernel's tables have them.
#[derive(Debug, PartialEq, Eq)]
struct Compiled {
    rules: Vec<Rule>,
    /// The first is the chain of every address.
    chains: Vec<Chain>,
    /// Number of the chain of each prefix.
    prefixes: BTreeMap<IpNet, u32>,
    devices: HashMap<[u8; 6], u64>,
    /// The rules of devices that no policy names.
    default_rules: u64,
}

fn compile(policies: &[Policy], identities: &[u16]) -> Result<Compiled, Error> {
    if policies.len() > MAX_RULES {
        return Err(Error::PolicyTooLarge(format!(
            "{} policies, and there is room for {MAX_RULES}",
            policies.len()
        )));
    }
    let rules = policies
        .iter()
        .zip(identities)
        .map(|(policy, id)| rule(policy, *id))
        .collect();

    let default_rules = bits(policies, |policy| policy.devices.is_empty());
    let mut devices = HashMap::new();
    for (number, policy) in policies.iter().enumerate() {
        for device in &policy.devices {
            let DeviceSelector::Mac(mac) = device else {
                continue;
            };
            *devices.entry(*mac).or_insert(default_rules) |= 1 << number;
        }
    }

    let mut own: BTreeMap<IpNet, Vec<u8>> = BTreeMap::new();
    let mut everywhere = Vec::new();
    for (number, policy) in policies.iter().enumerate() {
        let number = number as u8;
        if policy.remotes.is_empty() {
            everywhere.push(number);
        }
        for prefix in &policy.remotes {
            let rules = own.entry(prefix.trunc()).or_default();
            if rules.last() != Some(&number) {
                rules.push(number);
            }
        }
    }
    let mut chains = Chains::default();
    chains.number(everywhere.clone())?;
    let mut prefixes = BTreeMap::new();
    // A prefix sorts before those it holds: the last of the stack that holds one is its parent.
    let mut holders: Vec<(IpNet, Vec<u8>)> = Vec::new();
    for (prefix, mut rules) in own {
        while holders
            .pop_if(|(holder, _)| !holder.contains(&prefix))
            .is_some()
        {}
        let less_specific = holders.last().map_or(&everywhere, |(_, rules)| rules);
        for number in less_specific {
            if !rules.contains(number) {
                rules.push(*number);
            }
        }
        prefixes.insert(prefix, chains.number(rules.clone())?);
        holders.push((prefix, rules));
    }
    Ok(Compiled {
        rules,
        chains: chains.chains,
        prefixes,
        devices,
        default_rules,
    })
}

/// The set of policies of which something holds.
fn bits(policies: &[Policy], holds: impl Fn(&Policy) -> bool) -> u64 {
    policies
        .iter()
        .enumerate()
        .filter(|(_, policy)| holds(policy))
        .fold(0, |set, (number, _)| set | 1 << number)
}

/// Chains, each once.
#[derive(Default)]
struct Chains {
    numbers: HashMap<Vec<u8>, u32>,
    chains: Vec<Chain>,
}

impl Chains {
    fn number(&mut self, rules: Vec<u8>) -> Result<u32, Error> {
        if let Some(number) = self.numbers.get(&rules) {
            return Ok(*number);
        }
        if self.chains.len() == MAX_CHAINS {
            return Err(Error::PolicyTooLarge(format!(
                "the prefixes overlap in more than {MAX_CHAINS} ways"
            )));
        }
        let mut chain = Chain {
            len: rules.len() as u64,
            ..Chain::default()
        };
        for (place, number) in chain.rules.iter_mut().zip(&rules) {
            *place = *number;
            chain.set |= 1 << number;
        }
        let number = self.chains.len() as u32;
        self.chains.push(chain);
        self.numbers.insert(rules, number);
        Ok(number)
    }
}

fn rule(policy: &Policy, identity: u16) -> Rule {
    let verdict = match policy.action {
        Action::Observe | Action::Allow => Verdict::Pass,
        Action::Reject => Verdict::Reject,
        Action::Drop => Verdict::Drop,
    };
    let mut ports = [PortRange::default(); MAX_PORT_RANGES];
    for (place, range) in ports.iter_mut().zip(&policy.ports) {
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
    Rule {
        policy: identity,
        verdict: verdict as u8,
        flags: 0,
        port_ranges: policy.ports.len().min(MAX_PORT_RANGES) as u32,
        ports,
    }
}

/// The policy tables of the kernel.
struct Tables {
    rules: Array<MapData, Raw<Rule>>,
    chains: Array<MapData, Raw<Chain>>,
    devices: KernelHashMap<MapData, Raw<DeviceRulesKey>, u64>,
    prefixes_v4: LpmTrie<MapData, Raw<PrefixV4>, u32>,
    prefixes_v6: LpmTrie<MapData, Raw<PrefixV6>, u32>,
}

impl Tables {
    fn open(directory: &Path) -> Result<Self, Error> {
        fn open<T: TryFrom<aya::maps::Map, Error = MapError>>(
            directory: &Path,
            map: &'static str,
        ) -> Result<T, Error> {
            T::try_from(pinned(directory, map)?).map_err(|source| Error::Map { map, source })
        }
        Ok(Self {
            rules: open(directory, "RULES")?,
            chains: open(directory, "CHAINS")?,
            devices: open(directory, "DEVICE_RULES")?,
            prefixes_v4: open(directory, "PREFIXES_V4")?,
            prefixes_v6: open(directory, "PREFIXES_V6")?,
        })
    }

    fn write(&mut self, side: u32, compiled: &Compiled) -> Result<(), MapError> {
        let of_side = |capacity: usize, number: usize| side * capacity as u32 + number as u32;
        for (number, rule) in compiled.rules.iter().enumerate() {
            self.rules.set(of_side(MAX_RULES, number), Raw(*rule), 0)?;
        }
        for (number, chain) in compiled.chains.iter().enumerate() {
            self.chains
                .set(of_side(MAX_CHAINS, number), Raw(*chain), 0)?;
        }
        for (mac, rules) in &compiled.devices {
            let key = DeviceRulesKey {
                mac: *mac,
                side: side as u16,
            };
            self.devices.insert(Raw(key), rules, 0)?;
        }
        let side = side.to_be_bytes();
        for (prefix, chain) in &compiled.prefixes {
            let bits = PREFIX_SIDE_BITS + u32::from(prefix.prefix_len());
            match prefix.addr() {
                IpAddr::V4(address) => {
                    let data = PrefixV4 {
                        side,
                        address: address.octets(),
                    };
                    self.prefixes_v4
                        .insert(&Key::new(bits, Raw(data)), chain, 0)?;
                }
                IpAddr::V6(address) => {
                    let data = PrefixV6 {
                        side,
                        address: address.octets(),
                    };
                    self.prefixes_v6
                        .insert(&Key::new(bits, Raw(data)), chain, 0)?;
                }
            }
        }
        Ok(())
    }

    /// Removes what a side holds by keys; its rules and chains are overwritten when it is used.
    fn clear(&mut self, side: u32) -> Result<(), MapError> {
        let devices: Vec<_> = self
            .devices
            .keys()
            .filter(|key| {
                key.as_ref()
                    .is_ok_and(|Raw(key)| u32::from(key.side) == side)
            })
            .collect::<Result<_, _>>()?;
        for key in devices {
            self.devices.remove(&key)?;
        }
        let side = side.to_be_bytes();
        clear_prefixes(&mut self.prefixes_v4, |prefix| prefix.side == side)?;
        clear_prefixes(&mut self.prefixes_v6, |prefix| prefix.side == side)
    }
}

fn clear_prefixes<P: Wire>(
    prefixes: &mut LpmTrie<MapData, Raw<P>, u32>,
    of_side: impl Fn(&P) -> bool,
) -> Result<(), MapError> {
    let keys: Vec<_> = prefixes
        .keys()
        .filter(|key| key.as_ref().is_ok_and(|key| of_side(&key.data().0)))
        .collect::<Result<_, _>>()?;
    keys.iter().try_for_each(|key| prefixes.remove(key))
}

pub(super) fn install(
    books: &Books,
    directory: &Path,
    config: &Config,
) -> Result<Installed, Error> {
    let refused = |source| Error::Map {
        map: "policy tables",
        source,
    };
    let identities = identities(books, directory, &config.policies)?;
    let compiled = compile(&config.policies, &identities)?;
    let mut tables = Tables::open(directory)?;

    let before = books.settings.generation().load(Ordering::Acquire);
    // 0 is the generation of what was never judged.
    let generation = before.checked_add(1).unwrap_or(2);
    let side = generation & 1;
    // A daemon that was killed here may have left half a policy.
    tables.clear(side).map_err(refused)?;
    tables.write(side, &compiled).map_err(refused)?;
    books
        .settings
        .word(
            0,
            offset_of!(Settings, default_rules) + side as usize * size_of::<u64>(),
        )
        .store(compiled.default_rules, Ordering::Release);
    books
        .settings
        .generation()
        .store(generation, Ordering::Release);
    let installed = Installed {
        generation,
        policies: compiled.rules.len() as u64,
        prefixes: compiled.prefixes.len() as u64,
    };
    let told = [
        (offset_of!(Settings, policies), installed.policies),
        (offset_of!(Settings, prefixes), installed.prefixes),
    ];
    for (offset, count) in told {
        books
            .settings
            .word(0, offset)
            .store(count, Ordering::Relaxed);
    }
    grace_period();
    tables.clear(before & 1).map_err(refused)?;
    Ok(installed)
}

/// The identity of each policy: that of its name, kept over reloads and restarts.
fn identities(books: &Books, directory: &Path, policies: &[Policy]) -> Result<Vec<u16>, Error> {
    let refused = |source| Error::Map {
        map: "POLICY_NAMES",
        source,
    };
    let known = books.policy_names()?;
    let mut next = known.len() as u32 + 1;
    let mut known: HashMap<_, _> = known.into_iter().map(|(id, name)| (name, id)).collect();
    let mut names: Array<MapData, Raw<PolicyName>> =
        Array::try_from(pinned(directory, "POLICY_NAMES")?).map_err(refused)?;
    let mut identities = Vec::with_capacity(policies.len());
    for policy in policies {
        if let Some(identity) = known.get(&policy.name) {
            identities.push(*identity);
            continue;
        }
        if next >= books.policy_names.len() {
            return Err(Error::PolicyTooLarge(format!(
                "{} different names of policies since the tables were made; `sensor unload` \
                 forgets them, and starts the counters at zero",
                next - 1
            )));
        }
        let mut octets = [0; 64];
        let name = &policy.name.as_bytes()[..policy.name.len().min(63)];
        octets[..name.len()].copy_from_slice(name);
        names
            .set(next, Raw(PolicyName { octets }), 0)
            .map_err(refused)?;
        known.insert(policy.name.clone(), next as u16);
        identities.push(next as u16);
        next += 1;
    }
    Ok(identities)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, remotes: &[&str]) -> Policy {
        Policy {
            name: name.to_owned(),
            remotes: remotes
                .iter()
                .map(|prefix| prefix.parse().unwrap())
                .collect(),
            action: Action::Reject,
            ..Policy::default()
        }
    }

    #[test]
    fn the_most_specific_prefix_comes_first_then_the_order_of_the_file() {
        let policies = [
            policy("all", &[]),
            policy("wide", &["10.0.0.0/8", "2001:db8::/32"]),
            policy("narrow", &["10.1.0.0/16"]),
            policy("also-wide", &["10.0.0.0/8"]),
            policy("elsewhere", &["192.0.2.0/24"]),
        ];
        let compiled = compile(&policies, &[1, 2, 3, 4, 5]).unwrap();
        let chain_of = |prefix: &str| {
            let chain = &compiled.chains[compiled.prefixes[&prefix.parse().unwrap()] as usize];
            chain.rules[..chain.len as usize].to_vec()
        };
        assert_eq!(chain_of("10.1.0.0/16"), [2, 1, 3, 0]);
        assert_eq!(chain_of("10.0.0.0/8"), [1, 3, 0]);
        assert_eq!(chain_of("192.0.2.0/24"), [4, 0]);
        assert_eq!(chain_of("2001:db8::/32"), [1, 0]);
        assert_eq!(
            compiled.chains[0].rules[..compiled.chains[0].len as usize],
            [0]
        );
    }

    #[test]
    fn a_device_that_is_named_has_the_rules_of_all_and_its_own() {
        let mac = [2, 0, 0, 0, 0, 1];
        let mut own = policy("own", &[]);
        own.devices.push(DeviceSelector::Mac(mac));
        let compiled = compile(&[policy("all", &[]), own], &[1, 2]).unwrap();
        assert_eq!(compiled.default_rules, 0b01);
        assert_eq!(compiled.devices[&mac], 0b11);
    }
}
