//! What the kernel puts into the ring.

use crate::{flow::FlowKey, wire};

/// A policy matched a flow: sent once for each flow and generation, `observe` included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Judged {
    /// The flow.
    pub key: FlowKey,
    /// Jiffies since boot.
    pub at: u64,
    /// The policy's identity.
    pub policy: u16,
    /// The [`Verdict`](crate::policy::Verdict)'s number.
    pub verdict: u8,
    /// By number of [`Direction`](crate::flow::Direction): of the packet that led to it.
    pub direction: u8,
    /// Keeps the size a multiple of eight; 0.
    pub reserved: u32,
}

wire! {
    Judged { key: FlowKey, at: u64, policy: u16, verdict: u8, direction: u8, reserved: u32 }
}
