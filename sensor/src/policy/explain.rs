//! Explains the verdicts on one name or address for one device: by a plain reading of the table in
//! [`policy`](super), one suffix and one prefix after the other. Tests compare
//! [`compile`](super::compile()) with it.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use sensor_ebpf::{
    name::MAX_LABELS,
    policy::{Layer, Verdict},
};
use serde::{Deserialize, Serialize};

use super::{DeviceFacts, Override, PolicyLists, Zone, compile::DISCOVERY};
use crate::{
    catalog::{
        Catalog, NetworkSelector,
        lists::{Category, Listed, Lists},
    },
    model::{
        Pause,
        word::{self, Word},
    },
    policy::{Action, DeviceSelector, Policy, Ports, Span, Transport},
};

/// Everything that a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Deciding<'a> {
    /// The policies of the configuration, in its order.
    pub policies: &'a [Policy],
    /// The overrides by commands.
    pub temporary: &'a [Override],
    /// Lists of the sensor and of its owner, resolvers and networks.
    pub catalog: &'a Catalog,
    /// The lists of the policies.
    pub lists: &'a PolicyLists,
    /// The zone of schedules.
    pub zone: &'a Zone,
    /// Seconds since the Unix epoch; `None`: the time is not known.
    pub now: Option<f64>,
    /// The difference to add to a steady time to get the wall clock's.
    pub offset: f64,
}

/// The subject of a question: a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// A name or an address.
    pub what: What,
    /// The remote port; `None`: the usual one of each layer for a name, any for an address.
    pub port: Option<u16>,
}

/// A name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A name in upper or lower case, with or without its final dot.
    Name(String),
    /// The address of the other side.
    Address(IpAddr),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.what, self.port) {
            (What::Name(name), None) => write!(f, "{name}"),
            (What::Name(name), Some(port)) => write!(f, "{name}:{port}"),
            (What::Address(address), None) => write!(f, "{address}"),
            (What::Address(address), Some(port)) => {
                write!(f, "{}", std::net::SocketAddr::new(*address, port))
            }
        }
    }
}

/// The explanation of a subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The verdicts, by the layers that judge. Where a verdict depends on the address of the other side,
    /// several are about the same layers: the first that is about the address counts.
    pub judgements: Vec<Judgement>,
    /// Policies and commands about the subject that have no effect.
    pub lost: Vec<Lost>,
    /// Of a name: policies that apply to the device and are about addresses, which may be those of the
    /// name. There they decide before the name is said.
    pub by_address: Vec<String>,
    /// The pause in which nothing is refused to the device, whatever the verdicts are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
}

/// The verdict of some layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// `dns`, `tls`, `quic`, `http`, or `address`, with a transport where that matters.
    #[serde(deserialize_with = "word::several")]
    pub layers: Vec<Word>,
    /// `pass`, `observe`, `allow`, `reject` or `drop`.
    #[serde(deserialize_with = "word::one")]
    pub verdict: Word,
    /// The policy or command that decides; `None` where none is about the subject.
    pub said: Option<Match>,
    /// Whether the verdict holds only at the remote addresses that the policy names.
    pub at_its_addresses: bool,
    /// Of a name: whether the flow is refused by its address and port, before it says the name.
    pub before_its_name: bool,
}

/// A policy or command, and why it is about the subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Match {
    /// The policy; `None`: a command.
    pub policy: Option<String>,
    /// Its action.
    #[serde(deserialize_with = "word::one")]
    pub action: Word,
    /// Why it is about the subject.
    pub reason: Reason,
}

/// Why a policy is about a subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Reason {
    /// `sensor block` or `sensor allow`.
    Command {
        /// The name it is about.
        name: String,
        /// The devices; `None`: all.
        devices: Option<String>,
        /// Seconds since the Unix epoch at which the command ran.
        since: f64,
        /// Seconds since the Unix epoch at which the override ends; `None`: when a command takes it back.
        until: Option<f64>,
        /// Seconds for which the override holds from when the machine's clock is set, after a boot.
        #[serde(skip_serializing_if = "Option::is_none")]
        rest: Option<f64>,
    },
    /// An entry of `domains`.
    Domain {
        /// The entry.
        name: String,
    },
    /// A list of the policy.
    List(Line),
    /// The category of the name.
    Category {
        /// Which.
        #[serde(deserialize_with = "word::one")]
        category: Word,
        /// The line that says so.
        at: Line,
    },
    /// The owner of the name.
    Owner {
        /// The owner.
        owner: String,
        /// The line that says so.
        at: Line,
    },
    /// A name or an address of a resolver that answers encrypted, or a name by which devices look for one.
    Resolver {
        /// Which.
        name: String,
    },
    /// An entry of `remotes`.
    Remote {
        /// The entry.
        prefix: String,
    },
    /// The country or the network of the address.
    Network {
        /// The prefix that the databases have.
        prefix: String,
    },
    /// `encrypted_dns`, by its port.
    EncryptedDns,
    /// `quic`, by its port.
    Quic,
    /// The policy is about everything, or about ports alone.
    Everything,
    /// DNS gave the address only for names that the policy or command refuses.
    Learned,
    /// A DNS answer led the device from the name to another one.
    Alias {
        /// The other name.
        name: String,
        /// Why the policy or command is about the other name.
        reason: Box<Reason>,
    },
}

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The name that stands there.
    pub name: String,
    /// The file, or the name of a list that the program carries.
    pub list: String,
    /// The line, from 1.
    pub line: u32,
}

