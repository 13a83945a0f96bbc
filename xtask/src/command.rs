//! Running other programs so that a person sees what is run and how long it takes.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, IsTerminal, Write},
    process::{Child, Command},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// A step that takes at least this long has its time printed.
const WORTH_TELLING: Duration = Duration::from_secs(2);
/// Where nothing is drawn, how often a long step says that it is still at work.
const STILL_AT_WORK: Duration = Duration::from_secs(30);

/// The command as a person would type it, environment aside.
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Prints the command line, runs it, and shows its output only where it fails.
///
/// # Errors
/// Where it cannot be started or ends with another status than 0; the error names the command.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = line(command);
    say(&format!("$ {shown}"));
    let begun = Instant::now();
    let (reader, writer) = std::io::pipe().context("no pipe for a command's output")?;
    command.stdin(std::process::Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    let child = command.spawn().with_context(|| cannot_start(&shown));
    // The command holds the writing ends: they must close for the reader to see an end.
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut child = child?;
    let output = follow(&mut child, BufReader::new(reader), begun)?;
    let status = child.wait()?;
    if !status.success() {
        eprintln!("{}", output.join("\n"));
        bail!("`{shown}` failed: {status}");
    }
    tell(begun);
    Ok(())
}

/// Prints the command line and runs it with its output going where ours goes.
///
/// # Errors
/// As [`run`].
pub fn run_shown(command: &mut Command) -> Result<()> {
    let shown = line(command);
    say(&format!("$ {shown}"));
    let begun = Instant::now();
    let status = command.status().with_context(|| cannot_start(&shown))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    tell(begun);
    Ok(())
}

/// Runs it in silence and gives its standard output.
///
/// # Errors
/// As [`run`], with its standard error.
pub fn capture(command: &mut Command) -> Result<String> {
    let shown = line(command);
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| cannot_start(&shown))?;
    if !output.status.success() {
        bail!(
            "`{shown}` failed: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program of this name is in `PATH` or where the system keeps its own.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// Prints a line for the person who watches.
pub fn say(text: &str) {
    println!("{text}");
    // A pipe that no program reads any more is no reason to stop working.
    let _ = std::io::stdout().flush();
}

/// A command that our caller's cargo does not colour: variables that an outer `cargo run` sets for
/// its own child are taken out, or an inner cargo or compiler would follow them.
pub fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let of_package = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix));
        if of_package
            || ["CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR", "OUT_DIR"].contains(&&*name)
        {
            command.env_remove(name);
        }
    }
    command
}

fn cannot_start(shown: &str) -> String {
    format!("`{shown}` cannot be started")
}

fn tell(begun: Instant) {
    let elapsed = begun.elapsed();
    if elapsed >= WORTH_TELLING {
        say(&format!("  took {:.1} s", elapsed.as_secs_f64()));
    }
}

/// Reads the child's output to its end, meanwhile showing that something happens.
fn follow(
    child: &mut Child,
    reader: impl BufRead + Send + 'static,
    begun: Instant,
) -> Result<Vec<String>> {
    let (sender, lines) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        for line in reader.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let spinner = std::io::stdout().is_terminal().then(|| {
        let style = ProgressStyle::with_template("  {spinner} {elapsed} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let spinner = ProgressBar::new_spinner().with_style(style);
        spinner.enable_steady_tick(Duration::from_millis(120));
        spinner
    });
    let mut output = Vec::new();
    let mut told = Instant::now();
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                if let Some(spinner) = &spinner {
                    spinner.set_message(line.clone());
                }
                output.push(line);
            }
            // A grandchild may keep the pipe open after the child has ended.
            Err(mpsc::RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        if spinner.is_none() && told.elapsed() >= STILL_AT_WORK {
            told = Instant::now();
            say(&format!(
                "  {:.0} s: {}",
                begun.elapsed().as_secs_f64(),
                output.last().map_or("", String::as_str)
            ));
        }
    }
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    if child.try_wait()?.is_none() || reading.is_finished() {
        // Nothing more can come; a panic in a loop that only reads lines is not to be hidden.
        if reading.is_finished() && reading.join().is_err() {
            bail!("reading a command's output failed");
        }
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        let mut command = Command::new("printf");
        command.args(["%s|", "two words", "it's", ""]);
        let printed = capture(Command::new("sh").arg("-c").arg(line(&command))).expect("sh runs");
        assert_eq!(printed, "two words|it's||");
    }

    #[test]
    fn a_failure_names_the_command_and_its_status() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).expect_err("status 3");
        assert_eq!(error.to_string(), "`sh -c 'exit 3'` failed: exit status: 3");
    }
}
