//! Every map, private to this module, and the verbs by which the programs use them.
//!
//! A verb counts its own failures: no caller needs to know how a table can be full.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr, slice,
};

use aya_ebpf::{
    bindings::{
        BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_RB_AVAIL_DATA,
    },
    btf_maps,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, Queue, RingBuf, lpm_trie},
};
use sensor_ebpf::{
    answer::{ANSWER_CAPACITY, Refused, To},
    books::{
        ByDirection, DeviceRecord, FIRST_DEVICE, FURTHER_DEVICES, FragmentKey, Hit, HitKey,
        InterfaceRecord, Journal, Losses, MAX_POLICY_IDENTITIES, MULTICAST_DEVICE, PolicyName,
        Settings, Tally, family_index,
    },
    flow::{
        BUCKET_ENTRIES, BUCKETS_PROBED, Bucket, Direction, FlowKey, FlowRecord, IndexEntry,
        Judgement, slot,
    },
    name::{NameBucket, Names, Suffixes},
    parse::{Address, Family, Mac, protocol, tcp_flag},
    policy::{
        Chain, Decision, DeviceRulesKey, LearnedKey, MAX_CHAINS, MAX_PREFIXES, MAX_RULES,
        PREFIX_SIDE_BITS, PrefixV4, PrefixV6, Rule, Rules,
    },
    said::Text,
    sample::{Head, Judged, Kind, MAX_PAYLOAD, Watch},
    skip::Skip,
};

use crate::tell::{News, tell};

/// What the programs are told.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The flows: the books themselves.
#[map]
static FLOWS: Array<FlowRecord> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// Where to find a flow: a hint.
#[map]
static FLOW_INDEX: Array<Bucket> = Array::with_max_entries(8_192, BPF_F_MMAPABLE);

/// Slots of `FLOWS` that are free.
#[map]
static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(65_536, 0);

/// Which record of `DEVICES` a MAC address has.
#[map]
static DEVICE_INDEX: HashMap<u64, u32> = HashMap::with_max_entries(1_024, 0);

/// What is booked to a device beyond its live flows.
#[map]
static DEVICES: Array<DeviceRecord> = Array::with_max_entries(1_026, BPF_F_MMAPABLE);

/// Records of `DEVICES` that are free.
#[map]
static FREE_DEVICES: Queue<u32> = Queue::with_max_entries(1_024, 0);

/// Which record of `INTERFACES` an interface has.
#[map]
static INTERFACE_INDEX: HashMap<u32, u32> = HashMap::with_max_entries(64, 0);

/// What is booked to an interface beyond its live flows.
#[map]
static INTERFACES: Array<InterfaceRecord> = Array::with_max_entries(64, BPF_F_MMAPABLE);

/// Ports of first fragments, for the fragments that follow.
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, u32> = LruHashMap::with_max_entries(4_096, 0);

/// Packets to which a policy applied, by device and policy.
#[map]
static HITS: HashMap<HitKey, Hit> = HashMap::with_max_entries(16_384, 0);

/// The rules that name a device.
#[map]
static DEVICE_RULES: HashMap<DeviceRulesKey, u64> =
    HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Chains of rules by remote IPv4 prefix.
#[map]
static PREFIXES_V4: LpmTrie<PrefixV4, u32> =
    LpmTrie::with_max_entries(2 * MAX_PREFIXES as u32, BPF_F_NO_PREALLOC);

/// Chains of rules by remote IPv6 prefix.
#[map]
static PREFIXES_V6: LpmTrie<PrefixV6, u32> =
    LpmTrie::with_max_entries(2 * MAX_PREFIXES as u32, BPF_F_NO_PREALLOC);

/// The tables of names of both sides: each is made as large as it is needed, and put here whole.
#[btf_map]
static NAMES: btf_maps::ArrayOfMaps<NameTable, 2> = btf_maps::ArrayOfMaps::new();

/// A table of names.
type NameTable = btf_maps::Array<NameBucket, 1, { (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize }>;

/// The rules that refuse every name that is known at an address.
#[map]
static LEARNED: HashMap<LearnedKey, u64> = HashMap::with_max_entries(32_768, BPF_F_NO_PREALLOC);

/// Until when the packets of a flow's server wait, in nanoseconds since boot, by the flow's slot.
#[map]
static HELD: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4_096, 0);

