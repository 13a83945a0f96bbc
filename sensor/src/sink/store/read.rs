//! Questions to the history: sums for people, and whole views for other programs.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    path::Path,
};

use rusqlite::{
    Connection, params_from_iter,
    types::{Value, ValueRef},
};
use serde::Serialize;

use super::{commit::SEEN_EVERY, file};
use crate::model::{echo::EarlierEcho, history::PartyKind};

/// The name of all visited sites whose names are not shown.
pub const A_SITE: &str = "a site";

/// The view that is exported.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr, strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum View {
    /// By device, party and hour.
    PartyHour,
    /// By device and hour.
    DeviceHour,
    /// By device and local day.
    DeviceDay,
    /// By device and local month.
    DeviceMonth,
    /// The times that no hour has, and the amounts of each device in them.
    Gap,
    /// The first and the last time of each party of a device.
    PartySeen,
    /// The TLS stacks of each party of a device, and their first and last time.
    PartyStack,
    /// The parties that followed visits, by device and local day.
    EchoDay,
    /// The first and the last time of each device.
    DeviceSeen,
}

impl View {
    /// Its name in the database.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The condition for rows since a time, which is the first parameter, and their order.
    const fn since(self) -> (&'static str, &'static str) {
        match self {
            Self::PartyHour | Self::DeviceHour => ("hour >= ?1", "hour, device"),
            Self::DeviceDay => ("day >= date(?1, 'unixepoch')", "day, device"),
            Self::DeviceMonth => (
                "month >= strftime('%Y-%m', ?1, 'unixepoch')",
                "month, device",
            ),
            Self::Gap => (
                "end >= strftime('%Y-%m-%dT%H:%M:%SZ', ?1, 'unixepoch')",
                "id, device",
            ),
            Self::PartySeen => (
                "last_seen >= strftime('%Y-%m-%dT%H:%M:%SZ', ?1, 'unixepoch')",
                "device, first_seen",
            ),
            Self::PartyStack => (
                "last_seen >= strftime('%Y-%m-%dT%H:%M:%SZ', ?1, 'unixepoch')",
                "device, first_seen",
            ),
            Self::EchoDay => (
                "day >= date(?1, 'unixepoch')",
                "day, device, recipient, is_host",
            ),
            Self::DeviceSeen => (
                "last_seen >= strftime('%Y-%m-%dT%H:%M:%SZ', ?1, 'unixepoch')",
                "device",
            ),
        }
    }
}

/// The way in which amounts are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By device.
    Device,
    /// By hour.
    Hour,
    /// By local day.
    Day,
    /// By party.
    Party,
    /// By the owner of the party.
    Owner,
    /// By the country of the party's first address.
    Country,
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// There is none.
    Null,
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
}

/// The sum of a device, an hour, a day, a party, an owner or a country.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// The device, the start of the hour in seconds since the Unix epoch, the day, the party, the owner or the
    /// country; `-` where it is not known.
    pub of: String,
    /// The device's name, or the party's category.
    pub about: Option<String>,
    /// Bytes that left the device, or all devices.
    pub upload_bytes: i64,
    /// Bytes that reached it.
    pub download_bytes: i64,
    /// Flows that began.
    pub flows: i64,
    /// Refused names and flows.
    pub refused: i64,
    /// Those of `refused` that came within ten minutes after the same was refused.
    pub retried: i64,
    /// The TLS stacks by which devices reached the party since then, to the day, in their order.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub stacks: BTreeSet<String>,
}

/// Sorts sums by their bytes, the largest first.
fn sort(sums: &mut [Sum]) {
    sums.sort_by_cached_key(|sum| {
        let bytes = sum.upload_bytes.saturating_add(sum.download_bytes);
        (Reverse(bytes), sum.of.clone(), sum.about.clone())
    });
}

