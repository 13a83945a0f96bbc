//! Ring 2: what the kernel programs make of the names that payloads say, by `BPF_PROG_TEST_RUN`. Their
//! answers are held against the library's, and against decoders of others. Needs root.

#[allow(dead_code, reason = "the other rings' half")]
mod programs;

use std::{
    mem::offset_of,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::RingBuf;
use domain::base::{Message, iana::Rcode};
use programs::{
    Outcome, Programs, SocketBufferContext, Tables,
    household::{
        XDP_DROP, XDP_PASS, XDP_TX, back, flow_of, frame, hello, hello_with, household, numbered,
    },
};
use sensor::source::kernel::Kernel;
use sensor_ebpf::{
    answer::limit::{DNS_OF_DEVICE, Silence},
    flow::{Direction, Judgement, Ruling, Wants},
    policy::{Decision, Layer, Verdict},
    sample::{Head, Kind, Watch},
};

/// A DNS question with EDNS or without.
fn question(name: &str, kind: u16, edns: bool) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0x10, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    if edns {
        // With a cookie, which is not answered.
        message.extend([
            0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8,
        ]);
    }
    message
}

/// The DNS message of a UDP answer, after its addresses, lengths and checksums were looked at.
fn answered(asked: &[u8], outcome: &Outcome, v6: bool) -> Result<Vec<u8>> {
    ensure!(outcome.verdict == XDP_TX, "verdict {}", outcome.verdict);
    let out = &outcome.output;
    ensure!(
        out[..6] == asked[6..12] && out[6..12] == asked[..6],
        "MAC addresses"
    );
    let ip = 14;
    let (udp, pseudo): (usize, Vec<u8>) = if v6 {
        ensure!(out[ip + 8..ip + 24] == asked[ip + 24..ip + 40], "source");
        ensure!(
            out[ip + 24..ip + 40] == asked[ip + 8..ip + 24],
            "destination"
        );
        (ip + 40, out[ip + 8..ip + 40].to_vec())
    } else {
        ensure!(out[ip + 12..ip + 16] == asked[ip + 16..ip + 20], "source");
        ensure!(
            out[ip + 16..ip + 20] == asked[ip + 12..ip + 16],
            "destination"
        );
        ensure!(sum(&out[ip..ip + 20]) == 0xffff, "the header's checksum");
        let total = u16::from_be_bytes([out[ip + 2], out[ip + 3]]);
        ensure!(usize::from(total) + ip == out.len(), "the header's length");
        (ip + 20, out[ip + 12..ip + 20].to_vec())
    };
    ensure!(out[udp..udp + 2] == asked[udp + 2..udp + 4], "ports");
    ensure!(out[udp + 2..udp + 4] == asked[udp..udp + 2], "ports");
    let len = (out.len() - udp) as u16;
    ensure!(out[udp + 4..udp + 6] == len.to_be_bytes(), "the length");
    let whole = [&pseudo[..], &[0, 17], &len.to_be_bytes(), &out[udp..]].concat();
    ensure!(sum(&whole) == 0xffff, "the checksum");
    Ok(out[udp + 8..].to_vec())
}

