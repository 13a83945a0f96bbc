//! Reloads: a configuration or list that changed is read and prepared beside the owner's task, and put in force by
//! it in one step.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
};

use super::{
    Command, file_changes::FileChanges, history, overrides, owner::Owner, shutdown::ended,
    stale_after, systemd::ServiceManager,
};
use crate::{
    catalog::Catalog,
    causes::in_one_line,
    config::{Checked, Config, KeptNames},
    enforcement::{Context, Prepared},
    sink::web::Hosts,
    source::kernel,
};

/// A configuration to be put in force, with its catalog and policies prepared by another task.
pub(super) struct Reload {
    pub(super) config: Config,
    pub(super) catalog: Arc<Catalog>,
    pub(super) policies: Prepared,
}

/// Reads the configuration anew at SIGHUP and when its file changes.
pub(super) async fn reload(
    file: PathBuf,
    mut changes: FileChanges,
    mut to_reread: mpsc::Receiver<Config>,
    commands: mpsc::Sender<Command>,
    supervisor: Arc<ServiceManager>,
    stopped: watch::Receiver<()>,
) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be caught")?;
    let mut stopped = std::pin::pin!(ended(stopped));
    loop {
        let again = tokio::select! {
            () = &mut stopped => return Ok(()),
            _ = hangup.recv() => None,
            () = changes.next() => None,
            Some(config) = to_reread.recv() => Some(config),
        };
        let config = match again {
            Some(config) => Some(config),
            None => {
                supervisor.reloading();
                let file = file.clone();
                spawn_blocking(move || read(&file))
                    .await
                    .context("reading the configuration failed")?
            }
        };
        let command = tokio::select! {
            // Nobody waits for the command any more.
            () = &mut stopped => return Ok(()),
            command = prepare(config, &commands) => command?,
        };
        if commands.send(command).await.is_err() {
            return Ok(());
        }
    }
}

/// Reads a configuration; `None` where it is refused. Its problems are logged here. Problems of the files
/// that it names are logged once, when these are read.
fn read(file: &Path) -> Option<Config> {
    let read = Config::load_alone(file);
    match read {
        Ok(Checked { config, problems }) => {
            if !problems.is_empty() {
                tracing::warn!("{problems}");
            }
            Some(config)
        }
        Err(problems) => {
            tracing::error!("the new configuration is refused, the old one stays:\n{problems}");
            None
        }
    }
}

/// Has a configuration ready to be put in force, on a thread of its own: a million names take a second of CPU
/// time, and the owner's ticks and commands go on meanwhile.
async fn prepare(
    config: Option<Config>,
    commands: &mpsc::Sender<Command>,
) -> anyhow::Result<Command> {
    let Some(config) = config else {
        return Ok(Command::ReloadRefused);
    };
    let names = config.policies.iter().map(|policy| policy.name.clone());
    let (give, given) = oneshot::channel();
    let asked = commands.send(Command::Prepare(names.collect(), give)).await;
    let Ok((before, material)) = (match asked {
        Ok(()) => given.await.map_err(drop),
        Err(_) => Err(()),
    }) else {
        // The owner has logged why.
        return Ok(Command::ReloadRefused);
    };
    let prepared = spawn_blocking(move || {
        let catalog = Catalog::load(&config.parties, &config.lists, Some(&before));
        let policies = material.prepare(&config.policies, &catalog);
        Reload {
            catalog: Arc::new(catalog),
            policies,
            config,
        }
    });
    let reload = prepared.await.context("preparing the policies failed")?;
    Ok(Command::Reload(Box::new(reload)))
}

impl Owner {
    /// Reads lists and databases anew where one has changed.
    pub(super) fn look_at_files(&mut self) {
        let files = self.enforcement.files(&self.catalog);
        if self.retry.is_due(files, Instant::now()) {
            tracing::info!("a list or database has changed: all are read anew");
            // Full: it is done already.
            let _ = self.reread.try_send(self.config.clone());
        }
    }

