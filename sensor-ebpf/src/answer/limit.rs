//! How many answers there may be: an answer costs the gateway more than the packet that asks for it, and a
//! device that gets no answer asks at any rate.

use crate::{flow::Direction, wire};

/// Answers to DNS questions for one device in a second.
pub const DNS_OF_DEVICE: u64 = 500;

/// ICMP errors for one flow in a second (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4, f).
pub const ICMP_OF_FLOW: u64 = 10;

/// ICMP errors for one device in a second.
pub const ICMP_OF_DEVICE: u64 = 200;

/// Nanoseconds between two resets of one flow and direction that answer no SYN.
pub const RESET_INTERVAL: u64 = 100_000_000;

/// How the answers to a packet are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// A DNS question: by its device.
    Dns,
    /// A SYN: each is answered.
    Syn,
    /// Another segment, seen in a direction: by its flow.
    Segment(Direction),
    /// A packet that ICMP refuses: by its flow and its device.
    Icmp,
}

/// Why a refused packet that may be answered was not: a limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Silence {
    /// The flow was reset just now.
    Resets = 0,
    /// The flow had its ICMP errors of this second.
    IcmpOfFlow = 1,
    /// The device had its ICMP errors of this second.
    IcmpOfDevice = 2,
    /// The device had its DNS answers of this second.
    DnsOfDevice = 3,
}

impl Silence {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All, at the place of their number.
    pub const ALL: [Self; 4] = [
        Self::Resets,
        Self::IcmpOfFlow,
        Self::IcmpOfDevice,
        Self::DnsOfDevice,
    ];

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::IcmpOfFlow => "icmp_flow",
            Self::IcmpOfDevice => "icmp_device",
            Self::DnsOfDevice => "dns_device",
        }
    }
}

/// A second in which things are counted; it starts with the first of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Second {
    /// When it started, in nanoseconds since boot; 0 before the first.
    pub since: u64,
    /// How many there were in it, those beyond the limit included.
    pub count: u64,
}

impl Second {
    const NANOSECONDS: u64 = 1_000_000_000;

    /// Whether it is over, and another starts.
    #[inline(always)]
    pub const fn is_over(&self, now: u64) -> bool {
        self.since == 0 || now.wrapping_sub(self.since) >= Self::NANOSECONDS
    }
}

/// The answers of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceAnswers {
    /// To DNS questions.
    pub dns: Second,
    /// ICMP errors.
    pub icmp: Second,
}

/// The answers of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowAnswers {
    /// When a segment that is no SYN was last reset, by its direction, in nanoseconds since boot.
    pub reset: [u64; 2],
    /// ICMP errors.
    pub icmp: Second,
}

wire! {
    Second { since: u64, count: u64 }
    DeviceAnswers { dns: Second, icmp: Second }
    FlowAnswers { reset: [u64; 2], icmp: Second }
}
