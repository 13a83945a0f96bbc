//! Ports of first fragments, for the fragments that follow.

use aya_ebpf::{macros::map, maps::LruHashMap};
use sensor_ebpf::books::FragmentKey;

/// Ports of first fragments, for the fragments that follow.
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, u32> = LruHashMap::with_max_entries(4_096, 0);

/// Remembers the ports of a first fragment, as a flow's key stores them.
#[inline(always)]
pub(crate) fn remember(key: &FragmentKey, ports: u32) {
    // The oldest leaves where the table is full; its fragments are booked without ports.
    let _ = FRAGMENTS.insert(key, ports, 0);
}

/// The ports of a fragment's first one.
#[inline(always)]
pub(crate) fn ports_of(key: &FragmentKey) -> Option<u32> {
    // SAFETY: the value is copied; a value half written by another CPU is two ports of one flow.
    unsafe { FRAGMENTS.get(key).copied() }
}
