//! The short way of the commonest answer: the reset that refuses a SYN whose headers lie behind one
//! another, without tags, options of IP or extension headers.
//!
//! It gives the same as [`refuse`](super::refuse) and [`seal`](super::seal) together, without a look at the
//! packet and in registers. The two cost as much as all that was done with the packet before. A test holds the
//! two ways together.

use super::{
    Headers,
    headers::{HOP_LIMIT, IPV4_LEN, IPV6_LEN},
    is_group_or_none,
};
use crate::parse::{Address, Family, protocol, tcp_flag};

/// Bytes of an Ethernet header without tags.
pub const LINK_LEN: usize = 14;

/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;

/// The headers of a SYN that is refused, as far as its reset needs them.
#[derive(Clone, Copy, Debug)]
pub struct Syn {
    source: Address,
    destination: Address,
    /// As they lie in the header.
    ports: u32,
    /// The number that the reset acknowledges.
    end: u32,
}

impl Syn {
    /// Of a segment with these headers, ports as they lie in the header, sequence number, and so many bytes
    /// of TCP header. `None` where it goes the long way.
    #[inline(always)]
    pub fn of(headers: &Headers, ports: u32, sequence: u32, header_len: u32) -> Option<Self> {
        let network_len = match headers.family {
            Family::V4 => IPV4_LEN,
            Family::V6 => IPV6_LEN,
            Family::Other => return None,
        };
        let flags = headers.tcp_flags;
        if headers.protocol != protocol::TCP
            || flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) != tcp_flag::SYN
            || headers.is_later_piece
            || (header_len as usize) < TCP_LEN
            || headers.network_offset != LINK_LEN
            || headers.transport_offset != LINK_LEN + network_len
            || headers.destination_mac.is_group()
            || is_group_or_none(headers.family, headers.source)
            || is_group_or_none(headers.family, headers.destination)
        {
            return None;
        }
        let payload = (headers.transport_len as u32).saturating_sub(header_len);
        let virtual_octets = 1 + u32::from(flags & tcp_flag::FIN != 0);
        Some(Self {
            source: headers.source,
            destination: headers.destination,
            ports,
            end: sequence.wrapping_add(payload).wrapping_add(virtual_octets),
        })
    }

    /// IP and TCP header of the reset for IPv4, as they lie in memory.
    #[inline(always)]
    pub fn reset_v4(&self) -> [u32; (IPV4_LEN + TCP_LEN) / 4] {
        const LEN: u16 = (IPV4_LEN + TCP_LEN) as u16;
        const FIRST: u32 = word([0x45, 0, (LEN >> 8) as u8, LEN as u8]);
        // Never fragmented: identification 0 (RFC 6864), DF set.
        const SECOND: u32 = word([0, 0, 0x40, 0]);
        const THIRD: u32 = word([HOP_LIMIT, protocol::TCP, 0, 0]);

        let (from, to) = (self.destination.high as u32, self.source.high as u32);
        let addresses = u64::from(from) + u64::from(to);
        let sum = u64::from(FIRST) + u64::from(SECOND) + u64::from(THIRD) + addresses;
        let [ports, sequence, acknowledgment, flags, sealed] = self.tcp(addresses);
        [
            FIRST,
            SECOND,
            THIRD | u32::from(complement(sum)) << 16,
            from,
            to,
            ports,
            sequence,
            acknowledgment,
            flags,
            sealed,
        ]
    }

    /// IP and TCP header of the reset for IPv6, as they lie in memory.
    #[inline(always)]
    pub fn reset_v6(&self) -> [u32; (IPV6_LEN + TCP_LEN) / 4] {
        let halves = |half: u64| [half as u32, (half >> 32) as u32];
        let [f0, f1] = halves(self.destination.high);
        let [f2, f3] = halves(self.destination.low);
        let [t0, t1] = halves(self.source.high);
        let [t2, t3] = halves(self.source.low);
        let addresses = [f0, f1, f2, f3, t0, t1, t2, t3];
        let sum = addresses.into_iter().map(u64::from).sum();
        let [ports, sequence, acknowledgment, flags, sealed] = self.tcp(sum);
        [
            word([0x60, 0, 0, 0]),
            word([0, TCP_LEN as u8, protocol::TCP, HOP_LIMIT]),
            f0,
            f1,
            f2,
            f3,
            t0,
            t1,
            t2,
            t3,
            ports,
            sequence,
            acknowledgment,
            flags,
            sealed,
        ]
    }

    /// The TCP header (RFC 9293, section 3.10.7.1), sealed over a sum of the addresses.
    #[inline(always)]
    fn tcp(&self, addresses: u64) -> [u32; TCP_LEN / 4] {
        const LEN_AND_FLAGS: u32 = word([
            (TCP_LEN as u8 / 4) << 4,
            tcp_flag::RST | tcp_flag::ACK,
            0,
            0,
        ]);
        const PSEUDO: u32 = word([0, protocol::TCP, 0, TCP_LEN as u8]);

        let ports = self.ports.rotate_left(16);
        let acknowledgment = self.end.to_be();
        let sum = addresses
            + u64::from(PSEUDO)
            + u64::from(ports)
            + u64::from(acknowledgment)
            + u64::from(LEN_AND_FLAGS);
        [
            ports,
            0,
            acknowledgment,
            LEN_AND_FLAGS,
            u32::from(complement(sum)),
        ]
    }
}

/// Four octets of a header as they lie in memory.
const fn word(octets: [u8; 4]) -> u32 {
    u32::from_le_bytes(octets)
}

/// The Internet checksum of words as they lie in memory, as it lies there: in which order octets are summed
/// up makes no difference (RFC 1071, section 2).
#[inline(always)]
const fn complement(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}
