//! Captures through both engines, against each other and against what Wireshark's `capinfos` counts.
//! The kernel's takes root.

#[allow(dead_code, reason = "other tests use the rest")]
mod capture;
#[path = "../../sensor-ebpf/tests/frames/mod.rs"]
#[allow(dead_code, reason = "rings 1 and 2 use the rest")]
mod frames;
#[allow(dead_code, reason = "other tests use the rest")]
mod written;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use capture::CORPUS;
use frames::mutate::{MAX_LEN, Random, next_frame, seeds};
use rustix::process::geteuid;
use sensor::{
    record::Record,
    source::{
        kernel::{LONGEST, Runner, enter_own_namespace},
        replay::{Booked, Engine, Options, Summary, Unreadable, replay},
    },
};
use sensor_ebpf::{books::Tally, flow::Direction};
use written::{header, packet};
use xtask::setup::{self, Need};

const OPTIONS: Options = Options {
    lan: Vec::new(),
    payloads: 4,
};

/// Everything that is told of a capture.
struct Told {
    summary: Summary,
    /// Each record and its time.
    records: Vec<String>,
    samples: usize,
}

fn told(capture: &[u8], engine: &mut Engine) -> Result<Told> {
    let mut records = Vec::new();
    let mut samples = 0;
    let summary = replay(capture, &OPTIONS, engine, |record, now| {
        samples += usize::from(matches!(record, Record::Sample(_)));
        records.push(format!("{now} {record:?}"));
    })?;
    Ok(Told {
        summary,
        records,
        samples,
    })
}

/// Whether the programs can be run here; without root they cannot, and somebody may insist.
fn has_kernel() -> bool {
    let has = geteuid().is_root() || env::var_os("CI").is_some();
    if !has {
        eprintln!("not run: programs in the kernel take root");
    }
    has
}

/// The capture with one frame that is longer than every kernel's test run takes: `reports` says what comes
/// of it. The records differ from there on.
const TOO_LONG: &str = "reports/bigtcp100k.pcap";

fn alike(what: &str, capture: &[u8], kernel: &mut Engine) -> Result<Told> {
    let host = told(capture, &mut Engine::Host)?;
    let kernel = told(capture, kernel).with_context(|| what.to_owned())?;
    if what.ends_with(TOO_LONG) {
        let mut expected = host.summary.unreadable;
        let not_taken = kernel.summary.unreadable.get(&Unreadable::NotTaken);
        let not_taken = *not_taken.with_context(|| what.to_owned())?;
        ensure!(
            not_taken.packets == 1 && not_taken.bytes > LONGEST as u64,
            "{what}"
        );
        ensure!(
            expected.insert(Unreadable::NotTaken, not_taken).is_none(),
            "{what}"
        );
        ensure!(kernel.summary.unreadable == expected, "{what}");
        ensure!(kernel.summary.captured == host.summary.captured, "{what}");
        return Ok(kernel);
    }
    for (number, (host, kernel)) in host.records.iter().zip(&kernel.records).enumerate() {
        ensure!(
            host == kernel,
            "{what}: record {number} is\n{host}\non the host, in the kernel\n{kernel}"
        );
    }
    ensure!(host.records.len() == kernel.records.len(), "{what}");
    ensure!(host.summary == kernel.summary, "{what}");
    Ok(host)
}

/// The octets and packets of a capture are in the books, each once.
fn ensure_balanced(what: &str, summary: &Summary) -> Result<()> {
    let Booked {
        accounted,
        overflow,
        multicast,
        skipped,
        ..
    } = &summary.booked;
    let mut sum = Tally::default();
    for tally in [accounted, overflow, multicast]
        .into_iter()
        .chain(skipped.values())
        .chain(summary.unreadable.values())
    {
        sum.packets += tally.packets;
        sum.bytes += tally.bytes;
    }
    ensure!(
        sum.packets == summary.captured.packets
            && sum.bytes as i64 - summary.framing == summary.captured.bytes as i64,
        "{what}: {sum:?} is in the books of {summary:?}"
    );
    Ok(())
}

fn captures() -> Result<Vec<PathBuf>> {
    let files = capture::files(Path::new(CORPUS)).context("the captures are part of the test")?;
    ensure!(files.len() > 300, "{} captures", files.len());
    Ok(files)
}

#[test]
fn both_engines_tell_the_same_of_every_capture() -> Result<()> {
    if !has_kernel() {
        return Ok(());
    }
    let mut engine = Engine::kernel(&OPTIONS)?;
    let (mut flows, mut samples) = (0, 0);
    let files = captures()?;
    ensure!(files.iter().any(|path| path.ends_with(TOO_LONG)));
    for path in files {
        let what = path.display().to_string();
        let told = alike(&what, &fs::read(&path)?, &mut engine)?;
        ensure_balanced(&what, &told.summary)?;
        flows += told.summary.booked.flows;
        samples += told.samples;
    }
    ensure!(
        flows > 1_000 && samples > 3_000,
        "{flows} flows and {samples} samples are too few for the captures"
    );
    Ok(())
}

