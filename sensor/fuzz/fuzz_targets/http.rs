//! The start of a client's stream. Where its segments end does not change the host.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::{Progress, http};

fuzz_target!(|stream: &[u8]| {
    let _ = http::looks_like(stream);
    let whole = http::request(stream);
    for length in (0..stream.len()).rev().take(64) {
        match (http::request(&stream[..length]), &whole) {
            (Ok(Progress::Incomplete), _) => {}
            (Ok(Progress::Complete(part)), Ok(Progress::Complete(whole))) => {
                assert_eq!(part.name(), whole.name());
            }
            (part, whole) => assert_eq!(&part, whole),
        }
    }
});
