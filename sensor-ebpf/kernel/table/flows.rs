//! The flows: the books themselves, and their own index.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use sensor_ebpf::{
    books::{Settings, Tally},
    connection::Known,
    flow::{
        Direction, FlowDetail, FlowKey, FlowLine, Judgement, Spill, WAYS, first_way, set_behind,
        set_of, slot,
    },
    parse::{protocol, tcp_flag},
    policy::Decision,
    sample::{Head, Watch},
};

use super::{devices, interfaces, losses};
use crate::{field, seen::Seen, shared::Element, tell::News};

/// A set of lines.
type Set = [FlowLine; WAYS as usize];

/// The fields that a steady packet reads and writes, in sets.
#[map]
static FLOW_LINES: Array<Set> = Array::with_max_entries(5_120, BPF_F_MMAPABLE);

/// The further fields of each flow, by the number of its line.
#[map]
static FLOW_DETAILS: Array<FlowDetail> = Array::with_max_entries(5_120 * WAYS, BPF_F_MMAPABLE);

/// 1 for each set of which flows lie in the set behind it. User space takes it back when none does.
#[map]
static SPILLED: Array<Spill> = Array::with_max_entries(5_120, BPF_F_MMAPABLE);

/// A line of the flow table that is in use.
#[derive(Clone, Copy)]
pub(crate) struct Line(Element<FlowLine>);

impl Line {
    /// Whether the next packet has only to be counted, by both words of the decision and by the watch of the
    /// payloads.
    #[inline(always)]
    pub(crate) fn is_steady(self, direction: Direction, generation: u32) -> bool {
        Judgement::is_steady(self.judgement_word(), self.ruling_word(), generation)
            && !self.watch().wants(direction)
    }

    /// The judgement as it is stored.
    #[inline(always)]
    pub(crate) fn judgement_word(self) -> u64 {
        field!(self.0, judgement).load()
    }

    /// The ruling as user space stored it.
    #[inline(always)]
    pub(crate) fn ruling_word(self) -> u64 {
        field!(self.0, ruling).load()
    }

    /// Stores a judgement in the place of the one that was read. Gives whether that was still there:
    /// another CPU may have judged meanwhile.
    #[inline(always)]
    pub(crate) fn replace_judgement(self, before: u64, after: Judgement) -> bool {
        let after = after.pack();
        before == after || field!(self.0, judgement).compare_exchange(before, after)
    }

    /// Which of the flow's next payloads are wanted.
    #[inline(always)]
    pub(crate) fn watch(self) -> Watch {
        Watch::from_bits(field!(self.0, watch).load())
    }

    /// Stores the watch. Where two CPUs store at once, one store is lost, and one payload more is copied.
    #[inline(always)]
    pub(crate) fn set_watch(self, watch: Watch) {
        field!(self.0, watch).store(watch.bits());
    }

    /// When it was seen last, in jiffies: the lower half.
    #[inline(always)]
    pub(crate) fn last_seen(self) -> u32 {
        field!(self.0, last_seen).load()
    }

    /// Whether a SYN was seen in a direction.
    #[inline(always)]
    fn has_syn(self, direction: Direction) -> bool {
        field!(self.0, tcp_flags).of(direction).load() & tcp_flag::SYN != 0
    }

    /// Notes when the flow was seen, and with which TCP flags. Neither field is a counter: a store that
    /// another CPU overwrites is as late as the other's.
    #[inline(always)]
    pub(crate) fn touch(self, direction: Direction, tcp_flags: u8, now: u64) {
        // Compared first: a cache line that is not written stays shared between CPUs.
        let last_seen = field!(self.0, last_seen);
        if last_seen.load() != now as u32 {
            last_seen.store(now as u32);
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

    /// The packets and bytes counted in a direction.
    #[inline(always)]
    pub(crate) fn counted(self, direction: Direction) -> Tally {
        let (packets, bytes) = match direction {
            Direction::Upload => (field!(self.0, upload_packets), field!(self.0, upload_bytes)),
            Direction::Download => (
                field!(self.0, download_packets),
                field!(self.0, download_bytes),
            ),
        };
        Tally {
            packets: packets.load(),
            bytes: bytes.load(),
        }
    }
}

/// A flow: its line, its detail, and the number of both.
#[derive(Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) line: Line,
    detail: Element<FlowDetail>,
    slot: u32,
}

impl Flow {
    /// The number of its line.
    #[inline(always)]
    pub(crate) fn slot(self) -> u32 {
        self.slot
    }

    /// The number of its device's record.
    #[inline(always)]
    pub(crate) fn device(self) -> u32 {
        field!(self.detail, device).load()
    }

