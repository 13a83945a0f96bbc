//! Names that devices give themselves: made fit for people, and read for what they betray.

use super::clue::{Clue, Hint, clean};
use crate::model::Kind::{Computer, Iot, Phone, Router, Tablet, Tv};

/// The longest name for people, in characters; a label of the DNS has at most 63 octets.
pub(super) const MAX_NAME: usize = 64;

/// The name for people: without domain, control characters and the spaces around it. None where
/// nothing is left, or where it names nobody: an address, `localhost`, a number that a browser
/// made up to hide an address (RFC 8828, section 5).
pub(super) fn for_people(text: &str) -> Option<String> {
    let text = clean(text, usize::MAX);
    // A sentence may have dots; a host name has no spaces.
    let first = match text.split_once('.') {
        Some((first, _)) if !text.contains(' ') => first,
        _ => &text,
    };
    let name = clean(first.trim_matches(['.', '"', '\'']), MAX_NAME);
    let is_number = name.bytes().all(|octet| octet.is_ascii_digit());
    let nobody = is_number || is_uuid(&name) || NOBODY.contains(&name.to_lowercase().as_str());
    (!nobody).then_some(name)
}

/// What software calls itself when it has no name.
const NOBODY: &[&str] = &[
    "(none)",
    "*",
    "-",
    "_",
    "dhcpcd",
    "host",
    "hostname",
    "local",
    "localhost",
    "localhost6",
    "n/a",
    "none",
    "null",
    "udhcp",
    "undefined",
    "unknown",
];

