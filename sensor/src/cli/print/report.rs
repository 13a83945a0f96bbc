//! Reports as text for a terminal, and as Markdown.

use std::io::{self, Write};

use super::text::{counted, counted_u64, grouped, octets, print_table, printable, table};
use crate::model::{
    echo::{Echo, IdleUploads},
    report::{Change, Gap, Owner, Report},
    text::chance,
};

/// The most rows of owners; the JSON has all.
const MOST_OWNERS: usize = 12;

/// Prints reports for a terminal. `time` shows a time in seconds since the Unix epoch.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_reports(
    out: &mut impl Write,
    reports: &[Report],
    time: impl Fn(i64) -> String,
) -> io::Result<()> {
    if reports.is_empty() {
        return writeln!(out, "the history has nothing of that time");
    }
    for (number, report) in reports.iter().enumerate() {
        if number > 0 {
            writeln!(out, "\n")?;
        }
        let [from, to] = &report.days_from_to;
        writeln!(out, "{}, {from} to {to}\n", printable(report.called()))?;
        for sentence in &report.sentences {
            writeln!(out, "- {}", printable(sentence))?;
        }
        writeln!(out)?;
        let mut days = table(
            ["DAY", "SENT", "TELEMETRY", "RECEIVED", "FLOWS", "REFUSED"],
            2..=6,
        );
        for day in &report.days {
            days.add_row([
                day.day.clone(),
                octets(day.amounts.upload_bytes),
                octets(day.telemetry_upload_bytes),
                octets(day.amounts.download_bytes),
                grouped(day.amounts.flows),
                grouped(day.amounts.refused),
            ]);
        }
        print_table(out, &days, "the history has no hour of that time")?;
        writeln!(out)?;
        let mut owners = table(
            [
                "OWNER",
                "CATEGORY",
                "PARTIES",
                "COUNTRY",
                "SENT",
                "RECEIVED",
                "AFTER VISITS",
                "REFUSED",
            ],
            5..=8,
        );
        for row in report.owners.iter().take(MOST_OWNERS) {
            owners.add_row([
                row.owner.clone(),
                row.category.clone().unwrap_or_else(|| "-".to_owned()),
                parties(row),
                row.countries.join(" "),
                octets(row.amounts.upload_bytes),
                octets(row.amounts.download_bytes),
                after_visits(row),
                grouped(row.amounts.refused),
            ]);
        }
        print_table(out, &owners, "it sent nothing to anybody")?;
        let further = report.owners.len().saturating_sub(MOST_OWNERS);
        if further > 0 {
            writeln!(out, "and {further} more; `--format json` has all")?;
        }
        for line in evidence(report)
            .chain(changes(report, &time))
            .chain(gaps(report, &time))
        {
            writeln!(out, "- {}", printable(&line))?;
        }
    }
    Ok(())
}

