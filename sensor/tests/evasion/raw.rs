//! A client of TCP and UDP that no stack stands behind: it sends what it is told, and says what came
//! back.
//!
//! It has addresses of its own on the phone's link, with the phone's MAC address, so that the
//! phone's stack knows nothing of it.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use xtask::lab::{Lab, PHONE_MAC, Tap, Wire};

/// The client's addresses.
const OWN_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 200);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x200);
/// A tag that a host without VLANs takes: a priority, and VLAN 0 (IEEE 802.1Q, section 9.6).
const TAG: [u8; 4] = [0x81, 0, 0x60, 0];
/// How long the other side may take for an answer.
const PATIENCE: Duration = Duration::from_millis(700);
/// Octets of a fragment but the last, a multiple of 8: no name of ours is whole in one.
const PIECE: usize = 24;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const URG: u8 = 32;

/// The headers around a transport's segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// IPv4, nothing else.
    V4,
    /// IPv6, nothing else.
    V6,
    /// IPv4 with options.
    Options,
    /// IPv6 with hop-by-hop and destination options.
    Extensions,
    /// IPv4 behind a VLAN tag.
    Tag,
    /// IPv4 in fragments.
    FragmentsV4,
    /// IPv6 in fragments.
    FragmentsV6,
    /// IPv4, and a checksum of the segment that is wrong.
    Damaged,
}

impl Shape {
    const fn is_v6(self) -> bool {
        matches!(self, Self::V6 | Self::Extensions | Self::FragmentsV6)
    }

    fn own(self) -> IpAddr {
        if self.is_v6() {
            OWN_V6.into()
        } else {
            OWN_V4.into()
        }
    }
}

/// The packets that came back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// A TCP RST.
    pub(crate) reset: bool,
    /// ICMP says that it cannot be reached.
    pub(crate) unreachable: bool,
    /// The data from the server.
    pub(crate) said: Vec<u8>,
}

pub(crate) struct Client {
    wire: Wire,
    tap: Tap,
    gateway: [u8; 6],
    phone: [u8; 6],
    port: Cell<u16>,
}

