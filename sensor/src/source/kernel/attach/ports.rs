//! What programs at bridges' ports are told.

use std::collections::{HashMap, HashSet};

use aya::{
    Ebpf,
    maps::{HashMap as KernelHashMap, Map, MapError},
};
use sensor_ebpf::parse::Mac;

use super::target::{Part, Target};
use crate::source::kernel::{Error, links::Links};

/// What they were told: the machine's own addresses, and the ports.
#[derive(Default)]
pub(super) struct Told {
    own: HashSet<[u8; 6]>,
    ports: HashMap<u32, bool>,
}

impl Told {
    /// Tells the programs at bridges' ports which addresses are the machine's own, and which ports there
    /// are. `all`: what is not among these is forgotten.
    pub(super) fn tell(
        &mut self,
        object: &mut Ebpf,
        links: &Links,
        targets: &[Target<'_>],
        all: bool,
    ) -> Result<(), Error> {
        let mut own = HashSet::new();
        let mut ports = HashMap::new();
        for target in targets {
            match target.part {
                Part::Bridge => own.extend(links.own_addresses(target.link.index)),
                Part::Port { local } => {
                    ports.insert(target.link.index, local);
                }
                Part::Whole => {}
            }
        }
        let mut addresses: KernelHashMap<_, u64, u32> = of_object(object, "OWN_ADDRESSES")?;
        let refused = |map| move |source| Error::Map { map, source };
        for address in own.difference(&self.own) {
            addresses
                .insert(Mac::new(*address).word(), 1, 0)
                .map_err(refused("OWN_ADDRESSES"))?;
        }
        if all {
            for address in self.own.difference(&own) {
                let _ = addresses.remove(&Mac::new(*address).word());
            }
        }
        let mut told: KernelHashMap<_, u32, u32> = of_object(object, "PORTS")?;
        if all {
            for ifindex in self
                .ports
                .keys()
                .filter(|ifindex| !ports.contains_key(ifindex))
            {
                let _ = told.remove(ifindex);
            }
        }
        for (ifindex, local) in &ports {
            if self.ports.get(ifindex) != Some(local) {
                told.insert(ifindex, u32::from(*local), 0)
                    .map_err(refused("PORTS"))?;
            }
        }
        match all {
            true => (self.own, self.ports) = (own, ports),
            false => {
                self.own.extend(own);
                self.ports.extend(ports);
            }
        }
        Ok(())
    }
}

/// A map of the object that is not pinned: it lives with the programs.
fn of_object<'o, T>(object: &'o mut Ebpf, map: &'static str) -> Result<T, Error>
where
    T: TryFrom<&'o mut Map, Error = MapError>,
{
    let found = object.map_mut(map).ok_or(Error::ForeignLayout)?;
    T::try_from(found).map_err(|source| Error::Map { map, source })
}
