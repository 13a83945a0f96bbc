//! DNS questions refused and passed, beside dnsmasq and unbound with the same list, by dnsperf.
//!
//! The gateway has three name servers, each at an address of its own: dnsmasq without a list, which
//! the phone asks through the sensor, which has it; dnsmasq and unbound with the list, which the
//! laptop asks by a port without a sensor. Every name that is not listed exists, by the servers' own
//! word: nothing goes upstream.
//!
//! The cost of a server is the CPU time of its process and of the thread that takes the port's packets
//! in (threaded NAPI, one for each port). The cost of the sensor is that of its daemon and, for
//! questions that it passes, also that of the dnsmasq behind it. The devices' ends have threads of
//! their own, which count for nobody, as dnsperf does. All is measured round by round in one run. The
//! sensor answers a device 500 refused questions a second and no more: each socket that asks it has a
//! MAC address of its own, as if 256 devices asked.
//!
//! Then the sensor's list is exchanged for another as long, several times, under questions: how long
//! it takes from the signal to the first answer by the new list, and how much memory the kernel says
//! that all maps have more than without a list.
//!
//! `--json FILE` also writes the figures to a file.

mod arguments;
#[path = "../tests/programs/mod.rs"]
#[allow(dead_code, reason = "one object is loaded, and no frame run")]
mod programs;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use arguments::json_argument;
use aya::{maps::loaded_maps, programs::TcAttachType};
use programs::Programs;
use rustix::process::Signal;
use serde::Serialize;
use serde_json::json;
use xtask::{
    command::capture,
    lab::{Device, Host, LISTEN, Lab, Options, PORTS, Process, Sensor},
};

const NAMES: usize = 200_000;
/// Distinct names of the load.
const ASKED: usize = 20_000;
const ROUNDS: usize = 3;
/// Seconds of one sample.
const SAMPLE: u32 = 4;
/// Exchanges of the list.
const SWAPS: usize = 7;
/// How long a server may take to read the list.
const LIMIT: Duration = Duration::from_secs(60);

/// The servers' addresses: dnsmasq behind the sensor, dnsmasq, unbound.
const SERVERS: [(&str, &str); 3] = [
    ("sensor", "10.53.0.1"),
    ("dnsmasq", "10.53.0.2"),
    ("unbound", "10.53.0.3"),
];
/// The address of every name.
const ADDRESS: &str = "198.51.100.10";

#[derive(Clone, Copy, Debug, Serialize)]
struct Figure {
    /// Answers in a second.
    per_second: f64,
    /// Answers for a second on a CPU.
    per_cpu_second: f64,
    /// Which part of that CPU time was the sensor's daemon's; 0 for the others.
    daemon: f64,
}

