//! Names, hosts and what devices say of themselves, out of captures that nobody here wrote.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use pcap_parser::{
    Block, Linktype, PcapBlockOwned, PcapError, create_reader, traits::PcapNGPacketBlock as _,
};
use sensor::decode::{Progress, dhcp4, dhcp6, dns, http};
use sensor_ebpf::parse::{Address, Family, parse, protocol};

/// Rows that are not met, and why.
const DISPUTED: [(&str, &str, &str); 16] = [
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
        "ndpi/heuristic_tcp_ack_payload.pcap",
        "3.tlu.dl.delivery.mp.microsoft.com",
        "two octets of zero were sent first at the place of `GE`: the stream is in conflict",
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

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus")
}

/// The frames of a capture, as Ethernet; none for links that are read elsewhere.
fn frames(file: &Path) -> Result<Vec<Vec<u8>>> {
    let octets = fs::read(file).with_context(|| file.display().to_string())?;
    let mut reader = create_reader(octets.len().max(1 << 16), &octets[..])
        .map_err(|error| anyhow!("{}: {error:?}", file.display()))?;
    let mut links = Vec::new();
    let mut frames = Vec::new();
    loop {
        match reader.next() {
            Ok((length, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => links.push(header.network),
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => links.clear(),
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                        links.push(interface.linktype);
                    }
                    PcapBlockOwned::Legacy(packet) => {
                        let length = packet.data.len().min(packet.caplen as usize);
                        frames.extend(ethernet(links[0], &packet.data[..length]));
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                        let link = links.get(packet.if_id as usize).copied();
                        frames.extend(link.and_then(|link| ethernet(link, packet.packet_data())));
                    }
                    PcapBlockOwned::NG(_) => {}
                }
                reader.consume(length);
            }
            Err(PcapError::Eof) => return Ok(frames),
            // The whole file is in the buffer: some captures end within a packet.
            Err(PcapError::Incomplete(_) | PcapError::UnexpectedEof) => return Ok(frames),
            Err(error) => bail!("{}: {error:?}", file.display()),
        }
    }
}

fn ethernet(link: Linktype, octets: &[u8]) -> Option<Vec<u8>> {
    let (kind, payload) = match link {
        Linktype::ETHERNET => return Some(octets.to_vec()),
        Linktype::LINUX_SLL => (octets.get(14..16)?, octets.get(16..)?),
        Linktype::RAW | Linktype::IPV4 | Linktype(12) if octets.first()? >> 4 == 4 => {
            (&[8, 0][..], octets)
        }
        _ => return None,
    };
    Some([&[0; 12], kind, payload].concat())
}

/// A packet with ports.
struct Packet<'a> {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
    transport: &'a [u8],
}

fn packet(frame: &[u8]) -> Option<Packet<'_>> {
    let parsed = parse(frame).ok()?;
    let address = |address: Address| -> IpAddr {
        let octets = address.octets();
        if parsed.family == Family::V4 {
            Ipv4Addr::from([octets[0], octets[1], octets[2], octets[3]]).into()
        } else {
            Ipv6Addr::from(octets).into()
        }
    };
    let transport = frame.get(parsed.transport_offset..)?;
    let transport = match parsed.transport_len {
        0 => transport,
        length => &transport[..transport.len().min(length)],
    };
    let port = |place: usize| -> Option<u16> {
        let octets = transport.get(place..place + 2)?;
        Some(u16::from_be_bytes(octets.try_into().ok()?))
    };
    Some(Packet {
        protocol: parsed.protocol,
        source: SocketAddr::new(address(parsed.source), port(0)?),
        destination: SocketAddr::new(address(parsed.destination), port(2)?),
        transport,
    })
}

type Ends = (SocketAddr, SocketAddr);

/// The datagrams of a capture.
fn datagrams(frames: &[Vec<u8>]) -> Vec<(Ends, &[u8])> {
    frames
        .iter()
        .filter_map(|frame| packet(frame))
        .filter(|packet| packet.protocol == protocol::UDP)
        .filter_map(|packet| {
            Some((
                (packet.source, packet.destination),
                packet.transport.get(8..)?,
            ))
        })
        .collect()
}

/// One direction of a TCP connection: its ends, the number of its first octet, and the segments by
/// their distance from that.
type Connection<'a> = (Ends, u32, BTreeMap<u32, &'a [u8]>);

