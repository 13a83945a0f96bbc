//! Shares of the tables: which devices are settled, which leave, and how many bytes of the ring each device
//! may take.
//!
//! MAC addresses are easily made up. A device is *settled* once servers answered it in ten flows on two
//! days, or the configuration names it; the others share the room that a flood of made-up ones could take:
//! three quarters of the flow table, a part of the ring, and the records of devices. Where these run short,
//! the one that was silent longest goes first, its unanswered flows with it.
//!
//! A device leaves so:
//!
//! 1. Its key is taken out of `DEVICE_INDEX`: a packet that comes now opens another record.
//! 2. A grace period: every program that had found the number before has ended. Where a flow was opened
//!    with it, the device stays until that is reaped.
//! 3. Its counts go to the record of further devices, by way of the journal; its own is made zero, and its
//!    number goes back to `FREE_DEVICES`. Its hits go to the key of no device; these are not in the journal,
//!    and a daemon that is killed between the two loses them.

use std::{
    collections::{HashMap, HashSet},
    mem::offset_of,
    path::Path,
    sync::atomic::Ordering,
    time::Duration,
};

use aya::maps::{HashMap as KernelHashMap, MapData, Queue};
use sensor_ebpf::{
    books::{
        DeviceRecord, FAMILIES, FIRST_DEVICE, FURTHER_DEVICES, Journal, Losses, SAMPLE_BYTES,
        Tally, UNSETTLED_SAMPLE_BYTES, journal,
    },
    flow::{Direction, last_seen},
};

use super::{
    Error,
    books::Books,
    failed::{found, of_map, removed, retried},
    grace_period,
    pins::pinned,
    reap,
};
use crate::record::Record;

/// The maps of devices' numbers, by their names in the object.
const INDEX: &str = "DEVICE_INDEX";
const FREE: &str = "FREE_DEVICES";

/// In how many flows servers answer a device until it is settled.
const ANSWERED_FLOWS: u64 = 10;

/// Seconds of silence after which a device that is not settled leaves.
const UNSETTLED_RETIRE_AFTER: u64 = DAY;

/// Seconds of silence after which a device leaves that servers answered, where there is too little room.
const LEAVES_AFTER: u64 = 10;

/// Seconds between two looks for devices that are silent for long, at most, where there is room.
const CENSUS_EVERY: u64 = 60;

const DAY: u64 = 24 * 60 * 60;

/// The maps that give devices their records, and the state of the last looks.
pub(super) struct Shares {
    index: KernelHashMap<MapData, u64, u32>,
    free: Queue<MapData, u32>,
    /// Seconds of silence after which a settled device leaves.
    retire_after: u64,
    /// The devices that the configuration names, as words.
    named: HashSet<u64>,
    /// When bytes of the ring were given out last, and when silent devices were looked for, in jiffies
    /// since boot; 0 before.
    filled_at: u64,
    census_at: u64,
    /// Records that no key led to at the last look: their devices are leaving, or are being made just now.
    astray: HashSet<u32>,
    /// Numbers of records that no device has and that are yet to be put into the queue.
    unused: Vec<u32>,
    /// Devices that left, as words of MAC addresses, whose hits are yet to be moved.
    gone: HashSet<u64>,
}

/// The flows of a device in the flow table.
#[derive(Clone, Copy, Default)]
struct OfFlows {
    last_seen: u64,
    answered: u64,
    unanswered: u64,
}

/// Which flows of a device leave with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Unanswered,
    All,
}

