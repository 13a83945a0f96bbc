//! The real daemon on the lab's gateway, and what it says.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use rustix::process::Signal;
use xtask::lab::{Lab, Process};

/// The program under test.
pub(crate) const SENSOR: &str = env!("CARGO_BIN_EXE_sensor");
/// How long a start, and whatever else the daemon does, may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A configuration, to be written.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Interfaces and hooks.
    pub(crate) interfaces: Vec<(String, &'static str)>,
    /// Further keys of each interface.
    pub(crate) keys: &'static str,
    /// The pin directory.
    pub(crate) pins: PathBuf,
    /// The state directory.
    pub(crate) state: PathBuf,
    /// The runtime directory.
    pub(crate) runtime: PathBuf,
    /// The port on the gateway's loopback.
    pub(crate) port: u16,
    /// How often the tables are read.
    pub(crate) tick: &'static str,
    /// Whether the programs stay.
    pub(crate) keep_running: bool,
    /// Further tables.
    pub(crate) more: String,
}

impl Settings {
    /// One interface, `hook = "auto"`, no policy.
    pub(crate) fn new(lab: &Lab, interfaces: &[&str]) -> Self {
        Self {
            interfaces: interfaces
                .iter()
                .map(|name| ((*name).to_owned(), "auto"))
                .collect(),
            keys: "",
            pins: lab.pins(),
            state: lab.gateway.folder.join("state"),
            runtime: lab.runtime(),
            port: 9617,
            tick: "100ms",
            keep_running: true,
            more: String::new(),
        }
    }

    /// The same with another hook.
    pub(crate) fn hook(mut self, hook: &'static str) -> Self {
        for (_, one) in &mut self.interfaces {
            *one = hook;
        }
        self
    }

    pub(crate) fn text(&self) -> String {
        let interfaces: String = self
            .interfaces
            .iter()
            .map(|(name, hook)| {
                format!(
                    "[[interface]]\nname = \"{name}\"\nhook = \"{hook}\"\n{}\n",
                    self.keys
                )
            })
            .collect();
        format!(
            "{interfaces}[daemon]\ntick = \"{}\"\nlisten = \"127.0.0.1:{}\"\n\
             pin_directory = \"{}\"\nstate_directory = \"{}\"\nruntime_directory = \"{}\"\n\
             keep_running = {}\n\n{}",
            self.tick,
            self.port,
            self.pins.display(),
            self.state.display(),
            self.runtime.display(),
            self.keep_running,
            self.more
        )
    }

    /// Writes it below the gateway's folder.
    pub(crate) fn write(&self, lab: &Lab, name: &str) -> PathBuf {
        let file = lab.gateway.folder.join(format!("{name}.toml"));
        fs::write(&file, self.text()).expect("a configuration");
        file
    }
}

/// The result of a command that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit status; `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// All it wrote.
    pub(crate) said: String,
}

impl Ended {
    /// That it failed, and said this.
    #[track_caller]
    pub(crate) fn refused(&self, sentence: &str) {
        assert_eq!(self.code, Some(1), "{}", self.said);
        assert!(
            self.said.contains(sentence),
            "«{sentence}» is not in «{}»",
            self.said
        );
        assert!(!self.said.contains("panicked"), "{}", self.said);
    }

    /// That it did its work, and what it wrote.
    #[track_caller]
    pub(crate) fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.said);
        self.said
    }
}

/// Runs a command of the sensor to its end.
pub(crate) fn run(lab: &Lab, settings: &Settings, words: &[&str]) -> Ended {
    run_by(lab, settings, lab.gateway.command(SENSOR, words))
}

/// As [`run`], started by another program: its last words are the sensor and what it shall do.
pub(crate) fn run_by(lab: &Lab, settings: &Settings, mut command: Command) -> Ended {
    command.arg("--config").arg(settings.write(lab, "command"));
    // A log for each: a file is appended to.
    let name = format!("command-{}", number());
    let mut process = lab.gateway.start(&name, command).expect("started");
    let status = process.wait(LIMIT);
    Ended {
        code: status.expect("an end").code(),
        said: process.log(),
    }
}

fn number() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A daemon that runs.
pub(crate) struct Daemon<'a> {
    pub(crate) process: Process,
    pub(crate) file: PathBuf,
    lab: &'a Lab,
    port: u16,
}

