//! The packets that tell both ends that something is refused: TCP RST, ICMP errors, and answers to DNS
//! questions; and how many of them there may be.
//!
//! Pure: from the refused frame to the bytes of the answer. The kernel puts them on the wire.

mod checksum;
mod dns;
mod headers;
mod icmp;
pub mod limit;
pub mod syn;
mod tcp;

pub use self::{
    checksum::seal,
    dns::{ANSWER_TTL, Refusal, answer_question, dns_message, echo_question, place_of_message},
};
use self::{
    headers::{IPV4_LEN, IPV6_LEN, MAX_LINK_HEADER, link_header, network_header},
    limit::Limited,
};
use crate::{
    flow::Direction,
    packet::Packet,
    parse::{Address, Family, Mac, Parsed, Piece, icmp::is_error, protocol, tcp_flag},
    wire,
};

/// Room for the longest answer: Ethernet, four tags, PPPoE, IPv6, UDP, and a DNS message with the
/// longest name.
pub const ANSWER_CAPACITY: usize = 512;

/// Above every offset of a network header. A power of two, so that the kernel side can keep the
/// offset below it by a mask.
///
/// The limit of [`refuse`] is this one and not `MAX_LINK_HEADER`: a compiler that knew the offset
/// to be no more than that would leave it out of the conditions of loops, and the verifier of Linux
/// 6.1 needs a constant in each.
pub const NETWORK_OFFSET_LIMIT: usize = 64;
const _: () = assert!(MAX_LINK_HEADER < NETWORK_OFFSET_LIMIT);

/// The facts about a refused frame that an answer is made from.
///
/// Plain words, which the kernel keeps in a map between reading a frame and answering it: otherwise the
/// verifier would go through the second once for each way through the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Refused {
    source_mac: u64,
    destination_mac: u64,
    source: [u64; 2],
    destination: [u64; 2],
    network_offset: u32,
    transport_offset: u32,
    transport_len: u32,
    signature: u32,
    ethertype: u16,
    family: u8,
    protocol: u8,
    tcp_flags: u8,
    unfinished: u8,
    reserved: u16,
}

wire! {
    Refused {
        source_mac: u64, destination_mac: u64, source: [u64; 2], destination: [u64; 2],
        network_offset: u32, transport_offset: u32, transport_len: u32, signature: u32,
        ethertype: u16, family: u8, protocol: u8, tcp_flags: u8, unfinished: u8, reserved: u16,
    }
}

/// The headers of a frame that is refused, as far as an answer needs them.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    /// The sender's MAC address.
    pub source_mac: Mac,
    /// The receiver's MAC address on the link.
    pub destination_mac: Mac,
    /// The innermost ethertype.
    pub ethertype: u16,
    /// The network layer.
    pub family: Family,
    /// The transport's protocol number.
    pub protocol: u8,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// TCP flags; 0 for other protocols.
    pub tcp_flags: u8,
    /// Whether it is a piece of a packet without a transport header.
    pub is_later_piece: bool,
    /// Bytes before the network header.
    pub network_offset: usize,
    /// Bytes before the transport header.
    pub transport_offset: usize,
    /// Bytes of the transport header and its payload, by the IP header.
    pub transport_len: usize,
}

impl Headers {
    /// Those that the parser found.
    #[inline(always)]
    pub fn of(parsed: &Parsed) -> Self {
        Self {
            source_mac: parsed.source_mac,
            destination_mac: parsed.destination_mac,
            ethertype: parsed.ethertype,
            family: parsed.family,
            protocol: parsed.protocol,
            source: parsed.source,
            destination: parsed.destination,
            tcp_flags: parsed.tcp_flags,
            is_later_piece: parsed.piece == Piece::Later,
            network_offset: parsed.network_offset,
            transport_offset: parsed.transport_offset,
            transport_len: parsed.transport_len,
        }
    }
}

