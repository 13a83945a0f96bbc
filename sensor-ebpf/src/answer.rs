//! The packets that tell a device it was refused: TCP RST and ICMP port unreachable.
//!
//! Pure: from the refused frame to the octets of the answer. The kernel puts them on the wire.

use crate::{
    packet::Packet,
    parse::{Family, Parsed, Piece, ethertype, protocol},
};

/// Room for the longest answer: Ethernet, four tags, PPPoE, IPv6, ICMPv6 and the quote.
pub const ANSWER_CAPACITY: usize = 256;

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
const ICMP_LEN: usize = 8;

mod flag {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const SYN: u8 = 0x02;
    pub(super) const RST: u8 = 0x04;
    pub(super) const ACK: u8 = 0x10;
}

/// Writes the answer to a refused frame into `out` and gives its length in octets.
///
/// `None` where no answer is due: a RST (RFC 9293, section 3.10.7), a later fragment or a frame to
/// a group address (RFC 1122, section 3.2.2), a protocol other than TCP and UDP.
#[inline(always)]
pub fn refuse<P: Packet + ?Sized>(
    packet: &P,
    parsed: &Parsed,
    out: &mut [u8; ANSWER_CAPACITY],
) -> Option<usize> {
    if parsed.piece == Piece::Later
        || parsed.destination_mac.is_group()
        || parsed.network_offset >= NETWORK_OFFSET_LIMIT
    {
        return None;
    }
    let network_len = match parsed.family {
        Family::V4 => IPV4_LEN,
        Family::V6 => IPV6_LEN,
        Family::Other => return None,
    };
    let network = parsed.network_offset;
    let transport = network + network_len;
    let (answer_protocol, transport_len) = match parsed.protocol {
        protocol::TCP => (protocol::TCP, tcp_reset(packet, parsed, out, transport)?),
        protocol::UDP => {
            let quoted = quote(packet, parsed, out, transport)?;
            match parsed.family {
                Family::V4 => (protocol::ICMP, quoted),
                _ => (protocol::ICMPV6, quoted),
            }
        }
        _ => return None,
    };
    network_header(parsed, out, answer_protocol, transport_len)?;
    transport_checksum(parsed, out, answer_protocol, transport_len)?;
    link_header(packet, parsed, out, network_len + transport_len)?;
    Some(transport + transport_len)
}

