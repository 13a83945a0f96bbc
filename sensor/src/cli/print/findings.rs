//! The output of `findings`.

use std::io::{self, Write};

use super::text::{ago, counted, counted_u64, printable};
use crate::model::{
    echo::{DeviceEchoes, Echo, IdleUploads, Reach, Stack},
    text::chance,
};

/// Prints what devices do after visits, those without an echo last; `now` is in seconds since the Unix epoch.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_findings(out: &mut impl Write, devices: &[DeviceEchoes], now: f64) -> io::Result<()> {
    if devices.is_empty() {
        return writeln!(out, "no website visits were seen since the daemon started");
    }
    let mut devices: Vec<_> = devices.iter().collect();
    devices.sort_by_key(|device| device.echoes.is_empty());
    for (number, device) in devices.into_iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        print_device(out, device, now)?;
    }
    Ok(())
}

fn print_device(out: &mut impl Write, device: &DeviceEchoes, now: f64) -> io::Result<()> {
    let name = device.name.as_deref().unwrap_or(&device.device);
    let since = ago(device.since, now);
    writeln!(
        out,
        "{} ({} website visits seen)",
        printable(name),
        device.visits
    )?;
    let (pages, others): (Vec<_>, Vec<_>) =
        device.echoes.iter().partition(|echo| is_of_pages(echo));
    for echo in &others {
        print_echo(out, echo, now)?;
    }
    for echo in &device.earlier {
        let lag = counted_u64(echo.lag.into(), "second", "seconds");
        writeln!(
            out,
            "  Found on {}, before the daemon started: sends data to {} after {} of {} website visits, {lag} later.",
            printable(&echo.found_on),
            printable(&echo.name),
            echo.followed,
            echo.visits
        )?;
    }
    match pages.len() {
        0 if !others.is_empty() || !device.earlier.is_empty() => {}
        0 if device.looks == 0 => writeln!(
            out,
            "  Too few visits yet ({} of about {})",
            device.visits, device.next_look
        )?,
        0 => writeln!(out, "  No link to browsing found")?,
        count => {
            let parties = counted(count, "party is", "parties are");
            writeln!(
                out,
                "  {parties} built into pages: contacted after visits to some sites, always the same"
            )?;
        }
    }
    for idle in device.idle.iter().filter(|idle| idle.category.is_some()) {
        print_idle(out, idle, device.idle_seconds)?;
    }
    let cut = match device.is_cut {
        true => "; older visits had no room",
        false => "",
    };
    writeln!(
        out,
        "  From visits and uploads since {since}{cut}. What is sent cannot be seen."
    )
}

fn print_idle(out: &mut impl Write, idle: &IdleUploads, seconds: u32) -> io::Result<()> {
    let every = match idle.every {
        Some(seconds) if seconds < 90.0 => format!("one every {seconds:.0} s"),
        Some(seconds) => format!("one every {:.1} min", seconds / 60.0),
        None => "at irregular intervals".to_owned(),
    };
    writeln!(
        out,
        "  Sent data to {} {} in the last 24 hours while no website was opened and nothing streamed ({:.1} h), {every}.",
        called(idle.owner.as_deref(), &idle.name),
        counted_u64(idle.count.into(), "time", "times"),
        f64::from(seconds) / 3_600.0
    )
}

/// A party as it is called, with its owner.
fn called(owner: Option<&str>, name: &str) -> String {
    match owner {
        Some(owner) => format!("{} ({})", printable(owner), printable(name)),
        None => printable(name),
    }
}

/// Whether a party is a part of pages: no list has it, and some sites cause it.
fn is_of_pages(echo: &Echo) -> bool {
    echo.category.is_none() && echo.stack != Stack::BesideThePage && echo.reach == Reach::SomeSites
}

