//! The semantics of policies: the table, row by row, and the compiled tables held against a plain
//! reading of the policies.

use std::{collections::HashMap, net::IpAddr, path::Path, sync::Arc};

use proptest::{prelude::*, sample::select};
use sensor_ebpf::{
    flow::{Direction, FlowKey},
    parse::{Address, Family, Mac, Parsed, Piece, Ports as WirePorts},
    policy::{Decision, Layer, Verdict},
};
use strum::VariantArray as _;

use super::{
    explain::{
        Deciding, Explanation, Judgement, Loss, Match, NamedBy, Reason, RefusedBefore, Subject,
        What, explain, named_by, refused_before_a_name, testing::decides,
    },
    *,
};
use crate::{
    catalog::{
        Catalog, NetworkSelector,
        embedded::Embedded,
        lists::{About, Category, Lists},
        networks::{
            Networks,
            testing::{Entry, networks},
        },
        resolvers::Resolvers,
    },
    config::{Config, never_allowing},
    policy::{Policy, Ports, Transport},
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

/// 2026-11-23, a Monday, at noon.
pub(super) const NOW: f64 = 1_795_435_200.0;

/// Everything that a decision depends on, owned.
#[derive(Debug)]
pub(super) struct House {
    pub(super) policies: Vec<Policy>,
    pub(super) temporary: Vec<Override>,
    pub(super) catalog: Catalog,
    pub(super) lists: PolicyLists,
    pub(super) zone: Zone,
    /// The entries of which the databases of networks in `catalog` were made.
    databases: Vec<Vec<Entry>>,
}

impl House {
    pub(super) fn deciding(&self) -> Deciding<'_> {
        Deciding {
            policies: &self.policies,
            temporary: &self.temporary,
            catalog: &self.catalog,
            lists: &self.lists,
            zone: &self.zone,
            now: Some(NOW),
            offset: 0.0,
        }
    }

    /// The prefixes that hold an address, of those that a policy names itself or by a country or
    /// network.
    pub(super) fn prefixes_of(&self, policy: &Policy, address: IpAddr) -> Vec<IpNet> {
        let is_named = |entry: &&Entry| {
            let (country, asn) = (entry.country, entry.asn);
            let in_country =
                country.is_some_and(|code| policy.countries.contains(&code.to_uppercase()));
            in_country
                || policy.networks.iter().any(|network| match network {
                    NetworkSelector::Asn(number) => asn == Some(*number),
                    NetworkSelector::Organisation(part) => entry
                        .organisation
                        .is_some_and(|name| name.to_lowercase().contains(&part.to_lowercase())),
                })
        };
        let entries = self.databases.iter().flatten().filter(is_named);
        let found = entries.map(|entry| entry.prefix.parse().expect("a prefix"));
        let prefixes = policy.remotes.iter().copied().chain(found);
        let held = prefixes.filter_map(|prefix: IpNet| match prefix {
            _ if prefix.contains(&address) => Some(prefix),
            IpNet::V6(_) => None,
            // An IPv6 address that stands for one of these.
            IpNet::V4(_) => {
                let (_, behind) =
                    stands_for(address).find(|(inside, _)| prefix.contains(inside))?;
                IpNet::new(address, behind + prefix.prefix_len()).ok()
            }
        });
        held.collect()
    }

    /// A configuration of these policies, which knows the group of one of the devices.
    fn config(&self) -> Config {
        let text = "[[interface]]\nname = \"lan0\"\n[[device]]\n\
                    mac = \"02:00:00:00:00:11\"\ngroups = [\"kids\"]\n";
        let checked = Config::parse(text, Path::new("sensor.toml")).expect("it is valid");
        Config {
            policies: self.policies.clone(),
            ..checked.config
        }
    }

    /// The compiled policies for one device, and the identities of policies by number.
    pub(super) fn in_force(
        &self,
        device: &DeviceFacts<'_>,
    ) -> Result<(ActiveRules, Vec<String>), TooLarge> {
        let names = policy_names(&self.policies, &self.temporary);
        let names: Vec<String> = names.map(str::to_owned).collect();
        let numbers = (1..).zip(&names);
        let identities = numbers
            .map(|(number, name)| (name.clone(), number))
            .collect();
        let compiled = compile(
            &self.policies,
            &self.temporary,
            &self.catalog,
            &self.lists,
            &identities,
        )?;
        let rules = compiled.rules_of(device, &self.zone, Some(NOW));
        let in_force = ActiveRules {
            generation: 2,
            devices: HashMap::from([(device.mac, rules)]),
            default_rules: compiled.default_rules(&self.zone, Some(NOW)),
            compiled: Arc::new(compiled),
        };
        Ok((in_force, names))
    }
}

pub(super) fn key(mac: [u8; 6], address: IpAddr, transport: Transport, port: u16) -> FlowKey {
    let (family, destination) = match address {
        IpAddr::V4(address) => (Family::V4, Address::v4(address.octets())),
        IpAddr::V6(address) => (Family::V6, Address::v6(address.octets())),
    };
    let [high, low] = port.to_be_bytes();
    let parsed = Parsed {
        source_mac: Mac::new(mac),
        family,
        protocol: if transport == Transport::Tcp { 6 } else { 17 },
        destination,
        ports: WirePorts::new([0xc0, 0, high, low]),
        piece: Piece::Whole,
        destination_mac: Mac::new([2, 0, 0, 0, 0, 1]),
        ethertype: 0,
        source: Address::v4([0; 4]),
        tcp_flags: 0,
        sequence: 0,
        identification: 0,
        network_offset: 14,
        transport_offset: 34,
        transport_len: 20,
        transport_header_len: 20,
    };
    FlowKey::new(&parsed, Direction::Upload, 1)
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "observe",
        Verdict::Allow => "allow",
        Verdict::Reject => "reject",
        Verdict::Drop => "drop",
    }
}

