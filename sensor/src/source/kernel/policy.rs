//! The one place that writes policy down into the kernel.
//!
//! The rules that [`policy`](crate::policy) compiled are written to the side of the tables that is not in
//! force; one store of the generation number then puts it in force, and after a grace period the other side
//! is cleared. The rules of devices change more often, and alone: they are written to the side in force, a
//! word for each device, and a generation that is higher by two has every flow decided again.

use std::{
    collections::HashMap,
    mem::offset_of,
    net::IpAddr,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

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
    failed::{of_map, removed, retried},
    grace_period,
    pins::pinned,
    table::{Access, Raw, Table},
};
use crate::policy::{Buckets, Compiled, NameTable};

/// The rules that apply to each device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRules {
    /// By MAC address, where they are others than `default`.
    pub devices: HashMap<[u8; 6], u64>,
    /// The rules of all other devices.
    pub default: u64,
}

/// The policies that were put in force, in numbers.
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

/// The policy tables of the kernel, held as long as the daemon runs: no policy fails for want of a
/// descriptor for one of them.
pub(super) struct Tables {
    rules: Array<MapData, Raw<Rule>>,
    chains: Array<MapData, Raw<Chain>>,
    devices: KernelHashMap<MapData, Raw<DeviceRulesKey>, u64>,
    prefixes_v4: LpmTrie<MapData, Raw<PrefixV4>, u32>,
    prefixes_v6: LpmTrie<MapData, Raw<PrefixV6>, u32>,
    names: ArrayOfMaps<MapData, Array<MapData, Raw<NameBucket>>>,
    learned: KernelHashMap<MapData, Raw<LearnedKey>, u64>,
    identities: Array<MapData, Raw<PolicyName>>,
}

