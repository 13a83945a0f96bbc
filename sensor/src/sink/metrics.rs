//! The text that Prometheus scrapes. Every metric's name, labels and help stand in `declared`.
//!
//! Values come from the books as they are: nothing is added up here, so that no counter of the kernel's
//! steps back when the daemon starts anew. Counters by name start with the daemon, and their help says so.
//!
//! Names stand in the `_info` series alone, joined by `device` or by `party` and `category`: a
//! device that changes its name does not begin all its series anew.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use prometheus::{
    TextEncoder,
    proto::{Bucket, Histogram, Metric, MetricFamily, MetricType, Summary},
};

pub use prometheus::Error;

use crate::model::{
    ByDirection, Device, Latency, PartyTraffic, PolicyList, SampleCounts, Snapshot, Tally,
};

/// The media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The version and source of a build.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The version of the crate.
    pub version: &'static str,
    /// The revision of the source, or `unknown`.
    pub revision: &'static str,
}

/// This program. The revision is that of the variable `SENSOR_REVISION` at build time.
pub const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    revision: match option_env!("SENSOR_REVISION") {
        Some(revision) => revision,
        None => "unknown",
    },
};

#[derive(Clone, Copy)]
enum Kind {
    /// Never steps back while the kernel's tables live.
    Counter,
    Gauge,
}

/// A metric with `N` labels.
struct Declared<const N: usize> {
    name: &'static str,
    kind: Kind,
    labels: [&'static str; N],
    help: &'static str,
}

mod declared {
    use super::{
        Declared,
        Kind::{Counter, Gauge},
    };

    macro_rules! metrics {
        ($($name:ident: $kind:ident $text:literal [$($label:literal),*] $help:literal;)*) => {
            $(pub(super) const $name: Declared<{ <[&str]>::len(&[$($label),*]) }> = Declared {
                name: $text,
                kind: $kind,
                labels: [$($label),*],
                help: $help,
            };)*
        };
    }

    /// The one summary: the CPU time of ticks.
    pub(super) const TICK_DURATION: (&str, &str) = (
        "sensor_tick_duration_seconds",
        "CPU time that ticks took: reading, reaping and adding up the tables of the kernel.",
    );

    /// The one histogram: the latency of verdicts on names.
    pub(super) const VERDICT_LATENCY: (&str, &str) = (
        "sensor_verdict_latency_seconds",
        "From the copy of a payload to the verdict in its flow, of names that are judged outside of the kernel, since the daemon started.",
    );

