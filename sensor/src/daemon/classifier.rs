//! The thread of the classifier: from the ring to a verdict in the flow, and then to the owner's task.
//!
//! It never blocks on the owner: records are queued up to `MAX_BACKLOG`, then dropped and counted.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::{
    buffer::spare_capacity,
    event::{EventfdFlags, Timespec, epoll, eventfd},
    io::{Errno, read, write},
    process::setpriority_process,
    time::{ClockId, clock_gettime},
};
use sensor_ebpf::{
    flow::FlowKey,
    parse::{Mac, protocol},
    policy::Layer,
    sample::{Head, NO_SLOT},
};
use tokio::sync::{mpsc, oneshot};

use super::{Command, clock::Clock, resets::Resets};
use crate::{
    classify::{
        ActiveRules, Classified, Classifier, Expired, Judge, Observation, Outcome, Ruling, Source,
        UNFINISHED_FOR, Unread, hash_of,
    },
    model::{CutPayloads, Judging, Latency, UnreadFlows},
    quota::{Limits, Quota},
    record::Record,
    source::kernel::{Samples, Verdicts},
};

/// How many records are taken before the stop, the policy and the owner get their turn.
const BATCH: usize = 256;

/// How long records are gathered before the owner gets them.
const GATHER: Duration = Duration::from_millis(10);

/// Records that may wait for the owner, of all devices and of one; further records are lost and
/// counted.
const MAX_BACKLOG: usize = 16_384;
const MAX_BACKLOG_OF_DEVICE: usize = 4_096;

/// Slots whose flows are judged again before the ring gets its turn.
const AGAIN: u32 = 1_024;

/// How often readers that wait in vain are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// How long a flow that could not be read may still be refused, because of later payloads, before
/// it is counted among those that passed.
const SURE: Duration = Duration::from_secs(1);

/// Such flows at a time; one that makes room for another is counted by its state at that time.
const MAX_UNSURE: Limits = Limits {
    of_device: 1_024,
    in_all: 4_096,
};

/// How long the kernel takes the thread for alive after a sign of life, and how often the thread
/// gives one: a thread that is gone holds nothing up for longer.
const ALIVE: Duration = Duration::from_secs(1);
const BEAT: Duration = Duration::from_millis(250);

/// The state that the thread shares with the tasks: commands to it, and its counts.
pub(super) struct ListenerHandle {
    in_force: Mutex<Arc<ActiveRules>>,
    reaped: Mutex<Vec<(u32, FlowKey)>>,
    counts: Mutex<Counts>,
    stops: AtomicBool,
    wakeup: OwnedFd,
}

/// Counts of the judgements so far.
#[derive(Debug, Default)]
struct Counts {
    latency: Latency,
    unread: BTreeMap<(Unread, &'static str), u64>,
    records_lost: u64,
    resets_failed: u64,
    cut: CutPayloads,
    questions_evicted: u64,
}

impl ListenerHandle {
    /// A line to a thread that judges by this policy at first.
    pub(super) fn new(in_force: Arc<ActiveRules>) -> anyhow::Result<Self> {
        let wakeup = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("no event descriptor from the system")?;
        Ok(Self {
            in_force: Mutex::new(in_force),
            reaped: Mutex::default(),
            counts: Mutex::default(),
            stops: AtomicBool::new(false),
            wakeup,
        })
    }

    /// Publishes the rules that are in force now, or in a moment: the thread judges every known
    /// name again.
    pub(super) fn publish(&self, in_force: Arc<ActiveRules>) {
        *locked(&self.in_force) = in_force;
        self.ring();
    }

    /// Tells the thread which flows gave their slots back. It takes note of them with the next
    /// payloads.
    pub(super) fn reaped(&self, flows: impl IntoIterator<Item = (u32, FlowKey)>) {
        locked(&self.reaped).extend(flows);
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.stops.store(true, Ordering::Release);
        self.ring();
    }

