//! Lists of names: the owner and the purpose of a name.
//!
//! A name on a list stands for itself and everything below it. Plain names, hosts files, AdBlock rules
//! `||name^`, wildcards `*.name`, and the lists of dnsmasq, unbound and RPZ are read, in any mixture;
//! `@@||name^` is an exception, which is the category `never-block`. A line `# owner: …` or `# category: …`
//! holds for the lines that follow it, unless the caller who adds the list says otherwise.
//!
//! Memory is bounded, whatever is in a file: only names are kept, and the first few bad lines for the report.

mod file;
mod line;
mod names;

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read as _},
    net::IpAddr,
    path::Path,
};

pub use file::ListFile;
pub use line::Reason;
use line::{Item, LONGEST_LINE};
use names::Names;

/// The most names that all lists together may have.
pub const MOST_NAMES: usize = 4_000_000;

/// The most addresses that all lists together may have.
pub const MOST_ADDRESSES: usize = 65_536;

/// The most bad lines that a report shows.
pub const MOST_SHOWN: usize = 5;

/// The purpose of a name.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Category {
    /// Tells its owner what the device does.
    Telemetry,
    /// Brings advertisements, or tells advertisers.
    Advertising,
    /// Answers questions for names past the DNS of the house.
    DnsBypass,
    /// A device or its owner would miss it.
    NeverBlock,
}

impl Category {
    /// As in the configuration, in lists and in metrics.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The facts that lists have for a name or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// The owner.
    pub owner: Option<&'a str>,
    /// The category.
    pub category: Option<Category>,
    /// The list that has it: that of the category, if there is one.
    pub list: &'a str,
    /// The line of that list, from 1.
    pub line: u32,
}

/// Something that a list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a, T> {
    /// A name in lower case, or an address.
    pub what: T,
    /// The facts that the lists have for exactly this entry, without those of names above it.
    pub listed: Listed<'a>,
}

/// The caller's facts about a list; they override those in the list itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// Its name in [`Listed::list`].
    pub name: &'a str,
    /// The category of all that is on it, exceptions aside.
    pub category: Option<Category>,
    /// The owner of all that is on it.
    pub owner: Option<&'a str>,
}

/// The counts of used and bad lines of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Names and addresses that are used.
    pub used: u64,
    /// Of these, those that have neither a category nor an owner.
    pub idle: u64,
    /// Lines that are not used, or only in part.
    pub bad: u64,
    /// The first of the bad lines, at most [`MOST_SHOWN`].
    pub shown: Vec<BadLine>,
}

impl Report {
    /// Whether this is no list: there are lines, and none of them can be used. Comments alone are an
    /// empty list.
    pub const fn is_of_no_list(&self) -> bool {
        self.used == 0 && self.bad > 0
    }
}

/// A line that is not used, or not wholly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: u32,
    /// Why.
    pub reason: Reason,
    /// At most 60 characters of it, printable.
    pub excerpt: String,
}

/// All lists, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    names: Names,
    addresses: HashMap<IpAddr, Facts>,
    lists: Vec<Box<str>>,
    owners: Vec<Box<str>>,
    owner_numbers: HashMap<Box<str>, u16>,
}

/// The facts that one list, or several together, have for a name or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    line: u32,
    list: u16,
    owner: Option<OwnerNumber>,
    category: Option<Category>,
}

/// The place of an owner, from 1.
type OwnerNumber = std::num::NonZeroU16;

impl Lists {
    /// Without a name, and with room for so many.
    pub fn with_room(names: usize) -> Self {
        Self {
            names: Names::with_room(names),
            ..Self::default()
        }
    }

    /// The lists of `deploy/lists/`, which the program carries.
    pub fn builtin() -> Self {
        let mut lists = Self::default();
        lists.add_builtin();
        lists.shrink();
        lists
    }

    /// Adds the lists of `deploy/lists/` behind those that are there.
    pub fn add_builtin(&mut self) {
        for (name, text) in BUILTIN {
            let about = About {
                name,
                ..About::default()
            };
            // Octets in memory cannot fail to be read; a test holds that no line is bad.
            let _ = self.add(about, text.as_bytes());
        }
    }

