//! The sensor: see the library.

use std::process::ExitCode;

use clap::Parser as _;
use sensor::{cli::Cli, commands};

fn main() -> ExitCode {
    match commands::execute(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sensor: {error:#}");
            ExitCode::FAILURE
        }
    }
}
