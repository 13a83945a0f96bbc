//! What is typed, and what is printed.

pub mod replay;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use comfy_table::{CellAlignment, ContentArrangement, Table};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, Level, Problems},
    model::{ByDirection, Device, Flow, Hook, Ring, SampleCounts, Snapshot, Tally},
};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "sensor",
    version,
    about = "Accounts and filters the traffic of phones at the gateway, in the kernel."
)]
pub struct Cli {
    /// The configuration.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "/etc/gateway-sensor/sensor.toml"
    )]
    pub config: PathBuf,
    /// How much is logged, to standard error.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    pub log: LogLevel,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load, attach and account, in the foreground, until SIGTERM or Ctrl-C.
    Run,
    /// Check the configuration; every problem is shown with its place and its remedy.
    Check,
    /// Show the devices and what they carried.
    Devices(Output),
    /// Show the flows that are open, the largest first.
    Flows(FlowsArgs),
    /// Show hooks, tables, policy and losses.
    Status(Output),
    /// Remove every program, map and link of the sensor from the kernel.
    Unload,
    /// Check what the sensor needs of this machine, and say what is missing.
    Doctor,
    /// Show the flows of capture files (pcap, pcapng), as if their packets passed by now; needs no
    /// configuration.
    Replay(ReplayArgs),
}

/// How a listing is printed.
#[derive(Clone, Copy, Debug, Args, Serialize, Deserialize)]
pub struct Output {
    /// Print JSON, with exact numbers.
    #[arg(long)]
    pub json: bool,
}

/// Which flows are printed.
#[derive(Clone, Copy, Debug, Args, Serialize, Deserialize)]
pub struct FlowsArgs {
    /// How they are printed.
    #[command(flatten)]
    pub output: Output,
    /// How many at most; 0 for all. JSON has all.
    #[arg(long, value_name = "COUNT", default_value_t = 40)]
    pub limit: usize,
}

/// Which captures are replayed, and how.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The capture files; each is a household of its own.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Addresses of the household; without them, the local side is the one that began.
    #[arg(long, value_name = "CIDR")]
    pub lan: Vec<IpNet>,
    /// What reads the frames.
    #[arg(long, value_name = "ENGINE", default_value = "host")]
    pub engine: EngineName,
    /// Which flows are printed, and how.
    #[command(flatten)]
    pub flows: FlowsArgs,
}

/// What reads the frames of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// The code that the kernel programs are made of, in this process.
    Host,
    /// The kernel programs themselves, run over each frame and attached to nothing; needs root.
    Kernel,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What makes the sensor fail.
    Error,
    /// And what it works around.
    Warn,
    /// And what changes: attached, reloaded, ended.
    Info,
    /// And names and addresses of the household.
    Debug,
    /// And each step.
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Prints what `check` has to say about a valid configuration.
pub fn print_valid(out: &mut impl Write, config: &Config) -> io::Result<()> {
    writeln!(
        out,
        "configuration is valid: {}, {}",
        counted(config.interfaces.len(), "interface", "interfaces"),
        counted(config.policies.len(), "policy", "policies"),
    )
}

/// Prints problems, and how many they are.
pub fn print_problems(out: &mut impl Write, problems: &Problems, colours: bool) -> io::Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let errors = problems.count(Level::Error);
    let warnings = problems.count(Level::Warning);
    writeln!(out, "{}\n", problems.render(colours))?;
    if errors > 0 {
        writeln!(
            out,
            "configuration is not valid: {}, {}",
            counted(errors, "error", "errors"),
            counted(warnings, "warning", "warnings"),
        )?;
    }
    Ok(())
}

/// Prints the devices, the busiest first; `now` is in seconds since the Unix epoch.
pub fn print_devices(
    out: &mut impl Write,
    snapshot: &Snapshot,
    output: Output,
    now: f64,
) -> io::Result<()> {
    if output.json {
        return json(out, &snapshot.devices);
    }
    let mut devices: Vec<(&Device, ByDirection<Tally>)> = snapshot
        .devices
        .iter()
        .map(|device| (device, traffic_of(device)))
        .collect();
    devices.sort_by_key(|(_, traffic)| std::cmp::Reverse(total(traffic).bytes));
    let mut table = table(
        [
            "DEVICE",
            "UPLOAD",
            "DOWNLOAD",
            "PACKETS",
            "FLOWS",
            "OPEN",
            "LAST SEEN",
        ],
        1..=6,
    );
    for (device, traffic) in &devices {
        let flows: u64 = device
            .families
            .values()
            .map(|books| books.flows.upload.saturating_add(books.flows.download))
            .sum();
        table.add_row([
            device.device.clone(),
            octets(traffic.upload.bytes),
            octets(traffic.download.bytes),
            grouped(total(traffic).packets),
            grouped(flows),
            grouped(device.live_flows),
            ago(device.last_seen, now),
        ]);
    }
    print_table(out, &table, "no device was seen yet")
}

