//! The suggestions of a device's DHCP client: its vendor class, and its list of requested parameters, which few
//! systems have in common.

use super::{
    clue::{Clue, Hint},
    product,
};
use crate::model::Kind::{Computer, Iot, Phone, Router, Tv};

/// Option 60 (RFC 2132, section 9.13) or the text of option 16 of DHCPv6.
pub(super) fn vendor_class(class: &str) -> Clue {
    let lower = class.to_lowercase();
    if let Some(version) = lower.strip_prefix("android-dhcp-") {
        let hint = Hint::new().kind(Phone, 0.5).system("Android", 0.95);
        let version: String = version.chars().take_while(char::is_ascii_digit).collect();
        return Clue {
            version: (!version.is_empty()).then_some(version),
            ..hint.into()
        };
    }
    // HUAWEI:android:VOG, HONOR:android:…
    if let Some((maker, rest)) = class.split_once(":android") {
        let mut hint = Hint::new().kind(Phone, 0.75).system("Android", 0.95);
        if let Some(maker) = product::maker(maker) {
            hint = hint.vendor(maker, 0.95);
        }
        let model = rest.trim_start_matches(':');
        return Clue {
            model: (!model.is_empty()).then(|| (model.to_owned(), 0.7)),
            ..hint.into()
        };
    }
    if lower.starts_with("dhcpcd") {
        return dhcpcd(&lower).into();
    }
    let found = CLASSES.iter().find(|(start, _)| lower.starts_with(start));
    found.map(|(_, hint)| *hint).unwrap_or_default().into()
}

/// `dhcpcd-6.8.2:Linux-4.9.65:aarch64:MT6765`: the client, the kernel, the machine.
fn dhcpcd(class: &str) -> Hint {
    let names = |words: &[&str]| words.iter().any(|word| class.contains(word));
    if names(&["bcm27", "bcm28", "raspberry"]) {
        return Hint::new()
            .kind(Computer, 0.75)
            .vendor("Raspberry Pi", 0.8)
            .system("Linux", 0.9);
    }
    if names(&["qualcomm", "exynos", "kirin", "hi36", ":mt6", ":mt8"]) {
        return Hint::new().kind(Phone, 0.6).system("Android", 0.8);
    }
    // The last releases that Android carried, before it had a client of its own in version 6.
    if ["dhcpcd-5.2.10", "dhcpcd-5.5.6"].contains(&class) {
        return Hint::new().kind(Phone, 0.5).system("Android", 0.7);
    }
    Hint::new().system("Linux", 0.6)
}

/// How vendor classes begin, in lower case.
#[rustfmt::skip]
const CLASSES: &[(&str, Hint)] = &[
    ("msft 5.0 xbox", Hint::new().kind(Iot, 0.9).vendor("Microsoft", 0.95)),
    ("msft ", Hint::new().kind(Computer, 0.8).system("Windows", 0.95)),
    ("aaplbsdpc", Hint::new().kind(Computer, 0.9).vendor("Apple", 0.95).system("macOS", 0.7)),
    ("pxeclient", Hint::new().kind(Computer, 0.6)),
    ("udhcp", Hint::new().kind(Iot, 0.3).system("Linux", 0.7)),
    ("systemd", Hint::new().system("Linux", 0.9)),
    ("anaconda-linux", Hint::new().kind(Computer, 0.8).system("Linux", 0.9)),
    ("roku", Hint::new().kind(Tv, 0.9).vendor("Roku", 0.95)),
    ("ps3", Hint::new().kind(Iot, 0.9).vendor("Sony", 0.95)),
    ("ps4", Hint::new().kind(Iot, 0.9).vendor("Sony", 0.95)),
    ("ps vita", Hint::new().kind(Iot, 0.9).vendor("Sony", 0.95)),
    ("cisco systems, inc. ip phone", Hint::new().kind(Iot, 0.9).vendor("Cisco", 0.95)),
    ("cisco ap", Hint::new().kind(Router, 0.9).vendor("Cisco", 0.95)),
    ("yealink", Hint::new().kind(Iot, 0.85).vendor("Yealink", 0.95)),
    ("polycom", Hint::new().kind(Iot, 0.85).vendor("Polycom", 0.95)),
    ("snom", Hint::new().kind(Iot, 0.85).vendor("Snom", 0.95)),
    ("avaya", Hint::new().kind(Iot, 0.8).vendor("Avaya", 0.95)),
    ("gigaset", Hint::new().kind(Iot, 0.8).vendor("Gigaset", 0.95)),
    ("hewlett-packard jetdirect", Hint::new().kind(Iot, 0.95).vendor("HP", 0.95)),
    ("hewlett-packard officejet", Hint::new().kind(Iot, 0.95).vendor("HP", 0.95)),
    ("mfg=hewlett packard;typ=printer", Hint::new().kind(Iot, 0.95).vendor("HP", 0.95)),
    ("canon", Hint::new().kind(Iot, 0.8).vendor("Canon", 0.9)),
    ("epson", Hint::new().kind(Iot, 0.8).vendor("Epson", 0.9)),
    ("brother", Hint::new().kind(Iot, 0.8).vendor("Brother", 0.9)),
    ("ubnt", Hint::new().kind(Router, 0.7).vendor("Ubiquiti", 0.95)),
    ("arubaap", Hint::new().kind(Router, 0.9).vendor("Aruba", 0.95)),
    ("arubainstantap", Hint::new().kind(Router, 0.9).vendor("Aruba", 0.95)),
    ("ruckus cpe", Hint::new().kind(Router, 0.9).vendor("Ruckus", 0.95)),
    ("avm fritz", Hint::new().kind(Router, 0.8).vendor("AVM", 0.95)),
    ("mikrotik", Hint::new().kind(Router, 0.8).vendor("MikroTik", 0.9)),
    ("dslforum.org", Hint::new().kind(Router, 0.8)),
    ("docsis", Hint::new().kind(Router, 0.8)),
];

