//! Records that somebody made, and what becomes of them.

use bytes::Bytes;
use proptest::prelude::*;
use sensor_ebpf::{
    books::{DeviceRecord, FIRST_DEVICE, Losses, MULTICAST_DEVICE, Opens},
    flow::{Direction, FlowRecord},
    parse::{Parsed, parse, protocol},
    sample::{Head, Kind, NO_SLOT, Watch},
};

use super::{
    booking::PATIENCE,
    devices::{MAX_LEFT, MAX_UNLISTED},
    snapshot::UNLISTED_FOR,
    *,
};
use crate::{
    classify::{Classifier, MAX_WAITING, MAX_WAITING_OF_DEVICE, UNFINISHED_FOR},
    model::{FlowFacts, PartyTraffic, Snapshot, Ticks},
    record::{DeviceReading, FlowCounts, FlowSums, Sample, Tables},
};

const HELLO: &[u8] = include_bytes!("../../tests/data/hello-zeek-google-de-51833.bin");
const GOOGLE: &str = "www.google.de";
const OTHER_HELLO: &[u8] = include_bytes!("../../tests/data/hello-zeek-39264-rand.bin");
const SNAPCHAT: &str = "tr6.snapchat.com";
const INITIAL: &[u8] = include_bytes!("../../tests/data/initial-rfc9001-a2.bin");

const PHONE: [u8; 6] = [0x64, 0xcc, 0x2e, 1, 2, 3];
const LAPTOP: [u8; 6] = [0x00, 0x1b, 0x21, 1, 2, 3];
const LOCAL: [u8; 4] = [192, 168, 1, 7];
const REMOTE: [u8; 4] = [198, 51, 100, 9];
const RESOLVER: [u8; 4] = [198, 51, 100, 53];
/// A server of a device's own.
const STRANGER: [u8; 4] = [203, 0, 113, 66];

const UP: Direction = Direction::Upload;
const DOWN: Direction = Direction::Download;

/// When the flows of the tests began, in seconds since the Unix epoch and in jiffies.
const BEGAN: u64 = 1000;

fn key_of(mac: [u8; 6], protocol: u8, local: u16, (remote, port): ([u8; 4], u16)) -> FlowKey {
    let mut frame = [0; 54];
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&40_u16.to_be_bytes());
    frame[23] = protocol;
    frame[26..30].copy_from_slice(&LOCAL);
    frame[30..34].copy_from_slice(&remote);
    frame[34..36].copy_from_slice(&local.to_be_bytes());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    frame[46] = 5 << 4;
    if protocol == protocol::UDP {
        frame[38..40].copy_from_slice(&20_u16.to_be_bytes());
    }
    let parsed: Parsed = parse(&frame[..]).expect("a whole frame");
    FlowKey::new(&parsed, UP, 1)
}

fn tcp(local: u16) -> FlowKey {
    key_of(PHONE, protocol::TCP, local, (REMOTE, 443))
}

fn udp(port: u16) -> FlowKey {
    key_of(PHONE, protocol::UDP, 40_000, (REMOTE, port))
}

fn flow_of(key: FlowKey, up: u64, down: u64) -> FlowRecord {
    FlowRecord {
        key,
        watch: Watch::new(4, 4).bits(),
        upload_packets: 1,
        upload_bytes: up,
        download_bytes: down,
        first_seen: BEGAN,
        device: FIRST_DEVICE,
        ..FlowRecord::default()
    }
}

fn records(hello: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &(hello.len() as u16).to_be_bytes()[..], hello].concat()
}

const SERVER_HELLO: &[u8] = &[22, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3, 0, 0, 0];

/// A household, and a moment in it.
struct House {
    classifier: Classifier,
    aggregate: Aggregate,
    now: f64,
    /// How often it was told that a flow is settled.
    settled: usize,
}

impl House {
    fn new() -> Self {
        Self::since(0.0)
    }

    /// One that nothing was read in yet.
    fn unread() -> Self {
        Self {
            classifier: Classifier::default(),
            aggregate: Aggregate::new(Arc::default(), Overrides::default(), 0.0),
            now: BEGAN as f64,
            settled: 0,
        }
    }

    fn since(since: f64) -> Self {
        let mut house = Self {
            classifier: Classifier::default(),
            aggregate: Aggregate::new(Arc::default(), Overrides::default(), since),
            now: BEGAN as f64,
            settled: 0,
        };
        house.aggregate.set_own_addresses([RESOLVER.into()]);
        house.reading(&[PHONE, LAPTOP]);
        house
    }

    fn apply(&mut self, record: Record) {
        let now = self.now;
        self.classifier.hear(record, now, |record| {
            if let Classified::Observation(heard) = &record {
                self.settled += usize::from(heard.settled);
            }
            self.aggregate.take(record, now);
        });
    }

    fn reading(&mut self, macs: &[[u8; 6]]) {
        self.apply(Record::Tables(Box::new(Tables {
            losses: Losses::default(),
            flow_capacity: 65_536,
            device_capacity: 1_024,
            reaped: 0,
            generation: 1,
            policies: 0,
            prefixes: 0,
            names: 0,
            reloads: 0,
            reloads_refused: 0,
            opens_initials: Opens::On,
            clock: Clock {
                hz: 1,
                epoch_millis: 0,
            },
        })));
        for (number, mac) in macs.iter().enumerate() {
            self.apply(Record::Device(DeviceReading {
                number: FIRST_DEVICE + number as u32,
                record: DeviceRecord {
                    mac: Mac::new(*mac).word(),
                    ..DeviceRecord::default()
                },
            }));
        }
    }

    fn sample(&mut self, slot: u32, kind: Kind, of: Payload, octets: &[u8]) {
        self.apply(Record::Sample(Box::new(Sample {
            head: Head {
                key: of.key,
                slot,
                kind: kind as u8,
                direction: of.direction as u8,
                flags: of.syn.map_or(0, |_| Head::SYN_SEEN),
                initial_sequence: of.syn.unwrap_or(0),
                sequence: of.syn.unwrap_or(0).wrapping_add(1).wrapping_add(of.at),
                ..Head::default()
            },
            octets: Bytes::copy_from_slice(octets),
        })));
    }

    fn facts(&self, slot: u32, key: FlowKey) -> FlowFacts {
        self.aggregate.facts(slot, &flow_of(key, 0, 0))
    }

    fn name(&self, slot: u32, key: FlowKey) -> Option<String> {
        self.facts(slot, key).name
    }

    fn failures(&mut self) -> Vec<(&'static str, &'static str, u64)> {
        self.reading(&[PHONE, LAPTOP]);
        self.classifier.forget_unfinished(self.now - UNFINISHED_FOR);
        for given in self.classifier.given_up() {
            self.aggregate.expire(&given, self.now);
        }
        let snapshot = self.aggregate.snapshot(Ticks::default());
        let failures = snapshot.decode_failures.iter();
        failures
            .map(|of| (of.decoder, of.reason, of.count))
            .collect()
    }

    /// Asks a resolver of the house for a name, and gets an address.
    fn resolve(&mut self, mac: [u8; 6], name: &str, address: [u8; 4]) {
        self.resolve_by(RESOLVER, mac, name, address);
    }

