//! The words of the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{config::arguments, policy::explain::Subject};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "sensor",
    version,
    about = "Accounts and filters the traffic of phones at the gateway, in the kernel."
)]
pub struct Cli {
    /// The configuration.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "/etc/gateway-sensor/sensor.toml"
    )]
    pub config: PathBuf,
    /// How much is logged, to standard error.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    pub log: LogLevel,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load, attach and account, in the foreground, until SIGTERM or Ctrl-C.
    Run,
    /// Check the configuration; every problem is shown with its place and its remedy.
    Check,
    /// Show the devices: who they are, what they carried and how much of it is hidden.
    Devices(DevicesArgs),
    /// Show the flows that are open, the largest first, and whom they are with.
    ///
    /// A name with a question mark is a guess: another device asked for it and got this address. In
    /// brackets stands what is hidden, and how.
    Flows(FlowsArgs),
    /// Show hooks, tables, policy, names and losses.
    Status(Output),
    /// Refuse a name and everything below it, at once, on a daemon that runs.
    ///
    /// It stands above every policy of the configuration, and survives a restart of the daemon.
    Block(SayArgs),
    /// Allow a name and everything below it, at once, on a daemon that runs.
    ///
    /// It stands above every policy about names, and survives a restart of the daemon. What a policy
    /// about addresses, ports, `quic` or everything refuses, is refused before a name is said.
    Allow(SayArgs),
    /// Take back what `block` or `allow` said of a name for the same devices.
    Forget(ForgetArgs),
    /// Show what the policies say of a name or an address for a device, why, and what else is about
    /// it.
    Explain(ExplainArgs),
    /// Remove every program, map and link of the sensor from the kernel.
    Unload,
    /// Check what the sensor needs of this machine, and say what is missing.
    Doctor,
    /// Show the flows of capture files (pcap, pcapng), as if their packets passed by now; needs no
    /// configuration.
    Replay(ReplayArgs),
}

/// How a listing is printed.
#[derive(Clone, Copy, Debug, Args, Serialize, Deserialize)]
pub struct Output {
    /// Print JSON, with exact numbers.
    #[arg(long)]
    pub json: bool,
}

/// Which devices are printed.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub struct DevicesArgs {
    /// How they are printed.
    #[command(flatten)]
    pub output: Output,
    /// This one alone, by its MAC address, its IP address or its name, with all that is known of it and
    /// from what.
    #[arg(value_name = "DEVICE")]
    pub device: Option<String>,
}

/// Which flows are printed.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub struct FlowsArgs {
    /// How they are printed.
    #[command(flatten)]
    pub listing: ListingArgs,
    /// Those of this device alone, by its MAC address, its IP address or its name.
    #[arg(value_name = "DEVICE")]
    pub device: Option<String>,
}

/// How flows are printed.
#[derive(Clone, Copy, Debug, Args, Serialize, Deserialize)]
pub struct ListingArgs {
    /// How they are printed.
    #[command(flatten)]
    pub output: Output,
    /// How many at most; 0 for all. JSON has all.
    #[arg(long, value_name = "COUNT", default_value_t = 40)]
    pub limit: usize,
    /// Show every column, and shorten nothing.
    #[arg(long)]
    pub wide: bool,
}

/// What is blocked or allowed.
#[derive(Clone, Debug, Args)]
pub struct SayArgs {
    /// What it is about.
    #[command(flatten)]
    pub about: ForgetArgs,
    /// How long it holds, 1m to 365d; left out: until `sensor forget`.
    #[arg(long = "for", value_name = "DURATION", value_parser = arguments::holds_for)]
    pub holds_for: Option<Duration>,
}

/// A name, and the devices for which something was said of it.
#[derive(Clone, Debug, Args)]
pub struct ForgetArgs {
    /// The name; everything below it is meant too.
    #[arg(value_name = "NAME", value_parser = arguments::domain)]
    pub domain: String,
    /// For these devices: a MAC or IP address, a name as `sensor devices` shows it, `group:…`, `vendor:…` or
    /// `kind:…`; default: for all.
    #[arg(long, value_name = "DEVICES")]
    pub device: Option<String>,
}

/// What is explained.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub struct ExplainArgs {
    /// The device, by its MAC address, its IP address or its name.
    #[arg(value_name = "DEVICE")]
    pub device: String,
    /// A name or an address, with a remote port where that matters: `a.example`,
    /// `192.0.2.1:443`, `[2001:db8::1]:443`.
    #[arg(value_name = "NAME|ADDRESS[:PORT]", value_parser = arguments::subject)]
    pub subject: Subject,
    /// How it is printed.
    #[command(flatten)]
    pub output: Output,
}

/// Which captures are replayed, and how.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The capture files; each is a household of its own.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Addresses of the household; without them, the local side is the one that began.
    #[arg(long, value_name = "CIDR")]
    pub lan: Vec<IpNet>,
    /// A list of names, beside those that are built in, as `[[list]]` in the configuration.
    #[arg(long, value_name = "FILE")]
    pub list: Vec<PathBuf>,
    /// A database of networks (.mmdb), for countries and autonomous systems.
    #[arg(long, value_name = "FILE")]
    pub networks: Vec<PathBuf>,
    /// What reads the frames.
    #[arg(long, value_name = "ENGINE", default_value = "host")]
    pub engine: EngineName,
    /// How many flows are printed, and how.
    #[command(flatten)]
    pub flows: ListingArgs,
}

/// What reads the frames of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// The code that the kernel programs are made of, in this process.
    Host,
    /// The kernel programs themselves, run over each frame and attached to nothing; needs root.
    Kernel,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What makes the sensor fail.
    Error,
    /// And what it works around.
    Warn,
    /// And what changes: attached, reloaded, ended.
    Info,
    /// And names and addresses of the household.
    Debug,
    /// And each step.
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
        assert_eq!((&*args.domain, args.device), ("ads.example", None));
        for (words, says) in [
            ("allow 192.0.2.1", "is an address"),
            ("allow ads", "one word"),
            ("block ads.example --for 59s", "may be 1m to 365d"),
            ("block ads.example --for 366d", "may be 1m to 365d"),
            ("forget ads.example --for 2h", "unexpected argument"),
        ] {
            let error = parsed(words).err().unwrap_or_default();
            assert!(error.contains(says), "{words}: {error}");
        }
    }
}