    /// Adds a file. Entries read before an error stay.
    ///
    /// # Errors
    /// The file is missing, is no ordinary file, or cannot be read.
    pub fn add_file(
        &mut self,
        file: &Path,
        category: Option<Category>,
        owner: Option<&str>,
    ) -> io::Result<Report> {
        let name = file.to_string_lossy();
        let about = About {
            name: &name,
            category,
            owner,
        };
        self.add(about, open(file)?)
    }

    /// Adds a list after those already there. Memory is bounded, whatever the text is.
    ///
    /// # Errors
    /// The text cannot be read to its end; the entries read before stay.
    pub fn add(&mut self, about: About<'_>, text: impl BufRead) -> io::Result<Report> {
        let number = u16::try_from(self.lists.len()).ok();
        if number.is_some() {
            self.lists.push(about.name.into());
        }
        read(about, text, |line, what, category, owner| {
            let list = number.ok_or(Reason::Full)?;
            let owner = match owner {
                Some(owner) => Some(self.owner_number(owner).ok_or(Reason::Full)?),
                None => None,
            };
            let said = Facts {
                line,
                list,
                owner,
                category,
            };
            match what {
                What::Name(name) => self.names.add(name, said),
                What::Address(address) => self.add_address(address, said),
            }
        })
    }

    /// Adds the entries of other lists after those already there. Returns how many of their names and addresses
    /// have no place.
    pub fn add_lists(&mut self, others: &Self) -> u64 {
        let first = self.lists.len();
        self.lists.extend(others.lists.iter().cloned());
        let numbers: Vec<Option<OwnerNumber>> = (others.owners.iter())
            .map(|owner| self.owner_number(owner))
            .collect();
        let here = |said: Facts| -> Option<Facts> {
            let list = u16::try_from(first + usize::from(said.list)).ok()?;
            let owner = match said.owner {
                Some(number) => Some(numbers[usize::from(number.get()) - 1]?),
                None => None,
            };
            Some(Facts {
                list,
                owner,
                ..said
            })
        };
        let mut without_place = 0;
        others.names.each(|name, said| {
            let added = here(said).is_some_and(|said| self.names.add(name, said).is_ok());
            without_place += u64::from(!added);
        });
        for (address, said) in &others.addresses {
            let added = here(*said).is_some_and(|said| self.add_address(*address, said).is_ok());
            without_place += u64::from(!added);
        }
        without_place
    }

    /// Gives back the memory that was reserved for further names.
    pub fn shrink(&mut self) {
        self.names.shrink();
        self.addresses.shrink_to_fit();
    }

    /// The facts known of a name, in any case, with or without its final dot.
    ///
    /// The longest name that matches decides; if several lists have it, `never-block` stands above the other
    /// categories, then the list that was added first. The owner is that of the longest name that has one, and
    /// may come from another list than the category.
    pub fn find(&self, name: &str) -> Option<Listed<'_>> {
        Some(self.listed(self.names.find(name)?))
    }

    /// The facts that the lists have for exactly this name, in lower case.
    pub fn of_name(&self, name: &str) -> Option<Listed<'_>> {
        Some(self.listed(self.names.of(name)?))
    }

    /// The facts known of an address.
    pub fn find_address(&self, address: IpAddr) -> Option<Listed<'_>> {
        let said = self.addresses.get(&address.to_canonical())?;
        Some(self.listed(*said))
    }

    /// Visits every name, in the order in which it was first read.
    pub fn each_name(&self, mut visit: impl FnMut(Entry<'_, &str>)) {
        self.names.each(|name, said| {
            visit(Entry {
                what: name,
                listed: self.listed(said),
            });
        });
    }

    /// Visits every name that is one of these, in lower case, or above or below one of them.
    pub fn each_name_about(&self, names: &[&str], mut visit: impl FnMut(Entry<'_, &str>)) {
        self.names.each_about(names, |name, said| {
            visit(Entry {
                what: name,
                listed: self.listed(said),
            });
        });
    }

    /// Every address, in no order.
    pub fn addresses(&self) -> impl Iterator<Item = Entry<'_, IpAddr>> {
        self.addresses.iter().map(|(address, said)| Entry {
            what: *address,
            listed: self.listed(*said),
        })
    }

    /// How many names these lists have that the others do not.
    pub fn count_without(&self, others: &Self) -> usize {
        let mut count = 0;
        self.names
            .each(|name, _| count += usize::from(others.names.of(name).is_none()));
        count
    }

    /// How many different names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no name and no address.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.addresses.is_empty()
    }

    /// The octets that the names and their index take.
    pub fn memory(&self) -> usize {
        self.names.memory()
    }

    fn add_address(&mut self, address: IpAddr, said: Facts) -> Result<(), Reason> {
        let address = address.to_canonical();
        if let Some(first) = self.addresses.get_mut(&address) {
            *first = first.beside(said);
        } else if self.addresses.len() < MOST_ADDRESSES {
            self.addresses.insert(address, said);
        } else {
            return Err(Reason::Full);
        }
        Ok(())
    }

    fn owner_number(&mut self, owner: &str) -> Option<OwnerNumber> {
        if let Some(number) = self.owner_numbers.get(owner) {
            return OwnerNumber::new(*number);
        }
        let number = u16::try_from(self.owners.len() + 1).ok()?;
        self.owners.push(owner.into());
        self.owner_numbers.insert(owner.into(), number);
        OwnerNumber::new(number)
    }

    fn listed(&self, said: Facts) -> Listed<'_> {
        let owner = |number: OwnerNumber| self.owners.get(usize::from(number.get()) - 1);
        Listed {
            owner: said.owner.and_then(owner).map(|owner| &**owner),
            category: said.category,
            list: self
                .lists
                .get(usize::from(said.list))
                .map_or("", |list| list),
            line: said.line,
        }
    }
}

