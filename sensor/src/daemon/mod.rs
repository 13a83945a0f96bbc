//! From the kernel to the sinks: the only place with channels and tasks.
//!
//! One task owns the kernel's side and does all that touches it, a command at a time; the others wait
//! for something (a signal, a changed file, an interface, a scrape) and tell it. A thread of its own
//! takes samples, judges names and hands the observations to that task, for which it never waits.
//! Everything ends when the stop channel's sender is dropped.

mod classifier;
pub(crate) mod clock;
mod file_changes;
mod history;
pub(crate) mod memory;
mod requests;
mod resets;
mod retry;
pub mod systemd;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};
use sensor_ebpf::{flow::FlowKey, parse::Mac, policy::Verdict, sample::Judged};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::{JoinSet, spawn_blocking},
    time::{Interval, MissedTickBehavior, interval, sleep},
};

use crate::{
    aggregate::{
        Aggregate, Overrides, action,
        address_names::AddressNames,
        identity::IdentityOverride,
        refused::{Cause, Refusal},
        remote_end,
    },
    catalog::Catalog,
    classify::{Classified, Refused},
    config::{Checked, Config, KeptNames},
    control::{
        server,
        socket::{self, Place},
    },
    daemon::systemd::ServiceManager,
    enforcement::{Context, Enforcement, Material, Prepared},
    health::Health,
    model::{Device, Snapshot, Ticks},
    moment::Moment,
    record::{Reader, Record},
    sink::web::{self, Hosts},
    source::kernel::{self, Kernel, LinkChanges, Messages, Samples, Verdicts},
};
use classifier::{Listener, ListenerHandle, listen};
use clock::Clock;
use file_changes::FileChanges;
use history::History;
use requests::Requests;
use retry::Retry;

/// A command to the task that owns the kernel's side.
enum Command {
    /// Send the material for policies with these names to the task that prepares them.
    Prepare(Vec<String>, oneshot::Sender<(Arc<Catalog>, Material)>),
    /// Put a configuration in force that was read anew, with all files that it names.
    Reload(Box<Reload>),
    /// Count a new configuration that has errors.
    ReloadRefused,
    /// Some interface changed.
    LinksChanged,
    /// Check whether everything is attached that should be.
    Look,
    /// Read the tables.
    Tick,
    /// Take records of the classifier's thread.
    Classified(Vec<Classified>),
    /// Do this for a request of the command line.
    Work(requests::Work),
}

/// A configuration to be put in force, with its catalog and policies prepared by another task.
struct Reload {
    config: Config,
    catalog: Arc<Catalog>,
    policies: Prepared,
}