impl Client {
    /// Makes the client known to the gateway.
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        for words in [
            format!("neigh replace {OWN_V4} lladdr {PHONE_MAC} dev br-lan nud permanent"),
            format!("neigh replace {OWN_V6} lladdr {PHONE_MAC} dev br-lan nud permanent"),
        ] {
            lab.gateway.ip(&words)?;
        }
        Ok(Self {
            wire: lab.phone.wire("eth0")?,
            tap: lab.phone.tap("eth0")?,
            gateway: [2, 0, 0, 0, 0, 1],
            phone: [2, 0, 0, 0, 0, 0x11],
            port: Cell::new(20_000),
        })
    }

    /// How many packets came since it last looked that say that something cannot be reached, whoever
    /// they were to.
    pub(crate) fn unreachables(&self) -> Result<usize> {
        let mut count = 0;
        while let Some(frame) = self.tap.next(Instant::now())? {
            let icmp = match frame.get(12..14) {
                Some([8, 0]) => frame.get(23) == Some(&1) && frame.get(34) == Some(&3),
                Some([0x86, 0xdd]) => frame.get(20) == Some(&58) && frame.get(54) == Some(&1),
                _ => false,
            };
            count += usize::from(icmp);
        }
        Ok(count)
    }

    fn port(&self) -> u16 {
        self.port.replace(self.port.get() + 1)
    }

    /// Opens a TCP connection in a shape that it keeps.
    pub(crate) fn connect(&self, shape: Shape, to: &str, port: u16) -> Result<Connection<'_>> {
        let mut connection = Connection {
            client: self,
            shape,
            remote: to.parse()?,
            ports: [self.port(), port],
            next: 0x1000_0000,
            said: Cell::new(0),
            acknowledged: 0,
        };
        let until = Instant::now() + PATIENCE;
        connection.send(shape, connection.next, SYN, &[]);
        connection.next += 1;
        while let Some(packet) = self.receive(&connection.ports, until)? {
            if let Packet::Tcp {
                flags, sequence, ..
            } = packet
                && flags & (SYN | ACK) == SYN | ACK
            {
                connection.acknowledged = sequence.wrapping_add(1);
                connection.send(shape, connection.next, ACK, &[]);
                return Ok(connection);
            }
        }
        anyhow::bail!("no connection to {to}")
    }

    /// Sends a datagram and gives what comes back.
    pub(crate) fn datagram(
        &self,
        shape: Shape,
        to: &str,
        port: u16,
        payload: &[u8],
    ) -> Result<(u16, Seen)> {
        self.datagrams(shape, to, port, &[payload])
    }

    /// Sends datagrams from one port, and gives what comes back to all of them.
    pub(crate) fn datagrams(
        &self,
        shape: Shape,
        to: &str,
        port: u16,
        payloads: &[&[u8]],
    ) -> Result<(u16, Seen)> {
        let remote: IpAddr = to.parse()?;
        let ports = [self.port(), port];
        for payload in payloads {
            let mut segment = ports.map(u16::to_be_bytes).concat();
            segment.extend((8 + payload.len() as u16).to_be_bytes());
            segment.extend([0, 0]);
            segment.extend(*payload);
            self.send(shape, remote, UDP, segment, 6);
        }
        let seen = self.listen(&ports, |_| {})?;
        Ok((ports[0], seen))
    }

    /// Sends a neighbour solicitation (RFC 4861, section 4.3) to an address, as if that were on the link,
    /// with something in an option of it.
    pub(crate) fn solicit(&self, to: &str, said: &[u8]) -> Result<()> {
        const ICMPV6: u8 = 58;
        const SOLICITATION: u8 = 135;
        const NONCE: u8 = 14;
        const HOP_LIMIT: usize = 7;
        let remote: IpAddr = to.parse()?;
        let units = (2 + said.len()).div_ceil(8);
        let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(octets(remote));
        message.extend([NONCE, units as u8]);
        message.extend(said);
        message.resize(24 + units * 8, 0);
        let mut pseudo = octets(OWN_V6.into());
        pseudo.extend(octets(remote));
        pseudo.extend((message.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, ICMPV6]);
        let sum = checksum(&[&pseudo, &message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut packet = ipv6(OWN_V6.into(), remote, ICMPV6, &message);
        packet[HOP_LIMIT] = 255;
        let frame = [&self.gateway[..], &self.phone, &[0x86, 0xdd], &packet].concat();
        self.wire.send(&frame)?;
        Ok(())
    }

    /// Puts a segment on the link; its checksum goes to this place.
    fn send(&self, shape: Shape, remote: IpAddr, protocol: u8, mut segment: Vec<u8>, at: usize) {
        let own = shape.own();
        let mut pseudo = octets(own);
        pseudo.extend(octets(remote));
        pseudo.extend((segment.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, protocol]);
        let sum = checksum(&[&pseudo, &segment]);
        let damage = if shape == Shape::Damaged { 0x5555 } else { 0 };
        segment[at..at + 2].copy_from_slice(&(sum ^ damage).to_be_bytes());

        let id = self.port.get();
        let packets = match shape {
            Shape::V4 | Shape::Tag | Shape::Damaged => {
                vec![ipv4(own, remote, protocol, &[], [0x40, 0], id, &segment)]
            }
            // Three times nothing, and the end of the list.
            Shape::Options => {
                vec![ipv4(
                    own,
                    remote,
                    protocol,
                    &[1, 1, 1, 0],
                    [0x40, 0],
                    id,
                    &segment,
                )]
            }
            Shape::V6 => vec![ipv6(own, remote, protocol, &segment)],
            Shape::Extensions => {
                // Each holds one padding option of six octets in all.
                let mut chain = vec![60, 0, 1, 4, 0, 0, 0, 0, protocol, 0, 1, 4, 0, 0, 0, 0];
                chain.extend(&segment);
                vec![ipv6(own, remote, 0, &chain)]
            }
            Shape::FragmentsV4 => pieces(&segment)
                .map(|(offset, more, piece)| {
                    let field = (offset as u16 / 8) | if more { 0x2000 } else { 0 };
                    ipv4(own, remote, protocol, &[], field.to_be_bytes(), id, piece)
                })
                .collect(),
            Shape::FragmentsV6 => pieces(&segment)
                .map(|(offset, more, piece)| {
                    let field = offset as u16 | u16::from(more);
                    let mut chain = vec![protocol, 0];
                    chain.extend(field.to_be_bytes());
                    chain.extend([0, 0]);
                    chain.extend(id.to_be_bytes());
                    chain.extend(piece);
                    ipv6(own, remote, 44, &chain)
                })
                .collect(),
        };
        for packet in packets {
            let mut frame = [self.gateway, self.phone].concat();
            if shape == Shape::Tag {
                frame.extend(TAG);
            }
            frame.extend(if shape.is_v6() { [0x86, 0xdd] } else { [8, 0] });
            frame.extend(packet);
            self.wire.send(&frame).expect("the link is up");
        }
    }

    fn listen(&self, ports: &[u16; 2], mut acknowledge: impl FnMut(u32)) -> Result<Seen> {
        let mut seen = Seen::default();
        let mut until = Instant::now() + PATIENCE;
        while let Some(packet) = self.receive(ports, until)? {
            match packet {
                Packet::Unreachable => seen.unreachable = true,
                Packet::Udp(payload) => seen.said.extend(payload),
                Packet::Tcp {
                    flags,
                    sequence,
                    payload,
                } => {
                    seen.reset |= flags & RST != 0;
                    let length = payload.len() as u32 + u32::from(flags & FIN != 0);
                    if length > 0 {
                        acknowledge(sequence.wrapping_add(length));
                    }
                    seen.said.extend(payload);
                }
            }
            // After the first packet, only those that follow at once matter.
            until = until.min(Instant::now() + PATIENCE / 4);
        }
        Ok(seen)
    }

    fn receive(&self, ports: &[u16; 2], until: Instant) -> Result<Option<Packet>> {
        while let Some(frame) = self.tap.next(until)? {
            if let Some(packet) = Packet::read(&frame, *ports) {
                return Ok(Some(packet));
            }
        }
        Ok(None)
    }
}

/// A TCP connection.
pub(crate) struct Connection<'a> {
    client: &'a Client,
    shape: Shape,
    remote: IpAddr,
    /// Its own port, and the other side's.
    ports: [u16; 2],
    /// The sequence number of the first octet that is sent.
    next: u32,
    /// The number of octets that were sent.
    said: Cell<usize>,
    /// The sequence number received so far.
    acknowledged: u32,
}