    /// Whether it is that of a key.
    #[inline(always)]
    pub(crate) fn is_of(self, key: &FlowKey) -> bool {
        // SAFETY: the key of a line that was found does not change before a grace period.
        unsafe { (*self.detail.as_ptr()).key.same(key) }
    }

    /// Notes what was counted in a direction when a decision came in force, and gives what was counted
    /// under the one before.
    #[inline(always)]
    pub(crate) fn decided_at(self, direction: Direction, counted: Tally) -> Tally {
        field!(self.detail, decided_at)
            .of(direction)
            .advance(counted)
    }

    /// The state of its connection when a SYN comes.
    #[inline(always)]
    pub(crate) fn known(self) -> Known {
        Known {
            initial_sequence: Direction::ALL.map(|direction| self.initial_sequence(direction)),
            syn_seen: Direction::ALL.map(|direction| self.line.has_syn(direction)),
            is_answered: self.line.counted(Direction::Download).packets != 0,
        }
    }

    /// Notes where the bytes of a TCP direction begin to be counted, or which QUIC connection it is.
    #[inline(always)]
    pub(crate) fn set_initial_sequence(self, direction: Direction, sequence: u32) {
        field!(self.detail, initial_sequence)
            .of(direction)
            .store(sequence);
    }

    /// The number that [`set_initial_sequence`](Self::set_initial_sequence) noted last.
    #[inline(always)]
    pub(crate) fn initial_sequence(self, direction: Direction) -> u32 {
        field!(self.detail, initial_sequence).of(direction).load()
    }

