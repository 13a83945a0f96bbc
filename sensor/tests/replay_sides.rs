//! Replay of links and tunnels, and its choice of the device: captures written here, through the
//! engine that needs no root.

#[allow(dead_code, reason = "other tests use the rest")]
mod written;

use std::collections::BTreeMap;

use sensor::{
    aggregate,
    model::FlowFacts,
    record::{Clock, Record},
    source::replay::{Engine, Options, Place, Summary, Unreadable, replay},
};
use sensor_ebpf::books::Tally;
use written::{ACK, SYN, address, ethernet, file, header, ipv4, packet, tcp, udp};

const CLIENT: &str = "192.168.1.2:40000";
const SERVER: &str = "203.0.113.5:443";

const ETHERNET: u32 = 1;
const RAW: u32 = 101;
const IPV4: u16 = 0x0800;

/// A flow as `device local > remote upload/download packets`, and the tunnel that it is inside of.
fn flows(capture: &[u8], lan: &[&str]) -> (Vec<String>, Summary) {
    let options = Options {
        lan: lan
            .iter()
            .map(|network| network.parse().expect("a network"))
            .collect(),
        payloads: 4,
    };
    let mut flows = Vec::new();
    let summary = replay(
        capture,
        &options,
        &mut Engine::Host,
        |record, _| match record {
            Record::Tables(_) => flows.clear(),
            Record::Flow(_, record) => {
                let place = Place::from_ifindex(record.key.ifindex()).expect("a place");
                let flow = aggregate::flow(
                    &record,
                    String::new(),
                    None,
                    FlowFacts::default(),
                    Clock::default(),
                );
                let mut text = format!(
                    "{} {} {} > {} {}/{}",
                    flow.device,
                    flow.protocol,
                    flow.local,
                    flow.remote,
                    flow.traffic.upload.packets,
                    flow.traffic.download.packets
                );
                if place != Place::Capture {
                    text = format!("{text} {}", place.name());
                }
                flows.push(text);
            }
            _ => {}
        },
    )
    .expect("the host refuses nothing");
    (flows, summary)
}

#[track_caller]
fn check(what: &str, packets: &[Vec<u8>], lan: &[&str], expected: &[&str]) {
    let (flows, _) = flows(&file(ETHERNET, packets), lan);
    assert_eq!(flows, expected, "{what}");
}

fn up(packet: Vec<u8>) -> Vec<u8> {
    ethernet(1, 9, IPV4, &packet)
}

fn down(packet: Vec<u8>) -> Vec<u8> {
    ethernet(9, 1, IPV4, &packet)
}

#[test]
fn the_one_that_began_is_the_device() {
    let client = "02:00:00:00:00:01 tcp 192.168.1.2:40000 > 203.0.113.5:443";
    let high = "203.0.113.5:5222";
    check(
        "a SYN and its answer",
        &[
            up(tcp(CLIENT, SERVER, SYN, b"")),
            down(tcp(SERVER, CLIENT, SYN | ACK, b"")),
        ],
        &[],
        &[&format!("{client} 1/1")],
    );
    check(
        "the answer to a SYN comes first",
        &[
            down(tcp(SERVER, CLIENT, SYN | ACK, b"")),
            up(tcp(CLIENT, SERVER, ACK, b"")),
        ],
        &[],
        &[&format!("{client} 1/1")],
    );
    check(
        "a SYN to a high port",
        &[up(tcp("203.0.113.5:443", "192.168.1.2:40000", SYN, b""))],
        &[],
        &["02:00:00:00:00:01 tcp 203.0.113.5:443 > 192.168.1.2:40000 1/0"],
    );
    check(
        "in the middle, a service's segment first",
        &[down(tcp(SERVER, CLIENT, ACK, b"x"))],
        &[],
        &[&format!("{client} 0/1")],
    );
    check(
        "in the middle, and only the addresses tell",
        &[down(tcp(high, CLIENT, ACK, b"x"))],
        &[],
        &["02:00:00:00:00:01 tcp 192.168.1.2:40000 > 203.0.113.5:5222 0/1"],
    );
    check(
        "an answer of DNS comes first",
        &[down(udp("192.168.1.1:53", CLIENT, b"x"))],
        &[],
        &["02:00:00:00:00:01 udp 192.168.1.2:40000 > 192.168.1.1:53 0/1"],
    );
    check(
        "the first datagram between high ports",
        &[down(udp(high, CLIENT, b"x"))],
        &[],
        &["02:00:00:00:00:09 udp 203.0.113.5:5222 > 192.168.1.2:40000 1/0"],
    );
    // Time exceeded, from a router on the way.
    let error = ipv4(
        address("198.51.100.1:0"),
        address(CLIENT),
        1,
        &[11, 0, 0, 0],
    );
    check(
        "an error of ICMP",
        &[down(error)],
        &[],
        &["02:00:00:00:00:01 icmp 192.168.1.2:11 > 198.51.100.1 0/1"],
    );
}

