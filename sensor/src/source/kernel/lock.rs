//! One sensor on one interface, one on one set of tables.

use std::{
    fs::File,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::MetadataExt as _,
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::Error;

/// Holds an interface for this process while it lives.
///
/// A Unix socket with an abstract name: it is bound to the network namespace, as the interface is,
/// and the kernel removes it with the process, however that ends.
pub(super) struct InterfaceLock {
    _socket: UnixListener,
}

impl InterfaceLock {
    pub(super) fn take(interface: &str) -> Result<Self, Error> {
        let refused = |source| Error::System {
            what: "the interface cannot be locked",
            source,
        };
        let address = SocketAddr::from_abstract_name(format!("gateway-sensor/{interface}"))
            .map_err(refused)?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Error::InterfaceInUse {
                interface: interface.to_owned(),
                holder: holder(&address),
            }),
            Err(error) => Err(refused(error)),
        }
    }
}

/// The process that listens at an address.
fn holder(address: &SocketAddr) -> String {
    let credentials = UnixStream::connect_addr(address)
        .and_then(|stream| rustix::net::sockopt::socket_peercred(&stream).map_err(Into::into));
    match credentials {
        Ok(credentials) => credentials.pid.as_raw_nonzero().to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

/// Holds a set of pinned tables for this process while it lives.
pub(super) struct TablesLock {
    directory: File,
}

impl TablesLock {
    pub(super) fn take(directory: &Path) -> Result<Self, Error> {
        let refused = |source| Error::PinDirectory {
            path: directory.to_owned(),
            source,
        };
        let file = File::open(directory).map_err(refused)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { directory: file }),
            Err(Errno::WOULDBLOCK) => Err(Error::TablesInUse {
                path: directory.to_owned(),
                holder: holder_of_lock(&file),
            }),
            Err(errno) => Err(refused(errno.into())),
        }
    }

    /// Whether the lock is on the folder of this name, and not on one that was removed.
    pub(super) fn is_on(&self, directory: &Path) -> bool {
        let of = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let held = self.directory.metadata().map(of);
        let there = directory.metadata().map(of);
        matches!((held, there), (Ok(held), Ok(there)) if held == there)
    }
}

/// The process that holds the lock on a file, from /proc/locks.
fn holder_of_lock(file: &File) -> String {
    let inode = file
        .metadata()
        .map(|metadata| metadata.ino())
        .unwrap_or_default();
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    locks
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| {
            fields
                .get(5)
                .and_then(|id| id.rsplit(':').next()?.parse().ok())
                == Some(inode)
        })
        .and_then(|fields| fields.get(4).map(|pid| (*pid).to_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}
