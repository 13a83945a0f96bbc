//! Requests of the command line to the daemon that runs, and its responses.
//!
//! Names and parties are in the daemon's memory, not in the kernel's tables. The daemon listens on a Unix socket
//! in its runtime directory. Requests and responses are data, one JSON value per line ([`protocol`]); the client
//! makes text of them. Both ends check the user at the other: root, or the user of the daemon.

pub mod client;
pub mod protocol;
pub mod server;
pub mod socket;

use std::time::Duration;

/// How long either side waits for the other to take or to send data that is ready.
const PATIENCE: Duration = Duration::from_secs(10);