/// RFC 9293, section 3.10.7.1: the reset that a closed port sends.
#[inline(always)]
fn tcp_reset<P: Packet + ?Sized>(
    packet: &P,
    parsed: &Parsed,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<usize> {
    let header: [u8; TCP_LEN] = packet.load(parsed.transport_offset)?;
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
    let (sequence, acknowledgment, answer_flags) = if flags & flag::ACK != 0 {
        ([a0, a1, a2, a3], [0; 4], flag::RST)
    } else {
        let header_len = usize::from(offset >> 4) * 4;
        let payload = parsed.transport_len.saturating_sub(header_len) as u32;
        let virtual_octets = u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
        let end = u32::from_be_bytes([q0, q1, q2, q3])
            .wrapping_add(payload)
            .wrapping_add(virtual_octets);
        ([0; 4], end.to_be_bytes(), flag::RST | flag::ACK)
    };
    put(out, at, [d0, d1, s0, s1])?;
    put(out, at + 4, sequence)?;
    put(out, at + 8, acknowledgment)?;
    put(out, at + 12, [(TCP_LEN as u8 / 4) << 4, answer_flags, 0, 0])?;
    put(out, at + 16, [0; 4])?;
    Some(TCP_LEN)
}

/// RFC 792 and RFC 4443, section 3.1: port unreachable, with the start of the refused packet.
#[inline(always)]
fn quote<P: Packet + ?Sized>(
    packet: &P,
    parsed: &Parsed,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<usize> {
    let type_code = match parsed.family {
        Family::V4 => [3, 3, 0, 0],
        _ => [1, 4, 0, 0],
    };
    put(out, at, type_code)?;
    put(out, at + 4, [0; 4])?;
    let wanted = parsed.transport_offset - parsed.network_offset + 8;
    let mut copied = 0;
    while copied < MAX_QUOTE {
        if copied >= wanted {
            break;
        }
        let piece: [u8; 4] = packet.load(parsed.network_offset + copied)?;
        put(out, at + ICMP_LEN + copied, piece)?;
        copied += 4;
    }
    Some(ICMP_LEN + copied)
}

#[inline(always)]
fn network_header(
    parsed: &Parsed,
    out: &mut [u8; ANSWER_CAPACITY],
    next: u8,
    payload: usize,
) -> Option<()> {
    let at = parsed.network_offset;
    match parsed.family {
        Family::V4 => {
            let [h, l] = ((IPV4_LEN + payload) as u16).to_be_bytes();
            put(out, at, [0x45, 0, h, l])?;
            // Never fragmented: identification 0 (RFC 6864), DF set.
            put(out, at + 4, [0, 0, 0x40, 0])?;
            put(out, at + 8, [HOP_LIMIT, next, 0, 0])?;
            let [a, b, c, d, ..] = parsed.destination.octets();
            put(out, at + 12, [a, b, c, d])?;
            let [a, b, c, d, ..] = parsed.source.octets();
            put(out, at + 16, [a, b, c, d])?;
            let sum = checksum(out, at, IPV4_LEN, 0)?;
            put(out, at + 10, sum.to_be_bytes())
        }
        _ => {
            let [h, l] = (payload as u16).to_be_bytes();
            put(out, at, [0x60, 0, 0, 0])?;
            put(out, at + 4, [h, l, next, HOP_LIMIT])?;
            put(out, at + 8, parsed.destination.octets())?;
            put(out, at + 24, parsed.source.octets())
        }
    }
}

/// The checksum over the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) and the
/// transport; ICMP for IPv4 has no pseudo-header.
#[inline(always)]
fn transport_checksum(
    parsed: &Parsed,
    out: &mut [u8; ANSWER_CAPACITY],
    next: u8,
    len: usize,
) -> Option<()> {
    let (network_len, addresses, addresses_len) = match parsed.family {
        Family::V4 => (IPV4_LEN, parsed.network_offset + 12, 8),
        _ => (IPV6_LEN, parsed.network_offset + 8, 32),
    };
    let pseudo = match next {
        protocol::ICMP => 0,
        _ => {
            let addresses = checksum(out, addresses, addresses_len, 0)?;
            u32::from(!addresses) + u32::from(next) + len as u32
        }
    };
    let at = parsed.network_offset + network_len;
    let sum = checksum(out, at, len, pseudo)?;
    let place = match next {
        protocol::TCP => at + 16,
        _ => at + 2,
    };
    put(out, place, sum.to_be_bytes())
}

/// Swaps the MAC addresses; tags and PPPoE session stay, with the PPPoE length made right.
#[inline(always)]
fn link_header<P: Packet + ?Sized>(
    packet: &P,
    parsed: &Parsed,
    out: &mut [u8; ANSWER_CAPACITY],
    payload: usize,
) -> Option<()> {
    put(out, 0, parsed.source_mac.octets())?;
    put(out, 6, parsed.destination_mac.octets())?;
    let mut at = 12;
    while at < MAX_LINK_HEADER {
        if at >= parsed.network_offset {
            break;
        }
        put(out, at, packet.load::<2>(at)?)?;
        at += 2;
    }
    if parsed.ethertype == ethertype::PPPOE_SESSION {
        // The PPP protocol field counts as payload (RFC 2516, section 4).
        put(
            out,
            parsed.network_offset - 4,
            ((payload + 2) as u16).to_be_bytes(),
        )?;
    }
    Some(())
}

/// The Internet checksum (RFC 1071) of `len` octets, `len` even, added to `start`.
#[inline(always)]
fn checksum(out: &[u8; ANSWER_CAPACITY], at: usize, len: usize, start: u32) -> Option<u16> {
    let mut sum = start;
    let mut done = 0;
    while done < ANSWER_CAPACITY {
        if done >= len {
            break;
        }
        sum += u32::from(u16::from_be_bytes([
            *out.get(at + done)?,
            *out.get(at + done + 1)?,
        ]));
        done += 2;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    Some(!(sum as u16))
}

#[inline(always)]
fn put<const N: usize>(out: &mut [u8; ANSWER_CAPACITY], at: usize, octets: [u8; N]) -> Option<()> {
    *out.get_mut(at..)?.first_chunk_mut()? = octets;
    Some(())
}
