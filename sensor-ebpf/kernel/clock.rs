//! The kernel's two clocks.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};

/// Jiffies since boot.
#[inline(always)]
pub(crate) fn jiffies() -> u64 {
    // SAFETY: the helper reads a clock.
    unsafe { bpf_jiffies64() }
}

/// Nanoseconds since boot (`CLOCK_MONOTONIC`).
#[inline(always)]
pub(crate) fn nanoseconds() -> u64 {
    // SAFETY: the helper reads a clock.
    unsafe { bpf_ktime_get_ns() }
}
