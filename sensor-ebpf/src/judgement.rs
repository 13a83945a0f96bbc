//! The decision about a flow: two words, each with one writer.
//!
//! The programs write a [`Judgement`], user space a [`Ruling`]. Neither writes the other's word, so neither can
//! lose an update of the other. A ruling names the connection it is about, by the epoch that the programs count
//! up where one begins, and the policy generation it is by. The programs [take it up](Judgement::take_up) at
//! the next packet. A version at the same place of both words shows whether they have.

use crate::{
    flow::FlowKey,
    policy::{Decision, Layer, Verdict},
    sample::Watch,
};

/// Where the fields lie that both words have.
mod bits {
    pub(super) const POLICY: u32 = 32;
    pub(super) const POLICY_MASK: u64 = 0xfff;
    pub(super) const VERDICT: u32 = 44;
    pub(super) const VERDICT_MASK: u64 = 0b11;
    /// The upper bit of a verdict's code.
    pub(super) const REFUSES: u64 = 0b10 << VERDICT;
    pub(super) const LAYER: u32 = 46;
    pub(super) const LAYER_MASK: u64 = 0b111;
    pub(super) const NAMED: u64 = 1 << 49;
    pub(super) const EPOCH: u32 = 50;
    pub(super) const EPOCH_MASK: u64 = 0x3f;
    pub(super) const VERSION: u32 = 56;
    pub(super) const VERSION_MASK: u64 = 0x1f;
}

const _: () = assert!(crate::books::MAX_POLICY_IDENTITIES as u64 <= bits::POLICY_MASK + 1);
const _: () = assert!(Layer::COUNT as u64 <= bits::LAYER_MASK + 1);

/// A verdict as both words have it: whether it refuses is a bit of its own.
#[inline(always)]
const fn code(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Pass => 0b00,
        Verdict::Allow => 0b01,
        Verdict::Reject => 0b10,
        Verdict::Drop => 0b11,
    }
}

#[inline(always)]
const fn verdict(word: u64) -> Verdict {
    match word >> bits::VERDICT & bits::VERDICT_MASK {
        0b00 => Verdict::Pass,
        0b01 => Verdict::Allow,
        0b10 => Verdict::Reject,
        _ => Verdict::Drop,
    }
}

// Every verdict has a code of its own in the field, so that unpacking gives the verdict that was packed.
const _: () = {
    let mut number = 0;
    while number <= u8::MAX as u16 {
        let one = Verdict::from_number(number as u8);
        assert!(code(one) <= bits::VERDICT_MASK);
        assert!(verdict(code(one) << bits::VERDICT) as u8 == one as u8);
        assert!((code(one) << bits::VERDICT & bits::REFUSES != 0) == one.refuses());
        number += 1;
    }
};

#[inline(always)]
const fn pack_decision(decision: Decision) -> u64 {
    (decision.policy as u64 & bits::POLICY_MASK) << bits::POLICY
        | code(decision.verdict) << bits::VERDICT
        | (decision.layer as u64) << bits::LAYER
}

#[inline(always)]
const fn unpack_decision(word: u64) -> Decision {
    Decision {
        policy: (word >> bits::POLICY & bits::POLICY_MASK) as u16,
        verdict: verdict(word),
        layer: Layer::from_number((word >> bits::LAYER & bits::LAYER_MASK) as u8),
    }
}

/// The decision of the programs about a flow, and its policy generation. Written by programs alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The policy generation; 0 is never in force, so a new record counts as not judged.
    pub generation: u32,
    /// The decision.
    pub decision: Decision,
    /// A name was judged, or the flow is known to say none. Under another generation the addresses are judged
    /// again, and a decision by name stays until the name is judged again too.
    pub named: bool,
    /// Packets of the server wait for the verdict on the name.
    pub held: bool,
    /// Another flow of the table has the same fingerprint: keys have to be compared.
    pub ambiguous: bool,
    /// Which connection of the flow this is about, 1 to [`MAX_EPOCH`](Self::MAX_EPOCH) and around; 0 in
    /// a new record.
    pub epoch: u8,
    /// The version of the ruling that was taken up last.
    pub version: u8,
}

impl Judgement {
    /// The highest epoch; 1 follows it.
    pub const MAX_EPOCH: u8 = bits::EPOCH_MASK as u8;

