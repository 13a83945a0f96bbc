//! One snapshot, and what each sink makes of it.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    env, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use sensor::{
    cli::{
        args,
        print::{self, Habit, Past},
    },
    config::Config,
    control::protocol::{DeviceReport, Status},
    enforcement,
    health::Health,
    model::{
        ByDirection, Conclusion, CutPayloads, DecodeFailures, Device, DeviceTable, EvidenceLine,
        FamilyBooks, Flow, FlowFacts, FlowTable, FlowsRefused, Hook, Interface, Judging, Kind,
        Latency, NameTables, OverrideState, Party, PartyTraffic, Pause, PolicyHits, PolicyList,
        PolicyState, Ring, SampleCounts, Snapshot, Tally, Ticks, UnreadFlows, history::StoreState,
    },
    policy::Zone,
    sink::{metrics, store::read::Since, web},
};
use sensor_ebpf::parse::Mac;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{oneshot, watch},
};

const NOW: f64 = 1_800_000_000.0;

fn tally(packets: u64, bytes: u64) -> Tally {
    Tally { packets, bytes }
}

fn both<T>(upload: T, download: T) -> ByDirection<T> {
    ByDirection { upload, download }
}

const PHONE: &str = "a4:50:46:1f:00:2c";
const RANDOM: &str = "da:a1:19:00:00:07";

/// The traffic of a phone with one party, all of it while the party had a series.
fn with(
    party: &str,
    category: Option<&'static str>,
    bytes: ByDirection<u64>,
    flows: u64,
) -> PartyTraffic {
    PartyTraffic {
        party: party.to_owned(),
        category,
        bytes,
        flows: both(flows, 0),
        bytes_in_all: bytes,
        flows_in_all: both(flows, 0),
    }
}

/// A phone with traffic of two families, with its maker twice, with a site and with others.
fn phone() -> Device {
    let ipv4 = FamilyBooks {
        traffic: both(tally(1_200, 150_000), tally(3_000, 4_000_000)),
        flows: both(40, 2),
        overflow: both(tally(3, 200), tally(0, 0)),
    };
    let other = FamilyBooks {
        traffic: both(tally(10, 420), tally(10, 600)),
        flows: both(1, 0),
        overflow: both(tally(1, 42), tally(0, 0)),
    };
    let line = |source, value: &str, about, suggests: &str, weight| EvidenceLine {
        source,
        value: value.to_owned(),
        about,
        suggests: suggests.to_owned(),
        weight,
    };
    Device {
        refused: Vec::new(),
        device: PHONE.to_owned(),
        mac: Some(Mac::new([0xa4, 0x50, 0x46, 0x1f, 0x00, 0x2c])),
        identity: Conclusion {
            name: Some("Anna's phone".to_owned()),
            kind: Kind::Phone,
            vendor: Some("Xiaomi".to_owned()),
            model: Some("Redmi Note 8".to_owned()),
            system: Some("Android 11".to_owned()),
            random_mac: false,
            shared_by: 0,
            kind_confidence: 0.9,
            vendor_confidence: 0.985,
            confidence: 0.9,
            evidence: vec![
                line("configuration", "Anna's phone", "name", "Anna's phone", 1.0),
                line("dhcp-vendor-class", "android-dhcp-11", "kind", "phone", 0.7),
                line("oui", "Xiaomi Communications", "vendor", "Xiaomi", 0.8),
            ],
        },
        probably_same_as: None,
        addresses: vec![
            "2001:db8:1::20".parse().unwrap(),
            "192.168.1.20".parse().unwrap(),
        ],
        families: BTreeMap::from([("ipv4", ipv4), ("other", other)]),
        parties: [
            with("example.org", None, both(20_000, 3_000_000), 8),
            with("miui.com", None, both(1_000, 9_000), 2),
            PartyTraffic {
                // The traffic before its series began is in the series of `other`.
                bytes_in_all: both(60_000, 5_000),
                flows_in_all: both(12, 1),
                ..with("miui.com", Some("telemetry"), both(50_000, 4_000), 10)
            },
            PartyTraffic {
                bytes_in_all: both(40_000, 950_000),
                flows_in_all: both(10, 0),
                ..with("other", None, both(50_000, 951_000), 13)
            },
        ]
        .into(),
        hidden: BTreeMap::from([
            ("ech", both(0, 0)),
            ("encrypted-dns", both(9_000, 21_000)),
            ("plain-address", both(12_000, 450_000)),
        ]),
        categories: BTreeMap::from([
            ("advertising", both(0, 0)),
            ("telemetry", both(60_000, 5_000)),
        ]),
        live_flows: 7,
        settled: true,
        first_seen: NOW - 86_400.0,
        last_seen: NOW - 60.25,
    }
}