fn main() -> Result<()> {
    let file = json_argument()?;
    let mut lab = Lab::start(Options::default())?;
    let mut listed = names(NAMES + ASKED);
    let passed = listed.split_off(NAMES);
    let list = lab.gateway.folder.join("names.list");
    // As many lines, and no name.
    fs::write(&list, "#\n".repeat(NAMES))?;
    let servers = start_servers(&lab, &listed)?;
    // The other port is to be as it would be without: with what a driver does for packets anyway.
    lab.gateway.run("ethtool -K lan1 gro on")?;
    let configuration = format!(
        "[[interface]]\nname = \"lan0\"\nhook = \"xdp-native\"\n\n\
         [daemon]\nlisten = \"{LISTEN}\"\npin_directory = \"{}\"\n\
         state_directory = \"{}\"\nruntime_directory = \"{}\"\n\n\
         [[policy]]\nname = \"list\"\nlists = [\"{}\"]\naction = \"reject\"\n",
        lab.pins().display(),
        lab.gateway.folder.join("state").display(),
        lab.runtime().display(),
        list.display()
    );
    let sensor = lab.sensor(Path::new(env!("CARGO_BIN_EXE_sensor")), &configuration)?;
    lab.plug(Device::Phone)?;
    lab.plug(Device::Laptop)?;
    let [by_phone, by_laptop] = [
        threaded(&lab.gateway, PORTS[0])?,
        threaded(&lab.gateway, PORTS[1])?,
    ];
    threaded(&lab.phone, "eth0")?;
    threaded(&lab.laptop, "eth0")?;
    let swaps = swap(&lab, &sensor, &list, &listed)?;

    // Every tenth, from all over the list; and names that look alike, and are not on it.
    let refused: Vec<_> = listed.into_iter().step_by(NAMES / ASKED).collect();
    let mut figures = BTreeMap::new();
    for (what, names, code) in [
        ("refused", refused, "NXDOMAIN"),
        ("passed", passed, "NOERROR"),
    ] {
        // Passed questions are not limited, and their answers go to the MAC address that the gateway knows.
        let _many = match what {
            "refused" => Some(multiply(&lab.phone)?),
            _ => None,
        };
        let questions = lab.folder.join(format!("{what}.questions"));
        let text: String = names.iter().fold(String::new(), |mut text, name| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name} A");
            text
        });
        fs::write(&questions, text)?;
        let mut samples: [Vec<Figure>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (place, (_, address)) in SERVERS.into_iter().enumerate() {
                let (device, mut threads) = match place {
                    0 => (&lab.phone, by_phone.clone()),
                    _ => (&lab.laptop, by_laptop.clone()),
                };
                threads.push(servers[place].id());
                if place == 0 {
                    threads.push(sensor.process.id());
                }
                let [spent, own] = [cpu(&threads)?, cpu(&[sensor.process.id()])?];
                let begun = Instant::now();
                let answers = dnsperf(device, address, &questions, code)?;
                let taken = begun.elapsed().as_secs_f64();
                let spent = cpu(&threads)? - spent;
                let own = cpu(&[sensor.process.id()])? - own;
                samples[place].push(Figure {
                    per_second: answers / taken,
                    per_cpu_second: answers / spent,
                    daemon: if place == 0 { own / spent } else { 0.0 },
                });
            }
        }
        let medians: BTreeMap<_, _> = SERVERS
            .into_iter()
            .zip(samples)
            .map(|((name, _), samples)| (name, median(&samples)))
            .collect();
        for (name, figure) in &medians {
            println!(
                "{what:8} {name:8} {:9.0} answers/s {:9.0} answers/CPU s, {:.0} % the daemon",
                figure.per_second,
                figure.per_cpu_second,
                figure.daemon * 100.0
            );
        }
        figures.insert(what, medians);
    }
    if let Some(file) = file {
        let whole = json!({
            "names": NAMES,
            "rounds": ROUNDS,
            "seconds": SAMPLE,
            "swap_ms": swaps.median_ms,
            "longest_swap_ms": swaps.longest_ms,
            "names_mib": swaps.names_mib,
            "most_names_mib": swaps.most_names_mib,
            "refused": figures["refused"],
            "passed": figures["passed"],
        });
        fs::write(&file, serde_json::to_vec_pretty(&whole)?)
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// The cost of exchanging the list.
struct Swaps {
    /// Milliseconds from the signal to the first answer by the new list.
    median_ms: f64,
    longest_ms: f64,
    /// Kernel memory of all maps with a list more than without, in MiB.
    names_mib: f64,
    /// The most that was seen of it, while one list took the place of another.
    most_names_mib: f64,
}

/// Loads lists of names none of which is below another, so that each needs its place, exchanges them,
/// and leaves `listed` in force.
fn swap(lab: &Lab, sensor: &Sensor, list: &Path, listed: &[String]) -> Result<Swaps> {
    let socket = lab.phone.enter(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((SERVERS[0].1, 53))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket)
    })??;
    let none = map_memory()?;
    let mut most = none;
    let mut took = Vec::new();
    let mut last: Option<String> = None;
    for number in 0..=SWAPS {
        // The last name is of this list alone.
        let own = format!("list-{number}.example");
        let mut text: String = (1..NAMES)
            .map(|name| format!("ads{}.party-{name:x}.example\n", name % 13))
            .collect();
        text.push_str(&own);
        fs::write(list, text)?;
        let begun = Instant::now();
        sensor.process.signal(Signal::HUP)?;
        while !refused(&socket, &own)? {
            ensure!(begun.elapsed() < LIMIT, "the list is not in force");
            most = most.max(map_memory()?);
        }
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        if let Some(last) = last.replace(own) {
            ensure!(!refused(&socket, &last)?, "{last} is not on the list");
        }
        // The kernel frees the old list a grace period later.
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            most = most.max(map_memory()?);
        }
    }
    let names = map_memory()? - none;
    fs::write(list, listed.join("\n"))?;
    sensor.process.signal(Signal::HUP)?;
    let begun = Instant::now();
    while !refused(&socket, &listed[0])? {
        ensure!(begun.elapsed() < LIMIT, "the list is not in force");
    }
    // The first had nothing to take the place of.
    let mut took = took.split_off(1);
    took.sort_by(f64::total_cmp);
    let mib = |octets: u64| octets as f64 / (1 << 20) as f64;
    let swaps = Swaps {
        median_ms: took[took.len() / 2],
        longest_ms: took[took.len() - 1],
        names_mib: mib(names),
        most_names_mib: mib(most - none),
    };
    println!(
        "{NAMES} names: {:.0} ms from the signal to the first answer, {:.0} ms at most; {:.1} MiB in \
         the kernel, {:.1} MiB at most",
        swaps.median_ms, swaps.longest_ms, swaps.names_mib, swaps.most_names_mib
    );
    Ok(swaps)
}