impl Tables {
    /// Opens the tables by their pins.
    ///
    /// # Errors
    ///
    /// The error that the kernel gives.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        fn open<T: TryFrom<aya::maps::Map, Error = MapError>>(
            directory: &Path,
            map: &'static str,
        ) -> Result<T, Error> {
            T::try_from(pinned(directory, map)?).map_err(of_map(map))
        }
        Ok(Self {
            rules: open(directory, "RULES")?,
            chains: open(directory, "CHAINS")?,
            devices: open(directory, "DEVICE_RULES")?,
            prefixes_v4: open(directory, "PREFIXES_V4")?,
            prefixes_v6: open(directory, "PREFIXES_V6")?,
            names: open(directory, "NAMES")?,
            learned: open(directory, "LEARNED")?,
            identities: open(directory, "POLICY_NAMES")?,
        })
    }

    fn write(
        &mut self,
        side: u32,
        compiled: &Compiled,
        who: &DeviceRules,
        learned: &HashMap<(Mac, IpAddr), u64>,
    ) -> Result<NamesInKernel, Error> {
        let of_side = |capacity: usize, number: usize| side * capacity as u32 + number as u32;
        for (number, rule) in compiled.rules.iter().enumerate() {
            retried("RULES", || {
                self.rules.set(of_side(MAX_RULES, number), Raw(*rule), 0)
            })?;
        }
        for (number, chain) in compiled.chains.iter().enumerate() {
            retried("CHAINS", || {
                self.chains.set(of_side(MAX_CHAINS, number), Raw(*chain), 0)
            })?;
        }
        for (mac, rules) in &who.devices {
            self.set_device(side, *mac, *rules)?;
        }
        for (place, rules) in learned {
            self.set_learned(side, *place, *rules)?;
        }
        let (names, memory) = name_table(&compiled.names)?;
        retried("NAMES", || self.names.set(side, &names, 0))?;
        let side = side.to_be_bytes();
        for (prefix, chain) in &compiled.prefixes {
            let bits = PREFIX_SIDE_BITS + u32::from(prefix.prefix_len());
            match prefix.addr() {
                IpAddr::V4(address) => {
                    let data = PrefixV4 {
                        side,
                        address: address.octets(),
                    };
                    let key = Key::new(bits, Raw(data));
                    retried("PREFIXES_V4", || self.prefixes_v4.insert(&key, chain, 0))?;
                }
                IpAddr::V6(address) => {
                    let data = PrefixV6 {
                        side,
                        address: address.octets(),
                    };
                    let key = Key::new(bits, Raw(data));
                    retried("PREFIXES_V6", || self.prefixes_v6.insert(&key, chain, 0))?;
                }
            }
        }
        Ok(memory)
    }

    /// The rules of devices of a side, as the kernel has them.
    fn devices_of(&self, side: u32) -> Result<HashMap<[u8; 6], u64>, Error> {
        let mut devices = HashMap::new();
        for entry in self.devices.iter() {
            let (Raw(key), rules) = entry.map_err(of_map("DEVICE_RULES"))?;
            if u32::from(key.side) == side {
                devices.insert(key.mac, rules);
            }
        }
        Ok(devices)
    }

    fn set_device(&mut self, side: u32, mac: [u8; 6], rules: u64) -> Result<(), Error> {
        let key = DeviceRulesKey {
            mac,
            side: side as u16,
        };
        retried("DEVICE_RULES", || self.devices.insert(Raw(key), rules, 0))
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
            0 => removed("LEARNED", || self.learned.remove(&key)),
            _ => retried("LEARNED", || self.learned.insert(key, rules, 0)),
        }
    }

    /// Removes a side's entries that have keys; its rules, chains and names are overwritten when the side
    /// is used.
    fn clear(&mut self, side: u32) -> Result<(), Error> {
        let devices = keys("DEVICE_RULES", self.devices.keys(), |Raw(key)| {
            u32::from(key.side) == side
        })?;
        for key in devices {
            removed("DEVICE_RULES", || self.devices.remove(&key))?;
        }
        let learned = keys("LEARNED", self.learned.keys(), |Raw(key)| {
            u32::from(key.side) == side
        })?;
        for key in learned {
            removed("LEARNED", || self.learned.remove(&key))?;
        }
        let side = side.to_be_bytes();
        clear_prefixes("PREFIXES_V4", &mut self.prefixes_v4, |prefix| {
            prefix.side == side
        })?;
        clear_prefixes("PREFIXES_V6", &mut self.prefixes_v6, |prefix| {
            prefix.side == side
        })
    }

    /// Clears the side that was left, and gives back the memory of its table of names: an array of one
    /// bucket stands in its place.
    fn leave(&mut self, side: u32) -> Result<(), Error> {
        self.clear(side)?;
        let (none, _) = name_table(&NameTable::default())?;
        retried("NAMES", || self.names.set(side, &none, 0))
    }
}

/// A table of names in the kernel's memory: written before it is put in force, and never again.
struct NamesInKernel(Table<NameBucket>);

impl AsRef<[NameBucket]> for NamesInKernel {
    fn as_ref(&self) -> &[NameBucket] {
        // SAFETY: nobody writes to the table any more, and it is mapped as long as `self` lives.
        unsafe { self.0.as_slice() }
    }
}

/// The keys of a map that are of one side.
fn keys<K>(
    map: &'static str,
    keys: impl Iterator<Item = Result<K, MapError>>,
    is_of_side: impl Fn(&K) -> bool,
) -> Result<Vec<K>, Error> {
    let of_side = keys.filter(|key| key.as_ref().map_or(true, &is_of_side));
    of_side.collect::<Result<_, _>>().map_err(of_map(map))
}

fn clear_prefixes<P: Wire>(
    map: &'static str,
    prefixes: &mut LpmTrie<MapData, Raw<P>, u32>,
    of_side: impl Fn(&P) -> bool,
) -> Result<(), Error> {
    let keys = keys(map, prefixes.keys(), |key| of_side(&key.data().0))?;
    for key in keys {
        removed(map, || prefixes.remove(&key))?;
    }
    Ok(())
}

