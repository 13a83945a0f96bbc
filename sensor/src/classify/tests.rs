//! The classifier's observations of payloads, and the judge's judgements of those.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sensor_ebpf::{
    flow::{Direction, FlowRecord, Wants},
    parse::{Parsed, parse, protocol},
    policy::{Decision, Layer, Verdict},
};

use super::*;

const HELLO: &[u8] = include_bytes!("../../tests/data/hello-zeek-google-de-51833.bin");
const GOOGLE: &str = "www.google.de";
const INITIAL: &[u8] = include_bytes!("../../tests/data/initial-rfc9001-a2.bin");

const UP: Direction = Direction::Upload;
const DOWN: Direction = Direction::Download;

/// The policy of the tests.
const GENERATION: u32 = 5;

fn key(protocol: u8, local: u16, remote: u16) -> FlowKey {
    key_of(1, protocol, local, remote)
}

/// The key of a flow of the device with this number.
pub(super) fn key_of(device: u8, protocol: u8, local: u16, remote: u16) -> FlowKey {
    let mut frame = [0; 54];
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, device]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&40_u16.to_be_bytes());
    frame[23] = protocol;
    frame[26..34].copy_from_slice(&[192, 168, 1, 7, 198, 51, 100, 9]);
    frame[34..36].copy_from_slice(&local.to_be_bytes());
    frame[36..38].copy_from_slice(&remote.to_be_bytes());
    frame[46] = 5 << 4;
    if protocol == protocol::UDP {
        frame[38..40].copy_from_slice(&20_u16.to_be_bytes());
    }
    let parsed: Parsed = parse(&frame[..]).expect("a whole frame");
    FlowKey::new(&parsed, UP, 1)
}

fn tcp() -> FlowKey {
    key(protocol::TCP, 40_000, 443)
}

fn records(hello: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &(hello.len() as u16).to_be_bytes()[..], hello].concat()
}

/// A payload of the flow in slot 3, so far behind a SYN with number 0.
fn sample(key: FlowKey, kind: Kind, direction: Direction, at: usize, octets: &[u8]) -> Sample {
    Sample {
        head: Head {
            key,
            slot: 3,
            kind: kind as u8,
            direction: direction as u8,
            flags: Head::SYN_SEEN,
            sequence: at as u32 + 1,
            ..Head::default()
        },
        octets: Bytes::copy_from_slice(octets),
    }
}

fn said(
    classifier: &mut Classifier,
    key: FlowKey,
    kind: Kind,
    at: usize,
    octets: &[u8],
) -> Observation {
    let heard = classifier.sample(&sample(key, kind, UP, at, octets), 0.0);
    heard.expect("the kind is known")
}

fn refused(layer: Layer) -> Decision {
    Decision {
        policy: 7,
        verdict: Verdict::Reject,
        layer,
    }
}

/// A judge who refuses some names to every device.
fn judge(names: &'static [&'static str]) -> Judge {
    Judge::new(Arc::new(ActiveRules {
        generation: GENERATION,
        by_address: Box::new(|_| None),
        by_name: Box::new(|_, name, _, layer| names.contains(&name).then(|| refused(layer))),
        concerns: Box::new(|_| true),
    }))
}

fn unread(judged: Judged) -> Option<(&'static str, &'static str)> {
    judged
        .unread
        .map(|(reason, layer)| (reason.name(), layer.name()))
}

fn question(names: &[&str]) -> Vec<u8> {
    let mut message = vec![0, 7, 1, 0, 0, names.len() as u8, 0, 0, 0, 0, 0, 0];
    for name in names {
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.extend([0, 0, 1, 0, 1]);
    }
    message
}

#[test]
fn a_hello_in_pieces_waits_and_then_has_its_name() {
    let octets = records(HELLO);
    let mut classifier = Classifier::default();
    let first = said(&mut classifier, tcp(), Kind::Tls, 0, &octets[..1400]);
    assert_eq!(first.outcome, Outcome::Waiting);
    let second = said(&mut classifier, tcp(), Kind::Stream, 1400, &octets[1400..]);
    assert_eq!(second.outcome, Outcome::Name(GOOGLE.into(), Source::Tls));
    assert!(second.settled && !second.told_before);
    let third = said(&mut classifier, tcp(), Kind::Stream, 3000, b"more");
    assert_eq!(third.outcome, second.outcome, "it may have been missed");
    assert!(third.settled && third.told_before);
    assert_eq!(
        classifier.name(3, &tcp()).map(|(name, _)| &**name),
        Some(GOOGLE)
    );
    let other = key(protocol::TCP, 40_001, 443);
    assert_eq!(classifier.name(3, &other), None);
    classifier.forget(3, &other);
    assert!(classifier.name(3, &tcp()).is_some());
    classifier.forget(3, &tcp());
    assert_eq!(classifier.name(3, &tcp()), None);
}

#[test]
fn another_connection_does_not_inherit_a_name() {
    let mut classifier = Classifier::default();
    said(&mut classifier, tcp(), Kind::Tls, 0, &records(HELLO));
    let mut again = sample(tcp(), Kind::Stream, UP, 0, b"SSH-2.0-x\r\n");
    again.head.initial_sequence = 99;
    again.head.sequence = 100;
    let heard = classifier.sample(&again, 0.0).expect("the kind is known");
    assert!(heard.another);
    assert_eq!(heard.outcome, Outcome::Nameless);
    assert_eq!(classifier.name(3, &tcp()), None);
}

