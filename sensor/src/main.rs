//! The sensor: see the library.

use std::process::ExitCode;

use clap::Parser as _;
use sensor::cli::{self, args::Cli};

fn main() -> ExitCode {
    match cli::execute(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sensor: {error:#}");
            ExitCode::FAILURE
        }
    }
}