/// The policy and the action of a decision, in the form of the plain reading.
pub(super) fn decided(
    decision: Decision,
    names: &[String],
) -> Option<(Option<String>, &'static str)> {
    let policy = names.get(usize::from(decision.policy).checked_sub(1)?)?;
    let policy = Some(policy.clone()).filter(|name| name != BLOCKED && name != ALLOWED);
    Some((policy, word(decision.verdict)))
}

// The table.

fn policy(name: &str, domains: &[&str], action: Action) -> Policy {
    Policy {
        name: name.to_owned(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        action,
        ..Policy::default()
    }
}

fn catalog(entries: &[(String, Option<Category>, Option<&str>)]) -> Catalog {
    let mut lists = Lists::default();
    for (name, category, owner) in entries {
        let about = About {
            name: "own",
            category: *category,
            owner: *owner,
        };
        let report = lists.add(about, name.as_bytes()).expect("memory is read");
        assert_eq!(report.bad, 0, "{name}");
    }
    let mut resolvers = Resolvers::default();
    resolvers.add(&lists);
    Catalog {
        embedded: Embedded::default(),
        lists,
        files: HashMap::new(),
        resolvers,
        networks: Networks::default(),
        house_resolvers: Vec::new(),
        top: 1,
    }
}

pub(super) fn house(policies: Vec<Policy>, entries: &[(&str, Category)]) -> House {
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, category)| ((*name).to_owned(), Some(*category), None))
        .collect();
    House {
        policies,
        temporary: Vec::new(),
        catalog: catalog(&entries),
        lists: PolicyLists::default(),
        zone: Zone::default(),
        databases: Vec::new(),
    }
}

/// The IPv4 address that an IPv6 address stands for, and how many bits are before it.
pub(super) fn stands_for(address: IpAddr) -> impl Iterator<Item = (IpAddr, u8)> {
    let found = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => match address.segments() {
            [0, 0, 0, 0, 0, 0xffff, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] => Some((a, b, 96)),
            [0x2002, a, b, ..] => Some((a, b, 16)),
            _ => None,
        },
    };
    let address = |(a, b, before): (u16, u16, u8)| {
        let address = u32::from(a) << 16 | u32::from(b);
        (IpAddr::V4(address.into()), before)
    };
    found.map(address).into_iter()
}

const ANYWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// The ways in which a client may try to reach an IPv4 address past a policy about it, and their outcome.
#[test]
fn ipv4_within_ipv6_is_judged_as_ipv4() {
    const TABLE: [(&str, &str, &str); 14] = [
        ("IPv4", "203.0.113.7", "refused"),
        (
            "NAT64, the well-known prefix",
            "64:ff9b::203.0.113.7",
            "refused",
        ),
        (
            "NAT64, a prefix of the house",
            "2001:db8:64:cb00:71:700::",
            "refused",
        ),
        ("6to4", "2002:cb00:7107::1", "refused"),
        ("mapped", "::ffff:203.0.113.7", "refused"),
        ("a resolver by NAT64", "64:ff9b::8.8.8.8", "refused"),
        ("allowed, IPv4", "203.0.113.200", "passes"),
        ("allowed, NAT64", "64:ff9b::203.0.113.200", "passes"),
        ("allowed, 6to4", "2002:cb00:71c8:5::1", "passes"),
        ("another address by NAT64", "64:ff9b::203.0.114.7", "passes"),
        (
            "another prefix of NAT64",
            "2001:db8:65:cb00:71:700::",
            "passes",
        ),
        (
            "NAT64 of another length",
            "64:ff9b:1::203.0.113.7",
            "passes",
        ),
        ("6to4 of another", "2002:cb00:7207::1", "passes"),
        (
            "the address at the end of another",
            "2001:db8::203.0.113.7",
            "passes",
        ),
    ];
    let about = |name: &str, remotes: &[&str], action| Policy {
        remotes: remotes
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        ..policy(name, &[], action)
    };
    let mut house = house(
        vec![
            about("all", &["203.0.113.0/24"], Action::Reject),
            about("some", &["203.0.113.128/25"], Action::Allow),
            Policy {
                encrypted_dns: Some(Action::Reject),
                ..policy("dns", &[], Action::Observe)
            },
        ],
        &[],
    );
    house.catalog.resolvers = Resolvers::builtin();
    let prefix = "2001:db8:64::/48".parse().expect("a prefix");
    house.catalog.embedded = Embedded::new(&[prefix]);
    let device = DeviceFacts {
        mac: MAC,
        ..DeviceFacts::default()
    };
    let (in_force, _) = house.in_force(&device).expect("it fits");
    for (how, address, outcome) in TABLE {
        let address: IpAddr = address.parse().expect("an address");
        let key = key(device.mac, address, Transport::Tcp, 443);
        let found = match in_force.judge_address(&key).verdict.refuses() {
            true => "refused",
            false => "passes",
        };
        assert_eq!(found, outcome, "{how}: {address}");
        let flow = (address, Transport::Tcp, 443);
        let read = decides(&house.deciding(), &device, None, Layer::Address, flow);
        let is_read = read.is_some_and(|(_, action)| action == "reject");
        assert_eq!(is_read, outcome == "refused", "{how}: {address}");
    }
}

/// Checks the verdict on a name, compiled and plainly read.
#[track_caller]
fn check(house: &House, layer: Layer, name: &str, expected: Option<Verdict>) {
    let device = DeviceFacts {
        mac: MAC,
        ..DeviceFacts::default()
    };
    let (in_force, _) = house.in_force(&device).expect("it fits");
    let key = key(MAC, ANYWHERE, Transport::Tcp, 443);
    let verdict = in_force.judge_name(&key, name, layer);
    assert_eq!(verdict.map(|decision| decision.verdict), expected, "{name}");
    let flow = (ANYWHERE, Transport::Tcp, 443);
    let read = decides(&house.deciding(), &device, Some(name), layer, flow);
    assert_eq!(read.map(|(_, action)| action), expected.map(word), "{name}");
}