    /// Counts of the judgements so far.
    pub(super) fn judging(&self) -> Judging {
        let counts = locked(&self.counts);
        let unread = counts.unread.iter();
        Judging {
            latency: counts.latency,
            unread: unread
                .map(|((reason, layer), count)| UnreadFlows {
                    reason: reason.name(),
                    layer,
                    count: *count,
                })
                .collect(),
            records_lost: counts.records_lost,
            resets_failed: counts.resets_failed,
            cut: counts.cut,
        }
    }

    /// DNS questions and aliases of devices that left to make room.
    pub(super) fn questions_evicted(&self) -> u64 {
        locked(&self.counts).questions_evicted
    }

    fn ring(&self) {
        // Full: it rings already.
        let _ = write(&self.wakeup, &1_u64.to_ne_bytes());
    }
}

/// Nothing panics while a lock is held, so the data of a poisoned one is whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the calling thread go before others: a verdict has to be there before the server's answer, and
/// takes microseconds.
fn hurry() {
    /// As a service manager may give it to a process, and less than the system's own threads have.
    const NICE: i32 = -15;

    // Linux has a priority for each thread, and takes no process for the calling one.
    if let Err(error) = setpriority_process(None, NICE) {
        tracing::debug!("verdicts have no priority over other programs: {error}");
    }
}

/// Runs the thread until `stopped`, or until the owner that takes its records is gone.
///
/// # Errors
///
/// When it cannot be started, or failed.
pub(super) async fn listen(
    listener: Listener,
    stopped: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let line = Arc::clone(&listener.line);
    let (tell, mut told) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("listener".to_owned())
        .spawn(move || {
            hurry();
            listener.run();
            let _ = tell.send(());
        })
        .context("the thread that listens cannot be started")?;
    let ended = tokio::select! {
        ended = &mut told => ended,
        () = stopped => {
            line.stop();
            told.await
        }
    };
    // The thread has reported its end, or panicked.
    let joined = thread.join();
    match (ended, joined) {
        (Ok(()), Ok(())) => Ok(()),
        _ => anyhow::bail!("the thread that listens failed"),
    }
}

/// A flow that could not be read: the next payload may say after all that it is to be refused.
struct Unsure {
    slot: u32,
    key: FlowKey,
    reason: Unread,
    layer: Layer,
    since: Instant,
}

/// The thread.
pub(super) struct Listener {
    samples: Samples,
    /// Wakes for the wakeup while it rings, and for the ring of samples when the kernel asks for it: not for
    /// records that can wait.
    wakes: OwnedFd,
    /// Whether more than a batch waited in the ring.
    behind: bool,
    verdicts: Verdicts,
    resets: Resets,
    line: Arc<ListenerHandle>,
    commands: mpsc::Sender<Command>,
    clock: Clock,
    classifier: Classifier,
    judge: Judge,
    /// The next slot whose flow is judged again.
    again: u32,
    backlog: Backlog,
    /// Flows that could not be read, by slot and hash, until it is known that they passed.
    unsure: Quota<Mac, (u32, u64), Unsure>,
    /// When the first record of the backlog came.
    since: Instant,
    swept: Instant,
    /// Why it could not wait the last time.
    failed: Option<Errno>,
}

impl Listener {
    /// A thread that is yet to run.
    ///
    /// # Errors
    ///
    /// When the system has no descriptor to wait by.
    pub(super) fn new(
        samples: Samples,
        verdicts: Verdicts,
        line: Arc<ListenerHandle>,
        commands: mpsc::Sender<Command>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let wakes = wakes(&samples, &line.wakeup)
            .context("no descriptor from the system to wait for samples by")?;
        let judge = Judge::new(Arc::clone(&locked(&line.in_force)));
        Ok(Self {
            samples,
            wakes,
            behind: false,
            verdicts,
            resets: Resets::open(),
            line,
            commands,
            clock,
            classifier: Classifier::default(),
            judge,
            again: u32::MAX,
            backlog: Backlog::default(),
            unsure: Quota::new(MAX_UNSURE),
            since: Instant::now(),
            swept: Instant::now(),
            failed: None,
        })
    }

