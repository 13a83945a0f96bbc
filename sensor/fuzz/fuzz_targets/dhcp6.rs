//! Payloads of datagrams.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::dhcp6;

fuzz_target!(|payload: &[u8]| {
    let Ok(message) = dhcp6::message(payload) else {
        return;
    };
    assert!(message.addresses.len() <= dhcp6::MAX_ITEMS);
    let texts = message.vendor_class.map(|(_, texts)| texts);
    for text in message.fqdn.into_iter().chain(texts.unwrap_or_default()) {
        assert!(!text.chars().any(char::is_control));
    }
});
