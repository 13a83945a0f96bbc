//! The data that sinks read: plain structs, made by the aggregate at every tick.

pub mod echo;
pub mod history;
pub(crate) mod word;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use sensor_ebpf::parse::Mac;
use serde::{Deserialize, Serialize};

pub use word::Word;

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
    /// Payloads that could not be decoded.
    pub decode_failures: Vec<DecodeFailures>,
    /// The tables of names.
    pub names: NameTables,
    /// Names that are judged outside of the kernel.
    pub judging: Judging,
    /// HTTP connections that were closed or could not be accepted, and requests that were refused, by reason,
    /// since the daemon started.
    pub http_failures: BTreeMap<&'static str, u64>,
    /// Calls about the kernel's maps that failed since the daemon started, by map.
    pub map_failures: BTreeMap<&'static str, u64>,
    /// Slots of the flow table with content that no flow can have, since the daemon started.
    pub damaged_flows: u64,
    /// Whether the machine's clock is not set yet: until then no policy with a schedule is in force.
    pub is_time_unknown: bool,
    /// The commands `sensor block` and `allow` that still hold, the newest last.
    pub commands: Vec<OverrideState>,
    /// The store of the history; `None` where there is none.
    pub history: Option<history::StoreState>,
    /// The echoes of devices of which there are marks.
    pub echoes: Vec<echo::DeviceEchoes>,
    /// The ticks so far.
    pub ticks: Ticks,
}

impl Snapshot {
    /// Turns the times of devices and echoes from steady time into the wall clock's, which is ahead by `offset`.
    pub fn add_to_times(&mut self, offset: f64) {
        for device in &mut self.devices {
            for time in [&mut device.first_seen, &mut device.last_seen] {
                // 0: not known.
                if *time != 0.0 {
                    *time += offset;
                }
            }
        }
        for echoes in &mut self.echoes {
            echoes.add_to_times(offset);
        }
    }
}

/// The block or the exception that a command set for a name and everything below it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverrideState {
    /// The name.
    pub name: String,
    /// `blocked` or `allowed`.
    #[serde(deserialize_with = "word::one")]
    pub is: Word,
    /// The devices that it is for, as they were typed; `None`: all.
    pub devices: Option<String>,
    /// Seconds since the Unix epoch of the command.
    pub since: f64,
    /// Seconds since the Unix epoch at which it ends; `None`: when a command takes it back.
    pub until: Option<f64>,
    /// Seconds for which it holds once the machine's clock is set, if the machine was booted meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<f64>,
}

/// A time in which policies refuse nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// The devices that it is for; `None`: all.
    pub devices: Option<String>,
    /// Seconds since the Unix epoch of the command.
    pub since: f64,
    /// Seconds since the Unix epoch at which it ends; `None`: when a command ends it.
    pub until: Option<f64>,
}

/// `upload` leaves the device, `download` reaches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByDirection<T> {
    /// Leaves the device.
    pub upload: T,
    /// Reaches the device.
    pub download: T,
}

/// Packets and bytes as they were on the wire, Ethernet header included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A device on the LAN side.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Device {
    /// Its MAC address in lower case with colons; `multicast` for frames to groups, `other` for
    /// all devices the table had no place for.
    pub device: String,
    /// The same address as a number; `None` for the shared records.
    #[serde(skip)]
    pub mac: Option<Mac>,
    /// The identity of the device.
    #[serde(flatten)]
    pub identity: Conclusion,
    /// The MAC address of the device that probably uses this random address: both send the same host name and
    /// ask for an address in the same way, and they were not seen at the same time.
    pub probably_same_as: Option<String>,
    /// The addresses that it sent from, the most recent first.
    pub addresses: Vec<IpAddr>,
    /// Books by family: `ipv4`, `ipv6`, `other`.
    #[serde(deserialize_with = "word::keys")]
    pub families: BTreeMap<Word, FamilyBooks>,
    /// The parties with which it exchanged most since the daemon started, by name, and `other` last. Snapshots
    /// share them while the device exchanges nothing.
    pub parties: Arc<[PartyTraffic]>,
    /// Bytes of flows whose name is hidden, by reason, since the daemon started.
    #[serde(deserialize_with = "word::keys")]
    pub hidden: BTreeMap<Word, ByDirection<u64>>,
    /// Bytes of flows for which the lists have a category, since the daemon started.
    #[serde(deserialize_with = "word::keys")]
    pub categories: BTreeMap<Word, ByDirection<u64>>,
    /// The refusals that it met since the daemon started, the latest first; filled where one device is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
    /// Flows that are in the table now.
    pub live_flows: u64,
    /// Whether servers answered it on two days, or the configuration names it.
    pub settled: bool,
    /// Seconds since the Unix epoch of the first packet; 0: not known, as in a record that devices share.
    pub first_seen: f64,
    /// Seconds since the Unix epoch of the last packet; 0: not known.
    pub last_seen: f64,
}

