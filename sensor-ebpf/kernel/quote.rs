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
    table::{flows, settings},
};

global! {
    /// Whether an ICMP error at XDP is about a connection that passes.
    pub(crate) fn is_about_allowed_xdp(seen: &Seen, context: *mut xdp_md, offset: u32) -> u32 {
        let frame = LinearFrame::new(&XdpContext::new(context));
        is_about_allowed(&frame, seen, offset)
    }
}

global! {
    /// The same at TC.
    pub(crate) fn is_about_allowed_skb(seen: &Seen, skb: *mut __sk_buff, offset: u32) -> u32 {
        is_about_allowed(&AllBytes(skb), seen, offset)
    }
}

#[inline(always)]
fn is_about_allowed<P: Packet>(packet: &P, seen: &Seen, offset: u32) -> u32 {
    let offset = packet.forget(offset as usize, seen.now);
    match quoted(packet, offset, &seen.key, seen.direction()) {
        Some(key) => passes(&key),
        None => 0,
    }
}

global! {
    /// Whether a flow passes: one in the table as it was decided, another as it would be.
    fn passes(key: &FlowKey) -> u32 {
        let Some(settings) = settings::settings() else {
            return 0;
        };
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