    /// Asks a server for a name, and gets an address.
    fn resolve_by(&mut self, server: [u8; 4], mac: [u8; 6], name: &str, address: [u8; 4]) {
        let of = |direction| Payload {
            key: key_of(mac, protocol::UDP, 40_001, (server, 53)),
            direction,
            syn: None,
            at: 0,
        };
        self.sample(9, Kind::Dns, of(UP), &dns_message(7, name, None));
        self.sample(9, Kind::Dns, of(DOWN), &dns_message(7, name, Some(address)));
    }

    /// The bytes of the phone's parties.
    fn parties(&mut self) -> BTreeMap<String, u64> {
        self.parties_of(PHONE)
    }

    fn parties_of(&mut self, mac: [u8; 6]) -> BTreeMap<String, u64> {
        let snapshot = self.aggregate.snapshot(Ticks::default());
        let name = Mac::new(mac).to_string();
        let devices = snapshot.devices.into_iter();
        devices
            .filter(|device| device.device == name)
            .flat_map(|device| device.parties.to_vec())
            .map(|with| {
                let bytes = with.bytes_in_all;
                (with.party, bytes.upload + bytes.download)
            })
            .collect()
    }
}

#[derive(Clone, Copy)]
struct Payload {
    key: FlowKey,
    direction: Direction,
    syn: Option<u32>,
    at: u32,
}

impl Payload {
    fn up(key: FlowKey, at: usize) -> Self {
        Self {
            key,
            direction: UP,
            syn: Some(u32::MAX - 500),
            at: at as u32,
        }
    }

    fn down(key: FlowKey, at: usize) -> Self {
        Self {
            direction: DOWN,
            syn: Some(77),
            ..Self::up(key, at)
        }
    }

    fn after(self, syn: Option<u32>) -> Self {
        Self { syn, ..self }
    }
}

