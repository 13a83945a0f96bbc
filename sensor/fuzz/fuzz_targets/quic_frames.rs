//! Frames of Initial packets, encrypted as a client would: under the keys of RFC 9001, appendix A.1. The decoder reads
//! them, and the kernel's reader beside it.
#![no_main]

use aes::{
    Aes128,
    cipher::{BlockCipherEncrypt, KeyInit},
};
use aes_gcm::{Aes128Gcm, aead::AeadInOut};
use libfuzzer_sys::fuzz_target;
use sensor::decode::{Progress, name, quic::Initials};
use sensor_ebpf::{
    assembly::Assembly,
    quic::{Opening, Reader, Taken},
    said::{Found, Text, hello},
};

const KEY: u128 = 0x1f369613dd76d5467730efcbe3b1a22d;
const HEADER_KEY: u128 = 0x9f50449e04a0e810283a1e9933adedd2;
/// The last four octets are combined with the packet number.
const IV: [u8; 12] = [
    0xfa, 0x04, 0x4b, 0x2f, 0x42, 0xa3, 0xfd, 0x3b, 0x46, 0xfb, 0x25, 0x5c,
];

fuzz_target!(|packets: Vec<Vec<u8>>| {
    let mut initials = Initials::new();
    let mut opening = Box::new(Opening::EMPTY);
    let mut assembly = Box::new(Assembly::EMPTY);
    for (number, frames) in packets.iter().enumerate() {
        let packet = seal(number as u32, frames);
        let outcome = initials.datagram(true, &packet);
        assert_ne!(outcome, Err(sensor::decode::Failure::Undecryptable));

        let mut datagram = packet.clone();
        let taken = Reader::new(&mut opening, &mut datagram, &mut assembly).read();
        if taken == Taken::Conflict || assembly.flags & Assembly::CONFLICT != 0 {
            // Nobody reads it any more.
            return;
        }
        let message = assembly.message();
        let mut text = Text::default();
        let found = hello::name(message, hello::names(message), &mut text);
        if let Ok(Progress::Complete(decoded)) = outcome {
            match (found, decoded.hello.server_name) {
                (Found::Name, decoded) => assert_eq!(name::host(text.as_octets()), decoded),
                (Found::Nameless, decoded) => assert_eq!(decoded, None),
                // The kernel's reader is strict, and may leave a packet to the decoder.
                (Found::Unread | Found::NoHostName, _) => {}
            }
            return;
        }
    }
});

fn seal(number: u32, frames: &[u8]) -> Vec<u8> {
    let number = number.to_be_bytes();
    let len = (4 + frames.len() + 16) as u32 | 0x8000_0000;
    let id = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
    let header = [
        &[0xc3, 0, 0, 0, 1, 8][..],
        &id,
        &[0, 0],
        &len.to_be_bytes(),
        &number,
    ]
    .concat();
    let mut nonce = IV;
    for (octet, number) in nonce[8..].iter_mut().zip(number) {
        *octet ^= number;
    }
    let mut payload = frames.to_vec();
    let tag = Aes128Gcm::new(&KEY.to_be_bytes().into())
        .encrypt_inout_detached(&nonce.into(), &header, payload.as_mut_slice().into())
        .expect("it is not too long");
    let mut packet = [&header[..], &payload, &tag].concat();
    let mut mask = [0; 16];
    mask.copy_from_slice(&packet[header.len()..][..16]);
    let mut mask = mask.into();
    Aes128::new(&HEADER_KEY.to_be_bytes().into()).encrypt_block(&mut mask);
    packet[0] ^= mask[0] & 0x0f;
    for (octet, mask) in packet[header.len() - 4..].iter_mut().zip(&mask[1..5]) {
        *octet ^= mask;
    }
    packet
}
