//! Names, hosts and what devices say of themselves, out of captures that nobody here wrote.

#[allow(dead_code, reason = "other tests use the rest")]
mod capture;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    net::SocketAddr,
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use capture::{CORPUS, Packet};
use sensor::decode::{Progress, dhcp4, dhcp6, dns, http, stream::Stream};

/// Rows that are not met, and why.
const DISPUTED: [(&str, &str, &str); 15] = [
    (
        "ndpi/dns-invalid-chars.pcap",
        "www.allyourbasesare???ongto.cn",
        "what is shown as question marks is the octets 1, 2, 3: here \\001\\002\\003",
    ),
    (
        "ndpi/dns_ambiguous_names.pcap",
        "_.teams.microsoft.com",
        "what is shown as an underscore is an asterisk: here \\042",
    ),
    (
        "ndpi/dns_exfiltration.pcap",
        "e1aa8f8fdb1bbe8d5e04952141f7d4f82c7e3b06dcc8b87fad7a.19e4d098dc8c618f8d81cfeb02",
        "the end of a name that is longer than the other system keeps",
    ),
    (
        "ndpi/false_positives.pcapng",
        "wludo.superkinglabs.com",
        GTP,
    ),
    (
        "ndpi/http_origin_different_than_host.pcap",
        "csb.performgroup.io",
        GTP,
    ),
    ("ndpi/vxlan.pcap", "facebook.com", VXLAN),
    ("ndpi/vxlan.pcap", "www.facebook.com", VXLAN),
    (
        "suricata/decode-chdlc-01/hdlc-http_1tx.pcap",
        "view.atdmt.com",
        LINK,
    ),
    ("zeek/nflog-http.pcap", "www.example.net", LINK),
    ("zeek/snap-tcp.pcap", "example.com", LINK),
    (
        "zeek/http/basic-auth-with-colon.pcap",
        "172.24.133.205:8000",
        PORT,
    ),
    ("zeek/http/deeply-nested-mime.pcap", "localhost:8080", PORT),
    (
        "zeek/http/http-desync-request-response-5.pcap",
        "localhost:8080",
        PORT,
    ),
    ("zeek/http/multipart-form-data.pcap", "localhost:8000", PORT),
    (
        "zeek/tls/tls12-decryption.pcap",
        "heise.de",
        "decrypted with the keys of the connection",
    ),
];

const GTP: &str = "in a GTP tunnel";
const VXLAN: &str = "in a VXLAN tunnel";
const LINK: &str = "a link that this test does not read";
const PORT: &str = "with the port, which is no part of a name";

fn packets(capture: &str) -> Result<Vec<Packet>> {
    capture::packets(&Path::new(CORPUS).join(capture)).with_context(|| capture.to_owned())
}

/// The payloads of datagrams to a port.
fn datagrams(packets: &[Packet], port: u16) -> impl Iterator<Item = &[u8]> {
    packets
        .iter()
        .filter(move |packet| packet.tcp.is_none() && packet.destination.port() == port)
        .map(|packet| packet.payload.as_slice())
}

type Ends = (SocketAddr, SocketAddr);

struct Row {
    capture: String,
    source: String,
    ends: Option<Ends>,
    name: String,
}

fn rows(sources: &[&str]) -> Result<Vec<Row>> {
    let table = fs::read_to_string(Path::new(CORPUS).join("expected.tsv"))?;
    let mut rows = Vec::new();
    for line in table.lines().skip(1) {
        let [capture, source, _, client, server, name, ..] =
            line.split('\t').collect::<Vec<_>>()[..]
        else {
            bail!("no row: {line}");
        };
        if sources.contains(&source) {
            rows.push(Row {
                capture: capture.to_owned(),
                source: source.to_owned(),
                ends: client.parse().ok().zip(server.parse().ok()),
                name: name.to_owned(),
            });
        }
    }
    Ok(rows)
}

/// The names that the decoders find in a capture, each with the decoder and the ends.
fn found(packets: &[Packet]) -> BTreeSet<(&'static str, Ends, String)> {
    let mut found = BTreeSet::new();
    let mut streams: HashMap<Ends, Stream> = HashMap::new();
    for packet in packets {
        let ends = (packet.source, packet.destination);
        if let Some(tcp) = packet.tcp {
            if tcp.initial.is_some() {
                streams.insert(ends, Stream::new(tcp.initial));
            }
            let stream = streams.entry(ends).or_default();
            stream.segment(tcp.sequence, &packet.payload);
            if let Ok(Progress::Complete(request)) = http::request(stream.contiguous())
                && !stream.conflict()
            {
                assert!(http::looks_like(stream.contiguous()), "{request:?}");
                found.extend(request.name().map(|name| ("http", ends, name.to_owned())));
            }
        } else if [ends.0.port(), ends.1.port()].contains(&53)
            && let Ok(message) = dns::message(&packet.payload)
        {
            let questions = message.questions.into_iter().map(|question| question.name);
            let updates = message.updates.into_iter().map(|update| update.name);
            found.extend(questions.chain(updates).map(|name| ("dns", ends, name)));
        }
    }
    found
}

