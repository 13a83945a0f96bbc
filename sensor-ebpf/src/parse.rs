//! Parses a frame: total over every byte sequence, and without a loop that a frame could lengthen.
//!
//! The order of the file is the order of the headers: Ethernet, tags, PPPoE, IPv4 or IPv6,
//! extension headers, transport. Offsets of header fields stand in `field` and nowhere else.

use core::fmt;

use crate::{packet::Packet, skip::Skip};

/// The most 802.1Q and 802.1ad tags a frame may carry and still be read.
pub const MAX_VLAN_TAGS: usize = 4;

/// The most IPv6 extension headers a packet may carry and still be read (RFC 8200, section 4.1
/// recommends an order in which seven can stand).
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// Where a field lies in its header, in octets from the header's start, in the order of the RFC.
mod field {
    use core::ops::Range;

    pub(super) mod ethernet {
        use super::Range;
        // Each address in two pieces: a register has room for four or eight octets, and pieces that
        // overlap would be copied to the stack first.
        pub(in super::super) const DESTINATION_START: Range<usize> = 0..4;
        pub(in super::super) const DESTINATION_END: Range<usize> = 4..6;
        pub(in super::super) const SOURCE_START: Range<usize> = 6..8;
        pub(in super::super) const SOURCE_END: Range<usize> = 8..12;
        pub(in super::super) const ETHERTYPE: Range<usize> = 12..14;
        pub(in super::super) const LEN: usize = 14;
    }
    /// An 802.1Q or 802.1ad tag as it follows the ethertype that announces it.
    pub(super) mod vlan {
        use super::Range;
        pub(in super::super) const ETHERTYPE: Range<usize> = 2..4;
        pub(in super::super) const LEN: usize = 4;
    }
    /// RFC 2516, section 4, and the PPP protocol field behind it (RFC 1661, section 2).
    pub(super) mod pppoe {
        use super::Range;
        pub(in super::super) const PROTOCOL: Range<usize> = 6..8;
        pub(in super::super) const LEN: usize = 8;
    }
    /// RFC 791, section 3.1.
    pub(super) mod ipv4 {
        use super::Range;
        pub(in super::super) const VERSION_IHL: usize = 0;
        pub(in super::super) const TOTAL_LENGTH: Range<usize> = 2..4;
        pub(in super::super) const IDENTIFICATION: Range<usize> = 4..6;
        pub(in super::super) const FLAGS_OFFSET: Range<usize> = 6..8;
        pub(in super::super) const PROTOCOL: usize = 9;
        pub(in super::super) const SOURCE: Range<usize> = 12..16;
        pub(in super::super) const DESTINATION: Range<usize> = 16..20;
        pub(in super::super) const MIN_LEN: usize = 20;
    }
    /// RFC 8200, section 3.
    pub(super) mod ipv6 {
        use super::Range;
        pub(in super::super) const VERSION: usize = 0;
        pub(in super::super) const PAYLOAD_LENGTH: Range<usize> = 4..6;
        pub(in super::super) const NEXT_HEADER: usize = 6;
        pub(in super::super) const SOURCE_HIGH: Range<usize> = 8..16;
        pub(in super::super) const SOURCE_LOW: Range<usize> = 16..24;
        pub(in super::super) const DESTINATION_HIGH: Range<usize> = 24..32;
        pub(in super::super) const DESTINATION_LOW: Range<usize> = 32..40;
        pub(in super::super) const LEN: usize = 40;
    }
    /// RFC 8200, section 4: every extension header starts with the next header and a length.
    pub(super) mod extension {
        use super::Range;
        pub(in super::super) const NEXT_HEADER: usize = 0;
        pub(in super::super) const LENGTH: usize = 1;
        /// Fragment header only (section 4.5).
        pub(in super::super) const OFFSET_FLAGS: Range<usize> = 2..4;
        /// Fragment header only.
        pub(in super::super) const IDENTIFICATION: Range<usize> = 4..8;
        pub(in super::super) const MIN_LEN: usize = 8;
    }
    /// RFC 9293, section 3.1.
    pub(super) mod tcp {
        use super::Range;
        pub(in super::super) const PORTS: Range<usize> = 0..4;
        pub(in super::super) const SEQUENCE: Range<usize> = 4..8;
        pub(in super::super) const DATA_OFFSET: usize = 12;
        pub(in super::super) const FLAGS: usize = 13;
        pub(in super::super) const MIN_LEN: usize = 20;
    }
    /// RFC 768.
    pub(super) mod udp {
        use super::Range;
        pub(in super::super) const PORTS: Range<usize> = 0..4;
        pub(in super::super) const LEN: usize = 8;
    }
}

