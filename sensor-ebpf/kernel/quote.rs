//! ICMP errors that quote a connection pass where the connection does.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::XdpContext,
};
use sensor_ebpf::{
    flow::{FlowKey, Judgement},
    packet::Packet,
    parse::{protocol, tcp_flag},
    policy::Layer,
    quote::{icmp_ports, quoted},
};

use crate::{
    decide::decide_by_address,
    frame::{AllBytes, LinearFrame},
    global,
    seen::Seen,
    table::{flows, scratch, settings},
};

/// In what [`look`] gives: the message quotes a packet, whose flow is in this CPU's buffer.
pub(crate) const QUOTES: u64 = 1 << 32;

global! {
    /// [`look`] at XDP.
    pub(crate) fn look_xdp(seen: &Seen, context: *mut xdp_md) -> u64 {
        let frame = LinearFrame::new(&XdpContext::new(context));
        look(&frame, seen)
    }
}

global! {
    /// [`look`] at TC.
    pub(crate) fn look_skb(seen: &Seen, skb: *mut __sk_buff) -> u64 {
        look(&AllBytes(skb), seen)
    }
}

/// Reads the fields that the parser leaves out. Of ICMP: the numbers in the place of ports in the flow's key,
/// and [`QUOTES`]; of a RST: window and urgent pointer; of another segment: the number that it acknowledges. In
/// a function of its own, after which the verifier knows nothing of the result, and does not go on with each
/// type of message apart.
#[inline(always)]
fn look<P: Packet>(packet: &P, seen: &Seen) -> u64 {
    const WINDOW: usize = 14;
    const URGENT: usize = 18;
    const ACKNOWLEDGED: usize = 8;

    let network = packet.forget(seen.network_offset as usize, seen.now);
    let transport = packet.forget(seen.transport_offset as usize, seen.now);
    if seen.key.protocol() == protocol::TCP {
        if seen.tcp_flags & tcp_flag::RST == 0 {
            return packet
                .load::<4>(transport + ACKNOWLEDGED)
                .map_or(0, |number| u64::from(u32::from_be_bytes(number)));
        }
        // Not two loads in one condition: LLVM would read the first where it failed.
        let Some(window) = packet.load::<2>(transport + WINDOW) else {
            return 0;
        };
        let Some(urgent) = packet.load::<2>(transport + URGENT) else {
            return 0;
        };
        return u64::from(u16::from_be_bytes(window)) << 16 | u64::from(u16::from_be_bytes(urgent));
    }
    let direction = seen.direction();
    let Some(ports) = icmp_ports(
        packet,
        (network, transport),
        &seen.key,
        direction,
        seen.is_piece(),
    ) else {
        return 0;
    };
    let key = seen.key.with_ports(ports);
    let ports = u64::from(ports);
    let Some(buffer) = scratch::quoted() else {
        return ports;
    };
    let Some(key) = quoted(packet, transport, &key, direction) else {
        return ports;
    };
    *buffer = key;
    ports | QUOTES
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
        if let Ok(flow) = flows::find(key.hash(&settings.hash_secret), key, settings) {
            let judgement = Judgement::unpack(flow.line.judgement_word());
            let decision = judgement.decision;
            if judgement.generation == generation
                || decision.layer != Layer::Address && decision.verdict.refuses()
            {
                return u32::from(!decision.verdict.refuses());
            }
        }
        let decision = Judgement::unpack(decide_by_address(key, generation)).decision;
        u32::from(!decision.verdict.refuses())
    }
}
