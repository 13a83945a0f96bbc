//! The books beside the flows: per device, per interface, and of the tables themselves.
//!
//! For each interface and direction, what came in equals flows + retired + overflow + multicast +
//! skipped + refused downloads (law 1). Fields named in "Kernel" are added to atomically by
//! programs, those in "User space" are written by the one daemon that holds the lock.

use crate::{
    answer::limit::Silence,
    assembly::Unassembled,
    flow::Direction,
    parse::{Family, Mac},
    policy::Decision,
    sample::Kind,
    skip::Skip,
    wire,
};

/// Packets and octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tally {
    /// Packets as they were on the wire: a super-packet counts as its segments.
    pub packets: u64,
    /// Octets as they were on the wire, Ethernet header included, frame check sequence not.
    pub bytes: u64,
}

/// A place for each direction, indexed by [`Direction`].
pub type ByDirection<T> = [T; 2];

/// How many families have books of their own.
pub const FAMILIES: usize = 3;

/// The index of a family in a device's books.
#[inline(always)]
pub const fn family_index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
        Family::Other => 2,
    }
}

/// The metric label of the family with this index.
pub const FAMILY_NAMES: [&str; FAMILIES] = ["ipv4", "ipv6", "other"];

/// The record of frames to group addresses, which no single device receives.
pub const MULTICAST_DEVICE: u32 = 0;
/// The record of all devices for which the table had no place.
pub const FURTHER_DEVICES: u32 = 1;
/// The first record that belongs to one device.
pub const FIRST_DEVICE: u32 = 2;

/// Bytes of the ring that a device may take in a second while much waits there: 120 hellos of a phone, a
/// quarter of the ring. Bytes it takes while little waits are counted too, but never refused.
pub const SAMPLE_BYTES: u64 = 256 * 1024;
/// Bytes of the ring that a new device may take so before user space has seen it.
pub const FIRST_SAMPLE_BYTES: u64 = 32 * 1024;
/// Bytes of the ring that all devices that are not settled may take in a second while much waits there.
pub const UNSETTLED_SAMPLE_BYTES: u64 = 256 * 1024;

/// The books of one device beyond its live flows.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct DeviceRecord {
    /// The MAC address as a [`Mac`]'s word. Kernel, once.
    pub mac: u64,
    /// Jiffies at the first packet. Kernel, once.
    pub first_seen: u64,
    /// Jiffies at the last packet that did not go to a live flow. Kernel.
    pub last_seen: u64,
    /// Live flows, for the share of the table. Kernel adds, user space subtracts.
    pub live_flows: u64,
    /// 1 where the device is settled: servers answered it on two days, or the configuration names it. The
    /// others share what [`Losses::unsettled_flows`] says. User space.
    pub settled: u64,
    /// Flows in which a server answered, of those that were reaped. User space.
    pub answered_flows: u64,
    /// The day since boot on which the first of them was reaped, plus one; 0 before. User space.
    pub answered_since: u64,
    /// Bytes that samples of it may take in the ring while much waits there, a signed number: negative where
    /// it took more while little did, down to as much as it gets in a second. Programs subtract, user space
    /// adds.
    pub sample_bytes: u64,
    /// Packets for which there was no flow, by family. Kernel.
    pub overflow: [ByDirection<Tally>; FAMILIES],
    /// Last counts of reaped flows, by family. User space.
    pub retired: [ByDirection<Tally>; FAMILIES],
    /// Reaped flows by family and by the direction of their first packet. User space.
    pub retired_flows: [ByDirection<u64>; FAMILIES],
}

