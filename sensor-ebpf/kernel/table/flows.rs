//! The flows: the books themselves, and the index that leads to them.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, Queue},
};
use sensor_ebpf::{
    books::{Settings, Tally},
    flow::{
        BUCKET_ENTRIES, BUCKETS_PROBED, Bucket, Direction, FlowKey, FlowRecord, IndexEntry,
        Judgement, slot,
    },
    parse::{protocol, tcp_flag},
    policy::Decision,
    sample::{Head, Watch},
};

use super::{devices, interfaces, losses};
use crate::{field, shared::Element, tell::News};

/// The flows: the books themselves.
#[map]
static FLOWS: Array<FlowRecord> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// Where to find a flow: a hint.
#[map]
static FLOW_INDEX: Array<Bucket> = Array::with_max_entries(8_192, BPF_F_MMAPABLE);

/// Slots of `FLOWS` that are free.
#[map]
static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(65_536, 0);

/// A record of the flow table that is in use, and its number.
#[derive(Clone, Copy)]
pub(crate) struct Flow(Element<FlowRecord>, u32);

impl Flow {
    /// The number of its slot.
    #[inline(always)]
    pub(crate) fn slot(self) -> u32 {
        self.1
    }

    #[inline(always)]
    pub(crate) fn judgement(self) -> Judgement {
        Judgement::unpack(self.judgement_word())
    }

    /// The judgement as it is stored.
    #[inline(always)]
    pub(crate) fn judgement_word(self) -> u64 {
        field!(self.0, judgement).load()
    }

    /// Stores a judgement that was made anew. Of two CPUs that store at once, one is not heard: a
    /// flow is judged again, or one more of its payloads is copied.
    #[inline(always)]
    pub(crate) fn set_judgement(self, judgement: Judgement) {
        field!(self.0, judgement).store(judgement.pack());
    }

    /// Adds to the stored judgement. User space may put a verdict there at the same time: that is not
    /// lost. The watch, the layer and `fresh` may be something else after it, until user space has
    /// [mended](Judgement::mended) them.
    #[inline(always)]
    pub(crate) fn add_to_judgement(self, amount: u64) {
        field!(self.0, judgement).add(amount);
    }

    /// Notes where the bytes of a TCP direction begin to be counted.
    #[inline(always)]
    pub(crate) fn set_initial_sequence(self, direction: Direction, sequence: u32) {
        field!(self.0, initial_sequence)
            .of(direction)
            .store(sequence);
    }

    /// What [`set_initial_sequence`](Self::set_initial_sequence) noted last.
    #[inline(always)]
    pub(crate) fn initial_sequence(self, direction: Direction) -> u32 {
        field!(self.0, initial_sequence).of(direction).load()
    }

    /// When it was seen last, in jiffies.
    #[inline(always)]
    pub(crate) fn last_seen(self) -> u64 {
        field!(self.0, last_seen).load()
    }

    /// What [`Head`] says about the flow: its slot, the initial sequence number of a direction and
    /// whether that was seen.
    #[inline(always)]
    pub(crate) fn describe(self, direction: Direction, head: &mut Head) {
        if head.key.protocol() == protocol::TCP {
            head.initial_sequence = self.initial_sequence(direction);
        }
        if field!(self.0, tcp_flags).of(direction).load() & tcp_flag::SYN != 0 {
            head.flags |= Head::SYN_SEEN;
        }
        head.slot = self.1;
    }

    /// Notes when the flow was seen, and with which TCP flags. Neither field is a counter: a store that
    /// another CPU overwrites is as late as the other's.
    #[inline(always)]
    pub(crate) fn touch(self, direction: Direction, tcp_flags: u8, now: u64) {
        // Compared first: a cache line that is not written stays shared between CPUs.
        let last_seen = field!(self.0, last_seen);
        if last_seen.load() != now {
            last_seen.store(now);
        }
        let flags = field!(self.0, tcp_flags).of(direction);
        let seen = flags.load();
        if seen | tcp_flags != seen {
            flags.store(seen | tcp_flags);
        }
    }

    /// Adds a packet, or the packets of an aggregated frame, to the flow's books.
    #[inline(always)]
    pub(crate) fn count(self, direction: Direction, wire: Tally) {
        let (packets, bytes) = match direction {
            Direction::Upload => (field!(self.0, upload_packets), field!(self.0, upload_bytes)),
            Direction::Download => (
                field!(self.0, download_packets),
                field!(self.0, download_bytes),
            ),
        };
        packets.add(wire.packets);
        bytes.add(wire.bytes);
    }
}

/// The flow in a slot.
#[inline(always)]
pub(crate) fn in_slot(slot: u32) -> Option<Flow> {
    Some(Flow(Element::new(FLOWS.get_ptr_mut(slot)?), slot))
}

/// The flow with this key, where it lies in the bucket in which its search starts.
#[inline(always)]
pub(crate) fn find_near(hash: u64, key: &FlowKey, settings: &Settings) -> Option<Flow> {
    match search_bucket(IndexEntry::bucket(hash, settings.bucket_mask), hash, key) {
        Search::Found(flow) => Some(flow),
        Search::Ended | Search::GoesOn => None,
    }
}

