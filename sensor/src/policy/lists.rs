//! The lists that policies name.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use crate::{catalog::lists::ListFile, policy::Policy};

/// The lists of all policies, each once.
#[derive(Clone, Debug, Default)]
pub struct PolicyLists {
    files: HashMap<PathBuf, ListFile>,
    /// Lists of any kind, by their names, whose entries are not in force, except for their exceptions.
    left_out: BTreeSet<String>,
}

impl PolicyLists {
    /// Reads the lists of policies, which have room for so many names together. A list that cannot be read, or
    /// of which no line can be used, keeps the names that it had before.
    pub fn load(policies: &[Policy], room: usize, before: &Self) -> Self {
        let mut lists = HashMap::new();
        let mut room = room;
        for file in policies.iter().flat_map(|policy| &policy.lists) {
            if !lists.contains_key(file) {
                let list = ListFile::load(file, (None, None), room, before.get(file));
                room = room.saturating_sub(list.names.len());
                lists.insert(file.clone(), list);
            }
        }
        Self {
            files: lists,
            left_out: BTreeSet::new(),
        }
    }

    /// Lists with these texts, as if they had been read from files.
    #[cfg(test)]
    pub(super) fn of(texts: &[(&Path, &str)]) -> std::io::Result<Self> {
        use crate::catalog::lists::{About, Lists};

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
        Ok(Self {
            files: lists.collect::<std::io::Result<_>>()?,
            left_out: BTreeSet::new(),
        })
    }

    /// Leaves out a list of any kind, until they are loaded anew; its exceptions stay.
    pub fn leave_out(&mut self, list: &str) {
        self.left_out.insert(list.to_owned());
    }

    /// The lists that are left out, by their names.
    pub const fn left_out(&self) -> &BTreeSet<String> {
        &self.left_out
    }

    /// The list in a file.
    pub fn get(&self, file: &Path) -> Option<&ListFile> {
        self.files.get(file)
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &ListFile)> {
        self.files.iter().map(|(file, list)| (&**file, list))
    }
}
