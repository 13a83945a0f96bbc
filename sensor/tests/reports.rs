//! Captures made after public bug reports of other tools, against what must come of each: every row of
//! `expected.tsv`, through both engines. The kernel's takes root.

use std::{collections::BTreeMap, env, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use rustix::process::geteuid;
use serde_json::Value;

const REPORTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus/reports");

/// The kind of rows about packets that are longer than a frame.
const MERGED: &str = "merged packets";

/// The server of the captures, and where it is asked for what.
const SERVER: &str = "198.51.100.7";
const NAMED_BY_DNS: &str = "198.51.100.50:443";

/// A row: the capture, its kind, and what must come of it.
struct Row<'a> {
    file: &'a str,
    kind: &'a str,
    expected: &'a str,
}

fn rows(table: &str) -> impl Iterator<Item = Row<'_>> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split('\t');
        Some(Row {
            file: fields.next()?,
            kind: fields.next()?,
            expected: fields.next()?,
        })
    })
}

/// The output of `replay` for a capture.
#[derive(Default)]
struct Replayed {
    flows: Vec<Value>,
    questions: Vec<Value>,
    devices: Vec<Value>,
    /// The summary for people.
    summary: String,
}

/// Replays captures, all by one process: the kernel's programs are loaded once.
fn replayed(files: &[&str], engine: &str) -> Result<BTreeMap<String, Replayed>> {
    let paths: Vec<_> = files
        .iter()
        .map(|file| format!("{REPORTS}/{file}"))
        .collect();
    let run = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_sensor"))
            .args(["--config", "/nonexistent", "replay", "--engine", engine])
            .args(arguments)
            .args(&paths)
            .output()?;
        ensure!(
            output.status.success(),
            "by {engine}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    let mut replayed: BTreeMap<String, Replayed> = BTreeMap::new();
    let file_of = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    // The lines of a capture begin with its flows.
    let mut capture = String::new();
    for line in run(&["--json"])?.lines() {
        let value: Value = serde_json::from_str(line)?;
        if let Some(path) = value["capture"].as_str() {
            capture = file_of(path);
            let replayed = replayed.entry(capture.clone()).or_default();
            replayed.flows.push(value);
        } else if value.get("dns").is_some() {
            let replayed = replayed.entry(capture.clone()).or_default();
            replayed.questions.push(value["dns"].clone());
        } else if value.get("device").is_some() {
            let replayed = replayed.entry(capture.clone()).or_default();
            replayed.devices.push(value["device"].clone());
        }
    }
    for line in run(&[])?.lines() {
        if paths.iter().any(|path| path == line) {
            capture = file_of(line);
        }
        let summary = &mut replayed.entry(capture.clone()).or_default().summary;
        summary.push_str(line);
        summary.push('\n');
    }
    Ok(replayed)
}

impl Replayed {
    /// A field of the only flow to the server.
    fn of_flow(&self, field: &str) -> Result<&Value> {
        let is_to_server = |flow: &&Value| {
            let remote = flow["remote"].as_str();
            remote.is_some_and(|remote| remote.starts_with(&format!("{SERVER}:")))
        };
        let flows: Vec<_> = self.flows.iter().filter(is_to_server).collect();
        let [flow] = flows[..] else {
            anyhow::bail!("{} flows to the server: {:?}", flows.len(), self.flows);
        };
        ensure!(flow.get(field).is_some(), "no field {field} in {flow}");
        Ok(&flow[field])
    }

    /// A field of the only device.
    fn of_device(&self, field: &str) -> Result<&Value> {
        let [device] = &self.devices[..] else {
            anyhow::bail!("{} devices: {:?}", self.devices.len(), self.devices);
        };
        let found = device.get(field);
        found.with_context(|| format!("no field {field} in {device}"))
    }

    fn is_device(&self, field: &str, expected: impl Into<Value>) -> Result<()> {
        let (found, expected) = (self.of_device(field)?, expected.into());
        ensure!(*found == expected, "{field} is {found}, not {expected}");
        Ok(())
    }

    fn is_named(&self, name: &str, source: &str) -> Result<()> {
        let (found, by) = (self.of_flow("name")?, self.of_flow("name_source")?);
        ensure!(
            found == name && by == source,
            "{found} by {by}, not {name} by {source}"
        );
        let unread = self.of_flow("unread")?;
        ensure!(unread.is_null(), "{unread} is unread");
        Ok(())
    }

    fn is_asked(&self, name: &str, answer: &str) -> Result<()> {
        let is_it = |dns: &Value| {
            let answers = dns["answers"].as_array();
            dns["name"] == name
                && answers.is_some_and(|answers| answers.iter().any(|one| one == answer))
        };
        ensure!(self.questions.iter().any(is_it), "{:?}", self.questions);
        let named = self
            .flows
            .iter()
            .find(|flow| flow["remote"] == NAMED_BY_DNS);
        let named = named.context("no flow to the address of the answer")?;
        ensure!(
            named["name"] == name && named["name_source"] == "dns",
            "the flow to the answer: {named}"
        );
        Ok(())
    }
}

/// The frames of a capture file.
fn frames(file: &str) -> Result<usize> {
    const FILE_HEADER: usize = 24;
    const HEADER: usize = 16;
    let octets = fs::read(Path::new(REPORTS).join(file))?;
    let (mut at, mut frames) = (FILE_HEADER, 0);
    while let Some(header) = octets.get(at..at + HEADER) {
        let captured: [u8; 4] = header[8..12].try_into()?;
        at += HEADER + u32::from_le_bytes(captured) as usize;
        frames += 1;
    }
    Ok(frames)
}

/// Whether what came of a row is what must.
fn check(row: &Row<'_>, replayed: &Replayed, engine: &str) -> Result<()> {
    match (row.kind, row.expected) {
        (MERGED, expected) => {
            let name = expected.strip_prefix("TLS name ").context("a name")?;
            replayed.is_named(name, "tls")
        }
        ("names that are no host name", "the name without the port, as servers read it") => {
            replayed.is_named("shop.a.example", "tls")
        }
        ("names that are no host name", _) => {
            let (name, unread) = (replayed.of_flow("name")?, replayed.of_flow("unread")?);
            ensure!(
                name.is_null() && unread == "no-host-name",
                "{name}, unread {unread}"
            );
            Ok(())
        }
        ("HTTP/2 in clear", _) => replayed.is_named("h2c.a.example", "http"),
        ("HTTP behind another beginning", _) => replayed.is_named("www.a.example", "http"),
        ("STARTTLS", _) => replayed.is_named("imap.a.example", "tls"),
        ("ports of services", "hidden: vpn") => {
            let hidden = replayed.of_flow("hidden")?;
            ensure!(hidden == "vpn", "{hidden}");
            Ok(())
        }
        ("ports of services", _) => replayed.is_named("vpn.a.example", "tls"),
        ("DNS at other ports", _) => replayed.is_asked("tracker.a.example", "198.51.100.50"),
        ("CNAME", _) => replayed.is_asked("www.a.example", "198.51.100.50"),
        ("captures taken at the sender (total length 0)", _) => {
            replayed.is_named("tso.a.example", "tls")
        }
        ("frames that the kernel engine cannot take", _) => {
            let all = frames(row.file)?;
            let (packets, not_taken) = match engine {
                "kernel" => (all - 1, 1),
                _ => (all, 0),
            };
            let counted = |direction| {
                let count = replayed.of_flow(direction)?.as_u64();
                count.context("a number")
            };
            let booked = counted("packets_up")? + counted("packets_down")?;
            ensure!(
                booked as usize == packets,
                "{booked} of {all} frames are in the books"
            );
            let line = replayed
                .summary
                .lines()
                .find(|line| line.starts_with("too long for the kernel engine"));
            let is_counted = line.is_some_and(|line| line.contains(" 1 packet,"));
            ensure!(is_counted == (not_taken == 1), "{}", replayed.summary);
            Ok(())
        }
        ("names of devices", "the whole characters that are there") => {
            replayed.is_device("name", "小米手机".repeat(5))
        }
        ("names of devices", name) => replayed.is_device("name", name),
        ("kinds by user agent", "no television") => replayed.is_device("kind", "iot"),
        ("kinds by host name", "not of Dreame") => {
            replayed.is_device("vendor", Value::Null)?;
            replayed.is_device("kind", "computer")
        }
        ("several devices behind one MAC", _) => {
            replayed.is_device("shared_by", 3)?;
            replayed.is_device("name", "RE200")?;
            replayed.is_device("kind", "router")?;
            let system = replayed.of_device("system")?;
            ensure!(system == "Linux", "{system}");
            let is_said = replayed
                .summary
                .contains("at least 3 devices have this MAC address");
            ensure!(is_said, "{}", replayed.summary);
            Ok(())
        }
        (kind, expected) => anyhow::bail!("a row of another kind: {kind}: {expected}"),
    }
}

/// Holds what must come of the rows of these kinds.
fn hold(engine: &str, is_held: impl Fn(&str) -> bool) -> Result<()> {
    let table = fs::read_to_string(Path::new(REPORTS).join("expected.tsv"))?;
    let rows: Vec<_> = rows(&table).filter(|row| is_held(row.kind)).collect();
    ensure!(rows.len() > 1, "{} rows are too few", rows.len());
    let files: Vec<_> = rows.iter().map(|row| row.file).collect();
    let all = replayed(&files, engine)?;
    let mut missed = Vec::new();
    for row in &rows {
        let replayed = all.get(row.file).context("nothing came of it");
        if let Err(error) = replayed.and_then(|replayed| check(row, replayed, engine)) {
            missed.push(format!("{}: {error:#}", row.file));
        }
    }
    ensure!(missed.is_empty(), "{engine}: {missed:#?}");
    Ok(())
}

/// Whether the programs can be run here.
fn has_kernel() -> bool {
    let has = geteuid().is_root() || env::var_os("CI").is_some();
    if !has {
        eprintln!("not run: programs in the kernel take root");
    }
    has
}

#[test]
fn reports_are_answered_by_the_host_engine() -> Result<()> {
    hold("host", |_| true)
}

#[test]
fn reports_are_answered_by_the_kernel_engine() -> Result<()> {
    match has_kernel() {
        true => hold("kernel", |kind| kind != MERGED),
        false => Ok(()),
    }
}

#[test]
fn merged_packets_are_read_by_the_kernel_engine() -> Result<()> {
    match has_kernel() {
        true => hold("kernel", |kind| kind == MERGED),
        false => Ok(()),
    }
}
