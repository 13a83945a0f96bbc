//! The output of `devices`.

use std::{
    cmp::Reverse,
    io::{self, Write},
};

use super::text::{
    add_both, ago, counted_u64, grouped, octets, print_table, printable, share, shortened, table,
    total,
};
use super::{
    history::{Past, print_past},
    refused::print_refused_of,
};
use crate::{
    control::protocol::DeviceReport,
    model::{ByDirection, Conclusion, Device, Kind, PartyTraffic, Tally},
};

/// The most characters of a name and of a vendor in the table.
const NAME: usize = 24;
const VENDOR: usize = 14;

/// A kind that is less sure is shown with a question mark.
const SURE: f32 = 0.5;

/// Prints devices one after the other with all that is known of them, the busiest first; `now` is in seconds
/// since the Unix epoch. `past` gives what the history tells of a device.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_each_device(
    out: &mut impl Write,
    mut reports: Vec<DeviceReport>,
    now: f64,
    past: impl Fn(&str) -> Option<Past>,
) -> io::Result<()> {
    sort(&mut reports);
    for (number, report) in reports.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        print_one(out, report, now, past(&report.device.device).as_ref())?;
    }
    Ok(())
}

fn sort(reports: &mut [DeviceReport]) {
    reports.sort_by_key(|report| Reverse(total(&traffic_of(&report.device)).bytes));
}

/// Prints a table of devices, the busiest first; `now` is in seconds since the Unix epoch.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_devices(
    out: &mut impl Write,
    mut reports: Vec<DeviceReport>,
    now: f64,
) -> io::Result<()> {
    sort(&mut reports);
    let devices = || reports.iter().map(|report| &report.device);
    let mut table = table(
        [
            "DEVICE",
            "NAME",
            "KIND",
            "VENDOR",
            "UPLOAD",
            "DOWNLOAD",
            "HIDDEN",
            "FLOWS",
            "LAST SEEN",
        ],
        4..=7,
    );
    for device in devices() {
        let identity = &device.identity;
        let traffic = traffic_of(device);
        table.add_row([
            match identity.random_mac {
                true => format!("{}*", device.device),
                false => device.device.clone(),
            },
            shortened(identity.name.as_deref().unwrap_or("-"), NAME),
            kind(identity),
            shortened(identity.vendor.as_deref().unwrap_or("-"), VENDOR),
            octets(traffic.upload.bytes),
            octets(traffic.download.bytes),
            share(device.hidden_bytes(), device.known_bytes()),
            grouped(flows_of(device)),
            ago(device.last_seen, now),
        ]);
    }
    print_table(out, &table, "no device was seen yet")?;
    if devices().any(|device| device.identity.random_mac) {
        writeln!(out, "* made its address up")?;
    }
    for report in &reports {
        let device = &report.device;
        if let Some(text) = shared(&device.identity) {
            writeln!(out, "{}: {text}", name_of(device))?;
        }
        if let Some(known) = known_as(report) {
            writeln!(
                out,
                "{} is probably {known} with another address",
                device.device
            )?;
        }
    }
    Ok(())
}

/// Prints which MAC addresses several devices share.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_shared(out: &mut impl Write, devices: &[Device]) -> io::Result<()> {
    for device in devices {
        if let Some(text) = shared(&device.identity) {
            writeln!(out, "{}: {text}", name_of(device))?;
        }
    }
    Ok(())
}

/// That several devices have its MAC address.
fn shared(identity: &Conclusion) -> Option<String> {
    (identity.shared_by > 0).then(|| shared_address(identity.shared_by))
}

/// That so many devices have one MAC address.
pub fn shared_address(devices: u32) -> String {
    format!(
        "at least {devices} devices have this MAC address: it is a repeater or a host of others; \
         counts, names and policies are those of all of them together"
    )
}

/// The device that a device probably is, by its address, and by its name where it has one.
fn known_as(report: &DeviceReport) -> Option<String> {
    let address = report.device.probably_same_as.as_deref()?;
    Some(named(address, report.same_as_name.as_deref()))
}

fn name_of(device: &Device) -> String {
    named(&device.device, device.identity.name.as_deref())
}

fn named(address: &str, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{address} ({})", printable(name)),
        None => address.to_owned(),
    }
}

fn kind(identity: &Conclusion) -> String {
    match identity.kind {
        Kind::Unknown => "-".to_owned(),
        kind if identity.kind_confidence < SURE => format!("{}?", kind.name()),
        kind => kind.name().to_owned(),
    }
}

fn print_one(
    out: &mut impl Write,
    report: &DeviceReport,
    now: f64,
    past: Option<&Past>,
) -> io::Result<()> {
    let device = &report.device;
    print_facts(out, report, now)?;
    print_parties(out, report)?;
    if let Some(past) = past {
        print_past(out, past)?;
    }
    print_octets(out, "HIDDEN BY", &device.hidden)?;
    print_octets(out, "CATEGORY", &device.categories)?;
    print_refused_of(out, &device.refused, now)?;
    print_evidence(out, &device.identity)
}

