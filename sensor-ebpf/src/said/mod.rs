//! What the start of a payload says: the name of whom it is for.
//!
//! The kernel reads with these what lies whole in one segment, from a copy of the payload. What lies
//! in several, and what is encrypted, user space reads with decoders of its own; so these may be
//! strict, and leave to it whatever is not plain.

pub mod hello;
pub mod initial;
pub mod question;
pub mod request;

use crate::{name::NAME_CAPACITY, wire};

/// A name as it was said: in lower case, labels separated by dots, without a dot at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Text {
    /// Its octets.
    pub octets: [u8; NAME_CAPACITY],
    /// How many count, at most 255.
    pub len: u64,
}

wire! { Text { octets: [u8; NAME_CAPACITY], len: u64 } }

impl Default for Text {
    fn default() -> Self {
        Self {
            octets: [0; NAME_CAPACITY],
            len: 0,
        }
    }
}

/// What was found in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Found {
    /// A name.
    Name = 1,
    /// All that could say a name is here, and there is none.
    Nameless = 2,
    /// It cannot be told from this payload alone.
    Unread = 3,
}

/// Where a name stands in a payload. Finding it and copying it are two steps, because the verifier
/// would go through the second once for each way through the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind so many octets.
    At(usize),
    /// Nowhere.
    Nowhere,
    /// Not to be told from this payload alone.
    Unknown,
}

impl Place {
    /// As a number: what an octet's place in a payload can never be stands for the others.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        match self {
            Self::At(at) => at as u32,
            Self::Nowhere => u32::MAX,
            Self::Unknown => u32::MAX - 1,
        }
    }

    /// The place with this number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            u32::MAX => Self::Nowhere,
            0xffff_fffe => Self::Unknown,
            at => Self::At(at as usize),
        }
    }
}

impl Text {
    /// The name.
    pub fn as_octets(&self) -> &[u8] {
        self.octets.get(..self.len as usize).unwrap_or_default()
    }

    /// Writes one octet.
    #[inline(always)]
    fn put(&mut self, at: usize, octet: u8) {
        if at < NAME_CAPACITY {
            self.octets[at] = lower(octet);
        }
    }

    /// Says how many octets were written, and takes a dot at the end away.
    #[inline(always)]
    fn end(&mut self, len: usize) {
        let dot = len > 0 && self.octets[(len - 1) % NAME_CAPACITY] == b'.';
        self.len = len as u64 - dot as u64;
    }
}

/// The octet as a lower-case letter, where it is a letter.
///
/// Without a branch: the verifier goes both ways of each, at every octet of a name.
#[inline(always)]
const fn lower(octet: u8) -> u8 {
    let from_a = (octet as u32).wrapping_sub(b'A' as u32);
    let is_upper = (from_a.wrapping_sub(26) & !from_a) >> 31;
    octet | (is_upper as u8) << 5
}

/// 1 where a number is 0, 0 where it is another below 2^63. Without a branch, as [`lower`].
#[inline(always)]
const fn is_zero(number: u64) -> u64 {
    number.wrapping_sub(1) >> 63
}

/// 1 where an octet is below another, or 0. Without a branch, as [`lower`].
#[inline(always)]
const fn is_below(octet: u8, limit: u8) -> u64 {
    (octet as u64).wrapping_sub(limit as u64) >> 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_lowered_and_nothing_else() {
        for octet in 0..=u8::MAX {
            assert_eq!(lower(octet), octet.to_ascii_lowercase());
        }
    }

    #[test]
    fn comparisons_without_a_branch_are_comparisons() {
        for octet in 0..=u8::MAX {
            assert_eq!(is_zero((octet ^ b':') as u64) == 1, octet == b':');
            assert_eq!(is_below(octet, 64) == 1, octet < 64);
        }
        assert_eq!(is_zero(i64::MAX as u64), 0);
    }
}
