//! Judges the name that a payload says, before the packet goes on.
//!
//! Reached by uploads of which a piece was just copied to this CPU's buffer: DNS questions, the start of
//! TLS and of HTTP. In functions that the verifier checks one by one, and that [`reader`](crate::reader)
//! calls one after the other: reading the name, finding its chain, deciding.

use sensor_ebpf::{
    flow::Judgement,
    name::{
        MAX_LABELS, NAME_CAPACITY, Suffixes, hash_end, hash_multiplier, hash_octet, hash_start,
        longest,
    },
    parse::protocol,
    policy::{Decision, Layer, Rules as _, Verdict, decide_learned, decide_name, rule_flag},
    said::{
        Found, Place, Text,
        hello::{self, Walk},
        question,
        request::{self, End, Rest, Search},
    },
    sample::{Head, Kind, NO_SLOT, Watch},
};

use crate::{
    clock,
    decide::put,
    global,
    hit::{count_decided, count_hit, report_judged},
    sample::{Payload, Piece},
    seen::{Action, Seen},
    table::{
        flows::{self, Flow},
        held, ring,
        rules::Rulebook,
        scratch, settings,
    },
    verifier::{forget, forgotten, masked},
};

/// Lets one of the readers have the piece of the payload that is there, and this CPU's buffer for a name.
/// Gives the number of what was found.
#[inline(always)]
fn read(reader: impl FnOnce(&Piece<'_>, &mut Text) -> Found) -> u32 {
    match (scratch::sample(), scratch::reading(), scratch::said()) {
        (Some(sample), Some(reading), Some(said)) => {
            reader(&Piece::of(sample, reading), &mut said.text) as u32
        }
        _ => Found::Unread as u32,
    }
}

/// Lets one of the readers have the piece of the payload that is there.
#[inline(always)]
fn look<T>(reader: impl FnOnce(&Piece<'_>) -> T) -> Option<T> {
    let (sample, reading) = (scratch::sample()?, scratch::reading()?);
    Some(reader(&Piece::of(sample, reading)))
}

global! {
    /// The name of the DNS question in the message that begins at a place.
    pub(crate) fn read_question(start: u32) -> u32 {
        read(|payload, text| question::read(payload, start as usize, text))
    }
}

global! {
    /// Whether the question that was read is all that the message says.
    pub(crate) fn is_question_alone() -> u32 {
        match (scratch::sample(), scratch::said()) {
            (Some(sample), Some(said)) => {
                let name_len = masked::<255>(said.text.len as usize);
                let len = sample.head.payload as usize;
                u32::from(question::is_exact(&Payload(sample), name_len, len))
            }
            _ => 0,
        }
    }
}

global! {
    /// The name of the DNS question in the message of a stream whose length stands at a place.
    pub(crate) fn read_framed_question(start: u32) -> u32 {
        let found = read_question(start + 2);
        if found != Found::Name as u32 {
            return found;
        }
        let Some(said) = scratch::said() else {
            return Found::Unread as u32;
        };
        match look(|payload| question::is_within(payload, start as usize, said.text.len)) {
            Some(true) => found,
            _ => Found::Unread as u32,
        }
    }
}

global! {
    /// Where the message behind that one begins; behind all payloads where it is not known.
    pub(crate) fn message_behind(start: u32) -> u32 {
        match look(|payload| question::behind(payload, start as usize)) {
            Some(Some(next)) => next as u32,
            _ => u32::MAX,
        }
    }
}

global! {
    /// Looks a TLS hello through from where a [`Walk`] with this number is. Gives the number of where it
    /// came to.
    pub(crate) fn find_names(walk: u64) -> u64 {
        look(|payload| hello::walk(payload, Walk::from_number(walk)).number()).unwrap_or(walk)
    }
}

global! {
    /// Copies the name in the list of names at a place in a TLS hello.
    pub(crate) fn read_server_name(place: u32) -> u32 {
        read(|payload, text| hello::copy_name(payload, Place::from_number(place), text))
    }
}

global! {
    /// Looks for the field `Host` of a request from where a [`Search`] with this number is. Gives the
    /// number of where it came to.
    pub(crate) fn find_host(search: u64) -> u64 {
        look(|payload| request::search(payload, Search::from_number(search)).number())
            .unwrap_or(search)
    }
}

global! {
    /// Where the field `Host` names the host, after a search that is over: a [`Place`]'s number.
    pub(crate) fn found_host(search: u64) -> u32 {
        look(|payload| request::found(payload, Search::from_number(search)))
            .unwrap_or(Place::Unknown)
            .number()
    }
}

global! {
    /// Where the target of a request names the host: a [`Place`]'s number.
    pub(crate) fn find_target() -> u32 {
        look(|payload| request::target(payload)).unwrap_or(Place::Unknown).number()
    }
}

global! {
    /// Looks for the end of a request's head from where it was looked for before. Gives an [`End`]'s number.
    pub(crate) fn find_end() -> u32 {
        /// How many bytes are looked at at a time.
        const AT_ONCE: usize = 128;

        let (Some(sample), Some(reading)) = (scratch::sample(), scratch::reading()) else {
            return End::Body as u32;
        };
        let mut rest = Rest {
            at: reading.rest_at as usize,
            last: reading.rest_last,
        };
        let end = request::rest(&Piece::of(sample, reading), &mut rest, AT_ONCE);
        reading.rest_at = rest.at as u32;
        reading.rest_last = rest.last;
        end as u32
    }
}

global! {
    /// Copies the host that stands at a place in a request.
    pub(crate) fn read_host(place: u32) -> u32 {
        read(|payload, text| request::copy_name(payload, Place::from_number(place), text))
    }
}

global! {
    /// Makes a host name of the text in this CPU's buffer. Gives the number of what was found.
    fn settle() -> u32 {
        match scratch::said() {
            Some(said) => said
                .text
                .settle_by(|number, noise| forgotten(number as usize, noise) as u64)
                as u32,
            None => Found::Unread as u32,
        }
    }
}

/// The number of what was found, once the name that was copied is looked at.
#[inline(always)]
pub(crate) fn settled(found: u32) -> u32 {
    if found == Found::Name as u32 {
        return settle();
    }
    found
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
    /// The decision by the name that was found in the packet at hand; 0 where none was found, or no rule is
    /// about it.
    pub(crate) fn decide_about(found: u32, layer: u32) -> u64 {
        let (Some(settings), Some(reading)) = (settings::settings(), scratch::reading()) else {
            return 0;
        };
        if found != Found::Name as u32 {
            return 0;
        }
        let generation = settings::generation(settings);
        hash_name(generation);
        match find_chain(generation) {
            0 => 0,
            chain => decide_by_name(&reading.seen, generation, chain - 1, layer),
        }
    }
}

global! {
    /// Judges the packet at hand by what was found in it, and by what that decided.
    pub(crate) fn conclude_with(found: u32, layer: u32) -> u32 {
        let (Some(settings), Some(sample), Some(reading)) =
            (settings::settings(), scratch::sample(), scratch::reading())
        else {
            return 0;
        };
        let generation = settings::generation(settings);
        let head = &mut sample.head;
        if found != Found::Name as u32 && found != Found::Nameless as u32 {
            if reading.strict != 0 {
                wait(&reading.seen, head);
            }
            return 0;
        }
        head.flags |= Head::JUDGED;
        let mut decided = reading.decided;
        let mut layer = Layer::from_number(layer as u8);
        if found == Found::Nameless as u32 && layer != Layer::Dns && decided == 0 {
            decided = decide_by_learned(&reading.seen, generation);
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
        if layer == Layer::Dns && reading.seen.key.protocol() == protocol::UDP {
            // Each question by itself: the flow is the resolver's.
            if decided != 0 {
                let judgement = Judgement::new(generation, decision).pack();
                count_hit(&reading.seen, reading.device, judgement, 1);
            }
            reading.action = match decision.verdict {
                Verdict::Pass | Verdict::Allow => return 0,
                Verdict::Drop => Action::Drop as u32,
                Verdict::Reject if decided & ZERO != 0 => Action::Zero as u32,
                Verdict::Reject => Action::NxDomain as u32,
            };
            return 0;
        }
        let verdict = conclude(&reading.seen, generation, decided, layer as u32);
        reading.action = Action::from_number(verdict) as u32;
        0
    }
}

/// Whether the decision is to refuse.
#[inline(always)]
pub(crate) const fn refuses(decided: u64) -> bool {
    Verdict::from_number((decided >> 16) as u8).refuses()
}

global! {
    /// Puts the decision by a name into the flow, and gives the action on the packet.
    fn conclude(seen: &Seen, generation: u32, decided: u64, layer: u32) -> u32 {
        let (Some(sample), Some(reading)) = (scratch::sample(), scratch::reading()) else {
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
                NO_SLOT => count_hit(seen, reading.device, judgement, 1),
                _ => count_decided(seen, judgement),
            };
            report_judged(seen, judgement);
        }
        if let Some(flow) = flows::in_slot(sample.head.slot) {
            store_by_name(flow, seen, decision, reading.kind as u8);
        }
        decision.verdict as u32
    }
}

/// Puts the decision by a name into the flow; a policy of 0: no rule is about it.
///
/// The generation stays: the addresses were judged under it. A refusal that another CPU or user space put
/// there meanwhile stays too.
#[inline(always)]
fn store_by_name(flow: Flow, seen: &Seen, decision: Decision, kind: u8) {
    /// How often it is tried again because another CPU was first.
    const TRIES: u32 = 3;

    for _ in 0..TRIES {
        let before = flow.line.judgement_word();
        let mut judgement = Judgement {
            named: true,
            held: false,
            ..Judgement::unpack(before)
        };
        let stays = judgement.decision.verdict.refuses() && !decision.verdict.refuses();
        if decision.policy != 0 && !stays {
            judgement.decision = decision;
        }
        if put(flow, seen, before, judgement, true) {
            if judgement.decision.verdict.refuses() {
                flow.line.set_watch(Watch::NONE);
            } else if kind == Kind::Http as u8 {
                // Every request names a host.
                flow.line.set_watch(Watch::new(Watch::ALWAYS, 0));
            }
            return;
        }
    }
    // The verdict is stored nowhere: the device's next payload is read and judged again.
    if let Some(settings) = settings::settings() {
        flow.line
            .set_watch(Watch::of_new_flow(&seen.key, settings.watched_payloads));
    }
}

/// Has the server's packets wait for the verdict, where user space is there to give one.
#[inline(always)]
pub(crate) fn wait(seen: &Seen, head: &Head) {
    let (Some(settings), Some(flow)) = (settings::settings(), flows::in_slot(head.slot)) else {
        return;
    };
    let before = flow.line.judgement_word();
    let judgement = Judgement::unpack(before);
    let now = clock::nanoseconds();
    let is_flight = matches!(Kind::from_number(head.kind), Some(kind) if !kind.is_of_service());
    if judgement.named || judgement.held || !is_flight || now >= settings.alive_until {
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