/// A time that no hour has, and the bytes in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Seconds since the Unix epoch.
    pub start: i64,
    /// Seconds since the Unix epoch.
    pub end: i64,
    /// `no-daemon`, `reboot`, `tables-made-anew`, `batch-lost` or `clock-unknown`.
    pub reason: String,
    /// Whether counts of that time are lost.
    pub lost: bool,
    /// Bytes of that time that left devices.
    pub upload_bytes: i64,
    /// Bytes of that time that reached devices.
    pub download_bytes: i64,
}

/// A party, and since when a device has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Since {
    /// The party.
    pub party: String,
    /// Its category; empty where it has none.
    pub category: String,
    /// Seconds since the Unix epoch.
    pub first_seen: i64,
    /// Seconds since the Unix epoch, to the day.
    pub last_seen: i64,
}

/// An hour of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HourOfDevice {
    /// Seconds since the Unix epoch at which it began.
    pub start: i64,
    /// Bytes that left the device.
    pub upload_bytes: i64,
}

/// The traffic of a device with a party in an hour.
#[derive(Clone, Copy, Debug)]
pub struct PartyHour<'a> {
    /// Seconds since the Unix epoch at which the hour began.
    pub hour: i64,
    /// The device's MAC address, or `multicast` or `other`.
    pub device: &'a str,
    /// The device's name.
    pub device_name: Option<&'a str>,
    /// The way in which the party is written down.
    pub kind: PartyKind,
    /// The party.
    pub party: &'a str,
    /// Its category.
    pub category: Option<&'a str>,
    /// Bytes that left the device.
    pub upload_bytes: i64,
    /// Bytes that reached it.
    pub download_bytes: i64,
    /// Flows that began.
    pub flows: i64,
}

/// The open history.
#[derive(Debug)]
pub struct Reader {
    pub(super) connection: Connection,
}

