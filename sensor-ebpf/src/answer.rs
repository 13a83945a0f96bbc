//! The packets that tell both ends that something is refused: TCP RST, ICMP port unreachable, and
//! answers to DNS questions.
//!
//! Pure: from the refused frame to the octets of the answer. The kernel puts them on the wire.

use crate::{
    packet::Packet,
    parse::{Address, Family, Mac, Parsed, Piece, ethertype, protocol},
    said::question::HEADER_LEN,
    wire,
};

/// Room for the longest answer: Ethernet, four tags, PPPoE, IPv6, UDP, and a DNS message with the
/// longest name.
pub const ANSWER_CAPACITY: usize = 512;

/// The longest Ethernet, tag and PPPoE header that the parser passes.
const MAX_LINK_HEADER: usize = 14 + 4 * crate::parse::MAX_VLAN_TAGS + 8;

/// Above every offset of a network header. A power of two, so that the kernel side can keep the
/// offset below it by a mask.
///
/// The limit of [`refuse`] is this one and not `MAX_LINK_HEADER`: a compiler that knew the offset
/// to be no more than that would leave it out of the conditions of loops, and the verifier of Linux
/// 6.1 needs a constant in each.
pub const NETWORK_OFFSET_LIMIT: usize = 64;
const _: () = assert!(MAX_LINK_HEADER < NETWORK_OFFSET_LIMIT);

/// Octets of the refused packet that an ICMP answer quotes at most. RFC 792 asks for the IP header
/// and 8 octets, RFC 4443 for as much as fits; the header chain and the ports are what a sender
/// needs to find its socket.
const MAX_QUOTE: usize = 128;

/// Hop limit of an answer (RFC 1700's recommended default).
const HOP_LIMIT: u8 = 64;

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
const ICMP_LEN: usize = 8;

/// Where a header has its checksum, and TCP its window.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ICMP_CHECKSUM: usize = 2;
const TCP_WINDOW: usize = 14;

mod flag {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const SYN: u8 = 0x02;
    pub(super) const RST: u8 = 0x04;
    pub(super) const ACK: u8 = 0x10;
}

/// What an answer needs to know of the frame that is refused.
///
/// Plain words, which the kernel keeps in a map between reading a frame and answering it: the verifier
/// would go through the second once for each way through the first.
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
    ethertype: u16,
    family: u8,
    protocol: u8,
    unfinished: u64,
}

wire! {
    Refused {
        source_mac: u64, destination_mac: u64, source: [u64; 2], destination: [u64; 2],
        network_offset: u32, transport_offset: u32, transport_len: u32, ethertype: u16,
        family: u8, protocol: u8, unfinished: u64,
    }
}

impl Refused {
    /// Of a frame that was read. `None` where no answer is due: a later fragment or a frame to a
    /// group address (RFC 1122, section 3.2.2), what is neither IPv4 nor IPv6.
    #[inline(always)]
    pub fn of(parsed: &Parsed) -> Option<Self> {
        if parsed.piece == Piece::Later
            || parsed.destination_mac.is_group()
            || parsed.network_offset >= NETWORK_OFFSET_LIMIT
            || parsed.family == Family::Other
        {
            return None;
        }
        Some(Self {
            source_mac: parsed.source_mac.word(),
            destination_mac: parsed.destination_mac.word(),
            source: [parsed.source.high, parsed.source.low],
            destination: [parsed.destination.high, parsed.destination.low],
            network_offset: parsed.network_offset as u32,
            transport_offset: parsed.transport_offset as u32,
            transport_len: parsed.transport_len as u32,
            ethertype: parsed.ethertype,
            family: parsed.family as u8,
            protocol: parsed.protocol,
            unfinished: 0,
        })
    }

