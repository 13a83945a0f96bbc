//! The words of the project: names that gave way to those of the field, and words that users do not meet.

use std::{fs, path::Path};

use anyhow::{Result, bail};

use crate::{
    build, documents,
    laws::{is_of_tests, sources},
    lexer::{Kind, pieces, without_tests},
    prose,
};

/// The things that a retired name may not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// A file or folder of sources.
    Module,
    /// A struct, an enum, a union, a trait or an alias.
    Type,
    /// A function or a method.
    Function,
}

/// A name that the code has no more.
struct Retired {
    names: Names,
    word: &'static str,
    /// The name to take in its place.
    instead: &'static str,
    /// The sources of which this is true, as prefixes of their paths.
    within: &'static [&'static str],
}

const ALL: &[&str] = &["sensor", "xtask"];
/// Without the tests, which have words of their own for what they compare.
const DAEMON: &[&str] = &["sensor/src"];

const fn module(word: &'static str, instead: &'static str) -> Retired {
    Retired {
        names: Names::Module,
        word,
        instead,
        within: ALL,
    }
}

const fn a_type(word: &'static str, instead: &'static str) -> Retired {
    Retired {
        names: Names::Type,
        word,
        instead,
        within: DAEMON,
    }
}

const fn function(word: &'static str, instead: &'static str) -> Retired {
    Retired {
        names: Names::Function,
        word,
        instead,
        within: ALL,
    }
}

const fn within(folders: &'static [&'static str], retired: Retired) -> Retired {
    Retired {
        within: folders,
        ..retired
    }
}

const RETIRED: &[Retired] = &[
    module("answers", "dns_answers"),
    module("asked", "control"),
    module("bell", "wakeup"),
    module("fit", "capacity"),
    module("force", "ruleset"),
    module("hearing", "classify"),
    module("knowledge", "catalog"),
    module("look", "file_stamp"),
    module("mending", "retry"),
    module("names_at", "address_names"),
    module("reading", "books or tables"),
    module("remembered", "devices"),
    module("supervisor", "systemd"),
    module("typed", "arguments"),
    module("vain", "unreachable"),
    within(&["sensor/src"], module("said", "overrides")),
    within(&["sensor/src/classify"], module("judge", "verdict")),
    within(&["sensor/src/classify"], module("kept", "overlap")),
    within(&["sensor/src/classify"], module("readers", "streams")),
    within(&["sensor/src/config"], module("overlap", "shadowed")),
    a_type("Bell", "Wakeup"),
    a_type("Circumstances", "Context"),
    a_type("Desk", "Classifier"),
    a_type("GivenUp", "Expired"),
    a_type("Heard", "Observation"),
    a_type("InForce", "ActiveRules"),
    a_type("Knowledge", "Catalog"),
    a_type("Mending", "Retry"),
    a_type("NamesAt", "AddressNames"),
    a_type("Said", "Override"),
    a_type("Supervisor", "ServiceManager"),
    a_type("Temporary", "Override"),
    a_type("Told", "Response"),
    a_type("Typed", "Arguments"),
    a_type("Who", "Scope"),
    within(&["sensor/src/control"], a_type("Question", "Request")),
    within(&["sensor/src/daemon"], a_type("Line", "ListenerHandle")),
    function("glance", "load_lenient"),
    within(&["sensor-ebpf"], function("open_again", "reopen")),
];

/// Retired names that are there all the same, by their files; an entry that is no longer needed is a mistake.
const STILL_THERE: &[(&str, &str)] = &[];

/// Words that no user meets, in small letters, and the words to write in their place.
const UNREAD: &[(&str, &str)] = &[
    ("octet", "byte"),
    ("octets", "bytes"),
    ("in vain", "without effect"),
    ("left out: all", "default: all"),
    ("mending", "retry"),
];

/// Reads every source and every document.
///
/// # Errors
/// A retired name, or a word that users do not meet: every place, and the word to take instead.
pub fn check() -> Result<()> {
    let root = build::workspace();
    let mut found = Vec::new();
    let mut needed = Vec::new();
    for folder in prose::FOLDERS {
        for file in sources(&root.join(folder))? {
            let text = fs::read_to_string(&file)?;
            let name = file.strip_prefix(&root).unwrap_or(&file);
            for (line, retired) in retired_in(name, &text) {
                let entry = (name.to_string_lossy().into_owned(), retired.word);
                if STILL_THERE.contains(&(&*entry.0, entry.1)) {
                    needed.push(entry);
                } else {
                    found.push(place(name, line, retired.word, retired.instead));
                }
            }
            if name.starts_with("sensor/src") && !is_of_tests(name) {
                let unread = unread_in_source(name, &text).into_iter();
                found.extend(unread.map(|(line, (word, better))| place(name, line, word, better)));
            }
        }
    }
    for file in documents::files(&root)? {
        let text = fs::read_to_string(&file)?;
        let name = file.strip_prefix(&root).unwrap_or(&file);
        for (line, text) in (1..).zip(text.lines()) {
            let unread = unread_in(text).into_iter();
            found.extend(unread.map(|(word, better)| place(name, line, word, better)));
        }
    }
    let is_needed =
        |(file, word): &&(&str, &str)| needed.iter().any(|(f, w)| f == file && w == word);
    let stale = STILL_THERE.iter().filter(|entry| !is_needed(entry));
    found.extend(stale.map(|(file, word)| {
        format!(
            "{file}: `{word}` is gone: strike it from the list STILL_THERE of xtask/src/words.rs"
        )
    }));
    if found.is_empty() {
        return Ok(());
    }
    bail!("words that are not the project's:\n{}", found.join("\n"))
}

