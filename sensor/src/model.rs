//! What sinks read: plain data, made by the aggregate at every tick.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use sensor_ebpf::parse::Mac;
use serde::{Deserialize, Serialize};

/// Everything that was known at one moment. Counters never step back while the kernel's tables
/// live; they outlive the daemon.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// One entry for each device, and `multicast` and `other` where they have traffic.
    pub devices: Vec<Device>,
    /// One entry for each interface that was ever attached.
    pub interfaces: Vec<Interface>,
    /// Packets to which a policy applied.
    pub policy_hits: Vec<PolicyHits>,
    /// Packets seen on an interface that has no record: the only ones that no book has.
    pub unbooked_packets: u64,
    /// The flow table.
    pub flow_table: FlowTable,
    /// Device table: devices known, capacity, and packets of devices without a place.
    pub device_table: DeviceTable,
    /// The sample ring.
    pub ring: Ring,
    /// The policy in force.
    pub policy: PolicyState,
    /// The parties that some device has a series for, and `other`.
    pub parties: Vec<Party>,
    /// What could not be decoded.
    pub decode_failures: Vec<DecodeFailures>,
    /// The tables of names.
    pub names: NameTables,
    /// Names that are judged outside of the kernel.
    pub judging: Judging,
    /// HTTP connections that were closed or could not be accepted, and requests that were refused, since
    /// the daemon started, by reason.
    pub http_failures: BTreeMap<&'static str, u64>,
    /// Calls about the kernel's maps that failed since the daemon started, by map.
    pub map_failures: BTreeMap<&'static str, u64>,
    /// Slots of the flow table in which no flow could be, since the daemon started.
    pub damaged_flows: u64,
    /// Whether the machine's clock is not set yet: no policy with a schedule is in force then.
    pub is_time_unknown: bool,
    /// What `sensor block` and `allow` said and still holds, the newest last.
    pub commands: Vec<Said>,
    /// The ticks so far.
    pub ticks: Ticks,
}

impl Snapshot {
    /// Adds to the times of devices, which are in steady time, what makes them the wall clock's.
    pub fn add_to_times(&mut self, offset: f64) {
        for device in &mut self.devices {
            for time in [&mut device.first_seen, &mut device.last_seen] {
                // 0 is not known.
                if *time != 0.0 {
                    *time += offset;
                }
            }
        }
    }
}

/// What a command said of a name and everything below it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Said {
    /// The name.
    pub name: String,
    /// `blocked` or `allowed`.
    pub is: &'static str,
    /// For which devices, as they are typed; `None`: all.
    pub devices: Option<String>,
    /// Seconds since the Unix epoch of the command.
    pub since: f64,
    /// Seconds since the Unix epoch at which it is over; `None`: when it is taken back.
    pub until: Option<f64>,
    /// Seconds for which it holds from when the machine's clock is set, where it was booted meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<f64>,
}

/// `upload` leaves the device, `download` reaches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ByDirection<T> {
    /// Leaves the device.
    pub upload: T,
    /// Reaches the device.
    pub download: T,
}

/// Packets and octets as they were on the wire, Ethernet header included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Octets.
    pub bytes: u64,
}

/// A device on the LAN side.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Device {
    /// Its MAC address in lower case with colons; `multicast` for frames to groups, `other` for
    /// all devices the table had no place for.
    pub device: String,
    /// The same address as a number; `None` for the shared records.
    #[serde(skip)]
    pub mac: Option<Mac>,
    /// Who it is.
    #[serde(flatten)]
    pub identity: Conclusion,
    /// The device, by its MAC address, that probably had this random address put on: the same host
    /// name and the same way to ask for an address, and not seen at the same time.
    pub probably_same_as: Option<String>,
    /// The addresses that it sent from, the most recent ones first.
    pub addresses: Vec<IpAddr>,
    /// Books by family: `ipv4`, `ipv6`, `other`.
    pub families: BTreeMap<&'static str, FamilyBooks>,
    /// Whom it exchanged most with since the daemon started, by name, and `other` last.
    pub parties: Vec<PartyTraffic>,
    /// Octets of flows whose name is hidden, by reason, since the daemon started.
    pub hidden: BTreeMap<&'static str, ByDirection<u64>>,
    /// Octets of flows that lists have a category for, since the daemon started.
    pub categories: BTreeMap<&'static str, ByDirection<u64>>,
    /// Flows that are in the table now.
    pub live_flows: u64,
    /// Servers answered it on two days, or the configuration names it.
    pub settled: bool,
    /// Seconds since the Unix epoch of the first packet; 0: not known, as of a record that several devices share.
    pub first_seen: f64,
    /// Seconds since the Unix epoch of the last packet; 0: not known.
    pub last_seen: f64,
}

