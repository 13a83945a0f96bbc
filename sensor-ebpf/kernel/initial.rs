//! Opens the Initials of QUIC in the datagram that a reader came to, and puts the bytes of the hello together.
//!
//! In a program of its own, because the reader's has no room for it: neither on its stack nor for the verifier. It
//! judges nothing. It goes back to the reader, which reads the hello like one that came over TCP.

use sensor_ebpf::{
    assembly::{Assembly, Owner, Put},
    kind::Kind,
    packet::{Packet, PacketMut},
    quic::{
        self, Datagram, Frames, Opening, Steps, Taken, aes,
        frames::{self, Frame},
        ghash::{self, Ghash},
        header::{self, Header, Read},
        keys, sha256,
    },
    said::initial,
    sample::{MAX_PAYLOAD, NO_SLOT},
};

use crate::{
    field, global,
    reader::{phase, source},
    sample::Payload,
    table::{
        assemblies::{self, NONE},
        budgets,
        scratch::{self, Reading, Sample},
    },
    verifier::{entry_32, entry_64, masked, opaque, twice},
};

/// Opens the datagram at hand, and says how the reader goes on.
#[inline(always)]
pub(crate) fn open() {
    let (Some(sample), Some(reading)) = (scratch::sample(), scratch::reading()) else {
        return;
    };
    reading.assembly = NONE;
    reading.state = 0;
    reading.phase = match take_datagram() {
        0 => phase::LEAVE,
        _ => ready(),
    };
    // It is decrypted where it lies: user space gets it from the frame.
    sample.head.captured = 0;
}

global! {
    /// Takes the hello's bytes in the datagram at hand. Gives a [`Taken`]'s number.
    fn take_datagram() -> u32 {
        let Some(opening) = scratch::opening() else {
            return 0;
        };
        quic::datagram(&mut AtHand(opening)) as u32
    }
}

global! {
    /// Has the reader read the hello in the assembly, unless it was judged. One that is not whole yet gets an
    /// assembly of the pool. Gives the next [`phase`].
    fn ready() -> u32 {
        let Some(reading) = scratch::reading() else {
            return phase::LEAVE;
        };
        let own = assemblies::of_this_cpu();
        if reading.assembly == own && reading.claims != 0 && assemblies::is_whole(own) == 0 {
            let taken = assemblies::claim_assembly(reading.device, reading.owner, 0);
            if taken != NONE {
                reading.assembly = taken;
                if assemblies::move_own(own, taken, word(reading)) == 0 {
                    // Another CPU has more of the same hello in hand.
                    assemblies::begin_hello(taken);
                    take_again();
                }
            }
        }
        let Some(assembly) = assemblies::numbered(reading.assembly) else {
            return phase::LEAVE;
        };
        let flags = field!(assembly, flags).load();
        if flags & Assembly::CONFLICT != 0 {
            return phase::LEAVE;
        }
        reading.untold = u32::from(flags & Assembly::ENOUGH != 0);
        if field!(assembly, judged_to).load() != 0 {
            return phase::TELL;
        }
        reading.kind = Kind::Quic as u32;
        reading.state = 0;
        reading.there = field!(assembly, filled).load();
        reading.source = source::ASSEMBLY;
        phase::HELLO
    }
}

/// The word of the owner of the assembly at hand.
#[inline(always)]
fn word(reading: &Reading) -> u64 {
    reading.owner | u64::from(reading.device) << 48
}

/// The datagram in this CPU's buffer.
struct AtHand<'a>(&'a mut Opening);

impl Datagram for AtHand<'_> {
    #[inline(always)]
    fn header(&mut self, start: usize) -> (Read, Header) {
        let read = match read_header(self.0, start as u32) {
            2 => Read::Initial,
            1 => Read::Skipped,
            _ => Read::Other,
        };
        (read, self.0.header)
    }

    #[inline(always)]
    fn admit(&mut self) -> bool {
        scratch::reading().is_some_and(|reading| budgets::admit_initial(reading.device) != 0)
    }

    #[inline(always)]
    fn begin(&mut self) -> bool {
        begin_connection(self.0) != 0
    }

    #[inline(always)]
    fn open(&mut self) -> Option<usize> {
        match open_packet(self.0) {
            0 => None,
            from => Some(from as usize),
        }
    }

    #[inline(always)]
    fn begin_other(&mut self) -> bool {
        begin_other() != 0
    }

    #[inline(always)]
    fn take(&mut self, from: usize, end: usize) -> Taken {
        self.0.from = from as u32;
        let taken = Taken::from_number(take_frames(from as u32, end as u32));
        match taken {
            Taken::Conflict => Taken::from_number(take_alone()),
            taken => taken,
        }
    }
}

