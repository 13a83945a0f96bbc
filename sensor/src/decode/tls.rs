//! TLS ClientHello (RFC 8446, section 4.1.2).
//!
//! A hello that no server would take gives no name: the rules of the RFCs are enforced where OpenSSL, Go and
//! rustls enforce them, because a hello that all of them refuse opens no connection.

mod ja4;

use self::ja4::Parts;
pub use self::ja4::{Ja4, Stack, Transport};
use super::{Failure, Progress, name, reader::Reader, stream::MAX_STREAM};

/// The longest hello that is read, in bytes, with its handshake header.
pub const MAX_HELLO: usize = MAX_STREAM;

/// The most protocols of a hello that are kept.
pub const MAX_ALPN: usize = 16;

/// The longest protocol identifier that is kept, in bytes. The longest registered one is shorter.
pub const MAX_ALPN_LEN: usize = 32;

/// The most warnings before the hello that are skipped; OpenSSL and rustls take four.
const MAX_ALERTS: usize = 4;

/// The first message of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name it asks for (RFC 6066, section 3), as [`name::host`] returns it. With ECH it is the outer
    /// name, that of the provider who hides the real one.
    pub server_name: Option<String>,
    /// Whether it asks for something that is no host name, by which no server can be told; `server_name` is
    /// then `None`.
    pub no_host_name: bool,
    /// The protocols it offers (RFC 7301), most wanted first. Those that are not printable, reserved
    /// (RFC 8701) or longer than [`MAX_ALPN_LEN`] are left out.
    pub alpn: Vec<String>,
    /// Encrypted ClientHello (RFC 9849), or the encrypted SNI of its early drafts, is there. Most
    /// browsers send a decoy that looks the same when they have no key to encrypt to, so it says
    /// that the name may be hidden, not that it is.
    pub ech: bool,
    /// The highest version it offers, as on the wire: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3, drafts
    /// of TLS 1.3 count as it. `None` where it offers none that exists, and in gQUIC's own hello.
    pub version: Option<u16>,
    /// The fingerprint of the client; `None` for gQUIC's own hello, which is not of TLS.
    pub ja4: Option<Ja4>,
}

/// Whether the first payload of a flow may be the start of a hello, as far as it goes: also one
/// octet of it may be.
pub fn looks_like(octets: &[u8]) -> bool {
    if octets.is_empty() || octets.get(2).is_some_and(|minor| *minor > MAX_MINOR) {
        return false;
    }
    match record(octets) {
        Ok(Some((record, _))) => match record.content {
            content::HANDSHAKE => {
                matches!(record.fragment, [] | [CLIENT_HELLO] | [CLIENT_HELLO, 0, ..])
            }
            _ => matches!(record.fragment, [] | [ALERT_WARNING, ..]),
        },
        Ok(None) => true,
        Err(_) => false,
    }
}

/// Reads the start of a client's stream: TLS records (RFC 8446, section 5.1) with a hello in them.
///
/// A hello may lie in any number of records. Warnings before it are skipped, as servers do. Bytes after the
/// hello are not read.
///
/// # Errors
/// [`Failure::Unsupported`] for a hello in the form of SSL 2, which has no name;
/// [`Failure::Limit`] for a hello longer than [`MAX_HELLO`]; [`Failure::Malformed`] for everything
/// else that is no hello.
pub fn client_hello(stream: &[u8]) -> Result<Progress<ClientHello>, Failure> {
    if is_ssl2(stream) {
        return Err(Failure::Unsupported);
    }
    let mut rest = stream;
    let mut gathered = Vec::new();
    let mut alerts = 0;
    while let Some((record, behind)) = record(rest)? {
        rest = behind;
        match record.content {
            content::HANDSHAKE if gathered.is_empty() => {
                // A hello within one record is read where it lies.
                if let Progress::Complete(hello) = handshake(record.fragment, Transport::Tcp)? {
                    return Ok(Progress::Complete(hello));
                }
                gathered.extend_from_slice(record.fragment);
            }
            content::HANDSHAKE => {
                gathered.extend_from_slice(record.fragment);
                if is_whole(&gathered) {
                    return handshake(&gathered, Transport::Tcp);
                }
            }
            // RFC 8446, section 5.1: nothing may come between the records of one message.
            content::ALERT if gathered.is_empty() && alerts < MAX_ALERTS => {
                match record.fragment {
                    [ALERT_WARNING, _] | [ALERT_WARNING] | [] => {}
                    _ => return Err(Failure::Malformed),
                }
                if record.is_whole {
                    alerts += 1;
                }
            }
            _ => return Err(Failure::Malformed),
        }
    }
    Ok(Progress::Incomplete)
}

