//! Faults around a sensor, each with the real daemon in a lab of its own. Runs as root.

#[path = "faults/attachment.rs"]
mod attachment;
#[path = "faults/daemon.rs"]
mod daemon;
#[path = "faults/flood.rs"]
mod flood;
#[path = "faults/ports.rs"]
mod ports;
#[path = "faults/slow.rs"]
mod slow;
#[path = "faults/wire.rs"]
mod wire;

use std::{
    env, fs, io,
    net::{SocketAddr, TcpStream, UdpSocket},
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Signal, geteuid, getrlimit};
use sensor::control::socket::Place;
use xtask::{
    lab::{self, Device, Host, Lab, Options, pass},
    setup::{self, Need},
};

use daemon::{Daemon, LIMIT, Metrics, SENSOR, Settings, run, run_by};

/// A lab without devices; `None` where there can be none and nobody insists.
fn lab() -> Option<Lab> {
    lab_of(Options::default())
}

/// As [`lab`], of another kind.
fn lab_of(options: Options) -> Option<Lab> {
    if !geteuid().is_root() && env::var_os("CI").is_none() {
        eprintln!("not run: namespaces and programs in the kernel take root");
        return None;
    }
    setup::ensure(&[Need::Lab]).expect("the lab's programs");
    Some(Lab::start(options).expect("a lab"))
}

/// That a pin directory has nothing in it, as only the gateway can see.
#[track_caller]
fn nothing_pinned(lab: &Lab, pins: &Path) {
    let left = lab.gateway.run(&format!("find {}", pins.display()));
    // Not even the directory: `find` fails.
    assert!(left.is_err(), "{left:?}");
}

/// That nothing of a sensor is on an interface of the gateway.
#[track_caller]
fn nothing_attached(lab: &Lab, interface: &str) {
    assert_eq!(wire::xdp(&lab.gateway, interface), None, "{interface}");
    assert_eq!(wire::tc(&lab.gateway, interface), 0, "{interface}");
}

#[test]
fn a_second_sensor_is_refused_and_the_first_goes_on() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    wire::lay(&lab.gateway, "two");
    let settings = Settings::new(&lab, &["one"]);
    let mut first = Daemon::start(&lab, &settings);
    let process = first.process.id();
    wire::upload(&lab.gateway, "one", 10);

    let on_it = format!("another sensor (process {process}) is already on interface one");
    run(&lab, &settings, &["run"]).refused(&on_it);
    let elsewhere = Settings {
        pins: settings.pins.with_file_name("second"),
        port: 9618,
        ..settings.clone()
    };
    run(&lab, &elsewhere, &["run"]).refused(&on_it);
    nothing_pinned(&lab, &elsewhere.pins);

    let tables = format!(
        "another sensor (process {process}) uses the tables at {}",
        settings.pins.display()
    );
    let other_interface = Settings::new(&lab, &["two"]);
    run(&lab, &other_interface, &["run"]).refused(&tables);
    let other_port = Settings {
        port: 9618,
        ..other_interface
    };
    run(&lab, &other_port, &["run"]).refused(&tables);
    nothing_attached(&lab, "two");

    wire::upload(&lab.gateway, "one", 10);
    first.counts("one", 20);
    let log = first.end();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[test]
fn an_interface_that_is_missing_is_named_and_nothing_stays() {
    let Some(lab) = lab() else { return };
    let settings = Settings::new(&lab, &["late"]);
    run(&lab, &settings, &["run"]).refused("interface late does not exist: `ip link` lists");
    nothing_pinned(&lab, &settings.pins);
    let doctor = run(&lab, &settings, &["doctor"]);
    doctor.refused("missing interface: interface late does not exist");

    wire::lay(&lab.gateway, "here");
    let mut daemon = Daemon::spawn(&lab, &Settings::new(&lab, &["here", "late"]));
    let log = daemon.log();
    assert_eq!(
        log.matches("interface late does not exist").count(),
        1,
        "{log}"
    );
    daemon.wait_until("healthy but not ready", |daemon| {
        daemon.get("healthz").is_some() && daemon.get("readyz").is_none()
    });
    wire::upload(&lab.gateway, "here", 3);
    daemon.counts("here", 3);
    wire::lay(&lab.gateway, "late");
    daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
    wire::upload(&lab.gateway, "late", 7);
    let metrics = daemon.counts("late", 7);
    assert_eq!(metrics.hook("late", "upload"), "xdp-native");
    assert_eq!(device_packets(&metrics), 10.0);
}

/// The uploads of the one device there is.
fn device_packets(metrics: &Metrics) -> f64 {
    let labels = [
        ("device", wire::DEVICE_MAC),
        ("family", "ipv4"),
        ("direction", "upload"),
    ];
    let packets = metrics.value("sensor_device_packets_total", &labels);
    let bytes = metrics.value("sensor_device_bytes_total", &labels);
    assert_eq!(bytes, packets * wire::FRAME as f64);
    packets
}

#[test]
fn an_interface_that_goes_and_comes_back_loses_no_count() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    wire::lay(&lab.gateway, "two");
    let settings = Settings::new(&lab, &["one", "two"]);
    let mut daemon = Daemon::start(&lab, &settings);
    wire::upload(&lab.gateway, "one", 5);
    let before = daemon.counts("one", 5);
    assert_eq!(before.hook("one", "upload"), "xdp-native");

    wire::cut(&lab.gateway, "one");
    daemon.wait_until("without the interface", |daemon| {
        daemon.scrape().is_some_and(|metrics| {
            metrics.hook("one", "upload") == "none" && metrics.hook("one", "download") == "none"
        }) && daemon.get("readyz").is_none()
    });
    daemon.scrape().continue_from(&before);
    wire::upload(&lab.gateway, "two", 2);
    daemon.counts("two", 2);

    wire::lay(&lab.gateway, "one");
    daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
    wire::upload(&lab.gateway, "one", 7);
    let after = daemon.counts("one", 12);
    after.continue_from(&before);
    assert_eq!(after.hook("one", "upload"), "xdp-native");
    assert_eq!(device_packets(&after), 14.0);

    // While nobody watches, too.
    daemon.end();
    wire::cut(&lab.gateway, "one");
    let mut daemon = Daemon::spawn(&lab, &settings);
    daemon.wait_until("without the interface", |daemon| {
        daemon.scrape().is_some_and(|metrics| {
            metrics.hook("one", "upload") == "none" && metrics.hook("two", "upload") == "xdp-native"
        })
    });
    daemon.end();
    wire::lay(&lab.gateway, "one");
    let mut daemon = Daemon::start(&lab, &settings);
    wire::upload(&lab.gateway, "one", 1);
    let last = daemon.counts("one", 13);
    last.continue_from(&after);
    assert_eq!(last.hook("one", "upload"), "xdp-native");
}

