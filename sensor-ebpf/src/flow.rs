//! Flows: their keys, their records, and the index that leads from one to the other.
//!
//! # Why not a BPF hash map
//!
//! `BPF_MAP_TYPE_HASH` costs a call, a jhash over every key byte and, per lookup, three cache
//! lines; its values can be read from user space only by copying, and deleting an element while a
//! program holds it loses what that program adds. The table here is two plain arrays that user
//! space maps into its memory:
//!
//! * [`FlowRecord`] slots, two cache lines each: **the books**. A slot is owned by one flow from
//!   the moment it is taken from the free queue until user space has taken its last counts.
//! * an index of [`Bucket`]s of [`IndexEntry`]s: **a hint**. Nothing in the books depends on it. A
//!   lost update (two CPUs that store into one entry) leaves a slot that no packet finds any more
//!   but that is still read, and reaped when it has been idle; its flow gets another slot.
//!
//! Reaping: user space replaces the index entry by [`IndexEntry::REMOVED`], waits until every
//! program that may have read the entry has ended (`membarrier(2)`, an RCU grace period), then
//! books the slot's counts to the device and the interface, and returns it to the queue.

use crate::{
    parse::{Address, Family, Mac, Parsed},
    policy::{Decision, Layer, Verdict},
    sample::{Watch, is_service},
    wire,
};

/// Which way a frame goes, seen from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Leaves the device.
    Upload = 0,
    /// Reaches the device.
    Download = 1,
}

impl Direction {
    /// Both, at the place of their number.
    pub const ALL: [Self; 2] = [Self::Upload, Self::Download];

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }
}

/// What makes two packets the same flow: device, interface, protocol, addresses and ports.
///
/// Six words, so that hashing and comparing take no loop over octets. An IPv4 flow has both
/// addresses in one word and the last three are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Bits 0 to 47: the device's MAC address; from 48: protocol; from 56: family.
    device: u64,
    /// Bits 0 to 31: the interface's index; from 32: local and remote port as in the packet. Where
    /// the family is `Other`, the remote port is the ethertype.
    link: u64,
    /// IPv4: lower half local, upper half remote. IPv6: local, first octets.
    local_high: u64,
    local_low: u64,
    remote_high: u64,
    remote_low: u64,
}

wire! {
    FlowKey {
        device: u64, link: u64, local_high: u64, local_low: u64, remote_high: u64, remote_low: u64,
    }
}

impl FlowKey {
    /// The key of a frame that was seen going in `direction` on the interface `ifindex`.
    #[inline(always)]
    pub const fn new(parsed: &Parsed, direction: Direction, ifindex: u32) -> Self {
        let (mac, local, remote, ports) = match direction {
            Direction::Upload => (
                parsed.source_mac,
                parsed.source,
                parsed.destination,
                parsed.ports,
            ),
            Direction::Download => (
                parsed.destination_mac,
                parsed.destination,
                parsed.source,
                parsed.ports.swapped(),
            ),
        };
        let device = mac.word() | (parsed.protocol as u64) << 48 | (parsed.family as u64) << 56;
        let ports = match parsed.family {
            Family::Other => (parsed.ethertype.swap_bytes() as u32) << 16,
            Family::V4 | Family::V6 => ports.word(),
        };
        let link = ifindex as u64 | (ports as u64) << 32;
        match parsed.family {
            Family::Other => Self {
                device,
                link,
                local_high: 0,
                local_low: 0,
                remote_high: 0,
                remote_low: 0,
            },
            Family::V4 => Self {
                device,
                link,
                local_high: local.high | remote.high << 32,
                local_low: 0,
                remote_high: 0,
                remote_low: 0,
            },
            Family::V6 => Self {
                device,
                link,
                local_high: local.high,
                local_low: local.low,
                remote_high: remote.high,
                remote_low: remote.low,
            },
        }
    }

    /// The device's MAC address.
    #[inline(always)]
    pub const fn mac(&self) -> Mac {
        Mac::from_word(self.device)
    }