/// A list of parameters (option 55) and who asks so.
///
/// A list that is known counts in full. One that differs by a single parameter, put in or left
/// out by a maker, counts half. Short lists are of too many to be guessed.
pub(super) fn parameters(list: &[u8]) -> Clue {
    let known = |(other, ..): &&(&[u8], Hint, Option<&str>)| *other == list;
    let close = |(other, ..): &&(&[u8], Hint, Option<&str>)| {
        list.len() >= 6 && (is_one_more(list, other) || is_one_more(other, list))
    };
    let (hint, version) = match LISTS.iter().find(known) {
        Some((_, hint, version)) => (*hint, *version),
        None => match LISTS.iter().find(close) {
            Some((_, hint, _)) => (hint.times(0.5), None),
            None => return Clue::default(),
        },
    };
    Clue {
        version: version.map(str::to_owned),
        ..hint.into()
    }
}

/// The longer list is the shorter one with a single parameter put in.
fn is_one_more(longer: &[u8], shorter: &[u8]) -> bool {
    if longer.len() != shorter.len() + 1 {
        return false;
    }
    let same = longer
        .iter()
        .zip(shorter)
        .take_while(|(a, b)| a == b)
        .count();
    longer[same + 1..] == shorter[same..]
}

const fn android(weight: f32) -> Hint {
    Hint::new().kind(Phone, 0.4).system("Android", weight)
}

const APPLE: Hint = Hint::new().vendor("Apple", 0.85);

const fn mac(weight: f32) -> Hint {
    APPLE.kind(Computer, 0.7).system("macOS", weight)
}

const fn windows(weight: f32) -> Hint {
    Hint::new().kind(Computer, 0.7).system("Windows", weight)
}

const fn linux(weight: f32) -> Hint {
    Hint::new().kind(Computer, 0.4).system("Linux", weight)
}