    /// Fills in the fields of [`Head`] about the flow: its slot, the initial sequence number of a direction and
    /// whether that was seen, and which connection it is.
    #[inline(always)]
    pub(crate) fn describe(self, direction: Direction, head: &mut Head) {
        if head.key.protocol() == protocol::TCP {
            head.initial_sequence = self.initial_sequence(direction);
        }
        if self.line.has_syn(direction) {
            head.flags |= Head::SYN_SEEN;
        }
        head.slot = self.slot;
        head.epoch = Judgement::unpack(self.line.judgement_word()).epoch.into();
    }
}

/// The flow in a slot.
#[inline(always)]
pub(crate) fn in_slot(slot: u32) -> Option<Flow> {
    let detail = Element::new(FLOW_DETAILS.get_ptr_mut(slot)?);
    let line = line(lines(slot / WAYS)?, slot);
    Some(Flow { line, detail, slot })
}

/// The lines of a set.
#[inline(always)]
fn lines(set: u32) -> Option<*mut FlowLine> {
    Some(FLOW_LINES.get_ptr_mut(set)?.cast())
}

/// One line of a set, by its way; bits above the number of a way count for nothing.
#[inline(always)]
fn line(lines: *mut FlowLine, way: u32) -> Line {
    // SAFETY: a set has so many lines.
    Line(Element::new(unsafe {
        lines.add((way & (WAYS - 1)) as usize)
    }))
}

/// The line with a fingerprint in the set that it leads to, and its number. Two keys may have one
/// fingerprint: whichever opened its flow second marked both lines ([`Judgement::ambiguous`]).
#[inline(always)]
pub(crate) fn find_line(fingerprint: u64, settings: &Settings) -> Option<(Line, u32)> {
    let set = set_of(fingerprint, settings.flow_sets);
    let lines = lines(set)?;
    let start = first_way(fingerprint);
    for step in 0..WAYS {
        let way = (start + step) & (WAYS - 1);
        let line = line(lines, way);
        if field!(line.0, fingerprint).load() == fingerprint {
            return Some((line, set * WAYS + way));
        }
    }
    None
}

/// Why a flow was not found.
pub(crate) enum NotFound {
    /// No line has its fingerprint.
    New,
    /// The line of another key has it, and is marked.
    Twin,
}

/// The flow with this key, in either of the sets that its fingerprint leads to.
#[inline(always)]
pub(crate) fn find(fingerprint: u64, key: &FlowKey, settings: &Settings) -> Result<Flow, NotFound> {
    let set = set_of(fingerprint, settings.flow_sets);
    let mut twin = false;
    if let Some(flow) = find_in(set, fingerprint, key, &mut twin) {
        return Ok(flow);
    }
    if SPILLED
        .get_ptr_mut(set)
        .is_some_and(|spill| field!(Element::new(spill), spilled).load() != 0)
        && let Some(flow) = find_in(
            set_behind(set, settings.flow_sets),
            fingerprint,
            key,
            &mut twin,
        )
    {
        return Ok(flow);
    }
    Err(match twin {
        true => NotFound::Twin,
        false => NotFound::New,
    })
}

#[inline(always)]
fn find_in(set: u32, fingerprint: u64, key: &FlowKey, twin: &mut bool) -> Option<Flow> {
    let lines = lines(set)?;
    let start = first_way(fingerprint);
    for step in 0..WAYS {
        let way = (start + step) & (WAYS - 1);
        let line = line(lines, way);
        if field!(line.0, fingerprint).load() == fingerprint
            && let Some(detail) = FLOW_DETAILS.get_ptr_mut(set * WAYS + way)
        {
            let flow = Flow {
                line,
                detail: Element::new(detail),
                slot: set * WAYS + way,
            };
            if flow.is_of(key) {
                return Some(flow);
            }
            field!(line.0, judgement).set(Judgement::AMBIGUOUS);
            *twin = true;
        }
    }
    None
}

/// Takes a way for a flow.
///
/// `None` where the table is full, where the device has its share of it, or where both sets are full: each
/// is counted. A device may hold as many flows as are free (dynamic thresholds,
/// Choudhury and Hahne 1998, with alpha 1): one that floods the table leaves half of it, two leave
/// a third, and a device with few flows finds room in any case. Those that are not settled get no more
/// than three quarters of it together: a flood of made-up MAC addresses, with few flows each, leaves room to
/// those that are.
#[inline(always)]
pub(crate) fn open(seen: &Seen, device: u32, has_twin: bool, settings: &Settings) -> Option<Flow> {
    let (fingerprint, now) = (seen.fingerprint, seen.now);
    let losses = losses::losses()?;
    let owner = devices::record(device)?;
    let in_use = field!(losses, live_flows).load();
    let of_device = field!(owner, live_flows).load();
    if in_use >= settings.flow_slots {
        losses::count_in(field!(losses, flow_table_full), Some(News::FlowTableFull));
        return None;
    }
    let unsettled_flows = field!(losses, unsettled_flows);
    let unsettled = field!(owner, settled).load() == 0;
    if of_device >= settings.flow_slots - in_use
        || unsettled && unsettled_flows.load() >= settings.flow_slots - settings.flow_slots / 4
    {
        losses::count_in(field!(losses, flow_share_used), Some(News::FlowShareUsed));
        return None;
    }
    let set = set_of(fingerprint, settings.flow_sets);
    let claimed = match claim_in(set, fingerprint) {
        Some(claimed) => Some(claimed),
        None => {
            let claimed = claim_in(set_behind(set, settings.flow_sets), fingerprint);
            if claimed.is_some()
                && let Some(spill) = SPILLED.get_ptr_mut(set)
            {
                field!(Element::new(spill), spilled).store(1);
            }
            claimed
        }
    };
    let Some(flow) = claimed else {
        losses::count_in(field!(losses, flow_index_full), None);
        return None;
    };
    let Flow { line, detail, .. } = flow;
    field!(detail, key).store(seen.key);
    field!(detail, first_seen).store(now);
    field!(detail, device).store(device);
    field!(detail, interface).store(interfaces::number_of(seen.key.ifindex()) as u16);
    field!(detail, opened_by).store(seen.direction() as u8);
    field!(detail, unsettled).store(u8::from(unsettled));
    field!(line.0, last_seen).store(now as u32);
    let watch = Watch::of_new_flow(&seen.key, settings.watched_payloads);
    field!(line.0, watch).store(watch.bits());
    // Of no generation: the CPU that finds the flow first decides.
    let judgement = Judgement {
        ambiguous: has_twin,
        epoch: Judgement::next_epoch(line.judgement_word()),
        ..Judgement::new(0, Decision::PASS)
    };
    field!(line.0, judgement).store(judgement.pack());
    field!(line.0, state).store(slot::LIVE);
    // Last, and ordered behind the rest: from here on other CPUs find the flow.
    field!(line.0, fingerprint).exchange(fingerprint);
    field!(losses, live_flows).add(1);
    field!(owner, live_flows).add(1);
    if unsettled {
        unsettled_flows.add(1);
    }
    Some(flow)
}

/// Claims a free way of a set.
#[inline(always)]
fn claim_in(set: u32, fingerprint: u64) -> Option<Flow> {
    let lines = lines(set)?;
    let start = first_way(fingerprint);
    for step in 0..WAYS {
        let way = (start + step) & (WAYS - 1);
        let line = line(lines, way);
        if field!(line.0, fingerprint).load() != 0 {
            continue;
        }
        let slot = set * WAYS + way;
        let detail = Element::new(FLOW_DETAILS.get_ptr_mut(slot)?);
        let claims = field!(detail, claims);
        if claims.fetch_add(1) == field!(detail, releases).load() {
            return Some(Flow { line, detail, slot });
        }
        claims.fetch_add(u32::MAX);
    }
    None
}
