//! Echoes of simulated devices: the visits and the beacons that are found, and those that are not there.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use sensor::{
    aggregate::echo::{Echo, Reach, Recipient, Stack, ToldName, Upload, Verdict},
    catalog::domain::registrable,
};
use sensor_ebpf::parse::Mac;
use xtask::verify::times;

use self::simulator::{Beacon, Kind, Plan, START, Simulated, What, simulate};

#[path = "echo/simulator.rs"]
mod simulator;

const PHONE: Mac = Mac::new([2, 0, 0, 0, 0, 1]);

const BEACONS: [Beacon; 5] = [
    Beacon::Immediate,
    Beacon::Delayed,
    Beacon::Missed,
    Beacon::Timer,
    Beacon::Batch,
];

/// A simulated device, and the echoes that were found.
struct Run {
    of: Simulated,
    echo: Echo,
}

impl Run {
    fn new(plan: &Plan) -> Self {
        /// Seconds between two steps, and the steps of a look in each.
        const TICK: f64 = 10.0;
        const STEPS: usize = 200_000;

        let of = simulate(plan);
        let parties = of.hosts.iter().map(|host| {
            let name = registrable(&host.name).expect("a domain");
            Recipient::party(name.into())
        });
        let parties: Vec<_> = parties.collect();
        let mut echo = Echo::default();
        let mut now = START;
        for event in &of.events {
            while now < event.time {
                echo.step(now, STEPS);
                now += TICK;
            }
            let (host, party) = (&of.hosts[event.host], &parties[event.host]);
            match event.what {
                What::Name => {
                    let name = ToldName {
                        party: &party.name,
                        can_be_site: !host.is_listed,
                        stack: event.stack,
                        owner: None,
                    };
                    echo.name(PHONE, &name, event.time);
                }
                What::Upload(bytes) => {
                    let upload = Upload {
                        stack: event.stack,
                        owner: None,
                        bytes,
                    };
                    echo.upload(PHONE, [party], upload, event.time);
                }
            }
        }
        while now < of.end + 300.0 {
            echo.step(now, STEPS);
            now += TICK;
        }
        Self { of, echo }
    }

    fn verdicts(&self) -> impl Iterator<Item = (Kind, &Verdict)> {
        let kind_of = |recipient: &Recipient| {
            let mut hosts = self.of.hosts.iter();
            let host = hosts.find(|host| registrable(&host.name) == Some(&*recipient.name));
            host.expect("a host").kind
        };
        let verdicts = self.echo.verdicts(PHONE).into_iter();
        verdicts.map(move |(recipient, verdict)| (kind_of(recipient), verdict))
    }
}

/// Runs plans on all cores, and gives each result to `each`.
fn run_all(plans: &[Plan], each: impl Fn(&Plan, Run) + Sync) {
    let next = AtomicU64::new(0);
    let work = || {
        while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            each(plan, Run::new(plan));
        }
    };
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
}

fn share(part: usize, all: usize) -> f64 {
    part as f64 / all as f64
}

#[test]
fn visits_are_found_in_names() {
    let plans: Vec<_> = (0..50).map(|seed| Plan::new(1_000 + seed)).collect();
    let sums = Mutex::new([0; 4]);
    run_all(&plans, |_, run| {
        let found: Vec<_> = run.echo.visits(PHONE).map(f64::from).collect();
        let true_visits = &run.of.visits;
        let is_near = |one: &f64, others: &[f64]| others.iter().any(|at| (at - one).abs() < 2.0);
        let right = found.iter().filter(|at| is_near(at, true_visits)).count();
        let recalled = true_visits.iter().filter(|at| is_near(at, &found)).count();
        let of_run = [right, found.len(), recalled, true_visits.len()];
        let mut sums = sums.lock().expect("no panic");
        for (sum, count) in sums.iter_mut().zip(of_run) {
            *sum += count;
        }
    });
    let [right, found, recalled, truth] = *sums.lock().expect("no panic");
    let (precision, recall) = (share(right, found), share(recalled, truth));
    println!("visits: {truth}, precision {precision:.3}, recall {recall:.3}");
    assert!(precision >= 0.95 && recall >= 0.95, "{precision} {recall}");
}

