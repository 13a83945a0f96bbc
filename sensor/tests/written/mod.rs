//! Capture files that are written by a test.

use std::net::SocketAddrV4;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// The header of a capture file in the format of libpcap, little endian, with microseconds.
pub(crate) fn header(link: u32) -> Vec<u8> {
    let mut file = Vec::from(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    file.extend([0; 8]);
    file.extend(0x0004_0000_u32.to_le_bytes());
    file.extend(link.to_le_bytes());
    file
}

/// A packet of it, some microseconds after another.
pub(crate) fn packet(file: &mut Vec<u8>, micros: usize, octets: &[u8], original: usize) {
    for word in [
        1_700_000_000,
        micros as u32,
        octets.len() as u32,
        original as u32,
    ] {
        file.extend(word.to_le_bytes());
    }
    file.extend(octets);
}

/// A file with these packets, all of each.
pub(crate) fn file(link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = header(link);
    for (number, octets) in packets.iter().enumerate() {
        packet(&mut file, number, octets, octets.len());
    }
    file
}

/// An IPv4 packet that carries UDP.
pub(crate) fn udp(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to) = (address(from), address(to));
    let mut datagram = Vec::from(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0; 2]);
    datagram.extend(payload);
    ipv4(from, to, 17, &datagram)
}

/// An IPv4 packet that carries TCP.
pub(crate) fn tcp(from: &str, to: &str, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to) = (address(from), address(to));
    let mut segment = Vec::from(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0; 8]);
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    ipv4(from, to, 6, &segment)
}

/// An IPv4 packet that carries anything; the ports do not count.
pub(crate) fn ipv4(from: SocketAddrV4, to: SocketAddrV4, protocol: u8, inner: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + inner.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(inner);
    packet
}

/// An Ethernet frame between addresses of which only the last octet is not zero.
pub(crate) fn ethernet(from: u8, to: u8, ethertype: u16, inner: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, to, 0x02, 0, 0, 0, 0, from];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(inner);
    frame
}

pub(crate) fn address(text: &str) -> SocketAddrV4 {
    text.parse().expect("an IPv4 address and a port")
}
