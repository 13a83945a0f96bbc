//! The start: the programs, then the policy, then the interfaces, so that no packet is seen without policy.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::task::spawn_blocking;

use super::clock::Clock;
use crate::{
    aggregate::address_names::AddressNames,
    catalog::Catalog,
    config::Config,
    enforcement::{Context, Enforcement},
    moment::Moment,
    source::kernel::{self, Kernel, Messages, Samples, Verdicts},
};

/// The parts of the daemon that a start creates.
pub(super) struct Started {
    pub(super) kernel: Kernel,
    pub(super) samples: Samples,
    pub(super) verdicts: Verdicts,
    pub(super) messages: Messages,
    pub(super) config: Config,
    pub(super) catalog: Arc<Catalog>,
    pub(super) enforcement: Enforcement,
}

impl Started {
    /// Loads, puts the policy in force, then attaches: no packet is seen without policy.
    pub(super) async fn start(config: Config, clock: Clock) -> anyhow::Result<Self> {
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
