//! Books a frame to its flow, or to its device's overflow.

use sensor_ebpf::{
    books::{FURTHER_DEVICES, Settings},
    flow::{Direction, FlowKey, Judgement},
    parse::{protocol, tcp_flag},
    policy::{Decision, Layer, Rules as _, Verdict, decide},
    sample::{NO_SLOT, Watch, is_service},
};

use crate::{
    clock, global,
    hit::{count_hit, report_judged},
    sample::begin_sample,
    seen::{Booked, Seen},
    table::{
        devices,
        flows::{self, Flow},
        held, interfaces,
        rules::Rulebook,
        settings,
    },
};

/// Books a frame to its flow, which is opened where it is new, or to its device's overflow.
#[inline(always)]
pub(crate) fn book(seen: &Seen) -> Booked {
    let mut booked = Booked::from_number(book_to_flow(seen));
    // One after the other and not within each other: together they would take more stack than there
    // is.
    if booked == Booked::NO_FLOW {
        let device = open(seen);
        if device == OPENED {
            booked = Booked::from_number(book_to_flow(seen));
        }
        // Another CPU may have taken its entry of the index.
        if booked == Booked::NO_FLOW {
            booked = Booked::from_number(overflow(seen, device));
        }
    }
    booked
}

global! {
    /// Books a frame to its flow, where it has one. Gives the number of a [`Booked`].
    fn book_to_flow(seen: &Seen) -> u32 {
        let Some(settings) = settings::settings() else {
            return 0;
        };
        let hash = seen.key.hash(&settings.hash_secret);
        let Some(flow) = flows::find(hash, &seen.key, settings) else {
            return Booked::NO_FLOW.number();
        };
        let generation = settings::generation(settings);
        let mut judgement = flow.judgement();
        if judgement.generation != generation {
            judgement = judge(flow, seen, generation, judgement);
        }
        account(flow, seen, judgement).number()
    }
}

/// Books a frame to its flow and gives the flow's verdict, and whether the payload is wanted.
#[inline(always)]
fn account(flow: Flow, seen: &Seen, mut judgement: Judgement) -> Booked {
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
            interfaces::count_refused(seen.key.ifindex(), seen.wire);
            return Booked::new(decision.verdict);
        }
        if judgement.held && waits(flow) {
            interfaces::count_refused(seen.key.ifindex(), seen.wire);
            return Booked::new(Verdict::Drop);
        }
    }
    flow.count(direction, seen.wire);
    let booked = Booked::new(decision.verdict);
    let is_fragment = seen.is_unread_fragment();
    if (seen.payload == 0 && !is_fragment) || !judgement.watch.wants(direction) {
        return booked;
    }
    if is_fragment && judgement.watch.runs_out(direction) {
        flow.add_to_judgement(Judgement::one_less(direction));
    }
    begin_sample(seen, flow.slot());
    if is_fragment {
        return booked.with_fragment();
    }
    booked.with_sample()
}

global! {
    /// A SYN: a connection begins, perhaps with the ports of one that ended.
    ///
    /// What was refused for its name is refused until the server has opened the new connection too: a
    /// SYN that the device made up, in the midst of the old one, is answered by none.
    fn open_again(seen: &Seen, slot: u32) -> u64 {
        let (Some(settings), Some(flow)) = (settings::settings(), flows::in_slot(slot)) else {
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
}

#[inline(always)]
const fn is_refused_by_name(judgement: &Judgement) -> bool {
    judgement.decision.layer as u8 != Layer::Address as u8 && judgement.decision.verdict.refuses()
}

global! {
    /// A QUIC Initial by which a device begins a connection, perhaps at the ports of another, or says more
    /// in one that it began. Of what passed, a little more is read, in which another hello may be.
    ///
    /// What was refused for its name stays refused as long as packets come: the first connection's
    /// server still speaks, and what it says cannot be told from the answers to the second. Who was
    /// silent for some seconds begins anew.
    fn connect_again(seen: &Seen, slot: u32) -> u64 {
        const MORE: u8 = 2;
        /// Seconds: a server has sent its first flight again several times by then (RFC 9002, section
        /// 6.2), each time further apart.
        const FORGOTTEN_AFTER: u64 = 5;

        let (Some(settings), Some(flow)) = (settings::settings(), flows::in_slot(slot)) else {
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
}

/// Whether what a held flow's server says still waits for the verdict.
#[inline(always)]
fn waits(flow: Flow) -> bool {
    let now = clock::nanoseconds();
    if held::held_until(flow).is_some_and(|until| now < until) {
        held::count();
        return true;
    }
    flow.add_to_judgement(Judgement::HOLD.wrapping_neg());
    held::count_expired();
    false
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

global! {
    /// The packed judgement about a flow.
    fn decision_of(key: &FlowKey, generation: u32) -> u64 {
        let Some(settings) = settings::settings() else {
            return 0;
        };
        let decision = decide(&Rulebook::new(generation, settings), key);
        Judgement::new(generation, decision, Watch::NONE).pack()
    }
}

/// What [`open`] gives where there was room.
const OPENED: u32 = u32::MAX;

global! {
    /// Opens a flow for a packet that has none, and decides about it. Gives [`OPENED`], or the number of
    /// the device's record where there was no room.
    fn open(seen: &Seen) -> u32 {
        let Some(settings) = settings::settings() else {
            return 0;
        };
        let device = devices::number_of(seen.key.mac(), seen.now);
        if device == FURTHER_DEVICES {
            return device;
        }
        let hash = seen.key.hash(&settings.hash_secret);
        let watch = Watch::of_new_flow(&seen.key, settings.watched_payloads);
        let Some(flow) = flows::open(
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
        let generation = settings::generation(settings);
        judge(
            flow,
            seen,
            generation,
            Judgement::new(generation, Decision::PASS, watch),
        );
        OPENED
    }
}

global! {
    /// Books a packet whose flow has no place to its device. Gives the same as [`book_to_flow`].
    fn overflow(seen: &Seen, device: u32) -> u32 {
        let Some(settings) = settings::settings() else {
            return 0;
        };
        let device = match device {
            OPENED => devices::number_of(seen.key.mac(), seen.now),
            device => device,
        };
        let judgement = decision_of(&seen.key, settings::generation(settings));
        let decision = Judgement::unpack(judgement).decision;
        if decision.policy != 0 {
            count_hit(seen, judgement);
        }
        if seen.direction() == Direction::Download && decision.verdict.refuses() {
            interfaces::count_refused(seen.key.ifindex(), seen.wire);
            return Booked::new(decision.verdict).number();
        }
        let direction = seen.direction();
        devices::count_overflow(device, seen.key.family(), direction, seen.wire, seen.now);
        interfaces::count_overflow(seen.key.ifindex(), direction, seen.wire);
        // Who has no place for flows still has an identity, and says names.
        if seen.payload == 0
            || settings.watched_payloads == 0
            || !is_service(&seen.key) && !is_judged(seen, settings)
        {
            return Booked::new(decision.verdict).number();
        }
        begin_sample(seen, NO_SLOT);
        Booked::new(decision.verdict).with_sample().number()
    }
}

/// Whether a payload without a flow may say a name that a rule is about: each is looked at.
#[inline(always)]
fn is_judged(seen: &Seen, settings: &Settings) -> bool {
    let rules = Rulebook::new(settings::generation(settings), settings);
    matches!(seen.key.protocol(), protocol::TCP | protocol::UDP)
        && seen.direction() == Direction::Upload
        && rules.for_device(seen.key.mac()) & rules.name_rules() != 0
}
