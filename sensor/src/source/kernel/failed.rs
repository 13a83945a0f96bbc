//! Calls of bpf(2) and mmap(2) about maps that failed: counted for the whole process, and tried again where
//! the reason passes by itself.
//!
//! A map call may fail at any moment: the process has no descriptor left (EMFILE), the kernel has no memory
//! (ENOMEM) or no room (E2BIG), a signal came (EINTR). No such failure ends the daemon, and none is silent.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, PoisonError},
};

use aya::maps::MapError;

use super::Error;

/// How often a call is made whose error may have passed a moment later.
const ATTEMPTS: u32 = 3;

/// By map. For the whole process, because maps are used by several threads and by objects that come and go.
static COUNTS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// How many calls failed since the process began, by the name of the map.
pub fn counts() -> BTreeMap<&'static str, u64> {
    COUNTS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Counts a call about a map that failed.
pub(super) fn count(map: &'static str) {
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry(map).or_default() += 1;
}

/// Makes the error of a map out of the call's error, and counts it.
pub(super) fn of_map(map: &'static str) -> impl Fn(MapError) -> Error {
    move |source| {
        count(map);
        Error::Map { map, source }
    }
}

/// Makes a call about a map, again where its error passes by itself. Each failure is counted.
///
/// # Errors
///
/// The last error.
pub(super) fn retried<T>(
    map: &'static str,
    mut call: impl FnMut() -> Result<T, MapError>,
) -> Result<T, Error> {
    let mut attempts = 1;
    loop {
        match call().map_err(of_map(map)) {
            Err(Error::Map { source, .. }) if attempts < ATTEMPTS && passes(&source) => {
                attempts += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Removes the value that a map may have under a key; an absent value is no failure.
///
/// # Errors
///
/// The last error.
pub(super) fn removed(
    map: &'static str,
    mut remove: impl FnMut() -> Result<(), MapError>,
) -> Result<(), Error> {
    retried(map, || match remove() {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome,
    })
}

/// The value of a map under a key; `None` where it has none.
///
/// # Errors
///
/// The last error.
pub(super) fn found<T>(
    map: &'static str,
    mut look: impl FnMut() -> Result<T, MapError>,
) -> Result<Option<T>, Error> {
    retried(map, || match look() {
        Err(error) if is_absent(&error) => Ok(None),
        outcome => outcome.map(Some),
    })
}

/// Whether an error says that there is nothing under a key.
fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Whether an error may have passed a moment later. The kernel gives memory for entries from a store that it
/// fills up behind the call (ENOMEM), and a bucket may be in use (EBUSY).
fn passes(error: &MapError) -> bool {
    let MapError::SyscallError(error) = error else {
        return false;
    };
    matches!(
        error.io_error.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
    )
}
