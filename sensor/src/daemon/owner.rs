//! The task that owns the kernel's side, and does one command after the other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use sensor_ebpf::flow::FlowKey;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
};

use super::{
    Command, classifier::ListenerHandle, clock::Clock, history::History, memory, retry::Retry,
    systemd::ServiceManager, turns::Turns,
};
use crate::{
    aggregate::Aggregate,
    catalog::Catalog,
    causes::in_one_line,
    config::Config,
    enforcement::{Context, Enforcement},
    health::Health,
    model::{Device, Snapshot, Ticks},
    moment::Moment,
    record::{Reader, Record},
    sink::web::{self, Hosts},
    source::kernel::{self, Kernel},
};

/// How often the owner checks that everything is attached that should be.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often memory that a burst of flows or a large answer took is given back.
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// The errors that were logged last, each until its task succeeds.
#[derive(Default)]
pub(super) struct LastErrors {
    /// Why interfaces or pins cannot be looked at.
    pub(super) look: Option<String>,
    /// Why the tables cannot be read.
    pub(super) tick: Option<String>,
    /// Why the policy cannot follow devices and names.
    pub(super) policy: Option<String>,
}

/// Logs an error once, though its task is tried again and again.
pub(super) fn say_once(last: &mut Option<String>, outcome: Result<(), impl std::fmt::Display>) {
    let error = outcome.err().map(|error| error.to_string());
    if let Some(error) = &error
        && last.as_ref() != Some(error)
    {
        tracing::warn!("{error}");
    }
    *last = error;
}

/// Has the aggregate take records, and notes which flows gave their slots back.
pub(super) struct Taking<'a> {
    pub(super) aggregate: &'a mut Aggregate,
    pub(super) now: f64,
    pub(super) reaped: Vec<(u32, FlowKey)>,
}

impl Reader for &mut Taking<'_> {
    fn take(&mut self, record: Record) {
        Taking::take(self, record);
    }

    fn knows(&self, slot: u32, bytes: [u64; 2]) -> bool {
        self.aggregate.has_booked(slot, bytes)
    }
}

impl Taking<'_> {
    pub(super) fn take(&mut self, record: Record) {
        if let Record::Reaped(slot, flow) = &record {
            self.reaped.push((*slot, flow.key));
        }
        self.aggregate.apply(record, self.now);
    }
}

/// The task that owns the kernel's side.
pub(super) struct Owner {
    pub(super) clock: Clock,
    pub(super) kernel: Kernel,
    pub(super) config: Config,
    pub(super) catalog: Arc<Catalog>,
    pub(super) enforcement: Enforcement,
    pub(super) aggregate: Aggregate,
    /// The history, where the configuration asks for one.
    pub(super) history: Option<History>,
    /// To the thread that listens.
    pub(super) line: Arc<ListenerHandle>,
    pub(super) ticks: Ticks,
    pub(super) said: LastErrors,
    /// Whether the wall clock was right at the last tick.
    pub(super) is_time_known: Option<bool>,
    pub(super) retry: Retry,
    /// When free memory was given back last.
    pub(super) trimmed: Instant,
    /// To the task that reads configurations: this one is to be read again, with all that it names.
    pub(super) reread: mpsc::Sender<Config>,
    pub(super) health: Health,
    pub(super) http_failures: web::Failures,
    pub(super) hosts: watch::Sender<Hosts>,
    pub(super) publish: watch::Sender<Arc<Snapshot>>,
}

impl Owner {
    pub(super) async fn run(
        mut self,
        inbox: mpsc::Receiver<Command>,
        supervisor: Arc<ServiceManager>,
        mut stopped: watch::Receiver<()>,
    ) -> anyhow::Result<()> {
        let mut turns = Turns::new(LOOK_EVERY, self.config.daemon.tick, inbox);
        loop {
            let command = tokio::select! {
                biased;
                _ = stopped.changed() => break,
                command = turns.next() => match command {
                    Some(command) => command,
                    None => break,
                },
            };
            let is_look = matches!(command, Command::Look);
            let tick_before = self.config.daemon.tick;
            let first = self.ticks.count == 0;
            let reloaded = matches!(command, Command::Reload(_) | Command::ReloadRefused);
            // The kernel's side waits for grace periods: not on the runtime's thread.
            self = spawn_blocking(move || self.execute(command))
                .await
                .context("a tick failed")?;
            if is_look {
                turns.looked();
            }
            // After a reload too: only now is the new policy in force.
            if reloaded || (first && self.ticks.count > 0) {
                memory::trim();
                memory::unmap_unused_code();
                supervisor.ready(&self.status());
            }
            if self.config.daemon.tick != tick_before {
                turns.set_tick(self.config.daemon.tick);
            }
        }
        let pin_directory = self.config.daemon.pin_directory.clone();
        let keep_running = self.config.daemon.keep_running;
        self.enforcement.end(&self.clock.now());
        self = spawn_blocking(move || self.end_history())
            .await
            .context("the end of the history failed")?;
        drop(self);
        if keep_running {
            tracing::info!(
                "accounting and filter stay in the kernel; the next start adopts them, `sensor \
                 unload` removes them"
            );
            return Ok(());
        }
        kernel::unload(&pin_directory)?;
        Ok(())
    }

