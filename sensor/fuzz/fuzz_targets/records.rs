//! A hello in several records, whose headers the kernel takes out window by window.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor_ebpf::said::records::{self, ONE};
use sensor_fuzz::Payload;

const WINDOW: usize = 64;

fuzz_target!(|stream: &[u8]| {
    let expected = joined(stream);
    for at in (0..expected.len() + WINDOW).step_by(WINDOW) {
        let mut window = [0; WINDOW];
        if at == 0 {
            window[..ONE.len()].copy_from_slice(&ONE);
        }
        let there = records::copy(
            &Payload(stream),
            stream.len(),
            at,
            WINDOW,
            |from, to, len| {
                window[to..to + len].copy_from_slice(&stream[from..from + len]);
            },
        );
        let wanted = &expected[at.min(expected.len())..expected.len().min(at + WINDOW)];
        assert_eq!(&window[..there], wanted, "from {at}");
    }
});

/// The records joined, as far as they are there.
fn joined(stream: &[u8]) -> Vec<u8> {
    let mut joined = ONE.to_vec();
    let mut rest = stream;
    for _ in 0..records::MOST {
        let [22, 3, _, high, low, fragment @ ..] = rest else {
            break;
        };
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        joined.extend(&fragment[..len.min(fragment.len())]);
        let Some(behind) = fragment.get(len..) else {
            break;
        };
        rest = behind;
    }
    joined
}