/// The sum of RFC 1071.
fn sum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]))
    });
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
fn questions_are_answered_or_pass() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = household(Tables::default())?;
    let longest = format!("{}.{}.blocked.example", "x".repeat(63), "y".repeat(63));
    // At its own port, and at one that has no service.
    for (v6, port) in [(false, 53), (true, 53), (false, 5_300), (true, 5_300)] {
        for edns in [false, true] {
            for (kind, name, code, addresses) in [
                (1, "blocked.example", Some(Rcode::NXDOMAIN), 0),
                (65, "www.BLOCKED.Example", Some(Rcode::NXDOMAIN), 0),
                (28, &longest, Some(Rcode::NXDOMAIN), 0),
                (1, "zero.example", Some(Rcode::NOERROR), 1),
                (28, "x.zero.example", Some(Rcode::NOERROR), 1),
                (65, "zero.example", Some(Rcode::NOERROR), 0),
                (1, "port.example", None, 0),
                (1, "open.blocked.example", None, 0),
                (1, "example", None, 0),
                (1, "notblocked.example", None, 0),
                (1, "", None, 0),
            ] {
                let asked = question(name, kind, edns);
                let frame = frame(v6, 17, (40_000, port), 0, &asked);
                let outcome = programs.run_xdp("upload", &frame, 1)?;
                let place = format!("{name} {kind}, IPv6 {v6}, EDNS {edns}, port {port}");
                let Some(code) = code else {
                    ensure!(outcome.verdict == XDP_PASS, "{place}: {}", outcome.verdict);
                    ensure!(outcome.output == frame, "{place}: changed");
                    continue;
                };
                let message = answered(&frame, &outcome, v6).context(place.clone())?;
                let answer = Message::from_octets(&message[..])?;
                let header = answer.header();
                ensure!(header.id() == 0x1234 && header.qr() && header.rd() && header.ra());
                ensure!(header.cd(), "{place}");
                ensure!(header.rcode() == code, "{place}: {}", header.rcode());
                let end = asked.len() - if edns { 23 } else { 0 };
                ensure!(message[12..end] == asked[12..end], "{place}: the question");
                ensure!(answer.answer()?.count() == addresses, "{place}");
                let soa = answer.authority()?.count();
                ensure!(soa == 1 - addresses, "{place}");
                ensure!(answer.opt().is_some() == edns, "{place}");
                for record in answer.answer()? {
                    let record = record?;
                    let data = record.to_any_record::<domain::rdata::AllRecordData<_, _>>()?;
                    let text = data.data().to_string();
                    ensure!(text == if kind == 1 { "0.0.0.0" } else { "::" }, "{text}");
                }
                // Each record to its end.
                for record in answer.authority()?.chain(answer.additional()?) {
                    record?;
                }
            }
        }
        let dropped = frame(
            v6,
            17,
            (40_000, port),
            0,
            &question("dropped.example", 1, false),
        );
        ensure!(programs.run_xdp("upload", &dropped, 1)?.verdict == XDP_DROP);
        // With something behind it, it is no question at another port.
        let longer = [question("blocked.example", 1, false), vec![0]].concat();
        let longer = frame(v6, 17, (40_000, port), 0, &longer);
        let expected = if port == 53 { XDP_TX } else { XDP_PASS };
        ensure!(programs.run_xdp("upload", &longer, 1)?.verdict == expected);
    }
    let interface = programs.interface()?;
    ensure!(interface.answers_failed == 0);
    Ok(())
}

/// A device may ask for as many names as people's devices do at their worst, for IPv4 and IPv6 at once;
/// what it asks beyond that is neither answered nor let through.
#[test]
fn every_refused_question_is_answered_within_a_budget() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = household(Tables::default())?;
    let ask = |port: u16, kind, mac: u8| {
        let mut asked = frame(
            false,
            17,
            (port, 53),
            0,
            &question("blocked.example", kind, true),
        );
        asked[11] = mac;
        asked
    };
    for (port, kind) in [(40_000, 1), (40_000, 28), (40_001, 1), (40_001, 28)] {
        let verdict = programs.run_xdp("upload", &ask(port, kind, 1), 1)?.verdict;
        ensure!(verdict == XDP_TX, "{port}, {kind}: {verdict}");
    }
    // The first 500 of a second that begins with the first question, and no more. A busy machine may take
    // longer than a second for them, and begins again with another device.
    let mut counted = None;
    for mac in 3..13 {
        let begun = Instant::now();
        let mut verdicts = Vec::new();
        for number in 0..502 {
            let frame = ask(41_000 + number, 1, mac);
            verdicts.push(programs.run_xdp("upload", &frame, 1)?.verdict);
        }
        if begun.elapsed() < Duration::from_secs(1) {
            counted = Some(verdicts);
            break;
        }
    }
    let verdicts = counted.context("502 questions take longer than a second each time")?;
    ensure!(verdicts[..500].iter().all(|verdict| *verdict == XDP_TX));
    ensure!(verdicts[500..] == [XDP_DROP; 2], "{:?}", &verdicts[500..]);
    let silent_before = programs.interface()?.silent[Silence::DnsOfDevice as usize];
    let mut answered = 0;
    for number in 0..1_200 {
        let frame = ask(41_000 + number / 2, if number % 2 == 0 { 1 } else { 28 }, 2);
        match programs.run_xdp("upload", &frame, 1)?.verdict {
            XDP_TX => answered += 1,
            verdict => ensure!(verdict == XDP_DROP, "{verdict}"),
        }
    }
    // A busy machine takes more than a second.
    let silent = programs.interface()?.silent[Silence::DnsOfDevice as usize] - silent_before;
    ensure!(
        answered % DNS_OF_DEVICE == 0 || silent == 0,
        "{answered}, {silent}"
    );
    ensure!(
        answered >= DNS_OF_DEVICE && answered + silent == 1_200,
        "{answered}, {silent}"
    );
    // Another device still has its own budget of answers.
    ensure!(programs.run_xdp("upload", &ask(40_000, 1, 1), 1)?.verdict == XDP_TX);
    Ok(())
}

