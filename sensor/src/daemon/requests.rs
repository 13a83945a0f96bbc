//! Carries out the requests of the command line.
//!
//! The owner does what touches the kernel's side, in short pieces. Long lists are fetched from it a page at a
//! time, so that a client that reads slowly holds up nobody and no list is in memory as text.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use sensor_ebpf::parse::Mac;
use tokio::sync::{mpsc, oneshot};

use super::{Command, Owner};
use crate::{
    aggregate::flow,
    config::arguments,
    control::{
        protocol::{About, DeviceReport, Order, Request, Response, Status},
        server::{Handler, Responses},
    },
    enforcement::{self, pauses::Pause},
    model::{DeviceRefused, Flow, Refused, Snapshot, echo::DeviceEchoes},
    moment::Moment,
    policy::{DeviceSelector, Holds, Override},
};

/// Flows that the owner gives at a time.
const PAGE: usize = 256;

/// A piece of work for the owner.
pub(super) type Work = Box<dyn FnOnce(&mut Owner) + Send>;

/// The way of requests to the owner.
#[derive(Clone)]
pub(super) struct Requests(pub(super) mpsc::Sender<Command>);

/// The flows that a request is about.
struct Chosen {
    slots: Vec<u32>,
    /// The devices that they are of; `None`: all.
    devices: Option<Arc<HashSet<Mac>>>,
    left_out: u64,
}

impl Handler for Requests {
    async fn handle(&self, request: Request, responses: &mut Responses) -> anyhow::Result<u64> {
        let response = match request {
            Request::Devices { device } => return self.list_devices(device, responses).await,
            Request::Refused { device } => return self.list_refused(device, responses).await,
            Request::Findings { device } => return self.list_findings(device, responses).await,
            Request::Flows { device, order } => {
                return self.list_flows(device, order, responses).await;
            }
            Request::Status => self.with_owner(Owner::status_now).await?,
            Request::Explain { device, subject } => {
                let explain = move |owner: &mut Owner| owner.explain(&device, &subject);
                self.with_owner(explain).await??
            }
            Request::Override {
                about,
                holds_for,
                blocks,
            } => {
                let say = move |owner: &mut Owner| owner.say(&about, holds_for, blocks);
                self.with_owner(say).await??
            }
            Request::Forget(about) => {
                let forget = move |owner: &mut Owner| owner.forget(&about);
                self.with_owner(forget).await??
            }
            Request::Pause { devices, holds_for } => {
                let pause = move |owner: &mut Owner| owner.pause(devices.as_deref(), holds_for);
                self.with_owner(pause).await??
            }
            Request::Resume { devices } => {
                let resume = move |owner: &mut Owner| owner.resume(devices.as_deref());
                self.with_owner(resume).await??
            }
            Request::WriteHistory => self.write_history().await?,
            Request::ForgetHistory { device } => self.forget_history(device).await?,
        };
        responses.send(&response).await?;
        Ok(0)
    }
}

