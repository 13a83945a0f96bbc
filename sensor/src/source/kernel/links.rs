//! Tells when interfaces come and go.

use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
    socket_with,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::Error;

/// Link notifications (linux/rtnetlink.h, RTMGRP_LINK).
const LINK_GROUP: u32 = 1;

/// Notices of the kernel that some interface of this network namespace changed.
///
/// Which one and how is not read: whoever is told looks at the interfaces it cares for, and so
/// misses nothing when notices are lost.
pub struct LinkChanges {
    socket: AsyncFd<OwnedFd>,
}

impl LinkChanges {
    /// Subscribes.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the socket.
    pub fn subscribe() -> Result<Self, Error> {
        let refused = |source| Error::System {
            what: "interfaces cannot be watched",
            source,
        };
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|errno| refused(errno.into()))?;
        bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))
            .map_err(|errno| refused(errno.into()))?;
        // SAFETY: the descriptor is owned, never exchanged, and closed with the registration.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
            .map_err(|error| refused(error.into()))?;
        Ok(Self { socket })
    }

    /// Waits for a change; several close together are one.
    ///
    /// # Errors
    ///
    /// When the socket cannot be waited on.
    pub async fn next(&mut self) -> Result<(), Error> {
        let refused = |source| Error::System {
            what: "interfaces cannot be watched",
            source,
        };
        let mut ready = self.socket.readable_mut().await.map_err(refused)?;
        let mut notice = [0; 8192];
        // Lost notices (ENOBUFS) are a change like any other.
        while recv(ready.get_inner(), &mut notice[..], RecvFlags::DONTWAIT).is_ok() {}
        ready.clear_ready();
        Ok(())
    }
}