/// Reads a hello without records, as QUIC carries it in its CRYPTO frames. The transport is a part of its JA4.
///
/// # Errors
/// [`Failure::Limit`] for a hello longer than [`MAX_HELLO`]; [`Failure::Malformed`] for bytes that are no
/// hello, or for one that contradicts itself.
pub fn handshake(octets: &[u8], transport: Transport) -> Result<Progress<ClientHello>, Failure> {
    match *octets {
        [] | [CLIENT_HELLO] | [CLIENT_HELLO, 0] | [CLIENT_HELLO, 0, _] => Ok(Progress::Incomplete),
        [CLIENT_HELLO, 0, high, low, ref body @ ..] => {
            let len = usize::from(u16::from_be_bytes([high, low]));
            if len + HANDSHAKE_HEADER > MAX_HELLO {
                return Err(Failure::Limit);
            }
            match body.get(..len) {
                Some(body) => read_hello(body, transport)
                    .map(Progress::Complete)
                    .ok_or(Failure::Malformed),
                None => Ok(Progress::Incomplete),
            }
        }
        [CLIENT_HELLO, ..] => Err(Failure::Limit),
        _ => Err(Failure::Malformed),
    }
}

/// Content types of records (RFC 8446, section 5.1).
mod content {
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
}

/// Extensions (IANA, TLS ExtensionType Values).
mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(super) const ALPN: u16 = 16;
    pub(super) const SUPPORTED_VERSIONS: u16 = 43;
    /// RFC 9849.
    pub(super) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
    /// draft-ietf-tls-esni-01 to 06.
    pub(super) const ENCRYPTED_SERVER_NAME: u16 = 0xffce;
}

/// The major version of every record since SSL 3.
const MAJOR: u8 = 3;
/// Records say 1 (TLS 1.0) or 3 (TLS 1.2), by RFC 8446; 4 is what a careless TLS 1.3 would say.
const MAX_MINOR: u8 = 4;
const RECORD_HEADER: usize = 5;
/// RFC 8446, section 5.1: 2^14 octets of plaintext.
const MAX_RECORD: usize = 1 << 14;
const HANDSHAKE_HEADER: usize = 4;
/// Type of the handshake message.
const CLIENT_HELLO: u8 = 1;
const ALERT_WARNING: u8 = 1;
const HOST_NAME: u8 = 0;
/// The first octet of an encrypted hello as a client sends it (RFC 9849, section 5). The other
/// value is for the hello inside.
const ECH_OUTER: u8 = 0;

/// As much of a record as there is.
struct Record<'a> {
    content: u8,
    fragment: &'a [u8],
    is_whole: bool,
}