/// A policy or command that has no effect, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// The policy or command.
    #[serde(flatten)]
    pub said: Match,
    /// Why it has no effect.
    pub because: Loss,
}

/// Why a policy or command has no effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// It is about other devices.
    OtherDevices,
    /// It does not apply now.
    OutOfSchedule {
        /// Seconds since the Unix epoch at which it applies next.
        next: Option<f64>,
    },
    /// It has a schedule, and the time is not known.
    TimeUnknown,
    /// The name is an exception (`never-block`), which lists do not refuse.
    NeverBlock(Line),
    /// A longer name has another category.
    OtherCategory(Line),
    /// A longer name has another owner.
    OtherOwner(Line),
    /// It is about other ports.
    OtherPorts,
    /// A command decides: it stands above the configuration, and a newer one or one about a longer name
    /// above others.
    Command,
    /// The deciding policy is about a longer name or prefix.
    LessSpecific,
    /// The deciding policy stands before it.
    LaterInOrder,
    /// Group and link-local addresses and DHCP keep the link alive: without them, nobody on it can talk.
    KeepsLinkAlive,
    /// It is about a name, and a flow that is refused by its address does not say one.
    RefusedByAddress,
    /// It is about a name to which a DNS answer leads, and has `cname = false`.
    WithoutAliases,
    /// It is about a name to which a DNS answer leads, and the name itself is allowed.
    NameAllowed,
}

/// Explains the verdicts on a subject.
pub fn explain(
    deciding: &Deciding<'_>,
    device: &DeviceFacts<'_>,
    subject: &Subject,
) -> Explanation {
    match &subject.what {
        What::Name(name) => {
            let judges = judges_of_names(subject.port);
            let claims = Claims {
                everywhere: address_claims(deciding, device, None),
                own: name_claims(deciding, device, name),
            };
            Explanation {
                by_address: deciding
                    .policies
                    .iter()
                    .filter(|policy| !policy.has_names() && policy.has_addresses())
                    .filter(|policy| {
                        applies(deciding, device, &policy.devices, &policy.schedule).is_none()
                            && judges
                                .iter()
                                .any(|judge| judge.before_a_name().is_at(&policy.ports))
                    })
                    .map(|policy| policy.name.clone())
                    .collect(),
                ..claims.explain(&judges)
            }
        }
        What::Address(address) => {
            let judges = match subject.port {
                None => vec![Judge::new(Layer::Address, "address", Transport::Any, None)],
                Some(_) => vec![
                    Judge::new(Layer::Address, "address tcp", Transport::Tcp, subject.port),
                    Judge::new(Layer::Address, "address udp", Transport::Udp, subject.port)
                        .towards(*address),
                ],
            };
            let claims = Claims {
                everywhere: Vec::new(),
                own: address_claims(deciding, device, Some(*address)),
            };
            claims.explain(&judges)
        }
    }
}

/// Where a name is written that a policy is about, as a short look at its lists tells.
#[derive(Clone, Copy, Debug)]
pub enum NamedBy<'a> {
    /// The policy itself, or a command.
    Policy,
    /// A list.
    List(Listed<'a>),
}