/// Flags of the kernel's user API (`linux/bpf.h`).
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// A table of names in the kernel, as large as it has to be, and its memory.
fn name_table(
    names: &NameTable,
) -> Result<(Array<MapData, Raw<NameBucket>>, NamesInKernel), Error> {
    const MAP: &str = "a table of names";

    let size = names.buckets.len() as u32;
    let table = retried(MAP, || {
        Array::create(size, BPF_F_MMAPABLE | BPF_F_INNER_MAP)
    })?;
    // Written as memory: a call for each bucket would take longer than all the rest.
    let memory = Table::<NameBucket>::map(table.map(), MAP, Access::Write)?;
    // SAFETY: the table was made just now, and no program knows it yet.
    unsafe { memory.fill(&names.buckets) };
    for (number, bucket) in &names.changes {
        memory.write(*number as u32, bucket);
    }
    Ok((table, NamesInKernel(memory)))
}

/// A table of names with nothing in it.
pub(super) fn empty_name_table() -> Result<Array<MapData, Raw<NameBucket>>, Error> {
    name_table(&NameTable::default()).map(|(table, _)| table)
}

/// Puts compiled policies in force, for these devices and with the rules learned for addresses. Their table
/// of names is in the kernel's memory alone from then on.
///
/// # Errors
///
/// When the kernel refuses a map: the earlier policies stay in force, and nothing of the new ones stays. A
/// failure once these are in force is counted, and its step is done the next time.
pub(super) fn install(
    books: &Books,
    tables: &mut Tables,
    mut compiled: Compiled,
    who: &DeviceRules,
    learned: &HashMap<(Mac, IpAddr), u64>,
    announce: impl FnOnce(u32, Arc<Compiled>),
) -> Result<Installed, Error> {
    let before = books.settings.generation().load(Ordering::Acquire);
    // 0 is the generation of flows that were never judged.
    let generation = before.checked_add(1).unwrap_or(2);
    let side = generation & 1;
    // A daemon that was killed here may have left half a policy.
    let written = (tables.clear(side)).and_then(|()| tables.write(side, &compiled, who, learned));
    match written {
        Ok(names) => {
            compiled.names.buckets = Buckets::Kernels(Arc::new(names));
            compiled.names.changes.clear();
        }
        Err(error) => {
            // Both sides share their room. Entries that cannot be removed now are removed before the next
            // policy.
            let _ = tables.clear(side);
            return Err(error);
        }
    }
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
    let installed = Installed {
        generation,
        policies: compiled.policies,
        prefixes: compiled.prefixes.len() as u64,
        names: compiled.names.count,
    };
    announce(generation, Arc::new(compiled));
    books
        .settings
        .generation()
        .store(generation, Ordering::Release);
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
    if let Err(error) = tables.leave(before & 1) {
        tracing::warn!(
            "the new policy is in force, and what is left of the old one keeps its memory until the next \
             one: {error}"
        );
    }
    Ok(installed)
}