    /// The transport's protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.device >> 48) as u8
    }

    /// The network layer.
    #[inline(always)]
    pub const fn family(&self) -> Family {
        Family::from_number((self.device >> 56) as u8)
    }

    /// The index of the interface, as the kernel numbers it.
    #[inline(always)]
    pub const fn ifindex(&self) -> u32 {
        self.link as u32
    }

    /// The device's port; 0 where the protocol has none.
    #[inline(always)]
    pub const fn local_port(&self) -> u16 {
        ((self.link >> 32) as u16).swap_bytes()
    }

    /// The remote port, 0 where the protocol has none; the ethertype where the family is `Other`.
    #[inline(always)]
    pub const fn remote_port(&self) -> u16 {
        ((self.link >> 48) as u16).swap_bytes()
    }

    /// The device's address.
    #[inline(always)]
    pub const fn local(&self) -> Address {
        match self.family() {
            Family::Other => Address { high: 0, low: 0 },
            Family::V4 => Address {
                high: self.local_high & 0xffff_ffff,
                low: 0,
            },
            Family::V6 => Address {
                high: self.local_high,
                low: self.local_low,
            },
        }
    }

    /// The other side's address.
    #[inline(always)]
    pub const fn remote(&self) -> Address {
        match self.family() {
            Family::Other => Address { high: 0, low: 0 },
            Family::V4 => Address {
                high: self.local_high >> 32,
                low: 0,
            },
            Family::V6 => Address {
                high: self.remote_high,
                low: self.remote_low,
            },
        }
    }

    /// Local and remote port as they are stored.
    #[inline(always)]
    pub const fn ports(&self) -> u32 {
        (self.link >> 32) as u32
    }

    /// The same flow with these ports, as [`ports`](Self::ports) gives them; 0 for the flow that
    /// a fragment is booked to whose first piece is not known.
    #[inline(always)]
    pub const fn with_ports(self, ports: u32) -> Self {
        Self {
            link: self.link & 0xffff_ffff | (ports as u64) << 32,
            ..self
        }
    }

    /// The same flow as if it were seen on another interface.
    pub const fn on_interface(self, ifindex: u32) -> Self {
        Self {
            link: self.link >> 32 << 32 | ifindex as u64,
            ..self
        }
    }

    /// A seeded hash of the key.
    ///
    /// Multilinear over 64-bit words with secret odd multipliers (Lemire and Kaser, "Strongly
    /// universal string hashing is fast", 2014), of which the upper half is good, and a finalizer
    /// that brings it down: the products of the words do not wait for each other. The secret is
    /// drawn when the tables are made, so that no device can choose keys that fall into one bucket.
    #[inline(always)]
    pub const fn hash(&self, secret: &[u64; 6]) -> u64 {
        let mut sum = self
            .device
            .wrapping_mul(secret[0])
            .wrapping_add(self.link.wrapping_mul(secret[1]))
            .wrapping_add(self.local_high.wrapping_mul(secret[2]));
        if matches!(self.family(), Family::V6) {
            sum = sum
                .wrapping_add(self.local_low.wrapping_mul(secret[3]))
                .wrapping_add(self.remote_high.wrapping_mul(secret[4]))
                .wrapping_add(self.remote_low.wrapping_mul(secret[5]));
        }
        sum ^= sum >> 32;
        sum = sum.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^ (sum >> 29)
    }

    /// Whether two keys are the same; an IPv4 flow needs three words compared.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.device == other.device
            && self.link == other.link
            && self.local_high == other.local_high
            && (!matches!(self.family(), Family::V6)
                || (self.local_low == other.local_low
                    && self.remote_high == other.remote_high
                    && self.remote_low == other.remote_low))
    }
}

/// Who a slot of the flow table belongs to at the moment. The only writer of each transition is
/// named; a slot is never shared.
pub mod slot {
    /// In the free queue. Written by user space before it queues the slot.
    pub const FREE: u8 = 0;
    /// A flow's. Written by the kernel program that took the slot from the queue.
    pub const LIVE: u8 = 1;
    /// Taken out of the index, waiting for the grace period. Written by user space.
    pub const LEAVING: u8 = 2;
}

/// One flow: its key, its verdict, and its counters.
///
/// 128 octets: what is compared and judged lies in the first cache line, what is counted in the
/// second. The counters are added to atomically by any CPU; user space reads them in place.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FlowRecord {
    /// Whose packets these are.
    pub key: FlowKey,
    /// What was decided, a [`Judgement`] by [`pack`](Judgement::pack): one word, so that no CPU
    /// sees half of it.
    pub judgement: u64,
    /// When the last packet came, in jiffies since boot (`bpf_jiffies64`).
    pub last_seen: u64,
    /// Packets that left the device.
    pub upload_packets: u64,
    /// Octets that left the device, Ethernet header included, frame check sequence not.
    pub upload_bytes: u64,
    /// Packets that reached the device.
    pub download_packets: u64,
    /// Octets that reached the device, counted like `upload_bytes`.
    pub download_bytes: u64,
    /// When the first packet came, in jiffies since boot.
    pub first_seen: u64,
    /// Where the index entry lies that leads here: bucket number times
    /// [`BUCKET_ENTRIES`], plus the place in the bucket.
    pub index_position: u32,
    /// Index of the device's record.
    pub device: u32,
    /// Index of the interface's record.
    pub interface: u32,
    /// All TCP flags seen, by [`Direction`].
    pub tcp_flags: [u8; 2],
    /// The direction of the first packet, by number.
    pub opened_by: u8,
    /// A state of [`slot`].
    pub state: u8,
    /// The TCP sequence number of the last SYN, by [`Direction`]; of no meaning where `tcp_flags`
    /// has none. What a name lies in starts at the number behind it. Of QUIC, uploads: the number of
    /// the connection that began last ([`connection`](crate::said::initial::connection)).
    pub initial_sequence: [u32; 2],
}

