//! The cost of the history: a month of a large household, in simulated time, on a file system of its own behind a
//! loop device, whose writes are counted. Needs root.
//!
//! It fails where a figure is above its limit. `--days N` has it simulate fewer days.

mod arguments;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc::channel},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sensor::{
    model::history::{Batch, Counts, DeviceBatch, Differences, Party, PartyKind},
    policy::Zone,
    sink::store::{
        FILE, Settings, Store,
        read::{By, Reader},
    },
};
use xtask::command::capture;

const DEVICES: u64 = 50;
const PARTIES: u64 = 60;
/// Hours of a day in which a device sends something.
const ACTIVE: u64 = 8;
const DAYS: u64 = 30;
/// Seconds of a batch.
const BATCH: u64 = 300;

const MOST_BYTES: u64 = 40 << 20;
const MOST_WRITTEN_A_DAY: u64 = 16 << 20;
const MOST_MEMORY: u64 = 6 << 20;
const LONGEST_QUERY: Duration = Duration::from_secs(1);

/// Midnight in UTC of a Monday: 2026-11-30.
const START: u64 = 1_795_996_800;

fn run(program: &str, words: &[&str]) -> Result<String> {
    Ok(capture(Command::new(program).args(words))?
        .trim()
        .to_owned())
}

/// A file system of its own on a loop device, gone with this.
struct Disk {
    folder: PathBuf,
    device: String,
}

impl Disk {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("history-disk-{}", std::process::id()));
        fs::create_dir_all(folder.join("mount"))?;
        let image = folder.join("image");
        fs::File::create(&image)?.set_len(512 << 20)?;
        let image = image.display().to_string();
        run(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
                &image,
            ],
        )?;
        let device = run("losetup", &["--find", "--show", &image])?;
        let disk = Self { folder, device };
        let mount = disk.mount().display().to_string();
        run("mount", &[&disk.device, &mount])?;
        Ok(disk)
    }

    fn mount(&self) -> PathBuf {
        self.folder.join("mount")
    }

    /// Bytes that were written to the device.
    fn written(&self) -> Result<u64> {
        run("sync", &["-f", &self.mount().display().to_string()])?;
        let name = Path::new(&self.device).file_name().context("a device")?;
        let stat = fs::read_to_string(Path::new("/sys/block").join(name).join("stat"))?;
        let sectors = stat.split_whitespace().nth(6).context("a seventh field")?;
        Ok(sectors.parse::<u64>()? * 512)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &[&self.mount().display().to_string()]);
        let _ = run("losetup", &["--detach", &self.device]);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Anonymous memory of this process, in bytes.
fn anonymous() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.context("RssAnon")?.parse::<u64>()? << 10)
}

/// Whether the hours of a device are those of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hours {
    Together,
    Spread,
}

struct House {
    names: Vec<Arc<str>>,
    positions: Vec<Counts>,
    hours: Hours,
    zone: Zone,
}

impl House {
    fn new(hours: Hours) -> Self {
        Self {
            names: (0..500)
                .map(|name| format!("telemetry-{name}.vendor.example").into())
                .collect(),
            positions: vec![Counts::default(); DEVICES as usize],
            hours,
            zone: Zone::default(),
        }
    }

    fn batch(&mut self, now: u64) -> Batch {
        let hour_of_day = now / 3_600 % 24;
        let mut of = Differences::default();
        for device in 0..DEVICES {
            let begins = match self.hours {
                Hours::Together => 10,
                Hours::Spread => device * 7 % 24,
            };
            let is_active = (hour_of_day + 24 - begins) % 24 < ACTIVE;
            let mut parties = Vec::new();
            let position = &mut self.positions[device as usize];
            for party in 0..if is_active { PARTIES } else { 0 } {
                // From a ping to a film.
                let size = 200 + (now / BATCH + device * 31 + party * 17) % 97 * (party + 1) * 40;
                let counts = Counts {
                    bytes: [size, size * (1 + party % 20)],
                    packets: [size / 500 + 1, size * (1 + party % 20) / 1_200 + 1],
                    flows: 1 + party % 3,
                    ..Counts::default()
                };
                position.add(&counts);
                let name = &self.names[((device * 37 + party * 3) % 500) as usize];
                let party = Party {
                    kind: PartyKind::Party,
                    name: Arc::clone(name),
                    category: Some("telemetry"),
                    owner: Some("A Vendor".into()),
                    country: Some("US".into()),
                    stacks: vec![format!("{:012x}", party % 3)],
                };
                parties.push((party, counts));
            }
            of.devices.push(DeviceBatch {
                device: format!("02:00:00:00:00:{device:02x}"),
                name: Some(format!("device {device}")),
                began: device + 1,
                began_at: START as f64,
                position: Some(*position),
                parties,
                echoes: Vec::new(),
            });
        }
        Batch {
            tables: "tables".to_owned(),
            boot: "boot".to_owned(),
            steady: (now + BATCH) as f64,
            since_boot: (now + BATCH - START) as f64 + 1_000.0,
            start: now as f64,
            end: (now + BATCH) as f64,
            hour: self.zone.hour(now as f64),
            is_first: now == START,
            is_last: false,
            of,
        }
    }
}

