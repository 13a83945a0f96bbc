//! What a file looks like without being read.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// How a file looks from outside. Another look is another content, or other rights to read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStamp(Option<Seen>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    /// When content or rights changed, in seconds and nanoseconds since the Unix epoch.
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