    fn run(mut self) {
        loop {
            self.verdicts.alive_until(since_boot() + ALIVE);
            self.wait();
            self.attend();
            self.drain();
            {
                let mut counts = locked(&self.line.counts);
                counts.cut = self.samples.cut();
                counts.questions_evicted = self.classifier.questions_evicted();
            }
            self.judge_again();
            if self.line.stops.load(Ordering::Acquire) || self.hand_over().is_err() {
                // Nothing is held up for a thread that has ended.
                self.verdicts.alive_until(Duration::ZERO);
                return;
            }
        }
    }

    /// Waits for samples, the wakeup, or the time at which something is due.
    fn wait(&mut self) {
        let limit = if self.behind || self.again < self.classifier.slots() {
            Duration::ZERO
        } else if self.backlog.records.is_empty() {
            BEAT
        } else {
            GATHER
        };
        let timeout = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        let mut woken = Vec::with_capacity(2);
        match epoll::wait(&self.wakes, spare_capacity(&mut woken), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => self.failed = None,
            Err(errno) => {
                // Without the daemon no name would be judged: the ring is looked at as often as it can be.
                if self.failed.replace(errno) != Some(errno) {
                    tracing::warn!(
                        "the sample ring cannot be waited on: {errno}; it is looked at anyway"
                    );
                }
                thread::sleep(GATHER);
            }
        }
    }

    /// Takes new rules and freed slots, and does the work that is due.
    fn attend(&mut self) {
        let mut rung = [0; 8];
        if read(&self.line.wakeup, &mut rung).is_ok() {
            self.take_policy();
        }
        let reaped = std::mem::take(&mut *locked(&self.line.reaped));
        for (slot, key) in reaped {
            self.classifier.forget(slot, &key);
        }
        if self.swept.elapsed() >= SWEEP {
            self.swept = Instant::now();
            self.classifier
                .forget_unfinished(self.clock.now().steady - UNFINISHED_FOR);
            self.give_up();
        }
        self.make_sure();
    }

    /// Counts the flows that could not be read and have passed since.
    fn make_sure(&mut self) {
        let is_due = |unsure: &Unsure| unsure.since.elapsed() >= SURE;
        let mut due = Vec::new();
        self.unsure.expire(is_due, |_, _, unsure| due.push(unsure));
        self.count_unread(due);
    }

    /// Counts flows that could not be read, where they have passed.
    fn count_unread(&self, unsure: impl IntoIterator<Item = Unsure>) {
        for one in unsure {
            if !self.verdicts.refuses(one.slot, &one.key) {
                let mut counts = locked(&self.line.counts);
                let count = counts.unread.entry((one.reason, one.layer.name()));
                *count.or_default() += 1;
            }
        }
    }

    fn take_policy(&mut self) {
        let in_force = Arc::clone(&locked(&self.line.in_force));
        self.judge = Judge::new(in_force);
        self.again = 0;
    }

    /// Takes the records that wait in the ring, a batch at most.
    fn drain(&mut self) {
        self.behind = false;
        for _ in 0..BATCH {
            let Some(record) = self.samples.next() else {
                return;
            };
            // The old policy must not refuse a payload that the kernel let pass by the new one.
            if self.judge.generation() != self.verdicts.generation()
                && self.judge.generation() != locked(&self.line.in_force).generation
            {
                self.take_policy();
            }
            match record {
                Record::Sample(sample) => {
                    self.verdicts.heard(&sample.head);
                    let heard = self.classifier.sample(&sample, self.clock.now().steady);
                    if let Some(heard) = heard {
                        let heard = self.conclude(heard);
                        self.keep(Classified::Observation(Box::new(heard)));
                    }
                    self.give_up();
                }
                record => self.keep(Classified::Record(record)),
            }
        }
        self.behind = true;
    }

