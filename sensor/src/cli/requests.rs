//! Sends requests to the daemon and prints its responses; without a daemon, shows what the kernel's tables and the
//! configuration tell.

use std::{io::Write, process::ExitCode};

use anyhow::Context as _;

use super::{
    args::{
        AboutArgs, DevicesArgs, ExplainArgs, FlowsArgs, Output, PauseArgs, ResumeArgs, SayArgs,
    },
    history, now, print,
};
use crate::{
    aggregate::{self, Aggregate, address_names::AddressNames},
    catalog::Catalog,
    config::{Config, Level, Problems},
    control::{
        client::{self, Answer},
        protocol::{About, DeviceReport, Order, Request, Response, Status},
        socket::Place,
    },
    daemon::clock::Clock,
    enforcement::{self, Enforcement},
    model::{Flow, FlowFacts, Snapshot, Ticks},
    policy::Zone,
    source::kernel::{self, Books},
};

/// Flows that are read from the tables at a time.
const PAGE: usize = 256;

/// Sends a request to the daemon of a configuration; `None` where none answers.
pub(super) fn ask(config: &Config, request: &Request) -> anyhow::Result<Option<Answer>> {
    let daemon = &config.daemon;
    let place = Place::new(&daemon.runtime_directory, &daemon.pin_directory);
    client::ask(&place, request)
}

/// A daemon sent a response to another request.
pub(super) fn unexpected() -> anyhow::Error {
    anyhow::anyhow!(
        "the daemon sent a response to another request: restart it (`systemctl restart gateway-sensor`)"
    )
}

/// Executes `devices`.
pub(super) fn devices(
    out: &mut impl Write,
    config: &Config,
    args: &DevicesArgs,
) -> anyhow::Result<()> {
    let request = Request::Devices {
        device: args.device.clone(),
    };
    match ask(config, &request)? {
        Some(answer) => print_devices(out, config, answer.map(report), args),
        None => {
            let snapshot = snapshot(&Books::look(&config.daemon.pin_directory)?)?;
            say_names_are_missing();
            let places = match &args.device {
                Some(text) => enforcement::devices::seen(text, config, &snapshot.devices)
                    .map_err(anyhow::Error::msg)?,
                None => (0..snapshot.devices.len()).collect(),
            };
            let reports = places.into_iter().map(|place| {
                let device = &snapshot.devices[place];
                Ok(DeviceReport::full(device, &snapshot))
            });
            print_devices(out, config, reports, args)
        }
    }
}

fn report(response: anyhow::Result<Response>) -> anyhow::Result<DeviceReport> {
    match response? {
        Response::Device(report) => Ok(*report),
        _ => Err(unexpected()),
    }
}

fn print_devices(
    out: &mut impl Write,
    config: &Config,
    reports: impl Iterator<Item = anyhow::Result<DeviceReport>>,
    args: &DevicesArgs,
) -> anyhow::Result<()> {
    if args.output.json {
        let devices = reports.map(|report| report.map(|report| report.device));
        return print::print_list(out, devices);
    }
    let reports = reports.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(match args.device {
        Some(_) => {
            let past = |device: &str| history::past(config, device);
            print::print_each_device(out, reports, now(), past)
        }
        None => print::print_devices(out, reports, now()),
    }?)
}

/// Executes `refused`.
pub(super) fn refused(
    out: &mut impl Write,
    config: &Config,
    args: &DevicesArgs,
) -> anyhow::Result<()> {
    let request = Request::Refused {
        device: args.device.clone(),
    };
    let answer = ask(config, &request)?;
    let answer = answer.with_context(|| {
        format!(
            "{}: the daemon alone knows what was refused; start one (`systemctl start gateway-sensor`)",
            nobody_answers()
        )
    })?;
    let devices = answer.map(|response| match response? {
        Response::Refused(device) => Ok(device),
        _ => Err(unexpected()),
    });
    if args.output.json {
        return print::print_list(out, devices);
    }
    let devices = devices.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(print::print_refused(out, &devices, now())?)
}

/// Executes `findings`.
pub(super) fn findings(
    out: &mut impl Write,
    config: &Config,
    args: &DevicesArgs,
) -> anyhow::Result<()> {
    let request = Request::Findings {
        device: args.device.clone(),
    };
    let answer = ask(config, &request)?;
    let answer = answer.with_context(|| {
        format!(
            "{}: the daemon alone knows what devices do after visits; start one (`systemctl start gateway-sensor`)",
            nobody_answers()
        )
    })?;
    let devices = answer.map(|response| match response? {
        Response::Findings(mut device) => {
            device.earlier = history::earlier_echoes(config, &device);
            Ok(*device)
        }
        _ => Err(unexpected()),
    });
    if args.output.json {
        return print::print_list(out, devices);
    }
    let devices = devices.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(print::print_findings(out, &devices, now())?)
}

