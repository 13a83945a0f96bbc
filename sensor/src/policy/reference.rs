//! Compares the compiled tables with the words of the documentation, read here anew and not by
//! [`explain`](super::explain), and tests properties that hold for all policies.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use proptest::{collection::vec, option, prelude::*, sample::select};
use sensor_ebpf::{flow::FlowKey, policy::Layer};

use super::{
    tests::{House, NOW, a_facts, a_house, an_address, decided, key, stands_for},
    *,
};
use crate::{
    catalog::lists::{Category, Entry, Listed, Lists},
    policy::{Policy, Ports, Transport},
};

/// A flow, or a question, and its device.
struct Asked<'a> {
    house: &'a House,
    device: DeviceFacts<'a>,
    layer: Layer,
    address: IpAddr,
    transport: Transport,
    port: u16,
}

impl Asked<'_> {
    fn is_of(&self, devices: &[DeviceSelector]) -> bool {
        devices.is_empty() || devices.iter().any(|device| self.device.are(device))
    }

    fn is_at(&self, ports: &[Ports]) -> bool {
        ports.is_empty()
            || self.layer != Layer::Dns
                && ports.iter().any(|range| {
                    let transports = [Transport::Any, self.transport];
                    transports.contains(&range.transport)
                        && (range.first..=range.last).contains(&self.port)
                })
    }

    /// No address is the condition of a policy that names none.
    fn is_in_addresses_of(&self, policy: &Policy) -> bool {
        is_anywhere(policy)
            || self.layer != Layer::Dns && !self.house.prefixes_of(policy, self.address).is_empty()
    }
}

fn is_anywhere(policy: &Policy) -> bool {
    policy.remotes.is_empty() && policy.countries.is_empty() && policy.networks.is_empty()
}