/// Ethertypes that the parser follows (IEEE 802 numbers).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// Address resolution (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// Customer tag, IEEE 802.1Q.
    pub const VLAN: u16 = 0x8100;
    /// Service tag, IEEE 802.1ad.
    pub const QINQ: u16 = 0x88a8;
    /// The tag used before 802.1ad was a standard, still seen.
    pub const QINQ_OLD: u16 = 0x9100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// PPPoE session (RFC 2516).
    pub const PPPOE_SESSION: u16 = 0x8864;
}

/// Protocol numbers (IANA) that the parser or the filter knows by name.
pub mod protocol {
    /// Hop-by-hop options, IPv6 extension.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// Routing header, IPv6 extension.
    pub const ROUTING: u8 = 43;
    /// Fragment header, IPv6 extension.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header (RFC 4302), an IPv6 extension with a length in 4-octet units.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Destination options, IPv6 extension.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// Mobility header (RFC 6275), IPv6 extension.
    pub const MOBILITY: u8 = 135;
    /// Host identity (RFC 7401), IPv6 extension.
    pub const HOST_IDENTITY: u8 = 139;
    /// Shim6 (RFC 5533), IPv6 extension.
    pub const SHIM6: u8 = 140;
}

/// PPP protocol numbers (IANA) of what PPPoE carries.
mod ppp {
    pub(super) const IPV4: u16 = 0x0021;
    pub(super) const IPV6: u16 = 0x0057;
}

/// The network layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// Neither IPv4 nor IPv6: known by its ethertype alone.
    Other = 0,
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Family {
    /// The family with this number; an unknown number is `Other`.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            4 => Self::V4,
            6 => Self::V6,
            _ => Self::Other,
        }
    }
}

/// A MAC address as a word: octet `i` at bits `8 * i`, the upper sixteen bits zero.
///
/// A word, not octets, because it goes into a flow's key, which is hashed and compared by words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(u64);

impl Mac {
    const BITS: u64 = 0xffff_ffff_ffff;

    /// From its octets in the order of the wire.
    #[inline(always)]
    pub const fn new(octets: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = octets;
        Self(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// From a word whose upper sixteen bits are of no meaning.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word & Self::BITS)
    }

    /// The word.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The octets in the order of the wire.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// Whether it addresses a group: the lowest bit of the first octet (IEEE 802, section 8.2).
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Six pairs of hexadecimal digits with colons between them.
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An IPv4 or IPv6 address as two words: octet `i` at bits `8 * i`.
///
/// IPv4 fills the lower half of `high`; the rest is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// The first eight octets.
    pub high: u64,
    /// The last eight octets; 0 for IPv4.
    pub low: u64,
}

impl Address {
    /// An IPv4 address from its octets.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self {
            high: u32::from_le_bytes(octets) as u64,
            low: 0,
        }
    }

    /// An IPv6 address from its octets.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self {
            high: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            low: u64::from_le_bytes([i, j, k, l, m, n, o, p]),
        }
    }

    /// The octets in network order; of an IPv4 address the first four count.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.high.to_le_bytes();
        let [i, j, k, l, m, n, o, p] = self.low.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Whether it is no address of the internet at large: one of the link, of a private or a
    /// provider's own network, or of a group (RFC 6890; RFC 4291, section 2.4).
    #[inline(always)]
    pub const fn is_near(self, family: Family) -> bool {
        let [a, b, ..] = self.octets();
        match family {
            Family::V4 => {
                matches!(a, 0 | 10 | 127 | 224..)
                    || (a == 100 && b & 0xc0 == 64)
                    || (a == 169 && b == 254)
                    || (a == 172 && b & 0xf0 == 16)
                    || (a == 192 && b == 168)
            }
            // All but 2000::/3.
            Family::V6 => a & 0xe0 != 0x20,
            Family::Other => true,
        }
    }
}