/// Each refused name of each device is told once in a second, with how many questions for it were not.
#[test]
fn a_refused_name_is_told_once_in_a_second_with_how_many_were_not() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let mut ask = |name: &str, mac: u8| -> Result<Option<u64>> {
        let mut asked = frame(false, 17, (40_000, 53), 0, &question(name, 1, false));
        asked[11] = mac;
        ensure!(programs.run_xdp("upload", &asked, 1)?.verdict == XDP_TX);
        let mut ring = RingBuf::try_from(programs.map_mut("SAMPLES")?)?;
        let mut told = None;
        while let Some(entry) = ring.next() {
            if entry.len() > size_of::<Head>() {
                let suppressed = &entry[offset_of!(Head, suppressed)..];
                told = suppressed
                    .first_chunk()
                    .map(|octets| u64::from_ne_bytes(*octets));
            }
        }
        Ok(told)
    };
    ensure!(ask("blocked.example", 1)? == Some(0));
    for _ in 0..4 {
        ensure!(ask("blocked.example", 1)? == None);
    }
    // Another name, another device: each is told at once.
    ensure!(ask("zero.example", 1)? == Some(0));
    ensure!(ask("www.blocked.example", 1)? == Some(0));
    ensure!(ask("blocked.example", 2)? == Some(0));
    std::thread::sleep(std::time::Duration::from_millis(1_050));
    ensure!(ask("blocked.example", 1)? == Some(4));
    ensure!(ask("blocked.example", 2)? == Some(0));
    let losses = programs.losses()?;
    let dns = Kind::Dns as usize;
    ensure!(losses.samples_suppressed[dns] == 4 && losses.samples_shed[dns] == 0);
    Ok(())
}

/// At the ports of a connection that was refused for its name, the device opens another, whether its
/// server was told of the end of the first or not.
#[test]
fn a_port_is_used_again_after_a_refused_connection() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = household(Tables::default())?;
    let ends = (40_000, 443);
    let up = |flags, payload: &[u8]| frame(false, 6, ends, flags, payload);
    let down = |flags| back(frame(false, 6, (443, 40_000), flags, b""));
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    const TC_ACT_UNSPEC: u32 = u32::MAX;

    let upload =
        |frame: &[u8]| -> Result<u32> { Ok(programs.run_xdp("upload", frame, 1)?.verdict) };
    ensure!(upload(&up(SYN, b""))? == XDP_PASS);
    ensure!(programs.run_tc("download", &down(SYN | ACK))?.verdict == TC_ACT_UNSPEC);
    ensure!(upload(&up(ACK, &hello("blocked.example", 1)))? == XDP_TX);
    // The server knows the first connection still, and asks what that SYN is (RFC 5961, section 4): the
    // device's reset reaches it.
    ensure!(upload(&up(SYN, b""))? == XDP_PASS);
    ensure!(upload(&up(RST, b""))? == XDP_PASS);
    ensure!(upload(&up(SYN, b""))? == XDP_PASS);
    ensure!(programs.run_tc("download", &down(SYN | ACK))?.verdict == TC_ACT_UNSPEC);
    ensure!(upload(&up(ACK, &hello("allowed.example", 1)))? == XDP_PASS);
    ensure!(upload(&up(ACK, b"more"))? == XDP_PASS);
    ensure!(programs.run_tc("download", &down(ACK))?.verdict == TC_ACT_UNSPEC);
    Ok(())
}