#[test]
fn what_tells_no_name_is_told_from_what_is_not_read() {
    let outcome = |kind, octets: &[u8]| {
        let mut classifier = Classifier::default();
        said(&mut classifier, tcp(), kind, 0, octets).outcome
    };
    assert_eq!(outcome(Kind::Stream, b"SSH-2.0-x\r\n"), Outcome::Nameless);
    assert_eq!(
        outcome(Kind::Http, b"GET / HTTP/1.0\r\n\r\n"),
        Outcome::Nameless
    );
    assert_eq!(
        outcome(Kind::Http, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        Outcome::Name("a.test".into(), Source::Http)
    );
    let mut damaged = records(HELLO);
    // A session has at most 32 octets (RFC 8446, section 4.1.2).
    damaged[43] = 0xff;
    assert!(matches!(
        outcome(Kind::Tls, &damaged),
        Outcome::Unread(Failure::Malformed | Failure::Limit)
    ));
}

#[test]
fn what_is_given_up_is_told_with_its_flow() {
    let mut classifier = Classifier::default();
    said(
        &mut classifier,
        tcp(),
        Kind::Tls,
        0,
        &records(HELLO)[..1000],
    );
    classifier.forget_unfinished(-1.0);
    assert_eq!(classifier.given_up().count(), 0);
    classifier.forget_unfinished(0.0);
    let given: Vec<_> = classifier.given_up().collect();
    let [given] = given[..] else {
        panic!("{given:?}");
    };
    assert_eq!((given.slot, given.key), (3, tcp()));
    assert_eq!((given.decoder, given.why), ("tls", Failure::Truncated));
    let judged = judge(&[GOOGLE]).judge_given_up(&given);
    assert_eq!(unread(judged), Some(("truncated", "tls")));
    assert!(classifier.mark_unread(3, &tcp()));
    assert!(
        !classifier.mark_unread(3, &tcp()),
        "each flow is counted once"
    );
}

#[test]
fn names_are_judged_by_what_told_them() {
    let google = judge(&[GOOGLE, "example.com", "a.test"]);
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for (key, kind, octets, layer) in [
        (tcp(), Kind::Tls, &records(HELLO)[..], Layer::Tls),
        (key(protocol::UDP, 1, 443), Kind::Quic, INITIAL, Layer::Quic),
        (tcp(), Kind::Http, &request[..], Layer::Http),
    ] {
        let heard = said(&mut Classifier::default(), key, kind, 0, octets);
        let ruling = google.judge(&heard).ruling.expect("a name was told");
        assert_eq!(ruling.decision, Some(refused(layer)));
        assert_eq!(ruling.generation, GENERATION);
        let passed = judge(&[]).judge(&heard).ruling.expect("a name was told");
        assert_eq!(passed.decision, None);
        let nobody = Judge::new(Arc::new(ActiveRules::without_names(1)));
        assert_eq!(nobody.judge(&heard), Judged::default());
    }
    // A payload that reaches the device is not judged.
    let mut classifier = Classifier::default();
    let heard = classifier.sample(&sample(tcp(), Kind::Tls, DOWN, 0, &records(HELLO)), 0.0);
    assert_eq!(
        google.judge(&heard.expect("the kind is known")),
        Judged::default()
    );
}

/// A request for a host, with these fields and what follows them.
fn request(host: &str, rest: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n{rest}").into_bytes()
}

/// The outcome of consecutive pieces of an upload: the layer of the refusal, or the reason why it is unread,
/// with the number of the piece.
fn outcome(pieces: &[&[u8]], names: &'static [&'static str]) -> Option<(usize, &'static str)> {
    let (mut classifier, mut at) = (Classifier::default(), 0);
    let judge = judge(names);
    for (number, octets) in pieces.iter().enumerate() {
        let kind = match octets {
            [b'A'..=b'Z', b'A'..=b'Z', b'A'..=b'Z', ..] => Kind::Http,
            [22, 3, ..] => Kind::Tls,
            _ => Kind::Stream,
        };
        let judged = judge.judge(&said(&mut classifier, tcp(), kind, at, octets));
        let decision = judged.ruling.and_then(|ruling| ruling.decision);
        if let Some(decision) = decision.filter(|decision| decision.verdict.refuses()) {
            return Some((number, decision.layer.name()));
        }
        if let Some((reason, _)) = judged.unread {
            return Some((number, reason.name()));
        }
        at += octets.len();
    }
    classifier.forget_unfinished(0.0);
    let given = classifier.given_up().next()?;
    Some((pieces.len(), unread(judge.judge_given_up(&given))?.0))
}

#[test]
fn every_request_of_a_connection_is_judged_wherever_its_segments_end() {
    let (first, second) = (request("a.test", "\r\n"), request("b.test", "\r\n"));
    for empty in ["", "\r\n", "\n\n\r\n"] {
        let second = [empty.as_bytes(), &second].concat();
        let both = [&first[..], &second].concat();
        for cut in 1..both.len() {
            let pieces = [&both[..cut], &both[cut..]];
            assert_eq!(outcome(&pieces, &["b.test"]), Some((1, "http")), "{cut}");
            assert_eq!(outcome(&pieces, &["c.test"]), None, "{cut}");
        }
        assert_eq!(outcome(&[&both], &["b.test"]), Some((0, "http")));
        assert_eq!(outcome(&[&first, &second], &["b.test"]), Some((1, "http")));
    }
    // The first one may name nobody.
    let nameless = b"GET / HTTP/1.1\r\n\r\n";
    let pieces = [nameless, &second[..1], &second[1..]];
    assert_eq!(outcome(&pieces, &["b.test"]), Some((2, "http")));
    // An incomplete request is unread in the end, other bytes at once.
    let half = &second[..20];
    assert_eq!(
        outcome(&[&first, half], &["b.test"]),
        Some((2, "truncated"))
    );
    let other = b"\x00\x01\x02\x03 is no request\r\n";
    assert_eq!(outcome(&[&first, other], &[]), Some((1, "malformed")));
}

#[test]
fn a_body_is_no_request() {
    let second = request("b.test", "\r\n");
    let sized = request("a.test", "Content-Length: 40\r\n\r\n");
    let chunked = request("a.test", "Transfer-Encoding: chunked\r\n\r\n");
    for (first, body) in [
        (&sized, &b"THE quick brown fox jumps over the lazy "[..]),
        (
            &chunked,
            b"10;x=y\r\nGET / HTTP/1.1\r\n\r\n8\r\nGET / HT\r\n0\r\nA: b\r\n\r\n",
        ),
    ] {
        let all = [&first[..], body, &second].concat();
        for cut in 1..all.len() {
            let pieces = [&all[..cut], &all[cut..]];
            assert_eq!(outcome(&pieces, &["b.test"]), Some((1, "http")), "{cut}");
            assert_eq!(outcome(&pieces, &[]), None, "{cut}");
        }
        let octets: Vec<_> = all.chunks(1).collect();
        assert_eq!(outcome(&octets, &["b.test"]), Some((all.len() - 1, "http")));
        assert_eq!(outcome(&[first, body], &[]), None);
    }
    // Bytes after an upgrade that the server does not accept are a request.
    let upgrade = request("a.test", "Upgrade: websocket\r\n\r\n");
    assert_eq!(outcome(&[&upgrade, b"\x81\x85GET /"], &["b.test"]), None);
    assert_eq!(
        outcome(&[&upgrade, &second], &["b.test"]),
        Some((1, "http"))
    );
    for fields in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ] {
        let first = request("a.test", fields);
        assert_eq!(outcome(&[&first], &["b.test"]), Some((0, "malformed")));
    }
}

