//! Model numbers, as devices give them in headers and records.

use super::clue::Hint;
use crate::model::Kind::{self, Computer, Iot, Phone, Router, Tablet, Tv};

/// The maker and kind of an Android model, for example `Redmi Note 8`, `SM-G991B`, `CPH2305`.
pub(super) fn android(model: &str) -> Option<Hint> {
    find(ANDROID, model).or_else(|| find(OF_LETTERS, model))
}

/// The same for a text that may be no model: only models whose numbers tell them from words.
pub(super) fn numbered(text: &str) -> Option<Hint> {
    find(ANDROID, text)
}

fn find(models: &[(&str, &'static str, Kind)], model: &str) -> Option<Hint> {
    let upper = model.to_uppercase();
    let matches = |pattern: &str| {
        let end = pattern.chars().next_back().filter(|c| "#*@".contains(*c));
        let Some(rest) = upper.strip_prefix(pattern.trim_end_matches(['#', '*', '@'])) else {
            return false;
        };
        let next = rest.chars().next();
        match end {
            Some('#') => next.is_some_and(|c| c.is_ascii_digit()),
            Some('@') => {
                let mut rest = rest.chars().skip_while(char::is_ascii_uppercase);
                next.is_some_and(|c| c.is_ascii_uppercase())
                    && rest.next().is_some_and(|c| c.is_ascii_digit())
            }
            Some(_) => true,
            None => !next.is_some_and(char::is_alphabetic),
        }
    };
    let (_, vendor, kind) = models.iter().find(|(pattern, ..)| matches(pattern))?;
    Some(
        Hint::new()
            .vendor(vendor, 0.9)
            .kind(*kind, 0.85)
            .system("Android", 0.85),
    )
}

/// How models begin, in upper case, a longer beginning before a shorter one. Behind it is no
/// letter; where it ends with `#`, a digit; with `@`, letters and then a digit; with `*`, anything.
#[rustfmt::skip]
const ANDROID: &[(&str, &str, Kind)] = &[
    ("SM-T#", "Samsung", Tablet),
    ("SM-X#", "Samsung", Tablet),
    ("SM-P#", "Samsung", Tablet),
    ("SM-R#", "Samsung", Iot),
    ("SM-L#", "Samsung", Iot),
    ("SM-A#", "Samsung", Phone),
    ("SM-C#", "Samsung", Phone),
    ("SM-E#", "Samsung", Phone),
    ("SM-F#", "Samsung", Phone),
    ("SM-G#", "Samsung", Phone),
    ("SM-J#", "Samsung", Phone),
    ("SM-M#", "Samsung", Phone),
    ("SM-N#", "Samsung", Phone),
    ("SM-S#", "Samsung", Phone),
    ("GT-P#", "Samsung", Tablet),
    ("GT-N8#", "Samsung", Tablet),
    ("GT-I#", "Samsung", Phone),
    ("GT-N#", "Samsung", Phone),
    ("GT-S#", "Samsung", Phone),
    ("REDMI PAD", "Xiaomi", Tablet),
    ("REDMI", "Xiaomi", Phone),
    ("XIAOMI PAD", "Xiaomi", Tablet),
    ("MI PAD", "Xiaomi", Tablet),
    ("MI BOX", "Xiaomi", Tv),
    ("MITV*", "Xiaomi", Tv),
    ("MIBOX*", "Xiaomi", Tv),
    ("XIAOMI", "Xiaomi", Phone),
    ("POCO", "Xiaomi", Phone),
    ("MI *", "Xiaomi", Phone),
    ("MIX *", "Xiaomi", Phone),
    ("M200*", "Xiaomi", Phone),
    ("M210*", "Xiaomi", Phone),
    ("PIXEL TABLET", "Google", Tablet),
    ("PIXEL C", "Google", Tablet),
    ("PIXEL", "Google", Phone),
    ("CHROMECAST", "Google", Tv),
    ("GOOGLE TV STREAMER", "Google", Tv),
    ("RMX#", "realme", Phone),
    ("CPH#", "OPPO", Phone),
    ("OPPO", "OPPO", Phone),
    ("VIVO", "vivo", Phone),
    ("ONEPLUS", "OnePlus", Phone),
    ("MOTO *", "Motorola", Phone),
    ("MOTOROLA", "Motorola", Phone),
    ("XT1#", "Motorola", Phone),
    ("XT2#", "Motorola", Phone),
    ("NOKIA", "Nokia", Phone),
    ("TA-1#", "Nokia", Phone),
    ("LM-@", "LG", Phone),
    ("LG-@", "LG", Phone),
    ("XPERIA", "Sony", Phone),
    ("XQ-@", "Sony", Phone),
    ("SO-0*", "Sony", Phone),
    ("ASUS_*", "ASUS", Phone),
    ("LENOVO TB*", "Lenovo", Tablet),
    ("FP3", "Fairphone", Phone),
    ("FP4", "Fairphone", Phone),
    ("FP5", "Fairphone", Phone),
    ("TECNO", "TECNO", Phone),
    ("INFINIX", "Infinix", Phone),
    ("ITEL", "itel", Phone),
    ("SHIELD ANDROID TV", "NVIDIA", Tv),
];

/// Those that may be of letters alone, or part of a word, in the same way.
#[rustfmt::skip]
const OF_LETTERS: &[(&str, &str, Kind)] = &[
    ("BRAVIA*", "Sony", Tv),
    ("HUAWEI*", "Huawei", Phone),
    ("HONOR*", "Honor", Phone),
    ("AFT*", "Amazon", Tv),
    ("KF*", "Amazon", Tablet),
];

/// The kind and system of an identifier of Apple, for example `iPhone14,5`, `Mac14,2`, `AudioAccessory5,1`.
pub(super) fn apple(identifier: &str) -> Option<Hint> {
    let (_, kind, system) = APPLE.iter().find(|(start, ..)| {
        identifier
            .strip_prefix(start)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })?;
    Some(
        Hint::new()
            .vendor("Apple", 0.95)
            .kind(*kind, 0.95)
            .system(system, 0.9),
    )
}

const APPLE: &[(&str, Kind, &str)] = &[
    ("iPhone", Phone, "iOS"),
    ("iPod", Phone, "iOS"),
    ("iPad", Tablet, "iOS"),
    ("MacBookPro", Computer, "macOS"),
    ("MacBookAir", Computer, "macOS"),
    ("MacBook", Computer, "macOS"),
    ("Macmini", Computer, "macOS"),
    ("MacPro", Computer, "macOS"),
    ("iMacPro", Computer, "macOS"),
    ("iMac", Computer, "macOS"),
    ("Mac", Computer, "macOS"),
    ("AppleTV", Tv, "tvOS"),
    ("AudioAccessory", Iot, "audioOS"),
    ("Watch", Iot, "watchOS"),
    ("AirPort", Router, "AirPort"),
];

/// The maker that a device names in its own words, as in `manufacturer=samsung`.
pub(super) fn maker(word: &str) -> Option<&'static str> {
    let word = word.trim().to_lowercase();
    MAKERS
        .iter()
        .find(|(begins, _)| {
            word.strip_prefix(begins)
                .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        })
        .map(|(_, maker)| *maker)
}

#[rustfmt::skip]
const MAKERS: &[(&str, &str)] = &[
    ("apple", "Apple"), ("samsung", "Samsung"), ("xiaomi", "Xiaomi"), ("redmi", "Xiaomi"),
    ("poco", "Xiaomi"), ("huawei", "Huawei"), ("honor", "Honor"), ("oppo", "OPPO"),
    ("vivo", "vivo"), ("oneplus", "OnePlus"), ("realme", "realme"), ("google", "Google"),
    ("motorola", "Motorola"), ("nokia", "Nokia"), ("hmd global", "Nokia"), ("sony", "Sony"),
    ("lge", "LG"), ("lg", "LG"), ("amazon", "Amazon"), ("roku", "Roku"), ("sonos", "Sonos"),
    ("philips", "Philips"), ("signify", "Philips"), ("tcl", "TCL"), ("hisense", "Hisense"),
    ("panasonic", "Panasonic"), ("sharp", "Sharp"), ("vizio", "Vizio"), ("hp", "HP"),
    ("hewlett-packard", "HP"), ("canon", "Canon"), ("epson", "Epson"), ("brother", "Brother"),
    ("samsung electronics", "Samsung"), ("lenovo", "Lenovo"), ("asus", "ASUS"), ("htc", "HTC"),
    ("nvidia", "NVIDIA"), ("bose", "Bose"), ("tecno", "TECNO"), ("infinix", "Infinix"),
    ("fairphone", "Fairphone"), ("kyocera", "Kyocera"), ("lexmark", "Lexmark"), ("xerox", "Xerox"),
    ("synology", "Synology"), ("qnap", "QNAP"), ("denon", "Denon"), ("yamaha", "Yamaha"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(hint: Option<Hint>) -> Option<(&'static str, Kind)> {
        let hint = hint?;
        Some((hint.vendor?.0, hint.kind?.0))
    }

    #[test]
    fn models_of_android() {
        let check = |model: &str, expected| assert_eq!(of(android(model)), expected, "{model}");
        check("Redmi Note 8", Some(("Xiaomi", Phone)));
        check("Redmi Pad SE", Some(("Xiaomi", Tablet)));
        check("MI 3W", Some(("Xiaomi", Phone)));
        check("M2003J15SC", Some(("Xiaomi", Phone)));
        check("MITV-MOOQ0", Some(("Xiaomi", Tv)));
        check("SM-G991B", Some(("Samsung", Phone)));
        check("SM-T805", Some(("Samsung", Tablet)));
        check("SM-R870", Some(("Samsung", Iot)));
        check("GT-N8010", Some(("Samsung", Tablet)));
        check("GT-N7100", Some(("Samsung", Phone)));
        check("Pixel 6a", Some(("Google", Phone)));
        check("Pixel Tablet", Some(("Google", Tablet)));
        check("CPH2305", Some(("OPPO", Phone)));
        check("moto g(7) power", Some(("Motorola", Phone)));
        check("KFTRWI", Some(("Amazon", Tablet)));
        check("AFTMM", Some(("Amazon", Tv)));
        // Only whole words and numbers.
        check("Pixelated", None);
        check("SM-Txyz", None);
        check("CPHONE", None);
        check("", None);
    }

    #[test]
    fn identifiers_of_apple() {
        let check = |model: &str, expected| assert_eq!(of(apple(model)), expected, "{model}");
        check("iPhone14,5", Some(("Apple", Phone)));
        check("iPad13,4", Some(("Apple", Tablet)));
        check("MacBookPro18,1", Some(("Apple", Computer)));
        check("Mac14,2", Some(("Apple", Computer)));
        check("AppleTV11,1", Some(("Apple", Tv)));
        check("AudioAccessory5,1", Some(("Apple", Iot)));
        // Samba and network storage pretend.
        check("MacSamba", None);
        check("Xserve", None);
        check("iPhone", None);
    }

    #[test]
    fn makers() {
        let check = |word: &str, expected| assert_eq!(maker(word), expected, "{word}");
        check("samsung", Some("Samsung"));
        check("Samsung Electronics", Some("Samsung"));
        check(" LG Electronics", Some("LG"));
        check("HP LaserJet 400", Some("HP"));
        check("hpx", None);
        check("", None);
    }

    #[test]
    fn no_row_hides_another() {
        for (pattern, vendor, kind) in ANDROID.iter().chain(OF_LETTERS) {
            let text = pattern
                .replace('#', "1")
                .replace('*', "")
                .replace('@', "A1");
            assert_eq!(of(android(&text)), Some((*vendor, *kind)), "{pattern}");
        }
    }
}
