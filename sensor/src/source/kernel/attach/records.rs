//! The records of interfaces: given by name, kept over every absence, and used again when all are taken.

use std::{collections::HashSet, mem::offset_of, path::Path, sync::atomic::Ordering};

use aya::maps::{HashMap as KernelHashMap, MapData};
use sensor_ebpf::books::{InterfaceRecord, Way};

use super::Means;
use crate::{
    model::Hook,
    source::kernel::{Error, books::Books, failed::of_map, grace_period, pins::pinned, text},
};

/// The longest name of an interface (linux/if.h, IFNAMSIZ less the closing zero).
const NAME_CAPACITY: usize = 15;

/// The name of the last record, which has the counts of interfaces whose own was given to another one.
/// No interface has a space in its name (net/core/dev.c, `dev_valid_name`).
pub(in crate::source::kernel) const GONE: &str = "gone interfaces";

/// The number of an interface's record.
///
/// Where all are taken, it is that of an interface which is not among those `in_use` and to which no live
/// flow belongs: its counts go to the record [`GONE`], so that sums over interfaces stay the same.
pub(super) fn number_of(
    books: &Books,
    interface: &str,
    in_use: &HashSet<u32>,
) -> Result<u32, Error> {
    if let Some(number) = find(books, interface) {
        return Ok(number);
    }
    // The last record belongs to no interface.
    let last = books.interfaces.len() - 1;
    let free = (0..last).find(|number| books.interfaces.read(*number).name[0] == 0);
    let number = match free {
        Some(number) => number,
        None => {
            let number = reusable(books, in_use).ok_or(Error::TooManyInterfaces { limit: last })?;
            let name = text(&books.interfaces.read(number).name);
            tracing::info!(
                "interface {name} is gone, and its record is used for {interface}: what it counted \
                 is told as that of \"{GONE}\" from now on"
            );
            give_up(books, number, last);
            number
        }
    };
    set_name(books, number, interface);
    Ok(number)
}

pub(super) fn find(books: &Books, interface: &str) -> Option<u32> {
    books
        .interface_records()
        .find(|(_, record)| text(&record.name) == interface)
        .map(|(number, _)| number)
}

fn reusable(books: &Books, in_use: &HashSet<u32>) -> Option<u32> {
    // A flow that ends is booked to the record that it began with.
    let of_flows = books.interfaces_of_flows();
    (0..books.interfaces.len() - 1).find(|number| {
        let record = books.interfaces.read(*number);
        record.hooks == [Hook::None.number(); 2]
            && !in_use.contains(number)
            && !of_flows.contains(number)
    })
}

/// The counters of a record: all fields behind `way`.
const COUNTERS: std::ops::Range<usize> =
    offset_of!(InterfaceRecord, overflow)..size_of::<InterfaceRecord>();

const _: () = assert!(COUNTERS.start == offset_of!(InterfaceRecord, way) + size_of::<u64>());

/// Moves the counts of a record to the last one, and makes it new.
///
/// A counter at a time: where the daemon is killed in between, the next one moves the rest, and counts
/// nothing twice.
fn give_up(books: &Books, number: u32, last: u32) {
    // A program that began before the interface was released may still count there.
    grace_period();
    set_name(books, last, GONE);
    for counter in COUNTERS.step_by(size_of::<u64>()) {
        let counted = books
            .interfaces
            .word(number, counter)
            .swap(0, Ordering::AcqRel);
        books
            .interfaces
            .word(last, counter)
            .fetch_add(counted, Ordering::AcqRel);
    }
    books.interfaces.write(number, &InterfaceRecord::default());
}

fn padded(interface: &str) -> [u8; 16] {
    let mut name = [0; 16];
    let octets = &interface.as_bytes()[..interface.len().min(NAME_CAPACITY)];
    name[..octets.len()].copy_from_slice(octets);
    name
}

fn set_name(books: &Books, number: u32, interface: &str) {
    for (word, octets) in padded(interface)
        .as_chunks::<8>()
        .0
        .iter()
        .enumerate()
        .rev()
    {
        // The first byte last: it says that the record is taken.
        books
            .interfaces
            .word(number, offset_of!(InterfaceRecord, name) + word * 8)
            .store(u64::from_ne_bytes(*octets), Ordering::Release);
    }
}

/// Sets the interface that a record stands for; 0 while it is gone.
pub(super) fn set_ifindex(books: &Books, number: u32, ifindex: u32) {
    books
        .interfaces
        .half(number, offset_of!(InterfaceRecord, ifindex))
        .store(ifindex, Ordering::Release);
}

pub(super) fn set_hooks(books: &Books, number: u32, upload: Hook, download: Hook) {
    let hooks = u32::from(upload.number()) | u32::from(download.number()) << 16;
    books
        .interfaces
        .half(number, offset_of!(InterfaceRecord, hooks))
        .store(hooks, Ordering::Release);
}

/// Sets how XDP answers the packets that it refuses, before its program is attached.
pub(super) fn set_way(books: &Books, number: u32, way: Way) {
    books
        .interfaces
        .word(number, offset_of!(InterfaceRecord, way))
        .store(way as u64, Ordering::Release);
}

pub(super) const INTERFACE_INDEX: &str = "INTERFACE_INDEX";

/// From the kernel's numbers of interfaces to those of their records.
pub(super) fn numbers(directory: &Path) -> Result<KernelHashMap<MapData, u32, u32>, Error> {
    KernelHashMap::try_from(pinned(directory, INTERFACE_INDEX)?).map_err(of_map(INTERFACE_INDEX))
}

/// A number that an interface had. Another one may have it by now.
pub(super) fn forget_index(
    numbers: &mut KernelHashMap<MapData, u32, u32>,
    ifindex: u32,
    number: u32,
) {
    if numbers.get(&ifindex, 0).is_ok_and(|found| found == number) {
        let _ = numbers.remove(&ifindex);
    }
}

/// Notes that an interface has no program. Its counts stay in the books.
pub(super) fn release(means: &mut Means<'_>, number: u32) {
    let before = means.books.interfaces.read(number).ifindex;
    if let Ok(mut numbers) = numbers(means.directory) {
        forget_index(&mut numbers, before, number);
    }
    set_hooks(means.books, number, Hook::None, Hook::None);
    set_ifindex(means.books, number, 0);
}
