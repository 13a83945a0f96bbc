//! The demonstration: a phone, its packets, and what the gateway knows of them.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use serde_json::Value;

use crate::{
    build::{self, Profile},
    command::say,
    lab::{self, Device, Host, Lab, PortBooks, REDMI_MAC, Tally},
    play::{HOUSEHOLD, policies},
    setup::{self, Need},
};

/// How many flows the table shows.
const FLOWS_SHOWN: usize = 40;
/// A refusal that takes longer would be no answer but a timeout.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The findings of the demo, as `--json` writes them.
#[derive(Serialize)]
struct Findings {
    devices: Value,
    flows: Value,
    /// How many requests each server has written down.
    asked: BTreeMap<String, usize>,
    blocked: Vec<Blocked>,
    prometheus: Answer,
    books: Vec<PortBooks>,
    difference: Tally,
}

/// A connection that the sensor refused.
#[derive(Serialize)]
struct Blocked {
    device: &'static str,
    destination: String,
    outcome: String,
    seconds: f64,
}

/// The answer of Prometheus about the metrics that it scraped from the sensor.
#[derive(Serialize)]
struct Answer {
    query: String,
    value: f64,
}

/// Builds everything, runs the lab, and shows what the sensor found.
///
/// # Errors
/// Where something cannot be built or started, where the phone does not get through or gets
/// through where it should not, and where the books do not balance.
pub fn demo(json: Option<&Path>) -> Result<()> {
    setup::ensure(&[Need::Kernel, Need::Lab, Need::Browser, Need::Prometheus])?;
    let binary = build::all(Profile::Release)?;
    step("the lab comes up: phone, laptop, gateway, internet");
    let mut lab = Lab::start(HOUSEHOLD)?;
    let sensor = lab.sensor(&binary, &lab.configuration(&policies()))?;
    step("a Prometheus scrapes the sensor");
    let _prometheus = lab::prometheus(&lab.gateway, lab::LISTEN)?;
    step("the phone and the laptop are plugged in and ask for addresses");
    lab.plug(Device::Phone)?;
    lab.plug(Device::Laptop)?;
    step("the phone, a Redmi: its captive check, three sites, a report of each to its maker");
    lab.use_redmi()?;
    let asked = asked(&lab)?;
    use_the_internet(&lab, &lab.phone)?;
    use_the_internet(&lab, &lab.laptop)?;
    let blocked = try_the_tracker(&lab)?;
    step("the links come to rest; Prometheus is asked, the scrape is checked");
    let books = lab.books(&sensor)?;
    check_metrics(&sensor.scrape(&lab)?)?;
    let findings = Findings {
        devices: sensor.json(&lab, "devices")?,
        flows: sensor.json(&lab, "flows")?,
        asked,
        blocked,
        prometheus: ask_prometheus(&lab)?,
        difference: difference(&books),
        books,
    };
    show(&findings);
    if let Some(file) = json {
        fs::write(file, serde_json::to_string_pretty(&findings)? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    judge(&findings, &lab)
}

fn step(what: &str) {
    say(&format!("· {what}"));
}

fn asked(lab: &Lab) -> Result<BTreeMap<String, usize>> {
    let mut asked = BTreeMap::new();
    for request in lab.requests()? {
        *asked.entry(request.host).or_default() += 1;
    }
    Ok(asked)
}

/// Names, pages, uploads, downloads, echoes: by both families.
fn use_the_internet(lab: &Lab, device: &Host) -> Result<()> {
    step(&format!(
        "{}: names, HTTP, TLS, ping and UDP, over IPv4 and IPv6",
        device.name
    ));
    let authority = lab.authority().display();
    let name = lab::WEB_NAME;
    let upload = device.folder.join("upload");
    fs::write(&upload, vec![b'u'; 200_000])?;
    for family in ["-4", "-6"] {
        let curl = format!("curl {family} -fsS --max-time 10 -o /dev/null");
        device.run(&format!("{curl} http://{name}/"))?;
        device.run(&format!("{curl} --cacert {authority} https://{name}/large"))?;
        device.run(&format!(
            "{curl} --data-binary @{} http://{name}/upload",
            upload.display()
        ))?;
        device.run(&format!("ping {family} -c 3 -i 0.2 -W 2 {name}"))?;
    }
    for address in lab::WEB {
        let address = SocketAddr::new(address.parse()?, lab::ECHO_PORT);
        let echoed = device.enter(|| -> std::io::Result<usize> {
            let socket = datagrams_to(address)?;
            let mut buffer = [0; 2_048];
            let mut octets = 0;
            for length in [1, 100, 1_400] {
                socket.send(&buffer[..length])?;
                octets += socket.recv(&mut buffer)?;
            }
            Ok(octets)
        })?;
        let echoed = echoed.with_context(|| format!("{}: no echo from {address}", device.name))?;
        ensure!(
            echoed == 1_501,
            "{}: {echoed} octets came back of 1501",
            device.name
        );
    }
    Ok(())
}

fn datagrams_to(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(address)?;
    Ok(socket)
}

/// The phone is refused at once; the laptop, which no policy names, gets through.
fn try_the_tracker(lab: &Lab) -> Result<Vec<Blocked>> {
    step("the phone tries the tracker, which a policy refuses to it alone");
    let mut blocked = Vec::new();
    for (family, address) in ["-4", "-6"].into_iter().zip(lab::TRACKER) {
        let curl = format!(
            "curl {family} -sS --max-time 10 -o /dev/null http://{}/",
            lab::TRACKER_NAME
        );
        let begun = Instant::now();
        let output = lab.phone.command("sh", ["-c", &curl]).output()?;
        let outcome = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        // 7: the connection was refused; a packet that vanished would be 28, a timeout.
        ensure!(
            output.status.code() == Some(7),
            "the phone's curl to {address} was to be refused, but: {} {outcome}",
            output.status
        );
        blocked.push(refused(address, "tcp/80", outcome, begun)?);

        let echo = SocketAddr::new(address.parse()?, lab::ECHO_PORT);
        let begun = Instant::now();
        let answer = lab.phone.enter(|| {
            let socket = datagrams_to(echo)?;
            socket.send(b"location?")?;
            socket.recv(&mut [0; 64])
        })?;
        match answer {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                blocked.push(refused(address, "udp/4000", error.to_string(), begun)?);
            }
            other => bail!("the phone's datagram to {address} was to be refused, but: {other:?}"),
        }
        lab.laptop
            .run(&curl)
            .context("the laptop, which no policy names, is to reach the tracker")?;
    }
    Ok(blocked)
}

fn refused(address: &str, port: &str, outcome: String, begun: Instant) -> Result<Blocked> {
    let elapsed = begun.elapsed();
    ensure!(
        elapsed < AT_ONCE,
        "the refusal of {address} {port} took {elapsed:?}"
    );
    Ok(Blocked {
        device: "phone",
        destination: format!("{address} {port}"),
        outcome,
        seconds: elapsed.as_secs_f64(),
    })
}

/// Holds a scrape against Prometheus' own rules for names and help texts.
///
/// # Errors
/// Where `promtool check metrics` finds fault, with what it says.
pub fn check_metrics(text: &str) -> Result<()> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool cannot be started")?;
    let mut stdin = promtool.stdin.take().context("promtool has no input")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    let output = promtool.wait_with_output()?;
    ensure!(
        output.status.success(),
        "`promtool check metrics` finds fault: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn ask_prometheus(lab: &Lab) -> Result<Answer> {
    let query = format!("sum(sensor_device_bytes_total{{device=\"{}\"}})", REDMI_MAC);
    let value = lab::ask_prometheus(&lab.gateway, &query)?;
    Ok(Answer { query, value })
}

fn difference(books: &[PortBooks]) -> Tally {
    let mut sum = Tally::default();
    for port in books {
        for (sensor, counted) in [
            (port.sensor.upload, port.counted.upload),
            (port.sensor.download, port.counted.download),
        ] {
            sum.packets += sensor.packets.abs_diff(counted.packets);
            sum.bytes += sensor.bytes.abs_diff(counted.bytes);
        }
    }
    sum
}

fn judge(findings: &Findings, lab: &Lab) -> Result<()> {
    ensure!(
        findings.books.len() == lab::PORTS.len() && findings.books.iter().all(PortBooks::balance),
        "the books do not balance; the logs are in {}",
        lab.folder.display()
    );
    ensure!(
        findings.prometheus.value > 0.0,
        "Prometheus knows of no byte of the phone"
    );
    // Every site that the servers were asked for by name must have that name in the sensor.
    for (site, requests) in &findings.asked {
        let named = findings.flows.as_array().into_iter().flatten().any(|flow| {
            flow["name"] == **site
                && ["tls", "quic", "http"].contains(&flow["name_source"].as_str().unwrap_or(""))
        });
        ensure!(
            named,
            "{site} was asked {requests} times, and no flow has its name; the logs are in {}",
            lab.folder.display()
        );
    }
    Ok(())
}

fn table<const N: usize>(headings: [&str; N], numbers: std::ops::RangeFrom<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(headings);
    for column in numbers.take_while(|&column| column < N) {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn show(findings: &Findings) {
    say("\nDevices");
    say(&devices_table(&findings.devices).to_string());
    say("\nWhom they talk to, largest first");
    say(&parties_table(&findings.devices).to_string());
    say("\nFlows, largest first");
    say(&flows_table(&findings.flows).to_string());
    say("\nThe servers' own logs");
    let mut asked = table(["site", "requests"], 1..);
    for (site, requests) in &findings.asked {
        asked.add_row([site.clone(), requests.to_string()]);
    }
    say(&asked.to_string());
    say("\nBlocked");
    let mut blocked = table(
        [
            "device",
            "destination",
            "seconds",
            "what the device was told",
        ],
        99..,
    );
    for one in &findings.blocked {
        let seconds = format!("{:.3}", one.seconds);
        blocked.add_row([one.device, &one.destination, &seconds, &one.outcome]);
    }
    say(&blocked.to_string());
    say(&format!(
        "\nPrometheus: {} = {}\n\nBooks against the interfaces' own counters",
        findings.prometheus.query, findings.prometheus.value
    ));
    let mut books = table(
        [
            "interface",
            "direction",
            "hook",
            "sensor packets",
            "counted",
            "sensor bytes",
            "counted",
            "difference",
        ],
        3..,
    );
    for port in &findings.books {
        for (direction, hook, sensor, counted) in [
            (
                "upload",
                &port.hooks.upload,
                port.sensor.upload,
                port.counted.upload,
            ),
            (
                "download",
                &port.hooks.download,
                port.sensor.download,
                port.counted.download,
            ),
        ] {
            books.add_row([
                port.interface.clone(),
                direction.to_owned(),
                hook.clone(),
                sensor.packets.to_string(),
                counted.packets.to_string(),
                sensor.bytes.to_string(),
                counted.bytes.to_string(),
                format!(
                    "{} / {}",
                    sensor.packets.abs_diff(counted.packets),
                    sensor.bytes.abs_diff(counted.bytes)
                ),
            ]);
        }
    }
    say(&books.to_string());
    say(&format!(
        "difference: {} packets, {} bytes",
        findings.difference.packets, findings.difference.bytes
    ));
}

fn devices_table(devices: &Value) -> Table {
    let mut shown = table(
        [
            "device",
            "name",
            "kind",
            "vendor",
            "family",
            "upload packets",
            "bytes",
            "download packets",
            "bytes",
            "flows",
        ],
        5..,
    );
    for device in devices.as_array().into_iter().flatten() {
        for (family, books) in device["families"].as_object().into_iter().flatten() {
            let traffic = &books["traffic"];
            let flows = books["flows"]["upload"].as_u64().unwrap_or(0)
                + books["flows"]["download"].as_u64().unwrap_or(0);
            shown.add_row([
                text(&device["device"]),
                text(&device["name"]),
                text(&device["kind"]),
                text(&device["vendor"]),
                family.clone(),
                text(&traffic["upload"]["packets"]),
                text(&traffic["upload"]["bytes"]),
                text(&traffic["download"]["packets"]),
                text(&traffic["download"]["bytes"]),
                flows.to_string(),
            ]);
        }
    }
    shown
}

fn parties_table(devices: &Value) -> Table {
    let mut shown = table(
        ["device", "party", "category", "upload", "download", "flows"],
        3..,
    );
    let mut rows = Vec::new();
    for device in devices.as_array().into_iter().flatten() {
        for party in device["parties"].as_array().into_iter().flatten() {
            let both = |key: &str| {
                let of = |direction: &str| party[key][direction].as_u64().unwrap_or(0);
                (of("upload"), of("download"))
            };
            let (upload, download) = both("bytes_in_all");
            let (opened, accepted) = both("flows_in_all");
            if upload + download == 0 {
                continue;
            }
            let name = match &device["name"] {
                Value::Null => text(&device["device"]),
                name => text(name),
            };
            rows.push((
                upload + download,
                [
                    name,
                    text(&party["party"]),
                    text(&party["category"]),
                    upload.to_string(),
                    download.to_string(),
                    (opened + accepted).to_string(),
                ],
            ));
        }
    }
    rows.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    for (_, row) in rows {
        shown.add_row(row);
    }
    shown
}

fn flows_table(flows: &Value) -> Table {
    let mut shown = table(
        [
            "device",
            "protocol",
            "local",
            "remote",
            "name",
            "owner",
            "category",
            "verdict",
            "policy",
            "upload packets",
            "bytes",
            "download packets",
            "bytes",
        ],
        9..,
    );
    let bytes = |flow: &Value| {
        let of = |direction: &str| flow["traffic"][direction]["bytes"].as_u64().unwrap_or(0);
        of("upload") + of("download")
    };
    let mut flows: Vec<_> = flows.as_array().into_iter().flatten().collect();
    flows.sort_by_key(|flow| std::cmp::Reverse((flow["verdict"] != "pass", bytes(flow))));
    let more = flows.len().saturating_sub(FLOWS_SHOWN);
    for flow in flows.into_iter().take(FLOWS_SHOWN) {
        let traffic = &flow["traffic"];
        shown.add_row([
            text(&flow["device"]),
            text(&flow["protocol"]),
            text(&flow["local"]),
            text(&flow["remote"]),
            text(&flow["name"]),
            text(&flow["owner"]),
            text(&flow["category"]),
            text(&flow["verdict"]),
            text(&flow["policy"]),
            text(&traffic["upload"]["packets"]),
            text(&traffic["upload"]["bytes"]),
            text(&traffic["download"]["packets"]),
            text(&traffic["download"]["bytes"]),
        ]);
    }
    if more > 0 {
        shown.add_row([format!("… {more} more")]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_packet_is_a_difference_in_either_direction() {
        let tally = |packets, bytes| Tally { packets, bytes };
        fn both<T>(upload: T, download: T) -> lab::ByDirection<T> {
            lab::ByDirection { upload, download }
        }
        let port = PortBooks {
            interface: "lan0".to_owned(),
            hooks: both("xdp-native".to_owned(), "tcx".to_owned()),
            sensor: both(tally(10, 1_000), tally(5, 500)),
            counted: both(tally(10, 1_000), tally(6, 560)),
            refused: Tally::default(),
            answered: Tally::default(),
            lost: 0,
        };
        assert!(!port.balance());
        assert_eq!(difference(&[port]), tally(1, 60));
    }
}
