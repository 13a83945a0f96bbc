//! The books: one reading of the kernel's tables.
//!
//! The counters themselves live in the kernel's tables; this module keeps one reading of them, summed by device
//! and by interface. A device's total is its live flows, its reaped flows and its overflow; an interface's is
//! that plus the packets that no device owns.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use sensor_ebpf::{
    answer::limit::Silence,
    assembly::Unassembled,
    books::{
        self, ByDirection as Both, DeviceRecord, FAMILIES, FAMILY_NAMES, FURTHER_DEVICES, Hit,
        HitKey, MULTICAST_DEVICE, Way,
    },
    flow::{Direction, FlowKey, FlowRecord},
    parse::{Address, Family, Mac, icmp, protocol},
    policy::{Layer, Verdict},
    sample::Kind,
    skip::Skip,
};

use crate::{
    model::{
        ByDirection, Device, DeviceTable, FamilyBooks, Flow, FlowFacts, FlowTable, FlowsRefused,
        Hook, Interface, PolicyHits, PolicyState, Ring, SampleCounts, Snapshot, Tally, Ticks,
        history::Counts,
    },
    policy::Action,
    record::{
        self, Clock, DeviceReading, FlowCounts, FlowSums, InterfaceReading, OfFlows, Record, Tables,
    },
};

/// One reading of the tables, being put together.
///
/// Its tables are as large as the kernel's, which are bounded by the configuration.
#[derive(Debug, Default)]
pub(super) struct Reading {
    tables: Option<Tables>,
    policies: HashMap<u16, String>,
    interfaces: BTreeMap<u32, (Box<InterfaceReading>, Both<books::Tally>)>,
    devices: BTreeMap<u32, (DeviceReading, OfFlows)>,
    hits: BTreeMap<HitsOf, (Both<books::Tally>, u64)>,
    live_flows: u64,
}

/// The key of hits: MAC address, policy, verdict and layer.
type HitsOf = ([u8; 6], u16, u8, u8);

