//! The home lab: a household and a piece of internet made of network namespaces.
//!
//! ```text
//!  phone ── eth0 ═══ lan0 ─┐
//!                          ├─ br-lan  gateway  wan0 ═══ eth0 ── internet
//! laptop ── eth0 ═══ lan1 ─┘
//! ```
//!
//! The gateway bridges its two LAN ports, serves addresses and names (dnsmasq), translates IPv4
//! (nftables) and routes IPv6. `internet` has web servers with certificates of a CA of the lab, a
//! name server and a UDP echo, at addresses that documentation reserves (RFC 5737, RFC 3849). On
//! request it has named sites as well ([`SITES`]) and is farther away, and the phone is a Redmi.
//!
//! A device is not plugged in before [`Lab::plug`]: a sensor that is started before sees every
//! packet that its ports ever count.

mod attempts;
mod books;
mod certificate;
mod host;
mod namespace;
pub mod pass;
mod redmi;
mod relay;
mod sensor;
mod servers;
mod sites;
mod wire;

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

pub use self::{
    attempts::{Again, Attempt, Outcome, Way},
    books::{ByDirection, PortBooks, Tally},
    host::{Count, Counters, Host, Process, wait_until},
    redmi::{By, REDMI_HOST_NAME, REDMI_MAC, REDMI_VENDOR_CLASS, VISITS},
    sensor::{LISTEN, Sensor},
    servers::{ask_prometheus, prometheus},
    sites::{
        ALIAS_NAME, ALLOWED, ANALYTICS, BLOCKED, CAPTIVE, LISTED, NEWS, ONLY_BLOCKED, Request,
        SHOP, SITES, Site, TRACKING, VIDEO,
    },
    wire::{Tap, Wire},
};
use self::{namespace::Mount, relay::Relay, servers::Servers};
use crate::build;

/// The gateway's ports, to the phone and to the laptop.
pub const PORTS: [&str; 2] = ["lan0", "lan1"];
/// The MAC address of the phone, unless it is a Redmi.
pub const PHONE_MAC: &str = "02:00:00:00:00:11";
/// The MAC address of the laptop.
pub const LAPTOP_MAC: &str = "02:00:00:00:00:12";
/// The addresses of the gateway on its LAN.
pub const GATEWAY: [&str; 2] = ["192.168.77.1", "2001:db8:1::1"];
/// The name of the web server.
pub const WEB_NAME: &str = "www.lab.example";
/// The addresses of the web server.
pub const WEB: [&str; 2] = ["198.51.100.10", "2001:db8:a::10"];
/// The name of the server that nobody asked for.
pub const TRACKER_NAME: &str = "tracker.lab.example";
/// The addresses of the server that nobody asked for.
pub const TRACKER: [&str; 2] = ["203.0.113.66", "2001:db8:bad::66"];
/// The prefixes of the server that nobody asked for.
pub const TRACKER_PREFIXES: [&str; 2] = ["203.0.113.0/24", "2001:db8:bad::/48"];
/// The address of the name server that the gateway asks.
pub const NAME_SERVER: &str = "198.51.100.53";
/// The port of the UDP echo on the web server's addresses.
pub const ECHO_PORT: u16 = 4000;

/// How many folders of ended labs are kept, for their logs.
const KEPT: usize = 16;

/// The options of a lab.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether interfaces may hand over super-packets (TSO, GSO, GRO) and packets without a checksum. Without
    /// offloads, an interface counts as a wire would carry.
    pub offloads: bool,
    /// Whether the internet has the named sites.
    pub sites: bool,
    /// Which phone the household has.
    pub phone: Phone,
    /// How far away the internet is: the time that the link to it adds to a round trip, half of it each way.
    /// Default: none but the veth's own.
    pub delay: Option<Duration>,
}

/// A make of phone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phone {
    /// A host called `phone`, with an address of no maker.
    #[default]
    Plain,
    /// A Redmi Note 8; see [`Lab::use_redmi`].
    Redmi,
}

impl Phone {
    const fn mac(self) -> &'static str {
        match self {
            Self::Plain => PHONE_MAC,
            Self::Redmi => REDMI_MAC,
        }
    }
}

/// A running lab. Everything in it ends with it.
#[derive(Debug)]
pub struct Lab {
    /// The lab's identity among others: the process and a number.
    pub id: String,
    /// Where its files and logs are.
    pub folder: PathBuf,
    /// A device of the household.
    pub phone: Host,
    /// Another one.
    pub laptop: Host,
    /// The household's router, where the sensor sits.
    pub gateway: Host,
    /// Everything else.
    pub internet: Host,
    servers: Servers,
    clients: Vec<Process>,
    /// The programs at the devices' ends.
    passes: Vec<OwnedFd>,
    options: Options,
    relay: Option<Relay>,
}