impl Connection<'_> {
    /// Sends octets that stand at this place of the data.
    pub(crate) fn say(&self, place: usize, octets: &[u8]) {
        self.said.set(self.said.get().max(place + octets.len()));
        let sequence = self.next.wrapping_add(place as u32);
        self.send(self.shape, sequence, PSH | ACK, octets);
    }

    /// As [`say`](Self::say), the last octet as urgent data.
    pub(crate) fn say_urgently(&self, place: usize, octets: &[u8]) {
        self.said.set(self.said.get().max(place + octets.len()));
        let sequence = self.next.wrapping_add(place as u32);
        self.send(self.shape, sequence, PSH | ACK | URG, octets);
    }

    /// Says something that the server does not take.
    pub(crate) fn say_in_vain(&self, place: usize, octets: &[u8]) {
        let sequence = self.next.wrapping_add(place as u32);
        self.send(Shape::Damaged, sequence, PSH | ACK, octets);
    }

    /// Sends a SYN in the midst of what is said, with a number a little ahead.
    pub(crate) fn begin_again(&self) {
        self.send(self.shape, self.next.wrapping_add(1_000), SYN, &[]);
    }

    /// Waits for what comes back, and ends the connection.
    pub(crate) fn end(mut self) -> Result<(u16, Seen)> {
        let end = self.next.wrapping_add(self.said.get() as u32);
        let mut heard = self.acknowledged;
        let seen = self.client.listen(&self.ports, |sequence| {
            heard = sequence;
            self.send_acknowledging(self.shape, end, ACK, &[], sequence);
        })?;
        self.acknowledged = heard;
        self.send(self.shape, end, RST | ACK, &[]);
        Ok((self.ports[0], seen))
    }

    fn send(&self, shape: Shape, sequence: u32, flags: u8, payload: &[u8]) {
        self.send_acknowledging(shape, sequence, flags, payload, self.acknowledged);
    }

    fn send_acknowledging(
        &self,
        shape: Shape,
        sequence: u32,
        flags: u8,
        payload: &[u8],
        acknowledged: u32,
    ) {
        let mut segment = self.ports.map(u16::to_be_bytes).concat();
        segment.extend(sequence.to_be_bytes());
        segment.extend(acknowledged.to_be_bytes());
        segment.extend([0x50, flags, 0xff, 0xff, 0, 0]);
        // Behind the urgent octet.
        let urgent = if flags & URG == 0 {
            0
        } else {
            payload.len() as u16
        };
        segment.extend(urgent.to_be_bytes());
        segment.extend(payload);
        self.client.send(shape, self.remote, TCP, segment, 16);
    }
}

