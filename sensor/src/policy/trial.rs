//! Tries policies on the history: whether they would have refused what a device had with a party.
//!
//! The history has a party by its registrable domain and its category, so a policy decides about all of it where
//! every name that lists and policies know in that domain, of that category, has the same verdict. Names without a
//! row of their own, addresses, ports and countries are not in the history: where a verdict depends on them, it
//! cannot be told. Flows are taken to go to the usual ports, and those of a party that is no resolver to no resolver's
//! address; aliases (CNAME) are not looked at.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::{
    Action, DeviceFacts, Policy,
    explain::{Deciding, Explanation, Judgement, Loss, Reason, Subject, What, applies, explain},
};
use crate::{catalog::lists::Category, model::history::PartyKind};

/// The most names of a party that are looked at; a party with more of them cannot be told.
const MOST_NAMES: usize = 4_096;

/// Seconds of an hour.
const HOUR: f64 = 3_600.0;

/// A party of the history.
#[derive(Clone, Copy, Debug)]
pub struct KeptParty<'a> {
    /// The way in which it is written down.
    pub kind: PartyKind,
    /// Its name, or its address.
    pub name: &'a str,
    /// Its category.
    pub category: Option<&'a str>,
}

/// The outcome for a device and a party in an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The policy of this name would have refused all of it.
    Refused(String),
    /// None would have refused any of it.
    Passed,
    /// The history keeps too little to decide.
    Unknown,
}

/// Policies that are tried on the history.
pub struct Trial<'a> {
    deciding: Deciding<'a>,
    /// The names that lists and policies know in the domain of each party.
    names: HashMap<&'a str, Vec<String>>,
}

impl<'a> Trial<'a> {
    /// A trial on these parties, by their names. The time in `deciding` is not looked at.
    pub fn new(deciding: Deciding<'a>, parties: &[&'a str]) -> Self {
        let known: HashSet<_> = parties.iter().copied().collect();
        let mut names: HashMap<_, Vec<String>> = HashMap::new();
        let mut add = |name: &str| {
            let ends = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
            let party = std::iter::once(name).chain(ends);
            for party in party.filter_map(|end| known.get(end)) {
                let names = names.entry(*party).or_default();
                // One more says that there are too many.
                if names.len() <= MOST_NAMES {
                    names.push(name.to_owned());
                }
            }
        };
        parties.iter().copied().for_each(&mut add);
        for domain in deciding.policies.iter().flat_map(|policy| &policy.domains) {
            add(domain);
        }
        let lists = deciding.lists.iter().map(|(_, list)| &*list.names);
        for lists in std::iter::once(&deciding.catalog.lists).chain(lists) {
            lists.each_name_about(parties, |entry| add(entry.what));
        }
        Self { deciding, names }
    }

    /// The verdicts of the policies on a device and a party in the hour that began at this time, in seconds
    /// since the Unix epoch.
    pub fn outcome(&self, device: &DeviceFacts<'_>, party: KeptParty<'_>, hour: f64) -> Outcome {
        let mut outcome = None;
        for time in self.changes_within(hour) {
            let deciding = Deciding {
                now: Some(time),
                ..self.deciding
            };
            let at_this_time = match party.kind {
                PartyKind::Party | PartyKind::Site => self.of_name(&deciding, device, party),
                _ => of_nameless(&deciding, device, party.kind),
            };
            match &outcome {
                None => outcome = Some(at_this_time),
                Some(before) if *before == at_this_time => {}
                Some(_) => return Outcome::Unknown,
            }
        }
        outcome.unwrap_or(Outcome::Unknown)
    }

    /// Whether each policy applies to a device from the start of an hour to its end, as bits; `None` where that
    /// changes within the hour. Outcomes of hours with the same bits are the same.
    pub fn active(&self, device: &DeviceFacts<'_>, hour: f64) -> Option<u64> {
        let mut changes = self.changes_within(hour);
        let now = changes.next();
        let deciding = Deciding {
            now,
            ..self.deciding
        };
        let policies = self.deciding.policies.iter().enumerate();
        let active = policies
            .filter(|(_, policy)| {
                applies(&deciding, device, &policy.devices, &policy.schedule).is_none()
            })
            .fold(0, |active, (number, _)| active | 1_u64 << (number % 64));
        changes.next().is_none().then_some(active)
    }

    /// The start of an hour, and the times within it at which a schedule begins or ends.
    fn changes_within(&self, hour: f64) -> impl Iterator<Item = f64> {
        std::iter::successors(Some(hour), move |time| {
            let policies = self.deciding.policies.iter();
            let changes = policies
                .filter_map(|policy| self.deciding.zone.next_change(&policy.schedule, *time));
            changes
                .min_by(f64::total_cmp)
                .filter(|change| *change < hour + HOUR)
        })
    }

    fn of_name(
        &self,
        deciding: &Deciding<'_>,
        device: &DeviceFacts<'_>,
        party: KeptParty<'_>,
    ) -> Outcome {
        if let Ok(address) = party.name.parse::<IpAddr>() {
            return of_subject(deciding, device, What::Address(address));
        }
        let names = self.names.get(party.name).map_or(&[][..], Vec::as_slice);
        if names.len() > MOST_NAMES {
            return Outcome::Unknown;
        }
        let lists = &deciding.catalog.lists;
        let mut outcome = None;
        for name in names {
            let category = lists.find(name).and_then(|listed| listed.category);
            if category.map(Category::name) != party.category {
                continue;
            }
            let of_name = of_subject(deciding, device, What::Name(name.clone()));
            outcome = match (outcome, of_name) {
                (_, Outcome::Unknown) => return Outcome::Unknown,
                (None, first) => Some(first),
                (Some(Outcome::Passed), Outcome::Passed) => Some(Outcome::Passed),
                // Of several that refuse, the first is named.
                (Some(Outcome::Refused(policy)), Outcome::Refused(_)) => {
                    Some(Outcome::Refused(policy))
                }
                _ => return Outcome::Unknown,
            };
        }
        // No name of that category: the lists are other ones than when it was written down.
        outcome.unwrap_or(Outcome::Unknown)
    }
}