/// Verdicts that took as long as two of the bounds and longer than all, and flows without one.
fn judging() -> Judging {
    let mut latency = Latency::default();
    for micros in [50, 51, 60_000] {
        latency.add(Duration::from_micros(micros));
    }
    let unread = |reason, layer, count| UnreadFlows {
        reason,
        layer,
        count,
    };
    Judging {
        latency,
        unread: vec![
            unread("conflict", "tls", 3),
            unread("several-questions", "dns", 1),
        ],
        records_lost: 4,
        resets_failed: 5,
        cut: CutPayloads {
            share_used: 6,
            no_room: 7,
            rest_late: 8,
            piece_lost: 9,
        },
    }
}

/// That phone, it may be, under an address that it made up.
fn same_phone() -> Device {
    Device {
        refused: Vec::new(),
        device: RANDOM.to_owned(),
        mac: Some(Mac::new([0xda, 0xa1, 0x19, 0x00, 0x00, 0x07])),
        identity: Conclusion {
            kind: Kind::Phone,
            random_mac: true,
            kind_confidence: 0.4,
            confidence: 0.4,
            ..Conclusion::default()
        },
        probably_same_as: Some(PHONE.to_owned()),
        parties: [with("other", None, both(0, 0), 0)].into(),
        first_seen: NOW - 300_000.0,
        last_seen: NOW - 200_000.0,
        ..Device::default()
    }
}

