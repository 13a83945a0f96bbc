//! Reads single values: from text to a value, or to a problem and its remedy.
//!
//! Pure and total; the caller knows where a value stands in the file.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sensor_ebpf::name::MAX_LABELS;

use sensor_ebpf::parse::Mac;

use crate::{
    catalog::{NetworkSelector, domain::LONGEST_NAME, embedded::NAT64_LENGTHS},
    policy::{Ports, Transport},
};

/// Why a value cannot be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    /// The problem, in a sentence without a full stop.
    pub(super) message: String,
    /// The problem with the marked text, in a few words.
    pub(super) label: String,
    /// The text to write instead.
    pub(super) help: String,
}

pub(super) fn complaint(
    message: impl Into<String>,
    label: impl Into<String>,
    help: impl Into<String>,
) -> Complaint {
    Complaint {
        message: message.into(),
        label: label.into(),
        help: help.into(),
    }
}

/// The longest interface name in bytes (`IFNAMSIZ` less its final NUL).
pub(super) const INTERFACE_NAME_BYTES: usize = 15;

/// The longest policy name in bytes.
pub(super) const POLICY_NAME_BYTES: usize = 63;

/// A name that the kernel takes for an interface (`dev_valid_name` in net/core/dev.c).
pub(super) fn interface_name(text: &str) -> Result<String, Complaint> {
    const HELP: &str = "write a name as `ip -brief link` prints it, without what follows an `@`";
    let refused = |label: &str| {
        Err(complaint(
            format!("`{}` cannot be the name of an interface", excerpt(text)),
            label,
            HELP,
        ))
    };
    if text.is_empty() {
        return Err(complaint("an interface has no name", "empty", HELP));
    }
    if text.len() > INTERFACE_NAME_BYTES {
        return refused(&format!(
            "{} bytes; the kernel's names have at most {INTERFACE_NAME_BYTES}",
            text.len()
        ));
    }
    if text == "." || text == ".." {
        return refused("the kernel does not take this name");
    }
    match text
        .chars()
        .find(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
    {
        None => Ok(text.to_owned()),
        Some(found) => refused(&format!("has {}", character(found))),
    }
}

/// A policy's name: it is a label value in metrics and a word in logs.
pub(super) fn policy_name(text: &str) -> Result<String, Complaint> {
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_');
    let label = if text.is_empty() {
        "a name has at least one character".to_owned()
    } else if let Some(found) = text.chars().find(|c| !allowed(*c)) {
        format!("has {}", character(found))
    } else if text.len() > POLICY_NAME_BYTES {
        format!(
            "{} bytes; a name has at most {POLICY_NAME_BYTES}",
            text.len()
        )
    } else {
        return Ok(text.to_owned());
    };
    let mut better: String = text
        .to_lowercase()
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .take(POLICY_NAME_BYTES)
        .collect();
    better.truncate(better.trim_end_matches('-').len());
    if !better.contains(|c: char| c.is_ascii_alphanumeric()) {
        "trackers".clone_into(&mut better);
    }
    Err(complaint(
        format!("`{}` cannot be the name of a policy", excerpt(text)),
        label,
        format!("use `a` to `z`, `0` to `9`, `-` and `_`, for example `name = \"{better}\"`"),
    ))
}

/// The MAC address of one device.
pub(super) fn device(text: &str) -> Result<[u8; 6], Complaint> {
    let Some(mac) = mac(text, ':') else {
        let help = match mac(text, '-').or_else(|| bare_mac(text)) {
            Some(mac) => format!("write `\"{}\"`", Mac::new(mac)),
            None => "write six pairs of hexadecimal digits, as in `\"a4:50:46:1f:00:2c\"`; \
                     `sensor devices` lists those that were seen"
                .to_owned(),
        };
        return Err(complaint(
            format!("`{}` is not a MAC address", excerpt(text)),
            "not six pairs of hexadecimal digits with colons between them",
            help,
        ));
    };
    if mac == [0; 6] {
        return Err(complaint(
            format!("`{text}` is not the address of a device"),
            "all zero",
            "write the device's own address; `sensor devices` lists those that were seen",
        ));
    }
    if mac[0] & 1 != 0 {
        return Err(complaint(
            format!("`{text}` is a group address; no device sends from it"),
            "the lowest bit of the first byte marks a group",
            "write the device's own address; `sensor devices` lists those that were seen",
        ));
    }
    Ok(mac)
}

/// Whether a text is meant to be a MAC address, however it is written.
pub(super) fn is_meant_as_mac(text: &str) -> bool {
    let pairs = |separator| {
        text.split(separator).count() >= 4
            && text
                .split(separator)
                .all(|part| part.len() <= 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    pairs(':') || pairs('-') || bare_mac(text).is_some()
}

fn mac(text: &str, separator: char) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(separator);
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// `a450461f002c` and `a450.461f.002c`, which are taken only to say how to write them.
fn bare_mac(text: &str) -> Option<[u8; 6]> {
    let digits: String = text.chars().filter(|c| *c != '.').collect();
    if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let number = u64::from_str_radix(&digits, 16).ok()?;
    let [_, _, mac @ ..] = number.to_be_bytes();
    Some(mac)
}

/// The address of a resolver of the house.
pub(super) fn resolver(text: &str) -> Result<IpAddr, Complaint> {
    const EXAMPLE: &str = "write its address, for example `resolvers = [\"192.168.1.53\"]`";
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(complaint(
            format!("`{}` is not the address of a resolver", excerpt(text)),
            "not an IPv4 or IPv6 address",
            EXAMPLE,
        ));
    };
    let address = address.to_canonical();
    if address.is_multicast() || address.is_unspecified() {
        return Err(complaint(
            format!("`{address}` is not the address of a resolver"),
            "nobody answers from this address",
            EXAMPLE,
        ));
    }
    Ok(address)
}

/// A remote prefix; an address alone is the prefix of that one address.
pub(super) fn remote(text: &str) -> Result<IpNet, Complaint> {
    const EXAMPLE: &str = "write a prefix such as `\"203.0.113.0/24\"` or `\"2001:db8::/32\"`";
    let (address_text, length_text) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address_text.parse::<IpAddr>() else {
        let is_name = address_text.contains('.')
            && address_text.contains(|c: char| c.is_ascii_alphabetic())
            && !address_text.contains(':');
        return Err(complaint(
            format!("`{}` is not an address or a prefix", excerpt(text)),
            if is_name {
                "looks like a name; a policy matches addresses"
            } else {
                "not an IPv4 or IPv6 address"
            },
            EXAMPLE,
        ));
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length_text {
        None => longest,
        Some(digits) => match digits.parse::<u8>() {
            // `parse` takes a sign.
            Ok(length) if length <= longest && digits.bytes().all(|b| b.is_ascii_digit()) => length,
            _ => {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                return Err(complaint(
                    format!("`{}` has no valid prefix length", excerpt(text)),
                    format!("the length of an {family} prefix is 0 to {longest}"),
                    format!("write `\"{address}/{longest}\"` for this one address"),
                ));
            }
        },
    };
    let prefix = match address {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::new_assert(address, length)),
        IpAddr::V6(address) => IpNet::V6(Ipv6Net::new_assert(address, length)),
    };
    let canonical = prefix.trunc();
    if canonical != prefix {
        return Err(complaint(
            format!("`{}` has bits set beyond its prefix length", excerpt(text)),
            format!(
                "the first address of this prefix is {}",
                canonical.network()
            ),
            format!(
                "write `\"{canonical}\"` for the whole prefix, or `\"{address}/{longest}\"` for \
                 this one address"
            ),
        ));
    }
    if let IpNet::V6(prefix) = canonical
        && length >= 96
        && let Some(address) = prefix.network().to_ipv4_mapped()
    {
        return Err(complaint(
            format!("`{}` never stands in a packet", excerpt(text)),
            "an IPv4 address written as IPv6",
            format!("write `\"{address}/{}\"`", length - 96),
        ));
    }
    Ok(canonical)
}

/// A prefix of NAT64.
pub(super) fn nat64(text: &str) -> Result<Ipv6Net, Complaint> {
    let lengths = NAT64_LENGTHS.map(|length| length.to_string()).join(", ");
    match remote(text)? {
        IpNet::V6(prefix) if NAT64_LENGTHS.contains(&prefix.prefix_len()) => Ok(prefix),
        prefix => Err(complaint(
            format!("`{prefix}` is not a prefix of NAT64"),
            format!("it is an IPv6 prefix of {lengths} bits (RFC 6052)"),
            "write a prefix such as `\"2001:db8:64::/96\"`; the router or the provider that \
             translates names it",
        )),
    }
}

/// Whether packets to this prefix all stay on the link, where no policy applies
/// (`sensor_ebpf::policy::decide`).
pub(super) fn stays_on_link(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(prefix) => {
            let octets = prefix.network().octets();
            (prefix.prefix_len() >= 3 && octets[0] >= 224)
                || (prefix.prefix_len() >= 16 && octets[..2] == [169, 254])
                || (prefix.prefix_len() == 32 && octets == [0; 4])
        }
        IpNet::V6(prefix) => {
            let octets = prefix.network().octets();
            (prefix.prefix_len() >= 8 && octets[0] == 0xff)
                || (prefix.prefix_len() >= 10 && octets[0] == 0xfe && octets[1] & 0xc0 == 0x80)
                || (prefix.prefix_len() == 128 && prefix.network() == Ipv6Addr::UNSPECIFIED)
        }
    }
}

/// `443`, `8000-8100`, `udp/443`, `tcp/1-1024`.
pub(super) fn ports(text: &str) -> Result<Ports, Complaint> {
    let (transport, prefix, range) = match text.split_once('/') {
        None => (Transport::Any, "", text),
        Some(("tcp", range)) => (Transport::Tcp, "tcp/", range),
        Some(("udp", range)) => (Transport::Udp, "udp/", range),
        Some((other, range)) => {
            let lower = other.to_ascii_lowercase();
            let help = match lower.as_str() {
                "tcp" | "udp" => format!("write `\"{lower}/{}\"`", excerpt(range)),
                _ => format!("write `\"tcp/{0}\"`, `\"udp/{0}\"` or both", excerpt(range)),
            };
            return Err(complaint(
                format!(
                    "`{}` is not a transport that a policy knows",
                    excerpt(other)
                ),
                "neither `tcp` nor `udp`",
                help,
            ));
        }
    };
    let (first, last) = match range.split_once('-') {
        None => (port(range), port(range)),
        Some((first, last)) => (port(first), port(last)),
    };
    let (Some(first), Some(last)) = (first, last) else {
        return Err(complaint(
            format!("`{}` is not a port or a range of ports", excerpt(text)),
            "ports are 1 to 65535",
            "write `443`, `\"8000-8100\"`, `\"udp/443\"` or `\"tcp/1-1024\"`",
        ));
    };
    if first > last {
        return Err(complaint(
            format!("`{text}` ends before it begins"),
            format!("{first} is greater than {last}"),
            format!("write `\"{prefix}{last}-{first}\"`"),
        ));
    }
    Ok(Ports {
        first,
        last,
        transport,
    })
}

/// A port written as a number.
pub(super) fn port_number(number: i64) -> Result<Ports, Complaint> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(Ports {
            first: port,
            last: port,
            transport: Transport::Any,
        }),
        _ => Err(complaint(
            format!("`{number}` is not a port"),
            "ports are 1 to 65535",
            "write `443`, `\"8000-8100\"`, `\"udp/443\"` or `\"tcp/1-1024\"`",
        )),
    }
}