impl Lab {
    /// Makes the hosts and their links and starts the servers; no device is plugged in.
    ///
    /// # Errors
    /// Without root, without one of the lab's programs (`cargo xtask setup` installs them), or
    /// where a server does not come up: with its log.
    pub fn start(options: Options) -> Result<Self> {
        let folder = new_folder()?;
        let pins = folder.join("bpf");
        fs::create_dir(&pins)?;
        let gateway = Host::new("gateway", &folder, vec![Mount::Bpf(pins)])?;
        let internet = Host::new("internet", &folder, Vec::new())?;
        let phone = Host::new("phone", &folder, Vec::new())?;
        let laptop = Host::new("laptop", &folder, Vec::new())?;
        let relay = link(&gateway, &internet, &folder, options)?;
        lan(
            &gateway,
            [(&phone, options.phone.mac()), (&laptop, LAPTOP_MAC)],
            options,
        )?;
        let servers = Servers::start(&gateway, &internet, &folder, options)?;
        let lab = Self {
            id: name_of(&folder),
            folder,
            phone,
            laptop,
            gateway,
            internet,
            servers,
            clients: Vec::new(),
            passes: Vec::new(),
            options,
            relay,
        };
        lab.leave_a_note()?;
        Ok(lab)
    }

    /// Plugs a device in: its link comes up, it asks for an IPv4 address by DHCP and takes an IPv6
    /// address from the router's advertisement.
    ///
    /// # Errors
    /// Where it gets no address within ten seconds, with the DHCP client's log.
    pub fn plug(&mut self, device: Device) -> Result<()> {
        let (host, port) = self.device(device);
        if !self.options.offloads {
            let pass = host.enter(|| pass::attach("eth0", pass::Mode::Native))??;
            self.passes.push(pass);
        }
        let (host, _) = self.device(device);
        host.ip("link set eth0 up")?;
        self.gateway.ip(&format!("link set {port} up"))?;
        let client = match (device, self.options.phone) {
            (Device::Phone, Phone::Redmi) => servers::ask_as_redmi(host)?,
            _ => servers::ask_for_address(host)?,
        };
        wait_until("at its IPv6 address", Duration::from_secs(10), || {
            host.run("ip -6 route show default")
                .is_ok_and(|routes| !routes.is_empty())
                && host
                    .run("ip -6 addr show dev eth0 scope global -tentative")
                    .is_ok_and(|addresses| addresses.contains("inet6"))
        })
        .with_context(|| format!("on {}", host.name))?;
        self.clients.push(client);
        Ok(())
    }

    /// Takes a device's port out of the gateway: the interface is gone, at both ends.
    ///
    /// # Errors
    /// Where it is gone already.
    pub fn remove_port(&self, device: Device) -> Result<()> {
        let (_, port) = self.device(device);
        self.gateway.ip(&format!("link del {port}"))
    }

    /// Puts a port into the gateway in the place of one that was removed; nothing is plugged in.
    ///
    /// # Errors
    /// Where it was not removed.
    pub fn insert_port(&self, device: Device) -> Result<()> {
        let (host, port) = self.device(device);
        port_of_bridge(&self.gateway, port, host, self.mac(device), self.options)
    }

