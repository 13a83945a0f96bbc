//! The headers before an answer: link and network.

use super::{ANSWER_CAPACITY, Ends, Refused, checksum::checksum, put};
use crate::{
    packet::Packet,
    parse::{MAX_VLAN_TAGS, ethertype},
};

/// The longest Ethernet, tag and PPPoE header that the parser passes.
pub(super) const MAX_LINK_HEADER: usize = 14 + 4 * MAX_VLAN_TAGS + 8;

/// Hop limit of an answer (RFC 1700's recommended default).
pub(super) const HOP_LIMIT: u8 = 64;

pub(super) const IPV4_LEN: usize = 20;
pub(super) const IPV6_LEN: usize = 40;
pub(super) const UDP_LEN: usize = 8;

#[inline(always)]
pub(super) fn network_header(
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

/// The MAC addresses of both ends; tags and PPPoE session stay, with the PPPoE length made right.
#[inline(always)]
pub(super) fn link_header<P: Packet + ?Sized>(
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
