//! Decides about flows: by their addresses, by what user space ruled, and anew where a connection begins.
//!
//! The stored judgement is changed by compare-and-exchange alone. Of two CPUs that judge one flow at the
//! same time, the second finds what the first stored, and starts from it.

use sensor_ebpf::{
    books::Settings,
    connection::Syn,
    flow::{Direction, FlowKey, Judgement, Ruling},
    parse::{protocol, tcp_flag},
    policy::{Decision, Rules as _, decide},
    sample::Watch,
};

use crate::{
    global,
    hit::{count_decided, end_decision, report_judged},
    seen::Seen,
    table::{
        flows::{self, Flow},
        rules::Rulebook,
        settings,
    },
};

global! {
    /// The packed judgement about a flow by its addresses alone.
    pub(crate) fn decide_by_address(key: &FlowKey, generation: u32) -> u64 {
        let Some(settings) = settings::settings() else {
            return 0;
        };
        let decision = decide(&Rulebook::new(generation, settings), key);
        Judgement::new(generation, decision).pack()
    }
}

#[inline(always)]
fn by_address(key: &FlowKey, generation: u32) -> Decision {
    Judgement::unpack(decide_by_address(key, generation)).decision
}

/// How often a judgement is made again because another CPU was first.
const TRIES: u32 = 3;

/// Puts a judgement in the place of the one that was read, and books what that changes. `own` says that the
/// packet at hand was counted already. Gives whether the old one was still there.
#[inline(always)]
pub(crate) fn put(flow: Flow, seen: &Seen, before: u64, after: Judgement, own: bool) -> bool {
    if !flow.line.replace_judgement(before, after) {
        return false;
    }
    let old = Judgement::unpack(before);
    // A flow of generation 0 has just been opened, and nothing was counted of it.
    if old.generation != 0 && old.decision != after.decision {
        for direction in Direction::ALL {
            end_decision(seen, flow.slot(), before, direction as u32, u32::from(own));
        }
    }
    true
}

/// As [`put`], where the packet is about to be counted under the new judgement; counts the decision.
#[inline(always)]
fn decide_anew(flow: Flow, seen: &Seen, before: u64, after: Judgement) -> bool {
    if !put(flow, seen, before, after, false) {
        return false;
    }
    if Judgement::unpack(before).decision != after.decision && after.decision.policy != 0 {
        count_decided(seen, after.pack());
        report_judged(seen, after.pack());
    }
    true
}

global! {
    /// The judgement that takes the place of a stored one under a generation, with a ruling that was not
    /// taken up yet. In a function of its own, because Linux 6.1's verifier would go on with each combination
    /// of the two words' fields apart.
    fn judge_again(key: &FlowKey, before: u64, ruling: u64, generation: u32) -> u64 {
        let by_address = by_address(key, generation);
        let mut judgement = Judgement::unpack(before);
        let ruling = Ruling::unpack(ruling);
        if judgement.generation != generation {
            judgement = judgement.under(generation, by_address);
        }
        if ruling.version != judgement.version {
            judgement = judgement.take_up(ruling, by_address);
        }
        judgement.pack()
    }
}

global! {
    /// Sets the watch of a flow as a ruling says that was just taken up.
    fn watch_as_ruled(seen: &Seen, slot: u32, ruling: u64, judgement: u64) -> u32 {
        let Some(flow) = flows::in_slot(slot) else {
            return 0;
        };
        let ruling = Ruling::unpack(ruling);
        let judgement = Judgement::unpack(judgement);
        if ruling.epoch == judgement.epoch {
            flow.line.set_watch(match judgement.decision.verdict.refuses() {
                true => Watch::NONE,
                false => ruling.wants.of(flow.line.watch(), &seen.key),
            });
        }
        0
    }
}

global! {
    /// Judges a flow under the generation in force, and takes up what user space ruled. Gives the stored
    /// judgement.
    pub(crate) fn judge_flow(seen: &Seen, slot: u32) -> u64 {
        let (Some(settings), Some(flow)) = (settings::settings(), flows::in_slot(slot)) else {
            return 0;
        };
        let generation = settings::generation(settings);
        for _ in 0..TRIES {
            let before = flow.line.judgement_word();
            let ruling = flow.line.ruling_word();
            if Judgement::is_current(before, ruling, generation) {
                return before;
            }
            let after = judge_again(&seen.key, before, ruling, generation);
            if decide_anew(flow, seen, before, Judgement::unpack(after)) {
                if Judgement::unpack(before).version != Ruling::unpack(ruling).version {
                    watch_as_ruled(seen, slot, ruling, after);
                }
                return after;
            }
        }
        flow.line.judgement_word()
    }
}