const REFUSED: Option<Verdict> = Some(Verdict::Reject);
const ALLOWS: Option<Verdict> = Some(Verdict::Allow);

fn rejects(domain: &str) -> Policy {
    policy("rejects", &[domain], Action::Reject)
}

fn allows(domain: &str) -> Policy {
    policy("allows", &[domain], Action::Allow)
}

#[test]
fn a_name_stands_for_all_below_it_alone() {
    let house = house(vec![rejects("b.example")], &[]);
    check(&house, Layer::Dns, "b.example", REFUSED);
    check(&house, Layer::Tls, "a.B.example", REFUSED);
    check(&house, Layer::Dns, "ab.example", None);
    check(&house, Layer::Dns, "example", None);
}

#[test]
fn the_longest_name_decides_then_the_order() {
    for policies in [
        vec![rejects("b.example"), allows("a.b.example")],
        vec![allows("a.b.example"), rejects("b.example")],
    ] {
        let house = house(policies, &[]);
        check(&house, Layer::Dns, "a.b.example", ALLOWS);
        check(&house, Layer::Dns, "x.a.b.example", ALLOWS);
        check(&house, Layer::Dns, "b.example", REFUSED);
    }
    let order = house(vec![rejects("b.example"), allows("b.example")], &[]);
    check(&order, Layer::Dns, "b.example", REFUSED);
}

#[test]
fn never_block_stands_above_lists_and_above_names_that_are_shorter() {
    const NEVER: [(&str, Category); 1] = [("a.b.example", Category::NeverBlock)];
    for (listed, touched) in [
        ("b.example", "c.b.example"),
        ("x.a.b.example", "x.b.example"),
    ] {
        let list = Path::new("/ads.txt");
        let mut house = house(vec![policy("list", &[], Action::Reject)], &NEVER);
        house.policies[0].lists = vec![list.to_owned()];
        house.lists = PolicyLists::of(&[(list, listed)]).expect("memory is read");
        check(&house, Layer::Dns, "a.b.example", None);
        check(&house, Layer::Dns, "x.a.b.example", None);
        let outside = (listed == "b.example").then_some(Verdict::Reject);
        check(&house, Layer::Dns, touched, outside);
    }
    let shorter = house(vec![rejects("b.example")], &NEVER);
    check(&shorter, Layer::Dns, "a.b.example", None);
    check(&shorter, Layer::Dns, "b.example", REFUSED);
    let equal = house(vec![rejects("a.b.example")], &NEVER);
    check(&equal, Layer::Dns, "a.b.example", REFUSED);
    let longer = house(vec![rejects("x.a.b.example")], &NEVER);
    check(&longer, Layer::Dns, "x.a.b.example", REFUSED);
    check(&longer, Layer::Dns, "a.b.example", None);
}

#[test]
fn a_longer_name_has_its_own_category() {
    let entries = [
        ("b.example", Category::Telemetry),
        ("a.b.example", Category::Advertising),
    ];
    let mut house = house(vec![policy("category", &[], Action::Reject)], &entries);
    house.policies[0].categories = vec![Category::Telemetry];
    check(&house, Layer::Dns, "a.b.example", None);
    check(&house, Layer::Dns, "b.example", REFUSED);
}

fn said(domain: &str, device: Option<[u8; 6]>, blocks: bool, since: f64) -> Override {
    Override {
        domain: domain.to_owned(),
        device: device.map(DeviceSelector::Mac),
        blocks,
        since,
        holds: Holds::Always,
    }
}

#[test]
fn commands_stand_above_all_and_the_newest_above_the_others() {
    let mut house = house(
        vec![rejects("a.b.example")],
        &[("c.b.example", Category::NeverBlock)],
    );
    house.temporary = vec![said("b.example", None, false, 1.0)];
    check(&house, Layer::Dns, "a.b.example", ALLOWS);
    house.temporary = vec![said("b.example", None, true, 1.0)];
    check(&house, Layer::Dns, "a.b.example", REFUSED);
    check(&house, Layer::Dns, "c.b.example", REFUSED);
    // A rule that is shared with a newer command about another name makes no older one newer.
    house.temporary = vec![
        said("b.example", Some(MAC), true, 1.0),
        said("b.example", None, false, 2.0),
        said("d.example", Some(MAC), true, 3.0),
    ];
    check(&house, Layer::Dns, "b.example", ALLOWS);
}

#[test]
fn commands_in_another_order_are_compiled_anew() {
    let house = house(vec![], &[]);
    let before = [
        said("b.example", Some(MAC), true, 1.0),
        said("b.example", None, false, 1.0),
    ];
    let after = [before[1].clone(), before[0].clone()];
    let identities = [(BLOCKED.to_owned(), 1), (ALLOWED.to_owned(), 2)];
    let identities = HashMap::from(identities);
    let House {
        policies,
        catalog,
        lists,
        ..
    } = &house;
    let of = |said| compile(policies, said, catalog, lists, &identities).expect("it fits");
    let said = (&before[..], &after[..]);
    let again = recompile(&of(said.0), said, policies, catalog, lists, &identities);
    let again = again.expect("little has changed");
    let chain = |compiled: &Compiled| {
        let number = compiled.chain_of("b.example").expect("it has rules");
        let chain = compiled.chains[number as usize];
        chain.rules[..chain.len as usize].to_vec()
    };
    assert_eq!(chain(&again), chain(&of(said.1)));
}

#[test]
fn a_question_has_no_port() {
    let mut house = house(vec![rejects("b.example")], &[]);
    house.policies[0].ports = vec![range(443, 443, Transport::Any)];
    check(&house, Layer::Dns, "b.example", None);
    check(&house, Layer::Tls, "b.example", REFUSED);
}

