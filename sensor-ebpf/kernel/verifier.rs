//! The code that the kernel's verifier, or LLVM before it, needs in another form: every instruction written by
//! hand, with the version of Linux that asks for it.
//!
//! Apart from these, three rules hold all over the programs. Code with many ways through it stands in a global
//! function, which the verifier checks once for any argument ([`global!`](crate::global)). No loop ends with an
//! instruction that falls through into its first (up to Linux 6.6). Functions that call each other have 512
//! bytes of stack together, of which each takes a multiple of 32 (up to Linux 6.1; 16 later).

use core::arch::asm;

use sensor_ebpf::packet::OFFSET_LIMIT;

/// Only the bits of a mask of a number, by way of an instruction that the compiler does not look into.
/// Otherwise it would leave out comparisons that the verifier needs, because it knows more than that, or
/// compare a copy of the register that is used (seen on Linux 6.1).
#[inline(always)]
pub(crate) fn masked<const MASK: i32>(number: usize) -> usize {
    let mut masked = number;
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "{masked} &= {mask}",
            masked = inout(reg) masked,
            mask = const MASK,
            options(pure, nomem, nostack),
        );
    }
    masked
}

/// The same number, at most `MAX`, a power of two, as far as the verifier sees.
#[inline(always)]
pub(crate) fn up_to<const MAX: usize>(number: usize) -> usize {
    const { assert!(MAX.is_power_of_two()) };
    let mut bounded = number;
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "{bounded} &= {mask}",
            bounded = inout(reg) bounded,
            mask = const 2 * MAX - 1,
            options(pure, nomem, nostack),
        );
    }
    if bounded > MAX {
        return MAX;
    }
    bounded
}

/// The same number, 1 to `MAX`, a power of two: the verifier of Linux 6.1 does not learn from a comparison
/// with zero, and refuses a helper's length that might be 0.
#[inline(always)]
pub(crate) fn one_to<const MAX: usize>(number: u32) -> u32 {
    const { assert!(MAX.is_power_of_two()) };
    let mut less_one = number.wrapping_sub(1);
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "{less_one} &= {mask}",
            less_one = inout(reg) less_one,
            mask = const MAX - 1,
            options(pure, nomem, nostack),
        );
    }
    less_one + 1
}

/// See [`Packet::forget`](sensor_ebpf::packet::Packet::forget): below [`OFFSET_LIMIT`].
#[inline(always)]
pub(crate) fn forget(offset: usize, noise: u64) -> usize {
    forgotten(offset, noise) & (OFFSET_LIMIT - 1)
}

/// The same number, after two XORs with another: the verifier of every version takes it for any number.
#[inline(always)]
pub(crate) fn forgotten(offset: usize, noise: u64) -> usize {
    let mut forgotten = offset;
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "{forgotten} ^= {noise}",
            "{forgotten} ^= {noise}",
            forgotten = inout(reg) forgotten,
            noise = in(reg) noise,
            options(pure, nomem, nostack),
        );
    }
    forgotten
}

/// See [`sha256::compress`](sensor_ebpf::quic::sha256::compress): three instructions, which the compiler would take
/// apart into rotations, and those into three for each.
#[inline(always)]
pub(crate) fn twice(word: u32) -> u64 {
    let lower = u64::from(word);
    let mut twice = lower;
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "{twice} <<= 32",
            "{twice} |= {lower}",
            twice = inout(reg) twice,
            lower = in(reg) lower,
            options(pure, nomem, nostack),
        );
    }
    twice
}

/// The same place, of which the compiler knows nothing: it would load the address again at every use.
#[inline(always)]
pub(crate) fn opaque(place: *const u8) -> *const u8 {
    let mut same = place;
    // SAFETY: no instruction at all.
    unsafe {
        asm!("/* {same} */", same = inout(reg) same, options(pure, readonly, nostack));
    }
    same
}

