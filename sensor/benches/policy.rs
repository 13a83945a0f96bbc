//! How long policies with many names take to be compiled, and how large their table is.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    hint::black_box,
    time::{Duration, Instant},
};

use sensor::{
    aggregate::knowledge::Knowledge,
    config::{Action, Policy},
    policy::{PolicyLists, compile},
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
        let knowledge = Knowledge::default();
        let began = Instant::now();
        let lists = PolicyLists::load(&policies, &PolicyLists::default());
        let read = began.elapsed();
        let identities = HashMap::from([("ads".to_owned(), 1)]);
        let mut took = Vec::new();
        let mut octets = 0;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let compiled = compile(&policies, &[], &knowledge, &lists, &identities)?;
            took.push(began.elapsed());
            let names = &black_box(&compiled).names;
            assert_eq!(names.count, count);
            octets = size_of_val(&*names.buckets);
        }
        took.sort();
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
