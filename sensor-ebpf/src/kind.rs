//! The kind of a payload: told by its bytes, and by its ports only where bytes do not tell.
//!
//! A port says which protocol may be there, never which one is: a tunnel at the port of DNS is a tunnel. The
//! bytes of a payload at a service's port are checked too, and a payload that contradicts its port is
//! classified by its bytes.

mod dns;

pub use dns::may_be_framed as may_be_framed_dns;

use crate::{
    flow::FlowKey,
    parse::{Address, Family, protocol},
};

/// The kind of a payload, by its first bytes and its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A policy matched; no payload.
    Judged = 0,
    /// DNS, UDP or TCP.
    Dns = 1,
    /// Multicast DNS.
    Mdns = 2,
    /// DHCP for IPv4.
    Dhcp4 = 3,
    /// DHCP for IPv6.
    Dhcp6 = 4,
    /// The start of a TLS stream.
    Tls = 5,
    /// A QUIC packet with a long header, or gQUIC with a version.
    Quic = 6,
    /// The start of an HTTP/1 request.
    Http = 7,
    /// The start of a tunnel: WireGuard, OpenVPN, IKE.
    Tunnel = 8,
    /// Any other early payload of a TCP stream: the rest of a hello, an answer, or something
    /// nobody here reads.
    Stream = 9,
    /// A router advertisement that this machine sends to all.
    RouterAdvertisement = 10,
}

impl Kind {
    /// How many kinds there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All, at the place of their number.
    pub const ALL: [Self; 11] = [
        Self::Judged,
        Self::Dns,
        Self::Mdns,
        Self::Dhcp4,
        Self::Dhcp6,
        Self::Tls,
        Self::Quic,
        Self::Http,
        Self::Tunnel,
        Self::Stream,
        Self::RouterAdvertisement,
    ];

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Judged => "judged",
            Self::Dns => "dns",
            Self::Mdns => "mdns",
            Self::Dhcp4 => "dhcp4",
            Self::Dhcp6 => "dhcp6",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Http => "http",
            Self::Tunnel => "tunnel",
            Self::Stream => "stream",
            Self::RouterAdvertisement => "router-advertisement",
        }
    }

    /// The kind with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        if (number as usize) < Self::COUNT {
            Some(Self::ALL[number as usize])
        } else {
            None
        }
    }

    /// Whether it is a message of a service, behind which no name of a flow is looked for.
    #[inline(always)]
    pub const fn is_of_service(self) -> bool {
        matches!(self, Self::Dns | Self::Mdns | Self::Dhcp4 | Self::Dhcp6)
    }

    /// How full the ring may be, in quarters, for a payload of this kind to be put into it: under
    /// pressure HTTP goes first, TLS and QUIC next, DNS and DHCP when there is no room at all.
    #[inline(always)]
    pub const fn quarters(self) -> u64 {
        match self {
            Self::Http => 2,
            Self::Tls | Self::Quic | Self::Tunnel | Self::Stream => 3,
            Self::Judged
            | Self::Dns
            | Self::Mdns
            | Self::Dhcp4
            | Self::Dhcp6
            | Self::RouterAdvertisement => 4,
        }
    }
}

/// How many of a payload's first bytes [`classify`] looks at.
pub const LOOKED_AT: usize = 24;

/// Tells the kind of a payload of `len` bytes, by its first bytes (the rest zero where it is shorter). `None`:
/// no reader wants it.
///
/// Generous: user space finds out, and counts, what is no TLS, QUIC or tunnel after all.
#[inline(always)]
pub const fn classify(key: &FlowKey, first: &[u8; LOOKED_AT], len: usize) -> Option<Kind> {
    match key.protocol() {
        protocol::TCP => Some(stream(key, first, len)),
        protocol::UDP => datagram(key, first, len),
        _ => None,
    }
}

/// A service that has a port of its own, and whose messages are looked for there as long as a flow
/// lives.
///
/// The device's own port counts only towards neighbours, to whom it may be the server: anywhere else
/// it is a number that a program chose, perhaps not to be read. Multicast DNS and DHCP are of the
/// link (RFC 6762, section 11; RFC 2131, section 4.1), so that their ports count only there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Dns,
    Mdns,
    Dhcp4,
    Dhcp6,
}

