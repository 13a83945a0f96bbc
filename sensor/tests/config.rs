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
use sensor::{
    catalog::{List, NetworkSelector, Parties, lists::Category},
    config::{
        Config, Daemon, DeviceOverride, DeviceTable, FlowTable, History, HookChoice, Interface,
        KeptNames, Level, Names,
    },
    model::Kind,
    policy::{Action, Answer, DeviceSelector, Policy, Ports, Span, Transport},
};

const FILE: &str = "sensor.toml";

fn printed(text: &str) -> String {
    match Config::parse(text, Path::new(FILE)) {
        Ok(checked) => checked.problems.to_string(),
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
    assert!(checked.problems.is_empty());
    let expected = Config {
        interfaces: vec![Interface {
            name: "br-lan".to_owned(),
            hook: HookChoice::Auto,
            ports: false,
            local: false,
        }],
        flow_table: FlowTable {
            capacity: 65_536,
            idle_after: Duration::from_secs(120),
        },
        device_table: DeviceTable {
            capacity: 1_024,
            retire_after: Duration::from_hours(168),
        },
        daemon: Daemon {
            tick: Duration::from_secs(1),
            listen: "127.0.0.1:9617".parse().unwrap(),
            hosts: Vec::new(),
            pin_directory: "/sys/fs/bpf/gateway-sensor".into(),
            keep_running: true,
            state_directory: "/var/lib/gateway-sensor".into(),
            runtime_directory: "/run/gateway-sensor".into(),
            time_zone: None,
        },
        policies: Vec::new(),
        names: Names {
            segments: 4,
            hold: Duration::from_millis(20),
            assemblies: None,
            kernel_quic: true,
        },
        parties: Parties {
            top: 20,
            builtin_lists: true,
            resolvers: Vec::new(),
            networks: Vec::new(),
            nat64: Vec::new(),
        },
        lists: Vec::new(),
        devices: Vec::new(),
        history: History {
            keep: KeptNames::Parties,
            directory: None,
            batch: Duration::from_mins(5),
            max_mib: 128,
            party_hours: Duration::from_hours(24 * 35),
            device_hours: Duration::from_hours(24 * 100),
            device_days: Duration::from_hours(24 * 760),
        },
    };
    let directory = checked.config.history_directory();
    assert_eq!(directory, Path::new("/var/lib/gateway-sensor"));
    assert_eq!(checked.config, expected);
}

#[test]
fn every_key_is_read() {
    let text = r#"
        interface = [{ name = "lan0", hook = "xdp-native" }, { name = "wlan0.20", hook = "tc", ports = true, local = true }]
        flow_table = { capacity = 1_024, idle_after = "500s" }
        device_table.capacity = 0x10
        [daemon]
        tick = "250ms"
        listen = "[::1]:9000"
        hosts = ["GW.example.", "sensor"]
        pin_directory = "/sys/fs/bpf/lab"
        keep_running = false
        state_directory = "/srv/sensor"
        runtime_directory = "/run/lab"
        time_zone = "europe/berlin"
        [[policy]]
        name = "all"
        devices = ["A4:50:46:1F:00:2c"]
        remotes = ["0.0.0.0/0", "2001:DB8::/32", "198.51.100.1"]
        ports = [443, "udp/53", "8000-8100", "tcp/1-65535"]
        action = "drop"
        [[policy]]
        name = "seen"
        ports = [22]
        [[policy]]
        name = "bedtime"
        devices = ["group:kids", "Anna's phone", "vendor:Xiaomi", "kind:tv", "a4:50:46:1f:00:2d"]
        domains = ["Ads.Example.COM", "*.b.example.", ".xn--mller-kva.example", "*.zip", "_x.y"]
        lists = ["/etc/gateway-sensor/lists/a.txt", "/etc/gateway-sensor/lists/b.txt"]
        owner = "Xiaomi"
        category = ["telemetry", "advertising"]
        remotes = ["192.0.2.0/24"]
        country = "cn"
        network = ["AS45102", "4134", 37963, "Alibaba Cloud"]
        ports = ["tcp/443"]
        encrypted_dns = "reject"
        quic = "drop"
        schedule = ["mon-fri 21:00-07:00", "sat,sun 22:00-24:00"]
        action = "reject"
        answer = "zero"
        [[policy]]
        name = "strictly"
        owner = ["Xiaomi", "Meta"]
        country = ["RU", "CN"]
        category = "dns-bypass"
        network = 45_102
        action = "allow"
        strict = true
        cname = false
        [[policy]]
        name = "seen-names"
        encrypted_dns = "allow"
        [names]
        segments = 14
        hold = "1s"
        assemblies = 4_096
        kernel_quic = false
        [parties]
        resolvers = ["192.168.1.53", "FD00::53"]
        top = 1_000
        builtin_lists = false
        networks = ["/usr/share/GeoIP/country.mmdb", "/usr/share/GeoIP/asn.mmdb"]
        nat64 = ["2001:db8:64::/96"]
        [[list]]
        file = "/etc/gateway-sensor/lists/mine.txt"
        category = "never-block"
        owner = "Müller & Co."
        [[list]]
        file = "/etc/gateway-sensor/lists/other.txt"
        [[device]]
        mac = "A4:50:46:1F:00:2c"
        name = "Anna's phone"
        kind = "phone"
        vendor = "Xiaomi"
        groups = ["kids", "Anna's"]
        history = false
        [[device]]
        mac = "a4:50:46:1f:00:2d"
        kind = "iot"
        show_sites = true
        [history]
        keep = "all"
        directory = "/srv/history"
        batch = "1s"
        max_mib = 65_536
        party_hours = "1d"
        device_hours = "48h"
        device_days = "3650d"
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
                ports: false,
                local: false,
            },
            Interface {
                name: "wlan0.20".to_owned(),
                hook: HookChoice::Tc,
                ports: true,
                local: true,
            },
        ],
        flow_table: FlowTable {
            capacity: 1_024,
            idle_after: Duration::from_secs(500),
        },
        device_table: DeviceTable {
            capacity: 16,
            retire_after: Duration::from_hours(168),
        },
        daemon: Daemon {
            tick: Duration::from_millis(250),
            listen: "[::1]:9000".parse().unwrap(),
            hosts: vec!["gw.example".to_owned(), "sensor".to_owned()],
            pin_directory: "/sys/fs/bpf/lab".into(),
            keep_running: false,
            state_directory: "/srv/sensor".into(),
            runtime_directory: "/run/lab".into(),
            time_zone: Some("Europe/Berlin".to_owned()),
        },
        policies: vec![
            Policy {
                name: "all".to_owned(),
                devices: vec![DeviceSelector::Mac([0xa4, 0x50, 0x46, 0x1f, 0x00, 0x2c])],
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
                ..Policy::default()
            },
            Policy {
                name: "seen".to_owned(),
                ports: vec![ports(22, 22, Transport::Any)],
                action: Action::Observe,
                ..Policy::default()
            },
            Policy {
                name: "bedtime".to_owned(),
                devices: vec![
                    DeviceSelector::Group("kids".to_owned()),
                    DeviceSelector::Name("Anna's phone".to_owned()),
                    DeviceSelector::Vendor("Xiaomi".to_owned()),
                    DeviceSelector::Kind(Kind::Tv),
                    DeviceSelector::Mac([0xa4, 0x50, 0x46, 0x1f, 0x00, 0x2d]),
                ],
                domains: vec![
                    "ads.example.com".to_owned(),
                    "b.example".to_owned(),
                    "xn--mller-kva.example".to_owned(),
                    "zip".to_owned(),
                    "_x.y".to_owned(),
                ],
                lists: vec![
                    "/etc/gateway-sensor/lists/a.txt".into(),
                    "/etc/gateway-sensor/lists/b.txt".into(),
                ],
                owners: vec!["Xiaomi".to_owned()],
                categories: vec![Category::Telemetry, Category::Advertising],
                remotes: vec!["192.0.2.0/24".parse().unwrap()],
                countries: vec!["CN".to_owned()],
                networks: vec![
                    NetworkSelector::Asn(45_102),
                    NetworkSelector::Asn(4_134),
                    NetworkSelector::Asn(37_963),
                    NetworkSelector::Organisation("Alibaba Cloud".to_owned()),
                ],
                ports: vec![ports(443, 443, Transport::Tcp)],
                encrypted_dns: Some(Action::Reject),
                quic: Some(Action::Drop),
                schedule: vec![
                    Span {
                        days: 0b001_1111,
                        from: 21 * 60,
                        to: 7 * 60,
                    },
                    Span {
                        days: 0b110_0000,
                        from: 22 * 60,
                        to: 24 * 60,
                    },
                ],
                action: Action::Reject,
                answer: Answer::Zero,
                strict: false,
                without_aliases: false,
            },
            Policy {
                name: "strictly".to_owned(),
                owners: vec!["Xiaomi".to_owned(), "Meta".to_owned()],
                categories: vec![Category::DnsBypass],
                countries: vec!["RU".to_owned(), "CN".to_owned()],
                networks: vec![NetworkSelector::Asn(45_102)],
                action: Action::Allow,
                strict: true,
                without_aliases: true,
                ..Policy::default()
            },
            Policy {
                name: "seen-names".to_owned(),
                encrypted_dns: Some(Action::Allow),
                ..Policy::default()
            },
        ],
        names: Names {
            segments: 14,
            hold: Duration::from_secs(1),
            assemblies: Some(4_096),
            kernel_quic: false,
        },
        parties: Parties {
            top: 1_000,
            builtin_lists: false,
            resolvers: vec!["192.168.1.53".parse().unwrap(), "fd00::53".parse().unwrap()],
            networks: vec![
                "/usr/share/GeoIP/country.mmdb".into(),
                "/usr/share/GeoIP/asn.mmdb".into(),
            ],
            nat64: vec!["2001:db8:64::/96".parse().unwrap()],
        },
        lists: vec![
            List {
                file: "/etc/gateway-sensor/lists/mine.txt".into(),
                category: Some(Category::NeverBlock),
                owner: Some("Müller & Co.".to_owned()),
            },
            List {
                file: "/etc/gateway-sensor/lists/other.txt".into(),
                category: None,
                owner: None,
            },
        ],
        devices: vec![
            DeviceOverride {
                mac: [0xa4, 0x50, 0x46, 0x1f, 0x00, 0x2c],
                name: Some("Anna's phone".to_owned()),
                kind: Some(Kind::Phone),
                vendor: Some("Xiaomi".to_owned()),
                groups: vec!["kids".to_owned(), "Anna's".to_owned()],
                history: false,
                show_sites: false,
            },
            DeviceOverride {
                mac: [0xa4, 0x50, 0x46, 0x1f, 0x00, 0x2d],
                name: None,
                kind: Some(Kind::Iot),
                vendor: None,
                groups: Vec::new(),
                history: true,
                show_sites: true,
            },
        ],
        history: History {
            keep: KeptNames::All,
            directory: Some("/srv/history".into()),
            batch: Duration::from_secs(1),
            max_mib: 65_536,
            party_hours: Duration::from_hours(24),
            device_hours: Duration::from_hours(48),
            device_days: Duration::from_hours(24 * 3_650),
        },
    };
    let checked = Config::parse(text, Path::new(FILE)).unwrap();
    assert_eq!(checked.config, expected);
}

