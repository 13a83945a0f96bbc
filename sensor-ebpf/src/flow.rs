//! The flow table: the place of a flow's record, and its fields.
//!
//! # Why not a BPF hash map
//!
//! `BPF_MAP_TYPE_HASH` costs a call, a jhash over every key byte and, per lookup, three cache
//! lines; its values can be read from user space only by copying, and deleting an element while a
//! program holds it loses what that program adds. The table here is two plain arrays that user
//! space maps into its memory, with the same numbering:
//!
//! * [`FlowLine`]s, one cache line each, in sets of [`WAYS`]: all that a steady packet reads and writes. The
//!   table is its own index: the hash of a key names the set, and the way at which a search starts. A line is
//!   known by its fingerprint, the whole keyed hash; 0: the line is free.
//! * [`FlowDetail`]s: the key, and the fields that are read when a flow opens, is sampled, decided or reaped.
//!
//! A flow whose set is full goes to the set behind it, and the first set is marked as
//! [spilled](set_of), so that searches go on.
//!
//! Taking a way: a CPU adds one to its [`claims`](FlowDetail::claims). If it finds the number of
//! [`releases`](FlowDetail::releases) there, the way is its own; if it finds more, it subtracts one again.
//! Programs fill both records and store the fingerprint last, by an atomic exchange, which orders it behind the
//! rest. A CPU that sees the fingerprint and not yet the judgement (arm64 may show them so) reads generation 0
//! there, which is never in force, and takes the long way, which compares keys. A CPU that sees an old key
//! opens another way; the way that no search finds is reaped when it is idle. Two CPUs that open one flow at
//! the same time may take two ways, with the same end: the books hold.
//!
//! Reaping: user space stores 0 as the fingerprint, waits until every program that may have found the line
//! has ended (`membarrier(2)`, an RCU grace period), books the counts to the device and the interface, and
//! makes both records zero. Then it counts one release more. It never writes `claims`: a program may be
//! between its addition and its subtraction.

pub use crate::{
    judgement::{Judgement, Ruling, Wants},
    key::{Direction, FlowKey},
};
use crate::{sample::Watch, wire};

/// Lines of one set.
pub const WAYS: u32 = 16;

/// The owner of a line of the flow table at the moment. The only writer of each transition is named; a line is
/// never shared.
pub mod slot {
    /// No flow's. Written by user space.
    pub const FREE: u8 = 0;
    /// A flow's. Written by the kernel program that claimed it.
    pub const LIVE: u8 = 1;
    /// Found by no search any more, waiting for the grace period. Written by user space.
    pub const LEAVING: u8 = 2;
}

/// The fields that a steady packet reads and writes of its flow: one cache line.
///
/// The counters are added to atomically by any CPU; user space reads them in place.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FlowLine {
    /// [`FlowKey::hash`]; 0: no packet finds the line. Programs store it, user space takes it away.
    pub fingerprint: u64,
    /// A [`Judgement`] by [`pack`](Judgement::pack): one word, so that no CPU sees half of it. Programs.
    pub judgement: u64,
    /// A [`Ruling`] by [`pack`](Ruling::pack); 0 where there is none. User space.
    pub ruling: u64,
    /// Packets that left the device.
    pub upload_packets: u64,
    /// Bytes that left the device, Ethernet header included, frame check sequence not.
    pub upload_bytes: u64,
    /// Packets that reached the device.
    pub download_packets: u64,
    /// Bytes that reached the device, counted like `upload_bytes`.
    pub download_bytes: u64,
    /// When the last packet came, in jiffies since boot: the lower half.
    pub last_seen: u32,
    /// All TCP flags seen, by [`Direction`].
    pub tcp_flags: [u8; 2],
    /// A [`Watch`]: which of the next payloads are copied to user space. Programs.
    pub watch: u8,
    /// A state of [`slot`].
    pub state: u8,
}

/// The further fields of a flow.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FlowDetail {
    /// The flow's key.
    pub key: FlowKey,
    /// The flow's counters when the decision in force was made, by [`Direction`]: packets since then are hits
    /// of that decision. Programs.
    pub decided_at: [crate::books::Tally; 2],
    /// When the first packet came, in jiffies since boot.
    pub first_seen: u64,
    /// How often the way was taken. Programs add.
    pub claims: u32,
    /// How often it was given back: as often as it was taken, where it is free. User space.
    pub releases: u32,
    /// Index of the device's record.
    pub device: u32,
    /// Index of the interface's record; out of range where it has none.
    pub interface: u16,
    /// The direction of the first packet, by number.
    pub opened_by: u8,
    /// 1 where it is counted among the flows of devices that were not settled. Programs.
    pub unsettled: u8,
    /// The TCP sequence number of the last SYN, by [`Direction`]; of no meaning where `tcp_flags` has none. The
    /// bytes that may hold a name start at the number behind it. Of QUIC, uploads: the number of the connection
    /// that began last ([`connection`](crate::said::initial::connection)).
    pub initial_sequence: [u32; 2],
}

