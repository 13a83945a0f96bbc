//! Notices of changes to the configuration.
//!
//! Folders are watched and not the file: editors write a new file and rename it over the old one. Where the
//! path goes by symbolic links, a change may be at each of them as well as at the file at the end, so the
//! folder of each is watched.

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsString,
    fs,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{sync::mpsc, time::timeout};

/// How long nothing is to happen until a writer is taken to have ended.
const SETTLE: Duration = Duration::from_millis(50);

/// The most links that a path goes by (`MAXSYMLINKS`, linux/namei.h).
const MOST_LINKS: u32 = 40;

/// Notices of changes to one file.
pub(super) struct FileChanges {
    file: PathBuf,
    watcher: RecommendedWatcher,
    changed: mpsc::Receiver<()>,
    /// The links on the way to the file, and the file: a change of any of them counts.
    places: Arc<Mutex<BTreeSet<PathBuf>>>,
    folders: BTreeSet<PathBuf>,
}

impl FileChanges {
    /// Watches a file from now on.
    ///
    /// # Errors
    ///
    /// The error of the system.
    pub(super) fn watch(file: &Path) -> anyhow::Result<Self> {
        let file = std::path::absolute(file).with_context(|| format!("{}", file.display()))?;
        let (tell, changed) = mpsc::channel(1);
        let places = Arc::<Mutex<BTreeSet<PathBuf>>>::default();
        let watched = Arc::clone(&places);
        let watcher =
            notify::recommended_watcher(move |event: Result<notify::Event, notify::Error>| {
                let Ok(event) = event else { return };
                let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
                let is_about = event.paths.iter().any(|path| watched.contains(path));
                if !event.kind.is_access() && is_about {
                    // Full: a change is announced already.
                    let _ = tell.try_send(());
                }
            })
            .context("the configuration cannot be watched for changes")?;
        let mut changes = Self {
            file,
            watcher,
            changed,
            places,
            folders: BTreeSet::new(),
        };
        changes.follow()?;
        Ok(changes)
    }

    /// Waits for a change, and for the writer to have ended.
    pub(super) async fn next(&mut self) {
        if self.changed.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        while let Ok(Some(())) = timeout(SETTLE, self.changed.recv()).await {}
        // Before the file is read: a later change of where the links lead now is seen.
        if let Err(error) = self.follow() {
            tracing::warn!(
                "{error:#}; `systemctl reload gateway-sensor` takes a changed configuration"
            );
        }
    }

    /// Watches where the links lead now, and nothing else.
    fn follow(&mut self) -> anyhow::Result<()> {
        let places = places(&self.file);
        let folders = places.iter().filter_map(|place| place.parent());
        let folders: BTreeSet<PathBuf> = folders.map(Path::to_owned).collect();
        *self.places.lock().unwrap_or_else(PoisonError::into_inner) = places;
        for gone in self.folders.difference(&folders) {
            // It may not be there any more.
            let _ = self.watcher.unwatch(gone);
        }
        let new: Vec<_> = folders.difference(&self.folders).cloned().collect();
        self.folders = folders;
        for folder in new {
            let watched = self.watcher.watch(&folder, RecursiveMode::NonRecursive);
            if let Err(error) = watched {
                self.folders.remove(&folder);
                let what = format!("{} cannot be watched for changes", folder.display());
                return Err(error).context(what);
            }
        }
        Ok(())
    }
}

/// The links on the way to a file, and the file itself, each in a folder that is no link.
fn places(file: &Path) -> BTreeSet<PathBuf> {
    fn steps(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
        let steps = path.components();
        let steps =
            steps.filter(|step| matches!(step, Component::Normal(_) | Component::ParentDir));
        steps.map(|step| step.as_os_str().to_owned())
    }

    let mut places = BTreeSet::new();
    let mut ahead: VecDeque<_> = steps(file).collect();
    let mut folder = PathBuf::from("/");
    let mut links = 0;
    while let Some(step) = ahead.pop_front() {
        if step == ".." {
            folder.pop();
            continue;
        }
        let place = folder.join(&step);
        match fs::read_link(&place) {
            Ok(target) if links < MOST_LINKS => {
                links += 1;
                places.insert(place);
                if target.is_absolute() {
                    folder = PathBuf::from("/");
                }
                for step in steps(&target).rev() {
                    ahead.push_front(step);
                }
            }
            _ if ahead.is_empty() => {
                places.insert(place);
            }
            _ => folder = place,
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use std::{io, os::unix::fs::symlink};

    use super::*;

    async fn is_told(changes: &mut FileChanges) -> bool {
        timeout(Duration::from_secs(10), changes.next())
            .await
            .is_ok()
    }

    /// Switches a link as a program does that wants it to be there at every moment.
    fn switch(link: &Path, target: &Path) -> io::Result<()> {
        let new = link.with_extension("new");
        symlink(target, &new)?;
        fs::rename(&new, link)
    }

    #[tokio::test]
    async fn a_change_is_seen_at_every_link_and_at_the_file() -> anyhow::Result<()> {
        let name = format!("sensor-changes-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        for version in ["v1", "v2", "etc"] {
            fs::create_dir_all(folder.join(version))?;
        }
        // As configuration managers lay it out: the file by a link to a folder, which is exchanged.
        let [first, second] = ["v1", "v2"].map(|version| folder.join(version).join("sensor.toml"));
        fs::write(&first, "1")?;
        fs::write(&second, "2")?;
        let current = folder.join("etc/current");
        symlink("../v1", &current)?;
        let file = folder.join("etc/sensor.toml");
        symlink("current/sensor.toml", &file)?;

        let mut changes = FileChanges::watch(&file)?;
        fs::write(&first, "the target")?;
        assert!(is_told(&mut changes).await, "the file behind the links");
        switch(&current, Path::new("../v2"))?;
        assert!(is_told(&mut changes).await, "a link in the midst");
        fs::write(&second, "the new target")?;
        assert!(is_told(&mut changes).await, "where it leads now");
        // Renamed over, as editors do.
        fs::write(folder.join("v2/other"), "edited")?;
        fs::rename(folder.join("v2/other"), &second)?;
        assert!(is_told(&mut changes).await, "a new file in its place");
        switch(&file, &first)?;
        assert!(is_told(&mut changes).await, "the link itself");
        // A file that the link no longer leads to is not watched: the next notice is about the
        // link's new target.
        fs::write(&second, "nobody asks")?;
        tokio::time::sleep(SETTLE * 4).await;
        assert!(changes.changed.try_recv().is_err());
        fs::write(&first, "again")?;
        assert!(is_told(&mut changes).await);
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    #[test]
    fn links_that_lead_in_circles_come_to_an_end() -> io::Result<()> {
        let folder = std::env::temp_dir().join(format!("sensor-circle-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        symlink("b", folder.join("a"))?;
        symlink("a", folder.join("b"))?;
        assert_eq!(places(&folder.join("a")).len(), 2);
        fs::remove_dir_all(&folder)
    }
}
