//! Payloads of datagrams.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::dhcp4;

fuzz_target!(|payload: &[u8]| {
    let Ok(message) = dhcp4::message(payload) else {
        return;
    };
    let texts = [message.host_name, message.fqdn, message.vendor_class];
    for text in texts.into_iter().flatten() {
        assert!(!text.is_empty() && text.len() <= dhcp4::MAX_TEXT);
        assert!(!text.chars().any(char::is_control));
    }
});
