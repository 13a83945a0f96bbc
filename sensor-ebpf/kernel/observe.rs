//! What happens to every frame: parse, find its flow, decide, account.

use aya_ebpf::helpers::bpf_jiffies64;
use sensor_ebpf::{
    books::{FURTHER_DEVICES, FragmentKey, Settings, Tally},
    flow::{Direction, FlowKey, Judgement},
    parse::{Fragment, Parsed, parse},
    policy::{Decision, Verdict, decide},
    skip::Skip,
};

use crate::{
    access::Frame,
    maps::{self, Flow, Rulebook},
};

/// Books one frame and says what becomes of it.
///
/// A steady packet of a known flow costs one search in the flow index and no other lookup.
#[inline(always)]
pub(crate) fn observe<F: Frame>(frame: &F, direction: Direction) -> Verdict {
    let parsed = match parse(frame) {
        Ok(parsed) => parsed,
        Err(reason) => return skip(frame, direction, reason),
    };
    match direction {
        Direction::Upload if parsed.source_mac.is_group() => {
            return skip(frame, direction, Skip::SourceIsGroup);
        }
        Direction::Download if parsed.destination_mac.is_group() => {
            return multicast(frame, &parsed);
        }
        Direction::Upload | Direction::Download => {}
    }
    let Some(settings) = maps::settings() else {
        return Verdict::Pass;
    };
    let seen = Seen {
        direction,
        wire: frame.wire(Some(&parsed)),
        tcp_flags: parsed.tcp_flags,
        // SAFETY: the helper reads a clock.
        now: unsafe { bpf_jiffies64() },
    };
    let key = key_of(&parsed, direction, frame.ifindex());
    let hash = key.hash(&settings.hash_secret);
    match maps::find_flow(hash, &key, settings) {
        Some(flow) => {
            let generation = maps::generation(settings);
            let mut judgement = flow.judgement();
            if judgement.generation != generation {
                judgement = judge(flow, &key, &seen, generation, settings);
            }
            account(flow, &key, &seen, judgement.decision)
        }
        None => first_packet(&key, hash, &seen, settings),
    }
}

/// What there is to book about a packet.
struct Seen {
    direction: Direction,
    wire: Tally,
    tcp_flags: u8,
    now: u64,
}

/// The flow of a packet; a later fragment takes the ports of its first one where it is known.
#[inline(always)]
fn key_of(parsed: &Parsed, direction: Direction, ifindex: u32) -> FlowKey {
    let key = FlowKey::new(parsed, direction, ifindex);
    let fragment = |identification| FragmentKey {
        flow: key.with_ports(0),
        identification,
        direction: direction as u32,
    };
    match parsed.fragment {
        Fragment::Whole => key,
        Fragment::First(identification) => {
            maps::remember_fragment(&fragment(identification), key.ports());
            key
        }
        Fragment::Later(identification) => {
            match maps::ports_of_fragment(&fragment(identification)) {
                Some(ports) => key.with_ports(ports),
                None => key,
            }
        }
    }
}

/// Decides about a flow that was not judged under the generation in force.
#[inline(always)]
fn judge(
    flow: Flow,
    key: &FlowKey,
    seen: &Seen,
    generation: u32,
    settings: &Settings,
) -> Judgement {
    let before = flow.judgement();
    let decision = decide(&Rulebook::new(generation, settings), key);
    let judgement = Judgement {
        generation,
        decision,
    };
    flow.set_judgement(judgement);
    if before.decision != decision && decision.policy != 0 {
        maps::report_judged(key, decision, seen.direction, seen.now);
    }
    judgement
}

/// Books a packet to its flow and gives the flow's verdict.
#[inline(always)]
fn account(flow: Flow, key: &FlowKey, seen: &Seen, decision: Decision) -> Verdict {
    flow.touch(seen.direction, seen.tcp_flags, seen.now);
    if decision.policy != 0 {
        maps::count_hit(key.mac(), decision, seen.direction, seen.wire);
    }
    match (seen.direction, decision.verdict) {
        (Direction::Upload, _) | (Direction::Download, Verdict::Pass) => {
            flow.count(seen.direction, seen.wire);
        }
        (Direction::Download, Verdict::Reject | Verdict::Drop) => {
            maps::count_refused(key.ifindex(), seen.wire);
        }
    }
    decision.verdict
}

/// A packet without a flow: opens one, or books the packet to the device's overflow.
///
/// Not inlined: the steady path keeps its registers and its cache lines.
#[inline(never)]
fn first_packet(key: &FlowKey, hash: u64, seen: &Seen, settings: &Settings) -> Verdict {
    let generation = maps::generation(settings);
    let device = maps::device(key.mac(), seen.now);
    if device != FURTHER_DEVICES
        && let Some(flow) = maps::open_flow(key, hash, device, seen.direction, seen.now, settings)
    {
        let judgement = judge(flow, key, seen, generation, settings);
        return account(flow, key, seen, judgement.decision);
    }
    let decision = decide(&Rulebook::new(generation, settings), key);
    if decision.policy != 0 {
        maps::count_hit(key.mac(), decision, seen.direction, seen.wire);
    }
    match (seen.direction, decision.verdict) {
        (Direction::Upload, _) | (Direction::Download, Verdict::Pass) => {
            maps::count_overflow(device, key, seen.direction, seen.wire, seen.now);
        }
        (Direction::Download, Verdict::Reject | Verdict::Drop) => {
            maps::count_refused(key.ifindex(), seen.wire);
        }
    }
    decision.verdict
}

#[inline(always)]
fn multicast<F: Frame>(frame: &F, parsed: &Parsed) -> Verdict {
    let wire = frame.wire(Some(parsed));
    // SAFETY: the helper reads a clock.
    let now = unsafe { bpf_jiffies64() };
    maps::count_multicast(frame.ifindex(), parsed.family, wire, now);
    Verdict::Pass
}

/// What cannot be read passes, and is counted by reason.
#[inline(always)]
fn skip<F: Frame>(frame: &F, direction: Direction, reason: Skip) -> Verdict {
    maps::count_skipped(frame.ifindex(), direction, reason, frame.wire(None));
    Verdict::Pass
}
