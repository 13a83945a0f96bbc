//! The frame table: the content of a frame, and the result that the sensor must reach. Ring 1 runs it through
//! the library, ring 2 through the kernel programs.

pub(crate) mod build;
pub(crate) mod mutate;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use build::{
    ACK, FIN, PHONE, PHONE_PORT, PHONE_V4, PHONE_V6, RST, SERVER_PORT, SERVER_V4, SERVER_V6, SYN,
    ethernet, ethernet_between,
};
use sensor_ebpf::{
    parse::{Address, Family, Fragment, Parsed},
    skip::Skip,
};

/// The expected result for a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// A packet between two ends; ports 0 where there are none.
    Ip {
        protocol: u8,
        from: SocketAddr,
        to: SocketAddr,
        tcp_flags: u8,
        fragment: Fragment,
    },
    /// Not IP.
    Link { ethertype: u16 },
    /// Not accounted to a device.
    Skipped(Skip),
}

impl Expect {
    /// The parser's result, in the words of the table.
    #[allow(dead_code, reason = "not every test that takes the table reads frames")]
    pub(crate) fn of(parsed: Result<Parsed, Skip>) -> Self {
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(reason) => return Self::Skipped(reason),
        };
        let address = |address: Address| {
            let octets = address.octets();
            match parsed.family {
                Family::V6 => IpAddr::V6(Ipv6Addr::from(octets)),
                _ => IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])),
            }
        };
        match parsed.family {
            Family::Other => Self::Link {
                ethertype: parsed.ethertype,
            },
            Family::V4 | Family::V6 => Self::Ip {
                protocol: parsed.protocol,
                from: SocketAddr::new(address(parsed.source), parsed.ports.first()),
                to: SocketAddr::new(address(parsed.destination), parsed.ports.second()),
                tcp_flags: parsed.tcp_flags,
                fragment: parsed.fragment(),
            },
        }
    }

    fn fragment(self, fragment: Fragment) -> Self {
        match self {
            Self::Ip {
                protocol,
                from,
                to,
                tcp_flags,
                ..
            } => Self::Ip {
                protocol,
                from,
                to,
                tcp_flags,
                fragment,
            },
            other => other,
        }
    }
}

fn between(v6: bool, protocol: u8, tcp_flags: u8, ports: bool) -> Expect {
    let (from, to) = match v6 {
        false => (IpAddr::V4(PHONE_V4), IpAddr::V4(SERVER_V4)),
        true => (IpAddr::V6(PHONE_V6), IpAddr::V6(SERVER_V6)),
    };
    let (first, second) = match ports {
        true => (PHONE_PORT, SERVER_PORT),
        false => (0, 0),
    };
    Expect::Ip {
        protocol,
        from: SocketAddr::new(from, first),
        to: SocketAddr::new(to, second),
        tcp_flags,
        fragment: Fragment::Whole,
    }
}

fn tcp4(flags: u8) -> Expect {
    between(false, 6, flags, true)
}

fn tcp6(flags: u8) -> Expect {
    between(true, 6, flags, true)
}

fn udp4() -> Expect {
    between(false, 17, 0, true)
}

fn udp6() -> Expect {
    between(true, 17, 0, true)
}

fn portless4(protocol: u8) -> Expect {
    between(false, protocol, 0, false)
}

fn portless6(protocol: u8) -> Expect {
    between(true, protocol, 0, false)
}

fn link(ethertype: u16) -> Expect {
    Expect::Link { ethertype }
}

