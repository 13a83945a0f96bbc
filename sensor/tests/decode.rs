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
    tls,
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

fn missing(source: &str, find: fn(&[Packet]) -> BTreeSet<Found>) -> io::Result<Vec<String>> {
    let mut missing = Vec::new();
    let mut rows_seen = 0;
    for (file, rows) in expected(source)? {
        let found = find(&capture::packets(&Path::new(CORPUS).join(&file))?);
        for row in rows {
            rows_seen += 1;
            let is_found = found.iter().any(|found| {
                found.name == row.name
                    && row.client.is_none_or(|client| client == found.client)
                    && row.server.is_none_or(|server| server == found.server)
                    && row.quic_version.as_ref().is_none_or(|version| {
                        found
                            .quic_version
                            .as_ref()
                            .map(|label| label.to_lowercase())
                            .as_ref()
                            == Some(version)
                    })
            });
            if !is_found {
                missing.push(format!(
                    "{file} {:?} {:?} {} {:?}",
                    row.client, row.server, row.name, found
                ));
            }
        }
    }
    println!("{rows_seen} rows");
    Ok(missing)
}

#[test]
fn quic_names_of_the_corpus() -> io::Result<()> {
    let missing = missing("quic", names_by_quic)?;
    assert!(missing.is_empty(), "{missing:#?}");
    Ok(())
}

#[test]
fn tls_names_of_the_corpus() -> io::Result<()> {
    let missing = missing("tls", names_by_tls)?;
    assert!(missing.is_empty(), "{missing:#?}");
    Ok(())
}
