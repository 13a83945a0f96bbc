//! Executes `report`: the history of some days, and the findings of the daemon where one runs, as a page.

use std::{io::Write, time::Duration};

use super::{
    args::{ReportArgs, ReportFormat},
    history, now, print, requests,
};
use crate::{
    config::Config,
    control::protocol::{Request, Response},
    model::{Device, echo::DeviceEchoes, report::Report},
    policy::Zone,
    report::{self, Live, Wanted},
    sink::{store::read::Reader, web},
};

/// Executes `report`.
pub(super) fn report(
    out: &mut impl Write,
    config: &Config,
    args: &ReportArgs,
) -> anyhow::Result<()> {
    history::write_up_to_now(config)?;
    let reader = Reader::open(config.history_directory())?;
    let zone = Zone::named(config.daemon.time_zone.as_deref());
    let reports = make(config, &reader, &zone, args.device.as_deref(), args.since)?;
    let time = |moment: i64| print::time(&zone, moment as f64);
    match args.format {
        ReportFormat::Json => print::print_list(out, reports.into_iter().map(Ok))?,
        ReportFormat::Html => write!(out, "{}", web::report::page(&reports, time))?,
        ReportFormat::Text => print::print_reports(out, &reports, time)?,
        ReportFormat::Md => print::print_reports_as_markdown(out, &reports, time)?,
    }
    Ok(())
}

/// The reports of the devices that are meant; of all that the history has anything of in that time, where none is.
fn make(
    config: &Config,
    reader: &Reader,
    zone: &Zone,
    device: Option<&str>,
    span: Duration,
) -> anyhow::Result<Vec<Report>> {
    let since = history::since(span);
    let devices = match history::chosen(config, reader, device)? {
        Some(devices) => devices,
        None => reader.devices_since(since)?,
    };
    let (findings, seen) = live(config)?;
    let shown = history::shows_sites(config);
    let mut reports = Vec::new();
    for device in devices {
        let live = Live {
            echoes: findings.iter().find(|of| of.device == device),
            hidden: seen.iter().find(|of| of.device == device).and_then(hidden),
        };
        let name = match name(config, &device) {
            Some(name) => Some(name),
            None => reader.name_of(&device)?,
        };
        let wanted = Wanted {
            device: &device,
            name: name.as_deref(),
            since,
            now: now() as i64,
            zone,
            shows_sites: shown.contains(&device),
        };
        reports.push(report::make(reader, &wanted, live)?);
    }
    reports.sort_by_key(|report| std::cmp::Reverse(report.total.upload_bytes));
    Ok(reports)
}

/// The name that the configuration has for a device.
fn name(config: &Config, device: &str) -> Option<String> {
    let mut devices = config.devices.iter();
    let device = devices.find(|of| sensor_ebpf::parse::Mac::new(of.mac).to_string() == device)?;
    device.name.clone()
}

/// The findings and the devices of the daemon; nothing where none runs.
fn live(config: &Config) -> anyhow::Result<(Vec<DeviceEchoes>, Vec<Device>)> {
    let Some(findings) = requests::ask(config, &Request::Findings { device: None })? else {
        return Ok((Vec::new(), Vec::new()));
    };
    let findings = findings.map(|response| match response? {
        Response::Findings(device) => Ok(*device),
        _ => Err(requests::unexpected()),
    });
    let findings = findings.collect::<anyhow::Result<_>>()?;
    let Some(devices) = requests::ask(config, &Request::Devices { device: None })? else {
        return Ok((findings, Vec::new()));
    };
    let devices = devices.map(|response| match response? {
        Response::Device(device) => Ok(device.device),
        _ => Err(requests::unexpected()),
    });
    Ok((findings, devices.collect::<anyhow::Result<_>>()?))
}

/// The share of the bytes of a device of which the recipient cannot be told; `None` where it has none.
fn hidden(device: &Device) -> Option<f64> {
    let all = device.known_bytes();
    (all > 0).then(|| (device.hidden_bytes() as f64 / all as f64).min(1.0))
}