fn port(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

/// The longest label of a name in bytes (RFC 1035, section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// A name that stands for itself and all below it: lower case, without a final dot. `*.` or `.`
/// before it says the same, and has to stand before a whole top-level domain.
pub(super) fn domain(text: &str) -> Result<String, Complaint> {
    let refused = |label: String, help: String| {
        Err(complaint(
            format!("`{}` is not a domain", excerpt(text)),
            label,
            help,
        ))
    };
    let example = || "write a domain such as `\"ads.example.com\"`".to_owned();
    if remote(text).is_ok() || text.parse::<IpAddr>().is_ok() {
        return refused(
            "an address".to_owned(),
            format!("write `remotes = [\"{}\"]`", excerpt(text)),
        );
    }
    let below = text.strip_prefix("*.");
    let written = below.or_else(|| text.strip_prefix('.')).unwrap_or(text);
    let name = written
        .strip_suffix('.')
        .unwrap_or(written)
        .to_ascii_lowercase();
    if name.is_empty() {
        return refused("a name has at least one label".to_owned(), example());
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(found) = name.chars().find(|c| !is_allowed(*c)) {
        // A URL or a pattern likely stands for the name in it.
        let host = name.split_once("://").map_or(&*name, |(_, rest)| rest);
        let host = host.split(['/', ':', '?', '^', '$']).next();
        let host = host.unwrap_or_default().trim_matches(['|', '*', '.', '@']);
        let help = match found {
            c if !c.is_ascii() && !c.is_control() => {
                "write each label with such letters as it is on the wire, `xn--…` (punycode); \
                 `sensor flows --wide` shows it so"
                    .to_owned()
            }
            _ if host != text && host.contains('.') && domain(host).is_ok() => {
                format!("write `\"{host}\"`: it stands for everything below it too")
            }
            _ => example(),
        };
        return refused(format!("has {}", character(found)), help);
    }
    if name.split('.').any(str::is_empty) {
        return refused("has two dots side by side".to_owned(), example());
    }
    if let Some(label) = name.split('.').find(|label| label.len() > LONGEST_LABEL) {
        return refused(
            format!(
                "a label of {} bytes; it has at most {LONGEST_LABEL}",
                label.len()
            ),
            example(),
        );
    }
    if name.len() > LONGEST_NAME {
        return refused(
            format!("{} bytes; a name has at most {LONGEST_NAME}", name.len()),
            example(),
        );
    }
    let labels: Vec<&str> = name.split('.').collect();
    if labels.len() > MAX_LABELS {
        return refused(
            format!("{} labels; at most {MAX_LABELS} are compared", labels.len()),
            format!(
                "write a shorter one: `\"{}\"`",
                labels[labels.len() - MAX_LABELS..].join(".")
            ),
        );
    }
    // No top-level domain is a number (RFC 3696, section 2); an address or a version is.
    let last = labels.last().copied().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return refused("ends with a number".to_owned(), example());
    }
    if labels.len() == 1 && below.is_none() {
        return refused(
            "one word".to_owned(),
            format!("write a domain with a dot in it, or `\"*.{name}\"` for the whole top level"),
        );
    }
    Ok(name)
}

/// The two letters of a country.
pub(super) fn country(text: &str) -> Result<String, Complaint> {
    let code = text.to_ascii_uppercase();
    if code.len() == 2 && COUNTRIES.split(' ').any(|known| known == code) {
        return Ok(code);
    }
    let meant = match code.as_str() {
        "UK" | "ENGLAND" | "UNITED KINGDOM" => Some("GB"),
        "USA" | "UNITED STATES" => Some("US"),
        "CHINA" | "CHN" => Some("CN"),
        "RUSSIA" | "RUS" => Some("RU"),
        _ => None,
    };
    Err(complaint(
        format!("`{}` is not the code of a country", excerpt(text)),
        "not two letters of ISO 3166-1",
        match meant {
            Some(meant) => format!("write `\"{meant}\"`"),
            None => "write two letters, for example `country = [\"CN\", \"RU\"]`".to_owned(),
        },
    ))
}

/// ISO 3166-1, and Kosovo's XK, which databases have.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI \
                         BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN \
                         CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK \
                         FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM \
                         HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN \
                         KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK \
                         ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP \
                         NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW \
                         SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF \
                         TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI \
                         VN VU WF WS XK YE YT ZA ZM ZW";

/// `AS45102` and `45102`, or the name of an organisation.
pub(super) fn network(text: &str) -> Result<NetworkSelector, Complaint> {
    let digits = match text.get(..2) {
        Some(prefix) if prefix.eq_ignore_ascii_case("AS") => text.get(2..).unwrap_or_default(),
        _ => text,
    };
    let digits = digits.trim_start();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        let example = "network = \"Alibaba\"";
        return label(text, "network", example).map(NetworkSelector::Organisation);
    }
    network_number(digits.parse().unwrap_or(i64::MAX))
}

