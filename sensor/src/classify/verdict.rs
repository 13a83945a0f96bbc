//! The judge of names: of payloads that the kernel could not read whole, and of every known name again after
//! another policy came into force.

use std::{fmt, net::IpAddr, sync::Arc};

use sensor_ebpf::{
    flow::{self, Direction, FlowKey, Wants},
    parse::{Mac, protocol},
    policy::{Decision, Layer},
    sample::{Head, Kind},
};

use super::{ECH_PROVIDERS, Expired, Observation, Outcome, Source};
use crate::decode::Failure;

/// Decides about a name, given the flow's key, the name in lower case, the names to which a DNS answer led the
/// device from it, and the layer that told it. `None` if no rule applies to it.
pub type ByName = dyn Fn(&FlowKey, &str, &[Box<str>], Layer) -> Option<Decision> + Send + Sync;

/// Whether some rule by name applies to a device.
pub type Concerns = dyn Fn(Mac) -> bool + Send + Sync;

/// Decides about a flow that tells no name, by the names learned for its address. `None` if no such decision is
/// there.
pub type ByAddress = dyn Fn(&FlowKey) -> Option<Decision> + Send + Sync;

/// The policy in force.
pub struct ActiveRules {
    /// The kernel's number for it.
    pub generation: u32,
    /// Decides about a name.
    pub by_name: Box<ByName>,
    /// Decides about a flow without a name.
    pub by_address: Box<ByAddress>,
    /// Says whether some rule by name applies to a device.
    pub concerns: Box<Concerns>,
}

impl ActiveRules {
    /// A policy that is about no name.
    pub fn without_names(generation: u32) -> Self {
        Self {
            generation,
            by_name: Box::new(|_, _, _, _| None),
            by_address: Box::new(|_| None),
            concerns: Box::new(|_| false),
        }
    }
}

impl fmt::Debug for ActiveRules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ActiveRules")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// The reason why the name of a flow could not be judged to which a policy by name applies. The
/// [name](Self::name) is the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unread {
    /// It could not be decoded.
    Failed(Failure),
    /// The hello of a QUIC connection never came, because the connection began elsewhere, or before.
    NoHello,
    /// It is in fragments.
    Fragment,
    /// The hello is encrypted; the outer name is that of the provider that passes it on.
    EncryptedHello,
    /// A DNS message has several questions.
    SeveralQuestions,
    /// A DNS question is compressed, so that only user space reads it, after it was forwarded.
    CompressedQuestion,
    /// It has urgent data, which some servers read as part of the stream and others do not.
    Urgent,
}

impl Unread {
    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed(Failure::Unsupported) => "unknown-version",
            Self::Failed(failure) => failure.name(),
            Self::NoHello => "no-hello",
            Self::Fragment => "fragment",
            Self::EncryptedHello => "encrypted-hello",
            Self::SeveralQuestions => "several-questions",
            Self::CompressedQuestion => "compressed-question",
            Self::Urgent => "urgent",
        }
    }

    /// Whether it stays in doubt which name the server got, even if a name is read later.
    pub const fn outlasts_a_name(self) -> bool {
        matches!(self, Self::Urgent)
    }
}

/// The ruling about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The generation of the policy that it is by.
    pub generation: u32,
    /// The decision by the name; `None` if no rule applies to it, or if there is none: the decision by the
    /// addresses then stays.
    pub decision: Option<Decision>,
    /// Whether the name was judged before, by another policy.
    pub again: bool,
    /// Whether nothing more can be learned from the flow.
    pub settled: bool,
    /// Whether all requests of the flow are wanted, because each names a host.
    pub requests: bool,
}

impl Ruling {
    /// The ruling in the form for the programs, about the connection with an epoch.
    pub fn about(&self, epoch: u8) -> flow::Ruling {
        flow::Ruling {
            generation: self.generation,
            epoch,
            version: 0,
            decision: self.decision.unwrap_or(Decision::PASS),
            named: true,
            again: self.again,
            wants: if self.requests {
                Wants::Requests
            } else if self.settled {
                Wants::Settled
            } else {
                Wants::Same
            },
        }
    }
}

/// The judgement of an observation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// The ruling to write.
    pub ruling: Option<Ruling>,
    /// The reason why no name could be judged, and the layer.
    pub unread: Option<(Unread, Layer)>,
    /// The index of the refused one of the [hosts](Observation::hosts), if the flow told another name before.
    pub host: Option<usize>,
}

impl Judged {
    /// Whether the flow is refused.
    pub(super) fn refuses(&self) -> bool {
        let decision = self.ruling.and_then(|ruling| ruling.decision);
        decision.is_some_and(|decision| decision.verdict.refuses())
    }
}

/// A refusal that a payload led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The refused name; `None`: the flow told none, and is refused by its address.
    pub name: Option<Arc<str>>,
    /// The decision.
    pub decision: Decision,
    /// How often: the kernel copies one of several questions for the same name.
    pub count: u64,
}

