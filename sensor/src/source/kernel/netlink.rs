//! Questions to the kernel's rtnetlink: the interfaces that there are, and the filters of TC at them.
//!
//! One socket, opened at the start: a daemon that ran out of descriptors still sees its interfaces.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::retry_on_intr,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::SocketAddrNetlink,
        recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// Octets of `struct nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;
/// Octets of `struct rtattr`.
const ATTRIBUTE: usize = 4;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// In a request for something new: it must not be there yet.
pub(super) const EXCLUSIVE: u16 = 0x200;
/// In a request for something new: it is made.
pub(super) const CREATE: u16 = 0x400;
/// In a request for a queueing discipline: the answer goes to the asking socket too.
pub(super) const ECHO: u16 = 8;
/// In an answer: the list changed meanwhile.
const INTERRUPTED: u16 = 0x10;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// How often a list that changed while it was read is read again.
const RETRIES: usize = 5;

/// How long the kernel may take for an answer; it answers at once.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// A socket to the kernel.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A message to the kernel.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A message of this type with the fixed part that it begins with.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut octets = vec![0; HEADER];
        octets[4..6].copy_from_slice(&kind.to_ne_bytes());
        octets[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        octets.extend_from_slice(fixed);
        Self(octets)
    }

    /// Adds an attribute.
    pub(super) fn add(&mut self, kind: u16, value: &[u8]) {
        let len = (ATTRIBUTE + value.len()) as u16;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute that holds those which `fill` adds.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.add(kind, &[]);
        fill(self);
        let len = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }
}

#[cfg(test)]
impl Message {
    /// The bytes behind the header.
    pub(super) fn body(&self) -> &[u8] {
        &self.0[HEADER..]
    }
}

impl Netlink {
    /// Opens a socket of this protocol; `None` is rtnetlink.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub(super) fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Opens a socket to rtnetlink.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// Asks for a list; `each` takes the bodies of the answers. A list that changed while it was read is
    /// read again, after `begin`.
    ///
    /// # Errors
    ///
    /// The error that the kernel gives.
    pub(super) fn list<T>(
        &mut self,
        message: impl Fn() -> Message,
        begin: impl Fn() -> T,
        mut each: impl FnMut(&mut T, &[u8]),
    ) -> io::Result<T> {
        for _ in 0..RETRIES {
            let mut list = begin();
            let mut message = message();
            let flags = u16::from_ne_bytes([message.0[6], message.0[7]]) | DUMP;
            message.0[6..8].copy_from_slice(&flags.to_ne_bytes());
            let whole = self.exchange(message, |body| each(&mut list, body))?;
            if whole {
                return Ok(list);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// Has the kernel do something, or asks for one thing: the body of the answer, where it has one.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub(super) fn request(&mut self, mut message: Message) -> io::Result<Option<Vec<u8>>> {
        let flags = u16::from_ne_bytes([message.0[6], message.0[7]]) | ACK;
        message.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        let mut answer = None;
        self.exchange(message, |body| answer = Some(body.to_vec()))?;
        Ok(answer)
    }

    /// Sends a message and reads its answers to the end; whether nothing changed meanwhile.
    fn exchange(&mut self, message: Message, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let Message(mut octets) = message;
        let len = octets.len() as u32;
        octets[..4].copy_from_slice(&len.to_ne_bytes());
        octets[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        send(&self.socket, &octets, SendFlags::empty())?;
        let mut whole = true;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (len, _) =
                retry_on_intr(|| recv(&self.socket, &mut buffer[..], RecvFlags::empty()))?;
            let mut rest = &buffer[..len];
            while let Some((header, body, next)) = message_of(rest) {
                rest = next;
                // The rest of an answer that nobody waited for.
                if header.sequence != self.sequence {
                    continue;
                }
                whole &= header.flags & INTERRUPTED == 0;
                match header.kind {
                    DONE => return Ok(whole),
                    ERROR => {
                        return match body
                            .first_chunk::<4>()
                            .map(|code| i32::from_ne_bytes(*code))
                        {
                            Some(0) => Ok(whole),
                            Some(code) => Err(io::Error::from_raw_os_error(-code)),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    _ => each(body),
                }
            }
        }
    }
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// The first message, its body, and the bytes behind it.
fn message_of(octets: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let len = word(octets, 0)? as usize;
    let body = octets.get(HEADER..len)?;
    let header = Header {
        kind: half(octets, 4)?,
        flags: half(octets, 6)?,
        sequence: word(octets, 8)?,
    };
    let next = octets.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((header, body, next))
}

/// The attributes that follow a fixed part, or lie in an attribute.
pub(super) fn attributes(mut octets: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let len = usize::from(half(octets, 0)?);
        let kind = half(octets, 2)? & !FLAGS;
        let value = octets.get(ATTRIBUTE..len)?;
        octets = octets.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The 32 bits at an offset.
pub(super) fn word(octets: &[u8], at: usize) -> Option<u32> {
    let octets = octets.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*octets))
}

/// The 16 bits at an offset.
pub(super) fn half(octets: &[u8], at: usize) -> Option<u16> {
    let octets = octets.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*octets))
}
