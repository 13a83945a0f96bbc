//! One line of a list, in any of the formats that lists come in.

use std::net::IpAddr;

use sensor_ebpf::name::MAX_LABELS;

use super::{super::domain::LONGEST_NAME, Category};

/// The longest line in octets; a longer one is bad, and only its beginning is ever in memory.
pub(super) const LONGEST_LINE: usize = 4_096;

/// The longest owner in octets.
pub(super) const LONGEST_OWNER: usize = 63;

/// The longest label of a name in octets (RFC 1035, section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// Names that hosts files have for the machine itself and its link.
const LOCAL_NAMES: [&str; 13] = [
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost6",
    "local",
    "broadcasthost",
    "ip6-localhost",
    "ip6-loopback",
    "ip6-localnet",
    "ip6-mcastprefix",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-allhosts",
];

/// What a line has for the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    /// A name and all below it, as it is written, without a final dot; whether it is excepted from
    /// the list rather than on it.
    Name(&'a str, bool),
    /// An address.
    Address(IpAddr),
    /// The owner of what follows.
    Owner(&'a str),
    /// The category of what follows.
    Category(Category),
}

/// Why a line, or a part of it, is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is longer than 4,096 octets.
    TooLong,
    /// It has octets that no text has.
    Binary,
    /// It has a letter that names do not have on the wire.
    NotAscii,
    /// It has AdBlock options that a name alone does not decide.
    Options,
    /// It is about a part of a name, of a URL or of a page.
    Pattern,
    /// It gives a name an address, as a hosts file does that blocks nothing.
    Mapping,
    /// It is an address, on a list that is not about resolvers.
    Address,
    /// It is one word: as a name it would be a whole top-level domain.
    OneLabel,
    /// It cannot be a name.
    NotAName,
    /// It has more labels than are looked at.
    TooManyLabels,
    /// There is no room for more names or owners.
    Full,
}

impl Reason {
    /// What is wrong with the line, to follow "it".
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::TooLong => "is longer than 4,096 octets",
            Self::Binary => "has octets that no text has",
            Self::NotAscii => "has letters beyond ASCII; names have them as `xn--…`",
            Self::Options => "has options that a name alone does not decide",
            Self::Pattern => "is a pattern for more or less than a domain",
            Self::Mapping => "gives a name an address; a list has 0.0.0.0 there",
            Self::Address => "is an address; only lists of category `dns-bypass` have them",
            Self::OneLabel => "is one word; a whole top-level domain is written `*.word`",
            Self::NotAName => "is not a domain name",
            Self::TooManyLabels => "has more than 16 labels, of which the last 16 are looked at",
            Self::Full => "comes after the last for which there is room",
        }
    }
}

/// Tells what a line has, without its end. What is good in it is told even where an error follows;
/// `item` may refuse a thing, which is then the line's error.
pub(super) fn read<'a>(
    line: &'a [u8],
    mut item: impl FnMut(Item<'a>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let line = line.trim_ascii();
    match line {
        [] | [b'!', ..] | [b'[', .., b']'] => return Ok(()),
        [b'#', comment @ ..] => {
            return match header(comment) {
                Some(header) => item(header),
                None => Ok(()),
            };
        }
        _ => {}
    }
    let line = without_comment(line);
    if line
        .iter()
        .any(|octet| octet.is_ascii_control() && *octet != b'\t')
    {
        return Err(Reason::Binary);
    }
    if !line.is_ascii() {
        return Err(Reason::NotAscii);
    }
    let line = str::from_utf8(line).map_err(|_| Reason::NotAscii)?;
    if let Some(exception) = line.strip_prefix("@@") {
        let rule = exception.strip_prefix("||").ok_or(Reason::Pattern)?;
        return item(Item::Name(adblock(rule)?, true));
    }
    if let Some(rule) = line.strip_prefix("||") {
        return item(Item::Name(adblock(rule)?, false));
    }
    let mut words = line.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let mut others = words.peekable();
    match (address(first), others.peek()) {
        (Some(address), None) => item(Item::Address(address)),
        (Some(address), Some(_)) => hosts(address, others, item),
        (None, None) => item(Item::Name(plain(first)?, false)),
        (None, Some(_)) => Err(Reason::NotAName),
    }
}

/// `# owner: Xiaomi`, `# category: telemetry`; any other comment is none.
fn header(comment: &[u8]) -> Option<Item<'_>> {
    let comment = str::from_utf8(comment).ok()?;
    let (key, value) = comment.split_once(':')?;
    let value = value.trim();
    match key.trim() {
        "owner" if is_owner(value) => Some(Item::Owner(value)),
        "category" => Category::from_name(value).map(Item::Category),
        _ => None,
    }
}