/// Octets of all maps on this machine, as the kernel accounts them.
fn map_memory() -> Result<u64> {
    let mut sum = 0;
    for map in loaded_maps() {
        let fd = match map.and_then(|map| map.fd()) {
            Ok(fd) => fd,
            // It went between two looks.
            Err(_) => continue,
        };
        let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
        let text = fs::read_to_string(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        sum += line
            .context("the kernel does not tell the memory of a map")?
            .trim()
            .parse::<u64>()?;
    }
    Ok(sum)
}

/// Whether a question is answered with NXDOMAIN.
fn refused(socket: &UdpSocket, name: &str) -> Result<bool> {
    const NX_DOMAIN: u8 = 3;
    let mut question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend(b"\0\0\x01\0\x01");
    socket.send(&question)?;
    let mut answer = [0; 512];
    let len = socket.recv(&mut answer)?;
    ensure!(len > question.len(), "an answer of {len} octets");
    Ok(answer[3] & 0x0f == NX_DOMAIN)
}

fn median(samples: &[Figure]) -> Figure {
    let middle = |of: fn(&Figure) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figure {
        per_second: middle(|figure| figure.per_second),
        per_cpu_second: middle(|figure| figure.per_cpu_second),
        daemon: middle(|figure| figure.daemon),
    }
}

/// Names like those on lists of advertisers and trackers, each once, always the same: two to five
/// labels, 8 to 45 octets, several below one party.
fn names(count: usize) -> Vec<String> {
    const TOP: [&str; 8] = ["com", "net", "org", "io", "de", "co.uk", "info", "ru"];
    const FIRST: [&str; 10] = [
        "ads",
        "track",
        "metrics",
        "pixel",
        "cdn",
        "stats",
        "click",
        "log",
        "s",
        "telemetry",
    ];
    (0..count)
        .map(|number| {
            let mut chance = (number as u64 / 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut below = |bound: u64| {
                chance ^= chance << 13;
                chance ^= chance >> 7;
                chance ^= chance << 17;
                (chance % bound) as usize
            };
            // The number makes it unlike all others; letters make it as long as such names are.
            let mut party: String = (0..3 + below(9))
                .map(|_| char::from(b'a' + below(26) as u8))
                .collect();
            // Writing to a string does not fail.
            let _ = write!(party, "{:x}.{}", number / 4, TOP[below(8)]);
            match number % 4 {
                0 => party,
                1 => format!("{}.{party}", FIRST[below(10)]),
                2 => format!("{}-{}.{party}", FIRST[below(10)], number % 97),
                _ => format!("{}{}.eu.{party}", FIRST[below(10)], number % 31),
            }
        })
        .collect()
}

/// The three name servers, in the order of [`SERVERS`].
fn start_servers(lab: &Lab, listed: &[String]) -> Result<[Process; 3]> {
    for (_, address) in SERVERS {
        lab.gateway.ip(&format!("addr add {address}/32 dev lo"))?;
    }
    let folder = &lab.gateway.folder;
    let dnsmasq = |number: usize, list: &str| -> Result<Process> {
        let file = folder.join(format!("dnsmasq-{number}.conf"));
        let configuration = format!(
            "port=53\nlisten-address={}\nbind-interfaces\nno-resolv\nno-hosts\n\
             address=/#/{ADDRESS}\n{list}",
            SERVERS[number].1
        );
        fs::write(&file, configuration)?;
        let arguments = [
            "--no-daemon".to_owned(),
            "--log-facility=-".to_owned(),
            format!("--conf-file={}", file.display()),
        ];
        let name = format!("dnsmasq-{number}");
        lab.gateway
            .start(&name, lab.gateway.command("dnsmasq", arguments))
    };
    let list = listed.iter().fold(String::new(), |mut text, name| {
        let _ = writeln!(text, "local=/{name}/");
        text
    });
    let plain = dnsmasq(0, "")?;
    let with_list = dnsmasq(1, &list)?;
    let file = folder.join("unbound.conf");
    let mut configuration = format!(
        "server:\n interface: {}\n access-control: 0.0.0.0/0 allow\n do-daemonize: no\n \
         username: \"\"\n chroot: \"\"\n directory: \"{}\"\n pidfile: \"\"\n use-syslog: no\n \
         num-threads: 1\n module-config: \"iterator\"\n local-zone: \".\" redirect\n \
         local-data: \". A {ADDRESS}\"\n",
        SERVERS[2].1,
        folder.display()
    );
    for name in listed {
        writeln!(configuration, " local-zone: \"{name}.\" always_nxdomain")?;
    }
    configuration.push_str("remote-control:\n control-enable: no\n");
    fs::write(&file, configuration)?;
    let file = file.display().to_string();
    let unbound = lab.gateway.command("unbound", ["-d", "-c", &file]);
    let mut servers = [plain, with_list, lab.gateway.start("unbound", unbound)?];
    for (server, (_, address)) in servers.iter_mut().zip(SERVERS) {
        let address = SocketAddr::new(address.parse()?, 53);
        server.wait_until("answering", LIMIT, || {
            let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
            lab.gateway.enter(connect).unwrap_or(false)
        })?;
    }
    Ok(servers)
}

/// Gives an interface a thread that takes its packets in; its process id.
fn threaded(host: &Host, interface: &str) -> Result<Vec<u32>> {
    let prefix = format!("napi/{interface}-");
    let threads = || -> Result<Vec<u32>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if let Some(id) = id
                && comm.starts_with(&prefix)
            {
                found.push(id);
            }
        }
        Ok(found)
    };
    // Other labs may have ports of the same name.
    let before = threads()?;
    let path = format!("/sys/class/net/{interface}/threaded");
    // The machine's /sys shows its own interfaces: one mounted here shows this host's.
    let words = format!("mount -t sysfs sysfs /sys && echo 1 > {path}");
    capture(&mut host.command("unshare", ["--mount", "sh", "-c", &words]))?;
    thread::sleep(Duration::from_millis(100));
    let mut after = threads()?;
    after.retain(|id| !before.contains(id));
    ensure!(!after.is_empty(), "{interface} has no thread of its own");
    Ok(after)
}

