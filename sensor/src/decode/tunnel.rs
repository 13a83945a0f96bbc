//! Tunnels by their first bytes: WireGuard, OpenVPN, IKE.
//!
//! Only the messages that open a tunnel are recognised: they have fixed lengths and fields that must be zero.
//! The messages after them have no recognisable form.

use super::reader::Reader;

/// A kind of tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tunnel {
    /// WireGuard.
    WireGuard,
    /// OpenVPN, over UDP or TCP.
    OpenVpn,
    /// The key exchange of IPsec (RFC 2408, RFC 7296).
    Ike,
}

impl Tunnel {
    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WireGuard => "wireguard",
            Self::OpenVpn => "openvpn",
            Self::Ike => "ike",
        }
    }
}

/// The tunnel that a datagram, or the first segment of a TCP stream, opens or agrees to.
pub fn recognise(payload: &[u8]) -> Option<Tunnel> {
    if is_wireguard(payload) {
        Some(Tunnel::WireGuard)
    } else if is_openvpn(payload) || openvpn_over_tcp(payload).is_some_and(is_openvpn) {
        Some(Tunnel::OpenVpn)
    } else if is_ike(payload) || payload.strip_prefix(&NON_ESP).is_some_and(is_ike) {
        Some(Tunnel::Ike)
    } else {
        None
    }
}

/// Handshake initiation and response (WireGuard whitepaper, sections 5.4.2 and 5.4.3).
fn is_wireguard(payload: &[u8]) -> bool {
    const INITIATION: usize = 148;
    const RESPONSE: usize = 92;
    matches!(
        (payload, payload.len()),
        ([1, 0, 0, 0, ..], INITIATION) | ([2, 0, 0, 0, ..], RESPONSE)
    )
}

/// Over TCP each packet has its length in front.
fn openvpn_over_tcp(payload: &[u8]) -> Option<&[u8]> {
    let mut rest = Reader(payload);
    let packet = rest.vector16()?;
    rest.is_empty().then_some(packet.0)
}

/// A hard reset (OpenVPN wire protocol, draft-openvpn-wire-protocol-01, section 4): operation and
/// key number, session ID, and then what the kind of authentication puts there.
fn is_openvpn(packet: &[u8]) -> bool {
    const CLIENT_V2: u8 = 7 << 3;
    const SERVER_V2: u8 = 8 << 3;
    const CLIENT_V3: u8 = 10 << 3;
    let mut rest = Reader(packet);
    let (Some(operation), Some(session)) = (rest.u8(), rest.array::<8>()) else {
        return false;
    };
    // A session ID is random, and never zero.
    if session == [0; 8] {
        return false;
    }
    match operation {
        CLIENT_V2 => is_reset(rest, is_first_packet) || is_tls_crypt(rest, CRYPTED_CLIENT),
        SERVER_V2 => is_reset(rest, is_first_answer) || is_tls_crypt(rest, CRYPTED_SERVER),
        // With the client's key behind what is encrypted (tls-crypt-v2).
        CLIENT_V3 => {
            let key = rest
                .0
                .len()
                .checked_sub(REPLAY + HMAC_SHA256 + CRYPTED_CLIENT);
            key.is_some_and(|key| WRAPPED_KEY.contains(&key)) && is_replay_start(rest)
        }
        _ => false,
    }
}

/// Octets of the number and the time of a packet that is authenticated.
const REPLAY: usize = 8;
const HMAC_SHA256: usize = 32;
/// The bytes of a client's reset after that: no acknowledgements, and its number.
const CRYPTED_CLIENT: usize = 1 + 4;
/// Those of a server's reset: one acknowledgement, the session it is for, and its own number.
const CRYPTED_SERVER: usize = 1 + 4 + 8 + 4;
/// Bytes of a client key of tls-crypt-v2, wrapped: 256 of key, the authentication, the metadata that the server
/// wrote into it, and the length (OpenVPN, doc/tls-crypt-v2.txt).
const WRAPPED_KEY: std::ops::RangeInclusive<usize> = 290..=1024;

