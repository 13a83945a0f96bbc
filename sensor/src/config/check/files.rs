//! Checks the files that a configuration names, and reports problems at the place of the name; also
//! the time zone of the machine, where one is needed and none is named.
//!
//! A policy needs the file that it goes by: without the file, it refuses other things than were asked
//! for. A missing one is therefore an error, but the rest of the configuration is used. Other files
//! only add facts to the traffic; a problem with these is a warning.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    ops::Range,
    path::Path,
};

use crate::{
    catalog::{
        lists::{self, Category, Lists, Report},
        networks,
    },
    config::{
        Config,
        places::PolicyPlaces,
        problem::{Level, Problem},
        read::Read,
        value::{closest, excerpt},
    },
    policy::{Policy, Zone},
};

/// The problems of the lists and databases, and of the time zone.
pub(in crate::config) fn problems(read: &Read) -> Vec<Problem> {
    let (config, places) = (&read.config, &read.places);
    let (mut problems, lists) = of_lists(config, &places.lists);
    if let Some(lists) = lists {
        problems.extend(of_owners_and_categories(config, &places.policies, &lists));
    }
    problems.extend(of_policy_lists(config, &places.policies));
    let networks = config.parties.networks.iter().zip(&places.networks);
    let level = match config.policies.iter().any(Policy::asks_networks) {
        true => Level::Error,
        false => Level::Warning,
    };
    problems.extend(networks.filter_map(|(file, place)| of_networks(file, level, place)));
    if Zone::of_system().is_none() {
        problems.extend(of_unknown_zone(config, &places.policies));
    }
    problems
}

/// A warning of a schedule whose time zone is not known.
fn of_unknown_zone(config: &Config, places: &[PolicyPlaces]) -> Option<Problem> {
    if config.daemon.time_zone.is_some() {
        return None;
    }
    let mut policies = config.policies.iter().zip(places);
    let (policy, places) = policies.find(|(policy, _)| !policy.schedule.is_empty())?;
    Some(warning(
        format!(
            "policy `{}` has a schedule, and the time zone of this machine is not known",
            policy.name
        ),
        &places.schedule,
        "taken for UTC".to_owned(),
        "name it, for example\n\n[daemon]\ntime_zone = \"Europe/Berlin\"".to_owned(),
    ))
}

/// The problems of each `[[list]]`; and all lists, where policies go by their owners or categories.
fn of_lists(config: &Config, places: &[Range<usize>]) -> (Vec<Problem>, Option<Lists>) {
    const HELP: &str = "put it there; until then, a running sensor goes on with what it has of it";
    // Where a policy goes by lists, a missing one makes it refuse more or less than was asked for.
    let level = match config.policies.iter().any(Policy::asks_lists) {
        true => Level::Error,
        false => Level::Warning,
    };
    let mut policies = config.policies.iter();
    let are_asked =
        policies.any(|policy| !policy.owners.is_empty() || !policy.categories.is_empty());
    let mut all = are_asked.then(Lists::default);
    let mut problems = Vec::new();
    for (list, place) in config.lists.iter().zip(places) {
        let owner = list.owner.as_deref();
        let report = match &mut all {
            Some(all) => all.add_file(&list.file, list.category, owner),
            None => lists::inspect(&list.file, list.category, owner),
        };
        match report {
            Ok(report) if report.is_of_no_list() => {
                problems.extend(of_no_list(&list.file, &report, level, place));
            }
            Ok(report) => {
                problems.extend(of_report(&list.file, &report, place));
                problems.extend(of_idle(&list.file, &report, place));
            }
            Err(error) => {
                problems.push(unreadable((level, "list"), &list.file, &error, place, HELP));
            }
        }
    }
    if config.parties.builtin_lists
        && let Some(all) = &mut all
    {
        all.add_builtin();
    }
    (problems, all)
}

