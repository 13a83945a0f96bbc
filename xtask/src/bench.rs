//! `bench`: the cost of a packet in the kernel, of a message in a decoder, and of the daemon on the machine,
//! beside xdp-filter, ndpiReader, dnsmasq, unbound and the goals; and the results of a thousand attempts at a
//! blocked name by every way.

mod decoding;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde::{Deserialize, Serialize};

use self::decoding::DecodingFigures;
use crate::{
    build,
    command::{run, run_shown, say},
    setup::{self, Need},
};

/// The report that `--json` writes.
#[derive(Serialize)]
struct Report {
    kernel: KernelFigures,
    daemon: DaemonFigures,
    /// Messages that one core decodes in a second.
    decoding: DecodingFigures,
    /// Where the captures are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<ReplayFigures>,
    filter: FilterFigures,
    dns: DnsFigures,
    goals: Vec<Goal>,
}

/// The figures that the bench of the kernel programs writes.
#[derive(Deserialize, Serialize)]
struct KernelFigures {
    repeats: u64,
    rounds: u64,
    figures: BTreeMap<String, Figure>,
}

/// Nanoseconds for a packet, less the floor where the figure is not a floor.
#[derive(Deserialize, Serialize)]
struct Figure {
    median_ns: f64,
    lowest_ns: f64,
    highest_ns: f64,
    with_floor_ns: f64,
}

/// The figures that the bench of the daemon writes.
#[derive(Deserialize, Serialize)]
struct DaemonFigures {
    devices: u64,
    flows: u64,
    /// Different names of the flows.
    names: u64,
    anonymous_mib: f64,
    /// Resident, without the tables of the kernel that the daemon maps.
    without_tables_mib: f64,
    /// Kernel tables, as the kernel accounts them.
    tables_mib: f64,
    resident_mib: f64,
    most_resident_mib: f64,
    /// By how much it grows while it lists all flows as JSON.
    listing_mib: f64,
    tick_cpu_ms: f64,
    scrape_ms: f64,
    longest_scrape_ms: f64,
    /// A scrape of the same snapshot.
    cached_scrape_ms: f64,
    scrape_kib: f64,
    /// Names of the list of a second daemon, of which all that follow are.
    listed_names: u64,
    /// Resident without kernel tables, at rest and at most while the list is read anew.
    names_steady_mib: f64,
    names_peak_mib: f64,
    names_tables_mib: f64,
    names_reload_ms: f64,
    names_block_ms: f64,
    names_longest_block_ms: f64,
}

impl DaemonFigures {
    fn goals(&self) -> [Goal; 10] {
        let mib = |name, measured, most| Goal::new(name, "MiB", measured, AtMost(most));
        let ms = |name, measured, most| Goal::new(name, "ms", measured, AtMost(most));
        [
            mib("daemon, anonymous memory", self.anonymous_mib, 12.0),
            mib(
                "daemon, resident memory without tables of the kernel",
                self.without_tables_mib,
                18.0,
            ),
            mib("daemon, tables of the kernel", self.tables_mib, 18.0),
            mib(
                "daemon, more memory while it lists flows as JSON",
                self.listing_mib,
                4.0,
            ),
            ms("daemon, CPU of a tick", self.tick_cpu_ms, 5.0),
            ms("daemon, scrape", self.scrape_ms, 5.0),
            ms(
                "daemon, scrape of the same snapshot",
                self.cached_scrape_ms,
                1.0,
            ),
            mib(
                "1,000,000 names, resident memory without tables of the kernel",
                self.names_steady_mib,
                64.0,
            ),
            mib(
                "1,000,000 names, the same at most in a reload",
                self.names_peak_mib,
                112.0,
            ),
            ms(
                "1,000,000 names, `sensor block`",
                self.names_block_ms,
                100.0,
            ),
        ]
    }
}