impl Reader {
    /// Opens the history in a directory.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let connection = file::open_to_read(directory)?;
        Ok(Self { connection })
    }

    /// The MAC addresses of the devices that a text means: a MAC address, or a name that a device had.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn devices(&self, text: &str) -> anyhow::Result<Vec<String>> {
        let mut statement = self.connection.prepare(
            "SELECT device FROM devices WHERE device = lower(?1) OR lower(name) = lower(?1) ORDER BY device",
        )?;
        let devices = statement.query_map([text], |row| row.get(0))?;
        Ok(devices.collect::<Result<_, _>>()?)
    }

    /// The parties that followed a device's visits when it was looked at last, in the order of their names.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn echoes(&self, device: &str) -> anyhow::Result<Vec<EarlierEcho>> {
        let mut statement = self.connection.prepare(
            "SELECT e.recipient, e.is_host, (SELECT min(f.day) FROM echoes f WHERE f.device = e.device \
             AND f.recipient = e.recipient AND f.is_host = e.is_host), e.visits, e.followed, e.lag, max(e.day), \
             e.verdict FROM echoes e JOIN devices d ON d.id = e.device WHERE d.device = ?1 \
             GROUP BY e.recipient, e.is_host HAVING e.verdict = 'found' ORDER BY e.recipient, e.is_host",
        )?;
        let echoes = statement.query_map([device], |row| {
            Ok(EarlierEcho {
                name: row.get(0)?,
                is_host: row.get(1)?,
                found_on: row.get(2)?,
                visits: row.get(3)?,
                followed: row.get(4)?,
                lag: row.get(5)?,
            })
        })?;
        Ok(echoes.collect::<Result<_, _>>()?)
    }

    /// Sums since a time, in seconds since the Unix epoch: those of time in its order, others the largest
    /// first. `shows_sites` tells whether the names of the sites that a device visited are shown.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn sums(
        &self,
        devices: Option<&[String]>,
        since: i64,
        by: By,
        shows_sites: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Vec<Sum>> {
        const SUMS: &str = "SUM(t.upload_bytes), SUM(t.download_bytes), SUM(t.flows), SUM(t.refused), SUM(t.retried)";

        let chosen = match devices {
            Some(devices) => {
                let places = vec!["?"; devices.len()].join(", ");
                format!("IN (SELECT id FROM devices WHERE device IN ({places}))")
            }
            None => "IS NOT NULL".to_owned(),
        };
        let query = match by {
            By::Device => format!(
                "SELECT d.device, d.name, {SUMS} FROM (SELECT * FROM device_hours WHERE hour >= ? UNION ALL \
                 SELECT t.* FROM gap_devices t JOIN gaps g ON g.id = t.gap WHERE g.end >= ?) t \
                 JOIN devices d ON d.id = t.device WHERE t.device {chosen} GROUP BY t.device"
            ),
            By::Hour => format!(
                "SELECT t.hour, NULL, {SUMS} FROM device_hours t WHERE t.hour >= ? AND t.hour >= ? \
                 AND t.device {chosen} GROUP BY t.hour ORDER BY t.hour"
            ),
            By::Day => format!(
                "SELECT t.day, NULL, {SUMS} FROM (SELECT day, device, upload_bytes, download_bytes, \
                 flows, refused, retried FROM device_days UNION ALL SELECT h.day, t.device, t.upload_bytes, \
                 t.download_bytes, t.flows, t.refused, t.retried FROM hours h JOIN device_hours t \
                 ON t.hour = h.hour WHERE h.rolled = 0) t WHERE t.day >= date(?, 'unixepoch') \
                 AND t.day >= date(?, 'unixepoch') AND t.device {chosen} GROUP BY t.day ORDER BY t.day"
            ),
            By::Party | By::Owner | By::Country => {
                return self.sums_of_parties(devices, since, by, shows_sites);
            }
        };
        let mut statement = self.connection.prepare(&query)?;
        let devices = devices.unwrap_or_default().iter().cloned().map(Value::Text);
        let parameters = [Value::Integer(since), Value::Integer(since)];
        let mut rows = statement.query(params_from_iter(parameters.into_iter().chain(devices)))?;
        let mut sums: Vec<Sum> = Vec::new();
        while let Some(row) = rows.next()? {
            sums.push(Sum {
                of: match row.get_ref(0)? {
                    ValueRef::Integer(number) => number.to_string(),
                    other => other.as_str()?.to_owned(),
                },
                about: row.get(1)?,
                upload_bytes: row.get(2)?,
                download_bytes: row.get(3)?,
                flows: row.get(4)?,
                refused: row.get(5)?,
                retried: row.get(6)?,
                stacks: BTreeSet::new(),
            });
        }
        if by == By::Device {
            sort(&mut sums);
        }
        Ok(sums)
    }

    /// Sums by party, or by a fact about it. The rows of a month are added up here: SQLite would sort all of them.
    fn sums_of_parties(
        &self,
        devices: Option<&[String]>,
        since: i64,
        by: By,
        shows_sites: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Vec<Sum>> {
        let mut statement = self.connection.prepare("SELECT id, device FROM devices")?;
        let names = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut names: HashMap<i64, String> = names.collect::<Result<_, _>>()?;
        if let Some(devices) = devices {
            names.retain(|_, name| devices.contains(name));
        }
        let mut statement = self.connection.prepare(
            "SELECT device, party, upload_bytes, download_bytes, flows, refused, retried FROM party_hours \
             WHERE hour >= ?1",
        )?;
        let mut rows = statement.query([since])?;
        let mut by_party: HashMap<(i64, i64), [i64; 5]> = HashMap::new();
        while let Some(row) = rows.next()? {
            let device: i64 = row.get(0)?;
            if names.contains_key(&device) {
                let sum = by_party.entry((row.get(1)?, device)).or_default();
                for (place, sum) in (2..).zip(sum) {
                    *sum = sum.saturating_add(row.get(place)?);
                }
            }
        }
        let mut statement = self.connection.prepare(
            "SELECT kind, party, nullif(category, ''), owner, country FROM parties WHERE id = ?1",
        )?;
        let mut stacks = self.connection.prepare(
            "SELECT stack FROM stacks WHERE device = ?1 AND party = ?2 AND last_seen >= ?3",
        )?;
        let mut sums: HashMap<(String, Option<String>), Sum> = HashMap::new();
        for ((party, device), amounts) in by_party {
            let key = statement.query_row([party], |row| {
                let is_site = row.get_ref(0)?.as_str()? == "site";
                let is_hidden = is_site && names.get(&device).is_none_or(|name| !shows_sites(name));
                let fact: Option<String> = row.get(match by {
                    By::Owner => 3,
                    By::Country => 4,
                    _ => 1,
                })?;
                Ok(match by {
                    By::Party if is_hidden => (A_SITE.to_owned(), None),
                    By::Party => (fact.unwrap_or_default(), row.get(2)?),
                    _ => (fact.unwrap_or_else(|| "-".to_owned()), None),
                })
            })?;
            let sum = sums.entry(key.clone()).or_insert_with(|| Sum {
                of: key.0,
                about: key.1,
                ..Sum::default()
            });
            let [upload, download, flows, refused, retried] = amounts;
            sum.upload_bytes += upload;
            sum.download_bytes += download;
            sum.flows += flows;
            sum.refused += refused;
            sum.retried += retried;
            if by == By::Party {
                let of = [device, party, since.saturating_sub(SEEN_EVERY)];
                for stack in stacks.query_map(of, |row| row.get(0))? {
                    sum.stacks.insert(stack?);
                }
            }
        }
        let mut sums: Vec<_> = sums.into_values().collect();
        sort(&mut sums);
        Ok(sums)
    }

    /// Gives what each device had with each party in each hour since a time, in seconds since the Unix epoch, to
    /// `take`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn party_hours(
        &self,
        since: i64,
        mut take: impl FnMut(PartyHour<'_>),
    ) -> anyhow::Result<()> {
        let mut statement = self
            .connection
            .prepare("SELECT id, device, name FROM devices")?;
        let devices =
            statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        let devices: HashMap<i64, (String, Option<String>)> = devices.collect::<Result<_, _>>()?;
        let mut statement = self
            .connection
            .prepare("SELECT id, kind, party, nullif(category, '') FROM parties")?;
        let parties = statement.query_map([], |row| {
            let kind = row.get_ref(1)?.as_str()?.parse();
            let kind = kind.unwrap_or(PartyKind::Other);
            Ok((row.get(0)?, (kind, row.get(2)?, row.get(3)?)))
        })?;
        let parties: HashMap<i64, (PartyKind, String, Option<String>)> =
            parties.collect::<Result<_, _>>()?;
        let mut statement = self.connection.prepare(
            "SELECT hour, device, party, upload_bytes, download_bytes, flows FROM party_hours WHERE hour >= ?1",
        )?;
        let mut rows = statement.query([since])?;
        while let Some(row) = rows.next()? {
            let (device, party): (i64, i64) = (row.get(1)?, row.get(2)?);
            let (Some((device, device_name)), Some((kind, party, category))) =
                (devices.get(&device), parties.get(&party))
            else {
                continue;
            };
            take(PartyHour {
                hour: row.get(0)?,
                device,
                device_name: device_name.as_deref(),
                kind: *kind,
                party,
                category: category.as_deref(),
                upload_bytes: row.get(3)?,
                download_bytes: row.get(4)?,
                flows: row.get(5)?,
            });
        }
        Ok(())
    }

    /// The gaps that end after a time, in seconds since the Unix epoch, in order.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn gaps(&self, devices: Option<&[String]>, since: i64) -> anyhow::Result<Vec<Gap>> {
        let mut statement = self.connection.prepare(
            "SELECT g.start, g.end, g.reason, g.lost, coalesce(SUM(t.upload_bytes), 0), \
             coalesce(SUM(t.download_bytes), 0) FROM gaps g LEFT JOIN gap_devices t ON t.gap = g.id \
             AND (?2 IS NULL OR t.device IN (SELECT id FROM devices WHERE device IN \
             (SELECT value FROM json_each(?2)))) WHERE g.end >= ?1 GROUP BY g.id ORDER BY g.start",
        )?;
        let devices = devices.map(serde_json::to_string).transpose()?;
        let gaps = statement.query_map(rusqlite::params![since, devices], |row| {
            Ok(Gap {
                start: row.get(0)?,
                end: row.get(1)?,
                reason: row.get(2)?,
                lost: row.get(3)?,
                upload_bytes: row.get(4)?,
                download_bytes: row.get(5)?,
            })
        })?;
        Ok(gaps.collect::<Result<_, _>>()?)
    }

    /// The parties of a device that have names, and since when it has them, the earliest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn parties_since(&self, device: &str) -> anyhow::Result<Vec<Since>> {
        let mut statement = self.connection.prepare(
            "SELECT p.party, p.category, s.first_seen, s.last_seen FROM seen s JOIN devices d ON d.id = s.device \
             JOIN parties p ON p.id = s.party WHERE d.device = ?1 AND p.kind = 'party' ORDER BY s.first_seen, 1, 2",
        )?;
        let parties = statement.query_map([device], |row| {
            Ok(Since {
                party: row.get(0)?,
                category: row.get(1)?,
                first_seen: row.get(2)?,
                last_seen: row.get(3)?,
            })
        })?;
        Ok(parties.collect::<Result<_, _>>()?)
    }

    /// The hours of a device since a time, in seconds since the Unix epoch, in order.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn hours(&self, device: &str, since: i64) -> anyhow::Result<Vec<HourOfDevice>> {
        let mut statement = self.connection.prepare(
            "SELECT t.hour, t.upload_bytes FROM device_hours t JOIN devices d ON d.id = t.device \
             WHERE d.device = ?1 AND t.hour >= ?2 ORDER BY t.hour",
        )?;
        let hours = statement.query_map(rusqlite::params![device, since], |row| {
            Ok(HourOfDevice {
                start: row.get(0)?,
                upload_bytes: row.get(1)?,
            })
        })?;
        Ok(hours.collect::<Result<_, _>>()?)
    }

    /// The columns of a view.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn columns(&self, view: View) -> anyhow::Result<Vec<String>> {
        let query = format!("SELECT * FROM {} LIMIT 0", view.name());
        let statement = self.connection.prepare(&query)?;
        Ok(statement.column_names().map(str::to_owned).collect())
    }

    /// Gives each row of a view since a time to `row`, with the names of its columns.
    ///
    /// # Errors
    /// The database cannot be read, or `row` failed.
    pub fn export(
        &self,
        view: View,
        devices: Option<&[String]>,
        since: i64,
        shows_sites: impl Fn(&str) -> bool,
        mut row: impl FnMut(&[String], Vec<Cell>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (is_since, order) = view.since();
        let query = format!(
            "SELECT * FROM {} WHERE {is_since} AND (?2 IS NULL OR device IN (SELECT value FROM json_each(?2))) \
             ORDER BY {order}",
            view.name()
        );
        let mut statement = self.connection.prepare(&query)?;
        let columns = self.columns(view)?;
        let place = |name: &str| columns.iter().position(|column| column == name);
        let (device, kind, party) = (place("device"), place("kind"), place("party"));
        let devices = devices.map(serde_json::to_string).transpose()?;
        let mut rows = statement.query(rusqlite::params![since, devices])?;
        while let Some(found) = rows.next()? {
            let mut cells = (0..columns.len())
                .map(|place| {
                    Ok(match found.get_ref(place)? {
                        ValueRef::Integer(number) => Cell::Number(number),
                        ValueRef::Text(text) => {
                            Cell::Text(String::from_utf8_lossy(text).into_owned())
                        }
                        _ => Cell::Null,
                    })
                })
                .collect::<rusqlite::Result<Vec<_>>>()?;
            if let (Some(device), Some(kind), Some(party)) = (device, kind, party)
                && cells[kind] == Cell::Text("site".to_owned())
                && let Cell::Text(device) = &cells[device]
                && !shows_sites(device)
            {
                cells[party] = Cell::Text(A_SITE.to_owned());
            }
            row(&columns, cells)?;
        }
        Ok(())
    }
}
