//! Header blocks, one after the other: their content is bounded, whatever stands in the table.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::hpack::{Decoder, MAX_FIELDS, MAX_TABLE};

fuzz_target!(|blocks: Vec<Vec<u8>>| {
    let mut decoder = Decoder::default();
    for block in blocks {
        let (mut fields, mut bytes) = (0, 0);
        let read = decoder.block(&block, |name, value| {
            fields += 1;
            bytes += name.len() + value.len();
            // Huffman codes have five bits at least.
            assert!(name.len() + value.len() <= MAX_TABLE.max(block.len() * 8 / 5));
        });
        assert!(fields <= block.len());
        assert!(bytes <= MAX_FIELDS);
        if read.is_err() {
            break;
        }
    }
});