/// The traffic of a device with one party since the daemon started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PartyTraffic {
    /// The registrable domain, the address where there is no name, `local`, or `other`.
    pub party: String,
    /// `telemetry`, `advertising`, `dns-bypass` or `never-block`: one domain is several parties
    /// where lists tell its names apart.
    #[serde(deserialize_with = "word::maybe")]
    pub category: Option<Word>,
    /// Bytes while the party had a series of its own; for `other`, all bytes that are in no such series.
    pub bytes: ByDirection<u64>,
    /// Flows by the direction of their first packet, counted as `bytes` is.
    pub flows: ByDirection<u64>,
    /// All bytes; for `other`, those of all parties that have no series.
    pub bytes_in_all: ByDirection<u64>,
    /// All flows, counted as `bytes_in_all` is.
    pub flows_in_all: ByDirection<u64>,
}

/// A name or an address that was refused to a device of late.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// The name; the address and port of the other side where a flow told no name.
    pub what: String,
    /// The layer that refused it: `dns`, `tls`, `quic`, `http` or `address`.
    pub layer: String,
    /// The policy; `blocked` for a command.
    pub policy: String,
    /// `reject` or `drop`.
    pub action: String,
    /// The refused name to which a DNS answer (CNAME) led from this one.
    pub alias_of: Option<String>,
    /// The list that has the refused name.
    pub list: Option<String>,
    /// The line of the list, from 1.
    pub line: Option<u32>,
    /// How often it was refused.
    pub count: u64,
    /// Seconds since the Unix epoch of the last time.
    pub last: f64,
}

/// A device, and what was refused to it of late.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceRefused {
    /// Its MAC address, as in [`Device`].
    pub device: String,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The refusals, the latest first.
    pub refused: Vec<Refused>,
}

/// The facts known of a party.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Party {
    /// As in [`PartyTraffic`].
    pub party: String,
    /// As in [`PartyTraffic`].
    #[serde(deserialize_with = "word::maybe")]
    pub category: Option<Word>,
    /// The owner.
    pub owner: Option<String>,
    /// The country of its first address, two capital letters (ISO 3166-1).
    pub country: Option<String>,
    /// The number of the autonomous system of its first address.
    pub asn: Option<u32>,
    /// The organisation that runs this autonomous system.
    pub organisation: Option<String>,
}

/// Payloads that could not be decoded.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct DecodeFailures {
    /// The decoder.
    #[serde(deserialize_with = "word::one")]
    pub decoder: Word,
    /// The reason.
    #[serde(deserialize_with = "word::one")]
    pub reason: Word,
    /// How many.
    pub count: u64,
}

/// The tables of names, and the entries that they had no room for.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct NameTables {
    /// Names in the lists.
    pub list_names: u64,
    /// Addresses, keys, questions and aliases of devices, evicted to make room for others of the same device, or of one
    /// with less.
    pub addresses_evicted: u64,
    /// Names at addresses that were evicted to make room, or found none.
    pub names_evicted: u64,
    /// Refusals of devices that were forgotten to make room for later ones.
    pub refusals_evicted: u64,
    /// Parties.
    pub parties: u64,
    /// Parties of devices that were evicted to make room: their traffic is booked to `other`.
    pub parties_refused: u64,
    /// Facts about devices that found no room.
    pub devices_refused: u64,
}

/// Names that the daemon judges, outside of the kernel, since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judging {
    /// From the copy of a payload to the verdict in its flow.
    pub latency: Latency,
    /// Flows that policies by name apply to and that could not be judged.
    pub unread: Vec<UnreadFlows>,
    /// Observations that were lost because the thread that counts them was behind.
    pub records_lost: u64,
    /// Resets that could not be sent to the servers of refused connections, which wait until they time out.
    pub resets_failed: u64,
    /// Payloads that were read in part.
    pub cut: CutPayloads,
}

/// Payloads in several pieces whose missing pieces were given up, by reason. The pieces that had come are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CutPayloads {
    /// Their device already had as many incomplete payloads as one device may have.
    pub share_used: u64,
    /// All devices together already had as many as they may have.
    pub no_room: u64,
    /// The remaining pieces did not come in time.
    pub rest_late: u64,
    /// A piece in the middle was missing.
    pub piece_lost: u64,
}