/// The chains of both sides; the first of each side is that of every address.
#[map]
static CHAINS: Array<Chain> = Array::with_max_entries(2 * MAX_CHAINS as u32, 0);

/// The rules of both sides.
#[map]
static RULES: Array<Rule> = Array::with_max_entries(2 * MAX_RULES as u32, 0);

/// What befell the tables and the ring.
#[map]
static LOSSES: Array<Losses> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Samples on their way to user space.
#[map]
static SAMPLES: RingBuf = RingBuf::with_byte_size(SAMPLES_SIZE, 0);

/// Octets of the ring: about 700 full payloads. A multiple of every page size there is.
const SAMPLES_SIZE: u32 = 1 << 20;

/// Where a sample is put together: too large for the stack.
#[map]
static SAMPLE: PerCpuArray<Sample> = PerCpuArray::with_max_entries(1, 0);

/// The name that a payload says, and its hashes.
#[map]
static SAID: PerCpuArray<Said> = PerCpuArray::with_max_entries(1, 0);

/// See [`SAID`].
#[repr(C)]
pub(crate) struct Said {
    pub(crate) text: Text,
    pub(crate) suffixes: Suffixes,
    /// Jiffies when a refused question was last told to user space.
    pub(crate) told: u64,
}

/// A sample as it goes into the ring; of the payload, as much as was captured.
#[repr(C)]
pub(crate) struct Sample {
    pub(crate) head: Head,
    pub(crate) payload: [u8; MAX_PAYLOAD],
}

/// What user space is doing about a flow that it reaps.
#[map]
#[allow(
    dead_code,
    reason = "user space's own; declared here so that all maps are made alike"
)]
static JOURNAL: Array<Journal> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The names of policies, by their identity in the books.
#[map]
#[allow(dead_code, reason = "as JOURNAL")]
static POLICY_NAMES: Array<PolicyName> = Array::with_max_entries(MAX_POLICY_IDENTITIES, 0);

/// Where answers are put together, one for each end: too large for the stack.
#[map]
static ANSWER: PerCpuArray<[u8; ANSWER_CAPACITY]> = PerCpuArray::with_max_entries(2, 0);

/// What an answer needs to know of the frame that is refused.
#[map]
static REFUSED: PerCpuArray<Refused> = PerCpuArray::with_max_entries(1, 0);