global! {
    /// [`header::read`]. Gives a [`Read`]'s number.
    fn read_header(opening: &mut Opening, start: u32) -> u32 {
        let Some(sample) = scratch::sample() else {
            return Read::Other as u32;
        };
        let len = masked::<0xfff>(sample.head.captured as usize);
        header::read(&Payload(sample), start as usize, len, &mut opening.header) as u32
    }
}

global! {
    /// See [`Datagram::begin`]. Gives 0 where the packet cannot be a connection's first.
    fn begin_connection(opening: &mut Opening) -> u32 {
        let (Some(sample), Some(reading)) = (scratch::sample(), scratch::reading()) else {
            return 0;
        };
        let connection = initial::connection(&Payload(sample), opening.header.start as usize);
        if connection == 0 {
            return 0;
        }
        let owner = Owner {
            device: reading.device,
            flow: sample.head.slot,
            epoch: sample.head.epoch as u8,
            connection,
        };
        reading.owner = owner.of_device();
        reading.claims = u32::from(sample.head.slot != NO_SLOT);
        if reading.claims != 0 {
            reading.assembly = assemblies::find_assembly(reading.device, reading.owner);
        }
        let Some(assembly) = assemblies::numbered(reading.assembly) else {
            begin_keys(opening);
            derive_keys(opening, opening.header.version);
            return begin_alone() | 1;
        };
        assemblies::fetch_keys(reading.assembly);
        if field!(assembly, flags).load() & Assembly::CONFLICT != 0 {
            reading.claims = 0;
            begin_alone();
        }
        1
    }
}

global! {
    /// Begins the hello in this CPU's own assembly.
    fn begin_alone() -> u32 {
        let Some(reading) = scratch::reading() else {
            return 0;
        };
        reading.assembly = assemblies::begin_own(reading.device, reading.owner);
        assemblies::begin_hello(reading.assembly)
    }
}

global! {
    /// Takes the packet at hand by itself, because its bytes are not what was said before: nobody knows which of
    /// them the server takes, but what is whole in a packet is judged. Gives a [`Taken`]'s number.
    fn take_alone() -> u32 {
        let Some(reading) = scratch::reading() else {
            return 0;
        };
        reading.claims = 0;
        begin_alone();
        take_again()
    }
}

/// Takes the frames of the packet at hand again. Gives a [`Taken`]'s number. No function of its own: those that call
/// each other may be eight deep.
#[inline(always)]
fn take_again() -> u32 {
    let (Some(opening), Some(reading)) = (scratch::opening(), scratch::reading()) else {
        return 0;
    };
    reading.state = 0;
    take_frames(
        opening.from,
        opening.header.end.wrapping_sub(quic::TAG as u32),
    )
}

global! {
    /// [`keys::begin`].
    fn begin_keys(opening: &mut Opening) -> u32 {
        if let Some(sample) = scratch::sample() {
            keys::begin(opening, &Payload(sample));
        }
        0
    }
}

global! {
    /// [`keys::derive`].
    fn derive_keys(opening: &mut Opening, version: u32) -> u32 {
        keys::derive(&mut AtHand(opening), version as usize);
        0
    }
}

global! {
    /// See [`Datagram::begin_other`].
    fn begin_other() -> u32 {
        let (Some(sample), Some(reading)) = (scratch::sample(), scratch::reading()) else {
            return 0;
        };
        let of_flow = Owner {
            device: reading.device,
            flow: sample.head.slot,
            epoch: sample.head.epoch as u8,
            connection: 0,
        }
        .of_device();
        if sample.head.slot == NO_SLOT {
            return 0;
        }
        reading.assembly = assemblies::find_other(reading.device, of_flow);
        let Some(assembly) = assemblies::numbered(reading.assembly) else {
            return 0;
        };
        reading.owner = field!(assembly, owner).load() & 0xffff_ffff_ffff;
        assemblies::fetch_keys(reading.assembly) | 1
    }
}

global! {
    /// [`quic::open`]. Gives where the frames begin; 0 where the packet is not opened.
    fn open_packet(opening: &mut Opening) -> u32 {
        quic::open(&mut AtHand(opening)).unwrap_or(0) as u32
    }
}

