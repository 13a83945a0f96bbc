//! How long the kernel programs take for a packet, by `BPF_PROG_TEST_RUN`.
//!
//! Every figure is the median over the rounds of a program's time less the floor's in the same
//! round; the floor is a program that does nothing, reached the same way. All that is compared runs
//! in one round, one after the other, so that what else the machine does hits all alike.
//!
//! A known flow is one that has told its name: after the first round all flows are settled as the
//! daemon does it. Packets whose payload is copied for it run in batches, between which the ring is
//! emptied: a full ring would cost less. Of questions that are refused it is given few, as in life.
//!
//! `--json FILE` also writes the figures to a file. `--only TEXT` measures no more than the figures whose
//! names have the text in them: it is for whoever changes the programs.

mod arguments;
#[path = "../tests/programs/mod.rs"]
#[allow(dead_code, reason = "ring 2 uses the other half")]
mod programs;
mod sandbox;

use std::{collections::HashMap, env, fs, path::Path, process};

use anyhow::{Context as _, Result, ensure};
use arguments::options;
use aya::maps::{LpmTrie, ProgramArray, RingBuf, lpm_trie};
use programs::{
    Programs, Raw, Tables,
    household::{frame, hello_with, household},
    initial::{Client, crypto},
};
use sandbox::Sandbox;
use sensor::{
    catalog::{Catalog, lists::MOST_NAMES},
    policy::{Action, Policy, PolicyLists, compile},
};
use sensor_ebpf::{
    flow::FlowRecord,
    policy::{Chain, MAX_CHAINS, MAX_RULES, PREFIX_SIDE_BITS, PrefixV4, PrefixV6, Rule, Verdict},
    sample::{Kind, Watch, is_service},
};
use serde_json::json;

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Where TCP's flags lie in a frame with IPv4, and that of a connection's first segment.
const TCP_FLAGS: usize = 47;
const SYN: u8 = 2;

/// Packets of one sample.
const REPEATS: u32 = 1_000_000;
/// Packets of one sample of what is compared more closely.
const MORE_REPEATS: u32 = 5_000_000;
/// Packets of one sample where the payload is copied.
const COPIES: u32 = 20_000;
/// How many of them three quarters of the ring hold.
const BATCH: u32 = 500;
/// Samples of one figure.
const ROUNDS: usize = 5;

/// The figures of hellos in two segments, and how many of them are one sample.
const ASSEMBLED: &str = "a full segment assembled";
const CONNECTIONS: u16 = 1_000;

/// The figures of Initials, and how many of them one device may say at once.
const INITIAL: &str = "an initial";
const AT_ONCE: u32 = 60;

/// Bytes of the header of a record before a hello.
const RECORD: usize = 5;

/// Bytes of Ethernet, IPv4 and TCP before a payload, and where the port and the sequence number lie.
const HEADERS: usize = 54;
const PORT: usize = 34;
const SEQUENCE: usize = 38;

/// A name that is on no list.
const GOOD_NAME: &str = "www.google.com";

/// All filters of xdp-tools' `xdp-filter` in one program, which passes what nothing matches.
const YARDSTICK: &str = "/usr/lib/x86_64-linux-gnu/bpf/xdpfilt_alw_all.o";
const YARDSTICK_PROGRAM: &str = "xdpfilt_alw_all";

const PREFIXES: u32 = 100_000;
/// Beside names.
const FEWER_PREFIXES: u32 = 10_000;
const NAMES: u64 = 200_000;
const FLOWS: [u64; 3] = [1, 10_000, 60_000];
/// Flows that a device can choose by seven bits of an address and of a port.
const CHOSEN: u64 = 1 << 14;

/// A figure in the making.
struct Case<'a> {
    name: String,
    /// The loaded programs; `None` for the drivers' own floor.
    programs: Option<&'a Programs>,
    program: &'static str,
    /// The driver that makes so many flows of the frame, where there is one.
    driver: Option<(&'static str, u64)>,
    frame: &'a [u8],
    verdict: u32,
    /// Packets of one sample, and how many of them run at once.
    packets: u32,
    batch: u32,
    /// The place of the floor.
    floor: Option<usize>,
    /// Nanoseconds for a packet, floor included.
    samples: Vec<f64>,
}