const fn range(first: u16, last: u16, transport: Transport) -> Ports {
    Ports {
        first,
        last,
        transport,
    }
}

#[test]
fn an_explanation_tells_the_line_that_decides_and_what_lost() {
    let list = Path::new("/ads.txt");
    let mut house = house(
        vec![
            policy("list", &[], Action::Reject),
            allows("a.b.example"),
            rejects("example"),
        ],
        &[],
    );
    house.policies[0].lists = vec![list.to_owned()];
    house.policies[1].devices = vec![DeviceSelector::Mac(OTHER_MAC)];
    house.lists = PolicyLists::of(&[(list, "# ads\nb.example\n")]).expect("memory is read");
    let device = DeviceFacts {
        mac: MAC,
        ..DeviceFacts::default()
    };
    let subject = Subject {
        what: What::Name("a.b.example".to_owned()),
        port: None,
    };
    let told = explain(&house.deciding(), &device, &subject);
    let [judgement] = &*told.judgements else {
        panic!("{told:?}");
    };
    assert_eq!(judgement.layers, ["dns", "tls", "quic", "http"]);
    assert_eq!(judgement.verdict, "reject");
    let Some(Reason::List(line)) = judgement.said.as_ref().map(|said| &said.reason) else {
        panic!("{told:?}");
    };
    assert_eq!(
        (&*line.list, line.line, &*line.name),
        ("/ads.txt", 2, "b.example")
    );
    let lost: Vec<_> = told.lost.iter().map(|lost| &lost.because).collect();
    assert_eq!(lost, [&Loss::OtherDevices, &Loss::LessSpecific]);
}

/// The explanation of a name, layer by layer: the verdict, the policy, whether by its address.
fn told(house: &House, subject: &str) -> Vec<(&'static str, &'static str, String, bool)> {
    let device = DeviceFacts {
        mac: MAC,
        ..DeviceFacts::default()
    };
    let subject = crate::config::arguments::subject(subject).expect("it is one");
    let told = explain(&house.deciding(), &device, &subject);
    let mut layers = Vec::new();
    for judgement in told.judgements {
        let policy = judgement.said.and_then(|said| said.policy);
        for layer in judgement.layers {
            let policy = policy.clone().unwrap_or_default();
            layers.push((layer, judgement.verdict, policy, judgement.before_its_name));
        }
    }
    layers
}

#[test]
fn what_every_address_is_refused_for_says_no_name() {
    let rejects_all = |name| policy(name, &[], Action::Reject);
    let mut all = house(vec![rejects_all("bedtime")], &[]);
    all.temporary = vec![said("b.example", None, false, 1.0)];
    let refused = |layer| (layer, "reject", "bedtime".to_owned(), true);
    let layers = ["dns", "tls", "quic", "http"].map(refused);
    assert_eq!(told(&all, "b.example"), layers);
    let lost = |house: &House| {
        let subject = crate::config::arguments::subject("b.example").expect("a name");
        let device = DeviceFacts {
            mac: MAC,
            ..DeviceFacts::default()
        };
        let told = explain(&house.deciding(), &device, &subject);
        let lost = told.lost.into_iter();
        let lost = lost.map(|lost| (lost.said.policy.unwrap_or_default(), lost.because));
        (lost.collect::<Vec<_>>(), told.by_address)
    };
    assert_eq!(
        lost(&all),
        (vec![(String::new(), Loss::RefusedByAddress)], vec![])
    );
    // By day the policy does not apply, and the explanation says when it will.
    all.policies[0].schedule = vec![Span {
        days: 1,
        from: 900,
        to: 960,
    }];
    let allowed = |layer| (layer, "allow", String::new(), false);
    assert_eq!(
        told(&all, "b.example"),
        ["dns", "tls", "quic", "http"].map(allowed)
    );
    let (out, _) = lost(&all);
    assert!(
        matches!(&*out, [(policy, Loss::OutOfSchedule { next: Some(_) })] if policy == "bedtime"),
        "{out:?}"
    );

    // Ports, and a policy that allows the name before.
    let mut ports = house(vec![allows("b.example"), rejects_all("ports")], &[]);
    ports.policies[1].ports = vec![range(53, 443, Transport::Udp)];
    let passes = |layer| (layer, "allow", "allows".to_owned(), false);
    let refused = |layer| (layer, "reject", "ports".to_owned(), true);
    assert_eq!(
        told(&ports, "b.example"),
        [
            refused("dns"),
            refused("quic"),
            passes("tls"),
            passes("http")
        ]
    );
    let elsewhere = ["tls", "quic", "http"].map(passes);
    assert_eq!(told(&ports, "b.example:8443")[1..], elsewhere);
    ports
        .policies
        .insert(0, policy("before", &[], Action::Allow));
    assert_eq!(
        told(&ports, "b.example"),
        ["dns", "tls", "quic", "http"].map(passes)
    );
    let (lost_there, _) = lost(&ports);
    assert_eq!(lost_there, [("ports".to_owned(), Loss::LaterInOrder)]);

    // QUIC alone; and addresses, which a name may have.
    let mut quic = house(vec![rejects("c.example")], &[]);
    quic.policies[0].quic = Some(Action::Drop);
    let mut prefix = policy("elsewhere", &[], Action::Reject);
    prefix.remotes = vec!["192.0.2.0/24".parse().expect("a prefix")];
    quic.policies.push(prefix);
    let none = |layer| (layer, "pass", String::new(), false);
    let dropped = ("quic", "drop", "rejects".to_owned(), true);
    assert_eq!(
        told(&quic, "b.example"),
        [none("dns"), none("tls"), none("http"), dropped]
    );
    assert_eq!(lost(&quic).1, ["elsewhere"]);

    let device = DeviceFacts {
        mac: MAC,
        ..DeviceFacts::default()
    };
    let other = DeviceFacts {
        mac: OTHER_MAC,
        ..DeviceFacts::default()
    };
    let mut bedtime = rejects_all("bedtime");
    bedtime.devices = vec![DeviceSelector::Mac(MAC)];
    quic.policies.push(bedtime);
    let refused = refused_before_a_name(&quic.deciding(), &[device, other]);
    let refused = refused.iter().map(|refused| {
        let RefusedBefore {
            policy,
            layers,
            for_all,
        } = refused;
        (&**policy, &**layers, *for_all)
    });
    assert_eq!(
        refused.collect::<Vec<_>>(),
        [
            ("rejects", &["quic"][..], true),
            ("bedtime", &["dns", "tls", "http"][..], false)
        ]
    );
}

