//! DHCP for IPv4 (RFC 2131, RFC 2132).
//!
//! Written by hand, because the order of options is evidence of the kind of a device, and an odd option must
//! not hide those after it.

use std::net::Ipv4Addr;

use super::{Failure, text::readable};

/// The longest text that is kept of an option, in octets.
pub const MAX_TEXT: usize = 255;

/// The most resolvers that are read of a message.
pub const MAX_SERVERS: usize = 8;

/// Where the fields of a message lie (RFC 2131, section 2), in octets from its start.
mod field {
    use std::ops::Range;

    pub(super) const OPERATION: usize = 0;
    pub(super) const HARDWARE: Range<usize> = 1..3;
    pub(super) const TRANSACTION: Range<usize> = 4..8;
    pub(super) const CLIENT_ADDRESS: Range<usize> = 12..16;
    pub(super) const YOUR_ADDRESS: Range<usize> = 16..20;
    pub(super) const CLIENT: Range<usize> = 28..34;
    pub(super) const SERVER_NAME: Range<usize> = 44..108;
    pub(super) const FILE: Range<usize> = 108..236;
    pub(super) const COOKIE: Range<usize> = 236..240;
    pub(super) const OPTIONS: usize = 240;
}

/// Ethernet, with addresses of six octets.
const ETHERNET: [u8; 2] = [1, 6];

/// The cookie that tells DHCP from BOOTP (RFC 2131, section 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// The numbers of options (RFC 2132; 81 is of RFC 4702).
mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const DNS_SERVERS: u8 = 6;
    pub(super) const HOST_NAME: u8 = 12;
    pub(super) const REQUESTED_ADDRESS: u8 = 50;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const MESSAGE_TYPE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const PARAMETERS: u8 = 55;
    pub(super) const VENDOR_CLASS: u8 = 60;
    pub(super) const CLIENT_ID: u8 = 61;
    pub(super) const FQDN: u8 = 81;
    pub(super) const END: u8 = 255;
}

/// A message. Texts are for people: octets that are no UTF-8 are taken for Latin-1, control
/// characters are left out, and at most [`MAX_TEXT`] octets are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp4 {
    /// Whether a server sent it.
    pub reply: bool,
    /// The number that matches a reply to its request.
    pub transaction: u32,
    /// The message type (option 53): 1 discover, 2 offer, 3 request, 4 decline, 5 acknowledged, 6 refused, 7
    /// release, 8 inform.
    pub kind: u8,
    /// The MAC address of the client it is about (`chaddr`).
    pub client: [u8; 6],
    /// The address that the client has already (`ciaddr`).
    pub client_address: Option<Ipv4Addr>,
    /// The address that the server gives (`yiaddr`).
    pub your_address: Option<Ipv4Addr>,
    /// The address that the client would like (option 50).
    pub requested: Option<Ipv4Addr>,
    /// The server that gives, or that is chosen (option 54).
    pub server: Option<Ipv4Addr>,
    /// The resolvers that the server names (option 6), in its order; at most [`MAX_SERVERS`].
    pub dns_servers: Vec<Ipv4Addr>,
    /// The client's name for itself (option 12).
    pub host_name: Option<String>,
    /// The client's full name (option 81, in either encoding), without a dot at its end.
    pub fqdn: Option<String>,
    /// The class of the client (option 60), for example `android-dhcp-13`.
    pub vendor_class: Option<String>,
    /// The client's identifier (option 61), as it is; empty if there is none.
    pub client_id: Vec<u8>,
    /// The options that the client asks for (option 55), in its order.
    pub parameters: Vec<u8>,
    /// All options in the order of their first appearance, without padding and end.
    pub options: Vec<u8>,
    /// Whether all options could be read: if not, one is longer than the message, and the options from it on
    /// are missing.
    pub whole: bool,
}