/// Adds to a counter that other CPUs add to at the same time.
#[inline(always)]
fn add(counter: *mut u64, amount: u64) {
    // SAFETY: `counter` points into a map value, which lives as long as the program runs.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}

#[inline(always)]
fn add_tally(tally: *mut Tally, wire: Tally) {
    // SAFETY: as in `add`; the fields' addresses are taken, nothing is read.
    let (packets, bytes) = unsafe { (&raw mut (*tally).packets, &raw mut (*tally).bytes) };
    add(packets, wire.packets);
    add(bytes, wire.bytes);
}

#[inline(always)]
fn of_direction<T>(both: *mut ByDirection<T>, direction: Direction) -> *mut T {
    // SAFETY: a direction's number is 0 or 1.
    unsafe { both.cast::<T>().add(direction as usize) }
}

/// The settings; `None` cannot happen, and passes.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// The policy generation in force: read once for each packet.
#[inline(always)]
pub(crate) fn generation(settings: &Settings) -> u32 {
    // SAFETY: user space stores the generation at any time, in one piece.
    unsafe { ptr::read_volatile(&settings.generation) }
}

/// A record of the flow table that is in use, and its number.
#[derive(Clone, Copy)]
pub(crate) struct Flow(*mut FlowRecord, u32);

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
        // SAFETY: a record lives as long as the program; the word is read in one piece.
        unsafe { ptr::read_volatile(&raw const (*self.0).judgement) }
    }

    /// Stores a judgement that was made anew. Of two CPUs that store at once, one is not heard: a
    /// flow is judged again, or one more of its payloads is copied.
    #[inline(always)]
    pub(crate) fn set_judgement(self, judgement: Judgement) {
        // SAFETY: as above, written in one piece.
        unsafe { ptr::write_volatile(&raw mut (*self.0).judgement, judgement.pack()) };
    }

    /// Adds to the stored judgement. User space may put a verdict there at the same time: that is not
    /// lost. The watch, the layer and `fresh` may be something else after it, until user space has
    /// [mended](Judgement::mended) them.
    #[inline(always)]
    pub(crate) fn add_to_judgement(self, amount: u64) {
        // SAFETY: a record lives as long as the program; the field's address is taken.
        add(unsafe { &raw mut (*self.0).judgement }, amount);
    }

    /// Notes where the octets of a TCP direction begin to be counted.
    #[inline(always)]
    pub(crate) fn set_initial_sequence(self, direction: Direction, sequence: u32) {
        // SAFETY: a record lives as long as the program; written in one piece.
        unsafe {
            let both = &raw mut (*self.0).initial_sequence;
            ptr::write_volatile(of_direction(both, direction), sequence);
        }
    }

    /// What [`set_initial_sequence`](Self::set_initial_sequence) noted last.
    #[inline(always)]
    pub(crate) fn initial_sequence(self, direction: Direction) -> u32 {
        // SAFETY: as above, read in one piece.
        unsafe {
            let both = &raw mut (*self.0).initial_sequence;
            ptr::read_volatile(of_direction(both, direction))
        }
    }

    /// When it was seen last, in jiffies.
    #[inline(always)]
    pub(crate) fn last_seen(self) -> u64 {
        // SAFETY: as above, read in one piece.
        unsafe { ptr::read_volatile(&raw const (*self.0).last_seen) }
    }

    /// What [`Head`] says about the flow: its slot, the initial sequence number of a direction and
    /// whether that was seen.
    #[inline(always)]
    pub(crate) fn describe(self, direction: Direction, head: &mut Head) {
        // SAFETY: as above, read in one piece each.
        unsafe {
            if head.key.protocol() == protocol::TCP {
                head.initial_sequence = self.initial_sequence(direction);
            }
            let flags = of_direction(&raw mut (*self.0).tcp_flags, direction);
            if ptr::read_volatile(flags) & tcp_flag::SYN != 0 {
                head.flags |= Head::SYN_SEEN;
            }
        }
        head.slot = self.1;
    }

    /// Notes when the flow was seen, and with which TCP flags.
    #[inline(always)]
    pub(crate) fn touch(self, direction: Direction, tcp_flags: u8, now: u64) {
        // SAFETY: a record lives as long as the program. Neither field is a counter: a store that
        // another CPU overwrites is as late as the other's.
        unsafe {
            // Compared first: a cache line that is not written stays shared between CPUs.
            if ptr::read_volatile(&raw const (*self.0).last_seen) != now {
                ptr::write_volatile(&raw mut (*self.0).last_seen, now);
            }
            let flags = of_direction(&raw mut (*self.0).tcp_flags, direction);
            let seen = ptr::read_volatile(flags);
            if seen | tcp_flags != seen {
                ptr::write_volatile(flags, seen | tcp_flags);
            }
        }
    }

    /// Adds a packet, or the packets of an aggregated frame, to the flow's books.
    #[inline(always)]
    pub(crate) fn count(self, direction: Direction, wire: Tally) {
        // SAFETY: a record lives as long as the program; the fields' addresses are taken.
        let (packets, bytes) = unsafe {
            match direction {
                Direction::Upload => (
                    &raw mut (*self.0).upload_packets,
                    &raw mut (*self.0).upload_bytes,
                ),
                Direction::Download => (
                    &raw mut (*self.0).download_packets,
                    &raw mut (*self.0).download_bytes,
                ),
            }
        };
        add(packets, wire.packets);
        add(bytes, wire.bytes);
    }
}

/// The flow in a slot.
#[inline(always)]
pub(crate) fn flow_in(slot: u32) -> Option<Flow> {
    Some(Flow(FLOWS.get_ptr_mut(slot)?, slot))
}