impl Requests {
    /// Has the owner do something, and gives what came of it.
    async fn with_owner<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (give, given) = oneshot::channel();
        // The receiver is gone where the daemon ends meanwhile.
        let work = move |owner: &mut Owner| drop(give.send(work(owner)));
        let sent = self.0.send(Command::Work(Box::new(work))).await;
        let done = match sent {
            Ok(()) => given.await.ok(),
            Err(_) => None,
        };
        done.context("the daemon ends; `sensor status` shows whether the request is carried out")
    }

    /// Has the history written up to now.
    async fn write_history(&self) -> anyhow::Result<Response> {
        let write = move |owner: &mut Owner| {
            owner.try_tick();
            let history = owner.history.as_mut()?;
            let (now, is_synchronised) = (owner.clock.now(), owner.clock.is_synchronised());
            history.hand_over_now(&mut owner.aggregate, &now, is_synchronised, false);
            let (give, given) = oneshot::channel();
            history
                .store()
                .flush(move |written| drop(give.send(written)));
            Some((history.state().file, given))
        };
        let Some((file, written)) = self.with_owner(write).await? else {
            return Ok(Response::HistoryWritten { file: None });
        };
        done(written).await?;
        Ok(Response::HistoryWritten { file: Some(file) })
    }

    /// Has the history of a device, or all of it, deleted.
    async fn forget_history(&self, device: Option<String>) -> anyhow::Result<Response> {
        let choose = move |owner: &mut Owner| -> anyhow::Result<_> {
            let snapshot = owner.now();
            // A device that nobody has seen for long may be in the history all the same.
            let mac = device
                .map(|text| enforcement::devices::called(&text, &owner.config, &snapshot.devices))
                .transpose()
                .map_err(anyhow::Error::msg)?;
            let history = owner
                .history
                .as_mut()
                .context("this daemon keeps no history: `keep = \"off\"` stands in [history]")?;
            let (now, is_synchronised) = (owner.clock.now(), owner.clock.is_synchronised());
            // The kernel's positions are written first: bytes from before are not counted again.
            history.hand_over_now(&mut owner.aggregate, &now, is_synchronised, false);
            owner.aggregate.forget_history(mac);
            let (give, given) = oneshot::channel();
            let text = mac.map(|mac| mac.to_string());
            let store = history.store();
            store.forget(text.clone(), move |forgotten| drop(give.send(forgotten)));
            Ok((text, given))
        };
        let (device, forgotten) = self.with_owner(choose).await??;
        let was_there = done(forgotten).await?;
        Ok(Response::HistoryForgotten { device, was_there })
    }

    async fn list_devices(
        &self,
        device: Option<String>,
        responses: &mut Responses,
    ) -> anyhow::Result<u64> {
        let is_full = device.is_some();
        let choose = move |owner: &mut Owner| owner.choose_devices(device.as_deref());
        let (snapshot, places) = self.with_owner(choose).await??;
        for place in places {
            let device = &snapshot.devices[place];
            let report = match is_full {
                true => {
                    let mut report = DeviceReport::full(device, &snapshot);
                    let mac = device.mac;
                    report.device.refused =
                        self.with_owner(move |owner| owner.refused(mac)).await?;
                    report
                }
                false => DeviceReport::brief(device, &snapshot),
            };
            responses.send(&Response::Device(Box::new(report))).await?;
        }
        Ok(0)
    }

    async fn list_findings(
        &self,
        device: Option<String>,
        responses: &mut Responses,
    ) -> anyhow::Result<u64> {
        let choose = move |owner: &mut Owner| owner.choose_devices(device.as_deref());
        let (snapshot, places) = self.with_owner(choose).await??;
        for place in places {
            let device = &snapshot.devices[place];
            let Some(mac) = device.mac else { continue };
            let echoes = self.with_owner(move |owner| owner.echoes(mac)).await?;
            if let Some(mut echoes) = echoes {
                echoes.name.clone_from(&device.identity.name);
                let response = Response::Findings(Box::new(echoes));
                responses.send(&response).await?;
            }
        }
        Ok(0)
    }

    async fn list_refused(
        &self,
        device: Option<String>,
        responses: &mut Responses,
    ) -> anyhow::Result<u64> {
        let choose = move |owner: &mut Owner| owner.choose_devices(device.as_deref());
        let (snapshot, places) = self.with_owner(choose).await??;
        for place in places {
            let device = &snapshot.devices[place];
            let mac = device.mac;
            let refused = self.with_owner(move |owner| owner.refused(mac)).await?;
            if refused.is_empty() {
                continue;
            }
            let response = Response::Refused(DeviceRefused {
                device: device.device.clone(),
                name: device.identity.name.clone(),
                refused,
            });
            responses.send(&response).await?;
        }
        Ok(0)
    }

    async fn list_flows(
        &self,
        device: Option<String>,
        order: Order,
        responses: &mut Responses,
    ) -> anyhow::Result<u64> {
        let choose = move |owner: &mut Owner| owner.choose_flows(device.as_deref(), order);
        let chosen = self.with_owner(choose).await??;
        for page in chosen.slots.chunks(PAGE) {
            let page = page.to_vec();
            let devices = chosen.devices.clone();
            let read = move |owner: &mut Owner| owner.flows(&page, devices.as_deref());
            for flow in self.with_owner(read).await?? {
                responses.send(&Response::Flow(Box::new(flow))).await?;
            }
        }
        Ok(chosen.left_out)
    }
}

impl Owner {
    /// A snapshot of this moment, and the places of the devices in it that a request is about.
    fn choose_devices(
        &mut self,
        device: Option<&str>,
    ) -> anyhow::Result<(Arc<Snapshot>, Vec<usize>)> {
        let snapshot = self.now();
        let places = match device {
            Some(text) => enforcement::devices::seen(text, &self.config, &snapshot.devices)
                .map_err(anyhow::Error::msg)?,
            None => (0..snapshot.devices.len()).collect(),
        };
        Ok((snapshot, places))
    }

    /// The echoes of a device and its uploads while it was idle, with times of the wall clock.
    fn echoes(&mut self, device: Mac) -> Option<DeviceEchoes> {
        let mut echoes = self.aggregate.echoes_and_idle(device)?;
        echoes.add_to_times(self.clock.now().offset());
        Some(echoes)
    }

