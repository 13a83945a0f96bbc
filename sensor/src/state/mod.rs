//! The state that outlives the daemon: files of the state directory, each in JSON.

pub mod devices;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::Context as _;
use serde::{Serialize, de::DeserializeOwned};

/// The value in a file; the default of its type where there is no file.
///
/// # Errors
/// The file cannot be read, or does not hold a value of the type.
pub(crate) fn read<T: DeserializeOwned + Default>(file: &Path) -> anyhow::Result<T> {
    match fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error.into()),
    }
}

/// Writes a file, for the daemon's user alone: whenever the power fails, the old file or the new one is
/// there.
///
/// # Errors
/// It cannot be written; the old file is there.
pub(crate) fn write(file: &Path, what: &(impl Serialize + ?Sized)) -> anyhow::Result<()> {
    let folder = file.parent().context("it is in no folder")?;
    fs::create_dir_all(folder)?;
    let new = file.with_extension("new");
    let mut written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    written.write_all(&serde_json::to_vec_pretty(what)?)?;
    written.sync_all()?;
    fs::rename(&new, file)?;
    File::open(folder)?.sync_all()?;
    Ok(())
}
