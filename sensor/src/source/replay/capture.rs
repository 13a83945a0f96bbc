//! Capture files: pcap and pcapng, in either byte order, one packet after the other.
//!
//! A file is read once from its start to its end, and never held as a whole.

use std::{io::Read, ops::ControlFlow};

use pcap_parser::{
    Block, InterfaceDescriptionBlock, PcapBlockOwned, PcapError, UnknownBlock, create_reader,
    traits::PcapNGPacketBlock as _,
};

/// A packet as it stands in a capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Captured<'a> {
    /// Microseconds since the Unix epoch.
    pub at: u64,
    /// The type of its first octets: a number of the registry of link types
    /// (draft-ietf-opsawg-pcaplinktype).
    pub link: u32,
    /// The octets that were captured.
    pub octets: &'a [u8],
    /// Octets that the packet had on its link.
    pub original_len: u32,
}

/// Why a capture file could not be read to its end. The packets read before stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
    /// Not one of ours.
    #[error("this is no capture file: it starts neither as pcap nor as pcapng")]
    NoCapture,
    /// It was cut, or is still being written.
    #[error("the file ends in the middle of a packet, after {packets} whole ones")]
    CutOff {
        /// Packets before.
        packets: u64,
    },
    /// A block whose fields contradict each other.
    #[error("the file is damaged behind packet {packets}; the rest of it was not read")]
    Malformed {
        /// Packets before.
        packets: u64,
    },
    /// Longer than any packet.
    #[error(
        "the file is damaged behind packet {packets}: what follows claims to be longer than \
         {MAX_BLOCK} bytes; the rest of it was not read"
    )]
    TooLong {
        /// Packets before.
        packets: u64,
    },
    /// The system did not give the octets.
    #[error("the file could not be read any further than packet {packets}")]
    Unreadable {
        /// Packets before.
        packets: u64,
    },
}

/// Octets that are asked of the file at once.
const BUFFER: usize = 64 * 1024;

/// The longest block that is read: no packet is longer than 256 KiB, but comments and keys may be.
const MAX_BLOCK: usize = 16 * 1024 * 1024;