/// Prints the flows, the largest first; `now` is in seconds since the Unix epoch.
pub fn print_flows(
    out: &mut impl Write,
    flows: &[Flow],
    args: FlowsArgs,
    now: f64,
) -> io::Result<()> {
    if args.output.json {
        return json(out, &flows);
    }
    let mut sorted: Vec<&Flow> = flows.iter().collect();
    sorted.sort_by_key(|flow| std::cmp::Reverse(total(&flow.traffic).bytes));
    let shown = match args.limit {
        0 => sorted.len(),
        limit => limit.min(sorted.len()),
    };
    let mut table = table(
        [
            "DEVICE",
            "PROTOCOL",
            "LOCAL",
            "REMOTE",
            "UPLOAD",
            "DOWNLOAD",
            "PACKETS",
            "VERDICT",
            "POLICY",
            "LAST SEEN",
        ],
        4..=6,
    );
    for flow in sorted.iter().take(shown) {
        table.add_row([
            flow.device.clone(),
            flow.protocol.clone(),
            flow.local.clone(),
            flow.remote.clone(),
            octets(flow.traffic.upload.bytes),
            octets(flow.traffic.download.bytes),
            grouped(total(&flow.traffic).packets),
            flow.verdict.to_owned(),
            flow.policy.clone().unwrap_or_else(|| "-".to_owned()),
            ago(flow.last_seen, now),
        ]);
    }
    print_table(out, &table, "no flow is open")?;
    if shown < sorted.len() {
        writeln!(
            out,
            "and {} more; `--limit 0` shows all",
            grouped((sorted.len() - shown) as u64)
        )?;
    }
    Ok(())
}

/// Prints hooks, tables, policy and losses.
pub fn print_status(out: &mut impl Write, snapshot: &Snapshot, output: Output) -> io::Result<()> {
    /// All of a snapshot but the devices.
    #[derive(Serialize)]
    struct Status<'a> {
        interfaces: &'a [crate::model::Interface],
        unbooked_packets: u64,
        flow_table: crate::model::FlowTable,
        device_table: crate::model::DeviceTable,
        ring: &'a crate::model::Ring,
        policy: &'a crate::model::PolicyState,
        policy_hits: &'a [crate::model::PolicyHits],
        ticks: crate::model::Ticks,
    }

    if output.json {
        return json(
            out,
            &Status {
                interfaces: &snapshot.interfaces,
                unbooked_packets: snapshot.unbooked_packets,
                flow_table: snapshot.flow_table,
                device_table: snapshot.device_table,
                ring: &snapshot.ring,
                policy: &snapshot.policy,
                policy_hits: &snapshot.policy_hits,
                ticks: snapshot.ticks,
            },
        );
    }
    print_interfaces(out, snapshot)?;
    writeln!(out)?;
    print_hits(out, snapshot)?;
    writeln!(out)?;
    let flows = &snapshot.flow_table;
    let devices = &snapshot.device_table;
    let policy = &snapshot.policy;
    let refused = flows
        .refused
        .table_full
        .saturating_add(flows.refused.share_used)
        .saturating_add(flows.refused.index_full);
    let lines = [
        (
            "flow table",
            format!(
                "{} of {} flows; {} reaped, {} refused, {} packets in overflow",
                grouped(flows.size),
                grouped(flows.capacity),
                grouped(flows.reaped),
                grouped(refused),
                grouped(flows.overflow_packets),
            ),
        ),
        (
            "device table",
            format!(
                "{} of {} devices; {} packets of devices without a place",
                grouped(devices.size),
                grouped(devices.capacity),
                grouped(devices.overflow_packets),
            ),
        ),
        (
            "policy",
            format!(
                "{} with {} in force, generation {}; {} applied, {} refused, {} hits lost",
                counted_u64(policy.policies, "policy", "policies"),
                counted_u64(policy.prefixes, "prefix", "prefixes"),
                policy.generation,
                counted_u64(policy.reloads, "reload", "reloads"),
                grouped(policy.reloads_refused),
                grouped(devices.hits_lost),
            ),
        ),
        (
            "ring",
            format!(
                "{} samples, {} left out, {} lost",
                grouped(sum_of(&snapshot.ring, |counts| counts.taken)),
                grouped(sum_of(&snapshot.ring, |counts| counts.shed)),
                grouped(sum_of(&snapshot.ring, |counts| counts.lost)),
            ),
        ),
    ];
    for (what, text) in lines {
        writeln!(out, "{what:<14}{text}")?;
    }
    if snapshot.unbooked_packets > 0 {
        writeln!(
            out,
            "{:<14}{} packets are in no book: a fault of the sensor, please report it",
            "books",
            grouped(snapshot.unbooked_packets)
        )?;
    }
    if snapshot.ticks.count > 0 {
        writeln!(
            out,
            "{:<14}{}, the last took {}",
            "ticks",
            grouped(snapshot.ticks.count),
            milliseconds(snapshot.ticks.last)
        )?;
    }
    Ok(())
}

