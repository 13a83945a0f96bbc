//! The lists that policies name.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    aggregate::party::lists::{Lists, Report},
    config::Policy,
};

/// A list and what was found in it.
#[derive(Debug)]
pub struct PolicyList {
    /// Its names.
    pub names: Lists,
    /// Good and bad lines.
    pub report: Report,
    /// When the file was written, in seconds since the Unix epoch.
    pub modified: f64,
    /// Why it could not be read the last time; the names are those of before.
    pub problem: Option<String>,
}

/// The lists of all policies, each once.
#[derive(Clone, Debug, Default)]
pub struct PolicyLists(HashMap<PathBuf, Arc<PolicyList>>);

impl PolicyLists {
    /// Reads the lists of policies. Of one that cannot be read, or of which no line can be used, what
    /// it had before stays.
    pub fn load(policies: &[Policy], before: &Self) -> Self {
        let mut lists = HashMap::new();
        for file in policies.iter().flat_map(|policy| &policy.lists) {
            if lists.contains_key(file) {
                continue;
            }
            let list = read(file).unwrap_or_else(|error| {
                let kept = before.0.get(file);
                tracing::error!(
                    "{}: {error:#}; {}",
                    file.display(),
                    match kept {
                        Some(_) => "what it had before stays in force",
                        None => "nothing of it is in force",
                    }
                );
                PolicyList {
                    names: kept.map_or_else(Lists::default, |kept| kept.names.clone()),
                    report: kept.map_or_else(Report::default, |kept| kept.report.clone()),
                    modified: kept.map_or(0.0, |kept| kept.modified),
                    problem: Some(format!("{error:#}")),
                }
            });
            if list.problem.is_none() && list.report.bad > 0 {
                tracing::warn!(
                    "{}: {} lines are not used; `sensor check` shows the first of them",
                    file.display(),
                    list.report.bad
                );
            }
            lists.insert(file.clone(), Arc::new(list));
        }
        Self(lists)
    }

    /// Lists with these texts, as if they had been read from files.
    #[cfg(test)]
    pub(super) fn of(texts: &[(&Path, &str)]) -> std::io::Result<Self> {
        use crate::aggregate::party::lists::About;

        let lists = texts.iter().map(|(file, text)| {
            let mut names = Lists::default();
            let about = About {
                name: &file.to_string_lossy(),
                ..About::default()
            };
            let report = names.add(about, text.as_bytes())?;
            let list = PolicyList {
                names,
                report,
                modified: 0.0,
                problem: None,
            };
            Ok(((*file).to_owned(), Arc::new(list)))
        });
        Ok(Self(lists.collect::<std::io::Result<_>>()?))
    }

    /// The list in a file.
    pub fn get(&self, file: &Path) -> Option<&PolicyList> {
        self.0.get(file).map(|list| &**list)
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &PolicyList)> {
        self.0.iter().map(|(file, list)| (&**file, &**list))
    }
}

fn read(file: &Path) -> anyhow::Result<PolicyList> {
    let mut names = Lists::default();
    let report = names.add_file(file, None, None)?;
    // A page of a portal that came in its place, or another format.
    anyhow::ensure!(
        !report.is_of_no_list(),
        "none of its lines can be used ({} are bad; `sensor check` shows the first of them)",
        report.bad
    );
    names.shrink();
    Ok(PolicyList {
        names,
        report,
        modified: fs::metadata(file)?.mtime() as f64,
        problem: None,
    })
}
