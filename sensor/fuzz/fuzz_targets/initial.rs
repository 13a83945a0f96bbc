//! The kernel's reader of QUIC's headers, beside the decoder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::{
    Failure, Progress,
    quic::{self, Initials, Version},
};
use sensor_ebpf::said::initial;
use sensor_fuzz::Payload;

const FIXED: u8 = 0x40;
const LEAST_IDENTIFIER: u8 = 8;

fuzz_target!(|datagram: &[u8]| {
    let connection = initial::connection(&Payload(datagram), 0);
    let framed = [&[0; 42], datagram].concat();
    assert_eq!(initial::connection(&framed[..], 42), connection);

    let mut initials = Initials::new();
    let decoded = initials.datagram(true, datagram);
    let [first, a, b, c, d, len, ..] = *datagram else {
        assert_eq!(connection, 0);
        return;
    };
    let version = Version::from_number(u32::from_be_bytes([a, b, c, d]));
    if connection != 0 {
        assert!(initial::is_long(first));
        // The number is that of the identifier, and of nothing else.
        let mut other = datagram.to_vec();
        other[0] ^= 0x0f;
        other.truncate(14);
        assert_eq!(initial::connection(&Payload(&other), 0), connection);
        other[13] ^= 1;
        assert_ne!(initial::connection(&Payload(&other), 0), connection);
        // Versions that the decoder does not know may come: the kernel counts with them. Of those it
        // knows, the older ones of Google have another header.
        match version {
            None | Some(Version::Q(..=46)) => {}
            Some(_) => {
                assert!(quic::looks_like(datagram));
                let is_other = decoded == Ok(Progress::Incomplete) && initials.are_none();
                assert!(!is_other, "no Initial to the decoder");
            }
        }
    } else if matches!(
        decoded,
        Ok(Progress::Complete(_)) | Err(Failure::Undecryptable)
    ) {
        // The kernel looks at the first packet of a datagram, as clients send it (RFC 9000, section
        // 12.2). Without the fixed bit, as a client may send it to a server that it knows to allow
        // that (RFC 9287, section 3), it would be any stream of RTP. Shorter identifiers are not
        // answered (RFC 9000, section 7.2).
        let is_first = first >> 4 & 0b11 == u8::from(version == Some(Version::V2));
        let is_public = first & 0x80 == 0;
        let is_fixed = first & FIXED != 0;
        assert!(!is_first || is_public || !is_fixed || len < LEAST_IDENTIFIER);
    }
});