/// The verdict of user space on a hello in two segments holds, whatever the device sends between them.
/// Only an answer of the server to another SYN begins another connection, which has no verdict yet.
#[test]
fn a_connection_that_the_device_makes_up_loses_no_verdict() -> Result<()> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    const TC_ACT_UNSPEC: u32 = u32::MAX;

    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let up = |flags, sequence, acknowledges, payload: &[u8]| {
        numbered(
            frame(false, 6, (40_000, 443), flags, payload),
            sequence,
            acknowledges,
        )
    };
    let answer = |sequence, acknowledges| {
        let frame = back(frame(false, 6, (443, 40_000), SYN | ACK, b""));
        numbered(frame, sequence, acknowledges)
    };
    let said = hello("elsewhere.example", 1);
    let (first, rest) = said.split_at(said.len() - 8);
    let upload = |programs: &mut Programs, frame: Vec<u8>| -> Result<u32> {
        programs.forget_answers()?;
        Ok(programs.run_xdp("upload", &frame, 1)?.verdict)
    };
    ensure!(upload(&mut programs, up(SYN, 1_000, 0, b""))? == XDP_PASS);
    let opened = programs.run_tc("download", &answer(9_000, 1_001))?;
    ensure!(opened.verdict == TC_ACT_UNSPEC);
    ensure!(upload(&mut programs, up(ACK, 1_001, 9_001, first))? == XDP_PASS);
    let (number, heard) = *programs.live_flows()?.first().context("no flow")?;
    ensure!(upload(&mut programs, up(SYN, 77, 0, b""))? == XDP_PASS);
    ensure!(upload(&mut programs, up(SYN | ACK, 78, 9_001, b""))? == XDP_PASS);
    // The server says its own once more.
    programs.run_tc("download", &answer(9_000, 1_001))?;
    let now = flow_of(&programs, 40_000)?;
    ensure!(
        now.initial_sequence == [1_000, 9_000],
        "{:?}",
        now.initial_sequence
    );
    let refused = Ruling {
        generation: programs.settings()?.generation,
        epoch: heard.judgement().epoch,
        version: 0,
        decision: Decision {
            policy: 1,
            verdict: Verdict::Reject,
            layer: Layer::Tls,
        },
        named: true,
        again: false,
        wants: Wants::Same,
    };
    let mut line = programs.line(number)?;
    line.ruling = refused.following(line.ruling, line.judgement).pack();
    programs.set_line(number, line)?;
    let sequence = 1_001 + first.len() as u32;
    ensure!(upload(&mut programs, up(ACK, sequence, 9_001, rest))? == XDP_TX);

    ensure!(upload(&mut programs, up(SYN, 500_000, 0, b""))? == XDP_PASS);
    ensure!(upload(&mut programs, up(ACK, sequence, 9_001, rest))? == XDP_TX);
    programs.run_tc("download", &answer(700_000, 500_001))?;
    ensure!(upload(&mut programs, up(ACK, 500_001, 700_001, b"again"))? == XDP_PASS);
    let now = flow_of(&programs, 40_000)?;
    ensure!(
        now.initial_sequence == [500_000, 700_000],
        "{:?}",
        now.initial_sequence
    );
    Ok(())
}

#[test]
fn first_flights_are_refused_by_name() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let request = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    let absolute = |host: &str| {
        format!("GET http://{host}/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n").into_bytes()
    };
    let secure = b"GET https://blocked.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec();
    for (port, (payload, layer, expected, policy)) in (40_000..).zip([
        (hello("www.blocked.example", 1), Layer::Tls, XDP_TX, 1),
        (hello("Blocked.Example.", 1_200), Layer::Tls, XDP_TX, 1),
        (hello("dropped.example", 1), Layer::Tls, XDP_DROP, 3),
        (hello("port.example", 1), Layer::Tls, XDP_TX, 4),
        (hello("open.blocked.example", 1), Layer::Tls, XDP_PASS, 5),
        (hello("allowed.example", 1), Layer::Address, XDP_PASS, 0),
        (request("blocked.example"), Layer::Http, XDP_TX, 1),
        (request("allowed.example"), Layer::Address, XDP_PASS, 0),
        (absolute("blocked.example"), Layer::Http, XDP_TX, 1),
        (absolute("allowed.example"), Layer::Address, XDP_PASS, 0),
        (secure, Layer::Http, XDP_TX, 1),
    ]) {
        let ends = (port, 443);
        let syn = frame(false, 6, ends, 2, b"");
        ensure!(programs.run_xdp("upload", &syn, 1)?.verdict == XDP_PASS);
        let data = frame(false, 6, ends, 0x18, &payload);
        let outcome = programs.run_xdp("upload", &data, 1)?;
        let place = String::from_utf8_lossy(&payload).into_owned();
        ensure!(
            outcome.verdict == expected,
            "{place:?}: {}",
            outcome.verdict
        );
        let judgement = Judgement::unpack(flow_of(&programs, port)?.judgement);
        ensure!(
            judgement.named && judgement.decision.policy == policy,
            "{judgement:?}"
        );
        ensure!(judgement.decision.layer == layer, "{judgement:?}");
        // The next packet finds the flow decided.
        programs.forget_answers()?;
        let more = programs.run_xdp("upload", &frame(false, 6, ends, 0x18, b"more"), 1)?;
        ensure!(
            more.verdict == expected,
            "{place:?} again: {}",
            more.verdict
        );
        // The server has not opened another connection: a SYN of the device's own changes nothing.
        ensure!(programs.run_xdp("upload", &syn, 1)?.verdict == XDP_PASS);
        programs.forget_answers()?;
        let more = programs.run_xdp("upload", &frame(false, 6, ends, 0x18, b"more"), 1)?;
        ensure!(
            more.verdict == expected,
            "{place:?} after a SYN: {}",
            more.verdict
        );
    }
    Ok(())
}

