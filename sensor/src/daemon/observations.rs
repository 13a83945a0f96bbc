//! The records of the classifier's thread: names and facts go to the aggregate, refusals with their causes too.

use sensor_ebpf::{flow::FlowKey, policy::Verdict, sample::Judged};

use super::owner::Owner;
use crate::{
    aggregate::{
        action,
        refused::{Cause, Refusal},
        remote_end,
    },
    classify::{Classified, Refused},
    record::Record,
};

impl Owner {
    /// Takes a batch of records from the classifier's thread.
    pub(super) fn take(&mut self, batch: Vec<Classified>) {
        let now = self.clock.now().steady;
        for mut record in batch {
            match &mut record {
                Classified::Record(Record::Judged(judged)) => {
                    report_judged(judged);
                    self.note_refused_address(judged, now);
                }
                Classified::Observation(observation) => {
                    for refused in std::mem::take(&mut observation.refused) {
                        self.note_refused(&observation.head.key, refused, now);
                    }
                }
                _ => {}
            }
            self.aggregate.take(record, now);
        }
    }

    /// Notes a flow that the programs refused by its address and port. The payload of a flow that they refused for
    /// another reason comes as an observation.
    pub(super) fn note_refused_address(&mut self, judged: &Judged, now: f64) {
        if Verdict::from_number(judged.verdict).refuses()
            && let Some(decision) = self.enforcement.refused_by_address(&judged.key)
        {
            let refused = Refused {
                name: None,
                decision,
                count: 1,
            };
            self.note_refused(&judged.key, refused, now);
        }
    }

    /// Notes a refusal, and why.
    pub(super) fn note_refused(&mut self, key: &FlowKey, refused: Refused, now: f64) {
        let Refused {
            name,
            decision,
            count,
        } = refused;
        let cause = name.as_ref().map_or_else(Cause::default, |name| {
            let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let names = self.aggregate.address_names();
            let targets = || names.aliases(key.mac(), &lower, now);
            let (config, catalog) = (&self.config, &self.catalog);
            (self.enforcement).cause(decision.policy, &lower, targets, config, catalog)
        });
        let refusal = Refusal {
            what: name.map_or_else(|| remote_end(key), |name| name.to_string()),
            layer: decision.layer,
            verdict: decision.verdict,
            policy: decision.policy,
            count,
            cause,
        };
        self.aggregate.refuse(key.mac(), refusal, now);
    }
}

/// Tells the log, at debug, which flow a policy matched. Names and addresses go no higher.
fn report_judged(judged: &Judged) {
    tracing::debug!(
        device = judged.key.mac().to_string(),
        remote = ?judged.key.remote(),
        port = judged.key.remote_port(),
        policy = judged.policy,
        action = action(Verdict::from_number(judged.verdict)),
        "a policy matched a flow",
    );
}