/// Prints the identity and the traffic of a device.
fn print_facts(out: &mut impl Write, report: &DeviceReport, now: f64) -> io::Result<()> {
    let device = &report.device;
    let identity = &device.identity;
    let sure = |what: &str, confidence: f32| {
        let percent = 100.0 * confidence;
        format!("{what} ({percent:.0} % sure)")
    };
    let addresses: Vec<_> = device.addresses.iter().map(ToString::to_string).collect();
    let traffic = traffic_of(device);
    let facts = [
        (
            "device",
            Some(match identity.random_mac {
                true => format!("{}, an address that it made up", device.device),
                false => device.device.clone(),
            }),
        ),
        ("shared", shared(identity)),
        ("name", identity.name.clone()),
        (
            "kind",
            Some(identity.kind)
                .filter(|kind| *kind != Kind::Unknown)
                .map(|kind| sure(kind.name(), identity.kind_confidence)),
        ),
        (
            "vendor",
            identity
                .vendor
                .as_deref()
                .map(|vendor| sure(vendor, identity.vendor_confidence)),
        ),
        ("model", identity.model.clone()),
        ("system", identity.system.clone()),
        (
            "probably",
            known_as(report).map(|known| format!("{known} with another address")),
        ),
        (
            "addresses",
            Some(addresses.join(", ")).filter(|addresses| !addresses.is_empty()),
        ),
        (
            "seen",
            Some(format!(
                "first {}, last {}",
                ago(device.first_seen, now),
                ago(device.last_seen, now)
            )),
        ),
        (
            "traffic",
            Some(format!(
                "{} uploaded, {} downloaded; {}, {} open",
                octets(traffic.upload.bytes),
                octets(traffic.download.bytes),
                counted_u64(flows_of(device), "flow", "flows"),
                grouped(device.live_flows),
            )),
        ),
        (
            "hidden",
            Some(share(device.hidden_bytes(), device.known_bytes())).filter(|share| share != "-"),
        ),
    ];
    for (what, text) in facts {
        if let Some(text) = text {
            writeln!(out, "{what:<11}{}", printable(&text))?;
        }
    }
    Ok(())
}

/// Prints the parties that the device exchanged most with, the largest first.
fn print_parties(out: &mut impl Write, report: &DeviceReport) -> io::Result<()> {
    let device = &report.device;
    if device.parties.is_empty() {
        return Ok(());
    }
    let mut table = table(
        [
            "PARTY", "OWNER", "CATEGORY", "COUNTRY", "UPLOAD", "DOWNLOAD", "FLOWS",
        ],
        4..=6,
    );
    let mut parties: Vec<&PartyTraffic> = device.parties.iter().collect();
    let is_other = |with: &PartyTraffic| with.party == "other" && with.category.is_none();
    parties.sort_by_key(|with| (is_other(with), Reverse(sum(&with.bytes_in_all))));
    for with in parties {
        let known = report
            .parties
            .iter()
            .find(|party| party.party == with.party && party.category == with.category);
        let owner = known.and_then(|party| party.owner.as_deref());
        let country = known.and_then(|party| party.country.as_deref());
        table.add_row([
            with.party.as_str(),
            owner.unwrap_or("-"),
            with.category.unwrap_or("-"),
            country.unwrap_or("-"),
            &octets(with.bytes_in_all.upload),
            &octets(with.bytes_in_all.download),
            &grouped(sum(&with.flows_in_all)),
        ]);
    }
    writeln!(out, "\nsince the daemon started:")?;
    print_table(out, &table, "")
}

/// Octets by reason or category, those that there are.
fn print_octets<'a>(
    out: &mut impl Write,
    header: &str,
    octets_by: impl IntoIterator<Item = (&'a &'static str, &'a ByDirection<u64>)>,
) -> io::Result<()> {
    let mut table = table([header, "UPLOAD", "DOWNLOAD"], 1..=2);
    let mut empty = true;
    for (what, of) in octets_by {
        if sum(of) > 0 {
            empty = false;
            table.add_row([*what, &octets(of.upload), &octets(of.download)]);
        }
    }
    if empty {
        return Ok(());
    }
    writeln!(out)?;
    print_table(out, &table, "")
}

fn print_evidence(out: &mut impl Write, identity: &Conclusion) -> io::Result<()> {
    if identity.evidence.is_empty() {
        return Ok(());
    }
    let mut table = table(["SEEN IN", "SAYS", "SO ITS", "IS", "WEIGHT"], 4..=4);
    for line in &identity.evidence {
        table.add_row([
            line.source,
            &line.value,
            line.about,
            &line.suggests,
            &format!("{:.2}", line.weight),
        ]);
    }
    writeln!(out)?;
    print_table(out, &table, "")
}

fn traffic_of(device: &Device) -> ByDirection<Tally> {
    device
        .families
        .values()
        .map(|books| &books.traffic)
        .fold(ByDirection::default(), add_both)
}

fn flows_of(device: &Device) -> u64 {
    let families = device.families.values();
    families.map(|books| sum(&books.flows)).sum()
}

fn sum(both: &ByDirection<u64>) -> u64 {
    both.upload.saturating_add(both.download)
}
