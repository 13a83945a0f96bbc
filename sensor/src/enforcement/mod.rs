//! Keeps the policies in force: those of the configuration, the overrides by commands, and the devices to
//! which each rule applies at the moment.

pub mod devices;
mod explain;
mod kept;
mod learned;
pub mod pauses;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use sensor_ebpf::{
    flow::FlowKey,
    parse::{Family, Mac},
    policy::{Decision, MAX_DEVICES, Verdict},
};

use self::{
    learned::Learned,
    pauses::{Pause, Pauses},
};
use crate::{
    aggregate::{
        address_names::{AddressNames, Place},
        refused::Cause,
    },
    catalog::{Catalog, file_stamp::FileStamp},
    classify,
    config::{Config, DeviceOverride},
    model::{self, Device},
    moment::Moment,
    policy::{
        ALLOWED, ActiveRules, BLOCKED, Compiled, DeviceFacts, DeviceSelector, Fitting, Holds,
        Override, Policy, PolicyLists, TooLarge, TooMuch, Zone, compile,
        explain::{Deciding, NamedBy, RefusedBefore, named_by, refused_before_a_name},
        fitting, policy_names, recompile,
    },
    source::kernel::{DeviceRules, Installed, Kernel},
    state::devices::Remembered,
};

/// The file of the overrides by commands, in the state directory.
const FILE: &str = "commands.json";

/// At most so many seconds lie between two writes of how much is left of the overrides that end: an
/// override may hold for so much longer after a boot that nobody foresaw.
const KEEP_EVERY: f64 = 10.0 * 60.0;

/// The most overrides that can hold at a time.
pub const MOST_OVERRIDES: usize = 1_000;

/// Everything that policies depend on beside themselves, and the kernel, in which they are put in force.
pub struct Context<'a> {
    /// The kernel in which they are put in force.
    pub kernel: &'a mut Kernel,
    /// The configuration.
    pub config: &'a Config,
    /// Lists, resolvers and networks: the facts that the program has about names and addresses.
    pub catalog: &'a Catalog,
    /// The devices that were seen.
    pub devices: &'a [Device],
    /// The names that are known at addresses.
    pub names: &'a mut AddressNames,
    /// The current time.
    pub now: Moment,
}

/// Called with the new rules just before the kernel starts using them.
type Tell = Box<dyn Fn(Arc<classify::ActiveRules>) + Send>;

/// How much of the policies is put in force, where not all of it fits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PartOf {
    /// Everything, or nothing.
    All,
    /// The part that fits.
    Fitting,
}

/// The policies in force.
pub struct Enforcement {
    lists: PolicyLists,
    temporary: Vec<Override>,
    pauses: Pauses,
    /// The overrides by commands do not fit, and are not in force.
    without_commands: bool,
    /// The policies in force, where not all of the configuration's fit.
    in_part: Option<Vec<Policy>>,
    file: PathBuf,
    /// When the overrides were written last, in steady time.
    kept_at: f64,
    remembered: Remembered,
    zone: Zone,
    in_force: Arc<ActiveRules>,
    who: DeviceRules,
    /// The kernel may have rules of devices other than `who`, because a call failed midway.
    devices_unsure: bool,
    /// The number of devices without a place for rules of their own, as logged last.
    crowded_out: u64,
    learned: Learned,
    /// The names of policies in the tables, by their identities.
    policies: HashMap<u16, String>,
    tell: Tell,
}

/// The state in force, from which the next policies are prepared.
pub struct Material {
    lists: PolicyLists,
    temporary: Vec<Override>,
    /// Numbers of policies in counters, by their names.
    identities: HashMap<String, u16>,
}

/// Policies that are ready to be put in force.
pub struct Prepared {
    lists: PolicyLists,
    /// The overrides by commands at that time.
    temporary: Vec<Override>,
    compiled: Result<Compiled, TooLarge>,
}

impl Material {
    /// Reads the lists of policies and compiles everything, which takes a second of CPU time for many
    /// names. Both kernel and daemon go on meanwhile, because nothing here needs their state.
    pub fn prepare(self, policies: &[Policy], catalog: &Catalog) -> Prepared {
        let lists = PolicyLists::load(policies, catalog.room_for_names(), &self.lists);
        let (temporary, identities) = (self.temporary, &self.identities);
        let compiled = compile(policies, &temporary, catalog, &lists, identities);
        Prepared {
            lists,
            temporary,
            compiled,
        }
    }
}

impl Enforcement {
    /// With nothing in force, and with the overrides and the facts about devices from before the daemon
    /// began.
    pub fn new(config: &Config, now: impl Into<Moment>) -> Self {
        let now = now.into();
        let file = config.daemon.state_directory.join(FILE);
        let temporary = kept::read(&file, &now).unwrap_or_else(|error| {
            tracing::error!(
                "{}: {error:#}; what `sensor block` and `allow` said is left out",
                file.display()
            );
            Vec::new()
        });
        Self {
            lists: PolicyLists::default(),
            temporary,
            pauses: Pauses::new(&config.daemon.state_directory, &now),
            without_commands: false,
            in_part: None,
            file,
            kept_at: now.steady,
            remembered: Remembered::new(config, &now),
            zone: Zone::named(config.daemon.time_zone.as_deref()),
            in_force: Arc::default(),
            who: DeviceRules::default(),
            devices_unsure: false,
            crowded_out: 0,
            learned: Learned::default(),
            policies: HashMap::new(),
            tell: Box::new(|_| {}),
        }
    }

    /// Has `tell` called, from now on, with all rules that come in force.
    pub fn tell(&mut self, tell: impl Fn(Arc<classify::ActiveRules>) + Send + 'static) {
        self.tell = Box::new(tell);
    }

    /// The rules in force, for the judgement of the names that are heard.
    pub fn judge(&self) -> Arc<classify::ActiveRules> {
        judge(&self.in_force, &self.learned)
    }

    /// The lists of the policies.
    pub fn lists(&self) -> &PolicyLists {
        &self.lists
    }

    /// The files that policies may depend on, to be shown: lists and databases of networks.
    pub fn shown_lists(&self, catalog: &Catalog) -> Vec<model::PolicyList> {
        let own = catalog.files.iter();
        let own = own.map(|(file, list)| (file.as_path(), list));
        let mut shown = BTreeMap::new();
        for (file, list) in own.chain(self.lists.iter()) {
            let entry = model::PolicyList {
                list: file.display().to_string(),
                names: Some(list.names.len() as u64),
                bad_lines: Some(list.report.bad),
                modified: list.modified,
                kept: list.problem.is_some(),
                left_out: self.lists.left_out().contains(&*file.to_string_lossy()),
            };
            let is_kept = entry.kept;
            // A policy may name a file that is a `[[list]]` too.
            let place = shown.entry(file).or_insert(entry);
            place.kept |= is_kept;
        }
        for database in catalog.networks.databases() {
            let entry = model::PolicyList {
                list: database.file.display().to_string(),
                names: None,
                bad_lines: None,
                modified: database.modified,
                kept: database.problem.is_some(),
                left_out: false,
            };
            shown.entry(&database.file).or_insert(entry);
        }
        shown.into_values().collect()
    }