#[test]
fn both_engines_tell_the_same_of_frames_that_nobody_would_send() -> Result<()> {
    const CAPTURES: u64 = 40;
    const FRAMES: usize = 500;
    if !has_kernel() {
        return Ok(());
    }
    let mut engine = Engine::kernel(&OPTIONS)?;
    let seeds = seeds();
    let mut frame = Vec::with_capacity(MAX_LEN);
    for number in 0..CAPTURES {
        let mut random = Random::new(0x5eed_cafe + number);
        let link = [1, 1, 1, 101, 113, 276, 0, 9][random.below(8)];
        let mut capture = header(link);
        for _ in 0..FRAMES {
            next_frame(&mut random, &seeds, &mut frame);
            // Not all of each was captured, and few are longer than a page.
            let captured = match random.below(4) {
                0 => random.below(frame.len() + 1),
                _ => frame.len(),
            };
            let original = match random.below(50) {
                0 => frame.len() + random.below(30_000),
                _ => frame.len(),
            };
            packet(
                &mut capture,
                random.below(1 << 20),
                &frame[..captured],
                original,
            );
        }
        let what = format!("capture {number} of link type {link}");
        let told = alike(&what, &capture, &mut engine)?;
        ensure_balanced(&what, &told.summary)?;
        ensure!(told.summary.captured.packets == FRAMES as u64, "{what}");
    }
    Ok(())
}

#[test]
fn a_frame_that_the_kernel_need_not_take_is_longer_than_its_bound() -> Result<()> {
    if !has_kernel() {
        return Ok(());
    }
    enter_own_namespace()?;
    let mut runner = Runner::load(64, 16, 4)?;
    let header = [2; 14];
    for direction in Direction::ALL {
        ensure!(runner.run(direction, &header, &[], LONGEST)?);
        ensure!(!runner.run(direction, &header, &[], 2 * LONGEST)?);
        // Less than an Ethernet header is refused with the same error, and is not too long.
        ensure!(runner.run(direction, &header[..8], &[], 8).is_err());
    }
    Ok(())
}

#[test]
fn totals_are_those_of_capinfos() -> Result<()> {
    if !geteuid().is_root() && env::var_os("CI").is_none() {
        eprintln!("not run: what is missing is installed as root");
        return Ok(());
    }
    setup::ensure(&[Need::Captures])?;
    let files = captures()?;
    let output = Command::new("capinfos")
        .args(["-T", "-M", "-r", "-c", "-d"])
        .args(&files)
        .output()
        .context("capinfos (Debian: wireshark-common) cannot be run")?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<_> = text.lines().collect();
    ensure!(lines.len() == files.len(), "a line for each file: {text}");
    for (path, line) in files.iter().zip(lines) {
        let told = told(&fs::read(path)?, &mut Engine::Host)?;
        let Tally { packets, bytes } = told.summary.captured;
        let expected = format!("{}\t{packets}\t{bytes}", path.display());
        ensure!(line == expected, "capinfos: {line}; here: {expected}");
        ensure_balanced(line, &told.summary)?;
        ensure!(told.summary.damage.is_none(), "{line}");
    }
    Ok(())
}

/// A folder for the files of one test.
fn folder(test: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn sensor(arguments: &[&Path]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_sensor"))
        .args(["--config", "/nonexistent", "replay"])
        .args(arguments)
        .output()?)
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_is_read() -> Result<()> {
    let folder = folder("damaged")?;
    let frame = frames::build::ethernet().ipv4().udp().payload(30).build();
    let mut whole = header(1);
    packet(&mut whole, 0, &frame, frame.len());
    packet(&mut whole, 1, &frame, frame.len());
    let cut = whole[..whole.len() - 1].to_vec();
    let mut endless = whole.clone();
    endless.extend([0; 8]);
    endless.extend([0xff; 8]);
    endless.resize(endless.len() + 20 * 1024 * 1024, 0);
    let cases: [(&str, &[u8], &str); 6] = [
        ("empty", b"", "the file is empty"),
        (
            "text",
            b"These are words, and no packets at all.",
            "this is no capture file: it starts neither as pcap nor as pcapng",
        ),
        (
            "header",
            &whole[..20],
            "this is no capture file: it starts neither as pcap nor as pcapng",
        ),
        (
            "cut",
            &cut,
            "the file ends in the middle of a packet, after 1 whole ones",
        ),
        (
            "endless",
            &endless,
            "the file is damaged behind packet 2: what follows claims to be longer than 16777216 \
             bytes; the rest of it was not read",
        ),
        (
            "noise",
            &[0xd4; 4096],
            "this is no capture file: it starts neither as pcap nor as pcapng",
        ),
    ];
    let good = folder.join("good.pcap");
    fs::write(&good, &whole)?;
    for (name, octets, expected) in cases {
        let path = folder.join(format!("{name}.pcap"));
        fs::write(&path, octets)?;
        let output = sensor(&[&path, &good])?;
        let stderr = String::from_utf8(output.stderr)?;
        let expected = format!(
            "sensor: {}: {expected}\nsensor: 1 of 2 files could not be read to the end\n",
            path.display()
        );
        ensure!(stderr == expected, "{name}: {stderr}\n{expected}");
        ensure!(output.status.code() == Some(1), "{name}: {}", output.status);
        let stdout = String::from_utf8(output.stdout)?;
        let after = stdout.split(&format!("{}\n", good.display())).nth(1);
        let after = after.context("the good file comes behind")?;
        ensure!(after.contains("1 flow "), "{name}: {stdout}");
        let read = match name {
            "cut" => "captured                        1 packet, 72 bytes",
            "endless" => "captured                        2 packets, 144 bytes",
            _ => "captured                        0 packets, 0 bytes",
        };
        ensure!(stdout.contains(read), "{name}: {stdout}");
    }
    let missing = folder.join("missing.pcap");
    let output = sensor(&[&missing])?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(
        stderr.contains("the file cannot be opened: No such file"),
        "{stderr}"
    );
    ensure!(output.status.code() == Some(1), "{}", output.status);
    Ok(())
}
