//! Text for people and JSON for programs, of everything that commands show.

mod devices;
mod explain;
mod findings;
mod flows;
mod history;
mod overrides;
mod pauses;
mod refused;
pub mod replay;
mod report;
mod status;
mod text;
mod trial;

use std::io::{self, Write};

use crate::{
    config::{Config, Level, Problems},
    policy::Zone,
};

pub use devices::{print_devices, print_each_device, print_shared, shared_address};
pub use explain::print_explanation;
pub use findings::print_findings;
pub use flows::print_flows;
pub use history::{
    Habit, Past, print_csv_header, print_csv_row, print_history, print_history_json,
    print_ndjson_row,
};
pub use overrides::{
    print_forgotten, print_missed, print_none_forgotten, print_others, print_override,
    print_refused_before,
};
pub use pauses::{print_paused, print_resumed};
pub use refused::print_refused;
pub use report::{print_reports, print_reports_as_markdown};
pub use status::print_status;

pub use trial::{DeviceTrial, RefusedParty, print_trial};

pub use text::{print_list, printable_lines};

use text::counted;

/// Bytes for people.
pub fn bytes(bytes: u64) -> String {
    text::octets(bytes)
}

/// A time in seconds since the Unix epoch, as a clock in that zone shows it.
pub fn time(zone: &Zone, moment: f64) -> String {
    text::local_time(zone, moment)
}

/// Prints the result of `check` for a valid configuration.
pub fn print_valid(out: &mut impl Write, config: &Config) -> io::Result<()> {
    writeln!(
        out,
        "configuration is valid: {}, {}",
        counted(config.interfaces.len(), "interface", "interfaces"),
        counted(config.policies.len(), "policy", "policies"),
    )
}

/// Prints problems.
pub fn print_problems(out: &mut impl Write, problems: &Problems, colours: bool) -> io::Result<()> {
    match problems.is_empty() {
        true => Ok(()),
        false => writeln!(out, "{}\n", problems.render(colours)),
    }
}

/// Prints how many problems an invalid configuration has.
pub fn print_invalid(out: &mut impl Write, problems: &Problems) -> io::Result<()> {
    writeln!(
        out,
        "configuration is not valid: {}, {}",
        counted(problems.count(Level::Error), "error", "errors"),
        counted(problems.count(Level::Warning), "warning", "warnings"),
    )
}
