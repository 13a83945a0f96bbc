//! The interfaces of this network namespace: which there are, how they hang together, and when that
//! changes.

use std::{collections::HashSet, io, net::IpAddr, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
    socket_with,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Error,
    netlink::{Message, Netlink, attributes, word},
    text,
};

/// Notifications of links and of their addresses (linux/rtnetlink.h, `RTMGRP_LINK`,
/// `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind (`bridge`, `vlan`, `bond`, `veth`, …); empty for a network card.
    pub kind: String,
    /// The number of the bridge or bond that it is a member of; 0 where of none.
    pub master: u32,
    /// The number of the interface on which it stands (of a VLAN its parent); 0 where on none here.
    pub lower: u32,
    /// Its MAC address, where it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// The XDP programs on it.
    pub xdp: Vec<u32>,
}

impl Link {
    /// Whether it is a bond, whose frames are those of its members.
    pub fn is_bond(&self) -> bool {
        self.kind == "bond"
    }
}

/// All interfaces at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links(Vec<Link>);

impl Links {
    /// Looks at all interfaces of this network namespace.
    ///
    /// # Errors
    ///
    /// When the kernel does not list them.
    pub fn look() -> Result<Self, Error> {
        let read = || Self::read(&mut Netlink::route()?);
        read().map_err(refused)
    }

    pub(super) fn read(netlink: &mut Netlink) -> io::Result<Self> {
        const GETLINK: u16 = 18;
        const EXT_MASK: u16 = 29;
        /// `RTEXT_FILTER_SKIP_STATS`: an interface's counters are most of the answer about it.
        const SKIP_STATS: u32 = 1 << 3;

        let message = || {
            let mut message = Message::new(GETLINK, 0, &[0; IFINFO]);
            message.add(EXT_MASK, &SKIP_STATS.to_ne_bytes());
            message
        };
        netlink.list(message, Self::default, |links, body| {
            links.0.extend(link(body));
        })
    }

    /// Interfaces made up for a test.
    #[cfg(test)]
    pub(super) fn of(links: Vec<Link>) -> Self {
        Self(links)
    }

    /// The interface of this name.
    pub fn named(&self, name: &str) -> Option<&Link> {
        self.0.iter().find(|link| link.name == name)
    }

    /// The interface of this number.
    pub fn numbered(&self, index: u32) -> Option<&Link> {
        self.0.iter().find(|link| link.index == index)
    }

    /// The members of a bridge or bond.
    pub fn members(&self, of: u32) -> impl Iterator<Item = &Link> {
        self.0
            .iter()
            .filter(move |link| of != 0 && link.master == of)
    }

    /// The VLANs that stand on an interface.
    pub fn vlans_on(&self, index: u32) -> impl Iterator<Item = &Link> {
        self.0
            .iter()
            .filter(move |link| link.kind == "vlan" && link.lower == index)
    }

    /// The MAC addresses at which this machine itself is reached over a bridge: the bridge's, its ports',
    /// and those of interfaces that stand on it.
    pub fn own_addresses(&self, bridge: u32) -> HashSet<[u8; 6]> {
        let mut own = HashSet::new();
        let mut of = vec![bridge];
        let mut seen = HashSet::new();
        own.extend(self.members(bridge).filter_map(|port| port.mac));
        while let Some(index) = of.pop() {
            if !seen.insert(index) {
                continue;
            }
            own.extend(self.numbered(index).and_then(|link| link.mac));
            let above = self.0.iter().filter(|link| link.lower == index);
            of.extend(above.map(|link| link.index));
        }
        own
    }