    metrics! {
        BUILD_INFO: Gauge "sensor_build_info" ["version", "revision"]
            "Always 1; what was built.";

        DEVICE_BYTES: Counter "sensor_device_bytes_total" ["device", "family", "direction"]
            "Bytes on the wire, Ethernet header included, by device.";
        DEVICE_PACKETS: Counter "sensor_device_packets_total" ["device", "family", "direction"]
            "Packets on the wire by device; a super-packet counts as its segments.";
        DEVICE_FLOWS: Counter "sensor_device_flows_total" ["device", "family", "direction"]
            "Flows by device and by the direction of their first packet.";
        DEVICE_OPEN_FLOWS: Gauge "sensor_device_open_flows" ["device"]
            "Flows of the device that are in the flow table now.";
        DEVICE_OVERFLOW_BYTES: Counter "sensor_device_overflow_bytes_total" ["device", "direction"]
            "The part of sensor_device_bytes_total that had no place in the flow table.";
        DEVICE_OVERFLOW_PACKETS: Counter "sensor_device_overflow_packets_total" ["device", "direction"]
            "The part of sensor_device_packets_total that had no place in the flow table.";
        DEVICE_FIRST_SEEN: Gauge "sensor_device_first_seen_timestamp_seconds" ["device"]
            "Unix time of the device's first packet.";
        DEVICE_LAST_SEEN: Gauge "sensor_device_last_seen_timestamp_seconds" ["device"]
            "Unix time of the device's last packet.";

        DEVICE_INFO: Gauge "sensor_device_info" ["device", "name", "kind", "vendor", "model", "system", "random_mac"]
            "Always 1; who the device is, as far as it is known.";
        DEVICE_CONFIDENCE: Gauge "sensor_device_confidence_ratio" ["device"]
            "How sure kind and vendor of the device are, the lesser of the two; 0 where neither is known.";
        DEVICE_PARTY_BYTES: Counter "sensor_device_party_bytes_total" ["device", "party", "category", "direction"]
            "Bytes since the daemon started, by device and by whom it exchanged them with: those with the most, and other for all else.";
        DEVICE_PARTY_FLOWS: Counter "sensor_device_party_flows_total" ["device", "party", "category", "direction"]
            "Flows since the daemon started, as sensor_device_party_bytes_total, by the direction of their first packet.";
        DEVICE_HIDDEN_BYTES: Counter "sensor_device_hidden_bytes_total" ["device", "reason", "direction"]
            "Bytes since the daemon started of flows that hide whom they are with, by how.";
        DEVICE_CATEGORY_BYTES: Counter "sensor_device_category_bytes_total" ["device", "category", "direction"]
            "Bytes since the daemon started of flows with names that lists have a category for.";
        PARTY_INFO: Gauge "sensor_party_info" ["party", "category", "owner", "country", "asn", "network"]
            "Always 1; who a party of sensor_device_party_bytes_total is, and where its first address was.";

        POLICY_HITS: Counter "sensor_policy_hits_total" ["device", "policy", "layer", "action", "direction"]
            "Packets to which a policy applied; they passed where the action is observe.";
        POLICY_HIT_BYTES: Counter "sensor_policy_hit_bytes_total" ["device", "policy", "layer", "action", "direction"]
            "Bytes to which a policy applied.";
        POLICY_DECISIONS: Counter "sensor_policy_decisions_total" ["device", "policy", "layer", "action"]
            "Flows and DNS questions about which a policy decided, by what told what they are about; what observe has here would have been refused.";
        UNREAD_FLOWS: Counter "sensor_unread_flows_total" ["reason", "layer"]
            "Flows since the daemon started that a policy by name is about and that could not be judged by it, and why: they passed.";
        HEARD_LOST: Counter "sensor_heard_lost_records_total" []
            "Records of what payloads say that were lost since the daemon started because the aggregate was behind; verdicts do not wait for it.";
        RESETS_FAILED: Counter "sensor_resets_failed_total" []
            "Servers of refused connections that could not be told since the daemon started: they wait until they lose patience.";
        PAYLOADS_CUT: Counter "sensor_payloads_cut_total" ["reason"]
            "Payloads in several pieces that were read only in part since the daemon started, and why.";
        POLICY_RELOADS: Counter "sensor_policy_reloads_total" ["outcome"]
            "Reloads of the configuration since the tables were made; a refused one changed nothing.";

        HOOK_INFO: Gauge "sensor_hook_info" ["interface", "direction", "hook"]
            "Always 1; where the program of this interface and direction sits, none while the interface is gone.";
        INTERFACE_BYTES: Counter "sensor_interface_bytes_total" ["interface", "direction"]
            "Bytes seen: the sum of what was booked and what was skipped.";
        INTERFACE_PACKETS: Counter "sensor_interface_packets_total" ["interface", "direction"]
            "Packets seen: the sum of what was booked and what was skipped.";
        BOOKED_BYTES: Counter "sensor_booked_bytes_total" ["interface", "direction", "book"]
            "Bytes booked to a flow, to a device's overflow, to the multicast record, or refused before the device.";
        BOOKED_PACKETS: Counter "sensor_booked_packets_total" ["interface", "direction", "book"]
            "Packets booked to a flow, to a device's overflow, to the multicast record, or refused before the device.";
        SKIPPED_BYTES: Counter "sensor_skipped_bytes_total" ["interface", "direction", "reason"]
            "Bytes that passed without being accounted to a device.";
        SKIPPED_PACKETS: Counter "sensor_skipped_packets_total" ["interface", "direction", "reason"]
            "Packets that passed without being accounted to a device.";
        ANSWER_BYTES: Counter "sensor_answer_bytes_total" ["interface"]
            "Bytes that the sensor sent to devices whose packets it rejected.";
        ANSWER_PACKETS: Counter "sensor_answer_packets_total" ["interface"]
            "Packets that the sensor sent to devices whose packets it rejected.";
        ANSWERS_FAILED: Counter "sensor_answers_failed_total" ["interface"]
            "Rejected packets for which no answer could be sent.";
        ANSWERS_LIMITED: Counter "sensor_answers_limited_total" ["interface", "reason"]
            "Rejected packets that were not answered because their flow or device had its answers: one reset in 100 ms and flow (resets), 10 ICMP errors a second and flow (icmp_flow), 200 a second and device (icmp_device), 500 DNS answers a second and device (dns_device).";

        FLOWS_REFUSED: Counter "sensor_flow_table_refused_flows_total" ["reason"]
            "New flows for which the flow table had no place.";

        POLICY_HITS_LOST: Counter "sensor_policy_hits_lost_total" []
            "Times that hits could not be counted because the hit table was full: each is a packet, a decision, or all that a flow carried in one direction under a decision.";
        POLICY_GENERATION: Gauge "sensor_policy_generation" []
            "The policy in force; a flow judged under another one is judged again.";
        POLICIES: Gauge "sensor_policies" []
            "Policies in force.";
        PREFIXES: Gauge "sensor_policy_prefixes" []
            "Remote prefixes in force, both families.";
        POLICY_NAMES: Gauge "sensor_policy_names" []
            "Names in force.";
        LIST_MODIFIED: Gauge "sensor_policy_list_modified_timestamp_seconds" ["list"]
            "When a list, or a database of networks, was written; time() less this is its age. 0: it could never be read.";
        POLICY_LIST_NAMES: Gauge "sensor_policy_list_names" ["list"]
            "Names of a list.";
        POLICY_LIST_BAD: Gauge "sensor_policy_list_bad_lines" ["list"]
            "Lines of a list that are not used.";
        POLICY_LIST_KEPT: Gauge "sensor_policy_list_kept" ["list"]
            "1 where a list or database could not be read the last time: what it had before, if anything, is in force.";
        POLICY_LIST_LEFT_OUT: Gauge "sensor_policy_list_left_out" ["list"]
            "1 where a list has no place in the kernel's tables: nothing of it is in force but its exceptions.";
        POLICY_DEVICES_LEFT_OUT: Gauge "sensor_policy_devices_left_out" []
            "Devices whose own rules have no place in the kernel: those of everybody apply to them.";
        POLICY_PAUSES: Gauge "sensor_policy_pauses" []
            "Pauses that hold (sensor pause): policies refuse nothing to their devices.";
        HELD: Counter "sensor_held_packets_total" []
            "Packets of servers that were not delivered because the verdict on a name was waited for; they come again.";
        HOLD_EXPIRED: Counter "sensor_hold_expired_flows_total" []
            "Flows whose time to wait for a verdict was over before there was one.";
        UNASSEMBLED: Counter "sensor_unassembled_streams_total" ["reason"]
            "Streams of several packets for which the kernel had no room, so that the daemon judges their names: their device had its share, all room was in use, or two CPUs were at it at once.";

        UNBOOKED_PACKETS: Counter "sensor_unbooked_packets_total" []
            "Packets seen on an interface that has no record, the only ones that no book has: a fault of the sensor.";
        FLOW_TABLE_SIZE: Gauge "sensor_flow_table_size_flows" []
            "Flows in the flow table.";
        FLOW_TABLE_CAPACITY: Gauge "sensor_flow_table_capacity_flows" []
            "Flows that the flow table has room for.";
        FLOWS_REAPED: Counter "sensor_flow_table_reaped_flows_total" []
            "Idle flows taken out of the flow table, their last counts included in the books.";
        FLOW_TABLE_OVERFLOW: Counter "sensor_flow_table_overflow_packets_total" []
            "Packets booked to a device's overflow record because their flow had no place.";
        DEVICE_TABLE_SIZE: Gauge "sensor_device_table_size_devices" []
            "Devices in the device table.";
        DEVICE_TABLE_CAPACITY: Gauge "sensor_device_table_capacity_devices" []
            "Devices that the device table has room for.";
        DEVICE_TABLE_SETTLED: Gauge "sensor_device_table_settled_devices" []
            "Devices in the device table that servers answered on two days, or that the configuration names.";
        DEVICE_TABLE_OVERFLOW: Counter "sensor_device_table_overflow_packets_total" []
            "Packets of devices without a place, booked to the device other.";

        RING_SAMPLES: Counter "sensor_ring_samples_total" ["kind"]
            "Samples that the kernel put into the ring, by what they were taken for.";
        RING_SHED: Counter "sensor_ring_shed_samples_total" ["kind"]
            "Samples left out because their device had its share of the ring, or because the ring was too full for their kind: HTTP first, TLS and QUIC next.";
        RING_SUPPRESSED: Counter "sensor_ring_suppressed_samples_total" ["kind"]
            "Refused questions that were not told because one for the same name by the same device was told less than a second before.";
        RING_LOST: Counter "sensor_ring_lost_samples_total" ["kind"]
            "Samples lost because the ring had no room.";
        DECODE_FAILURES: Counter "sensor_decode_failures_total" ["decoder", "reason"]
            "Payloads since the daemon started that could not be decoded.";
        LIST_NAMES: Gauge "sensor_list_names" []
            "Names in the lists of owners and categories.";
        PARTIES: Gauge "sensor_parties" []
            "Parties that are known.";
        NAMES_EVICTED: Counter "sensor_names_evicted_total" ["table"]
            "Entries since the daemon started that left a table of names to make room: addresses that a DNS answer gave a name; names by which flows without one are judged, those too that found no room at their address; refusals of late.";
        NAMES_REFUSED: Counter "sensor_names_refused_total" ["table"]
            "What a table of names had no room for since the daemon started: parties of a device that left for others of its own, which are `other` then; facts about further devices.";
        HTTP_FAILURES: Counter "sensor_http_failures_total" ["reason"]
            "HTTP connections since the daemon started that were closed for a newer one (gave-way) or because the client was too slow (request-timeout, answer-timeout), requests for a host that is not this machine (host), and attempts to accept a connection that failed (all other reasons).";
        MAP_FAILURES: Counter "sensor_map_failures_total" ["map"]
            "Calls about the kernel's maps that failed since the daemon started, tried again or not; what was in force before stayed.";
        DAMAGED_FLOWS: Counter "sensor_damaged_flows_total" []
            "Slots of the flow table that held no possible flow since the daemon started: each was given back, and what it counted is booked to nobody.";
        CLOCK_KNOWN: Gauge "sensor_clock_known" []
            "1 where the machine's clock is synchronised or not before the date of the program; 0: no policy with a schedule is in force.";
        HISTORY_COMMITS: Counter "sensor_history_commits_total" []
            "Batches of the history that were written since the daemon started.";
        HISTORY_FAILURES: Counter "sensor_history_failures_total" []
            "Attempts to write the history that failed since the daemon started; batches wait, and are tried again.";
        HISTORY_LOST: Counter "sensor_history_lost_total" ["reason"]
            "What the history lost since the daemon started: batches whose parties are lost, because the disk was too slow or took nothing (their bytes are unattributed), and rows that were deleted because the file reached its size.";
        HISTORY_BYTES: Gauge "sensor_history_size_bytes" []
            "Bytes of the history's file that are in use.";
        HISTORY_UNTIL: Gauge "sensor_history_written_timestamp_seconds" []
            "Unix time up to which the history is on disk; 0 before the first write.";
        TICK_LAST: Gauge "sensor_tick_last_duration_seconds" []
            "CPU time that the last tick took.";
    }
}

impl<const N: usize> Declared<N> {
    /// The metric with its series.
    fn family<'a, S: IntoIterator<Item = ([&'a str; N], f64)>>(
        &self,
        series: S,
    ) -> Series<'_, N, S> {
        Series { of: self, series }
    }
}

