//! Answers to DNS questions that are refused.

use super::{
    ANSWER_CAPACITY, Ends, Refused, To,
    headers::{UDP_LEN, link_header, network_header},
    put,
};
use crate::{packet::Packet, parse::protocol, said::question::HEADER_LEN};

/// How a refused DNS question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such name (RFC 2308, section 2.1).
    NxDomain,
    /// Its address is 0.0.0.0 or ::, and of other types there is nothing.
    Zero,
}

/// How long a resolver may keep a refusal, in seconds: a name that is allowed again is to be found soon.
pub const ANSWER_TTL: u32 = 10;

/// The size of messages that an answer says we take (RFC 9715, section 3).
const EDNS_SIZE: u16 = 1_232;

/// The place in `out` of the message that answers a DNS question: behind the headers that [`answer_question`]
/// writes. `None` where no answer is due.
#[inline(always)]
pub fn place_of_message(refused: &Refused) -> Option<usize> {
    match refused.protocol {
        protocol::UDP => Some(refused.network_offset() + refused.network_len() + UDP_LEN),
        _ => None,
    }
}

/// Writes the headers of a UDP frame before a DNS message of so many bytes that lies in `out` already, all but
/// what [`seal`](super::seal) adds. Gives the length of the whole frame in bytes.
#[inline(always)]
pub fn answer_question<P: Packet + ?Sized>(
    packet: &P,
    refused: &Refused,
    message_len: usize,
    out: &mut [u8; ANSWER_CAPACITY],
) -> Option<usize> {
    let network_len = refused.network_len();
    let udp = refused.network_offset() + network_len;
    let [s0, s1, d0, d1] = packet.load(refused.transport_offset())?;
    let len = UDP_LEN + message_len;
    let [h, l] = (len as u16).to_be_bytes();
    put(out, udp, [d0, d1, s0, s1])?;
    put(out, udp + 4, [h, l, 0, 0])?;
    let ends = Ends::of(refused, To::Sender);
    network_header(refused, &ends, out, protocol::UDP, len)?;
    link_header(packet, refused, &ends, out, network_len + len)?;
    Some(udp + len)
}

/// The longest name as text (RFC 1035, section 3.1, less the two octets that frame it).
const LONGEST_NAME: usize = 253;

/// Octets of a question whose name has so many as text; the root alone is one.
#[inline(always)]
const fn question_len(name_len: usize) -> usize {
    let name = if name_len == 0 { 1 } else { name_len + 2 };
    name + 4
}

/// Copies the question of `message`, whose name has so many octets as text, to where it belongs in a
/// DNS message at a place of `out`: as it was asked, letter by letter.
#[inline(always)]
pub fn echo_question<M: Packet + ?Sized>(
    message: &M,
    name_len: usize,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<()> {
    let len = question_len(name_len);
    let mut done = 0;
    while done < LONGEST_NAME + 6 {
        if done >= len {
            break;
        }
        let [octet] = message.load::<1>(HEADER_LEN + done)?;
        put(out, at + HEADER_LEN + done, [octet])?;
        done += 1;
    }
    Some(())
}

/// Writes the DNS message that refuses the question of `message`, whose name has so many octets as
/// text, at a place of `out`, around the question that [`echo_question`] puts there, and gives its
/// length in octets.
///
/// Where the question came with EDNS, the answer has it too (RFC 6891, section 6.1.1). A refusal without address carries the SOA record that lets resolvers remember it
/// (RFC 2308, section 3).
#[inline(always)]
pub fn dns_message<M: Packet + ?Sized>(
    message: &M,
    name_len: usize,
    refusal: Refusal,
    out: &mut [u8; ANSWER_CAPACITY],
    at: usize,
) -> Option<usize> {
    const RECURSION_DESIRED: u8 = 1;
    const RESPONSE: u8 = 0x80;
    const RECURSION_AVAILABLE: u8 = 0x80;
    const CHECKING_DISABLED: u8 = 0x10;
    const NX_DOMAIN: u8 = 3;
    const A: u16 = 1;
    const AAAA: u16 = 28;
    const SOA: [u8; 2] = [0, 6];
    const OPT: [u8; 3] = [0, 0, 41];
    const DNSSEC_OK: u8 = 0x80;
    /// A pointer to the name of the question.
    const NAME: [u8; 2] = [0xc0, HEADER_LEN as u8];
    const INTERNET: [u8; 2] = [0, 1];

    if name_len > LONGEST_NAME {
        return None;
    }
    let header: [u8; HEADER_LEN] = message.load(0)?;
    let [id_high, id_low, flags, more_flags, ..] = header;
    let question_len = question_len(name_len);
    let end = HEADER_LEN + question_len;
    let kind = u16::from_be_bytes(message.load(end - 4)?);
    let ttl = ANSWER_TTL.to_be_bytes();
    let mut written = at + end;
    let (answers, authorities) = match (refusal, kind) {
        (Refusal::Zero, A | AAAA) => {
            let len = if kind == A { 4 } else { 16 };
            put(out, written, NAME)?;
            put(out, written + 2, kind.to_be_bytes())?;
            put(out, written + 4, INTERNET)?;
            put(out, written + 6, ttl)?;
            put(out, written + 10, [0, len as u8])?;
            put(out, written + 12, [0; 16])?;
            written += 12 + len;
            (1, 0)
        }
        _ => {
            // Of no server in particular: both names are the root.
            put(out, written, NAME)?;
            put(out, written + 2, SOA)?;
            put(out, written + 4, INTERNET)?;
            put(out, written + 6, ttl)?;
            put(out, written + 10, [0, 22, 0, 0])?;
            for (number, value) in [1, 3_600, 600, 86_400, ANSWER_TTL].into_iter().enumerate() {
                put(out, written + 14 + number * 4, value.to_be_bytes())?;
            }
            written += 34;
            (0, 1)
        }
    };
    let mut additional = 0;
    if let Some(edns) = message.load::<11>(end)
        && [edns[0], edns[1], edns[2]] == OPT
    {
        let [size_high, size_low] = EDNS_SIZE.to_be_bytes();
        put(out, written, [0, 0, 41, size_high, size_low, 0, 0])?;
        put(out, written + 7, [edns[7] & DNSSEC_OK, 0, 0, 0])?;
        written += 11;
        additional = 1;
    }
    let code = match refusal {
        Refusal::NxDomain => NX_DOMAIN,
        Refusal::Zero => 0,
    };
    put(
        out,
        at,
        [
            id_high,
            id_low,
            RESPONSE | flags & RECURSION_DESIRED,
            RECURSION_AVAILABLE | more_flags & CHECKING_DISABLED | code,
            0,
            1,
            0,
            answers,
            0,
            authorities,
            0,
            additional,
        ],
    )?;
    Some(written - at)
}