#[test]
fn an_xdp_program_of_somebody_else_is_left_alone() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    let native = settings.clone().hook("xdp-native");
    let taken = "interface one already has an XDP program that is not ours: detach it";

    for mode in [pass::Mode::Generic, pass::Mode::Native] {
        let foreign = lab.gateway.enter(|| pass::attach("one", mode));
        let foreign = foreign.expect("entered").expect("a foreign program");
        let there = wire::xdp(&lab.gateway, "one");
        assert!(there.is_some());
        run(&lab, &native, &["run"]).refused(taken);
        nothing_pinned(&lab, &settings.pins);
        assert_eq!(wire::xdp(&lab.gateway, "one"), there, "{mode:?}");
        assert_eq!(wire::tc(&lab.gateway, "one"), 0, "{mode:?}");

        let mut daemon = Daemon::start(&lab, &settings);
        let log = daemon.log();
        assert!(
            log.contains(
                "interface one: uploads are read at TC, not at XDP: interface one already has"
            ),
            "{log}"
        );
        wire::upload(&lab.gateway, "one", 10);
        let metrics = daemon.counts("one", 10);
        assert!(["tcx", "clsact"].contains(&metrics.hook("one", "upload")));
        assert_eq!(device_packets(&metrics), 10.0);
        daemon.end();
        // A start beside it leaves no moment without accounting and filter.
        let sent = AtomicU64::new(10);
        let stop = AtomicBool::new(false);
        let mut daemon = thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    wire::upload(&lab.gateway, "one", 200);
                    sent.fetch_add(200, Ordering::Relaxed);
                }
            });
            let daemon = Daemon::start(&lab, &settings);
            stop.store(true, Ordering::Relaxed);
            daemon
        });
        let sent = sent.into_inner();
        daemon.counts("one", sent);
        // Nor does a reload that asks for what is not to be had.
        fs::write(&daemon.file, native.text()).expect("written");
        daemon.wait_until("not ready", |daemon| daemon.get("readyz").is_none());
        assert!(daemon.log().contains(taken), "{}", daemon.log());
        wire::upload(&lab.gateway, "one", 5);
        daemon.counts("one", sent + 5);
        daemon.end();
        run(&lab, &settings, &["unload"]).fine();
        assert_eq!(wire::xdp(&lab.gateway, "one"), there, "{mode:?}");
        assert_eq!(wire::tc(&lab.gateway, "one"), 0, "{mode:?}");
        wire::release(&lab.gateway, "one", foreign);
    }
}

#[test]
fn an_interface_that_comes_back_taken_is_told_once_and_had_when_free() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    wire::lay(&lab.gateway, "two");
    let settings = Settings::new(&lab, &["one", "two"]).hook("xdp-native");
    let mut daemon = Daemon::start(&lab, &settings);
    wire::cut(&lab.gateway, "one");
    daemon.wait_until("without the interface", |daemon| {
        daemon.get("readyz").is_none()
    });
    lab.gateway
        .ip("link add one-away type veth peer name one-far")
        .expect("a veth");
    let foreign = lab
        .gateway
        .enter(|| pass::attach("one-away", pass::Mode::Native));
    let foreign = foreign.expect("entered").expect("a foreign program");
    lab.gateway
        .ip("link set one-away name one")
        .expect("renamed");
    // Ten ticks, each of which finds it taken.
    thread::sleep(Duration::from_secs(1));
    let log = daemon.log();
    assert_eq!(
        log.matches("already has an XDP program that is not ours")
            .count(),
        1,
        "{log}"
    );
    drop(foreign);
    daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
}

#[test]
fn too_little_privilege_is_said() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    // Where anybody may read it and run it.
    let folder = env::temp_dir().join(format!("gateway-sensor-faults-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let program = folder.join("sensor");
    // By another process: a test that forks at the same moment would keep the file open for writing, and
    // nobody could run it.
    let copied = std::process::Command::new("cp")
        .args([Path::new(SENSOR), &program])
        .status();
    assert!(copied.expect("cp").success());
    let file = folder.join("sensor.toml");
    fs::write(&file, settings.text()).expect("a configuration");
    let as_nobody = |words: &str| {
        let program = program.display().to_string();
        let file = file.display().to_string();
        let mut command = lab.gateway.command(
            "setpriv",
            ["--reuid=65534", "--regid=65534", "--clear-groups"],
        );
        command.args([&program, "--config", &file]);
        command.args(words.split(' '));
        let output = command.output().expect("setpriv");
        daemon::Ended {
            code: output.status.code(),
            said: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        }
    };
    let sentence = "too little privilege for BPF (without CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON): \
                    run as root, or give the process";
    as_nobody("run").refused(sentence);
    as_nobody("check").fine();
    as_nobody("doctor").refused(sentence);
    // As root in name only.
    let stripped = lab.gateway.command(
        "setpriv",
        ["--bounding-set=-all", "--inh-caps=-all", SENSOR, "run"],
    );
    run_by(&lab, &settings, stripped).refused(sentence);
    nothing_pinned(&lab, &settings.pins);
    nothing_attached(&lab, "one");

    // This user may not look at the tables, and must not be told that there are none.
    let _daemon = Daemon::start(&lab, &settings);
    for word in ["devices", "flows", "status", "unload"] {
        let ended = as_nobody(word);
        ended.refused("too little privilege");
        assert!(
            !ended.said.contains("no sensor has its tables"),
            "{}",
            ended.said
        );
    }
    // Nor must it be told that no daemon runs because none answers, or that a command kept from it
    // is not in force.
    run(&lab, &settings, &["block", "a.example"]).fine();
    let said = as_nobody(&format!("explain {} a.example", wire::DEVICE_MAC)).fine();
    for sentence in [
        "or none that answers you, so ask as root",
        "said is left out",
    ] {
        assert!(said.contains(sentence), "{said}");
    }
    fs::remove_dir_all(&folder).expect("removed");
}

/// The unit, and the value of its one line with a key.
const UNIT: &str = include_str!("../../deploy/systemd/gateway-sensor.service");

fn of_unit(key: &str) -> &'static str {
    let mut lines = UNIT.lines().filter_map(|line| line.split_once('='));
    let found = lines.find(|(name, _)| *name == key);
    found.unwrap_or_else(|| panic!("the unit has no {key}")).1
}