    /// The bit that is set in the stored word of a flow that is [ambiguous](Self::ambiguous).
    pub const AMBIGUOUS: u64 = 1 << 62;
    const HELD: u64 = 1 << 61;
    const GENERATION_MASK: u64 = 0xffff_ffff;

    /// A new flow's, of which nothing is known.
    #[inline(always)]
    pub const fn new(generation: u32, decision: Decision) -> Self {
        Self {
            generation,
            decision,
            named: false,
            held: false,
            ambiguous: false,
            epoch: 1,
            version: 0,
        }
    }

    /// The part of a stored word that stays when its flow has left: the epoch of its last connection. The next
    /// flow in the line has another, because user space may be about to store a ruling for the one that left.
    #[inline(always)]
    pub const fn released(word: u64) -> u64 {
        word & bits::EPOCH_MASK << bits::EPOCH
    }

    /// The epoch of the connection behind the one of a stored word.
    #[inline(always)]
    pub const fn next_epoch(word: u64) -> u8 {
        (word >> bits::EPOCH & bits::EPOCH_MASK) as u8 % Self::MAX_EPOCH + 1
    }

    /// Whether a flow with these stored words passes by the policy of a generation, and its last ruling was
    /// taken up: its next packet has only to be counted, if its payload is not wanted.
    ///
    /// Which policy lets it pass makes no difference, nor whether it has a name.
    #[inline(always)]
    pub const fn is_steady(word: u64, ruling: u64, generation: u32) -> bool {
        const MASK: u64 =
            Judgement::GENERATION_MASK | bits::REFUSES | Judgement::HELD | Judgement::AMBIGUOUS;

        word & MASK == generation as u64
            && (word ^ ruling) & (bits::VERSION_MASK << bits::VERSION) == 0
    }

    /// Whether a flow with these stored words was judged under a generation, and its ruling was taken up.
    #[inline(always)]
    pub const fn is_current(word: u64, ruling: u64, generation: u32) -> bool {
        word & Self::GENERATION_MASK == generation as u64
            && (word ^ ruling) & (bits::VERSION_MASK << bits::VERSION) == 0
    }

    /// The word that is stored.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.generation as u64
            | pack_decision(self.decision)
            | if self.named { bits::NAMED } else { 0 }
            | (self.epoch as u64 & bits::EPOCH_MASK) << bits::EPOCH
            | (self.version as u64 & bits::VERSION_MASK) << bits::VERSION
            | if self.held { Self::HELD } else { 0 }
            | if self.ambiguous { Self::AMBIGUOUS } else { 0 }
    }

    /// Reads the stored word.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            generation: word as u32,
            decision: unpack_decision(word),
            named: word & bits::NAMED != 0,
            held: word & Self::HELD != 0,
            ambiguous: word & Self::AMBIGUOUS != 0,
            epoch: (word >> bits::EPOCH & bits::EPOCH_MASK) as u8,
            version: (word >> bits::VERSION & bits::VERSION_MASK) as u8,
        }
    }

    /// Whether a name led to a refusal.
    #[inline(always)]
    pub const fn is_refused_by_name(&self) -> bool {
        self.decision.layer as u8 != Layer::Address as u8 && self.decision.verdict.refuses()
    }

    /// The same for another connection of the flow, of which nothing is known: rulings about the one
    /// before count for nothing.
    #[inline(always)]
    pub const fn of_next_connection(self, by_address: Decision, ruling: u64) -> Self {
        Self {
            decision: by_address,
            named: false,
            held: false,
            epoch: Self::next_epoch(self.pack()),
            version: Ruling::unpack(ruling).version,
            ..self
        }
    }

    /// The same under another generation, by which the addresses lead to a decision.
    ///
    /// A decision by name stays where the addresses do not refuse, until the name is judged again: there is no
    /// moment at which the flow passes for want of a verdict.
    #[inline(always)]
    pub const fn under(self, generation: u32, by_address: Decision) -> Self {
        let keeps =
            self.decision.layer as u8 != Layer::Address as u8 && !by_address.verdict.refuses();
        Self {
            generation,
            decision: if keeps { self.decision } else { by_address },
            ..self
        }
    }

    /// The same with a ruling taken up; `by_address` is the decision by the addresses.
    ///
    /// A refusal by address stays whatever names say. A refusal by name stays too, because the first judgement
    /// binds, unless a ruling by the generation in force judges that name again, or one by a later generation
    /// judges it. A ruling about another connection counts for nothing.
    #[inline(always)]
    pub fn take_up(self, ruling: Ruling, by_address: Decision) -> Self {
        let mut after = Self {
            version: ruling.version,
            ..self
        };
        if ruling.epoch != self.epoch || !ruling.named {
            return after;
        }
        after.named = true;
        after.held = false;
        let refuses = self.decision.verdict.refuses();
        let is_by_address = self.decision.layer as u8 == Layer::Address as u8;
        // Generations go around.
        let age = ruling.generation.wrapping_sub(self.generation) as i32;
        let binds = refuses && (is_by_address || age < 0 || age == 0 && !ruling.again);
        if binds {
            return after;
        }
        if ruling.decision.policy != 0 {
            after.decision = ruling.decision;
        } else if ruling.again && !is_by_address {
            after.decision = by_address;
        }
        after
    }
}

