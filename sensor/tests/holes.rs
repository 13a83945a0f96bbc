//! Ring 4: captures from which packets are taken away, or whose payloads are made garbage. A name
//! that is found must be one that the whole capture has on the same flow: what stands on both sides
//! of a hole was never said together, and garbage says nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use sensor::{
    aggregate::{Aggregate, Overrides},
    catalog::Catalog,
    classify::Classifier,
    record::Record,
    source::replay::{Engine, Options, replay},
};
use sensor_ebpf::flow::FlowKey;

/// Octets of a capture file's header and of the header before each packet (pcap, not pcapng).
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus")
}

/// The classic captures of the corpus.
fn captures() -> Result<Vec<PathBuf>> {
    let mut captures = Vec::new();
    let mut folders = vec![corpus()];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).with_context(|| format!("{} is missing", folder.display()))?
        {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "pcap") {
                captures.push(path);
            }
        }
    }
    captures.sort();
    Ok(captures)
}

/// A capture's header and its packets, each with the header before it; `None` for a file that only
/// has the suffix.
fn packets(file: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let (header, mut rest) = file.split_at_checked(FILE_HEADER)?;
    let big = match header[..4] {
        [0xa1, 0xb2, ..] => true,
        [0xd4, 0xc3, ..] | [0x4d, 0x3c, ..] => false,
        _ => return None,
    };
    let mut packets = Vec::new();
    while let Some(length) = rest.get(8..12) {
        let length: [u8; 4] = length.try_into().ok()?;
        let length = match big {
            true => u32::from_be_bytes(length),
            false => u32::from_le_bytes(length),
        };
        let (packet, behind) = rest.split_at_checked(PACKET_HEADER + length as usize)?;
        packets.push(packet);
        rest = behind;
    }
    Some((header, packets))
}

/// The names that flows showed of themselves, by flow.
fn names(capture: &[u8], catalog: &Arc<Catalog>) -> BTreeMap<String, BTreeSet<String>> {
    let mut aggregate = Aggregate::new(Arc::clone(catalog), Overrides::default(), 0.0);
    let mut classifier = Classifier::default();
    let mut flows = Vec::new();
    let options = Options {
        payloads: 4,
        ..Options::default()
    };
    let read = replay(capture, &options, &mut Engine::Host, |record, now| {
        match &record {
            Record::Tables(_) => flows.clear(),
            Record::Flow(slot, flow) => flows.push((*slot, *flow)),
            _ => {}
        }
        classifier.hear(record, now, |record| aggregate.take(record, now));
    });
    read.expect("the host refuses no frame");
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (slot, flow) in flows {
        let facts = aggregate.facts(slot, &flow);
        if let Some(name) = facts.name
            && matches!(facts.name_source, Some("tls" | "quic" | "http"))
        {
            names.entry(ends(&flow.key)).or_default().insert(name);
        }
    }
    names
}

/// The two ends of a flow, the same whichever of them counts as the device: without its first
/// packet a capture does not tell.
fn ends(key: &FlowKey) -> String {
    let mut ends = [
        format!("{:?} {}", key.local(), key.local_port()),
        format!("{:?} {}", key.remote(), key.remote_port()),
    ];
    ends.sort();
    format!("{} {ends:?}", key.protocol())
}

/// A generator of numbers without a pattern (splitmix64), the same at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)) % bound
    }
}

/// Octets of Ethernet, IPv4 and TCP: what lies behind them is taken for payload.
const HEADERS: usize = PACKET_HEADER + 54;

/// The harm done to a packet.
#[derive(Clone, Copy)]
enum Harm {
    /// The packet is missing.
    Hole,
    /// Every octet of its payload is changed.
    Garbage,
}

#[test]
fn what_is_missing_never_makes_a_name() -> Result<()> {
    no_name_comes_of(Harm::Hole)
}

#[test]
fn garbage_never_makes_a_name() -> Result<()> {
    no_name_comes_of(Harm::Garbage)
}

fn no_name_comes_of(harm: Harm) -> Result<()> {
    const ROUNDS: u64 = 6;

    let catalog = Arc::new(Catalog::default());
    let mut random = Random(1);
    let (mut found, mut whole_names) = (0, 0);
    for path in captures()? {
        let file = fs::read(&path)?;
        let Some((header, packets)) = packets(&file) else {
            continue;
        };
        let allowed = names(&file, &catalog);
        whole_names += allowed.values().map(BTreeSet::len).sum::<usize>();
        // Without its first packets a flow may show a name that it said later; that one lies in the
        // file as it is, which no two pieces with a hole between them do.
        let text = String::from_utf8_lossy(&file).to_lowercase();
        for round in 0..ROUNDS {
            // From one packet in twelve to one in two.
            let one_in = 12 - 2 * round;
            let mut harmed = header.to_vec();
            for packet in &packets {
                match harm {
                    _ if random.below(one_in) != 0 => harmed.extend_from_slice(packet),
                    Harm::Hole => {}
                    Harm::Garbage => {
                        let (headers, payload) = packet.split_at(HEADERS.min(packet.len()));
                        harmed.extend_from_slice(headers);
                        harmed.extend(payload.iter().map(|_| random.below(256) as u8));
                    }
                }
            }
            for (flow, names) in names(&harmed, &catalog) {
                for name in names {
                    let known = allowed
                        .get(&flow)
                        .is_some_and(|allowed| allowed.contains(&name));
                    ensure!(
                        known || text.contains(&name),
                        "{}, round {round}: {flow} got the name {name}, which was never said",
                        path.display()
                    );
                    found += 1;
                }
            }
        }
    }
    // The test would say nothing if nothing were found at all.
    ensure!(
        found > whole_names,
        "{found} names in harmed captures, {whole_names} in the whole ones"
    );
    Ok(())
}
