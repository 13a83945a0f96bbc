//! Buffers of each CPU, for what is too large for the stack. No other program of this object runs on
//! the CPU before the one that uses them has ended.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use sensor_ebpf::{
    answer::{ANSWER_CAPACITY, Refused, To},
    flow::FlowKey,
    name::Suffixes,
    said::Text,
    sample::{Head, MAX_PAYLOAD},
};

use crate::seen::Seen;

/// What there is to book about the frame at hand.
#[map]
static SEEN: PerCpuArray<Seen> = PerCpuArray::with_max_entries(1, 0);

/// Where a sample is put together.
#[map]
static SAMPLE: PerCpuArray<Sample> = PerCpuArray::with_max_entries(1, 0);

/// The name that a payload says, and its hashes.
#[map]
static SAID: PerCpuArray<Said> = PerCpuArray::with_max_entries(1, 0);

/// Where answers are put together, one for each end.
#[map]
static ANSWER: PerCpuArray<[u8; ANSWER_CAPACITY]> = PerCpuArray::with_max_entries(2, 0);

/// What an answer needs to know of the frame that is refused.
#[map]
static REFUSED: PerCpuArray<Refusal> = PerCpuArray::with_max_entries(1, 0);

/// The flow of the packet that an ICMP error quotes.
#[map]
static QUOTED: PerCpuArray<FlowKey> = PerCpuArray::with_max_entries(1, 0);

/// A frame that is refused, and its flow.
#[repr(C)]
pub(crate) struct Refusal {
    pub(crate) refused: Refused,
    /// The hash of the flow's key.
    pub(crate) flow: u64,
}

/// A name that a payload says.
#[repr(C)]
pub(crate) struct Said {
    pub(crate) text: Text,
    pub(crate) suffixes: Suffixes,
    /// Jiffies when a refused question was last told to user space.
    pub(crate) told: u64,
}

/// A sample as it goes into the ring; of the payload, as much as was captured.
#[repr(C)]
pub(crate) struct Sample {
    pub(crate) head: Head,
    pub(crate) payload: [u8; MAX_PAYLOAD],
}

/// This CPU's place for what is seen of a frame.
#[inline(always)]
pub(crate) fn seen() -> Option<&'static mut Seen> {
    // SAFETY: as in `sample`.
    unsafe { SEEN.get_ptr_mut(0)?.as_mut() }
}

/// This CPU's buffer for a sample.
#[inline(always)]
pub(crate) fn sample() -> Option<&'static mut Sample> {
    // SAFETY: the buffer is this CPU's, and nobody else's until the program has ended.
    unsafe { SAMPLE.get_ptr_mut(0)?.as_mut() }
}

/// This CPU's buffer for a name.
#[inline(always)]
pub(crate) fn said() -> Option<&'static mut Said> {
    // SAFETY: as in `sample`.
    unsafe { SAID.get_ptr_mut(0)?.as_mut() }
}

/// This CPU's buffer for an answer.
#[inline(always)]
pub(crate) fn answer(to: To) -> Option<&'static mut [u8; ANSWER_CAPACITY]> {
    // SAFETY: as in `sample`.
    unsafe { ANSWER.get_ptr_mut(to as u32)?.as_mut() }
}

/// This CPU's buffer for what was read of a refused frame.
#[inline(always)]
pub(crate) fn refusal() -> Option<&'static mut Refusal> {
    // SAFETY: as in `sample`.
    unsafe { REFUSED.get_ptr_mut(0)?.as_mut() }
}

/// This CPU's buffer for the flow that an ICMP error quotes.
#[inline(always)]
pub(crate) fn quoted() -> Option<&'static mut FlowKey> {
    // SAFETY: as in `sample`.
    unsafe { QUOTED.get_ptr_mut(0)?.as_mut() }
}
