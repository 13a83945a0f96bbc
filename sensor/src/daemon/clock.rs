//! The clocks of the machine, and whether the wall clock can be believed.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

use crate::{moment::Moment, source::kernel::is_synchronised};

/// When the source was committed, in seconds since the Unix epoch: no wall clock that is right shows less.
const SOURCE_DATE: f64 = match u32::from_str_radix(env!("SENSOR_SOURCE_DATE"), 10) {
    Ok(date) => date as f64,
    Err(_) => panic!("the build script gives a number"),
};

/// The values of the clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Time since boot.
    pub(crate) since_boot: Duration,
    /// Seconds since the Unix epoch.
    pub(crate) wall: f64,
    /// Whether something keeps the wall clock right (adjtimex(2)).
    pub(crate) is_synchronised: bool,
}

/// The daemon's clock. Copies show the same.
#[derive(Clone)]
pub(crate) struct Clock {
    read: Arc<dyn Fn() -> Reading + Send + Sync>,
    /// Steady time at boot.
    base: f64,
    boot: u128,
}

impl Clock {
    /// The machine's clocks.
    pub(crate) fn of_machine() -> Self {
        Self::reading(|| Reading {
            since_boot: Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default(),
            wall: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |now| now.as_secs_f64()),
            is_synchronised: is_synchronised(),
        })
    }

    /// Clocks that are read like this.
    pub(crate) fn reading(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        let now = read();
        Self {
            read: Arc::new(read),
            base: now.wall - now.since_boot.as_secs_f64(),
            boot: boot(),
        }
    }

    /// Now.
    pub(crate) fn now(&self) -> Moment {
        let reading = (self.read)();
        let since_boot = reading.since_boot.as_secs_f64();
        Moment {
            steady: self.base + since_boot,
            wall: reading.wall,
            is_known: reading.is_synchronised || reading.wall >= SOURCE_DATE,
            since_boot,
            boot: self.boot,
        }
    }

    /// Whether something keeps the wall clock right.
    pub(crate) fn is_synchronised(&self) -> bool {
        (self.read)().is_synchronised
    }
}

/// The number that the kernel gave to the time since the last boot (random(4)); 0 where it cannot be read: then
/// each start counts as one behind a boot.
fn boot() -> u128 {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&boot.trim().replace('-', ""), 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const YEARS: f64 = 56.0 * 365.25 * 86_400.0;

    #[test]
    fn steady_time_takes_no_step() {
        let shown = Arc::new(Mutex::new(Reading {
            since_boot: Duration::from_secs(100),
            wall: SOURCE_DATE + 5.0,
            is_synchronised: false,
        }));
        let read = Arc::clone(&shown);
        let clock = Clock::reading(move || *read.lock().expect("nobody panics"));
        let change = |change: &dyn Fn(&mut Reading)| {
            change(&mut shown.lock().expect("nobody panics"));
            clock.now()
        };
        let first = clock.now();
        assert_eq!((first.steady, first.offset()), (first.wall, 0.0));
        assert_eq!(first.known(), Some(first.wall));
        for step in [YEARS, -YEARS, -3_600.0, 0.25] {
            let before = clock.now();
            let after = change(&|reading| {
                reading.wall += step + 2.0;
                reading.since_boot += Duration::from_secs(2);
            });
            assert_eq!(after.steady, before.steady + 2.0);
            assert_eq!(after.since_boot, before.since_boot + 2.0);
            assert!((after.offset() - before.offset() - step).abs() < 1e-3);
        }
        // The time is known by its date or by synchronisation, and then unknown again.
        assert_eq!(
            change(&|reading| reading.wall = SOURCE_DATE - 1.0).known(),
            None
        );
        let kept = change(&|reading| reading.is_synchronised = true);
        assert_eq!(kept.known(), Some(SOURCE_DATE - 1.0));
        let neither = change(&|reading| {
            (reading.wall, reading.is_synchronised) = (12.0, false);
        });
        assert_eq!(neither.known(), None);
    }

    #[test]
    fn the_machine_has_such_clocks() {
        let clock = Clock::of_machine();
        let (first, second) = (clock.now(), clock.now());
        assert!(first.since_boot > 0.0 && second.steady >= first.steady);
        assert!(first.boot != 0 && first.boot == second.boot);
    }
}
