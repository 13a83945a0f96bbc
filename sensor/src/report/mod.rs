//! Makes the data of a report from the history, and from the findings of the daemon where one runs.

mod sentences;

use std::{cmp::Reverse, collections::BTreeMap};

use anyhow::Context as _;

use crate::{
    model::{
        echo::{DeviceEchoes, Echo},
        report::{Amounts, Change, Day, Gap, Owner, Report},
    },
    policy::Zone,
    sink::store::{
        of_device::PartySum,
        read::{By, Reader, Sum},
    },
};

/// The most changes of one kind that a report tells, those that got most first.
const MOST_CHANGES: usize = 10;

/// An owner that got less than so many bytes more than before is no change.
const LEAST_MORE: u64 = 1 << 20;

/// The device and the time of a report.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its MAC address.
    pub device: &'a str,
    /// Its name, where it has one.
    pub name: Option<&'a str>,
    /// Seconds since the Unix epoch; the report begins with the local hour of it.
    pub since: i64,
    /// Seconds since the Unix epoch.
    pub now: i64,
    /// The time zone of hours and days.
    pub zone: &'a Zone,
    /// Whether the names of the sites that it visited are shown, where they are kept.
    pub shows_sites: bool,
}

/// The knowledge of a running daemon beside the device's history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live<'a> {
    /// The parties that follow its visits, and how many visits were seen.
    pub echoes: Option<&'a DeviceEchoes>,
    /// The share of its traffic, 0 to 1, of which the recipient cannot be told.
    pub hidden: Option<f64>,
}

/// Makes the report of a device.
///
/// # Errors
/// The history cannot be read, or the time is one that no calendar has.
pub fn make(reader: &Reader, wanted: &Wanted<'_>, live: Live<'_>) -> anyhow::Result<Report> {
    let hour = |time: i64| {
        let hour = wanted.zone.hour(time as f64);
        hour.context("the report begins at a time that no calendar has")
    };
    let first = hour(wanted.since)?;
    let since = first.start;
    let devices = [wanted.device.to_owned()];
    let sum = |since| -> anyhow::Result<Amounts> {
        let sums = reader.sums(Some(&devices), since, By::Device, |_| false)?;
        Ok(sums
            .iter()
            .map(amounts)
            .fold(Amounts::default(), Amounts::plus))
    };
    let total = sum(since)?;
    // Full hours, and no more of them than this time has.
    let since_before = hour(since - (wanted.now - since) + 3_599)?.start;
    let first_seen = reader.first_seen(wanted.device)?;
    let reaches_before = first_seen.is_some_and(|first| first <= since_before);
    let before = match reaches_before {
        true => Some(sum(since_before)?.without(total)),
        false => None,
    };
    let parties = reader.parties_of(wanted.device, since..i64::MAX, wanted.shows_sites)?;
    let parties_before = match reaches_before {
        true => reader.parties_of(wanted.device, since_before..since, wanted.shows_sites)?,
        false => Vec::new(),
    };
    let echoes = live.echoes.map(|echoes| echoes.echoes.clone());
    let mut report = Report {
        device: wanted.device.to_owned(),
        name: wanted.name.map(str::to_owned),
        since,
        made: wanted.now,
        days_from_to: [first.day, hour(wanted.now)?.day],
        total,
        before,
        sentences: Vec::new(),
        days: days(reader, wanted, since)?,
        owners: owners(&parties, echoes.as_deref().unwrap_or_default()),
        echoes: echoes.unwrap_or_default(),
        visits: live.echoes.map(|echoes| [echoes.visits, echoes.next_look]),
        idle: live
            .echoes
            .map(|echoes| echoes.idle.clone())
            .unwrap_or_default(),
        changes: Vec::new(),
        gaps: gaps(reader, &devices, since)?,
        hidden: live.hidden,
    };
    if reaches_before {
        report.changes = changes(reader, wanted.device, since, &parties, &parties_before)?;
    }
    report.sentences = sentences::of(&report);
    Ok(report)
}

fn amounts(sum: &Sum) -> Amounts {
    // The store has no negative amounts.
    Amounts {
        upload_bytes: sum.upload_bytes.unsigned_abs(),
        download_bytes: sum.download_bytes.unsigned_abs(),
        flows: sum.flows.unsigned_abs(),
        refused: sum.refused.unsigned_abs(),
        retried: sum.retried.unsigned_abs(),
    }
}

/// The local days, each with its telemetry.
fn days(reader: &Reader, wanted: &Wanted<'_>, since: i64) -> anyhow::Result<Vec<Day>> {
    let day_of = |start: i64| wanted.zone.hour(start as f64).map(|hour| hour.day);
    let mut days: BTreeMap<String, Day> = BTreeMap::new();
    let devices = [wanted.device.to_owned()];
    for sum in reader.sums(Some(&devices), since, By::Hour, |_| false)? {
        if let Some(day) = sum.of.parse().ok().and_then(day_of) {
            let entry = days.entry(day).or_default();
            entry.amounts = entry.amounts.plus(amounts(&sum));
        }
    }
    for (start, bytes) in reader.telemetry_by_hour(wanted.device, since)? {
        if let Some(day) = day_of(start) {
            let entry = days.entry(day).or_default();
            entry.telemetry_upload_bytes = entry.telemetry_upload_bytes.saturating_add(bytes);
        }
    }
    let days = days
        .into_iter()
        .map(|(day, amounts)| Day { day, ..amounts });
    Ok(days.collect())
}

