//! The arguments of the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::{config::arguments, policy::explain::Subject};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "sensor",
    version,
    about = "Accounts and filters the traffic of phones at the gateway, in the kernel."
)]
pub struct Cli {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "/etc/gateway-sensor/sensor.toml"
    )]
    pub config: PathBuf,
    /// How much to log, to standard error.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    pub log: LogLevel,
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run in the foreground until SIGTERM or Ctrl-C: load, attach, account and filter.
    Run,
    /// Check the configuration, and show every problem with its place and its remedy.
    Check,
    /// Show the devices: name, kind and vendor, traffic, and how much of the traffic is hidden.
    Devices(DevicesArgs),
    /// Show the open flows, the largest first, and the name and owner of each remote side.
    ///
    /// A name with a question mark is a guess: another device asked for it and got this address.
    /// Brackets say how a flow hides its name.
    Flows(FlowsArgs),
    /// Show what was refused since the daemon started, for whom, by which policy and list.
    Refused(DevicesArgs),
    /// Show which parties a device sends data to whenever it visits a website, and while nobody uses it.
    ///
    /// Nobody can see what is sent, by which app, and why. A device is looked at after 20, 40, 80, … visits.
    Findings(DevicesArgs),
    /// Show what devices sent and received, by device, day, hour, party, owner or country.
    ///
    /// Sites that a device visited are one line `sites`: their names are not kept, unless the configuration
    /// asks for that.
    History(HistoryArgs),
    /// Write a report: what a device sent, to whom, who hears of its visits, and what changed.
    ///
    /// With `--format html` it is one file without outside resources, for a browser and for A4:
    /// `sensor report --device "Anna's phone" --format html > report.html`
    Report(ReportArgs),
    /// Show hooks, tables, policy, names and losses.
    Status(Output),
    /// Block a name and everything below it, at once, in the running daemon.
    ///
    /// Overrides every policy of the configuration, and survives a restart of the daemon.
    Block(SayArgs),
    /// Allow a name and everything below it, at once, in the running daemon.
    ///
    /// Overrides every policy about names, and survives a restart of the daemon. Does not override
    /// policies that block by address, port or `quic`, or that block everything.
    Allow(SayArgs),
    /// Take back a `block` or `allow` of a name for the same devices; with `--history`, delete the history.
    Forget(ForgetArgs),
    /// Have policies and blocks refuse nothing for a time; accounting goes on.
    ///
    /// Survives a restart of the daemon.
    Pause(PauseArgs),
    /// End a `pause` of the same devices; without devices, end every one.
    Resume(ResumeArgs),
    /// Try the policies of a configuration on the recorded history.
    Policy(PolicyArgs),
    /// Show whether a device may reach a name or address, and which policy decides.
    Explain(ExplainArgs),
    /// Remove every program, map and link of the sensor from the kernel.
    Unload,
    /// Check that this machine has what the sensor needs, and show what is missing.
    Doctor,
    /// Show the flows of capture files (pcap, pcapng), as if their packets passed now; needs no
    /// configuration.
    Replay(ReplayArgs),
}

/// How a listing is printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// Print JSON, with exact numbers.
    #[arg(long)]
    pub json: bool,
}

/// Which devices are printed.
#[derive(Clone, Debug, Args)]
pub struct DevicesArgs {
    /// How they are printed.
    #[command(flatten)]
    pub output: Output,
    /// Show only this device (MAC address, IP address or name), with all that is known of it.
    #[arg(value_name = "DEVICE")]
    pub device: Option<String>,
    /// Print anew every two seconds until Ctrl-C; with --json, a document each time.
    #[arg(long)]
    pub watch: bool,
}

/// Which flows are printed.
#[derive(Clone, Debug, Args)]
pub struct FlowsArgs {
    /// How they are printed.
    #[command(flatten)]
    pub listing: ListingArgs,
    /// Show only the flows of this device (MAC address, IP address or name).
    #[arg(value_name = "DEVICE")]
    pub device: Option<String>,
    /// Print anew every two seconds until Ctrl-C; with --json, a document each time.
    #[arg(long)]
    pub watch: bool,
}

/// How flows are printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct ListingArgs {
    /// How they are printed.
    #[command(flatten)]
    pub output: Output,
    /// Show at most this many flows; 0 for all. JSON has all.
    #[arg(long, value_name = "COUNT", default_value_t = 40)]
    pub limit: usize,
    /// Show every column, and shorten nothing.
    #[arg(long)]
    pub wide: bool,
}

