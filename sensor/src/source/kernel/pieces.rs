//! Payloads that come through the ring in pieces, put together again.
//!
//! A program puts the pieces of a packet into the ring in order, each behind a head of its own, and stops
//! at the first that finds no room. Entries of other CPUs may lie between them.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use sensor_ebpf::{
    parse::Mac,
    sample::{Head, MAX_PAYLOAD},
};

use crate::{model::CutPayloads, record::Sample};

/// Packets of one device that may be in pieces at a time: as many as CPUs may see of it at once. Each is of
/// 64 KiB at most. Of one more, the device's oldest is cut short.
const MAX_OF_DEVICE: usize = 8;

/// Packets of all devices that may be in pieces at a time: 16 MiB at most. Of one more, the oldest of the
/// device that has most is cut short.
const MAX_PENDING: usize = 256;

/// How much later than a packet's first piece, in nanoseconds, another packet came when the rest of the first
/// is not waited for any more: the program that copies it writes all of it at once.
const STALE: u64 = 1_000_000_000;

/// Packets of which pieces are still to come, in the order in which they began, and those that are whole.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pending: VecDeque<Pending>,
    whole: VecDeque<Sample>,
    cut: CutPayloads,
}

#[derive(Debug)]
struct Pending {
    head: Head,
    octets: Vec<u8>,
}

impl Pending {
    fn is_of(&self, head: &Head) -> bool {
        self.head.nanoseconds == head.nanoseconds
            && self.head.key == head.key
            && self.head.direction == head.direction
            && self.head.slot == head.slot
    }

    /// The sample that its pieces make.
    fn into_sample(self) -> Sample {
        Sample {
            head: Head {
                captured: self.octets.len() as u32,
                flags: self.head.flags & !Head::MORE,
                piece: 0,
                ..self.head
            },
            octets: Bytes::from(self.octets),
        }
    }
}

impl Pieces {
    /// Takes a piece.
    pub(super) fn take(&mut self, head: Head, octets: &[u8]) {
        self.cut_stale(head.nanoseconds);
        let more = head.flags & Head::MORE != 0;
        if head.piece == 0 {
            let first = Pending {
                head,
                octets: octets.to_vec(),
            };
            match more {
                true => self.begin(first),
                false => self.whole.push_back(first.into_sample()),
            }
            return;
        }
        // From the end: of two packets of a flow at the same time the later goes on.
        let Some(at) = self.pending.iter().rposition(|one| one.is_of(&head)) else {
            // The packet that this piece belongs to was given up before, and counted then.
            return;
        };
        let pending = &mut self.pending[at];
        if pending.octets.len() == usize::from(head.piece) * MAX_PAYLOAD {
            pending.octets.extend_from_slice(octets);
            if more {
                return;
            }
        } else {
            self.cut.piece_lost += 1;
        }
        self.end(at);
    }

    /// The payloads of which the rest was given up.
    pub(super) fn cut(&self) -> CutPayloads {
        self.cut
    }