    /// The status that the service manager shows.
    pub(super) fn status(&self) -> String {
        let interfaces: Vec<_> = self
            .kernel
            .attached()
            .iter()
            .map(|attached| attached.interface.as_str())
            .collect();
        format!("accounting on {}", interfaces.join(", "))
    }

    pub(super) fn execute(mut self, command: Command) -> Self {
        match command {
            Command::Tick => {
                self.look_at_files();
                self.try_tick();
                if self.trimmed.elapsed() >= TRIM_EVERY {
                    self.trimmed = Instant::now();
                    memory::trim();
                }
            }
            Command::Prepare(policies, give) => {
                let names = policies.iter().map(String::as_str);
                match self.enforcement.material(&mut self.kernel, names) {
                    // The receiver may be gone.
                    Ok(material) => drop(give.send((Arc::clone(&self.catalog), material))),
                    Err(error) => {
                        let error = in_one_line(error.as_ref());
                        tracing::error!("the new configuration cannot be prepared: {error}");
                    }
                }
                return self;
            }
            Command::Reload(reload) => {
                self.reload(*reload);
                // The metrics show the reload before the service manager is told that it is over.
                self.try_tick();
            }
            Command::ReloadRefused => self.kernel.count_reload(false),
            Command::LinksChanged => {
                self.take_own_addresses();
                self.look();
            }
            Command::Look => self.look(),
            Command::Classified(batch) => {
                self.take(batch);
                return self;
            }
            Command::Work(work) => {
                work(&mut self);
                return self;
            }
        }
        self.health.set_attached(self.kernel.is_whole());
        self
    }

    /// Takes the records of the kernel's side, and tells the classifier's thread which flows gave
    /// their slots back.
    pub(super) fn apply(
        &mut self,
        tell: impl FnOnce(&mut Kernel, &mut Taking<'_>) -> Result<(), kernel::Error>,
    ) -> Result<(), kernel::Error> {
        let mut taking = Taking {
            aggregate: &mut self.aggregate,
            now: self.clock.now().steady,
            reaped: Vec::new(),
        };
        let told = tell(&mut self.kernel, &mut taking);
        self.line.reaped(taking.reaped);
        told
    }

    /// The policies, and everything that they depend on beside themselves.
    pub(super) fn enforcing<'a>(
        &'a mut self,
        devices: &'a [Device],
        now: Moment,
    ) -> (&'a mut Enforcement, Context<'a>) {
        let context = Context {
            kernel: &mut self.kernel,
            config: &self.config,
            catalog: &self.catalog,
            devices,
            names: self.aggregate.address_names(),
            now,
        };
        (&mut self.enforcement, context)
    }

    /// Tells the aggregate by which addresses devices may ask the gateway for names. Where they cannot be
    /// listed, those of before stay.
    pub(super) fn take_own_addresses(&mut self) {
        match kernel::own_addresses() {
            Ok(addresses) => self.aggregate.set_own_addresses(addresses),
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// Attaches and pins everything that should be.
    pub(super) fn look(&mut self) {
        let pinned = self.kernel.keep_pins();
        let looked = self.kernel.look(&self.config.interfaces);
        let shared = self.apply(|kernel, taking| kernel.share_out(|record| taking.take(record)));
        say_once(&mut self.said.look, pinned.and(looked).and(shared));
    }

    /// Writes the history up to now, and waits until that is done.
    pub(super) fn end_history(mut self) -> Self {
        if self.history.is_some() {
            // The last tick may be a minute ago.
            self.try_tick();
        }
        if let Some(mut history) = self.history.take() {
            let (now, is_synchronised) = (self.clock.now(), self.clock.is_synchronised());
            history.hand_over_now(&mut self.aggregate, &now, is_synchronised, true);
        }
        self
    }
}
