//! The sample ring: woken by the kernel, drained in batches.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use aya::maps::{Map, MapData, RingBuf};
use rustix::time::{ClockId, clock_gettime};
use sensor_ebpf::{
    sample::{Head, Judged},
    wire::Wire,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{Error, failed::of_map, pieces::Pieces, pins::pinned};
use crate::{model::CutPayloads, record::Record};

/// Samples on their way from the kernel. The descriptor is readable while some wait.
pub struct Samples {
    ring: RingBuf<MapData>,
    pieces: Pieces,
}

impl Samples {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        Self::over(pinned(directory, "SAMPLES")?)
    }

    /// The ring, wherever its map comes from.
    pub(super) fn over(map: Map) -> Result<Self, Error> {
        let ring = RingBuf::try_from(map).map_err(of_map("SAMPLES"))?;
        Ok(Self {
            ring,
            pieces: Pieces::default(),
        })
    }
}

impl Samples {
    /// The payloads in several pieces of which the rest was given up.
    pub fn cut(&self) -> CutPayloads {
        self.pieces.cut()
    }
}

/// Takes the next record out of the ring; `None` where no whole one waits. Malformed entries are passed
/// over.
impl Iterator for Samples {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(sample) = self.pieces.next() {
                return Some(Record::Sample(Box::new(sample)));
            }
            match self.ring.next() {
                Some(entry) => {
                    if let Some(record) = record(&entry, &mut self.pieces) {
                        return Some(record);
                    }
                }
                None if self.pieces.are_awaited() => {
                    let sample = self.pieces.next_after(since_boot())?;
                    return Some(Record::Sample(Box::new(sample)));
                }
                None => return None,
            }
        }
    }
}

impl AsFd for Samples {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// Nanoseconds since boot, as the programs count them.
fn since_boot() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The record that an entry of the ring gives at once; `None` for a piece, which is put to the others, and
/// for an entry of no known size.
pub(super) fn record(entry: &[u8], pieces: &mut Pieces) -> Option<Record> {
    if entry.len() == size_of::<Judged>() {
        return Some(Record::Judged(read(entry)?));
    }
    let head: Head = read(entry)?;
    let octets = entry.get(size_of::<Head>()..size_of::<Head>() + head.captured as usize)?;
    pieces.take(head, octets);
    None
}

/// The value at the start of some octets.
fn read<T: Wire>(octets: &[u8]) -> Option<T> {
    let octets = octets.get(..size_of::<T>())?;
    // SAFETY: as long as the type, which is `Wire`: every bit pattern is a value.
    Some(unsafe { octets.as_ptr().cast::<T>().read_unaligned() })
}

/// The kernel programs' own messages, on their way to the log.
pub struct Messages {
    logger: AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Messages {
    pub(super) fn open(programs: &mut aya::Ebpf) -> Result<Self, Error> {
        let refused = |source| Error::System {
            what: "the kernel programs' messages cannot be read",
            source,
        };
        let logger = aya_log::EbpfLogger::init(programs)
            .map_err(|error| refused(std::io::Error::other(error)))?;
        // SAFETY: the logger owns its ring's descriptor, gives the same one at every call, and
        // closes it only when it is dropped, with the registration.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .map_err(|error| refused(error.into()))?;
        Ok(Self { logger })
    }

    /// Waits for messages and writes them to the log.
    ///
    /// # Errors
    ///
    /// When the ring cannot be waited on.
    pub async fn log(&mut self) -> Result<(), Error> {
        let mut ready = self
            .logger
            .readable_mut()
            .await
            .map_err(|source| Error::System {
                what: "the kernel programs' messages cannot be waited on",
                source,
            })?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
        Ok(())
    }
}
