//! The output of `history`: sums with bars, and rows for other programs.

use std::io::{self, Write};

use serde::Serialize;

use super::text::{counted_u64, grouped, json, json_line, local_time, octets, print_table, table};
use crate::{
    policy::Zone,
    sink::store::read::{By, Cell, Gap, Since, Sum},
};

/// The past of a device, by the history.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its parties, the earliest first.
    pub since: Vec<Since>,
    /// Its habit.
    pub habit: Option<Habit>,
    /// The time zone of the times.
    pub zone: Zone,
}

/// The upload of today up to now, beside that of the same weekdays before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habit {
    /// Bytes of today.
    pub today: u64,
    /// The median of the same weekdays before, until the same hour; `None` where there are too few.
    pub usual: Option<u64>,
    /// How many there are.
    pub days: usize,
    /// The weekday's name.
    pub weekday: &'static str,
}

/// Prints what the history tells of a device.
///
/// # Errors
///
/// When the output takes no more.
pub(super) fn print_past(out: &mut impl Write, past: &Past) -> io::Result<()> {
    if !past.since.is_empty() {
        let mut listing = table(["PARTY", "CATEGORY", "SINCE", "LAST"], 4..=4);
        for since in &past.since {
            listing.add_row([
                since.party.clone(),
                match &*since.category {
                    "" => "-".to_owned(),
                    category => category.to_owned(),
                },
                local_time(&past.zone, since.first_seen as f64),
                local_time(&past.zone, since.last_seen as f64),
            ]);
        }
        writeln!(out, "\nin the history:")?;
        print_table(out, &listing, "")?;
    }
    if let Some(habit) = &past.habit {
        let usual = match habit.usual {
            Some(usual) => format!(
                "; on the last {} {}s it was {} until this hour (median)",
                habit.days,
                habit.weekday,
                octets(usual)
            ),
            None => String::new(),
        };
        writeln!(out, "\ntoday {} were uploaded{usual}", octets(habit.today))?;
    }
    Ok(())
}

/// The characters of the longest bar.
const BAR: u64 = 20;

/// Prints sums, and the gaps among them.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_history(
    out: &mut impl Write,
    by: By,
    sums: &[Sum],
    gaps: &[Gap],
    zone: &Zone,
) -> io::Result<()> {
    let header = match by {
        By::Device => ["DEVICE", "NAME", ""],
        By::Hour => ["HOUR", "", ""],
        By::Day => ["DAY", "", ""],
        By::Party => ["PARTY", "CATEGORY", "STACK"],
        By::Owner => ["OWNER", "", ""],
        By::Country => ["COUNTRY", "", ""],
    };
    let [of, about, stack] = header;
    let mut listing = table(
        [
            of, about, "UPLOAD", "", "DOWNLOAD", "FLOWS", "REFUSED", stack,
        ],
        2..=2,
    );
    let most = sums.iter().map(|sum| bytes(sum.upload_bytes)).max();
    for sum in sums {
        let of = match by {
            By::Hour => hour(&sum.of, zone),
            _ => sum.of.clone(),
        };
        listing.add_row([
            of,
            sum.about.clone().unwrap_or_default(),
            octets(bytes(sum.upload_bytes)),
            bar(bytes(sum.upload_bytes), most.unwrap_or_default()),
            octets(bytes(sum.download_bytes)),
            grouped(bytes(sum.flows)),
            refused(sum),
            stacks(sum),
        ]);
    }
    print_table(out, &listing, "the history has nothing of that time")?;
    for gap in gaps {
        let times = format!(
            "{} to {}",
            local_time(zone, gap.start as f64),
            local_time(zone, gap.end as f64)
        );
        let amounts = format!(
            "{} up and {} down that no hour has",
            octets(bytes(gap.upload_bytes)),
            octets(bytes(gap.download_bytes))
        );
        let why = match &*gap.reason {
            "no-daemon" => "no daemon ran",
            "reboot" => "the machine was booted; what was not written before is lost",
            "tables-made-anew" => {
                "the kernel's tables were made anew; what was not written before is lost"
            }
            "batch-lost" => "the disk took nothing, and parties were lost",
            _ => "the clock was not known",
        };
        writeln!(out, "{times}: {why}; {amounts}")?;
    }
    Ok(())
}

