//! The data of echoes: parties to which a device uploads something whenever it visits a site.

use serde::{Deserialize, Serialize};

/// The sites after which an echo comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Reach {
    /// Nearly every site.
    NearlyEverySite,
    /// Some sites, always the same.
    SomeSites,
    /// Those of some sessions only: one of several browsers or apps.
    SomeSessions,
    /// It cannot be told; `at_least` has the share of sites.
    Unclear,
}

impl Reach {
    /// As in JSON and in the store.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The TLS stack from which an echo comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stack {
    /// Another one than that of the visits.
    BesideThePage,
    /// That of the visits, which tells nothing.
    SameStack,
    /// Too few visits or uploads tell theirs.
    NotTold,
}

/// A party, or a host that lists name, to which a device uploads something after visits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Echo {
    /// The registrable domain of the party, or the name of the host.
    pub name: String,
    /// Whether it is a host.
    pub is_host: bool,
    /// The owner, where lists know it.
    pub owner: Option<String>,
    /// The category, where lists have one.
    pub category: Option<String>,
    /// Seconds since the Unix epoch at which it was found.
    pub found: f64,
    /// Seconds since the Unix epoch at which it was withdrawn, after two looks without significance.
    pub withdrawn: Option<f64>,
    /// The visits that were looked at.
    pub visits: u32,
    /// Those that an upload followed, with a lag from `from` to `to`.
    pub followed: u32,
    /// More seconds than this lie between a visit and the upload.
    pub from: u32,
    /// At most so many seconds lie between them.
    pub to: u32,
    /// The median lag in seconds.
    pub lag: u32,
    /// The share of other moments, 6 to 27 seconds before visits, that an upload followed so; 0 to 1. `None` where
    /// there was none.
    pub control: Option<f64>,
    /// The p-value, corrected for all lags and all parties of the look.
    pub p: f64,
    /// The parties and hosts over which it is corrected.
    pub hypotheses: u32,
    /// Seconds since the Unix epoch from which on there were marks of visits and uploads.
    pub since: f64,
    /// Seconds since the Unix epoch of the last visit that was looked at.
    pub until: f64,
    /// The sites after which it comes.
    pub reach: Reach,
    /// The share of sites after which it comes at least, 0 to 1, where `reach` is unclear.
    pub at_least: Option<f64>,
    /// The stack from which it comes.
    pub stack: Stack,
    /// Uploads that came from another stack than the visits, of those whose stack is told.
    pub beside: u32,
    /// Uploads whose stack is told.
    pub told: u32,
}

impl Echo {
    /// Whether its name tells nothing of the sites that were visited: lists have it, or it comes after nearly every
    /// site.
    pub fn tells_no_site(&self) -> bool {
        self.is_host || self.category.is_some() || self.reach == Reach::NearlyEverySite
    }

    /// Whether the sites are an unlikely cause: it comes after nearly every one of them, and from another stack.
    pub fn is_hardly_of_sites(&self) -> bool {
        self.reach == Reach::NearlyEverySite && self.stack == Stack::BesideThePage
    }
}

/// An echo that was found before the daemon started: its marks are gone, and the history has its figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierEcho {
    /// As in [`Echo`].
    pub name: String,
    /// As in [`Echo`].
    pub is_host: bool,
    /// The local day on which it was found first, as in `2026-11-14`.
    pub found_on: String,
    /// The visits of the latest look at which it was significant.
    pub visits: u32,
    /// Those that an upload followed.
    pub followed: u32,
    /// The median lag in seconds.
    pub lag: u32,
}

/// Uploads of a device to a party, or a host that lists name, while the device was idle: 30 minutes after the last
/// visit or stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdleUploads {
    /// As in [`Echo`].
    pub name: String,
    /// As in [`Echo`].
    pub is_host: bool,
    /// As in [`Echo`].
    pub owner: Option<String>,
    /// As in [`Echo`].
    pub category: Option<String>,
    /// How many.
    pub count: u32,
    /// Seconds since the Unix epoch of the first.
    pub first: f64,
    /// Seconds since the Unix epoch of the last.
    pub last: f64,
    /// Seconds from one to the next, where they come regularly.
    pub every: Option<f64>,
}

/// The echoes of a device, and how much is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceEchoes {
    /// Its MAC address.
    pub device: String,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The visits so far that count.
    pub visits: u32,
    /// The number of visits at which the next look comes.
    pub next_look: u32,
    /// Looks so far.
    pub looks: u32,
    /// Seconds since the Unix epoch from which on there are marks.
    pub since: f64,
    /// Whether marks of less than seven days went because they took too much room.
    pub is_cut: bool,
    /// The echoes, in the order of their names.
    pub echoes: Vec<Echo>,
    /// Those that only the history has.
    #[serde(default)]
    pub earlier: Vec<EarlierEcho>,
    /// Uploads while the device was idle, in the last 24 hours, where somebody asks for them.
    #[serde(default)]
    pub idle: Vec<IdleUploads>,
    /// Seconds of the last 24 hours in which it was idle.
    #[serde(default)]
    pub idle_seconds: u32,
}

impl DeviceEchoes {
    /// Turns steady times into those of the wall clock, which is ahead by `offset`.
    pub fn add_to_times(&mut self, offset: f64) {
        self.since += offset;
        for echo in &mut self.echoes {
            for time in [&mut echo.found, &mut echo.since, &mut echo.until] {
                *time += offset;
            }
            if let Some(withdrawn) = &mut echo.withdrawn {
                *withdrawn += offset;
            }
        }
        for idle in &mut self.idle {
            idle.first += offset;
            idle.last += offset;
        }
    }
}