/// A device that has used up its share of the flow table is refused by name like any other, as far as
/// the name is whole in a segment.
#[test]
fn a_first_flight_without_a_place_for_its_flow_is_refused_by_name() -> Result<()> {
    const FLOWS: u32 = 64;
    programs::enter_own_namespace()?;
    let mut programs = household(Tables {
        flows: FLOWS,
        devices: 16,
        ..Tables::default()
    })?;
    for port in 0..2 * FLOWS as u16 {
        let datagram = frame(false, 17, (20_000 + port, 9), 0, b"x");
        ensure!(programs.run_xdp("upload", &datagram, 1)?.verdict == XDP_PASS);
    }
    for (name, expected) in [
        ("blocked.example", XDP_TX),
        ("dropped.example", XDP_DROP),
        ("allowed.example", XDP_PASS),
    ] {
        let lost = programs.losses()?.flow_share_used;
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").into_bytes();
        for payload in [hello(name, 1), request] {
            let data = frame(false, 6, (40_000, 443), 0x18, &payload);
            programs.forget_answers()?;
            let verdict = programs.run_xdp("upload", &data, 1)?.verdict;
            ensure!(verdict == expected, "{name}: {verdict}");
        }
        ensure!(
            programs.losses()?.flow_share_used == lost + 2,
            "it has a place"
        );
    }
    Ok(())
}

/// The start of a QUIC Initial with this connection ID of the server's (RFC 9000, section 17.2.2).
fn initial(connection: u8) -> Vec<u8> {
    let mut packet = vec![0xc3, 0, 0, 0, 1, 8];
    packet.extend([connection; 8]);
    packet.extend([0, 0, 0x44, 0xa0]);
    packet.resize(1_200, 0x5a);
    packet
}

/// Packets from the server of a refused connection cannot be told from answers to another
/// connection at the same ports.
#[test]
fn a_second_quic_connection_opens_no_refused_one() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let ends = (40_000, 443);
    let upload = |connection| frame(false, 17, ends, 0, &initial(connection));
    ensure!(programs.run_xdp("upload", &upload(1), 1)?.verdict == XDP_PASS);
    // User space read the name, and refuses it.
    let mut settings = programs.settings()?;
    let refused = Decision {
        policy: 1,
        verdict: Verdict::Reject,
        layer: Layer::Quic,
    };
    let (number, _) = *programs.live_flows()?.first().context("no flow")?;
    let mut line = programs.line(number)?;
    let ruling = Ruling {
        generation: settings.generation,
        epoch: Judgement::unpack(line.judgement).epoch,
        version: 1,
        decision: refused,
        named: true,
        again: false,
        wants: Wants::Same,
    };
    line.ruling = ruling.pack();
    programs.set_line(number, line)?;

    // An hour, whatever a jiffy is here.
    settings.hz = 3_600 * 1_000;
    programs.set("SETTINGS", 0, settings)?;
    for connection in [2, 1, 3] {
        let verdict = programs.run_xdp("upload", &upload(connection), 1)?.verdict;
        ensure!(verdict == XDP_TX, "connection {connection}: {verdict}");
    }
    // Silent for long enough.
    settings.hz = 0;
    programs.set("SETTINGS", 0, settings)?;
    ensure!(programs.run_xdp("upload", &upload(1), 1)?.verdict == XDP_TX);
    ensure!(programs.run_xdp("upload", &upload(4), 1)?.verdict == XDP_PASS);
    let watch = flow_of(&programs, 40_000)?.watch();
    ensure!(watch != Watch::NONE, "its name is not read");
    Ok(())
}

