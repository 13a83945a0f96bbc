//! A reader of bytes from front to back: every call takes the bytes that it returns, and returns `None` if they
//! are not there.

/// The bytes left to read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (&octets, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(octets)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[octet]| octet)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Octets behind their number, which takes one octet (RFC 8446, section 3.4).
    pub(super) fn vector8(&mut self) -> Option<Self> {
        let len = self.u8()?;
        self.take(len.into()).map(Self)
    }

    /// Octets behind their number, which takes two octets.
    pub(super) fn vector16(&mut self) -> Option<Self> {
        let len = self.u16()?;
        self.take(len.into()).map(Self)
    }

    /// A number of one, two, four or eight octets (RFC 9000, section 16).
    pub(super) fn varint(&mut self) -> Option<u64> {
        let first = self.u8()?;
        let rest = self.take((1 << (first >> 6)) - 1)?;
        let start = u64::from(first & 0x3f);
        Some(
            rest.iter()
                .fold(start, |number, octet| number << 8 | u64::from(*octet)),
        )
    }

    /// A number that says how much follows.
    pub(super) fn varint_len(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9000, appendix A.1.
    #[test]
    fn numbers_of_any_length() {
        for (octets, number) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x40, 0x25], 37),
            (&[0x25], 37),
        ] {
            assert_eq!(Reader(octets).varint(), Some(number));
            assert_eq!(Reader(&octets[..octets.len() - 1]).varint(), None);
        }
    }
}