/// A pair of ports as it lies in a transport header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports(u32);

impl Ports {
    /// From the first four octets of a TCP or UDP header.
    #[inline(always)]
    pub const fn new(octets: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(octets))
    }

    /// The first port in the lower half, the second in the upper, each in network byte order.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// The same ports the other way round.
    #[inline(always)]
    pub const fn swapped(self) -> Self {
        Self(self.0.rotate_left(16))
    }

    /// The first port: a packet's source, a flow's local port.
    #[inline(always)]
    pub const fn first(self) -> u16 {
        (self.0 as u16).swap_bytes()
    }

    /// The second port: a packet's destination, a flow's remote port.
    #[inline(always)]
    pub const fn second(self) -> u16 {
        ((self.0 >> 16) as u16).swap_bytes()
    }
}

/// ICMP and ICMPv6 by their message types (RFC 792; RFC 4443; RFC 4861).
pub mod icmp {
    use super::{Ports, protocol};

    /// The number in the place of the sender's port of a message on which a link, or a connection that is
    /// allowed, depends. No type is so large.
    pub const VITAL: u16 = u16::MAX;

    const ECHO: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const ECHO_V6: u8 = 128;
    const ECHO_REPLY_V6: u8 = 129;

    /// The hop limit that shows that no router passed a packet on (RFC 4861, section 7.1).
    const OF_THE_LINK: u8 = 255;

    /// The numbers in the place of ports: a message's type is its receiver's port. An echo reply has the
    /// request's type as its sender's port, so that both are one flow. `hop_limit` is 0 of a piece of a packet,
    /// because hosts ignore neighbour discovery in pieces (RFC 6980).
    #[inline(always)]
    pub const fn ports(protocol: u8, kind: u8, hop_limit: u8) -> Ports {
        match (protocol, kind) {
            (protocol::ICMP, ECHO_REPLY) => of_types(ECHO as u16, 0),
            (protocol::ICMPV6, ECHO_REPLY_V6) => of_types(ECHO_V6 as u16, 0),
            (protocol::ICMPV6, 133..=137) if hop_limit == OF_THE_LINK => {
                of_types(VITAL, kind as u16)
            }
            _ => of_types(0, kind as u16),
        }
    }

    const fn of_types(first: u16, second: u16) -> Ports {
        Ports(first.swap_bytes() as u32 | (second.swap_bytes() as u32) << 16)
    }

    /// Whether a message tells of a packet that could not be delivered, and quotes it: destination
    /// unreachable, packet too big, time exceeded, parameter problem.
    #[inline(always)]
    pub const fn quotes(protocol: u8, kind: u16) -> bool {
        match protocol {
            protocol::ICMP => matches!(kind, 3 | 11 | 12),
            protocol::ICMPV6 => matches!(kind, 1..=4),
            _ => false,
        }
    }

    /// Whether a message must not be answered: an error (RFC 1122, section 3.2.2) or a redirect (RFC 4443,
    /// section 2.4).
    #[inline(always)]
    pub const fn is_error(protocol: u8, kind: u16) -> bool {
        match protocol {
            protocol::ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
            protocol::ICMPV6 => matches!(kind, 1..=127 | 137),
            _ => false,
        }
    }
}

