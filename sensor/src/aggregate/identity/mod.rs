//! The identity of a device: the facts observed, and the conclusion that they suggest together.
//!
//! A fact is read once, when it is [noted](Identity::note): each source has tables of its own (`dhcp`,
//! `host_name`, `mdns`, `names`, `user_agent`, `oui`) with the suggestions of a value and their weights. A
//! [conclusion](Identity::conclude) weighs all known facts.
//!
//! # How sure
//!
//! Each of kind, vendor and system is put to a vote. Of one source, only the strongest suggestion for an answer
//! counts, because a hundred names asked are not a hundred witnesses. The weights of the sources that agree are
//! joined as independent ones (`1 − Π(1 − w)`), which is the answer's support. The answer with the most support
//! wins; of two alike, that of the more trusted source. The confidence is the winner's support, less the share
//! of its strongest rival: `s · s / (s + r)`. So it is `s` if nothing contradicts, and half of it if the rival
//! is as strong. It is never above 0.99: only the owner's word in the configuration, which is not voted on, has
//! confidence 1.
//!
//! A conclusion is consistent, because a system may be of one maker or of some kinds of devices only. Of the
//! kinds, vendors and systems that agree, those with the most support together are taken.
//!
//! If several devices have the same MAC address (`behind`), the facts of those behind it are not of the device
//! itself, and only its own DHCP client and its hardware tell its identity.

mod behind;
mod clue;
mod dhcp;
mod host_name;
mod mdns;
mod names;
pub mod oui;
mod product;
mod same;
mod user_agent;

use std::net::IpAddr;

pub use clue::Source;
pub use same::probably_same;

use behind::Behind;
use clue::{Clue, Hint, MAX_TEXT, clean};
use host_name::MAX_NAME;

use crate::model::{Conclusion, EvidenceLine, Kind};

/// A MAC address in network order.
pub type Mac = [u8; 6];

/// Set in the first octet of an address that nobody assigned (IEEE 802, section 8.4).
const LOCALLY_ADMINISTERED: u8 = 2;

/// The most addresses that are kept of one device.
pub const MAX_ADDRESSES: usize = 64;
/// The highest confidence of what was concluded; that of the owner's word is higher.
pub const MOST_SURE: f32 = 0.99;
/// The most octets that are kept of a list of parameters or of an identifier.
const MAX_OCTETS: usize = 128;
/// The weight from which on a system counts for telling devices behind one MAC address apart.
const SURE_SYSTEM: f32 = 0.75;
/// The most items of a TXT record that are read.
const MAX_ITEMS: usize = 32;

/// Something that was seen of a device.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A message of its DHCPv4 client.
    Dhcp4 {
        /// Option 12.
        host_name: Option<String>,
        /// Option 81: the name alone.
        fqdn: Option<String>,
        /// Option 60.
        vendor_class: Option<String>,
        /// Option 55, in the order of the message; empty where there is none.
        parameters: Vec<u8>,
        /// Option 61, with its type; empty where there is none.
        client_id: Vec<u8>,
    },
    /// A message of its DHCPv6 client.
    Dhcp6 {
        /// Option 39: the name alone.
        fqdn: Option<String>,
        /// Option 16: the text.
        vendor_class: Option<String>,
        /// The enterprise number of option 16, of option 17, or of a DUID-EN.
        enterprise: Option<u32>,
    },
    /// Another client whose DHCPv4 message it sent, by the MAC address in the message.
    ClientBehind(Mac),
    /// The host name under which it answers in multicast DNS, as text and without `.local`, and the address
    /// from which it does; not one that it asks for.
    MdnsHost(String, IpAddr),
    /// A service that it offers in multicast DNS; not one that it asks for.
    MdnsService {
        /// The type, for example `_airplay._tcp`.
        kind: String,
        /// The name that its owner gave it; empty where only the type is told.
        instance: String,
        /// The items of its TXT record.
        text: Vec<(String, String)>,
    },
    /// A name that it asked for or connected to.
    Name(String),
    /// `User-Agent` of an HTTP request, and the address that it came from.
    UserAgent(String, IpAddr),
    /// An address that it sends from.
    Address(IpAddr),
    /// Router advertisements or a DHCP server's answers come from it.
    Router,
}

/// The facts about a device in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityOverride {
    /// Its name.
    pub name: Option<String>,
    /// Its kind; [`Kind::Unknown`] leaves that to the evidence.
    pub kind: Option<Kind>,
    /// Its vendor.
    pub vendor: Option<String>,
}

/// The facts known of one device. They stay below some 30 KiB, however many there are.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    evidence: Vec<Evidence>,
    client: Client,
    addresses: Vec<(IpAddr, f64)>,
    behind: Behind,
}

/// An observed value, and its suggestions.
#[derive(Clone, Debug)]
struct Evidence {
    source: Source,
    value: String,
    clue: Clue,
}

/// The last message of its DHCPv4 client.
#[derive(Clone, Debug, Default)]
struct Client {
    parameters: Option<Vec<u8>>,
    vendor_class: Option<String>,
    duid: Option<Vec<u8>>,
}

/// Whether a device made its address up: nobody assigned it.
pub const fn is_random(mac: Mac) -> bool {
    mac[0] & LOCALLY_ADMINISTERED != 0
}