/// Two devices, the parties of one, an interface whose books balance and one that is gone.
fn snapshot() -> Snapshot {
    let party = |party: &str, category, owner: Option<&str>| Party {
        party: party.to_owned(),
        category,
        owner: owner.map(str::to_owned),
        ..Party::default()
    };
    Snapshot {
        commands: vec![OverrideState {
            name: "ads.example".to_owned(),
            is: "blocked",
            devices: Some("group:kids".to_owned()),
            since: NOW,
            until: Some(NOW + 7_200.0),
            rest: None,
        }],
        devices: vec![
            phone(),
            same_phone(),
            Device {
                device: "multicast".to_owned(),
                ..Device::default()
            },
        ],
        parties: vec![
            party("example.org", None, None),
            party("miui.com", None, Some("Xiaomi")),
            Party {
                country: Some("SG".to_owned()),
                asn: Some(64_500),
                organisation: Some("Example Cloud".to_owned()),
                ..party("miui.com", Some("telemetry"), Some("Xiaomi"))
            },
            party("other", None, None),
        ],
        decode_failures: vec![
            DecodeFailures {
                decoder: "quic",
                reason: "undecryptable",
                count: 7,
            },
            DecodeFailures {
                decoder: "tls",
                reason: "truncated",
                count: 1_000,
            },
        ],
        names: NameTables {
            list_names: 12_345,
            addresses_evicted: 3,
            names_evicted: 5,
            refusals_evicted: 4,
            parties: 120,
            parties_refused: 2,
            devices_refused: 1,
        },
        judging: judging(),
        interfaces: vec![
            Interface {
                interface: "br-lan".to_owned(),
                ifindex: 4,
                hooks: both(Hook::XdpNative, Hook::Tcx),
                seen: both(tally(1_212, 150_500), tally(3_020, 4_001_000)),
                flows: both(tally(1_206, 150_178), tally(3_005, 4_000_100)),
                overflow: both(tally(4, 242), tally(0, 0)),
                multicast: tally(5, 500),
                skipped: BTreeMap::from([("vlan_too_deep", both(tally(2, 80), tally(0, 0)))]),
                refused: tally(10, 400),
                answered: tally(7, 432),
                replaced: tally(2, 108),
                answers_failed: 1,
                silent: BTreeMap::from([("resets", 4), ("icmp_flow", 3)]),
                is_noted: true,
                driver: Some("bridge".to_owned()),
                notes: Vec::new(),
            },
            Interface {
                interface: "wlan0".to_owned(),
                ..Interface::default()
            },
        ],
        policy_hits: vec![PolicyHits {
            device: PHONE.to_owned(),
            policy: "trackers".to_owned(),
            action: "reject",
            layer: "tls",
            decided: 3,
            hits: both(tally(12, 888), tally(0, 0)),
        }],
        unbooked_packets: 0,
        flow_table: FlowTable {
            size: 7,
            capacity: 65_536,
            reaped: 35,
            refused: FlowsRefused {
                table_full: 1,
                share_used: 2,
                index_full: 3,
            },
            overflow_packets: 4,
        },
        device_table: DeviceTable {
            size: 1,
            capacity: 1_024,
            settled: 1,
            overflow_packets: 0,
            hits_lost: 0,
        },
        ring: Ring {
            samples: vec![
                SampleCounts {
                    kind: "dns",
                    taken: 10,
                    shed: 0,
                    suppressed: 5,
                    lost: 1,
                },
                SampleCounts {
                    kind: "http",
                    taken: 2,
                    shed: 5,
                    suppressed: 5,
                    lost: 0,
                },
            ],
        },
        policy: PolicyState {
            generation: 3,
            policies: 1,
            held: 6,
            kernel_quic: "on",
            unassembled: BTreeMap::from([("device", 7), ("full", 8)]),
            hold_expired: 1,
            lists: vec![
                PolicyList {
                    list: "/etc/gateway-sensor/lists/ads.txt".to_owned(),
                    names: Some(41_000),
                    bad_lines: Some(3),
                    modified: 1_700_000_000.0,
                    kept: false,
                    left_out: true,
                },
                PolicyList {
                    list: "/usr/share/GeoIP/GeoLite2-Country.mmdb".to_owned(),
                    modified: 1_600_000_000.0,
                    kept: true,
                    ..PolicyList::default()
                },
            ],
            prefixes: 2,
            names: 0,
            reloads: 2,
            reloads_refused: 1,
            devices_left_out: 11,
            pauses: vec![Pause::default()],
        },
        http_failures: BTreeMap::from([("gave-way", 8), ("no-descriptors", 9)]),
        map_failures: BTreeMap::from([("HITS", 12)]),
        damaged_flows: 13,
        is_time_unknown: true,
        history: Some(StoreState {
            file: "/var/lib/gateway-sensor/history.db".to_owned(),
            problem: Some("the history in /var/lib/gateway-sensor cannot be used".to_owned()),
            set_aside: Some("/var/lib/gateway-sensor/history.db.damaged-1".to_owned()),
            bytes: 12 << 20,
            most_bytes: 128 << 20,
            until: NOW - 300.0,
            commits: 12,
            failures: 2,
            batches_lost: 1,
            rows_evicted: 512,
        }),
        ticks: Ticks {
            count: 10,
            total: Duration::from_millis(25),
            last: Duration::from_micros(2_500),
        },
    }
}

const BUILD: metrics::Build = metrics::Build {
    version: "1.2.3",
    revision: "0123abc",
};

/// Compares with a file beside the tests; `EXPECT=write` writes it anew, for review.
fn expect(file: &str, actual: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(file);
    if env::var("EXPECT").is_ok_and(|what| what == "write") {
        fs::write(&file, actual).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(actual, expected, "\n{actual}\n\nis not {}", file.display());
}

#[test]
fn the_metrics_are_these() {
    expect("metrics.txt", &metrics::render(&snapshot(), BUILD).unwrap());
}

#[test]
fn an_empty_snapshot_has_metrics() {
    let text = metrics::render(&Snapshot::default(), BUILD).unwrap();
    assert!(text.contains("sensor_flow_table_size_flows 0\n"), "{text}");
}

/// The output of promtool for some files and a text; `None` where there is no promtool and none is
/// demanded. An empty output means that `check metrics` passed.
fn run_promtool(arguments: &[&str], text: &str) -> Option<(bool, String)> {
    let child = Command::new("promtool")
        .args(arguments)
        .current_dir(repository().join("deploy/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound && env::var_os("CI").is_none() => {
            eprintln!("promtool is not installed (Debian: prometheus); its check is left out");
            return None;
        }
        Err(error) => panic!("promtool (Debian: prometheus) cannot be run: {error}"),
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stdout));
    Some((output.status.success(), said))
}

