//! Reading a frame, wherever it lies.

/// Bytes of one frame, from its first Ethernet octet on.
///
/// The kernel implements it over packet memory, the host over a slice; the parser knows no other
/// way to a byte. A read outside of the frame is `None`, never a panic.
pub trait Packet {
    /// The `N` bytes that start at `offset`, or `None` where the frame is shorter.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Packet for [u8] {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}