/// Whether a packet is a piece of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented. An atomic IPv6 fragment (RFC 6946) counts as whole.
    Whole,
    /// The piece with the transport header; the identification leads the others to it.
    First(u32),
    /// A piece without ports of its own.
    Later(u32),
}

/// Which piece of a packet a frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// All of it.
    Whole,
    /// The start, with the transport header.
    First,
    /// Another.
    Later,
}

/// The result of parsing a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Destination MAC address.
    pub destination_mac: Mac,
    /// Source MAC address.
    pub source_mac: Mac,
    /// The innermost ethertype, behind all tags; below 0x600 it is an 802.3 length.
    pub ethertype: u16,
    /// The network layer.
    pub family: Family,
    /// The transport's protocol number; 0 where `family` is `Other`.
    pub protocol: u8,
    /// Source address; zero where `family` is `Other`.
    pub source: Address,
    /// Destination address; zero where `family` is `Other`.
    pub destination: Address,
    /// Source and destination port; 0 without ports. [`key_of`](crate::quote::key_of) reads the numbers that a
    /// key of ICMP has there.
    pub ports: Ports,
    /// TCP flags (RFC 9293, section 3.1); 0 for other protocols.
    pub tcp_flags: u8,
    /// TCP sequence number of the first octet of payload, or of the SYN; 0 for other protocols.
    pub sequence: u32,
    /// Which piece of a packet this is; see [`fragment`](Self::fragment).
    pub piece: Piece,
    /// The identification of a piece; 0 where `piece` is `Whole`. Not in an enum with it: copying
    /// one that has no identification reads stack that was never written, which the verifier
    /// allows from Linux 6.3 on.
    pub identification: u32,
    /// Octets before the network header.
    pub network_offset: usize,
    /// Octets before the transport header; before the payload where `family` is `Other`.
    pub transport_offset: usize,
    /// Octets of the transport header and its payload by the IP header's own length; 0 where that
    /// field does not say (a super-packet above 64 KiB).
    pub transport_len: usize,
    /// Octets of the TCP or UDP header, 20 to 60 and 8; 0 without one.
    pub transport_header_len: usize,
}

/// TCP flags by their bits (RFC 9293, section 3.1).
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Sequence numbers begin here.
    pub const SYN: u8 = 0x02;
    /// The connection is over.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
}

impl Parsed {
    /// A frame of which nothing is known but one device: the sender, or the receiver.
    #[inline(always)]
    pub(crate) const fn of_device(mac: Mac) -> Self {
        Self {
            destination_mac: mac,
            source_mac: mac,
            ethertype: 0,
            family: Family::Other,
            protocol: 0,
            source: Address { high: 0, low: 0 },
            destination: Address { high: 0, low: 0 },
            ports: Ports(0),
            tcp_flags: 0,
            sequence: 0,
            piece: Piece::Whole,
            identification: 0,
            network_offset: field::ethernet::LEN,
            transport_offset: field::ethernet::LEN,
            transport_len: 0,
            transport_header_len: 0,
        }
    }

    /// Whether this is a piece of a larger packet.
    #[inline(always)]
    pub const fn fragment(&self) -> Fragment {
        match self.piece {
            Piece::Whole => Fragment::Whole,
            Piece::First => Fragment::First(self.identification),
            Piece::Later => Fragment::Later(self.identification),
        }
    }

    /// Octets before the payload of TCP or UDP.
    #[inline(always)]
    pub const fn payload_offset(&self) -> usize {
        self.transport_offset + self.transport_header_len
    }

    /// Octets of payload that TCP or UDP carries, by the IP header's own length; `None` without
    /// one of the two, behind a fragment's start, or where the length is not said.
    #[inline(always)]
    pub const fn payload_len(&self) -> Option<usize> {
        if self.transport_header_len == 0 {
            return None;
        }
        self.transport_len.checked_sub(self.transport_header_len)
    }

