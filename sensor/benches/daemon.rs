//! The cost of the daemon with full tables: memory, CPU for a tick, time for a scrape.
//!
//! The real daemon, started in namespaces of its own on one end of a veth pair; the other end sends the first
//! segment of 65,536 TLS connections of 256 devices, which name 5,000 servers in names of 25 bytes. `--json FILE`
//! also writes the figures to a file.
//!
//! Memory is three figures: the process's anonymous memory; its resident memory without the tables of the
//! kernel that it maps; and these tables, as the kernel accounts them (`memlock` of their descriptors).

mod arguments;
mod sandbox;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use arguments::json_argument;
use sandbox::Sandbox;
use serde_json::json;

const DEVICES: u32 = 256;
const FLOWS: u32 = 65_536;
const NAMES: u32 = 5_000;

const LISTEN: &str = "127.0.0.1:9617";
/// How long the ticks are watched.
const WATCHED: Duration = Duration::from_secs(10);
const SCRAPES: usize = 25;

fn main() -> Result<()> {
    let file = json_argument()?;
    let sandbox = Sandbox::enter()?;
    for arguments in [
        "link set lo up",
        "link add lan0 type veth peer name wire0",
        "link set lan0 up",
        "link set wire0 up",
    ] {
        let status = Command::new("ip").args(arguments.split(' ')).status()?;
        ensure!(status.success(), "`ip {arguments}` failed: {status}");
    }
    let config = sandbox.bpffs().with_extension("toml");
    fs::write(&config, configuration(sandbox.bpffs()))?;
    let daemon = Daemon::start(&config);
    let measured = daemon.and_then(|daemon| daemon.measure(&config));
    fs::remove_file(&config)?;
    let measured = measured?;

    let mib = |kib: f64| kib / 1024.0;
    println!("daemon, {DEVICES} devices, {FLOWS} flows, {NAMES} names");
    for (name, value, unit) in [
        ("anonymous memory", mib(measured.anonymous_kib), "MiB"),
        (
            "resident memory without tables of the kernel",
            mib(measured.resident_kib - measured.mapped_kib),
            "MiB",
        ),
        ("tables of the kernel", mib(measured.tables_kib), "MiB"),
        ("resident memory", mib(measured.resident_kib), "MiB"),
        (
            "most resident memory",
            mib(measured.most_resident_kib),
            "MiB",
        ),
        (
            "more memory while it lists flows as JSON",
            mib(measured.listing_kib),
            "MiB",
        ),
        ("CPU of a tick, all threads", measured.tick_ms, "ms"),
        ("scrape, median", measured.scrape_ms, "ms"),
        ("scrape, longest", measured.longest_scrape_ms, "ms"),
        (
            "scrape of the same snapshot, median",
            measured.cached_scrape_ms,
            "ms",
        ),
        ("scrape, size", measured.scrape_kib, "KiB"),
    ] {
        println!("{name:44} {value:8.2} {unit}");
    }
    if let Some(file) = file {
        let whole = json!({
            "devices": DEVICES,
            "flows": FLOWS,
            "names": NAMES,
            "anonymous_mib": mib(measured.anonymous_kib),
            "without_tables_mib": mib(measured.resident_kib - measured.mapped_kib),
            "tables_mib": mib(measured.tables_kib),
            "resident_mib": mib(measured.resident_kib),
            "most_resident_mib": mib(measured.most_resident_kib),
            "listing_mib": mib(measured.listing_kib),
            "tick_cpu_ms": measured.tick_ms,
            "scrape_ms": measured.scrape_ms,
            "longest_scrape_ms": measured.longest_scrape_ms,
            "cached_scrape_ms": measured.cached_scrape_ms,
            "scrape_kib": measured.scrape_kib,
        });
        fs::write(&file, serde_json::to_vec_pretty(&whole)?)
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn configuration(bpffs: &Path) -> String {
    let mut text = format!(
        "[[interface]]\nname = \"lan0\"\n\n\
         [flow_table]\nidle_after = \"1h\"\n\n\
         [daemon]\ntick = \"1s\"\nlisten = \"{LISTEN}\"\npin_directory = \"{}/sensor\"\n\
         state_directory = \"{}\"\nruntime_directory = \"{}\"\nkeep_running = false\n",
        bpffs.display(),
        bpffs.with_extension("state").display(),
        bpffs.with_extension("run").display()
    );
    // Devices of which nobody knows anything have three quarters of the flow table at most.
    for device in 0..DEVICES {
        text.push_str(&format!(
            "\n[[device]]\nmac = \"02:00:00:00:01:{device:02x}\"\nname = \"device-{device}\"\n"
        ));
    }
    text
}

struct Measured {
    anonymous_kib: f64,
    /// Of the tables of the kernel, as much as is resident by the daemon's mappings.
    mapped_kib: f64,
    tables_kib: f64,
    listing_kib: f64,
    cached_scrape_ms: f64,
    resident_kib: f64,
    most_resident_kib: f64,
    tick_ms: f64,
    scrape_ms: f64,
    longest_scrape_ms: f64,
    scrape_kib: f64,
}

/// The running daemon, ended with this.
struct Daemon(Child);

impl Daemon {
    fn start(config: &Path) -> Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_sensor"))
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .spawn()?;
        let mut daemon = Self(child);
        let patience = Instant::now() + Duration::from_secs(60);
        while get("/readyz").is_err() {
            if let Some(status) = daemon.0.try_wait()? {
                bail!("the daemon ended: {status}");
            }
            ensure!(
                Instant::now() < patience,
                "the daemon is not ready after a minute"
            );
            thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    fn measure(&self, config: &Path) -> Result<Measured> {
        fill()?;
        let ticks = metric("sensor_tick_duration_seconds_count")?;
        let spent = self.cpu()?;
        thread::sleep(WATCHED);
        let spent = self.cpu()? - spent;
        let ticks = metric("sensor_tick_duration_seconds_count")? - ticks;
        ensure!(ticks >= 5.0, "{ticks} ticks in {WATCHED:?}");

        let mut scrapes = Vec::new();
        let mut size = 0;
        for _ in 0..SCRAPES {
            let begun = Instant::now();
            size = get("/metrics")?.len();
            scrapes.push(begun.elapsed().as_secs_f64() * 1e3);
            thread::sleep(Duration::from_millis(70));
        }
        scrapes.sort_by(f64::total_cmp);
        // Several fall between two ticks.
        let mut cached: Vec<f64> = (0..SCRAPES)
            .map(|_| {
                let begun = Instant::now();
                get("/metrics").map(|_| begun.elapsed().as_secs_f64() * 1e3)
            })
            .collect::<Result<_>>()?;
        cached.sort_by(f64::total_cmp);
        let (anonymous_kib, resident_kib) = (
            self.line("smaps_rollup", "Anonymous:")?,
            self.line("status", "VmRSS:")?,
        );
        let (mapped_kib, tables_kib) = (self.mapped_tables()?, self.tables()?);
        let most_resident_kib = self.line("status", "VmHWM:")?;
        Ok(Measured {
            anonymous_kib,
            mapped_kib,
            tables_kib,
            listing_kib: self.listing(config)?,
            cached_scrape_ms: cached[SCRAPES / 2],
            resident_kib,
            most_resident_kib,
            tick_ms: spent / 1e6 / ticks,
            scrape_ms: scrapes[SCRAPES / 2],
            longest_scrape_ms: scrapes[SCRAPES - 1],
            scrape_kib: size as f64 / 1024.0,
        })
    }

    /// Nanoseconds on a CPU of all threads.
    fn cpu(&self) -> Result<f64> {
        let mut sum = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let ran: f64 = text
                .split(' ')
                .next()
                .context("schedstat is empty")?
                .parse()?;
            sum += ran;
        }
        Ok(sum)
    }

    /// A line of a file of the process in /proc, in KiB.
    fn line(&self, file: &str, key: &str) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.0.id()))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .with_context(|| format!("no {key} in {file}"))?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }

    /// How much is resident of the tables of the kernel that the process maps, in KiB.
    fn mapped_tables(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps", self.0.id()))?;
        let mut sum = 0.0;
        let mut is_table = false;
        for line in text.lines() {
            if let Some(rss) = line.strip_prefix("Rss:") {
                if is_table {
                    sum += rss.trim().trim_end_matches(" kB").parse::<f64>()?;
                }
            } else if line
                .split(' ')
                .next()
                .is_some_and(|word| word.contains('-'))
            {
                is_table = line.contains("bpf-map");
            }
        }
        Ok(sum)
    }

    /// The memory that the kernel accounts for the tables that the process has open, each table once, in KiB.
    fn tables(&self) -> Result<f64> {
        let mut tables = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.0.id()))? {
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            let number = |key: &str| -> Option<f64> {
                let line = text.lines().find_map(|line| line.strip_prefix(key))?;
                line.trim().parse().ok()
            };
            if let (Some(id), Some(bytes)) = (number("map_id:"), number("memlock:")) {
                tables.insert(id as u64, bytes / 1024.0);
            }
        }
        ensure!(!tables.is_empty(), "the daemon has no table open");
        Ok(tables.values().sum())
    }

    /// By how much the process grows while it lists all flows as JSON, in KiB.
    fn listing(&self, config: &Path) -> Result<f64> {
        // From here on the kernel notes the most anew (proc(5)).
        fs::write(format!("/proc/{}/clear_refs", self.0.id()), "5")?;
        let before = self.line("status", "VmHWM:")?;
        let listed = Command::new(env!("CARGO_BIN_EXE_sensor"))
            .arg("--config")
            .arg(config)
            .args(["flows", "--json"])
            .output()?;
        ensure!(listed.status.success(), "`sensor flows --json` failed");
        let text = String::from_utf8_lossy(&listed.stdout);
        let named = text.matches(".test\"").count();
        ensure!(
            named >= FLOWS as usize,
            "{named} of {FLOWS} flows have a name"
        );
        Ok(self.line("status", "VmHWM:")? - before)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has nothing to save: keep_running is false, and its namespaces go with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends the first segment of every flow until the daemon has them all, and every name.
fn fill() -> Result<()> {
    /// More at once than a veth's queue and the ring of samples hold are lost.
    const BURST: u32 = 64;
    const PAUSE: Duration = Duration::from_millis(4);

    let wire = PacketSocket::open(c"wire0")?;
    for _ in 0..20 {
        for flow in 0..FLOWS {
            wire.send(&frame(flow))?;
            if flow % BURST == 0 {
                thread::sleep(PAUSE);
            }
        }
        thread::sleep(Duration::from_millis(2_500));
        // The machine's own neighbour discovery makes a few more.
        let flows = metric("sensor_flow_table_size_flows")?;
        if flows >= f64::from(FLOWS) {
            return Ok(());
        }
    }
    bail!(
        "{} flows of {FLOWS} arrived",
        metric("sensor_flow_table_size_flows")?
    )
}

/// The first segment of a connection of one of [`DEVICES`] devices: a TLS hello with one of [`NAMES`] names.
fn frame(flow: u32) -> Vec<u8> {
    let [_, _, high, device] = flow.to_be_bytes();
    let name = format!(
        "host{:05}.example-{:02}.test",
        flow % NAMES,
        flow % NAMES % 100
    );
    let hello = hello(&name);
    let length = (40 + hello.len()) as u16;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, device, 8, 0, 0x45, 0];
    frame.extend(length.to_be_bytes());
    frame.extend([
        0, 0, 0x40, 0, 64, 6, 0, 0, 192, 168, 1, device, 10, 0, 0, high,
    ]);
    // Ports, sequence number, acknowledgement, ACK and PSH, window.
    frame.extend([
        0x9c, 0x40, 1, 187, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    frame.extend(hello);
    frame
}

/// A TLS hello that says one name and nothing else (RFC 8446, section 4.1.2; RFC 6066, section 3).
fn hello(name: &str) -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let names = with_length(&[&[0], &*with_length(name.as_bytes())].concat());
    let extensions = with_length(&[&[0, 0], &*with_length(&names)].concat());
    let body = [
        &[3, 3],
        &[7; 32][..],
        &[0, 0, 2, 0x13, 1, 1, 0],
        &extensions,
    ]
    .concat();
    let handshake = [&[1, 0], &*with_length(&body)].concat();
    [&[22, 3, 1], &*with_length(&handshake)].concat()
}

/// A socket that puts frames on an interface.
struct PacketSocket(OwnedFd);

impl PacketSocket {
    fn open(interface: &std::ffi::CStr) -> Result<Self> {
        // SAFETY: no pointer is passed but a string that lives through the call; the descriptor is
        // nobody else's.
        let (socket, index) = unsafe {
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            ensure!(
                socket >= 0,
                "no packet socket: {}",
                io::Error::last_os_error()
            );
            (
                OwnedFd::from_raw_fd(socket),
                libc::if_nametoindex(interface.as_ptr()),
            )
        };
        // SAFETY: all zero is a value of it.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        // SAFETY: the address is of the length that is passed.
        let status = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        ensure!(status == 0, "cannot bind: {}", io::Error::last_os_error());
        Ok(Self(socket))
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the frame is as long as is said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        ensure!(sent >= 0, "cannot send: {}", io::Error::last_os_error());
        Ok(())
    }
}

/// The body of an answer of status 200.
fn get(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(LISTEN)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    Ok(body.to_owned())
}

/// The value of a metric without labels.
fn metric(name: &str) -> Result<f64> {
    let text = get("/metrics")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .with_context(|| format!("no metric {name}"))?;
    Ok(line.parse()?)
}