/// Lists in the order in which they are asked, whose they are, and since or until which version.
#[rustfmt::skip]
const LISTS: &[(&[u8], Hint, Option<&str>)] = &[
    // Android's own client; the later parameters are captive portal (RFC 8910) and IPv6-only
    // preferred (RFC 8925).
    (&[1, 3, 6, 15, 26, 28, 51, 58, 59, 43, 114, 108], android(0.9), Some("12 or later")),
    (&[1, 3, 6, 15, 26, 28, 51, 58, 59, 43, 114], android(0.9), Some("11 or later")),
    (&[1, 3, 6, 15, 26, 28, 51, 58, 59, 43], android(0.9), Some("6 to 10")),
    (&[1, 3, 6, 15, 26, 28, 51, 58, 59], android(0.7), Some("6 to 10")),
    // Android with dhcpcd.
    (&[1, 33, 3, 6, 15, 26, 28, 51, 58, 59], android(0.8), Some("4 to 6")),
    (&[1, 33, 3, 6, 15, 28, 51, 58, 59], android(0.8), Some("2 to 5")),
    (&[1, 121, 33, 3, 6, 15, 28, 51, 58, 59, 119], android(0.5), Some("4 or earlier")),
    (&[1, 121, 33, 3, 6, 28, 51, 58, 59], android(0.6), Some("4 or earlier")),
    // iPhones and iPads; Macs ask so too since version 14.
    (&[1, 121, 3, 6, 15, 108, 114, 119, 252], APPLE.system("iOS", 0.5).kind(Phone, 0.4), None),
    (&[1, 121, 3, 6, 15, 114, 119, 252], APPLE.system("iOS", 0.6).kind(Phone, 0.45), None),
    (&[1, 121, 3, 6, 15, 119, 252], APPLE.system("iOS", 0.7).kind(Phone, 0.5), None),
    (&[1, 3, 6, 15, 119, 252], APPLE.system("iOS", 0.7).kind(Phone, 0.45), Some("7 or earlier")),
    // Macs: NetBIOS at the end.
    (&[1, 121, 3, 6, 15, 108, 114, 119, 252, 95, 44, 46], mac(0.8), Some("12 or later")),
    (&[1, 121, 3, 6, 15, 114, 119, 252, 95, 44, 46], mac(0.8), Some("11 or later")),
    (&[1, 121, 3, 6, 15, 119, 252, 95, 44, 46], mac(0.8), None),
    (&[1, 3, 6, 15, 119, 95, 252, 44, 46, 47], mac(0.8), None),
    (&[1, 3, 6, 15, 119, 95, 252, 44, 46], mac(0.8), None),
    (&[1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 119, 121, 249, 252], windows(0.95), Some("10 or later")),
    (&[1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 121, 249, 252], windows(0.85), Some("10 or later")),
    (&[1, 15, 3, 6, 44, 46, 47, 31, 33, 121, 249, 252, 43], windows(0.9), Some("8")),
    (&[1, 15, 3, 6, 44, 46, 47, 31, 33, 121, 249, 43, 252], windows(0.9), Some("7 or 8")),
    (&[1, 15, 3, 6, 44, 46, 47, 31, 33, 121, 249, 43], windows(0.9), Some("Vista or 7")),
    (&[1, 15, 3, 6, 44, 46, 47, 31, 33, 249, 43, 252], windows(0.85), Some("XP")),
    (&[1, 15, 3, 6, 44, 46, 47, 31, 33, 249, 43], windows(0.85), Some("XP")),
    (&[1, 15, 3, 6, 44, 46, 47, 31, 33, 43], windows(0.8), Some("2000")),
    // NetworkManager's own client, and the one of ISC with its configuration.
    (&[1, 2, 6, 12, 15, 26, 28, 121, 3, 33, 40, 41, 42, 119, 249, 252, 17], linux(0.9), None),
    (&[1, 28, 2, 121, 15, 6, 12, 40, 41, 42, 26, 119, 3, 121, 249, 252, 42], linux(0.85), None),
    (&[1, 28, 2, 121, 15, 6, 12, 40, 41, 42, 26, 119, 3, 121, 249, 33, 252, 42], linux(0.85), None),
    // ISC dhclient as Debian and Ubuntu configure it, and as it comes.
    (&[1, 28, 2, 3, 15, 6, 119, 12, 44, 47, 26, 121, 42], linux(0.85), None),
    (&[1, 28, 2, 3, 15, 6, 119, 12, 44, 47, 26, 121, 42, 121, 249, 33, 252, 42], linux(0.85), None),
    (&[1, 28, 2, 3, 15, 6, 12], linux(0.5), None),
    // systemd-networkd.
    (&[1, 3, 6, 12, 15, 26, 33, 42, 119, 120, 121], linux(0.6), None),
    (&[1, 3, 12, 15, 6, 33, 121, 42], linux(0.6), None),
    (&[1, 3, 12, 15, 6, 26, 33, 121, 42], linux(0.6), None),
    // dhcpcd as it comes.
    (&[1, 121, 33, 3, 6, 12, 15, 26, 28, 42, 51, 54, 58, 59, 119], linux(0.7), None),
    (&[1, 3, 6, 12, 15, 26, 28, 33, 42, 51, 54, 58, 59, 119, 121], linux(0.6), None),
    (&[1, 121, 33, 3, 6, 12, 15, 26, 28, 51, 54, 58, 59, 119, 252], Hint::new().kind(Computer, 0.5).system("ChromeOS", 0.6), None),
    // BusyBox udhcpc: things, and routers.
    (&[1, 3, 6, 12, 15, 28, 42], Hint::new().kind(Iot, 0.3).system("Linux", 0.7), None),
    (&[1, 3, 6, 12, 15, 28, 40, 41, 42], Hint::new().kind(Iot, 0.3).system("Linux", 0.6), None),
    (&[1, 3, 6, 12, 15, 17, 28, 40, 41, 42], Hint::new().kind(Iot, 0.3).system("Linux", 0.6), None),
    // lwIP, and Espressif's older libraries that are made of it.
    (&[1, 3, 28, 6, 15, 44, 46, 47, 31, 33, 121, 43], Hint::new().kind(Iot, 0.85).vendor("Espressif", 0.6), None),
    (&[1, 3, 28, 6, 42], Hint::new().kind(Iot, 0.7), None),
    (&[1, 3, 28, 6], Hint::new().kind(Iot, 0.75), None),
    // Consoles and printers.
    (&[1, 3, 6, 15, 28, 33], Hint::new().kind(Iot, 0.7).vendor("Nintendo", 0.7), None),
    (&[1, 3, 15, 6], Hint::new().kind(Iot, 0.5).vendor("Sony", 0.4), None),
    (&[6, 3, 1, 15, 66, 67, 13, 44, 12, 81, 252], Hint::new().kind(Iot, 0.85).vendor("HP", 0.8), None),
    (&[6, 3, 1, 15, 66, 67, 13, 44, 119, 12, 81, 252], Hint::new().kind(Iot, 0.85).vendor("HP", 0.8), None),
];

