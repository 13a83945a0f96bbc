//! IPv4 addresses within IPv6 addresses: a rule about an IPv4 prefix applies to these too.
//!
//! | form | IPv6 prefix | source |
//! | --- | --- | --- |
//! | mapped | `::ffff:0:0/96` | RFC 4291, section 2.5.5.2 |
//! | 6to4 | `2002::/16` | RFC 3056, section 2 |
//! | NAT64 | `64:ff9b::/96`, and those of the configuration | RFC 6052, section 2.2 |

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// The lengths that prefixes of NAT64 have (RFC 6052, section 2.2).
pub const NAT64_LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
const SIX_TO_FOUR: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);
const WELL_KNOWN: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// The byte that NAT64 leaves zero within an address, where its prefix is shorter than 96 bits: bits 64 to
/// 71.
const RESERVED: usize = 8;

/// The IPv6 prefixes behind which IPv4 addresses stand.
#[derive(Clone, Debug)]
pub struct Embedded(Vec<Ipv6Net>);

impl Default for Embedded {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Embedded {
    /// The forms that are the same everywhere, and further prefixes of NAT64, which have one of
    /// [`NAT64_LENGTHS`]. Those that are in use come first: mapped addresses stand in no packet of an honest
    /// sender, and 6to4 is deprecated (RFC 7526).
    pub fn new(nat64: &[Ipv6Net]) -> Self {
        let mut prefixes = vec![WELL_KNOWN];
        for prefix in nat64 {
            if NAT64_LENGTHS.contains(&prefix.prefix_len()) && !prefixes.contains(prefix) {
                prefixes.push(*prefix);
            }
        }
        prefixes.extend([SIX_TO_FOUR, MAPPED]);
        Self(prefixes)
    }

    /// The IPv6 prefixes of the addresses in which those of an IPv4 prefix stand: one of each form, in the
    /// same order for every prefix.
    pub fn forms(&self, prefix: Ipv4Net) -> impl Iterator<Item = Ipv6Net> {
        self.0.iter().filter_map(move |within| {
            let octets = places(*within);
            let mut address = within.addr().octets();
            for (place, octet) in octets.into_iter().zip(prefix.network().octets()) {
                address[place] = octet;
            }
            // The prefix ends within the last byte that it has bits of.
            let bits = usize::from(prefix.prefix_len());
            let length = match bits.checked_sub(1) {
                None => usize::from(within.prefix_len()),
                Some(last) => 8 * octets[last / 8] + last % 8 + 1,
            };
            Ipv6Net::new(address.into(), u8::try_from(length).ok()?).ok()
        })
    }

    /// The IPv4 address that stands in an IPv6 address.
    pub fn inside(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        // One prefix may be within another.
        let holders = self.0.iter().filter(|within| within.contains(&address));
        let within = holders.max_by_key(|within| within.prefix_len())?;
        let octets = address.octets();
        Some(Ipv4Addr::from(places(*within).map(|place| octets[place])))
    }
}

/// The places of the four bytes of an IPv4 address behind a prefix.
fn places(within: Ipv6Net) -> [usize; 4] {
    let mut place = usize::from(within.prefix_len()) / 8;
    let is_nat64 = within != SIX_TO_FOUR;
    [(); 4].map(|()| {
        if is_nat64 && place == RESERVED {
            place += 1;
        }
        place += 1;
        place - 1
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().expect("a prefix")
    }

    #[test]
    fn every_form_of_a_prefix() {
        let check = |prefix: &str, forms: &[&str]| {
            let found: Vec<_> = Embedded::default().forms(net(prefix)).collect();
            let forms: Vec<Ipv6Net> = forms.iter().map(|text| net(text)).collect();
            assert_eq!(found, forms, "{prefix}");
        };
        check(
            "203.0.113.0/24",
            &[
                "64:ff9b::cb00:7100/120",
                "2002:cb00:7100::/40",
                "::ffff:203.0.113.0/120",
            ],
        );
        check(
            "203.0.113.7/32",
            &[
                "64:ff9b::cb00:7107/128",
                "2002:cb00:7107::/48",
                "::ffff:203.0.113.7/128",
            ],
        );
        check("0.0.0.0/0", &["64:ff9b::/96", "2002::/16", "::ffff:0:0/96"]);
    }

    /// The table of RFC 6052, section 2.4.
    #[test]
    fn networks_have_prefixes_of_their_own() {
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:0"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            let embedded = Embedded::new(&[net(prefix)]);
            let form = embedded.forms(net("192.0.2.33/32")).nth(1);
            let form = form.expect("its own prefix is the second");
            assert_eq!(form.addr(), net::<Ipv6Addr>(address), "{prefix}");
            let inside = embedded.inside(net(address));
            assert_eq!(inside, Some(Ipv4Addr::new(192, 0, 2, 33)), "{prefix}");
        }
        // No prefix of NAT64 is as long.
        assert_eq!(Embedded::new(&[net("2001:db8::/33")]).0.len(), 3);
    }

    proptest! {
        #[test]
        fn an_address_is_in_a_form_of_what_it_holds(
            address: u32,
            bits in 0_u8..=32,
            other: u32,
            length in proptest::sample::select(&NAT64_LENGTHS[..]),
        ) {
            let own = Ipv6Net::new_assert(net("2001:db8::"), length);
            let embedded = Embedded::new(&[own]);
            let prefix = Ipv4Net::new_assert(address.into(), bits).trunc();
            for form in embedded.forms(Ipv4Net::from(Ipv4Addr::from(other))) {
                prop_assert_eq!(embedded.inside(form.addr()), Some(other.into()));
            }
            let holds = prefix.contains(&Ipv4Addr::from(other));
            let whole = embedded.forms(Ipv4Net::from(Ipv4Addr::from(other)));
            for (form, whole) in embedded.forms(prefix).zip(whole) {
                prop_assert_eq!(form.contains(&whole.addr()), holds, "{} {}", form, whole);
                prop_assert_eq!(form.trunc(), form);
            }
        }
    }
}
