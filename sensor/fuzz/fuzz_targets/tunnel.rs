//! First payloads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::tunnel;

fuzz_target!(|payload: &[u8]| {
    let _ = tunnel::recognise(payload);
});