/// Promtool's judgement of metrics.
fn promtool(text: &str) -> Option<String> {
    let (success, mut judgement) = run_promtool(&["check", "metrics"], text)?;
    if !success {
        judgement.push_str("failed");
    }
    Some(judgement)
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn alerts_and_queries_give_what_they_are_to_give() {
    let arguments = ["test", "rules", "alerts-test.yml"];
    if let Some((success, said)) = run_promtool(&arguments, "") {
        assert!(success, "{said}");
    }
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let tested = one_line(
        &fs::read_to_string(repository().join("deploy/prometheus/alerts-test.yml")).unwrap(),
    );
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, queries) = readme.split_once("```promql\n").unwrap();
    let (queries, _) = queries.split_once("```").unwrap();
    for query in queries.split("\n\n") {
        let lines: Vec<_> = query
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        let query = one_line(&lines.join(" "));
        let is_tested = [format!("expr: {query} "), format!("expr: >- {query} ")]
            .iter()
            .any(|expression| tested.contains(expression));
        assert!(is_tested, "alerts-test.yml does not try: {query}");
    }
}

#[test]
fn promtool_finds_nothing_to_object_to() {
    let text = metrics::render(&snapshot(), BUILD).unwrap();
    if let Some(judgement) = promtool(&text) {
        assert_eq!(judgement, "");
        // And it would have.
        let bad = text.replace("sensor_ring_samples_total", "sensor_ring_samples");
        assert_ne!(promtool(&bad).unwrap(), "");
    }
}

/// A house far larger than most.
fn large_snapshot() -> Snapshot {
    let mut large = snapshot();
    let phone = large.devices[0].clone();
    let hits = large.policy_hits[0].clone();
    large.devices.clear();
    large.policy_hits.clear();
    for number in 0..256 {
        let mut device = phone.clone();
        device.device = format!("a4:50:46:1f:00:{number:02x}");
        let ipv4 = device.families["ipv4"];
        device.families.insert("ipv6", ipv4);
        device.parties = (0..=20)
            .map(|party| PartyTraffic {
                party: format!("party-{party}.example"),
                ..device.parties[0].clone()
            })
            .collect();
        for policy in 0..4 {
            large.policy_hits.push(PolicyHits {
                device: device.device.clone(),
                policy: format!("policy-{policy}"),
                ..hits.clone()
            });
        }
        large.devices.push(device);
    }
    large
}

/// CPU time of this thread: what else the machine does is not the scrape's.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

#[test]
fn a_scrape_of_256_devices_is_cheap() {
    let large = large_snapshot();
    let mut times: Vec<Duration> = (0..9)
        .map(|_| {
            let start = cpu_time();
            let text = metrics::render(&large, BUILD).unwrap();
            let time = cpu_time().saturating_sub(start);
            assert!(text.lines().count() > 256 * 100);
            time
        })
        .collect();
    times.sort();
    let median = times[times.len() / 2];
    println!(
        "a scrape of 256 devices takes {median:?} of CPU (median of {})",
        times.len()
    );
    // Some 30,000 lines, of which most are by party. An unoptimised build is several times slower.
    let most = Duration::from_millis(if cfg!(debug_assertions) { 300 } else { 40 });
    assert!(median <= most, "{median:?}");
}

/// A value as it comes out of the daemon's socket.
fn sent<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).unwrap();
    let arrived = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&arrived).unwrap(), text);
    arrived
}

