//! The documents, held against the code: configurations are valid, links lead somewhere, commands are accepted.

use std::path::{Path, PathBuf};

use clap::{Parser, error::ErrorKind};

use sensor::{cli::args::Cli, config::Config};
use xtask::{
    build::workspace,
    documents::{self, Document},
};

fn documents() -> Vec<Document> {
    let all = documents::all().expect("the documents can be read");
    assert!(all.len() >= 4, "README, deploy/docs and deploy/lists");
    all
}

#[test]
fn every_configuration_in_a_document_is_valid() {
    let mut read = 0;
    for document in documents() {
        for block in document.blocks() {
            if block.language != "toml" {
                continue;
            }
            let place = format!("{}:{}", document.path.display(), block.line);
            match Config::parse(&block.text, Path::new(&place)) {
                Ok(checked) => assert!(checked.problems.is_empty(), "{}", checked.problems),
                Err(problems) => panic!("{problems}"),
            }
            read += 1;
        }
    }
    assert!(read >= 2, "{read} configurations");
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let all = documents();
    let mut wrong = Vec::new();
    for document in &all {
        for (line, link) in document.links() {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.path.clone(),
                file => normal(&document.path.with_file_name("").join(file)),
            };
            let anchors = all.iter().filter(|other| other.path == target);
            let mut anchors = anchors.flat_map(Document::anchors);
            let has_anchor = anchor.is_empty() || anchors.any(|name| name == anchor);
            if !target.exists() || !has_anchor {
                wrong.push(format!("{}:{line}: {link}", document.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links to nowhere:\n{}", wrong.join("\n"));
}

/// A path without the folders that it leaves again.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path {
        if part == ".." {
            normal.pop();
        } else {
            normal.push(part);
        }
    }
    normal
}

/// A word is a path of the repository where it begins with one of the top level's folders.
#[test]
fn every_path_that_a_document_names_exists() {
    const FOLDERS: [&str; 4] = ["sensor/", "sensor-ebpf/", "xtask/", "deploy/"];
    let is_end = |c: char| c.is_whitespace() || "`,;()".contains(c);
    let mut wrong = Vec::new();
    for document in documents() {
        let code = document.blocks().into_iter().flat_map(|block| {
            let lines = block.text.lines().map(str::to_owned).collect::<Vec<_>>();
            (block.line..).zip(lines)
        });
        let spans = document.spans().into_iter();
        let spans = spans.map(|(line, span)| (line, span.to_owned()));
        for (line, text) in code.chain(spans) {
            for word in text.split(is_end) {
                let is_path = FOLDERS.iter().any(|folder| word.starts_with(folder));
                if is_path && !workspace().join(word).exists() {
                    wrong.push(format!("{}:{line}: {word}", document.path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "no such files:\n{}", wrong.join("\n"));
}

#[test]
fn every_command_in_a_block_is_accepted() {
    let mut tried = 0;
    for document in documents() {
        for (line, words) in document.commands("sensor") {
            let place = format!("{}:{line}", document.path.display());
            Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{place}: {error}"));
            tried += 1;
        }
    }
    assert!(tried >= 8, "{tried} commands");
}

/// A sentence may leave arguments out (`sensor block`), and names them by words in capitals.
#[test]
fn every_command_that_a_sentence_names_is_there() {
    let mut tried = 0;
    for document in documents() {
        for (line, words) in document.named_commands("sensor") {
            let place = format!("{}:{line}: {words:?}", document.path.display());
            let words = words.iter().map(|word| {
                let word = word.trim_matches(['[', ']', '…']);
                match word {
                    "DEVICE" | "D" => "02:00:00:00:00:01",
                    "NAME" => "name.example",
                    "FILE" => "capture.pcap",
                    word => word,
                }
            });
            match Cli::try_parse_from(words) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {}
                Err(error) => panic!("{place}: {error}"),
            }
            tried += 1;
        }
    }
    assert!(tried >= 30, "{tried} commands");
}

#[test]
fn every_test_that_a_document_runs_is_there() {
    let mut tried = 0;
    for document in documents() {
        for (line, words) in document
            .commands("EXPECT=write")
            .into_iter()
            .chain(document.commands("cargo"))
        {
            let Some(name) = words.iter().skip_while(|word| *word != "--test").nth(1) else {
                continue;
            };
            let file = workspace()
                .join("sensor/tests")
                .join(name)
                .with_extension("rs");
            assert!(file.exists(), "{}:{line}: {name}", document.path.display());
            tried += 1;
        }
    }
    assert!(tried >= 4, "{tried} commands");
}