/// The books of one interface beyond its live flows.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct InterfaceRecord {
    /// Its name, filled up with zeros; all zero where the record is free. User space.
    pub name: [u8; 16],
    /// The kernel's index of the interface; 0 while it is gone. User space.
    pub ifindex: u32,
    /// Where the programs sit, by [`Direction`], in numbers of user space. User space.
    pub hooks: ByDirection<u16>,
    /// How refused uploads are answered where XDP takes them: number of a [`Way`]. User space, before it
    /// attaches the programs.
    pub way: u64,
    /// Packets for which there was no flow. Kernel.
    pub overflow: ByDirection<Tally>,
    /// Frames to group addresses, download only. Kernel.
    pub multicast: Tally,
    /// Frames not accounted to a device, by reason. Kernel.
    pub skipped: ByDirection<[Tally; Skip::COUNT]>,
    /// Packets refused before they reached the device, download only. Kernel.
    pub refused: Tally,
    /// Packets that the sensor itself sent back to devices (RST, ICMP, DNS). Kernel.
    pub answered: Tally,
    /// Packets that the sensor sent to devices in the place of refused downloads (RST, ICMP).
    /// Kernel.
    pub replaced: Tally,
    /// Answers that could not be made or sent; the packet was dropped. Kernel.
    pub answers_failed: u64,
    /// Refused packets that were not answered because a limit was reached, by reason. Kernel.
    pub silent: [u64; Silence::COUNT],
    /// Refused frames on which no note could be written, because the driver has no metadata for it; they
    /// are among `answers_failed`. Kernel.
    pub notes_failed: u64,
    /// Last counts of reaped flows. User space.
    pub retired: ByDirection<Tally>,
}

/// How XDP answers a refused upload. A program cannot find out whether its driver delivers the frames that it
/// sends back: a veth drops them where no program sits at its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Way {
    /// By sending the frame back itself (`XDP_TX`).
    Transmit = 0,
    /// By a note in the frame's metadata, for the TC program behind it to answer.
    Note = 1,
}

/// The note that an XDP program leaves in the metadata before a refused frame that it hands on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Note {
    /// [`MAGIC`](Self::MAGIC).
    pub magic: u32,
    /// The answer to make, by a number of the programs.
    pub action: u32,
    /// The frame's destination: a [`Mac`]'s word. The frame itself has its sender's address there, so that no
    /// host accepts or forwards it where the note is not read.
    pub destination: u64,
}

impl Note {
    /// Tells a note from metadata of another program.
    pub const MAGIC: u32 = 0x5e4d_0a06;
}

/// Counters of the tables and the ring: losses, samples and shares.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Losses {
    /// New flows refused because no slot was free. Kernel.
    pub flow_table_full: u64,
    /// New flows refused because the device, or all new devices together, had their share of the
    /// table. Kernel.
    pub flow_share_used: u64,
    /// New flows refused because both sets that their hash leads to were full. Kernel.
    pub flow_index_full: u64,
    /// Packets of devices for which the device table had no place. Kernel.
    pub device_table_full: u64,
    /// Frames on an interface that has no record. Cannot happen while user space attaches in order; if it does,
    /// the books are incomplete. Kernel.
    pub interface_unknown: u64,
    /// Policy hits for which the hit table had no place. Kernel.
    pub hit_table_full: u64,
    /// Samples put into the ring, by [`Kind`]. Kernel.
    pub samples: [u64; Kind::COUNT],
    /// Samples left out because their device had taken its share of the ring, or because the ring was too
    /// full for their kind. Kernel.
    pub samples_shed: [u64; Kind::COUNT],
    /// Refused questions that were not told because one for the same name by the same device had been told less
    /// than a second before; the next that is told says how many. Kernel.
    pub samples_suppressed: [u64; Kind::COUNT],
    /// Samples lost because the ring had no room. Kernel.
    pub samples_lost: [u64; Kind::COUNT],
    /// Packets of servers that waited for the verdict on a name: they were not delivered, and the server sends
    /// them again. Kernel.
    pub held: u64,
    /// Flows whose time to wait was over before there was a verdict. Kernel.
    pub hold_expired: u64,
    /// Flows in the table, for the shares of the table. Kernel adds, user space subtracts.
    pub live_flows: u64,
    /// Those of them that were opened by devices that were not settled. Kernel adds, user space subtracts.
    pub unsettled_flows: u64,
    /// Bytes that samples of all devices that are not settled may take in the ring while much waits there, a
    /// signed number: negative where several CPUs took the last. Programs subtract, user space adds.
    pub unsettled_sample_bytes: u64,
    /// Streams that were not put together, by [`Unassembled`]: their names are left to user space. Kernel.
    pub unassembled: [u64; Unassembled::COUNT],
}

