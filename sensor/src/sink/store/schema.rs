//! The tables and views of the database, and the steps from older versions to the present one.
//!
//! People open the file with tools of their own: every table is plain, and the views give names and times as
//! text. `deploy/docs/history.md` describes the views.

use rusqlite::Connection;

/// The number of the program in the header of the file (`PRAGMA application_id`): `GwSe`.
pub const APPLICATION: i32 = 0x4777_5365;

/// The steps from each version to the next; the number of a version is in `PRAGMA user_version`.
const STEPS: [&str; 4] = [V1, V2, V3, V4];

/// The version of this program.
pub const VERSION: i32 = STEPS.len() as i32;

/// Amounts, as each table of them has them.
macro_rules! counts {
    () => {
        "upload_bytes INTEGER NOT NULL, download_bytes INTEGER NOT NULL, \
         upload_packets INTEGER NOT NULL, download_packets INTEGER NOT NULL, \
         flows INTEGER NOT NULL, refused INTEGER NOT NULL, retried INTEGER NOT NULL"
    };
}

/// The columns of amounts of `t`.
macro_rules! amounts {
    () => {
        "t.upload_bytes, t.download_bytes, t.upload_packets, t.download_packets, t.flows, t.refused, t.retried"
    };
}

/// The sums of the columns of amounts of `t`.
macro_rules! sums {
    () => {
        "SUM(t.upload_bytes) AS upload_bytes, SUM(t.download_bytes) AS download_bytes, \
         SUM(t.upload_packets) AS upload_packets, SUM(t.download_packets) AS download_packets, \
         SUM(t.flows) AS flows, SUM(t.refused) AS refused, SUM(t.retried) AS retried"
    };
}

/// A time in seconds since the Unix epoch as text, in UTC.
macro_rules! utc {
    ($column:literal) => {
        concat!("strftime('%Y-%m-%dT%H:%M:%SZ', ", $column, ", 'unixepoch')")
    };
}