global! {
    /// [`quic::take`]. Gives a [`Taken`]'s number.
    fn take_frames(from: u32, end: u32) -> u32 {
        quic::take(&mut Plain, from as usize, end as usize) as u32
    }
}

global! {
    /// [`quic::take_one`].
    fn take_frame(at: u32, end: u32) -> u32 {
        quic::take_one(&mut Plain, at as usize, end as usize) as u32
    }
}

impl Steps for AtHand<'_> {
    #[inline(always)]
    fn opening(&mut self) -> &mut Opening {
        self.0
    }

    #[inline(always)]
    fn compress(&mut self) {
        compress(self.0);
    }

    #[inline(always)]
    fn expand(&mut self, is_header: bool) {
        expand_key(self.0, is_header.into());
    }

    #[inline(always)]
    fn unprotect(&mut self) -> usize {
        unprotect(self.0) as usize
    }

    #[inline(always)]
    fn protect(&mut self) {
        protect(self.0);
    }

    #[inline(always)]
    fn begin_hash(&mut self) {
        begin_hash(self.0);
    }

    #[inline(always)]
    fn hash_blocks(&mut self, from: usize, count: usize) {
        hash_blocks(self.0, from as u32, count as u32);
    }

    #[inline(always)]
    fn hash_rest(&mut self, from: usize, len: usize) {
        hash_rest(self.0, from as u32, len as u32);
    }

    #[inline(always)]
    fn decrypt_blocks(&mut self, from: usize, first: usize, count: usize) {
        decrypt_blocks(self.0, from as u32, first as u32, count as u32);
    }

    #[inline(always)]
    fn is_tag(&mut self, header_len: usize, len: usize) -> bool {
        is_tag(self.0, header_len as u32, len as u32) != 0
    }
}

global! {
    /// [`sha256::compress`].
    fn compress(opening: &mut Opening) -> u32 {
        sha256::compress(&mut opening.state, &mut opening.schedule, twice);
        0
    }
}

global! {
    /// [`quic::expand`].
    fn expand_key(opening: &mut Opening, is_header: u32) -> u32 {
        quic::expand(opening, is_header != 0, TablesAtHand::new());
        0
    }
}

global! {
    /// [`quic::unprotect`].
    fn unprotect(opening: &mut Opening) -> u32 {
        match scratch::sample() {
            Some(sample) => quic::unprotect(opening, &mut Written(sample), TablesAtHand::new()) as u32,
            None => 0,
        }
    }
}

global! {
    /// [`quic::protect`].
    fn protect(opening: &mut Opening) -> u32 {
        if let Some(sample) = scratch::sample() {
            quic::protect(opening, &mut Written(sample));
        }
        0
    }
}

global! {
    /// [`quic::begin_hash`].
    fn begin_hash(opening: &mut Opening) -> u32 {
        quic::begin_hash(opening, TablesAtHand::new());
        0
    }
}

global! {
    /// [`quic::hash_blocks`].
    fn hash_blocks(opening: &mut Opening, from: u32, count: u32) -> u32 {
        if let Some(sample) = scratch::sample() {
            let (from, count) = (from as usize, count as usize);
            quic::hash_blocks(&mut opening.hash, &Payload(sample), from, count, MultiplesAtHand);
        }
        0
    }
}

global! {
    /// [`quic::hash_rest`].
    fn hash_rest(opening: &mut Opening, from: u32, len: u32) -> u32 {
        if let Some(sample) = scratch::sample() {
            let (from, len) = (from as usize, len as usize);
            quic::hash_rest(&mut opening.hash, &Payload(sample), from, len, MultiplesAtHand);
        }
        0
    }
}

global! {
    /// [`quic::decrypt_blocks`].
    fn decrypt_blocks(opening: &mut Opening, from: u32, first: u32, count: u32) -> u32 {
        if let Some(sample) = scratch::sample() {
            let (from, first, count) = (from as usize, first as usize, count as usize);
            let tables = TablesAtHand::new();
            quic::decrypt_blocks(opening, &mut Written(sample), from, first, count, tables);
        }
        0
    }
}

global! {
    /// [`quic::is_tag`].
    fn is_tag(opening: &mut Opening, header_len: u32, len: u32) -> u32 {
        match scratch::sample() {
            Some(sample) => {
                let (header_len, len) = (header_len as usize, len as usize);
                quic::is_tag(opening, &Payload(sample), header_len, len, MultiplesAtHand).into()
            }
            None => 0,
        }
    }
}