/// The number of an autonomous system.
pub(super) fn network_number(number: i64) -> Result<NetworkSelector, Complaint> {
    match u32::try_from(number) {
        Ok(asn) if asn != 0 => Ok(NetworkSelector::Asn(asn)),
        _ => Err(complaint(
            format!("`{number}` is not the number of a network"),
            "autonomous systems are 1 to 4294967295",
            "write for example `network = \"AS45102\"`",
        )),
    }
}

/// The name of a time zone as the IANA database writes it.
pub(super) fn time_zone(text: &str) -> Result<String, Complaint> {
    if let Ok(zone) = jiff::tz::TimeZone::get(text)
        && let Some(name) = zone.iana_name()
    {
        return Ok(name.to_owned());
    }
    let known: Vec<String> = jiff::tz::db()
        .available()
        .map(|name| name.to_string())
        .collect();
    let known = || known.iter().map(String::as_str);
    // `Berlin` is meant to be `Europe/Berlin`, and `New York` to be `America/New_York`.
    let written = text.replace(' ', "_");
    let city = known().find(|name| {
        let city = name.rsplit('/').next().unwrap_or_default();
        city.eq_ignore_ascii_case(&written)
    });
    Err(complaint(
        format!("`{}` is not a time zone", excerpt(text)),
        "not a name of the IANA database",
        match city.or_else(|| closest(&written, known())) {
            Some(meant) => format!("write `time_zone = \"{meant}\"`"),
            None => "write for example `time_zone = \"Europe/Berlin\"`, or leave it out for that \
                     of the machine"
                .to_owned(),
        },
    ))
}

