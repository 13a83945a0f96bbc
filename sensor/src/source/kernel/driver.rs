//! The facts that a network driver tells of an interface (ethtool).

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use sensor_ebpf::books::Way;

use crate::config::HookChoice;

/// `SIOCETHTOOL` (linux/sockios.h).
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// Drivers that put on the wire what an XDP program sends back (`XDP_TX`), by ethtool's name, each with the
/// function that shows it. For any other driver, refused packets are handed on to TC, which delivers
/// everywhere: a veth, for one, says nothing and drops the answer where no program sits at its peer.
const TRANSMITTING: [(&str, &str); 6] = [
    (
        "i40e",
        "i40e_xmit_xdp_tx_ring puts it on a queue of the card (Linux 6.1)",
    ),
    (
        "ice",
        "ice_xmit_xdp_ring puts it on a queue of the card (Linux 6.1)",
    ),
    (
        "igb",
        "igb_xdp_xmit_back puts it on a queue of the card (Linux 6.1)",
    ),
    (
        "igc",
        "igc_xdp_xmit_back puts it on a queue of the card (Linux 6.1)",
    ),
    (
        "ixgbe",
        "ixgbe_xmit_xdp_ring puts it on a queue of the card (Linux 6.1)",
    ),
    (
        "mlx5_core",
        "mlx5e_xmit_xdp_buff puts it on a queue of the card (Linux 6.1)",
    ),
];

/// How XDP answers the packets that it refuses, at the hook that is wanted and with a driver. In the stack,
/// an answer would keep the checksum state of the refused frame.
pub(super) fn way(choice: HookChoice, driver: Option<&str>) -> Way {
    let transmits = TRANSMITTING.iter().any(|(name, _)| driver == Some(*name));
    match choice {
        HookChoice::Auto | HookChoice::XdpNative if transmits => Way::Transmit,
        _ => Way::Note,
    }
}

/// The name of an interface's driver; `None` where it does not tell.
pub fn driver(interface: &str) -> Option<String> {
    Drivers::open().ok()?.name(interface)
}

/// A socket by which drivers are asked.
pub(super) struct Drivers(OwnedFd);

impl Drivers {
    /// # Errors
    ///
    /// When the kernel refuses the socket.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self(socket))
    }

    /// The name of an interface's driver; `None` where it does not tell.
    pub(super) fn name(&self, interface: &str) -> Option<String> {
        /// `ETHTOOL_GDRVINFO` and the start of `struct ethtool_drvinfo` (linux/ethtool.h).
        const GDRVINFO: u32 = 3;
        const SIZE: usize = 196;
        const DRIVER: std::ops::Range<usize> = 4..36;

        let mut info = [0_u8; SIZE];
        info[..4].copy_from_slice(&GDRVINFO.to_ne_bytes());
        self.ask(interface, &mut info).ok()?;
        let name = super::text(&info[DRIVER]);
        (!name.is_empty()).then_some(name)
    }

    /// Whether the interface takes VLAN tags out of the frames that it receives, before any program
    /// reads them (`rx-vlan-offload`).
    ///
    /// # Errors
    ///
    /// Where the driver does not tell.
    pub(super) fn strips_tags(&self, interface: &str) -> io::Result<bool> {
        /// `ETHTOOL_GFLAGS` and `ETH_FLAG_RXVLAN`.
        const GFLAGS: u32 = 0x25;
        const RXVLAN: u32 = 1 << 8;

        let mut value = [0_u8; 8];
        value[..4].copy_from_slice(&GFLAGS.to_ne_bytes());
        self.ask(interface, &mut value)?;
        let flags = super::netlink::word(&value, 4).unwrap_or_default();
        Ok(flags & RXVLAN != 0)
    }

    fn ask(&self, interface: &str, value: &mut [u8]) -> io::Result<()> {
        // SAFETY: every field may be zero.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        // SAFETY: the command in the value says how much of it the kernel writes, which it has room
        // for; both live as long as the call.
        let status = unsafe { libc::ioctl(self.0.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        match status {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