/// The tables of AES, from where they begin.
#[derive(Clone, Copy)]
struct TablesAtHand(*const u8);

impl TablesAtHand {
    #[inline(always)]
    fn new() -> Self {
        Self(opaque(aes::TABLES.as_ptr().cast()))
    }
}

impl aes::Tables for TablesAtHand {
    #[inline(always)]
    fn entry<const ROW: usize, const OF: usize>(self, column: u32) -> u32 {
        // SAFETY: there are four tables, which are constants.
        unsafe { entry_32::<ROW, OF>(self.0, column) }
    }
}

/// The multiples of a hash key.
#[derive(Clone, Copy)]
struct MultiplesAtHand;

impl ghash::Multiples for MultiplesAtHand {
    #[inline(always)]
    fn of<const BYTE: u32>(self, hash: &Ghash, word: u64) -> ghash::Element {
        // SAFETY: the table is that of the hash.
        unsafe { entry_64::<BYTE>(hash.multiples.as_ptr().cast(), word) }
    }
}

/// The payload in this CPU's buffer, which is decrypted where it lies.
struct Written<'a>(&'a mut Sample);

impl Packet for Written<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        Payload(self.0).load(offset)
    }

    #[inline(always)]
    fn forget(&self, offset: usize, noise: u64) -> usize {
        Payload(self.0).forget(offset, noise)
    }
}

impl PacketMut for Written<'_> {
    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let offset = masked::<0x3_ffff>(offset);
        if offset > MAX_PAYLOAD - N {
            return None;
        }
        // SAFETY: within the payload, as just compared.
        unsafe {
            self.0
                .payload
                .as_mut_ptr()
                .add(offset)
                .cast::<[u8; N]>()
                .write(bytes)
        };
        Some(())
    }
}

/// The frames of the packet that was opened.
struct Plain;

impl Frames for Plain {
    #[inline(always)]
    fn take_one(&mut self, at: usize, end: usize) -> usize {
        take_frame(at as u32, end as u32) as usize
    }

    #[inline(always)]
    fn note(&mut self, taken: Taken) {
        if let Some(reading) = scratch::reading() {
            reading.state |= taken as u64;
        }
    }

    #[inline(always)]
    fn taken(&self) -> Taken {
        scratch::reading().map_or(Taken::Nothing, |reading| {
            Taken::from_number(reading.state as u32)
        })
    }

    #[inline(always)]
    fn skip_padding(&mut self, at: usize, end: usize) -> usize {
        skip_padding(at as u32, end as u32) as usize
    }

    #[inline(always)]
    fn read(&mut self, at: usize, end: usize) -> Frame {
        if read_frame(at as u32, end as u32) == 0 {
            return Frame::default();
        }
        scratch::opening().map_or(Frame::default(), |opening| opening.frame)
    }

    #[inline(always)]
    fn skip_ack(&mut self, at: usize) -> usize {
        skip_ack(at as u32) as usize
    }

    #[inline(always)]
    fn put(&mut self, at: usize, from: usize, len: usize) -> Put {
        let Some(reading) = scratch::reading() else {
            return Put::There;
        };
        let put = assemblies::put_piece(
            reading.assembly,
            word(reading),
            at as u32,
            from as u32,
            len as u32,
        );
        match put == Put::Conflict as u32 {
            true => Put::Conflict,
            false => Put::There,
        }
    }
}

global! {
    /// [`frames::skip_padding`].
    fn skip_padding(at: u32, end: u32) -> u32 {
        match scratch::sample() {
            Some(sample) => frames::skip_padding(&Payload(sample), at as usize, end as usize) as u32,
            None => end,
        }
    }
}

global! {
    /// [`frames::skip_ack`].
    fn skip_ack(at: u32) -> u32 {
        match scratch::sample() {
            Some(sample) => frames::skip_ack(&Payload(sample), at as usize) as u32,
            None => 0,
        }
    }
}

global! {
    /// [`frames::read`], to where the opening keeps it. Gives where the next one begins.
    fn read_frame(at: u32, end: u32) -> u32 {
        let (Some(sample), Some(opening)) = (scratch::sample(), scratch::opening()) else {
            return 0;
        };
        opening.frame = frames::read(&Payload(sample), at as usize, end as usize);
        opening.frame.next
    }
}