/// Reads the payload of a UDP datagram.
///
/// # Errors
///
/// [`Failure::Truncated`] if the fixed fields are not whole, [`Failure::Unsupported`] for BOOTP and for other
/// links than Ethernet, [`Failure::Malformed`] for a payload that is neither request nor reply, or has no
/// message type.
pub fn message(payload: &[u8]) -> Result<Dhcp4, Failure> {
    let (&operation, hardware) = payload
        .get(field::OPERATION)
        .zip(payload.get(field::HARDWARE))
        .ok_or(Failure::Truncated)?;
    if !matches!(operation, 1 | 2) {
        return Err(Failure::Malformed);
    }
    if hardware != ETHERNET {
        return Err(Failure::Unsupported);
    }
    let cookie: [u8; 4] = fixed(payload, field::COOKIE)?;
    if cookie != COOKIE {
        return Err(Failure::Unsupported);
    }

    let mut options = Options::default();
    let mut whole = options.read(payload.get(field::OPTIONS..).unwrap_or_default());
    // RFC 2132, section 9.3: the fields that BOOTP had for names may hold further options, the
    // file before the server's name (RFC 3396, section 5).
    let overload = options.first(option::OVERLOAD).unwrap_or_default();
    if overload & 1 != 0 {
        whole &= options.read(&payload[field::FILE]);
    }
    if overload & 2 != 0 {
        whole &= options.read(&payload[field::SERVER_NAME]);
    }

    Ok(Dhcp4 {
        reply: operation == 2,
        transaction: u32::from_be_bytes(fixed(payload, field::TRANSACTION)?),
        kind: options
            .first(option::MESSAGE_TYPE)
            .ok_or(Failure::Malformed)?,
        client: fixed(payload, field::CLIENT)?,
        client_address: specified(fixed(payload, field::CLIENT_ADDRESS)?),
        your_address: specified(fixed(payload, field::YOUR_ADDRESS)?),
        requested: options.address(option::REQUESTED_ADDRESS),
        server: options.address(option::SERVER),
        dns_servers: options.addresses(option::DNS_SERVERS),
        host_name: text(&options.value(option::HOST_NAME)),
        fqdn: fqdn(&options.value(option::FQDN)),
        vendor_class: text(&options.value(option::VENDOR_CLASS)),
        client_id: options.value(option::CLIENT_ID),
        parameters: options.value(option::PARAMETERS),
        options: options.order(),
        whole,
    })
}

fn fixed<const N: usize>(
    payload: &[u8],
    place: std::ops::Range<usize>,
) -> Result<[u8; N], Failure> {
    payload
        .get(place)
        .and_then(|octets| octets.try_into().ok())
        .ok_or(Failure::Truncated)
}

fn specified(octets: [u8; 4]) -> Option<Ipv4Addr> {
    let address = Ipv4Addr::from(octets);
    (!address.is_unspecified()).then_some(address)
}

/// The options of a message, in their order, over all the fields that hold some.
#[derive(Default)]
struct Options<'a>(Vec<(u8, &'a [u8])>);

impl<'a> Options<'a> {
    /// Whether all of them were whole.
    fn read(&mut self, mut octets: &'a [u8]) -> bool {
        while let Some((&number, rest)) = octets.split_first() {
            match number {
                option::PAD => octets = rest,
                option::END => break,
                _ => {
                    let option = rest
                        .split_first()
                        .and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)));
                    let Some((value, rest)) = option else {
                        return false;
                    };
                    self.0.push((number, value));
                    octets = rest;
                }
            }
        }
        true
    }

    /// The value: that of all options of the number, one behind the other (RFC 3396, section 7).
    fn value(&self, number: u8) -> Vec<u8> {
        let pieces = self.0.iter().filter(|(other, _)| *other == number);
        pieces.flat_map(|(_, value)| *value).copied().collect()
    }

    fn first(&self, number: u8) -> Option<u8> {
        let option = self.0.iter().find(|(other, _)| *other == number);
        option.and_then(|(_, value)| value.first()).copied()
    }

    fn address(&self, number: u8) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.value(number).try_into().ok()?;
        specified(octets)
    }

    /// As many addresses as are kept; octets that are no whole address say nothing.
    fn addresses(&self, number: u8) -> Vec<Ipv4Addr> {
        let value = self.value(number);
        let addresses = value.as_chunks().0.iter();
        let addresses = addresses.filter_map(|octets| specified(*octets));
        addresses.take(MAX_SERVERS).collect()
    }

    fn order(&self) -> Vec<u8> {
        let mut seen = [false; 256];
        self.0
            .iter()
            .map(|(number, _)| *number)
            .filter(|number| !std::mem::replace(&mut seen[usize::from(*number)], true))
            .collect()
    }
}

/// Text for people; none if nothing is left.
pub(super) fn text(octets: &[u8]) -> Option<String> {
    let text = readable(octets, MAX_TEXT);
    (!text.is_empty()).then_some(text)
}

/// RFC 4702, section 2: flags, two octets that mean nothing now, and the name: in the encoding of
/// DNS if the flag E is set, as ASCII otherwise.
fn fqdn(value: &[u8]) -> Option<String> {
    const ENCODED: u8 = 0b100;

    let (&flags, rest) = value.split_first()?;
    let name = rest.get(2..)?;
    if flags & ENCODED != 0 {
        return labels(name);
    }
    text(name.strip_suffix(b".").unwrap_or(name))
}

