//! Segments of one flow, near to each other: they overlap, leave holes, and wrap.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::stream::{MAX_STREAM, Stream};

fuzz_target!(|input: (Option<u32>, u32, Vec<(i16, Vec<u8>)>)| {
    let (initial, near, segments) = input;
    let base = initial.map_or(near, |initial| initial.wrapping_add(1));
    let mut stream = Stream::new(initial);
    let mut longest = Vec::new();
    for (distance, octets) in &segments {
        stream.segment(base.wrapping_add_signed((*distance).into()), octets);
        assert!(stream.contiguous().len() <= MAX_STREAM);
        // A stream never takes back bytes that it gave out, unless an earlier start is seen or they were
        // padding.
        if initial.is_some() && !octets.contains(&0) && !longest.contains(&0) {
            assert!(stream.contiguous().starts_with(&longest));
        }
        longest = stream.contiguous().to_vec();
    }
});