/// The decision about `c.example`, from which DNS led to two more names, and the explanation of it.
fn by_alias(house: &House) -> ((String, &'static str), Explanation) {
    let device = DeviceFacts {
        mac: MAC,
        ..DeviceFacts::default()
    };
    let targets = ["edge.example".into(), "a.b.example".into()];
    let (in_force, names) = house.in_force(&device).expect("it fits");
    let key = key(MAC, ANYWHERE, Transport::Tcp, 443);
    let decision = in_force.judge_alias(&key, "c.example", &targets, Layer::Tls);
    let refuses = decision.is_some_and(|decision| decision.verdict.refuses());
    let learned = in_force.compiled.refusing("c.example", &targets);
    let learned = learned & in_force.compiled.rules_of(&device, &house.zone, Some(NOW));
    assert_eq!(learned != 0, refuses, "at its addresses");
    let decided = decision.and_then(|decision| decided(decision, &names));
    let decided = decided.map(|(policy, action)| (policy.unwrap_or_default(), action));

    let subject = Subject {
        what: What::Name("c.example".to_owned()),
        port: None,
    };
    let mut told = explain(&house.deciding(), &device, &subject);
    told.add_aliases(&house.deciding(), &device, ("c.example", None), &targets);
    let of_tls = |judgement: &&Judgement| judgement.layers.contains(&"tls");
    let tls = told.judgements.iter().find(of_tls).expect("it is judged");
    let read = tls.said.as_ref().map(|said| {
        let policy = said.policy.clone();
        (policy.unwrap_or_default(), said.action)
    });
    assert_eq!(read, decided, "as it is explained");
    let dns = told.judgements.iter();
    let dns = dns.filter(|judgement| judgement.layers.contains(&"dns"));
    for judgement in dns {
        let is_alias = |said: &Match| matches!(said.reason, Reason::Alias { .. });
        assert!(!judgement.said.as_ref().is_some_and(is_alias));
    }
    (decided.unwrap_or_default(), told)
}

#[test]
fn a_name_that_leads_to_a_refused_one_is_refused() {
    let rejects = || policy("rejects", &["b.example"], Action::Reject);
    let refused = ("rejects".to_owned(), "reject");
    let (decided, told) = by_alias(&house(vec![rejects()], &[]));
    assert_eq!(decided, refused);
    let judgement = &told.judgements[0];
    assert_eq!(judgement.layers, ["tls", "quic", "http"]);
    let said = judgement.said.as_ref().expect("a policy decides");
    let reason = Reason::Alias {
        name: "a.b.example".to_owned(),
        reason: Box::new(Reason::Domain {
            name: "b.example".to_owned(),
        }),
    };
    assert_eq!(said.reason, reason);
    assert_eq!(told.judgements[1].layers, ["dns"]);
    assert_eq!(told.judgements[1].verdict, "pass");

    // A policy that counts the name decides less than one that refuses where it leads.
    let counts = policy("counts", &["c.example"], Action::Observe);
    assert_eq!(by_alias(&house(vec![counts, rejects()], &[])).0, refused);
    // A list refuses the name to which it leads.
    let mut listed = policy("listed", &[], Action::Drop);
    listed.categories = vec![Category::Telemetry];
    let telemetry = ("b.example", Category::Telemetry);
    let (decided, _) = by_alias(&house(vec![listed.clone()], &[telemetry]));
    assert_eq!(decided, ("listed".to_owned(), "drop"));

    // The name itself is refused by another policy, which is told.
    let own = policy("own", &["c.example"], Action::Drop);
    let (decided, _) = by_alias(&house(vec![rejects(), own], &[]));
    assert_eq!(decided, ("own".to_owned(), "drop"));
}

#[test]
fn a_name_that_leads_to_a_refused_one_passes_where_it_is_allowed() {
    let rejects = || policy("rejects", &["b.example"], Action::Reject);
    let lost = |told: &Explanation| {
        let lost = told.lost.iter();
        let lost = lost.filter(|lost| matches!(lost.said.reason, Reason::Alias { .. }));
        lost.map(|lost| lost.because.clone()).collect::<Vec<_>>()
    };
    let nothing = (String::new(), "");

    let mut left_alone = rejects();
    left_alone.without_aliases = true;
    let (decided, told) = by_alias(&house(vec![left_alone], &[]));
    assert_eq!(
        (decided, lost(&told)),
        (nothing.clone(), vec![Loss::WithoutAliases])
    );

    let allows = policy("allows", &["c.example"], Action::Allow);
    let (decided, told) = by_alias(&house(vec![rejects(), allows], &[]));
    assert_eq!(decided, ("allows".to_owned(), "allow"));
    assert_eq!(lost(&told), [Loss::NameAllowed]);

    let mut said = house(vec![rejects()], &[]);
    said.temporary = vec![Override {
        domain: "c.example".to_owned(),
        device: None,
        blocks: false,
        since: 0.0,
        holds: Holds::Always,
    }];
    assert_eq!(by_alias(&said).0, (String::new(), "allow"));

    let never = ("c.example", Category::NeverBlock);
    let (decided, told) = by_alias(&house(vec![rejects()], &[never]));
    assert_eq!(decided, nothing);
    assert!(matches!(&*lost(&told), [Loss::NeverBlock(line)] if line.name == "c.example"));
    // It stays an exception when a command is all that is said of names.
    let mut blocked = house(vec![], &[never]);
    blocked.temporary = vec![Override {
        domain: "b.example".to_owned(),
        device: None,
        blocks: true,
        since: 0.0,
        holds: Holds::Always,
    }];
    assert_eq!(by_alias(&blocked).0, nothing);
    blocked.catalog = catalog(&[]);
    assert_eq!(by_alias(&blocked).0, (String::new(), "reject"));

    // An exception of the name to which it leads.
    let mut listed = policy("listed", &[], Action::Drop);
    listed.categories = vec![Category::Telemetry];
    let entries = [
        ("b.example", Category::Telemetry),
        ("a.b.example", Category::NeverBlock),
    ];
    assert_eq!(by_alias(&house(vec![listed], &entries)).0, nothing);
}

#[test]
fn a_look_at_the_lists_tells_which_line_has_a_refused_name() {
    let file = Path::new(FILES[0]);
    let all = Policy {
        lists: vec![file.to_owned()],
        categories: vec![Category::Telemetry],
        encrypted_dns: Some(Action::Reject),
        ..policy("all", &["b.example"], Action::Reject)
    };
    let mut house = house(vec![all], &[("c.example", Category::Telemetry)]);
    let text = "# A comment.\nd.example\n@@||x.d.example^\n";
    house.lists = PolicyLists::of(&[(file, text)]).expect("memory is read");
    let about = |name| named_by(&house.policies[0], &house.catalog, &house.lists, name);
    let line = |name| match about(name) {
        Some(NamedBy::List(listed)) => Some((listed.list.to_owned(), listed.line)),
        _ => None,
    };
    assert_eq!(line("a.d.example"), Some((FILES[0].to_owned(), 2)));
    assert_eq!(line("c.example"), Some(("own".to_owned(), 1)));
    for named in ["b.example", "a.b.example", "mask.icloud.com"] {
        assert!(matches!(about(named), Some(NamedBy::Policy)), "{named}");
    }
    for other in ["example", "x.d.example", "a.x.d.example", "ab.example"] {
        assert!(about(other).is_none(), "{other}");
    }
}

#[test]
fn dhcp_passes_in_the_house() {
    let all = house(vec![policy("all", &[], Action::Reject)], &[]);
    let refused = |layer| (layer, "reject", "all".to_owned(), false);
    let passes = ("address udp", "pass", String::new(), false);
    for port in [67, 547] {
        let subject = format!("192.168.1.1:{port}");
        assert_eq!(
            told(&all, &subject),
            [refused("address tcp"), passes.clone()]
        );
    }
    let both = ["address tcp", "address udp"].map(refused);
    assert_eq!(told(&all, "192.168.1.1:69"), both);
    assert_eq!(told(&all, "192.0.2.1:67"), both);
}

// The compiled tables against the plain reading.

const FILES: [&str; 2] = ["/list/0", "/list/1"];

/// Few names, so that they meet.
fn a_name() -> impl Strategy<Value = String> {
    let labels = prop::collection::vec(select(&["a", "c"][..]), 0..=3);
    labels.prop_map(|labels| {
        let above = ["b", "example"];
        let labels: Vec<_> = labels.into_iter().chain(above).collect();
        labels.join(".")
    })
}

fn an_action() -> impl Strategy<Value = Action> {
    select(&[Action::Observe, Action::Allow, Action::Reject, Action::Drop][..])
}

fn a_category() -> impl Strategy<Value = Category> {
    select(Category::VARIANTS)
}

fn a_device() -> impl Strategy<Value = DeviceSelector> {
    select(vec![
        DeviceSelector::Mac(MAC),
        DeviceSelector::Mac(OTHER_MAC),
        DeviceSelector::Group("kids".to_owned()),
        DeviceSelector::Vendor("xiaomi".to_owned()),
        DeviceSelector::Kind(Kind::Tv),
    ])
}

/// Now, or later on the same day.
fn a_schedule() -> impl Strategy<Value = Vec<Span>> {
    let span = |from, to| Span { days: 1, from, to };
    select(vec![
        vec![],
        vec![],
        vec![span(600, 900)],
        vec![span(900, 960)],
    ])
}

fn some_ports() -> impl Strategy<Value = Vec<Ports>> {
    select(vec![
        vec![],
        vec![],
        vec![],
        vec![range(443, 443, Transport::Any)],
        vec![range(443, 443, Transport::Udp)],
        vec![
            range(1, 100, Transport::Tcp),
            range(853, 853, Transport::Any),
        ],
    ])
}

fn some_remotes() -> impl Strategy<Value = Vec<IpNet>> {
    let all = [
        "0.0.0.0/0",
        "192.0.2.0/24",
        "192.0.2.0/28",
        "192.0.2.1/32",
        "2001:db8::/32",
        "2001:db8::1/128",
    ];
    let all: Vec<IpNet> = all.iter().filter_map(|text| text.parse().ok()).collect();
    prop_oneof![
        3 => Just(vec![]),
        2 => prop::sample::subsequence(all, 1..=3),
    ]
}

fn maybe<T: Clone + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![
        2 => Just(vec![]),
        1 => prop::sample::subsequence(all.to_vec(), 1..=all.len()),
    ]
}

