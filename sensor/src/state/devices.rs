//! The facts about devices that outlive a restart: their vendors and kinds.
//!
//! Policies may be about vendors and kinds. Devices tell them seldom, a DHCP client once in half its lease,
//! and the daemon has them in its memory: without this, no such policy would hold after a restart until the
//! device tells again. A remembered fact stands until the new evidence is as sure.
//!
//! On disk is the MAC address, the vendor, the kind, how sure they are, the days on which the device was
//! seen first and last, for how many days it has been away, and whether it is settled; nothing of its
//! traffic, and nothing from the configuration about it. A device that is away for 30 days is forgotten; of
//! too many, those that are not settled first. Only days count in which a daemon ran, so that no device is
//! forgotten because a wall clock was set.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    aggregate::identity::{MOST_SURE, Mac},
    config::{Config, arguments},
    model::{Conclusion, Device, EvidenceLine, Kind},
    moment::Moment,
    policy::DeviceSelector,
    state,
};

/// The file, in the state directory.
const FILE: &str = "devices.json";

/// How long a device may be away, in days.
const DAYS: u64 = 30;

/// Seconds between two writes of the file, because any device can change its content, and flash memory
/// wears.
const PAUSE: f64 = 60.0 * 60.0;

/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;

/// The source of evidence that is remembered.
const SOURCE: &str = "before-restart";

/// The facts about devices, which are kept in a file.
pub struct Remembered {
    file: PathBuf,
    /// The most devices that are kept.
    capacity: usize,
    devices: BTreeMap<Mac, Known>,
    /// The content of the file.
    kept: BTreeMap<Mac, Facts>,
    /// When the file was written, in steady time.
    kept_at: f64,
    /// The last warning about a file that cannot be written.
    said: Option<String>,
}

/// The facts about a device.
#[derive(Clone, Debug, Default, PartialEq)]
struct Facts {
    kind: Option<Sure<Kind>>,
    vendor: Option<Sure<String>>,
    /// The days on which it was seen first and last, since the Unix epoch; 0: not known.
    first_seen: u64,
    last_seen: u64,
    /// Days for which it has been away.
    away: u64,
    /// Whether servers answered it on two days, or the configuration named it.
    settled: bool,
}

/// A fact, and how sure it is, 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sure<T> {
    is: T,
    confidence: f32,
}

#[derive(Debug, Default)]
struct Known {
    facts: Facts,
    /// When it was seen last, in steady time.
    seen_at: f64,
    /// Whether the device has told it since the daemon began: then its present word counts.
    told_kind: bool,
    told_vendor: bool,
}

/// A device in the file.
#[derive(Serialize, Deserialize)]
struct Line {
    device: String,
    kind: Option<Sure<Kind>>,
    vendor: Option<Sure<String>>,
    /// In seconds since the Unix epoch, to the day.
    #[serde(default)]
    first_seen: u64,
    last_seen: u64,
    /// In days.
    #[serde(default)]
    away: u64,
    #[serde(default)]
    settled: bool,
}

impl Remembered {
    /// The facts that were known when the last daemon ended.
    pub fn new(config: &Config, now: &Moment) -> Self {
        let file = config.daemon.state_directory.join(FILE);
        let kept = read(&file).unwrap_or_else(|error| {
            tracing::warn!(
                "{}: {error:#}; which vendor and kind devices are is left out until they tell again",
                file.display()
            );
            BTreeMap::new()
        });
        let mut remembered = Self {
            file,
            capacity: config.device_table.capacity as usize,
            devices: kept
                .iter()
                .map(|(mac, facts)| {
                    let known = Known {
                        facts: facts.clone(),
                        seen_at: now.steady - (facts.away * DAY) as f64,
                        ..Known::default()
                    };
                    (*mac, known)
                })
                .collect(),
            kept,
            kept_at: f64::NEG_INFINITY,
            said: None,
        };
        remembered.forget(&HashSet::new(), now);
        remembered
    }

    /// The devices.
    pub fn devices(&self) -> impl Iterator<Item = Mac> {
        self.devices.keys().copied()
    }

    /// The devices that are settled.
    pub fn settled(&self) -> impl Iterator<Item = Mac> {
        let devices = self.devices.iter();
        devices
            .filter(|(_, known)| known.facts.settled)
            .map(|(mac, _)| *mac)
    }