wire! {
    FlowRecord {
        key: FlowKey, judgement: u64, last_seen: u64,
        upload_packets: u64, upload_bytes: u64, download_packets: u64, download_bytes: u64,
        first_seen: u64, index_position: u32, device: u32, interface: u32,
        tcp_flags: [u8; 2], opened_by: u8, state: u8, initial_sequence: [u32; 2],
    }
}

const _: () = assert!(size_of::<FlowRecord>() == 128);

/// A decision, the policy generation under which it was made, and what is still wanted of the flow.
///
/// Where nothing is decided anew, the programs change the watch, `held` and `fresh` of a stored word by
/// adding to it: user space may store a verdict at the same time, and it is not to be lost. What they
/// add is by what they read before: of two CPUs that add at once, or one that adds to what user space
/// has just changed, one may borrow from the fields above the one it means, or carry into them. Those
/// are the layer, `fresh` and the watch; generation, policy, verdict and `named` lie below and stay.
/// (The programs cannot compare and exchange: on Linux 5.15 arm64 has none for them.) User space has
/// it [`mended`](Self::mended).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The policy generation; 0 is never in force, so a new record counts as not judged.
    pub generation: u32,
    /// What was decided.
    pub decision: Decision,
    /// A name was judged, or is known to be none. Under another generation the addresses are judged
    /// again, and what the name led to stays until it is judged again too.
    pub named: bool,
    /// What the server says waits for the verdict on the name.
    pub held: bool,
    /// Nobody counted yet that this was decided.
    pub fresh: bool,
    /// Which of the flow's next payloads are copied to user space.
    pub watch: Watch,
}

impl Judgement {
    const VERDICT: u32 = 48;
    const VERDICT_MASK: u64 = 0b11;
    const NAMED: u64 = 1 << 50;
    const HELD: u64 = 1 << 51;
    const LAYER: u32 = 52;
    const LAYER_MASK: u64 = 0b111;
    const FRESH: u64 = 1 << 55;
    const WATCH: u32 = 56;

    /// A new flow's, of which nothing is known.
    #[inline(always)]
    pub const fn new(generation: u32, decision: Decision, watch: Watch) -> Self {
        Self {
            generation,
            decision,
            named: false,
            held: false,
            fresh: decision.policy != 0,
            watch,
        }
    }

    /// A flow that passes, of which nothing more is wanted, by the policy of a generation.
    #[inline(always)]
    pub const fn steady(generation: u32) -> u64 {
        Self::new(generation, Decision::PASS, Watch::NONE).pack()
    }

    /// The bits of the stored word that a packet in `direction` has to find as
    /// [`steady`](Self::steady) says: what is wanted of the other direction does not concern it,
    /// nor whether it has a name.
    #[inline(always)]
    pub const fn steady_mask(direction: Direction) -> u64 {
        let other = Watch::all_of(match direction {
            Direction::Upload => Direction::Download,
            Direction::Download => Direction::Upload,
        });
        !((other.bits() as u64) << Self::WATCH | Self::NAMED)
    }