/// The capabilities of the unit, as setpriv(1) takes them.
fn bounding_set() -> String {
    let capabilities = of_unit("CapabilityBoundingSet").split(' ');
    let capabilities = capabilities.map(|name| name.replace("CAP_", ",+").to_lowercase());
    format!("--bounding-set=-all{}", capabilities.collect::<String>())
}

#[test]
fn the_capabilities_of_the_unit_are_enough() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    let set = bounding_set();
    let word = |word| lab.gateway.command("setpriv", [set.as_str(), SENSOR, word]);
    run_by(&lab, &settings, word("doctor")).fine();
    // One less is told.
    let less = set.replace(",+net_raw", "");
    let less = lab.gateway.command("setpriv", [&less, SENSOR, "doctor"]);
    run_by(&lab, &settings, less).refused("servers of refused connections wait");
}

/// The daemon with all that systemd gives it by the unit: capabilities, limits, directories, environment.
#[test]
fn the_unit_gives_the_daemon_what_it_needs() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    for (directory, key) in [
        (&settings.runtime, "RuntimeDirectory"),
        (&settings.state, "StateDirectory"),
    ] {
        assert_eq!(of_unit(key), "gateway-sensor");
        fs::create_dir_all(directory).expect("a folder");
    }
    assert_eq!(of_unit("RuntimeDirectoryMode"), "0700");
    let private = fs::Permissions::from_mode(0o700);
    fs::set_permissions(&settings.runtime, private).expect("its own");
    // A machine's root may be one that cannot raise limits (a container without CAP_SYS_RESOURCE).
    let can_be = |limit: &String| {
        let set = std::process::Command::new("prlimit")
            .args([limit, "true"])
            .status();
        let can_be = set.expect("prlimit").success();
        if !can_be {
            eprintln!("not run with {limit}: this machine does not give it");
        }
        can_be
    };
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let descriptors: u64 = of_unit("LimitNOFILE").parse().expect("a number");
    let descriptors = descriptors.min(hard);
    let nice: i32 = of_unit("LimitNICE").parse().expect("a number");
    // The limit of the kernel counts from 20 down (getrlimit(2)).
    let of_nice = format!("--nice={}", 20 - nice);
    let may_be_nice = can_be(&of_nice);
    let of_memory = of_unit("LimitMEMLOCK").replace("infinity", "unlimited");
    // systemd has a soft limit of 1,024 descriptors.
    let limits = [
        format!("--nofile=1024:{descriptors}"),
        of_nice,
        format!("--memlock={of_memory}"),
    ];
    let limits: Vec<_> = limits.into_iter().filter(can_be).collect();
    let socket = env::temp_dir().join(format!("gateway-sensor-unit-{}", std::process::id()));
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut command = lab
        .gateway
        .command("nice", ["-n", of_unit("Nice"), "prlimit"]);
    command.args(&limits);
    command.args(["setpriv", "--no-new-privs", &bounding_set(), "sh", "-c"]);
    command.args([
        &format!("umask {}; exec \"$@\"", of_unit("UMask")),
        "sh",
        SENSOR,
        "run",
    ]);
    command
        .env("NOTIFY_SOCKET", &socket)
        .env("RUNTIME_DIRECTORY", &settings.runtime)
        .env("STATE_DIRECTORY", &settings.state);
    let mut daemon = Daemon::spawn_by(&lab, &settings, command);
    let mut heard = [0; 512];
    let length = manager.recv(&mut heard).expect("it is ready");
    assert!(heard[..length].starts_with(b"READY=1\n"));
    wire::upload(&lab.gateway, "one", 5);
    daemon.counts("one", 5);

    let process = PathBuf::from("/proc").join(daemon.process.id().to_string());
    let limits = fs::read_to_string(process.join("limits")).expect("its limits");
    let of_descriptors = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let of_descriptors = of_descriptors.expect("it is there").split_whitespace();
    let of_descriptors: Vec<_> = of_descriptors
        .filter_map(|word| word.parse::<u64>().ok())
        .collect();
    assert_eq!(of_descriptors, [descriptors, descriptors], "{limits}");
    let threads = fs::read_dir(process.join("task")).expect("its threads");
    let nices = threads.map(|thread| {
        let stat = fs::read_to_string(thread.expect("a thread").path().join("stat"));
        let stat = stat.expect("its numbers");
        // Behind the name, which is in brackets: the 19th field is its niceness (proc(5)).
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let niceness = fields.split(' ').nth(16).expect("more fields");
        niceness.parse::<i32>().expect("a number")
    });
    let nices: Vec<_> = nices.collect();
    assert!(!may_be_nice || nices.contains(&nice), "{nices:?}");

    run(&lab, &settings, &["block", "a.example"]).fine();
    let told = run(&lab, &settings, &["status"]).fine();
    assert!(
        told.contains("a.example") && !told.contains("no daemon"),
        "{told}"
    );
    let left = |folder: &Path| {
        let files = fs::read_dir(folder).expect("it is there");
        let mut files: Vec<_> = files
            .map(|file| {
                file.expect("a file")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        files.sort();
        files
    };
    let files = left(&settings.runtime);
    assert!(
        files.len() == 2 && files[0].starts_with("control-") && files[1].starts_with("interface-"),
        "{files:?}"
    );
    let log = daemon.end();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    assert_eq!(left(&settings.runtime), [""; 0]);
    assert_eq!(left(&settings.state), ["commands.json", "history.db"]);
    fs::remove_file(&socket).expect("removed");
}

#[test]
fn sensors_of_two_namespaces_share_a_runtime_directory() {
    let Some(one) = lab() else { return };
    let Some(two) = lab() else { return };
    let labs = [&one, &two];
    // The same names, and the same numbers of interfaces.
    let settings = labs.map(|lab| {
        wire::lay(&lab.gateway, "one");
        Settings {
            runtime: one.runtime(),
            ..Settings::new(lab, &["one"])
        }
    });
    let mut daemons = [0, 1].map(|place| Daemon::start(labs[place], &settings[place]));
    run(&one, &settings[0], &["block", "a.example"]).fine();
    for (place, daemon) in daemons.iter_mut().enumerate() {
        let packets = 3 + place as u64;
        wire::upload(&labs[place].gateway, "one", packets as usize);
        daemon.counts("one", packets);
        let told = run(labs[place], &settings[place], &["status"]).fine();
        assert_eq!(told.contains("a.example"), place == 0, "{told}");
    }
    let [first, second] = daemons;
    second.end();
    let told = run(&one, &settings[0], &["status"]).fine();
    assert!(told.contains("a.example"), "{told}");
    let none = run(&two, &settings[1], &["status"]).fine();
    assert!(none.contains("no daemon runs"), "{none}");
    first.end();
}

#[test]
fn a_runtime_directory_of_another_user_is_named_and_nothing_stays() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    fs::create_dir_all(&settings.runtime).expect("a folder");
    std::os::unix::fs::chown(&settings.runtime, Some(65_534), None).expect("given away");
    let sentence = format!(
        "{} cannot be used, for the sensor's locks and its socket: it belongs to user 65534",
        settings.runtime.display()
    );
    run(&lab, &settings, &["run"]).refused(&sentence);
    nothing_pinned(&lab, &settings.pins);
    std::os::unix::fs::chown(&settings.runtime, Some(0), None).expect("given back");

    // Something in the socket's place is named, and accounting goes on.
    let place = Place::new(&settings.runtime, &settings.pins);
    fs::create_dir(place.file()).expect("a folder");
    let mut daemon = Daemon::start(&lab, &settings);
    let said = format!("{} is a directory of user 0", place.file().display());
    assert!(daemon.log().contains(&said), "{}", daemon.log());
    wire::upload(&lab.gateway, "one", 2);
    daemon.counts("one", 2);
    run(&lab, &settings, &["block", "a.example"])
        .refused("no daemon runs, and nothing has changed");
    daemon.end();
    assert!(place.file().is_dir());
    fs::remove_dir(place.file()).expect("removed");

    // A daemon that was killed leaves its socket and its lock.
    let daemon = Daemon::start(&lab, &settings);
    daemon.process.kill().expect("killed");
    assert!(place.file().exists());
    let _daemon = Daemon::start(&lab, &settings);
    run(&lab, &settings, &["block", "a.example"]).fine();
}