    /// The MAC address of a device.
    pub const fn mac(&self, device: Device) -> &'static str {
        match device {
            Device::Phone => self.options.phone.mac(),
            Device::Laptop => LAPTOP_MAC,
        }
    }

    /// The host and the gateway's port of a device.
    pub fn device(&self, device: Device) -> (&Host, &'static str) {
        match device {
            Device::Phone => (&self.phone, PORTS[0]),
            Device::Laptop => (&self.laptop, PORTS[1]),
        }
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        [&self.phone, &self.laptop, &self.gateway, &self.internet]
            .into_iter()
            .find(|host| host.name == name)
    }

    /// The path of the certificate that the lab's servers are to be trusted by.
    pub fn authority(&self) -> &Path {
        &self.servers.authority
    }

    /// Frames that the delayed link has lost: 0 without a delay, and where it was never full.
    pub fn lost_on_the_way(&self) -> u64 {
        self.relay.as_ref().map_or(0, Relay::lost)
    }

    /// The counters of the gateway's two ports.
    ///
    /// # Errors
    /// Where a port is gone.
    pub fn counters(&self) -> Result<[Counters; 2]> {
        Ok([
            self.gateway.counters(PORTS[0])?,
            self.gateway.counters(PORTS[1])?,
        ])
    }

    /// The counters of the gateway's two ports, once nothing has moved for a while.
    ///
    /// # Errors
    /// Where packets still come after 20 seconds.
    pub fn quiet_counters(&self) -> Result<[Counters; 2]> {
        let mut last = self.counters()?;
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(400));
            let now = self.counters()?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
        bail!("the lab's links do not come to rest: {last:?}")
    }

    /// Says where the namespaces are, for `lab enter` from another terminal.
    fn leave_a_note(&self) -> Result<()> {
        let note = Note {
            process: std::process::id(),
            hosts: [&self.phone, &self.laptop, &self.gateway, &self.internet]
                .map(|host| (host.name.to_owned(), host.namespaces.descriptors()))
                .to_vec(),
        };
        fs::write(self.folder.join(NOTE), serde_json::to_string(&note)?)?;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The namespaces end with their descriptors; the note would lead nowhere.
        let _ = fs::remove_file(self.folder.join(NOTE));
    }
}

/// The devices that can be plugged into the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The phone, at the first port.
    Phone,
    /// The laptop, at the second port.
    Laptop,
}

const NOTE: &str = "lab.json";

#[derive(Serialize, Deserialize)]
struct Note {
    process: u32,
    hosts: Vec<(String, [i32; 2])>,
}

/// A command to run on a host of a lab that another process holds.
///
/// # Errors
/// Where no lab runs, several run and `lab` does not say which, or the lab has no such host.
pub fn command_in(lab: Option<&str>, host: &str, program: &str) -> Result<std::process::Command> {
    let notes: Vec<_> = folders()?
        .into_iter()
        .filter(|folder| lab.is_none_or(|id| name_of(folder) == id))
        .filter_map(|folder| {
            let text = fs::read_to_string(folder.join(NOTE)).ok()?;
            let note: Note = serde_json::from_str(&text).ok()?;
            is_alive(note.process).then_some((name_of(&folder), note))
        })
        .collect();
    let note = match &notes[..] {
        [] => bail!("no such lab runs; start one with `cargo xtask lab`"),
        [(_, note)] => note,
        several => {
            let ids: Vec<_> = several.iter().map(|(id, _)| id.as_str()).collect();
            bail!("several labs run; say which with --lab: {}", ids.join(", "))
        }
    };
    let descriptors = note.hosts.iter().find(|(name, _)| name == host);
    let (_, descriptors) = descriptors.with_context(|| {
        format!("the lab has no host {host}: it has phone, laptop, gateway and internet")
    })?;
    Ok(namespace::Namespaces::of(note.process, *descriptors)?.command(program))
}

fn all_labs() -> PathBuf {
    build::workspace().join("target/lab")
}

