//! From bytes to facts: pure and total functions, independent of their callers.
//!
//! Nothing here uses flows, devices, clocks or the kernel. Every function takes bytes that anybody may have
//! made and returns a fact, a request for more bytes, or the reason why there is no fact. None of them panics,
//! loops without a bound, or allocates more than its input is long.

pub mod dhcp4;
pub mod dhcp6;
pub mod dns;
pub mod hpack;
pub mod http;
pub mod http2;
pub mod name;
pub mod prelude;
pub mod quic;
mod reader;
pub mod router_advertisement;
pub mod stream;
pub mod text;
pub mod tls;
pub mod tunnel;

/// The reason why bytes gave no fact. The [name](Self::name) is the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// It ends before it is whole, and no more can come (a datagram, a budget that is spent).
    Truncated,
    /// It contradicts its own format.
    Malformed,
    /// It is larger or deeper than this decoder follows; the bound is a constant of the decoder.
    Limit,
    /// A version or variant that this decoder does not know.
    Unsupported,
    /// It does not decrypt: not what it looks like, damaged, or under keys of another connection.
    Undecryptable,
    /// Two pieces have different bytes for the same place: it is unknown which the receiver took.
    Conflict,
    /// The text in the place of a host name is none: see [`name::host`].
    NoHostName,
}

impl Failure {
    /// All, at the place of their number.
    pub const ALL: [Self; 7] = [
        Self::Truncated,
        Self::Malformed,
        Self::Limit,
        Self::Unsupported,
        Self::Undecryptable,
        Self::Conflict,
        Self::NoHostName,
    ];

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::Limit => "limit",
            Self::Unsupported => "unsupported",
            Self::Undecryptable => "undecryptable",
            Self::Conflict => "conflict",
            Self::NoHostName => "no-host-name",
        }
    }
}

/// The result after some bytes of something that may come in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// The whole fact.
    Complete(T),
    /// Right so far, and not yet enough.
    Incomplete,
}
