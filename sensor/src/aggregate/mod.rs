//! From records to a snapshot. Knows no clock, no channel and no kernel.

mod reading;

pub use reading::{action, flow, mac_text};

use reading::Reading;

use crate::{
    model::{Snapshot, Ticks},
    record::Record,
};

/// What is known, put together from records.
#[derive(Debug, Default)]
pub struct Aggregate {
    reading: Reading,
}

impl Aggregate {
    /// Takes one record.
    pub fn apply(&mut self, record: Record) {
        self.reading.apply(record);
    }

    /// Everything as a snapshot. The ticks are the daemon's own: no table knows them.
    pub fn snapshot(&self, ticks: Ticks) -> Snapshot {
        self.reading.snapshot(ticks)
    }
}