/// Executes `flows`.
pub(super) fn flows(out: &mut impl Write, config: &Config, args: &FlowsArgs) -> anyhow::Result<()> {
    let listing = &args.listing;
    let order = match listing.output.json {
        true => Order::Table,
        false => Order::Largest(listing.limit),
    };
    let request = Request::Flows {
        device: args.device.clone(),
        order,
    };
    if let Some(mut answer) = ask(config, &request)? {
        let flows = answer.by_ref().map(|response| match response? {
            Response::Flow(flow) => Ok(*flow),
            _ => Err(unexpected()),
        });
        if listing.output.json {
            return print::print_list(out, flows);
        }
        let flows = flows.collect::<anyhow::Result<Vec<Flow>>>()?;
        return Ok(print::print_flows(
            out,
            &flows,
            answer.left_out(),
            listing,
            now(),
        )?);
    }
    let books = Books::look(&config.daemon.pin_directory)?;
    let devices = match &args.device {
        Some(text) => {
            let devices = snapshot(&books)?.devices;
            let places = enforcement::devices::seen(text, config, &devices);
            let places = places.map_err(anyhow::Error::msg)?.into_iter();
            Some(places.filter_map(|place| devices[place].mac).collect())
        }
        None => None,
    };
    say_names_are_missing();
    let (slots, left_out) = books.choose_flows(devices.as_ref(), order.most());
    let flows = slots.chunks(PAGE).flat_map(|page| {
        let (lines, error) = match books.flow_lines(page) {
            Ok(lines) => (lines, None),
            Err(error) => (Vec::new(), Some(Err(error.into()))),
        };
        let clock = books.clock();
        let flows = lines.into_iter().map(move |line| {
            let facts = FlowFacts::default();
            let flow = aggregate::flow(&line.record, line.interface, line.policy, facts, clock);
            Ok(flow)
        });
        flows.chain(error)
    });
    if listing.output.json {
        return print::print_list(out, flows);
    }
    let flows = flows.collect::<anyhow::Result<Vec<Flow>>>()?;
    Ok(print::print_flows(out, &flows, left_out, listing, now())?)
}

/// Executes `status`.
pub(super) fn status(out: &mut impl Write, config: &Config, output: Output) -> anyhow::Result<()> {
    match ask(config, &Request::Status)? {
        Some(answer) => {
            let Response::Status { status, time_zone } = answer.only()? else {
                return Err(unexpected());
            };
            let zone = Zone::named(time_zone.as_deref());
            Ok(print::print_status(out, &status, output, &zone)?)
        }
        None => {
            let snapshot = snapshot(&Books::look(&config.daemon.pin_directory)?)?;
            say_names_are_missing();
            let zone = Zone::named(config.daemon.time_zone.as_deref());
            Ok(print::print_status(
                out,
                &Status::from(&snapshot),
                output,
                &zone,
            )?)
        }
    }
}

/// Executes `block` or `allow`.
pub(super) fn say(
    out: &mut impl Write,
    config: &Config,
    args: &SayArgs,
    blocks: bool,
) -> anyhow::Result<()> {
    let request = Request::Override {
        about: about(&args.about),
        holds_for: args.holds_for.map(|duration| duration.as_secs()),
        blocks,
    };
    let Response::Overridden {
        said,
        missed,
        refused_before,
        time_zone,
    } = carried_out(config, &request)?
    else {
        return Err(unexpected());
    };
    print::print_override(out, &said, &Zone::named(time_zone.as_deref()))?;
    print::print_missed(out, &missed)?;
    Ok(print::print_refused_before(out, &refused_before)?)
}

/// Executes `forget`.
pub(super) fn forget(
    out: &mut impl Write,
    config: &Config,
    domain: &str,
    devices: Option<&str>,
) -> anyhow::Result<()> {
    let about = About {
        name: domain.to_owned(),
        devices: devices.map(str::to_owned),
    };
    let Response::Forgotten {
        forgotten,
        others,
        about,
        time_zone,
    } = carried_out(config, &Request::Forget(about))?
    else {
        return Err(unexpected());
    };
    let zone = Zone::named(time_zone.as_deref());
    let Some(forgotten) = forgotten else {
        let mut text = Vec::new();
        print::print_none_forgotten(&mut text, &about)?;
        print::print_others(&mut text, &others, &zone)?;
        anyhow::bail!(String::from_utf8_lossy(&text).trim_end().to_owned());
    };
    print::print_forgotten(out, &forgotten)?;
    Ok(print::print_others(out, &others, &zone)?)
}

