//! Ring 2: what becomes of packets that policies refuse, and of those that they may not refuse, by
//! `BPF_PROG_TEST_RUN`. Needs root.

#[allow(dead_code, reason = "the other rings' half")]
mod programs;

use std::{
    net::{IpAddr, Ipv6Addr},
    path::Path,
    thread::sleep,
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use aya::maps::{HashMap, LpmTrie, lpm_trie};
use programs::{Outcome, Programs, Raw, SocketBufferContext, Tables};
use sensor::{
    catalog::Catalog,
    config::Config,
    policy::{PolicyLists, Zone, compile, policy_names},
};
use sensor_ebpf::{
    answer::limit::{DeviceAnswers, FlowAnswers, ICMP_OF_DEVICE, ICMP_OF_FLOW, Silence},
    books::{Hit, HitKey, InterfaceRecord, Note, Way},
    flow::FlowRecord,
    policy::{Chain, MAX_CHAINS, MAX_RULES, PREFIX_SIDE_BITS, PrefixV4, PrefixV6, Rule, Verdict},
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

const DEVICE: [u8; 6] = [2, 0, 0, 0, 0, 9];
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PHONE: [u8; 4] = [192, 168, 1, 2];
/// Refused, as everything but one address of each family.
const REFUSED: [u8; 4] = [203, 0, 113, 1];
const ALLOWED: [u8; 4] = [203, 0, 113, 2];
const ALLOWED_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const PHONE_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
const ROUTER_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];

/// Programs with a policy that refuses everything, and one that allows two addresses.
fn refusing(tables: Tables) -> Result<Programs> {
    let mut programs = Programs::load(tables)?;
    let mut settings = programs.settings()?;
    let side = settings.generation & 1;
    for (number, verdict) in [Verdict::Reject, Verdict::Allow].into_iter().enumerate() {
        let number = number as u32;
        let rule = Rule {
            policy: number as u16 + 1,
            verdict: verdict as u8,
            ..Rule::default()
        };
        programs.set("RULES", side * MAX_RULES as u32 + number, rule)?;
        let mut chain = Chain {
            set: 1 << number,
            len: 1,
            ..Chain::default()
        };
        chain.rules[0] = number as u8;
        programs.set("CHAINS", side * MAX_CHAINS as u32 + number, chain)?;
    }
    let v4 = PrefixV4 {
        side: side.to_be_bytes(),
        address: ALLOWED,
    };
    LpmTrie::<_, Raw<PrefixV4>, u32>::try_from(programs.map_mut("PREFIXES_V4")?)?.insert(
        &lpm_trie::Key::new(PREFIX_SIDE_BITS + 32, Raw(v4)),
        1,
        0,
    )?;
    let v6 = PrefixV6 {
        side: side.to_be_bytes(),
        address: ALLOWED_V6,
    };
    LpmTrie::<_, Raw<PrefixV6>, u32>::try_from(programs.map_mut("PREFIXES_V6")?)?.insert(
        &lpm_trie::Key::new(PREFIX_SIDE_BITS + 128, Raw(v6)),
        1,
        0,
    )?;
    settings.default_rules[side as usize] = 0b11;
    settings.reset_signature = 0x1234_5678;
    programs.set("SETTINGS", 0, settings)?;
    Ok(programs)
}

/// Programs with the policies of a configuration, as the daemon compiles them.
fn under(configuration: &str) -> Result<Programs> {
    let text = format!("[[interface]]\nname = \"lan0\"\n{configuration}");
    let checked = Config::parse(&text, Path::new("sensor.toml"));
    let config = checked.map_err(|problems| anyhow!("{problems}"))?.config;
    let catalog = Catalog::load(&config.parties, &config.lists, None);
    let names = policy_names(&config.policies, &[]).map(str::to_owned);
    let identities = names.zip(1..).collect();
    let lists = PolicyLists::default();
    let compiled = compile(&config.policies, &[], &catalog, &lists, &identities)?;

    let mut programs = Programs::load(Tables::default())?;
    let mut settings = programs.settings()?;
    let side = settings.generation & 1;
    for (number, rule) in (0..).zip(&compiled.rules) {
        programs.set("RULES", side * MAX_RULES as u32 + number, *rule)?;
    }
    for (number, chain) in (0..).zip(&compiled.chains) {
        programs.set("CHAINS", side * MAX_CHAINS as u32 + number, *chain)?;
    }
    for (prefix, chain) in &compiled.prefixes {
        let bits = PREFIX_SIDE_BITS + u32::from(prefix.prefix_len());
        match prefix.addr() {
            IpAddr::V4(address) => {
                let key = PrefixV4 {
                    side: side.to_be_bytes(),
                    address: address.octets(),
                };
                LpmTrie::<_, Raw<PrefixV4>, u32>::try_from(programs.map_mut("PREFIXES_V4")?)?
                    .insert(&lpm_trie::Key::new(bits, Raw(key)), *chain, 0)?;
            }
            IpAddr::V6(address) => {
                let key = PrefixV6 {
                    side: side.to_be_bytes(),
                    address: address.octets(),
                };
                LpmTrie::<_, Raw<PrefixV6>, u32>::try_from(programs.map_mut("PREFIXES_V6")?)?
                    .insert(&lpm_trie::Key::new(bits, Raw(key)), *chain, 0)?;
            }
        }
    }
    settings.default_rules[side as usize] = compiled.default_rules(&Zone::default(), None);
    settings.reset_signature = 0x1234_5678;
    programs.set("SETTINGS", 0, settings)?;
    Ok(programs)
}

fn macs(from_device: bool) -> Vec<u8> {
    match from_device {
        true => [GATEWAY, DEVICE].concat(),
        false => [DEVICE, GATEWAY].concat(),
    }
}

fn ipv4(
    from_device: bool,
    protocol: u8,
    source: [u8; 4],
    destination: [u8; 4],
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = macs(from_device);
    frame.extend([8, 0]);
    frame.extend(packet(protocol, source, destination, payload));
    frame
}

/// An IPv4 packet, without a link header.
fn packet(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((payload.len() as u16 + 20).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

fn ipv6(
    from_device: bool,
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
    message: &[u8],
) -> Vec<u8> {
    let mut frame = macs(from_device);
    frame.extend([0x86, 0xdd]);
    frame.extend(packet_v6(58, hop_limit, source, destination, message));
    frame
}

fn packet_v6(
    next: u8,
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

fn segment(ports: (u16, u16), flags: u8, payload: usize) -> Vec<u8> {
    let mut segment = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.resize(20 + payload, 0xaa);
    segment
}

fn datagram(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    datagram.extend((payload.len() as u16 + 8).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A segment from the device to the server that is refused.
fn tcp(port: u16, flags: u8, payload: usize) -> Vec<u8> {
    ipv4(
        true,
        6,
        PHONE,
        REFUSED,
        &segment((port, 443), flags, payload),
    )
}

/// A segment the other way.
fn tcp_down(port: u16, flags: u8) -> Vec<u8> {
    ipv4(false, 6, REFUSED, PHONE, &segment((443, port), flags, 0))
}

fn udp(port: u16) -> Vec<u8> {
    ipv4(
        true,
        17,
        PHONE,
        REFUSED,
        &datagram((port, 9999), &[0x5a; 16]),
    )
}

fn upload(programs: &Programs, frame: &[u8]) -> Result<Outcome> {
    programs.run_xdp("upload", frame, 1)
}

fn silent(programs: &Programs, reason: Silence) -> Result<u64> {
    Ok(programs.interface()?.silent[reason as usize])
}

/// A policy about everything beyond the link leaves neighbour discovery alone, and ICMP errors about
/// allowed connections.
#[test]
fn the_link_and_what_is_told_of_allowed_connections_pass() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = refusing(Tables::default())?;
    let link = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let message = |kind: u8| [&[kind, 0, 0, 0, 0x60, 0, 0, 0][..], &PHONE_V6].concat();
    for kind in 133..=137 {
        for (hop_limit, passes) in [(255, true), (254, false)] {
            let up = ipv6(true, hop_limit, PHONE_V6, ROUTER_V6, &message(kind));
            let verdict = upload(&programs, &up)?.verdict;
            ensure!((verdict == XDP_PASS) == passes, "{kind} up: {verdict}");
            let verdict = programs.run_tc("upload_tc", &up)?.verdict;
            ensure!(
                (verdict == TC_ACT_UNSPEC) == passes,
                "{kind} up, TC: {verdict}"
            );
            let down = ipv6(false, hop_limit, ROUTER_V6, PHONE_V6, &message(kind));
            let verdict = programs.run_tc("download", &down)?.verdict;
            ensure!(
                (verdict == TC_ACT_UNSPEC) == passes,
                "{kind} down: {verdict}"
            );
        }
        let down = ipv6(false, 255, ROUTER_V6, link, &message(kind));
        ensure!(programs.run_tc("download", &down)?.verdict == TC_ACT_UNSPEC);
    }
    // From a router on the way, about a segment of the device.
    let router = [198, 51, 100, 9];
    let error = |kind: u8, quoted: &[u8]| {
        let message = [&[kind, 4, 0, 0, 0, 0, 5, 0xd4][..], quoted].concat();
        ipv4(false, 1, router, PHONE, &message)
    };
    let quoted = |to, kept: usize| {
        packet(6, PHONE, to, &segment((40_000, 443), ACK, 0))[..20 + kept].to_vec()
    };
    let down = |frame: &[u8]| -> Result<bool> {
        Ok(programs.run_tc("download", frame)?.verdict == TC_ACT_UNSPEC)
    };
    for kind in [3, 11, 12] {
        ensure!(down(&error(kind, &quoted(ALLOWED, 8)))?, "{kind}");
        ensure!(!down(&error(kind, &quoted(REFUSED, 8)))?, "{kind}");
        // Cut off before the ports, a later fragment, somebody else's packet.
        ensure!(!down(&error(kind, &quoted(ALLOWED, 2)))?, "{kind}");
        let mut later = quoted(ALLOWED, 8);
        later[7] = 1;
        ensure!(!down(&error(kind, &later))?, "{kind}");
        let other = packet(
            6,
            [192, 168, 1, 3],
            ALLOWED,
            &segment((40_000, 443), ACK, 0),
        );
        ensure!(!down(&error(kind, &other))?, "{kind}");
    }
    ensure!(!down(&error(5, &quoted(ALLOWED, 8)))?, "a redirect");
    // The device tells a server that is allowed, and one that is not, of what they sent.
    for (server, passes) in [(ALLOWED, true), (REFUSED, false)] {
        let quoted = packet(17, server, PHONE, &datagram((53, 40_000), &[]));
        let frame = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
        let frame = ipv4(true, 1, PHONE, server, &frame);
        ensure!((upload(&programs, &frame)?.verdict == XDP_PASS) == passes);
    }
    for kind in 1..=4 {
        for (to, passes) in [(ALLOWED_V6, true), (ROUTER_V6, false)] {
            // Behind an extension header.
            let transport = [&[6, 0, 0, 0, 0, 0, 0, 0][..], &segment((1, 443), ACK, 0)].concat();
            let quoted = packet_v6(0, 64, PHONE_V6, to, &transport);
            let message = [&[kind, 0, 0, 0, 0, 0, 5, 0][..], &quoted].concat();
            let frame = ipv6(false, 60, ROUTER_V6, PHONE_V6, &message);
            ensure!(down(&frame)? == passes, "{kind} about {to:?}");
        }
    }
    // Packets on which the link or an allowed connection depends have own flows.
    let flows = programs.flows()?;
    let vital = |flow: &&FlowRecord| flow.key.is_vital();
    ensure!(flows.iter().filter(vital).count() > 10);
    Ok(())
}

#[test]
fn an_echo_and_its_reply_are_one_flow_under_the_requests_type() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = Programs::load(Tables::default())?;
    let id = [0, 0, 0x12, 0x34, 0, 1];
    let message = |kind: u8| [&[kind, 0][..], &id].concat();
    upload(&programs, &ipv4(true, 1, PHONE, ALLOWED, &message(8)))?;
    programs.run_tc("download", &ipv4(false, 1, ALLOWED, PHONE, &message(0)))?;
    upload(
        &programs,
        &ipv6(true, 64, PHONE_V6, ALLOWED_V6, &message(128)),
    )?;
    programs.run_tc(
        "download",
        &ipv6(false, 64, ALLOWED_V6, PHONE_V6, &message(129)),
    )?;
    // The server asks the device.
    programs.run_tc("download", &ipv4(false, 1, ALLOWED, PHONE, &message(8)))?;
    upload(&programs, &ipv4(true, 1, PHONE, ALLOWED, &message(0)))?;
    let mut flows: Vec<_> = programs
        .flows()?
        .iter()
        .map(|flow| {
            let ports = (flow.key.local_port(), flow.key.remote_port());
            (ports, flow.upload_packets, flow.download_packets)
        })
        .collect();
    flows.sort_unstable();
    ensure!(
        flows == [((0, 8), 1, 1), ((0, 128), 1, 1), ((8, 0), 1, 1)],
        "{flows:?}"
    );
    Ok(())
}

/// An answer has its own length, whatever the frame's, and nothing of its payload.
#[test]
fn an_answer_to_a_frame_of_several_buffers_is_short() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = refusing(Tables::default())?;
    for (number, len) in [60, 1_500, 3_000, 4_500, 9_000].into_iter().enumerate() {
        let frame = tcp(40_000 + number as u16, ACK, len - 54);
        let before = programs.interface()?.answered;
        let outcome = programs.run_xdp("upload_frags", &frame, 1)?;
        let after = programs.interface()?.answered;
        ensure!(outcome.verdict == XDP_TX, "{len}: {}", outcome.verdict);
        ensure!(
            outcome.output.len() == 54,
            "{len}: {}",
            outcome.output.len()
        );
        ensure!(!outcome.output.contains(&0xaa), "{len}");
        ensure!(after.bytes - before.bytes == 54);
    }
    // A longer one than the frame, and one longer than the first buffer's rest.
    let short = ipv4(true, 17, PHONE, REFUSED, &datagram((1, 2), &[]));
    let outcome = programs.run_xdp("upload_frags", &short, 1)?;
    ensure!(outcome.verdict == XDP_TX && outcome.output.len() == 14 + 20 + 8 + 28);
    Ok(())
}

fn decided(programs: &Programs) -> Result<u64> {
    let hits: HashMap<_, Raw<HitKey>, Raw<Hit>> = HashMap::try_from(programs.map("HITS")?)?;
    let mut decided = 0;
    for hit in hits.iter() {
        decided += hit?.1.0.decided;
    }
    Ok(decided)
}

/// Without a place for flows, an attempt is a SYN or the beginning of a QUIC connection, no packet.
#[test]
fn attempts_are_counted_without_a_place_for_flows_too() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = refusing(Tables {
        flows: 2,
        devices: 64,
        ..Tables::default()
    })?;
    for _ in 0..500 {
        upload(&programs, &tcp(50_000, ACK, 0))?;
        upload(&programs, &udp(50_001))?;
    }
    // Two flows have a place, or one.
    let before = decided(&programs)?;
    ensure!(before <= 2, "{before}");
    for _ in 0..10 {
        upload(&programs, &tcp(50_002, ACK, 0))?;
    }
    ensure!(decided(&programs)? == before);
    for port in 0..5 {
        upload(&programs, &tcp(50_010 + port, SYN, 0))?;
        upload(&programs, &tcp(50_010 + port, ACK, 100))?;
    }
    ensure!(decided(&programs)? == before + 5, "{}", decided(&programs)?);
    // The long header of a QUIC Initial with a connection's number.
    let mut initial = vec![
        0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0xb0,
    ];
    initial.resize(1_200, 0);
    let frame = ipv4(true, 17, PHONE, REFUSED, &datagram((50_020, 443), &initial));
    upload(&programs, &frame)?;
    ensure!(decided(&programs)? == before + 6, "{}", decided(&programs)?);
    Ok(())
}

/// A reset ends what is to end: it passes, both ways, where it carries nothing. One that the programs made
/// is in no book.
#[test]
fn a_reset_of_a_refused_flow_passes() -> Result<()> {
    programs::enter_own_namespace()?;
    for tables in [
        Tables::default(),
        Tables {
            flows: 1,
            devices: 64,
            ..Tables::default()
        },
    ] {
        let programs = refusing(tables)?;
        // The only place of the small table is taken.
        upload(&programs, &tcp(39_999, ACK, 0))?;
        ensure!(upload(&programs, &tcp(40_000, ACK, 0))?.verdict == XDP_TX);
        let hits = |programs: &Programs| -> Result<u64> {
            let hits: HashMap<_, Raw<HitKey>, Raw<Hit>> = HashMap::try_from(programs.map("HITS")?)?;
            let mut packets = 0;
            for hit in hits.iter() {
                packets += hit?.1.0.wire.packets;
            }
            Ok(packets)
        };
        // Packets that pass in a flow are booked by the daemon, from the flow's own counters.
        let without_place = u64::from(tables.flows == 1);
        ensure!(hits(&programs)? == without_place, "{}", hits(&programs)?);
        let reset = tcp(40_000, RST, 0);
        ensure!(upload(&programs, &reset)?.verdict == XDP_PASS);
        ensure!(programs.run_tc("upload_tc", &reset)?.verdict == TC_ACT_UNSPEC);
        ensure!(programs.run_tc("download", &tcp_down(40_000, RST))?.verdict == TC_ACT_UNSPEC);
        ensure!(upload(&programs, &tcp(40_000, RST, 10))?.verdict == XDP_DROP);
        ensure!(
            hits(&programs)? == 2 * without_place,
            "{}",
            hits(&programs)?
        );
        let seen = |programs: &Programs| -> Result<u64> {
            let flows = programs.flows()?;
            let flows: u64 = flows.iter().map(|flow| flow.upload_packets).sum();
            Ok(flows + programs.interface()?.overflow[0].packets)
        };
        let before = seen(&programs)?;
        let mut own = reset.clone();
        own[48..50].copy_from_slice(&[0x12, 0x34]);
        own[52..54].copy_from_slice(&[0x56, 0x78]);
        ensure!(upload(&programs, &own)?.verdict == XDP_PASS);
        ensure!(programs.run_tc("upload_tc", &own)?.verdict == TC_ACT_UNSPEC);
        ensure!(seen(&programs)? == before);
        own[53] = 0x79;
        ensure!(upload(&programs, &own)?.verdict == XDP_PASS);
        ensure!(seen(&programs)? == before + 1);
    }
    Ok(())
}

#[test]
fn answers_have_limits_and_silence_is_counted() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = refusing(Tables::default())?;
    let answered = |frame: &[u8], times: u32| -> Result<u64> {
        let before = programs.interface()?.answered.packets;
        for _ in 0..times {
            let verdict = upload(&programs, frame)?.verdict;
            ensure!(verdict == XDP_TX || verdict == XDP_DROP, "{verdict}");
        }
        Ok(programs.interface()?.answered.packets - before)
    };
    ensure!(answered(&tcp(1_000, SYN, 0), 40)? == 40);
    ensure!(silent(&programs, Silence::Resets)? == 0);
    ensure!(answered(&tcp(1_000, ACK, 0), 40)? <= 2);
    ensure!(silent(&programs, Silence::Resets)? >= 38);
    sleep(Duration::from_millis(110));
    ensure!(answered(&tcp(1_000, ACK, 0), 1)? == 1);
    // The other end has an answer of its own.
    let down = tcp_down(1_000, ACK);
    ensure!(programs.run_tc("download", &down)?.verdict == TC_ACT_UNSPEC);
    ensure!(programs.run_tc("download", &down)?.verdict == TC_ACT_SHOT);

    let of_flow = answered(&udp(2_000), 40)?;
    ensure!(of_flow == ICMP_OF_FLOW, "{of_flow}");
    ensure!(silent(&programs, Silence::IcmpOfFlow)? == 40 - ICMP_OF_FLOW);
    let mut more = 0;
    for port in 0..250 {
        more += answered(&udp(3_000 + port), 1)?;
    }
    ensure!(
        more <= ICMP_OF_DEVICE && more > ICMP_OF_DEVICE / 2,
        "{more}"
    );
    ensure!(silent(&programs, Silence::IcmpOfDevice)? >= 250 - ICMP_OF_DEVICE);
    // Another device has its own.
    let mut other = udp(4_000);
    other[11] = 10;
    ensure!(answered(&other, 1)? == 1);
    sleep(Duration::from_millis(1_010));
    ensure!(answered(&udp(2_000), 40)? == ICMP_OF_FLOW);
    Ok(())
}

#[test]
fn other_protocols_are_prohibited_and_errors_are_not_answered() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = refusing(Tables::default())?;
    for (protocol, payload) in [
        (50, vec![1; 40]),
        (1, vec![8, 0, 0, 0, 0, 1, 0, 1]),
        (47, vec![0; 4]),
    ] {
        let frame = ipv4(true, protocol, PHONE, REFUSED, &payload);
        let outcome = upload(&programs, &frame)?;
        ensure!(outcome.verdict == XDP_TX, "{protocol}: {}", outcome.verdict);
        ensure!(outcome.output[34..36] == [3, 13], "{protocol}");
        let quote = &outcome.output[42..];
        ensure!(
            quote == &frame[14..14 + quote.len()] && quote.len() >= 24,
            "{protocol}"
        );
    }
    let frame = ipv6(true, 64, PHONE_V6, ROUTER_V6, &[128, 0, 0, 0, 0, 1, 0, 1]);
    let outcome = upload(&programs, &frame)?;
    ensure!(outcome.verdict == XDP_TX && outcome.output[54..56] == [1, 1]);
    // Errors, a later fragment, to a group of the link, from nobody.
    let mut later = udp(5_000);
    later[21] = 1;
    let mut group = udp(5_001);
    group[0] = 1;
    let mut nobody = udp(5_002);
    nobody[26..30].fill(0);
    for frame in [
        ipv4(true, 1, PHONE, REFUSED, &[3, 1, 0, 0, 0, 0, 0, 0]),
        ipv4(true, 1, PHONE, REFUSED, &[5, 1, 0, 0, 0, 0, 0, 0]),
        ipv6(true, 64, PHONE_V6, ROUTER_V6, &[1, 0, 0, 0, 0, 0, 0, 0]),
        ipv6(true, 64, PHONE_V6, ROUTER_V6, &[137, 0, 0, 0, 0, 0, 0, 0]),
        later,
        group,
        nobody,
    ] {
        let verdict = upload(&programs, &frame)?.verdict;
        ensure!(verdict == XDP_DROP, "{frame:02x?}: {verdict}");
        // The kernel's own test of a program gives every packet to the host.
        let verdict = programs.run_tc("upload_tc", &frame)?.verdict;
        ensure!(verdict == TC_ACT_SHOT, "TC, {frame:02x?}: {verdict}");
    }
    Ok(())
}

