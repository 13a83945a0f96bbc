//! Which refused names of which device were told to user space of late.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::LruHashMap};
use sensor_ebpf::{
    answer::limit::Second,
    name::{MAX_LABELS, Suffixes},
    parse::Mac,
};

use crate::{clock, field, shared::Element};

/// The time since which a name was not told, and how often it was not, by a hash of device and name. Where the
/// table is full, the record leaves that was not used for longest: its name is told at once, and the questions
/// that were not told are in the count of all.
#[map]
static TOLD: LruHashMap<u64, Second> = LruHashMap::with_max_entries(4_096, 0);

/// Whether a refused question of a device is told: once in a second for each name. Gives the number of
/// questions not told since the one before.
#[inline(always)]
pub(crate) fn admit(mac: Mac, suffixes: &Suffixes) -> Option<u64> {
    let now = clock::nanoseconds();
    // The name's hash is keyed: no device finds two names, nor another device's, that fall together.
    let last = (suffixes.len as usize).wrapping_sub(1) % MAX_LABELS;
    let key = mac.word() ^ suffixes.hashes[last];
    if TOLD.get_ptr_mut(key).is_none() {
        let none = Second::default();
        // Another CPU may have been first.
        let _ = TOLD.insert(key, none, u64::from(BPF_NOEXIST));
    }
    let Some(told) = TOLD.get_ptr_mut(key).map(Element::new) else {
        return Some(0);
    };
    let (since, count) = (field!(told, since), field!(told, count));
    let second = Second {
        since: since.load(),
        count: 0,
    };
    if second.is_over(now) && since.compare_exchange(second.since, now) {
        return Some(count.exchange(0));
    }
    count.add(1);
    None
}
