//! The sample ring: woken by the kernel, drained in batches.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use aya::maps::{Map, MapData, RingBuf};
use bytes::Bytes;
use sensor_ebpf::{
    sample::{Head, Judged},
    wire::Wire,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{Error, load::pinned, pieces::Pieces};
use crate::record::{Record, Sample};

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
        let ring = RingBuf::try_from(map).map_err(|source| Error::Map {
            map: "SAMPLES",
            source,
        })?;
        Ok(Self {
            ring,
            pieces: Pieces::default(),
        })
    }
}

/// Takes the next one out of the ring; `None` where none waits. What is of no form is passed over.
impl Iterator for Samples {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(sample) = self.pieces.next() {
                return Some(Record::Sample(Box::new(sample)));
            }
            let Some(entry) = self.ring.next() else {
                self.pieces.ring_is_empty();
                let sample = self.pieces.next()?;
                return Some(Record::Sample(Box::new(sample)));
            };
            match record(&entry) {
                Some(Record::Sample(sample)) => self.pieces.take(*sample),
                Some(record) => return Some(record),
                None => {}
            }
        }
    }
}

impl AsFd for Samples {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// What an entry of the ring says; `None` where it is of neither size.
pub(super) fn record(entry: &[u8]) -> Option<Record> {
    if entry.len() == size_of::<Judged>() {
        return Some(Record::Judged(read(entry)?));
    }
    let head: Head = read(entry)?;
    let octets = entry.get(size_of::<Head>()..size_of::<Head>() + head.captured as usize)?;
    Some(Record::Sample(Box::new(Sample {
        head,
        octets: Bytes::copy_from_slice(octets),
    })))
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
