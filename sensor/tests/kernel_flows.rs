//! The flow table in the kernel: keys that somebody chose, fingerprints that two flows share, sets that are
//! full, what user space rules while programs decide, and whose hits packets are.

#[allow(dead_code, reason = "the other rings' half")]
mod programs;

use std::{
    collections::HashMap,
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap as KernelHashMap, Map};
use programs::{Programs, Raw, Tables};
use sensor_ebpf::{
    books::{Hit, HitKey, Settings, Tally},
    flow::{
        Direction, FlowKey, FlowLine, FlowRecord, Judgement, Ruling, WAYS, Wants, set_of, sets_for,
        slot,
    },
    parse::parse,
    policy::{Chain, Decision, Layer, MAX_CHAINS, MAX_RULES, Rule, Verdict},
    sample::Watch,
};
use xtask::verify::times;

const PHONE: [u8; 6] = [2, 0, 0, 0, 0, 9];
const LOCAL: [u8; 4] = [192, 168, 1, 2];
const REMOTE: [u8; 4] = [203, 0, 113, 1];
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A TCP segment without payload that the phone sends.
fn segment(local: [u8; 4], remote: [u8; 4], ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1];
    frame.extend(PHONE);
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(local);
    frame.extend(remote);
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

fn key_of(frame: &[u8]) -> Result<FlowKey> {
    let parsed = parse(frame).ok().context("a whole frame")?;
    Ok(FlowKey::new(&parsed, Direction::Upload, programs::IFINDEX))
}

/// Says that nothing more is wanted of any flow, as user space does once it knows their names.
fn settle(programs: &Programs) -> Result<()> {
    programs.each_line(|_, line| line.watch = Watch::NONE.bits())
}

/// A policy about everything, in force under a generation of the same side.
fn decide(programs: &mut Programs, generation: u32, policy: u16, verdict: Verdict) -> Result<()> {
    let mut settings = programs.settings()?;
    let side = generation & 1;
    let rule = Rule {
        policy,
        verdict: verdict as u8,
        ..Rule::default()
    };
    programs.set("RULES", side * MAX_RULES as u32, rule)?;
    let chain = Chain {
        set: 1,
        len: 1,
        ..Chain::default()
    };
    programs.set("CHAINS", side * MAX_CHAINS as u32, chain)?;
    settings.default_rules[side as usize] = 1;
    settings.generation = generation;
    programs.set("SETTINGS", 0, settings)
}

#[test]
fn chosen_keys_find_a_place_as_honest_ones_do() -> Result<()> {
    programs::enter_own_namespace()?;
    let programs = Programs::load(Tables::default())?;
    // Remote addresses and ports that differ in their uppermost bits: under multilinear hashing they fall
    // into few buckets whatever the secret is.
    for a in 0..128_u8 {
        for b in 0..128_u8 {
            let ports = (40_000, 0x0100 | u16::from(b) << 1);
            let frame = segment(LOCAL, [10, 0, 0, a << 1], ports, ACK);
            programs.run_xdp("upload", &frame, 1)?;
        }
    }
    let losses = programs.losses()?;
    ensure!(losses.live_flows == 128 * 128, "{losses:?}");
    ensure!(losses.flow_index_full == 0, "{losses:?}");
    Ok(())
}

/// Under a secret of zeros, a flow and the one with both addresses exchanged have one fingerprint.
#[test]
fn two_flows_with_one_fingerprint_have_books_of_their_own() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(Tables::default())?;
    let mut settings = programs.settings()?;
    settings.hash_secret = [0; 6];
    programs.set("SETTINGS", 0, settings)?;
    let pair = [(LOCAL, REMOTE), (REMOTE, LOCAL)]
        .map(|(local, remote)| move |flags| segment(local, remote, (40_000, 443), flags));
    let keys = [key_of(&pair[0](ACK))?, key_of(&pair[1](ACK))?];
    ensure!(keys[0] != keys[1]);
    ensure!(keys[0].hash(&settings.hash_secret) == keys[1].hash(&settings.hash_secret));
    for frame in &pair {
        programs.run_xdp("upload", &frame(SYN), 1)?;
    }
    settle(&programs)?;
    for (times, frame) in [(3, &pair[0]), (5, &pair[1]), (7, &pair[0]), (11, &pair[1])] {
        programs.run_xdp("upload", &frame(ACK), times)?;
    }
    let counted: HashMap<_, _> = programs
        .flows()?
        .into_iter()
        .map(|flow| (flow.key, flow.upload_packets))
        .collect();
    ensure!(
        counted == HashMap::from([(keys[0], 11), (keys[1], 17)]),
        "{counted:?}"
    );
    ensure!(
        programs
            .flows()?
            .iter()
            .all(|flow| Judgement::unpack(flow.judgement).ambiguous)
    );
    Ok(())
}

