//! Configurations that are refused, and the exact words with which they are.
//!
//! `config-problems.txt` holds the cases: a text, a line `----`, what is printed about it, a line
//! `====`. `EXPECT=write cargo test -p sensor --test config` writes it anew, for review.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use sensor::config::{
    Action, Config, Daemon, DeviceTable, FlowTable, HookChoice, Interface, Level, Policy, Ports,
    Transport,
};

const FILE: &str = "sensor.toml";

fn printed(text: &str) -> String {
    match Config::parse(text, Path::new(FILE)) {
        Ok(checked) => checked.warnings.to_string(),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn each_problem_is_told_in_its_words() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/config-problems.txt");
    let cases = fs::read_to_string(&file).unwrap();
    let mut anew = String::new();
    for case in cases.split("\n====\n").filter(|case| !case.is_empty()) {
        let (text, _) = case.split_once("\n----\n").expect("a case has a line ----");
        let _ = write!(anew, "{text}\n----\n{}\n====\n", printed(text));
    }
    if env::var("EXPECT").is_ok_and(|what| what == "write") {
        fs::write(&file, &anew).unwrap();
        return;
    }
    assert!(!anew.is_empty());
    for (expected, actual) in cases.split("\n====\n").zip(anew.split("\n====\n")) {
        assert_eq!(actual, expected, "\n{actual}\n\nis not\n\n{expected}");
    }
}

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let text = "[[interface]]\nname = \"br-lan\"\n";
    let checked = Config::parse(text, Path::new(FILE)).unwrap();
    assert!(checked.warnings.is_empty());
    let expected = Config {
        interfaces: vec![Interface {
            name: "br-lan".to_owned(),
            hook: HookChoice::Auto,
        }],
        flow_table: FlowTable {
            capacity: 65_536,
            idle_after: Duration::from_secs(120),
        },
        device_table: DeviceTable { capacity: 1_024 },
        daemon: Daemon {
            tick: Duration::from_secs(1),
            listen: "127.0.0.1:9617".parse().unwrap(),
            pin_directory: "/sys/fs/bpf/gateway-sensor".into(),
            keep_running: true,
        },
        policies: Vec::new(),
    };
    assert_eq!(checked.config, expected);
}

#[test]
fn every_key_is_read() {
    let text = r#"
        interface = [{ name = "lan0", hook = "xdp-native" }, { name = "wlan0.20", hook = "tc" }]
        flow_table = { capacity = 1_024, idle_after = "500s" }
        device_table.capacity = 0x10
        [daemon]
        tick = "250ms"
        listen = "[::1]:9000"
        pin_directory = "/sys/fs/bpf/lab"
        keep_running = false
        [[policy]]
        name = "all"
        devices = ["A4:50:46:1F:00:2c"]
        remotes = ["0.0.0.0/0", "2001:DB8::/32", "198.51.100.1"]
        ports = [443, "udp/53", "8000-8100", "tcp/1-65535"]
        action = "drop"
        [[policy]]
        name = "seen"
        ports = [22]
    "#;
    let ports = |first, last, transport| Ports {
        first,
        last,
        transport,
    };
    let expected = Config {
        interfaces: vec![
            Interface {
                name: "lan0".to_owned(),
                hook: HookChoice::XdpNative,
            },
            Interface {
                name: "wlan0.20".to_owned(),
                hook: HookChoice::Tc,
            },
        ],
        flow_table: FlowTable {
            capacity: 1_024,
            idle_after: Duration::from_secs(500),
        },
        device_table: DeviceTable { capacity: 16 },
        daemon: Daemon {
            tick: Duration::from_millis(250),
            listen: "[::1]:9000".parse().unwrap(),
            pin_directory: "/sys/fs/bpf/lab".into(),
            keep_running: false,
        },
        policies: vec![
            Policy {
                name: "all".to_owned(),
                devices: vec![[0xa4, 0x50, 0x46, 0x1f, 0x00, 0x2c]],
                remotes: vec![
                    "0.0.0.0/0".parse().unwrap(),
                    "2001:db8::/32".parse().unwrap(),
                    "198.51.100.1/32".parse().unwrap(),
                ],
                ports: vec![
                    ports(443, 443, Transport::Any),
                    ports(53, 53, Transport::Udp),
                    ports(8000, 8100, Transport::Any),
                    ports(1, 65_535, Transport::Tcp),
                ],
                action: Action::Drop,
            },
            Policy {
                name: "seen".to_owned(),
                devices: Vec::new(),
                remotes: Vec::new(),
                ports: vec![ports(22, 22, Transport::Any)],
                action: Action::Observe,
            },
        ],
    };
    let checked = Config::parse(text, Path::new(FILE)).unwrap();
    assert_eq!(checked.config, expected);
}

#[test]
fn the_example_that_is_shipped_is_valid() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/sensor.toml");
    match Config::load(&file) {
        Ok(checked) => assert!(checked.warnings.is_empty(), "{}", checked.warnings),
        Err(problems) => panic!("{problems}"),
    }
}

