//! One snapshot, and what each sink makes of it.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::{
    collections::BTreeMap,
    env, fs, io,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use sensor::{
    cli,
    health::Health,
    model::{
        ByDirection, Device, DeviceTable, FamilyBooks, Flow, FlowTable, FlowsRefused, Hook,
        Interface, PolicyHits, PolicyState, Ring, SampleCounts, Snapshot, Tally, Ticks,
    },
    sink::{http, metrics},
};
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

/// A phone with traffic of two families, an interface whose books balance and one that is gone.
fn snapshot() -> Snapshot {
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
    Snapshot {
        devices: vec![Device {
            device: "a4:50:46:1f:00:2c".to_owned(),
            families: BTreeMap::from([("ipv4", ipv4), ("other", other)]),
            live_flows: 7,
            first_seen: NOW - 86_400.0,
            last_seen: NOW - 60.25,
        }],
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
                answered: tally(9, 540),
                answers_failed: 1,
            },
            Interface {
                interface: "wlan0".to_owned(),
                ..Interface::default()
            },
        ],
        policy_hits: vec![PolicyHits {
            device: "a4:50:46:1f:00:2c".to_owned(),
            policy: "trackers".to_owned(),
            action: "reject",
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
            overflow_packets: 0,
            hits_lost: 0,
        },
        ring: Ring {
            samples: vec![
                SampleCounts {
                    kind: "dns",
                    taken: 10,
                    shed: 0,
                    lost: 1,
                },
                SampleCounts {
                    kind: "http",
                    taken: 2,
                    shed: 5,
                    lost: 0,
                },
            ],
        },
        policy: PolicyState {
            generation: 3,
            policies: 1,
            prefixes: 2,
            reloads: 2,
            reloads_refused: 1,
        },
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

/// Promtool's judgement of a text; `None` where there is no promtool and none is demanded.
fn promtool(text: &str) -> Option<String> {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
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
    let mut judgement = String::from_utf8_lossy(&output.stderr).into_owned();
    judgement.push_str(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() {
        judgement.push_str(&output.status.to_string());
    }
    Some(judgement)
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
            assert!(text.lines().count() > 256 * 20);
            time
        })
        .collect();
    times.sort();
    let median = times[times.len() / 2];
    println!(
        "a scrape of 256 devices takes {median:?} of CPU (median of {})",
        times.len()
    );
    // An unoptimised build is some ten times slower.
    let most = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 20 });
    assert!(median <= most, "{median:?}");
}

#[test]
fn status_shows_hooks_books_and_losses() {
    let mut out = Vec::new();
    cli::print_status(&mut out, &snapshot(), cli::Output { json: false }).unwrap();
    expect("status.txt", &String::from_utf8(out).unwrap());
}

#[test]
fn packets_in_no_book_are_told() {
    let mut snapshot = snapshot();
    snapshot.unbooked_packets = 1_002;
    let mut out = Vec::new();
    cli::print_status(&mut out, &snapshot, cli::Output { json: false }).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("1,002 packets are in no book"), "{text}");
    let metrics = metrics::render(&snapshot, BUILD).unwrap();
    assert!(metrics.contains("sensor_unbooked_packets_total 1002\n"));
}

#[test]
fn devices_are_a_table_or_exact_json() {
    let mut out = Vec::new();
    let snapshot = snapshot();
    cli::print_devices(&mut out, &snapshot, cli::Output { json: false }, NOW).unwrap();
    expect("devices.txt", &String::from_utf8(out).unwrap());

    let mut out = Vec::new();
    cli::print_devices(&mut out, &snapshot, cli::Output { json: true }, NOW).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        json[0]["families"]["ipv4"]["traffic"]["download"]["bytes"],
        4_000_000
    );
}

#[test]
fn flows_are_sorted_and_limited() {
    let flow = |remote: &str, bytes| Flow {
        device: "a4:50:46:1f:00:2c".to_owned(),
        interface: "br-lan".to_owned(),
        protocol: "tcp".to_owned(),
        local: "192.168.1.20:40000".to_owned(),
        remote: remote.to_owned(),
        traffic: both(tally(1, bytes), tally(2, 0)),
        opened_by: "upload",
        tcp_flags: both(0x1b, 0x1b),
        verdict: "pass",
        policy: None,
        first_seen: NOW - 7_300.0,
        last_seen: NOW,
    };
    let flows = [
        flow("203.0.113.5:443", 1_023),
        flow("[2001:db8::5]:443", 1_048_576),
        flow("198.51.100.7:80", 1),
    ];
    let print = |limit, json| {
        let args = cli::FlowsArgs {
            output: cli::Output { json },
            limit,
        };
        let mut out = Vec::new();
        cli::print_flows(&mut out, &flows, args, NOW).unwrap();
        String::from_utf8(out).unwrap()
    };
    expect("flows.txt", &print(2, false));
    assert_eq!(print(0, false).lines().count(), 4);
    let json: serde_json::Value = serde_json::from_str(&print(2, true)).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 3);
}

/// Status and text of an answer.
async fn get(address: std::net::SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: sensor\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn http_serves_the_latest_snapshot_and_the_health() {
    let listener = http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = watch::channel(Arc::new(Snapshot::default()));
    let (end, ended) = oneshot::channel::<()>();
    let health = Health::new(Duration::from_secs(60), Instant::now());
    let server = tokio::spawn(http::serve(listener, receiver, health.clone(), async {
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
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_address_that_cannot_be_had_has_a_sentence() {
    let first = http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let taken = first.local_addr().unwrap();
    let error = http::bind(taken).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {taken}: another program")));
    assert!(error.contains("`listen` in [daemon]"), "{error}");

    // RFC 5737: an address that no machine has.
    let error = http::bind("192.0.2.1:9617".parse().unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("does not have the address"), "{error}");
}

#[test]
fn alerts_and_readme_name_metrics_that_exist() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let metrics = metrics::render(&snapshot(), BUILD).unwrap();
    for file in [
        "deploy/prometheus/alerts.yml",
        "README.md",
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
