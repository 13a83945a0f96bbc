//! The table of hardware vendors, made from the listings of the IEEE Registration Authority.
//!
//! The file, all numbers in little-endian order:
//!
//! | octets | what |
//! | --- | --- |
//! | 4 | `OUI`, and the version of the format, 1 |
//! | 4 × 4 | how many 24-bit, 28-bit and 36-bit prefixes, and how many octets of names |
//! | 256 × 2 | for each symbol the two symbols it stands for, or itself and 0 |
//! | n × 6, 7, 8 | the prefixes by length, each list in ascending order: the prefix in 3, 4 or 5 octets (in network order, a half octet at its end 0), and where its name is, in 3 octets |
//! | rest | names, each once: one octet for the number of symbols, then these |
//!
//! Names share most of their syllables, so octets that no name contains stand for the pairs that
//! are most frequent (byte pair encoding). A name is read without the rest.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{build, command::say};

/// Where the table is, from the workspace's folder.
const TABLE: &str = "sensor/data/oui.bin";
/// The first octets of the table: what it is, and the version of its format.
const MAGIC: &[u8; 4] = b"OUI\x01";
/// The longest name, in octets; the registry's longest has about 120.
const MAX_NAME: usize = 200;
/// Owners that say nothing: blocks that are divided further, and companies that hide.
const NO_OWNER: [&str; 2] = ["IEEE Registration Authority", "Private"];
/// The listings that a gateway can meet; company identifiers (CID) are in no device's address.
const REGISTRIES: [(&str, usize); 4] = [("MA-L", 6), ("MA-M", 7), ("MA-S", 9), ("IAB", 9)];

/// Makes the table anew from every `.csv` file of a folder.
///
/// # Errors
/// Where the folder has no such file or lacks one of the listings, where a line is not what the
/// registry writes, or where the table cannot be written.
pub fn make(folder: &Path) -> Result<()> {
    let mut listings = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "csv") {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            listings.push((file, text));
        }
    }
    listings.sort();
    let mut assignments = Vec::new();
    for (file, text) in &listings {
        let found = read(text).with_context(|| format!("in {}", file.display()))?;
        assignments.extend(found);
    }
    for (registry, _) in REGISTRIES {
        ensure!(
            assignments.iter().any(|found| found.registry == registry),
            "{} has no listing of the registry {registry}",
            folder.display()
        );
    }
    let table = encode(&assignments)?;
    let file = build::workspace().join(TABLE);
    fs::write(&file, &table).with_context(|| format!("{} cannot be written", file.display()))?;
    say(&format!(
        "{} assignments, {} octets in {TABLE}; put the listings' date in the README beside it",
        assignments.len(),
        table.len()
    ));
    Ok(())
}

/// A line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The listing: `MA-L`, `MA-M`, `MA-S` or `IAB`.
    registry: String,
    /// The prefix in 6, 7 or 9 hexadecimal digits, upper case.
    prefix: String,
    /// The company that it is assigned to, in one line.
    owner: String,
}

