//! What a jiffy is.
//!
//! The kernel stamps flows with jiffies because reading them costs nothing. How many make a second
//! is a build option of the kernel that no file tells; the program `clock` gives both of its
//! clocks at once, and two such readings give the rate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aya::programs::{TestRun as _, TestRunOptions, Xdp};

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

/// Jiffies now, and how they relate to the time of day.
pub(super) fn now(program: &Xdp, hz: u64) -> Result<(u64, Clock), Error> {
    let reading = read(program)?;
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let since = reading.jiffies.saturating_mul(1000) / hz.max(1);
    let epoch_millis = (unix.as_millis() as u64).saturating_sub(since);
    Ok((reading.jiffies, Clock { hz, epoch_millis }))
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