impl Refused {
    /// Of a frame with these headers. `None` where no answer is due: to a later fragment, to a frame to a group
    /// address or from none, to an ICMP error (RFC 1122, section 3.2.2), to a RST (RFC 9293, section 3.10.7),
    /// and to a frame that is neither IPv4 nor IPv6.
    #[inline(always)]
    pub fn of<P: Packet + ?Sized>(packet: &P, headers: &Headers) -> Option<Self> {
        if matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6) {
            let [kind, _] = packet.load(headers.transport_offset)?;
            if is_error(headers.protocol, u16::from(kind)) {
                return None;
            }
        }
        if headers.is_later_piece
            || headers.destination_mac.is_group()
            || headers.network_offset >= NETWORK_OFFSET_LIMIT
            || headers.family == Family::Other
            || is_group_or_none(headers.family, headers.source)
            || is_group_or_none(headers.family, headers.destination)
            || headers.tcp_flags & tcp_flag::RST != 0
        {
            return None;
        }
        Some(Self {
            source_mac: headers.source_mac.word(),
            destination_mac: headers.destination_mac.word(),
            source: [headers.source.high, headers.source.low],
            destination: [headers.destination.high, headers.destination.low],
            network_offset: headers.network_offset as u32,
            transport_offset: headers.transport_offset as u32,
            transport_len: headers.transport_len as u32,
            signature: 0,
            ethertype: headers.ethertype,
            family: headers.family as u8,
            protocol: headers.protocol,
            tcp_flags: headers.tcp_flags,
            unfinished: 0,
            reserved: 0,
        })
    }

    /// The same, of a socket buffer whose checksum is left to the network adapter (`CHECKSUM_PARTIAL`).
    /// The sum starts at the refused packet's transport header, and goes into its checksum field.
    #[inline(always)]
    pub const fn with_unfinished_checksum(self) -> Self {
        Self {
            unfinished: 1,
            ..self
        }
    }

    /// The same with a number that a reset carries in window and urgent pointer, which receivers ignore: the
    /// programs know by it a reset that they made.
    #[inline(always)]
    pub const fn signed(self, signature: u32) -> Self {
        Self { signature, ..self }
    }

    /// The same, sent to another MAC address.
    #[inline(always)]
    pub const fn sent_to(self, mac: Mac) -> Self {
        Self {
            destination_mac: mac.word(),
            ..self
        }
    }

    /// The same with offsets of the network and the transport header that have bounds.
    #[inline(always)]
    pub const fn with_offsets(self, network: usize, transport: usize) -> Self {
        Self {
            network_offset: network as u32,
            transport_offset: transport as u32,
            ..self
        }
    }

    /// The sender's MAC address.
    #[inline(always)]
    pub const fn source_mac(&self) -> Mac {
        Mac::from_word(self.source_mac)
    }

    /// The receiver's MAC address on the link.
    #[inline(always)]
    pub const fn destination_mac(&self) -> Mac {
        Mac::from_word(self.destination_mac)
    }

    /// Bytes before the network header.
    #[inline(always)]
    pub const fn network_offset(&self) -> usize {
        self.network_offset as usize
    }

    /// Whether it is TCP.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.protocol == protocol::TCP
    }

    /// Whether it is TCP or UDP: only then can the receiver be told.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        matches!(self.protocol, protocol::TCP | protocol::UDP)
    }

    /// Whether it begins a TCP connection, of which the other end has not heard yet.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.is_tcp() && self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }

    /// Bytes before the transport header.
    #[inline(always)]
    pub const fn transport_offset(&self) -> usize {
        self.transport_offset as usize
    }

    /// By how many bytes the transport header of an answer lies nearer to the network header: options
    /// and extension headers are not repeated.
    #[inline(always)]
    pub const fn surplus(&self) -> usize {
        (self.transport_offset as usize).saturating_sub(self.network_offset() + self.network_len())
    }

    /// Whether the checksum is left to the network adapter.
    #[inline(always)]
    pub const fn is_unfinished(&self) -> bool {
        self.unfinished != 0
    }

    /// Whether an answer can take the place of a packet whose checksum is not finished: only for TCP and UDP is
    /// it known where that sum begins and where it goes.
    #[inline(always)]
    pub const fn can_be_unfinished(&self) -> bool {
        matches!(self.protocol, protocol::TCP | protocol::UDP)
    }

    /// The limit on answers to the sender of the frame.
    #[inline(always)]
    pub const fn limited(&self, direction: Direction) -> Limited {
        match (self.is_tcp(), self.tcp_flags & tcp_flag::SYN != 0) {
            (true, true) => Limited::Syn,
            (true, false) => Limited::Segment(direction),
            _ => Limited::Icmp,
        }
    }

    #[inline(always)]
    const fn signature(&self) -> u32 {
        self.signature
    }

    #[inline(always)]
    const fn is_ipv4(&self) -> bool {
        self.family == Family::V4 as u8
    }

    #[inline(always)]
    const fn network_len(&self) -> usize {
        if self.is_ipv4() { IPV4_LEN } else { IPV6_LEN }
    }
}

