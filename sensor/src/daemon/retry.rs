//! Lists and databases: whether one has changed since it was read, and is worth reading anew.
//!
//! An updater writes a new list, or takes a file away and puts another one there, and a disk may be mounted
//! after the daemon began. Nobody loads the configuration anew for that.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::catalog::file_stamp::FileStamp;

/// How often the files are checked.
const EVERY: Duration = Duration::from_secs(5);

/// The files, and the stamps of each at the last check.
#[derive(Debug, Default)]
pub(super) struct Retry {
    looked: Option<Instant>,
    files: HashMap<PathBuf, Seen>,
}

/// The stamps of a file.
#[derive(Clone, Copy, Debug)]
struct Seen {
    last: FileStamp,
    /// The stamp of the file when it was last found worth trying.
    tried: Option<FileStamp>,
}

impl Retry {
    /// Whether one of these files, each with its stamp when it was read, is worth trying again: it
    /// has changed since it was read, but not since the last check, so it is not being written.
    pub(super) fn is_due<'f>(
        &mut self,
        files: impl IntoIterator<Item = (&'f Path, FileStamp)>,
        now: Instant,
    ) -> bool {
        let is_time = |looked: Instant| now.saturating_duration_since(looked) >= EVERY;
        if !self.looked.is_none_or(is_time) {
            return false;
        }
        self.looked = Some(now);
        let mut is_due = false;
        let before = std::mem::take(&mut self.files);
        for (file, when_read) in files {
            let look = FileStamp::of(file);
            let seen = before.get(file);
            let has_settled = seen.is_some_and(|seen| seen.last == look);
            let is_new = look != when_read && seen.is_none_or(|seen| seen.tried != Some(look));
            let worth = has_settled && is_new;
            is_due |= worth;
            let seen = Seen {
                last: look,
                tried: match worth {
                    true => Some(look),
                    false => seen.and_then(|seen| seen.tried),
                },
            };
            self.files.insert(file.to_owned(), seen);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io};

    use super::*;

    #[test]
    fn a_file_is_tried_once_it_is_another_and_has_settled() -> io::Result<()> {
        let name = format!("sensor-retry-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&file);
        let begun = Instant::now();
        let mut retry = Retry::default();
        let mut number = 0;
        let mut is_due = |when_read: FileStamp| {
            number += 1;
            retry.is_due([(file.as_path(), when_read)], begun + EVERY * number)
        };
        let missing = FileStamp::of(&file);
        assert!(!is_due(missing));
        assert!(!is_due(missing));
        // Put there in pieces.
        fs::write(&file, "a.exa")?;
        assert!(!is_due(missing));
        fs::write(&file, "a.example\n")?;
        assert!(!is_due(missing));
        assert!(is_due(missing));
        // It was refused for another reason: it is not tried again and again.
        assert!(!is_due(missing));
        assert!(!is_due(missing));
        let read = FileStamp::of(&file);
        fs::write(&file, "<html>\n<p>Please sign in.</p>\n")?;
        assert!(!is_due(read));
        assert!(is_due(read));
        // It was read, and is no list.
        let read = FileStamp::of(&file);
        assert!(!is_due(read));
        assert!(!is_due(read));
        fs::remove_file(&file)
    }

    #[test]
    fn they_are_not_looked_at_at_every_tick() {
        let mut retry = Retry::default();
        let begun = Instant::now();
        let none = || [(Path::new("/dev/null"), FileStamp::default())];
        assert!(!retry.is_due(none(), begun));
        assert!(!retry.is_due(none(), begun + EVERY / 2));
        // Settled, and another than when it was read.
        assert!(retry.is_due(none(), begun + EVERY));
    }
}
