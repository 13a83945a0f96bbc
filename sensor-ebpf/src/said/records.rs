//! The records of TLS (RFC 8446, section 5.1) that a hello is cut into.

use crate::packet::Packet;

/// The most records of one hello that are looked through.
pub const MOST: usize = 8;

/// Bytes of a record's header.
const HEADER: usize = 5;

/// A header as if all of the handshake stood in one record.
pub const ONE: [u8; HEADER] = [22, 3, 1, 0xff, 0xff];

/// Copies bytes of a handshake that is cut into records, from `at` on and at most `most`, as if it stood in one
/// record: behind [`ONE`], which the caller writes where `at` is 0, the records without their headers. `copy` gets
/// where bytes stand in the stream, their place behind `at`, and how many they are.
///
/// Of the stream, `there` bytes are there. Gives how many of those that were asked for are.
#[inline(always)]
pub fn copy<P: Packet + ?Sized>(
    stream: &P,
    there: usize,
    at: usize,
    most: usize,
    mut copy: impl FnMut(usize, usize, usize),
) -> usize {
    const HANDSHAKE: u8 = 22;
    const MAJOR_VERSION: u8 = 3;

    // Where the record's header stands in the stream, and its bytes in the one record.
    let mut header = 0;
    let mut place = HEADER;
    let mut end = if at == 0 { HEADER } else { 0 };
    for _ in 0..MOST {
        let Some([kind, major, _, high, low]) = stream.load::<HEADER>(header) else {
            break;
        };
        if kind != HANDSHAKE || major != MAJOR_VERSION {
            break;
        }
        let len = u16::from_be_bytes([high, low]) as usize;
        let before = at.saturating_sub(place);
        let to = place.saturating_sub(at);
        if before < len && to < most {
            let room = most - to;
            let wanted = len - before;
            let wanted = if wanted > room { room } else { wanted };
            let from = header + HEADER + before;
            let left = there.saturating_sub(from);
            let wanted = if wanted > left { left } else { wanted };
            copy(from, to, wanted);
            end = to + wanted;
        }
        header = stream.forget(header + HEADER + len, place as u64);
        place = stream.forget(place + len, header as u64);
    }
    end
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// Bytes in records of these lengths.
    fn records(handshake: &[u8], lens: &[usize]) -> Vec<u8> {
        let mut stream = Vec::new();
        let mut rest = handshake;
        for len in lens {
            let (record, behind) = rest.split_at(*len);
            stream.extend([22, 3, 3]);
            stream.extend((record.len() as u16).to_be_bytes());
            stream.extend(record);
            rest = behind;
        }
        stream
    }

    #[test]
    fn records_are_read_as_one() {
        let handshake: Vec<u8> = (0..900).map(|at| (at / 7) as u8).collect();
        let one = [&ONE[..], &handshake].concat();
        for lens in [&[900][..], &[1, 899], &[100, 1, 300, 499], &[0, 4, 896]] {
            let stream = records(&handshake, lens);
            for there in (0..=stream.len()).step_by(7).chain([stream.len()]) {
                for at in [0, 5, 6, 104, 105, 106, 400, 700, 904] {
                    let mut window = std::vec![0xee; 300];
                    window[..5].copy_from_slice(&ONE);
                    let len = copy(&stream[..there], there, at, 300, |from, to, len| {
                        window[to..to + len].copy_from_slice(&stream[from..from + len]);
                    });
                    if len > 0 {
                        let expected = one.get(at..at + len).expect("no more than there is");
                        assert_eq!(&window[..len], expected, "{lens:?} {there} {at}");
                    }
                    if there == stream.len() {
                        assert_eq!(len, 300.min(905 - at), "{lens:?} {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_record_of_a_handshake_ends_it() {
        let handshake = [7; 60];
        let mut stream = records(&handshake, &[20, 20, 20]);
        stream[25] = 23;
        let len = copy(&stream[..], stream.len(), 0, 500, |_, _, _| {});
        assert_eq!(len, 25);
        let many = records(&handshake, &[6; 10]);
        let len = copy(&many[..], many.len(), 0, 500, |_, _, _| {});
        assert_eq!(len, 5 + 6 * MOST);
    }
}
