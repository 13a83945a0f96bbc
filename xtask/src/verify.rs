//! The slow tests, each part callable alone. The same tests are in the test command, in a thin form; [`LONG`]
//! in the environment asks for the long one.

use std::env;

use anyhow::{Context, Result};

use crate::{
    build,
    command::{run_shown, say},
    fuzz,
    setup::{self, Need},
};

/// The variable of the environment by which a test takes its long form.
pub const LONG: &str = "SENSOR_LONG";

/// How often something is done in a test: so often in the test command, so often in `cargo xtask verify`.
pub fn times<T>(thin: T, long: T) -> T {
    match env::var_os(LONG) {
        Some(_) => long,
        None => thin,
    }
}

/// Something that is shown by tests, or by the fuzz targets.
struct Part {
    name: &'static str,
    /// A test file of the sensor, and the name of a test in it.
    tests: &'static [(&'static str, &'static str)],
}

const SWAPS: Part = Part {
    name: "swaps",
    tests: &[
        ("filter", "swaps_under_traffic_without_a_wrong_verdict"),
        ("books", "reloads_under_load_leave_no_moment_without_policy"),
    ],
};

const KILLS: Part = Part {
    name: "kills",
    tests: &[
        (
            "filter",
            "killed_in_the_middle_of_a_swap_the_policy_is_one_of_both",
        ),
        ("books", "killed_and_started_again_under_load"),
        ("books", "killed_while_devices_leave"),
        (
            "history_lab",
            "killed_again_and_again_the_history_is_that_of_the_kernel",
        ),
    ],
};

const POWER: Part = Part {
    name: "power",
    tests: &[(
        "history_power",
        "a_power_cut_costs_one_batch_at_most_and_never_the_file",
    )],
};

const RACE: Part = Part {
    name: "race",
    tests: &[("kernel_flows", "no_ruling_is_lost_while_programs_decide")],
};

const INITIALS: Part = Part {
    name: "initials",
    tests: &[(
        "kernel_corpus",
        "the_programs_and_the_host_say_the_same_of_odd_initials",
    )],
};

const EVASION: Part = Part {
    name: "evasion",
    tests: &[("evasion", "each_comes_to_what_the_table_says")],
};

const SLOW: Part = Part {
    name: "slow",
    tests: &[
        (
            "faults",
            "slow::many_names_at_a_tenth_of_a_cpu_keep_the_watchdog_fed",
        ),
        (
            "faults",
            "slow::a_start_with_many_names_at_a_tenth_of_a_cpu_is_in_time",
        ),
    ],
};

const FLOOD: Part = Part {
    name: "flood",
    tests: &[(
        "faults",
        "flood::new_names_and_connections_of_one_device_take_little_memory",
    )],
};

const ECHO: Part = Part {
    name: "echo",
    tests: &[
        ("echo", "visits_are_found_in_names"),
        ("echo", "beacons_are_found_within_200_visits"),
        ("echo", "programs_that_know_nothing_of_visits_are_no_echo"),
    ],
};

const PARTS: [Part; 9] = [
    SWAPS, KILLS, POWER, RACE, INITIALS, EVASION, SLOW, FLOOD, ECHO,
];

/// A part without tests: the fuzz targets, by the fuzzer's own command.
const FUZZ: &str = "fuzz";

/// The part that measures: a month of a large household's history, and the marks and looks of its echoes, in
/// simulated time.
const LOAD: &str = "load";

/// The names of the parts.
pub const NAMES: [&str; 11] = [
    SWAPS.name,
    KILLS.name,
    POWER.name,
    RACE.name,
    INITIALS.name,
    EVASION.name,
    SLOW.name,
    FLOOD.name,
    ECHO.name,
    LOAD,
    FUZZ,
];

/// For how many minutes each fuzz target is run.
const MINUTES: u32 = 10;

/// Runs every part, or one, in its long form; the first failure ends it.
///
/// # Errors
/// Where a test fails or a fuzz target finds something.
pub fn verify(only: Option<&str>) -> Result<()> {
    setup::ensure(&Need::ALL)?;
    build::kernel()?;
    let is_wanted = |name: &str| only.is_none_or(|only| only == name);
    for part in PARTS.iter().filter(|part| is_wanted(part.name)) {
        say(&format!("\n· {}", part.name));
        for (file, test) in part.tests {
            run_shown(
                build::host_cargo()
                    .args(["test", "--package", "sensor", "--test", file, "--"])
                    .args(["--exact", test, "--nocapture"])
                    .env(LONG, "1")
                    .env("CI", "1"),
            )
            .with_context(|| part.name)?;
        }
    }
    if is_wanted(LOAD) {
        say(&format!("\n· {LOAD}"));
        for bench in ["history", "echo"] {
            let mut cargo = build::host_cargo();
            cargo.args(["bench", "--package", "sensor", "--bench", bench]);
            run_shown(&mut cargo).context(LOAD)?;
        }
    }
    if is_wanted(FUZZ) {
        fuzz::fuzz(MINUTES, None)?;
    }
    say("everything that was asked for is verified");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_test_of_a_part_is_there_and_has_a_long_form() {
        for part in &PARTS {
            for (file, test) in part.tests {
                let (file, test) = match test.rsplit_once("::") {
                    Some((module, test)) => (format!("{file}/{module}"), test),
                    None => ((*file).to_owned(), *test),
                };
                let path = build::workspace().join(format!("sensor/tests/{file}.rs"));
                let text = fs::read_to_string(path).expect("a test file");
                assert!(text.contains(&format!("#[test]\nfn {test}()")), "{test}");
                assert!(text.contains("times("), "{file} has no long form");
            }
        }
    }
}