impl Facts {
    /// The facts for a name that has these, and whose parent name has `shorter`.
    fn over(self, shorter: Self) -> Self {
        let source = match (self.category, shorter.category) {
            (None, Some(_)) => shorter,
            (None, None) if self.owner.is_none() && shorter.owner.is_some() => shorter,
            _ => self,
        };
        Self {
            owner: self.owner.or(shorter.owner),
            ..source
        }
    }

    /// The facts for a name that has these, and for which a later list has `later`.
    fn beside(self, later: Self) -> Self {
        const ABOVE_ALL: Option<Category> = Some(Category::NeverBlock);
        if later.category == ABOVE_ALL && self.category != ABOVE_ALL {
            return Self {
                owner: self.owner.or(later.owner),
                ..later
            };
        }
        self.over(later)
    }
}

/// Reads a file as [`Lists::add_file`] does, and keeps nothing of it.
///
/// # Errors
/// The file is missing, is no ordinary file, or cannot be read.
pub fn inspect(file: &Path, category: Option<Category>, owner: Option<&str>) -> io::Result<Report> {
    let about = About {
        name: "",
        category,
        owner,
    };
    read(about, open(file)?, |_, _, _, _| Ok(()))
}

/// Opens an ordinary file: a device or a pipe may never end.
fn open(file: &Path) -> io::Result<BufReader<File>> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not an ordinary file",
        ));
    }
    File::open(file).map(BufReader::new)
}

/// An entry that a list can have.
enum What<'a> {
    Name(&'a str),
    Address(IpAddr),
}

