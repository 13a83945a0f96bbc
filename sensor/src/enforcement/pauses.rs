//! Pauses: policies and blocks by commands refuse nothing to all devices, or to some, for a time.
//!
//! A pause takes the rules that refuse away from its devices and leaves the others, so that policies go on
//! counting. Pauses are on disk: they outlive the daemon, and a boot of the machine.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::kept::{self, Ends};
use crate::{
    model,
    moment::Moment,
    policy::{DeviceFacts, DeviceSelector, Holds},
    state,
};

/// The file, in the state directory.
const FILE: &str = "pauses.json";

/// The most pauses that can hold at a time.
pub const MOST_PAUSES: usize = 1_000;

/// A time in which policies refuse nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Pause {
    /// The devices; `None`: all.
    pub device: Option<DeviceSelector>,
    /// When the command ran, in seconds since the Unix epoch; for display only.
    pub since: f64,
    /// How long it holds.
    pub holds: Holds,
}

impl Pause {
    /// The pause as shown to people; a steady time plus `offset` is the wall clock's.
    pub fn shown(&self, offset: f64) -> model::Pause {
        model::Pause {
            devices: self.device.as_ref().map(ToString::to_string),
            since: self.since,
            until: match self.holds {
                Holds::Until(until) => Some(until + offset),
                Holds::Always | Holds::Rest(_) => None,
            },
        }
    }

    fn is_of(&self, facts: &DeviceFacts<'_>) -> bool {
        self.device
            .as_ref()
            .is_none_or(|selector| facts.are(selector))
    }
}

/// A pause in the file.
#[derive(Serialize, Deserialize)]
struct Line {
    device: Option<DeviceSelector>,
    since: f64,
    /// How many seconds were left when the file was written; left out: it holds until it is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<Ends>,
}

/// The pauses that hold.
pub(super) struct Pauses {
    all: Vec<Pause>,
    file: PathBuf,
    /// When they were written last, in steady time.
    kept_at: f64,
}

impl Pauses {
    /// Those from before the daemon began that still hold.
    pub(super) fn new(folder: &Path, now: &Moment) -> Self {
        let file = folder.join(FILE);
        let lines: Vec<Line> = state::read(&file).unwrap_or_else(|error| {
            tracing::error!("{}: {error:#}; the pauses in it are over", file.display());
            Vec::new()
        });
        let all = lines.into_iter().map(|line| Pause {
            holds: match kept::holds(line.ends.as_ref(), line.left, now) {
                // A pause ends whether or not the clock is ever set.
                Holds::Rest(left) => Holds::Until(now.steady + left),
                holds => holds,
            },
            device: line.device,
            since: line.since,
        });
        Self {
            all: all.filter(|pause| pause.holds.at(now.steady)).collect(),
            file,
            kept_at: now.steady,
        }
    }

    pub(super) fn all(&self) -> &[Pause] {
        &self.all
    }

    /// The first pause that is of a device.
    pub(super) fn of(&self, facts: &DeviceFacts<'_>) -> Option<&Pause> {
        self.all.iter().find(|pause| pause.is_of(facts))
    }

    /// Whether a pause is of all devices.
    pub(super) fn are_of_all(&self) -> bool {
        self.all.iter().any(|pause| pause.device.is_none())
    }

    /// Adds a pause in the place of an earlier one of the same devices.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn add(&mut self, pause: Pause) -> anyhow::Result<()> {
        let mut all = self.all.clone();
        all.retain(|other| other.device != pause.device);
        anyhow::ensure!(
            all.len() < MOST_PAUSES,
            "there are {MOST_PAUSES} pauses already: `sensor resume` ends them"
        );
        all.push(pause);
        self.all = all;
        Ok(())
    }

    /// Removes the pause of these devices, or all pauses, and gives what was removed.
    pub(super) fn remove(&mut self, device: Option<&DeviceSelector>) -> Vec<Pause> {
        let is_meant = |pause: &mut Pause| device.is_none() || pause.device.as_ref() == device;
        self.all.extract_if(.., is_meant).collect()
    }

    /// Puts back the pauses of before.
    pub(super) fn restore(&mut self, before: Vec<Pause>) {
        self.all = before;
    }

    /// Removes those that are over, and writes from time to time how much is left of the others.
    pub(super) fn keep(&mut self, now: &Moment, every: f64) {
        let before = self.all.len();
        self.all.retain(|pause| pause.holds.at(now.steady));
        let is_old = self.is_running_out() && now.steady - self.kept_at >= every;
        if self.all.len() < before || is_old {
            self.write_or_warn(now);
        }
    }

    /// Writes how much is left of the pauses, for the next daemon.
    pub(super) fn end(&mut self, now: &Moment) {
        if self.is_running_out() {
            self.write_or_warn(now);
        }
    }

    fn is_running_out(&self) -> bool {
        self.all.iter().any(|pause| pause.holds != Holds::Always)
    }

    fn write_or_warn(&mut self, now: &Moment) {
        if let Err(error) = self.write(now) {
            tracing::warn!("{}: {error:#}", self.file.display());
        }
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Writes the pauses; they are on disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&mut self, now: &Moment) -> anyhow::Result<()> {
        self.kept_at = now.steady;
        let lines = self.all.iter().map(|pause| {
            let (left, ends) = kept::rest(pause.holds, now);
            Line {
                device: pause.device.clone(),
                since: pause.since,
                left,
                ends,
            }
        });
        state::write(&self.file, &lines.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;

    const NOW: f64 = 1_795_000_000.0;
    const PHONE: DeviceSelector = DeviceSelector::Mac([2, 0, 0, 0, 0, 1]);

    fn pause(device: Option<DeviceSelector>, holds: Holds) -> Pause {
        Pause {
            device,
            since: NOW,
            holds,
        }
    }

    #[test]
    fn a_pause_outlives_the_daemon_and_ends_whether_the_clock_is_set_or_not() -> anyhow::Result<()>
    {
        let folder = env::temp_dir().join(format!("sensor-pauses-{}", process::id()));
        let at = |boot, seconds: f64| Moment {
            since_boot: 100.0 + seconds,
            boot,
            ..Moment::from(NOW + seconds)
        };
        let mut pauses = Pauses::new(&folder, &at(1, 0.0));
        pauses.add(pause(Some(PHONE), Holds::Until(NOW + 60.0)))?;
        pauses.add(pause(None, Holds::Always))?;
        pauses.add(pause(Some(PHONE), Holds::Until(NOW + 600.0)))?;
        pauses.write(&at(1, 0.0))?;
        assert_eq!(pauses.all().len(), 2);

        let again = Pauses::new(&folder, &at(1, 599.0));
        assert_eq!((again.all().len(), again.are_of_all()), (2, true));
        assert_eq!(Pauses::new(&folder, &at(1, 600.0)).all().len(), 1);
        let unset = Moment {
            is_known: false,
            ..at(2, 0.0)
        };
        let mut booted = Pauses::new(&folder, &unset);
        booted.keep(&at(2, 599.0), 600.0);
        assert_eq!(booted.all().len(), 2);
        booted.keep(&at(2, 600.0), 600.0);
        assert_eq!(booted.all(), [pause(None, Holds::Always)]);
        assert_eq!(Pauses::new(&folder, &at(2, 600.0)).all(), booted.all());

        assert_eq!(booted.remove(Some(&PHONE)), []);
        assert_eq!(booted.remove(None).len(), 1);
        fs::remove_dir_all(&folder)?;
        Ok(())
    }
}