fn print_echo(out: &mut impl Write, echo: &Echo, now: f64) -> io::Result<()> {
    let owner = called(echo.owner.as_deref(), &echo.name);
    let lag = match echo.to <= 5 {
        true => format!(
            "within {}",
            counted_u64(echo.to.into(), "second", "seconds")
        ),
        false => format!(
            "about {} later",
            counted_u64(echo.lag.into(), "second", "seconds")
        ),
    };
    writeln!(
        out,
        "  Sends data to {owner} after {} of {} website visits, {lag}.",
        echo.followed, echo.visits
    )?;
    if let Some(control) = echo.control {
        writeln!(
            out,
            "    By comparison, at other moments: {:.0} of 100. Almost certainly no coincidence ({}, counted over \
             all {}).",
            100.0 * control,
            chance(echo.p),
            counted_u64(echo.hypotheses.into(), "party", "parties")
        )?;
    }
    let reach = match echo.reach {
        Reach::NearlyEverySite => "After visits to nearly every site".to_owned(),
        Reach::SomeSites => {
            "After visits to some sites, always the same: it may be built into those pages"
                .to_owned()
        }
        Reach::SomeSessions => "In some sessions only: one of several browsers or apps".to_owned(),
        Reach::Unclear => {
            let least = 100.0 * echo.at_least.unwrap_or(0.0);
            format!("After visits to at least {least:.0} of 100 sites")
        }
    };
    let stack = match echo.stack {
        Stack::BesideThePage => "from another network stack than the sites",
        Stack::SameStack => "from the network stack of the sites",
        Stack::NotTold => "from which network stack is not told",
    };
    writeln!(out, "    {reach}; {stack}.")?;
    if echo.is_hardly_of_sites() {
        writeln!(
            out,
            "    Most likely the device itself sends it, not the web page."
        )?;
    }
    match echo.withdrawn {
        Some(withdrawn) => writeln!(
            out,
            "    Found {}, and withdrawn {}: two looks did not show it again.",
            ago(echo.found, now),
            ago(withdrawn, now)
        ),
        None => writeln!(out, "    Found {}.", ago(echo.found, now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::echo::EarlierEcho;

    fn echo(name: &str) -> Echo {
        Echo {
            name: name.to_owned(),
            is_host: true,
            owner: Some("Xiaomi".to_owned()),
            category: Some("telemetry".to_owned()),
            found: 400.0,
            withdrawn: None,
            visits: 100,
            followed: 82,
            from: 12,
            to: 18,
            lag: 15,
            control: Some(0.04),
            p: 1e-9,
            hypotheses: 61,
            since: 0.0,
            until: 900.0,
            reach: Reach::NearlyEverySite,
            at_least: None,
            stack: Stack::BesideThePage,
            beside: 90,
            told: 90,
        }
    }

    fn printed(devices: &[DeviceEchoes]) -> String {
        let mut text = Vec::new();
        print_findings(&mut text, devices, 1_000.0).expect("there is room");
        String::from_utf8(text).expect("text")
    }

    fn device(echoes: Vec<Echo>) -> DeviceEchoes {
        DeviceEchoes {
            device: "02:00:00:00:00:01".to_owned(),
            name: Some("Redmi-Note-8".to_owned()),
            visits: 120,
            next_look: 160,
            looks: 3,
            since: 400.0,
            is_cut: false,
            echoes,
            earlier: Vec::new(),
            idle: Vec::new(),
            idle_seconds: 0,
        }
    }

    #[test]
    fn a_finding_is_a_sentence_with_its_figures() {
        let text = printed(&[device(vec![echo("sa.api.intl.miui.com")])]);
        assert_eq!(
            text,
            "Redmi-Note-8 (120 website visits seen)\n  \
             Sends data to Xiaomi (sa.api.intl.miui.com) after 82 of 100 website visits, about 15 seconds later.\n    \
             By comparison, at other moments: 4 of 100. Almost certainly no coincidence (less than 1 in a million, \
             counted over all 61 parties).\n    \
             After visits to nearly every site; from another network stack than the sites.\n    \
             Most likely the device itself sends it, not the web page.\n    \
             Found 10 min ago.\n  \
             From visits and uploads since 10 min ago. What is sent cannot be seen.\n"
        );
    }

    #[test]
    fn only_nearly_every_site_beside_the_page_speaks_against_the_sites() {
        for (reach, stack, expected) in [
            (Reach::NearlyEverySite, Stack::BesideThePage, true),
            (Reach::NearlyEverySite, Stack::SameStack, false),
            (Reach::NearlyEverySite, Stack::NotTold, false),
            (Reach::Unclear, Stack::BesideThePage, false),
            (Reach::SomeSites, Stack::BesideThePage, false),
        ] {
            let echo = Echo {
                reach,
                stack,
                ..echo("a.example")
            };
            let text = printed(&[device(vec![echo])]);
            assert_eq!(text.contains("not the web page"), expected, "{text}");
        }
    }

    #[test]
    fn a_device_without_an_echo_has_none_found() {
        let text = printed(&[device(Vec::new())]);
        assert!(text.contains("No link to browsing found"), "{text}");
        let early = DeviceEchoes {
            visits: 12,
            next_look: 20,
            looks: 0,
            ..device(Vec::new())
        };
        assert!(printed(&[early]).contains("Too few visits yet (12 of about 20)"));
        assert!(printed(&[]).starts_with("no website visits"));
    }

    #[test]
    fn a_finding_of_before_says_its_day() {
        let earlier = EarlierEcho {
            name: "t.vendor.example".to_owned(),
            is_host: true,
            found_on: "2026-11-14".to_owned(),
            visits: 160,
            followed: 131,
            lag: 15,
        };
        let device = DeviceEchoes {
            earlier: vec![earlier],
            ..device(Vec::new())
        };
        let text = printed(&[device]);
        assert!(
            text.contains(
                "Found on 2026-11-14, before the daemon started: sends data to t.vendor.example after 131 of \
                 160 website visits, 15 seconds later."
            ),
            "{text}"
        );
        assert!(!text.contains("No link"), "{text}");
    }

    #[test]
    fn uploads_while_idle_are_told_of_parties_on_lists() {
        let idle = |name: &str, category: Option<&str>, every| IdleUploads {
            name: name.to_owned(),
            is_host: category.is_some(),
            owner: None,
            category: category.map(str::to_owned),
            count: 93,
            first: 100.0,
            last: 900.0,
            every,
        };
        let device = DeviceEchoes {
            idle: vec![
                idle("a.example", None, None),
                idle("b.example", Some("telemetry"), Some(270.0)),
                idle("c.example", Some("telemetry"), None),
            ],
            idle_seconds: 30_600,
            ..device(Vec::new())
        };
        let text = printed(&[device]);
        assert!(
            text.contains(
                "Sent data to b.example 93 times in the last 24 hours while no website was opened and nothing \
                 streamed (8.5 h), one every 4.5 min."
            ),
            "{text}"
        );
        assert!(
            text.contains("c.example 93 times") && !text.contains("a.example"),
            "{text}"
        );
    }

    #[test]
    fn parts_of_pages_are_counted_and_those_on_lists_are_named() {
        let part = |name: &str| Echo {
            category: None,
            stack: Stack::SameStack,
            reach: Reach::SomeSites,
            ..echo(name)
        };
        let withdrawn = Echo {
            withdrawn: Some(940.0),
            ..echo("tracker.example")
        };
        let text = printed(&[device(vec![
            part("a.example"),
            part("b.example"),
            withdrawn,
        ])]);
        assert!(text.contains("2 parties are built into pages"), "{text}");
        assert!(!text.contains("a.example"), "{text}");
        assert!(
            text.contains("tracker.example") && text.contains("withdrawn 60 s ago"),
            "{text}"
        );
    }
}
