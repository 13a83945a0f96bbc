//! Ring 3: the books beside the interfaces' own counters, packet for packet and byte for byte,
//! while the sensor is loaded, reloaded, killed and flooded. Needs root.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;
use xtask::{
    lab::{
        Device, ECHO_PORT, Host, LAPTOP_MAC, Lab, Options, PHONE_MAC, Sensor, TRACKER,
        TRACKER_PREFIXES, WEB, wait_until,
    },
    verify::times,
};

/// A quick tick and a short idle time, so that flows are reaped while they are counted.
const QUICK: &str = "[flow_table]\ncapacity = 4096\nidle_after = \"1s\"\n";

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sensor"))
}

fn tracker_policy(action: &str) -> String {
    let [v4, v6] = TRACKER_PREFIXES;
    format!(
        "[[policy]]\nname = \"no-tracker\"\nremotes = [\"{v4}\", \"{v6}\"]\naction = \"{action}\"\n"
    )
}

/// A lab with a sensor and both devices plugged in.
fn household(more: &str) -> Result<(Lab, Sensor)> {
    let mut lab = Lab::start(Options::default())?;
    let sensor = lab.sensor(binary(), &lab.configuration(more))?;
    lab.plug(Device::Phone)?;
    lab.plug(Device::Laptop)?;
    Ok((lab, sensor))
}

fn echo(family: usize) -> SocketAddr {
    SocketAddr::new(WEB[family].parse().expect("an address"), ECHO_PORT)
}