/// Judges observations by the policy in force.
#[derive(Debug)]
pub struct Judge {
    in_force: Arc<ActiveRules>,
}

impl Judge {
    /// A judge by this policy.
    pub const fn new(in_force: Arc<ActiveRules>) -> Self {
        Self { in_force }
    }

    /// The number of the policy in force.
    pub fn generation(&self) -> u32 {
        self.in_force.generation
    }

    /// Judges the observation of a payload.
    pub fn judge(&self, heard: &Observation) -> Judged {
        let (head, key) = (&heard.head, &heard.head.key);
        let uploaded = head.direction == Direction::Upload as u8;
        if !uploaded || heard.is_announcement() || !(self.in_force.concerns)(key.mac()) {
            return Judged::default();
        }
        let mut judged = self.judge_said(heard);
        // The kernel judged the first request of a segment, if it could read it.
        let mut hosts = heard.hosts.iter().enumerate();
        if !judged.refuses()
            && let Some((host, decision)) = hosts.find_map(|(number, host)| {
                let decision = self.by_host(heard, host)?;
                decision.verdict.refuses().then_some((number, decision))
            })
        {
            judged = Judged {
                ruling: Some(Ruling {
                    decision: Some(decision),
                    ..self.ruling(false)
                }),
                host: Some(host),
                ..Judged::default()
            };
        }
        if let Some(failure) = heard.doubt
            && !judged.refuses()
        {
            judged.unread = Some((Unread::Failed(failure), layer_of(heard)));
        }
        if head.flags & Head::URGENT != 0 && !judged.refuses() {
            judged.unread = Some((Unread::Urgent, layer_of(heard)));
        }
        judged
    }

    /// Judges the upload of a device to which a rule by name applies.
    fn judge_said(&self, heard: &Observation) -> Judged {
        let key = &heard.head.key;
        match &heard.outcome {
            _ if heard.is_dns => self.questions(heard),
            Outcome::Name(name, source) => {
                let layer = layer(*source);
                let decision = match source {
                    Source::Http => self.by_host(heard, name),
                    _ => (self.in_force.by_name)(key, name, targets(heard, name), layer),
                };
                let hides = heard.details.as_ref().is_some_and(|details| details.ech)
                    && ECH_PROVIDERS.contains(&&**name);
                let refused = decision.is_some_and(|decision| decision.verdict.refuses());
                Judged {
                    ruling: Some(Ruling {
                        decision,
                        requests: *source == Source::Http && heard.settled,
                        ..self.ruling(heard.settled)
                    }),
                    unread: (hides && !refused).then_some((Unread::EncryptedHello, layer)),
                    ..Judged::default()
                }
            }
            Outcome::Nameless => Judged {
                ruling: Some(Ruling {
                    decision: (self.in_force.by_address)(key),
                    requests: heard.requests,
                    ..self.ruling(heard.settled)
                }),
                ..Judged::default()
            },
            Outcome::Unread(failure) => Judged {
                ruling: Some(self.ruling(heard.settled)),
                unread: Some((Unread::Failed(*failure), layer_of(heard))),
                ..Judged::default()
            },
            Outcome::NoHello => Judged {
                ruling: Some(self.ruling(false)),
                unread: Some((Unread::NoHello, Layer::Quic)),
                ..Judged::default()
            },
            Outcome::Fragment => Judged {
                unread: Some((Unread::Fragment, layer_of(heard))),
                ..Judged::default()
            },
            Outcome::Nothing | Outcome::Waiting => Judged::default(),
        }
    }

    /// The refusals by this judgement of an observation, each once, and those of its names by the kernel.
    pub fn refused(&self, heard: &Observation, judged: &Judged) -> Vec<Refused> {
        let head = &heard.head;
        let by_kernel = head.flags & Head::REFUSED != 0;
        if heard.is_dns {
            if !by_kernel && !judged.refuses() {
                return Vec::new();
            }
            let asked = heard.messages.iter().filter(|message| !message.response);
            let questions = asked.flat_map(|message| &message.questions);
            let refused = questions.filter_map(|question| {
                let name = &question.name;
                let decision = (self.in_force.by_name)(&head.key, name, &[], Layer::Dns)?;
                decision.verdict.refuses().then(|| Refused {
                    name: Some(Arc::from(&**name)),
                    decision,
                    count: 1 + head.suppressed,
                })
            });
            return refused.collect();
        }
        let decision = judged.ruling.and_then(|ruling| ruling.decision);
        let decision = decision.filter(|decision| decision.verdict.refuses());
        // A name that was told before is judged again with each payload that follows.
        let is_new = !heard.told_before || judged.host.is_some() || by_kernel;
        let Some(decision) = decision.filter(|_| is_new) else {
            return Vec::new();
        };
        let host = judged.host.and_then(|host| heard.hosts.get(host));
        let name = match &heard.outcome {
            Outcome::Name(name, _) => Some(host.unwrap_or(name)),
            _ => host,
        };
        let refused = Refused {
            name: name.filter(|_| decision.layer != Layer::Address).cloned(),
            decision,
            count: 1,
        };
        vec![refused]
    }

