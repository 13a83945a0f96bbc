//! The bytes read of an upload, by which other bytes for the same place are detected.
//!
//! A client that evades reading sends bytes that the server does not take (with a wrong checksum, or with too
//! few hops to go), and then, for the same place, those that it does.

use crate::decode::stream::{Stream, is_padding};

/// The most bytes read that are kept.
const MAX_OCTETS: usize = 4096;

/// The last bytes read.
#[derive(Debug)]
pub(super) struct Kept {
    /// The sequence number of the first.
    start: u32,
    octets: Vec<u8>,
    /// Whether others were read before them.
    cut: bool,
}

impl Kept {
    /// Nothing yet of an upload whose first octet has this number.
    pub(super) const fn new(start: u32) -> Self {
        Self {
            start,
            octets: Vec::new(),
            cut: false,
        }
    }

    /// All that was read of a stream.
    pub(super) fn of(stream: &Stream) -> Self {
        Self {
            start: stream.start().unwrap_or(0),
            octets: stream.contiguous().to_vec(),
            cut: false,
        }
    }

    /// Keeps octets from a place on.
    pub(super) fn add(&mut self, start: u32, octets: &[u8]) {
        if start != self.end() {
            self.octets.clear();
            self.start = start;
            self.cut = true;
        }
        self.octets.extend_from_slice(octets);
        let over = self.octets.len().saturating_sub(MAX_OCTETS);
        if over > 0 {
            self.octets.drain(..over);
            self.start = self.start.wrapping_add(over as u32);
            self.cut = true;
        }
    }

    /// Whether a segment contradicts the bytes read; `true` if those are no longer kept. Bytes that may be
    /// padding contradict nothing.
    pub(super) fn contradicts(&self, sequence: u32, octets: &[u8]) -> bool {
        if octets.is_empty() || is_padding(octets) {
            return false;
        }
        let ahead = sequence.wrapping_sub(self.start) as i32;
        let (before, from) = match ahead {
            ..0 => (ahead.unsigned_abs() as usize, 0),
            ahead => (0, ahead as usize),
        };
        if before > 0 && self.cut {
            return true;
        }
        let said = octets.get(before..).unwrap_or_default();
        let read = self.octets.get(from..).unwrap_or_default();
        said.iter().zip(read).any(|(said, read)| said != read)
    }

    /// Whether a segment says more than was read.
    pub(super) fn is_behind(&self, sequence: u32, payload: u32) -> bool {
        let end = sequence.wrapping_add(payload);
        end.wrapping_sub(self.end()) as i32 > 0
    }

    /// Lets the octets go, not where they were.
    pub(super) fn forget(&mut self) {
        self.cut |= !self.octets.is_empty();
        self.start = self.end();
        self.octets = Vec::new();
    }

    /// The sequence number after the bytes read.
    pub(super) fn end(&self) -> u32 {
        self.start.wrapping_add(self.octets.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_held_against_what_is_said_again() {
        let mut kept = Kept::new(u32::MAX - 1);
        kept.add(u32::MAX - 1, b"abcdef");
        for (sequence, octets, contradicts) in [
            (u32::MAX - 1, &b"abcdef"[..], false),
            (u32::MAX - 1, b"abcdefgh", false),
            (u32::MAX, b"bc", false),
            (u32::MAX, b"bx", true),
            (2, b"ef?", false),
            (3, b"x", true),
            (4, b"x", false),
            // A stack that asks whether the other is still there.
            (3, b"\0", false),
            // Before the first: the server takes none of it.
            (u32::MAX - 3, b"yzab", false),
            (u32::MAX - 3, b"yzax", true),
        ] {
            assert_eq!(
                kept.contradicts(sequence, octets),
                contradicts,
                "{sequence}"
            );
        }
        assert!(!kept.is_behind(1, 3) && kept.is_behind(1, 4));
        kept.forget();
        assert!(
            kept.contradicts(u32::MAX, b"bc"),
            "it is not known any more"
        );
        assert!(!kept.contradicts(4, b"g"));
    }

    #[test]
    fn a_gap_and_a_limit_cut_it() {
        let mut kept = Kept::new(0);
        kept.add(0, &[b'a'; MAX_OCTETS]);
        assert!(!kept.contradicts(0, b"a"));
        kept.add(MAX_OCTETS as u32, b"b");
        assert!(kept.contradicts(0, b"a"));
        assert!(!kept.contradicts(1, b"a"));
        kept.add(9_000, b"c");
        assert!(kept.contradicts(MAX_OCTETS as u32, b"b"));
        assert!(!kept.contradicts(9_000, b"cd"));
    }
}
