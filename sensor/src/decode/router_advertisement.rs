//! Router advertisements (RFC 4861, section 4.2), and the resolvers in them (RFC 8106, section 5.1).

use std::net::Ipv6Addr;

use super::{Failure, reader::Reader};

/// The most resolvers that are read of one advertisement; further ones are left out.
pub const MAX_RESOLVERS: usize = 32;

/// The bytes of an advertisement before its options.
const HEADER: usize = 16;

/// The content of an advertisement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertisement {
    /// The resolvers, at most [`MAX_RESOLVERS`], without those that are to be used no longer.
    pub dns_servers: Vec<Ipv6Addr>,
}

/// Reads an ICMPv6 message from its type on.
///
/// # Errors
///
/// [`Failure::Unsupported`] where it is no router advertisement, [`Failure::Truncated`] where it ends early, and
/// [`Failure::Malformed`] where an option has no length, or resolvers are not whole.
pub fn message(octets: &[u8]) -> Result<Advertisement, Failure> {
    const ADVERTISEMENT: u8 = 134;
    const RESOLVERS: u8 = 25;

    let mut reader = Reader(octets);
    let header = reader.take(HEADER).ok_or(Failure::Truncated)?;
    if header[..2] != [ADVERTISEMENT, 0] {
        return Err(Failure::Unsupported);
    }
    let mut message = Advertisement::default();
    while !reader.is_empty() {
        let kind = reader.u8().ok_or(Failure::Truncated)?;
        // In units of eight bytes, type and length included.
        let length = usize::from(reader.u8().ok_or(Failure::Truncated)?);
        if length == 0 {
            return Err(Failure::Malformed);
        }
        let mut option = Reader(reader.take(8 * length - 2).ok_or(Failure::Truncated)?);
        if kind != RESOLVERS {
            continue;
        }
        let (Some(_reserved), Some(lifetime)) = (option.u16(), option.u32()) else {
            return Err(Failure::Malformed);
        };
        while !option.is_empty() {
            let address: [u8; 16] = option.array().ok_or(Failure::Malformed)?;
            if lifetime > 0 && message.dns_servers.len() < MAX_RESOLVERS {
                message.dns_servers.push(address.into());
            }
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];
    const SECOND: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x54];

    /// As radvd sends it: the source's link-layer address, a prefix's start, and options of one's own.
    fn advertisement(options: &[&[u8]]) -> Vec<u8> {
        let header = [
            134, 0, 0x12, 0x34, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let link_layer = [1, 1, 2, 0, 0, 0, 0, 1];
        [&header[..], &link_layer, &options.concat()].concat()
    }

    fn resolvers(lifetime: u8, addresses: &[[u8; 16]]) -> Vec<u8> {
        let mut option = vec![25, 1 + 2 * addresses.len() as u8, 0, 0, 0, 0, 0, lifetime];
        option.extend(addresses.as_flattened());
        option
    }

    #[test]
    fn the_resolvers_are_read_that_are_to_be_used() {
        let octets = advertisement(&[
            &resolvers(60, &[FIRST]),
            &[31, 1, 0, 0, 0, 0, 0, 0],
            &resolvers(60, &[SECOND, FIRST]),
            &resolvers(0, &[[9; 16]]),
        ]);
        let servers = message(&octets).map(|message| message.dns_servers);
        assert_eq!(
            servers,
            Ok([FIRST, SECOND, FIRST].map(Ipv6Addr::from).to_vec())
        );
        // Every prefix is refused, or has fewer of them.
        for len in 0..octets.len() {
            match message(&octets[..len]) {
                Ok(message) => assert!(message.dns_servers.len() <= 3),
                Err(failure) => assert_eq!(failure, Failure::Truncated),
            }
        }
        let many = resolvers(1, &[FIRST; 100]);
        let many = message(&advertisement(&[&many])).map(|message| message.dns_servers.len());
        assert_eq!(many, Ok(MAX_RESOLVERS));
    }

    #[test]
    fn what_is_no_advertisement_is_refused_for_its_reason() {
        let mut other = advertisement(&[]);
        other[0] = 133;
        let mut half = resolvers(60, &[FIRST]);
        half[1] = 2;
        half.truncate(16);
        for (octets, failure) in [
            (other, Failure::Unsupported),
            (vec![134, 0], Failure::Truncated),
            (
                advertisement(&[&[25, 0, 0, 0, 0, 0, 0, 0]]),
                Failure::Malformed,
            ),
            (advertisement(&[&half]), Failure::Malformed),
        ] {
            assert_eq!(message(&octets), Err(failure));
        }
    }
}
