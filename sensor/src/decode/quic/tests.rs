//! Initial packets of the RFCs, and made ones for what the captures do not have.

use proptest::prelude::*;

use super::*;

const RFC_9001: &[u8] = include_bytes!("../../../tests/data/initial-rfc9001-a2.bin");
const RFC_9369: &[u8] = include_bytes!("../../../tests/data/initial-rfc9369-a2.bin");

/// A hello that does not fit in one packet, and the host it asks for.
const HELLO: &[u8] = include_bytes!("../../../tests/data/hello-zeek-google-de-51833.bin");
const NAME: &str = "www.google.de";

const FIRST_ID: &[u8] = &[0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
const SERVER_ID: &[u8] = &[0xf0, 0x67, 0xa5, 0x50, 0x2a, 0x42, 0x62, 0xb5];

const V1: u32 = 1;
const V2: u32 = 0x6b33_43cf;

/// A client's packet: its keys come from `key_id`, it goes to `destination`.
fn seal(version: u32, key_id: &[u8], destination: &[u8], number: u32, frames: &[u8]) -> Vec<u8> {
    let known = Version::from_number(version).expect("a version that can be read");
    // Short ones are padded: the header protection needs something to sample.
    let frames = [frames, &[0; 32]].concat();
    let first = 0xc3 | known.initial_type() << 4;
    let len = (4 + frames.len() + 16) as u16 | 0x4000;
    let header = [
        &[first][..],
        &version.to_be_bytes(),
        &[destination.len() as u8],
        destination,
        &[0, 0],
        &len.to_be_bytes(),
        &number.to_be_bytes(),
    ]
    .concat();
    Keys::new(known, key_id)
        .expect("it encrypts")
        .seal(&header, &frames)
}

/// A packet of the first flight.
fn first(number: u32, frames: &[u8]) -> Vec<u8> {
    seal(V1, FIRST_ID, FIRST_ID, number, frames)
}

fn crypto(hello: &[u8], range: std::ops::Range<usize>) -> Vec<u8> {
    let octets = &hello[range.clone()];
    let varint = |number: usize| (number as u16 | 0x4000).to_be_bytes();
    [
        &[frame::CRYPTO],
        &varint(range.start)[..],
        &varint(octets.len()),
        octets,
    ]
    .concat()
}

fn halves() -> [Vec<u8>; 2] {
    [crypto(HELLO, 0..1000), crypto(HELLO, 1000..HELLO.len())]
}

/// The result after these datagrams of a client.
fn after(datagrams: &[Vec<u8>]) -> Result<Progress<Hello>, Failure> {
    let mut initials = Initials::new();
    let mut last = Ok(Progress::Incomplete);
    for datagram in datagrams {
        last = initials.datagram(true, datagram);
        if let Ok(Progress::Complete(_)) = last {
            break;
        }
    }
    last
}

fn name(outcome: Result<Progress<Hello>, Failure>) -> Option<(String, String)> {
    match outcome {
        Ok(Progress::Complete(hello)) => Some((hello.version.label(), hello.hello.server_name?)),
        _ => None,
    }
}

fn google_de(version: &str) -> Option<(String, String)> {
    Some((version.into(), NAME.into()))
}

#[test]
fn the_packets_of_the_rfcs() {
    for (packet, version, end) in [
        (RFC_9001, "1", [0x97, 0x2e, 0x19, 0x4c, 0xd9, 0x34]),
        (RFC_9369, "2", [0x77, 0x2a, 0x9f, 0x84, 0xcb, 0xfc]),
    ] {
        assert!(packet.ends_with(&end));
        assert!(looks_like(packet));
        let outcome = after(&[packet.to_vec()]);
        assert_eq!(name(outcome), Some((version.into(), "example.com".into())));
    }
}

#[test]
fn what_is_cut_off_gives_no_name() {
    for packet in [RFC_9001, RFC_9369] {
        for cut in 1..packet.len() {
            assert_eq!(after(&[packet[..cut].to_vec()]), Err(Failure::Truncated));
        }
        assert_eq!(after(&[Vec::new()]), Ok(Progress::Incomplete));
    }
}

#[test]
fn what_is_damaged_gives_no_name() {
    for packet in [RFC_9001, RFC_9369] {
        for at in 0..packet.len() {
            for bit in [0, 3, 7] {
                let mut damaged = packet.to_vec();
                damaged[at] ^= 1 << bit;
                assert_eq!(name(after(&[damaged])), None, "bit {bit} of octet {at}");
            }
        }
    }
}

#[test]
fn frames_of_other_kinds_lie_between() {
    let [low, high] = halves();
    let ack = [frame::ACK, 0x40, 0x20, 0, 2, 1, 1, 1, 0, 0];
    let ack_ecn = [frame::ACK_ECN, 5, 0, 0, 5, 1, 0, 0];
    let frames = [
        &ack[..],
        &[frame::PING],
        &low,
        &[0; 9],
        &ack_ecn,
        &[frame::PING],
        &high,
    ]
    .concat();
    assert_eq!(name(after(&[first(1, &frames)])), google_de("1"));
    let close = [&[frame::CONNECTION_CLOSE, 0, 0, 0], &low[..], &high].concat();
    assert_eq!(after(&[first(1, &close)]), Ok(Progress::Incomplete));
    let stream = [&[0x08], &low[..]].concat();
    assert_eq!(after(&[first(1, &stream)]), Err(Failure::Malformed));
}

#[test]
fn packets_of_one_datagram() {
    let [low, high] = halves().map(|half| first(1, &half));
    // 0-RTT and Handshake, which other keys protect, and a short header.
    let other = |kind: u8| {
        [
            &[0xc0 | kind << 4, 0, 0, 0, 1, 8],
            FIRST_ID,
            &[0, 20],
            &[0x77; 20][..],
        ]
        .concat()
    };
    let short = vec![0x40; 40];
    let datagram = [other(1), low.clone(), other(2), high.clone(), short].concat();
    assert_eq!(name(after(&[datagram])), google_de("1"));
    // One that does not decrypt does not hide the next.
    let mut damaged = low.clone();
    damaged[100] ^= 1;
    let datagrams = [low.clone(), [damaged.clone(), high].concat()];
    assert_eq!(name(after(&datagrams)), google_de("1"));
    assert_eq!(after(&[[damaged, low].concat()]), Ok(Progress::Incomplete));
}

#[test]
fn packets_without_number_cost_nothing_more() {
    let empty = [0xd0, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(after(&[empty.repeat(5000)]), Ok(Progress::Incomplete));
    let behind = [empty.repeat(MAX_PACKETS), RFC_9001.to_vec()].concat();
    assert_eq!(after(&[behind]), Ok(Progress::Incomplete));
}

#[test]
fn a_hole_is_no_name() {
    let datagrams = [
        first(0, &crypto(HELLO, 0..1000)),
        first(1, &crypto(HELLO, 1001..HELLO.len())),
    ];
    assert_eq!(after(&datagrams), Ok(Progress::Incomplete));
}

#[test]
fn octets_that_disagree_are_a_conflict() {
    let mut other = HELLO.to_vec();
    other[500] ^= 1;
    let datagrams = [
        first(0, &crypto(&other, 400..600)),
        first(1, &halves().concat()),
    ];
    assert_eq!(after(&datagrams), Err(Failure::Conflict));
}

/// RFC 9000, section 17.2.5.2: the client says the same again, under keys from the ID that the
/// server chose.
#[test]
fn keys_change_with_a_retry() {
    let [low, high] = halves();
    let anew = |number, frames: &[u8]| seal(V1, SERVER_ID, SERVER_ID, number, frames);
    let datagrams = [first(0, &low), anew(1, &low), anew(2, &high)];
    assert_eq!(name(after(&datagrams)), google_de("1"));
    // One of before comes late.
    let datagrams = [
        first(0, &low),
        anew(1, &low),
        first(3, &[frame::PING]),
        anew(2, &high),
    ];
    assert_eq!(name(after(&datagrams)), google_de("1"));
    // Nothing is put together from both.
    let datagrams = [first(0, &low), anew(1, &high)];
    assert_eq!(after(&datagrams), Ok(Progress::Incomplete));
}

#[test]
fn keys_stay_with_the_first_id() {
    let [low, high] = halves();
    let datagrams = [first(0, &low), seal(V1, FIRST_ID, SERVER_ID, 1, &high)];
    assert_eq!(name(after(&datagrams)), google_de("1"));
}

/// RFC 9000, section 6: the client starts anew, with another hello and maybe the same ID.
#[test]
fn a_version_is_negotiated() {
    let mut initials = Initials::new();
    let [low, high] = halves();
    let mut before = HELLO.to_vec();
    before[20] ^= 1;
    let draft = seal(
        0xff00_001d,
        FIRST_ID,
        FIRST_ID,
        0,
        &crypto(&before, 0..1000),
    );
    assert_eq!(initials.datagram(true, &draft), Ok(Progress::Incomplete));
    let negotiation = [&[0x80, 0, 0, 0, 0, 0, 8], FIRST_ID, &[0, 0, 0, 1]].concat();
    assert!(looks_like(&negotiation));
    assert_eq!(
        initials.datagram(false, &negotiation),
        Ok(Progress::Incomplete)
    );
    assert_eq!(
        initials.datagram(true, &first(0, &low)),
        Ok(Progress::Incomplete)
    );
    assert_eq!(
        name(initials.datagram(true, &first(1, &high))),
        google_de("1")
    );
}

/// RFC 9369, section 4.1: the hello goes on in another version.
#[test]
fn a_version_is_changed_on_the_way() {
    let [low, high] = halves();
    let datagrams = [first(0, &low), seal(V2, FIRST_ID, SERVER_ID, 1, &high)];
    assert_eq!(name(after(&datagrams)), google_de("2"));
}

#[test]
fn every_version_has_its_keys() {
    let drafts = 0xff00_0016..=0xff00_0022;
    for version in drafts.chain([V1, V2, 0xface_b001, 0xface_b002]) {
        let packet = seal(version, FIRST_ID, FIRST_ID, 0, &halves().concat());
        let label = Version::from_number(version).map(Version::label);
        assert_eq!(
            name(after(&[packet])),
            google_de(&label.expect("it is known"))
        );
    }
}

#[test]
fn versions_have_names() {
    for (number, label) in [
        (1, "1"),
        (0x6b33_43cf, "2"),
        (0xff00_001d, "draft-29"),
        (0xface_b002, "mvfst-27"),
        (0x5130_3433, "Q043"),
        (0x5130_3530, "Q050"),
        (0x5430_3531, "T051"),
    ] {
        let version = Version::from_number(number);
        assert_eq!(version.map(Version::label).as_deref(), Some(label));
    }
    // Too old, too new, reserved, and of gQUIC what was never in use for long.
    for number in [
        0,
        2,
        0xff00_0015,
        0xff00_0023,
        0x1a2a_3a4a,
        0x5130_3434,
        0x5130_3939,
    ] {
        assert_eq!(Version::from_number(number), None);
    }
}

#[test]
fn other_versions_are_unsupported() {
    let mut packet = RFC_9001.to_vec();
    packet[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
    assert_eq!(after(&[packet.clone()]), Err(Failure::Unsupported));
    assert!(!looks_like(&packet));
}

#[test]
fn other_things_are_not_quic() {
    for payload in [
        &b""[..],
        b"\x80",
        b"\x40\0\0\0\x01",
        // RTP of a first packet; a negotiation without a version that is known, and one cut off.
        &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3],
        &[0x80, 0, 0, 0, 0, 0, 0, 0x1a, 0x2a, 0x3a, 0x4a],
        &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x80, 0, 0, 0, 0, 200],
    ] {
        assert!(!looks_like(payload), "{payload:?}");
    }
}

#[test]
fn what_is_held_is_bounded() {
    let mut initials = Initials::new();
    for number in 0..20_u8 {
        let id = [number; 8];
        let packet = seal(V1, &id, &id, 0, &crypto(HELLO, 0..10));
        assert_eq!(initials.datagram(true, &packet), Ok(Progress::Incomplete));
        assert!(initials.attempts.len() <= MAX_ATTEMPTS);
    }
    let far = [&[frame::CRYPTO, 0xbf, 0xff, 0xff, 0xff, 1, 7], &[0; 9][..]].concat();
    assert_eq!(
        initials.datagram(true, &first(0, &far)),
        Ok(Progress::Incomplete)
    );
}

proptest! {
    #[test]
    fn pieces_of_any_size_in_any_order_over_datagrams(
        mut cuts in prop::collection::vec(0..=HELLO.len(), 0..30),
        packets in 1_usize..5,
        order in any::<[u8; 32]>(),
    ) {
        cuts.extend([0, HELLO.len()]);
        cuts.sort_unstable();
        let mut pieces: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
        for (at, with) in order.iter().enumerate().take(pieces.len()) {
            let with = usize::from(*with) % pieces.len();
            pieces.swap(at, with);
        }
        let datagrams: Vec<_> = pieces
            .chunks(pieces.len().div_ceil(packets))
            .enumerate()
            .map(|(number, pieces)| {
                let frames: Vec<_> = pieces.iter().map(|piece| crypto(HELLO, piece.clone())).collect();
                first(number as u32, &frames.join(&frame::PING))
            })
            .collect();
        prop_assert_eq!(name(after(&datagrams)), google_de("1"));
    }
}