/// The figures that the bench of replays writes, where the captures are there.
#[derive(Deserialize, Serialize)]
struct ReplayFigures {
    corpus: Comparison,
    large: Comparison,
}

/// `sensor replay` beside ndpiReader: the packets of both, and milliseconds of CPU.
#[derive(Deserialize, Serialize)]
struct Comparison {
    captures: u64,
    rounds: u64,
    sensor_packets: u64,
    ndpi_packets: u64,
    sensor_ms: f64,
    ndpi_ms: f64,
    ratio: f64,
}

/// The figures that the bench of the filter writes: attempts at a blocked name, and as many at an allowed one,
/// by circumstance and way.
#[derive(Deserialize, Serialize)]
struct FilterFigures {
    attempts: u64,
    figures: BTreeMap<String, BTreeMap<String, Attempts>>,
}

/// How attempts ended.
#[derive(Deserialize, Serialize)]
struct Attempts {
    attempts: u64,
    refused: u64,
    silent: u64,
    failed: u64,
    answered: u64,
    /// Those that the blocked name's servers know of.
    leaked: u64,
    allowed: u64,
    refused_ms_median: f64,
    refused_ms_most: f64,
    allowed_ms_median: f64,
}

/// The figures that the bench of DNS writes: answers by `sensor`, `dnsmasq` and `unbound`.
#[derive(Deserialize, Serialize)]
struct DnsFigures {
    names: u64,
    rounds: u64,
    seconds: u64,
    /// Milliseconds from the signal to the first answer by another list.
    swap_ms: f64,
    longest_swap_ms: f64,
    /// Kernel memory of all maps with a list more than without, in MiB.
    names_mib: f64,
    /// The same, the most that was seen during swaps.
    most_names_mib: f64,
    refused: BTreeMap<String, Answers>,
    passed: BTreeMap<String, Answers>,
}

/// Answers to DNS questions.
#[derive(Deserialize, Serialize)]
struct Answers {
    per_second: f64,
    per_cpu_second: f64,
}

impl FilterFigures {
    fn sum(&self, of: impl Fn(&Attempts) -> u64) -> f64 {
        let all = self.figures.values().flat_map(BTreeMap::values);
        all.map(of).sum::<u64>() as f64
    }
}

impl DnsFigures {
    /// Refused answers for a second on a CPU, to the better of the others.
    fn ratio(&self) -> Result<f64> {
        let of = |name: &str| {
            let answers = self.refused.get(name);
            let answers = answers.with_context(|| format!("the bench has no {name}"))?;
            Ok::<_, anyhow::Error>(answers.per_cpu_second)
        };
        Ok(of("sensor")? / of("dnsmasq")?.max(of("unbound")?))
    }
}

/// Something aimed at, and how near it is.
#[derive(Serialize)]
struct Goal {
    name: &'static str,
    unit: &'static str,
    measured: f64,
    #[serde(flatten)]
    bound: Bound,
    met: bool,
}

/// On which side of a number a figure is to be.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

use Bound::{AtLeast, AtMost};

impl Goal {
    fn new(name: &'static str, unit: &'static str, measured: f64, bound: Bound) -> Self {
        Self {
            name,
            unit,
            measured,
            bound,
            met: match bound {
                AtMost(most) => measured <= most,
                AtLeast(least) => measured >= least,
            },
        }
    }
}

/// Benches that can be had alone.
pub const ALONE: [&str; 5] = ["kernel", "daemon", "replay", "filter", "dns"];

