//! What the kernel puts into the ring, and how it chooses.
//!
//! A payload is copied when it can carry a name or an identity, and only then: the first ones of a
//! flow ([`Watch`]), and of those what [`classify`] takes for something that somebody reads. Both
//! are here, so that `replay` chooses on the host what the kernel would have chosen.

use crate::{
    flow::{Direction, FlowKey},
    parse::protocol,
    wire,
};

/// A policy matched a flow, `observe` included: sent where the decision by the flow's addresses is
/// another than before, and for each hello and each request whose name a rule is about. DNS
/// questions over UDP send none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Judged {
    /// The flow.
    pub key: FlowKey,
    /// Jiffies since boot.
    pub at: u64,
    /// The policy's identity.
    pub policy: u16,
    /// The [`Verdict`](crate::policy::Verdict)'s number.
    pub verdict: u8,
    /// By number of [`Direction`]: of the packet that led to it.
    pub direction: u8,
    /// Keeps the size a multiple of eight; 0.
    pub reserved: u32,
}

/// The head of a payload's copy; `captured` octets of it follow in the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// The flow.
    pub key: FlowKey,
    /// Jiffies since boot.
    pub at: u64,
    /// When the payload was copied, in nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub nanoseconds: u64,
    /// The slot of the flow's record; [`NO_SLOT`] where it has none.
    pub slot: u32,
    /// TCP: the sequence number of the payload's first octet.
    pub sequence: u32,
    /// TCP: the sequence number of the SYN before it; see [`Head::SYN_SEEN`].
    pub initial_sequence: u32,
    /// Octets of payload in the packet.
    pub payload: u32,
    /// Octets of payload that follow, at most [`MAX_PAYLOAD`].
    pub captured: u32,
    /// A [`Kind`]'s number.
    pub kind: u8,
    /// By number of [`Direction`].
    pub direction: u8,
    /// [`Head::SYN_SEEN`], [`Head::JUDGED`], [`Head::REFUSED`], [`Head::LAST`],
    /// [`Head::FRAGMENT`], [`Head::URGENT`].
    pub flags: u8,
    /// Which connection of the flow it is: the [`Judgement`](crate::flow::Judgement)'s epoch; 0 where the
    /// flow has no record.
    pub epoch: u8,
}

wire! {
    Judged { key: FlowKey, at: u64, policy: u16, verdict: u8, direction: u8, reserved: u32 }
    Head {
        key: FlowKey, at: u64, nanoseconds: u64, slot: u32, sequence: u32, initial_sequence: u32,
        payload: u32, captured: u32, kind: u8, direction: u8, flags: u8, epoch: u8,
    }
}

// User space tells the two apart by their sizes.
const _: () = assert!(size_of::<Judged>() < size_of::<Head>());

impl Head {
    /// In `flags`: the SYN of this direction was seen, `initial_sequence` counts.
    pub const SYN_SEEN: u8 = 1;
    /// In `flags`: the kernel has read what the payload says, and judged it.
    pub const JUDGED: u8 = 2;
    /// In `flags`: the packet was refused for what it says.
    pub const REFUSED: u8 = 4;
    /// In `flags`: no more payloads in this direction are wanted.
    pub const LAST: u8 = 8;
    /// In `flags`: the packet was a fragment without payload that could be read, and nothing of it is
    /// copied. Only of devices that rules by name apply to.
    pub const FRAGMENT: u8 = 16;
    /// In `flags`: the segment has an urgent pointer (RFC 9293, section 3.8.5). Most receivers leave
    /// one octet of it out of the stream, and hand it over apart.
    pub const URGENT: u8 = 32;
}

/// In [`Head::slot`]: the flow has no record.
pub const NO_SLOT: u32 = u32::MAX;

/// The most octets of a payload that are copied: a full Ethernet frame's, or the two segments of a
/// post-quantum ClientHello that were merged into one (about 1,800 octets).
pub const MAX_PAYLOAD: usize = 2048;

/// What a payload is taken for, by its first octets and its ports.
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
}

impl Kind {
    /// How many kinds there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All, at the place of their number.
    pub const ALL: [Self; 10] = [
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

    /// How full the ring may be, in quarters, for a payload of this kind to be put into it: under
    /// pressure HTTP goes first, TLS and QUIC next, DNS and DHCP when there is no room at all.
    #[inline(always)]
    pub const fn quarters(self) -> u64 {
        match self {
            Self::Http => 2,
            Self::Tls | Self::Quic | Self::Tunnel | Self::Stream => 3,
            Self::Judged | Self::Dns | Self::Mdns | Self::Dhcp4 | Self::Dhcp6 => 4,
        }
    }
}

/// How many of a flow's next payloads are still wanted in each direction: 0 to 14, or
/// [`ALWAYS`](Watch::ALWAYS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch(u8);

impl Watch {
    /// The most payloads of one direction that are counted.
    pub const MAX: u8 = 14;

