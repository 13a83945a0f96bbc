//! What is pinned, by which names, and what is done where a pin is missing.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::maps::{Map, MapData};

use super::{Error, calls, load::PINNED, preflight, readers};

/// What the names of links' pins begin with.
const LINK: &str = "link-";

/// A pinned map, of the type the kernel says it is.
pub(super) fn pinned(directory: &Path, map: &'static str) -> Result<Map, Error> {
    MapData::from_pin(directory.join(map))
        .and_then(Map::from_map_data)
        .map_err(|source| Error::Map { map, source })
}

/// Where the link of a program is pinned: `role` says which of an interface's programs.
///
/// bpffs keeps names with a dot for itself (kernel/bpf/inode.c, `bpf_lookup`), and VLANs have one in
/// theirs (`eth0.2`). It is written as `%2e`, and `%` as `%25`, so that no two interfaces share a pin.
pub(super) fn link(directory: &Path, interface: &str, role: &str) -> PathBuf {
    let name = interface.replace('%', "%25").replace('.', "%2e");
    directory.join(format!("{LINK}{role}-{name}"))
}

/// Pins again what has no pin any more, and gives the names.
///
/// # Errors
///
/// When nothing can be pinned there.
pub(super) fn restore(
    directory: &Path,
    maps: &[(&str, &Map)],
    links: &[(PathBuf, &OwnedFd)],
) -> Result<Vec<String>, Error> {
    let refused = |source| Error::PinDirectory {
        path: directory.to_owned(),
        source,
    };
    let there: HashSet<_> = match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()
            .map_err(refused)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            preflight::bpffs(directory)?;
            fs::create_dir_all(directory).map_err(refused)?;
            HashSet::new()
        }
        Err(error) => return Err(refused(error)),
    };
    let mut again = Vec::new();
    for (name, map) in maps {
        if !there.contains(OsStr::new(name)) {
            let pinned = map.pin(directory.join(name));
            pinned.map_err(|error| refused(io::Error::other(error)))?;
            again.push((*name).to_owned());
        }
    }
    for (pin, link) in links {
        if let Some(name) = pin.file_name()
            && !there.contains(name)
        {
            calls::pin(link.as_fd(), pin).map_err(refused)?;
            again.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(again)
}

/// Pins a link, in the place of what is there.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn pin_link(link: BorrowedFd<'_>, pin: &Path) -> Result<(), Error> {
    let refused = |source| Error::PinDirectory {
        path: pin.to_owned(),
        source,
    };
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        _ => {}
    }
    calls::pin(link, pin).map_err(refused)
}

/// Takes the program of a pinned link off its interface, now, and removes the pin.
pub(super) fn end_link(pin: &Path) {
    if let Ok(link) = calls::pinned(pin) {
        // A link whose interface is gone is refused, and has ended already.
        let _ = calls::detach(link.as_fd());
    }
    let _ = fs::remove_file(pin);
}

/// Removes every pin of ours. Links without a pin end, and their programs with them.
pub(super) fn remove_all(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(LINK) {
            end_link(&entry.path());
        } else if PINNED.contains(&name.as_ref()) || readers::is_pin(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_pin_has_a_dot_and_no_two_interfaces_share_one() {
        let names = [
            "eth0.2",
            "eth0%2e2",
            "eth0-2",
            "eth0%252e2",
            "eth02",
            "br-lan.10",
            "br-lan%10",
            "a..b",
        ];
        let pins: HashSet<_> = names
            .iter()
            .map(|name| link(Path::new("/sys/fs/bpf/x"), name, "upload"))
            .collect();
        assert_eq!(pins.len(), names.len());
        assert!(pins.iter().all(|pin| {
            let name = pin.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| !name.contains('.'))
        }));
    }
}