type Decided = Option<(Option<String>, &'static str)>;

fn holds(above: &str, name: &str) -> bool {
    name == above || name.ends_with(&format!(".{above}"))
}

/// Whether a list excepts a name.
fn is_excepted(house: &House, name: &str) -> bool {
    let of_policies = house.lists.iter().map(|(_, list)| &*list.names);
    let mut is_excepted = false;
    for lists in std::iter::once(&house.catalog.lists).chain(of_policies) {
        lists.each_name(|entry| {
            is_excepted |=
                entry.listed.category == Some(Category::NeverBlock) && holds(entry.what, name);
        });
    }
    is_excepted
}

/// The decision about a name.
fn of_name<'h>(house: &'h House, asked: &Asked<'_>, name: &str) -> Decided {
    // Commands stand above all: the longest, then the newest, which is kept last.
    let mut said: Vec<_> = house.temporary.iter().rev().collect();
    said.retain(|said| holds(&said.domain, name) && asked.is_of(said.device.as_slice()));
    said.sort_by_key(|said| std::cmp::Reverse(said.domain.len()));
    if let Some(said) = said.first() {
        return Some((None, said.action().name()));
    }

    let of_name = |lists: &'h Lists| {
        let mut names = Vec::new();
        lists.each_name(|entry| {
            if holds(entry.what, name) {
                names.push(entry.what.to_owned());
            }
        });
        let listed = |name: String| {
            let listed = lists.of_name(&name).expect("it was visited");
            (name, listed)
        };
        names.into_iter().map(listed).collect::<Vec<_>>()
    };
    let known: BTreeMap<String, Listed<'_>> = of_name(&house.catalog.lists).into_iter().collect();
    let of_lists: Vec<_> = house
        .lists
        .iter()
        .flat_map(|(file, list)| {
            let names = of_name(&list.names).into_iter();
            names.map(move |(what, listed)| (file, Entry { what, listed }))
        })
        .collect();
    let is_never = |listed: &Listed<'_>| listed.category == Some(Category::NeverBlock);
    let never = known.iter().filter(|(_, listed)| is_never(listed));
    let never = never.map(|(name, _)| name.len());
    let excepted = of_lists.iter().filter(|(_, entry)| is_never(&entry.listed));
    let never = never
        .chain(excepted.map(|(_, entry)| entry.what.len()))
        .max();
    let longest = |has: &dyn Fn(&Listed<'_>) -> bool| {
        let having = known.iter().filter(|(_, listed)| has(listed));
        having.max_by_key(|(name, _)| name.len())
    };
    let category = longest(&|listed| listed.category.is_some());
    let owner = longest(&|listed| listed.owner.is_some());

    let mut best: Option<(usize, &Policy, Action)> = None;
    for policy in &house.policies {
        if !asked.is_of(&policy.devices) || !house.zone.is_within(&policy.schedule, NOW) {
            continue;
        }
        let mut says = |length: usize, action| {
            // A later policy wins only by a longer name.
            if best.is_none_or(|(longest, ..)| length > longest) {
                best = Some((length, policy, action));
            }
        };
        let explicit = |name: &str| never.is_none_or(|never| name.len() >= never);
        if asked.is_at(&policy.ports) && asked.is_in_addresses_of(policy) {
            for domain in &policy.domains {
                if holds(domain, name) && explicit(domain) {
                    says(domain.len(), policy.action);
                }
            }
            if never.is_none() {
                for (file, entry) in &of_lists {
                    if policy.lists.iter().any(|list| list == file) {
                        says(entry.what.len(), policy.action);
                    }
                }
                if let Some((name, listed)) = category
                    && policy
                        .categories
                        .iter()
                        .any(|wanted| Some(*wanted) == listed.category)
                {
                    says(name.len(), policy.action);
                }
                if let Some((name, listed)) = owner
                    && policy.owners.iter().any(|wanted| {
                        listed
                            .owner
                            .is_some_and(|owner| owner.eq_ignore_ascii_case(wanted))
                    })
                {
                    says(name.len(), policy.action);
                }
            }
        }
        if let Some(action) = policy.encrypted_dns {
            let discovery = [
                "use-application-dns.net",
                "mask.icloud.com",
                "mask-h2.icloud.com",
                "_dns.resolver.arpa",
            ];
            for found in discovery {
                if holds(found, name) && explicit(found) {
                    says(found.len(), action);
                }
            }
            let bypass = |listed: &Listed<'_>| listed.category == Some(Category::DnsBypass);
            if never.is_none() {
                for (found, _) in known.iter().filter(|(_, listed)| bypass(listed)) {
                    says(found.len(), action);
                }
            }
        }
    }
    best.map(|(_, policy, action)| (Some(policy.name.clone()), action.name()))
}

/// Whether an address is on the link itself, where nothing is refused.
pub(super) fn is_on_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_link_local(),
        IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
    }
}

/// The decision about an address.
fn of_address(house: &House, asked: &Asked<'_>) -> Decided {
    if is_on_link(asked.address) {
        return None;
    }
    let only = |port, transport| {
        asked.is_at(&[Ports {
            first: port,
            last: port,
            transport,
        }])
    };
    let resolves = house.catalog.resolvers.encrypted_addresses();
    // The bits of the address by which it is a resolver's.
    let resolves = resolves.into_iter().find_map(|address| {
        let mut inside = stands_for(asked.address);
        match address == asked.address {
            true => Some(IpNet::from(address).prefix_len()),
            false => inside.find_map(|(inside, before)| (address == inside).then_some(before + 32)),
        }
    });
    let mut best: Option<(u8, &Policy, Action)> = None;
    for policy in &house.policies {
        if !asked.is_of(&policy.devices) || !house.zone.is_within(&policy.schedule, NOW) {
            continue;
        }
        // The length of a prefix from 1; 0 is everything.
        let mut says = |length: u8, action| {
            if best.is_none_or(|(longest, ..)| length > longest) {
                best = Some((length, policy, action));
            }
        };
        let Policy {
            domains,
            lists,
            owners,
            categories,
            ..
        } = policy;
        let by_name = !domains.is_empty()
            || !lists.is_empty()
            || !owners.is_empty()
            || !categories.is_empty();
        let aside = policy.encrypted_dns.is_some() || policy.quic.is_some();
        let nothing = is_anywhere(policy) && policy.ports.is_empty();
        if !by_name && asked.is_at(&policy.ports) && !(nothing && aside) {
            if is_anywhere(policy) {
                says(0, policy.action);
            }
            for prefix in house.prefixes_of(policy, asked.address) {
                says(prefix.prefix_len() + 1, policy.action);
            }
        }
        if let Some(action) = policy.quic
            && only(443, Transport::Udp)
        {
            says(0, action);
        }
        if let Some(action) = policy.encrypted_dns {
            if only(853, Transport::Any) {
                says(0, action);
            }
            if let Some(bits) = resolves
                && only(443, Transport::Any)
            {
                says(bits + 1, action);
            }
        }
    }
    best.map(|(_, policy, action)| (Some(policy.name.clone()), action.name()))
}