#[test]
fn without_a_bpf_file_system_the_mount_is_named() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let folder = lab.gateway.folder.join("plain");
    fs::create_dir(&folder).expect("a folder");
    let settings = Settings {
        pins: folder.join("sensor"),
        ..Settings::new(&lab, &["one"])
    };
    let sentence = format!(
        "{} is not on a BPF file system: mount one (`mount -t bpf bpf {}`)",
        settings.pins.display(),
        folder.display()
    );
    run(&lab, &settings, &["run"]).refused(&sentence);
    run(&lab, &settings, &["doctor"]).refused(&sentence);
    assert!(!settings.pins.exists());
    nothing_attached(&lab, "one");
    // And the command that the sentence names is the remedy.
    lab.gateway
        .command(
            "sh",
            [
                "-c",
                &format!(
                    "mount -t bpf bpf {0} && {SENSOR} doctor --config {1}",
                    folder.display(),
                    settings.write(&lab, "doctor").display()
                ),
            ],
        )
        .status()
        .expect("sh")
        .success()
        .then_some(())
        .expect("doctor is content");
}

/// A policy that refuses the tracker.
fn no_tracker() -> String {
    format!(
        "[[policy]]\nname = \"tracker\"\nremotes = [\"{}\", \"{}\"]\naction = \"reject\"\n",
        lab::TRACKER_PREFIXES[0],
        lab::TRACKER_PREFIXES[1]
    )
}

/// Whether the tracker is refused: at once, not by a timeout.
fn tracker_refused(device: &Host) -> bool {
    let begun = Instant::now();
    let asked = device.run(&format!(
        "curl -fsS --max-time 4 http://{}/",
        lab::TRACKER[0]
    ));
    match asked {
        Ok(_) => false,
        Err(error) => {
            assert!(begun.elapsed() < Duration::from_secs(2), "{error:#}");
            true
        }
    }
}

/// Datagrams to the echo server and back; each comes back.
fn echo(device: &Host, count: usize) {
    device
        .enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            let address: std::net::IpAddr = lab::WEB[0].parse().expect("an address");
            socket.connect(SocketAddr::new(address, lab::ECHO_PORT))?;
            for _ in 0..count {
                socket.send(&[b'e'; 100])?;
                socket.recv(&mut [0; 200])?;
            }
            Ok::<(), io::Error>(())
        })
        .expect("entered")
        .expect("echoes");
}

#[test]
fn what_is_told_to_stay_filters_and_counts_without_the_daemon() {
    let Some(mut lab) = lab() else { return };
    let configuration = lab.configuration(&no_tracker());
    let sensor = lab
        .sensor(Path::new(SENSOR), &configuration)
        .expect("a sensor");
    lab.plug(Device::Phone).expect("a phone");
    assert!(tracker_refused(&lab.phone));
    echo(&lab.phone, 20);
    lab.balanced_books(&sensor).expect("exact books");
    // A counter of the daemon's own.
    sensor.process.signal(Signal::HUP).expect("running");
    let reloaded = |lab: &Lab, sensor: &lab::Sensor| {
        let metrics = Metrics::new(sensor.scrape(lab).expect("metrics"));
        metrics.value("sensor_policy_reloads_total", &[("outcome", "applied")]) >= 1.0
    };
    lab::wait_until("reloaded", LIMIT, || reloaded(&lab, &sensor)).expect("a reload");
    let before = Metrics::new(sensor.scrape(&lab).expect("metrics"));
    let hits = |metrics: &Metrics| {
        metrics.value(
            "sensor_policy_hits_total",
            &[("policy", "tracker"), ("direction", "upload")],
        )
    };

    let file = sensor.configuration().to_owned();
    let status = sensor.process.stop().expect("an end");
    assert_eq!(status.code(), Some(0));
    // Nobody is there: the filter refuses, what passes is counted, and can be read.
    assert!(tracker_refused(&lab.phone));
    echo(&lab.phone, 30);
    let command = |words: &[&str]| {
        let mut command = lab.gateway.command(SENSOR, words);
        command.arg("--config").arg(&file);
        xtask::command::capture(&mut command).expect("exit status 0")
    };
    for word in ["devices", "flows", "status", "doctor", "check"] {
        assert!(!command(&[word]).is_empty(), "{word}");
    }
    let flows: serde_json::Value =
        serde_json::from_str(&command(&["flows", "--json"])).expect("JSON");
    let echoes = flows.as_array().expect("flows").iter().any(|flow| {
        flow["device"] == lab::PHONE_MAC
            && flow["traffic"]["upload"]["packets"] == 30
            && flow["traffic"]["download"]["packets"] == 30
    });
    assert!(echoes, "{flows:#}");

    let sensor = lab
        .sensor(Path::new(SENSOR), &configuration)
        .expect("a sensor");
    assert!(
        sensor
            .process
            .log()
            .contains("were adopted with all their counts"),
        "{}",
        sensor.process.log()
    );
    let after = Metrics::new(sensor.scrape(&lab).expect("metrics"));
    after.continue_from(&before);
    assert!(hits(&after) > hits(&before), "{before:?} {after:?}");
    assert!(tracker_refused(&lab.phone));
    echo(&lab.phone, 10);
    lab.balanced_books(&sensor).expect("exact books");
}

