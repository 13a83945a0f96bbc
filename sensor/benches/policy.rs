//! How long policies with many names take to be compiled, and how large their table is.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    hint::black_box,
    time::{Duration, Instant},
};

use sensor::{
    catalog::{Catalog, lists::MOST_NAMES},
    policy::{Action, BLOCKED, Holds, Override, Policy, PolicyLists, compile, recompile},
};

/// How often each is done; the median is told.
const ROUNDS: usize = 5;

fn main() -> anyhow::Result<()> {
    let file = std::env::temp_dir().join(format!("sensor-bench-policy-{}", std::process::id()));
    for count in [200_000_u64, 1_000_000] {
        let mut text = String::new();
        for number in 0..count {
            let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let _ = writeln!(text, "ads{}.site-{number:x}.example", spread >> 56 & 15);
        }
        fs::write(&file, text)?;
        let policies = [Policy {
            name: "ads".to_owned(),
            lists: vec![file.clone()],
            action: Action::Reject,
            ..Policy::default()
        }];
        let catalog = Catalog::default();
        let began = Instant::now();
        let lists = PolicyLists::load(&policies, MOST_NAMES, &PolicyLists::default());
        let read = began.elapsed();
        let identities = HashMap::from([("ads".to_owned(), 1), (BLOCKED.to_owned(), 2)]);
        let mut took = Vec::new();
        let mut octets = 0;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let compiled = compile(&policies, &[], &catalog, &lists, &identities)?;
            took.push(began.elapsed());
            let names = &black_box(&compiled).names;
            assert_eq!(names.count, count);
            octets = size_of_val(&*names.buckets);
        }
        took.sort();
        // As `sensor block` does.
        let compiled = compile(&policies, &[], &catalog, &lists, &identities)?;
        let said = [Override {
            domain: "blocked.example".to_owned(),
            device: None,
            blocks: true,
            since: 0.0,
            holds: Holds::Always,
        }];
        let mut blocked = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let said: (&[_], &[_]) = (&[], &said);
            let again = recompile(&compiled, said, &policies, &catalog, &lists, &identities);
            blocked.push(began.elapsed());
            let count = black_box(&again).as_ref().map(|again| again.names.count);
            assert_eq!(count, Some(compiled.names.count + 1));
        }
        blocked.sort();
        println!(
            "{count} names: one more by a command in {:.1} ms",
            milliseconds(blocked[ROUNDS / 2])
        );
        println!(
            "{count} names: read in {:.0} ms, compiled in {:.0} ms, a table of {octets} octets",
            milliseconds(read),
            milliseconds(took[ROUNDS / 2]),
        );
    }
    fs::remove_file(&file)?;
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
