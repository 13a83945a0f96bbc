//! Ring 3: what is refused is heard by the device at once, at every hook, on links whose far end has no
//! program and whose checksums are left to the sender. Needs root.

use std::{
    env,
    io::{self, ErrorKind, Read as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Signal, geteuid};
use xtask::{
    lab::{Device, Lab, Options, TRACKER, TRACKER_PREFIXES, WEB, wait_until},
    setup::{self, Need},
};

/// How soon the device hears that something is refused.
const AT_ONCE: Duration = Duration::from_millis(50);
/// A busy machine is late now and then; what is never answered is late each time.
const TRIES: u16 = 5;
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether there can be a lab; where nobody insists, there need not be.
fn can_be() -> Result<bool> {
    if !geteuid().is_root() && env::var_os("CI").is_none() {
        eprintln!("not run: namespaces and programs in the kernel take root");
        return Ok(false);
    }
    setup::ensure(&[Need::Lab])?;
    Ok(true)
}

/// A TCP connection that is refused.
fn connect(to: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&to, PATIENCE).map(drop)
}

/// A datagram that is refused.
fn send(to: SocketAddr) -> io::Result<()> {
    let any = match to {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"refused")?;
    socket.recv(&mut [0; 16]).map(drop)
}

/// That somebody who tries is refused, and how soon at best.
fn refused(what: &str, attempt: impl Fn(u16) -> io::Result<()>) -> Result<()> {
    let mut best = PATIENCE;
    for number in 0..TRIES {
        let began = Instant::now();
        let error = attempt(number).err().context("it was let through")?;
        ensure!(
            error.kind() == ErrorKind::ConnectionRefused,
            "{what}: {error}"
        );
        best = best.min(began.elapsed());
    }
    println!("{what}: heard after {best:?}");
    ensure!(best < AT_ONCE, "{what}: heard after {best:?} at best");
    Ok(())
}

/// Both protocols and families are refused at a hook of the phone's own port, or of the bridge; a
/// connection that runs is ended at both ends; and nothing that the sensor made carries a mark into
/// routing.
fn everything_is_heard(interface: &str, hook: &str) -> Result<()> {
    if !can_be()? {
        return Ok(());
    }
    let mut lab = Lab::start(Options {
        sites: true,
        offloads: true,
        ..Options::default()
    })?;
    let place = format!("{interface} at {hook}");
    let [v4, v6] = TRACKER_PREFIXES;
    let daemon = lab.configuration("");
    let daemon = &daemon[daemon.find("[daemon]").context("a table")?..];
    let configuration = |more: &str| {
        format!("[[interface]]\nname = \"{interface}\"\nhook = \"{hook}\"\n\n{daemon}{more}")
    };
    let refusing = |prefixes: &str| {
        configuration(&format!(
            "[[policy]]\nname = \"gone\"\nremotes = [{prefixes}]\naction = \"reject\"\n"
        ))
    };
    let sensor = lab.sensor(
        Path::new(env!("CARGO_BIN_EXE_sensor")),
        &refusing(&format!("\"{v4}\", \"{v6}\"")),
    )?;
    lab.plug(Device::Phone)?;
    for rule in [
        "add table inet marks",
        "add counter inet marks marked",
        "add chain inet marks before { type filter hook prerouting priority -300 ; }",
        "add rule inet marks before meta mark != 0 counter name marked",
    ] {
        lab.gateway.run(&format!("nft {rule}"))?;
    }
    for address in TRACKER {
        let address: IpAddr = address.parse()?;
        let at = |port| SocketAddr::new(address, port);
        lab.phone.enter(|| {
            refused(&format!("{place}: TCP to {address}"), |n| {
                connect(at(7_000 + n))
            })?;
            refused(&format!("{place}: UDP to {address}"), |n| {
                send(at(7_000 + n))
            })
        })??;
    }
    // A connection that runs when it is refused.
    let web: IpAddr = WEB[0].parse()?;
    let mut stream = lab
        .phone
        .enter(|| TcpStream::connect_timeout(&SocketAddr::new(web, 80), PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    // The refusals were the sensor's own, not those of a server without such a port.
    let attempts = f64::from(2 * TRACKER.len() as u32 * u32::from(TRIES));
    wait_until("as many answers as attempts", PATIENCE, || {
        sensor.scrape(&lab).is_ok_and(|metrics| {
            let of = |line: &str| {
                line.rsplit(' ')
                    .next()
                    .and_then(|number| number.parse::<f64>().ok())
            };
            let answers = metrics
                .lines()
                .filter(|line| line.starts_with("sensor_answer_packets_total"));
            answers.filter_map(of).sum::<f64>() >= attempts
        })
    })?;
    sensor.rewrite(&refusing(&format!("\"{web}\"")))?;
    sensor.process.signal(Signal::HUP)?;
    wait_until("reloaded", 10 * PATIENCE, || {
        sensor.process.log().contains("configuration reloaded")
    })?;
    lab.phone.enter(|| -> Result<()> {
        use std::io::Write as _;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")?;
        let error = stream.read(&mut [0; 16]).err().context("it was answered")?;
        ensure!(
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
            ),
            "{place}: {error}"
        );
        Ok(())
    })??;
    let still = lab.internet.run("ss -Htn state established sport = :80")?;
    ensure!(still.trim().is_empty(), "{place}: the server holds {still}");
    let marks = lab.gateway.run("nft list counter inet marks marked")?;
    ensure!(marks.contains("packets 0 "), "{place}: {marks}");
    let metrics = sensor.scrape(&lab)?;
    let failed = metrics
        .lines()
        .filter(|line| line.starts_with("sensor_answers_failed_total"));
    for line in failed {
        ensure!(line.ends_with(" 0"), "{place}: {line}");
    }
    Ok(())
}

#[test]
fn at_a_bare_veth_by_whatever_hook_is_best() -> Result<()> {
    everything_is_heard("lan0", "auto")
}

#[test]
fn at_a_bare_veth_in_the_stack() -> Result<()> {
    everything_is_heard("lan0", "xdp-generic")
}

#[test]
fn at_a_bare_veth_at_tc() -> Result<()> {
    everything_is_heard("lan0", "tc")
}

#[test]
fn at_a_bridge() -> Result<()> {
    everything_is_heard("br-lan", "auto")
}

#[test]
fn at_a_bridge_in_the_stack() -> Result<()> {
    everything_is_heard("br-lan", "xdp-generic")
}