/// 8-4-4-4-12 hexadecimal digits (RFC 9562, section 4).
fn is_uuid(name: &str) -> bool {
    let groups = name.split('-');
    let is_group = |(group, length): (&str, usize)| {
        group.len() == length && group.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    groups.clone().count() == 5 && groups.zip([8, 4, 4, 4, 12]).all(is_group)
}

/// What a name suggests, beside itself.
pub(super) fn clue(name: &str) -> Clue {
    let lower = name.to_lowercase();
    let found = PATTERNS.iter().find(|(place, _)| place.is_in(&lower));
    let mut clue = Clue::from(found.map(|(_, hint)| *hint).unwrap_or_default());
    let is_number =
        name.bytes().any(|c| c.is_ascii_digit()) && !name.bytes().any(|c| c.is_ascii_lowercase());
    let common = is_common(&lower);
    if let Some(product) = super::product::android(name).filter(|_| is_number) {
        // A phone without a name of its own is called by its number: SM-G991B.
        clue.hint = clue.hint.or(product.times(0.9));
        clue.model = Some((name.to_owned(), 0.6));
    } else if common && clue.hint.vendor.is_some() && name.bytes().any(|c| c.is_ascii_digit()) {
        // Or by its product: Redmi-Note-8.
        clue.model = Some((name.replace(['-', '_'], " "), 0.5));
    }
    let certainty = if common { 0.3 } else { 0.9 };
    clue.name = Some((name.to_owned(), certainty));
    clue
}

/// Many devices are called so: the name of a product, not of one device.
pub(super) fn is_common(name: &str) -> bool {
    let lower = name.to_lowercase();
    if lower.is_empty() || NOBODY.contains(&lower.as_str()) {
        return true;
    }
    let mut words = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    // The number in Android's own names changes with every network, so it names nobody.
    if words.clone().next() == Some("android") {
        return words.count() <= 2;
    }
    // A series and a number: Galaxy-S21, Redmi-Note-8-Pro. A person's name is neither.
    words.all(|word| {
        let is_number = word.len() <= 5 && word.bytes().any(|c| c.is_ascii_digit());
        is_number || PRODUCT_WORDS.contains(&word)
    })
}

/// Words of which the names of products are made.
#[rustfmt::skip]
const PRODUCT_WORDS: &[&str] = &[
    "5g", "4g", "air", "amazon", "appletv", "apple", "armor", "book", "bravia", "chromecast",
    "desktop", "edge", "esp32", "espressif", "fairphone", "find", "fire", "fold", "flip", "fritz",
    "galaxy", "generic", "gt", "home", "honor", "huawei", "imac", "ipad", "iphone", "ipod",
    "kindle", "laptop", "lite", "lumia", "mac", "macbook", "magic", "mate", "max", "mi", "mini",
    "moto", "motorola", "my", "nest", "nexus", "nintendo", "nokia", "nord", "note", "nova",
    "oneplus", "openwrt", "oppo", "p", "pad", "pc", "phone", "pi", "pixel", "plus", "poco",
    "power", "prime", "printer", "pro", "ps", "raspberrypi", "razr", "realme", "redmi", "reno",
    "roku", "router", "samsung", "shield", "smart", "smartphone", "sony", "stick", "switch", "tab",
    "tablet", "tv", "ultra", "vivo", "watch", "wii", "windows", "wlan0", "x", "xbox", "xiaomi",
    "xperia", "xl", "zenfone",
];

/// Where in a name a word is looked for; all in lower case.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Anywhere.
    Within(&'static str),
    /// At the beginning.
    Start(&'static str),
    /// Between characters that are neither letters nor digits.
    Word(&'static str),
    /// At the beginning, then only hexadecimal digits, at least 4.
    Serial(&'static str),
}

impl Place {
    fn is_in(self, name: &str) -> bool {
        match self {
            Self::Within(text) => name.contains(text),
            Self::Start(text) => name.starts_with(text),
            Self::Word(word) => name.match_indices(word).any(|(at, _)| {
                let ends = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
                ends(name[..at].chars().next_back()) && ends(name[at + word.len()..].chars().next())
            }),
            Self::Serial(text) => name.strip_prefix(text).is_some_and(|rest| {
                rest.len() >= 4 && rest.bytes().all(|digit| digit.is_ascii_hexdigit())
            }),
        }
    }
}

const fn phone(vendor: &'static str, weight: f32) -> Hint {
    Hint::new()
        .kind(Phone, weight)
        .vendor(vendor, weight)
        .system("Android", weight)
}

const fn thing(vendor: &'static str, weight: f32) -> Hint {
    Hint::new().kind(Iot, weight).vendor(vendor, weight)
}

const fn apple(system: &'static str) -> Hint {
    Hint::new().vendor("Apple", 0.85).system(system, 0.8)
}

const fn windows(weight: f32) -> Hint {
    Hint::new().kind(Computer, weight).system("Windows", weight)
}

/// The first that fits counts, so a product stands before its maker.
#[rustfmt::skip]
const PATTERNS: &[(Place, Hint)] = {
    use Place::{Serial, Start, Within, Word};
    &[
        (Within("mipad"), phone("Xiaomi", 0.8).kind(Tablet, 0.8)),
        (Within("iphone"), apple("iOS").kind(Phone, 0.85)),
        (Within("ipad"), apple("iOS").kind(Tablet, 0.85)),
        (Within("ipod"), apple("iOS").kind(Phone, 0.5)),
        (Within("macbook"), apple("macOS").kind(Computer, 0.85)),
        (Word("imac"), apple("macOS").kind(Computer, 0.85)),
        (Within("mac-mini"), apple("macOS").kind(Computer, 0.85)),
        (Within("macmini"), apple("macOS").kind(Computer, 0.85)),
        (Within("mac-studio"), apple("macOS").kind(Computer, 0.85)),
        (Within("mac-pro"), apple("macOS").kind(Computer, 0.8)),
        (Within("apple-tv"), Hint::new().kind(Tv, 0.85).vendor("Apple", 0.85).system("tvOS", 0.8)),
        (Within("appletv"), Hint::new().kind(Tv, 0.85).vendor("Apple", 0.85).system("tvOS", 0.8)),
        (Within("apple-watch"), thing("Apple", 0.85)),
        (Within("applewatch"), thing("Apple", 0.85)),
        (Within("homepod"), thing("Apple", 0.85)),
        (Word("mac"), apple("macOS").kind(Computer, 0.6)),

        (Within("galaxy-tab"), phone("Samsung", 0.8).kind(Tablet, 0.85)),
        (Within("galaxy-book"), windows(0.7).vendor("Samsung", 0.8)),
        (Within("galaxy"), phone("Samsung", 0.75)),
        (Within("samsung-tv"), Hint::new().kind(Tv, 0.85).vendor("Samsung", 0.85)),
        (Within("mitv"), Hint::new().kind(Tv, 0.85).vendor("Xiaomi", 0.8)),
        (Within("mibox"), Hint::new().kind(Tv, 0.85).vendor("Xiaomi", 0.8)),
        (Within("redmi-pad"), phone("Xiaomi", 0.8).kind(Tablet, 0.85)),
        (Within("redmibook"), windows(0.6).vendor("Xiaomi", 0.8)),
        (Within("redmi"), phone("Xiaomi", 0.85)),
        (Start("poco"), phone("Xiaomi", 0.8)),
        (Within("xiaomi-pad"), phone("Xiaomi", 0.8).kind(Tablet, 0.85)),
        (Within("miwifi"), Hint::new().kind(Router, 0.8).vendor("Xiaomi", 0.8)),
        (Start("mi-"), phone("Xiaomi", 0.5)),
        (Start("mi_"), phone("Xiaomi", 0.5)),
        (Within("xiaomi-robot"), thing("Xiaomi", 0.8)),
        (Within("xiaomi"), phone("Xiaomi", 0.6)),
        (Within("matepad"), phone("Huawei", 0.8).kind(Tablet, 0.8)),
        (Within("mediapad"), phone("Huawei", 0.8).kind(Tablet, 0.8)),
        (Within("matebook"), windows(0.6).vendor("Huawei", 0.8)),
        (Within("huawei"), phone("Huawei", 0.75)),
        (Word("honor"), phone("Honor", 0.7)),
        (Word("oppo"), phone("OPPO", 0.8)),
        (Word("vivo"), phone("vivo", 0.75)),
        (Within("oneplus"), phone("OnePlus", 0.8)),
        (Within("realme"), phone("realme", 0.8)),
        (Within("pixel-tablet"), phone("Google", 0.8).kind(Tablet, 0.8)),
        (Word("pixel"), phone("Google", 0.75)),
        (Within("nexus"), phone("Google", 0.5)),
        (Start("moto-"), phone("Motorola", 0.8)),
        (Start("motorola"), phone("Motorola", 0.7)),
        (Start("nokia"), phone("Nokia", 0.7)),
        (Within("xperia"), phone("Sony", 0.85)),
        (Within("fairphone"), phone("Fairphone", 0.85)),
        (Within("zenfone"), phone("ASUS", 0.8)),

        (Within("chromecast"), Hint::new().kind(Tv, 0.85).vendor("Google", 0.85)),
        (Within("google-home"), thing("Google", 0.85)),
        (Within("google-nest"), thing("Google", 0.85)),
        (Within("nest-hub"), thing("Google", 0.85)),
        (Within("bravia"), Hint::new().kind(Tv, 0.9).vendor("Sony", 0.9)),
        (Within("webos"), Hint::new().kind(Tv, 0.85).vendor("LG", 0.85).system("webOS", 0.8)),
        (Start("roku"), Hint::new().kind(Tv, 0.85).vendor("Roku", 0.85)),
        (Within("firetv"), Hint::new().kind(Tv, 0.85).vendor("Amazon", 0.85).system("Fire OS", 0.8)),
        (Within("fire-tv"), Hint::new().kind(Tv, 0.85).vendor("Amazon", 0.85).system("Fire OS", 0.8)),
        (Start("kindle"), Hint::new().kind(Tablet, 0.7).vendor("Amazon", 0.85)),
        (Serial("amazon-"), Hint::new().vendor("Amazon", 0.85)),
        (Within("echo-dot"), thing("Amazon", 0.8)),
        (Within("smart-tv"), Hint::new().kind(Tv, 0.8)),
        (Within("smarttv"), Hint::new().kind(Tv, 0.8)),
        (Word("tv"), Hint::new().kind(Tv, 0.6)),

        (Start("shelly"), thing("Shelly", 0.9)),
        (Serial("esp_"), thing("Espressif", 0.85)),
        (Serial("esp-"), thing("Espressif", 0.85)),
        (Start("esp32"), thing("Espressif", 0.85)),
        (Start("esp8266"), thing("Espressif", 0.85)),
        (Start("espressif"), thing("Espressif", 0.85)),
        (Start("tasmota"), Hint::new().kind(Iot, 0.9)),
        (Start("wled"), Hint::new().kind(Iot, 0.85)),
        (Start("tuya"), thing("Tuya", 0.85)),
        (Start("sonoszp"), thing("Sonos", 0.9)),
        (Start("sonos"), thing("Sonos", 0.8)),
        (Within("philips-hue"), thing("Philips", 0.9)),
        (Start("hue-bridge"), thing("Philips", 0.85)),
        (Start("ecb5fa"), thing("Philips", 0.6)),
        (Start("yeelink"), thing("Yeelight", 0.85)),
        (Within("roborock"), thing("Roborock", 0.9)),
        (Within("dreame"), thing("Dreame", 0.85)),
        (Start("lumi-"), thing("Aqara", 0.8)),
        (Start("wiz_"), thing("WiZ", 0.85)),
        (Start("wyze"), thing("Wyze", 0.8)),
        (Start("ring-"), thing("Ring", 0.6)),
        (Start("tapo"), thing("TP-Link", 0.8)),
        (Start("nuki"), thing("Nuki", 0.8)),
        (Start("irobot-"), thing("iRobot", 0.85)),
        (Start("brn"), thing("Brother", 0.6)),
        (Start("brw"), thing("Brother", 0.6)),
        (Start("epson"), thing("Epson", 0.8)),
        (Start("canon"), thing("Canon", 0.7)),
        (Serial("npi"), thing("HP", 0.8)),
        (Serial("hp"), thing("HP", 0.7)),
        (Within("printer"), Hint::new().kind(Iot, 0.6)),
        (Start("ps4-"), thing("Sony", 0.85)),
        (Start("ps5-"), thing("Sony", 0.85)),
        (Within("playstation"), thing("Sony", 0.8)),
        (Within("xbox"), thing("Microsoft", 0.8)),
        (Within("nintendo"), thing("Nintendo", 0.8)),
        (Word("wii"), thing("Nintendo", 0.75)),

        (Serial("desktop-"), windows(0.9)),
        (Start("desktop-"), windows(0.8)),
        (Start("laptop-"), windows(0.8)),
        (Start("win-"), windows(0.8)),
        (Within("thinkpad"), Hint::new().kind(Computer, 0.85).vendor("Lenovo", 0.85)),
        (Within("ideapad"), Hint::new().kind(Computer, 0.8).vendor("Lenovo", 0.85)),
        (Within("surface"), windows(0.6).vendor("Microsoft", 0.6)),
        (Within("chromebook"), Hint::new().kind(Computer, 0.8).system("ChromeOS", 0.7)),
        (Within("raspberrypi"), Hint::new().kind(Computer, 0.8).vendor("Raspberry Pi", 0.8).system("Linux", 0.8)),
        (Within("diskstation"), Hint::new().kind(Computer, 0.8).vendor("Synology", 0.85)),
        (Word("laptop"), Hint::new().kind(Computer, 0.7)),
        (Word("notebook"), Hint::new().kind(Computer, 0.6)),
        (Word("pc"), Hint::new().kind(Computer, 0.6)),
        (Word("nas"), Hint::new().kind(Computer, 0.5)),
        (Within("ubuntu"), Hint::new().kind(Computer, 0.7).system("Linux", 0.8)),
        (Within("debian"), Hint::new().kind(Computer, 0.7).system("Linux", 0.8)),
        (Within("fedora"), Hint::new().kind(Computer, 0.7).system("Linux", 0.8)),

        (Start("openwrt"), Hint::new().kind(Router, 0.8).system("Linux", 0.8)),
        (Within("fritz-box"), Hint::new().kind(Router, 0.85).vendor("AVM", 0.85)),
        (Start("fritz"), Hint::new().kind(Router, 0.7).vendor("AVM", 0.8)),
        (Word("router"), Hint::new().kind(Router, 0.6)),
        (Word("repeater"), Hint::new().kind(Router, 0.6)),
        (Start("mikrotik"), Hint::new().kind(Router, 0.8).vendor("MikroTik", 0.8)),

        (Start("android"), Hint::new().kind(Phone, 0.5).system("Android", 0.8)),
        (Within("tablet"), Hint::new().kind(Tablet, 0.6)),
        (Within("phone"), Hint::new().kind(Phone, 0.5)),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn made_fit_for_people() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(for_people(text).as_deref(), expected, "{text:?}");
        };
        check("Annas-iPhone", Some("Annas-iPhone"));
        check("Annas-iPhone.local", Some("Annas-iPhone"));
        check("annas-pc.fritz.box.", Some("annas-pc"));
        check("  Mr. Smith's PC\t", Some("Mr. Smith's PC"));
        check("Luca\u{2019}s iMac", Some("Luca\u{2019}s iMac"));
        check("a\u{0}b\nc", Some("a b c"));
        check("evil\u{202e}enohp", Some("evilenohp"));
        check("caf\u{e9}", Some("caf\u{e9}"));
        check(&"\u{20ac}".repeat(70), Some(&"\u{20ac}".repeat(42)));
        check(&"a".repeat(70), Some(&"a".repeat(64)));
        for nobody in [
            "",
            " ",
            ".",
            ".local",
            "localhost",
            "LocalHost.localdomain",
            "192.168.1.7",
            "(none)",
            "3e5b6f0a-1c2d-4e5f-8a9b-0c1d2e3f4a5b.local",
        ] {
            check(nobody, None);
        }
    }

    #[test]
    fn many_are_called_so() {
        for name in [
            "",
            "android",
            "android-4f1c2e5a9b0d3c77",
            "iPhone",
            "iPhone-2",
            "localhost",
            "Galaxy-S21",
            "Galaxy-A52s-5G",
            "Redmi-Note-8-Pro",
            "Pixel-6a",
            "OnePlus-8T",
        ] {
            assert!(is_common(name), "{name}");
        }
        for name in [
            "Annas-iPhone",
            "DESKTOP-4F7K2LM",
            "Toms-Galaxy-S21",
            "thinkpad-anna",
            "android-phone-of-anna",
            "iPhonediMonica",
        ] {
            assert!(!is_common(name), "{name}");
        }
    }

    #[test]
    fn what_names_betray() {
        let check = |name: &str, kind: Option<Kind>, vendor: Option<&str>, model: Option<&str>| {
            let clue = clue(name);
            let found = (
                clue.hint.kind.map(|(kind, _)| kind),
                clue.hint.vendor.map(|(vendor, _)| vendor),
                clue.model.as_ref().map(|(model, _)| model.as_str()),
            );
            assert_eq!(found, (kind, vendor, model), "{name}");
        };
        check("Annas-iPhone", Some(Phone), Some("Apple"), None);
        check("iPhonediMonica", Some(Phone), Some("Apple"), None);
        check("kawai-iPad3", Some(Tablet), Some("Apple"), None);
        check("Lucas-iMac", Some(Computer), Some("Apple"), None);
        check("Annas-MBP", None, None, None);
        check("Mac", Some(Computer), Some("Apple"), None);
        check("machine", None, None, None);
        check("RedmiNote8-Redmi", Some(Phone), Some("Xiaomi"), None);
        check(
            "Redmi-Note-8",
            Some(Phone),
            Some("Xiaomi"),
            Some("Redmi Note 8"),
        );
        check(
            "Galaxy-S21",
            Some(Phone),
            Some("Samsung"),
            Some("Galaxy S21"),
        );
        check("Galaxy-Tab-A", Some(Tablet), Some("Samsung"), None);
        check("Toms-Galaxy-S21", Some(Phone), Some("Samsung"), None);
        check("SM-G991B", Some(Phone), Some("Samsung"), Some("SM-G991B"));
        check("android-4f1c2e5a9b0d3c77", Some(Phone), None, None);
        check("DESKTOP-4F7K2LM", Some(Computer), None, None);
        check("raspberrypi", Some(Computer), Some("Raspberry Pi"), None);
        check("ESP_1A2B3C", Some(Iot), Some("Espressif"), None);
        check("esp-anna", None, None, None);
        check("NPI1A2B3C", Some(Iot), Some("HP"), None);
        check("Wii", Some(Iot), Some("Nintendo"), None);
        check("LGwebOSTV", Some(Tv), Some("LG"), None);
        check("fritz", Some(Router), Some("AVM"), None);
        check("kfz-laptop", Some(Computer), None, None);
        check("anna", None, None, None);
    }

    #[test]
    fn every_pattern_can_be_found() {
        for (at, (place, _)) in PATTERNS.iter().enumerate() {
            let name = match place {
                Place::Within(text) | Place::Start(text) | Place::Word(text) => (*text).to_owned(),
                Place::Serial(text) => format!("{text}1a2b"),
            };
            assert_eq!(name, name.to_lowercase());
            let first = PATTERNS.iter().position(|(place, _)| place.is_in(&name));
            assert_eq!(first, Some(at), "{place:?} never counts");
        }
    }
}