/// Prints reports as Markdown (CommonMark with the tables of GitHub). `time` shows a time in seconds since the Unix
/// epoch.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_reports_as_markdown(
    out: &mut impl Write,
    reports: &[Report],
    time: impl Fn(i64) -> String,
) -> io::Result<()> {
    if reports.is_empty() {
        return writeln!(out, "The history has nothing of that time.");
    }
    for report in reports {
        let [from, to] = &report.days_from_to;
        writeln!(out, "# {}, {from} to {to}\n", escaped(report.called()))?;
        for sentence in &report.sentences {
            writeln!(out, "- {}", escaped(sentence))?;
        }
        writeln!(
            out,
            "\n## Day by day\n\n| day | sent | telemetry | received | flows | refused |\n\
             | --- | ---: | ---: | ---: | ---: | ---: |"
        )?;
        for day in &report.days {
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} |",
                day.day,
                octets(day.amounts.upload_bytes),
                octets(day.telemetry_upload_bytes),
                octets(day.amounts.download_bytes),
                grouped(day.amounts.flows),
                grouped(day.amounts.refused)
            )?;
        }
        writeln!(
            out,
            "\n## Who got it\n\n| owner | category | parties | country | sent | received | after visits | refused |\n\
             | --- | --- | --- | --- | ---: | ---: | ---: | ---: |"
        )?;
        for row in &report.owners {
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                escaped(&row.owner),
                row.category.as_deref().unwrap_or("-"),
                escaped(&parties(row)),
                row.countries.join(" "),
                octets(row.amounts.upload_bytes),
                octets(row.amounts.download_bytes),
                after_visits(row),
                grouped(row.amounts.refused)
            )?;
        }
        writeln!(out, "\n## Evidence, changes, and what was not seen\n")?;
        for line in evidence(report)
            .chain(changes(report, &time))
            .chain(gaps(report, &time))
        {
            writeln!(out, "- {}", escaped(&line))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Text in which Markdown and HTML have no meaning.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in printable(text).chars() {
        if matches!(
            character,
            '\\' | '`'
                | '*'
                | '_'
                | '{'
                | '}'
                | '['
                | ']'
                | '<'
                | '>'
                | '#'
                | '|'
                | '&'
                | '!'
                | '~'
        ) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn parties(row: &Owner) -> String {
    match &*row.parties {
        _ if row.is_no_party => "-".to_owned(),
        [one] => one.clone(),
        [one, others @ ..] => format!("{one} and {}", counted(others.len(), "other", "others")),
        [] => "-".to_owned(),
    }
}

fn after_visits(row: &Owner) -> String {
    match row.after_visits {
        Some([followed, visits]) => format!("{followed} of {visits}"),
        None => "-".to_owned(),
    }
}

/// A line for each party that follows visits, or hears of the device while nobody uses it.
fn evidence(report: &Report) -> impl Iterator<Item = String> {
    let held = report.echoes.iter().filter(|echo| echo.withdrawn.is_none());
    held.map(line).chain(report.idle.iter().map(while_idle))
}

fn while_idle(uploads: &IdleUploads) -> String {
    let every = match uploads.every {
        Some(seconds) => format!(", one every {:.1} min", seconds / 60.0),
        None => ", irregularly".to_owned(),
    };
    format!(
        "{} got data {} in the last 24 hours while nobody used the device{every}",
        uploads.name,
        counted_u64(uploads.count.into(), "time", "times")
    )
}

fn line(echo: &Echo) -> String {
    let control = match echo.control {
        Some(control) => format!("at {:.0} of 100 other moments", 100.0 * control),
        None => "other moments are not known".to_owned(),
    };
    format!(
        "{} follows {} of {} website visits, {} to {} s later; {control}; by chance alone {}",
        echo.name,
        echo.followed,
        echo.visits,
        echo.from,
        echo.to,
        chance(echo.p)
    )
}

fn changes(report: &Report, time: &impl Fn(i64) -> String) -> impl Iterator<Item = String> {
    report.changes.iter().map(move |change| match change {
        Change::NewParty {
            party,
            category,
            first_seen,
        } => format!(
            "new recipient: {party} ({}), first seen {}",
            category.as_deref().unwrap_or("purpose unknown"),
            time(*first_seen)
        ),
        Change::NewCountry { country, party } => {
            format!("new country: {country}, where {party} is")
        }
        Change::MoreToOwner {
            owner,
            upload_bytes,
            before,
        } => format!(
            "{owner} got {}, before {}",
            octets(*upload_bytes),
            octets(*before)
        ),
    })
}

fn gaps(report: &Report, time: &impl Fn(i64) -> String) -> impl Iterator<Item = String> {
    let line = move |gap: &Gap| {
        format!(
            "no day has the traffic from {} to {} ({}){}",
            time(gap.start),
            time(gap.end),
            gap.reason,
            if gap.lost { "; counts are lost" } else { "" }
        )
    };
    report.gaps.iter().map(line)
}