/// Where a name in lower case is written, or a name above it; `None`: the policy is not about it.
pub fn named_by<'a>(
    policy: &Policy,
    catalog: &'a Catalog,
    lists: &'a PolicyLists,
    name: &str,
) -> Option<NamedBy<'a>> {
    let suffixes = suffixes(name);
    if policy
        .domains
        .iter()
        .any(|domain| suffixes.contains(&&**domain))
    {
        return Some(NamedBy::Policy);
    }
    let files = policy.lists.iter().filter_map(|file| lists.get(file));
    let by_file = files.filter_map(|list| list.names.find(name));
    let by_file = by_file.filter(|listed| listed.category != Some(Category::NeverBlock));
    let by_catalog = catalog.lists.find(name).filter(|listed| {
        let owned = |wanted: &String| {
            listed
                .owner
                .is_some_and(|owner| owner.eq_ignore_ascii_case(wanted))
        };
        let bypasses = policy.encrypted_dns.is_some();
        listed
            .category
            .is_some_and(|of| policy.categories.contains(&of))
            || policy.owners.iter().any(owned)
            || bypasses && listed.category == Some(Category::DnsBypass)
    });
    let listed = by_file.chain(by_catalog).next();
    let is_discovery =
        || policy.encrypted_dns.is_some() && DISCOVERY.iter().any(|name| suffixes.contains(name));
    match listed {
        Some(listed) => Some(NamedBy::List(listed)),
        None => is_discovery().then_some(NamedBy::Policy),
    }
}

/// A policy that refuses flows whatever name they would say, because their addresses and ports are judged
/// before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedBefore {
    /// The policy.
    pub policy: String,
    /// The layers at whose usual ports it refuses flows.
    #[serde(deserialize_with = "word::several")]
    pub layers: Vec<Word>,
    /// Whether it refuses them for each of the devices.
    pub for_all: bool,
}

