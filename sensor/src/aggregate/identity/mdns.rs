//! The services that a device offers in multicast DNS (RFC 6762, RFC 6763): their names, and the facts about
//! the device in their TXT records.

use super::{
    clue::{Clue, Hint, clean},
    host_name::{MAX_NAME, has_word},
    product,
};
use crate::model::Kind::{Computer, Iot, Phone, Router, Tv};

/// The suggestions of a service that the device itself offers. `kind` is `_airplay._tcp`, with or without
/// `.local` after it; `text` are the items of its TXT record.
pub(super) fn clue(kind: &str, instance: &str, text: &[(String, String)]) -> Clue {
    let service = kind.split('.').next().unwrap_or_default().to_lowercase();
    let item = |keys: &[&str]| {
        text.iter()
            .find(|(key, value)| {
                !value.is_empty() && keys.iter().any(|known| key.eq_ignore_ascii_case(known))
            })
            .map(|(_, value)| value.as_str())
    };
    let Some((_, hint, instance_is_name)) = SERVICES.iter().find(|(name, ..)| *name == service)
    else {
        return Clue::default();
    };
    let mut clue = Clue::from(*hint);
    let model = match service.as_str() {
        "_ipp" | "_ipps" | "_printer" | "_pdl-datastream" | "_scanner" | "_uscan" | "_uscans" => {
            // `queue @ host`: a computer that shares its printer.
            if instance.contains(" @ ") {
                return Clue::default();
            }
            item(&["ty", "usb_mdl", "product"])
        }
        _ => item(&["md", "model", "am", "rpmd", "modelname", "ty"]),
    };
    if let Some(model) = model {
        let device = product::apple(model)
            .or_else(|| of_accessory(&service, model, item(&["ci"])))
            .unwrap_or_default();
        clue.hint = device.or(clue.hint);
        let model = clean(model.trim_matches(['(', ')']), MAX_NAME);
        clue.model = (!model.is_empty()).then_some((model, 0.85));
    }
    let maker = item(&["manufacturer", "usb_mfg", "mf", "vendor"]).or(model);
    if let Some(maker) = maker.and_then(product::maker) {
        clue.hint.vendor = Some((maker, 0.9));
    }
    let name = match service.as_str() {
        "_googlecast" => item(&["fn"]),
        // `5855CA1AE288@Living room`
        "_raop" => instance.split_once('@').map(|(_, name)| name),
        _ => Some(instance).filter(|_| *instance_is_name),
    };
    let name = name.map(|name| clean(name, MAX_NAME));
    clue.name = name.filter(|name| !name.is_empty()).map(|name| (name, 0.7));
    clue
}