#[test]
fn a_policy_by_kind_holds_from_the_first_moment_of_a_restart() {
    let redmi = Options {
        phone: lab::Phone::Redmi,
        ..Options::default()
    };
    let Some(mut lab) = lab_of(redmi) else { return };
    let policy = no_tracker().replace(
        "remotes",
        "devices = [\"kind:phone\", \"vendor:Nobody\"]\nremotes",
    );
    let configuration = lab.configuration(&policy);
    let start = |lab: &Lab| lab.sensor(Path::new(SENSOR), &configuration);
    let mut sensor = start(&lab).expect("a sensor");
    // Its DHCP client says what it is, once in half an hour.
    lab.plug(Device::Phone).expect("a phone");
    lab::wait_until("taken for a phone", LIMIT, || tracker_refused(&lab.phone))
        .expect("a policy by kind");
    let file = lab.gateway.folder.join("state/devices.json");
    let kept = || fs::read_to_string(&file).is_ok_and(|text| text.contains("\"phone\""));
    lab::wait_until("kept", LIMIT, kept).expect("a file");

    for end in ["killed", "stopped"] {
        let stop = AtomicBool::new(false);
        let attempts = AtomicU64::new(0);
        sensor = thread::scope(|scope| {
            let refused = scope.spawn(|| {
                let mut refused = true;
                while refused && !stop.load(Ordering::Relaxed) {
                    refused = tracker_refused(&lab.phone);
                    attempts.fetch_add(1, Ordering::Relaxed);
                }
                refused
            });
            match end {
                "killed" => sensor.process.kill().expect("running"),
                _ => drop(sensor.process.stop().expect("running")),
            }
            let sensor = start(&lab);
            // Several ticks.
            thread::sleep(Duration::from_secs(3));
            stop.store(true, Ordering::Relaxed);
            assert!(refused.join().expect("it does not panic"), "{end}");
            sensor.expect("a sensor")
        });
        assert!(attempts.into_inner() > 10, "{end}");
    }
    // The evidence of the device names its source.
    let known = sensor.json(&lab, "devices").expect("devices");
    let phone = known.as_array().expect("devices").iter();
    let phone = phone.filter(|device| device["device"] == lab::REDMI_MAC);
    let phone: Vec<_> = phone.collect();
    assert_eq!(phone.len(), 1, "{known:#}");
    assert_eq!(phone[0]["kind"], "phone", "{known:#}");
    assert_eq!(phone[0]["evidence"][0]["source"], "before-restart");

    // Half a file is none: that is said, and the daemon starts.
    sensor.process.kill().expect("running");
    fs::write(&file, "[{\"device\": \"02:00:").expect("written");
    let sensor = start(&lab).expect("a sensor");
    let log = sensor.process.log();
    assert!(log.contains("devices.json"), "{log}");
    assert!(log.contains("until they tell again"), "{log}");
}

#[test]
fn idle_connections_take_neither_the_filter_nor_the_metrics() {
    const IDLE: usize = 1_100;
    let Some(lab) = lab() else { return };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most).expect("descriptors");
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    let mut sent = 0;
    for limit in ["1024:1024", "128:128"] {
        let limit = format!("--nofile={limit}");
        let command = lab
            .gateway
            .command("prlimit", [limit.as_str(), SENSOR, "run"]);
        let mut daemon = Daemon::spawn_by(&lab, &settings, command);
        let connect = || {
            let connection = |_| TcpStream::connect(("127.0.0.1", settings.port));
            (0..IDLE).map(connection).collect::<io::Result<Vec<_>>>()
        };
        let idle = lab.gateway.enter(connect).expect("entered");
        let idle = idle.expect("connections");
        let begun = Instant::now();
        daemon.scrape();
        let took = begun.elapsed();
        eprintln!(
            "{limit}: a scrape beside {} idle connections took {took:?}",
            idle.len()
        );
        assert!(took < Duration::from_secs(1), "{took:?}");
        let gave_way = [("reason", "gave-way")];
        // As of the next tick.
        daemon.wait_until("counted", |daemon| {
            daemon.scrape().is_some_and(|metrics| {
                metrics.value("sensor_http_failures_total", &gave_way) > 1_000.0
            })
        });
        daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
        assert!(wire::xdp(&lab.gateway, "one").is_some());
        wire::upload(&lab.gateway, "one", 5);
        sent += 5;
        daemon.counts("one", sent);
        drop(idle);
        let log = daemon.end();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    }
}

#[test]
fn running_out_of_descriptors_is_counted_and_ends_nothing() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    let mut daemon = Daemon::start(&lab, &settings);
    wire::upload(&lab.gateway, "one", 5);
    daemon.counts("one", 5);
    let there = wire::xdp(&lab.gateway, "one");
    let id = daemon.process.id();
    let limit = |limit: &str| {
        let command = format!("prlimit --pid {id} --nofile={limit}");
        lab.gateway.run(&command).expect("a limit");
    };
    // Less than it has: nothing more can be opened.
    limit("16:4096");
    daemon.wait_until("without answers", |daemon| daemon.get("healthz").is_none());
    wire::upload(&lab.gateway, "one", 7);
    // Several looks, and many ticks.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(wire::xdp(&lab.gateway, "one"), there);
    limit("1024:4096");
    daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
    let metrics = daemon.counts("one", 12);
    assert_eq!(daemon.process.id(), id);
    assert_eq!(wire::xdp(&lab.gateway, "one"), there);
    let without = [("reason", "no-descriptors")];
    let attempts = metrics.value("sensor_http_failures_total", &without);
    // Ten in a second at most.
    assert!((1.0..200.0).contains(&attempts), "{attempts}");
    let log = daemon.end();
    let said = "HTTP connections cannot be accepted: Too many open files";
    assert_eq!(log.matches(said).count(), 1, "{log}");
}

