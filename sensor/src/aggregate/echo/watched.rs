//! The state of one device: its marks, its looks, and the echoes that were found.

use std::collections::HashMap;

use sensor_ebpf::parse::Mac;

use super::{
    Progress, Recipient, Verdict,
    evidence::{self, Found, Trials},
    lags::{self, LONGEST, Scratch, Tested},
    looks,
    marks::{KEPT_FOR, MOST_PARTIES, Mark, Marks, StackNumber},
    visits::Detector,
};

/// Seconds without a visit after which a device is idle.
const IDLE: u32 = 180;

/// Seconds after an idle time in which visits do not count, because much is sent when a phone is taken up.
const GUARD: u32 = 25;

/// Seconds after its last visit at which a look begins: by then all lags, and the minute, are over.
const SETTLED: u32 = LONGEST as u32 + 60;

/// Looks in a row without significance after which an echo is withdrawn.
const MISSES: u32 = 2;

/// The most stacks of one device that are told apart; further ones are not told.
const MOST_STACKS: usize = 32;

/// The steps that the evidence of one echo is counted as, for each visit.
const EVIDENCE_COST: usize = 200;

/// The state of one device.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) marks: Marks,
    guard: Guard,
    pub(super) progress: Progress,
    /// The time at which the next look begins.
    pub(super) due: Option<u32>,
    pub(super) look: Option<Box<Look>>,
    pub(super) verdicts: HashMap<Recipient, Verdict>,
    /// Whether a look is over of which nobody took the outcome.
    pub(super) is_looked_at: bool,
    /// The stacks that were told, by their number from 1.
    stacks: Vec<u64>,
}

impl Watched {
    /// Without marks, from a time in seconds on.
    pub(super) fn new(since: u32) -> Self {
        Self {
            marks: Marks::new(since),
            guard: Guard::default(),
            progress: Progress {
                next: looks::FIRST,
                ..Progress::default()
            },
            due: None,
            look: None,
            verdicts: HashMap::new(),
            is_looked_at: false,
            stacks: Vec::new(),
        }
    }

    /// The number of a stack; 0 where it is not told, or one too many.
    pub(super) fn stack(&mut self, told: Option<u64>) -> StackNumber {
        let Some(told) = told else { return 0 };
        let place = self.stacks.iter().position(|stack| *stack == told);
        let place = place.unwrap_or_else(|| {
            if self.stacks.len() < MOST_STACKS {
                self.stacks.push(told);
            }
            self.stacks.len() - 1
        });
        match self.stacks[place] == told {
            true => place as StackNumber + 1,
            false => 0,
        }
    }

    /// Takes a visit.
    pub(super) fn visit(&mut self, visit: Mark) {
        self.marks.visit(visit);
        if visit.is_second || self.guard.admit(visit.time).is_none() {
            return;
        }
        self.progress.visits += 1;
        if self.progress.visits == self.progress.next {
            self.progress.next = looks::next(self.progress.visits);
            self.due = Some(visit.time + SETTLED);
        }
    }
}

/// Tells visits shortly after an idle time from others.
#[derive(Clone, Copy, Debug, Default)]
struct Guard {
    last: Option<u32>,
    until: u32,
    session: u32,
}

impl Guard {
    /// Takes a visit; the number of its session, if it counts.
    fn admit(&mut self, time: u32) -> Option<u32> {
        if self
            .last
            .is_none_or(|last| time.saturating_sub(last) >= IDLE)
        {
            self.until = time + GUARD;
            self.session += 1;
        }
        self.last = Some(time);
        (time >= self.until).then_some(self.session)
    }
}

/// A look at a device, in progress.
#[derive(Debug)]
pub(super) struct Look {
    number: u32,
    since: u32,
    until: u32,
    /// Seconds from which the times of tests count.
    base: u32,
    trials: Trials,
    recipients: Vec<Recipient>,
    tested: Vec<Tested>,
    /// The places and corrected values of those that passed, once all are tested.
    passing: Option<Vec<(usize, f64)>>,
    hypotheses: u32,
}

