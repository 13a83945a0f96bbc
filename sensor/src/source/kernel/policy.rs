//! The one place that writes policy down into the kernel.
//!
//! What [`policy`](crate::policy) compiled is written to the side of the tables that is not in force;
//! one store of the generation number then puts it in force, and after a grace period the other side
//! is cleared. Which rules apply to a device changes more often, and alone: that is written to the
//! side in force, a word for each device, and a generation that is higher by two has every flow
//! decided again.

use std::{collections::HashMap, mem::offset_of, net::IpAddr, path::Path, sync::atomic::Ordering};

use aya::maps::{
    Array, ArrayOfMaps, HashMap as KernelHashMap, IterableMap as _, LpmTrie, MapData, MapError,
    lpm_trie::Key,
};
use sensor_ebpf::{
    books::{PolicyName, Settings},
    name::NameBucket,
    parse::{Address, Family, Mac},
    policy::{
        Chain, DeviceRulesKey, LearnedKey, MAX_CHAINS, MAX_RULES, PREFIX_SIDE_BITS, PrefixV4,
        PrefixV6, Rule,
    },
    wire::Wire,
};

use super::{
    Error,
    books::Books,
    grace_period,
    pins::pinned,
    table::{Access, Raw, Table},
};
use crate::policy::{Compiled, NameTable};

/// The rules that apply to each device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRules {
    /// By MAC address, where they are others than those of everybody.
    pub devices: HashMap<[u8; 6], u64>,
    /// Those of everybody else.
    pub default: u64,
}

/// What was put in force.
#[derive(Clone, Copy, Debug)]
pub struct Installed {
    /// The generation number.
    pub generation: u32,
    /// Policies.
    pub policies: u64,
    /// Prefixes, both families.
    pub prefixes: u64,
    /// Names.
    pub names: u64,
}

/// The policy tables of the kernel.
struct Tables {
    rules: Array<MapData, Raw<Rule>>,
    chains: Array<MapData, Raw<Chain>>,
    devices: KernelHashMap<MapData, Raw<DeviceRulesKey>, u64>,
    prefixes_v4: LpmTrie<MapData, Raw<PrefixV4>, u32>,
    prefixes_v6: LpmTrie<MapData, Raw<PrefixV6>, u32>,
    names: ArrayOfMaps<MapData, Array<MapData, Raw<NameBucket>>>,
    learned: KernelHashMap<MapData, Raw<LearnedKey>, u64>,
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
            names: open(directory, "NAMES")?,
            learned: open(directory, "LEARNED")?,
        })
    }

    fn write(
        &mut self,
        side: u32,
        compiled: &Compiled,
        who: &DeviceRules,
        learned: &HashMap<(Mac, IpAddr), u64>,
    ) -> Result<(), Error> {
        let of_side = |capacity: usize, number: usize| side * capacity as u32 + number as u32;
        for (number, rule) in compiled.rules.iter().enumerate() {
            self.rules
                .set(of_side(MAX_RULES, number), Raw(*rule), 0)
                .map_err(refused)?;
        }
        for (number, chain) in compiled.chains.iter().enumerate() {
            self.chains
                .set(of_side(MAX_CHAINS, number), Raw(*chain), 0)
                .map_err(refused)?;
        }
        for (mac, rules) in &who.devices {
            self.set_device(side, *mac, *rules)?;
        }
        for (place, rules) in learned {
            self.set_learned(side, *place, *rules)?;
        }
        let names = name_table(&compiled.names)?;
        self.names.set(side, &names, 0).map_err(refused)?;
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
                        .insert(&Key::new(bits, Raw(data)), chain, 0)
                        .map_err(refused)?;
                }
                IpAddr::V6(address) => {
                    let data = PrefixV6 {
                        side,
                        address: address.octets(),
                    };
                    self.prefixes_v6
                        .insert(&Key::new(bits, Raw(data)), chain, 0)
                        .map_err(refused)?;
                }
            }
        }
        Ok(())
    }

    fn set_device(&mut self, side: u32, mac: [u8; 6], rules: u64) -> Result<(), Error> {
        let key = DeviceRulesKey {
            mac,
            side: side as u16,
        };
        self.devices.insert(Raw(key), rules, 0).map_err(refused)
    }

    fn set_learned(
        &mut self,
        side: u32,
        (mac, address): (Mac, IpAddr),
        rules: u64,
    ) -> Result<(), Error> {
        let (address, family) = match address {
            IpAddr::V4(address) => (Address::v4(address.octets()), Family::V4),
            IpAddr::V6(address) => (Address::v6(address.octets()), Family::V6),
        };
        let key = Raw(LearnedKey {
            address: address.octets(),
            mac: mac.octets(),
            side: side as u8,
            family: family as u8,
        });
        match rules {
            // It may not have been there.
            0 => drop(self.learned.remove(&key)),
            _ => self.learned.insert(key, rules, 0).map_err(refused)?,
        }
        Ok(())
    }

    /// Removes what a side holds by keys; its rules, chains and names are overwritten when it is used.
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
        let number = side;
        let side = side.to_be_bytes();
        let learned: Vec<_> = self
            .learned
            .keys()
            .filter(|key| {
                key.as_ref()
                    .is_ok_and(|Raw(key)| u32::from(key.side) == number)
            })
            .collect::<Result<_, _>>()?;
        for key in learned {
            self.learned.remove(&key)?;
        }
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