/// Names that the policies of a house may be about, their neighbours, and names below.
fn names() -> Vec<String> {
    let mut names = vec!["example".to_owned(), "ab.example".to_owned()];
    let mut deepest = vec!["b.example".to_owned()];
    for _ in 0..5 {
        names.extend_from_slice(&deepest);
        let below = deepest.iter().flat_map(|name| {
            let labels = ["a", "c"].into_iter();
            labels.map(move |label| format!("{label}.{name}"))
        });
        deepest = below.collect();
    }
    let more = ["mask.icloud.com", "icloud.com", "x._dns.resolver.arpa"];
    names.extend(more.map(str::to_owned));
    names
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tables_say_what_the_documentation_says(
        house in a_house(),
        device in a_facts(),
        address in an_address(),
        transport in select(&[Transport::Tcp, Transport::Udp][..]),
        port in select(&[443_u16, 80, 853, 8443][..]),
        leads_to in select(names()),
    ) {
        let (in_force, policies) = house.in_force(&device).expect("it fits");
        let key: FlowKey = key(device.mac, address, transport, port);
        let mut asked = Asked { house: &house, device, layer: Layer::Address, address, transport, port };
        let by_address = decided(in_force.judge_address(&key), &policies);
        prop_assert_eq!(by_address, of_address(&house, &asked));
        for name in names() {
            for layer in [Layer::Dns, Layer::Tls, Layer::Quic, Layer::Http] {
                asked.layer = layer;
                let judged = in_force.judge_name(&key, &name, layer);
                let judged = judged.and_then(|decision| decided(decision, &policies));
                let own = of_name(&house, &asked, &name);
                prop_assert_eq!(&judged, &own, "{} {:?}", name, layer);
                let targets = [leads_to.clone().into()];
                let judged = in_force.judge_alias(&key, &name, &targets, layer);
                let judged = judged.and_then(|decision| decided(decision, &policies));
                let refuses = |decided: &Decided| {
                    matches!(decided, Some((_, "reject" | "drop")))
                };
                let by_target = of_name(&house, &asked, &leads_to);
                let is_final = refuses(&own) || matches!(own, Some((_, "allow")));
                let is_kept = is_final || !refuses(&by_target) || is_excepted(&house, &name);
                let expected = if is_kept { own } else { by_target };
                prop_assert_eq!(judged, expected, "{} to {} {:?}", name, leads_to, layer);
            }
        }
    }

    #[test]
    fn what_commands_change_is_compiled_as_if_all_was(
        house in a_house(),
        kept in vec(any::<bool>(), 8),
        more in vec((select(names()), any::<bool>(), option::of(0_u8..3)), 0..4),
        seed in 0_usize..8,
    ) {
        let said = |(domain, blocks, device): (String, bool, Option<u8>)| Override {
            domain,
            device: device.map(|number| DeviceSelector::Mac([2, 0, 0, 0, 0, number])),
            blocks,
            since: 9e9 + seed as f64,
            holds: Holds::Always,
        };
        let (policies, before) = (&house.policies, house.temporary.clone());
        let kept = before.iter().zip(kept).filter(|(_, kept)| *kept);
        let kept = kept.map(|(said, _)| said.clone());
        let after: Vec<_> = kept.chain(more.into_iter().map(said)).collect();
        let identities = policy_names(policies, &after).map(str::to_owned);
        let names_of_all = identities.chain([BLOCKED, ALLOWED].map(str::to_owned));
        let identities: HashMap<_, _> = names_of_all.zip(1..).collect();
        let of = |said: &[Override]| {
            compile(policies, said, &house.catalog, &house.lists, &identities)
        };
        let (Ok(first), Ok(whole)) = (of(&before), of(&after)) else { return Ok(()) };
        let said = (&before[..], &after[..]);
        let again = recompile(&first, said, policies, &house.catalog, &house.lists, &identities);
        let Some(again) = again else { return Ok(()) };
        prop_assert_eq!(again.names.count, whole.names.count);
        prop_assert_eq!(again.name_rules, whole.name_rules);
        prop_assert_eq!(again.strict_rules, whole.strict_rules);
        prop_assert_eq!(again.exceptions.len(), whole.exceptions.len());
        // Rules have the same numbers in both, and chains need not.
        prop_assert_eq!(&again.rules, &whole.rules);
        let chain = |compiled: &Compiled, number: Option<u32>| {
            let chain = number.map(|number| compiled.chains[number as usize]);
            chain.map_or_else(Vec::new, |chain| chain.rules[..chain.len as usize].to_vec())
        };
        for name in names() {
            let of = |compiled: &Compiled| chain(compiled, compiled.chain_of(&name));
            prop_assert_eq!(of(&again), of(&whole), "{}", name);
        }
        prop_assert_eq!(chain(&again, Some(0)), chain(&whole, Some(0)));
        for (prefix, number) in &whole.prefixes {
            let number_again = again.prefixes.get(prefix).copied();
            prop_assert_eq!(chain(&again, number_again), chain(&whole, Some(*number)));
        }
        // Back, on top of the buckets that are changed already.
        let said = (&after[..], &before[..]);
        let back = recompile(&again, said, policies, &house.catalog, &house.lists, &identities);
        let Some(back) = back else { return Ok(()) };
        prop_assert_eq!(back.names.count, first.names.count);
        for name in names() {
            let of = |compiled: &Compiled| chain(compiled, compiled.chain_of(&name));
            prop_assert_eq!(of(&back), of(&first), "{}", name);
        }
    }

    #[test]
    fn what_refuses_an_unnamed_flow_refuses_every_name_at_its_address(
        house in a_house(),
        device in a_facts(),
        others in a_facts(),
        address in an_address(),
        at in prop::sample::subsequence(names(), 1..=3),
        transport in select(&[Transport::Tcp, Transport::Udp][..]),
        port in select(&[443_u16, 80, 853, 8443][..]),
    ) {
        let (mut in_force, _) = house.in_force(&device).expect("it fits");
        let rules = in_force.compiled.rules_of(&others, &house.zone, Some(NOW));
        in_force.devices.insert(others.mac, rules);
        let learned = at.iter().fold(u64::MAX, |set, name| set & in_force.compiled.refusing(name, &[]));
        for mac in [device.mac, others.mac, [0; 6]] {
            let key = key(mac, address, transport, port);
            let unnamed = in_force.judge_learned(&key, learned);
            if unnamed.is_some_and(|decision| decision.verdict.refuses()) {
                for name in &at {
                    let named = in_force.judge_name(&key, name, Layer::Tls);
                    prop_assert!(
                        named.is_some_and(|decision| decision.verdict.refuses()),
                        "{} {:?}", name, named
                    );
                }
            } else {
                prop_assert!(unnamed.is_none(), "{:?}", unnamed);
            }
        }
    }
}
