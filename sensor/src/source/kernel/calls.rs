//! Calls of bpf(2) that aya does not have, or has by an interface's name alone.
//!
//! A name may change owners between two calls, and aya falls back to other ways where a call fails. Here
//! the interface is a number, and every error keeps its `errno`: [`Cause`] gives its meaning.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

// Commands of `enum bpf_cmd` (linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// `BPF_F_BEFORE`: without another program named, before all others (Linux 6.6).
const BEFORE: u32 = 1 << 3;

/// The most programs that one place has (`BPF_MPROG_MAX`, linux/bpf_mprog.h).
const MOST_PROGRAMS: usize = 64;

/// Where a link puts a program: a value of `enum bpf_attach_type` and the flags of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack.
    XdpGeneric,
    /// TC ingress by a link, before all others (Linux 6.6).
    TcxIngress,
    /// TC egress by a link, before all others (Linux 6.6).
    TcxEgress,
}

impl Point {
    const fn attach_type(self) -> u32 {
        match self {
            Self::XdpNative | Self::XdpGeneric => 37,
            Self::TcxIngress => 46,
            Self::TcxEgress => 47,
        }
    }

    const fn flags(self) -> u32 {
        match self {
            // `XDP_FLAGS_DRV_MODE` and `XDP_FLAGS_SKB_MODE` (linux/if_link.h).
            Self::XdpNative => 1 << 2,
            Self::XdpGeneric => 1 << 1,
            Self::TcxIngress | Self::TcxEgress => BEFORE,
        }
    }
}

/// The state of a link, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkState {
    /// Its number.
    pub(super) id: u32,
    /// The program that it runs.
    pub(super) program: u32,
    /// Its interface; 0 once it was detached or its interface went away.
    pub(super) ifindex: u32,
}

/// The meaning of an error of bpf(2) or netlink(7) about an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// ENODEV: the interface does not exist. No other error says so: ENXIO, too, is an error of drivers.
    NoInterface,
    /// EBUSY, EEXIST: a program has the place.
    Taken,
    /// The process or the machine lacks something now. The error says nothing about the interface or the
    /// hook.
    Ours,
    /// The interface does not take this program at this hook.
    Refused,
}

impl Cause {
    pub(super) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENODEV) => Self::NoInterface,
            Some(libc::EBUSY | libc::EEXIST) => Self::Taken,
            Some(
                libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::EPERM
                | libc::EACCES
                | libc::EINTR
                | libc::EAGAIN,
            )
            | None => Self::Ours,
            Some(_) => Self::Refused,
        }
    }
}

/// A call with attributes of the type that the command takes.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes so many bytes of the attributes; the memory that they point to
    // lives as long as the call, as each caller sees to.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    match status {
        ..0 => Err(io::Error::last_os_error()),
        status => Ok(status),
    }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the call has just given the descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Makes an array of so many maps that are like the pattern.
///
/// # Errors
///
/// The error that the kernel gives.
pub(super) fn array_of_maps(entries: u32, pattern: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
    const ARRAY_OF_MAPS: u32 = 12;
    const WORD: u32 = size_of::<u32>() as u32;
    /// The start of the command's attributes: all bytes behind it are zero.
    #[repr(C)]
    struct Create {
        kind: u32,
        key_size: u32,
        value_size: u32,
        entries: u32,
        flags: u32,
        pattern: u32,
    }

    let mut create = Create {
        kind: ARRAY_OF_MAPS,
        key_size: WORD,
        value_size: WORD,
        entries,
        flags: 0,
        pattern: pattern.as_raw_fd() as u32,
    };
    bpf(MAP_CREATE, &mut create).map(owned)
}

/// Puts a program on an interface. The link ends with its last descriptor or pin.
///
/// # Errors
///
/// ENODEV: no such interface. EBUSY, EEXIST: a foreign program has the place. EINVAL at TC: a kernel before
/// 6.6.
pub(super) fn attach(program: BorrowedFd<'_>, ifindex: u32, point: Point) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        program: u32,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
    }

    let mut create = Create {
        program: program.as_raw_fd() as u32,
        ifindex,
        attach_type: point.attach_type(),
        flags: point.flags(),
    };
    bpf(LINK_CREATE, &mut create).map(owned)
}

