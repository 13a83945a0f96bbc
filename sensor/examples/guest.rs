//! The whole sensor inside a virtual machine, as its first process: on a kernel other than this
//! machine's the programs are loaded, attached, and made to account and to filter real traffic.
//!
//! `cargo xtask test` boots it. It ends with one line on the console that says `GUEST PASSED` or
//! `GUEST FAILED`.

#[path = "guest/offload.rs"]
mod offload;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::{
    fs::CWD,
    mount::{MountFlags, mount},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use sensor::{
    aggregate::{Aggregate, address_names::AddressNames},
    catalog::Catalog,
    config::Config,
    enforcement::{self, Enforcement},
    model::{Hook, Interface, Snapshot, Tally},
    record::Record,
    source::kernel::Kernel,
};
use xtask::lab::pass;

const PINS: &str = "/sys/fs/bpf/sensor";
/// A destination that the policy is about, and that answers where it is reached.
const REFUSED: [&str; 2] = ["203.0.113.1", "2001:db8:bad::1"];
const UDP_PORT: u16 = 7000;
const TCP_PORT: u16 = 7001;
/// Payloads that are copied of each flow and direction.
const WATCHED: u8 = 4;
/// Messages that go back and forth in each conversation.
const ROUNDS: usize = 20;
/// How long anything may take; emulation is slow.
const PATIENCE: Duration = Duration::from_secs(10);
/// The octets of an Ethernet header.
const ETHERNET_HEADER: u64 = 14;
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// One device on a port of its own, in a network namespace of its own.
struct Port {
    interface: &'static str,
    device: &'static str,
    namespace: &'static str,
    hook: &'static str,
    /// The gateway's and the device's address, IPv4 then IPv6, without their prefix length.
    gateway: [&'static str; 2],
    own: [&'static str; 2],
}

const PORTS: [Port; 2] = [
    Port {
        interface: "lan0",
        device: "eth0",
        namespace: "phone",
        hook: "xdp-native",
        gateway: ["192.0.2.1", "2001:db8:1::1"],
        own: ["192.0.2.2", "2001:db8:1::2"],
    },
    Port {
        interface: "lan1",
        device: "eth1",
        namespace: "laptop",
        hook: "tc",
        gateway: ["198.51.100.1", "2001:db8:2::1"],
        own: ["198.51.100.2", "2001:db8:2::2"],
    },
];

fn main() {
    match exercise() {
        Ok(passed) => println!("GUEST PASSED {passed}"),
        Err(error) => println!("GUEST FAILED: {error:#}"),
    }
    let _ = io::stdout().flush();
    // SAFETY: the call ends the machine; nothing is mounted that could lose anything.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

fn exercise() -> Result<String> {
    prepare().context("the guest cannot be prepared")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim();

    let begun = Instant::now();
    let mut kernel = Kernel::load(&config("reject")?)?;
    let catalog = Catalog::default();
    let mut enforcement = Enforcement::new(&config("reject")?, 0.0);
    let mut put_in_force = |kernel: &mut Kernel, config: &Config| {
        enforcement.install(enforcement::Context {
            kernel,
            config,
            catalog: &catalog,
            devices: &[],
            names: &mut AddressNames::default(),
            now: 0.0.into(),
        })
    };
    put_in_force(&mut kernel, &config("reject")?)?;
    kernel.set_watched_payloads(WATCHED);
    let _pass = enter(&PORTS[0], || {
        pass::attach(PORTS[0].device, pass::Mode::Native)
    })?;
    for interface in &config("reject")?.interfaces {
        kernel.attach(interface)?;
    }
    println!(
        "loaded and attached in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    // Only now: whatever an interface counts, the programs have seen.
    for port in &PORTS {
        ip(&format!("link set {} up", port.interface))?;
        ip(&format!(
            "-n {} link set {} up",
            port.namespace, port.device
        ))?;
        for refused in REFUSED {
            let gateway = port.gateway[usize::from(refused.contains(':'))];
            ip(&format!(
                "-n {} route add {refused} via {gateway}",
                port.namespace
            ))?;
        }
    }

    servers()?;
    for port in &PORTS {
        let of_port = |what: &str| format!("{what}, {} at {}", port.interface, port.hook);
        enter(port, || converse(port)).with_context(|| of_port("a conversation"))?;
        enter(port, || odd_frames(port)).with_context(|| of_port("odd frames"))?;
        enter(port, refused).with_context(|| of_port("a refused destination"))?;
        enter(port, || initials(port)).with_context(|| of_port("a refused name in QUIC"))?;
    }
    let first = balanced(&mut kernel, Duration::from_secs(3600)).context("after the traffic")?;
    for port in &PORTS {
        check(port, account(&first, port)?).with_context(|| port.interface)?;
    }

    payloads(&mut kernel).context("the payloads in the ring")?;

    put_in_force(&mut kernel, &config("observe")?)?;
    for port in &PORTS {
        enter(port, || tcp(REFUSED[0]))
            .with_context(|| format!("{}: after the policy was relaxed", port.interface))?;
    }
    thread::sleep(2 * IDLE_AFTER);
    let last = balanced(&mut kernel, IDLE_AFTER).context("after reaping")?;
    ensure!(
        last.flow_table.reaped >= first.flow_table.size,
        "{} flows were idle, {} were reaped",
        first.flow_table.size,
        last.flow_table.reaped
    );
    ensure!(last.unbooked_packets == 0, "packets without a book");
    let observed = last
        .policy_hits
        .iter()
        .filter(|hits| hits.action == "observe" && hits.hits.upload.packets > 0)
        .count();
    ensure!(
        observed == PORTS.len(),
        "the policy was observed on {observed} devices"
    );

    for (name, count) in kernel.verified()? {
        let count = count.context("the kernel does not say how much it verified")?;
        println!("{release}: {name}: {count} instructions verified");
        ensure!(
            count <= Kernel::MOST_VERIFIED,
            "{name}: {count} instructions verified"
        );
    }

    let hooks: Vec<_> = last
        .interfaces
        .iter()
        .map(|account| {
            format!(
                "{}/{}",
                account.hooks.upload.name(),
                account.hooks.download.name()
            )
        })
        .collect();
    let packets: u64 = last
        .interfaces
        .iter()
        .map(|account| account.seen.upload.packets + account.seen.download.packets)
        .sum();
    let offload = offload::exercise(&mut kernel).context("VLAN, bond and flowtable")?;
    Ok(format!(
        "kernel={release} {offload}; hooks={} packets={packets} reaped={} difference=0",
        hooks.join(","),
        last.flow_table.reaped
    ))
}

fn config(action: &str) -> Result<Config> {
    let mut text = String::new();
    for port in &PORTS {
        text += &format!(
            "[[interface]]\nname = \"{}\"\nhook = \"{}\"\n",
            port.interface, port.hook
        );
    }
    text += &format!(
        "[flow_table]\ncapacity = 1024\nidle_after = \"1s\"\n[daemon]\npin_directory = \"{PINS}\"\n\
         [[policy]]\nname = \"refused\"\nremotes = [\"203.0.113.0/24\", \"2001:db8:bad::/48\"]\n\
         action = \"{action}\"\n\
         [[policy]]\nname = \"named\"\ndomains = [\"example.com\"]\naction = \"{action}\"\n"
    );
    let checked = Config::parse(&text, Path::new("guest.toml"))
        .map_err(|problems| anyhow!("{}", problems.render(false)))?;
    Ok(checked.config)
}

/// Mounts, modules, namespaces and interfaces, all of which are down.
fn prepare() -> Result<()> {
    let none = MountFlags::empty();
    mount("devtmpfs", "/dev", "devtmpfs", none, None)?;
    mount("proc", "/proc", "proc", none, None)?;
    mount("sysfs", "/sys", "sysfs", none, None)?;
    mount("bpf", "/sys/fs/bpf", "bpf", none, None)?;
    let mut modules = fs::read_dir("/modules")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    modules.sort();
    for module in modules {
        let file = rustix::fs::openat(
            CWD,
            &module,
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )?;
        rustix::system::finit_module(&file, c"", 0)
            .with_context(|| format!("the kernel refuses {}", module.display()))?;
    }
    ip("link set lo up")?;
    for refused in REFUSED {
        ip(&format!("address add {refused} dev lo"))?;
    }
    for port in &PORTS {
        let Port {
            interface,
            device,
            namespace,
            gateway,
            own,
            ..
        } = port;
        ip(&format!("netns add {namespace}"))?;
        ip(&format!(
            "link add {interface} type veth peer {device} netns {namespace}"
        ))?;
        for family in 0..2 {
            // Usable at once, without asking the link whether somebody else has it.
            let length = ["24", "64 nodad"][family];
            ip(&format!(
                "address add dev {interface} {}/{length}",
                gateway[family]
            ))?;
            ip(&format!(
                "-n {namespace} address add dev {device} {}/{length}",
                own[family]
            ))?;
        }
    }
    Ok(())
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("/bin/ip")
        .args(arguments.split(' '))
        .output()
        .context("no /bin/ip")?;
    if !output.status.success() {
        bail!(
            "`ip {arguments}`: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Runs `work` on a thread in the device's network namespace.
fn enter<T: Send>(port: &Port, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = File::open(Path::new("/run/netns").join(port.namespace))?;
    thread::scope(|scope| {
        scope
            .spawn(|| {
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&namespace),
                    Some(LinkNameSpaceType::Network),
                )?;
                work()
            })
            .join()
            .map_err(|_| anyhow!("a thread panicked"))?
    })
}

/// Servers that send back what they get, on every address.
fn servers() -> Result<()> {
    let udp = UdpSocket::bind(("::", UDP_PORT))?;
    thread::spawn(move || {
        let mut octets = [0; 2048];
        while let Ok((len, from)) = udp.recv_from(&mut octets) {
            let _ = udp.send_to(&octets[..len], from);
        }
    });
    let tcp = TcpListener::bind(("::", TCP_PORT))?;
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            thread::spawn(move || {
                let mut octets = [0; 2048];
                while let Ok(len @ 1..) = stream.read(&mut octets) {
                    let _ = stream.write_all(&octets[..len]);
                }
            });
        }
    });
    Ok(())
}

fn converse(port: &Port) -> Result<()> {
    for gateway in port.gateway {
        udp(gateway).with_context(|| format!("UDP with {gateway}"))?;
        tcp(gateway).with_context(|| format!("TCP with {gateway}"))?;
    }
    Ok(())
}

fn address(host: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(host.parse()?, port))
}

/// A socket that speaks to a host's UDP server.
fn connected(host: &str) -> Result<UdpSocket> {
    let to = address(host, UDP_PORT)?;
    let socket = UdpSocket::bind(match to {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    })?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn udp(host: &str) -> Result<()> {
    let socket = connected(host)?;
    let mut octets = [0; 2048];
    for round in 0..ROUNDS {
        socket.send(&[7; 1000][..50 * round])?;
        ensure!(
            socket.recv(&mut octets)? == 50 * round,
            "another datagram came back"
        );
    }
    Ok(())
}

fn tcp(host: &str) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address(host, TCP_PORT)?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // One message at a time: two that wait could leave as one packet that an interface counts once.
    stream.set_nodelay(true)?;
    let mut octets = [0; 500];
    for _ in 0..ROUNDS {
        stream.write_all(&[7; 500])?;
        stream.read_exact(&mut octets)?;
    }
    Ok(())
}

/// Checks the payloads that the programs copied of the conversations over TCP: on each port, in
/// each direction, as many payloads as are watched for, octet for octet.
fn payloads(kernel: &mut Kernel) -> Result<()> {
    let mut copied: BTreeMap<(u32, u8), usize> = BTreeMap::new();
    for record in kernel.samples()? {
        let Record::Sample(sample) = record else {
            continue;
        };
        let head = &sample.head;
        if head.key.remote_port() != TCP_PORT {
            continue;
        }
        ensure!(
            head.payload == 500 && sample.octets[..] == [7; 500],
            "a payload of {} octets came as {} others",
            head.payload,
            sample.octets.len()
        );
        *copied
            .entry((head.key.ifindex(), head.direction))
            .or_default() += 1;
    }
    ensure!(
        copied.len() == 2 * PORTS.len()
            && copied
                .values()
                .all(|count| count.is_multiple_of(WATCHED.into())),
        "payloads by port and direction: {copied:?}"
    );
    Ok(())
}

/// A destination that would answer is refused, and the device is told at once.
fn refused() -> Result<()> {
    for host in REFUSED {
        let begun = Instant::now();
        match TcpStream::connect_timeout(&address(host, TCP_PORT)?, PATIENCE) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).with_context(|| format!("TCP to {host}")),
            Ok(_) => bail!("TCP to {host} was connected"),
        }
        match udp(host) {
            Err(error)
                if error
                    .downcast_ref::<io::Error>()
                    .is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused) => {}
            Err(error) => return Err(error).with_context(|| format!("UDP to {host}")),
            Ok(()) => bail!("UDP to {host} was answered"),
        }
        ensure!(
            begun.elapsed() < PATIENCE / 2,
            "the refusal of {host} took {:?}",
            begun.elapsed()
        );
    }
    Ok(())
}

