//! Values of the configuration as arguments of the command line: the same rules, and each problem
//! in one sentence.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use super::{
    DeviceOverride, read,
    value::{self, Complaint},
};
use crate::policy::{
    DeviceSelector, Transport,
    explain::{Subject, What},
};

/// The longest time for which a `sensor block` or `sensor allow` may hold, if it has an end.
pub const LONGEST_OVERRIDE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long a `sensor block` or `sensor allow` may hold.
const HOLDS: RangeInclusive<Duration> = Duration::from_secs(60)..=LONGEST_OVERRIDE;

/// Reads a name that stands for itself and all below it, as in `domains`.
///
/// # Errors
/// The problem with it, and its remedy.
pub fn domain(text: &str) -> Result<String, String> {
    // The help for an address names a key of the file.
    if value::remote(text).is_ok() {
        return Err(format!(
            "`{}` is an address, and commands are about names; a policy with `remotes` is about \
             addresses",
            value::excerpt(text)
        ));
    }
    value::domain(text).map_err(|complaint| sentence(&complaint))
}

/// Reads how long a command holds: a duration as in the configuration, 1 minute to 1 year.
///
/// # Errors
/// The problem with it, and its remedy.
pub fn holds_for(text: &str) -> Result<Duration, String> {
    let duration = value::duration(text).map_err(|complaint| sentence(&complaint))?;
    match HOLDS.contains(&duration) {
        true => Ok(duration),
        false => Err(format!(
            "may be {} to {}; without it, the command holds until `sensor forget` or `sensor resume`",
            value::duration_text(*HOLDS.start()),
            value::duration_text(*HOLDS.end()),
        )),
    }
}

/// Reads how far back a command looks: a duration as in the configuration, 1 minute to 10 years.
///
/// # Errors
/// The problem with it, and its remedy.
pub fn since(text: &str) -> Result<Duration, String> {
    const SPAN: RangeInclusive<Duration> =
        Duration::from_secs(60)..=Duration::from_hours(24 * 3_650);

    let duration = value::duration(text).map_err(|complaint| sentence(&complaint))?;
    match SPAN.contains(&duration) {
        true => Ok(duration),
        false => Err(format!(
            "may be {} to {}",
            value::duration_text(*SPAN.start()),
            value::duration_text(*SPAN.end()),
        )),
    }
}

/// Devices, as in `devices`.
///
/// # Errors
/// The problem with it, and its remedy.
pub fn devices(text: &str, known: &[DeviceOverride]) -> Result<DeviceSelector, String> {
    read::devices_called(text, known).map_err(|complaint| sentence(&complaint))
}

/// Reads devices, as in `devices`, or by a name or an IP address: only a daemon knows whether the sensor has
/// found one with it.
///
/// # Errors
/// The problem with it, and its remedy.
pub fn said_devices(text: &str, known: &[DeviceOverride]) -> Result<DeviceSelector, String> {
    devices(text, known).or_else(|error| {
        let is_address = text.parse::<IpAddr>().is_ok();
        let is_other = value::is_meant_as_mac(text) || text.contains(':');
        match is_address || !is_other && !text.trim().is_empty() {
            true => Ok(DeviceSelector::Name(text.to_owned())),
            false => Err(error),
        }
    })
}

/// A name or an address, and perhaps a port: `a.example`, `a.example:443`, `192.0.2.1:443`,
/// `[2001:db8::1]:443`.
///
/// # Errors
/// The problem with it, and its remedy.
pub fn subject(text: &str) -> Result<Subject, String> {
    let of_address = |address: IpAddr, port| Subject {
        what: What::Address(address.to_canonical()),
        port,
    };
    if let Ok(address) = text.parse() {
        return Ok(of_address(address, None));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(of_address(address.ip(), Some(address.port())));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => {
            let port = value::ports(port)
                .ok()
                .filter(|range| range.first == range.last && range.transport == Transport::Any);
            let port = port.ok_or("behind the colon stands a port, 1 to 65535")?;
            (name, Some(port.first))
        }
        None => (text, None),
    };
    let name = value::domain(name).map_err(|complaint| sentence(&complaint))?;
    Ok(Subject {
        what: What::Name(name),
        port,
    })
}

fn sentence(complaint: &Complaint) -> String {
    format!(
        "{} ({}): {}",
        complaint.message, complaint.label, complaint.help
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn what_is_typed_follows_the_rules_of_the_file() {
        assert_eq!(domain("*.Ads.Example.").as_deref(), Ok("ads.example"));
        for wrong in ["", "word", "a..example", "192.0.2.1", "http://a.example/"] {
            assert!(domain(wrong).is_err(), "{wrong}");
        }
        assert_eq!(holds_for("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(holds_for("365d"), Ok(Duration::from_secs(31_536_000)));
        for (text, minutes) in [("2h30m", 150), ("1d 2h 3m", 1_563), ("30m30m", 60)] {
            assert_eq!(holds_for(text), Ok(Duration::from_mins(minutes)), "{text}");
        }
        for wrong in [
            "59s", "366d", "2", "2 hours", "", "2h30", "2h30x", "365d1m", "2hm",
        ] {
            assert!(holds_for(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_explained_is_a_name_or_an_address_with_a_port_or_without() {
        for text in [
            "a.example",
            "a.example:8443",
            "192.0.2.1",
            "192.0.2.1:443",
            "2001:db8::1",
            "[2001:db8::1]:443",
        ] {
            let subject = subject(text).map(|subject| subject.to_string());
            assert_eq!(subject.as_deref(), Ok(text));
        }
        for wrong in [
            "word",
            "a.example:0",
            "a.example:tcp/443",
            "192.0.2.0/24",
            "a b",
        ] {
            assert!(subject(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn devices_are_typed_as_they_are_printed() {
        let known = [DeviceOverride {
            mac: [2, 0, 0, 0, 0, 1],
            name: Some("Anna's phone".to_owned()),
            kind: None,
            vendor: None,
            groups: vec!["kids".to_owned()],
            history: true,
            show_sites: false,
        }];
        for (text, expected) in [
            (
                "a4:50:46:1f:00:2c",
                DeviceSelector::Mac([0xa4, 0x50, 0x46, 0x1f, 0, 0x2c]),
            ),
            (
                "Anna's phone",
                DeviceSelector::Name("Anna's phone".to_owned()),
            ),
            ("group:kids", DeviceSelector::Group("kids".to_owned())),
            ("vendor:Xiaomi", DeviceSelector::Vendor("Xiaomi".to_owned())),
            ("kind:phone", DeviceSelector::Kind(Kind::Phone)),
        ] {
            assert_eq!(expected.to_string(), text);
            assert_eq!(devices(text, &known), Ok(expected));
        }
        for wrong in ["anna", "group:parents", "kind:toaster", "a4:50:46:1f:00"] {
            let error = devices(wrong, &known).expect_err("it is not known");
            assert!(error.contains(": "), "{error}");
        }
        // Which names were found out, the daemon knows.
        let found = DeviceSelector::Name("Pixel-7".to_owned());
        assert_eq!(said_devices("Pixel-7", &known), Ok(found));
        for wrong in ["", "group:parents", "kind:toaster", "a4:50:46:1f:00"] {
            assert_eq!(said_devices(wrong, &known), devices(wrong, &known));
        }
    }
}
