//! The tasks that wait for the kernel: for changes of interfaces, and for the programs' own messages.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{Command, owner::say_once, shutdown::ended};
use crate::source::kernel::{LinkChanges, Messages};

/// How long a task waits behind a call that failed before it tries again.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes the kernel programs' own messages to the log. Where they cannot be read, it tries again:
/// accounting goes on without them.
pub(super) async fn log_messages(
    mut messages: Messages,
    stopped: watch::Receiver<()>,
) -> anyhow::Result<()> {
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

pub(super) async fn watch_links(
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