fn flush(store: &Store) -> Result<()> {
    let (give, given) = channel();
    store.flush(move |written| drop(give.send(written)));
    given.recv()?.map_err(anyhow::Error::msg)
}

fn month(hours: Hours, days_in_all: u64) -> Result<()> {
    let disk = Disk::new()?;
    let zone = Zone::default();
    let days = |days: u64| Duration::from_hours(24 * days);
    let directory = disk.mount();
    let mut house = House::new(hours);
    // The memory of batches is the daemon's with history, too: it stays among that of before.
    let before = anonymous()?;
    let store = Store::start(Settings {
        directory: directory.clone(),
        most_bytes: 128 << 20,
        party_hours: days(35),
        device_hours: days(100),
        device_days: days(760),
        calendar: Arc::new(move |time| zone.hour(time)),
    })?;
    let (mut most, mut memory) = (0, 0);
    let first = disk.written()?;
    let mut written = first;
    let began = Instant::now();
    for day in 0..days_in_all {
        for now in (START + day * 86_400..)
            .step_by(BATCH as usize)
            .take((86_400 / BATCH) as usize)
        {
            store.send(house.batch(now));
            flush(&store)?;
            memory = memory.max(anonymous()?.saturating_sub(before));
        }
        let now = disk.written()?;
        most = most.max(now - written);
        written = now;
    }
    let took = began.elapsed();
    let mean = (written - first) / days_in_all;
    drop(store);
    let size = fs::metadata(directory.join(FILE))?.len();
    let mut longest = Duration::ZERO;
    for by in [
        By::Device,
        By::Hour,
        By::Day,
        By::Party,
        By::Owner,
        By::Country,
    ] {
        let began = Instant::now();
        let reader = Reader::open(&directory)?;
        let sums = reader.sums(None, START as i64, by, |_| false)?;
        reader.gaps(None, START as i64)?;
        longest = longest.max(began.elapsed());
        let upload: i64 = sums.iter().map(|sum| sum.upload_bytes).sum();
        let sent: u64 = house.positions.iter().map(|counts| counts.bytes[0]).sum();
        ensure!(
            upload.unsigned_abs() == sent,
            "{by:?}: {upload} of {sent} bytes"
        );
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{DEVICES} devices with {PARTIES} parties each, {ACTIVE} hours a day {hours:?}, {days_in_all} days:\n\
         \x20 file                    {:8.1} MiB (at most {:.0})\n\
         \x20 written a day          {:8.1} MiB (at most {:.0}; the most in one {:.1})\n\
         \x20 memory                  {:8.1} MiB (at most {:.0})\n\
         \x20 longest query           {:8.0} ms  (at most {:.0})\n\
         \x20 a batch                 {:8.1} ms",
        mib(size),
        mib(MOST_BYTES),
        mib(mean),
        mib(MOST_WRITTEN_A_DAY),
        mib(most),
        mib(memory),
        mib(MOST_MEMORY),
        longest.as_secs_f64() * 1e3,
        LONGEST_QUERY.as_secs_f64() * 1e3,
        took.as_secs_f64() * 1e3 / (days_in_all * 86_400 / BATCH) as f64,
    );
    ensure!(size <= MOST_BYTES, "the file is too large");
    ensure!(mean <= MOST_WRITTEN_A_DAY, "too much is written");
    ensure!(memory <= MOST_MEMORY, "it takes too much memory");
    ensure!(longest <= LONGEST_QUERY, "a query takes too long");
    Ok(())
}

fn main() -> Result<()> {
    let [days] = arguments::options(["--days"])?;
    let days = match days {
        Some(days) => days.to_string_lossy().parse()?,
        None => DAYS,
    };
    // Both figures are wanted where the first misses its goal.
    let together = month(Hours::Together, days);
    month(Hours::Spread, days)?;
    together
}
