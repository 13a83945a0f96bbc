//! The output of `status`.

use std::io::{self, Write};

use super::{
    overrides::print_overrides,
    pauses::print_pauses,
    text::{
        add_both, counted_u64, grouped, json, local_time, milliseconds, octets, print_table,
        printable, table,
    },
};
use crate::{
    cli::args::Output,
    control::protocol::Status,
    model::{ByDirection, Hook, NameTables, Ring, SampleCounts, Tally, history::StoreState},
    policy::Zone,
};

/// The state of the history in a line.
fn history_line(history: &StoreState, zone: &Zone) -> String {
    let until = match history.until {
        0.0 => "nothing written yet".to_owned(),
        until => format!("written up to {}", local_time(zone, until)),
    };
    let mut line = format!(
        "{}, {} of {}, {until}",
        printable(&history.file),
        octets(history.bytes),
        octets(history.most_bytes)
    );
    if history.batches_lost > 0 {
        line += &format!(
            "; the parties of {} are lost",
            counted_u64(history.batches_lost, "batch", "batches")
        );
    }
    if history.rows_evicted > 0 {
        line += &format!(
            "; {} deleted for its size",
            counted_u64(history.rows_evicted, "row", "rows")
        );
    }
    line
}

/// Prints hooks, tables, policy and losses; also names, where a daemon has ticked.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_status(
    out: &mut impl Write,
    status: &Status,
    output: Output,
    zone: &Zone,
) -> io::Result<()> {
    if output.json {
        return json(out, status);
    }
    print_interfaces(out, status)?;
    writeln!(out)?;
    print_hits(out, status)?;
    writeln!(out)?;
    print_overrides(out, &status.commands, zone)?;
    if !status.policy.pauses.is_empty() {
        print_pauses(out, &status.policy.pauses, zone)?;
        writeln!(out)?;
    }
    if status.is_time_unknown {
        writeln!(
            out,
            "the clock of this machine is not set yet: no policy with a schedule is in force until it is\n"
        )?;
    }
    let flows = &status.flow_table;
    let devices = &status.device_table;
    let policy = &status.policy;
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
        ("quic", quic(policy.kernel_quic)),
        (
            "ring",
            format!(
                "{} samples, {} left out, {} suppressed, {} lost",
                grouped(sum_of(&status.ring, |counts| counts.taken)),
                grouped(sum_of(&status.ring, |counts| counts.shed)),
                grouped(sum_of(&status.ring, |counts| counts.suppressed)),
                grouped(sum_of(&status.ring, |counts| counts.lost)),
            ),
        ),
    ];
    for (what, text) in lines {
        writeln!(out, "{what:<14}{text}")?;
    }
    if status.unbooked_packets > 0 {
        writeln!(
            out,
            "{:<14}{} packets are in no book: a fault of the sensor, please report it",
            "books",
            grouped(status.unbooked_packets)
        )?;
    }
    if let Some(history) = &status.history {
        writeln!(out, "{:<14}{}", "history", history_line(history, zone))?;
        if let Some(problem) = &history.problem {
            writeln!(out, "{:<14}{}", "", printable(problem))?;
        }
        if let Some(aside) = &history.set_aside {
            writeln!(
                out,
                "{:<14}a damaged file is now {}; `sensor history restore` takes a backup",
                "",
                printable(aside)
            )?;
        }
    }
    // Only a running daemon knows these.
    if status.ticks.count > 0 {
        writeln!(out, "{:<14}{}", "names", names(&status.names))?;
        writeln!(out, "{:<14}{}", "not decoded", failures(status))?;
        writeln!(
            out,
            "{:<14}{}, the last took {}",
            "ticks",
            grouped(status.ticks.count),
            milliseconds(status.ticks.last)
        )?;
    }
    Ok(())
}

/// The line that says by whom names in QUIC are judged, and why.
fn quic(kernel_quic: &str) -> String {
    let why = match kernel_quic {
        "on" => return "the kernel judges names, before the packet goes on".to_owned(),
        "interpreted" => "the kernel interprets programs (net.core.bpf_jit_enable)",
        "refused" => "the kernel does not take the program that opens its packets",
        _ => "[names] kernel_quic is false",
    };
    format!("the daemon alone judges names, behind the packet: {why}")
}

fn names(names: &NameTables) -> String {
    format!(
        "{} in lists; {}, {} of devices that made room; {} addresses evicted, {} facts of \
         devices without room",
        grouped(names.list_names),
        counted_u64(names.parties, "party", "parties"),
        grouped(names.parties_refused),
        grouped(names.addresses_evicted),
        grouped(names.devices_refused),
    )
}

/// How many payloads, then the decoders and reasons, the most frequent first.
fn failures(status: &Status) -> String {
    let mut failures = status.decode_failures.clone();
    failures.sort_by_key(|failures| std::cmp::Reverse(failures.count));
    let all = failures.iter().map(|failures| failures.count).sum();
    let mut text = counted_u64(all, "payload", "payloads");
    for (number, failures) in failures.iter().enumerate() {
        text += if number == 0 { ": " } else { ", " };
        text += &format!(
            "{} {} {}",
            failures.decoder,
            failures.reason,
            grouped(failures.count)
        );
    }
    text
}

fn sum_of(ring: &Ring, count: fn(&SampleCounts) -> u64) -> u64 {
    ring.samples.iter().map(count).sum()
}

fn print_interfaces(out: &mut impl Write, status: &Status) -> io::Result<()> {
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
    for interface in &status.interfaces {
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
                    Hook::None if interface.ifindex == 0 => "none: interface is gone".to_owned(),
                    Hook::None => "none: see the log".to_owned(),
                    hook => hook.name().to_owned(),
                },
                grouped(seen.packets),
                octets(seen.bytes),
                grouped(overflow.packets),
                grouped(skipped.packets),
            ]);
        }
    }
    print_table(out, &table, "attached to no interface")?;
    for interface in &status.interfaces {
        let ways = [
            interface
                .driver
                .as_ref()
                .map(|driver| format!("driver {driver}")),
            interface
                .answers()
                .map(|way| format!("answers to devices leave at {way}")),
        ];
        let ways: Vec<_> = ways.into_iter().flatten().collect();
        if !ways.is_empty() {
            writeln!(out, "{:<14}{}", interface.interface, ways.join(", "))?;
        }
        for note in &interface.notes {
            writeln!(out, "{:<14}{note}", interface.interface)?;
        }
    }
    Ok(())
}

fn print_hits(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let mut table = table(["POLICY", "ACTION", "DEVICE", "UPLOAD", "DOWNLOAD"], 3..=4);
    for hits in &status.policy_hits {
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
