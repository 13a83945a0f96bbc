//! Takes the last counts of idle flows, exactly, while the kernel counts on.
//!
//! 1. The fingerprint of the flow's line is taken away: no program finds the line any more. It is marked
//!    `LEAVING`.
//! 2. A grace period: every program that had found the line before has ended.
//! 3. Nobody adds to the line now. Its counts go to the device's and the interface's records and to those of
//!    the policy that let it pass, by way of the journal; it is made zero, and given back.
//!
//! A daemon that is killed in between leaves lines `LEAVING` (the next one starts at 2) and at most
//! one slot in the journal (the next one writes the same absolute values again).

use std::{mem::offset_of, sync::atomic::Ordering};

use sensor_ebpf::{
    books::{
        DeviceRecord, Hit, HitKey, InterfaceRecord, Journal, Losses, Tally, family_index, journal,
    },
    flow::{Direction, FlowRecord, last_seen, slot},
};

use super::{
    Error,
    books::{Books, hits_of},
    grace_period, shares,
};
use crate::record::Record;

/// Reaps all flows whose last packet came so many jiffies before `now`, and tells their last counts.
pub(super) fn reap(
    books: &mut Books,
    now: u64,
    idle: u64,
    emit: impl FnMut(Record),
) -> Result<(), Error> {
    let deadline = now.saturating_sub(idle);
    let mut leaving = Vec::new();
    for number in books.flows.used() {
        let state = books.flows.state(number);
        if books.is_damaged(number) {
            state.store(slot::LEAVING, Ordering::Release);
            books.flows.fingerprint(number).store(0, Ordering::Release);
            leaving.push(number);
            continue;
        }
        if state.load(Ordering::Acquire) == slot::LIVE {
            if last_seen(books.flows.last_seen(number), now) >= deadline {
                continue;
            }
            state.store(slot::LEAVING, Ordering::Release);
        }
        books.flows.fingerprint(number).store(0, Ordering::Release);
        leaving.push(number);
    }
    books.flows.tidy_spills();
    take_last_counts(books, leaving, now, emit)
}

/// Reaps the flows in these slots, idle or not.
pub(super) fn leave(
    books: &mut Books,
    leaving: Vec<u32>,
    now: u64,
    emit: impl FnMut(Record),
) -> Result<(), Error> {
    for number in &leaving {
        let state = books.flows.state(*number);
        state.store(slot::LEAVING, Ordering::Release);
        books.flows.fingerprint(*number).store(0, Ordering::Release);
    }
    take_last_counts(books, leaving, now, emit)
}

/// Books and tells the last counts of flows that no program finds any more, behind a grace period.
fn take_last_counts(
    books: &mut Books,
    leaving: Vec<u32>,
    now: u64,
    mut emit: impl FnMut(Record),
) -> Result<(), Error> {
    if leaving.is_empty() {
        return Ok(());
    }
    grace_period();
    let damaged = books.damaged;
    for number in leaving {
        if books.is_damaged(number) {
            discard(books, number);
        } else {
            emit(Record::Reaped(number, retire(books, number, now)?));
        }
    }
    if books.damaged > damaged {
        // Whose they were is not known.
        count_live(books);
    }
    Ok(())
}

/// Gives a slot back in which no flow can be. Its counts are booked to nobody, because they are those of no
/// flow; that it happened is counted.
fn discard(books: &mut Books, number: u32) {
    let releases = books.flows.releases(number).load(Ordering::Relaxed);
    let claims = books.flows.claims(number).load(Ordering::Relaxed);
    books.flows.clear(number);
    // A number that is not one behind the claims is damaged too, and nobody could take the slot any more. A
    // program may be between its addition to the claims and its subtraction.
    let releases = match claims.wrapping_sub(releases) {
        1 | 2 => releases.wrapping_add(1),
        _ => claims,
    };
    books
        .flows
        .releases(number)
        .store(releases, Ordering::Release);
    books.damaged += 1;
}

