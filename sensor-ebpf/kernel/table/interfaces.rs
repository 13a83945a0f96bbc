//! The books of interfaces.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap},
};
use sensor_ebpf::{
    answer::limit::Silence,
    books::{InterfaceRecord, Tally, Way},
    flow::Direction,
    skip::Skip,
};

use super::losses;
use crate::{field, shared::Element, tell::News};

/// Which record of `INTERFACES` an interface has.
#[map]
static INTERFACE_INDEX: HashMap<u32, u32> = HashMap::with_max_entries(64, 0);

/// The books of each interface beyond its live flows.
#[map]
static INTERFACES: Array<InterfaceRecord> = Array::with_max_entries(64, BPF_F_MMAPABLE);

/// The number of an interface's record; out of range where it has none.
#[inline(always)]
pub(crate) fn number_of(ifindex: u32) -> u32 {
    // SAFETY: the value is a number that user space writes before it attaches a program.
    match unsafe { INTERFACE_INDEX.get(ifindex) } {
        Some(number) => *number,
        None => u32::MAX,
    }
}

#[inline(always)]
fn interface(ifindex: u32) -> Option<Element<InterfaceRecord>> {
    let record = INTERFACES.get_ptr_mut(number_of(ifindex));
    if record.is_none() {
        losses::count(
            |losses| field!(losses, interface_unknown),
            Some(News::InterfaceUnknown),
        );
    }
    record.map(Element::new)
}

/// Books a packet that has no flow.
#[inline(always)]
pub(crate) fn count_overflow(ifindex: u32, direction: Direction, wire: Tally) {
    if let Some(record) = interface(ifindex) {
        field!(record, overflow).of(direction).add_tally(wire);
    }
}

/// Books a frame to a group address.
#[inline(always)]
pub(crate) fn count_multicast(ifindex: u32, wire: Tally) {
    if let Some(record) = interface(ifindex) {
        field!(record, multicast).add_tally(wire);
    }
}

/// Books a frame that is not accounted to a device.
#[inline(always)]
pub(crate) fn count_skipped(ifindex: u32, direction: u32, reason: u32, wire: Tally) {
    if direction as usize >= Direction::ALL.len() || reason as usize >= Skip::COUNT {
        return;
    }
    if let Some(record) = interface(ifindex)
        && let Some(reasons) = field!(record, skipped).nth(direction as usize)
        && let Some(tally) = reasons.nth(reason as usize)
    {
        tally.add_tally(wire);
    }
}

/// Books a packet that was refused on its way to the device.
#[inline(always)]
pub(crate) fn count_refused(ifindex: u32, wire: Tally) {
    if let Some(record) = interface(ifindex) {
        field!(record, refused).add_tally(wire);
    }
}

/// Books an answer that the sensor sent to a device.
#[inline(always)]
pub(crate) fn count_answered(ifindex: u32, bytes: u64) {
    if let Some(record) = interface(ifindex) {
        field!(record, answered).add_tally(Tally { packets: 1, bytes });
    }
}

/// The books of an interface at which XDP itself sends answers back.
#[inline(always)]
pub(crate) fn answering(ifindex: u32) -> Option<Element<InterfaceRecord>> {
    let record = interface(ifindex)?;
    (field!(record, way).load() != Way::Note as u64).then_some(record)
}

/// As [`count_answered`], in the books of [`answering`].
#[inline(always)]
pub(crate) fn count_answered_in(record: Element<InterfaceRecord>, bytes: u64) {
    field!(record, answered).add_tally(Tally { packets: 1, bytes });
}

/// Books the packets that the sensor sent to a device in the place of a refused download.
#[inline(always)]
pub(crate) fn count_replaced(ifindex: u32, bytes: u64) {
    if let Some(record) = interface(ifindex) {
        field!(record, replaced).add_tally(Tally { packets: 1, bytes });
    }
}

/// How refused uploads of an interface are answered at XDP.
#[inline(always)]
pub(crate) fn notes_refused(ifindex: u32) -> bool {
    match interface(ifindex) {
        Some(record) => field!(record, way).load() == Way::Note as u64,
        None => false,
    }
}

/// Counts a refused frame on which no note could be written.
#[inline(always)]
pub(crate) fn count_note_failed(ifindex: u32) {
    if let Some(record) = interface(ifindex) {
        field!(record, notes_failed).add(1);
        field!(record, answers_failed).add(1);
    }
}

/// Counts a refused packet that is not answered because a limit was reached.
#[inline(always)]
pub(crate) fn count_silent(ifindex: u32, reason: Silence) {
    if let Some(record) = interface(ifindex)
        && let Some(counter) = field!(record, silent).nth(reason as usize)
    {
        counter.add(1);
    }
}

/// Counts a refused packet for which no answer could be sent.
#[inline(always)]
pub(crate) fn count_answer_failed(ifindex: u32) {
    if let Some(record) = interface(ifindex) {
        field!(record, answers_failed).add(1);
    }
}