    /// Whether pieces are still to come.
    pub(super) fn are_awaited(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The next packet that is whole, or of which no more comes.
    pub(super) fn next(&mut self) -> Option<Sample> {
        self.whole.pop_front()
    }

    /// The next one, where none is whole: of a packet that began long before a time.
    pub(super) fn next_after(&mut self, now: u64) -> Option<Sample> {
        self.cut_stale(now);
        self.next()
    }

    fn begin(&mut self, first: Pending) {
        let mac = first.head.key.mac();
        let of_device = self.of(mac).count();
        if of_device >= MAX_OF_DEVICE {
            self.cut.share_used += 1;
            self.end_oldest_of(mac);
        } else if self.pending.len() >= MAX_PENDING
            && let Some(mac) = self.busiest()
        {
            self.cut.no_room += 1;
            self.end_oldest_of(mac);
        }
        self.pending.push_back(first);
    }

    fn of(&self, mac: Mac) -> impl Iterator<Item = &Pending> {
        self.pending
            .iter()
            .filter(move |one| one.head.key.mac() == mac)
    }

    /// The device that has most packets in pieces.
    fn busiest(&self) -> Option<Mac> {
        let mut counts = HashMap::<u64, usize>::new();
        for one in &self.pending {
            *counts.entry(one.head.key.mac().word()).or_default() += 1;
        }
        let (mac, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        Some(Mac::from_word(mac))
    }

    fn end_oldest_of(&mut self, mac: Mac) {
        let oldest = self
            .pending
            .iter()
            .position(|one| one.head.key.mac() == mac);
        if let Some(at) = oldest {
            self.end(at);
        }
    }

    /// Waits no longer for the rest of packets that began long before a time, in nanoseconds since boot.
    fn cut_stale(&mut self, now: u64) {
        while let Some(first) = self.pending.front()
            && now.saturating_sub(first.head.nanoseconds) > STALE
        {
            self.cut.rest_late += 1;
            self.end(0);
        }
    }

    /// Waits no longer for the rest of a packet.
    fn end(&mut self, at: usize) {
        if let Some(pending) = self.pending.remove(at) {
            self.whole.push_back(pending.into_sample());
        }
    }
}

#[cfg(test)]
mod tests {
    use sensor_ebpf::{
        flow::{Direction, FlowKey},
        parse::parse,
    };

    use super::*;

    /// The head of a piece of a device's packet.
    fn head(device: u8, nanoseconds: u64, piece: u8, more: bool) -> Head {
        let mut frame = [0; 60];
        frame[11] = device;
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&46_u16.to_be_bytes());
        frame[23] = 17;
        let parsed = parse(&frame[..]).expect("a whole frame");
        Head {
            key: FlowKey::new(&parsed, Direction::Upload, 1),
            nanoseconds,
            piece,
            flags: Head::LAST | if more { Head::MORE } else { 0 },
            ..Head::default()
        }
    }

    /// The devices and lengths of the packets that are whole.
    fn whole(pieces: &mut Pieces) -> Vec<(u64, usize)> {
        std::iter::from_fn(|| pieces.next())
            .map(|sample| {
                assert_eq!(sample.head.captured as usize, sample.octets.len());
                assert_eq!(sample.head.flags, Head::LAST);
                (sample.head.key.mac().word(), sample.octets.len())
            })
            .collect()
    }

    fn mac(device: u8) -> u64 {
        head(device, 0, 0, false).key.mac().word()
    }

    #[test]
    fn pieces_become_the_packet_whatever_lies_between() {
        let mut pieces = Pieces::default();
        let full = [1; MAX_PAYLOAD];
        pieces.take(head(1, 5, 0, true), &full);
        pieces.take(head(2, 5, 0, true), &full);
        assert_eq!(whole(&mut pieces), []);
        pieces.take(head(3, 6, 0, false), b"abc");
        assert_eq!(whole(&mut pieces), [(mac(3), 3)]);
        pieces.take(head(1, 5, 1, true), &full);
        pieces.take(head(2, 5, 1, false), b"de");
        pieces.take(head(1, 5, 2, false), b"f");
        assert_eq!(
            whole(&mut pieces),
            [(mac(2), MAX_PAYLOAD + 2), (mac(1), 2 * MAX_PAYLOAD + 1)]
        );
        assert!(pieces.pending.is_empty());
        assert_eq!(pieces.cut(), CutPayloads::default());
    }

    #[test]
    fn what_lost_a_piece_ends_before_it() {
        let mut pieces = Pieces::default();
        let full = [1; MAX_PAYLOAD];
        pieces.take(head(1, 5, 0, true), &full);
        pieces.take(head(1, 5, 2, true), &full);
        assert_eq!(whole(&mut pieces), [(mac(1), MAX_PAYLOAD)]);
        pieces.take(head(1, 5, 3, false), &full);
        assert_eq!(whole(&mut pieces), []);
        pieces.take(head(1, 7, 0, true), &full);
        pieces.take(head(2, 7 + STALE, 0, false), b"x");
        assert_eq!(whole(&mut pieces), [(mac(2), 1)]);
        pieces.take(head(2, 8 + STALE, 0, false), b"x");
        assert_eq!(whole(&mut pieces), [(mac(1), MAX_PAYLOAD), (mac(2), 1)]);
        let cut = CutPayloads {
            piece_lost: 1,
            rest_late: 1,
            ..CutPayloads::default()
        };
        assert_eq!(pieces.cut(), cut);
    }

    #[test]
    fn no_device_has_what_others_need() {
        let mut pieces = Pieces::default();
        pieces.take(head(9, 5, 0, true), &[1; MAX_PAYLOAD]);
        for number in 0..2 * MAX_PENDING as u64 {
            pieces.take(head(1, 6 + number, 0, true), &[2; MAX_PAYLOAD]);
        }
        assert_eq!(pieces.pending.len(), 1 + MAX_OF_DEVICE);
        let cut = 2 * MAX_PENDING - MAX_OF_DEVICE;
        assert_eq!(pieces.cut().share_used, cut as u64);
        assert!(
            whole(&mut pieces)
                .iter()
                .all(|(device, _)| *device == mac(1))
        );
        for device in 10..=u8::MAX {
            for number in 0..2 {
                pieces.take(head(device, 2_000 + number, 0, true), &[3; MAX_PAYLOAD]);
            }
        }
        assert_eq!(pieces.pending.len(), MAX_PENDING);
        let begun = 1 + MAX_OF_DEVICE + 2 * 246;
        assert_eq!(pieces.cut().no_room, (begun - MAX_PENDING) as u64);
        assert!(pieces.of(Mac::from_word(mac(9))).next().is_some());
    }
}
