//! Batches become rows: each in one transaction, with the kernel's positions that it accounts for.
//!
//! A device's position grew by so much since the last commit; what no party of the batch has of that is
//! unattributed. So the sums of a device are those of the kernel whatever was lost in between: the daemon, a
//! batch, the names of flows.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};

use super::Settings;
use crate::model::history::{Batch, Counts, DeviceBatch, Hour, MOST_STACKS, Party, PartyKind};

/// The most parties of a device in an hour; further ones are the party `other`.
pub const MOST_PARTIES: i64 = 96;

/// The most devices that get rows of their own in a day for the first time; further ones share those of `other`.
pub const MOST_NEW_DEVICES: i64 = 64;

/// The most parties of a device of which the first and the last time is kept; those that are longest ago go.
pub const MOST_SEEN: i64 = 4_096;

/// Seconds between the end of a batch and the start of the next one that are no gap.
const TOLERANCE: f64 = 2.0;

/// The shared record of devices that left, and of those without a place.
const OTHER: &str = "other";

/// The shared record of group addresses.
const MULTICAST: &str = "multicast";

/// Seconds to which the last time of a party is exact: within the weeks of its hours, these are exact to one.
pub(super) const SEEN_EVERY: i64 = 24 * HOUR;

/// Seconds of an hour.
const HOUR: i64 = 3_600;

/// The result of a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Committed {
    /// Whether there was anything to write.
    pub(super) is_written: bool,
    /// Whether an hour, and a day, is over with it.
    pub(super) hour_is_over: bool,
    pub(super) day_is_over: bool,
}

/// The state after the last commit.
struct Before {
    tables: String,
    boot: String,
    end: f64,
    since_boot: f64,
}

/// The time to which unattributed bytes belong, where that is no hour.
struct Gap {
    id: i64,
    /// The local day and month in which it lies, where that is one.
    day: Option<String>,
    month: Option<String>,
}

/// Writes a batch. `until` is the end of the last batch that was committed or had nothing to write.
pub(super) fn commit(
    connection: &mut Connection,
    settings: &Settings,
    batch: &Batch,
    until: f64,
) -> rusqlite::Result<Committed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut commit = Commit::begin(&transaction, settings, batch)?;
    if commit.changes_nothing(until)? {
        // Flash wears by every write, and a household sleeps.
        return Ok(Committed::default());
    }
    commit.find_gap(until)?;
    let committed = commit.run()?;
    transaction.commit()?;
    Ok(committed)
}

struct Commit<'a> {
    on: &'a Transaction<'a>,
    settings: &'a Settings,
    batch: &'a Batch,
    before: Option<Before>,
    /// The positions that the file accounts for, with the numbers by which their records are told from earlier ones.
    positions: HashMap<String, (i64, Counts)>,
    /// As the file has them: without the rows of the hour that is not over.
    stored: HashMap<String, (i64, Amounts)>,
    gap: Option<Gap>,
    /// Whether the batch's hour is part of days and months already.
    is_rolled: bool,
}

impl<'a> Commit<'a> {
    fn begin(
        on: &'a Transaction<'a>,
        settings: &'a Settings,
        batch: &'a Batch,
    ) -> rusqlite::Result<Self> {
        let before = on
            .prepare_cached("SELECT tables, boot, end, since_boot FROM state")?
            .query_row([], |row| {
                Ok(Before {
                    tables: row.get(0)?,
                    boot: row.get(1)?,
                    end: row.get(2)?,
                    since_boot: row.get(3)?,
                })
            })
            .optional()?;
        let mut commit = Self {
            on,
            settings,
            batch,
            before,
            positions: HashMap::new(),
            stored: HashMap::new(),
            gap: None,
            is_rolled: false,
        };
        if !commit.counts_anew() {
            commit.stored = stored_positions(on)?;
            let open = open_hour(on)?;
            let with_open = |(device, (began, stored)): (&String, &(i64, Amounts))| {
                let open = open.get(device).copied().unwrap_or_default();
                let position =
                    position([0, 1, 2, 3, 4].map(|at| stored[at].wrapping_add(open[at])));
                (device.clone(), (*began, position))
            };
            commit.positions = commit.stored.iter().map(with_open).collect();
        }
        Ok(commit)
    }