fn main() -> Result<()> {
    let [file, only] = options(["--json", "--only"])?;
    let only = only.map(|text| text.to_string_lossy().into_owned());
    let sandbox = Sandbox::enter()?;
    let mut drivers = Programs::load_drivers()?;
    let yardstick = Programs::load_foreign(Path::new(YARDSTICK), sandbox.bpffs())
        .context("xdp-filter is the yardstick; `cargo xtask setup` installs it")?;
    let (ipv4, ipv6) = (tcp_ipv4(), tcp_ipv6());
    let families: [(&str, &'static str, &[u8]); 2] =
        [("ipv4", "visit_ipv4", &ipv4), ("ipv6", "visit_ipv6", &ipv6)];

    let known = several(|| Programs::load(Tables::default()))?;
    let known_filtering = filtering(Tables::default())?;
    let many = load_for(&families)?;
    let small = Tables {
        flows: 16,
        devices: 1_024,
        ..Tables::default()
    };
    let (full, full_filtering) = (Programs::load(small)?, filtering(small)?);
    let [honest, chosen] = [settling_all()?, settling_all()?];
    let rejecting = rejecting()?;
    // `observe` is a policy that lets pass.
    let (observing, allowing) = (deciding(Verdict::Pass)?, deciding(Verdict::Allow)?);
    let tagged = [tagged(&ipv4), tagged(&ipv6)];
    let mut syn = ipv4.clone();
    syn[TCP_FLAGS] = SYN;
    let naming = several(naming)?;
    let (unsettled, copying) = (
        Programs::load(Tables::default())?,
        Programs::load(Tables::default())?,
    );
    let (hello, question) = (hello_ipv4(), question_ipv4(GOOD_NAME));
    let (listed, unlisted) = (
        question_ipv4(&listed_name(NAMES / 2)),
        question_ipv4(&listed_name(NAMES)),
    );

    let mut cases = Cases::default();
    for (number, (family, driver, frame)) in families.into_iter().enumerate() {
        let floor = cases.add(&format!("floor {family}"), None, "noop", None, frame, None);
        let alone = [
            ("watched flow, nothing to copy", &unsettled, "upload"),
            ("known flow, 100000 prefixes", &known_filtering, "upload"),
            ("known flow, program for frags", &known[0], "upload_frags"),
            ("xdp-filter", &yardstick, YARDSTICK_PROGRAM),
        ];
        let decided = [
            ("observed flow", &observing, frame),
            ("allowed flow", &allowing, frame),
            ("tagged flow", &known[0], &tagged[number]),
        ];
        for (name, programs, frame) in decided {
            let name = format!("{name}, {family}");
            cases.add(&name, Some(programs), "upload", None, frame, Some(floor));
        }
        let compared = known.iter().zip(&naming).flat_map(|(known, naming)| {
            [
                ("known flow", known, "upload"),
                ("known flow, 200000 names", naming, "upload"),
            ]
        });
        for (name, programs, program) in compared.chain(alone) {
            let name = format!("{name}, {family}");
            cases.add(&name, Some(programs), program, None, frame, Some(floor));
        }
        for case in &mut cases.0[floor..] {
            (case.packets, case.batch) = (MORE_REPEATS, MORE_REPEATS);
        }
        for (flows, programs) in FLOWS.into_iter().zip(&many[number]) {
            let by = Some((driver, flows));
            let floor = cases.add(
                &format!("floor {flows} {family}"),
                None,
                "noop",
                by,
                frame,
                None,
            );
            for (name, programs, program) in [
                ("sensor", programs, "upload"),
                ("xdp-filter", &yardstick, YARDSTICK_PROGRAM),
            ] {
                let name = format!("{name}, {flows} flows, {family}");
                cases.add(&name, Some(programs), program, by, frame, Some(floor));
            }
            if flows == FLOWS[2] {
                for (name, programs) in [
                    ("overflow", &full),
                    ("overflow, 100000 prefixes", &full_filtering),
                ] {
                    let name = format!("{name}, {family}");
                    cases.add(&name, Some(programs), "upload", by, frame, Some(floor));
                }
            }
        }
    }
    // Flows that one device chose, beside as many that nobody did.
    for (name, driver, programs) in [
        ("honest", "visit_ipv4", &honest),
        ("chosen", "visit_chosen", &chosen),
    ] {
        let by = Some((driver, CHOSEN));
        let floor = cases.add(
            &format!("floor {name} flows"),
            None,
            "noop",
            by,
            &ipv4,
            None,
        );
        let name = format!("{name} flows, {CHOSEN}, ipv4");
        cases.add(&name, Some(programs), "upload", by, &ipv4, Some(floor));
    }
    // The answer overwrites the frame: a driver puts it back. Each SYN is answered; of other segments one
    // in a while.
    let by = Some(("replay", 1));
    let floor = cases.add("floor replay ipv4", None, "noop", by, &syn, None);
    let rejects = cases.add(
        "reject tcp, ipv4",
        Some(&rejecting),
        "upload",
        by,
        &syn,
        Some(floor),
    );
    cases.0[rejects].verdict = XDP_TX;
    let by = Some(("replay_devices", 1));
    for (name, frame, programs, verdict) in [
        ("question, no names", &unlisted, &known[0], XDP_PASS),
        ("question judged, passed", &unlisted, &naming[0], XDP_PASS),
        ("question judged, answered", &listed, &naming[0], XDP_TX),
    ] {
        let floor = format!("floor replay, {name}");
        let floor = cases.add(&floor, None, "noop", by, frame, None);
        let judged = cases.add(
            &format!("{name}, ipv4"),
            Some(programs),
            "upload",
            by,
            frame,
            Some(floor),
        );
        cases.0[judged].verdict = verdict;
        // Those that are answered are fewer than devices are answered in a second.
        let batch = if verdict == XDP_PASS { BATCH } else { COPIES };
        for case in [floor, judged] {
            (cases.0[case].packets, cases.0[case].batch) = (COPIES, batch);
        }
    }
    for (name, frame) in [
        ("1,200 octets copied", &hello),
        ("DNS question copied", &question),
    ] {
        let floor = format!("floor {name}");
        let floor = cases.add(&floor, None, "noop", None, frame, None);
        let name = format!("{name}, ipv4");
        let copies = cases.add(&name, Some(&copying), "upload", None, frame, Some(floor));
        for case in [floor, copies] {
            (cases.0[case].packets, cases.0[case].batch) = (COPIES, BATCH);
        }
    }
    let settled = || {
        let many = many.iter().flatten();
        many.chain(&known)
            .chain([&known_filtering, &observing, &allowing, &honest, &chosen])
            .chain(&naming)
    };

    if only.as_deref() == Some(INITIAL) {
        cases.add_initials(&drivers)?;
        print(&cases.figures());
        return Ok(());
    }
    if only.as_deref() == Some(ASSEMBLED) {
        cases.add_assembled(&drivers, &naming[0])?;
        print(&cases.figures());
        return Ok(());
    }
    if let Some(text) = &only {
        return cases.only(text, &mut drivers, || settled().try_for_each(settle));
    }

    // The first round fills the tables and the caches.
    for round in 0..=ROUNDS {
        if round == 1 {
            settled().try_for_each(settle)?;
        }
        for case in &mut cases.0 {
            let sample = case.sample(&mut drivers)?;
            if round > 0 {
                case.samples.push(sample);
            }
        }
    }
    for (programs, expect) in many.iter().flat_map(|three| three.iter().zip(FLOWS)) {
        // Of a table that is nearly full, few find both sets full that their hash leads to; they are counted.
        let losses = programs.losses()?;
        let flows = losses.live_flows;
        ensure!(
            flows == expect || losses.flow_index_full > 0 && flows > expect - expect / 200,
            "{flows} flows in the table, not {expect}"
        );
    }
    for programs in [&honest, &chosen] {
        let losses = programs.losses()?;
        ensure!(
            losses.live_flows == CHOSEN && losses.flow_index_full == 0,
            "of {CHOSEN} flows {} have a place",
            losses.live_flows
        );
    }
    for programs in settled() {
        let watched = programs
            .flows()?
            .iter()
            .filter(|flow| is_watched(flow))
            .count();
        ensure!(watched == 0, "{watched} flows are still watched");
    }
    for family in &families {
        cases.add_opening(&mut drivers, *family)?;
    }
    cases.add_assembled(&drivers, &naming[0])?;
    cases.add_initials(&drivers)?;
    let losses = copying.losses()?;
    for kind in [Kind::Tls, Kind::Dns] {
        let copied = losses.samples[kind as usize];
        ensure!(
            copied == u64::from(COPIES) * (1 + ROUNDS as u64),
            "{copied} payloads of {} were copied",
            kind.name()
        );
    }
    for programs in [&full, &full_filtering] {
        let overflow = programs.interface()?.overflow[0].packets;
        ensure!(
            overflow > u64::from(REPEATS) * ROUNDS as u64,
            "{overflow} packets overflowed"
        );
    }

    let figures = cases.figures();
    print(&figures);
    if let Some(file) = file {
        let figures: serde_json::Map<_, _> = figures
            .iter()
            .map(|figure| {
                let value = json!({
                    "median_ns": figure.median,
                    "lowest_ns": figure.lowest,
                    "highest_ns": figure.highest,
                    "with_floor_ns": figure.with_floor,
                });
                (figure.name.clone(), value)
            })
            .collect();
        let whole = json!({ "repeats": REPEATS, "rounds": ROUNDS, "figures": figures });
        fs::write(&file, serde_json::to_vec_pretty(&whole)?)
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

#[derive(Default)]
struct Cases<'a>(Vec<Case<'a>>);

impl<'a> Cases<'a> {
    fn add(
        &mut self,
        name: &str,
        programs: Option<&'a Programs>,
        program: &'static str,
        driver: Option<(&'static str, u64)>,
        frame: &'a [u8],
        floor: Option<usize>,
    ) -> usize {
        self.0.push(Case {
            name: name.to_owned(),
            programs,
            program,
            driver,
            frame,
            verdict: XDP_PASS,
            packets: REPEATS,
            batch: REPEATS,
            floor,
            samples: Vec::new(),
        });
        self.0.len() - 1
    }
}

impl Cases<'_> {
    /// Measures the cases whose names have a text in them, and their floors, and prints the figures.
    fn only(
        &mut self,
        text: &str,
        drivers: &mut Programs,
        settle: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let named = |case: &Case<'_>| case.name.contains(text);
        let mut wanted: Vec<_> = self.0.iter().map(named).collect();
        for number in 0..wanted.len() {
            if let (true, Some(floor)) = (wanted[number], self.0[number].floor) {
                wanted[floor] = true;
            }
        }
        for round in 0..=ROUNDS {
            let cases = self.0.iter_mut().zip(&wanted);
            for (case, _) in cases.filter(|(_, wanted)| **wanted) {
                let sample = case.sample(drivers)?;
                if round > 0 {
                    case.samples.push(sample);
                }
            }
            if round == 0 {
                settle()?;
            }
        }
        print(&self.figures());
        Ok(())
    }

    /// The figures of all cases that were measured, by name.
    fn figures(&self) -> Vec<Figure> {
        let mut by_name: Vec<Vec<&Case<'_>>> = Vec::new();
        for case in self.0.iter().filter(|case| !case.samples.is_empty()) {
            match by_name.iter_mut().find(|of| of[0].name == case.name) {
                Some(of_name) => of_name.push(case),
                None => by_name.push(vec![case]),
            }
        }
        let figure = |of_name: &Vec<_>| Case::figure(of_name, &self.0);
        by_name.iter().map(figure).collect()
    }
}

fn print(figures: &[Figure]) {
    println!(
        "{:44} {:>8} {:>8} {:>8}",
        "ns a packet less the floor", "median", "lowest", "highest"
    );
    for figure in figures {
        println!(
            "{:44} {:8.1} {:8.1} {:8.1}",
            figure.name, figure.median, figure.lowest, figure.highest
        );
    }
}

/// How many flows are opened to learn what one costs, drawn from so many that few come twice.
const OPENED: u32 = 20_000;
const DRAWN: u64 = 1 << 20;

impl<'a> Cases<'a> {
    /// Measures full segments of hellos that are put together: the first ones, and those that complete a name on
    /// no list. Each is a run of its own, as cold as the runs of the floor.
    fn add_assembled(&mut self, drivers: &Programs, naming: &'a Programs) -> Result<()> {
        let (first, second) = segments_ipv4();
        let floor = self.add(&format!("floor {ASSEMBLED}"), None, "noop", None, &[], None);
        let [begins, completes] = ["begins", "completes"].map(|what| {
            let name = format!("{ASSEMBLED}, {what} a hello, ipv4");
            self.add(&name, None, "noop", None, &[], Some(floor))
        });
        for round in 0..ROUNDS as u16 {
            let mut samples: [Vec<f64>; 3] = Default::default();
            for connection in 0..CONNECTIONS {
                let port = 1_024 + round * CONNECTIONS + connection;
                let from_port = |frame: &[u8]| {
                    let mut frame = frame.to_vec();
                    frame[PORT..PORT + 2].copy_from_slice(&port.to_be_bytes());
                    frame
                };
                let mut syn = from_port(&first[..HEADERS]);
                syn[16..18].copy_from_slice(&40_u16.to_be_bytes());
                syn[TCP_FLAGS] = SYN;
                syn[SEQUENCE..SEQUENCE + 4].copy_from_slice(&0_u32.to_be_bytes());
                naming.run_xdp("upload", &syn, 1)?;
                let [first, second] = [from_port(&first), from_port(&second)];
                for (place, programs, program, frame) in [
                    (0, drivers, "noop", &first),
                    (1, naming, "upload", &first),
                    (2, naming, "upload", &second),
                ] {
                    let outcome = programs.run_xdp(program, frame, 1)?;
                    ensure!(outcome.verdict == XDP_PASS, "{}", outcome.verdict);
                    samples[place].push(outcome.duration.as_nanos() as f64);
                }
                if connection % 100 == 0 {
                    // A full ring would cost less.
                    let mut ring = RingBuf::try_from(naming.map("SAMPLES")?)?;
                    while ring.next().is_some() {}
                }
            }
            for (case, mut samples) in [floor, begins, completes].into_iter().zip(samples) {
                samples.sort_by(f64::total_cmp);
                self.0[case].samples.push(samples[samples.len() / 2]);
            }
        }
        let named = naming
            .flows()?
            .into_iter()
            .filter(|flow| flow.key.local_port() >= 1_024 && flow.judgement().named);
        let expected = ROUNDS * usize::from(CONNECTIONS);
        let named = named.count();
        ensure!(
            named >= expected,
            "{named} of {expected} hellos were judged"
        );
        Ok(())
    }

    /// Measures Initials of 1,200 bytes that are opened and judged: the same one again and again, and those of hellos in
    /// two, of which the second finds the keys of the first. The latter are runs of their own, as those of segments.
    fn add_initials(&mut self, drivers: &Programs) -> Result<()> {
        let name = |what: &str| format!("{INITIAL} of 1,200 bytes, {what}");
        let floor = self.add(&name("floor"), None, "noop", None, &[], None);
        let left_alone = self.add(
            &name("left to the daemon"),
            None,
            "noop",
            None,
            &[],
            Some(floor),
        );
        let hot = self.add(&name("judged"), None, "noop", None, &[], Some(floor));
        let once = self.add(&name("floor of one run"), None, "noop", None, &[], None);
        let [begins, completes] = ["begins", "completes"].map(|what| {
            self.add(
                &name(&format!("{what} a hello")),
                None,
                "noop",
                None,
                &[],
                Some(once),
            )
        });
        let mut programs = household(Tables::default())?;
        let whole = hello_with(GOOD_NAME, 7, None)[RECORD..].to_vec();
        let long = hello_with(GOOD_NAME, 7, Some(1_700))[RECORD..].to_vec();
        let (half, rest) = long.split_at(1_000);
        let client = Client::new(1);
        let sealed = |client: &Client, port: u16, number: u32, at: usize, bytes: &[u8]| {
            frame(
                false,
                17,
                (port, 443),
                0,
                &client.seal(number, &crypto(at, bytes), 1_200),
            )
        };
        let same = sealed(&client, 1_023, 0, 0, &whole);
        let short = frame(
            false,
            17,
            (1_022, 443),
            0,
            &client.seal(0, &crypto(0, &whole), 1_199),
        );
        for round in 0..ROUNDS as u16 {
            let mut samples: [Vec<f64>; 6] = Default::default();
            for connection in 0..CONNECTIONS / 5 {
                let port = 1_024 + round * CONNECTIONS + connection;
                let client = Client::new(port.into());
                let [first, second] = [(0, 0, half), (1, 1_000, rest)]
                    .map(|(number, at, bytes)| sealed(&client, port, number, at, bytes));
                programs.fill_budgets()?;
                for (place, is_floor, frame, repeat) in [
                    (0, true, &same, AT_ONCE),
                    (1, false, &short, AT_ONCE),
                    (2, false, &same, AT_ONCE),
                    (3, true, &first, 1),
                    (4, false, &first, 1),
                    (5, false, &second, 1),
                ] {
                    let outcome = match is_floor {
                        true => drivers.run_xdp("noop", frame, repeat)?,
                        false => programs.run_xdp("upload", frame, repeat)?,
                    };
                    ensure!(outcome.verdict == XDP_PASS, "{}", outcome.verdict);
                    samples[place].push(outcome.duration.as_nanos() as f64);
                }
                let mut ring = RingBuf::try_from(programs.map("SAMPLES")?)?;
                while ring.next().is_some() {}
            }
            let cases = [floor, left_alone, hot, once, begins, completes];
            for (case, mut samples) in cases.into_iter().zip(samples) {
                samples.sort_by(f64::total_cmp);
                self.0[case].samples.push(samples[samples.len() / 2]);
            }
        }
        let named = programs
            .flows()?
            .into_iter()
            .filter(|flow| flow.judgement().named);
        let (named, expected) = (named.count(), 1 + ROUNDS * usize::from(CONNECTIONS / 5));
        ensure!(
            named == expected,
            "{named} of {expected} hellos were judged"
        );
        Ok(())
    }

    /// Adds what it costs to open a flow in a table that was empty: a table for each round.
    fn add_opening(
        &mut self,
        drivers: &mut Programs,
        (family, driver, frame): (&str, &'static str, &'a [u8]),
    ) -> Result<()> {
        let by = Some((driver, DRAWN));
        let floor = self.add(
            &format!("floor opening {family}"),
            None,
            "noop",
            by,
            frame,
            None,
        );
        let opening = self.add(
            &format!("opening a flow, {family}"),
            None,
            "noop",
            by,
            frame,
            Some(floor),
        );
        for number in [floor, opening] {
            (self.0[number].packets, self.0[number].batch) = (OPENED, OPENED);
        }
        for _ in 0..ROUNDS {
            let sample = self.0[floor].sample(drivers)?;
            self.0[floor].samples.push(sample);
            let programs = Programs::load(Tables::default())?;
            let case = Case {
                programs: Some(&programs),
                program: "upload",
                name: String::new(),
                samples: Vec::new(),
                ..self.0[opening]
            };
            let sample = case.sample(drivers)?;
            let flows = programs.losses()?.live_flows;
            ensure!(
                flows > u64::from(OPENED) * 9 / 10,
                "{flows} flows were opened"
            );
            self.0[opening].samples.push(sample);
        }
        Ok(())
    }
}

/// Nanoseconds for a packet; the floor's own are not less anything.
struct Figure {
    name: String,
    median: f64,
    lowest: f64,
    highest: f64,
    with_floor: f64,
}

impl Case<'_> {
    /// Nanoseconds of CPU for a packet. The clock is the thread's own: the kernel's report of the
    /// run is in whole nanoseconds and counts what preempts it. Of many short runs that report is
    /// the better one, by their median: what the call itself takes is not in it.
    fn sample(&self, drivers: &mut Programs) -> Result<f64> {
        let target = match self.programs {
            Some(programs) => programs.xdp(self.program)?.fd()?.try_clone()?,
            None => drivers.xdp(self.program)?.fd()?.try_clone()?,
        };
        if let Some((_, flows)) = self.driver {
            ProgramArray::try_from(drivers.map_mut("TARGET")?)?.set(0, &target, 0)?;
            drivers.set_words("RANDOM", [0x9e37_79b9_7f4a_7c15, flows])?;
            drivers.set_words("FRAME", words(self.frame))?;
            drivers.set_words("FRAME_LEN", [self.frame.len() as u64])?;
        }
        let (programs, program) = match self.driver {
            Some((driver, _)) => (&*drivers, driver),
            None => (self.programs.unwrap_or(drivers), self.program),
        };
        let expect = if self.programs.is_some() {
            self.verdict
        } else {
            XDP_PASS
        };
        let mut ring = match self.programs {
            Some(programs) if self.batch < self.packets => {
                Some(RingBuf::try_from(programs.map("SAMPLES")?)?)
            }
            _ => None,
        };
        let mut reports = Vec::new();
        let before = cpu_time();
        for _ in 0..self.packets / self.batch {
            let outcome = programs.run_xdp(program, self.frame, self.batch)?;
            reports.push(outcome.duration.as_nanos() as f64);
            ensure!(
                outcome.verdict == expect,
                "{}: verdict {}",
                self.name,
                outcome.verdict
            );
            if let Some(ring) = &mut ring {
                while ring.next().is_some() {}
            }
        }
        let spent = cpu_time() - before;
        Ok(if self.batch < self.packets {
            median(&mut reports)
        } else {
            spent / f64::from(self.packets)
        })
    }

    /// The figure of cases that differ in nothing but where their programs lie.
    fn figure(of_name: &[&Self], cases: &[Self]) -> Figure {
        let mut with_floor = Vec::new();
        let mut less = Vec::new();
        for case in of_name {
            with_floor.extend_from_slice(&case.samples);
            match case.floor {
                Some(floor) => {
                    let both = case.samples.iter().zip(&cases[floor].samples);
                    less.extend(both.map(|(sample, floor)| sample - floor));
                }
                None => less.extend_from_slice(&case.samples),
            }
        }
        Figure {
            name: of_name[0].name.clone(),
            median: median(&mut less),
            lowest: less[0],
            highest: less[less.len() - 1],
            with_floor: median(&mut with_floor),
        }
    }
}

/// Sorts, and gives the one in the middle.
fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn cpu_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// The same loaded several times. Where a program and its tables come to lie is chance, and worth a
/// nanosecond, which is a tenth of what a known flow takes.
fn several(load: impl Fn() -> Result<Programs>) -> Result<Vec<Programs>> {
    const LOADS: usize = 5;

    (0..LOADS).map(|_| load()).collect()
}

/// Tells the programs that nothing more is wanted of any flow, as the daemon does once it knows a
/// flow's name; what services say is always wanted.
fn settle(programs: &Programs) -> Result<()> {
    programs.each_line(|key, line| {
        if !is_service(key) {
            line.watch = Watch::NONE.bits();
        }
    })
}

fn is_watched(flow: &FlowRecord) -> bool {
    !is_service(&flow.key) && flow.watch() != Watch::NONE
}

/// A table for each number of flows, by family.
fn load_for<const N: usize>(
    families: &[(&str, &'static str, &[u8]); N],
) -> Result<Vec<Vec<Programs>>> {
    families
        .iter()
        .map(|_| FLOWS.iter().map(|_| settling_all()).collect())
        .collect()
}

/// Programs that know every device of the drivers: others share three quarters of the flow table.
fn settling_all() -> Result<Programs> {
    let mut programs = Programs::load(Tables::default())?;
    for last in 0..=u8::MAX {
        programs.add_settled([2, 0, 0, 0, 0, last])?;
    }
    Ok(programs)
}

/// A policy for every device with many prefixes of either family, none of which the frames match.
fn filtering(tables: Tables) -> Result<Programs> {
    let mut programs = Programs::load(tables)?;
    let side = enforce(&mut programs, 1, Verdict::Reject)?;
    add_prefixes(&mut programs, side, PREFIXES)?;
    Ok(programs)
}

/// Adds prefixes, which lead to the chain of number 1.
fn add_prefixes(programs: &mut Programs, side: [u8; 4], count: u32) -> Result<()> {
    let mut prefixes: LpmTrie<_, Raw<PrefixV4>, u32> =
        LpmTrie::try_from(programs.map_mut("PREFIXES_V4")?)?;
    for number in 0..count {
        let [_, high, middle, low] = number.to_be_bytes();
        let key = PrefixV4 {
            side,
            address: [100 + high, middle, low, 0],
        };
        prefixes.insert(&lpm_trie::Key::new(PREFIX_SIDE_BITS + 24, Raw(key)), 1, 0)?;
    }
    let mut prefixes: LpmTrie<_, Raw<PrefixV6>, u32> =
        LpmTrie::try_from(programs.map_mut("PREFIXES_V6")?)?;
    for number in 0..count {
        let [_, high, middle, low] = number.to_be_bytes();
        let mut address = [0; 16];
        address[..8].copy_from_slice(&[0x20, 1, 0xd, 0xb9, 0, high, middle, low]);
        let key = PrefixV6 { side, address };
        prefixes.insert(&lpm_trie::Key::new(PREFIX_SIDE_BITS + 64, Raw(key)), 1, 0)?;
    }
    Ok(())
}

/// A policy that refuses every address.
fn rejecting() -> Result<Programs> {
    deciding(Verdict::Reject)
}

/// A policy about every address.
fn deciding(verdict: Verdict) -> Result<Programs> {
    let mut programs = Programs::load(Tables::default())?;
    enforce(&mut programs, 0, verdict)?;
    Ok(programs)
}

/// Policies for every device: one with a list of names, one with prefixes that no frame matches.
fn naming() -> Result<Programs> {
    let file = env::temp_dir().join(format!("sensor-bench-names-{}", process::id()));
    let text: String = (0..NAMES)
        .map(|number| listed_name(number) + "\n")
        .collect();
    fs::write(&file, text)?;
    let policies = [Policy {
        name: "list".to_owned(),
        lists: vec![file.clone()],
        action: Action::Reject,
        ..Policy::default()
    }];
    let lists = PolicyLists::load(&policies, MOST_NAMES, &PolicyLists::default());
    fs::remove_file(&file)?;
    let identities = HashMap::from([("list".to_owned(), 1)]);
    let compiled = compile(&policies, &[], &Catalog::default(), &lists, &identities)?;
    ensure!(compiled.names.count == NAMES, "not all names are compiled");

    let mut programs = Programs::load(Tables::default())?;
    let mut settings = programs.settings()?;
    let side = settings.generation & 1;
    for (number, rule) in (0..).zip(&compiled.rules) {
        programs.set("RULES", side * MAX_RULES as u32 + number, *rule)?;
    }
    for (number, chain) in (0..).zip(&compiled.chains) {
        programs.set("CHAINS", side * MAX_CHAINS as u32 + number, *chain)?;
    }
    programs.set_names(side, &compiled.names.buckets)?;
    add_prefixes(&mut programs, side.to_be_bytes(), FEWER_PREFIXES)?;
    let side = side as usize;
    settings.default_rules[side] = compiled.name_rules;
    settings.name_rules[side] = compiled.name_rules;
    settings.name_secret[side] = compiled.names.secret;
    settings.name_mask[side] = compiled.names.buckets.len() as u32 - 1;
    programs.set("SETTINGS", 0, settings)?;
    Ok(programs)
}

/// A name of the list, by its number; from [`NAMES`] on one that is not on it.
fn listed_name(number: u64) -> String {
    format!("ads{}.site-{number:x}.example", number % 13)
}

/// Puts one rule in force, which refuses what the chain of this number is about. Gives the side as
/// it stands in a prefix.
fn enforce(programs: &mut Programs, chain: u32, verdict: Verdict) -> Result<[u8; 4]> {
    let mut settings = programs.settings()?;
    let side = settings.generation & 1;
    let rule = Rule {
        policy: 1,
        verdict: verdict as u8,
        ..Rule::default()
    };
    let one = Chain {
        set: 1,
        len: 1,
        ..Chain::default()
    };
    programs.set("RULES", side * MAX_RULES as u32, rule)?;
    programs.set("CHAINS", side * MAX_CHAINS as u32 + chain, one)?;
    settings.default_rules[side as usize] = 1;
    programs.set("SETTINGS", 0, settings)?;
    Ok(side.to_be_bytes())
}

/// The first 128 octets of a frame, filled up with zeros, in words.
fn words(frame: &[u8]) -> [u64; 16] {
    let mut octets = [0; 128];
    let len = frame.len().min(octets.len());
    octets[..len].copy_from_slice(&frame[..len]);
    let mut words = [0; 16];
    for (word, octets) in words.iter_mut().zip(octets.as_chunks().0) {
        *word = u64::from_ne_bytes(*octets);
    }
    words
}

/// A TCP segment without payload from a device: 54 octets.
fn tcp_ipv4() -> Vec<u8> {
    let ethernet: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 8, 0];
    let ipv4: [u8; 20] = [
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 168, 1, 2, 10, 0, 0, 0,
    ];
    [&ethernet[..], &ipv4, &TCP].concat()
}

/// A frame behind a tag of VLAN 7 (IEEE 802.1Q).
fn tagged(frame: &[u8]) -> Vec<u8> {
    const ADDRESSES: usize = 12;
    let (addresses, rest) = frame.split_at(ADDRESSES);
    [addresses, &[0x81, 0, 0, 7], rest].concat()
}

/// The same over IPv6: 74 octets.
fn tcp_ipv6() -> Vec<u8> {
    let ethernet: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x86, 0xdd];
    let ipv6: [u8; 40] = [
        0x60, 0, 0, 0, 0, 20, 6, 64, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x20, 1,
        0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    [&ethernet[..], &ipv6, &TCP].concat()
}

/// The start of a TLS handshake record in a SYN (RFC 7413), 1,200 octets: each begins a connection,
/// and the flow is watched anew.
fn hello_ipv4() -> Vec<u8> {
    const SYN: u8 = 2;
    const PAYLOAD: usize = 1_200;
    let mut frame = tcp_ipv4();
    frame[16..18].copy_from_slice(&(40 + PAYLOAD as u16).to_be_bytes());
    frame[14 + 20 + 13] = SYN;
    frame.extend([22, 3, 1, 7, 0x6c, 1, 0, 7, 0x68, 3, 3]);
    frame.resize(54 + PAYLOAD, 0x5a);
    frame
}

/// A hello in two full segments, with the name in the second.
fn segments_ipv4() -> (Vec<u8>, Vec<u8>) {
    const SEGMENT: usize = 1_400;
    let name = GOOD_NAME.as_bytes();
    let list = name.len() as u8 + 3;
    let mut extensions = vec![0, 51, 0x05, 0x78];
    extensions.resize(4 + 0x578, 0x5a);
    extensions.extend([0, 0, 0, list + 2, 0, list, 0, 0, list - 3]);
    extensions.extend(name);
    let padding = 2 * SEGMENT - 9 - 34 - 33 - 6 - 2 - extensions.len() - 4;
    extensions.extend([0, 21]);
    extensions.extend((padding as u16).to_be_bytes());
    extensions.resize(extensions.len() + padding, 0);
    let mut body = vec![3, 3];
    body.resize(34, 7);
    body.push(32);
    body.resize(67, 8);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut stream = vec![22, 3, 1];
    stream.extend((body.len() as u16 + 4).to_be_bytes());
    stream.extend([1, 0]);
    stream.extend((body.len() as u16).to_be_bytes());
    stream.extend(body);
    let segment = |at: usize, payload: &[u8]| {
        let mut frame = tcp_ipv4();
        frame.truncate(HEADERS);
        frame[16..18].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        frame[SEQUENCE..SEQUENCE + 4].copy_from_slice(&(1 + at as u32).to_be_bytes());
        frame.extend(payload);
        frame
    };
    let (first, second) = stream.split_at(SEGMENT);
    (segment(0, first), segment(SEGMENT, second))
}

/// A question to a resolver, with EDNS (RFC 6891).
fn question_ipv4(name: &str) -> Vec<u8> {
    const UDP: u8 = 17;
    let mut message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01".to_vec();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend(b"\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0");
    let mut frame = tcp_ipv4();
    frame.truncate(34);
    frame[16..18].copy_from_slice(&(28 + message.len() as u16).to_be_bytes());
    frame[23] = UDP;
    frame.extend([0x9c, 0x40, 0, 53, 0, 8 + message.len() as u8, 0, 0]);
    frame.extend(message);
    frame
}

/// From port 32,768 to port 443.
const TCP: [u8; 20] = [
    0x80, 0, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
];
