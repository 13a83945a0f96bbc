//! Whether the daemon works: set by the owner of the tables, asked by HTTP and by the service manager.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use thiserror::Error;

/// The state, shared by the threads that set it and those that ask.
#[derive(Clone, Debug)]
pub struct Health(Arc<State>);

#[derive(Debug)]
struct State {
    started: Instant,
    /// Milliseconds of silence.
    stale_after: AtomicU64,
    attached: AtomicBool,
    ticked: AtomicBool,
    /// Milliseconds from `started` to the last tick.
    last_tick: AtomicU64,
}

/// The fault.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Unwell {
    /// The tables are no longer read.
    #[error("the kernel's tables were last read {} s ago; see the log of the sensor", .0.as_secs())]
    Stale(Duration),
    /// An interface has no program.
    #[error("not attached to every interface; see `sensor status`")]
    NotAttached,
    /// The first snapshot does not exist yet.
    #[error("starting: the kernel's tables were not read yet")]
    Starting,
}

impl Health {
    /// Not attached and without a tick; silence of more than `stale_after` is an illness.
    pub fn new(stale_after: Duration, now: Instant) -> Self {
        Self(Arc::new(State {
            started: now,
            stale_after: AtomicU64::new(millis(stale_after)),
            attached: AtomicBool::new(false),
            ticked: AtomicBool::new(false),
            last_tick: AtomicU64::new(0),
        }))
    }

    /// Says how much silence is an illness from now on: the time between ticks is another one.
    pub fn set_stale_after(&self, stale_after: Duration) {
        let stale_after = millis(stale_after);
        self.0.stale_after.store(stale_after, Ordering::Release);
    }

    /// Tells whether every interface of the configuration has its programs.
    pub fn set_attached(&self, attached: bool) {
        self.0.attached.store(attached, Ordering::Release);
    }

    /// Tells that a tick ended.
    pub fn ticked(&self, now: Instant) {
        let since_start = millis(now.saturating_duration_since(self.0.started));
        self.0.last_tick.store(since_start, Ordering::Release);
        self.0.ticked.store(true, Ordering::Release);
    }

    /// Whether ticks go on.
    pub fn alive(&self, now: Instant) -> Result<(), Unwell> {
        let last = Duration::from_millis(self.0.last_tick.load(Ordering::Acquire));
        let silence = now
            .saturating_duration_since(self.0.started)
            .saturating_sub(last);
        let stale_after = Duration::from_millis(self.0.stale_after.load(Ordering::Acquire));
        if silence > stale_after {
            return Err(Unwell::Stale(silence));
        }
        Ok(())
    }

    /// Whether it is alive, attached, and has read the tables.
    pub fn ready(&self, now: Instant) -> Result<(), Unwell> {
        self.alive(now)?;
        if !self.0.ticked.load(Ordering::Acquire) {
            return Err(Unwell::Starting);
        }
        if !self.0.attached.load(Ordering::Acquire) {
            return Err(Unwell::NotAttached);
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_ticks_are_no_illness() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let health = Health::new(Duration::from_secs(10), start);
        health.set_stale_after(Duration::from_secs(300));
        assert_eq!(health.alive(at(299)), Ok(()));
        health.set_stale_after(Duration::from_secs(10));
        assert!(health.alive(at(299)).is_err());
    }

    #[test]
    fn silence_is_an_illness_and_a_tick_heals_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let health = Health::new(Duration::from_secs(5), start);
        assert_eq!(health.alive(at(5)), Ok(()));
        assert_eq!(
            health.alive(at(6)),
            Err(Unwell::Stale(Duration::from_secs(6)))
        );
        health.ticked(at(7));
        assert_eq!(health.alive(at(12)), Ok(()));
        assert_eq!(
            health.alive(at(13)),
            Err(Unwell::Stale(Duration::from_secs(6)))
        );
    }

    #[test]
    fn ready_is_attached_and_ticked() {
        let start = Instant::now();
        let health = Health::new(Duration::from_secs(5), start);
        assert_eq!(health.ready(start), Err(Unwell::Starting));
        health.ticked(start);
        assert_eq!(health.ready(start), Err(Unwell::NotAttached));
        health.set_attached(true);
        assert_eq!(health.ready(start), Ok(()));
        health.set_attached(false);
        assert_eq!(health.ready(start), Err(Unwell::NotAttached));
    }
}
