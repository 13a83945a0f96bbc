//! `[history]`.

use std::{ops::RangeInclusive, time::Duration};

use strum::VariantArray as _;

use crate::config::{
    History, KeptNames,
    problem::{Level, Problem},
    reader::{Reader, Section},
    value,
};

const BATCH: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
const MAX_MIB: RangeInclusive<u32> = 4..=65_536;
const KEPT: RangeInclusive<Duration> = days(1)..=days(3_650);

/// Other words for the names that are kept.
const KEEP_ELSEWHERE: [(&str, &str); 6] = [
    ("sites", "all"),
    ("everything", "all"),
    ("none", "off"),
    ("nothing", "off"),
    ("no", "off"),
    ("default", "parties"),
];

const fn days(days: u64) -> Duration {
    Duration::from_hours(24 * days)
}

impl Reader {
    pub(super) fn history(&mut self, root: &Section<'_, '_>) -> History {
        let section = self.section(root, "history", "[history]");
        let section = section.as_ref();
        self.know_keys_of(
            section,
            &[
                "keep",
                "directory",
                "batch",
                "max_mib",
                "party_hours",
                "device_hours",
                "device_days",
            ],
        );
        let directory = self.optional_text(
            section,
            "directory",
            "directory = \"/srv/sensor\"",
            |text| {
                value::absolute_path(text, || {
                    "write a folder, for example `directory = \"/srv/sensor\"`".to_owned()
                })
            },
        );
        let keep = section
            .and_then(|section| self.choice(section, "keep", KeptNames::VARIANTS, &KEEP_ELSEWHERE));
        if let Some(section) = section
            && keep == Some(KeptNames::All)
            && let Some(value) = section.get("keep")
        {
            self.problems.push(Problem {
                level: Level::Warning,
                message: "the names of all sites that devices visit will be written to disk"
                    .to_owned(),
                span: Some(value.span()),
                label: "a record of what everybody in the house reads".to_owned(),
                related: None,
                help: "tell the people whose devices these are, or write `keep = \"parties\"`"
                    .to_owned(),
            });
        }
        History {
            keep: keep.unwrap_or(KeptNames::Parties),
            directory: directory.map(|(path, _)| path),
            batch: self.duration(section, "batch", BATCH, Duration::from_mins(5)),
            max_mib: self.number(section, "max_mib", MAX_MIB, 128),
            party_hours: self.duration(section, "party_hours", KEPT, days(35)),
            device_hours: self.duration(section, "device_hours", KEPT, days(100)),
            device_days: self.duration(section, "device_days", KEPT, days(760)),
        }
    }
}
