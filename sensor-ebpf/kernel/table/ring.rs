//! The ring that carries samples to user space.

use core::{ptr, slice};

use aya_ebpf::{bindings::BPF_RB_AVAIL_DATA, macros::map, maps::RingBuf};
use sensor_ebpf::{
    books::{FURTHER_DEVICES, Losses},
    flow::{Direction, FlowKey},
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
    sample.submit(0);
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
    if SAMPLES.output::<[u8]>(octets, 0).is_err() {
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