fn dns_message(id: u16, name: &str, answer: Option<[u8; 4]>) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    let count = u8::from(answer.is_some());
    message.extend([count << 7 | 1, 0, 0, 1, 0, count, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    if let Some(address) = answer {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        message.extend(address);
    }
    message
}

fn multicast_answer(name: &str, address: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    message.extend(address);
    message
}

#[test]
fn a_hello_in_pieces_of_any_order_has_its_name() {
    let octets = records(HELLO);
    let cut = 1400;
    for order in [[0, cut], [cut, 0]] {
        for syn in [Some(5), None] {
            let mut house = House::new();
            for at in order {
                let piece = if at == 0 {
                    &octets[..cut]
                } else {
                    &octets[cut..]
                };
                let kind = if at == 0 { Kind::Tls } else { Kind::Stream };
                let of = Payload::up(tcp(1), at).after(syn);
                house.sample(3, kind, of, piece);
                house.sample(3, kind, of, piece);
            }
            // Without a SYN nobody knows that what came first is no beginning.
            let expected = (order[0] == 0 || syn.is_some()).then_some(GOOGLE);
            assert_eq!(
                house.name(3, tcp(1)).as_deref(),
                expected,
                "{order:?} {syn:?}"
            );
            assert_eq!(house.failures(), []);
        }
    }
}

#[test]
fn without_its_start_a_hello_has_no_name() {
    let octets = records(HELLO);
    let mut house = House::new();
    house.sample(3, Kind::Stream, Payload::up(tcp(1), 1400), &octets[1400..]);
    assert_eq!(house.name(3, tcp(1)), None);
    house.now += UNFINISHED_FOR;
    assert_eq!(house.failures(), [], "nobody knows what it was");
    assert_eq!(house.classifier.waiting(), 0);
}

#[test]
fn a_hello_that_contradicts_itself_has_no_name() {
    let octets = records(HELLO);
    let mut house = House::new();
    house.sample(3, Kind::Tls, Payload::up(tcp(1), 0), &octets[..1400]);
    let mut other = octets[1300..].to_vec();
    other[0] ^= 1;
    house.sample(3, Kind::Stream, Payload::up(tcp(1), 1300), &other);
    assert_eq!(house.name(3, tcp(1)), None);
    assert_eq!(house.failures(), [("tls", "conflict", 1)]);
}

#[test]
fn padding_before_a_hello_is_none_of_it() {
    let mut house = House::new();
    house.sample(3, Kind::Stream, Payload::up(tcp(1), 0), &[0; 6]);
    house.sample(3, Kind::Tls, Payload::up(tcp(1), 0), &records(HELLO));
    assert_eq!(house.name(3, tcp(1)).as_deref(), Some(GOOGLE));
}

#[test]
fn what_a_server_says_after_the_hello_is_neither_a_failure_nor_read() {
    let mut house = House::new();
    house.sample(3, Kind::Tls, Payload::up(tcp(1), 0), &records(HELLO));
    house.sample(3, Kind::Tls, Payload::down(tcp(1), 0), SERVER_HELLO);
    house.sample(3, Kind::Stream, Payload::down(tcp(1), 3000), &[5; 1000]);
    house.sample(3, Kind::Stream, Payload::up(tcp(1), 3000), &[5; 1000]);
    assert_eq!(house.name(3, tcp(1)).as_deref(), Some(GOOGLE));
    assert_eq!(house.classifier.waits(3), Some(false));
    assert_eq!(house.classifier.waiting(), 0);
    assert_eq!(house.failures(), []);
    // The kernel may have missed it: it is told as often as it asks.
    assert_eq!(house.settled, 4);
}

#[test]
fn another_protocol_may_turn_to_tls() {
    for start in [
        &b"AUTH TLS\r\n"[..],
        b"EHLO phone.example\r\n",
        b"STARTTLS\r\n",
        b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
        b"CONNECT proxied.example:443 HTTP/1.1\r\nHost: proxied.example\r\n\r\n",
    ] {
        let mut house = House::new();
        let mut first = [0; sensor_ebpf::sample::LOOKED_AT];
        let looked_at = start.len().min(first.len());
        first[..looked_at].copy_from_slice(&start[..looked_at]);
        let kind = sensor_ebpf::sample::classify(&tcp(1), &first, start.len())
            .expect("a stream is always of some kind");
        house.sample(3, kind, Payload::up(tcp(1), 0), start);
        let octets = records(HELLO);
        let (one, two) = octets.split_at(1400);
        house.sample(3, Kind::Tls, Payload::up(tcp(1), start.len()), one);
        house.sample(
            3,
            Kind::Stream,
            Payload::up(tcp(1), start.len() + 1400),
            two,
        );
        let facts = house.facts(3, tcp(1));
        let start = String::from_utf8_lossy(start);
        assert_eq!(facts.name.as_deref(), Some(GOOGLE), "{start}");
        assert_eq!(facts.name_source, Some("tls"), "{start}");
        assert_eq!(house.failures(), [], "{start}");
    }
}

#[test]
fn another_connection_with_the_same_ports_has_a_name_of_its_own() {
    let mut house = House::new();
    house.sample(3, Kind::Tls, Payload::up(tcp(1), 0), &records(HELLO));
    house.sample(3, Kind::Tls, Payload::down(tcp(1), 0), SERVER_HELLO);
    let again = Payload::up(tcp(1), 0).after(Some(4242));
    house.sample(3, Kind::Stream, again, b"SSH-2.0-x\r\n");
    assert_eq!(house.name(3, tcp(1)), None, "the old name is not its own");
    house.sample(3, Kind::Tls, again.after(Some(4243)), &records(OTHER_HELLO));
    let answer = Payload::down(tcp(1), 0).after(Some(99));
    house.sample(3, Kind::Tls, answer, SERVER_HELLO);
    assert_eq!(house.name(3, tcp(1)).as_deref(), Some(SNAPCHAT));
}

#[test]
fn half_a_hello_of_another_connection_is_not_continued() {
    let mut house = House::new();
    let first = Payload::up(tcp(1), 0);
    house.sample(3, Kind::Tls, first, &records(HELLO)[..1400]);
    let second = first.after(Some(4242));
    house.sample(3, Kind::Tls, second, &records(OTHER_HELLO));
    assert_eq!(house.name(3, tcp(1)).as_deref(), Some(SNAPCHAT));
    assert_eq!(house.failures(), [("tls", "truncated", 1)]);
}

#[test]
fn a_quic_client_is_who_says_a_hello() {
    // The answer of a server, under keys that its packet does not lead to.
    let mut answer = INITIAL.to_vec();
    answer[10] ^= 1;
    for server_first in [false, true] {
        let mut house = House::new();
        let of = |direction| Payload {
            key: udp(443),
            direction,
            syn: None,
            at: 0,
        };
        if server_first {
            house.sample(3, Kind::Quic, of(DOWN), &answer);
        }
        house.sample(3, Kind::Quic, of(UP), INITIAL);
        house.sample(3, Kind::Quic, of(DOWN), &answer);
        house.sample(3, Kind::Quic, of(UP), &answer);
        let facts = house.facts(3, udp(443));
        assert_eq!(facts.name.as_deref(), Some("example.com"));
        assert_eq!(facts.name_source, Some("quic"));
        let failed = u64::from(server_first);
        let of_quic: u64 = house.failures().iter().map(|(.., count)| count).sum();
        assert_eq!(of_quic, failed, "the hello ends it");
    }
}

#[test]
fn messages_over_tcp_are_cut_anywhere_and_not_kept() {
    let key = key_of(PHONE, protocol::TCP, 40_000, (RESOLVER, 53));
    let framed: Vec<u8> = [(1, "a.example"), (2, "b.example")]
        .into_iter()
        .flat_map(|(id, name)| {
            let message = dns_message(id, name, None);
            [&(message.len() as u16).to_be_bytes()[..], &message].concat()
        })
        .collect();
    for cut in 0..=framed.len() {
        let mut house = House::new();
        house.aggregate.keep_questions();
        let (one, two) = framed.split_at(cut);
        house.sample(3, Kind::Dns, Payload::up(key, 0), one);
        house.sample(3, Kind::Dns, Payload::up(key, cut), two);
        let names: Vec<_> = house
            .aggregate
            .questions()
            .iter()
            .map(|q| &*q.name)
            .collect();
        assert_eq!(names, ["a.example", "b.example"], "cut at {cut}");
        assert_eq!(house.classifier.waits(3), Some(false), "it may go on");
    }
    // Far more than one stream holds.
    let mut house = House::new();
    house.aggregate.keep_questions();
    for number in 0..1000 {
        house.sample(
            3,
            Kind::Dns,
            Payload::up(key, number * framed.len()),
            &framed,
        );
    }
    assert_eq!(
        house.aggregate.questions().len(),
        2000 - 1998,
        "the same two, over and over"
    );
    assert_eq!(house.failures(), []);
}

#[test]
fn garbage_gives_no_name() {
    let mut house = House::new();
    for (slot, octets) in [&b"\x16\x03\xff\xff"[..], &[0xff; 40], b"GET", b"\0"]
        .iter()
        .enumerate()
    {
        let key = tcp(slot as u16);
        house.sample(slot as u32, Kind::Tls, Payload::up(key, 0), octets);
        assert_eq!(house.name(slot as u32, key), None);
    }
}

#[test]
fn a_slot_that_another_flow_took_keeps_its_readers() {
    let octets = records(HELLO);
    let mut house = House::new();
    house.sample(3, Kind::Tls, Payload::up(tcp(1), 0), &octets[..1400]);
    house.now += UNFINISHED_FOR - 1.0;
    house.apply(Record::Reaped(3, flow_of(tcp(1), 1, 0)));
    house.sample(3, Kind::Tls, Payload::up(tcp(2), 0), &octets[..1400]);
    house.now += 2.0;
    assert_eq!(house.failures(), [], "the one that waited in vain is gone");
    house.sample(3, Kind::Stream, Payload::up(tcp(2), 1400), &octets[1400..]);
    assert_eq!(house.name(3, tcp(2)).as_deref(), Some(GOOGLE));
}

/// A start reaps before it reads for the first time, and knows no time of day until then.
#[test]
fn a_flow_that_is_reaped_before_the_first_reading_is_booked_to_nobody() {
    let mut house = House::unread();
    house.apply(Record::Reaped(3, flow_of(tcp(1), 1_000, 500)));
    house.reading(&[PHONE]);
    house.apply(Record::Flow(3, flow_of(tcp(2), 70, 0)));
    house.now += 100.0;
    house.reading(&[PHONE]);
    house.apply(Record::Flow(3, flow_of(tcp(2), 70, 0)));
    assert_eq!(house.parties().values().sum::<u64>(), 70);
}

#[test]
fn a_sample_that_comes_too_late_books_nothing_twice() {
    let mut house = House::new();
    house.now += PATIENCE;
    house.apply(Record::Flow(3, flow_of(tcp(2), 500, 0)));
    house.sample(3, Kind::Tls, Payload::up(tcp(1), 0), &records(HELLO));
    house.apply(Record::Flow(3, flow_of(tcp(2), 500, 0)));
    assert_eq!(house.parties().values().sum::<u64>(), 500);
    assert_eq!(house.name(3, tcp(2)), None);
}

#[test]
fn a_quic_flow_that_never_says_a_hello_is_counted_once() {
    let mut house = House::new();
    let of = Payload::up(udp(443), 0).after(None);
    let mut damaged = INITIAL.to_vec();
    damaged[600] ^= 1;
    house.sample(3, Kind::Quic, of, &damaged);
    house.now += UNFINISHED_FOR;
    assert_eq!(house.failures(), [("quic", "undecryptable", 1)]);
}

#[test]
fn names_are_taken_from_the_best_source() {
    let mut house = House::new();
    let source = |house: &House| house.facts(3, tcp(1)).name_source;
    let another = |house: &House| house.facts(3, tcp(1)).name_by_another;
    assert_eq!(source(&house), None);
    house.resolve(LAPTOP, "laptop.example", REMOTE);
    assert!(another(&house));
    house.resolve(PHONE, "phone.example", REMOTE);
    assert_eq!(house.name(3, tcp(1)).as_deref(), Some("phone.example"));
    assert!(!another(&house));
    house.now += PATIENCE;
    house.apply(Record::Flow(3, flow_of(tcp(1), 10, 0)));
    let request = b"GET / HTTP/1.1\r\nHost: http.test\r\n\r\n";
    house.sample(3, Kind::Http, Payload::up(tcp(1), 0), request);
    assert_eq!(source(&house), Some("http"));
    house.apply(Record::Flow(3, flow_of(tcp(1), 30, 0)));
    let parties = house.parties();
    house.apply(Record::Flow(3, flow_of(tcp(1), 37, 0)));
    assert_eq!(parties["phone.example"], 10, "what was booked stays");
    assert_eq!(house.parties()["http.test"], 27);
}

#[test]
fn what_another_asked_for_is_no_evidence() {
    let mut house = House::new();
    house.resolve(LAPTOP, "captive.apple.com", REMOTE);
    house.now += PATIENCE;
    house.apply(Record::Flow(3, flow_of(tcp(1), 10, 0)));
    let identity = &house.aggregate.devices[&Mac::new(PHONE)].identity;
    let conclusion = identity.conclude(PHONE, None);
    assert!(
        conclusion.evidence.iter().all(|line| line.source != "name"),
        "{conclusion:?}"
    );
    assert_eq!(house.parties()["198.51.100.9"], 10);
}

/// The laptop has a server of its own answer what it likes.
#[test]
fn a_forged_answer_changes_nothing_for_another_device() {
    let address = IpAddr::from(REMOTE);
    let refusing = |name: &str, _: &[Box<str>]| u64::from(name == "blocked.example");
    let mut house = House::new();
    let rules = |house: &House, mac| {
        let place = (Mac::new(mac), address);
        house
            .aggregate
            .address_names
            .refusing(place, house.now, refusing)
    };
    house.resolve_by(STRANGER, LAPTOP, "blocked.example", REMOTE);
    assert_eq!(
        (rules(&house, LAPTOP), rules(&house, PHONE)),
        (1, 0),
        "no blame"
    );
    let facts = house.facts(3, tcp(1));
    assert_eq!((facts.name, facts.name_by_another), (None, false));

    // Answers to the phone are neither excused nor replaced by another device's.
    house.resolve(PHONE, "blocked.example", REMOTE);
    house.resolve_by(STRANGER, LAPTOP, "allowed.example", REMOTE);
    let hello = key_of(LAPTOP, protocol::TCP, 2, (REMOTE, 443));
    house.sample(4, Kind::Tls, Payload::up(hello, 0), &records(HELLO));
    assert_eq!(
        (rules(&house, LAPTOP), rules(&house, PHONE)),
        (0, 1),
        "no excuse"
    );
    let facts = house.facts(3, tcp(1));
    assert_eq!(facts.name.as_deref(), Some("blocked.example"));
    assert!(!facts.name_by_another);
    house.now += PATIENCE;
    house.apply(Record::Flow(3, flow_of(tcp(1), 10, 0)));
    assert_eq!(house.parties()["blocked.example"], 10);
}

#[test]
fn what_another_was_told_by_the_house_is_shown_and_not_booked() {
    let mut house = House::new();
    house.resolve(LAPTOP, "dns.google", REMOTE);
    let facts = house.facts(3, tcp(1));
    assert_eq!(facts.name.as_deref(), Some("dns.google"));
    assert_eq!(
        (facts.name_source, facts.name_by_another),
        (Some("dns"), true)
    );
    assert_eq!(facts.party.as_deref(), Some("198.51.100.9"));
    assert_eq!((facts.hidden, facts.owner), (Some("not-yet-seen"), None));
    house.now += PATIENCE;
    house.apply(Record::Flow(3, flow_of(tcp(1), 10, 0)));
    assert_eq!(
        house.parties(),
        BTreeMap::from([("198.51.100.9".to_owned(), 10), ("other".to_owned(), 0)])
    );
}

#[test]
fn the_gateways_dhcp_says_which_resolvers_are_the_houses() {
    let mut house = House::new();
    house.resolve_by(STRANGER, LAPTOP, "laptop.example", REMOTE);
    let by_another = |house: &House| house.facts(3, tcp(1)).name_by_another;
    let reply = |house: &mut House, server| {
        let mut reply = discover(PHONE, "x");
        reply[0] = 2;
        reply.pop();
        reply.extend([6, 4, 203, 0, 113, 66, 255]);
        let of = Payload::down(key_of(PHONE, protocol::UDP, 68, (server, 67)), 0).after(None);
        house.sample(NO_SLOT, Kind::Dhcp4, of, &reply);
        house.resolve_by(STRANGER, LAPTOP, "laptop.example", REMOTE);
    };
    reply(&mut house, STRANGER);
    assert!(!by_another(&house), "a server that is not the gateway");
    reply(&mut house, RESOLVER);
    assert!(by_another(&house));
}

#[test]
fn the_gateways_router_advertisements_say_which_resolvers_are_the_houses() {
    const ROUTER: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const NAMED: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];
    let mut advertisement = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    advertisement.extend([25, 3, 0, 0, 0, 0, 1, 0]);
    advertisement.extend(NAMED);
    // To all nodes, as the programs copy it.
    let mut frame = vec![
        0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0,
    ];
    frame.extend([0, advertisement.len() as u8, 58, 255]);
    frame.extend(ROUTER);
    frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend(&advertisement);
    let parsed = parse(&frame[..]).expect("a whole frame");
    let key = FlowKey::new(&parsed, DOWN, 1);
    let mut house = House::new();
    let catalog = Catalog::default();
    let of = Payload::down(key, 0).after(None);
    house.sample(NO_SLOT, Kind::RouterAdvertisement, of, &advertisement);
    let have = |house: &House| house.aggregate.resolvers.have(NAMED.into(), &catalog);
    assert!(!have(&house), "a router that is not the gateway");
    house.aggregate.set_own_addresses([ROUTER.into()]);
    house.sample(NO_SLOT, Kind::RouterAdvertisement, of, &advertisement[..30]);
    assert_eq!(house.failures(), [("router-advertisement", "truncated", 1)]);
    house.sample(NO_SLOT, Kind::RouterAdvertisement, of, &advertisement);
    assert!(have(&house));
}