    /// The reason why the frames of `lower` pass `upper` too; `None` where they do not.
    ///
    /// A bridge hands on the frames that its ports received, a bond those of its members, and a VLAN those
    /// that came with a tag over its parent; over several steps as well.
    pub fn relation(&self, upper: &str, lower: &str) -> Option<String> {
        let lower = self.named(lower)?;
        let start = self.named(upper)?;
        let mut paths = vec![(start, String::new())];
        let mut seen = HashSet::new();
        while let Some((link, path)) = paths.pop() {
            if !seen.insert(link.index) {
                continue;
            }
            for (below, clause) in self.below(link) {
                let path = match path.as_str() {
                    "" => clause,
                    path => format!("{path}, and {clause}"),
                };
                if below.index == lower.index {
                    return Some(path);
                }
                paths.push((below, path));
            }
        }
        None
    }

    /// The links that a link's frames pass before they reach it, each with a text about the relation.
    fn below<'a>(&'a self, link: &'a Link) -> Vec<(&'a Link, String)> {
        let is_in = match link.kind.as_str() {
            "bridge" => "a port of",
            _ => "a member of",
        };
        let mut below: Vec<_> = self
            .members(link.index)
            .map(|member| (member, format!("{} is {is_in} {}", member.name, link.name)))
            .collect();
        let stands = match link.kind.as_str() {
            "vlan" => "a VLAN on",
            "macvlan" | "macvtap" => "a macvlan on",
            "dsa" => "a switch port behind",
            _ => return below,
        };
        if let Some(lower) = self.numbered(link.lower) {
            let clause = format!("{} is {stands} {}", link.name, lower.name);
            below.push((lower, clause));
        }
        below
    }
}

/// Octets of `struct ifinfomsg` (linux/rtnetlink.h).
const IFINFO: usize = 16;

/// One interface of an answer to `RTM_GETLINK`.
fn link(body: &[u8]) -> Option<Link> {
    // Of linux/if_link.h.
    const ADDRESS: u16 = 1;
    const IFNAME: u16 = 3;
    const LINK: u16 = 5;
    const MASTER: u16 = 10;
    const LINKINFO: u16 = 18;
    const INFO_KIND: u16 = 1;
    const LINK_NETNSID: u16 = 37;
    const XDP: u16 = 43;
    /// `IFLA_XDP_PROG_ID` to `IFLA_XDP_HW_PROG_ID`.
    const PROGRAM_IDS: std::ops::RangeInclusive<u16> = 4..=7;

    let mut link = Link {
        index: word(body, 4)?,
        ..Link::default()
    };
    let mut is_lower_elsewhere = false;
    for (kind, value) in attributes(body.get(IFINFO..)?) {
        match kind {
            ADDRESS => link.mac = value.try_into().ok(),
            IFNAME => link.name = text(value),
            LINK => link.lower = word(value, 0)?,
            MASTER => link.master = word(value, 0)?,
            LINK_NETNSID => is_lower_elsewhere = true,
            LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            XDP => {
                link.xdp = attributes(value)
                    .filter(|(kind, _)| PROGRAM_IDS.contains(kind))
                    .filter_map(|(_, value)| word(value, 0))
                    .collect();
            }
            _ => {}
        }
    }
    if is_lower_elsewhere || link.kind == "veth" {
        // A number of another namespace, or the other end of a cable.
        link.lower = 0;
    }
    Some(link)
}

/// The addresses of this network namespace's own interfaces.
///
/// # Errors
///
/// When the kernel does not list them.
pub fn own_addresses() -> Result<HashSet<IpAddr>, Error> {
    const GETADDR: u16 = 22;
    let message = || Message::new(GETADDR, 0, &[0; IFADDR]);
    let read = || {
        Netlink::route()?.list(message, HashSet::new, |addresses, body| {
            addresses.extend(own_address(body));
        })
    };
    read().map_err(|source| Error::System {
        what: "the addresses of interfaces cannot be listed",
        source,
    })
}

/// Octets of `struct ifaddrmsg` (linux/if_addr.h).
const IFADDR: usize = 8;