/// A private enterprise number (IANA): who wrote the client, or sold the device.
pub(super) fn enterprise(number: u32) -> Clue {
    let found = ENTERPRISES.iter().find(|(known, _)| *known == number);
    found.map(|(_, hint)| *hint).unwrap_or_default().into()
}

#[rustfmt::skip]
const ENTERPRISES: &[(u32, Hint)] = &[
    (9, Hint::new().vendor("Cisco", 0.8)),
    (11, Hint::new().vendor("HP", 0.7)),
    (63, Hint::new().vendor("Apple", 0.8)),
    (236, Hint::new().vendor("Samsung", 0.8)),
    (311, Hint::new().kind(Computer, 0.75).system("Windows", 0.9)),
    (674, Hint::new().vendor("Dell", 0.7)),
    (872, Hint::new().kind(Router, 0.6).vendor("AVM", 0.9)),
    (2011, Hint::new().vendor("Huawei", 0.8)),
    (2636, Hint::new().kind(Router, 0.7).vendor("Juniper", 0.9)),
    (3561, Hint::new().kind(Router, 0.75)),
    (3902, Hint::new().vendor("ZTE", 0.8)),
    (4491, Hint::new().kind(Router, 0.7)),
    (4526, Hint::new().kind(Router, 0.5).vendor("Netgear", 0.85)),
    (11129, Hint::new().vendor("Google", 0.7)),
    (11863, Hint::new().vendor("TP-Link", 0.85)),
    (14823, Hint::new().kind(Router, 0.7).vendor("Aruba", 0.9)),
    (14988, Hint::new().kind(Router, 0.7).vendor("MikroTik", 0.9)),
    (40712, Hint::new().system("Linux", 0.6)),
    (41112, Hint::new().kind(Router, 0.6).vendor("Ubiquiti", 0.9)),
    (43793, Hint::new().system("Linux", 0.9)),
];

