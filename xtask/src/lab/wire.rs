//! Frames of one's own making, put on a link octet for octet, and those that come.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Instant,
};

use anyhow::{Context, Result};

use super::Host;

/// The longest frame of a link without offloads, and more.
const FRAME: usize = 2_048;

/// A packet socket on one interface of a host. It waits where the link's queue is full.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Host {
    /// Opens an interface for [`Wire::send`].
    ///
    /// # Errors
    /// Where there is no such interface.
    pub fn wire(&self, interface: &str) -> Result<Wire> {
        // Protocol 0: it sends, and never receives.
        self.enter(|| open(interface, 0))?
            .map(Wire)
            .with_context(|| format!("{}: no packet socket on {interface}", self.name))
    }

    /// Listens to all that comes in by an interface from now on.
    ///
    /// # Errors
    /// Where there is no such interface.
    pub fn tap(&self, interface: &str) -> Result<Tap> {
        self.enter(|| open(interface, libc::ETH_P_ALL as u16))?
            .map(Tap)
            .with_context(|| format!("{}: no packet socket on {interface}", self.name))
    }
}

/// A packet socket that receives the frames of an interface.
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// The next frame, Ethernet header first and without a VLAN tag; `None` where none comes until
    /// then.
    ///
    /// # Errors
    /// Where the interface is gone.
    pub fn next(&self, until: Instant) -> io::Result<Option<Vec<u8>>> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut one = libc::pollfd {
                fd: self.0.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            let left = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: one entry, as is said.
            if unsafe { libc::poll(&raw mut one, 1, left) } == 0 {
                return Ok(None);
            }
            let mut frame = vec![0; FRAME];
            // SAFETY: all zero is a value of it.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut length = size_of_val(&from) as u32;
            // SAFETY: the kernel writes no more than the lengths given of both buffers.
            let received = unsafe {
                libc::recvfrom(
                    self.0.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            frame.truncate(usize::try_from(received).map_err(|_| io::Error::last_os_error())?);
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                return Ok(Some(frame));
            }
        }
    }
}

impl Wire {
    /// Sends a frame, Ethernet header first, at least 14 octets.
    ///
    /// # Errors
    /// Where the link is down or the frame is longer than it carries.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the kernel reads the frame's octets.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn open(interface: &str, protocol: u16) -> io::Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: the name ends with a zero octet.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes numbers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a sockaddr_ll of the length given.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
