//! Makes the Ethernet frame that the parser reads out of a link's packet.

use sensor_ebpf::{
    packet::Packet,
    parse::{Mac, ethertype},
};

use super::capture::Captured;

/// Octets of an Ethernet header.
pub(crate) const HEADER_LEN: usize = 14;

/// A frame in two pieces: the header may be another than the one that was captured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    header: [u8; HEADER_LEN],
    body: &'a [u8],
    len: usize,
}

impl<'a> Frame<'a> {
    /// A frame of `len` octets on the wire, its header included, of which `body` was captured.
    pub(super) fn new(ethertype: u16, body: &'a [u8], len: usize) -> Self {
        let mut header = [0; HEADER_LEN];
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
        Self { header, body, len }
    }

    /// Octets on the wire, the header included and the check sequence not.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Octets of it that were captured.
    pub(crate) fn captured(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// Whether a part of it was not captured.
    pub(super) fn is_cut(&self) -> bool {
        self.captured() < self.len
    }

    /// The header.
    pub(crate) fn header(&self) -> &[u8; HEADER_LEN] {
        &self.header
    }

    /// The octets captured behind the header.
    pub(crate) fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The captured octets from an offset behind the header on.
    pub(super) fn from(&self, offset: usize) -> &'a [u8] {
        offset
            .checked_sub(HEADER_LEN)
            .and_then(|offset| self.body.get(offset..))
            .unwrap_or_default()
    }

    fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.header[12], self.header[13]])
    }

    /// Puts other addresses into the header.
    pub(super) fn set_macs(&mut self, source: Mac, destination: Mac) {
        self.header[..6].copy_from_slice(&destination.octets());
        self.header[6..12].copy_from_slice(&source.octets());
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        match offset.checked_sub(HEADER_LEN) {
            Some(offset) => self.body.load(offset),
            None => self.header.as_slice().load(offset),
        }
    }
}

/// A frame, and the addresses that its link tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framed<'a> {
    /// The frame; the addresses in it count only where the two fields below have them.
    pub(super) frame: Frame<'a>,
    /// The sender on the link; `None` where the link does not say.
    pub(super) source: Option<Mac>,
    /// The receiver on the link; `None` where the link does not say.
    pub(super) destination: Option<Mac>,
}

/// Why a packet is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unreadable {
    /// A link type that nothing here reads; its number.
    LinkType(u32),
    /// Less was captured than the header of its link, or than the headers that name its flow.
    CutShort,
    /// Longer than the kernel takes for its programs to be run over.
    NotTaken,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LinkType(number) => write!(f, "of link type {number}, which is not read"),
            Self::CutShort => f.write_str("cut short within their headers"),
            Self::NotTaken => f.write_str("too long for the kernel engine"),
        }
    }
}

/// Numbers of the registry of link types.
mod link {
    pub(super) const NULL: u32 = 0;
    pub(super) const ETHERNET: u32 = 1;
    pub(super) const PPP: u32 = 9;
    /// Raw IP, by the numbers that BSD systems gave it.
    pub(super) const RAW_BSD: [u32; 2] = [12, 14];
    pub(super) const PPP_HDLC: u32 = 50;
    pub(super) const PPP_ETHERNET: u32 = 51;
    pub(super) const RAW: u32 = 101;
    pub(super) const CISCO_HDLC: u32 = 104;
    pub(super) const LOOP: u32 = 108;
    pub(super) const LINUX_SLL: u32 = 113;
    pub(super) const IPV4: u32 = 228;
    pub(super) const IPV6: u32 = 229;
    pub(super) const NFLOG: u32 = 239;
    pub(super) const LINUX_SLL2: u32 = 276;
}

/// Makes the frame of a packet.
pub(super) fn framed<'a>(captured: &Captured<'a>) -> Result<Framed<'a>, Unreadable> {
    let octets = captured.octets;
    let original = captured.original_len as usize;
    // Octets behind the packet's length do not belong to it.
    let octets = octets.get(..original).unwrap_or(octets);
    let behind = |header: usize, ethertype: u16, source: Option<Mac>| {
        let body = octets.get(header..).ok_or(Unreadable::CutShort)?;
        let len = original - header + HEADER_LEN;
        Ok(Framed {
            frame: Frame::new(ethertype, body, len),
            source,
            destination: None,
        })
    };
    match captured.link {
        link::ETHERNET => ethernet(octets, original),
        // The protocol family before it is the system's own number, in its own order.
        link::NULL | link::LOOP => behind(4, ip_at(octets, 4), None),
        link::RAW => behind(0, ip_at(octets, 0), None),
        number if link::RAW_BSD.contains(&number) => behind(0, ip_at(octets, 0), None),
        link::IPV4 => behind(0, ethertype::IPV4, None),
        link::IPV6 => behind(0, ethertype::IPV6, None),
        link::LINUX_SLL => {
            let ethertype = word(octets, 14)?;
            behind(16, ethertype, mac(octets, word(octets, 4)?, 6))
        }
        link::LINUX_SLL2 => {
            let len = octets.get(11).copied().unwrap_or(0);
            behind(20, word(octets, 0)?, mac(octets, len.into(), 12))
        }
        link::CISCO_HDLC => behind(4, word(octets, 2)?, None),
        link::PPP | link::PPP_HDLC => {
            let (header, ethertype) = ppp(octets)?;
            behind(header, ethertype, None)
        }
        link::PPP_ETHERNET => behind(0, ethertype::PPPOE_SESSION, None),
        link::NFLOG => {
            let header = nflog(octets).ok_or(Unreadable::CutShort)?;
            behind(header, ip_at(octets, header), None)
        }
        number => Err(Unreadable::LinkType(number)),
    }
}

