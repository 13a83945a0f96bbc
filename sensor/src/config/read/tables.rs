//! `[flow_table]` and `[device_table]`.

use std::{ops::RangeInclusive, time::Duration};

use crate::config::{
    DeviceTable, FlowTable,
    reader::{Reader, Section},
};

const FLOW_CAPACITY: RangeInclusive<u32> = 64..=1_048_574;
const DEVICE_CAPACITY: RangeInclusive<u32> = 1..=65_536;
const IDLE_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
const RETIRE_AFTER: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(400 * 24);

impl Reader {
    pub(super) fn flow_table(&mut self, root: &Section<'_, '_>) -> FlowTable {
        let section = self.section(root, "flow_table", "[flow_table]");
        let section = section.as_ref();
        self.know_keys_of(section, &["capacity", "idle_after"]);
        FlowTable {
            capacity: self.number(section, "capacity", FLOW_CAPACITY, 65_536),
            idle_after: self.duration(section, "idle_after", IDLE_AFTER, Duration::from_mins(2)),
        }
    }

    pub(super) fn device_table(&mut self, root: &Section<'_, '_>) -> DeviceTable {
        let section = self.section(root, "device_table", "[device_table]");
        let section = section.as_ref();
        self.know_keys_of(section, &["capacity", "retire_after"]);
        let week = Duration::from_hours(7 * 24);
        DeviceTable {
            capacity: self.number(section, "capacity", DEVICE_CAPACITY, 1_024),
            retire_after: self.duration(section, "retire_after", RETIRE_AFTER, week),
        }
    }
}
