//! Which policies are in force: what the configuration says, what commands said, and to which devices
//! each rule applies at the moment.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::Context as _;
use sensor_ebpf::{
    flow::FlowKey,
    parse::{Family, Mac},
};

use crate::{
    aggregate::{knowledge::Knowledge, names_at::NamesAt},
    config::{Config, DeviceSelector, Policy, typed},
    hearing,
    model::{self, Device},
    policy::explain::Deciding,
    policy::{
        Compiled, DeviceFacts, Fitting, InForce, PolicyLists, Temporary, TooLarge, Zone, compile,
        fitting, policy_names,
    },
    source::kernel::{DeviceRules, Installed, Kernel},
};

/// The file of what commands said, in the state directory.
const FILE: &str = "commands.json";

/// The most that commands can have said at a time.
pub const MOST_TEMPORARY: usize = 1_000;

/// What policies depend on beside themselves, and the kernel, in which they are put in force.
pub struct Circumstances<'a> {
    /// Where they are put in force.
    pub kernel: &'a mut Kernel,
    /// What the configuration says.
    pub config: &'a Config,
    /// What the program knows of names and addresses.
    pub knowledge: &'a Knowledge,
    /// The devices that were seen.
    pub devices: &'a [Device],
    /// The names that are known at addresses.
    pub names: &'a mut NamesAt,
    /// In seconds since the Unix epoch.
    pub now: f64,
}

/// Is told what decides, right before it is in force in the kernel.
type Tell = Box<dyn Fn(Arc<hearing::InForce>) + Send>;

/// The rules that refuse every name that is known at an address, where there are any.
type Learned = Arc<RwLock<HashMap<IpAddr, u64>>>;

/// How much of what is said is put in force, where not all has a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PartOf {
    /// All, or nothing.
    All,
    /// What fits.
    Fitting,
}

/// The policies in force.
pub struct Enforcement {
    lists: PolicyLists,
    temporary: Vec<Temporary>,
    /// What commands said has no place.
    without_commands: bool,
    /// The policies in force, where not all of the configuration's have a place.
    in_part: Option<Vec<Policy>>,
    file: PathBuf,
    zone: Zone,
    in_force: Arc<InForce>,
    who: DeviceRules,
    learned: Learned,
    tell: Tell,
}

impl Enforcement {
    /// With nothing in force, and with what commands said before the daemon began.
    pub fn new(config: &Config, now: f64) -> Self {
        let file = config.daemon.state_directory.join(FILE);
        let mut temporary = read(&file).unwrap_or_else(|error| {
            tracing::error!(
                "{}: {error:#}; what `sensor block` and `allow` said is not in force",
                file.display()
            );
            Vec::new()
        });
        temporary.retain(|said| is_valid(said, now));
        Self {
            lists: PolicyLists::default(),
            temporary,
            without_commands: false,
            in_part: None,
            file,
            zone: Zone::named(config.daemon.time_zone.as_deref()),
            in_force: Arc::default(),
            who: DeviceRules::default(),
            learned: Arc::default(),
            tell: Box::new(|_| {}),
        }
    }

    /// Has somebody told, from now on, of whatever comes in force.
    pub fn tell(&mut self, tell: impl Fn(Arc<hearing::InForce>) + Send + 'static) {
        self.tell = Box::new(tell);
    }

    /// What decides at the moment, for whoever judges the names that are heard.
    pub fn judge(&self) -> Arc<hearing::InForce> {
        judge(&self.in_force, &self.learned)
    }

    /// The lists of the policies.
    pub fn lists(&self) -> &PolicyLists {
        &self.lists
    }

