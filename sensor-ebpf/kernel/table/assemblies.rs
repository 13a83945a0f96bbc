//! Streams that are put together from several packets.

use core::ptr;

use aya_ebpf::{helpers::bpf_get_smp_processor_id, macros::map, maps::Array};
use sensor_ebpf::{
    assembly::{Assembly, CAPACITY, EACH, MOST_OF_DEVICE, Owner, Put, Unassembled, WINDOW},
    packet::Packet,
    quic,
    said::records,
    sample::MAX_PAYLOAD,
};

use super::{devices, losses, scratch, settings};
use crate::{
    clock, field, global,
    sample::Payload,
    shared::{Element, Shared},
    verifier::{forgotten, masked},
};

/// The pool, and behind it one for each CPU, for hellos that are whole in one packet.
#[map]
static ASSEMBLIES: Array<Assembly> = Array::with_max_entries(1_024, 0);

/// Which of them each device has, by the number of its record: what it knows it by
/// ([`Owner::of_device`]), and the number in the pool plus one from bit 48 on; 0 where it has none. No device has
/// room for more, and none finds another's.
#[map]
static ASSEMBLIES_OF: Array<[u64; MOST_OF_DEVICE]> = Array::with_max_entries(1_026, 0);

/// Where a search for a free one begins: in the half of the pool that every device may use, and in the other.
#[map]
static ASSEMBLY_HANDS: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// The number of no assembly.
pub(crate) const NONE: u32 = u32::MAX;

/// Nanoseconds of silence after which another may take an assembly, and after which it counts as free.
const SILENT: u64 = 2_000_000_000;
const FREE: u64 = 15_000_000_000;

/// The assembly with a number.
#[inline(always)]
pub(crate) fn numbered(number: u32) -> Option<Element<Assembly>> {
    ASSEMBLIES.get_ptr_mut(number).map(Element::new)
}

/// The place of a device's own list.
#[inline(always)]
fn own(device: u32, place: usize) -> Option<Shared<u64>> {
    Shared::at(ASSEMBLIES_OF.get_ptr_mut(device)?).nth(masked::<15>(place))
}

const _: () = assert!(MOST_OF_DEVICE == 16);
const NUMBER: u32 = 48;
const OF_DEVICE: u64 = (1 << NUMBER) - 1;

global! {
    /// The number of the assembly that a device has for a connection; [`NONE`] where it has none.
    pub(crate) fn find_assembly(device: u32, of_device: u64) -> u32 {
        let mut number = NONE;
        for place in 0..MOST_OF_DEVICE {
            let Some(entry) = own(device, place) else {
                return NONE;
            };
            let entry = entry.load();
            if entry & OF_DEVICE == of_device {
                number = (entry >> NUMBER) as u32 - 1;
            }
        }
        number
    }
}

/// In what [`idle`] gives: the place is free.
const VACANT: u64 = u64::MAX;

global! {
    /// How long the assembly at a place in a device's list is not needed any more, in nanoseconds: because it
    /// was silent, or its message is judged. [`VACANT`] where there is none, 0 where it is in use.
    ///
    /// One that is judged stays as long as the device needs no other: what is said again has to be the same.
    fn idle(device: u32, place: u32, now: u64) -> u64 {
        let Some(entry) = own(device, place as usize) else {
            return 0;
        };
        let entry = entry.load();
        if entry == 0 {
            return VACANT;
        }
        let Some(assembly) = numbered((entry >> NUMBER) as u32 - 1) else {
            return VACANT;
        };
        if field!(assembly, owner).load() != owner(device, entry & OF_DEVICE) {
            // Another has taken it.
            return VACANT;
        }
        let silent = since(now, field!(assembly, touched).load());
        if silent > SILENT || field!(assembly, judged_to).load() != 0 {
            return silent | 1;
        }
        0
    }
}

/// Nanoseconds since a time; 0 where that is later, because another CPU noted it.
#[inline(always)]
fn since(now: u64, time: u64) -> u64 {
    let passed = now.wrapping_sub(time);
    if (passed as i64) < 0 { 0 } else { passed }
}

/// The word of an owner: [`Owner::word`](sensor_ebpf::assembly::Owner::word).
#[inline(always)]
fn owner(device: u32, of_device: u64) -> u64 {
    of_device | u64::from(device) << NUMBER
}

