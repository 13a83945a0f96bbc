//! The configuration after every check: no module behind this one sees an unchecked value.

pub mod arguments;
mod check;
mod places;
mod problem;
mod read;
mod reader;
mod value;
mod weekly;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    catalog::{List, Parties},
    model::Kind,
    policy::Policy,
};

#[cfg(test)]
pub(crate) use check::unreachable::never_allowing;
pub use problem::{Level, Problem, Problems};

/// A configuration that may be used, and the problems that it has all the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// Warnings; also errors, where the function that returned this says so.
    pub problems: Problems,
}

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// LAN-facing interfaces, at least one, no name twice.
    pub interfaces: Vec<Interface>,
    /// The flow table.
    pub flow_table: FlowTable,
    /// The device table.
    pub device_table: DeviceTable,
    /// The daemon.
    pub daemon: Daemon,
    /// Policies in the order of the file, at most 64, no name twice.
    pub policies: Vec<Policy>,
    /// How names are learned.
    pub names: Names,
    /// How the parties on the other side are recognised.
    pub parties: Parties,
    /// The user's own lists, in the order of the file, at most 256, no file twice.
    pub lists: Vec<List>,
    /// Facts of devices that the user knows better, in the order of the file, no device twice.
    pub devices: Vec<DeviceOverride>,
    /// The history.
    pub history: History,
}

impl Config {
    /// Reads and checks a file, and the lists and databases that it names.
    ///
    /// An unusable list or database that a policy needs is an error among the problems: all the
    /// rest works without it.
    ///
    /// # Errors
    /// Every problem, where the text has an error; that it cannot be read, or is not UTF-8, is one.
    pub fn load(file: &Path) -> Result<Checked, Problems> {
        let text = text_of(file)?;
        let mut read = read_and_check(&text);
        let may_be_used = read.may_be_used();
        read.problems.extend(check::files::problems(&read));
        checked(read, may_be_used, &text, file)
    }

    /// Reads and checks a file, without the lists and databases that it names: their problems are reported when
    /// these are read.
    ///
    /// # Errors
    /// Every problem, where the text has an error; that it cannot be read, or is not UTF-8, is one.
    pub fn load_alone(file: &Path) -> Result<Checked, Problems> {
        Self::parse(&text_of(file)?, file)
    }

    /// Reads a file to find a sensor that runs already, without the files that it names. Errors are
    /// among the problems, unless they are about the place of that sensor. A value with an error is
    /// left out or has its default.
    ///
    /// # Errors
    /// Every problem, where it is not certain which the pin directory and the runtime directory are.
    pub fn load_lenient(file: &Path) -> Result<Checked, Problems> {
        let text = text_of(file)?;
        let read = read_and_check(&text);
        let is_certain = read.is_place_certain;
        checked(read, is_certain, &text, file)
    }

    /// The configuration where there is no file: the defaults, and no interface.
    pub fn absent() -> Self {
        read::read("").config
    }

    /// Checks the text of a file alone, without the files that it names; `file` is its name in
    /// messages. Errors: every problem it has, warnings among them.
    pub fn parse(text: &str, file: &Path) -> Result<Checked, Problems> {
        let read = read_and_check(text);
        let may_be_used = read.may_be_used();
        checked(read, may_be_used, text, file)
    }
}

/// Reads a text, and checks its policies against each other.
fn read_and_check(text: &str) -> read::Read {
    let mut read = read::read(text);
    // These checks need policies that were read whole: they cannot know how much a damaged one covers.
    if read.may_be_used() {
        let places = &read.places.policies;
        let shadowed = check::shadowed::problems(&read.config, places);
        let unreachable = check::unreachable::problems(&read.config, places);
        read.problems
            .extend(shadowed.into_iter().chain(unreachable));
    }
    read
}

fn checked(
    read: read::Read,
    may_be_used: bool,
    text: &str,
    file: &Path,
) -> Result<Checked, Problems> {
    let problems = Problems::new(file, text, read.problems);
    match may_be_used {
        true => Ok(Checked {
            config: read.config,
            problems,
        }),
        false => Err(problems),
    }
}

fn text_of(file: &Path) -> Result<String, Problems> {
    let bytes = fs::read(file).map_err(|error| unreadable(file, &error))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid_up_to = error.utf8_error().valid_up_to();
        not_utf8(file, error.as_bytes(), valid_up_to)
    })
}

fn unreadable(file: &Path, error: &std::io::Error) -> Problems {
    use std::io::ErrorKind;
    let (message, help) = match error.kind() {
        ErrorKind::NotFound => (
            "the configuration file does not exist".to_owned(),
            "copy `deploy/sensor.toml` of the source there and name your interface in it, or say \
             where it is with `--config FILE`",
        ),
        ErrorKind::PermissionDenied => (
            "the configuration file may not be read".to_owned(),
            "run as root, or allow this user to read it",
        ),
        ErrorKind::IsADirectory => (
            "the configuration file is a folder".to_owned(),
            "name the file in it with `--config FILE`",
        ),
        _ => (
            format!("the configuration file cannot be read: {error}"),
            "see whether `cat` can read it",
        ),
    };
    let problem = Problem {
        level: Level::Error,
        message,
        span: None,
        label: String::new(),
        related: None,
        help: help.to_owned(),
    };
    Problems::new(file, "", vec![problem])
}

