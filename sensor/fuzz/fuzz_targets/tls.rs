//! The start of a client's stream. The decoder never knows before what further bytes could add.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::tls;

fuzz_target!(|stream: &[u8]| {
    let all = tls::client_hello(stream);
    let _ = tls::looks_like(stream);
    if all == Ok(sensor::decode::Progress::Incomplete) {
        for cut in 0..stream.len() {
            assert_eq!(tls::client_hello(&stream[..cut]), all);
        }
    }
    let _ = tls::handshake(stream);
});
