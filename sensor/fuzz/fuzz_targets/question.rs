//! The kernel's reader of DNS questions, beside the decoder: a datagram, and the start of a stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::{Failure, dns};
use sensor_ebpf::{
    said::{
        Found, Text,
        question::{self, HEADER_LEN},
    },
    sample::MAX_PAYLOAD,
};
use sensor_fuzz::{Payload, read};

fuzz_target!(|octets: &[u8]| {
    let datagram = read(octets, |payload, text| question::read(payload, 0, text));
    compare(&datagram, octets);
    if let Some(name) = &datagram.1
        && question::is_exact(octets, name.len(), octets.len())
    {
        // All of it is a question that the decoder takes, and no part of it is all.
        let decoded = dns::message(octets).expect("a whole question");
        assert_eq!(decoded.questions.len(), 1);
        assert!(!question::is_exact(octets, name.len(), octets.len() + 1));
    }

    let stream = read(octets, in_stream);
    match dns::framed(octets).next() {
        Some(Ok(message)) => compare(&stream, message),
        // A length that is too short for a header: no server answers.
        Some(Err(_)) => assert_ne!(stream.0, Found::Name),
        // The end of the message is not here: the bytes that are decide, as in a datagram that was cut.
        None if octets.len() > 2 => compare(&stream, &octets[2..]),
        None => assert_eq!(stream.0, Found::Unread),
    }

    if let Ok(len) = u16::try_from(octets.len()) {
        let framed = [&len.to_be_bytes(), octets].concat();
        let stream = read(&framed, in_stream);
        // The copy has no room for the end of the longest.
        if framed.len() <= MAX_PAYLOAD && is_whole(octets, &datagram) {
            assert_eq!(stream, datagram);
        }
    }
});

fn in_stream(payload: &Payload<'_>, text: &mut Text) -> Found {
    question::read_framed(payload, 0, text)
}

fn compare((found, name): &(Found, Option<Vec<u8>>), message: &[u8]) {
    let decoded = dns::message(message);
    match (found, name) {
        (Found::Name, Some(name)) => {
            let name_end = HEADER_LEN + wire_len(name);
            match message.get(name_end..).and_then(<[u8]>::first_chunk) {
                // The kernel answers with what it has, the decoder wants type and class.
                None => assert_eq!(decoded, Err(Failure::Truncated)),
                // Of a class that does not exist.
                Some([_, _, high, low]) if !is_class([*high, *low]) => {
                    assert_eq!(decoded, Err(Failure::Malformed));
                }
                Some(_) => {
                    let decoded = decoded.expect("a question is read by both");
                    assert!(!decoded.response && decoded.opcode == 0);
                    assert_eq!(decoded.questions.len(), 1);
                    assert_eq!(decoded.questions[0].name, escaped(name));
                }
            }
        }
        (Found::Nameless, _) => {
            if let Ok(decoded) = decoded {
                assert!(decoded.response || decoded.opcode != 0);
            }
        }
        (_, _) => {
            if let Ok(decoded) = decoded
                && !decoded.response
                && decoded.opcode == 0
                && let [question] = &decoded.questions[..]
            {
                // The kernel leaves questions that no stub resolver sends to the decoder.
                let has_dot = question.name.contains("\\046");
                assert!(has_dot || is_compressed(message));
            }
        }
    }
}

/// Whether type and class lie behind the name that was read, as in whatever the decoder takes.
fn is_whole(message: &[u8], (_, name): &(Found, Option<Vec<u8>>)) -> bool {
    let behind = |name: &Vec<u8>| HEADER_LEN + wire_len(name) + 4;
    name.as_ref()
        .is_none_or(|name| message.len() >= behind(name))
}

/// The octets of a name in a message.
fn wire_len(name: &[u8]) -> usize {
    match name {
        [] => 1,
        name => name.len() + 2,
    }
}

/// The name as the decoder writes it.
fn escaped(name: &[u8]) -> String {
    if name.is_empty() {
        return ".".to_owned();
    }
    let mut text = String::new();
    for octet in name {
        match octet {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => text.push(char::from(*octet)),
            _ => text.push_str(&format!("\\{octet:03}")),
        }
    }
    text
}

/// Whether the name of the first question ends in a pointer.
fn is_compressed(message: &[u8]) -> bool {
    let mut at = HEADER_LEN;
    while let Some(label @ 1..=63) = message.get(at) {
        at += 1 + usize::from(*label);
    }
    message.get(at).is_some_and(|octet| *octet >= 0xc0)
}

/// The classes that exist, with the bit of multicast DNS or without.
fn is_class([high, low]: [u8; 2]) -> bool {
    high & 0x7f == 0 && matches!(low, 1 | 3 | 4 | 254 | 255)
}
