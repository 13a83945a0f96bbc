//! From the embedded object to running programs over pinned maps: made new, or adopted.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::IpAddr,
    num::NonZeroUsize,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, IterableMap as _, MapData, Queue},
    programs::{Program, ProgramError, ProgramFd, SchedClassifier, Xdp},
    util::nr_cpus,
};
use aya_obj::programs::XdpAttachType;
use rustix::rand::{GetRandomFlags, getrandom};
use sensor_ebpf::{
    books::{FIRST_DEVICE, LAYOUT, Opens, Settings},
    flow::{WAYS, sets_for},
    parse::Mac,
};
use sha2::{Digest as _, Sha256};

use super::{
    Error,
    attach::{Attached, Attachments, Means},
    books::{Books, FlowLine, ReadHits},
    calls, clock,
    failed::{of_map, retried},
    lock::TablesLock,
    pins::{self, pinned},
    policy::{self, DeviceRules, Installed},
    preflight, readers, reap,
    ring::{Messages, Samples},
    shares::Shares,
    table::{Access, Raw},
    verdicts::Verdicts,
};
use crate::{
    config::{Config, Interface},
    moment::Moment,
    policy::Compiled,
    record::{Clock, Reader, Record},
};

/// The object that `cargo xtask build` made.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SENSOR_EBPF_OBJECT"));

/// Maps that outlive the daemon, by the names of the object.
pub(super) const PINNED: [&str; 23] = [
    "SETTINGS",
    "FLOW_LINES",
    "FLOW_DETAILS",
    "SPILLED",
    "DEVICE_INDEX",
    "DEVICES",
    "FREE_DEVICES",
    "INTERFACE_INDEX",
    "INTERFACES",
    "FRAGMENTS",
    "HITS",
    "DEVICE_RULES",
    "PREFIXES_V4",
    "PREFIXES_V6",
    "NAMES",
    "LEARNED",
    "HELD",
    "CHAINS",
    "RULES",
    "LOSSES",
    "SAMPLES",
    "JOURNAL",
    "POLICY_NAMES",
];

/// The daemon's hold on the kernel: programs, tables, and the locks that keep others out.
pub struct Kernel {
    programs: Ebpf,
    /// The programs whose code this process let go, or could not.
    without_code: HashSet<String>,
    books: Books,
    policy: policy::Tables,
    shares: Shares,
    read_hits: ReadHits,
    attachments: Attachments,
    pin_directory: PathBuf,
    runtime_directory: PathBuf,
    hz: u64,
    tables_made: bool,
    lock: TablesLock,
}

impl Kernel {
    /// Loads the programs over the pinned tables, which are made where there are none.
    ///
    /// # Errors
    ///
    /// A requirement is missing (see [`preflight`]), another sensor has the tables, or the kernel refuses a
    /// call.
    pub fn load(config: &Config) -> Result<Self, Error> {
        let directory = &config.daemon.pin_directory;
        preflight::check(directory)?;
        let pins = |source| Error::PinDirectory {
            path: directory.clone(),
            source,
        };
        fs::create_dir_all(directory).map_err(pins)?;
        let lock = TablesLock::take(directory)?;
        discard_unusable(directory)?;

        let mut programs = load_object(directory, config)?;
        loaded(&mut programs, "clock")?;
        let hz = clock::rate(program(&mut programs, "clock"))?;

        let tables_made = initialise(directory, config, hz)?;
        let books = Books::open(directory, Access::Write)?;
        let mut kernel = Self {
            programs,
            without_code: HashSet::new(),
            books,
            policy: policy::Tables::open(directory)?,
            shares: Shares::open(directory)?,
            read_hits: ReadHits::default(),
            attachments: Attachments::new()?,
            pin_directory: directory.clone(),
            runtime_directory: config.daemon.runtime_directory.clone(),
            hz,
            tables_made,
            lock,
        };
        reap::recover(&mut kernel.books)?;
        kernel.shares.recover(&kernel.books)?;
        kernel.books.give_shares_of_the_ring();
        kernel.books.set_assemblies(assemblies(config));
        kernel.set_opens_initials(config.names.kernel_quic);
        kernel.share_out(|_| {})?;
        Ok(kernel)
    }