    /// The files that policies may ask, for those who look: lists and databases of networks.
    pub fn shown_lists(&self, knowledge: &Knowledge) -> Vec<model::PolicyList> {
        let own = knowledge.files.iter();
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
            // A policy may name what is a `[[list]]` too.
            let place = shown.entry(file).or_insert(entry);
            place.kept |= is_kept;
        }
        for database in knowledge.networks.databases() {
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

    /// What commands said, and is in force.
    pub fn temporary(&self) -> &[Temporary] {
        match self.without_commands {
            true => &[],
            false => &self.temporary,
        }
    }

    /// The time zone of schedules.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// All that decides, for an explanation.
    pub fn deciding<'a>(
        &'a self,
        config: &'a Config,
        knowledge: &'a Knowledge,
        now: f64,
    ) -> Deciding<'a> {
        Deciding {
            policies: self.policies(config),
            temporary: self.temporary(),
            knowledge,
            lists: &self.lists,
            zone: &self.zone,
            now,
        }
    }

    /// Reads the lists of policies, where nothing is put in force.
    pub fn read_lists(&mut self, config: &Config) {
        self.lists = PolicyLists::load(&config.policies, &self.lists);
    }

    /// The policies in force.
    fn policies<'a>(&'a self, config: &'a Config) -> &'a [Policy] {
        self.in_part.as_deref().unwrap_or(&config.policies)
    }

    /// What keeps a configuration from being put in force, whose lists were read: without what
    /// commands said, and with it.
    pub fn too_large(
        &self,
        config: &Config,
        knowledge: &Knowledge,
    ) -> (Option<TooLarge>, Option<TooLarge>) {
        let error = |temporary: &[Temporary]| {
            let policies = &config.policies;
            let names = policy_names(policies, temporary).map(str::to_owned);
            let identities = names.zip(1..).collect();
            compile(policies, temporary, knowledge, &self.lists, &identities).err()
        };
        match error(&[]) {
            None if !self.temporary.is_empty() => (None, error(&self.temporary)),
            without => (without, None),
        }
    }

    /// Puts a configuration in force where nothing is: as much of it as has a place. The log is told
    /// what has none.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn start(&mut self, circumstances: Circumstances<'_>) -> anyhow::Result<Installed> {
        self.load(PartOf::Fitting, circumstances)
    }

    /// Puts a configuration in force, lists read anew.
    ///
    /// # Errors
    /// It does not fit, or the kernel refuses it; what was in force stays.
    pub fn install(&mut self, circumstances: Circumstances<'_>) -> anyhow::Result<Installed> {
        self.load(PartOf::All, circumstances)
    }

    fn load(
        &mut self,
        part: PartOf,
        circumstances: Circumstances<'_>,
    ) -> anyhow::Result<Installed> {
        let config = circumstances.config;
        let lists = PolicyLists::load(&config.policies, &self.lists);
        let zone = Zone::named(config.daemon.time_zone.as_deref());
        let installed = self.put(part, &config.policies, lists, &zone, circumstances)?;
        self.zone = zone;
        Ok(installed)
    }

    /// Takes what a command says, and puts it in force at once. It survives the daemon.
    ///
    /// # Errors
    /// As [`install`](Self::install), and where it cannot be kept: then it is in force until the
    /// daemon ends.
    pub fn say(&mut self, said: Temporary, circumstances: Circumstances<'_>) -> anyhow::Result<()> {
        let now = circumstances.now;
        let mut temporary = self.temporary.clone();
        temporary.retain(|other| {
            is_valid(other, now) && !(other.domain == said.domain && other.device == said.device)
        });
        anyhow::ensure!(
            temporary.len() < MOST_TEMPORARY,
            "commands have said {MOST_TEMPORARY} things that still hold: put some of them into the \
             configuration"
        );
        temporary.push(said);
        self.hold(temporary, circumstances)
    }

    /// Takes back what a command said of this name for these devices, and gives it; `None` where
    /// none did.
    ///
    /// # Errors
    /// As [`say`](Self::say).
    pub fn forget(
        &mut self,
        domain: &str,
        device: Option<&DeviceSelector>,
        circumstances: Circumstances<'_>,
    ) -> anyhow::Result<Option<Temporary>> {
        let mut temporary = self.temporary.clone();
        temporary.retain(|said| is_valid(said, circumstances.now));
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

    /// Puts what commands say in force in the place of what they said before, and keeps it.
    fn hold(
        &mut self,
        temporary: Vec<Temporary>,
        circumstances: Circumstances<'_>,
    ) -> anyhow::Result<()> {
        let before = std::mem::replace(&mut self.temporary, temporary);
        if let Err(error) = self.put_again(PartOf::All, circumstances) {
            self.temporary = before;
            return Err(error);
        }
        write(&self.file, &self.temporary).with_context(|| {
            format!(
                "it is in force, but not after the daemon ends: {} cannot be written; \
                 `daemon.state_directory` says where it is to be",
                self.file.display()
            )
        })
    }

    /// What time and identities change: commands that are over, schedules, devices that became
    /// known, names that came to addresses and went.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn keep(&mut self, circumstances: Circumstances<'_>) -> anyhow::Result<()> {
        let now = circumstances.now;
        if self.temporary.iter().any(|said| !is_valid(said, now)) {
            self.temporary.retain(|said| is_valid(said, now));
            self.put_again(PartOf::Fitting, circumstances)?;
            if let Err(error) = write(&self.file, &self.temporary) {
                tracing::warn!("{}: {error:#}", self.file.display());
            }
            return Ok(());
        }
        let Circumstances {
            kernel,
            config,
            devices,
            names,
            ..
        } = circumstances;
        let compiled = &self.in_force.compiled;
        let who = who(compiled, config, &self.temporary, &self.zone, devices, now);
        if who != self.who {
            let (compiled, learned) = (Arc::clone(compiled), Arc::clone(&self.learned));
            let mut in_force = None;
            kernel.set_devices(&self.who, &who, |generation| {
                in_force = Some(self.announce(generation, compiled, &who, &learned));
            })?;
            self.take(in_force, who, learned);
        }
        self.learn(kernel, names, now)
    }

    /// The same policies once more, with other commands.
    fn put_again(
        &mut self,
        part: PartOf,
        circumstances: Circumstances<'_>,
    ) -> anyhow::Result<Installed> {
        let policies = self.policies(circumstances.config).to_vec();
        let (lists, zone) = (self.lists.clone(), self.zone.clone());
        self.put(part, &policies, lists, &zone, circumstances)
    }

    fn put(
        &mut self,
        part: PartOf,
        policies: &[Policy],
        lists: PolicyLists,
        zone: &Zone,
        circumstances: Circumstances<'_>,
    ) -> anyhow::Result<Installed> {
        let Circumstances {
            kernel,
            config,
            knowledge,
            devices,
            names,
            now,
        } = circumstances;
        let said = &self.temporary;
        let identities = kernel.identities(policy_names(policies, said))?;
        let fitting = match part {
            PartOf::Fitting => fitting(policies, said, knowledge, &lists, &identities),
            PartOf::All => Fitting {
                compiled: compile(policies, said, knowledge, &lists, &identities)?,
                policies: policies.to_vec(),
                with_commands: true,
                lists,
            },
        };
        let compiled = Arc::new(fitting.compiled);
        let who = who(&compiled, config, &self.temporary, zone, devices, now);
        // The rules have other numbers than before.
        let learned: HashMap<_, _> = names
            .addresses()
            .map(|address| {
                (
                    address,
                    names.refusing(address, now, |name| compiled.refusing(name)),
                )
            })
            .filter(|(_, rules)| *rules != 0)
            .collect();
        let shared: Learned = Arc::new(RwLock::new(learned.clone()));
        let mut in_force = None;
        let installed = kernel.install(&compiled, &who, &learned, |generation| {
            in_force = Some(self.announce(generation, Arc::clone(&compiled), &who, &shared));
        })?;
        self.take(in_force, who, shared);
        self.lists = fitting.lists;
        self.without_commands = !fitting.with_commands;
        let are_all = fitting.policies.len() == config.policies.len();
        self.in_part = (!are_all).then_some(fitting.policies);
        names.changed();
        Ok(installed)
    }

    /// Tells what will be in force in a moment. Who judges by it too early judges as will be judged;
    /// who judged by the old one for longer would undo what the kernel decides by the new one.
    fn announce(
        &self,
        generation: u32,
        compiled: Arc<Compiled>,
        who: &DeviceRules,
        learned: &Learned,
    ) -> Arc<InForce> {
        let in_force = Arc::new(InForce {
            generation,
            compiled,
            devices: who.devices.clone(),
            default_rules: who.default,
        });
        (self.tell)(judge(&in_force, learned));
        in_force
    }

    fn take(&mut self, in_force: Option<Arc<InForce>>, who: DeviceRules, learned: Learned) {
        if let Some(in_force) = in_force {
            self.in_force = in_force;
            self.who = who;
            self.learned = learned;
        }
    }

    /// Takes which names came to addresses and went.
    fn learn(&mut self, kernel: &mut Kernel, names: &mut NamesAt, now: f64) -> anyhow::Result<()> {
        let changed = names.changed();
        if self.in_force.compiled.name_rules == 0 {
            return Ok(());
        }
        let mut learned = self.learned.write().unwrap_or_else(PoisonError::into_inner);
        let mut news = Vec::new();
        for address in changed {
            let refusing = |name: &str| self.in_force.compiled.refusing(name);
            let rules = names.refusing(address, now, refusing);
            let before = match rules {
                0 => learned.remove(&address),
                _ => learned.insert(address, rules),
            };
            if before.unwrap_or(0) != rules {
                news.push((address, rules));
            }
        }
        drop(learned);
        if !news.is_empty() {
            kernel.set_learned(news)?;
        }
        Ok(())
    }
}

