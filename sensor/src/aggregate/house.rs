//! The resolvers of the house: their answers to one device may be shown for another.
//!
//! They are the gateway itself, the resolvers that its DHCP and its router advertisements name, and those that the
//! configuration names. A device cannot make itself one of them.

use std::{collections::HashSet, net::IpAddr};

use crate::catalog::Catalog;

/// The most resolvers named by DHCP and router advertisements that are remembered; further ones are ignored.
const MAX_NAMED: usize = 64;

/// The resolvers of the house that are known beside those of the configuration.
#[derive(Debug, Default)]
pub(super) struct Resolvers {
    /// The gateway's own addresses.
    own: HashSet<IpAddr>,
    /// The resolvers that the gateway's own DHCP server and router advertisements named.
    named: HashSet<IpAddr>,
}

impl Resolvers {
    /// Replaces the gateway's own addresses.
    pub(super) fn set_own(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.own = addresses.into_iter().collect();
    }

    /// Takes the resolvers that a DHCP server or a router names; one that is not the gateway itself is ignored.
    pub(super) fn name(&mut self, server: IpAddr, resolvers: impl IntoIterator<Item = IpAddr>) {
        if !self.own.contains(&server) {
            return;
        }
        for resolver in resolvers {
            if self.named.len() < MAX_NAMED {
                self.named.insert(resolver);
            }
        }
    }

    /// Whether an address is that of a resolver of the house.
    pub(super) fn have(&self, address: IpAddr, catalog: &Catalog) -> bool {
        self.own.contains(&address)
            || self.named.contains(&address)
            || catalog.house_resolvers.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_gateway_and_the_configuration_name_resolvers() {
        let [gateway, named, stranger, theirs, written] =
            [1, 2, 3, 4, 5].map(|last| IpAddr::from([192, 168, 1, last]));
        let catalog = Catalog {
            house_resolvers: vec![written],
            ..Catalog::default()
        };
        let mut resolvers = Resolvers::default();
        resolvers.name(gateway, [named]);
        assert!(!resolvers.have(named, &catalog));
        resolvers.set_own([gateway]);
        resolvers.name(stranger, [stranger, theirs]);
        resolvers.name(gateway, [named]);
        let are = [gateway, named, stranger, theirs, written];
        let are = are.map(|address| resolvers.have(address, &catalog));
        assert_eq!(are, [true, true, false, false, true]);
    }
}
