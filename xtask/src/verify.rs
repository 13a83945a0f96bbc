//! The slow tests, each part callable alone. The same tests are in the test command, in a thin form; [`LONG`]
//! in the environment asks for the long one.

use std::{
    env, fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    build,
    command::{capture, run_shown, say},
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

/// The document that has the last result of each part.
const DOCUMENT: &str = "deploy/docs/verified.md";

/// Runs every part, or one, in its long form, and notes the result of each in `deploy/docs/verified.md`; the first failure ends
/// it.
///
/// # Errors
/// Where a test fails or a fuzz target finds something, or the document cannot be written.
pub fn verify(only: Option<&str>) -> Result<()> {
    setup::ensure(&Need::ALL)?;
    build::kernel()?;
    let is_wanted = |name: &str| only.is_none_or(|only| only == name);
    for part in PARTS.iter().filter(|part| is_wanted(part.name)) {
        noted(part.name, || {
            part.tests.iter().try_for_each(|(file, test)| {
                run_shown(
                    build::host_cargo()
                        .args(["test", "--package", "sensor", "--test", file, "--"])
                        .args(["--exact", test, "--nocapture"])
                        .env(LONG, "1")
                        .env("CI", "1"),
                )
            })
        })?;
    }
    if is_wanted(LOAD) {
        noted(LOAD, || {
            ["history", "echo"].into_iter().try_for_each(|bench| {
                let mut cargo = build::host_cargo();
                run_shown(cargo.args(["bench", "--package", "sensor", "--bench", bench]))
            })
        })?;
    }
    if is_wanted(FUZZ) {
        noted(FUZZ, || fuzz::fuzz(MINUTES, None))?;
    }
    say("everything that was asked for is verified");
    Ok(())
}

/// Runs a part, and notes its result.
fn noted(part: &'static str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    say(&format!("\n· {part}"));
    let commit = commit()?;
    let began = Instant::now();
    let outcome = run();
    let file = build::workspace().join(DOCUMENT);
    let text = fs::read_to_string(&file).with_context(|| format!("{DOCUMENT} cannot be read"))?;
    let result = match outcome {
        Ok(()) => "passed",
        Err(_) => "failed",
    };
    let text = with_row(&text, part, [result, &commit, &duration(began.elapsed())]);
    fs::write(&file, text).with_context(|| format!("{DOCUMENT} cannot be written"))?;
    outcome.context(part)
}

/// The commit that is verified, and whether files were changed since then, the document aside.
fn commit() -> Result<String> {
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        capture(git.current_dir(build::workspace()).args(words))
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let without = format!(":!{DOCUMENT}");
    let changed = git(&["status", "--porcelain", "--", ".", &without])?;
    Ok(match changed.trim().is_empty() {
        true => commit.trim().to_owned(),
        false => format!("{}, with changes", commit.trim()),
    })
}

/// Hours, minutes and seconds, as in `1 h 02 min 03 s`.
fn duration(took: Duration) -> String {
    let seconds = took.as_secs();
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes) => format!("{hours} h {minutes:02} min {seconds:02} s"),
    }
}

/// A document with the row of a part at the end of its table, or in the place of the row that the part had.
fn with_row(text: &str, part: &str, [result, commit, took]: [&str; 3]) -> String {
    let start = format!("| `{part}` |");
    let row = format!("{start} {result} | {commit} | {took} |");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    match lines.iter_mut().find(|line| line.starts_with(&start)) {
        Some(line) => *line = row,
        None => lines.push(row),
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_part_has_one_row_which_is_that_of_its_last_run() {
        let head = "| part | result | commit | took |\n| --- | --- | --- | --- |\n";
        let text = with_row(head, "power", ["failed", "abc", "5 s"]);
        let text = with_row(&text, "load", ["passed", "abc", "6 s"]);
        let text = with_row(&text, "power", ["passed", "def", "7 s"]);
        assert_eq!(
            text,
            format!("{head}| `power` | passed | def | 7 s |\n| `load` | passed | abc | 6 s |\n")
        );
        let document = fs::read_to_string(build::workspace().join(DOCUMENT)).expect("it is there");
        assert!(document.contains(head), "{DOCUMENT} ends with that table");
        let last = document.lines().last().unwrap_or_default();
        assert!(last.starts_with('|'), "{last}");
    }

    #[test]
    fn durations_are_for_people() {
        let of = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(of(59), "59 s");
        assert_eq!(of(61), "1 min 01 s");
        assert_eq!(of(3_723), "1 h 02 min 03 s");
    }

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
