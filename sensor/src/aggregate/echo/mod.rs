//! Echoes: parties to which a device uploads something whenever it visits a site.
//!
//! Names become visits ([visits](self::visits)), visits and uploads become [marks]. At its looks a device's parties
//! are tested ([lags], [chance]), and those that pass ([looks]) are shown with their [evidence]: *reach* and
//! *stack* are two fields, because timing alone cannot tell a party that nearly every page embeds from a report of
//! the device itself.
//!
//! From the same marks come the uploads while a device is [idle].
//!
//! Visits are kept in memory only. A look is done in slices, so that no reading of the tables waits for it.

mod chance;
mod evidence;
mod idle;
mod lags;
mod looks;
mod marks;
mod reach;
mod visits;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use sensor_ebpf::parse::Mac;

pub use self::{
    evidence::{Evidence, Stack},
    idle::IdleUploads,
    lags::{Band, Side},
    reach::Reach,
};
use self::{
    evidence::{Found, Trials},
    lags::{LONGEST, Scratch, Tested},
    marks::{IN_ALL, KEPT_FOR, MOST_PARTIES, Mark, Marks, StackNumber},
    visits::{Detector, Domain, Name},
};

/// The fewest bytes of an upload: keep-alives have fewer.
pub const LEAST_BYTES: u64 = 300;

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

/// A party of a device, or a host that lists name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Recipient {
    /// The registrable domain, or the host's name.
    pub name: Arc<str>,
    /// Whether it is a host.
    pub is_host: bool,
    domain: Domain,
}

impl Recipient {
    /// A party by its registrable domain, or by its address.
    pub fn party(name: Arc<str>) -> Self {
        Self {
            domain: hash_of(&name),
            name,
            is_host: false,
        }
    }

    /// A host of a party.
    pub fn host(name: Arc<str>, party: &str) -> Self {
        Self {
            domain: hash_of(party),
            name,
            is_host: true,
        }
    }
}

/// A hash of the name of a domain or an owner.
fn hash_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// A name that a device told, in a hello, a request or a DNS question.
#[derive(Clone, Copy, Debug)]
pub struct ToldName<'a> {
    /// Its registrable domain.
    pub party: &'a str,
    /// Whether neither lists nor the vendor have it, and it is no resolver and no CDN.
    pub can_be_site: bool,
    /// The stack of the connection, by its list of ciphers; `None` where it is not told.
    pub stack: Option<u64>,
    /// The owner of the domain, where lists know it.
    pub owner: Option<&'a str>,
}

/// Bytes that a connection uploaded since the last reading.
#[derive(Clone, Copy, Debug)]
pub struct Upload<'a> {
    /// The stack of the connection, by its list of ciphers; `None` where it is not told.
    pub stack: Option<u64>,
    /// The owner of the party, where lists know it.
    pub owner: Option<&'a str>,
    /// The bytes.
    pub bytes: u64,
}

/// An echo of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The time at which it was found, in seconds.
    pub found: u32,
    /// The time at which it was withdrawn, in seconds.
    pub withdrawn: Option<u32>,
    /// Looks since it was significant last.
    misses: u32,
    /// Its figures at the last look at which it was significant.
    pub evidence: Evidence,
}

/// The progress of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Visits so far, without those shortly after an idle time.
    pub visits: u32,
    /// The number of visits of the next look.
    pub next: u32,
    /// Looks so far.
    pub looks: u32,
}

/// The echoes of all devices.
#[derive(Debug, Default)]
pub struct Echo {
    detector: Detector,
    devices: BTreeMap<Mac, Watched>,
    /// Bytes of all marks.
    size: usize,
    /// The device whose look goes on, or went on last.
    turn: Option<Mac>,
    scratch: Scratch,
}

#[derive(Debug)]
struct Watched {
    marks: Marks,
    guard: Guard,
    progress: Progress,
    /// The time at which the next look begins.
    due: Option<u32>,
    look: Option<Box<Look>>,
    verdicts: HashMap<Recipient, Verdict>,
    /// Whether a look is over of which nobody took the outcome.
    is_looked_at: bool,
    /// The stacks that were told, by their number from 1.
    stacks: Vec<u64>,
}

