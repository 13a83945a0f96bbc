//! The kernel programs, loaded and never attached: what ring 2 and the bench run frames through.

pub(crate) mod household;
pub(crate) mod initial;

use std::{
    env, fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun as _, TestRunOptions,
    maps::{Array, ArrayOfMaps, HashMap, MapData, ProgramArray, Queue},
    programs::{Program, SchedClassifier, Xdp},
    util::nr_cpus,
};
use sensor_ebpf::{
    answer::limit::{DeviceAnswers, FlowAnswers},
    books::{DeviceRecord, FIRST_DEVICE, InterfaceRecord, Losses, Settings},
    flow::{FlowDetail, FlowKey, FlowLine, FlowRecord, WAYS, sets_for, slot},
    name::NameBucket,
    wire::Wire,
};

/// A wire type as a map's key or value.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Raw<T: Wire>(pub(crate) T);

// SAFETY: a wire type is plain integers without padding, every bit pattern of which is a value.
unsafe impl<T: Wire> Pod for Raw<T> {}

/// A set of lines of the flow table, as the map has it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Set([FlowLine; WAYS as usize]);

// SAFETY: as `Raw`: an array of a wire type.
unsafe impl Pod for Set {}

/// The interface that `BPF_PROG_TEST_RUN` names: the loopback of the namespace.
pub(crate) const IFINDEX: u32 = 1;

/// Flags of the kernel's user API (`linux/bpf.h`).
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// Where the programs that read payloads stand: map, place, program.
const READERS: [(&str, u32, &str); 7] = [
    ("READERS_XDP", 0, "read_upload"),
    ("READERS_XDP", 1, "open_upload"),
    ("READERS_FRAGS", 0, "read_upload_frags"),
    ("READERS_FRAGS", 1, "open_upload_frags"),
    ("READERS_TC", 0, "read_upload_tc"),
    ("READERS_TC", 1, "read_download"),
    ("READERS_TC", 2, "open_upload_tc"),
];

/// The interface's record.
const INTERFACE: u32 = 0;

/// How much room the tables get.
#[derive(Clone, Copy)]
pub(crate) struct Tables {
    /// Flows.
    pub(crate) flows: u32,
    /// Devices.
    pub(crate) devices: u32,
    /// Streams that can be put together at a time.
    pub(crate) assemblies: u32,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            flows: 65_536,
            devices: 1_024,
            assemblies: 64,
        }
    }
}

/// The result of one run of a program.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The program's return value.
    pub(crate) verdict: u32,
    /// The frame that it left.
    pub(crate) output: Vec<u8>,
    /// The duration of one run, by the kernel.
    pub(crate) duration: Duration,
}

/// `struct __sk_buff` of the kernel's user API: the fields of a socket buffer that a run may set.
#[derive(Clone, Copy)]
pub(crate) struct SocketBufferContext([u8; 192]);

impl Default for SocketBufferContext {
    fn default() -> Self {
        Self([0; 192])
    }
}

