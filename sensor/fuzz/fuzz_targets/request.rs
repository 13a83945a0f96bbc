//! The kernel's readers of HTTP requests, beside the decoder.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use sensor::decode::{
    Progress,
    http::{self, Request},
    name,
};
use sensor_ebpf::{
    said::{
        Found, Place, Text,
        request::{self, SEARCHED, Search},
    },
    sample::Kind,
};
use sensor_fuzz::{Payload, Piece, kind, read};

fuzz_target!(|stream: &[u8]| {
    // The kernel leaves a stream that does not begin with a method and a space to user space.
    if kind(stream) != Some(Kind::Http) {
        return;
    }
    let place = request::host(&Payload(stream));
    assert_eq!(host_in_pieces(stream), place);
    check(stream, host, place, &Field);
    check(stream, target, request::target(&Payload(stream)), &Target);
});

/// As the kernel does: one piece after the other, each from where the search came to.
fn host_in_pieces(stream: &[u8]) -> Place {
    let mut before = Search::START;
    loop {
        let piece = Piece::at(stream, before.at().min(stream.len()));
        let search = request::search(&piece, before);
        if search.is_over() {
            let end = Piece::at(stream, search.at().min(stream.len()));
            return request::found(&end, search);
        }
        if search == before {
            return Place::Unknown;
        }
        before = search;
    }
}

/// As the kernel does: the place in between is a number.
fn host(payload: &Payload<'_>, text: &mut Text) -> Found {
    let place = Place::from_number(request::host(payload).number());
    request::name(payload, place, text)
}

fn target(payload: &Payload<'_>, text: &mut Text) -> Found {
    let place = Place::from_number(request::target(payload).number());
    request::name(payload, place, text)
}

/// One of the two places where a request names a host.
trait Named {
    /// The text behind a host.
    const BEHIND: &str;
    fn of(&self, request: Request) -> Option<String>;
}

struct Field;

impl Named for Field {
    const BEHIND: &str = "\r\n\r\n";

    fn of(&self, request: Request) -> Option<String> {
        request.host
    }
}

struct Target;

impl Named for Target {
    const BEHIND: &str = " HTTP/1.1\r\n\r\n";

    fn of(&self, request: Request) -> Option<String> {
        request.target_host
    }
}

fn check<N: Named>(
    stream: &[u8],
    reader: fn(&Payload<'_>, &mut Text) -> Found,
    place: Place,
    named: &N,
) {
    let (found, said) = read(stream, reader);
    // Later bytes change nothing.
    for length in (0..stream.len()).rev().take(8) {
        let (part, part_said) = read(&stream[..length], reader);
        assert!(part == Found::Unread || (part, &part_said) == (found, &said));
    }

    // Where the kernel sees a host, the decoder sees it too: another one in its place is read.
    if let Place::At(at) = place {
        let other = [&stream[..at], b"x.example", N::BEHIND.as_bytes()].concat();
        if let Ok(Progress::Complete(request)) = http::request(&other) {
            assert_eq!(named.of(request).as_deref(), Some("x.example"));
        }
    }

    // A stream that is no request is not answered; one that is not here to its end was compared above.
    let Ok(Progress::Complete(request)) = http::request(stream) else {
        return;
    };
    let decoded = named.of(request);
    match (found, said, decoded) {
        (Found::Name, Some(said), Some(decoded)) => {
            // The decoder looks for a version also where no space is before it; a server that answers such a
            // request has the name from elsewhere.
            let before_version = said.strip_suffix(b"http").and_then(name::host);
            let same = said == decoded.as_bytes() || before_version.as_ref() == Some(&decoded);
            assert!(same, "{} {decoded}", said.escape_ascii());
        }
        // The rest of the request makes the name none to the decoder: no rule is about it, or it is refused
        // where no server answers.
        (Found::Name, _, None) => {}
        (Found::Nameless, _, Some(decoded)) => {
            // An address, also in a form of old, which is of digits and dots alone.
            let is_address = decoded.parse::<IpAddr>().is_ok();
            let is_number = !decoded.contains(|c: char| c.is_alphabetic() || c == '_');
            assert!(is_address || is_number, "{decoded}");
        }
        (Found::Unread | Found::NoHostName, _, Some(decoded)) => {
            assert!(!is_plain(stream, &decoded), "{decoded}");
        }
        (_, _, None) | (Found::Name, None, _) => {}
    }
}

/// Whether it is a request that the kernel has to read: as programs write it, and not too long.
fn is_plain(stream: &[u8], host: &str) -> bool {
    const LONGEST_METHOD: usize = 11;
    let Ok(text) = str::from_utf8(stream) else {
        return false;
    };
    let Some((head, _)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let mut lines = head.split("\r\n");
    let line: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = line[..] else {
        return false;
    };
    let is_host = |value: &str| {
        let value = value.to_ascii_lowercase();
        let (name, port) = value.split_once(':').unwrap_or((&value, "80"));
        name == host && matches!(port, "80" | "443" | "8080")
    };
    let is_target = match method.eq_ignore_ascii_case("CONNECT") {
        true => is_host(target),
        false => target.starts_with('/') || target.strip_prefix("http://").is_some_and(is_host),
    };
    let is_field = |line: &str| match line.split_once(": ") {
        Some((field, value)) if field.eq_ignore_ascii_case("host") => is_host(value),
        Some((field, _)) => field
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || octet == b'-'),
        None => false,
    };
    head.len() <= SEARCHED
        && method.len() <= LONGEST_METHOD
        && is_target
        && head
            .bytes()
            .all(|octet| !octet.is_ascii_control() || matches!(octet, b'\r' | b'\n'))
        && !head.replace("\r\n", "").contains(['\r', '\n'])
        && lines.all(is_field)
}
