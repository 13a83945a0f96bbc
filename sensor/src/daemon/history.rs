//! When amounts are handed to the store, and to which hour they belong.
//!
//! A batch ends when it is old enough, and when a local hour is over. Its times are steady ones until it is handed
//! over: a clock that is set meanwhile moves the whole batch. Nothing is handed over while the clock cannot be
//! believed.

use std::{io, sync::Arc};

use crate::{
    aggregate::{Aggregate, history::Rules},
    config::{Config, KeptNames},
    model::{
        Device,
        history::{Batch, Hour, StoreState},
    },
    moment::Moment,
    policy::{Policy, Zone},
    sink::store::{Settings, Store},
};

/// Seconds after boot in which an unsynchronised clock is not believed: machines without a clock of their own
/// begin with the time at which they ended, and are set right within a minute or two.
const UNSET_FOR: f64 = 120.0;

/// Seconds by which an unsynchronised clock may be behind the last commit.
const BEHIND: f64 = 5.0;

/// The part of the daemon that feeds the store.
pub(super) struct History {
    store: Store,
    zone: Zone,
    /// Seconds that a batch may last.
    batch: f64,
    /// Seconds by which a batch may end later than its hour: two ticks, and a stall.
    slack: f64,
    tables: String,
    /// Steady time at which the present batch began.
    start: f64,
    is_first: bool,
}

impl History {
    /// The history of a configuration; `None` where it asks for none, or where the thread cannot be started.
    pub(super) fn start(config: &Config, tables: String, begun: f64) -> Option<Self> {
        if config.history.keep == KeptNames::Off {
            return None;
        }
        let store = Store::start(settings(config));
        let store = store.inspect_err(|error: &io::Error| {
            tracing::error!("there is no history: its thread cannot be started: {error}");
        });
        let mut history = Self {
            store: store.ok()?,
            zone: Zone::default(),
            batch: 0.0,
            slack: 0.0,
            tables,
            start: begun,
            is_first: true,
        };
        history.take(config);
        Some(history)
    }

    fn take(&mut self, config: &Config) {
        self.zone = Zone::named(config.daemon.time_zone.as_deref());
        self.batch = config.history.batch.as_secs_f64();
        self.slack = 2.0 * config.daemon.tick.as_secs_f64() + 5.0;
    }

    /// Takes a new configuration.
    pub(super) fn change(&mut self, config: &Config) {
        self.take(config);
        self.store.change(settings(config));
    }

    /// The store.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The state of the store.
    pub(super) fn state(&self) -> StoreState {
        self.store.state()
    }

    /// Takes that the tables were read, and hands a batch over where it is time.
    pub(super) fn tick(
        &mut self,
        aggregate: &mut Aggregate,
        devices: &[Device],
        now: &Moment,
        is_synchronised: bool,
    ) {
        aggregate.know_devices(devices);
        let is_due = self.is_first
            || now.steady - self.start >= self.batch
            || self.zone.hour(self.start + now.offset()) != self.zone.hour(now.wall);
        if is_due && is_believed(now, is_synchronised, self.state().until) {
            self.hand_over(aggregate, now, false);
        }
    }

    /// Hands over everything up to now, if the clock can be believed.
    pub(super) fn hand_over_now(
        &mut self,
        aggregate: &mut Aggregate,
        now: &Moment,
        is_synchronised: bool,
        is_last: bool,
    ) {
        if is_believed(now, is_synchronised, self.state().until) {
            self.hand_over(aggregate, now, is_last);
        }
    }

    fn hand_over(&mut self, aggregate: &mut Aggregate, now: &Moment, is_last: bool) {
        let Some(of) = aggregate.take_history() else {
            return;
        };
        let start = self.start + now.offset();
        self.store.send(Batch {
            tables: self.tables.clone(),
            boot: format!("{:032x}", now.boot),
            steady: now.steady,
            since_boot: now.since_boot,
            start,
            end: now.wall,
            hour: hour_of(&self.zone, start, now.wall, self.slack),
            is_first: self.is_first,
            is_last,
            of,
        });
        self.start = now.steady;
        self.is_first = false;
    }
}

/// The hour to which a batch from `start` to `end` belongs, in seconds since the Unix epoch; `None` where it spans
/// several. It may end a little later than its hour, because the tables are read now and then.
fn hour_of(zone: &Zone, start: f64, end: f64, slack: f64) -> Option<Hour> {
    let (first, last) = (zone.hour(start)?, zone.hour(end)?);
    let is_next = end - (last.start as f64) <= slack && (last.start as f64) - start <= 3_600.0;
    (first == last || is_next).then_some(first)
}

/// Whether amounts may be filed under the wall clock's time. `until` is the end of the last commit.
fn is_believed(now: &Moment, is_synchronised: bool, until: f64) -> bool {
    now.is_known && (is_synchronised || now.since_boot >= UNSET_FOR && now.wall >= until - BEHIND)
}

