//! Devices that are probably one: a phone that made up a new MAC address, and the phone it was.

use std::collections::HashMap;

use super::{Identity, Mac, host_name, is_random};

/// The traits that a device with a new MAC address shares with its former one.
#[derive(PartialEq, Eq, Hash)]
enum Trait<'a> {
    /// Host name in lower case, and the DHCP client's requested parameters and vendor class.
    Named(String, &'a [u8], Option<&'a str>),
    /// The client's own identifier (RFC 4361), and its requested parameters.
    Identified(&'a [u8], &'a [u8]),
}

/// Pairs of a device with a MAC address that it made up, and the known device it probably is.
///
/// `devices` are all, each with the seconds since the Unix epoch at which it was first and last
/// seen. Two are said to be the same where the later one has a random address, began after the
/// other was last seen, and has the same host name, list of DHCP parameters (option 55) and
/// vendor class (option 60). A name that many devices have, such as `iPhone` or none, does not
/// count; the identifier that a DHCP client made for itself does, whatever the name. Of several
/// known devices, it is the one that was seen last. Nothing is merged: people decide.
pub fn probably_same(devices: &[(Mac, &Identity, f64, f64)]) -> Vec<(Mac, Mac)> {
    let mut by_trait: HashMap<Trait<'_>, Vec<usize>> = HashMap::new();
    for (at, (_, identity, ..)) in devices.iter().enumerate() {
        for common in traits(identity) {
            by_trait.entry(common).or_default().push(at);
        }
    }
    // In the order of their ends, the last one before a moment is found by bisection.
    for group in by_trait.values_mut() {
        group.sort_by(|a, b| devices[*a].3.total_cmp(&devices[*b].3));
    }
    let random = devices.iter().filter(|(mac, ..)| is_random(*mac));
    random
        .filter_map(|(mac, identity, first_seen, _)| {
            let candidates = traits(identity).filter_map(|common| {
                let group = by_trait.get(&common)?;
                let before = group.partition_point(|at| devices[*at].3 <= *first_seen);
                let others = group[..before].iter().rev();
                others.map(|at| &devices[*at]).find(|(other, _, first, _)| {
                    // A device of one packet ends as it begins.
                    other != mac && first < first_seen
                })
            });
            let known = candidates.max_by(|a, b| a.3.total_cmp(&b.3))?;
            Some((*mac, known.0))
        })
        .collect()
}

fn traits(identity: &Identity) -> impl Iterator<Item = Trait<'_>> {
    let client = &identity.client;
    let parameters = client.parameters.as_deref().filter(|list| !list.is_empty());
    let named = parameters
        .zip(identity.host_name())
        .and_then(|(parameters, name)| {
            let class = client.vendor_class.as_deref();
            (!host_name::is_common(name))
                .then(|| Trait::Named(name.to_lowercase(), parameters, class))
        });
    let identified = parameters
        .zip(client.duid.as_deref())
        .map(|(parameters, duid)| Trait::Identified(duid, parameters));
    named.into_iter().chain(identified)
}
