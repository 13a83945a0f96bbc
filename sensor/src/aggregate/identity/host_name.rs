//! The names that devices give themselves: made fit for people, and their suggestions.

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
    label(first)
}

/// The same of the label that is a name by itself: a dot in it is the owner's.
pub(super) fn label(text: &str) -> Option<String> {
    let name = clean(text.trim_matches(['.', '"', '\'']), MAX_NAME);
    let is_number = name.bytes().all(|octet| octet.is_ascii_digit());
    let nobody = is_number || is_uuid(&name) || NOBODY.contains(&name.to_lowercase().as_str());
    (!nobody).then_some(name)
}

/// The names that software uses if it has no name.
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

/// The suggestions of a name, beside the name itself.
pub(super) fn clue(name: &str) -> Clue {
    let lower = name.to_lowercase();
    let written = Written::new(name);
    let found = PATTERNS.iter().find(|(place, _)| place.is_in(&written));
    let mut clue = Clue::from(found.map(|(_, hint)| *hint).unwrap_or_default());
    let is_number =
        name.bytes().any(|c| c.is_ascii_digit()) && !name.bytes().any(|c| c.is_ascii_lowercase());
    let common = is_common(&lower);
    if let Some(product) = super::product::numbered(name).filter(|_| is_number) {
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

/// Whether a text has this word, in lower case: whole, in any case, wherever it stands.
pub(super) fn has_word(text: &str, word: &'static str) -> bool {
    Place::Word(word).is_in(&Written::new(text))
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
    "5g", "4g", "air", "amazon", "appletv", "apple", "armor", "book", "box", "bravia", "cam", "chromecast",
    "desktop", "edge", "esp32", "espressif", "fairphone", "fe", "find", "fire", "fold", "flip", "fritz",
    "galaxy", "generic", "gt", "home", "honor", "huawei", "imac", "ipad", "iphone", "ipod",
    "kindle", "laptop", "lite", "lumia", "mac", "macbook", "magic", "mate", "max", "mi", "mini",
    "moto", "motorola", "my", "nest", "nexus", "nintendo", "nokia", "nord", "note", "nova",
    "oneplus", "openwrt", "oppo", "p", "pad", "pc", "phone", "pi", "pixel", "plus", "poco",
    "plug", "power", "prime", "printer", "pro", "ps", "raspberrypi", "razr", "realme", "redmi", "reno",
    "roku", "router", "samsung", "shield", "smart", "smartphone", "sony", "stick", "switch", "tab",
    "tablet", "tv", "ultra", "vivo", "watch", "wii", "windows", "wlan0", "x", "xbox", "xiaomi",
    "xperia", "xl", "zenfone",
];

/// Where in a name a word is looked for; all in lower case, with `-` for what parts words.
///
/// A word is whole: `Dreamer-PC` is no Dreame, a saxophone is no phone. See [`Written`] for where words begin
/// and end.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Anywhere: the word.
    Word(&'static str),
    /// Anywhere: a word that begins so, where no other word does.
    Begins(&'static str),
    /// At the beginning: the word.
    First(&'static str),
    /// At the beginning, then only hexadecimal digits, at least 4, a decimal one among them.
    Serial(&'static str),
    /// At the beginning, then so many letters and digits, as systems make them up, and nothing else.
    MadeUp(&'static str, usize),
    /// The word, and nothing but numbers behind it.
    Last(&'static str),
    /// The whole name.
    Whole(&'static str),
    /// At the beginning, the rest of a word behind it, and a word of at least 5 hexadecimal digits last:
    /// `shellyplug-s-1a2b3c`.
    Numbered(&'static str),
    /// Anywhere: a word that means other things too, with the form of a model behind it.
    Model(&'static str, &'static [Form]),
}

/// The form of the text that follows a word in the name of a model.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// The word.
    Is(&'static str),
    /// One of these letters and up to so many digits, with letters behind them as models have them: `s21`,
    /// `a52s`, `x8b`.
    Letter(&'static str, usize),
    /// Letters and digits, at least so many digits: `ts5000`.
    Number(usize),
    /// So many digits: `1935`.
    Digits(usize),
    /// The word, and then a number of one or two digits: `note-10`.
    Numbered(&'static str),
    /// A number up to this one, and one of these endings or none: `9t`, `6-pro`.
    Upto(u8, &'static [&'static str]),
}

impl Form {
    /// Whether words are what follows the name of a series; `bare` is so where nothing follows them.
    fn fits(self, words: &str) -> bool {
        let mut words = words.split('-').filter(|word| !word.is_empty());
        let Some(first) = words.next() else {
            return false;
        };
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        match self {
            Self::Is(word) => first == word,
            Self::Letter(letters, most) => {
                let Some(rest) = first.strip_prefix(|c: char| letters.contains(c)) else {
                    return false;
                };
                let number = digits(rest);
                (1..=most).contains(&number) && is_suffix(&rest[number..])
            }
            Self::Number(least) => {
                let count = first.bytes().filter(u8::is_ascii_digit).count();
                let is_mixed =
                    count < first.len() && first.bytes().all(|c| c.is_ascii_alphanumeric());
                count >= least && is_mixed
            }
            Self::Digits(count) => first.len() == count && digits(first) == count,
            Self::Numbered(word) => {
                let Some(rest) = first.strip_prefix(word) else {
                    return false;
                };
                let number = match rest {
                    "" => words.next().unwrap_or_default(),
                    rest => rest,
                };
                (1..=2).contains(&digits(number)) && is_suffix(&number[digits(number)..])
            }
            Self::Upto(most, endings) => {
                let (number, ending) = first.split_at(digits(first));
                number
                    .parse::<u8>()
                    .is_ok_and(|number| (1..=most).contains(&number))
                    && !number.starts_with('0')
                    && (ending.is_empty() || endings.contains(&ending))
            }
        }
    }
}

/// Whether this may follow the number of a model without a space: `s` in A52s, `pro`.
fn is_suffix(text: &str) -> bool {
    text.len() <= 1 || PRODUCT_WORDS.contains(&text)
}

impl Place {
    /// Where it stands in the name.
    fn is_in(self, name: &Written<'_>) -> bool {
        let lower = name.lower.as_str();
        let places = |word: &'static str| {
            let begins = move |(at, _): &(usize, &str)| name.begins(*at, word.len());
            lower.match_indices(word).filter(begins)
        };
        match self {
            Self::Word(word) => places(word).any(|(at, _)| name.ends(at, word.len())),
            Self::Begins(word) => places(word).next().is_some(),
            Self::First(word) => lower.starts_with(word) && name.ends(0, word.len()),
            Self::Serial(text) => lower.strip_prefix(text).is_some_and(|rest| {
                rest.len() >= 4
                    && rest.bytes().all(|digit| digit.is_ascii_hexdigit())
                    && rest.bytes().any(|digit| digit.is_ascii_digit())
            }),
            Self::MadeUp(text, length) => lower.strip_prefix(text).is_some_and(|rest| {
                let written = &name.text[text.len()..];
                let is_made_up = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit();
                let has_digit = rest.bytes().any(|c| c.is_ascii_digit());
                rest.len() == length
                    && rest.bytes().all(|c| c.is_ascii_alphanumeric())
                    && (has_digit || written.bytes().all(is_made_up))
            }),
            Self::Last(word) => places(word).any(|(at, _)| {
                let mut behind = lower[at + word.len()..].bytes();
                behind.all(|c| c == b'-' || c.is_ascii_digit())
            }),
            Self::Whole(word) => lower == word,
            Self::Numbered(text) => lower.strip_prefix(text).is_some_and(|rest| {
                let (word, serial) = rest.rsplit_once('-').unwrap_or_default();
                word.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && serial.len() >= 5
                    && serial.bytes().all(|digit| digit.is_ascii_hexdigit())
            }),
            Self::Model(word, forms) => places(word).any(|(at, _)| {
                let behind = &lower[at + word.len()..];
                name.ends(at, word.len()) && forms.iter().any(|form| form.fits(behind))
            }),
        }
    }
}

/// A name as it is written, and where its words begin and end.
///
/// Words are separated by characters that are neither letter nor digit, by a capital after a small letter, and
/// by a change to a script without capitals. Words without a separator count if they are the names of products
/// (`RedmiNote8`, `smarttv`), or if a preposition and a capital follow, as in `iPhonediMonica`.
struct Written<'a> {
    text: &'a str,
    /// The same in lower case, with a hyphen for each space, underscore and dot; as long as the text.
    lower: String,
}

impl<'a> Written<'a> {
    fn new(text: &'a str) -> Self {
        let lower = |c: char| match c {
            ' ' | '_' | '.' => '-',
            c => c.to_ascii_lowercase(),
        };
        Self {
            text,
            lower: text.chars().map(lower).collect(),
        }
    }

    /// Whether a word of this length begins here.
    fn begins(&self, at: usize, length: usize) -> bool {
        let Some(before) = self.text[..at].chars().next_back() else {
            return true;
        };
        let mut word = self.text[at..at + length].chars();
        let (first, second) = (word.next(), word.next());
        let is_capital = |c: Option<char>| c.is_some_and(char::is_uppercase);
        // `AnnasiPhone`: a capital behind an `i` does not stand within a word.
        let is_of_apple = first == Some('i') && is_capital(second);
        !is_joining(before) || before.is_lowercase() && (is_capital(first) || is_of_apple)
    }

    /// Whether the word of this length that begins here ends where it does.
    fn ends(&self, at: usize, length: usize) -> bool {
        let end = at + length;
        let rest = &self.text[end..];
        let Some(next) = rest.chars().next() else {
            return true;
        };
        if !is_joining(next) || next.is_ascii_digit() {
            return true;
        }
        let is_small = self.text[..end].ends_with(char::is_lowercase);
        if is_small && next.is_uppercase() {
            return true;
        }
        let has_capital = self.text[at..end].contains(char::is_uppercase);
        let is_before_name = |word: &str| {
            let behind = rest.strip_prefix(word);
            behind.is_some_and(|behind| behind.starts_with(char::is_uppercase))
        };
        if has_capital && PREPOSITIONS.iter().any(|word| is_before_name(word)) {
            return true;
        }
        let mut glued = self.lower[end..].split(|c: char| !c.is_ascii_alphanumeric());
        is_of_products(glued.next().unwrap_or_default())
    }
}

/// Whether a character makes one word with another: letters of scripts without capitals do not make one
/// with Latin letters.
fn is_joining(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || c.is_numeric()
}

/// Words between a product and whose it is.
const PREPOSITIONS: [&str; 10] = [
    "d", "da", "de", "del", "della", "di", "do", "du", "van", "von",
];

/// Whether a text is made of words that products have, and of numbers.
fn is_of_products(mut text: &str) -> bool {
    loop {
        text = text.trim_start_matches(|c: char| c.is_ascii_digit());
        if text.is_empty() {
            return true;
        }
        // One letter is the end of too many words.
        let words = PRODUCT_WORDS.iter().filter(|word| word.len() > 1);
        let rest = words.filter_map(|word| text.strip_prefix(word));
        match rest.min_by_key(|rest| rest.len()) {
            Some(rest) => text = rest,
            None => return false,
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
    use Form::{Digits, Is, Letter, Number};
    use Place::{Begins, First, Last, MadeUp, Model, Numbered, Serial, Whole, Word};
    &[
        (Begins("mipad"), phone("Xiaomi", 0.8).kind(Tablet, 0.8)),
        (Begins("iphone"), apple("iOS").kind(Phone, 0.85)),
        (Word("ipad"), apple("iOS").kind(Tablet, 0.85)),
        (Word("ipod"), apple("iOS").kind(Phone, 0.5)),
        (Begins("macbook"), apple("macOS").kind(Computer, 0.85)),
        (Word("imac"), apple("macOS").kind(Computer, 0.85)),
        (Word("mac-mini"), apple("macOS").kind(Computer, 0.85)),
        (Word("macmini"), apple("macOS").kind(Computer, 0.85)),
        (Word("mac-studio"), apple("macOS").kind(Computer, 0.85)),
        (Word("mac-pro"), apple("macOS").kind(Computer, 0.8)),
        (Word("apple-tv"), Hint::new().kind(Tv, 0.85).vendor("Apple", 0.85).system("tvOS", 0.8)),
        (Word("appletv"), Hint::new().kind(Tv, 0.85).vendor("Apple", 0.85).system("tvOS", 0.8)),
        (Word("apple-watch"), thing("Apple", 0.85)),
        (Word("applewatch"), thing("Apple", 0.85)),
        (Begins("homepod"), thing("Apple", 0.85)),
        (Last("mac"), apple("macOS").kind(Computer, 0.6)),

        (Word("galaxy-tab"), phone("Samsung", 0.8).kind(Tablet, 0.85)),
        (Word("galaxy-book"), windows(0.7).vendor("Samsung", 0.8)),
        (Word("galaxy-watch"), thing("Samsung", 0.8)),
        (Model("galaxy", GALAXY), phone("Samsung", 0.75)),
        (Word("samsung-tv"), Hint::new().kind(Tv, 0.85).vendor("Samsung", 0.85)),
        (Word("mitv"), Hint::new().kind(Tv, 0.85).vendor("Xiaomi", 0.8)),
        (Word("mibox"), Hint::new().kind(Tv, 0.85).vendor("Xiaomi", 0.8)),
        (Word("redmi-pad"), phone("Xiaomi", 0.8).kind(Tablet, 0.85)),
        (Word("redmibook"), windows(0.6).vendor("Xiaomi", 0.8)),
        (Word("redmi"), phone("Xiaomi", 0.85)),
        (Begins("pocophone"), phone("Xiaomi", 0.8)),
        (Model("poco", &[Letter("cfmx", 2)]), phone("Xiaomi", 0.8)),
        (Word("xiaomi-pad"), phone("Xiaomi", 0.8).kind(Tablet, 0.85)),
        (Begins("miwifi"), Hint::new().kind(Router, 0.8).vendor("Xiaomi", 0.8)),
        (Model("mi", &[Form::Numbered("pad")]), phone("Xiaomi", 0.8).kind(Tablet, 0.8)),
        (Model("mi", MI), phone("Xiaomi", 0.7)),
        (Word("xiaomi-robot"), thing("Xiaomi", 0.8)),
        (Word("xiaomi"), phone("Xiaomi", 0.6)),
        (Begins("matepad"), phone("Huawei", 0.8).kind(Tablet, 0.8)),
        (Begins("mediapad"), phone("Huawei", 0.8).kind(Tablet, 0.8)),
        (Begins("matebook"), windows(0.6).vendor("Huawei", 0.8)),
        (Word("huawei"), phone("Huawei", 0.75)),
        (Model("honor", HONOR), phone("Honor", 0.7)),
        (Word("oppo"), phone("OPPO", 0.8)),
        (Model("vivo", &[Digits(4), Letter("stuvxyz", 3)]), phone("vivo", 0.75)),
        (Begins("oneplus"), phone("OnePlus", 0.8)),
        (Word("realme"), phone("realme", 0.8)),
        (Word("pixel-tablet"), phone("Google", 0.8).kind(Tablet, 0.8)),
        (Model("pixel", PIXEL), phone("Google", 0.75)),
        (Model("nexus", NEXUS), phone("Google", 0.6)),
        (Model("moto", MOTO), phone("Motorola", 0.8)),
        (Word("motorola"), phone("Motorola", 0.7)),
        (Word("nokia"), phone("Nokia", 0.7)),
        (Word("xperia"), phone("Sony", 0.85)),
        (Word("fairphone"), phone("Fairphone", 0.85)),
        (Word("zenfone"), phone("ASUS", 0.8)),

        (Begins("chromecast"), Hint::new().kind(Tv, 0.85).vendor("Google", 0.85)),
        (Word("google-home"), thing("Google", 0.85)),
        (Word("google-nest"), thing("Google", 0.85)),
        (Word("nest-hub"), thing("Google", 0.85)),
        (Word("bravia"), Hint::new().kind(Tv, 0.9).vendor("Sony", 0.9)),
        (Begins("lgwebos"), Hint::new().kind(Tv, 0.85).vendor("LG", 0.85).system("webOS", 0.8)),
        (Word("webos"), Hint::new().kind(Tv, 0.85).vendor("LG", 0.85).system("webOS", 0.8)),
        (First("roku"), Hint::new().kind(Tv, 0.85).vendor("Roku", 0.85)),
        (Word("firetv"), Hint::new().kind(Tv, 0.85).vendor("Amazon", 0.85).system("Fire OS", 0.8)),
        (Word("fire-tv"), Hint::new().kind(Tv, 0.85).vendor("Amazon", 0.85).system("Fire OS", 0.8)),
        (First("kindle"), Hint::new().kind(Tablet, 0.7).vendor("Amazon", 0.85)),
        (Serial("amazon-"), Hint::new().vendor("Amazon", 0.85)),
        (Word("echo-dot"), thing("Amazon", 0.8)),
        (Word("android-tv"), Hint::new().kind(Tv, 0.85).system("Android", 0.8)),
        (Word("androidtv"), Hint::new().kind(Tv, 0.85).system("Android", 0.8)),
        (Word("smart-tv"), Hint::new().kind(Tv, 0.8)),
        (Word("smarttv"), Hint::new().kind(Tv, 0.8)),
        (Word("tv"), Hint::new().kind(Tv, 0.6)),

        (Numbered("shelly"), thing("Shelly", 0.9)),
        (Model("shelly", SHELLY), thing("Shelly", 0.8)),
        (Serial("esp-"), thing("Espressif", 0.85)),
        (Begins("esp32"), thing("Espressif", 0.85)),
        (Begins("esp8266"), thing("Espressif", 0.85)),
        (First("espressif"), thing("Espressif", 0.85)),
        (First("tasmota"), Hint::new().kind(Iot, 0.9)),
        (First("wled"), Hint::new().kind(Iot, 0.85)),
        (Serial("tuya-"), thing("Tuya", 0.85)),
        (Begins("sonoszp"), thing("Sonos", 0.9)),
        (First("sonos"), thing("Sonos", 0.8)),
        (Word("philips-hue"), thing("Philips", 0.9)),
        (First("hue-bridge"), thing("Philips", 0.85)),
        (Serial("ecb5fa"), thing("Philips", 0.6)),
        (First("yeelink"), thing("Yeelight", 0.85)),
        (Begins("roborock"), thing("Roborock", 0.9)),
        (Word("dreame"), thing("Dreame", 0.85)),
        (Model("lumi", &[Is("gateway"), Is("camera"), Is("acpartner"), Is("lock")]), thing("Aqara", 0.8)),
        (Serial("wiz-"), thing("WiZ", 0.85)),
        (First("wyze"), thing("Wyze", 0.8)),
        (Serial("ring-"), thing("Ring", 0.6)),
        (Model("tapo", &[Letter("acdhlpst", 3), Is("camera"), Is("plug"), Is("bulb")]), thing("TP-Link", 0.8)),
        (First("nuki"), thing("Nuki", 0.8)),
        (Serial("irobot-"), thing("iRobot", 0.85)),
        (Serial("roomba-"), thing("iRobot", 0.85)),
        (Serial("brn"), thing("Brother", 0.6)),
        (Serial("brw"), thing("Brother", 0.6)),
        (Serial("epson"), thing("Epson", 0.8)),
        (First("epson"), thing("Epson", 0.8)),
        (Serial("canon"), thing("Canon", 0.7)),
        (Model("canon", &[Number(3), Is("pixma"), Is("printer")]), thing("Canon", 0.7)),
        (Serial("npi"), thing("HP", 0.8)),
        (Serial("hp"), thing("HP", 0.7)),
        (Word("printer"), Hint::new().kind(Iot, 0.6)),
        (First("ps4"), thing("Sony", 0.85)),
        (First("ps5"), thing("Sony", 0.85)),
        (Word("playstation"), thing("Sony", 0.8)),
        (Word("xbox"), thing("Microsoft", 0.8)),
        (Word("nintendo"), thing("Nintendo", 0.8)),
        (Word("wii"), thing("Nintendo", 0.75)),
        (Word("wiiu"), thing("Nintendo", 0.75)),

        (MadeUp("desktop-", 7), windows(0.9)),
        (MadeUp("laptop-", 8), windows(0.8)),
        (MadeUp("win-", 11), windows(0.8)),
        (Begins("thinkpad"), Hint::new().kind(Computer, 0.85).vendor("Lenovo", 0.85)),
        (Begins("ideapad"), Hint::new().kind(Computer, 0.8).vendor("Lenovo", 0.85)),
        (Model("surface", SURFACE), windows(0.7).vendor("Microsoft", 0.7)),
        (Begins("chromebook"), Hint::new().kind(Computer, 0.8).system("ChromeOS", 0.7)),
        (Begins("raspberrypi"), Hint::new().kind(Computer, 0.8).vendor("Raspberry Pi", 0.8).system("Linux", 0.8)),
        (Begins("diskstation"), Hint::new().kind(Computer, 0.8).vendor("Synology", 0.85)),
        (Word("laptop"), Hint::new().kind(Computer, 0.7)),
        (Word("desktop"), Hint::new().kind(Computer, 0.7)),
        (Word("notebook"), Hint::new().kind(Computer, 0.6)),
        (Word("pc"), Hint::new().kind(Computer, 0.6)),
        (Word("nas"), Hint::new().kind(Computer, 0.5)),
        (Word("ubuntu"), Hint::new().kind(Computer, 0.7).system("Linux", 0.8)),
        (Word("debian"), Hint::new().kind(Computer, 0.7).system("Linux", 0.8)),
        (Word("fedora"), Hint::new().kind(Computer, 0.7).system("Linux", 0.8)),

        (First("openwrt"), Hint::new().kind(Router, 0.8).system("Linux", 0.8)),
        (Whole("fritz"), Hint::new().kind(Router, 0.7).vendor("AVM", 0.8)),
        (Model("fritz", FRITZ), Hint::new().kind(Router, 0.85).vendor("AVM", 0.85)),
        (Word("router"), Hint::new().kind(Router, 0.6)),
        (Word("repeater"), Hint::new().kind(Router, 0.6)),
        (Word("extender"), Hint::new().kind(Router, 0.6)),
        (First("mikrotik"), Hint::new().kind(Router, 0.8).vendor("MikroTik", 0.8)),

        (First("android"), Hint::new().kind(Phone, 0.5).system("Android", 0.8)),
        (Word("tablet"), Hint::new().kind(Tablet, 0.6)),
        (Word("smartphone"), Hint::new().kind(Phone, 0.6)),
        (Word("phone"), Hint::new().kind(Phone, 0.5)),
    ]
};

const GALAXY: &[Form] = &[
    Form::Letter("acefjmsxyz", 3),
    Form::Numbered("note"),
    Form::Is("note"),
    Form::Is("fold"),
    Form::Is("flip"),
    Form::Is("z"),
    Form::Is("ace"),
    Form::Is("grand"),
    Form::Is("nexus"),
    Form::Is("xcover"),
    Form::Numbered("xcover"),
];

const MI: &[Form] = &[
    Form::Upto(
        11,
        &[
            "a", "c", "d", "i", "s", "se", "t", "w", "x", "lite", "pro", "ultra",
        ],
    ),
    Form::Letter("a", 1),
    Form::Numbered("note"),
    Form::Numbered("mix"),
    Form::Numbered("max"),
    Form::Numbered("cc"),
];

const HONOR: &[Form] = &[
    Form::Upto(200, &["a", "c", "i", "s", "x", "lite", "pro", "se"]),
    Form::Letter("xv", 2),
    Form::Numbered("view"),
    Form::Numbered("play"),
    Form::Numbered("magic"),
];

const PIXEL: &[Form] = &[
    Form::Upto(11, &["a", "xl", "pro"]),
    Form::Is("xl"),
    Form::Is("fold"),
];

/// All there were: a repository or a server with this name has other numbers.
const NEXUS: &[Form] = &[
    Form::Is("4"),
    Form::Is("5"),
    Form::Is("5x"),
    Form::Is("6"),
    Form::Is("6p"),
    Form::Is("7"),
    Form::Is("9"),
    Form::Is("10"),
    Form::Is("one"),
    Form::Is("s"),
];

const MOTO: &[Form] = &[
    Form::Letter("cegxz", 3),
    Form::Is("c"),
    Form::Is("e"),
    Form::Is("g"),
    Form::Is("x"),
    Form::Is("z"),
    Form::Is("edge"),
    Form::Is("razr"),
];

const SHELLY: &[Form] = &[
    Form::Upto(4, &["l", "pm", "em", "mini"]),
    Form::Is("25"),
    Form::Is("em"),
    Form::Is("plug"),
    Form::Is("plus"),
    Form::Is("pro"),
];

const SURFACE: &[Form] = &[
    Form::Upto(11, &[]),
    Form::Is("pro"),
    Form::Numbered("pro"),
    Form::Is("go"),
    Form::Is("book"),
    Form::Is("laptop"),
    Form::Is("studio"),
    Form::Is("rt"),
];

const FRITZ: &[Form] = &[
    Form::Is("box"),
    Form::Is("repeater"),
    Form::Is("powerline"),
    Form::Is("wlan"),
    Form::Numbered("box"),
];

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
    fn words_are_whole() {
        for name in [
            "canonical-vm",
            "saxophone",
            "megaphone-stage",
            "redmine",
            "redminder",
            "pixelfed",
            "pixel-art",
            "pixelserv-tls",
            "mi-portatil",
            "mi-casa",
            "mi-2024",
            "Mia1",
            "nexus-repo",
            "nexus3",
            "nexus-01",
            "galaxy-db01",
            "galaxy",
            "galaxyquest",
            "note-taker",
            "Notes",
            "honorable",
            "honor-roll",
            "en-vivo",
            "vivo-en-madrid",
            "poco-a-poco",
            "moto-guzzi",
            "surface-scan",
            "resurface",
            "fritz-zimmer",
            "Fritzchen",
            "shelly",
            "Shellys-room",
            "brno-server",
            "brwinator",
            "hpcafe",
            "canon-law",
            "ringo",
            "ring-of-fire",
            "la-tuya",
            "lumi-anna",
            "mac-and-cheese",
            "machine",
            "ipaddress-plan",
            "imaculate",
            "big-macro",
            "win-win",
            "opposite",
            "realmente",
            "sonospheric",
            "epsonite",
            "rokuro",
            "androids-dream",
            "teleprinters",
            "atvise",
            "xboxes-of-books",
            "KFC-P1",
            "AFTER8",
            "LG-1",
        ] {
            let clue = clue(name);
            assert_eq!((clue.hint, clue.model), (Hint::new(), None), "{name}");
        }
        let check = |name: &str, kind: Kind, vendor: Option<&str>| {
            let hint = clue(name).hint;
            let found = (hint.kind.map(|(kind, _)| kind), hint.vendor.map(|(v, _)| v));
            assert_eq!(found, (Some(kind), vendor), "{name}");
        };
        check("Dreamer-PC", Computer, None);
        check("dreame-vacuum-p2009_miio1234", Iot, Some("Dreame"));
        check("mi-pc", Computer, None);
        check("mi-tv", Tv, None);
        check("fritz-laptop", Computer, None);
        check("Shelly-PC", Computer, None);
        check("desktop-linux", Computer, None);
        check("WohnzimmerTV", Tv, None);
        check("Wohnzimmer TV", Tv, None);
        for mi in [
            "Mi-9T",
            "MI9T",
            "Mi_A1",
            "MiA1-MiTelefono",
            "mi-note-10",
            "Mi 10T Pro",
            "MI-MIX-2S",
        ] {
            check(mi, Phone, Some("Xiaomi"));
        }
        check("Mi-Pad-4", Tablet, Some("Xiaomi"));
        for nexus in ["Nexus-5X", "Nexus-6P", "Annas-Nexus-4", "nexus-10"] {
            check(nexus, Phone, Some("Google"));
        }
        for galaxy in [
            "Galaxy-S21",
            "Galaxy-A52s-5G",
            "GalaxyS9",
            "Galaxy-Note10",
            "Galaxy-Z-Flip3",
        ] {
            check(galaxy, Phone, Some("Samsung"));
        }
        check("Galaxy-Watch4", Iot, Some("Samsung"));
        check("Redmi-Note-8-Pro", Phone, Some("Xiaomi"));
        check("redminote8", Phone, Some("Xiaomi"));
        check("POCO-F1", Phone, Some("Xiaomi"));
        check("HONOR-10-Lite", Phone, Some("Honor"));
        check("vivo-1935", Phone, Some("vivo"));
        check("moto-g7-power", Phone, Some("Motorola"));
        check("OnePlus-8T", Phone, Some("OnePlus"));
        check("Pixel-6a", Phone, Some("Google"));
        check("iPaddiMonica", Tablet, Some("Apple"));
        check("AnnasiPad", Tablet, Some("Apple"));
        check("安娜的iPhone", Phone, Some("Apple"));
        check("Annas-Mac-2", Computer, Some("Apple"));
        check("Surface-Pro-7", Computer, Some("Microsoft"));
        check("Canon-TS5000", Iot, Some("Canon"));
        check("EPSON1A2B3C", Iot, Some("Epson"));
        check("BRW1A2B3C4D5E6F", Iot, Some("Brother"));
        check("shellyplus1pm-1a2b3c4d5e6f", Iot, Some("Shelly"));
        check("Tapo_P100", Iot, Some("TP-Link"));
        check("fritz-box", Router, Some("AVM"));
        check("AndroidTV-1a2b", Tv, None);
        check("Android-2", Phone, None);
    }

    #[test]
    fn every_pattern_can_be_found() {
        for (at, (place, _)) in PATTERNS.iter().enumerate() {
            let name = match place {
                Place::Word(text) | Place::Begins(text) | Place::First(text) => (*text).to_owned(),
                Place::Last(text) | Place::Whole(text) => (*text).to_owned(),
                Place::Serial(text) => format!("{text}1a2b"),
                Place::Numbered(text) => format!("{text}1-1a2b3"),
                Place::MadeUp(text, length) => format!("{text}{}", "1".repeat(*length)),
                Place::Model(text, [form, ..]) => {
                    let model = match form {
                        Form::Is(word) => (*word).to_owned(),
                        Form::Letter(letters, _) => format!("{}1", &letters[..1]),
                        Form::Number(least) => format!("x{}", "1".repeat(*least)),
                        Form::Digits(count) => "1".repeat(*count),
                        Form::Numbered(word) => format!("{word}-1"),
                        Form::Upto(..) => "1".to_owned(),
                    };
                    format!("{text}-{model}")
                }
                Place::Model(text, []) => panic!("{text} has no model"),
            };
            assert_eq!(name, name.to_lowercase());
            let written = Written::new(&name);
            let first = PATTERNS.iter().position(|(place, _)| place.is_in(&written));
            assert_eq!(first, Some(at), "{place:?} never counts");
        }
    }
}
