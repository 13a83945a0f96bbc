//! The allocator of the C library, told that memory is scarce on a router, and the pages of the program itself.

use std::fs;

use rustix::mm::{Advice, madvise};

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

/// Has the kernel map the pages of program files anew where they are used again: most of what a start runs and reads,
/// the programs for the kernel among it, never is. The pages stay in the page cache.
pub(super) fn unmap_unused_code() {
    let Ok(text) = fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for (start, length) in unwritten_files(&text) {
        // SAFETY: the mapping is one of a file, nobody may write to it, and no page of it differs from the file: the
        // same bytes are there at the next access. The outcome does not matter.
        let _ = unsafe { madvise(start as *mut _, length, Advice::LinuxDontNeed) };
    }
}

/// Start and length of the mappings of files that cannot be written to and that no page differs from, by the text of
/// `smaps` (proc(5)).
fn unwritten_files(smaps: &str) -> Vec<(usize, usize)> {
    let mut files = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Anonymous:"), Some("0")) => files.extend(mapping.take()),
            (Some(range), Some(rights)) if range.contains('-') => {
                let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
                mapping = match is_file && matches!(rights, "r--p" | "r-xp") {
                    true => range.split_once('-').and_then(|(start, end)| {
                        let address = |text| usize::from_str_radix(text, 16).ok();
                        let start = address(start)?;
                        Some((start, address(end)?.checked_sub(start)?))
                    }),
                    false => None,
                };
            }
            _ => {}
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_in_its_file_is_unmapped() {
        let mapping = |range: &str, rights: &str, path: &str, anonymous: u32| {
            format!(
                "{range} {rights} 00001000 08:01 7 {path}\nSize: 8 kB\nRss: 8 kB\nAnonymous: \
                 {anonymous} kB\nVmFlags: rd mr\n"
            )
        };
        let text = [
            mapping("1000-3000", "r--p", "/usr/bin/sensor", 0),
            mapping("3000-7000", "r-xp", "/usr/bin/sensor", 0),
            // Relocated, then made read-only.
            mapping("7000-8000", "r--p", "/usr/bin/sensor", 4),
            mapping("8000-9000", "rw-p", "/usr/bin/sensor", 0),
            mapping("9000-a000", "r--s", "/sys/fs/bpf/map", 0),
            mapping("a000-b000", "r--p", "", 0),
            mapping("b000-c000", "r-xp", "[vdso]", 0),
        ];
        let expected = [(0x1000, 0x2000), (0x3000, 0x4000)];
        assert_eq!(unwritten_files(&text.concat()), expected);
    }

    #[test]
    fn the_program_goes_on_without_its_code_in_memory() {
        let own = fs::read_to_string("/proc/self/smaps").expect("Linux has it");
        assert!(!unwritten_files(&own).is_empty());
        unmap_unused_code();
        assert_eq!(format!("{:?}", [1, 2]), "[1, 2]");
    }
}
