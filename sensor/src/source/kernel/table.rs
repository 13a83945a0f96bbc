//! BPF arrays in the daemon's own memory: read in place while the kernel adds to them.

use std::{
    marker::PhantomData,
    mem::offset_of,
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use sensor_ebpf::{books::Settings, wire::Wire};

use super::{Error, failed};

/// A map key or value in aya's hands.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Raw<T: Wire>(pub(super) T);

// SAFETY: `Wire` is the same promise as `Pod`: plain bytes, no padding, every pattern valid.
unsafe impl<T: Wire> aya::Pod for Raw<T> {}

/// How a table is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// By commands that only look.
    Read,
    /// By the daemon.
    Write,
}

/// An array map, mapped into memory.
pub(super) struct Table<T: Wire> {
    start: NonNull<u8>,
    octets: usize,
    entries: u32,
    of: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel and accessed by atomic operations only.
unsafe impl<T: Wire> Send for Table<T> {}
// SAFETY: as above.
unsafe impl<T: Wire> Sync for Table<T> {}

impl<T: Wire> Table<T> {
    /// Octets from one entry to the next: the kernel rounds values up to eight.
    const STRIDE: usize = {
        assert!(align_of::<T>() <= 8 && size_of::<T>().is_multiple_of(8));
        size_of::<T>()
    };

    /// Maps the array into memory.
    pub(super) fn map(map: &MapData, name: &'static str, access: Access) -> Result<Self, Error> {
        Self::map_parts(map, name, access, 1)
    }

    /// Maps an array into memory each value of which is so many entries.
    pub(super) fn map_parts(
        map: &MapData,
        name: &'static str,
        access: Access,
        parts: u32,
    ) -> Result<Self, Error> {
        let refused = |source| {
            failed::count(name);
            Error::MapMemory { map: name, source }
        };
        let info = map.info().map_err(failed::of_map(name))?;
        let entries = info.max_entries() * parts;
        if info.value_size() as usize != size_of::<T>() * parts as usize {
            return Err(Error::ForeignLayout);
        }
        let octets = entries as usize * Self::STRIDE;
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a new mapping at an address the kernel chooses.
        let start = unsafe {
            mmap(
                null_mut(),
                octets,
                protection,
                MapFlags::SHARED,
                map.fd(),
                0,
            )
        }
        .map_err(|errno| refused(errno.into()))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| {
            refused(std::io::Error::other(
                "the kernel mapped it at address zero",
            ))
        })?;
        Ok(Self {
            start,
            octets,
            entries,
            of: PhantomData,
        })
    }

    /// How many entries there are.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.entries
    }

    /// A copy of an entry, each word of it read in one piece.
    #[inline]
    pub(super) fn read(&self, index: u32) -> T {
        let mut copy = std::mem::MaybeUninit::<T>::uninit();
        let words = copy.as_mut_ptr().cast::<u64>();
        let entry = self.place(index, 0, 1).cast::<u64>();
        for word in 0..Self::STRIDE / 8 {
            // SAFETY: `word` is within the entry and within the value, which are a multiple of eight octets, and
            // the entry is aligned as its words are.
            unsafe {
                let value = AtomicU64::from_ptr(entry.add(word)).load(Ordering::Relaxed);
                words.add(word).write(value);
            }
        }
        // SAFETY: every word was written, and every bit pattern is a value (`Wire`).
        unsafe { copy.assume_init() }
    }

    /// The word at an offset (`offset_of!`) in an entry.
    #[inline]
    pub(super) fn word(&self, index: u32, offset: usize) -> &AtomicU64 {
        let place = self.place(index, offset, 8).cast();
        // SAFETY: within the mapping and aligned, as `place` asserts; it lives as long as `self`.
        unsafe { AtomicU64::from_ptr(place) }
    }

    /// The half word at an offset in an entry.
    #[inline]
    pub(super) fn half(&self, index: u32, offset: usize) -> &AtomicU32 {
        let place = self.place(index, offset, 4).cast();
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(place) }
    }

    /// The octet at an offset in an entry.
    #[inline]
    pub(super) fn octet(&self, index: u32, offset: usize) -> &AtomicU8 {
        let place = self.place(index, offset, 1);
        // SAFETY: as in `word`.
        unsafe { AtomicU8::from_ptr(place) }
    }

    /// All entries in place.
    ///
    /// # Safety
    ///
    /// Nobody, neither this process nor the kernel, writes to them while the slice is borrowed.
    pub(super) unsafe fn as_slice(&self) -> &[T] {
        // SAFETY: the mapping has so many entries, each of them a value (`Wire`), page-aligned; that nobody
        // writes is the caller's word.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.entries as usize) }
    }

    /// Writes all entries at once.
    ///
    /// # Safety
    ///
    /// Nobody else, neither this process nor the kernel, reads or writes them meanwhile.
    pub(super) unsafe fn fill(&self, entries: &[T]) {
        assert_eq!(entries.len(), self.entries as usize);
        // SAFETY: the mapping has room for so many entries, and the entries are plain bytes elsewhere in memory.
        unsafe {
            self.start
                .as_ptr()
                .cast::<T>()
                .copy_from_nonoverlapping(entries.as_ptr(), entries.len())
        };
    }

    /// Writes an entry, word by word. Only for entries that nobody else writes.
    pub(super) fn write(&self, index: u32, value: &T) {
        let words = std::ptr::from_ref(value).cast::<u64>();
        for word in 0..Self::STRIDE / 8 {
            // SAFETY: `word` is within the value; a `Wire` type has no uninitialised octet.
            let value = unsafe { words.add(word).read_unaligned() };
            self.word(index, word * 8).store(value, Ordering::Release);
        }
    }

    #[inline]
    fn place(&self, index: u32, offset: usize, size: usize) -> *mut u8 {
        assert!(index < self.entries, "entry {index} of {}", self.entries);
        assert!(offset + size <= Self::STRIDE && offset.is_multiple_of(size));
        // SAFETY: within the mapping, as just asserted.
        unsafe {
            self.start
                .as_ptr()
                .add(index as usize * Self::STRIDE + offset)
        }
    }
}

impl<T: Wire> Drop for Table<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` and nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.octets) };
        debug_assert!(unmapped.is_ok());
    }
}

impl Table<Settings> {
    /// The policy generation in force.
    pub(super) fn generation(&self) -> &AtomicU32 {
        self.half(0, offset_of!(Settings, generation))
    }
}