    /// Bytes of payload that TCP or UDP carries in a frame of `frame_len` bytes: as many as the IP
    /// header says. Where it does not say (a capture taken at the sender, before the network adapter cut the
    /// packet into segments; a super-packet above 64 KiB), all behind the headers, padding of Ethernet
    /// included, because padding cannot be told from payload there.
    #[inline(always)]
    pub const fn payload_in(&self, frame_len: usize) -> usize {
        match self.payload_len() {
            Some(len) => len,
            None if self.transport_header_len != 0 && self.transport_len == 0 => {
                frame_len.saturating_sub(self.payload_offset())
            }
            None => 0,
        }
    }
}

/// Reads a frame from its first Ethernet octet on.
///
/// Total: every byte sequence gives a [`Parsed`] or the reason why not.
///
/// # Errors
///
/// The [`Skip`] under which the frame is counted. The parser never gives `SourceIsGroup`, because it does not
/// know the direction.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Result<Parsed, Skip> {
    use field::{ethernet, pppoe, vlan};

    let Some(header) = packet.load::<{ ethernet::LEN }>(0) else {
        return Err(Skip::EthernetTruncated);
    };
    let mut parsed = ethernet(&header);

    let mut tags = 0;
    while is_tag(parsed.ethertype) {
        if tags == MAX_VLAN_TAGS {
            return Err(Skip::VlanTooDeep);
        }
        let Some(tag) = packet.load::<{ vlan::LEN }>(parsed.network_offset) else {
            return Err(Skip::VlanTruncated);
        };
        parsed.ethertype = u16::from_be_bytes(take(&tag, vlan::ETHERTYPE));
        parsed.network_offset += vlan::LEN;
        tags += 1;
    }

    let mut network = parsed.ethertype;
    if network == ethertype::PPPOE_SESSION {
        let Some(header) = packet.load::<{ pppoe::LEN }>(parsed.network_offset) else {
            return Err(Skip::PppoeTruncated);
        };
        network = match u16::from_be_bytes(take(&header, pppoe::PROTOCOL)) {
            ppp::IPV4 => ethertype::IPV4,
            ppp::IPV6 => ethertype::IPV6,
            // LCP, authentication, IPCP …: accounted to the device as PPPoE.
            _ => network,
        };
        if network != ethertype::PPPOE_SESSION {
            parsed.network_offset += pppoe::LEN;
        }
    }
    if parsed.network_offset != ethernet::LEN {
        parsed.network_offset = packet.forget(parsed.network_offset, parsed.destination_mac.word());
    }
    match network {
        ethertype::IPV4 => ipv4(packet, parsed),
        ethertype::IPV6 => ipv6(packet, parsed),
        _ => {
            parsed.transport_offset = parsed.network_offset;
            Ok(parsed)
        }
    }
}

