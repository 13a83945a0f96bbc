//! Datagrams, and streams of messages. Names come out escaped, and text is bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::dns::{self, MAX_TEXT};

fuzz_target!(|octets: &[u8]| {
    check(octets);
    for message in dns::framed(octets).flatten() {
        check(message);
    }
});

fn check(octets: &[u8]) {
    let Ok(message) = dns::message(octets) else {
        return;
    };
    let names = message.questions.iter().map(|question| &question.name);
    let names = names.chain(message.addresses.iter().map(|record| &record.name));
    let names = names.chain(message.updates.iter().map(|update| &update.name));
    let mut text = 0;
    for name in names {
        assert!(name.bytes().all(|octet| octet.is_ascii_graphic()));
        text += name.len();
    }
    for answer in &message.answers {
        assert!(!answer.chars().any(char::is_control));
        text += answer.len();
    }
    assert!(text <= MAX_TEXT);
    for service in &message.services {
        let texts = service.text.iter().flat_map(|(key, value)| [key, value]);
        for text in texts.chain([&service.instance, &service.kind]) {
            assert!(!text.chars().any(char::is_control));
        }
    }
}