/// Reads a listing: `Registry,Assignment,Organization Name,Organization Address`. Assignments
/// that no device's address can begin with are left out: those of company identifiers, and those
/// with the bit of a locally administered or of a group address.
///
/// # Errors
/// Where a line has not these four columns, or its prefix not the length of its registry.
pub fn read(text: &str) -> Result<Vec<Assignment>> {
    let mut assignments = Vec::new();
    for row in rows(text).into_iter().skip(1) {
        let [registry, prefix, owner, _] = row.as_slice() else {
            bail!("this is no line of the registry: {}", row.join(","));
        };
        let Some((_, digits)) = REGISTRIES.iter().find(|(name, _)| name == registry) else {
            continue;
        };
        let prefix = prefix.trim().to_ascii_uppercase();
        let first = prefix
            .get(..2)
            .and_then(|octet| u8::from_str_radix(octet, 16).ok());
        let first = first.filter(|_| {
            prefix.len() == *digits && prefix.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        let Some(first) = first else {
            bail!("{prefix} is no prefix of {registry}");
        };
        let owner = one_line(owner);
        if first & 0b11 == 0 && !owner.is_empty() && !NO_OWNER.contains(&owner.as_str()) {
            assignments.push(Assignment {
                registry: registry.clone(),
                prefix,
                owner,
            });
        }
    }
    Ok(assignments)
}

/// Puts the table together. Of a prefix that stands twice, the first owner counts.
///
/// # Errors
/// Where a name is longer than the format has room for.
pub fn encode(assignments: &[Assignment]) -> Result<Vec<u8>> {
    let mut by_prefix = BTreeMap::new();
    for assignment in assignments {
        by_prefix
            .entry((assignment.prefix.len(), assignment.prefix.as_str()))
            .or_insert(assignment.owner.as_str());
    }
    let mut owners: Vec<_> = by_prefix.values().copied().collect();
    owners.sort_unstable();
    owners.dedup();
    let mut names: Vec<_> = owners
        .iter()
        .map(|owner| owner.as_bytes().to_vec())
        .collect();
    let pairs = join_pairs(&mut names);

    let mut text = Vec::new();
    let mut places = HashMap::new();
    for (owner, name) in owners.iter().zip(&names) {
        ensure!(owner.len() <= MAX_NAME, "this name is too long: {owner}");
        places.insert(*owner, text.len());
        text.push(u8::try_from(name.len())?);
        text.extend(name);
    }

    let mut table = MAGIC.to_vec();
    let count = |digits| by_prefix.keys().filter(|(len, _)| *len == digits).count();
    for number in [count(6), count(7), count(9), text.len()] {
        table.extend(u32::try_from(number)?.to_le_bytes());
    }
    table.extend(pairs.as_flattened());
    for ((_, prefix), owner) in &by_prefix {
        table.extend(octets(prefix)?);
        let [a, b, c, 0] = u32::try_from(places[owner])?.to_le_bytes() else {
            bail!("the names need more than 16 MiB");
        };
        table.extend([a, b, c]);
    }
    table.extend(text);
    Ok(table)
}

/// Hexadecimal digits as octets, the last half octet 0.
fn octets(digits: &str) -> Result<Vec<u8>> {
    let width = digits.len().next_multiple_of(2);
    let digits = format!("{digits:0<width$}");
    (0..digits.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(&digits[at..at + 2], 16)?))
        .collect()
}

/// Gives the most frequent pair of symbols a symbol that is not in use, until there is none left.
fn join_pairs(names: &mut [Vec<u8>]) -> [[u8; 2]; 256] {
    let mut used = [false; 256];
    for octet in names.iter().flatten() {
        used[usize::from(*octet)] = true;
    }
    let mut pairs = [[0; 2]; 256];
    for symbol in 0..=u8::MAX {
        pairs[usize::from(symbol)] = [symbol, 0];
    }
    // 0 says that a symbol stands for itself, so it stands for nothing else.
    for symbol in (1..=u8::MAX).filter(|symbol| !used[usize::from(*symbol)]) {
        let Some(pair) = most_frequent(names) else {
            break;
        };
        pairs[usize::from(symbol)] = pair;
        for name in names.iter_mut() {
            join(name, pair, symbol);
        }
    }
    pairs
}

fn most_frequent(names: &[Vec<u8>]) -> Option<[u8; 2]> {
    let mut counts = vec![0_u32; 1 << 16];
    for name in names {
        for pair in name.windows(2) {
            counts[usize::from(u16::from_be_bytes([pair[0], pair[1]]))] += 1;
        }
    }
    let pairs = (0..=u16::MAX).zip(&counts);
    let (pair, count) = pairs.max_by_key(|(_, count)| **count)?;
    (*count > 1).then(|| pair.to_be_bytes())
}

fn join(name: &mut Vec<u8>, pair: [u8; 2], symbol: u8) {
    let mut kept = 0;
    let mut at = 0;
    while at < name.len() {
        let is_pair = name.get(at..at + 2) == Some(&pair);
        name[kept] = if is_pair { symbol } else { name[at] };
        kept += 1;
        at += if is_pair { 2 } else { 1 };
    }
    name.truncate(kept);
}

/// Every kind of space becomes one space, and the letters of full width their common form.
fn one_line(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| match c {
            '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
            '\u{200b}' | '\u{feff}' => ' ',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The rows of comma-separated values (RFC 4180).
fn rows(text: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            '\r' if !quoted => {}
            c => field.push(c),
        }
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Registry,Assignment,Organization Name,Organization Address\n";

    #[test]
    fn listings() {
        let check = |lines: &str, expected: &[(&str, &str)]| {
            let found = read(&format!("{HEAD}{lines}")).expect("a listing");
            let found: Vec<_> = found
                .iter()
                .map(|line| (line.prefix.as_str(), line.owner.as_str()))
                .collect();
            assert_eq!(found, expected, "{lines}");
        };
        check("MA-L,286FB9,Nokia,Shanghai\n", &[("286FB9", "Nokia")]);
        check("MA-L,286FB9,Nokia,Shanghai\r\n", &[("286FB9", "Nokia")]);
        check("MA-L,286FB9,Nokia,", &[("286FB9", "Nokia")]);
        check(
            "MA-M,c85ce27,\"The \"\"Big\"\" Co., Ltd\",\"a\nb\"\nMA-S,8C1F64AFA,X,\n",
            &[("C85CE27", "The \"Big\" Co., Ltd"), ("8C1F64AFA", "X")],
        );
        check(
            "MA-L,286FB9,\" Two\u{a0} words\u{ff0c} Ltd\u{ff0e}\",\n",
            &[("286FB9", "Two words, Ltd.")],
        );
        check("MA-L,286FB9,Private,\n", &[]);
        check("MA-L,286FB9,IEEE Registration Authority,\n", &[]);
        check("CID,EA2701,ACCE,\n", &[]);
        check("MA-L,02608C,3COM,\nMA-L,010000,Group,\n", &[]);
    }

    #[test]
    fn lines_that_the_registry_does_not_write() {
        for line in [
            "MA-L,286FB9,Nokia",
            "MA-L,286FB,Nokia,",
            "MA-M,286FB9,Nokia,",
            "MA-L,286FBX,Nokia,",
            "MA-L,2ä6FB,Nokia,",
        ] {
            assert!(read(&format!("{HEAD}{line}\n")).is_err(), "{line}");
        }
    }

    #[test]
    fn pairs_can_be_undone() {
        let owners = ["Technology Technology", "Techno", "é", "x", "Technical"];
        let mut names: Vec<_> = owners.iter().map(|name| name.as_bytes().to_vec()).collect();
        let pairs = join_pairs(&mut names);
        assert!(names[0].len() < 6, "{:?}", names[0]);
        for (owner, name) in owners.iter().zip(names) {
            let mut text = Vec::new();
            let mut pending: Vec<_> = name.into_iter().rev().collect();
            while let Some(symbol) = pending.pop() {
                match pairs[usize::from(symbol)] {
                    [symbol, 0] => text.push(symbol),
                    [left, right] => pending.extend([right, left]),
                }
            }
            assert_eq!(text, owner.as_bytes());
        }
    }
}