/// The settings of the kernel programs. One record, written by user space.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Settings {
    /// The policy generation. A flow decided under another one is decided again. Its lowest bit
    /// says which side of the policy tables is in force.
    pub generation: u32,
    /// Sets of the flow table.
    pub flow_sets: u32,
    /// Flows that the table has room for.
    pub flow_slots: u64,
    /// For each side: the rules that are about names.
    pub name_rules: [u64; 2],
    /// For each side: the rules that are strict: see [`hold_nanoseconds`](Self::hold_nanoseconds).
    pub strict_rules: [u64; 2],
    /// For each side: the secret of the hashes of names.
    pub name_secret: [u64; 2],
    /// For each side: number of buckets of the table of names minus one.
    pub name_mask: [u32; 2],
    /// How long the packets of a server wait for the verdict on a name at most, where a rule is
    /// strict.
    pub hold_nanoseconds: u64,
    /// Until when user space is believed to be there, in nanoseconds since boot (`CLOCK_MONOTONIC`). Later,
    /// packets wait for no verdicts, and none is refused for what user space learned of an address.
    pub alive_until: u64,
    /// Payloads of a new flow that are wanted in each direction, at most
    /// [`Watch::MAX`](crate::sample::Watch::MAX).
    pub watched_payloads: u64,
    /// Bytes of the ring that a new device may take before user space has seen it; 0: devices have no shares of
    /// the ring, because no daemon gives any out.
    pub first_sample_bytes: u64,
    /// Secret of [`FlowKey::hash`](crate::flow::FlowKey::hash), drawn at load.
    pub hash_secret: [u64; 6],
    /// For each side: the rules that apply to devices that no rule names.
    pub default_rules: [u64; 2],
    /// The layout of the maps when they were made; see [`LAYOUT`]. Not read in the kernel.
    pub layout: u64,
    /// The signature by which the programs know their own resets that come back to them, drawn at load; 0: none
    /// are known. The lower half counts.
    pub reset_signature: u64,
    /// Jiffies in a second.
    pub hz: u64,
    /// Milliseconds since the Unix epoch when jiffies were 0. Not read in the kernel.
    pub epoch_millis: u64,
    /// Jiffies when `CLOCK_MONOTONIC` was 0. Not read in the kernel.
    pub boot_jiffies: u64,
    /// Policies in force. Not read in the kernel.
    pub policies: u64,
    /// Prefixes in force, both families. Not read in the kernel.
    pub prefixes: u64,
    /// Names in force. Not read in the kernel.
    pub names: u64,
    /// Reloads that took effect. Not read in the kernel.
    pub reloads: u64,
    /// Reloads that were refused. Not read in the kernel.
    pub reloads_refused: u64,
    /// Streams that can be put together at a time; 0: none is.
    pub assemblies: u64,
    /// Whether Initials of QUIC are opened: an [`Opens`]'s number.
    pub opens_initials: u64,
}

/// Whether the programs open Initials of QUIC, and judge the names in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)]
pub enum Opens {
    /// No: the configuration says so.
    #[default]
    Off = 0,
    /// Yes.
    On = 1,
    /// No: the kernel interprets programs, which takes a millisecond for each Initial.
    Interpreted = 2,
    /// No: the kernel refuses the program that does.
    Refused = 3,
}

impl Opens {
    /// All, at the place of their number.
    pub const ALL: [Self; 4] = [Self::Off, Self::On, Self::Interpreted, Self::Refused];

    /// The one with this number; an unknown number is off.
    pub const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::On,
            2 => Self::Interpreted,
            3 => Self::Refused,
            _ => Self::Off,
        }
    }

    /// As the control socket has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Interpreted => "interpreted",
            Self::Refused => "refused",
        }
    }
}

