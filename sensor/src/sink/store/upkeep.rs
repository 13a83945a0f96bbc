//! The upkeep of the file: rows that are old enough go, and at the size cap the oldest rows of the device that
//! has most.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Settings, commit::MOST_SEEN};

/// Rows of a device that go at a time where the file is too large.
const AT_A_TIME: u64 = 512;

/// Rounds of that after one commit.
const ROUNDS: usize = 64;

/// Deletes the rows that are older than the configuration wants them. `now` is in seconds since the Unix epoch.
pub(super) fn expire(
    connection: &mut Connection,
    settings: &Settings,
    now: i64,
) -> rusqlite::Result<()> {
    let before = |kept: std::time::Duration| now - kept.as_secs() as i64;
    let transaction = connection.transaction()?;
    transaction.execute(
        "DELETE FROM party_hours WHERE hour < ?1",
        [before(settings.party_hours)],
    )?;
    transaction.execute(
        "DELETE FROM device_hours WHERE hour < ?1 AND hour IN (SELECT hour FROM hours WHERE rolled = 1)",
        [before(settings.device_hours)],
    )?;
    transaction.execute(
        "DELETE FROM hours WHERE rolled = 1 AND hour < ?1",
        [before(settings.device_hours.max(settings.party_hours))],
    )?;
    transaction.execute(
        "DELETE FROM device_days WHERE day < date(?1, 'unixepoch')",
        [before(settings.device_days)],
    )?;
    transaction.execute(
        "DELETE FROM echoes WHERE day < date(?1, 'unixepoch')",
        [before(settings.device_days)],
    )?;
    transaction.execute(
        "DELETE FROM gap_devices WHERE gap IN (SELECT id FROM gaps WHERE end < ?1)",
        [before(settings.device_days)],
    )?;
    transaction.execute(
        "DELETE FROM gaps WHERE end < ?1",
        [before(settings.device_days)],
    )?;
    transaction.commit()
}

/// Deletes the parties that nothing refers to, and of a device with too many those that are longest ago.
pub(super) fn tidy(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute(
        "DELETE FROM seen WHERE (device, party) IN (SELECT device, party FROM (SELECT device, party, \
         row_number() OVER (PARTITION BY device ORDER BY last_seen DESC) AS place FROM seen) WHERE place > ?1)",
        [MOST_SEEN],
    )?;
    transaction.execute(
        "DELETE FROM stacks WHERE (device, party) NOT IN (SELECT device, party FROM seen)",
        [],
    )?;
    transaction.execute(
        "DELETE FROM parties WHERE id NOT IN (SELECT party FROM seen) \
         AND id NOT IN (SELECT party FROM party_hours)",
        [],
    )?;
    transaction.commit()
}

/// The bytes that the file's content takes.
pub(super) fn used(connection: &Connection) -> rusqlite::Result<u64> {
    let of = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let bytes = (of("page_count")? - of("freelist_count")?) * of("page_size")?;
    Ok(bytes.unsigned_abs())
}

/// Deletes the oldest rows of the device that has most until the file is small enough, and gives how many.
pub(super) fn shrink(connection: &mut Connection, most: u64) -> rusqlite::Result<u64> {
    let mut evicted = 0;
    for _ in 0..ROUNDS {
        if used(connection)? <= most {
            break;
        }
        let gone = evict(connection)?;
        if gone == 0 {
            break;
        }
        evicted += gone;
    }
    Ok(evicted)
}

fn evict(connection: &mut Connection) -> rusqlite::Result<u64> {
    let transaction = connection.transaction()?;
    for (table, time) in [
        ("party_hours", "hour"),
        ("device_hours", "hour"),
        ("device_days", "day"),
    ] {
        // Hours that days do not have yet stay.
        let is_over = match table {
            "device_hours" => "AND hour IN (SELECT hour FROM hours WHERE rolled = 1)",
            _ => "",
        };
        let most = format!(
            "SELECT device FROM {table} GROUP BY device ORDER BY count(*) DESC, device LIMIT 1"
        );
        let device: Option<i64> = transaction
            .query_row(&most, [], |row| row.get(0))
            .optional()?;
        let Some(device) = device else { continue };
        let last = format!(
            "SELECT {time} FROM {table} WHERE device = ?1 {is_over} ORDER BY {time} LIMIT 1 OFFSET ?2"
        );
        let rows: i64 = transaction.query_row(
            &format!("SELECT count(*) FROM {table} WHERE device = ?1 {is_over}"),
            [device],
            |row| row.get(0),
        )?;
        if rows == 0 {
            continue;
        }
        let offset = (rows - 1).min(AT_A_TIME as i64);
        let gone = match table {
            "device_days" => {
                let last: String =
                    transaction.query_row(&last, params![device, offset], |row| row.get(0))?;
                transaction.execute(
                    "DELETE FROM device_days WHERE device = ?1 AND day <= ?2",
                    params![device, last],
                )?
            }
            _ => {
                let last: i64 =
                    transaction.query_row(&last, params![device, offset], |row| row.get(0))?;
                transaction.execute(
                    &format!("DELETE FROM {table} WHERE device = ?1 AND hour <= ?2 {is_over}"),
                    params![device, last],
                )?
            }
        };
        transaction.execute(
            "UPDATE devices SET evicted = evicted + ?2 WHERE id = ?1",
            params![device, gone as i64],
        )?;
        transaction.execute("UPDATE state SET evicted = evicted + ?1", [gone as i64])?;
        transaction.commit()?;
        return Ok(gone as u64);
    }
    Ok(0)
}

/// Deletes everything of a device, or of all; the deleted rows are overwritten in the file.
pub(super) fn forget(connection: &mut Connection, device: Option<&str>) -> rusqlite::Result<bool> {
    let transaction = connection.transaction()?;
    let mut is_known = true;
    match device {
        Some(device) => {
            let id: Option<i64> = transaction
                .query_row(
                    "SELECT id FROM devices WHERE device = ?1",
                    [device],
                    |row| row.get(0),
                )
                .optional()?;
            is_known = id.is_some();
            for table in [
                "party_hours",
                "device_hours",
                "device_days",
                "device_months",
                "gap_devices",
                "seen",
                "stacks",
                "echoes",
            ] {
                transaction.execute(&format!("DELETE FROM {table} WHERE device = ?1"), [id])?;
            }
            transaction.execute("DELETE FROM devices WHERE device = ?1", [device])?;
            transaction.execute("DELETE FROM positions WHERE device = ?1", [device])?;
        }
        None => {
            for table in [
                "party_hours",
                "device_hours",
                "device_days",
                "device_months",
                "gap_devices",
                "gaps",
                "seen",
                "stacks",
                "echoes",
                "hours",
                "devices",
                "positions",
            ] {
                transaction.execute(&format!("DELETE FROM {table}"), [])?;
            }
        }
    }
    transaction.execute(
        "DELETE FROM parties WHERE id NOT IN (SELECT party FROM seen) \
         AND id NOT IN (SELECT party FROM party_hours)",
        [],
    )?;
    transaction.commit()?;
    give_back(connection)?;
    Ok(is_known)
}

/// Gives free pages back to the file system.
pub(super) fn give_back(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("PRAGMA incremental_vacuum")?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// Writes the log (`-wal`) into the file, and empties it. Readers may keep it from that: the next time does it.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}