/// The first record, and the bytes after it. `None` while its header is not there.
///
/// The minor version is of no meaning (RFC 8446, section 5.1).
fn record(octets: &[u8]) -> Result<Option<(Record<'_>, &[u8])>, Failure> {
    let (content, high, low, rest) = match *octets {
        [
            content::ALERT | content::HANDSHAKE,
            MAJOR,
            _,
            high,
            low,
            ref rest @ ..,
        ] => (octets[0], high, low, rest),
        [] | [content::ALERT | content::HANDSHAKE] => return Ok(None),
        [content::ALERT | content::HANDSHAKE, MAJOR, ..] if octets.len() < RECORD_HEADER => {
            return Ok(None);
        }
        _ => return Err(Failure::Malformed),
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    // An empty fragment of a handshake is forbidden by the same section, but OpenSSL passes over
    // it.
    if len > MAX_RECORD || (content == content::ALERT && len != 2) {
        return Err(Failure::Malformed);
    }
    let (fragment, rest) = rest.split_at(len.min(rest.len()));
    Ok(Some((
        Record {
            content,
            fragment,
            is_whole: fragment.len() == len,
        },
        rest,
    )))
}

/// A hello in the form of SSL 2 (RFC 5246, appendix E.2).
fn is_ssl2(stream: &[u8]) -> bool {
    matches!(stream, [0x80..=0xff, _, CLIENT_HELLO, 0 | 2 | MAJOR, ..])
}

fn is_whole(handshake: &[u8]) -> bool {
    match *handshake {
        [_, 0, high, low, ref body @ ..] => {
            body.len() >= usize::from(u16::from_be_bytes([high, low]))
        }
        // A message without such a length fails, and need not wait for the rest.
        _ => handshake.len() >= HANDSHAKE_HEADER,
    }
}

/// The fields of RFC 8446, section 4.1.2, in their order; without extensions also as in RFC 5246,
/// section 7.4.1.2. `None` where a length does not fit.
fn read_hello(body: &[u8], transport: Transport) -> Option<ClientHello> {
    let mut body = Reader(body);
    let legacy_version = body.u16()?;
    body.take(32)?;
    let session = body.vector8()?;
    let suites = body.vector16()?;
    let compressions = body.vector8()?;
    if session.0.len() > 32
        || suites.0.is_empty()
        || !suites.0.len().is_multiple_of(2)
        || compressions.0.is_empty()
    {
        return None;
    }
    let mut hello = ClientHello {
        version: real_version(legacy_version),
        ..ClientHello::default()
    };
    let mut parts = Parts {
        version: legacy_version,
        ciphers: suites.0,
        ..Parts::default()
    };
    if body.is_empty() {
        hello.ja4 = Some(parts.ja4(transport));
        return Some(hello);
    }
    let mut extensions = body.vector16()?;
    if !body.is_empty() {
        return None;
    }
    let mut seen = Seen::default();
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        // RFC 8446, section 4.2: none may come twice.
        if !seen.first(kind) {
            return None;
        }
        parts.take(kind, data);
        match kind {
            extension::SERVER_NAME => {
                if let Some(name) = read_server_name(data)? {
                    hello.server_name = name::host(name);
                    hello.no_host_name = hello.server_name.is_none();
                }
            }
            extension::ALPN => hello.alpn = read_alpn(data)?,
            extension::SUPPORTED_VERSIONS => hello.version = read_versions(data)?,
            extension::ENCRYPTED_CLIENT_HELLO => hello.ech |= data.0.first() == Some(&ECH_OUTER),
            extension::ENCRYPTED_SERVER_NAME => hello.ech = true,
            _ => {}
        }
    }
    hello.ja4 = Some(parts.ja4(transport));
    Some(hello)
}

/// RFC 6066, section 3: a list that is not empty, and at most one name of each type. Gives what stands
/// where the host's name belongs.
fn read_server_name(mut data: Reader<'_>) -> Option<Option<&[u8]>> {
    let mut list = data.vector16()?;
    if list.is_empty() || !data.is_empty() {
        return None;
    }
    let mut host = None;
    while !list.is_empty() {
        let kind = list.u8()?;
        let name = list.vector16();
        if kind != HOST_NAME {
            // Of another type only this length is known, and rustls does not even ask for that.
            match name {
                Some(_) => continue,
                None => break,
            }
        }
        if host.replace(name?.0).is_some() {
            return None;
        }
    }
    Some(host)
}

/// RFC 7301, section 3.1: a list that is not empty, of identifiers that are not.
fn read_alpn(mut data: Reader<'_>) -> Option<Vec<String>> {
    let mut list = data.vector16()?;
    if list.is_empty() || !data.is_empty() {
        return None;
    }
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let protocol = list.vector8()?.0;
        if protocol.is_empty() {
            return None;
        }
        let is_text = protocol.iter().all(u8::is_ascii_graphic);
        if is_text
            && !is_reserved(protocol)
            && protocol.len() <= MAX_ALPN_LEN
            && protocols.len() < MAX_ALPN
        {
            protocols.extend(String::from_utf8(protocol.to_vec()));
        }
    }
    Some(protocols)
}

