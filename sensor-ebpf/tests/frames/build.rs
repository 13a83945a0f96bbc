//! A frame from its layers, outermost first: `ethernet().vlan(7).ipv4().tcp(SYN).build()`.
//!
//! Knows nothing of the parser: types, lengths and checksums are put together from the layers.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The device.
pub(crate) const PHONE: [u8; 6] = [0x02, 0x50, 0x48, 0x4f, 0x4e, 0x45];
/// The gateway.
pub(crate) const GATEWAY: [u8; 6] = [0x02, 0x47, 0x41, 0x54, 0x45, 0x57];

pub(crate) const PHONE_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
pub(crate) const SERVER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
pub(crate) const PHONE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);
pub(crate) const PHONE_PORT: u16 = 40_000;
pub(crate) const SERVER_PORT: u16 = 443;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

#[derive(Clone, Debug)]
enum Layer {
    Ethernet {
        to: [u8; 6],
        from: [u8; 6],
    },
    Tag {
        tpid: u16,
        id: u16,
    },
    Pppoe,
    Ipv4 {
        options: Vec<u8>,
        identification: u16,
        offset: u16,
        more: bool,
    },
    Ipv6,
    Extension {
        protocol: u8,
        octets: Vec<u8>,
    },
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
        options: Vec<u8>,
    },
    Udp,
    /// Octets under an ethertype, or under a protocol number where the layer above is IP.
    Other {
        number: u16,
        octets: Vec<u8>,
    },
    Payload(Vec<u8>),
}

impl Layer {
    /// The number that the layer above writes into its type field.
    fn number(&self) -> u16 {
        match self {
            Self::Ethernet { .. } | Self::Payload(_) => 0,
            Self::Tag { tpid, .. } => *tpid,
            Self::Pppoe => 0x8864,
            Self::Ipv4 { .. } => 0x0800,
            Self::Ipv6 => 0x86dd,
            Self::Extension { protocol, .. } => u16::from(*protocol),
            Self::Tcp { .. } => 6,
            Self::Udp => 17,
            Self::Other { number, .. } => *number,
        }
    }
}

/// A frame in the making.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    layers: Vec<Layer>,
    next: Option<u8>,
    patches: Vec<(usize, Vec<u8>)>,
    cut: Option<usize>,
}

/// A frame from the phone to the gateway.
pub(crate) fn ethernet() -> Builder {
    ethernet_between(GATEWAY, PHONE)
}

/// A frame between any two.
pub(crate) fn ethernet_between(to: [u8; 6], from: [u8; 6]) -> Builder {
    Builder {
        layers: vec![Layer::Ethernet { to, from }],
        next: None,
        patches: Vec::new(),
        cut: None,
    }
}

impl Builder {
    fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// An 802.1Q tag.
    pub(crate) fn vlan(self, id: u16) -> Self {
        self.layer(Layer::Tag { tpid: 0x8100, id })
    }

    /// An 802.1ad tag.
    pub(crate) fn qinq(self, id: u16) -> Self {
        self.layer(Layer::Tag { tpid: 0x88a8, id })
    }

    /// The service tag of before 802.1ad.
    pub(crate) fn qinq_old(self, id: u16) -> Self {
        self.layer(Layer::Tag { tpid: 0x9100, id })
    }

    /// A PPPoE session.
    pub(crate) fn pppoe(self) -> Self {
        self.layer(Layer::Pppoe)
    }

    pub(crate) fn ipv4(self) -> Self {
        self.ipv4_piece(0, 0, false)
    }

    /// IPv4 with options of a whole number of four octets.
    pub(crate) fn ipv4_options(self, octets: usize) -> Self {
        self.layer(Layer::Ipv4 {
            options: vec![1; octets],
            identification: 0,
            offset: 0,
            more: false,
        })
    }

    /// A piece of an IPv4 packet; `offset` in octets.
    pub(crate) fn ipv4_piece(self, identification: u16, offset: u16, more: bool) -> Self {
        self.layer(Layer::Ipv4 {
            options: Vec::new(),
            identification,
            offset: offset / 8,
            more,
        })
    }

    pub(crate) fn ipv6(self) -> Self {
        self.layer(Layer::Ipv6)
    }

    /// An extension header of `octets` octets in all, with the length field of its protocol.
    pub(crate) fn extension(self, protocol: u8, octets: usize) -> Self {
        let length = match protocol {
            51 => octets / 4 - 2,
            _ => octets / 8 - 1,
        };
        let mut header = vec![0; octets];
        header[1] = length as u8;
        self.layer(Layer::Extension {
            protocol,
            octets: header,
        })
    }

    /// An IPv6 fragment header; `offset` in octets.
    pub(crate) fn ipv6_piece(self, identification: u32, offset: u16, more: bool) -> Self {
        let [high, low] = (offset & 0xfff8 | u16::from(more)).to_be_bytes();
        let [a, b, c, d] = identification.to_be_bytes();
        self.layer(Layer::Extension {
            protocol: 44,
            octets: vec![0, 0, high, low, a, b, c, d],
        })
    }

    pub(crate) fn tcp(self, flags: u8) -> Self {
        self.tcp_at(flags, 0x0102_0304, 0x0a0b_0c0d, 0)
    }

    /// TCP with a sequence and acknowledgment number and octets of options.
    pub(crate) fn tcp_at(
        self,
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
        options: usize,
    ) -> Self {
        self.layer(Layer::Tcp {
            flags,
            sequence,
            acknowledgment,
            options: vec![1; options],
        })
    }

    pub(crate) fn udp(self) -> Self {
        self.layer(Layer::Udp)
    }

