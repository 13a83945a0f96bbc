//! The reset that refuses a segment.

use super::{ANSWER_CAPACITY, Refused, To, put};
use crate::{packet::Packet, parse::tcp_flag};

const LEN: usize = 20;

/// The reset that refuses a segment: for its sender that of a closed port (RFC 9293, section 3.10.7.1),
/// for its receiver one in the segment's place, with its own numbers: they are what the receiver
/// expects next (RFC 9293, section 3.10.7.4; RFC 5961, section 3.2).
#[inline(always)]
pub(super) fn reset<P: Packet + ?Sized>(
    packet: &P,
    refused: &Refused,
    to: To,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<usize> {
    let header: [u8; LEN] = packet.load(refused.transport_offset())?;
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
    let (own, acknowledged) = ([q0, q1, q2, q3], [a0, a1, a2, a3]);
    let is_acknowledging = flags & tcp_flag::ACK;
    let (ports, sequence, acknowledgment, acknowledges) = match to {
        To::Receiver => ([s0, s1, d0, d1], own, acknowledged, is_acknowledging),
        To::Sender if is_acknowledging != 0 => ([d0, d1, s0, s1], acknowledged, [0; 4], 0),
        To::Sender => {
            let header_len = u32::from(offset >> 4) * 4;
            let payload = refused.transport_len.saturating_sub(header_len);
            let virtual_octets =
                u32::from(flags & tcp_flag::SYN != 0) + u32::from(flags & tcp_flag::FIN != 0);
            let end = u32::from_be_bytes(own)
                .wrapping_add(payload)
                .wrapping_add(virtual_octets);
            ([d0, d1, s0, s1], [0; 4], end.to_be_bytes(), tcp_flag::ACK)
        }
    };
    put(out, at, ports)?;
    put(out, at + 4, sequence)?;
    put(out, at + 8, acknowledgment)?;
    let flags = tcp_flag::RST | acknowledges;
    let [w0, w1, u0, u1] = refused.signature().to_be_bytes();
    put(out, at + 12, [(LEN as u8 / 4) << 4, flags, w0, w1])?;
    put(out, at + 16, [0, 0, u0, u1])?;
    Some(LEN)
}
