//! Feeds the echo: names that flows tell, and bytes that they upload.

use std::{net::IpAddr, sync::Arc};

use sensor_ebpf::{
    flow::{FlowKey, FlowRecord},
    parse::{Mac, protocol},
};

use super::{
    Aggregate,
    echo::{self, Echo, LEAST_BYTES, Recipient, ToldName, Upload, Verdict},
    ip_of,
    traffic::PartyId,
};
use crate::{
    catalog::{
        Catalog,
        cdn::is_cdn,
        domain::registrable,
        lists::{Category, Listed},
    },
    classify::ECH_PROVIDERS,
    decode::tls::Stack,
    model::echo::{self as shown, DeviceEchoes},
};

/// The port of HTTPS, at which a resolver answers encrypted.
const HTTPS: u16 = 443;

impl Aggregate {
    /// Takes a name that a flow told first, by a hello or a request. `stack` is that of its hello, where it is told.
    pub(super) fn name_to_echo(
        &mut self,
        key: &FlowKey,
        name: &str,
        remote: IpAddr,
        stack: Option<Stack>,
    ) {
        let device = key.mac();
        if !self.is_listed(device) {
            return;
        }
        // The outer name of an encrypted hello is the provider's; DNS may have told the inner one.
        let by_dns = match ECH_PROVIDERS.contains(&name) {
            true => self.answers.find(device, remote, self.now),
            false => None,
        };
        let name = by_dns.as_deref().unwrap_or(name);
        let party = registrable(name).unwrap_or(name);
        let is_other = self.resolves(name, remote) || is_cdn(name) || self.is_known(device, name);
        let told = ToldName {
            party,
            can_be_site: !is_other,
            stack: stack.map(Stack::number),
            owner: self
                .catalog
                .lists
                .find(name)
                .and_then(|listed| listed.owner),
        };
        self.echo.name(device, &told, self.now);
    }

    /// Takes bytes that the flow in a slot uploaded since the last reading.
    pub(super) fn upload_to_echo(
        &mut self,
        slot: u32,
        record: &FlowRecord,
        party: PartyId,
        bytes: u64,
    ) {
        let key = &record.key;
        let device = key.mac();
        let is_of_nobody = matches!(party, PartyId::LOCAL | PartyId::OTHER);
        if bytes < LEAST_BYTES || is_of_nobody || !self.is_listed(device) {
            return;
        }
        let Some(remote) = ip_of(key, key.remote()) else {
            return;
        };
        let flow = self.flows.get(slot, key);
        let stack = flow.and_then(|flow| self.stack(key, flow));
        let name = flow.and_then(|flow| self.flows.name(flow));
        let name = name.map(|(name, _)| &**name);
        let info = self.parties.info(party);
        let called = name.unwrap_or(&info.name);
        let is_known = self.is_known(device, called);
        // Resolvers and relays follow each visit by their nature, and a CDN serves the pages themselves.
        if self.resolves(called, remote) || is_cdn(called) && !is_known {
            return;
        }
        let party = Recipient::party(Arc::clone(&info.name));
        let host = name.filter(|name| is_known && *name != &*info.name);
        let host = host.map(|host| Recipient::host(host.into(), &info.name));
        let upload = Upload {
            stack: stack.map(Stack::number),
            owner: info.owner.as_deref(),
            bytes,
        };
        let to = std::iter::once(&party).chain(&host);
        self.echo.upload(device, to, upload, self.now);
    }

    /// Goes on with looks for echoes, for about so many steps.
    pub fn look_for_echoes(&mut self, steps: usize) {
        self.echo.step(self.now, steps);
    }

    fn echoes(&self, device: Mac) -> Option<DeviceEchoes> {
        let (since, is_cut) = self.echo.since(device)?;
        let progress = self.echo.progress(device);
        let verdicts = self.echo.verdicts(device).into_iter();
        Some(DeviceEchoes {
            device: device.to_string(),
            name: None,
            visits: progress.visits,
            next_look: progress.next,
            looks: progress.looks,
            since: since.into(),
            is_cut,
            echoes: verdicts
                .map(|(recipient, verdict)| {
                    let listed = self.listed(&recipient.name);
                    echo_of(recipient, verdict, listed)
                })
                .collect(),
            earlier: Vec::new(),
            idle: Vec::new(),
            idle_seconds: 0,
        })
    }

