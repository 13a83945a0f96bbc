//! The overrides by commands, on disk: they outlive the daemon, and a boot of the machine.
//!
//! `--for 2h` lasts two hours, even if the wall clock is set meanwhile. While the machine runs, its end
//! goes by the time since boot, which the next daemon of the same boot reads too. After another boot only
//! the time that was left when the file was written is known. While the clock is not set, nobody knows for
//! how long the machine was off: the rest is counted from when the clock is set.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    moment::Moment,
    policy::{DeviceSelector, Holds, Override},
    state,
};

/// An override in the file.
#[derive(Serialize, Deserialize)]
struct Line {
    domain: String,
    device: Option<DeviceSelector>,
    blocks: bool,
    /// In seconds since the Unix epoch, as the wall clock showed it.
    since: f64,
    /// When it is over by the wall clock, as earlier versions wrote it.
    #[serde(default, skip_serializing)]
    until: Option<f64>,
    /// How many seconds were left when the file was written; left out: it holds until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<f64>,
    /// When it is over by the time since boot, in seconds, and in which boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<Ends>,
}

/// The end of something, by the time since boot.
#[derive(Serialize, Deserialize)]
pub(super) struct Ends {
    since_boot: f64,
    boot: String,
}

/// The overrides by commands from before the daemon began that still hold.
///
/// # Errors
///
/// The file cannot be read, or its content is damaged.
pub(super) fn read(file: &Path, now: &Moment) -> anyhow::Result<Vec<Override>> {
    let lines: Vec<Line> = state::read(file)?;
    let said = lines.into_iter().map(|line| Override {
        holds: holds(line.ends.as_ref(), left(&line, now), now),
        domain: line.domain,
        device: line.device,
        blocks: line.blocks,
        since: line.since,
    });
    Ok(said.filter(|said| said.holds.at(now.steady)).collect())
}

fn left(line: &Line, now: &Moment) -> Option<f64> {
    line.left.or_else(|| Some(line.until? - now.wall))
}

/// How long something holds of which `left` seconds were left when the file was written.
pub(super) fn holds(ends: Option<&Ends>, left: Option<f64>, now: &Moment) -> Holds {
    match (ends, left) {
        (Some(ends), _) if now.boot != 0 && ends.boot == boot_text(now) => {
            Holds::Until(now.steady - now.since_boot + ends.since_boot)
        }
        (_, Some(left)) if now.is_known => Holds::Until(now.steady + left),
        (_, Some(left)) => Holds::Rest(left),
        (_, None) => Holds::Always,
    }
}

/// Writes the overrides by commands; they are on disk when this returns.
///
/// # Errors
///
/// It cannot be written.
pub(super) fn write(file: &Path, said: &[Override], now: &Moment) -> anyhow::Result<()> {
    let lines = said.iter().map(|said| {
        let (left, ends) = rest(said.holds, now);
        Line {
            domain: said.domain.clone(),
            device: said.device.clone(),
            blocks: said.blocks,
            since: said.since,
            until: None,
            left,
            ends,
        }
    });
    state::write(file, &lines.collect::<Vec<_>>())
}

/// The seconds that are left of something, and when it ends by the time since boot, for the file.
pub(super) fn rest(holds: Holds, now: &Moment) -> (Option<f64>, Option<Ends>) {
    match holds {
        Holds::Always => (None, None),
        Holds::Rest(left) => (Some(left), None),
        Holds::Until(until) => {
            let left = (until - now.steady).max(0.0);
            let ends = Ends {
                since_boot: now.since_boot + left,
                boot: boot_text(now),
            };
            (Some(left), Some(ends))
        }
    }
}

fn boot_text(now: &Moment) -> String {
    format!("{:032x}", now.boot)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NOW: f64 = 1_795_000_000.0;
    const YEARS: f64 = 56.0 * 365.25 * 86_400.0;
    const TWO_HOURS: f64 = 7_200.0;

    /// So many seconds after a start, with a wall clock that was set by this much since.
    fn moment(boot: u128, base: f64, seconds: f64, step: f64) -> Moment {
        Moment {
            steady: base + seconds,
            wall: base + seconds + step,
            is_known: true,
            since_boot: 100.0 + seconds,
            boot,
        }
    }

    fn said(holds: Holds) -> Override {
        Override {
            domain: "ads.example".to_owned(),
            device: None,
            blocks: true,
            since: NOW,
            holds,
        }
    }

    #[test]
    fn two_hours_are_two_hours() -> anyhow::Result<()> {
        let folder = std::env::temp_dir().join(format!("sensor-kept-{}", std::process::id()));
        let file = folder.join("commands.json");
        for step in [-YEARS, YEARS, -3_600.0, 3_600.0, 0.0] {
            let begun = moment(7, NOW, 0.0, 0.0);
            let holds = Holds::Until(begun.steady + TWO_HOURS);
            write(&file, &[said(holds), said(Holds::Always)], &begun)?;
            // The clock is set, and the daemon restarts, an hour later: its steady time begins anew.
            let restarted = Moment {
                steady: NOW + step + 3_600.0,
                ..moment(7, NOW, 3_600.0, step)
            };
            let kept = read(&file, &restarted)?;
            assert_eq!(kept.len(), 2);
            let Holds::Until(until) = kept[0].holds else {
                panic!("{kept:?}");
            };
            assert!((until - restarted.steady - 3_600.0).abs() < 1e-3, "{step}");
            assert_eq!(kept[1].holds, Holds::Always);
            // Over while no daemon ran.
            let late = moment(7, NOW, TWO_HOURS + 1.0, step);
            assert_eq!(read(&file, &late)?.len(), 1);

            // Another boot: the time that was left when the file was written counts from when the clock is
            // known.
            write(&file, &kept, &restarted)?;
            let booted = Moment {
                is_known: false,
                ..moment(8, 0.0, 30.0, 0.0)
            };
            let waits = read(&file, &booted)?;
            let Holds::Rest(rest) = waits[0].holds else {
                panic!("{waits:?}");
            };
            assert!((rest - 3_600.0).abs() < 1e-3);
            // Written again before it is known, nothing is lost of it.
            write(&file, &waits, &booted)?;
            let again = moment(9, NOW, 0.0, 0.0);
            let kept = read(&file, &again)?;
            assert!(
                matches!(kept[0].holds, Holds::Until(until) if (until - again.steady - rest).abs() < 1e-3)
            );
        }
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    #[test]
    fn what_earlier_versions_wrote_is_read() -> anyhow::Result<()> {
        let folder = std::env::temp_dir().join(format!("sensor-earlier-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let file = folder.join("commands.json");
        fs::write(
            &file,
            format!(
                "[{{\"domain\":\"a.example\",\"device\":null,\"blocks\":true,\"since\":1.0,\
                 \"until\":{}}},{{\"domain\":\"b.example\",\"device\":null,\"blocks\":false,\
                 \"since\":1.0,\"until\":null}}]",
                NOW + 60.0
            ),
        )?;
        let kept = read(&file, &Moment::from(NOW))?;
        assert_eq!(kept[0].holds, Holds::Until(NOW + 60.0));
        assert_eq!(kept[1].holds, Holds::Always);
        fs::remove_dir_all(&folder)?;
        Ok(())
    }
}