impl Declared<0> {
    fn value(&self, value: f64) -> Series<'_, 0, [([&'static str; 0], f64); 1]> {
        self.family([([], value)])
    }
}

/// A family of the text.
trait Family {
    /// Writes the family behind the text; nothing where it has no series.
    fn write(self, text: &mut String) -> Result<(), Error>;
}

impl Family for Option<MetricFamily> {
    fn write(self, text: &mut String) -> Result<(), Error> {
        match self {
            Some(family) => TextEncoder::new().encode_utf8(&[family], text),
            None => Ok(()),
        }
    }
}

/// The series of a counter or a gauge.
struct Series<'d, const N: usize, S> {
    of: &'d Declared<N>,
    series: S,
}

/// The encoder of the crate wants each label of each series in memory of its own, and tens of thousands of series
/// would take most of a scrape's time. This writes the same text.
impl<'a, const N: usize, S: IntoIterator<Item = ([&'a str; N], f64)>> Family for Series<'_, N, S> {
    fn write(self, text: &mut String) -> Result<(), Error> {
        let Declared {
            name, kind, labels, ..
        } = self.of;
        let start = text.len();
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        for part in ["# HELP ", name, " "] {
            text.push_str(part);
        }
        escape(self.of.help, false, text);
        for part in ["\n# TYPE ", name, " ", kind, "\n"] {
            text.push_str(part);
        }
        let first = text.len();
        // Neighbours mostly share their first labels: these are copied as they stand in the line before.
        let mut before = [""; N];
        let mut ends = [0; N];
        let mut line = first;
        for (values, value) in self.series {
            let start = text.len();
            let alike = match start == first {
                true => 0,
                false => count_alike(&before, &values),
            };
            match alike.checked_sub(1) {
                Some(last) => text.extend_from_within(line..line + ends[last]),
                None => text.push_str(name),
            }
            for place in alike..N {
                text.push(if place == 0 { '{' } else { ',' });
                text.push_str(labels[place]);
                text.push_str("=\"");
                escape(values[place], true, text);
                text.push('"');
                ends[place] = text.len() - start;
            }
            (before, line) = (values, start);
            if N > 0 {
                text.push('}');
            }
            text.push(' ');
            push_value(text, value);
            text.push('\n');
        }
        if text.len() == first {
            text.truncate(start);
        }
        Ok(())
    }
}