/// Makes a host as many devices as it has sockets, as far as name servers see, until what is given back
/// is dropped.
fn multiply(host: &Host) -> Result<Programs> {
    let mut programs = Programs::load_drivers()?;
    for (name, side) in [
        ("many_devices", TcAttachType::Egress),
        ("one_host", TcAttachType::Ingress),
    ] {
        let program = programs.tc_mut(name)?;
        host.enter(|| program.attach("eth0", side))??;
    }
    Ok(programs)
}

/// Seconds that these processes have been on a CPU, all their threads.
fn cpu(processes: &[u32]) -> Result<f64> {
    let mut sum = 0.0;
    for process in processes {
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let ran: f64 = text
                .split(' ')
                .next()
                .context("schedstat is empty")?
                .parse()?;
            sum += ran / 1e9;
        }
    }
    Ok(sum)
}

/// Asks as fast as it goes, and gives how many answers came: all of them with this code.
fn dnsperf(host: &Host, server: &str, questions: &Path, code: &str) -> Result<f64> {
    let mut command: Command = host.command("dnsperf", ["-s", server, "-d"]);
    command
        .arg(questions)
        .args(["-l", &SAMPLE.to_string(), "-c", "256", "-q", "100"]);
    let text = capture(&mut command)?;
    let line = |key: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(key))
            .map(str::trim)
            .with_context(|| format!("dnsperf does not say {key} {text}"))
    };
    let completed: f64 = line("Queries completed:")?
        .split(' ')
        .next()
        .context("no number")?
        .parse()?;
    let codes = line("Response codes:")?;
    ensure!(
        codes.starts_with(code) && codes.contains("(100.00%)"),
        "{server} answers otherwise than {code}: {text}"
    );
    Ok(completed)
}
