//! The cost of the daemon with full tables: memory, CPU for a tick, time for a scrape.
//!
//! The real daemon, started in namespaces of its own on one end of a veth pair; the other end sends the first
//! segment of 65,536 TLS connections of 256 devices, which name 5,000 servers in names of 25 bytes. `--json FILE`
//! also writes the figures to a file.
//!
//! A second daemon has a policy with a list of 1,000,000 names: its memory at rest and the most of it while the
//! list is read anew, and the time of a `sensor block`.
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
/// So many flows of a full table have to be there: the sets of a few are full before the table is.
const PLACED: u32 = FLOWS / 100 * 99;

/// Streams that are put together on a router: the default of a machine with less than 1 GiB of memory.
const ROUTERS_ASSEMBLIES: u32 = 256;

/// Names of the list of the second daemon.
const LISTED: u64 = 1_000_000;
/// How often a name is blocked; the median is told.
const BLOCKS: usize = 5;

const LISTEN: &str = "127.0.0.1:9617";
/// How long a start or a reload may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
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
        "link add lan1 type veth peer name wire1",
        "link set lan1 up",
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
    let list = sandbox.bpffs().with_extension("txt");
    fs::write(&list, listed(0))?;
    fs::write(&config, configuration_of_names(sandbox.bpffs(), &list))?;
    let daemon = Daemon::start(&config);
    let names = daemon.and_then(|daemon| daemon.measure_names(&config, &list));
    fs::remove_file(&list)?;
    fs::remove_file(&config)?;
    let names = names?;

    println!("daemon, a policy with a list of {LISTED} names");
    for (name, value, unit) in [
        ("anonymous memory", mib(names.anonymous_kib), "MiB"),
        (
            "resident memory without tables of the kernel",
            mib(names.steady_kib),
            "MiB",
        ),
        ("tables of the kernel", mib(names.tables_kib), "MiB"),
        (
            "the same resident memory, most in a reload",
            mib(names.peak_kib),
            "MiB",
        ),
        (
            "a reload, until the names are in force",
            names.reload_ms,
            "ms",
        ),
        ("`sensor block`, median", names.block_ms, "ms"),
        ("`sensor block`, longest", names.longest_block_ms, "ms"),
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
            "listed_names": LISTED,
            "names_steady_mib": mib(names.steady_kib),
            "names_peak_mib": mib(names.peak_kib),
            "names_tables_mib": mib(names.tables_kib),
            "names_reload_ms": names.reload_ms,
            "names_block_ms": names.block_ms,
            "names_longest_block_ms": names.longest_block_ms,
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
         [names]\nassemblies = {ROUTERS_ASSEMBLIES}\n\n\
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

/// The text of a list; the names of another are others.
fn listed(another: u64) -> String {
    let mut text = String::new();
    for number in 0..LISTED {
        let spread = (number ^ another << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let label = ["ads", "track", "metrics", "cdn"][(spread >> 62) as usize];
        let end = ["com", "net", "example", "org"][(spread >> 60) as usize & 3];
        let site = spread >> 16 & 0xff_ffff;
        text.push_str(&format!("{label}.{site:x}-{number:x}.{end}\n"));
    }
    text
}

fn configuration_of_names(bpffs: &Path, list: &Path) -> String {
    format!(
        "[[interface]]\nname = \"lan1\"\n\n\
         [daemon]\ntick = \"1s\"\nlisten = \"{LISTEN}\"\npin_directory = \"{}/names\"\n\
         state_directory = \"{}\"\nkeep_running = false\n\n\
         [[policy]]\nname = \"ads\"\nlists = [\"{}\"]\naction = \"reject\"\n",
        bpffs.display(),
        bpffs.with_extension("names").display(),
        list.display(),
    )
}

struct MeasuredNames {
    anonymous_kib: f64,
    /// Resident without tables of the kernel.
    steady_kib: f64,
    /// The same, the most while the list was read anew.
    peak_kib: f64,
    tables_kib: f64,
    reload_ms: f64,
    block_ms: f64,
    longest_block_ms: f64,
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
        let patience = Instant::now() + PATIENCE;
        while get("/readyz").is_err() {
            if let Some(status) = daemon.0.try_wait()? {
                bail!("the daemon ended: {status}");
            }
            ensure!(
                Instant::now() < patience,
                "the daemon is not ready after {PATIENCE:?}"
            );
            thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    fn measure(&self, config: &Path) -> Result<Measured> {
        fill()?;
        let ticks = metric("sensor_tick_duration_seconds_count")?;
        let spent = self.cpu()?;
        let begun = Instant::now();
        let ticks = loop {
            thread::sleep(WATCHED);
            let now = metric("sensor_tick_duration_seconds_count")?;
            if now >= ticks + 5.0 {
                break now - ticks;
            }
            ensure!(begun.elapsed() < PATIENCE, "few ticks in {PATIENCE:?}");
        };
        let spent = self.cpu()? - spent;

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
        // At rest, as between two scrapes: the text of the last one is dropped at the next tick.
        thread::sleep(Duration::from_millis(2_500));
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

    fn measure_names(&self, config: &Path, list: &Path) -> Result<MeasuredNames> {
        const PAUSE: Duration = Duration::from_millis(2);

        let names = metric("sensor_policy_names")?;
        ensure!(names == LISTED as f64, "{names} names are in force");
        thread::sleep(Duration::from_secs(3));
        let tables_kib = self.tables()?;
        let anonymous_kib = self.line("status", "RssAnon:")?;
        let steady_kib = self.line("status", "VmRSS:")? - self.mapped_tables()?;

        let generation = metric("sensor_policy_generation")?;
        let another = list.with_extension("new");
        fs::write(&another, listed(1))?;
        fs::rename(&another, list)?;
        let begun = Instant::now();
        let id = rustix::process::Pid::from_raw(self.0.id() as i32).context("no process")?;
        rustix::process::kill_process(id, rustix::process::Signal::HUP)?;
        let mut most_anonymous_kib: f64 = anonymous_kib;
        let mut asked = Instant::now();
        loop {
            thread::sleep(PAUSE);
            most_anonymous_kib = most_anonymous_kib.max(self.line("status", "RssAnon:")?);
            if asked.elapsed() > Duration::from_millis(50) {
                if metric("sensor_policy_generation")? > generation {
                    break;
                }
                asked = Instant::now();
            }
            ensure!(begun.elapsed() < PATIENCE, "no reload in {PATIENCE:?}");
        }
        let reload_ms = begun.elapsed().as_secs_f64() * 1e3;

        let mut blocks = Vec::new();
        for number in 0..BLOCKS {
            let begun = Instant::now();
            let blocked = Command::new(env!("CARGO_BIN_EXE_sensor"))
                .arg("--config")
                .arg(config)
                .args(["block", &format!("blocked-{number}.example")])
                .output()?;
            ensure!(blocked.status.success(), "`sensor block` failed");
            blocks.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        blocks.sort_by(f64::total_cmp);
        Ok(MeasuredNames {
            anonymous_kib,
            steady_kib,
            peak_kib: steady_kib - anonymous_kib + most_anonymous_kib,
            tables_kib,
            reload_ms,
            block_ms: blocks[BLOCKS / 2],
            longest_block_ms: blocks[BLOCKS - 1],
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
            named >= PLACED as usize,
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
    const ROUNDS: u32 = 5;

    let wire = PacketSocket::open(c"wire0")?;
    for _ in 0..ROUNDS {
        for flow in 0..FLOWS {
            wire.send(&frame(flow))?;
            if flow % BURST == 0 {
                thread::sleep(PAUSE);
            }
        }
        thread::sleep(Duration::from_millis(2_500));
        // The machine's own neighbour discovery makes a few more.
        let flows = metric("sensor_flow_table_size_flows")?;
        if flows >= f64::from(PLACED) {
            return Ok(());
        }
    }
    let text = get("/metrics")?;
    let about = text.lines().filter(|line| {
        line.starts_with("sensor_flow_table") || line.starts_with("sensor_flows_refused")
    });
    bail!(
        "fewer than {PLACED} flows are there:\n{}",
        about.collect::<Vec<_>>().join("\n")
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
