//! The settings of the programs.

use core::ptr;

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use sensor_ebpf::books::Settings;

/// The settings of the programs.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The settings; `None` cannot happen, and passes.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// The policy generation in force: read once for each packet.
#[inline(always)]
pub(crate) fn generation(settings: &Settings) -> u32 {
    // SAFETY: user space stores the generation at any time, in one piece.
    unsafe { ptr::read_volatile(&settings.generation) }
}
