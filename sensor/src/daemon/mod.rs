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
mod kernel_events;
pub(crate) mod memory;
mod observations;
mod owner;
mod reload;
mod requests;
mod resets;
mod retry;
mod shutdown;
mod start;
pub mod systemd;
mod tick;
mod turns;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use sensor_ebpf::parse::Mac;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use self::{
    classifier::{Listener, ListenerHandle, listen},
    clock::Clock,
    file_changes::FileChanges,
    history::History,
    kernel_events::{log_messages, watch_links},
    owner::{LastErrors, Owner},
    reload::{Reload, reload},
    requests::Requests,
    retry::Retry,
    shutdown::{asked_to_end, ended},
    start::Started,
    systemd::ServiceManager,
};
use crate::{
    aggregate::{Aggregate, Overrides, identity::IdentityOverride},
    catalog::Catalog,
    causes::in_one_line,
    classify::Classified,
    config::Config,
    control::{
        server,
        socket::{self, Place},
    },
    enforcement::Material,
    health::Health,
    model::{Snapshot, Ticks},
    sink::web::{self, Hosts},
    source::kernel::{self, LinkChanges},
};

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
        .inspect_err(|error| tracing::warn!("{}", in_one_line(error.as_ref())))
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

/// How long ticks may be silent before the daemon calls itself ill, at least.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// How long ticks may be silent with this configuration.
fn stale_after(config: &Config) -> Duration {
    STALE_AFTER.max(config.daemon.tick * 5)
}