/// Reads the commonest frames and no others: with one tag at most, IPv4 without options and not in pieces
/// or IPv6 without extension headers, TCP or UDP.
///
/// Where it gives a [`Parsed`], [`parse`] gives the same; `None` says nothing about the frame. It is short and
/// has no loop, because every steady packet of a known flow pays for it.
#[inline(always)]
pub fn plain<P: Packet + ?Sized>(packet: &P) -> Option<Parsed> {
    use field::{ethernet, ipv4, ipv6, vlan};
    const IPV4_WITHOUT_OPTIONS: u8 = 0x45;
    const WHOLE: u16 = 0;
    const MAY_FRAGMENT: u16 = 0x4000;

    let mut parsed = self::ethernet(&packet.load::<{ ethernet::LEN }>(0)?);
    if is_tag(parsed.ethertype) {
        let tag = packet.load::<{ vlan::LEN }>(ethernet::LEN)?;
        parsed.ethertype = u16::from_be_bytes(take(&tag, vlan::ETHERTYPE));
        parsed.network_offset = ethernet::LEN + vlan::LEN;
    }
    match parsed.ethertype {
        ethertype::IPV4 => {
            let header = packet.load::<{ ipv4::MIN_LEN }>(parsed.network_offset)?;
            let [version_ihl] = take(&header, ipv4::VERSION_IHL..ipv4::VERSION_IHL + 1);
            let fragment = u16::from_be_bytes(take(&header, ipv4::FLAGS_OFFSET));
            let total_len = usize::from(u16::from_be_bytes(take(&header, ipv4::TOTAL_LENGTH)));
            if version_ihl != IPV4_WITHOUT_OPTIONS
                || fragment & !MAY_FRAGMENT != WHOLE
                || total_len <= ipv4::MIN_LEN
            {
                return None;
            }
            ipv4_addresses(&header, &mut parsed);
            parsed.transport_offset = parsed.network_offset + ipv4::MIN_LEN;
            parsed.transport_len = total_len - ipv4::MIN_LEN;
        }
        ethertype::IPV6 => {
            let header = packet.load::<{ ipv6::LEN }>(parsed.network_offset)?;
            let [version] = take(&header, ipv6::VERSION..ipv6::VERSION + 1);
            if version >> 4 != 6 {
                return None;
            }
            ipv6_addresses(&header, &mut parsed);
            parsed.transport_offset = parsed.network_offset + ipv6::LEN;
            parsed.transport_len =
                usize::from(u16::from_be_bytes(take(&header, ipv6::PAYLOAD_LENGTH)));
        }
        _ => return None,
    }
    match parsed.protocol {
        protocol::TCP | protocol::UDP => transport(packet, parsed).ok(),
        _ => None,
    }
}

/// The fields of an Ethernet header; the rest as of a frame that is not IP.
#[inline(always)]
fn ethernet(header: &[u8; field::ethernet::LEN]) -> Parsed {
    use field::ethernet;

    Parsed {
        destination_mac: Mac::from_word(
            u64::from(u32::from_le_bytes(take(
                header,
                ethernet::DESTINATION_START,
            ))) | u64::from(u16::from_le_bytes(take(header, ethernet::DESTINATION_END))) << 32,
        ),
        source_mac: Mac::from_word(
            u64::from(u16::from_le_bytes(take(header, ethernet::SOURCE_START)))
                | u64::from(u32::from_le_bytes(take(header, ethernet::SOURCE_END))) << 16,
        ),
        ethertype: u16::from_be_bytes(take(header, ethernet::ETHERTYPE)),
        ..Parsed::of_device(Mac::default())
    }
}

/// Whether an ethertype announces a tag and another ethertype behind it.
#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    matches!(
        ethertype,
        ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD
    )
}

/// Reads the addresses and the protocol of an IPv4 header.
#[inline(always)]
fn ipv4_addresses(header: &[u8; field::ipv4::MIN_LEN], parsed: &mut Parsed) {
    use field::ipv4;

    parsed.family = Family::V4;
    [parsed.protocol] = take(header, ipv4::PROTOCOL..ipv4::PROTOCOL + 1);
    parsed.source = Address::v4(take(header, ipv4::SOURCE));
    parsed.destination = Address::v4(take(header, ipv4::DESTINATION));
}

