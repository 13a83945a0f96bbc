//! A flow's payloads, one behind the other, whatever they are taken for: every name that is observed is a host
//! name, and cutting a stream hides nothing that it says in one segment.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sensor::{
    classify::{Classifier, Outcome},
    decode::{name, stream::is_padding},
    record::Sample,
};
use sensor_ebpf::{
    flow::{Direction, FlowKey},
    kind::Kind,
    parse::parse,
    sample::Head,
};

fuzz_target!(|input: (bool, u16, Vec<(u8, bool, u8, Vec<u8>)>)| {
    let (is_tcp, port, payloads) = input;
    let key = key(is_tcp, port);
    let uploads = payloads.iter().filter(|(_, is_download, ..)| !is_download);
    let pieces: Vec<_> = uploads.map(|(.., octets)| &octets[..]).collect();
    hides_nothing(key_of_stream(port), &pieces);
    let mut classifier = Classifier::default();
    let mut next = [1_u32; 2];
    for (kind, is_download, flags, octets) in &payloads {
        let direction = usize::from(*is_download);
        let mut sample = sample(key, next[direction], octets);
        sample.head.kind = 1 + kind % (Kind::COUNT as u8 - 1);
        sample.head.direction = direction as u8;
        sample.head.flags |= flags & (Head::LAST | Head::JUDGED);
        next[direction] = next[direction].wrapping_add(octets.len() as u32);
        let Some(heard) = classifier.sample(&sample, 0.0) else {
            continue;
        };
        if let Outcome::Name(said, _) = &heard.outcome {
            assert_eq!(name::host(said.as_bytes()).as_deref(), Some(&**said));
        }
        for host in &heard.hosts {
            assert_eq!(name::host(host.as_bytes()).as_deref(), Some(&**host));
        }
    }
    classifier.forget_unfinished(1.0);
    for given in classifier.given_up() {
        assert_eq!(given.key, key);
    }
});

/// The names that an upload says, in order.
#[derive(Debug, Default)]
struct Said {
    names: Vec<String>,
    is_unread: bool,
}

/// Checks that names a stream says in one segment are said or unread where it is cut.
fn hides_nothing(key: FlowKey, pieces: &[&[u8]]) {
    // Zeros in a segment of their own may be the padding of a frame, and say nothing.
    if pieces.iter().any(|piece| is_padding(piece)) {
        return;
    }
    let whole = said(key, &[&pieces.concat()]);
    let cut = said(key, pieces);
    if !cut.is_unread {
        assert!(!whole.is_unread, "{whole:?}, cut {cut:?}");
        for name in &whole.names {
            assert!(cut.names.contains(name), "{whole:?}, cut {cut:?}");
        }
    }
}

fn said(key: FlowKey, pieces: &[&[u8]]) -> Said {
    let mut classifier = Classifier::default();
    let mut said = Said::default();
    let mut next = 1_u32;
    for octets in pieces {
        let heard = classifier.sample(&sample(key, next, octets), 0.0);
        next = next.wrapping_add(octets.len() as u32);
        let Some(heard) = heard else {
            continue;
        };
        if let Outcome::Name(name, _) = &heard.outcome {
            said.names.push(name.to_string());
        }
        said.names
            .extend(heard.hosts.iter().map(ToString::to_string));
        let is_unread = matches!(heard.outcome, Outcome::Unread(_)) || heard.doubt.is_some();
        said.is_unread |= is_unread;
    }
    classifier.forget_unfinished(1.0);
    said.is_unread |= classifier.given_up().next().is_some();
    said
}

/// A payload of an upload.
fn sample(key: FlowKey, sequence: u32, octets: &[u8]) -> Sample {
    Sample {
        head: Head {
            key,
            slot: 3,
            sequence,
            payload: octets.len() as u32,
            captured: octets.len() as u32,
            kind: Kind::Stream as u8,
            direction: Direction::Upload as u8,
            flags: Head::SYN_SEEN,
            ..Head::default()
        },
        octets: Bytes::copy_from_slice(octets),
    }
}

/// A stream at a port at which none is of DNS messages.
fn key_of_stream(port: u16) -> FlowKey {
    key(true, if port == 53 { 80 } else { port })
}

fn key(is_tcp: bool, port: u16) -> FlowKey {
    let mut frame = [0; 54];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 40]);
    frame[23] = if is_tcp { 6 } else { 17 };
    frame[30..34].copy_from_slice(&[198, 51, 100, 7]);
    frame[34..36].copy_from_slice(&40_000_u16.to_be_bytes());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    let parsed = parse(&frame[..]).expect("a whole frame");
    FlowKey::new(&parsed, Direction::Upload, 1)
}
