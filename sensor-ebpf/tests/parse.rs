//! Ring 1: the frame table, and any other octets, through the parser.

mod frames;

use std::collections::HashSet;

use frames::{
    Expect,
    mutate::{Random, next_frame, seeds},
    table,
};
use proptest::{collection::vec, prelude::*};
use sensor_ebpf::{
    parse::{Fragment, MAX_VLAN_TAGS, Parsed, parse, plain},
    skip::Skip,
};

/// Checks what must hold of every sequence of bytes.
fn hold(frame: &[u8]) -> Result<Parsed, Skip> {
    let parsed = parse(frame);
    if let Some(short) = plain(frame) {
        assert_eq!(Ok(short), parsed, "the short way differs on {frame:02x?}");
    }
    if let Ok(parsed) = parsed {
        assert!(parsed.network_offset <= frame.len(), "{frame:02x?}");
        assert!(
            parsed.network_offset <= parsed.transport_offset,
            "{frame:02x?}"
        );
    }
    parsed
}

fn check(name: &str, frame: &[u8], expect: &Expect) {
    assert_eq!(Expect::of(hold(frame)), *expect, "{name}: {frame:02x?}");
}

#[test]
fn every_frame_of_the_table_is_what_it_is() {
    for (name, frame, expect) in table() {
        check(name, &frame, &expect);
    }
}

#[test]
fn the_table_has_every_reason_that_the_parser_gives_and_no_name_twice() {
    let table = table();
    let names: HashSet<_> = table.iter().map(|(name, ..)| name).collect();
    assert_eq!(names.len(), table.len());
    for reason in Skip::ALL {
        let found = table
            .iter()
            .any(|(.., expect)| *expect == Expect::Skipped(reason));
        assert_eq!(found, reason.is_of_parser(), "{}", reason.name());
    }
}

#[test]
fn every_prefix_of_every_frame_returns() {
    for (name, frame, expect) in table() {
        for len in 0..frame.len() {
            let parsed = Expect::of(hold(&frame[..len]));
            // A prefix says the same, or that something is missing; never something else.
            match parsed {
                Expect::Skipped(_) => {}
                Expect::Ip {
                    fragment: Fragment::Later(_),
                    ..
                } => {}
                other => assert_eq!(other, expect, "{name} after {len} octets"),
            }
        }
    }
}

#[test]
fn what_follows_the_headers_changes_nothing() {
    for (name, mut frame, expect) in table() {
        if matches!(expect, Expect::Skipped(_)) {
            continue;
        }
        frame.extend([0xa5; 64]);
        if matches!(
            expect,
            Expect::Ip {
                fragment: Fragment::Later(_),
                ..
            }
        ) {
            // A first piece that was too small has its header now.
            let _ = hold(&frame);
        } else {
            check(name, &frame, &expect);
        }
    }
}

#[test]
fn a_tag_more_moves_the_rest_and_changes_nothing_else() {
    for (name, frame, expect) in table() {
        if frame.len() < 14 {
            continue;
        }
        let tagged = [&frame[..12], &[0x81, 0, 0, 9], &frame[12..]].concat();
        let tags = (0..)
            .take_while(|tag| {
                matches!(
                    tagged.get(12 + tag * 4..14 + tag * 4),
                    Some([0x81, 0] | [0x88, 0xa8] | [0x91, 0])
                )
            })
            .count();
        if tags > MAX_VLAN_TAGS {
            check(name, &tagged, &Expect::Skipped(Skip::VlanTooDeep));
        } else {
            check(name, &tagged, &expect);
        }
    }
}

/// Ten million frames that nobody would send: each returns, and the short way agrees.
#[test]
fn ten_million_bad_frames_return() {
    const FRAMES: usize = 10_000_000;
    let seeds = seeds();
    let mut random = Random::new(0x5eed_0001);
    let mut frame = Vec::new();
    let mut outcomes = [0u64; Skip::COUNT + 1];
    for _ in 0..FRAMES {
        next_frame(&mut random, &seeds, &mut frame);
        match hold(&frame) {
            Ok(_) => outcomes[Skip::COUNT] += 1,
            Err(reason) => outcomes[reason as usize] += 1,
        }
    }
    // Mutated frames must reach every end of the parser, or the test proves little.
    for reason in Skip::ALL {
        let reached = outcomes[reason as usize] > 0;
        assert_eq!(reached, reason.is_of_parser(), "{}", reason.name());
    }
    assert!(outcomes[Skip::COUNT] > FRAMES as u64 / 4);
}

proptest! {
    #[test]
    fn any_octets_return(frame in vec(any::<u8>(), 0..400)) {
        let _ = hold(&frame);
    }

    #[test]
    fn any_octets_behind_an_ethertype_return(
        ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x8100, 0x88a8, 0x9100, 0x8864]),
        rest in vec(any::<u8>(), 0..200),
    ) {
        let frame = [&[2; 12][..], &ethertype.to_be_bytes(), &rest].concat();
        let _ = hold(&frame);
    }
}