#[test]
fn the_example_that_is_shipped_is_valid() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/sensor.toml");
    match Config::load(&file) {
        Ok(checked) => assert!(checked.problems.is_empty(), "{}", checked.problems),
        Err(problems) => panic!("{problems}"),
    }
}

/// The example with every section and key in force that it has as a comment: what follows `# [[` in
/// a paragraph, and lines of a key.
fn example_in_force() -> String {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/sensor.toml");
    let mut text = String::new();
    for paragraph in fs::read_to_string(file).unwrap().split("\n\n") {
        let mut is_section = false;
        for line in paragraph.lines() {
            is_section |= line.starts_with("# [[");
            let bare = line.strip_prefix('#').map(str::trim_start);
            let is_key = bare.and_then(|bare| bare.split_once(" = "));
            let is_key = is_key.is_some_and(|(key, _)| !key.contains([' ', '`', '#']));
            let in_force = bare.filter(|_| is_section || is_key);
            let _ = writeln!(text, "{}", in_force.unwrap_or(line));
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_example_shows_every_key_of_a_policy_and_is_valid_with_all_of_them() {
    let text = example_in_force();
    let checked = match Config::parse(&text, Path::new(FILE)) {
        Ok(checked) => checked,
        Err(problems) => panic!("{problems}"),
    };
    assert!(checked.problems.is_empty(), "{}", checked.problems);
    let config = checked.config;
    assert!(config.daemon.time_zone.is_some());
    assert!(!config.parties.networks.is_empty());
    assert!(
        config
            .devices
            .iter()
            .any(|device| !device.groups.is_empty())
    );
    let policy = &config.policies[0];
    assert!(!policy.devices.is_empty() && !policy.domains.is_empty());
    assert!(!policy.lists.is_empty() && !policy.owners.is_empty());
    assert!(!policy.categories.is_empty() && !policy.remotes.is_empty());
    assert!(!policy.countries.is_empty() && !policy.networks.is_empty());
    assert!(!policy.ports.is_empty() && !policy.schedule.is_empty());
    assert!(policy.encrypted_dns.is_some() && policy.quic.is_some());
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

/// The text printed about the files of a configuration, in a folder that holds `files`; `FOLDER`
/// stands for that folder, in the configuration and in the printed text.
fn printed_with_files(name: &str, files: &[(&str, &[u8])], text: &str) -> String {
    let folder = env::temp_dir().join(format!("sensor-config-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (file, octets) in files {
        fs::write(folder.join(file), octets).unwrap();
    }
    let folder_text = folder.to_str().unwrap();
    let file = folder.join(FILE);
    fs::write(&file, text.replace("FOLDER", folder_text)).unwrap();
    let printed = match Config::load(&file) {
        Ok(checked) => checked.problems.to_string(),
        Err(problems) => problems.to_string(),
    };
    fs::remove_dir_all(&folder).unwrap();
    printed.replace(folder_text, "FOLDER")
}

#[test]
fn each_file_that_is_named_is_looked_at() {
    let text = r#"
[[interface]]
name = "lan0"
[parties]
networks = ["FOLDER/none.mmdb", "FOLDER/text.mmdb", "FOLDER"]
[[list]]
file = "FOLDER/good.txt"
[[list]]
file = "FOLDER/none.txt"
owner = "Nobody"
[[list]]
file = "/dev/zero"
owner = "Nobody"
[[list]]
file = "FOLDER/bad.txt"
category = "advertising"
[[list]]
file = "FOLDER/idle.txt"
[[list]]
file = "FOLDER/empty.txt"
"#;
    let bad =
        "a.example\nword\n||b.example^$popup\nb*.example\nb c\nb/c\n\u{1b}[0m\nc.example\nd/\n";
    let files: [(&str, &[u8]); 5] = [
        ("text.mmdb", b"192.0.2.0/24,SG\n"),
        ("good.txt", b"# owner: Example\nexample.com\n"),
        ("bad.txt", bad.as_bytes()),
        ("idle.txt", b"a.example\nword\n"),
        ("empty.txt", b"# category: telemetry\n"),
    ];
    let printed = printed_with_files("files", &files, text);
    assert!(!printed.contains("error"), "{printed}");
    assert!(!printed.contains("good.txt"), "{printed}");
    for part in [
        "warning: the database `FOLDER/none.mmdb` does not exist",
        "warning: `FOLDER/text.mmdb` is no database of networks",
        "warning: the database `FOLDER` is not a file",
        "warning: the list `FOLDER/none.txt` does not exist\n --> FOLDER/sensor.toml:9:8",
        "warning: the list `/dev/zero` is not a file",
        "warning: `FOLDER/bad.txt` has 7 lines that are not used",
        "line 2: `word` is one word",
        "correct or remove them; the other 2 names are used",
        "line 3: `||b.example^$popup` has options that a name alone does not decide",
        "and 2 more",
        "warning: `FOLDER/idle.txt` has 1 line that is not used",
        "warning: `FOLDER/idle.txt` says nothing of 1 of its names",
        "warning: `FOLDER/empty.txt` names nothing",
    ] {
        assert!(printed.contains(part), "no {part:?} in\n{printed}");
    }
    assert_eq!(printed.matches("warning: ").count(), 9, "{printed}");
}

#[test]
fn lists_of_policies_are_looked_at_once_and_needed() {
    let text = r#"
[[interface]]
name = "lan0"
[[policy]]
name = "a"
devices = ["02:00:00:00:00:01"]
lists = ["FOLDER/good.txt", "FOLDER/none.txt", "FOLDER/bad.txt", "FOLDER/empty.txt"]
[[policy]]
name = "b"
devices = ["02:00:00:00:00:02"]
lists = ["FOLDER/bad.txt", "FOLDER/none.txt", "FOLDER", "FOLDER/both.txt", "FOLDER/page.txt"]
[[list]]
file = "FOLDER/both.txt"
owner = "Example"
"#;
    let files: [(&str, &[u8]); 5] = [
        ("page.txt", b"<html>\n<p>Please sign in.</p>\n</html>\n"),
        ("good.txt", b"example.com\n@@||www.example.com^\n"),
        ("bad.txt", b"a.example\nword\n\xff\xfe\n192.0.2.1\n"),
        ("empty.txt", b"# none\n"),
        ("both.txt", b"word\nb.example\n"),
    ];
    let printed = printed_with_files("policy-lists", &files, text);
    assert!(!printed.contains("good.txt` "), "{printed}");
    for part in [
        "error: the list `FOLDER/none.txt` does not exist\n --> FOLDER/sensor.toml:7:",
        "error: the list `FOLDER` is not a file\n",
        "error: no line of the list `FOLDER/page.txt` can be used\n",
        "line 1: `<html>` ",
        "line 3: `</html>` ",
        "warning: `FOLDER/bad.txt` has 3 lines that are not used",
        "line 2: `word` is one word",
        "line 3: `��` has letters beyond ASCII",
        "line 4: `192.0.2.1` is an address",
        "warning: `FOLDER/empty.txt` names nothing",
        "warning: `FOLDER/both.txt` has 1 line that is not used",
    ] {
        assert!(printed.contains(part), "no {part:?} in\n{printed}");
    }
    assert_eq!(printed.matches("error: ").count(), 3, "{printed}");
    assert_eq!(printed.matches("warning: ").count(), 3, "{printed}");
}

#[test]
fn a_file_that_policies_ask_is_an_error_where_it_cannot_be_used_and_all_else_works() {
    let folder = env::temp_dir().join(format!("sensor-config-asked-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("page.txt"), "<html>\n").unwrap();
    fs::write(folder.join("cut.mmdb"), "cut").unwrap();
    let file = folder.join(FILE);
    let load = |policy: &str| {
        let text = format!(
            "[[interface]]\nname = \"lan0\"\n[[list]]\nfile = \"FOLDER/none.txt\"\n\
             category = \"advertising\"\n[[list]]\nfile = \"FOLDER/page.txt\"\n\
             owner = \"Example\"\n[parties]\nnetworks = [\"FOLDER/none.mmdb\", \
             \"FOLDER/cut.mmdb\"]\n[[policy]]\nname = \"a\"\n{policy}\n"
        );
        fs::write(&file, text.replace("FOLDER", folder.to_str().unwrap())).unwrap();
        let checked = Config::load(&file).unwrap();
        assert_eq!(checked.config.policies.len(), 1);
        let messages = checked.problems.list().iter();
        let messages = messages.filter(|problem| problem.level == Level::Error);
        let folder = format!("{}/", folder.display());
        let messages = messages.map(|problem| problem.message.replace(&folder, ""));
        messages.collect::<Vec<_>>()
    };
    assert_eq!(load("ports = [1]"), [""; 0]);
    let lists = [
        "the list `none.txt` does not exist",
        "no line of the list `page.txt` can be used",
    ];
    for policy in [
        "category = \"advertising\"",
        "owner = \"Example\"",
        "encrypted_dns = \"reject\"",
    ] {
        assert_eq!(load(policy), lists, "{policy}");
    }
    let networks = [
        "the database `none.mmdb` does not exist",
        "`cut.mmdb` is no database of networks",
    ];
    for policy in ["country = \"CN\"", "network = \"AS45102\""] {
        assert_eq!(load(policy), networks, "{policy}");
    }
    let missing = load("lists = [\"FOLDER/gone.txt\"]");
    assert!(missing.contains(&"the list `gone.txt` does not exist".to_owned()));
    assert_eq!(missing.len(), 3);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_half_edited_file_tells_where_the_sensor_is_or_is_refused() {
    let file = env::temp_dir().join(format!("sensor-config-half-{}.toml", std::process::id()));
    let load_lenient = |text: &str| {
        fs::write(&file, text).unwrap();
        let checked = Config::load_lenient(&file).ok()?;
        let pins = checked.config.daemon.pin_directory.display().to_string();
        Some((pins, checked.problems.count(Level::Error)))
    };
    let default = || "/sys/fs/bpf/gateway-sensor".to_owned();
    let lan = "[[interface]]\nname = \"lan0\"\n";
    let pins = "[daemon]\npin_directory = \"/sys/fs/bpf/lab\"\n";
    let lab = || "/sys/fs/bpf/lab".to_owned();
    let list = "[[policy]]\nname = \"a\"\nlists = [\"/nowhere/at-all.txt\"]\n";
    for (text, expected) in [
        (format!("{lan}{list}"), Some((default(), 0))),
        (format!("{lan}{pins}{list}"), Some((lab(), 0))),
        // Errors elsewhere.
        (String::new(), Some((default(), 1))),
        (format!("{pins}{list}"), Some((lab(), 1))),
        (format!("{lan}{pins}{list}action = \"rej"), Some((lab(), 1))),
        (format!("{lan}{list}action = \"rej"), Some((default(), 1))),
        (
            format!("{lan}# pin_directory = \"/a\"\naction = \"rej"),
            Some((default(), 1)),
        ),
        // Errors in that, or so that it is lost.
        (lan.to_owned() + &pins.replace("/sys", "sys"), None),
        (lan.to_owned() + &pins.replace("lab\"", "lab"), None),
        (lan.to_owned() + &pins.replace(']', ""), None),
        (format!("{lan}x = \"\"\"\n{pins}"), None),
        (lan.to_owned() + &pins.replace("daemon", "deamon"), None),
        (
            lan.to_owned()
                + &pins.replace("/sys/fs/bpf/lab", "/run/lab\"\nruntime_directory = \"run"),
            None,
        ),
        (
            format!("{lan}{pins}runtime_directory = \"/run/lab\naction = 1"),
            None,
        ),
    ] {
        assert_eq!(load_lenient(&text), expected, "{text}");
    }
    fs::remove_file(&file).unwrap();
    assert!(Config::load_lenient(&file).is_err());
}

#[test]
fn owners_and_categories_are_those_of_the_lists() {
    let text = r#"
[parties]
builtin_lists = BUILTIN
[[interface]]
name = "lan0"
[[policy]]
name = "a"
owner = ["Exmaple Ltd", "example ltd", "Xiaomi", "Nobody at all"]
category = ["telemetry", "advertising"]
[[list]]
file = "FOLDER/mine.txt"
"#;
    let files: [(&str, &[u8]); 1] = [(
        "mine.txt",
        b"# owner: Example Ltd\n# category: advertising\na.example\n",
    )];
    let printed = |builtin: &str| {
        let text = text.replace("BUILTIN", builtin);
        printed_with_files(&format!("owners-{builtin}"), &files, &text)
    };
    let without = printed("false");
    for part in [
        "warning: no list has a name of the owner `Exmaple Ltd`\n --> FOLDER/sensor.toml:8:10",
        "= help: write `\"Example Ltd\"`",
        "warning: no list has a name of the owner `Xiaomi`",
        "warning: no list has a name of the owner `Nobody at all`",
        "owner = \"Nobody at all\"",
        "warning: no list has a name of the category `telemetry`\n --> FOLDER/sensor.toml:9:13",
    ] {
        assert!(without.contains(part), "no {part:?} in\n{without}");
    }
    assert_eq!(without.matches("warning: ").count(), 4, "{without}");
    let with = printed("true");
    assert_eq!(with.matches("warning: ").count(), 2, "{with}");
    assert!(!with.contains("owner `Xiaomi`"), "{with}");
}

#[test]
fn files_are_looked_at_where_the_configuration_has_an_error() {
    let text = "[[list]]\nfile = \"FOLDER/none.txt\"\ncategory = \"ads\"\n";
    let printed = printed_with_files("error", &[], text);
    assert!(
        printed.contains("error: no interface is configured"),
        "{printed}"
    );
    assert!(
        printed.contains("the list `FOLDER/none.txt` does not exist"),
        "{printed}"
    );
    let printed = printed_with_files("syntax", &[], &format!("{text}["));
    assert!(printed.contains("this is not TOML"), "{printed}");
    assert!(!printed.contains("none.txt` does not exist"), "{printed}");
}

#[test]
fn a_two_hundred_and_fifty_seventh_list_is_refused_where_it_stands() {
    let lists = |count: u32| {
        let mut text = String::from("[[interface]]\nname = \"lan0\"\n");
        for number in 1..=count {
            let _ = writeln!(text, "[[list]]\nfile = \"/{number}\"");
        }
        text
    };
    assert_eq!(printed(&lists(256)), "");
    let refused = printed(&lists(257));
    assert!(
        refused.starts_with("error: 257 lists are configured; at most 256 can be used"),
        "{refused}"
    );
    assert!(refused.contains("sensor.toml:515:1"), "{refused}");
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
        refused
            .starts_with("error: 65 policies are configured, and at most 64 rules can be in force"),
        "{refused}"
    );
    assert!(refused.contains("sensor.toml:195:1"), "{refused}");
}

#[test]
fn rules_count_and_not_policies_alone() {
    let policies = |count: u32| {
        let mut text = String::from("[[interface]]\nname = \"lan0\"\n");
        for number in 1..=count {
            let _ = writeln!(
                text,
                "[[policy]]\nname = \"p{number}\"\nports = [{number}]\nquic = \"allow\"\n\
                 encrypted_dns = \"allow\"\ndevices = [\"02:00:00:00:00:{number:02x}\"]"
            );
        }
        text
    };
    assert_eq!(printed(&policies(12)), "");
    // 5 for each: the 13th has rules 61 to 65.
    let refused = printed(&policies(13));
    assert!(
        refused.starts_with("error: 13 policies are configured, and at most 64 rules can be in"),
        "{refused}"
    );
    assert!(refused.contains("sensor.toml:75:1"), "{refused}");
    assert_eq!(refused.matches("error: ").count(), 1, "{refused}");
}

/// Far above what it takes (a debug build included), far below what a quadratic check would.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_hundred_thousand_prefixes_are_read_at_once() {
    let text = long_list(|n| format!("10.{}.{}.{}/32", n >> 16, (n >> 8) & 255, n & 255));
    let start = Instant::now();
    let checked = Config::parse(&text, Path::new(FILE)).unwrap();
    assert_eq!(checked.config.policies[0].remotes.len(), 100_000);
    assert!(checked.problems.is_empty());
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn sixty_four_policies_with_the_same_prefixes_are_compared_at_once() {
    let mut text = String::from("[[interface]]\nname = \"lan0\"\n");
    for policy in 1..=64 {
        let _ = writeln!(text, "[[policy]]\nname = \"p{policy}\"\nports = [{policy}]");
        text.push_str("domains = [\"a.example\", \"b.example\"]\nremotes = [");
        for number in 0..1_000 {
            let _ = write!(text, "\"10.{}.{}.0/24\", ", number >> 8, number & 255);
        }
        text.push_str("]\n");
    }
    let start = Instant::now();
    assert_eq!(printed(&text), "");
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
        Just("[names]".to_owned()),
        Just("[parties]".to_owned()),
        Just("[[list]]".to_owned()),
        Just("[[device]]".to_owned()),
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
                Just("segments"),
                Just("top"),
                Just("networks"),
                Just("file"),
                Just("category"),
                Just("owner"),
                Just("mac"),
                Just("kind"),
                Just("vendor"),
                Just("groups"),
                Just("domains"),
                Just("lists"),
                Just("country"),
                Just("network"),
                Just("encrypted_dns"),
                Just("quic"),
                Just("schedule"),
                Just("answer"),
                Just("strict"),
                Just("cname"),
                Just("hold"),
                Just("assemblies"),
                Just("kernel_quic"),
                Just("state_directory"),
                Just("runtime_directory"),
                Just("time_zone"),
                Just("hosts"),
            ],
            prop_oneof![
                "(vendor|kind|group|mac|name)?:?[A-Za-z]{0,8}"
                    .prop_map(|text| format!("[\"{text}\"]")),
                "\\*?\\.?([a-z]{0,6}\\.){0,18}[a-z]{0,6}".prop_map(|text| format!("[\"{text}\"]")),
                "(mon|fri-tue|daily|sat,sun|weekend)? ?[0-9:]{1,5}-[0-9:]{1,5}"
                    .prop_map(|text| format!("[\"{text}\"]")),
                "(AS)?[0-9]{1,12}".prop_map(|text| format!("\"{text}\"")),
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
