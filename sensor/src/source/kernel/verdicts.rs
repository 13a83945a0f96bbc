//! Verdicts on names, on their way into the flows.

use std::{
    mem::offset_of,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sensor_ebpf::{
    books::Settings,
    flow::{FlowKey, Judgement, Ruling, Wants},
    parse::{protocol, tcp_flag},
    policy::Decision,
    sample::Head,
};

use super::{books::Books, flows::Flows, table::Table};
use crate::classify;

/// The rulings of all flows: their owner waits for nobody, and is the only one that writes them.
pub struct Verdicts {
    flows: Arc<Flows>,
    settings: Arc<Table<Settings>>,
    /// For each slot, the epoch of the connection whose payload was heard last.
    epochs: Vec<u8>,
}

impl Verdicts {
    /// The flows and the settings, as the owner of the books has mapped them.
    pub(super) fn over(books: &Books) -> Self {
        Self {
            epochs: vec![0; books.flows.slots() as usize],
            flows: Arc::clone(&books.flows),
            settings: Arc::clone(&books.settings),
        }
    }

    /// Tells the kernel until when the daemon gives verdicts, as time since boot. After it no packet waits
    /// for them, and no flow is refused by the names learned for its address.
    pub fn alive_until(&self, since_boot: Duration) {
        self.settings
            .word(0, offset_of!(Settings, alive_until))
            .store(since_boot.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The number of the policy by which the kernel decides.
    pub fn generation(&self) -> u32 {
        self.settings.generation().load(Ordering::Acquire)
    }

    /// The flow in a slot; `None` where there is none.
    pub fn key(&self, slot: u32) -> Option<FlowKey> {
        self.flows.key(slot)
    }

    /// The number of the upload's SYN of the TCP flow in a slot, where it was seen.
    pub fn began(&self, slot: u32) -> Option<u32> {
        let record = (slot < self.flows.slots()).then(|| self.flows.read(slot, 0))?;
        let is_seen =
            record.key.protocol() == protocol::TCP && record.tcp_flags[0] & tcp_flag::SYN != 0;
        is_seen.then_some(record.initial_sequence[0])
    }

    /// Whether the flow in a slot is refused, or will be at its next packet, if it is the flow with this key.
    pub fn refuses(&self, slot: u32, key: &FlowKey) -> bool {
        self.key(slot) == Some(*key)
            && self
                .flows
                .read(slot, 0)
                .judgement()
                .decision
                .verdict
                .refuses()
    }

    /// Notes to which connection of its flow a payload belongs: later rulings on the flow are about that
    /// one.
    pub fn heard(&mut self, head: &Head) {
        if let Some(epoch) = self.epochs.get_mut(head.slot as usize) {
            *epoch = head.epoch as u8;
        }
    }

    /// Writes a ruling into a flow, if the slot is still the flow's own, and gives whether that changes its
    /// decision, or makes it one by name.
    pub fn write(&self, slot: u32, key: &FlowKey, ruling: &classify::Ruling) -> bool {
        self.put(slot, key, ruling.about(self.epoch(slot)))
    }

    /// Ends the watch over a flow, of which everything is known: its next packets are steady.
    pub fn end_watch(&self, slot: u32, key: &FlowKey) {
        let ruling = Ruling {
            generation: self.generation(),
            epoch: self.epoch(slot),
            version: 0,
            decision: Decision::PASS,
            named: false,
            again: false,
            wants: Wants::Settled,
        };
        self.put(slot, key, ruling);
    }

    fn epoch(&self, slot: u32) -> u8 {
        self.epochs.get(slot as usize).copied().unwrap_or(0)
    }

    /// A flow may take the slot between the look at its key and the store. It has another epoch than the flow
    /// before, so that the programs do not take the ruling up; and the ruling is taken back, because epochs
    /// go around.
    fn put(&self, slot: u32, key: &FlowKey, ruling: Ruling) -> bool {
        if self.flows.key(slot) != Some(*key) {
            return false;
        }
        let releases = self.flows.releases(slot).load(Ordering::Acquire);
        let word = self.flows.judgement(slot).load(Ordering::Acquire);
        let stored = self.flows.ruling(slot);
        let last = stored.load(Ordering::Relaxed);
        let ruling = ruling.following(last, word);
        let exchange =
            |old, new| stored.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
        // A slot that was made free has no ruling.
        if exchange(last, ruling.pack()).is_err() {
            return false;
        }
        if self.flows.key(slot) != Some(*key)
            || self.flows.releases(slot).load(Ordering::Acquire) != releases
        {
            let _ = exchange(ruling.pack(), 0);
            return false;
        }
        let before = Judgement::unpack(word);
        let after = before.take_up(ruling, Decision::PASS);
        (before.decision, before.named) != (after.decision, after.named)
    }
}
