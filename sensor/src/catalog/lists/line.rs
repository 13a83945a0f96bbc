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

/// An item of a line for the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    /// A name and all below it, as written, without a final dot; and whether it is an exception rather than an
    /// entry of the list.
    Name(&'a str, bool),
    /// An address.
    Address(IpAddr),
    /// The owner of the items that follow.
    Owner(&'a str),
    /// The category of the items that follow.
    Category(Category),
}

/// Why a line, or a part of it, is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is longer than 4,096 bytes.
    TooLong,
    /// It has bytes that no text has.
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
    /// The fault of the line, to follow "it".
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::TooLong => "is longer than 4,096 bytes",
            Self::Binary => "has bytes that no text has",
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

/// Calls `item` with each item of a line, which has no line end; the good items are passed even if an error
/// follows. `item` may refuse one, which is then the line's error.
pub(super) fn read<'a>(
    line: &'a [u8],
    mut item: impl FnMut(Item<'a>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let line = line.trim_ascii();
    match line {
        [] | [b'!' | b';', ..] | [b'[', .., b']'] => return Ok(()),
        [b'#', comment @ ..] => {
            return match header(comment) {
                Some(header) => item(header),
                None => Ok(()),
            };
        }
        _ => {}
    }
    let (dnsmasq, line) = match dnsmasq_key(line) {
        Some((key, rest)) => (Some(key), without_comment(rest, is_after_blank)),
        None => (None, without_comment(line, is_after_name)),
    };
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
    if let Some(key) = dnsmasq {
        return dnsmasq_rule(key, line, item);
    }
    if let Some(exception) = line.strip_prefix("@@") {
        let rule = exception
            .strip_prefix("||")
            .or_else(|| exception.strip_prefix('|'));
        return match adblock(rule.ok_or(Reason::Pattern)?)? {
            // An exception that is taken back excepts nothing.
            (_, Options::TakenBack) => Ok(()),
            (name, _) => item(Item::Name(name, true)),
        };
    }
    if let Some(rule) = line.strip_prefix("||") {
        return match adblock(rule)? {
            (name, Options::None) => item(Item::Name(name, false)),
            // Whichever rule for it that is, of this list or another.
            (name, Options::TakenBack) => item(Item::Name(name, true)),
            (_, Options::Others) => Err(Reason::Options),
        };
    }
    if let Some((key, value)) = unbound_key(line) {
        return unbound_rule(key, value, item);
    }
    let mut words = line.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    if is_of_zone_file(first, line) {
        return Ok(());
    }
    let mut others = words.peekable();
    match (address(first), others.peek()) {
        (Some(address), None) => item(Item::Address(address)),
        (Some(address), Some(_)) => hosts(address, others, item),
        (None, None) => item(Item::Name(plain(first)?, false)),
        (None, Some(_)) => record(first, others, item),
    }
}

/// `# owner: Xiaomi`, `# category: telemetry`; any other comment is none.
fn header(comment: &[u8]) -> Option<Item<'_>> {
    let comment = str::from_utf8(comment).ok()?;
    let (key, value) = comment.split_once(':')?;
    let value = value.trim();
    match key.trim() {
        "owner" if is_owner(value) => Some(Item::Owner(value)),
        "category" => value.parse().ok().map(Item::Category),
        _ => None,
    }
}

/// Whether a text may stand for an owner: 1 to 63 octets, no control characters.
pub(super) fn is_owner(text: &str) -> bool {
    (1..=LONGEST_OWNER).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// A line up to the `#` that begins a comment, as what stands before and behind it tells.
fn without_comment(line: &[u8], begins: fn(u8, Option<u8>) -> bool) -> &[u8] {
    let is_comment = |at: &usize| {
        let behind = line.get(at + 2).copied();
        line[at + 1] == b'#' && begins(line[*at], behind)
            || line[at + 1] == b';' && line[*at].is_ascii_whitespace()
    };
    let comment = (0..line.len().saturating_sub(1)).find(is_comment);
    let end = comment.map_or(line.len(), |at| at + 1);
    line[..end].trim_ascii_end()
}

/// `name # why`.
fn is_after_blank(before: u8, _: Option<u8>) -> bool {
    before.is_ascii_whitespace()
}

/// `name # why`, `name#why`; not the marks of rules about pages: `##`, `#@#`, `#?#`, `#$#`, `#%#`.
fn is_after_name(before: u8, behind: Option<u8>) -> bool {
    let is_mark = behind.is_some_and(|behind| b"#@?$%".contains(&behind));
    let is_name = before.is_ascii_alphanumeric() || b"-_.^|".contains(&before);
    before.is_ascii_whitespace() || is_name && !is_mark
}

/// The effect of the options of an AdBlock rule.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Options {
    /// No options, or none that changes the effect of the name alone.
    None,
    /// `$badfilter`: such a rule is disabled.
    TakenBack,
    /// Options that restrict the rule beyond the name.
    Others,
}

