//! The books on the host: what `sensor-ebpf/kernel/observe.rs` does with a frame, without a kernel.
//!
//! No policy is in force, nothing is reaped, and no ring can be full.

use std::collections::HashMap;

use bytes::Bytes;
use sensor_ebpf::{
    books::{
        DeviceRecord, FIRST_DEVICE, FURTHER_DEVICES, FragmentKey, MULTICAST_DEVICE, Tally,
        family_index,
    },
    connection::{Known, Syn},
    flow::{Direction, FlowKey, FlowRecord, Judgement},
    kind::{LOOKED_AT, classify, is_service},
    packet::{self, Packet as _},
    parse::{Family, Fragment, Parsed, Piece, protocol, tcp_flag},
    policy::Decision,
    quote::{key_of, quoted},
    said::initial,
    sample::{Head, NO_SLOT, wanted_of},
    skip::Skip,
    watch::{Early, Watch},
};

use super::{
    Seen,
    frame::Frame,
    hashing::Multilinear,
    tables::{DEVICES, FLOWS, GENERATION, Reading, add},
};
use crate::record::{Record, Sample};

/// The tables of one capture.
#[derive(Debug)]
pub(super) struct Host {
    payloads: u64,
    reading: Reading,
    slots: HashMap<FlowKey, u32, Multilinear>,
    devices: HashMap<u64, u32, Multilinear>,
    fragments: Fragments,
}

/// A packet that is to be booked to a flow: `Seen` of the kernel's `observe`.
struct Packet<'a, 'b> {
    seen: &'a Seen<'b>,
    parsed: Parsed,
    key: FlowKey,
    payload: usize,
}

impl Host {
    /// Empty tables; of a new flow `payloads` payloads in each direction are wanted.
    pub(super) fn new(payloads: u8) -> Self {
        Self {
            payloads: payloads.into(),
            reading: Reading::default(),
            slots: HashMap::default(),
            devices: HashMap::default(),
            fragments: Fragments::default(),
        }
    }

    /// Books a frame, and emits its payload where it is wanted.
    pub(super) fn observe(&mut self, seen: &Seen<'_>, emit: &mut impl FnMut(Record)) {
        let parsed = match seen.parsed {
            Ok(parsed) => parsed,
            Err(reason) => return self.skip(seen, reason),
        };
        match seen.direction {
            Direction::Upload if parsed.source_mac.is_group() => {
                return self.skip(seen, Skip::SourceIsGroup);
            }
            Direction::Download if parsed.destination_mac.is_group() => {
                return self.multicast(seen, parsed.family);
            }
            Direction::Upload | Direction::Download => {}
        }
        let packet = Packet {
            seen,
            parsed,
            key: self.fragments.key(seen, &parsed),
            payload: parsed.payload_in(seen.frame.len()),
        };
        if let Some(head) = self.book(&packet)
            && let Some(sample) = self.sample(&packet, head)
        {
            self.reading.losses.samples[sample.head.kind as usize] += 1;
            emit(Record::Sample(Box::new(sample)));
        }
    }

    /// The flow that was opened as the `number`th.
    pub(super) fn flow(&self, number: u32) -> Option<&FlowRecord> {
        self.reading.flows.get(number as usize)
    }

    /// The tables at the end.
    pub(super) fn into_reading(self) -> Reading {
        self.reading
    }

    fn skip(&mut self, seen: &Seen<'_>, reason: Skip) {
        let interface = self.reading.interface(seen.place);
        let skipped = &mut interface.skipped[seen.direction as usize];
        add(&mut skipped[reason as usize], seen.wire());
    }

    fn multicast(&mut self, seen: &Seen<'_>, family: Family) {
        add(
            &mut self.reading.interface(seen.place).multicast,
            seen.wire(),
        );
        self.for_device(MULTICAST_DEVICE, family, Direction::Download, seen);
    }

    fn for_device(&mut self, number: u32, family: Family, direction: Direction, seen: &Seen<'_>) {
        let device = &mut self.reading.devices[number as usize];
        device.last_seen = seen.at;
        let overflow = &mut device.overflow[family_index(family)];
        add(&mut overflow[direction as usize], seen.wire());
    }

    /// Books a packet to its flow; gives the head of its sample where its payload is wanted.
    fn book(&mut self, packet: &Packet<'_, '_>) -> Option<Head> {
        let slot = match self.slots.get(&packet.key) {
            Some(slot) => *slot,
            None => match self.open(packet) {
                Some(slot) => slot,
                None => return self.overflow(packet),
            },
        };
        self.account(packet, slot)
    }

