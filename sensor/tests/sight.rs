//! Ring 3: the identity and the parties of a phone, from the real packets of real clients: curl,
//! quinn and Chromium. The servers' notes are compared with the sensor's output. Needs root.

use std::{
    env,
    net::{SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::geteuid;
use serde_json::Value;
use xtask::{
    lab::{
        self, ALIAS_NAME, ANALYTICS, CAPTIVE, Device, ECHO_PORT, Lab, NEWS, Options, Phone,
        REDMI_HOST_NAME, REDMI_MAC, Request, SHOP, SITES, Sensor, Site, TRACKING, VIDEO, VISITS,
        WEB,
    },
    setup::{self, Need},
};

/// The post-quantum key exchange X25519MLKEM768, as OpenSSL 3.0 names a group that it does not
/// know. Its share alone has 1,216 octets.
const POST_QUANTUM: &str = "0x11ec";

/// The protocols and ports at which a site is asked.
const HTTP: (&str, u16) = ("tcp", 80);
const TLS: (&str, u16) = ("tcp", 443);
const QUIC: (&str, u16) = ("udp", 443);

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sensor"))
}

/// A lab with sites, a sensor, and a phone that is plugged in; `None` where there can be none and
/// nobody insists.
fn household(phone: Phone) -> Result<Option<(Lab, Sensor)>> {
    if !geteuid().is_root() && env::var_os("CI").is_none() {
        eprintln!("not run: namespaces and programs in the kernel take root");
        return Ok(None);
    }
    setup::ensure(&[Need::Lab, Need::Browser])?;
    let mut lab = Lab::start(Options {
        sites: true,
        phone,
        ..Options::default()
    })?;
    let sensor = lab.sensor(binary(), &lab.configuration(""))?;
    lab.plug(Device::Phone)?;
    Ok(Some((lab, sensor)))
}

/// The flows of the phone at a moment when nothing moves and every packet is in the books.
fn flows(lab: &Lab, sensor: &Sensor) -> Result<Vec<Value>> {
    lab.balanced_books(sensor)?;
    let flows = sensor.json(lab, "flows")?;
    let flows = flows.as_array().context("flows are a list")?;
    let phone = lab.mac(Device::Phone);
    Ok(flows
        .iter()
        .filter(|flow| flow["device"] == phone)
        .cloned()
        .collect())
}

/// The flows that go to one of these addresses by this protocol and port.
fn to<'f>(
    flows: &'f [Value],
    addresses: [&str; 2],
    (protocol, port): (&str, u16),
) -> Vec<&'f Value> {
    let remotes = addresses.map(|address| {
        let address = address.parse().expect("an address");
        SocketAddr::new(address, port).to_string()
    });
    flows
        .iter()
        .filter(|flow| flow["protocol"] == protocol)
        .filter(|flow| remotes.iter().any(|remote| flow["remote"] == *remote))
        .collect()
}

/// That every flow to a site by this protocol and port has its name from this source; gives how
/// many there are.
fn named(flows: &[Value], site: Site, by: (&str, u16), source: &str) -> Result<usize> {
    let found = to(flows, site.addresses, by);
    for flow in &found {
        ensure!(
            flow["name"] == site.name && flow["name_source"] == source,
            "{} was to be known from {source}: {flow:#}",
            site.name
        );
        ensure!(
            flow["hidden"].is_null(),
            "nothing is hidden of a flow with a name: {flow:#}"
        );
    }
    Ok(found.len())
}

