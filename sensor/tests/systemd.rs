//! The notifications that a service manager receives over a real socket.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::{
    env, fs, io,
    os::unix::net::UnixDatagram,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use sensor::{daemon::systemd::ServiceManager, health::Health};

/// Long enough for three signs of life in time and for the silence after.
const WATCHDOG: Duration = Duration::from_millis(400);
const STALE_AFTER: Duration = Duration::from_millis(900);

fn main() -> ExitCode {
    if env::args().any(|argument| argument == "service") {
        service();
        return ExitCode::SUCCESS;
    }
    manager();
    println!("test systemd ... ok");
    ExitCode::SUCCESS
}

/// A service that becomes ready, reloads, falls silent and ends.
fn service() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let manager = ServiceManager::from_environment();
        let health = Health::new(STALE_AFTER, Instant::now());
        manager.ready("1 interface,\nREADY=0");
        manager.reloading();
        manager.ready("reloaded");
        let _ = tokio::time::timeout(3 * STALE_AFTER, manager.watch(health)).await;
        manager.stopping();
    });
}

fn manager() {
    let folder = env::temp_dir().join(format!("sensor-systemd-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .arg("service")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
        .env_remove("WATCHDOG_PID")
        .spawn()
        .unwrap();
    let mut heard = Vec::new();
    let status = loop {
        let mut buffer = [0; 512];
        match socket.recv(&mut buffer) {
            Ok(length) => heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
            }
            Err(error) => panic!("{error}"),
        }
    };
    fs::remove_dir_all(&folder).unwrap();
    assert!(status.success(), "{status}");

    assert_eq!(heard[0], "READY=1\nSTATUS=1 interface, READY=0\n");
    let reloading = heard[1].strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let since_boot: u64 = reloading
        .and_then(|digits| digits.trim_end().parse().ok())
        .unwrap_or_else(|| panic!("{:?}", heard[1]));
    assert!(since_boot > 0);
    assert_eq!(heard[2], "READY=1\nSTATUS=reloaded\n");
    assert_eq!(heard.last().unwrap(), "STOPPING=1\n");
    // One at once and then every 200 ms, until 900 ms without a tick; none in the 1.8 s after.
    let signs = heard.iter().filter(|text| *text == "WATCHDOG=1\n").count();
    assert!((3..=5).contains(&signs), "{heard:?}");
    assert_eq!(heard.len(), 4 + signs, "{heard:?}");
}