    /// Has the judge rule on a payload, and writes the verdict into the flow.
    fn conclude(&mut self, mut heard: Observation) -> Observation {
        let head = heard.head;
        if head.flags & Head::REFUSED != 0
            && head.key.protocol() == protocol::TCP
            && self.resets.send(&head.key, head.sequence).is_err()
        {
            locked(&self.line.counts).resets_failed += 1;
        }
        let judged = self.judge.judge(&heard);
        heard.refused = self.judge.refused(&heard, &judged);
        if let Some(host) = judged.host.and_then(|host| heard.hosts.get(host)) {
            let host = Arc::clone(host);
            self.classifier
                .rename(head.slot, &head.key, Arc::clone(&host), Source::Http);
            heard.outcome = Outcome::Name(host, Source::Http);
        }
        match judged.ruling {
            Some(ruling) => self.write(&head, &heard, &ruling),
            None if heard.settled && head.slot != NO_SLOT => {
                self.verdicts.end_watch(head.slot, &head.key);
            }
            None => {}
        }
        if let Some((reason, layer)) = judged.unread
            && self.note_unread(head.slot, &head.key, reason, layer)
        {
            heard.unread = Some(reason);
        }
        heard
    }

    fn write(&self, head: &Head, heard: &Observation, ruling: &Ruling) {
        let changed = self.verdicts.write(head.slot, &head.key, ruling);
        let is_first = changed && head.flags & Head::JUDGED == 0;
        if is_first && matches!(heard.outcome, Outcome::Name(..)) {
            let took = since_boot().saturating_sub(Duration::from_nanos(head.nanoseconds));
            locked(&self.line.counts).latency.add(took);
        }
    }

    /// Judges the flows for which the classifier waits no longer, and queues them for the owner.
    fn give_up(&mut self) {
        let given: Vec<_> = self.classifier.given_up().collect();
        for mut given in given {
            self.judge_given_up(&mut given);
            self.keep(Classified::Expired(given));
        }
    }

    fn judge_given_up(&mut self, given: &mut Expired) {
        let judged = self.judge.judge_given_up(given);
        if let Some(ruling) = judged.ruling {
            self.verdicts.write(given.slot, &given.key, &ruling);
        }
        if let Some((reason, layer)) = judged.unread
            && self.note_unread(given.slot, &given.key, reason, layer)
        {
            given.unread = Some(reason);
        }
    }

    /// Notes a flow that could not be judged, to be counted once if it is not refused yet and not soon.
    /// Gives whether it was noted now.
    fn note_unread(&mut self, slot: u32, key: &FlowKey, reason: Unread, layer: Layer) -> bool {
        if self.verdicts.refuses(slot, key) || !self.classifier.mark_unread(slot, key) {
            return false;
        }
        let unsure = Unsure {
            slot,
            key: *key,
            reason,
            layer,
            since: Instant::now(),
        };
        let place = (slot, hash_of(key));
        let mut gone = Vec::new();
        let leaves = |_, _, unsure| gone.push(unsure);
        // Flows without a slot are noted each time.
        let before = self.unsure.insert(key.mac(), place, unsure, 1, leaves);
        self.count_unread(before.into_iter().chain(gone));
        true
    }

    /// Judges some of the names again that are known, after another policy came in force.
    fn judge_again(&mut self) {
        let now = self.clock.now().steady;
        let end = self
            .classifier
            .slots()
            .min(self.again.saturating_add(AGAIN));
        for slot in self.again..end {
            if let Some(key) = self.verdicts.key(slot)
                && self.classifier.began(slot, self.verdicts.began(slot))
                && let Some((name, source)) = self.classifier.name(slot, &key)
            {
                let targets = self.classifier.targets(key.mac(), name, now);
                let ruling = self.judge.judge_again(&key, name, targets, source);
                self.verdicts.write(slot, &key, &ruling);
            }
        }
        self.again = self.again.max(end);
    }

    fn keep(&mut self, record: Classified) {
        if self.backlog.records.is_empty() {
            self.since = Instant::now();
        }
        if !self.backlog.push(record) {
            locked(&self.line.counts).records_lost += 1;
        }
    }

    /// Hands the gathered records to the owner, where it has room. An error: the owner has gone.
    fn hand_over(&mut self) -> Result<(), ()> {
        let waiting = self.backlog.records.len();
        let is_due = waiting >= BATCH || self.since.elapsed() >= GATHER;
        if waiting == 0 || !is_due {
            return match self.commands.is_closed() {
                true => Err(()),
                false => Ok(()),
            };
        }
        match self.commands.try_reserve() {
            Ok(place) => {
                place.send(Command::Classified(self.backlog.take()));
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(())) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(())) => Err(()),
        }
    }
}