/// Executes `pause`.
pub(super) fn pause(out: &mut impl Write, config: &Config, args: &PauseArgs) -> anyhow::Result<()> {
    let request = Request::Pause {
        devices: args.about.device.clone(),
        holds_for: args.holds_for.map(|duration| duration.as_secs()),
    };
    let Response::Paused { pause, time_zone } = carried_out(config, &request)? else {
        return Err(unexpected());
    };
    let zone = Zone::named(time_zone.as_deref());
    Ok(print::print_paused(out, &pause, &zone)?)
}

/// Executes `resume`.
pub(super) fn resume(
    out: &mut impl Write,
    config: &Config,
    args: &ResumeArgs,
) -> anyhow::Result<()> {
    let request = Request::Resume {
        devices: args.device.clone(),
    };
    let Response::Resumed {
        ended,
        others,
        time_zone,
    } = carried_out(config, &request)?
    else {
        return Err(unexpected());
    };
    let zone = Zone::named(time_zone.as_deref());
    Ok(print::print_resumed(out, &ended, &others, &zone)?)
}

fn about(args: &AboutArgs) -> About {
    About {
        name: args.domain.clone(),
        devices: args.device.clone(),
    }
}

/// The response to a request that changes something, which takes a daemon.
fn carried_out(config: &Config, request: &Request) -> anyhow::Result<Response> {
    let answer = ask(config, request)?;
    let answer = answer.with_context(|| match rustix::process::geteuid().is_root() {
        true => {
            "no daemon runs, and nothing has changed: start one (`systemctl start gateway-sensor`)"
        }
        false => {
            "no daemon takes this from you, and nothing has changed: only root may say what is \
             blocked (`sudo sensor …`)"
        }
    })?;
    answer.only()
}

/// Executes `explain`; `problems` are those of the configuration.
pub(super) fn explain(
    out: &mut impl Write,
    config: &Config,
    problems: &Problems,
    args: &ExplainArgs,
) -> anyhow::Result<ExitCode> {
    let request = Request::Explain {
        device: args.device.clone(),
        subject: args.subject.to_string(),
    };
    let (explanation, zone) = match ask(config, &request)? {
        Some(answer) => match answer.only()? {
            Response::Explained {
                explanation,
                time_zone,
            } => (*explanation, Zone::named(time_zone.as_deref())),
            _ => return Err(unexpected()),
        },
        // A configuration with errors is read only in part, and that part could decide otherwise.
        None if problems.count(Level::Error) > 0 => {
            super::refuse(problems)?;
            return Ok(ExitCode::FAILURE);
        }
        None => {
            tracing::warn!(
                "{}: this is what the configuration and its lists would say, with what is kept of \
                 commands and devices; what DNS told of addresses is not known",
                nobody_answers()
            );
            let catalog = Catalog::load(&config.parties, &config.lists, None);
            let moment = Clock::of_machine().now();
            let mut enforcement = Enforcement::new(config, moment);
            enforcement.read_lists(config, &catalog);
            let names = AddressNames::default();
            let mac = enforcement::devices::called(&args.device, config, &[]);
            let mac = mac.map_err(anyhow::Error::msg)?;
            let explanation =
                enforcement.explain(mac, &args.subject, config, &catalog, &[], &names, moment);
            (explanation, enforcement.zone().clone())
        }
    };
    let subject = (&*args.device, &*args.subject.to_string());
    print::print_explanation(out, subject, &explanation, args.output, &zone)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints which MAC addresses several devices share, where a daemon runs that knows.
pub(super) fn say_shared(out: &mut impl Write, config: &Config) -> anyhow::Result<()> {
    // A daemon that refuses to answer, or is of another version, is no failure of `doctor`.
    let Ok(Some(answer)) = ask(config, &Request::Devices { device: None }) else {
        return Ok(());
    };
    let reports = answer.map(report).map_while(Result::ok);
    for device in reports.map(|report| report.device) {
        if device.identity.shared_by > 0 {
            writeln!(
                out,
                "{:<8}device {}: {}",
                "note",
                device.device,
                print::shared_address(device.identity.shared_by)
            )?;
        }
    }
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
