//! When a policy applies: spans of the week in local time.

use std::{fs, path::Path};

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, Time},
    tz::TimeZone,
};

use crate::{model::history::Hour, policy::Span};

/// A time as the week of people has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeOfWeek {
    /// The local day, as in `2026-11-30`.
    pub day: String,
    /// The weekday's name.
    pub weekday: &'static str,
    /// Minutes after midnight that the clock shows.
    pub minutes: u16,
}

/// A time zone.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl Zone {
    /// The zone with a name of the IANA database, or the system's; UTC where the system has none. The
    /// configuration has checked the name: for one that is not known any more, the system's zone is taken
    /// too.
    pub fn named(name: Option<&str>) -> Self {
        let named = name.and_then(|name| TimeZone::get(name).ok()).map(Self);
        named.or_else(Self::of_system).unwrap_or_default()
    }

    /// The system's zone: that of `TZ`, of /etc/localtime, or of OpenWrt's /etc/TZ.
    pub fn of_system() -> Option<Self> {
        let system = TimeZone::try_system().ok().map(Self);
        system.or_else(|| Self::of_file(Path::new("/etc/TZ")))
    }

    /// The zone that stands in a file as the variable `TZ` would have it (POSIX.1-2017, section 8.3).
    fn of_file(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        TimeZone::posix(text.trim()).ok().map(Self)
    }

    /// Whether a time, in seconds since the Unix epoch, lies in one of the spans; with none, always.
    pub fn is_within(&self, spans: &[Span], now: f64) -> bool {
        let Some((now, today)) = self.day_of(now) else {
            return spans.is_empty();
        };
        spans.is_empty()
            || spans.iter().any(|span| {
                [-1, 0].into_iter().any(|day| {
                    self.bounds(span, today, day)
                        .is_some_and(|(from, to)| from <= now && now < to)
                })
            })
    }

    /// A time, in seconds since the Unix epoch, with its date and the zone's abbreviation; `None`
    /// outside of the years -9999 to 9999.
    pub fn text(&self, time: f64) -> Option<String> {
        let time = Timestamp::from_second(time as i64).ok()?;
        let zoned = time.to_zoned(self.0.clone());
        Some(zoned.strftime("%Y-%m-%d %H:%M:%S %Z").to_string())
    }

    /// The full local hour of a time in seconds since the Unix epoch; `None` outside of the years -9999 to 9999.
    pub fn hour(&self, time: f64) -> Option<Hour> {
        let second = time.floor() as i64;
        let time = Timestamp::from_second(second).ok()?;
        let ahead = i64::from(self.0.to_offset(time).seconds());
        let local = second.checked_add(ahead)?;
        let date = self.0.to_datetime(time).date();
        Some(Hour {
            start: second - local.rem_euclid(3_600),
            day: date.to_string(),
        })
    }

    /// The local day and time of day of a time in seconds since the Unix epoch; `None` as for [`hour`](Self::hour).
    pub fn time_of_week(&self, time: f64) -> Option<TimeOfWeek> {
        const DAYS: [&str; 7] = [
            "Monday",
            "Tuesday",
            "Wednesday",
            "Thursday",
            "Friday",
            "Saturday",
            "Sunday",
        ];
        let (now, date) = self.day_of(time)?;
        let clock = self.0.to_datetime(now).time();
        Some(TimeOfWeek {
            day: date.to_string(),
            weekday: DAYS[date.weekday().to_monday_zero_offset() as usize],
            minutes: clock.hour() as u16 * 60 + clock.minute() as u16,
        })
    }

    /// When a span begins or ends next, in seconds since the Unix epoch; `None`: never.
    pub(super) fn next_change(&self, spans: &[Span], now: f64) -> Option<f64> {
        let (now, today) = self.day_of(now)?;
        // A week and a day: of a span that began today, the next begins in a week.
        let bounds = spans
            .iter()
            .flat_map(|span| (-1..=8).filter_map(move |day| self.bounds(span, today, day)));
        let next = bounds
            .flat_map(|(from, to)| [from, to])
            .filter(|bound| *bound > now)
            .min()?;
        Some(next.as_second() as f64)
    }

    fn day_of(&self, now: f64) -> Option<(Timestamp, Date)> {
        let now = Timestamp::from_millisecond((now * 1e3) as i64).ok()?;
        Some((now, self.0.to_datetime(now).date()))
    }

    /// When a span begins that may begin so many days from today, and when it ends. A time that the clocks
    /// skip is as long after midnight as it would have been; of one that comes twice, the first counts (RFC
    /// 5545, section 3.3.5).
    fn bounds(&self, span: &Span, today: Date, day: i64) -> Option<(Timestamp, Timestamp)> {
        const DAY: u16 = 24 * 60;

        let date = today.checked_add(day.days()).ok()?;
        let weekday = date.weekday().to_monday_zero_offset();
        if span.days >> weekday & 1 == 0 {
            return None;
        }
        let at = |minutes: u16| {
            let date = match minutes / DAY {
                0 => date,
                _ => date.tomorrow().ok()?,
            };
            let minutes = minutes % DAY;
            let time = Time::new((minutes / 60) as i8, (minutes % 60) as i8, 0, 0).ok()?;
            let zoned = self.0.to_zoned(date.to_datetime(time)).ok()?;
            Some(zoned.timestamp())
        };
        let to = match span.to > span.from {
            true => span.to,
            false => span.to + DAY,
        };
        Some((at(span.from)?, at(to)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONDAY: u8 = 1;
    const SATURDAY: u8 = 1 << 5;
    const SUNDAY: u8 = 1 << 6;

    #[track_caller]
    fn check(span: Span, time: &str, within: bool) {
        let zone = Zone::named(Some("Europe/Berlin"));
        let now: Timestamp = time.parse().expect("a time");
        let now = now.as_second() as f64;
        assert_eq!(zone.is_within(&[span], now), within, "{time}");
    }

    #[test]
    fn a_zone_of_openwrt_has_its_daylight_saving() -> std::io::Result<()> {
        let file = std::env::temp_dir().join(format!("sensor-tz-{}", std::process::id()));
        // As OpenWrt writes it for Berlin, and for Kolkata.
        let check = |text: &str, time: &str, expected: Option<&str>| -> std::io::Result<()> {
            fs::write(&file, text)?;
            let time: Timestamp = time.parse().expect("a time");
            let zone = Zone::of_file(&file);
            let found = zone.and_then(|zone| zone.text(time.as_second() as f64));
            assert_eq!(found.as_deref(), expected, "{text:?}");
            Ok(())
        };
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3\n";
        let winter = Some("2026-11-22 21:00:00 CET");
        let summer = Some("2026-07-01 22:00:00 CEST");
        check(berlin, "2026-11-22T20:00:00Z", winter)?;
        check(berlin, "2026-07-01T20:00:00Z", summer)?;
        let kolkata = Some("2026-07-01 19:30:00 IST");
        check("IST-5:30", "2026-07-01T14:00:00Z", kolkata)?;
        check("", "2026-07-01T14:00:00Z", None)?;
        check("Europe/Berlin", "2026-07-01T14:00:00Z", None)?;
        fs::remove_file(&file)?;
        assert!(Zone::of_file(&file).is_none());
        Ok(())
    }

    const fn span(days: u8, from: u16, to: u16) -> Span {
        Span { days, from, to }
    }

    #[test]
    fn a_span_begins_on_its_days_and_may_end_on_the_next() {
        // 2026-11-22 is a Sunday; Berlin is an hour before UTC.
        let night = span(SUNDAY, 21 * 60, 7 * 60);
        check(night, "2026-11-22T19:59:59Z", false);
        check(night, "2026-11-22T20:00:00Z", true);
        check(night, "2026-11-23T05:59:59Z", true);
        check(night, "2026-11-23T06:00:00Z", false);
        check(night, "2026-11-23T20:00:00Z", false);
        let day = span(MONDAY, 0, 1440);
        check(day, "2026-11-22T22:59:59Z", false);
        check(day, "2026-11-22T23:00:00Z", true);
        check(day, "2026-11-23T22:59:59Z", true);
        check(day, "2026-11-23T23:00:00Z", false);
    }

    #[test]
    fn clocks_that_are_changed_change_the_length_of_a_span() {
        // In the night of 2026-03-29 two o'clock is three.
        let night = span(SATURDAY, 23 * 60, 4 * 60);
        check(night, "2026-03-28T22:00:00Z", true);
        check(night, "2026-03-29T01:59:59Z", true);
        check(night, "2026-03-29T02:00:00Z", false);
        // A span that begins in the skipped hour begins as long after midnight as it would have on another
        // day.
        let gap = span(SUNDAY, 2 * 60 + 30, 4 * 60);
        check(gap, "2026-03-29T01:29:59Z", false);
        check(gap, "2026-03-29T01:30:00Z", true);
        // In the night of 2026-10-25 three o'clock is two.
        let twice = span(SUNDAY, 2 * 60 + 30, 3 * 60);
        check(twice, "2026-10-25T00:29:59Z", false);
        check(twice, "2026-10-25T00:30:00Z", true);
        check(twice, "2026-10-25T01:59:59Z", true);
        check(twice, "2026-10-25T02:00:00Z", false);
    }

    #[test]
    fn a_span_across_the_hour_that_is_left_out_or_comes_twice() {
        let zone = Zone::named(Some("Europe/Berlin"));
        let spans = [span(SUNDAY, 90, 210)];
        for (from, to, next) in [
            // An hour long, and three.
            (
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:30:00Z",
                "2026-04-04T23:30:00Z",
            ),
            (
                "2026-10-24T23:30:00Z",
                "2026-10-25T02:30:00Z",
                "2026-11-01T00:30:00Z",
            ),
        ] {
            let [from, to, next] = [from, to, next].map(|time| {
                let time: Timestamp = time.parse().expect("a time");
                time.as_second() as f64
            });
            for (now, within, change) in [
                (from - 1.0, false, from),
                (from, true, to),
                (to - 0.1, true, to),
                (to, false, next),
            ] {
                assert_eq!(zone.is_within(&spans, now), within, "{now}");
                assert_eq!(zone.next_change(&spans, now), Some(change), "{now}");
            }
        }
    }

    #[test]
    fn the_next_change_is_where_a_span_begins_or_ends() {
        let zone = Zone::named(Some("Europe/Berlin"));
        let at = |time: &str| {
            let time: Timestamp = time.parse().expect("a time");
            time.as_second() as f64
        };
        let spans = [span(SUNDAY, 21 * 60, 7 * 60)];
        let mut now = at("2026-11-20T12:00:00Z");
        for expected in [
            "2026-11-22T20:00:00Z",
            "2026-11-23T06:00:00Z",
            "2026-11-29T20:00:00Z",
        ] {
            now = zone.next_change(&spans, now).expect("a change");
            assert_eq!(now, at(expected));
        }
        assert_eq!(zone.next_change(&[], now), None);
    }
}