    /// The most instructions that the verifier may go through for one program, as the tests demand: half of
    /// the verifier's limit, because other kernels need more.
    pub const MOST_VERIFIED: u32 = 500_000;

    /// Loads all programs, wanted or not, and gives how many instructions the verifier went through for
    /// each; `None` where the kernel does not say.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one.
    pub fn verified(&mut self) -> Result<Vec<(String, Option<u32>)>, Error> {
        let mut verified = Vec::new();
        for (name, program) in self.programs.programs_mut() {
            let refused = |source| Error::Program {
                program: "of the object",
                source,
            };
            load_one(program).map_err(refused)?;
            let info = program.info().map_err(refused)?;
            verified.push((name.to_owned(), info.verified_instruction_count()));
        }
        Ok(verified)
    }

    /// Whether the tables were made just now; otherwise they were adopted with all their counts.
    pub fn tables_made(&self) -> bool {
        self.tables_made
    }

    /// The identity of the tables: another one means that they count from zero. It tells nothing of the secret
    /// that it is made of.
    pub fn tables_identity(&self) -> String {
        let mut digest = Sha256::new_with_prefix("identity of the tables");
        for word in self.books.settings().hash_secret {
            digest.update(word.to_le_bytes());
        }
        let digest = digest.finalize();
        digest[..16]
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect()
    }

    /// Puts the programs on an interface, or new ones in the place of those left there.
    ///
    /// # Errors
    ///
    /// Why the interface cannot be had: absent, taken, or without the wanted hook.
    pub fn attach(&mut self, interface: &Interface) -> Result<(), Error> {
        let (attachments, means) = self.parts();
        attachments.start(means, interface)
    }

    /// Compares the kernel's state on interfaces with the wanted one, and puts back missing programs and
    /// pins. A failure is logged once.
    ///
    /// # Errors
    ///
    /// When the kernel does not list the interfaces: nothing was changed.
    pub fn look(&mut self, wanted: &[Interface]) -> Result<(), Error> {
        let (attachments, means) = self.parts();
        let looked = attachments.look(means, wanted);
        self.let_code_go();
        looked
    }

    /// Lets the code of the programs go that are loaded: the kernel has it, and a copy takes a tenth of the
    /// daemon's memory. The loader keeps the code of a program that it has loaded itself, and none of one that it
    /// opens by a pin, which is there for that moment only.
    fn let_code_go(&mut self) {
        let pin = self.pin_directory.join("code");
        for (name, program) in self.programs.programs_mut() {
            if !is_loaded(program) || self.without_code.contains(name) {
                continue;
            }
            match opened_by_pin(program, &pin) {
                Ok(opened) => *program = opened,
                Err(error) => tracing::debug!("the code of program {name} stays: {error}"),
            }
            self.without_code.insert(name.to_owned());
        }
    }

    /// Pins maps and links again that lost their pins, because one without a pin ends with this process.
    ///
    /// # Errors
    ///
    /// Why not everything can be pinned there.
    pub fn keep_pins(&mut self) -> Result<(), Error> {
        let directory = &self.pin_directory;
        let maps = self.programs.maps();
        let maps: Vec<_> = maps.filter(|(name, _)| PINNED.contains(name)).collect();
        let links = self.attachments.links(directory);
        let (again, restored) = pins::restore(directory, &maps, links);
        let outcome = restored.and(readers::keep_pins(&self.programs, directory));
        if again.is_empty() {
            return outcome;
        }
        // Where the folder itself was removed, the lock is on a folder that no process finds any more.
        if !self.lock.is_on(directory) {
            self.lock = TablesLock::take(directory)?;
        }
        tracing::warn!(
            "pins were missing at {} and are there again: {}",
            directory.display(),
            again.join(", ")
        );
        outcome
    }

