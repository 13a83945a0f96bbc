//! Executes `history` and its commands. The file is read directly: it can be read while no daemon runs.

use std::{collections::HashSet, io::Write, path::Path, time::Duration};

use sensor_ebpf::parse::Mac;

use super::{
    args::{ByWord, ExportArgs, ExportFormat, HistoryArgs, HistoryCommand, ViewName},
    now, print, requests,
};
use crate::{
    config::Config,
    control::protocol::{Request, Response},
    policy::Zone,
    sink::store::{
        self,
        read::{By, Reader, View},
    },
};

/// Executes `history` and its commands.
pub(super) fn history(
    out: &mut impl Write,
    config: &Config,
    args: &HistoryArgs,
) -> anyhow::Result<()> {
    match &args.command {
        None => show(out, config, args),
        Some(HistoryCommand::Export(args)) => export(out, config, args),
        Some(HistoryCommand::Backup { file }) => {
            write_up_to_now(config)?;
            store::back_up(config.history_directory(), file)?;
            Ok(writeln!(
                out,
                "{} is a copy of the history; `sensor history restore` takes it",
                print::printable_lines(&file.display().to_string())
            )?)
        }
        Some(HistoryCommand::Restore { file }) => restore(out, config, file),
    }
}

fn show(out: &mut impl Write, config: &Config, args: &HistoryArgs) -> anyhow::Result<()> {
    write_up_to_now(config)?;
    let reader = Reader::open(config.history_directory())?;
    let devices = chosen(config, &reader, args.device.as_deref())?;
    let devices = devices.as_deref();
    let word = args.by.unwrap_or(match devices {
        Some(_) => ByWord::Day,
        None => ByWord::Device,
    });
    let by = match word {
        ByWord::Device => By::Device,
        ByWord::Hour => By::Hour,
        ByWord::Day => By::Day,
        ByWord::Party => By::Party,
        ByWord::Owner => By::Owner,
        ByWord::Country => By::Country,
    };
    let since = since(args.since);
    let shown = shows_sites(config);
    let sums = reader.sums(devices, since, by, |device| shown.contains(device))?;
    let gaps = reader.gaps(devices, since)?;
    let zone = Zone::named(config.daemon.time_zone.as_deref());
    match args.output.json {
        true => print::print_history_json(out, &sums, &gaps)?,
        false => print::print_history(out, by, &sums, &gaps, &zone)?,
    }
    Ok(())
}

fn export(out: &mut impl Write, config: &Config, args: &ExportArgs) -> anyhow::Result<()> {
    write_up_to_now(config)?;
    let reader = Reader::open(config.history_directory())?;
    let devices = chosen(config, &reader, args.device.as_deref())?;
    let view = match args.view {
        ViewName::PartyHour => View::PartyHour,
        ViewName::DeviceHour => View::DeviceHour,
        ViewName::DeviceDay => View::DeviceDay,
        ViewName::DeviceMonth => View::DeviceMonth,
        ViewName::Gap => View::Gap,
        ViewName::PartySeen => View::PartySeen,
        ViewName::DeviceSeen => View::DeviceSeen,
    };
    let shown = shows_sites(config);
    let since = args.since.map_or(0, since);
    let mut out = std::io::BufWriter::new(out);
    if args.format == ExportFormat::Csv {
        print::print_csv_header(&mut out, &reader.columns(view)?)?;
    }
    reader.export(
        view,
        devices.as_deref(),
        since,
        |device| shown.contains(device),
        |columns, cells| {
            let printed = match args.format {
                ExportFormat::Csv => print::print_csv_row(&mut out, &cells),
                ExportFormat::Ndjson => print::print_ndjson_row(&mut out, columns, &cells),
            };
            Ok(printed?)
        },
    )?;
    Ok(out.flush()?)
}

fn restore(out: &mut impl Write, config: &Config, file: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        requests::ask(config, &Request::Status)?.is_none(),
        "the daemon runs, and writes the history: stop it (`systemctl stop gateway-sensor`), restore, and start it"
    );
    store::restore(config.history_directory(), file)?;
    Ok(writeln!(
        out,
        "the history is that of {}; the next start of the daemon adds the time since then as one gap",
        print::printable_lines(&file.display().to_string())
    )?)
}

/// Executes `forget --history`.
pub(super) fn forget(
    out: &mut impl Write,
    config: &Config,
    device: Option<&str>,
) -> anyhow::Result<()> {
    let request = Request::ForgetHistory {
        device: device.map(str::to_owned),
    };
    let (device, was_there) = match requests::ask(config, &request)? {
        Some(answer) => match answer.only()? {
            Response::HistoryForgotten { device, was_there } => (device, was_there),
            _ => return Err(requests::unexpected()),
        },
        None => {
            let directory = config.history_directory();
            let device = match device {
                Some(text) => {
                    let reader = Reader::open(directory)?;
                    let called = chosen(config, &reader, Some(text))?;
                    called.into_iter().flatten().next()
                }
                None => None,
            };
            let was_there = store::forget(directory, device.as_deref())?;
            (device, was_there)
        }
    };
    let of = match &device {
        Some(device) => format!("of {device}"),
        None => "of all devices".to_owned(),
    };
    match was_there {
        true => writeln!(out, "the history {of} is deleted")?,
        false => writeln!(out, "there was no history {of}")?,
    }
    Ok(())
}

/// Has the daemon write the history up to now, if one runs. Where it cannot, the log of this command says so, and
/// the history is that of before.
fn write_up_to_now(config: &Config) -> anyhow::Result<()> {
    let Some(answer) = requests::ask(config, &Request::WriteHistory)? else {
        return Ok(());
    };
    match answer.only() {
        Ok(Response::HistoryWritten { .. }) => {}
        Ok(_) => return Err(requests::unexpected()),
        Err(error) => tracing::warn!("{error:#}; this is the history up to the last write"),
    }
    Ok(())
}

/// The MAC addresses of the devices that a text means; `None` where there is none.
fn chosen(
    config: &Config,
    reader: &Reader,
    text: Option<&str>,
) -> anyhow::Result<Option<Vec<String>>> {
    let Some(text) = text else { return Ok(None) };
    let lower = text.to_lowercase();
    let named = config.devices.iter().filter(|device| {
        let name = device.name.as_deref().map(str::to_lowercase);
        name.is_some_and(|name| name == lower)
    });
    let mut devices: Vec<_> = named
        .map(|device| Mac::new(device.mac).to_string())
        .collect();
    if devices.is_empty() {
        devices = reader.devices(text)?;
    }
    anyhow::ensure!(
        !devices.is_empty(),
        "the history has no device `{text}`: name it by its MAC address or its name; `sensor history` lists those \
         that it has"
    );
    Ok(Some(devices))
}

/// Seconds since the Unix epoch, so long ago.
fn since(span: Duration) -> i64 {
    (now() - span.as_secs_f64()) as i64
}

/// The devices of which the configuration has the visited sites shown.
fn shows_sites(config: &Config) -> HashSet<String> {
    let devices = config.devices.iter().filter(|device| device.show_sites);
    devices
        .map(|device| Mac::new(device.mac).to_string())
        .collect()
}
