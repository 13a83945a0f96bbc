//! Buffers of each CPU, for what is too large for the stack. No other program of this object runs on
//! the CPU before the one that uses them has ended.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use sensor_ebpf::{
    answer::{ANSWER_CAPACITY, Refused, To},
    name::Suffixes,
    said::Text,
    sample::{Head, MAX_PAYLOAD},
};

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
static REFUSED: PerCpuArray<Refused> = PerCpuArray::with_max_entries(1, 0);

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
pub(crate) fn refused() -> Option<&'static mut Refused> {
    // SAFETY: as in `sample`.
    unsafe { REFUSED.get_ptr_mut(0)?.as_mut() }
}