enum Packet {
    Tcp {
        flags: u8,
        sequence: u32,
        payload: Vec<u8>,
    },
    Udp(Vec<u8>),
    Unreachable,
}

impl Packet {
    /// Reads a frame to the client at the first port, from the second port.
    fn read(frame: &[u8], ports: [u16; 2]) -> Option<Self> {
        let own = ports[0].to_be_bytes();
        let (protocol, segment) = match frame.get(12..14)? {
            [8, 0] => {
                let packet = frame.get(14..)?;
                let length = usize::from(u16::from_be_bytes([packet[2], *packet.get(3)?]));
                let header = usize::from(packet[0] & 15) * 4;
                (*packet.get(9)?, packet.get(header..length)?)
            }
            [0x86, 0xdd] => {
                let packet = frame.get(14..)?;
                let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
                (packet[6], packet.get(40..40 + length)?)
            }
            _ => return None,
        };
        match protocol {
            TCP if segment.get(2..4)? == own => {
                let header = usize::from(*segment.get(12)? >> 4) * 4;
                Some(Self::Tcp {
                    flags: segment[13],
                    sequence: u32::from_be_bytes(segment[4..8].try_into().ok()?),
                    payload: segment.get(header..)?.to_vec(),
                })
            }
            UDP if segment.get(2..4)? == own => Some(Self::Udp(segment.get(8..)?.to_vec())),
            // The packet that cannot be delivered stands behind eight octets, and begins as ours.
            1 if segment.first() == Some(&3) => {
                (segment.get(28..30)? == own).then_some(Self::Unreachable)
            }
            58 if segment.first() == Some(&1) => {
                (segment.get(48..50)? == own).then_some(Self::Unreachable)
            }
            _ => None,
        }
    }
}

/// Where each piece begins, and whether another follows.
fn pieces(segment: &[u8]) -> impl Iterator<Item = (usize, bool, &[u8])> {
    segment.chunks(PIECE).enumerate().map(|(number, piece)| {
        let offset = number * PIECE;
        (offset, offset + piece.len() < segment.len(), piece)
    })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn ipv4(
    own: IpAddr,
    remote: IpAddr,
    protocol: u8,
    options: &[u8],
    fragment: [u8; 2],
    id: u16,
    inner: &[u8],
) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let length = (words * 4 + inner.len()) as u16;
    let mut packet = vec![0x40 | words as u8, 0];
    packet.extend(length.to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend(fragment);
    packet.extend([64, protocol, 0, 0]);
    packet.extend(octets(own));
    packet.extend(octets(remote));
    packet.extend(options);
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(inner);
    packet
}

fn ipv6(own: IpAddr, remote: IpAddr, next: u8, inner: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((inner.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(octets(own));
    packet.extend(octets(remote));
    packet.extend(inner);
    packet
}

/// The Internet checksum (RFC 1071) of parts, each but the last of an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// That a name is whole in no piece of a segment with a header of this length.
pub(crate) fn in_no_piece(header: usize, said: &[u8], name: &[u8]) -> Result<()> {
    let at = said
        .windows(name.len())
        .position(|window| window == name)
        .context("the name is not there")?
        + header;
    ensure!(
        at / PIECE != (at + name.len() - 1) / PIECE,
        "the name is whole in one piece"
    );
    Ok(())
}