/// The time that verdicts took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// The number that took at most as long as the bound at the same index, and longer than the one before; the
    /// last count is of those that took longer than any bound.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// The sum of all of them.
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
    /// The reason: one of [`DecodeFailures`], `unknown-version`, `encrypted-hello`, `several-questions`,
    /// `compressed-question` or `urgent`.
    #[serde(deserialize_with = "word::one")]
    pub reason: Word,
    /// The layer at which a name was looked for: `dns`, `tls`, `quic` or `http`.
    #[serde(deserialize_with = "word::one")]
    pub layer: Word,
    /// How many.
    pub count: u64,
}

/// The counts of one family of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyBooks {
    /// Packets and bytes.
    pub traffic: ByDirection<Tally>,
    /// Flows by the direction of their first packet.
    pub flows: ByDirection<u64>,
    /// The part of `traffic` for which the flow table had no place.
    pub overflow: ByDirection<Tally>,
}

/// A LAN-facing interface.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Interface {
    /// Its name in the configuration.
    pub interface: String,
    /// Its number in the kernel; 0 while it is gone.
    pub ifindex: u32,
    /// The hooks at which the programs are attached.
    pub hooks: ByDirection<Hook>,
    /// All packets seen: flows, overflow, multicast, skipped and refused together.
    pub seen: ByDirection<Tally>,
    /// Packets booked to flows, live or reaped.
    pub flows: ByDirection<Tally>,
    /// Packets for which there was no flow.
    pub overflow: ByDirection<Tally>,
    /// Frames to group addresses.
    pub multicast: Tally,
    /// Frames not accounted to a device, by reason.
    #[serde(deserialize_with = "word::keys")]
    pub skipped: BTreeMap<Word, ByDirection<Tally>>,
    /// Downloads that were refused before they reached the device.
    pub refused: Tally,
    /// Packets that the sensor itself sent to devices.
    pub answered: Tally,
    /// Packets that the sensor sent to devices in place of refused downloads.
    pub replaced: Tally,
    /// Refused packets to which no answer could be sent.
    pub answers_failed: u64,
    /// Refused packets that were not answered because a limit was reached, by reason.
    #[serde(deserialize_with = "word::keys")]
    pub silent: BTreeMap<Word, u64>,
    /// Whether XDP hands refused packets on to TC, which answers them.
    pub is_noted: bool,
    /// Its driver, if the driver tells its name.
    pub driver: Option<String>,
    /// Notes on it for people: other programs that run before the sensor's.
    pub notes: Vec<String>,
}

impl Interface {
    /// The way in which answers to packets of devices leave; `None` while there is no upload program.
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

/// The hook at which a program is attached.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
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
    /// The number that stands for it in an interface's record.
    pub const fn number(self) -> u16 {
        match self {
            Self::None => 0,
            Self::XdpNative => 1,
            Self::XdpGeneric => 2,
            Self::Tcx => 3,
            Self::Clsact => 4,
        }
    }

    /// The hook of a number in an interface's record.
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
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How often a policy applied to packets of a device.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PolicyHits {
    /// The device's MAC address.
    pub device: String,
    /// The policy's name.
    pub policy: String,
    /// `observe`, `allow`, `reject` or `drop`.
    #[serde(deserialize_with = "word::one")]
    pub action: Word,
    /// The layer that the policy matched: `address`, `dns`, `tls`, `quic` or `http`.
    #[serde(deserialize_with = "word::one")]
    pub layer: Word,
    /// Flows and DNS questions that it decided.
    pub decided: u64,
    /// By direction.
    pub hits: ByDirection<Tally>,
}

/// The flow table.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct FlowTable {
    /// Flows in it.
    pub size: u64,
    /// Its capacity in flows.
    pub capacity: u64,
    /// Flows reaped since the tables were made.
    pub reaped: u64,
    /// New flows refused, by reason.
    pub refused: FlowsRefused,
    /// Packets booked to a device's overflow record.
    pub overflow_packets: u64,
}

/// New flows without a place in the table, by reason.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct FlowsRefused {
    /// No slot was free.
    pub table_full: u64,
    /// The device had used up its share of the table.
    pub share_used: u64,
    /// The index had no room near the flow's hash.
    pub index_full: u64,
}

