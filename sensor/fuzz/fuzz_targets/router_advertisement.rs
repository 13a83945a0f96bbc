//! ICMPv6 messages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::router_advertisement;

fuzz_target!(|octets: &[u8]| {
    if let Ok(message) = router_advertisement::message(octets) {
        assert!(message.dns_servers.len() <= router_advertisement::MAX_RESOLVERS);
    }
});