/// The policies that refuse flows of these devices whatever name the flows would say.
pub fn refused_before_a_name(
    deciding: &Deciding<'_>,
    devices: &[DeviceFacts<'_>],
) -> Vec<RefusedBefore> {
    let mut refused: Vec<RefusedBefore> = Vec::new();
    let judges = judges_of_names(None);
    let everywhere: Vec<_> = devices
        .iter()
        .map(|device| address_claims(deciding, device, None))
        .collect();
    for policy in deciding.policies {
        let by_policy = |claims: &[Claim<'_>], judge: &Judge| {
            refusing(claims, judge)
                .is_some_and(|number| claims[number].said.policy.as_ref() == Some(&policy.name))
        };
        let concerned = |claims: &&Vec<Claim<'_>>| judges.iter().any(|j| by_policy(claims, j));
        let concerned: Vec<_> = everywhere.iter().filter(concerned).collect();
        if concerned.is_empty() {
            continue;
        }
        let layers = judges.iter();
        let layers = layers.filter(|judge| concerned.iter().any(|claims| by_policy(claims, judge)));
        refused.push(RefusedBefore {
            policy: policy.name.clone(),
            layers: layers.map(|judge| judge.name).collect(),
            for_all: concerned.len() == devices.len(),
        });
    }
    refused
}

/// The layers that judge names, at the usual port of each or at this one.
fn judges_of_names(port: Option<u16>) -> [Judge; 4] {
    let port = |usual| Some(port.unwrap_or(usual));
    [
        Judge::new(Layer::Dns, "dns", Transport::Udp, Some(53)),
        Judge::new(Layer::Tls, "tls", Transport::Tcp, port(443)),
        Judge::new(Layer::Quic, "quic", Transport::Udp, port(443)),
        Judge::new(Layer::Http, "http", Transport::Tcp, port(80)),
    ]
}

/// The place of the claim that refuses a flow by its port, wherever the flow goes.
fn refusing(everywhere: &[Claim<'_>], judge: &Judge) -> Option<usize> {
    let judge = judge.before_a_name();
    let first = everywhere
        .iter()
        .position(|claim| claim.loss.is_none() && judge.holds(claim))?;
    everywhere[first].refuses().then_some(first)
}

/// All claims about a subject.
struct Claims<'a> {
    /// Of a name: the claims about every address, in the order in which they are asked.
    everywhere: Vec<Claim<'a>>,
    /// The claims about the subject itself, in the order in which they are asked.
    own: Vec<Claim<'a>>,
}

/// The claims that decide for one judge.
#[derive(PartialEq)]
enum Path {
    /// The claim that refuses every address.
    Everywhere(usize),
    /// All claims that may decide: those that are bound to addresses, and the first that is not.
    Own(Vec<usize>),
}

impl Claims<'_> {
    fn explain(&self, judges: &[Judge]) -> Explanation {
        let mut paths: Vec<(Vec<&'static str>, Path)> = Vec::new();
        for judge in judges {
            let path = match refusing(&self.everywhere, judge) {
                Some(number) => Path::Everywhere(number),
                None => Path::Own(self.own_path(judge)),
            };
            match paths.iter_mut().find(|(_, known)| *known == path) {
                Some((layers, _)) => layers.push(judge.name),
                None => paths.push((vec![judge.name], path)),
            }
        }
        let lost = self.lost(judges, &paths);
        let mut judgements = Vec::new();
        for (layers, path) in paths {
            let judgement = |claim: &Claim<'_>, before_its_name| Judgement {
                layers: layers.clone(),
                verdict: claim.said.action,
                said: Some(claim.said.clone()),
                at_its_addresses: claim.at.is_some(),
                before_its_name,
            };
            let path = match path {
                Path::Everywhere(number) => {
                    judgements.push(judgement(&self.everywhere[number], true));
                    continue;
                }
                Path::Own(path) => path,
            };
            let undecided = path
                .last()
                .is_none_or(|number| self.own[*number].at.is_some());
            judgements.extend(
                path.iter()
                    .map(|number| judgement(&self.own[*number], false)),
            );
            if undecided {
                judgements.push(Judgement {
                    layers,
                    verdict: "pass",
                    said: None,
                    at_its_addresses: false,
                    before_its_name: false,
                });
            }
        }
        Explanation {
            judgements,
            lost,
            by_address: Vec::new(),
            paused: None,
        }
    }

    fn own_path(&self, judge: &Judge) -> Vec<usize> {
        let mut path = Vec::new();
        for (number, claim) in self.own.iter().enumerate() {
            if claim.loss.is_none() && judge.holds(claim) {
                path.push(number);
                if claim.at.is_none() {
                    break;
                }
            }
        }
        path
    }

    fn lost(&self, judges: &[Judge], paths: &[(Vec<&'static str>, Path)]) -> Vec<Lost> {
        let own_paths = || {
            paths.iter().filter_map(|(_, path)| match path {
                Path::Own(path) => Some(path),
                Path::Everywhere(_) => None,
            })
        };
        let refused = || {
            paths.iter().filter_map(|(_, path)| match path {
                Path::Everywhere(number) => Some(*number),
                Path::Own(_) => None,
            })
        };
        let lost = |claim: &Claim<'_>, because| Lost {
            said: claim.said.clone(),
            because,
        };

        // A claim that lets every address pass has no effect on names.
        let everywhere = self.everywhere.iter().enumerate();
        let everywhere = everywhere
            .filter(|(number, claim)| claim.refuses() && !refused().any(|other| other == *number))
            .map(|(_, claim)| {
                let is_about_it = |judge: &Judge| judge.before_a_name().holds(claim);
                let because = match &claim.loss {
                    Some(loss) => loss.clone(),
                    None if judges.iter().any(is_about_it) => Loss::LaterInOrder,
                    None => Loss::OtherPorts,
                };
                lost(claim, because)
            });
        let own = self.own.iter().enumerate();
        let own = own
            .filter(|(number, _)| !own_paths().any(|path| path.contains(number)))
            .map(|(number, claim)| {
                // The claim that decides for most traffic: of a name, for flows by that name, not for DNS.
                let paths: Vec<_> = own_paths().collect();
                let winner = paths.into_iter().rev().find_map(|path| {
                    let last = path.last().copied()?;
                    (last < number).then(|| &self.own[last])
                });
                let keeps_link_alive =
                    |judge: &Judge| judge.keeps_link_alive() && judge.is_at(&claim.ports);
                let because = match (&claim.loss, winner) {
                    (Some(loss), _) => loss.clone(),
                    (None, Some(winner)) if winner.command => Loss::Command,
                    (None, Some(winner)) if winner.specific > claim.specific => Loss::LessSpecific,
                    (None, Some(_)) => Loss::LaterInOrder,
                    (None, None) if judges.iter().any(keeps_link_alive) => Loss::KeepsLinkAlive,
                    (None, None) if judges.iter().any(|judge| judge.holds(claim)) => {
                        Loss::RefusedByAddress
                    }
                    (None, None) => Loss::OtherPorts,
                };
                lost(claim, because)
            });
        everywhere.chain(own).collect()
    }
}

impl Explanation {
    /// Adds the verdicts by the names to which a DNS answer led the device from the name that the explanation is
    /// about, in order.
    pub fn add_aliases(
        &mut self,
        deciding: &Deciding<'_>,
        device: &DeviceFacts<'_>,
        (name, port): (&str, Option<u16>),
        targets: &[Box<str>],
    ) {
        let exception = exception(deciding, name);
        for target in targets {
            let subject = Subject {
                what: What::Name(target.to_string()),
                port,
            };
            let by_target = explain(deciding, device, &subject);
            let refuses = |judgement: &Judgement| matches!(judgement.verdict, "reject" | "drop");
            for mut judgement in by_target.judgements {
                let Some(said) = judgement.said.as_mut() else {
                    continue;
                };
                said.reason = Reason::Alias {
                    name: target.to_string(),
                    reason: Box::new(said.reason.clone()),
                };
                let said = said.clone();
                // A question goes before the answer.
                judgement.layers.retain(|layer| *layer != "dns");
                if !refuses(&judgement) || judgement.before_its_name || judgement.layers.is_empty()
                {
                    continue;
                }
                let mut policies = deciding.policies.iter();
                let policy = policies.find(|policy| Some(&policy.name) == said.policy.as_ref());
                let because = match &exception {
                    _ if policy.is_some_and(|policy| policy.without_aliases) => {
                        Some(Loss::WithoutAliases)
                    }
                    Some(line) => Some(Loss::NeverBlock(line.clone())),
                    None => self.overrule(judgement),
                };
                if let Some(because) = because {
                    self.lost.push(Lost { said, because });
                }
            }
        }
    }

    /// Puts a verdict by another name before those that neither refuse nor allow the name itself at the same
    /// layers. Gives why it has no effect, if it has none.
    fn overrule(&mut self, mut by_alias: Judgement) -> Option<Loss> {
        let is_final = |own: &Judgement| {
            matches!(own.verdict, "reject" | "drop" | "allow") && !own.at_its_addresses
        };
        let finals = self.judgements.iter().filter(|own| is_final(own));
        let (mut is_allowed, mut decided) = (false, Vec::new());
        for own in finals {
            is_allowed |= own.verdict == "allow";
            decided.extend(own.layers.iter().copied());
        }
        by_alias.layers.retain(|layer| !decided.contains(layer));
        if by_alias.layers.is_empty() {
            return Some(match is_allowed {
                true => Loss::NameAllowed,
                false => Loss::LessSpecific,
            });
        }
        let overruled = |own: &Judgement| !is_final(own) && !own.at_its_addresses;
        let place = self.judgements.iter().position(overruled);
        if !by_alias.at_its_addresses {
            for own in &mut self.judgements {
                if overruled(own) {
                    own.layers.retain(|layer| !by_alias.layers.contains(layer));
                }
            }
        }
        let place = place.unwrap_or(self.judgements.len());
        self.judgements.insert(place, by_alias);
        self.judgements.retain(|own| !own.layers.is_empty());
        None
    }

    /// Adds the verdict on a flow to the address that says no name: where its address does not refuse the
    /// flow, this does.
    pub fn learned(&mut self, policy: Option<String>, verdict: Verdict) {
        let refuses = |judgement: &Judgement| matches!(judgement.verdict, "reject" | "drop");
        if self.judgements.iter().all(refuses) {
            return;
        }
        let action = match verdict {
            Verdict::Pass | Verdict::Allow => return,
            Verdict::Reject => Action::Reject.name(),
            Verdict::Drop => Action::Drop.name(),
        };
        self.judgements.push(Judgement {
            layers: vec!["without a name"],
            verdict: action,
            said: Some(Match {
                policy,
                action,
                reason: Reason::Learned,
            }),
            at_its_addresses: false,
            before_its_name: false,
        });
    }
}

/// A layer, and the port of the flow there.
struct Judge {
    layer: Layer,
    name: &'static str,
    transport: Transport,
    port: Option<u16>,
    /// Whether the flow goes to an address in the house or of its provider.
    is_near: bool,
}

impl Judge {
    const fn new(
        layer: Layer,
        name: &'static str,
        transport: Transport,
        port: Option<u16>,
    ) -> Self {
        Self {
            layer,
            name,
            transport,
            port,
            is_near: false,
        }
    }

    /// The same judge for flows to an address.
    fn towards(self, address: IpAddr) -> Self {
        Self {
            is_near: is_near(address),
            ..self
        }
    }

    /// The same flow, before a name is said in it.
    const fn before_a_name(&self) -> Self {
        Self::new(Layer::Address, self.name, self.transport, self.port)
    }

    /// Whether a claim is about traffic that this layer judges, at any address.
    fn holds(&self, claim: &Claim<'_>) -> bool {
        match self.layer {
            Layer::Dns => claim.ports.is_empty() && claim.at.is_none(),
            _ => self.is_at(&claim.ports) && !self.keeps_link_alive(),
        }
    }

    fn is_at(&self, ports: &[Ports]) -> bool {
        ports.is_empty()
            || self.port.is_some_and(|port| {
                ports.iter().any(|range| {
                    (range.first..=range.last).contains(&port)
                        && (range.transport == Transport::Any || range.transport == self.transport)
                })
            })
    }

    /// Whether the flow is DHCP to a near address, which no claim refuses.
    fn keeps_link_alive(&self) -> bool {
        self.layer == Layer::Address
            && self.is_near
            && self.transport == Transport::Udp
            && matches!(self.port, Some(67 | 68 | 546 | 547))
    }
}

/// The claim of a policy or a command about a subject.
struct Claim<'a> {
    said: Match,
    command: bool,
    /// Bytes of the name or bits of the prefix, from 1; 0 for everything.
    specific: usize,
    /// The order among equally specific claims.
    order: (usize, usize),
    ports: Vec<Ports>,
    /// The policy that names the addresses at which it holds.
    at: Option<&'a Policy>,
    /// Why the claim has no effect, whatever its place in the order.
    loss: Option<Loss>,
}