/// More flows than a set has ways: the rest lie in the set behind it, and are found there.
#[test]
fn a_set_that_is_full_spills_into_the_one_behind_it() -> Result<()> {
    programs::enter_own_namespace()?;
    let tables = Tables {
        flows: 1_024,
        devices: 16,
        ..Tables::default()
    };
    let programs = Programs::load(tables)?;
    let secret = programs.settings()?.hash_secret;
    let sets = sets_for(tables.flows);
    let mut frames = Vec::new();
    for port in 1..u16::MAX {
        let frame = segment(LOCAL, REMOTE, (port, 443), ACK);
        if set_of(key_of(&frame)?.hash(&secret), sets) == sets - 1 {
            frames.push(frame);
        }
        if frames.len() as u32 == WAYS + 5 {
            break;
        }
    }
    for frame in &frames {
        programs.run_xdp("upload", frame, 1)?;
    }
    settle(&programs)?;
    for frame in &frames {
        programs.run_xdp("upload", frame, 9)?;
    }
    let flows = programs.live_flows()?;
    ensure!(flows.len() == frames.len(), "{} flows", flows.len());
    ensure!(flows.iter().all(|(_, flow)| flow.upload_packets == 10));
    let behind = flows.iter().filter(|(number, _)| *number < WAYS).count();
    ensure!(
        behind == 5,
        "{behind} flows lie in the first set, behind the last"
    );
    ensure!(programs.losses()?.flow_index_full == 0);
    Ok(())
}

/// The hits of each policy, booked by the programs or still in live flows, and the decided ones
/// among them.
fn hits(programs: &Programs) -> Result<HashMap<u16, (u64, u64)>> {
    let mut hits: HashMap<u16, (u64, u64)> = HashMap::new();
    let kernel: KernelHashMap<_, Raw<HitKey>, Raw<Hit>> =
        KernelHashMap::try_from(programs.map("HITS")?)?;
    for entry in kernel.iter() {
        let (Raw(key), Raw(hit)) = entry?;
        let (packets, decided) = hits.entry(key.policy).or_default();
        *packets += hit.wire.packets;
        *decided += hit.decided;
    }
    for flow in programs.flows()? {
        let policy = Judgement::unpack(flow.judgement).decision.policy;
        if policy != 0 {
            let [up, down]: [Tally; 2] = flow.decided_at;
            let counted = flow.upload_packets + flow.download_packets;
            hits.entry(policy).or_default().0 += counted - up.packets - down.packets;
        }
    }
    Ok(hits)
}

#[test]
fn each_packet_is_a_hit_of_the_policy_that_decided_about_it() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(Tables::default())?;
    let frame = |port| segment(LOCAL, REMOTE, (port, 443), ACK);
    let run = |programs: &Programs, times| -> Result<()> {
        for port in 1..=10 {
            programs.run_xdp("upload", &frame(port), times)?;
        }
        Ok(())
    };
    run(&programs, 3)?;
    ensure!(hits(&programs)?.is_empty(), "no policy decided");
    decide(&mut programs, 3, 7, Verdict::Pass)?;
    run(&programs, 1)?;
    settle(&programs)?;
    run(&programs, 4)?;
    ensure!(
        hits(&programs)? == HashMap::from([(7, (50, 10))]),
        "{:?}",
        hits(&programs)?
    );
    // The same policy again decides nothing anew.
    decide(&mut programs, 5, 7, Verdict::Pass)?;
    run(&programs, 2)?;
    ensure!(
        hits(&programs)? == HashMap::from([(7, (70, 10))]),
        "{:?}",
        hits(&programs)?
    );
    decide(&mut programs, 7, 8, Verdict::Allow)?;
    run(&programs, 6)?;
    let expected = HashMap::from([(7, (70, 10)), (8, (60, 10))]);
    ensure!(hits(&programs)? == expected, "{:?}", hits(&programs)?);
    decide(&mut programs, 9, 9, Verdict::Drop)?;
    run(&programs, 1)?;
    let expected = HashMap::from([(7, (70, 10)), (8, (60, 10)), (9, (10, 10))]);
    ensure!(hits(&programs)? == expected, "{:?}", hits(&programs)?);
    Ok(())
}

/// A map in this process's memory.
struct Shared(*mut u8);

// SAFETY: the memory is shared with the kernel and accessed by atomic operations only.
unsafe impl Sync for Shared {}

impl Shared {
    fn of(programs: &Programs, name: &str, len: usize) -> Result<Self> {
        let Map::Array(table) = programs.map(name)? else {
            bail!("{name} is no array");
        };
        // SAFETY: a new mapping at an address the kernel chooses; it stays until the process ends.
        let place = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                table.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        ensure!(place != libc::MAP_FAILED, "{name} cannot be mapped");
        Ok(Self(place.cast()))
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: within the mapping and aligned: offsets of fields of its entries.
        unsafe { AtomicU64::from_ptr(self.0.add(offset).cast()) }
    }

