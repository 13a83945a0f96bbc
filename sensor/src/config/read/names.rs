//! `[names]`.

use std::{ops::RangeInclusive, time::Duration};

use crate::config::{
    Names,
    reader::{Reader, Section},
};

// 15 is no count in the kernel's word of a flow.
const SEGMENTS: RangeInclusive<u32> = 1..=14;
const ASSEMBLIES: RangeInclusive<u32> = 16..=4_096;
const HOLD: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(1);

impl Reader {
    pub(super) fn names(&mut self, root: &Section<'_, '_>) -> Names {
        let section = self.section(root, "names", "[names]");
        let section = section.as_ref();
        self.know_keys_of(section, &["segments", "hold", "assemblies", "kernel_quic"]);
        let segments = self.number(section, "segments", SEGMENTS, 4);
        Names {
            segments: u8::try_from(segments).unwrap_or(u8::MAX),
            hold: self.duration(section, "hold", HOLD, Duration::from_millis(20)),
            assemblies: section
                .is_some_and(|section| section.get("assemblies").is_some())
                .then(|| self.number(section, "assemblies", ASSEMBLIES, 1_024)),
            kernel_quic: self.boolean(section, "kernel_quic", true),
        }
    }
}