    /// The refusals of a device, with times of the wall clock.
    fn refused(&mut self, device: Option<Mac>) -> Vec<Refused> {
        let mut refused = device.map_or_else(Vec::new, |mac| self.aggregate.refused(mac));
        let offset = self.clock.now().offset();
        for one in &mut refused {
            one.last += offset;
        }
        refused
    }

    fn choose_flows(&mut self, device: Option<&str>, order: Order) -> anyhow::Result<Chosen> {
        let snapshot = Arc::clone(&self.publish.borrow());
        let devices = match device {
            Some(text) => {
                let places = enforcement::devices::seen(text, &self.config, &snapshot.devices)
                    .map_err(anyhow::Error::msg)?;
                let macs = places.into_iter().map(|place| snapshot.devices[place].mac);
                Some(Arc::new(macs.flatten().collect::<HashSet<_>>()))
            }
            None => None,
        };
        let (slots, left_out) = self.kernel.choose_flows(devices.as_deref(), order.most());
        Ok(Chosen {
            slots,
            devices,
            left_out,
        })
    }

    /// The flows in these slots, but for those of other devices, which came into a slot meanwhile.
    fn flows(
        &mut self,
        slots: &[u32],
        devices: Option<&HashSet<Mac>>,
    ) -> anyhow::Result<Vec<Flow>> {
        let clock = self.kernel.clock();
        let snapshot = Arc::clone(&self.publish.borrow());
        let names: HashMap<_, _> = snapshot
            .devices
            .iter()
            .filter_map(|device| Some((device.mac?, device.identity.name.as_ref()?)))
            .collect();
        let lines = self.kernel.flow_lines(slots)?.into_iter();
        let wanted = lines
            .filter(|line| devices.is_none_or(|devices| devices.contains(&line.record.key.mac())));
        let flows = wanted.map(|line| {
            let facts = self.aggregate.facts(line.slot, &line.record);
            Flow {
                device_name: names.get(&line.record.key.mac()).copied().cloned(),
                ..flow(&line.record, line.interface, line.policy, facts, clock)
            }
        });
        Ok(flows.collect())
    }

    fn status_now(&mut self) -> Response {
        Response::Status {
            status: Box::new(Status::from(&*self.now())),
            time_zone: self.config.daemon.time_zone.clone(),
        }
    }

    fn explain(&mut self, device: &str, subject: &str) -> anyhow::Result<Response> {
        let subject = arguments::subject(subject).map_err(anyhow::Error::msg)?;
        let snapshot = self.now();
        let mac = enforcement::devices::called(device, &self.config, &snapshot.devices)
            .map_err(anyhow::Error::msg)?;
        let explanation = self.enforcement.explain(
            mac,
            &subject,
            &self.config,
            &self.catalog,
            &snapshot.devices,
            self.aggregate.address_names(),
            self.clock.now(),
        );
        Ok(Response::Explained {
            explanation: Box::new(explanation),
            time_zone: self.config.daemon.time_zone.clone(),
        })
    }

    /// The devices that somebody typed, as this daemon's configuration has them.
    fn selector(&self, typed: Option<&str>) -> anyhow::Result<Option<DeviceSelector>> {
        let read = |text| arguments::said_devices(text, &self.config.devices);
        typed.map(read).transpose().map_err(anyhow::Error::msg)
    }

    /// The devices that a command means, as this daemon knows them.
    fn meant(&self, selector: Option<&DeviceSelector>) -> anyhow::Result<Option<DeviceSelector>> {
        let snapshot = Arc::clone(&self.publish.borrow());
        let meant =
            |selector| enforcement::devices::meant(selector, &self.config, &snapshot.devices);
        selector.map(meant).transpose().map_err(anyhow::Error::msg)
    }

    /// Executes `block` or `allow`; it is in force when this returns.
    fn say(
        &mut self,
        about: &About,
        holds_for: Option<u64>,
        blocks: bool,
    ) -> anyhow::Result<Response> {
        let domain = arguments::domain(&about.name).map_err(anyhow::Error::msg)?;
        let selector = self.selector(about.devices.as_deref())?;
        let holds_for = checked(holds_for)?;
        let snapshot = self.now();
        let device = self.meant(selector.as_ref())?;
        let now = self.clock.now();
        let said = Override {
            domain,
            device: device.clone(),
            blocks,
            since: now.wall,
            holds: holds(holds_for, &now),
        };
        let shown = said.shown(now.offset());
        let (enforcement, context) = self.enforcing(&snapshot.devices, now);
        enforcement.say(said, context)?;
        let missed = match blocks {
            true => self.catalog.missed(&shown.name),
            false => Vec::new(),
        };
        let refused_before = match blocks {
            true => Vec::new(),
            false => self.enforcement.refused_before_a_name(
                device.as_ref(),
                &self.config,
                &self.catalog,
                &snapshot.devices,
                now,
            ),
        };
        Ok(Response::Overridden {
            missed,
            refused_before,
            time_zone: self.config.daemon.time_zone.clone(),
            said: shown,
        })
    }