#[test]
fn of_a_long_segment_a_body_need_not_be_copied_and_a_request_must() {
    let second = request("b.test", "\r\n");
    for (length, expected) in [(5_000, None), (4_000, Some(("limit", "http")))] {
        let mut classifier = Classifier::default();
        let first = request("a.test", &format!("Content-Length: {length}\r\n\r\n"));
        let mut long = sample(tcp(), Kind::Http, UP, 0, &first);
        long.head.captured = first.len() as u32;
        long.head.payload = first.len() as u32 + 4_500;
        let heard = classifier.sample(&long, 0.0).expect("the kind is known");
        let judged = judge(&["b.test"]).judge(&heard);
        assert_eq!(unread(judged), expected);
        let next = said(
            &mut classifier,
            tcp(),
            Kind::Http,
            first.len() + length,
            &second,
        );
        let judged = judge(&["b.test"]).judge(&next);
        assert_eq!(judged.refuses(), expected.is_none());
    }
}

#[test]
fn requests_are_watched_for_as_long_as_they_come() {
    for first in [request("a.test", "\r\n"), request("", "\r\n")] {
        let mut classifier = Classifier::default();
        let ruling = judge(&["b.test"])
            .judge(&said(&mut classifier, tcp(), Kind::Http, 0, &first))
            .ruling
            .expect("all was read");
        assert_eq!(
            ruling.about(1).wants,
            Wants::Requests,
            "each request names a host"
        );
        let mut half = sample(tcp(), Kind::Http, UP, first.len(), b"GET / HTTP/1.1\r\nHo");
        half.head.flags |= Head::LAST;
        classifier.sample(&half, 0.0).expect("the kind is known");
        if !classifier.waits(3).unwrap_or(false) {
            // Nobody wants them of this device: nothing is missed.
            classifier.forget_unfinished(0.0);
            assert_eq!(classifier.given_up().count(), 0);
        }
    }
}

#[test]
fn a_flow_is_judged_again_by_the_host_that_it_was_refused_for() {
    let mut classifier = Classifier::default();
    let both = [request("a.test", "\r\n"), request("b.test", "\r\n")].concat();
    let heard = said(&mut classifier, tcp(), Kind::Http, 0, &both);
    let judged = judge(&["b.test"]).judge(&heard);
    let host = judged.host.map(|host| Arc::clone(&heard.hosts[host]));
    assert_eq!(host.as_deref(), Some("b.test"));
    classifier.rename(3, &tcp(), host.expect("as just seen"), Source::Http);
    let (name, source) = classifier.name(3, &tcp()).expect("it has one");
    let again = judge(&["b.test"]).judge_again(&tcp(), name, &[], source);
    assert_eq!(again.decision, Some(refused(Layer::Http)));
    // The first is the flow's own.
    assert_eq!(judge(&["a.test", "b.test"]).judge(&heard).host, None);
}

/// The octets of a hello with another name at the place of the first.
fn disguised() -> Vec<u8> {
    let mut octets = records(HELLO);
    let place = octets
        .windows(GOOGLE.len())
        .position(|window| window == GOOGLE.as_bytes())
        .expect("the hello names it");
    octets[place..place + GOOGLE.len()].copy_from_slice(b"www.foogle.de");
    octets
}

#[test]
fn what_is_said_twice_at_a_place_is_unread_where_it_differs() {
    let (real, fake) = (records(HELLO), disguised());
    let judge = judge(&[]);
    // A hello, and what the flow goes on to say, at places: the reason.
    let reason = |hello: &[u8], pieces: &[(usize, &[u8])], last: usize| {
        let mut classifier = Classifier::default();
        assert_eq!(
            unread(judge.judge(&said(&mut classifier, tcp(), Kind::Tls, 0, hello))),
            None
        );
        pieces
            .iter()
            .enumerate()
            .find_map(|(number, (at, octets))| {
                let mut piece = sample(tcp(), Kind::Stream, UP, *at, octets);
                piece.head.payload = octets.len() as u32;
                if number + 1 == last {
                    piece.head.flags |= Head::LAST;
                }
                unread(judge.judge(&classifier.sample(&piece, 0.0).expect("the kind is known")))
            })
    };
    let cut = real.len() / 2;
    let (start, end) = ((0, &real[..cut]), (cut, &real[cut..]));
    assert_eq!(reason(&fake, &[start, end], 3), Some(("conflict", "tls")));
    assert_eq!(reason(&fake, &[(0, &real)], 3), Some(("conflict", "tls")));
    // The same again, and more.
    let behind = (real.len(), &b"\x14\x03\x03\0\x01\x01"[..]);
    assert_eq!(reason(&real, &[start, end, behind], 3), None);
    assert_eq!(reason(&real, &[(real.len() - 1, b"\0"), behind], 2), None);
    // The same until no more is copied.
    assert_eq!(
        reason(&real, &[start, start, start], 3),
        Some(("limit", "tls"))
    );
    // Requests too.
    let requests = [request("a.test", "\r\n"), request("b.test", "\r\n")].concat();
    let again = request("c.test", "\r\n");
    let half = requests.len() / 2;
    for (octets, expected) in [(&requests[half..], None), (&again, Some((2, "conflict")))] {
        let (mut classifier, mut result) = (Classifier::default(), None);
        for (number, (at, octets)) in [
            (0, &requests[..half]),
            (half, &requests[half..]),
            (half, octets),
        ]
        .into_iter()
        .enumerate()
        {
            let heard = said(&mut classifier, tcp(), Kind::Http, at, octets);
            let reason = unread(judge.judge(&heard)).map(|(reason, _)| (number, reason));
            result = result.or(reason);
        }
        assert_eq!(result, expected);
    }
}