    /// The word that is stored.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.generation as u64
            | (self.decision.policy as u64) << 32
            | (self.decision.verdict as u64) << Self::VERDICT
            | if self.named { Self::NAMED } else { 0 }
            | if self.held { Self::HELD } else { 0 }
            | (self.decision.layer as u64) << Self::LAYER
            | if self.fresh { Self::FRESH } else { 0 }
            | (self.watch.bits() as u64) << Self::WATCH
    }

    /// Reads the stored word.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            generation: word as u32,
            decision: Decision {
                policy: (word >> 32) as u16,
                verdict: Verdict::from_number((word >> Self::VERDICT & Self::VERDICT_MASK) as u8),
                layer: Layer::from_number((word >> Self::LAYER & Self::LAYER_MASK) as u8),
            },
            named: word & Self::NAMED != 0,
            held: word & Self::HELD != 0,
            fresh: word & Self::FRESH != 0,
            watch: Watch::from_bits((word >> Self::WATCH) as u8),
        }
    }

    /// Whether a stored word is what it would be [`mended`](Self::mended), if the flow is neither a
    /// service's nor HTTP.
    pub const fn is_sound(word: u64) -> bool {
        let stored = Self::unpack(word);
        let watch = stored.watch.without_always(false);
        watch.bits() == stored.watch.bits() && stored.undecided().pack() == word
    }

    /// What it was before additions borrowed, as far as that shows: a watch for ever of a flow of
    /// which nobody wants all, and a layer where no policy decided. All is wanted of services, and the
    /// uploads of HTTP, which is for the caller to know.
    pub const fn mended(self, key: &FlowKey, is_http: bool) -> Self {
        let mut mended = self.undecided();
        if !is_service(key) {
            mended.watch = self.watch.without_always(is_http);
        }
        mended
    }

    /// The same, and what is always so where no policy decided.
    const fn undecided(mut self) -> Self {
        if self.decision.policy == 0 {
            self.decision = Decision::PASS;
            self.fresh = false;
        }
        self
    }

    /// What to add to the stored word so that a flow that is not held is, and the other way round
    /// with its [`wrapping_neg`](u64::wrapping_neg).
    pub const HOLD: u64 = Self::HELD;

    /// What to add to the stored word of a fresh judgement so that it is not.
    pub const COUNTED: u64 = Self::FRESH.wrapping_neg();

    /// What to add to the stored word so that something else is wanted than before.
    #[inline(always)]
    pub const fn watching(before: Watch, after: Watch) -> u64 {
        ((after.bits() as u64) << Self::WATCH).wrapping_sub((before.bits() as u64) << Self::WATCH)
    }

    /// What to add to the stored word so that one payload less is wanted in a direction.
    #[inline(always)]
    pub const fn one_less(direction: Direction) -> u64 {
        (match direction {
            Direction::Upload => 1_u64 << Self::WATCH,
            Direction::Download => 1 << (Self::WATCH + 4),
        })
        .wrapping_neg()
    }
}

/// Entries of one bucket: one cache line.
pub const BUCKET_ENTRIES: usize = 16;

/// How many neighbouring buckets are searched before the index counts as full.
pub const BUCKETS_PROBED: usize = 4;

/// One cache line of the index.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Bucket {
    /// [`IndexEntry`]s by their number.
    pub entries: [u32; BUCKET_ENTRIES],
}

wire! { Bucket { entries: [u32; BUCKET_ENTRIES] } }

/// A hint where a flow's slot is: 20 bits of slot number plus one, 12 bits of hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry(pub u32);

impl IndexEntry {
    /// Never used since the table was made, or clean again: a search ends here.
    pub const EMPTY: Self = Self(0);
    /// Was used: a search goes on, an insertion may take it.
    pub const REMOVED: Self = Self(Self::SLOT_MASK);
    /// The most slots an index can lead to.
    pub const MAX_SLOTS: u32 = Self::SLOT_MASK - 1;

    const SLOT_MASK: u32 = 0x000f_ffff;

    /// The entry of a slot below [`MAX_SLOTS`](Self::MAX_SLOTS) for a key with this hash.
    #[inline(always)]
    pub const fn new(hash: u64, slot: u32) -> Self {
        Self(Self::tag(hash) | (slot + 1))
    }

    /// Whether the slot may be that of a key with this hash.
    #[inline(always)]
    pub const fn may_be(self, hash: u64) -> bool {
        self.0 & !Self::SLOT_MASK == Self::tag(hash)
    }

    /// The slot's number, wrapped where the entry is empty or removed: no slot has that number.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        (self.0 & Self::SLOT_MASK).wrapping_sub(1)
    }

    /// The bucket in which a search for this hash starts, of a power-of-two number of buckets.
    #[inline(always)]
    pub const fn bucket(hash: u64, mask: u32) -> u32 {
        hash as u32 & mask
    }

    #[inline(always)]
    const fn tag(hash: u64) -> u32 {
        (hash >> 32) as u32 & !Self::SLOT_MASK
    }
}

/// How many buckets an index needs for `slots` flows: two entries a slot, a power of two.
pub const fn buckets_for(slots: u32) -> u32 {
    let buckets = (slots as usize * 2)
        .div_ceil(BUCKET_ENTRIES)
        .next_power_of_two() as u32;
    if buckets < BUCKETS_PROBED as u32 {
        BUCKETS_PROBED as u32
    } else {
        buckets
    }
}
