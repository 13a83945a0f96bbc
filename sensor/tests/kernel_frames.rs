//! Ring 2: the frame table through the kernel programs, by `BPF_PROG_TEST_RUN`. Verdict, octets and
//! books are what the library says on the host.

#[path = "../../sensor-ebpf/tests/frames/mod.rs"]
#[allow(dead_code, reason = "ring 1 uses the rest")]
mod frames;
#[allow(dead_code, reason = "the bench uses the rest")]
mod programs;

use std::{collections::HashMap, net::IpAddr, process::Command};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{self, LpmTrie, lpm_trie};
use frames::{
    mutate::{Random, next_frame, seeds},
    table,
};
use ipnet::IpNet;
use programs::{IFINDEX, Outcome, Programs, Raw, SocketBufferContext, Tables};
use sensor_ebpf::{
    answer::{ANSWER_CAPACITY, Headers, Refused, To, refuse, seal},
    books::{FIRST_DEVICE, Tally},
    flow::{Direction, FlowKey, FlowRecord},
    parse::{Address, Family, Fragment, Mac, Parsed, parse, tcp_flag},
    policy::{
        Chain, Decision, DeviceRulesKey, MAX_CHAINS, MAX_RULES, PREFIX_SIDE_BITS, PortRange,
        PrefixV4, PrefixV6, Rule, Rules, Verdict, decide,
    },
    quote::key_of,
    sample::Kind,
    skip::Skip,
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// The shortest frame that `BPF_PROG_TEST_RUN` takes.
const SHORTEST: usize = 14;

/// The longest that fits one page beside what XDP keeps for itself.
const LONGEST_XDP: usize = 3000;

/// Where a frame is booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Booked {
    Flow(FlowKey),
    Multicast,
    Skipped(Skip),
}

/// The library's judgement of frames, with a memory of first fragments in place of the kernel's
/// map.
#[derive(Default)]
struct Oracle {
    ports: HashMap<(FlowKey, u32, u8), u32>,
}

impl Oracle {
    fn book(&mut self, frame: &[u8], direction: Direction) -> Booked {
        let parsed = match parse(frame) {
            Ok(parsed) => parsed,
            Err(reason) => return Booked::Skipped(reason),
        };
        match direction {
            Direction::Upload if parsed.source_mac.is_group() => {
                return Booked::Skipped(Skip::SourceIsGroup);
            }
            Direction::Download if parsed.destination_mac.is_group() => return Booked::Multicast,
            _ => {}
        }
        Booked::Flow(self.key(frame, &parsed, direction))
    }

    fn key(&mut self, frame: &[u8], parsed: &Parsed, direction: Direction) -> FlowKey {
        let key = key_of(frame, parsed, direction, IFINDEX);
        match parsed.fragment() {
            Fragment::Whole => key,
            Fragment::First(identification) => {
                let piece = (key.with_ports(0), identification, direction as u8);
                self.ports.insert(piece, key.ports());
                key
            }
            Fragment::Later(identification) => {
                let piece = (key.with_ports(0), identification, direction as u8);
                key.with_ports(self.ports.get(&piece).copied().unwrap_or(0))
            }
        }
    }
}

/// The counts that one frame may change.
fn counts(programs: &Programs, booked: Booked, direction: Direction) -> Result<Tally> {
    let at = direction as usize;
    Ok(match booked {
        Booked::Skipped(reason) => programs.interface()?.skipped[at][reason as usize],
        Booked::Multicast => programs.interface()?.multicast,
        Booked::Flow(key) => programs
            .flows()?
            .iter()
            .find(|flow| flow.key == key)
            .map_or(Tally::default(), |flow| of_flow(flow, direction)),
    })
}

fn of_flow(flow: &FlowRecord, direction: Direction) -> Tally {
    match direction {
        Direction::Upload => Tally {
            packets: flow.upload_packets,
            bytes: flow.upload_bytes,
        },
        Direction::Download => Tally {
            packets: flow.download_packets,
            bytes: flow.download_bytes,
        },
    }
}

