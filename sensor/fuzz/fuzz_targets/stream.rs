//! Pieces of one text in any order: what is given out is the text, and nothing that never came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::stream::{MAX_STREAM, Stream};

fuzz_target!(|input: (Option<u32>, Vec<(u32, Vec<u8>)>)| {
    let (initial, segments) = input;
    let mut stream = Stream::new(initial);
    for (sequence, octets) in &segments {
        stream.segment(*sequence, octets);
        assert!(stream.contiguous().len() <= MAX_STREAM);
    }
});