    /// Whether the file has everything of the batch already.
    fn changes_nothing(&self, until: f64) -> rusqlite::Result<bool> {
        let Some(before) = &self.before else {
            return Ok(false);
        };
        let (batch, of) = (self.batch, &self.batch.of);
        let is_same = |device: &DeviceBatch| {
            let known = self.positions.get(&device.device);
            let position = known.map(|(began, position)| (*began, *position));
            device.parties.is_empty()
                && device.echoes.is_empty()
                && position
                    == device
                        .position
                        .map(|position| (device.began as i64, position))
        };
        if batch.is_first
            || batch.is_last
            || batch.hour.is_none()
            || self.counts_anew()
            || batch.start - before.end.max(until) > TOLERANCE
            || !of.unrecorded.is_empty()
            || !of.moved.is_zero()
            || of.devices.len() != self.positions.len()
            || !of.devices.iter().all(is_same)
        {
            return Ok(false);
        }
        let hour = batch.hour.as_ref().map_or(0, |hour| hour.start);
        let others = self
            .on
            .prepare_cached("SELECT 1 FROM hours WHERE rolled = 0 AND hour <> ?1")?
            .exists([hour])?;
        Ok(!others)
    }

    /// Whether the kernel's tables were made since the last commit.
    fn counts_anew(&self) -> bool {
        let before = self.before.as_ref();
        before.is_some_and(|before| before.tables != self.batch.tables)
    }

    fn run(mut self) -> rusqlite::Result<Committed> {
        let mut committed = Committed {
            is_written: true,
            ..Committed::default()
        };
        if self.counts_anew() {
            self.on.execute("DELETE FROM positions", [])?;
        }
        if let Some(hour) = &self.batch.hour {
            (committed.hour_is_over, committed.day_is_over) = self.enter_hour(hour)?;
        }
        let of = &self.batch.of;
        for device in &of.unrecorded {
            if self.positions.remove(device).is_some() {
                self.forget_position(device)?;
            }
        }
        let mut moved = of.moved;
        for device in of.devices.iter().filter(|device| device.position.is_none()) {
            moved.add(&self.file_left(device)?);
        }
        moved.add(&self.take_positions_of_gone()?);
        if !moved.is_zero() {
            let other = self.positions.entry(OTHER.to_owned()).or_default();
            other.1.add(&moved);
        }
        for device in &of.devices {
            if let Some(position) = &device.position {
                self.file(device, position)?;
            }
        }
        self.write_positions()?;
        self.on
            .prepare_cached(
                "INSERT INTO state (id, tables, boot, end, since_boot, evicted) VALUES (1, ?1, ?2, ?3, ?4, 0) \
                 ON CONFLICT DO UPDATE SET tables = ?1, boot = ?2, end = ?3, since_boot = ?4",
            )?
            .execute(params![
                self.batch.tables,
                self.batch.boot,
                self.batch.end,
                self.batch.since_boot
            ])?;
        Ok(committed)
    }