    fn parts(&mut self) -> (&mut Attachments, Means<'_>) {
        let means = Means {
            object: &mut self.programs,
            books: &self.books,
            directory: &self.pin_directory,
            runtime_directory: &self.runtime_directory,
        };
        (&mut self.attachments, means)
    }

    /// Fits the programs of an earlier start to the configuration: those on interfaces that are not in it
    /// any more come off.
    ///
    /// # Errors
    ///
    /// When the kernel does not list the interfaces: nothing was changed.
    pub fn tidy(&mut self, config: &Config) -> Result<(), Error> {
        let (attachments, means) = self.parts();
        attachments.tidy(means, &config.interfaces)
    }

    /// Counts a reload, applied or refused.
    pub fn count_reload(&mut self, applied: bool) {
        self.books.count_reload(applied);
    }

    /// The interfaces that have programs.
    pub fn attached(&self) -> &[Attached] {
        self.attachments.attached()
    }

    /// Whether every wanted interface has every program that it should, as of the last look.
    pub fn is_whole(&self) -> bool {
        self.attachments.is_whole()
    }

    /// Puts a policy in force: old or new at every moment, never neither and never both. `learned`
    /// has the rules that refuse every name that a device knows at an address; `announce` is called with
    /// the generation and the policy, whose names are in the kernel's memory alone by then, right before
    /// that is in force.
    ///
    /// # Errors
    ///
    /// When it does not fit into the tables; the old one stays in force.
    pub fn install(
        &mut self,
        compiled: Compiled,
        who: &DeviceRules,
        learned: &HashMap<(Mac, IpAddr), u64>,
        announce: impl FnOnce(u32, Arc<Compiled>),
    ) -> Result<Installed, Error> {
        let tables = &mut self.policy;
        policy::install(&self.books, tables, compiled, who, learned, announce)
    }

    /// The identities of policies in counters, by their names; they keep them over restarts.
    ///
    /// # Errors
    ///
    /// When there were too many different names.
    pub fn identities<'n>(
        &mut self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<HashMap<String, u16>, Error> {
        policy::identities(&self.books, &mut self.policy, names)
    }

    /// Replaces the rules of devices, and has every flow decided again. `before` holds those that the
    /// kernel has; `None`: they are read from it. `announce` is called with the generation right before
    /// that is in force.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map: it may have a part of the new rules.
    pub fn set_devices(
        &mut self,
        before: Option<&DeviceRules>,
        who: &DeviceRules,
        announce: impl FnOnce(u32),
    ) -> Result<(), Error> {
        policy::set_devices(&self.books, &mut self.policy, before, who, announce)
    }

    /// Sets the rules that refuse every name that a device knows at an address; no rule: the address is
    /// forgotten.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the map.
    pub fn set_learned(
        &mut self,
        learned: impl IntoIterator<Item = ((Mac, IpAddr), u64)>,
    ) -> Result<(), Error> {
        policy::set_learned(&self.books, &mut self.policy, learned)
    }

    /// The rules by which the programs decide at the moment.
    #[cfg(test)]
    pub fn seen(&self) -> Result<policy::Seen, Error> {
        policy::seen(&self.books, &self.policy)
    }

    /// The ring of samples; at most once.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the map.
    pub fn samples(&mut self) -> Result<Samples, Error> {
        Samples::open(&self.pin_directory)
    }

    /// The programs' own messages; at most once.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the ring.
    pub fn messages(&mut self) -> Result<Messages, Error> {
        Messages::open(&mut self.programs)
    }

    /// The judgements of all flows, for the judgement of names; at most once.
    pub fn verdicts(&self) -> Verdicts {
        Verdicts::over(&self.books)
    }

    /// Sets how many payloads of a new flow are wanted in each direction, until its name is known.
    pub fn set_watched_payloads(&self, payloads: u8) {
        self.books.set_watched_payloads(payloads);
    }

