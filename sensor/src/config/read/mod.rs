//! TOML to [`Config`], in one pass that reports everything it finds. Each section has a module.

mod daemon;
mod device;
mod history;
mod interface;
mod list;
mod names;
mod parties;
mod policy;
mod tables;

use std::ops::Range;

use toml::de::DeTable;

use super::{
    Config, DeviceOverride,
    places::Places,
    problem::{Level, Problem},
    reader::{Reader, Section},
    value::{self, Complaint},
};
use crate::policy::DeviceSelector;

/// The result of reading a text.
pub(super) struct Read {
    /// The configuration, as far as it can be read.
    pub(super) config: Config,
    /// Every problem found.
    pub(super) problems: Vec<Problem>,
    /// The places of values that are checked once all is read.
    pub(super) places: Places,
    /// Whether the pin directory and the runtime directory are certainly those that are meant, whatever else
    /// is wrong.
    pub(super) is_place_certain: bool,
}

impl Read {
    /// Whether no problem is an error.
    pub(super) fn may_be_used(&self) -> bool {
        self.problems.iter().all(|it| it.level != Level::Error)
    }
}

/// Reads a text to its end, whatever is wrong with it.
pub(super) fn read(text: &str) -> Read {
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader::default();
    let config = reader.config(document.get_ref());
    if !syntax_errors.is_empty() {
        // Values from a broken text are not checked, because their problems would not be the
        // writer's.
        reader.problems = syntax_errors
            .iter()
            .map(|error| syntax_problem(text, error))
            .collect();
        reader.places = Places::default();
    }
    let is_place_certain = [
        ("pin_directory", &reader.pin_directory),
        ("runtime_directory", &reader.runtime_directory),
    ]
    .into_iter()
    .all(|(key, place)| match place {
        Some(place) => is_whole(text, place, &syntax_errors),
        // In a broken text, a line may be lost or stand in another section.
        None => !has_line_with(text, key),
    });
    Read {
        config,
        problems: reader.problems,
        places: reader.places,
        is_place_certain,
    }
}

/// Whether no error is in the line in which something stands: a text without its second quote is read
/// to the end of the line.
fn is_whole(text: &str, place: &Range<usize>, errors: &[toml::de::Error]) -> bool {
    let start = text[..place.start].rfind('\n').unwrap_or(0);
    let end = text[place.end..].find('\n').map(|end| place.end + end);
    let end = end.unwrap_or(text.len());
    errors.iter().all(|error| {
        let span = error.span();
        span.is_some_and(|span| span.end < start || span.start > end)
    })
}

/// Whether a line that is no comment has a key.
fn has_line_with(text: &str, key: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start);
    lines.any(|line| !line.starts_with('#') && line.contains(key))
}

/// Devices, as a policy names them.
pub(super) fn devices_called(
    text: &str,
    devices: &[DeviceOverride],
) -> Result<DeviceSelector, Complaint> {
    let reader = Reader {
        device_names: devices
            .iter()
            .filter_map(|device| device.name.clone())
            .collect(),
        groups: devices
            .iter()
            .flat_map(|device| device.groups.iter().cloned())
            .collect(),
        ..Reader::default()
    };
    reader.device_selector(text)
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let (message, expected) = match error.message().split_once(", expected ") {
        Some((message, expected)) => (message, Some(expected)),
        None => (error.message(), None),
    };
    let span = error.span().unwrap_or(text.len()..text.len());
    let written = text.get(span.clone()).unwrap_or_default();
    let help = match (message, expected) {
        ("string values must be quoted", _) if !written.is_empty() => {
            format!("write `\"{}\"`", value::excerpt(written))
        }
        ("duplicate key", _) => {
            "keep one of the two; only `[[interface]]`, `[[policy]]`, `[[list]]` and `[[device]]` \
             may stand more than once"
                .to_owned()
        }
        (_, Some(expected)) if expected.starts_with('`') => format!("add {expected} here"),
        _ => "write `key = value`, texts in double quotes, lists in square brackets".to_owned(),
    };
    Problem {
        level: Level::Error,
        message: format!("this is not TOML: {}", value::excerpt(message)),
        span: Some(span),
        label: expected.map_or_else(String::new, |expected| format!("expected {expected}")),
        related: None,
        help,
    }
}

impl Reader {
    fn config(&mut self, document: &DeTable<'_>) -> Config {
        let root = Section {
            name: "the configuration",
            table: document,
            span: 0..0,
        };
        self.know_keys(
            &root,
            &[
                "interface",
                "flow_table",
                "device_table",
                "daemon",
                "policy",
                "names",
                "parties",
                "list",
                "device",
                "history",
            ],
        );
        // Policies name devices.
        let devices = self.device_overrides(&root);
        let config = Config {
            interfaces: self.interfaces(&root),
            flow_table: self.flow_table(&root),
            device_table: self.device_table(&root),
            daemon: self.daemon(&root),
            policies: self.policies(&root),
            names: self.names(&root),
            parties: self.parties(&root),
            lists: self.lists(&root),
            history: self.history(&root),
            devices,
        };
        self.need_databases(&root, &config);
        config
    }
}
