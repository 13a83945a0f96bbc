//! The pinned tables, read in place.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    mem::offset_of,
    num::NonZeroUsize,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aya::maps::{Array, HashMap as KernelHashMap, Map, MapData};
use sensor_ebpf::{
    books::{
        DeviceRecord, FIRST_DEVICE, FIRST_SAMPLE_BYTES, Hit, HitKey, InterfaceRecord, Journal,
        Losses, Opens, PolicyName, Settings, Tally,
    },
    flow::{Direction, FlowRecord, Judgement, slot},
    parse::Mac,
};

use super::{
    Error, clock,
    failed::{found, of_map, removed, retried},
    flows::Flows,
    pins::pinned,
    table::{Access, Raw, Table},
    text,
};
use crate::record::{
    self, Clock, DeviceReading, FlowCounts, FlowSums, InterfaceReading, Reader, Record, Tables,
};

/// The map of hits, by its name in the object.
const HITS: &str = "HITS";

/// Every table that is read or written by its entries.
pub struct Books {
    /// Shared with the thread that judges names, as the flows are.
    pub(super) settings: Arc<Table<Settings>>,
    pub(super) flows: Arc<Flows>,
    pub(super) devices: Table<DeviceRecord>,
    pub(super) interfaces: Table<InterfaceRecord>,
    pub(super) losses: Table<Losses>,
    pub(super) journal: Table<Journal>,
    hits: KernelHashMap<MapData, Raw<HitKey>, Raw<Hit>>,
    pub(super) policy_names: Array<MapData, Raw<PolicyName>>,
    /// Slots of the flow table in which no flow could be, since they were opened.
    pub(super) damaged: u64,
    /// Slots in which the last reading saw no possible flow.
    pub(super) suspects: Vec<u32>,
}

/// A live flow, and the names that its numbers stand for.
#[derive(Debug)]
pub struct FlowLine {
    /// The number of its slot.
    pub slot: u32,
    /// The record.
    pub record: FlowRecord,
    /// The name of its interface.
    pub interface: String,
    /// The name of the policy that matched.
    pub policy: Option<String>,
}

impl Books {
    /// Opens the tables that a sensor pinned; for commands that look.
    ///
    /// # Errors
    ///
    /// When nothing is pinned there, or by another version.
    pub fn look(directory: &Path) -> Result<Self, Error> {
        are_there(directory)?;
        Self::open(directory, Access::Read).map_err(Error::or_privilege)
    }

    pub(super) fn open(directory: &Path, access: Access) -> Result<Self, Error> {
        Self::over(|map| pinned(directory, map), access)
    }