/// The device table.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct DeviceTable {
    /// Devices in it.
    pub size: u64,
    /// Devices it has room for.
    pub capacity: u64,
    /// Devices in it that are settled: servers answered them on two days, or the configuration names them.
    pub settled: u64,
    /// Packets of devices without a place.
    pub overflow_packets: u64,
    /// Hits that could not be counted because the hit table was full: each is a packet, a decision, or all that
    /// a flow carried in one direction under a decision.
    pub hits_lost: u64,
}

/// The sample ring.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ring {
    /// The samples by kind.
    pub samples: Vec<SampleCounts>,
}

/// Samples of one kind.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct SampleCounts {
    /// The kind: the protocol that the samples were taken for.
    #[serde(deserialize_with = "word::one")]
    pub kind: Word,
    /// Samples put into the ring.
    pub taken: u64,
    /// Samples not taken because their device had used up its share of the ring, or the ring was too full for
    /// their kind.
    pub shed: u64,
    /// Refused questions not put there because the same device had just asked for the same name.
    pub suppressed: u64,
    /// Samples lost because the ring had no room.
    pub lost: u64,
}

/// The policy in force.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PolicyState {
    /// The generation number; a flow judged under another one is judged again.
    pub generation: u32,
    /// Policies in force.
    pub policies: u64,
    /// Prefixes in force, both families.
    pub prefixes: u64,
    /// Names in force.
    pub names: u64,
    /// Packets of servers that were held until the verdict on a name.
    pub held: u64,
    /// Flows whose hold expired before there was a verdict.
    pub hold_expired: u64,
    /// Streams that the kernel did not put together, by reason: the daemon judges the names in them.
    #[serde(deserialize_with = "word::keys")]
    pub unassembled: BTreeMap<Word, u64>,
    /// Whether the kernel judges the names in QUIC: `on`; `off`, as configured; `interpreted`, because the kernel
    /// does not compile programs; `refused`, because it does not take the program.
    #[serde(deserialize_with = "word::one")]
    pub kernel_quic: Word,
    /// The files that policies may refer to.
    pub lists: Vec<PolicyList>,
    /// Reloads that took effect since the tables were made.
    pub reloads: u64,
    /// Reloads that were refused since the tables were made.
    pub reloads_refused: u64,
    /// Devices whose own rules have no place in the kernel: the rules for everybody apply to them.
    pub devices_left_out: u64,
    /// The pauses that hold.
    pub pauses: Vec<Pause>,
}

/// A file that policies may refer to: a list, or a database of networks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PolicyList {
    /// The file.
    pub list: String,
    /// Names in it that are used; `None`: the file is no list.
    pub names: Option<u64>,
    /// Lines that are not used; `None`: the file is no list.
    pub bad_lines: Option<u64>,
    /// The time at which the file was written, in seconds since the Unix epoch; 0 if it could never be read.
    pub modified: f64,
    /// Whether it could not be read the last time: its earlier content, if any, stays in force.
    pub kept: bool,
    /// Whether it has no place in the kernel's tables: only its exceptions are in force.
    pub left_out: bool,
}

/// The ticks so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Ticks {
    /// How many.
    pub count: u64,
    /// The CPU time of all of them.
    pub total: Duration,
    /// The CPU time of the last one.
    pub last: Duration,
}

/// One flow, as in a list of flows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// The device's MAC address.
    pub device: String,
    /// The device's name, if it has one.
    pub device_name: Option<String>,
    /// The interface's name.
    pub interface: String,
    /// `tcp`, `udp`, … or the number; for frames that are not IP, `0x` and the ethertype.
    pub protocol: String,
    /// The device's address and port.
    pub local: String,
    /// The other side's address and port.
    pub remote: String,
    /// Packets and bytes.
    pub traffic: ByDirection<Tally>,
    /// The direction of the first packet.
    #[serde(deserialize_with = "word::one")]
    pub opened_by: Word,
    /// All TCP flags seen, as the bits of RFC 9293.
    pub tcp_flags: ByDirection<u8>,
    /// The facts that its payload told, and those about its party.
    #[serde(flatten)]
    pub facts: FlowFacts,
    /// `pass`, `reject` or `drop`.
    #[serde(deserialize_with = "word::one")]
    pub verdict: Word,
    /// The policy that matched.
    pub policy: Option<String>,
    /// Seconds since the Unix epoch.
    pub first_seen: f64,
    /// Seconds since the Unix epoch.
    pub last_seen: f64,
}

