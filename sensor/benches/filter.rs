//! A thousand attempts at a blocked name by every way, and as many at an allowed name on the same
//! addresses, with the servers' own logs: at 5 ms of distance, and without any where the policy is
//! strict. Those that the kernel judges by itself are also made without distance and `strict`, both CPUs being
//! busy, with a daemon and without one.
//!
//! `--json FILE` also writes the figures to a file.

mod arguments;
#[path = "../tests/filter/paths.rs"]
#[allow(
    dead_code,
    reason = "the test holds what is only measured here against what is to be"
)]
mod paths;

use std::{collections::BTreeMap, fs, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result};
use arguments::json_argument;
use paths::Figures;
use rustix::process::Signal;
use serde_json::json;
use xtask::lab::{
    ALLOWED, BLOCKED, Device, Lab, ONLY_BLOCKED, Options, PHONE_MAC, Sensor, Way, wait_until,
};

const ATTEMPTS: usize = 1_000;
const DELAY: Duration = Duration::from_millis(5);

fn main() -> Result<()> {
    let file = json_argument()?;
    let mut whole = BTreeMap::new();
    for (what, delay, more) in [
        ("at 5 ms", Some(DELAY), ""),
        ("strict", None, "strict = true\n"),
    ] {
        let (lab, sensor) = household(delay, more)?;
        let mut figures = BTreeMap::new();
        for way in Way::ALL {
            figures.insert(way.name().to_owned(), paths::attempt(&lab, way, ATTEMPTS)?);
        }
        // How the addresses are learned: the phone asks before the policy is in force.
        sensor.rewrite(&lab.configuration(""))?;
        wait_until("the phone may ask", Duration::from_secs(10), || {
            lab.phone
                .run(&format!("getent ahosts {}", ONLY_BLOCKED.name))
                .is_ok()
        })?;
        lab.phone.run(&format!("getent ahosts {}", ALLOWED.name))?;
        sensor.rewrite(&lab.configuration(&policies(more)))?;
        thread::sleep(Duration::from_secs(2));
        for way in [Way::Tls, Way::Http] {
            let by_address = paths::attempt_without_name(&lab, way, ATTEMPTS)?;
            figures.insert(format!("{}, by address", way.name()), by_address);
        }
        print(what, &figures);
        whole.insert(what, figures);
    }
    let (lab, mut sensor) = household(None, "")?;
    let busy = paths::Busy::begin();
    for what in ["busy", "busy, no daemon"] {
        let mut figures = BTreeMap::new();
        for way in Way::ALL {
            figures.insert(way.name().to_owned(), paths::attempt(&lab, way, ATTEMPTS)?);
        }
        print(what, &figures);
        whole.insert(what, figures);
        if what == "busy" {
            sensor.process.signal(Signal::KILL)?;
            sensor.process.wait(Duration::from_secs(10))?;
        }
    }
    drop(busy);
    if let Some(file) = file {
        let whole = json!({ "attempts": ATTEMPTS, "figures": whole });
        fs::write(&file, serde_json::to_vec_pretty(&whole)?)
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn household(delay: Option<Duration>, more: &str) -> Result<(Lab, Sensor)> {
    let mut lab = Lab::start(Options {
        sites: true,
        delay,
        ..Options::default()
    })?;
    let binary = Path::new(env!("CARGO_BIN_EXE_sensor"));
    let sensor = lab.sensor(binary, &lab.configuration(&policies(more)))?;
    lab.plug(Device::Phone)?;
    lab.plug(Device::Laptop)?;
    Ok((lab, sensor))
}

fn policies(more: &str) -> String {
    format!(
        "[[policy]]\nname = \"blocked\"\ndevices = [\"{PHONE_MAC}\"]\n\
         domains = [\"{}\", \"{}\"]\naction = \"reject\"\n{more}",
        BLOCKED.name, ONLY_BLOCKED.name
    )
}

fn print(what: &str, figures: &BTreeMap<String, Figures>) {
    println!(
        "{:28} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11} {:>11}",
        format!("attempts, {what}"),
        "refused",
        "silent",
        "answered",
        "leaked",
        "allowed",
        "refused, ms",
        "allowed, ms"
    );
    for (way, one) in figures {
        println!(
            "{way:28} {:9} {:9} {:9} {:9} {:9} {:11.2} {:11.2}",
            one.refused,
            one.silent + one.failed,
            one.answered,
            one.leaked,
            one.allowed,
            one.refused_ms_median,
            one.allowed_ms_median
        );
        for (what, count) in &one.odd {
            println!("    {count} {what}");
        }
    }
}
