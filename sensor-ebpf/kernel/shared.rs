//! Words that several CPUs, or the programs and user space, read and write at the same time, and the
//! functions that the verifier checks one by one.

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg},
    ptr,
};

use sensor_ebpf::{
    books::{ByDirection, Tally},
    flow::Direction,
};

/// An element of a map: it lives as long as the program runs, and is never freed under it.
#[repr(transparent)]
pub(crate) struct Element<T>(*mut T);

impl<T> Clone for Element<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Element<T> {}

impl<T> Element<T> {
    /// The element that a map gave.
    #[inline(always)]
    pub(crate) const fn new(element: *mut T) -> Self {
        Self(element)
    }

    /// Where it lies.
    #[inline(always)]
    pub(crate) const fn as_ptr(self) -> *mut T {
        self.0
    }
}

/// A word in an element of a map, which others read and write at the same time: loads and stores are of
/// the whole word, additions are atomic.
#[repr(transparent)]
pub(crate) struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// The word at this place of an element. [`field!`](crate::field) gives the place.
    #[inline(always)]
    pub(crate) const fn at(place: *mut T) -> Self {
        Self(place)
    }

    /// Reads the word in one piece.
    #[inline(always)]
    pub(crate) fn load(self) -> T {
        // SAFETY: within an element of a map, which lives as long as the program.
        unsafe { ptr::read_volatile(self.0) }
    }

    /// Writes the word in one piece.
    #[inline(always)]
    pub(crate) fn store(self, value: T) {
        // SAFETY: as in `load`.
        unsafe { ptr::write_volatile(self.0, value) };
    }
}

impl Shared<u64> {
    /// Adds to a counter that other CPUs add to at the same time.
    #[inline(always)]
    pub(crate) fn add(self, amount: u64) {
        // SAFETY: as in `load`.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(self.0, amount) };
    }

    /// The same, and gives the number that stood there before.
    #[inline(always)]
    pub(crate) fn fetch_add(self, amount: u64) -> u64 {
        // Not relaxed: LLVM has an instruction for that, which does not give what stood there (seen with
        // version 22).
        // SAFETY: as in `load`.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(self.0, amount) }
    }

    /// Stores a word where another is found. Gives whether it was.
    ///
    /// In Linux since 5.12 on x86-64 and 5.18 on arm64, as are the exchanges and `fetch_add` below.
    #[inline(always)]
    pub(crate) fn compare_exchange(self, found: u64, word: u64) -> bool {
        // SAFETY: as in `load`.
        unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                self.0, found, word,
            )
            .1
        }
    }

    /// Stores a word, ordered behind all stores before it, and gives the one that was there.
    #[inline(always)]
    pub(crate) fn exchange(self, word: u64) -> u64 {
        // SAFETY: as in `load`.
        unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(self.0, word) }
    }

    /// Moves a word on to a number, and gives by how much; 0 where another CPU has moved it as far, or is
    /// doing so at this moment: then the step is its own.
    #[inline(always)]
    pub(crate) fn advance(self, to: u64) -> u64 {
        /// How often it is tried again because another CPU moved it.
        const TRIES: u32 = 3;

        for _ in 0..TRIES {
            let from = self.load();
            let step = to.wrapping_sub(from);
            if step as i64 <= 0 {
                return 0;
            }
            if self.compare_exchange(from, to) {
                return step;
            }
        }
        0
    }

    /// Sets bits.
    #[inline(always)]
    pub(crate) fn set(self, bits: u64) {
        // SAFETY: as in `load`.
        unsafe { atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(self.0, bits) };
    }
}

impl Shared<u32> {
    /// Adds, and gives the number that stood there before.
    #[inline(always)]
    pub(crate) fn fetch_add(self, amount: u32) -> u32 {
        // SAFETY: as in `load`.
        unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::SeqCst }>(self.0, amount) }
    }
}

impl Shared<Tally> {
    /// Moves packets and bytes on to what was counted, and gives by how much: each step is given once.
    #[inline(always)]
    pub(crate) fn advance(self, counted: Tally) -> Tally {
        // SAFETY: as in `load`; the fields' addresses are taken, nothing is read.
        let (packets, bytes) = unsafe { (&raw mut (*self.0).packets, &raw mut (*self.0).bytes) };
        Tally {
            packets: Shared(packets).advance(counted.packets),
            bytes: Shared(bytes).advance(counted.bytes),
        }
    }

    /// Adds packets and bytes.
    #[inline(always)]
    pub(crate) fn add_tally(self, wire: Tally) {
        // SAFETY: as in `load`; the fields' addresses are taken, nothing is read.
        let (packets, bytes) = unsafe { (&raw mut (*self.0).packets, &raw mut (*self.0).bytes) };
        Shared(packets).add(wire.packets);
        Shared(bytes).add(wire.bytes);
    }
}

impl<T: Copy> Shared<ByDirection<T>> {
    /// The place of a direction.
    #[inline(always)]
    pub(crate) fn of(self, direction: Direction) -> Shared<T> {
        // SAFETY: a direction's number is 0 or 1.
        Shared(unsafe { self.0.cast::<T>().add(direction as usize) })
    }
}

impl<T: Copy, const N: usize> Shared<[T; N]> {
    /// The place with a number; `None` behind the last. The caller bounds the number in a way that the
    /// verifier sees.
    #[inline(always)]
    pub(crate) fn nth(self, number: usize) -> Option<Shared<T>> {
        if number >= N {
            return None;
        }
        // SAFETY: below the number of places, as just compared.
        Some(Shared(unsafe { self.0.cast::<T>().add(number) }))
    }
}

/// A field of an element of a map, as a [`Shared`] word.
#[macro_export]
macro_rules! field {
    ($element:expr, $($place:tt)+) => {{
        let place = $crate::shared::Element::as_ptr($element);
        // SAFETY: an element lives as long as the program; the field's address is taken, nothing is read.
        $crate::shared::Shared::at(unsafe { &raw mut (*place).$($place)+ })
    }};
}