#[test]
fn the_names_that_other_systems_find() -> Result<()> {
    let rows = rows(&["dns", "http"])?;
    let captures: BTreeSet<_> = rows.iter().map(|row| row.capture.as_str()).collect();
    let mut missing = BTreeSet::new();
    for capture in captures {
        let found = found(&packets(capture)?);
        for row in rows.iter().filter(|row| row.capture == capture) {
            let met = found.iter().any(|(source, ends, name)| {
                row.source == *source
                    && row.name == *name
                    && row.ends.is_none_or(|wanted| wanted == *ends)
            });
            if !met {
                missing.insert((capture, row.name.as_str()));
            }
        }
    }
    let disputed: BTreeSet<_> = DISPUTED
        .iter()
        .map(|(capture, name, _)| (*capture, *name))
        .collect();
    assert_eq!(missing, disputed);
    Ok(())
}

#[test]
fn no_host_where_there_is_no_request() -> Result<()> {
    // Of these, the other systems have no HTTP.
    for capture in [
        "ndpi/chrome.pcap",
        "ndpi/firefox.pcap",
        "ndpi/simple-dnscrypt.pcap",
        "ndpi/tls_invalid_reads.pcap",
        "ndpi/zoom2.pcap",
    ] {
        let packets = packets(capture)?;
        assert!(!packets.is_empty(), "{capture}");
        let requests = packets
            .iter()
            .filter(|packet| packet.tcp.is_some() && http::looks_like(&packet.payload));
        assert_eq!(requests.count(), 0, "{capture}");
    }
    Ok(())
}

#[test]
fn what_phones_say_when_they_join() -> Result<()> {
    // MAC address, host name, vendor class, options asked for.
    type Said = (
        [u8; 6],
        Option<&'static str>,
        Option<&'static str>,
        &'static [u8],
    );
    let cases: [(&str, Said); 4] = [
        (
            "dhcp/android.pcap",
            (
                [0x4c, 0x6a, 0xf6, 0x9f, 0xf6, 0x27],
                None,
                Some("android-dhcp-9"),
                &[1, 3, 6, 15, 26, 28, 51, 58, 59, 43],
            ),
        ),
        (
            "dhcp/iphone.pcap",
            (
                [0xc4, 0x61, 0x8b, 0x35, 0x82, 0xa9],
                Some("Lucas-iPhone"),
                None,
                &[1, 121, 3, 6, 15, 119, 252],
            ),
        ),
        (
            "dhcp/iphone.pcap",
            (
                [0xd8, 0x30, 0x62, 0x56, 0x00, 0x1c],
                Some("Lucas-iMac"),
                None,
                &[1, 121, 3, 6, 15, 119, 252, 95, 44, 46],
            ),
        ),
        (
            "ndpi/wechat.pcap",
            (
                [0xb8, 0x78, 0x2e, 0xe2, 0xda, 0x07],
                Some("iPhonediMonica"),
                None,
                &[1, 121, 3, 6, 15, 119, 252],
            ),
        ),
    ];
    for (capture, (client, host_name, vendor_class, parameters)) in cases {
        let packets = packets(capture)?;
        let said = datagrams(&packets, 67).any(|payload| {
            dhcp4::message(payload).is_ok_and(|message| {
                message.whole
                    && message.client == client
                    && message.host_name.as_deref() == host_name
                    && message.vendor_class.as_deref() == vendor_class
                    && message.parameters == parameters
            })
        });
        assert!(said, "{capture}: {host_name:?}");
    }
    Ok(())
}

#[test]
fn a_phone_asks_by_dhcp_for_ipv6_too() -> Result<()> {
    let packets = packets("dhcp/android.pcap")?;
    let payload = datagrams(&packets, 547)
        .next()
        .context("no datagram to a server")?;
    let message = dhcp6::message(payload).map_err(|failure| anyhow!("{failure:?}"))?;
    assert_eq!(message.kind, 1);
    assert_eq!(message.client, Some([0x4c, 0x6a, 0xf6, 0x9f, 0xf6, 0x27]));
    assert_eq!(message.requested, [23, 24]);
    assert_eq!(message.options, [1, 3, 8, 6]);
    Ok(())
}

#[test]
fn what_a_computer_tells_by_multicast() -> Result<()> {
    let packets = packets("dhcp/iphone.pcap")?;
    let mut services = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for payload in datagrams(&packets, 5353) {
        let message = dns::message(payload).map_err(|failure| anyhow!("{failure:?}"))?;
        assert_eq!(message.partial, None);
        for service in message.services {
            services.insert((service.instance, service.kind, service.host, service.text));
        }
        for record in message.addresses {
            addresses.insert((record.name, record.address));
        }
    }
    let instance = || "Luca’s iMac".to_owned();
    assert!(services.contains(&(
        instance(),
        "_ssh._tcp".to_owned(),
        Some("lucas-imac.local".to_owned()),
        Vec::new(),
    )));
    let model = [("model", "iMac11,3"), ("osxvers", "17")];
    assert!(
        services.contains(&(
            instance(),
            "_device-info._tcp".to_owned(),
            None,
            model
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        ))
    );
    assert!(addresses.contains(&("lucas-imac.local".to_owned(), "192.168.2.1".parse()?)));
    Ok(())
}