/// Reads the text after `||`: a name, `^`, and options.
fn adblock(rule: &str) -> Result<(&str, Options), Reason> {
    let (pattern, options) = match rule.split_once('$') {
        Some((pattern, options)) => (pattern, Some(options)),
        None => (rule, None),
    };
    let written = pattern.strip_suffix('|').unwrap_or(pattern);
    let written = written.strip_suffix('^').unwrap_or(written);
    let name = name(written.strip_prefix("*.").unwrap_or(written))?;
    // `all` is every kind of request, `important` a rank among rules that this list does not mix.
    let is_honoured = |option: &str| matches!(option, "all" | "important");
    let options = match options {
        None => Options::None,
        Some(options) if options.split(',').any(|option| option == "badfilter") => {
            Options::TakenBack
        }
        Some(options) if options.split(',').all(is_honoured) => Options::None,
        Some(_) => Options::Others,
    };
    Ok((name, options))
}

/// A setting of dnsmasq about names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dnsmasq {
    /// Which address they have.
    Address,
    /// Which server is asked for them.
    Server,
}

/// `address=/…`, `server=/…`, `local=/…`, and what follows the first slash.
fn dnsmasq_key(line: &[u8]) -> Option<(Dnsmasq, &[u8])> {
    let keys = [
        (&b"address=/"[..], Dnsmasq::Address),
        (b"server=/", Dnsmasq::Server),
        (b"local=/", Dnsmasq::Server),
    ];
    let found = keys.into_iter().find_map(|(text, key)| {
        let rest = line.strip_prefix(text)?;
        Some((key, rest))
    });
    // As the command line has it.
    found.or_else(|| dnsmasq_key(line.strip_prefix(b"--")?))
}

/// Names that end in `/`, and where they lead: nowhere, as `server=/name/` and `address=/name/0.0.0.0`.
fn dnsmasq_rule<'a>(
    key: Dnsmasq,
    rule: &'a str,
    mut item: impl FnMut(Item<'a>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let (names, leads_to) = rule.rsplit_once('/').ok_or(Reason::Pattern)?;
    let is_exception = match (key, leads_to.trim()) {
        // NXDOMAIN.
        (_, "") => false,
        // No address, 0.0.0.0 and ::.
        (Dnsmasq::Address, "#") => false,
        (Dnsmasq::Address, written) => {
            let address = address(written).ok_or(Reason::NotAName)?;
            match is_nowhere(address) {
                true => false,
                false => return Err(Reason::Mapping),
            }
        }
        // The servers that are asked for all names.
        (Dnsmasq::Server, "#") => true,
        (Dnsmasq::Server, _) => return Err(Reason::Mapping),
    };
    let mut result = Ok(());
    for written in names.split('/') {
        let told = match plain(written) {
            Ok(name) => item(Item::Name(name, is_exception)),
            Err(reason) => Err(reason),
        };
        result = result.and(told);
    }
    result
}

/// `local-zone: …`, `local-data: …`, and the heads of sections.
fn unbound_key(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let is_known =
        matches!(key, "local-zone" | "local-data") || key == "server" && value.is_empty();
    is_known.then(|| (key, value.trim()))
}

/// A zone with its type, or a record that stands in for the answer.
fn unbound_rule<'a>(
    key: &str,
    value: &'a str,
    mut item: impl FnMut(Item<'a>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let unquoted = |text: &'a str| text.trim_matches(['"', '\'']);
    match key {
        "local-zone" => {
            let (zone, kind) = value
                .rsplit_once(|c: char| c.is_ascii_whitespace())
                .ok_or(Reason::NotAName)?;
            let zone = plain(unquoted(zone.trim()));
            match unquoted(kind) {
                "deny" | "refuse" | "static" | "always_deny" | "always_refuse"
                | "always_nxdomain" | "always_nodata" | "always_null" | "inform_deny" => {
                    item(Item::Name(zone?, false))
                }
                "transparent" | "typetransparent" | "always_transparent" | "inform" => {
                    item(Item::Name(zone?, true))
                }
                // Its records tell, in lines of their own.
                "redirect" | "inform_redirect" => Ok(()),
                "nodefault" => Ok(()),
                _ => Err(Reason::Options),
            }
        }
        "local-data" => {
            let mut words = unquoted(value).split_ascii_whitespace();
            let owner = words.next().unwrap_or_default();
            record(owner, words, item)
        }
        _ => Ok(()),
    }
}