/// Whether a reset is in clear: bare, or with the HMAC of tls-auth before it.
fn is_reset(rest: Reader<'_>, is_first: fn(&[u8]) -> bool) -> bool {
    /// MD5, SHA-1, SHA-224, SHA-256, SHA-384, SHA-512.
    const HMACS: [usize; 6] = [16, 20, 28, HMAC_SHA256, 48, 64];
    is_first(rest.0)
        || HMACS.into_iter().any(|len| {
            let mut rest = rest;
            rest.take(len).is_some()
                && is_replay_start(rest)
                && rest.take(REPLAY).is_some()
                && is_first(rest.0)
        })
}

/// Of a client: it acknowledges nothing, and its number is zero.
fn is_first_packet(octets: &[u8]) -> bool {
    *octets == [0; CRYPTED_CLIENT]
}

/// Of a server: it acknowledges the client's packet zero, and its number is zero.
fn is_first_answer(octets: &[u8]) -> bool {
    octets.len() == CRYPTED_SERVER
        && octets.starts_with(&[1, 0, 0, 0, 0])
        && octets.ends_with(&[0, 0, 0, 0])
}

/// Whether the rest is as long as tls-crypt makes it.
fn is_tls_crypt(rest: Reader<'_>, crypted: usize) -> bool {
    rest.0.len() == REPLAY + HMAC_SHA256 + crypted && is_replay_start(rest)
}

/// Whether this is the number of one of the first packets, and a time after 2001.
fn is_replay_start(mut rest: Reader<'_>) -> bool {
    /// A reset is sent again until it is answered.
    const TRIES: std::ops::RangeInclusive<u32> = 1..=64;
    /// How OpenVPN 2.6 counts before it has agreed on more.
    const EARLY: std::ops::RangeInclusive<u32> = 0x0f00_0001..=0x0f00_0040;
    const TIMES: std::ops::RangeFrom<u32> = 1_000_000_000..;
    let (Some(number), Some(time)) = (rest.u32(), rest.u32()) else {
        return false;
    };
    (TRIES.contains(&number) || EARLY.contains(&number)) && TIMES.contains(&time)
}

/// The marker that tells IKE from ESP on port 4500 (RFC 3948, section 2.2).
const NON_ESP: [u8; 4] = [0; 4];

/// The first message of an exchange: the responder has no SPI yet (RFC 7296, section 3.1; RFC 2408,
/// section 3.1).
fn is_ike(message: &[u8]) -> bool {
    read_ike(message).unwrap_or(false)
}

