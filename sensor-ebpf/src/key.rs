//! The key of a flow, which all its packets share.

use crate::{
    parse::{Address, Family, Mac, Parsed},
    wire,
};

/// Which way a frame goes, seen from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Leaves the device.
    Upload = 0,
    /// Reaches the device.
    Download = 1,
}

impl Direction {
    /// Both, at the place of their number.
    pub const ALL: [Self; 2] = [Self::Upload, Self::Download];

    /// The direction with this number; an unknown one is a download.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Upload,
            _ => Self::Download,
        }
    }

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }
}

/// The key of a flow, which all its packets share: device, interface, protocol, addresses and ports.
///
/// Six words, so that hashing and comparing take no loop over octets. An IPv4 flow has both
/// addresses in one word and the last three are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Bits 0 to 47: the device's MAC address; from 48: protocol; from 56: family.
    device: u64,
    /// Bits 0 to 31: the interface's index; from 32: local and remote port as in the packet. Where
    /// the family is `Other`, the remote port is the ethertype.
    link: u64,
    /// IPv4: lower half local, upper half remote. IPv6: local, first octets.
    local_high: u64,
    local_low: u64,
    remote_high: u64,
    remote_low: u64,
}

wire! {
    FlowKey {
        device: u64, link: u64, local_high: u64, local_low: u64, remote_high: u64, remote_low: u64,
    }
}

impl FlowKey {
    /// The key of a frame that was seen going in `direction` on the interface `ifindex`.
    #[inline(always)]
    pub const fn new(parsed: &Parsed, direction: Direction, ifindex: u32) -> Self {
        let (mac, local, remote, ports) = match direction {
            Direction::Upload => (
                parsed.source_mac,
                parsed.source,
                parsed.destination,
                parsed.ports,
            ),
            Direction::Download => (
                parsed.destination_mac,
                parsed.destination,
                parsed.source,
                parsed.ports.swapped(),
            ),
        };
        let device = mac.word() | (parsed.protocol as u64) << 48 | (parsed.family as u64) << 56;
        let ports = match parsed.family {
            Family::Other => (parsed.ethertype.swap_bytes() as u32) << 16,
            Family::V4 | Family::V6 => ports.word(),
        };
        let link = ifindex as u64 | (ports as u64) << 32;
        match parsed.family {
            Family::Other => Self {
                device,
                link,
                local_high: 0,
                local_low: 0,
                remote_high: 0,
                remote_low: 0,
            },
            Family::V4 => Self {
                device,
                link,
                local_high: local.high | remote.high << 32,
                local_low: 0,
                remote_high: 0,
                remote_low: 0,
            },
            Family::V6 => Self {
                device,
                link,
                local_high: local.high,
                local_low: local.low,
                remote_high: remote.high,
                remote_low: remote.low,
            },
        }
    }

    /// The device's MAC address.
    #[inline(always)]
    pub const fn mac(&self) -> Mac {
        Mac::from_word(self.device)
    }

    /// The transport's protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.device >> 48) as u8
    }

    /// The network layer.
    #[inline(always)]
    pub const fn family(&self) -> Family {
        Family::from_number((self.device >> 56) as u8)
    }

    /// The index of the interface, as the kernel numbers it.
    #[inline(always)]
    pub const fn ifindex(&self) -> u32 {
        self.link as u32
    }

    /// The device's port; 0 where the protocol has none.
    #[inline(always)]
    pub const fn local_port(&self) -> u16 {
        ((self.link >> 32) as u16).swap_bytes()
    }

    /// The remote port, 0 where the protocol has none; the ethertype where the family is `Other`.
    #[inline(always)]
    pub const fn remote_port(&self) -> u16 {
        ((self.link >> 48) as u16).swap_bytes()
    }

    /// The device's address.
    #[inline(always)]
    pub const fn local(&self) -> Address {
        match self.family() {
            Family::Other => Address { high: 0, low: 0 },
            Family::V4 => Address {
                high: self.local_high & 0xffff_ffff,
                low: 0,
            },
            Family::V6 => Address {
                high: self.local_high,
                low: self.local_low,
            },
        }
    }

    /// The other side's address.
    #[inline(always)]
    pub const fn remote(&self) -> Address {
        match self.family() {
            Family::Other => Address { high: 0, low: 0 },
            Family::V4 => Address {
                high: self.local_high >> 32,
                low: 0,
            },
            Family::V6 => Address {
                high: self.remote_high,
                low: self.remote_low,
            },
        }
    }

    /// Local and remote port as they are stored.
    #[inline(always)]
    pub const fn ports(&self) -> u32 {
        (self.link >> 32) as u32
    }

    /// The same flow with these ports, as [`ports`](Self::ports) gives them; 0 for the flow of fragments whose
    /// first piece is not known.
    #[inline(always)]
    pub const fn with_ports(self, ports: u32) -> Self {
        Self {
            link: self.link & 0xffff_ffff | (ports as u64) << 32,
            ..self
        }
    }

    /// The same flow as if it were seen on another interface.
    pub const fn on_interface(self, ifindex: u32) -> Self {
        Self {
            link: self.link >> 32 << 32 | ifindex as u64,
            ..self
        }
    }

    /// A keyed hash of the key, never 0. It chooses the set of the flow table, and is the flow's fingerprint
    /// there.
    ///
    /// NH (Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC: Fast and Secure Message Authentication",
    /// 1999): each half of a word is added to a half of the secret, and the two sums are multiplied. Two
    /// keys that differ share the sum of products under at most one secret in 2^32, whoever chose them.
    /// A finalizer spreads it over all bits. The secret is drawn when the tables are made.
    #[inline(always)]
    pub const fn hash(&self, secret: &[u64; 6]) -> u64 {
        let mut sum = product(self.device, secret[0])
            .wrapping_add(product(self.link, secret[1]))
            .wrapping_add(product(self.local_high, secret[2]));
        if matches!(self.family(), Family::V6) {
            sum = sum
                .wrapping_add(product(self.local_low, secret[3]))
                .wrapping_add(product(self.remote_high, secret[4]))
                .wrapping_add(product(self.remote_low, secret[5]));
        }
        sum ^= sum >> 32;
        sum = sum.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^= sum >> 29;
        if sum == 0 { 1 } else { sum }
    }

    /// Whether two keys are the same; an IPv4 flow needs three words compared.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.device == other.device
            && self.link == other.link
            && self.local_high == other.local_high
            && (!matches!(self.family(), Family::V6)
                || (self.local_low == other.local_low
                    && self.remote_high == other.remote_high
                    && self.remote_low == other.remote_low))
    }
}

/// NH of one word.
#[inline(always)]
const fn product(word: u64, secret: u64) -> u64 {
    let low = (word as u32).wrapping_add(secret as u32);
    let high = ((word >> 32) as u32).wrapping_add((secret >> 32) as u32);
    (low as u64).wrapping_mul(high as u64)
}