/// Reads a capture file and gives its packets, in the order of the file, until `each` breaks.
///
/// # Errors
///
/// Where the file ends too early or contradicts itself; every packet before was given.
pub(super) fn read(
    input: impl Read + Send,
    mut each: impl FnMut(Captured<'_>) -> ControlFlow<()>,
) -> Result<(), Damage> {
    let mut reader = match create_reader(BUFFER, input) {
        Ok(reader) => reader,
        Err(PcapError::Eof) => return Err(Damage::Empty),
        Err(PcapError::ReadError) => return Err(Damage::Unreadable { packets: 0 }),
        Err(_) => return Err(Damage::NoCapture),
    };
    let mut file = File::default();
    let mut capacity = BUFFER;
    loop {
        let packets = file.packets;
        let exhausted = reader.reader_exhausted();
        match reader.next() {
            Ok((len, block)) => {
                let flow = match file.packet(&block) {
                    Ok(Some(captured)) => {
                        file.packets += 1;
                        file.last = captured.at;
                        each(captured)
                    }
                    Ok(None) => ControlFlow::Continue(()),
                    Err(damage) => return Err(damage),
                };
                if flow.is_break() {
                    return Ok(());
                }
                reader.consume(len);
            }
            Err(PcapError::Eof) => return Ok(()),
            Err(PcapError::Incomplete(_)) if !exhausted => {
                refill(&mut *reader, packets)?;
            }
            Err(PcapError::Incomplete(_) | PcapError::UnexpectedEof) => {
                return Err(Damage::CutOff { packets });
            }
            Err(PcapError::BufferTooSmall) if capacity >= MAX_BLOCK => {
                return Err(Damage::TooLong { packets });
            }
            Err(PcapError::BufferTooSmall) => {
                capacity *= 4;
                reader.grow(capacity);
                refill(&mut *reader, packets)?;
            }
            Err(PcapError::ReadError) => return Err(Damage::Unreadable { packets }),
            Err(_) => return Err(Damage::Malformed { packets }),
        }
    }
}

fn refill(
    reader: &mut dyn pcap_parser::traits::PcapReaderIterator,
    packets: u64,
) -> Result<(), Damage> {
    let before = reader.data().len();
    reader
        .refill()
        .map_err(|_| Damage::Unreadable { packets })?;
    // A buffer that is full of one block that never ends would be refilled for ever.
    if reader.data().len() == before && !reader.reader_exhausted() {
        return Err(Damage::Malformed { packets });
    }
    Ok(())
}

/// The facts from the file's headers and blocks other than packets, so far.
#[derive(Default)]
struct File {
    packets: u64,
    /// When the last packet was captured: the time of those that have none.
    last: u64,
    nanoseconds: bool,
    link: u32,
    big_endian: bool,
    interfaces: Vec<Interface>,
}

/// An interface of a section of a pcapng file.
struct Interface {
    link: u32,
    /// Octets that were captured of a packet at most; 0 for all.
    snap_len: u32,
    /// Units of time in a second.
    resolution: u64,
    /// Seconds to be added to a time.
    offset: i64,
}

impl File {
    /// The packet that a block is; `None` where it is none.
    fn packet<'a>(
        &mut self,
        block: &'a PcapBlockOwned<'a>,
    ) -> Result<Option<Captured<'a>>, Damage> {
        let captured = match block {
            PcapBlockOwned::LegacyHeader(header) => {
                // The upper bits say how long a check sequence the frames have.
                const TYPE: u32 = 0x03ff_ffff;
                self.nanoseconds = header.is_nanosecond_precision();
                self.link = header.network.0 as u32 & TYPE;
                return Ok(None);
            }
            PcapBlockOwned::Legacy(packet) => {
                let fraction = match self.nanoseconds {
                    true => packet.ts_usec / 1_000,
                    false => packet.ts_usec,
                };
                Captured {
                    at: u64::from(packet.ts_sec) * 1_000_000 + u64::from(fraction),
                    link: self.link,
                    octets: packet.data,
                    original_len: packet.origlen,
                }
            }
            PcapBlockOwned::NG(Block::SectionHeader(header)) => {
                self.big_endian = header.big_endian();
                self.interfaces.clear();
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
                self.interfaces
                    .push(Interface::new(description, self.big_endian));
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let interface = self.interface(packet.if_id)?;
                Captured {
                    at: interface.micros(packet.ts_high, packet.ts_low),
                    link: interface.link,
                    octets: packet.packet_data(),
                    original_len: packet.origlen,
                }
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                let interface = self.interface(0)?;
                let mut octets = packet.packet_data();
                // The block is filled up to four octets, and does not say where the packet ends.
                if interface.snap_len != 0 && octets.len() > interface.snap_len as usize {
                    octets = &octets[..interface.snap_len as usize];
                }
                Captured {
                    at: self.last,
                    link: interface.link,
                    octets,
                    original_len: packet.origlen,
                }
            }
            PcapBlockOwned::NG(Block::Unknown(block)) if self.is_old_packet(block) => {
                self.old_packet(block)?
            }
            PcapBlockOwned::NG(_) => return Ok(None),
        };
        Ok(Some(captured))
    }

    fn interface(&self, number: u32) -> Result<&Interface, Damage> {
        self.interfaces
            .get(number as usize)
            .ok_or(Damage::Malformed {
                packets: self.packets,
            })
    }

    fn is_old_packet(&self, block: &UnknownBlock<'_>) -> bool {
        const PACKET: u32 = 2;
        block.block_type
            == match self.big_endian {
                true => PACKET.swap_bytes(),
                false => PACKET,
            }
    }

    /// The packet block that enhanced ones took the place of (draft-ietf-opsawg-pcapng, appendix).
    fn old_packet<'a>(&self, block: &UnknownBlock<'a>) -> Result<Captured<'a>, Damage> {
        const HEADER: usize = 20;
        let malformed = Damage::Malformed {
            packets: self.packets,
        };
        let (header, octets) = block.data.split_first_chunk::<HEADER>().ok_or(malformed)?;
        let &[[a, b, ..], high, low, captured, original] = header.as_chunks::<4>().0 else {
            return Err(malformed);
        };
        let word = |octets: [u8; 4]| match self.big_endian {
            true => u32::from_be_bytes(octets),
            false => u32::from_le_bytes(octets),
        };
        let number = match self.big_endian {
            true => u16::from_be_bytes([a, b]),
            false => u16::from_le_bytes([a, b]),
        };
        let interface = self.interface(number.into())?;
        Ok(Captured {
            at: interface.micros(word(high), word(low)),
            link: interface.link,
            octets: octets.get(..word(captured) as usize).ok_or(malformed)?,
            original_len: word(original),
        })
    }
}