/// Flags of the kernel's user API (`linux/bpf.h`).
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// A table of names in the kernel, as large as it has to be.
pub(super) fn name_table(names: &NameTable) -> Result<Array<MapData, Raw<NameBucket>>, Error> {
    const MAP: &str = "a table of names";

    let of_map = |source| Error::Map { map: MAP, source };
    let table = Array::create(names.buckets.len() as u32, BPF_F_MMAPABLE | BPF_F_INNER_MAP)
        .map_err(of_map)?;
    // Written as memory: a call for each bucket would take longer than all the rest.
    let memory = Table::<NameBucket>::map(table.map(), MAP, Access::Write)?;
    for (number, bucket) in (0..).zip(&names.buckets) {
        memory.write(number, bucket);
    }
    Ok(table)
}

fn refused(source: MapError) -> Error {
    Error::Map {
        map: "policy tables",
        source,
    }
}

/// Puts compiled policies in force, for these devices and with what is learned of addresses.
pub(super) fn install(
    books: &Books,
    directory: &Path,
    compiled: &Compiled,
    who: &DeviceRules,
    learned: &HashMap<(Mac, IpAddr), u64>,
    announce: impl FnOnce(u32),
) -> Result<Installed, Error> {
    let mut tables = Tables::open(directory)?;

    let before = books.settings.generation().load(Ordering::Acquire);
    // 0 is the generation of what was never judged.
    let generation = before.checked_add(1).unwrap_or(2);
    let side = generation & 1;
    // A daemon that was killed here may have left half a policy.
    tables.clear(side).map_err(refused)?;
    tables.write(side, compiled, who, learned)?;
    let of_side = |offset, word: u64| {
        books
            .settings
            .word(0, offset + side as usize * size_of::<u64>())
            .store(word, Ordering::Release);
    };
    of_side(offset_of!(Settings, default_rules), who.default);
    of_side(offset_of!(Settings, name_rules), compiled.name_rules);
    of_side(offset_of!(Settings, strict_rules), compiled.strict_rules);
    of_side(offset_of!(Settings, name_secret), compiled.names.secret);
    let mask = offset_of!(Settings, name_mask) + side as usize * size_of::<u32>();
    books
        .settings
        .half(0, mask)
        .store(compiled.names.buckets.len() as u32 - 1, Ordering::Release);
    announce(generation);
    books
        .settings
        .generation()
        .store(generation, Ordering::Release);
    let installed = Installed {
        generation,
        policies: compiled.policies,
        prefixes: compiled.prefixes.len() as u64,
        names: compiled.names.count,
    };
    let told = [
        (offset_of!(Settings, policies), installed.policies),
        (offset_of!(Settings, prefixes), installed.prefixes),
        (offset_of!(Settings, names), installed.names),
    ];
    for (offset, count) in told {
        books
            .settings
            .word(0, offset)
            .store(count, Ordering::Relaxed);
    }
    grace_period();
    let left = before & 1;
    tables.clear(left).map_err(refused)?;
    // The memory of the old table: an array of one bucket stands in its place.
    let none = name_table(&NameTable::default())?;
    tables.names.set(left, &none, 0).map_err(refused)?;
    Ok(installed)
}