#[test]
fn the_household_is_the_device_where_it_is_named() {
    let lan = ["192.168.0.0/16"];
    check(
        "somebody outside began",
        &[down(tcp(SERVER, CLIENT, SYN, b""))],
        &lan,
        &["02:00:00:00:00:01 tcp 192.168.1.2:40000 > 203.0.113.5:443 0/1"],
    );
    check(
        "both are inside",
        &[down(udp("192.168.1.3:5000", CLIENT, b"x"))],
        &lan,
        &["02:00:00:00:00:09 udp 192.168.1.3:5000 > 192.168.1.2:40000 1/0"],
    );
}

#[test]
fn a_connection_is_one_flow_whatever_its_link_says() {
    check(
        "another router each way",
        &[
            ethernet(1, 9, IPV4, &tcp(CLIENT, SERVER, SYN, b"")),
            ethernet(8, 7, IPV4, &tcp(SERVER, CLIENT, SYN | ACK, b"")),
            ethernet(6, 9, IPV4, &tcp(CLIENT, SERVER, ACK, b"")),
        ],
        &[],
        &["02:00:00:00:00:01 tcp 192.168.1.2:40000 > 203.0.113.5:443 2/1"],
    );
    let ask = udp("0.0.0.0:68", "255.255.255.255:67", b"x");
    check(
        "two that have no address yet",
        &[
            ethernet(1, 0xff, IPV4, &ask),
            ethernet(2, 0xff, IPV4, &ask),
            ethernet(1, 0xff, IPV4, &ask),
        ],
        &[],
        &[
            "02:00:00:00:00:01 udp 0.0.0.0:68 > 255.255.255.255:67 2/0",
            "02:00:00:00:00:02 udp 0.0.0.0:68 > 255.255.255.255:67 1/0",
        ],
    );
    let zero = |packet: &[u8]| [&[0; 12][..], &IPV4.to_be_bytes(), packet].concat();
    check(
        "a loopback",
        &[
            zero(&tcp("127.0.0.1:40000", "127.0.0.1:80", SYN, b"")),
            zero(&tcp("127.0.0.1:80", "127.0.0.1:40000", SYN | ACK, b"")),
        ],
        &[],
        &["02:04:7f:00:00:01 tcp 127.0.0.1:40000 > 127.0.0.1:80 1/1"],
    );
    // Fragments of two datagrams that were asked for from either side.
    let piece = |mut packet: Vec<u8>, offset: u8| {
        packet[4..8].copy_from_slice(&[0, 7, [0x20, 0][usize::from(offset > 0)], offset]);
        packet
    };
    check(
        "pieces go where the first one went",
        &[
            up(udp(CLIENT, "192.168.1.1:53", b"x")),
            ethernet(9, 1, IPV4, &udp("192.168.1.1:5000", "192.168.1.2:53", b"x")),
            down(piece(udp("192.168.1.1:53", CLIENT, &[0; 24]), 0)),
            down(piece(udp("192.168.1.1:53", CLIENT, &[0; 24]), 4)),
        ],
        &[],
        &[
            "02:00:00:00:00:01 udp 192.168.1.2:40000 > 192.168.1.1:53 1/2",
            "02:00:00:00:00:09 udp 192.168.1.1:5000 > 192.168.1.2:53 1/0",
        ],
    );
}

