//! Executes the commands of the command line.

pub mod args;
pub mod print;
mod replay;

use std::{
    collections::BTreeSet,
    io::{IsTerminal as _, Write as _, stderr, stdout},
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Deserialize;
use tracing::subscriber::NoSubscriber;
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use self::args::{Cli, Command, DevicesArgs, ForgetArgs, LogLevel, Output, SayArgs};
use crate::{
    aggregate::{self, Aggregate},
    catalog::Catalog,
    config::{Checked, Config, Level, Problems, arguments},
    control::{self, Request, Said, Told},
    daemon::{self, clock::Clock, memory::restrain_allocator},
    enforcement::Enforcement,
    model::{FlowFacts, Snapshot, Ticks},
    policy::{Action, Zone},
    source::kernel::{self, Books, Links, preflight},
};

/// Executes the command of the arguments.
///
/// # Errors
///
/// The error, as one line.
pub fn execute(cli: &Cli) -> anyhow::Result<ExitCode> {
    log_to_stderr(cli.log);
    // The only one that needs no configuration.
    if let Command::Replay(args) = &cli.command {
        return replay::replay(args);
    }
    let Some(Checked { config, problems }) = read(cli)? else {
        return Ok(ExitCode::FAILURE);
    };
    let mut out = stdout().lock();
    let now = now();
    let pin_directory = &config.daemon.pin_directory;
    match &cli.command {
        Command::Run => {
            drop(out);
            raise_descriptor_limit();
            restrain_allocator();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let ended = runtime.block_on(daemon::run(&cli.config, config));
            // Lists may still be read for a reload, which takes seconds and is for nothing now.
            runtime.shutdown_background();
            ended?;
        }
        Command::Check => print::print_valid(&mut out, &config)?,
        Command::Devices(args) => {
            match control::ask(pin_directory, &Request::Devices(args.clone()))? {
                Some(answer) => write!(out, "{}", told(&answer)?)?,
                None => {
                    let snapshot = snapshot(&Books::look(pin_directory)?)?;
                    say_names_are_missing();
                    print::print_devices(&mut out, &snapshot, args, now)?;
                }
            }
        }
        Command::Flows(args) => match control::ask(pin_directory, &Request::Flows(args.clone()))? {
            Some(answer) => write!(out, "{}", told(&answer)?)?,
            None => {
                let books = Books::look(pin_directory)?;
                let clock = books.clock();
                let flows: Vec<_> = books
                    .flow_lines()?
                    .into_iter()
                    .map(|line| {
                        let facts = FlowFacts::default();
                        aggregate::flow(&line.record, line.interface, line.policy, facts, clock)
                    })
                    .collect();
                let devices = snapshot(&books)?.devices;
                say_names_are_missing();
                print::print_flows(&mut out, &flows, &devices, args, now)?;
            }
        },
        Command::Refused(args) => {
            return tell(&mut out, &config, &Request::Refused(args.clone()));
        }
        Command::Status(output) => match control::ask(pin_directory, &Request::Status(*output))? {
            Some(answer) => write!(out, "{answer}")?,
            None => {
                let snapshot = snapshot(&Books::look(pin_directory)?)?;
                say_names_are_missing();
                print::print_status(&mut out, &snapshot, *output, &zone(&config))?;
            }
        },
        Command::Block(args) => return tell(&mut out, &config, &say(args, &config, true)?),
        Command::Allow(args) => return tell(&mut out, &config, &say(args, &config, false)?),
        Command::Forget(args) => {
            return tell(&mut out, &config, &Request::Forget(said(args, &config)?));
        }
        Command::Explain(args) => {
            let question = Request::Explain(args.clone());
            let text = match control::ask(pin_directory, &question)? {
                Some(answer) => told(&answer)?,
                // A configuration with errors is read only in part, and that part could decide
                // otherwise.
                None if problems.count(Level::Error) > 0 => {
                    refuse(&problems)?;
                    return Ok(ExitCode::FAILURE);
                }
                None => {
                    tracing::warn!(
                        "{}: this is what the configuration and its lists would say, with what is \
                         kept of commands and devices; what DNS told of addresses is not known",
                        nobody_answers()
                    );
                    let catalog = Catalog::load(&config.parties, &config.lists, None);
                    let moment = Clock::of_machine().now();
                    let mut enforcement = Enforcement::new(&config, moment);
                    enforcement.read_lists(&config);
                    print::explained(
                        args,
                        &config,
                        &catalog,
                        &enforcement,
                        &[],
                        moment,
                        |_, _| Vec::new(),
                    )?
                }
            };
            write!(out, "{text}")?;
        }
        Command::Unload => {
            kernel::unload(pin_directory)?;
            writeln!(
                out,
                "nothing of the sensor at {} is left in the kernel",
                pin_directory.display()
            )?;
        }
        Command::Doctor => return doctor(&mut out, &config),
        // Done above.
        Command::Replay(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn zone(config: &Config) -> Zone {
    Zone::named(config.daemon.time_zone.as_deref())
}

fn say(args: &SayArgs, config: &Config, blocks: bool) -> anyhow::Result<Request> {
    Ok(Request::Say {
        said: said(&args.about, config)?,
        holds_for: args.holds_for.map(|duration| duration.as_secs()),
        blocks,
    })
}

fn said(args: &ForgetArgs, config: &Config) -> anyhow::Result<Said> {
    let device = args
        .device
        .as_deref()
        .map(|text| arguments::said_devices(text, &config.devices))
        .transpose()
        .map_err(anyhow::Error::msg)?;
    Ok(Said {
        domain: args.domain.clone(),
        device,
    })
}

/// Sends a command to the daemon, and prints its response.
fn tell(
    out: &mut impl std::io::Write,
    config: &Config,
    question: &Request,
) -> anyhow::Result<ExitCode> {
    let answer = control::ask(&config.daemon.pin_directory, question)?;
    let answer = answer.with_context(|| match rustix::process::geteuid().is_root() {
        true => {
            "no daemon runs, and nothing has changed: start one (`systemctl start gateway-sensor`)"
        }
        false => {
            "no daemon takes this from you, and nothing has changed: only root may say what is \
             blocked (`sudo sensor …`)"
        }
    })?;
    write!(out, "{}", told(&answer)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Decodes the daemon's response to a command.
fn told(answer: &str) -> anyhow::Result<String> {
    let told: Told = serde_json::from_str(answer).context(
        "the daemon is of another version: restart it (`systemctl restart gateway-sensor`)",
    )?;
    told.map_err(anyhow::Error::msg)
}

/// Reads the configuration and shows its problems; `None` where it cannot be used.
///
/// `run` and `check` need all of it. The other commands only need to know where the daemon is: they
/// work while a list is missing or the file is half edited, and read no list.
fn read(cli: &Cli) -> anyhow::Result<Option<Checked>> {
    let read = match cli.command {
        Command::Run | Command::Check => Config::load(&cli.config),
        _ => Config::glance(&cli.config),
    };
    let mut checked = match read {
        Ok(checked) => checked,
        // `unload` and `doctor` work without a configuration file.
        Err(problems)
            if matches!(cli.command, Command::Unload | Command::Doctor) && !cli.config.exists() =>
        {
            let config = Config::absent();
            tracing::warn!(
                "{} does not exist: this is about the sensor at {}, where it is by default",
                cli.config.display(),
                config.daemon.pin_directory.display()
            );
            return Ok(Some(Checked { config, problems }));
        }
        Err(problems) => {
            refuse(&problems)?;
            return Ok(None);
        }
    };
    if let Command::Check = cli.command {
        weigh(&mut checked);
        find_counted_twice(&mut checked);
        look_at_interfaces(&mut checked);
    }
    let problems = &checked.problems;
    let has_errors = problems.count(Level::Error) > 0;
    match cli.command {
        Command::Check if has_errors => {
            refuse(problems)?;
            return Ok(None);
        }
        Command::Run | Command::Check => {
            let mut out = stderr().lock();
            let colours = out.is_terminal();
            print::print_problems(&mut out, problems, colours)?;
        }
        _ if has_errors => tracing::warn!(
            "{} has errors, which `sensor check` shows; this is about the sensor at {}",
            cli.config.display(),
            checked.config.daemon.pin_directory.display()
        ),
        _ => {}
    }
    Ok(Some(checked))
}

/// Adds a problem to a configuration where the kernel's tables have no room for all of it.
fn weigh(checked: &mut Checked) {
    let Checked { config, problems } = checked;
    // Nothing is logged here, because the problems of the files are reported already.
    let (catalog, without, with) =
        tracing::subscriber::with_default(NoSubscriber::default(), || {
            let catalog = Catalog::load(&config.parties, &config.lists, None);
            let mut enforcement = Enforcement::new(config, Clock::of_machine().now());
            enforcement.read_lists(config);
            let (without, with) = enforcement.too_large(config, &catalog);
            (catalog, without, with)
        });
    warn_of_missed(config, &catalog, problems);
    if let Some(error) = without {
        problems.add(Level::Error, error.what.to_string(), error.help());
    }
    if let Some(error) = with {
        let message = format!("with what commands said, {}", error.what);
        let help =
            "take some of it back with `sensor forget`, which `sensor status` lists; a reload \
                    is refused, and a start leaves all of it out"
                .to_owned();
        problems.add(Level::Warning, message, help);
    }
}

/// Adds a problem to a configuration for each pair of its interfaces that see the same frames.
fn find_counted_twice(checked: &mut Checked) {
    const HELP: &str = "watch one of the two: a bridge, or its ports with `ports = true`; the \
                        interface that VLANs stand on, or the VLANs; a bond, and not its members";
    match Links::look() {
        Ok(links) => {
            for pair in kernel::counted_twice(&checked.config.interfaces, &links) {
                checked.problems.add(Level::Error, pair, HELP.to_owned());
            }
        }
        Err(error) => tracing::warn!("{error}: whether frames are counted twice is not known"),
    }
}

/// Adds a problem to a configuration for each interface that does not exist or is on the side of the
/// internet.
fn look_at_interfaces(checked: &mut Checked) {
    let Checked { config, problems } = checked;
    let routes = kernel::default_routes().unwrap_or_else(|error| {
        tracing::warn!("{error}: which interface leads to the internet is not known");
        BTreeSet::new()
    });
    for interface in &config.interfaces {
        let name = &interface.name;
        if let Err(error) = kernel::ifindex(name) {
            problems.add(
                Level::Warning,
                error.to_string(),
                "see whether its name is right".to_owned(),
            );
        } else if routes.contains(name) {
            problems.add(
                Level::Warning,
                format!("interface `{name}` leads to the internet: it has the default route"),
                "name the interface on the side of your devices (`br-lan`, for example): on the other \
                 side all their packets have one MAC address, that of this machine"
                    .to_owned(),
            );
        }
    }
}

/// Adds a problem to a configuration for each refused name that devices would miss.
fn warn_of_missed(config: &Config, catalog: &Catalog, problems: &mut Problems) {
    for policy in &config.policies {
        if !matches!(policy.action, Action::Reject | Action::Drop) {
            continue;
        }
        for domain in &policy.domains {
            if let Some(missed) = catalog.never_block(domain) {
                problems.add(
                    Level::Warning,
                    format!(
                        "policy `{}` refuses `{domain}`, which devices or their owners would miss",
                        policy.name
                    ),
                    format!(
                        "leave it out, unless it is meant: it is `never-block` by line {} of {}, and \
                         `domains` stands above that",
                        missed.line, missed.list
                    ),
                );
            }
        }
    }
}

/// Seconds since the Unix epoch.
fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
}

/// Prints why a configuration cannot be used.
fn refuse(problems: &Problems) -> anyhow::Result<()> {
    let mut out = stderr().lock();
    let colours = out.is_terminal();
    print::print_problems(&mut out, problems, colours)?;
    print::print_invalid(&mut out, problems)?;
    Ok(())
}

/// Warns that names are missing: the kernel's tables outlive the daemon, the names do not.
fn say_names_are_missing() {
    tracing::warn!(
        "{}: the kernel goes on counting, names are known when one runs (`sensor run`, `systemctl \
         start gateway-sensor`)",
        nobody_answers()
    );
}

/// Why a request has no response. A daemon does not answer a user who is not root, not even to say
/// that it runs.
fn nobody_answers() -> &'static str {
    match rustix::process::geteuid().is_root() {
        true => "no daemon runs",
        false => "no daemon runs, or none that answers you, so ask as root (`sudo sensor …`)",
    }
}

fn snapshot(books: &Books) -> Result<Snapshot, kernel::Error> {
    let mut aggregate = Aggregate::default();
    books.read_all(|record| aggregate.apply(record, 0.0))?;
    let mut snapshot = aggregate.snapshot(Ticks::default());
    for interface in &mut snapshot.interfaces {
        interface.driver = kernel::driver(&interface.interface);
    }
    Ok(snapshot)
}

fn doctor(out: &mut impl std::io::Write, config: &Config) -> anyhow::Result<ExitCode> {
    let interfaces: Vec<_> = config
        .interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .collect();
    let mut well = true;
    say_shared(out, &config.daemon.pin_directory)?;
    for finding in preflight::examine(&config.daemon.pin_directory, &interfaces) {
        let (mark, text) = match &finding.result {
            Ok(text) => ("ok", text),
            Err(text) => {
                well = false;
                ("missing", text)
            }
        };
        writeln!(out, "{mark:<8}{}: {text}", finding.what)?;
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints which MAC addresses several devices share, where a daemon runs that knows.
fn say_shared(out: &mut impl std::io::Write, pin_directory: &Path) -> anyhow::Result<()> {
    let question = Request::Devices(DevicesArgs {
        output: Output { json: true },
        device: None,
    });
    // A daemon that refuses to answer, or is of another version, is no failure of `doctor`.
    let answer = control::ask(pin_directory, &question).ok().flatten();
    let Some(Ok(text)) = answer.as_deref().map(told) else {
        return Ok(());
    };
    let devices: Vec<SharedAddress> = serde_json::from_str(&text).unwrap_or_default();
    for device in devices.iter().filter(|device| device.shared_by > 0) {
        writeln!(
            out,
            "{:<8}device {}: {}",
            "note",
            device.device,
            print::shared_address(device.shared_by)
        )?;
    }
    Ok(())
}

/// The fields of a device that `doctor` needs.
#[derive(Deserialize)]
struct SharedAddress {
    device: String,
    shared_by: u32,
}

fn log_to_stderr(level: LogLevel) {
    // aya logs every relocation at debug.
    let levels = Targets::new()
        .with_default(tracing::Level::from(level))
        .with_target("aya", tracing::Level::WARN)
        .with_target("aya_obj", tracing::Level::WARN);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry()
        .with(levels)
        .with(lines)
        .init();
}

/// Raises the limit of open descriptors to its hard limit. The usual soft limit of 1,024 protects programs
/// that call select(2); the daemon does not.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit of open descriptors stays as it is: {error}");
    }
}
