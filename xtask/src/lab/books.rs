//! The sensor's books beside the counters of the interfaces.
//!
//! The counters of a veth, found out on 6.1 and 6.18: on its plain path a packet has its Ethernet header. Where
//! the receiving end has an XDP program, packets go through its ring, and both ends count only the bytes behind
//! the Ethernet header; but a frame that a program sent back (`XDP_TX`) counts whole. A packet that TC refuses
//! at egress is not counted at all. The sensor books its answers apart from the downloads, at either hook.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Count, Counters, Lab, PORTS, Sensor};

/// The octets of an Ethernet header.
const ETHERNET_HEADER: u64 = 14;
/// How long the sensor may take to show what the interfaces have counted.
const LIMIT: Duration = Duration::from_secs(10);

/// Packets and octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Octets, Ethernet header included.
    pub bytes: u64,
}

/// A value for each direction, as the sensor's JSON has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByDirection<T> {
    /// Leaves the device.
    pub upload: T,
    /// Reaches the device.
    pub download: T,
}

/// The part of the sensor's account of an interface that is compared.
#[derive(Clone, Debug, Deserialize)]
struct Account {
    interface: String,
    hooks: ByDirection<String>,
    seen: ByDirection<Tally>,
    refused: Tally,
    answered: Tally,
    replaced: Tally,
    is_noted: bool,
}

#[derive(Deserialize)]
struct Status {
    interfaces: Vec<Account>,
}

/// One port: the sensor's books and the interface's counters, put in the same terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortBooks {
    /// The port.
    pub interface: String,
    /// Where the sensor's programs sit.
    pub hooks: ByDirection<String>,
    /// The packets over the link by the sensor's books.
    pub sensor: ByDirection<Tally>,
    /// The packets by the interface's counters.
    pub counted: ByDirection<Tally>,
    /// Packets that the sensor refused before they reached the link.
    pub refused: Tally,
    /// Packets of the sensor's own making, part of the downloads.
    pub answered: Tally,
    /// Packets that the driver lost behind the sensor.
    pub lost: u64,
}

impl PortBooks {
    fn new(account: Account, counters: Counters, passes: bool) -> Self {
        let native = account.hooks.upload == "xdp-native";
        let (own, onward) = (account.answered, account.replaced);
        // XDP sends an answer back whole; from TC, to which it may hand it on, it leaves like any other packet.
        let whole = if native && !account.is_noted {
            own.packets
        } else {
            0
        };
        let seen = account.seen.download;
        let without_header = |count: Count, whole: u64| Tally {
            packets: count.packets,
            bytes: count.bytes + ETHERNET_HEADER * (count.packets - whole.min(count.packets)),
        };
        let plain = |count: Count| without_header(count, count.packets);
        Self {
            sensor: ByDirection {
                upload: account.seen.upload,
                download: Tally {
                    packets: seen.packets + own.packets + onward.packets - account.refused.packets,
                    bytes: seen.bytes + own.bytes + onward.bytes - account.refused.bytes,
                },
            },
            counted: ByDirection {
                upload: if native {
                    without_header(counters.rx, 0)
                } else {
                    plain(counters.rx)
                },
                download: if passes {
                    without_header(counters.tx, whole)
                } else {
                    plain(counters.tx)
                },
            },
            lost: counters.tx.dropped,
            interface: account.interface,
            hooks: account.hooks,
            refused: account.refused,
            answered: account.answered,
        }
    }

    /// Whether both agree, packet for packet and byte for byte, and nothing was lost in between.
    pub fn balance(&self) -> bool {
        self.sensor == self.counted && self.lost == 0
    }
}

impl Lab {
    /// The books of both ports at a moment when nothing moved. Where they do not balance, the sensor is given
    /// ten seconds to catch up; the books returned may still not balance.
    ///
    /// # Errors
    /// Where the links do not come to rest, or the sensor does not answer.
    pub fn books(&self, sensor: &Sensor) -> Result<Vec<PortBooks>> {
        let begun = Instant::now();
        loop {
            let before = self.quiet_counters()?;
            let status: Status = serde_json::from_value(sensor.json(self, "status")?)
                .context("`sensor status --json` is not the model's snapshot")?;
            let late = begun.elapsed() > LIMIT;
            // A packet in between would be in one reading and not in the other.
            if before != self.counters()? {
                if late {
                    bail!("packets come all the time: there is no moment to compare at");
                }
                continue;
            }
            let books = status
                .interfaces
                .into_iter()
                .filter_map(|account| {
                    let port = PORTS.iter().position(|&port| port == account.interface)?;
                    Some(PortBooks::new(
                        account,
                        before[port],
                        !self.options.offloads,
                    ))
                })
                .collect::<Vec<_>>();
            if late || (books.len() == PORTS.len() && books.iter().all(PortBooks::balance)) {
                return Ok(books);
            }
        }
    }

    /// As [`books`](Self::books).
    ///
    /// # Errors
    /// As [`books`](Self::books), and where they do not balance, with both sides.
    pub fn balanced_books(&self, sensor: &Sensor) -> Result<Vec<PortBooks>> {
        let books = self.books(sensor)?;
        if books.len() != PORTS.len() || !books.iter().all(PortBooks::balance) {
            bail!("the books do not balance: {books:#?}");
        }
        Ok(books)
    }
}