fn socket_to(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sends `count` datagrams over flows of ten each, no faster than a veth's ring is emptied.
fn chatter(count: usize, running: &AtomicBool) -> std::io::Result<usize> {
    let mut sent = 0;
    let mut answer = [0; 2_048];
    while sent < count && running.load(Ordering::Relaxed) {
        let socket = socket_to(echo(sent / 10 % 2))?;
        for number in 0..10 {
            // A full queue or a refusal is no error of this test.
            let _ = socket.send(&answer[..1 + (sent * 37 + number * 131) % 1_200]);
            let _ = socket.recv(&mut answer);
            sent += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(sent)
}

/// Does something while a host chatters.
fn under_load(host: &Host, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let running = AtomicBool::new(true);
    thread::scope(|scope| {
        let load = scope.spawn(|| host.enter(|| chatter(usize::MAX, &running)));
        let done = work();
        running.store(false, Ordering::Relaxed);
        let sent = load.join().expect("the load does not panic")??;
        done?;
        ensure!(sent > 1_000, "there was no load: {sent} datagrams");
        Ok(())
    })
}

fn number(value: &Value, pointer: &str) -> Result<u64> {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number at {pointer} in {value}"))
}

fn overflow_of(devices: &Value, mac: &str) -> u64 {
    let families = devices
        .as_array()
        .into_iter()
        .flatten()
        .find(|device| device["device"] == mac)
        .map(|device| device["families"].clone())
        .unwrap_or_default();
    families
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, books)| books.pointer("/overflow/upload/packets")?.as_u64())
        .sum()
}

#[test]
fn four_senders_on_several_cpus() -> Result<()> {
    let (lab, sensor) = household("")?;
    let cpus = thread::available_parallelism()?.get();
    let running = AtomicBool::new(true);
    let sent = AtomicU64::new(0);
    lab.phone.enter(|| {
        thread::scope(|scope| {
            for sender in 0..4 {
                let (running, sent) = (&running, &sent);
                scope.spawn(move || -> Result<()> {
                    let mut cpu = CpuSet::new();
                    cpu.set(sender % cpus);
                    sched_setaffinity(None, &cpu)?;
                    sent.fetch_add(chatter(10_000, running)? as u64, Ordering::Relaxed);
                    Ok(())
                });
            }
        });
    })?;
    ensure!(sent.into_inner() == 40_000, "not every sender sent");
    lab.balanced_books(&sensor)?;
    Ok(())
}

#[test]
fn a_flood_of_flows_by_one_device_costs_the_other_nothing() -> Result<()> {
    let more = "[flow_table]\ncapacity = 1024\nidle_after = \"1m\"\n";
    let (lab, sensor) = household(more)?;
    let wire = lab.phone.wire("eth0")?;
    for flow in 0..100_000_u32 {
        let [_, a, b, c] = flow.to_be_bytes();
        wire.send(&udp_frame([198, 51, 100, 10], [1 + a, b], c))?;
        if flow % 64 == 63 {
            thread::sleep(Duration::from_micros(300));
        }
    }
    let running = AtomicBool::new(true);
    lab.laptop.enter(|| chatter(200, &running))??;
    lab.balanced_books(&sensor)?;
    let status = sensor.json(&lab, "status")?;
    let size = number(&status, "/flow_table/size")?;
    ensure!(size <= 1_024, "{size} flows in a table of 1024");
    let devices = sensor.json(&lab, "devices")?;
    let (phone, laptop) = (
        overflow_of(&devices, PHONE_MAC),
        overflow_of(&devices, LAPTOP_MAC),
    );
    ensure!(
        phone >= 99_000,
        "the flood was not booked to the phone's overflow: {phone}"
    );
    ensure!(laptop == 0, "{laptop} of the laptop's packets had no flow");
    Ok(())
}

/// An Ethernet frame from the phone to the gateway with a UDP datagram to `destination`.
fn udp_frame(destination: [u8; 4], ports: [u8; 2], port: u8) -> Vec<u8> {
    let [a, b, c, d] = destination;
    let mut packet = vec![
        0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 168, 77, 250, a, b, c, d,
    ];
    checksum_ipv4(&mut packet);
    packet.extend([
        ports[0],
        ports[1],
        0x20 + (port >> 4),
        port,
        0,
        12,
        0,
        0,
        1,
        2,
        3,
        4,
    ]);
    ethernet(&[], 0x0800, &packet)
}

fn checksum_ipv4(header: &mut [u8]) {
    header[10..12].fill(0);
    let mut sum: u32 = header[..20]
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u32::from(u16::from_be_bytes(*pair)))
        .sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// A frame from the phone to the gateway's bridge, with tags before the ethertype.
fn ethernet(tags: &[[u8; 4]], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x11];
    frame.extend(tags.as_flattened());
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

#[test]
fn tags_pieces_sessions_and_extension_headers() -> Result<()> {
    const EACH: usize = 500;
    let (lab, sensor) = household("")?;
    let whole = udp_frame([198, 51, 100, 10], [0x40, 1], 7);
    let ipv4 = &whole[14..];
    let piece = |flags: u8, offset: u8, identification: u8, octets: &[u8]| {
        let mut packet = ipv4[..20].to_vec();
        packet[3] = (20 + octets.len()) as u8;
        packet[5] = identification;
        packet[6] = flags;
        packet[7] = offset;
        checksum_ipv4(&mut packet);
        packet.extend(octets);
        ethernet(&[], 0x0800, &packet)
    };
    let mut ipv6 = vec![0x60, 0, 0, 0, 0, 28, 0, 64];
    ipv6.extend([0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfa]);
    ipv6.extend([
        0x20, 1, 0x0d, 0xb8, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ]);
    // Hop-by-hop, then destination options, then UDP.
    ipv6.extend([60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]);
    ipv6.extend([0x40, 1, 0x20, 7, 0, 12, 0, 0, 1, 2, 3, 4]);
    let session = [&[0x11, 0, 0, 7, 0, 34, 0, 0x21][..], ipv4].concat();
    let frames = [
        ethernet(&[[0x81, 0, 0, 5]], 0x0800, ipv4),
        ethernet(&[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 5]], 0x0800, ipv4),
        ethernet(&[], 0x8864, &session),
        ethernet(&[], 0x86dd, &ipv6),
        piece(0x20, 0, 9, &ipv4[20..28]),
        piece(0x00, 1, 9, &[1, 2, 3, 4]),
        piece(0x00, 1, 10, &[1, 2, 3, 4]),
        ethernet(&[], 0x88cc, &[2, 7, 4, 0]),
        // Cut short, and with more tags than are read: skipped, and in the books all the same.
        whole[..30].to_vec(),
        ethernet(&[[0x81, 0, 0, 5]; 6], 0x0800, ipv4),
    ];
    let wire = lab.phone.wire("eth0")?;
    for _ in 0..EACH {
        for frame in &frames {
            wire.send(frame)?;
        }
        thread::sleep(Duration::from_micros(200));
    }
    lab.balanced_books(&sensor)?;
    let status = sensor.json(&lab, "status")?;
    let skipped: u64 = status["interfaces"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|interface| interface["skipped"].as_object())
        .flat_map(serde_json::Map::values)
        .filter_map(|tallies| tallies.pointer("/upload/packets")?.as_u64())
        .sum();
    ensure!(
        skipped == 2 * EACH as u64,
        "{skipped} frames were skipped, not {}",
        2 * EACH
    );
    Ok(())
}