/// The known word that a wrong one was likely meant to be.
pub(super) fn closest<'k>(written: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    /// Above: unrelated words of four letters; below: one slip in a word of four.
    const LEAST_LIKENESS: f64 = 0.6;
    closest_from(LEAST_LIKENESS, written, known)
}

/// The known word that is most like one, of those with a likeness of 0 to 1 that is not less.
pub(super) fn closest_from<'k>(
    least: f64,
    written: &str,
    known: impl Iterator<Item = &'k str>,
) -> Option<&'k str> {
    known
        .map(|word| (strsim::normalized_damerau_levenshtein(written, word), word))
        .filter(|(likeness, _)| *likeness >= least)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}

/// A whole number and a unit: `500ms`, `1s`, `2m`, `6h`, `1d`.
pub(super) fn duration(text: &str) -> Result<Duration, Complaint> {
    let refused = |label: &str, help: String| {
        Err(complaint(
            format!("`{}` is not a duration", excerpt(text)),
            label,
            help,
        ))
    };
    let example = "write a whole number and a unit, `ms`, `s`, `m`, `h` or `d`, as in `\"2m\"`";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if digits == 0 {
        return refused("does not begin with a number", example.to_owned());
    }
    // Several of them are added up: `2h30m`.
    let further = unit.bytes().take_while(|byte| !byte.is_ascii_digit());
    let (unit, further) = unit.split_at(further.count());
    let further = match further {
        "" => Duration::ZERO,
        further => match duration(further) {
            Ok(further) => further,
            Err(Complaint { label, help, .. }) => return refused(&label, help),
        },
    };
    let milliseconds: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => {
            return refused("has no unit", format!("write `\"{number}s\"` for seconds"));
        }
        "sec" | "secs" | "second" | "seconds" => {
            return refused("a unit has one letter", format!("write `\"{number}s\"`"));
        }
        "min" | "mins" | "minute" | "minutes" => {
            return refused("a unit has one letter", format!("write `\"{number}m\"`"));
        }
        _ => return refused("not a number and one unit", example.to_owned()),
    };
    match number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds))
        .and_then(|total| Duration::from_millis(total).checked_add(further))
    {
        Some(total) => Ok(total),
        None => refused("too long", example.to_owned()),
    }
}

