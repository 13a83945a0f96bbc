//! DHCP for IPv6 (RFC 8415).

use std::net::Ipv6Addr;

use super::{
    Failure,
    dhcp4::{labels, text},
};

/// The most relays a message may have passed (RFC 8415, section 7.6: `HOP_COUNT_LIMIT`).
pub const MAX_RELAYS: usize = 8;

/// The most octets of an identifier (RFC 8415, section 11.1: 128 and the type).
pub const MAX_DUID: usize = 130;

/// The most addresses, texts of vendor classes and vendor options that are read of a message.
pub const MAX_ITEMS: usize = 32;

/// The types of messages that relays wrap others in (RFC 8415, section 7.3).
const RELAYED: [u8; 2] = [12, 13];
/// The largest type that is known: the replies of failover and queries (RFC 5460, RFC 8156) stand
/// between, and are read like all others.
const MAX_KIND: u8 = 36;

/// The length of a header: type and transaction; of a relay's: type, hops, two addresses.
const HEADER: usize = 4;
const RELAY_HEADER: usize = 34;

/// The numbers of options (RFC 8415, section 21; 23 is of RFC 3646, 39 is of RFC 4704, 79 of RFC 6939).
mod option {
    pub(super) const CLIENT_ID: u16 = 1;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const IA_TA: u16 = 4;
    pub(super) const ADDRESS: u16 = 5;
    pub(super) const REQUESTED: u16 = 6;
    pub(super) const RELAYED: u16 = 9;
    pub(super) const VENDOR_CLASS: u16 = 16;
    pub(super) const VENDOR_OPTIONS: u16 = 17;
    pub(super) const DNS_SERVERS: u16 = 23;
    pub(super) const FQDN: u16 = 39;
    pub(super) const LINK_LAYER: u16 = 79;
}

/// A message, taken out of those that relays wrapped it in. Texts are what people may read, as in
/// [`Dhcp4`](super::dhcp4::Dhcp4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dhcp6 {
    /// The message type: 1 solicit, 2 advertise, 3 request, 4 confirm, 5 renew, 6 rebind, 7 reply, 8 release, 9
    /// decline, 10 reconfigure, 11 information-request.
    pub kind: u8,
    /// The number that matches a reply to its request, 24 bits.
    pub transaction: u32,
    /// How many relays it has passed.
    pub relays: usize,
    /// The client's identifier (option 1), as it is; empty if there is none.
    pub client_duid: Vec<u8>,
    /// The client's MAC address, if its identifier holds one (DUID-LLT and DUID-LL on Ethernet) or a relay
    /// tells it (option 79). An identifier may stay when the address changes.
    pub client: Option<[u8; 6]>,
    /// The addresses in IA_NA and IA_TA: those a client asks for, or a server gives. At most
    /// [`MAX_ITEMS`].
    pub addresses: Vec<Ipv6Addr>,
    /// The resolvers that a server names (option 23), in its order. At most [`MAX_ITEMS`].
    pub dns_servers: Vec<Ipv6Addr>,
    /// The client's name (option 39), without a dot at its end.
    pub fqdn: Option<String>,
    /// The class of the client (option 16): the enterprise, an IANA number, and its texts, at most
    /// [`MAX_ITEMS`].
    pub vendor_class: Option<(u32, Vec<String>)>,
    /// The vendor's own options (option 17): enterprise, number of the option and its value, as it is. At most
    /// [`MAX_ITEMS`].
    pub vendor_options: Vec<(u32, u16, Vec<u8>)>,
    /// The options that the client asks for (option 6), in its order.
    pub requested: Vec<u16>,
    /// All options of the message itself, in order.
    pub options: Vec<u16>,
}

