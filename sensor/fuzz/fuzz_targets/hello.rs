//! The kernel's reader of ClientHellos, beside the decoder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::{Progress, name, tls};
use sensor_ebpf::said::{Found, Place, Text, hello};
use sensor_fuzz::{Payload, read};

fuzz_target!(|stream: &[u8]| {
    let (found, said) = read(stream, server_name);
    // What comes later changes nothing.
    for length in (0..stream.len()).rev().take(32) {
        let (part, part_said) = read(&stream[..length], server_name);
        assert!(part == Found::Unread || (part, &part_said) == (found, &said));
    }
    // What no server takes, and what is not here to its end, cannot be compared: the kernel does not
    // look at what lies behind the name.
    let Ok(Progress::Complete(hello)) = tls::client_hello(stream) else {
        return;
    };
    match (found, said, hello.server_name) {
        (Found::Name, Some(said), decoded) => {
            // Octets that are no name are one to the kernel, but none that a rule is about. It takes
            // one dot away and knows no addresses: what is left may be a name or an address that was
            // not said.
            let is_odd = said.ends_with(b".") || said.contains(&b':');
            let same = name::host(&said) == decoded;
            assert!(same || is_odd && decoded.is_none(), "{decoded:?}");
        }
        (Found::Nameless, _, decoded) => assert_eq!(decoded, None),
        (_, _, decoded) => assert!(decoded.is_none() || is_plain(stream).is_none()),
    }
});

/// As the kernel does: the place in between is a number.
fn server_name(payload: &Payload<'_>, text: &mut Text) -> Found {
    let place = Place::from_number(hello::names(payload).number());
    hello::name(payload, place, text)
}

/// Whether a hello that the decoder takes is one that the kernel has to read: in the first record, its
/// name first in the list, in one of the first 64 extensions.
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
    for _ in 0..64 {
        if rest.starts_with(&[0, 0]) {
            return (*rest.get(6)? == HOST_NAME).then_some(());
        }
        rest = rest.get(2..)?;
        vector(&mut rest, 2)?;
    }
    None
}