impl Claim<'_> {
    /// The claim of a policy at any address and port.
    fn of(
        policy: &Policy,
        order: (usize, usize),
        action: Action,
        specific: usize,
        reason: Reason,
    ) -> Self {
        Self {
            said: Match {
                policy: Some(policy.name.clone()),
                action: action.name(),
                reason,
            },
            command: false,
            specific,
            order,
            ports: Vec::new(),
            at: None,
            loss: None,
        }
    }

    fn refuses(&self) -> bool {
        matches!(self.said.action, "reject" | "drop")
    }
}

/// The claims in the order in which they are asked.
fn in_order(mut claims: Vec<Claim<'_>>) -> Vec<Claim<'_>> {
    claims.sort_by_key(|claim| {
        (
            !claim.command,
            std::cmp::Reverse(claim.specific),
            claim.order,
        )
    });
    claims
}

/// Why no claim of a policy or command applies, by its devices and schedule; `None`: they do.
pub(super) fn applies(
    deciding: &Deciding<'_>,
    device: &DeviceFacts<'_>,
    devices: &[DeviceSelector],
    schedule: &[Span],
) -> Option<Loss> {
    if !devices.is_empty() && !devices.iter().any(|selector| device.are(selector)) {
        return Some(Loss::OtherDevices);
    }
    let Deciding { zone, now, .. } = deciding;
    let Some(now) = *now else {
        return (!schedule.is_empty()).then_some(Loss::TimeUnknown);
    };
    (!zone.is_within(schedule, now)).then(|| Loss::OutOfSchedule {
        next: zone.next_change(schedule, now),
    })
}

/// A name and all names above it, the longest first; of very long ones the last labels.
fn suffixes(name: &str) -> Vec<&str> {
    let starts = std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1));
    let all: Vec<_> = starts.map(|start| &name[start..]).collect();
    all[all.len().saturating_sub(MAX_LABELS)..].to_vec()
}

