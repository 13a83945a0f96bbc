//! HTTP/2 in the clear: a client's stream says the same, however it is cut, in as many steps as it has
//! frames.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::decode::{
    Failure,
    http2::{Connection, PREFACE, Request, Step, looks_like},
    name,
};

/// Bytes before the payload of a frame.
const HEADER: usize = 9;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (octets, cuts) = input;
    let _ = looks_like(&octets);
    let _ = requests(&[&octets]);
    let stream = [&PREFACE[..], &octets].concat();
    let whole = requests(&[&stream]);
    for request in &whole.0 {
        if let Some(host) = &request.host {
            assert_eq!(name::host(host.as_bytes()).as_ref(), Some(host));
        }
    }
    let mut pieces = Vec::new();
    let mut rest = &stream[..];
    for cut in cuts {
        let (piece, behind) = rest.split_at(rest.len().min(cut.into()));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    assert_eq!(requests(&pieces), whole);
});

/// The requests of a stream that comes in pieces, and why it could not be read on.
fn requests(pieces: &[&[u8]]) -> (Vec<Request>, Option<Failure>) {
    let mut connection = Connection::default();
    let (mut requests, mut held, mut skip) = (Vec::new(), Vec::new(), 0_usize);
    let (mut steps, mut bytes) = (0, 0);
    for piece in pieces {
        bytes += piece.len();
        held.extend_from_slice(piece);
        loop {
            let passed = skip.min(held.len());
            held.drain(..passed);
            skip -= passed;
            if skip > 0 {
                break;
            }
            steps += 1;
            assert!(steps <= pieces.len() + 2 + bytes / HEADER);
            match connection.step(&held) {
                Ok((step, request)) => {
                    requests.extend(request);
                    match step {
                        Step::Over(octets) => {
                            assert!(octets > 0);
                            skip = octets;
                        }
                        Step::More => break,
                    }
                }
                Err(failure) => return (requests, Some(failure)),
            }
        }
    }
    (requests, None)
}