#[test]
fn the_limit_of_descriptors_is_raised_to_the_hard_limit() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    let command = lab
        .gateway
        .command("prlimit", ["--nofile=128:3000", SENSOR, "run"]);
    let daemon = Daemon::spawn_by(&lab, &settings, command);
    let limits = format!("/proc/{}/limits", daemon.process.id());
    let limits = fs::read_to_string(limits).expect("limits");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<_> = files.unwrap_or_default().split_whitespace().collect();
    assert_eq!(files[3..5], ["3000", "3000"], "{limits}");
}

#[test]
fn a_reload_changes_the_names_that_are_answered_to() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    let mut daemon = Daemon::start(&lab, &settings);
    let status = || {
        let words = "curl -sS --max-time 2 -o /dev/null -w %{http_code} -H Host:sensor.example \
                     http://127.0.0.1:9617/metrics";
        lab.gateway.run(words).unwrap_or_default()
    };
    assert_eq!(status(), "421");
    let named = settings
        .text()
        .replace("[daemon]\n", "[daemon]\nhosts = [\"sensor.example\"]\n");
    fs::write(&daemon.file, named).expect("written");
    daemon.wait_until("answered", |_| status() == "200");
    fs::write(&daemon.file, settings.text()).expect("written");
    daemon.wait_until("refused", |_| status() == "421");
    let host = [("reason", "host")];
    assert!(daemon.scrape().value("sensor_http_failures_total", &host) >= 2.0);
}

#[test]
fn what_is_told_to_go_is_gone() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    for hook in ["auto", "tc", "xdp-generic"] {
        let settings = Settings {
            keep_running: false,
            ..Settings::new(&lab, &["one"]).hook(hook)
        };
        let mut daemon = Daemon::start(&lab, &settings);
        wire::upload(&lab.gateway, "one", 4);
        daemon.counts("one", 4);
        assert!(wire::tc(&lab.gateway, "one") > 0);
        daemon.end();
        nothing_attached(&lab, "one");
        nothing_pinned(&lab, &settings.pins);
    }
}

#[test]
fn a_bad_configuration_is_refused_and_the_old_policy_stays() {
    let Some(mut lab) = lab() else { return };
    let settings = Settings {
        more: no_tracker(),
        ..Settings::new(&lab, &lab::PORTS)
    };
    // The phone is plugged in behind a sensor that is there already.
    let file = settings.write(&lab, "reload");
    let sensor = lab
        .sensor(Path::new(SENSOR), &settings.text())
        .expect("a sensor");
    lab.plug(Device::Phone).expect("a phone");
    assert!(tracker_refused(&lab.phone));

    let outcome = |outcome: &str| {
        let metrics = Metrics::new(sensor.scrape(&lab).expect("metrics"));
        metrics.value("sensor_policy_reloads_total", &[("outcome", outcome)])
    };
    let wait = |what: &str, ready: &dyn Fn() -> bool| {
        lab::wait_until(what, LIMIT, ready)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", sensor.process.log()));
    };
    // As editors do, renamed over it: not TOML, an action that there is not, and nothing at all.
    let bad = [
        settings.text() + "]",
        settings.text().replace("\"reject\"", "\"refuse\""),
        String::new(),
    ];
    for (text, earlier) in bad.iter().zip(0..) {
        sensor.rewrite(text).expect("written");
        wait("refused", &|| outcome("refused") > f64::from(earlier));
        assert!(tracker_refused(&lab.phone));
    }
    // By the signal, with nothing written.
    let refused = outcome("refused");
    sensor.process.signal(Signal::HUP).expect("running");
    wait("refused", &|| outcome("refused") > refused);
    assert!(tracker_refused(&lab.phone));
    let log = sensor.process.log();
    assert!(
        log.contains("the new configuration is refused, the old one stays"),
        "{log}"
    );
    assert!(log.contains("refuse"), "{log}");
    assert_eq!(outcome("applied"), 0.0);

    // Written in place, and good.
    let process = sensor.process.id();
    let observe = settings.text().replace("\"reject\"", "\"observe\"");
    fs::write(sensor.configuration(), &observe).expect("written");
    wait("applied", &|| outcome("applied") > 0.0);
    assert!(!tracker_refused(&lab.phone));
    // Away and back again, as a careless copy does.
    fs::remove_file(sensor.configuration()).expect("removed");
    let refused = outcome("refused");
    wait("refused", &|| {
        outcome("refused") > refused || outcome("refused") > 4.0
    });
    fs::rename(&file, sensor.configuration()).expect("renamed");
    wait("rejecting", &|| tracker_refused(&lab.phone));
    assert_eq!(sensor.process.id(), process);
    lab.balanced_books(&sensor).expect("exact books");
}