/// A name in the encoding of DNS without compression (RFC 1035, section 3.1), as text for people.
/// The octet of length 0 at its end is missing where the name is not a full one.
pub(super) fn labels(mut octets: &[u8]) -> Option<String> {
    let mut name = Vec::new();
    while let Some((&length, rest)) = octets.split_first() {
        if length == 0 {
            break;
        }
        let (label, rest) = rest.split_at_checked(usize::from(length))?;
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend_from_slice(label);
        octets = rest;
    }
    text(&name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: [u8; 6] = [0x4c, 0x6a, 0xf6, 0x9f, 0xf6, 0x27];

    /// A request with these options, as they are on the wire, and nothing in the fields of BOOTP.
    fn packet(options: &[u8]) -> Vec<u8> {
        let mut octets = vec![0; field::OPTIONS];
        octets[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
        octets[field::CLIENT].copy_from_slice(&CLIENT);
        octets[field::COOKIE].copy_from_slice(&COOKIE);
        octets.extend_from_slice(options);
        octets
    }

    fn read(options: &[u8]) -> Dhcp4 {
        message(&packet(options)).expect("the message is right")
    }

    fn option(number: u8, value: &[u8]) -> Vec<u8> {
        let length = u8::try_from(value.len()).expect("the value is short");
        [&[number, length][..], value].concat()
    }

    const DISCOVER: [u8; 3] = [53, 1, 1];

    #[test]
    fn a_request_as_a_phone_sends_it() {
        let options = [
            &[53, 1, 3][..],
            &option(61, &[1, 0x4c, 0x6a, 0xf6, 0x9f, 0xf6, 0x27]),
            &option(50, &[192, 168, 2, 16]),
            &option(54, &[192, 168, 2, 1]),
            &option(60, b"android-dhcp-13"),
            &option(12, b"Redmi-Note-8"),
            &option(55, &[1, 3, 6, 15, 26, 28, 51, 58, 59, 43]),
            &[255, 0, 0],
        ]
        .concat();
        assert_eq!(
            read(&options),
            Dhcp4 {
                reply: false,
                transaction: 0xdead_beef,
                kind: 3,
                client: CLIENT,
                client_address: None,
                your_address: None,
                requested: Some(Ipv4Addr::new(192, 168, 2, 16)),
                server: Some(Ipv4Addr::new(192, 168, 2, 1)),
                dns_servers: vec![],
                host_name: Some("Redmi-Note-8".to_owned()),
                fqdn: None,
                vendor_class: Some("android-dhcp-13".to_owned()),
                client_id: vec![1, 0x4c, 0x6a, 0xf6, 0x9f, 0xf6, 0x27],
                parameters: vec![1, 3, 6, 15, 26, 28, 51, 58, 59, 43],
                options: vec![53, 61, 50, 54, 60, 12, 55],
                whole: true,
            }
        );
    }

    #[test]
    fn the_addresses_of_a_reply() {
        let resolvers = [192, 168, 2, 1, 0, 0, 0, 0, 9, 9, 9, 9, 7];
        let mut octets = packet(&[&[53, 1, 5][..], &option(6, &resolvers), &[255]].concat());
        octets[field::OPERATION] = 2;
        octets[field::CLIENT_ADDRESS].copy_from_slice(&[10, 0, 0, 1]);
        octets[field::YOUR_ADDRESS].copy_from_slice(&[10, 0, 0, 2]);
        let reply = message(&octets).expect("the message is right");
        assert!(reply.reply);
        assert_eq!(reply.client_address, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(reply.your_address, Some(Ipv4Addr::new(10, 0, 0, 2)));
        let resolvers = [Ipv4Addr::new(192, 168, 2, 1), Ipv4Addr::new(9, 9, 9, 9)];
        assert_eq!(reply.dns_servers, resolvers);
    }

    #[test]
    fn names_are_text_for_people_and_hide_nothing_behind_them() {
        for (value, name) in [
            (&b"phone"[..], Some("phone")),
            ("Anna’s phone".as_bytes(), Some("Anna’s phone")),
            (b"T\xe9l\xe9phone", Some("Téléphone")),
            (b"phone\0", Some("phone")),
            (b"a\x1b[31m\nb", Some("a[31mb")),
            (b"\0", None),
            (b"", None),
        ] {
            let options = [&DISCOVER[..], &option(12, value), &option(60, b"MSFT 5.0")].concat();
            let message = read(&options);
            assert_eq!(message.host_name.as_deref(), name, "{value:?}");
            assert_eq!(message.vendor_class.as_deref(), Some("MSFT 5.0"));
        }
    }

    #[test]
    fn the_full_name_in_both_encodings() {
        for (value, name) in [
            (&b"\x00\0\0pc.home.example."[..], Some("pc.home.example")),
            (
                b"\x04\0\0\x02pc\x04home\x07example\x00",
                Some("pc.home.example"),
            ),
            (b"\x05\0\0\x02pc", Some("pc")),
            (b"\x04\0\0\x09pc", None),
            (b"\x04\0\0\xc0\x0c", None),
            (b"\x00\0\0", None),
            (b"\x00\0", None),
            (b"", None),
        ] {
            let options = [&DISCOVER[..], &option(81, value)].concat();
            assert_eq!(read(&options).fqdn.as_deref(), name, "{value:?}");
        }
    }

    #[test]
    fn long_options_come_in_pieces() {
        let options = [
            &option(55, &[1, 3])[..],
            &DISCOVER,
            &[0, 0],
            &option(12, b"long-"),
            &option(55, &[6]),
            &option(12, b"name"),
        ]
        .concat();
        let message = read(&options);
        assert_eq!(message.host_name.as_deref(), Some("long-name"));
        assert_eq!(message.parameters, [1, 3, 6]);
        assert_eq!(message.options, [55, 53, 12]);
        assert!(message.whole, "the end need not be told");
    }

    #[test]
    fn the_fields_of_bootp_may_hold_options() {
        for (overload, expected) in [
            (0, vec![53, 52]),
            (1, vec![53, 52, 12]),
            (2, vec![53, 52, 60]),
            (3, vec![53, 52, 12, 60]),
        ] {
            let mut octets = packet(&[53, 1, 1, 52, 1, overload, 255]);
            octets[field::FILE][..7].copy_from_slice(b"\x0c\x04file\xff");
            octets[field::SERVER_NAME][..8].copy_from_slice(b"\x3c\x05sname\xff");
            let message = message(&octets).expect("the message is right");
            assert_eq!(message.options, expected, "{overload}");
        }
    }

    #[test]
    fn an_option_that_is_cut_off_is_told() {
        let options = [&DISCOVER[..], &option(12, b"phone"), &[60, 20, b'a']].concat();
        let message = read(&options);
        assert_eq!(message.host_name.as_deref(), Some("phone"));
        assert_eq!(message.vendor_class, None);
        assert!(!message.whole);
    }

    #[test]
    fn what_is_no_dhcp_is_refused() {
        let change = |place: usize, octet: u8| {
            let mut octets = packet(&DISCOVER);
            octets[place] = octet;
            octets
        };
        for (octets, failure) in [
            (packet(&[]), Failure::Malformed),
            (packet(&[53, 0]), Failure::Malformed),
            (change(0, 3), Failure::Malformed),
            (change(1, 6), Failure::Unsupported),
            (change(2, 8), Failure::Unsupported),
            (change(236, 0), Failure::Unsupported),
            (change(0, 1)[..239].to_vec(), Failure::Truncated),
            (vec![], Failure::Truncated),
        ] {
            assert_eq!(message(&octets), Err(failure), "{octets:?}");
        }
    }

    proptest! {
        #[test]
        fn any_options_are_safe(
            options in prop::collection::vec(any::<u8>(), 0..400),
            fields in prop::collection::vec(any::<u8>(), 192),
        ) {
            let mut octets = packet(&[&DISCOVER[..], &options].concat());
            octets[field::SERVER_NAME.start..field::FILE.end].copy_from_slice(&fields);
            let message = message(&octets).expect("it has a type");
            for text in [message.host_name, message.fqdn, message.vendor_class].into_iter().flatten() {
                prop_assert!(!text.is_empty() && text.len() <= MAX_TEXT);
                prop_assert!(!text.chars().any(char::is_control));
            }
            let most = octets.len();
            prop_assert!(message.parameters.len() <= most && message.client_id.len() <= most);
        }

        #[test]
        fn any_octets_are_safe(octets in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = message(&octets);
        }
    }

    #[test]
    fn every_start_of_a_message_is_safe() {
        let options = [
            &DISCOVER[..],
            &option(12, b"phone"),
            &option(60, b"x"),
            &[255],
        ]
        .concat();
        let octets = packet(&options);
        for length in 0..octets.len() {
            if let Ok(message) = message(&octets[..length]) {
                assert!(message.host_name.is_none_or(|name| name == "phone"));
            }
        }
    }
}