/// One address of an answer to `RTM_GETADDR`.
fn own_address(body: &[u8]) -> Option<IpAddr> {
    // Of linux/if_addr.h: the first is the other end's where a link has two ends.
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;

    let find = |wanted| {
        let mut all = attributes(body.get(IFADDR..)?);
        all.find_map(|(kind, value)| (kind == wanted).then_some(value))
    };
    let value = find(LOCAL).or_else(|| find(ADDRESS))?;
    match value.len() {
        4 => value.first_chunk::<4>().map(|octets| (*octets).into()),
        16 => value.first_chunk::<16>().map(|octets| (*octets).into()),
        _ => None,
    }
}

fn refused(source: io::Error) -> Error {
    Error::System {
        what: "the interfaces cannot be listed",
        source,
    }
}

/// Notices of the kernel that some interface of this network namespace changed, or its addresses.
///
/// Which one and how is not read: a subscriber looks at all interfaces it cares for, and so misses nothing
/// when notices are lost.
pub struct LinkChanges {
    socket: AsyncFd<OwnedFd>,
}

impl LinkChanges {
    /// Subscribes.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the socket.
    pub fn subscribe() -> Result<Self, Error> {
        let refused = |source| Error::System {
            what: "interfaces cannot be watched",
            source,
        };
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|errno| refused(errno.into()))?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS)).map_err(|errno| refused(errno.into()))?;
        // SAFETY: the descriptor is owned, never exchanged, and closed with the registration.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
            .map_err(|error| refused(error.into()))?;
        Ok(Self { socket })
    }

    /// Waits for a change; several close together are one.
    ///
    /// # Errors
    ///
    /// When the socket cannot be waited on.
    pub async fn next(&mut self) -> Result<(), Error> {
        let refused = |source| Error::System {
            what: "interfaces cannot be watched",
            source,
        };
        let mut ready = self.socket.readable_mut().await.map_err(refused)?;
        let mut notice = [0; 8192];
        // Lost notices (ENOBUFS) are a change like any other.
        while recv(ready.get_inner(), &mut notice[..], RecvFlags::DONTWAIT).is_ok() {}
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        let link = |index, name: &str, kind: &str, master, lower| Link {
            index,
            name: name.to_owned(),
            kind: kind.to_owned(),
            master,
            lower,
            mac: Some([2, 0, 0, 0, 0, index as u8]),
            ..Link::default()
        };
        Links::of(vec![
            link(1, "eth0", "", 4, 0),
            link(2, "eth1", "", 0, 0),
            link(3, "br-lan", "bridge", 0, 0),
            link(4, "bond0", "bond", 0, 0),
            link(5, "bond0.7", "vlan", 3, 4),
            link(6, "br-lan.10", "vlan", 0, 3),
            link(7, "lan9", "veth", 3, 0),
        ])
    }

    #[test]
    fn frames_that_come_by_twice_are_told_from_those_that_do_not() {
        let links = links();
        let relation = |upper, lower| links.relation(upper, lower);
        assert_eq!(
            relation("br-lan", "lan9").as_deref(),
            Some("lan9 is a port of br-lan")
        );
        assert_eq!(
            relation("br-lan.10", "br-lan").as_deref(),
            Some("br-lan.10 is a VLAN on br-lan")
        );
        assert_eq!(
            relation("bond0", "eth0").as_deref(),
            Some("eth0 is a member of bond0")
        );
        assert_eq!(
            relation("br-lan", "eth0").as_deref(),
            Some(
                "bond0.7 is a port of br-lan, and bond0.7 is a VLAN on bond0, and eth0 is a member \
                 of bond0"
            )
        );
        assert_eq!(relation("lan9", "br-lan"), None);
        assert_eq!(relation("br-lan", "eth1"), None);
        assert_eq!(relation("lan9", "bond0.7"), None);
        assert_eq!(relation("br-lan", "nothing"), None);
    }

    #[test]
    fn the_machines_own_addresses_on_a_bridge() {
        let own = links().own_addresses(3);
        let of = |index| [2, 0, 0, 0, 0, index];
        assert_eq!(own, HashSet::from([of(3), of(5), of(6), of(7)]));
    }
}
