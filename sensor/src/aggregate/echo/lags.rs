//! The test of one party: whether its uploads follow visits more often than other moments of the same minutes.
//!
//! The null hypothesis is that each visit could as well have been at any other second of its minute, where minutes
//! are fixed bins (interval jitter: J. Platkiewicz, E. Stark, A. Amarasingham, *Spike-centered jitter can mistake
//! temporal structure*, Neural Computation 29, 2017). The share of a minute's seconds after which an upload
//! follows is then the chance of a hit, and the number of hits has a Poisson-binomial distribution: no random
//! numbers are drawn, so the same marks give the same answer.
//!
//! Times are whole seconds. The second of a visit is rounded down and that of an upload up, so an upload comes at
//! least a second after its cause.

use super::chance;

/// Seconds of a bin: another moment of the same minute.
const BIN: i32 = 60;

/// The fewest visits with which a party is tested.
const FEWEST_VISITS: usize = 10;

/// The fewest uploads with which a party is tested.
const FEWEST_UPLOADS: usize = 5;

/// The fewest reports for the test that starts from reports.
const FEWEST_REPORTS: usize = 10;

/// Uploads less than this many seconds apart are one report.
const REPORT_GAP: i32 = 3;

/// The number of standard deviations above the expected hits from which a lag is worth an exact test. Fewer have
/// a probability above 10⁻³, which no correction for 22 lags lets pass.
const PROMISING: f64 = 3.0;

/// The p-value of the sign test below which uploads are more frequent after visits than before them.
const SIGN: f64 = 0.01;

/// Lags after a visit, in seconds: more than `from`, at most `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    /// More than this.
    pub from: i32,
    /// At most this.
    pub to: i32,
}

impl Band {
    /// The seconds after a visit in which an immediate report falls.
    pub const AT_ONCE: Self = Self { from: 0, to: 5 };

    const fn new(from: i32, to: i32) -> Self {
        Self { from, to }
    }

    /// Its width in seconds.
    pub const fn width(self) -> i32 {
        self.to - self.from
    }

    /// The band of which the share of visits is shown: the first five seconds where it lies in them.
    pub const fn shown(self) -> Self {
        match self.to <= Self::AT_ONCE.to {
            true => Self::AT_ONCE,
            false => self,
        }
    }

    /// The first of these times, in order, that is in the band after `time`.
    pub(super) fn first_in(self, time: i32, times: &[i32]) -> Option<i32> {
        let after = times.partition_point(|at| *at <= time + self.from);
        times.get(after).copied().filter(|at| *at <= time + self.to)
    }
}

/// The lags that are scanned: timers of reporting kits wait up to a minute.
pub(super) const BANDS: [Band; 11] = [
    Band::new(0, 2),
    Band::new(0, 5),
    Band::new(0, 10),
    Band::new(5, 10),
    Band::new(8, 14),
    Band::new(12, 18),
    Band::new(16, 24),
    Band::new(22, 32),
    Band::new(30, 42),
    Band::new(40, 55),
    Band::new(53, 70),
];

/// The longest lag, in seconds.
pub(super) const LONGEST: i32 = BANDS[BANDS.len() - 1].to;

/// The number of tests of one party, by which its p-value is corrected.
const TESTS: f64 = 2.0 * BANDS.len() as f64;

/// The side from which a test counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Visits that an upload followed.
    Visits,
    /// Reports that a visit preceded: it finds reports that collect several visits.
    Reports,
}

/// The result of a party's test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tested {
    /// The lowest p-value that these uploads could have had, corrected for all lags; 1 where they are too few.
    pub(super) least: f64,
    /// The p-value, corrected for all lags and both sides.
    pub(super) p: f64,
    /// The lag with that value; `None` where none is promising.
    pub(super) at: Option<(Side, Band)>,
    /// Whether uploads come more often after visits than before them, at this lag.
    pub(super) is_after: bool,
}

impl Tested {
    const NOTHING: Self = Self {
        least: 1.0,
        p: 1.0,
        at: None,
        is_after: false,
    };
}

/// Memory that tests use again and again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    reports: Vec<i32>,
    visits: Vec<i32>,
    near: Vec<i32>,
    /// For each trial, the seconds of its minute that would have been hits.
    seconds: Vec<u8>,
    chances: Vec<f64>,
    /// For each event, the seconds covered before it.
    covered: Vec<i32>,
}

