//! What happens to every frame: parse, find its flow, decide, account.
//!
//! The parser is inlined into each program; what follows is in global functions (linkage visible
//! in BTF), which the verifier checks once, for any argument, instead of once for every way that
//! leads through the parser.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};
use sensor_ebpf::{
    books::{FURTHER_DEVICES, FragmentKey, Settings, Tally},
    flow::{Direction, FlowKey, Judgement},
    parse::{Fragment, Parsed, Piece, parse, plain, protocol, tcp_flag},
    policy::{Decision, Layer, Rules as _, Verdict, decide},
    said::initial,
    sample::{Head, NO_SLOT, Watch, is_service},
    skip::Skip,
};

use crate::{
    access::Frame,
    judge,
    maps::{self, Flow, Rulebook},
};

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Action {
    /// It goes on.
    Pass = 0,
    /// It goes no further, and whoever waits for it is told.
    Reject = 1,
    /// It goes no further, in silence.
    Drop = 2,
    /// A DNS question: there is no such name.
    NxDomain = 4,
    /// A DNS question: its address is 0.0.0.0 or ::.
    Zero = 5,
}

impl Action {
    /// The action with this number; an unknown number passes (law 3).
    #[inline(always)]
    pub(crate) const fn from_number(number: u32) -> Self {
        match number & 0xff {
            1 => Self::Reject,
            2 => Self::Drop,
            4 => Self::NxDomain,
            5 => Self::Zero,
            _ => Self::Pass,
        }
    }
}

/// What there is to book about a frame.
///
/// `#[repr(C)]` and without `enum`s: it is an argument of global functions, of which the verifier
/// believes nothing.
#[repr(C)]
pub(crate) struct Seen {
    pub(crate) key: FlowKey,
    pub(crate) wire: Tally,
    now: u64,
    /// TCP: that of the packet. A QUIC Initial: the number of its connection.
    sequence: u32,
    /// Octets of payload.
    payload: u16,
    tcp_flags: u8,
    /// By number of [`Direction`], and [`FRAGMENT`].
    direction: u8,
}

/// In [`Seen::direction`]: the packet is a piece of another.
const FRAGMENT: u8 = 2;

/// In what [`book`] gives, above the verdict: a fragment is to be told.
const FRAGMENT_SEEN: u32 = 1 << 10;

/// In what [`book`] gives, above the verdict: the payload is wanted, and its sample was begun.
const SAMPLE_WANTED: u32 = 1 << 8;

/// What [`book`] gives of a frame whose flow is not in the table: nothing was booked.
const NO_FLOW: u32 = 1 << 9;

impl Seen {
    #[inline(always)]
    pub(crate) fn direction(&self) -> Direction {
        match self.direction & 1 {
            0 => Direction::Upload,
            _ => Direction::Download,
        }
    }
}

/// Books one frame and says what becomes of it.
///
/// A steady packet of a known flow costs one search in the flow index and no other lookup.
#[inline(always)]
pub(crate) fn observe<F: Frame>(mut frame: F, direction: Direction) -> Action {
    if steady(&frame, direction).is_some() {
        return Action::Pass;
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
        sequence: parsed.sequence,
        payload: parsed.payload_len().unwrap_or(0) as u16,
        tcp_flags: parsed.tcp_flags,
        direction: direction as u8,
    };
    if seen.key.protocol() == protocol::UDP
        && direction == Direction::Upload
        && seen.key.remote_port() == initial::PORT
    {
        let payload = frame.forget(parsed.payload_offset(), seen.now);
        seen.sequence = initial::connection(&frame, payload);
    }
    if parsed.piece != Piece::Whole {
        seen.direction |= FRAGMENT;
    }
    match parsed.fragment() {
        Fragment::Whole => {}
        Fragment::First(identification) => {
            remember_fragment(&seen, identification);
        }
        Fragment::Later(identification) => {
            seen.key = seen.key.with_ports(later_fragment(&seen, identification));
        }
    }
    let mut booked = book(&seen);
    // One after the other and not within each other: together they would take more stack than there
    // is.
    if booked == NO_FLOW {
        let device = open(&seen);
        if device == OPENED {
            booked = book(&seen);
        }
        // Another CPU may have taken its entry of the index.
        if booked == NO_FLOW {
            booked = overflow(&seen, device);
        }
    }
    if booked & FRAGMENT_SEEN != 0 {
        judge::tell_fragment();
        return Action::from_number(booked);
    }
    if booked & SAMPLE_WANTED == 0 || frame.sample(parsed.payload_offset() as u32) == 0 {
        return Action::from_number(booked);
    }
    let judged = match direction {
        Direction::Upload => judge::judge(&seen, booked),
        Direction::Download => booked,
    };
    judge::submit();
    Action::from_number(judged)
}