/// Records that wait for the owner, and how many of them each device has.
#[derive(Debug, Default)]
struct Backlog {
    records: Vec<Classified>,
    of_device: HashMap<Mac, usize>,
}

impl Backlog {
    /// Gives whether there was room.
    fn push(&mut self, record: Classified) -> bool {
        if self.records.len() >= MAX_BACKLOG {
            return false;
        }
        let device = match &record {
            Classified::Observation(heard) => Some(heard.head.key.mac()),
            Classified::Expired(given) => Some(given.key.mac()),
            _ => None,
        };
        if let Some(device) = device {
            let count = self.of_device.entry(device).or_default();
            if *count >= MAX_BACKLOG_OF_DEVICE {
                return false;
            }
            *count += 1;
        }
        self.records.push(record);
        true
    }

    fn take(&mut self) -> Vec<Classified> {
        self.of_device.clear();
        std::mem::take(&mut self.records)
    }
}

/// A descriptor that wakes for samples and for the wakeup.
fn wakes(samples: &Samples, wakeup: &OwnedFd) -> Result<OwnedFd, Errno> {
    let wakes = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(0);
    // On the edge: on the level it would wake for records that can wait, one by one.
    let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&wakes, samples, data, edge)?;
    epoll::add(&wakes, wakeup, data, epoll::EventFlags::IN)?;
    Ok(wakes)
}

