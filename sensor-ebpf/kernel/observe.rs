//! What happens to every frame: parse, find its flow, decide, account.
//!
//! The parser is inlined into each program; what follows is in global functions (linkage visible
//! in BTF), which the verifier checks once, for any argument, instead of once for every way that
//! leads through the parser.

use aya_ebpf::helpers::bpf_jiffies64;
use sensor_ebpf::{
    books::{FURTHER_DEVICES, FragmentKey, Tally},
    flow::{Direction, FlowKey, Judgement},
    parse::{Fragment, Parsed, parse, plain},
    policy::{Decision, Verdict, decide},
    skip::Skip,
};

use crate::{
    access::Frame,
    maps::{self, Flow, Rulebook},
};

/// What there is to book about a frame.
///
/// `#[repr(C)]` and without `enum`s: it is an argument of global functions, of which the verifier
/// believes nothing.
#[repr(C)]
struct Seen {
    key: FlowKey,
    wire: Tally,
    now: u64,
    tcp_flags: u32,
    direction: u32,
}

impl Seen {
    #[inline(always)]
    fn direction(&self) -> Direction {
        match self.direction {
            0 => Direction::Upload,
            _ => Direction::Download,
        }
    }
}

/// Books one frame and says what becomes of it.
///
/// A steady packet of a known flow costs one search in the flow index and no other lookup.
#[inline(always)]
pub(crate) fn observe<F: Frame>(mut frame: F, direction: Direction) -> Verdict {
    if let Some(verdict) = steady(&frame, direction) {
        return verdict;
    }
    let mut revealed = false;
    let parsed = loop {
        match parse(&frame) {
            Ok(parsed) => break parsed,
            Err(reason) => match frame.reveal() {
                Some(more) if !revealed => {
                    // Out of line: up to Linux 6.6 the verifier takes no loop whose last
                    // instruction falls through into its first.
                    core::intrinsics::cold_path();
                    frame = more;
                    revealed = true;
                }
                _ => return skip(&frame, direction, reason),
            },
        }
    };
    match direction {
        Direction::Upload if parsed.source_mac.is_group() => {
            return skip(&frame, direction, Skip::SourceIsGroup);
        }
        Direction::Download if parsed.destination_mac.is_group() => {
            return multicast(&frame, &parsed);
        }
        Direction::Upload | Direction::Download => {}
    }
    let mut seen = Seen {
        key: FlowKey::new(&parsed, direction, frame.ifindex()),
        wire: frame.wire(Some(&parsed)),
        // SAFETY: the helper reads a clock.
        now: unsafe { bpf_jiffies64() },
        tcp_flags: u32::from(parsed.tcp_flags),
        direction: direction as u32,
    };
    match parsed.fragment() {
        Fragment::Whole => {}
        Fragment::First(identification) => {
            remember_fragment(&seen, identification);
        }
        Fragment::Later(identification) => {
            seen.key = seen.key.with_ports(later_fragment(&seen, identification));
        }
    }
    Verdict::from_number(book(&seen) as u8)
}

/// The short way of most packets: a plain frame of a flow that is known and passes. `None` books
/// nothing, and the long way does it.
///
/// Frames from and to group addresses have no flow, so they are not found here.
#[inline(always)]
fn steady<F: Frame>(frame: &F, direction: Direction) -> Option<Verdict> {
    let parsed = plain(frame)?;
    let settings = maps::settings()?;
    let key = FlowKey::new(&parsed, direction, frame.ifindex());
    let flow = maps::find_flow_near(key.hash(&settings.hash_secret), &key, settings)?;
    let passes = Judgement {
        generation: maps::generation(settings),
        decision: Decision::PASS,
    };
    if flow.judgement() != passes {
        return None;
    }
    // SAFETY: the helper reads a clock.
    flow.touch(direction, parsed.tcp_flags, unsafe { bpf_jiffies64() });
    flow.count(direction, frame.wire(Some(&parsed)));
    Some(Verdict::Pass)
}

/// Books a frame to its flow. Gives the number of its verdict.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn book(seen: *const Seen) -> u32 {
    // SAFETY: the verifier knows a pointer argument to be null or to the whole of its type.
    let (Some(seen), Some(settings)) = (unsafe { seen.as_ref() }, maps::settings()) else {
        return Verdict::Pass as u32;
    };
    let hash = seen.key.hash(&settings.hash_secret);
    let Some(flow) = maps::find_flow(hash, &seen.key, settings) else {
        return first_packet(seen, hash);
    };
    let generation = maps::generation(settings);
    let mut judgement = flow.judgement();
    if judgement.generation != generation {
        judgement = judge(flow, seen, generation);
    }
    account(flow, seen, judgement) as u32
}

/// Books a frame to its flow and gives the flow's verdict.
#[inline(always)]
fn account(flow: Flow, seen: &Seen, judgement: Judgement) -> Verdict {
    let decision = judgement.decision;
    flow.touch(seen.direction(), seen.tcp_flags as u8, seen.now);
    if decision.policy != 0 {
        count_hit(seen, judgement.pack());
    }
    if seen.direction != Direction::Upload as u32 && decision.verdict != Verdict::Pass {
        maps::count_refused(seen.key.ifindex(), seen.wire);
    } else {
        flow.count(seen.direction(), seen.wire);
    }
    decision.verdict
}

