//! The history of the real daemon in the home lab: it is that of the kernel's books after any number of kills, and
//! has no name of a site that somebody visited. Needs root.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection;
use serde_json::Value;
use xtask::{
    command::capture,
    lab::{Device, ECHO_PORT, Lab, NEWS, Options, PHONE_MAC, Sensor, TRACKING, WEB, wait_until},
    verify::times,
};

/// A quick tick, flows that are reaped while they are counted, and a write each second.
const QUICK: &str =
    "[flow_table]\ncapacity = 4096\nidle_after = \"1s\"\n[history]\nbatch = \"1s\"\n";

const LIMIT: Duration = Duration::from_secs(20);

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sensor"))
}

fn database(lab: &Lab) -> PathBuf {
    lab.gateway.folder.join("state/history.db")
}

/// The output of a command of the sensor.
fn output(lab: &Lab, sensor: &Sensor, words: &[&str]) -> Result<String> {
    let output = sensor.command(lab, words).output()?;
    ensure!(
        output.status.success(),
        "sensor {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Bytes up and down, packets up and down, and flows of a device, as the kernel has them.
fn counted(lab: &Lab, sensor: &Sensor, mac: &str) -> Result<[u64; 5]> {
    let devices = sensor.json(lab, "devices")?;
    let devices = devices.as_array().context("a list")?.iter();
    let mut devices = devices.filter(|device| device["device"] == mac);
    let device = devices.next().context("the device")?;
    let families = device["families"].as_object().context("families")?;
    Ok([
        "/traffic/upload/bytes",
        "/traffic/download/bytes",
        "/traffic/upload/packets",
        "/traffic/download/packets",
        "/flows",
    ]
    .map(|pointer| {
        let of = |books: &Value| match pointer {
            "/flows" => ["/flows/upload", "/flows/download"]
                .iter()
                .filter_map(|flows| books.pointer(flows)?.as_u64())
                .sum(),
            _ => books.pointer(pointer).and_then(Value::as_u64).unwrap_or(0),
        };
        families.values().map(of).sum()
    }))
}

/// The same, as the history has them.
fn written(lab: &Lab, mac: &str) -> Result<[u64; 5]> {
    written_in(&database(lab), mac)
}

fn written_in(database: &Path, mac: &str) -> Result<[u64; 5]> {
    let connection = Connection::open(database)?;
    let mut sums = [0; 5];
    for (sum, column) in sums.iter_mut().zip([
        "upload_bytes",
        "download_bytes",
        "upload_packets",
        "download_packets",
        "flows",
    ]) {
        for view in ["device_hour", "gap"] {
            let query = format!("SELECT coalesce(SUM({column}), 0) FROM {view} WHERE device = ?1");
            let part: i64 = connection.query_row(&query, [mac], |row| row.get(0))?;
            *sum += part.unsigned_abs();
        }
    }
    Ok(sums)
}

/// Sends datagrams over new flows without a pause.
fn chatter(running: &AtomicBool) -> std::io::Result<()> {
    let mut number = 0_usize;
    while running.load(Ordering::Relaxed) {
        let address = SocketAddr::new(WEB[number % 2].parse().expect("an address"), ECHO_PORT);
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        let mut answer = [0; 1_200];
        for _ in 0..10 {
            // A full queue is no error of this test.
            let _ = socket.send(&answer[..1 + number * 131 % 1_100]);
            let _ = socket.recv(&mut answer);
            number += 1;
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

#[test]
fn killed_again_and_again_the_history_is_that_of_the_kernel() -> Result<()> {
    let kills = times(5, 200);
    let mut lab = Lab::start(Options::default())?;
    let configuration = lab.configuration(QUICK);
    let mut sensor = Some(lab.sensor(binary(), &configuration)?);
    lab.plug(Device::Phone)?;
    let running = AtomicBool::new(true);
    thread::scope(|scope| -> Result<()> {
        let load = scope.spawn(|| lab.phone.enter(|| chatter(&running)));
        let killed = (0..kills).try_for_each(|kill| -> Result<()> {
            // Anywhere in a batch, and in a write.
            let moment = (f64::from(kill) * 0.618_034).fract();
            thread::sleep(Duration::from_secs_f64(0.3 + 1.5 * moment));
            sensor.take().context("a sensor")?.process.kill()?;
            sensor = Some(lab.sensor(binary(), &configuration)?);
            Ok(())
        });
        running.store(false, Ordering::Relaxed);
        load.join().expect("the load does not panic")??;
        killed
    })?;
    let sensor = sensor.context("a sensor")?;
    // Names are waited for two seconds, and flows are reaped.
    thread::sleep(Duration::from_secs(4));
    lab.balanced_books(&sensor)?;
    let text = output(&lab, &sensor, &["history", "--by", "device"])?;
    ensure!(text.contains(PHONE_MAC), "{text}");
    let (counted, written) = (
        counted(&lab, &sensor, PHONE_MAC)?,
        written(&lab, PHONE_MAC)?,
    );
    ensure!(
        counted == written,
        "{counted:?} counted, {written:?} written"
    );
    ensure!(counted[4] > 50, "there was no load: {counted:?}");
    let connection = Connection::open(database(&lab))?;
    let number = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0));
    let gaps = number("SELECT count(*) FROM gaps WHERE reason = 'no-daemon' AND lost = 0")?;
    ensure!(gaps == i64::from(kills), "{gaps} gaps of {kills} kills");
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(check == "ok", "{check}");
    // The end writes the rest, and another start adds no more than its gap.
    drop(connection);
    sensor.process.stop()?;
    let sensor = lab.sensor(binary(), &configuration)?;
    output(&lab, &sensor, &["history"])?;
    let again = self::written(&lab, PHONE_MAC)?;
    let counted = self::counted(&lab, &sensor, PHONE_MAC)?;
    ensure!(again == counted, "{counted:?} counted, {again:?} written");
    sensor.process.stop()?;
    Ok(())
}

/// Has a shell of the gateway do something.
fn shell(lab: &Lab, words: &str) -> Result<String> {
    capture(&mut lab.gateway.command("sh", ["-c", words]))
}

/// The disk of the history is full, then gone, and read-only at a start: the sensor says so and goes on, and the
/// history has everything in the end.
#[test]
fn a_disk_that_is_full_gone_or_read_only_stops_nobody_and_the_history_catches_up() -> Result<()> {
    let mut lab = Lab::start(Options::default())?;
    let folder = lab.gateway.folder.clone();
    let [disk, kept] = ["disk", "kept"].map(|name| folder.join(name));
    let [at, beside] = [&disk, &kept].map(|path| path.display().to_string());
    // Only the gateway sees these mounts, and they go with it. Where the disk is gone, nothing can be written.
    shell(
        &lab,
        &format!(
            "mkdir {at} {beside} && mount -t tmpfs -o ro,size=64k nothing {at} && \
         mount -t tmpfs -o size=1m disk {beside} && mount --bind {beside} {at}"
        ),
    )?;
    let configuration = lab.configuration(&format!("{QUICK}directory = \"{at}\"\n"));
    let sensor = lab.sensor(binary(), &configuration)?;
    lab.plug(Device::Phone)?;
    let load = |lab: &Lab, seconds: u64| -> Result<()> {
        let running = AtomicBool::new(true);
        thread::scope(|scope| -> Result<()> {
            let load = scope.spawn(|| lab.phone.enter(|| chatter(&running)));
            thread::sleep(Duration::from_secs(seconds));
            running.store(false, Ordering::Relaxed);
            Ok(load.join().expect("the load does not panic")??)
        })
    };
    let problem = |lab: &Lab, sensor: &Sensor| -> Option<String> {
        let status = sensor.json(lab, "status").ok()?;
        let problem = status["history"]["problem"].as_str();
        Some(problem.unwrap_or_default().to_owned())
    };
    let wait_for = |lab: &Lab, sensor: &Sensor, part: &str| {
        wait_until(&format!("the problem {part:?}"), LIMIT, || {
            let problem = problem(lab, sensor);
            problem.is_some_and(|problem| match part {
                "" => problem.is_empty(),
                part => problem.contains(part),
            })
        })
    };
    let goes_on = |lab: &Lab, sensor: &Sensor| -> Result<()> {
        let before = counted(lab, sensor, PHONE_MAC)?;
        load(lab, 3)?;
        let after = counted(lab, sensor, PHONE_MAC)?;
        ensure!(after[0] > before[0], "{before:?}, then {after:?}");
        Ok(())
    };
    load(&lab, 2)?;
    wait_for(&lab, &sensor, "")?;

    let full = format!("dd if=/dev/zero of={beside}/filler bs=4k 2>/dev/null; true");
    shell(&lab, &full)?;
    goes_on(&lab, &sensor)?;
    wait_for(&lab, &sensor, "free space there")?;
    shell(&lab, &format!("rm {beside}/filler"))?;
    load(&lab, 2)?;
    wait_for(&lab, &sensor, "")?;

    shell(&lab, &format!("umount -l {at}"))?;
    goes_on(&lab, &sensor)?;
    wait_for(&lab, &sensor, "writable")?;
    shell(&lab, &format!("mount --bind {beside} {at}"))?;
    load(&lab, 2)?;
    wait_for(&lab, &sensor, "")?;

    sensor.process.stop()?;
    shell(&lab, &format!("mount -o remount,ro {at}"))?;
    let sensor = lab.sensor(binary(), &configuration)?;
    goes_on(&lab, &sensor)?;
    wait_for(&lab, &sensor, "writable")?;
    shell(&lab, &format!("mount -o remount,rw {at}"))?;
    load(&lab, 2)?;
    wait_for(&lab, &sensor, "")?;

    // Names are waited for two seconds, and flows are reaped.
    thread::sleep(Duration::from_secs(4));
    lab.balanced_books(&sensor)?;
    output(&lab, &sensor, &["history"])?;
    let counted = counted(&lab, &sensor, PHONE_MAC)?;
    sensor.process.stop()?;
    let copy = folder.join("copy.db");
    shell(&lab, &format!("cp {at}/history.db {}", copy.display()))?;
    let written = written_in(&copy, PHONE_MAC)?;
    ensure!(
        counted == written,
        "{counted:?} counted, {written:?} written"
    );
    Ok(())
}

/// The files in which one of these texts is.
fn files_with(folder: &Path, texts: &[&str]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_with(&path, texts)?);
            continue;
        }
        let Ok(octets) = fs::read(&path) else {
            continue;
        };
        for text in texts {
            if octets
                .windows(text.len())
                .any(|part| part == text.as_bytes())
            {
                found.push(format!("{text} in {}", path.display()));
            }
        }
    }
    Ok(found)
}

