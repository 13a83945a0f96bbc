//! The ports of bridges: the addresses at which the machine itself is reached, and the frame that left last.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use sensor_ebpf::parse::Mac;

/// MAC addresses at which the machine itself is reached over a bridge whose ports are watched.
#[map]
static OWN_ADDRESSES: HashMap<u64, u32> = HashMap::with_max_entries(4096, 0);

/// Interfaces that are ports, and whether policies are about what goes from port to port.
#[map]
static PORTS: HashMap<u32, u32> = HashMap::with_max_entries(64, 0);

/// The number that this CPU gave to a frame last.
#[map]
static FRAME_NUMBER: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// The frame that left by a port last on this CPU.
#[map]
static LAST_OUT: PerCpuArray<Out> = PerCpuArray::with_max_entries(1, 0);

/// A frame that leaves by a port.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Out {
    /// Its number, by which copies know each other; 0 where it has none.
    pub(crate) number: u32,
    /// The port.
    pub(crate) ifindex: u32,
    /// The receiver's MAC address.
    pub(crate) to: u64,
    /// Whether it was refused: 0 or 1.
    pub(crate) refused: u64,
}

/// Whether the machine itself is reached at this address.
#[inline(always)]
pub(crate) fn is_own(mac: Mac) -> bool {
    // SAFETY: only whether there is a value is looked at.
    unsafe { OWN_ADDRESSES.get(mac.word()) }.is_some()
}

/// Whether policies are about what goes from port to port.
#[inline(always)]
pub(crate) fn judges_local(ifindex: u32) -> bool {
    // SAFETY: user space writes the value before it attaches a program, and in one piece.
    unsafe { PORTS.get(ifindex) }.is_some_and(|local| *local != 0)
}

/// A number for a frame: never 0, of 16 bits, and another one than those before it on this CPU.
#[inline(always)]
pub(crate) fn next_number() -> u32 {
    let Some(last) = FRAME_NUMBER.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the place is this CPU's own, and programs at TC do not interrupt each other.
    unsafe {
        let next = *last % 0xffff + 1;
        *last = next;
        next
    }
}

/// Whether a frame is a copy of the one that left last, by another port, and was refused there.
#[inline(always)]
pub(crate) fn as_copy(out: &Out) -> Option<bool> {
    let last = LAST_OUT.get_ptr(0)?;
    // SAFETY: as in `next_number`.
    let last = unsafe { *last };
    let is_copy = out.number != 0
        && last.number == out.number
        && last.to == out.to
        && last.ifindex != out.ifindex;
    is_copy.then_some(last.refused != 0)
}

/// Notes the frame that left last.
#[inline(always)]
pub(crate) fn note(out: Out) {
    if let Some(last) = LAST_OUT.get_ptr_mut(0) {
        // SAFETY: as in `next_number`.
        unsafe { *last = out };
    }
}
