//! A bridge whose ports are watched: what stays in the bridge, what leaves by several ports, and ports
//! that come and go.

use xtask::lab::{Host, Lab};

use crate::{
    attachment::{detach, log_says},
    daemon::{Daemon, Metrics, Settings, run},
    lab, wire,
};

const BRIDGE: &str = "br0";
const PORTS: [&str; 3] = ["p1", "p2", "p3"];
/// The machine's own address at the bridge.
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
/// A device behind the second port.
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x32];
const GROUP: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 0xfb];

/// A bridge with three ports, on which nothing speaks by itself.
fn bridge(host: &Host) {
    host.set("ipv6/conf/default/disable_ipv6", "1")
        .expect("no IPv6");
    host.ip(&format!(
        "link add {BRIDGE} address 02:00:00:00:00:aa type bridge mcast_snooping 0"
    ))
    .expect("a bridge");
    for port in PORTS {
        wire::lay(host, port);
        host.ip(&format!("link set {port} master {BRIDGE}"))
            .expect("a port");
    }
    host.ip(&format!("link set {BRIDGE} arp off up"))
        .expect("up");
}

fn settings(lab: &Lab, local: bool) -> Settings {
    Settings {
        keys: match local {
            true => "ports = true\nlocal = true\n",
            false => "ports = true\n",
        },
        more:
            "[[policy]]\nname = \"nothing\"\nremotes = [\"198.51.100.0/24\"]\naction = \"drop\"\n"
                .to_owned(),
        ..Settings::new(lab, &[BRIDGE])
    }
}

