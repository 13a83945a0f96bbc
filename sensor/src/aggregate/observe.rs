//! Takes observations: names go to flows and addresses, the answers of DNS to addresses, and the facts that a device
//! tells of itself to its identity.

use std::{net::IpAddr, sync::Arc};

use sensor_ebpf::{
    flow::{Direction, FlowKey},
    sample::{Head, Kind, NO_SLOT},
};

use super::{Aggregate, identity::Fact, ip_of};
use crate::{
    classify::{Expired, Observation, Outcome, Unread},
    decode::{Failure, dhcp4, dhcp6, dns, router_advertisement},
};

impl Aggregate {
    /// Takes the observation of one payload. `now` is in seconds since the Unix epoch.
    pub fn observe(&mut self, mut heard: Observation, now: f64) {
        self.now = now;
        match heard.kind {
            Kind::Mdns => self.mdns(&heard.head, &heard.octets),
            Kind::Dhcp4 => self.dhcp4(&heard.head, &heard.octets),
            Kind::Dhcp6 => self.dhcp6(&heard.head, &heard.octets),
            Kind::RouterAdvertisement => self.router_advertisement(&heard.head, &heard.octets),
            _ => {
                self.told(&mut heard);
                self.take_payload(heard);
            }
        }
    }

    /// Keeps the facts that a flow told.
    pub(super) fn told(&mut self, heard: &mut Observation) {
        let head = heard.head;
        // A sample of a flow before the present one came too late.
        if head.slot == NO_SLOT || self.flows.has_another(head.slot, &head.key) {
            return;
        }
        if let Outcome::Name(name, _) = &heard.outcome
            && let Some(remote) = ip_of(&head.key, head.key.remote())
            && name.parse::<IpAddr>().is_err()
        {
            let place = (head.key.mac(), remote);
            self.address_names.said(Arc::clone(name), place, self.now);
            if !heard.told_before {
                let is_hello = heard.details.as_ref().is_some_and(|of| of.ja4.is_some());
                let by_name = || self.stacks.find(head.key.mac(), name, self.now);
                let stack = heard.stack().or_else(|| is_hello.then(by_name)?);
                self.name_to_echo(&head.key, name, remote, stack);
            }
        }
        if let Outcome::Name(name, _) = &heard.outcome
            && let Some(stack) = heard.stack()
        {
            self.stacks.learn(head.key.mac(), name, stack, self.now);
        }
        // Counts are booked by the new facts from now on.
        self.flows.take(head.slot, heard);
    }

    /// Counts a payload whose rest never came. `now` is in seconds since the Unix epoch.
    pub fn expire(&mut self, given: &Expired, now: f64) {
        self.now = now;
        self.fail(given.decoder, given.why);
        if let Some(flow) = self.flows.get_mut(given.slot, &given.key) {
            let failed = (!flow.is_named()).then_some(Unread::Failed(given.why));
            flow.unread = given.unread.or(flow.unread).or(failed);
        }
    }

    pub(super) fn fail(&mut self, decoder: &'static str, failure: Failure) {
        *self.failures.entry((decoder, failure)).or_default() += 1;
    }

    pub(super) fn take_payload(&mut self, heard: Observation) {
        let head = &heard.head;
        if let Some((decoder, failure)) = heard.failure {
            self.fail(decoder, failure);
        }
        let uploaded = head.direction == Direction::Upload as u8;
        if let Some(user_agent) = heard.user_agent
            && uploaded
            && let Some(from) = ip_of(&head.key, head.key.local())
        {
            self.note(head.key.mac(), Fact::UserAgent(user_agent, from));
        }
        for (message, answers) in heard.messages.into_iter().zip(heard.answers) {
            self.dns(head, message, answers);
        }
    }

    /// Takes a DNS message; `answers` says whether it answers a question of the device.
    pub(super) fn dns(&mut self, head: &Head, message: dns::Message, answers: bool) {
        let key = &head.key;
        let uploaded = head.direction == Direction::Upload as u8;
        if answers {
            let device = key.mac();
            let by_house = ip_of(key, key.remote())
                .is_some_and(|server| self.resolvers.have(server, &self.catalog));
            if message.ech {
                for question in &message.questions {
                    self.answers.learn_key(device, &question.name);
                }
            }
            let mut shared: Option<Arc<str>> = None;
            for record in &message.addresses {
                let (name, address) = (&*record.name, record.address);
                // Most messages have one name, and several addresses of it.
                shared.take_if(|shared| **shared != *name);
                let known = shared.get_or_insert_with(|| name.into());
                let aliases = message.aliases.iter();
                let aliases = aliases.filter(|alias| alias.name == name);
                let aliases: Vec<_> = aliases.map(|alias| &*alias.target).collect();
                let place = (device, address);
                let known = Arc::clone(known);
                self.address_names
                    .answer(known, &aliases, place, record.ttl, self.now);
                self.answers
                    .learn(device, (name, address), record.ttl, by_house, self.now);
            }
        }
        if !message.response && uploaded {
            for question in &message.questions {
                self.note(key.mac(), Fact::Name(question.name.clone()));
            }
        }
        self.keep(head, message);
    }