/// The flow with this key, where it lies in the bucket in which its search starts.
#[inline(always)]
pub(crate) fn find_flow_near(hash: u64, key: &FlowKey, settings: &Settings) -> Option<Flow> {
    match search_bucket(IndexEntry::bucket(hash, settings.bucket_mask), hash, key) {
        Search::Found(flow) => Some(flow),
        Search::Ended | Search::GoesOn => None,
    }
}

/// The flow with this key.
#[inline(always)]
pub(crate) fn find_flow(hash: u64, key: &FlowKey, settings: &Settings) -> Option<Flow> {
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
            return Search::Found(Flow(record, entry.slot()));
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
pub(crate) fn open_flow(
    key: &FlowKey,
    hash: u64,
    device: u32,
    direction: Direction,
    now: u64,
    watch: Watch,
    settings: &Settings,
) -> Option<Flow> {
    let losses = LOSSES.get_ptr_mut(0)?;
    let owner = DEVICES.get_ptr_mut(device)?;
    // SAFETY: both records live as long as the program; the counts are read in one piece.
    let (in_use, of_device) = unsafe {
        (
            ptr::read_volatile(&raw const (*losses).live_flows),
            ptr::read_volatile(&raw const (*owner).live_flows),
        )
    };
    if in_use >= settings.flow_slots {
        // SAFETY: as above.
        lose(
            unsafe { &raw mut (*losses).flow_table_full },
            Some(News::FlowTableFull),
        );
        return None;
    }
    // SAFETY: as above.
    let age = now.wrapping_sub(unsafe { ptr::read_volatile(&raw const (*owner).first_seen) });
    let newcomer = age < NEWCOMER_SECONDS * settings.hz;
    if of_device >= settings.flow_slots - in_use
        || newcomer && in_use >= settings.flow_slots - settings.flow_slots / 4
    {
        // SAFETY: as above.
        lose(
            unsafe { &raw mut (*losses).flow_share_used },
            Some(News::FlowShareUsed),
        );
        return None;
    }
    let Some(entry) = free_entry(hash, settings) else {
        // SAFETY: as above.
        lose(unsafe { &raw mut (*losses).flow_index_full }, None);
        return None;
    };
    let Ok(Some(number)) = FREE_SLOTS.pop() else {
        // SAFETY: as above.
        lose(
            unsafe { &raw mut (*losses).flow_table_full },
            Some(News::FlowTableFull),
        );
        return None;
    };
    let record = FLOWS.get_ptr_mut(number)?;
    // SAFETY: the slot came from the queue, so no other program knows it; user space left every
    // counter at zero.
    unsafe {
        (*record).key = *key;
        (*record).first_seen = now;
        (*record).last_seen = now;
        (*record).device = device;
        // Of no generation: whoever finds the slot first decides, and knows what is wanted.
        (*record).judgement = Judgement::new(0, Decision::PASS, watch).pack();
        (*record).interface = interface_number(key.ifindex());
        (*record).index_position = entry.position;
        (*record).opened_by = direction as u8;
        ptr::write_volatile(&raw mut (*record).state, slot::LIVE);
        // Last: from here on other CPUs find the slot.
        ptr::write_volatile(entry.place, IndexEntry::new(hash, number).0);
    }
    // SAFETY: as above.
    unsafe {
        add(&raw mut (*losses).live_flows, 1);
        add(&raw mut (*owner).live_flows, 1);
    }
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

/// The number of the device's record, made at its first packet; [`FURTHER_DEVICES`] where the
/// table is full.
#[inline(always)]
pub(crate) fn device(mac: Mac, now: u64) -> u32 {
    let mac = mac.word();
    // SAFETY: the value is a number that never changes while its key is in the map.
    if let Some(number) = unsafe { DEVICE_INDEX.get(mac) } {
        return *number;
    }
    let Ok(Some(number)) = FREE_DEVICES.pop() else {
        return further_devices();
    };
    let Some(record) = DEVICES.get_ptr_mut(number) else {
        return further_devices();
    };
    // SAFETY: the record came from the queue, so no other program knows it.
    unsafe {
        (*record).mac = mac;
        (*record).first_seen = now;
        (*record).last_seen = now;
    }
    if DEVICE_INDEX
        .insert(mac, number, u64::from(BPF_NOEXIST))
        .is_ok()
    {
        return number;
    }
    // Another CPU was first, or the table is full.
    // SAFETY: still known to nobody else.
    unsafe { (*record).mac = 0 };
    if FREE_DEVICES.push(number, 0).is_err() {
        count_loss(
            |losses| &raw mut losses.device_table_full,
            Some(News::DeviceTableFull),
        );
    }
    // SAFETY: as above.
    match unsafe { DEVICE_INDEX.get(mac) } {
        Some(number) => *number,
        None => further_devices(),
    }
}

#[inline(always)]
fn further_devices() -> u32 {
    count_loss(
        |losses| &raw mut losses.device_table_full,
        Some(News::DeviceTableFull),
    );
    FURTHER_DEVICES
}

/// Counts one loss, and tells of the first.
#[inline(always)]
fn count_loss(of: impl FnOnce(&mut Losses) -> *mut u64, news: Option<News>) {
    if let Some(losses) = LOSSES.get_ptr_mut(0) {
        // SAFETY: the closure takes a field's address and reads nothing.
        lose(of(unsafe { &mut *losses }), news);
    }
}

#[inline(always)]
fn lose(counter: *mut u64, news: Option<News>) {
    if let Some(news) = news
        // SAFETY: `counter` points into a map value; two CPUs that both read 0 tell it twice.
        && unsafe { ptr::read_volatile(counter) } == 0
    {
        tell(news as u32);
    }
    add(counter, 1);
}

const _: () = assert!(FIRST_DEVICE == 2 && MULTICAST_DEVICE == 0 && FURTHER_DEVICES == 1);

/// The number of an interface's record; out of range where it has none.
#[inline(always)]
fn interface_number(ifindex: u32) -> u32 {
    // SAFETY: the value is a number that user space writes before it attaches a program.
    match unsafe { INTERFACE_INDEX.get(ifindex) } {
        Some(number) => *number,
        None => u32::MAX,
    }
}

#[inline(always)]
fn interface(ifindex: u32) -> Option<*mut InterfaceRecord> {
    let record = INTERFACES.get_ptr_mut(interface_number(ifindex));
    if record.is_none() {
        count_loss(
            |losses| &raw mut losses.interface_unknown,
            Some(News::InterfaceUnknown),
        );
    }
    record
}

/// Books a packet that has no flow to its device and its interface.
#[inline(always)]
pub(crate) fn count_overflow(
    device: u32,
    key: &FlowKey,
    direction: Direction,
    wire: Tally,
    now: u64,
) {
    count_for_device(device, key.family(), direction, wire, now);
    if let Some(record) = interface(key.ifindex()) {
        // SAFETY: the record lives as long as the program; a field's address is taken.
        add_tally(
            of_direction(unsafe { &raw mut (*record).overflow }, direction),
            wire,
        );
    }
}

#[inline(always)]
fn count_for_device(device: u32, family: Family, direction: Direction, wire: Tally, now: u64) {
    let Some(record) = DEVICES.get_ptr_mut(device) else {
        return;
    };
    // SAFETY: the record lives as long as the program, and the family's index is in range.
    unsafe {
        ptr::write_volatile(&raw mut (*record).last_seen, now);
        let by_direction = &raw mut (*record).overflow[family_index(family)];
        add_tally(of_direction(by_direction, direction), wire);
    }
}

/// Books a frame to a group address.
#[inline(always)]
pub(crate) fn count_multicast(ifindex: u32, family: u32, wire: Tally, now: u64) {
    let family = match family {
        4 => Family::V4,
        6 => Family::V6,
        _ => Family::Other,
    };
    count_for_device(MULTICAST_DEVICE, family, Direction::Download, wire, now);
    if let Some(record) = interface(ifindex) {
        // SAFETY: the record lives as long as the program; a field's address is taken.
        add_tally(unsafe { &raw mut (*record).multicast }, wire);
    }
}

/// Books a frame that is not accounted to a device.
#[inline(always)]
pub(crate) fn count_skipped(ifindex: u32, direction: u32, reason: u32, wire: Tally) {
    if direction as usize >= Direction::ALL.len() || reason as usize >= Skip::COUNT {
        return;
    }
    if let Some(record) = interface(ifindex) {
        // SAFETY: the record lives as long as the program; both numbers are in range, as compared.
        unsafe {
            let reasons = (&raw mut (*record).skipped)
                .cast::<[Tally; Skip::COUNT]>()
                .add(direction as usize);
            add_tally(reasons.cast::<Tally>().add(reason as usize), wire);
        }
    }
}

/// Books a packet that was refused on its way to the device.
#[inline(always)]
pub(crate) fn count_refused(ifindex: u32, wire: Tally) {
    if let Some(record) = interface(ifindex) {
        // SAFETY: the record lives as long as the program; a field's address is taken.
        add_tally(unsafe { &raw mut (*record).refused }, wire);
    }
}

/// Books an answer that the sensor sent to a device.
#[inline(always)]
pub(crate) fn count_answered(ifindex: u32, bytes: u64) {
    if let Some(record) = interface(ifindex) {
        // SAFETY: the record lives as long as the program; a field's address is taken.
        add_tally(
            unsafe { &raw mut (*record).answered },
            Tally { packets: 1, bytes },
        );
    }
}

/// Books what the sensor sent to a device in the place of a refused download.
#[inline(always)]
pub(crate) fn count_replaced(ifindex: u32, bytes: u64) {
    if let Some(record) = interface(ifindex) {
        // SAFETY: the record lives as long as the program; a field's address is taken.
        add_tally(
            unsafe { &raw mut (*record).replaced },
            Tally { packets: 1, bytes },
        );
    }
}

/// Counts a refused packet for which no answer could be sent.
#[inline(always)]
pub(crate) fn count_answer_failed(ifindex: u32) {
    if let Some(record) = interface(ifindex) {
        // SAFETY: the record lives as long as the program; a field's address is taken.
        add(unsafe { &raw mut (*record).answers_failed }, 1);
    }
}

/// Counts packets to which a policy applied, and whether it was decided with them.
#[inline(always)]
pub(crate) fn count_hit(
    mac: Mac,
    decision: Decision,
    direction: Direction,
    wire: Tally,
    decided: u64,
) {
    let key = HitKey::new(mac, decision, direction);
    // Whoever is first makes the record; all find it then.
    if HITS.get_ptr_mut(key).is_none() {
        let none = Hit::default();
        let _ = HITS.insert(key, none, u64::from(BPF_NOEXIST));
    }
    match HITS.get_ptr_mut(key) {
        Some(hit) => {
            // SAFETY: a record of a table that loses none; fields' addresses are taken.
            unsafe {
                add_tally(&raw mut (*hit).wire, wire);
                if decided != 0 {
                    add(&raw mut (*hit).decided, decided);
                }
            }
        }
        None => count_loss(|losses| &raw mut losses.hit_table_full, None),
    }
}

/// Lets the packets of a flow's server wait until a time in nanoseconds since boot.
#[inline(always)]
pub(crate) fn hold(flow: Flow, until: u64) {
    if HELD.insert(flow.1, until, 0).is_ok() {
        flow.add_to_judgement(Judgement::HOLD);
    }
}

/// Until when the packets of a held flow's server wait; `None` where another flow took its place.
#[inline(always)]
pub(crate) fn held_until(flow: Flow) -> Option<u64> {
    // SAFETY: the value is copied.
    unsafe { HELD.get(flow.1).copied() }
}

/// Counts a packet that waits.
#[inline(always)]
pub(crate) fn count_held() {
    count_loss(|losses| &raw mut losses.held, None);
}

/// Counts a flow that waits no longer.
#[inline(always)]
pub(crate) fn count_hold_expired() {
    count_loss(|losses| &raw mut losses.hold_expired, None);
}

/// Tells user space that a policy matched a flow.
#[inline(always)]
pub(crate) fn report_judged(key: &FlowKey, decision: Decision, direction: Direction, now: u64) {
    // Written where user space reads it: a copy on the stack would be too much for Linux 6.1, which
    // rounds each function's share of the 512 octets up to 32.
    let Some(mut sample) = SAMPLES.reserve::<Judged>(0) else {
        return count_sample(|losses| &raw mut losses.samples_lost, Kind::Judged, None);
    };
    sample.write(Judged {
        key: *key,
        at: now,
        policy: decision.policy,
        verdict: decision.verdict as u8,
        direction: direction as u8,
        reserved: 0,
    });
    sample.submit(0);
    count_sample(|losses| &raw mut losses.samples, Kind::Judged, None);
}

/// This CPU's buffer for a sample.
#[inline(always)]
pub(crate) fn sample_buffer() -> Option<&'static mut Sample> {
    // SAFETY: the buffer is this CPU's, and no other program of this object runs on the CPU before
    // this one has ended.
    unsafe { SAMPLE.get_ptr_mut(0)?.as_mut() }
}

/// This CPU's buffer for a name.
#[inline(always)]
pub(crate) fn said_buffer() -> Option<&'static mut Said> {
    // SAFETY: as in `sample_buffer`.
    unsafe { SAID.get_ptr_mut(0)?.as_mut() }
}

