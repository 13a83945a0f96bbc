//! How many Initials were opened of late.

use aya_ebpf::{macros::map, maps::Array};
use sensor_ebpf::{
    assembly::Unassembled,
    quic::budget::{Budget, OF_ALL, OF_DEVICE, OF_UNSETTLED},
};

use super::{assemblies, devices};
use crate::{clock, global, shared::Shared};

/// When the budget of each device will be full again, in nanoseconds since boot, by the number of its record.
#[map]
static BUDGETS_OF: Array<u64> = Array::with_max_entries(1_026, 0);

/// The same of all devices, and of those that are not settled.
#[map]
static BUDGETS: Array<u64> = Array::with_max_entries(2, 0);

const ALL: u32 = 0;
const UNSETTLED: u32 = 1;

/// Takes one out of a budget. A CPU that is not first in some tries leaves it.
#[inline(always)]
fn take(budget: Budget, place: Option<*mut u64>, now: u64) -> bool {
    const TRIES: u32 = 4;

    let Some(full_at) = place.map(Shared::at) else {
        return false;
    };
    for _ in 0..TRIES {
        let before = full_at.load();
        let Some(after) = budget.take(before, now) else {
            return false;
        };
        if full_at.compare_exchange(before, after) {
            return true;
        }
    }
    false
}

global! {
    /// Whether one Initial more of a device is opened; counts those that are not.
    pub(crate) fn admit_initial(device: u32) -> u32 {
        let now = clock::nanoseconds();
        let admitted = take(OF_DEVICE, BUDGETS_OF.get_ptr_mut(device), now)
            && (devices::is_settled(device)
                || take(OF_UNSETTLED, BUDGETS.get_ptr_mut(UNSETTLED), now))
            && take(OF_ALL, BUDGETS.get_ptr_mut(ALL), now);
        if !admitted {
            assemblies::count(Unassembled::Initials);
        }
        admitted.into()
    }
}