    pub(super) fn mdns(&mut self, head: &Head, octets: &[u8]) {
        let message = match dns::message(octets) {
            Ok(message) => message,
            Err(failure) => return self.fail("mdns", failure),
        };
        // Messages that reach the device are about other devices.
        if head.direction != Direction::Upload as u8 || !message.response {
            return;
        }
        let mac = head.key.mac();
        if is_of_another(&head.key, &message) {
            return;
        }
        if let Some(from) = ip_of(&head.key, head.key.local()) {
            for host in message.hosts {
                self.note(mac, Fact::MdnsHost(host, from));
            }
        }
        for service in message.services {
            self.note(
                mac,
                Fact::MdnsService {
                    kind: service.kind,
                    instance: service.instance,
                    text: service.text,
                },
            );
        }
    }

    pub(super) fn dhcp4(&mut self, head: &Head, octets: &[u8]) {
        let message = match dhcp4::message(octets) {
            Ok(message) => message,
            Err(failure) => return self.fail("dhcp4", failure),
        };
        let uploaded = head.direction == Direction::Upload as u8;
        if message.reply {
            if uploaded {
                self.note(head.key.mac(), Fact::Router);
            } else if let Some(server) = ip_of(&head.key, head.key.remote()) {
                let named = message.dns_servers.into_iter().map(IpAddr::from);
                self.resolvers.name(server, named);
            }
            return;
        }
        if !uploaded {
            return;
        }
        let mac = head.key.mac();
        // A repeater sends the requests of its clients; any device may claim to, but only about itself.
        if message.client != mac.octets() {
            self.note(mac, Fact::ClientBehind(message.client));
        } else {
            self.note(
                mac,
                Fact::Dhcp4 {
                    host_name: message.host_name,
                    fqdn: message.fqdn,
                    vendor_class: message.vendor_class,
                    parameters: message.parameters,
                    client_id: message.client_id,
                },
            );
        }
    }

    /// Takes the resolvers that an advertisement of the gateway names. The programs copy those alone that this
    /// machine sends.
    pub(super) fn router_advertisement(&mut self, head: &Head, octets: &[u8]) {
        match router_advertisement::message(octets) {
            Ok(message) => {
                if head.direction != Direction::Upload as u8
                    && let Some(router) = ip_of(&head.key, head.key.remote())
                {
                    let named = message.dns_servers.into_iter().map(IpAddr::from);
                    self.resolvers.name(router, named);
                }
            }
            Err(failure) => self.fail("router-advertisement", failure),
        }
    }

    pub(super) fn dhcp6(&mut self, head: &Head, octets: &[u8]) {
        let message = match dhcp6::message(octets) {
            Ok(message) => message,
            Err(failure) => return self.fail("dhcp6", failure),
        };
        const ADVERTISE: u8 = 2;
        const REPLY: u8 = 7;
        const RECONFIGURE: u8 = 10;
        if head.direction != Direction::Upload as u8 {
            if message.kind == REPLY
                && let Some(server) = ip_of(&head.key, head.key.remote())
            {
                let named = message.dns_servers.into_iter().map(IpAddr::from);
                self.resolvers.name(server, named);
            }
            return;
        }
        let mac = head.key.mac();
        if matches!(message.kind, ADVERTISE | REPLY | RECONFIGURE) {
            self.note(mac, Fact::Router);
            return;
        }
        let (enterprise, vendor_class) = message.vendor_class.unzip();
        self.note(
            mac,
            Fact::Dhcp6 {
                fqdn: message.fqdn,
                enterprise,
                vendor_class: vendor_class.map(|texts| texts.join(" ")),
            },
        );
    }
}

/// Whether a multicast DNS message is passed on for another: it tells addresses of the family that
/// it is sent by, and the sender's is none of them. One that is sent from a link-local address
/// tells global ones alone.
fn is_of_another(key: &FlowKey, message: &dns::Message) -> bool {
    let Some(sender) = ip_of(key, key.local()) else {
        return false;
    };
    if matches!(sender, IpAddr::V6(address) if address.is_unicast_link_local()) {
        return false;
    }
    let mut told = message
        .addresses
        .iter()
        .map(|record| record.address)
        .filter(|address| address.is_ipv4() == sender.is_ipv4())
        .peekable();
    told.peek().is_some() && told.all(|address| address != sender)
}
