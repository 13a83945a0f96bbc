//! Capture files, from their octets to the printed flows.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Write, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    aggregate::{self, Aggregate, Overrides},
    catalog::{Catalog, List, Parties, TOP_PARTIES, lists, networks},
    classify::Classifier,
    cli::{
        args::{EngineName, ReplayArgs},
        print::{
            print_shared,
            replay::{
                CapturedFlow, print_capture, print_device_line, print_flow_line,
                print_question_line, print_summary,
            },
        },
    },
    model::Ticks,
    record::{Clock, Record},
    source::replay::{self, Engine, Options, Place, Summary},
};

/// Payloads of a new flow that are wanted in each direction, as where none is configured.
const PAYLOADS: u8 = 4;

/// Replays every file, and reports those that could not be read to the end.
pub(super) fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let options = Options {
        lan: args.lan.clone(),
        payloads: PAYLOADS,
    };
    let mut engine = match args.engine {
        EngineName::Host => Engine::Host,
        EngineName::Kernel => Engine::kernel(&options)?,
    };
    let catalog = Arc::new(catalog(args)?);
    let bar = progress(&args.files);
    let mut out = BufWriter::new(stdout().lock());
    let mut incomplete = 0;
    for path in &args.files {
        let name = path.display().to_string();
        let problem = match File::open(path) {
            Ok(file) => {
                let file = bar.wrap_read(file);
                let mut household = Household::read(file, &options, &mut engine, &catalog)?;
                household.print(&mut out, &name, args)?;
                household.summary.damage.map(|damage| damage.to_string())
            }
            Err(error) => Some(format!("the file cannot be opened: {error}")),
        };
        if let Some(problem) = problem {
            incomplete += 1;
            bar.suspend(|| eprintln!("sensor: {name}: {problem}"));
        }
    }
    out.flush()?;
    bar.finish_and_clear();
    if incomplete > 0 {
        eprintln!(
            "sensor: {incomplete} of {} files could not be read to the end",
            args.files.len()
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The catalog of the built-in lists and of the files named in the arguments.
fn catalog(args: &ReplayArgs) -> anyhow::Result<Catalog> {
    for file in &args.list {
        lists::inspect(file, None, None)
            .with_context(|| format!("the list {} cannot be read", file.display()))?;
    }
    for file in &args.networks {
        networks::inspect(file)
            .with_context(|| format!("the database {} cannot be used", file.display()))?;
    }
    let own: Vec<_> = args
        .list
        .iter()
        .map(|file| List {
            file: file.clone(),
            category: None,
            owner: None,
        })
        .collect();
    let parties = Parties {
        top: TOP_PARTIES,
        builtin_lists: true,
        resolvers: Vec::new(),
        networks: args.networks.clone(),
        nat64: Vec::new(),
    };
    Ok(Catalog::load(&parties, &own, None))
}

/// A bar over all files, on standard error where that is a terminal.
fn progress(files: &[PathBuf]) -> ProgressBar {
    let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    let total = files.iter().map(|path| size(path)).sum();
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// One capture, and the results at its end.
struct Household {
    summary: Summary,
    aggregate: Aggregate,
    flows: Vec<CapturedFlow>,
}

impl Household {
    fn read(
        input: impl Read + Send,
        options: &Options,
        engine: &mut Engine,
        catalog: &Arc<Catalog>,
    ) -> anyhow::Result<Self> {
        let mut aggregate = Aggregate::new(Arc::clone(catalog), Overrides::default(), 0.0);
        aggregate.keep_questions();
        let mut classifier = Classifier::default();
        let mut clock = Clock::default();
        let mut records = Vec::new();
        let mut ended = 0.0;
        let summary = replay::replay(input, options, engine, |record, now| {
            match &record {
                // A new reading begins: it replaces the records of flows from earlier, partial
                // readings.
                Record::Tables(tables) => {
                    clock = tables.clock;
                    records.clear();
                }
                Record::Flow(slot, flow) => records.push((*slot, *flow)),
                _ => {}
            }
            ended = now;
            classifier.hear(record, now, |record| aggregate.take(record, now));
        })?;
        // The capture has no more packets.
        classifier.forget_unfinished(ended);
        classifier
            .given_up()
            .for_each(|given| aggregate.expire(&given, ended));
        let flows = records
            .iter()
            .map(|(slot, record)| {
                let place = Place::from_ifindex(record.key.ifindex());
                let inside = place.filter(|place| *place != Place::Capture);
                let facts = aggregate.facts(*slot, record);
                CapturedFlow {
                    flow: aggregate::flow(record, String::new(), None, facts, clock),
                    inside: inside.map(Place::name),
                }
            })
            .collect();
        Ok(Self {
            summary,
            aggregate,
            flows,
        })
    }

    fn print(&mut self, out: &mut impl Write, name: &str, args: &ReplayArgs) -> io::Result<()> {
        if !args.flows.output.json {
            print_capture(out, name, &self.flows, args.flows.limit)?;
            print_shared(out, &self.aggregate.snapshot(Ticks::default()).devices)?;
            return print_summary(out, &self.summary);
        }
        for flow in &self.flows {
            print_flow_line(out, name, flow)?;
        }
        for question in self.aggregate.questions() {
            print_question_line(out, question)?;
        }
        for device in &self.aggregate.snapshot(Ticks::default()).devices {
            print_device_line(out, device)?;
        }
        Ok(())
    }
}
