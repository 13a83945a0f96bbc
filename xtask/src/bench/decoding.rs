//! How much a core decodes, by the estimates of criterion.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{build, command::run_shown};

/// The sensor's benches of its decoders.
const BENCHES: [&str; 2] = ["decode", "decode_words"];

/// Messages that one core decodes in a second, by the name of the bench.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct DecodingFigures(BTreeMap<String, f64>);

impl DecodingFigures {
    /// The slowest of those whose name begins so: a goal is to hold for each.
    pub(super) fn slowest(&self, prefix: &str) -> Result<f64> {
        let named = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
        named
            .map(|(_, per_second)| *per_second)
            .min_by(f64::total_cmp)
            .with_context(|| format!("no bench has a name that begins with \"{prefix}\""))
    }

    /// All, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        let all = self.0.iter();
        all.map(|(name, per_second)| (name.as_str(), *per_second))
    }
}

/// Runs the benches and reads the estimates of criterion.
///
/// # Errors
/// Where they do not build or run, or wrote something else than was expected.
pub(super) fn measure() -> Result<DecodingFigures> {
    let home = build::target().join("criterion/xtask");
    // Figures that an older state of the benches left would be taken for this one's.
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| home.display().to_string())?;
    }
    for bench in BENCHES {
        run_shown(
            build::host_cargo()
                .env("CRITERION_HOME", &home)
                .args(["bench", "--quiet", "--package", "sensor", "--bench", bench])
                .args(["--", "--noplot"]),
        )?;
    }
    let mut figures = BTreeMap::new();
    read(&home, &mut figures)?;
    ensure!(!figures.is_empty(), "no estimates in {}", home.display());
    Ok(DecodingFigures(figures))
}

/// The name of a bench's run; criterion writes more.
#[derive(Deserialize)]
struct About {
    full_id: String,
}

/// The time that the run took, in nanoseconds.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// The estimates of this folder and those below, each in a folder `new`.
fn read(folder: &Path, figures: &mut BTreeMap<String, f64>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let path = entry.path();
        if entry.file_name() == "new" {
            let about: About = parse(&path.join("benchmark.json"))?;
            let estimates: Estimates = parse(&path.join("estimates.json"))?;
            figures.insert(about.full_id, 1e9 / estimates.median.point_estimate);
        } else {
            read(&path, figures)?;
        }
    }
    Ok(())
}

fn parse<T: for<'a> Deserialize<'a>>(file: &Path) -> Result<T> {
    let text = fs::read(file).with_context(|| file.display().to_string())?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not what it should be", file.display()))
}