impl Service {
    #[inline(always)]
    pub(crate) const fn of(key: &FlowKey) -> Option<Self> {
        const DNS: u16 = 53;
        const DHCP4_SERVER: u16 = 67;
        const DHCP4_CLIENT: u16 = 68;
        const DHCP6_CLIENT: u16 = 546;
        const DHCP6_SERVER: u16 = 547;

        let is_udp = match key.protocol() {
            protocol::UDP => true,
            protocol::TCP => false,
            _ => return None,
        };
        let remote = key.remote_port();
        let is_near = key.remote().is_near(key.family());
        let local = if is_near { key.local_port() } else { remote };
        if local == DNS || remote == DNS {
            return Some(Self::Dns);
        }
        if !is_udp || !is_near {
            return None;
        }
        if local == MDNS || remote == MDNS {
            return Some(Self::Mdns);
        }
        if local == DHCP4_CLIENT
            || local == DHCP4_SERVER
            || remote == DHCP4_CLIENT
            || remote == DHCP4_SERVER
        {
            return Some(Self::Dhcp4);
        }
        if local == DHCP6_CLIENT
            || local == DHCP6_SERVER
            || remote == DHCP6_CLIENT
            || remote == DHCP6_SERVER
        {
            return Some(Self::Dhcp6);
        }
        None
    }
}

/// Where multicast DNS speaks (RFC 6762, section 3).
const MDNS: u16 = 5353;

/// Whether a flow has the port of a service, so that its payloads are looked at with or without a
/// record of it.
#[inline(always)]
pub const fn is_service(key: &FlowKey) -> bool {
    Service::of(key).is_some()
}

#[inline(always)]
const fn stream(key: &FlowKey, first: &[u8; LOOKED_AT], len: usize) -> Kind {
    const HANDSHAKE: u8 = 0x16;
    const MAJOR_VERSION: u8 = 3;

    if matches!(Service::of(key), Some(Service::Dns)) && may_be_framed_dns(first, len) {
        return Kind::Dns;
    }
    if first[0] == HANDSHAKE && first[1] == MAJOR_VERSION {
        return Kind::Tls;
    }
    // OpenVPN's hard reset by a client, behind the length that TCP needs.
    if first[0] == 0 && is_openvpn_reset(first[2]) {
        return Kind::Tunnel;
    }
    if is_method(first) && !is_prefix(first, b"PRI * HTTP/2.0") && !is_prefix(first, b"PROXY ") {
        return Kind::Http;
    }
    Kind::Stream
}

/// Whether a payload begins with these bytes. HTTP/2 (RFC 9113, section 3.4) and the header of the PROXY
/// protocol look like requests of HTTP/1, and name no host where those do.
#[inline(always)]
const fn is_prefix<const N: usize>(first: &[u8; LOOKED_AT], prefix: &[u8; N]) -> bool {
    let mut different = 0;
    let mut at = 0;
    while at < N {
        different |= first[at] ^ prefix[at];
        at += 1;
    }
    different == 0
}

/// A method is a token (RFC 9110, section 9.1), and a space follows it; those in use are three to
/// eleven letters.
#[inline(always)]
const fn is_method(first: &[u8; LOOKED_AT]) -> bool {
    let mut letters = 0;
    while letters < 12 {
        if !first[letters].is_ascii_alphabetic() {
            return letters >= 3 && first[letters] == b' ';
        }
        letters += 1;
    }
    false
}

#[inline(always)]
const fn is_openvpn_reset(octet: u8) -> bool {
    // P_CONTROL_HARD_RESET_CLIENT_V1, _V2, _V3 and the server's, key 0.
    matches!(octet, 0x08 | 0x10 | 0x38 | 0x40 | 0x50)
}