/// The Initials of the RFCs, which name a host that is refused, to a server that would send them back.
fn initials(port: &Port) -> Result<()> {
    const PACKETS: [&[u8]; 2] = [
        include_bytes!("../tests/data/initial-rfc9001-a2.bin"),
        include_bytes!("../tests/data/initial-rfc9369-a2.bin"),
    ];

    for (host, packet) in port.gateway.into_iter().zip(PACKETS) {
        let socket = connected(host)?;
        socket.send(packet)?;
        match socket.recv(&mut [0; 2048]) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).context(host),
            Ok(len) => bail!("{host} sent {len} bytes back"),
        }
    }
    Ok(())
}

/// Frames that no socket sends: tags, PPPoE, fragments, extension headers, and one that ends early.
fn odd_frames(port: &Port) -> Result<()> {
    let mac = |path: String| -> Result<[u8; 6]> {
        let text = fs::read_to_string(&path).with_context(|| path)?;
        let octets = text
            .trim()
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16))
            .collect::<Result<Vec<_>, _>>()?;
        octets.try_into().map_err(|_| anyhow!("{text} is no MAC"))
    };
    // This thread's namespace does not show in /sys, which is the first one's.
    let source = device_mac(port)?;
    let destination = mac(format!("/sys/class/net/{}/address", port.interface))?;
    let frame = |rest: &[u8]| [&destination[..], &source, rest].concat();
    let tagged = |tags: &[u8], ethertype: [u8; 2], payload: &[u8]| {
        frame(&[tags, &ethertype, payload].concat())
    };
    const V4: [u8; 2] = [0x08, 0x00];
    const V6: [u8; 2] = [0x86, 0xdd];
    const UDP: u8 = 17;
    let datagram = [0x30, 0x39, 0x30, 0x3a, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let v4 = |fragment: [u8; 2], payload: &[u8]| {
        let len = (20 + payload.len()) as u16;
        let mut header = vec![0x45, 0];
        header.extend(len.to_be_bytes());
        header.extend([0x12, 0x34, fragment[0], fragment[1], 64, UDP, 0, 0]);
        header.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        header.extend(payload);
        header
    };
    let v6 = |next: u8, payload: &[u8]| {
        let mut header = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 64];
        header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        header.extend(payload);
        header
    };
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let whole = v4([0, 0], &datagram);
    let mut pppoe = vec![0x11, 0, 0, 1, 0, whole.len() as u8 + 2, 0x00, 0x21];
    pppoe.extend(&whole);
    let extended = [&options(60)[..], &options(UDP), &datagram].concat();
    let fragment_of = |offset: u8, payload: &[u8]| {
        let header = [UDP, 0, 0, offset, 0, 0, 0x12, 0x34];
        v6(44, &[&header[..], payload].concat())
    };
    let frames = [
        tagged(&[0x81, 0, 0, 5], V4, &whole),
        tagged(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], V6, &v6(UDP, &datagram)),
        tagged(&[], [0x88, 0x64], &pppoe),
        tagged(&[], V4, &v4([0x20, 0], &datagram)),
        tagged(&[], V4, &v4([0, 2], &[9; 40])),
        tagged(&[], V6, &v6(0, &extended)),
        tagged(&[], V6, &fragment_of(1, &datagram)),
        tagged(&[], V6, &fragment_of(16, &[9; 40])),
        tagged(&[], [0x88, 0xb5], &[1; 46]),
        tagged(&[], V4, &whole[..12]),
    ];
    let index = sensor::source::kernel::ifindex(port.device)?;
    // SAFETY: no pointer is passed.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error()).context("no packet socket");
    }
    // SAFETY: nobody else has the descriptor.
    let socket = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(socket) };
    // SAFETY: zeros are an address of a packet socket.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = index as i32;
    for frame in frames {
        // SAFETY: the frame and the address are as long as is said.
        let sent = unsafe {
            libc::sendto(
                std::os::fd::AsRawFd::as_raw_fd(&socket),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error()).context("a frame cannot be sent");
        }
    }
    Ok(())
}

