//! DHCP for IPv4 (RFC 2131, RFC 2132).
//!
//! By hand: the order of options is evidence of what a device is, and one that is odd must not
//! hide those behind it.

use std::net::Ipv4Addr;

use super::{Failure, text::readable};

/// The longest text that is kept of an option, in octets.
pub const MAX_TEXT: usize = 255;

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

/// What tells DHCP from BOOTP (RFC 2131, section 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// The numbers of options (RFC 2132; 81 is of RFC 4702).
mod option {
    pub(super) const PAD: u8 = 0;
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
    /// A server sent it.
    pub reply: bool,
    /// The number that ties a reply to its request.
    pub transaction: u32,
    /// What it is (option 53): 1 discover, 2 offer, 3 request, 4 decline, 5 acknowledged, 6 refused,
    /// 7 release, 8 inform.
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
    /// The client's name for itself (option 12).
    pub host_name: Option<String>,
    /// The client's full name (option 81, in either encoding), without a dot at its end.
    pub fqdn: Option<String>,
    /// What kind of client it is (option 60), for example `android-dhcp-13`.
    pub vendor_class: Option<String>,
    /// The client's identifier (option 61), as it is; empty if there is none.
    pub client_id: Vec<u8>,
    /// The options that the client asks for (option 55), in its order.
    pub parameters: Vec<u8>,
    /// All options in the order of their first appearance, without padding and end.
    pub options: Vec<u8>,
    /// Whether all options could be read: if not, one is longer than what is there, and those from
    /// it on are missing.
    pub whole: bool,
}

/// Reads the payload of a UDP datagram.
///
/// # Errors
///
/// [`Failure::Truncated`] where the fixed fields are not whole, [`Failure::Unsupported`] for BOOTP and for other links than Ethernet, [`Failure::Malformed`] for
/// what is neither request nor reply, or has no message type.
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