/// Replaces the rules of devices, and has every flow decided again. `before` holds those that the kernel
/// has; `None`: they are read from it.
///
/// # Errors
///
/// When the kernel refuses the map: some devices have their new rules then, and `before` has to be `None`
/// the next time.
pub(super) fn set_devices(
    books: &Books,
    tables: &mut Tables,
    before: Option<&DeviceRules>,
    who: &DeviceRules,
    announce: impl FnOnce(u32),
) -> Result<(), Error> {
    let generation = books.settings.generation().load(Ordering::Acquire);
    let side = generation & 1;
    let before = match before {
        Some(before) => before.devices.clone(),
        None => tables.devices_of(side)?,
    };
    // First those that go: they make room.
    let gone = before.keys().filter(|mac| !who.devices.contains_key(*mac));
    for mac in gone {
        let key = DeviceRulesKey {
            mac: *mac,
            side: side as u16,
        };
        removed("DEVICE_RULES", || tables.devices.remove(&Raw(key)))?;
    }
    for (mac, rules) in &who.devices {
        if before.get(mac) != Some(rules) {
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
    let next = generation.checked_add(2).unwrap_or(2 + side);
    announce(next);
    books.settings.generation().store(next, Ordering::Release);
    Ok(())
}

/// Sets the rules that refuse every name that a device knows at an address; none: the address is forgotten.
pub(super) fn set_learned(
    books: &Books,
    tables: &mut Tables,
    learned: impl IntoIterator<Item = ((Mac, IpAddr), u64)>,
) -> Result<(), Error> {
    let side = books.settings.generation().load(Ordering::Acquire) & 1;
    let mut learned = learned.into_iter();
    learned.try_for_each(|(place, rules)| tables.set_learned(side, place, rules))
}

/// The rules by which the programs decide at the moment: everything on the side that is in force.
#[cfg(test)]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The number of the policy.
    pub generation: u32,
    /// Sets of rules by device, and that of all other devices.
    pub devices: DeviceRules,
    /// Sets of rules at addresses.
    pub learned: HashMap<(Mac, IpAddr), u64>,
    /// Prefixes, with the numbers of their chains.
    pub prefixes: std::collections::BTreeMap<Vec<u8>, u32>,
    /// The first rules, as bytes.
    pub rules: Vec<Vec<u8>>,
    /// Of the table of names the secret and the mask.
    pub names: (u64, u32),
}

/// Reads the rules by which the programs decide.
#[cfg(test)]
pub(super) fn seen(books: &Books, tables: &Tables) -> Result<Seen, Error> {
    fn bytes<T: Wire>(value: &T) -> Vec<u8> {
        // SAFETY: `Wire`: plain bytes without padding.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
            .to_vec()
    }
    let settings = books.settings();
    let side = settings.generation & 1;
    let mut seen = Seen {
        generation: settings.generation,
        names: (
            settings.name_secret[side as usize],
            settings.name_mask[side as usize],
        ),
        ..Seen::default()
    };
    seen.devices.default = settings.default_rules[side as usize];
    seen.devices.devices = tables.devices_of(side)?;
    for entry in tables.learned.iter() {
        let (Raw(key), rules) = entry.map_err(of_map("LEARNED"))?;
        if u32::from(key.side) == side {
            let [a, b, c, d, ..] = key.address;
            let address = match key.family == Family::V4 as u8 {
                true => IpAddr::from([a, b, c, d]),
                false => key.address.into(),
            };
            seen.learned.insert((Mac::new(key.mac), address), rules);
        }
    }
    for entry in tables.prefixes_v4.iter() {
        let (key, chain) = entry.map_err(of_map("PREFIXES_V4"))?;
        if key.data().0.side == side.to_be_bytes() {
            let prefix = [&[key.prefix_len() as u8][..], &key.data().0.address].concat();
            seen.prefixes.insert(prefix, chain);
        }
    }
    for number in 0..8 {
        let rule = tables.rules.get(&(side * MAX_RULES as u32 + number), 0);
        let Raw(rule) = rule.map_err(of_map("RULES"))?;
        seen.rules.push(bytes(&rule));
    }
    Ok(seen)
}

/// The identity of each policy: that of its name, kept over reloads and restarts.
pub(super) fn identities<'n>(
    books: &Books,
    tables: &mut Tables,
    policies: impl IntoIterator<Item = &'n str>,
) -> Result<HashMap<String, u16>, Error> {
    let known = books.policy_names()?;
    let mut next = known.len() as u32 + 1;
    let mut known: HashMap<_, _> = known.into_iter().map(|(id, name)| (name, id)).collect();
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
        retried("POLICY_NAMES", || {
            let identities = &mut tables.identities;
            identities.set(next, Raw(PolicyName { octets }), 0)
        })?;
        known.insert(policy.to_owned(), next as u16);
        next += 1;
    }
    Ok(known)
}