/// Everything booked in one direction.
fn booked(programs: &Programs, direction: Direction, devices: u32) -> Result<Tally> {
    let at = direction as usize;
    let interface = programs.interface()?;
    let mut sum = Tally::default();
    let mut add = |tally: Tally| {
        sum.packets += tally.packets;
        sum.bytes += tally.bytes;
    };
    for flow in programs.flows()? {
        add(of_flow(&flow, direction));
    }
    add(interface.overflow[at]);
    interface.skipped[at].into_iter().for_each(&mut add);
    if direction == Direction::Download {
        add(interface.multicast);
        add(interface.refused);
    }
    // The same packets without a flow, by device.
    let mut overflow = Tally::default();
    for number in 1..FIRST_DEVICE + devices {
        for family in programs.device(number)?.overflow {
            overflow.packets += family[at].packets;
            overflow.bytes += family[at].bytes;
        }
    }
    ensure!(
        overflow == interface.overflow[at],
        "the devices' overflow is {overflow:?}, the interface's {:?}",
        interface.overflow[at]
    );
    Ok(sum)
}

/// Whether the kernel takes the frame for a socket buffer: an IPv4 header must fit behind the
/// Ethernet header, or an IPv6 header (`bpf_prog_test_run_skb`).
fn fits_tc(frame: &[u8]) -> bool {
    let rest = frame.len().saturating_sub(SHORTEST);
    match frame.get(12..14) {
        Some([0x08, 0x00]) => rest >= 20,
        Some([0x86, 0xdd]) => rest >= 40,
        Some(_) => rest > 0,
        None => false,
    }
}

const SMALL: Tables = Tables {
    flows: 256,
    devices: 64,
    assemblies: 64,
};

struct Way {
    program: &'static str,
    direction: Direction,
    pass: u32,
    run: fn(&Programs, &str, &[u8]) -> Result<Outcome>,
    takes: fn(&[u8]) -> bool,
}

const WAYS: [Way; 4] = [
    Way {
        program: "upload",
        direction: Direction::Upload,
        pass: XDP_PASS,
        run: |programs, name, frame| programs.run_xdp(name, frame, 1),
        takes: |frame| (SHORTEST..=LONGEST_XDP).contains(&frame.len()),
    },
    Way {
        program: "upload_frags",
        direction: Direction::Upload,
        pass: XDP_PASS,
        run: |programs, name, frame| programs.run_xdp(name, frame, 1),
        takes: |frame| frame.len() >= SHORTEST,
    },
    Way {
        program: "upload_tc",
        direction: Direction::Upload,
        pass: TC_ACT_UNSPEC,
        run: |programs, name, frame| programs.run_tc(name, frame),
        takes: fits_tc,
    },
    Way {
        program: "download",
        direction: Direction::Download,
        pass: TC_ACT_UNSPEC,
        run: |programs, name, frame| programs.run_tc(name, frame),
        takes: fits_tc,
    },
];

#[test]
fn every_frame_is_booked_where_the_library_says() -> Result<()> {
    programs::enter_own_namespace()?;
    for way in &WAYS {
        let programs = Programs::load(SMALL)?;
        let mut oracle = Oracle::default();
        let mut all = Tally::default();
        // Twice: the second time the flows are known, and the short way is taken.
        for (name, frame, _) in table().into_iter().chain(table()) {
            if !(way.takes)(&frame) {
                continue;
            }
            let expect = oracle.book(&frame, way.direction);
            let before = counts(&programs, expect, way.direction)?;
            let outcome = (way.run)(&programs, way.program, &frame)
                .with_context(|| format!("{name} through {}", way.program))?;
            let after = counts(&programs, expect, way.direction)?;
            let place = format!("{name} through {}: {expect:?}", way.program);
            ensure!(
                outcome.verdict == way.pass,
                "{place}: verdict {}",
                outcome.verdict
            );
            ensure!(outcome.output == frame, "{place}: the frame was changed");
            ensure!(after.packets == before.packets + 1, "{place}: not booked");
            ensure!(
                after.bytes == before.bytes + frame.len() as u64,
                "{place}: {} octets of {}",
                after.bytes - before.bytes,
                frame.len()
            );
            all.packets += 1;
            all.bytes += frame.len() as u64;
        }
        let sum = booked(&programs, way.direction, SMALL.devices)?;
        ensure!(sum == all, "{}: {sum:?} booked of {all:?}", way.program);
        ensure!(all.packets > 100, "{}: hardly any frame fits", way.program);
    }
    Ok(())
}

