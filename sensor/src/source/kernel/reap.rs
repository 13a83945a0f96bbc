//! Takes the last counts of idle flows, exactly, while the kernel counts on.
//!
//! 1. The index entry that leads to the slot is replaced by `REMOVED`: no program finds the slot
//!    any more. The slot is marked `LEAVING`.
//! 2. A grace period: every program that had found the slot before has ended.
//! 3. Nobody adds to the slot now. Its counts go to the device's and the interface's records, by
//!    way of the journal, and the slot goes back to the queue.
//!
//! A daemon that is killed in between leaves slots `LEAVING` (the next one starts at 2) and at most
//! one slot in the journal (the next one writes the same absolute values again).

use std::{collections::HashSet, mem::offset_of, sync::atomic::Ordering};

use aya::maps::{MapData, MapError, Queue};
use sensor_ebpf::{
    books::{DeviceRecord, InterfaceRecord, Journal, Losses, Tally, family_index, journal},
    flow::{Direction, FlowRecord, IndexEntry, slot},
};

use super::{Error, books::Books, grace_period};
use crate::record::Record;

type FreeSlots = Queue<MapData, u32>;

/// Reaps all flows that were last seen before `deadline` (jiffies), and tells their last counts.
pub(super) fn reap(
    books: &Books,
    free: &mut FreeSlots,
    deadline: u64,
    mut emit: impl FnMut(Record),
) -> Result<(), Error> {
    let mut leaving = Vec::new();
    for number in 0..books.flows.len() {
        let state = books.flows.state(number);
        match state.load(Ordering::Acquire) {
            slot::LIVE => {
                let last_seen = books.flows.word(number, offset_of!(FlowRecord, last_seen));
                if last_seen.load(Ordering::Relaxed) < deadline {
                    leave(books, number);
                    leaving.push(number);
                }
            }
            slot::LEAVING => leaving.push(number),
            _ => {}
        }
    }
    if leaving.is_empty() {
        return Ok(());
    }
    grace_period();
    for number in leaving {
        emit(Record::Reaped(number, retire(books, number)));
        give_back(books, free, number)?;
    }
    Ok(())
}