#[test]
fn what_is_kept_of_flows_is_bounded_and_what_is_not_kept_is_in_doubt() {
    let mut classifier = Classifier::default();
    for slot in 0..MAX_KEPT as u32 + 1 {
        let mut hello = sample(tcp(), Kind::Tls, UP, 0, &records(HELLO));
        hello.head.slot = slot;
        classifier.sample(&hello, 0.0);
    }
    assert_eq!(classifier.readers(), MAX_KEPT);
    for (slot, at, expected) in [
        (0, 0, Some(("conflict", "tls"))),
        (0, records(HELLO).len(), None),
        (1, 0, None),
    ] {
        let mut again = sample(tcp(), Kind::Stream, UP, at, &records(HELLO)[..40]);
        again.head.slot = slot;
        let heard = classifier.sample(&again, 0.0).expect("the kind is known");
        assert_eq!(unread(judge(&[]).judge(&heard)), expected, "{slot}, {at}");
    }
}

#[test]
fn what_another_connection_cuts_off_is_given_up() {
    let octets = records(HELLO);
    let mut classifier = Classifier::default();
    said(&mut classifier, tcp(), Kind::Tls, 0, &octets[..100]);
    let mut rest = sample(tcp(), Kind::Stream, UP, 100, &octets[100..]);
    rest.head.initial_sequence = 0x4000_0000;
    let heard = classifier.sample(&rest, 0.0).expect("the kind is known");
    assert!(heard.another);
    let given: Vec<_> = classifier.given_up().collect();
    assert_eq!(given.len(), 1);
    let judged = judge(&[GOOGLE]).judge_given_up(&given[0]);
    assert_eq!(unread(judged), Some(("truncated", "tls")));
    // A connection that had told its name before another one began misses nothing.
    let mut classifier = Classifier::default();
    said(&mut classifier, tcp(), Kind::Tls, 0, &octets);
    rest.head.initial_sequence = 1;
    assert!(
        classifier
            .sample(&rest, 0.0)
            .is_some_and(|heard| heard.another)
    );
    assert_eq!(classifier.given_up().count(), 0);
}

#[test]
fn what_has_urgent_data_is_unread_unless_it_is_refused() {
    for (name, expected) in [("a.test", None), ("b.test", Some(("urgent", "http")))] {
        let mut classifier = Classifier::default();
        let octets = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
        let mut request = sample(tcp(), Kind::Http, UP, 0, octets.as_bytes());
        request.head.flags |= Head::URGENT;
        let heard = classifier.sample(&request, 0.0).expect("the kind is known");
        assert_eq!(unread(judge(&["a.test"]).judge(&heard)), expected);
        // A server's urgent data is not.
        request.head.direction = DOWN as u8;
        let heard = classifier.sample(&request, 0.0).expect("the kind is known");
        assert_eq!(judge(&["a.test"]).judge(&heard), Judged::default());
    }
}

#[test]
fn questions_are_judged_in_streams_and_counted_in_datagrams() {
    let blocked = judge(&["blocked.test"]);
    let resolver = |protocol| key(protocol, 40_000, 53);
    let over_udp = |names: &[&str], flags: u8| {
        let mut sample = sample(resolver(protocol::UDP), Kind::Dns, UP, 0, &question(names));
        sample.head.flags |= flags;
        let heard = Classifier::default().sample(&sample, 0.0);
        let judged = blocked.judge(&heard.expect("the kind is known"));
        assert_eq!(judged.ruling, None, "the flow is the resolver's");
        unread(judged)
    };
    assert_eq!(over_udp(&["a.test"], Head::JUDGED), None);
    assert_eq!(
        over_udp(&["a.test"], 0),
        Some(("compressed-question", "dns"))
    );
    assert_eq!(
        over_udp(&["a.test", "blocked.test"], 0),
        Some(("several-questions", "dns"))
    );
    let framed: Vec<u8> = ["a.test", "blocked.test"]
        .into_iter()
        .flat_map(|name| {
            let message = question(&[name]);
            [&(message.len() as u16).to_be_bytes()[..], &message].concat()
        })
        .collect();
    for cut in 1..framed.len() {
        let mut classifier = Classifier::default();
        let stream = resolver(protocol::TCP);
        let rulings: Vec<_> = [(0, &framed[..cut]), (cut, &framed[cut..])]
            .into_iter()
            .filter_map(|(at, octets)| {
                blocked
                    .judge(&said(&mut classifier, stream, Kind::Dns, at, octets))
                    .ruling
            })
            .collect();
        let [ruling] = rulings[..] else {
            panic!("cut at {cut}: {rulings:?}");
        };
        assert_eq!(ruling.decision, Some(refused(Layer::Dns)));
    }
}

#[test]
fn what_would_be_refused_in_a_stream_of_questions_is_ruled_too() {
    let observed = Decision {
        policy: 6,
        verdict: Verdict::Pass,
        layer: Layer::Dns,
    };
    let judge = Judge::new(Arc::new(ActiveRules {
        generation: GENERATION,
        by_address: Box::new(|_| None),
        by_name: Box::new(move |_, name, _, layer| match name {
            "blocked.test" => Some(refused(layer)),
            "observed.test" => Some(observed),
            _ => None,
        }),
        concerns: Box::new(|_| true),
    }));
    let stream = key(protocol::TCP, 40_000, 53);
    let judged = |names: &[&str], rest: &[u8]| {
        let messages = names.iter().flat_map(|name| {
            let message = question(&[name]);
            [&(message.len() as u16).to_be_bytes()[..], &message].concat()
        });
        let octets: Vec<u8> = messages.chain(rest.iter().copied()).collect();
        judge.judge(&said(
            &mut Classifier::default(),
            stream,
            Kind::Dns,
            0,
            &octets,
        ))
    };
    let decided = |judged: Judged| judged.ruling.and_then(|ruling| ruling.decision);
    let ruling = judged(&["a.test", "observed.test", "b.test"], b"").ruling;
    let ruling = ruling.expect("a rule is about it");
    assert_eq!(ruling.decision, Some(observed));
    assert_eq!(
        ruling.about(1).wants,
        Wants::Same,
        "more questions may come"
    );
    assert_eq!(judged(&["a.test"], b""), Judged::default());
    for names in [
        ["observed.test", "blocked.test"],
        ["blocked.test", "observed.test"],
    ] {
        assert_eq!(decided(judged(&names, b"")), Some(refused(Layer::Dns)));
    }
    // A message behind it that is none is unread all the same.
    let none = [0, 3, 1, 2, 3];
    let both = judged(&["observed.test"], &none);
    assert_eq!(decided(both), Some(observed));
    assert_eq!(unread(both), unread(judged(&["a.test"], &none)));
    assert!(both.unread.is_some());
}