#[test]
fn only_answers_to_what_was_asked_name_addresses() {
    let resolver = key_of(PHONE, protocol::UDP, 40_001, (RESOLVER, 53));
    let server = key_of(PHONE, protocol::UDP, 53, (RESOLVER, 40_001));
    let forged = dns_message(7, "forged.example", Some(REMOTE));
    let of = |key, direction| Payload {
        key,
        direction,
        syn: None,
        at: 0,
    };
    let mut house = House::new();
    for (key, direction) in [
        (resolver, UP),
        (resolver, DOWN),
        (server, UP),
        (server, DOWN),
    ] {
        house.sample(9, Kind::Dns, of(key, direction), &forged);
        assert_eq!(house.name(3, tcp(1)), None);
    }
    // Another name, another identifier, and the second answer.
    house.sample(
        9,
        Kind::Dns,
        of(resolver, UP),
        &dns_message(7, "asked.example", None),
    );
    house.sample(9, Kind::Dns, of(resolver, DOWN), &forged);
    let other = dns_message(8, "asked.example", Some(REMOTE));
    house.sample(9, Kind::Dns, of(resolver, DOWN), &other);
    assert_eq!(house.name(3, tcp(1)), None);
    let right = dns_message(7, "asked.example", Some(REMOTE));
    house.sample(9, Kind::Dns, of(resolver, DOWN), &right);
    let late = dns_message(7, "asked.example", Some([198, 51, 100, 10]));
    house.sample(9, Kind::Dns, of(resolver, DOWN), &late);
    assert_eq!(house.name(3, tcp(1)).as_deref(), Some("asked.example"));
    let elsewhere = key_of(PHONE, protocol::TCP, 1, ([198, 51, 100, 10], 443));
    assert_eq!(house.name(3, elsewhere), None);
}