global! {
    /// A place in a device's list for one more: a free one, or the one that is not needed for longest. [`NONE`]
    /// where all are in use.
    fn own_place(device: u32, now: u64) -> u32 {
        let mut found = NONE;
        let mut longest = 0;
        for place in 0..MOST_OF_DEVICE as u32 {
            let idle = idle(device, place, now);
            if idle > longest {
                found = place;
                longest = idle;
            }
        }
        found
    }
}

global! {
    /// The number of an assembly of the pool that may be taken, from `first` on, of `count`; [`NONE`] where
    /// none of those that are looked at may. A free one is taken before one that is only silent.
    fn pick(first: u32, count: u32, hand: u32, now: u64) -> u32 {
        /// How many are looked at: so a claim costs no more where all are in use.
        const LOOKED_AT: u32 = 32;

        let mut silent = NONE;
        for step in 0..LOOKED_AT {
            if count == 0 {
                break;
            }
            let number = first + hand.wrapping_add(step) % count;
            let Some(assembly) = numbered(number) else {
                break;
            };
            let touched = field!(assembly, touched).load();
            let idle = since(now, touched);
            if touched == 0 || idle > FREE {
                return number;
            }
            if idle > SILENT {
                silent = number;
            }
        }
        silent
    }
}

/// Takes the next place from which a half of the pool is searched.
#[inline(always)]
fn next_hand(half: usize) -> u32 {
    ASSEMBLY_HANDS
        .get_ptr_mut(0)
        .and_then(|hands| Shared::at(hands).nth(half))
        .map_or(0, |hand| hand.fetch_add(1) as u32)
}

global! {
    /// The number of an assembly of the pool that a device may take; [`NONE`] where there is none.
    fn pick_for(device: u32, now: u64) -> u32 {
        let Some(settings) = settings::settings() else {
            return NONE;
        };
        let all = settings.assemblies as u32;
        let lower = all / 2;
        // Those that are not settled share the lower half, so that a flood of made-up MAC addresses takes no more.
        if devices::is_settled(device) {
            let number = pick(lower, all.wrapping_sub(lower), next_hand(1), now);
            if number != NONE {
                return number;
            }
        }
        pick(0, lower, next_hand(0), now)
    }
}