/// What a device exchanged with one party since the daemon started.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PartyTraffic {
    /// The registrable domain, the address where there is no name, `local`, or `other`.
    pub party: String,
    /// `telemetry`, `advertising`, `dns-bypass` or `never-block`: one domain is several parties
    /// where lists tell its names apart.
    pub category: Option<&'static str>,
    /// Octets since the party has a series of its own; of `other`, all that is in no such series.
    pub bytes: ByDirection<u64>,
    /// Flows by the direction of their first packet, counted as `bytes` is.
    pub flows: ByDirection<u64>,
    /// All octets; of `other`, those of all parties that have no series.
    pub bytes_in_all: ByDirection<u64>,
    /// All flows, counted as `bytes_in_all` is.
    pub flows_in_all: ByDirection<u64>,
}

/// What is known of a party.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Party {
    /// As in [`PartyTraffic`].
    pub party: String,
    /// As in [`PartyTraffic`].
    pub category: Option<&'static str>,
    /// Who it belongs to.
    pub owner: Option<String>,
    /// The country of its first address, two capital letters (ISO 3166-1).
    pub country: Option<String>,
    /// The number of the autonomous system of its first address.
    pub asn: Option<u32>,
    /// Who runs that.
    pub organisation: Option<String>,
}

/// Payloads that could not be decoded.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DecodeFailures {
    /// By which decoder.
    pub decoder: &'static str,
    /// Why.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

/// The tables of names, and what they had no room for.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct NameTables {
    /// Names in the lists.
    pub list_names: u64,
    /// Addresses, keys and questions of devices that left to make room for others of the same device, or of
    /// one with less.
    pub addresses_evicted: u64,
    /// Names at addresses that left to make room, or found none.
    pub names_evicted: u64,
    /// Parties.
    pub parties: u64,
    /// Parties of devices that left to make room for others: what goes on there is booked to `other`.
    pub parties_refused: u64,
    /// Facts about devices for which there was no room.
    pub devices_refused: u64,
}

/// Names that are judged outside of the kernel, since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judging {
    /// From the copy of a payload to the verdict in its flow.
    pub latency: Latency,
    /// Flows that policies by name are about and that could not be judged.
    pub unread: Vec<UnreadFlows>,
    /// Records of what was heard that were lost, because those who count were behind.
    pub records_lost: u64,
    /// Servers of refused connections that could not be told: they wait until they lose patience.
    pub resets_failed: u64,
    /// Payloads that were read in part.
    pub cut: CutPayloads,
}

/// Payloads that came in several pieces and of which the rest was given up, by the reason. What was there of
/// them is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CutPayloads {
    /// Their device had as many in pieces at a time as one may.
    pub share_used: u64,
    /// All devices together had.
    pub no_room: u64,
    /// The rest did not come in time.
    pub rest_late: u64,
    /// A piece between others was missing.
    pub piece_lost: u64,
}

/// How long verdicts took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// How many took at most as long as the bound in the same place, and longer than the one before;
    /// the last are those that took longer than any.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// All of them together.
    pub total: Duration,
}

impl Latency {
    /// The bounds of the counts.
    pub const BOUNDS: [Duration; 10] = [
        Duration::from_micros(50),
        Duration::from_micros(100),
        Duration::from_micros(200),
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_millis(2),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(20),
        Duration::from_millis(50),
    ];

    /// Counts one.
    pub fn add(&mut self, took: Duration) {
        let place = Self::BOUNDS.partition_point(|bound| *bound < took);
        self.counts[place] += 1;
        self.total += took;
    }
}

/// Flows that could not be judged by their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UnreadFlows {
    /// Why: a reason of [`DecodeFailures`], `unknown-version`, `encrypted-hello`,
    /// `several-questions`, `compressed-question` or `urgent`.
    pub reason: &'static str,
    /// Where a name was looked for: `dns`, `tls`, `quic` or `http`.
    pub layer: &'static str,
    /// How many.
    pub count: u64,
}

