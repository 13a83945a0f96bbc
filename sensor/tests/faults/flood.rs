//! A device that has new names and connections again and again.

use std::{
    fs,
    time::{Duration, Instant},
};

use xtask::verify::times;

use super::{daemon::Daemon, lab, wire};
use crate::daemon::Settings;

/// New names, each asked for by DNS and connected to, in a second.
const A_SECOND: u32 = 160;

/// For how many seconds, in the test command and in `cargo xtask verify`.
const SECONDS: [u32; 2] = [24, 600];

/// By how much the anonymous memory may grow, in MiB: in all, and in the second half. The thin form ends while
/// tables still fill up.
const MORE: f64 = 6.0;
const MORE_IN_HALF: [f64; 2] = [MORE, 0.5];

const GATEWAY: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

#[test]
fn new_names_and_connections_of_one_device_take_little_memory() {
    let Some(lab) = lab() else { return };
    let seconds = times(SECONDS[0], SECONDS[1]);
    wire::lay(&lab.gateway, "one");
    let mut settings = Settings::new(&lab, &["one"]);
    settings.tick = "1s";
    let idle_after = times("2s", "2m");
    settings.more = format!("[flow_table]\nidle_after = \"{idle_after}\"\n");
    let daemon = Daemon::start(&lab, &settings);
    let id = daemon.process.id();
    let mut at_half = 0.0;
    let (from_device, to_device) = (wire::far("one"), "one");
    let before = lab.gateway.enter(|| {
        let uploads = wire::Wire::open(&from_device).expect("a socket");
        let downloads = wire::Wire::open(to_device).expect("a socket");
        let flood = |numbers: std::ops::Range<u32>| {
            for number in numbers {
                let [question, answer, hello] = frames(number);
                uploads.send(&question).expect("sent");
                downloads.send(&answer).expect("sent");
                uploads.send(&hello).expect("sent");
            }
        };
        // The names that every house asks for are there before.
        flood(0..A_SECOND);
        std::thread::sleep(Duration::from_secs(3));
        let before = anonymous(id);
        let begun = Instant::now();
        for second in 1..=seconds {
            // In small parts, as the ring has room for.
            for part in 0..16 {
                let first = second * A_SECOND + part * A_SECOND / 16;
                flood(first..first + A_SECOND / 16);
                let until = Duration::from_secs(u64::from(second - 1))
                    + Duration::from_millis(u64::from(part + 1) * 1_000 / 16);
                std::thread::sleep(until.saturating_sub(begun.elapsed()));
            }
            if second == seconds / 2 {
                at_half = anonymous(id);
            }
        }
        before
    });
    let before = before.expect("entered");
    let after = anonymous(id);
    eprintln!(
        "{seconds} seconds of {A_SECOND} new names a second: {before:.1} MiB before, {at_half:.1} at half, \
         {after:.1} after"
    );
    let metrics = daemon.scrape();
    let refused = metrics.value("sensor_names_refused_total", &[("table", "parties")]);
    assert!(
        seconds < 60 || refused > 1_000.0,
        "the names did not arrive"
    );
    assert!(after - before <= MORE, "{before} MiB, {after} after");
    let most = times(MORE_IN_HALF[0], MORE_IN_HALF[1]);
    assert!(
        after - at_half <= most,
        "{at_half} MiB at half, {after} after"
    );
    daemon.end();
}

/// Anonymous memory of a process, in MiB (proc(5), `RssAnon`).
fn anonymous(process: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.expect("a number") / 1024.0
}

/// A question for a name, the answer with an address, and the first segment of a connection there.
fn frames(number: u32) -> [Vec<u8>; 3] {
    const DEVICE: [u8; 4] = [192, 168, 77, 31];
    const RESOLVER: [u8; 4] = [192, 168, 77, 1];
    const UDP: u8 = 17;
    const TCP: u8 = 6;

    let [_, b, c, d] = number.to_be_bytes();
    let server = [100, b, c, d];
    let name = format!("n{number:07}.flood{}.example", number % 97);
    let port = 1_024 + (number % 60_000) as u16;
    let question = question(&name, number as u16);
    let mut answer = question.clone();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[7] = 1;
    // The name of the question, IN A, 60 seconds, the address.
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(server);
    let from_device = (wire::DEVICE, GATEWAY);
    let to_device = (GATEWAY, wire::DEVICE);
    let asks = ((DEVICE, port), (RESOLVER, 53));
    let answers = ((RESOLVER, 53), (DEVICE, port));
    let connects = ((DEVICE, port), (server, 80));
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
    [
        frame(from_device, UDP, asks, &question),
        frame(to_device, UDP, answers, &answer),
        frame(from_device, TCP, connects, request.as_bytes()),
    ]
}

/// A DNS question for the IPv4 address of a name (RFC 1035, section 4).
fn question(name: &str, id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// A frame of IPv4, from one place to another.
fn frame(
    (from, to): ([u8; 6], [u8; 6]),
    protocol: u8,
    ((source, source_port), (target, target_port)): (([u8; 4], u16), ([u8; 4], u16)),
    payload: &[u8],
) -> Vec<u8> {
    let mut transport = [source_port.to_be_bytes(), target_port.to_be_bytes()].concat();
    if protocol == 6 {
        // Sequence number, acknowledgement, ACK and PSH, window, no checksum.
        transport.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        transport.extend((8 + payload.len() as u16).to_be_bytes());
        transport.extend([0, 0]);
    }
    let length = 20 + (transport.len() + payload.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(source);
    header.extend(target);
    let sum: u32 = header
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u32::from(u16::from_be_bytes(*pair)))
        .sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = [to, from].concat();
    frame.extend([0x08, 0x00]);
    frame.extend(header);
    frame.extend(transport);
    frame.extend(payload);
    frame
}