impl Identity {
    /// Takes a fact that was seen `now`, in seconds since the Unix epoch; of each source, the last
    /// ones count. Gives whether the conclusion may be another one than before.
    pub fn note(&mut self, fact: Fact, now: f64) -> bool {
        match fact {
            Fact::Dhcp4 {
                host_name,
                fqdn,
                vendor_class,
                parameters,
                client_id,
            } => {
                let of_domain = |name: Option<&str>| name.and_then(host_name::for_people);
                let mut news = self.name(Source::DhcpHostName, of_domain(host_name.as_deref()));
                news |= self.name(Source::DhcpFqdn, of_domain(fqdn.as_deref()));
                if let Some(class) = vendor_class {
                    let clue = || dhcp::vendor_class(&class);
                    news |= self.evidence(Source::DhcpVendorClass, &class, clue);
                    self.client.vendor_class = Some(clean(&class, MAX_TEXT));
                }
                if !parameters.is_empty() {
                    let list = parameters.get(..MAX_OCTETS).unwrap_or(&parameters);
                    let text: Vec<_> = list.iter().map(u8::to_string).collect();
                    let clue = || dhcp::parameters(list);
                    news |= self.evidence(Source::DhcpParameters, &text.join(","), clue);
                    self.client.parameters = Some(list.to_vec());
                }
                if let Some(duid) = dhcp::duid(&client_id) {
                    self.client.duid = Some(duid.get(..MAX_OCTETS).unwrap_or(duid).to_vec());
                }
                news
            }
            Fact::Dhcp6 {
                fqdn,
                vendor_class,
                enterprise,
            } => {
                let name = fqdn.as_deref().and_then(host_name::for_people);
                let mut news = self.name(Source::Dhcp6Fqdn, name);
                if let Some(class) = vendor_class {
                    let clue = || dhcp::vendor_class(&class);
                    news |= self.evidence(Source::Dhcp6VendorClass, &class, clue);
                }
                if let Some(number) = enterprise {
                    let clue = || dhcp::enterprise(number);
                    news |= self.evidence(Source::Dhcp6Enterprise, &number.to_string(), clue);
                }
                news
            }
            Fact::ClientBehind(client) => self.behind.client(client, now),
            Fact::MdnsHost(name, from) => {
                let name = host_name::label(&name);
                let mut news = false;
                if let (Some(name), IpAddr::V4(from)) = (&name, from) {
                    news = self.behind.host(from, name, now);
                }
                self.name(Source::MdnsHost, name) | news
            }
            Fact::MdnsService {
                kind,
                instance,
                text,
            } => {
                let text = text.get(..MAX_ITEMS).unwrap_or(&text);
                let clue = mdns::clue(&kind, &instance, text);
                // The TXT record may have counters in it, so only what was learnt of it is kept.
                let kind = kind.trim_end_matches(".local");
                let model = clue.model.as_ref().map(|(model, _)| model.as_str());
                let value = [kind, &instance, model.unwrap_or_default()].join(" ");
                self.evidence(Source::MdnsService, &value, || clue)
            }
            Fact::Name(name) => self.evidence(Source::Name, &name, || names::clue(&name)),
            Fact::UserAgent(agent, from) => {
                let clue = user_agent::clue(&agent);
                let mut news = false;
                if let (Some((system, weight)), IpAddr::V4(from)) = (clue.hint.system, from)
                    && weight >= SURE_SYSTEM
                {
                    news = self.behind.system(from, system, now);
                }
                self.evidence(Source::UserAgent, &agent, || clue) | news
            }
            Fact::Address(address) => {
                if let IpAddr::V4(address) = address {
                    self.behind.used(address, now);
                }
                self.address(address, now);
                false
            }
            Fact::Router => self.evidence(Source::Behaviour, "router", || {
                Hint::new().kind(Kind::Router, 0.9).into()
            }),
        }
    }

    /// Its addresses, each with the seconds since the Unix epoch at which it was seen last; at
    /// most [`MAX_ADDRESSES`], the most recent ones.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, f64)> {
        self.addresses.iter().copied()
    }

    /// Weighs all that is known. The vendor of the hardware is looked up by the address, unless
    /// that is random.
    pub fn conclude(&self, mac: Mac, word: Option<&IdentityOverride>) -> Conclusion {
        let word = word.cloned().unwrap_or_default();
        let shared_by = self.behind.count();
        let is_own = |of: &&Evidence| shared_by == 0 || of.source.is_of_the_device();
        let mut evidence: Vec<(Source, &str, &Clue)> = self
            .evidence
            .iter()
            .filter(is_own)
            .map(|of| (of.source, of.value.as_str(), &of.clue))
            .collect();
        let hardware = oui::vendor(mac).map(|vendor| (oui::clue(&vendor), vendor.registered));
        if let Some((clue, registered)) = &hardware {
            evidence.push((Source::Oui, registered, clue));
        }
        let repeater = Clue::from(Hint::new().kind(Kind::Router, 0.5));
        if shared_by > 0 {
            evidence.push((Source::Behaviour, "several devices", &repeater));
        }
        // Within a source, the one that was seen last stays first.
        evidence.sort_by_key(|(source, ..)| *source);

        let agreed = agree(&word, &evidence);
        let (kind, kind_confidence) = (agreed.kind)
            .map(|kind| (kind.is, kind.sure))
            .unwrap_or_default();
        let vendor_confidence = agreed.vendor.map_or(0.0, |vendor| vendor.sure);
        let vendor = agreed.vendor.map(|vendor| vendor.is.to_owned());
        let system = agreed.system.map(|system| system.is);
        let mut conclusion = Conclusion {
            name: word.name.clone().or_else(|| name(&evidence)),
            kind,
            model: model(&evidence, vendor.as_deref(), system),
            system: system.map(|system| with_version(system, kind, &evidence)),
            vendor,
            random_mac: is_random(mac),
            shared_by,
            kind_confidence,
            vendor_confidence,
            confidence: 0.0,
            evidence: lines(&word, &evidence),
        };
        conclusion.confidence = conclusion.least_confidence();
        conclusion
    }

    /// The name that its DHCP client or its multicast DNS gave last.
    fn host_name(&self) -> Option<&str> {
        let is_name = |of: &&Evidence| {
            matches!(
                of.source,
                Source::DhcpHostName | Source::DhcpFqdn | Source::MdnsHost
            )
        };
        let named = self.evidence.iter().filter(is_name);
        let first = named.min_by_key(|of| of.source)?;
        Some(&first.value)
    }

    fn name(&mut self, source: Source, name: Option<String>) -> bool {
        let Some(name) = name else {
            return false;
        };
        self.evidence(source, &name, || host_name::clue(&name))
    }

    /// Keeps a value with its suggestions, in front of the other values of its source; returns whether that may
    /// change the conclusion.
    fn evidence(&mut self, source: Source, value: &str, clue: impl FnOnce() -> Clue) -> bool {
        let value = clean(value, MAX_TEXT);
        let of_source = |of: &Evidence| of.source == source;
        let front = self.evidence.iter().position(of_source);
        let known = self
            .evidence
            .iter()
            .position(|of| of_source(of) && of.value == value);
        if let Some(at) = known {
            let evidence = self.evidence.remove(at);
            let has_words = evidence.clue.has_words();
            self.evidence.insert(front.unwrap_or(at), evidence);
            return has_words && front != Some(at);
        }
        let clue = clue().bounded(MAX_NAME);
        if clue.is_empty() {
            return false;
        }
        let evidence = Evidence {
            source,
            value,
            clue,
        };
        self.evidence.insert(front.unwrap_or(0), evidence);
        if self.evidence.iter().filter(|of| of_source(of)).count() > source.capacity()
            && let Some(last) = self.evidence.iter().rposition(of_source)
        {
            self.evidence.remove(last);
        }
        true
    }

    fn address(&mut self, address: IpAddr, now: f64) {
        if address.is_unspecified() || address.is_multicast() {
            return;
        }
        if let Some((_, last_seen)) = self
            .addresses
            .iter_mut()
            .find(|(known, _)| *known == address)
        {
            *last_seen = now;
            return;
        }
        if self.addresses.len() == MAX_ADDRESSES {
            let oldest = self.addresses.iter().enumerate();
            if let Some((at, _)) = oldest.min_by(|(_, a), (_, b)| a.1.total_cmp(&b.1)) {
                self.addresses.swap_remove(at);
            }
        }
        self.addresses.push((address, now));
    }
}

