//! The pins: their names, and how missing ones are restored.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::maps::{Map, MapData};

use super::{Error, calls, failed::of_map, load::PINNED, preflight, readers};

/// The beginning of the names of links' pins.
const LINK: &str = "link-";

/// A pinned map, of the type the kernel says it is.
pub(super) fn pinned(directory: &Path, map: &'static str) -> Result<Map, Error> {
    MapData::from_pin(directory.join(map))
        .and_then(Map::from_map_data)
        .map_err(of_map(map))
}

/// Where the link of a program is pinned: `role` says which of an interface's programs.
///
/// bpffs keeps names with a dot for itself (kernel/bpf/inode.c, `bpf_lookup`), and VLANs have one in
/// theirs (`eth0.2`). It is written as `%2e`, and `%` as `%25`, so that no two interfaces share a pin.
pub(super) fn link(directory: &Path, interface: &str, role: &str) -> PathBuf {
    let name = interface.replace('%', "%25").replace('.', "%2e");
    directory.join(format!("{LINK}{role}-{name}"))
}

/// A link that this process holds, and its pin.
pub(super) struct LinkPin<'a> {
    pub(super) path: PathBuf,
    pub(super) link: BorrowedFd<'a>,
    /// Whether the link was pinned there. Otherwise a pin at this path is that of an earlier link.
    pub(super) is_pinned: &'a mut bool,
}

/// The pins of links.
pub(super) fn links(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_link = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(LINK);
    entries.filter(is_link).map(|entry| entry.path()).collect()
}

/// Pins maps and links again that have no pin any more, and gives their names. A failed one keeps no other
/// from its pin.
///
/// # Errors
///
/// The first reason, beside the names of those that were pinned.
pub(super) fn restore(
    directory: &Path,
    maps: &[(&str, &Map)],
    links: Vec<LinkPin<'_>>,
) -> (Vec<String>, Result<(), Error>) {
    let there = match there(directory) {
        Ok(there) => there,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut again = Vec::new();
    let mut outcome = Ok(());
    let mut note = |name: &OsStr, pinned: Result<(), Error>| match pinned {
        Ok(()) => again.push(name.to_string_lossy().into_owned()),
        Err(error) if outcome.is_ok() => outcome = Err(error),
        Err(_) => {}
    };
    for (name, map) in maps {
        let name = OsStr::new(name);
        if !there.contains(name) {
            let path = directory.join(name);
            let pinned = map.pin(&path);
            let refused = |error| Error::PinDirectory {
                path,
                source: io::Error::other(error),
            };
            note(name, pinned.map_err(refused));
        }
    }
    for LinkPin {
        path,
        link,
        is_pinned,
    } in links
    {
        if let Some(name) = path.file_name()
            && !(*is_pinned && there.contains(name))
        {
            let pinned = pin_link(link, &path);
            *is_pinned = pinned.is_ok();
            note(name, pinned);
        }
    }
    (again, outcome)
}

/// The names in the pin directory, which is made where there is none.
fn there(directory: &Path) -> Result<HashSet<OsString>, Error> {
    let refused = |source| Error::PinDirectory {
        path: directory.to_owned(),
        source,
    };
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()
            .map_err(refused),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            preflight::bpffs(directory)?;
            fs::create_dir_all(directory).map_err(refused)?;
            Ok(HashSet::new())
        }
        Err(error) => Err(refused(error)),
    }
}

/// Pins a link, in the place of an earlier pin.
///
/// # Errors
///
/// The error that the kernel gives.
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

/// Takes the program of a pinned link off its interface, now, and removes the pin. A link that cannot be
/// opened keeps its pin, because it would end with it at some later time.
///
/// # Errors
///
/// Why the link cannot be opened, or its pin not be removed.
pub(super) fn end_link(pin: &Path) -> io::Result<()> {
    match calls::pinned(pin) {
        Ok(link) => {
            // A link whose interface is gone is refused, and has ended already.
            let _ = calls::detach(link.as_fd());
            fs::remove_file(pin)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes every pin of ours. Links without a pin end, and their programs with them.
pub(super) fn remove_all(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(LINK) {
            end_link(&entry.path())?;
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