    /// The kind of a device.
    pub fn kind(&self, mac: Mac) -> Option<Kind> {
        Some(self.devices.get(&mac)?.facts.kind.as_ref()?.is)
    }

    /// The vendor of a device.
    pub fn vendor(&self, mac: Mac) -> Option<&str> {
        Some(&self.devices.get(&mac)?.facts.vendor.as_ref()?.is)
    }

    /// Takes the present facts about devices, whose times are those of the wall clock, and restores in
    /// `devices` the earlier ones that are surer. At most every hour changed facts are written to disk.
    pub fn recall(&mut self, devices: &mut [Device], now: &Moment) {
        let mut seen = HashSet::new();
        for device in devices {
            let Some(mac) = device.mac.map(|mac| mac.octets()) else {
                continue;
            };
            seen.insert(mac);
            let known = self.devices.entry(mac).or_default();
            known.seen_at = now.steady;
            known.facts.settled |= device.settled;
            let first_seen = device.first_seen as u64 / DAY;
            match known.facts.first_seen {
                before if before != 0 && (before < first_seen || !now.is_known) => {
                    device.first_seen = (before * DAY) as f64;
                }
                // A day that a wrong clock shows is not noted.
                _ if now.is_known => known.facts.first_seen = first_seen,
                _ => {}
            }
            if now.is_known {
                known.facts.last_seen = device.last_seen as u64 / DAY;
            }
            recall(known, &mut device.identity);
        }
        self.forget(&seen, now);
        if now.steady - self.kept_at >= PAUSE && self.has_news() {
            self.write(now);
        }
    }

    /// Writes the facts to disk that are not there yet.
    pub fn keep(&mut self, now: &Moment) {
        if !self.facts().eq(&self.kept) {
            self.write(now);
        }
    }

    /// Forgets devices that are away for long, and of too many those that are not settled, then those that
    /// are away for longest.
    fn forget(&mut self, seen: &HashSet<Mac>, now: &Moment) {
        for known in self.devices.values_mut() {
            known.facts.away = (now.steady - known.seen_at) as u64 / DAY;
        }
        self.devices
            .retain(|mac, known| seen.contains(mac) || known.facts.away <= DAYS);
        let too_many = self.devices.len().saturating_sub(self.capacity);
        if too_many > 0 {
            let away = self.devices.iter();
            let away = away.filter(|(mac, _)| !seen.contains(*mac));
            let mut away: Vec<_> = away
                .map(|(mac, known)| (known.facts.settled, known.seen_at, *mac))
                .collect();
            away.sort_unstable_by(|(settled, seen_at, mac), (others, other, another)| {
                let first = settled.cmp(others).then(seen_at.total_cmp(other));
                first.then(mac.cmp(another))
            });
            for (.., mac) in away.into_iter().take(too_many) {
                self.devices.remove(&mac);
            }
        }
    }

    /// The facts to be kept: devices of which nothing is known are left out.
    fn facts(&self) -> impl Iterator<Item = (&Mac, &Facts)> {
        let facts = self.devices.iter().map(|(mac, known)| (mac, &known.facts));
        facts.filter(|(_, facts)| facts.kind.is_some() || facts.vendor.is_some() || facts.settled)
    }

    /// Whether a fact is known that the file does not have. A fact that is only surer than before, or less
    /// sure, is no news.
    fn has_news(&self) -> bool {
        fn what<'f>((mac, facts): (&'f Mac, &'f Facts)) -> impl PartialEq + use<'f> {
            let kind = facts.kind.as_ref().map(|kind| kind.is);
            let vendor = facts.vendor.as_ref().map(|vendor| &*vendor.is);
            let days = (facts.last_seen, facts.away);
            (mac, kind, vendor, days, facts.settled)
        }

        !self.facts().map(what).eq(self.kept.iter().map(what))
    }