/// RFC 8446, section 4.2.1.
fn read_versions(mut data: Reader<'_>) -> Option<Option<u16>> {
    let mut list = data.vector8()?;
    if list.is_empty() || !data.is_empty() {
        return None;
    }
    let mut highest = None;
    while !list.is_empty() {
        highest = highest.max(real_version(list.u16()?));
    }
    Some(highest)
}

/// Versions that exist or existed: SSL 3 to TLS 1.3, and the drafts of TLS 1.3 (0x7f and their
/// number; 0xfb and their number by Facebook).
const fn real_version(number: u16) -> Option<u16> {
    match number {
        0x0300..=0x0304 => Some(number),
        0x7f00..=0x7fff | 0xfb00..=0xfbff => Some(0x0304),
        _ => None,
    }
}

/// RFC 8701: values that mean nothing, said so that servers stay used to unknown ones.
const fn is_reserved(protocol: &[u8]) -> bool {
    matches!(protocol, [high, low] if *high == *low && *high & 0x0f == 0x0a)
}

/// Extensions that a hello has had, without a search for each.
#[derive(Default)]
struct Seen {
    /// Types below 64: nearly all.
    low: u64,
    /// The others, sorted.
    high: Vec<u16>,
}

impl Seen {
    /// Whether this is the first of its type.
    fn first(&mut self, kind: u16) -> bool {
        if kind < 64 {
            let bit = 1 << kind;
            let first = self.low & bit == 0;
            self.low |= bit;
            return first;
        }
        match self.high.binary_search(&kind) {
            Ok(_) => false,
            Err(place) => {
                self.high.insert(place, kind);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector8(octets: &[u8]) -> Vec<u8> {
        [&[octets.len() as u8], octets].concat()
    }

    fn vector16(octets: &[u8]) -> Vec<u8> {
        [&(octets.len() as u16).to_be_bytes(), octets].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(data)].concat()
    }

    fn entry(kind: u8, name: &[u8]) -> Vec<u8> {
        [&[kind], &vector16(name)[..]].concat()
    }

    fn server_name(list: &[u8]) -> Vec<u8> {
        extension(extension::SERVER_NAME, &vector16(list))
    }

    fn named(name: &[u8]) -> Vec<u8> {
        server_name(&entry(HOST_NAME, name))
    }

    fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
        let list: Vec<_> = protocols.iter().flat_map(|id| vector8(id)).collect();
        extension(extension::ALPN, &vector16(&list))
    }

    fn message(body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u32).to_be_bytes();
        [&[CLIENT_HELLO], &len[1..], body].concat()
    }