/// Each piece of a packet is one of the payloads that a flow is watched for: of a flow that is all
/// pieces, user space is told no more than of any other.
#[test]
fn fragments_use_up_the_watch() -> Result<()> {
    const FLAGS_OFFSET: usize = 20;
    const MORE: [u8; 2] = [0x20, 0];

    programs::enter_own_namespace()?;
    let programs = household(Tables::default())?;
    let mut first = frame(false, 6, (40_000, 443), 0x18, &hello("allowed.example", 1));
    first[FLAGS_OFFSET..FLAGS_OFFSET + 2].copy_from_slice(&MORE);
    programs.run_xdp("upload", &first, 1)?;
    for eights in 1..=20_u16 {
        let mut later = first.clone();
        // In units of eight octets.
        let offset = (0x2000 | eights).to_be_bytes();
        later[FLAGS_OFFSET..FLAGS_OFFSET + 2].copy_from_slice(&offset);
        programs.run_xdp("upload", &later, 1)?;
    }
    let flow = flow_of(&programs, 40_000)?;
    ensure!(flow.upload_packets == 21, "the pieces are the flow's");
    ensure!(!flow.watch().wants(Direction::Upload));
    let told = programs.losses()?.samples;
    let of = |kind: Kind| told[kind as usize];
    ensure!((of(Kind::Tls), of(Kind::Stream)) == (1, 3), "{told:?}");
    Ok(())
}

/// An octet that is sent as urgent data is none of the stream for most receivers.
#[test]
fn what_has_urgent_data_is_left_to_user_space() -> Result<()> {
    const PUSHED: u8 = 0x18;
    const URGENT: u8 = 0x20;

    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    for (port, payload) in (40_000..).zip([
        hello("blocked.example", 1),
        b"GET / HTTP/1.1\r\nHost: blocked.example\r\n\r\n".to_vec(),
    ]) {
        let data = frame(false, 6, (port, 443), PUSHED | URGENT, &payload);
        ensure!(programs.run_xdp("upload", &data, 1)?.verdict == XDP_PASS);
        ensure!(!Judgement::unpack(flow_of(&programs, port)?.judgement).named);
    }
    let mut ring = RingBuf::try_from(programs.map_mut("SAMPLES")?)?;
    let mut told = 0;
    while let Some(entry) = ring.next() {
        let flags = entry[offset_of!(Head, flags)];
        ensure!(flags == Head::URGENT, "{flags}");
        told += 1;
    }
    ensure!(told == 2, "{told} samples");
    Ok(())
}

/// A first flight that the kernel cannot read is not taken for judged: user space reads it.
#[test]
fn requests_that_are_not_plain_are_left_to_user_space() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = household(Tables::default())?;
    for (port, (target, field)) in (40_000..).zip([
        ("http://user@blocked.example/", "Host: allowed.example"),
        ("http://user:1@blocked.example/", "Host: allowed.example"),
        (" http://blocked.example/", "Host: allowed.example"),
        ("/", "Host:          blocked.example"),
        ("/", "Host:\r\n blocked.example"),
        ("/", "Host : blocked.example\r\nHost: allowed.example"),
    ]) {
        let request = format!("GET {target} HTTP/1.1\r\n{field}\r\n\r\n");
        let data = frame(false, 6, (port, 80), 0x18, request.as_bytes());
        ensure!(programs.run_xdp("upload", &data, 1)?.verdict == XDP_PASS);
        let judgement = Judgement::unpack(flow_of(&programs, port)?.judgement);
        ensure!(!judgement.named, "{request:?}");
    }
    Ok(())
}