    /// Finds out whether the batch begins later than the last one ended, and notes that time and the reason.
    fn find_gap(&mut self, until: f64) -> rusqlite::Result<()> {
        let batch = self.batch;
        let mut gap = None;
        if let Some(before) = &self.before {
            let end = before.end.max(until);
            let reason = match (self.counts_anew(), batch.is_first) {
                (true, _) if before.boot != batch.boot => Some("reboot"),
                (true, _) => Some("tables-made-anew"),
                (false, true) => Some("no-daemon"),
                (false, false) if batch.start - end > TOLERANCE => Some("batch-lost"),
                (false, false) => None,
            };
            gap = reason.map(|reason| (end, batch.start, reason));
        }
        if batch.hour.is_none() {
            let start = gap.map_or(batch.start, |(start, ..)| start);
            gap = Some((start, batch.end, "clock-unknown"));
        }
        let Some((start, end, reason)) = gap else {
            return Ok(());
        };
        // After a step of the clock a gap may end before it begins.
        let start = start.min(end);
        self.on
            .prepare_cached("INSERT INTO gaps (start, end, reason, lost) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                start as i64,
                end as i64,
                reason,
                self.counts_anew()
            ])?;
        let id = self.on.last_insert_rowid();
        let [first, last] = [start, end].map(|time| (self.settings.calendar)(time));
        let day = match (first, last) {
            (Some(first), Some(last)) => Some((first.day, last.day)),
            _ => None,
        };
        let month = |(first, last): &(String, String)| {
            let months = [first, last].map(|day| day.get(..7).map(str::to_owned));
            let [first, last] = months;
            first.filter(|first| Some(first) == last.as_ref())
        };
        self.gap = Some(Gap {
            id,
            month: day.as_ref().and_then(month),
            day: day.and_then(|(first, last)| (first == last).then_some(first)),
        });
        Ok(())
    }

    /// Notes the hour of the batch, and adds the hours that are over to their days and months.
    fn enter_hour(&mut self, hour: &Hour) -> rusqlite::Result<(bool, bool)> {
        let latest: Option<(i64, String)> = self
            .on
            .prepare_cached("SELECT hour, day FROM hours ORDER BY hour DESC LIMIT 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        self.on
            .prepare_cached("INSERT OR IGNORE INTO hours (hour, day, rolled) VALUES (?1, ?2, 0)")?
            .execute(params![hour.start, hour.day])?;
        self.is_rolled = self
            .on
            .prepare_cached("SELECT rolled FROM hours WHERE hour = ?1")?
            .query_row([hour.start], |row| row.get(0))?;
        let over = self
            .on
            .prepare_cached("SELECT count(*) FROM hours WHERE rolled = 0 AND hour <> ?1")?
            .query_row([hour.start], |row| row.get::<_, i64>(0))?;
        if over == 0 {
            return Ok((false, false));
        }
        for (table, key, column) in [
            ("device_days", "h.day", "day"),
            ("device_months", "substr(h.day, 1, 7)", "month"),
        ] {
            let sums = COLUMNS.map(|column| format!("SUM(t.{column})")).join(", ");
            let roll = format!(
                "INSERT INTO {table} ({column}, device, {}) SELECT {key}, t.device, {sums} \
                 FROM hours h JOIN device_hours t ON t.hour = h.hour \
                 WHERE h.rolled = 0 AND h.hour <> ?1 GROUP BY {key}, t.device \
                 ON CONFLICT DO UPDATE SET {}",
                COLUMNS.join(", "),
                added_up(table)
            );
            self.on.prepare_cached(&roll)?.execute([hour.start])?;
        }
        self.on
            .prepare_cached("UPDATE hours SET rolled = 1 WHERE rolled = 0 AND hour <> ?1")?
            .execute([hour.start])?;
        let is_new_day = latest.is_some_and(|(_, day)| day != hour.day);
        Ok((true, is_new_day))
    }

    /// Files the parties of a device that left the kernel's table, and gives the counts that those of `other`
    /// have of it.
    fn file_left(&mut self, device: &DeviceBatch) -> rusqlite::Result<Counts> {
        let (_, mut position) = self.positions.remove(&device.device).unwrap_or_default();
        self.forget_position(&device.device)?;
        for (_, counts) in &device.parties {
            position.add(counts);
        }
        self.file_parties(device, &Counts::default())?;
        Ok(position)
    }

    /// The positions of devices that are not in the kernel's table any more, or whose record there is another:
    /// their counts are in those of `other`.
    fn take_positions_of_gone(&mut self) -> rusqlite::Result<Counts> {
        let devices = self.batch.of.devices.iter();
        let there = devices.filter(|device| device.position.is_some());
        let there: HashSet<_> = there
            .map(|device| (device.device.as_str(), device.began as i64))
            .collect();
        let gone: Vec<_> = self
            .positions
            .iter()
            .filter(|(device, (began, _))| {
                let is_shared = matches!(device.as_str(), OTHER | MULTICAST);
                !is_shared && !there.contains(&(device.as_str(), *began))
            })
            .map(|(device, _)| device.clone())
            .collect();
        let mut moved = Counts::default();
        for device in gone {
            if let Some((_, position)) = self.positions.remove(&device) {
                moved.add(&position);
            }
            self.forget_position(&device)?;
        }
        Ok(moved)
    }

    fn forget_position(&mut self, device: &str) -> rusqlite::Result<()> {
        self.stored.remove(device);
        self.on
            .prepare_cached("DELETE FROM positions WHERE device = ?1")?
            .execute([device])?;
        Ok(())
    }

    /// Files a device that is in the kernel's table.
    fn file(&mut self, device: &DeviceBatch, position: &Counts) -> rusqlite::Result<()> {
        let mut by_parties = Counts::default();
        for (_, counts) in &device.parties {
            by_parties.add(counts);
        }
        let before = match self.positions.get(&device.device) {
            Some((_, before)) => *before,
            // Its counts up to the last commit belong to nobody: they were forgotten, or are from before the
            // history began.
            None if device.began_at < self.accounted_to() => position.without(&by_parties),
            None => Counts::default(),
        };
        let unattributed = position.without(&before).without(&by_parties);
        self.file_parties(device, &unattributed)?;
        self.file_echoes(device)?;
        let written = (device.began as i64, *position);
        self.positions.insert(device.device.clone(), written);
        Ok(())
    }

    /// Writes the positions that changed beside what the rows of the present hour say of them: of most devices, none
    /// until the hour is over.
    fn write_positions(&self) -> rusqlite::Result<()> {
        let open = open_hour(self.on)?;
        for (device, (began, position)) in &self.positions {
            let open = open.get(device).copied().unwrap_or_default();
            let all = amounts_of(position);
            let stored = [0, 1, 2, 3, 4].map(|at| all[at].wrapping_sub(open[at]));
            if self.stored.get(device) == Some(&(*began, stored)) {
                continue;
            }
            let [upload, download, upload_packets, download_packets, flows] = stored;
            self.on
                .prepare_cached(
                    "INSERT INTO positions (device, began, upload_bytes, download_bytes, upload_packets, \
                     download_packets, flows) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET \
                     began = ?2, upload_bytes = ?3, download_bytes = ?4, upload_packets = ?5, \
                     download_packets = ?6, flows = ?7",
                )?
                .execute(params![
                    device,
                    began,
                    upload,
                    download,
                    upload_packets,
                    download_packets,
                    flows
                ])?;
        }
        Ok(())
    }

    /// The steady time up to which everything is accounted for.
    fn accounted_to(&self) -> f64 {
        let batch = self.batch;
        match &self.before {
            Some(_) if self.counts_anew() => f64::NEG_INFINITY,
            Some(before) => batch.steady - (batch.since_boot - before.since_boot),
            None => batch.steady - (batch.end - batch.start),
        }
    }

    /// Writes the rows of a device: its parties, and the bytes that no party has.
    fn file_parties(&self, device: &DeviceBatch, unattributed: &Counts) -> rusqlite::Result<()> {
        if device.parties.is_empty() && unattributed.is_zero() {
            return Ok(());
        }
        let id = self.device(device)?;
        let mut of_hour = Counts::default();
        let mut of_gap = Counts::default();
        let hour = self.batch.hour.as_ref();
        if let Some(hour) = hour {
            let mut rows = self.rows(hour, id)?;
            for (party, counts) in &device.parties {
                self.file_party(hour, id, party, counts, &mut rows)?;
                of_hour.add(counts);
            }
        } else {
            for (_, counts) in &device.parties {
                of_gap.add(counts);
            }
        }
        match (&self.gap, hour) {
            (None, Some(hour)) if !unattributed.is_zero() => {
                let party = Party::all_of(PartyKind::Unattributed);
                self.file_party(hour, id, &party, unattributed, &mut 0)?;
                of_hour.add(unattributed);
            }
            _ => of_gap.add(unattributed),
        }
        if let Some(hour) = hour
            && !of_hour.is_zero()
        {
            self.add("device_hours", &["hour"], &[&hour.start], id, &of_hour)?;
            if self.is_rolled {
                let month = hour.day.get(..7).unwrap_or_default();
                self.add("device_days", &["day"], &[&hour.day], id, &of_hour)?;
                self.add("device_months", &["month"], &[&month], id, &of_hour)?;
            }
        }
        if let Some(gap) = &self.gap
            && !of_gap.is_zero()
        {
            self.add("gap_devices", &["gap"], &[&gap.id], id, &of_gap)?;
            if let Some(day) = &gap.day {
                self.add("device_days", &["day"], &[day], id, &of_gap)?;
            }
            if let Some(month) = &gap.month {
                self.add("device_months", &["month"], &[month], id, &of_gap)?;
            }
        }
        Ok(())
    }

    /// The rows of parties that a device has in an hour.
    fn rows(&self, hour: &Hour, device: i64) -> rusqlite::Result<i64> {
        self.on
            .prepare_cached("SELECT count(*) FROM party_hours WHERE hour = ?1 AND device = ?2")?
            .query_row([hour.start, device], |row| row.get(0))
    }

    fn file_party(
        &self,
        hour: &Hour,
        device: i64,
        party: &Party,
        counts: &Counts,
        rows: &mut i64,
    ) -> rusqlite::Result<()> {
        let mut id = self.known_party(party)?;
        let has_row = match id {
            Some(id) => self
                .on
                .prepare_cached(
                    "SELECT 1 FROM party_hours WHERE hour = ?1 AND device = ?2 AND party = ?3",
                )?
                .exists([hour.start, device, id])?,
            None => false,
        };
        let is_named = matches!(party.kind, PartyKind::Party | PartyKind::Site);
        let is_surplus = !has_row && is_named && *rows >= MOST_PARTIES;
        if is_surplus {
            id = Some(self.party(&Party::all_of(PartyKind::Other))?);
        } else if !has_row {
            *rows += 1;
        }
        let id = match id {
            Some(id) => id,
            None => self.party(party)?,
        };
        self.add(
            "party_hours",
            &["hour", "party"],
            &[&hour.start, &id],
            device,
            counts,
        )?;
        let now = self.batch.end as i64;
        self.on
            .prepare_cached(
                "INSERT INTO seen (device, party, first_seen, last_seen) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT DO UPDATE SET last_seen = ?4 WHERE last_seen <= ?4 - ?5",
            )?
            .execute(params![device, id, hour.start.min(now), now, SEEN_EVERY])?;
        if is_named && !is_surplus {
            self.file_stacks(device, id, &party.stacks)?;
        }
        Ok(())
    }

    /// Writes the rows of the day about parties that follow visits. Without a day there are none: the next look has
    /// them.
    fn file_echoes(&self, device: &DeviceBatch) -> rusqlite::Result<()> {
        let Some(hour) = &self.batch.hour else {
            return Ok(());
        };
        if device.echoes.is_empty() {
            return Ok(());
        }
        let id = self.device(device)?;
        for echo in &device.echoes {
            let verdict = match echo.withdrawn {
                Some(_) => "withdrawn",
                None => "found",
            };
            self.on
                .prepare_cached(
                    "INSERT OR REPLACE INTO echoes (day, device, recipient, is_host, visits, followed, \
                     control_permille, lag, beside, told, reach, verdict) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                )?
                .execute(params![
                    hour.day,
                    id,
                    echo.name,
                    echo.is_host,
                    echo.visits,
                    echo.followed,
                    echo.control.map(|control| (1_000.0 * control).round() as i64),
                    echo.lag,
                    echo.beside,
                    echo.told,
                    echo.reach.name(),
                    verdict,
                ])?;
        }
        Ok(())
    }

    /// Notes the TLS stacks by which a device reached a party. Of too many, those that are longest ago go.
    fn file_stacks(&self, device: i64, party: i64, stacks: &[String]) -> rusqlite::Result<()> {
        let now = self.batch.end as i64;
        for stack in stacks {
            let written = self
                .on
                .prepare_cached(
                    "INSERT INTO stacks (device, party, stack, first_seen, last_seen) VALUES (?1, ?2, ?3, ?4, ?4) \
                     ON CONFLICT DO UPDATE SET last_seen = ?4 WHERE last_seen <= ?4 - ?5",
                )?
                .execute(params![device, party, stack, now, SEEN_EVERY])?;
            if written > 0 {
                self.on
                    .prepare_cached(
                        "DELETE FROM stacks WHERE device = ?1 AND party = ?2 AND stack IN (SELECT stack FROM stacks \
                         WHERE device = ?1 AND party = ?2 ORDER BY last_seen DESC LIMIT -1 OFFSET ?3)",
                    )?
                    .execute(params![device, party, MOST_STACKS as i64])?;
            }
        }
        Ok(())
    }

    fn known_party(&self, party: &Party) -> rusqlite::Result<Option<i64>> {
        let category = party.category.unwrap_or_default();
        self.on
            .prepare_cached(
                "SELECT id FROM parties WHERE party = ?1 AND category = ?2 AND kind = ?3",
            )?
            .query_row(params![&*party.name, category, party.kind.name()], |row| {
                row.get(0)
            })
            .optional()
    }

    fn party(&self, party: &Party) -> rusqlite::Result<i64> {
        if let Some(id) = self.known_party(party)? {
            return Ok(id);
        }
        self.on
            .prepare_cached(
                "INSERT INTO parties (kind, party, category, owner, country) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                party.kind.name(),
                &*party.name,
                party.category.unwrap_or_default(),
                party.owner.as_deref(),
                party.country.as_deref(),
            ])?;
        Ok(self.on.last_insert_rowid())
    }

    /// The number of the device to which rows belong; that of `other` for one too many new ones.
    fn device(&self, device: &DeviceBatch) -> rusqlite::Result<i64> {
        let now = self.batch.end as i64;
        let known: Option<(i64, Option<String>)> = self
            .on
            .prepare_cached("SELECT id, name FROM devices WHERE device = ?1")?
            .query_row([&device.device], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((id, name)) = known else {
            let is_shared = matches!(device.device.as_str(), OTHER | MULTICAST);
            if !is_shared && self.new_devices()? >= MOST_NEW_DEVICES {
                return self.device(&DeviceBatch {
                    device: OTHER.to_owned(),
                    name: None,
                    began: 0,
                    began_at: 0.0,
                    position: None,
                    parties: Vec::new(),
                    echoes: Vec::new(),
                });
            }
            self.on
                .prepare_cached(
                    "INSERT INTO devices (device, name, first_seen, last_seen, evicted) \
                     VALUES (?1, ?2, ?3, ?4, 0)",
                )?
                .execute(params![
                    device.device,
                    device.name,
                    self.batch.start as i64,
                    now
                ])?;
            return Ok(self.on.last_insert_rowid());
        };
        if device.name.is_some() && device.name != name {
            self.on
                .prepare_cached("UPDATE devices SET name = ?2 WHERE id = ?1")?
                .execute(params![id, device.name])?;
        }
        self.on
            .prepare_cached(
                "UPDATE devices SET last_seen = ?2 WHERE id = ?1 AND last_seen <= ?2 - ?3",
            )?
            .execute([id, now, HOUR])?;
        Ok(id)
    }

    fn new_devices(&self) -> rusqlite::Result<i64> {
        self.on
            .prepare_cached("SELECT count(*) FROM devices WHERE first_seen > ?1")?
            .query_row([self.batch.end as i64 - 24 * HOUR], |row| row.get(0))
    }

    /// Adds amounts of a device to the row of a table with these keys.
    fn add(
        &self,
        table: &str,
        keys: &[&str],
        values: &[&dyn rusqlite::ToSql],
        device: i64,
        counts: &Counts,
    ) -> rusqlite::Result<()> {
        let places: Vec<_> = (1..=keys.len() + 1 + COLUMNS.len())
            .map(|place| format!("?{place}"))
            .collect();
        let statement = format!(
            "INSERT INTO {table} ({}, device, {}) VALUES ({}) ON CONFLICT DO UPDATE SET {}",
            keys.join(", "),
            COLUMNS.join(", "),
            places.join(", "),
            added_up(table)
        );
        let counts = columns(counts);
        let mut all: Vec<&dyn rusqlite::ToSql> = values.to_vec();
        all.push(&device);
        all.extend(counts.iter().map(|count| count as &dyn rusqlite::ToSql));
        self.on
            .prepare_cached(&statement)?
            .execute(all.as_slice())?;
        Ok(())
    }
}

/// The columns of amounts, in the order of [`columns`].
const COLUMNS: [&str; 7] = [
    "upload_bytes",
    "download_bytes",
    "upload_packets",
    "download_packets",
    "flows",
    "refused",
    "retried",
];

/// Amounts in the order of [`COLUMNS`]. SQLite has no number beyond 2⁶³ − 1.
fn columns(counts: &Counts) -> [i64; COLUMNS.len()] {
    let all = [
        counts.bytes[0],
        counts.bytes[1],
        counts.packets[0],
        counts.packets[1],
        counts.flows,
        counts.refused,
        counts.retried,
    ];
    all.map(|count| i64::try_from(count).unwrap_or(i64::MAX))
}

/// The part of a statement that adds new amounts to those of a row.
fn added_up(table: &str) -> String {
    COLUMNS
        .map(|column| format!("{column} = {table}.{column} + excluded.{column}"))
        .join(", ")
}

/// The amounts of a position, in the order of [`COLUMNS`]. Without the rows of an hour they may be below zero: the
/// kernel's tables were made anew in it.
type Amounts = [i64; 5];

fn amounts_of(position: &Counts) -> Amounts {
    let [upload, download] = position.bytes;
    let [upload_packets, download_packets] = position.packets;
    [
        upload,
        download,
        upload_packets,
        download_packets,
        position.flows,
    ]
    .map(|amount| amount as i64)
}

fn position(amounts: Amounts) -> Counts {
    let [upload, download, upload_packets, download_packets, flows] =
        amounts.map(|amount| amount as u64);
    Counts {
        bytes: [upload, download],
        packets: [upload_packets, download_packets],
        flows,
        ..Counts::default()
    }
}

fn amounts_at(row: &Row<'_>, first: usize) -> rusqlite::Result<Amounts> {
    let mut amounts = Amounts::default();
    for (place, amount) in (first..).zip(&mut amounts) {
        *amount = row.get(place)?;
    }
    Ok(amounts)
}

fn stored_positions(on: &Connection) -> rusqlite::Result<HashMap<String, (i64, Amounts)>> {
    let mut statement = on.prepare_cached(
        "SELECT device, began, upload_bytes, download_bytes, upload_packets, download_packets, flows \
         FROM positions",
    )?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, (row.get(1)?, amounts_at(row, 2)?)))
    })?;
    rows.collect()
}

/// The counts of each device in the rows of the hour that is not over.
fn open_hour(on: &Connection) -> rusqlite::Result<HashMap<String, Amounts>> {
    let mut statement = on.prepare_cached(
        "SELECT d.device, SUM(t.upload_bytes), SUM(t.download_bytes), SUM(t.upload_packets), \
         SUM(t.download_packets), SUM(t.flows) FROM hours h JOIN device_hours t ON t.hour = h.hour \
         JOIN devices d ON d.id = t.device WHERE h.rolled = 0 GROUP BY t.device",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, amounts_at(row, 1)?)))?;
    rows.collect()
}
