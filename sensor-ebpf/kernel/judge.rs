//! Judges what a payload says, before the packet goes on.
//!
//! Reached by uploads whose payload was just copied to this CPU's buffer: DNS questions, the start of
//! TLS and of HTTP. In functions that the verifier checks one by one: reading the name, finding its
//! chain, deciding.

use sensor_ebpf::{
    flow::Judgement,
    name::{
        MAX_LABELS, NAME_CAPACITY, Suffixes, hash_end, hash_multiplier, hash_octet, hash_start,
        longest,
    },
    parse::protocol,
    policy::{Decision, Layer, Rules as _, Verdict, decide_learned, decide_name, rule_flag},
    said::{Found, Place, Text, hello, question, request},
    sample::{Head, Kind, NO_SLOT, Watch, is_service},
};

use crate::{
    clock,
    decide::put,
    global,
    hit::{count_decided, count_hit, report_judged},
    sample::Payload,
    seen::{Action, Seen},
    table::{
        flows::{self, Flow},
        held, ring,
        rules::Rulebook,
        scratch, settings,
    },
    verifier::forget,
};

/// Lets one of the readers have the copied payload and this CPU's buffer for a name. Gives the
/// number of what was found.
#[inline(always)]
fn read(reader: impl FnOnce(&Payload<'_>, &mut Text) -> Found) -> u32 {
    match (scratch::sample(), scratch::said()) {
        (Some(sample), Some(said)) => reader(&Payload(sample), &mut said.text) as u32,
        _ => Found::Unread as u32,
    }
}

global! {
    /// The name of a DNS question.
    pub(crate) fn read_question() -> u32 {
        read(|payload, text| question::read(payload, 0, text))
    }
}

global! {
    /// The name of a DNS question in a stream.
    fn read_framed_question() -> u32 {
        read(|payload, text| question::read_framed(payload, text))
    }
}

global! {
    /// Where a TLS hello has its list of names: a [`Place`]'s number.
    fn find_names() -> u32 {
        match scratch::sample() {
            Some(sample) => hello::names(&Payload(sample)).number(),
            None => Place::Unknown.number(),
        }
    }
}

global! {
    /// The name in the list of names at a place in a TLS hello.
    fn read_server_name(place: u32) -> u32 {
        read(|payload, text| hello::name(payload, Place::from_number(place), text))
    }
}

global! {
    /// Where the field `Host` of a request names the host: a [`Place`]'s number.
    fn find_host() -> u32 {
        match scratch::sample() {
            Some(sample) => request::host(&Payload(sample)).number(),
            None => Place::Unknown.number(),
        }
    }
}

global! {
    /// Where the target of a request names the host: a [`Place`]'s number.
    fn find_target() -> u32 {
        match scratch::sample() {
            Some(sample) => request::target(&Payload(sample)).number(),
            None => Place::Unknown.number(),
        }
    }
}

global! {
    /// The host that stands at a place in a request.
    fn read_host(place: u32) -> u32 {
        read(|payload, text| request::name(payload, Place::from_number(place), text))
    }
}

global! {
    /// Hashes the suffixes of the name in this CPU's buffer, as [`Suffixes::of`] does, which has another
    /// loop: here it is of one length, and how many labels came is hidden from the verifier, which would
    /// go on with each number apart.
    ///
    /// [`Suffixes::of`]: sensor_ebpf::name::Suffixes::of
    fn hash_name(generation: u32) -> u32 {
        let (Some(settings), Some(said)) = (settings::settings(), scratch::said()) else {
            return 0;
        };
        let secret = Rulebook::new(generation, settings).name_secret();
        said.suffixes = Suffixes::default();
        let len = said.text.len as usize;
        let multiplier = hash_multiplier(secret);
        let mut hash = hash_start(secret);
        let mut labels = 0;
        let mut rest = len;
        for _ in 0..NAME_CAPACITY {
            if rest == 0 {
                break;
            }
            let octet = said.text.octets[(rest - 1) % NAME_CAPACITY];
            if octet == b'.' {
                said.suffixes.hashes[labels % MAX_LABELS] = hash_end(hash, secret);
                labels = forget(labels + 1, hash);
                if labels == MAX_LABELS {
                    break;
                }
            }
            hash = hash_octet(hash, octet, multiplier);
            rest = forget(rest - 1, hash);
        }
        if rest == 0 && len != 0 {
            said.suffixes.hashes[labels % MAX_LABELS] = hash_end(hash, secret);
            labels += 1;
        }
        said.suffixes.len = labels as u64;
        0
    }
}

global! {
    /// The number of the chain of the name whose hashes are in this CPU's buffer, plus one; 0 where no
    /// rule is about it.
    fn find_chain(generation: u32) -> u32 {
        let (Some(settings), Some(said)) = (settings::settings(), scratch::said()) else {
            return 0;
        };
        match longest(&Rulebook::new(generation, settings), &said.suffixes) {
            Some(chain) => chain + 1,
            None => 0,
        }
    }
}

/// In what [`decide_by_name`] gives: a rule was found.
const FOUND: u64 = 1 << 32;
/// In what [`decide_by_name`] gives: a question is answered with zeros.
const ZERO: u64 = 1 << 33;

global! {
    /// The policy, the verdict from bit 16, and what else there is to know, of a flow or a question by
    /// the chain of its name; 0 where no rule applies.
    fn decide_by_name(seen: &Seen, generation: u32, chain: u32, layer: u32) -> u64 {
        let Some(settings) = settings::settings() else {
            return 0;
        };
        let rules = Rulebook::new(generation, settings);
        match decide_name(&rules, &seen.key, chain, Layer::from_number(layer as u8)) {
            Some((rule, decision)) => {
                FOUND
                    | u64::from(decision.policy)
                    | u64::from(rule.verdict) << 16
                    | if rule.flags & rule_flag::ZERO != 0 {
                        ZERO
                    } else {
                        0
                    }
            }
            None => 0,
        }
    }
}

global! {
    /// As [`decide_by_name`], of a flow that says no name, by what is learned of its address: while user
    /// space is there, which alone knows the names that come to it.
    fn decide_by_learned(seen: &Seen, generation: u32) -> u64 {
        /// Nanoseconds: a busy machine may be late to say that somebody is there.
        const GRACE: u64 = 4_000_000_000;

        let Some(settings) = settings::settings() else {
            return 0;
        };
        let rules = Rulebook::new(generation, settings);
        let learned = rules.learned(&seen.key);
        if learned == 0 || clock::nanoseconds() >= settings.alive_until + GRACE {
            return 0;
        }
        match decide_learned(&rules, &seen.key, learned) {
            Some(decision) => {
                FOUND | u64::from(decision.policy) | u64::from(decision.verdict as u8) << 16
            }
            None => 0,
        }
    }
}

global! {
    /// Judges the upload whose payload is in this CPU's buffer, and gives what becomes of it; `booked`
    /// where the payload changes nothing.
    pub(crate) fn judge(seen: &Seen, booked: u32) -> u32 {
        let (Some(settings), Some(sample)) = (settings::settings(), scratch::sample()) else {
            return booked;
        };
        let generation = settings::generation(settings);
        let rules = Rulebook::new(generation, settings);
        let device = rules.for_device(seen.key.mac());
        if device & rules.name_rules() == 0 || Verdict::from_number(booked as u8).refuses() {
            return booked;
        }
        let kind = sample.head.kind;
        let head = &mut sample.head;
        if head.flags & Head::URGENT != 0 {
            // What the server reads has an octet less.
            if device & rules.strict_rules() != 0 {
                wait(seen, head);
            }
            return booked;
        }
        const DNS: u8 = Kind::Dns as u8;
        const TLS: u8 = Kind::Tls as u8;
        const HTTP: u8 = Kind::Http as u8;
        let (mut found, layer) = match kind {
            DNS if seen.key.protocol() == protocol::UDP => (read_question(), Layer::Dns),
            DNS => (read_framed_question(), Layer::Dns),
            TLS => (read_server_name(find_names()), Layer::Tls),
            HTTP => (read_host(find_host()), Layer::Http),
            _ => {
                if device & rules.strict_rules() != 0 {
                    wait(seen, head);
                }
                return booked;
            }
        };
        let mut decided = by_name(seen, generation, found, layer);
        if kind == HTTP && !refuses(decided) {
            // A request to a proxy names its host twice: one of them is enough.
            let target = read_host(find_target());
            let by_target = by_name(seen, generation, target, layer);
            if by_target != 0 {
                decided = by_target;
            }
            if target != Found::Nameless as u32 {
                // Where it cannot be told what the target names, the field does not say it all.
                found = target;
            }
        }
        if found == Found::Unread as u32 {
            if device & rules.strict_rules() != 0 {
                wait(seen, head);
            }
            return booked;
        }
        head.flags |= Head::JUDGED;
        let mut layer = layer;
        if found == Found::Nameless as u32 && layer != Layer::Dns && decided == 0 {
            decided = decide_by_learned(seen, generation);
            layer = Layer::Address;
        }
        let decision = Decision {
            policy: decided as u16,
            verdict: Verdict::from_number((decided >> 16) as u8),
            layer,
        };
        if decision.verdict.refuses() {
            head.flags |= Head::REFUSED;
        }
        if layer == Layer::Dns && seen.key.protocol() == protocol::UDP {
            // Each question by itself: the flow is the resolver's.
            if decided != 0 {
                count_hit(seen, Judgement::new(generation, decision).pack(), 1);
            }
            return match decision.verdict {
                Verdict::Pass | Verdict::Allow => booked,
                Verdict::Drop => Action::Drop as u32,
                Verdict::Reject if decided & ZERO != 0 => Action::Zero as u32,
                Verdict::Reject => Action::NxDomain as u32,
            };
        }
        conclude(seen, generation, decided, layer as u32)
    }
}

/// What is decided by a name that was read; 0 where none was, or no rule is about it.
#[inline(always)]
fn by_name(seen: &Seen, generation: u32, found: u32, layer: Layer) -> u64 {
    if found != Found::Name as u32 {
        return 0;
    }
    hash_name(generation);
    match find_chain(generation) {
        0 => 0,
        chain => decide_by_name(seen, generation, chain - 1, layer as u32),
    }
}

#[inline(always)]
const fn refuses(decided: u64) -> bool {
    Verdict::from_number((decided >> 16) as u8).refuses()
}

global! {
    /// Puts what was decided by a name into the flow, and gives what becomes of the packet.
    fn conclude(seen: &Seen, generation: u32, decided: u64, layer: u32) -> u32 {
        let Some(sample) = scratch::sample() else {
            return Action::Pass as u32;
        };
        let decision = Decision {
            policy: decided as u16,
            verdict: Verdict::from_number((decided >> 16) as u8),
            layer: Layer::from_number(layer as u8),
        };
        if decided != 0 {
            let judgement = Judgement::new(generation, decision).pack();
            match sample.head.slot {
                // Its packets are counted one by one.
                NO_SLOT => count_hit(seen, judgement, 1),
                _ => count_decided(seen, judgement),
            };
            report_judged(seen, judgement);
        }
        if let Some(flow) = flows::in_slot(sample.head.slot) {
            store_by_name(flow, seen, generation, decision, sample.head.kind);
        }
        decision.verdict as u32
    }
}

/// Puts what a name led to into the flow; a policy of 0: no rule is about it.
#[inline(always)]
fn store_by_name(flow: Flow, seen: &Seen, generation: u32, decision: Decision, kind: u8) {
    /// How often it is tried again because another CPU was first.
    const TRIES: u32 = 3;

    for _ in 0..TRIES {
        let before = flow.line.judgement_word();
        let mut judgement = Judgement {
            generation,
            named: true,
            held: false,
            ..Judgement::unpack(before)
        };
        if decision.policy != 0 {
            judgement.decision = decision;
        }
        if put(flow, seen, before, judgement, true) {
            break;
        }
    }
    if decision.verdict.refuses() {
        flow.line.set_watch(Watch::NONE);
    } else if kind == Kind::Http as u8 {
        // Every request names a host.
        flow.line.set_watch(Watch::new(Watch::ALWAYS, 0));
    }
}

/// Lets what the server says wait for the verdict, where user space is there to give one.
#[inline(always)]
fn wait(seen: &Seen, head: &Head) {
    let (Some(settings), Some(flow)) = (settings::settings(), flows::in_slot(head.slot)) else {
        return;
    };
    let before = flow.line.judgement_word();
    let judgement = Judgement::unpack(before);
    let now = clock::nanoseconds();
    if judgement.named || judgement.held || is_service(&head.key) || now >= settings.alive_until {
        return;
    }
    if held::hold(flow, now + settings.hold_nanoseconds) {
        let held = Judgement {
            held: true,
            ..judgement
        };
        put(flow, seen, before, held, true);
    }
}

global! {
    /// Tells user space of a fragment in which nothing could be read, where a rule by name applies to the
    /// device. `observe` has written its head.
    pub(crate) fn tell_fragment() -> u32 {
        let (Some(settings), Some(sample)) = (settings::settings(), scratch::sample()) else {
            return 0;
        };
        let rules = Rulebook::new(settings::generation(settings), settings);
        let device = rules.for_device(sample.head.key.mac());
        if device & rules.name_rules() != 0 {
            sample.head.kind = Kind::Stream as u8;
            sample.head.flags |= Head::FRAGMENT;
            ring::submit(sample, 0, Kind::Stream);
        }
        0
    }
}

global! {
    /// Puts the sample in this CPU's buffer into the ring. Of questions that were refused, one a jiffy
    /// and CPU: what is refused is asked again and again, and user space has nothing to do about it.
    pub(crate) fn submit() -> u32 {
        if let Some(sample) = scratch::sample()
            && let Some(kind) = Kind::from_number(sample.head.kind)
            && let Some(said) = scratch::said()
        {
            if sample.head.slot == NO_SLOT && !is_service(&sample.head.key) {
                // Nothing that user space could say would find it; the packet is in the overflow's books.
                return 0;
            }
            if sample.head.kind == Kind::Dns as u8 && sample.head.flags & Head::REFUSED != 0 {
                if said.told == sample.head.at {
                    ring::count_shed(Kind::Dns);
                    return 0;
                }
                said.told = sample.head.at;
            }
            ring::submit(sample, sample.head.captured, kind);
        }
        0
    }
}