impl Reading {
    /// Takes one record.
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Tables(tables) => {
                *self = Self {
                    tables: Some(*tables),
                    ..Self::default()
                };
            }
            Record::Policy(policy) => {
                self.policies.insert(policy.identity, policy.name);
            }
            Record::Interface(reading) => {
                self.interfaces
                    .insert(reading.number, (reading, Both::default()));
            }
            Record::Device(reading) => {
                self.devices
                    .insert(reading.number, (reading, OfFlows::default()));
            }
            Record::Flow(_, flow) => self.flow(&flow),
            Record::Steady(sums) => self.steady(&sums),
            Record::Hits(key, tally) => self.hits(key, tally),
            // Its counts are in the records of its device and its interface by now.
            Record::Reaped(..) | Record::Discarded(_) | Record::Left(..) => {}
            // The daemon logs the flows that policies matched; the counts are in the hits.
            Record::Judged(_) | Record::Sample(_) => {}
        }
    }

    fn flow(&mut self, flow: &FlowRecord) {
        let flow = FlowCounts::from(flow);
        self.live_flows += 1;
        if let Some((_, tallies)) = self.interfaces.get_mut(&flow.interface) {
            record::add(tallies, flow.wire);
        }
        if let Some((_, flows)) = self.devices.get_mut(&flow.device) {
            flows.add(&flow);
        }
    }

    fn steady(&mut self, sums: &FlowSums) {
        self.live_flows += sums.flows;
        for (number, (_, tallies)) in &mut self.interfaces {
            if let Some(more) = sums.interfaces.get(*number as usize) {
                record::add(tallies, *more);
            }
        }
        for (number, (_, flows)) in &mut self.devices {
            if let Some(more) = sums.devices.get(*number as usize) {
                flows.join(more);
            }
        }
    }

    fn hits(&mut self, key: HitKey, hit: Hit) {
        let (both, decided) = self
            .hits
            .entry((key.mac, key.policy, key.verdict, key.layer))
            .or_default();
        let sum = &mut both[usize::from(key.direction & 1)];
        *sum = plus(*sum, hit.wire);
        *decided += hit.decided;
    }

    /// The reading as a snapshot. The ticks are the daemon's own: no table knows them.
    pub(super) fn snapshot(&self, ticks: Ticks) -> Snapshot {
        let Some(tables) = self.tables else {
            return Snapshot::default();
        };
        let interfaces: Vec<_> = self.interfaces.values().map(interface).collect();
        let overflow = |interface: &Interface| {
            interface.overflow.upload.packets + interface.overflow.download.packets
        };
        Snapshot {
            unbooked_packets: tables.losses.interface_unknown,
            flow_table: FlowTable {
                size: self.live_flows,
                capacity: tables.flow_capacity.into(),
                reaped: tables.reaped,
                refused: FlowsRefused {
                    table_full: tables.losses.flow_table_full,
                    share_used: tables.losses.flow_share_used,
                    index_full: tables.losses.flow_index_full,
                },
                overflow_packets: interfaces.iter().map(overflow).sum(),
            },
            device_table: DeviceTable {
                size: self
                    .devices
                    .keys()
                    .filter(|number| is_device(**number))
                    .count() as u64,
                capacity: tables.device_capacity.into(),
                settled: self
                    .devices
                    .values()
                    .filter(|(reading, _)| is_device(reading.number) && reading.record.settled != 0)
                    .count() as u64,
                overflow_packets: tables.losses.device_table_full,
                hits_lost: tables.losses.hit_table_full,
            },
            ring: Ring {
                samples: Kind::ALL
                    .iter()
                    .enumerate()
                    .map(|(number, kind)| SampleCounts {
                        kind: kind.name(),
                        taken: tables.losses.samples[number],
                        shed: tables.losses.samples_shed[number],
                        suppressed: tables.losses.samples_suppressed[number],
                        lost: tables.losses.samples_lost[number],
                    })
                    .collect(),
            },
            policy: PolicyState {
                generation: tables.generation,
                policies: tables.policies,
                prefixes: tables.prefixes,
                names: tables.names,
                held: tables.losses.held,
                hold_expired: tables.losses.hold_expired,
                unassembled: Unassembled::ALL
                    .map(|reason| (reason.name(), tables.losses.unassembled[reason as usize]))
                    .into(),
                kernel_quic: tables.opens_initials.name(),
                lists: Vec::new(),
                reloads: tables.reloads,
                reloads_refused: tables.reloads_refused,
                devices_left_out: 0,
                pauses: Vec::new(),
            },
            ticks,
            devices: self
                .devices
                .values()
                .filter_map(|of| device(of, tables.clock))
                .collect(),
            policy_hits: self.policy_hits(),
            interfaces,
            ..Snapshot::default()
        }
    }

    /// The devices: number, record, and everything that was counted for it.
    pub(super) fn positions(&self) -> impl Iterator<Item = (u32, &DeviceRecord, Counts)> {
        self.devices.values().map(|(reading, flows)| {
            let record = &reading.record;
            let mut counts = Counts::default();
            for family in 0..FAMILIES {
                for direction in 0..2 {
                    let of_flows = plus(
                        flows.tallies[family][direction],
                        record.retired[family][direction],
                    );
                    let sum = plus(of_flows, record.overflow[family][direction]);
                    counts.bytes[direction] += sum.bytes;
                    counts.packets[direction] += sum.packets;
                    counts.flows +=
                        flows.opened[family][direction] + record.retired_flows[family][direction];
                }
            }
            (reading.number, record, counts)
        })
    }

    /// The name of a policy by its identity, if the reading has it.
    pub(super) fn name_of(&self, identity: u16) -> Option<&str> {
        self.policies.get(&identity).map(String::as_str)
    }

    /// The name of a policy by its identity.
    pub(super) fn policy_name(&self, identity: u16) -> String {
        let name = self.policies.get(&identity).cloned();
        name.unwrap_or_else(|| identity.to_string())
    }

    fn policy_hits(&self) -> Vec<PolicyHits> {
        self.hits
            .iter()
            .map(
                |((mac, policy, verdict, layer), (hits, decided))| PolicyHits {
                    device: match mac {
                        // Of devices that share a record, and of those that left.
                        [0, 0, 0, 0, 0, 0] => OTHER.to_owned(),
                        mac => Mac::new(*mac).to_string(),
                    },
                    policy: self.policy_name(*policy),
                    action: action(Verdict::from_number(*verdict)),
                    layer: Layer::from_number(*layer).name(),
                    decided: *decided,
                    hits: both(*hits),
                },
            )
            .collect()
    }
}