    fn write(&mut self, now: &Moment) {
        // A file that cannot be written is tried again as seldom.
        self.kept_at = now.steady;
        let facts: BTreeMap<_, _> = self
            .facts()
            .map(|(mac, facts)| (*mac, facts.clone()))
            .collect();
        let lines = facts.iter().map(|(mac, facts)| Line {
            device: DeviceSelector::Mac(*mac).to_string(),
            kind: facts.kind.clone(),
            vendor: facts.vendor.clone(),
            first_seen: facts.first_seen * DAY,
            last_seen: facts.last_seen * DAY,
            away: facts.away,
            settled: facts.settled,
        });
        let lines: Vec<_> = lines.collect();
        match state::write(&self.file, &lines) {
            Ok(()) => {
                self.kept = facts;
                self.said = None;
            }
            Err(error) => {
                let error = format!(
                    "{}: {error:#}; which vendor and kind devices are will not be known after a \
                     restart; `daemon.state_directory` says where it is to be kept",
                    self.file.display()
                );
                if self.said.as_ref() != Some(&error) {
                    tracing::warn!("{error}");
                    self.said = Some(error);
                }
            }
        }
    }
}

fn read(file: &Path) -> anyhow::Result<BTreeMap<Mac, Facts>> {
    let lines: Vec<Line> = state::read(file)?;
    let facts = lines.into_iter().map(|line| {
        let Ok(DeviceSelector::Mac(mac)) = arguments::devices(&line.device, &[]) else {
            anyhow::bail!("`{}` is no MAC address", line.device.escape_debug());
        };
        let facts = Facts {
            kind: line.kind,
            vendor: line.vendor,
            first_seen: line.first_seen / DAY,
            last_seen: line.last_seen / DAY,
            away: line.away,
            settled: line.settled,
        };
        Ok((mac, facts))
    });
    facts.collect()
}

/// Takes the present facts about a device, or restores the earlier ones.
fn recall(known: &mut Known, identity: &mut Conclusion) {
    let kind = settle(
        (identity.kind != Kind::Unknown).then_some(identity.kind),
        identity.kind_confidence,
        &mut known.facts.kind,
        &mut known.told_kind,
    );
    let vendor = settle(
        identity.vendor.clone(),
        identity.vendor_confidence,
        &mut known.facts.vendor,
        &mut known.told_vendor,
    );
    if let Some(vendor) = vendor {
        identity.vendor = Some(vendor.is.clone());
        identity.vendor_confidence = vendor.confidence;
        remind(identity, "vendor", &vendor.is, vendor.confidence);
    }
    if let Some(kind) = kind {
        identity.kind = kind.is;
        identity.kind_confidence = kind.confidence;
        remind(identity, "kind", kind.is.name(), kind.confidence);
    }
    identity.confidence = identity.least_confidence();
}

/// The earlier fact, where it still counts; otherwise the present one takes its place.
fn settle<'k, T>(
    now: Option<T>,
    confidence: f32,
    known: &'k mut Option<Sure<T>>,
    told: &mut bool,
) -> Option<&'k Sure<T>> {
    // The owner's word in the configuration holds as long as it stands there.
    if confidence > MOST_SURE {
        return None;
    }
    *told |= known
        .as_ref()
        .is_none_or(|before| now.is_some() && confidence >= before.confidence);
    if !*told {
        return known.as_ref();
    }
    *known = now.map(|is| Sure { is, confidence });
    None
}

