//! Features that this machine's own kernel may lack: a VLAN, a bond, and a flowtable of nftables behind
//! a bridge.

use std::{fs, process::Command, thread, time::Duration, time::Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sensor::{
    aggregate::Aggregate,
    config::Config,
    model::{Hook, Snapshot, Tally, Ticks},
    source::kernel::Kernel,
};

use super::{PATIENCE, PINS, Port, converse, counters, enter, ip, servers, tcp};

const VLAN: Port = Port {
    interface: "lan2.7",
    device: "eth2.7",
    namespace: "vlans",
    hook: "auto",
    gateway: ["192.0.2.129", "2001:db8:7::1"],
    own: ["192.0.2.130", "2001:db8:7::2"],
};
const BOND: Port = Port {
    interface: "bond7",
    device: "eth4",
    namespace: "bonded",
    hook: "tc",
    gateway: ["198.51.100.129", "2001:db8:8::1"],
    own: ["198.51.100.130", "2001:db8:8::2"],
};
const BRIDGE: Port = Port {
    interface: "br0",
    device: "eth5",
    namespace: "behind",
    hook: "auto",
    gateway: ["203.0.113.129", "2001:db8:9::1"],
    own: ["203.0.113.130", "2001:db8:9::2"],
};
const BRIDGE_PORT: Port = Port {
    interface: "p0",
    ..BRIDGE
};
const WORLD: Port = Port {
    interface: "wan0",
    device: "eth6",
    namespace: "world",
    hook: "tc",
    gateway: ["203.0.113.193", "2001:db8:a::1"],
    own: ["203.0.113.194", "2001:db8:a::2"],
};

/// Makes the interfaces, and lets the sensor count what goes over them.
pub(super) fn exercise(kernel: &mut Kernel) -> Result<String> {
    prepare().context("the interfaces cannot be made")?;
    look(kernel, "name = \"lan2\"")?;
    let upload = hook(kernel, "lan2")?;
    ensure!(
        upload == Hook::Tcx || upload == Hook::Clsact,
        "tags are taken out of frames on lan2, and its upload program sits at {upload:?}"
    );
    for port in [&VLAN, &BOND] {
        look(kernel, &format!("name = \"{}\"", port.interface))?;
        let before = seen(kernel, port)?;
        enter(port, || converse(port)).with_context(|| port.interface)?;
        let (booked, counted) = difference(kernel, port, before, |booked, counted| {
            [0, 1]
                .iter()
                .all(|way| booked[*way].packets == counted[*way].packets)
        })
        .with_context(|| port.interface)?;
        ensure!(booked[0].packets > 40, "{booked:?} of {counted:?}");
    }

    enter(&WORLD, servers)?;
    look(kernel, "name = \"br0\"")?;
    let notes = kernel
        .attached()
        .iter()
        .flat_map(|attached| attached.notes.iter());
    let notes: Vec<_> = notes.cloned().collect();
    ensure!(
        notes.iter().any(|note| note.contains("flowtable fast")),
        "nobody says that a flowtable goes past the bridge: {notes:?}"
    );
    let (bridge, port) = (seen(kernel, &BRIDGE)?, counters(&BRIDGE_PORT)?);
    enter(&BRIDGE, || tcp(WORLD.own[0]))?;
    thread::sleep(Duration::from_millis(500));
    let passed = counters(&BRIDGE_PORT)?[0].packets - port[0].packets;
    let at_bridge = seen(kernel, &BRIDGE)?.0[0].packets - bridge.0[0].packets;
    ensure!(
        at_bridge + 10 < passed,
        "the flowtable hides nothing: {at_bridge} of {passed} packets came to the bridge"
    );

    look(kernel, "name = \"br0\"\nports = true")?;
    let before = seen(kernel, &BRIDGE_PORT)?;
    enter(&BRIDGE, || tcp(WORLD.own[0]))?;
    let (booked, _) = difference(kernel, &BRIDGE_PORT, before, |booked, counted| {
        booked == counted
    })
    .context("the port of the bridge")?;
    ensure!(
        booked[0].packets > at_bridge + 10,
        "{booked:?} at the port, {at_bridge} at the bridge"
    );
    Ok(format!(
        "vlan, bond: difference=0; flowtable: {at_bridge} of {passed} packets at the bridge, all at \
         its port"
    ))
}

fn prepare() -> Result<()> {
    for port in [&VLAN, &BOND, &BRIDGE, &WORLD] {
        ip(&format!("netns add {}", port.namespace))?;
    }
    for (near, far, namespace) in [
        ("lan2", "eth2", VLAN.namespace),
        ("m0", BOND.device, BOND.namespace),
        ("p0", BRIDGE.device, BRIDGE.namespace),
        ("wan0", WORLD.device, WORLD.namespace),
    ] {
        ip(&format!(
            "link add {near} type veth peer {far} netns {namespace}"
        ))?;
    }
    ip("link add link lan2 name lan2.7 type vlan id 7")?;
    ip("-n vlans link add link eth2 name eth2.7 type vlan id 7")?;
    ip("link add bond7 type bond mode active-backup")?;
    ip("link set m0 master bond7")?;
    ip("link add br0 type bridge")?;
    ip("link set p0 master br0")?;
    for name in ["lan2", "bond7", "p0"] {
        ip(&format!("link set {name} up"))?;
    }
    ip("-n vlans link set eth2 up")?;
    for port in [&VLAN, &BOND, &BRIDGE, &WORLD] {
        let namespace = port.namespace;
        for family in 0..2 {
            let length = ["26", "64 nodad"][family];
            let (near, far) = (port.gateway[family], port.own[family]);
            ip(&format!(
                "address add dev {} {near}/{length}",
                port.interface
            ))?;
            ip(&format!(
                "-n {namespace} address add dev {} {far}/{length}",
                port.device
            ))?;
        }
        ip(&format!("link set {} up", port.interface))?;
        ip(&format!("-n {namespace} link set {} up", port.device))?;
        let gateway = port.gateway[0];
        ip(&format!("-n {namespace} route add default via {gateway}"))?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let rules = "/rules.nft";
    fs::write(
        rules,
        "table inet f {\n\
         flowtable fast { hook ingress priority 0; devices = { p0, wan0 }; }\n\
         chain forward { type filter hook forward priority 0; ip protocol tcp flow add @fast; }\n\
         }\n",
    )?;
    let output = Command::new("/bin/nft").args(["-f", rules]).output()?;
    ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    // A bridge's port forwards when it has learned.
    thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// Has the sensor watch this interface alone, and sees that it does.
fn look(kernel: &mut Kernel, interface: &str) -> Result<()> {
    let text = format!("[[interface]]\n{interface}\n[daemon]\npin_directory = \"{PINS}\"\n");
    let checked = Config::parse(&text, std::path::Path::new("guest.toml"))
        .map_err(|problems| anyhow!("{}", problems.render(false)))?;
    kernel.look(&checked.config.interfaces)?;
    ensure!(kernel.is_whole(), "not attached: {interface}");
    Ok(())
}

fn hook(kernel: &Kernel, name: &str) -> Result<Hook> {
    let attached = kernel.attached().iter();
    let mut attached = attached.filter(|attached| attached.interface == name);
    Ok(attached.next().context("not attached")?.upload)
}

/// The books of an interface, and the interface's own counters.
fn seen(kernel: &mut Kernel, port: &Port) -> Result<([Tally; 2], [Tally; 2])> {
    let mut aggregate = Aggregate::default();
    kernel.read(Duration::from_secs(3600), &0.0.into(), |record| {
        aggregate.apply(record, 0.0)
    })?;
    let snapshot: Snapshot = aggregate.snapshot(Ticks::default());
    let mut accounts = snapshot.interfaces.iter();
    let account = accounts
        .find(|account| account.interface == port.interface)
        .with_context(|| format!("no account of {}", port.interface))?;
    Ok((
        [account.seen.upload, account.seen.download],
        counters(port)?,
    ))
}

/// The booked and the counted traffic since `before`, once nothing moves and they agree.
fn difference(
    kernel: &mut Kernel,
    port: &Port,
    before: ([Tally; 2], [Tally; 2]),
    agree: impl Fn(&[Tally; 2], &[Tally; 2]) -> bool,
) -> Result<([Tally; 2], [Tally; 2])> {
    let minus = |after: [Tally; 2], before: [Tally; 2]| {
        [0, 1].map(|way| Tally {
            packets: after[way].packets - before[way].packets,
            bytes: after[way].bytes - before[way].bytes,
        })
    };
    let begun = Instant::now();
    loop {
        let after = seen(kernel, port)?;
        let (booked, counted) = (minus(after.0, before.0), minus(after.1, before.1));
        if agree(&booked, &counted) && counters(port)? == after.1 {
            return Ok((booked, counted));
        }
        if begun.elapsed() > PATIENCE {
            bail!("booked {booked:?}, counted {counted:?}");
        }
        thread::sleep(Duration::from_millis(100));
    }
}
