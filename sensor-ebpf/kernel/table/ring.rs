//! The ring that carries samples to user space.

use core::{ptr, slice};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{Array, RingBuf},
};
use sensor_ebpf::{
    books::{FURTHER_DEVICES, Losses},
    flow::{Direction, FlowKey},
    parse::protocol,
    policy::Decision,
    sample::{Head, Judged, Kind, MAX_PAYLOAD},
};

use super::{
    devices, losses,
    scratch::{self, Sample},
};
use crate::{
    field,
    shared::{Element, Shared},
    tell::News,
    verifier::{masked, up_to},
};

/// Samples on their way to user space.
#[map]
static SAMPLES: RingBuf = RingBuf::with_byte_size(SAMPLES_SIZE, 0);

/// Octets of the ring: about 700 full payloads. A multiple of every page size there is.
const SAMPLES_SIZE: u32 = 1 << 20;

/// Not 0: a record lies in the ring for which user space was not woken. The kernel wakes user space for a record
/// only where all before it were read, so that the next record that cannot wait has to ask for it.
#[map]
static QUIET: Array<u64> = Array::with_max_entries(1, 0);

/// Tells user space that a policy matched a flow.
#[inline(always)]
pub(crate) fn report_judged(key: &FlowKey, decision: Decision, direction: Direction, now: u64) {
    // Written where user space reads it: a copy on the stack would be too much for Linux 6.1, which
    // rounds each function's share of the 512 octets up to 32.
    let Some(mut sample) = SAMPLES.reserve::<Judged>(0) else {
        return count(|losses| field!(losses, samples_lost), Kind::Judged, None);
    };
    sample.write(Judged {
        key: *key,
        at: now,
        policy: decision.policy,
        verdict: decision.verdict as u8,
        direction: direction as u8,
        reserved: 0,
    });
    sample.submit(wakeup(false, 0));
    count(|losses| field!(losses, samples), Kind::Judged, None);
}

/// Puts a sample with `len` bytes of payload into the ring, where its device and its kind may have the room.
/// Gives whether it is there. Of a packet in several pieces, the first one is counted, and each one lost.
#[inline(always)]
pub(crate) fn submit(sample: &Sample, len: u32, kind: Kind) -> bool {
    let quarters = kind.quarters();
    let waiting = SAMPLES.query(u64::from(BPF_RB_AVAIL_DATA));
    let quarter = u64::from(SAMPLES_SIZE / 4);
    let record = size_of::<Head>() as u64 + u64::from(len);
    let device = scratch::reading().map_or(FURTHER_DEVICES, |reading| reading.device);
    if quarters < 4 && waiting > quarter * quarters
        || !devices::take_sample_bytes(device, record, waiting > quarter)
    {
        count(
            |losses| field!(losses, samples_shed),
            kind,
            Some(News::SamplesShed),
        );
        return false;
    }
    // SAFETY: `len` octets of the payload were written, at most so many as it has room for; the head
    // always is.
    let octets = unsafe {
        slice::from_raw_parts(
            ptr::from_ref(sample).cast::<u8>(),
            size_of::<Head>() + up_to::<MAX_PAYLOAD>(len as usize),
        )
    };
    if SAMPLES
        .output::<[u8]>(octets, wakeup(can_wait(sample), waiting))
        .is_err()
    {
        count(
            |losses| field!(losses, samples_lost),
            kind,
            Some(News::SamplesLost),
        );
        return false;
    }
    if sample.head.piece == 0 {
        count(|losses| field!(losses, samples), kind, None);
    }
    true
}

/// Whether user space has nothing to do at once about a payload: questions over UDP that are judged. Their
/// answers wake it.
#[inline(always)]
fn can_wait(sample: &Sample) -> bool {
    let head = &sample.head;
    head.kind == Kind::Dns as u8
        && head.flags & Head::JUDGED != 0
        && head.key.protocol() == protocol::UDP
}

/// The flags with which a record is handed over. User space looks at the ring every quarter of a second by
/// itself: a record that can wait does not wake it while less than a quarter of the ring is full. Where two CPUs
/// hand over at the same moment, a record that cannot wait may be left to that look too.
#[inline(always)]
fn wakeup(can_wait: bool, waiting: u64) -> u64 {
    let Some(quiet) = QUIET.get_ptr_mut(0).map(Shared::at) else {
        return 0;
    };
    if can_wait && waiting < u64::from(SAMPLES_SIZE / 4) {
        quiet.store(1);
        return u64::from(BPF_RB_NO_WAKEUP);
    }
    match quiet.load() {
        0 => 0,
        _ => {
            quiet.store(0);
            u64::from(BPF_RB_FORCE_WAKEUP)
        }
    }
}

/// Counts a sample that is not told because another like it was just now.
#[inline(always)]
pub(crate) fn count_suppressed(kind: Kind) {
    count(|losses| field!(losses, samples_suppressed), kind, None);
}

/// Counts one sample by its kind, and tells of the first.
#[inline(always)]
fn count(
    of: impl FnOnce(Element<Losses>) -> Shared<[u64; Kind::COUNT]>,
    kind: Kind,
    news: Option<News>,
) {
    // The compiler knows the number of a kind to be small; the verifier saw it read from memory.
    let number = masked::<15>(kind as usize);
    if let Some(losses) = losses::losses()
        && let Some(counter) = of(losses).nth(number)
    {
        losses::count_in(counter, news);
    }
}
