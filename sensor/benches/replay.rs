//! `sensor replay` beside Debian's `ndpiReader`: the CPU time of both for the same captures.
//!
//! Both get the captures that `ndpiReader` can read, because it ends where a list of captures has
//! one of a link type that it does not know, and each reads all of them in one process. About 40 ms
//! of its time is its start, more than it takes for the corpus itself. So both also read one large
//! capture, in which what either does once no longer counts: the Ethernet captures of the corpus,
//! one after the other, several times, each time with other addresses, so that every flow is new.
//!
//! `--json FILE` also writes the figures to a file: `null` where the captures are not there.

mod arguments;

use std::{
    env, fs, io, mem,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    slice,
};

use anyhow::{Context as _, Result, ensure};
use arguments::json_argument;
use serde::Serialize;
use xtask::command::{self, capture};

/// Captures that nobody on this project wrote, beside the workspace; without them nothing is
/// compared.
const CAPTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus");

const OTHER: &str = "ndpiReader";

/// Runs of each program.
const ROUNDS: usize = 15;

/// How often the large capture has the corpus.
const REPETITIONS: u8 = 20;

/// The work of both, and the CPU time they took, user's and system's, by the medians of the rounds.
#[derive(Serialize)]
struct Comparison {
    captures: usize,
    rounds: usize,
    sensor_packets: u64,
    ndpi_packets: u64,
    sensor_ms: f64,
    ndpi_ms: f64,
    /// The median of the rounds' ratios.
    ratio: f64,
}

/// The corpus, and one large capture.
#[derive(Serialize)]
struct Measured {
    corpus: Comparison,
    large: Comparison,
}

fn main() -> Result<()> {
    let file = json_argument()?;
    let folder = Path::new(CAPTURES);
    let measured = if folder.is_dir() {
        let scratch = env::temp_dir().join(format!("sensor-bench-{}", process::id()));
        fs::create_dir(&scratch).with_context(|| scratch.display().to_string())?;
        let measured = measure(folder, &scratch);
        fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
        Some(measured?)
    } else {
        println!("no captures in {CAPTURES}: `sensor replay` is not compared with {OTHER}");
        None
    };
    if let Some(file) = file {
        fs::write(&file, serde_json::to_vec_pretty(&measured)?)
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn measure(folder: &Path, scratch: &Path) -> Result<Measured> {
    let mut files = Vec::new();
    captures(folder, &mut files)?;
    let all = files.len();
    files.retain(|file| other_reads(file));
    ensure!(!files.is_empty(), "{OTHER} reads no capture");
    println!("{OTHER} reads {} of {all} captures", files.len());

    let list = scratch.join("captures.txt");
    let lines: String = files
        .iter()
        .map(|file| format!("{}\n", file.display()))
        .collect();
    fs::write(&list, lines).with_context(|| list.display().to_string())?;
    let corpus = compare("corpus", &files, &list)?;
    let large = scratch.join("large.pcap");
    merge(&files, scratch, &large)?;
    let large = compare("large capture", slice::from_ref(&large), &large)?;
    Ok(Measured { corpus, large })
}

/// The capture files of a folder and those below it, in the order of their names.
fn captures(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            captures(&path, files)?;
        } else if is_capture(&path) {
            files.push(std::path::absolute(path)?);
        }
    }
    Ok(())
}

fn is_capture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("pcap" | "pcapng"))
}

/// Whether the other program knows the link type and the format: it ends well in any case, and says
/// that it skips a capture.
fn other_reads(file: &Path) -> bool {
    capture(Command::new(OTHER).arg("-i").arg(file))
        .is_ok_and(|said| other_packets(&said).is_some_and(|packets| packets > 0))
}