/// Whether a text may stand for an owner: 1 to 63 octets, no control characters.
pub(super) fn is_owner(text: &str) -> bool {
    (1..=LONGEST_OWNER).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// A line up to a `#` that follows a blank.
fn without_comment(line: &[u8]) -> &[u8] {
    let comment = line
        .windows(2)
        .position(|pair| pair[0].is_ascii_whitespace() && pair[1] == b'#');
    line[..comment.unwrap_or(line.len())].trim_ascii_end()
}

/// What follows `||`: a name, `^`, and options that change nothing for it.
fn adblock(rule: &str) -> Result<&str, Reason> {
    let (pattern, options) = match rule.split_once('$') {
        Some((pattern, options)) => (pattern, Some(options)),
        None => (rule, None),
    };
    let written = pattern.strip_suffix('|').unwrap_or(pattern);
    let written = written.strip_suffix('^').unwrap_or(written);
    let name = name(written.strip_prefix("*.").unwrap_or(written))?;
    // `all` is every kind of request, `important` a rank among rules that this list does not mix.
    let is_honoured = |option: &str| matches!(option, "all" | "important");
    match options {
        Some(options) if !options.split(',').all(is_honoured) => Err(Reason::Options),
        _ => Ok(name),
    }
}

/// What follows an address in a hosts file.
fn hosts<'a>(
    address: IpAddr,
    names: impl Iterator<Item = &'a str>,
    mut item: impl FnMut(Item<'a>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let blocks = address.is_unspecified() || address.is_loopback();
    let mut result = Ok(());
    for word in names {
        let is_local = LOCAL_NAMES
            .iter()
            .any(|local| local.eq_ignore_ascii_case(word));
        if is_local || word == "0.0.0.0" {
            continue;
        }
        let told = match several_labels(word) {
            _ if !blocks => Err(Reason::Mapping),
            Ok(name) => item(Item::Name(name, false)),
            Err(reason) => Err(reason),
        };
        result = result.and(told);
    }
    result
}

/// A name alone, `*.name` or `.name`.
fn plain(written: &str) -> Result<&str, Reason> {
    match written.strip_prefix("*.") {
        Some(below) => name(below),
        None => several_labels(written.strip_prefix('.').unwrap_or(written)),
    }
}

fn several_labels(written: &str) -> Result<&str, Reason> {
    let name = name(written)?;
    if name.contains('.') {
        Ok(name)
    } else {
        Err(Reason::OneLabel)
    }
}

/// The name without its final dot. Underscores and hyphens may stand anywhere: names that were
/// never host names are asked for too.
fn name(written: &str) -> Result<&str, Reason> {
    let name = written.strip_suffix('.').unwrap_or(written);
    for octet in name.bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {}
            b'*' | b'/' | b':' | b'|' | b'^' | b'#' | b'?' | b'~' | b'$' => {
                return Err(Reason::Pattern);
            }
            _ => return Err(Reason::NotAName),
        }
    }
    let is_label = |label: &str| (1..=LONGEST_LABEL).contains(&label.len());
    if name.len() > LONGEST_NAME || !name.split('.').all(is_label) {
        return Err(Reason::NotAName);
    }
    // No top-level domain is a number (RFC 3696, section 2); an address or a version is.
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(Reason::NotAName);
    }
    if name.split('.').count() > MAX_LABELS {
        return Err(Reason::TooManyLabels);
    }
    Ok(name)
}

