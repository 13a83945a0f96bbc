//! DNS questions (RFC 1035, section 4.1).

use super::{Found, Text};
use crate::packet::Packet;

/// Octets of a message's header.
pub const HEADER_LEN: usize = 12;

/// The longest name with its length octets (RFC 1035, section 3.1).
const LONGEST: usize = 255;

/// A label that is longer is a pointer to another place, or of no meaning (section 4.1.4).
const LONGEST_LABEL: u8 = 63;

/// Reads the name of the only question of a message that begins at `start`.
///
/// Answers, and messages that are no plain query, say no name. Several questions, pointers in the question,
/// dots inside of labels and names that do not end are unread: no client asks so (RFC 9619).
#[inline(always)]
pub fn read<P: Packet + ?Sized>(message: &P, start: usize, text: &mut Text) -> Found {
    const RESPONSE_OR_OPCODE: u8 = 0xf8;

    let Some(header) = message.load::<HEADER_LEN>(start) else {
        return Found::Unread;
    };
    let [id, _, flags, _, questions_high, questions_low, ..] = header;
    if flags & RESPONSE_OR_OPCODE != 0 {
        return Found::Nameless;
    }
    if questions_high != 0 || questions_low != 1 {
        return Found::Unread;
    }
    let mut rest_of_label = 0;
    let mut at = 0;
    while at < LONGEST {
        let Some([octet]) = message.load::<1>(start + HEADER_LEN + at) else {
            return Found::Unread;
        };
        let mut octet = octet;
        if rest_of_label != 0 {
            rest_of_label -= 1;
            if octet == b'.' {
                // A dot inside of a label, which no listed name has: it must not part the label.
                return Found::Unread;
            }
        } else {
            if octet == 0 {
                text.len = at.saturating_sub(1) as u64;
                return Found::Name;
            }
            if octet > LONGEST_LABEL {
                return Found::Unread;
            }
            rest_of_label = octet as usize;
            octet = b'.';
        }
        rest_of_label = message.forget(rest_of_label, id as u64);
        // The text has no dot before its first label: one octet behind.
        if at > 0 {
            text.put(at - 1, octet);
        }
        at += 1;
    }
    Found::Unread
}

/// Whether a message of `len` bytes ends behind its only question, whose name has so many characters
/// as text, or behind the record of EDNS that follows it (RFC 6891, section 6.1.2).
///
/// A payload that is no DNS does not look so, which is why a question is known at any port.
#[inline(always)]
pub fn is_exact<P: Packet + ?Sized>(message: &P, name_len: usize, len: usize) -> bool {
    const FURTHER: usize = 10;
    const OPT: [u8; 3] = [0, 0, 41];
    const RECORD: usize = 11;
    /// Internet, chaos, any.
    const CLASSES: [u16; 3] = [1, 3, 255];

    // Each label has its length before it, and the last is empty; the root has no other.
    let name = if name_len == 0 { 1 } else { name_len + 2 };
    let (Some(further), Some([_, _, class_high, class_low])) = (
        message.load::<2>(FURTHER),
        message.load::<4>(HEADER_LEN + name),
    ) else {
        return false;
    };
    let class = u16::from_be_bytes([class_high, class_low]);
    if class != CLASSES[0] && class != CLASSES[1] && class != CLASSES[2] {
        return false;
    }
    let end = HEADER_LEN + name + 4;
    if further == [0, 0] {
        return end == len;
    }
    let Some([root, high, low, .., len_high, len_low]) = message.load::<RECORD>(end) else {
        return false;
    };
    let data = u16::from_be_bytes([len_high, len_low]) as usize;
    further == [0, 1] && [root, high, low] == OPT && end + RECORD + data == len
}

/// Bytes of a stream in which messages are looked for.
pub const SEARCHED: usize = 4_096;

/// Bytes of a message in a stream in which the name of its only question ends, with the length before
/// the message.
pub const FRAMED_NAME: usize = 2 + HEADER_LEN + LONGEST + 1;

/// Where the message behind the one at `start` begins in a stream: each stands behind two bytes of length
/// (RFC 1035, section 4.2.2).
#[inline(always)]
pub fn behind<P: Packet + ?Sized>(stream: &P, start: usize) -> Option<usize> {
    let len = u16::from_be_bytes(stream.load::<2>(start)?) as usize;
    Some(stream.forget(start + 2 + len, len as u64))
}

/// Reads the name of the only question of the message in a stream whose length stands at `start`.
#[inline(always)]
pub fn read_framed<P: Packet + ?Sized>(stream: &P, start: usize, text: &mut Text) -> Found {
    match read(stream, start + 2, text) {
        Found::Name if !is_within(stream, start, text.len) => Found::Unread,
        found => found,
    }
}