/// The short way of most packets: a plain frame of a flow that is known, passes, and has told what
/// it is. `None` books nothing, and the long way does it.
///
/// Frames from and to group addresses have no flow, so they are not found here.
#[inline(always)]
fn steady<F: Frame>(frame: &F, direction: Direction) -> Option<()> {
    let parsed = plain(frame)?;
    let settings = maps::settings()?;
    let key = FlowKey::new(&parsed, direction, frame.ifindex());
    if parsed.tcp_flags & tcp_flag::SYN != 0 {
        return None;
    }
    if parsed.protocol == protocol::UDP
        && direction == Direction::Upload
        && key.remote_port() == initial::PORT
        && let Some([first]) = frame.load::<1>(parsed.payload_offset())
        && initial::is_long(first)
    {
        // A connection may begin, at the ports of one that is known.
        return None;
    }
    let flow = maps::find_flow_near(key.hash(&settings.hash_secret), &key, settings)?;
    let judgement = flow.judgement_word() & Judgement::steady_mask(direction);
    if judgement != Judgement::steady(maps::generation(settings)) {
        return None;
    }
    // SAFETY: the helper reads a clock.
    flow.touch(direction, parsed.tcp_flags, unsafe { bpf_jiffies64() });
    flow.count(direction, frame.wire(Some(&parsed)));
    Some(())
}

/// Books a frame to its flow. Gives the number of its verdict and, where its payload is wanted,
/// [`SAMPLE_WANTED`]; [`NO_FLOW`] where it has none yet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn book(seen: *const Seen) -> u32 {
    // SAFETY: the verifier knows a pointer argument to be null or to the whole of its type.
    let (Some(seen), Some(settings)) = (unsafe { seen.as_ref() }, maps::settings()) else {
        return Verdict::Pass as u32;
    };
    let hash = seen.key.hash(&settings.hash_secret);
    let Some(flow) = maps::find_flow(hash, &seen.key, settings) else {
        return NO_FLOW;
    };
    let generation = maps::generation(settings);
    let mut judgement = flow.judgement();
    if judgement.generation != generation {
        judgement = judge(flow, seen, generation, judgement);
    }
    account(flow, seen, judgement)
}

