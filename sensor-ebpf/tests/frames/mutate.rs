//! Frames that nobody would send, the same ones at every run: mutated frames of the table and of
//! captures, and noise.

use std::{fs, path::Path};

/// A xorshift generator (Marsaglia 2003).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (((self.next() >> 32) * limit as u64) >> 32) as usize
    }
}

/// The longest frame that is made.
pub(crate) const MAX_LEN: usize = 1514;

/// Writes the next frame into `frame`: one in eight is noise, the others are a seed with some
/// octets changed, and maybe cut or with a piece of another seed inside.
pub(crate) fn next_frame(random: &mut Random, seeds: &[Vec<u8>], frame: &mut Vec<u8>) {
    /// Values that headers branch on: versions, lengths, types, next headers.
    const TELLING: [u8; 24] = [
        0x00, 0x01, 0x02, 0x04, 0x06, 0x08, 0x11, 0x21, 0x2b, 0x2c, 0x32, 0x33, 0x3a, 0x3c, 0x40,
        0x45, 0x4f, 0x60, 0x81, 0x86, 0x88, 0x91, 0xdd, 0xff,
    ];
    frame.clear();
    if random.below(8) == 0 {
        for _ in 0..random.below(200) {
            frame.push(random.next() as u8);
        }
        return;
    }
    frame.extend(&seeds[random.below(seeds.len())]);
    for _ in 0..random.below(6) {
        if frame.is_empty() {
            break;
        }
        // The headers are in front, and most of what matters is there.
        let at = random.below(frame.len().min(96));
        frame[at] = match random.below(3) {
            0 => random.next() as u8,
            1 => frame[at] ^ 1 << random.below(8),
            _ => TELLING[random.below(TELLING.len())],
        };
    }
    match random.below(6) {
        0 => frame.truncate(random.below(frame.len() + 1)),
        1 => {
            let other = &seeds[random.below(seeds.len())];
            let at = random.below(frame.len() + 1).min(54);
            let from = random.below(other.len() + 1).min(54);
            frame.truncate(at);
            frame.extend(&other[from..]);
        }
        _ => {}
    }
    frame.truncate(MAX_LEN);
}

/// The frames of the captures of unusual framing, and those of the table.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = super::table()
        .into_iter()
        .map(|(_, frame, _)| frame)
        .collect();
    let framing = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/framing");
    let Ok(folder) = fs::read_dir(&framing) else {
        assert!(
            std::env::var_os("CI").is_none(),
            "{} cannot be read: the captures are part of the test",
            framing.display()
        );
        return seeds;
    };
    let mut paths: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let capture = fs::read(&path).unwrap_or_default();
        seeds.extend(
            packets(&capture)
                .into_iter()
                .filter(|frame| frame.len() <= MAX_LEN)
                .take(64),
        );
    }
    seeds
}

/// The packets of a capture in the format of libpcap, little or big endian.
fn packets(capture: &[u8]) -> Vec<Vec<u8>> {
    const HEADER: usize = 24;
    const RECORD: usize = 16;
    let little = match capture.first_chunk::<4>() {
        Some([0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1]) => true,
        Some([0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d]) => false,
        _ => return Vec::new(),
    };
    let mut packets = Vec::new();
    let mut rest = capture.get(HEADER..).unwrap_or_default();
    while let Some(len) = rest.get(8..12).and_then(|len| len.first_chunk()) {
        let len = match little {
            true => u32::from_le_bytes(*len),
            false => u32::from_be_bytes(*len),
        } as usize;
        let Some(packet) = rest.get(RECORD..RECORD + len) else {
            break;
        };
        packets.push(packet.to_vec());
        rest = &rest[RECORD + len..];
    }
    packets
}