/// Where a driver may not deliver what XDP sends back, the frame goes on with a note, in a form in which
/// nobody else takes it.
#[test]
fn a_refused_frame_is_handed_on_with_a_note() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = refusing(Tables::default())?;
    let interface = programs.interface()?;
    programs.set(
        "INTERFACES",
        0,
        InterfaceRecord {
            way: Way::Note as u64,
            ..interface
        },
    )?;
    let frame = tcp(40_000, SYN, 0);
    for program in ["upload", "upload_frags"] {
        let outcome = programs.run_xdp(program, &frame, 1)?;
        ensure!(outcome.verdict == XDP_PASS);
        let note = size_of::<Note>();
        ensure!(outcome.output.len() == frame.len() + note);
        ensure!(outcome.output[..4] == Note::MAGIC.to_le_bytes());
        ensure!(outcome.output[8..14] == GATEWAY);
        ensure!(outcome.output[note..note + 6] == DEVICE);
        ensure!(outcome.output[note + 6..] == frame[6..]);
    }
    // XDP drops a reset that is due no answer, and does not hand it on.
    ensure!(upload(&programs, &tcp(40_000, RST | ACK, 5))?.verdict == XDP_DROP);
    // Without a note, the program behind has nothing to do.
    let (outcome, _) =
        programs.run_tc_in("answer_noted", &frame, SocketBufferContext::default())?;
    ensure!(outcome.verdict == TC_ACT_UNSPEC && outcome.output == frame);
    let books = programs.interface()?;
    ensure!(books.answered.packets == 0 && books.answers_failed == 0);
    Ok(())
}