#[test]
fn what_is_hidden_is_told_apart() {
    let flow = |protocol, address, port| key_of(PHONE, protocol, 1, (address, port));
    let mut house = House::new();
    let check = |house: &House, key, reason: Option<&str>| {
        assert_eq!(house.facts(3, key).hidden, reason, "{key:?}");
    };
    check(
        &house,
        flow(protocol::TCP, REMOTE, 443),
        Some("not-yet-seen"),
    );
    check(
        &house,
        flow(protocol::UDP, REMOTE, 443),
        Some("plain-address"),
    );
    check(
        &house,
        flow(protocol::TCP, REMOTE, 853),
        Some("encrypted-dns"),
    );
    check(
        &house,
        flow(protocol::TCP, [8, 8, 8, 8], 443),
        Some("encrypted-dns"),
    );
    check(&house, flow(50, REMOTE, 0), Some("vpn"));
    check(&house, flow(protocol::TCP, [192, 168, 1, 1], 443), None);
    check(&house, flow(protocol::UDP, REMOTE, 53), None);
    let spent = FlowRecord {
        watch: 0,
        ..flow_of(tcp(1), 0, 0)
    };
    let facts = house.aggregate.facts(3, &spent);
    assert_eq!(facts.hidden, Some("plain-address"), "it will not be seen");
    let mut opening = vec![0; 148];
    opening[0] = 1;
    house.sample(3, Kind::Tunnel, Payload::up(udp(51_820), 0), &opening);
    check(&house, udp(51_820), Some("vpn"));
    house.resolve(PHONE, "dns.google", REMOTE);
    check(
        &house,
        flow(protocol::TCP, REMOTE, 443),
        Some("encrypted-dns"),
    );
}

/// A hello with this name and the extension of encrypted hellos.
fn encrypted_hello(name: Option<&str>) -> Vec<u8> {
    let extension = |kind: u16, data: &[u8]| {
        [
            &kind.to_be_bytes()[..],
            &(data.len() as u16).to_be_bytes(),
            data,
        ]
        .concat()
    };
    let name = name.map_or(Vec::new(), |name| {
        let len = name.len() as u16;
        let entry = [&[0], &len.to_be_bytes()[..], name.as_bytes()].concat();
        extension(0, &[&(len + 3).to_be_bytes()[..], &entry].concat())
    });
    // An outer hello (RFC 9849, section 5): cipher suite, configuration, key, payload.
    let ech = [&[0, 0, 1, 0, 1, 9, 0, 2, 1, 1, 0, 4][..], &[1, 2, 3, 4]].concat();
    let extensions = [name, extension(0xfe0d, &ech)].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0x13, 1, 1, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    records(&[&[1, 0], &(body.len() as u16).to_be_bytes()[..], &body].concat())
}

#[test]
fn an_encrypted_hello_counts_where_it_hides_a_name() {
    let router = key_of(PHONE, protocol::TCP, 1, ([192, 168, 1, 1], 443));
    for (key, name, hidden) in [
        (tcp(1), Some("cloudflare-ech.com"), Some("ech")),
        (tcp(1), Some("grease.example"), None),
        (tcp(1), None, Some("plain-address")),
        (router, None, None),
    ] {
        let mut house = House::new();
        house.sample(3, Kind::Tls, Payload::up(key, 0), &encrypted_hello(name));
        let facts = house.facts(3, key);
        assert!(facts.ech, "the extension is there");
        assert_eq!(facts.hidden, hidden, "{name:?}");
    }
}

#[test]
fn a_quic_flow_has_the_stack_that_the_devices_tcp_hellos_tell() {
    let mut house = House::new();
    let of = Payload {
        syn: None,
        ..Payload::up(udp(443), 0)
    };
    house.sample(3, Kind::Quic, of, INITIAL);
    let facts = house.facts(3, udp(443));
    assert_eq!(
        (facts.name.as_deref(), facts.stack),
        (Some("example.com"), None)
    );
    assert!(facts.ja4.unwrap().starts_with("q13d"));
    // Another device, and another name, tell nothing.
    let laptop = key_of(LAPTOP, protocol::TCP, 1, (REMOTE, 443));
    let hello = encrypted_hello(Some("example.com"));
    house.sample(4, Kind::Tls, Payload::up(laptop, 0), &hello);
    let other = encrypted_hello(Some("other.example"));
    house.sample(5, Kind::Tls, Payload::up(tcp(1), 0), &other);
    assert_eq!(house.facts(3, udp(443)).stack, None);
    house.sample(6, Kind::Tls, Payload::up(tcp(2), 0), &hello);
    let stack = house.facts(6, tcp(2)).stack;
    assert!(stack.is_some());
    assert_eq!(house.facts(3, udp(443)).stack, stack);
}

#[test]
fn the_history_has_the_stacks_of_parties_with_names_alone() {
    let mut house = House::new();
    let rules = history::Rules {
        all_names: true,
        ..history::Rules::default()
    };
    house.aggregate.keep_history(Some(rules));
    let hello = encrypted_hello(Some("example.com"));
    house.sample(3, Kind::Tls, Payload::up(tcp(1), 0), &hello);
    let stack = house.facts(3, tcp(1)).stack.unwrap();
    let stacks = |house: &mut House| -> Vec<_> {
        house.reading(&[PHONE, LAPTOP]);
        house.apply(Record::Flow(3, flow_of(tcp(1), 100, 0)));
        let of = house.aggregate.take_history().unwrap();
        let parties = of.devices.into_iter().flat_map(|device| device.parties);
        parties
            .map(|(party, _)| (party.kind, party.stacks))
            .collect()
    };
    let site = model::history::PartyKind::Site;
    assert_eq!(stacks(&mut house), [(site, vec![stack])]);

    let mut house = House::new();
    house
        .aggregate
        .keep_history(Some(history::Rules::default()));
    house.sample(3, Kind::Tls, Payload::up(tcp(1), 0), &hello);
    let sites = model::history::PartyKind::Sites;
    assert_eq!(stacks(&mut house), [(sites, vec![])]);
}

#[test]
fn a_device_is_what_it_says_itself() {
    let mut house = House::new();
    let key = udp(5353);
    let of = |direction| Payload {
        key,
        direction,
        syn: None,
        at: 0,
    };
    let name = |house: &House| {
        let identity = &house.aggregate.devices.get(&Mac::new(PHONE))?.identity;
        identity.conclude(PHONE, None).name
    };
    house.sample(
        3,
        Kind::Mdns,
        of(UP),
        &multicast_answer("Printer.local", [192, 168, 1, 8]),
    );
    house.sample(
        3,
        Kind::Mdns,
        of(DOWN),
        &multicast_answer("Speaker.local", LOCAL),
    );
    assert_eq!(name(&house), None, "passed on for another");
    house.sample(
        3,
        Kind::Mdns,
        of(UP),
        &multicast_answer("Redmi-Note-8.local", LOCAL),
    );
    assert!(name(&house).is_some_and(|name| name.to_lowercase().contains("redmi")));
}

