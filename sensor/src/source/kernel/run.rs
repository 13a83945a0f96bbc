//! The programs run over frames that are handed to them, and attached to nothing.

use std::io;

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{HashMap, Map, MapData, Queue, RingBuf},
    programs::{ProgramError, SchedClassifier, Xdp},
    sys::SyscallError,
};
use sensor_ebpf::{
    books::{DeviceRecord, FIRST_DEVICE, FragmentKey, InterfaceRecord, Losses},
    flow::{Direction, FlowKey, FlowRecord, WAYS, set_behind, set_of},
};

use super::{
    Error,
    books::Books,
    failed::of_map,
    load::{fill, load, loaded, new_settings, program},
    pieces::Pieces,
    readers, ring,
    table::{Access, Raw},
};
use crate::record::Record;

/// The interface that a run names: the loopback of the namespace.
const IFINDEX: u32 = 1;

/// The interface's record.
const INTERFACE: u32 = 0;

/// The longest frame that fits a page of 4 KiB beside the part that the kernel keeps for itself, at either
/// hook.
pub const ONE_PAGE: usize = 3_000;

/// The longest frame that every kernel's test run takes, at either hook: of a socket buffer it takes no
/// greater length on the wire (`GSO_LEGACY_MAX_SIZE`); for XDP it has 17 pages (`MAX_SKB_FRAGS`) beside
/// the first.
pub const LONGEST: usize = 64 * 1024;

/// Programs over tables of their own, which nothing else sees.
pub struct Runner {
    programs: Ebpf,
    books: Books,
    free_devices: Queue<MapData, u32>,
    device_index: HashMap<MapData, u64, u32>,
    fragments: HashMap<MapData, Raw<FragmentKey>, u32>,
    ring: RingBuf<MapData>,
    pieces: Pieces,
    frame: Vec<u8>,
}

/// Moves the calling thread into a network namespace of its own, which goes with the thread: programs that
/// run there are far from the interfaces of the machine.
///
/// # Errors
///
/// When the privilege is missing.
pub fn enter_own_namespace() -> Result<(), Error> {
    // SAFETY: the call takes no pointer; the thread loses sight of the machine's interfaces.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(Error::System {
            what: "a network namespace cannot be made",
            source: io::Error::last_os_error(),
        }
        .or_privilege()),
    }
}

impl Runner {
    /// Loads the programs, with room for so many flows and devices; of a new flow `payloads`
    /// payloads in each direction are wanted. No device counts as new.
    ///
    /// # Errors
    ///
    /// The error that the kernel gives.
    pub fn load(flows: u32, devices: u32, payloads: u8) -> Result<Self, Error> {
        // The settings have no room for streams that are put together; a map has one entry at least.
        let programs = load(EbpfLoader::new(), flows, devices, 1);
        let mut programs = programs.map_err(Error::or_privilege)?;
        for name in ["upload", "upload_frags", "download"] {
            readers::put(&mut programs, None, name)?;
            loaded(&mut programs, name)?;
        }
        let mut runner = Self {
            free_devices: typed(&mut programs, "FREE_DEVICES")?,
            device_index: typed(&mut programs, "DEVICE_INDEX")?,
            fragments: typed(&mut programs, "FRAGMENTS")?,
            ring: typed(&mut programs, "SAMPLES")?,
            pieces: Pieces::default(),
            books: Books::over(|map| take(&mut programs, map), Access::Write)?,
            programs,
            frame: Vec::new(),
        };
        let numbers = FIRST_DEVICE..FIRST_DEVICE + devices;
        fill(&mut runner.free_devices, numbers, "FREE_DEVICES")?;
        let mut index: HashMap<_, u32, u32> = typed(&mut runner.programs, "INTERFACE_INDEX")?;
        index
            .insert(IFINDEX, INTERFACE, 0)
            .map_err(refused("INTERFACE_INDEX"))?;
        runner.forget_interface();
        let mut settings = new_settings(flows, 0)?;
        settings.watched_payloads = payloads.into();
        runner.books.settings.write(0, &settings);
        Ok(runner)
    }

