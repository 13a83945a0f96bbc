//! ICMP errors that refuse other packets than TCP.

use super::{
    ANSWER_CAPACITY, Refused, address,
    checksum::checksum,
    headers::{HOP_LIMIT, IPV4_LEN, IPV6_LEN, UDP_LEN},
    put,
};
use crate::{packet::Packet, parse::protocol};

const LEN: usize = 8;

/// Bytes of the refused packet that an ICMP answer quotes at most. RFC 792 asks for the IP header and 8
/// bytes, RFC 4443 for as much as fits; the header chain and the ports are what a sender needs to find
/// its socket.
const MAX_QUOTE: usize = 128;

/// Type and code: port unreachable for UDP, administratively prohibited for other protocols (RFC 792,
/// RFC 1812, section 5.2.7.1; RFC 4443, section 3.1).
#[inline(always)]
const fn type_and_code(refused: &Refused) -> [u8; 4] {
    match (refused.is_ipv4(), refused.protocol) {
        (true, protocol::UDP) => [3, 3, 0, 0],
        (true, _) => [3, 13, 0, 0],
        (false, protocol::UDP) => [1, 4, 0, 0],
        (false, _) => [1, 1, 0, 0],
    }
}

/// The protocol that ICMP is to the packet's family.
#[inline(always)]
pub(super) fn protocol_of(refused: &Refused) -> u8 {
    match refused.is_ipv4() {
        true => protocol::ICMP,
        _ => protocol::ICMPV6,
    }
}

/// Port unreachable for the receiver of a datagram, as if its own datagram the other way had not come: the
/// quote is synthetic, and has the fields by which a socket is found.
#[inline(always)]
pub(super) fn quote_reversed<P: Packet + ?Sized>(
    packet: &P,
    refused: &Refused,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<usize> {
    let [s0, s1, d0, d1] = packet.load(refused.transport_offset())?;
    let quoted = at + LEN;
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
    Some(LEN + len + UDP_LEN)
}

/// The error for the sender of the refused packet, with the start of that packet.
#[inline(always)]
pub(super) fn quote<P: Packet + ?Sized>(
    packet: &P,
    refused: &Refused,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<usize> {
    put(out, at, type_and_code(refused))?;
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
        let Some(piece) = packet.load::<4>(refused.network_offset() + copied) else {
            // A header is there; its payload may be shorter than the quote.
            break;
        };
        put(out, at + LEN + copied, piece)?;
        copied += 4;
    }
    // Linux 6.1 would go through all that follows once for each length.
    Some(LEN + packet.forget(copied, refused.source[0]))
}
