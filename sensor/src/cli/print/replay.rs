//! The output of `replay`.

use std::io::{self, Write};

use serde::Serialize;

use super::text::{counted_u64, grouped, json_line, octets, print_table, table, total};
use crate::{
    model::{Device, DnsQuestion, Flow},
    source::replay::Summary,
};

/// A flow of a capture.
#[derive(Debug)]
pub struct CapturedFlow {
    /// The flow, and the facts learned of it.
    pub flow: Flow,
    /// The tunnel that it is inside of; its packets are in those of another flow.
    pub inside: Option<&'static str>,
}

/// A flow as a line of JSON: the order of the keys is that of the documentation.
#[derive(Debug, Serialize)]
struct FlowLine<'a> {
    capture: &'a str,
    device: &'a str,
    protocol: &'a str,
    local: &'a str,
    remote: &'a str,
    packets_up: u64,
    packets_down: u64,
    bytes_up: u64,
    bytes_down: u64,
    name: Option<&'a str>,
    name_source: Option<&'a str>,
    alpn: Option<&'a [String]>,
    ech: bool,
    quic_version: Option<&'a str>,
    ja4: Option<&'a str>,
    stack: Option<&'a str>,
    party: Option<&'a str>,
    owner: Option<&'a str>,
    category: Option<&'a str>,
    country: Option<&'a str>,
    asn: Option<u32>,
    hidden: Option<&'a str>,
    unread: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inside: Option<&'a str>,
}

/// Prints a flow as a line of JSON.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_flow_line(
    out: &mut impl Write,
    capture: &str,
    CapturedFlow { flow, inside }: &CapturedFlow,
) -> io::Result<()> {
    let facts = &flow.facts;
    let line = FlowLine {
        capture,
        device: &flow.device,
        protocol: &flow.protocol,
        local: &flow.local,
        remote: &flow.remote,
        packets_up: flow.traffic.upload.packets,
        packets_down: flow.traffic.download.packets,
        bytes_up: flow.traffic.upload.bytes,
        bytes_down: flow.traffic.download.bytes,
        name: facts.name.as_deref(),
        name_source: facts.name_source,
        alpn: facts.alpn.as_deref(),
        ech: facts.ech,
        quic_version: facts.quic_version.as_deref(),
        ja4: facts.ja4.as_deref(),
        stack: facts.stack.as_deref(),
        party: facts.party.as_deref(),
        owner: facts.owner.as_deref(),
        category: facts.category,
        country: facts.country.as_deref(),
        asn: facts.asn,
        hidden: facts.hidden,
        unread: facts.unread,
        inside: *inside,
    };
    json_line(out, &line)
}

/// Prints a DNS question and its answers as a line of JSON.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_question_line(out: &mut impl Write, dns: &DnsQuestion) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        dns: &'a DnsQuestion,
    }
    json_line(out, &Line { dns })
}

/// Prints a device as a line of JSON.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_device_line(out: &mut impl Write, device: &Device) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        device: &'a Device,
    }
    json_line(out, &Line { device })
}

/// Prints the flows of a capture, the largest first; `limit` at most, 0 for all.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_capture(
    out: &mut impl Write,
    capture: &str,
    flows: &[CapturedFlow],
    limit: usize,
) -> io::Result<()> {
    let mut sorted: Vec<&CapturedFlow> = flows.iter().collect();
    sorted.sort_by_key(|captured| std::cmp::Reverse(total(&captured.flow.traffic).bytes));
    let shown = match limit {
        0 => sorted.len(),
        limit => limit.min(sorted.len()),
    };
    let mut table = table(
        [
            "DEVICE", "PROTOCOL", "LOCAL", "REMOTE", "UPLOAD", "DOWNLOAD", "PACKETS", "NAME", "BY",
            "OWNER", "INSIDE",
        ],
        4..=6,
    );
    for CapturedFlow { flow, inside } in sorted.into_iter().take(shown) {
        let facts = &flow.facts;
        // A flow without a name shows the reason why it has none.
        let name = facts.name.as_deref().or(facts.hidden).unwrap_or("-");
        table.add_row([
            &flow.device,
            &flow.protocol,
            &flow.local,
            &flow.remote,
            &octets(flow.traffic.upload.bytes),
            &octets(flow.traffic.download.bytes),
            &grouped(total(&flow.traffic).packets),
            name,
            facts.name_source.unwrap_or("-"),
            facts.owner.as_deref().unwrap_or("-"),
            inside.unwrap_or("-"),
        ]);
    }
    writeln!(out, "{capture}")?;
    print_table(out, &table, "no flow is in it")?;
    if shown < flows.len() {
        writeln!(
            out,
            "and {} more; `--limit 0` shows all",
            grouped((flows.len() - shown) as u64)
        )?;
    }
    Ok(())
}

/// Prints the packets of a capture, and how many were booked, skipped or unreadable.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_summary(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let sum = |packets: u64, bytes: u64| {
        format!(
            "{}, {} bytes",
            counted_u64(packets, "packet", "packets"),
            grouped(bytes)
        )
    };
    let captured = summary.captured;
    let mut lines = vec![("captured".to_owned(), sum(captured.packets, captured.bytes))];
    let booked = &summary.booked;
    let tallies = [
        (counted_u64(booked.flows, "flow", "flows"), booked.accounted),
        ("without room for a flow".to_owned(), booked.overflow),
        ("to groups".to_owned(), booked.multicast),
    ];
    let skipped = booked
        .skipped
        .iter()
        .map(|(reason, tally)| (format!("skipped: {reason}"), *tally));
    let unreadable = summary
        .unreadable
        .iter()
        .map(|(reason, tally)| (reason.to_string(), *tally));
    for (what, tally) in tallies.into_iter().chain(skipped).chain(unreadable) {
        if tally.packets > 0 {
            lines.push((what, sum(tally.packets, tally.bytes)));
        }
    }
    if summary.framing != 0 {
        lines.push((
            "framing".to_owned(),
            format!(
                "{:+} bytes, because the link's headers count as Ethernet's",
                summary.framing
            ),
        ));
    }
    for (what, text) in lines {
        writeln!(out, "{what:<32}{text}")?;
    }
    writeln!(out)
}
