//! The devices, and their books beyond their live flows.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    macros::map,
    maps::{Array, HashMap, Queue},
};
use sensor_ebpf::{
    books::{
        DeviceRecord, FIRST_DEVICE, FURTHER_DEVICES, MULTICAST_DEVICE, SAMPLE_BYTES, Tally,
        family_index,
    },
    flow::Direction,
    parse::{Family, Mac},
};

use super::{losses, settings};
use crate::{field, shared::Element, tell::News};

/// Which record of `DEVICES` a MAC address has.
#[map]
static DEVICE_INDEX: HashMap<u64, u32> = HashMap::with_max_entries(1_024, 0);

/// The books of each device beyond its live flows.
#[map]
static DEVICES: Array<DeviceRecord> = Array::with_max_entries(1_026, BPF_F_MMAPABLE);

/// Records of `DEVICES` that are free.
#[map]
static FREE_DEVICES: Queue<u32> = Queue::with_max_entries(1_024, 0);

const _: () = assert!(FIRST_DEVICE == 2 && MULTICAST_DEVICE == 0 && FURTHER_DEVICES == 1);

/// The record with a number.
#[inline(always)]
pub(crate) fn record(number: u32) -> Option<Element<DeviceRecord>> {
    DEVICES.get_ptr_mut(number).map(Element::new)
}

/// The number of the device's record, made at its first packet; [`FURTHER_DEVICES`] where the
/// table is full.
#[inline(always)]
pub(crate) fn number_of(mac: Mac, now: u64) -> u32 {
    let mac = mac.word();
    // SAFETY: the value is a number that never changes while its key is in the map.
    if let Some(number) = unsafe { DEVICE_INDEX.get(mac) } {
        return *number;
    }
    let Ok(Some(number)) = FREE_DEVICES.pop() else {
        return further_devices();
    };
    // The record came from the queue, so no other program knows it.
    let Some(record) = record(number) else {
        return further_devices();
    };
    field!(record, mac).store(mac);
    field!(record, first_seen).store(now);
    field!(record, last_seen).store(now);
    let bytes = settings::settings().map_or(0, |settings| settings.first_sample_bytes);
    field!(record, sample_bytes).store(bytes);
    if DEVICE_INDEX
        .insert(mac, number, u64::from(BPF_NOEXIST))
        .is_ok()
    {
        return number;
    }
    // Another CPU was first, or the table is full. The record is still known to nobody else.
    field!(record, mac).store(0);
    field!(record, sample_bytes).store(0);
    if FREE_DEVICES.push(number, 0).is_err() {
        losses::count(
            |losses| field!(losses, device_table_full),
            Some(News::DeviceTableFull),
        );
    }
    // SAFETY: as above.
    match unsafe { DEVICE_INDEX.get(mac) } {
        Some(number) => *number,
        None => further_devices(),
    }
}

#[inline(always)]
fn further_devices() -> u32 {
    losses::count(
        |losses| field!(losses, device_table_full),
        Some(News::DeviceTableFull),
    );
    FURTHER_DEVICES
}

/// Takes so many bytes of the ring from those that a device may have. Gives whether it may have them. It may
/// where little waits in the ring. Where much waits, its own share must hold them, and the share of all devices
/// that are not settled too, if it is one of those.
#[inline(always)]
pub(crate) fn take_sample_bytes(device: u32, bytes: u64, much_waits: bool) -> bool {
    let (Some(record), Some(losses), Some(settings)) =
        (record(device), losses::losses(), settings::settings())
    else {
        return false;
    };
    if settings.first_sample_bytes == 0 {
        return true;
    }
    let of_device = field!(record, sample_bytes);
    let of_unsettled = field!(losses, unsettled_sample_bytes);
    let is_unsettled = field!(record, settled).load() == 0;
    let left = of_device.load() as i64;
    if much_waits {
        if left < bytes as i64 || is_unsettled && (of_unsettled.load() as i64) < bytes as i64 {
            return false;
        }
        if is_unsettled {
            of_unsettled.add(bytes.wrapping_neg());
        }
    }
    if left > -(SAMPLE_BYTES as i64) {
        of_device.add(bytes.wrapping_neg());
    }
    true
}

/// Books a packet that has no flow.
#[inline(always)]
pub(crate) fn count_overflow(
    device: u32,
    family: Family,
    direction: Direction,
    wire: Tally,
    now: u64,
) {
    let Some(record) = record(device) else {
        return;
    };
    field!(record, last_seen).store(now);
    if let Some(family) = field!(record, overflow).nth(family_index(family)) {
        family.of(direction).add_tally(wire);
    }
}

/// Whether a device is settled: see [`DeviceRecord::settled`].
#[inline(always)]
pub(crate) fn is_settled(number: u32) -> bool {
    record(number).is_some_and(|record| field!(record, settled).load() != 0)
}
