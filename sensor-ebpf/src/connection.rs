//! When another TCP connection begins in a flow, perhaps at the ports of one that ended.
//!
//! A new connection ends the judgement of the one before. A device that could begin one alone would get rid
//! of a verdict that is still to come: it would send a SYN between the two halves of its hello. Its server
//! ignores that SYN (RFC 9293, section 3.10.7.4: a challenge at most). So a SYN of the device begins a
//! connection only in a flow that no server has answered yet; everywhere else the server's answer does, which
//! says by its acknowledgement which SYN it is for.

use crate::flow::Direction;

/// The state of a flow when a SYN comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The sequence number of each direction's SYN.
    pub initial_sequence: [u32; 2],
    /// Whether there was one.
    pub syn_seen: [bool; 2],
    /// Whether the device got any packet in the flow.
    pub is_answered: bool,
}

/// A packet with the SYN flag, and without RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// Which way it goes.
    pub direction: Direction,
    /// Its sequence number.
    pub sequence: u32,
    /// The number that it acknowledges, where it answers a SYN.
    pub acknowledges: Option<u32>,
}

/// The change that a SYN makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begins {
    /// Whether another connection begins.
    pub is_next: bool,
    /// From where the bytes of each direction count from then on.
    pub initial_sequence: [u32; 2],
}

impl Syn {
    /// The change that it makes in a flow that was opened before.
    #[inline(always)]
    pub fn begins(&self, known: &Known) -> Begins {
        let [upload, download] = known.initial_sequence;
        let [upload_seen, download_seen] = known.syn_seen;
        match (self.direction, self.acknowledges) {
            (Direction::Upload, None) if !known.is_answered => Begins {
                is_next: !(upload_seen && upload == self.sequence),
                initial_sequence: [self.sequence, download],
            },
            // Of a device that answers, once: a device that is called says no names.
            (Direction::Upload, Some(_)) if !upload_seen => Begins {
                is_next: false,
                initial_sequence: [self.sequence, download],
            },
            (Direction::Upload, _) => Begins {
                is_next: false,
                initial_sequence: known.initial_sequence,
            },
            (Direction::Download, None) => Begins {
                is_next: !(download_seen && download == self.sequence),
                initial_sequence: [upload, self.sequence],
            },
            (Direction::Download, Some(acknowledges)) => {
                let answered = acknowledges.wrapping_sub(1);
                let is_same = upload_seen
                    && upload == answered
                    && (!download_seen || download == self.sequence);
                Begins {
                    is_next: !is_same,
                    initial_sequence: [answered, self.sequence],
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: Syn = Syn {
        direction: Direction::Upload,
        sequence: 1_000,
        acknowledges: None,
    };
    const ANSWER: Syn = Syn {
        direction: Direction::Download,
        sequence: 9_000,
        acknowledges: Some(1_001),
    };
    const OPEN: Known = Known {
        initial_sequence: [1_000, 9_000],
        syn_seen: [true, true],
        is_answered: true,
    };

    #[test]
    fn what_belongs_to_one_handshake_begins_nothing() {
        let called = Known {
            initial_sequence: [1_000, 0],
            syn_seen: [true, false],
            is_answered: false,
        };
        for (syn, known) in [(SYN, called), (ANSWER, called), (ANSWER, OPEN), (SYN, OPEN)] {
            let begins = syn.begins(&known);
            assert!(!begins.is_next, "{syn:?} {known:?}");
            assert_eq!(begins.initial_sequence[0], 1_000);
        }
        assert_eq!(ANSWER.begins(&called).initial_sequence, [1_000, 9_000]);
    }

    #[test]
    fn a_device_alone_begins_nothing_in_what_was_answered() {
        let made_up = Syn {
            sequence: 77,
            ..SYN
        };
        let answers = Syn {
            acknowledges: Some(9_001),
            ..made_up
        };
        for syn in [made_up, answers] {
            let begins = syn.begins(&OPEN);
            assert!(!begins.is_next);
            assert_eq!(begins.initial_sequence, OPEN.initial_sequence);
        }
        // The server answered the first of two.
        let two = Known {
            initial_sequence: [77, 0],
            syn_seen: [true, false],
            is_answered: false,
        };
        let begins = ANSWER.begins(&two);
        assert!(begins.is_next);
        assert_eq!(begins.initial_sequence, [1_000, 9_000]);
    }

    #[test]
    fn the_answer_to_another_syn_begins_a_connection() {
        for answer in [
            Syn {
                acknowledges: Some(78),
                ..ANSWER
            },
            Syn {
                sequence: 9_999,
                ..ANSWER
            },
        ] {
            let begins = answer.begins(&OPEN);
            assert!(begins.is_next);
            assert_eq!(begins.initial_sequence[1], answer.sequence);
        }
        let called = Syn {
            acknowledges: None,
            sequence: 5,
            ..ANSWER
        };
        assert!(called.begins(&OPEN).is_next);
        assert!(
            !Syn {
                sequence: 9_000,
                ..called
            }
            .begins(&OPEN)
            .is_next
        );
    }
}