/// Tests whether uploads follow visits; both are times in seconds in ascending order, none twice, and below 2³⁰.
pub(super) fn test(visits: &[i32], uploads: &[i32], scratch: &mut Scratch) -> Tested {
    if visits.len() < FEWEST_VISITS || uploads.len() < FEWEST_UPLOADS {
        return Tested::NOTHING;
    }
    let mut best = Tested::NOTHING;
    scan(Side::Visits, visits, uploads, scratch, &mut best);
    // The other side is the same test in reversed time.
    let mut reports = std::mem::take(&mut scratch.reports);
    let mut reversed = std::mem::take(&mut scratch.visits);
    reports.clear();
    for upload in uploads {
        let before = reports.last_mut();
        match before {
            Some(last) if upload + *last < REPORT_GAP => {}
            _ => reports.push(-upload),
        }
    }
    if reports.len() >= FEWEST_REPORTS {
        reports.reverse();
        reversed.clear();
        reversed.extend(visits.iter().rev().map(|visit| -visit));
        scan(Side::Reports, &reports, &reversed, scratch, &mut best);
    }
    scratch.reports = reports;
    scratch.visits = reversed;
    best
}

/// Tests all bands from one side.
fn scan(side: Side, trials: &[i32], events: &[i32], scratch: &mut Scratch, best: &mut Tested) {
    let mut near = std::mem::take(&mut scratch.near);
    near.clear();
    near.extend(near_events(trials, events));
    scan_near(side, &near, events, scratch, best);
    scratch.near = near;
}

/// The trials in whose minute some second would have been a hit in some band. The others can neither be hits nor
/// change a probability.
fn near_events(trials: &[i32], events: &[i32]) -> impl Iterator<Item = i32> {
    let mut next = 0;
    trials.iter().copied().filter(move |trial| {
        let bin = trial.div_euclid(BIN) * BIN;
        while events.get(next).is_some_and(|event| *event <= bin) {
            next += 1;
        }
        events
            .get(next)
            .is_some_and(|event| *event < bin + BIN + LONGEST)
    })
}

fn scan_near(side: Side, trials: &[i32], events: &[i32], scratch: &mut Scratch, best: &mut Tested) {
    for band in BANDS {
        let tally = tally(trials, events, band, scratch);
        best.least = best.least.min(least(&scratch.seconds) * TESTS);
        let bin = f64::from(BIN);
        let hits = tally.hits;
        let expected = tally.seconds as f64 / bin;
        let variance = tally.seconds as f64 * bin - tally.squares as f64;
        let deviation = variance.sqrt() / bin;
        if hits as f64 <= expected + PROMISING * deviation {
            continue;
        }
        scratch.chances.clear();
        let chances = scratch.seconds.iter();
        let chances = chances.map(|seconds| f64::from(*seconds) / f64::from(BIN));
        scratch.chances.extend(chances);
        let p = (chance::at_least(hits, &scratch.chances) * TESTS).min(1.0);
        if p < best.p {
            best.p = p;
            best.at = Some((side, band));
            best.is_after = is_after(trials, events, band);
        }
    }
}

/// Trials at one lag.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Trials that an event follows.
    hits: usize,
    /// The sum of the seconds in the trials' minutes that would have been hits, and of their squares.
    seconds: u64,
    squares: u64,
}

/// Counts the trials that an event follows in the band; the scratch has the seconds of each one's minute that would
/// have been hits.
fn tally(trials: &[i32], events: &[i32], band: Band, scratch: &mut Scratch) -> Tally {
    // An event makes hits of the seconds from `event - to` to `event - from - 1`; those of an earlier one are not
    // counted again.
    scratch.covered.clear();
    let mut covered = 0;
    let mut end = i32::MIN;
    for event in events {
        scratch.covered.push(covered);
        let last = event - band.from;
        covered += last - end.max(event - band.to);
        end = last;
    }
    let start = |event: usize| {
        let first = events[event] - band.to;
        match event {
            0 => first,
            _ => first.max(events[event - 1] - band.from),
        }
    };
    // The seconds covered before a time, where `next` is the first event that covers none before it.
    let before = |time: i32, next: usize| match next {
        0 => 0,
        _ => {
            let event = next - 1;
            let end = time.min(events[event] - band.from);
            // Negative where earlier events cover all seconds from `time` on up to this one's.
            scratch.covered[event] + end - start(event)
        }
    };
    scratch.seconds.clear();
    let mut tally = Tally::default();
    let (mut at_begin, mut at_end, mut after) = (0, 0, 0);
    let mut known = (i32::MIN, 0);
    for trial in trials {
        let bin = trial.div_euclid(BIN) * BIN;
        if known.0 != bin {
            while at_begin < events.len() && events[at_begin] - band.to < bin {
                at_begin += 1;
            }
            at_end = at_end.max(at_begin);
            while at_end < events.len() && events[at_end] - band.to < bin + BIN {
                at_end += 1;
            }
            known = (bin, before(bin + BIN, at_end) - before(bin, at_begin));
        }
        scratch.seconds.push(known.1 as u8);
        tally.seconds += known.1 as u64;
        tally.squares += (known.1 * known.1) as u64;
        while after < events.len() && events[after] <= trial + band.from {
            after += 1;
        }
        let is_hit = events.get(after).is_some_and(|at| *at <= trial + band.to);
        tally.hits += usize::from(is_hit);
    }
    tally
}

