//! A host of the lab, and the programs that run on it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::namespace::{Mount, Namespaces};
use crate::command;

/// A machine of the lab: namespaces, and a folder for its files and logs.
#[derive(Debug)]
pub struct Host {
    /// `phone`, `laptop`, `gateway` or `internet`.
    pub name: &'static str,
    /// Where its files and logs are.
    pub folder: PathBuf,
    pub(crate) namespaces: Namespaces,
}

/// The counters of an interface, as the kernel's `stats64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counters {
    /// Received.
    pub rx: Count,
    /// Transmitted.
    pub tx: Count,
}

/// One direction of [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Octets; see [`Lab::books`](super::Lab::books) for which of them.
    pub bytes: u64,
    /// Packets lost in the driver.
    pub dropped: u64,
}

impl Host {
    pub(crate) fn new(name: &'static str, lab: &Path, mut mounts: Vec<Mount>) -> Result<Self> {
        let folder = lab.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let resolver = folder.join("resolv.conf");
        fs::write(&resolver, "")?;
        mounts.push(Mount::File {
            source: resolver,
            target: "/etc/resolv.conf".into(),
        });
        let host = Self {
            name,
            folder,
            namespaces: Namespaces::new(mounts)?,
        };
        host.prepare()?;
        Ok(host)
    }

    /// The namespace's settings, before it has an interface that would inherit the old ones.
    fn prepare(&self) -> Result<()> {
        // Addresses are unique by construction: waiting a second for a proof (duplicate address
        // detection), and up to one more before asking for a router, is time lost.
        for (setting, value) in [
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/dad_transmits", "0"),
            ("ipv6/conf/default/router_solicitation_delay", "0"),
        ] {
            self.set(setting, value)?;
        }
        self.ip("link set lo up")
    }

    /// Writes a network setting: a path below /proc/sys/net.
    ///
    /// # Errors
    /// Where the kernel has no such setting or refuses the value.
    pub fn set(&self, setting: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(setting);
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("{}: cannot write {value} to {}", self.name, path.display()))
    }

    /// A command that will run on this host. The thread that spawns it takes it along when it
    /// ends.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = self.namespaces.command(program);
        command.args(arguments);
        command
    }

    /// Runs a command to its end and gives its standard output. Words are split at spaces.
    ///
    /// # Errors
    /// Where it ends with another status than 0, with what it wrote to standard error.
    pub fn run(&self, words: &str) -> Result<String> {
        let mut words = words.split(' ').filter(|word| !word.is_empty());
        let program = words.next().context("no command")?;
        command::capture(&mut self.command(program, words))
            .with_context(|| format!("on {}", self.name))
    }

    /// Runs `ip` with these words.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn ip(&self, words: &str) -> Result<()> {
        self.run(&format!("ip {words}")).map(drop)
    }

    /// Runs `work` on a thread of this host. Sockets made there stay there.
    ///
    /// # Errors
    /// Where the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespaces.enter(work)
    }

    /// Starts a program that stays in the foreground, its output in `NAME.log` of the host's
    /// folder.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(name, &self.folder, command)
    }

    /// The kernel's counters of an interface.
    ///
    /// # Errors
    /// Where there is no such interface.
    pub fn counters(&self, interface: &str) -> Result<Counters> {
        #[derive(Deserialize)]
        struct Link {
            stats64: Counters,
        }
        let text = self.run(&format!("ip -s -j link show dev {interface}"))?;
        let links: Vec<Link> = serde_json::from_str(&text)
            .with_context(|| format!("`ip` gave no counters for {interface}: {text}"))?;
        let link = links.first().context("`ip` gave no interface")?;
        Ok(link.stats64)
    }

    /// The path by which `ip` finds the host's network namespace while this process lives.
    pub(crate) fn netns(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.namespaces.descriptors()[0]
        )
    }
}

/// A program in the foreground of a host, ended when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

/// How long a program may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(5);

impl Process {
    fn start(name: &str, folder: &Path, mut command: Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("`{}` cannot be started", command::line(&command)))?;
        Ok(Self {
            name: name.to_owned(),
            log,
            child,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("{} has ended; its log is {}", self.name, self.log.display()))
    }

    /// Waits until `ready`, asking again and again.
    ///
    /// # Errors
    /// Where the program ends first or `limit` passes; the error carries its log.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let begun = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended ({status}) before {what}:\n{}",
                    self.name,
                    self.log()
                );
            }
            if begun.elapsed() > limit {
                bail!("{}: not {what} after {limit:?}:\n{}", self.name, self.log());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits for its end and gives its status.
    ///
    /// # Errors
    /// Where `limit` passes first; it goes on running then.
    pub fn wait(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > limit {
                bail!("{} still runs after {limit:?}", self.name);
            }
            thread::sleep(POLL);
        }
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// Where it does not end in time; it is killed then.
    pub fn stop(mut self) -> Result<std::process::ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(PATIENCE)
    }

    /// Kills it at once (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// Where it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let asked = kill_process(Pid::from_child(&self.child), Signal::TERM);
        if asked.is_err() || self.wait(PATIENCE).is_err() {
            // Nothing is left to be done where even this fails: the kernel ends it with us.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `ready`, asking again and again.
///
/// # Errors
/// Where `limit` passes first.
pub fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !ready() {
        if begun.elapsed() > limit {
            bail!("not {what} after {limit:?}");
        }
        thread::sleep(POLL);
    }
    Ok(())
}
