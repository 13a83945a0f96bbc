//! Notifications to systemd: ready, reloading, stopping, alive. Without systemd none is sent.

use std::{
    env,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

use crate::health::Health;

/// The service manager, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    /// Silence after which the manager ends this process.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The manager that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).
    pub fn from_environment() -> Self {
        let has_manager = env::var_os("NOTIFY_SOCKET").is_some();
        Self {
            watchdog: sd_notify::watchdog_enabled()
                .filter(|watchdog| has_manager && !watchdog.is_zero()),
        }
    }

    /// Reports that the service works, after its start or after a reload; `systemctl status` shows
    /// `status`.
    pub fn ready(&self, status: &str) {
        notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// Reports that the configuration is read anew; [`Self::ready`] has to follow, whether it was
    /// taken or not.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => {
                tracing::warn!(%error, "the clock cannot be read for the service manager")
            }
        }
    }

    /// Reports that the service ends.
    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// Sets the text that `systemctl status` shows from now on.
    pub fn status(&self, status: &str) {
        notify(&[NotifyState::Status(&one_line(status))]);
    }

    /// Tells the manager twice in its time that the service is alive, as long as it is. Returns at
    /// once where no watchdog is wanted.
    pub async fn watch(&self, health: Health) {
        let Some(watchdog) = self.watchdog else {
            return;
        };
        let mut pause = tokio::time::interval(watchdog / 2);
        loop {
            pause.tick().await;
            match health.alive(Instant::now()) {
                Ok(()) => notify(&[NotifyState::Watchdog]),
                // Nothing is sent, because silence makes the manager act.
                Err(unwell) => tracing::error!(%unwell, "not alive"),
            }
        }
    }
}

/// A line break would begin another assignment of the protocol.
fn one_line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