/// A captured Ethernet frame of `len` octets on the wire.
pub(super) fn ethernet(octets: &[u8], len: usize) -> Result<Framed<'_>, Unreadable> {
    let (header, body) = octets
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(Unreadable::CutShort)?;
    let frame = Frame {
        header: *header,
        body,
        len,
    };
    Ok(Framed {
        frame: bare(&frame).unwrap_or(frame),
        source: mac(header, 6, 6),
        destination: mac(header, 6, 0),
    })
}

/// An address of `len` octets at an offset; `None` where it has another length or is all zero, as
/// on a loopback interface.
fn mac(octets: &[u8], len: u16, offset: usize) -> Option<Mac> {
    let mac = Mac::new(octets.load(offset)?);
    (len == 6 && mac != Mac::default()).then_some(mac)
}

fn word(octets: &[u8], offset: usize) -> Result<u16, Unreadable> {
    let octets = octets.load(offset).ok_or(Unreadable::CutShort)?;
    Ok(u16::from_be_bytes(octets))
}

/// The ethertype of the IP packet that starts at an offset, by its version. A packet of neither version is
/// taken as IPv4, and the parser says that it is malformed.
fn ip_at(octets: &[u8], offset: usize) -> u16 {
    match octets.get(offset) {
        Some(version) if version >> 4 == 6 => ethertype::IPV6,
        _ => ethertype::IPV4,
    }
}

/// The header of a PPP frame and the ethertype of its payload (RFC 1662, section 3.1, and RFC 1661, section
/// 6.5): the address and the upper half of the protocol may be left out.
fn ppp(octets: &[u8]) -> Result<(usize, u16), Unreadable> {
    const ADDRESS_CONTROL: [u8; 2] = [0xff, 0x03];
    /// PPP in an Ethernet frame of its own, by the registry of ethertypes.
    const OTHER: u16 = 0x880b;

    let mut header = match octets.load(0) {
        Some(ADDRESS_CONTROL) => 2,
        _ => 0,
    };
    let first = *octets.get(header).ok_or(Unreadable::CutShort)?;
    let protocol = match first & 1 {
        1 => {
            header += 1;
            first.into()
        }
        _ => {
            header += 2;
            word(octets, header - 2)?
        }
    };
    Ok(match protocol {
        0x0021 => (header, ethertype::IPV4),
        0x0057 => (header, ethertype::IPV6),
        // LCP and its like.
        _ => (0, OTHER),
    })
}

/// Octets before the packet that a netfilter log message carries. Its attributes are in the order
/// of the system that wrote them.
fn nflog(octets: &[u8]) -> Option<usize> {
    const HEADER: usize = 4;
    const ATTRIBUTE: usize = 4;
    const PAYLOAD: u16 = 9;

    let mut at = HEADER;
    loop {
        let [a, b, c, d] = octets.load(at)?;
        let little = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let big = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        // The types are small numbers.
        let (len, kind) = if little.1 < 0x100 { little } else { big };
        let len = usize::from(len);
        if kind == PAYLOAD {
            return Some(at + ATTRIBUTE);
        }
        if len < ATTRIBUTE {
            return None;
        }
        at += len.next_multiple_of(4);
    }
}

/// The frame with IP right behind its header, where there are MPLS labels (RFC 3032) or an 802.2
/// header (RFC 1042) in between; tags go with them.
fn bare<'a>(frame: &Frame<'a>) -> Option<Frame<'a>> {
    const MPLS: [u16; 2] = [0x8847, 0x8848];
    /// A smaller value is a length.
    const FIRST_ETHERTYPE: u16 = 0x0600;
    const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];
    const TAG: usize = 4;

    let mut ethertype = frame.ethertype();
    let mut behind = 0;
    while let ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD = ethertype {
        ethertype = u16::from_be_bytes(frame.body.load(behind + 2)?);
        behind += TAG;
    }
    if MPLS.contains(&ethertype) {
        behind = labels(frame, behind)?;
    } else if ethertype < FIRST_ETHERTYPE && frame.body.load(behind) == Some(SNAP) {
        ethertype = u16::from_be_bytes(frame.body.load(behind + SNAP.len())?);
        if ethertype != ethertype::IPV4 && ethertype != ethertype::IPV6 {
            return None;
        }
        behind += SNAP.len() + 2;
    } else {
        return None;
    }
    let ip = match frame.body.get(behind)? >> 4 {
        4 => ethertype::IPV4,
        6 => ethertype::IPV6,
        _ => return None,
    };
    let mut bare = Frame {
        body: frame.body.get(behind..)?,
        len: frame.len - behind,
        ..*frame
    };
    bare.header[12..].copy_from_slice(&ip.to_be_bytes());
    Some(bare)
}

/// Octets of the body before what the MPLS labels at an offset carry.
fn labels(frame: &Frame<'_>, offset: usize) -> Option<usize> {
    const LABEL: usize = 4;
    const BOTTOM: u8 = 1;
    const MAX_LABELS: usize = 8;

    (0..MAX_LABELS)
        .map(|number| offset + number * LABEL)
        .find(|at| {
            frame
                .body
                .load::<LABEL>(*at)
                .is_some_and(|label| label[2] & BOTTOM != 0)
        })
        .map(|last| last + LABEL)
}
