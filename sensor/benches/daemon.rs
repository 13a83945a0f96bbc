//! The cost of the daemon with full tables: memory, CPU for a tick, time for a scrape.
//!
//! The real daemon, started in namespaces of its own on one end of a veth pair; frames of 256
//! devices and 65,536 flows come in by the other end. `--json FILE` also writes the figures to a
//! file.

mod arguments;
mod sandbox;

use std::{
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
/// More than [`FLOWS`]: a device may hold as many flows as are free.
const CAPACITY: u32 = FLOWS + 2 * FLOWS / DEVICES + 1;

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
    let measured = daemon.and_then(|daemon| daemon.measure());
    fs::remove_file(&config)?;
    let measured = measured?;

    println!("{:44} {:>8}", "daemon, 256 devices and 65,536 flows", "");
    for (name, value, unit) in [
        ("resident memory", measured.resident_kib / 1024.0, "MiB"),
        (
            "most resident memory",
            measured.most_resident_kib / 1024.0,
            "MiB",
        ),
        ("CPU of a tick, all threads", measured.tick_ms, "ms"),
        ("scrape, median", measured.scrape_ms, "ms"),
        ("scrape, longest", measured.longest_scrape_ms, "ms"),
        ("scrape, size", measured.scrape_kib, "KiB"),
    ] {
        println!("{name:44} {value:8.2} {unit}");
    }
    if let Some(file) = file {
        let whole = json!({
            "devices": DEVICES,
            "flows": FLOWS,
            "resident_mib": measured.resident_kib / 1024.0,
            "most_resident_mib": measured.most_resident_kib / 1024.0,
            "tick_cpu_ms": measured.tick_ms,
            "scrape_ms": measured.scrape_ms,
            "longest_scrape_ms": measured.longest_scrape_ms,
            "scrape_kib": measured.scrape_kib,
        });
        fs::write(&file, serde_json::to_vec_pretty(&whole)?)
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn configuration(bpffs: &Path) -> String {
    format!(
        "[[interface]]\nname = \"lan0\"\n\n\
         [flow_table]\ncapacity = {CAPACITY}\nidle_after = \"1h\"\n\n\
         [daemon]\ntick = \"1s\"\nlisten = \"{LISTEN}\"\npin_directory = \"{}/sensor\"\n\
         state_directory = \"{}\"\nkeep_running = false\n",
        bpffs.display(),
        bpffs.with_extension("state").display()
    )
}

struct Measured {
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

    fn measure(&self) -> Result<Measured> {
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
        Ok(Measured {
            resident_kib: self.status("VmRSS:")?,
            most_resident_kib: self.status("VmHWM:")?,
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

    /// A line of the process's status, in KiB.
    fn status(&self, key: &str) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .with_context(|| format!("no {key} in the status"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has nothing to save: keep_running is false, and its namespaces go with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends frames of every flow until the daemon has them all.
fn fill() -> Result<()> {
    /// More at once than a veth's queue holds are lost.
    const BURST: u32 = 64;
    /// Newcomers get half of the table alone.
    const NEW: Duration = Duration::from_secs(61);
    let wire = PacketSocket::open(c"wire0")?;
    for flow in 0..DEVICES {
        wire.send(&frame(flow))?;
    }
    println!("waiting for {NEW:?}, until {DEVICES} devices are no newcomers");
    thread::sleep(NEW);
    for _ in 0..20 {
        for flow in 0..FLOWS {
            wire.send(&frame(flow))?;
            if flow % BURST == 0 {
                thread::sleep(Duration::from_micros(100));
            }
        }
        thread::sleep(Duration::from_millis(2_500));
        // The machine's own neighbour discovery makes a few more.
        if metric("sensor_flow_table_size_flows")? >= f64::from(FLOWS) {
            return Ok(());
        }
    }
    bail!(
        "{} flows of {FLOWS} arrived",
        metric("sensor_flow_table_size_flows")?
    )
}

/// A UDP datagram without payload of one of [`DEVICES`] devices.
fn frame(flow: u32) -> Vec<u8> {
    let [_, _, high, device] = flow.to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, device, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend([192, 168, 1, device, 10, 0, 0, high]);
    frame.extend([0x9c, 0x40, 0, 53, 0, 8, 0, 0]);
    frame
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
        "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
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
