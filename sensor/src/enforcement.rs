//! Which policies are in force: what the configuration says, what commands said, and to which devices
//! each rule applies at the moment.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::Context as _;
use sensor_ebpf::{
    flow::FlowKey,
    parse::{Family, Mac},
    policy::Verdict,
};

use crate::{
    aggregate::{knowledge::Knowledge, names_at::NamesAt},
    config::{Config, DeviceSelector, typed},
    hearing,
    model::{self, Device},
    policy::explain::{self, Deciding, RefusedBefore},
    policy::{
        ALLOWED, BLOCKED, Compiled, DeviceFacts, InForce, PolicyLists, Temporary, Zone, compile,
        policy_names,
    },
    remembered::Remembered,
    source::kernel::{DeviceRules, Installed, Kernel},
    state,
};

/// The file of what commands said, in the state directory.
const FILE: &str = "commands.json";

/// The most that commands can have said at a time.
pub const MOST_TEMPORARY: usize = 1_000;

/// The policies in force.
pub struct Enforcement {
    lists: PolicyLists,
    temporary: Vec<Temporary>,
    file: PathBuf,
    remembered: Remembered,
    zone: Zone,
    in_force: Arc<InForce>,
    who: DeviceRules,
    /// The rules that refuse every name that is known at an address, where there are any.
    learned: Arc<RwLock<HashMap<IpAddr, u64>>>,
    /// The names of policies in the tables, by their identities.
    policies: HashMap<u16, String>,
}