fn discover(client: [u8; 6], host_name: &str) -> Vec<u8> {
    let mut message = vec![0; 236];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[28..34].copy_from_slice(&client);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 12, host_name.len() as u8]);
    message.extend(host_name.as_bytes());
    message.push(255);
    message
}

#[test]
fn dhcp_speaks_for_its_sender_and_a_server_is_a_router() {
    let mut house = House::new();
    let key = udp(67);
    let of = Payload::up(key, 0).after(None);
    house.sample(3, Kind::Dhcp4, of, &discover(LAPTOP, "Forged"));
    let named = |house: &House, mac| {
        let identity = &house.aggregate.devices[&Mac::new(mac)].identity;
        identity.conclude(mac, None)
    };
    assert_eq!(named(&house, LAPTOP).name, None);
    assert_eq!(named(&house, PHONE).name, None, "it asks for another");
    house.sample(3, Kind::Dhcp4, of, &discover(PHONE, "Annas-Redmi"));
    assert_eq!(named(&house, PHONE).name.as_deref(), Some("Annas-Redmi"));
    let mut offer = discover(LAPTOP, "x");
    offer[0] = 2;
    let server = Payload::up(key_of(LAPTOP, protocol::UDP, 67, (LOCAL, 68)), 0).after(None);
    house.sample(4, Kind::Dhcp4, server, &offer);
    assert_eq!(named(&house, LAPTOP).kind, model::Kind::Router);
}

#[test]
fn made_up_devices_are_few_and_leave_room_for_real_ones() {
    let mut house = House::new();
    let flood = 70_000_u32;
    for number in 0..flood {
        let [_, b, c, d] = number.to_be_bytes();
        let key = key_of([2, 0, 0, b, c, d], protocol::UDP, 1, (REMOTE, 5353));
        let answer = multicast_answer("a.local", LOCAL);
        house.sample(
            NO_SLOT,
            Kind::Mdns,
            Payload::up(key, 0).after(None),
            &answer,
        );
    }
    assert!(house.aggregate.devices.len() <= MAX_UNLISTED + 2);
    let new = [0x64, 0xcc, 0x2e, 9, 9, 9];
    house.reading(&[PHONE, LAPTOP, new]);
    assert!(house.aggregate.devices.contains_key(&Mac::new(new)));
    house.now += UNLISTED_FOR;
    house.reading(&[PHONE, LAPTOP, new]);
    let refused = house
        .aggregate
        .snapshot(Ticks::default())
        .names
        .devices_refused;
    assert_eq!(refused, u64::from(flood), "each is counted");
    assert_eq!(house.aggregate.devices.len(), 3);
    assert_eq!(house.aggregate.unlisted, 0);
}

/// A flood whose devices have records for less than the time between two readings.
#[test]
fn devices_that_left_are_bounded_and_take_no_room_from_others() {
    let mut house = House::new();
    for number in 0..3_000_u32 {
        let [_, b, c, d] = number.to_be_bytes();
        let mac = [2, 0, 0, b, c, d];
        let key = key_of(mac, protocol::UDP, 1, (REMOTE, 5353));
        let answer = multicast_answer("a.local", LOCAL);
        house.sample(
            NO_SLOT,
            Kind::Mdns,
            Payload::up(key, 0).after(None),
            &answer,
        );
        house.apply(Record::Left(Mac::new(mac).word(), false));
        assert_eq!(house.aggregate.unlisted, 0);
    }
    assert!(house.aggregate.devices.len() <= MAX_LEFT + 2);
    assert_eq!(house.aggregate.devices_refused, 0);
    // One that comes back is what it was.
    let back = [2, 0, 0, 0, 0x0b, 0xb7];
    house.reading(&[PHONE, back]);
    assert_eq!(house.aggregate.unlisted, 0);
    assert!(house.aggregate.devices[&Mac::new(back)].left.is_none());
}

#[test]
fn unfinished_hellos_are_bounded_and_counted() {
    let octets = records(HELLO);
    let mut house = House::new();
    let of = |device: u8, local: u16| {
        key_of([2, 0, 0, 0, 0, device], protocol::TCP, local, (REMOTE, 443))
    };
    // One device more than its share takes nothing from another.
    let first = of(1, 1);
    house.sample(0, Kind::Tls, Payload::up(first, 0), &octets[..1000]);
    for slot in 1..=MAX_WAITING_OF_DEVICE as u32 + 50 {
        let key = of(2, slot as u16);
        house.sample(slot, Kind::Tls, Payload::up(key, 0), &octets[..1000]);
    }
    assert_eq!(house.classifier.readers(), 1 + MAX_WAITING_OF_DEVICE);
    assert_eq!(house.classifier.waits(0), Some(true));
    assert_eq!(house.failures(), [("tls", "limit", 50)]);
    // Made-up devices that fill what there is for all take nothing from a device with less.
    let mut slot = 1_000;
    for device in 3..=11 {
        for local in 0..MAX_WAITING_OF_DEVICE as u16 {
            let key = of(device, local);
            house.sample(slot, Kind::Tls, Payload::up(key, 0), &octets[..1000]);
            slot += 1;
        }
    }
    assert_eq!(house.classifier.readers(), MAX_WAITING);
    assert_eq!(house.classifier.waits(0), Some(true));
    house.sample(0, Kind::Stream, Payload::up(first, 1000), &octets[1000..]);
    assert!(
        house.classifier.name(0, &first).is_some(),
        "its rest is read"
    );
    let sum = 50 + (1 + 10 * MAX_WAITING_OF_DEVICE - MAX_WAITING) as u64;
    house.now += UNFINISHED_FOR;
    assert_eq!(
        house.failures(),
        [
            ("tls", "truncated", MAX_WAITING as u64 - 1),
            ("tls", "limit", sum)
        ]
    );
}

/// The tables of a house, as entries or bytes; each is bounded by itself.
fn sizes(house: &House) -> Vec<usize> {
    let aggregate = &house.aggregate;
    vec![
        aggregate.parties.count(),
        aggregate.parties.pairs(),
        aggregate.answers.size(),
        aggregate.address_names.cost(),
        aggregate.devices.len(),
    ]
}

/// A flow of the laptop to an address of its own, that begins now.
fn flow_to(number: u32, port: u16, now: f64) -> FlowRecord {
    let [_, b, c, d] = number.to_be_bytes();
    let key = key_of(LAPTOP, protocol::UDP, port, ([100, b, c, d], 9));
    FlowRecord {
        first_seen: now as u64,
        ..flow_of(key, 100, 0)
    }
}