/// Puts another program into a link, without a packet that finds none.
///
/// # Errors
///
/// ENOLINK, ENODEV: the link was detached, or its interface is gone.
pub(super) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }

    let mut update = Update {
        link: link.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        flags: 0,
        old_program: 0,
    };
    bpf(LINK_UPDATE, &mut update).map(drop)
}

/// Takes a link's program off its interface, now. Closing the last descriptor does it as well, but some
/// time later (`bpf_link_put` defers it), and the place would still be taken when the next one comes.
///
/// # Errors
///
/// As [`replace`].
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut link = link.as_raw_fd() as u32;
    bpf(LINK_DETACH, &mut link).map(drop)
}

/// The state of a link, as the kernel tells it.
///
/// # Errors
///
/// The error that the kernel gives.
pub(super) fn state(link: BorrowedFd<'_>) -> io::Result<LinkState> {
    /// The start of `struct bpf_link_info`; of XDP and of TCX the interface comes first.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        _padding: u32,
        ifindex: u32,
        attach_type: u32,
    }
    #[repr(C)]
    struct Get {
        fd: u32,
        len: u32,
        info: u64,
    }

    let mut info = Info::default();
    let mut get = Get {
        fd: link.as_raw_fd() as u32,
        len: size_of::<Info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut get)?;
    Ok(LinkState {
        id: info.id,
        program: info.program,
        ifindex: info.ifindex,
    })
}

/// The programs at a place of TC by links, in the order in which they run.
///
/// # Errors
///
/// ENODEV: no such interface. EINVAL: a kernel before 6.6.
pub(super) fn programs_at(ifindex: u32, point: Point) -> io::Result<Vec<u32>> {
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        _padding: u32,
        more: [u64; 4],
    }

    let mut programs = vec![0_u32; MOST_PROGRAMS];
    let mut query = Query {
        ifindex,
        attach_type: point.attach_type(),
        programs: programs.as_mut_ptr() as u64,
        count: MOST_PROGRAMS as u32,
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut query)?;
    programs.truncate(query.count as usize);
    Ok(programs)
}

#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins a map, program or link.
///
/// # Errors
///
/// EEXIST: something is pinned there. ENOENT: no such folder. EPERM: no BPF file system, or a dot in
/// the name.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Pin {
        path: path.as_ptr() as u64,
        fd: object.as_raw_fd() as u32,
        flags: 0,
    };
    bpf(OBJ_PIN, &mut pin).map(drop)
}

/// Opens a pinned object.
///
/// # Errors
///
/// ENOENT: nothing is.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut get = Pin {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    bpf(OBJ_GET, &mut get).map(owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_enodev_says_that_an_interface_is_gone() {
        // Every number of errno(3) that Linux has.
        for number in (1..=133).filter(|number| *number != libc::ENODEV) {
            let error = io::Error::from_raw_os_error(number);
            assert_ne!(Cause::of(&error), Cause::NoInterface, "{error}");
        }
        let of = |number| Cause::of(&io::Error::from_raw_os_error(number));
        assert_eq!(of(libc::ENODEV), Cause::NoInterface);
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS] {
            assert_eq!(of(number), Cause::Ours);
        }
        for number in [libc::EPERM, libc::EACCES, libc::EINTR, libc::EAGAIN] {
            assert_eq!(of(number), Cause::Ours);
        }
        for number in [libc::EBUSY, libc::EEXIST] {
            assert_eq!(of(number), Cause::Taken);
        }
        for number in [libc::EINVAL, libc::EOPNOTSUPP, libc::ERANGE, libc::ENXIO] {
            assert_eq!(of(number), Cause::Refused);
        }
        // An answer that could not be read (`InvalidData`) has no number.
        let unreadable = io::Error::from(io::ErrorKind::InvalidData);
        assert_eq!(Cause::of(&unreadable), Cause::Ours);
    }
}
