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

/// Reaps all flows whose last packet came so many jiffies before `now`, and emits their last counts.
pub(super) fn reap(
    books: &mut Books,
    now: u64,
    idle: u64,
    emit: impl FnMut(Record),
) -> Result<(), Error> {
    let deadline = now.saturating_sub(idle);
    let mut leaving = Vec::new();
    // The number of its device lies beside what is read of each flow here, and the last reading looked at it.
    for number in std::mem::take(&mut books.suspects) {
        let state = books.flows.state(number);
        if state.load(Ordering::Acquire) == slot::LIVE && books.is_damaged(number) {
            state.store(slot::LEAVING, Ordering::Release);
        }
    }
    for number in books.flows.used() {
        let state = books.flows.state(number);
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

/// Books and emits the last counts of flows that no program finds any more, after a grace period.
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
            emit(Record::Discarded(number));
        } else {
            emit(Record::Reaped(number, retire(books, number, now)?));
        }
    }
    if books.damaged > damaged {
        // The devices of the discarded flows are not known, so that the live flows are counted anew.
        count_live(books);
    }
    Ok(())
}

/// Gives a slot back that cannot hold a flow. Its counts are booked to nobody, because they are those of no
/// flow; such slots are counted.
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

/// Writes the journal's entry into the books, and gives the slot back. It may be repeated until that is
/// done.
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

/// Notes the phase in the journal.
pub(super) fn phase(books: &Books, phase: u64) {
    books
        .journal
        .word(0, offset_of!(Journal, phase))
        .store(phase, Ordering::Release);
}

/// Finishes the work that a killed daemon had begun, and counts the live flows anew.
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

#[cfg(test)]
mod tests {
    use std::{cell::Cell, env};

    use rustix::process::geteuid;
    use sensor_ebpf::{
        books::FIRST_DEVICE,
        flow::Judgement,
        policy::{Decision, Layer, Verdict},
    };

    use super::*;
    use crate::source::kernel::{
        Runner, books::ReadHits, enter_own_namespace, failed, faults::Faults,
    };

    const FLOWS: u16 = 40;

    /// Programs that have seen so many flows of one device, a packet each; `None`: it takes root.
    fn a_house(flows: u16) -> Option<Runner> {
        if !geteuid().is_root() && env::var_os("CI").is_none() {
            eprintln!("not run: programs in the kernel take root");
            return None;
        }
        enter_own_namespace().expect("root makes namespaces");
        let mut runner = Runner::load(256, 16, 4).expect("the programs load");
        open(&mut runner, 10_000, flows);
        Some(runner)
    }

