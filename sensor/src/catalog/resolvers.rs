//! Why the other side of a flow has no name.

use std::{collections::HashMap, net::IpAddr};

use sensor_ebpf::parse::protocol;

use super::lists::{Category, Lists};

/// Why a flow has no name. The [name](Self::name) is the metric label `reason`.
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
pub enum Hidden {
    /// Its ClientHello is encrypted (ECH): the name that it shows is not the one that is meant.
    Ech,
    /// It asks a resolver in a way that nobody else can read.
    EncryptedDns,
    /// It is a tunnel, which may carry anything.
    Vpn,
    /// No name was asked for or shown; the address alone was known.
    #[strum(serialize = "plain-address")]
    Address,
    /// It has not shown enough yet.
    #[strum(serialize = "not-yet-seen")]
    Unseen,
}

impl Hidden {
    /// The metric label.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// DNS over TLS and over QUIC (RFC 7858, section 3.1; RFC 9250, section 4.1.1).
const DNS_OVER_TLS: u16 = 853;

/// Where a resolver's address gives encrypted answers: HTTPS, TLS, and QUIC of before it had a port
/// of its own.
const ENCRYPTED_PORTS: [u16; 3] = [443, DNS_OVER_TLS, 8853];

/// The ports at which the same servers answer in the clear: DNS, HTTP, mDNS.
const CLEAR_PORTS: [u16; 3] = [53, 80, 5353];

/// The kind of a resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Answers over TLS, HTTPS or QUIC.
    Encrypted,
    /// Carries more than DNS, from a device to anywhere.
    Relay,
    /// Answers in the clear alone.
    Plain,
}

/// The known resolvers, by name and by address.
#[derive(Clone, Debug, Default)]
pub struct Resolvers {
    /// In lower case; each stands for all names below it too.
    names: HashMap<Box<str>, Kind>,
    addresses: HashMap<IpAddr, Kind>,
}

impl Resolvers {
    /// Those of `deploy/lists/resolvers.txt`, which the program carries.
    pub fn builtin() -> Self {
        const TEXT: &str = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../deploy/lists/resolvers.txt"
        ));
        let mut resolvers = Self::default();
        let mut kind = Kind::Encrypted;
        for line in TEXT.lines() {
            match line.strip_prefix("# kind: ") {
                Some("encrypted") => kind = Kind::Encrypted,
                Some("relay") => kind = Kind::Relay,
                Some("plain") => kind = Kind::Plain,
                _ if line.is_empty() || line.starts_with('#') => {}
                _ => match line.parse::<IpAddr>() {
                    Ok(address) => {
                        resolvers.addresses.insert(address, kind);
                    }
                    Err(_) => {
                        resolvers.names.insert(line.into(), kind);
                    }
                },
            }
        }
        resolvers
    }

    /// Adds the entries of lists in the category `dns-bypass`, as resolvers that answer encrypted if they are
    /// asked at such a port. Known resolvers keep their kind.
    pub fn add(&mut self, lists: &Lists) {
        let is_bypass = |category: Option<Category>| category == Some(Category::DnsBypass);
        lists.each_name(|entry| {
            if is_bypass(entry.listed.category) {
                self.names
                    .entry(entry.what.into())
                    .or_insert(Kind::Encrypted);
            }
        });
        for entry in lists
            .addresses()
            .filter(|entry| is_bypass(entry.listed.category))
        {
            self.addresses.entry(entry.what).or_insert(Kind::Encrypted);
        }
    }

    /// The names of resolvers that answer encrypted, each with what is below it, in no order.
    pub fn encrypted_names(&self) -> impl Iterator<Item = &str> {
        let names = self.names.iter();
        names
            .filter(|(_, kind)| **kind == Kind::Encrypted)
            .map(|(name, _)| &**name)
    }

    /// The addresses of resolvers that answer encrypted, in no order.
    pub fn encrypted_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let addresses = self.addresses.iter();
        addresses
            .filter(|(_, kind)| **kind == Kind::Encrypted)
            .map(|(address, _)| *address)
    }

    /// Whether a flow asks a resolver in a way that nobody else can read: by TCP or UDP, at port
    /// 853, or to a resolver known by its name (in any case), or by its address at 443, 853 or
    /// 8853. `name` is what the flow showed or was asked for, `protocol` IANA's number, `port` the
    /// remote one.
    pub fn is_encrypted_dns(
        &self,
        name: Option<&str>,
        remote: IpAddr,
        protocol: u8,
        port: u16,
    ) -> bool {
        if !has_ports(protocol) {
            return false;
        }
        if port == DNS_OVER_TLS {
            return true;
        }
        let by_name = !CLEAR_PORTS.contains(&port)
            && name.and_then(|name| self.kind_of(name)) == Some(Kind::Encrypted);
        by_name
            || (ENCRYPTED_PORTS.contains(&port)
                && self.addresses.get(&remote.to_canonical()) == Some(&Kind::Encrypted))
    }

    /// Whether a flow goes into a relay that is known by its name (iCloud Private Relay): a tunnel,
    /// whatever it looks like.
    pub fn is_relay(&self, name: Option<&str>, protocol: u8, port: u16) -> bool {
        has_ports(protocol)
            && !CLEAR_PORTS.contains(&port)
            && name.and_then(|name| self.kind_of(name)) == Some(Kind::Relay)
    }

    /// The kind of the longest known name that is this one or above it.
    fn kind_of(&self, name: &str) -> Option<Kind> {
        let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let mut rest = lower.as_str();
        loop {
            if let Some(kind) = self.names.get(rest) {
                return Some(*kind);
            }
            rest = rest.split_once('.')?.1;
        }
    }
}

const fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP)
}

#[cfg(test)]
mod tests {
    use super::{super::lists::About, *};

    const ELSEWHERE: &str = "198.51.100.1";

    fn check(name: Option<&str>, remote: &str, protocol: u8, port: u16, expected: bool) {
        let remote = remote.parse().expect("an address");
        let is = Resolvers::builtin().is_encrypted_dns(name, remote, protocol, port);
        assert_eq!(is, expected, "{name:?} {remote} {protocol}/{port}");
    }

    #[test]
    fn by_name() {
        for name in [
            "dns.google",
            "DNS.Google.",
            "mozilla.cloudflare-dns.com",
            "chrome.cloudflare-dns.com",
            "abc123.dns.nextdns.io",
            "dns.alidns.com",
            "doh.pub",
        ] {
            check(Some(name), ELSEWHERE, protocol::TCP, 443, true);
            check(Some(name), ELSEWHERE, protocol::UDP, 443, true);
            check(Some(name), ELSEWHERE, protocol::TCP, 8443, true);
            // A name that was learned from an answer belongs to every flow to that address.
            check(Some(name), ELSEWHERE, protocol::UDP, 53, false);
            check(Some(name), ELSEWHERE, protocol::TCP, 80, false);
            check(Some(name), ELSEWHERE, protocol::ICMP, 0, false);
        }
        for name in [
            "google",
            "notdns.google",
            "www.google.com",
            "mask.icloud.com",
            "",
        ] {
            check(Some(name), ELSEWHERE, protocol::TCP, 443, false);
        }
    }

    #[test]
    fn by_address() {
        for remote in [
            "8.8.8.8",
            "::ffff:8.8.4.4",
            "2001:4860:4860::8888",
            "1.1.1.1",
            "9.9.9.9",
            "94.140.14.14",
            "223.5.5.5",
            "119.29.29.29",
        ] {
            for port in [443, 853, 8853] {
                check(None, remote, protocol::TCP, port, true);
                check(None, remote, protocol::UDP, port, true);
            }
            check(None, remote, protocol::UDP, 53, false);
            check(None, remote, protocol::TCP, 80, false);
            check(None, remote, protocol::ICMPV6, 443, false);
        }
        check(None, "114.114.114.114", protocol::TCP, 443, false);
        check(None, "240c::6666", protocol::UDP, 53, false);
        check(None, ELSEWHERE, protocol::TCP, 443, false);
    }

    #[test]
    fn by_port() {
        check(None, ELSEWHERE, protocol::TCP, 853, true);
        check(Some("example.com"), ELSEWHERE, protocol::UDP, 853, true);
        check(None, ELSEWHERE, protocol::ICMP, 853, false);
        check(None, ELSEWHERE, protocol::UDP, 8853, false);
        let none = Resolvers::default();
        let remote = "8.8.8.8".parse().expect("an address");
        assert!(none.is_encrypted_dns(None, remote, protocol::TCP, 853));
        assert!(!none.is_encrypted_dns(Some("dns.google"), remote, protocol::TCP, 443));
    }

    #[test]
    fn relays() {
        let resolvers = Resolvers::builtin();
        let is_relay = |name, protocol, port| resolvers.is_relay(Some(name), protocol, port);
        assert!(is_relay("mask.icloud.com", protocol::UDP, 443));
        assert!(is_relay("Mask-H2.icloud.com", protocol::TCP, 443));
        assert!(!is_relay("mask.icloud.com", protocol::UDP, 53));
        assert!(!is_relay("icloud.com", protocol::TCP, 443));
        assert!(!is_relay("dns.google", protocol::TCP, 443));
        assert!(!resolvers.is_relay(None, protocol::TCP, 443));
    }

    #[test]
    fn lists_add_resolvers() {
        let mut lists = Lists::builtin();
        let text = "# category: dns-bypass\ndoh.example.com\n192.0.2.53\n114.114.114.114\n";
        lists
            .add(About::default(), text.as_bytes())
            .expect("octets in memory");
        let mut resolvers = Resolvers::builtin();
        resolvers.add(&lists);
        let check = |name, remote: &str, expected| {
            let remote = remote.parse().expect("an address");
            let is = resolvers.is_encrypted_dns(name, remote, protocol::TCP, 443);
            assert_eq!(is, expected, "{name:?} {remote}");
        };
        check(Some("doh.example.com"), ELSEWHERE, true);
        check(Some("example.com"), ELSEWHERE, false);
        check(None, "192.0.2.53", true);
        check(None, "114.114.114.114", false);
        check(Some("mask.icloud.com"), ELSEWHERE, false);
        check(Some("tracking.miui.com"), ELSEWHERE, false);
    }
}
