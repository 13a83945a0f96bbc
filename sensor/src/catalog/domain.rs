//! The domain that somebody registered, by the public suffix list.

use std::net::IpAddr;

/// The longest name in octets, without the final dot (RFC 1035, section 2.3.4: 255 octets on the
/// wire, of which one is the first length and one the root).
pub const LONGEST_NAME: usize = 253;

/// Whether a name is another, or below it.
pub fn is_at_or_below(name: &str, above: &str) -> bool {
    let Some(rest) = name.strip_suffix(above) else {
        return false;
    };
    rest.is_empty() || rest.ends_with('.')
}

/// The public suffix of a name and one label more: `bbc.co.uk` of `www.bbc.co.uk`. The case is the
/// argument's own, and a final dot is cut off.
///
/// The private part of the list counts: the owner of `alice.github.io` is Alice. A suffix that is
/// not in the list has one label, as the list's rule `*` says: `printer.lan` stays as it is.
///
/// `None` for an address, for a name that is itself a public suffix, and for what is no name.
pub fn registrable(name: &str) -> Option<&str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > LONGEST_NAME || name.split('.').any(str::is_empty) || is_address(name) {
        return None;
    }
    // `psl` compares octets with a list in lower case: of `WWW.Example.CO.UK` it would give
    // `CO.UK`.
    let mut lower = [0; LONGEST_NAME];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    let length = psl::domain(lower)?.as_bytes().len();
    name.get(name.len().checked_sub(length)?..)
}

fn is_address(name: &str) -> bool {
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(name: &str, expected: Option<&str>) {
        assert_eq!(registrable(name), expected, "{name}");
    }

    #[test]
    fn names_and_what_was_registered() {
        check("example.com", Some("example.com"));
        check("sa.api.intl.miui.com", Some("miui.com"));
        check("www.bbc.co.uk", Some("bbc.co.uk"));
        check("WWW.Example.CO.UK", Some("Example.CO.UK"));
        check("www.example.com.", Some("example.com"));
        check("alice.github.io", Some("alice.github.io"));
        check("www.alice.github.io", Some("alice.github.io"));
        check("www.ck", Some("www.ck"));
        check("b.kawasaki.jp", None);
        check("x.a.b.kawasaki.jp", Some("a.b.kawasaki.jp"));
        check("city.kawasaki.jp", Some("city.kawasaki.jp"));
        check("a.xn--55qx5d.cn", Some("a.xn--55qx5d.cn"));
        check("_dmarc.example.org", Some("example.org"));
        check("printer.lan", Some("printer.lan"));
        check("a.printer.lan", Some("printer.lan"));
    }

    #[test]
    fn what_nobody_registered() {
        for name in [
            "",
            ".",
            "..",
            "com",
            "COM",
            "co.uk",
            "github.io",
            "localhost",
            "192.0.2.1",
            "192.0.2.1.",
            "2001:db8::1",
            "[2001:db8::1]",
            ".example.com",
            "a..example.com",
            "example.com..",
        ] {
            check(name, None);
        }
        let longest = format!("{}.com", "a.".repeat(124) + "b");
        assert_eq!(longest.len(), LONGEST_NAME);
        check(&longest, Some("b.com"));
        check(&format!("a{longest}"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_has_a_domain_at_its_end_or_none(text in "\\PC{0,40}|([a-z0-9é-]{0,8}\\.){0,6}(uk|com|jp)?") {
            if let Some(domain) = registrable(&text) {
                prop_assert!(text.trim_end_matches('.').ends_with(domain));
                prop_assert!(domain.contains('.'));
                prop_assert_eq!(registrable(domain), Some(domain));
            }
        }
    }
}