#[test]
fn every_prefix_of_every_frame_is_booked() -> Result<()> {
    programs::enter_own_namespace()?;
    for way in &WAYS[..2] {
        let programs = Programs::load(SMALL)?;
        let mut oracle = Oracle::default();
        let mut skipped = [0u64; Skip::COUNT];
        let mut all = Tally::default();
        for (name, frame, _) in table() {
            for len in SHORTEST..frame.len().min(200) {
                let prefix = &frame[..len];
                if let Booked::Skipped(reason) = oracle.book(prefix, way.direction) {
                    skipped[reason as usize] += 1;
                }
                let outcome = (way.run)(&programs, way.program, prefix)?;
                ensure!(outcome.verdict == way.pass, "{name} after {len} octets");
                all.packets += 1;
                all.bytes += len as u64;
            }
        }
        let sum = booked(&programs, way.direction, SMALL.devices)?;
        ensure!(sum == all, "{}: {sum:?} booked of {all:?}", way.program);
        let counted = programs.interface()?.skipped[way.direction as usize];
        for reason in Skip::ALL {
            let number = reason as usize;
            ensure!(
                counted[number].packets == skipped[number],
                "{} {}: {} on the host, {} in the kernel",
                way.program,
                reason.name(),
                skipped[number],
                counted[number].packets
            );
        }
    }
    Ok(())
}

/// A super-packet is booked as the packets that the wire carried.
#[test]
fn an_aggregated_frame_counts_as_its_segments() -> Result<()> {
    use frames::build::{ACK, ethernet};

    programs::enter_own_namespace()?;
    const SEGMENT: u32 = 500;
    const SEGMENTS: u32 = 5;
    for (headers, frame) in [
        (54, ethernet().ipv4().tcp(ACK)),
        (66, ethernet().ipv4().tcp_at(ACK, 1, 1, 12)),
        (74, ethernet().ipv6().tcp(ACK)),
        (78, ethernet().vlan(7).ipv6().tcp(ACK)),
        (42, ethernet().ipv4().udp()),
    ] {
        let frame = frame.payload((SEGMENT * SEGMENTS - 100) as usize).build();
        let wire = frame.len() as u32 + (SEGMENTS - 1) * headers;
        let expect = Tally {
            packets: u64::from(SEGMENTS),
            bytes: u64::from(wire),
        };
        for (program, direction) in [
            ("upload_tc", Direction::Upload),
            ("download", Direction::Download),
        ] {
            for segments in [SEGMENTS, 0] {
                let programs = Programs::load(SMALL)?;
                // Twice: the long way and the short one.
                for _ in 0..2 {
                    let context = SocketBufferContext::merged(SEGMENT, segments, wire);
                    programs.run_tc_in(program, &frame, context)?;
                }
                let sum = booked(&programs, direction, SMALL.devices)?;
                ensure!(
                    sum == Tally {
                        packets: 2 * expect.packets,
                        bytes: 2 * expect.bytes
                    },
                    "{program}, headers of {headers}, {segments} segments: {sum:?}, not twice {expect:?}"
                );
            }
        }
    }
    Ok(())
}

/// A policy that applies to every device and every address.
struct Everything(Chain, Rule);

impl Everything {
    fn new(verdict: Verdict) -> Self {
        let mut chain = Chain {
            set: 1,
            len: 1,
            ..Chain::default()
        };
        chain.rules[0] = 0;
        let rule = Rule {
            policy: 9,
            verdict: verdict as u8,
            ..Rule::default()
        };
        Self(chain, rule)
    }

