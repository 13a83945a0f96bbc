//! Checksums of answers.

use super::{ANSWER_CAPACITY, NETWORK_OFFSET_LIMIT, Refused, headers::IPV6_LEN, put};
use crate::parse::protocol;

/// Where a header has its checksum, in bytes from its start.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ICMP_CHECKSUM: usize = 2;

/// Writes the checksum of the transport header of an answer that [`refuse`](super::refuse) or
/// [`answer_question`](super::answer_question) left in `out` and that has so many bytes: the last step of
/// each answer. `None` where there is no such answer.
///
/// Over the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) and the transport; ICMP for
/// IPv4 has no pseudo-header.
///
/// Where the refused packet's checksum was not finished (`CHECKSUM_PARTIAL`), the answer's checksum is summed
/// up on its way, from the transport header on, and put where the refused packet has its own. TCP and UDP get
/// the sum over the pseudo-header for that. An answer of ICMP to UDP is right before and after: the place of
/// UDP's checksum is among the unused bytes of ICMP, which have the sum over the pseudo-header of ICMPv6. IPv4
/// has none, so zero is put there.
#[inline(always)]
pub fn seal(refused: &Refused, len: usize, out: &mut [u8; ANSWER_CAPACITY]) -> Option<()> {
    let network = refused.network_offset();
    let at = network + refused.network_len();
    let (next, addresses, addresses_len) = match refused.is_ipv4() {
        true => (*out.get(network + 9)?, network + 12, 8),
        false => (*out.get(network + 6)?, network + 8, 32),
    };
    let len = len.wrapping_sub(at);
    // The loop below sums four bytes at a time, so zeros follow the last of them.
    put(out, at + len, [0; 4])?;
    let pseudo = match next {
        protocol::ICMP => 0,
        _ => {
            let addresses = checksum(out, addresses, addresses_len, 0)?;
            u32::from(!addresses) + u32::from(next) + len as u32
        }
    };
    let half = folded(u64::from(pseudo));
    if refused.is_unfinished() && next == protocol::ICMPV6 {
        put(out, at + UDP_CHECKSUM, half.to_be_bytes())?;
    }
    let sum = checksum(out, at, len, pseudo)?;
    let (place, sum) = match next {
        protocol::TCP if refused.is_unfinished() => (TCP_CHECKSUM, half),
        protocol::TCP => (TCP_CHECKSUM, sum),
        protocol::UDP if refused.is_unfinished() => (UDP_CHECKSUM, half),
        // Zero says that there is none (RFC 768).
        protocol::UDP if sum == 0 => (UDP_CHECKSUM, u16::MAX),
        protocol::UDP => (UDP_CHECKSUM, sum),
        _ => (ICMP_CHECKSUM, sum),
    };
    put(out, at + place, sum.to_be_bytes())
}

/// The one's complement sum of 16 bits (RFC 1071).
#[inline(always)]
const fn folded(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Above the length of every transport header with what it carries: of the longest DNS message, 324
/// octets. With the longest headers before it, it fits [`ANSWER_CAPACITY`], whatever the verifier
/// believes of the length.
const LONGEST_SUMMED: usize = 384;
const _: () = assert!(NETWORK_OFFSET_LIMIT + IPV6_LEN + LONGEST_SUMMED + 4 <= ANSWER_CAPACITY);

/// The Internet checksum (RFC 1071) of `len` octets, and of those behind them up to a multiple of
/// four, added to `start`.
#[inline(always)]
pub(super) fn checksum(
    out: &[u8; ANSWER_CAPACITY],
    at: usize,
    len: usize,
    start: u32,
) -> Option<u16> {
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
