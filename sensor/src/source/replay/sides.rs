//! Which end of a packet is the device's, and which address the device has on its link.
//!
//! The kernel knows both from the interface. A capture does not say: the local side is the one that the
//! user names, or else the one that began.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use sensor_ebpf::{
    flow::Direction,
    packet::Packet as _,
    parse::{Address, Family, Fragment, Mac, Parsed, protocol, tcp_flag},
};

use super::{
    frame::{Frame, Framed},
    hashing::Multilinear,
};

/// The sides that began the connections of one capture.
#[derive(Debug, Default)]
pub(super) struct Sides {
    lan: Vec<IpNet>,
    connections: HashMap<Connection, Local, Multilinear>,
    /// By connection without ports, whether its lower end sends, and identification.
    fragments: HashMap<(Connection, bool, u32), Local, Multilinear>,
    /// Addresses that began a connection.
    beginners: HashSet<(u8, Address), Multilinear>,
}

/// Connections and addresses that are remembered; of further ones each packet is judged by itself.
const MAX_CONNECTIONS: usize = 1 << 20;

/// Packets of which the first fragment is remembered, before all of them are forgotten.
const MAX_FRAGMENTS: usize = 4_096;

/// The other side's address on a link that has none: locally administered, and of no device.
const ROUTER: Mac = Mac::new([0x02, 0, 0, 0, 0, 0]);

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct End {
    high: u64,
    low: u64,
    port: u16,
}

/// Both ends, the lower one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Connection {
    lower: End,
    upper: End,
    /// The family in the upper half.
    protocol: u16,
}

/// The decision about a connection at its first packet.
#[derive(Clone, Copy, Debug)]
struct Local {
    is_lower: bool,
    mac: Mac,
}

impl Sides {
    /// For one capture; addresses in `lan` are local, whichever side began.
    pub(super) fn new(lan: &[IpNet]) -> Self {
        Self {
            lan: lan.to_vec(),
            ..Self::default()
        }
    }

    /// Finds the direction of a frame, and gives it the addresses that make its connection one flow.
    ///
    /// Of a frame that is not IP the source is the device.
    pub(super) fn settle(&mut self, framed: &mut Framed<'_>, parsed: &mut Parsed) -> Direction {
        if framed.destination.is_none() {
            framed.destination = group(parsed);
        }
        let (direction, device) = match parsed.family {
            Family::Other => (Direction::Upload, framed.source.unwrap_or(ROUTER)),
            Family::V4 | Family::V6 => self.of_ip(framed, parsed),
        };
        let (source, destination) = match direction {
            Direction::Upload => (device, framed.destination.unwrap_or(ROUTER)),
            Direction::Download => (framed.source.unwrap_or(ROUTER), device),
        };
        framed.frame.set_macs(source, destination);
        parsed.source_mac = source;
        parsed.destination_mac = destination;
        direction
    }

    fn of_ip(&mut self, framed: &Framed<'_>, parsed: &Parsed) -> (Direction, Mac) {
        let (connection, source_is_lower) = Connection::of(parsed);
        let local = match self.known(connection, source_is_lower, parsed) {
            Some(local) => local,
            None => {
                let source_is_local = self.source_is_local(&framed.frame, parsed);
                self.decide(
                    framed,
                    parsed,
                    connection,
                    source_is_local == source_is_lower,
                )
            }
        };
        if let Fragment::First(identification) = parsed.fragment() {
            if self.fragments.len() >= MAX_FRAGMENTS {
                self.fragments.clear();
            }
            let piece = (connection.without_ports(), source_is_lower, identification);
            self.fragments.insert(piece, local);
        }
        let (direction, on_link) = match local.is_lower == source_is_lower {
            true => (Direction::Upload, framed.source),
            false => (Direction::Download, framed.destination),
        };
        // A group is no device: frames of a group address are booked as multicast.
        let group = on_link.filter(|mac| mac.is_group());
        (direction, group.unwrap_or(local.mac))
    }