/// Says anew which rules apply to which device, and has every flow decided again.
pub(super) fn set_devices(
    books: &Books,
    directory: &Path,
    before: &DeviceRules,
    who: &DeviceRules,
    announce: impl FnOnce(u32),
) -> Result<(), Error> {
    let mut tables = Tables::open(directory)?;
    let generation = books.settings.generation().load(Ordering::Acquire);
    let side = generation & 1;
    for (mac, rules) in &who.devices {
        if before.devices.get(mac) != Some(rules) {
            tables.set_device(side, *mac, *rules)?;
        }
    }
    books
        .settings
        .word(
            0,
            offset_of!(Settings, default_rules) + side as usize * size_of::<u64>(),
        )
        .store(who.default, Ordering::Release);
    for mac in before
        .devices
        .keys()
        .filter(|mac| !who.devices.contains_key(*mac))
    {
        let key = DeviceRulesKey {
            mac: *mac,
            side: side as u16,
        };
        tables.devices.remove(&Raw(key)).map_err(refused)?;
    }
    let next = generation.checked_add(2).unwrap_or(2 + side);
    announce(next);
    books.settings.generation().store(next, Ordering::Release);
    Ok(())
}

/// Says which rules refuse every name that a device knows at an address; none: it is forgotten.
pub(super) fn set_learned(
    books: &Books,
    directory: &Path,
    learned: impl IntoIterator<Item = ((Mac, IpAddr), u64)>,
) -> Result<(), Error> {
    let mut tables = Tables::open(directory)?;
    let side = books.settings.generation().load(Ordering::Acquire) & 1;
    let mut learned = learned.into_iter();
    learned.try_for_each(|(place, rules)| tables.set_learned(side, place, rules))
}

/// The sets of rules at addresses, by device, of the side that is in force.
#[cfg(test)]
pub(super) fn learned(
    books: &Books,
    directory: &Path,
) -> Result<HashMap<(Mac, IpAddr), u64>, Error> {
    let tables = Tables::open(directory)?;
    let side = books.settings.generation().load(Ordering::Acquire) & 1;
    let mut learned = HashMap::new();
    for entry in tables.learned.iter() {
        let (Raw(key), rules) = entry.map_err(refused)?;
        if u32::from(key.side) == side {
            let [a, b, c, d, ..] = key.address;
            let address = match key.family == Family::V4 as u8 {
                true => IpAddr::from([a, b, c, d]),
                false => key.address.into(),
            };
            learned.insert((Mac::new(key.mac), address), rules);
        }
    }
    Ok(learned)
}

/// The identity of each policy: that of its name, kept over reloads and restarts.
pub(super) fn identities<'n>(
    books: &Books,
    directory: &Path,
    policies: impl IntoIterator<Item = &'n str>,
) -> Result<HashMap<String, u16>, Error> {
    let of_map = |source| Error::Map {
        map: "POLICY_NAMES",
        source,
    };
    let known = books.policy_names()?;
    let mut next = known.len() as u32 + 1;
    let mut known: HashMap<_, _> = known.into_iter().map(|(id, name)| (name, id)).collect();
    let mut names: Array<MapData, Raw<PolicyName>> =
        Array::try_from(pinned(directory, "POLICY_NAMES")?).map_err(of_map)?;
    for policy in policies {
        if known.contains_key(policy) {
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
        let name = &policy.as_bytes()[..policy.len().min(63)];
        octets[..name.len()].copy_from_slice(name);
        names
            .set(next, Raw(PolicyName { octets }), 0)
            .map_err(of_map)?;
        known.insert(policy.to_owned(), next as u16);
        next += 1;
    }
    Ok(known)
}
