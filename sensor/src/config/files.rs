//! The files that a configuration names: what is wrong with each, as a warning where it is named.
//! Nothing depends on them, so none is an error.

use std::{io, ops::Range, path::Path};

use super::{
    List,
    problem::{Level, Problem},
    read::Read,
    value::excerpt,
};
use crate::aggregate::party::{
    lists::{self, Report},
    networks,
};

/// What is wrong with the lists and databases.
pub(super) fn problems(read: &Read) -> Vec<Problem> {
    let lists = read.config.lists.iter().zip(&read.places.lists);
    let lists = lists.flat_map(|(list, place)| of_list(list, place));
    let networks = read.config.parties.networks.iter();
    let networks = networks.zip(&read.places.networks);
    let networks = networks.filter_map(|(file, place)| of_networks(file, place));
    lists.chain(networks).collect()
}

fn of_list(list: &List, place: &Range<usize>) -> Vec<Problem> {
    match lists::inspect(&list.file, list.category, list.owner.as_deref()) {
        Ok(report) => of_report(&list.file, &report, place),
        Err(error) => {
            let help = "the other lists are used; this one is, once it can be read and the \
                        configuration is loaded anew";
            vec![unreadable("list", &list.file, &error, place, help)]
        }
    }
}

fn of_report(file: &Path, report: &Report, place: &Range<usize>) -> Vec<Problem> {
    let file = file.display();
    let mut problems = Vec::new();
    if let Some(first) = report.shown.first() {
        let (lines, them) = match report.bad {
            1 => ("1 line that is".to_owned(), "it"),
            bad => (format!("{bad} lines that are"), "them"),
        };
        let used = match report.used {
            0 => "nothing of this list is".to_owned(),
            1 => "the 1 name on this list is".to_owned(),
            used => format!("the other {used} names are"),
        };
        let mut help = format!("correct or remove {them}; {used} used");
        for bad in &report.shown[1..] {
            let (line, excerpt, why) = (bad.line, &bad.excerpt, bad.reason.sentence());
            help.push_str(&format!("\nline {line}: `{excerpt}` {why}"));
        }
        let shown = report.shown.len() as u64;
        if report.bad > shown {
            help.push_str(&format!("\nand {} more", report.bad - shown));
        }
        problems.push(warning(
            format!("`{file}` has {lines} not used"),
            place,
            format!(
                "line {}: `{}` {}",
                first.line,
                first.excerpt,
                first.reason.sentence()
            ),
            help,
        ));
    }
    if report.used == 0 && report.bad == 0 {
        problems.push(warning(
            format!("`{file}` names nothing"),
            place,
            "empty, or comments alone".to_owned(),
            "write a domain in each line, for example `ads.example.com`".to_owned(),
        ));
    }
    if report.idle > 0 {
        problems.push(warning(
            format!("`{file}` says nothing of {} of its names", report.idle),
            place,
            "neither a category nor an owner".to_owned(),
            "add a line such as `category = \"advertising\"` or `owner = \"Xiaomi\"`".to_owned(),
        ));
    }
    problems
}

fn of_networks(file: &Path, place: &Range<usize>) -> Option<Problem> {
    const HELP: &str = "countries and networks are shown as far as the other files know them; \
                        this one is used once it can be read and the configuration is loaded anew";
    match networks::inspect(file).err()? {
        networks::Error::Unreadable(error) => {
            Some(unreadable("database", file, &error, place, HELP))
        }
        networks::Error::Damaged(error) => Some(warning(
            format!("`{}` is no database of networks", file.display()),
            place,
            excerpt(&error.to_string()),
            "fetch it anew: a whole `.mmdb` file, unpacked".to_owned(),
        )),
    }
}

fn unreadable(
    what: &str,
    file: &Path,
    error: &io::Error,
    place: &Range<usize>,
    help: &str,
) -> Problem {
    let file = file.display();
    let (message, label) = match error.kind() {
        io::ErrorKind::NotFound => (
            format!("the {what} `{file}` does not exist"),
            "no such file".to_owned(),
        ),
        io::ErrorKind::PermissionDenied => (
            format!("the {what} `{file}` may not be read"),
            "permission denied".to_owned(),
        ),
        io::ErrorKind::InvalidInput => (
            format!("the {what} `{file}` is not a file"),
            "a folder, a device or a pipe".to_owned(),
        ),
        _ => (
            format!("the {what} `{file}` cannot be read"),
            excerpt(&error.to_string()),
        ),
    };
    warning(message, place, label, help.to_owned())
}

fn warning(message: String, place: &Range<usize>, label: String, help: String) -> Problem {
    Problem {
        level: Level::Warning,
        message,
        span: Some(place.clone()),
        label,
        related: None,
        help,
    }
}