#[test]
fn every_link_type_leads_to_the_same_flow() {
    let ip = udp(CLIENT, SERVER, b"payload");
    let behind = |header: &[u8]| [header, &ip].concat();
    let labels = [0, 1, 0x10, 64, 0, 2, 0x01, 64];
    let cases: BTreeMap<(u32, &str), (Vec<u8>, &str)> = [
        (ETHERNET, "plain", up(ip.clone()), "02:00:00:00:00:01"),
        (
            ETHERNET,
            "labels",
            ethernet(1, 9, 0x8847, &behind(&labels)),
            "02:00:00:00:00:01",
        ),
        (
            ETHERNET,
            "a tag and labels",
            ethernet(
                1,
                9,
                0x8100,
                &behind(&[[0, 7, 0x88, 0x47].as_slice(), &labels].concat()),
            ),
            "02:00:00:00:00:01",
        ),
        (
            ETHERNET,
            "802.2",
            ethernet(1, 9, 43, &behind(&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0])),
            "02:00:00:00:00:01",
        ),
        (
            0,
            "BSD's loopback, little endian",
            behind(&[2, 0, 0, 0]),
            "",
        ),
        (108, "OpenBSD's loopback", behind(&[0, 0, 0, 2]), ""),
        (9, "PPP", behind(&[0, 0x21]), ""),
        (9, "PPP with addresses", behind(&[0xff, 3, 0, 0x21]), ""),
        (9, "PPP, compressed", behind(&[0x21]), ""),
        (50, "PPP in HDLC", behind(&[0xff, 3, 0, 0x21]), ""),
        (
            51,
            "PPPoE",
            behind(&[0x11, 0, 0, 1, 0, 37, 0, 0x21]),
            "02:04:c0:a8:01:02",
        ),
        (12, "BSD's raw", ip.clone(), ""),
        (14, "OpenBSD's raw", ip.clone(), ""),
        (RAW, "raw", ip.clone(), ""),
        (228, "raw IPv4", ip.clone(), ""),
        (104, "Cisco's HDLC", behind(&[0x0f, 0, 8, 0]), ""),
        (
            113,
            "Linux's any",
            behind(&[0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 5, 0, 0, 8, 0]),
            "02:00:00:00:00:05",
        ),
        (
            113,
            "Linux's any, on a tunnel",
            behind(&[0, 4, 0xff, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0]),
            "",
        ),
        (
            276,
            "Linux's any, version 2",
            behind(&[8, 0, 0, 0, 0, 0, 0, 3, 0, 1, 4, 6, 2, 0, 0, 0, 0, 6, 0, 0]),
            "02:00:00:00:00:06",
        ),
        (
            239,
            "netfilter's log",
            behind(&[2, 0, 0, 0, 5, 0, 10, 0, 1, 0, 0, 0, 39, 0, 9, 0]),
            "",
        ),
    ]
    .into_iter()
    .map(|(link, what, octets, mac)| ((link, what), (octets, mac)))
    .collect();
    for ((link, what), (octets, mac)) in cases {
        let mac = match mac {
            "" => "02:04:c0:a8:01:02",
            mac => mac,
        };
        let len = octets.len();
        let (flows, summary) = flows(&file(link, &[octets]), &[]);
        let expected = format!("{mac} udp 192.168.1.2:40000 > 203.0.113.5:443 1/0");
        assert_eq!(flows, [expected], "{what}");
        let booked = summary.booked.accounted.bytes as i64;
        assert_eq!(booked - summary.framing, len as i64, "{what}");
        // The link's header counts as one of Ethernet, and PPPoE's counts in addition.
        let headers = 14 + if link == 51 { 8 } else { 0 };
        assert_eq!(booked, headers + ip.len() as i64, "{what}");
    }
    let (flows, summary) = flows(&file(147, &[ip]), &[]);
    assert_eq!(flows, Vec::<String>::new());
    let expected = Tally {
        packets: 1,
        bytes: 35,
    };
    assert_eq!(
        summary.unreadable,
        BTreeMap::from([(Unreadable::LinkType(147), expected)])
    );
}