    fn account(&mut self, packet: &Packet<'_, '_>, slot: u32) -> Option<Head> {
        let flow = &mut self.reading.flows[slot as usize];
        let (direction, flags) = (packet.seen.direction, packet.parsed.tcp_flags);
        let at = direction as usize;
        flow.last_seen = packet.seen.at;
        if flags & (tcp_flag::SYN | tcp_flag::RST) == tcp_flag::SYN {
            let calls = direction == Direction::Upload && flags & tcp_flag::ACK == 0;
            let begins = syn(packet).begins(&Known {
                initial_sequence: flow.initial_sequence,
                syn_seen: flow.tcp_flags.map(|seen| seen & tcp_flag::SYN != 0),
                is_answered: flow.download_packets != 0,
            });
            flow.initial_sequence = begins.initial_sequence;
            if calls || begins.is_next {
                flow.watch = Watch::of_new_flow(&packet.key, self.payloads).bits();
            }
        }
        flow.tcp_flags[at] |= flags;
        let wire = packet.seen.wire();
        let (packets, bytes) = match direction {
            Direction::Upload => (&mut flow.upload_packets, &mut flow.upload_bytes),
            Direction::Download => (&mut flow.download_packets, &mut flow.download_bytes),
        };
        *packets += wire.packets;
        *bytes += wire.bytes;
        if packet.key.protocol() == protocol::UDP
            && direction == Direction::Upload
            && packet.key.remote_port() == initial::PORT
        {
            let payload = packet.parsed.payload_offset();
            match initial::connection(&packet.seen.frame, payload) {
                0 => {}
                connection => flow.initial_sequence[at] = connection,
            }
        }
        // A piece without the start of a payload counts as one of the wanted payloads. The kernel also
        // reports it where a policy is about names.
        let is_fragment = direction == Direction::Upload
            && packet.parsed.piece != Piece::Whole
            && packet.payload == 0;
        let watch = flow.watch();
        if (packet.payload == 0 && !is_fragment) || !watch.wants(direction) {
            return None;
        }
        if is_fragment {
            flow.watch = watch.after(direction).bits();
            return None;
        }
        let head = head(packet);
        Some(Head {
            slot,
            initial_sequence: match packet.key.protocol() {
                protocol::TCP => flow.initial_sequence[at],
                _ => 0,
            },
            flags: match flow.tcp_flags[at] & tcp_flag::SYN {
                0 => 0,
                _ => Head::SYN_SEEN,
            } | head.flags,
            ..head
        })
    }

    /// The copy of a payload, where there is one and a reader wants it. Its kind decides which further
    /// payloads of the flow are wanted.
    fn sample(&mut self, packet: &Packet<'_, '_>, head: Head) -> Option<Sample> {
        if packet.seen.frame.len() <= packet.parsed.payload_offset() {
            // The packet says that it has a payload, and the frame ends before it.
            return None;
        }
        let captured = packet.seen.frame.from(packet.parsed.payload_offset());
        let payload = &captured[..captured.len().min(packet.payload)];
        let mut first = [0; LOOKED_AT];
        let there = payload.len().min(LOOKED_AT);
        first[..there].copy_from_slice(&payload[..there]);
        let kind = classify(&packet.key, &first, packet.payload);
        let mut flags = head.flags;
        if head.slot != NO_SLOT {
            let flow = &mut self.reading.flows[head.slot as usize];
            let direction = packet.seen.direction;
            let early = Early {
                key: &packet.key,
                direction,
                first: &first,
                len: packet.payload,
                place: head.place(),
            };
            let watch = flow.watch().behind(kind, &early, self.payloads);
            flow.watch = watch.bits();
            if !watch.wants(direction) {
                flags |= Head::LAST;
            }
        }
        let is_always = is_service(&packet.key)
            || head.slot != NO_SLOT
                && !self.reading.flows[head.slot as usize]
                    .watch()
                    .runs_out(packet.seen.direction);
        let wanted = wanted_of(packet.payload as u32, is_always) as usize;
        let payload = &payload[..payload.len().min(wanted)];
        if payload.is_empty() {
            return None;
        }
        Some(Sample {
            head: Head {
                kind: kind? as u8,
                captured: payload.len() as u32,
                flags,
                ..head
            },
            octets: Bytes::copy_from_slice(payload),
        })
    }

    /// Opens a flow; `None` where there is no room for it.
    fn open(&mut self, packet: &Packet<'_, '_>) -> Option<u32> {
        let device = self.device(packet)?;
        let in_use = self.reading.losses.live_flows;
        let free = u64::from(FLOWS).saturating_sub(in_use);
        let owner = &mut self.reading.devices[device as usize];
        if free == 0 {
            self.reading.losses.flow_table_full += 1;
            return None;
        }
        if owner.live_flows >= free {
            self.reading.losses.flow_share_used += 1;
            return None;
        }
        let number = self.reading.flows.len() as u32;
        self.reading.flows.push(FlowRecord {
            key: packet.key,
            judgement: Judgement {
                epoch: 0,
                ..Judgement::new(GENERATION, Decision::PASS)
            }
            .pack(),
            watch: Watch::of_new_flow(&packet.key, self.payloads).bits(),
            first_seen: packet.seen.at,
            device,
            interface: packet.seen.place as u32,
            opened_by: packet.seen.direction as u8,
            ..FlowRecord::default()
        });
        owner.live_flows += 1;
        self.reading.losses.live_flows += 1;
        self.reading.interface(packet.seen.place);
        self.slots.insert(packet.key, number);
        Some(number)
    }

