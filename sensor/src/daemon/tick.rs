//! The tick: the tables are read, and a snapshot of everything is published.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use super::owner::{Owner, say_once};
use crate::{causes::in_one_line, model::Snapshot, moment::Moment, source::kernel};

/// Steps of looks for echoes in a tick: a step is one upload or visit at one lag, and so many take a millisecond or
/// two.
const STEPS: usize = 100_000;

impl Owner {
    pub(super) fn tick(&mut self) -> anyhow::Result<()> {
        let before = cpu_time();
        // The daemon reaches the kernel's maps by their pins. The next look logs why one is missing.
        let _ = self.kernel.keep_pins();
        let now = self.clock.now();
        self.report_clock(&now);
        self.apply(|kernel, taking| kernel.share_out(|record| taking.take(record)))?;
        let idle_after = self.config.flow_table.idle_after;
        self.apply(|kernel, taking| kernel.read(idle_after, &now, taking))?;
        self.aggregate.look_for_echoes(STEPS);
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
            kept.map_err(|error| in_one_line(error.as_ref())),
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
    pub(super) fn report_clock(&mut self, now: &Moment) {
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

    /// Reads the tables. An error ends nothing, because without the daemon names would no longer be
    /// judged: the next tick tries again, and [`Health`](crate::health::Health) tells for how long the tables were not read.
    pub(super) fn try_tick(&mut self) {
        let ticked = self.tick().map_err(|error| in_one_line(error.as_ref()));
        say_once(&mut self.said.tick, ticked);
    }

    /// A snapshot of this moment, made by a tick of its own. Where the tables cannot be read, it is the
    /// last tick's, and the log says so: a command does not fail for that.
    pub(super) fn now(&mut self) -> Arc<Snapshot> {
        self.try_tick();
        Arc::clone(&self.publish.borrow())
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
