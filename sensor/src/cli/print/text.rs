//! Tables, numbers and words, as people read them.

use std::{
    io::{self, BufWriter, Write},
    ops::RangeInclusive,
    time::Duration,
};

use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::{Serialize, Serializer as _, ser::SerializeSeq as _};

pub(super) use crate::model::text::{bytes as octets, counted as counted_u64, grouped};
use crate::{
    decode::text::is_format,
    model::{ByDirection, Tally},
    policy::Zone,
};

/// A table of `N` columns without lines.
pub(super) struct Listing<const N: usize>(Table);

/// A table with this header; the columns with numbers stand to the right.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    numbers: RangeInclusive<usize>,
) -> Listing<N> {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for number in numbers {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Listing(table)
}

impl<const N: usize> Listing<N> {
    /// Adds a line, each cell made [`printable`].
    pub(super) fn add_row(&mut self, cells: [impl AsRef<str>; N]) {
        self.0.add_row(cells.map(|cell| printable(cell.as_ref())));
    }
}

/// Prints a table, or `empty` where it has no row.
pub(super) fn print_table<const N: usize>(
    out: &mut impl Write,
    Listing(table): &Listing<N>,
    empty: &str,
) -> io::Result<()> {
    if table.is_empty() {
        return writeln!(out, "{empty}");
    }
    for line in table.lines() {
        // Each cell has a space on both sides; the first column needs none.
        let line = line.strip_prefix(' ').unwrap_or(&line);
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints JSON over several lines.
pub(super) fn json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    print_json(out, |out| Ok(serde_json::to_writer_pretty(out, value)?))
}

/// Prints JSON as one line.
pub(super) fn json_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    print_json(out, |out| Ok(serde_json::to_writer(out, value)?))
}

/// Prints a list as JSON over several lines, each entry as soon as it is there. Nothing is printed where the first
/// one is an error.
///
/// # Errors
///
/// An entry is an error, or the output takes no more.
pub fn print_list<T: Serialize>(
    out: &mut impl Write,
    entries: impl Iterator<Item = anyhow::Result<T>>,
) -> anyhow::Result<()> {
    let mut entries = entries.peekable();
    if let Some(Err(error)) = entries.next_if(Result::is_err) {
        return Err(error);
    }
    let mut outcome = Ok(());
    print_json(out, |out| {
        let mut json = serde_json::Serializer::pretty(out);
        let mut list = json.serialize_seq(None)?;
        for entry in entries {
            match entry {
                Ok(entry) => list.serialize_element(&entry)?,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        Ok(list.end()?)
    })?;
    outcome
}

/// Prints what `write` writes, and ends the line.
fn print_json<W: Write>(
    out: &mut W,
    write: impl FnOnce(&mut Escaped<BufWriter<&mut W>>) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = Escaped(BufWriter::new(out));
    write(&mut out)?;
    writeln!(out.0)?;
    out.0.flush()
}

/// Escapes what a terminal would obey: JSON may hold such characters as they are (RFC 8259, section 7). Outside of
/// strings it has none.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The serializer writes whole characters.
        let text = str::from_utf8(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut printed = 0;
        for (at, found) in text.match_indices(|c| c != '\n' && is_unprintable(c)) {
            self.0.write_all(&bytes[printed..at])?;
            for unit in found.encode_utf16() {
                write!(self.0, "\\u{unit:04x}")?;
            }
            printed = at + found.len();
        }
        self.0.write_all(&bytes[printed..])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Replaces the characters that a terminal would obey or not show, because a device may call itself
/// anything.
pub(super) fn printable(text: &str) -> String {
    text.replace(is_unprintable, "\u{fffd}")
}

/// Replaces the characters of a text of several lines that a terminal would obey or not show.
pub fn printable_lines(text: &str) -> String {
    text.replace(|c| c != '\n' && is_unprintable(c), "\u{fffd}")
}

/// Control characters, and invisible ones that turn, join or break the visible text.
fn is_unprintable(c: char) -> bool {
    c.is_control() || is_format(c)
}

/// The text, without its middle where it has more than `most` characters.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(1);
    let head = text.chars().take(kept.div_ceil(2));
    let tail = text.chars().skip(count - kept / 2);
    head.chain(['…']).chain(tail).collect()
}

/// A part of a whole, in per cent; `-` where there is no whole.
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    match 100.0 * part as f64 / whole as f64 {
        percent if part > 0 && percent < 1.0 => "<1 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

fn add(a: Tally, b: Tally) -> Tally {
    Tally {
        packets: a.packets.saturating_add(b.packets),
        bytes: a.bytes.saturating_add(b.bytes),
    }
}

pub(super) fn total(traffic: &ByDirection<Tally>) -> Tally {
    add(traffic.upload, traffic.download)
}

pub(super) fn add_both(a: ByDirection<Tally>, b: &ByDirection<Tally>) -> ByDirection<Tally> {
    ByDirection {
        upload: add(a.upload, b.upload),
        download: add(a.download, b.download),
    }
}

pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    counted_u64(count as u64, one, many)
}

/// How long ago a moment was, both in seconds since the Unix epoch.
pub(super) fn ago(then: f64, now: f64) -> String {
    if then <= 0.0 {
        return "-".to_owned();
    }
    // The clocks of kernel and user space differ by a tick: a packet of this moment is not in the
    // future.
    let seconds = (now - then).max(0.0) as u64;
    match seconds {
        0..=1 => "now".to_owned(),
        2..=119 => format!("{seconds} s ago"),
        120..=7_199 => format!("{} min ago", seconds / 60),
        7_200..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A moment in seconds since the Unix epoch, as a clock in that zone shows it.
pub(super) fn local_time(zone: &Zone, moment: f64) -> String {
    zone.text(moment)
        .unwrap_or_else(|| "a time that no calendar has".to_owned())
}

pub(super) fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_several_lines_keeps_them_and_no_command_to_a_terminal() {
        let text = "no device is called `nobody\u{1b}[2J\u{202e}`\nsecond";
        let printed = printable_lines(text);
        assert_eq!(
            printed,
            "no device is called `nobody\u{fffd}[2J\u{fffd}`\nsecond"
        );
    }
}
