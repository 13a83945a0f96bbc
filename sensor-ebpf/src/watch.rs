//! How much of a flow is read, and on what that depends.

use crate::{
    flow::{Direction, FlowKey},
    kind::{Kind, LOOKED_AT, is_service},
    parse::protocol,
    said::prelude,
};

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

    /// The watch that a flow starts with.
    ///
    /// Payloads of a TCP stream count whatever they carry. Datagrams get twice as many, because a QUIC client
    /// that is asked for a token says its hello again. At the port of a service every datagram is looked at,
    /// because a question may come late.
    #[inline(always)]
    pub const fn of_new_flow(key: &FlowKey, payloads: u64) -> Self {
        if payloads == 0 {
            return Self::NONE;
        }
        if key.protocol() == protocol::UDP && is_service(key) {
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

    /// The same, where at least so many of the next uploads are wanted, at most [`MAX`](Self::MAX).
    #[inline(always)]
    pub const fn with_uploads(self, least: u8) -> Self {
        match self.of(Direction::Upload) {
            left if left < least => Self::new(least, self.of(Direction::Download)),
            _ => self,
        }
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

    /// The watch after one payload in this direction, where some were wanted.
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

    /// The watch behind a payload that was taken for a kind; `payloads` is the number that a new flow starts
    /// with.
    ///
    /// DNS is read as long as the flow lives, at whatever port it is found. Payloads of a client's stream are
    /// counted from where TLS begins: payloads before it (STARTTLS, SOCKS, the PROXY protocol) do not count,
    /// and a hello has room for all of its segments. Both hold for the first [`BEFORE_TLS`] bytes, so that no
    /// stream is read for ever.
    #[inline(always)]
    pub const fn behind(self, taken: Option<Kind>, payload: &Early<'_>, payloads: u64) -> Self {
        let direction = payload.direction;
        let is_upload = matches!(direction, Direction::Upload);
        if matches!(taken, Some(Kind::Dns)) && (is_upload || is_service(payload.key)) {
            return Self::new(Self::ALWAYS, Self::ALWAYS);
        }
        if is_upload && self.runs_out(direction) && payload.place < BEFORE_TLS {
            if matches!(taken, Some(Kind::Tls)) && payload.may_be_hello() {
                let anew = Self::of_new_flow(payload.key, payloads).of(direction);
                let download = self.of(Direction::Download);
                return Self::new(anew, download).after(direction);
            }
            // A command of SMTP or FTP looks like a request.
            if matches!(taken, Some(Kind::Stream | Kind::Http)) && payload.is_prelude() {
                return self;
            }
        }
        self.after(direction)
    }

    /// The watch of a flow whose first payloads have told all they can. A direction that is always wanted stays
    /// so. Of TCP, some more uploads are wanted, which could hold a second hello, or another one at the place
    /// of the first.
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

/// Bytes of a client's stream in which TLS may begin behind other data, and the payloads before it are not
/// counted.
pub const BEFORE_TLS: u32 = 4_096;

/// An early payload of a flow, as far as it matters for what is read behind it.
#[derive(Clone, Copy, Debug)]
pub struct Early<'a> {
    /// The flow.
    pub key: &'a FlowKey,
    /// Which way the payload went.
    pub direction: Direction,
    /// Its first bytes, the rest zero where it is shorter.
    pub first: &'a [u8; LOOKED_AT],
    /// How many it has.
    pub len: usize,
    /// TCP: how far behind the first byte of the stream it begins; [`Early::SOMEWHERE`] where the SYN
    /// was not seen.
    pub place: u32,
}

impl Early<'_> {
    /// In [`place`](Self::place): the place is unknown.
    pub const SOMEWHERE: u32 = u32::MAX;

    /// The longest line of a dialogue before TLS, in bytes: those of SMTP have 512 (RFC 5321, section
    /// 4.5.3.1.4), a name and a password for SOCKS 513 (RFC 1929, section 2).
    const LONGEST_LINE: usize = 513;

    /// Whether a TLS record begins with a ClientHello, as far as it goes.
    #[inline(always)]
    const fn may_be_hello(&self) -> bool {
        const CLIENT_HELLO: u8 = 1;
        const RECORD_HEADER: usize = 5;
        self.len <= RECORD_HEADER || self.first[RECORD_HEADER] == CLIENT_HELLO
    }

    /// Whether it is a message that clients send before TLS or a request: a line of text, a message of
    /// SOCKS 4 or 5 (RFC 1928, RFC 1929), the header of the PROXY protocol, version 2.
    #[inline(always)]
    const fn is_prelude(&self) -> bool {
        const PROXY: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
        const PROXY_HEADER: usize = 16;
        if self.len > Self::LONGEST_LINE {
            return false;
        }
        if prelude::is_text(self.first, self.len) {
            return true;
        }
        let [one, two, three, four, ..] = *self.first;
        let greets = one == 5 && two != 0 && self.len == 2 + two as usize;
        let logs_in = one == 1 && two != 0 && self.len > 2 + two as usize;
        let asks = one == 5 && two >= 1 && two <= 3 && three == 0 && matches!(four, 1 | 3 | 4);
        let asks_old = one == 4 && (two == 1 || two == 2) && self.len >= 9;
        let mut different = 0;
        let mut at = 0;
        while at < PROXY.len() {
            different |= self.first[at] ^ PROXY[at];
            at += 1;
        }
        greets || logs_in || asks || asks_old || (different == 0 && self.len >= PROXY_HEADER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Parsed, parse};

    /// A frame of Ethernet, IPv4 and the ports, enough to make a key of.
    fn key(protocol: u8, local: u16, remote: u16) -> FlowKey {
        let mut frame = [0; 54];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&40_u16.to_be_bytes());
        frame[23] = protocol;
        frame[30..34].copy_from_slice(&[198, 51, 100, 7]);
        frame[34..36].copy_from_slice(&local.to_be_bytes());
        frame[36..38].copy_from_slice(&remote.to_be_bytes());
        let parsed: Parsed = parse(&frame[..]).expect("a whole frame");
        FlowKey::new(&parsed, Direction::Upload, 1)
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

    /// The watch of uploads behind one of these bytes.
    fn behind(watch: Watch, key: &FlowKey, kind: Kind, octets: &[u8], place: u32) -> Watch {
        let mut first = [0; LOOKED_AT];
        let there = octets.len().min(LOOKED_AT);
        first[..there].copy_from_slice(&octets[..there]);
        let early = Early {
            key,
            direction: Direction::Upload,
            first: &first,
            len: octets.len(),
            place,
        };
        watch.behind(Some(kind), &early, 4)
    }

    #[test]
    fn what_stands_before_tls_does_not_count() {
        let key = key(protocol::TCP, 40_000, 143);
        let new = Watch::of_new_flow(&key, 4);
        let left = |octets: &[u8], place| {
            behind(new, &key, Kind::Stream, octets, place).of(Direction::Upload)
        };
        for octets in [
            &b"1 CAPABILITY\r\n"[..],
            b"<stream:stream to='a.example' xmlns='jabber:client'>",
            b"EHLO a.example\r\n",
            b"STLS\r\n",
            b"\x05\x01\x00",
            b"\x05\x02\x00\x02",
            b"\x01\x04user\x04word",
            b"\x05\x01\x00\x03\x09a.example\x01\xbb",
            b"\x04\x01\x01\xbb\xc6\x33\x64\x07\x00",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
        ] {
            assert_eq!(left(octets, 0), 4, "{octets:02x?}");
            let as_request = behind(new, &key, Kind::Http, octets, 0);
            assert_eq!(as_request, new, "{octets:02x?}");
            assert_eq!(left(octets, BEFORE_TLS), 3, "{octets:02x?}");
            assert_eq!(left(octets, Early::SOMEWHERE), 3, "{octets:02x?}");
        }
        for octets in [
            &b"\x01\x02\x03\x04"[..],
            b"a\0",
            b"caf\xc3\xa9",
            &[b'x'; 600],
        ] {
            assert_eq!(left(octets, 0), 3, "{octets:02x?}");
        }
        // Where TLS begins, it has room for all of its segments.
        let last = Watch::new(1, 2);
        let hello = b"\x16\x03\x01\x06\x79\x01\x00";
        assert_eq!(behind(last, &key, Kind::Tls, hello, 100), Watch::new(3, 2));
        let other = b"\x16\x03\x03\x00\x46\x10\x00";
        assert_eq!(behind(last, &key, Kind::Tls, other, 100), Watch::new(0, 2));
        let far = behind(last, &key, Kind::Tls, hello, BEFORE_TLS);
        assert_eq!(far, Watch::new(0, 2));
    }

    #[test]
    fn dns_is_read_from_then_on_wherever_it_is_found() {
        let always = Watch::new(Watch::ALWAYS, Watch::ALWAYS);
        for (protocol, port) in [
            (protocol::UDP, 53),
            (protocol::UDP, 5_300),
            (protocol::TCP, 53),
        ] {
            let key = key(protocol, 40_000, port);
            let watch = behind(Watch::new(1, 1), &key, Kind::Dns, b"question", 0);
            assert_eq!(watch, always, "{port}");
        }
        // A download by a stranger does not turn the flow into DNS.
        let key = key(protocol::UDP, 40_000, 5_300);
        let early = Early {
            key: &key,
            direction: Direction::Download,
            first: &[0; LOOKED_AT],
            len: 20,
            place: Early::SOMEWHERE,
        };
        let watch = Watch::new(8, 8).behind(Some(Kind::Dns), &early, 4);
        assert_eq!(watch, Watch::new(8, 7));
    }
}
