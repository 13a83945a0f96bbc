//! The lists that policies name.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use crate::{
    aggregate::party::lists::{ListFile, MOST_NAMES},
    config::Policy,
};

/// The lists of all policies, each once.
#[derive(Clone, Debug, Default)]
pub struct PolicyLists(HashMap<PathBuf, ListFile>);

impl PolicyLists {
    /// Reads the lists of policies. Of one that cannot be read, or of which no line can be used, what
    /// it had before stays.
    pub fn load(policies: &[Policy], before: &Self) -> Self {
        let mut lists = HashMap::new();
        for file in policies.iter().flat_map(|policy| &policy.lists) {
            if !lists.contains_key(file) {
                let list = ListFile::load(file, (None, None), MOST_NAMES, before.get(file));
                lists.insert(file.clone(), list);
            }
        }
        Self(lists)
    }

    /// Lists with these texts, as if they had been read from files.
    #[cfg(test)]
    pub(super) fn of(texts: &[(&Path, &str)]) -> std::io::Result<Self> {
        use crate::aggregate::party::lists::{About, Lists};

        let lists = texts.iter().map(|(file, text)| {
            let mut names = Lists::default();
            let about = About {
                name: &file.to_string_lossy(),
                ..About::default()
            };
            let report = names.add(about, text.as_bytes())?;
            let list = ListFile {
                names: names.into(),
                report,
                ..ListFile::default()
            };
            Ok(((*file).to_owned(), list))
        });
        Ok(Self(lists.collect::<std::io::Result<_>>()?))
    }

    /// The list in a file.
    pub fn get(&self, file: &Path) -> Option<&ListFile> {
        self.0.get(file)
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &ListFile)> {
        self.0.iter().map(|(file, list)| (&**file, list))
    }
}