/// A series of packets, summed over the ports.
fn over_ports(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> f64 {
    let of = |port| {
        let labels = [labels, &[("interface", port)]].concat();
        metrics.value(name, &labels)
    };
    PORTS.map(of).iter().sum()
}

fn skipped(metrics: &Metrics, direction: &str, reason: &str) -> f64 {
    let labels = [("direction", direction), ("reason", reason)];
    over_ports(metrics, "sensor_skipped_packets_total", &labels)
}

fn booked(metrics: &Metrics, direction: &str, book: &str) -> f64 {
    let labels = [("direction", direction), ("book", book)];
    over_ports(metrics, "sensor_booked_packets_total", &labels)
}

/// Waits until the ports have seen so many packets, and gives the metrics.
#[track_caller]
fn seen(daemon: &mut Daemon<'_>, direction: &str, packets: u64) -> Metrics {
    let seen = |metrics: &Metrics| {
        let labels = [("direction", direction)];
        over_ports(metrics, "sensor_interface_packets_total", &labels)
    };
    let wanted = packets as f64;
    daemon.wait_until(&format!("at {packets} {direction}s"), |probe| {
        probe
            .scrape()
            .is_some_and(|metrics| seen(&metrics) >= wanted)
    });
    let metrics = daemon.scrape();
    assert_eq!(seen(&metrics), wanted);
    metrics
}

#[test]
fn what_stays_in_the_bridge_is_local_and_what_leaves_by_several_ports_counts_once() {
    let Some(lab) = lab() else { return };
    bridge(&lab.gateway);
    let mut daemon = Daemon::start(&lab, &settings(&lab, false));
    for port in PORTS {
        assert!(["tcx", "clsact"].contains(&daemon.scrape().hook(port, "upload")));
    }
    let send = |from: &str, frame: &[u8], count| wire::transmit(&lab.gateway, from, frame, count);
    // To the machine: dropped by the policy, and booked to the device.
    send("p1-far", &wire::datagram(OWN, wire::DEVICE), 5);
    let metrics = seen(&mut daemon, "upload", 5);
    assert_eq!(booked(&metrics, "upload", "flow"), 5.0);
    // To another device, which the bridge has not heard of: out of both other ports, and not refused.
    let before = lab.gateway.counters("p3-far").expect("counters").rx.packets;
    send("p1-far", &wire::datagram(OTHER, wire::DEVICE), 7);
    let metrics = seen(&mut daemon, "upload", 12);
    assert_eq!(skipped(&metrics, "upload", "local"), 7.0);
    let metrics = seen(&mut daemon, "download", 14);
    assert_eq!(skipped(&metrics, "download", "local"), 14.0);
    let after = lab.gateway.counters("p3-far").expect("counters").rx.packets;
    assert_eq!(after - before, 7);
    // To a group: the device's upload, and the others' copies are local.
    let announcement = wire::datagram_for([224, 0, 0, 251], GROUP, wire::DEVICE);
    send("p1-far", &announcement, 2);
    let metrics = seen(&mut daemon, "download", 18);
    assert_eq!(skipped(&metrics, "download", "local"), 18.0);
    assert_eq!(booked(&metrics, "upload", "flow"), 7.0);
    assert_eq!(booked(&metrics, "download", "multicast"), 0.0);

    // From the machine to a group, and to a device that the bridge has not heard of.
    send(BRIDGE, &wire::datagram(GROUP, OWN), 4);
    let metrics = seen(&mut daemon, "download", 18 + 3 * 4);
    assert_eq!(booked(&metrics, "download", "multicast"), 4.0);
    assert_eq!(skipped(&metrics, "download", "copy"), 2.0 * 4.0);
    let device = [2, 0, 0, 0, 0, 0x33];
    send(BRIDGE, &wire::datagram(device, OWN), 6);
    let metrics = seen(&mut daemon, "download", 30 + 3 * 6);
    assert_eq!(booked(&metrics, "download", "flow"), 6.0);
    assert_eq!(skipped(&metrics, "download", "copy"), 8.0 + 2.0 * 6.0);
    // And the interfaces counted as many.
    for port in PORTS {
        let counted = lab.gateway.counters(port).expect("counters");
        let of = |direction| {
            let labels = [("interface", port), ("direction", direction)];
            metrics.value("sensor_interface_packets_total", &labels)
        };
        assert_eq!(of("upload"), counted.rx.packets as f64, "{port}");
        assert_eq!(of("download"), counted.tx.packets as f64, "{port}");
    }
    daemon.end();
}

#[test]
fn what_stays_in_the_bridge_is_judged_where_that_is_wanted() {
    let Some(lab) = lab() else { return };
    bridge(&lab.gateway);
    let mut daemon = Daemon::start(&lab, &settings(&lab, true));
    let frame = wire::datagram(OTHER, wire::DEVICE);
    wire::transmit(&lab.gateway, "p1-far", &frame, 7);
    let metrics = seen(&mut daemon, "upload", 7);
    assert_eq!(booked(&metrics, "upload", "flow"), 7.0);
    // Dropped at the port where it came in.
    let metrics_of = |daemon: &Daemon<'_>| daemon.scrape();
    assert_eq!(skipped(&metrics, "upload", "local"), 0.0);
    assert_eq!(
        over_ports(
            &metrics_of(&daemon),
            "sensor_interface_packets_total",
            &[("direction", "download")]
        ),
        0.0
    );
    // A reload that asks for the other.
    std::fs::write(&daemon.file, settings(&lab, false).text()).expect("written");
    daemon.wait_until("local", |probe| {
        wire::transmit(&lab.gateway, "p1-far", &frame, 1);
        probe
            .scrape()
            .is_some_and(|metrics| skipped(&metrics, "upload", "local") > 0.0)
    });
    daemon.end();
}

#[test]
fn ports_come_and_go() {
    let Some(lab) = lab() else { return };
    bridge(&lab.gateway);
    let mut daemon = Daemon::start(&lab, &settings(&lab, false));
    wire::lay(&lab.gateway, "late.1");
    assert_eq!(wire::tc(&lab.gateway, "late.1"), 0);
    lab.gateway
        .ip(&format!("link set late.1 master {BRIDGE}"))
        .expect("a port");
    daemon.wait_until("attached", |_| wire::tc(&lab.gateway, "late.1") == 2);
    let frame = wire::datagram(OWN, wire::DEVICE);
    wire::transmit(&lab.gateway, &wire::far("late.1"), &frame, 3);
    daemon.counts("late.1", 3);
    lab.gateway.ip("link set p2 nomaster").expect("no port");
    daemon.wait_until("detached", |_| wire::tc(&lab.gateway, "p2") == 0);
    wire::cut(&lab.gateway, "p3");
    daemon.wait_until("gone", |daemon| {
        daemon
            .scrape()
            .is_some_and(|metrics| metrics.hook("p3", "upload") == "none")
    });
    daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
    daemon.end();
    // The next start finds what there is.
    let mut daemon = Daemon::start(&lab, &settings(&lab, false));
    wire::transmit(&lab.gateway, &wire::far("late.1"), &frame, 2);
    daemon.counts("late.1", 5);
    daemon.end();
    run(&lab, &settings(&lab, false), &["unload"]).fine();
    for name in [BRIDGE, "p1", "late.1"] {
        assert_eq!(wire::tc(&lab.gateway, name), 0, "{name}");
    }
}

#[test]
fn nothing_stays_on_a_bridge() {
    let Some(lab) = lab() else { return };
    bridge(&lab.gateway);
    wire::lay(&lab.gateway, "one");
    for hook in ["clsact", "auto"] {
        let ports = settings(&lab, false).hook(hook);
        Daemon::start(&lab, &ports).end();
        assert_eq!(wire::tc(&lab.gateway, BRIDGE), 1, "{hook}");
        // A start that does not want it.
        Daemon::start(&lab, &Settings::new(&lab, &["one"])).end();
        for name in [BRIDGE, "p1"] {
            assert_eq!(wire::tc(&lab.gateway, name), 0, "{hook} {name}");
        }
        Daemon::start(&lab, &ports).end();
        assert_eq!(wire::tc(&lab.gateway, BRIDGE), 1, "{hook}");
        run(&lab, &ports, &["unload"]).fine();
        for name in [BRIDGE, "p1"] {
            assert_eq!(wire::tc(&lab.gateway, name), 0, "{hook} {name}");
        }
    }
}

#[test]
fn more_ports_than_there_is_room_for_leave_the_others_watched() {
    let Some(lab) = lab() else { return };
    bridge(&lab.gateway);
    let mut daemon = Daemon::start(&lab, &settings(&lab, false));
    for number in 0..64 {
        let name = format!("n{number}");
        wire::lay(&lab.gateway, &name);
        lab.gateway
            .ip(&format!("link set {name} master {BRIDGE}"))
            .expect("a port");
    }
    log_says(&daemon, "map PORTS cannot be used");
    daemon.wait_until("not ready", |daemon| daemon.get("readyz").is_none());
    // A port that goes away is seen all the same, and one that lost its programs.
    wire::cut(&lab.gateway, "p2");
    log_says(&daemon, "interface p2 went away");
    detach(&lab.gateway, "p1");
    daemon.wait_until("put back", |_| wire::tc(&lab.gateway, "p1") == 2);
    for number in 0..8 {
        wire::cut(&lab.gateway, &format!("n{number}"));
    }
    daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
    daemon.end();
}

#[test]
fn an_interface_beside_its_own_port_is_an_error_of_check() {
    let Some(lab) = lab() else { return };
    bridge(&lab.gateway);
    let both = Settings::new(&lab, &[BRIDGE, "p1"]);
    let said = "frames of p1 are counted at br0 again: p1 is a port of br0";
    run(&lab, &both, &["check"]).refused(said);
    let ports = Settings {
        keys: "ports = true\n",
        ..Settings::new(&lab, &[BRIDGE])
    };
    run(&lab, &ports, &["check"]).fine();
    // A daemon that runs says so, and goes on.
    let daemon = Daemon::start(&lab, &both);
    log_says(&daemon, said);
    daemon.end();
    let no_bridge = Settings {
        keys: "ports = true\n",
        ..Settings::new(&lab, &["p1"])
    };
    run(&lab, &no_bridge, &["run"]).refused("interface p1 is no bridge");
}

#[test]
fn a_record_of_an_interface_that_is_gone_is_used_again_and_its_counts_stay() {
    let Some(lab) = lab() else { return };
    lab.gateway
        .set("ipv6/conf/default/disable_ipv6", "1")
        .expect("no IPv6");
    let settings = Settings {
        more: "[flow_table]\nidle_after = \"1s\"\n".to_owned(),
        ..settings(&lab, false)
    };
    lab.gateway
        .ip(&format!(
            "link add {BRIDGE} address 02:00:00:00:00:aa type bridge mcast_snooping 0"
        ))
        .expect("a bridge");
    lab.gateway
        .ip(&format!("link set {BRIDGE} arp off up"))
        .expect("up");
    let mut daemon = Daemon::start(&lab, &settings);
    let frame = wire::datagram(OWN, wire::DEVICE);
    let sum = |metrics: &Metrics| -> f64 {
        let all = metrics.series();
        all.filter(|(series, _)| {
            series.starts_with("sensor_interface_packets_total") && series.contains("upload")
        })
        .map(|(_, value)| value)
        .sum()
    };
    // There are 64 records, of which the last one is nobody's own.
    for number in 0..66_u64 {
        let name = format!("n{number}");
        wire::lay(&lab.gateway, &name);
        lab.gateway
            .ip(&format!("link set {name} master {BRIDGE}"))
            .expect("a port");
        daemon.wait_until("attached", |_| wire::tc(&lab.gateway, &name) == 2);
        wire::transmit(&lab.gateway, &wire::far(&name), &frame, 1);
        daemon.wait_until("counted", |probe| {
            probe
                .scrape()
                .is_some_and(|metrics| sum(&metrics) >= (number + 1) as f64)
        });
        wire::cut(&lab.gateway, &name);
    }
    let metrics = daemon.scrape();
    assert_eq!(sum(&metrics), 66.0);
    let gone = [("interface", "gone interfaces"), ("direction", "upload")];
    assert_eq!(metrics.value("sensor_interface_packets_total", &gone), 3.0);
    assert!(daemon.log().contains("its record is used for n65"));
    daemon.end();
}
