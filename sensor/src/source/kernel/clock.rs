//! The length of a jiffy.
//!
//! The kernel stamps flows with jiffies because reading them costs nothing. How many make a second
//! is a build option of the kernel that no file tells on every kernel; the program `clock` gives both of its
//! clocks at once, and two such readings, each at the beginning of a jiffy, give the rate.

use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use rustix::time::{ClockId, clock_gettime};

use super::Error;

/// The values `CONFIG_HZ` can have: those of kernel/Kconfig.hz, and what alpha, arm and mips choose
/// themselves.
const RATES: [u64; 14] = [
    24, 32, 48, 64, 100, 128, 200, 250, 256, 300, 500, 1000, 1024, 1200,
];

/// How far a measured rate may be from one of [`RATES`]: the closest two are 2.3 percent apart.
const TOLERANCE: f64 = 0.008;

/// How long it is measured at first, and at most.
const SHORTEST: Duration = Duration::from_millis(60);
const LONGEST: Duration = Duration::from_secs(1);

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
        unreachable!("64 bytes are eight words");
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

/// Jiffies now, and how they relate to `CLOCK_MONOTONIC`.
pub(super) fn now(program: &Xdp, hz: u64) -> Result<Now, Error> {
    let reading = read(program)?;
    Ok(Now {
        jiffies: reading.jiffies,
        at_boot: reading
            .jiffies
            .wrapping_sub(jiffies_of(reading.nanoseconds, hz)),
    })
}

/// Measures how many jiffies make a second; takes about 100 ms, and up to [`LONGEST`] where the machine
/// is busy.
pub(super) fn rate(program: &Xdp) -> Result<u64, Error> {
    let first = edge(program)?;
    let mut measured = SHORTEST;
    loop {
        std::thread::sleep(measured);
        let (rate, is_certain) = nearest(first, edge(program)?);
        if is_certain || measured >= LONGEST {
            return Ok(rate);
        }
        measured = (measured * 2).min(LONGEST);
    }
}

/// Both clocks at the moment at which a jiffy begins: between two such moments lie whole jiffies.
fn edge(program: &Xdp) -> Result<Reading, Error> {
    /// A jiffy is 42 ms at most.
    const POLLS: usize = 1000;
    const POLL: Duration = Duration::from_micros(50);

    let before = read(program)?;
    for _ in 0..POLLS {
        let now = read(program)?;
        if now.jiffies != before.jiffies {
            return Ok(now);
        }
        std::thread::sleep(POLL);
    }
    read(program)
}

/// The rate that is nearest to what two readings give, and whether it can be no other.
fn nearest(first: Reading, second: Reading) -> (u64, bool) {
    let jiffies = second.jiffies.saturating_sub(first.jiffies);
    let nanoseconds = second.nanoseconds.saturating_sub(first.nanoseconds).max(1);
    let measured = jiffies as f64 * 1e9 / nanoseconds as f64;
    let distance = |rate: u64| (rate as f64 / measured.max(1.0)).ln().abs();
    let rate = RATES
        .into_iter()
        .min_by(|one, other| distance(*one).total_cmp(&distance(*other)))
        .unwrap_or(250);
    (rate, distance(rate) < TOLERANCE)
}

/// Whether the kernel says that the wall clock is kept right. A service manager may forbid to ask.
pub fn is_synchronised() -> bool {
    // SAFETY: plain numbers, for which zeros are values: nothing is to be set.
    let mut asked: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one record, which lives as long as the call.
    let state = unsafe { libc::adjtimex(&raw mut asked) };
    (0..libc::TIME_ERROR).contains(&state) && asked.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rate_is_told_from_its_neighbours() {
        for rate in RATES {
            // Readings that are up to a fifth of a millisecond behind their edge.
            for late in [-200_000_i64, 0, 200_000] {
                let jiffies = (rate * 60).div_ceil(1000).max(2);
                let exact = (jiffies * 1_000_000_000 / rate) as i64;
                let first = Reading {
                    jiffies: 4_294_937_296,
                    nanoseconds: 1_000_000_000,
                };
                let second = Reading {
                    jiffies: first.jiffies + jiffies,
                    nanoseconds: (first.nanoseconds as i64 + exact + late) as u64,
                };
                assert_eq!(nearest(first, second), (rate, true), "{late}");
            }
        }
    }

    #[test]
    fn what_lies_between_two_rates_is_not_certain() {
        let at = |jiffies, nanoseconds| Reading {
            jiffies,
            nanoseconds,
        };
        let (_, is_certain) = nearest(at(0, 0), at(1012, 1_000_000_000));
        assert!(!is_certain);
        let (_, is_certain) = nearest(at(5, 0), at(5, 0));
        assert!(!is_certain);
    }
}
