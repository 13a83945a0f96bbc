//! What a policy applied to is counted, and told to user space.

use sensor_ebpf::flow::Judgement;

use crate::{
    global,
    seen::Seen,
    table::{hits, ring},
};

global! {
    /// Counts a packet to which a policy applied.
    pub(crate) fn count_hit(seen: &Seen, judgement: u64) -> u32 {
        let judgement = Judgement::unpack(judgement);
        hits::count(
            seen.key.mac(),
            judgement.decision,
            seen.direction(),
            seen.wire,
            u64::from(judgement.fresh),
        );
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