    fn open(runner: &mut Runner, first_port: u16, flows: u16) {
        for port in first_port..first_port + flows {
            let mut frame = [0; 60];
            frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
            frame[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, 46]);
            frame[22..24].copy_from_slice(&[64, 17]);
            frame[26..34].copy_from_slice(&[192, 168, 1, 7, 198, 51, 100, 9]);
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            frame[36..40].copy_from_slice(&[0x27, 0x0f, 0, 26]);
            let (header, body) = frame.split_at(54);
            runner
                .run(Direction::Upload, header, body, 60)
                .expect("it is taken");
        }
    }

    /// Packets and flows of the device, live and reaped.
    fn booked(books: &Books) -> (u64, u64) {
        let device = books.devices.read(FIRST_DEVICE);
        let live = books.flows.used().map(|slot| books.flows.read(slot, 0));
        let live: Vec<_> = live
            .filter(|flow| flow.device == FIRST_DEVICE)
            .map(|flow| flow.upload_packets)
            .collect();
        let retired = device.retired.as_flattened().iter();
        let opened: u64 = device.retired_flows.as_flattened().iter().sum();
        (
            live.iter().sum::<u64>() + retired.map(|tally| tally.packets).sum::<u64>(),
            live.len() as u64 + opened,
        )
    }

    #[test]
    fn whichever_map_call_fails_no_count_is_lost() {
        let Some(mut runner) = a_house(FLOWS) else {
            return;
        };
        let faults = Faults::of_this_thread().expect("root filters calls");
        let failures = || failed::counts().values().sum::<u64>();
        let far = u64::from(u32::MAX) / 4;
        let (mut port, mut flows) = (20_000, u64::from(FLOWS));
        for errno in [libc::EMFILE, libc::ENOMEM] {
            for number in 0.. {
                // By a policy, so that each flow has hits that go to a map.
                for slot in runner.slots() {
                    let word = runner.books().flows.judgement(slot);
                    let judgement = Judgement {
                        decision: Decision {
                            policy: 3,
                            verdict: Verdict::Pass,
                            layer: Layer::Address,
                        },
                        ..Judgement::unpack(word.load(Ordering::Relaxed))
                    };
                    word.store(judgement.pack(), Ordering::Relaxed);
                }
                let before = failures();
                faults.fail(number, errno);
                let first = reap(runner.books_mut(), far, 0, |_| {});
                let made = faults.end();
                assert!(
                    made <= number || failures() > before,
                    "{number}: not counted"
                );
                let again = reap(runner.books_mut(), far, 0, |_| {});
                again.expect("nothing fails any more");
                assert_eq!(booked(runner.books()), (flows, flows), "{number} {first:?}");
                assert_eq!(runner.books().flows.used().count(), 0);
                if made <= number {
                    break;
                }
                open(&mut runner, port, 3);
                (port, flows) = (port + 3, flows + 3);
            }
            open(&mut runner, port, 3);
            (port, flows) = (port + 3, flows + 3);
        }
    }

    #[test]
    fn an_impossible_slot_is_given_back_and_counted() {
        let Some(mut runner) = a_house(FLOWS) else {
            return;
        };
        let slots = runner.slots();
        assert_eq!(slots.len(), usize::from(FLOWS));
        let books = runner.books_mut();
        let now = books.flows.read(slots[0], 0).last_seen + 1;
        // No device has that number, no slot that state; and noise, but for the counts that say who may
        // take a slot.
        books.flows.set_device(slots[0], u32::MAX);
        books.flows.state(slots[1]).store(0xee, Ordering::Relaxed);
        let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
        for slot in &slots[2..20] {
            books.flows.fill_with(*slot, || {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                // The state is the last byte of its word: a free slot is not read.
                noise | 1 << 56
            });
        }
        let damaged = slots.iter().filter(|slot| books.is_damaged(**slot)).count() as u64;
        assert!(damaged >= 2);
        let read = Cell::new(0);
        let mut hits = ReadHits::default();
        let count = |record| read.set(read.get() + u64::from(matches!(record, Record::Flow(..))));
        books
            .read(crate::record::Clock::default(), &mut hits, count)
            .expect("the rest is read");
        assert_eq!(read.get(), u64::from(FLOWS) - damaged);
        // None is idle, and only the impossible slots go.
        reap(books, now, u64::from(u32::MAX) / 4, |_| {}).expect("it is reaped");
        assert_eq!(books.damaged, damaged);
        assert_eq!(
            books.flows.used().count() as u64,
            u64::from(FLOWS) - damaged
        );
        recover(books).expect("a start goes on");
        // The slots are free again.
        reap(books, now + u64::from(u32::MAX) / 4, 0, |_| {}).expect("it is reaped");
        let books = runner.books();
        for slot in 0..books.flows.slots() {
            let claims = books.flows.claims(slot).load(Ordering::Relaxed);
            let releases = books.flows.releases(slot).load(Ordering::Relaxed);
            assert_eq!(claims, releases, "slot {slot}");
        }
        open(&mut runner, 30_000, FLOWS);
        assert_eq!(runner.slots().len(), usize::from(FLOWS));
    }

    #[test]
    fn a_journal_of_no_slot_ends_no_start() {
        let Some(mut runner) = a_house(1) else { return };
        let books = runner.books_mut();
        for phase in [journal::RETIRING, journal::RELEASING] {
            let log = Journal {
                phase,
                slot: u64::MAX,
                device: u64::MAX,
                ..Journal::default()
            };
            books.journal.write(0, &log);
            recover(books).expect("a start goes on");
            assert_eq!(books.journal.read(0).phase, journal::IDLE);
        }
    }
}