/// Decides about a flow that was not judged under the generation in force.
#[inline(always)]
fn judge(flow: Flow, seen: &Seen, generation: u32) -> Judgement {
    let before = flow.judgement();
    let judgement = Judgement::unpack(decision(&seen.key, generation));
    flow.set_judgement(judgement);
    if before.decision != judgement.decision && judgement.decision.policy != 0 {
        report_judged(seen, judgement.pack());
    }
    judgement
}

/// The packed judgement about a flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn decision(key: *const FlowKey, generation: u32) -> u64 {
    // SAFETY: as in `book`.
    let (Some(key), Some(settings)) = (unsafe { key.as_ref() }, maps::settings()) else {
        return Judgement {
            generation,
            decision: Decision::PASS,
        }
        .pack();
    };
    let decision = decide(&Rulebook::new(generation, settings), key);
    Judgement {
        generation,
        decision,
    }
    .pack()
}

/// A packet without a flow: opens one, or books the packet to the device's overflow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn first_packet(seen: *const Seen, hash: u64) -> u32 {
    // SAFETY: as in `book`.
    let (Some(seen), Some(settings)) = (unsafe { seen.as_ref() }, maps::settings()) else {
        return Verdict::Pass as u32;
    };
    let generation = maps::generation(settings);
    let device = maps::device(seen.key.mac(), seen.now);
    if device != FURTHER_DEVICES
        && let Some(flow) = maps::open_flow(
            &seen.key,
            hash,
            device,
            seen.direction(),
            seen.now,
            settings,
        )
    {
        let judgement = judge(flow, seen, generation);
        return account(flow, seen, judgement) as u32;
    }
    let judgement = decision(&seen.key, generation);
    let decision = Judgement::unpack(judgement).decision;
    if decision.policy != 0 {
        count_hit(seen, judgement);
    }
    if seen.direction != Direction::Upload as u32 && decision.verdict != Verdict::Pass {
        maps::count_refused(seen.key.ifindex(), seen.wire);
    } else {
        maps::count_overflow(device, &seen.key, seen.direction(), seen.wire, seen.now);
    }
    decision.verdict as u32
}

/// Counts a packet to which a policy applied.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_hit(seen: *const Seen, judgement: u64) -> u32 {
    // SAFETY: as in `book`.
    if let Some(seen) = unsafe { seen.as_ref() } {
        let decision = Judgement::unpack(judgement).decision;
        maps::count_hit(seen.key.mac(), decision, seen.direction(), seen.wire);
    }
    0
}

/// Tells user space that a policy matched a flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn report_judged(seen: *const Seen, judgement: u64) -> u32 {
    // SAFETY: as in `book`.
    if let Some(seen) = unsafe { seen.as_ref() } {
        let decision = Judgement::unpack(judgement).decision;
        maps::report_judged(&seen.key, decision, seen.direction(), seen.now);
    }
    0
}

/// Remembers the ports of a packet's first fragment.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remember_fragment(seen: *const Seen, identification: u32) -> u32 {
    // SAFETY: as in `book`.
    if let Some(seen) = unsafe { seen.as_ref() } {
        maps::remember_fragment(&fragment(seen, identification), seen.key.ports());
    }
    0
}

/// The ports of a later fragment's first one; 0 where it is not known.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn later_fragment(seen: *const Seen, identification: u32) -> u32 {
    // SAFETY: as in `book`.
    match unsafe { seen.as_ref() } {
        Some(seen) => maps::ports_of_fragment(&fragment(seen, identification)).unwrap_or(0),
        None => 0,
    }
}

#[inline(always)]
fn fragment(seen: &Seen, identification: u32) -> FragmentKey {
    FragmentKey {
        flow: seen.key.with_ports(0),
        identification,
        direction: seen.direction,
    }
}

#[inline(always)]
fn multicast<F: Frame>(frame: &F, parsed: &Parsed) -> Verdict {
    let wire = frame.wire(Some(parsed));
    count_multicast(
        frame.ifindex(),
        parsed.family as u32,
        wire.packets,
        wire.bytes,
    );
    Verdict::Pass
}

/// Books a frame to a group address.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_multicast(ifindex: u32, family: u32, packets: u64, bytes: u64) -> u32 {
    // SAFETY: the helper reads a clock.
    let now = unsafe { bpf_jiffies64() };
    maps::count_multicast(ifindex, family, Tally { packets, bytes }, now);
    0
}

/// What cannot be read passes, and is counted by reason.
#[inline(always)]
fn skip<F: Frame>(frame: &F, direction: Direction, reason: Skip) -> Verdict {
    let wire = frame.wire(None);
    count_skipped(
        frame.ifindex(),
        direction as u32,
        reason as u32,
        wire.packets,
        wire.bytes,
    );
    Verdict::Pass
}

/// Books a frame that is not accounted to a device.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_skipped(
    ifindex: u32,
    direction: u32,
    reason: u32,
    packets: u64,
    bytes: u64,
) -> u32 {
    let wire = Tally { packets, bytes };
    maps::count_skipped(ifindex, direction, reason, wire);
    0
}