const V1: &str = concat!(
    "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), tables TEXT NOT NULL, boot TEXT NOT NULL, \
     end REAL NOT NULL, since_boot REAL NOT NULL, evicted INTEGER NOT NULL) STRICT;\n",
    "CREATE TABLE devices (id INTEGER PRIMARY KEY, device TEXT NOT NULL UNIQUE, name TEXT, \
     first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL, evicted INTEGER NOT NULL) STRICT;\n",
    "CREATE TABLE parties (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, party TEXT NOT NULL, \
     category TEXT NOT NULL, owner TEXT, country TEXT, UNIQUE (party, category, kind)) STRICT;\n",
    "CREATE TABLE seen (device INTEGER NOT NULL, party INTEGER NOT NULL, first_seen INTEGER NOT NULL, \
     last_seen INTEGER NOT NULL, PRIMARY KEY (device, party)) STRICT, WITHOUT ROWID;\n",
    "CREATE TABLE hours (hour INTEGER PRIMARY KEY, day TEXT NOT NULL, rolled INTEGER NOT NULL) STRICT;\n",
    "CREATE TABLE party_hours (hour INTEGER NOT NULL, device INTEGER NOT NULL, party INTEGER NOT NULL, ",
    counts!(),
    ", PRIMARY KEY (hour, device, party)) STRICT, WITHOUT ROWID;\n",
    "CREATE TABLE device_hours (hour INTEGER NOT NULL, device INTEGER NOT NULL, ",
    counts!(),
    ", PRIMARY KEY (hour, device)) STRICT, WITHOUT ROWID;\n",
    "CREATE TABLE device_days (day TEXT NOT NULL, device INTEGER NOT NULL, ",
    counts!(),
    ", PRIMARY KEY (day, device)) STRICT, WITHOUT ROWID;\n",
    "CREATE TABLE device_months (month TEXT NOT NULL, device INTEGER NOT NULL, ",
    counts!(),
    ", PRIMARY KEY (month, device)) STRICT, WITHOUT ROWID;\n",
    "CREATE TABLE gaps (id INTEGER PRIMARY KEY, start INTEGER NOT NULL, end INTEGER NOT NULL, \
     reason TEXT NOT NULL, lost INTEGER NOT NULL) STRICT;\n",
    "CREATE TABLE gap_devices (gap INTEGER NOT NULL, device INTEGER NOT NULL, ",
    counts!(),
    ", PRIMARY KEY (gap, device)) STRICT, WITHOUT ROWID;\n",
    "CREATE TABLE positions (device TEXT PRIMARY KEY, began INTEGER NOT NULL, \
     upload_bytes INTEGER NOT NULL, download_bytes INTEGER NOT NULL, upload_packets INTEGER NOT NULL, \
     download_packets INTEGER NOT NULL, flows INTEGER NOT NULL) STRICT, WITHOUT ROWID;\n",
    "CREATE VIEW party_hour AS SELECT t.hour, ",
    utc!("t.hour"),
    " AS start, h.day, d.device, d.name, p.kind, p.party, p.category, p.owner, p.country, ",
    amounts!(),
    " FROM party_hours t JOIN hours h ON h.hour = t.hour JOIN devices d ON d.id = t.device \
     JOIN parties p ON p.id = t.party;\n",
    "CREATE VIEW device_hour AS SELECT t.hour, ",
    utc!("t.hour"),
    " AS start, h.day, d.device, d.name, ",
    amounts!(),
    " FROM device_hours t JOIN hours h ON h.hour = t.hour JOIN devices d ON d.id = t.device;\n",
    "CREATE VIEW device_day AS SELECT t.day, d.device, d.name, ",
    sums!(),
    " FROM (SELECT t.day, t.device, ",
    amounts!(),
    " FROM device_days t UNION ALL SELECT h.day, t.device, ",
    amounts!(),
    " FROM hours h JOIN device_hours t ON t.hour = h.hour WHERE h.rolled = 0) t \
     JOIN devices d ON d.id = t.device GROUP BY t.day, t.device;\n",
    "CREATE VIEW device_month AS SELECT t.month, d.device, d.name, ",
    sums!(),
    " FROM (SELECT t.month, t.device, ",
    amounts!(),
    " FROM device_months t UNION ALL SELECT substr(h.day, 1, 7), t.device, ",
    amounts!(),
    " FROM hours h JOIN device_hours t ON t.hour = h.hour WHERE h.rolled = 0) t \
     JOIN devices d ON d.id = t.device GROUP BY t.month, t.device;\n",
    "CREATE VIEW gap AS SELECT g.id, ",
    utc!("g.start"),
    " AS start, ",
    utc!("g.end"),
    " AS end, g.reason, g.lost, d.device, d.name, ",
    amounts!(),
    " FROM gaps g LEFT JOIN gap_devices t ON t.gap = g.id LEFT JOIN devices d ON d.id = t.device;\n",
    "CREATE VIEW party_seen AS SELECT d.device, d.name, p.kind, p.party, p.category, p.owner, p.country, ",
    utc!("s.first_seen"),
    " AS first_seen, ",
    utc!("s.last_seen"),
    " AS last_seen FROM seen s JOIN devices d ON d.id = s.device JOIN parties p ON p.id = s.party;\n",
    "CREATE VIEW device_seen AS SELECT device, name, ",
    utc!("first_seen"),
    " AS first_seen, ",
    utc!("last_seen"),
    " AS last_seen, evicted FROM devices;\n",
);

/// The TLS stacks by which devices reached parties.
const V2: &str = concat!(
    "CREATE TABLE stacks (device INTEGER NOT NULL, party INTEGER NOT NULL, stack TEXT NOT NULL, \
     first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL, PRIMARY KEY (device, party, stack)) \
     STRICT, WITHOUT ROWID;\n",
    "CREATE VIEW party_stack AS SELECT d.device, d.name, p.kind, p.party, p.category, p.owner, s.stack, ",
    utc!("s.first_seen"),
    " AS first_seen, ",
    utc!("s.last_seen"),
    " AS last_seen FROM stacks s JOIN devices d ON d.id = s.device JOIN parties p ON p.id = s.party;\n",
);