#[inline(always)]
const fn datagram(key: &FlowKey, first: &[u8; LOOKED_AT], len: usize) -> Option<Kind> {
    // At the port of HTTP/3 every datagram that has the fixed bit (RFC 9000, section 17), because unknown
    // versions, and connections that came from another address, are to be seen and counted.
    const HTTP3: u16 = 443;
    const FIXED: u8 = 0x40;
    // Before DHCP, some of whose types and transactions are identifiers of questions too.
    let service = Service::of(key);
    if matches!(service, Some(Service::Mdns)) && is_multicast_dns(key, first, len) {
        return Some(Kind::Mdns);
    }
    if (dns::is_question(first, len) || dns::is_answer(first, len)) && !is_of_the_link(key) {
        return Some(Kind::Dns);
    }
    match service {
        Some(Service::Dns) if dns::is_message(first, len) => return Some(Kind::Dns),
        Some(Service::Dhcp4) if is_dhcp4(first, len) => return Some(Kind::Dhcp4),
        Some(Service::Dhcp6) if is_dhcp6(first, len) => return Some(Kind::Dhcp6),
        _ => {}
    }
    if is_quic(first) || (key.remote_port() == HTTP3 && first[0] & FIXED != 0) {
        return Some(Kind::Quic);
    }
    // WireGuard, section 5.4: type 1 of 148 bytes, type 2 of 92, three bytes reserved.
    let reserved = first[1] | first[2] | first[3];
    if reserved == 0 && ((first[0] == 1 && len == 148) || (first[0] == 2 && len == 92)) {
        return Some(Kind::Tunnel);
    }
    if is_openvpn_reset(first[0]) && len >= 14 {
        return Some(Kind::Tunnel);
    }
    // RFC 7296, section 3.1: version 1 or 2 behind the two SPIs, an exchange type of its own;
    // behind four zero bytes where NAT was found (RFC 3948, section 2.2).
    if is_ike(first[17], first[18]) && len >= 28 {
        return Some(Kind::Tunnel);
    }
    if first[0] | reserved == 0 && is_ike(first[21], first[22]) && len >= 32 {
        return Some(Kind::Tunnel);
    }
    None
}

/// Whether a message that looks like DNS asks for names of the link alone: link-local multicast name resolution
/// (RFC 4795), NetBIOS (RFC 1002), and every message to a group.
#[inline(always)]
const fn is_of_the_link(key: &FlowKey) -> bool {
    const LLMNR: u16 = 5355;
    const NETBIOS: u16 = 137;
    let (local, remote) = (key.local_port(), key.remote_port());
    let is_theirs = remote == LLMNR || remote == NETBIOS || local == LLMNR || local == NETBIOS;
    is_group(key.remote(), key.family()) || (is_theirs && key.remote().is_near(key.family()))
}

#[inline(always)]
const fn is_group(address: Address, family: Family) -> bool {
    let [first, ..] = address.octets();
    match family {
        Family::V4 => first >= 224,
        Family::V6 => first == 0xff,
        Family::Other => true,
    }
}

/// Whether a message at the port of multicast DNS is multicast DNS. A neighbour may serve unicast DNS there
/// too: a question from another port, with recursion desired, is unicast (RFC 6762, section 18.6), and so is an
/// answer that repeats its question (section 6).
#[inline(always)]
const fn is_multicast_dns(key: &FlowKey, first: &[u8; LOOKED_AT], len: usize) -> bool {
    const RECURSION: u8 = 1;
    if !dns::is_message_of_any(first, len) {
        return false;
    }
    let asks = dns::is_question(first, len) && first[2] & RECURSION != 0;
    let is_unicast = key.local_port() != MDNS && !is_group(key.remote(), key.family());
    !(is_unicast && (asks || dns::is_answer(first, len)))
}

/// BOOTP (RFC 951; RFC 2131, section 2): a request or a reply, the kind and the length of a hardware
/// address, and room for all fixed fields and the four bytes before the options. Of the flags one has
/// a meaning.
#[inline(always)]
const fn is_dhcp4(first: &[u8; LOOKED_AT], len: usize) -> bool {
    const SHORTEST: usize = 240;
    const LONGEST_ADDRESS: u8 = 16;
    const MOST_HOPS: u8 = 16;
    let [operation, hardware, address, hops, ..] = *first;
    len >= SHORTEST
        && (operation == 1 || operation == 2)
        && hardware != 0
        && address <= LONGEST_ADDRESS
        && hops <= MOST_HOPS
        && first[10] & 0x7f == 0
        && first[11] == 0
}

/// DHCP for IPv6 (RFC 8415, section 8): a type, the transaction, and options that begin with a known
/// number and end in the message; relayed (section 9): the number of relays before, and addresses.
#[inline(always)]
const fn is_dhcp6(first: &[u8; LOOKED_AT], len: usize) -> bool {
    const LAST_TYPE: u8 = 36;
    const RELAYED: (u8, u8) = (12, 13);
    const RELAY_HEADER: usize = 34;
    const MOST_RELAYS: u8 = 32;
    const HEADER: usize = 4;
    const OPTION: usize = 4;
    const LAST_OPTION: u16 = 255;
    let kind = first[0];
    if kind == RELAYED.0 || kind == RELAYED.1 {
        return first[1] <= MOST_RELAYS && len >= RELAY_HEADER;
    }
    let option = u16::from_be_bytes([first[4], first[5]]);
    let option_len = u16::from_be_bytes([first[6], first[7]]) as usize;
    kind != 0
        && kind <= LAST_TYPE
        && len >= HEADER + OPTION
        && option != 0
        && option <= LAST_OPTION
        && HEADER + OPTION + option_len <= len
}