/// Whether a line of a zone file has no name for the list: a directive, a record of the zone itself, or numbers
/// of its SOA record.
fn is_of_zone_file(first: &str, line: &str) -> bool {
    const DIRECTIVES: [&str; 2] = ["$TTL", "$ORIGIN"];
    const OF_THE_ZONE: [&str; 4] = ["@", "IN", "NS", "SOA"];
    let is_first = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(first));
    let is_number = |word: &str| {
        let digits = word.trim_end_matches(['s', 'm', 'h', 'd', 'w', 'S', 'M', 'H', 'D', 'W']);
        !digits.is_empty() && digits.bytes().all(|octet| octet.is_ascii_digit())
    };
    is_first(&DIRECTIVES)
        || is_first(&OF_THE_ZONE)
        || line
            .split_ascii_whitespace()
            .all(|word| matches!(word, "(" | ")") || is_number(word.trim_matches(['(', ')'])))
}

/// Reads a record of a zone file: the data that replaces the answer for its owner, as in a response policy zone
/// (draft-vixie-dnsop-dns-rpz, section 3), where `.` is NXDOMAIN and `*.` no data.
fn record<'a>(
    owner: &'a str,
    words: impl Iterator<Item = &'a str>,
    mut item: impl FnMut(Item<'a>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    const OF_ADDRESSES: [&str; 4] = ["rpz-ip", "rpz-client-ip", "rpz-nsip", "rpz-nsdname"];
    let is_time = |word: &str| {
        word.bytes()
            .next()
            .is_some_and(|octet| octet.is_ascii_digit())
    };
    let is_class = |word: &str| word.eq_ignore_ascii_case("IN");
    let mut words = words.skip_while(|word| is_time(word) || is_class(word));
    let (Some(kind), Some(data), None) = (words.next(), words.next(), words.next()) else {
        return Err(Reason::NotAName);
    };
    let is_exception = match kind.to_ascii_uppercase().as_str() {
        "CNAME" => match data.to_ascii_lowercase().as_str() {
            "." | "*." | "rpz-drop." | "rpz-drop" => false,
            "rpz-passthru." | "rpz-passthru" => true,
            _ => return Err(Reason::Mapping),
        },
        "A" | "AAAA" => match is_nowhere(address(data).ok_or(Reason::NotAName)?) {
            true => false,
            false => return Err(Reason::Mapping),
        },
        _ => return Err(Reason::NotAName),
    };
    let last = owner.trim_end_matches('.').rsplit('.').next();
    if last.is_some_and(|last| OF_ADDRESSES.iter().any(|of| of.eq_ignore_ascii_case(last))) {
        return Err(Reason::Pattern);
    }
    item(Item::Name(plain(owner)?, is_exception))
}

/// Whether a name that has this address cannot be reached.
fn is_nowhere(address: IpAddr) -> bool {
    address.is_unspecified() || address.is_loopback()
}