/// The DUID of a client identifier (RFC 4361, section 6.1: type 255, four octets of IAID, DUID).
/// It stays the same while the MAC address changes, unless it is made of that address.
pub(super) fn duid(client_id: &[u8]) -> Option<&[u8]> {
    let duid = client_id.strip_prefix(&[255])?.get(4..)?;
    // DUID-LL is the address itself (RFC 8415, section 11.4).
    let is_stable = duid.len() >= 8 && !duid.starts_with(&[0, 3]);
    is_stable.then_some(duid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    fn of(clue: &Clue) -> (Option<Kind>, Option<&str>, Option<&str>, Option<&str>) {
        (
            clue.hint.kind.map(|(kind, _)| kind),
            clue.hint.vendor.map(|(vendor, _)| vendor),
            clue.hint.system.map(|(system, _)| system),
            clue.version.as_deref(),
        )
    }

    #[test]
    fn vendor_classes() {
        let check =
            |class: &str, expected| assert_eq!(of(&vendor_class(class)), expected, "{class}");
        let phone = Some(Phone);
        let computer = Some(Computer);
        check(
            "android-dhcp-13",
            (phone, None, Some("Android"), Some("13")),
        );
        check("android-dhcp-", (phone, None, Some("Android"), None));
        check(
            "HUAWEI:android:VOG",
            (phone, Some("Huawei"), Some("Android"), None),
        );
        check("MSFT 5.0", (computer, None, Some("Windows"), None));
        check("MSFT 5.0 XBOX", (Some(Iot), Some("Microsoft"), None, None));
        check("dhcpcd-5.5.6", (phone, None, Some("Android"), None));
        check(
            "dhcpcd-9.4.1:Linux-6.1.21-v8+:aarch64:BCM2835",
            (computer, Some("Raspberry Pi"), Some("Linux"), None),
        );
        check(
            "dhcpcd-6.8.2:Linux-3.18.31:aarch64:MT6765",
            (phone, None, Some("Android"), None),
        );
        check(
            "dhcpcd-8.1.2:Linux-5.4.0:x86_64:GenuineIntel",
            (None, None, Some("Linux"), None),
        );
        check("udhcp 1.30.1", (Some(Iot), None, Some("Linux"), None));
        check("something else", (None, None, None, None));
        assert_eq!(
            vendor_class("HUAWEI:android:VOG").model,
            Some(("VOG".to_owned(), 0.7))
        );
    }

    #[test]
    fn lists_of_parameters() {
        let check = |list: &[u8], expected| assert_eq!(of(&parameters(list)), expected, "{list:?}");
        // As in the captures android.pcap and iphone.pcap, and those of a Mac and a Wii.
        check(
            &[1, 3, 6, 15, 26, 28, 51, 58, 59, 43],
            (Some(Phone), None, Some("Android"), Some("6 to 10")),
        );
        check(
            &[1, 121, 3, 6, 15, 119, 252],
            (Some(Phone), Some("Apple"), Some("iOS"), None),
        );
        check(
            &[1, 121, 3, 6, 15, 119, 252, 95, 44, 46],
            (Some(Computer), Some("Apple"), Some("macOS"), None),
        );
        check(
            &[1, 3, 6, 15, 119, 95, 252, 44, 46],
            (Some(Computer), Some("Apple"), Some("macOS"), None),
        );
        check(
            &[1, 3, 6, 15, 28, 33],
            (Some(Iot), Some("Nintendo"), None, None),
        );
        // The order counts.
        check(&[252, 119, 15, 6, 3, 121, 1], (None, None, None, None));
        check(&[], (None, None, None, None));
        check(&[1, 3, 6], (None, None, None, None));
    }

    #[test]
    fn a_list_that_differs_by_one_counts_half() {
        let whole = [1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 119, 121, 249, 252];
        let weight = |list: &[u8]| parameters(list).hint.system;
        assert_eq!(weight(&whole), Some(("Windows", 0.95)));
        let mut more = whole.to_vec();
        more.insert(4, 200);
        assert_eq!(weight(&more), Some(("Windows", 0.475)));
        assert_eq!(parameters(&more).version, None);
        more.insert(4, 201);
        assert_eq!(weight(&more), None);
        assert_eq!(weight(&whole[1..]), Some(("Windows", 0.475)));
        // Four parameters and one more are five that anybody may ask for.
        assert_eq!(weight(&[1, 3, 28, 6, 7]), None);
    }

    #[test]
    fn no_list_stands_twice() {
        for (at, (list, ..)) in LISTS.iter().enumerate() {
            assert!(
                !LISTS[..at].iter().any(|(other, ..)| other == list),
                "{list:?}"
            );
        }
    }

    #[test]
    fn stable_identifiers() {
        let check = |id: &[u8], expected: Option<&[u8]>| assert_eq!(duid(id), expected, "{id:?}");
        let uuid = [0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        check(&[&[255, 9, 9, 9, 9], &uuid[..]].concat(), Some(&uuid));
        check(&[1, 2, 3, 4, 5, 6, 7], None);
        check(&[255, 9, 9, 9, 9, 0, 3, 0, 1, 2, 3, 4, 5, 6, 7], None);
        check(&[255, 9, 9, 9], None);
        check(&[], None);
    }
}
