//! Flows whose server waits for the verdict on a name.

use super::{flows::Flow, losses};
use crate::field;
use aya_ebpf::{macros::map, maps::LruHashMap};

/// Until when the packets of a flow's server wait, in nanoseconds since boot, by the flow's slot.
#[map]
static HELD: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4_096, 0);

/// Notes until when the packets of a flow's server wait. Gives whether there was room.
#[inline(always)]
pub(crate) fn hold(flow: Flow, until: u64) -> bool {
    HELD.insert(flow.slot(), until, 0).is_ok()
}

/// Until when the packets of a held flow's server wait; `None` where another flow took its place.
#[inline(always)]
pub(crate) fn held_until(flow: Flow) -> Option<u64> {
    // SAFETY: the value is copied.
    unsafe { HELD.get(flow.slot()).copied() }
}

/// Counts a packet that waits.
#[inline(always)]
pub(crate) fn count() {
    losses::count(|losses| field!(losses, held), None);
}

/// Counts a flow that waits no longer.
#[inline(always)]
pub(crate) fn count_expired() {
    losses::count(|losses| field!(losses, hold_expired), None);
}