    /// Puts it in force on the side of the generation.
    fn enforce(&self, programs: &mut Programs, generation: u32) -> Result<()> {
        let side = generation & 1;
        programs.set("RULES", side * MAX_RULES as u32, self.1)?;
        programs.set("CHAINS", side * MAX_CHAINS as u32, self.0)?;
        let mut settings = programs.settings()?;
        settings.default_rules[side as usize] = 1;
        settings.generation = generation;
        programs.set("SETTINGS", 0, settings)
    }
}

impl Rules for Everything {
    fn for_device(&self, _mac: Mac) -> u64 {
        1
    }

    fn for_remote(&self, _family: Family, _remote: Address) -> Option<&Chain> {
        Some(&self.0)
    }

    fn chain(&self, number: u32) -> Option<&Chain> {
        (number == 0).then_some(&self.0)
    }

    fn rule(&self, number: u8) -> Option<&Rule> {
        (number == 0).then_some(&self.1)
    }
}

/// Writes the library's answer to a refused frame, and gives its length; none where there is no answer.
fn library_answer(frame: &[u8], to: To, buffer: &mut [u8; ANSWER_CAPACITY]) -> Option<usize> {
    let refusal = Refused::of(frame, &Headers::of(&parse(frame).ok()?))?;
    let len = refuse(frame, &refusal, to, buffer)?;
    seal(&refusal, len, buffer)?;
    Some(len)
}

#[test]
fn a_refused_frame_comes_back_as_the_library_answers() -> Result<()> {
    programs::enter_own_namespace()?;
    // Packets to the server go by way of the interface, which has to be up.
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    ensure!(
        up.success(),
        "the loopback of the namespace does not come up"
    );
    for way in &WAYS {
        let mut programs = Programs::load(SMALL)?;
        let policy = Everything::new(Verdict::Reject);
        policy.enforce(&mut programs, 3)?;
        let mut oracle = Oracle::default();
        let mut all = Tally::default();
        let mut answered = Tally::default();
        let mut replaced = Tally::default();
        let mut refused = Tally::default();
        for (name, frame, _) in table().into_iter().chain(table()) {
            if !(way.takes)(&frame) {
                continue;
            }
            let decision = match oracle.book(&frame, way.direction) {
                Booked::Flow(key) => decide(&policy, &key),
                Booked::Multicast | Booked::Skipped(_) => Decision::PASS,
            };
            programs.forget_answers()?;
            let outcome = (way.run)(&programs, way.program, &frame)?;
            let place = format!("{name} through {}", way.program);
            all.packets += 1;
            all.bytes += frame.len() as u64;
            // A reset ends what is to end.
            let is_reset = parse(&frame[..]).is_ok_and(|parsed| {
                parsed.tcp_flags & tcp_flag::RST != 0 && parsed.payload_len() == Some(0)
            });
            if decision.verdict == Verdict::Pass || is_reset {
                ensure!(
                    outcome.verdict == way.pass,
                    "{place}: verdict {}",
                    outcome.verdict
                );
                ensure!(outcome.output == frame, "{place}: the frame was changed");
                continue;
            }
            let mut buffer = [0; ANSWER_CAPACITY];
            // Of a download, the device is told in the server's place.
            let to = match way.direction {
                Direction::Upload => To::Sender,
                Direction::Download => To::Receiver,
            };
            let answer = library_answer(&frame, to, &mut buffer);
            if way.direction == Direction::Download {
                refused.packets += 1;
                refused.bytes += frame.len() as u64;
            }
            let xdp = way.pass == XDP_PASS;
            match answer {
                Some(len) => {
                    let back = match way.direction {
                        Direction::Upload if xdp => XDP_TX,
                        Direction::Upload => TC_ACT_REDIRECT,
                        Direction::Download => way.pass,
                    };
                    ensure!(
                        outcome.verdict == back,
                        "{place}: verdict {}",
                        outcome.verdict
                    );
                    ensure!(
                        outcome.output == buffer[..len],
                        "{place}:\n{:02x?} in the kernel,\n{:02x?} on the host",
                        outcome.output,
                        &buffer[..len]
                    );
                    if way.direction == Direction::Download {
                        replaced.packets += 1;
                        replaced.bytes += len as u64;
                    } else if xdp {
                        answered.packets += 1;
                        answered.bytes += len as u64;
                    }
                }
                None => {
                    let drop = if xdp { XDP_DROP } else { TC_ACT_SHOT };
                    ensure!(
                        outcome.verdict == drop,
                        "{place}: verdict {}",
                        outcome.verdict
                    );
                }
            }
        }
        let interface = programs.interface()?;
        ensure!(
            interface.answered == answered,
            "{}: {:?} answered of {answered:?}",
            way.program,
            interface.answered
        );
        ensure!(interface.answers_failed == 0, "{}", way.program);
        ensure!(
            interface.refused == refused,
            "{}: {:?} refused of {refused:?}",
            way.program,
            interface.refused
        );
        ensure!(
            interface.replaced == replaced,
            "{}: {:?} replaced of {replaced:?}",
            way.program,
            interface.replaced
        );
        ensure!((answered.packets > 0) == (way.pass == XDP_PASS));
        ensure!((replaced.packets > 0) == (way.direction == Direction::Download));
        ensure!((refused.packets > 0) == (way.direction == Direction::Download));
        let sum = booked(&programs, way.direction, SMALL.devices)?;
        ensure!(sum == all, "{}: {sum:?} booked of {all:?}", way.program);
    }
    Ok(())
}

