//! The whole way from a capture to a name and a fingerprint, against what other systems' own test suites say.
//!
//! `expected.tsv` and `ja4.tsv` are theirs. Where a row of them is not found, and the packets or the
//! specification say that it need not be, the row stands in `corpus-disputed.tsv` or `ja4-disputed.tsv` with the
//! reason, and does not count; a disputed row that is found after all fails the test.

#[allow(dead_code, reason = "other tests use the rest")]
mod capture;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use capture::CORPUS;
use serde_json::Value;

/// Of a source's rows that nobody disputes, how many per cent must be found.
const GOALS: [(&str, f64); 4] = [("tls", 99.0), ("http", 99.0), ("dns", 98.0), ("quic", 98.0)];

/// A row of the other suites; `-` is what they do not say.
#[derive(Debug)]
struct Row {
    capture: String,
    source: String,
    protocol: String,
    client: String,
    server: String,
    name: String,
    quic_version: String,
}

/// The flows and questions found in one capture.
#[derive(Default)]
struct Found {
    flows: Vec<Value>,
    questions: Vec<Value>,
}

#[test]
fn names_are_those_that_others_find() -> Result<()> {
    let rows = rows()?;
    let disputed = disputed()?;
    let found = found(rows.iter().map(|row| &row.capture))?;
    let mut counts: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    let mut used = BTreeSet::new();
    let mut missed = Vec::new();
    for row in &rows {
        let found = &found[&row.capture];
        let is_found = match row.source.as_str() {
            "dns" => found.questions.iter().any(|dns| row.is_question(dns)),
            _ => found.flows.iter().any(|flow| row.is_flow(flow)),
        };
        let key = [&row.capture, &row.source, &row.client, &row.name].map(String::clone);
        if disputed.contains(&key) {
            ensure!(!is_found, "disputed, and found: {row:?}");
            used.insert(key);
            continue;
        }
        if !is_found {
            missed.push(row);
        }
        let (of_source, hits) = counts.entry(&row.source).or_default();
        *of_source += 1;
        *hits += u32::from(is_found);
    }
    for row in &missed {
        println!("not found: {row:?}");
    }
    ensure!(used == disputed, "a disputed row is no row: {disputed:#?}");
    for (source, goal) in GOALS {
        let (of_source, hits) = counts[source];
        let share = 100.0 * f64::from(hits) / f64::from(of_source);
        println!("{source}: {hits} of {of_source} found, {share:.2} %");
        ensure!(
            share >= goal,
            "{source}: {share:.2} % of {of_source} rows are found, {goal} % are aimed at: {missed:#?}"
        );
    }
    Ok(())
}

/// The fingerprints of clients are those of nDPI, or differ from them as the specification of JA4 has it.
#[test]
fn fingerprints_are_those_that_others_find() -> Result<()> {
    let rows = table(&fs::read_to_string(Path::new(CORPUS).join("ja4.tsv"))?)?;
    let disputed = table(include_str!("ja4-disputed.tsv"))?;
    let found = found(rows.iter().map(|[capture, ..]| capture))?;
    let mut used = BTreeSet::new();
    let mut missed = Vec::new();
    let mut hits = 0;
    for [capture, _, client, server, theirs] in &rows {
        let flows = &found[capture].flows;
        let has = |flow: &Value, ja4: &String| flow["ja4"].as_str().unwrap_or("-") == ja4;
        // A capture may begin with the server's segment, and then the other suite prints the ends reversed.
        let is_between = |flow: &Value, one: &str, other: &str| {
            is_end(client, &flow[one]) && is_end(server, &flow[other])
        };
        let is_found = flows.iter().any(|flow| {
            let is_it = is_between(flow, "local", "remote") || is_between(flow, "remote", "local");
            is_it && has(flow, theirs)
        });
        let dispute = disputed
            .iter()
            .find(|[of, end, stated, ..]| (of, end, stated) == (capture, client, theirs));
        match dispute {
            Some(row @ [.., ours, reason]) => {
                ensure!(!reason.is_empty(), "a reason: {row:?}");
                ensure!(!is_found, "disputed, and found: {row:?}");
                let is_ours = |flow: &Value| is_end(client, &flow["local"]) && has(flow, ours);
                ensure!(
                    flows.iter().any(is_ours),
                    "not as the table has it: {row:?}"
                );
                used.insert(row);
            }
            None if is_found => hits += 1,
            None => missed.push([capture, client, server, theirs]),
        }
    }
    ensure!(
        used.len() == disputed.len(),
        "a disputed row is no row: {disputed:#?}"
    );
    println!(
        "{hits} of {} fingerprints are found, {} are disputed",
        rows.len(),
        used.len()
    );
    ensure!(missed.is_empty(), "not found: {missed:#?}");
    Ok(())
}