impl Watched {
    fn new(since: u32) -> Self {
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
    fn stack(&mut self, told: Option<u64>) -> StackNumber {
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
    fn visit(&mut self, visit: Mark) {
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
struct Look {
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

impl Echo {
    /// Takes a name that a device told at a time in seconds of steady time.
    pub fn name(&mut self, device: Mac, name: &ToldName<'_>, time: f64) {
        let watched = watched(&mut self.devices, &mut self.size, device, time);
        let name = Name {
            domain: hash_of(name.party),
            can_be_site: name.can_be_site,
            stack: watched.stack(name.stack),
            owner: name.owner.map(hash_of),
        };
        for visit in self.detector.name(device, name, time).into_iter().flatten() {
            self.visit(device, visit);
        }
    }

    /// Takes an upload of a device to all of these; a party comes with each of its hosts that lists name. `time` is
    /// that of the reading, in seconds of steady time.
    pub fn upload<'a>(
        &mut self,
        device: Mac,
        to: impl IntoIterator<Item = &'a Recipient>,
        upload: Upload<'_>,
        time: f64,
    ) {
        if upload.bytes < LEAST_BYTES {
            return;
        }
        let watched = watched(&mut self.devices, &mut self.size, device, time);
        let before = watched.marks.size();
        let stack = watched.stack(upload.stack);
        let owner = upload.owner.map(hash_of);
        for recipient in to {
            let mark = Mark {
                time: time.ceil() as u32,
                site: 0,
                is_second: false,
                stack,
            };
            watched.marks.upload(recipient, owner, mark);
        }
        self.size = self.size - before + watched.marks.size();
        self.keep_to_limit();
    }

    /// Ends groups of names that are over at a time, and goes on with looks for about so many steps: a step is one
    /// upload or visit at one lag.
    pub fn step(&mut self, now: f64, steps: usize) {
        let devices: Vec<_> = self.devices.keys().copied().collect();
        for device in devices {
            for visit in self.detector.close(device, now).into_iter().flatten() {
                self.visit(device, visit);
            }
            if let Some(watched) = self.devices.get_mut(&device) {
                self.size -= watched.marks.size();
                watched.marks.expire(now as u32);
                self.size += watched.marks.size();
            }
        }
        let mut left = steps;
        while left > 0
            && let Some(device) = self.next_turn(now as u32)
            && let Some(watched) = self.devices.get_mut(&device)
        {
            let used = watched.go_on(device, &self.detector, &mut self.scratch, now as u32);
            left = left.saturating_sub(used);
        }
    }

    /// The device whose look goes on, or begins: devices take turns.
    fn next_turn(&mut self, now: u32) -> Option<Mac> {
        let is_waiting =
            |watched: &Watched| watched.look.is_some() || watched.due.is_some_and(|due| due <= now);
        let current = self.turn.and_then(|turn| self.devices.get(&turn));
        if current.is_some_and(|watched| watched.look.is_some()) {
            return self.turn;
        }
        let after = self
            .turn
            .map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let rest = self.devices.range((after, std::ops::Bound::Unbounded));
        let mut order = rest.chain(self.devices.iter());
        self.turn = order
            .find(|(_, watched)| is_waiting(watched))
            .map(|(device, _)| *device);
        self.turn
    }

    /// Whether looks are in progress, or due.
    pub fn is_busy(&self, now: f64) -> bool {
        let mut devices = self.devices.values();
        devices.any(|watched| {
            watched.look.is_some() || watched.due.is_some_and(|due| due <= now as u32)
        })
    }

    /// The echoes of a device, those that were withdrawn included, in the order of their names.
    pub fn verdicts(&self, device: Mac) -> Vec<(&Recipient, &Verdict)> {
        let watched = self.devices.get(&device).into_iter();
        let mut verdicts: Vec<_> = watched.flat_map(|watched| &watched.verdicts).collect();
        verdicts.sort_by_key(|(recipient, _)| *recipient);
        verdicts
    }

    /// The devices of which there are marks.
    pub fn devices(&self) -> impl Iterator<Item = Mac> {
        self.devices.keys().copied()
    }

    /// Whether a look at a device is over since this was called last.
    pub fn take_looked(&mut self, device: Mac) -> bool {
        let watched = self.devices.get_mut(&device);
        watched.is_some_and(|watched| std::mem::take(&mut watched.is_looked_at))
    }

    /// How far a device is.
    pub fn progress(&self, device: Mac) -> Progress {
        let watched = self.devices.get(&device);
        watched.map_or_else(Progress::default, |watched| watched.progress)
    }

    /// The time from which on there are marks of a device, in seconds; `None` where there are none. The second value
    /// says whether older ones went because they took too much room.
    pub fn since(&self, device: Mac) -> Option<(u32, bool)> {
        let marks = &self.devices.get(&device)?.marks;
        Some((marks.since(), marks.is_cut()))
    }

    /// The times of a device's visits, in seconds.
    pub fn visits(&self, device: Mac) -> impl Iterator<Item = u32> {
        let watched = self.devices.get(&device).into_iter();
        let visits = watched.flat_map(|watched| watched.marks.visits());
        let visits = self.detector.settle(device, visits).into_iter();
        visits.map(|visit| visit.time)
    }

    /// The uploads of a device to each party while it was idle, since a time in seconds; and how many seconds of that
    /// time it was.
    pub fn idle(&self, device: Mac, since: u32, now: u32) -> (Vec<(Recipient, IdleUploads)>, u32) {
        let Some(watched) = self.devices.get(&device) else {
            return (Vec::new(), 0);
        };
        let marks = &watched.marks;
        let since = since.max(marks.since());
        let times = |recipient: &Recipient| -> Vec<u32> {
            let uploads = marks.uploads(recipient).map(|upload| upload.time);
            uploads.filter(|time| *time >= since).collect()
        };
        let mut used: Vec<_> = self.visits(device).collect();
        for recipient in marks.parties() {
            used.extend(idle::streams(&times(recipient)));
        }
        used.sort_unstable();
        let idle = idle::idle(since..now, &used);
        let parties = marks.parties();
        let parties = parties.filter(|party| !self.detector.is_site(device, party.domain));
        let mut uploads: Vec<_> = parties
            .filter_map(|party| Some((party.clone(), idle::uploads(&times(party), &idle)?)))
            .collect();
        uploads.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let seconds = idle.iter().map(|time| time.end - time.start);
        (uploads, seconds.sum())
    }

    /// The bytes that all marks take.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Forgets a device.
    pub fn forget(&mut self, device: Mac) {
        if let Some(watched) = self.devices.remove(&device) {
            self.size -= watched.marks.size();
        }
        self.detector.forget(device);
    }

    fn visit(&mut self, device: Mac, visit: Mark) {
        let watched = watched(&mut self.devices, &mut self.size, device, visit.time.into());
        let before = watched.marks.size();
        watched.visit(visit);
        self.size = self.size - before + watched.marks.size();
        self.keep_to_limit();
    }

    /// Has the device with most marks lose its oldest ones until all have room.
    fn keep_to_limit(&mut self) {
        while self.size > IN_ALL {
            let largest = self.devices.values_mut();
            let Some(largest) = largest.max_by_key(|watched| watched.marks.size()) else {
                return;
            };
            let before = largest.marks.size();
            largest.marks.cut();
            self.size = self.size - before + largest.marks.size();
        }
    }
}

/// The state of a device, which begins with the first that is heard of it.
fn watched<'a>(
    devices: &'a mut BTreeMap<Mac, Watched>,
    size: &mut usize,
    device: Mac,
    time: f64,
) -> &'a mut Watched {
    devices.entry(device).or_insert_with(|| {
        let watched = Watched::new(time as u32);
        *size += watched.marks.size();
        watched
    })
}

impl Watched {
    /// Does one part of a look; the result is the number of steps that it took.
    fn go_on(
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

    const PHONE: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
    const LAPTOP: Mac = Mac::new([2, 0, 0, 0, 0, 2]);

    /// A device that opens a page every so many seconds, with a report from another stack a second later.
    fn browse(echo: &mut Echo, device: Mac, times: impl Iterator<Item = u32>, reports: bool) {
        browse_of(echo, device, times, reports, None);
    }

    /// As [`browse`]; all sites belong to an owner, and so does the recipient of the reports.
    fn browse_of(
        echo: &mut Echo,
        device: Mac,
        times: impl Iterator<Item = u32>,
        reports: bool,
        owner: Option<&str>,
    ) {
        let vendor = Recipient::party("vendor.example".into());
        for time in times {
            let site = format!("site{}.example", time / 60 % 7);
            for (after, party) in [(0.0, &*site), (0.4, "part.example")] {
                let name = ToldName {
                    party,
                    can_be_site: true,
                    stack: Some(0xa),
                    owner,
                };
                echo.name(device, &name, f64::from(time) + after);
            }
            if reports {
                let upload = Upload {
                    stack: Some(0xb),
                    owner,
                    bytes: 1_000,
                };
                echo.upload(device, [&vendor], upload, f64::from(time) + 0.9);
            }
            finish(echo, f64::from(time));
        }
    }

    fn finish(echo: &mut Echo, now: f64) {
        echo.step(now, 1);
        while echo.is_busy(now) {
            echo.step(now, 10_000);
        }
    }

    /// Times at which a person opens pages: not at the same second of each minute.
    fn times(from: u32, count: u32) -> impl Iterator<Item = u32> {
        (0..count).map(move |visit| from + visit * 67 + visit * visit % 13)
    }

    #[test]
    fn an_echo_is_found_at_a_look_and_withdrawn_after_two_without_it() {
        let mut echo = Echo::default();
        let found = |echo: &Echo, device| {
            let verdicts = echo.verdicts(device).into_iter();
            let verdicts = verdicts.map(|(recipient, verdict)| {
                (recipient.name.to_string(), verdict.withdrawn.is_some())
            });
            verdicts.collect::<Vec<_>>()
        };
        browse(&mut echo, PHONE, times(1_000, 22), true);
        browse(&mut echo, LAPTOP, times(1_000, 22), false);
        // Its minute is not over: nothing is known before.
        assert_eq!(found(&echo, PHONE), []);
        finish(&mut echo, 1_000.0 + 67.0 * 24.0);
        assert_eq!(found(&echo, PHONE), [("vendor.example".to_owned(), false)]);
        let (_, verdict) = echo.verdicts(PHONE)[0];
        assert_eq!((verdict.evidence.visits, verdict.evidence.lag), (20, 1));
        assert_eq!(verdict.evidence.stack, Stack::BesideThePage);
        assert_eq!(found(&echo, LAPTOP), []);
        // Eight days later its reports are gone from the marks: the next look does without.
        let later = 9 * 86_400;
        browse(&mut echo, PHONE, times(later, 24), false);
        finish(&mut echo, f64::from(later) + 67.0 * 30.0);
        assert_eq!(echo.progress(PHONE).looks, 2);
        assert_eq!(found(&echo, PHONE), [("vendor.example".to_owned(), false)]);
        browse(&mut echo, PHONE, times(later + 86_400, 48), false);
        finish(&mut echo, f64::from(later + 86_400) + 67.0 * 60.0);
        assert_eq!(echo.progress(PHONE).looks, 3);
        assert_eq!(found(&echo, PHONE), [("vendor.example".to_owned(), true)]);
        echo.forget(PHONE);
        assert_eq!(found(&echo, PHONE), []);
    }

    #[test]
    fn a_party_is_no_echo_of_visits_to_its_owners_sites() {
        let mut echo = Echo::default();
        browse_of(&mut echo, PHONE, times(1_000, 22), true, Some("Owner"));
        finish(&mut echo, 1_000.0 + 67.0 * 24.0);
        assert_eq!(echo.progress(PHONE).looks, 1);
        assert_eq!(echo.verdicts(PHONE), []);
    }

    #[test]
    fn uploads_long_after_a_visit_are_those_of_an_idle_device() {
        let mut echo = Echo::default();
        browse(&mut echo, PHONE, times(1_000, 22), true);
        let last = 1_000 + 21 * 67 + 21 * 21 % 13;
        let vendor = Recipient::party("vendor.example".into());
        let upload = Upload {
            stack: None,
            owner: None,
            bytes: 1_000,
        };
        for number in 0..40 {
            let time = f64::from(last + number * 270);
            echo.upload(PHONE, [&vendor], upload, time);
        }
        let now = last + 40 * 270;
        finish(&mut echo, f64::from(now));
        let (idle, seconds) = echo.idle(PHONE, 0, now);
        assert_eq!(seconds, now - last - 1_800);
        let [(party, uploads)] = &*idle else {
            panic!("{idle:?}")
        };
        assert_eq!(
            (party, uploads.count, uploads.every),
            (&vendor, 33, Some(270.0))
        );
        assert_eq!(echo.idle(LAPTOP, 0, now), (Vec::new(), 0));
    }

    #[test]
    fn small_uploads_leave_no_mark() {
        let mut echo = Echo::default();
        let party = Recipient::party("a.example".into());
        let upload = |bytes| Upload {
            stack: None,
            owner: None,
            bytes,
        };
        echo.upload(PHONE, [&party], upload(LEAST_BYTES - 1), 100.0);
        assert_eq!(echo.since(PHONE), None);
        echo.upload(PHONE, [&party], upload(LEAST_BYTES), 100.0);
        assert_eq!(echo.since(PHONE), Some((100, false)));
    }

    #[test]
    fn all_devices_together_keep_to_the_limit() {
        let mut echo = Echo::default();
        let parties: Vec<_> = (0..300)
            .map(|number| Recipient::party(format!("{number}.example").into()))
            .collect();
        let upload = Upload {
            stack: None,
            owner: None,
            bytes: 1_000,
        };
        echo.upload(LAPTOP, [&parties[0]], upload, 1.0);
        let devices: Vec<_> = (10..60)
            .map(|last| Mac::new([2, 0, 0, 0, 0, last]))
            .collect();
        for time in 0..190_u32 {
            for device in &devices {
                let at = f64::from(time) * 3_000.0;
                echo.upload(*device, &parties, upload, at);
            }
            assert!(echo.size() <= IN_ALL);
        }
        // The small device lost nothing.
        assert_eq!(echo.since(LAPTOP), Some((1, false)));
        assert!(
            devices
                .iter()
                .any(|device| echo.since(*device).is_some_and(|since| since.1))
        );
        let counted: usize = echo
            .devices
            .values()
            .map(|watched| watched.marks.size())
            .sum();
        assert_eq!(echo.size(), counted);
    }

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