/// Takes a slot out of the index.
fn leave(books: &Books, number: u32) {
    let position = books
        .flows
        .half(number, offset_of!(FlowRecord, index_position));
    let position = position.load(Ordering::Relaxed);
    books
        .flows
        .state(number)
        .store(slot::LEAVING, Ordering::Release);
    let Some(entry) = books.index.entry(position) else {
        return;
    };
    // An entry that another CPU overwrote leads elsewhere: the slot has none then.
    let found = IndexEntry(entry.load(Ordering::Acquire));
    if found != IndexEntry::REMOVED && found.slot() == number {
        let _ = entry.compare_exchange(
            found.0,
            IndexEntry::REMOVED.0,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        clean(books, position);
    }
}

/// Makes removed entries empty where no search needs to pass them: before an empty one.
///
/// An insertion that passed here a moment ago may lie behind: its slot is then found by nobody,
/// counts nothing more and is reaped; its flow gets another.
fn clean(books: &Books, position: u32) {
    let per_bucket = sensor_ebpf::flow::BUCKET_ENTRIES as u32;
    let buckets = books.index.len();
    let next = |position: u32| {
        // The first entry of the next bucket follows the last of this one.
        (position + 1) % (buckets * per_bucket)
    };
    let mut position = position;
    loop {
        let (Some(entry), Some(behind)) = (
            books.index.entry(position),
            books.index.entry(next(position)),
        ) else {
            return;
        };
        if behind.load(Ordering::Acquire) != IndexEntry::EMPTY.0
            || entry
                .compare_exchange(
                    IndexEntry::REMOVED.0,
                    IndexEntry::EMPTY.0,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_err()
        {
            return;
        }
        let Some(before) = position.checked_sub(1) else {
            return;
        };
        position = before;
    }
}

/// Books a slot's counts to its device and its interface, and gives the record as it was. Nobody
/// may add to it any more.
fn retire(books: &Books, number: u32) -> FlowRecord {
    let record = books.flows.read(number);
    let device = books.devices.read(record.device);
    let family = family_index(record.key.family());
    let mut log = Journal {
        phase: journal::IDLE,
        slot: u64::from(number),
        device: u64::from(record.device),
        interface: u64::from(record.interface),
        family: family as u64,
        device_retired: device.retired[family],
        device_flows: device.retired_flows[family],
        ..books.journal.read(0)
    };
    if record.interface < books.interfaces.len() {
        log.interface_retired = books.interfaces.read(record.interface).retired;
    }
    let counts = [
        Tally {
            packets: record.upload_packets,
            bytes: record.upload_bytes,
        },
        Tally {
            packets: record.download_packets,
            bytes: record.download_bytes,
        },
    ];
    for direction in Direction::ALL.map(|direction| direction as usize) {
        for tally in [
            &mut log.device_retired[direction],
            &mut log.interface_retired[direction],
        ] {
            tally.packets += counts[direction].packets;
            tally.bytes += counts[direction].bytes;
        }
    }
    log.device_flows[usize::from(record.opened_by & 1)] += 1;
    log.reaped_after = log.reaped + 1;
    books.journal.write(0, &log);
    phase(books, journal::RETIRING);
    write_retired(books, &log);

    let subtract = |counter: &std::sync::atomic::AtomicU64| {
        let _ = counter.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |flows| {
            Some(flows.saturating_sub(1))
        });
    };
    subtract(books.losses.word(0, offset_of!(Losses, live_flows)));
    subtract(
        books
            .devices
            .word(record.device, offset_of!(DeviceRecord, live_flows)),
    );
    record
}

/// Writes what the journal holds; any number of times.
fn write_retired(books: &Books, log: &Journal) {
    let device = log.device as u32;
    let family = log.family as usize;
    let last_seen = books
        .flows
        .word(log.slot as u32, offset_of!(FlowRecord, last_seen));
    books
        .devices
        .word(device, offset_of!(DeviceRecord, last_seen))
        .fetch_max(last_seen.load(Ordering::Relaxed), Ordering::Relaxed);
    let retired = offset_of!(DeviceRecord, retired) + family * size_of::<[Tally; 2]>();
    let flows = offset_of!(DeviceRecord, retired_flows) + family * size_of::<[u64; 2]>();
    for direction in 0..Direction::ALL.len() {
        let tally = retired + direction * size_of::<Tally>();
        write_tally(&books.devices, device, tally, log.device_retired[direction]);
        books
            .devices
            .word(device, flows + direction * size_of::<u64>())
            .store(log.device_flows[direction], Ordering::Release);
        if log.interface < u64::from(books.interfaces.len()) {
            let tally = offset_of!(InterfaceRecord, retired) + direction * size_of::<Tally>();
            let number = log.interface as u32;
            write_tally(
                &books.interfaces,
                number,
                tally,
                log.interface_retired[direction],
            );
        }
    }
    books
        .journal
        .word(0, offset_of!(Journal, reaped))
        .store(log.reaped_after, Ordering::Release);
    // Frees the slot: the state is among the zeros.
    books.flows.write(log.slot as u32, &FlowRecord::default());
    phase(books, journal::RETURNING);
}

fn write_tally<T: sensor_ebpf::wire::Wire>(
    table: &super::table::Table<T>,
    number: u32,
    offset: usize,
    tally: Tally,
) {
    let packets = offset + offset_of!(Tally, packets);
    table
        .word(number, packets)
        .store(tally.packets, Ordering::Release);
    let bytes = offset + offset_of!(Tally, bytes);
    table
        .word(number, bytes)
        .store(tally.bytes, Ordering::Release);
}

fn give_back(books: &Books, free: &mut FreeSlots, number: u32) -> Result<(), Error> {
    push(free, number)?;
    phase(books, journal::IDLE);
    Ok(())
}

fn push(free: &mut FreeSlots, number: u32) -> Result<(), Error> {
    free.push(number, 0).map_err(|source| Error::Map {
        map: "FREE_SLOTS",
        source,
    })
}

fn phase(books: &Books, phase: u64) {
    books
        .journal
        .word(0, offset_of!(Journal, phase))
        .store(phase, Ordering::Release);
}

/// Finishes what a daemon that was killed had begun, and counts the live flows anew.
pub(super) fn recover(books: &Books, free: &mut FreeSlots) -> Result<(), Error> {
    let log = books.journal.read(0);
    match log.phase {
        journal::RETIRING => {
            write_retired(books, &log);
            give_back(books, free, log.slot as u32)?;
        }
        journal::RETURNING => {
            // Nothing tells whether the slot was returned: look which ones the queue holds.
            let mut queued = HashSet::new();
            loop {
                match free.pop(0) {
                    Ok(number) => queued.insert(number),
                    Err(MapError::ElementNotFound) => break,
                    Err(source) => {
                        return Err(Error::Map {
                            map: "FREE_SLOTS",
                            source,
                        });
                    }
                };
            }
            // A program that took a slot before the queue was empty has marked it by now.
            grace_period();
            let returned = log.slot as u32;
            if books.flows.state(returned).load(Ordering::Acquire) == slot::FREE {
                queued.insert(returned);
            }
            for number in queued {
                push(free, number)?;
            }
            phase(books, journal::IDLE);
        }
        _ => {}
    }
    count_live(books);
    Ok(())
}

/// Counts the live flows of each device from the table itself. The counts only bound shares of the
/// table; a flow opened meanwhile may be missed by one.
fn count_live(books: &Books) {
    let mut of_device = vec![0_u64; books.devices.len() as usize];
    let mut all = 0;
    for number in 0..books.flows.len() {
        if books.flows.state(number).load(Ordering::Acquire) == slot::FREE {
            continue;
        }
        all += 1;
        let device = books.flows.half(number, offset_of!(FlowRecord, device));
        if let Some(count) = of_device.get_mut(device.load(Ordering::Relaxed) as usize) {
            *count += 1;
        }
    }
    books
        .losses
        .word(0, offset_of!(Losses, live_flows))
        .store(all, Ordering::Release);
    for (device, count) in of_device.into_iter().enumerate() {
        books
            .devices
            .word(device as u32, offset_of!(DeviceRecord, live_flows))
            .store(count, Ordering::Release);
    }
}
