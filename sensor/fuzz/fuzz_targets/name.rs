//! The reader of host names gives host names only, with a port behind them and without, and takes no longer
//! than their length allows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::name::{MAX_NAME, host};

fuzz_target!(|octets: &[u8]| {
    let Some(name) = host(octets) else { return };
    assert!(name.len() <= MAX_NAME);
    // An address may come out longer or shorter than it was said.
    assert!(name.contains(':') || name.len() <= octets.len());
    assert_eq!(host(name.as_bytes()).as_ref(), Some(&name));
    if !name.contains(':') {
        for behind in [".", ":443", ".:1", ":65535"] {
            assert_eq!(
                host(format!("{name}{behind}").as_bytes()).as_ref(),
                Some(&name)
            );
        }
    }
});