/// The layout of the maps. A daemon adopts tables of its own layout only: raise the first number
/// with every change of meaning that the sizes do not show.
pub const LAYOUT: u64 = {
    const VERSION: u64 = 7;
    let sizes = [
        size_of::<Settings>(),
        size_of::<crate::flow::FlowLine>(),
        size_of::<crate::flow::FlowDetail>(),
        size_of::<DeviceRecord>(),
        size_of::<InterfaceRecord>(),
        size_of::<Losses>(),
        size_of::<Journal>(),
        size_of::<HitKey>(),
        size_of::<Hit>(),
        size_of::<crate::policy::Chain>(),
        size_of::<crate::policy::Rule>(),
        size_of::<crate::sample::Judged>(),
        size_of::<crate::sample::Head>(),
    ];
    let mut sum = VERSION;
    let mut index = 0;
    while index < sizes.len() {
        sum = sum.wrapping_mul(0x0100_0000_01b3) ^ sizes[index] as u64;
        index += 1;
    }
    sum
};

/// The device and the policy of hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct HitKey {
    /// The device's MAC address.
    pub mac: [u8; 6],
    /// The policy's identity.
    pub policy: u16,
    /// The [`Verdict`](crate::policy::Verdict)'s number; `observe` is a pass.
    pub verdict: u8,
    /// By number of [`Direction`].
    pub direction: u8,
    /// By number of [`Layer`](crate::policy::Layer): the layer that decided.
    pub layer: u8,
    /// The writer of the record: [`HitKey::BY_PROGRAMS`] or [`HitKey::OF_REAPED`].
    pub writer: u8,
}

/// How often a policy applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Hit {
    /// The packets it applied to.
    pub wire: Tally,
    /// The flows and DNS questions that the policy decided about: attempts.
    pub decided: u64,
}

/// The packet that a piece belongs to, to find the ports of its first piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// The packet's flow without ports.
    pub flow: crate::flow::FlowKey,
    /// The identification field, in host order.
    pub identification: u32,
    /// By number of [`Direction`]: both ends choose identifications on their own.
    pub direction: u32,
}

/// The change that is under way at one slot, so that a daemon that is killed at any point of it leaves the next
/// one enough to finish. User space only; a log of absolute values, so that doing it twice does it once.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Journal {
    /// A phase of [`journal`].
    pub phase: u64,
    /// The slot that is retired.
    pub slot: u64,
    /// Number of its device's record.
    pub device: u64,
    /// The device's last packet after the change, in jiffies since boot.
    pub device_last_seen: u64,
    /// Number of its interface's record.
    pub interface: u64,
    /// Index of its family.
    pub family: u64,
    /// The device's retired tallies of that family after the change.
    pub device_retired: ByDirection<Tally>,
    /// The device's retired flows of that family after the change.
    pub device_flows: ByDirection<u64>,
    /// The interface's retired tallies after the change.
    pub interface_retired: ByDirection<Tally>,
    /// How often the slot will have been given back.
    pub releases_after: u64,
    /// The hits of the flow's last packets, a [`HitKey`] for each direction; a policy of 0: no hits.
    pub hit_keys: ByDirection<HitKey>,
    /// Those hits after the change.
    pub hits_after: ByDirection<Hit>,
    /// `reaped` after the change.
    pub reaped_after: u64,
    /// Flows reaped since the tables were made.
    pub reaped: u64,
    /// The retired tallies of the record of further devices after a device is retired.
    pub further_retired: [ByDirection<Tally>; FAMILIES],
    /// The retired flows of that record then.
    pub further_flows: [ByDirection<u64>; FAMILIES],
}

/// The phases of a [`Journal`].
pub mod journal {
    /// Nothing is under way.
    pub const IDLE: u64 = 0;
    /// The values of the journal are being written to the records.
    pub const RETIRING: u64 = 1;
    /// They are written, and the slot's own records are zero; it is being given back.
    pub const RELEASING: u64 = 2;
    /// The counts of the journal's device are being written to the record of further devices.
    pub const RETIRING_DEVICE: u64 = 3;
    /// They are written; its own record is being made zero and given back.
    pub const RELEASING_DEVICE: u64 = 4;
}

