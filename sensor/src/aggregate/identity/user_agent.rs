//! `User-Agent` of HTTP requests (RFC 9110, section 10.1.5). Browsers reduce it for the sake of privacy; the
//! services of a system send the truth.

use super::{
    clue::{Clue, Hint},
    product,
};
use crate::model::Kind::{Computer, Iot, Phone, Router, Tablet, Tv};

/// The suggestions of a `User-Agent`; none if any system may send it.
pub(super) fn clue(agent: &str) -> Clue {
    let found = AGENTS.iter().find(|(words, _)| agent.contains(words));
    if let Some((_, hint)) = found {
        return (*hint).into();
    }
    if agent.contains("Windows NT ") {
        return windows(agent);
    }
    if let Some(at) = agent.find("Android") {
        return android(agent, &agent[at..]);
    }
    if ["iPhone;", "iPad;", "iPod;"]
        .iter()
        .any(|word| agent.contains(word))
    {
        return apple_mobile(agent);
    }
    if agent.contains("Macintosh;") {
        // An iPad that shows the pages made for computers says so too.
        let hint = Hint::new()
            .kind(Computer, 0.7)
            .vendor("Apple", 0.9)
            .system("macOS", 0.7);
        // Browsers stopped to count at this version.
        let version = after(agent, "Mac OS X ").filter(|version| !version.starts_with("10.15"));
        return Clue {
            version,
            ..hint.into()
        };
    }
    let found = FURTHER_AGENTS
        .iter()
        .find(|(words, _)| agent.contains(words));
    found.map(|(_, hint)| *hint).unwrap_or_default().into()
}

fn windows(agent: &str) -> Clue {
    let version = match after(agent, "Windows NT ").as_deref() {
        Some("5.1") => Some("XP"),
        Some("6.0") => Some("Vista"),
        Some("6.1") => Some("7"),
        Some("6.2") => Some("8"),
        Some("6.3") => Some("8.1"),
        // Version 11 says this too.
        Some("10.0") => Some("10 or later"),
        _ => None,
    };
    Clue {
        version: version.map(str::to_owned),
        ..Hint::new()
            .kind(Computer, 0.75)
            .system("Windows", 0.75)
            .into()
    }
}

fn apple_mobile(agent: &str) -> Clue {
    let kind = if agent.contains("iPad;") {
        Tablet
    } else {
        Phone
    };
    Clue {
        version: after(agent, " OS "),
        ..Hint::new()
            .kind(kind, 0.85)
            .vendor("Apple", 0.9)
            .system("iOS", 0.9)
            .into()
    }
}

/// `Android 10; Redmi Note 8 Build/…`, `Android 13; SM-T805; wv) …`, and the way of Instagram:
/// `Android (19/4.4.2; 480dpi; 1080x1920; samsung; GT-I9505; …`.
fn android(agent: &str, part: &str) -> Clue {
    let end = part.find(')').unwrap_or(part.len());
    let part = &part[..end];
    let mut clue = Clue::from(Hint::new().system("Android", 0.8));
    let mut maker = None;
    let model = if let Some(list) = part.strip_prefix("Android (") {
        let mut fields = list.split(';').map(str::trim);
        let version = fields.next().and_then(|field| field.split('/').nth(1));
        clue.version = version.and_then(number);
        maker = fields.nth(2).and_then(|field| {
            let name = field.split('/').next().unwrap_or(field);
            product::maker(name)
        });
        fields.next()
    } else {
        clue.version = after(part, "Android ");
        // Behind the version there may be a language, `fr-fr`, as old versions have it.
        let mut fields = part.split(';').skip(1).map(str::trim);
        fields.find(|field| !is_language(field))
    };
    let model = model.map(|model| {
        let cut = [" Build/", " MIUI/", " Build"]
            .iter()
            .filter_map(|word| model.find(word))
            .min();
        let build = cut.map_or("", |at| &model[at..]);
        // HUAWEI and HONOR tell themselves from one another there.
        if build.contains("HONOR") {
            maker = Some("Honor");
        } else if build.contains("HUAWEI") {
            maker = Some("Huawei");
        } else if build.contains("MIUI") {
            maker = Some("Xiaomi");
        }
        model[..cut.unwrap_or(model.len())].trim()
    });
    let Some(model) = model.filter(|model| is_model(model)) else {
        // Chrome says `Android 10; K` of every device and version.
        if part.contains("; K") {
            clue.version = None;
        }
        return with_form(clue, agent);
    };
    let product = product::android(model).unwrap_or_default();
    if let Some(maker) = maker {
        clue.hint.vendor = Some((maker, 0.9));
    }
    clue.hint = clue.hint.or(product);
    clue.model = Some((model.to_owned(), 0.9));
    with_form(clue, agent)
}

