//! An XDP program that passes everything: for the far end of a veth, and as somebody else's program
//! on an interface of the sensor.
//!
//! A frame that a native XDP program sends back (`XDP_TX`) is delivered only where the other end
//! has an XDP program too: without one the driver drops it, where GRO is on even without counting.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use anyhow::{Context, Result};

/// `r0 = XDP_PASS; exit`, as struct bpf_insn has it.
const INSTRUCTIONS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
const LICENSE: &[u8] = b"GPL\0";

const BPF_PROG_LOAD: i32 = 5;
const BPF_LINK_CREATE: i32 = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;

/// Where the program sits (linux/if_link.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// In the stack (`XDP_FLAGS_SKB_MODE`).
    Generic = 2,
    /// In the driver (`XDP_FLAGS_DRV_MODE`).
    Native = 4,
}

/// The part of `union bpf_attr` that loads a program.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The part of `union bpf_attr` that makes a link.
#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches the program to `interface`, an interface of the calling thread's network namespace. It
/// is detached when the descriptor is closed.
///
/// # Errors
/// Where there is no such interface, or it takes no program there.
pub fn attach(interface: &str, mode: Mode) -> Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: the name ends with a zero octet.
    let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if ifindex == 0 {
        return Err(io::Error::last_os_error()).context(format!("no interface {interface}"));
    }
    let program = bpf(
        BPF_PROG_LOAD,
        &Load {
            kind: BPF_PROG_TYPE_XDP,
            instruction_count: INSTRUCTIONS.len() as u32,
            instructions: INSTRUCTIONS.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
        },
    )
    .context("the kernel refuses an XDP program of two instructions")?;
    bpf(
        BPF_LINK_CREATE,
        &LinkCreate {
            program: program.as_raw_fd() as u32,
            ifindex,
            attach_type: BPF_XDP,
            flags: mode as u32,
        },
    )
    .with_context(|| format!("{interface} takes no XDP program ({mode:?})"))
}

fn bpf<T>(command: i32, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` octets of attributes and takes what lies behind
    // for zero; every pointer in them is to a constant.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands give a descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}
