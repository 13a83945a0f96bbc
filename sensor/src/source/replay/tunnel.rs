//! The packets that tunnels carry inside of others.
//!
//! A tunnel is replayed like an interface of its own: the outer frame is accounted as it is, the
//! inner one to the tunnel's place, so that the totals of a capture are those of its frames.

use sensor_ebpf::{
    packet::Packet as _,
    parse::{Parsed, Piece, ethertype, protocol},
};

use super::frame::{Frame, Framed, HEADER_LEN, ethernet};

/// Where a frame was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// In the capture itself.
    Capture,
    /// IPv4 or IPv6 right inside of either (RFC 2003, RFC 4213, RFC 2473).
    IpInIp,
    /// Generic routing encapsulation (RFC 2784 and 2890).
    Gre,
    /// RFC 7348.
    Vxlan,
    /// IPv6 through IPv4 address translators (RFC 4380).
    Teredo,
    /// The user plane of a mobile network (3GPP TS 29.281).
    Gtp,
}

impl Place {
    /// All, at the place of their number.
    pub const ALL: [Self; 6] = [
        Self::Capture,
        Self::IpInIp,
        Self::Gre,
        Self::Vxlan,
        Self::Teredo,
        Self::Gtp,
    ];

    /// The name of the interface in its stead.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::IpInIp => "ip-in-ip",
            Self::Gre => "gre",
            Self::Vxlan => "vxlan",
            Self::Teredo => "teredo",
            Self::Gtp => "gtp",
        }
    }

    /// The index of the interface in its stead, from 1 on.
    pub const fn ifindex(self) -> u32 {
        self as u32 + 1
    }

    /// The place with this index.
    pub fn from_ifindex(ifindex: u32) -> Option<Self> {
        let number = ifindex.checked_sub(1)?;
        Self::ALL.get(number as usize).copied()
    }
}

/// The frame inside of a frame, where it is a tunnel's and has one.
///
/// Pieces of a packet are not put together; octets that were not captured are missing.
pub(super) fn inner<'a>(frame: &Frame<'a>, parsed: &Parsed) -> Option<(Place, Framed<'a>)> {
    const IPV4: u8 = 4;
    const IPV6: u8 = 41;
    const GRE: u8 = 47;

    if parsed.piece != Piece::Whole {
        return None;
    }
    let transport = Inside {
        octets: frame.from(parsed.transport_offset),
        len: parsed.transport_len,
    };
    match parsed.protocol {
        IPV4 | IPV6 => Some((Place::IpInIp, transport.ip()?)),
        GRE => Some((Place::Gre, gre(transport)?)),
        protocol::UDP => {
            let payload = transport.behind(parsed.transport_header_len)?;
            of_udp(payload, parsed.ports.first(), parsed.ports.second())
        }
        _ => None,
    }
}

/// A part of a packet: its captured octets, and its length.
#[derive(Clone, Copy)]
struct Inside<'a> {
    octets: &'a [u8],
    len: usize,
}

impl<'a> Inside<'a> {
    fn behind(self, header: usize) -> Option<Self> {
        Some(Self {
            octets: self.octets.get(header..)?,
            len: self.len.checked_sub(header)?,
        })
    }

    /// An IP packet, its octets up to its own length.
    fn ip(self) -> Option<Framed<'a>> {
        let ethertype = match self.octets.first()? >> 4 {
            4 => ethertype::IPV4,
            6 => ethertype::IPV6,
            _ => return None,
        };
        let octets = self.octets.get(..self.len).unwrap_or(self.octets);
        Some(Framed {
            frame: Frame::new(ethertype, octets, self.len + HEADER_LEN),
            source: None,
            destination: None,
        })
    }

    fn ethernet(self) -> Option<Framed<'a>> {
        let octets = self.octets.get(..self.len).unwrap_or(self.octets);
        ethernet(octets, self.len).ok()
    }
}

fn gre(packet: Inside<'_>) -> Option<Framed<'_>> {
    const CHECKSUM: u16 = 0x8000;
    const ROUTING: u16 = 0x4000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;
    const VERSION: u16 = 0x0007;
    const BRIDGED: u16 = 0x6558;

    let [a, b, c, d] = packet.octets.load(0)?;
    let flags = u16::from_be_bytes([a, b]);
    if flags & (VERSION | ROUTING) != 0 {
        return None;
    }
    let fields = [CHECKSUM, KEY, SEQUENCE]
        .iter()
        .filter(|field| flags & **field != 0)
        .count();
    let inner = packet.behind(4 + 4 * fields)?;
    match u16::from_be_bytes([c, d]) {
        ethertype::IPV4 | ethertype::IPV6 => inner.ip(),
        BRIDGED => inner.ethernet(),
        _ => None,
    }
}

fn of_udp(payload: Inside<'_>, from: u16, to: u16) -> Option<(Place, Framed<'_>)> {
    const VXLAN: u16 = 4789;
    const TEREDO: u16 = 3544;
    const GTP: u16 = 2152;
    let either = |port| from == port || to == port;

    if to == VXLAN {
        /// The flag says that the identifier counts; all others are reserved.
        const FLAGS: [u8; 4] = [0x08, 0, 0, 0];
        let flags: [u8; 4] = payload.octets.load(0)?;
        return match flags {
            FLAGS => Some((Place::Vxlan, payload.behind(8)?.ethernet()?)),
            _ => None,
        };
    }
    if either(TEREDO) {
        return Some((Place::Teredo, teredo(payload)?));
    }
    if either(GTP) {
        return Some((Place::Gtp, gtp(payload)?));
    }
    None
}

/// RFC 4380, section 5.1.1: an authentication and an origin may stand before the IPv6 packet.
fn teredo(payload: Inside<'_>) -> Option<Framed<'_>> {
    const AUTHENTICATION: [u8; 2] = [0, 1];
    const ORIGIN: [u8; 2] = [0, 0];

    let mut packet = payload;
    if packet.octets.load(0) == Some(AUTHENTICATION) {
        let [client, value]: [u8; 2] = packet.octets.load(2)?;
        packet = packet.behind(13 + usize::from(client) + usize::from(value))?;
    }
    if packet.octets.load(0) == Some(ORIGIN) {
        packet = packet.behind(8)?;
    }
    match packet.octets.first()? >> 4 {
        6 => packet.ip(),
        _ => None,
    }
}

/// A G-PDU of version 1, with the optional fields and extension headers that its flags announce
/// (3GPP TS 29.281, section 5.1).
fn gtp(payload: Inside<'_>) -> Option<Framed<'_>> {
    const VERSION_1: u8 = 0x30;
    const OPTIONAL: u8 = 0x07;
    const EXTENSION: u8 = 0x04;
    const G_PDU: u8 = 0xff;
    const MAX_EXTENSIONS: usize = 8;

    let [flags, kind] = payload.octets.load(0)?;
    if flags & 0xf0 != VERSION_1 || kind != G_PDU {
        return None;
    }
    let mut header = 8;
    if flags & OPTIONAL != 0 {
        header += 4;
        let [mut next] = payload.octets.load(header - 1)?;
        let mut extensions = 0;
        while flags & EXTENSION != 0 && next != 0 {
            let [len] = payload.octets.load(header)?;
            if len == 0 || extensions == MAX_EXTENSIONS {
                return None;
            }
            header += usize::from(len) * 4;
            [next] = payload.octets.load(header - 1)?;
            extensions += 1;
        }
    }
    payload.behind(header)?.ip()
}