fn remind(identity: &mut Conclusion, about: &'static str, what: &str, weight: f32) {
    let line = EvidenceLine {
        source: SOURCE,
        value: what.to_owned(),
        about,
        suggests: what.to_owned(),
        weight,
    };
    identity.evidence.insert(0, line);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sensor_ebpf::parse;

    use super::*;
    use crate::config::Checked;

    const NOW: f64 = 1_795_000_000.0;
    const PHONE: Mac = [2, 0, 0, 0, 0, 1];

    /// A folder of this test's own, and a configuration that has its state there.
    fn state(name: &str) -> (PathBuf, Config) {
        let folder = std::env::temp_dir().join(format!("sensor-{name}-{}", std::process::id()));
        let text = format!(
            "[[interface]]\nname = \"lan0\"\n[device_table]\ncapacity = 3\n\
             [daemon]\nstate_directory = \"{}\"\n",
            folder.display()
        );
        let Checked { config, .. } =
            Config::parse(&text, Path::new("sensor.toml")).expect("it is valid");
        (folder, config)
    }

    fn device(mac: Mac, kind: (Kind, f32), vendor: Option<(&str, f32)>, last_seen: f64) -> Device {
        let mut device = Device {
            mac: Some(parse::Mac::new(mac)),
            last_seen,
            ..Device::default()
        };
        (device.identity.kind, device.identity.kind_confidence) = kind;
        if let Some((vendor, confidence)) = vendor {
            device.identity.vendor = Some(vendor.to_owned());
            device.identity.vendor_confidence = confidence;
        }
        device
    }

    fn recalled(remembered: &mut Remembered, device: Device, now: f64) -> Conclusion {
        let mut devices = [device];
        remembered.recall(&mut devices, &now.into());
        let [device] = devices;
        device.identity
    }

    #[test]
    fn what_was_known_stands_until_it_is_told_as_surely() -> anyhow::Result<()> {
        let (folder, config) = state("known");
        let mut first = Remembered::new(&config, &NOW.into());
        let told = device(PHONE, (Kind::Phone, 0.9), Some(("Xiaomi", 0.8)), NOW);
        let before = recalled(&mut first, told, NOW);
        assert_eq!((before.kind, before.evidence.len()), (Kind::Phone, 0));

        // The daemon is killed: it writes nothing any more.
        let mut second = Remembered::new(&config, &NOW.into());
        assert_eq!(second.kind(PHONE), Some(Kind::Phone));
        assert_eq!(second.vendor(PHONE), Some("Xiaomi"));
        let nothing = || device(PHONE, (Kind::Unknown, 0.0), None, NOW);
        let known = recalled(&mut second, nothing(), NOW);
        assert_eq!(known.kind, Kind::Phone);
        assert_eq!(known.vendor.as_deref(), Some("Xiaomi"));
        assert_eq!(known.confidence, 0.8);
        let from: Vec<_> = known.evidence.iter().map(|line| line.about).collect();
        assert_eq!(from, ["kind", "vendor"]);
        // A less sure guess does not replace the fact; one that is as sure does, for good.
        let guess = device(PHONE, (Kind::Computer, 0.4), None, NOW);
        assert_eq!(recalled(&mut second, guess, NOW).kind, Kind::Phone);
        let told = device(PHONE, (Kind::Tablet, 0.9), None, NOW);
        assert_eq!(recalled(&mut second, told, NOW).kind, Kind::Tablet);
        let less = device(PHONE, (Kind::Tv, 0.5), None, NOW);
        let less = recalled(&mut second, less, NOW);
        assert_eq!((less.kind, less.kind_confidence), (Kind::Tv, 0.5));
        assert_eq!(less.vendor.as_deref(), Some("Xiaomi"));
        assert_eq!(second.kind(PHONE), Some(Kind::Tv));
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    #[test]
    fn the_owners_word_is_not_remembered() -> anyhow::Result<()> {
        let (folder, config) = state("word");
        let mut first = Remembered::new(&config, &NOW.into());
        let told = device(PHONE, (Kind::Phone, 0.9), None, NOW);
        recalled(&mut first, told, NOW);
        let word = device(PHONE, (Kind::Tv, 1.0), Some(("Mine", 1.0)), NOW);
        let shown = recalled(&mut first, word, NOW + 60.0);
        assert_eq!((shown.kind, shown.evidence.len()), (Kind::Tv, 0));
        first.keep(&(NOW + 60.0).into());
        let second = Remembered::new(&config, &NOW.into());
        assert_eq!(second.kind(PHONE), Some(Kind::Phone));
        assert_eq!(second.vendor(PHONE), None);
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    #[test]
    fn it_is_written_when_it_changes_seldom_and_at_the_end() -> anyhow::Result<()> {
        let (folder, config) = state("seldom");
        let file = folder.join(FILE);
        let mut remembered = Remembered::new(&config, &NOW.into());
        let mut tick = |kind, confidence, now| {
            let told = device(PHONE, (kind, confidence), None, NOW);
            recalled(&mut remembered, told, now);
            fs::read_to_string(&file).unwrap_or_default()
        };
        assert_eq!(tick(Kind::Unknown, 0.0, NOW), "", "nothing is known");
        let phone = tick(Kind::Phone, 0.5, NOW + 1.0);
        assert!(phone.contains("\"phone\"") && phone.contains("02:00:00:00:00:01"));
        assert_eq!(
            tick(Kind::Tv, 0.5, NOW + 2.0),
            phone,
            "it was written just now"
        );
        assert_eq!(
            tick(Kind::Tv, 0.5, NOW + 3_600.0),
            phone,
            "an hour has not passed"
        );
        let tv = tick(Kind::Tv, 0.5, NOW + 3_601.0);
        assert!(tv.contains("\"tv\""), "{tv}");
        assert_eq!(tick(Kind::Tv, 0.7, NOW + 7_300.0), tv, "surer is no news");
        assert!(!tick(Kind::Router, 0.8, NOW + 7_200.0).contains("router"));
        remembered.keep(&(NOW + 7_400.0).into());
        assert!(fs::read_to_string(&file)?.contains("router"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file)?.permissions());
        assert_eq!(mode & 0o777, 0o600);
        // Where it cannot be written, the daemon goes on.
        fs::remove_dir_all(&folder)?;
        fs::write(&folder, "in the way")?;
        let told = device(PHONE, (Kind::Phone, 0.9), None, NOW);
        let known = recalled(&mut remembered, told, NOW + 11_001.0);
        assert_eq!(known.kind, Kind::Phone);
        assert!(remembered.said.is_some());
        fs::remove_file(&folder)?;
        Ok(())
    }

    #[test]
    fn who_is_away_for_long_is_forgotten_and_of_too_many_the_first() -> anyhow::Result<()> {
        let (folder, config) = state("away");
        let mac = |number| [2, 0, 0, 0, 0, number];
        let day = |days: f64| NOW + days * DAY as f64;
        let mut first = Remembered::new(&config, &NOW.into());
        for number in 1..=4 {
            let now = day(f64::from(number));
            let told = device(mac(number), (Kind::Phone, 0.9), None, now);
            recalled(&mut first, told, now);
        }
        // Three have a place.
        let macs = |remembered: &Remembered| remembered.devices().collect::<Vec<_>>();
        assert_eq!(macs(&first), [mac(2), mac(3), mac(4)]);
        first.keep(&day(4.0).into());
        // The time while no daemon ran does not count, whatever the clock shows after it.
        let years = 56.0 * 365.25;
        for later in [4.0, 40.0, years, -years] {
            let next = Remembered::new(&config, &day(later).into());
            assert_eq!(macs(&next), [mac(2), mac(3), mac(4)], "{later}");
        }
        let mut next = Remembered::new(&config, &day(years).into());
        let mut after = |days: f64| {
            next.recall(&mut [], &day(years + days).into());
            macs(&next)
        };
        assert_eq!(after(28.9), [mac(2), mac(3), mac(4)]);
        assert_eq!(after(29.1), [mac(3), mac(4)]);
        assert_eq!(after(30.1), [mac(4)]);
        // Nor does a wall clock that is set while it runs.
        let stepped = Moment {
            wall: day(-years),
            ..Moment::from(day(years + 30.2))
        };
        next.recall(&mut [], &stepped);
        assert_eq!(macs(&next), [mac(4)]);
        for bad in [
            "[{\"device\": \"02:00",
            "[{\"device\": \"nobody\", \"last_seen\": 0}]",
        ] {
            fs::write(folder.join(FILE), bad)?;
            assert!(macs(&Remembered::new(&config, &day(4.0).into())).is_empty());
        }
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    #[test]
    fn a_clock_that_is_not_set_yet_changes_no_day() -> anyhow::Result<()> {
        let (folder, config) = state("unset");
        let mut first = Remembered::new(&config, &NOW.into());
        let seen = |first_seen, last_seen| Device {
            first_seen,
            ..device(PHONE, (Kind::Phone, 0.9), None, last_seen)
        };
        first.recall(&mut [seen(NOW, NOW)], &NOW.into());
        // Booted, and its clock begins in 1970.
        let unset = Moment {
            is_known: false,
            ..Moment::from(60.0)
        };
        let mut second = Remembered::new(&config, &unset);
        let mut devices = [seen(10.0, 50.0)];
        second.recall(&mut devices, &unset);
        let today = (NOW as u64 / DAY * DAY) as f64;
        assert_eq!(devices[0].first_seen, today);
        second.keep(&unset);
        assert!(
            fs::read_to_string(folder.join(FILE))?.contains(&format!("\"last_seen\": {today}"))
        );
        // It is set.
        let set = Moment {
            wall: NOW + 2.0 * DAY as f64,
            ..Moment::from(120.0)
        };
        let mut devices = [seen(set.wall - 110.0, set.wall)];
        second.recall(&mut devices, &set);
        assert_eq!(devices[0].first_seen, today);
        assert_eq!(devices[0].last_seen, set.wall);
        fs::remove_dir_all(&folder)?;
        Ok(())
    }
}