/// The payloads of a flow that user space wants to read once it has ruled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Wants {
    /// The watch stays as it is.
    #[default]
    Same = 0,
    /// The first payloads have told all they can: see [`Watch::settled`].
    Settled = 1,
    /// Every request of the flow names a host: all uploads are wanted.
    Requests = 2,
}

impl Wants {
    #[inline(always)]
    const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Settled,
            2 => Self::Requests,
            _ => Self::Same,
        }
    }

    /// The watch of a flow's next payloads from then on.
    #[inline(always)]
    pub const fn of(self, before: Watch, key: &FlowKey) -> Watch {
        match self {
            Self::Same => before,
            Self::Settled => before.settled(key),
            Self::Requests => Watch::new(Watch::ALWAYS, 0),
        }
    }
}

/// The ruling of user space about a flow. Written by user space alone, by one thread of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The generation of the policy that it is by.
    pub generation: u32,
    /// The connection that it is about: the epoch of the payload that was read.
    pub epoch: u8,
    /// Another one than that of the ruling before, so that the programs see it.
    pub version: u8,
    /// The decision by name; a policy of 0: no rule is about it.
    pub decision: Decision,
    /// Whether the name was judged, so that `decision` counts.
    pub named: bool,
    /// The name was judged before, by another policy.
    pub again: bool,
    /// The payloads to read from now on.
    pub wants: Wants,
}

impl Ruling {
    const AGAIN: u64 = 1 << 61;
    const WANTS: u32 = 62;