/// Books a frame to its flow and gives the flow's verdict, and whether the payload is wanted.
#[inline(always)]
fn account(flow: Flow, seen: &Seen, mut judgement: Judgement) -> u32 {
    let direction = seen.direction();
    if seen.tcp_flags & tcp_flag::SYN != 0 {
        judgement = Judgement::unpack(open_again(seen, flow.slot()));
    } else if seen.key.protocol() == protocol::UDP && seen.sequence != 0 {
        judgement = Judgement::unpack(connect_again(seen, flow.slot()));
    }
    let decision = judgement.decision;
    flow.touch(direction, seen.tcp_flags, seen.now);
    if decision.policy != 0 {
        count_hit(seen, judgement.pack());
        if judgement.fresh {
            flow.add_to_judgement(Judgement::COUNTED);
            judgement.fresh = false;
        }
    }
    if direction == Direction::Download {
        if decision.verdict.refuses() {
            maps::count_refused(seen.key.ifindex(), seen.wire);
            return decision.verdict as u32;
        }
        if judgement.held && waits(flow) {
            maps::count_refused(seen.key.ifindex(), seen.wire);
            return Verdict::Drop as u32;
        }
    }
    flow.count(direction, seen.wire);
    let is_fragment = seen.direction == Direction::Upload as u8 | FRAGMENT && seen.payload == 0;
    if (seen.payload == 0 && !is_fragment) || !judgement.watch.wants(direction) {
        return decision.verdict as u32;
    }
    let runs_out = judgement.watch.runs_out(direction);
    if runs_out {
        flow.add_to_judgement(Judgement::one_less(direction));
    }
    let is_last = runs_out && judgement.watch.of(direction) == 1;
    begin_sample(seen, flow.slot(), u32::from(is_last));
    if is_fragment {
        return decision.verdict as u32 | FRAGMENT_SEEN;
    }
    decision.verdict as u32 | SAMPLE_WANTED
}

/// A SYN: a connection begins, perhaps with the ports of one that ended.
///
/// What was refused for its name is refused until the server has opened the new connection too: a
/// SYN that the device made up, in the midst of the old one, is answered by none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn open_again(seen: *const Seen, slot: u32) -> u64 {
    // SAFETY: as in `book`.
    let (Some(seen), Some(settings), Some(flow)) = (
        unsafe { seen.as_ref() },
        maps::settings(),
        maps::flow_in(slot),
    ) else {
        return 0;
    };
    let word = flow.judgement_word();
    let before = Judgement::unpack(word);
    let direction = seen.direction();
    flow.set_initial_sequence(direction, seen.sequence);
    let opens = seen.tcp_flags & tcp_flag::ACK == 0;
    let refused = is_refused_by_name(&before);
    let answered = refused && direction == Direction::Download;
    if !opens && !answered {
        return word;
    }
    let mut judgement = Judgement::unpack(decision_of(&seen.key, before.generation));
    judgement.watch = Watch::of_new_flow(&seen.key, settings.watched_payloads);
    judgement.fresh &= before.fresh || before.decision != judgement.decision;
    if !refused || direction == Direction::Download {
        flow.set_judgement(judgement);
    }
    judgement.pack()
}

#[inline(always)]
const fn is_refused_by_name(judgement: &Judgement) -> bool {
    judgement.decision.layer as u8 != Layer::Address as u8 && judgement.decision.verdict.refuses()
}

/// A QUIC Initial by which a device begins a connection, perhaps at the ports of another, or says more
/// in one that it began. Of what passed, a little more is read, in which another hello may be.
///
/// What was refused for its name stays refused as long as packets come: the first connection's
/// server still speaks, and what it says cannot be told from the answers to the second. Who was
/// silent for some seconds begins anew.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn connect_again(seen: *const Seen, slot: u32) -> u64 {
    const MORE: u8 = 2;
    /// Seconds: a server has sent its first flight again several times by then (RFC 9002, section
    /// 6.2), each time further apart.
    const FORGOTTEN_AFTER: u64 = 5;

    // SAFETY: as in `book`.
    let (Some(seen), Some(settings), Some(flow)) = (
        unsafe { seen.as_ref() },
        maps::settings(),
        maps::flow_in(slot),
    ) else {
        return 0;
    };
    let word = flow.judgement_word();
    let before = Judgement::unpack(word);
    let known = flow.initial_sequence(Direction::Upload);
    if known == seen.sequence {
        return word;
    }
    let refused = is_refused_by_name(&before);
    if refused && seen.now.wrapping_sub(flow.last_seen()) < settings.hz * FORGOTTEN_AFTER {
        return word;
    }
    flow.set_initial_sequence(Direction::Upload, seen.sequence);
    if known == 0 {
        return word;
    }
    let mut judgement = before;
    if refused {
        judgement = Judgement::unpack(decision_of(&seen.key, before.generation));
        judgement.watch = Watch::of_new_flow(&seen.key, settings.watched_payloads);
    } else if before.named {
        judgement.watch = Watch::new(MORE, before.watch.of(Direction::Download));
    } else {
        return word;
    }
    flow.set_judgement(judgement);
    judgement.pack()
}

