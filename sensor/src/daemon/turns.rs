//! The turns of the owner's task: looks first, and ticks and commands by chance, so that none of them waits for
//! ever.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

use super::Command;

/// The timers and the inbox that give the owner its next command.
pub(super) struct Turns {
    pub(super) looks: Interval,
    pub(super) ticks: Interval,
    pub(super) inbox: mpsc::Receiver<Command>,
}

impl Turns {
    pub(super) fn new(look: Duration, tick: Duration, inbox: mpsc::Receiver<Command>) -> Self {
        Self {
            looks: every(look),
            ticks: every(tick),
            inbox,
        }
    }

    /// Waits for the next command; `None` when all senders of commands are gone.
    pub(super) async fn next(&mut self) -> Option<Command> {
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
    pub(super) fn looked(&mut self) {
        self.looks.reset();
    }

    pub(super) fn set_tick(&mut self, tick: Duration) {
        self.ticks = every(tick);
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
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
}