/// Lets this CPU write an assembly, where no other does.
#[inline(always)]
fn lock(assembly: Element<Assembly>) -> bool {
    /// Another CPU holds it for a microsecond.
    const TRIES: u32 = 16;

    for _ in 0..TRIES {
        if field!(assembly, lock).compare_exchange(0, 1) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn unlock(assembly: Element<Assembly>) {
    // Ordered behind all that was written.
    field!(assembly, lock).exchange(0);
}

global! {
    /// Empties an assembly and gives it to a connection whose first byte to be kept stands at `base`. Gives 0
    /// where another CPU holds it, or it was written since it was picked.
    fn begin_assembly(number: u32, owner: u64, base: u32, now: u64) -> u32 {
        let Some(assembly) = numbered(number) else {
            return 0;
        };
        if !lock(assembly) {
            return 0;
        }
        let touched = field!(assembly, touched).load();
        let is_silent = touched == 0 || since(now, touched) > SILENT;
        let is_own = field!(assembly, owner).load() >> NUMBER == owner >> NUMBER;
        let is_judged = field!(assembly, judged_to).load() != 0;
        if !(is_silent || is_own && is_judged) {
            unlock(assembly);
            return 0;
        }
        field!(assembly, owner).store(owner);
        field!(assembly, touched).store(now);
        field!(assembly, base).store(base);
        field!(assembly, filled).store(0);
        field!(assembly, start).store(0);
        field!(assembly, judged_to).store(0);
        field!(assembly, flags).store(0);
        field!(assembly, rest).store(0);
        let present = field!(assembly, present);
        for word in 0..Assembly::WORDS {
            // Word by word: the compiler would call a loop.
            if let Some(word) = present.nth(word) {
                word.store(0);
            }
        }
        unlock(assembly);
        1
    }
}

global! {
    /// Takes an assembly for a connection of a device. Gives its number; [`NONE`] where there is none, which is
    /// counted.
    pub(crate) fn claim_assembly(device: u32, of_device: u64, base: u32) -> u32 {
        /// How often it is tried again because another CPU was first.
        const TRIES: u32 = 4;

        let now = clock::nanoseconds();
        for _ in 0..TRIES {
            let place = own_place(device, now);
            if place == NONE {
                count(Unassembled::OfDevice);
                return NONE;
            }
            let Some(entry) = own(device, place as usize) else {
                return NONE;
            };
            let before = entry.load();
            let number = match idle(device, place, now) {
                VACANT => pick_for(device, now),
                _ => (before >> NUMBER) as u32 - 1,
            };
            if number == NONE {
                count(Unassembled::Full);
                return NONE;
            }
            if begin_assembly(number, owner(device, of_device), base, now) == 0 {
                continue;
            }
            if entry.compare_exchange(before, of_device | u64::from(number + 1) << NUMBER) {
                return number;
            }
            // Another CPU has taken the place: the assembly is free again.
            if let Some(assembly) = numbered(number) {
                field!(assembly, touched).store(0);
            }
            // It may have had another segment of the same connection in hand.
            let found = find_assembly(device, of_device);
            if found != NONE {
                return found;
            }
        }
        count(Unassembled::Busy);
        NONE
    }
}

global! {
    /// The number of an assembly that a device has for a connection of QUIC in a flow, whose hello is not judged:
    /// `of_flow` is what all connections of the flow have in common. [`NONE`] where it has none.
    pub(crate) fn find_other(device: u32, of_flow: u64) -> u32 {
        let mut number = NONE;
        for place in 0..MOST_OF_DEVICE {
            let Some(entry) = own(device, place) else {
                return NONE;
            };
            let entry = entry.load();
            let found = (entry >> NUMBER) as u32 - 1;
            if Owner::flow_of(entry & OF_DEVICE) == of_flow
                && entry & OF_DEVICE != of_flow
                && let Some(assembly) = numbered(found)
                && field!(assembly, judged_to).load() == 0
            {
                number = found;
            }
        }
        number
    }
}

/// The number of this CPU's own assembly.
#[inline(always)]
pub(crate) fn of_this_cpu() -> u32 {
    let pool = settings::settings().map_or(0, |settings| settings.assemblies as u32);
    // SAFETY: no argument.
    pool.wrapping_add(unsafe { bpf_get_smp_processor_id() })
}

global! {
    /// Empties this CPU's assembly, and gives it to a connection. Gives its number.
    pub(crate) fn begin_own(device: u32, of_device: u64) -> u32 {
        let number = of_this_cpu();
        let Some(assembly) = numbered(number) else {
            return NONE;
        };
        field!(assembly, touched).store(0);
        match begin_assembly(number, owner(device, of_device), 0, clock::nanoseconds()) {
            0 => NONE,
            _ => number,
        }
    }
}

global! {
    /// Makes an assembly that of a hello in CRYPTO frames, and keeps the keys that this CPU has at hand.
    pub(crate) fn begin_hello(number: u32) -> u32 {
        let Some(shared) = numbered(number) else {
            return 0;
        };
        if !lock(shared) {
            count(Unassembled::Busy);
            return 0;
        }
        if let (Some(assembly), Some(opening)) = (locked(number), scratch::opening()) {
            assembly.begin_hello();
            assembly.keys = opening.keys;
        }
        advance(number);
        unlock(shared);
        0
    }
}

global! {
    /// Has the keys at hand that an assembly keeps.
    pub(crate) fn fetch_keys(number: u32) -> u32 {
        if let (Some(assembly), Some(opening)) = (locked(number), scratch::opening()) {
            opening.keys = assembly.keys;
        }
        0
    }
}

global! {
    /// Whether any byte is there. A function of its own: the compiler would keep 64 places on the stack of one that
    /// goes on to write there.
    fn holds_any(number: u32) -> u32 {
        let Some(assembly) = locked(number) else {
            return 0;
        };
        let mut there = 0;
        for word in 0..Assembly::WORDS {
            there |= assembly.present[word];
        }
        u32::from(there != 0)
    }
}

global! {
    /// Moves what is in this CPU's assembly to one of the pool, which was just taken. Gives 0 where another CPU
    /// holds that, or has put bytes there meanwhile.
    pub(crate) fn move_own(from: u32, to: u32, owner: u64) -> u32 {
        let (Some(source), Some(target)) = (locked(from), numbered(to)) else {
            return 0;
        };
        if !lock(target) {
            return 0;
        }
        let Some(assembly) = locked(to) else {
            return 0;
        };
        if field!(target, owner).load() != owner || holds_any(to) != 0 {
            unlock(target);
            return 0;
        }
        assembly.keys = source.keys;
        assembly.filled = source.filled;
        for word in 0..Assembly::WORDS {
            assembly.present[word] = source.present[word];
        }
        for word in 0..CAPACITY / 8 {
            // SAFETY: within the bytes, which begin at a whole word; an element lives as long as the program.
            unsafe {
                let bytes = source.bytes.as_ptr().cast::<u64>().add(word);
                let to = assembly.bytes.as_mut_ptr().cast::<u64>().add(word);
                ptr::write_volatile(to, ptr::read_volatile(bytes));
            }
        }
        unlock(target);
        1
    }
}

global! {
    /// Whether the hello in an assembly is there to its end.
    pub(crate) fn is_whole(number: u32) -> u32 {
        locked(number).map_or(0, |assembly| quic::is_whole(assembly).into())
    }
}

/// The bytes of an assembly that this CPU has locked.
#[inline(always)]
fn locked(number: u32) -> Option<&'static mut Assembly> {
    // SAFETY: no other program writes it; an element lives as long as the program.
    unsafe { ASSEMBLIES.get_ptr_mut(number)?.as_mut() }
}

global! {
    /// Empties the assembly that a connection has for its next message. Gives its number; [`NONE`] where another
    /// CPU holds it.
    pub(crate) fn begin_again(number: u32, device: u32, of_device: u64, base: u32) -> u32 {
        let now = clock::nanoseconds();
        if begin_assembly(number, owner(device, of_device), base, now) == 0 {
            count(Unassembled::Busy);
            return NONE;
        }
        number
    }
}

global! {
    /// Whether any of some bytes is there.
    fn has_any_of(number: u32, at: u32, len: u32) -> u32 {
        match locked(number) {
            Some(assembly) => {
                u32::from(assembly.has_any_of(at as usize, len as usize, forgotten))
            }
            None => 0,
        }
    }
}

global! {
    /// Puts bytes of which none is there.
    fn put_new(number: u32, at: u32, from: u32, len: u32) -> u32 {
        if let (Some(assembly), Some(sample)) = (locked(number), scratch::sample()) {
            let (at, from, len) = (at as usize, from as usize, len as usize);
            assembly.put_new(at, &Payload(sample), from, len, forgotten);
        }
        0
    }
}

global! {
    /// Puts bytes of which some are there, one by one. Gives whether one is not what stood in its place.
    fn put_each(number: u32, at: u32, from: u32, len: u32) -> u32 {
        let mut conflict = 0;
        let mut done = 0;
        for _ in 0..MAX_PAYLOAD / EACH {
            if done >= len {
                break;
            }
            conflict |= put_some(number, at + done, from + done, len - done);
            done += EACH as u32;
        }
        conflict
    }
}

global! {
    /// Puts the first [`EACH`] of them.
    fn put_some(number: u32, at: u32, from: u32, len: u32) -> u32 {
        let (Some(assembly), Some(sample)) = (locked(number), scratch::sample()) else {
            return 0;
        };
        let (at, from, len) = (at as usize, from as usize, len as usize);
        u32::from(assembly.put_each(at, &Payload(sample), from, len, forgotten) == Put::Conflict)
    }
}

global! {
    /// Notes that some bytes are there.
    fn mark(number: u32, at: u32, len: u32) -> u32 {
        if let Some(assembly) = locked(number) {
            assembly.mark(at as usize, len as usize, forgotten);
        }
        0
    }
}

global! {
    /// Finds how many bytes are there without a hole.
    fn advance(number: u32) -> u32 {
        if let Some(assembly) = locked(number) {
            assembly.advance(forgotten);
        }
        0
    }
}

global! {
    /// Puts `len` bytes of the piece that is in this CPU's buffer, from byte `from` of it on, to their place in
    /// an assembly. Gives a [`Put`]'s number; 0 where the assembly is another's by now, or another CPU holds it.
    pub(crate) fn put_piece(number: u32, owner: u64, at: u32, from: u32, len: u32) -> u32 {
        let Some(assembly) = numbered(number) else {
            return 0;
        };
        let Some(len) = Assembly::room(at as usize, len as usize) else {
            return Put::There as u32;
        };
        let len = len as u32;
        if !lock(assembly) {
            count(Unassembled::Busy);
            return 0;
        }
        if field!(assembly, owner).load() != owner {
            unlock(assembly);
            return 0;
        }
        let mut put = Put::There;
        if has_any_of(number, at, len) == 0 {
            put_new(number, at, from, len);
            mark(number, at, len);
        } else if put_each(number, at, from, len) != 0 {
            put = Put::Conflict;
            field!(assembly, flags).set(Assembly::CONFLICT);
        }
        advance(number);
        field!(assembly, touched).store(clock::nanoseconds());
        unlock(assembly);
        put as u32
    }
}

global! {
    /// Copies a window of the message in an assembly to this CPU's buffer. Gives how many bytes of it are there.
    pub(crate) fn fetch_assembled(number: u32, at: u32) -> u32 {
        let (Some(assembly), Some(sample)) = (numbered(number), scratch::sample()) else {
            return 0;
        };
        // SAFETY: bytes that are there do not change while the assembly is the flow's.
        let bytes = unsafe { &*assembly.as_ptr() };
        bytes.copy_out(at as usize, &mut sample.payload, forgotten)
            as u32
    }
}

/// The message in an assembly.
struct Message<'a>(&'a Assembly);

