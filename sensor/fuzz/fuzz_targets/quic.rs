//! Datagrams of one flow. Encrypted frames are for `quic_frames`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::quic::{self, Initials};

fuzz_target!(|datagrams: Vec<(bool, Vec<u8>)>| {
    let mut initials = Initials::new();
    for (from_client, datagram) in &datagrams {
        let _ = quic::looks_like(datagram);
        let _ = initials.datagram(*from_client, datagram);
    }
});
