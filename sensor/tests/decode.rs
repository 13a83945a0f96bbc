//! The decoders on captures that nobody on this project wrote.

mod capture;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    net::SocketAddr,
    path::Path,
};

use sensor::decode::{
    Progress,
    quic::{self, Initials},
    stream::Stream,
    tls, tunnel,
};

use self::capture::{CORPUS, Packet};

/// A name that was found: capture, decoder, both ends, name, QUIC version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    client: SocketAddr,
    server: SocketAddr,
    name: String,
    quic_version: Option<String>,
}

fn names_by_quic(packets: &[Packet]) -> BTreeSet<Found> {
    let mut found = BTreeSet::new();
    let mut flows: HashMap<(SocketAddr, SocketAddr), Initials> = HashMap::new();
    for packet in packets.iter().filter(|packet| packet.tcp.is_none()) {
        let (client, server) = (packet.source, packet.destination);
        if let Some(flow) = flows.get_mut(&(server, client)) {
            let _ = flow.datagram(false, &packet.payload);
            continue;
        }
        if !quic::looks_like(&packet.payload) {
            continue;
        }
        let flow = flows.entry((client, server)).or_default();
        if let Ok(Progress::Complete(quic::Hello { version, hello, .. })) =
            flow.datagram(true, &packet.payload)
        {
            found.extend(hello.server_name.map(|name| Found {
                client,
                server,
                name,
                quic_version: Some(version.label()),
            }));
        }
    }
    found
}

fn names_by_tls(packets: &[Packet]) -> BTreeSet<Found> {
    let mut found = BTreeSet::new();
    let mut streams: HashMap<(SocketAddr, SocketAddr), Stream> = HashMap::new();
    for packet in packets {
        let Some(tcp) = packet.tcp else { continue };
        let (client, server) = (packet.source, packet.destination);
        if let Some(initial) = tcp.initial {
            streams.insert((client, server), Stream::new(Some(initial)));
        }
        let stream = streams.entry((client, server)).or_default();
        stream.segment(tcp.sequence, &packet.payload);
        if let Ok(Progress::Complete(hello)) = tls::client_hello(stream.contiguous())
            && !stream.conflict()
        {
            found.extend(hello.server_name.map(|name| Found {
                client,
                server,
                name,
                quic_version: None,
            }));
        }
    }
    found
}

/// A row of what other systems found.
struct Expected {
    client: Option<SocketAddr>,
    server: Option<SocketAddr>,
    name: String,
    quic_version: Option<String>,
}

fn expected(source: &str) -> io::Result<BTreeMap<String, Vec<Expected>>> {
    let mut rows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in fs::read_to_string(Path::new(CORPUS).join("expected.tsv"))?.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let [capture, of, _, client, server, name, version, ..] = fields[..] else {
            continue;
        };
        if of == source {
            rows.entry(capture.to_owned()).or_default().push(Expected {
                client: client.parse().ok(),
                server: server.parse().ok(),
                name: name.to_owned(),
                quic_version: Some(version.to_lowercase()).filter(|version| version != "-"),
            });
        }
    }
    Ok(rows)
}

/// The rows for which this project finds something else or nothing: capture and name.
fn missing(
    source: &str,
    find: fn(&[Packet]) -> BTreeSet<Found>,
) -> io::Result<BTreeSet<(String, String)>> {
    let mut missing = BTreeSet::new();
    for (file, rows) in expected(source)? {
        let found = find(&capture::packets(&Path::new(CORPUS).join(&file))?);
        for row in rows {
            let agrees = |found: &Found| {
                let version = found
                    .quic_version
                    .as_ref()
                    .map(|label| label.to_lowercase());
                found.name == row.name
                    && row.client.is_none_or(|client| client == found.client)
                    && row.server.is_none_or(|server| server == found.server)
                    && (row.quic_version.is_none() || row.quic_version == version)
            };
            if !found.iter().any(agrees) {
                missing.insert((file.clone(), row.name));
            }
        }
    }
    Ok(missing)
}

#[test]
fn quic_names_of_the_corpus() -> io::Result<()> {
    assert_eq!(missing("quic", names_by_quic)?, BTreeSet::new());
    Ok(())
}

/// Rows that no stream of TCP in an Ethernet frame's own IP packet bears out, and why.
const NOT_A_STREAM: [(&str, &str); 16] = [
    (
        "ndpi/4in6tunnel.pcap",
        "the stream is inside an IPv6 tunnel",
    ),
    (
        "ndpi/cachefly.pcapng",
        "client and server are the other way round",
    ),
    (
        "ndpi/ja3_lots_of_cipher_suites_2_anon.pcap",
        "the stream is inside GTP",
    ),
    (
        "ndpi/steam.pcapng",
        "client and server are the other way round",
    ),
    (
        "ndpi/tls_invalid_reads.pcap",
        "the last four octets of the hello were never sent",
    ),
    (
        "ndpi/tls_multiple_synack_different_seq.pcapng",
        "client and server are the other way round",
    ),
    ("ndpi/vxlan.pcap", "the stream is inside VXLAN"),
    ("ndpi/vxlan.pcap", "the stream is inside VXLAN"),
    (
        "zeek/ftp/ftp-auth-tls.pcap",
        "TLS begins behind the start of the stream",
    ),
    (
        "zeek/quic/chromium-115.0.5790.110-api-cirrus-com.pcap",
        "QUIC",
    ),
    ("zeek/quic/curl-8.1.2-dev-http3-www-google-de.pcap", "QUIC"),
    ("zeek/quic/quic-39264-rand.pcap", "QUIC"),
    ("zeek/quic/quic-decrypt-fail-google-de-51833.pcap", "QUIC"),
    (
        "zeek/quic/quic-multiple-initial-fragmented-crypto.pcap",
        "QUIC",
    ),
    (
        "zeek/rdp/rdp-to-ssl.pcap",
        "TLS begins behind the start of the stream",
    ),
    (
        "zeek/websocket/wstunnel-https.pcap",
        "the stream is inside a WebSocket",
    ),
];

#[test]
fn tls_names_of_the_corpus() -> io::Result<()> {
    let captures = NOT_A_STREAM.map(|(capture, _)| capture);
    let missing = missing("tls", names_by_tls)?;
    assert!(
        missing.iter().all(|row| captures.contains(&row.0.as_str())),
        "{missing:#?}"
    );
    assert_eq!(missing.len(), 16);
    Ok(())
}

/// One capture of the corpus has the opening of a tunnel: whatever is found elsewhere is something else.
#[test]
fn nothing_but_a_tunnel_in_the_corpus_is_taken_for_one() -> io::Result<()> {
    let (mut payloads, reported) = (0, "reports/hid-wireguard-53.pcap");
    let mut found = BTreeSet::new();
    for file in capture::files(Path::new(CORPUS))? {
        for packet in capture::packets(&file)? {
            payloads += usize::from(!packet.payload.is_empty());
            if let Some(tunnel) = tunnel::recognise(&packet.payload) {
                found.insert((file.clone(), tunnel.name()));
            }
        }
    }
    let expected = (Path::new(CORPUS).join(reported), "wireguard");
    assert_eq!(found, BTreeSet::from([expected]));
    assert!(payloads > 10_000, "only {payloads} payloads were read");
    Ok(())
}
