//! The start of a TCP stream, put together from its segments.
//!
//! Only the bytes without a gap after the first are returned, because bytes on both sides of a hole were never
//! sent together. If two segments have different bytes for the same place, only the receiver knows which it
//! took, and [`Stream::conflict`] tells so.

use std::ops::Range;

/// The most bytes of a stream that are held; later ones are not read.
pub const MAX_STREAM: usize = 16 * 1024;

/// The most pieces after a hole that are held; a further one is dropped as if it had been lost.
pub const MAX_ISLANDS: usize = 128;

/// The most octets that fill a segment without data up to the shortest Ethernet frame.
const MAX_PADDING: usize = 6;

/// Whether a segment may be nothing but the padding of an Ethernet frame: some middleboxes count it
/// as data of an acknowledgement. Where other octets are said for the same place, those count.
pub fn is_padding(octets: &[u8]) -> bool {
    octets.len() <= MAX_PADDING && octets.iter().all(|octet| *octet == 0)
}

/// One direction of a TCP stream, from its first octet.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The sequence number of the first octet.
    base: Option<u32>,
    /// Whether the SYN was seen: nothing can then lie before the base.
    fixed: bool,
    /// The byte of `base + i` is at `i`; bytes in no piece have no meaning.
    octets: Vec<u8>,
    /// The octets before the first hole.
    contiguous: usize,
    /// Pieces behind it, in order, with a hole before each.
    islands: Vec<Range<usize>>,
    /// The last piece that may be padding.
    padding: Range<usize>,
    conflict: bool,
}

impl Stream {
    /// A stream of which nothing is held yet. `initial` is the sequence number of its SYN, where
    /// that was seen: data begins at the number after it (RFC 9293, section 3.4). Without it the
    /// stream begins at the lowest number that is seen.
    pub fn new(initial: Option<u32>) -> Self {
        Self {
            base: initial.map(|initial| initial.wrapping_add(1)),
            fixed: initial.is_some(),
            ..Self::default()
        }
    }

    /// Whether a segment with this number would be all that is held, from its first octet on: then
    /// its octets are the stream so far, and can be read where they lie before anything is copied.
    pub fn is_start(&self, sequence: u32) -> bool {
        self.octets.is_empty() && self.base.is_none_or(|base| base == sequence)
    }

    /// Takes a segment: the sequence number of its first octet of data, and the data. Of a SYN with
    /// data (RFC 7413) that is the number after the SYN's own. Segments may come in any order and
    /// more than once.
    pub fn segment(&mut self, sequence: u32, octets: &[u8]) {
        // An empty one says nothing: a keep-alive has the number before the next octet.
        if octets.is_empty() {
            return;
        }
        let base = *self.base.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(base);
        // Half of the numbers lie before any number (RFC 9293, section 3.4).
        if ahead <= u32::MAX / 2 {
            self.put(ahead as usize, octets);
            return;
        }
        let before = base.wrapping_sub(sequence) as usize;
        if self.fixed {
            if let Some(octets) = octets.get(before..) {
                self.put(0, octets);
            }
        } else {
            self.base = Some(sequence);
            self.move_back(before);
            self.put(0, octets);
        }
    }