impl Row {
    fn is_flow(&self, flow: &Value) -> bool {
        let source = flow["name_source"].as_str().unwrap_or_default();
        let by = source == self.source
            // A hello inside of QUIC is one of TLS.
            || (self.source == "tls" && source == "quic" && self.protocol != "tcp");
        by && (self.protocol == "-" || flow["protocol"] == *self.protocol)
            && is_end(&self.client, &flow["local"])
            && is_end(&self.server, &flow["remote"])
            && self.is_name(&flow["name"])
            && self.is_version(&flow["quic_version"])
    }

    fn is_version(&self, version: &Value) -> bool {
        let version = version.as_str().unwrap_or_default();
        self.quic_version == "-" || self.quic_version.eq_ignore_ascii_case(version)
    }

    fn is_question(&self, dns: &Value) -> bool {
        is_end(&self.client, &dns["client"])
            && is_end(&self.server, &dns["server"])
            && self.is_name(&dns["name"])
    }

    fn is_name(&self, name: &Value) -> bool {
        let expected = self.name.to_lowercase();
        let expected = expected.strip_suffix('.').unwrap_or(&expected);
        // The port in a Host is not of the name.
        let expected = match self.source.as_str() {
            "http" => expected.split_once(':').map_or(expected, |(host, _)| host),
            _ => expected,
        };
        name == expected
    }
}

/// Whether an address and port are those of a row, which may write them in another way.
fn is_end(expected: &str, end: &Value) -> bool {
    let end = end.as_str().unwrap_or_default();
    expected == "-"
        || expected == end
        || expected
            .parse::<SocketAddr>()
            .is_ok_and(|expected| end.parse() == Ok(expected))
}

/// The output of `sensor replay` for the captures that have rows.
fn found<'a>(captures: impl Iterator<Item = &'a String>) -> Result<HashMap<String, Found>> {
    let captures: BTreeSet<_> = captures.collect();
    let output = Command::new(env!("CARGO_BIN_EXE_sensor"))
        .current_dir(CORPUS)
        .args(["replay", "--json"])
        .args(&captures)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut found: HashMap<String, Found> = captures
        .into_iter()
        .map(|capture| (capture.clone(), Found::default()))
        .collect();
    // Questions come behind the flows of their capture.
    let mut capture = String::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let mut line: Value = serde_json::from_str(line)?;
        if let Some(name) = line["capture"].as_str() {
            capture = name.to_owned();
            found.entry(capture.clone()).or_default().flows.push(line);
        } else if !line["dns"].is_null() {
            let found = found.entry(capture.clone()).or_default();
            found.questions.push(line["dns"].take());
        }
    }
    Ok(found)
}

fn rows() -> Result<Vec<Row>> {
    let text = fs::read_to_string(Path::new(CORPUS).join("expected.tsv"))
        .context("the captures are part of the test")?;
    let row = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut field = || fields.next().with_context(|| line.to_owned());
        Ok(Row {
            capture: field()?,
            source: field()?,
            protocol: field()?,
            client: field()?,
            server: field()?,
            name: field()?,
            quic_version: field()?,
        })
    };
    text.lines().skip(1).map(row).collect()
}

/// The lines of a table of five columns, below its head.
fn table(text: &str) -> Result<Vec<[String; 5]>> {
    let row = |line: &str| {
        let fields: Vec<_> = line.split('\t').map(str::to_owned).collect();
        fields
            .try_into()
            .ok()
            .with_context(|| format!("five fields: {line}"))
    };
    text.lines().skip(1).map(row).collect()
}

/// Capture, source, client and name of the rows that are disputed.
fn disputed() -> Result<BTreeSet<[String; 4]>> {
    include_str!("corpus-disputed.tsv")
        .lines()
        .skip(1)
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            let [capture, source, client, name, reason] = fields[..] else {
                anyhow::bail!("five fields: {line}");
            };
            ensure!(!reason.is_empty(), "a reason: {line}");
            Ok([capture, source, client, name].map(str::to_owned))
        })
        .collect()
}