/// Reads the names after an address in a hosts file.
fn hosts<'a>(
    address: IpAddr,
    names: impl Iterator<Item = &'a str>,
    mut item: impl FnMut(Item<'a>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let blocks = is_nowhere(address);
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
            "||example.com^$denyallow=a.example.com",
        ] {
            check_bad(rule, Reason::Options);
        }
        // Blocking less is the lesser mistake.
        for excepted in [
            "@@||example.com^$client=phone",
            "@@||example.com^$third-party,important",
            "@@|example.com^",
            "@@||example.com^|",
            "||example.com^$badfilter",
            "||example.com^$third-party,badfilter",
        ] {
            let expected = vec![Item::Name("example.com", true)];
            assert_eq!(told(excepted.as_bytes()), (expected, Ok(())), "{excepted}");
        }
        check("@@||example.com^$badfilter", &[]);
        for rule in [
            "||example.com/ads/",
            "||ad*.example.com^",
            "||example.com^*/pixel",
            "|https://example.com|",
            "@@example.com",
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
    fn comments_without_a_blank() {
        check("example.com#why", &["example.com"]);
        check("example.com#", &["example.com"]);
        check(
            "0.0.0.0 a.example b.example#why",
            &["a.example", "b.example"],
        );
        check("||example.com^#why", &["example.com"]);
        for rule in [
            "example.com##.ad",
            "example.com#@#.ad",
            "example.com#?#.ad",
            "example.com#$#body { color: red }",
            "example.com#%#//scriptlet",
        ] {
            let (items, result) = told(rule.as_bytes());
            assert_eq!(items, [], "{rule}");
            assert!(result.is_err(), "{rule}");
        }
    }

    #[test]
    fn dnsmasq() {
        check("address=/example.com/", &["example.com"]);
        check("address=/example.com/#", &["example.com"]);
        check("address=/example.com/0.0.0.0", &["example.com"]);
        check("address=/example.com/:: # why", &["example.com"]);
        check("address=/example.com/127.0.0.1", &["example.com"]);
        check("address=/a.example/b.example/", &["a.example", "b.example"]);
        check("server=/example.com/", &["example.com"]);
        check("local=/.example.com/", &["example.com"]);
        check("--server=/example.com/", &["example.com"]);
        let excepted = told(b"server=/example.com/#");
        assert_eq!(excepted, (vec![Item::Name("example.com", true)], Ok(())));
        check_bad("address=/example.com/192.168.1.7", Reason::Mapping);
        check_bad("server=/example.com/192.168.1.7#5353", Reason::Mapping);
        check_bad("address=/example.com", Reason::Pattern);
        check_bad("address=/#/0.0.0.0", Reason::Pattern);
        check_bad("local=/lan/", Reason::OneLabel);
        check_bad("address=/example.com/nowhere", Reason::NotAName);
        check_bad("server=192.168.1.7", Reason::NotAName);
    }

    #[test]
    fn unbound() {
        check("server:", &[]);
        for kind in ["always_nxdomain", "static", "refuse", "always_null", "deny"] {
            check(
                &format!("local-zone: \"example.com\" {kind}"),
                &["example.com"],
            );
            check(
                &format!("  local-zone: example.com. {kind} # why"),
                &["example.com."].map(|name| name.trim_end_matches('.')),
            );
        }
        check("local-zone: \"example.com\" redirect", &[]);
        check("local-data: \"example.com A 0.0.0.0\"", &["example.com"]);
        check(
            "local-data: 'example.com. 3600 IN AAAA ::'",
            &["example.com"],
        );
        let excepted = told(b"local-zone: \"example.com\" always_transparent");
        assert_eq!(excepted, (vec![Item::Name("example.com", true)], Ok(())));
        check_bad("local-data: \"example.com A 192.168.1.7\"", Reason::Mapping);
        check_bad(
            "local-data: \"www.example.com CNAME safe.example.com\"",
            Reason::Mapping,
        );
        check_bad("local-zone: \"example.com\"", Reason::NotAName);
        check_bad("local-zone: \"example.com\" sometimes", Reason::Options);
        check_bad("local-zone: \"home\" static", Reason::OneLabel);
        check_bad("forward-zone:", Reason::Pattern);
    }

    #[test]
    fn response_policy_zones() {
        for nothing in [
            "$TTL 300",
            "$ORIGIN rpz.local.",
            "@ IN SOA localhost. root.localhost. (1 3600 600 86400 60)",
            "@ SOA localhost. root.localhost. (",
            "    2026010101 ; serial",
            "    1h 15m 30d 2h )",
            ")",
            "  IN NS localhost.",
            " NS localhost.",
            "; why",
        ] {
            check(nothing, &[]);
        }
        check("example.com CNAME .", &["example.com"]);
        check("*.example.com CNAME . ; why", &["example.com"]);
        check("example.com 300 IN CNAME *.", &["example.com"]);
        check("example.com\tIN\tCNAME\trpz-drop.", &["example.com"]);
        check("example.com cname .", &["example.com"]);
        check("example.com A 0.0.0.0", &["example.com"]);
        check("example.com AAAA ::1", &["example.com"]);
        let excepted = told(b"example.com CNAME rpz-passthru.");
        assert_eq!(excepted, (vec![Item::Name("example.com", true)], Ok(())));
        check_bad("example.com CNAME garden.example.", Reason::Mapping);
        check_bad("example.com CNAME rpz-tcp-only.", Reason::Mapping);
        check_bad("example.com A 192.168.1.7", Reason::Mapping);
        check_bad("32.1.2.0.192.rpz-ip CNAME .", Reason::Pattern);
        check_bad("ns.example.com.rpz-nsdname CNAME .", Reason::Pattern);
        check_bad("example.com TXT words", Reason::NotAName);
        check_bad("example.com CNAME", Reason::NotAName);
        check_bad("* CNAME .", Reason::Pattern);
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