/// Packets in all that the other program says it read.
fn other_packets(said: &str) -> Option<u64> {
    let (before, _) = said.split_once(" packets total")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// Packets in all that `sensor replay` says it read, of every capture.
fn sensor_packets(said: &str) -> u64 {
    said.lines()
        .filter_map(|line| line.strip_prefix("captured ")?.trim_start().split_once(' '))
        .filter_map(|(packets, _)| packets.replace(',', "").parse::<u64>().ok())
        .sum()
}

/// Runs both in turn; `input` is what the other program takes for `files`.
fn compare(what: &str, files: &[PathBuf], input: &Path) -> Result<Comparison> {
    let replay = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sensor"));
        command.args(["replay", "--engine", "host"]);
        command
    };
    let other = || {
        let mut command = Command::new(OTHER);
        command.arg("-i").arg(input);
        command
    };
    let said = capture(replay().args(["--limit", "1"]).args(files))?;
    let sensor_packets = sensor_packets(&said);
    let ndpi_packets = other_packets(&capture(&mut other())?)
        .with_context(|| format!("{OTHER} does not say how many packets it read"))?;
    ensure!(
        sensor_packets == ndpi_packets,
        "{what}: the sensor read {sensor_packets} packets, {OTHER} {ndpi_packets}"
    );

    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // With a line for every flow and question: more than the other prints.
        let own = cpu_ms(replay().arg("--json").args(files))?;
        let other = cpu_ms(&mut other())?;
        ours.push(own);
        theirs.push(other);
        ratios.push(own / other);
    }
    let comparison = Comparison {
        captures: files.len(),
        rounds: ROUNDS,
        sensor_packets,
        ndpi_packets,
        sensor_ms: median(&mut ours),
        ndpi_ms: median(&mut theirs),
        ratio: median(&mut ratios),
    };
    println!(
        "{what}: {} captures, {sensor_packets} packets each; sensor replay {:.1} ms of CPU, \
         {OTHER} {:.1} ms, ratio {:.2}",
        files.len(),
        comparison.sensor_ms,
        comparison.ndpi_ms,
        comparison.ratio
    );
    Ok(comparison)
}

/// Milliseconds of CPU, user's and system's, that a command took.
fn cpu_ms(command: &mut Command) -> Result<f64> {
    let shown = command::line(command);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("`{shown}` cannot be started"))?;
    // SAFETY: all zero is a value of it.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    let mut status = 0;
    // SAFETY: both pointers are to what lives through the call; the child is ours, and nobody else
    // waits for it.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    ensure!(
        waited > 0,
        "`{shown}` is not to be waited for: {}",
        io::Error::last_os_error()
    );
    let status = ExitStatus::from_raw(status);
    ensure!(status.success(), "`{shown}` failed: {status}");
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    Ok(ms(usage.ru_utime) + ms(usage.ru_stime))
}

/// The Ethernet captures among these as one, several times over with other addresses.
fn merge(files: &[PathBuf], scratch: &Path, merged: &Path) -> Result<()> {
    let ethernet = files
        .iter()
        .filter(|file| {
            capture(Command::new("capinfos").arg("-E").arg(file))
                .is_ok_and(|said| said.lines().any(|line| line.ends_with("Ethernet")))
        })
        .collect::<Vec<_>>();
    let once = scratch.join("once.pcap");
    capture(
        Command::new("mergecap")
            .args(["-a", "-F", "pcap", "-w"])
            .arg(&once)
            .args(&ethernet),
    )?;
    let once = fs::read(&once).with_context(|| once.display().to_string())?;
    let (header, packets) = once
        .split_at_checked(FILE_HEADER_LEN)
        .context("mergecap wrote less than a header")?;
    let mut all = header.to_vec();
    for repetition in 0..REPETITIONS {
        let mut rest = packets;
        while let Some((header, behind)) = rest.split_first_chunk::<PACKET_HEADER_LEN>() {
            let len = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) as usize;
            let (frame, behind) = behind
                .split_at_checked(len)
                .context("mergecap wrote half a packet")?;
            all.extend_from_slice(header);
            let start = all.len();
            all.extend_from_slice(frame);
            move_addresses(&mut all[start..], repetition);
            rest = behind;
        }
    }
    fs::write(merged, all).with_context(|| merged.display().to_string())
}

/// Of a pcap file (draft-ietf-opsawg-pcap, section 4), which mergecap writes in this machine's byte
/// order.
const FILE_HEADER_LEN: usize = 24;
/// Of a packet in it (section 5); the third word is the length of what follows.
const PACKET_HEADER_LEN: usize = 16;

/// Gives both sides of an untagged frame addresses of another network: flips bits of the second
/// octet from the front of IPv4's, of the last of the prefix of IPv6's. Neither program looks at
/// checksums.
fn move_addresses(frame: &mut [u8], by: u8) {
    let places: [usize; 2] = match frame.get(12..14) {
        Some([0x08, 0x00]) => [14 + 12 + 1, 14 + 16 + 1],
        Some([0x86, 0xdd]) => [14 + 8 + 7, 14 + 24 + 7],
        _ => return,
    };
    for place in places {
        if let Some(octet) = frame.get_mut(place) {
            *octet ^= by;
        }
    }
}

/// Sorts, and gives the one in the middle.
fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
