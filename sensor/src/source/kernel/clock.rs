//! What a jiffy is.
//!
//! The kernel stamps flows with jiffies because reading them costs nothing. How many make a second
//! is a build option of the kernel that no file tells; the program `clock` gives both of its
//! clocks at once, and two such readings give the rate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use rustix::time::{ClockId, clock_gettime};

use super::Error;
use crate::record::Clock;

/// The values `CONFIG_HZ` can have.
const RATES: [u64; 6] = [24, 48, 100, 250, 300, 1000];

/// Both clocks of the kernel at one moment.
#[derive(Clone, Copy)]
struct Reading {
    jiffies: u64,
    nanoseconds: u64,
}

fn read(program: &Xdp) -> Result<Reading, Error> {
    let input = [0; 64];
    let mut output = [0; 64];
    let options = TestRunOptions {
        data_in: Some(&input),
        data_out: Some(&mut output),
        ..TestRunOptions::new()
    };
    program.test_run(options).map_err(|source| Error::Program {
        program: "clock",
        source,
    })?;
    let [a, b, ..] = output.as_chunks::<8>().0 else {
        unreachable!("64 octets are eight words");
    };
    Ok(Reading {
        jiffies: u64::from_ne_bytes(*a),
        nanoseconds: u64::from_ne_bytes(*b),
    })
}

/// The kernel's time now.
pub(super) struct Now {
    /// Jiffies since boot.
    pub(super) jiffies: u64,
    /// Jiffies when `CLOCK_MONOTONIC` was 0.
    pub(super) at_boot: u64,
    /// How jiffies relate to the time of day.
    pub(super) clock: Clock,
}

/// Jiffies of so many nanoseconds.
fn jiffies_of(nanoseconds: u64, hz: u64) -> u64 {
    (u128::from(nanoseconds) * u128::from(hz) / 1_000_000_000) as u64
}

/// Jiffies since boot, as `CLOCK_MONOTONIC` tells them.
pub(super) fn jiffies(at_boot: u64, hz: u64) -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let nanoseconds = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    at_boot.wrapping_add(jiffies_of(nanoseconds, hz))
}

/// Jiffies now, and how they relate to both clocks.
pub(super) fn now(program: &Xdp, hz: u64) -> Result<Now, Error> {
    let reading = read(program)?;
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let since = reading.jiffies.saturating_mul(1000) / hz.max(1);
    let epoch_millis = (unix.as_millis() as u64).saturating_sub(since);
    Ok(Now {
        jiffies: reading.jiffies,
        at_boot: reading
            .jiffies
            .wrapping_sub(jiffies_of(reading.nanoseconds, hz)),
        clock: Clock { hz, epoch_millis },
    })
}

/// Measures how many jiffies make a second; takes about 60 ms.
pub(super) fn rate(program: &Xdp) -> Result<u64, Error> {
    let first = read(program)?;
    std::thread::sleep(Duration::from_millis(60));
    let second = read(program)?;
    let jiffies = second.jiffies - first.jiffies;
    let nanoseconds = (second.nanoseconds - first.nanoseconds).max(1);
    let measured = jiffies as f64 * 1e9 / nanoseconds as f64;
    let nearest = |rate: &u64| ((*rate as f64 / measured.max(1.0)).ln().abs() * 1e6) as u64;
    Ok(RATES.into_iter().min_by_key(nearest).unwrap_or(250))
}