#[test]
fn a_hundred_thousand_destinations_of_one_device_leave_others_as_they_were() {
    const DESTINATIONS: u32 = 100_000;
    const HOUR: f64 = 3_600.0;
    let mut house = House::new();
    house.resolve(PHONE, "one.example", REMOTE);
    house.now += PATIENCE;
    house.apply(Record::Flow(0, flow_of(tcp(1), 500, 0)));
    let before = sizes(&house);
    for number in 0..DESTINATIONS {
        // A flow there, and of every eighth the address in an answer of the laptop's own server.
        if number % 8 == 0 {
            let [_, b, c, d] = number.to_be_bytes();
            let name = format!("{number}.example");
            house.resolve_by(STRANGER, LAPTOP, &name, [100, b, c, d]);
        }
        let flow = flow_to(number, 1, house.now);
        house.apply(Record::Reaped(1, flow));
        house.now += 0.01;
    }
    // Those of the phone are what they were, and it has room for others.
    house.apply(Record::Flow(0, flow_of(tcp(1), 600, 0)));
    house.resolve(PHONE, "two.example", [198, 51, 100, 10]);
    let two = key_of(PHONE, protocol::TCP, 2, ([198, 51, 100, 10], 443));
    house.now += PATIENCE;
    house.apply(Record::Flow(2, flow_of(two, 70, 0)));
    let parties = house.parties();
    assert_eq!((parties["one.example"], parties["two.example"]), (600, 70));
    assert_eq!(house.name(0, tcp(1)).as_deref(), Some("one.example"));
    // Nothing of the laptop is lost from the books.
    let laptops: u64 = house.parties_of(LAPTOP).values().sum();
    assert_eq!(laptops, 100 * u64::from(DESTINATIONS));
    let most = [2_048 + 4, 2_048 + 2, 4_096 + 2, (1 << 20) + 512, 2];
    for ((size, most), before) in sizes(&house).into_iter().zip(most).zip(&before) {
        assert!(size <= most + before, "{:?}", sizes(&house));
    }
    // Later traffic is counted by its own name, at once.
    let latest = flow_to(DESTINATIONS, 2, house.now);
    house.resolve_by(STRANGER, LAPTOP, "latest.example", [100, 1, 0x86, 0xa0]);
    house.now += PATIENCE;
    house.apply(Record::Flow(
        3,
        FlowRecord {
            upload_bytes: 5_000,
            ..latest
        },
    ));
    assert_eq!(house.parties_of(LAPTOP)["latest.example"], 5_000);

    // An hour later they are gone, and nothing else is: the phone goes on, and the latest flow too.
    house.now += HOUR + SWEEP;
    house.reading(&[PHONE, LAPTOP]);
    house.apply(Record::Flow(0, flow_of(tcp(1), 700, 0)));
    let parties = house.parties();
    assert_eq!((parties["one.example"], parties["two.example"]), (700, 70));
    // Those with a series, and what a device keeps for a day.
    let [count, pairs, answers, names, devices] = sizes(&house)[..] else {
        unreachable!("there are five");
    };
    assert!(count <= 256 + 6 && pairs <= 256 + 4, "{count} {pairs}");
    assert_eq!((answers, devices), (0, 2), "all answers are over");
    house.aggregate.address_names().changed(house.now);
    assert!(
        house.aggregate.address_names.cost() < names.max(1),
        "names are over too"
    );
    assert_eq!(house.aggregate.address_names.cost(), 0);
}

/// Ten minutes of 160 new names and connections a second.
#[test]
fn a_flood_of_names_by_one_device_ends_in_tables_that_grow_no_more() {
    const A_SECOND: u32 = 160;
    const SECONDS: u32 = 600;
    let mut house = House::new();
    let mut at_half = Vec::new();
    for second in 0..SECONDS {
        for number in second * A_SECOND..(second + 1) * A_SECOND {
            let [_, b, c, d] = number.to_be_bytes();
            let name = format!("a{number:07}.flood.example{}", number % 97);
            house.resolve(LAPTOP, &name, [100, b, c, d]);
            let slot = 10 + number % 16_384;
            let key = key_of(
                LAPTOP,
                protocol::TCP,
                (number % 50_000) as u16,
                ([100, b, c, d], 80),
            );
            let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
            let flow = FlowRecord {
                first_seen: house.now as u64,
                ..flow_of(key, 300, 0)
            };
            house.sample(
                slot,
                Kind::Http,
                Payload::up(key, 0).after(Some(number)),
                request.as_bytes(),
            );
            house.apply(Record::Flow(slot, flow));
            house.apply(Record::Reaped(slot, flow));
        }
        house.now += 1.0;
        house.reading(&[PHONE, LAPTOP]);
        house.aggregate.snapshot(Ticks::default());
        house.aggregate.address_names().changed(house.now);
        house
            .classifier
            .forget_unfinished(house.now - UNFINISHED_FOR);
        if second == SECONDS / 2 {
            at_half = sizes(&house);
        }
    }
    for (end, half) in sizes(&house).into_iter().zip(&at_half) {
        assert!(
            end <= half + half / 50,
            "{:?} after {at_half:?}",
            sizes(&house)
        );
    }
    assert!(house.classifier.kept() <= crate::classify::MAX_KEPT);
}

#[derive(Clone, Debug)]
enum Step {
    Count(u32, u64, u64),
    Reap(u32),
    Read,
    Hello(u32),
    Resolve(bool),
    Wait,
    Learn,
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0_u32..6;
    prop_oneof![
        4 => (slot.clone(), 0_u64..5000, 0_u64..5000).prop_map(|(s, u, d)| Step::Count(s, u, d)),
        2 => slot.clone().prop_map(Step::Reap),
        4 => Just(Step::Read),
        2 => slot.prop_map(Step::Hello),
        1 => any::<bool>().prop_map(Step::Resolve),
        2 => Just(Step::Wait),
        1 => Just(Step::Learn),
    ]
}

#[test]
fn snapshots_share_the_parties_of_a_device_that_exchanges_nothing() {
    let mut house = House::new();
    let mut parties = |bytes| {
        house.reading(&[PHONE, LAPTOP]);
        house.now += PATIENCE;
        house.apply(Record::Flow(1, flow_of(tcp(1), bytes, 0)));
        let snapshot = house.aggregate.snapshot(Ticks::default());
        let mut devices = snapshot.devices.into_iter();
        let phone = devices.find(|device| device.mac == Some(Mac::new(PHONE)));
        phone.expect("it is there").parties
    };
    let all = |parties: &[PartyTraffic]| -> u64 {
        let bytes = parties.iter().map(|with| with.bytes_in_all.upload);
        bytes.sum()
    };
    let first = parties(100);
    assert_eq!(all(&first), 100);
    let same = parties(100);
    assert!(Arc::ptr_eq(&first, &same));
    let more = parties(150);
    assert_eq!((all(&first), all(&more)), (100, 150));
}

#[test]
fn a_discarded_slot_has_no_booked_flow() {
    let mut house = House::new();
    house.now += PATIENCE;
    house.apply(Record::Flow(1, flow_of(tcp(1), 100, 7)));
    assert!(house.aggregate.has_booked(1, [100, 7]));
    assert!(!house.aggregate.has_booked(1, [100, 8]));
    assert!(!house.aggregate.has_booked(2, [0, 0]));
    house.apply(Record::Discarded(1));
    assert!(!house.aggregate.has_booked(1, [100, 7]));
}