/// The parties that follow visits.
const V3: &str = "CREATE TABLE echoes (day TEXT NOT NULL, device INTEGER NOT NULL, recipient TEXT NOT NULL, \
     is_host INTEGER NOT NULL, visits INTEGER NOT NULL, followed INTEGER NOT NULL, control_permille INTEGER, \
     lag INTEGER NOT NULL, beside INTEGER NOT NULL, told INTEGER NOT NULL, reach TEXT NOT NULL, \
     verdict TEXT NOT NULL, PRIMARY KEY (day, device, recipient, is_host)) STRICT, WITHOUT ROWID;\n\
     CREATE VIEW echo_day AS SELECT e.day, d.device, d.name, e.recipient, e.is_host, e.visits, e.followed, \
     e.control_permille, e.lag, e.beside, e.told, e.reach, e.verdict \
     FROM echoes e JOIN devices d ON d.id = e.device;\n";

/// Positions are without the rows of the hour that is not over.
const V4: &str = concat!(
    "UPDATE positions SET upload_bytes = positions.upload_bytes - t.upload_bytes, \
     download_bytes = positions.download_bytes - t.download_bytes, \
     upload_packets = positions.upload_packets - t.upload_packets, \
     download_packets = positions.download_packets - t.download_packets, flows = positions.flows - t.flows \
     FROM (SELECT d.device AS name, ",
    sums!(),
    " FROM hours h JOIN device_hours t ON t.hour = h.hour JOIN devices d ON d.id = t.device WHERE h.rolled = 0 \
     GROUP BY t.device) t WHERE t.name = positions.device;\n",
);

/// The version of an open file; 0 where it is empty.
pub fn version(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// The number of the program that made a file; 0 where it is empty.
pub fn application(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "application_id", |row| row.get(0))
}

/// Brings a file of an older version, or an empty one, to the present version: whole, or not at all.
pub fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let from = version(connection)?;
    let steps = STEPS.get(usize::try_from(from).unwrap_or(STEPS.len())..);
    for (at, step) in (from + 1..).zip(steps.unwrap_or_default()) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", at)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_files_positions_lose_what_the_present_hour_has() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(V1).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        let rows = "INSERT INTO devices VALUES (1, 'a', NULL, 0, 0, 0), (2, 'b', NULL, 0, 0, 0); \
                    INSERT INTO hours VALUES (0, '1970-01-01', 1), (3600, '1970-01-01', 0); \
                    INSERT INTO device_hours VALUES (0, 1, 9, 9, 9, 9, 9, 0, 0), (3600, 1, 5, 4, 3, 2, 1, 0, 0); \
                    INSERT INTO positions VALUES ('a', 7, 100, 100, 100, 100, 100), ('b', 8, 6, 6, 6, 6, 6);";
        connection.execute_batch(rows).unwrap();
        migrate(&mut connection).unwrap();
        let positions = "SELECT group_concat(device || ' ' || upload_bytes || ' ' || download_bytes || ' ' || \
                         upload_packets || ' ' || download_packets || ' ' || flows, ', ') FROM positions";
        let positions: String = connection
            .query_row(positions, [], |row| row.get(0))
            .unwrap();
        assert_eq!(positions, "a 95 96 97 98 99, b 6 6 6 6 6");
    }

    #[test]
    fn an_empty_file_gets_every_table_and_view_and_another_time_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        assert_eq!(version(&connection).unwrap(), VERSION);
        assert_eq!(application(&connection).unwrap(), APPLICATION);
        migrate(&mut connection).unwrap();
        for view in [
            "party_hour",
            "device_hour",
            "device_day",
            "device_month",
            "gap",
            "party_seen",
            "party_stack",
            "echo_day",
            "device_seen",
        ] {
            let rows = format!("SELECT count(*) FROM {view}");
            let rows: i64 = connection.query_row(&rows, [], |row| row.get(0)).unwrap();
            assert_eq!(rows, 0, "{view}");
        }
        let blobs = "SELECT count(*) FROM sqlite_schema WHERE sql LIKE '%BLOB%'";
        let blobs: i64 = connection.query_row(blobs, [], |row| row.get(0)).unwrap();
        assert_eq!(blobs, 0);
    }
}