fn name_of(folder: &Path) -> String {
    folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn folders() -> Result<Vec<PathBuf>> {
    let all = all_labs();
    fs::create_dir_all(&all).with_context(|| format!("cannot make {}", all.display()))?;
    let mut folders = Vec::new();
    for entry in fs::read_dir(&all)? {
        folders.push(entry?.path());
    }
    Ok(folders)
}

fn is_alive(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// A folder for a new lab; old ones are removed but for the last few, whose logs may still be
/// wanted.
fn new_folder() -> Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut ended: Vec<_> = folders()?
        .into_iter()
        .filter(|folder| {
            let name = name_of(folder);
            let process = name.split('-').next().and_then(|id| id.parse().ok());
            !process.is_some_and(is_alive)
        })
        .filter_map(|folder| {
            let made = fs::metadata(&folder)
                .and_then(|data| data.modified())
                .ok()?;
            Some((made, folder))
        })
        .collect();
    ended.sort();
    let surplus = ended.len().saturating_sub(KEPT);
    for (_, folder) in &ended[..surplus] {
        // Another lab that starts now may have been quicker.
        let _ = fs::remove_dir_all(folder);
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = all_labs().join(format!("{}-{number}", std::process::id()));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The link between the gateway and the internet, and the relay on it where it is a long one.
fn link(gateway: &Host, internet: &Host, folder: &Path, options: Options) -> Result<Option<Relay>> {
    const INTERNET_MAC: &str = "02:00:00:00:00:02";
    let relay = match options.delay {
        None => {
            veth((gateway, "wan0"), (internet, "eth0"), INTERNET_MAC, options)?;
            None
        }
        Some(round_trip) => {
            let options = Options {
                offloads: false,
                ..options
            };
            let host = Host::new("relay", folder, Vec::new())?;
            // It is to say nothing of its own, on either side.
            host.set("ipv6/conf/default/disable_ipv6", "1")?;
            const MAC: &str = "02:00:00:00:00:03";
            veth((gateway, "wan0"), (&host, "near"), MAC, options)?;
            veth((&host, "far"), (internet, "eth0"), INTERNET_MAC, options)?;
            let interfaces = ["near", "far"];
            for interface in interfaces {
                host.ip(&format!("link set {interface} promisc on up"))?;
            }
            Some(Relay::start(host, interfaces, round_trip / 2)?)
        }
    };
    for host in [gateway, internet] {
        host.set("ipv4/ip_forward", "1")?;
        host.set("ipv6/conf/all/forwarding", "1")?;
    }
    for words in [
        "addr add 192.0.2.2/30 dev wan0",
        "addr add 2001:db8:2::2/64 dev wan0 nodad",
        "link set wan0 up",
    ] {
        gateway.ip(words)?;
    }
    internet.ip("addr add 192.0.2.1/30 dev eth0")?;
    internet.ip("addr add 2001:db8:2::1/64 dev eth0 nodad")?;
    internet.ip("link set eth0 up")?;
    for address in [WEB, TRACKER].into_iter().flatten().chain([NAME_SERVER]) {
        internet.ip(&format!("addr add {address} dev lo"))?;
    }
    if options.sites {
        for address in sites::addresses() {
            internet.ip(&format!("addr add {address} dev lo"))?;
        }
    }
    internet.ip("-6 route add 2001:db8:1::/64 via 2001:db8:2::2")?;
    gateway.ip("route add default via 192.0.2.1")?;
    gateway.ip("-6 route add default via 2001:db8:2::1")?;
    Ok(relay)
}

/// The bridge with its ports, and the address translation behind it.
fn lan(gateway: &Host, devices: [(&Host, &str); 2], options: Options) -> Result<()> {
    // Snooping would send group queries of its own, at times of its own.
    gateway.ip("link add br-lan address 02:00:00:00:00:01 type bridge mcast_snooping 0")?;
    for ((device, mac), port) in devices.into_iter().zip(PORTS) {
        port_of_bridge(gateway, port, device, mac, options)?;
    }
    gateway.ip(&format!("addr add {}/24 dev br-lan", GATEWAY[0]))?;
    gateway.ip(&format!("addr add {}/64 dev br-lan nodad", GATEWAY[1]))?;
    gateway.ip("link set br-lan up")?;
    let rules = gateway.folder.join("nftables.conf");
    fs::write(
        &rules,
        "table ip nat {\n\
         \tchain postrouting {\n\
         \t\ttype nat hook postrouting priority srcnat\n\
         \t\toifname \"wan0\" masquerade\n\
         \t}\n\
         }\n",
    )?;
    gateway
        .run(&format!("nft -f {}", rules.display()))
        .map(drop)
}

fn port_of_bridge(
    gateway: &Host,
    port: &str,
    device: &Host,
    mac: &str,
    options: Options,
) -> Result<()> {
    veth((gateway, port), (device, "eth0"), mac, options)?;
    // A port has no addresses: packets that leave it are the bridge's.
    gateway.set(&format!("ipv6/conf/{port}/disable_ipv6"), "1")?;
    gateway.ip(&format!("link set {port} master br-lan"))
}

/// A pair of interfaces, each on a host; the second has this MAC address. Both are down.
fn veth(near: (&Host, &str), far: (&Host, &str), mac: &str, options: Options) -> Result<()> {
    let (other, peer) = far;
    near.0.ip(&format!(
        "link add {} type veth peer name {peer} address {mac} netns {}",
        near.1,
        other.netns()
    ))?;
    for (host, interface) in [near, far] {
        // A queue for the packets that the driver's ring of 256 frames does not hold. Without it, a fast
        // sender's packets are lost behind the sensor.
        host.run(&format!(
            "tc qdisc add dev {interface} root pfifo limit 20000"
        ))?;
        if !options.offloads {
            host.run(&format!(
                "ethtool -K {interface} tso off gso off gro off tx off rx off rxvlan off txvlan off"
            ))?;
        }
    }
    Ok(())
}
