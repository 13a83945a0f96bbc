//! Counts the packets that a policy applied to, and tells user space.
//!
//! Packets of a flow are not counted here one by one: the flow's own counters say how many came since the
//! decision in force was made, and user space books them to its policy. Packets under an earlier decision are
//! booked here when another takes its place.

use sensor_ebpf::{
    books::{FURTHER_DEVICES, Tally},
    flow::{Direction, Judgement},
    parse::Mac,
};

use crate::{
    global,
    seen::Seen,
    table::{flows, hits, ring},
};

global! {
    /// Counts a packet of the device with a record to the policy of a packed judgement, and with it so many
    /// decisions. Devices that share a record share their hits, whatever addresses they make up.
    pub(crate) fn count_hit(seen: &Seen, device: u32, judgement: u64, decided: u64) -> u32 {
        let decision = Judgement::unpack(judgement).decision;
        let mac = match device {
            FURTHER_DEVICES => Mac::default(),
            _ => seen.key.mac(),
        };
        hits::count(mac, decision, seen.direction(), seen.wire, decided);
        0
    }
}

global! {
    /// Counts that a policy decided about a flow or a request, in the direction of the packet that led to it.
    pub(crate) fn count_decided(seen: &Seen, judgement: u64) -> u32 {
        let decision = Judgement::unpack(judgement).decision;
        let nothing = Tally::default();
        hits::count(seen.key.mac(), decision, seen.direction(), nothing, 1);
        0
    }
}

global! {
    /// Books what a flow carried in one direction under a decision, a packed judgement, whose place another
    /// has taken. `own` says that the packet at hand was counted already and belongs to the new one.
    pub(crate) fn end_decision(seen: &Seen, slot: u32, judgement: u64, direction: u32, own: u32) -> u32 {
        let Some(flow) = flows::in_slot(slot) else {
            return 0;
        };
        let direction = Direction::from_number(direction as u8);
        let mut counted = flow.line.counted(direction);
        if own != 0 && direction == seen.direction() {
            counted.packets = counted.packets.wrapping_sub(seen.wire.packets);
            counted.bytes = counted.bytes.wrapping_sub(seen.wire.bytes);
        }
        let under = flow.decided_at(direction, counted);
        let decision = Judgement::unpack(judgement).decision;
        if decision.policy != 0 && (under.packets | under.bytes) != 0 {
            hits::count(seen.key.mac(), decision, direction, under, 0);
        }
        0
    }
}

global! {
    /// Tells user space that a policy matched a flow.
    pub(crate) fn report_judged(seen: &Seen, judgement: u64) -> u32 {
        let decision = Judgement::unpack(judgement).decision;
        ring::report_judged(&seen.key, decision, seen.direction(), seen.now);
        0
    }
}
