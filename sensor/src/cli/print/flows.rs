//! The output of `flows`.

use std::io::{self, Write};

use super::text::{Listing, ago, grouped, octets, print_table, shortened, table, total};
use crate::{
    cli::args::ListingArgs,
    model::{Flow, FlowFacts},
};

/// The most characters of a cell in the narrow table.
const DEVICE: usize = 17;
const REMOTE: usize = 22;
const NAME: usize = 28;
const OWNER: usize = 10;

/// Prints flows in the order that they have, and how many were left out; `now` is in seconds since the Unix
/// epoch.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_flows(
    out: &mut impl Write,
    flows: &[Flow],
    left_out: u64,
    args: &ListingArgs,
    now: f64,
) -> io::Result<()> {
    const EMPTY: &str = "no flow is open";

    match args.wide {
        true => print_table(out, &wide(flows, now), EMPTY)?,
        false => print_table(out, &narrow(flows, now), EMPTY)?,
    }
    if left_out > 0 {
        writeln!(out, "and {} more; `--limit 0` shows all", grouped(left_out))?;
    }
    Ok(())
}

fn narrow(flows: &[Flow], now: f64) -> Listing<10> {
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

fn wide(flows: &[Flow], now: f64) -> Listing<16> {
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
            "STACK",
            "UPLOAD",
            "DOWNLOAD",
            "PACKETS",
            "VERDICT",
            "POLICY",
            "LAST SEEN",
        ],
        10..=12,
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
            facts.stack.as_deref().unwrap_or("-"),
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
