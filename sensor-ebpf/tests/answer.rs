//! Ring 1: the answers that a refused device gets.

mod frames;

use frames::{
    Expect,
    build::{
        ACK, FIN, GATEWAY, PHONE, PHONE_PORT, PHONE_V4, PHONE_V6, RST, SERVER_PORT, SERVER_V4,
        SERVER_V6, SYN, ethernet, internet_checksum,
    },
    mutate::{Random, next_frame, seeds},
    table,
};
use sensor_ebpf::{
    answer::{
        ANSWER_CAPACITY, Headers, Refused, To, answer_question, refuse, seal,
        syn::{LINK_LEN, Syn},
    },
    parse::{Family, Fragment, icmp, parse},
};

fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let parsed = parse(frame).ok()?;
    let mut out = [0xee; ANSWER_CAPACITY];
    let refused = Refused::of(frame, &Headers::of(&parsed))?;
    let len = refuse(frame, &refused, To::Sender, &mut out)?;
    seal(&refused, len, &mut out)?;
    Some(out[..len].to_vec())
}

/// The reset of a SYN by its short way, where it goes that.
fn reset_shortly(frame: &[u8]) -> Option<Vec<u8>> {
    let parsed = parse(frame).ok()?;
    let headers = Headers::of(&parsed);
    let header_len = parsed.transport_header_len as u32;
    let syn = Syn::of(&headers, parsed.ports.word(), parsed.sequence, header_len)?;
    let words = match parsed.family {
        Family::V4 => syn.reset_v4().to_vec(),
        _ => syn.reset_v6().to_vec(),
    };
    let mut answer = [&frame[6..12], &frame[..6], &frame[12..LINK_LEN]].concat();
    answer.extend(words.into_iter().flat_map(u32::to_ne_bytes));
    Some(answer)
}

/// The fields of an answer, read by the rules of the RFCs and not by the parser under test.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Reset {
        sequence: u32,
        acknowledgment: u32,
        flags: u8,
    },
    Unreachable {
        quoted: Vec<u8>,
    },
}

/// Reads an answer whose IP header starts at `network`, and checks every length and checksum.
fn read(answer: &[u8], network: usize) -> Said {
    assert_eq!(answer[..6], PHONE);
    assert_eq!(answer[6..12], GATEWAY);
    let packet = &answer[network..];
    let (protocol, transport, pseudo) = match packet[0] >> 4 {
        4 => {
            assert_eq!(packet[0], 0x45);
            assert_eq!(internet_checksum(&packet[..20]), 0, "IPv4 checksum");
            assert_eq!(
                usize::from(u16::from_be_bytes([packet[2], packet[3]])),
                packet.len()
            );
            assert_eq!(packet[12..16], SERVER_V4.octets());
            assert_eq!(packet[16..20], PHONE_V4.octets());
            (packet[9], &packet[20..], packet[12..20].to_vec())
        }
        _ => {
            assert_eq!(packet[0] >> 4, 6);
            assert_eq!(
                usize::from(u16::from_be_bytes([packet[4], packet[5]])),
                packet.len() - 40
            );
            assert_eq!(packet[8..24], SERVER_V6.octets());
            assert_eq!(packet[24..40], PHONE_V6.octets());
            (packet[6], &packet[40..], packet[8..40].to_vec())
        }
    };
    let summed = match protocol {
        1 => transport.to_vec(),
        _ => {
            let len = (transport.len() as u32).to_be_bytes();
            let next = [0, 0, 0, protocol];
            [&pseudo[..], &len, &next, transport].concat()
        }
    };
    assert_eq!(
        internet_checksum(&summed),
        0,
        "checksum of protocol {protocol}"
    );
    let word = |at: usize| {
        u32::from_be_bytes([
            transport[at],
            transport[at + 1],
            transport[at + 2],
            transport[at + 3],
        ])
    };
    match (packet[0] >> 4, protocol) {
        (_, 6) => {
            assert_eq!(transport.len(), 20);
            assert_eq!(transport[..2], SERVER_PORT.to_be_bytes());
            assert_eq!(transport[2..4], PHONE_PORT.to_be_bytes());
            Said::Reset {
                sequence: word(4),
                acknowledgment: word(8),
                flags: transport[13],
            }
        }
        (4, 1) => {
            let quoted = transport[8 + 9];
            let code = if quoted == 17 { 3 } else { 13 };
            assert_eq!(transport[..2], [3, code]);
            Said::Unreachable {
                quoted: transport[8..].to_vec(),
            }
        }
        (6, 58) => {
            // Port unreachable, or administratively prohibited.
            assert!(matches!(transport[..2], [1, 4 | 1]));
            Said::Unreachable {
                quoted: transport[8..].to_vec(),
            }
        }
        other => panic!("an answer of {other:?}"),
    }
}

