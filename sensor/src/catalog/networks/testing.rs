//! Databases of networks, made for tests.

use std::path::PathBuf;

use ipnet::IpNet;
use maxminddb::Reader;

use super::{Database, Networks};

/// The entry of a database for a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) prefix: &'static str,
    /// By its letters.
    pub(crate) country: Option<&'static str>,
    pub(crate) asn: Option<u32>,
    pub(crate) organisation: Option<&'static str>,
}

/// These databases. No prefix of one is in another one of the same.
pub(crate) fn networks(databases: &[Vec<Entry>]) -> Networks {
    let databases = databases.iter().map(|entries| {
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| (entry.prefix, entry.data()))
            .collect();
        let reader = Reader::from_source(database(&entries)).expect("a whole database");
        Database::of(PathBuf::new(), 0.0, reader)
    });
    Networks {
        databases: databases.collect(),
    }
}

impl Entry {
    /// As in the databases of ip-location-db, or GeoLite2 where there is no network.
    fn data(&self) -> Data {
        let mut pairs = Vec::new();
        match (self.country, self.asn) {
            (Some(code), None) => {
                let code = Data::Map(vec![("iso_code", Data::text(code))]);
                pairs.push(("country", code));
            }
            (Some(code), Some(_)) => pairs.push(("country_code", Data::text(code))),
            (None, _) => {}
        }
        let asn = self.asn.map(Data::Number);
        pairs.extend(asn.map(|asn| ("autonomous_system_number", asn)));
        let name = self.organisation.map(Data::text);
        pairs.extend(name.map(|name| ("autonomous_system_organization", name)));
        Data::Map(pairs)
    }
}

/// A value as a database stores it (MaxMind DB file format 2.0, "Output Data Section").
pub(super) enum Data {
    Text(String),
    Short(u16),
    Number(u32),
    Long(u64),
    Map(Vec<(&'static str, Data)>),
    NoList,
}

impl Data {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// The control octets: the type, and a length below 285.
    fn control(out: &mut Vec<u8>, kind: u8, length: usize) {
        match length {
            0..29 => out.push(kind << 5 | length as u8),
            _ => out.extend([kind << 5 | 29, (length - 29) as u8]),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => {
                Self::control(out, 2, text.len());
                out.extend(text.as_bytes());
            }
            Self::Short(number) => {
                Self::control(out, 5, 2);
                out.extend(number.to_be_bytes());
            }
            Self::NoList => out.extend([0, 4]),
            // A type above 7 stands in an octet of its own, less 7, as that of an empty list above.
            Self::Long(number) => {
                out.extend([8, 2]);
                out.extend(number.to_be_bytes());
            }
            Self::Number(number) => {
                Self::control(out, 6, 4);
                out.extend(number.to_be_bytes());
            }
            Self::Map(pairs) => {
                Self::control(out, 7, pairs.len());
                for (key, value) in pairs {
                    Self::text(key).write(out);
                    value.write(out);
                }
            }
        }
    }
}

/// A database with what is there for each prefix, in an IPv6 tree (IPv4 lies below 96 zeroes). No
/// prefix is in another one.
pub(super) fn database(entries: &[(&str, Data)]) -> Vec<u8> {
    #[derive(Clone, Copy)]
    enum To {
        Nothing,
        Node(u32),
        Data(u32),
    }
    let mut nodes = vec![[To::Nothing; 2]];
    let mut data = Vec::new();
    for (prefix, value) in entries {
        let (bits, length) = match prefix.parse().expect("a prefix") {
            IpNet::V4(prefix) => (
                u128::from(prefix.network().to_bits()),
                96 + prefix.prefix_len(),
            ),
            IpNet::V6(prefix) => (prefix.network().to_bits(), prefix.prefix_len()),
        };
        let mut node = 0;
        for depth in 0..length {
            let side = (bits >> (127 - depth) & 1) as usize;
            if depth == length - 1 {
                nodes[node][side] = To::Data(data.len() as u32);
                break;
            }
            node = match nodes[node][side] {
                To::Node(next) => next as usize,
                _ => {
                    nodes.push([To::Nothing; 2]);
                    nodes[node][side] = To::Node(nodes.len() as u32 - 1);
                    nodes.len() - 1
                }
            };
        }
        value.write(&mut data);
    }
    let count = nodes.len() as u32;
    let mut file = Vec::new();
    for to in nodes.into_iter().flatten() {
        let record = match to {
            To::Nothing => count,
            To::Node(node) => node,
            To::Data(offset) => count + 16 + offset,
        };
        file.extend(&record.to_be_bytes()[1..]);
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    Data::Map(vec![
        ("binary_format_major_version", Data::Short(2)),
        ("binary_format_minor_version", Data::Short(0)),
        ("build_epoch", Data::Long(1_700_000_000)),
        ("database_type", Data::text("Test")),
        ("description", Data::Map(Vec::new())),
        ("ip_version", Data::Short(6)),
        ("languages", Data::NoList),
        ("node_count", Data::Number(count)),
        ("record_size", Data::Short(24)),
    ])
    .write(&mut file);
    file
}
