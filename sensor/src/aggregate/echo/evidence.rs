//! The figures by which a found echo is shown: shares, lag, reach and stack.

use super::{
    lags::{Band, LONGEST, Side},
    marks::{Mark, StackNumber},
    reach::{self, Followed, Reach},
};

/// Seconds before a visit at which the instants of the control lie: after what an earlier visit led to, and before
/// what prepares the next one.
const CONTROL: std::ops::RangeInclusive<i32> = 6..=27;

/// The fewest marks whose stack is told from which something is concluded.
const FEWEST_TOLD: usize = 10;

/// The share of told uploads from which they come beside the page.
const BESIDE: f64 = 0.95;

/// The share of told visits from which a stack is one of the visits'. A few visits are none, but a program's own
/// contacts.
const OF_VISITS: f64 = 0.1;

/// The stack from which uploads come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Another one than that of the visits.
    BesideThePage,
    /// That of the visits; it tells nothing, because programs may carry the same one as a browser.
    Same,
    /// Fewer than ten visits or uploads tell theirs.
    NotTold,
}

/// The figures of an echo, at one look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// The side from which it was found.
    pub side: Side,
    /// The band of lags in which it was found.
    pub found: Band,
    /// The band of lags in which shares are counted.
    pub shown: Band,
    /// The visits that were looked at.
    pub visits: u32,
    /// Those that an upload followed within the shown band.
    pub followed: u32,
    /// The share of instants in the control that an upload followed so, 0 to 1; `None` without any instant.
    pub control: Option<f64>,
    /// By how much the share of visits is above that of the control.
    pub lift: f64,
    /// The median lag in the found band, in seconds.
    pub lag: u32,
    /// The p-value, corrected for all lags and all parties of the look.
    pub p: f64,
    /// The number of parties and hosts over which it was corrected.
    pub hypotheses: u32,
    /// The time from which on there were marks, in seconds.
    pub since: u32,
    /// The time up to which visits were looked at, in seconds.
    pub until: u32,
    /// The sites after which it comes.
    pub reach: Reach,
    /// The stack from which it comes.
    pub stack: Stack,
    /// Uploads from another stack than the visits', and those whose stack is told.
    pub beside: (u32, u32),
}

/// The visits of a device that are looked at, in the order of time, without those shortly after an idle time.
#[derive(Debug, Default)]
pub(super) struct Trials {
    /// Seconds since the base.
    pub(super) times: Vec<i32>,
    pub(super) sites: Vec<u16>,
    pub(super) sessions: Vec<u32>,
    /// All visits, those after an idle time included.
    pub(super) all: Vec<i32>,
    /// The stacks from which visits come.
    pub(super) stacks: Vec<StackNumber>,
}

impl Trials {
    /// Whether no other visit is less than so many seconds from a time.
    fn is_alone(&self, time: i32, width: i32) -> bool {
        let near = self.all.partition_point(|visit| *visit <= time - width);
        let mut near = self.all[near..]
            .iter()
            .take_while(|visit| **visit < time + width);
        !near.any(|visit| *visit != time)
    }

    /// Notes the stacks of visits: those of at least a tenth of the visits that tell theirs, if enough do.
    pub(super) fn note_stacks(&mut self, visits: &[Mark]) {
        let told = || visits.iter().filter(|visit| visit.stack != 0);
        let count = told().count();
        if count < FEWEST_TOLD {
            return;
        }
        let mut counts = [0_usize; StackNumber::MAX as usize + 1];
        for visit in told() {
            counts[usize::from(visit.stack)] += 1;
        }
        let is_main =
            |stack: &StackNumber| counts[usize::from(*stack)] as f64 >= OF_VISITS * count as f64;
        self.stacks = (1..=StackNumber::MAX).filter(is_main).collect();
    }
}

/// The place and the value of an echo that a look found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) side: Side,
    pub(super) band: Band,
    pub(super) p: f64,
    pub(super) hypotheses: u32,
    pub(super) since: u32,
    pub(super) until: u32,
}

/// The evidence of an echo; `uploads` are seconds since the base of the trials, `marks` the same with their stacks.
pub(super) fn evidence(
    found: &Found,
    trials: &Trials,
    uploads: &[i32],
    marks: &[Mark],
) -> Evidence {
    let shown = found.band.shown();
    let is_followed = |time: i32, band: Band| band.first_in(time, uploads).is_some();
    let followed = trials
        .times
        .iter()
        .filter(|time| is_followed(**time, shown))
        .count();
    let (mut instants, mut hits, mut with_control) = (0_u32, 0_u32, 0_u32);
    for visit in &trials.all {
        let alone = CONTROL.map(|before| visit - before);
        let alone = alone.filter(|time| trials.is_alone(*time, shown.width()));
        let before = instants;
        for time in alone {
            instants += 1;
            hits += u32::from(is_followed(time, shown));
        }
        with_control += u32::from(instants > before);
    }
    let control = (instants > 0).then(|| f64::from(hits) / f64::from(instants));
    let share = followed as f64 / trials.times.len().max(1) as f64;
    let floor = 1.0 / f64::from(with_control + 1);
    let mut lags: Vec<_> = (trials.times.iter())
        .filter_map(|time| Some(found.band.first_in(*time, uploads)? - time))
        .collect();
    lags.sort_unstable();
    let (stack, beside) = stack(trials, marks);
    Evidence {
        side: found.side,
        found: found.band,
        shown,
        visits: trials.times.len() as u32,
        followed: followed as u32,
        control,
        lift: share / control.unwrap_or(0.0).max(floor),
        lag: lags.get(lags.len() / 2).map_or(0, |lag| *lag as u32),
        p: found.p,
        hypotheses: found.hypotheses,
        since: found.since,
        until: found.until,
        reach: reach::reach(&followed_visits(trials, uploads, found.band)),
        stack,
        beside,
    }
}

