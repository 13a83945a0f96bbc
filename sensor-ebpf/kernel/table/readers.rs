//! The programs that read on behind those in which a frame comes in, and those that open Initials and go back to
//! them: one for each type of program, because the kernel lets a program go on in one of its own type only.
//!
//! User space puts them there before it attaches anything. Where one is missing, its packets pass as
//! not judged.

use aya_ebpf::{
    macros::map,
    maps::ProgramArray,
    programs::{TcContext, XdpContext},
};
use sensor_ebpf::flow::Direction;

/// The reader behind `upload`, and what opens Initials for it.
#[map]
static READERS_XDP: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// The same behind `upload_frags`.
#[map]
static READERS_FRAGS: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// The readers behind `upload_tc` and `download`, by number of their direction, and what opens Initials for the
/// first.
#[map]
static READERS_TC: ProgramArray = ProgramArray::with_max_entries(3, 0);

/// Goes on in the reader of frames that lie in one buffer; comes back where there is none.
#[inline(always)]
pub(crate) fn read_on_linear(context: &XdpContext) {
    // SAFETY: the reader takes the same context, and finds all else in this CPU's buffers.
    unsafe { READERS_XDP.tail_call(context, 0) };
}

/// Goes on in the reader of frames that may lie in several buffers; comes back where there is none.
#[inline(always)]
pub(crate) fn read_on_frags(context: &XdpContext) {
    // SAFETY: as in `read_on_linear`.
    unsafe { READERS_FRAGS.tail_call(context, 0) };
}

/// Goes on in the reader of socket buffers; comes back where there is none.
#[inline(always)]
pub(crate) fn read_on_skb(context: &TcContext, direction: Direction) {
    // SAFETY: as in `read_on_linear`.
    unsafe { READERS_TC.tail_call(context, direction as u32) };
}

/// Goes on where Initials are opened, of frames that lie in one buffer; comes back where that is not to be had.
#[inline(always)]
pub(crate) fn open_linear(context: &XdpContext) {
    // SAFETY: as in `read_on_linear`.
    unsafe { READERS_XDP.tail_call(context, 1) };
}

/// The same, of frames that may lie in several buffers.
#[inline(always)]
pub(crate) fn open_frags(context: &XdpContext) {
    // SAFETY: as in `read_on_linear`.
    unsafe { READERS_FRAGS.tail_call(context, 1) };
}

/// The same, of socket buffers.
#[inline(always)]
pub(crate) fn open_skb(context: &TcContext) {
    // SAFETY: as in `read_on_linear`.
    unsafe { READERS_TC.tail_call(context, 2) };
}