#[test]
fn the_desk_holds_little_of_flows_that_are_settled() {
    let mut classifier = Classifier::default();
    for slot in 0..2_000 {
        let mut sample = sample(tcp(), Kind::Tls, UP, 0, &records(HELLO));
        sample.head.slot = slot;
        classifier.sample(&sample, 0.0);
    }
    assert_eq!((classifier.readers(), classifier.waiting()), (MAX_KEPT, 0));
    assert!(
        size_of::<Flow>() <= 72,
        "65,536 of them are {} MiB",
        size_of::<Flow>() / 16
    );
}

#[test]
fn other_records_go_through_and_a_reaped_flow_is_forgotten() {
    let mut classifier = Classifier::default();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let hello = sample(tcp(), Kind::Tls, UP, 0, &records(HELLO));
    let flow = FlowRecord {
        key: tcp(),
        ..FlowRecord::default()
    };
    for record in [
        Record::Sample(Box::new(hello)),
        Record::Flow(3, flow),
        Record::Reaped(3, flow),
    ] {
        classifier.hear(record, 0.0, |record| {
            let what = match record {
                Classified::Observation(_) => "heard",
                Classified::Record(Record::Flow(..)) => "flow",
                Classified::Record(Record::Reaped(..)) => "reaped",
                _ => "other",
            };
            *counts.entry(what).or_default() += 1;
        });
    }
    assert_eq!(
        counts,
        BTreeMap::from([("flow", 1), ("heard", 1), ("reaped", 1)])
    );
    assert_eq!(classifier.name(3, &tcp()), None);
}