/// How a duration is written in the configuration: in its largest whole unit.
pub(super) fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, length) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ] {
        if milliseconds >= length && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    format!("{milliseconds}ms")
}

/// An address and a port to listen on.
pub(super) fn listen(text: &str, default: SocketAddr) -> Result<SocketAddr, Complaint> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (label, help) = if let Ok(address) = text.parse::<IpAddr>() {
        let address = SocketAddr::new(address, default.port());
        ("has no port", format!("write `\"{address}\"`"))
    } else if let Some(port) = text
        .strip_prefix(':')
        .or_else(|| text.strip_prefix("localhost:"))
        .and_then(port)
    {
        let address = SocketAddr::new(default.ip(), port);
        ("has no numeric address", format!("write `\"{address}\"`"))
    } else {
        (
            "not a numeric address and a port",
            format!(
                "write `\"{default}\"`, or for IPv6 `\"[::1]:{}\"`",
                default.port()
            ),
        )
    };
    Err(complaint(
        format!("`{}` is not an address to listen on", excerpt(text)),
        label,
        help,
    ))
}

/// A host name as in RFC 1123, 2.1, one label or several; lower case, without a final dot.
pub(super) fn host(text: &str) -> Result<String, Complaint> {
    let refused = |label: String, help: String| {
        let message = format!("`{}` is not a host name", excerpt(text));
        Err(complaint(message, label, help))
    };
    let example = || "write a host name such as `\"gateway.lan\"`".to_owned();
    let unbracketed = text.trim_matches(['[', ']']);
    if unbracketed.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok() {
        return refused(
            "an address".to_owned(),
            "leave it out: every address is accepted".to_owned(),
        );
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.is_empty() {
        return refused("a name has at least one label".to_owned(), example());
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(found) = name.chars().find(|c| !is_allowed(*c)) {
        // A URL or a name with a port likely stands for the name in it.
        let rest = name.split_once("://").map_or(&*name, |(_, rest)| rest);
        let meant = rest.split(['/', ':', '?', '#']).next().unwrap_or_default();
        let help = match found {
            '*' => {
                "write each name by itself: one that stands for several would let strange sites in"
                    .to_owned()
            }
            c if !c.is_ascii() && !c.is_control() => {
                "write each label with such letters as browsers send it, `xn--…` (punycode)"
                    .to_owned()
            }
            _ if meant != name && host(meant).is_ok() => format!("write `\"{meant}\"`"),
            _ => example(),
        };
        return refused(format!("has {}", character(found)), help);
    }
    if name.split('.').any(str::is_empty) {
        return refused("has an empty label".to_owned(), example());
    }
    if let Some(label) = name.split('.').find(|label| label.len() > LONGEST_LABEL) {
        let len = label.len();
        return refused(
            format!("a label of {len} bytes; it has at most {LONGEST_LABEL}"),
            example(),
        );
    }
    if let Some(label) =
        (name.split('.')).find(|label| label.starts_with('-') || label.ends_with('-'))
    {
        return refused(
            format!("the label `{label}` begins or ends with a hyphen"),
            example(),
        );
    }
    if name.len() > LONGEST_NAME {
        return refused(
            format!("{} bytes; a name has at most {LONGEST_NAME}", name.len()),
            example(),
        );
    }
    Ok(name)
}

/// The longest name that the user gives to a device, a vendor or an owner, in bytes.
pub(super) const LABEL_BYTES: usize = 63;

/// A text that people read, and a label value in metrics.
pub(super) fn label(text: &str, key: &str, example: &str) -> Result<String, Complaint> {
    let label = if text.trim().is_empty() {
        "a name has at least one character".to_owned()
    } else if text.len() > LABEL_BYTES {
        format!("{} bytes; it has at most {LABEL_BYTES}", text.len())
    } else if let Some(found) = text.chars().find(|c| c.is_control()) {
        format!("has {}", character(found))
    } else {
        return Ok(text.to_owned());
    };
    Err(complaint(
        format!("`{}` cannot be a value of `{key}`", excerpt(text)),
        label,
        format!("write a name in one line, for example `{example}`"),
    ))
}

/// A path from the root.
pub(super) fn absolute_path(
    text: &str,
    help: impl FnOnce() -> String,
) -> Result<PathBuf, Complaint> {
    let path = PathBuf::from(text);
    if path.is_absolute() && !text.contains('\0') {
        return Ok(path);
    }
    Err(complaint(
        format!("`{}` is not an absolute path", excerpt(text)),
        "does not begin with `/`",
        help(),
    ))
}

/// At most 60 characters of a text, for messages.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 60;
    let printable = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    let mut excerpt: String = text.chars().take(LONGEST).map(printable).collect();
    if text.chars().nth(LONGEST).is_some() {
        excerpt.push('…');
    }
    excerpt
}

fn character(found: char) -> String {
    match found {
        ' ' => "a space".to_owned(),
        '\t' => "a tab".to_owned(),
        c if c.is_control() || c.is_whitespace() => format!("the character U+{:04X}", c as u32),
        'A'..='Z' => format!("the capital letter `{found}`"),
        c => format!("the character `{c}`"),
    }
}
