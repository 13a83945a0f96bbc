//! A list in a file: its present content, or that of the last time when it could be read.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use super::{super::file_stamp::FileStamp, Category, Lists, MOST_NAMES, Report};

/// A list and the report of its lines.
#[derive(Clone, Debug, Default)]
pub struct ListFile {
    /// Its names.
    pub names: Arc<Lists>,
    /// Good and bad lines.
    pub report: Report,
    /// When the file was written, in seconds since the Unix epoch.
    pub modified: f64,
    /// Why it could not be read the last time; the names are those of before.
    pub problem: Option<String>,
    /// How the file looked when it was read.
    pub look: FileStamp,
}

impl ListFile {
    /// Reads a list, at most so many names of it; `category` and `owner` are those of all that is on
    /// it. Of one that cannot be read, or of which no line can be used, everything stays as it was
    /// `before`.
    pub fn load(
        file: &Path,
        (category, owner): (Option<Category>, Option<&str>),
        room: usize,
        before: Option<&Self>,
    ) -> Self {
        let look = FileStamp::of(file);
        match read(file, (category, owner), room) {
            Ok(list) => {
                let list = Self { look, ..list };
                list.tell(file, before);
                list
            }
            Err(error) => {
                tracing::error!(
                    "{}: {error:#}; {}",
                    file.display(),
                    match before {
                        Some(before) if !before.names.is_empty() =>
                            "what it had before stays in force",
                        _ => "nothing of it is in force",
                    }
                );
                Self {
                    problem: Some(format!("{error:#}")),
                    look,
                    ..before.cloned().unwrap_or_default()
                }
            }
        }
    }

    /// Logs the changes of a list that could be read, and its faults.
    fn tell(&self, file: &Path, before: Option<&Self>) {
        let file = file.display();
        if self.report.bad > 0 {
            tracing::warn!(
                "{file}: {} lines are not used; `sensor check` shows the first of them",
                self.report.bad
            );
        }
        if let Some(before) = before
            && before.look != self.look
        {
            let came = self.names.count_without(&before.names);
            let went = before.names.count_without(&self.names);
            tracing::info!("{file} has changed: {came} names came, {went} went");
        }
        let (now, then) = (
            self.names.len(),
            before.map_or(0, |before| before.names.len()),
        );
        // A download that was cut off, or another list at the same place.
        if now * 2 < then {
            tracing::warn!(
                "{file}: only {now} names are left of {then}, and the others are in force no more; \
                 see whether the whole list is there"
            );
        }
    }
}

fn read(
    file: &Path,
    (category, owner): (Option<Category>, Option<&str>),
    room: usize,
) -> anyhow::Result<ListFile> {
    let mut names = Lists::with_room(room.min(MOST_NAMES));
    let report = names.add_file(file, category, owner)?;
    // A page of a portal that came in its place, or another format.
    anyhow::ensure!(
        !report.is_of_no_list(),
        "none of its lines can be used ({} are bad; `sensor check` shows the first of them)",
        report.bad
    );
    names.shrink();
    Ok(ListFile {
        names: Arc::new(names),
        report,
        modified: fs::metadata(file)?.mtime() as f64,
        ..ListFile::default()
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        path::PathBuf,
        sync::{Mutex, PoisonError},
    };

    use super::*;

    /// The text written to the log.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            log.extend(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Reads a list with this text, and gives it with what the log is told.
    fn load(file: &PathBuf, text: &str, before: Option<&ListFile>) -> (ListFile, String) {
        let log = Log::default();
        let to = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || to.clone())
            .finish();
        fs::write(file, text).expect("a temporary file");
        let list = tracing::subscriber::with_default(subscriber, || {
            ListFile::load(file, (None, None), MOST_NAMES, before)
        });
        let told = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (list, String::from_utf8_lossy(&told).into_owned())
    }

    #[test]
    fn a_list_that_shrinks_to_less_than_half_is_told() {
        let name = format!("sensor-list-file-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let text = |names: u32| {
            let names = (0..names).map(|number| format!("{number}.example\n"));
            names.collect::<String>()
        };
        let (first, told) = load(&file, &text(11), None);
        assert_eq!(told, "");
        let (half, told) = load(&file, &text(6), Some(&first));
        assert_eq!(half.names.len(), 6);
        assert!(told.contains("0 names came, 5 went"), "{told}");
        assert!(!told.contains("WARN"), "{told}");
        for (names, left) in [(5, "only 5 names are left of 11"), (0, "only 0 names are")] {
            let (less, told) = load(&file, &text(names), Some(&first));
            assert_eq!(less.names.len(), names as usize);
            assert!(told.contains("WARN") && told.contains(left), "{told}");
        }
        // One that is kept has not shrunk.
        let (kept, told) = load(&file, "<html>\n", Some(&first));
        assert_eq!(kept.names.len(), 11);
        assert!(told.contains("what it had before stays"), "{told}");
        assert!(!told.contains("are left"), "{told}");
        let (_, told) = load(&file, &text(5), Some(&kept));
        assert!(told.contains("only 5 names are left of 11"), "{told}");
        let _ = fs::remove_file(&file);
    }

    #[test]
    fn what_came_and_went_is_told_once() {
        let name = format!("sensor-list-news-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let (first, told) = load(&file, "a.example\nb.example\nc.example\n", None);
        assert_eq!(told, "");
        // A name below one that went is another name.
        let (second, told) = load(
            &file,
            "x.a.example\nC.example\nb.example\nd.example\n",
            Some(&first),
        );
        assert!(told.contains("has changed: 2 names came, 1 went"), "{told}");
        let log = Log::default();
        let to = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || to.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            ListFile::load(&file, (None, None), MOST_NAMES, Some(&second))
        });
        let _ = fs::remove_file(&file);
        let told = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(String::from_utf8_lossy(&told), "");
    }

    #[test]
    fn a_list_has_no_more_names_than_there_is_room_for() {
        let name = format!("sensor-list-room-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, "a.example\nb.example\na.example\nc.example\n").expect("a file");
        let list = ListFile::load(&file, (None, None), 2, None);
        let _ = fs::remove_file(&file);
        assert_eq!((list.names.len(), list.report.bad), (2, 1));
        assert!(list.names.find("c.example").is_none());
    }
}
