//! What stands before the stream that is meant lies within what there is of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::prelude::{Prelude, prelude};

fuzz_target!(|stream: &[u8]| {
    for length in (0..=stream.len()).rev().take(64) {
        if let Prelude::Whole(len) = prelude(&stream[..length]) {
            assert!(len <= length);
        }
    }
});
