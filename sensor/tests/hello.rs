//! Real post-quantum hellos, cut into pieces in every way.

use std::ops::Range;

use proptest::prelude::*;
use rustls::server::Acceptor;
use sensor::decode::{
    Progress,
    stream::Stream,
    tls::{self, Transport},
};

/// The handshake messages and whom they ask for; `data/README.md` says where they are from.
const HELLOS: [(&[u8], &str); 4] = [
    (
        include_bytes!("data/hello-suricata-debug-s13.bin"),
        "rr4---sn-5hne6nzy.googlevideo.com",
    ),
    (
        include_bytes!("data/hello-zeek-39264-rand.bin"),
        "tr6.snapchat.com",
    ),
    (
        include_bytes!("data/hello-zeek-fragmented-crypto.bin"),
        "googleads.g.doubleclick.net",
    ),
    (
        include_bytes!("data/hello-zeek-google-de-51833.bin"),
        "www.google.de",
    ),
];

const INITIAL: u32 = u32::MAX - 1000;
const FIRST: u32 = INITIAL.wrapping_add(1);

/// Records with at most so many octets of the message each.
fn records(hello: &[u8], size: usize) -> Vec<u8> {
    let record =
        |chunk: &[u8]| [&[22, 3, 1], &(chunk.len() as u16).to_be_bytes()[..], chunk].concat();
    hello.chunks(size).flat_map(record).collect()
}

/// The name that the product finds: as soon as the stream has it, and none where the stream
/// conflicts.
fn name(initial: Option<u32>, octets: &[u8], pieces: &[Range<usize>]) -> Option<String> {
    let mut stream = Stream::new(initial);
    for piece in pieces {
        stream.segment(
            FIRST.wrapping_add(piece.start as u32),
            &octets[piece.clone()],
        );
    }
    match tls::client_hello(stream.contiguous()) {
        Ok(Progress::Complete(hello)) if !stream.conflict() => hello.server_name,
        _ => None,
    }
}

#[test]
fn two_segments_cut_anywhere_in_both_orders() {
    for (hello, expected) in HELLOS {
        for size in [hello.len(), 700] {
            let octets = records(hello, size);
            for cut in 0..=octets.len() {
                let [first, second] = [0..cut, cut..octets.len()];
                for pieces in [[first.clone(), second.clone()], [second, first]] {
                    for initial in [Some(INITIAL), None] {
                        let name = name(initial, &octets, &pieces);
                        assert_eq!(name.as_deref(), Some(expected), "cut at {cut}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_cut_off_is_incomplete() {
    for (hello, _) in HELLOS {
        for cut in 0..hello.len() {
            let cut = tls::handshake(&hello[..cut], Transport::Quic);
            assert_eq!(cut, Ok(Progress::Incomplete));
        }
        let octets = records(hello, 700);
        for cut in 0..octets.len() {
            assert_eq!(tls::client_hello(&octets[..cut]), Ok(Progress::Incomplete));
            assert_eq!(tls::looks_like(&octets[..cut]), cut > 0);
        }
    }
}

#[test]
fn a_hole_is_no_name() {
    for (hello, _) in HELLOS {
        let octets = records(hello, hello.len());
        for hole in 0..octets.len() {
            let pieces = [0..hole, hole + 1..octets.len()];
            assert_eq!(
                name(Some(INITIAL), &octets, &pieces),
                None,
                "hole at {hole}"
            );
        }
    }
}

#[test]
fn everything_else_in_them_is_read_too() {
    for (hello, _) in HELLOS {
        let Ok(Progress::Complete(hello)) = tls::handshake(hello, Transport::Quic) else {
            panic!("it is a whole hello");
        };
        assert_eq!(hello.version, Some(0x0304));
        assert!(!hello.alpn.is_empty());
    }
}

/// The name that rustls, as a server, reads from the same octets.
fn name_by_rustls(octets: &[u8]) -> Option<String> {
    let mut acceptor = Acceptor::default();
    let mut rest = octets;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            return accepted.client_hello().server_name().map(str::to_owned);
        }
    }
    None
}

/// Sizes of records, one after the other, over and over.
fn split(hello: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = hello;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, behind) = rest.split_at((*size).min(rest.len()));
        octets.extend(records(chunk, chunk.len()));
        rest = behind;
    }
    octets
}

/// With any one bit of a hello wrong, the name found is the one that rustls reads.
#[test]
fn rustls_agrees_on_damaged_hellos() {
    let (hello, _) = HELLOS[0];
    let mut taken = 0;
    for bit in 0..hello.len() * 8 {
        let mut hello = hello.to_vec();
        hello[bit / 8] ^= 1 << (bit % 8);
        let octets = records(&hello, hello.len());
        if let Some(theirs) = name_by_rustls(&octets) {
            let ours = name(None, &octets, std::slice::from_ref(&(0..octets.len())));
            assert_eq!(ours, Some(theirs), "bit {} of octet {}", bit % 8, bit / 8);
            taken += 1;
        }
    }
    assert!(taken > 1000);
}

proptest! {
    #[test]
    fn three_pieces_that_overlap_in_any_order(
        which in 0..HELLOS.len(),
        cuts in [any::<prop::sample::Index>(), any::<prop::sample::Index>()],
        overlaps in [0_usize..300, 0_usize..300],
        order in Just([0, 1, 2]).prop_shuffle(),
        syn: bool,
    ) {
        let (hello, expected) = HELLOS[which];
        let octets = records(hello, hello.len());
        let mut cuts = cuts.map(|cut| cut.index(octets.len()));
        cuts.sort_unstable();
        let [first, second] = cuts;
        let pieces = [
            0..first,
            first.saturating_sub(overlaps[0])..second,
            second.saturating_sub(overlaps[1])..octets.len(),
        ];
        let pieces = order.map(|at| pieces[at].clone());
        let name = name(syn.then_some(INITIAL), &octets, &pieces);
        prop_assert_eq!(name.as_deref(), Some(expected));
    }

    #[test]
    fn octets_that_disagree_are_no_name(
        which in 0..HELLOS.len(),
        at: prop::sample::Index,
        other in 1_u8..,
        len in 7_usize..200,
    ) {
        let (hello, _) = HELLOS[which];
        let octets = records(hello, hello.len());
        let at = at.index(octets.len() - len);
        let mut stream = Stream::new(Some(INITIAL));
        let mut piece = octets[at..at + len].to_vec();
        piece[len / 2] ^= other;
        stream.segment(FIRST.wrapping_add(at as u32), &piece);
        stream.segment(FIRST, &octets);
        prop_assert!(stream.conflict());
    }

    #[test]
    fn rustls_agrees_on_records_of_any_size(
        which in 0..HELLOS.len(),
        sizes in prop::collection::vec(1_usize..3000, 1..8),
    ) {
        let (hello, expected) = HELLOS[which];
        let octets = split(hello, &sizes);
        let ours = name(None, &octets, std::slice::from_ref(&(0..octets.len())));
        prop_assert_eq!(ours.as_deref(), Some(expected));
        let theirs = name_by_rustls(&octets);
        prop_assert_eq!(theirs.as_deref(), Some(expected));
    }
}