/// Reads a list; `take` gets each good entry, with its line, category and owner, and may refuse it.
fn read(
    about: About<'_>,
    text: impl BufRead,
    mut take: impl FnMut(u32, What<'_>, Option<Category>, Option<&str>) -> Result<(), Reason>,
) -> io::Result<Report> {
    let mut report = Report::default();
    let mut of_list: (Option<Category>, Option<String>) = (None, None);
    each_line(text, |number, line| {
        let result = match line {
            Line::TooLong(_) => Err(Reason::TooLong),
            Line::Whole(line) => line::read(line, |item| {
                let (what, is_exception) = match item {
                    Item::Owner(owner) => {
                        of_list.1 = Some(owner.to_owned());
                        return Ok(());
                    }
                    Item::Category(category) => {
                        of_list.0 = Some(category);
                        return Ok(());
                    }
                    Item::Name(name, is_exception) => (What::Name(name), is_exception),
                    Item::Address(address) => (What::Address(address), false),
                };
                let category = match is_exception {
                    true => Some(Category::NeverBlock),
                    false => about.category.or(of_list.0),
                };
                let owner = about.owner.or(of_list.1.as_deref());
                if matches!(what, What::Address(_)) && category != Some(Category::DnsBypass) {
                    return Err(Reason::Address);
                }
                take(number, what, category, owner)?;
                report.used += 1;
                report.idle += u64::from(category.is_none() && owner.is_none());
                Ok(())
            }),
        };
        if let Err(reason) = result {
            report.bad += 1;
            if report.shown.len() < MOST_SHOWN {
                let (Line::Whole(line) | Line::TooLong(line)) = line;
                report.shown.push(BadLine {
                    line: number,
                    reason,
                    excerpt: excerpt(line),
                });
            }
        }
    })?;
    Ok(report)
}

/// A line without its end.
#[derive(Clone, Copy)]
enum Line<'a> {
    Whole(&'a [u8]),
    /// The beginning of one that has more than [`LONGEST_LINE`] octets.
    TooLong(&'a [u8]),
}

/// Gives every line with its number, from 1, in a buffer of fixed size. A byte order mark at the
/// start is no part of the first.
fn each_line(mut text: impl BufRead, mut line: impl FnMut(u32, Line<'_>)) -> io::Result<()> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let mut buffer = Vec::with_capacity(LONGEST_LINE + 1);
    let mut number: u32 = 0;
    loop {
        buffer.clear();
        let most = LONGEST_LINE as u64 + 1;
        if text.by_ref().take(most).read_until(b'\n', &mut buffer)? == 0 {
            return Ok(());
        }
        number = number.saturating_add(1);
        let octets = match number {
            1 => buffer.strip_prefix(MARK).unwrap_or(&buffer),
            _ => &buffer,
        };
        if let Some(whole) = octets.strip_suffix(b"\n") {
            line(number, Line::Whole(whole));
        } else if buffer.len() > LONGEST_LINE {
            line(number, Line::TooLong(octets));
            text.skip_until(b'\n')?;
        } else {
            line(number, Line::Whole(octets));
        }
    }
}

/// The beginning of a line for messages.
fn excerpt(line: &[u8]) -> String {
    const LONGEST: usize = 60;
    // A character has at most four octets.
    let start = &line[..line.len().min(4 * LONGEST)];
    let text = String::from_utf8_lossy(start.trim_ascii());
    let printable = |c: char| match c.is_control() {
        true => char::REPLACEMENT_CHARACTER,
        false => c,
    };
    let mut excerpt: String = text.chars().take(LONGEST).map(printable).collect();
    if text.chars().nth(LONGEST).is_some() {
        excerpt.push('…');
    }
    excerpt
}

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        [$((
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/lists/", $name, ".txt")),
        )),*]
    };
}

/// `deploy/lists/`: name and text.
const BUILTIN: [(&str, &str); 23] = builtin![
    "amazon-telemetry",
    "apple-advertising",
    "apple-telemetry",
    "google-advertising",
    "google-telemetry",
    "huawei-telemetry",
    "microsoft-telemetry",
    "never-block",
    "oneplus-telemetry",
    "oppo-advertising",
    "oppo-dns-bypass",
    "oppo-telemetry",
    "owners",
    "realme-advertising",
    "realme-telemetry",
    "resolvers",
    "roku-telemetry",
    "samsung-advertising",
    "samsung-telemetry",
    "sonos-telemetry",
    "xiaomi-advertising",
    "xiaomi-dns-bypass",
    "xiaomi-telemetry",
];

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeMap};

    use proptest::prelude::*;

    use super::{super::domain::LONGEST_NAME, *};

    const TELEMETRY: Option<Category> = Some(Category::Telemetry);
    const ADVERTISING: Option<Category> = Some(Category::Advertising);
    const NEVER: Option<Category> = Some(Category::NeverBlock);

    fn about(name: &str, category: Option<Category>) -> About<'_> {
        About {
            name,
            category,
            owner: None,
        }
    }

    fn add(lists: &mut Lists, about: About<'_>, text: impl AsRef<[u8]>) -> Report {
        lists
            .add(about, text.as_ref())
            .expect("octets in memory can be read")
    }

    /// The result of a search: category, owner, list and line.
    type Found<'a> = (Option<Category>, Option<&'a str>, &'a str, u32);

    fn check(lists: &Lists, name: &str, expected: Option<Found<'_>>) {
        let found = lists
            .find(name)
            .map(|listed| (listed.category, listed.owner, listed.list, listed.line));
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn a_name_stands_for_what_is_below_it() {
        let mut lists = Lists::default();
        add(
            &mut lists,
            about("a", TELEMETRY),
            "miui.com\n\nB.Example.\n*.zip",
        );
        check(&lists, "miui.com", Some((TELEMETRY, None, "a", 1)));
        check(&lists, "x.y.miui.com", Some((TELEMETRY, None, "a", 1)));
        check(&lists, "X.MIUI.Com.", Some((TELEMETRY, None, "a", 1)));
        check(&lists, "b.example", Some((TELEMETRY, None, "a", 3)));
        check(&lists, "evil.zip", Some((TELEMETRY, None, "a", 4)));
        for other in [
            "com",
            "notmiui.com",
            "miui.com.example",
            "example",
            "",
            ".",
            "..",
            "é",
        ] {
            check(&lists, other, None);
        }
        check(&lists, &("a.".repeat(126) + "b"), None);
        let longest = "a.".repeat(122) + "miui.com";
        assert!(longest.len() <= LONGEST_NAME);
        check(&lists, &longest, Some((TELEMETRY, None, "a", 1)));
        check(&lists, &("a.".repeat(1_000) + "miui.com"), None);
    }

    #[test]
    fn the_longest_then_never_block_then_the_first() {
        let mut lists = Lists::default();
        add(
            &mut lists,
            about("first", ADVERTISING),
            "both.example\nkept.example\nads.open.example\n@@||excepted.example^",
        );
        add(
            &mut lists,
            about("second", TELEMETRY),
            "both.example\nlog.kept.example\nexcepted.example",
        );
        add(
            &mut lists,
            about("keep", NEVER),
            "kept.example\nopen.example",
        );
        add(&mut lists, about("late", ADVERTISING), "kept.example");
        check(
            &lists,
            "both.example",
            Some((ADVERTISING, None, "first", 1)),
        );
        check(&lists, "kept.example", Some((NEVER, None, "keep", 1)));
        check(&lists, "a.kept.example", Some((NEVER, None, "keep", 1)));
        check(
            &lists,
            "a.log.kept.example",
            Some((TELEMETRY, None, "second", 2)),
        );
        check(
            &lists,
            "ads.open.example",
            Some((ADVERTISING, None, "first", 3)),
        );
        check(&lists, "www.open.example", Some((NEVER, None, "keep", 2)));
        check(&lists, "excepted.example", Some((NEVER, None, "first", 4)));
        assert_eq!(lists.len(), 6);
    }

    #[test]
    fn owner_and_category_may_come_from_different_lists() {
        let mut lists = Lists::default();
        add(
            &mut lists,
            about("track", TELEMETRY),
            "track.a.example\nb.example",
        );
        add(
            &mut lists,
            about("owners", None),
            "# owner: A\na.example\n# owner: B\nb.example\nsub.b.example\n",
        );
        add(&mut lists, about("nothing", None), "c.example\nx.a.example");
        check(
            &lists,
            "x.track.a.example",
            Some((TELEMETRY, Some("A"), "track", 1)),
        );
        check(&lists, "a.example", Some((None, Some("A"), "owners", 2)));
        check(
            &lists,
            "b.example",
            Some((TELEMETRY, Some("B"), "track", 2)),
        );
        check(
            &lists,
            "sub.b.example",
            Some((TELEMETRY, Some("B"), "track", 2)),
        );
        check(&lists, "c.example", Some((None, None, "nothing", 1)));
        check(&lists, "x.a.example", Some((None, Some("A"), "owners", 2)));
        let said = About {
            name: "said",
            category: ADVERTISING,
            owner: Some("Said"),
        };
        add(
            &mut lists,
            said,
            "# owner: Written\n# category: telemetry\nd.example",
        );
        check(
            &lists,
            "d.example",
            Some((ADVERTISING, Some("Said"), "said", 3)),
        );
    }

    #[test]
    fn addresses_are_for_lists_of_resolvers() {
        let mut lists = Lists::default();
        let text = "114.114.114.114\n240c::6666\n::ffff:192.0.2.1\ndns.example";
        let report = add(&mut lists, about("dns", Some(Category::DnsBypass)), text);
        assert_eq!((report.used, report.bad), (4, 0));
        let line = |address: &str| {
            let address = address.parse().expect("an address");
            lists.find_address(address).map(|listed| listed.line)
        };
        assert_eq!(line("114.114.114.114"), Some(1));
        assert_eq!(line("::ffff:114.114.114.114"), Some(1));
        assert_eq!(line("240c::6666"), Some(2));
        assert_eq!(line("192.0.2.1"), Some(3));
        assert_eq!(line("192.0.2.2"), None);
        let report = add(&mut lists, about("ads", ADVERTISING), "192.0.2.2");
        assert_eq!((report.used, report.bad), (0, 1));
        assert_eq!(report.shown[0].reason, Reason::Address);
    }

    #[test]
    fn bad_lines_are_counted_and_named() {
        let mut text = b"\xef\xbb\xbfa.example\r\nword\r\n\x1b[0m\r\n".to_vec();
        text.extend(b"b".repeat(LONGEST_LINE + 1));
        text.extend(b"\nc.example\n||d.example^$popup\ne.example/\nb\xfc.example\nf.example");
        let mut lists = Lists::default();
        let report = add(&mut lists, about("mixed", None), &text);
        assert_eq!((report.used, report.idle, report.bad), (3, 3, 6));
        let shown: Vec<_> = report
            .shown
            .iter()
            .map(|bad| (bad.line, bad.reason, bad.excerpt.as_str()))
            .collect();
        let sixty = format!("{}…", "b".repeat(60));
        assert_eq!(
            shown,
            [
                (2, Reason::OneLabel, "word"),
                (3, Reason::Binary, "\u{fffd}[0m"),
                (4, Reason::TooLong, sixty.as_str()),
                (6, Reason::Options, "||d.example^$popup"),
                (7, Reason::Pattern, "e.example/"),
            ]
        );
        for name in ["a.example", "c.example", "f.example"] {
            assert!(lists.find(name).is_some(), "{name}");
        }
        let full = [b"a".repeat(LONGEST_LINE), b"\ng.example".to_vec()].concat();
        assert_eq!(
            add(&mut lists, about("full", None), full).shown[0].reason,
            Reason::NotAName
        );
    }

    /// Octets that are made as they are read, so that the reader alone decides what is in memory.
    struct Endless<'a> {
        chunk: &'a [u8],
        left: usize,
        most_at_once: &'a Cell<usize>,
    }

    impl io::Read for Endless<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.most_at_once
                .set(self.most_at_once.get().max(buffer.len()));
            let length = self.left.min(self.chunk.len()).min(buffer.len());
            buffer[..length].copy_from_slice(&self.chunk[..length]);
            self.left -= length;
            Ok(length)
        }
    }

    #[test]
    fn garbage_takes_no_memory() {
        let most_at_once = Cell::new(0);
        let read = |chunk: &[u8], octets: usize| {
            let text = Endless {
                chunk,
                left: octets,
                most_at_once: &most_at_once,
            };
            let mut lists = Lists::default();
            let report = lists.add(about("garbage", TELEMETRY), BufReader::new(text));
            assert_eq!(lists.memory(), 0);
            report.expect("octets in memory can be read")
        };
        let one_line = read(&[b'a'; 1_000], 10_000_000);
        assert_eq!((one_line.used, one_line.bad), (0, 1));
        assert_eq!(one_line.shown[0].reason, Reason::TooLong);
        let nuls = read(&[0; 1_000], 10_000_000);
        assert_eq!(nuls.bad, 1);
        let lines = read(b"%$ \xff\x01\n", 6_000_000);
        assert_eq!((lines.used, lines.bad), (0, 1_000_000));
        assert_eq!(lines.shown.len(), MOST_SHOWN);
        assert!(most_at_once.get() <= 64 * 1024, "{}", most_at_once.get());
    }

    #[test]
    fn there_is_room_for_so_many_owners_and_addresses() {
        let mut text = String::new();
        for number in 0..70_000 {
            text.push_str(&format!("# owner: {number}\na{number}.example\n"));
        }
        let mut lists = Lists::default();
        let report = add(&mut lists, about("owners", None), text);
        assert_eq!((report.used, report.bad), (65_535, 70_000 - 65_535));
        assert_eq!(report.shown[0].reason, Reason::Full);
        check(
            &lists,
            "a65534.example",
            Some((None, Some("65534"), "owners", 131_070)),
        );
        check(&lists, "a65535.example", None);

        let addresses: String = (0..70_000)
            .map(|number| format!("{}\n", std::net::Ipv4Addr::from_bits(number)))
            .collect();
        let dns = about("addresses", Some(Category::DnsBypass));
        let report = add(&mut lists, dns, addresses);
        assert_eq!(report.used, MOST_ADDRESSES as u64);
        assert_eq!(report.shown[0].reason, Reason::Full);
    }

    #[test]
    fn a_hundred_thousand_names_are_each_found() {
        let name = |number: u32| format!("n{number}.zone{}.example", number % 1_000);
        let text: String = (0..100_000).map(|n| name(n) + "\n").collect();
        let mut lists = Lists::default();
        let report = add(&mut lists, about("many", TELEMETRY), text);
        assert_eq!(
            (report.used, report.bad, lists.len()),
            (100_000, 0, 100_000)
        );
        for number in 0..100_000 {
            let listed = lists.find(&name(number)).expect("it was added");
            assert_eq!(listed.line, number + 1);
        }
        assert_eq!(lists.find("zone1.example"), None);
        assert_eq!(lists.find("n100000.zone0.example"), None);
        let mut expected = (0..100_000).map(name);
        lists.each_name(|entry| assert_eq!(Some(entry.what), expected.next().as_deref()));
        assert_eq!(expected.next(), None);
    }

    #[test]
    fn files() {
        let folder = std::env::temp_dir().join(format!("sensor-lists-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for temporary files");
        let file = folder.join("mine.txt");
        fs::write(&file, "0.0.0.0 a.example\nword\n").expect("a temporary file");
        let mut lists = Lists::default();
        let added = lists.add_file(&file, ADVERTISING, Some("Mine"));
        let inspected = inspect(&file, ADVERTISING, Some("Mine"));
        let idle = inspect(&file, None, None);
        let missing = lists.add_file(&folder.join("none.txt"), None, None);
        let not_a_file = lists.add_file(&folder, None, None);
        let device = inspect(Path::new("/dev/zero"), None, None);
        fs::remove_dir_all(&folder).expect("the folder was made above");

        let added = added.expect("the file was written above");
        assert_eq!((added.used, added.idle, added.bad), (1, 0, 1));
        assert_eq!(inspected.expect("the file was written above"), added);
        assert_eq!(idle.expect("the file was written above").idle, 1);
        let name = file.to_string_lossy();
        check(
            &lists,
            "a.example",
            Some((ADVERTISING, Some("Mine"), &name, 1)),
        );
        assert_eq!(
            missing.expect_err("missing").kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(
            not_a_file.expect_err("a folder").kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            device.expect_err("a device").kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn what_the_builtin_lists_know() {
        let lists = Lists::builtin();
        let category_and_owner = |name: &str| {
            let listed = lists.find(name);
            (
                listed.and_then(|listed| listed.category),
                listed.and_then(|listed| listed.owner),
            )
        };
        let bypass = Some(Category::DnsBypass);
        for (name, category, owner) in [
            ("sa.api.intl.miui.com", TELEMETRY, Some("Xiaomi")),
            ("tracking.intl.miui.com", TELEMETRY, Some("Xiaomi")),
            ("sdkconfig.ad.intl.xiaomi.com", ADVERTISING, Some("Xiaomi")),
            ("resolver.msg.global.xiaomi.net", bypass, Some("Xiaomi")),
            ("connect.rom.miui.com", NEVER, Some("Xiaomi")),
            ("de.api.io.mi.com", NEVER, Some("Xiaomi")),
            ("dns.io.mi.com", bypass, Some("Xiaomi")),
            ("www.mi.com", None, Some("Xiaomi")),
            ("metrics.icloud.com", TELEMETRY, Some("Apple")),
            ("captive.apple.com", NEVER, Some("Apple")),
            ("mask.icloud.com", bypass, Some("Apple")),
            ("rr3---sn-4g5e6nsz.googlevideo.com", None, Some("Google")),
            ("dns.google", bypass, Some("Google")),
            ("e8960.dscb.akamaiedge.net", None, Some("Akamai")),
            ("grs.hicloud.com", None, Some("Huawei")),
            ("detectportal.firefox.com", NEVER, Some("Mozilla")),
            ("clients3.google.com", NEVER, Some("Google")),
            ("clients4.google.com", None, Some("Google")),
            ("17-courier.push.apple.com", NEVER, Some("Apple")),
            ("captive.g.aaplimg.com", NEVER, Some("Apple")),
            ("mtalk.google.com", NEVER, Some("Google")),
            ("alt4-mtalk.google.com", NEVER, Some("Google")),
            ("client.wns.windows.com", NEVER, Some("Microsoft")),
            ("ipv6.msftconnecttest.com", NEVER, Some("Microsoft")),
            ("connectivity-check.ubuntu.com", NEVER, Some("Canonical")),
            ("nmcheck.gnome.org", NEVER, Some("GNOME")),
            ("network-test.debian.org", NEVER, Some("Debian")),
            ("conntest.nintendowifi.net", NEVER, Some("Nintendo")),
            ("ctest.cdn.nintendo.net", NEVER, Some("Nintendo")),
            ("conn1.coloros.com", NEVER, Some("OPPO")),
            (
                "connectivitycheck.cbg-app.huawei.com",
                NEVER,
                Some("Huawei"),
            ),
            ("fireoscaptiveportal.com", NEVER, Some("Amazon")),
            ("push.services.mozilla.com", NEVER, Some("Mozilla")),
            ("www.example.com", None, None),
        ] {
            assert_eq!(category_and_owner(name), (category, owner), "{name}");
        }
        let owner = |address: &str| {
            let address = address.parse().expect("an address");
            lists.find_address(address).and_then(|listed| listed.owner)
        };
        assert_eq!(owner("8.8.8.8"), Some("Google"));
        assert_eq!(owner("110.43.0.83"), Some("Xiaomi"));
        assert_eq!(owner("114.114.114.114"), Some("114DNS"));
    }

    #[test]
    fn the_builtin_lists_are_whole_and_say_where_they_are_from() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/lists");
        let mut files: Vec<_> = fs::read_dir(&folder)
            .expect("the folder of lists")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect();
        files.sort();
        assert_eq!(files, BUILTIN.map(|(name, _)| name));
        for (name, text) in BUILTIN {
            let mut lists = Lists::default();
            let report = add(&mut lists, about(name, None), text);
            assert_eq!(
                (report.bad, report.idle),
                (0, 0),
                "{name}: {:?}",
                report.shown
            );
            let names = (lists.len() + lists.addresses.len()) as u64;
            assert_eq!(report.used, names, "{name} has something twice");
            for header in ["# source: ", "# licence: "] {
                let count = text.lines().filter(|line| line.starts_with(header)).count();
                assert_eq!(count, 1, "{name}: {header}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_octets_load_and_good_lines_survive(
            before in proptest::collection::vec(any::<u8>(), 0..300),
            after in proptest::collection::vec(any::<u8>(), 0..300),
            good in "[a-z0-9_-]{1,20}\\.[a-z][a-z0-9-]{0,20}",
            form in prop_oneof![
                Just(("", "")), Just(("0.0.0.0 ", "")), Just(("||", "^")), Just(("*.", "\r")),
                Just(("  ", " # why")),
            ],
        ) {
            let line = format!("\n{}{good}{}\n", form.0, form.1);
            let text = [&before, line.as_bytes(), &after].concat();
            let mut lists = Lists::default();
            let report = add(&mut lists, about("any", None), &text);
            prop_assert!(report.used >= 1);
            prop_assert!(lists.find(&good).is_some());
            let lines = text.split(|octet| *octet == b'\n').count() as u64;
            prop_assert!(report.bad <= lines);
            for bad in &report.shown {
                prop_assert!(bad.excerpt.chars().count() <= 61);
            }
        }

        #[test]
        fn any_name_is_asked_for(name in "\\PC{0,300}|[a-z.]{0,300}") {
            let mut lists = Lists::default();
            add(&mut lists, about("any", None), "*.a\nb.c\n");
            let expected = name.strip_suffix('.').unwrap_or(&name).to_ascii_lowercase();
            let expected = expected.len() <= LONGEST_NAME
                && ["a", "b.c"].into_iter().any(|suffix| {
                    expected == suffix || expected.ends_with(&format!(".{suffix}"))
                });
            prop_assert_eq!(lists.find(&name).is_some(), expected);
        }

        #[test]
        fn the_index_is_a_map(names in proptest::collection::vec("[ab]\\.[ab]{1,2}\\.[ab]{1,3}", 0..300)) {
            let mut lists = Lists::default();
            let mut first = BTreeMap::new();
            for (number, name) in (1..).zip(&names) {
                first.entry(name.clone()).or_insert(number);
            }
            let text: String = names.iter().map(|name| format!("{name}\n")).collect();
            add(&mut lists, about("map", TELEMETRY), text);
            prop_assert_eq!(lists.len(), first.len());
            for (name, line) in &first {
                prop_assert_eq!(lists.find(name).map(|listed| listed.line), Some(*line));
            }
        }
    }
}
