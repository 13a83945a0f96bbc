//! Executes `policy` and its commands.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Write,
    process::ExitCode,
};

use sensor_ebpf::parse::Mac;

use super::{
    args::{PolicyArgs, PolicyCommand, TryArgs},
    history,
    print::{self, DeviceTrial, RefusedParty},
};
use crate::{
    catalog::Catalog,
    config::{Config, Level},
    daemon::clock::Clock,
    enforcement::{Enforcement, devices},
    model::history::PartyKind,
    policy::{
        explain::Deciding,
        trial::{KeptParty, Outcome, Trial},
    },
    sink::store::read::{A_SITE, PartyHour, Reader},
};

/// Executes `policy` and its commands.
pub(super) fn policy(
    out: &mut impl Write,
    config: &Config,
    args: &PolicyArgs,
) -> anyhow::Result<ExitCode> {
    match &args.command {
        PolicyCommand::Try(args) => try_policies(out, config, args),
    }
}

fn try_policies(out: &mut impl Write, config: &Config, args: &TryArgs) -> anyhow::Result<ExitCode> {
    let tried = match Config::load(&args.file) {
        Ok(checked) if checked.problems.count(Level::Error) == 0 => checked.config,
        Ok(checked) => {
            super::refuse(&checked.problems)?;
            return Ok(ExitCode::FAILURE);
        }
        Err(problems) => {
            super::refuse(&problems)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let catalog = Catalog::load(&tried.parties, &tried.lists, None);
    let moment = Clock::of_machine().now();
    // The present configuration says where the daemon keeps its knowledge of devices, not the one that is tried.
    let mut enforcement = Enforcement::new(config, moment);
    enforcement.read_lists(&tried, &catalog);
    if let (Some(error), _) = enforcement.too_large(&tried, &catalog) {
        anyhow::bail!("{}: {}; {}", args.file.display(), error.what, error.help());
    }
    history::write_up_to_now(config)?;
    let reader = Reader::open(config.history_directory())?;
    let since = history::since(args.since);
    let mut names = HashSet::new();
    reader.party_hours(since, |row| {
        if matches!(row.kind, PartyKind::Party | PartyKind::Site) && !names.contains(row.party) {
            names.insert(row.party.to_owned());
        }
    })?;
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let deciding = Deciding {
        temporary: &[],
        ..enforcement.deciding(&tried, &catalog, moment)
    };
    let trial = Trial::new(deciding, &names);
    let shown = history::shows_sites(config);
    let mut found = Found::default();
    reader.party_hours(since, |row| {
        // Of the records that devices share nothing is known.
        let mac = devices::called(row.device, &tried, &[]).unwrap_or(Mac::new([0; 6]));
        let device = enforcement.facts(mac, &tried, &[]);
        let party = KeptParty {
            kind: row.kind,
            name: row.party,
            category: row.category,
        };
        let hour = row.hour as f64;
        let outcome = match trial.active(&device, hour) {
            Some(active) => found.outcome((row, active), || trial.outcome(&device, party, hour)),
            None => trial.outcome(&device, party, hour),
        };
        found.add(&row, outcome, shown.contains(row.device));
    })?;
    let devices: Vec<_> = found.devices.into_values().collect();
    print::print_trial(out, &devices, args.output)?;
    Ok(ExitCode::SUCCESS)
}

/// The findings, by device.
#[derive(Default)]
struct Found {
    devices: BTreeMap<String, DeviceTrial>,
    /// Outcomes by device, party, category and the policies that apply.
    known: HashMap<(String, String, Option<String>, u64), Outcome>,
}

impl Found {
    fn outcome(
        &mut self,
        (row, active): (PartyHour<'_>, u64),
        find: impl FnOnce() -> Outcome,
    ) -> Outcome {
        let key = (
            row.device.to_owned(),
            row.party.to_owned(),
            row.category.map(str::to_owned),
            active,
        );
        self.known.entry(key).or_insert_with(find).clone()
    }

    fn add(&mut self, row: &PartyHour<'_>, outcome: Outcome, shows_sites: bool) {
        let device = self.devices.entry(row.device.to_owned());
        let device = device.or_insert_with(|| DeviceTrial {
            device: row.device.to_owned(),
            name: row.device_name.map(str::to_owned),
            ..DeviceTrial::default()
        });
        device.all.add(row);
        match outcome {
            Outcome::Passed => {}
            Outcome::Unknown => device.cannot_be_told.add(row),
            Outcome::Refused(policy) => {
                let party = match row.kind {
                    PartyKind::Site if !shows_sites => (A_SITE, None),
                    _ => (row.party, row.category),
                };
                let is_it = |refused: &&mut RefusedParty| {
                    refused.policy == policy
                        && (&*refused.party, refused.category.as_deref()) == party
                };
                if let Some(refused) = device.refused.iter_mut().find(is_it) {
                    return refused.amounts.add(row);
                }
                let mut refused = RefusedParty {
                    party: party.0.to_owned(),
                    category: party.1.map(str::to_owned),
                    policy,
                    ..RefusedParty::default()
                };
                refused.amounts.add(row);
                device.refused.push(refused);
            }
        }
    }
}