/// What one family of one device amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FamilyBooks {
    /// Packets and octets.
    pub traffic: ByDirection<Tally>,
    /// Flows by the direction of their first packet.
    pub flows: ByDirection<u64>,
    /// The part of `traffic` for which there was no place in the flow table.
    pub overflow: ByDirection<Tally>,
}

/// A LAN-facing interface.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Interface {
    /// Its name, as the configuration has it.
    pub interface: String,
    /// The kernel's number of it; 0 while it is gone.
    pub ifindex: u32,
    /// Where the programs sit.
    pub hooks: ByDirection<Hook>,
    /// All that was seen: flows, overflow, multicast, skipped and refused together.
    pub seen: ByDirection<Tally>,
    /// What was booked to flows, alive or reaped.
    pub flows: ByDirection<Tally>,
    /// What had no flow.
    pub overflow: ByDirection<Tally>,
    /// Frames to group addresses.
    pub multicast: Tally,
    /// Frames not accounted to a device, by reason.
    pub skipped: BTreeMap<&'static str, ByDirection<Tally>>,
    /// Downloads that were refused before they reached the device.
    pub refused: Tally,
    /// Packets that the sensor itself sent to devices.
    pub answered: Tally,
    /// Packets that the sensor sent to devices in the place of refused downloads.
    pub replaced: Tally,
    /// Refused packets for which no answer could be sent.
    pub answers_failed: u64,
    /// Refused packets that were not answered because a limit was reached, by reason.
    pub silent: BTreeMap<&'static str, u64>,
    /// Whether XDP hands what it refuses on to TC, which answers.
    pub is_noted: bool,
    /// Its driver, where that tells its name.
    pub driver: Option<String>,
    /// What else is to be known about it, for people: who stands before the sensor's programs.
    pub notes: Vec<String>,
}

impl Interface {
    /// By which way answers to what devices send leave; `None` while there is no upload program.
    pub const fn answers(&self) -> Option<&'static str> {
        match self.hooks.upload {
            Hook::None => None,
            Hook::XdpNative | Hook::XdpGeneric if self.is_noted => {
                Some("TC, to which XDP hands what it refuses")
            }
            Hook::XdpNative | Hook::XdpGeneric => Some("XDP"),
            Hook::Tcx | Hook::Clsact => Some("TC"),
        }
    }
}

/// Where a program sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Not attached: the interface is gone.
    #[default]
    None,
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack.
    XdpGeneric,
    /// TC by a BPF link (kernel 6.6 and newer).
    Tcx,
    /// TC by a clsact queueing discipline.
    Clsact,
}

impl Hook {
    /// The number by which an interface's record stores it.
    pub const fn number(self) -> u16 {
        match self {
            Self::None => 0,
            Self::XdpNative => 1,
            Self::XdpGeneric => 2,
            Self::Tcx => 3,
            Self::Clsact => 4,
        }
    }

    /// The hook that an interface's record stores.
    pub const fn from_number(number: u16) -> Self {
        match number {
            1 => Self::XdpNative,
            2 => Self::XdpGeneric,
            3 => Self::Tcx,
            4 => Self::Clsact,
            _ => Self::None,
        }
    }

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// How often a policy applied to packets of a device.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PolicyHits {
    /// The device's MAC address.
    pub device: String,
    /// The policy's name.
    pub policy: String,
    /// `observe`, `allow`, `reject` or `drop`.
    pub action: &'static str,
    /// What told it: `address`, `dns`, `tls`, `quic` or `http`.
    pub layer: &'static str,
    /// Flows and DNS questions about which it decided.
    pub decided: u64,
    /// By direction.
    pub hits: ByDirection<Tally>,
}

/// The flow table.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct FlowTable {
    /// Flows in it.
    pub size: u64,
    /// Flows it has room for.
    pub capacity: u64,
    /// Flows reaped since the tables were made.
    pub reaped: u64,
    /// New flows refused, by reason.
    pub refused: FlowsRefused,
    /// Packets booked to a device's overflow record.
    pub overflow_packets: u64,
}

/// Why there was no place for a flow.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct FlowsRefused {
    /// No slot was free.
    pub table_full: u64,
    /// The device had its share of the table.
    pub share_used: u64,
    /// The index had no room near the flow's hash.
    pub index_full: u64,
}