/// Policies that apply to everything, and name nothing.
const OBSERVING: &str = "
[[policy]]
name = \"everything\"
action = \"observe\"
[[policy]]
name = \"listed\"
category = [\"telemetry\", \"advertising\", \"never-block\", \"dns-bypass\"]
action = \"observe\"
[[policy]]
name = \"web\"
ports = [80, 443]
quic = \"observe\"
encrypted_dns = \"observe\"
action = \"observe\"
";

/// 200 sites are visited, and tabs of some go on polling. Their names are nowhere on disk; that of the vendor's
/// telemetry is, until the history is deleted.
#[test]
fn an_evening_of_visits_leaves_no_name_of_a_site_on_disk() -> Result<()> {
    const SITES: usize = 200;

    let mut lab = Lab::start(Options {
        sites: true,
        ..Options::default()
    })?;
    let configuration = lab.configuration(&format!("{QUICK}{OBSERVING}"));
    let sensor = lab.sensor(binary(), &configuration)?;
    lab.plug(Device::Phone)?;
    let web = WEB[0];
    let mut script = String::new();
    for site in 0..SITES {
        // By DNS, and by the host of a request.
        script += &format!(
            "url = \"http://visited-{site}.example/\"\nresolve = \"visited-{site}.example:80:{web}\"\n\
             output = \"/dev/null\"\n"
        );
    }
    let file = lab.phone.folder.join("evening");
    fs::write(&file, script)?;
    let visit = format!(
        "curl -sS --parallel --parallel-max 8 -m 20 -K {}",
        file.display()
    );
    lab.phone.run(&visit)?;
    for site in 0..20 {
        let _ = lab
            .phone
            .run(&format!("getent hosts visited-{site}.example"));
    }
    // Tabs that poll.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        lab.phone.run(&format!(
            "curl -sS -m 5 -o /dev/null --resolve visited-1.example:80:{web} http://visited-1.example/poll"
        ))?;
        thread::sleep(Duration::from_millis(300));
    }
    for site in [TRACKING, NEWS] {
        let authority = lab.authority().display();
        lab.phone.run(&format!(
            "curl -4 -sS -m 10 -o /dev/null --cacert {authority} https://{}/",
            site.name
        ))?;
    }
    let has_telemetry = || -> Result<bool> {
        let text = output(&lab, &sensor, &["history", PHONE_MAC, "--by", "party"])?;
        Ok(text.contains("miui.com") && text.contains("sites"))
    };
    wait_until("telemetry in the history", LIMIT, || {
        has_telemetry().unwrap_or(false)
    })?;
    // The daemon has heard the names: it shows them where it is asked.
    let shown = output(&lab, &sensor, &["devices", PHONE_MAC, "--json"])?;
    ensure!(shown.contains("visited-"), "no site was heard: {shown}");
    let flows: i64 = Connection::open(database(&lab))?.query_row(
        "SELECT flows FROM party_hour WHERE kind = 'sites'",
        [],
        |row| row.get(0),
    )?;
    ensure!(flows >= SITES as i64, "only {flows} flows are with sites");
    let state = lab.gateway.folder.join("state");
    let backup = state.join("backup.db");
    output(
        &lab,
        &sensor,
        &["history", "backup", &backup.display().to_string()],
    )?;
    for view in ["party-hour", "party-seen", "gap", "device-day"] {
        for format in ["csv", "ndjson"] {
            let words = ["history", "export", "--view", view, "--format", format];
            let text = output(&lab, &sensor, &words)?;
            fs::write(state.join(format!("{view}.{format}")), text)?;
        }
    }
    fs::write(state.join("log"), sensor.process.log())?;
    let visited = ["visited-", "news.lab", "lab.example"];
    ensure!(
        files_with(&state, &["miui.com"])?.len() >= 3,
        "nothing would be found"
    );
    let found = files_with(&state, &visited)?;
    ensure!(found.is_empty(), "{found:?}");

    fs::remove_file(&backup)?;
    for view in ["party-hour", "party-seen", "gap", "device-day"] {
        for format in ["csv", "ndjson"] {
            fs::remove_file(state.join(format!("{view}.{format}")))?;
        }
    }
    let said = output(&lab, &sensor, &["forget", "--history"])?;
    ensure!(said.contains("of all devices is deleted"), "{said}");
    let found = files_with(&state, &["visited-", "news.lab", "lab.example", "miui.com"])?;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}
