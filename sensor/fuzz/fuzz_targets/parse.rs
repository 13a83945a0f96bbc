//! Frames.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor_ebpf::parse;

fuzz_target!(|frame: &[u8]| {
    let parsed = parse::parse(frame);
    if let Some(plain) = parse::plain(frame) {
        assert_eq!(parsed, Ok(plain));
    }
});