#[test]
fn reloads_under_load_leave_no_moment_without_policy() -> Result<()> {
    let reloads = times(25, 100_u64);
    let (lab, sensor) = household(&format!("{QUICK}{}", tracker_policy("reject")))?;
    let leaked = AtomicU64::new(0);
    let tried = AtomicU64::new(0);
    let running = AtomicBool::new(true);
    let tracker = SocketAddr::new(TRACKER[0].parse()?, ECHO_PORT);
    thread::scope(|scope| {
        let phone = scope.spawn(|| {
            lab.phone.enter(|| -> std::io::Result<()> {
                let mut answer = [0; 64];
                while running.load(Ordering::Relaxed) {
                    let socket = socket_to(tracker)?;
                    let _ = socket.send(b"are you there");
                    thread::sleep(Duration::from_millis(2));
                    if socket.recv(&mut answer).is_ok() {
                        leaked.fetch_add(1, Ordering::Relaxed);
                    }
                    tried.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let reloaded = under_load(&lab.laptop, || {
            for reload in 1..=reloads {
                let action = if reload % 2 == 0 { "reject" } else { "drop" };
                sensor
                    .rewrite(&lab.configuration(&format!("{QUICK}{}", tracker_policy(action))))?;
                let wanted = format!("sensor_policy_reloads_total{{outcome=\"applied\"}} {reload}");
                wait_until("reloaded", Duration::from_secs(10), || {
                    sensor.scrape(&lab).is_ok_and(|text| text.contains(&wanted))
                })?;
            }
            Ok(())
        });
        running.store(false, Ordering::Relaxed);
        phone.join().expect("it does not panic")??;
        reloaded
    })?;
    let (leaked, tried) = (leaked.into_inner(), tried.into_inner());
    ensure!(
        leaked == 0,
        "{leaked} of {tried} datagrams reached the tracker"
    );
    ensure!(tried > 5 * reloads, "only {tried} datagrams were tried");
    lab.balanced_books(&sensor)?;
    Ok(())
}

#[test]
fn killed_and_started_again_under_load() -> Result<()> {
    let more = format!("{QUICK}{}", tracker_policy("reject"));
    let (lab, first) = household(&more)?;
    let mut sensor = Some(first);
    let configuration = lab.configuration(&more);
    let kills = times(4, 8);
    under_load(&lab.phone, || {
        for _ in 0..kills {
            // Anywhere in a tick, which reaps while flows are a second old.
            let started = Instant::now();
            while started.elapsed() < Duration::from_millis(1_900) {
                thread::sleep(Duration::from_millis(97));
            }
            sensor.take().expect("it runs").process.kill()?;
            sensor = Some(lab.sensor(binary(), &configuration)?);
        }
        Ok(())
    })?;
    let sensor = sensor.expect("it runs");
    lab.balanced_books(&sensor)?;
    let reaped = number(&sensor.json(&lab, "status")?, "/flow_table/reaped")?;
    ensure!(
        reaped > 50,
        "only {reaped} flows were reaped: nothing was at stake"
    );
    Ok(())
}

/// Devices that nobody has come and leave while the sensor is killed and started again: each of their packets
/// stays in a book, and no place of their table is lost or given out twice.
#[test]
fn killed_while_devices_leave() -> Result<()> {
    let kills = times(4, 24);
    let more = |retire_after: &str| {
        format!("[device_table]\ncapacity = 16\nretire_after = \"{retire_after}\"\n")
    };
    let (lab, sensor) = household(&more("1s"))?;
    let configuration = lab.configuration(&more("1s"));
    let wire = lab.phone.wire("eth0")?;
    let mut device = 0_u32;
    let mut flood = |devices| -> Result<()> {
        for _ in 0..devices {
            device += 1;
            let mut frame = udp_frame([198, 51, 100, 10], [0x40, 1], 7);
            frame[6..8].copy_from_slice(&[6, 0]);
            frame[8..12].copy_from_slice(&device.to_be_bytes());
            wire.send(&frame)?;
            if device.is_multiple_of(16) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    };
    let mut sensor = Some(sensor);
    for kill in 0..kills {
        flood(200)?;
        // All over the time between two looks.
        thread::sleep(Duration::from_millis(kill * 600 / kills));
        sensor.take().context("a sensor")?.process.kill()?;
        flood(50)?;
        sensor = Some(lab.sensor(binary(), &configuration)?);
    }
    let sensor = sensor.context("a sensor")?;
    let size = || number(&sensor.json(&lab, "status")?, "/device_table/size");
    wait_until("rid of them", Duration::from_secs(20), || {
        size().is_ok_and(|size| size <= 2)
    })?;
    lab.balanced_books(&sensor)?;
    let reloads = || number(&sensor.json(&lab, "status")?, "/policy/reloads");
    let reloads_before = reloads()?;
    sensor.rewrite(&lab.configuration(&more("1h")))?;
    sensor.process.signal(rustix::process::Signal::HUP)?;
    wait_until("reloaded", Duration::from_secs(20), || {
        reloads().is_ok_and(|reloads| reloads > reloads_before)
    })?;
    let before = number(
        &sensor.json(&lab, "status")?,
        "/device_table/overflow_packets",
    )?;
    // The household's own devices have their places first. A quarter of the places stays free: one device more
    // than that, and others would have to leave.
    for host in [&lab.phone, &lab.laptop] {
        host.enter(|| socket_to(echo(0))?.send(b"I am here"))??;
    }
    wait_until("at home", Duration::from_secs(20), || {
        size().is_ok_and(|size| size >= 2)
    })?;
    let there = size()?;
    flood(12 - there)?;
    wait_until("all there", Duration::from_secs(20), || {
        size().is_ok_and(|size| size == 12)
    })
    .with_context(|| format!("{there} places before, {:?} now", size()))?;
    // Nor does anybody at the next looks.
    thread::sleep(Duration::from_millis(1_500));
    ensure!(size()? == 12, "{} places of 12", size()?);
    let after = number(
        &sensor.json(&lab, "status")?,
        "/device_table/overflow_packets",
    )?;
    ensure!(before == after, "{} packets had no place", after - before);
    lab.balanced_books(&sensor)?;
    Ok(())
}

#[test]
fn a_link_that_goes_down_and_up() -> Result<()> {
    let (lab, sensor) = household("")?;
    under_load(&lab.phone, || {
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(300));
            lab.gateway.ip("link set lan0 down")?;
            thread::sleep(Duration::from_millis(200));
            lab.gateway.ip("link set lan0 up")?;
        }
        thread::sleep(Duration::from_millis(500));
        Ok(())
    })?;
    for port in lab.books(&sensor)? {
        ensure!(port.sensor.upload == port.counted.upload, "{port:#?}");
        // The last program before the driver has seen the packets that the driver drops because its
        // link goes down; the driver counts these packets, but not their octets.
        ensure!(
            port.sensor.download.packets == port.counted.download.packets + port.lost,
            "{port:#?}"
        );
    }
    Ok(())
}

#[test]
fn super_packets_are_booked_as_what_a_wire_would_carry() -> Result<()> {
    let mut lab = Lab::start(Options {
        offloads: true,
        ..Options::default()
    })?;
    let sensor = lab.sensor(binary(), &lab.configuration(""))?;
    lab.plug(Device::Phone)?;
    let body = lab.phone.folder.join("large");
    let authority = lab.authority().display();
    lab.phone.run(&format!(
        "curl -4 -fsS --max-time 10 -o {} --cacert {authority} https://www.lab.example/large",
        body.display()
    ))?;
    let received = std::fs::metadata(&body)?.len();
    thread::sleep(Duration::from_millis(1_500));
    let flows = sensor.json(&lab, "flows")?;
    let flow = flows
        .as_array()
        .into_iter()
        .flatten()
        .find(|flow| flow["remote"] == format!("{}:443", WEB[0]))
        .context("the transfer has no flow")?;
    let packets = number(flow, "/traffic/download/packets")?;
    let bytes = number(flow, "/traffic/download/bytes")?;
    // Ethernet, IPv4 and TCP with timestamps; the SYN's options are eight octets longer.
    let payload = bytes - packets * (14 + 20 + 32);
    ensure!(
        payload >= received && payload < received + received / 20 + 8_192,
        "{payload} octets of payload were booked, the application received {received}"
    );
    ensure!(
        packets >= payload / 1_448 && packets < payload / 1_000 + 32,
        "{packets} packets for {payload} octets of payload"
    );
    Ok(())
}