/// The most policies that can have had an identity since the tables were made.
pub const MAX_POLICY_IDENTITIES: u32 = 4096;

/// A policy's name, filled up with zeros. User space only.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PolicyName {
    /// UTF-8.
    pub octets: [u8; 64],
}

wire! {
    Journal {
        phase: u64, slot: u64, device: u64, device_last_seen: u64, interface: u64, family: u64,
        device_retired: ByDirection<Tally>, device_flows: ByDirection<u64>,
        interface_retired: ByDirection<Tally>, releases_after: u64,
        hit_keys: ByDirection<HitKey>, hits_after: ByDirection<Hit>, reaped_after: u64, reaped: u64,
        further_retired: [ByDirection<Tally>; FAMILIES], further_flows: [ByDirection<u64>; FAMILIES],
    }
    PolicyName { octets: [u8; 64] }
    Note { magic: u32, action: u32, destination: u64 }
    Tally { packets: u64, bytes: u64 }
    DeviceRecord {
        mac: u64, first_seen: u64, last_seen: u64, live_flows: u64, settled: u64,
        answered_flows: u64, answered_since: u64, sample_bytes: u64,
        overflow: [ByDirection<Tally>; FAMILIES], retired: [ByDirection<Tally>; FAMILIES],
        retired_flows: [ByDirection<u64>; FAMILIES],
    }
    InterfaceRecord {
        name: [u8; 16], ifindex: u32, hooks: ByDirection<u16>, way: u64,
        overflow: ByDirection<Tally>, multicast: Tally,
        skipped: ByDirection<[Tally; Skip::COUNT]>, refused: Tally, answered: Tally,
        replaced: Tally,
        answers_failed: u64, silent: [u64; Silence::COUNT], notes_failed: u64, retired: ByDirection<Tally>,
    }
    Losses {
        flow_table_full: u64, flow_share_used: u64, flow_index_full: u64, device_table_full: u64,
        interface_unknown: u64, hit_table_full: u64, samples: [u64; Kind::COUNT],
        samples_shed: [u64; Kind::COUNT], samples_suppressed: [u64; Kind::COUNT],
        samples_lost: [u64; Kind::COUNT], held: u64, hold_expired: u64, live_flows: u64,
        unsettled_flows: u64, unsettled_sample_bytes: u64, unassembled: [u64; Unassembled::COUNT],
    }
    Settings {
        generation: u32, flow_sets: u32, flow_slots: u64, name_rules: [u64; 2],
        strict_rules: [u64; 2], name_secret: [u64; 2], name_mask: [u32; 2], hold_nanoseconds: u64,
        alive_until: u64, watched_payloads: u64, first_sample_bytes: u64, hash_secret: [u64; 6],
        default_rules: [u64; 2], layout: u64, reset_signature: u64, hz: u64, epoch_millis: u64, boot_jiffies: u64,
        policies: u64, prefixes: u64, names: u64, reloads: u64, reloads_refused: u64,
        assemblies: u64, opens_initials: u64,
    }
    HitKey { mac: [u8; 6], policy: u16, verdict: u8, direction: u8, layer: u8, writer: u8 }
    Hit { wire: Tally, decided: u64 }
    FragmentKey { flow: crate::flow::FlowKey, identification: u32, direction: u32 }
}

impl HitKey {
    /// In `writer`: hits that programs add up, of packets that have no flow or are refused, and of earlier
    /// decisions of live flows.
    pub const BY_PROGRAMS: u8 = 0;
    /// In `writer`: hits that user space adds up, of the last packets of flows that it reaped.
    pub const OF_REAPED: u8 = 1;

    /// The key under which one packet's hit is counted.
    #[inline(always)]
    pub const fn new(mac: Mac, decision: Decision, direction: Direction) -> Self {
        Self {
            mac: mac.octets(),
            policy: decision.policy,
            verdict: decision.verdict as u8,
            direction: direction as u8,
            layer: decision.layer as u8,
            writer: Self::BY_PROGRAMS,
        }
    }
}