/// The name that a flow tells in these segments, each behind the one before, and why it is unread.
fn told(key: FlowKey, segments: &[(Kind, &[u8])]) -> (Option<String>, Option<&'static str>) {
    let mut classifier = Classifier::default();
    let judge = judge(&[]);
    let (mut at, mut name, mut reason) = (0, None, None);
    for (kind, octets) in segments {
        let heard = said(&mut classifier, key, *kind, at, octets);
        at += octets.len();
        if let Outcome::Name(told, _) = &heard.outcome {
            name.get_or_insert(told.to_string());
        }
        reason = reason.or(unread(judge.judge(&heard)).map(|(reason, _)| reason));
    }
    (name, reason)
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: www.a.test\r\n\r\n";

#[test]
fn a_request_behind_another_beginning_is_read() {
    use Kind::{Http, Stream};
    let named = (Some("www.a.test".to_owned()), None);
    let greeting = &b"\x05\x01\x00"[..];
    let asks = &b"\x05\x01\x00\x03\x0awww.a.test\x00\x50"[..];
    let logs_in = &b"\x01\x04user\x04word"[..];
    let old = &b"\x04\x01\x00\x50\x00\x00\x00\x01me\0www.a.test\0"[..];
    let proxy = &b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 80\r\n"[..];
    let proxy2 =
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\x9c\x40\0\x50"[..];
    let banner = &b"HELLO 1.0 program\r\n"[..];
    for before in [
        &[greeting, asks][..],
        &[&b"\x05\x02\x00\x02"[..], logs_in, asks],
        &[old],
        &[proxy],
        &[proxy2],
        &[banner],
        &[proxy2, greeting, asks],
    ] {
        // Each in a segment of its own, the request whole or cut anywhere.
        for cut in 0..REQUEST.len() {
            let mut segments: Vec<_> = before.iter().map(|octets| (Stream, *octets)).collect();
            if cut > 0 {
                segments.push((Stream, &REQUEST[..cut]));
            }
            segments.push((Http, &REQUEST[cut..]));
            assert_eq!(told(tcp(), &segments), named, "{before:02x?} {cut}");
        }
        // All in one, and that cut anywhere.
        let all = [&before.concat()[..], REQUEST].concat();
        assert_eq!(told(tcp(), &[(Stream, &all)]), named, "{before:02x?}");
        for cut in 1..all.len() {
            let (one, two) = all.split_at(cut);
            let pieces = [(Stream, one), (Stream, two)];
            assert_eq!(told(tcp(), &pieces), named, "{before:02x?} {cut}");
        }
    }
}

#[test]
fn what_stands_before_a_hello_does_not_hide_it() {
    use Kind::Stream;
    let hello = records(HELLO);
    let named = (Some(GOOGLE.to_owned()), None);
    let greeting = &b"\x05\x01\x00"[..];
    let asks = &b"\x05\x01\x00\x03\x0awww.a.test\x01\xbb"[..];
    let all = [asks, &hello].concat();
    // The hello begins in the segment of the message before it, and the message in any other.
    for end in asks.len()..asks.len() + 40 {
        for cut in 0..asks.len() {
            let pieces = [
                (Stream, greeting),
                (Stream, &all[..cut]),
                (Stream, &all[cut..end]),
                (Stream, &all[end..]),
            ];
            let pieces = pieces.into_iter().filter(|(_, piece)| !piece.is_empty());
            let pieces: Vec<_> = pieces.collect();
            assert_eq!(told(tcp(), &pieces), named, "{cut} {end}");
        }
    }
    // The rest of the first payload was not copied, or nothing more is.
    for (payload, flags) in [(2_000, 0), (3, Head::LAST)] {
        let mut classifier = Classifier::default();
        let mut first = sample(tcp(), Stream, UP, 0, greeting);
        (first.head.payload, first.head.captured) = (payload, 3);
        first.head.flags |= flags;
        let heard = classifier.sample(&first, 0.0).expect("the kind is known");
        assert_eq!(unread(judge(&[]).judge(&heard)), Some(("limit", "tls")));
    }
    // The rest of the hello never comes.
    let mut classifier = Classifier::default();
    said(&mut classifier, tcp(), Stream, 0, &all[..900]);
    classifier.forget_unfinished(0.0);
    let given: Vec<_> = classifier.given_up().collect();
    assert_eq!(
        given.first().map(|given| (given.decoder, given.why)),
        Some(("tls", Failure::Truncated))
    );
    // A person who is asked for a password takes a while.
    let mut classifier = Classifier::default();
    said(&mut classifier, tcp(), Stream, 0, greeting);
    classifier.forget_unfinished(0.0);
    assert_eq!(
        (classifier.given_up().count(), classifier.waits(3)),
        (0, Some(false))
    );
    for (at, octets) in [(0, &all[..1]), (1, &all[1..900]), (900, &all[900..])] {
        said(&mut classifier, tcp(), Stream, greeting.len() + at, octets);
    }
    assert_eq!(
        classifier.name(3, &tcp()).map(|(name, _)| &**name),
        Some(GOOGLE)
    );
}

#[test]
fn a_method_that_nobody_knows_hides_no_host() {
    use Kind::Stream;
    let named = (Some("www.a.test".to_owned()), None);
    let request = [b"MADEUP /a/long/path", &REQUEST[5..]].concat();
    for before in [&b""[..], b"HELLO 1.0 program\r\n"] {
        let all = [before, &request].concat();
        for cut in before.len().max(1)..all.len() {
            let pieces = [(Stream, &all[..cut]), (Stream, &all[cut..])];
            assert_eq!(told(tcp(), &pieces), named, "{before:02x?} {cut}");
        }
    }
    // Its end never comes, nor that of a method that is known.
    for half in [&b"MADEUP /a/long"[..], b"GET / HTTP/1.1\r\nHo"] {
        let mut classifier = Classifier::default();
        said(&mut classifier, tcp(), Stream, 0, half);
        classifier.forget_unfinished(0.0);
        let given: Vec<_> = classifier.given_up().collect();
        assert_eq!(given.first().map(|given| given.decoder), Some("http"));
    }
}

#[test]
fn a_hello_behind_a_dialogue_is_read() {
    use Kind::{Stream, Tls};
    let hello = records(HELLO);
    let named = (Some(GOOGLE.to_owned()), None);
    for before in [
        &[
            &b"1 CAPABILITY\r\n"[..],
            b"2 ID (\"name\" \"x\")\r\n",
            b"3 STARTTLS\r\n",
        ][..],
        &[
            b"EHLO a.test\r\n",
            b"NOOP\r\n",
            b"NOOP\r\n",
            b"RSET\r\n",
            b"STARTTLS\r\n",
        ],
        &[
            b"<?xml version='1.0'?><stream:stream to='a.test'>",
            b"<starttls/>",
        ],
        &[b"CAPA\r\n", b"STLS\r\n"],
        &[
            b"\x05\x02\x00\x02",
            b"\x01\x04user\x04word",
            b"\x05\x01\x00\x01\xc6\x33\x64\x07\x01\xbb",
        ],
        // PostgreSQL.
        &[b"\0\0\0\x08\x04\xd2\x16\x2f"],
        // Something whose first bytes could be those of SOCKS.
        &[b"\x05\x0a\x00\x01"],
    ] {
        let mut segments: Vec<_> = before.iter().map(|octets| (Stream, *octets)).collect();
        segments.extend([
            (Tls, &hello[..700]),
            (Stream, &hello[700..1400]),
            (Stream, &hello[1400..]),
        ]);
        assert_eq!(told(tcp(), &segments), named, "{before:02x?}");
    }
    // A TLS hello at the port of DNS is read as TLS.
    let at_53 = key(protocol::TCP, 40_000, 53);
    assert_eq!(
        told(at_53, &[(Tls, &hello[..900]), (Stream, &hello[900..])]),
        named
    );
    assert_eq!(
        told(at_53, &[(Kind::Http, REQUEST)]).0.as_deref(),
        Some("www.a.test")
    );
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [
        &[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream],
        payload,
    ]
    .concat()
}

#[test]
fn http2_without_tls_names_its_hosts() {
    use Kind::Stream;
    let fields =
        |host: &str| [&[0x82, 0x86, 0x84, 0x41, host.len() as u8], host.as_bytes()].concat();
    let start = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(4, 0, 0, &[]),
    ]
    .concat();
    let first = frame(1, 5, 1, &fields("a.test"));
    let whole = [&start[..], &first].concat();
    let named = (Some("a.test".to_owned()), None);
    assert_eq!(told(tcp(), &[(Stream, &whole)]), named);
    for cut in 1..whole.len() {
        let (one, two) = whole.split_at(cut);
        assert_eq!(told(tcp(), &[(Stream, one), (Stream, two)]), named, "{cut}");
    }
    let none = |failure| (None, Some(failure));
    let odd = [&start[..], &frame(1, 5, 1, &fields("a test"))].concat();
    assert_eq!(told(tcp(), &[(Stream, &odd)]), none("no-host-name"));
    // Behind a line of text.
    let all = [&b"HELLO 1.0 program\r\n"[..], &whole].concat();
    for cut in 1..all.len() {
        let (one, two) = all.split_at(cut);
        assert_eq!(told(tcp(), &[(Stream, one), (Stream, two)]), named, "{cut}");
    }
    let broken = [&start[..], &frame(1, 5, 1, &[0xff, 0xff])].concat();
    assert_eq!(told(tcp(), &[(Stream, &broken)]), none("malformed"));

    // Another stream of the connection asks for what is refused, behind a body.
    let mut classifier = Classifier::default();
    let heard = said(&mut classifier, tcp(), Stream, 0, &whole);
    assert!(heard.settled && heard.requests);
    let second = [
        &frame(0, 1, 1, &[7; 200]),
        &frame(1, 5, 3, &fields("b.test"))[..],
    ]
    .concat();
    let heard = said(&mut classifier, tcp(), Stream, whole.len(), &second);
    let judged = judge(&["b.test"]).judge(&heard);
    assert_eq!(judged.host, Some(0));
    assert!(judged.refuses());
    // And one that cannot be read is said to be so.
    let third = frame(1, 5, 5, &[0xff, 0xff]);
    let heard = said(
        &mut classifier,
        tcp(),
        Stream,
        whole.len() + second.len(),
        &third,
    );
    assert_eq!(
        unread(judge(&[]).judge(&heard)),
        Some(("malformed", "http"))
    );
}

#[test]
fn what_cannot_be_read_hides_no_request_before_it() {
    let second = request("b.test", "\r\n");
    let broken = [&second[..], b"\x00\x01 is no request\r\n"].concat();
    let first = request("a.test", "\r\n");
    assert_eq!(outcome(&[&first, &broken], &["b.test"]), Some((1, "http")));
    assert_eq!(outcome(&[&first, &broken], &[]), Some((1, "malformed")));
    // HTTP/2, with the first request or behind it.
    let frames = [
        frame(1, 5, 3, b"\x82\x86\x84\x41\x06b.test"),
        frame(1, 5, 5, &[0xff, 0xff]),
    ]
    .concat();
    let start = http2();
    let all = [&start[..], &frames].concat();
    for (pieces, piece) in [(&[&start[..], &frames][..], 1), (&[&all], 0)] {
        assert_eq!(outcome(pieces, &["b.test"]), Some((piece, "http")));
        assert_eq!(outcome(pieces, &[]), Some((piece, "malformed")));
    }
}

