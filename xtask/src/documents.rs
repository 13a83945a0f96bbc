//! Reads the documents of the project, for tests that hold them against the code.

use std::{
    fs, mem,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::build;

/// A document in Markdown.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its path.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// A block of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The language behind the fence; empty where none is given.
    pub language: String,
    /// The line of the document on which its text begins, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// The README, and all Markdown below `deploy/`.
///
/// # Errors
/// One cannot be read.
pub fn all() -> Result<Vec<Document>> {
    let files = files(&build::workspace())?.into_iter();
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| {
            let text = fs::read_to_string(&path);
            let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
            Ok(Document { path, text })
        })
        .collect()
}

/// The README, and all files below `deploy/`: everything that users read or install.
pub(crate) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![root.join("README.md")];
    let mut folders = vec![root.join("deploy")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

impl Document {
    /// Its blocks of code.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in (1..).zip(self.text.lines()) {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(_), open @ Some(_)) => blocks.extend(open.take()),
                (Some(language), open @ None) => {
                    *open = Some(Block {
                        language: language.trim().to_owned(),
                        line: number + 1,
                        text: String::new(),
                    });
                }
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        blocks
    }

    /// The lines outside of its blocks, each with its number from 1.
    fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut is_inside = false;
        (1..).zip(self.text.lines()).filter(move |(_, line)| {
            let is_fence = line.trim_start().starts_with("```");
            is_inside ^= is_fence;
            !is_inside && !is_fence
        })
    }

    /// The texts between backquotes, each with its line.
    pub fn spans(&self) -> Vec<(usize, &str)> {
        let spans = self.prose().flat_map(|(number, line)| {
            let parts = line.split('`').skip(1).step_by(2);
            parts.map(move |part| (number, part))
        });
        spans.collect()
    }

    /// The targets of links, each with its line.
    pub fn links(&self) -> Vec<(usize, &str)> {
        let links = self.prose().flat_map(|(number, line)| {
            let parts = line.split("](").skip(1);
            parts.filter_map(move |part| Some((number, part.split_once(')')?.0)))
        });
        links.collect()
    }

    /// The names by which links reach its headings.
    pub fn anchors(&self) -> Vec<String> {
        let headings = self.prose().filter_map(|(_, line)| {
            let title = line.trim_start_matches('#');
            (title.len() < line.len()).then(|| title.trim().to_lowercase())
        });
        let named = headings.map(|title| {
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        });
        named.collect()
    }

    /// The lines of its blocks that run a program, as words, each with its line: those that begin with it, behind
    /// a prompt or without one. What follows a `#` is a comment.
    pub fn commands(&self, program: &str) -> Vec<(usize, Vec<String>)> {
        let mut commands = Vec::new();
        for block in self.blocks() {
            for (number, line) in (block.line..).zip(block.text.lines()) {
                let line = line.strip_prefix("$ ").unwrap_or(line);
                let line = line.split(" #").next().unwrap_or_default();
                if is_of(program, line) {
                    commands.push((number, words(line)));
                }
            }
        }
        commands
    }

    /// The commands of a program that stand between backquotes, as words, each with its line.
    pub fn named_commands(&self, program: &str) -> Vec<(usize, Vec<String>)> {
        let spans = self.spans().into_iter();
        spans
            .filter(|(_, span)| is_of(program, span))
            .map(|(number, span)| (number, words(span)))
            .collect()
    }
}

fn is_of(program: &str, line: &str) -> bool {
    line.strip_prefix(program)
        .is_some_and(|rest| rest.starts_with(' '))
}

/// The words of a command line; those in double quotes are one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_document() {
        let document = Document {
            path: "a.md".into(),
            text: "# The `one`, two-three\n\nSee [it](b.md#c), `x y` and [more](d).\n\n```toml\n# [no](e) `f`\na = 1\n```\n\
                   ```\n$ sensor flows \"a b\"  # all `x`\nsensors\n```\n\n## End\n"
                .to_owned(),
        };
        let block = |language: &str, line, text: &str| Block {
            language: language.to_owned(),
            line,
            text: text.to_owned(),
        };
        let blocks = [
            block("toml", 6, "# [no](e) `f`\na = 1\n"),
            block("", 10, "$ sensor flows \"a b\"  # all `x`\nsensors\n"),
        ];
        assert_eq!(document.blocks(), blocks);
        assert_eq!(document.spans(), [(1, "one"), (3, "x y")]);
        assert_eq!(document.links(), [(3, "b.md#c"), (3, "d")]);
        assert_eq!(document.anchors(), ["the-one-two-three", "end"]);
        let words = ["sensor", "flows", "a b"].map(str::to_owned).to_vec();
        assert_eq!(document.commands("sensor"), [(10, words)]);
        let words = ["x", "y"].map(str::to_owned).to_vec();
        assert_eq!(document.named_commands("x"), [(3, words)]);
    }
}