/// The start of each direction of each TCP connection, up to the first hole.
fn streams(frames: &[Vec<u8>]) -> Vec<(Ends, Vec<u8>)> {
    const SYN: u8 = 2;
    let mut connections: Vec<Connection<'_>> = Vec::new();
    for packet in frames.iter().filter_map(|frame| packet(frame)) {
        if packet.protocol != protocol::TCP || packet.transport.len() < 20 {
            continue;
        }
        let ends = (packet.source, packet.destination);
        let segment = packet.transport;
        let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
        let payload = segment
            .get(usize::from(segment[12] >> 4) * 4..)
            .unwrap_or_default();
        let known = connections.iter().rposition(|(other, _, _)| *other == ends);
        let synchronise = segment[13] & SYN != 0;
        let place = match known {
            Some(place) if !synchronise || connections[place].1 == sequence.wrapping_add(1) => {
                place
            }
            _ => {
                let first = sequence.wrapping_add(u32::from(synchronise));
                connections.push((ends, first, BTreeMap::new()));
                connections.len() - 1
            }
        };
        let (_, first, segments) = &mut connections[place];
        let offset = sequence.wrapping_sub(*first);
        if !synchronise && !payload.is_empty() && offset < 1 << 20 {
            segments.entry(offset).or_insert(payload);
        }
    }
    connections
        .into_iter()
        .map(|(ends, _, segments)| {
            let mut stream = Vec::new();
            for (offset, payload) in segments {
                let Some(known) = stream.len().checked_sub(offset as usize) else {
                    break;
                };
                stream.extend_from_slice(payload.get(known..).unwrap_or_default());
            }
            (ends, stream)
        })
        .collect()
}

struct Row {
    capture: String,
    source: String,
    ends: Option<Ends>,
    name: String,
}

fn rows(sources: &[&str]) -> Result<Vec<Row>> {
    let table = fs::read_to_string(corpus().join("expected.tsv"))?;
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

/// What the decoders find in a capture: who said it, and the name.
fn found(frames: &[Vec<u8>]) -> BTreeSet<(&'static str, Ends, String)> {
    let mut found = BTreeSet::new();
    for (ends, payload) in datagrams(frames) {
        if [ends.0.port(), ends.1.port()].contains(&53)
            && let Ok(message) = dns::message(payload)
        {
            let questions = message.questions.into_iter().map(|question| question.name);
            let updates = message.updates.into_iter().map(|update| update.name);
            found.extend(questions.chain(updates).map(|name| ("dns", ends, name)));
        }
    }
    for (ends, stream) in streams(frames) {
        let request = http::request(&stream);
        if let Ok(Progress::Complete(request)) = request {
            assert!(http::looks_like(&stream), "{request:?}");
            found.extend(request.name().map(|name| ("http", ends, name.to_owned())));
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
        let found = found(&frames(&corpus().join(capture))?);
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
fn no_name_where_there_is_no_request() -> Result<()> {
    // Of these, the other systems have no HTTP.
    for capture in [
        "ndpi/chrome.pcap",
        "ndpi/firefox.pcap",
        "ndpi/simple-dnscrypt.pcap",
        "ndpi/tls_invalid_reads.pcap",
        "ndpi/zoom2.pcap",
    ] {
        let frames = frames(&corpus().join(capture))?;
        for (ends, stream) in streams(&frames) {
            assert!(!http::looks_like(&stream), "{capture} {ends:?}");
        }
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
        let frames = frames(&corpus().join(capture))?;
        let said = datagrams(&frames).into_iter().any(|(ends, payload)| {
            ends.1.port() == 67
                && dhcp4::message(payload).is_ok_and(|message| {
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
    let frames = frames(&corpus().join("dhcp/android.pcap"))?;
    let (_, payload) = datagrams(&frames)
        .into_iter()
        .find(|(ends, _)| ends.1.port() == 547)
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
    let frames = frames(&corpus().join("dhcp/iphone.pcap"))?;
    let mut services = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for (ends, payload) in datagrams(&frames) {
        if ends.1.port() == 5353 {
            let message = dns::message(payload).map_err(|failure| anyhow!("{failure:?}"))?;
            assert_eq!(message.partial, None);
            for service in message.services {
                services.insert((service.instance, service.kind, service.host, service.text));
            }
            for record in message.addresses {
                addresses.insert((record.name, record.address));
            }
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