/// The MAC address of the device's end of the link.
fn device_mac(port: &Port) -> Result<[u8; 6]> {
    let output = Command::new("/bin/ip")
        .args(["-o", "link", "show", port.device])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mac = text
        .split_whitespace()
        .skip_while(|word| *word != "link/ether")
        .nth(1)
        .context("no link/ether")?;
    let octets = mac
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect::<Result<Vec<_>, _>>()?;
    octets.try_into().map_err(|_| anyhow!("{mac} is no MAC"))
}

/// The counters of an interface: received, sent.
fn counters(port: &Port) -> Result<[Tally; 2]> {
    let read = |name: &str| -> Result<u64> {
        let path = format!("/sys/class/net/{}/statistics/{name}", port.interface);
        Ok(fs::read_to_string(path)?.trim().parse()?)
    };
    Ok([
        Tally {
            packets: read("rx_packets")?,
            bytes: read("rx_bytes")?,
        },
        Tally {
            packets: read("tx_packets")?,
            bytes: read("tx_bytes")?,
        },
    ])
}

fn account<'a>(snapshot: &'a Snapshot, port: &Port) -> Result<&'a Interface> {
    snapshot
        .interfaces
        .iter()
        .find(|account| account.interface == port.interface)
        .with_context(|| format!("no account of {}", port.interface))
}