    /// The files of lists and databases, and how each looked when it was read.
    pub fn files<'a>(
        &'a self,
        catalog: &'a Catalog,
    ) -> impl Iterator<Item = (&'a Path, FileStamp)> {
        let own = catalog.files.iter();
        let own = own.map(|(file, list)| (file.as_path(), list));
        let lists = own.chain(self.lists.iter());
        let databases = catalog.networks.databases().iter();
        lists
            .map(|(file, list)| (file, list.look))
            .chain(databases.map(|database| (database.file.as_path(), database.look)))
    }

    /// The overrides by commands that are in force.
    pub fn temporary(&self) -> &[Override] {
        match self.without_commands {
            true => &[],
            false => &self.temporary,
        }
    }

    /// Takes the facts about devices, and restores in `devices` those from before the daemon began that are
    /// surer; they are kept for the next daemon.
    pub fn recall(&mut self, devices: &mut [Device], now: &Moment) {
        self.remembered.recall(devices, now);
    }

    /// Tells the kernel's tables which devices are settled beforehand: those that the configuration names,
    /// and those that were settled when the last daemon ended; and after how much silence devices leave.
    pub fn share(&self, kernel: &mut Kernel, config: &Config) {
        let named = config.devices.iter().map(|device| Mac::new(device.mac));
        let remembered = self.remembered.settled().map(Mac::new);
        kernel.set_shares(named.chain(remembered), config.device_table.retire_after);
    }

    /// Writes the facts about devices, and how much is left of overrides, for the next daemon.
    pub fn end(&mut self, now: &Moment) {
        self.remembered.keep(now);
        self.pauses.end(now);
        if self.is_running_out()
            && let Err(error) = kept::write(&self.file, &self.temporary, now)
        {
            tracing::warn!("{}: {error:#}", self.file.display());
        }
    }

    /// Whether an override holds for a time only.
    fn is_running_out(&self) -> bool {
        let mut said = self.temporary.iter();
        said.any(|said| said.holds != Holds::Always)
    }

    /// The facts about a device by which policies select it.
    pub fn facts<'a>(
        &'a self,
        mac: Mac,
        config: &'a Config,
        devices: &'a [Device],
    ) -> DeviceFacts<'a> {
        let seen = devices.iter().find(|device| device.mac == Some(mac));
        let mut configured = config.devices.iter();
        let configured = configured.find(|device| device.mac == mac.octets());
        facts(mac.octets(), configured, seen, &self.remembered)
    }

    /// The policies that refuse flows of these devices (`None`: of all) whatever name the flows would say.
    pub fn refused_before_a_name(
        &self,
        selector: Option<&DeviceSelector>,
        config: &Config,
        catalog: &Catalog,
        devices: &[Device],
        now: Moment,
    ) -> Vec<RefusedBefore> {
        let (seen, configured) = (seen(devices), configured(config));
        let named = selector.into_iter().filter_map(|selector| match selector {
            DeviceSelector::Mac(mac) => Some(*mac),
            _ => None,
        });
        let all: BTreeSet<_> = seen
            .keys()
            .copied()
            .chain(self.remembered.devices())
            .chain(config.devices.iter().map(|device| device.mac))
            .chain(named)
            .collect();
        let all = all.into_iter().map(|mac| {
            let configured = configured.get(&mac).copied();
            facts(mac, configured, seen.get(&mac).copied(), &self.remembered)
        });
        let meant: Vec<_> = all
            .filter(|facts| selector.is_none_or(|selector| facts.are(selector)))
            .collect();
        refused_before_a_name(&self.deciding(config, catalog, now), &meant)
    }

    /// The policy (`None`: a command) and the action that refuse a flow of a device to an address that says
    /// no name, because every name that the device knows there is refused.
    pub fn learned(
        &self,
        address: IpAddr,
        device: &DeviceFacts<'_>,
        now: Moment,
    ) -> Option<(Option<String>, Verdict)> {
        let compiled = &self.in_force.compiled;
        let place = (Mac::new(device.mac), address);
        let rules = self.learned.at()(place)? & compiled.rules_of(device, &self.zone, now.known());
        let rule = compiled.rules.get(rules.trailing_zeros() as usize)?;
        let policy = self.policies.get(&rule.policy).cloned();
        let policy = policy.filter(|name| name != BLOCKED && name != ALLOWED);
        Some((policy, Verdict::from_number(rule.verdict)))
    }

    /// Why a policy refused a name in lower case. `targets` gives the names to which a DNS answer led the device
    /// from there.
    pub fn cause<'n>(
        &self,
        policy: u16,
        name: &'n str,
        targets: impl FnOnce() -> &'n [Box<str>],
        config: &Config,
        catalog: &Catalog,
    ) -> Cause {
        let called = self.policies.get(&policy);
        let mut policies = self.policies(config).iter();
        let policy = policies.find(|policy| called == Some(&policy.name));
        let about = |name: &str| match policy {
            Some(policy) => named_by(policy, catalog, &self.lists, name),
            None => {
                let mut said = self.temporary().iter();
                let holds = |said: &Override| {
                    let above = name.strip_suffix(&*said.domain);
                    said.blocks
                        && above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
                };
                said.any(holds).then_some(NamedBy::Policy)
            }
        };
        let by_target = || {
            let mut targets = targets().iter();
            targets.find_map(|target| Some((&**target, about(target)?)))
        };
        let found = about(name).map(|about| (name, about)).or_else(by_target);
        let Some((refused, about)) = found else {
            return Cause::default();
        };
        Cause {
            alias_of: (refused != name).then(|| refused.to_owned()),
            listed: match about {
                NamedBy::Policy => None,
                NamedBy::List(listed) => Some((listed.list.to_owned(), listed.line)),
            },
        }
    }

    /// The refusal of a flow by rules about its address and port; `None`: these do not refuse it.
    pub fn refused_by_address(&self, key: &FlowKey) -> Option<Decision> {
        let decision = self.in_force.judge_address(key);
        decision.verdict.refuses().then_some(decision)
    }

    /// The time zone of schedules.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Everything that a decision depends on, for an explanation.
    pub fn deciding<'a>(
        &'a self,
        config: &'a Config,
        catalog: &'a Catalog,
        now: Moment,
    ) -> Deciding<'a> {
        Deciding {
            policies: self.policies(config),
            temporary: self.temporary(),
            catalog,
            lists: &self.lists,
            zone: &self.zone,
            now: now.known(),
            offset: now.offset(),
        }
    }

    /// Reads the lists of policies, where nothing is put in force.
    pub fn read_lists(&mut self, config: &Config, catalog: &Catalog) {
        let room = catalog.room_for_names();
        self.lists = PolicyLists::load(&config.policies, room, &self.lists);
    }

    /// The policies in force.
    fn policies<'a>(&'a self, config: &'a Config) -> &'a [Policy] {
        self.in_part.as_deref().unwrap_or(&config.policies)
    }

    /// The limits that a configuration exceeds, whose lists were read: without the overrides by commands,
    /// and with them.
    pub fn too_large(
        &self,
        config: &Config,
        catalog: &Catalog,
    ) -> (Option<TooLarge>, Option<TooLarge>) {
        let error = |temporary: &[Override]| {
            let policies = &config.policies;
            let names = policy_names(policies, temporary).map(str::to_owned);
            let identities = names.zip(1..).collect();
            let compiled = compile(policies, temporary, catalog, &self.lists, &identities);
            compiled
                .and_then(|compiled| self.check_devices(&compiled, config))
                .err()
        };
        match error(&[]) {
            None if !self.temporary.is_empty() => (None, error(&self.temporary)),
            without => (without, None),
        }
    }

    /// Puts a configuration in force where nothing is: as much of it as fits. The rest is logged.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn start(&mut self, circumstances: Context<'_>) -> anyhow::Result<Installed> {
        self.load(PartOf::Fitting, circumstances)
    }

    /// Puts a configuration in force, lists read anew.
    ///
    /// # Errors
    /// It does not fit, or the kernel refuses it; the earlier policies stay in force.
    pub fn install(&mut self, circumstances: Context<'_>) -> anyhow::Result<Installed> {
        self.load(PartOf::All, circumstances)
    }

    fn load(&mut self, part: PartOf, circumstances: Context<'_>) -> anyhow::Result<Installed> {
        let config = circumstances.config;
        let room = circumstances.catalog.room_for_names();
        let lists = PolicyLists::load(&config.policies, room, &self.lists);
        let zone = Zone::named(config.daemon.time_zone.as_deref());
        let installed = self.put(part, &config.policies, lists, None, &zone, circumstances)?;
        self.zone = zone;
        Ok(installed)
    }

    /// The material to prepare policies with these names elsewhere, while the present ones are in force.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn material<'p>(
        &self,
        kernel: &mut Kernel,
        policies: impl IntoIterator<Item = &'p str>,
    ) -> anyhow::Result<Material> {
        let names = policies.into_iter().chain([BLOCKED, ALLOWED]);
        Ok(Material {
            lists: self.lists.clone(),
            temporary: self.temporary.clone(),
            identities: kernel.identities(names)?,
        })
    }

    /// Puts policies in force that were prepared while others were in force, with the overrides of
    /// meanwhile.
    ///
    /// # Errors
    /// As [`install`](Self::install).
    pub fn install_prepared(
        &mut self,
        prepared: Prepared,
        circumstances: Context<'_>,
    ) -> anyhow::Result<Installed> {
        let config = circumstances.config;
        let zone = Zone::named(config.daemon.time_zone.as_deref());
        let Prepared {
            lists,
            temporary,
            compiled,
        } = prepared;
        let compiled = match self.temporary == temporary {
            true => Some(compiled?),
            false => None,
        };
        let all = PartOf::All;
        let installed = self.put(all, &config.policies, lists, compiled, &zone, circumstances)?;
        self.zone = zone;
        Ok(installed)
    }

    /// Takes an override by a command, and puts it in force at once. It survives the daemon.
    ///
    /// # Errors
    /// As [`install`](Self::install), and where the file cannot be written: then the override is in force
    /// until the daemon ends.
    pub fn say(&mut self, said: Override, circumstances: Context<'_>) -> anyhow::Result<()> {
        let now = circumstances.now;
        let mut temporary = self.temporary.clone();
        temporary.retain(|other| {
            other.holds.at(now.steady)
                && !(other.domain == said.domain && other.device == said.device)
        });
        anyhow::ensure!(
            temporary.len() < MOST_OVERRIDES,
            "commands have said {MOST_OVERRIDES} things that still hold: put some of them into the \
             configuration"
        );
        temporary.push(said);
        self.hold(temporary, circumstances)
    }

    /// Takes back the override of this name for these devices, and gives it; `None` where there is none.
    ///
    /// # Errors
    /// As [`say`](Self::say).
    pub fn forget(
        &mut self,
        domain: &str,
        device: Option<&DeviceSelector>,
        circumstances: Context<'_>,
    ) -> anyhow::Result<Option<Override>> {
        let mut temporary = self.temporary.clone();
        temporary.retain(|said| said.holds.at(circumstances.now.steady));
        let place = temporary
            .iter()
            .position(|said| said.domain == domain && said.device.as_ref() == device);
        let Some(place) = place else {
            return Ok(None);
        };
        let forgotten = temporary.remove(place);
        self.hold(temporary, circumstances)?;
        Ok(Some(forgotten))
    }

    /// The pauses that hold.
    pub fn pauses(&self) -> &[Pause] {
        self.pauses.all()
    }

    /// Has policies and blocks refuse nothing to the devices of a pause, at once. It survives the daemon.
    ///
    /// # Errors
    /// There are too many pauses, the kernel refuses it, or the file cannot be written: then the pause holds
    /// until it is over or the daemon ends.
    pub fn pause(&mut self, pause: Pause, circumstances: Context<'_>) -> anyhow::Result<()> {
        let before = self.pauses.all().to_vec();
        self.pauses.add(pause)?;
        self.pause_only_these(before, circumstances)
    }

    /// Ends the pause of these devices (`None`: every pause), and gives those that it ended.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume(
        &mut self,
        device: Option<&DeviceSelector>,
        circumstances: Context<'_>,
    ) -> anyhow::Result<Vec<Pause>> {
        let before = self.pauses.all().to_vec();
        let ended = self.pauses.remove(device);
        if !ended.is_empty() {
            self.pause_only_these(before, circumstances)?;
        }
        Ok(ended)
    }

    /// Puts the pauses in force in the place of those of before, and writes them to the file.
    fn pause_only_these(
        &mut self,
        before: Vec<Pause>,
        circumstances: Context<'_>,
    ) -> anyhow::Result<()> {
        let now = circumstances.now;
        if let Err(error) = self.follow(circumstances) {
            self.pauses.restore(before);
            return Err(error);
        }
        self.pauses.write(&now).with_context(|| {
            format!(
                "it is in force, but not after the daemon ends: {} cannot be written; \
                 `daemon.state_directory` says where it is to be",
                self.pauses.file().display()
            )
        })
    }

    /// Puts these overrides in force in the place of the earlier ones, and writes them to the file.
    fn hold(&mut self, temporary: Vec<Override>, circumstances: Context<'_>) -> anyhow::Result<()> {
        let now = circumstances.now;
        let before = std::mem::replace(&mut self.temporary, temporary);
        if let Err(error) = self.put_again(PartOf::All, &before, circumstances) {
            self.temporary = before;
            return Err(error);
        }
        self.kept_at = now.steady;
        kept::write(&self.file, &self.temporary, &now).with_context(|| {
            format!(
                "it is in force, but not after the daemon ends: {} cannot be written; \
                 `daemon.state_directory` says where it is to be",
                self.file.display()
            )
        })
    }

    /// Follows the changes that time and identities bring: overrides that are over, schedules, devices that
    /// became known, names that came to addresses and went.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn keep(&mut self, circumstances: Context<'_>) -> anyhow::Result<()> {
        let now = circumstances.now;
        self.pauses.keep(&now, KEEP_EVERY);
        let has_begun = self.begin_rests(&now);
        let mut said = self.temporary.iter();
        if said.any(|said| !said.holds.at(now.steady)) {
            let before = self.temporary.clone();
            self.temporary.retain(|said| said.holds.at(now.steady));
            if let Err(error) = self.put_again(PartOf::Fitting, &before, circumstances) {
                // The next tick tries again.
                self.temporary = before;
                return Err(error);
            }
            self.keep_rests(&now);
            return Ok(());
        }
        if has_begun || self.is_running_out() && now.steady - self.kept_at >= KEEP_EVERY {
            self.keep_rests(&now);
        }
        self.follow(circumstances)
    }

    /// Gives each device the rules that apply to it now, and the addresses those of their names.
    fn follow(&mut self, circumstances: Context<'_>) -> anyhow::Result<()> {
        let Context {
            kernel,
            config,
            devices,
            names,
            now,
            ..
        } = circumstances;
        let compiled = Arc::clone(&self.in_force.compiled);
        let (who, crowded_out) = self.who(&compiled, config, &self.zone, devices, now.known());
        self.tell_crowd(crowded_out);
        if who != self.who || self.devices_unsure {
            let mut in_force = None;
            // A call that failed may have been done in part.
            let before = (!self.devices_unsure).then_some(&self.who);
            let set = kernel.set_devices(before, &who, |generation| {
                in_force = Some(self.announce(generation, compiled, &who, &self.learned));
            });
            self.devices_unsure = set.is_err();
            set?;
            self.take(in_force, who);
        }
        self.learn(kernel, names, now.steady)
    }

    /// Has the rests of overrides that were left at a boot run from now on, where the clock is right. Gives
    /// whether one began to run.
    fn begin_rests(&mut self, now: &Moment) -> bool {
        let mut has_begun = false;
        for said in &mut self.temporary {
            if let Holds::Rest(rest) = said.holds
                && now.is_known
            {
                said.holds = Holds::Until(now.steady + rest);
                has_begun = true;
            }
        }
        has_begun
    }

    /// Writes how much is left of the overrides.
    fn keep_rests(&mut self, now: &Moment) {
        self.kept_at = now.steady;
        if let Err(error) = kept::write(&self.file, &self.temporary, now) {
            tracing::warn!("{}: {error:#}", self.file.display());
        }
    }

    /// Puts the same policies in force once more, with other overrides.
    fn put_again(
        &mut self,
        part: PartOf,
        said_before: &[Override],
        circumstances: Context<'_>,
    ) -> anyhow::Result<Installed> {
        let policies = self.policies(circumstances.config).to_vec();
        let (lists, zone) = (self.lists.clone(), self.zone.clone());
        let names = policy_names(&policies, &self.temporary);
        let identities = circumstances.kernel.identities(names)?;
        // Of a million names, this visits only those whose rules change.
        let compiled = match self.without_commands {
            true => None,
            false => recompile(
                &self.in_force.compiled,
                (said_before, &self.temporary),
                &policies,
                circumstances.catalog,
                &lists,
                &identities,
            ),
        };
        self.put(part, &policies, lists, compiled, &zone, circumstances)
    }

    fn put(
        &mut self,
        part: PartOf,
        policies: &[Policy],
        lists: PolicyLists,
        compiled: Option<Compiled>,
        zone: &Zone,
        circumstances: Context<'_>,
    ) -> anyhow::Result<Installed> {
        let Context {
            kernel,
            config,
            catalog,
            devices,
            names,
            now,
        } = circumstances;
        let said = &self.temporary;
        let identities = kernel.identities(policy_names(policies, said))?;
        let fitting = match part {
            PartOf::Fitting if compiled.is_none() => {
                fitting(policies, said, catalog, &lists, &identities)
            }
            PartOf::Fitting | PartOf::All => Fitting {
                compiled: match compiled {
                    Some(compiled) => compiled,
                    None => compile(policies, said, catalog, &lists, &identities)?,
                },
                policies: policies.to_vec(),
                with_commands: true,
                lists,
            },
        };
        let compiled = fitting.compiled;
        let (who, crowded_out) = self.who(&compiled, config, zone, devices, now.known());
        if part == PartOf::All {
            self.check_devices(&compiled, config)?;
        }
        self.tell_crowd(crowded_out);
        // The rules have other numbers than before.
        let learned = Learned::of(names, now.steady, |name, targets| {
            compiled.refusing(name, targets)
        });
        let mut in_force = None;
        let installed = kernel.install(compiled, &who, &learned.all(), |generation, compiled| {
            in_force = Some(self.announce(generation, compiled, &who, &learned));
        });
        if installed.is_err() {
            self.learned.look_afresh();
        }
        let installed = installed?;
        self.learned = learned;
        self.devices_unsure = false;
        self.take(in_force, who);
        self.policies = identities
            .into_iter()
            .map(|(name, id)| (id, name))
            .collect();
        self.lists = fitting.lists;
        self.without_commands = !fitting.with_commands;
        let are_all = fitting.policies.len() == config.policies.len();
        self.in_part = (!are_all).then_some(fitting.policies);
        Ok(installed)
    }

    /// The rules of each device at a time: of those that were seen or are remembered, and of those that are
    /// named. Where not all have a place, those that the owner named come first, then those that are
    /// settled. The others have the default rules, and are counted, so that made-up addresses displace
    /// neither.
    fn who(
        &self,
        compiled: &Compiled,
        config: &Config,
        zone: &Zone,
        devices: &[Device],
        now: Option<f64>,
    ) -> (DeviceRules, u64) {
        let seen = seen(devices);
        let configured = configured(config);
        let named: HashSet<_> = self.named(config).collect();
        let settled: HashSet<_> = self.remembered.settled().collect();
        let all: BTreeSet<_> = seen
            .keys()
            .copied()
            .chain(self.remembered.devices())
            .chain(named.iter().copied())
            .collect();
        let refusing = refusing(compiled);
        let mut default = compiled.default_rules(zone, now);
        if self.pauses.are_of_all() {
            default &= !refusing;
        }
        let rules = all.into_iter().map(|mac| {
            let configured = configured.get(&mac).copied();
            let facts = facts(mac, configured, seen.get(&mac).copied(), &self.remembered);
            let rules = compiled.rules_of(&facts, zone, now);
            match self.pauses.of(&facts) {
                Some(_) => (mac, rules & !refusing),
                None => (mac, rules),
            }
        });
        let mut devices: Vec<_> = rules.filter(|(_, rules)| *rules != default).collect();
        let crowded_out = devices.len().saturating_sub(MAX_DEVICES);
        if crowded_out > 0 {
            devices.sort_by_key(|(mac, _)| match () {
                () if named.contains(mac) => 0,
                () if settled.contains(mac) => 1,
                () => 2,
            });
            devices.truncate(MAX_DEVICES);
        }
        let rules = DeviceRules {
            devices: devices.into_iter().collect(),
            default,
        };
        (rules, crowded_out as u64)
    }

    /// The devices that the configuration or a command names.
    fn named<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = [u8; 6]> + 'a {
        let by_policies = config.policies.iter().flat_map(|policy| &policy.devices);
        let by_commands = self.temporary.iter();
        let by_commands = by_commands.filter_map(|said| said.device.as_ref());
        let by_pauses = self.pauses.all().iter();
        let by_pauses = by_pauses.filter_map(|pause| pause.device.as_ref());
        let named = by_policies.chain(by_commands).chain(by_pauses);
        let named = named.filter_map(|selector| match selector {
            DeviceSelector::Mac(mac) => Some(*mac),
            _ => None,
        });
        named.chain(config.devices.iter().map(|device| device.mac))
    }

    /// Whether the rules of all devices that the owner names fit. Any host in the house can raise the
    /// number of other devices, so those without a place are only logged.
    fn check_devices(&self, compiled: &Compiled, config: &Config) -> Result<(), TooLarge> {
        let configured = configured(config);
        let named: HashSet<_> = self.named(config).collect();
        let with_rules = named.into_iter().filter(|mac| {
            let configured = configured.get(mac).copied();
            compiled.has_rules_of(&facts(*mac, configured, None, &self.remembered))
        });
        match with_rules.count() {
            count if count > MAX_DEVICES => Err(TooMuch::Devices(count).into()),
            _ => Ok(()),
        }
    }

    /// Logs that devices have no place for rules of their own, once each time that this begins.
    fn tell_crowd(&mut self, crowded_out: u64) {
        if crowded_out > 0 && self.crowded_out == 0 {
            tracing::warn!(
                "{crowded_out} devices with rules of their own have no place in the kernel, which has room for \
                 {MAX_DEVICES}: those have the rules of everybody that neither the configuration names nor \
                 servers answered on two days; have policies name fewer devices by vendor or kind"
            );
        }
        self.crowded_out = crowded_out;
    }

    /// How many devices have no place for rules of their own.
    pub const fn crowded_out(&self) -> u64 {
        self.crowded_out
    }

    /// Calls `tell` with the rules that will be in force in a moment. A judgement by them too early is the
    /// one that will hold; a later judgement by the old ones would undo the kernel's decisions by the new
    /// ones.
    fn announce(
        &self,
        generation: u32,
        compiled: Arc<Compiled>,
        who: &DeviceRules,
        learned: &Learned,
    ) -> Arc<ActiveRules> {
        let in_force = Arc::new(ActiveRules {
            generation,
            compiled,
            devices: who.devices.clone(),
            default_rules: who.default,
        });
        (self.tell)(judge(&in_force, learned));
        in_force
    }

    fn take(&mut self, in_force: Option<Arc<ActiveRules>>, who: DeviceRules) {
        if let Some(in_force) = in_force {
            self.in_force = in_force;
            self.who = who;
        }
    }

    /// Takes the changes of names at addresses to the kernel.
    fn learn(
        &mut self,
        kernel: &mut Kernel,
        names: &mut AddressNames,
        now: f64,
    ) -> anyhow::Result<()> {
        let in_force = &self.in_force;
        let refusing = |name: &str, targets: &[Box<str>]| in_force.compiled.refusing(name, targets);
        let tell = |news| kernel.set_learned(news);
        Ok(self.learned.update(names, now, refusing, tell)?)
    }
}