/// RFC 9293, section 3.10.7.1.
#[test]
fn a_reset_is_what_a_closed_port_sends() {
    const SEQUENCE: u32 = 1000;
    const ACKNOWLEDGMENT: u32 = 7777;
    let reset = |flags, sequence, acknowledgment| {
        Some(Said::Reset {
            sequence,
            acknowledgment,
            flags,
        })
    };
    for (flags, payload, expect) in [
        (SYN, 0, reset(RST | ACK, 0, SEQUENCE + 1)),
        (SYN, 7, reset(RST | ACK, 0, SEQUENCE + 8)),
        (FIN, 0, reset(RST | ACK, 0, SEQUENCE + 1)),
        (0, 5, reset(RST | ACK, 0, SEQUENCE + 5)),
        (ACK, 9, reset(RST, ACKNOWLEDGMENT, 0)),
        (SYN | ACK, 0, reset(RST, ACKNOWLEDGMENT, 0)),
        (FIN | ACK, 3, reset(RST, ACKNOWLEDGMENT, 0)),
        (RST, 0, None),
        (RST | ACK, 0, None),
    ] {
        for options in [0, 12, 40] {
            let tcp = |frame: frames::build::Builder| {
                frame
                    .tcp_at(flags, SEQUENCE, ACKNOWLEDGMENT, options)
                    .payload(payload)
                    .build()
            };
            for (frame, network) in [
                (tcp(ethernet().ipv4()), 14),
                (tcp(ethernet().ipv6()), 14),
                (tcp(ethernet().ipv6().extension(0, 8).extension(60, 24)), 14),
                (tcp(ethernet().ipv4_options(24)), 14),
                (tcp(ethernet().qinq(5).vlan(6).ipv4()), 22),
                (tcp(ethernet().pppoe().ipv6()), 22),
            ] {
                let said = answer(&frame).map(|answer| read(&answer, network));
                assert_eq!(said, expect, "flags {flags:#x}, {payload} octets");
            }
        }
    }
}

#[test]
fn the_end_of_the_sequence_space_wraps() {
    let frame = ethernet().ipv4().tcp_at(SYN, u32::MAX, 0, 0).build();
    let said = answer(&frame).map(|answer| read(&answer, 14));
    assert_eq!(
        said,
        Some(Said::Reset {
            sequence: 0,
            acknowledgment: 0,
            flags: RST | ACK
        })
    );
}

/// Padding behind the packet is not payload: it must not be acknowledged.
#[test]
fn padding_is_not_acknowledged() {
    let mut frame = ethernet().ipv4().tcp_at(SYN, 1, 0, 0).build();
    frame.resize(60, 0);
    let said = answer(&frame).map(|answer| read(&answer, 14));
    assert_eq!(
        said,
        Some(Said::Reset {
            sequence: 0,
            acknowledgment: 2,
            flags: RST | ACK
        })
    );
}

/// RFC 792; RFC 4443, section 3.1: the quote leads the sender to its socket.
#[test]
fn a_refused_datagram_is_quoted_from_its_ip_header_to_its_ports() {
    for (frame, network, quote) in [
        (ethernet().ipv4().udp().payload(30).build(), 14, 28),
        (ethernet().ipv4().udp().build(), 14, 28),
        (ethernet().ipv4_options(40).udp().payload(1).build(), 14, 68),
        (ethernet().ipv6().udp().payload(30).build(), 14, 48),
        (
            ethernet()
                .ipv6()
                .extension(0, 8)
                .extension(60, 64)
                .udp()
                .build(),
            14,
            120,
        ),
        (
            ethernet()
                .qinq(1)
                .qinq(2)
                .vlan(3)
                .vlan(4)
                .pppoe()
                .ipv6()
                .extension(60, 80)
                .udp()
                .build(),
            38,
            128,
        ),
        (ethernet().ipv6().extension(60, 800).udp().build(), 14, 128),
        (
            ethernet().ipv4_piece(7, 0, true).udp().payload(16).build(),
            14,
            28,
        ),
    ] {
        let answer = answer(&frame).expect("a datagram is answered");
        let Said::Unreachable { quoted } = read(&answer, network) else {
            panic!("not ICMP");
        };
        assert_eq!(quoted, frame[network..network + quote]);
    }
}

