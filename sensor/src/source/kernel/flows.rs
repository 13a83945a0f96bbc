//! The flow table, in the daemon's own memory.

use std::{
    mem::offset_of,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use aya::maps::Map;
use sensor_ebpf::{
    books::Tally,
    flow::{
        FlowDetail, FlowKey, FlowLine, FlowRecord, Judgement, Spill, WAYS, last_seen, set_of, slot,
    },
    parse::Family,
    wire::Wire,
};

use super::{
    Error,
    table::{Access, Table},
};
use crate::record::FlowCounts;

/// The maps of the table, by the names of the object.
pub(super) const MAPS: [&str; 3] = ["FLOW_LINES", "FLOW_DETAILS", "SPILLED"];

/// The flow table.
pub(super) struct Flows {
    lines: Table<FlowLine>,
    details: Table<FlowDetail>,
    spills: Table<Spill>,
}

impl Flows {
    /// The table over its maps, which `map` gives by their names.
    pub(super) fn over(
        mut map: impl FnMut(&'static str) -> Result<Map, Error>,
        access: Access,
    ) -> Result<Self, Error> {
        let [lines, details, spills] = MAPS;
        Ok(Self {
            lines: table(map(lines)?, lines, access, WAYS)?,
            details: table(map(details)?, details, access, 1)?,
            spills: table(map(spills)?, spills, access, 1)?,
        })
    }

    /// How many slots there are: more than flows have room.
    #[inline]
    pub(super) fn slots(&self) -> u32 {
        self.lines.len()
    }

    /// The flow in a slot, read at about a time in jiffies since boot.
    #[inline]
    pub(super) fn read(&self, slot: u32, now: u64) -> FlowRecord {
        FlowRecord::new(&self.lines.read(slot), &self.details.read(slot), now)
    }

    /// The part of the flow in a slot that sums need, read at about a time in jiffies since boot.
    ///
    /// The details of a flow lie in two cache lines: of both this reads what it needs, and copies nothing.
    #[inline]
    pub(super) fn counts(&self, slot: u32, now: u64) -> FlowCounts {
        const DEVICE: usize = offset_of!(FlowDetail, device);
        const {
            assert!(offset_of!(FlowDetail, interface) == DEVICE + 4 && DEVICE.is_multiple_of(8));
            assert!(offset_of!(FlowDetail, opened_by) == DEVICE + 6);
        }

        let count = |offset| self.lines.word(slot, offset).load(Ordering::Relaxed);
        let owners = self.details.word(slot, DEVICE).load(Ordering::Relaxed);
        let [a, b, c, d, e, f, opened_by, _] = owners.to_ne_bytes();
        // The first word of a key has the family as its highest byte.
        let key = self.details.word(slot, offset_of!(FlowDetail, key));
        let family = key.load(Ordering::Relaxed) >> 56;
        FlowCounts {
            device: u32::from_ne_bytes([a, b, c, d]),
            interface: u16::from_ne_bytes([e, f]).into(),
            family: Family::from_number(family as u8),
            opened_by,
            last_seen: last_seen(self.last_seen(slot), now),
            wire: [
                Tally {
                    packets: count(offset_of!(FlowLine, upload_packets)),
                    bytes: count(offset_of!(FlowLine, upload_bytes)),
                },
                Tally {
                    packets: count(offset_of!(FlowLine, download_packets)),
                    bytes: count(offset_of!(FlowLine, download_bytes)),
                },
            ],
        }
    }

    /// The slots that are some flow's, those included that are about to be free.
    #[inline]
    pub(super) fn used(&self) -> impl Iterator<Item = u32> {
        (0..self.slots()).filter(|slot| self.state(*slot).load(Ordering::Acquire) != slot::FREE)
    }

    /// The flow in a slot; `None` where there is none.
    pub(super) fn key(&self, slot: u32) -> Option<FlowKey> {
        if slot >= self.slots() || self.state(slot).load(Ordering::Acquire) != slot::LIVE {
            return None;
        }
        Some(self.details.read(slot).key)
    }

    /// The owner of a slot, as a state of [`sensor_ebpf::flow::slot`].
    #[inline]
    pub(super) fn state(&self, slot: u32) -> &AtomicU8 {
        self.lines.octet(slot, offset_of!(FlowLine, state))
    }

    /// The fingerprint by which programs find a slot; 0: they do not find it.
    pub(super) fn fingerprint(&self, slot: u32) -> &AtomicU64 {
        self.lines.word(slot, offset_of!(FlowLine, fingerprint))
    }

    /// The decision of the programs.
    #[inline]
    pub(super) fn judgement(&self, slot: u32) -> &AtomicU64 {
        self.lines.word(slot, offset_of!(FlowLine, judgement))
    }

    /// Whether a policy decided about the flow, so that its packets are hits.
    #[inline]
    pub(super) fn is_decided(&self, slot: u32) -> bool {
        let judgement = self.judgement(slot).load(Ordering::Relaxed);
        Judgement::unpack(judgement).decision.policy != 0
    }

    /// The ruling of user space.
    pub(super) fn ruling(&self, slot: u32) -> &AtomicU64 {
        self.lines.word(slot, offset_of!(FlowLine, ruling))
    }

    /// The lower half of the time of its last packet.
    #[inline]
    pub(super) fn last_seen(&self, slot: u32) -> u32 {
        self.lines
            .half(slot, offset_of!(FlowLine, last_seen))
            .load(Ordering::Relaxed)
    }

    /// The number of its device's record.
    #[inline]
    pub(super) fn device(&self, slot: u32) -> u32 {
        self.details
            .half(slot, offset_of!(FlowDetail, device))
            .load(Ordering::Relaxed)
    }

    /// Writes another number of a device's record, as a fault of memory would.
    #[cfg(test)]
    pub(super) fn set_device(&self, slot: u32, device: u32) {
        self.details
            .half(slot, offset_of!(FlowDetail, device))
            .store(device, Ordering::Relaxed);
    }

    /// Writes other words over all of a slot's records, as a fault of memory would, but for the counts that
    /// say who may take it.
    #[cfg(test)]
    pub(super) fn fill_with(&self, slot: u32, mut word: impl FnMut() -> u64) {
        for offset in (0..size_of::<FlowDetail>()).step_by(8) {
            if offset != offset_of!(FlowDetail, claims) {
                self.details
                    .word(slot, offset)
                    .store(word(), Ordering::Relaxed);
            }
        }
        for offset in (0..size_of::<FlowLine>()).step_by(8) {
            self.lines
                .word(slot, offset)
                .store(word(), Ordering::Relaxed);
        }
    }

    /// Whether the device received no packet of the flow.
    pub(super) fn is_unanswered(&self, slot: u32) -> bool {
        self.lines
            .word(slot, offset_of!(FlowLine, download_packets))
            .load(Ordering::Relaxed)
            == 0
    }

    /// Whether it is counted among the flows of devices that were not settled.
    pub(super) fn is_unsettled(&self, slot: u32) -> bool {
        self.details
            .octet(slot, offset_of!(FlowDetail, unsettled))
            .load(Ordering::Relaxed)
            != 0
    }

    /// How often the slot was taken.
    pub(super) fn claims(&self, slot: u32) -> &AtomicU32 {
        self.details.half(slot, offset_of!(FlowDetail, claims))
    }

    /// How often the slot was given back.
    pub(super) fn releases(&self, slot: u32) -> &AtomicU32 {
        self.details.half(slot, offset_of!(FlowDetail, releases))
    }

    /// Makes a slot's records zero, except for the counts that say who may take it, and the last connection
    /// there.
    pub(super) fn clear(&self, slot: u32) {
        const CLAIMS: usize = offset_of!(FlowDetail, claims);
        const { assert!(offset_of!(FlowDetail, releases) == CLAIMS + 4 && CLAIMS.is_multiple_of(8)) };

        for offset in (0..size_of::<FlowDetail>()).step_by(8) {
            if offset != CLAIMS {
                self.details.word(slot, offset).store(0, Ordering::Release);
            }
        }
        let judgement = self.judgement(slot).load(Ordering::Relaxed);
        self.lines.write(
            slot,
            &FlowLine {
                judgement: Judgement::released(judgement),
                ..FlowLine::default()
            },
        );
    }

    /// Takes back the marks of sets whose flows do not lie in the set behind them any more.
    ///
    /// A flow that a program opens there at the same moment is found by none of its next packets, which open
    /// it again; its first slot is reaped when it is idle.
    pub(super) fn tidy_spills(&self) {
        let sets = self.spills.len();
        for set in 0..sets {
            let mark = self.spills.word(set, offset_of!(Spill, spilled));
            if mark.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let behind = sensor_ebpf::flow::set_behind(set, sets);
            let is_spilled = (behind * WAYS..(behind + 1) * WAYS).any(|slot| {
                let fingerprint = self.fingerprint(slot).load(Ordering::Relaxed);
                fingerprint != 0 && set_of(fingerprint, sets) == set
            });
            if !is_spilled {
                mark.store(0, Ordering::Relaxed);
            }
        }
    }
}

fn table<T: Wire>(
    map: Map,
    name: &'static str,
    access: Access,
    parts: u32,
) -> Result<Table<T>, Error> {
    match map {
        Map::Array(data) => Table::map_parts(&data, name, access, parts),
        _ => Err(Error::ForeignLayout),
    }
}
