//! Devices that browse, in simulated time: the names that they tell and the uploads that a reading counts.
//!
//! Visits come in sessions (14 in the mean), each read for a while (log-normal, median 25 s), every eighth as three
//! tabs, with idle times between sessions (log-normal, median 18 minutes). A site embeds 3 to 25 third parties, of
//! which some are shared with other sites. Names are told by new connections alone: a connection stays open for a
//! minute. The same seed gives the same events.

use std::collections::HashMap;

/// Seconds for which a connection without traffic stays open.
const OPEN_FOR: f64 = 60.0;

const SITES: usize = 70;
const SHARED: usize = 40;

/// The stacks of the browser and of the system.
pub(crate) const BROWSER: u64 = 0x46e7;
pub(crate) const SYSTEM: u64 = 0xc866;

/// Numbers that look random, the same for the same seed (S. Vigna, SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// At least 0, below 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.share()
    }

    pub(crate) fn below(&mut self, number: usize) -> usize {
        (self.share() * number as f64) as usize
    }

    pub(crate) fn is(&mut self, chance: f64) -> bool {
        self.share() < chance
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.share()).ln()
    }

    /// Log-normal, by the median (G. Box, M. Muller).
    fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.share()).cos();
        median * (sigma * normal).exp()
    }
}

/// A report of the device on its visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beacon {
    /// Within a second or two.
    Immediate,
    /// Within four seconds.
    Delayed,
    /// Within four seconds, of four visits in five.
    Missed,
    /// By a timer of 15 seconds that the first visit since the last report starts.
    Timer,
    /// After each third visit.
    Batch,
}

/// The kind of a host: which pages or programs contact it, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A site that is visited.
    Site,
    /// A third party of sites.
    Embedded,
    /// One that is on all sites.
    Everywhere,
    /// A report on visits.
    Beacon(Beacon),
    /// A program that knows nothing of visits.
    Background,
    /// Programs that synchronise when the device is taken up.
    Unlock,
}

/// The properties of a simulated device.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// It ends after so many visits, or after so many seconds.
    pub(crate) visits: usize,
    pub(crate) seconds: f64,
    /// Idle times, as multiples of those in the study.
    pub(crate) idle: f64,
    pub(crate) beacons: Vec<Beacon>,
    /// Whether the beacons come from the browser's stack.
    pub(crate) same_stack: bool,
    pub(crate) background: usize,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            visits: 200,
            seconds: f64::INFINITY,
            idle: 1.0,
            beacons: Vec::new(),
            same_stack: false,
            background: 24,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Whether a list, or the vendor, has it.
    pub(crate) is_listed: bool,
    stack: u64,
    is_quic: bool,
    told: Option<u64>,
    /// The time of the last byte of its connection.
    open: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// A hello.
    Name,
    /// Bytes up, in a reading.
    Upload(u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) time: f64,
    pub(crate) host: usize,
    /// The stack, where a hello of that host has told it.
    pub(crate) stack: Option<u64>,
    pub(crate) what: What,
}

/// A device's events in the order of time, and the truth behind them.
pub(crate) struct Simulated {
    pub(crate) hosts: Vec<Host>,
    pub(crate) events: Vec<Event>,
    /// The times of the visits that told a name, those within six seconds as one.
    pub(crate) visits: Vec<f64>,
    pub(crate) end: f64,
}

struct Simulation {
    plan: Plan,
    random: Random,
    hosts: Vec<Host>,
    /// Contacts: time, host, bytes.
    contacts: Vec<(f64, usize, u64)>,
}

/// The moment of an opening, and its site.
struct Opening {
    time: f64,
    site: usize,
    begins_session: bool,
    ends: f64,
}

/// The time at which a simulation begins, in seconds.
pub(crate) const START: f64 = 1_796_000_000.0;

pub(crate) fn simulate(plan: &Plan) -> Simulated {
    let mut simulation = Simulation {
        plan: plan.clone(),
        random: Random::new(plan.seed),
        hosts: Vec::new(),
        contacts: Vec::new(),
    };
    let openings = simulation.openings();
    let pages = simulation.pages();
    for opening in &openings {
        simulation.load(opening, &pages);
    }
    for beacon in plan.beacons.clone() {
        simulation.report(beacon, &openings);
    }
    let end = openings.last().map_or(START, |opening| opening.time) + 200.0;
    simulation.background(&openings, end);
    simulation.finish(&openings, end)
}

impl Simulation {
    fn host(&mut self, name: String, kind: Kind, is_listed: bool, stack: u64) -> usize {
        let is_quic = stack == BROWSER && self.random.is(0.4);
        self.hosts.push(Host {
            name,
            kind,
            is_listed,
            stack,
            is_quic,
            told: None,
            open: f64::NEG_INFINITY,
        });
        self.hosts.len() - 1
    }