/// Databases of networks, of which two may tell of the same address.
fn some_databases() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    let entries = |prefixes: &'static [&'static str]| {
        let entry = (
            prop::option::of(select(&["CN", "de", "FR"][..])),
            prop::option::of(select(&[64_496, 64_497][..])),
            prop::option::of(select(&["Example Net", "Other"][..])),
        );
        let entries = prop::collection::vec(prop::option::weighted(0.7, entry), prefixes.len());
        entries.prop_map(|entries| {
            let entries = prefixes.iter().zip(entries);
            let entries = entries.filter_map(|(prefix, entry)| {
                let (country, asn, organisation) = entry?;
                Some(Entry {
                    prefix,
                    country,
                    asn,
                    organisation,
                })
            });
            entries.collect::<Vec<_>>()
        })
    };
    let coarse = entries(&[
        "192.0.2.0/24",
        "198.51.100.0/24",
        "224.0.0.0/8",
        "2001:db8::/33",
    ]);
    let fine = entries(&[
        "192.0.2.0/31",
        "192.0.2.2/31",
        "192.0.2.192/26",
        "2001:db8::1/128",
    ]);
    prop_oneof![
        1 => Just(vec![]),
        2 => (coarse, fine).prop_map(|(coarse, fine)| vec![coarse, fine]),
    ]
}