/// Every frame with what is expected of it. The names are unique.
pub(crate) fn table() -> Vec<(&'static str, Vec<u8>, Expect)> {
    use Expect::Skipped;
    use Fragment::{First, Later};

    const MULTICAST_V4: [u8; 6] = [0x01, 0x00, 0x5e, 0, 0, 0xfb];
    const BROADCAST: [u8; 6] = [0xff; 6];

    let tcp = || ethernet().ipv4().tcp(ACK);
    vec![
        // IPv4.
        ("tcp", tcp().build(), tcp4(ACK)),
        (
            "tcp syn with options",
            ethernet().ipv4().tcp_at(SYN, 7, 0, 20).build(),
            tcp4(SYN),
        ),
        (
            "tcp fin",
            ethernet().ipv4().tcp(FIN | ACK).payload(33).build(),
            tcp4(FIN | ACK),
        ),
        ("tcp rst", ethernet().ipv4().tcp(RST).build(), tcp4(RST)),
        (
            "tcp every flag",
            ethernet().ipv4().tcp(0xff).build(),
            tcp4(0xff),
        ),
        (
            "tcp padded to 60",
            tcp().payload(0).build().into_iter().chain([0; 6]).collect(),
            tcp4(ACK),
        ),
        ("tcp 1500", tcp().payload(1460).build(), tcp4(ACK)),
        ("udp", ethernet().ipv4().udp().payload(12).build(), udp4()),
        ("udp empty", ethernet().ipv4().udp().build(), udp4()),
        (
            "icmp echo",
            ethernet().ipv4().other(1, 8).build(),
            portless4(1),
        ),
        ("igmp", ethernet().ipv4().other(2, 8).build(), portless4(2)),
        (
            "esp",
            ethernet().ipv4().other(50, 40).build(),
            portless4(50),
        ),
        (
            "ah over ipv4",
            ethernet().ipv4().other(51, 24).build(),
            portless4(51),
        ),
        (
            "gre",
            ethernet().ipv4().other(47, 20).build(),
            portless4(47),
        ),
        (
            "sctp has no ports here",
            ethernet().ipv4().other(132, 20).build(),
            portless4(132),
        ),
        (
            "protocol 255 without payload",
            ethernet().ipv4().other(255, 0).build(),
            portless4(255),
        ),
        (
            "options 4",
            ethernet().ipv4_options(4).tcp(ACK).build(),
            tcp4(ACK),
        ),
        (
            "options 40",
            ethernet().ipv4_options(40).udp().payload(5).build(),
            udp4(),
        ),
        (
            "total length 0 of a super-packet",
            tcp().payload(64).patch(16, &[0, 0]).build(),
            tcp4(ACK),
        ),
        (
            "total length more than the frame",
            tcp().patch(16, &[0xff, 0xff]).build(),
            tcp4(ACK),
        ),
        (
            "don't fragment",
            tcp().patch(20, &[0x40, 0]).build(),
            tcp4(ACK),
        ),
        (
            "reserved flag",
            tcp().patch(20, &[0x80, 0]).build(),
            tcp4(ACK),
        ),
        // IPv4 in pieces.
        (
            "first piece of udp",
            ethernet().ipv4_piece(77, 0, true).udp().payload(24).build(),
            udp4().fragment(First(77)),
        ),
        (
            "middle piece of udp",
            ethernet()
                .ipv4_piece(77, 32, true)
                .of(17)
                .payload(32)
                .build(),
            portless4(17).fragment(Later(77)),
        ),
        (
            "last piece of udp",
            ethernet()
                .ipv4_piece(77, 64, false)
                .of(17)
                .payload(3)
                .build(),
            portless4(17).fragment(Later(77)),
        ),
        (
            "later piece whose first was not seen",
            ethernet()
                .ipv4_piece(78, 1480, false)
                .of(6)
                .payload(3)
                .build(),
            portless4(6).fragment(Later(78)),
        ),
        (
            "first piece of tcp",
            ethernet()
                .ipv4_piece(79, 0, true)
                .tcp(SYN)
                .payload(4)
                .build(),
            tcp4(SYN).fragment(First(79)),
        ),
        (
            "first piece too small for tcp",
            ethernet().ipv4_piece(80, 0, true).of(6).payload(8).build(),
            portless4(6).fragment(Later(80)),
        ),
        (
            "first piece of icmp",
            ethernet().ipv4_piece(81, 0, true).other(1, 16).build(),
            portless4(1).fragment(First(81)),
        ),
        // IPv6.
        (
            "tcp over ipv6",
            ethernet().ipv6().tcp(SYN | ACK).build(),
            tcp6(SYN | ACK),
        ),
        (
            "udp over ipv6",
            ethernet().ipv6().udp().payload(9).build(),
            udp6(),
        ),
        (
            "icmpv6",
            ethernet().ipv6().other(58, 8).build(),
            portless6(58),
        ),
        (
            "no next header",
            ethernet().ipv6().other(59, 0).build(),
            portless6(59),
        ),
        (
            "esp over ipv6",
            ethernet().ipv6().other(50, 40).build(),
            portless6(50),
        ),
        (
            "payload length 0 of a super-packet",
            ethernet().ipv6().tcp(ACK).patch(18, &[0, 0]).build(),
            tcp6(ACK),
        ),
        (
            "hop-by-hop",
            ethernet().ipv6().extension(0, 8).udp().build(),
            udp6(),
        ),
        (
            "routing",
            ethernet().ipv6().extension(43, 24).tcp(ACK).build(),
            tcp6(ACK),
        ),
        (
            "destination options",
            ethernet().ipv6().extension(60, 16).tcp(ACK).build(),
            tcp6(ACK),
        ),
        (
            "authentication header",
            ethernet().ipv6().extension(51, 24).udp().build(),
            udp6(),
        ),
        (
            "mobility before udp",
            ethernet().ipv6().extension(135, 16).udp().build(),
            udp6(),
        ),
        (
            "host identity",
            ethernet().ipv6().extension(139, 40).udp().build(),
            udp6(),
        ),
        (
            "shim6",
            ethernet().ipv6().extension(140, 8).udp().build(),
            udp6(),
        ),
        (
            "longest extension header",
            ethernet().ipv6().extension(60, 2048).tcp(ACK).build(),
            tcp6(ACK),
        ),
        (
            "the order of RFC 8200",
            ethernet()
                .ipv6()
                .extension(0, 8)
                .extension(60, 8)
                .extension(43, 8)
                .ipv6_piece(5, 0, false)
                .extension(51, 16)
                .extension(60, 8)
                .tcp(ACK)
                .build(),
            tcp6(ACK),
        ),
        (
            "eight extension headers",
            (0..8)
                .fold(ethernet().ipv6(), |frame, _| frame.extension(60, 8))
                .udp()
                .build(),
            udp6(),
        ),
        (
            "nine extension headers",
            (0..9)
                .fold(ethernet().ipv6(), |frame, _| frame.extension(60, 8))
                .udp()
                .build(),
            Skipped(Skip::Ipv6ExtensionsTooMany),
        ),
        (
            "atomic fragment",
            ethernet()
                .ipv6()
                .ipv6_piece(9, 0, false)
                .udp()
                .payload(4)
                .build(),
            udp6(),
        ),
        (
            "first piece over ipv6",
            ethernet()
                .ipv6()
                .ipv6_piece(0x1234_5678, 0, true)
                .udp()
                .payload(16)
                .build(),
            udp6().fragment(First(0x1234_5678)),
        ),
        (
            "later piece over ipv6",
            ethernet()
                .ipv6()
                .ipv6_piece(0x1234_5678, 24, false)
                .of(17)
                .payload(16)
                .build(),
            portless6(17).fragment(Later(0x1234_5678)),
        ),
        (
            "later piece of an extension header",
            ethernet()
                .ipv6()
                .ipv6_piece(6, 24, false)
                .of(60)
                .payload(16)
                .build(),
            portless6(60).fragment(Later(6)),
        ),
        (
            "first piece too small for udp over ipv6",
            ethernet().ipv6().ipv6_piece(7, 0, true).of(17).build(),
            portless6(17).fragment(Later(7)),
        ),
        // Tags and sessions.
        (
            "vlan",
            ethernet().vlan(7).ipv4().tcp(ACK).build(),
            tcp4(ACK),
        ),
        (
            "vlan priority tag",
            ethernet().vlan(0xe000).ipv6().udp().build(),
            udp6(),
        ),
        (
            "q-in-q",
            ethernet().qinq(100).vlan(7).ipv4().udp().build(),
            udp4(),
        ),
        (
            "old q-in-q",
            ethernet().qinq_old(100).vlan(7).ipv6().tcp(ACK).build(),
            tcp6(ACK),
        ),
        (
            "four tags",
            ethernet()
                .qinq(1)
                .qinq(2)
                .vlan(3)
                .vlan(4)
                .ipv4()
                .tcp(ACK)
                .build(),
            tcp4(ACK),
        ),
        (
            "five tags",
            ethernet()
                .qinq(1)
                .qinq(2)
                .vlan(3)
                .vlan(4)
                .vlan(5)
                .ipv4()
                .tcp(ACK)
                .build(),
            Skipped(Skip::VlanTooDeep),
        ),
        (
            "pppoe",
            ethernet().pppoe().ipv4().tcp(ACK).build(),
            tcp4(ACK),
        ),
        (
            "pppoe ipv6",
            ethernet().pppoe().ipv6().udp().build(),
            udp6(),
        ),
        (
            "pppoe in four tags with options",
            ethernet()
                .qinq(1)
                .qinq(2)
                .vlan(3)
                .vlan(4)
                .pppoe()
                .ipv4_options(40)
                .udp()
                .build(),
            udp4(),
        ),
        (
            "pppoe in a tag with extension headers",
            ethernet()
                .vlan(7)
                .pppoe()
                .ipv6()
                .extension(0, 8)
                .extension(60, 64)
                .tcp(SYN)
                .build(),
            tcp6(SYN),
        ),
        (
            "ppp link control",
            ethernet().pppoe().other(0xc021, 10).build(),
            link(0x8864),
        ),
        (
            "tagged arp",
            ethernet().vlan(7).other(0x0806, 28).build(),
            link(0x0806),
        ),
        // Not IP.
        ("arp", ethernet().other(0x0806, 28).build(), link(0x0806)),
        (
            "arp request",
            ethernet_between(BROADCAST, PHONE).other(0x0806, 28).build(),
            link(0x0806),
        ),
        (
            "lldp",
            ethernet_between([0x01, 0x80, 0xc2, 0, 0, 0x0e], PHONE)
                .other(0x88cc, 30)
                .build(),
            link(0x88cc),
        ),
        ("eapol", ethernet().other(0x888e, 4).build(), link(0x888e)),
        (
            "pppoe discovery",
            ethernet_between(BROADCAST, PHONE).other(0x8863, 12).build(),
            link(0x8863),
        ),
        ("802.3 length", ethernet().other(38, 38).build(), link(38)),
        (
            "an ethernet header alone",
            ethernet().other(0x1234, 0).build(),
            link(0x1234),
        ),
        // Groups.
        (
            "mdns",
            ethernet_between(MULTICAST_V4, PHONE)
                .ipv4()
                .udp()
                .payload(40)
                .build(),
            udp4(),
        ),
        (
            "neighbour solicitation",
            ethernet_between([0x33, 0x33, 0xff, 0, 0, 1], PHONE)
                .ipv6()
                .other(58, 24)
                .build(),
            portless6(58),
        ),
        // Frames that cannot be read.
        (
            "no ethernet header",
            tcp().cut(13).build(),
            Skipped(Skip::EthernetTruncated),
        ),
        (
            "nothing",
            tcp().cut(0).build(),
            Skipped(Skip::EthernetTruncated),
        ),
        (
            "half a tag",
            ethernet().vlan(7).ipv4().cut(16).build(),
            Skipped(Skip::VlanTruncated),
        ),
        (
            "half a second tag",
            ethernet().qinq(1).vlan(7).ipv4().cut(21).build(),
            Skipped(Skip::VlanTruncated),
        ),
        (
            "half a pppoe header",
            ethernet().pppoe().ipv4().cut(21).build(),
            Skipped(Skip::PppoeTruncated),
        ),
        (
            "half an ipv4 header",
            tcp().cut(33).build(),
            Skipped(Skip::Ipv4Truncated),
        ),
        (
            "no ipv4 header",
            tcp().cut(14).build(),
            Skipped(Skip::Ipv4Truncated),
        ),
        (
            "half the options",
            ethernet().ipv4_options(40).udp().cut(73).build(),
            Skipped(Skip::Ipv4Truncated),
        ),
        (
            "ipv4 with version 6",
            tcp().patch(14, &[0x65]).build(),
            Skipped(Skip::Ipv4Malformed),
        ),
        (
            "ipv4 header of 16 octets",
            tcp().patch(14, &[0x44]).build(),
            Skipped(Skip::Ipv4Malformed),
        ),
        (
            "total length less than the header",
            tcp().patch(16, &[0, 19]).build(),
            Skipped(Skip::Ipv4Malformed),
        ),
        (
            "half an ipv6 header",
            ethernet().ipv6().tcp(ACK).cut(53).build(),
            Skipped(Skip::Ipv6Truncated),
        ),
        (
            "ipv6 with version 4",
            ethernet().ipv6().tcp(ACK).patch(14, &[0x40]).build(),
            Skipped(Skip::Ipv6Malformed),
        ),
        (
            "payload length less than the extension headers",
            ethernet()
                .ipv6()
                .extension(60, 16)
                .udp()
                .patch(18, &[0, 15])
                .build(),
            Skipped(Skip::Ipv6Malformed),
        ),
        (
            "half an extension header",
            ethernet().ipv6().extension(60, 8).udp().cut(61).build(),
            Skipped(Skip::Ipv6ExtensionTruncated),
        ),
        (
            "half a fragment header",
            ethernet()
                .ipv6()
                .ipv6_piece(1, 0, true)
                .udp()
                .cut(58)
                .build(),
            Skipped(Skip::Ipv6ExtensionTruncated),
        ),
        (
            "half a tcp header",
            tcp().cut(53).build(),
            Skipped(Skip::TransportTruncated),
        ),
        (
            "half a udp header",
            ethernet().ipv4().udp().cut(41).build(),
            Skipped(Skip::TransportTruncated),
        ),
        (
            "an extension header past the payload length",
            ethernet()
                .ipv6()
                .extension(60, 8)
                .tcp(ACK)
                .patch(55, &[0xff])
                .build(),
            Skipped(Skip::Ipv6Malformed),
        ),
        (
            "an extension header past the end",
            ethernet()
                .ipv6()
                .extension(60, 8)
                .tcp(ACK)
                .patch(55, &[0xff])
                .patch(18, &[0xff, 0xff])
                .build(),
            Skipped(Skip::TransportTruncated),
        ),
        (
            "half a tcp header over ipv6",
            ethernet().ipv6().tcp(ACK).cut(73).build(),
            Skipped(Skip::TransportTruncated),
        ),
    ]
}