    fn known(
        &self,
        connection: Connection,
        source_is_lower: bool,
        parsed: &Parsed,
    ) -> Option<Local> {
        if let Fragment::Later(identification) = parsed.fragment() {
            let piece = (connection.without_ports(), source_is_lower, identification);
            if let Some(local) = self.fragments.get(&piece) {
                return Some(*local);
            }
        }
        self.connections.get(&connection).copied()
    }

    /// Notes which end of a connection is the device, at its first packet.
    fn decide(
        &mut self,
        framed: &Framed<'_>,
        parsed: &Parsed,
        connection: Connection,
        is_lower: bool,
    ) -> Local {
        let (end, on_link) = match is_lower {
            true => (connection.lower, connection.lower.is_source(parsed)),
            false => (connection.upper, connection.upper.is_source(parsed)),
        };
        let on_link = match on_link {
            true => framed.source,
            false => framed.destination,
        };
        let address = end.address();
        let own = on_link.filter(|mac| !mac.is_group());
        let local = Local {
            is_lower,
            mac: own.unwrap_or_else(|| made_up(parsed.family, address)),
        };
        // Devices that have no address yet share one: they are told apart by their MAC.
        let shared = address == Address::default();
        let for_group = own.is_none() && on_link.is_some();
        if !shared && !for_group && self.connections.len() < MAX_CONNECTIONS {
            self.connections.insert(connection, local);
            self.beginners.insert((parsed.family as u8, address));
        }
        local
    }

    /// Decides about a packet of a connection that was not seen before.
    fn source_is_local(&self, frame: &Frame<'_>, parsed: &Parsed) -> bool {
        if let Some(source_is_local) = self.by_lan(parsed) {
            return source_is_local;
        }
        parsed.source == Address::default() || self.source_begins(frame, parsed)
    }

    fn by_lan(&self, parsed: &Parsed) -> Option<bool> {
        if self.lan.is_empty() {
            return None;
        }
        let is_local = |address: Address| {
            let [a, b, c, d, ..] = address.octets();
            let address = match parsed.family {
                Family::V6 => IpAddr::from(address.octets()),
                Family::V4 | Family::Other => IpAddr::from([a, b, c, d]),
            };
            self.lan.iter().any(|network| network.contains(&address))
        };
        match (is_local(parsed.source), is_local(parsed.destination)) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            (true, true) | (false, false) => None,
        }
    }

    /// Whether the sender of a connection's first packet began it: the packet or the ports show it, or
    /// nothing speaks against it.
    fn source_begins(&self, frame: &Frame<'_>, parsed: &Parsed) -> bool {
        const BOTH: u8 = tcp_flag::SYN | tcp_flag::ACK;
        match parsed.protocol {
            protocol::TCP if parsed.transport_header_len != 0 => match parsed.tcp_flags & BOTH {
                tcp_flag::SYN => return true,
                BOTH => return false,
                _ => {}
            },
            protocol::ICMP | protocol::ICMPV6 => {
                if let Some([kind]) = frame.load(parsed.transport_offset)
                    && is_answer(parsed.protocol, kind)
                {
                    return false;
                }
            }
            _ => {}
        }
        if let Some(source_begins) = by_ports(parsed.ports.first(), parsed.ports.second()) {
            return source_begins;
        }
        if parsed.protocol == protocol::UDP {
            return true;
        }
        // In the middle of something.
        let began = |address| self.beginners.contains(&(parsed.family as u8, address));
        match (began(parsed.source), began(parsed.destination)) {
            (true, false) => return true,
            (false, true) => return false,
            _ => {}
        }
        let private = |address| is_private(parsed.family, address);
        private(parsed.source) || !private(parsed.destination)
    }
}