    /// Puts a new configuration in force, or keeps the old one and says why.
    pub(super) fn reload(&mut self, reload: Reload) {
        let Reload {
            config,
            catalog,
            policies,
        } = reload;
        let devices = Arc::clone(&self.publish.borrow());
        let circumstances = Context {
            kernel: &mut self.kernel,
            config: &config,
            catalog: &catalog,
            devices: &devices.devices,
            names: self.aggregate.address_names(),
            now: self.clock.now(),
        };
        let installed = self.enforcement.install_prepared(policies, circumstances);
        let installed = match installed {
            Ok(installed) => installed,
            Err(error) => {
                let error = in_one_line(error.as_ref());
                tracing::error!("the new configuration is refused, the old one stays: {error}");
                self.kernel.count_reload(false);
                return;
            }
        };
        self.kernel.count_reload(true);
        for (key, when) in later(&self.config, &config) {
            tracing::warn!("{key} has changed: it takes effect {when}");
        }
        let is_new = |name: &str| {
            !self
                .config
                .interfaces
                .iter()
                .any(|other| other.name == name)
        };
        for interface in &config.interfaces {
            if is_new(&interface.name)
                && let Err(error) = kernel::ifindex(&interface.name)
            {
                tracing::warn!("{error}");
            }
        }
        self.kernel.set_watched_payloads(config.names.segments);
        self.kernel.set_hold(config.names.hold);
        if config.names.kernel_quic != self.config.names.kernel_quic {
            self.kernel.set_opens_initials(config.names.kernel_quic);
        }
        self.enforcement.share(&mut self.kernel, &config);
        self.aggregate
            .learn(Arc::clone(&catalog), overrides(&config));
        self.catalog = catalog;
        self.change_history(&config);
        self.hosts
            .send_replace(Hosts::new(config.daemon.hosts.clone()));
        let old = std::mem::replace(&mut self.config, config);
        // Keys that take effect later keep their old values, so the next reload warns of them too.
        let daemon = &mut self.config.daemon;
        daemon.listen = old.daemon.listen;
        daemon.pin_directory = old.daemon.pin_directory;
        daemon.state_directory = old.daemon.state_directory;
        daemon.runtime_directory = old.daemon.runtime_directory;
        self.config.history.directory = old.history.directory;
        if (self.config.history.keep == KeptNames::Off) != (old.history.keep == KeptNames::Off) {
            self.config.history.keep = old.history.keep;
        }
        self.config.flow_table.capacity = old.flow_table.capacity;
        self.config.device_table = old.device_table;
        self.config.names.assemblies = old.names.assemblies;
        self.health.set_stale_after(stale_after(&self.config));
        self.look();
        tracing::info!(
            "configuration reloaded: {} policies, {} names, {} prefixes, generation {}",
            installed.policies,
            installed.names,
            installed.prefixes,
            installed.generation
        );
    }

    /// Takes the settings of the history; it begins or ends at the next start.
    pub(super) fn change_history(&mut self, config: &Config) {
        if let Some(history) = &mut self.history
            && let Some(rules) = history::rules(config)
        {
            self.aggregate.keep_history(Some(rules));
            history.change(config);
        }
    }
}

/// The keys that have changed and take effect later, and when.
fn later(old: &Config, new: &Config) -> Vec<(&'static str, &'static str)> {
    const START: &str = "at the next start";
    const UNLOAD: &str = "after `sensor unload`, which starts the counters at zero";
    let (old_daemon, daemon) = (&old.daemon, &new.daemon);
    let keys = [
        ("daemon.listen", START, daemon.listen != old_daemon.listen),
        (
            "daemon.pin_directory",
            START,
            daemon.pin_directory != old_daemon.pin_directory,
        ),
        (
            "daemon.state_directory",
            START,
            daemon.state_directory != old_daemon.state_directory,
        ),
        (
            "history.keep",
            START,
            (new.history.keep == KeptNames::Off) != (old.history.keep == KeptNames::Off),
        ),
        (
            "history.directory",
            START,
            new.history.directory != old.history.directory,
        ),
        (
            "daemon.runtime_directory",
            START,
            daemon.runtime_directory != old_daemon.runtime_directory,
        ),
        (
            "flow_table.capacity",
            UNLOAD,
            new.flow_table.capacity != old.flow_table.capacity,
        ),
        (
            "device_table.capacity",
            UNLOAD,
            new.device_table.capacity != old.device_table.capacity,
        ),
        (
            "names.assemblies",
            START,
            new.names.assemblies != old.names.assemblies,
        ),
    ];
    let changed = keys.into_iter().filter(|(.., has_changed)| *has_changed);
    changed.map(|(key, when, _)| (key, when)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_does_not_change_is_told() {
        let parse = |text: &str| {
            let text = format!("[[interface]]\nname = \"lan0\"\n{text}");
            let checked = Config::parse(&text, Path::new("sensor.toml")).expect("it is valid");
            checked.config
        };
        let old = parse("");
        let keys = |text: &str| {
            let later = later(&old, &parse(text));
            later.iter().map(|(key, _)| *key).collect::<Vec<_>>()
        };
        assert_eq!(
            keys(
                "[daemon]\nlisten = \"127.0.0.1:1\"\npin_directory = \"/sys/fs/bpf/a\"\n\
                 state_directory = \"/a\"\nruntime_directory = \"/b\"\n[flow_table]\ncapacity = 64\n[device_table]\n\
                 capacity = 1\n[names]\nassemblies = 16\n"
            ),
            [
                "daemon.listen",
                "daemon.pin_directory",
                "daemon.state_directory",
                "daemon.runtime_directory",
                "flow_table.capacity",
                "device_table.capacity",
                "names.assemblies",
            ]
        );
        let others = "[daemon]\ntick = \"2s\"\nhosts = [\"a\"]\nkeep_running = false\n\
                      time_zone = \"Europe/Berlin\"\n[flow_table]\nidle_after = \"1m\"\n\
                      [names]\nsegments = 2\nhold = \"5ms\"\n[parties]\ntop = 2\n\
                      [[policy]]\nname = \"a\"\nports = [1]\n";
        assert_eq!(keys(others), [""; 0]);
    }
}