/// The device table.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DeviceTable {
    /// Devices in it.
    pub size: u64,
    /// Devices it has room for.
    pub capacity: u64,
    /// Devices in it that are settled: servers answered them on two days, or the configuration names them.
    pub settled: u64,
    /// Packets of devices without a place.
    pub overflow_packets: u64,
    /// How often hits could not be counted because the hit table was full: each time a packet, a decision, or all
    /// that a flow carried in one direction under a decision.
    pub hits_lost: u64,
}

/// The sample ring.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ring {
    /// By what samples were taken for.
    pub samples: Vec<SampleCounts>,
}

/// Samples of one kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SampleCounts {
    /// What they were taken for.
    pub kind: &'static str,
    /// Put into the ring.
    pub taken: u64,
    /// Left out because their device had its share of the ring, or the ring was too full for their kind.
    pub shed: u64,
    /// Refused questions that were not told because one for the same name by the same device just was.
    pub suppressed: u64,
    /// Lost because the ring had no room.
    pub lost: u64,
}

/// The policy in force.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PolicyState {
    /// The generation number; a flow judged under another one is judged again.
    pub generation: u32,
    /// Policies in force.
    pub policies: u64,
    /// Prefixes in force, both families.
    pub prefixes: u64,
    /// Names in force.
    pub names: u64,
    /// Packets of servers that waited for the verdict on a name.
    pub held: u64,
    /// Flows whose time to wait was over before there was a verdict.
    pub hold_expired: u64,
    /// The files that policies may ask.
    pub lists: Vec<PolicyList>,
    /// Reloads that took effect since the tables were made.
    pub reloads: u64,
    /// Reloads that were refused since the tables were made.
    pub reloads_refused: u64,
    /// Devices whose own rules have no place in the kernel: they have those of everybody.
    pub devices_left_out: u64,
}

/// A file that policies may ask: a list, or a database of networks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PolicyList {
    /// The file.
    pub list: String,
    /// Names in it that are used; `None`: it is no list.
    pub names: Option<u64>,
    /// Lines that are not used; `None`: it is no list.
    pub bad_lines: Option<u64>,
    /// When the file was written, in seconds since the Unix epoch; 0 where it could never be read.
    pub modified: f64,
    /// It could not be read the last time: what it had before, if anything, is in force.
    pub kept: bool,
    /// It has no place in the kernel's tables: nothing of it is in force but its exceptions.
    pub left_out: bool,
}

/// The ticks so far.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Ticks {
    /// How many.
    pub count: u64,
    /// CPU time of all of them.
    pub total: Duration,
    /// The last one.
    pub last: Duration,
}

/// One flow, for those who list them.
#[derive(Clone, Debug, Serialize)]
pub struct Flow {
    /// The device's MAC address.
    pub device: String,
    /// The device's name, where it has one.
    pub device_name: Option<String>,
    /// The interface's name.
    pub interface: String,
    /// `tcp`, `udp`, … or the number; for frames that are not IP, `0x` and the ethertype.
    pub protocol: String,
    /// The device's address and port.
    pub local: String,
    /// The other side's address and port.
    pub remote: String,
    /// Packets and octets.
    pub traffic: ByDirection<Tally>,
    /// The direction of the first packet.
    pub opened_by: &'static str,
    /// All TCP flags seen, as RFC 9293's bits.
    pub tcp_flags: ByDirection<u8>,
    /// What it told, and whom it is with.
    #[serde(flatten)]
    pub facts: FlowFacts,
    /// `pass`, `reject` or `drop`.
    pub verdict: &'static str,
    /// The policy that matched.
    pub policy: Option<String>,
    /// Seconds since the Unix epoch.
    pub first_seen: f64,
    /// Seconds since the Unix epoch.
    pub last_seen: f64,
}