/// How a request travelled, and by what the sensor is to know its name.
fn way(request: &Request) -> ((&'static str, u16), &'static str) {
    match request.protocol.as_str() {
        "HTTP/3.0" => (QUIC, "quic"),
        _ if request.groups.is_empty() => (HTTP, "http"),
        _ => (TLS, "tls"),
    }
}

/// That whatever the servers have answered has a flow with its name, and that nothing else has.
fn agree(flows: &[Value], requests: &[Request]) -> Result<()> {
    for request in requests {
        let site = SITES.into_iter().find(|site| site.name == request.host);
        let site = site.with_context(|| format!("nobody serves {}", request.host))?;
        let (by, source) = way(request);
        let found = named(flows, site, by, source)?;
        ensure!(found > 0, "no flow has carried {request:?}");
    }
    for flow in flows {
        let source = &flow["name_source"];
        if !["http", "tls", "quic"].iter().any(|own| source == own) {
            continue;
        }
        ensure!(
            requests
                .iter()
                .any(|request| flow["name"] == *request.host && *source == way(request).1),
            "no server was asked by this name: {flow:#}"
        );
    }
    Ok(())
}

fn requests_to(requests: &[Request], site: Site) -> Vec<&Request> {
    requests
        .iter()
        .filter(|request| request.host == site.name)
        .collect()
}

fn offers(flow: &Value, protocol: &str) -> bool {
    flow["alpn"].to_string().contains(protocol)
}

#[test]
fn every_client_and_every_protocol() -> Result<()> {
    let Some((lab, sensor)) = household(Phone::Plain)? else {
        return Ok(());
    };
    let authority = lab.authority().display();
    for family in ["-4", "-6"] {
        let curl = format!("curl {family} -fsS --max-time 10");
        let plain = lab.phone.run(&format!("{curl} http://{}/", NEWS.name))?;
        ensure!(plain.contains(&NEWS.page(false)), "{plain}");
        let url = format!("https://{}/", SHOP.name);
        let page = lab
            .phone
            .run(&format!("{curl} --cacert {authority} {url}"))?;
        ensure!(page.contains(&SHOP.page(false)), "{page}");
        let url = format!("https://{}/", VIDEO.name);
        let page = lab.http3(&lab.phone, family, &url)?;
        ensure!(page.contains(&VIDEO.page(true)), "{page}");
    }
    let flows = flows(&lab, &sensor)?;
    let requests = lab.requests()?;
    agree(&flows, &requests)?;
    for (site, by, source) in [
        (NEWS, HTTP, "http"),
        (SHOP, TLS, "tls"),
        (VIDEO, QUIC, "quic"),
    ] {
        ensure!(
            requests_to(&requests, site).len() == 2,
            "the server of {} was asked once by either family: {requests:#?}",
            site.name
        );
        let count = named(&flows, site, by, source)?;
        ensure!(count == 2, "{count} flows to {} by {source}", site.name);
    }
    for flow in to(&flows, SHOP.addresses, TLS) {
        ensure!(offers(flow, "h2"), "curl offers HTTP/2: {flow:#}");
        ensure!(flow["ech"] == false, "curl has no ECH: {flow:#}");
    }
    for flow in to(&flows, VIDEO.addresses, QUIC) {
        ensure!(offers(flow, "h3"), "{flow:#}");
    }
    Ok(())
}

#[test]
fn a_browser_over_tls_and_quic() -> Result<()> {
    let Some((lab, sensor)) = household(Phone::Plain)? else {
        return Ok(());
    };
    let url = format!("https://{}/", VIDEO.name);
    let page = lab.browse(&lab.phone, &url)?;
    ensure!(page.contains(&VIDEO.page(true)), "{page}");
    // A segment has 1,228 octets at most then: the hello's post-quantum share does not fit into
    // one, with what stands before it.
    lab.phone.ip("link set dev eth0 mtu 1280")?;
    let url = format!("https://{}/", NEWS.name);
    let page = lab.browse(&lab.phone, &url)?;
    ensure!(page.contains(&NEWS.page(false)), "{page}");

    let requests = lab.requests()?;
    for request in requests_to(&requests, NEWS) {
        ensure!(request.groups.contains(POST_QUANTUM), "{request:?}");
        ensure!(request.agent.contains("Chrome"), "{request:?}");
    }
    let flows = flows(&lab, &sensor)?;
    agree(&flows, &requests)?;
    for (site, by, alpn) in [(NEWS, TLS, "h2"), (VIDEO, QUIC, "h3")] {
        ensure!(
            !requests_to(&requests, site).is_empty(),
            "{} was not asked: {requests:#?}",
            site.name
        );
        for flow in to(&flows, site.addresses, by) {
            ensure!(offers(flow, alpn), "{flow:#}");
            // Chromium's hello always has the extension; without a key for it, of no meaning.
            ensure!(flow["ech"] == true, "{flow:#}");
        }
    }
    Ok(())
}

#[test]
fn names_from_dns_and_no_name_at_all() -> Result<()> {
    let Some((lab, sensor)) = household(Phone::Plain)? else {
        return Ok(());
    };
    // One family is asked for by name, the other only spoken to.
    let answer = lab.phone.run(&format!("getent ahostsv4 {ALIAS_NAME}"))?;
    ensure!(answer.contains(WEB[0]), "{answer}");
    for address in WEB {
        let address = SocketAddr::new(address.parse()?, ECHO_PORT);
        let echoed = lab.phone.enter(|| -> std::io::Result<usize> {
            let any = if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.connect(address)?;
            socket.send(b"no protocol that anybody knows")?;
            socket.recv(&mut [0; 64])
        })??;
        ensure!(echoed == 30, "{echoed} octets came back");
    }
    let flows = flows(&lab, &sensor)?;
    let echoes = to(&flows, WEB, ("udp", ECHO_PORT));
    let [asked, plain] = ["198.51.100.10", "[2001:db8:a::10]"].map(|address| {
        let remote = format!("{address}:{ECHO_PORT}");
        echoes.iter().find(|flow| flow["remote"] == *remote)
    });
    let asked = asked.context("a flow to the address that was asked for")?;
    // Not the name of the server that the alias leads to: nobody asked for that.
    ensure!(
        asked["name"] == ALIAS_NAME && asked["name_source"] == "dns",
        "{asked:#}"
    );
    let plain = plain.context("a flow to the address that nobody asked for")?;
    ensure!(
        plain["name"].is_null() && plain["name_source"].is_null(),
        "{plain:#}"
    );
    ensure!(plain["hidden"].is_string(), "{plain:#}");
    Ok(())
}

#[test]
fn a_redmi_and_what_it_tells_its_maker() -> Result<()> {
    let Some((lab, sensor)) = household(Phone::Redmi)? else {
        return Ok(());
    };
    lab.use_redmi()?;
    let flows = flows(&lab, &sensor)?;
    let requests = lab.requests()?;
    agree(&flows, &requests)?;
    for site in [ANALYTICS, TRACKING] {
        let asked = requests_to(&requests, site).len();
        let count = named(&flows, site, TLS, "tls")?;
        ensure!(
            asked == VISITS.len() && count == asked,
            "{} visits, {asked} reports to {}, {count} flows",
            VISITS.len(),
            site.name
        );
        for flow in to(&flows, site.addresses, TLS) {
            ensure!(
                flow["party"] == "miui.com"
                    && flow["owner"] == "Xiaomi"
                    && flow["category"] == "telemetry",
                "{flow:#}"
            );
        }
    }
    for flow in to(&flows, CAPTIVE.addresses, HTTP) {
        ensure!(flow["owner"] == "Xiaomi", "{flow:#}");
        ensure!(flow["category"] == "never-block", "{flow:#}");
    }
    for (site, _) in VISITS {
        let sites = [TLS, QUIC].into_iter();
        for flow in sites.flat_map(|by| to(&flows, site.addresses, by)) {
            ensure!(flow["category"].is_null(), "{flow:#}");
        }
    }
    let devices = sensor.json(&lab, "devices")?;
    let phone = devices
        .as_array()
        .into_iter()
        .flatten()
        .find(|device| device["device"] == REDMI_MAC)
        .context("the phone is no device")?;
    ensure!(
        phone["name"] == REDMI_HOST_NAME && phone["vendor"] == "Xiaomi" && phone["kind"] == "phone",
        "the name is from the real DHCP client: {phone:#}"
    );
    Ok(())
}

#[test]
fn a_plain_phone_is_named_by_its_dhcp_client() -> Result<()> {
    let Some((lab, sensor)) = household(Phone::Plain)? else {
        return Ok(());
    };
    lab.balanced_books(&sensor)?;
    let devices = sensor.json(&lab, "devices")?;
    let phone = devices
        .as_array()
        .into_iter()
        .flatten()
        .find(|device| device["device"] == lab::PHONE_MAC)
        .context("the phone is no device")?;
    ensure!(phone["name"] == "phone", "{phone:#}");
    // Its address is of no maker: the second bit of the first octet says so.
    ensure!(phone["vendor"].is_null(), "{phone:#}");
    Ok(())
}