    /// Sets whether the kernel opens the Initials of QUIC, where it can. The log says where it cannot.
    pub fn set_opens_initials(&mut self, wanted: bool) {
        let opens = match wanted {
            true => readers::opens(&mut self.programs),
            false => Opens::Off,
        };
        self.books.set_opens_initials(opens);
    }

    /// Sets how long the packets of servers wait for a verdict at most.
    pub fn set_hold(&self, hold: Duration) {
        self.books.set_hold(hold);
    }

    /// Sets which devices are settled in any case, and after how much silence devices leave.
    pub fn set_shares(&mut self, named: impl IntoIterator<Item = Mac>, retire_after: Duration) {
        let named = named.into_iter().map(Mac::word).collect();
        self.shares.configure(named, retire_after);
    }

    /// Gives each device its bytes of the ring, and has devices leave that were silent for long, or whose
    /// place others need; emits the last counts of their flows.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map.
    pub fn share_out(&mut self, emit: impl FnMut(Record)) -> Result<(), Error> {
        let clock: &mut Xdp = program(&mut self.programs, "clock");
        let now = clock::now(clock, self.hz)?;
        self.shares.keep(&mut self.books, now.jiffies, emit)
    }

    /// Chooses flows, as [`Books::choose_flows`] does.
    pub fn choose_flows(
        &self,
        devices: Option<&HashSet<Mac>>,
        most: Option<NonZeroUsize>,
    ) -> (Vec<u32>, u64) {
        self.books.choose_flows(devices, most)
    }

    /// The flows in these slots, as [`Books::flow_lines`] gives them.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map.
    pub fn flow_lines(&self, slots: &[u32]) -> Result<Vec<FlowLine>, Error> {
        self.books.flow_lines(slots)
    }

    /// Slots of the flow table in which no flow could be, since the daemon began: each was given back.
    pub fn damaged_flows(&self) -> u64 {
        self.books.damaged
    }

    /// How jiffies relate to the time of day.
    pub fn clock(&self) -> Clock {
        self.books.clock()
    }

    /// Reaps idle flows, has the reader take their last counts, and reads everything. The times that it gives are in
    /// steady time.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map.
    pub fn read(
        &mut self,
        idle_after: Duration,
        moment: &Moment,
        mut reader: impl Reader,
    ) -> Result<(), Error> {
        let clock: &mut Xdp = program(&mut self.programs, "clock");
        let now = clock::now(clock, self.hz)?;
        let wall = Clock::at(self.hz, now.jiffies, moment.wall);
        self.books.set_clock(&now, wall);
        let idle = idle_after.as_millis() as u64 * self.hz / 1000;
        reap::reap(&mut self.books, now.jiffies, idle, |record| {
            reader.take(record);
        })?;
        let steady = Clock::at(self.hz, now.jiffies, moment.steady);
        self.books.read(steady, &mut self.read_hits, reader)
    }
}

/// A program of the embedded object.
///
/// # Panics
///
/// When the object has no such program of that type: it is our own.
pub(super) fn program<'a, T>(programs: &'a mut Ebpf, name: &str) -> &'a mut T
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program>,
{
    programs
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .expect("the embedded object has the program")
}

/// A program of the embedded object, loaded where it was not before.
pub(super) fn loaded<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a Program, Error> {
    let program: &mut Program = program(programs, name);
    load_one(program).map_err(|source| Error::Program {
        program: name,
        source,
    })?;
    Ok(program)
}

fn load_one(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp(program) if program.fd().is_err() => program.load(),
        Program::SchedClassifier(program) if program.fd().is_err() => program.load(),
        _ => Ok(()),
    }
}

fn is_loaded(program: &Program) -> bool {
    match program {
        Program::Xdp(program) => program.fd().is_ok(),
        Program::SchedClassifier(program) => program.fd().is_ok(),
        _ => false,
    }
}