type Seen<'a> = (Source, &'a str, &'a Clue);

fn vendor(clue: &Clue) -> Option<(&str, f32)> {
    let registered = clue.registered.as_ref();
    clue.hint
        .vendor
        .or_else(|| registered.map(|(name, weight)| (name.as_str(), *weight)))
}

/// The conclusions about a device, each with its confidence.
#[derive(Default)]
struct Agreed<'a> {
    kind: Option<Answer<Kind>>,
    vendor: Option<Answer<&'a str>>,
    system: Option<Answer<&'a str>>,
}

impl Agreed<'_> {
    /// How much is for it: the witnesses of all three, joined as independent ones. As a logarithm, because
    /// that of many is next to 1.
    fn support(&self) -> f32 {
        const LEAST_DOUBT: f32 = 1e-6;
        let supports = [
            self.kind.map(|kind| kind.support),
            self.vendor.map(|vendor| vendor.support),
            self.system.map(|system| system.support),
        ];
        let doubts = supports.into_iter().flatten();
        -doubts
            .map(|support| (1.0 - support).max(LEAST_DOUBT).ln())
            .sum::<f32>()
    }

    /// Whether a device can be all of it. `maker` has the vendor by the name that systems know.
    fn is_possible(&self, maker: Option<&str>) -> bool {
        let Some(system) = self.system else {
            return true;
        };
        maker.is_none_or(|maker| is_sold_with(system.is, maker))
            && self.kind.is_none_or(|kind| is_on(system.is, kind.is))
    }
}