global! {
    /// A SYN: perhaps a connection begins, with the ports of one that ended ([`Syn::begins`]). Gives the
    /// judgement by which the SYN itself goes.
    ///
    /// A flow that was refused for its name stays refused until the server has opened the new connection: only
    /// the device's SYN passes, so that the server can.
    pub(crate) fn reopen(seen: &Seen, slot: u32, is_new: u32) -> u64 {
        let (Some(settings), Some(flow)) = (settings::settings(), flows::in_slot(slot)) else {
            return 0;
        };
        let direction = seen.direction();
        let answers = seen.tcp_flags & tcp_flag::ACK != 0;
        let syn = Syn {
            direction,
            sequence: seen.sequence,
            acknowledges: answers.then_some(seen.tcp_word),
        };
        let begins = syn.begins(&flow.known());
        for (direction, sequence) in Direction::ALL.into_iter().zip(begins.initial_sequence) {
            flow.set_initial_sequence(direction, sequence);
        }
        if is_new != 0 {
            // The SYN has just opened the flow.
            return flow.line.judgement_word();
        }
        for _ in 0..TRIES {
            let before = flow.line.judgement_word();
            let judgement = Judgement::unpack(before);
            let refused = judgement.is_refused_by_name();
            let calls = direction == Direction::Upload && !answers;
            if !begins.is_next && !(refused && (calls || seen.is_servers_syn())) {
                if calls {
                    // The next payloads are read, whether the SYN begins another connection or not.
                    let watch = Watch::of_new_flow(&seen.key, settings.watched_payloads);
                    flow.line.set_watch(watch);
                }
                return before;
            }
            let by_address = by_address(&seen.key, judgement.generation);
            let next = judgement.of_next_connection(by_address, flow.line.ruling_word());
            if refused && calls {
                return next.pack();
            }
            if decide_anew(flow, seen, before, next) {
                flow.line
                    .set_watch(Watch::of_new_flow(&seen.key, settings.watched_payloads));
                return next.pack();
            }
        }
        flow.line.judgement_word()
    }
}

/// Whether rules by name apply to what a device says in a packet.
#[inline(always)]
pub(crate) fn names_are_judged(seen: &Seen, settings: &Settings) -> bool {
    let rules = Rulebook::new(settings::generation(settings), settings);
    matches!(seen.key.protocol(), protocol::TCP | protocol::UDP)
        && seen.direction() == Direction::Upload
        && rules.for_device(seen.key.mac()) & rules.name_rules() != 0
}

global! {
    /// A QUIC Initial by which a device begins a connection, perhaps at the ports of another, or says more in
    /// one that it began. Of a flow that passed, a little more is read, in which another hello may be; where rules
    /// by name apply to the device, whatever it sent before, and whichever connection it is. Gives the stored
    /// judgement.
    ///
    /// A flow that was refused for its name stays refused as long as packets come, because the first
    /// connection's server still speaks, and its packets cannot be told from the answers to the second. A flow
    /// that was silent for some seconds begins anew.
    pub(crate) fn connect_again(seen: &Seen, slot: u32) -> u64 {
        const MORE: u8 = 2;
        /// Seconds: a server has sent its first flight again several times by then (RFC 9002, section
        /// 6.2), each time further apart.
        const FORGOTTEN_AFTER: u32 = 5;

        let (Some(settings), Some(flow)) = (settings::settings(), flows::in_slot(slot)) else {
            return 0;
        };
        let before = flow.line.judgement_word();
        let judgement = Judgement::unpack(before);
        let known = flow.initial_sequence(Direction::Upload);
        let is_another = known != 0 && known != seen.sequence;
        let refused = judgement.is_refused_by_name();
        let silent = (seen.now as u32).wrapping_sub(flow.line.last_seen());
        if refused && (!is_another || silent < settings.hz as u32 * FORGOTTEN_AFTER) {
            return before;
        }
        if known != seen.sequence {
            flow.set_initial_sequence(Direction::Upload, seen.sequence);
        }
        if refused {
            let by_address = by_address(&seen.key, judgement.generation);
            let next = judgement.of_next_connection(by_address, flow.line.ruling_word());
            if decide_anew(flow, seen, before, next) {
                flow.line
                    .set_watch(Watch::of_new_flow(&seen.key, settings.watched_payloads));
                return next.pack();
            }
        } else if is_another && judgement.named || names_are_judged(seen, settings) {
            flow.line.set_watch(flow.line.watch().with_uploads(MORE));
        }
        flow.line.judgement_word()
    }
}