/// The verdicts of policies on a name or an address at every port that is usual.
fn of_subject(deciding: &Deciding<'_>, device: &DeviceFacts<'_>, what: What) -> Outcome {
    let explanation = explain(deciding, device, &Subject { what, port: None });
    let refuses = |verdict: &str| matches!(verdict, "reject" | "drop");
    // A flow is refused after its question as well, so the question alone decides nothing.
    let flows = || {
        let judgements = explanation.judgements.iter();
        judgements.filter(|judgement| judgement.layers.iter().any(|layer| *layer != "dns"))
    };
    let mut finals = flows().filter(|judgement| !judgement.at_its_addresses);
    let by = |judgement: &Judgement| {
        let said = judgement.said.as_ref();
        said.and_then(|said| said.policy.clone())
            .unwrap_or_default()
    };
    if flows().all(|judgement| refuses(judgement.verdict))
        && let Some(first) = finals.next()
    {
        // A policy about an address stands above one about everything, and the history has no addresses.
        let mut by_address = explanation.by_address.iter();
        let may_pass = by_address
            .any(|name| policy(deciding, name).is_none_or(|policy| !is_refusal(policy.action)));
        return match may_pass && !flows().all(is_by_name) {
            true => Outcome::Unknown,
            false => Outcome::Refused(by(first)),
        };
    }
    let is_doubtful = flows().any(|judgement| refuses(judgement.verdict))
        || may_be_refused_elsewhere(&explanation)
        || explanation
            .by_address
            .iter()
            .any(|name| policy(deciding, name).is_none_or(may_refuse));
    match is_doubtful {
        true => Outcome::Unknown,
        false => Outcome::Passed,
    }
}

/// Whether a verdict is that on a name, which stands whatever address the name has.
fn is_by_name(judgement: &Judgement) -> bool {
    let said = judgement.said.as_ref();
    said.is_some_and(|said| match said.reason {
        Reason::Command { .. }
        | Reason::Domain { .. }
        | Reason::List(_)
        | Reason::Category { .. }
        | Reason::Owner { .. }
        | Reason::Resolver { .. }
        | Reason::Alias { .. } => true,
        Reason::Remote { .. }
        | Reason::Network { .. }
        | Reason::EncryptedDns
        | Reason::Quic
        | Reason::Everything
        | Reason::Learned => false,
    })
}

/// Whether a policy refuses at other ports, those of encrypted DNS aside: a resolver's names have a category.
fn may_be_refused_elsewhere(explanation: &Explanation) -> bool {
    explanation.lost.iter().any(|lost| {
        lost.because == Loss::OtherPorts
            && matches!(lost.said.action, "reject" | "drop")
            && lost.said.reason != Reason::EncryptedDns
    })
}