/// Whether what a held flow's server says still waits for the verdict.
#[inline(always)]
fn waits(flow: Flow) -> bool {
    // SAFETY: the helper reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    if maps::held_until(flow).is_some_and(|until| now < until) {
        maps::count_held();
        return true;
    }
    flow.add_to_judgement(Judgement::HOLD.wrapping_neg());
    maps::count_hold_expired();
    false
}

/// Writes what goes before the copy of a payload, of the flow in a slot where it has one. Apart from
/// its callers, whose share of the stack it would double.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn begin_sample(seen: *const Seen, slot: u32, is_last: u32) -> u32 {
    // SAFETY: as in `book`.
    let (Some(seen), Some(sample)) = (unsafe { seen.as_ref() }, maps::sample_buffer()) else {
        return 0;
    };
    sample.head = head(seen);
    if slot != NO_SLOT
        && let Some(flow) = maps::flow_in(slot)
    {
        flow.describe(seen.direction(), &mut sample.head);
    }
    if is_last != 0 {
        sample.head.flags |= Head::LAST;
    }
    0
}

/// What goes before the copy of a frame's payload, as far as the frame tells it.
#[inline(always)]
fn head(seen: &Seen) -> Head {
    Head {
        key: seen.key,
        at: seen.now,
        // SAFETY: the helper reads a clock.
        nanoseconds: unsafe { bpf_ktime_get_ns() },
        slot: NO_SLOT,
        // A SYN has a number of its own, before that of the data it may carry (RFC 7413).
        sequence: match seen.key.protocol() {
            protocol::TCP => seen
                .sequence
                .wrapping_add(u32::from(seen.tcp_flags & tcp_flag::SYN != 0)),
            _ => 0,
        },
        initial_sequence: 0,
        payload: u32::from(seen.payload),
        captured: 0,
        kind: 0,
        direction: seen.direction & 1,
        flags: match seen.tcp_flags & tcp_flag::URG {
            0 => 0,
            _ => Head::URGENT,
        },
        reserved: 0,
    }
}

/// Decides about a flow that was not judged under the generation in force.
///
/// What a name led to stays where the addresses do not refuse, until whoever knows the name judges
/// it again: there is no moment at which the flow passes for want of a judge.
#[inline(always)]
fn judge(flow: Flow, seen: &Seen, generation: u32, before: Judgement) -> Judgement {
    let mut judgement = Judgement {
        named: before.named,
        held: before.held,
        watch: before.watch,
        ..Judgement::unpack(decision_of(&seen.key, generation))
    };
    if before.decision.layer != Layer::Address && !judgement.decision.verdict.refuses() {
        judgement.decision = before.decision;
    }
    judgement.fresh = judgement.decision.policy != 0 && judgement.decision != before.decision
        || judgement.decision == before.decision && before.fresh;
    flow.set_judgement(judgement);
    if before.decision != judgement.decision && judgement.decision.policy != 0 {
        report_judged(seen, judgement.pack());
    }
    judgement
}

/// The packed judgement about a flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn decision_of(key: *const FlowKey, generation: u32) -> u64 {
    // SAFETY: as in `book`.
    let (Some(key), Some(settings)) = (unsafe { key.as_ref() }, maps::settings()) else {
        return Judgement::new(generation, Decision::PASS, Watch::NONE).pack();
    };
    let decision = decide(&Rulebook::new(generation, settings), key);
    Judgement::new(generation, decision, Watch::NONE).pack()
}

/// What [`open`] gives where there was room.
const OPENED: u32 = u32::MAX;