/// An address, without the interface that may follow it (RFC 4007, section 11).
fn address(word: &str) -> Option<IpAddr> {
    let word = match word.split_once('%') {
        Some((address, _)) => address,
        None => word,
    };
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &[u8]) -> (Vec<Item<'_>>, Result<(), Reason>) {
        let mut items = Vec::new();
        let result = read(line, |item| {
            items.push(item);
            Ok(())
        });
        (items, result)
    }

    fn check(line: &str, names: &[&str]) {
        let expected: Vec<_> = names.iter().map(|name| Item::Name(name, false)).collect();
        assert_eq!(told(line.as_bytes()), (expected, Ok(())), "{line}");
    }

    fn check_bad(line: impl AsRef<[u8]>, reason: Reason) {
        let line = line.as_ref();
        let text = String::from_utf8_lossy(line);
        assert_eq!(told(line), (Vec::new(), Err(reason)), "{text}");
    }

    #[test]
    fn names() {
        check("example.com", &["example.com"]);
        check("  example.com\t\r", &["example.com"]);
        check("EXAMPLE.com.", &["EXAMPLE.com"]);
        check("example.com # why", &["example.com"]);
        check("example.com\t#why", &["example.com"]);
        check("*.example.com", &["example.com"]);
        check(".example.com", &["example.com"]);
        check("*.zip", &["zip"]);
        check("xn--bcher-kva.example", &["xn--bcher-kva.example"]);
        check("_tcp.a-b.example", &["_tcp.a-b.example"]);
        check("1e100.net", &["1e100.net"]);
    }

    #[test]
    fn hosts_files() {
        check("0.0.0.0 example.com", &["example.com"]);
        check(
            "127.0.0.1\ta.example b.example # c.example",
            &["a.example", "b.example"],
        );
        check(":: example.com", &["example.com"]);
        check("::1 example.com", &["example.com"]);
        for own in [
            "127.0.0.1 localhost",
            "127.0.0.1 LOCALHOST localhost.localdomain",
            "255.255.255.255 broadcasthost",
            "fe80::1%lo0 localhost",
            "ff02::1 ip6-allnodes",
            "0.0.0.0 0.0.0.0",
        ] {
            check(own, &[]);
        }
        check_bad("192.168.1.2 nas.home.arpa", Reason::Mapping);
        check_bad("0.0.0.0 word", Reason::OneLabel);
        let mixed = told(b"0.0.0.0 a.example b*.example c.example");
        let good = ["a.example", "c.example"].map(|name| Item::Name(name, false));
        assert_eq!(mixed, (good.to_vec(), Err(Reason::Pattern)));
    }

    #[test]
    fn adblock_rules() {
        check("||example.com^", &["example.com"]);
        check("||example.com", &["example.com"]);
        check("||example.com^|", &["example.com"]);
        check("||*.example.com^", &["example.com"]);
        check("||Example.Com^$important,all", &["Example.Com"]);
        check("||zip^", &["zip"]);
        let excepted = told(b"@@||example.com^$important");
        assert_eq!(excepted, (vec![Item::Name("example.com", true)], Ok(())));
        for rule in [
            "||example.com^$third-party",
            "||example.com^$",
            "||example.com^$important,dnstype=AAAA",
            "@@||example.com^$client=phone",
        ] {
            check_bad(rule, Reason::Options);
        }
        for rule in [
            "||example.com/ads/",
            "||ad*.example.com^",
            "||example.com^*/pixel",
            "|https://example.com|",
            "@@example.com",
            "@@|example.com^",
            "/banner[0-9]+/",
            "example.com##.ad",
            "ads*.example.com",
            "https://example.com/",
            "example.com:443",
        ] {
            check_bad(rule, Reason::Pattern);
        }
    }

    #[test]
    fn comments_and_headers() {
        for comment in [
            "",
            " \t ",
            "#",
            "# any words",
            "## owner: Nobody",
            "! Title: a list",
            "[Adblock Plus 2.0]",
            "# owner:",
            "# owner: \u{1}",
            "# Category: telemetry",
            "# category: none of ours",
            "# homepage: https://example.com",
        ] {
            check(comment, &[]);
        }
        assert_eq!(told(b"# caf\xe9\0"), (Vec::new(), Ok(())));
        assert_eq!(
            told("# owner:  Müller & Co. ".as_bytes()),
            (vec![Item::Owner("Müller & Co.")], Ok(()))
        );
        assert_eq!(
            told(b"#category:never-block"),
            (vec![Item::Category(Category::NeverBlock)], Ok(()))
        );
        let longest = "o".repeat(LONGEST_OWNER);
        let line = format!("# owner: {longest}");
        assert_eq!(told(line.as_bytes()).0, [Item::Owner(&longest)]);
        assert_eq!(told(format!("{line}o").as_bytes()).0, []);
    }

    #[test]
    fn what_names_nothing() {
        check_bad("word", Reason::OneLabel);
        check_bad("com.", Reason::OneLabel);
        check_bad("two words.example", Reason::NotAName);
        check_bad("a..example", Reason::NotAName);
        check_bad("..example", Reason::NotAName);
        check_bad(".", Reason::NotAName);
        check_bad("*.", Reason::NotAName);
        check_bad("||^", Reason::NotAName);
        check_bad("a,b.example", Reason::NotAName);
        check_bad("address=(a.example)", Reason::NotAName);
        check_bad("version.1.2", Reason::NotAName);
        check_bad("999.0.0.1", Reason::NotAName);
        check_bad("bücher.example", Reason::NotAscii);
        check_bad(b"b\xfccher.example", Reason::NotAscii);
        check_bad(b"a\0.example", Reason::Binary);
        check_bad(b"\x1b[1ma.example", Reason::Binary);
        check(
            &format!("{}.example", "a".repeat(63)),
            &[&format!("{}.example", "a".repeat(63))],
        );
        check_bad(format!("{}.example", "a".repeat(64)), Reason::NotAName);
        let longest = format!("{}.", "a".repeat(63)).repeat(3) + &"b".repeat(61);
        check(&longest, &[&longest]);
        check_bad(format!("{longest}b"), Reason::NotAName);
        let most = "a.".repeat(15) + "b";
        check(&most, &[&most]);
        check_bad(format!("||a.{most}^"), Reason::TooManyLabels);
    }

    #[test]
    fn addresses() {
        for (line, expected) in [
            ("114.114.114.114", "114.114.114.114"),
            (" 240c::6666 # CFIEC", "240c::6666"),
        ] {
            let address = expected.parse().expect("an address");
            assert_eq!(
                told(line.as_bytes()),
                (vec![Item::Address(address)], Ok(()))
            );
        }
    }
}
