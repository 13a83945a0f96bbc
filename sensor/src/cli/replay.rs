//! What `replay` prints.

use std::io::{self, Write};

use serde::Serialize;

use super::{counted_u64, grouped, octets, print_table, table, total};
use crate::{
    model::{Device, Flow},
    source::replay::Summary,
};

/// A flow of a capture, and what is known about it: one line of JSON.
#[derive(Debug, Serialize)]
pub struct FlowLine<'a> {
    /// The file, as it was typed.
    pub capture: &'a str,
    /// The device's MAC address.
    pub device: &'a str,
    /// The transport by name; an ethertype where the frames are not IP.
    pub protocol: &'a str,
    /// The device's address and port.
    pub local: &'a str,
    /// The other side's address and port.
    pub remote: &'a str,
    /// Packets that left the device.
    pub packets_up: u64,
    /// Packets that reached the device.
    pub packets_down: u64,
    /// Octets that left the device.
    pub bytes_up: u64,
    /// Octets that reached the device.
    pub bytes_down: u64,
    /// The name of the other side.
    pub name: Option<&'a str>,
    /// Where the name was read: `tls`, `quic`, `http` or `dns`.
    pub name_source: Option<&'a str>,
    /// The protocols that the device offered.
    pub alpn: Option<&'a [String]>,
    /// Whether the name is an outer one, and the true one encrypted.
    pub ech: Option<bool>,
    /// The version of QUIC.
    pub quic_version: Option<&'a str>,
    /// The registrable domain of the name.
    pub party: Option<&'a str>,
    /// Who the party belongs to.
    pub owner: Option<&'a str>,
    /// What the party is for.
    pub category: Option<&'a str>,
    /// The country of the address.
    pub country: Option<&'a str>,
    /// The network of the address.
    pub asn: Option<u32>,
    /// How the name is hidden.
    pub hidden: Option<&'a str>,
    /// The tunnel that the flow is inside of; its packets are in those of another flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<&'a str>,
}

impl<'a> FlowLine<'a> {
    /// What the books say about a flow.
    pub fn new(capture: &'a str, flow: &'a Flow, inside: Option<&'a str>) -> Self {
        Self {
            capture,
            device: &flow.device,
            protocol: &flow.protocol,
            local: &flow.local,
            remote: &flow.remote,
            packets_up: flow.traffic.upload.packets,
            packets_down: flow.traffic.download.packets,
            bytes_up: flow.traffic.upload.bytes,
            bytes_down: flow.traffic.download.bytes,
            name: None,
            name_source: None,
            alpn: None,
            ech: None,
            quic_version: None,
            party: None,
            owner: None,
            category: None,
            country: None,
            asn: None,
            hidden: None,
            inside,
        }
    }
}

/// Prints a flow as a line of JSON.
pub fn print_flow_line(out: &mut impl Write, line: &FlowLine<'_>) -> io::Result<()> {
    print_line(out, line)
}

/// Prints a device as a line of JSON.
pub fn print_device_line(out: &mut impl Write, device: &Device) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        device: &'a Device,
    }
    print_line(out, &Line { device })
}

fn print_line(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    writeln!(out)
}

/// Prints the flows of a capture, the largest first; `limit` at most, 0 for all.
pub fn print_capture(
    out: &mut impl Write,
    capture: &str,
    flows: &[(Flow, Option<&str>)],
    limit: usize,
) -> io::Result<()> {
    let mut sorted: Vec<&(Flow, Option<&str>)> = flows.iter().collect();
    sorted.sort_by_key(|(flow, _)| std::cmp::Reverse(total(&flow.traffic).bytes));
    let shown = match limit {
        0 => sorted.len(),
        limit => limit.min(sorted.len()),
    };
    let mut table = table(
        [
            "DEVICE", "PROTOCOL", "LOCAL", "REMOTE", "UPLOAD", "DOWNLOAD", "PACKETS", "INSIDE",
        ],
        4..=6,
    );
    for (flow, inside) in sorted.iter().take(shown) {
        table.add_row([
            flow.device.clone(),
            flow.protocol.clone(),
            flow.local.clone(),
            flow.remote.clone(),
            octets(flow.traffic.upload.bytes),
            octets(flow.traffic.download.bytes),
            grouped(total(&flow.traffic).packets),
            inside.unwrap_or("-").to_owned(),
        ]);
    }
    writeln!(out, "{capture}")?;
    print_table(out, &table, "no flow is in it")?;
    if shown < sorted.len() {
        writeln!(
            out,
            "and {} more; `--limit 0` shows all",
            grouped((sorted.len() - shown) as u64)
        )?;
    }
    Ok(())
}

/// Prints what was in a capture, and what became of its packets.
pub fn print_summary(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let sum = |packets: u64, bytes: u64| {
        format!(
            "{}, {} octets",
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
                "{:+} octets, because the link's headers count as Ethernet's",
                summary.framing
            ),
        ));
    }
    for (what, text) in lines {
        writeln!(out, "{what:<32}{text}")?;
    }
    writeln!(out)
}
