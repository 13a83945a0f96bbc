//! The maps by which programs at bridges' ports are told the machine's own addresses and the ports.

use std::{collections::HashMap, hash::Hash};

use aya::{
    Ebpf,
    maps::{HashMap as KernelHashMap, Map, MapError},
};
use sensor_ebpf::parse::Mac;

use super::target::{Part, Target};
use crate::source::kernel::{
    Error,
    failed::{of_map, removed, retried},
    links::Links,
};

/// Entries of the maps for bridges: the machine's own addresses, and the ports.
pub(super) struct PortEntries {
    own: Entries<u64>,
    ports: Entries<u32>,
}

impl Default for PortEntries {
    fn default() -> Self {
        Self {
            own: Entries::of("OWN_ADDRESSES"),
            ports: Entries::of("PORTS"),
        }
    }
}

impl PortEntries {
    /// Tells the programs at bridges' ports which addresses are the machine's own, and which ports there
    /// are. `all`: earlier entries that are not among these are removed.
    ///
    /// # Errors
    ///
    /// The first reason why one of them cannot be told; all others were.
    pub(super) fn tell(
        &mut self,
        object: &mut Ebpf,
        links: &Links,
        targets: &[Target<'_>],
        all: bool,
    ) -> Result<(), Error> {
        let mut own = HashMap::new();
        let mut ports = HashMap::new();
        for target in targets {
            match target.part {
                Part::Bridge => {
                    let addresses = links.own_addresses(target.link.index).into_iter();
                    own.extend(addresses.map(|address| (Mac::new(address).word(), 1)));
                }
                Part::Port { local } => {
                    ports.insert(target.link.index, u32::from(local));
                }
                Part::Whole => {}
            }
        }
        let own = self.own.tell(object, own, all);
        let ports = self.ports.tell(object, ports, all);
        own.and(ports)
    }
}

/// The entries of a map of the object.
struct Entries<K> {
    map: &'static str,
    told: HashMap<K, u32>,
}

impl<K: aya::Pod + Eq + Hash> Entries<K> {
    fn of(map: &'static str) -> Self {
        Self {
            map,
            told: HashMap::new(),
        }
    }

    fn tell(&mut self, object: &mut Ebpf, wanted: HashMap<K, u32>, all: bool) -> Result<(), Error> {
        let name = self.map;
        let mut map: KernelHashMap<_, K, u32> = of_object(object, name)?;
        let mut outcome = Ok(());
        if all {
            let gone = self.told.keys().filter(|key| !wanted.contains_key(*key));
            for key in gone.copied().collect::<Vec<_>>() {
                match removed(name, || map.remove(&key)) {
                    Ok(()) => drop(self.told.remove(&key)),
                    Err(error) => outcome = outcome.and(Err(error)),
                }
            }
        }
        for (key, value) in wanted {
            if self.told.get(&key) == Some(&value) {
                continue;
            }
            match retried(name, || map.insert(key, value, 0)) {
                Ok(()) => {
                    self.told.insert(key, value);
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }
}

/// A map of the object that is not pinned: it lives with the programs.
fn of_object<'o, T>(object: &'o mut Ebpf, map: &'static str) -> Result<T, Error>
where
    T: TryFrom<&'o mut Map, Error = MapError>,
{
    let found = object.map_mut(map).ok_or(Error::ForeignLayout)?;
    T::try_from(found).map_err(of_map(map))
}