/// Measures, prints, and writes the figures to `json` where one is named: all, held against the goals, or of
/// one of [`ALONE`].
///
/// A goal that is missed is no error, because a figure depends on the machine and on its other load.
///
/// # Errors
/// Where something cannot be installed, built, loaded (root is needed) or written.
pub fn bench(alone: Option<&str>, json: Option<&Path>) -> Result<()> {
    setup::ensure(&[Need::Kernel, Need::Bench, Need::Captures, Need::Lab])?;
    build::kernel()?;
    drivers()?;
    if let Some(alone) = alone {
        let figures: serde_json::Value = measure(alone)?;
        return json.map_or(Ok(()), |file| write(file, &figures));
    }
    let kernel: KernelFigures = measure("kernel")?;
    let daemon: DaemonFigures = measure("daemon")?;
    let decoding = decoding::measure()?;
    let replay: Option<ReplayFigures> = measure("replay")?;
    let filter: FilterFigures = measure("filter")?;
    let dns: DnsFigures = measure("dns")?;
    say("\nmessages that one core decodes in a second");
    for (name, per_second) in decoding.iter() {
        say(&format!("{name:44} {per_second:12.0}"));
    }
    let mut goals = goals(&kernel, &daemon, &decoding, replay.as_ref())?;
    goals.extend(filter_goals(&filter, &dns)?);
    say(&format!("\n{}", table(&goals)));
    if let Some(file) = json {
        let report = Report {
            kernel,
            daemon,
            decoding,
            replay,
            filter,
            dns,
            goals,
        };
        write(file, &report)?;
    }
    Ok(())
}