    /// The octets from the first one to the first hole.
    pub fn contiguous(&self) -> &[u8] {
        &self.octets[..self.contiguous]
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// The stream behind all that is held, without that; `None` where there is a hole, a conflict,
    /// or nothing to begin behind.
    pub fn behind(&self) -> Option<Self> {
        if !self.islands.is_empty() || self.conflict {
            return None;
        }
        Some(Self {
            base: Some(self.base?.wrapping_add(self.contiguous as u32)),
            fixed: true,
            ..Self::default()
        })
    }

    /// The sequence number of the first octet that is held or comes next; `None` where it is not known.
    pub fn start(&self) -> Option<u32> {
        self.base
    }

    /// Lets the first octets go, whether they came or not: the stream begins behind them.
    pub fn skip(&mut self, octets: usize) {
        self.base = self.base.map(|base| base.wrapping_add(octets as u32));
        self.fixed = true;
        let behind = |range: &Range<usize>| {
            range.start.saturating_sub(octets)..range.end.saturating_sub(octets)
        };
        let held = behind(&(0..self.contiguous));
        self.islands = self.islands.iter().map(behind).collect();
        self.islands.retain(|island| !island.is_empty());
        self.padding = behind(&self.padding);
        self.contiguous = held.end;
        if octets >= self.octets.len() {
            // Not cleared: what is over is not to keep the memory.
            self.octets = Vec::new();
        } else {
            self.octets.drain(..octets);
        }
        if self.islands.first().is_some_and(|island| island.start == 0) {
            self.contiguous = self.islands.remove(0).end;
        }
    }

    /// Whether two segments had different octets for the same place.
    pub fn conflict(&self) -> bool {
        self.conflict
    }

    /// Puts octets where they belong, as far as there is room.
    fn put(&mut self, start: usize, octets: &[u8]) {
        let room = MAX_STREAM.saturating_sub(start);
        let octets = &octets[..octets.len().min(room)];
        let piece = start..start + octets.len();
        if octets.is_empty() {
            return;
        }
        let is_padding = is_padding(octets);
        // The next one in order, with nothing behind it: the common case, one copy.
        if start == self.contiguous && self.islands.is_empty() {
            if is_padding {
                self.padding = piece.clone();
            }
            self.octets.extend_from_slice(octets);
            self.contiguous = piece.end;
            return;
        }
        if self.disagrees(&piece, octets) {
            // The first bytes are kept, as if this segment had been lost.
            self.conflict |= !is_padding;
            return;
        }
        if is_padding {
            self.padding = piece.clone();
        } else if piece.start < self.padding.end && self.padding.start < piece.end {
            self.padding = 0..0;
        }
        if start > self.contiguous && !self.add_island(piece.clone()) {
            return;
        }
        if self.octets.len() < piece.end {
            self.octets.resize(piece.end, 0);
        }
        self.octets[piece.clone()].copy_from_slice(octets);
        if start <= self.contiguous {
            self.contiguous = self.contiguous.max(piece.end);
        }
        let reached = self
            .islands
            .iter()
            .take_while(|island| island.start <= self.contiguous)
            .count();
        for island in self.islands.drain(..reached) {
            self.contiguous = self.contiguous.max(island.end);
        }
    }

    /// All that is held, in order.
    fn held(&self) -> impl Iterator<Item = Range<usize>> {
        std::iter::once(0..self.contiguous).chain(self.islands.iter().cloned())
    }

    /// Whether something else is held where these octets belong, and it was more than padding.
    fn disagrees(&self, piece: &Range<usize>, octets: &[u8]) -> bool {
        self.held().any(|held| {
            let both = held.start.max(piece.start)..held.end.min(piece.end);
            both.start < both.end
                && self.octets[both.clone()]
                    != octets[both.start - piece.start..both.end - piece.start]
                && both.into_iter().any(|at| {
                    self.octets[at] != octets[at - piece.start] && !self.padding.contains(&at)
                })
        })
    }

    /// Notes a piece behind a hole, and joins it with those it touches. `false` where there are
    /// too many.
    fn add_island(&mut self, mut piece: Range<usize>) -> bool {
        let first = self
            .islands
            .partition_point(|island| island.end < piece.start);
        let touched = self.islands[first..]
            .iter()
            .take_while(|island| island.start <= piece.end)
            .count();
        if touched == 0 && self.islands.len() == MAX_ISLANDS {
            return false;
        }
        for island in &self.islands[first..first + touched] {
            piece = piece.start.min(island.start)..piece.end.max(island.end);
        }
        self.islands
            .splice(first..first + touched, std::iter::once(piece));
        true
    }

    /// The stream begins earlier than was thought; what is pushed over the end is let go.
    fn move_back(&mut self, by: usize) {
        let islands: Vec<_> = self
            .held()
            .filter(|held| !held.is_empty())
            .map(|held| held.start.saturating_add(by)..held.end.saturating_add(by))
            .filter(|island| island.start < MAX_STREAM)
            .map(|island| island.start..island.end.min(MAX_STREAM))
            .take(MAX_ISLANDS)
            .collect();
        self.contiguous = 0;
        match islands.last() {
            Some(last) => {
                self.octets.splice(..0, std::iter::repeat_n(0, by));
                self.octets.truncate(last.end);
            }
            None => self.octets.clear(),
        }
        self.islands = islands;
        self.padding = self.padding.start.saturating_add(by)..self.padding.end.saturating_add(by);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(initial: Option<u32>, segments: &[(u32, &[u8])]) -> Stream {
        let mut stream = Stream::new(initial);
        for (sequence, octets) in segments {
            stream.segment(*sequence, octets);
        }
        stream
    }

    #[test]
    fn segments_come_in_any_order() {
        let stream = stream(Some(99), &[(106, b"gh"), (103, b"def"), (100, b"abc")]);
        assert_eq!(stream.contiguous(), b"abcdefgh");
        assert!(!stream.conflict());
    }

    #[test]
    fn nothing_is_given_out_from_behind_a_hole() {
        let mut stream = stream(Some(99), &[(103, b"def"), (108, b"ij"), (100, b"ab")]);
        assert_eq!(stream.contiguous(), b"ab");
        stream.segment(102, b"c");
        assert_eq!(stream.contiguous(), b"abcdef");
        stream.segment(106, b"gh");
        assert_eq!(stream.contiguous(), b"abcdefghij");
    }

    #[test]
    fn the_same_octets_may_come_again() {
        let segments: &[(u32, &[u8])] =
            &[(100, b"abc"), (100, b"abcdef"), (102, b"cd"), (98, b"yzab")];
        let stream = stream(Some(99), segments);
        assert_eq!(stream.contiguous(), b"abcdef");
        assert!(!stream.conflict());
    }

    #[test]
    fn other_octets_for_the_same_place_are_a_conflict() {
        let others: [&[(u32, &[u8])]; 4] = [
            &[(100, b"abc"), (102, b"x")],
            &[(100, b"abc"), (100, b"abxdef")],
            &[(102, b"cd"), (100, b"abx")],
            &[(102, b"cd"), (105, b"f"), (100, b"abcdex")],
        ];
        for segments in others {
            assert!(stream(Some(99), segments).conflict(), "{segments:?}");
        }
        // Without a SYN too, where the base moves between the two.
        assert!(stream(None, &[(102, b"cd"), (100, b"abx")]).conflict());
    }

    #[test]
    fn a_conflict_keeps_what_came_first() {
        let stream = stream(Some(99), &[(100, b"abc"), (102, b"xyz")]);
        assert_eq!(stream.contiguous(), b"abc");
    }

    #[test]
    fn padding_gives_way() {
        let hello = (100, &b"abcdef"[..]);
        for segments in [
            &[(100, &b"\0\0"[..]), (100, b"\0\0"), hello][..],
            &[hello, (102, b"\0\0")],
            &[hello, (106, b"\0\0"), (106, b"gh")],
        ] {
            let stream = stream(Some(99), segments);
            assert!(!stream.conflict(), "{segments:?}");
            assert!(stream.contiguous().starts_with(b"abcdef"), "{segments:?}");
        }
        // It stays where nothing else is said.
        assert_eq!(stream(None, &[(1, b"\0"), (2, b"a")]).contiguous(), b"\0a");
        // Retransmitted data is not keep-alive padding.
        assert!(stream(None, &[(1, b"\0\0\0\0\0\0\0"), (1, b"abcdefg")]).conflict());
        assert!(stream(None, &[(1, b"\0\0"), (1, b"ab"), (1, b"cd")]).conflict());
    }

    #[test]
    fn numbers_wrap() {
        let stream = stream(Some(u32::MAX - 2), &[(1, b"def"), (u32::MAX - 1, b"abc")]);
        assert_eq!(stream.contiguous(), b"abcdef");
    }

    #[test]
    fn without_a_syn_an_earlier_segment_moves_the_base() {
        let mut early = stream(None, &[(1, b"def")]);
        assert_eq!(early.contiguous(), b"def");
        early.segment(u32::MAX - 1, b"abc");
        assert_eq!(early.contiguous(), b"abcdef");
        early.segment(u32::MAX - 4, b"x");
        assert_eq!(early.contiguous(), b"x");
        early.segment(u32::MAX - 3, b"yz");
        assert_eq!(early.contiguous(), b"xyzabcdef");
    }

    #[test]
    fn with_a_syn_nothing_lies_before_it() {
        let stream = stream(
            Some(99),
            &[(90, b"zz"), (99, b"z"), (99, b"zabc"), (100, b"")],
        );
        assert_eq!(stream.contiguous(), b"abc");
    }

    #[test]
    fn what_is_held_is_bounded() {
        let block = [7; 1000];
        let mut full = Stream::new(Some(u32::MAX));
        for start in (0..100_000).step_by(block.len()).rev() {
            full.segment(start, &block);
        }
        assert_eq!(full.contiguous().len(), MAX_STREAM);
        assert_eq!(full.octets.len(), MAX_STREAM);

        let mut holes = Stream::new(Some(u32::MAX));
        for start in (1..1000).step_by(2) {
            holes.segment(start, b"x");
        }
        assert_eq!(holes.islands.len(), MAX_ISLANDS);

        let mut back = Stream::new(None);
        for start in (0..100_000).step_by(block.len()).rev() {
            back.segment(start, &block);
        }
        assert_eq!(back.contiguous().len(), MAX_STREAM);
        assert_eq!(back.octets.len(), MAX_STREAM);
        back.segment(1_000_000_000_u32.wrapping_neg(), b"far");
        assert_eq!(back.contiguous(), b"far");
    }

    #[test]
    fn the_first_segment_can_be_read_where_it_lies() {
        let mut known = Stream::new(Some(99));
        assert!(known.is_start(100));
        assert!(!known.is_start(101));
        known.segment(100, b"a");
        assert!(!known.is_start(100));
        assert!(Stream::new(None).is_start(5));
    }

    #[test]
    fn what_is_skipped_need_not_have_come() {
        let mut stream = stream(Some(99), &[(100, b"abc"), (106, b"ghi"), (112, b"m")]);
        stream.skip(2);
        assert_eq!(
            (stream.start(), stream.contiguous()),
            (Some(102), &b"c"[..])
        );
        stream.skip(5);
        assert_eq!(
            (stream.start(), stream.contiguous()),
            (Some(107), &b"hi"[..])
        );
        stream.segment(100, b"ABCDEFGhi");
        assert_eq!(stream.contiguous(), b"hi");
        assert!(!stream.conflict(), "of what was let go nothing is known");
        stream.segment(109, b"jkl");
        assert_eq!(stream.contiguous(), b"hijklm");
        stream.skip(1_000);
        assert!(stream.is_empty() && stream.contiguous().is_empty());
        stream.segment(1_105, b"yzab");
        assert_eq!(stream.contiguous(), b"ab");
    }

    proptest! {
        /// The law of the type: whatever pieces of a text come, in any order, what is given out is
        /// what lies before the first octet that never came.
        #[test]
        fn what_is_given_out_is_what_was_said(
            base: u32,
            len in 1_usize..600,
            pieces in prop::collection::vec((0_usize..600, 1_usize..200), 1..20),
            syn: bool,
        ) {
            let text: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
            let mut stream = Stream::new(syn.then(|| base.wrapping_sub(1)));
            let mut came = vec![false; len];
            for (start, size) in pieces {
                let start = start % len;
                let end = len.min(start + size);
                stream.segment(base.wrapping_add(start as u32), &text[start..end]);
                came[start..end].fill(true);
            }
            let first = if syn { 0 } else { came.iter().position(|came| *came).unwrap_or(len) };
            let end = first + came[first..].iter().take_while(|came| **came).count();
            prop_assert_eq!(stream.contiguous(), &text[first..end]);
            prop_assert!(!stream.conflict());
        }
    }
}