/// Whether a field is a model: browsers put no model there, or one letter for all of them.
fn is_model(field: &str) -> bool {
    field.len() > 1 && !["wv", "Mobile", "Tablet"].contains(&field) && !field.starts_with("rv:")
}

/// A browser that wants pages for phones says `Mobile`; one on a tablet does not.
fn with_form(mut clue: Clue, agent: &str) -> Clue {
    let kind = if agent.contains("TV") {
        (Tv, 0.7)
    } else if agent.contains("Tablet;") {
        (Tablet, 0.7)
    } else if agent.contains("Mobile") || !agent.contains("AppleWebKit") {
        (Phone, 0.6)
    } else {
        (Tablet, 0.5)
    };
    clue.hint = clue.hint.or(Hint::new().kind(kind.0, kind.1));
    clue
}

fn is_language(field: &str) -> bool {
    let all = |part: &str| part.len() == 2 && part.bytes().all(|c| c.is_ascii_alphabetic());
    match field.split_once(['-', '_']) {
        Some((language, country)) => all(language) && all(country),
        None => all(field) || field == "U",
    }
}

/// The version that follows these words, its parts joined by dots.
fn after(agent: &str, words: &str) -> Option<String> {
    let at = agent.find(words)? + words.len();
    number(&agent[at..])
}

fn number(text: &str) -> Option<String> {
    let number: String = text
        .chars()
        .take_while(|c| c.is_ascii_digit() || ['.', '_'].contains(c))
        .take(12)
        .map(|c| if c == '_' { '.' } else { c })
        .collect();
    let number = number.trim_matches('.');
    (!number.is_empty()).then(|| number.to_owned())
}

/// Words that say more than the system's name beside them, in this order.
#[rustfmt::skip]
const AGENTS: &[(&str, Hint)] = &[
    ("Web0S", Hint::new().kind(Tv, 0.9).vendor("LG", 0.85).system("webOS", 0.9)),
    ("webOS.TV", Hint::new().kind(Tv, 0.9).vendor("LG", 0.85).system("webOS", 0.9)),
    ("NetCast", Hint::new().kind(Tv, 0.9).vendor("LG", 0.85)),
    ("Tizen", Hint::new().kind(Tv, 0.8).vendor("Samsung", 0.9).system("Tizen", 0.9)),
    ("SMART-TV", Hint::new().kind(Tv, 0.9)),
    ("SmartTV", Hint::new().kind(Tv, 0.9)),
    ("HbbTV", Hint::new().kind(Tv, 0.9)),
    ("BRAVIA", Hint::new().kind(Tv, 0.9).vendor("Sony", 0.9).system("Android", 0.7)),
    // Google Cast says on what it runs; old receivers, and those of sets, do not.
    ("DeviceType/Chromecast", Hint::new().kind(Tv, 0.9).vendor("Google", 0.85)),
    ("DeviceType/AndroidTV", Hint::new().kind(Tv, 0.9).vendor("Google", 0.4).system("Android", 0.85)),
    ("DeviceType/Smart", Hint::new().kind(Iot, 0.9).vendor("Google", 0.7)),
    ("DeviceType/Speaker", Hint::new().kind(Iot, 0.9).vendor("Google", 0.6)),
    ("DeviceType/Audio", Hint::new().kind(Iot, 0.9).vendor("Google", 0.6)),
    ("DeviceType/", Hint::new()),
    ("CrKey", Hint::new().kind(Tv, 0.5).vendor("Google", 0.7)),
    ("Roku/", Hint::new().kind(Tv, 0.9).vendor("Roku", 0.9)),
    ("AppleTV", Hint::new().kind(Tv, 0.9).vendor("Apple", 0.9).system("tvOS", 0.9)),
    ("PlayStation", Hint::new().kind(Iot, 0.85).vendor("Sony", 0.9)),
    ("Nintendo", Hint::new().kind(Iot, 0.85).vendor("Nintendo", 0.9)),
    ("Xbox", Hint::new().kind(Iot, 0.8).vendor("Microsoft", 0.85)),
    ("Sonos/", Hint::new().kind(Iot, 0.85).vendor("Sonos", 0.9)),
    ("ESP8266", Hint::new().kind(Iot, 0.9).vendor("Espressif", 0.6)),
    ("ESP32", Hint::new().kind(Iot, 0.9).vendor("Espressif", 0.6)),
    ("Shelly", Hint::new().kind(Iot, 0.85).vendor("Shelly", 0.85)),
    ("Silk/", Hint::new().kind(Tablet, 0.6).vendor("Amazon", 0.85).system("Fire OS", 0.7)),
    ("CrOS ", Hint::new().kind(Computer, 0.85).system("ChromeOS", 0.9)),
];