    /// Runs a frame: its header, the bytes captured behind it, and its length on the wire. Zeros stand for
    /// bytes that were not captured. Gives whether the kernel took the frame: it need not take one that is
    /// longer than [`LONGEST`].
    ///
    /// # Errors
    ///
    /// When the kernel does not run the program.
    pub fn run(
        &mut self,
        direction: Direction,
        header: &[u8],
        body: &[u8],
        len: usize,
    ) -> Result<bool, Error> {
        self.frame.clear();
        self.frame.extend_from_slice(header);
        self.frame.extend_from_slice(body);
        let (program, result) = match direction {
            Direction::Upload => {
                self.frame.resize(len, 0);
                let name = match len {
                    ..=ONE_PAGE => "upload",
                    _ => "upload_frags",
                };
                (name, self.upload(name))
            }
            Direction::Download => {
                self.frame.resize(len.min(ONE_PAGE), 0);
                let context = (len > ONE_PAGE).then(|| context_of_one(len));
                let context = context.as_ref().map(<[u8; CONTEXT]>::as_slice);
                ("download", self.download(context))
            }
        };
        match result {
            Ok(()) => Ok(true),
            Err(error) if len > LONGEST && is_refusal(&error) => Ok(false),
            Err(source) => Err(Error::Program { program, source }),
        }
    }

    fn upload(&mut self, name: &'static str) -> Result<(), ProgramError> {
        let program: &mut Xdp = program(&mut self.programs, name);
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            ..TestRunOptions::new()
        };
        program.test_run(options).map(|_| ())
    }

    fn download(&mut self, context: Option<&[u8]>) -> Result<(), ProgramError> {
        let program: &mut SchedClassifier = program(&mut self.programs, "download");
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: context,
            ..TestRunOptions::new()
        };
        program.test_run(options).map(|_| ())
    }

    /// Emits the records that the last runs put into the ring.
    pub fn samples(&mut self, mut emit: impl FnMut(Record)) {
        while let Some(entry) = self.ring.next() {
            if let Some(record) = ring::record(&entry, &mut self.pieces) {
                emit(record);
            }
        }
        // No program runs that could bring more.
        while let Some(sample) = self.pieces.next_after(u64::MAX) {
            emit(Record::Sample(Box::new(sample)));
        }
    }

    /// The slot of a flow, on whatever interface it was seen.
    pub fn slot(&self, key: &FlowKey) -> Option<u32> {
        let key = key.on_interface(IFINDEX);
        let settings = self.books.settings();
        let set = set_of(key.hash(&settings.hash_secret), settings.flow_sets);
        [set, set_behind(set, settings.flow_sets)]
            .into_iter()
            .flat_map(|set| set * WAYS..(set + 1) * WAYS)
            .find(|slot| self.books.flows.key(*slot) == Some(key))
    }

    /// The flow in a slot.
    pub fn flow(&self, slot: u32) -> FlowRecord {
        self.books.flows.read(slot, 0)
    }

    /// The device with a number.
    pub fn device(&self, number: u32) -> DeviceRecord {
        self.books.devices.read(number)
    }

    /// The devices: their MAC addresses as words, and their numbers.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the map.
    pub fn devices(&self) -> Result<Vec<(u64, u32)>, Error> {
        let devices = self.device_index.iter().collect::<Result<_, _>>();
        devices.map_err(refused("DEVICE_INDEX"))
    }

    /// The interface.
    pub fn interface(&self) -> InterfaceRecord {
        self.books.interfaces.read(INTERFACE)
    }

    /// The tables themselves.
    #[cfg(test)]
    pub(super) fn books(&self) -> &Books {
        &self.books
    }

    /// The tables themselves, to be changed.
    #[cfg(test)]
    pub(super) fn books_mut(&mut self) -> &mut Books {
        &mut self.books
    }

    /// The losses of the tables and the ring.
    pub fn losses(&self) -> Losses {
        self.books.losses.read(0)
    }

    /// Makes the tables as they were at first, when these slots were taken.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map.
    pub fn clear(&mut self, slots: &[u32]) -> Result<(), Error> {
        use std::sync::atomic::Ordering::Relaxed;

        for slot in slots {
            let releases = self.books.flows.releases(*slot);
            self.books.flows.clear(*slot);
            releases.fetch_add(1, Relaxed);
        }
        self.books.flows.tidy_spills();
        let devices = self.devices()?;
        for (mac, number) in devices {
            self.device_index
                .remove(&mac)
                .map_err(refused("DEVICE_INDEX"))?;
            self.books.devices.write(number, &DeviceRecord::default());
            fill(&mut self.free_devices, [number], "FREE_DEVICES")?;
        }
        for shared in 0..FIRST_DEVICE {
            self.books.devices.write(shared, &DeviceRecord::default());
        }
        let fragments: Vec<_> = self
            .fragments
            .keys()
            .collect::<Result<_, _>>()
            .map_err(refused("FRAGMENTS"))?;
        for fragment in fragments {
            self.fragments
                .remove(&fragment)
                .map_err(refused("FRAGMENTS"))?;
        }
        self.books.losses.write(0, &Losses::default());
        self.forget_interface();
        Ok(())
    }

    fn forget_interface(&self) {
        let record = InterfaceRecord {
            ifindex: IFINDEX,
            ..InterfaceRecord::default()
        };
        self.books.interfaces.write(INTERFACE, &record);
    }
}

