//! A prelude never ends behind the bytes that are there, and messages that were passed over stay passed over
//! when more bytes come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::{
    http, http2,
    prelude::{Prelude, prelude},
    tls,
};

fuzz_target!(|stream: &[u8]| {
    let whole = prelude(stream);
    for length in (0..=stream.len()).rev().take(64) {
        let Prelude::Whole(len) = prelude(&stream[..length]) else {
            continue;
        };
        assert!(len <= length);
        // A hello or a request that began there does so in the whole stream too.
        let meant = &stream[len..];
        let begins = tls::looks_like(meant) && meant.len() > 2
            || http2::looks_like(meant)
            || http::looks_like(meant);
        if len > 0 && len < length && begins {
            assert!(matches!(whole, Prelude::Whole(all) if all >= len));
        }
    }
});