/// The visits that tell the reach of a party: those with no other visit near them. The chance of each is the share
/// of the minutes around it, without its own band, after whose seconds an upload comes.
fn followed_visits(trials: &Trials, uploads: &[i32], band: Band) -> Vec<Followed> {
    const AROUND: i32 = 30;

    let visit = |place: usize| {
        let time = trials.times[place];
        let own = time + band.from + 1..=time + band.to;
        let is_other = |at: i32| {
            let first = uploads.partition_point(|upload| *upload <= at + band.from);
            let mut in_band = uploads[first..]
                .iter()
                .take_while(|upload| **upload <= at + band.to);
            in_band.any(|upload| !own.contains(upload))
        };
        let seconds = time - AROUND..time + AROUND;
        Followed {
            site: trials.sites[place],
            session: trials.sessions[place],
            is_hit: band.first_in(time, uploads).is_some(),
            chance: seconds.filter(|at| is_other(*at)).count() as f64 / f64::from(2 * AROUND),
        }
    };
    let places = 0..trials.times.len();
    let alone = places.filter(|place| trials.is_alone(trials.times[*place], band.to.min(LONGEST)));
    alone.map(visit).collect()
}

/// The stack of uploads; and how many come beside the page, of how many that tell theirs.
fn stack(trials: &Trials, uploads: &[Mark]) -> (Stack, (u32, u32)) {
    let told = || uploads.iter().filter(|upload| upload.stack != 0);
    let count = told().count();
    if trials.stacks.is_empty() || count < FEWEST_TOLD {
        return (Stack::NotTold, (0, count as u32));
    }
    let others = told().filter(|upload| !trials.stacks.contains(&upload.stack));
    let others = others.count();
    let stack = match others as f64 >= BESIDE * count as f64 {
        true => Stack::BesideThePage,
        false => Stack::Same,
    };
    (stack, (others as u32, count as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trials(times: &[i32]) -> Trials {
        Trials {
            times: times.to_vec(),
            sites: (1..).take(times.len()).collect(),
            sessions: vec![1; times.len()],
            all: times.to_vec(),
            stacks: vec![1],
        }
    }

    const FOUND: Found = Found {
        side: Side::Visits,
        band: Band { from: 12, to: 18 },
        p: 1e-6,
        hypotheses: 3,
        since: 0,
        until: 10_000,
    };

    fn marks(uploads: &[i32], stack: u8) -> Vec<Mark> {
        let mark = |time: &i32| Mark {
            time: *time as u32,
            site: 0,
            is_second: false,
            stack,
        };
        uploads.iter().map(mark).collect()
    }

    #[test]
    fn shares_are_counted_at_the_found_lag() {
        let visits: Vec<_> = (0..100).map(|at| at * 100).collect();
        let trials = trials(&visits);
        // Four of five visits, 14 to 16 seconds later.
        let uploads = visits.iter().enumerate().filter(|(at, _)| at % 5 != 0);
        let uploads: Vec<_> = uploads
            .map(|(at, visit)| visit + 14 + at as i32 % 3)
            .collect();
        let of = evidence(&FOUND, &trials, &uploads, &marks(&uploads, 2));
        assert_eq!((of.visits, of.followed, of.lag), (100, 80, 15));
        assert_eq!(of.control, Some(0.0));
        assert!((of.lift - 0.8 * 101.0).abs() < 1e-9, "{}", of.lift);
        assert_eq!((of.stack, of.beside), (Stack::BesideThePage, (80, 80)));
    }

    #[test]
    fn the_control_of_a_timer_is_its_own_share() {
        let visits: Vec<_> = (0..100).map(|at| at * 97).collect();
        // A band of six seconds is hit in a fifth of all moments.
        let uploads: Vec<_> = (0..330).map(|at| at * 30).collect();
        let of = evidence(&FOUND, &trials(&visits), &uploads, &[]);
        let control = of.control.expect("instants");
        assert!((control - 0.2).abs() < 0.02, "{control}");
        assert_eq!(of.stack, Stack::NotTold);
    }

    #[test]
    fn a_stack_is_told_by_ten_uploads_of_which_nearly_all_are_of_another() {
        let trials = trials(&[0; 20]);
        let of = |told: &[(u8, usize)]| {
            let marks = told
                .iter()
                .flat_map(|(stack, count)| marks(&vec![0; *count], *stack));
            stack(&trials, &marks.collect::<Vec<_>>()).0
        };
        assert_eq!(of(&[(2, 9), (0, 100)]), Stack::NotTold);
        assert_eq!(of(&[(2, 10), (0, 100)]), Stack::BesideThePage);
        assert_eq!(of(&[(2, 19), (1, 1)]), Stack::BesideThePage);
        assert_eq!(of(&[(2, 18), (1, 2)]), Stack::Same);
        assert_eq!(of(&[(1, 20)]), Stack::Same);
    }

    #[test]
    fn the_stacks_of_visits_are_those_of_more_than_a_few() {
        let mut trials = Trials::default();
        trials.note_stacks(&marks(&[0; 9], 3));
        assert!(trials.stacks.is_empty());
        let visits = [marks(&[0; 30], 3), marks(&[0; 4], 4), marks(&[0; 3], 5)].concat();
        trials.note_stacks(&visits);
        assert_eq!(trials.stacks, [3, 4]);
    }
}