#[test]
fn a_list_that_is_missing_takes_nothing_else_with_it() {
    let Some(mut lab) = lab() else { return };
    let folder = lab.gateway.folder.clone();
    let (list, own) = (folder.join("ads.txt"), folder.join("own.txt"));
    let more = format!(
        "{}[[policy]]\nname = \"ads\"\nlists = [\"{}\"]\ncategory = \"advertising\"\n\
         action = \"reject\"\n[[list]]\nfile = \"{}\"\ncategory = \"advertising\"\n\
         [parties]\nbuiltin_lists = false\n",
        no_tracker(),
        list.display(),
        own.display()
    );
    // As on a disk that is not mounted yet.
    let configuration = lab.configuration(&more);
    let mut sensor = lab
        .sensor(Path::new(SENSOR), &configuration)
        .expect("a sensor");
    lab.plug(Device::Phone).expect("a phone");
    assert!(tracker_refused(&lab.phone));

    let metrics =
        |lab: &Lab, sensor: &lab::Sensor| Metrics::new(sensor.scrape(lab).expect("metrics"));
    // Whether each is kept, the names of each, and those in force.
    let lists = |lab: &Lab, sensor: &lab::Sensor| {
        let metrics = metrics(lab, sensor);
        let of = |name: &str, file: &Path| {
            let file = file.to_str().expect("UTF-8");
            metrics.value(name, &[("list", file)])
        };
        let both = |name: &str| [of(name, &list), of(name, &own)];
        (
            both("sensor_policy_list_kept"),
            both("sensor_policy_list_names"),
            metrics.value("sensor_policy_names", &[]),
        )
    };
    assert_eq!(lists(&lab, &sensor), ([1.0; 2], [0.0; 2], 0.0));
    let log = sensor.process.log();
    assert!(log.contains("nothing of it is in force"), "{log}");
    let command = |lab: &Lab, sensor: &lab::Sensor, words: &[&str]| {
        xtask::command::capture(&mut sensor.command(lab, words))
    };
    let works = |lab: &Lab, sensor: &lab::Sensor| {
        for words in [
            &["status"][..],
            &["devices"],
            &["flows"],
            &["doctor"],
            &["explain", lab::PHONE_MAC, "a.example"],
            &["block", "a.example"],
            &["allow", "a.example"],
            &["forget", "a.example"],
        ] {
            command(lab, sensor, words).unwrap_or_else(|error| panic!("{words:?}: {error:#}"));
        }
    };
    let check = |lab: &Lab, sensor: &lab::Sensor, expected: &str| {
        let error = command(lab, sensor, &["check"]).expect_err("it has an error");
        assert!(error.to_string().contains(expected), "{error:#}");
    };
    works(&lab, &sensor);
    check(&lab, &sensor, "ads.txt` does not exist");

    let reload = |lab: &Lab, sensor: &mut lab::Sensor| {
        let applied = |metrics: &Metrics| {
            metrics.value("sensor_policy_reloads_total", &[("outcome", "applied")])
        };
        let before = applied(&metrics(lab, sensor));
        sensor.process.signal(Signal::HUP).expect("running");
        lab::wait_until("applied", LIMIT, || applied(&metrics(lab, sensor)) > before)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", sensor.process.log()));
    };
    // The disk is mounted, and lost.
    fs::write(&list, "a.example\nb.example\n").expect("a list");
    fs::write(&own, "c.example\n").expect("a list");
    let there = ([0.0; 2], [2.0, 1.0], 3.0);
    lab::wait_until("in force", LIMIT, || lists(&lab, &sensor) == there)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", sensor.process.log()));
    // An updater puts another one in its place.
    let update = folder.join("ads.new");
    for (text, names, told) in [
        (
            "b.example\nd.example\ne.example\n",
            3.0,
            "2 names came, 1 went",
        ),
        ("a.example\nb.example\n", 2.0, "1 names came, 2 went"),
    ] {
        fs::write(&update, text).expect("a list");
        fs::rename(&update, &list).expect("renamed");
        let expected = ([0.0; 2], [names, 1.0], names + 1.0);
        lab::wait_until("taken up", LIMIT, || lists(&lab, &sensor) == expected)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", sensor.process.log()));
        let log = sensor.process.log();
        assert!(log.contains(told), "{log}");
        assert!(tracker_refused(&lab.phone));
    }
    fs::remove_file(&list).expect("a list");
    fs::remove_file(&own).expect("a list");
    reload(&lab, &mut sensor);
    assert_eq!(lists(&lab, &sensor), ([1.0; 2], [2.0, 1.0], 3.0));
    let log = sensor.process.log();
    assert!(log.contains("what it had before stays in force"), "{log}");
    works(&lab, &sensor);

    // And the configuration is half edited.
    let half = configuration.clone() + "[[policy]]\nname = \"half";
    sensor.rewrite(&half).expect("written");
    works(&lab, &sensor);
    check(&lab, &sensor, "this is not TOML");
    let file = sensor.configuration().to_owned();
    sensor.process.stop().expect("an end");
    for word in ["status", "unload"] {
        let mut command = lab.gateway.command(SENSOR, [word]);
        command.arg("--config").arg(&file);
        xtask::command::capture(&mut command).expect("exit status 0");
    }
    nothing_pinned(&lab, &lab.pins());
}

#[test]
fn what_commands_said_is_no_reason_not_to_start_where_it_does_not_fit() {
    let Some(mut lab) = lab() else { return };
    let state = lab.gateway.folder.join("state");
    fs::create_dir_all(&state).expect("a folder");
    let said: Vec<_> = (0..64)
        .map(|number| {
            serde_json::json!({
                "domain": "a.example", "device": {"Mac": [2, 0, 0, 0, 0, number]},
                "blocks": true, "since": 1.0, "until": null,
            })
        })
        .collect();
    let commands = serde_json::Value::from(said).to_string();
    fs::write(state.join("commands.json"), &commands).expect("written");
    let sensor = lab
        .sensor(Path::new(SENSOR), &lab.configuration(&no_tracker()))
        .expect("a sensor");
    lab.plug(Device::Phone).expect("a phone");
    assert!(tracker_refused(&lab.phone));
    let log = sensor.process.log();
    let expected = "what `sensor block` and `allow` said is not in force, for not all has a place: \
                    the policies make 65 rules, and there is room for 64";
    assert!(log.contains(expected), "{log}");
    let check = sensor.command(&lab, &["check"]).output().expect("started");
    let warned = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "{warned}");
    assert!(
        warned.contains("with what commands said, the policies make 65 rules"),
        "{warned}"
    );
    let status = sensor.json(&lab, "status").expect("a status");
    assert_eq!(status["commands"], serde_json::json!([]));

    // Not forgotten, and in force again once there is a place.
    let command = |words: &[&str]| xtask::command::capture(&mut sensor.command(&lab, words));
    let refused = command(&["block", "b.example", "--device", "02:00:00:00:01:00"]);
    let refused = refused.expect_err("it has no place").to_string();
    assert!(refused.contains("66 rules"), "{refused}");
    command(&["forget", "a.example", "--device", "02:00:00:00:00:00"]).expect("forgotten");
    let status = sensor.json(&lab, "status").expect("a status");
    assert_eq!(status["commands"].as_array().map(Vec::len), Some(63));
    assert!(tracker_refused(&lab.phone));
}