/// Whether an address is that of a group, or none: 0.0.0.0/8 and 224.0.0.0/3 (RFC 1122, section
/// 3.2.1.3), :: and ff00::/8 (RFC 4291).
#[inline(always)]
const fn is_group_or_none(family: Family, address: Address) -> bool {
    let first = address.high as u8;
    match family {
        Family::V4 => first == 0 || first >= 224,
        Family::V6 => first == 0xff || address.high | address.low == 0,
        Family::Other => true,
    }
}

/// The end that an answer goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum To {
    /// The sender of the refused packet.
    Sender = 0,
    /// The receiver of the refused packet; the answer is in the sender's name.
    Receiver = 1,
}

impl To {
    /// The end with this number; an unknown one is the receiver.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Sender,
            _ => Self::Receiver,
        }
    }
}

/// Writes the answer to a refused frame into `out`, all but what [`seal`] adds. Returns its length in bytes: a
/// reset for TCP, port unreachable for UDP, administratively prohibited for the rest.
///
/// `None` where no answer is due: the receiver of a packet is told only of TCP and UDP.
#[inline(always)]
pub fn refuse<P: Packet + ?Sized>(
    packet: &P,
    refused: &Refused,
    to: To,
    out: &mut [u8; ANSWER_CAPACITY],
) -> Option<usize> {
    let network_len = refused.network_len();
    let transport = refused.network_offset() + network_len;
    let (answer_protocol, transport_len) = match (refused.protocol, to) {
        (protocol::TCP, to) => (
            protocol::TCP,
            tcp::reset(packet, refused, to, out, transport)?,
        ),
        (protocol::UDP, To::Receiver) => (
            icmp::protocol_of(refused),
            icmp::quote_reversed(packet, refused, out, transport)?,
        ),
        (_, To::Sender) => (
            icmp::protocol_of(refused),
            icmp::quote(packet, refused, out, transport)?,
        ),
        (_, To::Receiver) => return None,
    };
    let ends = Ends::of(refused, to);
    network_header(refused, &ends, out, answer_protocol, transport_len)?;
    link_header(packet, refused, &ends, out, network_len + transport_len)?;
    Some(transport + transport_len)
}

/// The source and the destination of an answer.
struct Ends {
    source: Address,
    destination: Address,
    source_mac: Mac,
    destination_mac: Mac,
}

#[inline(always)]
const fn address([high, low]: [u64; 2]) -> Address {
    Address { high, low }
}

impl Ends {
    #[inline(always)]
    fn of(refused: &Refused, to: To) -> Self {
        match to {
            To::Sender => Self {
                source: address(refused.destination),
                destination: address(refused.source),
                source_mac: Mac::from_word(refused.destination_mac),
                destination_mac: Mac::from_word(refused.source_mac),
            },
            To::Receiver => Self {
                source: address(refused.source),
                destination: address(refused.destination),
                source_mac: Mac::from_word(refused.source_mac),
                destination_mac: Mac::from_word(refused.destination_mac),
            },
        }
    }
}

#[inline(always)]
fn put<const N: usize>(out: &mut [u8; ANSWER_CAPACITY], at: usize, bytes: [u8; N]) -> Option<()> {
    *out.get_mut(at..)?.first_chunk_mut()? = bytes;
    Some(())
}
