//! HTTP/2 in the clear: a client's stream, however it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::{
    http2::{Connection, PREFACE, Request, Step, looks_like},
    name,
};

fuzz_target!(|octets: &[u8]| {
    let _ = looks_like(octets);
    let _ = requests(octets);
    let stream = [&PREFACE[..], octets].concat();
    let (whole, failed) = requests(&stream);
    for request in &whole {
        if let Some(host) = &request.host {
            assert_eq!(name::host(host.as_bytes()).as_ref(), Some(host));
        }
    }
    for length in (0..stream.len()).rev().take(16) {
        let (part, part_failed) = requests(&stream[..length]);
        assert!(whole.starts_with(&part));
        assert!(failed || !part_failed);
    }
});

/// The requests of a stream, and whether it could not be read on.
fn requests(stream: &[u8]) -> (Vec<Request>, bool) {
    let mut connection = Connection::default();
    let (mut requests, mut rest) = (Vec::new(), stream);
    loop {
        match connection.step(rest) {
            Ok((step, request)) => {
                requests.extend(request);
                match step {
                    Step::Over(octets) => {
                        assert!(octets > 0);
                        rest = rest.get(octets..).unwrap_or_default();
                    }
                    Step::More => return (requests, false),
                }
            }
            Err(_) => return (requests, true),
        }
    }
}