#[inline(always)]
const fn is_ike(version: u8, exchange: u8) -> bool {
    (version == 0x20 && exchange >= 34 && exchange <= 37)
        || (version == 0x10 && (exchange == 2 || exchange == 4))
}

/// RFC 8999, section 5.1: a long header and a version; or gQUIC's public header with a version.
#[inline(always)]
const fn is_quic(first: &[u8; LOOKED_AT]) -> bool {
    const LONG: u8 = 0x80;
    const V1: u32 = 1;
    const V2: u32 = 0x6b33_43cf;
    const NEGOTIATION: u32 = 0;

    if first[0] & LONG != 0 {
        let version = u32::from_be_bytes([first[1], first[2], first[3], first[4]]);
        return version == V1
            || version == V2
            || version == NEGOTIATION
            // Drafts, Facebook's, and Google's numbers in letters.
            || version >> 8 == 0x00ff_0000
            || version >> 4 == 0x0fac_eb00
            || ((first[1] == b'Q' || first[1] == b'T') && first[2] == b'0');
    }
    // The version flag; behind a connection identifier of eight bytes or of none.
    first[0] & 1 != 0
        && ((first[9] == b'Q' && first[10] == b'0') || (first[1] == b'Q' && first[2] == b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::Direction,
        parse::{Mac, Parsed, parse},
    };

    /// A frame of Ethernet, IPv4 and the ports, enough to make a key of.
    fn key(protocol: u8, local: u16, remote: u16) -> FlowKey {
        key_to([0; 4], protocol, local, remote)
    }

    fn key_to(address: [u8; 4], protocol: u8, local: u16, remote: u16) -> FlowKey {
        let mut frame = [0; 54];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&40_u16.to_be_bytes());
        frame[23] = protocol;
        frame[30..34].copy_from_slice(&address);
        frame[34..36].copy_from_slice(&local.to_be_bytes());
        frame[36..38].copy_from_slice(&remote.to_be_bytes());
        let parsed: Parsed = parse(&frame[..]).expect("a whole frame");
        assert_eq!(parsed.source_mac, Mac::default());
        FlowKey::new(&parsed, Direction::Upload, 1)
    }

    #[test]
    fn payloads_are_told_by_ports_and_octets() {
        let check = |protocol, ports: (u16, u16), octets: &[u8], len, expected| {
            let mut first = [0; LOOKED_AT];
            first[..octets.len()].copy_from_slice(octets);
            let key = key(protocol, ports.0, ports.1);
            assert_eq!(classify(&key, &first, len), expected, "{octets:02x?}");
        };
        use protocol::{TCP, UDP};
        check(TCP, (68, 67), b"x", 1, Some(Kind::Stream));
        check(TCP, (1, 8443), b"\x16\x03\x01", 517, Some(Kind::Tls));
        check(TCP, (1, 443), b"GET /", 80, Some(Kind::Http));
        check(TCP, (1, 443), b"SSH-2.0", 20, Some(Kind::Stream));
        check(UDP, (1, 4433), b"\xc3\0\0\0\x01", 1200, Some(Kind::Quic));
        check(
            UDP,
            (1, 443),
            b"\xd3\x6b\x33\x43\xcf",
            1200,
            Some(Kind::Quic),
        );
        check(UDP, (1, 443), b"\xc3\xff\0\0\x1d", 1200, Some(Kind::Quic));
        check(UDP, (1, 443), b"\x0d12345678Q039", 1350, Some(Kind::Quic));
        check(UDP, (1, 443), b"\x43\0\0\0\x01", 40, Some(Kind::Quic));
        check(UDP, (1, 4433), b"\x43\0\0\0\x01", 40, None);
        check(UDP, (1, 443), b"\x16\xfe\xfd\0", 40, None);
        check(UDP, (1, 51_820), b"\x01\0\0\0", 148, Some(Kind::Tunnel));
        check(UDP, (1, 51_820), b"\x01\0\0\0", 149, None);
        check(UDP, (1, 1194), b"\x38", 42, Some(Kind::Tunnel));
        check(UDP, (1, 123), b"\x23", 48, None);
    }

    #[test]
    fn the_own_port_makes_no_service_far_away() {
        use protocol::{TCP, UDP};
        let first = |octets: &[u8]| {
            let mut first = [0; LOOKED_AT];
            first[..octets.len()].copy_from_slice(octets);
            first
        };
        let (hello, initial) = (first(b"\x16\x03\x01"), first(b"\xc3\0\0\0\x01"));
        for (address, near) in [
            ([192, 168, 1, 9], true),
            ([172, 31, 0, 1], true),
            ([100, 127, 0, 1], true),
            ([224, 0, 0, 251], true),
            ([172, 32, 0, 1], false),
            ([100, 128, 0, 1], false),
            ([203, 0, 113, 5], false),
        ] {
            let to = |protocol, local, remote| key_to(address, protocol, local, remote);
            assert_eq!(is_service(&to(UDP, 5353, 443)), near, "{address:?}");
            assert_eq!(is_service(&to(TCP, 53, 443)), near, "{address:?}");
            assert!(is_service(&to(UDP, 40_000, 53)));
            for ports in [(5353, 443), (40_000, 443)] {
                let kind = classify(&to(UDP, ports.0, ports.1), &initial, 1_200);
                assert_eq!(kind, Some(Kind::Quic), "{address:?}");
            }
            let kind = classify(&to(TCP, 53, 443), &hello, 517);
            assert_eq!(kind, Some(Kind::Tls), "{address:?}");
        }
    }

    /// A query with recursion for one name, and what may follow it.
    const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0";
    /// As it lies in a stream.
    const FRAMED: &[u8] = b"\0\x19\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0";
    const ANSWER: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x01a\x04test\0\0";
    const WIREGUARD: &[u8] = b"\x01\0\0\0\xdd\xf1\xc5\x81|\x01E\xf4+\x92\x11\x88w\xac{\xb3`";
    const TRANSPORT: &[u8] = b"\x04\0\0\0\xdd\xf1\xc5\x81\x07\0\0\0\0\0\0\0w\xac{\xb3`";

    const NEAR: [u8; 4] = [192, 168, 7, 1];
    const FAR: [u8; 4] = [198, 51, 100, 7];
    const GROUP: [u8; 4] = [224, 0, 0, 251];

    #[track_caller]
    fn check_to(
        (address, protocol, local, remote): ([u8; 4], u8, u16, u16),
        octets: &[u8],
        len: usize,
        expected: Option<Kind>,
    ) {
        let mut first = [0; LOOKED_AT];
        let there = octets.len().min(LOOKED_AT);
        first[..there].copy_from_slice(&octets[..there]);
        let key = key_to(address, protocol, local, remote);
        assert_eq!(classify(&key, &first, len), expected, "{octets:02x?}");
    }

    /// A payload that is not of the service whose port it has is classified by its bytes.
    #[test]
    fn bytes_count_before_ports() {
        use protocol::{TCP, UDP};
        for address in [NEAR, FAR] {
            for port in [53, 67, 547, 5353] {
                let to = (address, UDP, 40_000, port);
                check_to(to, WIREGUARD, 148, Some(Kind::Tunnel));
                check_to(to, TRANSPORT, 96, None);
                check_to(to, b"\xc3\0\0\0\x01\x08abcdefgh\0", 1_200, Some(Kind::Quic));
                check_to(to, b"\x38abcdefgh\0\0\0\0\0", 14, Some(Kind::Tunnel));
                check_to(to, QUESTION, 24, Some(Kind::Dns));
                check_to(to, ANSWER, 60, Some(Kind::Dns));
            }
            let stream = (address, TCP, 40_000, 53);
            check_to(
                stream,
                b"\x16\x03\x01\0\x98\x01\0\0\x94\x03\x03\0\x01\x02",
                157,
                Some(Kind::Tls),
            );
            check_to(stream, b"GET / HTTP/1.1\r\n", 60, Some(Kind::Http));
            check_to(stream, b"SSH-2.0-OpenSSH_10\r\n", 20, Some(Kind::Stream));
            check_to(stream, FRAMED, 27, Some(Kind::Dns));
            for len in 1..FRAMED.len() {
                check_to(stream, &FRAMED[..len], len, Some(Kind::Dns));
            }
        }
        check_to((FAR, TCP, 40_000, 8_053), FRAMED, 27, Some(Kind::Stream));
    }

    #[test]
    fn questions_and_answers_are_known_at_any_port() {
        use protocol::UDP;
        for port in [53, 443, 853, 5_300, 5_353, 33_333, 40_000] {
            let to = (FAR, UDP, 41_000, port);
            check_to(to, QUESTION, 24, Some(Kind::Dns));
            check_to(to, ANSWER, 60, Some(Kind::Dns));
        }
        let to = (FAR, UDP, 41_000, 5_300);
        for (place, octet) in [
            // Another operation, a set bit, other counts, no label.
            (2, 0x29),
            (2, 0x05),
            (2, 0x03),
            (3, 0x80),
            (3, 0x40),
            (3, 0x02),
            (5, 0),
            (5, 2),
            (4, 1),
            (7, 1),
            (9, 1),
            (11, 2),
            (12, 0x40),
            (12, 0xc0),
        ] {
            let mut other = QUESTION.to_vec();
            other[place] = octet;
            check_to(to, &other, 24, None);
        }
        check_to(to, QUESTION, 16, None);
        for (port, address) in [(137, NEAR), (5_355, NEAR), (5_355, [224, 0, 0, 252])] {
            check_to((address, UDP, port, port), QUESTION, 50, None);
        }
        check_to((FAR, UDP, 41_000, 137), QUESTION, 50, Some(Kind::Dns));
    }

    #[test]
    fn multicast_dns_is_of_the_link() {
        use protocol::UDP;
        let ask = b"\0\0\0\0\0\x01\0\0\0\0\0\0\x01a\x05local\0\0";
        let tell = b"\0\0\x84\0\0\0\0\x01\0\0\0\0\x01a\x05local\0\0";
        let mdns = Some(Kind::Mdns);
        for (to, octets, expected) in [
            ((GROUP, UDP, 5_353, 5_353), &ask[..], mdns),
            ((GROUP, UDP, 5_353, 5_353), tell, mdns),
            // By programs that have no port of their own for it, with and without recursion.
            ((GROUP, UDP, 40_000, 5_353), ask, mdns),
            ((GROUP, UDP, 40_000, 5_353), QUESTION, mdns),
            ((NEAR, UDP, 40_000, 5_353), ask, mdns),
            ((NEAR, UDP, 5_353, 5_353), QUESTION, mdns),
            ((NEAR, UDP, 5_353, 40_000), tell, mdns),
            ((NEAR, UDP, 5_353, 40_000), ANSWER, mdns),
            // A resolver in the house.
            ((NEAR, UDP, 40_000, 5_353), QUESTION, Some(Kind::Dns)),
            ((NEAR, UDP, 40_000, 5_353), ANSWER, Some(Kind::Dns)),
            // And one elsewhere.
            ((FAR, UDP, 5_353, 5_353), QUESTION, Some(Kind::Dns)),
            ((FAR, UDP, 5_353, 5_353), tell, None),
        ] {
            check_to(to, octets, 47, expected);
        }
    }

    #[test]
    fn dhcp_is_known_by_its_bytes() {
        use protocol::UDP;
        let to = (NEAR, UDP, 68, 67);
        let discover = b"\x01\x01\x06\0\x01\x02\x03\x04\0\0\x80\0";
        check_to(to, discover, 300, Some(Kind::Dhcp4));
        check_to(to, discover, 239, None);
        check_to(to, b"\x03\x01\x06\0\x01\x02\x03\x04\0\0\x80\0", 300, None);
        check_to((FAR, UDP, 68, 67), discover, 300, None);
        let solicit = b"\x01\x10\x08\x74\0\x01\0\x0e";
        let relayed = b"\x0c\0\x20\x01\x0d\xb8";
        let to = (NEAR, UDP, 546, 547);
        check_to(to, solicit, 100, Some(Kind::Dhcp6));
        check_to(to, relayed, 100, Some(Kind::Dhcp6));
        check_to(to, solicit, 20, None);
        check_to(to, WIREGUARD, 148, Some(Kind::Tunnel));
    }

    #[test]
    fn what_looks_like_a_request_and_names_no_host_is_a_stream() {
        use protocol::TCP;
        let to = (FAR, TCP, 40_000, 80);
        check_to(
            to,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            60,
            Some(Kind::Stream),
        );
        check_to(to, b"PROXY TCP4 192.0.2.1 198", 90, Some(Kind::Stream));
        check_to(to, b"PROPFIND / HTTP/1.1\r\n", 90, Some(Kind::Http));
    }
}