impl Enforcement {
    /// With nothing in force, and with what commands said and what was known of devices before the
    /// daemon began.
    pub fn new(config: &Config, now: f64) -> Self {
        let file = config.daemon.state_directory.join(FILE);
        let mut temporary: Vec<Temporary> = state::read(&file).unwrap_or_else(|error| {
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
            file,
            remembered: Remembered::new(config, now),
            zone: Zone::named(config.daemon.time_zone.as_deref()),
            in_force: Arc::default(),
            who: DeviceRules::default(),
            learned: Arc::default(),
            policies: HashMap::new(),
        }
    }

    /// What decides at the moment.
    pub fn in_force(&self) -> &Arc<InForce> {
        &self.in_force
    }

    /// The same for whoever judges the names that are heard.
    pub fn judge(&self) -> Arc<hearing::InForce> {
        let [by_name, by_address, concerns] = [(); 3].map(|()| Arc::clone(&self.in_force));
        let learned = Arc::clone(&self.learned);
        Arc::new(hearing::InForce {
            generation: self.in_force.generation,
            by_name: Box::new(move |key, name, layer| by_name.judge_name(key, name, layer)),
            by_address: Box::new(move |key| {
                let remote = address_of(key)?;
                let learned = learned.read().unwrap_or_else(PoisonError::into_inner);
                by_address.judge_learned(key, *learned.get(&remote)?)
            }),
            concerns: Box::new(move |mac| concerns.applies_by_name(mac)),
        })
    }

    /// The lists of the policies.
    pub fn lists(&self) -> &PolicyLists {
        &self.lists
    }

    /// The lists of the policies, for those who look.
    pub fn shown_lists(&self) -> Vec<model::PolicyList> {
        let lists = self.lists.iter().map(|(file, list)| model::PolicyList {
            list: file.display().to_string(),
            names: list.names.len() as u64,
            bad_lines: list.report.bad,
            modified: list.modified,
            kept: list.problem.is_some(),
        });
        let mut lists: Vec<_> = lists.collect();
        lists.sort_by(|a, b| a.list.cmp(&b.list));
        lists
    }

    /// What commands said.
    pub fn temporary(&self) -> &[Temporary] {
        &self.temporary
    }

    /// Takes what is known of devices, and tells them what was known before the daemon began, where
    /// that is surer; it is kept for the next one.
    pub fn recall(&mut self, devices: &mut [Device], now: f64) {
        self.remembered.recall(devices, now);
    }

    /// Keeps for the next daemon what is known of devices.
    pub fn end(&mut self, now: f64) {
        self.remembered.keep(now);
    }

    /// What is known of a device, for policies.
    pub fn facts<'a>(
        &'a self,
        mac: Mac,
        config: &'a Config,
        devices: &'a [Device],
    ) -> DeviceFacts<'a> {
        let seen = devices.iter().find(|device| device.mac == Some(mac));
        facts(mac.octets(), config, seen, &self.remembered)
    }

    /// What is refused to these devices (`None`: to all) whatever name they would say.
    pub fn refused_before_a_name(
        &self,
        selector: Option<&DeviceSelector>,
        config: &Config,
        knowledge: &Knowledge,
        devices: &[Device],
        now: f64,
    ) -> Vec<RefusedBefore> {
        let seen = seen(devices);
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
        let all = all
            .into_iter()
            .map(|mac| facts(mac, config, seen.get(&mac).copied(), &self.remembered));
        let meant: Vec<_> = all
            .filter(|facts| selector.is_none_or(|selector| facts.are(selector)))
            .collect();
        explain::refused_before_a_name(&self.deciding(config, knowledge, now), &meant)
    }

    /// What refuses a flow of a device to an address that says no name, as every name that is known
    /// there is refused: the policy (`None`: a command) and the action.
    pub fn learned(
        &self,
        address: IpAddr,
        device: &DeviceFacts<'_>,
        now: f64,
    ) -> Option<(Option<String>, Verdict)> {
        let learned = self.learned.read().unwrap_or_else(PoisonError::into_inner);
        let compiled = &self.in_force.compiled;
        let rules = learned.get(&address)? & compiled.rules_of(device, &self.zone, now);
        let rule = compiled.rules.get(rules.trailing_zeros() as usize)?;
        let policy = self.policies.get(&rule.policy).cloned();
        let policy = policy.filter(|name| name != BLOCKED && name != ALLOWED);
        Some((policy, Verdict::from_number(rule.verdict)))
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
            policies: &config.policies,
            temporary: &self.temporary,
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

    /// Puts a configuration in force, lists read anew.
    ///
    /// # Errors
    /// It does not fit, or the kernel refuses it; what was in force stays.
    pub fn install(
        &mut self,
        kernel: &mut Kernel,
        config: &Config,
        knowledge: &Knowledge,
        devices: &[Device],
        now: f64,
    ) -> anyhow::Result<Installed> {
        let lists = PolicyLists::load(&config.policies, &self.lists);
        let zone = Zone::named(config.daemon.time_zone.as_deref());
        let installed = self.put(kernel, config, knowledge, &lists, &zone, devices, now)?;
        self.lists = lists;
        self.zone = zone;
        Ok(installed)
    }

    /// Takes what a command says, and puts it in force at once. It survives the daemon.
    ///
    /// # Errors
    /// As [`install`](Self::install), and where it cannot be kept: then it is in force until the
    /// daemon ends.
    pub fn say(
        &mut self,
        said: Temporary,
        kernel: &mut Kernel,
        config: &Config,
        knowledge: &Knowledge,
        devices: &[Device],
    ) -> anyhow::Result<()> {
        let now = said.since;
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
        self.hold(temporary, kernel, config, knowledge, devices, now)
    }

    /// Takes back what a command said of this name for these devices, and gives it; `None` where
    /// none did.
    ///
    /// # Errors
    /// As [`say`](Self::say).
    #[allow(clippy::too_many_arguments, reason = "all that policies depend on")]
    pub fn forget(
        &mut self,
        domain: &str,
        device: Option<&DeviceSelector>,
        kernel: &mut Kernel,
        config: &Config,
        knowledge: &Knowledge,
        devices: &[Device],
        now: f64,
    ) -> anyhow::Result<Option<Temporary>> {
        let mut temporary = self.temporary.clone();
        temporary.retain(|said| is_valid(said, now));
        let place = temporary
            .iter()
            .position(|said| said.domain == domain && said.device.as_ref() == device);
        let Some(place) = place else {
            return Ok(None);
        };
        let forgotten = temporary.remove(place);
        self.hold(temporary, kernel, config, knowledge, devices, now)?;
        Ok(Some(forgotten))
    }

    /// Puts what commands say in force in the place of what they said before, and keeps it.
    fn hold(
        &mut self,
        temporary: Vec<Temporary>,
        kernel: &mut Kernel,
        config: &Config,
        knowledge: &Knowledge,
        devices: &[Device],
        now: f64,
    ) -> anyhow::Result<()> {
        let before = std::mem::replace(&mut self.temporary, temporary);
        let (lists, zone) = (self.lists.clone(), self.zone.clone());
        if let Err(error) = self.put(kernel, config, knowledge, &lists, &zone, devices, now) {
            self.temporary = before;
            return Err(error);
        }
        state::write(&self.file, &self.temporary).with_context(|| {
            format!(
                "it is in force, but not after the daemon ends: {} cannot be written; \
                 `daemon.state_directory` says where it is to be",
                self.file.display()
            )
        })
    }

    /// What time and identities change: commands that are over, schedules, devices that became known.
    /// Gives whether anything changed.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn keep(
        &mut self,
        kernel: &mut Kernel,
        config: &Config,
        knowledge: &Knowledge,
        devices: &[Device],
        now: f64,
    ) -> anyhow::Result<bool> {
        if self.temporary.iter().any(|said| !is_valid(said, now)) {
            self.temporary.retain(|said| is_valid(said, now));
            let (lists, zone) = (self.lists.clone(), self.zone.clone());
            self.put(kernel, config, knowledge, &lists, &zone, devices, now)?;
            if let Err(error) = state::write(&self.file, &self.temporary) {
                tracing::warn!("{}: {error:#}", self.file.display());
            }
            return Ok(true);
        }
        let who = self.who(&self.in_force.compiled, config, &self.zone, devices, now);
        if who == self.who {
            return Ok(false);
        }
        let generation = kernel.set_devices(&self.who, &who)?;
        self.take(generation, Arc::clone(&self.in_force.compiled), who);
        Ok(true)
    }

    #[allow(clippy::too_many_arguments, reason = "all that policies depend on")]
    fn put(
        &mut self,
        kernel: &mut Kernel,
        config: &Config,
        knowledge: &Knowledge,
        lists: &PolicyLists,
        zone: &Zone,
        devices: &[Device],
        now: f64,
    ) -> anyhow::Result<Installed> {
        let identities = kernel.identities(policy_names(&config.policies, &self.temporary))?;
        let compiled = compile(
            &config.policies,
            &self.temporary,
            knowledge,
            lists,
            &identities,
        )?;
        let who = self.who(&compiled, config, zone, devices, now);
        let installed = kernel.install(&compiled, &who)?;
        self.take(installed.generation, Arc::new(compiled), who);
        self.policies = identities
            .into_iter()
            .map(|(name, id)| (id, name))
            .collect();
        Ok(installed)
    }

    /// Takes which names came to addresses and went. `all`: the policies are others than before.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn learn(
        &mut self,
        kernel: &mut Kernel,
        names: &mut NamesAt,
        all: bool,
        now: f64,
    ) -> anyhow::Result<()> {
        let changed = names.changed();
        let looked_at = match all {
            true => names.addresses().collect(),
            false => changed,
        };
        if looked_at.is_empty() || self.in_force.compiled.name_rules == 0 && !all {
            return Ok(());
        }
        let mut learned = self.learned.write().unwrap_or_else(PoisonError::into_inner);
        if all {
            // They were forgotten with the tables that they were in.
            learned.clear();
        }
        let mut news = Vec::new();
        for address in looked_at {
            let rules = names.refusing(address, now, |name| self.in_force.refusing(name));
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

    /// The rules of each device at a time: of those that were seen or are remembered, and of those that
    /// are named.
    fn who(
        &self,
        compiled: &Compiled,
        config: &Config,
        zone: &Zone,
        devices: &[Device],
        now: f64,
    ) -> DeviceRules {
        let seen = seen(devices);
        let named = config.policies.iter().flat_map(|policy| &policy.devices);
        let said = self.temporary.iter();
        let said = said.filter_map(|said| said.device.as_ref());
        let named = named.chain(said).filter_map(|selector| match selector {
            DeviceSelector::Mac(mac) => Some(*mac),
            _ => None,
        });
        let configured = config.devices.iter().map(|device| device.mac);
        let all: BTreeSet<_> = seen
            .keys()
            .copied()
            .chain(self.remembered.devices())
            .chain(named)
            .chain(configured)
            .collect();
        let default = compiled.default_rules(zone, now);
        let rules = all.into_iter().map(|mac| {
            let seen = seen.get(&mac).copied();
            let facts = facts(mac, config, seen, &self.remembered);
            (mac, compiled.rules_of(&facts, zone, now))
        });
        DeviceRules {
            devices: rules.filter(|(_, rules)| *rules != default).collect(),
            default,
        }
    }

    fn take(&mut self, generation: u32, compiled: Arc<Compiled>, who: DeviceRules) {
        self.in_force = Arc::new(InForce {
            generation,
            compiled,
            devices: who.devices.clone(),
            default_rules: who.default,
        });
        self.who = who;
    }
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

/// The devices that were seen, by their addresses.
fn seen(devices: &[Device]) -> HashMap<[u8; 6], &Device> {
    devices
        .iter()
        .filter_map(|device| Some((device.mac?.octets(), device)))
        .collect()
}

fn facts<'a>(
    mac: [u8; 6],
    config: &'a Config,
    seen: Option<&'a Device>,
    remembered: &'a Remembered,
) -> DeviceFacts<'a> {
    let said = config.devices.iter().find(|device| device.mac == mac);
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

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
        state::write(&folder.join(FILE), &all[..])?;
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
