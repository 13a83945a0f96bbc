//! The facts about a flow: its name and who said it, its party, and why a name is hidden.

use std::{net::IpAddr, sync::Arc};

use sensor_ebpf::{
    flow::{Direction, FlowKey, FlowRecord},
    sample::is_service,
};

use super::{Aggregate, booking::PATIENCE, flows::FlowState, ip_of};
use crate::{
    catalog::Shown,
    classify::{ECH_PROVIDERS, Source, Unread},
    decode::tls::Stack,
    model::FlowFacts,
};

impl Aggregate {
    /// The facts that a flow in a slot told, and those about its party.
    pub fn facts(&self, slot: u32, record: &FlowRecord) -> FlowFacts {
        let key = &record.key;
        let Some(remote) = ip_of(key, key.remote()) else {
            return FlowFacts::default();
        };
        let flow = self.flows.get(slot, key).unwrap_or(&FlowState::NONE);
        let (name, source) = match self.flows.name(flow) {
            Some((name, source)) => (Some(Arc::clone(name)), Some(source)),
            None => self.name_by_dns(key, remote).unzip(),
        };
        // For display only: nothing is concluded or counted by it.
        let by_another = match name {
            Some(_) => None,
            None => self.answers.find_of_another(remote, self.now),
        };
        let details = self.flows.details(flow);
        let shown = self.shown(record, flow, name.as_deref(), remote);
        let hidden = self.catalog.hidden(&shown);
        let is_refused = record.judgement().decision.verdict.refuses();
        let info = self.catalog.about(name.as_deref(), remote);
        FlowFacts {
            party: Some(info.name.to_string()),
            owner: info.owner.as_deref().map(str::to_owned),
            category: info.category.map(|category| category.name()),
            country: info.network.country,
            asn: info.network.asn,
            name_source: source
                .or(by_another.is_some().then_some(Source::Dns))
                .map(Source::name),
            name_by_another: by_another.is_some(),
            name: name.or(by_another).map(|name| name.to_string()),
            alpn: details
                .map(|details| details.alpn.clone())
                .filter(|alpn| !alpn.is_empty()),
            ech: details.is_some_and(|details| details.ech),
            quic_version: details.and_then(|details| details.quic_version.clone()),
            ja4: details.and_then(|details| Some(details.ja4?.to_string())),
            stack: self.stack(key, flow).map(|stack| stack.to_string()),
            hidden: hidden.map(|hidden| hidden.name()),
            unread: flow.unread.filter(|_| !is_refused).map(Unread::name),
        }
    }

    /// The properties of a flow by which the catalog tells why its name is hidden.
    pub(super) fn shown<'a>(
        &self,
        record: &FlowRecord,
        flow: &FlowState,
        name: Option<&'a str>,
        remote: IpAddr,
    ) -> Shown<'a> {
        let key = &record.key;
        let watch = record.watch();
        // Another protocol may run at the port of a service, and no reader hears it: then no payload was heard,
        // while all of it was wanted.
        let began = self.clock.unix_seconds(record.first_seen);
        let is_unheard = !flow.spoke()
            && watch.wants(Direction::Upload)
            && record.upload_packets > 0
            && began >= self.since
            && self.now - began >= PATIENCE;
        Shown {
            name,
            remote,
            protocol: key.protocol(),
            port: key.remote_port(),
            is_tunnel: flow.tunnel.is_some(),
            is_ech: self.is_ech(key, flow, remote),
            says_hello: matches!(self.flows.name(flow), Some((_, Source::Tls | Source::Quic))),
            is_readable: flow.is_dns() || is_service(key) && !is_unheard && !flow.spoke(),
            spoke: flow.spoke() || !watch.wants(Direction::Upload),
        }
    }

    /// The TLS stack of a flow; `None` where it is not told.
    pub(super) fn stack(&self, key: &FlowKey, flow: &FlowState) -> Option<Stack> {
        let ja4 = self.flows.details(flow)?.ja4?;
        ja4.stack().or_else(|| {
            let (name, _) = self.flows.name(flow)?;
            self.stacks.find(key.mac(), name, self.now)
        })
    }

    pub(super) fn name_by_dns(&self, key: &FlowKey, remote: IpAddr) -> Option<(Arc<str>, Source)> {
        let name = self.answers.find(key.mac(), remote, self.now)?;
        Some((name, Source::Dns))
    }

    /// Whether a flow's hello is indeed encrypted. Browsers put the extension into every hello, so that those
    /// with another name inside do not stand out (GREASE, RFC 9849, section 6.2). The extension counts if the
    /// outer name is that of a provider, or if the device learned a key for another name at this address.
    pub(super) fn is_ech(&self, key: &FlowKey, flow: &FlowState, remote: IpAddr) -> bool {
        if !self.flows.details(flow).is_some_and(|details| details.ech) {
            return false;
        }
        // A hello to an address has no outer name, and hides nothing.
        let Some((outside, Source::Tls | Source::Quic)) = self.flows.name(flow) else {
            return false;
        };
        if ECH_PROVIDERS.contains(&&**outside) {
            return true;
        }
        let inside = self.answers.find(key.mac(), remote, self.now);
        inside.is_some_and(|inside| inside != *outside && self.answers.has_key(key.mac(), &inside))
    }
}