/// The verdicts of policies on traffic whose names are not kept.
fn of_nameless(deciding: &Deciding<'_>, device: &DeviceFacts<'_>, kind: PartyKind) -> Outcome {
    let mut policies = deciding.policies.iter();
    let may = policies.any(|policy| {
        applies(deciding, device, &policy.devices, &policy.schedule).is_none()
            && may_refuse_nameless(policy, kind)
    });
    match may {
        true => Outcome::Unknown,
        false => Outcome::Passed,
    }
}

fn may_refuse_nameless(policy: &Policy, kind: PartyKind) -> bool {
    if [policy.encrypted_dns, policy.quic]
        .into_iter()
        .flatten()
        .any(is_refusal)
    {
        return true;
    }
    if !is_refusal(policy.action) {
        return false;
    }
    match kind {
        // No name is said there.
        PartyKind::Local if policy.has_names() => false,
        // Names of the other categories have rows of their own.
        PartyKind::Sites if policy.has_names() => {
            !(policy.domains.is_empty() && policy.lists.is_empty() && policy.owners.is_empty())
                || policy.categories.contains(&Category::NeverBlock)
        }
        _ => true,
    }
}

fn policy<'a>(deciding: &Deciding<'a>, name: &str) -> Option<&'a Policy> {
    deciding.policies.iter().find(|policy| policy.name == name)
}

fn may_refuse(policy: &Policy) -> bool {
    let actions = [Some(policy.action), policy.encrypted_dns, policy.quic];
    actions.into_iter().flatten().any(is_refusal)
}