/// The flow with this key.
#[inline(always)]
pub(crate) fn find(hash: u64, key: &FlowKey, settings: &Settings) -> Option<Flow> {
    let mut bucket = IndexEntry::bucket(hash, settings.bucket_mask);
    for _ in 0..BUCKETS_PROBED {
        match search_bucket(bucket, hash, key) {
            Search::Found(flow) => return Some(flow),
            Search::Ended => return None,
            Search::GoesOn => bucket = (bucket + 1) & settings.bucket_mask,
        }
    }
    None
}

/// What one bucket says about a flow.
enum Search {
    Found(Flow),
    /// The flow is not in the index.
    Ended,
    /// It may be in the next bucket.
    GoesOn,
}

#[inline(always)]
fn search_bucket(bucket: u32, hash: u64, key: &FlowKey) -> Search {
    let Some(entries) = FLOW_INDEX.get_ptr(bucket) else {
        return Search::Ended;
    };
    for place in 0..BUCKET_ENTRIES {
        // SAFETY: `place` is within the bucket; entries are stored in one piece.
        let entry = IndexEntry(unsafe { ptr::read_volatile(&raw const (*entries).entries[place]) });
        if entry == IndexEntry::EMPTY {
            return Search::Ended;
        }
        if entry.may_be(hash)
            && let Some(record) = FLOWS.get_ptr_mut(entry.slot())
            // SAFETY: the key of a slot in the index does not change before a grace period.
            && unsafe { (*record).key.same(key) }
        {
            return Search::Found(Flow(Element::new(record), entry.slot()));
        }
    }
    Search::GoesOn
}

/// How long a device counts as new.
const NEWCOMER_SECONDS: u64 = 60;

/// Takes a slot for a flow and puts it into the index.
///
/// `None` where the table is full, where the device has its share of it, or where the index has no
/// room: each is counted. A device may hold as many flows as are free (dynamic thresholds,
/// Choudhury and Hahne 1998, with alpha 1): one that floods the table leaves half of it, two leave
/// a third, and a device with few flows finds room in any case. Newcomers together get no more than
/// three quarters of it: a flood of made-up MAC addresses, with few flows each, leaves room to those that
/// were there before.
#[inline(always)]
pub(crate) fn open(
    key: &FlowKey,
    hash: u64,
    device: u32,
    direction: Direction,
    now: u64,
    watch: Watch,
    settings: &Settings,
) -> Option<Flow> {
    let losses = losses::losses()?;
    let owner = devices::record(device)?;
    let in_use = field!(losses, live_flows).load();
    let of_device = field!(owner, live_flows).load();
    if in_use >= settings.flow_slots {
        losses::count_in(field!(losses, flow_table_full), Some(News::FlowTableFull));
        return None;
    }
    let age = now.wrapping_sub(field!(owner, first_seen).load());
    let newcomer = age < NEWCOMER_SECONDS * settings.hz;
    if of_device >= settings.flow_slots - in_use
        || newcomer && in_use >= settings.flow_slots - settings.flow_slots / 4
    {
        losses::count_in(field!(losses, flow_share_used), Some(News::FlowShareUsed));
        return None;
    }
    let Some(entry) = free_entry(hash, settings) else {
        losses::count_in(field!(losses, flow_index_full), None);
        return None;
    };
    let Ok(Some(number)) = FREE_SLOTS.pop() else {
        losses::count_in(field!(losses, flow_table_full), Some(News::FlowTableFull));
        return None;
    };
    // The slot came from the queue, so no other program knows it; user space left every counter at zero.
    let record = Element::new(FLOWS.get_ptr_mut(number)?);
    field!(record, key).store(*key);
    field!(record, first_seen).store(now);
    field!(record, last_seen).store(now);
    field!(record, device).store(device);
    // Of no generation: whoever finds the slot first decides, and knows what is wanted.
    field!(record, judgement).store(Judgement::new(0, Decision::PASS, watch).pack());
    field!(record, interface).store(interfaces::number_of(key.ifindex()));
    field!(record, index_position).store(entry.position);
    field!(record, opened_by).store(direction as u8);
    field!(record, state).store(slot::LIVE);
    // Last: from here on other CPUs find the slot.
    // SAFETY: within the bucket that was searched.
    unsafe { ptr::write_volatile(entry.place, IndexEntry::new(hash, number).0) };
    field!(losses, live_flows).add(1);
    field!(owner, live_flows).add(1);
    Some(Flow(record, number))
}

/// A place in the index that nothing uses.
struct FreeEntry {
    place: *mut u32,
    position: u32,
}

#[inline(always)]
fn free_entry(hash: u64, settings: &Settings) -> Option<FreeEntry> {
    let mut bucket = IndexEntry::bucket(hash, settings.bucket_mask);
    for _ in 0..BUCKETS_PROBED {
        let entries = FLOW_INDEX.get_ptr_mut(bucket)?;
        for number in 0..BUCKET_ENTRIES {
            // SAFETY: `number` is within the bucket.
            let place = unsafe { &raw mut (*entries).entries[number] };
            // SAFETY: entries are stored in one piece.
            let entry = IndexEntry(unsafe { ptr::read_volatile(place) });
            if entry == IndexEntry::EMPTY || entry == IndexEntry::REMOVED {
                let position = bucket * BUCKET_ENTRIES as u32 + number as u32;
                return Some(FreeEntry { place, position });
            }
        }
        bucket = (bucket + 1) & settings.bucket_mask;
    }
    None
}
