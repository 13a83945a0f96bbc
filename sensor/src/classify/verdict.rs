//! Judges the names that are heard: what the kernel could not read whole, and every known name
//! again when another policy comes in force.

use std::{fmt, net::IpAddr, sync::Arc};

use sensor_ebpf::{
    flow::{self, Direction, FlowKey, Wants},
    parse::{Mac, protocol},
    policy::{Decision, Layer},
    sample::{Head, Kind},
};

use super::{ECH_PROVIDERS, Expired, Observation, Outcome, Source};
use crate::decode::Failure;

/// What decides about a name: the flow's key, the name in lower case, and what told it. `None`
/// where no rule is about it.
pub type ByName = dyn Fn(&FlowKey, &str, Layer) -> Option<Decision> + Send + Sync;

/// Whether some rule by name applies to a device.
pub type Concerns = dyn Fn(Mac) -> bool + Send + Sync;

/// What decides about a flow that says no name, by what is learned of its address. `None` where
/// nothing is.
pub type ByAddress = dyn Fn(&FlowKey) -> Option<Decision> + Send + Sync;

/// The policy that is in force.
pub struct InForce {
    /// The kernel's number for it.
    pub generation: u32,
    /// Decides about a name.
    pub by_name: Box<ByName>,
    /// Decides about a flow without a name.
    pub by_address: Box<ByAddress>,
    /// Says whether some rule by name applies to a device.
    pub concerns: Box<Concerns>,
}

impl InForce {
    /// A policy that is about no name.
    pub fn without_names(generation: u32) -> Self {
        Self {
            generation,
            by_name: Box::new(|_, _, _| None),
            by_address: Box::new(|_| None),
            concerns: Box::new(|_| false),
        }
    }
}

impl fmt::Debug for InForce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("InForce")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Why the name of a flow that a policy by name is about could not be judged. The
/// [name](Self::name) is the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unread {
    /// It could not be decoded.
    Failed(Failure),
    /// The hello of a QUIC connection never came: it began elsewhere, or before.
    NoHello,
    /// It is in fragments.
    Fragment,
    /// The hello is encrypted; what is outside names whoever passes it on.
    EncryptedHello,
    /// A DNS message has several questions.
    SeveralQuestions,
    /// A DNS question is written so that only user space reads it, when it is gone.
    CompressedQuestion,
    /// It has urgent data, which is part of what is said to some servers and not to others.
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

    /// Whether a name that is read later leaves it in doubt what the server was told.
    pub const fn outlasts_a_name(self) -> bool {
        matches!(self, Self::Urgent)
    }
}

/// What is to be ruled of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The generation of the policy that it is by.
    pub generation: u32,
    /// What the name decided; `None` where no rule is about it, or where there is none: what the
    /// addresses led to stays.
    pub decision: Option<Decision>,
    /// The name was judged before, by another policy.
    pub again: bool,
    /// Nothing more is to be learned from the flow.
    pub settled: bool,
    /// Every request of the flow names a host: all are wanted.
    pub requests: bool,
}

impl Ruling {
    /// What the programs are told, of the connection with an epoch.
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

/// What the judge says of something that was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// What is to be written.
    pub ruling: Option<Ruling>,
    /// Why there was nothing to judge, and where.
    pub unread: Option<(Unread, Layer)>,
    /// Which of the [hosts](Observation::hosts) it is refused for, where the flow told another one before.
    pub host: Option<usize>,
}

impl Judged {
    /// Whether the flow is refused.
    pub(super) fn refuses(&self) -> bool {
        let decision = self.ruling.and_then(|ruling| ruling.decision);
        decision.is_some_and(|decision| decision.verdict.refuses())
    }
}

/// Judges by the policy that is in force.
#[derive(Debug)]
pub struct Judge {
    in_force: Arc<InForce>,
}

impl Judge {
    /// By this policy.
    pub const fn new(in_force: Arc<InForce>) -> Self {
        Self { in_force }
    }

    /// The number of the policy in force.
    pub fn generation(&self) -> u32 {
        self.in_force.generation
    }

    /// Judges what a device said.
    pub fn judge(&self, heard: &Observation) -> Judged {
        let (head, key) = (&heard.head, &heard.head.key);
        let uploaded = head.direction == Direction::Upload as u8;
        if !uploaded || heard.is_announcement() || !(self.in_force.concerns)(key.mac()) {
            return Judged::default();
        }
        let mut judged = self.judge_said(heard);
        // The first request of a segment was judged by the kernel, where it could read it.
        let mut hosts = heard.hosts.iter().enumerate();
        if !judged.refuses()
            && let Some((host, decision)) = hosts.find_map(|(number, host)| {
                let decision = self.by_host(key, host)?;
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

    /// Judges what a device said, to whom a rule by name applies.
    fn judge_said(&self, heard: &Observation) -> Judged {
        let key = &heard.head.key;
        match &heard.outcome {
            _ if heard.is_dns => self.questions(heard),
            Outcome::Name(name, source) => {
                let layer = layer(*source);
                let decision = match source {
                    Source::Http => self.by_host(key, name),
                    _ => (self.in_force.by_name)(key, name, layer),
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

    /// Judges a flow of which something is missing for good.
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

    /// Judges the name of a flow again, because another policy came in force.
    pub fn judge_again(&self, key: &FlowKey, name: &str, source: Source) -> Ruling {
        Ruling {
            decision: (self.in_force.by_name)(key, name, layer(source)),
            again: true,
            ..self.ruling(false)
        }
    }

    /// What is decided about the host of a request, which may be an address.
    fn by_host(&self, key: &FlowKey, host: &str) -> Option<Decision> {
        match host.parse::<IpAddr>() {
            Ok(_) => (self.in_force.by_address)(key),
            Err(_) => (self.in_force.by_name)(key, host, Layer::Http),
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
            .filter_map(|question| (self.in_force.by_name)(&head.key, &question.name, Layer::Dns));
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