    /// The tables, wherever their maps come from.
    pub(super) fn over(
        mut map: impl FnMut(&'static str) -> Result<Map, Error>,
        access: Access,
    ) -> Result<Self, Error> {
        fn table<T: sensor_ebpf::wire::Wire>(
            map: Map,
            name: &'static str,
            access: Access,
        ) -> Result<Table<T>, Error> {
            match map {
                Map::Array(data) => Table::map(&data, name, access),
                _ => Err(Error::ForeignLayout),
            }
        }
        Ok(Self {
            settings: Arc::new(table(map("SETTINGS")?, "SETTINGS", access)?),
            flows: Arc::new(Flows::over(&mut map, access)?),
            devices: table(map("DEVICES")?, "DEVICES", access)?,
            interfaces: table(map("INTERFACES")?, "INTERFACES", access)?,
            losses: table(map("LOSSES")?, "LOSSES", access)?,
            journal: table(map("JOURNAL")?, "JOURNAL", access)?,
            hits: KernelHashMap::try_from(map(HITS)?).map_err(of_map(HITS))?,
            policy_names: Array::try_from(map("POLICY_NAMES")?).map_err(of_map("POLICY_NAMES"))?,
            damaged: 0,
            suspects: Vec::new(),
        })
    }

    pub(super) fn settings(&self) -> Settings {
        self.settings.read(0)
    }

    /// Writes how jiffies relate to the wall clock, for commands that look at the tables.
    pub(super) fn set_clock(&self, now: &clock::Now, clock: Clock) {
        self.settings
            .word(0, offset_of!(Settings, boot_jiffies))
            .store(now.at_boot, Ordering::Relaxed);
        self.settings
            .word(0, offset_of!(Settings, hz))
            .store(clock.hz, Ordering::Relaxed);
        self.settings
            .word(0, offset_of!(Settings, epoch_millis))
            .store(clock.epoch_millis as u64, Ordering::Relaxed);
    }

    /// Sets how many payloads of a new flow are wanted in each direction.
    pub(super) fn set_watched_payloads(&self, payloads: u8) {
        self.settings
            .word(0, offset_of!(Settings, watched_payloads))
            .store(payloads.into(), Ordering::Relaxed);
    }

    /// Gives new devices a share of the ring from the start; further bytes are given out from now on.
    pub(super) fn give_shares_of_the_ring(&self) {
        self.settings
            .word(0, offset_of!(Settings, first_sample_bytes))
            .store(FIRST_SAMPLE_BYTES, Ordering::Relaxed);
    }

    /// Sets how long the packets of servers wait for a verdict at most.
    pub(super) fn set_hold(&self, hold: Duration) {
        self.settings
            .word(0, offset_of!(Settings, hold_nanoseconds))
            .store(hold.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Sets how many streams are put together at a time.
    pub(super) fn set_assemblies(&self, count: u32) {
        self.settings
            .word(0, offset_of!(Settings, assemblies))
            .store(count.into(), Ordering::Relaxed);
    }

    /// Sets whether Initials of QUIC are opened.
    pub(super) fn set_opens_initials(&self, opens: Opens) {
        self.settings
            .word(0, offset_of!(Settings, opens_initials))
            .store(opens as u64, Ordering::Relaxed);
    }

    /// Counts a reload, in the tables, because the count must not step back with the daemon.
    pub(super) fn count_reload(&self, applied: bool) {
        let counter = match applied {
            true => offset_of!(Settings, reloads),
            false => offset_of!(Settings, reloads_refused),
        };
        self.settings
            .word(0, counter)
            .fetch_add(1, Ordering::Relaxed);
    }

    /// How jiffies relate to time, as the daemon last wrote it.
    pub fn clock(&self) -> Clock {
        let settings = self.settings();
        Clock {
            hz: settings.hz,
            epoch_millis: settings.epoch_millis as i64,
        }
    }

    /// Jiffies since boot, by the clock that the daemon compared them with last.
    fn now(&self) -> u64 {
        let settings = self.settings();
        clock::jiffies(settings.boot_jiffies, settings.hz)
    }

    /// Reads everything, for commands that look.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map.
    pub fn read_all(&self, emit: impl FnMut(Record)) -> Result<(), Error> {
        let (mut hits, mut suspects) = (ReadHits::default(), Vec::new());
        self.read_tables(self.clock(), &mut hits, &mut suspects, emit)
    }

    /// Reads everything, and keeps which slots it saw without a possible flow.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map.
    pub(super) fn read(
        &mut self,
        clock: Clock,
        before: &mut ReadHits,
        reader: impl Reader,
    ) -> Result<(), Error> {
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects.clear();
        let read = self.read_tables(clock, before, &mut suspects, reader);
        self.suspects = suspects;
        read
    }

    fn read_tables(
        &self,
        clock: Clock,
        before: &mut ReadHits,
        suspects: &mut Vec<u32>,
        mut reader: impl Reader,
    ) -> Result<(), Error> {
        let settings = self.settings();
        reader.take(Record::Tables(Box::new(Tables {
            losses: self.losses.read(0),
            flow_capacity: settings.flow_slots as u32,
            device_capacity: self.devices.len() - FIRST_DEVICE,
            reaped: self
                .journal
                .word(0, offset_of!(Journal, reaped))
                .load(Ordering::Relaxed),
            generation: settings.generation,
            policies: settings.policies,
            prefixes: settings.prefixes,
            names: settings.names,
            reloads: settings.reloads,
            reloads_refused: settings.reloads_refused,
            opens_initials: Opens::from_number(settings.opens_initials),
            clock,
        })));
        for (identity, name) in self.policy_names()? {
            reader.take(Record::Policy(record::PolicyName { identity, name }));
        }
        for (number, record) in self.interface_records() {
            reader.take(Record::Interface(Box::new(InterfaceReading {
                number,
                record,
            })));
        }
        for number in 0..self.devices.len() {
            if number >= FIRST_DEVICE
                && self
                    .devices
                    .word(number, offset_of!(DeviceRecord, mac))
                    .load(Ordering::Relaxed)
                    == 0
            {
                continue;
            }
            let record = self.devices.read(number);
            reader.take(Record::Device(DeviceReading { number, record }));
        }
        // Hits are read before the flows, so that packets which the end of a decision moves from a flow to
        // the hits meanwhile are not told twice: they are missed until the next time. A reading is too
        // small then, so that the most of any reading is told.
        let mut hits = self.all_hits()?;
        let now = self.now();
        let mut steady = FlowSums::new(self.devices.len(), self.interfaces.len());
        for slot in self.flows.used() {
            if self.is_damaged(slot) {
                suspects.push(slot);
                continue;
            }
            let is_known = |counts: &FlowCounts| {
                let [upload, download] = counts.wire;
                reader.knows(slot, [upload.bytes, download.bytes])
            };
            // Of tens of thousands, most are as they were a tick ago, and no policy decided about them.
            if !self.flows.is_decided(slot) {
                let counts = self.flows.counts(slot, now);
                if is_known(&counts) {
                    steady.add(&counts);
                    continue;
                }
            }
            let record = self.flows.read(slot, now);
            add_hits(&mut hits, &record);
            let counts = FlowCounts::from(&record);
            match is_known(&counts) {
                true => steady.add(&counts),
                false => reader.take(Record::Flow(slot, record)),
            }
        }
        reader.take(Record::Steady(Box::new(steady)));
        for (key, hit) in before.most(hits) {
            reader.take(Record::Hits(key, hit));
        }
        Ok(())
    }

    /// The hits of policies, without the packets of live flows under the decision in force.
    fn all_hits(&self) -> Result<HashMap<HitKey, Hit>, Error> {
        let mut hits: HashMap<HitKey, Hit> = HashMap::new();
        for hit in self.hits.iter() {
            let (Raw(key), Raw(hit)) = hit.map_err(of_map(HITS))?;
            let sum = hits.entry(HitKey { writer: 0, ..key }).or_default();
            sum.wire.packets += hit.wire.packets;
            sum.wire.bytes += hit.wire.bytes;
            sum.decided += hit.decided;
        }
        Ok(hits)
    }

    /// The record of hits of reaped flows.
    pub(super) fn hit(&self, key: &HitKey) -> Result<Hit, Error> {
        let hit = found(HITS, || self.hits.get(&Raw(*key), 0))?;
        Ok(hit.map_or_else(Hit::default, |Raw(hit)| hit))
    }

    /// Writes the record of hits of reaped flows.
    pub(super) fn set_hit(&mut self, key: &HitKey, hit: Hit) -> Result<(), Error> {
        retried(HITS, || self.hits.insert(Raw(*key), Raw(hit), 0))
    }

    /// Moves the hits of devices that left to the key of no device.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the map: no hit is lost or counted twice, and the same call moves the rest.
    pub(super) fn give_up_hits(&mut self, macs: &HashSet<u64>) -> Result<(), Error> {
        if macs.is_empty() {
            return Ok(());
        }
        let mut left = Vec::new();
        for hit in self.hits.iter() {
            let (Raw(key), Raw(hit)) = hit.map_err(of_map(HITS))?;
            if macs.contains(&Mac::new(key.mac).word()) {
                left.push((key, hit));
            }
        }
        for (key, hit) in left {
            let shared = HitKey {
                mac: [0; 6],
                writer: HitKey::OF_REAPED,
                ..key
            };
            let before = self.hit(&shared)?;
            let mut sum = before;
            sum.wire.packets += hit.wire.packets;
            sum.wire.bytes += hit.wire.bytes;
            sum.decided += hit.decided;
            self.set_hit(&shared, sum)?;
            if let Err(error) = removed(HITS, || self.hits.remove(&Raw(key))) {
                // Counted twice otherwise.
                let _ = self.set_hit(&shared, before);
                return Err(error);
            }
        }
        Ok(())
    }

    fn live_flows(&self, now: u64) -> impl Iterator<Item = (u32, FlowRecord)> {
        self.flows
            .used()
            .filter(|slot| !self.is_damaged(*slot))
            .map(move |slot| (slot, self.flows.read(slot, now)))
    }

    /// Whether a taken slot cannot hold a flow, because it names a state or a device that does not exist.
    /// Its records belong to no flow, and its counts to nobody. A fault of the machine's memory does that,
    /// or another program that writes into the table.
    #[inline]
    pub(super) fn is_damaged(&self, slot: u32) -> bool {
        self.flows.state(slot).load(Ordering::Acquire) > slot::LEAVING
            || self.flows.device(slot) >= self.devices.len()
    }

    pub(super) fn interface_records(&self) -> impl Iterator<Item = (u32, InterfaceRecord)> {
        (0..self.interfaces.len())
            .map(|number| (number, self.interfaces.read(number)))
            .filter(|(_, record)| record.name[0] != 0)
    }

    /// The records of interfaces to which live flows belong.
    pub(super) fn interfaces_of_flows(&self) -> HashSet<u32> {
        self.live_flows(self.now())
            .map(|(_, record)| record.interface)
            .collect()
    }

    /// The names of all policies that ever had an identity.
    pub(super) fn policy_names(&self) -> Result<Vec<(u16, String)>, Error> {
        let mut names = Vec::new();
        // Identities are given in order, from 1 on.
        for identity in 1..self.policy_names.len() {
            let Raw(name) = retried("POLICY_NAMES", || self.policy_names.get(&identity, 0))?;
            if name.octets[0] == 0 {
                break;
            }
            names.push((identity as u16, text(&name.octets)));
        }
        Ok(names)
    }

    /// The slots of the live flows, or of those of some devices, in the order of the table; with `most`, those
    /// with the most bytes, the largest first. The number is that of the flows that `most` left out.
    pub fn choose_flows(
        &self,
        devices: Option<&HashSet<Mac>>,
        most: Option<NonZeroUsize>,
    ) -> (Vec<u32>, u64) {
        let flows = self.live_flows(self.now());
        let wanted = flows.filter(|(_, record)| {
            devices.is_none_or(|devices| devices.contains(&record.key.mac()))
        });
        largest(
            wanted.map(|(slot, record)| {
                (
                    slot,
                    record.upload_bytes.saturating_add(record.download_bytes),
                )
            }),
            most,
        )
    }

    /// The flows that live in these slots now, with the names that belong to them. A slot whose flow ended
    /// meanwhile has none, or that of another flow.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map.
    pub fn flow_lines(&self, slots: &[u32]) -> Result<Vec<FlowLine>, Error> {
        let interfaces: HashMap<_, _> = self
            .interface_records()
            .map(|(number, record)| (number, text(&record.name)))
            .collect();
        let policies: HashMap<_, _> = self.policy_names()?.into_iter().collect();
        let line = |(slot, record): (u32, FlowRecord)| FlowLine {
            slot,
            interface: interfaces
                .get(&record.interface)
                .cloned()
                .unwrap_or_default(),
            policy: policies.get(&record.judgement().decision.policy).cloned(),
            record,
        };
        let now = self.now();
        let used = slots.iter().copied().filter(|slot| {
            *slot < self.flows.slots()
                && self.flows.state(*slot).load(Ordering::Acquire) != slot::FREE
                && !self.is_damaged(*slot)
        });
        Ok(used
            .map(|slot| (slot, self.flows.read(slot, now)))
            .map(line)
            .collect())
    }
}

/// The slots of the flows with the most bytes, the largest first, or of all in their order; and the number of
/// flows that are left out.
fn largest(flows: impl Iterator<Item = (u32, u64)>, most: Option<NonZeroUsize>) -> (Vec<u32>, u64) {
    let Some(most) = most else {
        return (flows.map(|(slot, _)| slot).collect(), 0);
    };
    let mut flows: Vec<_> = flows.map(|(slot, bytes)| (Reverse(bytes), slot)).collect();
    let left_out = flows.len().saturating_sub(most.get());
    if left_out > 0 {
        flows.select_nth_unstable(most.get());
        flows.truncate(most.get());
    }
    flows.sort_unstable();
    let slots = flows.into_iter().map(|(_, slot)| slot);
    (slots.collect(), left_out as u64)
}

/// The most that was read of each hit, so that none steps back.
#[derive(Default)]
pub(super) struct ReadHits(HashMap<HitKey, ReadHit>);

struct ReadHit {
    most: Hit,
    /// Whether the last reading had it.
    is_there: bool,
}

impl ReadHits {
    /// The hits that were read now, none lower than in an earlier reading. A hit that two readings in a row
    /// do not have is forgotten: its flow has ended, and the table of hits had no room for it.
    fn most(&mut self, now: HashMap<HitKey, Hit>) -> impl Iterator<Item = (HitKey, Hit)> {
        self.0
            .retain(|_, hit| std::mem::replace(&mut hit.is_there, false));
        for (key, hit) in now {
            let before = self.0.entry(key).or_insert(ReadHit {
                most: hit,
                is_there: true,
            });
            before.is_there = true;
            let most = &mut before.most;
            most.wire.packets = most.wire.packets.max(hit.wire.packets);
            most.wire.bytes = most.wire.bytes.max(hit.wire.bytes);
            most.decided = most.decided.max(hit.decided);
        }
        self.0.iter().map(|(key, hit)| (*key, hit.most))
    }
}

/// The keys of the hits that a flow's packets are under the decision in force, by direction, and those
/// packets; `None` where no policy decided.
pub(super) fn hits_of(record: &FlowRecord) -> Option<[(HitKey, Tally); 2]> {
    // The decision by which the programs have counted until now, even where a ruling waits to be taken up.
    let decision = Judgement::unpack(record.judgement).decision;
    if decision.policy == 0 {
        return None;
    }
    let counted = [
        Tally {
            packets: record.upload_packets,
            bytes: record.upload_bytes,
        },
        Tally {
            packets: record.download_packets,
            bytes: record.download_bytes,
        },
    ];
    Some(Direction::ALL.map(|direction| {
        let at = direction as usize;
        let since = Tally {
            packets: counted[at]
                .packets
                .saturating_sub(record.decided_at[at].packets),
            bytes: counted[at]
                .bytes
                .saturating_sub(record.decided_at[at].bytes),
        };
        (HitKey::new(record.key.mac(), decision, direction), since)
    }))
}

fn add_hits(hits: &mut HashMap<HitKey, Hit>, record: &FlowRecord) {
    for (key, since) in hits_of(record).into_iter().flatten() {
        if since.packets | since.bytes != 0 {
            let sum = &mut hits.entry(key).or_default().wire;
            sum.packets += since.packets;
            sum.bytes += since.bytes;
        }
    }
}

/// Whether a sensor has its tables there.
pub(super) fn are_there(directory: &Path) -> Result<(), Error> {
    match directory.join("SETTINGS").try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::NotRunning {
            path: directory.to_owned(),
        }),
        Err(source) => Err(Error::PinDirectory {
            path: directory.to_owned(),
            source,
        }
        .or_privilege()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hit_steps_back() {
        let key = HitKey {
            policy: 7,
            ..HitKey::default()
        };
        let hit = |packets, bytes, decided| Hit {
            wire: Tally { packets, bytes },
            decided,
        };
        let mut before = ReadHits::default();
        let mut read = |now: Option<Hit>| {
            let now = now.map(|hit| (key, hit)).into_iter().collect();
            before.most(now).next().map(|(_, hit)| hit)
        };
        assert_eq!(read(Some(hit(5, 500, 1))), Some(hit(5, 500, 1)));
        // The decision ended between the two readings of one tick.
        assert_eq!(read(Some(hit(0, 0, 2))), Some(hit(5, 500, 2)));
        assert_eq!(read(None), Some(hit(5, 500, 2)));
        assert_eq!(read(Some(hit(6, 600, 2))), Some(hit(6, 600, 2)));
        assert_eq!(read(None), Some(hit(6, 600, 2)));
        assert_eq!(read(None), None);
        assert_eq!(read(Some(hit(1, 60, 0))), Some(hit(1, 60, 0)));
    }

    #[test]
    fn the_largest_flows_come_first_and_the_others_are_counted() {
        let flows = || [(1, 5), (2, 9), (3, 5), (7, 0), (9, 9)].into_iter();
        let chosen = |most| largest(flows(), NonZeroUsize::new(most));
        assert_eq!(chosen(0), (vec![1, 2, 3, 7, 9], 0));
        assert_eq!(chosen(1), (vec![2], 4));
        assert_eq!(chosen(3), (vec![2, 9, 1], 2));
        assert_eq!(chosen(5), (vec![2, 9, 1, 3, 7], 0));
        assert_eq!(chosen(usize::MAX), (vec![2, 9, 1, 3, 7], 0));
    }
}
