//! The history of one device, in the detail of a report.

use std::{collections::HashMap, ops::Range};

use rusqlite::{OptionalExtension as _, params};

use super::read::Reader;
use crate::model::{history::PartyKind, report::Amounts};

/// The name of all sites whose names are not shown.
const SITES: &str = "websites, by names that are not kept";

/// The traffic of a device with one party.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartySum {
    /// The party, or words for what has no name.
    pub party: String,
    /// Whether it is no party: sites whose names are not shown, the house itself, bytes that have no party.
    pub is_no_party: bool,
    /// Its category.
    pub category: Option<String>,
    /// Its owner.
    pub owner: Option<String>,
    /// The country of its first address, two capital letters (ISO 3166-1).
    pub country: Option<String>,
    /// The traffic.
    pub amounts: Amounts,
}

impl Reader {
    /// Seconds since the Unix epoch at which the history has a device first; `None` where it has it not.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn first_seen(&self, device: &str) -> anyhow::Result<Option<i64>> {
        let query = "SELECT first_seen FROM devices WHERE device = ?1";
        let first = self.connection.query_row(query, [device], |row| row.get(0));
        Ok(first.optional()?)
    }

    /// The name of a device; `None` where the history has none.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn name_of(&self, device: &str) -> anyhow::Result<Option<String>> {
        let query = "SELECT name FROM devices WHERE device = ?1";
        let name = self.connection.query_row(query, [device], |row| row.get(0));
        Ok(name.optional()?.flatten())
    }

    /// The MAC addresses of the devices that the history has anything of since a time, in seconds since the Unix
    /// epoch.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn devices_since(&self, since: i64) -> anyhow::Result<Vec<String>> {
        let mut statement = self
            .connection
            .prepare("SELECT device FROM devices WHERE last_seen >= ?1 ORDER BY device")?;
        let devices = statement.query_map([since], |row| row.get(0))?;
        Ok(devices.collect::<Result<_, _>>()?)
    }

    /// The traffic of a device with each party in the hours that begin in a time, in seconds since the Unix epoch.
    /// `shows_sites` tells whether the names of visited sites are shown, where they are kept.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn parties_of(
        &self,
        device: &str,
        hours: Range<i64>,
        shows_sites: bool,
    ) -> anyhow::Result<Vec<PartySum>> {
        // By the hours that there are: SQLite finds the rows of one device in each by the primary key.
        let mut statement = self.connection.prepare(
            "SELECT p.kind, p.party, nullif(p.category, ''), p.owner, p.country, SUM(t.upload_bytes), \
             SUM(t.download_bytes), SUM(t.flows), SUM(t.refused), SUM(t.retried) FROM hours h \
             CROSS JOIN party_hours t ON t.hour = h.hour AND t.device = (SELECT id FROM devices WHERE device = ?1) \
             JOIN parties p ON p.id = t.party WHERE h.hour >= ?2 AND h.hour < ?3 GROUP BY t.party",
        )?;
        let mut rows = statement.query(params![device, hours.start, hours.end])?;
        let mut sums: HashMap<(String, Option<String>), PartySum> = HashMap::new();
        while let Some(row) = rows.next()? {
            let kind: String = row.get(0)?;
            let named =
                kind == PartyKind::Party.name() || kind == PartyKind::Site.name() && shows_sites;
            let party: String = match named {
                true => row.get(1)?,
                false => words_for(&kind).to_owned(),
            };
            let amount = |place| row.get::<_, i64>(place).map(i64::unsigned_abs);
            let amounts = Amounts {
                upload_bytes: amount(5)?,
                download_bytes: amount(6)?,
                flows: amount(7)?,
                refused: amount(8)?,
                retried: amount(9)?,
            };
            let category: Option<String> = row.get(2)?;
            let sum = sums.entry((party.clone(), category.clone())).or_default();
            sum.amounts = sum.amounts.plus(amounts);
            if !named {
                (sum.party, sum.is_no_party, sum.category) = (party, true, category);
                continue;
            }
            (sum.party, sum.category) = (party, category);
            (sum.owner, sum.country) = (row.get(3)?, row.get(4)?);
        }
        Ok(sums.into_values().collect())
    }

    /// The bytes that a device sent to telemetry, by hours that begin since a time, in seconds since the Unix epoch.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn telemetry_by_hour(&self, device: &str, since: i64) -> anyhow::Result<Vec<(i64, u64)>> {
        let mut statement = self.connection.prepare(
            "SELECT h.hour, SUM(t.upload_bytes) FROM hours h CROSS JOIN party_hours t ON t.hour = h.hour \
             AND t.device = (SELECT id FROM devices WHERE device = ?1) JOIN parties p ON p.id = t.party \
             WHERE h.hour >= ?2 AND p.category = 'telemetry' GROUP BY h.hour ORDER BY h.hour",
        )?;
        let hours = statement.query_map(params![device, since], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs()))
        })?;
        Ok(hours.collect::<Result<_, _>>()?)
    }
}

/// Words for a kind of row that has no name to show.
fn words_for(kind: &str) -> &'static str {
    match kind.parse() {
        Ok(PartyKind::Local) => "the house itself",
        Ok(PartyKind::Other) => "further parties",
        Ok(PartyKind::Unattributed) => "no party that is known",
        _ => SITES,
    }
}