/// Policies by prefix, device and port, with longer prefixes inside shorter ones.
struct Household {
    chains: Vec<(IpNet, Chain)>,
    rules: Vec<Rule>,
    devices: Vec<(Mac, u64)>,
}

impl Household {
    fn new() -> Result<Self> {
        let ports = |first, last, protocol| PortRange {
            first,
            last,
            protocol,
        };
        let rule = |policy, verdict: Verdict, ranges: &[PortRange]| {
            let mut rule = Rule {
                policy,
                verdict: verdict as u8,
                port_ranges: ranges.len() as u32,
                ..Rule::default()
            };
            rule.ports[..ranges.len()].copy_from_slice(ranges);
            rule
        };
        let chain = |rules: &[u8]| {
            let mut chain = Chain {
                len: rules.len() as u64,
                ..Chain::default()
            };
            for (place, number) in rules.iter().enumerate() {
                chain.rules[place] = *number;
                chain.set |= 1 << number;
            }
            chain
        };
        Ok(Self {
            rules: vec![
                rule(11, Verdict::Reject, &[]),
                rule(12, Verdict::Drop, &[ports(443, 443, 17)]),
                rule(
                    13,
                    Verdict::Pass,
                    &[ports(1, 1024, 6), ports(8000, 8100, 0)],
                ),
                rule(14, Verdict::Reject, &[ports(0, 65_535, 0)]),
            ],
            chains: vec![
                ("0.0.0.0/0".parse()?, chain(&[3])),
                ("203.0.113.0/24".parse()?, chain(&[1, 2])),
                ("203.0.113.128/25".parse()?, chain(&[0, 1, 2])),
                ("203.0.113.5/32".parse()?, chain(&[2, 1, 3])),
                ("2001:db8::/32".parse()?, chain(&[1, 3])),
                ("2001:db8:0:5::/64".parse()?, chain(&[0])),
            ],
            devices: vec![
                (Mac::new([2, 0, 0, 0, 0, 1]), 0b0001),
                (Mac::new([2, 0, 0, 0, 0, 2]), 0b0110),
                (Mac::new([2, 0, 0, 0, 0, 3]), 0b1111),
                (Mac::new([2, 0, 0, 0, 0, 4]), 0b0000),
            ],
        })
    }

