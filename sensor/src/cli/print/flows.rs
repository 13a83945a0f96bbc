//! The output of `flows`.

use std::{cmp::Reverse, io::Write};

use super::{
    devices::called,
    text::{Listing, ago, grouped, json, octets, print_table, shortened, table, total},
};
use crate::{
    cli::args::FlowsArgs,
    model::{Device, Flow, FlowFacts},
};

/// The most characters of a cell in the narrow table.
const DEVICE: usize = 17;
const REMOTE: usize = 22;
const NAME: usize = 28;
const OWNER: usize = 10;

/// Prints the flows, the largest first, or those of the requested devices; `devices` are all that were
/// seen, and `now` is in seconds since the Unix epoch.
///
/// # Errors
///
/// No device is called as asked for, or the output takes no more.
pub fn print_flows(
    out: &mut impl Write,
    flows: &[Flow],
    devices: &[Device],
    args: &FlowsArgs,
    now: f64,
) -> anyhow::Result<()> {
    const EMPTY: &str = "no flow is open";

    let mut sorted: Vec<&Flow> = flows.iter().collect();
    if let Some(wanted) = &args.device {
        let wanted = called(devices, wanted)?;
        sorted.retain(|flow| wanted.iter().any(|device| device.device == flow.device));
    }
    let args = &args.listing;
    if args.output.json {
        return Ok(json(out, &sorted)?);
    }
    sorted.sort_by_key(|flow| Reverse(total(&flow.traffic).bytes));
    let shown = match args.limit {
        0 => sorted.len(),
        limit => limit.min(sorted.len()),
    };
    let more = sorted.len() - shown;
    sorted.truncate(shown);
    match args.wide {
        true => print_table(out, &wide(&sorted, now), EMPTY)?,
        false => print_table(out, &narrow(&sorted, now), EMPTY)?,
    }
    if more > 0 {
        writeln!(
            out,
            "and {} more; `--limit 0` shows all",
            grouped(more as u64)
        )?;
    }
    Ok(())
}

fn narrow(flows: &[&Flow], now: f64) -> Listing<10> {
    let mut table = table(
        [
            "DEVICE",
            "PROTOCOL",
            "REMOTE",
            "NAME",
            "OWNER",
            "CATEGORY",
            "UPLOAD",
            "DOWNLOAD",
            "VERDICT",
            "LAST SEEN",
        ],
        6..=7,
    );
    for flow in flows {
        let facts = &flow.facts;
        table.add_row([
            shortened(flow.device_name.as_ref().unwrap_or(&flow.device), DEVICE),
            flow.protocol.clone(),
            shortened(&flow.remote, REMOTE),
            name(facts, NAME),
            shortened(facts.owner.as_deref().unwrap_or("-"), OWNER),
            facts.category.unwrap_or("-").to_owned(),
            octets(flow.traffic.upload.bytes),
            octets(flow.traffic.download.bytes),
            flow.verdict.to_owned(),
            ago(flow.last_seen, now),
        ]);
    }
    table
}

fn wide(flows: &[&Flow], now: f64) -> Listing<15> {
    let mut table = table(
        [
            "DEVICE",
            "ADDRESS",
            "PROTOCOL",
            "LOCAL",
            "REMOTE",
            "NAME",
            "BY",
            "OWNER",
            "CATEGORY",
            "UPLOAD",
            "DOWNLOAD",
            "PACKETS",
            "VERDICT",
            "POLICY",
            "LAST SEEN",
        ],
        9..=11,
    );
    for flow in flows {
        let facts = &flow.facts;
        table.add_row([
            flow.device_name.as_deref().unwrap_or("-"),
            &flow.device,
            &flow.protocol,
            &flow.local,
            &flow.remote,
            &name(facts, usize::MAX),
            facts.name_source.unwrap_or("-"),
            facts.owner.as_deref().unwrap_or("-"),
            facts.category.unwrap_or("-"),
            &octets(flow.traffic.upload.bytes),
            &octets(flow.traffic.download.bytes),
            &grouped(total(&flow.traffic).packets),
            flow.verdict,
            flow.policy.as_deref().unwrap_or("-"),
            &ago(flow.last_seen, now),
        ]);
    }
    table
}

/// The name, with a question mark where it is from an answer that another device got, and in
/// brackets how a name is hidden.
fn name(facts: &FlowFacts, most: usize) -> String {
    let mark = if facts.name_by_another { "?" } else { "" };
    match (&facts.name, facts.hidden) {
        (Some(name), None) => format!("{}{mark}", shortened(name, most)),
        (Some(name), Some(hidden)) => format!("{}{mark} [{hidden}]", shortened(name, most)),
        (None, Some(hidden)) => format!("[{hidden}]"),
        (None, None) => "-".to_owned(),
    }
}