#[test]
fn beacons_are_found_within_200_visits() {
    let seeds: u64 = times(4, 50);
    for beacon in BEACONS {
        let plan = |seed| Plan {
            beacons: vec![beacon],
            ..Plan::new(2_000 + seed)
        };
        let plans: Vec<_> = (0..seeds).map(plan).collect();
        // Found, those beside the page, and parties on all sites that are said to be beside it.
        let labels: Mutex<BTreeMap<_, usize>> = Mutex::default();
        run_all(&plans, |_, run| {
            for (kind, verdict) in run.verdicts() {
                let is_beacon = kind == Kind::Beacon(beacon);
                let is_of_all = kind == Kind::Everywhere;
                if verdict.withdrawn.is_none() && (is_beacon || is_of_all) {
                    let reach = match verdict.evidence.reach {
                        Reach::Unclear(_) => "unclear",
                        Reach::NearlyEverySite => "nearly every site",
                        Reach::SomeSites => "some sites",
                        Reach::SomeSessions => "some sessions",
                    };
                    let label = (is_beacon, reach, format!("{:?}", verdict.evidence.stack));
                    *labels.lock().expect("no panic").entry(label).or_default() += 1;
                }
            }
        });
        let labels = labels.into_inner().expect("no panic");
        println!("{beacon:?}: {labels:#?}");
        let count = |is_counted: &dyn Fn(bool, &str) -> bool| -> usize {
            let labels = labels.iter();
            let counted = labels.filter(|((beacon, _, stack), _)| is_counted(*beacon, stack));
            counted.map(|(_, count)| count).sum()
        };
        let beside = format!("{:?}", Stack::BesideThePage);
        let found = count(&|is_beacon, _| is_beacon);
        let least = match beacon {
            Beacon::Batch => 0.8,
            _ => 0.95,
        };
        assert!(share(found, plans.len()) >= least, "{beacon:?}: {found}");
        let found_beside = count(&|is_beacon, stack| is_beacon && stack == beside);
        assert!(share(found_beside, found) >= 0.95, "{beacon:?}: {labels:?}");
        let embedded = count(&|is_beacon, stack| !is_beacon && stack == beside);
        assert!(
            share(embedded, plans.len()) <= 0.01,
            "{beacon:?}: {labels:?}"
        );
    }
}

#[test]
fn a_beacon_from_the_browsers_stack_is_not_beside_the_page() {
    let plan = Plan {
        beacons: vec![Beacon::Delayed],
        same_stack: true,
        ..Plan::new(7)
    };
    let run = Run::new(&plan);
    let mut beacons = run
        .verdicts()
        .filter(|(kind, _)| *kind == Kind::Beacon(Beacon::Delayed));
    let (_, verdict) = beacons.next().expect("it is found");
    assert_ne!(verdict.evidence.stack, Stack::BesideThePage);
    assert_eq!(verdict.evidence.reach, Reach::NearlyEverySite);
}

#[test]
fn programs_that_know_nothing_of_visits_are_no_echo() {
    const DAY: f64 = 86_400.0;
    const PROGRAMS: usize = 200;

    let plan = |seed| Plan {
        visits: usize::MAX,
        seconds: times(3.0, 30.0) * DAY,
        idle: times(6.0, 15.0),
        background: PROGRAMS,
        ..Plan::new(3_000 + seed)
    };
    let plans: Vec<_> = (0..times(2_u64, 150)).map(plan).collect();
    let found = Mutex::new(Vec::new());
    let looks = AtomicU64::new(0);
    run_all(&plans, |plan, run| {
        looks.fetch_add(run.echo.progress(PHONE).looks.into(), Ordering::Relaxed);
        for (kind, verdict) in run.verdicts() {
            if matches!(kind, Kind::Background | Kind::Unlock) {
                let found_here = (plan.seed, kind, verdict.clone());
                found.lock().expect("no panic").push(found_here);
            }
        }
    });
    let found = found.into_inner().expect("no panic");
    let parties = plans.len() * (PROGRAMS + 1);
    let looks = looks.into_inner();
    println!(
        "{} false echoes of {parties} parties in {looks} looks",
        found.len()
    );
    assert!(looks >= plans.len() as u64 * 4);
    assert!(share(found.len(), parties) <= 0.001, "{found:#?}");
}
