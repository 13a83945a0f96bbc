//! Host names: the texts that are accepted as one.
//!
//! Everything that is shown as the name of a party goes through here, so that octets of a
//! connection can never become markup, a control sequence or a label that looks like another one.

use std::net::Ipv6Addr;

/// The longest host name, in bytes, without the dot at its end. DNS has 253 (RFC 1035, section 2.3.4: 255
/// on the wire); servers that compare a name as text take those two bytes more, by which a name would go
/// unread.
pub const MAX_NAME: usize = 255;

/// The longest label, in octets (RFC 1035, section 2.3.4).
pub const MAX_LABEL: usize = 63;

/// The host name that the bytes say, in lower case, without a port and without a dot at its end.
///
/// A name has 1 to [`MAX_NAME`] bytes, in labels of 1 to [`MAX_LABEL`] letters, digits, hyphens
/// and underscores. Real names do begin and end labels with hyphens and use underscores, so the
/// stricter rule of RFC 952 is not asked for. A port of one to five digits behind a colon is no part
/// of it: servers that find one in the place of a bare name read it so. An IPv4 or IPv6 address as
/// text, the latter also in brackets, is taken too, although RFC 6066 forbids it: it is what was
/// said. The address comes out in its shortest form (RFC 5952) and without brackets.
///
/// `None` for everything else: control characters, spaces, anything beyond ASCII (an international
/// name is its `xn--` form on the wire), empty labels, a URL.
pub fn host(octets: &[u8]) -> Option<String> {
    if let Some(address) = ipv6(octets) {
        return Some(address);
    }
    let octets = without_port(octets);
    if octets.contains(&b':') {
        return ipv6(octets);
    }
    let name = octets.strip_suffix(b".").unwrap_or(octets);
    if name.is_empty() || name.len() > MAX_NAME {
        return None;
    }
    let mut label = 0;
    for octet in name {
        match octet {
            b'.' if label > 0 => label = 0,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' if label < MAX_LABEL => {
                label += 1;
            }
            _ => return None,
        }
    }
    if label == 0 {
        return None;
    }
    let mut name = String::from_utf8(name.to_vec()).ok()?;
    name.make_ascii_lowercase();
    Some(name)
}

/// The host and the port that an authority names (RFC 3986, section 3.2): the value of a `Host` field
/// or of `:authority`, or that part of a URL. As servers do that read any of these forms, it passes over
/// user information and takes an empty port for none. With a blank inside it is no authority, and names nothing.
pub(super) fn authority(bytes: &[u8]) -> (Option<String>, Option<u16>) {
    const LONGEST_PORT: usize = 5;
    if bytes.iter().any(u8::is_ascii_whitespace) {
        return (None, None);
    }
    let user = bytes.iter().rposition(|byte| *byte == b'@');
    let bytes = user.map_or(bytes, |place| &bytes[place + 1..]);
    let (name, port) = match bytes.iter().rposition(|byte| *byte == b':') {
        // An IPv6 address is in brackets (RFC 3986, section 3.2.2). Where it is not, it is taken
        // whole: which of its colons would be the port's, nobody can tell.
        Some(place) if bytes[..place].contains(&b':') && !bytes[..place].ends_with(b"]") => {
            (bytes, &[][..])
        }
        Some(place) => (&bytes[..place], &bytes[place + 1..]),
        None => (bytes, &[][..]),
    };
    let is_port = port.len() <= LONGEST_PORT && port.iter().all(u8::is_ascii_digit);
    match host(name).filter(|_| is_port) {
        Some(host) => {
            let port = str::from_utf8(port).ok().and_then(|port| port.parse().ok());
            (Some(host), port)
        }
        None => (None, None),
    }
}

/// The part before the port, if there is one.
fn without_port(octets: &[u8]) -> &[u8] {
    const LONGEST_PORT: usize = 5;
    let digits = octets
        .iter()
        .rev()
        .take_while(|octet| octet.is_ascii_digit())
        .count();
    match octets[..octets.len() - digits].strip_suffix(b":") {
        Some(name) if (1..=LONGEST_PORT).contains(&digits) => name,
        _ => octets,
    }
}

fn ipv6(octets: &[u8]) -> Option<String> {
    let bare = octets
        .strip_prefix(b"[")
        .and_then(|rest| rest.strip_suffix(b"]"))
        .unwrap_or(octets);
    let address: Ipv6Addr = std::str::from_utf8(bare).ok()?.parse().ok()?;
    Some(address.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(octets: impl AsRef<[u8]>) -> Option<String> {
        host(octets.as_ref())
    }

    #[test]
    fn names_come_out_in_lower_case_without_the_last_dot() {
        for (octets, name) in [
            ("example.com", "example.com"),
            ("WWW.Example.COM.", "www.example.com"),
            ("localhost", "localhost"),
            ("a", "a"),
            ("_dns.resolver.arpa", "_dns.resolver.arpa"),
            (
                "r3---sn-4g5e6nl7.googlevideo.com",
                "r3---sn-4g5e6nl7.googlevideo.com",
            ),
            ("-x-.example", "-x-.example"),
            ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
            ("127.0.0.1", "127.0.0.1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("[::1]", "::1"),
            ("[::1]:443", "::1"),
            ("2001:db8::1:443", "2001:db8::1:443"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("Example.com:443", "example.com"),
            ("example.com.:65535", "example.com"),
            ("nas:1", "nas"),
        ] {
            assert_eq!(said(octets).as_deref(), Some(name), "{octets}");
        }
    }

    #[test]
    fn garbage_is_no_name() {
        for octets in [
            &b""[..],
            b".",
            b"..",
            b".example.com",
            b"a..b",
            b"a.b..",
            b"a b",
            b"a\0b",
            b"a\nb.com",
            b"\x1b[31mred",
            b"m\xc3\xbcnchen.de",
            b"\xff\xfe",
            b"http://example.com",
            b"example.com:",
            b"example.com:443.",
            b"example.com:123456",
            b"example.com:http",
            b"example.com:80:443",
            b":443",
            b".:443",
            b"user@example.com",
            b"*.example.com",
            b"<script>",
            b"[::1",
            b"::g",
            b"fe80::1%eth0",
        ] {
            assert_eq!(said(octets), None, "{octets:?}");
        }
    }

    #[test]
    fn the_lengths_are_bounded() {
        let label = "a".repeat(MAX_LABEL);
        assert!(said(&label).is_some());
        assert_eq!(said(format!("{label}a")), None);
        let longest = format!("{label}.{label}.{label}.{label}");
        assert_eq!(longest.len(), MAX_NAME);
        assert_eq!(said(&longest).as_deref(), Some(longest.as_str()));
        assert_eq!(said(format!("{longest}.")), Some(longest.clone()));
        assert_eq!(said(format!("{longest}a")), None);
    }

    proptest! {
        #[test]
        fn a_name_is_its_own_name(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(name) = host(&octets) {
                prop_assert!(name.len() <= MAX_NAME);
                prop_assert!(name.bytes().all(|octet| octet.is_ascii_graphic()));
                prop_assert_eq!(host(name.as_bytes()), Some(name.clone()));
                let with_port = [name.as_bytes(), b":443"].concat();
                prop_assert!(name.contains(':') || host(&with_port) == Some(name));
            }
        }
    }
}
