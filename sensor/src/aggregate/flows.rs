//! The facts of flows by their slots, in few bytes each: there are as many as the kernel's table has flows.

use std::sync::Arc;

use sensor_ebpf::flow::FlowKey;

use super::traffic::PartyId;
use crate::{
    classify::{Details, Observation, Outcome, Source, Unread, hash_of},
    decode::tunnel::Tunnel,
    interned::{Interned, Number},
    slots::Slots,
};

/// The most bytes that the state of a flow may take, the booked ones included.
const MOST_BYTES: usize = 40;

const _: () = assert!(size_of::<FlowState>() + size_of::<[u64; 2]>() <= MOST_BYTES);

/// The state of all flows.
#[derive(Debug, Default)]
pub(super) struct Flows {
    states: Slots<FlowState>,
    /// The bytes that are booked of the flow in each slot, by number of the direction; [`UNBOOKED`] without one. In
    /// the order of the slots, because each tick compares all of them.
    booked: Vec<[u64; 2]>,
    names: Interned<str>,
    details: Interned<Details>,
}

/// No flow has so many bytes.
const UNBOOKED: [u64; 2] = [u64::MAX; 2];

/// The state of the flow in a slot.
#[derive(Debug)]
pub(super) struct FlowState {
    /// The hash of the flow's key, which tells whether the slot still has that flow; 0 in [`NONE`](Self::NONE).
    hash: u64,
    name: Option<Number>,
    /// Rarer facts.
    details: Option<Number>,
    /// The party, by the name that the flow has.
    pub(super) party: Option<PartyId>,
    /// Where the name is from, if there is one.
    source: Source,
    /// The tunnel, if it is one.
    pub(super) tunnel: Option<Tunnel>,
    /// The reason why it could not be read, or why a policy by name could not judge it.
    pub(super) unread: Option<Unread>,
    marks: u8,
}

impl FlowState {
    /// No flow, of which nothing is known.
    pub(super) const NONE: Self = Self {
        hash: 0,
        name: None,
        details: None,
        party: None,
        source: Source::Dns,
        tunnel: None,
        unread: None,
        marks: 0,
    };

    const SPOKE: u8 = 1;
    const DNS: u8 = 1 << 1;

    /// Whether some payload was seen.
    pub(super) const fn spoke(&self) -> bool {
        self.marks & Self::SPOKE != 0
    }

    /// Whether DNS messages were read.
    pub(super) const fn is_dns(&self) -> bool {
        self.marks & Self::DNS != 0
    }

    /// Whether it has a name.
    pub(super) const fn is_named(&self) -> bool {
        self.name.is_some()
    }
}

impl Flows {
    /// The state of the flow in a slot; `None` where nothing is known of this flow.
    pub(super) fn get(&self, slot: u32, key: &FlowKey) -> Option<&FlowState> {
        let state = self.states.get(slot)?;
        (state.hash == hash_of(key)).then_some(state)
    }

    /// As [`get`](Self::get).
    pub(super) fn get_mut(&mut self, slot: u32, key: &FlowKey) -> Option<&mut FlowState> {
        let state = self.states.get_mut(slot)?;
        (state.hash == hash_of(key)).then_some(state)
    }

    /// The bytes of the flow in a slot that are booked, by number of the direction; `None` until its opening is.
    #[inline]
    pub(super) fn booked(&self, slot: u32) -> Option<[u64; 2]> {
        let booked = self.booked.get(slot as usize).copied();
        booked.filter(|booked| *booked != UNBOOKED)
    }

    /// Takes that the opening of the flow in a slot is booked, and these bytes of it.
    pub(super) fn set_booked(&mut self, slot: u32, bytes: [u64; 2]) {
        let slot = slot as usize;
        if slot >= self.booked.len() {
            self.booked.resize(slot + 1, UNBOOKED);
        }
        self.booked[slot] = bytes;
    }

    /// Whether the slot has another flow, which is booked: such a one keeps its slot until it is reaped.
    pub(super) fn has_another(&self, slot: u32, key: &FlowKey) -> bool {
        let state = self.states.get(slot);
        self.booked(slot).is_some() && state.is_some_and(|state| state.hash != hash_of(key))
    }

    /// The state of the flow in a slot, which is that of a new flow if the slot had another one.
    pub(super) fn enter(&mut self, slot: u32, key: &FlowKey) -> &mut FlowState {
        let hash = hash_of(key);
        let known = self.states.get(slot);
        if known.is_some_and(|state| state.hash != hash) {
            self.forget(slot);
        }
        self.states.get_or_insert_with(slot, || FlowState {
            hash,
            ..FlowState::NONE
        })
    }

    /// Forgets the flow in a slot.
    pub(super) fn forget(&mut self, slot: u32) {
        if let Some(booked) = self.booked.get_mut(slot as usize) {
            *booked = UNBOOKED;
        }
        if let Some(FlowState { name, details, .. }) = self.states.remove(slot) {
            self.release(name, details);
        }
    }

    /// Forgets the parties of all flows.
    pub(super) fn forget_parties(&mut self) {
        for state in self.states.values_mut() {
            state.party = None;
        }
    }

    /// The name of a flow, and where it is from.
    pub(super) fn name(&self, state: &FlowState) -> Option<(&Arc<str>, Source)> {
        Some((self.names.get(state.name?)?, state.source))
    }

    /// The rarer facts of a flow.
    pub(super) fn details(&self, state: &FlowState) -> Option<&Details> {
        Some(self.details.get(state.details?)?)
    }

    /// Gives the flow in a slot a name. It has no party until the next booking.
    pub(super) fn set_name(&mut self, slot: u32, key: &FlowKey, name: &Arc<str>, source: Source) {
        let number = self.names.hold(name);
        let state = self.enter(slot, key);
        let before = std::mem::replace(&mut state.name, number);
        state.source = source;
        state.party = None;
        self.release(before, None);
    }

    /// Takes the facts that a payload told of the flow in a slot. It has no party until the next booking.
    pub(super) fn take(&mut self, slot: u32, heard: &mut Observation) {
        let key = &heard.head.key;
        let state = self.enter(slot, key);
        state.party = None;
        if heard.another {
            let (name, details) = (state.name.take(), state.details.take());
            (state.tunnel, state.unread) = (None, None);
            state.marks = 0;
            self.release(name, details);
        }
        if let Outcome::Name(name, source) = &heard.outcome {
            self.set_name(slot, key, name, *source);
        }
        if let Some(details) = heard.details.take() {
            let number = self.details.hold(&Arc::from(details));
            let before = std::mem::replace(&mut self.enter(slot, key).details, number);
            self.release(None, before);
        }
        let failed = match heard.outcome {
            Outcome::Unread(failure) => Some(Unread::Failed(failure)),
            Outcome::NoHello => Some(Unread::NoHello),
            Outcome::Fragment => Some(Unread::Fragment),
            _ => None,
        };
        let state = self.enter(slot, key);
        if matches!(heard.outcome, Outcome::Name(..)) && !heard.told_before {
            state.unread = state.unread.filter(|unread| unread.outlasts_a_name());
        }
        state.unread = heard.unread.or(state.unread).or(failed);
        state.tunnel = heard.tunnel.or(state.tunnel);
        state.marks |= FlowState::SPOKE;
        if !heard.messages.is_empty() {
            state.marks |= FlowState::DNS;
        }
    }

    fn release(&mut self, name: Option<Number>, details: Option<Number>) {
        if let Some(number) = name {
            self.names.release(number);
        }
        if let Some(number) = details {
            self.details.release(number);
        }
    }
}