/// The rules that refuse.
fn refusing(compiled: &Compiled) -> u64 {
    let rules = compiled.rules.iter().enumerate();
    let refusing = rules.filter(|(_, rule)| Verdict::from_number(rule.verdict).refuses());
    refusing.fold(0, |set, (number, _)| set | 1 << number)
}

/// The rules, for the judgement of the names that are heard.
fn judge(in_force: &Arc<ActiveRules>, learned: &Learned) -> Arc<classify::ActiveRules> {
    let [by_name, by_address, concerns] = [(); 3].map(|()| Arc::clone(in_force));
    let learned = learned.at();
    Arc::new(classify::ActiveRules {
        generation: in_force.generation,
        by_name: Box::new(move |key, name, targets, layer| {
            by_name.judge_alias(key, name, targets, layer)
        }),
        by_address: Box::new(move |key| by_address.judge_learned(key, learned(place_of(key)?)?)),
        concerns: Box::new(move |mac| concerns.applies_by_name(mac)),
    })
}

/// The remote address of a flow, as its device knows it.
fn place_of(key: &FlowKey) -> Option<Place> {
    let octets = key.remote().octets();
    let address = match key.family() {
        Family::V4 => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
        Family::V6 => octets.into(),
        Family::Other => return None,
    };
    Some((key.mac(), address))
}

