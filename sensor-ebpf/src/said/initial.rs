//! QUIC Initial packets (RFC 9000, section 17.2.2; RFC 9369, section 3.2), as far as their headers are
//! in the clear: which connection a client begins.

use crate::{packet::Packet, quic::header::Version};

/// The port of HTTP/3.
pub const PORT: u16 = 443;

/// Whether an octet begins a packet with a long header, by which connections begin.
#[inline(always)]
pub const fn is_long(first: u8) -> bool {
    const LONG_AND_FIXED: u8 = 0xc0;
    first & LONG_AND_FIXED == LONG_AND_FIXED
}

/// Whether a payload begins with an Initial of a version that is opened in the kernel, by its first five bytes.
#[inline(always)]
pub const fn is_opened(first: [u8; 5]) -> bool {
    let [kind, version @ ..] = first;
    match Version::from_wire(u32::from_be_bytes(version)) {
        Some(version) => kind & TYPE == version.initial(),
        None => false,
    }
}

/// The bits of the first byte that say what packet it is.
const TYPE: u8 = 0xf0;

/// A number for the connection that the Initial in a payload at `offset` is of, never 0; 0 where it is
/// none, or none with which a client can begin (its identifier has eight octets at least; RFC 9000,
/// section 7.2).
#[inline(always)]
pub fn connection<P: Packet + ?Sized>(packet: &P, offset: usize) -> u32 {
    const LEAST: u8 = 8;

    let Some([first, v0, v1, v2, v3, len]) = packet.load::<6>(offset) else {
        return 0;
    };
    let version = u32::from_be_bytes([v0, v1, v2, v3]);
    // Those that are not known have the type of the first one.
    let initial = match Version::from_wire(version) {
        Some(known) => known.initial(),
        None => Version::V1.initial(),
    };
    if first & TYPE != initial || version == 0 || len < LEAST {
        return 0;
    }
    let Some(identifier) = packet.load::<8>(offset + 6) else {
        return 0;
    };
    let mixed = u64::from_le_bytes(identifier).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_told_by_their_identifiers() {
        let mut packet = *b"\xc3\0\0\0\x01\x08abcdefgh\0\0";
        let first = connection(&packet[..], 0);
        assert_ne!(first, 0);
        packet[13] = b'i';
        assert_ne!(connection(&packet[..], 0), first);
        assert_eq!(connection(&packet[..13], 0), 0);
        packet[0] = 0xe3;
        assert_eq!(connection(&packet[..], 0), 0, "a handshake packet");
        packet[..6].copy_from_slice(b"\xd3\x6b\x33\x43\xcf\x08");
        assert_ne!(connection(&packet[..], 0), 0);
        packet[5] = 7;
        assert_eq!(connection(&packet[..], 0), 0);
        assert!(is_opened(*b"\xc3\0\0\0\x01") && is_opened(*b"\xd3\x6b\x33\x43\xcf"));
        assert!(!is_opened(*b"\xd3\0\0\0\x01") && !is_opened(*b"\xc3\xff\0\0\x1d"));
        assert!(is_long(0xc3) && !is_long(0x43) && !is_long(0x83));
    }
}