    /// Executes `forget`.
    fn forget(&mut self, about: &About) -> anyhow::Result<Response> {
        let domain = arguments::domain(&about.name).map_err(anyhow::Error::msg)?;
        let typed = self.selector(about.devices.as_deref())?;
        let snapshot = self.now();
        let mut all_said = self.enforcement.temporary().iter();
        let device = match all_said.any(|other| other.domain == domain && other.device == typed) {
            true => typed,
            false => self.meant(typed.as_ref())?,
        };
        let now = self.clock.now();
        let (enforcement, context) = self.enforcing(&snapshot.devices, now);
        let forgotten = enforcement.forget(&domain, device.as_ref(), context)?;
        let others = self.enforcement.temporary().iter();
        let others = others.filter(|other| other.domain == domain);
        Ok(Response::Forgotten {
            forgotten: forgotten.map(|said| said.shown(now.offset())),
            others: others.map(|other| other.shown(now.offset())).collect(),
            about: About {
                name: domain,
                devices: device.map(|device| device.to_string()),
            },
            time_zone: self.config.daemon.time_zone.clone(),
        })
    }

    /// Executes `pause`; it is in force when this returns.
    fn pause(&mut self, devices: Option<&str>, holds_for: Option<u64>) -> anyhow::Result<Response> {
        let selector = self.selector(devices)?;
        let holds_for = checked(holds_for)?;
        let snapshot = self.now();
        let device = self.meant(selector.as_ref())?;
        let now = self.clock.now();
        let pause = Pause {
            device,
            since: now.wall,
            holds: holds(holds_for, &now),
        };
        let shown = pause.shown(now.offset());
        let (enforcement, context) = self.enforcing(&snapshot.devices, now);
        enforcement.pause(pause, context)?;
        Ok(Response::Paused {
            pause: shown,
            time_zone: self.config.daemon.time_zone.clone(),
        })
    }

    /// Executes `resume`.
    fn resume(&mut self, devices: Option<&str>) -> anyhow::Result<Response> {
        let typed = self.selector(devices)?;
        let snapshot = self.now();
        let mut pauses = self.enforcement.pauses().iter();
        let device = match pauses.any(|pause| pause.device == typed) {
            true => typed,
            false => self.meant(typed.as_ref())?,
        };
        let now = self.clock.now();
        let (enforcement, context) = self.enforcing(&snapshot.devices, now);
        let ended = enforcement.resume(device.as_ref(), context)?;
        anyhow::ensure!(
            !ended.is_empty(),
            "no pause is for {}; `sensor status` lists the pauses",
            match &device {
                Some(device) => device.to_string(),
                None => "any device".to_owned(),
            }
        );
        let shown = |pause: &Pause| pause.shown(now.offset());
        Ok(Response::Resumed {
            ended: ended.iter().map(shown).collect(),
            others: self.enforcement.pauses().iter().map(shown).collect(),
            time_zone: self.config.daemon.time_zone.clone(),
        })
    }
}

/// The result of work for the history's thread.
async fn done<T>(given: oneshot::Receiver<Result<T, String>>) -> anyhow::Result<T> {
    let outcome = given.await;
    let outcome = outcome.context(
        "the history's thread has too much to do, or the daemon ends: try again in a minute",
    )?;
    outcome.map_err(anyhow::Error::msg)
}

/// How long a command holds, in seconds, if that is allowed.
fn checked(holds_for: Option<u64>) -> anyhow::Result<Option<Duration>> {
    let holds_for = holds_for.map(Duration::from_secs);
    anyhow::ensure!(
        holds_for.is_none_or(|holds| !holds.is_zero() && holds <= arguments::LONGEST_OVERRIDE),
        "a command holds for 1s to 365d"
    );
    Ok(holds_for)
}

/// From now on for so long.
fn holds(holds_for: Option<Duration>, now: &Moment) -> Holds {
    match holds_for {
        Some(holds) => Holds::Until(now.steady + holds.as_secs_f64()),
        None => Holds::Always,
    }
}