/// Which part of the history is printed, or what is done with it.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HistoryArgs {
    /// The command; without one, the history is shown.
    #[command(subcommand)]
    pub command: Option<HistoryCommand>,
    /// Show only this device (MAC address or name).
    #[arg(value_name = "DEVICE")]
    pub device: Option<String>,
    /// How far back, as in `36h` or `30d`.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = arguments::since)]
    pub since: Duration,
    /// How amounts are added up; default: by device, and by day for one device.
    #[arg(long, value_name = "WORD")]
    pub by: Option<ByWord>,
    /// How it is printed.
    #[command(flatten)]
    pub output: Output,
}

/// The commands about the history.
#[derive(Clone, Debug, Subcommand)]
pub enum HistoryCommand {
    /// Print rows for other programs.
    Export(ExportArgs),
    /// Write a copy of the history into a new file, while the daemon runs.
    Backup {
        /// The new file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Put a backup in the place of the history, while no daemon runs.
    Restore {
        /// The backup.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// The device and the time of a report, and its form.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Only this device (MAC address or name); default: each that the history has.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// How far back, as in `24h`, `7d` or `30d`.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = arguments::since)]
    pub since: Duration,
    /// The form of the report.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: ReportFormat,
}

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For a terminal.
    Text,
    /// Markdown.
    Md,
    /// JSON, with exact numbers.
    Json,
    /// One HTML file.
    Html,
}

/// Which rows are exported, and how.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// The form of the rows.
    #[arg(long, value_name = "FORMAT")]
    pub format: ExportFormat,
    /// The view of the database.
    #[arg(long, value_name = "VIEW", default_value = "party-hour")]
    pub view: ViewName,
    /// How far back, as in `36h` or `30d`; default: everything.
    #[arg(long, value_name = "DURATION", value_parser = arguments::since)]
    pub since: Option<Duration>,
    /// Only this device (MAC address or name).
    #[arg(value_name = "DEVICE")]
    pub device: Option<String>,
}

/// The form of exported rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Comma-separated values, with a header (RFC 4180).
    Csv,
    /// A JSON object on each line.
    Ndjson,
}

/// A view of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ViewName {
    /// By device, party and hour.
    PartyHour,
    /// By device and hour.
    DeviceHour,
    /// By device and local day.
    DeviceDay,
    /// By device and local month.
    DeviceMonth,
    /// Times that no hour has, with the bytes in them.
    Gap,
    /// The first and the last time of each party of a device.
    PartySeen,
    /// The TLS stacks of each party of a device.
    PartyStack,
    /// The parties that followed visits, by local day.
    EchoDay,
    /// The first and the last time of each device.
    DeviceSeen,
}

/// How amounts are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ByWord {
    /// By device.
    Device,
    /// By hour.
    Hour,
    /// By local day.
    Day,
    /// By party.
    Party,
    /// By the owner of the party.
    Owner,
    /// By the country of the party's first address.
    Country,
}

/// A name to block or allow, the devices, and for how long.
#[derive(Clone, Debug, Args)]
pub struct SayArgs {
    /// The name and the devices.
    #[command(flatten)]
    pub about: AboutArgs,
    /// How long it holds, 1m to 365d, as in `2h30m`; default: until `sensor forget`.
    #[arg(long = "for", value_name = "DURATION", value_parser = arguments::holds_for)]
    pub holds_for: Option<Duration>,
}

/// A name, and the devices for which a block or exception of it is taken back; or the history.
#[derive(Clone, Debug, Args)]
pub struct ForgetArgs {
    /// The name; everything below it is included.
    #[arg(value_name = "NAME", value_parser = arguments::domain, required_unless_present = "history", conflicts_with = "history")]
    pub domain: Option<String>,
    /// The devices, as for `block`; with `--history` one device: its MAC or IP address or its name; default: all.
    #[arg(long, value_name = "DEVICES")]
    pub device: Option<String>,
    /// Delete the history of the device, or of all devices.
    #[arg(long)]
    pub history: bool,
}

/// A name, and the devices for which it is blocked or allowed.
#[derive(Clone, Debug, Args)]
pub struct AboutArgs {
    /// The name; everything below it is included.
    #[arg(value_name = "NAME", value_parser = arguments::domain)]
    pub domain: String,
    /// The devices: a MAC or IP address, a name as `sensor devices` shows it, `group:…`, `vendor:…` or
    /// `kind:…`; default: all.
    #[arg(long, value_name = "DEVICES")]
    pub device: Option<String>,
}

/// The devices of a pause, and for how long.
#[derive(Clone, Debug, Args)]
pub struct PauseArgs {
    /// The devices.
    #[command(flatten)]
    pub about: ResumeArgs,
    /// How long it holds, 1m to 365d, as in `2h30m`; default: until `sensor resume`.
    #[arg(long = "for", value_name = "DURATION", value_parser = arguments::holds_for)]
    pub holds_for: Option<Duration>,
}