/// Puts a sample with `len` octets of payload into the ring, where its kind may have the room.
#[inline(always)]
pub(crate) fn submit(sample: &Sample, len: u32, kind: Kind) {
    let quarters = kind.quarters();
    if quarters < 4
        && SAMPLES.query(u64::from(BPF_RB_AVAIL_DATA)) > u64::from(SAMPLES_SIZE / 4) * quarters
    {
        return count_sample(
            |losses| &raw mut losses.samples_shed,
            kind,
            Some(News::SamplesShed),
        );
    }
    // SAFETY: `len` octets of the payload were written, as `bounded` asserts; the head always is.
    let octets = unsafe {
        slice::from_raw_parts(
            ptr::from_ref(sample).cast::<u8>(),
            size_of::<Head>() + bounded(len) as usize,
        )
    };
    if SAMPLES.output::<[u8]>(octets, 0).is_ok() {
        count_sample(|losses| &raw mut losses.samples, kind, None);
    } else {
        count_sample(
            |losses| &raw mut losses.samples_lost,
            kind,
            Some(News::SamplesLost),
        );
    }
}

/// The same length, at most [`MAX_PAYLOAD`], by way of an instruction that the compiler does not
/// look into: it would leave the comparison out, and the verifier needs it.
#[inline(always)]
fn bounded(len: u32) -> u32 {
    let mut bounded = len;
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "{bounded} &= {mask}",
            bounded = inout(reg) bounded,
            mask = const 2 * MAX_PAYLOAD - 1,
            options(pure, nomem, nostack),
        );
    }
    if bounded > MAX_PAYLOAD as u32 {
        return MAX_PAYLOAD as u32;
    }
    bounded
}

