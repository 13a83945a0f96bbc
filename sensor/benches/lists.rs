//! The cost of a list of 1,000,000 names: the time to load it, its memory, and the time of a
//! lookup.

#![allow(missing_docs)] // `criterion_group!` makes a public function without.

use std::{fmt::Write as _, fs, hint::black_box};

use criterion::{Criterion, criterion_group, criterion_main};
use sensor::catalog::{
    domain::registrable,
    lists::{About, Category, Lists},
};

const NAMES: u64 = 1_000_000;

/// How many different names are asked for in turn: as a house does, and more than a cache holds.
const FEW: usize = 1 << 10;
const MANY: usize = 1 << 16;

const LABELS: [&str; 8] = [
    "telemetry",
    "ads",
    "metrics",
    "cdn",
    "track",
    "log",
    "api",
    "static",
];
const ENDS: [&str; 8] = ["com", "net", "co.uk", "io", "de", "org", "com.cn", "app"];

/// A name of the length that names on block lists have, another for every number.
fn name(number: u64) -> String {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let label = LABELS[(spread >> 61) as usize];
    let end = ENDS[(spread >> 58) as usize & 7];
    format!("{label}{}.site-{number:x}.{end}", spread >> 56 & 15)
}

fn add(lists: &mut Lists, text: &str) {
    let about = About {
        name: "bench",
        category: Some(Category::Advertising),
        owner: None,
    };
    let report = lists.add(about, text.as_bytes());
    assert!(report.is_ok_and(|report| report.used == NAMES && report.bad == 0));
}

/// Resident memory in KiB (proc(5), `VmRSS`).
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

fn lists(criterion: &mut Criterion) {
    let mut text = String::new();
    for number in 0..NAMES {
        let _ = writeln!(text, "0.0.0.0 {}", name(number));
    }
    let before = resident();
    let mut lists = Lists::default();
    add(&mut lists, &text);
    lists.shrink();
    let taken = resident().saturating_sub(before);
    assert_eq!(lists.len() as u64, NAMES);
    println!(
        "{NAMES} names, {} octets of text: {:.1} MiB, resident {:.1} MiB more",
        text.len(),
        lists.memory() as f64 / 1_048_576.0,
        taken as f64 / 1024.0,
    );

    let mut load = criterion.benchmark_group("lists");
    load.sample_size(10);
    load.bench_function("load 1,000,000 names of a hosts file", |bencher| {
        bencher.iter(|| {
            let mut lists = Lists::default();
            add(&mut lists, black_box(&text));
            lists
        });
    });
    load.finish();

    let spread = |number: u64| number.wrapping_mul(0x9e37_79b9) % NAMES;
    let many = 0..MANY as u64;
    let listed: Vec<_> = many.clone().map(|number| name(spread(number))).collect();
    let below: Vec<_> = listed.iter().map(|name| format!("a.b.{name}")).collect();
    let unlisted: Vec<_> = many.map(|number| name(NAMES + spread(number))).collect();
    for (what, names, is_listed) in [
        ("find a listed name", &listed, true),
        ("find a name two labels below", &below, true),
        ("find nothing", &unlisted, false),
    ] {
        let mut find = criterion.benchmark_group(what);
        for (how, count) in [("few names in turn", FEW), ("many names in turn", MANY)] {
            let mut names = names[..count].iter().cycle();
            find.bench_function(how, |bencher| {
                bencher.iter(|| {
                    let name = names.next().map_or("", String::as_str);
                    let found = black_box(&lists).find(black_box(name));
                    assert_eq!(found.is_some(), is_listed);
                });
            });
        }
        find.finish();
    }

    let mut names = below.iter().cycle();
    criterion.bench_function("registrable domain", |bencher| {
        bencher.iter(|| {
            let name = names.next().map_or("", String::as_str);
            black_box(registrable(black_box(name)))
        });
    });
}

criterion_group!(benches, lists);
criterion_main!(benches);