/// A request with a cookie of so many octets before the host.
fn request_behind(cookie: usize, host: &str) -> Vec<u8> {
    let cookie = "x".repeat(cookie);
    format!("GET / HTTP/1.1\r\nCookie: {cookie}\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// Messages of a stream, each behind its length.
fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let framed = messages
        .iter()
        .flat_map(|message| [&(message.len() as u16).to_be_bytes()[..], message].concat());
    framed.collect()
}

/// So many allowed questions, and one about a name.
fn questions_and(allowed: usize, name: &str) -> Vec<u8> {
    let mut messages = vec![question("allowed.example", 1, false); allowed];
    messages.push(question(name, 1, false));
    framed(&messages)
}

/// A packet merged from several segments is judged as these would be, wherever the name lies in it.
#[test]
fn names_are_read_wherever_they_lie_in_a_packet() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = household(Tables {
        flows: 2_048,
        devices: 16,
        ..Tables::default()
    })?;
    let payloads = |name: &str| {
        let mut payloads = Vec::new();
        for size in [2_100, 2_300, 3_000, 9_000, 15_000] {
            payloads.push((443, hello(name, size)));
            payloads.push((443, hello_with(name, 1, Some(size))));
        }
        // One octet after the other over the border between two pieces.
        for before in (1_960..2_050).step_by(3) {
            payloads.push((443, hello(name, before)));
        }
        for cookie in [2_100, 7_000, 8_000]
            .into_iter()
            .chain((1_980..2_050).step_by(3))
        {
            payloads.push((80, request_behind(cookie, name)));
        }
        for count in [1, 30, 60, 61, 62, 63, 64, 65, 66, 67, 100] {
            payloads.push((53, questions_and(count, name)));
        }
        payloads
    };
    let mut port = 10_000;
    for (name, policy) in [("www.blocked.example", 1), ("allowed.example", 0)] {
        for (remote, payload) in payloads(name) {
            for program in ["upload", "upload_frags", "upload_tc"] {
                if payload.len() > 2_900 && program != "upload_frags" {
                    // More than these are run over.
                    continue;
                }
                port += 1;
                let data = frame(false, 6, (port, remote), 0x18, &payload);
                let verdict = match program {
                    "upload_tc" => programs.run_tc(program, &data)?.verdict,
                    program => programs.run_xdp(program, &data, 1)?.verdict,
                };
                let passes = match program {
                    "upload_tc" => u32::MAX,
                    _ => XDP_PASS,
                };
                let what = format!("{program}, port {remote}, {} octets", payload.len());
                let judgement = Judgement::unpack(flow_of(&programs, port)?.judgement);
                ensure!(judgement.decision.policy == policy, "{what}: {judgement:?}");
                ensure!(judgement.named, "{what}: not judged");
                ensure!((verdict == passes) == (policy == 0), "{what}: {verdict}");
            }
        }
    }
    Ok(())
}

/// A payload that the kernel does not read to its end is not taken for judged, and user space has
/// all of it.
#[test]
fn what_is_longer_than_the_kernel_reads_goes_whole_to_user_space() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    for (port, (remote, payload)) in (40_000..).zip([
        (80, request_behind(9_000, "blocked.example")),
        (53, questions_and(200, "blocked.example")),
    ]) {
        let data = frame(false, 6, (port, remote), 0x18, &payload);
        ensure!(programs.run_xdp("upload_frags", &data, 1)?.verdict == XDP_PASS);
        ensure!(!Judgement::unpack(flow_of(&programs, port)?.judgement).named);
        let mut ring = RingBuf::try_from(programs.map_mut("SAMPLES")?)?;
        let mut told = Vec::new();
        let mut pieces = 0;
        while let Some(entry) = ring.next() {
            let (head, octets) = entry.split_at(size_of::<Head>());
            ensure!(head[offset_of!(Head, piece)] == pieces);
            let more = head[offset_of!(Head, flags)] & Head::MORE != 0;
            told.extend_from_slice(octets);
            pieces += 1;
            ensure!(more == (told.len() < payload.len()));
        }
        ensure!(
            told == payload,
            "{} octets of {}",
            told.len(),
            payload.len()
        );
    }
    Ok(())
}

/// Where the IP header says no length (a super-packet above 64 KiB), the frame does.
#[test]
fn a_packet_without_a_length_is_read_to_the_end_of_its_frame() -> Result<()> {
    const JUMBO: [u8; 8] = [6, 0, 0xc2, 4, 0, 2, 0, 0];
    const PAYLOAD_LENGTH: std::ops::Range<usize> = 18..20;
    const NEXT_HEADER: usize = 20;
    const BEHIND_IPV6: usize = 54;

    programs::enter_own_namespace()?;
    let programs = household(Tables::default())?;
    for (port, (size, jumbo)) in (40_000..).zip([(1, false), (1, true), (9_000, true)]) {
        let payload = hello("blocked.example", size);
        let mut data = frame(true, 6, (port, 443), 0x18, &payload);
        data[PAYLOAD_LENGTH].fill(0);
        if jumbo {
            data[NEXT_HEADER] = 0;
            data.splice(BEHIND_IPV6..BEHIND_IPV6, JUMBO);
        }
        let verdict = programs.run_xdp("upload_frags", &data, 1)?.verdict;
        ensure!(verdict != XDP_PASS, "{size} {jumbo}: {verdict}");
    }
    Ok(())
}

