//! Verdicts on names, on their way into the flows.

use std::{
    mem::offset_of,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aya::maps::Map;
use sensor_ebpf::{
    books::Settings,
    flow::{FlowKey, FlowRecord, Judgement, slot},
    parse::{protocol, tcp_flag},
};

use super::{
    Error,
    load::pinned,
    table::{Access, Table},
};
use crate::hearing::Ruling;

/// The judgements of all flows, apart from the rest of the books: whoever has them waits for nobody.
pub struct Verdicts {
    flows: Table<FlowRecord>,
    settings: Table<Settings>,
}

impl Verdicts {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        Self::over(pinned(directory, "FLOWS")?, pinned(directory, "SETTINGS")?)
    }

    /// The flows and the settings, wherever their maps come from.
    pub(super) fn over(flows: Map, settings: Map) -> Result<Self, Error> {
        match (flows, settings) {
            (Map::Array(flows), Map::Array(settings)) => Ok(Self {
                flows: Table::map(&flows, "FLOWS", Access::Write)?,
                settings: Table::map(&settings, "SETTINGS", Access::Write)?,
            }),
            _ => Err(Error::ForeignLayout),
        }
    }

    /// Tells the kernel until when somebody gives verdicts, as time since boot: behind it nothing
    /// waits for them, and nothing is refused for what was learned of an address.
    pub fn alive_until(&self, since_boot: Duration) {
        self.settings
            .word(0, offset_of!(Settings, alive_until))
            .store(since_boot.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The number of the policy by which the kernel decides.
    pub fn generation(&self) -> u32 {
        self.settings.generation().load(Ordering::Acquire)
    }

    /// The flow in a slot; `None` where there is none.
    pub fn key(&self, slot: u32) -> Option<FlowKey> {
        if slot >= self.flows.len() || self.flows.state(slot).load(Ordering::Acquire) != slot::LIVE
        {
            return None;
        }
        Some(self.flows.read(slot).key)
    }

    /// The number of the upload's SYN of the TCP flow in a slot, where it was seen.
    pub fn began(&self, slot: u32) -> Option<u32> {
        let record = (slot < self.flows.len()).then(|| self.flows.read(slot))?;
        let is_seen =
            record.key.protocol() == protocol::TCP && record.tcp_flags[0] & tcp_flag::SYN != 0;
        is_seen.then_some(record.initial_sequence[0])
    }

    /// Writes what is ruled into a flow, if its slot is still its own, and gives whether that changed
    /// its decision, or made it one.
    pub fn write(&self, slot: u32, key: &FlowKey, ruling: &Ruling) -> bool {
        self.put(slot, key, |before| ruling.apply(before, key))
    }

    /// Ends the watch over a flow, of which everything is known: its next packets are steady.
    pub fn end_watch(&self, slot: u32, key: &FlowKey) {
        self.put(slot, key, |before| Judgement {
            watch: before.watch.settled(key),
            ..before
        });
    }

    fn put(&self, slot: u32, key: &FlowKey, change: impl Fn(Judgement) -> Judgement) -> bool {
        if slot >= self.flows.len() {
            return false;
        }
        let word = self.flows.word(slot, offset_of!(FlowRecord, judgement));
        put(word, || self.key(slot) == Some(*key), change)
    }
}

/// Changes a judgement that programs and others change too, and gives whether what was decided is
/// another now, or named for the first time.
///
/// `is_own` says whether the slot is still the flow's, and is asked between the look at the word and
/// its exchange: a flow that takes the slot in between brings a word of its own, and the exchange
/// does not find what it looked at.
fn put(
    word: &AtomicU64,
    is_own: impl Fn() -> bool,
    change: impl Fn(Judgement) -> Judgement,
) -> bool {
    let decided = |judgement: Judgement| (judgement.decision, judgement.named);
    let mut before = word.load(Ordering::Acquire);
    loop {
        if !is_own() {
            return false;
        }
        let after = change(Judgement::unpack(before));
        if after.pack() == before {
            return false;
        }
        match word.compare_exchange_weak(before, after.pack(), Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => return decided(Judgement::unpack(before)) != decided(after),
            Err(found) => before = found,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, thread};

    use sensor_ebpf::{
        flow::Direction,
        parse::{Parsed, parse},
        policy::{Decision, Layer, Verdict},
        sample::Watch,
    };

    use super::*;

    fn key() -> FlowKey {
        let mut frame = [0; 54];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&40_u16.to_be_bytes());
        frame[23] = 6;
        frame[46] = 5 << 4;
        let parsed: Parsed = parse(&frame[..]).expect("a whole frame");
        FlowKey::new(&parsed, Direction::Upload, 1)
    }

    /// One thread rules, one ends the watch, and one spends it as the programs do.
    #[test]
    fn no_verdict_is_lost_where_others_change_the_same_word() {
        let key = key();
        let refused = Decision {
            policy: 7,
            verdict: Verdict::Reject,
            layer: Layer::Tls,
        };
        let ruling = Ruling {
            generation: 3,
            decision: Some(refused),
            again: false,
            settled: true,
            requests: false,
        };
        let words: Vec<_> = (0..200_000)
            .map(|_| {
                let new = Judgement::new(3, Decision::PASS, Watch::new(4, 4));
                AtomicU64::new(new.pack())
            })
            .collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                for word in &words {
                    put(word, || true, |before| ruling.apply(before, &key));
                }
            });
            scope.spawn(|| {
                for word in &words {
                    put(
                        word,
                        || true,
                        |before| Judgement {
                            watch: before.watch.settled(&key),
                            ..before
                        },
                    );
                }
            });
            scope.spawn(|| {
                for word in &words {
                    let seen = Judgement::unpack(word.load(Ordering::Relaxed));
                    if seen.watch.wants(Direction::Upload) {
                        word.fetch_add(Judgement::one_less(Direction::Upload), Ordering::Relaxed);
                    }
                }
            });
        });
        for word in &words {
            let judgement = Judgement::unpack(word.load(Ordering::Relaxed));
            assert_eq!(judgement.decision, refused);
            assert!(judgement.named);
            assert_eq!(judgement.generation, 3);
        }
    }

    /// A flow leaves its slot, and another takes it, at each of the moments at which that can be.
    #[test]
    fn the_flow_that_takes_the_slot_has_no_verdict_of_the_one_before() {
        #[derive(Clone, Copy, Debug, PartialEq)]
        enum Moment {
            BeforeTheCheck,
            BehindTheCheck,
            BeforeTheExchange,
            /// The exchange was lost before: the flow's own packet spent the watch.
            BehindALostExchange,
        }
        let refused = Decision {
            policy: 7,
            verdict: Verdict::Reject,
            layer: Layer::Quic,
        };
        let new = |watch| Judgement::new(3, Decision::PASS, watch).pack();
        let (own, spent, others) = (
            new(Watch::new(4, 4)),
            new(Watch::new(3, 4)),
            new(Watch::new(8, 8)),
        );
        for moment in [
            Moment::BeforeTheCheck,
            Moment::BehindTheCheck,
            Moment::BeforeTheExchange,
            Moment::BehindALostExchange,
        ] {
            let word = AtomicU64::new(own);
            let (is_own, looked) = (Cell::new(true), Cell::new(0));
            let taken = |at| {
                if at == moment {
                    is_own.set(false);
                    word.store(others, Ordering::Release);
                }
            };
            let changed = put(
                &word,
                || {
                    taken(Moment::BeforeTheCheck);
                    let is_own = is_own.get();
                    taken(Moment::BehindTheCheck);
                    is_own
                },
                |before| {
                    taken(Moment::BeforeTheExchange);
                    looked.set(looked.get() + 1);
                    if moment == Moment::BehindALostExchange {
                        match looked.get() {
                            1 => word.store(spent, Ordering::Release),
                            _ => taken(Moment::BehindALostExchange),
                        }
                    }
                    Judgement {
                        decision: refused,
                        ..before
                    }
                },
            );
            assert!(!changed, "{moment:?}");
            assert_eq!(word.load(Ordering::Acquire), others, "{moment:?}");
        }
    }
}