fn not_utf8(file: &Path, bytes: &[u8], valid_up_to: usize) -> Problems {
    // The replacement character stands where the byte stood, because the valid text before it is
    // unchanged.
    let text = String::from_utf8_lossy(bytes);
    let byte = bytes.get(valid_up_to).copied().unwrap_or_default();
    let problem = Problem {
        level: Level::Error,
        message: "the configuration file is not UTF-8".to_owned(),
        span: Some(valid_up_to..valid_up_to + char::REPLACEMENT_CHARACTER.len_utf8()),
        label: format!("the byte 0x{byte:02x} is not part of a character"),
        related: None,
        help: "save the file as UTF-8; TOML has no other encoding".to_owned(),
    };
    Problems::new(file, &text, vec![problem])
}

/// A LAN-facing interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, 1 to 15 bytes.
    pub name: String,
    /// Where the upload program is to sit; at a bridge's ports TC, or `clsact`.
    pub hook: HookChoice,
    /// For a bridge: its ports are watched in its place, as they come and go; false by default.
    pub ports: bool,
    /// With `ports`: whether policies apply to packets from port to port; false by default.
    pub local: bool,
}

/// Where the upload program is to sit.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum HookChoice {
    /// XDP in the driver, else the best that counts exactly.
    #[default]
    Auto,
    /// XDP in the driver, or an error.
    XdpNative,
    /// XDP in the stack, or an error.
    XdpGeneric,
    /// TC ingress, or an error.
    Tc,
    /// TC ingress and egress by filters of the clsact queueing discipline, on kernels with links at TC
    /// (6.6) too: where other tools look for filters, or read the discipline's counters.
    Clsact,
}

/// The flow table. A change takes effect after `sensor unload`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTable {
    /// Flows, 64 to 1,048,574; 65,536 by default.
    pub capacity: u32,
    /// How long a flow may be silent before it is reaped, 1 s to 1 day; 2 minutes by default.
    pub idle_after: Duration,
}

/// The device table. A change takes effect after `sensor unload`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTable {
    /// Devices, 1 to 65,536; 1,024 by default.
    pub capacity: u32,
    /// How long a device may be silent before its counts go to those of the device `other`, 1 second to 400
    /// days; 7 days by default. One that no server answered on two days leaves after a day.
    pub retire_after: Duration,
}

/// The daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// How often the kernel's tables are read, 100 ms to 1 minute; 1 s by default.
    pub tick: Duration,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; 127.0.0.1:9617 by default.
    pub listen: SocketAddr,
    /// Host names by which `/metrics` and the others may be asked for, beside addresses, `localhost` and
    /// the machine's own name; lower case, without a final dot, none twice.
    pub hosts: Vec<String>,
    /// Where maps and links are pinned; on a bpffs, /sys/fs/bpf/gateway-sensor by default.
    pub pin_directory: PathBuf,
    /// Whether accounting and filter stay when the daemon is told to end; true by default.
    pub keep_running: bool,
    /// Where the state that outlives a restart is kept: the names of `sensor block` and `allow`, and
    /// the vendor and kind of each device; absolute, /var/lib/gateway-sensor by default.
    pub state_directory: PathBuf,
    /// Where the socket of the commands and the locks of interfaces are while the daemon runs; absolute,
    /// /run/gateway-sensor by default.
    pub runtime_directory: PathBuf,
    /// The time zone of schedules, by its name in the IANA database; by default the system's, UTC
    /// where it has none.
    pub time_zone: Option<String>,
}

/// How names are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Segments with payload of a TCP flow that are read each way until its name is known, 1 to 14;
    /// 4 by default.
    pub segments: u8,
    /// How long a server's packets wait for the verdict on a name at most, where a policy is
    /// strict; 1 to 1,000 milliseconds, 20 by default.
    pub hold: Duration,
    /// Streams that the kernel puts together at a time, 16 to 4,096; by default as many as suit the memory of
    /// the machine.
    pub assemblies: Option<u32>,
    /// Whether the kernel opens the Initials of QUIC, where it compiles programs; it does by default.
    pub kernel_quic: bool,
}

/// The history: who sent how much with whom, kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The names that are kept; those of parties by default.
    pub keep: KeptNames,
    /// Where it is kept, absolute; `None`: in the state directory.
    pub directory: Option<PathBuf>,
    /// How often it is written, 1 s to 1 h; 5 minutes by default.
    pub batch: Duration,
    /// The size in MiB at which the oldest rows are deleted, 4 to 65,536; 128 by default.
    pub max_mib: u32,
    /// How long rows by device, party and hour are kept, 1 to 3,650 days; 35 days by default.
    pub party_hours: Duration,
    /// How long rows by device and hour are kept, 1 to 3,650 days; 100 days by default.
    pub device_hours: Duration,
    /// How long rows by device and day are kept, 1 to 3,650 days; 760 days by default, 25 months.
    pub device_days: Duration,
}

/// The names that the history keeps.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum KeptNames {
    /// Those that tell of the device, and not of its user: of listed telemetry, advertising and DNS bypasses,
    /// of the device's vendor, and those that a policy names.
    Parties,
    /// All, visited sites among them.
    All,
    /// There is no history.
    Off,
}

impl Config {
    /// The directory of the history.
    pub fn history_directory(&self) -> &Path {
        let own = self.history.directory.as_deref();
        own.unwrap_or(&self.daemon.state_directory)
    }
}

/// Facts of a device that the user knows better. The sensor finds out those that are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOverride {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its name in the household, 1 to 63 bytes.
    pub name: Option<String>,
    /// Its kind.
    pub kind: Option<Kind>,
    /// Its vendor, 1 to 63 bytes.
    pub vendor: Option<String>,
    /// The groups it belongs to, each 1 to 63 bytes.
    pub groups: Vec<String>,
    /// Whether the history has it; true by default.
    pub history: bool,
    /// Whether the names of sites that it visited are shown, where the history has them; false by default.
    pub show_sites: bool,
}
