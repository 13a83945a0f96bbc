//! The output of `pause` and `resume`, and the part of `status` about pauses.

use std::io::{self, Write};

use super::text::{local_time, printable};
use crate::{model::Pause, policy::Zone};

/// Prints the pause that begins.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_paused(out: &mut impl Write, pause: &Pause, zone: &Zone) -> io::Result<()> {
    writeln!(
        out,
        "policies and blocks refuse nothing to {} until {}; accounting goes on",
        whom(pause),
        until(pause, zone)
    )
}

/// Prints the pauses that ended, and those that go on.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_resumed(
    out: &mut impl Write,
    ended: &[Pause],
    others: &[Pause],
    zone: &Zone,
) -> io::Result<()> {
    for pause in ended {
        writeln!(out, "policies are in force again for {}", whom(pause))?;
    }
    print_pauses(out, others, zone)
}

/// Prints the pauses that hold; nothing where there is none.
pub(super) fn print_pauses(out: &mut impl Write, pauses: &[Pause], zone: &Zone) -> io::Result<()> {
    for pause in pauses {
        writeln!(
            out,
            "paused for {} until {}: policies and blocks refuse nothing there; `sensor resume{}` ends that",
            whom(pause),
            until(pause, zone),
            match &pause.devices {
                Some(devices) => format!(" --device '{}'", printable(devices)),
                None => String::new(),
            }
        )?;
    }
    Ok(())
}

/// When a pause ends.
pub(super) fn until(pause: &Pause, zone: &Zone) -> String {
    match pause.until {
        Some(until) => local_time(zone, until),
        None => "`sensor resume`".to_owned(),
    }
}

fn whom(pause: &Pause) -> String {
    match &pause.devices {
        Some(devices) => printable(devices),
        None => "all devices".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_says_for_whom_and_how_it_ends() -> io::Result<()> {
        let zone = Zone::named(Some("UTC"));
        let all = Pause {
            devices: None,
            since: 0.0,
            until: Some(60.0),
        };
        let phone = Pause {
            devices: Some("02:00:00:00:00:01".to_owned()),
            until: None,
            ..all.clone()
        };
        let mut text = Vec::new();
        print_paused(&mut text, &phone, &zone)?;
        print_resumed(&mut text, std::slice::from_ref(&all), &[phone], &zone)?;
        print_resumed(&mut text, &[], std::slice::from_ref(&all), &zone)?;
        let ends = until(&all, &zone);
        assert!(ends.contains("00:01"), "{ends}");
        assert_eq!(
            String::from_utf8_lossy(&text),
            format!(
                "policies and blocks refuse nothing to 02:00:00:00:00:01 until `sensor resume`; accounting goes \
                 on\n\
                 policies are in force again for all devices\n\
                 paused for 02:00:00:00:00:01 until `sensor resume`: policies and blocks refuse nothing there; \
                 `sensor resume --device '02:00:00:00:00:01'` ends that\n\
                 paused for all devices until {ends}: policies and blocks refuse nothing there; `sensor resume` \
                 ends that\n"
            )
        );
        Ok(())
    }
}
