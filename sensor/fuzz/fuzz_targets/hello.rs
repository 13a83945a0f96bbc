//! The kernel's reader of ClientHellos, beside the decoder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::{Progress, name, tls};
use sensor_ebpf::said::{
    Found, Place, Text,
    hello::{self, Walk},
};
use sensor_fuzz::{Payload, Piece, read};

fuzz_target!(|stream: &[u8]| {
    let (found, said) = read(stream, server_name);
    assert_eq!(names_in_pieces(stream), hello::names(&Payload(stream)));
    // Later bytes change nothing.
    for length in (0..stream.len()).rev().take(32) {
        let (part, part_said) = read(&stream[..length], server_name);
        assert!(part == Found::Unread || (part, &part_said) == (found, &said));
    }
    // A hello that no server takes, or that is not here to its end, cannot be compared, because the kernel does
    // not look at the bytes behind the name.
    let Ok(Progress::Complete(hello)) = tls::client_hello(stream) else {
        return;
    };
    match (found, said, hello.server_name) {
        (Found::Name, Some(said), decoded) => assert_eq!(name::host(&said), decoded),
        // The kernel knows no addresses with colons.
        (Found::NoHostName, _, decoded) => {
            assert!(decoded.is_none_or(|decoded| decoded.contains(':')));
        }
        (Found::Nameless, _, decoded) => assert_eq!(decoded, None),
        (_, _, decoded) => assert!(decoded.is_none() || is_plain(stream).is_none()),
    }
});

/// As the kernel does: one piece after the other, each from where the walk came to.
fn names_in_pieces(stream: &[u8]) -> Place {
    let mut before = Walk::START;
    loop {
        let walk = hello::walk(&Piece::at(stream, before.at().min(stream.len())), before);
        if let Some(place) = walk.place() {
            return place;
        }
        if walk == before {
            return Place::Unknown;
        }
        before = walk;
    }
}

/// As the kernel does: the place in between is a number.
fn server_name(payload: &Payload<'_>, text: &mut Text) -> Found {
    let place = Place::from_number(hello::names(payload).number());
    hello::name(payload, place, text)
}

/// Whether a hello that the decoder takes is one that the kernel has to read: in the first record, its
/// name first in the list.
fn is_plain(stream: &[u8]) -> Option<()> {
    const HANDSHAKE: u8 = 22;
    const HOST_NAME: u8 = 0;
    let len = |octets: &[u8]| {
        octets
            .iter()
            .fold(0, |len, octet| len << 8 | usize::from(*octet))
    };
    let vector = |rest: &mut &[u8], octets: usize| {
        let (head, behind) = rest.split_at_checked(octets)?;
        *rest = behind.get(len(head)..)?;
        Some(())
    };
    let header = stream.get(..9)?;
    if header[0] != HANDSHAKE || len(&header[3..5]) < len(&header[6..9]) + 4 {
        return None;
    }
    let mut rest = stream.get(9 + 34..)?;
    vector(&mut rest, 1)?;
    vector(&mut rest, 2)?;
    vector(&mut rest, 1)?;
    rest = rest.get(2..)?;
    loop {
        if rest.starts_with(&[0, 0]) {
            return (*rest.get(6)? == HOST_NAME).then_some(());
        }
        rest = rest.get(2..)?;
        vector(&mut rest, 2)?;
    }
}