/// What a flow told, and whom it is with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowFacts {
    /// The name of the other side, in lower case.
    pub name: Option<String>,
    /// Where the name is from: `tls`, `quic`, `http` or `dns`.
    pub name_source: Option<&'static str>,
    /// The name is from a DNS answer that another device got.
    pub name_by_another: bool,
    /// The application protocols that its hello offers.
    pub alpn: Option<Vec<String>>,
    /// Its hello is encrypted (ECH); the name is the one it is wrapped in.
    pub ech: bool,
    /// The version of QUIC, for example `1`, `draft-29`, `Q046`.
    pub quic_version: Option<String>,
    /// As in [`PartyTraffic`]; `None` where the flow is not IP.
    pub party: Option<String>,
    /// Who the party belongs to.
    pub owner: Option<String>,
    /// `telemetry`, `advertising`, `dns-bypass` or `never-block`.
    pub category: Option<&'static str>,
    /// The country of the address, two capital letters (ISO 3166-1).
    pub country: Option<String>,
    /// The number of the autonomous system.
    pub asn: Option<u32>,
    /// Why the name is not known, or not all there is to know: `ech`, `encrypted-dns`, `vpn`,
    /// `plain-address`, `not-yet-seen`.
    pub hidden: Option<&'static str>,
    /// Why the flow could not be read, or a policy by name that is about the device could not judge
    /// it: as in [`UnreadFlows`]. `None` where the flow is refused.
    pub unread: Option<&'static str>,
}

/// A DNS question and its answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DnsQuestion {
    /// Who asked: address and port.
    pub client: String,
    /// Who was asked: address and port.
    pub server: String,
    /// The name, in lower case.
    pub name: String,
    /// The type, for example `AAAA`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The data of the answers, as text.
    pub answers: Vec<String>,
    /// The identifier that ties an answer to its question.
    #[serde(skip)]
    pub id: u16,
}

/// What a device is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A telephone.
    Phone,
    /// A tablet or an electronic book.
    Tablet,
    /// A computer that somebody works at, or a server.
    Computer,
    /// A television set, or what makes a screen one.
    Tv,
    /// Any other thing: loudspeaker, printer, lamp, camera, watch, game console.
    Iot,
    /// What others reach the network through: router, access point, repeater.
    Router,
    /// Nothing that was seen tells.
    #[default]
    Unknown,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::Phone,
        Self::Tablet,
        Self::Computer,
        Self::Tv,
        Self::Iot,
        Self::Router,
        Self::Unknown,
    ];

    /// The word for it in the configuration, in metrics and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Tablet => "tablet",
            Self::Computer => "computer",
            Self::Tv => "tv",
            Self::Iot => "iot",
            Self::Router => "router",
            Self::Unknown => "unknown",
        }
    }
}

/// Who a device is, as far as it can be told, and from what.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Conclusion {
    /// Its name for people, at most 64 characters.
    pub name: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// Whose name is on it; where that is not known, who made its network hardware.
    pub vendor: Option<String>,
    /// Its model, as it calls itself.
    pub model: Option<String>,
    /// Its operating system, with a version where one is known.
    pub system: Option<String>,
    /// Its MAC address is one that it made up.
    pub random_mac: bool,
    /// How many devices at least have this MAC address, as behind a repeater, itself among them; 0 where
    /// nothing tells of more than one.
    pub shared_by: u32,
    /// How sure `kind` is, 0 to 1; 0 where it is unknown.
    pub kind_confidence: f32,
    /// How sure `vendor` is, 0 to 1; 0 where there is none.
    pub vendor_confidence: f32,
    /// The lesser of the two, of those that are known; 0 where neither is.
    pub confidence: f32,
    /// What all this was concluded from, the most trusted source first.
    pub evidence: Vec<EvidenceLine>,
}

impl Conclusion {
    /// The lesser confidence of kind and vendor, of those that are known; 0 where neither is.
    pub fn least_confidence(&self) -> f32 {
        let known = [
            (self.kind != Kind::Unknown, self.kind_confidence),
            (self.vendor.is_some(), self.vendor_confidence),
        ];
        let known = known.iter().filter(|(is_known, _)| *is_known);
        known
            .map(|(_, sure)| *sure)
            .reduce(f32::min)
            .unwrap_or_default()
    }
}

/// One thing that was seen of a device, and one thing that it suggests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvidenceLine {
    /// Where it was seen, for example `dhcp-host-name`.
    pub source: &'static str,
    /// What was seen, for example `Annas-iPhone`; at most 128 octets.
    pub value: String,
    /// What it is about: `name`, `kind`, `vendor`, `model` or `system`.
    pub about: &'static str,
    /// What it suggests, for example `phone`.
    pub suggests: String,
    /// How much it counts, 0 to 1.
    pub weight: f32,
}