/// The devices of a pause.
#[derive(Clone, Debug, Args)]
pub struct ResumeArgs {
    /// The devices: a MAC or IP address, a name as `sensor devices` shows it, `group:…`, `vendor:…` or
    /// `kind:…`; default: all.
    #[arg(long, value_name = "DEVICES")]
    pub device: Option<String>,
}

/// A device and the name or address to explain for it.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The device: its MAC address, IP address or name.
    #[arg(value_name = "DEVICE")]
    pub device: String,
    /// A name or an address, with a remote port if that matters: `a.example`, `192.0.2.1:443`,
    /// `[2001:db8::1]:443`.
    #[arg(value_name = "NAME|ADDRESS[:PORT]", value_parser = arguments::subject)]
    pub subject: Subject,
    /// How it is printed.
    #[command(flatten)]
    pub output: Output,
}

/// A command about policies.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// The command.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// The commands about policies.
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show what policies would have refused, by device and party. Changes nothing.
    ///
    /// The history decides where the name that it kept does. Of the rest it cannot be told, and that share is
    /// shown.
    Try(TryArgs),
}

/// Which policies are tried, and on which history.
#[derive(Clone, Debug, Args)]
pub struct TryArgs {
    /// A configuration file with the policies: for example a copy of your own with one more.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How far back, as in `36h` or `30d`.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = arguments::since)]
    pub since: Duration,
    /// How it is printed.
    #[command(flatten)]
    pub output: Output,
}

/// Which captures are replayed, and how.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Capture files; each is treated as a household of its own.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Addresses of the household; default: the side that began a connection is the local one.
    #[arg(long, value_name = "CIDR")]
    pub lan: Vec<IpNet>,
    /// A list of names, in addition to the built-in ones, as `[[list]]` in the configuration.
    #[arg(long, value_name = "FILE")]
    pub list: Vec<PathBuf>,
    /// A database of networks (.mmdb), for countries and autonomous systems.
    #[arg(long, value_name = "FILE")]
    pub networks: Vec<PathBuf>,
    /// The code that parses the frames.
    #[arg(long, value_name = "ENGINE", default_value = "host")]
    pub engine: EngineName,
    /// How many flows are printed, and how.
    #[command(flatten)]
    pub flows: ListingArgs,
}

/// The code that parses the frames of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// The code of the kernel programs, compiled into this process.
    Host,
    /// The kernel programs themselves, run on each frame and attached to nothing; needs root.
    Kernel,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Errors that make the sensor fail.
    Error,
    /// Also problems that it works around.
    Warn,
    /// Also changes: attached, reloaded, ended.
    Info,
    /// Also names and addresses of the household.
    Debug,
    /// Also each step.
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Command, String> {
        let words = ["sensor"].into_iter().chain(words.split(' '));
        match Cli::try_parse_from(words) {
            Ok(cli) => Ok(cli.command),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_is_blocked_is_typed_as_in_the_configuration() {
        let Ok(Command::Block(args)) = parsed("block *.Ads.Example. --device group:kids --for 2h")
        else {
            panic!("it is a command");
        };
        assert_eq!(args.about.domain, "ads.example");
        assert_eq!(args.about.device.as_deref(), Some("group:kids"));
        assert_eq!(args.holds_for, Some(Duration::from_hours(2)));
        let Ok(Command::Forget(args)) = parsed("forget ads.example") else {
            panic!("it is a command");
        };
        assert_eq!(
            (args.domain.as_deref(), args.device, args.history),
            (Some("ads.example"), None, false)
        );
        let Ok(Command::Forget(args)) = parsed("forget --history --device Anna") else {
            panic!("it is a command");
        };
        assert_eq!(
            (args.domain, args.device.as_deref(), args.history),
            (None, Some("Anna"), true)
        );
        for (words, says) in [
            ("allow 192.0.2.1", "is an address"),
            ("allow ads", "one word"),
            ("block ads.example --for 59s", "may be 1m to 365d"),
            ("block ads.example --for 366d", "may be 1m to 365d"),
            ("forget ads.example --for 2h", "unexpected argument"),
            ("forget", "<NAME>"),
            ("forget ads.example --history", "cannot be used with"),
            ("history --since 1s", "may be 1m to 3650d"),
            ("history export", "--format"),
        ] {
            let error = parsed(words).err().unwrap_or_default();
            assert!(error.contains(says), "{words}: {error}");
        }
    }
}