impl Packet for Message<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let place = masked::<0x3_ffff>(self.0.start as usize + offset);
        let end = masked::<0x3_ffff>(place + N);
        if end > self.0.filled as usize || place > CAPACITY - N {
            return None;
        }
        // SAFETY: within the bytes, as just compared.
        Some(unsafe { self.0.bytes.as_ptr().add(place).cast::<[u8; N]>().read() })
    }

    #[inline(always)]
    fn forget(&self, offset: usize, noise: u64) -> usize {
        forgotten(offset, noise) & 0x3_ffff
    }
}

global! {
    /// As [`fetch_assembled`], of a hello that is cut into several records: as if it stood in one.
    pub(crate) fn fetch_records(number: u32, at: u32) -> u32 {
        let (Some(assembly), Some(sample)) = (locked(number), scratch::sample()) else {
            return 0;
        };
        if at == 0 {
            for (place, byte) in records::ONE.iter().enumerate() {
                sample.payload[place] = *byte;
            }
        }
        let there = assembly.filled.wrapping_sub(assembly.start);
        records::copy(
            &Message(assembly),
            there as usize,
            at as usize,
            WINDOW,
            |from, to, len| {
                copy_out(number, from as u32, to as u32, len as u32);
            },
        ) as u32
    }
}

global! {
    /// Copies `len` bytes of a message, at most [`WINDOW`], to a place in this CPU's buffer.
    fn copy_out(number: u32, from: u32, to: u32, len: u32) -> u32 {
        let (Some(assembly), Some(sample)) = (locked(number), scratch::sample()) else {
            return 0;
        };
        let from = assembly.start.wrapping_add(from) as usize;
        let mut done = 0;
        for _ in 0..WINDOW / 8 {
            if done >= len as usize {
                break;
            }
            let noise = assembly.owner;
            let source = forgotten(from + done, noise) % CAPACITY;
            let mut word = [0; 8];
            word.copy_from_slice(&assembly.bytes[source..source + 8]);
            let target = forgotten(to as usize + done, noise) % WINDOW;
            sample.payload[target..target + 8].copy_from_slice(&word);
            done = forgotten(done + 8, noise);
        }
        0
    }
}

/// Counts that a stream was not put together.
#[inline(always)]
pub(crate) fn count(reason: Unassembled) {
    if let Some(losses) = losses::losses()
        && let Some(counter) = field!(losses, unassembled).nth(reason as usize)
    {
        losses::count_in(counter, None);
    }
}