/// Kind, vendor and system that have the most support together, of those that agree with each other.
fn agree<'a>(word: &'a IdentityOverride, evidence: &[Seen<'a>]) -> Agreed<'a> {
    let kinds = evidence
        .iter()
        .filter_map(|(source, _, clue)| clue.hint.kind.map(|(kind, w)| (*source, kind, w)));
    let vendors = evidence
        .iter()
        .filter_map(|(source, _, clue)| vendor(clue).map(|(vendor, w)| (*source, vendor, w)));
    let systems = evidence
        .iter()
        .filter_map(|(source, _, clue)| clue.hint.system.map(|(name, w)| (*source, name, w)));
    let kinds = match word.kind {
        None | Some(Kind::Unknown) => or_none(vote(kinds)),
        Some(kind) => vec![Some(Answer::of_the_owner(kind))],
    };
    let vendors = match &word.vendor {
        None => or_none(vote(vendors)),
        Some(vendor) => vec![Some(Answer::of_the_owner(vendor.as_str()))],
    };
    let systems = or_none(vote(systems));

    let mut best: Option<Agreed<'a>> = None;
    for &kind in &kinds {
        for &vendor in &vendors {
            // The owner may name a maker that no table has.
            let maker = match &word.vendor {
                Some(vendor) => product::maker(vendor),
                None => vendor.map(|vendor| vendor.is),
            };
            for &system in &systems {
                let agreed = Agreed {
                    kind,
                    vendor,
                    system,
                };
                let is_better = |best: &Agreed<'_>| agreed.support() > best.support();
                if agreed.is_possible(maker) && best.as_ref().is_none_or(is_better) {
                    best = Some(agreed);
                }
            }
        }
    }
    best.unwrap_or_default()
}

/// The answers, the strongest first, and none.
fn or_none<T>(answers: Vec<Answer<T>>) -> Vec<Option<Answer<T>>> {
    let answers = answers.into_iter().map(Some);
    answers.chain([None]).collect()
}

/// Whether devices of this vendor come with this system.
fn is_sold_with(system: &str, vendor: &str) -> bool {
    match system {
        "iOS" | "macOS" | "tvOS" | "watchOS" | "audioOS" | "AirPort" => vendor == "Apple",
        "Fire OS" => vendor == "Amazon",
        "Android" | "ChromeOS" | "Tizen" | "webOS" => vendor != "Apple",
        _ => true,
    }
}

/// Whether devices of this kind have this system.
fn is_on(system: &str, kind: Kind) -> bool {
    match system {
        "iOS" => matches!(kind, Kind::Phone | Kind::Tablet),
        "macOS" => kind == Kind::Computer,
        "tvOS" => kind == Kind::Tv,
        "watchOS" | "audioOS" => kind == Kind::Iot,
        "AirPort" => kind == Kind::Router,
        "Windows" => !matches!(kind, Kind::Tv | Kind::Router),
        "ChromeOS" => matches!(kind, Kind::Computer | Kind::Tablet),
        "Android" => kind != Kind::Computer,
        _ => true,
    }
}

/// An answer that was voted for.
#[derive(Clone, Copy)]
struct Answer<T> {
    is: T,
    support: f32,
    /// Its confidence: see the head of the module.
    sure: f32,
}

impl<T> Answer<T> {
    const fn of_the_owner(is: T) -> Self {
        Self {
            is,
            support: 1.0,
            sure: 1.0,
        }
    }
}

/// The answers that were voted for, the one with the most support first: see the head of the module.
fn vote<T: Copy + PartialEq>(votes: impl Iterator<Item = (Source, T, f32)>) -> Vec<Answer<T>> {
    let mut answers: Vec<(T, Source, [f32; Source::COUNT])> = Vec::new();
    for (source, answer, weight) in votes {
        let at = match answers.iter().position(|(known, ..)| *known == answer) {
            Some(at) => at,
            None => {
                // Votes come in the order of trust, so this is the most trusted of its sources.
                answers.push((answer, source, [0.0; Source::COUNT]));
                answers.len() - 1
            }
        };
        let of_source = &mut answers[at].2[source as usize];
        *of_source = of_source.max(weight);
    }
    let support =
        |weights: &[f32]| 1.0 - weights.iter().map(|weight| 1.0 - weight).product::<f32>();
    let mut ranking: Vec<_> = answers
        .iter()
        .map(|(answer, source, weights)| (support(weights), *source, *answer))
        .collect();
    ranking.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let sure = |at: usize, support: f32| {
        // The strongest rival of the first is the second.
        let rival = ranking.get(usize::from(at == 0));
        let rival = rival.map_or(0.0, |(support, ..)| *support);
        // More digits would say more than is known.
        let sure = (support * support / (support + rival) * 1000.0).round() / 1000.0;
        sure.min(MOST_SURE)
    };
    let answers = ranking.iter().enumerate();
    answers
        .map(|(at, (support, _, is))| Answer {
            is: *is,
            support: *support,
            sure: sure(at, *support),
        })
        .collect()
}

/// The name that most likely is of this device alone; of those alike, the most trusted.
fn name(evidence: &[Seen<'_>]) -> Option<String> {
    let names = evidence
        .iter()
        .filter_map(|(_, _, clue)| clue.name.as_ref());
    // Of equals, the last is the greatest: so from the end.
    let best = names.rev().max_by(|(_, a), (_, b)| rank(*a).cmp(&rank(*b)));
    best.map(|(name, _)| name.clone())
}

/// A name of the device's own, then any other.
fn rank(weight: f32) -> bool {
    weight > 0.5
}

/// The model as the surest source has it, of those that do not name another vendor or system.
fn model(evidence: &[Seen<'_>], concluded: Option<&str>, system: Option<&str>) -> Option<String> {
    let fits = |clue: &Clue| {
        let of_system = clue.hint.system.zip(system);
        vendor(clue).is_none_or(|(name, _)| Some(name) == concluded)
            && of_system.is_none_or(|((of_clue, _), system)| of_clue == system)
    };
    let models = evidence
        .iter()
        .filter(|(_, _, clue)| fits(clue))
        .filter_map(|(_, _, clue)| clue.model.as_ref());
    let best = models.rev().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(model, _)| model.clone())
}

/// The system with the version that the most trusted source has of it.
fn with_version(system: &str, kind: Kind, evidence: &[Seen<'_>]) -> String {
    let is_of = |clue: &Clue| clue.hint.system.is_some_and(|(name, _)| name == system);
    let mut versions = evidence
        .iter()
        .filter(|(_, _, clue)| is_of(clue))
        .filter_map(|(_, _, clue)| clue.version.as_deref());
    // Of a list of parameters it is only a range.
    let version = versions
        .clone()
        .find(|version| !version.contains(' '))
        .or_else(|| versions.next());
    let system = match (system, kind) {
        ("iOS", Kind::Tablet) => "iPadOS",
        _ => system,
    };
    match version {
        Some(version) => format!("{system} {version}"),
        None => system.to_owned(),
    }
}

fn lines(word: &IdentityOverride, evidence: &[Seen<'_>]) -> Vec<EvidenceLine> {
    let mut lines = Vec::new();
    let mut line = |source: Source, value: &str, about, suggests: String, weight| {
        lines.push(EvidenceLine {
            source: source.name(),
            value: value.to_owned(),
            about,
            suggests,
            weight,
        });
    };
    let configured = [
        ("name", word.name.as_deref()),
        ("kind", word.kind.map(Kind::name)),
        ("vendor", word.vendor.as_deref()),
    ];
    for (about, value) in configured {
        if let Some(value) = value {
            line(Source::Configuration, value, about, value.to_owned(), 1.0);
        }
    }
    for (source, value, clue) in evidence {
        if let Some((name, weight)) = &clue.name {
            line(*source, value, "name", name.clone(), *weight);
        }
        if let Some((kind, weight)) = clue.hint.kind {
            line(*source, value, "kind", kind.name().to_owned(), weight);
        }
        if let Some((vendor, weight)) = vendor(clue) {
            line(*source, value, "vendor", vendor.to_owned(), weight);
        }
        if let Some((model, weight)) = &clue.model {
            line(*source, value, "model", model.clone(), *weight);
        }
        if let Some((system, weight)) = clue.hint.system {
            let suggests = match &clue.version {
                Some(version) => format!("{system} {version}"),
                None => system.to_owned(),
            };
            line(*source, value, "system", suggests, weight);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, Ipv6Addr},
        slice::from_ref,
    };

    use proptest::prelude::*;

    use super::*;

    /// Xiaomi's, Apple's, one of nobody's, and two that devices made up.
    const XIAOMI: Mac = [0x64, 0xcc, 0x2e, 1, 2, 3];
    const HMD: Mac = [0x4c, 0x6a, 0xf6, 0x9f, 0xf6, 0x27];
    const APPLE: Mac = [0xc4, 0x61, 0x8b, 0x35, 0x82, 0xa9];
    const IMAC: Mac = [0xd8, 0x30, 0x62, 0x56, 0x00, 0x1c];
    const ESPRESSIF: Mac = [0x24, 0x0a, 0xc4, 1, 2, 3];
    const INTEL: Mac = [0x00, 0x1b, 0x21, 1, 2, 3];
    const NOBODY: Mac = [0x0c, 0xff, 0xff, 1, 2, 3];
    const RANDOM: Mac = [0xda, 0xa1, 0x19, 1, 2, 3];

    /// The lists in `android.pcap` and `iphone.pcap`.
    const ANDROID_9: &[u8] = &[1, 3, 6, 15, 26, 28, 51, 58, 59, 43];
    const IPHONE: &[u8] = &[1, 121, 3, 6, 15, 119, 252];
    const IMAC_LIST: &[u8] = &[1, 121, 3, 6, 15, 119, 252, 95, 44, 46];
    const WINDOWS: &[u8] = &[1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 119, 121, 249, 252];

    fn dhcp(host_name: &str, vendor_class: &str, parameters: &[u8]) -> Fact {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Fact::Dhcp4 {
            host_name: text(host_name),
            fqdn: None,
            vendor_class: text(vendor_class),
            parameters: parameters.to_vec(),
            client_id: Vec::new(),
        }
    }

    /// Where the device of a test is.
    const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn agent(text: &str) -> Fact {
        Fact::UserAgent(text.to_owned(), FROM)
    }

    fn asks(name: &str) -> Fact {
        Fact::Name(name.to_owned())
    }

    fn service(kind: &str, instance: &str, text: &[(&str, &str)]) -> Fact {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Fact::MdnsService {
            kind: kind.to_owned(),
            instance: instance.to_owned(),
            text: text.iter().map(owned).collect(),
        }
    }

    fn known(facts: &[Fact]) -> Identity {
        let mut identity = Identity::default();
        for fact in facts {
            identity.note(fact.clone(), 0.0);
        }
        identity
    }

    /// Name, kind, vendor, model and system.
    type Expected<'a> = (
        Option<&'a str>,
        Kind,
        Option<&'a str>,
        Option<&'a str>,
        Option<&'a str>,
    );

    fn check(mac: Mac, facts: &[Fact], expected: Expected<'_>) -> Conclusion {
        let conclusion = known(facts).conclude(mac, None);
        let found = (
            conclusion.name.as_deref(),
            conclusion.kind,
            conclusion.vendor.as_deref(),
            conclusion.model.as_deref(),
            conclusion.system.as_deref(),
        );
        assert_eq!(found, expected, "{facts:?}: {:#?}", conclusion.evidence);
        conclusion
    }

    #[test]
    fn phones_of_the_captures() {
        let phone = check(
            HMD,
            &[dhcp("", "android-dhcp-9", ANDROID_9)],
            (None, Kind::Phone, Some("Nokia"), None, Some("Android 9")),
        );
        assert!(phone.confidence > 0.75, "{}", phone.confidence);
        let phone = check(
            APPLE,
            &[dhcp("Lucas-iPhone", "", IPHONE)],
            (
                Some("Lucas-iPhone"),
                Kind::Phone,
                Some("Apple"),
                None,
                Some("iOS"),
            ),
        );
        assert!(phone.confidence > 0.9, "{}", phone.confidence);
        let model = service(
            "_device-info._tcp",
            "Luca\u{2019}s iMac",
            &[("model", "iMac12,2")],
        );
        let computer = check(
            IMAC,
            &[dhcp("Lucas-iMac", "", IMAC_LIST), model],
            (
                Some("Lucas-iMac"),
                Kind::Computer,
                Some("Apple"),
                Some("iMac12,2"),
                Some("macOS"),
            ),
        );
        assert!(computer.confidence > 0.95, "{}", computer.confidence);
    }

    #[test]
    fn devices() {
        // A Redmi with a random address and no name: the captive portal check tells.
        check(
            RANDOM,
            &[
                dhcp(
                    "",
                    "android-dhcp-13",
                    &[1, 3, 6, 15, 26, 28, 51, 58, 59, 43, 114],
                ),
                asks("connect.rom.miui.com"),
                asks("connectivitycheck.gstatic.com"),
            ],
            (None, Kind::Phone, Some("Xiaomi"), None, Some("Android 13")),
        );
        check(
            RANDOM,
            &[
                dhcp("RedmiNote8-Redmi", "android-dhcp-10", ANDROID_9),
                agent("Dalvik/2.1.0 (Linux; U; Android 10; Redmi Note 8 Build/QKQ1.200114.002)"),
            ],
            (
                Some("RedmiNote8-Redmi"),
                Kind::Phone,
                Some("Xiaomi"),
                Some("Redmi Note 8"),
                Some("Android 10"),
            ),
        );
        check(
            RANDOM,
            &[dhcp("iPad", "", IPHONE), asks("captive.apple.com")],
            (
                Some("iPad"),
                Kind::Tablet,
                Some("Apple"),
                None,
                Some("iPadOS"),
            ),
        );
        check(
            INTEL,
            &[dhcp("DESKTOP-4F7K2LM", "MSFT 5.0", WINDOWS)],
            (
                Some("DESKTOP-4F7K2LM"),
                Kind::Computer,
                Some("Intel"),
                None,
                Some("Windows 10 or later"),
            ),
        );
        check(
            ESPRESSIF,
            &[dhcp("shellyplug-s-12345", "", &[1, 3, 28, 6])],
            (
                Some("shellyplug-s-12345"),
                Kind::Iot,
                Some("Shelly"),
                None,
                None,
            ),
        );
        // A set with Android says at DHCP what a phone says.
        check(
            NOBODY,
            &[
                dhcp("android", "android-dhcp-12", ANDROID_9),
                service("_androidtvremote2._tcp", "Living room", &[]),
                service(
                    "_googlecast._tcp",
                    "BRAVIA-4K-1a2b",
                    &[("fn", "Living room"), ("md", "BRAVIA 4K UR2")],
                ),
            ],
            (
                Some("Living room"),
                Kind::Tv,
                None,
                Some("BRAVIA 4K UR2"),
                Some("Android 12"),
            ),
        );
        check(
            NOBODY,
            &[
                Fact::Dhcp6 {
                    fqdn: Some("annas-laptop.example.".to_owned()),
                    vendor_class: Some("MSFT 5.0".to_owned()),
                    enterprise: Some(311),
                },
                asks("www.msftconnecttest.com"),
            ],
            (
                Some("annas-laptop"),
                Kind::Computer,
                None,
                None,
                Some("Windows"),
            ),
        );
        check(
            NOBODY,
            &[Fact::Router],
            (None, Kind::Router, None, None, None),
        );
        check(NOBODY, &[], (None, Kind::Unknown, None, None, None));
        check(
            NOBODY,
            &[asks("example.org")],
            (None, Kind::Unknown, None, None, None),
        );
        check(XIAOMI, &[], (None, Kind::Phone, Some("Xiaomi"), None, None));
    }

    #[test]
    fn a_random_address_has_no_vendor() {
        for first in 0..=u8::MAX {
            let mut mac = XIAOMI;
            mac[0] = first;
            let conclusion = Identity::default().conclude(mac, None);
            assert_eq!(conclusion.random_mac, first & 2 != 0);
            if conclusion.random_mac {
                assert_eq!(
                    conclusion,
                    Conclusion {
                        random_mac: true,
                        ..Conclusion::default()
                    }
                );
            }
        }
    }

    #[test]
    fn contradiction_lowers_confidence() {
        let facts = [dhcp("Annas-iPhone", "", IPHONE), asks("captive.apple.com")];
        let sure = known(&facts).conclude(RANDOM, None);
        let against = [
            asks("connect.rom.miui.com"),
            agent("Mozilla/5.0 (Windows NT 10.0) Gecko/20100101"),
        ];
        let doubtful = known(&[&facts[..], &against].concat()).conclude(RANDOM, None);
        assert_eq!(
            (doubtful.kind, doubtful.vendor.as_deref()),
            (Kind::Phone, Some("Apple"))
        );
        assert!(doubtful.kind_confidence < sure.kind_confidence);
        assert!(doubtful.vendor_confidence < sure.vendor_confidence);
        assert!(doubtful.confidence < 0.7 && sure.confidence > 0.9);
    }

    #[test]
    fn how_votes_are_counted() {
        let check = |votes: &[(Source, char, f32)], expected: Option<(char, f32)>| {
            let found = vote(votes.iter().copied());
            let found = found.first().map(|answer| (answer.is, answer.sure));
            assert_eq!(
                found.map(|(answer, _)| answer),
                expected.map(|(answer, _)| answer)
            );
            if let (Some((_, found)), Some((_, expected))) = (found, expected) {
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{found} {expected}: {votes:?}"
                );
            }
        };
        use Source::{DhcpHostName, MdnsHost, Name, Oui};
        check(&[], None);
        check(&[(Name, 'a', 0.5)], Some(('a', 0.5)));
        // One source is one witness.
        check(&[(Name, 'a', 0.5), (Name, 'a', 0.4)], Some(('a', 0.5)));
        check(&[(Name, 'a', 0.5), (Oui, 'a', 0.5)], Some(('a', 0.75)));
        check(
            &[(DhcpHostName, 'a', 0.5), (MdnsHost, 'b', 0.5)],
            Some(('a', 0.25)),
        );
        check(&[(Name, 'a', 0.99), (Oui, 'a', 0.99)], Some(('a', 0.99)));
        check(
            &[
                (DhcpHostName, 'a', 0.5),
                (MdnsHost, 'b', 0.5),
                (Name, 'b', 0.5),
            ],
            Some(('b', 0.75 * 0.75 / 1.25)),
        );
    }

    #[test]
    fn a_conclusion_agrees_with_itself() {
        const SAMSUNG: &str = "Dalvik/2.1.0 (Linux; U; Android 13; SM-G991B Build/TP1A)";
        const IPHONE_AGENT: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X)";
        // Each has two witnesses for what contradicts the other.
        let facts = [
            agent(SAMSUNG),
            dhcp("Galaxy-S21", "", IPHONE),
            agent(IPHONE_AGENT),
        ];
        let found = known(&facts).conclude(RANDOM, None);
        let of_apple = found.vendor.as_deref() == Some("Apple");
        let has_ios = found
            .system
            .as_deref()
            .is_some_and(|it| it.starts_with("iOS"));
        assert_eq!(of_apple, has_ios, "{found:#?}");
        assert_ne!(of_apple, found.model.as_deref() == Some("SM-G991B"));

        // The owner's word stands; what contradicts it does not.
        let word = |kind: Option<Kind>, vendor: &str| IdentityOverride {
            kind,
            vendor: Some(vendor.to_owned()),
            ..IdentityOverride::default()
        };
        let identity = known(&[dhcp("Annas-iPhone", "", IPHONE), agent(SAMSUNG)]);
        let found = identity.conclude(RANDOM, Some(&word(None, "Samsung")));
        assert_eq!(found.system.as_deref(), Some("Android 13"));
        let found = identity.conclude(RANDOM, Some(&word(Some(Kind::Computer), "Samsung")));
        assert_eq!((found.kind, found.system), (Kind::Computer, None));
        // A maker that no table has may sell any system.
        let found = identity.conclude(RANDOM, Some(&word(None, "Anna")));
        assert!(found.system.is_some());

        let television = known(&[
            service("_androidtvremote2._tcp", "TV", &[]),
            dhcp("", "android-dhcp-12", ANDROID_9),
            agent("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15"),
        ]);
        let found = television.conclude(NOBODY, None);
        assert_eq!(
            (found.kind, found.vendor, found.system.as_deref()),
            (Kind::Tv, None, Some("Android 12"))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn no_conclusion_contradicts_itself(facts in proptest::collection::vec(any_fact(), 0..12), mac: Mac) {
            let found = known(&facts).conclude(mac, None);
            let system = found.system.as_deref().unwrap_or_default();
            let name = system.split([' ', '1']).next().unwrap_or_default();
            let name = if system.starts_with("iPadOS") { "iOS" } else { name };
            let vendor = found.vendor.as_deref().unwrap_or_default();
            prop_assert!(vendor.is_empty() || is_sold_with(name, vendor), "{found:#?}");
            prop_assert!(found.kind == Kind::Unknown || is_on(name, found.kind), "{found:#?}");
        }
    }

    #[test]
    fn what_is_behind_a_repeater_is_not_the_repeater() {
        const PHONE_BEHIND: Mac = [2, 0xaa, 0, 0, 0, 1];
        const TP_LINK: Mac = [0x50, 0xc7, 0xbf, 0, 0, 9];
        let facts = [
            dhcp("RE200", "udhcp 1.30.1", &[]),
            agent("Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X)"),
            asks("captive.apple.com"),
        ];
        let alone = known(&facts).conclude(TP_LINK, None);
        assert_eq!((alone.kind, alone.shared_by), (Kind::Phone, 0));
        let behind = [&facts[..], &[Fact::ClientBehind(PHONE_BEHIND)]].concat();
        let found = known(&behind).conclude(TP_LINK, None);
        assert_eq!(found.shared_by, 2);
        assert_eq!(
            (found.name.as_deref(), found.kind, found.system.as_deref()),
            (Some("RE200"), Kind::Router, Some("Linux"))
        );
        assert!(
            found
                .vendor
                .is_some_and(|vendor| vendor.starts_with("TP-L"))
        );
        let mut identity = known(&facts);
        assert!(identity.note(Fact::ClientBehind(PHONE_BEHIND), 0.0));
        assert!(!identity.note(Fact::ClientBehind(PHONE_BEHIND), 0.0));
    }

    #[test]
    fn the_owner_is_right() {
        let word = IdentityOverride {
            name: Some("Anna's old phone".to_owned()),
            kind: Some(Kind::Tablet),
            vendor: Some("Acme".to_owned()),
        };
        let identity = known(&[dhcp("Annas-iPhone", "", IPHONE)]);
        let found = identity.conclude(APPLE, Some(&word));
        assert_eq!(found.name, word.name);
        assert_eq!((found.kind, found.vendor), (Kind::Tablet, word.vendor));
        assert_eq!(found.confidence, 1.0);
        let first: Vec<_> = found
            .evidence
            .iter()
            .take(4)
            .map(|line| line.source)
            .collect();
        let configuration = "configuration";
        assert_eq!(
            first,
            [
                configuration,
                configuration,
                configuration,
                "dhcp-host-name"
            ]
        );
        // A name alone leaves the rest to the evidence.
        let word = IdentityOverride {
            name: Some("Anna".to_owned()),
            kind: Some(Kind::Unknown),
            vendor: None,
        };
        let found = identity.conclude(APPLE, Some(&word));
        assert_eq!(found.kind, Kind::Phone);
        assert_eq!(found.vendor.as_deref(), Some("Apple"));
    }

    #[test]
    fn what_may_change_the_conclusion() {
        let mut identity = Identity::default();
        let mut note = |fact: &Fact| identity.note(fact.clone(), 0.0);
        let first = dhcp("first", "android-dhcp-9", ANDROID_9);
        let second = dhcp("second", "android-dhcp-9", ANDROID_9);
        assert!(note(&first));
        assert!(!note(&first));
        assert!(note(&second));
        assert!(!note(&second));
        // It is called as before.
        assert!(note(&first));
        assert!(!note(&asks("example.org")));
        assert!(note(&asks("connect.rom.miui.com")));
        assert!(note(&asks("connectivitycheck.gstatic.com")));
        assert!(!note(&asks("connect.rom.miui.com")));
        assert!(!note(&Fact::Address(IpAddr::from([192, 0, 2, 1]))));
        assert!(note(&Fact::Router));
        assert!(!note(&Fact::Router));
        assert_eq!(
            identity.conclude(RANDOM, None).name.as_deref(),
            Some("first")
        );
    }

    #[test]
    fn one_device_over_all_its_addresses() {
        let mut identity = Identity::default();
        for (number, now) in (0..100_u32).zip([1.0, 2.0].into_iter().cycle()) {
            let address = Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(number));
            identity.note(Fact::Address(address.into()), now + f64::from(number));
        }
        for (address, now) in [
            ("192.0.2.7", 200.0),
            ("0.0.0.0", 201.0),
            ("ff02::1", 202.0),
            ("192.0.2.7", 203.0),
        ] {
            identity.note(Fact::Address(address.parse().expect("an address")), now);
        }
        let addresses: Vec<_> = identity.addresses().collect();
        assert_eq!(addresses.len(), MAX_ADDRESSES);
        let ipv4 = IpAddr::from(Ipv4Addr::new(192, 0, 2, 7));
        assert!(addresses.contains(&(ipv4, 203.0)));
        assert!(
            addresses.iter().all(|(_, last_seen)| *last_seen >= 37.0),
            "{addresses:?}"
        );
    }

    #[test]
    fn json() {
        let conclusion = known(&[dhcp("Annas-iPhone", "", &[])]).conclude(RANDOM, None);
        let json = serde_json::to_value(&conclusion).expect("JSON");
        assert_eq!(json["kind"], "phone");
        assert_eq!(json["evidence"][0]["source"], "dhcp-host-name");
        assert_eq!(json["evidence"][0]["suggests"], "Annas-iPhone");
    }

    #[test]
    fn kinds_are_named_as_in_json() {
        for kind in <Kind as strum::VariantArray>::VARIANTS {
            assert_eq!(serde_json::to_value(kind).expect("JSON"), kind.name());
        }
    }

    #[test]
    fn probably_the_same() {
        let with_id = |fact: Fact, id: &[u8]| match fact {
            Fact::Dhcp4 {
                host_name,
                fqdn,
                vendor_class,
                parameters,
                ..
            } => Fact::Dhcp4 {
                host_name,
                fqdn,
                vendor_class,
                parameters,
                client_id: id.to_vec(),
            },
            other => other,
        };
        let other_random = [0x02, 0, 0, 0, 0, 1];
        let anna = || dhcp("Annas-iPhone", "", IPHONE);
        let check =
            |first: (Mac, Fact, f64, f64), second: (Mac, Fact, f64, f64), expected: bool| {
                let (a, b) = (known(from_ref(&first.1)), known(from_ref(&second.1)));
                let devices = [
                    (first.0, &a, first.2, first.3),
                    (second.0, &b, second.2, second.3),
                ];
                let pairs = if expected {
                    vec![(second.0, first.0)]
                } else {
                    vec![]
                };
                assert_eq!(probably_same(&devices), pairs, "{first:?} {second:?}");
                let [first, second] = devices;
                assert_eq!(probably_same(&[second, first]), pairs, "in the other order");
            };
        check(
            (APPLE, anna(), 0.0, 9.0),
            (RANDOM, anna(), 10.0, 20.0),
            true,
        );
        check(
            (other_random, anna(), 0.0, 9.0),
            (RANDOM, anna(), 10.0, 20.0),
            true,
        );
        let upper = dhcp("ANNAS-IPHONE.local", "", IPHONE);
        check((APPLE, upper, 0.0, 9.0), (RANDOM, anna(), 10.0, 20.0), true);
        // At the same time; the later one with an assigned address; another client.
        check(
            (APPLE, anna(), 0.0, 11.0),
            (RANDOM, anna(), 10.0, 20.0),
            false,
        );
        check(
            (RANDOM, anna(), 0.0, 9.0),
            (APPLE, anna(), 10.0, 20.0),
            false,
        );
        let other_list = dhcp("Annas-iPhone", "", ANDROID_9);
        check(
            (APPLE, other_list, 0.0, 9.0),
            (RANDOM, anna(), 10.0, 20.0),
            false,
        );
        let other_class = dhcp("Annas-iPhone", "MSFT 5.0", IPHONE);
        check(
            (APPLE, other_class, 0.0, 9.0),
            (RANDOM, anna(), 10.0, 20.0),
            false,
        );
        let no_list = || dhcp("Annas-iPhone", "", &[]);
        check(
            (APPLE, no_list(), 0.0, 9.0),
            (RANDOM, no_list(), 10.0, 20.0),
            false,
        );
        // Names that many have, unless the client's own identifier is the same.
        for name in [
            "iPhone",
            "android",
            "android-4f1c2e5a9b0d3c77",
            "localhost",
            "",
            "Galaxy-S21",
        ] {
            let common = || dhcp(name, "android-dhcp-13", ANDROID_9);
            check(
                (XIAOMI, common(), 0.0, 9.0),
                (RANDOM, common(), 10.0, 20.0),
                false,
            );
            let id = [
                255, 1, 2, 3, 4, 0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
            ];
            let identified = || with_id(common(), &id);
            check(
                (XIAOMI, identified(), 0.0, 9.0),
                (RANDOM, identified(), 10.0, 20.0),
                true,
            );
        }
    }

    #[test]
    fn of_several_it_is_the_one_seen_last() {
        let identity = known(&[dhcp("Annas-iPhone", "", IPHONE)]);
        let mac = |number: u8| [2, 0, 0, 0, 0, number];
        let devices: Vec<_> = [
            (1, 0.0, 5.0),
            (2, 6.0, 9.0),
            (3, 10.0, 20.0),
            (4, 21.0, 30.0),
        ]
        .into_iter()
        .map(|(number, first, last)| (mac(number), &identity, first, last))
        .collect();
        assert_eq!(
            probably_same(&devices),
            [(mac(2), mac(1)), (mac(3), mac(2)), (mac(4), mac(3))]
        );
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "(Redmi|iPhone|SM-T5|Mozilla/5.0 \\(Linux; Android 1|MSFT |_airplay|dhcpcd-){1,3}\\PC{0,300}",
            Just("connect.rom.miui.com".to_owned()),
        ]
    }

    fn any_fact() -> impl Strategy<Value = Fact> {
        let some = || proptest::option::of(any_text());
        let octets = || proptest::collection::vec(any::<u8>(), 0..300);
        let item = || prop_oneof![Just("model".to_owned()), Just("fn".to_owned()), any_text()];
        let items = || proptest::collection::vec((item(), any_text()), 0..4);
        prop_oneof![
            (some(), some(), some(), octets(), octets()).prop_map(
                |(host_name, fqdn, vendor_class, parameters, client_id)| Fact::Dhcp4 {
                    host_name,
                    fqdn,
                    vendor_class,
                    parameters,
                    client_id,
                }
            ),
            (some(), some(), any::<Option<u32>>()).prop_map(|(fqdn, vendor_class, enterprise)| {
                Fact::Dhcp6 {
                    fqdn,
                    vendor_class,
                    enterprise,
                }
            }),
            (any_text(), any::<IpAddr>()).prop_map(|(name, from)| Fact::MdnsHost(name, from)),
            any::<Mac>().prop_map(Fact::ClientBehind),
            (any_text(), any_text(), items()).prop_map(|(kind, instance, text)| {
                Fact::MdnsService {
                    kind,
                    instance,
                    text,
                }
            }),
            any_text().prop_map(Fact::Name),
            (any_text(), any::<IpAddr>()).prop_map(|(agent, from)| Fact::UserAgent(agent, from)),
            any::<IpAddr>().prop_map(Fact::Address),
            Just(Fact::Router),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn a_flood_of_facts_is_bounded(facts in proptest::collection::vec(any_fact(), 0..100), mac: Mac) {
            let mut identity = Identity::default();
            let text = "x".repeat(2 * MAX_TEXT);
            for (number, fact) in facts.into_iter().enumerate() {
                identity.note(fact, 0.0);
                identity.note(asks(&format!("{number}.lgtvsdp.com")), 0.0);
                identity.note(dhcp(&format!("iPhone{number}{text}"), &format!("HUAWEI:android:{number}{text}"), &[0; 255]), 0.0);
                identity.note(agent(&format!("Android {number}; Redmi {number} {text}")), 0.0);
            }
            prop_assert!(octets_of(&identity) < 30 << 10, "{}", octets_of(&identity));
            let conclusion = identity.conclude(mac, None);
            for sure in [conclusion.confidence, conclusion.kind_confidence, conclusion.vendor_confidence] {
                prop_assert!((0.0..=1.0).contains(&sure));
            }
            let fits = conclusion.name.is_none_or(|name| {
                name.chars().count() <= 64 && !name.chars().any(char::is_control)
            });
            prop_assert!(fits);
            prop_assert!(conclusion.evidence.iter().all(|line| line.value.len() <= MAX_TEXT));
        }
    }

    /// The memory of an identity in bytes, its own frame and spare room included.
    fn octets_of(identity: &Identity) -> usize {
        let clue = |clue: &Clue| {
            let texts = [&clue.registered, &clue.model, &clue.name]
                .into_iter()
                .flatten();
            let version = clue.version.as_ref().map_or(0, String::capacity);
            version + texts.map(|(text, _)| text.capacity()).sum::<usize>()
        };
        let evidence = identity
            .evidence
            .iter()
            .map(|of| of.value.capacity() + clue(&of.clue));
        let client = &identity.client;
        size_of::<Identity>()
            + evidence.sum::<usize>()
            + identity.evidence.capacity() * size_of::<Evidence>()
            + identity.addresses.capacity() * size_of::<(IpAddr, f64)>()
            + client.parameters.as_ref().map_or(0, Vec::capacity)
            + client.duid.as_ref().map_or(0, Vec::capacity)
            + client.vendor_class.as_ref().map_or(0, String::capacity)
            + identity.behind.memory()
    }
}