/// Reads the addresses and the protocol of an IPv6 header.
#[inline(always)]
fn ipv6_addresses(header: &[u8; field::ipv6::LEN], parsed: &mut Parsed) {
    use field::ipv6;

    parsed.family = Family::V6;
    [parsed.protocol] = take(header, ipv6::NEXT_HEADER..ipv6::NEXT_HEADER + 1);
    parsed.source = Address {
        high: u64::from_le_bytes(take(header, ipv6::SOURCE_HIGH)),
        low: u64::from_le_bytes(take(header, ipv6::SOURCE_LOW)),
    };
    parsed.destination = Address {
        high: u64::from_le_bytes(take(header, ipv6::DESTINATION_HIGH)),
        low: u64::from_le_bytes(take(header, ipv6::DESTINATION_LOW)),
    };
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(packet: &P, mut parsed: Parsed) -> Result<Parsed, Skip> {
    use field::ipv4;
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;

    let Some(header) = packet.load::<{ ipv4::MIN_LEN }>(parsed.network_offset) else {
        return Err(Skip::Ipv4Truncated);
    };
    let [version_ihl] = take(&header, ipv4::VERSION_IHL..ipv4::VERSION_IHL + 1);
    let header_len = usize::from(version_ihl & 0x0f) * 4;
    if version_ihl >> 4 != 4 || header_len < ipv4::MIN_LEN {
        return Err(Skip::Ipv4Malformed);
    }
    let total_len = usize::from(u16::from_be_bytes(take(&header, ipv4::TOTAL_LENGTH)));
    if total_len != 0 {
        if total_len < header_len {
            return Err(Skip::Ipv4Malformed);
        }
        parsed.transport_len = total_len - header_len;
    }
    // The options are passed over unread, but the last four octets of them must be there.
    if header_len > ipv4::MIN_LEN
        && packet
            .load::<4>(parsed.network_offset + header_len - 4)
            .is_none()
    {
        return Err(Skip::Ipv4Truncated);
    }
    ipv4_addresses(&header, &mut parsed);
    parsed.transport_offset = parsed.network_offset + header_len;

    let fragment = u16::from_be_bytes(take(&header, ipv4::FLAGS_OFFSET));
    if fragment & (MORE_FRAGMENTS | OFFSET) != 0 {
        parsed.identification = u32::from(u16::from_be_bytes(take(&header, ipv4::IDENTIFICATION)));
        if fragment & OFFSET != 0 {
            parsed.piece = Piece::Later;
            return Ok(parsed);
        }
        parsed.piece = Piece::First;
    }
    if total_len == header_len && has_ports(parsed.protocol) {
        // The bytes behind the network header are Ethernet padding, not a transport header.
        return headless(parsed);
    }
    transport(packet, parsed)
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, mut parsed: Parsed) -> Result<Parsed, Skip> {
    use field::{extension, ipv6};
    const MORE_FRAGMENTS: u16 = 0x0001;
    const OFFSET: u16 = 0xfff8;

    let Some(header) = packet.load::<{ ipv6::LEN }>(parsed.network_offset) else {
        return Err(Skip::Ipv6Truncated);
    };
    let [version] = take(&header, ipv6::VERSION..ipv6::VERSION + 1);
    if version >> 4 != 6 {
        return Err(Skip::Ipv6Malformed);
    }
    ipv6_addresses(&header, &mut parsed);
    parsed.transport_offset = parsed.network_offset + ipv6::LEN;
    let payload_len = usize::from(u16::from_be_bytes(take(&header, ipv6::PAYLOAD_LENGTH)));

    let mut extensions = 0;
    while is_extension(parsed.protocol) {
        if extensions == MAX_EXTENSION_HEADERS {
            return Err(Skip::Ipv6ExtensionsTooMany);
        }
        let Some(header) = packet.load::<{ extension::MIN_LEN }>(parsed.transport_offset) else {
            return Err(Skip::Ipv6ExtensionTruncated);
        };
        let [next] = take(&header, extension::NEXT_HEADER..extension::NEXT_HEADER + 1);
        let [length] = take(&header, extension::LENGTH..extension::LENGTH + 1);
        let octets = match parsed.protocol {
            protocol::FRAGMENT => extension::MIN_LEN,
            // RFC 4302, section 2.2: in 4-octet units, minus 2.
            protocol::AUTHENTICATION => (usize::from(length) + 2) * 4,
            // RFC 8200, section 4.3: in 8-octet units, not including the first.
            _ => (usize::from(length) + 1) * 8,
        };
        if parsed.protocol == protocol::FRAGMENT {
            let offset_flags = u16::from_be_bytes(take(&header, extension::OFFSET_FLAGS));
            let identification = u32::from_be_bytes(take(&header, extension::IDENTIFICATION));
            if offset_flags & OFFSET != 0 {
                parsed.protocol = next;
                parsed.transport_offset += octets;
                parsed.piece = Piece::Later;
                parsed.identification = identification;
                return Ok(parsed);
            }
            if offset_flags & MORE_FRAGMENTS != 0 {
                parsed.piece = Piece::First;
                parsed.identification = identification;
            }
        }
        parsed.protocol = next;
        parsed.transport_offset =
            packet.forget(parsed.transport_offset + octets, parsed.source.high);
        extensions += 1;
    }
    // 0 announces a jumbogram (RFC 2675) or a super-packet of the kernel: length not known here.
    let extensions_len = parsed.transport_offset - parsed.network_offset - ipv6::LEN;
    if payload_len != 0 {
        if payload_len < extensions_len {
            return Err(Skip::Ipv6Malformed);
        }
        parsed.transport_len = payload_len - extensions_len;
        if parsed.transport_len == 0 && has_ports(parsed.protocol) {
            return headless(parsed);
        }
    }
    transport(packet, parsed)
}

/// Whether a protocol's header has ports that the parser reads.
#[inline(always)]
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}