/// The names that may be kept, by a configuration; `None` where there is no history.
pub(super) fn rules(config: &Config) -> Option<Rules> {
    let devices = config.devices.iter();
    let unrecorded = devices.filter(|device| !device.history);
    let policies = config.policies.iter().filter(|policy| names(policy));
    (config.history.keep != KeptNames::Off).then(|| Rules {
        all_names: config.history.keep == KeptNames::All,
        unrecorded: unrecorded
            .map(|device| sensor_ebpf::parse::Mac::new(device.mac))
            .collect(),
        naming_policies: policies.map(|policy| policy.name.clone()).collect(),
    })
}

/// Whether a policy names what it is about, and nothing else leads to it.
fn names(policy: &Policy) -> bool {
    let names = !(policy.domains.is_empty() && policy.lists.is_empty() && policy.owners.is_empty());
    names && policy.categories.is_empty() && policy.quic.is_none() && policy.encrypted_dns.is_none()
}

fn settings(config: &Config) -> Settings {
    let zone = Zone::named(config.daemon.time_zone.as_deref());
    let history = &config.history;
    Settings {
        directory: config.history_directory().to_owned(),
        most_bytes: u64::from(history.max_mib) << 20,
        party_hours: history.party_hours,
        device_hours: history.device_hours,
        device_days: history.device_days,
        calendar: Arc::new(move |time| zone.hour(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: f64 = 7.0;

    fn hours(zone: &str, start: &str, end: &str) -> Option<(String, String)> {
        let zone = Zone::named(Some(zone));
        let time = |text: &str| {
            let time: jiff::Timestamp = text.parse().expect("a time");
            time.as_millisecond() as f64 / 1e3
        };
        let hour = hour_of(&zone, time(start), time(end), SLACK)?;
        let start = jiff::Timestamp::from_second(hour.start).expect("a time");
        Some((start.to_string(), hour.day))
    }

    #[test]
    fn an_hour_is_a_full_local_one_and_ends_with_a_tick() {
        let of = |zone, start, end| {
            let (hour, day) = hours(zone, start, end)?;
            Some(format!("{hour} {day}"))
        };
        // 5:30 ahead of UTC: full hours are at half past.
        assert_eq!(
            of(
                "Asia/Kolkata",
                "2026-11-30T18:29:00Z",
                "2026-11-30T18:29:59Z"
            )
            .as_deref(),
            Some("2026-11-30T17:30:00Z 2026-11-30")
        );
        assert_eq!(
            of(
                "Asia/Kolkata",
                "2026-11-30T18:30:00Z",
                "2026-11-30T18:35:00Z"
            )
            .as_deref(),
            Some("2026-11-30T18:30:00Z 2026-12-01")
        );
        // It ends with the first tick of the next one, and not much later.
        assert_eq!(
            of("UTC", "2026-11-30T11:55:00Z", "2026-11-30T12:00:06Z").as_deref(),
            Some("2026-11-30T11:00:00Z 2026-11-30")
        );
        assert_eq!(
            of("UTC", "2026-11-30T11:55:00Z", "2026-11-30T12:00:09Z"),
            None
        );
        assert_eq!(
            of("UTC", "2026-11-30T10:55:00Z", "2026-11-30T12:00:01Z"),
            None
        );
        // The hour that comes twice when summer time ends is two hours of one day.
        assert_eq!(
            of(
                "Europe/Berlin",
                "2026-10-25T00:10:00Z",
                "2026-10-25T00:15:00Z"
            )
            .as_deref(),
            Some("2026-10-25T00:00:00Z 2026-10-25")
        );
        assert_eq!(
            of(
                "Europe/Berlin",
                "2026-10-25T01:10:00Z",
                "2026-10-25T01:15:00Z"
            )
            .as_deref(),
            Some("2026-10-25T01:00:00Z 2026-10-25")
        );
    }

    #[test]
    fn days_have_23_24_and_25_hours() {
        let zone = Zone::named(Some("Europe/Berlin"));
        let mut hours = std::collections::BTreeMap::new();
        let first: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for hour in 0..24 * 365 {
            let time = (first.as_second() + hour * 3_600) as f64;
            let hour = zone.hour(time).expect("an hour");
            assert_eq!(hour.start as f64, time);
            *hours.entry(hour.day).or_insert(0) += 1;
        }
        assert_eq!(hours["2026-03-28"], 24);
        assert_eq!(hours["2026-03-29"], 23);
        assert_eq!(hours["2026-10-25"], 25);
    }

    #[test]
    fn a_clock_that_was_not_set_files_nothing() {
        let at = |since_boot, wall, is_known| Moment {
            steady: 0.0,
            wall,
            is_known,
            since_boot,
            boot: 1,
        };
        let late = 3_600.0;
        assert!(is_believed(&at(late, 1e9, true), false, 0.0));
        assert!(!is_believed(&at(late, 1e9, false), false, 0.0));
        // A moment after boot it shows the time at which the machine ended, unless something has set it.
        assert!(!is_believed(&at(30.0, 1e9, true), false, 0.0));
        assert!(is_believed(&at(30.0, 1e9, true), true, 0.0));
        // Behind what is written already, unless something has set it.
        assert!(!is_believed(&at(late, 1e9, true), false, 1e9 + 60.0));
        assert!(is_believed(&at(late, 1e9, true), false, 1e9 + 2.0));
        assert!(is_believed(&at(late, 1e9, true), true, 1e9 + 60.0));
    }
}