/// A loaded program, opened once more by a pin that is taken back.
fn opened_by_pin(program: &mut Program, pin: &Path) -> anyhow::Result<Program> {
    // That of a daemon that was killed in between.
    let _ = fs::remove_file(pin);
    let opened = match program {
        Program::Xdp(program) => {
            program.pin(pin)?;
            Xdp::from_pin(pin, XdpAttachType::Interface).map(Program::Xdp)
        }
        Program::SchedClassifier(program) => {
            program.pin(pin)?;
            SchedClassifier::from_pin(pin).map(Program::SchedClassifier)
        }
        _ => anyhow::bail!("it is of another type"),
    };
    fs::remove_file(pin)?;
    Ok(opened?)
}

/// A descriptor of a loaded program.
pub(super) fn descriptor(program: &Program, name: &'static str) -> Result<ProgramFd, Error> {
    let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
    fd.map_err(|source| Error::Program {
        program: name,
        source,
    })
}

fn load_object(directory: &Path, config: &Config) -> Result<Ebpf, Error> {
    make_names(directory)?;
    let mut loader = EbpfLoader::new();
    for name in PINNED {
        loader.map_pin_path(name, directory.join(name));
    }
    load(
        loader,
        config.flow_table.capacity,
        config.device_table.capacity,
        assemblies(config),
    )
}

/// Makes the map that holds the tables of names, where there is none.
///
/// By hand, because the loader would describe the types of the pattern table (BTF), and Linux before 6.3
/// takes no table in its place whose description differs. Tables that are made later have none.
fn make_names(directory: &Path) -> Result<(), Error> {
    const NAMES: &str = "NAMES";
    const SIDES: u32 = 2;

    let path = directory.join(NAMES);
    if path.exists() {
        return Ok(());
    }
    let pattern = policy::empty_name_table()?;
    let made = calls::array_of_maps(SIDES, pattern.map().fd().as_fd()).map_err(|source| {
        Error::System {
            what: "the map of the tables of names cannot be made",
            source,
        }
    })?;
    MapData::from_fd(made)
        .map_err(of_map(NAMES))?
        .pin(&path)
        .map_err(|error| Error::PinDirectory {
            path,
            source: io::Error::other(error),
        })
}

/// Streams that the kernel puts together at a time, so that it judges the names in them: as many as the
/// configuration says, else as many as suit the memory of the machine, because each takes 4.6 KiB.
fn assemblies(config: &Config) -> u32 {
    config.names.assemblies.unwrap_or_else(|| {
        let system = rustix::system::sysinfo();
        assemblies_by_default(system.totalram as u64 * u64::from(system.mem_unit))
    })
}

/// How many streams the kernel puts together on a machine with so many bytes of memory.
const fn assemblies_by_default(memory: u64) -> u32 {
    const GIB: u64 = 1 << 30;

    if memory < GIB { 256 } else { 1_024 }
}

/// Loads the object with room for so many flows, devices, and streams that are put together.
pub(super) fn load(
    mut loader: EbpfLoader<'_>,
    flows: u32,
    devices: u32,
    assemblies: u32,
) -> Result<Ebpf, Error> {
    // Each CPU has one of its own, for hellos that are whole in one packet.
    let cpus = nr_cpus().map_err(|(_, source)| Error::System {
        what: "the kernel does not say how many CPUs it may have",
        source,
    })? as u32;
    loader
        .map_max_entries("ASSEMBLIES", assemblies + cpus)
        .map_max_entries("ASSEMBLIES_OF", devices + FIRST_DEVICE)
        .map_max_entries("BUDGETS_OF", devices + FIRST_DEVICE)
        .map_max_entries("FLOW_LINES", sets_for(flows))
        .map_max_entries("FLOW_DETAILS", sets_for(flows) * WAYS)
        .map_max_entries("SPILLED", sets_for(flows))
        .map_max_entries("DEVICES", devices + FIRST_DEVICE)
        .map_max_entries("DEVICE_INDEX", devices)
        .map_max_entries("FREE_DEVICES", devices);
    Ok(loader.load(OBJECT)?)
}