/// Counts a sample that is not told because another like it was just now.
#[inline(always)]
pub(crate) fn count_shed(kind: Kind) {
    count_sample(|losses| &raw mut losses.samples_shed, kind, None);
}

/// Counts one sample by its kind, and tells of the first.
#[inline(always)]
fn count_sample(
    of: impl FnOnce(&mut Losses) -> *mut [u64; Kind::COUNT],
    kind: Kind,
    news: Option<News>,
) {
    let mut number = kind as usize;
    // By way of an instruction that the compiler does not look into: it knows the number of a kind
    // to be small, and the verifier, which saw it read from memory, has to be shown.
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "{number} &= 15",
            number = inout(reg) number,
            options(pure, nomem, nostack),
        );
    }
    if number >= Kind::COUNT {
        return;
    }
    count_loss(
        |losses| {
            let kinds = of(losses).cast::<u64>();
            // SAFETY: below the count of kinds, as just compared.
            unsafe { kinds.add(number) }
        },
        news,
    );
}

/// Remembers the ports of a first fragment, as a flow's key stores them.
#[inline(always)]
pub(crate) fn remember_fragment(key: &FragmentKey, ports: u32) {
    // The oldest leaves where the table is full; its fragments are booked without ports.
    let _ = FRAGMENTS.insert(key, ports, 0);
}

