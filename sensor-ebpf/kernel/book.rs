//! Books a frame to its flow, or to its device's overflow.

use sensor_ebpf::{
    books::FURTHER_DEVICES,
    flow::{Direction, Judgement},
    parse::protocol,
    policy::{Decision, Verdict},
    sample::{NO_SLOT, is_service},
};

use crate::{
    clock,
    decide::{connect_again, decide_by_address, judge_flow, names_are_judged, reopen},
    global,
    hit::count_hit,
    sample::begin_sample,
    seen::{Booked, Seen},
    table::{
        devices,
        flows::{self, Flow, NotFound},
        held, interfaces, settings,
    },
};

/// Books a frame to its flow, which is opened where it is new, or to its device's overflow.
///
/// One function after the other and not within each other, because together they would take more stack than
/// there is.
#[inline(always)]
pub(crate) fn book(seen: &Seen) -> Booked {
    if seen.is_reset()
        && let Some(settings) = settings::settings()
        && seen.is_own_reset(settings)
    {
        return Booked::new(Verdict::Pass);
    }
    let mut slot = find(seen);
    let is_new = slot >= NO_SLOT_BUT_TWIN;
    if is_new {
        slot = open(seen, u32::from(slot == NO_SLOT_BUT_TWIN));
        if slot & NO_ROOM != 0 {
            return Booked::from_number(overflow(seen, slot & !NO_ROOM));
        }
    }
    let mut judgement = judge_flow(seen, slot);
    if seen.is_syn() {
        judgement = reopen(seen, slot, u32::from(is_new));
    } else if seen.sequence != 0 && seen.key.protocol() == protocol::UDP {
        judgement = connect_again(seen, slot);
    }
    Booked::from_number(account(seen, slot, judgement))
}

/// The result of [`find`] where a line has the fingerprint, but is another flow's.
const NO_SLOT_BUT_TWIN: u32 = NO_SLOT - 1;

/// In the result of [`open`]: there was no room, and the rest is the number of the device's record.
const NO_ROOM: u32 = 1 << 31;

global! {
    /// The slot of a frame's flow; [`NO_SLOT`] or [`NO_SLOT_BUT_TWIN`] where it is in none.
    fn find(seen: &Seen) -> u32 {
        if let Some(flow) = flows::in_slot(seen.slot)
            && flow.is_of(&seen.key)
        {
            return seen.slot;
        }
        let Some(settings) = settings::settings() else {
            return NO_SLOT;
        };
        match flows::find(seen.fingerprint, &seen.key, settings) {
            Ok(flow) => flow.slot(),
            Err(NotFound::New) => NO_SLOT,
            Err(NotFound::Twin) => NO_SLOT_BUT_TWIN,
        }
    }
}

global! {
    /// Opens a flow for a packet that has none. Gives its slot, or [`NO_ROOM`] and the number of the
    /// device's record.
    fn open(seen: &Seen, has_twin: u32) -> u32 {
        let Some(settings) = settings::settings() else {
            return NO_ROOM | FURTHER_DEVICES;
        };
        let device = devices::number_of(seen.key.mac(), seen.now);
        if device == FURTHER_DEVICES {
            return NO_ROOM | device;
        }
        match flows::open(seen, device, has_twin != 0, settings) {
            Some(flow) => flow.slot(),
            None => NO_ROOM | device,
        }
    }
}

global! {
    /// Books a frame to its flow, whose judgement is `word`. Gives the number of a [`Booked`]: the flow's
    /// verdict, and whether the payload is wanted.
    fn account(seen: &Seen, slot: u32, word: u64) -> u32 {
        let Some(flow) = flows::in_slot(slot) else {
            return 0;
        };
        let direction = seen.direction();
        let judgement = Judgement::unpack(word);
        let decision = judgement.decision;
        let booked = Booked::new(decision.verdict);
        flow.line.touch(direction, seen.tcp_flags, seen.now);
        if decision.verdict.refuses() && seen.is_reset() {
            // The reset ends the connection, as it should.
            flow.line.count(direction, seen.wire);
            return Booked::new(Verdict::Pass).number();
        }
        if direction == Direction::Download {
            let refuses = decision.verdict.refuses();
            if refuses || judgement.held && waits(flow, word) {
                if decision.policy != 0 {
                    count_hit(seen, flow.device(), word, 0);
                }
                interfaces::count_refused(seen.key.ifindex(), seen.wire);
                return match refuses {
                    true => booked.number(),
                    false => Booked::new(Verdict::Drop).number(),
                };
            }
        }
        flow.line.count(direction, seen.wire);
        let is_fragment = seen.is_unread_fragment();
        let watch = flow.line.watch();
        if (seen.payload == 0 && !is_fragment) || !watch.wants(direction) {
            return booked.number();
        }
        if is_fragment {
            // No reader goes on in a fragment.
            flow.line.set_watch(watch.after(direction));
        }
        begin_sample(seen, slot, flow.device());
        match is_fragment {
            true => booked.with_fragment().number(),
            false => booked.with_sample().number(),
        }
    }
}

/// Whether packets of a held flow's server still wait for the verdict.
#[inline(always)]
fn waits(flow: Flow, word: u64) -> bool {
    let now = clock::nanoseconds();
    if held::held_until(flow).is_some_and(|until| now < until) {
        held::count();
        return true;
    }
    let released = Judgement {
        held: false,
        ..Judgement::unpack(word)
    };
    // Of two CPUs that find the time to be over, one counts it.
    if flow.line.replace_judgement(word, released) {
        held::count_expired();
    }
    false
}

global! {
    /// Books a packet whose flow has no place to its device. Gives the same as [`account`].
    fn overflow(seen: &Seen, device: u32) -> u32 {
        let Some(settings) = settings::settings() else {
            return 0;
        };
        let judgement = decide_by_address(&seen.key, settings::generation(settings));
        let mut decision = Judgement::unpack(judgement).decision;
        if decision.verdict.refuses() && seen.is_reset() {
            decision = Decision::PASS;
        }
        if decision.policy != 0 {
            // Each packet is decided about, but only some attempt anything.
            count_hit(seen, device, judgement, u64::from(seen.is_attempt()));
        }
        let booked = Booked::new(decision.verdict);
        let direction = seen.direction();
        if direction == Direction::Download && decision.verdict.refuses() {
            interfaces::count_refused(seen.key.ifindex(), seen.wire);
            return booked.number();
        }
        devices::count_overflow(device, seen.key.family(), direction, seen.wire, seen.now);
        interfaces::count_overflow(seen.key.ifindex(), direction, seen.wire);
        // A device without room for flows still has an identity, and says names.
        if seen.payload == 0
            || settings.watched_payloads == 0
            || !is_service(&seen.key) && !names_are_judged(seen, settings)
        {
            return booked.number();
        }
        begin_sample(seen, NO_SLOT, device);
        booked.with_sample().number()
    }
}