impl<'a> Daemon<'a> {
    /// Starts one and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(lab: &'a Lab, settings: &Settings) -> Self {
        let mut daemon = Self::spawn(lab, settings);
        daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
        daemon
    }

    /// Starts one and waits for its first tick.
    #[track_caller]
    pub(crate) fn spawn(lab: &'a Lab, settings: &Settings) -> Self {
        Self::spawn_by(lab, settings, lab.gateway.command(SENSOR, ["run"]))
    }

    /// As [`spawn`](Self::spawn), by a command of one's own.
    #[track_caller]
    pub(crate) fn spawn_by(lab: &'a Lab, settings: &Settings, mut command: Command) -> Self {
        let name = format!("daemon-{}", number());
        let file = settings.write(lab, &name);
        command.arg("--config").arg(&file);
        let mut daemon = Self {
            process: lab.gateway.start(&name, command).expect("started"),
            file,
            lab,
            port: settings.port,
        };
        daemon.wait_until("ticking", |daemon| {
            daemon.scrape().is_some_and(|metrics| {
                metrics.value("sensor_tick_last_duration_seconds", &[]) > 0.0
            })
        });
        daemon
    }

    /// Waits until something is so.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, what: &str, mut ready: impl FnMut(&Probe) -> bool) {
        let probe = Probe {
            lab: self.lab,
            port: self.port,
        };
        if let Err(error) = self.process.wait_until(what, LIMIT, || ready(&probe)) {
            panic!("{error:#}");
        }
    }

    /// The metrics.
    #[track_caller]
    pub(crate) fn scrape(&self) -> Metrics {
        let probe = Probe {
            lab: self.lab,
            port: self.port,
        };
        probe.scrape().expect("metrics")
    }

    /// Waits until this many uploads were seen at an interface, and then for a while that there
    /// are no more.
    #[track_caller]
    pub(crate) fn counts(&mut self, interface: &str, packets: u64) -> Metrics {
        let seen = |metrics: &Metrics| {
            metrics.value(
                "sensor_interface_packets_total",
                &[("interface", interface), ("direction", "upload")],
            )
        };
        let wanted = packets as f64;
        self.wait_until(&format!("at {packets} packets on {interface}"), |probe| {
            probe
                .scrape()
                .is_some_and(|metrics| seen(&metrics) >= wanted)
        });
        std::thread::sleep(Duration::from_millis(250));
        let metrics = self.scrape();
        assert_eq!(seen(&metrics), wanted, "on {interface}");
        metrics
    }

    /// Tells it to end, and waits.
    #[track_caller]
    pub(crate) fn end(mut self) -> String {
        self.process.signal(Signal::TERM).expect("running");
        let status = self.process.wait(LIMIT).expect("an end");
        assert_eq!(status.code(), Some(0), "{}", self.process.log());
        self.process.log()
    }

    /// All it has written.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// Asks the daemon's HTTP.
pub(crate) struct Probe<'a> {
    lab: &'a Lab,
    port: u16,
}

impl Probe<'_> {
    /// The text of a page; `None` where the response is not 200.
    pub(crate) fn get(&self, page: &str) -> Option<String> {
        let port = self.port;
        self.lab
            .gateway
            .run(&format!(
                "curl -fsS --max-time 2 http://127.0.0.1:{port}/{page}"
            ))
            .ok()
    }

    /// The metrics.
    pub(crate) fn scrape(&self) -> Option<Metrics> {
        self.get("metrics").map(Metrics)
    }
}

/// The text of `/metrics`.
#[derive(Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// Of this text.
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// Every series and its value.
    pub(crate) fn series(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                (series, value.parse().expect("a number"))
            })
    }

    fn begins_with_the_daemon(&self, name: &str) -> bool {
        self.0.lines().any(|line| {
            line.strip_prefix("# HELP ")
                .and_then(|help| help.strip_prefix(name))
                .is_some_and(|help| {
                    help.starts_with(' ') && help.contains("since the daemon started")
                })
        })
    }

    /// The value of the one series of this name with these labels; 0 where there is none.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<_> = self
            .series()
            .filter(|(series, _)| {
                series.split('{').next() == Some(name)
                    && labels
                        .iter()
                        .all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")))
            })
            .map(|(_, value)| value)
            .collect();
        assert!(found.len() <= 1, "{name} {labels:?}: {found:?}");
        found.first().copied().unwrap_or_default()
    }

    /// Where the program of an interface and direction sits; empty where the interface is unknown.
    pub(crate) fn hook(&self, interface: &str, direction: &str) -> &str {
        let this = format!("interface=\"{interface}\"");
        let way = format!("direction=\"{direction}\"");
        self.series()
            .map(|(series, _)| series)
            .find(|series| {
                series.starts_with("sensor_hook_info{")
                    && series.contains(&this)
                    && series.contains(&way)
            })
            .and_then(|series| series.split("hook=\"").nth(1)?.split('"').next())
            .unwrap_or_default()
    }

    /// That no counter of `before` is smaller here, or gone. Those that are the daemon's own, and
    /// say in their help that they begin with it, begin anew.
    #[track_caller]
    pub(crate) fn continue_from(&self, before: &Self) {
        let mut compared = 0;
        for (series, earlier) in before.series() {
            let name = series.split('{').next().unwrap_or_default();
            if !name.ends_with("_total") || before.begins_with_the_daemon(name) {
                continue;
            }
            let now = self.series().find(|(other, _)| *other == series);
            let now = now.unwrap_or_else(|| panic!("{series} is gone")).1;
            assert!(
                now >= earlier,
                "{series} steps back from {earlier} to {now}"
            );
            compared += 1;
        }
        assert!(compared > 10, "only {compared} counters to compare");
    }
}
