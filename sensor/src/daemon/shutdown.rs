//! The ends: of a task, by the stop channel, and of the daemon, by a signal.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Ends when the stop channel's sender is dropped.
pub(super) async fn ended(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

pub(super) async fn asked_to_end() {
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
