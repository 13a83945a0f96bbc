//! The DNS questions of a capture, each once, with its answers.

use std::collections::{HashMap, hash_map::Entry};

use sensor_ebpf::{flow::Direction, sample::Head};

use super::{Aggregate, books};
use crate::{decode::dns, model::DnsQuestion};

/// Questions in the order in which they came, each once however often it is sent.
#[derive(Debug, Default)]
pub(super) struct Kept {
    questions: Vec<DnsQuestion>,
    /// By client, server, name, type and identifier.
    places: HashMap<(String, String, String, String, u16), usize>,
}

impl Kept {
    pub(super) fn keep(&mut self, question: DnsQuestion, is_answered: bool) {
        let key = (
            question.client.clone(),
            question.server.clone(),
            question.name.clone(),
            question.kind.clone(),
            question.id,
        );
        match self.places.entry(key) {
            Entry::Vacant(place) => {
                place.insert(self.questions.len());
                self.questions.push(question);
            }
            Entry::Occupied(place) if is_answered => {
                self.questions[*place.get()].answers = question.answers;
            }
            Entry::Occupied(_) => {}
        }
    }
}

impl Aggregate {
    /// Keeps every DNS question from now on, for [`questions`](Self::questions), without a bound: captures use
    /// it, which have one.
    pub fn keep_questions(&mut self) {
        self.questions = Some(Kept::default());
    }

    /// The kept questions, in order.
    pub fn questions(&self) -> &[DnsQuestion] {
        match &self.questions {
            Some(kept) => &kept.questions,
            None => &[],
        }
    }

    /// Keeps a message's questions, if they are wanted.
    pub(super) fn keep(&mut self, head: &Head, message: dns::Message) {
        let Some(kept) = &mut self.questions else {
            return;
        };
        let key = &head.key;
        let local = books::end(key, key.local(), key.local_port());
        let remote = books::end(key, key.remote(), key.remote_port());
        // The device may itself be the server.
        let asks = (head.direction == Direction::Upload as u8) != message.response;
        let (client, server) = if asks {
            (local, remote)
        } else {
            (remote, local)
        };
        // A device that registers a name asks for it to be set (RFC 2136).
        let updates = message.updates.into_iter().map(|update| dns::Question {
            name: update.name,
            kind: update.kind,
        });
        for question in message.questions.into_iter().chain(updates) {
            let question = DnsQuestion {
                client: client.clone(),
                server: server.clone(),
                name: question.name,
                kind: dns::kind_name(question.kind),
                answers: match message.response {
                    true => message.answers.clone(),
                    false => Vec::new(),
                },
                id: message.id,
            };
            kept.keep(question, message.response);
        }
    }
}