/// The facts that a flow's payload told, and those about its party.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowFacts {
    /// The name of the other side, in lower case.
    pub name: Option<String>,
    /// The source of the name: `tls`, `quic`, `http` or `dns`.
    #[serde(deserialize_with = "word::maybe")]
    pub name_source: Option<Word>,
    /// Whether the name is from a DNS answer to another device.
    pub name_by_another: bool,
    /// The application protocols that its hello offers.
    pub alpn: Option<Vec<String>>,
    /// Whether its hello is encrypted (ECH); `name` is then that of the outer hello.
    pub ech: bool,
    /// The version of QUIC, for example `1`, `draft-29`, `Q046`.
    pub quic_version: Option<String>,
    /// The JA4 fingerprint of the client, by its hello.
    pub ja4: Option<String>,
    /// The TLS stack of the client: the second field of the JA4 of a hello over TCP. A QUIC flow has that of the
    /// device's hellos over TCP for the same name, where there were some in the last 24 hours, and all of one
    /// stack.
    pub stack: Option<String>,
    /// As in [`PartyTraffic`]; `None` where the flow is not IP.
    pub party: Option<String>,
    /// The owner of the party.
    pub owner: Option<String>,
    /// `telemetry`, `advertising`, `dns-bypass` or `never-block`.
    #[serde(deserialize_with = "word::maybe")]
    pub category: Option<Word>,
    /// The country of the address, two capital letters (ISO 3166-1).
    pub country: Option<String>,
    /// The number of the autonomous system.
    pub asn: Option<u32>,
    /// The reason why the name is unknown or incomplete: `ech`, `encrypted-dns`, `vpn`, `plain-address`,
    /// `not-yet-seen`.
    #[serde(deserialize_with = "word::maybe")]
    pub hidden: Option<Word>,
    /// The reason why the flow could not be read, or why a policy by name that applies to the device could not
    /// judge it, as in [`UnreadFlows`]. `None` if the flow is refused.
    #[serde(deserialize_with = "word::maybe")]
    pub unread: Option<Word>,
}

/// A DNS question and its answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DnsQuestion {
    /// The client's address and port.
    pub client: String,
    /// The server's address and port.
    pub server: String,
    /// The name, in lower case.
    pub name: String,
    /// The type, for example `AAAA`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The data of the answers, as text.
    pub answers: Vec<String>,
    /// The identifier that matches an answer to its question.
    #[serde(skip)]
    pub id: u16,
}

/// The kind of a device.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Kind {
    /// A telephone.
    Phone,
    /// A tablet or an electronic book.
    Tablet,
    /// A computer that somebody works at, or a server.
    Computer,
    /// A television set, or a box that turns a screen into one.
    Tv,
    /// Any other thing: loudspeaker, printer, lamp, camera, watch, game console.
    Iot,
    /// A device through which others reach the network: router, access point, repeater.
    Router,
    /// No observation tells the kind.
    #[default]
    Unknown,
}

impl Kind {
    /// The word for it in the configuration, in metrics and in JSON.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

word::serde_by_word!(Kind, Hook);

/// The identity of a device, as far as it can be concluded, and the evidence for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    /// Its name for people, at most 64 characters.
    pub name: Option<String>,
    /// Its kind.
    pub kind: Kind,
    /// The brand on it; if that is not known, the maker of its network hardware.
    pub vendor: Option<String>,
    /// Its model, as it calls itself.
    pub model: Option<String>,
    /// Its operating system, with the version if that is known.
    pub system: Option<String>,
    /// Whether its MAC address is a random one.
    pub random_mac: bool,
    /// The least number of devices that use this MAC address, as behind a repeater, itself included; 0 if
    /// nothing tells of more than one.
    pub shared_by: u32,
    /// The confidence of `kind`, 0 to 1; 0 if the kind is unknown.
    pub kind_confidence: f32,
    /// The confidence of `vendor`, 0 to 1; 0 if there is none.
    pub vendor_confidence: f32,
    /// The lesser of those of the two that are known; 0 if neither is.
    pub confidence: f32,
    /// The evidence for all this, the most trusted source first.
    pub evidence: Vec<EvidenceLine>,
}

impl Conclusion {
    /// The lesser confidence of kind and vendor, of those that are known; 0 if neither is.
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

/// One observation of a device, and one conclusion that it suggests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvidenceLine {
    /// The source, for example `dhcp-host-name`.
    #[serde(deserialize_with = "word::one")]
    pub source: Word,
    /// The observed value, for example `Annas-iPhone`; at most 128 bytes.
    pub value: String,
    /// The property that it tells of: `name`, `kind`, `vendor`, `model` or `system`.
    #[serde(deserialize_with = "word::one")]
    pub about: Word,
    /// The value that it suggests, for example `phone`.
    pub suggests: String,
    /// Its weight, 0 to 1.
    pub weight: f32,
}
