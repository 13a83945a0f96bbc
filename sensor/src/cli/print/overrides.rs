//! The output of `block`, `allow` and `forget`, and the part of `status` about them.

use std::{
    io::{self, Write},
    ops::RangeInclusive,
};

use super::text::{local_time, print_table, printable, table};
use crate::{
    control::protocol::About,
    model::OverrideState,
    policy::{Zone, explain::RefusedBefore},
};

/// Prints the override that is in force now.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_override(out: &mut impl Write, said: &OverrideState, zone: &Zone) -> io::Result<()> {
    writeln!(
        out,
        "{} and everything below it is {} for {} {}",
        printable(&said.name),
        said.is,
        whom(said),
        match (said.until, said.rest) {
            (Some(until), _) => format!("until {}", local_time(zone, until)),
            (None, Some(rest)) => when_set(rest),
            (None, None) => "until `sensor forget` takes it back".to_owned(),
        }
    )
}

/// Prints the policies that refuse an allowed name all the same, by its address, before a name is
/// sent.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_refused_before(out: &mut impl Write, refused: &[RefusedBefore]) -> io::Result<()> {
    for refused in refused {
        writeln!(
            out,
            "but not by {}{}: policy `{}` refuses that now by its address, before a name is said",
            refused.layers.join(", "),
            match refused.for_all {
                true => "",
                false => " for some of them",
            },
            refused.policy
        )?;
    }
    Ok(())
}

/// Prints the blocked names that devices would miss; nothing where there is none.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_missed(out: &mut impl Write, missed: &[impl AsRef<str>]) -> io::Result<()> {
    const SHOWN: usize = 3;

    if missed.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> = (missed.iter().take(SHOWN))
        .map(|name| printable(name.as_ref()))
        .collect();
    let more = match missed.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    writeln!(
        out,
        "careful: {}{more} is `never-block`, which devices or their owners would miss (push messages, \
         the check for an internet); `sensor allow` opens a name, `sensor forget` takes this back",
        shown.join(", "),
    )
}

/// Prints that there was no override to forget.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_none_forgotten(out: &mut impl Write, about: &About) -> io::Result<()> {
    writeln!(
        out,
        "no command said anything of {} for {}; `sensor status` lists what they said",
        printable(&about.name),
        printable(about.devices.as_deref().unwrap_or("all devices"))
    )
}

/// Prints the overrides of the same name that hold for other devices; nothing where there is none.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_others(out: &mut impl Write, others: &[OverrideState], zone: &Zone) -> io::Result<()> {
    for other in others {
        writeln!(
            out,
            "still {} for {} until {}: `sensor forget {}{}` takes that back",
            other.is,
            whom(other),
            until(other, zone),
            printable(&other.name),
            match &other.devices {
                Some(devices) => format!(" --device '{}'", printable(devices)),
                None => String::new(),
            }
        )?;
    }
    Ok(())
}

/// Prints the override that is no longer in force.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_forgotten(out: &mut impl Write, said: &OverrideState) -> io::Result<()> {
    writeln!(
        out,
        "{} is no longer {} by a command for {}: the policies of the configuration decide",
        printable(&said.name),
        said.is,
        whom(said),
    )
}

/// Prints the overrides of commands that still hold, the newest first; nothing where there is none.
pub(super) fn print_overrides(
    out: &mut impl Write,
    said: &[OverrideState],
    zone: &Zone,
) -> io::Result<()> {
    if said.is_empty() {
        return Ok(());
    }
    let mut table = table(
        ["NAME", "BY COMMAND", "DEVICES", "SINCE", "UNTIL"],
        RangeInclusive::new(1, 0),
    );
    for said in said.iter().rev() {
        table.add_row([
            said.name.clone(),
            said.is.to_owned(),
            whom(said),
            local_time(zone, said.since),
            until(said, zone),
        ]);
    }
    print_table(out, &table, "")?;
    writeln!(out)
}

/// When an override ends.
fn until(said: &OverrideState, zone: &Zone) -> String {
    match (said.until, said.rest) {
        (Some(until), _) => local_time(zone, until),
        (None, Some(rest)) => when_set(rest),
        (None, None) => "forgotten".to_owned(),
    }
}

/// The end of an override from before the last boot, while the clock is not set.
pub(super) fn when_set(rest: f64) -> String {
    let minutes = (rest / 60.0).ceil();
    format!("{minutes} min after the clock is set")
}

fn whom(said: &OverrideState) -> String {
    match &said.devices {
        Some(devices) => printable(devices),
        None => "all devices".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_tells_what_for_whom_and_until_when() -> io::Result<()> {
        let mut said = OverrideState {
            name: "ads.example".to_owned(),
            is: "blocked",
            devices: Some("group:kids".to_owned()),
            since: 1_795_000_000.0,
            until: Some(1_795_000_000.0 + 7_200.0),
            rest: None,
        };
        let zone = Zone::named(Some("Europe/Berlin"));
        let mut text = Vec::new();
        print_override(&mut text, &said, &zone)?;
        said.devices = None;
        said.is = "allowed";
        said.until = None;
        print_override(&mut text, &said, &zone)?;
        print_forgotten(&mut text, &said)?;
        assert_eq!(
            String::from_utf8_lossy(&text),
            "ads.example and everything below it is blocked for group:kids until \
             2026-11-18 14:06:40 CET\n\
             ads.example and everything below it is allowed for all devices until `sensor forget` \
             takes it back\n\
             ads.example is no longer allowed by a command for all devices: the policies of the \
             configuration decide\n"
        );
        let mut text = Vec::new();
        said.devices = Some("02:00:00:00:00:01".to_owned());
        print_others(&mut text, &[], &zone)?;
        print_others(&mut text, &[said.clone()], &zone)?;
        assert_eq!(
            String::from_utf8_lossy(&text),
            "still allowed for 02:00:00:00:00:01 until forgotten: `sensor forget ads.example --device \
             '02:00:00:00:00:01'` takes that back\n"
        );
        let mut text = Vec::new();
        print_missed(&mut text, &[""; 0])?;
        print_missed(&mut text, &["a", "b", "c", "d"])?;
        let missed = String::from_utf8_lossy(&text);
        assert!(missed.starts_with("careful: a, b, c and 1 more is `never-block`"));
        assert_eq!(missed.lines().count(), 1);
        let mut text = Vec::new();
        let refused = |policy: &str, layers: &[&'static str], for_all| RefusedBefore {
            policy: policy.to_owned(),
            layers: layers.to_vec(),
            for_all,
        };
        let refused = [
            refused("bedtime", &["dns", "tls"], true),
            refused("quic", &["quic"], false),
        ];
        print_refused_before(&mut text, &refused)?;
        assert_eq!(
            String::from_utf8_lossy(&text),
            "but not by dns, tls: policy `bedtime` refuses that now by its address, before a name is \
             said\n\
             but not by quic for some of them: policy `quic` refuses that now by its address, before \
             a name is said\n"
        );
        Ok(())
    }
}