/// The `[[device]]` sections of a configuration, by MAC address.
pub fn overrides(config: &Config) -> Overrides {
    config
        .devices
        .iter()
        .map(|device| {
            let says = IdentityOverride {
                name: device.name.clone(),
                kind: device.kind,
                vendor: device.vendor.clone(),
            };
            (Mac::new(device.mac), says)
        })
        .collect()
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
///
/// The error that kept the daemon from starting, or ended it.
pub async fn run(file: &Path, config: Config) -> anyhow::Result<()> {
    // The steps that can fail before the kernel is touched.
    kernel::available(&config)?;
    let listener = web::bind(config.daemon.listen).await?;
    let changes = FileChanges::watch(file)?;
    let links = LinkChanges::subscribe()?;
    let supervisor = Arc::new(ServiceManager::from_environment());

    let clock = Clock::of_machine();
    let begun = clock.now().steady;
    let mut started = Started::start(config, clock.clone()).await?;
    // This daemon has the tables now: no other one with the same pin directory takes the socket. Accounting goes
    // on without it.
    let daemon = &started.config.daemon;
    let place = Place::new(&daemon.runtime_directory, &daemon.pin_directory);
    let socket = socket::bind(&place)
        .inspect_err(|error| tracing::warn!("{error:#}"))
        .ok();
    let health = Health::new(stale_after(&started.config), Instant::now());
    let (publish, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let (commands, inbox) = mpsc::channel(8);
    let (stop, stopped) = watch::channel(());

    let mut tasks = JoinSet::new();
    let line = Arc::new(ListenerHandle::new(started.enforcement.judge())?);
    started.enforcement.tell({
        let line = Arc::clone(&line);
        move |in_force| line.publish(in_force)
    });
    let thread = Listener::new(
        started.samples,
        started.verdicts,
        Arc::clone(&line),
        commands.clone(),
        clock.clone(),
    )?;
    tasks.spawn(listen(thread, ended(stopped.clone())));
    if let Some(socket) = socket {
        let (requests, stopped) = (Requests(commands.clone()), ended(stopped.clone()));
        tasks.spawn(async move {
            tokio::select! {
                () = stopped => {}
                () = server::serve(socket, requests) => {}
            }
            Ok(())
        });
    }
    tasks.spawn(log_messages(started.messages, stopped.clone()));
    let http_failures = web::Failures::default();
    let hosts = Hosts::new(started.config.daemon.hosts.clone());
    let (publish_hosts, hosts) = watch::channel(hosts);
    let sources = web::Sources {
        snapshots,
        health: health.clone(),
        hosts,
        failures: http_failures.clone(),
    };
    let server = web::serve(listener, sources, ended(stopped.clone()));
    tasks.spawn(async {
        server.await;
        Ok(())
    });
    let (reread, to_reread) = mpsc::channel(1);
    tasks.spawn(reload(
        file.to_owned(),
        changes,
        to_reread,
        commands.clone(),
        Arc::clone(&supervisor),
        stopped.clone(),
    ));
    tasks.spawn(watch_links(links, commands, stopped.clone()));
    tasks.spawn({
        let (supervisor, health) = (Arc::clone(&supervisor), health.clone());
        let stopped = ended(stopped.clone());
        async move {
            tokio::select! {
                () = stopped => {}
                // `watch` ends at once where no watchdog is wanted.
                () = async { supervisor.watch(health).await; std::future::pending().await } => {}
            }
            Ok(())
        }
    });
    // Traffic that an earlier daemon counted in adopted tables is not counted again.
    let since = match started.kernel.tables_made() {
        true => 0.0,
        false => begun,
    };
    let mut aggregate = Aggregate::new(
        Arc::clone(&started.catalog),
        overrides(&started.config),
        since,
    );
    aggregate.keep_history(history::rules(&started.config));
    let tables = started.kernel.tables_identity();
    let history = History::start(&started.config, tables, begun);
    let mut owner = Owner {
        clock,
        kernel: started.kernel,
        config: started.config,
        catalog: started.catalog,
        enforcement: started.enforcement,
        aggregate,
        history,
        line,
        ticks: Ticks::default(),
        said: LastErrors::default(),
        is_time_known: None,
        retry: Retry::default(),
        trimmed: Instant::now(),
        reread,
        health,
        http_failures,
        hosts: publish_hosts,
        publish,
    };
    owner.take_own_addresses();
    tasks.spawn(owner.run(inbox, Arc::clone(&supervisor), stopped));

    let ended = tokio::select! {
        ended = tasks.join_next() => ended,
        () = asked_to_end() => None,
    };
    supervisor.stopping();
    drop(stop);
    // A task that ends by itself had a reason.
    let mut outcome = ended.map_or(Ok(()), |ended| ended.context("a task failed")?);
    while let Some(ended) = tasks.join_next().await {
        outcome = outcome.and(ended.context("a task failed")?);
    }
    outcome
}

/// The timers and the inbox that give the owner its next command.
struct Turns {
    looks: Interval,
    ticks: Interval,
    inbox: mpsc::Receiver<Command>,
}

impl Turns {
    fn new(look: Duration, tick: Duration, inbox: mpsc::Receiver<Command>) -> Self {
        Self {
            looks: every(look),
            ticks: every(tick),
            inbox,
        }
    }

    /// Waits for the next command; `None` when all senders of commands are gone.
    async fn next(&mut self) -> Option<Command> {
        tokio::select! {
            biased;
            _ = self.looks.tick() => Some(Command::Look),
            // Chance picks one of two that are ready, because each of them may be ready all the time.
            command = async {
                tokio::select! {
                    command = self.inbox.recv() => command,
                    _ = self.ticks.tick() => Some(Command::Tick),
                }
            } => command,
        }
    }

    /// Begins the time until the next look. It begins at a look's end, so that looks that take longer than
    /// it leave time for all else.
    fn looked(&mut self) {
        self.looks.reset();
    }

    fn set_tick(&mut self, tick: Duration) {
        self.ticks = every(tick);
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// How often the owner checks that everything is attached that should be.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often memory that a burst of flows or a large answer took is given back.
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// How long ticks may be silent before the daemon calls itself ill, at least.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// How long ticks may be silent with this configuration.
fn stale_after(config: &Config) -> Duration {
    STALE_AFTER.max(config.daemon.tick * 5)
}

/// The parts of the daemon that a start creates.
struct Started {
    kernel: Kernel,
    samples: Samples,
    verdicts: Verdicts,
    messages: Messages,
    config: Config,
    catalog: Arc<Catalog>,
    enforcement: Enforcement,
}

impl Started {
    /// Loads, puts the policy in force, then attaches: no packet is seen without policy.
    async fn start(config: Config, clock: Clock) -> anyhow::Result<Self> {
        let pin_directory = config.daemon.pin_directory.clone();
        let loaded = spawn_blocking(move || {
            let mut kernel = Kernel::load(&config)?;
            let tables_made = kernel.tables_made();
            let catalog = Catalog::load(&config.parties, &config.lists, None);
            let now = clock.now();
            let mut enforcement = Enforcement::new(&config, now);
            match begin(&mut kernel, &config, &catalog, &mut enforcement, now) {
                Ok(()) => Ok((kernel, config, Arc::new(catalog), enforcement)),
                Err(error) => {
                    drop(kernel);
                    if tables_made {
                        // Nothing of a start that failed stays.
                        let _ = kernel::unload(&config.daemon.pin_directory);
                    }
                    Err(error)
                }
            }
        });
        let (mut kernel, config, catalog, enforcement) =
            loaded.await.context("loading failed")??;
        let samples = kernel.samples()?;
        let verdicts = kernel.verdicts();
        let messages = kernel.messages()?;
        tracing::info!(
            "the kernel's tables at {} {}",
            pin_directory.display(),
            if kernel.tables_made() {
                "were made"
            } else {
                "were adopted with all their counts"
            },
        );
        Ok(Self {
            kernel,
            samples,
            verdicts,
            messages,
            config,
            catalog,
            enforcement,
        })
    }
}

/// Policy first, then the interfaces.
fn begin(
    kernel: &mut Kernel,
    config: &Config,
    catalog: &Catalog,
    enforcement: &mut Enforcement,
    now: Moment,
) -> anyhow::Result<()> {
    let installed = enforcement.start(Context {
        kernel,
        config,
        catalog,
        devices: &[],
        names: &mut AddressNames::default(),
        now,
    })?;
    kernel.set_watched_payloads(config.names.segments);
    kernel.set_hold(config.names.hold);
    enforcement.share(kernel, config);
    kernel.tidy(config)?;
    let mut absent = Vec::new();
    for interface in &config.interfaces {
        match kernel.attach(interface) {
            Ok(()) => {}
            Err(error @ kernel::Error::NoInterface { .. }) => absent.push(error),
            Err(error) => return Err(error.into()),
        }
    }
    if kernel.attached().is_empty()
        && let Some(error) = absent.pop()
    {
        return Err(error.into());
    }
    for error in absent {
        tracing::warn!("{error}");
    }
    tracing::info!(
        "{} policies, {} names and {} prefixes in force, generation {}",
        installed.policies,
        installed.names,
        installed.prefixes,
        installed.generation
    );
    Ok(())
}

/// The errors that were logged last, each until its task succeeds.
#[derive(Default)]
struct LastErrors {
    /// Why interfaces or pins cannot be looked at.
    look: Option<String>,
    /// Why the tables cannot be read.
    tick: Option<String>,
    /// Why the policy cannot follow devices and names.
    policy: Option<String>,
}

/// Logs an error once, though its task is tried again and again.
fn say_once(last: &mut Option<String>, outcome: Result<(), impl std::fmt::Display>) {
    let error = outcome.err().map(|error| error.to_string());
    if let Some(error) = &error
        && last.as_ref() != Some(error)
    {
        tracing::warn!("{error}");
    }
    *last = error;
}

/// Has the aggregate take records, and notes which flows gave their slots back.
struct Taking<'a> {
    aggregate: &'a mut Aggregate,
    now: f64,
    reaped: Vec<(u32, FlowKey)>,
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
    fn take(&mut self, record: Record) {
        if let Record::Reaped(slot, flow) = &record {
            self.reaped.push((*slot, flow.key));
        }
        self.aggregate.apply(record, self.now);
    }
}

/// The task that owns the kernel's side.
struct Owner {
    clock: Clock,
    kernel: Kernel,
    config: Config,
    catalog: Arc<Catalog>,
    enforcement: Enforcement,
    aggregate: Aggregate,
    /// The history, where the configuration asks for one.
    history: Option<History>,
    /// To the thread that listens.
    line: Arc<ListenerHandle>,
    ticks: Ticks,
    said: LastErrors,
    /// Whether the wall clock was right at the last tick.
    is_time_known: Option<bool>,
    retry: Retry,
    /// When free memory was given back last.
    trimmed: Instant,
    /// To the task that reads configurations: this one is to be read again, with all that it names.
    reread: mpsc::Sender<Config>,
    health: Health,
    http_failures: web::Failures,
    hosts: watch::Sender<Hosts>,
    publish: watch::Sender<Arc<Snapshot>>,
}

impl Owner {
    async fn run(
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
    fn status(&self) -> String {
        let interfaces: Vec<_> = self
            .kernel
            .attached()
            .iter()
            .map(|attached| attached.interface.as_str())
            .collect();
        format!("accounting on {}", interfaces.join(", "))
    }

    fn execute(mut self, command: Command) -> Self {
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
                        tracing::error!("the new configuration cannot be prepared: {error:#}");
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
    fn apply(
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
    fn enforcing<'a>(
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

    fn tick(&mut self) -> anyhow::Result<()> {
        let before = cpu_time();
        // The daemon reaches the kernel's maps by their pins. The next look logs why one is missing.
        let _ = self.kernel.keep_pins();
        let now = self.clock.now();
        self.report_clock(&now);
        self.apply(|kernel, taking| kernel.share_out(|record| taking.take(record)))?;
        let idle_after = self.config.flow_table.idle_after;
        self.apply(|kernel, taking| kernel.read(idle_after, &now, taking))?;
        let mut snapshot = self.aggregate.snapshot(self.ticks);
        snapshot.add_to_times(now.offset());
        self.enforcement.recall(&mut snapshot.devices, &now);
        if let Some(history) = &mut self.history {
            let is_synchronised = self.clock.is_synchronised();
            history.tick(
                &mut self.aggregate,
                &snapshot.devices,
                &now,
                is_synchronised,
            );
            snapshot.history = Some(history.state());
        }
        let (enforcement, context) = self.enforcing(&snapshot.devices, now);
        let kept = enforcement.keep(context);
        // The policy of before stays, and the next tick tries again.
        say_once(
            &mut self.said.policy,
            kept.map_err(|error| format!("{error:#}")),
        );
        for attached in self.kernel.attached() {
            let mut interfaces = snapshot.interfaces.iter_mut();
            if let Some(interface) = interfaces.find(|one| one.interface == attached.interface) {
                interface.driver.clone_from(&attached.driver);
                interface.notes.clone_from(&attached.notes);
            }
        }
        snapshot.http_failures = self.http_failures.counts();
        snapshot.map_failures = kernel::failed::counts();
        snapshot.damaged_flows = self.kernel.damaged_flows();
        snapshot.judging = self.line.judging();
        snapshot.names.addresses_evicted += self.line.questions_evicted();
        snapshot.policy.devices_left_out = self.enforcement.crowded_out();
        let pauses = self.enforcement.pauses().iter();
        snapshot.policy.pauses = pauses.map(|pause| pause.shown(now.offset())).collect();
        snapshot.policy.lists = self.enforcement.shown_lists(&self.catalog);
        snapshot.is_time_unknown = !now.is_known;
        let said = self.enforcement.temporary().iter();
        snapshot.commands = said.map(|said| said.shown(now.offset())).collect();
        let spent = cpu_time().saturating_sub(before);
        let ticks = &mut self.ticks;
        ticks.count += 1;
        ticks.total += spent;
        ticks.last = spent;
        snapshot.ticks = *ticks;
        self.publish.send_replace(Arc::new(snapshot));
        self.health.ticked(Instant::now());
        Ok(())
    }

    /// Tells the log when the wall clock becomes right, or is not any more.
    fn report_clock(&mut self, now: &Moment) {
        let before = self.is_time_known.replace(now.is_known);
        match (before, now.is_known) {
            (None | Some(true), false) => tracing::warn!(
                "the clock of this machine is not set yet: policies with a schedule are not in force until it \
                 is synchronised (`timedatectl` says whether it is) or not before the date of this program"
            ),
            (Some(false), true) => tracing::info!(
                "the clock of this machine is set: policies with a schedule are in force at their times"
            ),
            _ => {}
        }
    }

    /// Takes a batch of records from the classifier's thread.
    fn take(&mut self, batch: Vec<Classified>) {
        let now = self.clock.now().steady;
        for mut record in batch {
            match &mut record {
                Classified::Record(Record::Judged(judged)) => {
                    report_judged(judged);
                    self.note_refused_address(judged, now);
                }
                Classified::Observation(observation) => {
                    for refused in std::mem::take(&mut observation.refused) {
                        self.note_refused(&observation.head.key, refused, now);
                    }
                }
                _ => {}
            }
            self.aggregate.take(record, now);
        }
    }

    /// Notes a flow that the programs refused by its address and port. The payload of a flow that they refused for
    /// another reason comes as an observation.
    fn note_refused_address(&mut self, judged: &Judged, now: f64) {
        if Verdict::from_number(judged.verdict).refuses()
            && let Some(decision) = self.enforcement.refused_by_address(&judged.key)
        {
            let refused = Refused {
                name: None,
                decision,
                count: 1,
            };
            self.note_refused(&judged.key, refused, now);
        }
    }

    /// Notes a refusal, and why.
    fn note_refused(&mut self, key: &FlowKey, refused: Refused, now: f64) {
        let Refused {
            name,
            decision,
            count,
        } = refused;
        let cause = name.as_ref().map_or_else(Cause::default, |name| {
            let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let names = self.aggregate.address_names();
            let targets = || names.aliases(key.mac(), &lower, now);
            let (config, catalog) = (&self.config, &self.catalog);
            (self.enforcement).cause(decision.policy, &lower, targets, config, catalog)
        });
        let refusal = Refusal {
            what: name.map_or_else(|| remote_end(key), |name| name.to_string()),
            layer: decision.layer,
            verdict: decision.verdict,
            policy: decision.policy,
            count,
            cause,
        };
        self.aggregate.refuse(key.mac(), refusal, now);
    }

    /// A snapshot of this moment, made by a tick of its own. Where the tables cannot be read, it is the
    /// last tick's, and the log says so: a command does not fail for that.
    fn now(&mut self) -> Arc<Snapshot> {
        self.try_tick();
        Arc::clone(&self.publish.borrow())
    }

    /// Tells the aggregate by which addresses devices may ask the gateway for names. Where they cannot be
    /// listed, those of before stay.
    fn take_own_addresses(&mut self) {
        match kernel::own_addresses() {
            Ok(addresses) => self.aggregate.set_own_addresses(addresses),
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// Attaches and pins everything that should be.
    fn look(&mut self) {
        let pinned = self.kernel.keep_pins();
        let looked = self.kernel.look(&self.config.interfaces);
        let shared = self.apply(|kernel, taking| kernel.share_out(|record| taking.take(record)));
        say_once(&mut self.said.look, pinned.and(looked).and(shared));
    }

    /// Reads the tables. An error ends nothing, because without the daemon names would no longer be
    /// judged: the next tick tries again, and [`Health`] tells for how long the tables were not read.
    fn try_tick(&mut self) {
        let ticked = self.tick().map_err(|error| format!("{error:#}"));
        say_once(&mut self.said.tick, ticked);
    }

    /// Writes the history up to now, and waits until that is done.
    fn end_history(mut self) -> Self {
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

    /// Reads lists and databases anew where one has changed.
    fn look_at_files(&mut self) {
        let files = self.enforcement.files(&self.catalog);
        if self.retry.is_due(files, Instant::now()) {
            tracing::info!("a list or database has changed: all are read anew");
            // Full: it is done already.
            let _ = self.reread.try_send(self.config.clone());
        }
    }

    /// Takes the settings of the history; it begins or ends at the next start.
    fn change_history(&mut self, config: &Config) {
        if let Some(history) = &mut self.history
            && let Some(rules) = history::rules(config)
        {
            self.aggregate.keep_history(Some(rules));
            history.change(config);
        }
    }

    /// Puts a new configuration in force, or keeps the old one and says why.
    fn reload(&mut self, reload: Reload) {
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
                tracing::error!("the new configuration is refused, the old one stays: {error:#}");
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

/// CPU time of this thread.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Ends when the stop channel's sender is dropped.
async fn ended(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

async fn asked_to_end() {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

/// Tells the log, at debug, which flow a policy matched. Names and addresses go no higher.
fn report_judged(judged: &Judged) {
    tracing::debug!(
        device = judged.key.mac().to_string(),
        remote = ?judged.key.remote(),
        port = judged.key.remote_port(),
        policy = judged.policy,
        action = action(Verdict::from_number(judged.verdict)),
        "a policy matched a flow",
    );
}

/// How long a task waits behind a call that failed before it tries again.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes the kernel programs' own messages to the log. Where they cannot be read, it tries again:
/// accounting goes on without them.
async fn log_messages(mut messages: Messages, stopped: watch::Receiver<()>) -> anyhow::Result<()> {
    let mut stopped = std::pin::pin!(ended(stopped));
    let mut last = None;
    loop {
        let logged = tokio::select! {
            () = &mut stopped => return Ok(()),
            logged = messages.log() => logged,
        };
        let failed = logged.is_err();
        say_once(&mut last, logged);
        if failed {
            sleep(PAUSE).await;
        }
    }
}

async fn watch_links(
    mut links: LinkChanges,
    commands: mpsc::Sender<Command>,
    stopped: watch::Receiver<()>,
) -> anyhow::Result<()> {
    let mut stopped = std::pin::pin!(ended(stopped));
    let mut last = None;
    loop {
        let changed = tokio::select! {
            () = &mut stopped => return Ok(()),
            changed = links.next() => changed,
        };
        let failed = changed.is_err();
        say_once(&mut last, changed);
        if failed {
            // The owner looks at interfaces by itself, too.
            sleep(PAUSE).await;
            continue;
        }
        if commands.send(Command::LinksChanged).await.is_err() {
            return Ok(());
        }
    }
}

/// Reads the configuration anew at SIGHUP and when its file changes.
async fn reload(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn looks_and_commands_leave_time_for_ticks() {
        let period = Duration::from_millis(5);
        let (commands, inbox) = mpsc::channel(8);
        let mut turns = Turns::new(period, period, inbox);
        let (mut looks, mut ticks, mut others) = (0, 0, 0);
        for _ in 0..100 {
            while commands.try_send(Command::LinksChanged).is_ok() {}
            match turns.next().await {
                Some(Command::Look) => {
                    // Longer than until the next look and tick.
                    tokio::time::sleep(period * 3).await;
                    turns.looked();
                    looks += 1;
                }
                Some(Command::Tick) => {
                    tokio::time::sleep(period * 3).await;
                    ticks += 1;
                }
                Some(_) => {
                    tokio::time::sleep(period / 5).await;
                    others += 1;
                }
                None => unreachable!("there is a sender"),
            }
        }
        assert!(
            looks > 0 && ticks > 10 && others > 10,
            "{looks} {ticks} {others}"
        );
    }

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