/// The action of a policy by the verdict it leads to.
pub fn action(verdict: Verdict) -> &'static str {
    Action::from(verdict).name()
}

/// Whether a record is that of one device, and not shared.
pub(super) const fn is_device(number: u32) -> bool {
    number != MULTICAST_DEVICE && number != FURTHER_DEVICES
}

const fn plus(left: books::Tally, right: books::Tally) -> books::Tally {
    books::Tally {
        packets: left.packets + right.packets,
        bytes: left.bytes + right.bytes,
    }
}

const fn tally(tally: books::Tally) -> Tally {
    Tally {
        packets: tally.packets,
        bytes: tally.bytes,
    }
}

const fn both([upload, download]: Both<books::Tally>) -> ByDirection<Tally> {
    ByDirection {
        upload: tally(upload),
        download: tally(download),
    }
}

/// An end of a flow: address and port, the address alone where there are no ports, nothing where
/// it is not IP.
pub(super) fn end(key: &FlowKey, address: Address, port: u16) -> String {
    let is_shown = match key.protocol() {
        // The message's type, where its receiver's port would be.
        protocol::ICMP | protocol::ICMPV6 => !matches!(port, 0 | icmp::VITAL),
        number => has_ports(number),
    };
    match (super::ip_of(key, address), is_shown) {
        (None, _) => String::new(),
        (Some(address), true) => SocketAddr::new(address, port).to_string(),
        (Some(address), false) => address.to_string(),
    }
}

/// The other side of a flow: address and port, or the address alone where there are no ports.
pub fn remote_end(key: &FlowKey) -> String {
    end(key, key.remote(), key.remote_port())
}

/// A flow as lists show it. `interface` and `policy` are the names of its numbers.
pub fn flow(
    record: &FlowRecord,
    interface: String,
    policy: Option<String>,
    facts: FlowFacts,
    clock: Clock,
) -> Flow {
    let key = &record.key;
    let verdict = record.judgement().decision.verdict;
    Flow {
        device: key.mac().to_string(),
        device_name: None,
        interface,
        protocol: match key.family() {
            Family::Other => format!("{:#06x}", key.remote_port()),
            Family::V4 | Family::V6 => protocol_text(key.protocol()),
        },
        local: end(key, key.local(), key.local_port()),
        remote: end(key, key.remote(), key.remote_port()),
        facts,
        traffic: ByDirection {
            upload: Tally {
                packets: record.upload_packets,
                bytes: record.upload_bytes,
            },
            download: Tally {
                packets: record.download_packets,
                bytes: record.download_bytes,
            },
        },
        opened_by: Direction::ALL[usize::from(record.opened_by & 1)].name(),
        tcp_flags: ByDirection {
            upload: record.tcp_flags[0],
            download: record.tcp_flags[1],
        },
        verdict: match verdict {
            Verdict::Pass | Verdict::Allow => "pass",
            Verdict::Reject => "reject",
            Verdict::Drop => "drop",
        },
        policy,
        first_seen: clock.unix_seconds(record.first_seen),
        last_seen: clock.unix_seconds(record.last_seen),
    }
}

const fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP)
}

