//! `cargo xtask`: see `cargo xtask --help`.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use xtask::{
    bench,
    build::{self, Profile},
    command, demo, fuzz, oui, play, qemu,
    setup::{self, Need},
    test, verify,
};

/// Every chore of the project. A command installs and builds first all that it needs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install whatever any command needs: Debian packages, the BPF compiler and its linker
    Setup,
    /// Build the kernel object and the daemon
    Build {
        /// Do not optimise the daemon: quicker to build
        #[arg(long, conflicts_with = "release")]
        debug: bool,
        /// Optimise the daemon, which is the default
        #[arg(long)]
        release: bool,
    },
    /// Build, then run the sensor in the foreground on the interfaces of a configuration
    Run {
        /// The configuration; deploy/sensor.toml shows what can be in it
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// A home network of namespaces with a running sensor, and a shell in each of its hosts
    Lab {
        #[command(subcommand)]
        action: Option<LabAction>,
    },
    /// The whole path from a phone's packets to a scrape, with the books compared
    Demo {
        /// Also write the result to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Every check and every test; slow tests in a thin form
    Test,
    /// The slow tests in their long form: swaps of the policy, kills of the daemon, the race of rulings,
    /// evasions, fuzz targets
    Verify {
        /// This part alone
        #[arg(value_parser = verify::NAMES)]
        part: Option<String>,
    },
    /// Debian's other kernels in virtual machines, with the sensor in them; a part of `test`
    Kernels,
    /// Odd bytes for every decoder and for the parser; takes a nightly toolchain
    Fuzz {
        /// For how long each
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        minutes: u32,
        /// This one alone
        target: Option<String>,
    },
    /// Cost of a packet, beside xdp-filter, of the daemon with full tables, of decoding on one core, and of a
    /// replay, beside ndpiReader; attempts that the filter lets through; and DNS, beside dnsmasq and unbound
    Bench {
        /// This one alone
        #[arg(value_parser = bench::ALONE)]
        alone: Option<String>,
        /// Also write the figures to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Make the table of hardware vendors anew from the listings of the IEEE
    Oui {
        /// A folder with the listings MA-L, MA-M, MA-S and IAB as .csv files, whatever their names
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
    },
}

#[derive(Subcommand)]
enum LabAction {
    /// A shell in a host of a lab that runs in another terminal
    Enter {
        /// phone, laptop, gateway or internet
        host: String,
        /// Which lab, where several run
        #[arg(long)]
        lab: Option<String>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().chore.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Chore {
    fn run(self) -> Result<()> {
        match self {
            Self::Setup => setup::ensure(&Need::ALL),
            Self::Build { debug, .. } => {
                let profile = if debug {
                    Profile::Debug
                } else {
                    Profile::Release
                };
                let binary = build::all(profile)?;
                command::say(&format!("built {}", binary.display()));
                Ok(())
            }
            Self::Run { config } => run(&config),
            Self::Lab { action: None } => play::lab(),
            Self::Lab {
                action: Some(LabAction::Enter { host, lab }),
            } => play::enter(lab.as_deref(), &host),
            Self::Demo { json } => demo::demo(json.as_deref()),
            Self::Test => test::all(),
            Self::Verify { part } => verify::verify(part.as_deref()),
            Self::Kernels => {
                setup::ensure(&[Need::Kernel, Need::Emulator])?;
                qemu::run()
            }
            Self::Fuzz { minutes, target } => fuzz::fuzz(minutes, target.as_deref()),
            Self::Bench { alone, json } => bench::bench(alone.as_deref(), json.as_deref()),
            Self::Oui { from } => oui::make(&from),
        }
    }
}

fn run(config: &Path) -> Result<()> {
    let config = std::path::absolute(config)?;
    let binary = build::all(Profile::Release)?;
    let mut sensor = command::clean(binary);
    sensor.args(["run", "--config"]).arg(config);
    command::say(&format!("$ {}", command::line(&sensor)));
    Err(sensor.exec()).context("the sensor cannot be started")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;
    use xtask::documents;

    #[test]
    fn every_chore_that_a_document_names_is_there() {
        let mut tried = 0;
        for document in documents::all().expect("the documents can be read") {
            let (in_blocks, in_sentences) = (
                document.commands("cargo xtask"),
                document.named_commands("cargo xtask"),
            );
            for (line, words) in in_blocks.into_iter().chain(in_sentences) {
                // Words in capitals and brackets stand for any.
                let words = words
                    .into_iter()
                    .skip(1)
                    .filter(|word| !word.starts_with('['));
                match Arguments::try_parse_from(words) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {}
                    Err(error) => panic!("{}:{line}: {error}", document.path.display()),
                }
                tried += 1;
            }
        }
        assert!(tried >= 20, "{tried} chores");
    }
}
