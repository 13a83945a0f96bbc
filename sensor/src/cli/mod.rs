//! Executes the commands of the command line.

pub mod args;
mod history;
mod policy;
pub mod print;
mod replay;
mod report;
mod requests;
mod watch;

use std::{
    collections::BTreeSet,
    io::{IsTerminal as _, Write as _, stderr, stdout},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::subscriber::NoSubscriber;
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use self::{
    args::{Cli, Command, LogLevel},
    watch::Rounds,
};
use crate::{
    catalog::Catalog,
    causes::in_one_line,
    config::{Checked, Config, KeptNames, Level, Problems},
    daemon::{self, clock::Clock, memory::restrain_allocator},
    enforcement::Enforcement,
    policy::Action,
    source::kernel::{self, Links, preflight},
};

/// Executes the command of the arguments.
///
/// # Errors
///
/// The error, without characters that a terminal would obey.
pub fn execute(cli: &Cli) -> anyhow::Result<ExitCode> {
    carry_out(cli)
        .map_err(|error| anyhow::Error::msg(print::printable_lines(&in_one_line(error.as_ref()))))
}

fn carry_out(cli: &Cli) -> anyhow::Result<ExitCode> {
    log_to_stderr(cli.log);
    // The only one that needs no configuration.
    if let Command::Replay(args) = &cli.command {
        return replay::replay(args);
    }
    let Some(Checked { config, problems }) = read(cli)? else {
        return Ok(ExitCode::FAILURE);
    };
    let mut out = stdout().lock();
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
            let rounds = Rounds::of(args.watch, args.output);
            rounds.print(&mut out, |out| requests::devices(out, &config, args))?;
        }
        Command::Flows(args) => {
            let rounds = Rounds::of(args.watch, args.listing.output);
            rounds.print(&mut out, |out| requests::flows(out, &config, args))?;
        }
        Command::Refused(args) => {
            let rounds = Rounds::of(args.watch, args.output);
            rounds.print(&mut out, |out| requests::refused(out, &config, args))?;
        }
        Command::Findings(args) => {
            let rounds = Rounds::of(args.watch, args.output);
            rounds.print(&mut out, |out| requests::findings(out, &config, args))?;
        }
        Command::Status(output) => requests::status(&mut out, &config, *output)?,
        Command::Block(args) => requests::say(&mut out, &config, args, true)?,
        Command::Allow(args) => requests::say(&mut out, &config, args, false)?,
        Command::Forget(args) => match &args.domain {
            Some(domain) => {
                requests::forget(&mut out, &config, domain, args.device.as_deref())?;
            }
            None => history::forget(&mut out, &config, args.device.as_deref())?,
        },
        Command::History(args) => history::history(&mut out, &config, args)?,
        Command::Report(args) => report::report(&mut out, &config, args)?,
        Command::Pause(args) => requests::pause(&mut out, &config, args)?,
        Command::Resume(args) => requests::resume(&mut out, &config, args)?,
        Command::Policy(args) => return policy::policy(&mut out, &config, args),
        Command::Explain(args) => return requests::explain(&mut out, &config, &problems, args),
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

/// Reads the configuration and shows its problems; `None` where it cannot be used.
///
/// `run` and `check` need all of it. The other commands only need to know where the daemon is: they
/// work while a list is missing or the file is half edited, and read no list.
fn read(cli: &Cli) -> anyhow::Result<Option<Checked>> {
    let read = match cli.command {
        Command::Check => Config::load(&cli.config),
        // The daemon reads the lists itself, and logs their problems.
        Command::Run => Config::load_alone(&cli.config),
        _ => Config::load_lenient(&cli.config),
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
            enforcement.read_lists(config, &catalog);
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

fn doctor(out: &mut impl std::io::Write, config: &Config) -> anyhow::Result<ExitCode> {
    let interfaces: Vec<_> = config
        .interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .collect();
    let mut well = true;
    requests::say_shared(out, config)?;
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
    if config.history.keep != KeptNames::Off {
        let (mark, text) = match history::place(config.history_directory()) {
            Ok(text) => ("ok", text),
            Err(text) => {
                well = false;
                ("missing", text)
            }
        };
        writeln!(out, "{mark:<8}history: {text}")?;
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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
