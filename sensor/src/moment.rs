//! A moment, by both clocks.
//!
//! The wall clock serves schedules and display, and may be set at any time, by years and either way. Ages and
//! deadlines use the *steady* time, which nobody can set: the daemon reads it off the clock of the time since
//! boot (`CLOCK_BOOTTIME`).

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Steady time, in seconds: the time that the wall clock would show if nobody had set it since the daemon
    /// began.
    pub steady: f64,
    /// The wall clock's time, in seconds since the Unix epoch.
    pub wall: f64,
    /// Whether the wall clock is right: it is synchronised, or not before the date of the source.
    pub is_known: bool,
    /// Seconds since the machine was booted, including those in which it slept.
    pub since_boot: f64,
    /// The number of that boot (random(4)); 0 where it is not known.
    pub boot: u128,
}

impl From<f64> for Moment {
    /// A moment at which both clocks show this, in a boot without a number.
    fn from(now: f64) -> Self {
        Self {
            steady: now,
            wall: now,
            is_known: true,
            since_boot: now,
            boot: 0,
        }
    }
}

impl Moment {
    /// The wall clock's time in seconds since the Unix epoch, where it is right.
    pub fn known(&self) -> Option<f64> {
        self.is_known.then_some(self.wall)
    }

    /// The difference that turns a steady time into the wall clock's.
    pub const fn offset(&self) -> f64 {
        self.wall - self.steady
    }
}