/// The problems of the lists of policies, each at the place where the list is named first.
fn of_policy_lists(config: &Config, places: &[PolicyPlaces]) -> Vec<Problem> {
    const HELP: &str = "correct its name, or put it there; until then, a running sensor goes on \
                        with the names that it has of it";
    let reported: HashSet<&Path> = (config.lists.iter())
        .map(|list| list.file.as_path())
        .collect();
    let mut looked_at = HashSet::new();
    let mut problems = Vec::new();
    for (policy, places) in config.policies.iter().zip(places) {
        for (file, place) in policy.lists.iter().zip(&places.lists) {
            if !looked_at.insert(file.as_path()) {
                continue;
            }
            match lists::inspect(file, None, None) {
                Ok(_) if reported.contains(file.as_path()) => {}
                Ok(report) if report.is_of_no_list() => {
                    problems.extend(of_no_list(file, &report, Level::Error, place));
                }
                Ok(report) => problems.extend(of_report(file, &report, place)),
                Err(error) => {
                    problems.push(unreadable(
                        (Level::Error, "list"),
                        file,
                        &error,
                        place,
                        HELP,
                    ));
                }
            }
        }
    }
    problems
}

/// Owners and categories that policies ask for, and no list tells.
fn of_owners_and_categories(
    config: &Config,
    places: &[PolicyPlaces],
    lists: &Lists,
) -> Vec<Problem> {
    let mut owners: BTreeSet<String> = BTreeSet::new();
    let mut categories: BTreeSet<Category> = BTreeSet::new();
    lists.each_name(|entry| {
        if let Some(owner) = entry.listed.owner
            && !owners.contains(owner)
        {
            owners.insert(owner.to_owned());
        }
        categories.extend(entry.listed.category);
    });
    let lower: BTreeSet<String> = owners.iter().map(|owner| owner.to_lowercase()).collect();
    let mut problems = Vec::new();
    for (policy, places) in config.policies.iter().zip(places) {
        for (owner, place) in policy.owners.iter().zip(&places.owners) {
            if lower.contains(&owner.to_lowercase()) {
                continue;
            }
            let help = match closest(&owner.to_lowercase(), lower.iter().map(String::as_str)) {
                Some(meant) => {
                    let is_meant = |name: &&String| name.to_lowercase() == meant;
                    let meant = owners.iter().find(is_meant).map_or(meant, String::as_str);
                    format!("write `\"{}\"`", excerpt(meant))
                }
                None => format!(
                    "write its names in `domains`, or a list of them\n\n[[list]]\nfile = \
                     \"/etc/gateway-sensor/lists/mine.txt\"\nowner = \"{}\"",
                    excerpt(owner)
                ),
            };
            problems.push(warning(
                format!("no list has a name of the owner `{}`", excerpt(owner)),
                place,
                "matches nothing".to_owned(),
                help,
            ));
        }
        for (category, place) in policy.categories.iter().zip(&places.categories) {
            if categories.contains(category) {
                continue;
            }
            let name = category.name();
            problems.push(warning(
                format!("no list has a name of the category `{name}`"),
                place,
                "matches nothing".to_owned(),
                format!(
                    "use the lists that the program carries (`builtin_lists = true` in \
                     `[parties]`), or one of your own\n\n[[list]]\nfile = \
                     \"/etc/gateway-sensor/lists/mine.txt\"\ncategory = \"{name}\""
                ),
            ));
        }
    }
    problems
}

fn of_report(file: &Path, report: &Report, place: &Range<usize>) -> Vec<Problem> {
    let file = file.display();
    let (lines, them) = match report.bad {
        1 => ("1 line that is".to_owned(), "it"),
        bad => (format!("{bad} lines that are"), "them"),
    };
    let used = match report.used {
        0 => "nothing of this list is".to_owned(),
        1 => "the 1 name on this list is".to_owned(),
        used => format!("the other {used} names are"),
    };
    let message = format!("`{file}` has {lines} not used");
    let help = format!("correct or remove {them}; {used} used");
    let mut problems = Vec::from_iter(of_lines(report, place, message, &help));
    if report.used == 0 && report.bad == 0 {
        problems.push(warning(
            format!("`{file}` names nothing"),
            place,
            "empty, or comments alone".to_owned(),
            "write a domain in each line, for example `ads.example.com`".to_owned(),
        ));
    }
    problems
}

