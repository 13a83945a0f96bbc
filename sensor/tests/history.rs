//! The history, in real files of SQLite: the sums are those of the kernel whatever is lost in between, hours and
//! days are local ones, and damage, full disks and floods of names cost no more than they must.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::channel},
    time::Duration,
};

use proptest::prelude::*;
use rusqlite::Connection;
use sensor::{
    model::{
        echo::{Echo, Reach, Stack},
        history::{Batch, Counts, DeviceBatch, Differences, MOST_STACKS, Party, PartyKind},
        report::Change,
    },
    policy::Zone,
    report::{self, Live, Wanted},
    sink::store::{
        self, FILE, MOST_NEW_DEVICES, MOST_PARTIES, Settings, Store,
        read::{By, Cell, Reader, View},
    },
};

const PHONE: &str = "02:00:00:00:00:01";
const LAPTOP: &str = "02:00:00:00:00:02";

/// TLS stacks of a phone.
const BROWSER: &str = "46e7e9700bed";
const SYSTEM: &str = "c866b44c5a26";

/// Midnight in UTC of a Monday: 2026-11-30.
const MONDAY: f64 = 1_795_996_800.0;
const HOUR: f64 = 3_600.0;

/// A folder of this test alone, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        // In memory where that can be had: these tests wait for thousands of commits.
        let memory = Path::new("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let path = parent.join(format!("history-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join(FILE)
    }

    fn number(&self, query: &str) -> i64 {
        let connection = Connection::open(self.file()).unwrap();
        let number = connection.query_row(query, [], |row| row.get::<_, Option<i64>>(0));
        number.unwrap().unwrap_or_default()
    }

    fn text(&self, query: &str) -> String {
        let connection = Connection::open(self.file()).unwrap();
        connection.query_row(query, [], |row| row.get(0)).unwrap()
    }

    /// Everything of a device that some row has: bytes up and down, packets up and down, flows.
    fn total(&self, device: &str) -> [i64; 5] {
        [
            "upload_bytes",
            "download_bytes",
            "upload_packets",
            "download_packets",
            "flows",
        ]
        .map(|column| {
            self.number(&format!(
                "SELECT coalesce((SELECT SUM({column}) FROM device_hour WHERE device = '{device}'), 0) + \
                 coalesce((SELECT SUM({column}) FROM gap WHERE device = '{device}'), 0)"
            ))
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn settings(folder: &Path, zone: &str) -> Settings {
    let zone = Zone::named(Some(zone));
    let days = |days: u64| Duration::from_hours(24 * days);
    Settings {
        directory: folder.to_owned(),
        most_bytes: 128 << 20,
        party_hours: days(35),
        device_hours: days(100),
        device_days: days(760),
        calendar: Arc::new(move |time| zone.hour(time)),
    }
}

fn counts(bytes: u64) -> Counts {
    Counts {
        bytes: [bytes, 10 * bytes],
        packets: [bytes / 100 + 1, bytes / 50 + 1],
        flows: 1,
        ..Counts::default()
    }
}

fn total(counts: &Counts) -> [i64; 5] {
    [
        counts.bytes[0],
        counts.bytes[1],
        counts.packets[0],
        counts.packets[1],
        counts.flows,
    ]
    .map(|count| count as i64)
}

fn party(name: &str) -> Party {
    Party {
        kind: PartyKind::Party,
        name: name.into(),
        category: Some("telemetry"),
        owner: Some("Xiaomi".into()),
        country: Some("CN".into()),
        stacks: vec![BROWSER.to_owned()],
    }
}

/// A kernel and a daemon that are made up: they count, and make batches.
struct House {
    zone: Zone,
    tables: u32,
    boot: u32,
    /// The wall clock, and the start of the present batch; steady time is the same.
    now: f64,
    start: f64,
    booted: f64,
    is_first: bool,
    kernel: BTreeMap<String, (u64, f64, Counts)>,
    parties: BTreeMap<String, Vec<(Party, Counts)>>,
    echoes: BTreeMap<String, Vec<Echo>>,
    left: Vec<DeviceBatch>,
    devices: u64,
}

impl House {
    fn new(zone: &str, now: f64) -> Self {
        let mut house = Self {
            zone: Zone::named(Some(zone)),
            tables: 1,
            boot: 1,
            now,
            start: now,
            booted: now - 1_000.0,
            is_first: true,
            kernel: BTreeMap::new(),
            parties: BTreeMap::new(),
            echoes: BTreeMap::new(),
            left: Vec::new(),
            devices: 0,
        };
        house.share();
        house
    }

    /// The records that devices share are there from the start.
    fn share(&mut self) {
        for shared in ["multicast", "other"] {
            self.kernel
                .insert(shared.to_owned(), (0, 0.0, Counts::default()));
        }
    }

    fn record(&mut self, device: &str) -> &mut Counts {
        if !self.kernel.contains_key(device) {
            self.devices += 1;
            let new = (self.devices, self.now, Counts::default());
            self.kernel.insert(device.to_owned(), new);
        }
        &mut self.kernel.get_mut(device).unwrap().2
    }

    /// The kernel counts, and the daemon books.
    fn exchange(&mut self, device: &str, with: &Party, amount: Counts) {
        self.record(device).add(&amount);
        let parties = self.parties.entry(device.to_owned()).or_default();
        match parties.iter_mut().find(|(party, _)| party == with) {
            Some((_, all)) => all.add(&amount),
            None => parties.push((with.clone(), amount)),
        }
    }

    /// The kernel counts alone: no flow has it.
    fn overflow(&mut self, device: &str, amount: Counts) {
        self.record(device).add(&amount);
    }

    /// A device leaves the kernel's table.
    fn leave(&mut self, device: &str) {
        let Some((.., counts)) = self.kernel.remove(device) else {
            return;
        };
        self.kernel.get_mut("other").unwrap().2.add(&counts);
        self.left.push(DeviceBatch {
            device: device.to_owned(),
            name: None,
            began: 0,
            began_at: 0.0,
            position: None,
            parties: self.parties.remove(device).unwrap_or_default(),
            echoes: Vec::new(),
        });
    }

    /// The daemon is killed, and another starts: names and what was booked are gone.
    fn kill(&mut self, away: f64) {
        self.parties.clear();
        self.left.clear();
        self.now += away;
        self.start = self.now;
        self.is_first = true;
    }

    fn batch(&mut self) -> Batch {
        let mut of = Differences {
            devices: std::mem::take(&mut self.left),
            ..Differences::default()
        };
        for (device, (began, began_at, position)) in &self.kernel {
            of.devices.push(DeviceBatch {
                device: device.clone(),
                name: None,
                began: *began,
                began_at: *began_at,
                position: Some(*position),
                parties: self.parties.remove(device).unwrap_or_default(),
                echoes: self.echoes.remove(device).unwrap_or_default(),
            });
        }
        let (first, last) = (self.zone.hour(self.start), self.zone.hour(self.now));
        let batch = Batch {
            tables: self.tables.to_string(),
            boot: self.boot.to_string(),
            steady: self.now,
            since_boot: self.now - self.booted,
            start: self.start,
            end: self.now,
            hour: (first == last).then_some(first).flatten(),
            is_first: self.is_first,
            is_last: false,
            of,
        };
        self.start = self.now;
        self.is_first = false;
        batch
    }
}

/// Waits until everything is written, and gives why not.
fn flush(store: &Store) -> Result<(), String> {
    let (give, given) = channel();
    store.flush(move |written| give.send(written).unwrap());
    given.recv().unwrap()
}

#[test]
fn rows_are_those_of_the_kernel_and_the_file_is_one_that_people_can_open() {
    let folder = Folder::new("rows");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    house.now += 300.0;
    house.exchange(PHONE, &party("miui.com"), counts(1_000));
    house.exchange(PHONE, &Party::all_of(PartyKind::Sites), counts(500));
    house.overflow(PHONE, counts(7));
    store.send(house.batch());
    house.now += 300.0;
    house.exchange(PHONE, &party("miui.com"), counts(1_000));
    store.send(house.batch());
    flush(&store).unwrap();
    let kernel = house.kernel[PHONE].2;
    assert_eq!(folder.total(PHONE), total(&kernel));
    let rows = "SELECT group_concat(kind || ' ' || party || ' ' || upload_bytes, ', ') FROM \
                (SELECT * FROM party_hour ORDER BY kind)";
    assert_eq!(
        folder.text(rows),
        "party miui.com 2000, sites sites 500, unattributed unattributed 7"
    );
    assert_eq!(folder.text("PRAGMA journal_mode"), "wal");
    assert_eq!(folder.number("PRAGMA page_size"), 1_024);
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(folder.file()).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    drop(store);
    // All of it is in the file itself at the end.
    let header = fs::read(folder.file()).unwrap();
    assert!(header.starts_with(b"SQLite format 3\0"));
    assert_eq!(&header[68..72], b"GwSe");
    let log = fs::metadata(folder.0.join(format!("{FILE}-wal")));
    assert!(log.map_or(0, |log| log.len()) == 0);
}

#[test]
fn an_interval_without_daemon_is_one_row_with_its_start_and_end() {
    let folder = Folder::new("interval");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY + 10.0 * HOUR);
    store.send(house.batch());
    house.exchange(PHONE, &party("miui.com"), counts(1_000));
    house.now += 300.0;
    store.send(house.batch());
    flush(&store).unwrap();
    drop(store);
    // Booked, and not written.
    house.exchange(PHONE, &party("miui.com"), counts(10));
    house.kill(3.0 * HOUR);
    house.overflow(PHONE, counts(600));
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    store.send(house.batch());
    house.now += 60.0;
    house.exchange(PHONE, &party("miui.com"), counts(5));
    store.send(house.batch());
    flush(&store).unwrap();
    assert_eq!(folder.total(PHONE), total(&house.kernel[PHONE].2));
    assert_eq!(
        folder.text("SELECT start || ' ' || end || ' ' || reason || ' ' || lost || ' ' || upload_bytes FROM gap"),
        "2026-11-30T10:05:00Z 2026-11-30T13:05:00Z no-daemon 0 610"
    );
    // It lies in one day, and counts there.
    assert_eq!(
        folder.number("SELECT upload_bytes FROM device_day WHERE day = '2026-11-30'"),
        1_615
    );
    let reader = Reader::open(&folder.0).unwrap();
    let sums = reader
        .sums(None, MONDAY as i64, By::Device, |_| false)
        .unwrap();
    assert_eq!((sums.len(), sums[0].upload_bytes), (1, 1_615));
}

#[test]
fn a_reboot_loses_one_batch_at_most_and_it_is_said() {
    let folder = Folder::new("reboot");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    house.exchange(PHONE, &party("miui.com"), counts(1_000));
    house.now += 300.0;
    store.send(house.batch());
    let written = house.kernel[PHONE].2;
    house.exchange(PHONE, &party("miui.com"), counts(77));
    house.kill(900.0);
    (house.tables, house.boot, house.booted) = (2, 2, house.now - 60.0);
    house.kernel.clear();
    house.share();
    house.overflow(PHONE, counts(5));
    house.now += 300.0;
    house.exchange(PHONE, &party("miui.com"), counts(50));
    store.send(house.batch());
    flush(&store).unwrap();
    let mut all = written;
    all.add(&house.kernel[PHONE].2);
    assert_eq!(folder.total(PHONE), total(&all));
    assert_eq!(
        folder.text("SELECT start || ' ' || end || ' ' || reason || ' ' || lost FROM gap"),
        "2026-11-30T00:05:00Z 2026-11-30T00:20:00Z reboot 1"
    );
}

#[test]
fn a_history_that_begins_late_and_one_that_was_deleted_count_nothing_from_before() {
    let folder = Folder::new("late");
    let mut house = House::new("UTC", MONDAY);
    house.overflow(PHONE, counts(1_000_000));
    house.now += 600.0;
    house.start = house.now;
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    store.send(house.batch());
    house.now += 300.0;
    house.exchange(PHONE, &party("miui.com"), counts(50));
    house.exchange(LAPTOP, &party("example.net"), counts(60));
    store.send(house.batch());
    flush(&store).unwrap();
    assert_eq!(folder.total(PHONE), total(&counts(50)));
    for device in [Some(PHONE), None] {
        let (give, given) = channel();
        store.forget(device.map(str::to_owned), move |gone| {
            give.send(gone).unwrap();
        });
        assert_eq!(given.recv().unwrap(), Ok(true));
        assert_eq!(folder.total(PHONE), [0; 5]);
        let left = folder.total(LAPTOP)[0];
        assert_eq!(left, if device.is_some() { 60 } else { 0 });
    }
    for end in ["", "-wal"] {
        let octets = fs::read(folder.0.join(format!("{FILE}{end}"))).unwrap_or_default();
        for gone in [PHONE, LAPTOP, "miui.com", "example.net"] {
            let is_there = octets
                .windows(gone.len())
                .any(|part| part == gone.as_bytes());
            assert!(!is_there, "{gone} is in {FILE}{end}");
        }
    }
    house.now += 300.0;
    house.exchange(PHONE, &party("miui.com"), counts(3));
    store.send(house.batch());
    flush(&store).unwrap();
    assert_eq!(folder.total(PHONE), total(&counts(3)));
}

#[test]
fn devices_that_leave_take_their_counts_to_other_once() {
    let folder = Folder::new("leave");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    house.now += 60.0;
    house.exchange(PHONE, &party("miui.com"), counts(1_000));
    store.send(house.batch());
    house.now += 60.0;
    house.exchange(PHONE, &party("miui.com"), counts(200));
    house.overflow(PHONE, counts(30));
    house.leave(PHONE);
    // It comes back before the next batch.
    house.now += 10.0;
    house.exchange(PHONE, &party("miui.com"), counts(4));
    store.send(house.batch());
    flush(&store).unwrap();
    // The bytes without a party went with the record.
    let mut all = counts(1_000);
    all.add(&counts(200));
    all.add(&counts(4));
    assert_eq!(folder.total(PHONE), total(&all));
    assert_eq!(folder.total("other"), total(&counts(30)));
    // Without a daemon that tells of it: another record has the address.
    house.leave(PHONE);
    house.kill(60.0);
    house.overflow(PHONE, counts(9));
    store.send(house.batch());
    flush(&store).unwrap();
    all.add(&counts(9));
    assert_eq!(folder.total(PHONE), total(&all));
    assert_eq!(folder.total("other"), total(&counts(30)));
}

#[test]
fn hours_and_days_are_local_ones() {
    for (zone, first, days) in [
        // 5:30 ahead of UTC.
        ("Asia/Kolkata", MONDAY, vec![(24, 0)]),
        // Summer time begins on 2026-03-29, and ends on 2026-10-25.
        ("Europe/Berlin", 1_774_652_400.0, vec![(24, 0), (23, 1)]),
        ("Europe/Berlin", 1_792_792_800.0, vec![(24, 0), (25, 1)]),
    ] {
        let folder = Folder::new("local");
        let store = Store::start(settings(&folder.0, zone)).unwrap();
        let mut house = House::new(zone, first);
        store.send(house.batch());
        let mut sent = BTreeMap::new();
        for quarter in 0..4 * 24 * 3 {
            // As the daemon does: a batch does not go beyond its hour.
            house.now += 900.0 - 1.0;
            house.exchange(PHONE, &party("miui.com"), counts(1));
            let hour = house.zone.hour(house.now).unwrap();
            *sent.entry(hour.day).or_insert(0) += 1;
            store.send(house.batch());
            house.now += 1.0;
            house.start = house.now;
            if quarter % 4 == 3 {
                flush(&store).unwrap();
            }
        }
        flush(&store).unwrap();
        let reader = Reader::open(&folder.0).unwrap();
        let sums = reader.sums(None, 0, By::Day, |_| false).unwrap();
        let by_day: BTreeMap<_, _> = sums
            .into_iter()
            .map(|sum| (sum.of, sum.upload_bytes))
            .collect();
        assert_eq!(by_day, sent, "{zone}");
        for (hours, day) in days {
            // The first day is in part from before where midnight is not that of UTC.
            let day = by_day
                .keys()
                .nth(day + usize::from(zone == "Asia/Kolkata"))
                .unwrap();
            let count = format!("SELECT count(*) FROM device_hour WHERE day = '{day}'");
            assert_eq!(folder.number(&count), hours, "{zone} {day}");
            assert_eq!(by_day[day], 4 * hours, "{zone} {day}");
        }
        let minutes =
            folder.text("SELECT group_concat(DISTINCT substr(start, 15, 2)) FROM party_hour");
        let expected = if zone == "Asia/Kolkata" { "30" } else { "00" };
        assert_eq!(minutes, expected);
    }
}

#[test]
fn a_batch_of_an_unknown_clock_is_filed_as_a_time_and_in_no_hour() {
    let folder = Folder::new("clock");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY + 22.0 * HOUR);
    store.send(house.batch());
    house.now += 5.0 * HOUR;
    house.exchange(PHONE, &party("miui.com"), counts(100));
    store.send(house.batch());
    flush(&store).unwrap();
    assert_eq!(folder.total(PHONE), total(&counts(100)));
    assert_eq!(folder.number("SELECT count(*) FROM party_hour"), 0);
    assert_eq!(folder.number("SELECT count(*) FROM device_day"), 0);
    assert_eq!(
        folder
            .text("SELECT start || ' ' || end || ' ' || reason FROM gap WHERE device IS NOT NULL"),
        "2026-11-30T22:00:00Z 2026-12-01T03:00:00Z clock-unknown"
    );
}

#[test]
fn old_rows_go_and_days_and_months_stay() {
    let folder = Folder::new("old");
    let mut settings = settings(&folder.0, "UTC");
    settings.party_hours = Duration::from_hours(24 * 2);
    settings.device_hours = Duration::from_hours(24 * 4);
    settings.device_days = Duration::from_hours(24 * 10);
    let store = Store::start(settings).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    for _ in 0..20 * 24 {
        house.exchange(PHONE, &party("miui.com"), counts(1));
        house.now += HOUR - 1.0;
        store.send(house.batch());
        house.now += 1.0;
        house.start = house.now;
        flush(&store).unwrap();
    }
    let rows = |view: &str| folder.number(&format!("SELECT count(*) FROM {view}"));
    assert!(
        (48..=50).contains(&rows("party_hour")),
        "{}",
        rows("party_hour")
    );
    assert!(
        (96..=98).contains(&rows("device_hour")),
        "{}",
        rows("device_hour")
    );
    assert!(
        (10..=11).contains(&rows("device_day")),
        "{}",
        rows("device_day")
    );
    assert_eq!(rows("device_month"), 2);
    assert_eq!(
        folder.number("SELECT SUM(upload_bytes) FROM device_month"),
        480
    );
    assert_eq!(
        folder.text("SELECT first_seen FROM party_seen"),
        "2026-11-30T00:00:00Z"
    );
}

#[test]
fn ten_days_of_invented_names_of_one_device_leave_the_rows_of_others_alone() {
    let folder = Folder::new("names");
    let mut settings = settings(&folder.0, "UTC");
    settings.most_bytes = 1 << 20;
    let store = Store::start(settings).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    let mut name = 0;
    for hour in 0..240 {
        for _ in 0..200 {
            name += 1;
            house.exchange(PHONE, &party(&format!("{name}.example")), counts(1));
        }
        if hour % 2 == 0 {
            house.exchange(LAPTOP, &party("example.net"), counts(1));
        }
        house.now += HOUR - 1.0;
        store.send(house.batch());
        house.now += 1.0;
        house.start = house.now;
        flush(&store).unwrap();
        let most = "SELECT max(rows) FROM (SELECT count(*) AS rows FROM party_hours GROUP BY hour, device)";
        assert!(folder.number(most) <= MOST_PARTIES + 1);
    }
    let of = |device: &str| {
        folder.number(&format!(
            "SELECT count(*) FROM party_hour WHERE device = '{device}'"
        ))
    };
    assert_eq!(of(LAPTOP), 120);
    assert_eq!(folder.total(PHONE), total(&house.kernel[PHONE].2));
    assert!(of(PHONE) < 97 * 240);
    let state = store.state();
    assert!(
        state.rows_evicted > 0 && state.bytes <= 1 << 20,
        "{state:?}"
    );
    let evicted = |device: &str| {
        folder.number(&format!(
            "SELECT evicted FROM device_seen WHERE device = '{device}'"
        ))
    };
    assert_eq!(evicted(PHONE), state.rows_evicted as i64);
    assert_eq!(evicted(LAPTOP), 0);
}

#[test]
fn made_up_devices_share_the_rows_of_other() {
    let folder = Folder::new("devices");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    for device in 0..200 {
        house.exchange(
            &format!("06:00:00:00:00:{device:02x}"),
            &party("miui.com"),
            counts(1),
        );
    }
    house.now += 60.0;
    store.send(house.batch());
    flush(&store).unwrap();
    let devices = folder.number("SELECT count(*) FROM devices");
    assert!(devices <= MOST_NEW_DEVICES + 2, "{devices}");
    assert_eq!(
        folder.number("SELECT SUM(upload_bytes) FROM device_hour"),
        200
    );
}

#[test]
fn a_damaged_file_is_set_aside_and_a_file_of_another_program_is_not_touched() {
    let folder = Folder::new("damaged");
    fs::write(
        folder.file(),
        b"SQLite format 3\0 and then nothing of the kind".repeat(99),
    )
    .unwrap();
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    flush(&store).unwrap();
    let aside = store.state().set_aside.unwrap();
    assert!(aside.ends_with("history.db.damaged-1"), "{aside}");
    assert!(
        fs::read(&aside)
            .unwrap()
            .starts_with(b"SQLite format 3\0 and")
    );
    drop(store);
    // Page by page: some of it is found by the check, and none of it ends the daemon.
    let whole = fs::read(folder.file()).unwrap();
    for page in 1..whole.len() / 4_096 {
        let mut octets = whole.clone();
        octets[page * 4_096..(page + 1) * 4_096].fill(0xa5);
        fs::write(folder.file(), octets).unwrap();
        let store = Store::start(settings(&folder.0, "UTC")).unwrap();
        store.send(house.batch());
        flush(&store).unwrap();
        assert!(store.state().set_aside.is_some(), "page {page}");
    }

    let other = Folder::new("foreign");
    let connection = Connection::open(other.file()).unwrap();
    connection.pragma_update(None, "application_id", 7).unwrap();
    connection.execute("CREATE TABLE mine (x)", []).unwrap();
    drop(connection);
    let store = Store::start(settings(&other.0, "UTC")).unwrap();
    store.send(house.batch());
    let problem = flush(&store).unwrap_err();
    assert!(problem.contains("is of another program"), "{problem}");
    drop(store);
    assert_eq!(other.number("SELECT count(*) FROM mine"), 0);
}

#[test]
fn a_newer_file_is_left_alone() {
    let folder = Folder::new("newer");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    flush(&store).unwrap();
    drop(store);
    let connection = Connection::open(folder.file()).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    store.send(House::new("UTC", MONDAY).batch());
    let problem = flush(&store).unwrap_err();
    assert!(problem.contains("is of version 99"), "{problem}");
    assert_eq!(folder.number("SELECT count(*) FROM state"), 0);
}

#[test]
fn a_backup_is_whole_and_a_restored_one_adds_the_time_since_then() {
    let folder = Folder::new("backup");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    house.exchange(PHONE, &party("miui.com"), counts(100));
    house.now += 60.0;
    store.send(house.batch());
    flush(&store).unwrap();
    let backup = folder.0.join("backup.db");
    store::back_up(&folder.0, &backup).unwrap();
    let again = store::back_up(&folder.0, &backup).unwrap_err().to_string();
    assert!(again.contains("is there already"), "{again}");
    house.exchange(PHONE, &party("miui.com"), counts(11));
    house.now += 60.0;
    store.send(house.batch());
    flush(&store).unwrap();
    drop(store);
    let broken = folder.0.join("broken.db");
    fs::write(&broken, "no database").unwrap();
    assert!(store::restore(&folder.0, &broken).is_err());
    assert_eq!(folder.total(PHONE)[0], 111);
    store::restore(&folder.0, &backup).unwrap();
    assert_eq!(folder.total(PHONE)[0], 100);
    house.kill(600.0);
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    store.send(house.batch());
    flush(&store).unwrap();
    assert_eq!(folder.total(PHONE), total(&house.kernel[PHONE].2));
    assert_eq!(
        folder.number("SELECT upload_bytes FROM gap WHERE device = '02:00:00:00:00:01'"),
        11
    );
}

#[test]
fn a_directory_that_takes_nothing_stops_nobody_and_the_store_catches_up() {
    let folder = Folder::new("gone");
    let place = folder.0.join("disk");
    // A file is where the directory should be: root may write everywhere else.
    fs::write(&place, "").unwrap();
    let store = Store::start(settings(&place, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    for _ in 0..5 {
        house.exchange(PHONE, &party("miui.com"), counts(10));
        house.now += 60.0;
        store.send(house.batch());
        let problem = flush(&store).unwrap_err();
        assert!(problem.contains("cannot be made"), "{problem}");
    }
    assert!(store.state().problem.is_some() && store.state().failures > 0);
    fs::remove_file(&place).unwrap();
    flush(&store).unwrap();
    let disk = Folder(place);
    assert_eq!(disk.total(PHONE), total(&counts(10)).map(|count| 5 * count));
    assert_eq!(disk.number("SELECT count(*) FROM gap"), 0);
    assert_eq!(store.state().problem, None);
    // The file is deleted while it is open: a new one is begun, not one that nobody can see.
    fs::remove_dir_all(&disk.0).unwrap();
    house.exchange(PHONE, &party("miui.com"), counts(10));
    house.now += 60.0;
    store.send(house.batch());
    flush(&store).unwrap();
    assert_eq!(disk.total(PHONE), total(&counts(10)));
}

#[test]
fn hostile_names_are_text() {
    let folder = Folder::new("hostile");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    let names = [
        "'); DROP TABLE devices; --",
        "=HYPERLINK(\"http://x\")",
        "a\u{1b}[2J\n\u{202e}b",
        "\0",
        "%s",
    ];
    for name in names {
        house.exchange(PHONE, &party(name), counts(1));
    }
    house.now += 60.0;
    store.send(house.batch());
    flush(&store).unwrap();
    let reader = Reader::open(&folder.0).unwrap();
    let mut found = Vec::new();
    let export = reader.export(
        View::PartyHour,
        None,
        0,
        |_| false,
        |columns, cells| {
            let place = columns.iter().position(|column| column == "party").unwrap();
            if let Cell::Text(text) = &cells[place] {
                found.push(text.clone());
            }
            Ok(())
        },
    );
    export.unwrap();
    found.sort();
    let mut expected = names.map(str::to_owned);
    expected.sort();
    assert_eq!(found, expected);
    assert!(
        reader
            .devices("'; DROP TABLE devices; --")
            .unwrap()
            .is_empty()
    );
}

#[test]
fn names_of_sites_are_shown_only_where_the_configuration_says_so() {
    let folder = Folder::new("sites");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    let site = |name: &str| Party {
        kind: PartyKind::Site,
        ..party(name)
    };
    for device in [PHONE, LAPTOP] {
        house.exchange(device, &site("visited.example"), counts(10));
        house.exchange(device, &site("another.example"), counts(5));
    }
    house.now += 60.0;
    store.send(house.batch());
    flush(&store).unwrap();
    let reader = Reader::open(&folder.0).unwrap();
    let of = |shown: &[&str]| {
        let sums = reader.sums(None, 0, By::Party, |device| shown.contains(&device));
        let sums = sums.unwrap().into_iter();
        sums.map(|sum| (sum.of, sum.upload_bytes))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of(&[]),
        [("a site".to_owned(), 30)],
        "without a category, which tells a site too"
    );
    assert_eq!(
        of(&[PHONE]),
        [
            ("a site".to_owned(), 15),
            ("visited.example".to_owned(), 10),
            ("another.example".to_owned(), 5),
        ]
    );
    let mut text = String::new();
    let export = reader.export(
        View::PartySeen,
        None,
        0,
        |_| false,
        |_, cells| {
            text += &format!("{cells:?}");
            Ok(())
        },
    );
    export.unwrap();
    assert!(
        !text.contains("visited") && text.contains("a site"),
        "{text}"
    );
}

#[test]
fn a_party_has_the_stacks_by_which_a_device_reached_it() {
    let folder = Folder::new("stacks");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    let by = |stacks: &[&str]| Party {
        stacks: stacks.iter().copied().map(str::to_owned).collect(),
        ..party("t.vendor.example")
    };
    let of_phone = |reader: &Reader, since| -> Vec<String> {
        let phone = [PHONE.to_owned()];
        let sums = reader.sums(Some(&phone), since, By::Party, |_| false);
        sums.unwrap()
            .into_iter()
            .flat_map(|sum| sum.stacks)
            .collect()
    };
    house.exchange(PHONE, &by(&[BROWSER]), counts(10));
    house.exchange(LAPTOP, &by(&["d83cc789557e"]), counts(10));
    house.now += 60.0;
    store.send(house.batch());
    house.exchange(PHONE, &by(&[SYSTEM]), counts(10));
    house.now += 60.0;
    store.send(house.batch());
    flush(&store).unwrap();
    let reader = Reader::open(&folder.0).unwrap();
    assert_eq!(of_phone(&reader, 0), [BROWSER, SYSTEM]);
    // Of a stack that is not used any more, a later question is told nothing.
    for _ in 0..3 {
        house.now += 24.0 * HOUR;
        store.send(house.batch());
        house.exchange(PHONE, &by(&[SYSTEM]), counts(10));
        house.now += 60.0;
        store.send(house.batch());
    }
    flush(&store).unwrap();
    assert_eq!(of_phone(&reader, (house.now - HOUR) as i64), [SYSTEM]);
    assert_eq!(of_phone(&reader, 0), [BROWSER, SYSTEM]);
    // A device that makes stacks up has the latest few.
    let made_up: Vec<_> = (0..40).map(|number| format!("{number:012x}")).collect();
    for stacks in made_up.chunks(4) {
        let stacks: Vec<_> = stacks.iter().map(String::as_str).collect();
        house.exchange(PHONE, &by(&stacks), counts(10));
        house.now += 60.0;
        store.send(house.batch());
        flush(&store).unwrap();
    }
    assert_eq!(of_phone(&reader, 0), made_up[40 - MOST_STACKS..]);
    let others = "SELECT count(*) FROM party_stack WHERE stack = 'd83cc789557e'";
    assert_eq!(folder.number(others), 1);
    let (give, given) = channel();
    store.forget(Some(PHONE.to_owned()), move |gone| give.send(gone).unwrap());
    assert_eq!(given.recv().unwrap(), Ok(true));
    assert_eq!(folder.number("SELECT count(*) FROM stacks"), 1);
}

#[test]
fn a_party_that_follows_visits_has_a_row_for_each_day_of_a_look() {
    let folder = Folder::new("echoes");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    house.exchange(PHONE, &party("t.vendor.example"), counts(10));
    store.send(house.batch());
    let echo = |followed, withdrawn| Echo {
        name: "t.vendor.example".to_owned(),
        is_host: true,
        owner: None,
        category: None,
        found: MONDAY,
        withdrawn,
        visits: 100,
        followed,
        from: 12,
        to: 18,
        lag: 15,
        control: Some(0.0416),
        p: 1e-9,
        hypotheses: 61,
        since: MONDAY,
        until: MONDAY,
        reach: Reach::NearlyEverySite,
        at_least: None,
        stack: Stack::BesideThePage,
        beside: 90,
        told: 91,
    };
    let look = |house: &mut House, echo| {
        house.now += 600.0;
        house.echoes.insert(PHONE.to_owned(), vec![echo]);
        store.send(house.batch());
    };
    look(&mut house, echo(70, None));
    // The later look of a day counts, and a batch with an echo alone is written.
    look(&mut house, echo(82, None));
    flush(&store).unwrap();
    let reader = Reader::open(&folder.0).unwrap();
    let earlier = reader.echoes(PHONE).unwrap();
    let [found] = &*earlier else {
        panic!("{earlier:?}")
    };
    assert_eq!((&*found.found_on, found.followed), ("2026-11-30", 82));
    house.now += 24.0 * HOUR;
    store.send(house.batch());
    look(&mut house, echo(10, Some(MONDAY)));
    flush(&store).unwrap();
    let connection = Connection::open(folder.0.join(FILE)).unwrap();
    let mut rows = connection
        .prepare("SELECT day, recipient, followed, control_permille, reach, verdict FROM echo_day ORDER BY day")
        .unwrap();
    let rows: Vec<(String, String, i64, i64, String, String)> = rows
        .query_map([], |row| {
            let text = |at| row.get::<_, String>(at);
            Ok((
                text(0)?,
                text(1)?,
                row.get(2)?,
                row.get(3)?,
                text(4)?,
                text(5)?,
            ))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let row = |day: &str, followed, verdict: &str| {
        let [day, name, reach] = [day, "t.vendor.example", "nearly-every-site"].map(str::to_owned);
        (day, name, followed, 42, reach, verdict.to_owned())
    };
    let expected = [
        row("2026-11-30", 82, "found"),
        row("2026-12-01", 10, "withdrawn"),
    ];
    assert_eq!(rows, expected);
    // It was withdrawn since.
    assert_eq!(reader.echoes(PHONE).unwrap(), []);
    let (give, given) = channel();
    store.forget(Some(PHONE.to_owned()), move |gone| give.send(gone).unwrap());
    assert_eq!(given.recv().unwrap(), Ok(true));
    assert_eq!(folder.number("SELECT count(*) FROM echoes"), 0);
}

#[test]
fn policies_are_tried_on_the_history() {
    let folder = Folder::new("trial");
    let store = Store::start(settings(&folder.0, "UTC")).unwrap();
    let mut house = House::new("UTC", MONDAY);
    store.send(house.batch());
    house.exchange(PHONE, &party("tracker.example"), counts(10));
    house.exchange(PHONE, &party("other.example"), counts(20));
    house.exchange(PHONE, &Party::all_of(PartyKind::Sites), counts(30));
    house.exchange(LAPTOP, &party("tracker.example"), counts(40));
    house.now += 60.0;
    store.send(house.batch());
    drop(store);
    let path = |name: &str| folder.0.join(name);
    let base = format!(
        "[[interface]]\nname = \"lan0\"\n[daemon]\nstate_directory = \"{0}\"\nruntime_directory = \"{0}/run\"\n\
         [[list]]\nfile = \"{0}/own.txt\"\ncategory = \"telemetry\"\n\
         [[device]]\nmac = \"{PHONE}\"\nname = \"phone\"\n",
        folder.0.display()
    );
    fs::write(path("own.txt"), "tracker.example\nother.example\n").unwrap();
    fs::write(path("sensor.toml"), &base).unwrap();
    let tried = format!(
        "{base}[[policy]]\nname = \"no-tracker\"\ndevices = [\"phone\"]\ndomains = [\"tracker.example\"]\n\
         action = \"reject\"\n"
    );
    fs::write(path("tried.toml"), tried).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_sensor"))
        .arg("--config")
        .arg(path("sensor.toml"))
        .args(["policy", "try", "--since", "3650d", "--json"])
        .arg(path("tried.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let [phone, laptop] = &told.as_array().unwrap()[..] else {
        panic!("{told:#}");
    };
    let flows = |pointer: &str| phone.pointer(pointer).and_then(serde_json::Value::as_u64);
    assert_eq!(phone["refused"].as_array().unwrap().len(), 1, "{told:#}");
    assert_eq!(phone["refused"][0]["party"], "tracker.example");
    assert_eq!(phone["refused"][0]["policy"], "no-tracker");
    assert_eq!(phone["refused"][0]["upload_bytes"], 10);
    assert_eq!(flows("/cannot_be_told/upload_bytes"), Some(30), "sites");
    assert_eq!(flows("/all/upload_bytes"), Some(60));
    assert_eq!(laptop["refused"].as_array().unwrap().len(), 0);
    assert_eq!(laptop["cannot_be_told"]["flows"], 0);
}

/// A step of a household.
#[derive(Clone, Debug)]
enum Step {
    Exchange(u8, u8, u16),
    Overflow(u8, u16),
    Leave(u8),
    Batch(u16),
    /// A batch that finds no room in the queue.
    Lost(u16),
    Kill(u16),
    Reboot(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u8, 0..4_u8, any::<u16>()).prop_map(|(device, with, bytes)| Step::Exchange(device, with, bytes)),
        2 => (0..4_u8, any::<u16>()).prop_map(|(device, bytes)| Step::Overflow(device, bytes)),
        1 => (0..4_u8).prop_map(Step::Leave),
        4 => (1..20_000_u16).prop_map(Step::Batch),
        1 => (1..20_000_u16).prop_map(Step::Lost),
        1 => any::<u16>().prop_map(Step::Kill),
        1 => any::<u16>().prop_map(Step::Reboot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Over all devices together the rows are what the kernel counted, but for the last batch before each boot.
    #[test]
    fn the_sums_are_those_of_the_kernel(steps in prop::collection::vec(step(), 1..40)) {
        let folder = Folder::new("sums");
        let store = Store::start(settings(&folder.0, "Asia/Kolkata")).unwrap();
        let mut house = House::new("Asia/Kolkata", MONDAY);
        store.send(house.batch());
        let all = |house: &House| {
            let mut all = Counts::default();
            for (.., counts) in house.kernel.values() {
                all.add(counts);
            }
            all
        };
        // Counts of earlier boots that were written, and of this one.
        let (mut before, mut written) = (Counts::default(), Counts::default());
        for step in steps {
            match step {
                Step::Exchange(device, with, bytes) => {
                    let with = party(&format!("{with}.example"));
                    house.exchange(&format!("02:00:00:00:00:{device:02x}"), &with, counts(bytes.into()));
                }
                Step::Overflow(device, bytes) => {
                    house.overflow(&format!("02:00:00:00:00:{device:02x}"), counts(bytes.into()));
                }
                Step::Leave(device) => house.leave(&format!("02:00:00:00:00:{device:02x}")),
                Step::Batch(seconds) => {
                    house.now += f64::from(seconds);
                    store.send(house.batch());
                    flush(&store).unwrap();
                    written = all(&house);
                }
                Step::Lost(seconds) => {
                    house.now += f64::from(seconds);
                    drop(house.batch());
                }
                Step::Kill(seconds) => house.kill(seconds.into()),
                Step::Reboot(seconds) => {
                    before.add(&written);
                    written = Counts::default();
                    house.kill(seconds.into());
                    house.tables += 1;
                    house.boot += 1;
                    house.booted = house.now;
                    house.kernel.clear();
                    house.share();
                }
            }
        }
        house.now += 1.0;
        store.send(house.batch());
        flush(&store).unwrap();
        before.add(&all(&house));
        let sum = |column: &str| folder.number(&format!(
            "SELECT (SELECT coalesce(SUM({column}), 0) FROM device_hour) + (SELECT coalesce(SUM({column}), 0) FROM gap)"
        ));
        let columns = ["upload_bytes", "download_bytes", "upload_packets", "download_packets", "flows"];
        prop_assert_eq!(columns.map(sum), total(&before));
        // Each hour of a device is the sum of its parties.
        let differs = "SELECT count(*) FROM device_hours d WHERE upload_bytes <> (SELECT SUM(upload_bytes) \
                       FROM party_hours p WHERE p.hour = d.hour AND p.device = d.device)";
        prop_assert_eq!(folder.number(differs), 0);
        prop_assert_eq!(folder.text("PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn a_report_has_the_totals_of_the_kernel_and_says_what_changed() {
    let folder = Folder::new("report");
    let store = Store::start(settings(&folder.0, "Europe/Berlin")).unwrap();
    let mut house = House::new("Europe/Berlin", MONDAY - 72.0 * HOUR);
    store.send(house.batch());
    let xiaomi = party("miui.com");
    let new = Party {
        country: Some("RU".into()),
        ..party("mistat.example")
    };
    let sites = Party::all_of(PartyKind::Sites);
    let mut at_begin = Counts::default();
    for hour in 0..72 {
        if hour == 48 {
            at_begin = house.kernel[PHONE].2;
        }
        house.now += HOUR - 1.0;
        house.exchange(PHONE, &xiaomi, counts(1_000));
        house.exchange(PHONE, &sites, counts(5_000));
        house.exchange(LAPTOP, &sites, counts(70_000));
        if hour >= 50 {
            house.exchange(PHONE, &new, counts(2 << 20));
        }
        store.send(house.batch());
        flush(&store).unwrap();
        house.now += 1.0;
        house.start = house.now;
    }
    // Nobody looks for a while; the kernel counts on.
    house.kill(HOUR);
    house.overflow(PHONE, counts(333));
    house.now += 60.0;
    store.send(house.batch());
    flush(&store).unwrap();

    let reader = Reader::open(&folder.0).unwrap();
    let zone = Zone::named(Some("Europe/Berlin"));
    let wanted = Wanted {
        device: PHONE,
        name: Some("Anna's phone"),
        since: MONDAY as i64 - 24 * 3_600,
        now: house.now as i64,
        zone: &zone,
        shows_sites: false,
    };
    let report = report::make(&reader, &wanted, Live::default()).unwrap();
    let kernel = total(&house.kernel[PHONE].2);
    let begin = total(&at_begin);
    assert_eq!(
        [report.total.upload_bytes, report.total.download_bytes],
        [0, 1].map(|place| (kernel[place] - begin[place]) as u64)
    );
    assert_eq!(report.total.flows, (kernel[4] - begin[4]) as u64);
    let hours: u64 = report.days.iter().map(|day| day.amounts.upload_bytes).sum();
    assert_eq!(hours, 24 * 6_000 + 22 * (2 << 20));
    let telemetry: u64 = report
        .days
        .iter()
        .map(|day| day.telemetry_upload_bytes)
        .sum();
    assert_eq!(telemetry, 24 * 1_000 + 22 * (2 << 20));
    // 2026-11-29 from one o'clock in Berlin, and the first hour of the 30th.
    let days: Vec<_> = report.days.iter().map(|day| &*day.day).collect();
    assert_eq!(days, ["2026-11-29", "2026-11-30"]);
    let owners: Vec<_> = report.owners.iter().map(|row| &*row.owner).collect();
    assert_eq!(owners, ["Xiaomi", "websites, by names that are not kept"]);
    assert_eq!(report.owners[0].parties, ["mistat.example", "miui.com"]);
    assert_eq!(report.owners[0].countries, ["CN", "RU"]);
    assert!(report.owners[1].is_no_party);
    assert_eq!(report.gaps.len(), 1);
    assert_eq!(report.before.unwrap().upload_bytes, 25 * 6_000);
    let new = report.changes.iter().any(
        |change| matches!(change, Change::NewParty { party, .. } if party == "mistat.example"),
    );
    let country = report
        .changes
        .iter()
        .any(|change| matches!(change, Change::NewCountry { country, .. } if country == "RU"));
    let more = report.changes.iter().any(|change| {
        matches!(change, Change::MoreToOwner { owner, before: 25_000, .. } if owner == "Xiaomi")
    });
    assert!(new && country && more, "{:?}", report.changes);
    assert_eq!(report.sentences.len(), 3);
    assert!(
        report.sentences[0].contains("none runs"),
        "{:?}",
        report.sentences
    );
    assert!(
        report.sentences[1].contains("Xiaomi (CN, RU)"),
        "{:?}",
        report.sentences
    );

    // A history that does not reach back tells of no change.
    let long = Wanted {
        since: MONDAY as i64 - 70 * 3_600,
        ..wanted
    };
    let report = report::make(&reader, &long, Live::default()).unwrap();
    assert_eq!((report.before, report.changes.len()), (None, 0));
}