#[test]
fn what_was_not_captured_is_not_made_up() {
    let ip = udp(CLIENT, SERVER, &[0x55; 100]);
    let frame = up(ip);
    let mut capture = header(ETHERNET);
    // The payload is cut, the UDP header is cut, the Ethernet header is cut.
    for captured in [60, 40, 10] {
        packet(&mut capture, captured, &frame[..captured], frame.len());
    }
    let (flows, summary) = flows(&capture, &[]);
    assert_eq!(
        flows,
        ["02:00:00:00:00:01 udp 192.168.1.2:40000 > 203.0.113.5:443 1/0"]
    );
    let len = frame.len() as u64;
    assert_eq!(summary.booked.accounted.bytes, len);
    let cut = Tally {
        packets: 2,
        bytes: 2 * len,
    };
    assert_eq!(
        summary.unreadable,
        BTreeMap::from([(Unreadable::CutShort, cut)])
    );
}

#[test]
fn a_tunnel_is_a_flow_and_what_it_carries_is_another() {
    let (near, far) = ("10.0.0.1:5000", "10.0.0.2:5000");
    let ends = (address(near), address(far));
    let inner = tcp(CLIENT, SERVER, SYN, b"");
    let inner_frame = up(inner.clone());
    let of_udp = |port: u16, header: &[u8], inner: &[u8]| {
        udp(near, &format!("10.0.0.2:{port}"), &[header, inner].concat())
    };
    let of_ip = |protocol, header: &[u8], inner: &[u8]| {
        ipv4(ends.0, ends.1, protocol, &[header, inner].concat())
    };
    let made_up = "02:04:c0:a8:01:02";
    let own = "02:00:00:00:00:01";
    let mut inner_v6 = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    inner_v6.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    inner_v6.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    inner_v6.extend(&inner[20..]);
    let v6 = "[2001:db8::1]:40000 > [2001:db8::2]:443";
    let cases = [
        (of_ip(4, &[], &inner), "ip-in-ip", made_up),
        (of_ip(41, &[], &inner_v6), "ip-in-ip", "v6"),
        (of_ip(47, &[0, 0, 8, 0], &inner), "gre", made_up),
        (
            of_ip(47, &[0x30, 0, 8, 0, 0, 0, 0, 7, 0, 0, 0, 1], &inner),
            "gre",
            made_up,
        ),
        (of_ip(47, &[0, 0, 0x65, 0x58], &inner_frame), "gre", own),
        (
            of_udp(4789, &[8, 0, 0, 0, 0, 0, 7, 0], &inner_frame),
            "vxlan",
            own,
        ),
        (of_udp(3544, &[], &inner_v6), "teredo", "v6"),
        (
            of_udp(
                3544,
                &[[0, 1, 0, 0].as_slice(), &[0; 9], &[0, 0, 1, 2, 3, 4, 5, 6]].concat(),
                &inner_v6,
            ),
            "teredo",
            "v6",
        ),
        (
            of_udp(2152, &[0x30, 0xff, 0, 40, 0, 0, 0, 1], &inner),
            "gtp",
            made_up,
        ),
        (
            of_udp(
                2152,
                &[0x34, 0xff, 0, 48, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0, 0, 0],
                &inner,
            ),
            "gtp",
            made_up,
        ),
    ];
    for (outer, tunnel, device) in cases {
        let (flows, summary) = flows(&file(RAW, std::slice::from_ref(&outer)), &[]);
        assert_eq!(flows.len(), 2, "{tunnel}: {flows:?}");
        assert!(flows[0].starts_with("02:04:0a:00:00:01 "), "{flows:?}");
        match device {
            "v6" => assert!(
                flows[1].ends_with(&format!(" tcp {v6} 1/0 {tunnel}")),
                "{flows:?}"
            ),
            device => assert_eq!(
                flows[1],
                format!("{device} tcp 192.168.1.2:40000 > 203.0.113.5:443 1/0 {tunnel}")
            ),
        }
        // The totals are those of the outer frames.
        let expected = Tally {
            packets: 1,
            bytes: outer.len() as u64 + 14,
        };
        assert_eq!(summary.booked.accounted, expected, "{tunnel}");
    }
    for nothing in [
        of_udp(4789, &[0, 0, 0, 0, 0, 0, 7, 0], &inner_frame),
        of_udp(2152, &[0x30, 1, 0, 4, 0, 0, 0, 0], &inner),
        of_udp(3544, &[], &inner),
        of_ip(47, &[0x30, 1, 0x88, 0x0b], &inner),
        of_ip(4, &[], &[]),
    ] {
        assert_eq!(flows(&file(RAW, &[nothing]), &[]).0.len(), 1);
    }
}
