//! The start of a client's stream. The decoder never knows before what further bytes could add.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::{
    Progress,
    tls::{self, ClientHello, Transport},
};

fuzz_target!(|stream: &[u8]| {
    let all = tls::client_hello(stream);
    let _ = tls::looks_like(stream);
    if let Ok(Progress::Complete(hello)) = &all {
        check(hello, "t");
    }
    if all == Ok(Progress::Incomplete) {
        for cut in 0..stream.len() {
            assert_eq!(tls::client_hello(&stream[..cut]), all);
        }
    }
    if let Ok(Progress::Complete(hello)) = tls::handshake(stream, Transport::Quic) {
        check(&hello, "q");
    }
});

/// A hello has a fingerprint of 36 characters, of which a stack is the second field.
fn check(hello: &ClientHello, transport: &str) {
    let ja4 = hello.ja4.expect("every hello of TLS has one");
    let text = ja4.to_string();
    let [first, ciphers, extensions] = text.split('_').collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    assert!(first.len() == 10 && first.starts_with(transport), "{text}");
    assert!(first.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{text}");
    for hash in [ciphers, extensions] {
        assert!(hash.len() == 12 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
    }
    let stack = ja4.stack().map(|stack| stack.to_string());
    assert_eq!(stack.as_deref(), (transport == "t").then_some(ciphers));
}