/// Reads the books, and compares them with the interfaces' counters at a moment when nothing moved.
fn balanced(kernel: &mut Kernel, idle_after: Duration) -> Result<Snapshot> {
    let begun = Instant::now();
    loop {
        let all = || PORTS.iter().map(counters).collect::<Result<Vec<_>>>();
        let before = all()?;
        let mut aggregate = Aggregate::default();
        kernel.read(idle_after, &0.0.into(), |record| {
            aggregate.apply(record, 0.0);
        })?;
        let snapshot = aggregate.snapshot(sensor::model::Ticks::default());
        let moved = before != all()?;
        let differences = PORTS
            .iter()
            .zip(&before)
            .map(|(port, counted)| difference(account(&snapshot, port)?, *counted))
            .collect::<Result<Vec<_>>>()?;
        if !moved && differences.iter().all(Option::is_none) {
            return Ok(snapshot);
        }
        if begun.elapsed() > PATIENCE {
            bail!("the books and the counters differ: {differences:?}; packets move: {moved}");
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// How the books and the counters of an interface differ, in the same terms.
///
/// A veth with an XDP program at the receiving end counts what is behind the Ethernet header, at
/// both ends; a frame that XDP sent back counts whole, one that TC sent for it does not.
fn difference(account: &Interface, [received, sent]: [Tally; 2]) -> Result<Option<String>> {
    let native = account.hooks.upload == Hook::XdpNative;
    let (answered, replaced) = (account.answered, account.replaced);
    let whole = match account.is_noted {
        true => 0,
        false => answered.packets,
    };
    let headers = |packets: u64| match native {
        true => ETHERNET_HEADER * packets,
        false => 0,
    };
    let counted = [
        Tally {
            packets: received.packets,
            bytes: received.bytes + headers(received.packets),
        },
        Tally {
            packets: sent.packets,
            bytes: sent.bytes + headers(sent.packets.saturating_sub(whole)),
        },
    ];
    let download = account.seen.download;
    let booked = [
        account.seen.upload,
        Tally {
            packets: download.packets + answered.packets + replaced.packets
                - account.refused.packets,
            bytes: download.bytes + answered.bytes + replaced.bytes - account.refused.bytes,
        },
    ];
    Ok((booked != counted).then(|| {
        format!(
            "{}: booked {booked:?}, counted {counted:?}, answered {answered:?}",
            account.interface
        )
    }))
}

/// Checks all else that must be in the books after the traffic.
fn check(port: &Port, account: &Interface) -> Result<()> {
    let upload = match port.hook {
        "tc" => [Hook::Tcx, Hook::Clsact].contains(&account.hooks.upload),
        _ => account.hooks.upload == Hook::XdpNative,
    };
    ensure!(upload, "the upload program sits at {:?}", account.hooks);
    // To TCP and to UDP at each destination, and to an Initial of each version.
    let answers = (2 * REFUSED.len() + 2) as u64;
    ensure!(
        account.answered.packets == answers && account.answers_failed == 0,
        "{} answers were sent and {} failed, not {answers} and none",
        account.answered.packets,
        account.answers_failed
    );
    let skipped: Vec<_> = account
        .skipped
        .iter()
        .filter(|(_, by)| by.upload.packets + by.download.packets > 0)
        .map(|(reason, by)| (*reason, by.upload.packets))
        .collect();
    ensure!(
        skipped == [("ipv4_truncated", 1)],
        "skipped were {skipped:?}, not the one frame that ends early"
    );
    let overflow = account.overflow.upload.packets + account.overflow.download.packets;
    ensure!(overflow == 0, "{overflow} packets found no flow");
    Ok(())
}