fn place(file: &Path, line: usize, word: &str, better: &str) -> String {
    format!("{}:{line}: `{word}`: write `{better}`", file.display())
}

/// The retired names that a source declares, and the lines of their declarations.
fn retired_in(file: &Path, text: &str) -> Vec<(usize, &'static Retired)> {
    let pieces = pieces(text);
    let declared = pieces.windows(2).filter_map(|pair| {
        let names = match pair[0].text {
            "struct" | "enum" | "union" | "trait" | "type" => Names::Type,
            "fn" => Names::Function,
            _ => return None,
        };
        let both_are_words = pair.iter().all(|piece| piece.kind == Kind::Word);
        both_are_words.then_some((pair[1].line, names, pair[1].text.to_owned()))
    });
    let own = match file.file_stem() {
        Some(stem) if stem == "mod" => file.parent().and_then(Path::file_name),
        stem => stem,
    };
    let own = own.unwrap_or_default().to_string_lossy().into_owned();
    let own = (1, Names::Module, own);
    let name = file.to_string_lossy();
    let is_here = |retired: &Retired| retired.within.iter().any(|start| name.starts_with(start));
    (std::iter::once(own).chain(declared))
        .flat_map(|(line, names, word)| {
            let same = move |retired: &&Retired| retired.names == names && retired.word == word;
            let retired = RETIRED.iter().filter(same);
            retired.map(move |retired| (line, retired))
        })
        .filter(|(_, retired)| is_here(retired))
        .collect()
}

/// The words that users do not meet, in the texts of a source; in the file of arguments, also in its
/// documentation, which is the `--help`.
fn unread_in_source(file: &Path, text: &str) -> Vec<(usize, (&'static str, &'static str))> {
    let is_of_arguments = file.ends_with("cli/args.rs");
    let pieces = pieces(without_tests(text)).into_iter();
    pieces
        .filter(|piece| match piece.kind {
            Kind::Text => true,
            Kind::Comment => is_of_arguments && piece.text.starts_with("///"),
            Kind::Word | Kind::Sign => false,
        })
        .flat_map(|piece| {
            let unread = unread_in(&without_captures(piece.text)).into_iter();
            unread.map(move |words| (piece.line, words))
        })
        .collect()
}

/// A text without the names of values in braces.
fn without_captures(text: &str) -> String {
    let mut parts = text.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once('}').map_or(part, |(_, rest)| rest)
    })
}

/// The words that users do not meet, in a text.
fn unread_in(text: &str) -> Vec<(&'static str, &'static str)> {
    let lower = text.to_lowercase();
    let is_end = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    let has = |word: &str| {
        lower.match_indices(word).any(|(at, _)| {
            let before = lower[..at].chars().next_back();
            let after = lower[at + word.len()..].chars().next();
            is_end(before) && is_end(after)
        })
    };
    let unread = UNREAD.iter().copied();
    unread.filter(|(word, _)| has(word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retired_names_are_found_where_they_are_declared() {
        let check = |file: &str, text: &str, expected: &[(usize, &str)]| {
            let found = retired_in(Path::new(file), text).into_iter();
            let found: Vec<_> = found.map(|(line, retired)| (line, retired.word)).collect();
            assert_eq!(found, expected, "{file}: {text}");
        };
        let daemon = "sensor/src/daemon/mod.rs";
        check(
            daemon,
            "use a::B;\npub struct Heard<T>(T);",
            &[(2, "Heard")],
        );
        check(
            daemon,
            "type Told = ();\nenum Who {}",
            &[(1, "Told"), (2, "Who")],
        );
        check(daemon, "struct Line;", &[(1, "Line")]);
        check("sensor/src/config/problem.rs", "struct Line;", &[]);
        check(
            daemon,
            "// struct Heard\nlet a = \"struct Heard\"; Heard",
            &[],
        );
        check(daemon, "fn glance() {} struct glance;", &[(1, "glance")]);
        check("sensor/tests/replay.rs", "struct Told;", &[]);
        check("sensor/src/config/vain.rs", "", &[(1, "vain")]);
        check("sensor/src/hearing/mod.rs", "", &[(1, "hearing")]);
        check("sensor/src/classify/kept.rs", "", &[(1, "kept")]);
        check("sensor/src/enforcement/kept.rs", "", &[]);
        check(
            "sensor-ebpf/kernel/book.rs",
            "fn open_again() {}",
            &[(1, "open_again")],
        );
        check("sensor-ebpf/src/said/mod.rs", "", &[]);
    }

    #[test]
    fn words_that_users_do_not_meet_are_found_in_texts() {
        let check = |file: &str, text: &str, lines: &[usize]| {
            let found = unread_in_source(Path::new(file), text).into_iter();
            let found: Vec<_> = found.map(|(line, _)| line).collect();
            assert_eq!(found, lines, "{file}: {text}");
        };
        let file = "sensor/src/config/value.rs";
        check(file, "fn octets() {}\n// octets\n\"4 octets\"", &[3]);
        check(file, "\"Octets: {bytes}\"", &[1]);
        check(file, "\"{octets} B, {octet:02x}\"", &[]);
        check(file, "\"octets_total\"", &[1]);
        check(file, "\"IN VAIN\"; \"in\nvain\"", &[1]);
        check(file, "#[cfg(test)]\nmod tests {\n\"octets\"\n}", &[]);
        check(file, "/// Octets.", &[]);
        check("sensor/src/cli/args.rs", "/// Octets.\n// octets", &[1]);
    }
}
