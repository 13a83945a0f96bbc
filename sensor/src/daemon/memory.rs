//! The allocator of the C library, told that memory is scarce on a router.

/// Has all threads share one arena, and every large block be a mapping that goes back to the kernel with it.
///
/// By default glibc makes an arena of up to 64 MiB of address space for each thread, of which freed pages stay,
/// and raises the size from which it maps up to 32 MiB whenever a mapped block is freed (mallopt(3)): after one
/// reload of a large list no such block would go back.
pub(crate) fn restrain_allocator() {
    #[cfg(target_env = "gnu")]
    {
        const MAPPED_FROM: i32 = 128 << 10;

        // SAFETY: numbers alone are passed, before there is another thread.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
            libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_FROM);
        }
    }
}

/// Gives the kernel back every page that the allocator holds and nothing lies in: after a start or a reload, and
/// now and then, because what lives long lies between what a burst of flows took for a moment.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and no block moves (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