/// Reads the payload of a UDP datagram.
///
/// # Errors
///
/// [`Failure::Truncated`] where an option is not whole, [`Failure::Limit`] for more than
/// [`MAX_RELAYS`] wrappings, [`Failure::Unsupported`] for a type that is not known,
/// [`Failure::Malformed`] where a relay wraps nothing.
pub fn message(payload: &[u8]) -> Result<Dhcp6, Failure> {
    let mut payload = payload;
    let mut relays = 0;
    let mut client = None;
    loop {
        let kind = *payload.first().ok_or(Failure::Truncated)?;
        if kind == 0 || kind > MAX_KIND {
            return Err(Failure::Unsupported);
        }
        if !RELAYED.contains(&kind) {
            break;
        }
        if relays == MAX_RELAYS {
            return Err(Failure::Limit);
        }
        relays += 1;
        let mut wrapped = None;
        for option in options(payload.get(RELAY_HEADER..).ok_or(Failure::Truncated)?) {
            match option? {
                (option::RELAYED, value) => wrapped = Some(value),
                (option::LINK_LAYER, value) => client = ethernet(value),
                _ => {}
            }
        }
        payload = wrapped.ok_or(Failure::Malformed)?;
    }

    let (header, rest) = payload
        .split_first_chunk::<HEADER>()
        .ok_or(Failure::Truncated)?;
    let mut message = Dhcp6 {
        kind: header[0],
        transaction: u32::from_be_bytes(*header) & 0x00ff_ffff,
        relays,
        client,
        ..Dhcp6::default()
    };
    for option in options(rest) {
        let (number, value) = option?;
        message.options.push(number);
        message.option(number, value);
    }
    Ok(message)
}

impl Dhcp6 {
    /// Takes what an option of the message says. One that contradicts its own format says nothing.
    fn option(&mut self, number: u16, value: &[u8]) {
        match number {
            option::CLIENT_ID => {
                self.client_duid = value.get(..MAX_DUID).unwrap_or(value).to_vec();
                self.client = self.client.or_else(|| duid_address(value));
            }
            // Identifier and two times, or the identifier alone, before the options within.
            option::IA_NA => self.addresses_in(value.get(12..)),
            option::IA_TA => self.addresses_in(value.get(4..)),
            option::REQUESTED => {
                let numbers = value.as_chunks().0.iter();
                self.requested = numbers.map(|octets| u16::from_be_bytes(*octets)).collect();
            }
            option::VENDOR_CLASS => {
                if let Some((enterprise, rest)) = value.split_first_chunk() {
                    let texts = texts(rest).take(MAX_ITEMS).collect();
                    self.vendor_class = Some((u32::from_be_bytes(*enterprise), texts));
                }
            }
            option::VENDOR_OPTIONS => {
                if let Some((enterprise, rest)) = value.split_first_chunk() {
                    let enterprise = u32::from_be_bytes(*enterprise);
                    let room = MAX_ITEMS - self.vendor_options.len();
                    self.vendor_options.extend(
                        options(rest)
                            .map_while(Result::ok)
                            .take(room)
                            .map(|(number, value)| (enterprise, number, value.to_vec())),
                    );
                }
            }
            option::DNS_SERVERS => {
                let servers = value.as_chunks::<16>().0.iter();
                let servers = servers.map(|octets| Ipv6Addr::from(*octets));
                self.dns_servers = servers.take(MAX_ITEMS).collect();
            }
            // RFC 4704, section 4: an octet of flags, and the name in the encoding of DNS.
            option::FQDN => self.fqdn = value.get(1..).and_then(labels),
            _ => {}
        }
    }

    fn addresses_in(&mut self, value: Option<&[u8]>) {
        let room = MAX_ITEMS - self.addresses.len();
        let addresses = options(value.unwrap_or_default())
            .map_while(Result::ok)
            .filter(|(number, _)| *number == option::ADDRESS)
            .filter_map(|(_, value)| value.first_chunk::<16>())
            .map(|octets| Ipv6Addr::from(*octets));
        self.addresses.extend(addresses.take(room));
    }
}

