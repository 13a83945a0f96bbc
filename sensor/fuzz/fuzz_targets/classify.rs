//! The kind of a payload at any port: a question is a question everywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor_ebpf::{
    flow::{Direction, FlowKey},
    kind::{Kind, LOOKED_AT, classify, is_service},
    parse::parse,
    said::{Found, Text, question},
    watch::{Early, Watch},
};

fuzz_target!(|input: (bool, [u8; 4], u16, u16, u32, u8, Vec<u8>)| {
    let (is_tcp, remote, local_port, remote_port, place, wanted, payload) = input;
    let mut frame = [0; 54];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 40]);
    frame[23] = if is_tcp { 6 } else { 17 };
    frame[30..34].copy_from_slice(&remote);
    frame[34..36].copy_from_slice(&local_port.to_be_bytes());
    frame[36..38].copy_from_slice(&remote_port.to_be_bytes());
    let parsed = parse(&frame[..]).expect("a whole frame");
    let key = FlowKey::new(&parsed, Direction::Upload, 1);
    let mut first = [0; LOOKED_AT];
    let there = payload.len().min(LOOKED_AT);
    first[..there].copy_from_slice(&payload[..there]);
    let taken = classify(&key, &first, payload.len());

    let mut text = Text::default();
    let is_question = question::read(&payload[..], 0, &mut text) == Found::Name
        && question::is_exact(&payload[..], text.len as usize, payload.len())
        && payload[2] & 0xfe == 0
        && payload[3] & 0xcf == 0
        && payload[6..10] == [0; 4];
    let is_of_the_link = key.remote().is_near(key.family());
    if is_question && !is_tcp && !is_of_the_link {
        assert_eq!(taken, Some(Kind::Dns));
    }
    if is_tcp {
        assert!(taken.is_some());
    }

    for direction in Direction::ALL {
        let early = Early {
            key: &key,
            direction,
            first: &first,
            len: payload.len(),
            place,
        };
        let before = Watch::from_bits(wanted);
        if !before.wants(direction) {
            continue;
        }
        let after = before.behind(taken, &early, 4);
        let other = match direction {
            Direction::Upload => Direction::Download,
            Direction::Download => Direction::Upload,
        };
        let is_dns =
            taken == Some(Kind::Dns) && (direction == Direction::Upload || is_service(&key));
        assert!(is_dns || after.of(other) == before.of(other));
        if before.of(direction) == Watch::ALWAYS {
            assert_eq!(after.of(direction), Watch::ALWAYS);
        }
    }
});
