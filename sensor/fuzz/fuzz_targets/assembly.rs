//! Pieces of a stream in any order, with overlaps that differ, beside a table that has a place for each byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor_ebpf::{
    assembly::{Assembly, CAPACITY, Put},
    sample::MAX_PAYLOAD,
};

fuzz_target!(|pieces: Vec<(u16, Vec<u8>)>| {
    let mut assembly = Box::new(Assembly::EMPTY);
    let mut model = vec![None; CAPACITY];
    for (at, piece) in &pieces {
        let at = usize::from(*at) % (CAPACITY + 8);
        let len = piece.len().min(MAX_PAYLOAD);
        let put = assembly.put(at, &piece[..], 0, len);
        let mut expected = Put::There;
        for (place, byte) in model.iter_mut().skip(at).zip(&piece[..len]) {
            match place {
                None => *place = Some(*byte),
                Some(before) if before != byte => expected = Put::Conflict,
                Some(_) => {}
            }
        }
        assert_eq!(put, expected);
    }
    let filled: Vec<u8> = model.iter().map_while(|byte| *byte).collect();
    assert_eq!(assembly.message(), filled);
    for (at, byte) in model.iter().enumerate() {
        assert_eq!(
            assembly.present[at / 64] >> (at % 64) & 1 != 0,
            byte.is_some()
        );
        assert!(byte.is_none_or(|byte| assembly.bytes[at] == byte));
    }
});