impl SocketBufferContext {
    /// A frame that stands for `segments` (0: not counted yet) of `segment` octets of payload,
    /// `wire` octets in all.
    pub(crate) fn merged(segment: u32, segments: u32, wire: u32) -> Self {
        const WIRE_LEN: usize = 160;
        const GSO_SEGS: usize = 164;
        const GSO_SIZE: usize = 176;
        let mut context = Self::default();
        for (at, value) in [(WIRE_LEN, wire), (GSO_SEGS, segments), (GSO_SIZE, segment)] {
            context.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        context
    }

    /// The same with nothing but the mark.
    pub(crate) fn mark_alone(&self) -> Self {
        const MARK: std::ops::Range<usize> = 8..12;
        let mut context = Self::default();
        context.0[MARK].copy_from_slice(&self.0[MARK]);
        context
    }
}

/// An object whose programs are loaded.
pub(crate) struct Programs(Ebpf);

impl Programs {
    /// Loads the sensor's object, makes its tables and fills them as the daemon does.
    pub(crate) fn load(tables: Tables) -> Result<Self> {
        let object = object("sensor-kernel")?;
        let sets = sets_for(tables.flows);
        let ebpf = EbpfLoader::new()
            .map_max_entries("FLOW_LINES", sets)
            .map_max_entries("FLOW_DETAILS", sets * WAYS)
            .map_max_entries("SPILLED", sets)
            .map_max_entries("DEVICES", tables.devices + FIRST_DEVICE)
            .map_max_entries("DEVICE_INDEX", tables.devices)
            .map_max_entries("FREE_DEVICES", tables.devices)
            .map_max_entries(
                "ASSEMBLIES",
                tables.assemblies + nr_cpus().map_err(|(_, error)| error)? as u32,
            )
            .map_max_entries("BUDGETS_OF", tables.devices + FIRST_DEVICE)
            .map_max_entries("ASSEMBLIES_OF", tables.devices + FIRST_DEVICE)
            .load(&object)
            .context("the object does not load")?;
        let mut programs = Self(ebpf);
        let mut free_devices = Queue::<_, u32>::try_from(programs.map_mut("FREE_DEVICES")?)?;
        for number in FIRST_DEVICE..FIRST_DEVICE + tables.devices {
            free_devices.push(number, 0)?;
        }
        HashMap::<_, u32, u32>::try_from(programs.map_mut("INTERFACE_INDEX")?)?
            .insert(IFINDEX, INTERFACE, 0)?;
        programs.set(
            "INTERFACES",
            INTERFACE,
            InterfaceRecord {
                ifindex: IFINDEX,
                ..InterfaceRecord::default()
            },
        )?;
        programs.set(
            "SETTINGS",
            0,
            Settings {
                generation: 1,
                flow_sets: sets,
                flow_slots: u64::from(tables.flows),
                watched_payloads: 4,
                assemblies: u64::from(tables.assemblies),
                opens_initials: 1,
                // The same at every run: a failure can be had again.
                hash_secret: [
                    0x9e37_79b9_7f4a_7c15,
                    0xbf58_476d_1ce4_e5b9,
                    0x94d0_49bb_1331_11eb,
                    0xd6e8_feb8_6659_fd93,
                    0xa076_1d64_78bd_642f,
                    0xe703_7ed1_a0b4_28db,
                ],
                ..Settings::default()
            },
        )?;
        programs.load_all()?;
        programs.set_readers()?;
        Ok(programs)
    }

    /// Puts the programs that read payloads behind those in which frames come in.
    fn set_readers(&mut self) -> Result<()> {
        for (map, place, name) in READERS {
            let reader = match self.0.program(name).context(name)? {
                Program::Xdp(program) => program.fd()?.try_clone()?,
                Program::SchedClassifier(program) => program.fd()?.try_clone()?,
                _ => bail!("{name} is neither XDP nor TC"),
            };
            ProgramArray::try_from(self.map_mut(map)?)?.set(place, &reader, 0)?;
        }
        Ok(())
    }

    /// The names of the programs, with the instructions that the verifier went through for each.
    pub(crate) fn verified(&self) -> Result<Vec<(String, u32)>> {
        let mut verified = Vec::new();
        for (name, program) in self.0.programs() {
            let info = match program {
                Program::Xdp(program) => program.info()?,
                Program::SchedClassifier(program) => program.info()?,
                _ => bail!("{name} is neither XDP nor TC"),
            };
            let count = info.verified_instruction_count();
            verified.push((name.to_owned(), count.context("the kernel does not say")?));
        }
        Ok(verified)
    }

    /// Loads the object of `sensor-ebpf/kernel/bench.rs`.
    pub(crate) fn load_drivers() -> Result<Self> {
        let mut programs = Self(Ebpf::load(&object("sensor-bench")?)?);
        programs.load_all()?;
        Ok(programs)
    }