fn some_networks() -> impl Strategy<Value = Vec<NetworkSelector>> {
    let all = vec![
        NetworkSelector::Asn(64_496),
        NetworkSelector::Organisation("example".to_owned()),
        NetworkSelector::Organisation("E".to_owned()),
    ];
    prop_oneof![
        4 => Just(vec![]),
        1 => prop::sample::subsequence(all, 1..=2),
    ]
}

fn a_policy() -> impl Strategy<Value = Policy> {
    let names = (
        prop::collection::vec(a_name(), 0..=3),
        maybe(&FILES),
        maybe(&["Xiaomi", "google"]),
        maybe(Category::VARIANTS),
    );
    let rest = (
        (
            some_remotes(),
            prop_oneof![4 => Just(vec![]), 1 => maybe(&["CN", "DE"])],
            some_networks(),
        ),
        some_ports(),
        prop::option::weighted(0.2, an_action()),
        prop::option::weighted(0.2, an_action()),
        a_schedule(),
        prop_oneof![Just(vec![]), prop::collection::vec(a_device(), 1..=2)],
        an_action(),
    );
    (names, rest).prop_map(|((domains, lists, owners, categories), rest)| {
        let (addresses, ports, encrypted_dns, quic, schedule, devices, action) = rest;
        let (remotes, countries, networks) = addresses;
        let mut domains = domains;
        domains.sort();
        domains.dedup();
        Policy {
            name: String::new(),
            devices,
            domains,
            lists: lists.into_iter().map(Into::into).collect(),
            owners: owners.into_iter().map(str::to_owned).collect(),
            categories,
            remotes,
            countries: countries.into_iter().map(str::to_owned).collect(),
            networks,
            ports,
            encrypted_dns,
            quic,
            schedule,
            action,
            ..Policy::default()
        }
    })
}

pub(super) fn a_house() -> impl Strategy<Value = House> {
    let entry = (
        a_name(),
        prop::option::of(a_category()),
        prop::option::of(select(&["Xiaomi", "Google"][..])),
    );
    let on_list = || {
        (a_name(), prop::bool::weighted(0.2)).prop_map(|(name, exception)| match exception {
            true => format!("@@||{name}^\n"),
            false => format!("{name}\n"),
        })
    };
    let list = || prop::collection::vec(on_list(), 0..=4);
    let command = (
        a_name(),
        prop::option::of(a_device()),
        any::<bool>(),
        (0..4_u8).prop_map(f64::from),
    );
    (
        prop::collection::vec(a_policy(), 0..=5),
        prop::collection::vec(entry, 0..=5),
        any::<bool>(),
        (list(), list()),
        prop_oneof![Just(vec![]), prop::collection::vec(command, 1..=5)],
        some_databases(),
    )
        .prop_map(
            |(mut policies, mut entries, resolver, lists, commands, databases)| {
                for (number, policy) in policies.iter_mut().enumerate() {
                    policy.name = format!("policy-{number}");
                }
                if resolver {
                    let bypass = Some(Category::DnsBypass);
                    entries.push(("192.0.2.1".to_owned(), bypass, None));
                }
                let texts = [lists.0.concat(), lists.1.concat()];
                let texts: Vec<_> = FILES.iter().map(Path::new).zip(texts).collect();
                // Only lists that a policy names are read.
                let named = |file: &Path| {
                    let mut lists = policies.iter().flat_map(|policy| &policy.lists);
                    lists.any(|list| list == file)
                };
                let texts = texts.iter().filter(|(file, _)| named(file));
                let texts: Vec<_> = texts.map(|(file, text)| (*file, &**text)).collect();
                let commands = commands.into_iter();
                House {
                    policies,
                    temporary: commands
                        .map(|(domain, device, blocks, since)| Override {
                            domain,
                            device,
                            blocks,
                            since,
                            holds: Holds::Always,
                        })
                        .collect(),
                    catalog: Catalog {
                        networks: networks(&databases),
                        ..catalog(&entries)
                    },
                    lists: PolicyLists::of(&texts).expect("memory is read"),
                    zone: Zone::default(),
                    databases,
                }
            },
        )
}

pub(super) fn an_address() -> impl Strategy<Value = IpAddr> {
    let all = [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.200",
        "198.51.100.1",
        "192.168.1.1",
        "100.64.0.1",
        "224.0.0.1",
        "fd00::1",
        "2001:db8::1",
        "2001:db8::2",
        "fe80::1",
        "64:ff9b::192.0.2.1",
        "64:ff9b::192.0.2.200",
        "::ffff:192.0.2.2",
        "2002:c000:201::7",
        "2002:c633:6401::1",
    ];
    select(
        all.iter()
            .filter_map(|text| text.parse().ok())
            .collect::<Vec<IpAddr>>(),
    )
}