/// A protocol by its name where it is a common one (IANA's keyword in lower case).
fn protocol_text(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        number => number.to_string(),
    }
}

/// The name of the shared record of devices.
const OTHER: &str = "other";

/// A device's books; `None` for the shared records while they hold nothing.
fn device((reading, flows): &(DeviceReading, OfFlows), clock: Clock) -> Option<Device> {
    let record = &reading.record;
    let mut families = BTreeMap::new();
    for (family, name) in FAMILY_NAMES.into_iter().enumerate() {
        let sum = |direction: Direction| {
            let direction = direction as usize;
            plus(
                plus(
                    flows.tallies[family][direction],
                    record.retired[family][direction],
                ),
                record.overflow[family][direction],
            )
        };
        let opened = |direction: Direction| {
            let direction = direction as usize;
            flows.opened[family][direction] + record.retired_flows[family][direction]
        };
        let books = FamilyBooks {
            traffic: both([sum(Direction::Upload), sum(Direction::Download)]),
            flows: ByDirection {
                upload: opened(Direction::Upload),
                download: opened(Direction::Download),
            },
            overflow: match reading.number {
                // No flow is ever made for a group: the record is where it belongs.
                MULTICAST_DEVICE => ByDirection::default(),
                _ => both(record.overflow[family]),
            },
        };
        if books != FamilyBooks::default() {
            families.insert(name, books);
        }
    }
    let name = match reading.number {
        MULTICAST_DEVICE => "multicast".to_owned(),
        FURTHER_DEVICES => OTHER.to_owned(),
        _ => Mac::from_word(record.mac).to_string(),
    };
    if families.is_empty() && !is_device(reading.number) {
        return None;
    }
    // Nobody notes when the first packet of several devices came.
    let time = |jiffies| match jiffies {
        0 => 0.0,
        jiffies => clock.unix_seconds(jiffies),
    };
    Some(Device {
        device: name,
        mac: is_device(reading.number).then(|| Mac::from_word(record.mac)),
        families,
        live_flows: flows.opened.as_flattened().iter().sum(),
        settled: record.settled != 0,
        first_seen: time(record.first_seen),
        last_seen: time(record.last_seen.max(flows.last_seen)),
        ..Device::default()
    })
}

/// An interface's books.
fn interface((reading, live): &(Box<InterfaceReading>, Both<books::Tally>)) -> Interface {
    let record = &reading.record;
    let end = record
        .name
        .iter()
        .position(|octet| *octet == 0)
        .unwrap_or(record.name.len());
    let flows = [
        plus(live[0], record.retired[0]),
        plus(live[1], record.retired[1]),
    ];
    let mut seen = [
        plus(flows[0], record.overflow[0]),
        plus(flows[1], record.overflow[1]),
    ];
    let mut skipped = BTreeMap::new();
    for reason in Skip::ALL {
        let by_direction = [0, 1].map(|direction| record.skipped[direction][reason as usize]);
        for (sum, tally) in seen.iter_mut().zip(by_direction) {
            *sum = plus(*sum, tally);
        }
        skipped.insert(reason.name(), both(by_direction));
    }
    let download = &mut seen[Direction::Download as usize];
    *download = plus(plus(*download, record.multicast), record.refused);
    Interface {
        interface: String::from_utf8_lossy(&record.name[..end]).into_owned(),
        ifindex: record.ifindex,
        hooks: ByDirection {
            upload: Hook::from_number(record.hooks[0]),
            download: Hook::from_number(record.hooks[1]),
        },
        seen: both(seen),
        flows: both(flows),
        overflow: both(record.overflow),
        multicast: tally(record.multicast),
        skipped,
        refused: tally(record.refused),
        answered: tally(record.answered),
        replaced: tally(record.replaced),
        answers_failed: record.answers_failed,
        silent: Silence::ALL
            .map(|reason| (reason.name(), record.silent[reason as usize]))
            .into(),
        is_noted: record.way == Way::Note as u64,
        ..Interface::default()
    }
}
