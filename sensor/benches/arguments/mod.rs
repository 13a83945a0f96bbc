//! The command lines of the benches that do not use criterion.

use std::{env, ffi::OsString, path::PathBuf};

use anyhow::{Context as _, Result, bail};

/// The file of `--json FILE` among the arguments.
#[allow(dead_code, reason = "one bench has options of its own")]
pub(crate) fn json_argument() -> Result<Option<PathBuf>> {
    let [file] = options(["--json"])?;
    Ok(file.map(PathBuf::from))
}

/// The values of these options among the arguments. Cargo adds `--bench`.
///
/// # Errors
///
/// An option is none of these, or has no value.
pub(crate) fn options<const N: usize>(known: [&str; N]) -> Result<[Option<OsString>; N]> {
    let mut arguments = env::args_os().skip(1);
    let mut values = [const { None }; N];
    while let Some(argument) = arguments.next() {
        if argument == "--bench" {
            continue;
        }
        let Some(number) = known.iter().position(|known| argument == *known) else {
            let (argument, known) = (argument.display(), known.join(", "));
            bail!("unknown argument {argument}; known, each with a value: {known}");
        };
        let value = arguments.next();
        values[number] =
            Some(value.with_context(|| format!("{} takes a value", argument.display()))?);
    }
    Ok(values)
}