fn status(snapshot: &Snapshot, json: bool) -> String {
    let status = sent(&Status::from(snapshot));
    let mut out = Vec::new();
    print::print_status(&mut out, &status, args::Output { json }, &Zone::default()).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn status_shows_hooks_books_and_losses() {
    expect("status.txt", &status(&snapshot(), false));
    let json: serde_json::Value = serde_json::from_str(&status(&snapshot(), true)).unwrap();
    let fields = json.as_object().unwrap();
    assert!(fields.contains_key("flow_table") && !fields.contains_key("devices"));
}

#[test]
fn packets_in_no_book_are_told() {
    let mut snapshot = snapshot();
    snapshot.unbooked_packets = 1_002;
    let text = status(&snapshot, false);
    assert!(text.contains("1,002 packets are in no book"), "{text}");
    let metrics = metrics::render(&snapshot, BUILD).unwrap();
    assert!(metrics.contains("sensor_unbooked_packets_total 1002\n"));
}

/// A configuration that says nothing of devices.
fn config() -> Config {
    let text = "[[interface]]\nname = \"br-lan\"\n";
    Config::parse(text, Path::new("sensor.toml"))
        .unwrap()
        .config
}

fn devices(snapshot: &Snapshot, device: Option<&str>, json: bool) -> String {
    let places = match device {
        Some(text) => enforcement::devices::seen(text, &config(), &snapshot.devices).unwrap(),
        None => (0..snapshot.devices.len()).collect(),
    };
    let reports = places.into_iter().map(|place| {
        let seen = &snapshot.devices[place];
        sent(&match device {
            Some(_) => DeviceReport::full(seen, snapshot),
            None => DeviceReport::brief(seen, snapshot),
        })
    });
    let mut out = Vec::new();
    if json {
        let devices = reports.map(|report| Ok(report.device));
        print::print_list(&mut out, devices).unwrap();
    } else if device.is_some() {
        let past = |device: &str| {
            let day = 86_400;
            (device == "a4:50:46:1f:00:2c").then(|| Past {
                since: vec![Since {
                    party: "miui.com".to_owned(),
                    category: "telemetry".to_owned(),
                    first_seen: NOW as i64 - 30 * day,
                    last_seen: NOW as i64 - 60,
                }],
                habit: Some(Habit {
                    today: 150_000,
                    usual: Some(50_000),
                    days: 4,
                    weekday: "Friday",
                }),
                zone: Zone::named(Some("Asia/Kolkata")),
            })
        };
        print::print_each_device(&mut out, reports.collect(), NOW, past).unwrap();
    } else {
        print::print_devices(&mut out, reports.collect(), NOW).unwrap();
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn a_list_is_printed_as_its_entries_come() {
    let list = |entries: Vec<Result<u32, &'static str>>| {
        let mut out = Vec::new();
        let entries = entries.into_iter();
        let entries = entries.map(|entry| entry.map_err(|error| io::Error::other(error).into()));
        let failed = print::print_list(&mut out, entries).err();
        (
            String::from_utf8(out).unwrap(),
            failed.map(|error| error.to_string()),
        )
    };
    for entries in [vec![], vec![1], vec![1, 2]] {
        let whole = serde_json::to_string_pretty(&entries).unwrap();
        let (text, failed) = list(entries.into_iter().map(Ok).collect());
        assert_eq!((text, failed), (format!("{whole}\n"), None));
    }
    // No list begins where there is none.
    let nobody = (String::new(), Some("nobody".to_owned()));
    assert_eq!(list(vec![Err("nobody")]), nobody);
    let (_, failed) = list(vec![Ok(1), Err("gone")]);
    assert_eq!(failed.as_deref(), Some("gone"));
}

#[test]
fn devices_are_a_table_or_exact_json() {
    let snapshot = snapshot();
    let table = devices(&snapshot, None, false);
    expect("devices.txt", &table);
    assert!(table.lines().all(|line| line.chars().count() < 120));

    let json: serde_json::Value = serde_json::from_str(&devices(&snapshot, None, true)).unwrap();
    assert_eq!(
        json[0]["families"]["ipv4"]["traffic"]["download"]["bytes"],
        4_000_000
    );
    assert_eq!(json[0]["name"], "Anna's phone");
    assert_eq!(json[0]["addresses"][1], "192.168.1.20");
}

#[test]
fn one_device_is_shown_with_all_that_is_known_of_it() {
    let snapshot = snapshot();
    let text = devices(&snapshot, Some("A4:50:46:1F:00:2C"), false);
    expect("device.txt", &text);
    assert_eq!(devices(&snapshot, Some("anna's PHONE"), false), text);
    let json: serde_json::Value =
        serde_json::from_str(&devices(&snapshot, Some(RANDOM), true)).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 1);
    assert_eq!(json[0]["probably_same_as"], PHONE);
    let random = devices(&snapshot, Some(RANDOM), false);
    assert!(random.contains(&format!("{PHONE} (Anna's phone) with another")));
    let by_address = devices(&snapshot, Some("192.168.1.20"), false);
    assert_eq!(by_address, devices(&snapshot, Some(PHONE), false));
}

/// A name that is there to be believed or obeyed, not to be read: it has 64 characters.
fn hostile_name() -> String {
    let name = "x\"} 1\n# HELP \\ \u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\r\t";
    let fill = 64 - name.chars().count();
    format!("{name}{}", "y".repeat(fill))
}

/// The same house, its phone, its flows' names and its evidence named by an enemy.
fn hostile_snapshot() -> Snapshot {
    let mut snapshot = snapshot();
    let phone = &mut snapshot.devices[0];
    let identity = &mut phone.identity;
    identity.name = Some(hostile_name());
    identity.vendor = Some(hostile_name());
    identity.model = Some(hostile_name());
    identity.evidence[0].value = hostile_name();
    identity.evidence[0].suggests = hostile_name();
    Arc::make_mut(&mut phone.parties)[0].party = hostile_name();
    snapshot.parties[0].party = hostile_name();
    snapshot.parties[0].owner = Some(hostile_name());
    snapshot
}

#[test]
fn no_name_reaches_the_terminal_as_a_command() {
    let snapshot = hostile_snapshot();
    let flows = [Flow {
        device_name: Some(hostile_name()),
        facts: FlowFacts {
            name: Some(hostile_name()),
            owner: Some(hostile_name()),
            ..FlowFacts::default()
        },
        ..flow("203.0.113.5:443", 10)
    }];
    let texts = [
        devices(&snapshot, None, false),
        devices(&snapshot, Some(PHONE), false),
        devices(&snapshot, Some(RANDOM), false),
        devices(&snapshot, None, true),
        print(&flows, 0, false, false),
        print(&flows, 0, true, false),
        print(&flows, 0, false, true),
    ];
    for text in &texts {
        let obeyed = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!text.contains(obeyed), "{text:?}");
        assert!(text.contains("owned") || text.contains("x\"} 1"), "{text}");
    }
    // One line for each device, as many as there would be with other names.
    let lines = |text: &str| text.lines().count();
    assert_eq!(
        lines(&texts[0]),
        lines(&devices(&self::snapshot(), None, false))
    );
    assert_eq!(lines(&texts[4]), 2);
    // In JSON the name is whole.
    let json: serde_json::Value = serde_json::from_str(&texts[3]).unwrap();
    assert_eq!(json[0]["name"], hostile_name());
    let json: serde_json::Value = serde_json::from_str(&texts[6]).unwrap();
    assert_eq!(json[0]["name"], hostile_name());
}