    fn openings(&mut self) -> Vec<Opening> {
        let weights: Vec<_> = (1..=SITES).map(|rank| (rank as f64).powf(-0.9)).collect();
        let sum: f64 = weights.iter().sum();
        let mut openings = Vec::new();
        let mut time = START + 600.0;
        let random = &mut self.random;
        let site = |random: &mut Random| {
            let mut at = random.share() * sum;
            let place = weights.iter().position(|weight| {
                at -= weight;
                at < 0.0
            });
            place.unwrap_or(SITES - 1)
        };
        let mut begins_session = true;
        while openings.len() < self.plan.visits && time < START + self.plan.seconds {
            let tabs = if random.is(0.12) { 3 } else { 1 };
            for _ in 0..tabs {
                openings.push(Opening {
                    time,
                    site: site(random),
                    begins_session,
                    ends: time,
                });
                begins_session = false;
                if tabs > 1 {
                    time += random.between(0.2, 1.3);
                }
            }
            let dwell = random.log_normal(25.0, 1.1).clamp(1.0, 600.0);
            time += dwell;
            for opening in openings.iter_mut().rev().take(tabs) {
                opening.ends = time;
            }
            if random.is(1.0 / 14.0) {
                let idle = random.log_normal(18.0 * 60.0, 1.0) * self.plan.idle;
                time += idle.clamp(200.0, 40_000.0);
                begins_session = true;
            }
        }
        openings
    }

    /// The hosts of each site, its own first, with the chance of being contacted.
    fn pages(&mut self) -> Vec<Vec<(usize, f64)>> {
        let shared: Vec<_> = (0..SHARED)
            .map(|number| {
                let name = format!("shared{number}.example");
                self.host(name, Kind::Embedded, number.is_multiple_of(4), BROWSER)
            })
            .collect();
        let on: Vec<_> = [0.03, 0.08, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.85]
            .into_iter()
            .map(|share| {
                let name = format!("on{:02}.example", (share * 100.0) as u32);
                (self.host(name, Kind::Embedded, false, BROWSER), share)
            })
            .collect();
        let everywhere = self.host(
            "everywhere.example".into(),
            Kind::Everywhere,
            false,
            BROWSER,
        );
        let rotating = self.host("rotating.example".into(), Kind::Embedded, true, BROWSER);
        let mut pages = Vec::new();
        for site in 0..SITES {
            let own = self.host(format!("site{site}.example"), Kind::Site, false, BROWSER);
            let mut page = vec![(own, 1.0), (everywhere, 1.0)];
            page.extend(
                on.iter()
                    .filter(|(_, share)| self.random.is(*share))
                    .map(|on| (on.0, 1.0)),
            );
            if self.random.is(0.4) {
                page.push((rotating, 0.5));
            }
            let parties = 3 + self.random.below(23);
            while page.len() < parties + 1 {
                if self.random.is(0.5) {
                    // Few are on many sites, many on few.
                    let rank = (SHARED as f64).powf(self.random.share()) as usize - 1;
                    if !page.iter().any(|(host, _)| *host == shared[rank]) {
                        page.push((shared[rank], 1.0));
                    }
                } else {
                    let name = format!("part{}of{site}.example", page.len());
                    page.push((self.host(name, Kind::Embedded, false, BROWSER), 0.9));
                }
            }
            page.truncate(parties + 1);
            pages.push(page);
        }
        pages
    }

    fn contact(&mut self, time: f64, host: usize) {
        let bytes = 600 + self.random.below(3_000) as u64;
        self.contacts.push((time, host, bytes));
    }

    fn load(&mut self, opening: &Opening, pages: &[Vec<(usize, f64)>]) {
        let page = &pages[opening.site];
        self.contact(opening.time, page[0].0);
        let is_heartbeat = opening.site.is_multiple_of(9);
        for (host, chance) in &page[1..] {
            if self.random.is(*chance) {
                let after = 0.1 + self.random.exponential(0.7).min(5.0);
                self.contact(opening.time + after, *host);
            }
        }
        // Parts that are loaded when the page is scrolled, and the page's own reports.
        if opening.ends - opening.time > 20.0 {
            for (host, _) in page[1..].iter().rev().take(2) {
                if self.random.is(0.3) {
                    let time = self.random.between(opening.time + 8.0, opening.ends);
                    self.contact(time, *host);
                }
            }
        }
        if is_heartbeat && let Some((host, _)) = page.last().copied() {
            let mut time = opening.time + 15.0;
            while time < opening.ends {
                self.contact(time, host);
                time += 15.0;
            }
        }
    }

