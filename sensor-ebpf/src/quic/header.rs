//! The headers of QUIC packets, as far as they are in the clear (RFC 9000, section 17.2; RFC 9369, section 3.2).

use crate::packet::Packet;

/// A version whose Initials are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Version {
    /// RFC 9000.
    V1 = 0,
    /// RFC 9369.
    V2 = 1,
}

impl Version {
    const V1_NUMBER: u32 = 1;
    const V2_NUMBER: u32 = 0x6b33_43cf;

    /// By the number on the wire.
    #[inline(always)]
    pub const fn from_wire(number: u32) -> Option<Self> {
        match number {
            Self::V1_NUMBER => Some(Self::V1),
            Self::V2_NUMBER => Some(Self::V2),
            _ => None,
        }
    }

    /// The first four bits of an Initial.
    #[inline(always)]
    pub const fn initial(self) -> u8 {
        match self {
            Self::V1 => 0xc0,
            Self::V2 => 0xd0,
        }
    }

    /// Those of a Retry, which alone has no length.
    #[inline(always)]
    const fn retry(self) -> u8 {
        match self {
            Self::V1 => 0xf0,
            Self::V2 => 0xc0,
        }
    }
}

/// Bytes of the shortest datagram with an Initial that a server reads (RFC 9000, section 14.1).
pub const LEAST_DATAGRAM: usize = 1_200;

/// The longest connection ID (RFC 9000, section 17.2).
pub const MAX_CONNECTION_ID: usize = 20;

/// The most packets of a datagram that are looked at.
pub const MAX_PACKETS: usize = 3;

/// A packet with a long header: places are those of bytes in the payload that it stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// Where it begins.
    pub start: u32,
    /// A [`Version`]'s number.
    pub version: u32,
    /// Bytes of its destination connection ID, which begins 6 bytes behind the first.
    pub connection_len: u32,
    /// Where its number begins.
    pub number: u32,
    /// Where it ends.
    pub end: u32,
    /// 1 for an Initial, 0 for another.
    pub is_initial: u32,
}

impl Header {
    /// None.
    pub const NONE: Self = Self {
        start: 0,
        version: 0,
        connection_len: 0,
        number: 0,
        end: 0,
        is_initial: 0,
    };
}

/// How a header was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Read {
    /// None of a version whose Initials are opened.
    Other = 0,
    /// One of another type: the next packet stands behind it.
    Skipped = 1,
    /// An Initial.
    Initial = 2,
}

/// Reads the header of the packet at a place of a datagram with so many bytes.
#[inline(always)]
pub fn read<P: Packet + ?Sized>(packet: &P, start: usize, len: usize, header: &mut Header) -> Read {
    /// Bytes behind the number from which the header's protection is made, and the tag.
    const LEAST: u64 = 20;
    const CONNECTION: usize = 6;

    let Some([first, v0, v1, v2, v3, connection_len]) = packet.load::<6>(start) else {
        return Read::Other;
    };
    let Some(version) = Version::from_wire(u32::from_be_bytes([v0, v1, v2, v3])) else {
        return Read::Other;
    };
    let initial = version.initial();
    let kind = first & 0xf0;
    if first & 0xc0 != 0xc0
        || kind == version.retry()
        || connection_len as usize > MAX_CONNECTION_ID
    {
        return Read::Other;
    }
    let noise = u64::from(v3);
    let at = packet.forget(start + CONNECTION + connection_len as usize, noise);
    let Some([source_len]) = packet.load::<1>(at) else {
        return Read::Other;
    };
    if source_len as usize > MAX_CONNECTION_ID {
        return Read::Other;
    }
    let mut at = packet.forget(at + 1 + source_len as usize, noise);
    if kind == initial {
        let token = varint(packet, at);
        if token.bytes == 0 || token.value > len as u64 {
            return Read::Other;
        }
        at = packet.forget(at + token.bytes + token.value as usize, noise);
    }
    let rest = varint(packet, at);
    let number = packet.forget(at + rest.bytes, noise);
    if rest.bytes == 0 || rest.value < LEAST || rest.value > len as u64 {
        return Read::Other;
    }
    let end = packet.forget(number + rest.value as usize, noise);
    if end > len {
        return Read::Other;
    }
    header.start = start as u32;
    header.version = version as u32;
    header.connection_len = connection_len.into();
    header.number = number as u32;
    header.end = end as u32;
    header.is_initial = u32::from(kind == initial);
    match kind == initial {
        true => Read::Initial,
        false => Read::Skipped,
    }
}

/// A number of variable length (RFC 9000, section 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Varint {
    pub(super) value: u64,
    /// Bytes that it takes; 0 where they are not all there.
    pub(super) bytes: usize,
}

#[inline(always)]
pub(super) fn varint<P: Packet + ?Sized>(packet: &P, at: usize) -> Varint {
    const NONE: Varint = Varint { value: 0, bytes: 0 };

    let Some([first]) = packet.load::<1>(at) else {
        return NONE;
    };
    let value = u64::from(first & 0x3f);
    match first >> 6 {
        0 => Varint { value, bytes: 1 },
        1 => match packet.load::<2>(at) {
            Some(both) => Varint {
                value: u64::from(u16::from_be_bytes(both) & 0x3fff),
                bytes: 2,
            },
            None => NONE,
        },
        2 => match packet.load::<4>(at) {
            Some(all) => Varint {
                value: u64::from(u32::from_be_bytes(all) & 0x3fff_ffff),
                bytes: 4,
            },
            None => NONE,
        },
        _ => match packet.load::<8>(at) {
            Some(all) => Varint {
                value: u64::from_be_bytes(all) & 0x3fff_ffff_ffff_ffff,
                bytes: 8,
            },
            None => NONE,
        },
    }
}
