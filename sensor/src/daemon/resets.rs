//! Resets a connection at the server after the kernel refused its first payload: the kernel could
//! reset it at the device only, by the packet that it had in hand.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with},
};
use sensor_ebpf::{
    answer::{ANSWER_CAPACITY, Headers, Refused, To, refuse, seal},
    flow::FlowKey,
    parse::{Family, parse, protocol},
};

/// Octets of an Ethernet header.
const ETHERNET: usize = 14;

/// Sends resets in the name of devices, by the machine's own routes and through its own translation
/// of addresses.
#[derive(Debug)]
pub(super) struct Resets {
    ipv4: Option<OwnedFd>,
    ipv6: Option<OwnedFd>,
}

impl Resets {
    /// Opens the raw sockets. Where that fails, servers wait until their own patience ends.
    pub(super) fn open() -> Self {
        let open = |family| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW))
                .inspect_err(|error| {
                    tracing::warn!(
                        "servers of refused connections are not told, and wait until they lose \
                         patience: no raw socket ({error}); give the process CAP_NET_RAW"
                    );
                })
                .ok()
        };
        Self {
            ipv4: open(AddressFamily::INET),
            ipv6: open(AddressFamily::INET6),
        }
    }

    /// Resets a TCP flow at the remote end, which expects the octet with this number next (RFC 9293,
    /// section 3.10.7.4).
    ///
    /// # Errors
    /// Where there is no raw socket, or no way to the server.
    pub(super) fn send(&self, key: &FlowKey, sequence: u32) -> Result<(), Errno> {
        let Some(packet) = reset(key, sequence) else {
            return Ok(());
        };
        let octets = key.remote().octets();
        let flags = SendFlags::empty();
        match (key.family(), &self.ipv4, &self.ipv6) {
            (Family::V4, Some(socket), _) => {
                let [a, b, c, d, ..] = octets;
                let to = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), 0);
                sendto(socket, &packet, flags, &to)
            }
            (Family::V6, _, Some(socket)) => {
                let to = SocketAddrV6::new(Ipv6Addr::from(octets), 0, 0, 0);
                sendto(socket, &packet, flags, &to)
            }
            _ => Err(Errno::AFNOSUPPORT),
        }
        .map(drop)
        .inspect_err(|error| {
            tracing::debug!("the server of a refused connection is not told: {error}");
        })
    }
}

/// The reset, from its IP header on.
fn reset(key: &FlowKey, sequence: u32) -> Option<Vec<u8>> {
    let ends = [key.local().octets(), key.remote().octets()];
    let mut frame = vec![0; 12];
    match key.family() {
        Family::V4 => {
            frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol::TCP, 0, 0]);
            ends.iter().for_each(|end| frame.extend(&end[..4]));
        }
        Family::V6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol::TCP, 64]);
            ends.iter().for_each(|end| frame.extend(end));
        }
        Family::Other => return None,
    }
    frame.extend(key.local_port().to_be_bytes());
    frame.extend(key.remote_port().to_be_bytes());
    frame.extend(sequence.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
    let refused = Refused::of(&frame[..], &Headers::of(&parse(&frame[..]).ok()?))?;
    let mut out = [0; ANSWER_CAPACITY];
    let len = refuse(&frame[..], &refused, To::Receiver, &mut out)?;
    seal(&refused, len, &mut out)?;
    Some(out[ETHERNET..len].to_vec())
}