    /// Judges a flow whose missing payload never came.
    pub fn judge_given_up(&self, given: &Expired) -> Judged {
        if !(self.in_force.concerns)(given.key.mac()) {
            return Judged::default();
        }
        Judged {
            ruling: Some(self.ruling(false)),
            unread: Some((Unread::Failed(given.why), by_decoder(given.decoder))),
            ..Judged::default()
        }
    }

    /// Judges the name of a flow again, after another policy came into force. `targets` are the names to which a
    /// DNS answer led the device from this one.
    pub fn judge_again(
        &self,
        key: &FlowKey,
        name: &str,
        targets: &[Box<str>],
        source: Source,
    ) -> Ruling {
        Ruling {
            decision: (self.in_force.by_name)(key, name, targets, layer(source)),
            again: true,
            ..self.ruling(false)
        }
    }

    /// The decision about the host of a request, which may be an address.
    fn by_host(&self, heard: &Observation, host: &str) -> Option<Decision> {
        let key = &heard.head.key;
        match host.parse::<IpAddr>() {
            Ok(_) => (self.in_force.by_address)(key),
            Err(_) => (self.in_force.by_name)(key, host, targets(heard, host), Layer::Http),
        }
    }

    /// DNS: a question in a datagram is on its way, one in a stream ends the stream.
    fn questions(&self, heard: &Observation) -> Judged {
        let head = &heard.head;
        let failed = || match heard.failure {
            Some((_, failure)) => unread(Unread::Failed(failure), Layer::Dns),
            None => Judged::default(),
        };
        // Of a stream the kernel reads one message, and does not know where others begin.
        let is_datagram = head.key.protocol() == protocol::UDP;
        if is_datagram && (heard.failure.is_some() || head.flags & Head::JUDGED != 0) {
            return failed();
        }
        let asked = heard.messages.iter().filter(|message| !message.response);
        if is_datagram {
            let reason = asked
                .filter_map(|message| match message.questions.len() {
                    0 => None,
                    1 => Some(Unread::CompressedQuestion),
                    _ => Some(Unread::SeveralQuestions),
                })
                .next();
            return Judged {
                unread: reason.map(|reason| (reason, Layer::Dns)),
                ..Judged::default()
            };
        }
        let decisions = asked
            .flat_map(|message| &message.questions)
            .filter_map(|question| {
                (self.in_force.by_name)(&head.key, &question.name, &[], Layer::Dns)
            });
        // One that refuses ends the stream; of others the latest is the flow's.
        let decision = decisions.reduce(|one, other| match one.verdict.refuses() {
            true => one,
            false => other,
        });
        let unread = match decision {
            Some(decision) if decision.verdict.refuses() => None,
            _ => failed().unread,
        };
        Judged {
            ruling: decision.map(|decision| Ruling {
                decision: Some(decision),
                ..self.ruling(false)
            }),
            unread,
            ..Judged::default()
        }
    }

    fn ruling(&self, settled: bool) -> Ruling {
        Ruling {
            generation: self.in_force.generation,
            decision: None,
            again: false,
            settled,
            requests: false,
        }
    }
}

/// The names to which a DNS answer led the device from this one.
fn targets<'a>(heard: &'a Observation, name: &str) -> &'a [Box<str>] {
    let mut aliases = heard.aliases.iter();
    let alias = aliases.find(|(alias, _)| **alias == *name);
    alias.map_or(&[], |(_, targets)| targets)
}

fn unread(reason: Unread, layer: Layer) -> Judged {
    Judged {
        unread: Some((reason, layer)),
        ..Judged::default()
    }
}

const fn layer(source: Source) -> Layer {
    match source {
        Source::Tls => Layer::Tls,
        Source::Quic => Layer::Quic,
        Source::Http => Layer::Http,
        Source::Dns => Layer::Dns,
    }
}

fn layer_of(heard: &Observation) -> Layer {
    if let Some((decoder, _)) = heard.failure {
        return by_decoder(decoder);
    }
    match (&heard.outcome, heard.kind) {
        (Outcome::Name(_, source), _) => layer(*source),
        (_, Kind::Quic) => Layer::Quic,
        (_, Kind::Http) => Layer::Http,
        (_, Kind::Dns) => Layer::Dns,
        _ => Layer::Tls,
    }
}

fn by_decoder(decoder: &str) -> Layer {
    match decoder {
        "quic" => Layer::Quic,
        "http" => Layer::Http,
        "dns" => Layer::Dns,
        _ => Layer::Tls,
    }
}