/// Removes pins that no daemon can adopt: of another layout, or of a start that was cut off before
/// the settings were written. Nothing is attached in the second case.
///
/// # Errors
///
/// Why the tables cannot be looked at. They stay with all their counts, because the reason may be gone at the
/// next start.
fn discard_unusable(directory: &Path) -> Result<(), Error> {
    let refused = |source| Error::PinDirectory {
        path: directory.to_owned(),
        source,
    };
    let mut there = fs::read_dir(directory).map_err(refused)?;
    if there.next().is_none() {
        return Ok(());
    }
    let layout = Books::open(directory, Access::Read).map(|books| books.settings().layout);
    match layout {
        Ok(LAYOUT) => return Ok(()),
        Ok(0) => {}
        Ok(_) => tracing::warn!(
            "the tables at {} are of another version of the sensor: they are made new and the \
             counters start at zero",
            directory.display()
        ),
        Err(error) if error.is_missing() || error.is_of_shape() => tracing::warn!(
            "the tables at {} cannot be adopted ({error}): they are made new and the counters start at \
             zero",
            directory.display()
        ),
        Err(error) => return Err(error),
    }
    pins::remove_all(directory).map_err(refused)
}

/// Fills the queues and writes the settings of tables that were just made; gives whether they were.
fn initialise(directory: &Path, config: &Config, hz: u64) -> Result<bool, Error> {
    let map = of_map("SETTINGS");
    let mut settings: Array<_, Raw<Settings>> =
        Array::try_from(pinned(directory, "SETTINGS")?).map_err(&map)?;
    let Raw(before) = settings.get(&0, 0).map_err(&map)?;
    if before.layout == LAYOUT {
        let changed = |what: &str, found: u64, wanted: u32| {
            if found != u64::from(wanted) {
                tracing::warn!(
                    "the {what} table has room for {found}, the configuration asks for {wanted}: \
                     it changes after `sensor unload`, which starts the counters at zero"
                );
            }
        };
        changed("flow", before.flow_slots, config.flow_table.capacity);
        return Ok(false);
    }
    let devices = FIRST_DEVICE..FIRST_DEVICE + config.device_table.capacity;
    fill(
        &mut queue(directory, "FREE_DEVICES")?,
        devices,
        "FREE_DEVICES",
    )?;

    let made = new_settings(config.flow_table.capacity, hz)?;
    // Last: settings with the layout's number say that the tables are whole.
    settings.set(0, Raw(made), 0).map_err(map)?;
    Ok(true)
}

/// The settings of tables that were just made, with room for so many flows.
pub(super) fn new_settings(flows: u32, hz: u64) -> Result<Settings, Error> {
    let mut secret = [0; 7 * 8];
    getrandom(&mut secret, GetRandomFlags::empty()).map_err(|errno| Error::System {
        what: "no random numbers from the system",
        source: errno.into(),
    })?;
    let mut hash_secret = [0; 6];
    let (words, _) = secret.as_chunks::<8>();
    for (word, octets) in hash_secret.iter_mut().zip(words) {
        *word = u64::from_ne_bytes(*octets);
    }
    Ok(Settings {
        generation: 1,
        flow_sets: sets_for(flows),
        flow_slots: u64::from(flows),
        hash_secret,
        // Not zero: that would be no signature.
        reset_signature: words
            .last()
            .map_or(1, |octets| u64::from_ne_bytes(*octets) | 1),
        layout: LAYOUT,
        hz,
        ..Settings::default()
    })
}

pub(super) fn fill(
    queue: &mut Queue<MapData, u32>,
    numbers: impl IntoIterator<Item = u32>,
    map: &'static str,
) -> Result<(), Error> {
    for number in numbers {
        retried(map, || queue.push(number, 0))?;
    }
    Ok(())
}

fn queue(directory: &Path, map: &'static str) -> Result<Queue<MapData, u32>, Error> {
    Queue::try_from(pinned(directory, map)?).map_err(of_map(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_has_a_small_pool() {
        for (mib, expected) in [(64, 256), (1_023, 256), (1_024, 1_024), (65_536, 1_024)] {
            assert_eq!(assemblies_by_default(mib << 20), expected, "{mib}");
        }
    }
}
