//! Ring 3: names that the kernel judges by itself, while both CPUs are busy, with a daemon and without one. A file of
//! its own, so that no other test has to race beside it. Needs root.

#[path = "filter/paths.rs"]
#[allow(dead_code, reason = "the other test looks at more")]
mod paths;

use std::{env, path::Path, thread, time::Duration};

use anyhow::Result;
use rustix::process::{Signal, geteuid};
use xtask::{
    lab::{BLOCKED, Device, Host, Lab, Options, Sensor, Way},
    setup::{self, Need},
};

/// Attempts by each way at the blocked name, and as many at the allowed one.
const ATTEMPTS: usize = 100;

/// A lab with sites, both devices, and a sensor that refuses the blocked name to all devices.
fn household() -> Result<(Lab, Sensor)> {
    let mut lab = Lab::start(Options {
        sites: true,
        ..Options::default()
    })?;
    let policy = format!(
        "[[policy]]\nname = \"blocked\"\ndomains = [\"{}\"]\naction = \"reject\"\n",
        BLOCKED.name
    );
    let binary = Path::new(env!("CARGO_BIN_EXE_sensor"));
    let sensor = lab.sensor(binary, &lab.configuration(&policy))?;
    lab.plug(Device::Phone)?;
    lab.plug(Device::Laptop)?;
    Ok((lab, sensor))
}

/// Names that the kernel judges by itself need no daemon, and race nobody: the server is at no distance, and both
/// CPUs are busy.
#[test]
fn no_request_that_the_kernel_judges_without_distance_nor_daemon() -> Result<()> {
    if !geteuid().is_root() && env::var_os("CI").is_none() {
        eprintln!("not run: namespaces and programs in the kernel take root");
        return Ok(());
    }
    setup::ensure(&[Need::Lab])?;
    let (lab, mut sensor) = household()?;
    let busy = paths::Busy::begin();
    for daemon in ["a daemon", "none"] {
        let attempt = |host: &Host, way: Way| -> Result<()> {
            let figures = paths::attempt_from(&lab, host, way, ATTEMPTS)?;
            println!(
                "{:11} with {daemon}: {} refused, {} silent; {} allowed",
                way.name(),
                figures.refused,
                figures.silent,
                figures.allowed
            );
            figures.check(way.name())
        };
        for way in Way::ALL.into_iter().filter(|way| !way.is_quic()) {
            attempt(&lab.phone, way)?;
        }
        // They wait most of the time, because each device has a budget.
        thread::scope(|scope| {
            let split = scope.spawn(|| attempt(&lab.laptop, Way::QuicSplit));
            attempt(&lab.phone, Way::Quic)?;
            split.join().expect("the attempts do not panic")
        })?;
        if daemon == "a daemon" {
            sensor.process.signal(Signal::KILL)?;
            sensor.process.wait(Duration::from_secs(10))?;
        }
    }
    drop(busy);
    Ok(())
}