fn line(name: &str, listed: &Listed<'_>) -> Line {
    Line {
        name: name.to_owned(),
        list: listed.list.to_owned(),
        line: listed.line,
    }
}

/// The exception (`never-block`) of the longest name at or above this one.
fn exception(deciding: &Deciding<'_>, name: &str) -> Option<Line> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let of_policies = deciding.lists.iter().map(|(_, list)| &*list.names);
    let lists: Vec<_> = std::iter::once(&deciding.catalog.lists)
        .chain(of_policies)
        .collect();
    suffixes(&name).into_iter().find_map(|suffix| {
        let mut listed = lists.iter().filter_map(|lists| lists.of_name(suffix));
        let exception = listed.find(|listed| listed.category == Some(Category::NeverBlock))?;
        Some(line(suffix, &exception))
    })
}

fn name_claims<'a>(
    deciding: &Deciding<'a>,
    device: &DeviceFacts<'_>,
    name: &str,
) -> Vec<Claim<'a>> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let suffixes = suffixes(&name);
    let has = |other: &str| suffixes.contains(&other);
    let is_used = |listed: &Listed<'_>| {
        listed.category == Some(Category::NeverBlock)
            || !deciding.lists.left_out().contains(listed.list)
    };
    let of_suffixes = |lists: &'a Lists| {
        let listed = suffixes
            .iter()
            .filter_map(|name| Some((*name, lists.of_name(name)?)));
        listed
            .filter(|(_, listed)| is_used(listed))
            .collect::<BTreeMap<_, _>>()
    };
    let known = of_suffixes(&deciding.catalog.lists);
    let mut never: Vec<Line> = Vec::new();
    let mut on_lists: BTreeMap<&std::path::Path, Vec<Line>> = BTreeMap::new();
    for (name, listed) in &known {
        if listed.category == Some(Category::NeverBlock) {
            never.push(line(name, listed));
        }
    }
    for (file, list) in deciding.lists.iter() {
        for (name, listed) in of_suffixes(&list.names) {
            let line = line(name, &listed);
            match listed.category {
                Some(Category::NeverBlock) => never.push(line),
                _ => on_lists.entry(file).or_default().push(line),
            }
        }
    }
    let never = never.into_iter().max_by_key(|line| line.name.len());
    // Of categories and owners, that of the longest name that has one counts.
    let longest_first = || suffixes.iter().filter_map(|name| known.get_key_value(name));
    let decisive = |has: fn(&Listed<'_>) -> bool| longest_first().find(|(_, listed)| has(listed));
    let categorised = decisive(|listed| listed.category.is_some());
    let owned = decisive(|listed| listed.owner.is_some());

    let mut claims = Vec::new();
    let newest_first = deciding.temporary.iter().rev();
    for (order, said) in newest_first.enumerate() {
        if has(&said.domain) {
            let shown = said.shown(deciding.offset);
            let devices: Vec<_> = said.device.iter().cloned().collect();
            claims.push(Claim {
                said: Match {
                    policy: None,
                    action: said.action().name(),
                    reason: Reason::Command {
                        name: said.domain.clone(),
                        devices: said.device.as_ref().map(ToString::to_string),
                        since: said.since,
                        until: shown.until,
                        rest: shown.rest,
                    },
                },
                command: true,
                specific: said.domain.len(),
                order: (order, 0),
                ports: Vec::new(),
                at: None,
                loss: applies(deciding, device, &devices, &[]),
            });
        }
    }
    for (order, policy) in deciding.policies.iter().enumerate() {
        let applies = applies(deciding, device, &policy.devices, &policy.schedule);
        let mut claim = |part, action, name: &str, reason, loss: Option<Loss>| {
            let of_policy = part == 0;
            claims.push(Claim {
                ports: match of_policy {
                    true => policy.ports.clone(),
                    false => Vec::new(),
                },
                at: (of_policy && policy.has_addresses()).then_some(policy),
                loss: applies.clone().or(loss),
                ..Claim::of(policy, (order, part), action, name.len(), reason)
            });
        };
        let listed = || never.clone().map(Loss::NeverBlock);
        // A name that is as long as the exception, or longer, is meant all the same.
        let named = |name: &str| {
            let above = never.clone().filter(|never| name.len() < never.name.len());
            above.map(Loss::NeverBlock)
        };
        for domain in policy.domains.iter().filter(|domain| has(domain)) {
            let reason = Reason::Domain {
                name: domain.clone(),
            };
            claim(0, policy.action, domain, reason, named(domain));
        }
        for found in policy
            .lists
            .iter()
            .filter_map(|file| on_lists.get(&**file))
            .flatten()
        {
            let reason = Reason::List(found.clone());
            claim(0, policy.action, &found.name, reason, listed());
        }
        for (name, of) in longest_first() {
            if let Some(category) = of.category
                && policy.categories.contains(&category)
            {
                let at = line(name, of);
                let category = category.name();
                let other = categorised.filter(|(decisive, _)| *decisive != name);
                let other = other.map(|(name, of)| Loss::OtherCategory(line(name, of)));
                let reason = Reason::Category { category, at };
                claim(0, policy.action, name, reason, listed().or(other));
            }
            if let Some(owner) = of.owner
                && policy
                    .owners
                    .iter()
                    .any(|wanted| wanted.eq_ignore_ascii_case(owner))
            {
                let at = line(name, of);
                let owner = owner.to_owned();
                let other = owned.filter(|(decisive, _)| *decisive != name);
                let other = other.map(|(name, of)| Loss::OtherOwner(line(name, of)));
                let reason = Reason::Owner { owner, at };
                claim(0, policy.action, name, reason, listed().or(other));
            }
        }
        if let Some(action) = policy.encrypted_dns {
            let resolver = |name: &str| Reason::Resolver {
                name: name.to_owned(),
            };
            for name in DISCOVERY.into_iter().filter(|name| has(name)) {
                claim(1, action, name, resolver(name), named(name));
            }
            let resolvers = deciding.catalog.resolvers.encrypted_names();
            for name in resolvers.filter(|name| has(name)) {
                claim(1, action, name, resolver(name), listed());
            }
        }
    }
    in_order(claims)
}