/// The devices that were seen, by their addresses.
fn seen(devices: &[Device]) -> HashMap<[u8; 6], &Device> {
    devices
        .iter()
        .filter_map(|device| Some((device.mac?.octets(), device)))
        .collect()
}

/// The entries of the configuration about devices, by their addresses.
fn configured(config: &Config) -> HashMap<[u8; 6], &DeviceOverride> {
    let devices = config.devices.iter();
    devices.map(|device| (device.mac, device)).collect()
}

fn facts<'a>(
    mac: [u8; 6],
    said: Option<&'a DeviceOverride>,
    seen: Option<&'a Device>,
    remembered: &'a Remembered,
) -> DeviceFacts<'a> {
    let identity = seen.map(|device| &device.identity);
    DeviceFacts {
        mac,
        name: said.and_then(|said| said.name.as_deref()),
        groups: said.map_or(&[], |said| &said.groups),
        vendor: said
            .and_then(|said| said.vendor.as_deref())
            .or(identity.and_then(|identity| identity.vendor.as_deref()))
            .or_else(|| remembered.vendor(mac)),
        kind: said
            .and_then(|said| said.kind)
            .or(identity.map(|identity| identity.kind))
            .or_else(|| remembered.kind(mac)),
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use rustix::{
        mount::{MountFlags, UnmountFlags, mount, unmount},
        process::geteuid,
    };

    use super::*;
    use crate::{
        config::Checked,
        source::kernel::{enter_own_namespace, failed, faults::Faults},
    };

    const NOW: f64 = 1_795_000_000.0;

    fn config(folder: &Path) -> Config {
        let text = format!(
            "[[interface]]\nname = \"lan0\"\n[daemon]\nstate_directory = \"{}\"\n",
            folder.display()
        );
        let Checked { config, .. } =
            Config::parse(&text, Path::new("sensor.toml")).expect("it is valid");
        config
    }

    fn said(domain: &str, until: Option<f64>) -> Override {
        Override {
            domain: domain.to_owned(),
            device: Some(DeviceSelector::Mac([2, 0, 0, 0, 0, 1])),
            blocks: true,
            since: NOW - 10.0,
            holds: until.map_or(Holds::Always, Holds::Until),
        }
    }

    #[test]
    fn what_commands_said_outlives_the_daemon_until_it_is_over() -> anyhow::Result<()> {
        let folder = std::env::temp_dir().join(format!("sensor-said-{}", std::process::id()));
        let config = config(&folder);
        let at = |seconds| Moment {
            since_boot: 100.0 + seconds,
            boot: 1,
            ..Moment::from(NOW + seconds)
        };
        assert_eq!(Enforcement::new(&config, at(0.0)).temporary(), []);
        let all = [
            said("for-ever.example", None),
            said("over.example", Some(NOW)),
            said("holds.example", Some(NOW + 0.5)),
        ];
        kept::write(&folder.join(FILE), &all, &at(-1.0))?;
        let kept = [all[0].clone(), all[2].clone()];
        assert_eq!(Enforcement::new(&config, at(0.0)).temporary(), kept);
        assert_eq!(
            Enforcement::new(&config, at(0.5)).temporary(),
            [all[0].clone()]
        );
        // Half a file is none, and the daemon starts.
        fs::write(folder.join(FILE), "[{\"domain\": \"for-e")?;
        assert_eq!(Enforcement::new(&config, NOW).temporary(), []);
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    /// A BPF file system of the test's own: its pins go with it.
    struct Pins(PathBuf);

    impl Pins {
        fn mount(name: &str) -> anyhow::Result<Self> {
            let folder = env::temp_dir().join(format!("sensor-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder)?;
            mount("bpf", &folder, "bpf", MountFlags::empty(), None)?;
            Ok(Self(folder))
        }
    }

    impl Drop for Pins {
        fn drop(&mut self) {
            let gone = unmount(&self.0, UnmountFlags::DETACH).map_err(std::io::Error::from);
            if let Err(error) = gone.and_then(|()| fs::remove_dir(&self.0)) {
                eprintln!("{}: {error}", self.0.display());
            }
        }
    }

    #[test]
    fn the_kernel_forgets_the_blame_of_an_address() -> anyhow::Result<()> {
        /// The start of the schedule.
        const LATER: f64 = NOW + 60.0;
        const OVER: f64 = NOW + 3_700.0;
        if !geteuid().is_root() && env::var_os("CI").is_none() {
            eprintln!("not run: tables in the kernel take root");
            return Ok(());
        }
        enter_own_namespace()?;
        let pins = Pins::mount("learned")?;
        let text = format!(
            "[[interface]]\nname = \"lan0\"\n\
             [daemon]\npin_directory = \"{}\"\ntime_zone = \"UTC\"\n\
             [flow_table]\ncapacity = 1024\n[device_table]\ncapacity = 64\n\
             [[policy]]\nname = \"blocked\"\ndomains = [\"blocked.test\"]\naction = \"reject\"\n\
             [[policy]]\nname = \"later\"\nports = [\"tcp/9\"]\naction = \"reject\"\n\
             schedule = [\"mon-sun 11:07-14:00\"]\n",
            pins.0.join("pins").display()
        );
        let Checked { config, .. } =
            Config::parse(&text, Path::new("sensor.toml")).expect("it is valid");
        let mut kernel = Kernel::load(&config)?;
        let (mut enforcement, mut names) =
            (Enforcement::new(&config, NOW), AddressNames::default());
        let catalog = Catalog::default();
        let (phone, laptop) = (Mac::new([2, 0, 0, 0, 0, 1]), Mac::new([2, 0, 0, 0, 0, 2]));
        let at = |last: u8| (phone, IpAddr::from([192, 0, 2, last]));
        let v6 = (phone, IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]));
        fn circumstances<'a>(
            kernel: &'a mut Kernel,
            (config, catalog): (&'a Config, &'a Catalog),
            names: &'a mut AddressNames,
            now: f64,
        ) -> Context<'a> {
            Context {
                kernel,
                config,
                catalog,
                devices: &[],
                names,
                now: now.into(),
            }
        }
        let by = (&config, &catalog);
        enforcement.install(circumstances(&mut kernel, by, &mut names, NOW))?;
        for place in [at(1), at(2), v6] {
            names.answer("blocked.test", &[], place, 0, NOW);
        }
        // A name that is not refused excuses the address for another device alone, the one that was told
        // it.
        names.answer("allowed.test", &[], (laptop, at(1).1), 0, NOW);
        enforcement.learn(&mut kernel, &mut names, NOW)?;
        let blamed = |places: &[Place]| -> HashMap<Place, u64> {
            places.iter().map(|place| (*place, 0b1)).collect()
        };
        assert_eq!(kernel.seen()?.learned, blamed(&[at(1), at(2), v6]));

        // In one tick an allowed name comes and rules begin to apply.
        names.answer("allowed.test", &[], at(1), 86_400, LATER);
        names.answer("blocked.test", &[], v6, 86_400, LATER);
        enforcement.keep(circumstances(&mut kernel, by, &mut names, LATER))?;
        assert_eq!(kernel.seen()?.learned, blamed(&[at(2), v6]));

        // Nothing comes any more, and time goes on.
        enforcement.learn(&mut kernel, &mut names, OVER)?;
        assert_eq!(kernel.seen()?.learned, blamed(&[v6]));

        // Others are learned again, by other rules.
        enforcement.install(circumstances(&mut kernel, by, &mut names, OVER))?;
        assert_eq!(kernel.seen()?.learned, blamed(&[v6]));
        names.answer("blocked.test", &[], at(3), 0, OVER);
        enforcement.learn(&mut kernel, &mut names, OVER)?;
        assert_eq!(kernel.seen()?.learned, blamed(&[at(3), v6]));
        Ok(())
    }

    /// Two configurations to put in force in turn: each fills every table, with entries different from the
    /// other's.
    fn policies_in_turn(pins: &Path, state: &Path) -> [Config; 2] {
        [("a", 1_u8), ("b", 2)].map(|(name, number)| {
            let text = format!(
                "[[interface]]\nname = \"lan0\"\n\
                 [daemon]\npin_directory = \"{}\"\nstate_directory = \"{}\"\ntime_zone = \"UTC\"\n\
                 [flow_table]\ncapacity = 1024\n[device_table]\ncapacity = 64\n\
                 [[policy]]\nname = \"names-{name}\"\ndomains = [\"blocked.test\", \"{name}.test\"]\n\
                 action = \"reject\"\n\
                 [[policy]]\nname = \"ports-{name}\"\nports = [\"tcp/{number}\"]\naction = \"reject\"\n\
                 devices = [\"02:00:00:00:00:0{number}\", \"02:00:00:00:00:0a\"]\n\
                 [[policy]]\nname = \"remotes-{name}\"\nremotes = [\"198.51.{number}.0/24\", \
                 \"2001:db8:{number}::/48\"]\naction = \"drop\"\n",
                pins.display(),
                state.display(),
            );
            let Checked { config, .. } =
                Config::parse(&text, Path::new("sensor.toml")).expect("it is valid");
            config
        })
    }

    #[test]
    fn whichever_map_call_fails_the_policy_in_force_stays() -> anyhow::Result<()> {
        if !geteuid().is_root() && env::var_os("CI").is_none() {
            eprintln!("not run: tables in the kernel take root");
            return Ok(());
        }
        enter_own_namespace()?;
        let pins = Pins::mount("policy")?;
        let state = env::temp_dir().join(format!("sensor-faults-{}", std::process::id()));
        let configs = policies_in_turn(&pins.0.join("pins"), &state);
        let mut kernel = Kernel::load(&configs[0])?;
        let mut enforcement = Enforcement::new(&configs[0], NOW);
        let mut names = AddressNames::default();
        let catalog = Catalog::default();
        let phone = Mac::new([2, 0, 0, 0, 0, 1]);
        let at = |last: u8| (phone, IpAddr::from([192, 0, 2, last]));
        names.answer("blocked.test", &[], at(1), 86_400, NOW);
        macro_rules! circumstances {
            ($config:expr, $devices:expr) => {
                Context {
                    kernel: &mut kernel,
                    config: $config,
                    catalog: &catalog,
                    devices: $devices,
                    names: &mut names,
                    now: NOW.into(),
                }
            };
        }
        enforcement.install(circumstances!(&configs[0], &[]))?;
        let faults = Faults::of_this_thread()?;
        let failures = || failed::counts().values().sum::<u64>();
        let mut next = 1;
        for errno in [libc::EMFILE, libc::ENOMEM, libc::E2BIG, libc::EINTR] {
            let mut number = 0;
            loop {
                let before = kernel.seen()?;
                let generation = enforcement.in_force.generation;
                let count = failures();
                faults.fail(number, errno);
                let installed = enforcement.install(circumstances!(&configs[next], &[]));
                let made = faults.end();
                let seen = kernel.seen()?;
                match installed {
                    Ok(installed) => {
                        assert_eq!(seen.generation, installed.generation);
                        assert_eq!(enforcement.in_force.generation, installed.generation);
                        assert_ne!(seen.rules, before.rules);
                        next = 1 - next;
                    }
                    Err(error) => {
                        assert_eq!(seen, before, "call {number} with {errno}: {error:#}");
                        assert_eq!(enforcement.in_force.generation, generation);
                    }
                }
                if made <= number {
                    break;
                }
                assert!(
                    failures() > count,
                    "call {number} with {errno} is not counted"
                );
                number += 1;
            }
            assert!(number > 30, "there were only {number} calls");
            // Nothing of the failed policy is in the way of the next one, and nothing is left of the other.
            enforcement.install(circumstances!(&configs[next], &[]))?;
            let seen = kernel.seen()?;
            let mac = [2, 0, 0, 0, 0, next as u8 + 1];
            assert_eq!(seen.devices.devices.len(), 2);
            assert!(seen.devices.devices.contains_key(&mac));
            assert_eq!(seen.learned.len(), 1);
            assert_eq!(seen.prefixes.len(), 1);
            next = 1 - next;
        }
        fs::remove_dir_all(&state).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        Ok(())
    }

    /// The number of a device in its address.
    fn mac_of(number: u32) -> [u8; 6] {
        let [a, b, c, d] = number.to_be_bytes();
        [2, 0, a, b, c, d]
    }

    fn is_named(count: u32, pins: &Path, state: &Path) -> Config {
        let mut text = format!(
            "[[interface]]\nname = \"lan0\"\n\
             [daemon]\npin_directory = \"{}\"\nstate_directory = \"{}\"\ntime_zone = \"UTC\"\n\
             [flow_table]\ncapacity = 1024\n[device_table]\ncapacity = 64\n\
             [[policy]]\nname = \"kids\"\ndevices = [\"group:kids\", \"vendor:Many\"]\n\
             ports = [1]\naction = \"reject\"\n",
            pins.display(),
            state.display(),
        );
        for number in 0..count {
            let mac = Mac::new(mac_of(number)).to_string();
            text += &format!("[[device]]\nmac = \"{mac}\"\ngroups = [\"kids\"]\n");
        }
        let checked = Config::parse(&text, Path::new("sensor.toml"));
        checked.expect("it is valid").config
    }

    #[test]
    fn of_ten_thousand_devices_with_rules_the_limit_is_said() -> anyhow::Result<()> {
        if !geteuid().is_root() && env::var_os("CI").is_none() {
            eprintln!("not run: tables in the kernel take root");
            return Ok(());
        }
        enter_own_namespace()?;
        let mounted = Pins::mount("crowd")?;
        let pins = mounted.0.join("pins");
        let state = env::temp_dir().join(format!("sensor-crowd-{}", std::process::id()));
        let few = is_named(3, &pins, &state);
        let mut kernel = Kernel::load(&few)?;
        let mut enforcement = Enforcement::new(&few, NOW);
        let (catalog, mut names) = (Catalog::default(), AddressNames::default());
        macro_rules! circumstances {
            ($config:expr, $devices:expr) => {
                Context {
                    kernel: &mut kernel,
                    config: $config,
                    catalog: &catalog,
                    devices: $devices,
                    names: &mut names,
                    now: NOW.into(),
                }
            };
        }
        enforcement.install(circumstances!(&few, &[]))?;
        let before = kernel.seen()?;

        let many = is_named(10_000, &pins, &state);
        let refused = enforcement.install(circumstances!(&many, &[]));
        let error = format!("{:#}", refused.expect_err("there are too many"));
        assert!(error.contains("10000") && error.contains("8192"), "{error}");
        assert!(error.contains("out of groups"), "{error}");
        assert_eq!(kernel.seen()?, before, "the old policy stays");
        // `sensor check` reports the same.
        let (without_commands, _) = enforcement.too_large(&many, &catalog);
        assert_eq!(without_commands.map(|error| error.to_string()), Some(error));

        // A flood of made-up addresses brings devices that nobody named. Those that the owner named keep
        // their rules, and the next policy fits.
        let crowd: Vec<_> = (0..10_000)
            .map(|number| {
                let mut device = Device {
                    mac: Some(Mac::new(mac_of(1 << 20 | number))),
                    ..Device::default()
                };
                device.identity.vendor = Some("Many".to_owned());
                device
            })
            .collect();
        enforcement.keep(circumstances!(&few, &crowd))?;
        let rules = kernel.seen()?.devices.devices;
        assert_eq!(rules.len(), MAX_DEVICES);
        assert_eq!(enforcement.crowded_out(), 10_003 - MAX_DEVICES as u64);
        assert!((0..3).all(|number| rules.contains_key(&mac_of(number))));
        enforcement.install(circumstances!(&few, &crowd))?;
        let rules = kernel.seen()?.devices.devices;
        assert_eq!(rules.len(), MAX_DEVICES);
        assert!((0..3).all(|number| rules.contains_key(&mac_of(number))));
        // As they go, their places are given back.
        enforcement.keep(circumstances!(&few, &crowd[..10]))?;
        assert_eq!(kernel.seen()?.devices.devices.len(), 13);
        Ok(())
    }

    #[test]
    fn what_a_tick_failed_to_say_of_devices_the_next_says() -> anyhow::Result<()> {
        if !geteuid().is_root() && env::var_os("CI").is_none() {
            eprintln!("not run: tables in the kernel take root");
            return Ok(());
        }
        enter_own_namespace()?;
        let mounted = Pins::mount("ticks")?;
        let state = env::temp_dir().join(format!("sensor-ticks-{}", std::process::id()));
        let config = is_named(3, &mounted.0.join("pins"), &state);
        let mut kernel = Kernel::load(&config)?;
        let mut enforcement = Enforcement::new(&config, NOW);
        let (catalog, mut names) = (Catalog::default(), AddressNames::default());
        let device = |number: u32| {
            let mut device = Device {
                mac: Some(Mac::new(mac_of(1 << 20 | number))),
                ..Device::default()
            };
            device.identity.vendor = Some("Many".to_owned());
            device
        };
        macro_rules! circumstances {
            ($devices:expr) => {
                Context {
                    kernel: &mut kernel,
                    config: &config,
                    catalog: &catalog,
                    devices: $devices,
                    names: &mut names,
                    now: NOW.into(),
                }
            };
        }
        enforcement.install(circumstances!(&[]))?;
        let faults = Faults::of_this_thread()?;
        let houses = [[device(1), device(2)], [device(3), device(4)]];
        for errno in [libc::EMFILE, libc::ENOMEM] {
            for number in 0.. {
                faults.fail(number, errno);
                let first = enforcement.keep(circumstances!(&houses[1]));
                let made = faults.end();
                // The earlier devices' rules are back before anything of the others is written again.
                for house in [&houses[0], &houses[1], &houses[0]] {
                    enforcement.keep(circumstances!(house))?;
                    assert_eq!(
                        kernel.seen()?.devices,
                        enforcement.who,
                        "{number} {first:?}"
                    );
                }
                // All of the daemon's part of a tick, too.
                faults.fail(number, errno);
                let shared = kernel.share_out(|_| {});
                let read = kernel.read(std::time::Duration::from_secs(60), &NOW.into(), |_| {});
                let made_by_tick = faults.end();
                assert!(
                    made_by_tick <= number
                        || shared.is_err()
                        || read.is_err()
                        || errno == libc::ENOMEM,
                    "call {number} failed in silence"
                );
                kernel.share_out(|_| {})?;
                kernel.read(std::time::Duration::from_secs(60), &NOW.into(), |_| {})?;
                if made.max(made_by_tick) <= number {
                    break;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn no_schedule_is_in_force_while_nobody_knows_the_time() -> anyhow::Result<()> {
        const YEARS: f64 = 56.0 * 365.25 * 86_400.0;
        if !geteuid().is_root() && env::var_os("CI").is_none() {
            eprintln!("not run: tables in the kernel take root");
            return Ok(());
        }
        enter_own_namespace()?;
        let mounted = Pins::mount("clock")?;
        let state = env::temp_dir().join(format!("sensor-unset-clock-{}", std::process::id()));
        let text = format!(
            "[[interface]]\nname = \"lan0\"\n\
             [daemon]\npin_directory = \"{}\"\nstate_directory = \"{}\"\ntime_zone = \"UTC\"\n\
             [flow_table]\ncapacity = 1024\n[device_table]\ncapacity = 64\n\
             [[policy]]\nname = \"always\"\nports = [1]\naction = \"reject\"\n\
             [[policy]]\nname = \"whole-week\"\nports = [2]\naction = \"reject\"\n\
             schedule = [\"mon-sun 00:00-24:00\"]\n",
            mounted.0.join("pins").display(),
            state.display(),
        );
        let Checked { config, .. } =
            Config::parse(&text, Path::new("sensor.toml")).expect("it is valid");
        let mut kernel = Kernel::load(&config)?;
        let (catalog, mut names) = (Catalog::default(), AddressNames::default());
        // Booted in 1970; then it is set, set back, and set by as much again.
        let moment = |seconds: f64, wall: f64, is_known| Moment {
            steady: 60.0 + seconds,
            wall,
            is_known,
            since_boot: 60.0 + seconds,
            boot: 1,
        };
        let unset = moment(0.0, 60.0, false);
        let mut enforcement = Enforcement::new(&config, unset);
        macro_rules! circumstances {
            ($now:expr) => {
                Context {
                    kernel: &mut kernel,
                    config: &config,
                    catalog: &catalog,
                    devices: &[],
                    names: &mut names,
                    now: $now,
                }
            };
        }
        enforcement.start(circumstances!(unset))?;
        let rules = |kernel: &Kernel| kernel.seen().map(|seen| seen.devices.default);
        assert_eq!(rules(&kernel)?, 0b01, "before the time is known");
        let ten_minutes = |holds| Override {
            holds,
            ..said("blocked.example", None)
        };
        enforcement.say(
            ten_minutes(Holds::Until(unset.steady + 600.0)),
            circumstances!(unset),
        )?;
        let steps = [
            (1.0, NOW, true),
            (2.0, NOW + YEARS, true),
            (3.0, NOW - YEARS, false),
            (4.0, 12.0, false),
            (599.0, NOW, true),
        ];
        for (seconds, wall, is_known) in steps {
            let now = moment(seconds, wall, is_known);
            enforcement.keep(circumstances!(now))?;
            // The command's rule comes first, and is of a device alone.
            let expected = if is_known { 0b110 } else { 0b010 };
            assert_eq!(rules(&kernel)?, expected, "at {wall}");
            assert_eq!(enforcement.temporary().len(), 1, "at {wall}");
            // The machine's clock is shown, even if it is wrong.
            let shown = enforcement.temporary()[0].shown(now.offset());
            let left = shown.until.expect("it ends") - wall;
            assert!((left - (600.0 - seconds)).abs() < 1e-3, "{left}");
            // Another daemon of this boot, and one after a boot now, would know the override, because it
            // was saved.
            let next = Enforcement::new(&config, moment(seconds, -wall, false));
            assert_eq!(next.temporary().len(), 1);
        }
        enforcement.keep(circumstances!(moment(601.0, NOW - YEARS, true)))?;
        assert_eq!(enforcement.temporary(), []);
        assert_eq!(Enforcement::new(&config, unset).temporary(), []);

        // Two hours, and a boot that nobody foresaw an hour later: at least the time that was left ten
        // minutes before.
        let begun = moment(1_000.0, NOW, true);
        enforcement.say(
            ten_minutes(Holds::Until(begun.steady + 7_200.0)),
            circumstances!(begun),
        )?;
        for minute in 1..60 {
            let now = moment(1_000.0 + f64::from(minute) * 60.0, NOW, true);
            enforcement.keep(circumstances!(now))?;
        }
        let booted = Moment {
            boot: 2,
            ..moment(0.0, 60.0, false)
        };
        let mut next = Enforcement::new(&config, booted);
        let Holds::Rest(rest) = next.temporary()[0].holds else {
            panic!("{:?}", next.temporary());
        };
        assert!((3_600.0..=4_260.0).contains(&rest), "{rest}");
        next.start(circumstances!(booted))?;
        for seconds in [10.0, 100_000.0] {
            let now = Moment {
                boot: 2,
                ..moment(seconds, 60.0 + seconds, false)
            };
            next.keep(circumstances!(now))?;
            assert_eq!(next.temporary()[0].holds, Holds::Rest(rest));
        }
        let set = |seconds| Moment {
            boot: 2,
            ..moment(100_000.0 + seconds, NOW + seconds, true)
        };
        next.keep(circumstances!(set(0.0)))?;
        next.keep(circumstances!(set(rest - 1.0)))?;
        assert_eq!(next.temporary().len(), 1);
        next.keep(circumstances!(set(rest + 1.0)))?;
        assert_eq!(next.temporary(), []);
        fs::remove_dir_all(&state)?;
        Ok(())
    }
}