    /// Puts it in force on the side of the generation.
    fn enforce(&self, programs: &mut Programs, generation: u32) -> Result<()> {
        let side = generation & 1;
        for (number, rule) in self.rules.iter().enumerate() {
            programs.set("RULES", side * MAX_RULES as u32 + number as u32, *rule)?;
        }
        for (number, (prefix, chain)) in self.chains.iter().enumerate() {
            // The first chain is that of every address.
            let number = number as u32 + 1;
            programs.set("CHAINS", side * MAX_CHAINS as u32 + number, *chain)?;
            let bits = PREFIX_SIDE_BITS + u32::from(prefix.prefix_len());
            let side = side.to_be_bytes();
            match prefix.addr() {
                IpAddr::V4(address) => {
                    let address = address.octets();
                    let key = lpm_trie::Key::new(bits, Raw(PrefixV4 { side, address }));
                    LpmTrie::<_, Raw<PrefixV4>, u32>::try_from(programs.map_mut("PREFIXES_V4")?)?
                        .insert(&key, number, 0)?;
                }
                IpAddr::V6(address) => {
                    let address = address.octets();
                    let key = lpm_trie::Key::new(bits, Raw(PrefixV6 { side, address }));
                    LpmTrie::<_, Raw<PrefixV6>, u32>::try_from(programs.map_mut("PREFIXES_V6")?)?
                        .insert(&key, number, 0)?;
                }
            }
        }
        let mut devices: maps::HashMap<_, Raw<DeviceRulesKey>, u64> =
            maps::HashMap::try_from(programs.map_mut("DEVICE_RULES")?)?;
        for (mac, rules) in &self.devices {
            let key = DeviceRulesKey {
                mac: mac.octets(),
                side: side as u16,
            };
            devices.insert(Raw(key), rules, 0)?;
        }
        let mut settings = programs.settings()?;
        settings.default_rules[side as usize] = 0b1010;
        settings.generation = generation;
        programs.set("SETTINGS", 0, settings)
    }
}

impl Rules for Household {
    fn for_device(&self, mac: Mac) -> u64 {
        self.devices
            .iter()
            .find(|(known, _)| *known == mac)
            .map_or(0b1010, |(_, rules)| *rules)
    }

    fn for_remote(&self, family: Family, remote: Address) -> Option<&Chain> {
        let octets = remote.octets();
        let address = match family {
            Family::V4 => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
            _ => IpAddr::from(octets),
        };
        self.chains
            .iter()
            .filter(|(prefix, _)| prefix.contains(&address))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map(|(_, chain)| chain)
    }

    fn chain(&self, number: u32) -> Option<&Chain> {
        self.chains.get(number as usize).map(|(_, chain)| chain)
    }

    fn rule(&self, number: u8) -> Option<&Rule> {
        self.rules.get(usize::from(number))
    }
}

