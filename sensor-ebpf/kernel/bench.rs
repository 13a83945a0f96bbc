//! Programs that measure programs: a floor, and drivers that make many flows out of one frame.
//!
//! Never attached but in a lab ([`many_devices`]). User space runs them by `BPF_PROG_TEST_RUN`, which repeats
//! one frame: a driver rewrites it and tail-calls the program under test. The driver's own cost is measured
//! with [`noop`] as the program under test, and subtracted.

#![no_std]
#![no_main]

use core::ptr;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    helpers::{bpf_skb_change_type, bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    macros::{classifier, map, xdp},
    maps::{Array, ProgramArray},
    programs::{TcContext, XdpContext},
};

/// The state of a xorshift generator (Marsaglia 2003), never 0, and how many flows to visit.
#[map]
static RANDOM: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// Words of the longest frame that [`replay`] puts back.
const FRAME_WORDS: usize = 16;

/// The frame that [`replay`] puts back: an even number of octets.
#[map]
static FRAME: Array<[u64; FRAME_WORDS]> = Array::with_max_entries(1, 0);

/// How long that frame is.
#[map]
static FRAME_LEN: Array<[u64; 1]> = Array::with_max_entries(1, 0);

/// The program under test.
#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Where the drivers write: IPv4 and IPv6 without tags, TCP or UDP behind a header without options.
mod field {
    /// The last octet of the source MAC address: a device for each of 256 flows.
    pub(crate) const SOURCE_MAC_LAST: usize = 11;
    /// The last three octets of the destination address.
    pub(crate) const IPV4_DESTINATION_TAIL: usize = 14 + 17;
    pub(crate) const IPV6_DESTINATION_TAIL: usize = 14 + 37;
    /// The source port.
    pub(crate) const IPV4_SOURCE_PORT: usize = 14 + 20;
    pub(crate) const IPV6_SOURCE_PORT: usize = 14 + 40;
    /// The last octets of the destination address and of the destination port.
    pub(crate) const IPV4_DESTINATION_LAST: usize = 14 + 19;
    pub(crate) const IPV4_DESTINATION_PORT_LAST: usize = 14 + 20 + 3;
}