    fn report(&mut self, beacon: Beacon, openings: &[Opening]) {
        let stack = match self.plan.same_stack {
            true => BROWSER,
            false => SYSTEM,
        };
        let name = format!("{beacon:?}.vendor-{beacon:?}.example").to_lowercase();
        let host = self.host(name, Kind::Beacon(beacon), true, stack);
        let mut armed = f64::NEG_INFINITY;
        let mut queued = 0;
        for opening in openings {
            let delay = self.random.between(0.0, 4.0);
            match beacon {
                Beacon::Immediate => {
                    let delay = 0.1 + self.random.exponential(0.6).min(3.0);
                    self.contact(opening.time + delay, host);
                }
                Beacon::Delayed => self.contact(opening.time + delay, host),
                Beacon::Missed if self.random.is(0.2) => {}
                Beacon::Missed => self.contact(opening.time + delay, host),
                Beacon::Timer if opening.time < armed => {}
                Beacon::Timer => {
                    armed = opening.time + 15.0;
                    let late = self.random.between(0.1, 0.8);
                    self.contact(armed + late, host);
                }
                Beacon::Batch => {
                    queued += 1;
                    if queued == 3 {
                        queued = 0;
                        self.contact(opening.time + delay, host);
                    }
                }
            }
        }
    }

    /// Programs that know nothing of visits, and some that start with the device.
    fn background(&mut self, openings: &[Opening], end: f64) {
        let sessions: Vec<_> = openings
            .chunk_by(|_, next| !next.begins_session)
            .map(|session| (session[0].time, session[session.len() - 1].ends))
            .collect();
        for number in 0..self.plan.background {
            let name = format!("app{number}.background{number}.example");
            let stack = if number.is_multiple_of(3) {
                BROWSER
            } else {
                SYSTEM
            };
            let host = self.host(name, Kind::Background, number.is_multiple_of(2), stack);
            // Of many programs, most are not as busy as one each minute.
            let kind = match number {
                0..24 => number % 12,
                _ => 3 + number % 9,
            };
            // Some at all times, most in sessions only.
            let all = [(START, end)];
            let spans = match kind {
                0..=4 => &all[..],
                _ => &sessions[..],
            };
            for (from, to) in spans {
                self.program(kind, host, *from, *to);
            }
        }
        let unlock = self.host("sync.unlock.example".into(), Kind::Unlock, false, SYSTEM);
        for (start, _) in &sessions {
            for _ in 0..4 {
                let time = start - 6.0 + self.random.between(0.0, 14.0);
                self.contact(time, unlock);
            }
        }
    }

    fn program(&mut self, kind: usize, host: usize, from: f64, to: f64) {
        let mut time = from + self.random.between(0.0, 60.0);
        let mut is_on = true;
        let mut turns = time + 150.0;
        while time < to {
            self.contact(time, host);
            time += match kind {
                0 => 30.0,
                1 => self.random.between(25.0, 35.0),
                2 => 60.0 + self.random.between(0.0, 0.5),
                3 => self.random.between(270.0, 330.0),
                4 => self.random.exponential(200.0),
                5 => 45.0,
                6 => self.random.exponential(40.0),
                // Clumps of a few.
                7 if self.random.is(0.7) => self.random.exponential(2.0),
                7 => self.random.exponential(120.0),
                // On and off.
                8 => {
                    if time > turns {
                        is_on = !is_on;
                        turns = time + 150.0;
                    }
                    match is_on {
                        true => self.random.between(4.0, 8.0),
                        false => turns - time + 0.1,
                    }
                }
                9 => self.random.exponential(15.0),
                10 => self.random.between(80.0, 100.0),
                _ => self.random.exponential(90.0),
            };
        }
    }

    fn finish(mut self, openings: &[Opening], end: f64) -> Simulated {
        self.contacts
            .sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut events = Vec::with_capacity(2 * self.contacts.len());
        let mut told: HashMap<usize, Vec<f64>> = HashMap::new();
        for (time, number, bytes) in &self.contacts {
            let host = &mut self.hosts[*number];
            if time - host.open > OPEN_FOR {
                // One connection in five of a QUIC host is TCP.
                if !host.is_quic || self.random.is(0.2) {
                    host.told = Some(host.stack);
                }
                events.push(Event {
                    time: *time,
                    host: *number,
                    stack: host.told,
                    what: What::Name,
                });
                if host.kind == Kind::Site {
                    told.entry(*number).or_default().push(*time);
                }
            }
            host.open = *time;
            events.push(Event {
                // The kernel's tables are read each second.
                time: (time + 0.2).ceil(),
                host: *number,
                stack: host.told,
                what: What::Upload(*bytes),
            });
        }
        events.sort_by(|one, other| one.time.total_cmp(&other.time));
        let mut visits: Vec<_> = told.into_values().flatten().collect();
        visits.sort_by(f64::total_cmp);
        let mut first = f64::NEG_INFINITY;
        visits.retain(|visit| {
            let is_first = visit - first > 6.0;
            if is_first {
                first = *visit;
            }
            is_first
        });
        assert!(openings.len() >= visits.len());
        Simulated {
            hosts: self.hosts,
            events,
            visits,
            end,
        }
    }
}