    /// The word that is stored.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.generation as u64
            | pack_decision(self.decision)
            | if self.named { bits::NAMED } else { 0 }
            | (self.epoch as u64 & bits::EPOCH_MASK) << bits::EPOCH
            | (self.version as u64 & bits::VERSION_MASK) << bits::VERSION
            | if self.again { Self::AGAIN } else { 0 }
            | (self.wants as u64) << Self::WANTS
    }

    /// Reads the stored word.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            generation: word as u32,
            epoch: (word >> bits::EPOCH & bits::EPOCH_MASK) as u8,
            version: (word >> bits::VERSION & bits::VERSION_MASK) as u8,
            decision: unpack_decision(word),
            named: word & bits::NAMED != 0,
            again: word & Self::AGAIN != 0,
            wants: Wants::from_number(word >> Self::WANTS),
        }
    }

    /// The same, to replace the stored ruling beside a stored judgement. It gets another version, and all that
    /// the stored ruling says about the same connection, that this one does not, and that the programs have not
    /// taken up yet. A stored refusal stays where this ruling would not lift it once taken up
    /// ([`Judgement::take_up`]).
    pub const fn following(mut self, stored: u64, judgement: u64) -> Self {
        let before = Self::unpack(stored);
        let taken_up = Judgement::unpack(judgement).version;
        let is_taken_up = before.version == taken_up;
        self.version = (before.version + 1) & bits::VERSION_MASK as u8;
        // Versions repeat: a ruling with the judgement's own would look like one that was taken up.
        if self.version == taken_up {
            self.version = (self.version + 1) & bits::VERSION_MASK as u8;
        }
        if is_taken_up || before.epoch != self.epoch {
            return self;
        }
        let age = self.generation.wrapping_sub(before.generation) as i32;
        let stays = before.decision.verdict.refuses()
            && !self.decision.verdict.refuses()
            && (age < 0 || age == 0 && !self.again);
        if before.named && (!self.named || stays) {
            self.generation = before.generation;
            self.decision = before.decision;
            self.named = true;
            self.again = before.again;
        }
        if self.wants as u8 == Wants::Same as u8 {
            self.wants = before.wants;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Decision = Decision {
        policy: 7,
        verdict: Verdict::Reject,
        layer: Layer::Tls,
    };
    const OBSERVED: Decision = Decision {
        policy: 9,
        verdict: Verdict::Pass,
        layer: Layer::Address,
    };

    fn ruling(decision: Decision) -> Ruling {
        Ruling {
            generation: 3,
            epoch: 1,
            version: 1,
            decision,
            named: true,
            again: false,
            wants: Wants::Same,
        }
    }

    #[test]
    fn both_words_are_read_as_they_were_written() {
        let judgement = Judgement {
            generation: u32::MAX,
            decision: Decision {
                policy: 4095,
                verdict: Verdict::Drop,
                layer: Layer::Http,
            },
            named: true,
            held: true,
            ambiguous: true,
            epoch: Judgement::MAX_EPOCH,
            version: 31,
        };
        assert_eq!(Judgement::unpack(judgement.pack()), judgement);
        let empty = Judgement::unpack(0);
        assert_eq!(empty.pack(), 0);
        for wants in [Wants::Same, Wants::Settled, Wants::Requests] {
            let ruling = Ruling {
                again: true,
                wants,
                ..ruling(REFUSED)
            };
            assert_eq!(Ruling::unpack(ruling.pack()), ruling);
        }
    }

    #[test]
    fn a_flow_that_passes_is_steady_whatever_policy_lets_it() {
        for decision in [
            Decision::PASS,
            OBSERVED,
            Decision {
                verdict: Verdict::Allow,
                ..OBSERVED
            },
        ] {
            let judgement = Judgement {
                named: true,
                ..Judgement::new(3, decision)
            };
            assert!(Judgement::is_steady(judgement.pack(), 0, 3));
            assert!(!Judgement::is_steady(judgement.pack(), 0, 4));
            let ruled = ruling(Decision::PASS).pack();
            assert!(!Judgement::is_steady(judgement.pack(), ruled, 3));
            let taken = judgement.take_up(Ruling::unpack(ruled), Decision::PASS);
            assert!(Judgement::is_steady(taken.pack(), ruled, 3));
            for other in [
                Judgement {
                    held: true,
                    ..judgement
                },
                Judgement {
                    ambiguous: true,
                    ..judgement
                },
                Judgement {
                    decision: REFUSED,
                    ..judgement
                },
            ] {
                assert!(!Judgement::is_steady(other.pack(), 0, 3));
            }
        }
    }

    #[test]
    fn a_ruling_of_another_connection_counts_for_nothing() {
        let judgement = Judgement::new(3, Decision::PASS);
        let stored = ruling(REFUSED).pack();
        let refused = judgement.take_up(Ruling::unpack(stored), Decision::PASS);
        assert_eq!(refused.decision, REFUSED);
        let next = refused.of_next_connection(OBSERVED, stored);
        assert_eq!(next.decision, OBSERVED);
        assert!(!next.named && Judgement::is_steady(next.pack(), stored, 3));
        let late = Ruling::unpack(stored).following(stored, next.pack());
        let after = next.take_up(late, OBSERVED);
        assert_eq!(after.decision, OBSERVED);
        assert_eq!(after.version, late.version);
        let mut around = judgement;
        for _ in 0..Judgement::MAX_EPOCH {
            around = around.of_next_connection(OBSERVED, 0);
            assert_ne!(around.epoch, 0);
        }
        assert_eq!(around.epoch, 1);
    }

    #[test]
    fn what_was_judged_first_binds_until_it_is_judged_again() {
        let refused = Judgement {
            named: true,
            ..Judgement::new(3, REFUSED)
        };
        let passes = ruling(Decision::PASS);
        assert_eq!(refused.take_up(passes, OBSERVED).decision, REFUSED);
        let again = Ruling {
            again: true,
            ..passes
        };
        assert_eq!(refused.take_up(again, OBSERVED).decision, OBSERVED);
        let allowed = Decision {
            policy: 2,
            verdict: Verdict::Allow,
            layer: Layer::Tls,
        };
        let again = Ruling {
            again: true,
            ..ruling(allowed)
        };
        assert_eq!(refused.take_up(again, OBSERVED).decision, allowed);
        // Under another generation it stays as well, until a ruling by that generation is there.
        let later = refused.under(4, OBSERVED);
        assert_eq!(later.decision, REFUSED);
        let ruled = Ruling {
            generation: 4,
            ..again
        };
        assert_eq!(later.take_up(ruled, OBSERVED).decision, allowed);
    }

    #[test]
    fn an_address_that_is_refused_stays_refused() {
        let by_address = Decision {
            layer: Layer::Address,
            ..REFUSED
        };
        let refused = Judgement::new(3, by_address);
        let allowed = Ruling {
            again: true,
            ..ruling(Decision {
                policy: 2,
                verdict: Verdict::Allow,
                layer: Layer::Tls,
            })
        };
        assert_eq!(refused.take_up(allowed, by_address).decision, by_address);
        assert_eq!(
            Judgement::new(3, REFUSED).under(4, by_address).decision,
            by_address
        );
    }

    #[test]
    fn a_ruling_that_only_ends_the_watch_keeps_what_was_said_before() {
        let first = ruling(REFUSED);
        let settled = Ruling {
            named: false,
            decision: Decision::PASS,
            wants: Wants::Settled,
            ..first
        };
        let fresh = Judgement::new(3, Decision::PASS);
        let second = settled.following(first.pack(), fresh.pack());
        assert!(second.named);
        assert_eq!(second.decision, REFUSED);
        assert_eq!(second.wants, Wants::Settled);
        assert_ne!(second.version, first.version);
        let third = ruling(REFUSED).following(second.pack(), fresh.pack());
        assert_eq!(third.wants, Wants::Settled);
        let taken = fresh.take_up(first, Decision::PASS);
        assert!(!settled.following(first.pack(), taken.pack()).named);
        let other = Ruling {
            epoch: 2,
            ..settled
        };
        assert!(!other.following(first.pack(), fresh.pack()).named);
    }

    #[test]
    fn a_refusal_that_was_not_taken_up_is_not_lost_to_what_passes() {
        let fresh = Judgement::new(3, Decision::PASS).pack();
        let refuses = ruling(REFUSED);
        let passes = ruling(Decision::PASS);
        let second = passes.following(refuses.pack(), fresh);
        assert_eq!(second.decision, REFUSED);
        assert_ne!(second.version, refuses.version);
        // Of an older generation, that comes late.
        let late = Ruling {
            generation: 2,
            again: true,
            ..passes
        };
        assert_eq!(late.following(refuses.pack(), fresh).decision, REFUSED);
        // A second judgement of the name may let it pass, and so may a later generation.
        let again = Ruling {
            again: true,
            ..passes
        };
        let later = Ruling {
            generation: 4,
            ..passes
        };
        for lifts in [again, later] {
            assert_eq!(
                lifts.following(refuses.pack(), fresh).decision,
                Decision::PASS
            );
        }
    }

    #[test]
    fn a_late_ruling_of_an_older_generation_lifts_no_refusal() {
        for (now, before) in [(3, 2), (1, u32::MAX)] {
            let refused = Judgement {
                named: true,
                ..Judgement::new(now, REFUSED)
            };
            for again in [false, true] {
                let late = Ruling {
                    generation: before,
                    again,
                    ..ruling(Decision::PASS)
                };
                assert_eq!(refused.take_up(late, OBSERVED).decision, REFUSED);
            }
        }
    }

    #[test]
    fn the_next_flow_of_a_line_has_another_epoch_than_the_last_connection_there() {
        let mut judgement = Judgement::new(3, REFUSED);
        for _ in 0..100 {
            judgement = judgement.of_next_connection(OBSERVED, 0);
            let released = Judgement::released(judgement.pack());
            assert_eq!(Judgement::unpack(released).decision, Decision::PASS);
            assert_ne!(Judgement::next_epoch(released), judgement.epoch);
            assert_ne!(Judgement::next_epoch(released), 0);
        }
        assert_eq!(Judgement::next_epoch(0), 1);
    }

    #[test]
    fn the_programs_see_the_last_of_any_number_of_rulings() {
        let judgement = Judgement::new(3, Decision::PASS);
        let mut stored = ruling(REFUSED).pack();
        for number in 0..100 {
            let next = ruling(REFUSED).following(stored, judgement.pack());
            assert_ne!(next.version, Ruling::unpack(stored).version, "{number}");
            stored = next.pack();
            let is_steady = Judgement::is_steady(judgement.pack(), stored, 3);
            assert!(!is_steady, "{number}");
        }
    }
}
