//! ICMP errors that quote a connection pass where the connection does.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::XdpContext,
};
use sensor_ebpf::{
    flow::{FlowKey, Judgement},
    packet::Packet,
    policy::Layer,
    quote::quoted,
};

use crate::{
    book,
    frame::{AllBytes, LinearFrame},
    global,
    seen::Seen,
    table::{flows, scratch, settings},
};

global! {
    /// Leaves the flow of the packet that an ICMP error at XDP quotes in this CPU's buffer, and gives
    /// whether it could be read.
    pub(crate) fn read_quote_xdp(seen: &Seen, context: *mut xdp_md, offset: u32) -> u32 {
        let frame = LinearFrame::new(&XdpContext::new(context));
        read(&frame, seen, offset)
    }
}

global! {
    /// The same at TC.
    pub(crate) fn read_quote_skb(seen: &Seen, skb: *mut __sk_buff, offset: u32) -> u32 {
        read(&AllBytes(skb), seen, offset)
    }
}

#[inline(always)]
fn read<P: Packet>(packet: &P, seen: &Seen, offset: u32) -> u32 {
    let offset = packet.forget(offset as usize, seen.now);
    let Some(buffer) = scratch::quoted() else {
        return 0;
    };
    let Some(key) = quoted(packet, offset, &seen.key, seen.direction()) else {
        return 0;
    };
    *buffer = key;
    1
}

global! {
    /// Whether the flow in this CPU's buffer passes: one in the table as it was decided, another as it
    /// would be. Not called from where the quote is read, which would take more stack than there is.
    pub(crate) fn quoted_passes() -> u32 {
        let (Some(settings), Some(key)) = (settings::settings(), scratch::quoted()) else {
            return 0;
        };
        let key: &FlowKey = key;
        let generation = settings::generation(settings);
        if let Some(flow) = flows::find(key.hash(&settings.hash_secret), key, settings) {
            let judgement = flow.judgement();
            let decision = judgement.decision;
            if judgement.generation == generation
                || decision.layer != Layer::Address && decision.verdict.refuses()
            {
                return u32::from(!decision.verdict.refuses());
            }
        }
        let decision = Judgement::unpack(book::decision_of(key, generation)).decision;
        u32::from(!decision.verdict.refuses())
    }
}