/// A connection of HTTP/2 that has named a.test.
fn http2() -> Vec<u8> {
    [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(4, 0, 0, &[]),
        &frame(1, 5, 1, b"\x82\x86\x84\x41\x06a.test"),
    ]
    .concat()
}

#[test]
fn a_half_said_header_block_is_given_up() {
    let start = http2();
    let half = frame(1, 1, 3, b"\x82\x86\x84\x41");
    let mut classifier = Classifier::default();
    said(&mut classifier, tcp(), Kind::Stream, 0, &start);
    assert_eq!(classifier.waits(3), Some(false), "between two requests");
    let mut at = start.len();
    for (now, octets) in [(1.0, &half), (9.0, &frame(9, 0, 3, &[])), (14.0, &vec![0])] {
        classifier.sample(&sample(tcp(), Kind::Stream, UP, at, octets), now);
        assert_eq!(classifier.waits(3), Some(true));
        at += octets.len();
    }
    // Neither empty frames nor the start of one prolong it.
    classifier.forget_unfinished(1.0);
    let given: Vec<_> = classifier.given_up().collect();
    assert_eq!(given.len(), 1);
    let judged = judge(&[]).judge_given_up(&given[0]);
    assert_eq!(unread(judged), Some(("truncated", "http")));
    assert_eq!(classifier.readers(), 0);
}

#[test]
fn what_http2_is_read_by_is_kept_of_so_many_flows() {
    let start = http2();
    let mut classifier = Classifier::default();
    let mut send = |device, slot, at, octets: &[u8]| {
        let key = key_of(device, protocol::TCP, 40_000, 443);
        let mut sample = sample(key, Kind::Stream, UP, at, octets);
        sample.head.slot = slot;
        let heard = classifier.sample(&sample, 0.0).expect("the kind is known");
        unread(judge(&[]).judge(&heard))
    };
    // Another device's is the oldest.
    send(2, MAX_KEPT as u32, 0, &start);
    for slot in 0..MAX_KEPT as u32 {
        assert_eq!(send(1, slot, 0, &start), None);
    }
    let next = frame(1, 5, 3, b"\x82\x86\x84\xbe");
    for (device, slot, expected) in [
        (1, 0, Some(("limit", "http"))),
        (1, 1, None),
        (2, MAX_KEPT as u32, None),
    ] {
        assert_eq!(send(device, slot, start.len(), &next), expected, "{slot}");
    }
}

#[test]
fn what_is_no_host_name_is_unread_and_a_port_is_no_part_of_it() {
    let host = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for odd in [
        "m\u{fc}nchen.test",
        "a b.test",
        "a..test",
        "http://a.test/",
        "a.test\0",
    ] {
        let request = host(odd);
        let told = told(tcp(), &[(Kind::Http, request.as_bytes())]);
        assert_eq!(told, (None, Some("no-host-name")), "{odd}");
    }
    let request = host("a.test:8080");
    let named = told(tcp(), &[(Kind::Http, request.as_bytes())]);
    assert_eq!(named, (Some("a.test".to_owned()), None));
    // None is asked for.
    let nameless = told(tcp(), &[(Kind::Http, host("").as_bytes())]);
    assert_eq!(nameless, (None, None));
    // A later request of the connection.
    let both = [REQUEST, host("b c").as_bytes()].concat();
    let (name, reason) = told(tcp(), &[(Kind::Http, &both)]);
    assert_eq!(
        (name.as_deref(), reason),
        (Some("www.a.test"), Some("no-host-name"))
    );
}

#[test]
fn dns_at_any_port_is_a_message_to_its_last_byte() {
    let elsewhere = key(protocol::UDP, 40_000, 5_300);
    let heard = |octets: &[u8]| said(&mut Classifier::default(), elsewhere, Kind::Dns, 0, octets);
    let asked = question(&["www.a.test"]);
    let message = heard(&asked);
    assert!(message.is_dns);
    assert_eq!(message.messages[0].questions[0].name, "www.a.test");
    for end in 0..asked.len() {
        let part = heard(&asked[..end]);
        assert!(part.messages.is_empty() && part.failure.is_none(), "{end}");
    }
    let longer = heard(&[&asked[..], b"x"].concat());
    assert!(longer.messages.is_empty() && !longer.is_dns && longer.failure.is_none());
    // At its own port what is none is counted.
    let at_53 = key(protocol::UDP, 40_000, 53);
    let cut = said(
        &mut Classifier::default(),
        at_53,
        Kind::Dns,
        0,
        &asked[..20],
    );
    assert!(cut.is_dns && cut.failure.is_some());
}

/// The facts of an upload in these segments: all its names, and whether something is unread.
fn said_in(pieces: &[&[u8]]) -> (Vec<String>, bool) {
    let mut classifier = Classifier::default();
    let (mut names, mut is_unread, mut at) = (Vec::new(), false, 0);
    for octets in pieces {
        let heard = said(&mut classifier, tcp(), Kind::Stream, at, octets);
        at += octets.len();
        if let Outcome::Name(name, _) = &heard.outcome {
            names.push(name.to_string());
        }
        names.extend(heard.hosts.iter().map(ToString::to_string));
        is_unread |= matches!(heard.outcome, Outcome::Unread(_)) || heard.doubt.is_some();
    }
    classifier.forget_unfinished(0.0);
    (names, is_unread | classifier.given_up().next().is_some())
}