/// Devices, addresses and ports at and around every bound of [`Household`]; then the same flows
/// again without a policy, and again with it: a new generation decides anew.
#[test]
fn the_kernel_decides_as_the_library_does() -> Result<()> {
    use frames::build::{ACK, GATEWAY, ethernet_between};

    programs::enter_own_namespace()?;
    let tables = Tables {
        flows: 16_384,
        devices: 64,
        ..Tables::default()
    };
    let mut programs = Programs::load(tables)?;
    let household = Household::new()?;
    let mut frames = Vec::new();
    for device in 1..=5 {
        let link = || ethernet_between(GATEWAY, [2, 0, 0, 0, 0, device]);
        for port in [
            0, 1, 53, 67, 443, 444, 1024, 1025, 7999, 8000, 8100, 8101, 65_535,
        ] {
            for remote in [
                [203, 0, 113, 4],
                [203, 0, 113, 5],
                [203, 0, 113, 127],
                [203, 0, 113, 128],
                [203, 0, 114, 0],
                [224, 0, 0, 251],
                [169, 254, 1, 1],
            ] {
                for frame in [link().ipv4().tcp(ACK), link().ipv4().udp()] {
                    let port = u16::to_be_bytes(port);
                    frames.push(frame.patch(30, &remote).patch(36, &port).build());
                }
            }
            for remote in [
                0x2001_0db8_0000_0005_u64,
                0x2001_0db8_0000_0004,
                0x2001_0db9_0000_0005,
                0xfe80 << 48,
            ] {
                for frame in [link().ipv6().tcp(ACK), link().ipv6().udp()] {
                    let port = u16::to_be_bytes(port);
                    frames.push(
                        frame
                            .patch(38, &remote.to_be_bytes())
                            .patch(56, &port)
                            .build(),
                    );
                }
            }
        }
        frames.push(
            link()
                .ipv4()
                .other(1, 8)
                .patch(30, &[203, 0, 113, 128])
                .build(),
        );
        frames.push(link().other(0x0806, 28).build());
    }
    let mut verdicts = [0; 3];
    for generation in [2, 3, 4, 5] {
        let in_force = generation % 2 == 1;
        if in_force {
            household.enforce(&mut programs, generation)?;
        } else {
            let mut settings = programs.settings()?;
            settings.generation = generation;
            programs.set("SETTINGS", 0, settings)?;
        }
        let mut oracle = Oracle::default();
        let before = programs.losses()?.samples[Kind::Judged as usize];
        let mut matched = 0;
        for frame in &frames {
            let Booked::Flow(key) = oracle.book(frame, Direction::Upload) else {
                continue;
            };
            let decision = match in_force {
                true => decide(&household, &key),
                false => Decision::PASS,
            };
            // Twice: what was decided is kept.
            for _ in 0..2 {
                programs.forget_answers()?;
                let outcome = programs.run_xdp("upload", frame, 1)?;
                let expect = match decision.verdict {
                    Verdict::Pass | Verdict::Allow => XDP_PASS,
                    Verdict::Reject
                        if library_answer(frame, To::Sender, &mut [0; ANSWER_CAPACITY])
                            .is_some() =>
                    {
                        XDP_TX
                    }
                    Verdict::Reject | Verdict::Drop => XDP_DROP,
                };
                ensure!(
                    outcome.verdict == expect,
                    "generation {generation}, {key:?}: verdict {}, {decision:?} on the host",
                    outcome.verdict
                );
            }
            verdicts[decision.verdict as usize] += 1;
            matched += u64::from(decision.policy != 0);
        }
        // One sample for each flow that a policy matched, at its first packet.
        let samples = programs.losses()?.samples[Kind::Judged as usize] - before;
        ensure!(
            samples == matched,
            "{samples} samples, {matched} flows matched"
        );
    }
    ensure!(verdicts.iter().all(|count| *count > 20), "{verdicts:?}");
    Ok(())
}

/// An answer of TC passes the egress program on its way out: it is let go, and booked as ours.
#[test]
fn an_answer_of_tc_is_booked_on_its_way_out() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(SMALL)?;
    Everything::new(Verdict::Reject).enforce(&mut programs, 3)?;
    let mut answered = Tally::default();
    for (name, frame, _) in table() {
        if !fits_tc(&frame) {
            continue;
        }
        programs.forget_answers()?;
        let (outcome, context) =
            programs.run_tc_in("upload_tc", &frame, SocketBufferContext::default())?;
        if outcome.verdict != TC_ACT_REDIRECT {
            continue;
        }
        let answer = outcome.output;
        let (outcome, _) = programs.run_tc_in("download", &answer, context.mark_alone())?;
        ensure!(
            outcome.verdict == TC_ACT_UNSPEC,
            "{name}: verdict {}",
            outcome.verdict
        );
        ensure!(outcome.output == answer, "{name}: the answer was changed");
        answered.packets += 1;
        answered.bytes += answer.len() as u64;
    }
    ensure!(answered.packets > 0);
    let interface = programs.interface()?;
    ensure!(
        interface.answered == answered,
        "{:?} of {answered:?}",
        interface.answered
    );
    let booked = booked(&programs, Direction::Download, SMALL.devices)?;
    ensure!(
        booked == Tally::default(),
        "an answer was booked as a download: {booked:?}"
    );
    Ok(())
}