wire! {
    FlowLine {
        fingerprint: u64, judgement: u64, ruling: u64,
        upload_packets: u64, upload_bytes: u64, download_packets: u64, download_bytes: u64,
        last_seen: u32, tcp_flags: [u8; 2], watch: u8, state: u8,
    }
    FlowDetail {
        key: FlowKey, decided_at: [crate::books::Tally; 2], first_seen: u64, claims: u32, releases: u32,
        device: u32, interface: u16, opened_by: u8, unsettled: u8, initial_sequence: [u32; 2],
    }
}

const _: () = assert!(size_of::<FlowLine>() == 64);

/// Whether flows of a set lie in the set behind it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Spill {
    /// 1 where one does, or did a moment ago. Programs store it, user space takes it back.
    pub spilled: u64,
}

wire! { Spill { spilled: u64 } }

/// A flow, as user space reads it: both records in one.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowRecord {
    /// The flow's key.
    pub key: FlowKey,
    /// See [`FlowLine::judgement`].
    pub judgement: u64,
    /// See [`FlowLine::ruling`].
    pub ruling: u64,
    /// See [`FlowLine::watch`].
    pub watch: u8,
    /// When the last packet came, in jiffies since boot.
    pub last_seen: u64,
    /// Packets that left the device.
    pub upload_packets: u64,
    /// Bytes that left the device.
    pub upload_bytes: u64,
    /// Packets that reached the device.
    pub download_packets: u64,
    /// Bytes that reached the device.
    pub download_bytes: u64,
    /// See [`FlowDetail::decided_at`].
    pub decided_at: [crate::books::Tally; 2],
    /// When the first packet came, in jiffies since boot.
    pub first_seen: u64,
    /// Index of the device's record.
    pub device: u32,
    /// Index of the interface's record.
    pub interface: u32,
    /// All TCP flags seen, by [`Direction`].
    pub tcp_flags: [u8; 2],
    /// The direction of the first packet, by number.
    pub opened_by: u8,
    /// See [`FlowDetail::initial_sequence`].
    pub initial_sequence: [u32; 2],
}

impl FlowRecord {
    /// The flow of both records, read at about a time in jiffies since boot.
    pub const fn new(line: &FlowLine, detail: &FlowDetail, now: u64) -> Self {
        Self {
            key: detail.key,
            judgement: line.judgement,
            ruling: line.ruling,
            watch: line.watch,
            last_seen: last_seen(line.last_seen, now),
            upload_packets: line.upload_packets,
            upload_bytes: line.upload_bytes,
            download_packets: line.download_packets,
            download_bytes: line.download_bytes,
            decided_at: detail.decided_at,
            first_seen: detail.first_seen,
            device: detail.device,
            interface: detail.interface as u32,
            tcp_flags: line.tcp_flags,
            opened_by: detail.opened_by,
            initial_sequence: detail.initial_sequence,
        }
    }

    /// The decision about it, as its next packet will find it: with the ruling taken up. The decision by its
    /// addresses is not known here; where that counts, the flow passes.
    pub fn judgement(&self) -> Judgement {
        let stored = Judgement::unpack(self.judgement);
        let ruling = Ruling::unpack(self.ruling);
        match ruling.version == stored.version {
            true => stored,
            false => stored.take_up(ruling, crate::policy::Decision::PASS),
        }
    }

    /// Which of its next payloads are wanted.
    pub const fn watch(&self) -> Watch {
        Watch::from_bits(self.watch)
    }
}

/// The time in jiffies since boot of which this is the lower half, as it is at about another: at most 2^24
/// jiffies behind it, or else before it.
pub const fn last_seen(half: u32, now: u64) -> u64 {
    const AHEAD: u32 = 1 << 24;

    let ahead = half.wrapping_sub(now as u32);
    if ahead < AHEAD {
        return now + ahead as u64;
    }
    now.saturating_sub((now as u32).wrapping_sub(half) as u64)
}

/// The set that a hash belongs to, of any number of sets below 2^32.
#[inline(always)]
pub const fn set_of(hash: u64, sets: u32) -> u32 {
    (((hash >> 32) * sets as u64) >> 32) as u32
}

/// The set behind a set, in which its flows lie that had no room.
#[inline(always)]
pub const fn set_behind(set: u32, sets: u32) -> u32 {
    if set + 1 >= sets { 0 } else { set + 1 }
}

/// The way of a set at which a search for a hash starts.
#[inline(always)]
pub const fn first_way(hash: u64) -> u32 {
    hash as u32 & (WAYS - 1)
}

