//! The state of a file, as the file system tells it without reading the file.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// The metadata of a file. If it differs, the content or the rights to read it may have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStamp(Option<Seen>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    /// The time at which content or rights changed, in seconds and nanoseconds since the Unix epoch.
    changed: (i64, i64),
}

impl FileStamp {
    /// That of a file, links followed; one that is not there has a look too.
    pub fn of(file: &Path) -> Self {
        let metadata = fs::metadata(file).ok();
        Self(metadata.map(|metadata| Seen {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }))
    }
}