impl Watched {
    /// Does one part of a look; the result is the number of steps that it took.
    pub(super) fn go_on(
        &mut self,
        device: Mac,
        detector: &Detector,
        scratch: &mut Scratch,
        now: u32,
    ) -> usize {
        let Some(mut look) = self.look.take() else {
            self.begin(device, detector);
            return 1 + self.look.as_ref().map_or(0, |look| look.trials.all.len());
        };
        let place = look.tested.len();
        if let Some(recipient) = look.recipients.get(place) {
            let uploads = self.uploads(&look, recipient);
            let uploads: Vec<_> = uploads.iter().map(|mark| look.second(mark)).collect();
            // Visits to sites of the party, or of its owner, are no trials of it.
            let owner = self.marks.owner(recipient);
            let own = detector.sites_of(device, recipient.domain, owner);
            let is_own = |site: &u16| own.contains(site);
            let without: Vec<_>;
            let visits = match look.trials.sites.iter().any(is_own) {
                true => {
                    let visits = look.trials.times.iter().zip(&look.trials.sites);
                    let others = visits.filter(|(_, site)| !is_own(site));
                    without = others.map(|(time, _)| *time).collect();
                    &without
                }
                false => &look.trials.times,
            };
            let steps = 2 * lags::BANDS.len() * (visits.len() + uploads.len());
            look.tested.push(lags::test(visits, &uploads, scratch));
            self.look = Some(look);
            return steps;
        }
        let error = looks::error_of(look.number);
        let Some(passing) = &mut look.passing else {
            let passing = looks::passing(&look.tested, error);
            let is_after = |(place, _): &(usize, f64)| look.tested[*place].is_after;
            look.passing = Some(passing.into_iter().filter(is_after).collect());
            look.hypotheses = looks::candidates(&look.tested, error) as u32;
            let steps = look.tested.len();
            self.look = Some(look);
            return steps;
        };
        let Some((place, p)) = passing.pop() else {
            self.end(&look, now);
            return 1;
        };
        let recipient = look.recipients[place].clone();
        let marks = self.uploads(&look, &recipient);
        let uploads: Vec<_> = marks.iter().map(|mark| look.second(mark)).collect();
        let has_room = self.verdicts.len() < MOST_PARTIES || self.verdicts.contains_key(&recipient);
        if has_room && let Some((side, band)) = look.tested[place].at {
            let found = Found {
                side,
                band,
                p,
                hypotheses: look.hypotheses,
                since: look.since,
                until: look.until,
            };
            let evidence = evidence::evidence(&found, &look.trials, &uploads, &marks);
            let verdict = self.verdicts.entry(recipient).or_insert(Verdict {
                found: now,
                withdrawn: None,
                misses: 0,
                evidence,
            });
            if verdict.withdrawn.take().is_some() {
                verdict.found = now;
            }
            verdict.evidence = evidence;
        }
        let steps = EVIDENCE_COST * (look.trials.times.len() + uploads.len());
        self.look = Some(look);
        steps
    }

    /// Begins the look that is due.
    fn begin(&mut self, device: Mac, detector: &Detector) {
        let Some(due) = self.due.take() else { return };
        self.progress.looks += 1;
        let until = due - SETTLED;
        let since = self.marks.since();
        let base = since / 60 * 60;
        let mut trials = Trials::default();
        let mut guard = Guard::default();
        let visits = self.marks.visits().take_while(|visit| visit.time <= until);
        let visits = detector.settle(device, visits);
        for visit in &visits {
            let time = (visit.time - base) as i32;
            trials.all.push(time);
            if let Some(session) = guard.admit(visit.time) {
                trials.times.push(time);
                trials.sites.push(visit.site);
                trials.sessions.push(session);
            }
        }
        trials.note_stacks(&visits);
        let recipients = self.marks.parties();
        let is_site = |recipient: &Recipient| detector.is_site(device, recipient.domain);
        let recipients = recipients.filter(|recipient| !is_site(recipient));
        let mut recipients: Vec<_> = recipients.cloned().collect();
        recipients.sort_unstable();
        self.look = Some(Box::new(Look {
            number: self.progress.looks,
            since,
            until,
            base,
            trials,
            tested: Vec::with_capacity(recipients.len()),
            recipients,
            passing: None,
            hypotheses: 0,
        }));
    }

    /// The uploads to a party that a look may use.
    fn uploads(&self, look: &Look, recipient: &Recipient) -> Vec<Mark> {
        let last = look.until + SETTLED;
        let uploads = self.marks.uploads(recipient);
        let uploads = uploads.skip_while(|mark| mark.time < look.base);
        uploads.take_while(|mark| mark.time <= last).collect()
    }

    /// Ends a look: counts those that are no longer significant, and forgets those that were withdrawn long ago.
    fn end(&mut self, look: &Look, now: u32) {
        self.is_looked_at = true;
        for verdict in self.verdicts.values_mut() {
            if verdict.withdrawn.is_some() {
                continue;
            }
            verdict.misses = match verdict.evidence.until == look.until {
                true => 0,
                false => verdict.misses + 1,
            };
            if verdict.misses >= MISSES {
                verdict.withdrawn = Some(now);
            }
        }
        let is_long_ago = |at: u32| now.saturating_sub(at) > KEPT_FOR;
        self.verdicts
            .retain(|_, verdict| !verdict.withdrawn.is_some_and(is_long_ago));
    }
}

impl Look {
    /// The time of a mark, in seconds since the base.
    fn second(&self, mark: &Mark) -> i32 {
        (mark.time - self.base) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_that_are_made_up_are_not_told() {
        let mut watched = Watched::new(0);
        assert_eq!(watched.stack(None), 0);
        for number in 0..1_000 {
            let expected = match number < MOST_STACKS as u64 {
                true => number as StackNumber + 1,
                false => 0,
            };
            assert_eq!(watched.stack(Some(number)), expected);
        }
        assert_eq!(watched.stack(Some(0)), 1);
    }
}