/// Octets of `struct __sk_buff` of the kernel's user API.
const CONTEXT: usize = 192;

/// The context of a socket buffer that stands for one frame of `len` octets on the wire.
fn context_of_one(len: usize) -> [u8; CONTEXT] {
    const WIRE_LEN: usize = 160;
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut context = [0; CONTEXT];
    // The size of a segment only says that the length on the wire counts.
    for (at, value) in [(WIRE_LEN, len as u32), (GSO_SEGS, 1), (GSO_SIZE, 1)] {
        context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}

/// Whether the kernel says that a frame does not fit its buffers, or that it is longer than any.
fn is_refusal(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(SyscallError { io_error, .. }) = error else {
        return false;
    };
    matches!(io_error.raw_os_error(), Some(libc::EINVAL | libc::ENOMEM))
}

fn refused(map: &'static str) -> impl Fn(aya::maps::MapError) -> Error {
    of_map(map)
}

fn take(programs: &mut Ebpf, map: &'static str) -> Result<Map, Error> {
    programs.take_map(map).ok_or(Error::ForeignLayout)
}

fn typed<T>(programs: &mut Ebpf, map: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    T::try_from(take(programs, map)?).map_err(refused(map))
}

#[cfg(test)]
impl Runner {
    /// The slots of the flows that are in the table.
    pub(crate) fn slots(&self) -> Vec<u32> {
        self.books.flows.used().collect()
    }

    /// The ring and the verdicts, for a thread that listens; the ring is its own from then on.
    pub(crate) fn ears(&mut self) -> Result<(super::Samples, super::Verdicts), Error> {
        let upload: &mut Xdp = program(&mut self.programs, "upload");
        let refused = |source| Error::Program {
            program: "upload",
            source,
        };
        let ids = upload.info().and_then(|info| info.map_ids());
        let mut maps = std::collections::HashMap::new();
        for id in ids.map_err(refused)?.unwrap_or_default() {
            let data = MapData::from_id(id).map_err(self::refused("a map of upload"))?;
            let info = data.info().map_err(self::refused("a map of upload"))?;
            let name = info.name_as_str().unwrap_or_default().to_owned();
            if let Ok(map) = Map::from_map_data(data) {
                maps.insert(name, map);
            }
        }
        let samples = maps.remove("SAMPLES").ok_or(Error::ForeignLayout)?;
        let samples = super::Samples::over(samples)?;
        Ok((samples, super::Verdicts::over(&self.books)))
    }
}