    /// The same, of a socket buffer, whose checksum may be left to whoever sends it on
    /// (`CHECKSUM_PARTIAL`): then the sum over the pseudo-header stands in its place, and whatever
    /// we write there is summed up once more. No helper tells, so it is told by that sum.
    #[inline(always)]
    pub fn in_socket_buffer<P: Packet + ?Sized>(self, packet: &P) -> Self {
        let place = match self.protocol {
            protocol::TCP => TCP_CHECKSUM,
            protocol::UDP => UDP_CHECKSUM,
            _ => return self,
        };
        let ends = [self.source, self.destination];
        let mut sum = u64::from(self.protocol) + u64::from(self.transport_len);
        for [high, low] in ends {
            // In network order, 32 bits at a time: their halves are summed by the folding.
            for word in [high, low] {
                sum += u64::from((word as u32).swap_bytes())
                    + u64::from(((word >> 32) as u32).swap_bytes());
            }
        }
        let unfinished = match packet.load(self.transport_offset() + place) {
            Some(stored) => u16::from_be_bytes(stored) == folded(sum),
            None => false,
        };
        Self {
            unfinished: unfinished as u64,
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

    /// Octets before the network header.
    #[inline(always)]
    pub const fn network_offset(&self) -> usize {
        self.network_offset as usize
    }

    /// Whether it is TCP.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.protocol == protocol::TCP
    }

    /// Octets before the transport header.
    #[inline(always)]
    pub const fn transport_offset(&self) -> usize {
        self.transport_offset as usize
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

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum To {
    /// Whoever sent the refused packet.
    Sender = 0,
    /// Whoever it was for, in the sender's name.
    Receiver = 1,
}

/// Writes the answer to a refused frame into `out`, all but what [`seal`] adds, and gives its length
/// in octets.
///
/// `None` where no answer is due: a RST (RFC 9293, section 3.10.7), a protocol other than TCP and UDP.
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
            tcp_reset(packet, refused, to, out, transport)?,
        ),
        (protocol::UDP, To::Sender) => {
            let quoted = quote(packet, refused, out, transport)?;
            (icmp(refused), quoted)
        }
        (protocol::UDP, To::Receiver) => {
            let quoted = quote_reversed(packet, refused, out, transport)?;
            (icmp(refused), quoted)
        }
        _ => return None,
    };
    let ends = Ends::of(refused, to);
    network_header(refused, &ends, out, answer_protocol, transport_len)?;
    link_header(packet, refused, &ends, out, network_len + transport_len)?;
    Some(transport + transport_len)
}

/// How a refused DNS question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such name (RFC 2308, section 2.1).
    NxDomain,
    /// Its address is 0.0.0.0 or ::, and of other types there is nothing.
    Zero,
}

/// How long a resolver may keep a refusal, in seconds: what is allowed again is to be found soon.
pub const ANSWER_TTL: u32 = 10;

/// The size of messages that an answer says we take (RFC 9715, section 3).
const EDNS_SIZE: u16 = 1_232;

/// Where in `out` the message goes that answers a DNS question: behind the headers that
/// [`answer_question`] writes. `None` where no answer is due.
#[inline(always)]
pub fn place_of_message(refused: &Refused) -> Option<usize> {
    match refused.protocol {
        protocol::UDP => Some(refused.network_offset() + refused.network_len() + UDP_LEN),
        _ => None,
    }
}

/// Writes the headers before a DNS message of so many octets that lies in `out` already, all but what
/// [`seal`] adds, and gives the length of the whole frame in octets. It answers the question in a UDP frame.
#[inline(always)]
pub fn answer_question<P: Packet + ?Sized>(
    packet: &P,
    refused: &Refused,
    message_len: usize,
    out: &mut [u8; ANSWER_CAPACITY],
) -> Option<usize> {
    let network_len = refused.network_len();
    let udp = refused.network_offset() + network_len;
    let [s0, s1, d0, d1] = packet.load(refused.transport_offset())?;
    let len = UDP_LEN + message_len;
    let [h, l] = (len as u16).to_be_bytes();
    put(out, udp, [d0, d1, s0, s1])?;
    put(out, udp + 4, [h, l, 0, 0])?;
    let ends = Ends::of(refused, To::Sender);
    network_header(refused, &ends, out, protocol::UDP, len)?;
    link_header(packet, refused, &ends, out, network_len + len)?;
    Some(udp + len)
}

