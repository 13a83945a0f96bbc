//! Bytes that no sender would send, for all code that reads bytes: the fuzz targets of `sensor/fuzz`, one after
//! the other or two at a time, from seeds of the captures that the tests use.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    build,
    command::{self, capture, run, say},
    setup::{self, Need},
};

/// The captures that seeds are taken from, beside the checkout.
const CAPTURES: &str = "../shared/corpus";

/// The longest input, in bytes: as long as a payload's copy in the kernel.
const LONGEST: u32 = 2_048;

const VERSION: &str = "0.13.2";

/// Runs every target, or one, for some minutes each.
///
/// # Errors
/// Where the nightly or the fuzzer cannot be had, and where a target finds something: the input
/// lies under `sensor/fuzz/artifacts`.
pub fn fuzz(minutes: u32, only: Option<&str>) -> Result<()> {
    setup::ensure(&[Need::Kernel])?;
    build::kernel()?;
    let fuzzer = fuzzer()?;
    let folder = build::workspace().join("sensor/fuzz");
    seeds(&folder.join("corpus"))?;
    let mut targets = Vec::new();
    for entry in fs::read_dir(folder.join("fuzz_targets"))? {
        let name = entry?.path();
        let name = name.file_stem().context("a target without a name")?;
        targets.push(name.to_string_lossy().into_owned());
    }
    targets.sort();
    if let Some(only) = only {
        if !targets.iter().any(|target| target == only) {
            bail!("no target {only}; there are {}", targets.join(", "));
        }
        targets.retain(|target| target == only);
    }
    for target in targets {
        say(&format!("\n· {target}, {minutes} minutes"));
        run(Command::new("rustup")
            .args(["run", "nightly"])
            .arg(&fuzzer)
            .args(["fuzz", "run", &target, "--"])
            .arg(format!("-max_total_time={}", minutes * 60))
            .arg(format!("-max_len={LONGEST}"))
            .args(["-print_final_stats=1", "-verbosity=0"])
            .env_remove("RUSTUP_TOOLCHAIN")
            .current_dir(folder.parent().unwrap_or(&folder)))
        .with_context(|| format!("{target} found something: see sensor/fuzz/artifacts/{target}"))?;
    }
    Ok(())
}

/// Seeds from every capture there is; without captures the fuzzer begins with nothing.
fn seeds(folder: &Path) -> Result<()> {
    let mut captures = Vec::new();
    collect(&build::workspace().join(CAPTURES), &mut captures)?;
    if captures.is_empty() {
        say("no captures beside the checkout: the fuzzer begins without seeds");
        return Ok(());
    }
    // Not optimised: that takes longer than the reading of all captures.
    run(build::host_cargo()
        .args([
            "run",
            "--quiet",
            "--package",
            "sensor",
            "--example",
            "seeds",
            "--",
        ])
        .arg(folder)
        .args(&captures))
}

fn collect(folder: &Path, captures: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, captures)?;
        } else if path
            .extension()
            .is_some_and(|kind| kind == "pcap" || kind == "pcapng")
        {
            captures.push(path);
        }
    }
    captures.sort();
    Ok(())
}

/// The path of cargo-fuzz, built where it is missing.
fn fuzzer() -> Result<PathBuf> {
    let root = setup::cache()?.join(format!("cargo-fuzz-{VERSION}"));
    let fuzzer = root.join("bin/cargo-fuzz");
    if capture(Command::new(&fuzzer).arg("--version")).is_err() {
        say("cargo-fuzz is built once, about a minute:");
        run(command::clean("cargo")
            .args(["install", "cargo-fuzz", "--locked", "--version", VERSION])
            .arg("--root")
            .arg(&root))?;
    }
    Ok(fuzzer)
}