/// The ports of a fragment's first one.
#[inline(always)]
pub(crate) fn ports_of_fragment(key: &FragmentKey) -> Option<u32> {
    // SAFETY: the value is copied; a value half written by another CPU is two ports of one flow.
    unsafe { FRAGMENTS.get(key).copied() }
}

/// This CPU's buffer for an answer.
#[inline(always)]
pub(crate) fn answer_buffer(to: To) -> Option<*mut [u8; ANSWER_CAPACITY]> {
    ANSWER.get_ptr_mut(to as u32)
}

/// This CPU's buffer for what was read of a refused frame.
#[inline(always)]
pub(crate) fn refused_buffer() -> Option<&'static mut Refused> {
    // SAFETY: as in `sample_buffer`.
    unsafe { REFUSED.get_ptr_mut(0)?.as_mut() }
}

/// The policy tables of the side that a generation names.
pub(crate) struct Rulebook<'a> {
    side: u32,
    settings: &'a Settings,
}

impl<'a> Rulebook<'a> {
    #[inline(always)]
    pub(crate) fn new(generation: u32, settings: &'a Settings) -> Self {
        Self {
            side: generation & 1,
            settings,
        }
    }

    /// The rules about names.
    #[inline(always)]
    pub(crate) fn name_rules(&self) -> u64 {
        self.of_side(&self.settings.name_rules)
    }