impl Connection {
    /// The connection of a packet, and whether its source is the lower end.
    fn of(parsed: &Parsed) -> (Self, bool) {
        let source = End::source(parsed);
        let destination = End {
            high: parsed.destination.high,
            low: parsed.destination.low,
            port: parsed.ports.second(),
        };
        let source_is_lower = source <= destination;
        let (lower, upper) = match source_is_lower {
            true => (source, destination),
            false => (destination, source),
        };
        let protocol = u16::from(parsed.protocol) | (parsed.family as u16) << 8;
        let connection = Self {
            lower,
            upper,
            protocol,
        };
        (connection, source_is_lower)
    }

    fn without_ports(self) -> Self {
        let mut connection = self;
        connection.lower.port = 0;
        connection.upper.port = 0;
        connection
    }
}

impl End {
    fn source(parsed: &Parsed) -> Self {
        Self {
            high: parsed.source.high,
            low: parsed.source.low,
            port: parsed.ports.first(),
        }
    }

    fn is_source(self, parsed: &Parsed) -> bool {
        self == Self::source(parsed)
    }

    fn address(self) -> Address {
        Address {
            high: self.high,
            low: self.low,
        }
    }
}

/// Whether the sender began, where one of the ports is a service's; `None` where they do not say.
fn by_ports(source: u16, destination: u16) -> Option<bool> {
    // The client's, and the server's behind it.
    const DHCP: [(u16, u16); 2] = [(68, 67), (546, 547)];
    let is_service = |port| (1..1024).contains(&port);
    if DHCP.contains(&(source, destination)) {
        return Some(true);
    }
    if DHCP.contains(&(destination, source)) {
        return Some(false);
    }
    match (is_service(source), is_service(destination)) {
        (true, false) => Some(false),
        (false, true) => Some(true),
        (true, true) | (false, false) => None,
    }
}

/// ICMP messages that a packet of the other side led to (RFC 792; RFC 4443, section 2.1).
fn is_answer(protocol: u8, kind: u8) -> bool {
    match protocol {
        // Echo reply, unreachable, quench, time exceeded, parameter problem, timestamp reply.
        protocol::ICMP => matches!(kind, 0 | 3 | 4 | 11 | 12 | 14),
        // Errors, and the echo reply.
        _ => matches!(kind, 1..=4 | 129),
    }
}

fn is_private(family: Family, address: Address) -> bool {
    let octets = address.octets();
    match family {
        Family::V6 => {
            let address = Ipv6Addr::from(octets);
            address.is_unique_local() || address.is_unicast_link_local()
        }
        Family::V4 | Family::Other => {
            let [a, b, c, d, ..] = octets;
            let address = Ipv4Addr::new(a, b, c, d);
            // RFC 6598 as well: behind a provider's translation.
            address.is_private() || address.is_link_local() || (a == 100 && b & 0xc0 == 64)
        }
    }
}

/// The group address of a packet to a group (RFC 1112, section 6.4; RFC 2464, section 7), for links
/// that have no addresses.
fn group(parsed: &Parsed) -> Option<Mac> {
    let [a, b, c, d, .., m, n, o, p] = parsed.destination.octets();
    match parsed.family {
        Family::V4 if [a, b, c, d] == [255; 4] => Some(Mac::new([0xff; 6])),
        Family::V4 if a & 0xf0 == 0xe0 => Some(Mac::new([0x01, 0x00, 0x5e, b & 0x7f, c, d])),
        Family::V6 if a == 0xff => Some(Mac::new([0x33, 0x33, m, n, o, p])),
        _ => None,
    }
}

/// An address for a device whose link has none: locally administered (IEEE 802, section 8.4), and
/// the same for the same IP address.
fn made_up(family: Family, address: Address) -> Mac {
    let [a, b, c, d, ..] = address.octets();
    match family {
        Family::V4 | Family::Other => Mac::new([0x02, 0x04, a, b, c, d]),
        Family::V6 => {
            // FNV-1a.
            let hash = address
                .octets()
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
                    (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
                });
            let [a, b, c, d, e, ..] = hash.to_be_bytes();
            Mac::new([0x06, a, b, c, d, e])
        }
    }
}
