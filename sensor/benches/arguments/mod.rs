//! What the benches that are no criterion's take from their command lines.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, bail};

/// The file of `--json FILE` among the arguments. Cargo adds `--bench`.
pub(crate) fn json_argument() -> Result<Option<PathBuf>> {
    let mut arguments = env::args_os().skip(1);
    let mut file = None;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--bench") => {}
            Some("--json") => file = Some(arguments.next().context("--json takes a FILE")?.into()),
            _ => bail!(
                "unknown argument {}; known: --json FILE",
                argument.display()
            ),
        }
    }
    Ok(file)
}