    /// Every payload of a direction, as long as the flow lives: services, and requests of HTTP,
    /// each of which names a host.
    pub const ALWAYS: u8 = 15;

    /// Nothing more.
    pub const NONE: Self = Self(0);

    /// So many in each direction, at most [`ALWAYS`](Self::ALWAYS).
    #[inline(always)]
    pub const fn new(upload: u8, download: u8) -> Self {
        Self(upload & 0x0f | download << 4)
    }

    /// How many in a direction.
    #[inline(always)]
    pub const fn of(self, direction: Direction) -> u8 {
        match direction {
            Direction::Upload => self.0 & 0x0f,
            Direction::Download => self.0 >> 4,
        }
    }

    /// All that one direction can have, nothing of the other.
    #[inline(always)]
    pub const fn all_of(direction: Direction) -> Self {
        match direction {
            Direction::Upload => Self(0x0f),
            Direction::Download => Self(0xf0),
        }
    }

    /// What a flow starts with.
    ///
    /// Payloads of a TCP stream count whatever they carry. Datagrams get twice as many: a QUIC
    /// client that is asked for a token says its hello again.
    #[inline(always)]
    pub const fn of_new_flow(key: &FlowKey, payloads: u64) -> Self {
        if payloads == 0 {
            return Self::NONE;
        }
        if Service::of(key).is_some() {
            return Self::new(Self::ALWAYS, Self::ALWAYS);
        }
        let wanted = match key.protocol() {
            protocol::TCP => payloads,
            protocol::UDP => payloads * 2,
            _ => 0,
        };
        let wanted = if wanted > Self::MAX as u64 {
            Self::MAX
        } else {
            wanted as u8
        };
        Self::new(wanted, wanted)
    }

    /// Whether the next payload in this direction is wanted.
    #[inline(always)]
    pub const fn wants(self, direction: Direction) -> bool {
        self.0 & Self::all_of(direction).0 != 0
    }

    /// Whether one payload in this direction makes the number that is wanted less.
    #[inline(always)]
    pub const fn runs_out(self, direction: Direction) -> bool {
        self.of(direction) != Self::ALWAYS
    }

    /// What is wanted after one payload in this direction, of which some were.
    #[inline(always)]
    pub const fn after(self, direction: Direction) -> Self {
        if !self.runs_out(direction) {
            return self;
        }
        match direction {
            Direction::Upload => Self(self.0 - 0x01),
            Direction::Download => Self(self.0 - 0x10),
        }
    }

    /// What is wanted of a flow of which all is known that its first payloads tell: what is always
    /// wanted, and of TCP some more payloads, in which a second hello could be, or another one at the
    /// place of the first.
    #[inline(always)]
    pub const fn settled(self, key: &FlowKey) -> Self {
        const MORE: u8 = 3;

        let upload = match self.of(Direction::Upload) {
            Self::ALWAYS => Self::ALWAYS,
            _ if key.protocol() != protocol::TCP => 0,
            left if left > MORE => MORE,
            left => left,
        };
        let download = match self.of(Direction::Download) {
            Self::ALWAYS => Self::ALWAYS,
            _ => 0,
        };
        Self::new(upload, download)
    }