    /// A hello up to its extensions.
    fn start() -> Vec<u8> {
        [
            &[3, 3][..],
            &[0x42; 32],
            &vector8(&[7; 32]),
            &vector16(&[0x13, 0x01, 0xc0, 0x2f]),
            &vector8(&[0]),
        ]
        .concat()
    }

    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        message(&[start(), vector16(&extensions.concat())].concat())
    }

    fn record(content: u8, fragment: &[u8]) -> Vec<u8> {
        [&[content, MAJOR, 1], &vector16(fragment)[..]].concat()
    }

    fn read(extensions: &[Vec<u8>]) -> Result<ClientHello, Failure> {
        match handshake(&hello(extensions), Transport::Tcp)? {
            Progress::Complete(hello) => Ok(hello),
            Progress::Incomplete => panic!("a whole hello was taken for a part"),
        }
    }

    fn name_of(extension: Vec<u8>) -> Result<Option<String>, Failure> {
        read(&[extension]).map(|hello| hello.server_name)
    }

    fn name_in(stream: &[u8]) -> Result<Option<String>, Failure> {
        match client_hello(stream)? {
            Progress::Complete(hello) => Ok(hello.server_name),
            Progress::Incomplete => Ok(None),
        }
    }

    #[test]
    fn everything_asked_for_is_read() {
        let mut hello = read(&[
            extension(0x1a1a, &[]),
            named(b"WWW.Example.org"),
            extension(10, &vector16(&[0x11, 0xec])),
            alpn(&[b"h2", b"http/1.1"]),
            extension(43, &vector8(&[0x3a, 0x3a, 3, 3, 3, 4])),
            extension(0xfe0d, &[ECH_OUTER, 0, 1, 0, 1]),
        ]);
        let expected = ClientHello {
            server_name: Some("www.example.org".into()),
            alpn: vec!["h2".into(), "http/1.1".into()],
            ech: true,
            version: Some(0x0304),
            no_host_name: false,
            ja4: None,
        };
        let fingerprint = hello.as_mut().map(|hello| hello.ja4.take());
        let fingerprint = fingerprint.ok().flatten().map(|ja4| ja4.to_string());
        assert_eq!(hello, Ok(expected));
        assert_eq!(
            fingerprint.as_deref(),
            Some("t13d0205h2_c1929292aa6b_d3d5ca3005c1")
        );
    }

    #[test]
    fn a_hello_without_extensions_has_no_name() {
        let Ok(Progress::Complete(bare)) = handshake(&message(&start()), Transport::Tcp) else {
            panic!("it is a whole hello");
        };
        assert_eq!((&bare.server_name, bare.version), (&None, Some(0x0303)));
        assert_eq!(ja4(&bare), "t12i020000_c1929292aa6b_000000000000");
        assert_eq!(read(&[]), Ok(bare));
    }

    fn ja4(hello: &ClientHello) -> String {
        hello.ja4.map(|ja4| ja4.to_string()).unwrap_or_default()
    }

    /// The hashes are those of `sha256sum`.
    #[test]
    fn the_fingerprint_has_every_part_of_the_hello() {
        let of = |extensions: &[Vec<u8>]| read(extensions).map(|hello| ja4(&hello));
        let fingerprint = |text: &str| Ok(text.to_owned());
        let [grease, name] = [extension(0xdada, &[]), named(b"a.example")];
        let versions = extension(43, &vector8(&[0x3a, 0x3a, 3, 4, 3, 3]));
        let signatures = extension(13, &vector16(&[0x5a, 0x5a, 4, 3, 8, 4]));
        let all = [
            grease,
            name,
            versions.clone(),
            alpn(&[&b"\x0a\x0a"[..], b"h2"]),
            signatures,
        ];
        assert_eq!(
            of(&all),
            fingerprint("t13d0204h2_c1929292aa6b_ef5f37ab036a")
        );
        let unsigned = [versions.clone(), extension(13, &vector16(&[]))];
        let expected = fingerprint("t13i020200_c1929292aa6b_90f4629a5905");
        assert_eq!(of(&unsigned), expected);
        // A list longer than its extension tells no algorithms.
        let unfit = [versions.clone(), extension(13, &[0, 4, 4, 3])];
        assert_eq!(of(&unfit), expected);
        let mut other_protocol = unsigned.to_vec();
        other_protocol.push(alpn(&[&[0xe6, 0x97, 0xa5]]));
        assert_eq!(
            of(&other_protocol),
            fingerprint("t13i0203e5_c1929292aa6b_90f4629a5905")
        );
    }

    #[test]
    fn a_cut_hello_has_no_fingerprint() {
        let hello = hello(&[named(b"a.example"), alpn(&[b"h2"])]);
        for cut in 0..hello.len() {
            for transport in [Transport::Tcp, Transport::Quic] {
                let read = handshake(&hello[..cut], transport);
                assert_eq!(read, Ok(Progress::Incomplete), "cut at {cut}");
            }
        }
        let of = |transport| match handshake(&hello, transport) {
            Ok(Progress::Complete(hello)) => ja4(&hello),
            other => panic!("{other:?}"),
        };
        assert_eq!(of(Transport::Tcp), "t12d0202h2_c1929292aa6b_000000000000");
        assert_eq!(of(Transport::Quic), "q12d0202h2_c1929292aa6b_000000000000");
    }

    #[test]
    fn a_name_is_a_host_name_or_none() {
        assert_eq!(name_of(named(b"127.0.0.1")), Ok(Some("127.0.0.1".into())));
        assert_eq!(name_of(named(b"a\0b.example")), Ok(None));
        assert_eq!(name_of(named(b"")), Ok(None));
        assert_eq!(name_of(named(&[b'a'; 255])), Ok(None));
    }

    /// RFC 6066, section 3.
    #[test]
    fn the_list_has_one_name_of_a_type() {
        let [a, b] = [
            entry(HOST_NAME, b"a.example"),
            entry(HOST_NAME, b"b.example"),
        ];
        let other = entry(1, b"other");
        let name = Ok(Some("a.example".into()));
        assert_eq!(name_of(server_name(&[&other[..], &a].concat())), name);
        assert_eq!(name_of(server_name(&[&a[..], &other].concat())), name);
        assert_eq!(name_of(server_name(&other)), Ok(None));
        let malformed = Err(Failure::Malformed);
        assert_eq!(name_of(server_name(&[a, b].concat())), malformed);
        assert_eq!(name_of(server_name(&[])), malformed);
        assert_eq!(name_of(extension(0, &[])), malformed);
    }

    /// RFC 8446, section 4.2.
    #[test]
    fn no_extension_comes_twice() {
        let malformed = Err(Failure::Malformed);
        assert_eq!(read(&[named(b"a.example"), named(b"a.example")]), malformed);
        let unknown = || extension(0xff01, &[0]);
        assert_eq!(
            read(&[unknown(), named(b"a.example"), unknown()]),
            malformed
        );
    }

    #[test]
    fn lengths_that_do_not_fit_are_malformed() {
        let whole = [start(), vector16(&named(b"a.example"))].concat();
        for cut in 1..whole.len() {
            // A hello without any extensions is right.
            if cut != start().len() {
                let cut = handshake(&message(&whole[..cut]), Transport::Tcp);
                assert_eq!(cut, Err(Failure::Malformed));
            }
        }
        let longer = handshake(&message(&[&whole[..], &[0]].concat()), Transport::Tcp);
        assert_eq!(longer, Err(Failure::Malformed));
    }

    #[test]
    fn reserved_and_binary_protocols_are_left_out() {
        let list: [&[u8]; 5] = [b"\x0a\x0a", b"ZZ", b"h2", b"a b", &[b'x'; MAX_ALPN_LEN + 1]];
        let hello = read(&[alpn(&list)]).map(|hello| hello.alpn);
        assert_eq!(hello, Ok(vec!["h2".into()]));
        let many = read(&[alpn(&[&b"h3"[..]; 100])]).map(|hello| hello.alpn.len());
        assert_eq!(many, Ok(MAX_ALPN));
        assert_eq!(read(&[alpn(&[])]), Err(Failure::Malformed));
        assert_eq!(read(&[alpn(&[b""])]), Err(Failure::Malformed));
    }

    #[test]
    fn the_version_is_the_highest_that_exists() {
        let version =
            |list: &[u8]| read(&[extension(43, &vector8(list))]).map(|hello| hello.version);
        assert_eq!(version(&[3, 4, 3, 3]), Ok(Some(0x0304)));
        assert_eq!(version(&[3, 1, 3, 2]), Ok(Some(0x0302)));
        assert_eq!(version(&[0x7f, 28, 3, 3]), Ok(Some(0x0304)));
        assert_eq!(version(&[0xfa, 0xfa]), Ok(None));
        assert_eq!(version(&[3]), Err(Failure::Malformed));
        assert_eq!(version(&[]), Err(Failure::Malformed));
    }

    #[test]
    fn a_hidden_name_is_told() {
        let ech = |extensions: &[Vec<u8>]| read(extensions).map(|hello| hello.ech);
        assert_eq!(ech(&[named(b"a.example")]), Ok(false));
        assert_eq!(ech(&[extension(0xfe0d, &[ECH_OUTER, 1])]), Ok(true));
        assert_eq!(ech(&[extension(0xfe0d, &[1])]), Ok(false));
        assert_eq!(ech(&[extension(0xffce, &[0x13, 1])]), Ok(true));
    }

    #[test]
    fn records_may_be_of_any_size() {
        let hello = hello(&[named(b"a.example")]);
        let name = Ok(Some("a.example".into()));
        for size in 1..=hello.len() {
            let stream: Vec<_> = hello
                .chunks(size)
                .flat_map(|chunk| record(content::HANDSHAKE, chunk))
                .collect();
            assert_eq!(name_in(&stream), name);
            for cut in 0..stream.len() {
                assert_eq!(client_hello(&stream[..cut]), Ok(Progress::Incomplete));
                assert_eq!(looks_like(&stream[..cut]), cut > 0);
            }
        }
    }

    #[test]
    fn what_is_behind_the_hello_is_not_looked_at() {
        let hello = hello(&[named(b"a.example")]);
        let name = Ok(Some("a.example".into()));
        let stream = [record(content::HANDSHAKE, &hello), vec![0xff; 9]].concat();
        assert_eq!(name_in(&stream), name);
        let stream = record(content::HANDSHAKE, &[&hello[..], &[16, 0, 0]].concat());
        assert_eq!(name_in(&stream), name);
    }

    #[test]
    fn only_warnings_come_before_the_hello() {
        let hello = record(content::HANDSHAKE, &hello(&[named(b"a.example")]));
        let name = Ok(Some("a.example".into()));
        let warning = record(content::ALERT, &[ALERT_WARNING, 112]);
        assert_eq!(name_in(&[warning.repeat(4), hello.clone()].concat()), name);
        assert!(looks_like(&warning));
        let malformed = Err(Failure::Malformed);
        let fatal = record(content::ALERT, &[2, 40]);
        for before in [
            warning.repeat(5),
            fatal,
            record(20, &[1]),
            record(23, b"data"),
        ] {
            assert_eq!(name_in(&[before, hello.clone()].concat()), malformed);
        }
    }

    #[test]
    fn nothing_comes_between_the_records_of_a_hello() {
        let hello = hello(&[named(b"a.example")]);
        let (first, second) = hello.split_at(20);
        let [first, second] = [first, second].map(|part| record(content::HANDSHAKE, part));
        for between in [
            record(content::ALERT, &[ALERT_WARNING, 112]),
            record(20, &[1]),
        ] {
            let stream = [&first[..], &between, &second].concat();
            assert_eq!(client_hello(&stream), Err(Failure::Malformed));
        }
    }

    #[test]
    fn other_things_are_no_hello() {
        for stream in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"SSH-2.0-OpenSSH",
            // A server's hello.
            &[22, 3, 3, 0, 80, 2, 0, 0, 76],
            // A record longer than any.
            &[22, 3, 1, 0x40, 1, 1, 0],
            &[22, 2, 0],
        ] {
            assert_eq!(client_hello(stream), Err(Failure::Malformed), "{stream:?}");
            assert!(!looks_like(stream), "{stream:?}");
        }
        assert!(!looks_like(&[]));
    }

    #[test]
    fn a_hello_of_ssl_2_has_no_name() {
        let stream = [0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10];
        assert_eq!(client_hello(&stream), Err(Failure::Unsupported));
    }

    #[test]
    fn a_hello_beyond_the_bound_is_told_at_once() {
        for header in [[1, 1, 0, 0], [1, 0, 0x40, 0]] {
            assert_eq!(handshake(&header, Transport::Tcp), Err(Failure::Limit));
            let stream = record(content::HANDSHAKE, &header);
            assert_eq!(client_hello(&stream), Err(Failure::Limit));
        }
        let longest = handshake(&[1, 0, 0x3f, 0xfc], Transport::Tcp);
        assert_eq!(longest, Ok(Progress::Incomplete));
    }
}