pub(super) fn a_facts() -> impl Strategy<Value = DeviceFacts<'static>> {
    let groups = std::sync::LazyLock::force(&KIDS).as_slice();
    select(vec![
        DeviceFacts {
            mac: MAC,
            groups,
            ..DeviceFacts::default()
        },
        DeviceFacts {
            mac: OTHER_MAC,
            vendor: Some("Xiaomi"),
            kind: Some(Kind::Tv),
            ..DeviceFacts::default()
        },
    ])
}

static KIDS: std::sync::LazyLock<Vec<String>> =
    std::sync::LazyLock::new(|| vec!["kids".to_owned()]);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tables_say_what_a_plain_reading_says(
        house in a_house(),
        device in a_facts(),
        address in an_address(),
        transport in select(&[Transport::Tcp, Transport::Udp][..]),
        port in select(&[443_u16, 80, 853, 8443, 67][..]),
    ) {
        let (in_force, names) = house.in_force(&device).expect("it fits");
        let key = key(device.mac, address, transport, port);
        let deciding = house.deciding();
        let flow = (address, transport, port);

        let by_address = decided(in_force.judge_address(&key), &names);
        let read = decides(&deciding, &device, None, Layer::Address, flow);
        prop_assert_eq!(by_address, read);

        let mut all = vec!["example".to_owned(), "ab.example".to_owned()];
        let mut deepest = vec!["b.example".to_owned()];
        for _ in 0..4 {
            all.extend_from_slice(&deepest);
            let below = deepest.iter().flat_map(|name| ["a", "c"].map(|label| format!("{label}.{name}")));
            deepest = below.collect();
        }
        all.extend(["mask.icloud.com".to_owned(), "x.use-application-dns.net".to_owned()]);
        for name in all {
            for layer in [Layer::Dns, Layer::Tls] {
                let compiled = in_force
                    .judge_name(&key, &name, layer)
                    .and_then(|decision| decided(decision, &names));
                let read = decides(&deciding, &device, Some(&name), layer, flow);
                prop_assert_eq!(compiled, read, "{} {:?}", name, layer);
            }
            // The explanation agrees with the decision.
            let subject = Subject { what: What::Name(name.clone()), port: None };
            let told = explain(&deciding, &device, &subject);
            for (layer, word, transport, port) in [
                (Layer::Dns, "dns", Transport::Udp, 53),
                (Layer::Tls, "tls", Transport::Tcp, 443),
                (Layer::Quic, "quic", Transport::Udp, 443),
                (Layer::Http, "http", Transport::Tcp, 80),
            ] {
                // At an address that no prefix holds.
                let elsewhere = IpAddr::from([0x2001, 0xdb9, 0, 0, 0, 0, 0, 1]);
                let key = super::tests::key(device.mac, elsewhere, transport, port);
                let by_address = in_force.judge_address(&key);
                let decision = match by_address.verdict.refuses() {
                    true => Some(by_address),
                    false => in_force.judge_name(&key, &name, layer),
                };
                let compiled = decision.and_then(|decision| decided(decision, &names));
                let told = told.judgements.iter().find(|told| {
                    told.layers.contains(&word) && !told.at_its_addresses
                });
                let told = told.and_then(|told| told.said.as_ref());
                let told = told.map(|said| (said.policy.clone(), said.action));
                prop_assert_eq!(told, compiled, "{} {}", name, word);
            }
        }
    }
}

/// Policies that allow names, and others about addresses, in turn.
fn a_house_of_two_minds() -> impl Strategy<Value = House> {
    a_house().prop_map(|mut house| {
        for (number, policy) in house.policies.iter_mut().enumerate() {
            if number % 2 == 0 {
                policy.domains.push("d.example".to_owned());
                policy.action = Action::Allow;
                continue;
            }
            policy.domains.clear();
            policy.lists.clear();
            policy.owners.clear();
            policy.categories.clear();
            if number == 1 {
                policy.devices.clear();
                policy.schedule.clear();
                policy.ports.clear();
                policy.action = Action::Reject;
            }
        }
        house
    })
}

#[test]
fn names_that_are_never_allowed_have_all_their_addresses_refused() {
    let told = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        cases: 1_000,
        ..ProptestConfig::default()
    });
    let on_link = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_multicast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let result = runner.run(
        &(
            a_house_of_two_minds(),
            a_facts(),
            an_address(),
            select(&[Transport::Tcp, Transport::Udp][..]),
            select(&[443_u16, 80, 853, 8443][..]),
        ),
        |(house, device, address, transport, port)| {
            let (in_force, names) = house.in_force(&device).expect("it fits");
            let decision = in_force.judge_address(&key(device.mac, address, transport, port));
            for (allows, refuses) in never_allowing(&house.config()) {
                let policy = &house.policies[allows];
                let is_of = |selector| device.are(selector);
                let is_at = |range: &Ports| {
                    (range.first..=range.last).contains(&port)
                        && [Transport::Any, transport].contains(&range.transport)
                };
                let is_anywhere = policy.remotes.is_empty()
                    && policy.countries.is_empty()
                    && policy.networks.is_empty();
                let applies = (policy.devices.is_empty() || policy.devices.iter().any(is_of))
                    && house.zone.is_within(&policy.schedule, NOW)
                    && (policy.ports.is_empty() || policy.ports.iter().any(is_at))
                    && (is_anywhere || !house.prefixes_of(policy, address).is_empty());
                if applies && !on_link(&address) {
                    told.set(told.get() + 1);
                    prop_assert!(
                        decision.verdict.refuses(),
                        "{} by {}: {:?}",
                        policy.name,
                        house.policies[refuses].name,
                        decided(decision, &names)
                    );
                }
            }
            Ok(())
        },
    );
    result.expect("it is refused");
    assert!(told.get() > 20, "told {} times", told.get());
}