    /// The octet that is stored.
    #[inline(always)]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Reads the stored octet.
    #[inline(always)]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

/// A service that is known by its port, because its messages cannot be told by their octets.
///
/// The device's own port counts only towards neighbours, to whom it may be the server: anywhere else
/// it is a number that a program chose, perhaps not to be read.
struct Service;

impl Service {
    #[inline(always)]
    const fn of(key: &FlowKey) -> Option<Kind> {
        const DNS: u16 = 53;
        const MDNS: u16 = 5353;
        const DHCP4_SERVER: u16 = 67;
        const DHCP4_CLIENT: u16 = 68;
        const DHCP6_CLIENT: u16 = 546;
        const DHCP6_SERVER: u16 = 547;

        let remote = key.remote_port();
        let local = match key.remote().is_near(key.family()) {
            true => key.local_port(),
            false => remote,
        };
        if local == DNS || remote == DNS {
            return match key.protocol() {
                protocol::TCP | protocol::UDP => Some(Kind::Dns),
                _ => None,
            };
        }
        if key.protocol() != protocol::UDP {
            return None;
        }
        if local == MDNS || remote == MDNS {
            return Some(Kind::Mdns);
        }
        if local == DHCP4_CLIENT
            || local == DHCP4_SERVER
            || remote == DHCP4_CLIENT
            || remote == DHCP4_SERVER
        {
            return Some(Kind::Dhcp4);
        }
        if local == DHCP6_CLIENT
            || local == DHCP6_SERVER
            || remote == DHCP6_CLIENT
            || remote == DHCP6_SERVER
        {
            return Some(Kind::Dhcp6);
        }
        None
    }
}

/// Whether a flow's payloads are read for as long as it lives, with or without a record of it.
#[inline(always)]
pub const fn is_service(key: &FlowKey) -> bool {
    Service::of(key).is_some()
}

/// How many of a payload's first octets [`classify`] looks at.
pub const LOOKED_AT: usize = 24;

/// What a payload of `len` octets is taken for, by its first octets (the rest zero where it is
/// shorter). `None`: nobody reads it.
///
/// Generous: what is no TLS, QUIC or tunnel after all is found out in user space, and counted.
#[inline(always)]
pub const fn classify(key: &FlowKey, first: &[u8; LOOKED_AT], len: usize) -> Option<Kind> {
    if let Some(kind) = Service::of(key) {
        return Some(kind);
    }
    match key.protocol() {
        protocol::TCP => Some(stream(first)),
        protocol::UDP => datagram(key, first, len),
        _ => None,
    }
}

#[inline(always)]
const fn stream(first: &[u8; LOOKED_AT]) -> Kind {
    const HANDSHAKE: u8 = 0x16;
    const MAJOR_VERSION: u8 = 3;

    if first[0] == HANDSHAKE && first[1] == MAJOR_VERSION {
        return Kind::Tls;
    }
    // OpenVPN's hard reset by a client, behind the length that TCP needs.
    if first[0] == 0 && is_openvpn_reset(first[2]) {
        return Kind::Tunnel;
    }
    if is_method(first) {
        return Kind::Http;
    }
    Kind::Stream
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
    // At the port of HTTP/3 whatever has the fixed bit (RFC 9000, section 17): a version that nobody
    // knows, or a connection that came from another address, is to be seen and counted.
    const HTTP3: u16 = 443;
    const FIXED: u8 = 0x40;
    if is_quic(first) || (key.remote_port() == HTTP3 && first[0] & FIXED != 0) {
        return Some(Kind::Quic);
    }
    // WireGuard, section 5.4: type 1 of 148 octets, type 2 of 92, three octets reserved.
    let reserved = first[1] | first[2] | first[3];
    if reserved == 0 && ((first[0] == 1 && len == 148) || (first[0] == 2 && len == 92)) {
        return Some(Kind::Tunnel);
    }
    if is_openvpn_reset(first[0]) && len >= 14 {
        return Some(Kind::Tunnel);
    }
    // RFC 7296, section 3.1: version 1 or 2 behind the two SPIs, an exchange type of its own;
    // behind four zero octets where NAT was found (RFC 3948, section 2.2).
    if is_ike(first[17], first[18]) && len >= 28 {
        return Some(Kind::Tunnel);
    }
    if first[0] | reserved == 0 && is_ike(first[21], first[22]) && len >= 32 {
        return Some(Kind::Tunnel);
    }
    None
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
    // The version flag; behind a connection identifier of eight octets or of none.
    first[0] & 1 != 0
        && ((first[9] == b'Q' && first[10] == b'0') || (first[1] == b'Q' && first[2] == b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Mac, Parsed, parse};

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
        check(UDP, (40_000, 53), b"", 30, Some(Kind::Dns));
        check(TCP, (40_000, 53), b"", 30, Some(Kind::Dns));
        check(UDP, (5353, 5353), b"", 30, Some(Kind::Mdns));
        check(UDP, (68, 67), b"", 300, Some(Kind::Dhcp4));
        check(UDP, (546, 547), b"", 100, Some(Kind::Dhcp6));
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
            let kind = classify(&to(UDP, 5353, 443), &initial, 1_200);
            assert_eq!(kind == Some(Kind::Quic), !near, "{address:?}");
            let kind = classify(&to(TCP, 53, 443), &hello, 517);
            assert_eq!(kind == Some(Kind::Tls), !near, "{address:?}");
        }
    }

    #[test]
    fn a_watch_runs_out_in_each_direction_by_itself() {
        let key = key(protocol::TCP, 40_000, 443);
        let mut watch = Watch::of_new_flow(&key, 2);
        for _ in 0..2 {
            assert!(watch.wants(Direction::Upload));
            watch = watch.after(Direction::Upload);
        }
        assert!(!watch.wants(Direction::Upload));
        assert!(watch.wants(Direction::Download));
    }

    #[test]
    fn a_service_is_watched_as_long_as_it_lives() {
        let key = key(protocol::UDP, 40_000, 53);
        let watch = Watch::of_new_flow(&key, 1);
        assert_eq!(watch.after(Direction::Download), watch);
    }

    #[test]
    fn nothing_is_watched_where_nothing_is_wanted() {
        for port in [53, 443] {
            let key = key(protocol::TCP, 40_000, port);
            assert_eq!(Watch::of_new_flow(&key, 0), Watch::NONE);
        }
    }
}