proptest! {
    /// The start of a stream that names somebody in one segment does so, or is unread, however it is cut.
    #[test]
    fn no_cut_hides_what_a_segment_says(
        parts in prop::collection::vec(prop::sample::select(parts()), 1..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let stream = parts.concat();
        let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        places.extend([0, stream.len()]);
        places.sort_unstable();
        places.dedup();
        let pieces: Vec<_> = places.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect();
        let (whole, whole_unread) = said_in(&[&stream]);
        let (cut, cut_unread) = said_in(&pieces);
        if !cut_unread {
            prop_assert!(!whole_unread, "{whole:?}, {cut:?}, {places:?} {}", stream.escape_ascii());
            for name in whole {
                prop_assert!(cut.contains(&name), "{name}, {cut:?}, {places:?} {}", stream.escape_ascii());
            }
        }
    }
}

/// The parts of streams.
fn parts() -> Vec<Vec<u8>> {
    [
        &b"\x05\x01\x00"[..],
        b"\x05\x01\x00\x03\x0awww.a.test\x00\x50",
        b"\x01\x04user\x04word",
        b"\x04\x01\x00\x50\x00\x00\x00\x01me\0www.a.test\0",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 80\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\x9c\x40\0\x50",
        b"HELLO 1.0 program\r\n",
        b"\r\n",
        b"GET",
        b"\x16\x03",
        b"MADEUP /x HTTP/1.1\r\nHost: b.test\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: c.test\r\nContent-Length: 4\r\n\r\nbody",
        REQUEST,
        &records(HELLO),
        &http2(),
        &frame(1, 1, 3, b"\x82\x86\x84\x41"),
        &frame(9, 4, 3, b"\x06b.test"),
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

/// An answer to [`question`] of one name, with an alias and an address of that.
fn answer(name: &str, target: &str) -> Vec<u8> {
    let mut message = question(&[name]);
    message[2] = 0x81;
    message[7] = 2;
    let target = &question(&[target])[12..];
    let target = &target[..target.len() - 4];
    message.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, target.len() as u8]);
    let [high, low] = (message.len() as u16 | 0xc000).to_be_bytes();
    message.extend(target);
    message.extend([high, low, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 9]);
    message
}

#[test]
fn a_name_is_judged_with_those_to_which_dns_led_its_device() {
    let judge = Judge::new(Arc::new(ActiveRules {
        by_name: Box::new(|_, name, targets, layer| {
            let leads = targets.iter().any(|target| &**target == "tracker.test");
            (name == GOOGLE && leads).then(|| refused(layer))
        }),
        concerns: Box::new(|_| true),
        ..ActiveRules::without_names(GENERATION)
    }));
    let mut classifier = Classifier::default();
    let dns = |classifier: &mut Classifier, device, direction, octets: &[u8]| {
        let key = key_of(device, protocol::UDP, 40_001, 53);
        let mut sample = sample(key, Kind::Dns, direction, 0, octets);
        sample.head.slot = 9 + u32::from(device);
        classifier.sample(&sample, 0.0).expect("the kind is known")
    };
    let decides = |classifier: &mut Classifier, device, slot| {
        let key = key_of(device, protocol::TCP, 40_000, 443);
        let mut sample = sample(key, Kind::Tls, UP, 0, &records(HELLO));
        sample.head.slot = slot;
        let heard = classifier.sample(&sample, 0.0).expect("the kind is known");
        let ruling = judge.judge(&heard).ruling.expect("a name was told");
        let again = judge.judge_again(
            &key,
            GOOGLE,
            classifier.targets(key.mac(), GOOGLE, 0.0),
            Source::Tls,
        );
        assert_eq!(again.decision, ruling.decision);
        ruling.decision.is_some()
    };
    let answer = answer(GOOGLE, "Tracker.test");
    assert_eq!(dns(&mut classifier, 1, DOWN, &answer).answers, [false]);
    assert!(!decides(&mut classifier, 1, 1), "nobody asked");
    let asked = dns(&mut classifier, 1, UP, &question(&[GOOGLE]));
    assert_eq!(asked.answers, [false]);
    assert_eq!(dns(&mut classifier, 2, DOWN, &answer).answers, [false]);
    assert_eq!(dns(&mut classifier, 1, DOWN, &answer).answers, [true]);
    assert!(decides(&mut classifier, 1, 2));
    assert!(!decides(&mut classifier, 2, 3), "another device");
}

#[test]
fn refusals_are_told_once_each_with_what_was_refused() {
    let told = |judge: &Judge, heard: &Observation| {
        let refused = judge.refused(heard, &judge.judge(heard));
        let refused = refused.into_iter();
        let told = refused.map(|one| (one.name.map(|name| name.to_string()), one.count));
        told.collect::<Vec<_>>()
    };
    let blocks = judge(&[GOOGLE, "b.test"]);
    let mut classifier = Classifier::default();
    let octets = records(HELLO);
    let heard = said(&mut classifier, tcp(), Kind::Tls, 0, &octets);
    let google = (Some(GOOGLE.to_owned()), 1);
    assert_eq!(told(&blocks, &heard), [google]);
    assert_eq!(told(&judge(&["b.test"]), &heard), []);
    let again = said(&mut classifier, tcp(), Kind::Stream, octets.len(), b"more");
    assert_eq!(told(&blocks, &again), []);

    // The kernel refused a question, and told one of five.
    let dns = key(protocol::UDP, 40_001, 53);
    let mut asks = sample(dns, Kind::Dns, UP, 0, &question(&["b.test"]));
    asks.head.flags = Head::JUDGED | Head::REFUSED;
    asks.head.suppressed = 4;
    let heard = classifier.sample(&asks, 0.0).expect("the kind is known");
    assert_eq!(told(&blocks, &heard), [(Some("b.test".to_owned()), 5)]);
    asks.head.flags = Head::JUDGED;
    let heard = classifier.sample(&asks, 0.0).expect("the kind is known");
    assert_eq!(told(&blocks, &heard), [], "it passed");

    // The second request in a segment.
    let two = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET / HTTP/1.1\r\nHost: b.test\r\n\r\n";
    let http = key(protocol::TCP, 40_002, 80);
    let mut requests = sample(http, Kind::Http, UP, 0, two.as_bytes());
    requests.head.slot = 5;
    let heard = classifier
        .sample(&requests, 0.0)
        .expect("the kind is known");
    assert_eq!(told(&blocks, &heard), [(Some("b.test".to_owned()), 1)]);

    // A flow without a name, at an address of refused names alone.
    let by_address = Judge::new(Arc::new(ActiveRules {
        by_address: Box::new(|_| Some(refused(Layer::Address))),
        concerns: Box::new(|_| true),
        ..ActiveRules::without_names(GENERATION)
    }));
    let nameless = "GET / HTTP/1.1\r\nHost: 198.51.100.9\r\n\r\n";
    requests.octets = Bytes::copy_from_slice(nameless.as_bytes());
    requests.head.slot = 6;
    let heard = classifier
        .sample(&requests, 0.0)
        .expect("the kind is known");
    assert_eq!(told(&by_address, &heard), [(None, 1)]);
}
