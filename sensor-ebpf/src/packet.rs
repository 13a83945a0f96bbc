//! Reading a frame, wherever it lies.

/// Bytes of one frame, from its first Ethernet octet on.
///
/// The kernel implements it over packet memory, the host over a slice; the parser knows no other
/// way to a byte. A read outside of the frame is `None`, never a panic.
pub trait Packet {
    /// The `N` bytes that start at `offset`, or `None` where the frame is shorter.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The same offset, below [`OFFSET_LIMIT`], stripped of what is known about it.
    ///
    /// The kernel's verifier walks every way through a program and ends one only where it meets a
    /// state it has seen. Offsets that each way adds up differently would keep the ways apart to
    /// the end, and they multiply. `noise` is any number that was read from the frame and not
    /// compared with anything.
    #[inline(always)]
    fn forget(&self, offset: usize, _noise: u64) -> usize {
        offset
    }
}

/// Above every offset that a parser reaches: four tags, PPPoE, IPv6 and
/// [`MAX_EXTENSION_HEADERS`](crate::parse::MAX_EXTENSION_HEADERS) of 2,048 octets. A power of two.
pub const OFFSET_LIMIT: usize = 0x8000;

impl Packet for [u8] {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// A packet that can be written to, where it lies.
pub trait PacketMut: Packet {
    /// Writes bytes to their place. `None` where the packet is shorter; nothing is written then.
    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;
}

impl PacketMut for [u8] {
    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        *self.get_mut(offset..)?.first_chunk_mut()? = bytes;
        Some(())
    }
}
