//! The daemon on a machine that has little time for it.

use std::{
    env, fs, io,
    io::Write as _,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use xtask::{lab::Lab, verify::times};

use super::{daemon::Daemon, lab, wire};
use crate::daemon::{SENSOR, Settings};

/// Names of the list.
const NAMES: [usize; 2] = [100_000, 1_000_000];

/// The time that a service manager allows for a start (systemd.service(5), `TimeoutStartSec=`, by default).
const START: Duration = Duration::from_secs(90);

/// The pause that the unit's `WatchdogSec` allows.
const WATCHDOG: Duration = Duration::from_secs(30);

/// A part of a CPU, for one process: by version 2 of control groups, or by version 1 where that has the CPU.
struct Quota(PathBuf);

impl Quota {
    /// A tenth; an error says what the machine lacks.
    fn a_tenth(process: u32) -> io::Result<Self> {
        let name = format!("sensor-test-{process}");
        let (v1, v2) = (Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup"));
        let is_v1 = v1.join("cpu.cfs_quota_us").exists();
        let quota = Self(if is_v1 { v1 } else { v2 }.join(name));
        if !is_v1 {
            fs::write(v2.join("cgroup.subtree_control"), "+cpu")?;
        }
        fs::create_dir(&quota.0)?;
        if is_v1 {
            fs::write(quota.0.join("cpu.cfs_period_us"), "100000")?;
            fs::write(quota.0.join("cpu.cfs_quota_us"), "10000")?;
        } else {
            fs::write(quota.0.join("cpu.max"), "10000 100000")?;
        }
        fs::write(quota.0.join("cgroup.procs"), process.to_string())?;
        Ok(quota)
    }

    /// How often its process was not let run although it wanted to.
    fn throttled(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("cpu.stat")).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("nr_throttled "));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Its processes go to the group above, where they may run again.
        let above = self.0.parent().map(|above| above.join("cgroup.procs"));
        let processes = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            let _ = above.as_ref().map(|above| fs::write(above, process));
        }
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// A part of a CPU for a process; `None` where there can be none and nobody insists.
fn a_tenth(process: u32) -> Option<Quota> {
    match Quota::a_tenth(process) {
        Ok(quota) => Some(quota),
        Err(error) if env::var_os("CI").is_none() => {
            eprintln!("not run: no part of a CPU can be given ({error})");
            None
        }
        Err(error) => panic!("no part of a CPU can be given: {error}"),
    }
}

/// Writes a list of names, and gives the policy that goes by it.
fn policy_of_names(lab: &Lab, names: usize) -> String {
    let list = lab.gateway.folder.join("million.txt");
    let mut text = io::BufWriter::new(fs::File::create(&list).expect("a list"));
    for number in 0..names {
        writeln!(text, "host{number}.advertising.example").expect("written");
    }
    drop(text);
    format!(
        "[[policy]]\nname = \"ads\"\nlists = [\"{}\"]\naction = \"reject\"\n",
        list.display()
    )
}

/// The socket of a service manager.
fn manager(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a limit");
    socket
}

#[test]
fn a_start_with_many_names_at_a_tenth_of_a_cpu_is_in_time() {
    let Some(lab) = lab() else { return };
    let names = times(NAMES[0], NAMES[1]);
    wire::lay(&lab.gateway, "one");
    let path = env::temp_dir().join(format!("gateway-sensor-start-{}", std::process::id()));
    let socket = manager(&path);
    let mut settings = Settings::new(&lab, &["one"]);
    settings.tick = "1s";
    settings.more = policy_of_names(&lab, names);
    let mut command = lab.gateway.command(SENSOR, ["run", "--config"]);
    command
        .arg(settings.write(&lab, "slow"))
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let process = lab.gateway.start("slow", command).expect("started");
    let begun = Instant::now();
    let Some(quota) = a_tenth(process.id()) else {
        return;
    };
    let mut ready = None;
    let (mut fed, mut longest) = (begun, Duration::ZERO);
    // Some signs of life after the start, too.
    while ready.is_none_or(|ready: Instant| ready.elapsed() < 3 * WATCHDOG / 2) {
        let mut buffer = [0; 512];
        if let Ok(length) = socket.recv(&mut buffer) {
            if buffer[..length].starts_with(b"READY=1") && ready.is_none() {
                (ready, fed) = (Some(Instant::now()), Instant::now());
            }
            if &buffer[..length] == b"WATCHDOG=1\n" && ready.is_some() {
                longest = longest.max(fed.elapsed());
                fed = Instant::now();
            }
        }
        let log = process.log();
        match ready {
            None => assert!(begun.elapsed() < START, "not ready after {START:?}:\n{log}"),
            Some(_) => assert!(fed.elapsed() < WATCHDOG, "not fed for {WATCHDOG:?}:\n{log}"),
        }
    }
    let took = ready.map(|ready| ready - begun);
    let throttled = quota.throttled();
    eprintln!(
        "a start with {names} names at a tenth of a CPU: {took:?}; the watchdog waited for {longest:?} at most; \
         {throttled} times throttled"
    );
    assert!(throttled > 10, "only {throttled} times throttled");
    let log = process.log();
    let in_force = format!("1 policies, {names} names");
    assert!(log.contains(&in_force), "{log}");
    drop(quota);
    drop(process);
    let _ = fs::remove_file(&path);
}

#[test]
fn many_names_at_a_tenth_of_a_cpu_keep_the_watchdog_fed() {
    let Some(lab) = lab() else { return };
    let names = times(NAMES[0], NAMES[1]);
    wire::lay(&lab.gateway, "one");
    let path = env::temp_dir().join(format!("gateway-sensor-slow-{}", std::process::id()));
    let socket = manager(&path);
    let mut settings = Settings::new(&lab, &["one"]);
    settings.tick = "1s";
    let mut command = lab.gateway.command(SENSOR, ["run"]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let daemon = Daemon::spawn_by(&lab, &settings, command);
    let Some(quota) = a_tenth(daemon.process.id()) else {
        return;
    };
    settings.more = policy_of_names(&lab, names);
    fs::write(&daemon.file, settings.text()).expect("written");
    daemon.process.signal(Signal::HUP).expect("running");
    let begun = Instant::now();
    let (mut fed, mut longest) = (begun, Duration::ZERO);
    let mut is_reloading = false;
    loop {
        let mut buffer = [0; 512];
        if let Ok(length) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            match &*text {
                "WATCHDOG=1\n" => {
                    longest = longest.max(fed.elapsed());
                    fed = Instant::now();
                }
                _ if text.starts_with("RELOADING=1") => is_reloading = true,
                _ if text.starts_with("READY=1") && is_reloading => {
                    if daemon.scrape().value("sensor_policy_names", &[]) as usize == names {
                        break;
                    }
                    is_reloading = false;
                }
                _ => {}
            }
        }
        let log = daemon.process.log();
        assert!(fed.elapsed() < WATCHDOG, "not fed for {WATCHDOG:?}:\n{log}");
        assert!(begun.elapsed() < Duration::from_secs(900), "{log}");
    }
    let throttled = quota.throttled();
    eprintln!(
        "a reload of {names} names at a tenth of a CPU: {:?}; the watchdog waited for {longest:?} at most; \
         {throttled} times throttled",
        begun.elapsed()
    );
    assert!(throttled > 10, "only {throttled} times throttled");
    // Told to end while it reads the list once more, it does not read it to the end.
    daemon.process.signal(Signal::HUP).expect("running");
    loop {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap_or(0);
        if buffer[..length].starts_with(b"RELOADING=1") {
            break;
        }
        let log = daemon.process.log();
        assert!(begun.elapsed() < Duration::from_secs(900), "{log}");
    }
    let told = Instant::now();
    daemon.end();
    let took = told.elapsed();
    eprintln!("ended after {took:?}");
    assert!(took < Duration::from_secs(12), "ended after {took:?}");
    drop(quota);
    let _ = fs::remove_file(&path);
}