#[test]
fn tags_and_session_of_the_answer_are_those_of_the_frame() {
    let frame = ethernet()
        .qinq(100)
        .vlan(0xe007)
        .pppoe()
        .ipv4()
        .udp()
        .payload(60)
        .build();
    let answer = answer(&frame).expect("a datagram is answered");
    // Two tags, the ethertype of PPPoE, version, code and session.
    assert_eq!(answer[12..26], frame[12..26]);
    // RFC 2516, section 4: the length counts the PPP protocol field and what follows.
    assert_eq!(answer[26..28], (answer.len() as u16 - 28).to_be_bytes());
    assert_eq!(answer[28..30], frame[28..30]);
}

#[test]
fn what_is_not_answered() {
    for (name, frame, expect) in table() {
        let answered = answer(&frame).is_some();
        let to_group = frame.first().is_some_and(|octet| octet & 1 != 0);
        let due = match expect {
            _ if to_group => false,
            Expect::Ip {
                fragment: Fragment::Later(_),
                ..
            } => false,
            Expect::Ip {
                protocol: 6,
                tcp_flags,
                ..
            } => tcp_flags & RST == 0,
            Expect::Ip {
                protocol: 1 | 58, ..
            } => {
                let parsed = parse(&frame[..]).expect("it is IP");
                !icmp::is_error(parsed.protocol, u16::from(frame[parsed.transport_offset]))
            }
            Expect::Ip { .. } => true,
            _ => false,
        };
        assert_eq!(answered, due, "{name}");
    }
}

