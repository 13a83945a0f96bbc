//! What is known beforehand: lists, resolvers, databases of networks, and what the configuration
//! says of devices.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use sensor_ebpf::parse::{Mac, protocol};

use super::{
    identity::Override,
    party::{
        domain,
        hidden::{Hidden, Resolvers},
        lists::Lists,
        networks::Networks,
    },
    traffic::PartyInfo,
};
use crate::config::{Config, List, Parties};

/// Parties of a device that have series of their own, where nothing else is said.
pub const TOP_PARTIES: u32 = 20;

/// What is known beforehand. Exchanged as a whole at a reload.
pub struct Knowledge {
    /// Owners and categories of names.
    pub lists: Lists,
    /// Who answers questions that nobody else can read.
    pub resolvers: Resolvers,
    /// Countries and networks of addresses.
    pub networks: Networks,
    /// Parties of a device that have series of their own.
    pub top: usize,
}

impl Default for Knowledge {
    fn default() -> Self {
        Self {
            lists: Lists::builtin(),
            resolvers: Resolvers::builtin(),
            networks: Networks::default(),
            top: TOP_PARTIES as usize,
        }
    }
}

impl Knowledge {
    /// What a configuration names: files, and the owner's own lists. A file that cannot be read is told to the log; what it would
    /// have said is not known.
    pub fn load(parties: &Parties, own: &[List]) -> Self {
        let mut lists = Lists::default();
        for list in own {
            let file = &list.file;
            match lists.add_file(file, list.category, list.owner.as_deref()) {
                Ok(report) if report.bad > 0 => tracing::warn!(
                    "{}: {} lines are not used; `sensor check` shows the first of them",
                    file.display(),
                    report.bad
                ),
                Ok(_) => {}
                Err(error) => tracing::warn!("{}: {error}", file.display()),
            }
        }
        // After the owner's own: of entries for the same name, the first counts.
        if parties.builtin_lists {
            lists.add_builtin();
        }
        lists.shrink();
        let mut networks = Networks::default();
        for file in &parties.networks {
            if let Err(error) = networks.add_file(file) {
                tracing::warn!("{}: {error}", file.display());
            }
        }
        let mut resolvers = Resolvers::builtin();
        resolvers.add(&lists);
        Self {
            lists,
            resolvers,
            networks,
            top: parties.top as usize,
        }
    }
}

impl std::fmt::Debug for Knowledge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Knowledge")
            .field("names", &self.lists.len())
            .field("networks", &self.networks.len())
            .finish_non_exhaustive()
    }
}

impl Knowledge {
    /// What is known of the party at an address, by its name if it has one. The party of a name is
    /// its registrable domain.
    pub fn about(&self, name: Option<&str>, address: IpAddr) -> PartyInfo {
        let listed = match name {
            Some(name) => self.lists.find(name),
            None => self.lists.find_address(address),
        };
        PartyInfo {
            name: match name {
                Some(name) => domain::registrable(name).unwrap_or(name).into(),
                None if is_local(address) => "local".into(),
                None => address.to_string().into(),
            },
            owner: listed
                .as_ref()
                .and_then(|listed| listed.owner)
                .map(Arc::from),
            category: listed.and_then(|listed| listed.category),
            network: self.networks.find(address),
        }
    }

    /// Why the name of a flow is not all there is to know; `None` where it is.
    pub fn hidden(&self, flow: &Shown<'_>) -> Option<Hidden> {
        const ESP: u8 = 50;
        const AH: u8 = 51;
        const GRE: u8 = 47;
        const IPV4_INSIDE: u8 = 4;
        const IPV6_INSIDE: u8 = 41;

        let tunnel = flow.is_tunnel
            || matches!(flow.protocol, ESP | AH | GRE | IPV4_INSIDE | IPV6_INSIDE)
            || self.resolvers.is_relay(flow.name, flow.protocol, flow.port);
        if tunnel {
            return Some(Hidden::Vpn);
        }
        if self
            .resolvers
            .is_encrypted_dns(flow.name, flow.remote, flow.protocol, flow.port)
        {
            return Some(Hidden::EncryptedDns);
        }
        if flow.is_ech {
            return Some(Hidden::Ech);
        }
        // A request may give an address in the place of a name.
        let has_name = flow
            .name
            .is_some_and(|name| name.parse::<IpAddr>().is_err());
        if has_name || is_local(flow.remote) || flow.is_readable {
            return None;
        }
        if flow.protocol == protocol::TCP && !flow.spoke {
            return Some(Hidden::Unseen);
        }
        Some(Hidden::Address)
    }
}

/// What a flow shows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Its name, wherever it is from.
    pub name: Option<&'a str>,
    /// The address of the other side.
    pub remote: IpAddr,
    /// IANA's number.
    pub protocol: u8,
    /// The remote port; 0 without one.
    pub port: u16,
    /// Its first octets were those of a tunnel.
    pub is_tunnel: bool,
    /// Its hello is encrypted.
    pub is_ech: bool,
    /// What it says can be read without a name: DNS, DHCP.
    pub is_readable: bool,
    /// A payload was seen.
    pub spoke: bool,
}

/// Whether an address is in the house or on the link: private, link-local, a group, or none
/// (RFC 1918, RFC 4193, RFC 4291, RFC 6890).
pub fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_private()
                || address.is_link_local()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_broadcast()
                || address.is_unspecified()
        }
        IpAddr::V6(address) => {
            address.is_unique_local()
                || address.is_unicast_link_local()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_unspecified()
        }
    }
}

/// What the configuration says of devices, by MAC address.
pub type Overrides = HashMap<Mac, Override>;

/// What a configuration says of devices.
pub fn overrides(config: &Config) -> Overrides {
    config
        .devices
        .iter()
        .map(|device| {
            let says = Override {
                name: device.name.clone(),
                kind: device.kind,
                vendor: device.vendor.clone(),
            };
            (Mac::new(device.mac), says)
        })
        .collect()
}
