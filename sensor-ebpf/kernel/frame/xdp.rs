//! Frames at XDP.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use sensor_ebpf::{books::Tally, packet::Packet, parse::Parsed, sample::MAX_PAYLOAD};

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

    /// What the kernel handed to the program.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut xdp_md {
        self.context
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
            bytes: (self.octets.end - self.octets.start) as u64,
        }
    }
}

impl LinearFrame {
    /// Copies up to `len` octets, at most [`MAX_PAYLOAD`], and gives how many there were.
    ///
    /// By hand: the helper that does it is not in Linux 5.15.
    #[inline(always)]
    pub(crate) fn copy(&self, offset: usize, len: usize, to: &mut [u8; MAX_PAYLOAD]) -> usize {
        const STEP: usize = 8;
        let mut copied = 0;
        for step in 0..MAX_PAYLOAD / STEP {
            if copied + STEP > len {
                break;
            }
            let Some(octets) = self.load::<STEP>(offset + copied) else {
                break;
            };
            to[step * STEP..step * STEP + STEP].copy_from_slice(&octets);
            copied += STEP;
        }
        if copied == len {
            return len;
        }
        // The octets that are left are the last of eight that end with the payload: headers lie
        // before it, and what was copied already is copied again as it is.
        let last = forget((offset + len).wrapping_sub(STEP), len as u64);
        let Some(octets) = self.load::<STEP>(last) else {
            return copied;
        };
        if len < STEP {
            let word = u64::from_le_bytes(octets) >> (8 * (STEP - len));
            to[..STEP].copy_from_slice(&word.to_le_bytes());
        } else if let Some(place) = to.get_mut(len - STEP..len) {
            place.copy_from_slice(&octets);
        }
        len
    }
}

/// A frame at XDP that may lie in several buffers. The headers lie in the first: drivers put at
/// least 256 octets there, and what does not is counted as truncated.
pub(crate) struct MultiBufferFrame(LinearFrame);

impl MultiBufferFrame {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        Self(LinearFrame::new(context))
    }

    /// What the kernel handed to the program.
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
        // SAFETY: the context is valid while the program runs.
        let bytes = unsafe { bpf_xdp_get_buff_len(self.0.context) };
        Tally { packets: 1, bytes }
    }
}

/// Copies `len` octets, 1 to [`MAX_PAYLOAD`], out of all buffers of a frame.
#[inline(always)]
pub(crate) fn copy_frags(
    context: *mut xdp_md,
    offset: u32,
    len: u32,
    to: &mut [u8; MAX_PAYLOAD],
) -> bool {
    // SAFETY: the context is valid while the program runs; `to` has room for `len` octets.
    unsafe { bpf_xdp_load_bytes(context, offset, to.as_mut_ptr().cast(), len) == 0 }
}
