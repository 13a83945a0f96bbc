//! The form of comments that can be read off the text: a sentence's subject is a named thing.

use std::fs;

use anyhow::{Result, bail};

use crate::{build, laws::sources};

/// Where sources are, from the workspace's folder.
pub(crate) const FOLDERS: [&str; 11] = [
    "sensor/src",
    "sensor/tests",
    "sensor/benches",
    "sensor/examples",
    "sensor/fuzz/fuzz_targets",
    "sensor-ebpf/src",
    "sensor-ebpf/kernel",
    "sensor-ebpf/tests",
    "xtask/src",
    "xtask/tests",
    "xtask/examples",
];

/// Words that stand for a thing without naming it.
const NAMELESS: [&str; 6] = ["What", "Who", "Whom", "Whose", "Whoever", "Whatever"];

/// Sentences of comments that may begin with one of them, in all sources together.
const MOST: usize = 20;

/// Counts the sentences of all comments that begin with a word without a named subject.
///
/// # Errors
/// There are more than 20: every place.
pub fn check() -> Result<()> {
    let root = build::workspace();
    let mut places = Vec::new();
    for folder in FOLDERS {
        for file in sources(&root.join(folder))? {
            let text = fs::read_to_string(&file)?;
            let name = file.strip_prefix(&root).unwrap_or(&file);
            let lines = nameless(&text).into_iter();
            places.extend(lines.map(|line| format!("{}:{line}", name.display())));
        }
    }
    if places.len() > MOST {
        bail!(
            "{} sentences of comments begin with {}, {MOST} may: name the packet, the rule, the daemon, …\n{}",
            places.len(),
            NAMELESS.join(", "),
            places.join("\n")
        );
    }
    Ok(())
}

/// The lines of comments on which such a sentence begins.
fn nameless(source: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut is_start = true;
    for (number, line) in (1..).zip(source.lines()) {
        let Some(comment) = line.trim_start().strip_prefix("//") else {
            is_start = true;
            continue;
        };
        let comment = comment.trim_start_matches(['/', '!']).trim();
        if comment.is_empty() {
            is_start = true;
            continue;
        }
        for word in comment.split_whitespace() {
            let bare = word.trim_end_matches([',', '.', ':', ';', '?', '!']);
            if is_start && NAMELESS.contains(&bare) {
                found.push(number);
            }
            is_start = word.ends_with(['.', ':', ';', '?', '!']);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_without_a_named_subject_are_found() {
        for (source, lines) in [
            ("/// What a packet is.\nfn f() {}", &[1][..]),
            ("/// The packet, and what it is.", &[]),
            ("// It ends. Who is told, waits.", &[1]),
            (
                "//! The packet ends here:\n//! what follows is not read.",
                &[],
            ),
            (
                "//! The packet ends here.\n//! What follows is not read.",
                &[2],
            ),
            ("/// The packet tells\n/// Who is asked.", &[]),
            ("///\n/// Whose it is.", &[2]),
            ("let a = \"What\"; // Whoever", &[]),
        ] {
            assert_eq!(nameless(source), lines, "{source}");
        }
    }
}