#[test]
fn no_name_breaks_out_of_its_label() {
    let text = metrics::render(&hostile_snapshot(), BUILD).unwrap();
    let count = |text: &str| text.lines().count();
    assert_eq!(
        count(&text),
        count(&metrics::render(&snapshot(), BUILD).unwrap())
    );
    let escaped = hostile_name()
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('"', "\\\"");
    assert!(text.contains(&format!(
        "sensor_device_info{{device=\"{PHONE}\",name=\"{escaped}\",kind=\"phone\""
    )));
    if let Some(judgement) = promtool(&text) {
        assert_eq!(judgement, "");
    }
}

fn flow(remote: &str, bytes: u64) -> Flow {
    Flow {
        device: PHONE.to_owned(),
        device_name: Some("Anna's phone".to_owned()),
        interface: "br-lan".to_owned(),
        protocol: "tcp".to_owned(),
        local: "192.168.1.20:40000".to_owned(),
        remote: remote.to_owned(),
        traffic: both(tally(1, bytes), tally(2, 0)),
        opened_by: "upload",
        tcp_flags: both(0x1b, 0x1b),
        facts: FlowFacts::default(),
        verdict: "pass",
        policy: None,
        first_seen: NOW - 7_300.0,
        last_seen: NOW,
    }
}