/// What decides, for whoever judges the names that are heard.
fn judge(in_force: &Arc<InForce>, learned: &Learned) -> Arc<hearing::InForce> {
    let [by_name, by_address, concerns] = [(); 3].map(|()| Arc::clone(in_force));
    let learned = Arc::clone(learned);
    Arc::new(hearing::InForce {
        generation: in_force.generation,
        by_name: Box::new(move |key, name, layer| by_name.judge_name(key, name, layer)),
        by_address: Box::new(move |key| {
            let remote = address_of(key)?;
            let learned = learned.read().unwrap_or_else(PoisonError::into_inner);
            by_address.judge_learned(key, *learned.get(&remote)?)
        }),
        concerns: Box::new(move |mac| concerns.applies_by_name(mac)),
    })
}

/// The remote address of a flow.
fn address_of(key: &FlowKey) -> Option<IpAddr> {
    let octets = key.remote().octets();
    match key.family() {
        Family::V4 => Some([octets[0], octets[1], octets[2], octets[3]].into()),
        Family::V6 => Some(octets.into()),
        Family::Other => None,
    }
}

fn is_valid(said: &Temporary, now: f64) -> bool {
    said.until.is_none_or(|until| now < until)
}

/// The rules of each device at a time: of those that were seen, and of those that are named.
fn who(
    compiled: &Compiled,
    config: &Config,
    temporary: &[Temporary],
    zone: &Zone,
    devices: &[Device],
    now: f64,
) -> DeviceRules {
    let seen: HashMap<[u8; 6], &Device> = devices
        .iter()
        .filter_map(|device| Some((device.mac?.octets(), device)))
        .collect();
    let named = config.policies.iter().flat_map(|policy| &policy.devices);
    let said = temporary.iter().filter_map(|said| said.device.as_ref());
    let named = named.chain(said).filter_map(|selector| match selector {
        DeviceSelector::Mac(mac) => Some(*mac),
        _ => None,
    });
    let configured = config.devices.iter().map(|device| device.mac);
    let all: BTreeSet<_> = seen
        .keys()
        .copied()
        .chain(named)
        .chain(configured)
        .collect();
    let default = compiled.default_rules(zone, now);
    let devices = all
        .into_iter()
        .map(|mac| {
            (
                mac,
                compiled.rules_of(&facts(mac, config, &seen), zone, now),
            )
        })
        .filter(|(_, rules)| *rules != default)
        .collect();
    DeviceRules { devices, default }
}