#[test]
fn what_needs_no_configuration_works_without() {
    let Some(lab) = lab() else { return };
    let absent = lab.gateway.folder.join("absent.toml");
    // The household has no BPF file system where one is by default: this process gets its own.
    let sensor = |words: &[&str], file: &Path| {
        const MOUNTED: &str = "mount -t bpf bpf /sys/fs/bpf && exec \"$@\"";
        let mut command = lab
            .gateway
            .command("unshare", ["--mount", "sh", "-c", MOUNTED, "sh", SENSOR]);
        let output = command.args(words).arg("--config").arg(file).output();
        let output = output.expect("started");
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (code, said) = sensor(&["doctor"], &absent);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("absent.toml does not exist"), "{said}");
    assert!(said.contains("ok      kernel"), "{said}");
    // Nothing is there to be removed, and that is about the kernel, not about the file.
    let (_, said) = sensor(&["unload"], &absent);
    assert!(
        said.contains("no sensor has its tables at /sys/fs/bpf/gateway-sensor"),
        "{said}"
    );
    let (code, said) = sensor(&["devices"], &absent);
    assert_eq!(code, Some(1), "{said}");

    // Of the interfaces of a configuration one is missing, and one leads to the internet.
    wire::lay(&lab.gateway, "one");
    let route = ["route", "replace", "default", "dev", "one"];
    xtask::command::capture(&mut lab.gateway.command("ip", route)).expect("a route");
    let mut settings = Settings::new(&lab, &["one", "nowhere"]).text();
    settings.push_str(
        "\n[[policy]]\nname = \"all\"\naction = \"reject\"\n\
         domains = [\"push.apple.com\", \"ads.apple.com\"]\n",
    );
    let file = lab.gateway.folder.join("check.toml");
    fs::write(&file, settings).expect("a configuration");
    let (code, said) = sensor(&["check"], &file);
    assert_eq!(code, Some(0), "{said}");
    for warned in [
        "interface nowhere does not exist",
        "interface `one` leads to the internet: it has the default route",
        "policy `all` refuses `push.apple.com`, which devices or their owners would miss",
    ] {
        assert!(said.contains(warned), "{warned}: {said}");
    }
    assert!(!said.contains("refuses `ads.apple.com`"), "{said}");
}

#[test]
fn unload_waits_for_the_daemon_and_removes_everything() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    let nobody = format!("no sensor has its tables at {}", settings.pins.display());
    for word in ["unload", "devices", "flows", "status"] {
        run(&lab, &settings, &[word]).refused(&nobody);
    }
    let mut daemon = Daemon::start(&lab, &settings);
    wire::upload(&lab.gateway, "one", 2);
    daemon.counts("one", 2);
    let id = daemon.process.id();
    run(&lab, &settings, &["unload"]).refused(&format!("another sensor (process {id}) uses"));
    wire::upload(&lab.gateway, "one", 2);
    daemon.counts("one", 4);
    daemon.end();
    assert!(wire::xdp(&lab.gateway, "one").is_some());
    let said = run(&lab, &settings, &["unload"]).fine();
    nothing_attached(&lab, "one");
    nothing_pinned(&lab, &settings.pins);
    assert!(said.contains("is left in the kernel"), "{said}");
    run(&lab, &settings, &["unload"]).refused(&nobody);
}

#[test]
fn a_start_without_an_interface_of_before_takes_the_programs_off_it() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    wire::lay(&lab.gateway, "two");
    Daemon::start(&lab, &Settings::new(&lab, &["one", "two"])).end();
    assert!(wire::xdp(&lab.gateway, "two").is_some());
    let mut daemon = Daemon::start(&lab, &Settings::new(&lab, &["one"]));
    nothing_attached(&lab, "two");
    assert_eq!(daemon.scrape().hook("two", "upload"), "none");
    assert_eq!(daemon.scrape().hook("one", "upload"), "xdp-native");

    // A reload that names one that is not there says so, as a start does.
    let more = Settings::new(&lab, &["one", "late"]);
    fs::write(&daemon.file, more.text()).expect("written");
    daemon.wait_until("missing an interface", |daemon| {
        daemon.get("readyz").is_none()
    });
    let log = daemon.log();
    assert!(log.contains("interface late does not exist"), "{log}");
}

#[test]
fn a_hook_that_changes_counts_nothing_twice() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    let mut daemon = Daemon::start(&lab, &settings);
    let mut sent = 0;
    for (hook, expected) in [
        ("tc", ["tcx", "clsact"]),
        ("xdp-native", ["xdp-native", ""]),
        ("xdp-generic", ["xdp-generic", ""]),
        ("auto", ["xdp-native", ""]),
    ] {
        fs::write(&daemon.file, settings.clone().hook(hook).text()).expect("written");
        daemon.wait_until(hook, |daemon| {
            daemon
                .scrape()
                .is_some_and(|metrics| expected.contains(&metrics.hook("one", "upload")))
        });
        wire::upload(&lab.gateway, "one", 5);
        sent += 5;
        daemon.counts("one", sent);
        assert_eq!(wire::xdp(&lab.gateway, "one").is_some(), hook != "tc");
    }
    // And over a restart.
    daemon.end();
    let mut daemon = Daemon::start(&lab, &settings.clone().hook("tc"));
    wire::upload(&lab.gateway, "one", 5);
    daemon.counts("one", sent + 5);
    assert_eq!(wire::xdp(&lab.gateway, "one"), None);
}

#[test]
fn the_service_manager_hears_of_start_reload_and_end() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    // A path of a socket has 107 octets at most.
    let path = env::temp_dir().join(format!("gateway-sensor-notify-{}", std::process::id()));
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    let hear = |what: &str| {
        let mut buffer = [0; 512];
        loop {
            let length = socket
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("{what} is not heard: {error}"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text != "WATCHDOG=1\n" {
                assert!(text.starts_with(what), "{what}: {text}");
                return text;
            }
        }
    };
    let settings = Settings::new(&lab, &["one"]);
    let mut command = lab.gateway.command(SENSOR, ["run"]);
    command.env("NOTIFY_SOCKET", &path);
    let daemon = Daemon::spawn_by(&lab, &settings, command);
    assert_eq!(hear("READY=1\n"), "READY=1\nSTATUS=accounting on one\n");
    assert!(wire::xdp(&lab.gateway, "one").is_some());

    daemon.process.signal(Signal::HUP).expect("running");
    hear("RELOADING=1\nMONOTONIC_USEC=");
    hear("READY=1\n");
    assert_eq!(daemon.scrape().value("sensor_policy_generation", &[]), 3.0);
    // A configuration that is refused is no reload that never ends.
    fs::write(&daemon.file, "[[").expect("written");
    hear("RELOADING=1\n");
    hear("READY=1\n");
    daemon.end();
    hear("STOPPING=1\n");
    fs::remove_file(&path).expect("removed");
}