/// The output for flows that the daemon chose, all or the first ones of these.
fn print(flows: &[Flow], limit: usize, wide: bool, json: bool) -> String {
    let flows: Vec<_> = flows.iter().map(sent).collect();
    let mut out = Vec::new();
    if json {
        print::print_list(&mut out, flows.into_iter().map(Ok)).unwrap();
        return String::from_utf8(out).unwrap();
    }
    let args = args::ListingArgs {
        output: args::Output { json },
        limit,
        wide,
    };
    let shown = match limit {
        0 => flows.len(),
        limit => limit.min(flows.len()),
    };
    let left_out = (flows.len() - shown) as u64;
    print::print_flows(&mut out, &flows[..shown], left_out, &args, NOW).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn flows_are_named_and_limited() {
    let named = |name: &str, hidden, flow| Flow {
        facts: FlowFacts {
            name: Some(name.to_owned()),
            name_source: Some("tls"),
            hidden,
            ..FlowFacts::default()
        },
        ..flow
    };
    let long = "r3---sn-4g5ednsl.some.very.long.example.org";
    let telemetry = named(
        "tracking.intl.miui.com",
        None,
        flow("203.0.113.5:443", 900_000),
    );
    let guess = named(
        long,
        None,
        flow("[2001:db8:1234:5678:9abc:def0:1234:5678]:443", 1_048_576),
    );
    let mut flows = [
        Flow {
            facts: FlowFacts {
                owner: Some("Xiaomi".to_owned()),
                category: Some("telemetry"),
                stack: Some("c866b44c5a26".to_owned()),
                ..telemetry.facts
            },
            policy: Some("trackers".to_owned()),
            ..telemetry
        },
        Flow {
            facts: FlowFacts {
                name_source: Some("dns"),
                name_by_another: true,
                ..guess.facts
            },
            ..guess
        },
        named(
            "cloudflare-ech.com",
            Some("ech"),
            flow("203.0.113.9:443", 1_024),
        ),
        Flow {
            facts: FlowFacts {
                hidden: Some("encrypted-dns"),
                ..FlowFacts::default()
            },
            ..flow("203.0.113.10:853", 1_023)
        },
        Flow {
            device_name: None,
            ..flow("192.168.1.1:80", 2)
        },
        flow("198.51.100.7:80", 1),
    ];
    let json: serde_json::Value = serde_json::from_str(&print(&flows, 2, false, true)).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 6);
    assert_eq!(json[1]["name"], long);
    // As the daemon gives them for a table.
    flows.sort_by_key(|flow| Reverse(flow.traffic.upload.bytes));
    expect("flows.txt", &print(&flows, 5, false, false));
    let wide = print(&flows, 5, true, false);
    expect("flows-wide.txt", &wide);
    assert!(wide.contains(long));
    assert_eq!(print(&flows, 0, false, false).lines().count(), 7);
}

/// Status and text of an answer.
async fn get(address: std::net::SocketAddr, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    ask(address, &request).await
}

/// Status and text of the answer to a request of one's own.
async fn ask(address: std::net::SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn http_serves_the_latest_snapshot_and_the_health() {
    let listener = web::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = watch::channel(Arc::new(Snapshot::default()));
    let (end, ended) = oneshot::channel::<()>();
    let health = Health::new(Duration::from_secs(60), Instant::now());
    let sources = web::Sources {
        snapshots: receiver,
        health: health.clone(),
        hosts: watch::channel(web::Hosts::default()).1,
        failures: web::Failures::default(),
    };
    let server = tokio::spawn(web::serve(listener, sources, async {
        let _ = ended.await;
    }));

    let (head, body) = get(address, "/readyz").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(body.starts_with("starting"), "{body}");
    let (head, _) = get(address, "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");

    sender.send(Arc::new(snapshot())).unwrap();
    health.set_attached(true);
    health.ticked(Instant::now());
    let (head, body) = get(address, "/readyz").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, "ok\n");

    let (head, body) = get(address, "/metrics").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert_eq!(body, metrics::render(&snapshot(), metrics::BUILD).unwrap());

    let (_, body) = get(address, "/").await;
    assert_eq!(body.lines().count(), 1);
    assert!(body.contains("/metrics"), "{body}");
    let (head, _) = get(address, "/nothing").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");

    end.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), server)
        .await
        .expect("the server ends when it is told to")
        .unwrap();
}

/// A server of a snapshot, and its counts of failures.
async fn server(snapshot: Snapshot) -> (std::net::SocketAddr, web::Failures) {
    let listener = web::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, snapshots) = watch::channel(Arc::new(snapshot));
    let failures = web::Failures::default();
    let hosts = web::Hosts::new(vec!["sensor.lan".to_owned()]);
    let sources = web::Sources {
        snapshots,
        hosts: watch::channel(hosts).1,
        health: Health::new(Duration::from_secs(60), Instant::now()),
        failures: failures.clone(),
    };
    tokio::spawn(async move {
        web::serve(listener, sources, std::future::pending()).await;
        drop(sender);
    });
    (address, failures)
}