fn sum_of(ring: &Ring, count: fn(&SampleCounts) -> u64) -> u64 {
    ring.samples.iter().map(count).sum()
}

fn print_interfaces(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    let mut table = table(
        [
            "INTERFACE",
            "DIRECTION",
            "HOOK",
            "PACKETS",
            "BYTES",
            "IN OVERFLOW",
            "SKIPPED",
        ],
        3..=6,
    );
    for interface in &snapshot.interfaces {
        let skipped = interface
            .skipped
            .values()
            .fold(ByDirection::default(), add_both);
        let rows = [
            (
                "upload",
                interface.hooks.upload,
                interface.seen.upload,
                interface.overflow.upload,
                skipped.upload,
            ),
            (
                "download",
                interface.hooks.download,
                interface.seen.download,
                interface.overflow.download,
                skipped.download,
            ),
        ];
        for (direction, hook, seen, overflow, skipped) in rows {
            table.add_row([
                interface.interface.clone(),
                direction.to_owned(),
                match hook {
                    Hook::None => "none: interface is gone".to_owned(),
                    hook => hook.name().to_owned(),
                },
                grouped(seen.packets),
                octets(seen.bytes),
                grouped(overflow.packets),
                grouped(skipped.packets),
            ]);
        }
    }
    print_table(out, &table, "attached to no interface")
}

fn print_hits(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    let mut table = table(["POLICY", "ACTION", "DEVICE", "UPLOAD", "DOWNLOAD"], 3..=4);
    for hits in &snapshot.policy_hits {
        let cell = |tally: Tally| {
            format!(
                "{} packets, {}",
                grouped(tally.packets),
                octets(tally.bytes)
            )
        };
        table.add_row([
            hits.policy.clone(),
            hits.action.to_owned(),
            hits.device.clone(),
            cell(hits.hits.upload),
            cell(hits.hits.download),
        ]);
    }
    print_table(out, &table, "no policy has applied to a packet yet")
}

fn json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// A table without lines; the columns with numbers stand to the right.
fn table<const N: usize>(header: [&str; N], numbers: std::ops::RangeInclusive<usize>) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for number in numbers {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn print_table(out: &mut impl Write, table: &Table, empty: &str) -> io::Result<()> {
    if table.is_empty() {
        return writeln!(out, "{empty}");
    }
    for line in table.lines() {
        // Each cell has a space on both sides; the first column needs none.
        let line = line.strip_prefix(' ').unwrap_or(&line);
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn add(a: Tally, b: Tally) -> Tally {
    Tally {
        packets: a.packets.saturating_add(b.packets),
        bytes: a.bytes.saturating_add(b.bytes),
    }
}

fn total(traffic: &ByDirection<Tally>) -> Tally {
    add(traffic.upload, traffic.download)
}

fn add_both(a: ByDirection<Tally>, b: &ByDirection<Tally>) -> ByDirection<Tally> {
    ByDirection {
        upload: add(a.upload, b.upload),
        download: add(a.download, b.download),
    }
}

fn traffic_of(device: &Device) -> ByDirection<Tally> {
    device
        .families
        .values()
        .map(|books| &books.traffic)
        .fold(ByDirection::default(), add_both)
}

/// Octets for people: exact below 1 KiB, then three digits and a binary unit.
fn octets(octets: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if octets < 1024 {
        return format!("{octets} B");
    }
    let mut value = octets as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"KiB");
    // 999.5 and more would be written with four digits.
    while value >= 999.5
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = next;
    }
    let decimals = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// A number with commas between the thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn counted(count: usize, one: &str, many: &str) -> String {
    counted_u64(count as u64, one, many)
}

fn counted_u64(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

/// How long ago a moment was, both in seconds since the Unix epoch.
fn ago(then: f64, now: f64) -> String {
    if then <= 0.0 {
        return "-".to_owned();
    }
    // Clocks of kernel and user space differ by a tick: what was just now is not in the future.
    let seconds = (now - then).max(0.0) as u64;
    match seconds {
        0..=1 => "now".to_owned(),
        2..=119 => format!("{seconds} s ago"),
        120..=7_199 => format!("{} min ago", seconds / 60),
        7_200..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}