fn refused(sum: &Sum) -> String {
    match sum.retried {
        0 => grouped(bytes(sum.refused)),
        retried => format!(
            "{} ({})",
            grouped(bytes(sum.refused)),
            counted_u64(bytes(retried), "retry", "retries")
        ),
    }
}

/// The TLS stacks of a party; one beside the number of further ones, where there are several.
fn stacks(sum: &Sum) -> String {
    let mut stacks = sum.stacks.iter();
    match (stacks.next(), stacks.len()) {
        (None, _) => String::new(),
        (Some(stack), 0) => stack.clone(),
        (Some(stack), more) => format!("{stack} +{more}"),
    }
}

fn hour(seconds: &str, zone: &Zone) -> String {
    seconds.parse().map_or_else(
        |_| seconds.to_owned(),
        |seconds: i64| local_time(zone, seconds as f64),
    )
}

const fn bytes(number: i64) -> u64 {
    if number < 0 { 0 } else { number as u64 }
}

/// A bar as long as an amount's part of the largest one, in eighths of a character.
fn bar(amount: u64, most: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

    if most == 0 {
        return String::new();
    }
    let eighths = (u128::from(amount) * u128::from(BAR * 8)).div_ceil(u128::from(most)) as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// Prints sums and gaps as JSON.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_history_json(out: &mut impl Write, sums: &[Sum], gaps: &[Gap]) -> io::Result<()> {
    #[derive(Serialize)]
    struct History<'a> {
        sums: &'a [Sum],
        gaps: &'a [Gap],
    }

    json(out, &History { sums, gaps })
}

/// Prints the first line of CSV (RFC 4180).
///
/// # Errors
///
/// When the output takes no more.
pub fn print_csv_header(out: &mut impl Write, columns: &[String]) -> io::Result<()> {
    write!(out, "{}\r\n", columns.join(","))
}

/// Prints a row as CSV.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_csv_row(out: &mut impl Write, cells: &[Cell]) -> io::Result<()> {
    for (place, cell) in cells.iter().enumerate() {
        if place > 0 {
            out.write_all(b",")?;
        }
        match cell {
            Cell::Null => {}
            Cell::Number(number) => write!(out, "{number}")?,
            Cell::Text(text) => write!(out, "{}", csv(text))?,
        }
    }
    out.write_all(b"\r\n")
}

/// A text of CSV. Spreadsheets take one that begins with some characters for a formula, and a quote before it for a
/// sign that it is none.
fn csv(text: &str) -> String {
    let text = super::text::printable(text);
    let text = match text.trim_start().starts_with(['=', '+', '-', '@']) {
        true => format!("'{text}"),
        false => text,
    };
    match text.contains([',', '"']) || text.starts_with(' ') || text.ends_with(' ') {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

/// Prints a row as a line of JSON.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_ndjson_row(
    out: &mut impl Write,
    columns: &[String],
    cells: &[Cell],
) -> io::Result<()> {
    struct Row<'a>(&'a [String], &'a [Cell]);

    impl Serialize for Row<'_> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().zip(self.1))
        }
    }

    json_line(out, &Row(columns, cells))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_a_part_of_the_longest() {
        assert_eq!(bar(0, 0), "");
        assert_eq!(bar(0, 10), "");
        assert_eq!(bar(10, 10), "█".repeat(20));
        assert_eq!(bar(5, 10), "█".repeat(10));
        // There is something of the least amount.
        assert_eq!(bar(1, u64::MAX), "▏");
    }

    #[test]
    fn hostile_names_are_text_in_csv() {
        let row = |text: &str| {
            let mut out = Vec::new();
            let cells = [Cell::Text(text.to_owned()), Cell::Null, Cell::Number(-1)];
            print_csv_row(&mut out, &cells).expect("it is memory");
            String::from_utf8(out).expect("it is text")
        };
        assert_eq!(row("a.example"), "a.example,,-1\r\n");
        assert_eq!(
            row("=HYPERLINK(\"x\")"),
            "\"'=HYPERLINK(\"\"x\"\")\",,-1\r\n"
        );
        assert_eq!(row(" @x"), "' @x,,-1\r\n");
        assert_eq!(
            row("a\u{1b}[2J\r\n\u{202e}b"),
            "a\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}b,,-1\r\n"
        );
    }
}