/// The lowest probability that hits could have: that of a hit wherever one is possible.
fn least(seconds: &[u8]) -> f64 {
    /// Below any threshold: then the rest does not matter.
    const ENOUGH: f64 = 1e-15;

    let mut least = 1.0;
    for seconds in seconds.iter().filter(|seconds| **seconds > 0) {
        least *= f64::from(*seconds) / f64::from(BIN);
        if least < ENOUGH {
            break;
        }
    }
    least
}

/// The sign test: whether more trials have an event in the band after them alone than in its mirror image before
/// them alone.
fn is_after(trials: &[i32], events: &[i32], band: Band) -> bool {
    let (mut after, mut before) = (0, 0);
    for trial in trials {
        let is_after = band.first_in(*trial, events).is_some();
        // From `trial - to` up to, and without, `trial - from`.
        let first = events.partition_point(|at| *at < trial - band.to);
        let is_before = events.get(first).is_some_and(|at| *at < trial - band.from);
        after += usize::from(is_after && !is_before);
        before += usize::from(is_before && !is_after);
    }
    chance::heads(after, after + before) < SIGN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u64) -> impl FnMut(i32) -> i32 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            ((state >> 33) % below as u64) as i32
        }
    }

    fn times(mut next: impl FnMut(i32) -> i32, count: usize, span: i32) -> Vec<i32> {
        let mut times: Vec<_> = (0..count).map(|_| next(span) - span / 2).collect();
        times.sort_unstable();
        times.dedup();
        times
    }

    #[test]
    fn hits_and_chances_that_were_counted_by_hand() {
        let check = |trials: &[i32], events: &[i32], band, hits, seconds: &[u8]| {
            let mut scratch = Scratch::default();
            let found = tally(trials, events, band, &mut scratch).hits;
            assert_eq!((found, &*scratch.seconds), (hits, seconds), "{band:?}");
        };
        let five = Band::AT_ONCE;
        // An upload at 30 is a hit of the seconds 25 to 29.
        check(&[25], &[30], five, 1, &[5]);
        check(&[29], &[30], five, 1, &[5]);
        check(&[24], &[30], five, 0, &[5]);
        check(&[30], &[30], five, 0, &[5]);
        // Two that overlap: 25 to 31.
        check(&[31], &[30, 32], five, 1, &[7]);
        // One at 62 reaches two seconds of the minute after: 57 to 59 are in the first.
        check(&[10, 61], &[62], five, 1, &[3, 2]);
        check(&[-1], &[2], five, 1, &[3]);
        // A lag: one at 40 makes hits of 22 to 27.
        check(&[22, 27, 28], &[40], Band::new(12, 18), 2, &[6, 6, 6]);
        // Each second one: all are hits, but the last ones of a minute that ends without.
        let all: Vec<_> = (0..60).collect();
        check(&[3], &all, five, 1, &[59]);
        check(&[3], &[], five, 0, &[0]);
    }

    #[test]
    fn hits_and_chances_are_those_of_a_count_over_seconds() {
        let mut next = numbers(7);
        for round in 0..200 {
            let span = 600;
            let trials = times(&mut next, 20, span);
            let events = times(&mut next, 1 + round / 2, span);
            for band in BANDS {
                let is_hit = |time: i32| {
                    let mut events = events.iter();
                    events.any(|event| (time + band.from + 1..=time + band.to).contains(event))
                };
                let mut scratch = Scratch::default();
                let tally = tally(&trials, &events, band, &mut scratch);
                assert_eq!(
                    tally.hits,
                    trials.iter().filter(|time| is_hit(**time)).count()
                );
                let chances = trials.iter().map(|trial| {
                    let bin = trial.div_euclid(BIN) * BIN;
                    (bin..bin + BIN).filter(|time| is_hit(*time)).count() as u8
                });
                assert_eq!(scratch.seconds, chances.collect::<Vec<_>>(), "{band:?}");
                let sum = |of: fn(u64) -> u64| -> u64 {
                    scratch
                        .seconds
                        .iter()
                        .map(|seconds| of((*seconds).into()))
                        .sum()
                };
                assert_eq!(tally.seconds, sum(|seconds| seconds));
                assert_eq!(tally.squares, sum(|seconds| seconds * seconds));
            }
        }
    }

    #[test]
    fn trials_far_from_events_cannot_be_hits() {
        let mut next = numbers(3);
        for _ in 0..200 {
            let (trials, events) = (times(&mut next, 20, 3_000), times(&mut next, 6, 3_000));
            let near: Vec<_> = near_events(&trials, &events).collect();
            let mut scratch = Scratch::default();
            for band in BANDS {
                tally(&trials, &events, band, &mut scratch);
                for (trial, seconds) in trials.iter().zip(&scratch.seconds) {
                    assert!(*seconds == 0 || near.contains(trial), "{trial} {events:?}");
                }
            }
        }
    }

    #[test]
    fn a_lag_is_found_at_its_band() {
        let visits: Vec<_> = (0..40).map(|at| at * 97).collect();
        let check = |uploads: &[i32], expected: Option<Band>| {
            let tested = test(&visits, uploads, &mut Scratch::default());
            let band = tested.at.map(|(_, band)| band);
            assert_eq!(band.filter(|_| tested.p < 1e-6), expected, "{tested:?}");
            assert_eq!(tested.is_after, expected.is_some());
        };
        let at_once: Vec<_> = visits.iter().map(|visit| visit + 1).collect();
        check(&at_once, Some(Band::new(0, 2)));
        let timer: Vec<_> = visits.iter().map(|visit| visit + 15).collect();
        check(&timer, Some(Band::new(12, 18)));
        let each_third: Vec<_> = at_once.iter().step_by(3).copied().collect();
        check(&each_third, Some(Band::new(0, 2)));
        check(&[], None);
        let each_second: Vec<_> = (0..4_000).collect();
        check(&each_second, None);
    }

    #[test]
    fn reports_that_visits_precede_are_counted_in_reversed_time() {
        // Ten reports, each a second after a visit, and many visits without one.
        let visits: Vec<_> = (0..400).map(|at| at * 31).collect();
        let reports: Vec<_> = visits.iter().step_by(40).map(|visit| visit + 1).collect();
        let [reversed, events] = [&reports, &visits].map(|times| {
            let reversed = times.iter().rev().map(|time| -time);
            reversed.collect::<Vec<_>>()
        });
        let mut best = Tested::NOTHING;
        scan(
            Side::Reports,
            &reversed,
            &events,
            &mut Scratch::default(),
            &mut best,
        );
        assert_eq!(best.at, Some((Side::Reports, Band::new(0, 2))));
        // Two or four seconds of each report's minute would have been hits.
        let least = TESTS * (2.0_f64 / 60.0).powi(10);
        assert!((least..least * 1_024.0).contains(&best.p), "{best:?}");
    }

    #[test]
    fn uploads_on_both_sides_of_a_visit_are_not_after_it() {
        let visits: Vec<_> = (0..40).map(|at| at * 97).collect();
        let both: Vec<_> = visits.iter().flat_map(|at| [at - 2, at + 2]).collect();
        assert!(!is_after(&visits, &both, Band::AT_ONCE));
        let after: Vec<_> = visits.iter().map(|at| at + 2).collect();
        assert!(is_after(&visits, &after, Band::AT_ONCE));
    }

    #[test]
    fn few_uploads_cannot_reach_a_low_value() {
        let visits: Vec<_> = (0..40).map(|at| at * 120).collect();
        let uploads: Vec<_> = (0..5).map(|at| at * 120 + 1).collect();
        let tested = test(&visits, &uploads, &mut Scratch::default());
        // An upload at second 1 makes hits of second 0, and of one in the minute before: one of sixty, five times.
        let least = (1.0_f64 / 60.0).powi(5) * TESTS;
        assert!((tested.least / least - 1.0).abs() < 1e-9, "{tested:?}");
        assert!((tested.p / least - 1.0).abs() < 1e-9, "{tested:?}");
        assert_eq!(
            test(&visits, &uploads[..4], &mut Scratch::default()),
            Tested::NOTHING
        );
    }
}
