//! Headers of DNS messages (RFC 1035, section 4.1.1), by which messages are told from other data.

use super::LOOKED_AT;

const HEADER: usize = 12;
const RESPONSE: u8 = 0x80;
/// A query, a notification (RFC 1996), an update (RFC 2136).
const OPCODES: (u8, u8, u8) = (0, 4, 5);
const LONGEST_LABEL: u8 = 63;
/// As many as a decoder follows.
const MOST_QUESTIONS: u16 = 128;
const MOST_RECORDS: u16 = 1024;

/// The numbers of questions, answers, authorities and further records.
#[inline(always)]
const fn counts(first: &[u8; LOOKED_AT], at: usize) -> [u16; 4] {
    [
        u16::from_be_bytes([first[at + 4], first[at + 5]]),
        u16::from_be_bytes([first[at + 6], first[at + 7]]),
        u16::from_be_bytes([first[at + 8], first[at + 9]]),
        u16::from_be_bytes([first[at + 10], first[at + 11]]),
    ]
}

/// Whether a header behind so many bytes may be one: an operation that exists, and no more
/// questions and records than a decoder follows. A query has few records, whatever they are.
#[inline(always)]
const fn is_header(first: &[u8; LOOKED_AT], at: usize) -> bool {
    const MOST_OF_A_QUERY: u16 = 16;

    let operation = first[at + 2] >> 3 & 0x0f;
    let is_response = first[at + 2] & RESPONSE != 0;
    let [questions, answers, authorities, further] = counts(first, at);
    let most = if is_response || operation != OPCODES.0 {
        MOST_RECORDS
    } else {
        MOST_OF_A_QUERY
    };
    (operation == OPCODES.0 || operation == OPCODES.1 || operation == OPCODES.2)
        && (questions != 0 || is_response)
        && questions <= MOST_QUESTIONS
        && answers <= most
        && authorities <= most
        && further <= most
}

/// Whether a datagram at the port of DNS may be a message of it.
#[inline(always)]
pub(super) const fn is_message(first: &[u8; LOOKED_AT], len: usize) -> bool {
    len >= HEADER && is_header(first, 0)
}

/// Whether a datagram may be a message of multicast DNS: a query that brings the answers that are
/// known has as many records as a response (RFC 6762, section 7.1).
#[inline(always)]
pub(super) const fn is_message_of_any(first: &[u8; LOOKED_AT], len: usize) -> bool {
    let [questions, answers, authorities, further] = counts(first, 0);
    len >= HEADER
        && first[2] >> 3 & 0x0f == OPCODES.0
        && questions <= MOST_QUESTIONS
        && answers <= MOST_RECORDS
        && authorities <= MOST_RECORDS
        && further <= MOST_RECORDS
        && questions | answers | authorities | further != 0
}

/// Whether a datagram at any port may be a question: a query for one name, with no record but that
/// of EDNS (RFC 6891, section 6.1.1), and no bit set that a client leaves clear. The reader of the
/// question looks at the rest.
#[inline(always)]
pub(super) const fn is_question(first: &[u8; LOOKED_AT], len: usize) -> bool {
    /// The shortest: the root, its type and its class.
    const SHORTEST: usize = HEADER + 5;
    const RECURSION_DESIRED: u8 = 0x01;
    const AUTHENTIC_AND_UNCHECKED: u8 = 0x30;

    let [questions, answers, authorities, further] = counts(first, 0);
    len >= SHORTEST
        && first[2] & !RECURSION_DESIRED == 0
        && first[3] & !AUTHENTIC_AND_UNCHECKED == 0
        && questions == 1
        && answers | authorities == 0
        && further <= 1
        && first[HEADER] <= LONGEST_LABEL
}

/// Whether a datagram at any port may be the answer to a question.
#[inline(always)]
pub(super) const fn is_answer(first: &[u8; LOOKED_AT], len: usize) -> bool {
    const SHORTEST: usize = HEADER + 5;
    const OPERATION: u8 = 0x78;
    const RESERVED: u8 = 0x40;

    let [questions, answers, authorities, further] = counts(first, 0);
    len >= SHORTEST
        && first[2] & RESPONSE != 0
        && first[2] & OPERATION == 0
        && first[3] & RESERVED == 0
        && questions == 1
        && (answers | authorities | further) < 0x100
        && first[HEADER] <= LONGEST_LABEL
}

/// Whether a payload with these first bytes and `len` bytes in all may be a stream of DNS messages, each behind
/// its length (RFC 1035, section 4.2.2): asked of streams at the port of DNS.
#[inline(always)]
pub const fn may_be_framed(first: &[u8; LOOKED_AT], len: usize) -> bool {
    const FRAME: usize = 2;
    const LARGEST_FIRST: u8 = 0x0f;

    let framed = u16::from_be_bytes([first[0], first[1]]) as usize;
    if len < FRAME {
        return first[0] <= LARGEST_FIRST;
    }
    let is_frame = framed >= HEADER;
    if len < FRAME + HEADER {
        return is_frame && first[0] <= LARGEST_FIRST;
    }
    is_frame && is_header(first, FRAME)
}