#[test]
fn the_tables_of_limits_are_forgotten_oldest_first() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = refusing(Tables::default())?;
    for number in 0..2_000_u16 {
        let [high, low] = number.to_be_bytes();
        let mut frame = udp(number);
        frame[10..12].copy_from_slice(&[high, low]);
        ensure!(upload(&programs, &frame)?.verdict == XDP_TX, "{number}");
    }
    let devices: HashMap<_, u64, Raw<DeviceAnswers>> =
        HashMap::try_from(programs.map("DEVICE_ANSWERS")?)?;
    ensure!(devices.keys().count() <= 1_024);
    let flows: HashMap<_, u64, Raw<FlowAnswers>> =
        HashMap::try_from(programs.map("FLOW_ANSWERS")?)?;
    ensure!(flows.keys().count() <= 4_096);
    Ok(())
}

/// A policy about IPv4 addresses is about the IPv6 addresses that stand for them, and about no others.
#[test]
fn ipv4_within_ipv6_is_refused_as_ipv4() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = under(
        "[parties]\nnat64 = [\"2001:db8:64::/96\", \"2001:db8:6400::/48\"]\n\
         [[policy]]\nname = \"all\"\nremotes = [\"203.0.113.0/24\"]\naction = \"reject\"\n\
         [[policy]]\nname = \"some\"\nremotes = [\"203.0.113.128/25\"]\naction = \"allow\"\n",
    )?;
    let refused = |destination: [u8; 4]| -> Result<bool> {
        let frame = ipv4(true, 6, PHONE, destination, &segment((40_000, 443), SYN, 0));
        Ok(upload(&programs, &frame)?.verdict == XDP_TX)
    };
    ensure!(refused([203, 0, 113, 7])? && !refused([203, 0, 113, 200])?);
    for (how, address, is_refused) in [
        ("NAT64, the well-known prefix", "64:ff9b::203.0.113.7", true),
        (
            "NAT64, a prefix of the house",
            "2001:db8:64::203.0.113.7",
            true,
        ),
        (
            "NAT64 of 48 bits (RFC 6052)",
            "2001:db8:6400:cb00:71:700::",
            true,
        ),
        ("6to4", "2002:cb00:7107::1", true),
        ("mapped", "::ffff:203.0.113.7", true),
        ("allowed, NAT64", "64:ff9b::203.0.113.200", false),
        ("allowed, of the house", "2001:db8:64::203.0.113.200", false),
        ("allowed, 6to4", "2002:cb00:71c8::1", false),
        ("allowed, mapped", "::ffff:203.0.113.200", false),
        ("another address", "64:ff9b::203.0.114.7", false),
        ("another prefix", "2001:db8:65::203.0.113.7", false),
        ("the end of an address", "2001:db8::203.0.113.7", false),
    ] {
        let address: Ipv6Addr = address.parse()?;
        let segment = segment((40_000, 443), SYN, 0);
        let mut frame = macs(true);
        frame.extend([0x86, 0xdd]);
        frame.extend(packet_v6(6, 64, PHONE_V6, address.octets(), &segment));
        let up = upload(&programs, &frame)?.verdict;
        ensure!((up == XDP_TX) == is_refused, "{how}: {up}");
        ensure!(is_refused || up == XDP_PASS, "{how}: {up}");
        let up = programs.run_tc("upload_tc", &frame)?.verdict;
        ensure!((up != TC_ACT_UNSPEC) == is_refused, "{how}, TC: {up}");
        let mut frame = macs(false);
        frame.extend([0x86, 0xdd]);
        frame.extend(packet_v6(
            17,
            64,
            address.octets(),
            PHONE_V6,
            &datagram((443, 5), &[]),
        ));
        // An answer to the device may take its place.
        let before = programs.interface()?.refused.packets;
        programs.run_tc("download", &frame)?;
        let down = programs.interface()?.refused.packets - before;
        ensure!((down == 1) == is_refused, "{how}, down: {down}");
    }
    Ok(())
}