fn facts<'a>(
    mac: [u8; 6],
    config: &'a Config,
    seen: &HashMap<[u8; 6], &'a Device>,
) -> DeviceFacts<'a> {
    let said = config.devices.iter().find(|device| device.mac == mac);
    let identity = seen.get(&mac).map(|device| &device.identity);
    DeviceFacts {
        mac,
        name: said.and_then(|said| said.name.as_deref()),
        groups: said.map_or(&[], |said| &said.groups),
        vendor: said
            .and_then(|said| said.vendor.as_deref())
            .or(identity.and_then(|identity| identity.vendor.as_deref())),
        kind: said
            .and_then(|said| said.kind)
            .or(identity.map(|identity| identity.kind)),
    }
}

/// The device that is called so: by its MAC address, by its name in the configuration, or by the name
/// that was found out.
pub fn called(text: &str, config: &Config, devices: &[Device]) -> Option<Mac> {
    if let Ok(DeviceSelector::Mac(mac)) = typed::devices(text, &[]) {
        return Some(Mac::new(mac));
    }
    let is_it = |name: Option<&String>| name.is_some_and(|name| name.eq_ignore_ascii_case(text));
    let mut configured = config.devices.iter();
    let configured = configured.find(|device| is_it(device.name.as_ref()));
    configured.map(|device| Mac::new(device.mac)).or_else(|| {
        let mut seen = devices.iter();
        seen.find(|device| is_it(device.identity.name.as_ref()))?
            .mac
    })
}

