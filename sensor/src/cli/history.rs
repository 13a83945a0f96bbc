//! Executes `history` and its commands. The file is read directly: it can be read while no daemon runs.

use std::{
    collections::{BTreeMap, HashSet},
    io::Write,
    path::Path,
    time::Duration,
};

use rustix::fs::statfs;
use sensor_ebpf::parse::Mac;

use super::{
    args::{ByWord, ExportArgs, ExportFormat, HistoryArgs, HistoryCommand, ViewName},
    now,
    print::{self, Habit, Past},
    requests,
};
use crate::{
    config::Config,
    control::protocol::{Request, Response},
    model::echo::{DeviceEchoes, EarlierEcho, Echo},
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
        ViewName::PartyStack => View::PartyStack,
        ViewName::EchoDay => View::EchoDay,
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
pub(super) fn write_up_to_now(config: &Config) -> anyhow::Result<()> {
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
pub(super) fn chosen(
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
pub(super) fn since(span: Duration) -> i64 {
    (now() - span.as_secs_f64()) as i64
}

/// The devices of which the configuration has the visited sites shown.
pub(super) fn shows_sites(config: &Config) -> HashSet<String> {
    let devices = config.devices.iter().filter(|device| device.show_sites);
    devices
        .map(|device| Mac::new(device.mac).to_string())
        .collect()
}

/// The file system on which a directory of the history is, or will be, or why it does not serve.
pub(super) fn place(directory: &Path) -> Result<String, String> {
    // By their numbers in linux/magic.h, and whether they are on flash, go with the power, or are elsewhere.
    const KINDS: [(u64, &str, &str); 12] = [
        (0xef53, "ext4", ""),
        (0x9123_683e, "btrfs", ""),
        (0x5846_5342, "xfs", ""),
        (0xf2f5_2010, "f2fs", FLASH),
        (0x2405_1905, "ubifs", FLASH),
        (0x72b6, "jffs2", FLASH),
        (0x794c_7630, "overlay", FLASH),
        (0x0102_1994, "tmpfs", MEMORY),
        (0x8584_58f6, "ramfs", MEMORY),
        (0x6969, "nfs", NETWORK),
        (0xfe53_4d42, "smb", NETWORK),
        (0xff53_4d42, "cifs", NETWORK),
    ];
    const FLASH: &str = ", of a kind that is used on flash: a household of 50 devices writes some 15 MiB a day, \
                         and a longer `batch` in [history] less";
    const MEMORY: &str =
        "memory, and gone with the power: have `directory` in [history] name a disk";
    const NETWORK: &str = "on another machine, where SQLite's log cannot be: have `directory` in [history] name a disk";

    let there = directory.ancestors().find(|folder| folder.exists());
    let there = there.unwrap_or(Path::new("/"));
    let about = statfs(there).map_err(|error| {
        format!(
            "the file system of {} cannot be found out: {error}",
            directory.display()
        )
    })?;
    let kind = KINDS
        .iter()
        .find(|(magic, ..)| *magic == about.f_type as u64);
    let (name, note) = kind.map_or(("another file system", ""), |(_, name, note)| (name, note));
    let free = (about.f_bavail).saturating_mul(about.f_bsize.unsigned_abs());
    let free = print::bytes(free);
    match note {
        NETWORK => Err(format!("{} is on {name}: {note}", directory.display())),
        note => Ok(format!(
            "{} is on {name}, with {free} free{note}",
            directory.display()
        )),
    }
}

/// The weeks of which the same weekdays are a device's habit.
const WEEKS: i64 = 5;

/// The echoes of a device that only the history has; none where there is no history.
pub(super) fn earlier_echoes(config: &Config, of: &DeviceEchoes) -> Vec<EarlierEcho> {
    let reader = Reader::open(config.history_directory()).ok();
    let earlier = reader.and_then(|reader| reader.echoes(&of.device).ok());
    let is_gone = |earlier: &EarlierEcho| {
        let same = |echo: &Echo| (&echo.name, echo.is_host) == (&earlier.name, earlier.is_host);
        !of.echoes.iter().any(same)
    };
    let earlier = earlier.unwrap_or_default().into_iter();
    earlier.filter(is_gone).collect()
}

/// The past of a device, by the history: since when it has its parties, and its habit. `None` where there is no
/// history, or nothing of the device in it.
pub(super) fn past(config: &Config, device: &str) -> Option<Past> {
    const DAY: i64 = 24 * 3_600;

    let reader = Reader::open(config.history_directory()).ok()?;
    let zone = Zone::named(config.daemon.time_zone.as_deref());
    let now = now() as i64;
    let hours = reader.hours(device, now - (7 * WEEKS + 1) * DAY).ok()?;
    let since = reader.parties_since(device).ok()?;
    if hours.is_empty() && since.is_empty() {
        return None;
    }
    let hours = hours
        .iter()
        .map(|hour| (hour.start, hour.upload_bytes.unsigned_abs()));
    Some(Past {
        since,
        habit: habit(&zone, now, hours),
        zone,
    })
}

/// The upload of today up to this hour, and the median of the same on the same weekdays before, of which there have
/// to be three. `hours` are starts of hours in seconds since the Unix epoch, and bytes.
fn habit(zone: &Zone, now: i64, hours: impl Iterator<Item = (i64, u64)>) -> Option<Habit> {
    const FEWEST: usize = 3;

    let today = zone.time_of_week(now as f64)?;
    let mut days: BTreeMap<String, u64> = BTreeMap::new();
    for (start, bytes) in hours {
        let Some(of_week) = zone.time_of_week(start as f64) else {
            continue;
        };
        let is_same = of_week.weekday == today.weekday && of_week.minutes <= today.minutes;
        // A day of which only later hours have something counts as one without any until now.
        let day = days.entry(of_week.day).or_default();
        if is_same {
            *day += bytes;
        } else if of_week.weekday != today.weekday {
            *day = u64::MAX;
        }
    }
    let upload = days.remove(&today.day).unwrap_or_default();
    let mut before: Vec<_> = days.into_values().filter(|day| *day != u64::MAX).collect();
    before.sort_unstable();
    let usual = (before.len() >= FEWEST).then(|| before[before.len() / 2]);
    Some(Habit {
        today: upload,
        usual,
        days: before.len(),
        weekday: today.weekday,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_habit_is_the_median_of_the_same_weekdays_until_this_hour() {
        const HOUR: i64 = 3_600;
        // 2026-11-30, a Monday, 12:30 in Kolkata.
        let now = 1_795_996_800 + 7 * HOUR;
        let zone = Zone::named(Some("Asia/Kolkata"));
        let mut hours = Vec::new();
        for (week, bytes) in [(0, 500), (1, 10), (2, 30), (3, 20)] {
            let of_day = now - HOUR / 2 * 25 - week * 7 * 24 * HOUR;
            hours.push((of_day + 9 * HOUR, bytes));
            // Later than now on that day; on another day.
            hours.push((of_day + 20 * HOUR, 1_000_000));
            hours.push((of_day - 24 * HOUR + 9 * HOUR, 7_000));
        }
        let told = habit(&zone, now, hours.iter().copied()).expect("a time");
        assert_eq!((told.today, told.usual, told.days), (500, Some(20), 3));
        assert_eq!(told.weekday, "Monday");
        let told = habit(&zone, now, hours.iter().copied().take(6)).expect("a time");
        assert_eq!((told.today, told.usual, told.days), (500, None, 1));
    }
}