    /// Loads another project's object; what it pins goes to `pins`.
    pub(crate) fn load_foreign(path: &Path, pins: &Path) -> Result<Self> {
        let object = fs::read(path).with_context(|| path.display().to_string())?;
        let ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins)
            .load(&object)
            .with_context(|| format!("{} does not load", path.display()))?;
        let mut programs = Self(ebpf);
        programs.load_all()?;
        Ok(programs)
    }

    fn load_all(&mut self) -> Result<()> {
        for (name, program) in self.0.programs_mut() {
            match program {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                _ => bail!("{name} is neither XDP nor TC"),
            }
            .with_context(|| format!("the kernel refuses {name}"))?;
        }
        Ok(())
    }

    /// An XDP program.
    pub(crate) fn xdp(&self, name: &str) -> Result<&Xdp> {
        let program = self
            .0
            .program(name)
            .with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// A TC program.
    pub(crate) fn tc(&self, name: &str) -> Result<&SchedClassifier> {
        let program = self
            .0
            .program(name)
            .with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// A TC program, to be attached in a lab.
    #[allow(dead_code, reason = "the bench of DNS alone attaches")]
    pub(crate) fn tc_mut(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self
            .0
            .program_mut(name)
            .with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// Runs an XDP program `repeat` times over one frame.
    pub(crate) fn run_xdp(&self, name: &str, frame: &[u8], repeat: u32) -> Result<Outcome> {
        let mut output = vec![0; frame.len() + 512];
        let result = self.xdp(name)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            repeat,
            ..TestRunOptions::default()
        })?;
        output.truncate(result.data_size_out as usize);
        Ok(Outcome {
            verdict: result.return_value,
            output,
            duration: result.duration,
        })
    }

    /// Runs an XDP program over one frame and gives the verdict; what it left lies in `output`.
    pub(crate) fn run_xdp_into(&self, name: &str, frame: &[u8], output: &mut [u8]) -> Result<u32> {
        let result = self.xdp(name)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(output),
            ..TestRunOptions::default()
        })?;
        Ok(result.return_value)
    }

    /// Runs a TC program over one frame.
    pub(crate) fn run_tc(&self, name: &str, frame: &[u8]) -> Result<Outcome> {
        Ok(self
            .run_tc_in(name, frame, SocketBufferContext::default())?
            .0)
    }

    /// Runs a TC program over one frame in a context, and gives what both became.
    pub(crate) fn run_tc_in(
        &self,
        name: &str,
        frame: &[u8],
        before: SocketBufferContext,
    ) -> Result<(Outcome, SocketBufferContext)> {
        let mut output = vec![0; frame.len() + 512];
        let mut after = SocketBufferContext::default();
        let result = self.tc(name)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ctx_in: Some(&before.0),
            ctx_out: Some(&mut after.0),
            ..TestRunOptions::default()
        })?;
        output.truncate(result.data_size_out as usize);
        let outcome = Outcome {
            verdict: result.return_value,
            output,
            duration: result.duration,
        };
        Ok((outcome, after))
    }

    /// A map, to be written.
    pub(crate) fn map_mut(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.0
            .map_mut(name)
            .with_context(|| format!("no map {name}"))
    }

    /// A map, to be read.
    pub(crate) fn map(&self, name: &str) -> Result<&aya::maps::Map> {
        self.0.map(name).with_context(|| format!("no map {name}"))
    }

    /// Writes an element of an array.
    pub(crate) fn set<T: Wire>(&mut self, name: &str, index: u32, value: T) -> Result<()> {
        Ok(self.array_mut(name)?.set(index, Raw(value), 0)?)
    }

    /// Writes the words of an array's only element.
    pub(crate) fn set_words<const N: usize>(&mut self, name: &str, words: [u64; N]) -> Result<()> {
        let mut array: Array<_, [u64; N]> = Array::try_from(self.map_mut(name)?)?;
        Ok(array.set(0, words, 0)?)
    }

    /// Puts a table of names in the place of the one of a side.
    pub(crate) fn set_names(&mut self, side: u32, buckets: &[NameBucket]) -> Result<()> {
        let mut table = Array::<MapData, Raw<NameBucket>>::create(
            buckets.len() as u32,
            BPF_F_INNER_MAP | BPF_F_MMAPABLE,
        )?;
        for (number, bucket) in (0..).zip(buckets) {
            table.set(number, Raw(*bucket), 0)?;
        }
        let mut names: ArrayOfMaps<_, Array<MapData, Raw<NameBucket>>> =
            ArrayOfMaps::try_from(self.map_mut("NAMES")?)?;
        Ok(names.set(side, &table, 0)?)
    }

    /// Reads an element of an array.
    pub(crate) fn get<T: Wire>(&self, name: &str, index: u32) -> Result<T> {
        Ok(self.array::<T>(name)?.get(&index, 0)?.0)
    }

    fn array<T: Wire>(&self, name: &str) -> Result<Array<&MapData, Raw<T>>> {
        Ok(Array::try_from(self.map(name)?)?)
    }

    fn array_mut<T: Wire>(&mut self, name: &str) -> Result<Array<&mut MapData, Raw<T>>> {
        Ok(Array::try_from(self.map_mut(name)?)?)
    }

    /// The flows that are in the table.
    pub(crate) fn flows(&self) -> Result<Vec<FlowRecord>> {
        let live = self.live_flows()?;
        Ok(live.into_iter().map(|(_, record)| record).collect())
    }

    /// The flows that are in the table, with the numbers of their slots.
    pub(crate) fn live_flows(&self) -> Result<Vec<(u32, FlowRecord)>> {
        let mut flows = Vec::new();
        for (set, lines) in (0..).zip(self.sets()?.iter()) {
            for (way, line) in (0..).zip(lines?.0) {
                if line.state == slot::LIVE {
                    let number = set * WAYS + way;
                    let detail: FlowDetail = self.get("FLOW_DETAILS", number)?;
                    flows.push((number, FlowRecord::new(&line, &detail, 0)));
                }
            }
        }
        Ok(flows)
    }

    /// The line of the flow in a slot.
    pub(crate) fn line(&self, number: u32) -> Result<FlowLine> {
        let Set(lines) = self.sets()?.get(&(number / WAYS), 0)?;
        Ok(lines[(number % WAYS) as usize])
    }

    /// Writes the line of the flow in a slot.
    pub(crate) fn set_line(&mut self, number: u32, line: FlowLine) -> Result<()> {
        let mut sets: Array<_, Set> = Array::try_from(self.map_mut("FLOW_LINES")?)?;
        let Set(mut lines) = sets.get(&(number / WAYS), 0)?;
        lines[(number % WAYS) as usize] = line;
        Ok(sets.set(number / WAYS, Set(lines), 0)?)
    }

    /// Changes the line of each live flow, while others have the programs on loan.
    pub(crate) fn each_line(&self, change: impl Fn(&FlowKey, &mut FlowLine)) -> Result<()> {
        let aya::maps::Map::Array(table) = self.map("FLOW_LINES")? else {
            bail!("the flow table is no array");
        };
        // Another descriptor is the same table.
        let table = MapData::from_fd(table.fd().as_fd().try_clone_to_owned()?)?;
        let mut sets: Array<_, Set> = Array::try_from(aya::maps::Map::Array(table))?;
        for number in 0..sets.len() {
            let Set(mut lines) = sets.get(&number, 0)?;
            let mut is_used = false;
            for (way, line) in (0..).zip(&mut lines) {
                if line.state == slot::LIVE {
                    let detail: FlowDetail = self.get("FLOW_DETAILS", number * WAYS + way)?;
                    change(&detail.key, line);
                    is_used = true;
                }
            }
            if is_used {
                sets.set(number, Set(lines), 0)?;
            }
        }
        Ok(())
    }

    fn sets(&self) -> Result<Array<&MapData, Set>> {
        Ok(Array::try_from(self.map("FLOW_LINES")?)?)
    }

    /// The settings of the programs.
    pub(crate) fn settings(&self) -> Result<Settings> {
        self.get("SETTINGS", 0)
    }

    /// The books of the device with this number.
    pub(crate) fn device(&self, number: u32) -> Result<DeviceRecord> {
        self.get("DEVICES", number)
    }

    /// Makes a record for a device, as if it had been there for days.
    pub(crate) fn add_settled(&mut self, mac: [u8; 6]) -> Result<()> {
        let mac = sensor_ebpf::parse::Mac::new(mac).word();
        let number = Queue::<_, u32>::try_from(self.map_mut("FREE_DEVICES")?)?.pop(0)?;
        let record = DeviceRecord {
            mac,
            settled: 1,
            ..DeviceRecord::default()
        };
        self.set("DEVICES", number, record)?;
        HashMap::<_, u64, u32>::try_from(self.map_mut("DEVICE_INDEX")?)?.insert(mac, number, 0)?;
        Ok(())
    }

    /// The number of the record of the device with a MAC address.
    pub(crate) fn device_of(&self, mac: [u8; 6]) -> Result<u32> {
        let index: HashMap<_, u64, u32> = HashMap::try_from(self.map("DEVICE_INDEX")?)?;
        Ok(index.get(&sensor_ebpf::parse::Mac::new(mac).word(), 0)?)
    }

    /// The interface's books.
    pub(crate) fn interface(&self) -> Result<InterfaceRecord> {
        self.get("INTERFACES", INTERFACE)
    }

    /// Forgets which flows and devices were answered of late: limits begin anew.
    pub(crate) fn forget_answers(&mut self) -> Result<()> {
        fn clear<V: Wire>(map: &mut aya::maps::Map) -> Result<()> {
            let mut answers: HashMap<_, u64, Raw<V>> = HashMap::try_from(map)?;
            let keys = answers.keys().collect::<Result<Vec<_>, _>>()?;
            for key in keys {
                answers.remove(&key)?;
            }
            Ok(())
        }
        clear::<FlowAnswers>(self.map_mut("FLOW_ANSWERS")?)?;
        clear::<DeviceAnswers>(self.map_mut("DEVICE_ANSWERS")?)
    }

    /// As if no Initial had been opened of late.
    pub(crate) fn fill_budgets(&mut self) -> Result<()> {
        for map in ["BUDGETS", "BUDGETS_OF"] {
            let mut budgets = Array::<_, u64>::try_from(self.map_mut(map)?)?;
            for number in 0..budgets.len().min(8) {
                budgets.set(number, 0, 0)?;
            }
        }
        Ok(())
    }

    /// The losses of the tables.
    pub(crate) fn losses(&self) -> Result<Losses> {
        self.get("LOSSES", 0)
    }
}

/// Moves the calling thread into a network namespace of its own, which goes with the thread.
pub(crate) fn enter_own_namespace() -> Result<()> {
    // SAFETY: the call takes no pointer; the thread loses sight of the machine's interfaces.
    let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    ensure!(
        status == 0,
        "cannot make a network namespace: {}; run as root",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// The octets of an object that `cargo xtask build` made.
fn object(name: &str) -> Result<Vec<u8>> {
    let folder = match env::var_os("SENSOR_EBPF_OBJECT") {
        Some(object) => PathBuf::from(object)
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default(),
        None => {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/bpfel-unknown-none/kernel")
        }
    };
    let path = folder.join(name);
    fs::read(&path).with_context(|| {
        format!(
            "{} cannot be read: build it by `cargo xtask build`",
            path.display()
        )
    })
}
