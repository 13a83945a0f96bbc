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

    /// Whether the flow in a slot is refused, if it is the flow with this key.
    pub fn refuses(&self, slot: u32, key: &FlowKey) -> bool {
        self.key(slot) == Some(*key)
            && Judgement::unpack(self.flows.read(slot).judgement)
                .decision
                .verdict
                .refuses()
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

    /// Puts right what additions of programs have disturbed in the judgements of flows: of those alone
    /// that `may_be_http` gives `true` for all uploads are wanted for ever.
    pub fn mend(&self, may_be_http: impl Fn(u32, &FlowKey) -> bool) {
        for slot in 0..self.flows.len() {
            let word = self.flows.word(slot, offset_of!(FlowRecord, judgement));
            if Judgement::is_sound(word.load(Ordering::Relaxed)) {
                continue;
            }
            let Some(key) = self.key(slot) else { continue };
            let is_http = may_be_http(slot, &key);
            put(
                word,
                || self.key(slot) == Some(key),
                |before| before.mended(&key, is_http),
            );
        }
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
    use std::{cell::Cell, env, thread};

    use rustix::process::geteuid;

    use sensor_ebpf::{
        flow::Direction,
        parse::{Parsed, parse},
        policy::{Decision, Layer, Verdict},
        sample::Watch,
    };

    use super::*;
    use crate::source::kernel::{Runner, enter_own_namespace};

    fn frame(remote_port: u16) -> [u8; 54] {
        let mut frame = [0; 54];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&40_u16.to_be_bytes());
        frame[23] = 6;
        frame[36..38].copy_from_slice(&remote_port.to_be_bytes());
        frame[46] = 5 << 4;
        frame
    }

    fn key() -> FlowKey {
        let parsed: Parsed = parse(&frame(443)[..]).expect("a whole frame");
        FlowKey::new(&parsed, Direction::Upload, 1)
    }

    /// One thread rules, one ends the watch, and two spend it as the programs do. What they take too
    /// much is put right.
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
            for _ in 0..2 {
                scope.spawn(|| {
                    for word in &words {
                        for direction in Direction::ALL {
                            let seen = Judgement::unpack(word.load(Ordering::Relaxed));
                            if seen.watch.wants(direction) {
                                word.fetch_add(Judgement::one_less(direction), Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        for word in &words {
            put(word, || true, |before| before.mended(&key, false));
            let word = word.load(Ordering::Relaxed);
            assert!(Judgement::is_sound(word), "{word:x}");
            let judgement = Judgement::unpack(word);
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

    #[test]
    fn what_two_cpus_take_too_much_is_put_right() {
        let key = key();
        let word = |judgement: Judgement| AtomicU64::new(judgement.pack());
        let add = |word: &AtomicU64, amounts: &[u64]| {
            for amount in amounts {
                word.fetch_add(*amount, Ordering::Relaxed);
            }
            Judgement::is_sound(word.load(Ordering::Relaxed))
        };
        let mend = |word: &AtomicU64, is_http: bool| {
            put(word, || true, |before| before.mended(&key, is_http));
            Judgement::unpack(word.load(Ordering::Relaxed))
        };
        let [up, down] = Direction::ALL.map(Judgement::one_less);
        let passes = |watch| Judgement {
            named: true,
            ..Judgement::new(3, Decision::PASS, watch)
        };
        // The last payload that is wanted, twice.
        for (watch, amounts) in [
            (Watch::new(1, 0), [up, up]),
            (Watch::new(1, 1), [up, up]),
            (Watch::new(0, 1), [down, down]),
            (Watch::new(1, 0), [up, down]),
        ] {
            let word = word(passes(watch));
            assert!(!add(&word, &amounts), "{watch:?}");
            assert_eq!(mend(&word, false), passes(Watch::NONE), "{watch:?}");
        }
        // What is wanted of HTTP stays.
        let requests = passes(Watch::new(Watch::ALWAYS, 0));
        let http = word(requests);
        assert!(!add(&http, &[down]));
        assert_eq!(mend(&http, true), requests);
        // A flow that was held, or a decision that was fresh, for two.
        let held = Judgement {
            held: true,
            ..passes(Watch::NONE)
        };
        let waited = word(held);
        let end = Judgement::HOLD.wrapping_neg();
        assert!(!add(&waited, &[end, end]));
        assert_eq!(
            mend(&waited, false),
            held,
            "it is held no longer than it was to be"
        );
        let refused = Judgement::new(
            3,
            Decision {
                policy: 7,
                verdict: Verdict::Reject,
                layer: Layer::Tls,
            },
            Watch::NONE,
        );
        let counted = word(refused);
        assert!(!add(&counted, &[Judgement::COUNTED, Judgement::COUNTED]));
        assert_eq!(mend(&counted, false), refused);
        assert!(add(&counted, &[Judgement::COUNTED]));
    }

    #[test]
    fn flows_in_the_table_are_mended_and_what_is_wanted_stays() {
        if !geteuid().is_root() && env::var_os("CI").is_none() {
            eprintln!("not run: programs in the kernel take root");
            return;
        }
        enter_own_namespace().expect("root makes namespaces");
        let mut runner = Runner::load(64, 8, 4).expect("the programs load");
        let (_, verdicts) = runner.ears().expect("the maps are there");
        for port in [443, 80, 53] {
            let frame = frame(port);
            runner
                .run(Direction::Upload, &frame, &[], frame.len())
                .expect("the frame is taken");
        }
        let watch = |slot| Judgement::unpack(runner.flow(slot).judgement).watch;
        let live = (0..64).filter_map(|slot| Some((slot, verdicts.key(slot)?)));
        let live: Vec<_> = live.collect();
        assert_eq!(live.len(), 3);
        let always = Watch::new(Watch::ALWAYS, Watch::ALWAYS);
        for (slot, key) in &live {
            verdicts.put(*slot, key, |before| Judgement {
                watch: always,
                ..before
            });
        }
        verdicts.mend(|_, key| key.remote_port() == 80);
        for (slot, key) in &live {
            let expected = match key.remote_port() {
                53 => always,
                80 => Watch::new(Watch::ALWAYS, 0),
                _ => Watch::NONE,
            };
            assert_eq!(watch(*slot), expected, "{}", key.remote_port());
        }
    }
}