    fn half(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(self.0.add(offset).cast()) }
    }
}

/// User space refuses a flow's name at the same moment at which the programs decide about the flow under
/// another generation, again and again.
#[test]
fn no_ruling_is_lost_while_programs_decide() -> Result<()> {
    /// Where both threads have to share a CPU with others, each round waits for the scheduler.
    const LONGEST: Duration = Duration::from_secs(600);

    let all: u32 = times(10_000, 40_000);
    programs::enter_own_namespace()?;
    let programs = Programs::load(Tables::default())?;
    let frame = segment(LOCAL, REMOTE, (40_000, 443), ACK);
    programs.run_xdp("upload", &frame, 1)?;
    settle(&programs)?;
    let (number, _) = *programs.live_flows()?.first().context("no flow")?;
    let sets = sets_for(Tables::default().flows) as usize;
    let lines = Shared::of(
        &programs,
        "FLOW_LINES",
        sets * WAYS as usize * size_of::<FlowLine>(),
    )?;
    let settings = Shared::of(&programs, "SETTINGS", size_of::<Settings>())?;
    let line = number as usize * size_of::<FlowLine>();
    let judgement = lines.word(line + offset_of!(FlowLine, judgement));
    let ruling = lines.word(line + offset_of!(FlowLine, ruling));
    let packets = lines.word(line + offset_of!(FlowLine, upload_packets));
    let generation = settings.half(offset_of!(Settings, generation));
    let refused = Decision {
        policy: 7,
        verdict: Verdict::Drop,
        layer: Layer::Tls,
    };
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let (mut lost, mut rounds) = (0, 0);
    thread::scope(|scope| -> Result<()> {
        let hammer = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                programs.run_xdp("upload", &frame, 20_000)?;
            }
            Ok(())
        });
        let some_packets = || {
            let seen = packets.load(Ordering::Relaxed);
            while packets.load(Ordering::Relaxed) < seen + 20 && began.elapsed() < LONGEST {
                std::hint::spin_loop();
            }
        };
        let rule = |decision, now, again| {
            let stored = ruling.load(Ordering::Relaxed);
            let word = judgement.load(Ordering::Acquire);
            let next = Ruling {
                generation: now,
                epoch: Judgement::unpack(word).epoch,
                version: 0,
                decision,
                named: true,
                again,
                wants: Wants::Same,
            };
            ruling.store(next.following(stored, word).pack(), Ordering::Release);
        };
        let mut now = generation.load(Ordering::Acquire);
        let mut seed = 1_u64;
        while rounds < all && began.elapsed() < LONGEST {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            now += 2;
            generation.store(now, Ordering::Release);
            for _ in 0..(seed >> 33) % 400 {
                std::hint::spin_loop();
            }
            rule(refused, now, false);
            some_packets();
            rounds += 1;
            if !Judgement::unpack(judgement.load(Ordering::Acquire))
                .decision
                .verdict
                .refuses()
            {
                lost += 1;
            }
            // And lifted again, as `allow` does.
            rule(Decision::PASS, now, true);
            some_packets();
            if Judgement::unpack(judgement.load(Ordering::Acquire))
                .decision
                .verdict
                .refuses()
            {
                lost += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        match hammer.join() {
            Ok(result) => result,
            Err(_) => bail!("the other thread failed"),
        }
    })?;
    ensure!(rounds == all, "{rounds} rounds in {LONGEST:?}");
    ensure!(lost == 0, "{lost} of {rounds} rulings were lost");
    Ok(())
}

/// A way that user space gave back is taken again, by a flow of another epoch: a ruling about the flow
/// before it counts for nothing.
#[test]
fn a_way_that_is_taken_again_has_another_epoch() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(Tables::default())?;
    let frame = segment(LOCAL, REMOTE, (40_000, 443), ACK);
    let mut epochs = Vec::new();
    for released in 1..=3 {
        programs.run_xdp("upload", &frame, 1)?;
        let (number, flow): (u32, FlowRecord) =
            *programs.live_flows()?.first().context("no flow")?;
        ensure!(flow.upload_packets == 1, "the way was made zero");
        epochs.push(Judgement::unpack(flow.judgement).epoch);
        let left = FlowLine {
            judgement: Judgement::released(flow.judgement),
            ..FlowLine::default()
        };
        programs.set_line(number, left)?;
        ensure!(programs.line(number)?.state == slot::FREE);
        let mut detail: sensor_ebpf::flow::FlowDetail = programs.get("FLOW_DETAILS", number)?;
        ensure!((detail.claims, detail.releases) == (released, released - 1));
        detail.releases = released;
        programs.set("FLOW_DETAILS", number, detail)?;
    }
    ensure!(epochs == [1, 2, 3], "{epochs:?}");
    Ok(())
}