/// The problem of a file that is no list, because no line of it can be used.
fn of_no_list(file: &Path, report: &Report, level: Level, place: &Range<usize>) -> Option<Problem> {
    const HELP: &str = "put a list of names there; until then, a running sensor goes on with the \
                        names that it has of it";
    let message = format!("no line of the list `{}` can be used", file.display());
    let problem = of_lines(report, place, message, HELP)?;
    Some(Problem { level, ..problem })
}

/// A problem at the first of the bad lines, where there are any.
fn of_lines(report: &Report, place: &Range<usize>, message: String, help: &str) -> Option<Problem> {
    let (first, others) = report.shown.split_first()?;
    let mut help = help.to_owned();
    for bad in others {
        let (line, excerpt, why) = (bad.line, &bad.excerpt, bad.reason.sentence());
        help.push_str(&format!("\nline {line}: `{excerpt}` {why}"));
    }
    let shown = report.shown.len() as u64;
    if report.bad > shown {
        help.push_str(&format!("\nand {} more", report.bad - shown));
    }
    let label = format!(
        "line {}: `{}` {}",
        first.line,
        first.excerpt,
        first.reason.sentence()
    );
    Some(warning(message, place, label, help))
}

/// Names of which a list says nothing, where that is all that it is for.
fn of_idle(file: &Path, report: &Report, place: &Range<usize>) -> Option<Problem> {
    (report.idle > 0).then(|| {
        warning(
            format!(
                "`{}` says nothing of {} of its names",
                file.display(),
                report.idle
            ),
            place,
            "neither a category nor an owner".to_owned(),
            "add a line such as `category = \"advertising\"` or `owner = \"Xiaomi\"`".to_owned(),
        )
    })
}

fn of_networks(file: &Path, level: Level, place: &Range<usize>) -> Option<Problem> {
    const HELP: &str = "put it there; until then, a running sensor goes on with what it has of it, \
                        and countries and networks are those that the other files know";
    match networks::inspect(file).err()? {
        networks::Error::Unreadable(error) => {
            Some(unreadable((level, "database"), file, &error, place, HELP))
        }
        networks::Error::Damaged(error) => Some(Problem {
            level,
            ..warning(
                format!("`{}` is no database of networks", file.display()),
                place,
                excerpt(&error.to_string()),
                "fetch it anew: a whole `.mmdb` file, unpacked".to_owned(),
            )
        }),
    }
}

fn unreadable(
    (level, what): (Level, &str),
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
    Problem {
        level,
        ..warning(message, place, label, help.to_owned())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::read;

    #[test]
    fn hours_need_a_time_zone() {
        let told = |text: &str| {
            let read = read(text);
            assert_eq!(read.problems, [], "{text}");
            let problem = of_unknown_zone(&read.config, &read.places.policies);
            problem.map(|problem| {
                (
                    problem.message,
                    problem.span.map(|span| text[span].to_owned()),
                )
            })
        };
        let text = "[[interface]]\nname = \"lan0\"\n[[policy]]\nname = \"a\"\nports = [1]\n";
        let night = "[[policy]]\nname = \"night\"\nschedule = [\"daily 21:00-07:00\"]\n";
        let zone = "[daemon]\ntime_zone = \"Europe/Berlin\"\n";
        assert_eq!(told(text), None);
        assert_eq!(
            told(&format!("{text}{night}")),
            Some((
                "policy `night` has a schedule, and the time zone of this machine is not known"
                    .to_owned(),
                Some("[\"daily 21:00-07:00\"]".to_owned())
            ))
        );
        assert_eq!(told(&format!("{text}{night}{zone}")), None);
    }
}