/// Whether a name of so many characters, which was read behind the length at `start`, is of the message
/// that has this length, and not of the one behind it.
#[inline(always)]
pub fn is_within<P: Packet + ?Sized>(stream: &P, start: usize, name_len: u64) -> bool {
    /// Octets that frame the text: the length of the first label, and the end.
    const FRAME: u64 = 2;

    match stream.load::<2>(start) {
        Some(len) => HEADER_LEN as u64 + name_len + FRAME <= u16::from_be_bytes(len) as u64,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn message(questions: u8, name: &[u8]) -> Vec<u8> {
        let mut message = std::vec![0x12, 0x34, 1, 0, 0, questions, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(name);
        message.extend_from_slice(&[0, 1, 0, 1]);
        message
    }

    #[track_caller]
    fn check(message: &[u8], found: Found, name: &str) {
        let mut text = Text::default();
        assert_eq!(read(message, 0, &mut text), found);
        if found == Found::Name {
            assert_eq!(text.as_octets(), name.as_bytes());
        }
        for end in 0..message.len() - 4 {
            assert_ne!(read(&message[..end], 0, &mut text), Found::Name, "{end}");
        }
    }

    #[test]
    fn the_name_of_a_question_is_read_in_lower_case() {
        check(
            &message(1, b"\x03WwW\x07eXample\0"),
            Found::Name,
            "www.example",
        );
        check(&message(1, b"\x03a.b\x01c\0"), Found::Unread, "");
        check(&message(2, b"\x01a\0"), Found::Unread, "");
        check(&message(1, b"\x01a\xc0\x0c"), Found::Unread, "");
        check(&message(1, &[1; 300]), Found::Unread, "");
    }

    #[test]
    fn a_question_ends_with_itself_or_with_edns() {
        let exact = |message: &[u8]| {
            let mut text = Text::default();
            read(message, 0, &mut text) == Found::Name
                && is_exact(message, text.len as usize, message.len())
        };
        for name in [&b"\0"[..], b"\x01a\0", b"\x03www\x07example\0"] {
            let plain = message(1, name);
            assert!(exact(&plain));
            assert!(!exact(&[&plain[..], b"x"].concat()));
            let mut with_edns = plain.clone();
            with_edns[11] = 1;
            assert!(!exact(&with_edns));
            with_edns.extend(b"\0\0\x29\x04\xd0\0\0\0\0\0\x03abc");
            assert!(exact(&with_edns));
            for end in 0..with_edns.len() {
                assert!(!exact(&with_edns[..end]), "{end}");
            }
            with_edns.push(0);
            assert!(!exact(&with_edns));
            let mut odd = plain.clone();
            *odd.last_mut().expect("a class") = 9;
            assert!(!exact(&odd));
        }
    }

    #[test]
    fn the_longest_name_is_read() {
        let label = [&[63_u8][..], &[b'x'; 63]].concat();
        let name = [&label[..], &label, &label, &[61], &[b'y'; 61], &[0]].concat();
        assert_eq!(name.len(), LONGEST);
        let mut text = Text::default();
        assert_eq!(read(&message(1, &name)[..], 0, &mut text), Found::Name);
        assert_eq!(text.len, 253);
    }

    /// The bytes behind are another message: a server reads no name in the first.
    #[test]
    fn a_name_does_not_reach_beyond_its_message() {
        let message = message(1, b"\x01a\x07example\0");
        for len in 0..=message.len() + 1 {
            let framed = [&(len as u16).to_be_bytes()[..], &message].concat();
            let found = match len >= HEADER_LEN + 11 {
                true => Found::Name,
                false => Found::Unread,
            };
            let mut text = Text::default();
            assert_eq!(read_framed(&framed[..], 0, &mut text), found, "{len}");
        }
    }

    #[test]
    fn messages_stand_one_behind_the_other() {
        let one = message(1, b"\x01a\0");
        let two = message(1, b"\x01b\0");
        let frame = |message: &[u8]| [&(message.len() as u16).to_be_bytes()[..], message].concat();
        let stream = [frame(&one), frame(&two)].concat();
        let start = behind(&stream[..], 0).expect("a length");
        let mut text = Text::default();
        assert_eq!(read_framed(&stream[..], start, &mut text), Found::Name);
        assert_eq!(text.as_octets(), b"b");
        assert_eq!(behind(&stream[..], start), Some(stream.len()));
        assert_eq!(behind(&stream[..], stream.len()), None);
    }

    #[test]
    fn an_answer_says_nothing() {
        let mut answer = message(1, b"\x01a\0");
        answer[2] = 0x81;
        assert_eq!(read(&answer[..], 0, &mut Text::default()), Found::Nameless);
    }
}