/// Words that count where no system is named.
#[rustfmt::skip]
const FURTHER_AGENTS: &[(&str, Hint)] = &[
    // Services of Windows itself.
    ("Microsoft-CryptoAPI", Hint::new().kind(Computer, 0.75).system("Windows", 0.9)),
    ("Microsoft-Delivery-Optimization", Hint::new().kind(Computer, 0.75).system("Windows", 0.9)),
    ("Microsoft-WebDAV-MiniRedir", Hint::new().kind(Computer, 0.75).system("Windows", 0.9)),
    ("Microsoft NCSI", Hint::new().kind(Computer, 0.75).system("Windows", 0.95)),
    ("Windows-Update-Agent", Hint::new().kind(Computer, 0.75).system("Windows", 0.95)),
    ("Microsoft BITS", Hint::new().kind(Computer, 0.75).system("Windows", 0.9)),
    ("CaptiveNetworkSupport", Hint::new().vendor("Apple", 0.95)),
    ("CFNetwork/", Hint::new().vendor("Apple", 0.85)),
    ("Darwin/", Hint::new().vendor("Apple", 0.8)),
    ("okhttp/", Hint::new().kind(Phone, 0.3).system("Android", 0.4)),
    ("Dalvik/", Hint::new().system("Android", 0.8)),
    ("MIUI", Hint::new().kind(Phone, 0.6).vendor("Xiaomi", 0.8).system("Android", 0.8)),
    ("uclient-fetch", Hint::new().kind(Router, 0.7).system("Linux", 0.8)),
    ("Debian APT-HTTP", Hint::new().kind(Computer, 0.6).system("Linux", 0.9)),
    ("libdnf", Hint::new().kind(Computer, 0.6).system("Linux", 0.9)),
    ("X11; Ubuntu", Hint::new().kind(Computer, 0.75).system("Linux", 0.8)),
    ("X11; Linux", Hint::new().kind(Computer, 0.7).system("Linux", 0.75)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn agents() {
        type Expected<'a> = (
            Option<Kind>,
            Option<&'a str>,
            Option<&'a str>,
            Option<&'a str>,
        );
        let check = |agent: &str, (kind, vendor, system, model): Expected<'_>| {
            let clue = clue(agent);
            let of = |system: &str| match &clue.version {
                Some(version) => format!("{system} {version}"),
                None => system.to_owned(),
            };
            let found = clue.hint.system.map(|(system, _)| of(system));
            assert_eq!(
                (
                    clue.hint.kind.map(|(kind, _)| kind),
                    clue.hint.vendor.map(|(vendor, _)| vendor),
                    found.as_deref(),
                    clue.model.as_ref().map(|(model, _)| model.as_str()),
                ),
                (kind, vendor, system, model),
                "{agent}"
            );
        };
        let phone = Some(Phone);
        let computer = Some(Computer);
        check(
            "Dalvik/2.1.0 (Linux; U; Android 10; Redmi Note 8 Build/QKQ1.200114.002)",
            (
                phone,
                Some("Xiaomi"),
                Some("Android 10"),
                Some("Redmi Note 8"),
            ),
        );
        // From captures.
        check(
            "Dalvik/2.1.0 (Linux; U; Android 10; Redmi Note 9 Pro MIUI/V12.0.3.0.QJZMIXM)",
            (
                phone,
                Some("Xiaomi"),
                Some("Android 10"),
                Some("Redmi Note 9 Pro"),
            ),
        );
        check(
            "Dalvik/1.6.0 (Linux; U; Android 4.4.4; MI 3W MIUI/V6.4.3.0.KXDMICB)",
            (phone, Some("Xiaomi"), Some("Android 4.4.4"), Some("MI 3W")),
        );
        check(
            "Mozilla/5.0 (Linux; Android 6.0.1; SM-T805 Build/MMB29K; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/61.0.3163.98 Safari/537.36",
            (
                Some(Tablet),
                Some("Samsung"),
                Some("Android 6.0.1"),
                Some("SM-T805"),
            ),
        );
        check(
            "Mozilla/5.0 (Linux; Android 9; JKM-LX1 Build/HUAWEIJKM-LX1; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/106.0.5249.118 Mobile Safari/537.36",
            (phone, Some("Huawei"), Some("Android 9"), Some("JKM-LX1")),
        );
        check(
            "Mozilla/5.0 (Linux; U; Android 4.0.4; fr-fr; GT-P7510 Build/IMM76D) AppleWebKit/534.30 (KHTML, like Gecko) Version/4.0 Safari/534.30",
            (
                Some(Tablet),
                Some("Samsung"),
                Some("Android 4.0.4"),
                Some("GT-P7510"),
            ),
        );
        check(
            "Mozilla/5.0 (Linux; Android 9; Nokia 2.2) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/79.0.3945.93 Mobile Safari/537.36",
            (phone, Some("Nokia"), Some("Android 9"), Some("Nokia 2.2")),
        );
        check(
            "Instagram 7.1.1 Android (19/4.4.2; 480dpi; 1080x1920; samsung; GT-I9505; jflte; qcom; it_IT)",
            (
                phone,
                Some("Samsung"),
                Some("Android 4.4.2"),
                Some("GT-I9505"),
            ),
        );
        check(
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_12_3) AppleWebKit/602.4.8 (KHTML, like Gecko) Version/10.0.3 Safari/602.4.8",
            (computer, Some("Apple"), Some("macOS 10.12.3"), None),
        );
        check(
            "Microsoft-CryptoAPI/10.0",
            (computer, None, Some("Windows"), None),
        );
        check(
            "CaptiveNetworkSupport-390.60.1 wispr",
            (None, Some("Apple"), None, None),
        );
        check("uclient-fetch", (Some(Router), None, Some("Linux"), None));
        check(
            "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:89.0) Gecko/20100101 Firefox/89.0",
            (computer, None, Some("Linux"), None),
        );
        // The reduced text of Chrome.
        check(
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36",
            (phone, None, Some("Android"), None),
        );
        check(
            "Mozilla/5.0 (Android 13; Mobile; rv:109.0) Gecko/118.0 Firefox/118.0",
            (phone, None, Some("Android 13"), None),
        );
        check(
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Safari/605.1.15",
            (computer, Some("Apple"), Some("macOS"), None),
        );
        check(
            "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.5 Mobile/15E148 Safari/604.1",
            (phone, Some("Apple"), Some("iOS 16.5.1"), None),
        );
        check(
            "Mozilla/5.0 (iPad; CPU OS 15_2 like Mac OS X) AppleWebKit/605.1.15",
            (Some(Tablet), Some("Apple"), Some("iOS 15.2"), None),
        );
        check(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/99.0.4844.74 Safari/537.36",
            (computer, None, Some("Windows 10 or later"), None),
        );
        check(
            "Mozilla/5.0 (SMART-TV; Linux; Tizen 5.0) AppleWebKit/538.1 (KHTML, like Gecko) Version/5.0 TV Safari/538.1",
            (Some(Tv), Some("Samsung"), Some("Tizen"), None),
        );
        for (device, kind) in [
            ("SmartSpeaker", Some(Iot)),
            ("SmartDisplay", Some(Iot)),
            ("Chromecast", Some(Tv)),
            ("AndroidTV", Some(Tv)),
            ("Toaster", None),
        ] {
            let agent = format!(
                "Mozilla/5.0 (X11; Linux aarch64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/92.0.4515.0 Safari/537.36 CrKey/1.56.500000 DeviceType/{device}"
            );
            let found = clue(&agent).hint.kind.map(|(kind, _)| kind);
            assert_eq!(found, kind, "{device}");
        }
        check(
            "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/79.0.3945.79 Safari/537.36",
            (Some(Tv), Some("LG"), Some("webOS"), None),
        );
        for agent in [
            "",
            "curl/7.68.0",
            "Mozilla/5.0",
            "Go-http-client/1.1",
            "Android",
            "Android (",
        ] {
            let expected = agent.contains("Android").then_some("Android");
            let clue = clue(agent);
            assert_eq!(
                clue.hint.system.map(|(system, _)| system),
                expected,
                "{agent}"
            );
            assert_eq!(
                (clue.hint.vendor, clue.model, clue.version),
                (None, None, None),
                "{agent}"
            );
        }
    }
}
