//! Captures for tests of the decoders: what lies in their TCP segments and UDP datagrams.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};
use sensor_ebpf::parse::{self, Address, Family, Piece, protocol};

/// The captures that other systems test themselves with.
pub(crate) const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus");

/// A TCP segment or a UDP datagram.
pub(crate) struct Packet {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// `None` for UDP.
    pub(crate) tcp: Option<Tcp>,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    /// The number of the first octet of data.
    pub(crate) sequence: u32,
    /// The number of the SYN, where this is one.
    pub(crate) initial: Option<u32>,
}

/// All capture files under a folder, in the order of their names.
pub(crate) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(self::files(&path)?);
        } else if path
            .extension()
            .is_some_and(|kind| kind != "tsv" && kind != "md")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The packets of a capture that the sensor's own parser can read.
pub(crate) fn packets(file: &Path) -> io::Result<Vec<Packet>> {
    let octets = fs::read(file)?;
    let mut packets = Vec::new();
    let mut links = Vec::new();
    let Ok(mut reader) = create_reader(octets.len().max(64) + 64, &octets[..]) else {
        return Err(io::Error::other(format!(
            "{} is no capture",
            file.display()
        )));
    };
    loop {
        match reader.next() {
            Ok((offset, block)) => {
                let frame = match &block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        links = vec![header.network];
                        None
                    }
                    PcapBlockOwned::Legacy(packet) => Some((0, packet.data)),
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                        links.clear();
                        None
                    }
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                        links.push(interface.linktype);
                        None
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                        let len = packet.data.len().min(packet.caplen as usize);
                        Some((packet.if_id as usize, &packet.data[..len]))
                    }
                    PcapBlockOwned::NG(_) => None,
                };
                if let Some((link, frame)) = frame
                    && let Some(link) = links.get(link)
                {
                    packets.extend(ethernet(*link, frame).as_deref().and_then(packet));
                }
                reader.consume(offset);
            }
            Err(PcapError::Incomplete(_)) => {
                if reader.reader_exhausted() || reader.refill().is_err() {
                    break;
                }
            }
            // A capture that breaks off is read up to there.
            Err(_) => break,
        }
    }
    Ok(packets)
}

/// The frame as it would be on Ethernet.
fn ethernet(link: Linktype, frame: &[u8]) -> Option<Vec<u8>> {
    let network = match link {
        Linktype::ETHERNET => return Some(frame.to_vec()),
        Linktype::NULL | Linktype::LOOP => frame.get(4..)?,
        Linktype::LINUX_SLL => return Some([&[0; 12], frame.get(14..)?].concat()),
        Linktype::RAW | Linktype(12 | 228 | 229) => frame,
        _ => return None,
    };
    let kind: [u8; 2] = match network.first()? >> 4 {
        4 => [0x08, 0x00],
        6 => [0x86, 0xdd],
        _ => return None,
    };
    Some([&[0; 12], &kind[..], network].concat())
}

fn packet(frame: &[u8]) -> Option<Packet> {
    let parsed = parse::parse(frame).ok()?;
    if parsed.piece != Piece::Whole {
        return None;
    }
    let ip = |address: Address| match parsed.family {
        Family::V4 => {
            let [a, b, c, d, ..] = address.octets();
            IpAddr::from([a, b, c, d])
        }
        _ => IpAddr::from(address.octets()),
    };
    let transport = frame.get(parsed.transport_offset..)?;
    let transport = &transport[..transport.len().min(parsed.transport_len)];
    let (tcp, header) = match parsed.protocol {
        protocol::TCP => {
            let number = u32::from_be_bytes(*transport.get(4..)?.first_chunk()?);
            let is_syn = parsed.tcp_flags & 2 != 0;
            let tcp = Tcp {
                sequence: number.wrapping_add(is_syn.into()),
                initial: is_syn.then_some(number),
            };
            (Some(tcp), usize::from(transport.get(12)? >> 4) * 4)
        }
        protocol::UDP => (None, 8),
        _ => return None,
    };
    Some(Packet {
        source: SocketAddr::new(ip(parsed.source), parsed.ports.first()),
        destination: SocketAddr::new(ip(parsed.destination), parsed.ports.second()),
        tcp,
        payload: transport.get(header..)?.to_vec(),
    })
}