fn write(file: &Path, figures: &impl Serialize) -> Result<()> {
    fs::write(file, serde_json::to_vec_pretty(figures)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    say(&format!("the figures are in {}", file.display()));
    Ok(())
}

/// Builds the programs that measure programs.
fn drivers() -> Result<()> {
    let toolchain = setup::toolchain()?;
    run(build::kernel_cargo(&toolchain, "build").args(["--bin", "sensor-bench"]))
}

/// Runs one of the sensor's benches and reads its figures.
fn measure<T: for<'a> Deserialize<'a>>(bench: &str) -> Result<T> {
    let file = build::target().join(format!("bench-{bench}.json"));
    run_shown(
        build::host_cargo()
            .args(["bench", "--quiet", "--package", "sensor", "--bench", bench])
            .args(["--", "--json"])
            .arg(&file),
    )?;
    let text = fs::read(&file).with_context(|| format!("no figures in {}", file.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not what it should be", file.display()))
}

fn goals(
    kernel: &KernelFigures,
    daemon: &DaemonFigures,
    decoding: &DecodingFigures,
    replay: Option<&ReplayFigures>,
) -> Result<Vec<Goal>> {
    let figure = |name: &str| match kernel.figures.get(name) {
        Some(figure) => Ok(figure),
        None => Err(anyhow::anyhow!("the bench has no figure \"{name}\"")),
    };
    let ns = |name: &str| Ok::<_, anyhow::Error>(figure(name)?.median_ns);
    // The lowest of the rounds: a busy machine adds time that is not the program's.
    let lowest = |name: &str| Ok::<_, anyhow::Error>(figure(name)?.lowest_ns);
    let ratio = |one: &str, other: &str| Ok::<_, anyhow::Error>(lowest(one)? / lowest(other)?);
    let mut goals = vec![
        Goal::new(
            "known flow, IPv4, to xdp-filter",
            "",
            ratio("known flow, ipv4", "xdp-filter, ipv4")?,
            AtMost(0.16),
        ),
        Goal::new(
            "known flow, IPv6, to xdp-filter",
            "",
            ns("known flow, ipv6")? / ns("xdp-filter, ipv6")?,
            AtMost(0.75),
        ),
        Goal::new(
            "known flow with 200,000 names to one without",
            "",
            (ns("known flow, 200000 names, ipv4")? + ns("known flow, 200000 names, ipv6")?)
                / (ns("known flow, ipv4")? + ns("known flow, ipv6")?),
            AtMost(1.05),
        ),
        Goal::new(
            "DNS question judged and answered",
            "ns",
            ns("question judged, answered, ipv4")?,
            AtMost(1_500.0),
        ),
        Goal::new(
            "10,000 flows to one, IPv4",
            "",
            ratio("sensor, 10000 flows, ipv4", "sensor, 1 flows, ipv4")?,
            AtMost(2.0),
        ),
        Goal::new(
            "60,000 flows to one, IPv4",
            "",
            ratio("sensor, 60000 flows, ipv4", "sensor, 1 flows, ipv4")?,
            AtMost(5.0),
        ),
        Goal::new(
            "60,000 flows, IPv4, to xdp-filter",
            "",
            ratio("sensor, 60000 flows, ipv4", "xdp-filter, 60000 flows, ipv4")?,
            AtMost(1.0),
        ),
        Goal::new(
            "observed flow to one without a policy, IPv4",
            "",
            ratio("observed flow, ipv4", "known flow, ipv4")?,
            AtMost(1.1),
        ),
        Goal::new(
            "allowed flow to one without a policy, IPv4",
            "",
            ratio("allowed flow, ipv4", "known flow, ipv4")?,
            AtMost(1.1),
        ),
        Goal::new(
            "tagged flow to one without a tag, IPv4",
            "",
            ratio("tagged flow, ipv4", "known flow, ipv4")?,
            AtMost(1.3),
        ),
        Goal::new(
            "TCP refused and answered",
            "ns",
            lowest("reject tcp, ipv4")?,
            AtMost(250.0),
        ),
        Goal::new(
            "TLS hellos",
            "/s",
            decoding.slowest("tls hello/")?,
            AtLeast(500e3),
        ),
        Goal::new(
            "QUIC Initials",
            "/s",
            decoding.slowest("quic initial/")?,
            AtLeast(60e3),
        ),
        Goal::new(
            "DNS answers",
            "/s",
            decoding.slowest("decode/dns/answer")?,
            AtLeast(500e3),
        ),
    ];
    goals.extend(daemon.goals());
    if let Some(replay) = replay {
        goals.push(Goal::new(
            "CPU of replay to ndpiReader, corpus",
            "",
            replay.corpus.ratio,
            AtMost(0.5),
        ));
        goals.push(Goal::new(
            "CPU of replay to ndpiReader, large capture",
            "",
            replay.large.ratio,
            AtMost(0.5),
        ));
    }
    Ok(goals)
}

fn filter_goals(filter: &FilterFigures, dns: &DnsFigures) -> Result<[Goal; 5]> {
    Ok([
        Goal::new(
            "attempts at a blocked name that a server knows of, or answered",
            "",
            filter.sum(|one| one.leaked + one.answered),
            AtMost(0.0),
        ),
        Goal::new(
            "attempts at an allowed name on its addresses that failed",
            "",
            filter.sum(|one| one.attempts) - filter.sum(|one| one.allowed),
            AtMost(0.0),
        ),
        Goal::new(
            "refused DNS answers per CPU second, to dnsmasq or unbound",
            "",
            dns.ratio()?,
            AtLeast(5.0),
        ),
        Goal::new(
            "200,000 names, from a changed list to its first answer",
            "ms",
            dns.swap_ms,
            AtMost(1_000.0),
        ),
        Goal::new(
            "kernel memory for 200,000 names, at most, in the middle of a swap",
            "MiB",
            dns.most_names_mib,
            AtMost(24.0),
        ),
    ])
}

fn table(goals: &[Goal]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(["goal", "measured", "aimed at", ""]);
    for goal in goals {
        let number = |value: f64| match goal.unit {
            "" => format!("{value:.2}"),
            "/s" => format!("{value:.0} /s"),
            unit => format!("{value:.1} {unit}"),
        };
        table.add_row([
            goal.name.to_owned(),
            number(goal.measured),
            match goal.bound {
                AtMost(most) => format!("at most {}", number(most)),
                AtLeast(least) => format!("at least {}", number(least)),
            },
            if goal.met { "met" } else { "missed" }.to_owned(),
        ]);
    }
    for column in [1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
