//! Buffers of each CPU, for data that is too large for the stack. No other program of this object runs on the
//! CPU before the one that uses them has ended.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use sensor_ebpf::{
    answer::{ANSWER_CAPACITY, Refused, To},
    flow::FlowKey,
    name::Suffixes,
    quic::Opening,
    said::Text,
    sample::{Head, MAX_PAYLOAD},
};

use crate::seen::Seen;

/// How far a packet is read.
#[map]
static READING: PerCpuArray<Reading> = PerCpuArray::with_max_entries(1, 0);

/// Where a sample is put together.
#[map]
static SAMPLE: PerCpuArray<Sample> = PerCpuArray::with_max_entries(1, 0);

/// Where an Initial is opened.
#[map]
static OPENING: PerCpuArray<Opening> = PerCpuArray::with_max_entries(1, 0);

/// The name that a payload says, and its hashes.
#[map]
static SAID: PerCpuArray<Said> = PerCpuArray::with_max_entries(1, 0);

/// Where answers are put together, one for each end.
#[map]
static ANSWER: PerCpuArray<[u8; ANSWER_CAPACITY]> = PerCpuArray::with_max_entries(2, 0);

/// The facts about a refused frame that an answer is made from.
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

/// A packet whose payload is read, piece by piece: the facts that the programs in which its frame comes in
/// leave for those that read on.
#[repr(C)]
pub(crate) struct Reading {
    pub(crate) seen: Seen,
    /// The result of booking, a [`Booked`](crate::seen::Booked)'s number.
    pub(crate) booked: u32,
    /// The action on the frame, an [`Action`](crate::seen::Action)'s number.
    pub(crate) action: u32,
    /// Bytes of the frame before the payload of the packet that is read.
    pub(crate) start: u32,
    /// Bytes of that payload.
    pub(crate) payload: u32,
    /// Bytes of the frame from there on, of this and of all further packets that it stands for.
    pub(crate) rest: u32,
    /// Bytes of payload of each datagram that the frame stands for; 0 where it is one packet.
    pub(crate) segment: u32,
    /// How many packets were read before.
    pub(crate) packets: u32,
    /// Which byte of the payload stands first in the sample's buffer.
    pub(crate) window: u32,
    /// The next step: a number of [`phase`](crate::reader).
    pub(crate) phase: u32,
    /// The piece that goes into the ring next.
    pub(crate) piece: u32,
    /// Where the reader of the phase is.
    pub(crate) state: u64,
    /// The decision by the names so far.
    pub(crate) decided: u64,
    /// The result so far: a [`Found`](sensor_ebpf::said::Found)'s number.
    pub(crate) found: u32,
    /// The place of a name: a [`Place`](sensor_ebpf::said::Place)'s number.
    pub(crate) place: u32,
    /// Not 0 where packets wait for verdicts on names.
    pub(crate) strict: u32,
    /// The number of the device's record.
    pub(crate) device: u32,
    /// Where the bytes are that are read: a [`source`](crate::reader::source).
    pub(crate) source: u32,
    /// Bytes of the message that is read, as far as they are there.
    pub(crate) there: u32,
    /// The [`Kind`](sensor_ebpf::kind::Kind)'s number of the message that is read.
    pub(crate) kind: u32,
    /// The number of the assembly that the connection has; [`NONE`](super::assemblies::NONE) where it has none.
    pub(crate) assembly: u32,
    /// How many Initials of the frame were opened.
    pub(crate) opened: u32,
    /// Keep the size a multiple of eight; 0.
    pub(crate) reserved: u32,
    /// Not 0 where the message in the assembly is read once the packet is in it.
    pub(crate) rereads: u32,
    /// Not 0 where the packet is one that user space does not get.
    pub(crate) untold: u32,
    /// Bytes of the payload before the message that is read in the frame.
    pub(crate) origin: u32,
    /// Not 0 where the message may go on in later packets: the connection may have an assembly.
    pub(crate) claims: u32,
    /// Where the end of a request's head is looked for.
    pub(crate) rest_at: u32,
    /// The last bytes before that place.
    pub(crate) rest_last: u64,
    /// The word by which the connection's assembly is known:
    /// [`Owner::of_device`](sensor_ebpf::assembly::Owner::of_device).
    pub(crate) owner: u64,
}

/// A name that a payload says.
#[repr(C)]
pub(crate) struct Said {
    pub(crate) text: Text,
    pub(crate) suffixes: Suffixes,
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
    Some(&mut reading()?.seen)
}

/// How far this CPU has read the packet at hand.
#[inline(always)]
pub(crate) fn reading() -> Option<&'static mut Reading> {
    // SAFETY: as in `sample`.
    unsafe { READING.get_ptr_mut(0)?.as_mut() }
}

/// This CPU's buffer for a sample.
#[inline(always)]
pub(crate) fn sample() -> Option<&'static mut Sample> {
    // SAFETY: the buffer is this CPU's, and no other program's until this one has ended.
    unsafe { SAMPLE.get_ptr_mut(0)?.as_mut() }
}

/// This CPU's place for what opening an Initial keeps from step to step.
#[inline(always)]
pub(crate) fn opening() -> Option<&'static mut Opening> {
    // SAFETY: as in `sample`.
    unsafe { OPENING.get_ptr_mut(0)?.as_mut() }
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

/// This CPU's buffer for the facts about a refused frame.
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