/// Books a line's counts to its device, its interface and its policy, gives it back, and gives the record
/// as it was. Nobody may add to it any more.
fn retire(books: &mut Books, number: u32, now: u64) -> Result<FlowRecord, Error> {
    let record = books.flows.read(number, now);
    let is_unsettled = books.flows.is_unsettled(number);
    let device = books.devices.read(record.device);
    let family = family_index(record.key.family());
    let mut log = Journal {
        phase: journal::IDLE,
        slot: u64::from(number),
        device: u64::from(record.device),
        device_last_seen: device.last_seen.max(record.last_seen),
        interface: u64::from(record.interface),
        family: family as u64,
        device_retired: device.retired[family],
        device_flows: device.retired_flows[family],
        hit_keys: Default::default(),
        hits_after: Default::default(),
        releases_after: u64::from(books.flows.releases(number).load(Ordering::Relaxed)) + 1,
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
    for (at, (key, since)) in hits_of(&record).into_iter().flatten().enumerate() {
        if since.packets | since.bytes != 0 {
            let key = HitKey {
                writer: HitKey::OF_REAPED,
                ..key
            };
            let mut hit = books.hit(&key)?;
            hit.wire.packets += since.packets;
            hit.wire.bytes += since.bytes;
            (log.hit_keys[at], log.hits_after[at]) = (key, hit);
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
    if is_unsettled {
        subtract(books.losses.word(0, offset_of!(Losses, unsettled_flows)));
    }
    if record.download_packets != 0 && record.opened_by == Direction::Upload as u8 {
        shares::answered(books, record.device, now);
    }
    Ok(record)
}

/// Writes what the journal holds, and gives the slot back; any number of times before that is done.
fn write_retired(books: &mut Books, log: &Journal) {
    let device = log.device as u32;
    let family = log.family as usize;
    books
        .devices
        .word(device, offset_of!(DeviceRecord, last_seen))
        .fetch_max(log.device_last_seen, Ordering::Relaxed);
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
    write_hits(books, log);
    books
        .journal
        .word(0, offset_of!(Journal, reaped))
        .store(log.reaped_after, Ordering::Release);
    books.flows.clear(log.slot as u32);
    phase(books, journal::RELEASING);
    release(books, log);
}

/// Writes the hits that the journal holds. A table of hits without room loses them, and that is counted.
fn write_hits(books: &mut Books, log: &Journal) {
    for (key, hit) in log.hit_keys.iter().zip(&log.hits_after) {
        let hit: &Hit = hit;
        if key.policy != 0 && books.set_hit(key, *hit).is_err() {
            books
                .losses
                .word(0, offset_of!(Losses, hit_table_full))
                .fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Gives the journal's slot back: from here on a program may claim it.
fn release(books: &Books, log: &Journal) {
    books
        .flows
        .releases(log.slot as u32)
        .store(log.releases_after as u32, Ordering::Release);
    phase(books, journal::IDLE);
}

pub(super) fn write_tally<T: sensor_ebpf::wire::Wire>(
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

/// Says in the journal what is being done.
pub(super) fn phase(books: &Books, phase: u64) {
    books
        .journal
        .word(0, offset_of!(Journal, phase))
        .store(phase, Ordering::Release);
}

/// Finishes what a daemon that was killed had begun, and counts the live flows anew.
pub(super) fn recover(books: &mut Books) -> Result<(), Error> {
    let log = books.journal.read(0);
    match log.phase {
        journal::RETIRING | journal::RELEASING
            if log.slot >= u64::from(books.flows.slots())
                || log.device >= u64::from(books.devices.len()) =>
        {
            books.damaged += 1;
            phase(books, journal::IDLE);
        }
        journal::RETIRING => write_retired(books, &log),
        journal::RELEASING => release(books, &log),
        _ => {}
    }
    count_live(books);
    Ok(())
}

/// Counts the live flows of each device from the table itself. The counts only bound shares of the
/// table; a flow opened meanwhile may be missed by one.
fn count_live(books: &Books) {
    let mut of_device = vec![0_u64; books.devices.len() as usize];
    let (mut all, mut unsettled) = (0, 0);
    for number in books.flows.used() {
        all += 1;
        unsettled += u64::from(books.flows.is_unsettled(number));
        if let Some(count) = of_device.get_mut(books.flows.device(number) as usize) {
            *count += 1;
        }
    }
    books
        .losses
        .word(0, offset_of!(Losses, live_flows))
        .store(all, Ordering::Release);
    books
        .losses
        .word(0, offset_of!(Losses, unsettled_flows))
        .store(unsettled, Ordering::Release);
    for (device, count) in of_device.into_iter().enumerate() {
        books
            .devices
            .word(device as u32, offset_of!(DeviceRecord, live_flows))
            .store(count, Ordering::Release);
    }
}