/// The checksum of a socket buffer that is not finished (`CHECKSUM_PARTIAL`): the sum over the
/// pseudo-header, in the place of the checksum, which lies so far behind the IP header.
fn unfinish(frame: &mut [u8], network: usize, place: usize) {
    let packet = &frame[network..];
    let (transport, pseudo, protocol) = match packet[0] >> 4 {
        4 => (20, packet[12..20].to_vec(), packet[9]),
        _ => (40, packet[8..40].to_vec(), packet[6]),
    };
    let len = (packet.len() - transport) as u32;
    let pseudo = [&pseudo[..], &len.to_be_bytes(), &[0, 0, 0, protocol]].concat();
    let sum = !internet_checksum(&pseudo);
    let at = network + transport + place;
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Finishes the checksum of such a buffer as the kernel does before it leaves (`skb_checksum_help`): it sums up
/// the bytes behind the IP header.
fn finish(frame: &mut [u8], transport: usize, place: usize) {
    let sum = match internet_checksum(&frame[transport..]) {
        0 => 0xffff,
        sum => sum,
    };
    frame[transport + place..transport + place + 2].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn an_answer_to_an_unfinished_checksum_is_right_after() {
    for payload in [0, 1, 64] {
        for (mut frame, transport, place) in [
            (ethernet().ipv4().tcp(ACK).payload(payload).build(), 34, 16),
            (ethernet().ipv6().tcp(ACK).payload(payload).build(), 54, 16),
            (ethernet().ipv4().tcp(SYN).payload(payload).build(), 34, 16),
            (ethernet().ipv4().udp().payload(payload).build(), 34, 6),
            (ethernet().ipv6().udp().payload(payload).build(), 54, 6),
        ] {
            unfinish(&mut frame, 14, place);
            let parsed = parse(&frame[..]).expect("a packet");
            let refused = Refused::of(&frame[..], &Headers::of(&parsed))
                .expect("it is answered")
                .with_unfinished_checksum();
            let mut out = [0xee; ANSWER_CAPACITY];
            let len = refuse(&frame[..], &refused, To::Sender, &mut out).expect("an answer");
            seal(&refused, len, &mut out).expect("an answer");
            // ICMP has its checksum elsewhere than what it answers: it is right before, too.
            if place == 6 {
                read(&out[..len], 14);
            }
            finish(&mut out[..len], transport, place);
            read(&out[..len], 14);
        }
    }
}

#[test]
fn a_dns_answer_to_an_unfinished_checksum_is_right_after() {
    for (mut frame, transport) in [
        (ethernet().ipv4().udp().payload(40).build(), 34),
        (ethernet().ipv6().udp().payload(40).build(), 54),
    ] {
        const MESSAGE: usize = 60;
        unfinish(&mut frame, 14, 6);
        let parsed = parse(&frame[..]).expect("a packet");
        let refused = Refused::of(&frame[..], &Headers::of(&parsed))
            .expect("it is answered")
            .with_unfinished_checksum();
        let mut out = [0xee; ANSWER_CAPACITY];
        let len = answer_question(&frame[..], &refused, MESSAGE, &mut out).expect("an answer");
        seal(&refused, len, &mut out).expect("an answer");
        finish(&mut out[..len], transport, 6);
        let packet = &out[14..len];
        let pseudo = match packet[0] >> 4 {
            4 => &packet[12..20],
            _ => &packet[8..40],
        };
        let length = ((len - transport) as u32).to_be_bytes();
        let summed = [pseudo, &length, &[0, 0, 0, 17], &out[transport..len]].concat();
        assert_eq!(internet_checksum(&summed), 0);
    }
}

/// The kernel copies an answer in words of two octets.
#[test]
fn every_answer_is_of_an_even_length_and_right() {
    for (name, frame, _) in table() {
        let Some(answer) = answer(&frame) else {
            continue;
        };
        assert_eq!(answer.len() % 2, 0, "{name}");
        let network = match parse(&frame[..]) {
            Ok(parsed) => parsed.network_offset,
            Err(reason) => panic!("{name}: {reason:?} is answered"),
        };
        read(&answer, network);
    }
}

#[test]
fn a_syn_is_refused_in_the_same_words_by_its_short_way() {
    let mut random = Random::new(0x5eed_0003);
    for number in 0..10_000 {
        let flags = if number % 7 == 0 { SYN | FIN } else { SYN };
        let payload = [0, 1, 64][number % 3];
        for mut frame in [
            ethernet().ipv4().tcp(flags).payload(payload).build(),
            ethernet().ipv6().tcp(flags).payload(payload).build(),
        ] {
            // Addresses, ports and sequence number are any.
            let (addresses, transport) = match frame[14] >> 4 {
                4 => (26..34, 34),
                _ => (22..54, 54),
            };
            for at in addresses.chain(transport..transport + 8) {
                frame[at] = random.below(256) as u8;
            }
            let short = reset_shortly(&frame);
            assert_eq!(short, answer(&frame), "{frame:02x?}");
        }
    }
}

#[test]
fn a_million_bad_frames_are_answered_or_not() {
    let seeds = seeds();
    let mut random = Random::new(0x5eed_0002);
    let mut frame = Vec::new();
    let mut answers = 0;
    let mut short = 0;
    for _ in 0..1_000_000 {
        next_frame(&mut random, &seeds, &mut frame);
        if let Some(reset) = reset_shortly(&frame) {
            short += 1;
            assert_eq!(Some(reset), answer(&frame), "{frame:02x?}");
        }
        if let Some(answer) = answer(&frame) {
            answers += 1;
            assert!(
                answer.len() % 2 == 0 && answer.len() <= ANSWER_CAPACITY,
                "{frame:02x?}"
            );
            // An answer to an answer would go back and forth.
            if let Ok(parsed) = parse(&answer[..]) {
                assert!(parsed.protocol != 17, "{frame:02x?}");
                assert!(
                    parsed.protocol != 6 || self::answer(&answer).is_none(),
                    "{frame:02x?}"
                );
            }
        }
    }
    assert!(answers > 100_000, "{answers}");
    assert!(short > 10_000, "{short}");
}
