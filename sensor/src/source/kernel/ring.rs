//! The sample ring: woken by the kernel, drained in batches.

use std::path::Path;

use aya::maps::{MapData, RingBuf};
use bytes::Bytes;
use sensor_ebpf::{
    sample::{Head, Judged},
    wire::Wire,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{Error, load::pinned};
use crate::record::{Record, Sample};

/// How many samples are taken before others get their turn.
const BATCH: usize = 256;

/// Samples on their way from the kernel.
pub struct Samples {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Samples {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let ring =
            RingBuf::try_from(pinned(directory, "SAMPLES")?).map_err(|source| Error::Map {
                map: "SAMPLES",
                source,
            })?;
        // SAFETY: the ring owns its descriptor, gives the same one at every call, and closes it only
        // when it is dropped, with the registration.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(
            |error| Error::System {
                what: "the sample ring cannot be waited on",
                source: error.into(),
            },
        )?;
        Ok(Self { ring })
    }

    /// Waits for samples and gives up to a batch of them.
    ///
    /// # Errors
    ///
    /// When the ring cannot be waited on.
    pub async fn next(&mut self) -> Result<Vec<Record>, Error> {
        loop {
            let mut ready = self
                .ring
                .readable_mut()
                .await
                .map_err(|source| Error::System {
                    what: "the sample ring cannot be waited on",
                    source,
                })?;
            let ring = ready.get_inner_mut();
            let mut batch = Vec::new();
            while batch.len() < BATCH {
                let Some(sample) = ring.next() else {
                    break;
                };
                batch.extend(record(&sample));
            }
            if batch.len() < BATCH {
                ready.clear_ready();
            }
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
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
