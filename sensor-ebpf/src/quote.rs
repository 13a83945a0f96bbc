//! The quote in an ICMP error: the start of the packet that could not be delivered (RFC 792; RFC 4443, section
//! 2.4).

use crate::{
    flow::{Direction, FlowKey},
    packet::Packet,
    parse::{
        Address, Family, MAX_EXTENSION_HEADERS, Parsed, Piece, Ports, icmp, is_extension, protocol,
    },
};

/// Bytes of an ICMP error before the packet that it quotes.
const ICMP_LEN: usize = 8;

impl FlowKey {
    /// Whether a link, or a connection that is allowed, depends on a flow of ICMP: neighbour discovery
    /// that no router passed on (RFC 4861, section 7.1), and errors of which
    /// [`about_allowed`](Self::about_allowed) was said.
    #[inline(always)]
    pub const fn is_vital(&self) -> bool {
        matches!(self.protocol(), protocol::ICMP | protocol::ICMPV6)
            && (self.local_port() == icmp::VITAL || self.remote_port() == icmp::VITAL)
    }

    /// The key of ICMP errors that quote a connection that is allowed, seen in a direction: a flow
    /// apart from errors about others.
    #[inline(always)]
    pub const fn about_allowed(self, direction: Direction) -> Self {
        let sender = match direction {
            Direction::Upload => icmp::VITAL as u32,
            Direction::Download => (icmp::VITAL as u32) << 16,
        };
        self.with_ports(self.ports() | sender)
    }

    /// Whether packets of this flow, seen in a direction, quote others: destination unreachable, packet
    /// too big, time exceeded, parameter problem.
    #[inline(always)]
    pub const fn quotes(&self, direction: Direction) -> bool {
        let kind = match direction {
            Direction::Upload => self.remote_port(),
            Direction::Download => self.local_port(),
        };
        icmp::quotes(self.protocol(), kind)
    }
}

/// The key of a frame that was seen going in a direction, the types of ICMP included:
/// [`FlowKey::new`] knows the headers that the parser reads.
#[inline(always)]
pub fn key_of<P: Packet + ?Sized>(
    packet: &P,
    parsed: &Parsed,
    direction: Direction,
    ifindex: u32,
) -> FlowKey {
    let key = FlowKey::new(parsed, direction, ifindex);
    if parsed.piece == Piece::Later {
        return key;
    }
    let offsets = (parsed.network_offset, parsed.transport_offset);
    let is_piece = parsed.piece != Piece::Whole;
    match icmp_ports(packet, offsets, &key, direction, is_piece) {
        Some(ports) => key.with_ports(ports),
        None => key,
    }
}

/// The numbers in the place of ports in the key of an ICMP message, as [`FlowKey::ports`] gives them. The
/// offsets are those of the network and the transport header. `None` of other protocols, and where the message
/// is cut off before its type.
#[inline(always)]
pub fn icmp_ports<P: Packet + ?Sized>(
    packet: &P,
    (network, transport): (usize, usize),
    key: &FlowKey,
    direction: Direction,
    is_piece: bool,
) -> Option<u32> {
    const HOP_LIMIT: usize = 7;

    let protocol = key.protocol();
    if !matches!(protocol, protocol::ICMP | protocol::ICMPV6) {
        return None;
    }
    let [kind, _] = packet.load(transport)?;
    let hop_limit = match key.family() {
        Family::V6 if !is_piece => {
            let [_, hop_limit] = packet.load(network + HOP_LIMIT - 1)?;
            hop_limit
        }
        _ => 0,
    };
    let ports = icmp::ports(protocol, kind, hop_limit);
    Some(match direction {
        Direction::Upload => ports.word(),
        Direction::Download => ports.swapped().word(),
    })
}

/// The flow of the packet that an ICMP error quotes. `error` is the error's own flow, seen in a
/// direction; its ICMP header starts at `offset`.
///
/// `None` where it is no such error, or the quote cannot be read: the quote is no IP packet, is cut off before
/// the ports, is a later fragment, or its sender is not the receiver of the error.
#[inline(always)]
pub fn quoted<P: Packet + ?Sized>(
    packet: &P,
    offset: usize,
    error: &FlowKey,
    direction: Direction,
) -> Option<FlowKey> {
    if !error.quotes(direction) {
        return None;
    }
    let at = offset + ICMP_LEN;
    let (source, destination, protocol, transport) = match error.family() {
        Family::V4 => ipv4(packet, at)?,
        Family::V6 => ipv6(packet, at)?,
        Family::Other => return None,
    };
    let (told, sent) = match direction {
        Direction::Upload => (error.remote(), Direction::Download),
        Direction::Download => (error.local(), Direction::Upload),
    };
    if source != told {
        return None;
    }
    let ports = match protocol {
        protocol::TCP | protocol::UDP => Ports::new(packet.load(transport)?),
        protocol::ICMP | protocol::ICMPV6 => {
            let [kind, _] = packet.load(transport)?;
            icmp::ports(protocol, kind, 0)
        }
        _ => Ports::default(),
    };
    let parsed = Parsed {
        family: error.family(),
        protocol,
        source,
        destination,
        ports,
        ..Parsed::of_device(error.mac())
    };
    Some(FlowKey::new(&parsed, sent, error.ifindex()))
}

/// Source, destination, protocol, and where its header starts.
type Network = (Address, Address, u8, usize);

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(packet: &P, at: usize) -> Option<Network> {
    const FRAGMENT_OFFSET: u16 = 0x1fff;

    let [version_ihl, _] = packet.load(at)?;
    let fragment = u16::from_be_bytes(packet.load(at + 6)?);
    if version_ihl >> 4 != 4 || version_ihl & 0x0f < 5 || fragment & FRAGMENT_OFFSET != 0 {
        return None;
    }
    let [_, protocol] = packet.load(at + 8)?;
    let source = Address::v4(packet.load(at + 12)?);
    let destination = Address::v4(packet.load(at + 16)?);
    let transport = packet.forget(at + usize::from(version_ihl & 0x0f) * 4, source.high);
    Some((source, destination, protocol, transport))
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, at: usize) -> Option<Network> {
    const LEN: usize = 40;

    let [version, _] = packet.load(at)?;
    if version >> 4 != 6 {
        return None;
    }
    let [mut protocol, _] = packet.load(at + 6)?;
    let address = |at| {
        Some(Address {
            high: u64::from_le_bytes(packet.load(at)?),
            low: u64::from_le_bytes(packet.load(at + 8)?),
        })
    };
    let source = address(at + 8)?;
    let destination = address(at + 24)?;
    let mut transport = at + LEN;
    let mut extensions = 0;
    while is_extension(protocol) {
        if extensions == MAX_EXTENSION_HEADERS {
            return None;
        }
        let [next, len, high, low] = packet.load(transport)?;
        let bytes = match protocol {
            protocol::FRAGMENT if u16::from_be_bytes([high, low]) & 0xfff8 != 0 => return None,
            protocol::FRAGMENT => 8,
            protocol::AUTHENTICATION => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        protocol = next;
        transport = packet.forget(transport + bytes, source.high);
        extensions += 1;
    }
    Some((source, destination, protocol, transport))
}