/// Options one behind the other: number, length, value (RFC 8415, section 21.1). Ends with a
/// failure where one is not whole.
fn options(mut octets: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Failure>> {
    std::iter::from_fn(move || {
        if octets.is_empty() {
            return None;
        }
        let option =
            octets
                .split_first_chunk()
                .zip(octets.get(2..4))
                .and_then(|((number, _), length)| {
                    let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
                    let (value, rest) = octets[4..].split_at_checked(length)?;
                    Some((u16::from_be_bytes(*number), value, rest))
                });
        octets = option.map_or(&[], |(_, _, rest)| rest);
        Some(
            option.map_or(Err(Failure::Truncated), |(number, value, _)| {
                Ok((number, value))
            }),
        )
    })
}

/// Texts that each have their length in two octets before them (RFC 8415, section 21.16).
fn texts(mut octets: &[u8]) -> impl Iterator<Item = String> {
    std::iter::from_fn(move || {
        let (length, rest) = octets.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (value, rest) = rest.split_at_checked(length)?;
        octets = rest;
        Some(text(value).unwrap_or_default())
    })
}

/// The MAC address in an identifier that was made of one (RFC 8415, sections 11.2 and 11.4).
fn duid_address(duid: &[u8]) -> Option<[u8; 6]> {
    match duid {
        // DUID-LLT has the time between.
        [0, 1, link @ ..] if link.len() == 12 => ethernet(&[&link[..2], &link[6..]].concat()),
        [0, 3, link @ ..] => ethernet(link),
        _ => None,
    }
}

/// A link type, 1 for Ethernet, and the address behind it.
fn ethernet(link: &[u8]) -> Option<[u8; 6]> {
    link.strip_prefix(&[0, 1])?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn option(number: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).expect("the value is short");
        [&number.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
    }

    fn packet(kind: u8, options: &[&[u8]]) -> Vec<u8> {
        [&[kind, 0x12, 0x34, 0x56][..], &options.concat()].concat()
    }

    /// The message as a relay forwards it.
    fn relayed(octets: &[u8], options: &[u8]) -> Vec<u8> {
        [&[12, 0][..], &[0; 32], options, &option(9, octets)].concat()
    }

    const ADDRESS: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    const MAC: [u8; 6] = [0x4c, 0x6a, 0xf6, 0x9f, 0xf6, 0x27];

    /// A request with all that is read.
    fn whole() -> Vec<u8> {
        let within = option(5, &[&ADDRESS[..], &[0; 8]].concat());
        packet(
            3,
            &[
                &option(1, &[&[0, 1, 0, 1, 1, 2, 3, 4][..], &MAC].concat()),
                &option(2, &[0, 3, 0, 1, 9, 9, 9, 9, 9, 9]),
                &option(3, &[&[0; 12][..], &within].concat()),
                &option(4, &[&[0; 4][..], &within].concat()),
                &option(6, &[0, 23, 0, 24]),
                &option(8, &[0, 0]),
                &option(16, b"\0\0\x01\x37\0\x08MSFT 5.0\0\x01x"),
                &option(17, &[&[0, 0, 0x11, 0x8b][..], &option(36, b"abc")].concat()),
                &option(23, &[&ADDRESS[..], &[0; 7]].concat()),
                &option(39, b"\x01\x05Annas\x02PC\x00"),
            ],
        )
    }

    fn read(octets: &[u8]) -> Dhcp6 {
        message(octets).expect("the message is right")
    }

    #[test]
    fn a_request_with_all_that_is_read() {
        let address = Ipv6Addr::from(ADDRESS);
        assert_eq!(
            read(&whole()),
            Dhcp6 {
                kind: 3,
                transaction: 0x12_3456,
                relays: 0,
                client_duid: [&[0, 1, 0, 1, 1, 2, 3, 4][..], &MAC].concat(),
                client: Some(MAC),
                addresses: vec![address, address],
                dns_servers: vec![address],
                fqdn: Some("Annas.PC".to_owned()),
                vendor_class: Some((311, vec!["MSFT 5.0".to_owned(), "x".to_owned()])),
                vendor_options: vec![(4491, 36, b"abc".to_vec())],
                requested: vec![23, 24],
                options: vec![1, 2, 3, 4, 6, 8, 16, 17, 23, 39],
            }
        );
    }

    #[test]
    fn relays_wrap_up_to_the_bound() {
        let mut octets = whole();
        for relays in 1..=MAX_RELAYS {
            octets = relayed(&octets, &[]);
            let message = read(&octets);
            assert_eq!((message.relays, message.kind), (relays, 3));
        }
        assert_eq!(message(&relayed(&octets, &[])), Err(Failure::Limit));
    }

    #[test]
    fn the_relay_nearest_to_the_client_tells_its_address() {
        let solicit = packet(1, &[&option(1, &[0, 4, 1, 2])]);
        let near = relayed(&solicit, &option(79, &[&[0, 1][..], &MAC].concat()));
        assert_eq!(read(&near).client, Some(MAC));
        assert_eq!(read(&relayed(&near, &[])).client, Some(MAC));
    }

    #[test]
    fn the_address_in_the_identifier() {
        for (duid, client) in [
            ([&[0, 3, 0, 1][..], &MAC].concat(), Some(MAC)),
            ([&[0, 1, 0, 1, 0, 0, 0, 0][..], &MAC].concat(), Some(MAC)),
            ([&[0, 3, 0, 6][..], &MAC].concat(), None),
            ([&[0, 4][..], &[7; 16]].concat(), None),
            (vec![0, 3, 0, 1, 2], None),
            (vec![], None),
        ] {
            let octets = packet(1, &[&option(1, &duid)]);
            let message = read(&octets);
            assert_eq!(message.client, client, "{duid:?}");
            assert_eq!(message.client_duid, duid);
        }
    }

    #[test]
    fn what_is_listed_is_bounded() {
        let addresses = option(5, &[&ADDRESS[..], &[0; 8]].concat()).repeat(MAX_ITEMS + 1);
        let vendor = [&[0; 4][..], &option(1, b"").repeat(MAX_ITEMS + 1)].concat();
        let texts = [&[0; 4][..], &[0, 1, b'a'].repeat(MAX_ITEMS + 1)].concat();
        let octets = packet(
            1,
            &[
                &option(1, &[7; 300]),
                &option(3, &[&[0; 12][..], &addresses].concat()),
                &option(3, &[&[0; 12][..], &addresses].concat()),
                &option(16, &texts),
                &option(17, &vendor),
                &option(17, &vendor),
            ],
        );
        let message = read(&octets);
        assert_eq!(message.client_duid.len(), MAX_DUID);
        assert_eq!(message.addresses.len(), MAX_ITEMS);
        assert_eq!(message.vendor_options.len(), MAX_ITEMS);
        assert_eq!(
            message.vendor_class.map(|(_, texts)| texts.len()),
            Some(MAX_ITEMS)
        );
    }

    #[test]
    fn an_option_that_contradicts_itself_says_nothing() {
        let octets = packet(
            1,
            &[
                &option(3, &[0; 11]),
                &option(3, &[&[0; 12][..], &[0, 5, 0, 99]].concat()),
                &option(16, &[0, 0]),
                &option(39, &[0, 9, b'a']),
                &option(39, &[]),
            ],
        );
        let message = read(&octets);
        assert_eq!(message.options, [3, 3, 16, 39, 39]);
        assert_eq!((message.addresses.len(), message.fqdn), (0, None));
        assert_eq!(message.vendor_class, None);
    }

    #[test]
    fn what_is_no_dhcp_is_refused() {
        for (octets, failure) in [
            (&[][..], Failure::Truncated),
            (&[0, 0, 0, 0], Failure::Unsupported),
            (&[200, 0, 0, 0], Failure::Unsupported),
            (&[1, 0, 0], Failure::Truncated),
            (&[1, 0, 0, 0, 0, 1, 0, 5, 1], Failure::Truncated),
            (&[1, 0, 0, 0, 0, 1, 0], Failure::Truncated),
            (&[12, 0, 0], Failure::Truncated),
            (&[&[12][..], &[0; 33]].concat(), Failure::Malformed),
        ] {
            assert_eq!(message(octets), Err(failure), "{octets:?}");
        }
    }

    #[test]
    fn the_start_of_a_message_is_whole_only_between_options() {
        let octets = whole();
        let known = read(&octets).options.len();
        let whole = (0..octets.len()).filter(|length| message(&octets[..*length]).is_ok());
        assert_eq!(whole.count(), known);
    }

    proptest! {
        #[test]
        fn any_octets_are_safe(octets in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = message(&octets);
        }

        #[test]
        fn changed_messages_are_safe(
            wrappings in 0usize..3,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut octets = whole();
            for _ in 0..wrappings {
                octets = relayed(&octets, &[]);
            }
            for (place, octet) in changes {
                let place = place.index(octets.len());
                octets[place] = octet;
            }
            if let Ok(message) = message(&octets) {
                let texts = message.vendor_class.map(|(_, texts)| texts).unwrap_or_default();
                for text in message.fqdn.into_iter().chain(texts) {
                    prop_assert!(!text.chars().any(char::is_control));
                }
            }
        }
    }
}
