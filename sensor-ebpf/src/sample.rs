//! The samples that the kernel puts into the ring, and how it chooses them.
//!
//! A payload is copied only when it can carry a name or an identity: it is among the first ones of a flow
//! ([`Watch`]), and [`classify`] takes it for a kind that a reader wants. Both are here, so that `replay`
//! chooses on the host what the kernel would have chosen.

use crate::{flow::FlowKey, wire};
pub use crate::{
    kind::{Kind, LOOKED_AT, classify, is_service},
    watch::Watch,
};

/// A policy matched a flow, `observe` included. Sent where the decision by the flow's addresses differs from
/// the one before, and for each hello and each request whose name a rule is about. DNS questions over UDP send
/// none.
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

/// The head of a payload's copy; `captured` octets of it follow in the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// The flow.
    pub key: FlowKey,
    /// Jiffies since boot.
    pub at: u64,
    /// When the payload was copied, in nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub nanoseconds: u64,
    /// The slot of the flow's record; [`NO_SLOT`] where it has none.
    pub slot: u32,
    /// TCP: the sequence number of the payload's first octet.
    pub sequence: u32,
    /// TCP: the sequence number of the SYN before it; see [`Head::SYN_SEEN`].
    pub initial_sequence: u32,
    /// Bytes of payload in the packet.
    pub payload: u32,
    /// Bytes of payload that follow, at most [`MAX_PAYLOAD`].
    pub captured: u32,
    /// A [`Kind`]'s number.
    pub kind: u8,
    /// By number of [`Direction`](crate::flow::Direction).
    pub direction: u8,
    /// [`Head::SYN_SEEN`], [`Head::JUDGED`], [`Head::REFUSED`], [`Head::LAST`],
    /// [`Head::FRAGMENT`], [`Head::URGENT`], [`Head::MORE`], [`Head::NAME`].
    pub flags: u8,
    /// Which piece of the packet's payload follows, from 0: it begins [`MAX_PAYLOAD`] bytes behind the
    /// piece before.
    pub piece: u8,
    /// Which connection of the flow it is: the [`Judgement`](crate::flow::Judgement)'s epoch; 0 where the
    /// flow has no record.
    pub epoch: u64,
    /// Of a refused DNS question: how many for the same name by the same device were not told since the one
    /// before.
    pub suppressed: u64,
}

wire! {
    Judged { key: FlowKey, at: u64, policy: u16, verdict: u8, direction: u8, reserved: u32 }
    Head {
        key: FlowKey, at: u64, nanoseconds: u64, slot: u32, sequence: u32, initial_sequence: u32,
        payload: u32, captured: u32, kind: u8, direction: u8, flags: u8, piece: u8, epoch: u64,
        suppressed: u64,
    }
}

// User space tells the two apart by their sizes.
const _: () = assert!(size_of::<Judged>() < size_of::<Head>());

impl Head {
    /// In `flags`: the SYN of this direction was seen, `initial_sequence` counts.
    pub const SYN_SEEN: u8 = 1;
    /// In `flags`: the kernel has read the name in the payload, and judged it.
    pub const JUDGED: u8 = 2;
    /// In `flags`: the packet was refused for its name.
    pub const REFUSED: u8 = 4;
    /// In `flags`: no more payloads in this direction are wanted.
    pub const LAST: u8 = 8;
    /// In `flags`: the packet was a fragment without payload that could be read, and nothing of it is
    /// copied. Only of devices that rules by name apply to.
    pub const FRAGMENT: u8 = 16;
    /// In `flags`: the segment has an urgent pointer (RFC 9293, section 3.8.5). Most receivers leave
    /// one octet of it out of the stream, and hand it over apart.
    pub const URGENT: u8 = 32;
    /// In `flags`: another record has the next piece of the packet's payload.
    pub const MORE: u8 = 64;
    /// In `flags`: what follows is no payload but the name that the kernel put together from several packets, of
    /// which this one was the last.
    pub const NAME: u8 = 128;

    /// TCP: how far behind the first byte of its stream the payload begins;
    /// [`SOMEWHERE`](crate::watch::Early::SOMEWHERE) where the SYN was not seen.
    #[inline(always)]
    pub const fn place(&self) -> u32 {
        match self.flags & Self::SYN_SEEN {
            0 => crate::watch::Early::SOMEWHERE,
            _ => self
                .sequence
                .wrapping_sub(self.initial_sequence)
                .wrapping_sub(1),
        }
    }
}

/// In [`Head::slot`]: the flow has no record.
pub const NO_SLOT: u32 = u32::MAX;

/// The most bytes of a payload in one record of the ring: a full Ethernet frame's. A packet that was
/// merged from several (GRO), or is not split yet (GSO), has more.
pub const MAX_PAYLOAD: usize = 2048;

/// The most pieces of one packet's payload that are copied: 64 KiB, as much as the longest IP packet has.
pub const MAX_PIECES: u32 = 32;

/// The most datagrams of one packet that are read each by itself: as many as Linux sends in one
/// (`UDP_MAX_SEGMENTS`, 64, and 128 since 2024), which is more than it merges.
pub const MAX_DATAGRAMS: u32 = 128;

/// How many bytes of a payload are copied while a reader wants more: of a flow that is read as long as it lives
/// ([`Watch::ALWAYS`]) all of them, of another as many as the daemon holds of a stream before its name is
/// found.
#[inline(always)]
pub const fn wanted_of(payload: u32, is_read_always: bool) -> u32 {
    /// Bytes of a stream that the daemon holds.
    const HELD: u32 = 16 * 1024;
    const ALL: u32 = MAX_PIECES * MAX_PAYLOAD as u32;
    let most = if is_read_always { ALL } else { HELD };
    if payload < most { payload } else { most }
}