    /// The echoes of a device and its uploads while it was idle, with times in steady seconds; `None` where nothing of
    /// it is known. It reads all marks of the device.
    pub fn echoes_and_idle(&self, device: Mac) -> Option<DeviceEchoes> {
        const DAY: u32 = 86_400;

        let mut echoes = self.echoes(device)?;
        let now = self.now as u32;
        let (idle, seconds) = self.echo.idle(device, now.saturating_sub(DAY), now);
        echoes.idle_seconds = seconds;
        let idle = idle.into_iter().map(|(recipient, uploads)| {
            let listed = self.listed(&recipient.name);
            let owner = listed.as_ref().and_then(|listed| listed.owner);
            let category = listed.as_ref().and_then(|listed| listed.category);
            shown::IdleUploads {
                name: recipient.name.to_string(),
                is_host: recipient.is_host,
                owner: owner.map(str::to_owned),
                category: category.map(Category::name).map(str::to_owned),
                count: uploads.count,
                first: uploads.first.into(),
                last: uploads.last.into(),
                every: uploads.every,
            }
        });
        echoes.idle = idle.collect();
        Some(echoes)
    }

    /// Whether a device is in the kernel's table, which bounds the devices of which there are marks.
    fn is_listed(&self, device: Mac) -> bool {
        let device = self.devices.get(&device);
        device.is_some_and(|device| device.is_listed)
    }

    fn listed(&self, name: &str) -> Option<Listed<'_>> {
        self.catalog.lists.find(name)
    }

    /// Whether a name is that of a resolver or a relay.
    fn resolves(&self, name: &str, remote: IpAddr) -> bool {
        let resolvers = &self.catalog.resolvers;
        resolvers.is_encrypted_dns(Some(name), remote, protocol::TCP, HTTPS)
            || resolvers.is_relay(Some(name), protocol::TCP, HTTPS)
    }

    /// Whether lists have a category for a name, or it belongs to the vendor of the device.
    fn is_known(&self, device: Mac, name: &str) -> bool {
        let Some(listed) = self.listed(name) else {
            return false;
        };
        let conclusion = self.devices.get(&device);
        let conclusion = conclusion.and_then(|device| device.conclusion.as_ref());
        let vendor = conclusion.and_then(|conclusion| conclusion.vendor.as_deref());
        let is_vendors = match (vendor, listed.owner) {
            (Some(vendor), Some(owner)) => vendor.eq_ignore_ascii_case(owner),
            _ => false,
        };
        listed.category.is_some() || is_vendors
    }
}

/// The echoes of a device that may be written down, where a look is over since this was called last.
pub(super) fn new_echoes(echo: &mut Echo, catalog: &Catalog, device: Mac) -> Vec<shown::Echo> {
    if !echo.take_looked(device) {
        return Vec::new();
    }
    let verdicts = echo.verdicts(device).into_iter();
    let echoes = verdicts.map(|(recipient, verdict)| {
        let listed = catalog.lists.find(&recipient.name);
        echo_of(recipient, verdict, listed)
    });
    // Of the others, some are parts of one site: their names would tell it.
    echoes.filter(shown::Echo::tells_no_site).collect()
}

fn echo_of(recipient: &Recipient, verdict: &Verdict, listed: Option<Listed<'_>>) -> shown::Echo {
    let of = &verdict.evidence;
    let (reach, at_least) = match of.reach {
        echo::Reach::NearlyEverySite => (shown::Reach::NearlyEverySite, None),
        echo::Reach::SomeSites => (shown::Reach::SomeSites, None),
        echo::Reach::SomeSessions => (shown::Reach::SomeSessions, None),
        echo::Reach::Unclear(at_least) => (shown::Reach::Unclear, Some(at_least)),
    };
    let owner = listed.as_ref().and_then(|listed| listed.owner);
    let category = listed.as_ref().and_then(|listed| listed.category);
    shown::Echo {
        name: recipient.name.to_string(),
        is_host: recipient.is_host,
        owner: owner.map(str::to_owned),
        category: category.map(Category::name).map(str::to_owned),
        found: verdict.found.into(),
        withdrawn: verdict.withdrawn.map(f64::from),
        visits: of.visits,
        followed: of.followed,
        from: of.shown.from.unsigned_abs(),
        to: of.shown.to.unsigned_abs(),
        lag: of.lag,
        control: of.control,
        p: of.p,
        hypotheses: of.hypotheses,
        since: of.since.into(),
        until: of.until.into(),
        reach,
        at_least,
        stack: match of.stack {
            echo::Stack::BesideThePage => shown::Stack::BesideThePage,
            echo::Stack::Same => shown::Stack::SameStack,
            echo::Stack::NotTold => shown::Stack::NotTold,
        },
        beside: of.beside.0,
        told: of.beside.1,
    }
}