/// Opens a flow for a packet that has none, and decides about it. Gives [`OPENED`], or the number of
/// the device's record where there was no room.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn open(seen: *const Seen) -> u32 {
    // SAFETY: as in `book`.
    let (Some(seen), Some(settings)) = (unsafe { seen.as_ref() }, maps::settings()) else {
        return FURTHER_DEVICES;
    };
    let device = maps::device(seen.key.mac(), seen.now);
    if device == FURTHER_DEVICES {
        return device;
    }
    let hash = seen.key.hash(&settings.hash_secret);
    let watch = Watch::of_new_flow(&seen.key, settings.watched_payloads);
    let Some(flow) = maps::open_flow(
        &seen.key,
        hash,
        device,
        seen.direction(),
        seen.now,
        watch,
        settings,
    ) else {
        return device;
    };
    let generation = maps::generation(settings);
    judge(
        flow,
        seen,
        generation,
        Judgement::new(generation, Decision::PASS, watch),
    );
    OPENED
}

/// Books a packet whose flow has no place to its device. Gives the same as [`book`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn overflow(seen: *const Seen, device: u32) -> u32 {
    // SAFETY: as in `book`.
    let (Some(seen), Some(settings)) = (unsafe { seen.as_ref() }, maps::settings()) else {
        return Verdict::Pass as u32;
    };
    let device = match device {
        OPENED => maps::device(seen.key.mac(), seen.now),
        device => device,
    };
    let judgement = decision_of(&seen.key, maps::generation(settings));
    let decision = Judgement::unpack(judgement).decision;
    if decision.policy != 0 {
        count_hit(seen, judgement);
    }
    if seen.direction() == Direction::Download && decision.verdict.refuses() {
        maps::count_refused(seen.key.ifindex(), seen.wire);
        return decision.verdict as u32;
    }
    maps::count_overflow(device, &seen.key, seen.direction(), seen.wire, seen.now);
    // Who has no place for flows still has an identity, and says names.
    if seen.payload == 0
        || settings.watched_payloads == 0
        || !is_service(&seen.key) && !is_judged(seen, settings)
    {
        return decision.verdict as u32;
    }
    begin_sample(seen, NO_SLOT, 0);
    decision.verdict as u32 | SAMPLE_WANTED
}

/// Whether a payload without a flow may say a name that a rule is about: each is looked at.
#[inline(always)]
fn is_judged(seen: &Seen, settings: &Settings) -> bool {
    let rules = Rulebook::new(maps::generation(settings), settings);
    seen.key.protocol() == protocol::TCP
        && seen.direction() == Direction::Upload
        && rules.for_device(seen.key.mac()) & rules.name_rules() != 0
}

/// Counts a packet to which a policy applied.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn count_hit(seen: *const Seen, judgement: u64) -> u32 {
    // SAFETY: as in `book`.
    if let Some(seen) = unsafe { seen.as_ref() } {
        let judgement = Judgement::unpack(judgement);
        let decision = judgement.decision;
        let decided = u64::from(judgement.fresh);
        maps::count_hit(
            seen.key.mac(),
            decision,
            seen.direction(),
            seen.wire,
            decided,
        );
    }
    0
}

/// Tells user space that a policy matched a flow.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn report_judged(seen: *const Seen, judgement: u64) -> u32 {
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
        direction: u32::from(seen.direction & 1),
    }
}

#[inline(always)]
fn multicast<F: Frame>(frame: &F, parsed: &Parsed) -> Action {
    let wire = frame.wire(Some(parsed));
    count_multicast(
        frame.ifindex(),
        parsed.family as u32,
        wire.packets,
        wire.bytes,
    );
    Action::Pass
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
fn skip<F: Frame>(frame: &F, direction: Direction, reason: Skip) -> Action {
    let wire = frame.wire(None);
    count_skipped(
        frame.ifindex(),
        direction as u32,
        reason as u32,
        wire.packets,
        wire.bytes,
    );
    Action::Pass
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