/// Time since boot as the kernel programs read it (`bpf_ktime_get_ns`).
fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::env;

    use rustix::process::geteuid;
    use sensor_ebpf::{
        flow::{Direction, Judgement},
        parse::parse,
        policy::{Decision, Verdict},
    };

    use super::*;
    use crate::{
        decode::Failure,
        source::kernel::{Runner, enter_own_namespace},
    };

    const HELLO: &[u8] = include_bytes!("../../tests/data/hello-zeek-google-de-51833.bin");
    const GOOGLE: &str = "www.google.de";

    /// Flows of the test; the generation that the tables begin with.
    const FLOWS: u32 = 200;
    const GENERATION: u32 = 1;

    const REFUSED: Decision = Decision {
        policy: 7,
        verdict: Verdict::Reject,
        layer: Layer::Tls,
    };

    fn refuses(generation: u32) -> Arc<ActiveRules> {
        Arc::new(ActiveRules {
            generation,
            by_address: Box::new(|_| None),
            by_name: Box::new(|_, name, _, _| (name == GOOGLE).then_some(REFUSED)),
            concerns: Box::new(|_| true),
        })
    }

    /// A segment of a phone's, so far behind its SYN.
    fn segment(port: u16, at: usize, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        frame[22] = 64;
        frame[23] = 6;
        frame[26..34].copy_from_slice(&[192, 168, 1, 7, 198, 51, 100, 9]);
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame[36..38].copy_from_slice(&443_u16.to_be_bytes());
        frame[38..42].copy_from_slice(&(at as u32).to_be_bytes());
        frame[46] = 5 << 4;
        frame[47] = flags;
        frame.extend_from_slice(payload);
        frame
    }

    /// Runs a hello of two segments, a flow for each port.
    fn say_hello(runner: &mut Runner, port: u16) {
        const SYN: u8 = 2;
        const ACK: u8 = 16;
        let octets = [&[22, 3, 1], &(HELLO.len() as u16).to_be_bytes()[..], HELLO].concat();
        let (one, two) = octets.split_at(1400);
        for frame in [
            segment(port, 0, SYN, b""),
            segment(port, 1, ACK, one),
            segment(port, 1401, ACK, two),
        ] {
            let (header, body) = frame.split_at(54);
            runner
                .run(Direction::Upload, header, body, frame.len())
                .expect("the frame is taken");
        }
    }

    fn judgement(runner: &Runner, slot: u32) -> Judgement {
        runner.flow(slot).judgement()
    }

    /// Waits until all flows are judged so.
    fn wait_for(runner: &Runner, what: &str, is_so: impl Fn(Judgement) -> bool) {
        let began = Instant::now();
        while !runner
            .slots()
            .into_iter()
            .all(|slot| is_so(judgement(runner, slot)))
        {
            assert!(began.elapsed() < Duration::from_secs(10), "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_device_fills_its_share_of_the_backlog_alone() {
        let given = |device| {
            let mut frame = segment(1, 0, 0, b"");
            frame[11] = device;
            let parsed = parse(&frame[..]).expect("a whole frame");
            Classified::Expired(Expired {
                key: FlowKey::new(&parsed, Direction::Upload, 1),
                slot: 1,
                decoder: "tls",
                why: Failure::Limit,
                unread: None,
            })
        };
        let mut backlog = Backlog::default();
        for number in 0..2 * MAX_BACKLOG_OF_DEVICE {
            assert_eq!(backlog.push(given(1)), number < MAX_BACKLOG_OF_DEVICE);
        }
        assert!(backlog.push(given(2)));
        for device in 3..=u8::MAX {
            for _ in 0..MAX_BACKLOG_OF_DEVICE / 8 {
                backlog.push(given(device));
            }
        }
        assert_eq!(backlog.take().len(), MAX_BACKLOG);
        assert!(backlog.push(given(1)));
    }

    #[test]
    fn a_split_hello_is_judged_while_the_owner_is_busy_and_again_by_another_policy() {
        if !geteuid().is_root() && env::var_os("CI").is_none() {
            eprintln!("not run: programs in the kernel take root");
            return;
        }
        enter_own_namespace().expect("root makes namespaces");
        let mut runner = Runner::load(4_096, 16, 4).expect("the programs load");
        let (samples, verdicts) = runner.ears().expect("the maps are there");
        let line = Arc::new(ListenerHandle::new(refuses(GENERATION)).expect("a descriptor"));
        let (commands, mut inbox) = mpsc::channel(1);
        // The owner is busy: its inbox is full.
        commands
            .try_send(Command::LinksChanged)
            .expect("there is room for one");
        let listener = Listener::new(
            samples,
            verdicts,
            Arc::clone(&line),
            commands,
            Clock::of_machine(),
        )
        .expect("a descriptor");
        let thread = thread::spawn(move || listener.run());

        for port in 0..FLOWS {
            say_hello(&mut runner, 10_000 + port as u16);
            // One at a time, so that the latency is measured and not the length of the queue.
            thread::sleep(Duration::from_millis(1));
        }
        wait_for(&runner, "each is refused", |judgement| {
            judgement.named && judgement.decision == REFUSED
        });
        let latency = line.judging().latency;
        eprintln!(
            "verdict latency: {:?} in all {:?}",
            latency.counts, latency.total
        );
        assert_eq!(latency.counts.iter().sum::<u64>(), u64::from(FLOWS));

        line.publish(Arc::new(ActiveRules::without_names(GENERATION)));
        wait_for(&runner, "no rule is about it any more", |judgement| {
            judgement.decision == Decision::PASS
        });
        line.publish(refuses(GENERATION));
        wait_for(&runner, "it is refused again", |judgement| {
            judgement.decision == REFUSED
        });
        let slots = runner.slots();
        assert_eq!(slots.len(), FLOWS as usize);
        line.reaped([(slots[0], runner.flow(slots[0]).key)]);
        line.publish(Arc::new(ActiveRules::without_names(GENERATION)));
        let began = Instant::now();
        while judgement(&runner, slots[1]).decision == REFUSED {
            assert!(began.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(
            judgement(&runner, slots[0]).decision,
            REFUSED,
            "its name is forgotten"
        );

        // The owner comes back and gets all records.
        let mut named = 0;
        while named < FLOWS {
            if let Some(Command::Classified(records)) = inbox.blocking_recv() {
                let is_named = |record: &&Classified| {
                    matches!(record, Classified::Observation(heard) if !heard.told_before
                        && heard.outcome == Outcome::Name(GOOGLE.into(), Source::Tls))
                };
                named += records.iter().filter(is_named).count() as u32;
            }
        }
        assert_eq!(line.judging().records_lost, 0);
        line.stop();
        thread.join().expect("it does not panic");
    }
}
