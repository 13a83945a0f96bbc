//! Echoes: parties to which a device uploads something whenever it visits a site.
//!
//! Names become visits (`visits`), visits and uploads become `marks`. At its looks a device's parties are tested
//! (`lags`, `chance`), and those that pass (`looks`) are shown with their `evidence`: *reach* and *stack* are two
//! fields, because timing alone cannot tell a party that nearly every page embeds from a report of the device itself.
//! `watched` has the state of a device. From the same marks come the uploads while a device is `idle`.
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
mod watched;

use std::{
    collections::BTreeMap,
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
    lags::Scratch,
    marks::{IN_ALL, Mark},
    visits::{Detector, Domain, Name},
    watched::Watched,
};

/// The fewest bytes of an upload: keep-alives have fewer.
pub const LEAST_BYTES: u64 = 300;

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

impl Echo {
    /// Takes a name that a device told at a time in seconds of steady time.
    pub fn name(&mut self, device: Mac, name: &ToldName<'_>, time: f64) {
        let watched = state_of(&mut self.devices, &mut self.size, device, time);
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
        let watched = state_of(&mut self.devices, &mut self.size, device, time);
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
        let watched = state_of(&mut self.devices, &mut self.size, device, visit.time.into());
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
fn state_of<'a>(
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
}