    /// The rules whose verdicts are waited for.
    #[inline(always)]
    pub(crate) fn strict_rules(&self) -> u64 {
        self.of_side(&self.settings.strict_rules)
    }

    /// The secret of the hashes of names.
    #[inline(always)]
    pub(crate) fn name_secret(&self) -> u64 {
        self.of_side(&self.settings.name_secret)
    }

    /// The rules that refuse every name that is known at a remote address.
    #[inline(always)]
    pub(crate) fn learned(&self, key: &FlowKey) -> u64 {
        let key = LearnedKey {
            address: key.remote().octets(),
            side: self.side,
            family: key.family() as u32,
        };
        // SAFETY: the value is copied.
        unsafe { LEARNED.get(key).copied() }.unwrap_or(0)
    }

    #[inline(always)]
    fn of_side<T: Copy>(&self, both: &[T; 2]) -> T {
        match self.side {
            0 => both[0],
            _ => both[1],
        }
    }
}

impl Names for Rulebook<'_> {
    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<&NameBucket> {
        NAMES.get_value(self.side, &number)
    }

    #[inline(always)]
    fn mask(&self) -> u32 {
        self.of_side(&self.settings.name_mask)
    }
}

impl Rules for Rulebook<'_> {
    #[inline(always)]
    fn for_device(&self, mac: Mac) -> u64 {
        let key = DeviceRulesKey {
            mac: mac.octets(),
            side: self.side as u16,
        };
        // SAFETY: user space does not touch the side in force.
        match unsafe { DEVICE_RULES.get(key) } {
            Some(rules) => *rules,
            None if self.side == 0 => self.settings.default_rules[0],
            None => self.settings.default_rules[1],
        }
    }

    #[inline(always)]
    fn for_remote(&self, family: Family, remote: Address) -> Option<&Chain> {
        let side = self.side.to_be_bytes();
        let octets = remote.octets();
        let number = match family {
            Family::Other => None,
            Family::V4 => {
                let [a, b, c, d, ..] = octets;
                let data = PrefixV4 {
                    side,
                    address: [a, b, c, d],
                };
                PREFIXES_V4.get(lpm_trie::Key::new(PREFIX_SIDE_BITS + 32, data))
            }
            Family::V6 => {
                let data = PrefixV6 {
                    side,
                    address: octets,
                };
                PREFIXES_V6.get(lpm_trie::Key::new(PREFIX_SIDE_BITS + 128, data))
            }
        };
        CHAINS.get(self.side * MAX_CHAINS as u32 + number.copied().unwrap_or(0))
    }

    #[inline(always)]
    fn chain(&self, number: u32) -> Option<&Chain> {
        CHAINS.get(self.side * MAX_CHAINS as u32 + number)
    }

    #[inline(always)]
    fn rule(&self, number: u8) -> Option<&Rule> {
        RULES.get(self.side * MAX_RULES as u32 + u32::from(number))
    }
}