impl Shares {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        Ok(Self {
            index: KernelHashMap::try_from(pinned(directory, INDEX)?).map_err(of_map(INDEX))?,
            free: Queue::try_from(pinned(directory, FREE)?).map_err(of_map(FREE))?,
            retire_after: u64::MAX,
            named: HashSet::new(),
            filled_at: 0,
            census_at: 0,
            astray: HashSet::new(),
            unused: Vec::new(),
            gone: HashSet::new(),
        })
    }

    /// Sets which devices are settled in any case, and after how much silence devices leave.
    pub(super) fn configure(&mut self, named: HashSet<u64>, retire_after: Duration) {
        self.named = named;
        self.retire_after = retire_after.as_secs();
    }

    /// Finishes the work that a killed daemon had begun.
    pub(super) fn recover(&mut self, books: &Books) -> Result<(), Error> {
        let log = books.journal.read(0);
        match log.phase {
            journal::RETIRING_DEVICE | journal::RELEASING_DEVICE
                if log.device >= u64::from(books.devices.len()) =>
            {
                reap::phase(books, journal::IDLE);
                Ok(())
            }
            journal::RETIRING_DEVICE => {
                self.write_retired(books, &log);
                Ok(())
            }
            journal::RELEASING_DEVICE => {
                // Whether its number is in the queue already cannot be seen: all are put there anew.
                while self.free.pop(0).is_ok() {}
                clear(books, log.device as u32);
                grace_period();
                let taken: HashSet<u32> = self
                    .index
                    .iter()
                    .filter_map(|entry| entry.ok().map(|(_, number)| number))
                    .collect();
                for number in FIRST_DEVICE..books.devices.len() {
                    if mac(books, number) == 0 && !taken.contains(&number) {
                        retried(FREE, || self.free.push(number, 0))?;
                    }
                }
                reap::phase(books, journal::IDLE);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Gives out the shares, and has devices and flows leave that are due: at each tick, and at each look,
    /// which comes twice a second whatever the tick is.
    pub(super) fn keep(
        &mut self,
        books: &mut Books,
        now: u64,
        mut emit: impl FnMut(Record),
    ) -> Result<(), Error> {
        let hz = books.settings().hz.max(1);
        self.fill(books, now, hz);
        self.free_numbers()?;
        if !self.gone.is_empty() {
            self.give_up_hits(books)?;
        }
        for number in FIRST_DEVICE..books.devices.len() {
            if self.named.contains(&mac(books, number)) {
                settle(books, number);
            }
        }
        let room = Room::of(books);
        if !room.is_short() && now.saturating_sub(self.census_at) < self.census_every() * hz {
            return Ok(());
        }
        self.census_at = now;
        let (devices, flows) = self.leaving(books, now, hz, &room)?;
        reap::leave(books, flows, now, &mut emit)?;
        self.retire(books, now, devices, &mut emit)
    }

    fn census_every(&self) -> u64 {
        CENSUS_EVERY.min(self.retire_after / 2).max(1)
    }

    /// Adds the bytes of the ring for the time that went by, up to those of a second.
    fn fill(&mut self, books: &Books, now: u64, hz: u64) {
        let elapsed = now.saturating_sub(self.filled_at).min(hz);
        self.filled_at = now;
        let give = |word: &std::sync::atomic::AtomicU64, share: u64| {
            let left = word.load(Ordering::Relaxed) as i64;
            let room = (share as i64).saturating_sub(left).max(0) as u64;
            let more = (share * elapsed / hz).min(room);
            if more > 0 {
                // Programs subtract at the same time.
                word.fetch_add(more, Ordering::Relaxed);
            }
        };
        for number in FURTHER_DEVICES..books.devices.len() {
            if number == FURTHER_DEVICES || mac(books, number) != 0 {
                let word = books
                    .devices
                    .word(number, offset_of!(DeviceRecord, sample_bytes));
                give(word, SAMPLE_BYTES);
            }
        }
        let word = books
            .losses
            .word(0, offset_of!(Losses, unsettled_sample_bytes));
        give(word, UNSETTLED_SAMPLE_BYTES);
    }

    /// The devices and the flows that leave.
    fn leaving(
        &mut self,
        books: &Books,
        now: u64,
        hz: u64,
        room: &Room,
    ) -> Result<(Vec<u32>, Vec<u32>), Error> {
        let census = census(books, now);
        let mut devices = Vec::new();
        let mut flows_of: HashMap<u32, Leaves> = HashMap::new();
        let mut unsettled = Vec::new();
        let mut astray = HashSet::new();
        for number in FIRST_DEVICE..books.devices.len() {
            let record = books.devices.read(number);
            if record.mac == 0 {
                continue;
            }
            let of_flows = census.get(&number).copied().unwrap_or_default();
            let is_astray = found(INDEX, || self.index.get(&record.mac, 0))? != Some(number);
            if is_astray {
                astray.insert(number);
            }
            let silent = now.saturating_sub(record.last_seen.max(of_flows.last_seen)) / hz;
            let after = match record.settled {
                0 => UNSETTLED_RETIRE_AFTER.min(self.retire_after),
                _ => self.retire_after,
            };
            if is_astray && self.astray.contains(&number) || silent >= after {
                devices.push(number);
                flows_of.insert(number, Leaves::All);
            } else if record.settled == 0 {
                unsettled.push((silent, number, of_flows));
            }
        }
        self.astray = astray;
        // Those that were silent longest come first. In the second round those, too, that servers answered.
        unsettled.sort_unstable_by_key(|(silent, number, _)| (std::cmp::Reverse(*silent), *number));
        let (mut places, mut flows) = (room.places_wanted, room.flows_wanted);
        for leaves in [Leaves::Unanswered, Leaves::All] {
            for (silent, number, of_flows) in &unsettled {
                if places == 0 && flows == 0 {
                    break;
                }
                let may_leave = match leaves {
                    Leaves::Unanswered => of_flows.answered == 0,
                    Leaves::All => *silent >= LEAVES_AFTER,
                };
                let gone = match leaves {
                    Leaves::Unanswered => of_flows.unanswered,
                    Leaves::All => of_flows.answered + of_flows.unanswered,
                };
                let wants_place = places > 0 && may_leave;
                let wants_flows =
                    flows > 0 && gone > 0 && (may_leave || leaves == Leaves::Unanswered);
                if !wants_place && !wants_flows {
                    continue;
                }
                let before = flows_of.insert(*number, leaves);
                if before == Some(leaves) {
                    continue;
                }
                flows = flows.saturating_sub(gone);
                if wants_place && !devices.contains(number) {
                    devices.push(*number);
                    places -= 1;
                }
            }
        }
        let leaves = |slot: &u32| match flows_of.get(&books.flows.device(*slot)) {
            Some(Leaves::All) => true,
            Some(Leaves::Unanswered) => books.flows.is_unanswered(*slot),
            None => false,
        };
        let leaving = match flows_of.is_empty() {
            true => Vec::new(),
            false => books.flows.used().filter(leaves).collect(),
        };
        Ok((devices, leaving))
    }

    /// Has devices leave whose flows have left.
    fn retire(
        &mut self,
        books: &mut Books,
        now: u64,
        devices: Vec<u32>,
        emit: &mut impl FnMut(Record),
    ) -> Result<(), Error> {
        if devices.is_empty() {
            return Ok(());
        }
        for number in &devices {
            let mac = mac(books, *number);
            if found(INDEX, || self.index.get(&mac, 0))? == Some(*number) {
                removed(INDEX, || self.index.remove(&mac))?;
            }
        }
        grace_period();
        let census = census(books, now);
        for number in devices {
            if census.contains_key(&number) {
                // A flow was opened meanwhile; the record is astray until that has left.
                self.astray.insert(number);
                continue;
            }
            let record = books.devices.read(number);
            // Looked up before anything of the device is written: after a failure here the next census does
            // it.
            let is_back = found(INDEX, || self.index.get(&record.mac, 0))?.is_some();
            let log = log_of(books, number, &record);
            books.journal.write(0, &log);
            reap::phase(books, journal::RETIRING_DEVICE);
            self.write_retired(books, &log);
            if !is_back {
                self.gone.insert(record.mac);
            }
            emit(Record::Left(record.mac, record.settled != 0));
        }
        self.give_up_hits(books)
    }

    /// Moves the hits of devices that left, those included for which that failed before.
    fn give_up_hits(&mut self, books: &mut Books) -> Result<(), Error> {
        books.give_up_hits(&self.gone)?;
        self.gone.clear();
        Ok(())
    }

    /// Puts numbers that no device has into the queue, those included for which that failed before. Where
    /// the daemon is killed before it succeeds, their places are lost until the tables are made anew.
    fn free_numbers(&mut self) -> Result<(), Error> {
        while let Some(number) = self.unused.last() {
            retried(FREE, || self.free.push(number, 0))?;
            self.unused.pop();
        }
        Ok(())
    }

    /// Writes the journal's entry into the books, and gives the device's record back. It may be repeated
    /// until that is done.
    fn write_retired(&mut self, books: &Books, log: &Journal) {
        let number = log.device as u32;
        for family in 0..FAMILIES {
            for direction in Direction::ALL.map(|direction| direction as usize) {
                let place = family * Direction::ALL.len() + direction;
                reap::write_tally(
                    &books.devices,
                    FURTHER_DEVICES,
                    offset_of!(DeviceRecord, retired) + place * size_of::<Tally>(),
                    log.further_retired[family][direction],
                );
                let flows = offset_of!(DeviceRecord, retired_flows) + place * size_of::<u64>();
                books
                    .devices
                    .word(FURTHER_DEVICES, flows)
                    .store(log.further_flows[family][direction], Ordering::Release);
            }
        }
        books
            .devices
            .word(FURTHER_DEVICES, offset_of!(DeviceRecord, last_seen))
            .fetch_max(log.device_last_seen, Ordering::Relaxed);
        reap::phase(books, journal::RELEASING_DEVICE);
        clear(books, number);
        self.unused.push(number);
        // A failure is counted, and tried again by the next `keep`.
        let _ = self.free_numbers();
        reap::phase(books, journal::IDLE);
    }
}

/// How much room there is, and how much is wanted.
struct Room {
    /// Devices that are to leave.
    places_wanted: u64,
    /// Flows that are to leave.
    flows_wanted: u64,
}

impl Room {
    /// A quarter of the records of devices is to be free, or else a half is made so. Of the flow table, devices
    /// that are not settled may have eleven sixteenths, which is more than two of them take, or else they
    /// get a half.
    fn of(books: &Books) -> Self {
        let capacity = u64::from(books.devices.len() - FIRST_DEVICE);
        let numbers = FIRST_DEVICE..books.devices.len();
        let free = numbers.filter(|number| mac(books, *number) == 0).count() as u64;
        let flows = books.settings().flow_slots;
        let unsettled = books
            .losses
            .word(0, offset_of!(Losses, unsettled_flows))
            .load(Ordering::Relaxed);
        Self {
            places_wanted: match free < capacity.div_ceil(4) {
                true => capacity / 2 - (capacity / 2).min(free),
                false => 0,
            },
            flows_wanted: match unsettled > flows / 16 * 11 {
                true => unsettled - flows / 2,
                false => 0,
            },
        }
    }

    fn is_short(&self) -> bool {
        self.places_wanted > 0 || self.flows_wanted > 0
    }
}

/// The flows of each device in the flow table.
fn census(books: &Books, now: u64) -> HashMap<u32, OfFlows> {
    let mut census: HashMap<u32, OfFlows> = HashMap::new();
    for number in books.flows.used() {
        let of_device = census.entry(books.flows.device(number)).or_default();
        let seen = last_seen(books.flows.last_seen(number), now);
        of_device.last_seen = of_device.last_seen.max(seen);
        match books.flows.is_unanswered(number) {
            true => of_device.unanswered += 1,
            false => of_device.answered += 1,
        }
    }
    census
}

/// The journal's entry for a device that leaves.
fn log_of(books: &Books, number: u32, record: &DeviceRecord) -> Journal {
    let further = books.devices.read(FURTHER_DEVICES);
    let mut log = Journal {
        phase: journal::IDLE,
        device: u64::from(number),
        device_last_seen: record.last_seen,
        further_retired: further.retired,
        further_flows: further.retired_flows,
        ..books.journal.read(0)
    };
    for family in 0..FAMILIES {
        for direction in 0..Direction::ALL.len() {
            let sum = &mut log.further_retired[family][direction];
            for tally in [
                record.retired[family][direction],
                record.overflow[family][direction],
            ] {
                sum.packets += tally.packets;
                sum.bytes += tally.bytes;
            }
            log.further_flows[family][direction] += record.retired_flows[family][direction];
        }
    }
    log
}

/// Books that a server answered a device in a flow that was just reaped.
pub(super) fn answered(books: &Books, number: u32, now: u64) {
    let word = |offset| books.devices.word(number, offset);
    let today = now / books.settings().hz.max(1) / DAY + 1;
    let since = word(offset_of!(DeviceRecord, answered_since));
    if since.load(Ordering::Relaxed) == 0 {
        since.store(today, Ordering::Relaxed);
    }
    let flows = word(offset_of!(DeviceRecord, answered_flows)).fetch_add(1, Ordering::Relaxed) + 1;
    if flows >= ANSWERED_FLOWS && since.load(Ordering::Relaxed) < today {
        settle(books, number);
    }
}

fn settle(books: &Books, number: u32) {
    books
        .devices
        .word(number, offset_of!(DeviceRecord, settled))
        .store(1, Ordering::Relaxed);
}

fn mac(books: &Books, number: u32) -> u64 {
    books
        .devices
        .word(number, offset_of!(DeviceRecord, mac))
        .load(Ordering::Relaxed)
}

/// Makes a device's record zero. Nobody may add to it any more.
fn clear(books: &Books, number: u32) {
    books.devices.write(number, &DeviceRecord::default());
}

#[cfg(test)]
mod tests {
    use std::{env, iter};

    use rustix::process::geteuid;

    use super::*;
    use crate::source::kernel::{Runner, enter_own_namespace};

    #[test]
    fn a_device_is_settled_by_ten_answers_on_two_days() {
        const HZ: u64 = 100;
        const TODAY: u64 = 5 * DAY * HZ;
        const TOMORROW: u64 = TODAY + DAY * HZ;

        if !geteuid().is_root() && env::var_os("CI").is_none() {
            eprintln!("not run: tables in the kernel take root");
            return;
        }
        enter_own_namespace().expect("root makes namespaces");
        let runner = Runner::load(64, 16, 4).expect("the programs load");
        let books = runner.books();
        books
            .settings
            .word(0, offset_of!(sensor_ebpf::books::Settings, hz))
            .store(HZ, Ordering::Relaxed);
        let is_settled = |number| books.devices.read(number).settled == 1;
        let say = |number, at: &[u64]| {
            for at in at {
                answered(books, number, *at);
            }
        };
        let many: Vec<u64> = iter::repeat_n(TODAY, 50).collect();
        // However many on one day, and however few on two.
        say(2, &many);
        assert!(!is_settled(2));
        say(3, &many[..8]);
        say(3, &[TOMORROW]);
        assert!(!is_settled(3));
        say(2, &[TOMORROW]);
        say(3, &[TOMORROW]);
        assert!(is_settled(2) && is_settled(3) && !is_settled(4));
    }
}
