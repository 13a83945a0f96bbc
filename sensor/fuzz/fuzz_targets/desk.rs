//! A flow's payloads, one behind the other, whatever they are taken for: what is heard of them, and
//! that a name is one.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sensor::{
    decode::name,
    hearing::{Desk, Outcome},
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
    let mut frame = [0; 54];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 40]);
    frame[23] = if is_tcp { 6 } else { 17 };
    frame[30..34].copy_from_slice(&[198, 51, 100, 7]);
    frame[34..36].copy_from_slice(&40_000_u16.to_be_bytes());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    let parsed = parse(&frame[..]).expect("a whole frame");
    let key = FlowKey::new(&parsed, Direction::Upload, 1);
    let mut desk = Desk::default();
    let mut next = [1_u32; 2];
    for (kind, is_download, flags, octets) in payloads {
        let direction = usize::from(is_download);
        let sample = Sample {
            head: Head {
                key,
                slot: 3,
                sequence: next[direction],
                payload: octets.len() as u32,
                captured: octets.len() as u32,
                kind: 1 + kind % (Kind::COUNT as u8 - 1),
                direction: direction as u8,
                flags: Head::SYN_SEEN | flags & (Head::LAST | Head::JUDGED),
                ..Head::default()
            },
            octets: Bytes::from(octets),
        };
        next[direction] = next[direction].wrapping_add(sample.octets.len() as u32);
        let Some(heard) = desk.sample(&sample, 0.0) else {
            continue;
        };
        if let Outcome::Name(said, _) = &heard.outcome {
            assert_eq!(name::host(said.as_bytes()).as_deref(), Some(&**said));
        }
        for host in &heard.hosts {
            assert_eq!(name::host(host.as_bytes()).as_deref(), Some(&**host));
        }
    }
    desk.forget_unfinished(1.0);
    for given in desk.given_up() {
        assert_eq!(given.key, key);
    }
});
