//! Puts payloads together that came in several records of the ring.

use std::collections::VecDeque;

use bytes::Bytes;
use sensor_ebpf::{parse::protocol, sample::Head};

use crate::record::Sample;

/// Payloads that may be in the making at a time, of 64 KiB at most each: one for each CPU of a large
/// gateway. The first is given out as it is where there are more.
const MAX_BEGUN: usize = 16;

/// Payloads of which some pieces have come. A program puts the pieces of one packet into the ring one
/// behind the other; those of other CPUs may come in between.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    begun: VecDeque<Begun>,
    whole: VecDeque<Sample>,
}

#[derive(Debug)]
struct Begun {
    head: Head,
    octets: Vec<u8>,
    /// The piece that comes next.
    next: u8,
    /// The ring was empty since it began.
    waited: bool,
}

impl Pieces {
    /// Takes a record; what is whole then is given by [`next`](Self::next).
    pub(super) fn take(&mut self, sample: Sample) {
        let head = sample.head;
        let more = head.flags & Head::MORE != 0;
        if head.piece == 0 && !more {
            self.whole.push_back(sample);
            return;
        }
        let begun = self.begun.iter().position(|begun| begun.is_of(&head));
        if head.piece == 0 {
            self.begun.push_back(Begun {
                head,
                octets: sample.octets.to_vec(),
                next: 1,
                waited: false,
            });
            if self.begun.len() > MAX_BEGUN {
                self.give_out(0);
            }
            return;
        }
        // Without its beginning it is of no use.
        let Some(place) = begun else { return };
        let begun = &mut self.begun[place];
        if begun.next != head.piece {
            self.give_out(place);
            return;
        }
        begun.next += 1;
        begun.octets.extend_from_slice(&sample.octets);
        if !more {
            if head.key.protocol() == protocol::TCP {
                let before = head.sequence.wrapping_sub(begun.head.sequence);
                begun.head.payload = before + head.payload;
            }
            self.give_out(place);
        }
    }

    /// The next payload that is whole.
    pub(super) fn next(&mut self) -> Option<Sample> {
        self.whole.pop_front()
    }

    /// Notes that the ring is empty: whose pieces do not come by the second time has lost them.
    pub(super) fn ring_is_empty(&mut self) {
        while self.begun.front().is_some_and(|begun| begun.waited) {
            self.give_out(0);
        }
        for begun in &mut self.begun {
            begun.waited = true;
        }
    }

    /// Gives out what there is of a payload.
    fn give_out(&mut self, place: usize) {
        if let Some(begun) = self.begun.remove(place) {
            self.whole.push_back(begun.into_sample());
        }
    }
}

impl Begun {
    /// Whether a piece is of the same packet.
    fn is_of(&self, piece: &Head) -> bool {
        self.head.key == piece.key
            && self.head.direction == piece.direction
            && self.head.nanoseconds == piece.nanoseconds
    }

    fn into_sample(self) -> Sample {
        let mut head = self.head;
        head.captured = self.octets.len() as u32;
        // Of TCP the first piece says no more than that another follows.
        head.payload = head.payload.max(head.captured);
        head.flags &= !Head::MORE;
        Sample {
            head,
            octets: Bytes::from(self.octets),
        }
    }
}

#[cfg(test)]
mod tests {
    use sensor_ebpf::{
        flow::{Direction, FlowKey},
        parse::parse,
        sample::MAX_PAYLOAD,
    };

    use super::*;

    fn key(protocol: u8) -> FlowKey {
        let mut frame = [0; 54];
        frame[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, 40]);
        frame[23] = protocol;
        let parsed = parse(&frame[..]).expect("a whole frame");
        FlowKey::new(&parsed, Direction::Upload, 1)
    }

    /// The records of a payload, as the kernel makes them.
    fn records(protocol: u8, at: u64, payload: &[u8]) -> Vec<Sample> {
        let pieces = payload.chunks(MAX_PAYLOAD).enumerate();
        pieces
            .map(|(number, octets)| {
                let before = number * MAX_PAYLOAD;
                let more = before + octets.len() < payload.len();
                let is_stream = protocol == protocol::TCP;
                Sample {
                    head: Head {
                        key: key(protocol),
                        nanoseconds: at,
                        sequence: if is_stream { 1_000 + before as u32 } else { 0 },
                        payload: match is_stream {
                            true if more => octets.len() as u32,
                            true => (payload.len() - before) as u32,
                            false => payload.len() as u32,
                        },
                        captured: octets.len() as u32,
                        piece: number as u8,
                        flags: Head::LAST | if more { Head::MORE } else { 0 },
                        ..Head::default()
                    },
                    octets: Bytes::copy_from_slice(octets),
                }
            })
            .collect()
    }

    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
    }

    #[test]
    fn pieces_become_what_they_were() {
        for protocol in [protocol::TCP, protocol::UDP] {
            for len in [1, 2_048, 2_049, 5_000, 65_000] {
                let payload = payload(len);
                let mut pieces = Pieces::default();
                for record in records(protocol, 7, &payload) {
                    assert!(pieces.next().is_none());
                    pieces.take(record);
                }
                let sample = pieces.next().expect("it is whole");
                assert_eq!(sample.octets, payload);
                let head = sample.head;
                assert_eq!((head.payload, head.captured), (len as u32, len as u32));
                assert_eq!((head.piece, head.flags), (0, Head::LAST));
                assert!(pieces.next().is_none() && pieces.begun.is_empty());
            }
        }
    }

    #[test]
    fn those_of_several_cpus_are_kept_apart() {
        let (one, two) = (payload(5_000), payload(4_000));
        let mut pieces = Pieces::default();
        let mut first = records(protocol::TCP, 1, &one).into_iter();
        let mut second = records(protocol::TCP, 2, &two).into_iter();
        while first.len() + second.len() > 0 {
            first
                .next()
                .into_iter()
                .chain(second.next())
                .for_each(|record| pieces.take(record));
        }
        let lens: Vec<_> = std::iter::from_fn(|| pieces.next())
            .map(|sample| sample.octets.len())
            .collect();
        assert_eq!(lens, [4_000, 5_000]);
    }

    #[test]
    fn what_was_lost_is_not_waited_for() {
        let whole = payload(5_000);
        let mut pieces = Pieces::default();
        // The end.
        for record in records(protocol::TCP, 1, &whole).into_iter().take(2) {
            pieces.take(record);
        }
        pieces.ring_is_empty();
        assert!(pieces.next().is_none());
        pieces.ring_is_empty();
        assert_eq!(pieces.next().map(|sample| sample.octets.len()), Some(4_096));
        // The middle: what lies behind it is not joined to what lies before.
        for record in records(protocol::TCP, 2, &whole).into_iter().step_by(2) {
            pieces.take(record);
        }
        assert_eq!(pieces.next().map(|sample| sample.octets.len()), Some(2_048));
        // The beginning.
        for record in records(protocol::TCP, 3, &whole).into_iter().skip(1) {
            pieces.take(record);
        }
        assert!(pieces.next().is_none() && pieces.begun.is_empty());
        // More than there is room for.
        for at in 0..=MAX_BEGUN as u64 {
            let first = records(protocol::TCP, 10 + at, &whole).into_iter().next();
            pieces.take(first.expect("a piece"));
        }
        assert_eq!(pieces.begun.len(), MAX_BEGUN);
        assert!(
            pieces
                .next()
                .is_some_and(|sample| sample.head.nanoseconds == 10)
        );
    }
}