/// Whether the other end has closed a connection.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 64];
    let read = stream.read(&mut buffer);
    let read = tokio::time::timeout(Duration::from_millis(20), read).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn the_connection_that_waited_longest_gives_way_to_a_new_one() {
    let (address, failures) = server(snapshot()).await;
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut open = Vec::new();
    for number in 0..16 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Half a request does not save it.
        stream.write_all(b"GET /metrics HT").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        open.push((number, stream));
    }
    // The first one gets an answer, and waits from then on.
    let (_, first) = &mut open[0];
    first
        .write_all(b"TP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(first.read(&mut vec![0; 1 << 20]).await.unwrap() > 0);
    for (_, stream) in &mut open[1..] {
        assert!(!is_closed(stream).await);
    }
    assert_eq!(failures.counts()["gave-way"], 0);
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
        open.push((99, stream));
    }
    let mut closed = Vec::new();
    for (number, stream) in &mut open {
        if is_closed(stream).await {
            closed.push(*number);
        }
    }
    assert_eq!(closed, [1, 2, 3]);
    assert_eq!(failures.counts()["gave-way"], 3);
}

#[tokio::test]
async fn a_request_for_a_strange_name_is_refused() {
    let (address, failures) = server(snapshot()).await;
    for host in ["localhost:9617", "sensor.lan", "[::1]:9617", "192.0.2.1"] {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let (head, _) = ask(address, &request).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{host}: {head}");
    }
    let (head, _) = ask(address, "GET /metrics HTTP/1.0\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    assert_eq!(failures.counts()["host"], 0);
    for path in ["/", "/metrics", "/healthz", "/nothing"] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: evil.example:9617\r\nConnection: close\r\n\r\n");
        let (head, body) = ask(address, &request).await;
        assert!(
            head.starts_with("HTTP/1.1 421 Misdirected Request"),
            "{head}"
        );
        assert!(body.contains("`hosts` in [daemon]"), "{body}");
    }
    assert_eq!(failures.counts()["host"], 4);
}

#[tokio::test]
async fn the_second_scrape_of_a_snapshot_costs_next_to_nothing() {
    let (address, _) = server(large_snapshot()).await;
    let scrape = async || {
        let start = cpu_time();
        let (_, body) = get(address, "/metrics").await;
        (cpu_time().saturating_sub(start), body)
    };
    let (first, body) = scrape().await;
    let (second, again) = scrape().await;
    println!("with its client, the first scrape takes {first:?} of CPU and the second {second:?}");
    assert_eq!(body, again);
    // Most of the second one is the client's: it reads megabytes.
    assert!(second * 3 < first, "{first:?} {second:?}");
}

#[tokio::test]
async fn idle_connections_keep_nobody_from_an_answer() {
    let (address, failures) = server(snapshot()).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let begun = Instant::now();
    let (head, body) = get(address, "/metrics").await;
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(body.contains("sensor_http_failures_total{reason=\"gave-way\"} 8\n"));
    assert_eq!(failures.counts()["gave-way"], 300 + 1 - 16);
}

#[tokio::test]
async fn an_address_that_cannot_be_had_has_a_sentence() {
    let first = web::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let taken = first.local_addr().unwrap();
    let error = web::bind(taken).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {taken}: another program")));
    assert!(error.contains("`listen` in [daemon]"), "{error}");

    // RFC 5737: an address that no machine has.
    let error = web::bind("192.0.2.1:9617".parse().unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("does not have the address"), "{error}");
}

#[test]
fn alerts_and_documents_name_metrics_that_exist() {
    let root = repository();
    let metrics = metrics::render(&snapshot(), BUILD).unwrap();
    for file in [
        "deploy/prometheus/alerts.yml",
        "README.md",
        "deploy/docs/filter.md",
        "deploy/docs/operating.md",
        "deploy/sensor.toml",
    ] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let names: Vec<&str> = text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("sensor_") && *word != "sensor_ebpf")
            .collect();
        assert!(!names.is_empty(), "{file} names no metric");
        for name in names {
            let exists = metrics
                .lines()
                .any(|line| !line.starts_with('#') && line.split(['{', ' ']).next() == Some(name));
            assert!(exists, "{file} names {name}, which does not exist");
        }
    }
}