/// A flood of flows, by one device or by made-up ones, takes no more than its share: a device that is
/// settled still opens flows, and every packet is booked.
#[test]
fn a_flood_leaves_room_to_the_others() -> Result<()> {
    use frames::build::{ACK, GATEWAY, ethernet_between};

    const TABLES: Tables = Tables {
        flows: 256,
        devices: 2_048,
        assemblies: 64,
    };
    const SLOTS: u64 = TABLES.flows as u64;

    let tcp = |mac: [u8; 6], port: u16| {
        let frame = ethernet_between(GATEWAY, mac).ipv4().tcp(ACK);
        frame.patch(34, &port.to_be_bytes()).build()
    };
    let resident = [2, 0, 0, 0, 0, 1];
    programs::enter_own_namespace()?;
    for made_up in [false, true] {
        let mut programs = Programs::load(TABLES)?;
        let mut all = Tally::default();
        let mut send = |programs: &Programs, mac, port| -> Result<()> {
            let frame = tcp(mac, port);
            all.packets += 1;
            all.bytes += frame.len() as u64;
            let outcome = programs.run_xdp("upload", &frame, 1)?;
            ensure!(outcome.verdict == XDP_PASS, "verdict {}", outcome.verdict);
            Ok(())
        };
        send(&programs, resident, 1)?;
        let mut record = programs.device(FIRST_DEVICE)?;
        record.settled = 1;
        programs.set("DEVICES", FIRST_DEVICE, record)?;

        for number in 0..4 * TABLES.flows as u16 {
            let [high, low] = number.to_be_bytes();
            let mac = if made_up {
                [6, 0, 0, 0, high, low]
            } else {
                [6, 0, 0, 0, 0, 0]
            };
            send(&programs, mac, number)?;
        }
        let flooded = programs.losses()?.live_flows;
        let held = if made_up {
            // Those that are not settled together, and what the resident opened before it was: three quarters.
            SLOTS - SLOTS / 4
        } else {
            // One device as many as are free, and the resident's one.
            SLOTS / 2 + 1
        };
        ensure!(
            flooded == held,
            "the flood holds {flooded} flows of {SLOTS}, not {held}"
        );
        for port in 2..34 {
            send(&programs, resident, port)?;
        }
        let opened = programs
            .flows()?
            .iter()
            .filter(|flow| flow.key.mac() == Mac::new(resident))
            .count();
        ensure!(opened == 33, "the resident has {opened} flows, of 33");
        let booked = booked(&programs, Direction::Upload, TABLES.devices)?;
        ensure!(booked == all, "{booked:?} booked of {all:?}");
    }
    Ok(())
}

/// A million frames that nobody would send: all pass, and all are in the books, by reason.
#[test]
fn a_million_bad_frames_are_booked() -> Result<()> {
    const FRAMES: usize = 1_000_000;

    programs::enter_own_namespace()?;
    let programs = Programs::load(Tables {
        flows: 1_024,
        devices: 64,
        ..Tables::default()
    })?;
    let seeds = seeds();
    let mut random = Random::new(0x5eed_0003);
    let mut frame = Vec::new();
    let mut oracle = Oracle::default();
    let mut skipped = [Tally::default(); Skip::COUNT];
    let mut all = Tally::default();
    let mut output = vec![0; 4096];
    while all.packets < FRAMES as u64 {
        next_frame(&mut random, &seeds, &mut frame);
        if frame.len() < SHORTEST {
            continue;
        }
        let program = match all.packets % 2 {
            0 => "upload",
            _ => "upload_frags",
        };
        let verdict = programs.run_xdp_into(program, &frame, &mut output)?;
        ensure!(verdict == XDP_PASS, "{frame:02x?} gave {verdict}");
        all.packets += 1;
        all.bytes += frame.len() as u64;
        if let Booked::Skipped(reason) = oracle.book(&frame, Direction::Upload) {
            skipped[reason as usize].packets += 1;
            skipped[reason as usize].bytes += frame.len() as u64;
        }
    }
    let sum = booked(&programs, Direction::Upload, 64)?;
    ensure!(sum == all, "{sum:?} booked of {all:?}");
    let interface = programs.interface()?;
    for reason in Skip::ALL {
        let (kernel, host) = (
            interface.skipped[Direction::Upload as usize][reason as usize],
            skipped[reason as usize],
        );
        ensure!(
            kernel == host,
            "{}: {kernel:?} in the kernel, {host:?} on the host",
            reason.name()
        );
    }
    // The tables were too small for it: the overflow is part of what is proven.
    let losses = programs.losses()?;
    ensure!(interface.overflow[Direction::Upload as usize].packets > 0);
    ensure!(losses.device_table_full > 0 && losses.flow_share_used > 0);
    ensure!(losses.interface_unknown == 0);
    Ok(())
}