impl Interface {
    fn new(description: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Self {
        const BINARY: u8 = 0x80;
        let exponent = description.if_tsresol & !BINARY;
        let resolution = match description.if_tsresol & BINARY {
            0 => 10_u64.checked_pow(exponent.into()),
            _ => 1_u64.checked_shl(exponent.into()),
        };
        let offset = match big_endian {
            // The parser reads it in the other order.
            true => description.if_tsoffset.swap_bytes(),
            false => description.if_tsoffset,
        };
        Self {
            link: description.linktype.0 as u32,
            snap_len: description.snaplen,
            resolution: resolution.unwrap_or(1_000_000),
            offset,
        }
    }

    fn micros(&self, high: u32, low: u32) -> u64 {
        let units = u128::from(high) << 32 | u128::from(low);
        let micros = units * 1_000_000 / u128::from(self.resolution);
        let micros =
            i128::try_from(micros).unwrap_or(i128::MAX) + i128::from(self.offset) * 1_000_000;
        micros.clamp(0, u64::MAX.into()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time, link type, octets and original length of a packet.
    type Packet = (u64, u32, Vec<u8>, u32);

    fn packets(file: &[u8]) -> (Vec<Packet>, Result<(), Damage>) {
        let mut packets = Vec::new();
        let result = read(file, |captured| {
            packets.push((
                captured.at,
                captured.link,
                captured.octets.to_vec(),
                captured.original_len,
            ));
            ControlFlow::Continue(())
        });
        (packets, result)
    }

    /// A file in the format of libpcap with one packet of three octets out of five.
    fn legacy(word: fn(u32) -> [u8; 4], half: fn(u16) -> [u8; 2], magic: u32) -> Vec<u8> {
        let mut file = Vec::from(word(magic));
        file.extend(half(2));
        file.extend(half(4));
        // Ethernet, and a check sequence of four octets behind each frame.
        for number in [0, 0, 65_535, 0x4400_0001, 7, 123_456, 3, 5] {
            file.extend(word(number));
        }
        file.extend(b"abc");
        file
    }

    /// A pcapng block: its length stands before and behind.
    fn block(word: fn(u32) -> [u8; 4], kind: u32, body: &[u8]) -> Vec<u8> {
        let body_len = body.len().next_multiple_of(4);
        let len = word(body_len as u32 + 12);
        let mut block = Vec::from(word(kind));
        block.extend(len);
        block.extend(body);
        block.resize(8 + body_len, 0);
        block.extend(len);
        block
    }

    fn words(word: fn(u32) -> [u8; 4], numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| word(*number)).collect()
    }

    #[test]
    fn pcap_in_both_byte_orders_and_resolutions() {
        let expected = |at| vec![(at, 1, b"abc".to_vec(), 5)];
        let micros = 0xa1b2_c3d4;
        let nanos = 0xa1b2_3c4d;
        for (file, at) in [
            (
                legacy(u32::to_le_bytes, u16::to_le_bytes, micros),
                7_123_456,
            ),
            (
                legacy(u32::to_be_bytes, u16::to_be_bytes, micros),
                7_123_456,
            ),
            (legacy(u32::to_le_bytes, u16::to_le_bytes, nanos), 7_000_123),
            (legacy(u32::to_be_bytes, u16::to_be_bytes, nanos), 7_000_123),
        ] {
            assert_eq!(packets(&file), (expected(at), Ok(())));
            let cut = &file[..file.len() - 1];
            assert_eq!(packets(cut), (vec![], Err(Damage::CutOff { packets: 0 })));
        }
    }

    #[test]
    fn pcapng_with_several_sections_interfaces_and_kinds_of_packets() {
        const SECTION: u32 = 0x0a0d_0d0a;
        const INTERFACE: u32 = 1;
        const OLD_PACKET: u32 = 2;
        const SIMPLE_PACKET: u32 = 3;
        const STATISTICS: u32 = 5;
        const PACKET: u32 = 6;

        let mut file = Vec::new();
        for (word, half) in [
            (
                u32::to_le_bytes as fn(u32) -> [u8; 4],
                u16::to_le_bytes as fn(u16) -> [u8; 2],
            ),
            (u32::to_be_bytes, u16::to_be_bytes),
        ] {
            let mut section = words(word, &[0x1a2b_3c4d]);
            section.extend(half(1));
            section.extend([0; 2]);
            section.extend([0xff; 8]);
            file.extend(block(word, SECTION, &section));
            // Microseconds, and at most three octets of each packet.
            let mut plain = Vec::from(half(101));
            plain.extend(half(0));
            plain.extend(word(3));
            file.extend(block(word, INTERFACE, &plain));
            // Units of 2^-10 seconds, one hour later.
            let mut odd = Vec::from(half(1));
            odd.extend(half(0));
            odd.extend(word(0));
            odd.extend([half(9), half(1)].as_flattened());
            odd.extend([0x8a, 0, 0, 0]);
            odd.extend([half(14), half(8)].as_flattened());
            let hour: [[u8; 4]; 2] = match half(1) == 1_u16.to_le_bytes() {
                true => [word(3_600), word(0)],
                false => [word(0), word(3_600)],
            };
            odd.extend(hour.as_flattened());
            odd.extend([0; 4]);
            file.extend(block(word, INTERFACE, &odd));
            let mut packet = words(word, &[0, 1, 0, 2, 2]);
            packet.extend(b"ab");
            file.extend(block(word, PACKET, &packet));
            file.extend(block(word, STATISTICS, &words(word, &[0, 0, 0])));
            let mut packet = words(word, &[1, 0, 1_536, 4, 9]);
            packet.extend(b"cdef");
            file.extend(block(word, PACKET, &packet));
            let mut packet = words(word, &[7]);
            packet.extend(b"ghi");
            file.extend(block(word, SIMPLE_PACKET, &packet));
            let mut packet = Vec::from(half(1));
            packet.extend(half(0));
            packet.extend(words(word, &[0, 1_024, 1, 1]));
            packet.extend(b"j");
            file.extend(block(word, OLD_PACKET, &packet));
        }
        let of_one_section = [
            (1 << 32, 101, b"ab".to_vec(), 2),
            (3_601_500_000, 1, b"cdef".to_vec(), 9),
            (3_601_500_000, 101, b"ghi".to_vec(), 7),
            (3_601_000_000, 1, b"j".to_vec(), 1),
        ];
        let expected = [of_one_section.clone(), of_one_section].concat();
        assert_eq!(packets(&file), (expected.clone(), Ok(())));
        // A packet of an interface that its section does not have.
        file.extend(block(
            u32::to_be_bytes,
            PACKET,
            &words(u32::to_be_bytes, &[2, 0, 0, 0, 0]),
        ));
        assert_eq!(
            packets(&file),
            (expected, Err(Damage::Malformed { packets: 8 }))
        );
    }

    #[test]
    fn every_beginning_of_a_file_ends_in_a_sentence() {
        let file = legacy(u32::to_le_bytes, u16::to_le_bytes, 0xa1b2_c3d4);
        for len in 0..file.len() {
            let (packets, result) = packets(&file[..len]);
            let expected = match len {
                0 => Err(Damage::Empty),
                1..24 => Err(Damage::NoCapture),
                // Nothing shows that there was to be a packet.
                24 => Ok(()),
                _ => Err(Damage::CutOff { packets: 0 }),
            };
            assert_eq!((packets, result), (vec![], expected), "{len}");
        }
    }
}