#[test]
fn a_file_that_cannot_be_read_has_a_sentence() {
    let folder = env::temp_dir().join(format!("sensor-config-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let latin = folder.join("latin.toml");
    fs::write(&latin, b"# Gr\xfc\xdfe\n[[interface]]\nname = \"lan0\"\n").unwrap();
    let latin_printed = Config::load(&latin).unwrap_err().to_string();
    let folder_printed = Config::load(&folder).unwrap_err().to_string();
    let missing_printed = Config::load(&folder.join("none.toml"))
        .unwrap_err()
        .to_string();
    fs::remove_dir_all(&folder).unwrap();

    assert!(
        latin_printed.starts_with("error: the configuration file is not UTF-8"),
        "{latin_printed}"
    );
    assert!(latin_printed.contains("latin.toml:1:5"), "{latin_printed}");
    assert!(latin_printed.contains("0xfc"), "{latin_printed}");
    assert!(
        folder_printed.starts_with("error: the configuration file is a folder"),
        "{folder_printed}"
    );
    assert!(
        missing_printed.starts_with("error: the configuration file does not exist"),
        "{missing_printed}"
    );
    assert!(missing_printed.contains("none.toml"), "{missing_printed}");
}

fn long_list(item: impl Fn(u32) -> String) -> String {
    let mut text = String::from("[[interface]]\nname = \"lan0\"\n[[policy]]\nname = \"long\"\n");
    text.push_str("remotes = [\n");
    for number in 0..100_000 {
        let _ = writeln!(text, "  \"{}\",", item(number));
    }
    text.push_str("]\n");
    text
}

#[test]
fn a_sixty_fifth_policy_is_refused_where_it_stands() {
    let policies = |count: u32| {
        let mut text = String::from("[[interface]]\nname = \"lan0\"\n");
        for number in 1..=count {
            let _ = writeln!(text, "[[policy]]\nname = \"p{number}\"\nports = [{number}]");
        }
        text
    };
    assert_eq!(printed(&policies(64)), "");
    let refused = printed(&policies(65));
    assert!(
        refused.starts_with("error: 65 policies are configured; at most 64 can be in force"),
        "{refused}"
    );
    assert!(refused.contains("sensor.toml:195:1"), "{refused}");
}

/// Far above what it takes (a debug build included), far below what a quadratic check would.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_hundred_thousand_prefixes_are_read_at_once() {
    let text = long_list(|n| format!("10.{}.{}.{}/32", n >> 16, (n >> 8) & 255, n & 255));
    let start = Instant::now();
    let checked = Config::parse(&text, Path::new(FILE)).unwrap();
    assert_eq!(checked.config.policies[0].remotes.len(), 100_000);
    assert!(checked.warnings.is_empty());
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn of_a_hundred_thousand_problems_twenty_are_shown() {
    let text = long_list(|n| format!("10.{}.{}.1/24", n >> 8, n & 255));
    let start = Instant::now();
    let problems = Config::parse(&text, Path::new(FILE)).unwrap_err();
    assert_eq!(problems.count(Level::Error), 100_000);
    let printed = problems.to_string();
    assert_eq!(printed.matches("error: ").count(), 20);
    assert!(printed.ends_with("and 99980 more, not shown"), "{printed}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn colours_are_only_where_they_are_asked_for() {
    let problems = Config::parse("", Path::new(FILE)).unwrap_err();
    assert!(!problems.render(false).contains('\u{1b}'));
    assert!(problems.render(true).contains('\u{1b}'));
}

/// Texts that are near enough to a configuration to come past the first check.
fn near_text() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("[[interface]]".to_owned()),
        Just("[[policy]]".to_owned()),
        Just("[flow_table]".to_owned()),
        Just("[daemon]".to_owned()),
        ("[a-z_]{1,12}", "\\PC{0,20}").prop_map(|(key, value)| format!("{key} = {value}")),
        (
            prop_oneof![
                Just("name"),
                Just("hook"),
                Just("devices"),
                Just("remotes"),
                Just("ports"),
                Just("action"),
                Just("tick"),
                Just("listen"),
                Just("capacity"),
                Just("idle_after"),
                Just("pin_directory"),
            ],
            prop_oneof![
                "[0-9a-f:./-]{0,20}".prop_map(|text| format!("\"{text}\"")),
                "[0-9a-f:./-]{0,20}".prop_map(|text| format!("[\"{text}\", \"{text}\"]")),
                "\\PC{0,20}".prop_map(|text| format!("'{text}'")),
                any::<i64>().prop_map(|number| number.to_string()),
            ],
        )
            .prop_map(|(key, value)| format!("{key} = {value}")),
    ];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let _ = printed(&text);
    }

    #[test]
    fn a_text_near_to_a_configuration_is_read_or_refused(text in near_text()) {
        let _ = printed(&text);
    }
}