/// Passes, and nothing else: the floor of every figure.
#[xdp]
fn noop(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Makes the frame one of many IPv4 flows, drawn at random, and runs the program under test.
#[xdp]
fn visit_ipv4(context: XdpContext) -> u32 {
    visit(
        &context,
        field::IPV4_DESTINATION_TAIL,
        field::IPV4_SOURCE_PORT,
    )
}

/// As [`visit_ipv4`], for IPv6.
#[xdp]
fn visit_ipv6(context: XdpContext) -> u32 {
    visit(
        &context,
        field::IPV6_DESTINATION_TAIL,
        field::IPV6_SOURCE_PORT,
    )
}

/// As [`visit_ipv4`], of at most 16,384 flows that one device chose: they differ in seven bits of the
/// address and of the port that a hash by multiplication loses first.
#[xdp]
fn visit_chosen(context: XdpContext) -> u32 {
    let Some(number) = draw() else {
        return xdp_action::XDP_ABORTED;
    };
    let (address, port) = ((number >> 7) as u8, number as u8);
    let done = store(&context, field::IPV4_DESTINATION_LAST, address << 1)
        .and_then(|()| store(&context, field::IPV4_DESTINATION_PORT_LAST, port << 1));
    match done {
        Some(()) => run(&context),
        None => xdp_action::XDP_ABORTED,
    }
}

/// The number of a flow, drawn at random among those to visit.
#[inline(always)]
fn draw() -> Option<u32> {
    let random = RANDOM.get_ptr_mut(0)?;
    // SAFETY: the map's only element; one run at a time.
    unsafe {
        let [state, flows] = *random;
        let mut next = state ^ (state << 13);
        next ^= next >> 7;
        next ^= next << 17;
        (*random)[0] = next;
        Some((((next >> 32) * flows) >> 32) as u32)
    }
}

#[inline(always)]
fn visit(context: &XdpContext, destination: usize, port: usize) -> u32 {
    let Some(number) = draw() else {
        return xdp_action::XDP_ABORTED;
    };
    let [_, high, middle, low] = number.to_be_bytes();
    let done = store(context, field::SOURCE_MAC_LAST, low)
        .and_then(|()| store(context, destination, [high, middle, low]))
        .and_then(|()| store(context, port, [0x80 | high, middle]));
    match done {
        Some(()) => run(context),
        None => xdp_action::XDP_ABORTED,
    }
}

/// Puts the frame back as it was, for a program that rewrites it, and runs that.
#[xdp]
fn replay(context: XdpContext) -> u32 {
    match put_back(&context) {
        Some(()) => run(&context),
        None => xdp_action::XDP_ABORTED,
    }
}

/// As [`replay`], by each of 256 devices in turn, because the answers to one of them are limited.
#[xdp]
fn replay_devices(context: XdpContext) -> u32 {
    let Some(random) = RANDOM.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the map's only element; one run at a time.
    let number = unsafe {
        (*random)[0] += 1;
        (*random)[0] as u8
    };
    match put_back(&context).and_then(|()| store(&context, field::SOURCE_MAC_LAST, number)) {
        Some(()) => run(&context),
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn put_back(context: &XdpContext) -> Option<()> {
    let (frame, len) = (FRAME.get(0)?, FRAME_LEN.get(0)?);
    // SAFETY: the helpers take the program's own context.
    let status = unsafe {
        // An answer that is longer than the frame takes the room in front of it.
        let longer = bpf_xdp_get_buff_len(context.ctx) as i32 - len[0] as i32;
        bpf_xdp_adjust_head(context.ctx, longer)
    };
    if status != 0 {
        return None;
    }
    let mut at = 0;
    while at < FRAME_WORDS && store(context, at * 8, frame[at]).is_some() {
        at += 1;
    }
    if at < FRAME_WORDS {
        // The rest is less than a word.
        let mut rest = frame[at];
        let mut offset = at * 8;
        while offset < FRAME_WORDS * 8 && store(context, offset, rest as u16).is_some() {
            rest >>= 16;
            offset += 2;
        }
    }
    Some(())
}

/// Runs the program under test; comes back only where there is none.
#[inline(always)]
fn run(context: &XdpContext) -> u32 {
    // SAFETY: the map holds XDP programs only.
    unsafe { TARGET.tail_call(context, 0) };
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn store<T>(context: &XdpContext, offset: usize, value: T) -> Option<()> {
    let place = context.data() + offset;
    if place + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: between the start and the end of the packet, as just compared.
    unsafe { ptr::write_unaligned(place as *mut T, value) };
    Some(())
}

/// The first octets of the MAC addresses that [`many_devices`] makes up, two of them local ones' (IEEE 802,
/// section 8.4).
const MADE_UP: u32 = u32::from_le_bytes([2, 0xd0, 0, 0]);

/// Makes every socket that asks a name server a device of its own: the port stands in the sender's MAC
/// address. At the egress of a host in a lab.
#[classifier]
fn many_devices(context: TcContext) -> i32 {
    const SOURCE_MAC: usize = 6;
    const PROTOCOL: usize = 14 + 9;
    const PORTS: usize = 14 + 20;
    const UDP: u8 = 17;
    const DNS: u16 = 53;

    let to_server = context.load::<u8>(PROTOCOL) == Ok(UDP)
        && context.load::<u16>(PORTS + 2).map(u16::from_be) == Ok(DNS);
    if to_server && let Ok(port) = context.load::<u16>(PORTS) {
        // A frame that cannot be written goes as it is.
        let _ = context
            .store(SOURCE_MAC, &MADE_UP, 0)
            .and_then(|()| context.store(SOURCE_MAC + 4, &port, 0));
    }
    TC_ACT_UNSPEC
}

/// Lets the host take in the answers to the devices of [`many_devices`]. At its ingress.
#[classifier]
fn one_host(context: TcContext) -> i32 {
    const DESTINATION_MAC: usize = 0;
    const PACKET_HOST: u32 = 0;

    if context.load::<u32>(DESTINATION_MAC) == Ok(MADE_UP) {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_skb_change_type(context.skb.skb, PACKET_HOST) };
    }
    TC_ACT_UNSPEC
}

/// The license, by which the kernel admits the object to helpers that are GPL-only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// See the panic handler of the sensor's own object.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