/// The suggestions of the model of a cast device or of a HomeKit accessory, beyond those of the service.
fn of_accessory(service: &str, model: &str, category: Option<&str>) -> Option<Hint> {
    let has = |words: &[&'static str]| words.iter().any(|word| has_word(model, word));
    match service {
        "_googlecast" if has(&["chromecast"]) && !has(&["audio"]) => {
            Some(Hint::new().kind(Tv, 0.95).vendor("Google", 0.9))
        }
        "_googlecast" if has(&["google-home", "nest", "chromecast-audio"]) => {
            Some(Hint::new().kind(Iot, 0.95).vendor("Google", 0.95))
        }
        // The categories of Apple's HomeKit accessory protocol.
        "_hap" => match category? {
            "31" => Some(Hint::new().kind(Tv, 0.9)),
            "33" => Some(Hint::new().kind(Router, 0.9)),
            _ => None,
        },
        _ => None,
    }
}

/// Services, their suggestions, and whether the instance is a name that the owner gave.
#[rustfmt::skip]
const SERVICES: &[(&str, Hint, bool)] = &[
    // AirPlay is in sets of many makers; the model tells.
    ("_airplay", Hint::new().kind(Tv, 0.4), true),
    ("_raop", Hint::new(), true),
    ("_companion-link", Hint::new().vendor("Apple", 0.85), true),
    ("_device-info", Hint::new(), true),
    ("_apple-mobdev2", Hint::new().kind(Phone, 0.6).vendor("Apple", 0.9).system("iOS", 0.85), false),
    ("_apple-mobdev", Hint::new().kind(Phone, 0.6).vendor("Apple", 0.9).system("iOS", 0.85), false),
    ("_airport", Hint::new().kind(Router, 0.9).vendor("Apple", 0.9), true),
    ("_sleep-proxy", Hint::new().vendor("Apple", 0.7), false),
    ("_googlecast", Hint::new().kind(Tv, 0.6), false),
    ("_androidtvremote2", Hint::new().kind(Tv, 0.95).system("Android", 0.9), true),
    ("_androidtvremote", Hint::new().kind(Tv, 0.95).system("Android", 0.9), true),
    ("_amzn-wplay", Hint::new().kind(Tv, 0.8).vendor("Amazon", 0.85), false),
    ("_amzn-alexa", Hint::new().kind(Iot, 0.6).vendor("Amazon", 0.7), false),
    ("_viziocast", Hint::new().kind(Tv, 0.95).vendor("Vizio", 0.95), true),
    ("_samsungmsf", Hint::new().kind(Tv, 0.85).vendor("Samsung", 0.9), true),
    ("_philipstv_rpc", Hint::new().kind(Tv, 0.95).vendor("Philips", 0.9), true),
    ("_philipstv_s_rpc", Hint::new().kind(Tv, 0.95).vendor("Philips", 0.9), true),
    // Quick Share of Android, and the like of Xiaomi.
    ("_fc9f5ed42c8a", Hint::new().kind(Phone, 0.4).system("Android", 0.6), false),
    ("_mi-connect", Hint::new().kind(Phone, 0.5).vendor("Xiaomi", 0.8).system("Android", 0.6), false),
    ("_miio", Hint::new().kind(Iot, 0.9).vendor("Xiaomi", 0.7), false),
    ("_dosvc", Hint::new().kind(Computer, 0.75).system("Windows", 0.9), false),
    ("_ipp", Hint::new().kind(Iot, 0.85), true),
    ("_ipps", Hint::new().kind(Iot, 0.85), true),
    ("_printer", Hint::new().kind(Iot, 0.8), true),
    ("_pdl-datastream", Hint::new().kind(Iot, 0.85), true),
    ("_scanner", Hint::new().kind(Iot, 0.8), true),
    ("_uscan", Hint::new().kind(Iot, 0.85), true),
    ("_uscans", Hint::new().kind(Iot, 0.85), true),
    ("_hap", Hint::new().kind(Iot, 0.85), true),
    ("_matter", Hint::new().kind(Iot, 0.8), false),
    ("_matterc", Hint::new().kind(Iot, 0.8), false),
    ("_hue", Hint::new().kind(Iot, 0.95).vendor("Philips", 0.95), true),
    ("_sonos", Hint::new().kind(Iot, 0.95).vendor("Sonos", 0.95), false),
    ("_shelly", Hint::new().kind(Iot, 0.95).vendor("Shelly", 0.95), false),
    ("_esphomelib", Hint::new().kind(Iot, 0.95), false),
    ("_wled", Hint::new().kind(Iot, 0.95), false),
    ("_spotify-connect", Hint::new().kind(Iot, 0.3), false),
    ("_axis-video", Hint::new().kind(Iot, 0.95).vendor("Axis", 0.95), true),
    ("_nvstream", Hint::new().kind(Computer, 0.5), false),
    ("_workstation", Hint::new().kind(Computer, 0.5).system("Linux", 0.5), false),
    ("_smb", Hint::new().kind(Computer, 0.5), true),
    ("_afpovertcp", Hint::new().kind(Computer, 0.5), true),
    ("_adisk", Hint::new().kind(Computer, 0.5), false),
    ("_ssh", Hint::new().kind(Computer, 0.5), false),
    ("_sftp-ssh", Hint::new().kind(Computer, 0.5), false),
    ("_rfb", Hint::new().kind(Computer, 0.6), false),
    ("_nfs", Hint::new().kind(Computer, 0.5), false),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn services() {
        type Expected<'a> = (
            Option<Kind>,
            Option<&'a str>,
            Option<&'a str>,
            Option<&'a str>,
        );
        let check = |kind: &str, instance: &str, text: &[(&str, &str)], expected: Expected<'_>| {
            let text: Vec<_> = text
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            let clue = clue(kind, instance, &text);
            let found = (
                clue.hint.kind.map(|(kind, _)| kind),
                clue.hint.vendor.map(|(vendor, _)| vendor),
                clue.model.as_ref().map(|(model, _)| model.as_str()),
                clue.name.as_ref().map(|(name, _)| name.as_str()),
            );
            assert_eq!(found, expected, "{instance}.{kind} {text:?}");
        };
        check(
            "_device-info._tcp.local",
            "Luca\u{2019}s iMac",
            &[("model", "iMac12,2")],
            (
                Some(Computer),
                Some("Apple"),
                Some("iMac12,2"),
                Some("Luca\u{2019}s iMac"),
            ),
        );
        check(
            "_airplay._tcp",
            "Living room",
            &[("model", "AppleTV6,2")],
            (
                Some(Tv),
                Some("Apple"),
                Some("AppleTV6,2"),
                Some("Living room"),
            ),
        );
        check(
            "_airplay._tcp",
            "TV",
            &[("manufacturer", "Samsung"), ("model", "UQ75Q60")],
            (Some(Tv), Some("Samsung"), Some("UQ75Q60"), Some("TV")),
        );
        check(
            "_raop._tcp",
            "5855CA1AE288@Kitchen",
            &[("am", "AudioAccessory5,1")],
            (
                Some(Iot),
                Some("Apple"),
                Some("AudioAccessory5,1"),
                Some("Kitchen"),
            ),
        );
        check(
            "_googlecast._tcp",
            "Chromecast-1a2b",
            &[("fn", "Living room"), ("md", "Chromecast Ultra")],
            (
                Some(Tv),
                Some("Google"),
                Some("Chromecast Ultra"),
                Some("Living room"),
            ),
        );
        check(
            "_googlecast._tcp",
            "Google-Home-Mini-1a2b",
            &[("fn", "Kitchen"), ("md", "Google Home Mini")],
            (
                Some(Iot),
                Some("Google"),
                Some("Google Home Mini"),
                Some("Kitchen"),
            ),
        );
        check(
            "_googlecast._tcp",
            "Honest-1a2b",
            &[("fn", "Kitchen"), ("md", "Honest Speaker")],
            (Some(Tv), None, Some("Honest Speaker"), Some("Kitchen")),
        );
        check(
            "_ipp._tcp",
            "HP LaserJet 400",
            &[("ty", "HP LaserJet 400 MFP")],
            (
                Some(Iot),
                Some("HP"),
                Some("HP LaserJet 400 MFP"),
                Some("HP LaserJet 400"),
            ),
        );
        check(
            "_ipp._tcp",
            "HP LaserJet @ annas-pc",
            &[("ty", "HP LaserJet")],
            (None, None, None, None),
        );
        check(
            "_hap._tcp",
            "Lamp",
            &[("md", "LB1"), ("ci", "5")],
            (Some(Iot), None, Some("LB1"), Some("Lamp")),
        );
        check(
            "_hap._tcp",
            "Set",
            &[("md", "X"), ("ci", "31")],
            (Some(Tv), None, Some("X"), Some("Set")),
        );
        check(
            "_workstation._tcp",
            "pi [b8:27:eb:00:00:01]",
            &[],
            (Some(Computer), None, None, None),
        );
        check(
            "_http._tcp",
            "anything",
            &[("md", "x")],
            (None, None, None, None),
        );
        check("", "", &[], (None, None, None, None));
    }
}