fn read_ike(message: &[u8]) -> Option<bool> {
    const VERSION_1: u8 = 0x10;
    const VERSION_2: u8 = 0x20;
    const MAIN: u8 = 2;
    const AGGRESSIVE: u8 = 4;
    const SA_INIT: u8 = 34;
    const SA_OF_1: u8 = 1;
    const SA_OF_2: u8 = 33;
    const NOTIFY_OF_2: u8 = 41;
    const INITIATOR: u8 = 0x08;

    let mut rest = Reader(message);
    let initiator: [u8; 8] = rest.array()?;
    let responder: [u8; 8] = rest.array()?;
    let [next_payload, version, exchange, flags] = rest.array()?;
    let message_id = rest.u32()?;
    let len = rest.u32()?;
    let is_first = matches!(
        (version, exchange, flags, next_payload),
        (VERSION_1, MAIN | AGGRESSIVE, 0, SA_OF_1)
            | (VERSION_2, SA_INIT, INITIATOR, SA_OF_2 | NOTIFY_OF_2)
    );
    Some(
        is_first
            && initiator != [0; 8]
            && responder == [0; 8]
            && message_id == 0
            && len as usize == message.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(payload: &[u8], tunnel: Tunnel) {
        assert_eq!(recognise(payload), Some(tunnel), "{payload:02x?}");
        for cut in 0..payload.len() {
            assert_eq!(recognise(&payload[..cut]), None, "cut at {cut}");
        }
        let longer = [payload, &[0]].concat();
        assert_eq!(recognise(&longer), None);
    }

    fn wireguard(kind: u8, len: usize) -> Vec<u8> {
        [&[kind, 0, 0, 0][..], &vec![0x5a; len - 4]].concat()
    }

    #[test]
    fn wireguard_by_its_lengths() {
        check(&wireguard(1, 148), Tunnel::WireGuard);
        check(&wireguard(2, 92), Tunnel::WireGuard);
        assert_eq!(recognise(&wireguard(1, 92)), None);
        assert_eq!(recognise(&wireguard(4, 148)), None);
        let mut reserved = wireguard(1, 148);
        reserved[2] = 1;
        assert_eq!(recognise(&reserved), None);
    }

    const SESSION: [u8; 8] = [0x81, 0x38, 0x14, 0x62, 0x1d, 0x67, 0x46, 0x2d];
    /// Number 1, in December 2012.
    const REPLAY_FIELDS: [u8; 8] = [0, 0, 0, 1, 0x50, 0xca, 0x12, 0x34];

    fn resets() -> Vec<Vec<u8>> {
        let client = [0; 5];
        let server = [&[1, 0, 0, 0, 0], &SESSION[..], &[0; 4]].concat();
        let hmac = |len: usize| vec![0xa5; len];
        let crypted = |len: usize| [&REPLAY_FIELDS[..], &hmac(32 + len)].concat();
        [
            (0x38, client.to_vec()),
            (0x38, [&hmac(20)[..], &REPLAY_FIELDS, &client].concat()),
            (0x38, [&hmac(64)[..], &REPLAY_FIELDS, &client].concat()),
            (0x38, crypted(5)),
            (0x40, server.clone()),
            (0x40, [&hmac(32)[..], &REPLAY_FIELDS, &server].concat()),
            (0x40, crypted(17)),
        ]
        .into_iter()
        .map(|(operation, rest)| [&[operation], &SESSION[..], &rest].concat())
        .collect()
    }

    #[test]
    fn openvpn_by_its_resets() {
        for reset in resets() {
            check(&reset, Tunnel::OpenVpn);
            let over_tcp = [&(reset.len() as u16).to_be_bytes(), &reset[..]].concat();
            check(&over_tcp, Tunnel::OpenVpn);
            let mut soft = reset.clone();
            soft[0] = 3 << 3;
            assert_eq!(recognise(&soft), None);
            let mut without_session = reset;
            without_session[1..9].fill(0);
            assert_eq!(recognise(&without_session), None);
        }
    }

    /// The first messages of OpenVPN 2.6: bare, with tls-auth under SHA-1, SHA-256 and SHA-512, with tls-crypt,
    /// with tls-crypt-v2.
    #[test]
    fn openvpn_as_it_is() {
        let resets = include_str!("../../tests/data/openvpn-resets.txt");
        for reset in resets.lines() {
            let octets = (0..reset.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&reset[at..at + 2], 16).expect("it is hexadecimal"))
                .collect::<Vec<_>>();
            assert_eq!(recognise(&octets), Some(Tunnel::OpenVpn), "{reset}");
        }
        assert_eq!(resets.lines().count(), 6);
    }

    #[test]
    fn openvpn_with_a_clients_key() {
        let early = [0x0f, 0, 0, 1, 0x65, 0, 0, 0];
        let reset = |key: usize| {
            let rest = vec![0xa5; 32 + 5 + key];
            [&[0x50], &SESSION[..], &early, &rest].concat()
        };
        assert_eq!(recognise(&reset(600)), Some(Tunnel::OpenVpn));
        assert_eq!(recognise(&reset(100)), None);
        assert_eq!(recognise(&reset(2000)), None);
    }

    fn ike(fields: [u8; 4], body: usize) -> Vec<u8> {
        let len = (28 + body) as u32;
        [
            &[0xe4, 0x7a, 0x59, 0x1f, 0xd0, 0x57, 0x58, 0x7f][..],
            &[0; 8],
            &fields,
            &[0; 4],
            &len.to_be_bytes(),
            &vec![0x11; body],
        ]
        .concat()
    }

    #[test]
    fn ike_by_its_header() {
        for fields in [
            [1, 0x10, 2, 0],
            [1, 0x10, 4, 0],
            [33, 0x20, 34, 8],
            [41, 0x20, 34, 8],
        ] {
            let message = ike(fields, 200);
            check(&message, Tunnel::Ike);
            check(&[&NON_ESP[..], &message].concat(), Tunnel::Ike);
            let mut answer = message.clone();
            answer[8] = 1;
            assert_eq!(recognise(&answer), None);
        }
        for fields in [[33, 0x20, 35, 8], [33, 0x30, 34, 8], [33, 0x20, 34, 0x20]] {
            assert_eq!(recognise(&ike(fields, 200)), None);
        }
    }
}