/// Datagrams that were merged, or are not split yet, are several: each is judged and told by itself.
#[test]
fn each_datagram_of_a_super_packet_is_read() -> Result<()> {
    const PASSES: u32 = u32::MAX;

    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let merged = |programs: &Programs, ends, datagrams: &[Vec<u8>], segment: usize| {
        let data = frame(false, 17, ends, 0, &datagrams.concat());
        let context =
            SocketBufferContext::merged(segment as u32, datagrams.len() as u32, data.len() as u32);
        anyhow::Ok(programs.run_tc_in("upload_tc", &data, context)?.0)
    };
    let two = [initial(1), initial(2)];
    let outcome = merged(&programs, (40_000, 443), &two, two[0].len())?;
    ensure!(outcome.verdict == PASSES);
    let mut ring = RingBuf::try_from(programs.map_mut("SAMPLES")?)?;
    for datagram in &two {
        let entry = ring.next().context("a sample is missing")?;
        ensure!(&entry[size_of::<Head>()..] == datagram);
    }
    ensure!(ring.next().is_none());

    // All are as long as the first but the last.
    let asked = |last: &str| {
        let mut datagrams = vec![question("www.allowed.example", 1, false); 20];
        datagrams.push(question(last, 1, false));
        datagrams
    };
    for (port, (last, passes)) in (41_000..).zip([
        ("a.allowed.example", true),
        ("blocked.example", false),
        ("dropped.example", false),
    ]) {
        let datagrams = asked(last);
        let outcome = merged(&programs, (port, 53), &datagrams, datagrams[0].len())?;
        ensure!(
            (outcome.verdict == PASSES) == passes,
            "{last}: {}",
            outcome.verdict
        );
    }
    Ok(())
}

/// A connection that begins in any datagram of a super-packet is seen, also where the flow is known.
#[test]
fn a_connection_that_begins_behind_another_datagram_is_seen() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let ends = (40_000, 443);
    programs.run_tc("upload_tc", &frame(false, 17, ends, 0, &initial(1)))?;
    let short = vec![0x43; 1_200];
    for _ in 0..20 {
        programs.run_tc("upload_tc", &frame(false, 17, ends, 0, &short))?;
    }
    // User space read the name, which passes.
    programs.each_line(|_, line| {
        line.watch = Watch::NONE.bits();
        line.judgement = Judgement {
            named: true,
            ..Judgement::unpack(line.judgement)
        }
        .pack();
    })?;
    let mut ring = RingBuf::try_from(programs.map_mut("SAMPLES")?)?;
    while ring.next().is_some() {}
    let data = frame(false, 17, ends, 0, &[short, initial(2)].concat());
    let context = SocketBufferContext::merged(1_200, 2, data.len() as u32);
    programs.run_tc_in("upload_tc", &data, context)?;
    let mut ring = RingBuf::try_from(programs.map_mut("SAMPLES")?)?;
    let mut told = Vec::new();
    while let Some(entry) = ring.next() {
        told.push(entry[size_of::<Head>()..].to_vec());
    }
    ensure!(told.contains(&initial(2)), "{} samples", told.len());
    Ok(())
}

/// A text in the place of a host name is judged as the servers read it, or not at all.
#[test]
fn a_port_is_no_part_of_a_name_and_what_is_none_is_left_to_user_space() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = household(Tables::default())?;
    for (port, (name, refused)) in (40_000..).zip([
        ("blocked.example:443", true),
        ("Blocked.Example.:1", true),
        ("m\u{fc}nchen.blocked.example", false),
        ("a b.blocked.example", false),
        (".blocked.example", false),
        ("a..blocked.example", false),
        ("a\0.blocked.example", false),
        ("http://blocked.example", false),
    ]) {
        let data = frame(false, 6, (port, 443), 0x18, &hello(name, 1));
        let verdict = programs.run_xdp("upload", &data, 1)?.verdict;
        ensure!((verdict != XDP_PASS) == refused, "{name:?}: {verdict}");
        let judgement = Judgement::unpack(flow_of(&programs, port)?.judgement);
        ensure!(judgement.named == refused, "{name:?}: {judgement:?}");
    }
    Ok(())
}

#[test]
fn the_verifier_has_room() -> Result<()> {
    let verified = Programs::load(Tables::default())?.verified()?;
    for (name, count) in &verified {
        println!("{name}: {count} instructions verified");
    }
    for (name, count) in verified {
        ensure!(count <= Kernel::MOST_VERIFIED, "{name}: {count}");
    }
    Ok(())
}