/// Whether a protocol number is an IPv6 extension header that another header follows.
#[inline(always)]
pub(crate) const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
            | protocol::HOST_IDENTITY
            | protocol::SHIM6
    )
}

#[inline(always)]
fn transport<P: Packet + ?Sized>(packet: &P, mut parsed: Parsed) -> Result<Parsed, Skip> {
    use field::{tcp, udp};

    match parsed.protocol {
        protocol::TCP => match packet.load::<{ tcp::MIN_LEN }>(parsed.transport_offset) {
            Some(header) => {
                parsed.ports = Ports::new(take(&header, tcp::PORTS));
                [parsed.tcp_flags] = take(&header, tcp::FLAGS..tcp::FLAGS + 1);
                parsed.sequence = u32::from_be_bytes(take(&header, tcp::SEQUENCE));
                let [data_offset] = take(&header, tcp::DATA_OFFSET..tcp::DATA_OFFSET + 1);
                let header_len = usize::from(data_offset >> 4) * 4;
                // Shorter than the header itself: no receiver takes it, and it has no payload.
                if header_len >= tcp::MIN_LEN {
                    parsed.transport_header_len = header_len;
                }
            }
            None => return headless(parsed),
        },
        protocol::UDP => match packet.load::<{ udp::LEN }>(parsed.transport_offset) {
            Some(header) => {
                parsed.ports = Ports::new(take(&header, udp::PORTS));
                parsed.transport_header_len = udp::LEN;
            }
            None => return headless(parsed),
        },
        _ => {}
    }
    Ok(parsed)
}

/// A first fragment may be too small for its transport header (RFC 1858 calls it an attack, RFC
/// 7112 forbids it for IPv6); it is booked without ports. A whole packet may not.
#[inline(always)]
fn headless(parsed: Parsed) -> Result<Parsed, Skip> {
    match parsed.piece {
        Piece::First => Ok(Parsed {
            piece: Piece::Later,
            ..parsed
        }),
        Piece::Whole | Piece::Later => Err(Skip::TransportTruncated),
    }
}

/// The octets of one field.
///
/// Both lengths are constants of [`field`]: a range outside of its header does not survive
/// constant folding on the host's tests, and the kernel's verifier refuses the panic it leaves.
#[inline(always)]
const fn take<const N: usize, const H: usize>(
    header: &[u8; H],
    range: core::ops::Range<usize>,
) -> [u8; N] {
    assert!(range.end - range.start == N);
    // As one piece: octets taken one by one stay apart to the end, each in a place of its own.
    match header.split_at(range.start).1.first_chunk() {
        Some(octets) => *octets,
        None => panic!("the field lies outside of its header"),
    }
}