/// The entries of a policy that hold an address, and why it is about it.
fn addresses_of(
    policy: &Policy,
    catalog: &Catalog,
    address: IpAddr,
) -> impl Iterator<Item = (IpNet, Reason)> {
    let remotes = policy.remotes.iter().copied();
    let remotes = remotes.map(|prefix| {
        (
            prefix,
            Reason::Remote {
                prefix: prefix.to_string(),
            },
        )
    });
    let networks: &[NetworkSelector] = &policy.networks;
    let found = catalog.networks.prefixes(&policy.countries, networks);
    let found = found.into_iter().map(|prefix| {
        (
            prefix,
            Reason::Network {
                prefix: prefix.to_string(),
            },
        )
    });
    // A policy about an IPv4 prefix is about the IPv6 addresses that stand for its addresses.
    let forms = |(prefix, reason): (IpNet, Reason)| {
        let forms = catalog.with_forms(prefix);
        let form = forms.into_iter().find(|form| form.contains(&address));
        form.map(|form| (form, reason))
    };
    let all: Vec<_> = remotes.chain(found).filter_map(forms).collect();
    all.into_iter()
}

/// The claims about an address; `None`: those about every address.
fn address_claims<'a>(
    deciding: &Deciding<'a>,
    device: &DeviceFacts<'_>,
    address: Option<IpAddr>,
) -> Vec<Claim<'a>> {
    const fn port(first: u16, transport: Transport) -> Ports {
        Ports {
            first,
            last: first,
            transport,
        }
    }

    let mut claims = Vec::new();
    for (order, policy) in deciding.policies.iter().enumerate() {
        let mut loss = applies(deciding, device, &policy.devices, &policy.schedule);
        if address.is_some_and(keeps_link_alive) {
            loss = Some(Loss::KeepsLinkAlive);
        }
        let mut claim = |part, action, specific: usize, reason, ports: &[Ports]| {
            claims.push(Claim {
                ports: ports.to_vec(),
                loss: loss.clone(),
                ..Claim::of(policy, (order, part), action, specific, reason)
            });
        };
        let aside = policy.encrypted_dns.is_some() || policy.quic.is_some();
        if policy.has_names() {
            // The name decides, when it is said.
        } else if policy.has_addresses() {
            let found = address
                .into_iter()
                .flat_map(|address| addresses_of(policy, deciding.catalog, address));
            for (prefix, reason) in found {
                let specific = usize::from(prefix.prefix_len()) + 1;
                claim(0, policy.action, specific, reason, &policy.ports);
            }
        } else if !policy.ports.is_empty() || !aside {
            claim(0, policy.action, 0, Reason::Everything, &policy.ports);
        }
        if let Some(action) = policy.quic {
            let ports = [port(443, Transport::Udp)];
            claim(1, action, 0, Reason::Quic, &ports);
        }
        if let Some(action) = policy.encrypted_dns {
            let ports = [port(853, Transport::Any)];
            claim(2, action, 0, Reason::EncryptedDns, &ports);
            let resolvers = deciding.catalog.resolvers.encrypted_addresses();
            let mut forms = resolvers.flat_map(|resolver| {
                let forms = deciding.catalog.with_forms(resolver.into());
                forms.map(move |form| (resolver, form))
            });
            if let Some(address) = address
                && let Some((resolver, form)) = forms.find(|(_, form)| form.contains(&address))
            {
                let specific = usize::from(form.prefix_len()) + 1;
                let name = resolver.to_string();
                let ports = [port(443, Transport::Any)];
                claim(3, action, specific, Reason::Resolver { name }, &ports);
            }
        }
    }
    in_order(claims)
}