/// The rows of owners, those that got most first and what is no party last.
fn owners(parties: &[PartySum], echoes: &[Echo]) -> Vec<Owner> {
    let mut parties: Vec<_> = parties.iter().collect();
    parties.sort_by_key(|party| Reverse(party.amounts.upload_bytes));
    let mut rows: Vec<Owner> = Vec::new();
    for party in parties {
        let owner = match party.is_no_party {
            true => &party.party,
            false => party.owner.as_ref().unwrap_or(&party.party),
        };
        let is_it = |row: &Owner| {
            row.owner == *owner
                && row.category == party.category
                && row.is_no_party == party.is_no_party
        };
        let place = rows.iter().position(is_it).unwrap_or_else(|| {
            rows.push(Owner {
                owner: owner.clone(),
                category: party.category.clone(),
                is_no_party: party.is_no_party,
                ..Owner::default()
            });
            rows.len() - 1
        });
        let row = &mut rows[place];
        row.amounts = row.amounts.plus(party.amounts);
        row.parties.push(party.party.clone());
        row.countries.extend(party.country.clone());
    }
    for row in &mut rows {
        row.countries.sort();
        row.countries.dedup();
        let follows = echoes.iter().filter(|echo| echo.withdrawn.is_none());
        let follows = follows.filter(|echo| row.parties.iter().any(|party| is_of(echo, party)));
        row.after_visits = follows
            .map(|echo| [echo.followed, echo.visits])
            .max_by_key(|[followed, _]| *followed);
    }
    rows.sort_by_key(|row| (row.is_no_party, Reverse(row.amounts.upload_bytes)));
    rows
}

/// Whether an echo is that of a party, or of a host of it.
fn is_of(echo: &Echo, party: &str) -> bool {
    let above = echo.name.strip_suffix(party);
    above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

fn gaps(reader: &Reader, devices: &[String], since: i64) -> anyhow::Result<Vec<Gap>> {
    let gaps = reader.gaps(Some(devices), since)?.into_iter();
    let gaps = gaps.map(|gap| Gap {
        start: gap.start,
        end: gap.end,
        reason: gap.reason,
        lost: gap.lost,
    });
    Ok(gaps.collect())
}

/// The news since the time before.
fn changes(
    reader: &Reader,
    device: &str,
    since: i64,
    now: &[PartySum],
    before: &[PartySum],
) -> anyhow::Result<Vec<Change>> {
    let amount = |name: &str| {
        let of = now.iter().filter(|party| party.party == name);
        of.map(|party| party.amounts.upload_bytes).sum::<u64>()
    };
    let mut parties: Vec<_> = reader
        .parties_since(device)?
        .into_iter()
        .filter(|party| party.first_seen >= since)
        .collect();
    parties.sort_by_key(|party| Reverse(amount(&party.party)));
    let parties = parties.into_iter().take(MOST_CHANGES);
    let mut changes: Vec<_> = parties
        .map(|party| Change::NewParty {
            category: (!party.category.is_empty()).then_some(party.category),
            party: party.party,
            first_seen: party.first_seen,
        })
        .collect();

    let mut countries: BTreeMap<&str, &PartySum> = BTreeMap::new();
    for party in now {
        let Some(country) = party.country.as_deref() else {
            continue;
        };
        let largest = countries.entry(country).or_insert(party);
        if party.amounts.upload_bytes > largest.amounts.upload_bytes {
            *largest = party;
        }
    }
    countries.retain(|country, _| {
        let mut before = before.iter();
        before.all(|party| party.country.as_deref() != Some(country))
    });
    let countries = countries.into_iter().take(MOST_CHANGES);
    changes.extend(countries.map(|(country, party)| Change::NewCountry {
        country: country.to_owned(),
        party: party.party.clone(),
    }));

    let by_owner = |parties: &[PartySum]| {
        let mut owners: BTreeMap<String, u64> = BTreeMap::new();
        for party in parties {
            if let Some(owner) = &party.owner {
                *owners.entry(owner.clone()).or_default() += party.amounts.upload_bytes;
            }
        }
        owners
    };
    let owners_before = by_owner(before);
    let more = by_owner(now)
        .into_iter()
        .filter_map(|(owner, upload_bytes)| {
            let before = owners_before.get(&owner).copied()?;
            let is_more = upload_bytes / 2 >= before && upload_bytes - before >= LEAST_MORE;
            is_more.then_some(Change::MoreToOwner {
                owner,
                upload_bytes,
                before,
            })
        });
    changes.extend(more.take(MOST_CHANGES));
    Ok(changes)
}