    /// The number of the packet's device; `None` where it shares the record of further ones.
    fn device(&mut self, packet: &Packet<'_, '_>) -> Option<u32> {
        let mac = packet.key.mac().word();
        if let Some(number) = self.devices.get(&mac) {
            return Some(*number);
        }
        let number = self.reading.devices.len() as u32;
        if number >= FIRST_DEVICE + DEVICES {
            self.reading.losses.device_table_full += 1;
            return None;
        }
        self.reading.devices.push(DeviceRecord {
            mac,
            first_seen: packet.seen.at,
            last_seen: packet.seen.at,
            ..DeviceRecord::default()
        });
        self.devices.insert(mac, number);
        Some(number)
    }

    /// Books a packet without a flow to its device and its interface.
    fn overflow(&mut self, packet: &Packet<'_, '_>) -> Option<Head> {
        let seen = packet.seen;
        let mac = packet.key.mac().word();
        let device = self.devices.get(&mac).copied().unwrap_or(FURTHER_DEVICES);
        self.for_device(device, packet.key.family(), seen.direction, seen);
        let overflow = &mut self.reading.interface(seen.place).overflow;
        add(&mut overflow[seen.direction as usize], seen.wire());
        // A device without a place for flows still has an identity, and asks for names.
        let wanted = packet.payload != 0 && self.payloads != 0 && is_service(&packet.key);
        wanted.then(|| head(packet))
    }
}

/// A packet with the SYN flag, which may begin a connection.
fn syn(packet: &Packet<'_, '_>) -> Syn {
    const ACKNOWLEDGED: usize = 8;
    let place = packet.parsed.transport_offset + ACKNOWLEDGED;
    let number = packet.seen.frame.load::<4>(place);
    Syn {
        direction: packet.seen.direction,
        sequence: packet.parsed.sequence,
        acknowledges: match packet.parsed.tcp_flags & tcp_flag::ACK {
            0 => None,
            _ => Some(number.map_or(0, u32::from_be_bytes)),
        },
    }
}

/// The head before the copy of a packet's payload, as far as the packet tells it.
fn head(packet: &Packet<'_, '_>) -> Head {
    Head {
        key: packet.key,
        at: packet.seen.at,
        slot: NO_SLOT,
        // A SYN has a number of its own, before that of the data it may carry (RFC 7413).
        sequence: packet
            .parsed
            .sequence
            .wrapping_add(u32::from(packet.parsed.tcp_flags & tcp_flag::SYN != 0)),
        payload: packet.payload as u32,
        direction: packet.seen.direction as u8,
        flags: match packet.parsed.tcp_flags & tcp_flag::URG {
            0 => 0,
            _ => Head::URGENT,
        },
        ..Head::default()
    }
}

/// The ports of first fragments, for the fragments that follow.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    recent: HashMap<FragmentKey, u32, Multilinear>,
    before: HashMap<FragmentKey, u32, Multilinear>,
}

/// A frame with zeros for octets that were not captured, as the kernel is handed it: the quote in an ICMP
/// error is often cut off.
struct Filled<'a>(&'a Frame<'a>);

impl packet::Packet for Filled<'_> {
    #[inline]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset + N > self.0.len() {
            return None;
        }
        let there = self.0.from(offset);
        let there = &there[..there.len().min(N)];
        let mut octets = [0; N];
        octets[..there.len()].copy_from_slice(there);
        Some(octets)
    }
}

impl Fragments {
    /// Half of the room of the kernel's map: of both maps the older one is forgotten.
    const GENERATION: usize = 2_048;

    /// The key of a frame's flow.
    #[inline]
    pub(super) fn key(&mut self, seen: &Seen<'_>, parsed: &Parsed) -> FlowKey {
        let frame = Filled(&seen.frame);
        let key = key_of(&frame, parsed, seen.direction, seen.place.ifindex());
        let piece = |identification| FragmentKey {
            flow: key.with_ports(0),
            identification,
            direction: seen.direction as u32,
        };
        // Nothing is refused here: every error is about a connection that passes.
        let key = match parsed.piece {
            Piece::Whole | Piece::First
                if quoted(&frame, parsed.transport_offset, &key, seen.direction).is_some() =>
            {
                key.about_allowed(seen.direction)
            }
            _ => key,
        };
        match parsed.fragment() {
            Fragment::Whole => key,
            Fragment::First(identification) => {
                if self.recent.len() >= Self::GENERATION {
                    self.before = std::mem::take(&mut self.recent);
                }
                self.recent.insert(piece(identification), key.ports());
                key
            }
            Fragment::Later(identification) => {
                let piece = piece(identification);
                let ports = self.recent.get(&piece).or_else(|| self.before.get(&piece));
                key.with_ports(ports.copied().unwrap_or(0))
            }
        }
    }
}

impl Seen<'_> {
    /// The packet and the bytes that the wire carried for it.
    pub(super) fn wire(&self) -> Tally {
        Tally {
            packets: 1,
            bytes: self.frame.len() as u64,
        }
    }
}
