//! Frames at XDP.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_meta, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use sensor_ebpf::{
    books::{Note, Tally},
    packet::Packet,
    parse::Parsed,
    sample::MAX_PAYLOAD,
};

use super::{Frame, Linear};
use crate::verifier::forget;

/// A frame at XDP that lies in one buffer.
pub(crate) struct LinearFrame {
    octets: Linear,
    context: *mut xdp_md,
}

impl LinearFrame {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        Self {
            octets: Linear {
                start: context.data(),
                end: context.data_end(),
            },
            context: context.ctx,
        }
    }

    /// The context that the kernel handed to the program.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut xdp_md {
        self.context
    }

    /// Writes words one after the other; `None` where the frame is too short. Each by itself: an array on the
    /// stack would be read in larger pieces, which the verifier wants aligned.
    #[inline(always)]
    pub(crate) fn store_words<const N: usize>(&self, offset: usize, words: [u32; N]) -> Option<()> {
        let place = self.octets.at::<[u32; N]>(offset)?.cast::<u32>();
        for (number, word) in words.into_iter().enumerate() {
            // SAFETY: between the start and the end of the packet, as just compared.
            unsafe { place.add(number).write_unaligned(word) };
        }
        Some(())
    }

    /// Writes a value; `None` where the frame is too short.
    #[inline(always)]
    pub(crate) fn store<T>(&self, offset: usize, value: T) -> Option<()> {
        let place = self.octets.at::<T>(offset)?;
        // SAFETY: between the start and the end of the packet, as just compared.
        unsafe { place.write_unaligned(value) };
        Some(())
    }
}

impl LinearFrame {
    /// Writes a note before the frame, and the sender in the place of the receiver; the frame must not be
    /// looked at any more. Gives whether the driver has room for the note.
    #[inline(always)]
    pub(crate) fn annotate(self, note: Note) -> bool {
        const RECEIVER: usize = 0;
        const SENDER: usize = 6;

        let Some(sender) = self.load::<6>(SENDER) else {
            return false;
        };
        if self.store(RECEIVER, sender).is_none() {
            return false;
        }
        // SAFETY: the context is valid while the program runs; the note lies between the start of the
        // metadata and that of the frame, as compared.
        unsafe {
            if bpf_xdp_adjust_meta(self.context, -(size_of::<Note>() as i32)) != 0 {
                return false;
            }
            let place = (*self.context).data_meta as usize;
            if place + size_of::<Note>() > (*self.context).data as usize {
                return false;
            }
            (place as *mut Note).write(note);
        }
        true
    }
}

impl Packet for LinearFrame {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.octets.load(offset)
    }

    #[inline(always)]
    fn forget(&self, offset: usize, noise: u64) -> usize {
        forget(offset, noise)
    }
}

impl Frame for LinearFrame {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn wire(&self, _parsed: Option<&Parsed>) -> Tally {
        Tally {
            packets: 1,
            bytes: u64::from(self.len()),
        }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.octets.end - self.octets.start) as u32
    }
}

/// A frame at XDP that may lie in several buffers. The headers lie in the first: drivers put at least 256
/// octets there, and headers beyond those are counted as truncated.
pub(crate) struct MultiBufferFrame(LinearFrame);

impl MultiBufferFrame {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        Self(LinearFrame::new(context))
    }

    /// The context that the kernel handed to the program.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut xdp_md {
        self.0.context
    }
}

impl Packet for MultiBufferFrame {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset)
    }

    #[inline(always)]
    fn forget(&self, offset: usize, noise: u64) -> usize {
        forget(offset, noise)
    }
}

impl Frame for MultiBufferFrame {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.0.ifindex()
    }

    #[inline(always)]
    fn wire(&self, _parsed: Option<&Parsed>) -> Tally {
        Tally {
            packets: 1,
            bytes: u64::from(self.len()),
        }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_xdp_get_buff_len(self.0.context) as u32 }
    }
}

/// Copies `len` octets, 1 to [`MAX_PAYLOAD`], out of all buffers of a frame.
#[inline(always)]
pub(crate) fn copy_xdp(
    context: *mut xdp_md,
    offset: u32,
    len: u32,
    to: &mut [u8; MAX_PAYLOAD],
) -> bool {
    // SAFETY: the context is valid while the program runs; `to` has room for `len` octets.
    unsafe { bpf_xdp_load_bytes(context, offset, to.as_mut_ptr().cast(), len) == 0 }
}