/// The entry for a byte of a word, 0 for the lowest, in one of some tables of 256 entries of four bytes. The compiler
/// would take two instructions more for each, and compute the places of many before it loads from the first: more than
/// there are registers.
///
/// # Safety
/// `TABLE` of the tables that begin there, and one more, are there, and are never written.
#[inline(always)]
pub(crate) unsafe fn entry_32<const TABLE: usize, const BYTE: usize>(
    tables: *const u8,
    word: u32,
) -> u32 {
    let mut entry = u64::from(word);
    // SAFETY: the scaled byte is below 1,024; as the caller says.
    unsafe {
        if BYTE == 0 {
            asm!(
                "{entry} <<= 2",
                "{entry} &= 1020",
                "{entry} += {tables}",
                "{entry} = *(u32 *)({entry} + {table})",
                entry = inout(reg) entry,
                tables = in(reg) tables,
                table = const 1_024 * TABLE,
                options(pure, readonly, nostack),
            );
        } else {
            asm!(
                "{entry} >>= {shift}",
                "{entry} &= 1020",
                "{entry} += {tables}",
                "{entry} = *(u32 *)({entry} + {table})",
                entry = inout(reg) entry,
                tables = in(reg) tables,
                shift = const (8 * BYTE).saturating_sub(2),
                table = const 1_024 * TABLE,
                options(pure, readonly, nostack),
            );
        }
    }
    entry as u32
}

/// The same for a byte of a word of 64 bits, 0 for the highest, in a table of 256 entries of 16 bytes.
///
/// # Safety
/// The table is there.
#[inline(always)]
pub(crate) unsafe fn entry_64<const BYTE: u32>(table: *const u8, word: u64) -> [u64; 2] {
    let mut second = word;
    let first: u64;
    // SAFETY: the scaled byte is below 4,096; as the caller says.
    unsafe {
        if BYTE == 7 {
            asm!(
                "{second} <<= 4",
                "{second} &= 4080",
                "{second} += {table}",
                "{first} = *(u64 *)({second} + 0)",
                "{second} = *(u64 *)({second} + 8)",
                second = inout(reg) second,
                first = out(reg) first,
                table = in(reg) table,
                options(pure, readonly, nostack),
            );
        } else {
            asm!(
                "{second} >>= {shift}",
                "{second} &= 4080",
                "{second} += {table}",
                "{first} = *(u64 *)({second} + 0)",
                "{second} = *(u64 *)({second} + 8)",
                second = inout(reg) second,
                first = out(reg) first,
                table = in(reg) table,
                shift = const (56 - 8 * BYTE).saturating_sub(4),
                options(pure, readonly, nostack),
            );
        }
    }
    [first, second]
}

/// Declares a global function: its linkage is visible in the object's type information, so the verifier
/// checks it once, for any argument, instead of once for every way that leads to it.
///
/// The verifier knows a pointer argument to be null or to the whole of its type. A first argument of the
/// form `name: &Type` or `name: &mut Type` is checked for null; where it is, the function gives 0.
#[macro_export]
macro_rules! global {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident(
            $pointer:ident: &$to:ty $(, $argument:ident: $of:ty)* $(,)?
        ) -> $result:ty $body:block
    ) => {
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        #[inline(never)]
        $visibility extern "C" fn $name($pointer: *const $to $(, $argument: $of)*) -> $result {
            // SAFETY: null, or the whole of its type: the verifier holds every caller to that.
            let Some($pointer) = (unsafe { $pointer.as_ref() }) else {
                return 0;
            };
            $body
        }
    };
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident(
            $pointer:ident: &mut $to:ty $(, $argument:ident: $of:ty)* $(,)?
        ) -> $result:ty $body:block
    ) => {
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        #[inline(never)]
        $visibility extern "C" fn $name($pointer: *mut $to $(, $argument: $of)*) -> $result {
            // SAFETY: as above.
            let Some($pointer) = (unsafe { $pointer.as_mut() }) else {
                return 0;
            };
            $body
        }
    };
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $of:ty),* $(,)?) -> $result:ty $body:block
    ) => {
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        #[inline(never)]
        $visibility extern "C" fn $name($($argument: $of),*) -> $result $body
    };
}