/// How many of the first labels are the same text in memory.
fn count_alike<const N: usize>(before: &[&str; N], values: &[&str; N]) -> usize {
    let pairs = before.iter().zip(values);
    pairs
        .take_while(|(one, other)| std::ptr::eq(**one, **other))
        .count()
}

/// A text as it stands in a help line, or between quotes.
fn escape(value: &str, is_quoted: bool, text: &mut String) {
    let is_special = |octet: &u8| matches!(*octet, b'\\' | b'\n') || is_quoted && *octet == b'"';
    if !value.as_bytes().iter().any(is_special) {
        return text.push_str(value);
    }
    for character in value.chars() {
        match character {
            '\\' => text.push_str(r"\\"),
            '\n' => text.push_str(r"\n"),
            '"' if is_quoted => text.push_str(r#"\""#),
            other => text.push(other),
        }
    }
}

/// A value as the encoder of the crate writes it. Nearly all are whole numbers.
fn push_value(text: &mut String, value: f64) {
    const EXACT: f64 = (1_u64 << 53) as f64;

    // Writing to a string never fails.
    let _ = match value.fract() == 0.0 && value.is_sign_positive() && value < EXACT {
        true => write!(text, "{}", value as u64),
        false => write!(text, "{value}"),
    };
}

/// The encoder refuses a family without series.
fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> Option<MetricFamily> {
    if metrics.is_empty() {
        return None;
    }
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    Some(family)
}

/// The snapshot in Prometheus' text format.
pub fn render(snapshot: &Snapshot, build: Build) -> Result<String, Error> {
    let mut families = Text(Ok(String::new()));
    families.extend(declared::BUILD_INFO.family([([build.version, build.revision], 1.0)]));
    devices(snapshot, &mut families);
    names(snapshot, &mut families);
    policies(snapshot, &mut families);
    interfaces(snapshot, &mut families);
    tables(snapshot, &mut families);
    history(snapshot, &mut families);
    ticks(snapshot, &mut families);
    families.0
}

fn history(snapshot: &Snapshot, families: &mut Text) {
    let Some(history) = &snapshot.history else {
        return;
    };
    families.extend(declared::HISTORY_COMMITS.value(history.commits as f64));
    families.extend(declared::HISTORY_FAILURES.value(history.failures as f64));
    families.extend(declared::HISTORY_LOST.family([
        (["batch"], history.batches_lost as f64),
        (["row"], history.rows_evicted as f64),
    ]));
    families.extend(declared::HISTORY_BYTES.value(history.bytes as f64));
    families.extend(declared::HISTORY_UNTIL.value(history.until));
}

/// The text so far, or why there is none. Each family is written and gone before the next one is
/// made: all of them together take several times the memory of the text.
struct Text(Result<String, Error>);

impl Text {
    fn extend(&mut self, family: impl Family) {
        if let Ok(text) = &mut self.0
            && let Err(error) = family.write(text)
        {
            self.0 = Err(error);
        }
    }
}

/// Both directions with their label.
fn directions<T: Copy>(value: &ByDirection<T>) -> [(&'static str, T); 2] {
    [("upload", value.upload), ("download", value.download)]
}

/// Exact up to 2^53 (Prometheus has no other number): 9 petabytes of one device.
fn number(value: u64) -> f64 {
    value as f64
}

fn packets(tally: Tally) -> f64 {
    number(tally.packets)
}

fn bytes(tally: Tally) -> f64 {
    number(tally.bytes)
}

fn devices(snapshot: &Snapshot, families: &mut Text) {
    type Of = fn(Tally) -> f64;

    let devices = &snapshot.devices;
    let traffic = |of: Of| {
        devices.iter().flat_map(move |device| {
            device.families.iter().flat_map(move |(family, books)| {
                directions(&books.traffic).map(|(direction, tally)| {
                    ([device.device.as_str(), *family, direction], of(tally))
                })
            })
        })
    };
    let overflow = |of: Of| {
        devices.iter().flat_map(move |device| {
            let families = device.families.values();
            let upload = families.clone().map(|books| of(books.overflow.upload));
            let download = families.map(|books| of(books.overflow.download));
            // The sum of no numbers is -0.
            [
                (
                    [device.device.as_str(), "upload"],
                    0.0 + upload.sum::<f64>(),
                ),
                (
                    [device.device.as_str(), "download"],
                    0.0 + download.sum::<f64>(),
                ),
            ]
        })
    };
    let flows = devices.iter().flat_map(|device| {
        device.families.iter().flat_map(|(family, books)| {
            directions(&books.flows).map(|(direction, flows)| {
                ([device.device.as_str(), *family, direction], number(flows))
            })
        })
    });
    let each = |value: fn(&Device) -> f64| {
        devices
            .iter()
            .map(move |device| ([device.device.as_str()], value(device)))
    };
    families.extend(declared::DEVICE_BYTES.family(traffic(bytes)));
    families.extend(declared::DEVICE_PACKETS.family(traffic(packets)));
    families.extend(declared::DEVICE_FLOWS.family(flows));
    families.extend(declared::DEVICE_OPEN_FLOWS.family(each(|device| number(device.live_flows))));
    families.extend(declared::DEVICE_OVERFLOW_BYTES.family(overflow(bytes)));
    families.extend(declared::DEVICE_OVERFLOW_PACKETS.family(overflow(packets)));
    // Of the record that several devices share, it is not known when the first packet came.
    let known = |value| each(value).filter(|(_, time)| *time != 0.0);
    families.extend(declared::DEVICE_FIRST_SEEN.family(known(|device| device.first_seen)));
    families.extend(declared::DEVICE_LAST_SEEN.family(known(|device| device.last_seen)));
}

/// The identities of devices, their parties, and how much of both is known.
fn names(snapshot: &Snapshot, families: &mut Text) {
    let devices = &snapshot.devices;
    let infos = devices.iter().map(|device| {
        let identity = &device.identity;
        let labels = [
            device.device.as_str(),
            text(&identity.name),
            identity.kind.name(),
            text(&identity.vendor),
            text(&identity.model),
            text(&identity.system),
            if identity.random_mac { "true" } else { "false" },
        ];
        (labels, 1.0)
    });
    let confidences = devices
        .iter()
        .filter(|device| device.mac.is_some())
        .map(|device| {
            let confidence = ratio(device.identity.confidence);
            ([device.device.as_str()], confidence)
        });
    let parties = |of: fn(&PartyTraffic) -> ByDirection<u64>| {
        devices.iter().flat_map(move |device| {
            device.parties.iter().flat_map(move |with| {
                directions(&of(with)).map(|(direction, value)| {
                    let labels = [
                        device.device.as_str(),
                        with.party.as_str(),
                        with.category.unwrap_or_default(),
                        direction,
                    ];
                    (labels, number(value))
                })
            })
        })
    };
    let sorts = |of: fn(&Device) -> &BTreeMap<&'static str, ByDirection<u64>>| {
        devices.iter().flat_map(move |device| {
            of(device).iter().flat_map(move |(kind, octets)| {
                directions(octets).map(|(direction, octets)| {
                    ([device.device.as_str(), *kind, direction], number(octets))
                })
            })
        })
    };
    let systems: Vec<_> = snapshot
        .parties
        .iter()
        .map(|party| party.asn.map(|asn| asn.to_string()))
        .collect();
    let known = snapshot.parties.iter().zip(&systems).map(|(party, asn)| {
        let labels = [
            party.party.as_str(),
            party.category.unwrap_or_default(),
            text(&party.owner),
            text(&party.country),
            text(asn),
            text(&party.organisation),
        ];
        (labels, 1.0)
    });
    families.extend(declared::DEVICE_INFO.family(infos));
    families.extend(declared::DEVICE_CONFIDENCE.family(confidences));
    families.extend(declared::DEVICE_PARTY_BYTES.family(parties(|with| with.bytes)));
    families.extend(declared::DEVICE_PARTY_FLOWS.family(parties(|with| with.flows)));
    families.extend(declared::DEVICE_HIDDEN_BYTES.family(sorts(|device| &device.hidden)));
    families.extend(declared::DEVICE_CATEGORY_BYTES.family(sorts(|device| &device.categories)));
    families.extend(declared::PARTY_INFO.family(known));
}

/// An empty label is none, to Prometheus.
fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// Three decimals: the nearest number of 32 bits to 0.9 is no 0.9 in 64.
fn ratio(value: f32) -> f64 {
    (f64::from(value) * 1_000.0).round() / 1_000.0
}

fn policies(snapshot: &Snapshot, families: &mut Text) {
    let hits = |of: fn(Tally) -> f64| {
        snapshot.policy_hits.iter().flat_map(move |hits| {
            directions(&hits.hits).map(|(direction, tally)| {
                let labels = [
                    hits.device.as_str(),
                    hits.policy.as_str(),
                    hits.layer,
                    hits.action,
                    direction,
                ];
                (labels, of(tally))
            })
        })
    };
    let policy = &snapshot.policy;
    families.extend(declared::POLICY_HITS.family(hits(packets)));
    families.extend(declared::POLICY_HIT_BYTES.family(hits(bytes)));
    families.extend(
        declared::POLICY_DECISIONS.family(snapshot.policy_hits.iter().map(|hits| {
            let labels = [
                hits.device.as_str(),
                hits.policy.as_str(),
                hits.layer,
                hits.action,
            ];
            (labels, number(hits.decided))
        })),
    );
    families.extend(declared::POLICY_HITS_LOST.value(number(snapshot.device_table.hits_lost)));
    families.extend(declared::POLICY_GENERATION.value(f64::from(policy.generation)));
    families.extend(declared::POLICIES.value(number(policy.policies)));
    families.extend(declared::PREFIXES.value(number(policy.prefixes)));
    families.extend(declared::POLICY_NAMES.value(number(policy.names)));
    let lists = |of: fn(&PolicyList) -> Option<f64>| {
        let lists = policy.lists.iter();
        lists.filter_map(move |list| Some(([list.list.as_str()], of(list)?)))
    };
    families.extend(declared::LIST_MODIFIED.family(lists(|list| Some(list.modified))));
    families.extend(declared::POLICY_LIST_NAMES.family(lists(|list| list.names.map(number))));
    families.extend(declared::POLICY_LIST_BAD.family(lists(|list| list.bad_lines.map(number))));
    let kept = lists(|list| Some(f64::from(u8::from(list.kept))));
    families.extend(declared::POLICY_LIST_KEPT.family(kept));
    let left_out = lists(|list| Some(f64::from(u8::from(list.left_out))));
    families.extend(declared::POLICY_LIST_LEFT_OUT.family(left_out));
    families.extend(declared::POLICY_DEVICES_LEFT_OUT.value(number(policy.devices_left_out)));
    families.extend(declared::POLICY_PAUSES.value(number(policy.pauses.len() as u64)));
    families.extend(declared::HELD.value(number(policy.held)));
    families.extend(declared::HOLD_EXPIRED.value(number(policy.hold_expired)));
    let unassembled = policy.unassembled.iter();
    families.extend(
        declared::UNASSEMBLED
            .family(unassembled.map(|(reason, count)| ([*reason], number(*count)))),
    );
    families.extend(declared::POLICY_RELOADS.family([
        (["applied"], number(policy.reloads)),
        (["refused"], number(policy.reloads_refused)),
    ]));
    let judging = &snapshot.judging;
    families.extend(latency(&judging.latency));
    let unread = judging.unread.iter();
    families.extend(
        declared::UNREAD_FLOWS
            .family(unread.map(|flows| ([flows.reason, flows.layer], number(flows.count)))),
    );
    families.extend(declared::HEARD_LOST.value(number(judging.records_lost)));
    families.extend(declared::RESETS_FAILED.value(number(judging.resets_failed)));
    let cut = &judging.cut;
    families.extend(declared::PAYLOADS_CUT.family([
        (["share-used"], number(cut.share_used)),
        (["no-room"], number(cut.no_room)),
        (["rest-late"], number(cut.rest_late)),
        (["piece-lost"], number(cut.piece_lost)),
    ]));
}

fn latency(latency: &Latency) -> Option<MetricFamily> {
    let mut histogram = Histogram::default();
    let mut sum = 0;
    let buckets = Latency::BOUNDS.iter().zip(latency.counts);
    let buckets = buckets.map(|(bound, count)| {
        sum += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound.as_secs_f64());
        bucket.set_cumulative_count(sum);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(latency.counts.iter().sum());
    histogram.set_sample_sum(latency.total.as_secs_f64());
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    let (name, help) = declared::VERDICT_LATENCY;
    family(name, help, MetricType::HISTOGRAM, vec![metric])
}

fn interfaces(snapshot: &Snapshot, families: &mut Text) {
    type Of = fn(Tally) -> f64;

    let interfaces = &snapshot.interfaces;
    let hooks = interfaces.iter().flat_map(|interface| {
        directions(&interface.hooks).map(|(direction, hook)| {
            let labels = [interface.interface.as_str(), direction, hook.name()];
            (labels, 1.0)
        })
    });
    let seen = |of: Of| {
        interfaces.iter().flat_map(move |interface| {
            directions(&interface.seen)
                .map(|(direction, tally)| ([interface.interface.as_str(), direction], of(tally)))
        })
    };
    let booked = |of: Of| {
        interfaces.iter().flat_map(move |interface| {
            let name = interface.interface.as_str();
            [
                ([name, "upload", "flow"], of(interface.flows.upload)),
                ([name, "upload", "overflow"], of(interface.overflow.upload)),
                ([name, "download", "flow"], of(interface.flows.download)),
                (
                    [name, "download", "overflow"],
                    of(interface.overflow.download),
                ),
                ([name, "download", "multicast"], of(interface.multicast)),
                ([name, "download", "refused"], of(interface.refused)),
            ]
        })
    };
    let skipped = |of: Of| {
        interfaces.iter().flat_map(move |interface| {
            interface.skipped.iter().flat_map(move |(reason, tallies)| {
                directions(tallies).map(|(direction, tally)| {
                    (
                        [interface.interface.as_str(), direction, *reason],
                        of(tally),
                    )
                })
            })
        })
    };
    let each = |value: fn(&crate::model::Interface) -> f64| {
        interfaces
            .iter()
            .map(move |interface| ([interface.interface.as_str()], value(interface)))
    };
    families.extend(declared::HOOK_INFO.family(hooks));
    families.extend(declared::INTERFACE_BYTES.family(seen(bytes)));
    families.extend(declared::INTERFACE_PACKETS.family(seen(packets)));
    families.extend(declared::BOOKED_BYTES.family(booked(bytes)));
    families.extend(declared::BOOKED_PACKETS.family(booked(packets)));
    families.extend(declared::SKIPPED_BYTES.family(skipped(bytes)));
    families.extend(declared::SKIPPED_PACKETS.family(skipped(packets)));
    families.extend(declared::ANSWER_BYTES.family(each(|interface| {
        bytes(interface.answered) + bytes(interface.replaced)
    })));
    families.extend(declared::ANSWER_PACKETS.family(each(|interface| {
        packets(interface.answered) + packets(interface.replaced)
    })));
    families.extend(
        declared::ANSWERS_FAILED.family(each(|interface| number(interface.answers_failed))),
    );
    families.extend(
        declared::ANSWERS_LIMITED.family(interfaces.iter().flat_map(|interface| {
            interface
                .silent
                .iter()
                .map(|(reason, count)| ([interface.interface.as_str(), *reason], number(*count)))
        })),
    );
}

fn tables(snapshot: &Snapshot, families: &mut Text) {
    let flows = &snapshot.flow_table;
    families.extend(declared::FLOW_TABLE_SIZE.value(number(flows.size)));
    families.extend(declared::FLOW_TABLE_CAPACITY.value(number(flows.capacity)));
    families.extend(declared::FLOWS_REAPED.value(number(flows.reaped)));
    families.extend(declared::FLOWS_REFUSED.family([
        (["table_full"], number(flows.refused.table_full)),
        (["share_used"], number(flows.refused.share_used)),
        (["index_full"], number(flows.refused.index_full)),
    ]));
    families.extend(declared::FLOW_TABLE_OVERFLOW.value(number(flows.overflow_packets)));
    families.extend(declared::UNBOOKED_PACKETS.value(number(snapshot.unbooked_packets)));
    let devices = &snapshot.device_table;
    families.extend(declared::DEVICE_TABLE_SIZE.value(number(devices.size)));
    families.extend(declared::DEVICE_TABLE_CAPACITY.value(number(devices.capacity)));
    families.extend(declared::DEVICE_TABLE_SETTLED.value(number(devices.settled)));
    families.extend(declared::DEVICE_TABLE_OVERFLOW.value(number(devices.overflow_packets)));
    let kinds = |of: fn(&SampleCounts) -> u64| {
        let samples = snapshot.ring.samples.iter();
        samples.map(move |counts| ([counts.kind], number(of(counts))))
    };
    families.extend(declared::RING_SAMPLES.family(kinds(|counts| counts.taken)));
    families.extend(declared::RING_SHED.family(kinds(|counts| counts.shed)));
    families.extend(declared::RING_SUPPRESSED.family(kinds(|counts| counts.suppressed)));
    families.extend(declared::RING_LOST.family(kinds(|counts| counts.lost)));
    let failures = snapshot
        .decode_failures
        .iter()
        .map(|failures| ([failures.decoder, failures.reason], number(failures.count)));
    families.extend(declared::DECODE_FAILURES.family(failures));
    let names = &snapshot.names;
    families.extend(declared::LIST_NAMES.value(number(names.list_names)));
    families.extend(declared::PARTIES.value(number(names.parties)));
    families.extend(declared::NAMES_EVICTED.family([
        (["addresses"], number(names.addresses_evicted)),
        (["names"], number(names.names_evicted)),
        (["refusals"], number(names.refusals_evicted)),
    ]));
    families.extend(declared::NAMES_REFUSED.family([
        (["parties"], number(names.parties_refused)),
        (["devices"], number(names.devices_refused)),
    ]));
    let http_failures = snapshot.http_failures.iter();
    families.extend(
        declared::HTTP_FAILURES
            .family(http_failures.map(|(reason, count)| ([*reason], number(*count)))),
    );
    let map_failures = snapshot.map_failures.iter();
    families.extend(
        declared::MAP_FAILURES.family(map_failures.map(|(map, count)| ([*map], number(*count)))),
    );
    families.extend(declared::DAMAGED_FLOWS.value(number(snapshot.damaged_flows)));
    let is_known = f64::from(u8::from(!snapshot.is_time_unknown));
    families.extend(declared::CLOCK_KNOWN.value(is_known));
}

fn ticks(snapshot: &Snapshot, families: &mut Text) {
    let ticks = &snapshot.ticks;
    let seconds = |duration: Duration| duration.as_secs_f64();
    let mut summary = Summary::default();
    summary.set_sample_count(ticks.count);
    summary.set_sample_sum(seconds(ticks.total));
    let mut metric = Metric::default();
    metric.set_summary(summary);
    let (name, help) = declared::TICK_DURATION;
    families.extend(family(name, help, MetricType::SUMMARY, vec![metric]));
    families.extend(declared::TICK_LAST.value(seconds(ticks.last)));
}

#[cfg(test)]
mod tests {
    use prometheus::proto::{Counter, Gauge, LabelPair};

    use super::*;

    /// The family as the encoder of the crate writes it.
    fn encoded<const N: usize>(of: &Declared<N>, series: &[([&str; N], f64)]) -> String {
        let metrics = series.iter().map(|(values, value)| {
            let labels = of.labels.iter().zip(values).map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value((*value).to_owned());
                pair
            });
            let mut metric = Metric::from_label(labels.collect());
            match of.kind {
                Kind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(*value);
                    metric.set_counter(counter);
                }
                Kind::Gauge => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(*value);
                    metric.set_gauge(gauge);
                }
            }
            metric
        });
        let kind = match of.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
        };
        let mut text = "# before\n".to_owned();
        let family = family(of.name, of.help, kind, metrics.collect());
        family.write(&mut text).expect("it can be written");
        text
    }

    fn written<const N: usize>(of: &Declared<N>, series: &[([&str; N], f64)]) -> String {
        let mut text = "# before\n".to_owned();
        let family = of.family(series.iter().copied());
        family.write(&mut text).expect("it can be written");
        text
    }

    #[test]
    fn series_are_written_as_the_crate_writes_them() {
        const NONE: Declared<0> = Declared {
            name: "sensor_a",
            kind: Kind::Gauge,
            labels: [],
            help: "A \\ and\na line, \"quoted\".",
        };
        const THREE: Declared<3> = Declared {
            name: "sensor_b_total",
            kind: Kind::Counter,
            labels: ["device", "name", "direction"],
            help: "B.",
        };
        let exact = (1_u64 << 53) as f64;
        let values = [
            0.0,
            -0.0,
            1.0,
            0.25,
            -7.0,
            exact - 1.0,
            exact,
            exact * 3.0,
            1e-9,
            1e22,
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ];
        for value in values {
            assert_eq!(
                written(&NONE, &[([], value)]),
                encoded(&NONE, &[([], value)])
            );
        }
        let (one, other) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
        let odd = "a \"b\" \\ c\nd é";
        let series: Vec<_> = [
            [one, "x", "upload"],
            [one, "x", "download"],
            [one, odd, "upload"],
            [one, odd, "download"],
            [other, odd, "download"],
            [other, "", "download"],
            [other, "", "download"],
            ["", "", ""],
        ]
        .into_iter()
        .zip(values)
        .collect();
        for count in 0..=series.len() {
            let series = &series[..count];
            assert_eq!(written(&THREE, series), encoded(&THREE, series));
        }
    }
}