/// The longest name as text (RFC 1035, section 3.1, less the two octets that frame it).
const LONGEST_NAME: usize = 253;

/// Octets of a question whose name has so many as text; the root alone is one.
#[inline(always)]
const fn question_len(name_len: usize) -> usize {
    let name = if name_len == 0 { 1 } else { name_len + 2 };
    name + 4
}

/// Copies the question of `message`, whose name has so many octets as text, to where it belongs in a
/// DNS message at a place of `out`: as it was asked, letter by letter.
#[inline(always)]
pub fn echo_question<M: Packet + ?Sized>(
    message: &M,
    name_len: usize,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<()> {
    let len = question_len(name_len);
    let mut done = 0;
    while done < LONGEST_NAME + 6 {
        if done >= len {
            break;
        }
        let [octet] = message.load::<1>(HEADER_LEN + done)?;
        put(out, at + HEADER_LEN + done, [octet])?;
        done += 1;
    }
    Some(())
}

/// Writes the DNS message that refuses the question of `message`, whose name has so many octets as
/// text, at a place of `out`, around the question that [`echo_question`] puts there, and gives its
/// length in octets.
///
/// Where the question came with EDNS, the answer has it too (RFC 6891, section 6.1.1). A refusal without address carries the SOA record that lets resolvers remember it
/// (RFC 2308, section 3).
#[inline(always)]
pub fn dns_message<M: Packet + ?Sized>(
    message: &M,
    name_len: usize,
    refusal: Refusal,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<usize> {
    const RECURSION_DESIRED: u8 = 1;
    const RESPONSE: u8 = 0x80;
    const RECURSION_AVAILABLE: u8 = 0x80;
    const CHECKING_DISABLED: u8 = 0x10;
    const NX_DOMAIN: u8 = 3;
    const A: u16 = 1;
    const AAAA: u16 = 28;
    const SOA: [u8; 2] = [0, 6];
    const OPT: [u8; 3] = [0, 0, 41];
    const DNSSEC_OK: u8 = 0x80;
    /// A pointer to the name of the question.
    const NAME: [u8; 2] = [0xc0, HEADER_LEN as u8];
    const INTERNET: [u8; 2] = [0, 1];

    if name_len > LONGEST_NAME {
        return None;
    }
    let header: [u8; HEADER_LEN] = message.load(0)?;
    let [id_high, id_low, flags, more_flags, ..] = header;
    let question_len = question_len(name_len);
    let end = HEADER_LEN + question_len;
    let kind = u16::from_be_bytes(message.load(end - 4)?);
    let ttl = ANSWER_TTL.to_be_bytes();
    let mut written = at + end;
    let (answers, authorities) = match (refusal, kind) {
        (Refusal::Zero, A | AAAA) => {
            let len = if kind == A { 4 } else { 16 };
            put(out, written, NAME)?;
            put(out, written + 2, kind.to_be_bytes())?;
            put(out, written + 4, INTERNET)?;
            put(out, written + 6, ttl)?;
            put(out, written + 10, [0, len as u8])?;
            put(out, written + 12, [0; 16])?;
            written += 12 + len;
            (1, 0)
        }
        _ => {
            // Of nobody in particular: both names are the root.
            put(out, written, NAME)?;
            put(out, written + 2, SOA)?;
            put(out, written + 4, INTERNET)?;
            put(out, written + 6, ttl)?;
            put(out, written + 10, [0, 22, 0, 0])?;
            for (number, value) in [1, 3_600, 600, 86_400, ANSWER_TTL].into_iter().enumerate() {
                put(out, written + 14 + number * 4, value.to_be_bytes())?;
            }
            written += 34;
            (0, 1)
        }
    };
    let mut additional = 0;
    if let Some(edns) = message.load::<11>(end)
        && [edns[0], edns[1], edns[2]] == OPT
    {
        let [size_high, size_low] = EDNS_SIZE.to_be_bytes();
        put(out, written, [0, 0, 41, size_high, size_low, 0, 0])?;
        put(out, written + 7, [edns[7] & DNSSEC_OK, 0, 0, 0])?;
        written += 11;
        additional = 1;
    }
    let code = match refusal {
        Refusal::NxDomain => NX_DOMAIN,
        Refusal::Zero => 0,
    };
    put(
        out,
        at,
        [
            id_high,
            id_low,
            RESPONSE | flags & RECURSION_DESIRED,
            RECURSION_AVAILABLE | more_flags & CHECKING_DISABLED | code,
            0,
            1,
            0,
            answers,
            0,
            authorities,
            0,
            additional,
        ],
    )?;
    Some(written - at)
}

/// From whom an answer is, and to whom.
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
fn icmp(refused: &Refused) -> u8 {
    match refused.is_ipv4() {
        true => protocol::ICMP,
        _ => protocol::ICMPV6,
    }
}

/// The reset that refuses a segment: for its sender that of a closed port (RFC 9293, section 3.10.7.1),
/// for its receiver one in the segment's place, with its own numbers: they are what the receiver
/// expects next (RFC 9293, section 3.10.7.4; RFC 5961, section 3.2).
#[inline(always)]
fn tcp_reset<P: Packet + ?Sized>(
    packet: &P,
    refused: &Refused,
    to: To,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<usize> {
    let header: [u8; TCP_LEN] = packet.load(refused.transport_offset())?;
    let [
        s0,
        s1,
        d0,
        d1,
        q0,
        q1,
        q2,
        q3,
        a0,
        a1,
        a2,
        a3,
        offset,
        flags,
        ..,
    ] = header;
    if flags & flag::RST != 0 {
        return None;
    }
    let (own, acknowledged) = ([q0, q1, q2, q3], [a0, a1, a2, a3]);
    let is_acknowledging = flags & flag::ACK;
    let (ports, sequence, acknowledgment, acknowledges) = match to {
        To::Receiver => ([s0, s1, d0, d1], own, acknowledged, is_acknowledging),
        To::Sender if is_acknowledging != 0 => ([d0, d1, s0, s1], acknowledged, [0; 4], 0),
        To::Sender => {
            let header_len = u32::from(offset >> 4) * 4;
            let payload = refused.transport_len.saturating_sub(header_len);
            let virtual_octets =
                u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
            let end = u32::from_be_bytes(own)
                .wrapping_add(payload)
                .wrapping_add(virtual_octets);
            ([d0, d1, s0, s1], [0; 4], end.to_be_bytes(), flag::ACK)
        }
    };
    put(out, at, ports)?;
    put(out, at + 4, sequence)?;
    put(out, at + 8, acknowledgment)?;
    let flags = flag::RST | acknowledges;
    put(out, at + 12, [(TCP_LEN as u8 / 4) << 4, flags, 0, 0])?;
    put(out, at + 16, [0; 4])?;
    Some(TCP_LEN)
}

/// Port unreachable for whom a datagram was, as if its own datagram the other way had not come: the
/// quote is made up, of the fields by which a socket is found.
#[inline(always)]
fn quote_reversed<P: Packet + ?Sized>(
    packet: &P,
    refused: &Refused,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<usize> {
    let [s0, s1, d0, d1] = packet.load(refused.transport_offset())?;
    let quoted = at + ICMP_LEN;
    let len = match refused.is_ipv4() {
        true => {
            put(out, at, [3, 3, 0, 0])?;
            put(out, quoted, [0x45, 0, 0, (IPV4_LEN + UDP_LEN) as u8])?;
            put(out, quoted + 4, [0, 0, 0x40, 0])?;
            put(out, quoted + 8, [HOP_LIMIT, protocol::UDP, 0, 0])?;
            let [a, b, c, d, ..] = address(refused.destination).octets();
            put(out, quoted + 12, [a, b, c, d])?;
            let [a, b, c, d, ..] = address(refused.source).octets();
            put(out, quoted + 16, [a, b, c, d])?;
            let sum = checksum(out, quoted, IPV4_LEN, 0)?;
            put(out, quoted + 10, sum.to_be_bytes())?;
            IPV4_LEN
        }
        _ => {
            put(out, at, [1, 4, 0, 0])?;
            put(out, quoted, [0x60, 0, 0, 0])?;
            put(
                out,
                quoted + 4,
                [0, UDP_LEN as u8, protocol::UDP, HOP_LIMIT],
            )?;
            put(out, quoted + 8, address(refused.destination).octets())?;
            put(out, quoted + 24, address(refused.source).octets())?;
            IPV6_LEN
        }
    };
    put(out, at + 4, [0; 4])?;
    put(out, quoted + len, [d0, d1, s0, s1])?;
    put(out, quoted + len + 4, [0, UDP_LEN as u8, 0, 0])?;
    Some(ICMP_LEN + len + UDP_LEN)
}

/// RFC 792 and RFC 4443, section 3.1: port unreachable, with the start of the refused packet.
#[inline(always)]
fn quote<P: Packet + ?Sized>(
    packet: &P,
    refused: &Refused,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<usize> {
    let type_code = match refused.is_ipv4() {
        true => [3, 3, 0, 0],
        _ => [1, 4, 0, 0],
    };
    put(out, at, type_code)?;
    put(out, at + 4, [0; 4])?;
    let wanted = refused
        .transport_offset()
        .wrapping_sub(refused.network_offset())
        + 8;
    let mut copied = 0;
    while copied < MAX_QUOTE {
        if copied >= wanted {
            break;
        }
        let piece: [u8; 4] = packet.load(refused.network_offset() + copied)?;
        put(out, at + ICMP_LEN + copied, piece)?;
        copied += 4;
    }
    Some(ICMP_LEN + copied)
}

#[inline(always)]
fn network_header(
    refused: &Refused,
    ends: &Ends,
    out: &mut [u8; ANSWER_CAPACITY],
    next: u8,
    payload: usize,
) -> Option<()> {
    let at = refused.network_offset();
    match refused.is_ipv4() {
        true => {
            let [h, l] = ((IPV4_LEN + payload) as u16).to_be_bytes();
            put(out, at, [0x45, 0, h, l])?;
            // Never fragmented: identification 0 (RFC 6864), DF set.
            put(out, at + 4, [0, 0, 0x40, 0])?;
            put(out, at + 8, [HOP_LIMIT, next, 0, 0])?;
            let [a, b, c, d, ..] = ends.source.octets();
            put(out, at + 12, [a, b, c, d])?;
            let [a, b, c, d, ..] = ends.destination.octets();
            put(out, at + 16, [a, b, c, d])?;
            let sum = checksum(out, at, IPV4_LEN, 0)?;
            put(out, at + 10, sum.to_be_bytes())
        }
        _ => {
            let [h, l] = (payload as u16).to_be_bytes();
            put(out, at, [0x60, 0, 0, 0])?;
            put(out, at + 4, [h, l, next, HOP_LIMIT])?;
            put(out, at + 8, ends.source.octets())?;
            put(out, at + 24, ends.destination.octets())
        }
    }
}

/// Writes the checksum of the transport header of an answer that [`refuse`] or [`answer_question`]
/// left in `out` and that has so many octets: the last step of each answer. `None` where there is no
/// such answer.
///
/// Over the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) and the transport; ICMP for
/// IPv4 has no pseudo-header.
///
/// Where the refused packet's checksum was not finished, that of the answer is summed up once more
/// on its way, from the transport header on and into the same place. What is written is right before
/// and after: a reset has a window, which nobody reads, that makes the checksum the sum over the
/// pseudo-header; ICMP for IPv6 has that sum among its unused octets, where UDP has its checksum.
/// Only a DNS answer has no room for that: it is right after.
#[inline(always)]
pub fn seal(refused: &Refused, len: usize, out: &mut [u8; ANSWER_CAPACITY]) -> Option<()> {
    let network = refused.network_offset();
    let at = network + refused.network_len();
    let (next, addresses, addresses_len) = match refused.is_ipv4() {
        true => (*out.get(network + 9)?, network + 12, 8),
        false => (*out.get(network + 6)?, network + 8, 32),
    };
    let len = len.wrapping_sub(at);
    // What is summed in pieces of four is filled up.
    put(out, at + len, [0; 4])?;
    let pseudo = match next {
        protocol::ICMP => 0,
        _ => {
            let addresses = checksum(out, addresses, addresses_len, 0)?;
            u32::from(!addresses) + u32::from(next) + len as u32
        }
    };
    let unfinished = refused.unfinished != 0;
    let half = folded(u64::from(pseudo));
    if unfinished && next == protocol::ICMPV6 {
        put(out, at + UDP_CHECKSUM, half.to_be_bytes())?;
    }
    let mut sum = checksum(out, at, len, pseudo)?;
    let place = match next {
        protocol::TCP => {
            if unfinished {
                let window = !folded(u64::from(!sum) + u64::from(half));
                put(out, at + TCP_WINDOW, window.to_be_bytes())?;
                sum = half;
            }
            at + TCP_CHECKSUM
        }
        protocol::UDP => {
            // Zero says that there is none (RFC 768).
            if sum == 0 {
                sum = u16::MAX;
            }
            if unfinished {
                sum = half;
            }
            at + UDP_CHECKSUM
        }
        _ => at + ICMP_CHECKSUM,
    };
    put(out, place, sum.to_be_bytes())
}

/// The one's complement sum of 16 bits (RFC 1071).
#[inline(always)]
const fn folded(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The MAC addresses of both ends; tags and PPPoE session stay, with the PPPoE length made right.
#[inline(always)]
fn link_header<P: Packet + ?Sized>(
    packet: &P,
    refused: &Refused,
    ends: &Ends,
    out: &mut [u8; ANSWER_CAPACITY],
    payload: usize,
) -> Option<()> {
    put(out, 0, ends.destination_mac.octets())?;
    put(out, 6, ends.source_mac.octets())?;
    let mut at = 12;
    while at < MAX_LINK_HEADER {
        if at >= refused.network_offset() {
            break;
        }
        put(out, at, packet.load::<2>(at)?)?;
        at += 2;
    }
    if refused.ethertype == ethertype::PPPOE_SESSION {
        // The PPP protocol field counts as payload (RFC 2516, section 4).
        put(
            out,
            refused.network_offset() - 4,
            ((payload + 2) as u16).to_be_bytes(),
        )?;
    }
    Some(())
}

/// Above the length of every transport header with what it carries: of the longest DNS message, 324
/// octets. With the longest headers before it, it fits [`ANSWER_CAPACITY`], whatever the verifier
/// believes of the length.
const LONGEST_SUMMED: usize = 384;
const _: () = assert!(NETWORK_OFFSET_LIMIT + IPV6_LEN + LONGEST_SUMMED + 4 <= ANSWER_CAPACITY);

/// The Internet checksum (RFC 1071) of `len` octets, and of those behind them up to a multiple of
/// four, added to `start`.
#[inline(always)]
fn checksum(out: &[u8; ANSWER_CAPACITY], at: usize, len: usize, start: u32) -> Option<u16> {
    let mut sum = u64::from(start);
    let mut done = 0;
    while done < LONGEST_SUMMED {
        if done >= len {
            break;
        }
        let four: [u8; 4] = *out.get(at + done..)?.first_chunk()?;
        sum += u64::from(u32::from_be_bytes(four));
        done += 4;
    }
    Some(!folded(sum))
}

#[inline(always)]
fn put<const N: usize>(out: &mut [u8; ANSWER_CAPACITY], at: usize, octets: [u8; N]) -> Option<()> {
    *out.get_mut(at..)?.first_chunk_mut()? = octets;
    Some(())
}
