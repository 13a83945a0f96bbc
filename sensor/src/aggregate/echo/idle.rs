//! Uploads while a device is idle: 30 minutes after the last visit or stream.

use std::ops::Range;

/// Seconds after the last use from which a device is idle.
const AFTER: u32 = 30 * 60;

/// Seconds of a minute, and the uploads to one party in it from which that is a stream: a download that somebody
/// watches is acknowledged each second.
const MINUTE: u32 = 60;
const STREAM: usize = 30;

/// The fewest intervals between uploads of which a cadence is told.
const FEWEST: usize = 8;

/// The middle half of regular intervals is within this share of their median.
const REGULAR: f64 = 0.2;

/// Uploads to a party while the device was idle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IdleUploads {
    /// How many.
    pub count: u32,
    /// The time of the first, in seconds.
    pub first: u32,
    /// The time of the last, in seconds.
    pub last: u32,
    /// The median interval in seconds, where intervals are regular: at least eight, the middle half within 20 % of the
    /// median.
    pub every: Option<f64>,
}

/// The minutes of a stream among uploads to one party, which are in the order of time: the last second of each.
pub(super) fn streams(uploads: &[u32]) -> impl Iterator<Item = u32> {
    let minutes = uploads.chunk_by(|one, next| one / MINUTE == next / MINUTE);
    let streams = minutes.filter(|minute| minute.len() >= STREAM);
    streams.filter_map(|minute| minute.last().copied())
}

/// The idle times within `span`, given the times of visits and streams in order. Nothing is known of the time before
/// the span, so it begins in use.
pub(super) fn idle(span: Range<u32>, used: &[u32]) -> Vec<Range<u32>> {
    let inside = used.iter().copied().filter(|time| span.contains(time));
    let starts = std::iter::once(span.start).chain(inside.clone());
    let ends = inside.chain([span.end]);
    let times = starts.zip(ends).map(|(start, end)| start + AFTER..end);
    times.filter(|idle| !idle.is_empty()).collect()
}

/// The uploads to one party in idle times; `None` without any.
pub(super) fn uploads(uploads: &[u32], idle: &[Range<u32>]) -> Option<IdleUploads> {
    let (mut first, mut last, mut count) = (None, 0, 0);
    let mut intervals = Vec::new();
    for time in idle {
        let from = uploads.partition_point(|upload| *upload < time.start);
        let to = uploads.partition_point(|upload| *upload < time.end);
        let inside = &uploads[from..to];
        let (Some(begin), Some(end)) = (inside.first(), inside.last()) else {
            continue;
        };
        first = first.or(Some(*begin));
        last = *end;
        count += inside.len() as u32;
        intervals.extend(inside.windows(2).map(|pair| pair[1] - pair[0]));
    }
    Some(IdleUploads {
        count,
        first: first?,
        last,
        every: cadence(&mut intervals),
    })
}

/// The median of intervals, where they are regular.
fn cadence(intervals: &mut [u32]) -> Option<f64> {
    if intervals.len() < FEWEST {
        return None;
    }
    intervals.sort_unstable();
    let quarter = |number: usize| f64::from(intervals[number * (intervals.len() - 1) / 4]);
    let median = quarter(2);
    let is_near = |interval: f64| (interval - median).abs() <= REGULAR * median;
    (is_near(quarter(1)) && is_near(quarter(3))).then_some(median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_idle_half_an_hour_after_its_last_use() {
        let check = |used: &[u32], expected: &[(u32, u32)]| {
            let times = idle(10_000..30_000, used).into_iter();
            let times: Vec<_> = times.map(|time| (time.start, time.end)).collect();
            assert_eq!(times, expected, "{used:?}");
        };
        check(&[], &[(11_800, 30_000)]);
        check(&[9_000, 12_000], &[(11_800, 12_000), (13_800, 30_000)]);
        check(&[11_000, 12_800, 29_000], &[(14_600, 29_000)]);
        check(&[28_200, 30_000], &[(11_800, 28_200)]);
    }

    #[test]
    fn a_minute_full_of_uploads_is_a_stream() {
        let second: Vec<_> = (6_000..6_090).collect();
        assert_eq!(streams(&second).collect::<Vec<_>>(), [6_059, 6_089]);
        let third: Vec<_> = (6_000..6_090).step_by(3).collect();
        assert_eq!(streams(&third).count(), 0);
    }

    #[test]
    fn uploads_in_idle_times_have_a_count_and_a_cadence() {
        let heartbeat: Vec<_> = (0..100).map(|at| 1_000 + at * 270 + at % 3 * 10).collect();
        let times = [5_000..10_000, 20_000..25_000];
        let found = uploads(&heartbeat, &times).expect("some");
        let inside = heartbeat
            .iter()
            .filter(|at| times.iter().any(|idle| idle.contains(at)));
        assert_eq!(found.count, inside.count() as u32);
        assert!((5_000..5_300).contains(&found.first) && (24_700..25_000).contains(&found.last));
        assert_eq!(found.every, Some(280.0));
        assert_eq!(uploads(&heartbeat, std::slice::from_ref(&(0..1_000))), None);
    }

    #[test]
    fn intervals_that_differ_have_no_cadence() {
        assert_eq!(cadence(&mut [100; 7]), None);
        assert_eq!(cadence(&mut [100; 8]), Some(100.0));
        assert_eq!(
            cadence(&mut [10, 10, 10, 100, 100, 100, 300, 300, 300]),
            None
        );
        // A few that were missed change nothing.
        assert_eq!(
            cadence(&mut [100, 101, 99, 100, 102, 98, 100, 200, 300]),
            Some(100.0)
        );
    }
}