/// Whether an address is on the link alone, where nothing is refused.
fn keeps_link_alive(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.octets()[0] >= 224 || address.is_link_local() || address.is_unspecified()
        }
        IpAddr::V6(address) => {
            address.is_multicast() || address.is_unicast_link_local() || address.is_unspecified()
        }
    }
}

/// Whether an address is none of the internet at large (RFC 6890; RFC 4291, section 2.4).
fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            let of_provider = a == 100 && (64..128).contains(&b);
            a == 0 || a >= 224 || of_provider || {
                address.is_private() || address.is_loopback() || address.is_link_local()
            }
        }
        IpAddr::V6(address) => !(0x2000..0x4000).contains(&address.segments()[0]),
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! The same reading, for a flow whose address is known.

    use super::*;

    /// The policy and the action that decide about a name, or about the address where there is no name.
    pub(in crate::policy) fn decides(
        deciding: &Deciding<'_>,
        device: &DeviceFacts<'_>,
        name: Option<&str>,
        layer: Layer,
        (address, transport, port): (IpAddr, Transport, u16),
    ) -> Option<(Option<String>, &'static str)> {
        let claims = match name {
            Some(name) => name_claims(deciding, device, name),
            None => address_claims(deciding, device, Some(address)),
        };
        let judge = Judge::new(layer, "", transport, Some(port)).towards(address);
        let found = claims.into_iter().find(|claim| {
            claim.loss.is_none()
                && judge.holds(claim)
                && claim.at.is_none_or(|policy| {
                    addresses_of(policy, deciding.catalog, address)
                        .next()
                        .is_some()
                })
        })?;
        Some((found.said.policy, found.said.action))
    }
}
