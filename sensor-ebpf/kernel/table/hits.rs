//! The hits of policies, by device and policy.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::HashMap};
use sensor_ebpf::{
    books::{Hit, HitKey, Tally},
    flow::Direction,
    parse::Mac,
    policy::Decision,
};

use super::losses;
use crate::{field, shared::Element};

/// Packets to which a policy applied, by device and policy.
#[map]
static HITS: HashMap<HitKey, Hit> = HashMap::with_max_entries(16_384, 0);

/// Counts packets to which a policy applied, and whether it was decided with them.
#[inline(always)]
pub(crate) fn count(mac: Mac, decision: Decision, direction: Direction, wire: Tally, decided: u64) {
    let key = HitKey::new(mac, decision, direction);
    let mut hit = HITS.get_ptr_mut(key);
    if hit.is_none() {
        // The first CPU makes the record; all find it then.
        let none = Hit::default();
        let _ = HITS.insert(key, none, u64::from(BPF_NOEXIST));
        hit = HITS.get_ptr_mut(key);
    }
    match hit {
        Some(hit) => {
            let hit = Element::new(hit);
            field!(hit, wire).add_tally(wire);
            if decided != 0 {
                field!(hit, decided).add(decided);
            }
        }
        None => losses::count(|losses| field!(losses, hit_table_full), None),
    }
}