const fn is_refusal(action: Action) -> bool {
    matches!(action, Action::Reject | Action::Drop)
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};
    use sensor_ebpf::policy::Layer;

    use super::{
        super::{
            Ports, Span, Transport,
            reference::is_on_link,
            tests::{House, NOW, a_facts, a_house, an_address, house, key, stands_for},
        },
        *,
    };

    const PARTY: &str = "b.example";

    fn kept(kind: PartyKind, category: Option<&str>) -> KeptParty<'_> {
        KeptParty {
            kind,
            name: PARTY,
            category,
        }
    }

    /// The party itself, and names below it.
    fn names() -> Vec<String> {
        let mut all = Vec::new();
        let mut deepest = vec![PARTY.to_owned()];
        for _ in 0..4 {
            all.extend_from_slice(&deepest);
            let below = deepest
                .iter()
                .flat_map(|name| ["a", "c"].map(|label| format!("{label}.{name}")));
            deepest = below.collect();
        }
        all
    }

    fn outcome(house: &House, party: KeptParty<'_>, hour: f64) -> Outcome {
        let trial = Trial::new(house.deciding(), &[PARTY]);
        trial.outcome(&DeviceFacts::default(), party, hour)
    }

    /// The listed name below the party.
    const LISTED: [(&str, Category); 1] = [("t.b.example", Category::Telemetry)];

    fn refusing(name: &str, change: impl FnOnce(&mut Policy)) -> Policy {
        let mut policy = Policy {
            name: name.to_owned(),
            action: Action::Reject,
            ..Policy::default()
        };
        change(&mut policy);
        policy
    }

    #[test]
    fn a_name_that_is_kept_decides_where_all_below_it_agree() {
        let telemetry = kept(PartyKind::Party, Some("telemetry"));
        let site = kept(PartyKind::Site, None);
        let sites = kept(PartyKind::Sites, None);
        let local = kept(PartyKind::Local, None);
        let of = |policies: &[Policy]| {
            let house = house(policies.to_vec(), &LISTED);
            [telemetry, site, sites, local].map(|party| outcome(&house, party, NOW))
        };
        let refused = || Outcome::Refused("p".to_owned());
        let (passed, unknown) = (|| Outcome::Passed, || Outcome::Unknown);
        let domain = |name: &str| refusing("p", |policy| policy.domains = vec![name.to_owned()]);
        assert_eq!(of(&[]), [passed(), passed(), passed(), passed()]);
        assert_eq!(
            of(&[domain("b.example")]),
            [refused(), refused(), unknown(), passed()]
        );
        // One of the names below decides otherwise than the others.
        assert_eq!(
            of(&[domain("x.b.example")]),
            [passed(), unknown(), unknown(), passed()]
        );
        assert_eq!(
            of(&[domain("other.example")]),
            [passed(), passed(), unknown(), passed()]
        );
        let category = refusing("p", |policy| policy.categories = vec![Category::Telemetry]);
        assert_eq!(of(&[category]), [refused(), passed(), passed(), passed()]);
        // The history has no ports, no countries and no QUIC.
        let port = refusing("p", |policy| {
            policy.ports = vec![Ports {
                first: 8443,
                last: 8443,
                transport: Transport::Any,
            }];
        });
        let country = refusing("p", |policy| policy.countries = vec!["CN".to_owned()]);
        let quic = Policy {
            action: Action::Observe,
            quic: Some(Action::Reject),
            ..refusing("p", |_| {})
        };
        for policy in [port, country, quic] {
            assert_eq!(of(&[policy]), [unknown(), unknown(), unknown(), unknown()]);
        }
    }

    #[test]
    fn an_address_that_passes_leaves_unknown_what_all_else_refuses() {
        let everything = refusing("p", |_| {});
        let passes = Policy {
            action: Action::Observe,
            ..refusing("q", |policy| {
                policy.remotes = vec!["192.0.2.0/28".parse().expect("a prefix")];
            })
        };
        let named = refusing("r", |policy| policy.domains = vec![PARTY.to_owned()]);
        let party = kept(PartyKind::Party, Some("telemetry"));
        let of = |policies| outcome(&house(policies, &LISTED), party, NOW);
        let refused = |by: &str| Outcome::Refused(by.to_owned());
        assert_eq!(of(vec![everything.clone()]), refused("p"));
        assert_eq!(of(vec![everything, passes.clone()]), Outcome::Unknown);
        assert_eq!(of(vec![named, passes]), refused("r"));
    }

    #[test]
    fn a_schedule_that_begins_within_the_hour_leaves_it_unknown() {
        let night = refusing("p", |policy| {
            policy.domains = vec![PARTY.to_owned()];
            policy.schedule = vec![Span {
                days: 0x7f,
                from: 13 * 60 + 30,
                to: 15 * 60,
            }];
        });
        let house = house(vec![night], &LISTED);
        let party = kept(PartyKind::Party, Some("telemetry"));
        let at = |hours: f64| outcome(&house, party, NOW + hours * HOUR);
        // NOW is noon.
        assert_eq!(at(0.0), Outcome::Passed);
        assert_eq!(at(1.0), Outcome::Unknown);
        assert_eq!(at(2.0), Outcome::Refused("p".to_owned()));
        assert_eq!(at(3.0), Outcome::Passed);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The verdict that is told of a party is that of the compiled policies on every name of it, wherever
        /// it is reached.
        #[test]
        fn what_is_told_is_what_the_policies_do_when_they_are_in_force(
            house in a_house(),
            device in a_facts(),
            addresses in prop::collection::vec(an_address(), 1..4),
            category in select(&[None, Some("telemetry"), Some("advertising")][..]),
        ) {
            let mut house = house;
            house.temporary.clear();
            let (in_force, _) = house.in_force(&device).expect("it fits");
            let trial = Trial::new(house.deciding(), &[PARTY]);
            let outcome = trial.outcome(&device, kept(PartyKind::Site, category), NOW);
            let lists = &house.catalog.lists;
            let of_category = |name: &String| {
                let listed = lists.find(name).and_then(|listed| listed.category);
                listed.map(Category::name) == category
            };
            let resolvers = Vec::from_iter(house.catalog.resolvers.encrypted_addresses());
            let is_resolver = |address| {
                let mut inside = stands_for(address);
                resolvers.contains(&address) || inside.any(|(inside, _)| resolvers.contains(&inside))
            };
            for name in names().iter().filter(|name| of_category(name)) {
                for (layer, transport, port) in [
                    (Layer::Tls, Transport::Tcp, 443),
                    (Layer::Quic, Transport::Udp, 443),
                    (Layer::Http, Transport::Tcp, 80),
                ] {
                    // No party is on the link, and none that is no resolver at a resolver's address.
                    let may_be_there = |address: &&IpAddr| !is_on_link(**address) && !is_resolver(**address);
                    for address in addresses.iter().filter(may_be_there) {
                        let key = key(device.mac, *address, transport, port);
                        let by_address = in_force.judge_address(&key);
                        let by_name = in_force.judge_name(&key, name, layer);
                        let is_refused = by_address.verdict.refuses()
                            || by_name.is_some_and(|decision| decision.verdict.refuses());
                        match &outcome {
                            Outcome::Refused(_) => prop_assert!(is_refused, "{} {:?}", name, layer),
                            Outcome::Passed => prop_assert!(!is_refused, "{} {:?}", name, layer),
                            Outcome::Unknown => {}
                        }
                    }
                }
            }
        }
    }
}