/// How many sets a table for so many flows has: a quarter more ways than flows, and three sets at least.
///
/// Of as many random flows, 2.6 % lie in the set behind their own, and 0.8 % find both sets full: they have no place,
/// and their packets are counted in the overflow of their device. With nine tenths of the flows (a fill of 0.73) these
/// are 1.6 % and 0.3 %.
pub const fn sets_for(flows: u32) -> u32 {
    let sets = (flows as u64 * 5).div_ceil(4 * WAYS as u64) as u32;
    if sets < 3 { 3 } else { sets }
}

/// The most flows that a table may have room for.
pub const MAX_FLOWS: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, vec::Vec};

    use super::*;
    use crate::parse::parse;

    /// A stream of numbers that look random (Marsaglia's xorshift, 2003).
    fn random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    fn key(remote: [u8; 4], port: u16) -> FlowKey {
        let mut frame = [0; 54];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&40_u16.to_be_bytes());
        frame[23] = 6;
        frame[30..34].copy_from_slice(&remote);
        frame[34..36].copy_from_slice(&40_000_u16.to_be_bytes());
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        frame[46] = 5 << 4;
        FlowKey::new(
            &parse(&frame[..]).expect("a whole frame"),
            Direction::Upload,
            1,
        )
    }

    /// Keys that differ in the uppermost bits of two words: under multilinear hashing modulo 2^64 they
    /// collide whatever the secret is.
    #[test]
    fn chosen_keys_are_told_apart_under_every_secret() {
        let keys: Vec<_> = (0..64)
            .flat_map(|a: u8| {
                (0..64).map(move |b: u8| key([10, 0, 0, a << 2], 0x0100 | u16::from(b) << 2))
            })
            .collect();
        let mut seed = 0x1234_5678_9abc_def1;
        for _ in 0..1_000 {
            let secret = std::array::from_fn(|_| random(&mut seed));
            let hashes: HashSet<_> = keys.iter().map(|key| key.hash(&secret)).collect();
            assert_eq!(hashes.len(), keys.len(), "{secret:x?}");
        }
    }

    /// No set gets more of them than of random keys.
    #[test]
    fn chosen_keys_are_spread_over_the_sets() {
        let sets = sets_for(65_536);
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..20 {
            let secret = std::array::from_fn(|_| random(&mut seed));
            let mut fill = std::vec![0; sets as usize];
            for a in 0..128_u8 {
                for b in 0..128_u8 {
                    let key = key([10, 0, 0, a << 1], 0x0100 | u16::from(b) << 1);
                    fill[set_of(key.hash(&secret), sets) as usize] += 1;
                }
            }
            // Of 16,384 random keys in 5,120 sets, a set has 3.2; more than 16 come once in 10^7 sets.
            assert!(fill.iter().max() < Some(&20), "{:?}", fill.iter().max());
        }
    }

    /// The shares that [`sets_for`] states.
    #[test]
    fn a_full_table_has_no_place_for_few_flows() {
        let sets = sets_for(65_536);
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        for (flows, behind, placeless) in [(59_802, 0.016, 0.003), (65_536, 0.026, 0.008)] {
            let mut fill = std::vec![0; sets as usize];
            let (mut are_behind, mut are_placeless) = (0, 0);
            for _ in 0..flows {
                let own = set_of(random(&mut seed), sets);
                let next = set_behind(own, sets);
                match (fill[own as usize] < WAYS, fill[next as usize] < WAYS) {
                    (true, _) => fill[own as usize] += 1,
                    (false, true) => {
                        fill[next as usize] += 1;
                        are_behind += 1;
                    }
                    (false, false) => are_placeless += 1,
                }
            }
            for (count, expected) in [(are_behind, behind), (are_placeless, placeless)] {
                let share = f64::from(count) / f64::from(flows);
                assert!((share - expected).abs() < 0.002, "{flows}: {share}");
            }
        }
    }

    #[test]
    fn every_set_is_reached_and_none_behind_the_last() {
        for sets in [3, 5, 96, 5_120] {
            assert_eq!(set_of(0, sets), 0);
            assert_eq!(set_of(u64::MAX, sets), sets - 1);
            assert_eq!(set_behind(sets - 1, sets), 0);
            assert_eq!(set_behind(0, sets), 1);
        }
        assert_eq!(sets_for(65_536), 5_120);
        assert_eq!(sets_for(1), 3);
    }

    #[test]
    fn the_last_packet_is_told_from_half_of_its_time() {
        let line = FlowLine {
            last_seen: 0xffff_fff0,
            ..FlowLine::default()
        };
        let seen = |now| FlowRecord::new(&line, &FlowDetail::default(), now).last_seen;
        assert_eq!(seen(0x5_ffff_fff8), 0x5_ffff_fff0);
        assert_eq!(seen(0x6_0000_0010), 0x5_ffff_fff0);
        assert_eq!(seen(0x5_ffff_ffe8), 0x5_ffff_fff0);
    }
}