/// The facts of a device that is given by its MAC address or by its name in the configuration.
pub fn facts_of<'a>(mac: Mac, config: &'a Config, devices: &'a [Device]) -> DeviceFacts<'a> {
    let seen = devices
        .iter()
        .filter_map(|device| Some((device.mac?.octets(), device)))
        .collect();
    facts(mac.octets(), config, &seen)
}

fn read(file: &Path) -> anyhow::Result<Vec<Temporary>> {
    match fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Old or new, whenever the power fails.
fn write(file: &Path, temporary: &[Temporary]) -> anyhow::Result<()> {
    let folder = file.parent().context("it is in no folder")?;
    fs::create_dir_all(folder)?;
    let new = file.with_extension("new");
    let mut written = File::create(&new)?;
    written.write_all(&serde_json::to_vec_pretty(temporary)?)?;
    written.sync_all()?;
    fs::rename(&new, file)?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Checked;

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

    fn said(domain: &str, until: Option<f64>) -> Temporary {
        Temporary {
            domain: domain.to_owned(),
            device: Some(DeviceSelector::Mac([2, 0, 0, 0, 0, 1])),
            blocks: true,
            since: NOW - 10.0,
            until,
        }
    }

    #[test]
    fn what_commands_said_outlives_the_daemon_until_it_is_over() -> anyhow::Result<()> {
        let folder = std::env::temp_dir().join(format!("sensor-said-{}", std::process::id()));
        let config = config(&folder);
        assert_eq!(Enforcement::new(&config, NOW).temporary(), []);
        let all = [
            said("for-ever.example", None),
            said("over.example", Some(NOW)),
            said("holds.example", Some(NOW + 0.5)),
        ];
        write(&folder.join(FILE), &all)?;
        let kept = [all[0].clone(), all[2].clone()];
        assert_eq!(Enforcement::new(&config, NOW).temporary(), kept);
        assert_eq!(
            Enforcement::new(&config, NOW + 0.5).temporary(),
            [all[0].clone()]
        );
        // Half a file is none, and the daemon starts.
        fs::write(folder.join(FILE), "[{\"domain\": \"for-e")?;
        assert_eq!(Enforcement::new(&config, NOW).temporary(), []);
        fs::remove_dir_all(&folder)?;
        Ok(())
    }
}