    /// Octets under an ethertype or a protocol number.
    pub(crate) fn other(self, number: u16, octets: usize) -> Self {
        self.layer(Layer::Other {
            number,
            octets: (0..octets).map(|index| index as u8).collect(),
        })
    }

    pub(crate) fn payload(self, octets: usize) -> Self {
        self.layer(Layer::Payload(vec![0x5a; octets]))
    }

    /// The protocol number of a payload whose own header is in another piece.
    pub(crate) fn of(mut self, protocol: u8) -> Self {
        self.next = Some(protocol);
        self
    }

    /// Overwrites octets of the finished frame.
    pub(crate) fn patch(mut self, at: usize, octets: &[u8]) -> Self {
        self.patches.push((at, octets.to_vec()));
        self
    }

    /// Ends the finished frame after `len` octets.
    pub(crate) fn cut(mut self, len: usize) -> Self {
        self.cut = Some(len);
        self
    }

    pub(crate) fn build(self) -> Vec<u8> {
        let mut octets = Vec::new();
        let mut next = u16::from(self.next.unwrap_or(0));
        let ipv6 = self.layers.iter().any(|layer| matches!(layer, Layer::Ipv6));
        for layer in self.layers.iter().rev() {
            octets = encode(layer, next, octets, ipv6);
            if !matches!(layer, Layer::Payload(_)) {
                next = layer.number();
            }
        }
        for (at, patch) in &self.patches {
            octets[*at..at + patch.len()].copy_from_slice(patch);
        }
        octets.truncate(self.cut.unwrap_or(octets.len()));
        octets
    }
}

fn encode(layer: &Layer, next: u16, inner: Vec<u8>, ipv6: bool) -> Vec<u8> {
    let mut octets = Vec::new();
    match layer {
        Layer::Ethernet { to, from } => {
            octets.extend(to);
            octets.extend(from);
            octets.extend(next.to_be_bytes());
        }
        Layer::Tag { id, .. } => {
            octets.extend(id.to_be_bytes());
            octets.extend(next.to_be_bytes());
        }
        Layer::Pppoe => {
            let protocol: u16 = match next {
                0x0800 => 0x0021,
                0x86dd => 0x0057,
                control => control,
            };
            octets.extend([0x11, 0, 0, 7]);
            octets.extend((inner.len() as u16 + 2).to_be_bytes());
            octets.extend(protocol.to_be_bytes());
        }
        Layer::Ipv4 {
            options,
            identification,
            offset,
            more,
        } => {
            let header_len = 20 + options.len();
            octets.extend([0x40 | (header_len / 4) as u8, 0]);
            octets.extend(((header_len + inner.len()) as u16).to_be_bytes());
            octets.extend(identification.to_be_bytes());
            octets.extend((offset | u16::from(*more) << 13).to_be_bytes());
            octets.extend([64, next as u8, 0, 0]);
            octets.extend(PHONE_V4.octets());
            octets.extend(SERVER_V4.octets());
            octets.extend(options);
            let sum = internet_checksum(&octets).to_be_bytes();
            octets[10..12].copy_from_slice(&sum);
        }
        Layer::Ipv6 => {
            octets.extend([0x60, 0, 0, 0]);
            octets.extend((inner.len() as u16).to_be_bytes());
            octets.extend([next as u8, 64]);
            octets.extend(PHONE_V6.octets());
            octets.extend(SERVER_V6.octets());
        }
        Layer::Extension { octets: header, .. } => {
            octets.extend(header);
            octets[0] = next as u8;
        }
        Layer::Tcp {
            flags,
            sequence,
            acknowledgment,
            options,
        } => {
            octets.extend(PHONE_PORT.to_be_bytes());
            octets.extend(SERVER_PORT.to_be_bytes());
            octets.extend(sequence.to_be_bytes());
            octets.extend(acknowledgment.to_be_bytes());
            octets.extend([((20 + options.len()) / 4) as u8 * 16, *flags, 0xff, 0xff]);
            octets.extend([0; 4]);
            octets.extend(options);
        }
        Layer::Udp => {
            octets.extend(PHONE_PORT.to_be_bytes());
            octets.extend(SERVER_PORT.to_be_bytes());
            octets.extend((8 + inner.len() as u16).to_be_bytes());
            octets.extend([0; 2]);
        }
        Layer::Other { octets: own, .. } | Layer::Payload(own) => octets.extend(own),
    }
    octets.extend(inner);
    let place = match layer {
        Layer::Tcp { .. } => 16,
        Layer::Udp => 6,
        _ => return octets,
    };
    let sum = transport_checksum(layer.number() as u8, &octets, ipv6).to_be_bytes();
    octets[place..place + 2].copy_from_slice(&sum);
    octets
}

/// The checksum of a transport between the phone and the server.
fn transport_checksum(protocol: u8, octets: &[u8], ipv6: bool) -> u16 {
    let mut whole = Vec::new();
    if ipv6 {
        whole.extend(PHONE_V6.octets());
        whole.extend(SERVER_V6.octets());
    } else {
        whole.extend(PHONE_V4.octets());
        whole.extend(SERVER_V4.octets());
    }
    whole.extend([0, protocol]);
    whole.extend((octets.len() as u16).to_be_bytes());
    whole.extend(octets);
    internet_checksum(&whole)
}

/// RFC 1071, the slow way: one's complement addition of words, an odd octet filled up with zero.
pub(crate) fn internet_checksum(octets: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for word in octets.chunks(2) {
        sum += u64::from(word[0]) << 8 | word.get(1).map_or(0, |low| u64::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