proptest! {
    #[test]
    fn every_octet_is_booked_once(
        steps in prop::collection::vec(step(), 1..80),
        old in prop::collection::vec(0_u64..9000, 6),
        adopts: bool,
    ) {
        let mut house = House::since(if adopts { BEGAN as f64 + 0.5 } else { 0.0 });
        let mut generation = 0_u16;
        let mut flows: Vec<_> = (0..6_u16)
            .map(|slot| flow_of(tcp(slot), old[usize::from(slot)], 0))
            .collect();
        let mut expected = if adopts { 0 } else { old.iter().sum() };
        house.now += 1.0;
        if adopts {
            for (slot, flow) in flows.iter().enumerate() {
                house.apply(Record::Flow(slot as u32, *flow));
            }
        }
        for step in steps {
            match step {
                Step::Count(slot, up, down) => {
                    flows[slot as usize].upload_bytes += up;
                    flows[slot as usize].download_bytes += down;
                    expected += up + down;
                }
                Step::Reap(slot) => {
                    house.apply(Record::Reaped(slot, flows[slot as usize]));
                    generation += 1;
                    flows[slot as usize] = FlowRecord {
                        first_seen: house.now as u64 + 1,
                        ..flow_of(tcp(100 + generation), 60, 0)
                    };
                    expected += 60;
                    house.now += 1.0;
                }
                Step::Read => {
                    house.reading(&[PHONE, LAPTOP]);
                    let mut steady = FlowSums::new(FIRST_DEVICE + 1, 1);
                    for (slot, flow) in (0..).zip(&flows) {
                        let bytes = [flow.upload_bytes, flow.download_bytes];
                        match house.aggregate.has_booked(slot, bytes) {
                            true => steady.add(&FlowCounts::from(flow)),
                            false => house.apply(Record::Flow(slot, *flow)),
                        }
                    }
                    house.apply(Record::Steady(Box::new(steady)));
                    let snapshot = house.aggregate.snapshot(Ticks::default());
                    prop_assert_eq!(snapshot.flow_table.size, flows.len() as u64);
                    let phone = snapshot.devices.iter().find(|device| device.live_flows > 0);
                    let phone = phone.expect("it has flows");
                    prop_assert_eq!(phone.live_flows, flows.len() as u64);
                    let traffic = phone.families["ipv4"].traffic;
                    let up: u64 = flows.iter().map(|flow| flow.upload_bytes).sum();
                    let down: u64 = flows.iter().map(|flow| flow.download_bytes).sum();
                    prop_assert_eq!((traffic.upload.bytes, traffic.download.bytes), (up, down));
                }
                Step::Hello(slot) => {
                    let of = Payload::up(flows[slot as usize].key, 0);
                    house.sample(slot, Kind::Tls, of, &records(OTHER_HELLO));
                }
                Step::Resolve(own) => {
                    house.resolve(if own { PHONE } else { LAPTOP }, "some.example", REMOTE);
                }
                Step::Wait => house.now += PATIENCE,
                Step::Learn => house.aggregate.learn(Arc::default(), Overrides::default()),
            }
        }
        for (slot, flow) in flows.iter().enumerate() {
            house.apply(Record::Reaped(slot as u32, *flow));
        }
        house.reading(&[PHONE, LAPTOP]);
        prop_assert_eq!(house.parties().values().sum::<u64>(), expected);
    }
}

/// One tick of a device that was seen first after 100 seconds and last after 160, and of group traffic, by a
/// machine whose wall clock is that much ahead of the steady one.
fn seen(house: &mut House, offset: f64) -> Snapshot {
    house.reading(&[]);
    let mut overflow = DeviceRecord {
        last_seen: 150,
        ..DeviceRecord::default()
    };
    overflow.overflow[0][1].packets = 1;
    for (number, record) in [
        (MULTICAST_DEVICE, overflow),
        (
            FIRST_DEVICE,
            DeviceRecord {
                mac: Mac::new(PHONE).word(),
                first_seen: 100,
                last_seen: 160,
                ..DeviceRecord::default()
            },
        ),
    ] {
        house.apply(Record::Device(DeviceReading { number, record }));
    }
    let mut snapshot = house.aggregate.snapshot(Ticks::default());
    snapshot.add_to_times(offset);
    snapshot
}

#[test]
fn first_and_last_seen_are_those_of_the_clock_as_it_is_now() {
    const YEARS: f64 = 56.0 * 365.25 * 86_400.0;
    let mut house = House::new();
    for offset in [0.0, YEARS, -YEARS, 3_600.0] {
        let snapshot = seen(&mut house, offset);
        let times = |name: &str| {
            let mut devices = snapshot.devices.iter();
            let device = devices.find(|device| device.device == name);
            let device = device.expect("it was seen");
            (device.first_seen, device.last_seen)
        };
        let phone = Mac::new(PHONE).to_string();
        assert_eq!(times(&phone), (100.0 + offset, 160.0 + offset));
        // When the first packet to a group came is not noted.
        assert_eq!(times("multicast"), (0.0, 150.0 + offset));
    }
}

/// A phone that opens a site each minute or so; a part of the page is contacted, and perhaps a host of its vendor.
#[test]
fn a_host_of_the_vendor_that_hears_of_each_visit_is_an_echo() {
    const TRACKING: &str = "tracking.intl.miui.com";

    let mut house = House::new();
    for visit in 0..30_u32 {
        let start = house.now;
        let site = format!("site{}.example", visit % 7);
        let hosts: &[&str] = match visit % 5 {
            4 => &[&site, "cdn.part.example", "fonts.gstatic.com"],
            _ => &[&site, "cdn.part.example", "fonts.gstatic.com", TRACKING],
        };
        for (number, host) in (0_u32..).zip(hosts) {
            house.now = start + f64::from(number) * 0.3;
            let slot = 10 + number;
            let port = 10_000 + (visit * 10 + number) as u16;
            let key = key_of(
                PHONE,
                protocol::TCP,
                port,
                ([203, 0, 113, 1 + number as u8], 80),
            );
            let request = format!("POST / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            house.sample(slot, Kind::Http, Payload::up(key, 0), request.as_bytes());
            let flow = FlowRecord {
                first_seen: house.now as u64,
                ..flow_of(key, 900, 0)
            };
            house.now = start + 1.0;
            house.apply(Record::Flow(slot, flow));
            house.apply(Record::Reaped(slot, flow));
        }
        house.now = start + 61.0 + f64::from(visit * visit % 13);
        house.reading(&[PHONE, LAPTOP]);
        house.aggregate.look_for_echoes(1_000_000);
    }
    house.now += 200.0;
    house.reading(&[PHONE, LAPTOP]);
    house.aggregate.look_for_echoes(1_000_000);
    let phone = house.aggregate.echoes_and_idle(Mac::new(PHONE));
    let phone = phone.expect("marks of the phone");
    assert_eq!(
        (phone.device.as_str(), phone.looks),
        ("64:cc:2e:01:02:03", 1)
    );
    let mut names = phone.echoes.iter().map(|echo| (&*echo.name, echo.is_host));
    // A site is no echo of itself, and a CDN is none; the part of the pages is one, which is on every site.
    let expected = [
        ("miui.com", false),
        ("part.example", false),
        (TRACKING, true),
    ];
    assert!(names.by_ref().eq(expected), "{:?}", phone.echoes);
    let tracking = &phone.echoes[2];
    assert_eq!(tracking.owner.as_deref(), Some("Xiaomi"));
    assert_eq!(tracking.category.as_deref(), Some("telemetry"));
    assert_eq!((tracking.visits, tracking.followed), (20, 16));
}
