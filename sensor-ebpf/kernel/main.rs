//! The kernel programs: the hooks at which frames come in, and the verdicts on them.
//!
//! `upload` and its siblings sit at the ingress of a LAN-facing interface, `download` at its
//! egress. Each reads the frame, books it, and answers with a verdict; everything it knows about
//! packets and policy is in the library.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(
    internal_features,
    reason = "the target has no atomic add but the intrinsic"
)]

mod answer;
mod book;
mod clock;
mod decide;
mod fragment;
mod frame;
mod hit;
mod initial;
mod judge;
mod observe;
mod port;
mod quote;
mod reader;
mod sample;
mod seen;
mod shared;
mod steady;
mod table;
mod tell;
mod verifier;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use sensor_ebpf::flow::Direction;

use crate::{
    frame::{LinearFrame, MultiBufferFrame, SocketBuffer},
    port::PortFrame,
    seen::Action,
    table::{ports, readers},
};

/// Uploads, where a frame lies in one buffer.
#[xdp]
fn upload(context: XdpContext) -> u32 {
    match observe::observe(LinearFrame::new(&context), Direction::Upload) {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        refused => answer::answer_xdp(context.ctx, refused as u32),
    }
}

/// Uploads, where the link's MTU does not fit one buffer (kernel 5.18 and newer).
#[xdp(frags)]
fn upload_frags(context: XdpContext) -> u32 {
    match observe::observe(MultiBufferFrame::new(&context), Direction::Upload) {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        refused => answer::answer_xdp(context.ctx, refused as u32),
    }
}

/// Uploads, where XDP is not to be had, and where frames were merged before the program (GRO).
#[classifier]
fn upload_tc(context: TcContext) -> i32 {
    match observe::observe(SocketBuffer::ingress(&context), Direction::Upload) {
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        refused => answer::answer_tc(context.skb.skb, refused as u32) as i32,
    }
}

/// Answers uploads that XDP refused and handed on, where the driver may not deliver frames that XDP sends back.
#[classifier]
fn answer_noted(context: TcContext) -> i32 {
    match frame::take_note(context.skb.skb) {
        None => TC_ACT_UNSPEC,
        Some(note) => answer::read_note(context.skb.skb, note.action, note.destination) as i32,
    }
}

/// Downloads.
#[classifier]
fn download(context: TcContext) -> i32 {
    let frame = SocketBuffer::egress(&context);
    if frame.mark() == answer::ANSWER_MARK {
        answer::count(&frame);
        // From here on it is an ordinary packet, whatever the machine routes by marks.
        context.set_mark(0);
        return TC_ACT_UNSPEC;
    }
    match observe::observe(frame, Direction::Download) {
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        _ => answer::answer_both(context.skb.skb) as i32,
    }
}

/// Reads on behind [`upload`].
#[xdp]
fn read_upload(context: XdpContext) -> u32 {
    let action = reader::read(|at| sample::fetch_xdp(context.ctx, at));
    if reader::has_initial() {
        readers::open_linear(&context);
        readers::read_on_linear(&context);
    }
    match action {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        refused => answer::answer_xdp(context.ctx, refused as u32),
    }
}

/// Reads on behind [`upload_frags`].
#[xdp(frags)]
fn read_upload_frags(context: XdpContext) -> u32 {
    let action = reader::read(|at| sample::fetch_xdp(context.ctx, at));
    if reader::has_initial() {
        readers::open_frags(&context);
        readers::read_on_frags(&context);
    }
    match action {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        refused => answer::answer_xdp(context.ctx, refused as u32),
    }
}

/// Reads on behind [`upload_tc`] and [`upload_port`].
#[classifier]
fn read_upload_tc(context: TcContext) -> i32 {
    let action = reader::read(|at| sample::fetch_skb(context.skb.skb, at));
    if reader::has_initial() {
        readers::open_skb(&context);
        readers::read_on_skb(&context, Direction::Upload);
    }
    match action {
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        refused => answer::answer_tc(context.skb.skb, refused as u32) as i32,
    }
}

/// Opens the Initial that [`read_upload`] came to, and goes back there.
#[xdp]
fn open_upload(context: XdpContext) -> u32 {
    initial::open();
    readers::read_on_linear(&context);
    xdp_action::XDP_PASS
}

/// The same for [`read_upload_frags`].
#[xdp(frags)]
fn open_upload_frags(context: XdpContext) -> u32 {
    initial::open();
    readers::read_on_frags(&context);
    xdp_action::XDP_PASS
}

/// The same for [`read_upload_tc`].
#[classifier]
fn open_upload_tc(context: TcContext) -> i32 {
    initial::open();
    readers::read_on_skb(&context, Direction::Upload);
    TC_ACT_UNSPEC
}

/// Uploads at a port of a bridge: frames that stay in the bridge are counted as local.
#[classifier]
fn upload_port(context: TcContext) -> i32 {
    match observe::observe(PortFrame::ingress(&context), Direction::Upload) {
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        refused => answer::answer_tc(context.skb.skb, refused as u32) as i32,
    }
}

/// Reads on behind [`download`]: refused packets do not come here.
#[classifier]
fn read_download(context: TcContext) -> i32 {
    reader::copy(|at| sample::fetch_skb(context.skb.skb, at));
    TC_ACT_UNSPEC
}

/// Downloads at a port of a bridge: frames from another port are counted as local, and a frame that leaves by
/// several ports once.
#[classifier]
fn download_port(context: TcContext) -> i32 {
    let frame = SocketBuffer::egress(&context);
    if frame.mark() == answer::ANSWER_MARK {
        answer::count(&frame);
        context.set_mark(0);
        return TC_ACT_UNSPEC;
    }
    let mut out = port::leaves(&frame);
    if let Some((reason, refused)) = port::aside(&frame, &out) {
        observe::skip(&frame, Direction::Download, reason, None);
        return if refused { TC_ACT_SHOT } else { TC_ACT_UNSPEC };
    }
    // Before it is booked: where its payload is read, another program goes on, and it passes.
    ports::note(out);
    let action = observe::observe(frame, Direction::Download);
    if action == Action::Pass {
        return TC_ACT_UNSPEC;
    }
    out.refused = 1;
    ports::note(out);
    match action {
        Action::Drop => TC_ACT_SHOT,
        _ => answer::answer_both(context.skb.skb) as i32,
    }
}

/// Numbers frames that the machine itself sends over a bridge, before the bridge makes copies of them.
#[classifier]
fn number(context: TcContext) -> i32 {
    port::give_number(&context)
}

/// Writes the kernel's two clocks into the frame: jiffies, then nanoseconds since boot.
///
/// Never attached. User space runs it (`BPF_PROG_TEST_RUN`) to learn how long a jiffy is: no
/// file tells it on every kernel.
#[xdp]
fn clock(context: XdpContext) -> u32 {
    let now = [clock::jiffies(), clock::nanoseconds()];
    match LinearFrame::new(&context).store(0, now) {
        Some(()) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

/// The license, by which the kernel admits the object to helpers that are GPL-only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A panic that the compiler could not prove away is an endless loop, which the verifier refuses:
/// an object that loads cannot panic.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
