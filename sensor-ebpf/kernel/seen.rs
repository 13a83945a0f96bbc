//! The facts about one frame, and the action on it: the types that the other modules share.

use sensor_ebpf::{
    answer::Headers,
    books::{Settings, Tally},
    flow::{Direction, FlowKey},
    packet::Packet,
    parse::{Mac, Piece, protocol, tcp_flag},
    policy::Verdict,
};

/// The action on a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Action {
    /// The frame goes on.
    Pass = 0,
    /// The frame goes no further, and the end that waits for it is told.
    Reject = 1,
    /// The frame goes no further, in silence.
    Drop = 2,
    /// A DNS question: there is no such name.
    NxDomain = 4,
    /// A DNS question: its address is 0.0.0.0 or ::.
    Zero = 5,
}

impl Action {
    /// The action with this number; an unknown number passes (law 3).
    #[inline(always)]
    pub(crate) const fn from_number(number: u32) -> Self {
        match number & 0xff {
            1 => Self::Reject,
            2 => Self::Drop,
            4 => Self::NxDomain,
            5 => Self::Zero,
            _ => Self::Pass,
        }
    }
}

/// The facts about a frame that are needed to book it.
///
/// `#[repr(C)]` and without `enum`s: it is an argument of global functions, of which the verifier
/// believes nothing.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Seen {
    pub(crate) key: FlowKey,
    pub(crate) wire: Tally,
    /// Jiffies since boot.
    pub(crate) now: u64,
    /// [`FlowKey::hash`] of the key.
    pub(crate) fingerprint: u64,
    /// TCP: that of the packet. A QUIC Initial: the number of its connection.
    pub(crate) sequence: u32,
    /// Of a RST, its window and urgent pointer; of a SYN that answers a device's, the number that it
    /// acknowledges.
    pub(crate) tcp_word: u32,
    /// Bytes of payload.
    pub(crate) payload: u32,
    /// Where a line with the fingerprint was found already; [`NO_SLOT`](sensor_ebpf::sample::NO_SLOT)
    /// elsewhere.
    pub(crate) slot: u32,
    /// Bytes of the frame before the network header.
    pub(crate) network_offset: u32,
    /// Bytes of the frame before the transport header.
    pub(crate) transport_offset: u32,
    /// Bytes of the frame before the payload.
    pub(crate) payload_offset: u32,
    /// Bytes of the transport header and its payload, by the IP header.
    pub(crate) transport_len: u32,
    /// Of a piece of a packet, what leads to the others; 0 of a whole one.
    pub(crate) identification: u32,
    /// The innermost.
    pub(crate) ethertype: u16,
    pub(crate) tcp_flags: u8,
    /// By number of [`Direction`].
    pub(crate) direction: u8,
    /// By number of [`Piece`].
    pub(crate) piece: u8,
    /// Keep the size a multiple of eight; 0.
    pub(crate) reserved: [u8; 7],
}

const _: () = assert!(size_of::<Seen>() == size_of::<FlowKey>() + size_of::<Tally>() + 64);

impl Seen {
    /// The headers of the frame, which lies there as it was seen. `None` where it is too short.
    #[inline(always)]
    pub(crate) fn headers<P: Packet>(&self, frame: &P) -> Option<Headers> {
        const DESTINATION_MAC: usize = 0;
        const SOURCE_MAC: usize = 6;

        let (source, destination) = match self.direction() {
            Direction::Upload => (self.key.local(), self.key.remote()),
            Direction::Download => (self.key.remote(), self.key.local()),
        };
        Some(Headers {
            source_mac: Mac::new(frame.load(SOURCE_MAC)?),
            destination_mac: Mac::new(frame.load(DESTINATION_MAC)?),
            ethertype: self.ethertype,
            family: self.key.family(),
            protocol: self.key.protocol(),
            source,
            destination,
            tcp_flags: self.tcp_flags,
            is_later_piece: self.piece == Piece::Later as u8,
            network_offset: self.network_offset as usize,
            transport_offset: frame.forget(self.transport_offset as usize, self.now),
            transport_len: self.transport_len as usize,
        })
    }

    #[inline(always)]
    pub(crate) fn direction(&self) -> Direction {
        Direction::from_number(self.direction)
    }

    /// Whether it is a piece of a packet.
    #[inline(always)]
    pub(crate) fn is_piece(&self) -> bool {
        self.piece != Piece::Whole as u8
    }

    /// Whether it ends a TCP connection, and carries nothing.
    #[inline(always)]
    pub(crate) fn is_reset(&self) -> bool {
        self.tcp_flags & tcp_flag::RST != 0 && self.payload == 0
    }

    /// Whether it may open a TCP connection.
    #[inline(always)]
    pub(crate) fn is_syn(&self) -> bool {
        self.tcp_flags & (tcp_flag::SYN | tcp_flag::RST) == tcp_flag::SYN
    }

    /// The same, where it comes from a server.
    #[inline(always)]
    pub(crate) fn is_servers_syn(&self) -> bool {
        self.is_syn() && self.direction == Direction::Download as u8
    }

    /// Whether it is a reset that the programs made for a server, which comes by the way of uploads.
    #[inline(always)]
    pub(crate) fn is_own_reset(&self, settings: &Settings) -> bool {
        let signature = settings.reset_signature as u32;
        self.is_reset()
            && self.direction == Direction::Upload as u8
            && signature != 0
            && self.tcp_word == signature
    }

    /// Whether it attempts something: a TCP connection, or one of QUIC.
    #[inline(always)]
    pub(crate) fn is_attempt(&self) -> bool {
        match self.key.protocol() {
            protocol::TCP => self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN,
            protocol::UDP => self.sequence != 0,
            _ => false,
        }
    }

    /// Whether it is an upload, a piece of a packet, and has no payload that could be read.
    #[inline(always)]
    pub(crate) fn is_unread_fragment(&self) -> bool {
        self.direction == Direction::Upload as u8 && self.is_piece() && self.payload == 0
    }
}

/// The result of booking a frame. Global functions return its number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Booked(u32);

impl Booked {
    const SAMPLE_WANTED: u32 = 1 << 8;
    const FRAGMENT_SEEN: u32 = 1 << 9;

    /// Booked, and nothing is wanted of the payload.
    #[inline(always)]
    pub(crate) const fn new(verdict: Verdict) -> Self {
        Self(verdict as u32)
    }

    /// The payload is wanted, and its sample was begun.
    #[inline(always)]
    pub(crate) const fn with_sample(self) -> Self {
        Self(self.0 | Self::SAMPLE_WANTED)
    }

    /// User space is to be told of a fragment in which nothing could be read.
    #[inline(always)]
    pub(crate) const fn with_fragment(self) -> Self {
        Self(self.0 | Self::FRAGMENT_SEEN)
    }

    #[inline(always)]
    pub(crate) const fn wants_sample(self) -> bool {
        self.0 & Self::SAMPLE_WANTED != 0
    }

    #[inline(always)]
    pub(crate) const fn is_fragment(self) -> bool {
        self.0 & Self::FRAGMENT_SEEN != 0
    }

    /// The action on the frame, as far as its flow decides.
    #[inline(always)]
    pub(crate) const fn action(self) -> Action {
        Action::from_number(self.0)
    }

    #[inline(always)]
    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub(crate) const fn from_number(number: u32) -> Self {
        Self(number)
    }
}
