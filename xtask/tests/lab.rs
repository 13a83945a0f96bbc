//! The lab itself: what the tests of the sensor stand on. Runs as root.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use xtask::{
    command::capture,
    lab::{self, Device, Lab, Options, Phone, wait_until},
    setup::{self, Need},
};

fn household() -> Lab {
    setup::ensure(&[Need::Lab]).expect("the lab's programs");
    let mut lab = Lab::start(Options::default()).expect("a lab");
    lab.plug(Device::Phone).expect("a phone with addresses");
    lab
}

#[test]
fn a_phone_reaches_the_internet_by_both_families() {
    let lab = household();
    let address = lab
        .phone
        .run("ip -4 -br addr show dev eth0")
        .expect("addresses");
    assert!(address.contains("192.168.77.11/24"), "{address}");
    let authority = lab.authority().display().to_string();
    for url in [
        format!("-4 http://{}/", lab::WEB_NAME),
        format!("-6 http://{}/", lab::WEB_NAME),
        format!("-4 --cacert {authority} https://{}/", lab::WEB_NAME),
        format!("-6 --cacert {authority} https://{}/", lab::WEB_NAME),
        format!("--cacert {authority} https://{}/", lab::WEB[0]),
        format!("http://{}/", lab::TRACKER_NAME),
    ] {
        let text = lab.phone.run(&format!("curl -fsS --max-time 5 {url}"));
        assert_eq!(text.expect("an answer"), "the lab's web server\n", "{url}");
    }
    for address in lab::WEB {
        lab.phone
            .run(&format!("ping -n -c 2 -i 0.2 -W 2 {address}"))
            .expect("echo replies");
        let echoed = lab.phone.enter(|| {
            let target = SocketAddr::new(address.parse().expect("an address"), lab::ECHO_PORT);
            let any = if target.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any).expect("a socket");
            socket.connect(target).expect("a route");
            socket
                .set_read_timeout(Some(Duration::from_secs(2)))
                .expect("a limit");
            socket.send(b"hello").expect("sent");
            let mut buffer = [0; 16];
            let length = socket.recv(&mut buffer).expect("an echo");
            buffer[..length].to_vec()
        });
        assert_eq!(echoed.expect("entered"), b"hello");
    }
}

/// The group of the post-quantum key exchange X25519MLKEM768, as OpenSSL 3.0 names what it does not
/// know.
const POST_QUANTUM: &str = "0x11ec";

#[test]
fn the_redmi_reaches_the_sites_by_every_protocol() {
    setup::ensure(&[Need::Lab, Need::Browser]).expect("the lab's programs");
    let mut lab = Lab::start(Options {
        sites: true,
        phone: Phone::Redmi,
        ..Options::default()
    })
    .expect("a lab");
    lab.plug(Device::Phone).expect("a phone with addresses");
    lab.use_redmi().expect("a phone that is used");
    for (family, address) in ["-4", "-6"].into_iter().zip(lab::VIDEO.addresses) {
        let url = format!("https://{}/{family}", lab::VIDEO.name);
        let page = lab.http3(&lab.phone, family, &url).expect("a page");
        assert!(page.contains(&lab::VIDEO.page(true)), "{address}: {page}");
    }
    let url = format!("https://{}/browsed", lab::VIDEO.name);
    let page = lab.browse(&lab.phone, &url).expect("a document");
    assert!(page.contains(&lab::VIDEO.page(true)), "{page}");

    let requests = lab.requests().expect("requests");
    let asked: Vec<_> = requests
        .iter()
        .map(|request| (request.host.as_str(), request.path.as_str()))
        .filter(|&(_, path)| path != "/favicon.ico")
        .collect();
    let report = [
        (lab::ANALYTICS.name, "/track"),
        (lab::TRACKING.name, "/track"),
    ];
    let mut expected = vec![(lab::CAPTIVE.name, "/generate_204"), (lab::NEWS.name, "/")];
    expected.extend(report);
    expected.push((lab::SHOP.name, "/"));
    expected.extend(report);
    expected.extend(report);
    // The other server's.
    expected.extend(["/", "/-4", "/-6", "/browsed"].map(|path| (lab::VIDEO.name, path)));
    assert_eq!(asked, expected);
    let browsed = requests
        .iter()
        .find(|request| request.host == lab::NEWS.name)
        .expect("a request");
    assert!(browsed.groups.contains(POST_QUANTUM), "{browsed:?}");
    assert!(browsed.agent.contains("Chrome"), "{browsed:?}");
    let leases = std::fs::read_to_string(lab.gateway.folder.join("leases")).expect("leases");
    assert!(
        leases.contains(&format!(
            "{} 192.168.77.11 {}",
            lab::REDMI_MAC,
            lab::REDMI_HOST_NAME
        )),
        "{leases}"
    );
}

#[test]
fn two_labs_do_not_meet() {
    let (mut one, two) = (household(), household());
    one.plug(Device::Laptop).expect("a laptop");
    let before = two.quiet_counters().expect("counters")[0].tx.bytes;
    one.laptop
        .run(&format!(
            "curl -fsS http://{}/large -o /dev/null",
            lab::WEB_NAME
        ))
        .expect("a download");
    assert!(one.quiet_counters().expect("counters")[1].tx.bytes > 300_000);
    // A router's advertisement may come at any time; a download may not.
    let [phone, laptop] = two.quiet_counters().expect("counters");
    assert!(phone.tx.bytes - before < 10_000, "{phone:?} after {before}");
    assert_eq!(laptop.tx.bytes, 0);
}

/// Not a test: the process that `a_killed_lab_leaves_nothing` kills.
#[test]
#[ignore = "holds a lab until it is killed"]
fn hold_a_lab() {
    let lab = household();
    std::fs::write(lab.folder.join("ready"), "").expect("a mark");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_lab_leaves_nothing() {
    let mut holder = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "hold_a_lab", "--ignored"])
        .stdout(Stdio::null())
        .spawn()
        .expect("started");
    let folder = xtask::build::workspace().join(format!("target/lab/{}-0", holder.id()));
    let ready = wait_until("ready", Duration::from_secs(30), || {
        folder.join("ready").exists()
    });
    let running = processes_of(&folder);
    holder.kill().expect("killed");
    holder.wait().expect("waited for");
    ready.expect("a lab in the other process");
    assert!(
        running >= 4,
        "nginx, two dnsmasq and udhcpc, but {running} processes"
    );
    wait_until("gone", Duration::from_secs(5), || {
        processes_of(&folder) == 0
    })
    .expect("every process of the lab ended with it");
    let links = capture(Command::new("ip").args(["-br", "link"])).expect("ip");
    assert!(
        !links.contains("lan0") && !links.contains("wan0"),
        "{links}"
    );
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains("target/lab"), "{mounts}");
}

/// How many processes name a file of the lab in their command line.
fn processes_of(folder: &Path) -> usize {
    let folder = folder.display().to_string() + "/";
    let entries = std::fs::read_dir("/proc").expect("/proc");
    entries
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(&folder))
        .count()
}
