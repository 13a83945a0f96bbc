//! `[[policy]]`.

use std::{ops::Range, path::PathBuf};

use ipnet::IpNet;
use sensor_ebpf::policy::{MAX_PORT_RANGES, MAX_RULES};
use strum::VariantArray as _;
use toml::de::DeValue;

use sensor_ebpf::parse::Mac;

use super::{
    device::{KINDS, KINDS_ELSEWHERE},
    list::CATEGORIES_ELSEWHERE,
};
use crate::{
    catalog::{NetworkSelector, lists::Category},
    config::{
        places::PolicyPlaces,
        problem::{Level, Problem},
        reader::{Reader, Section, Unique, Value, chosen, integer, quoted_excerpt},
        value::{self, Complaint, closest_from},
        weekly::{self, Week},
    },
    policy::{Action, Answer, DeviceSelector, Policy, Ports, Span},
};

/// Words that other firewalls use for an action.
const ACTIONS_ELSEWHERE: [(&str, &str); 7] = [
    ("accept", "allow"),
    ("log", "observe"),
    ("pass", "allow"),
    ("block", "reject"),
    ("deny", "reject"),
    ("refuse", "reject"),
    ("discard", "drop"),
];

/// Words that other resolvers use for an answer.
const ANSWERS_ELSEWHERE: [(&str, &str); 7] = [
    ("nx", "nxdomain"),
    ("nodata", "zero"),
    ("null", "zero"),
    ("zeros", "zero"),
    ("0.0.0.0", "zero"),
    ("::", "zero"),
    ("ip", "zero"),
];

/// Prefixes before a colon that do not select a device, and the right ones.
const SELECTORS_ELSEWHERE: [(&str, &str); 8] = [
    ("groups", "group:"),
    ("tag", "group:"),
    ("make", "vendor:"),
    ("maker", "vendor:"),
    ("owner", "vendor:"),
    ("type", "kind:"),
    ("name", ""),
    ("mac", ""),
];

/// Keys by which a policy is about names.
const NAMES: [&str; 4] = ["domains", "lists", "owner", "category"];

/// Keys by which a policy is about addresses and ports.
const ADDRESSES: [&str; 4] = ["remotes", "country", "network", "ports"];

impl Reader {
    pub(super) fn policies(&mut self, root: &Section<'_, '_>) -> Vec<Policy> {
        let mut policies: Vec<Policy> = Vec::new();
        let mut names = Unique::default();
        let sections = self
            .sections(root, "policy", "[[policy]]")
            .unwrap_or_default();
        let mut rules = 0;
        for section in &sections {
            let before = rules;
            rules += rules_of(section);
            if before <= MAX_RULES && rules > MAX_RULES {
                self.problems.push(Problem {
                    level: Level::Error,
                    message: format!(
                        "{} policies are configured, and at most {MAX_RULES} rules can be in force",
                        sections.len()
                    ),
                    span: Some(section.span.clone()),
                    label: format!("rule {} is of this policy", MAX_RULES + 1),
                    related: None,
                    help: "put what policies with the same devices, times and action are about \
                           into one; a policy is one rule, and one more for `quic`, and three for \
                           `encrypted_dns`"
                        .to_owned(),
                });
            }
            if let Some((policy, places)) = self.policy(section, &mut names) {
                policies.push(policy);
                self.places.policies.push(places);
            }
        }
        policies
    }

    fn policy(
        &mut self,
        section: &Section<'_, '_>,
        names: &mut Unique<String>,
    ) -> Option<(Policy, PolicyPlaces)> {
        self.know_keys(
            section,
            &[
                "name",
                "devices",
                "domains",
                "lists",
                "owner",
                "category",
                "remotes",
                "country",
                "network",
                "ports",
                "encrypted_dns",
                "quic",
                "schedule",
                "action",
                "answer",
                "strict",
                "cname",
            ],
        );
        let devices = self.devices(section);
        let (domains, domain_places) = self.domains(section);
        let (lists, list_places) = self.policy_lists(section);
        let (owners, owner_places) = self.owners(section);
        let (categories, category_places) = self.categories(section);
        let (remotes, remote_places) = self.remotes(section);
        let (countries, country_places) = self.countries(section);
        let (networks, network_places) = self.network_selectors(section);
        let ports = self.ports(section);
        let encrypted_dns = self.choice(
            section,
            "encrypted_dns",
            Action::VARIANTS,
            &ACTIONS_ELSEWHERE,
        );
        let quic = self.choice(section, "quic", Action::VARIANTS, &ACTIONS_ELSEWHERE);
        let schedule = self.schedule(section);
        let action = self
            .choice(section, "action", Action::VARIANTS, &ACTIONS_ELSEWHERE)
            .unwrap_or_default();
        let answer = self
            .choice(section, "answer", Answer::VARIANTS, &ANSWERS_ELSEWHERE)
            .unwrap_or_default();
        let strict = self.boolean(Some(section), "strict", false);
        let without_aliases = !self.boolean(Some(section), "cname", true);
        let (name, span) =
            self.required_text(section, "name", "name = \"trackers\"", value::policy_name)?;
        if let Some(first) = names.add(name.clone(), &span) {
            self.problems.push(Problem {
                level: Level::Error,
                message: format!("two policies have the name `{name}`"),
                span: Some(span.clone()),
                label: "again".to_owned(),
                related: Some((first, "first here")),
                help: format!("give one another name, for example `name = \"{name}-2\"`"),
            });
        }
        self.doubts(section, &name, &span, (action, &categories));
        let place = |key: &str| section.get(key).map_or_else(|| span.clone(), Value::span);
        let places = PolicyPlaces {
            name: span.clone(),
            domains: domain_places,
            lists: list_places,
            owners: owner_places,
            categories: category_places,
            remotes: remote_places,
            countries: country_places,
            networks: network_places,
            ports: place("ports"),
            encrypted_dns: place("encrypted_dns"),
            quic: place("quic"),
            schedule: place("schedule"),
        };
        let policy = Policy {
            name,
            devices,
            domains,
            lists,
            owners,
            categories,
            remotes,
            countries,
            networks,
            ports,
            encrypted_dns,
            quic,
            schedule,
            action,
            answer,
            strict,
            without_aliases,
        };
        Some((policy, places))
    }

    /// Warns of keys that have no effect, or a wider one than is likely meant. The keys count, not
    /// their values, because a value that cannot be read is a problem already.
    fn doubts(
        &mut self,
        section: &Section<'_, '_>,
        name: &str,
        place: &Range<usize>,
        (action, categories): (Action, &[Category]),
    ) {
        let has = |key: &&str| section.get(key).is_some();
        let mut doubt = |key: &str, message: String, label: &str, help: &str| {
            let span = section.get(key).map_or_else(|| place.clone(), Value::span);
            self.problems.push(Problem {
                level: Level::Warning,
                message,
                span: Some(span),
                label: label.to_owned(),
                related: None,
                help: help.to_owned(),
            });
        };
        let has_subject = NAMES.iter().chain(&ADDRESSES).any(has);
        let has_other = ["encrypted_dns", "quic"].iter().any(has);
        let refuses = matches!(action, Action::Reject | Action::Drop);
        let has_limit = ["devices", "schedule"].iter().any(has);
        if refuses && !has_subject && !has_other && !has_limit {
            doubt(
                "name",
                format!("policy `{name}` refuses all traffic of all devices"),
                "says neither which devices, nor what, nor when",
                "say what it is about, for example `domains = [\"ads.example.com\"]`",
            );
        }
        if has(&"action") && !has_subject && has_other {
            doubt(
                "action",
                "`action` has no effect".to_owned(),
                "`encrypted_dns` and `quic` have actions of their own",
                "remove it, or say what it is about, for example `domains = [\"ads.example.com\"]`",
            );
        }
        let has_names = NAMES.iter().any(has) || has(&"encrypted_dns");
        let is_strict = section
            .get("strict")
            .and_then(|value| value.get_ref().as_bool())
            .unwrap_or_default();
        if is_strict && !has_names {
            doubt(
                "strict",
                "`strict` has no effect".to_owned(),
                "no name decides here",
                "remove it, or say which names, for example `domains = [\"ads.example.com\"]`",
            );
        }
        if has(&"cname") && !has_names {
            doubt(
                "cname",
                "`cname` has no effect".to_owned(),
                "no name decides here",
                "remove it, or say which names, for example `domains = [\"ads.example.com\"]`",
            );
        }
        if has(&"answer") && !has_names {
            doubt(
                "answer",
                "`answer` has no effect".to_owned(),
                "no name decides here",
                "remove it, or say which names, for example `domains = [\"ads.example.com\"]`",
            );
        } else if has(&"answer") && !has(&"encrypted_dns") && ADDRESSES.iter().any(has) {
            doubt(
                "answer",
                "`answer` has no effect".to_owned(),
                "addresses and ports are not known when a name is asked for",
                "remove it, or make a second policy of the names alone",
            );
        }
        if refuses && categories.contains(&Category::NeverBlock) {
            doubt(
                "category",
                "names of category `never-block` are not refused".to_owned(),
                "stands above every category",
                "name those that are to be refused all the same, for example `domains = \
                 [\"push.example.com\"]`",
            );
        }
    }

    /// Each device of a policy, one way to write it or the other.
    fn devices(&mut self, section: &Section<'_, '_>) -> Vec<DeviceSelector> {
        const EXAMPLE: &str = "devices = [\"a4:50:46:1f:00:2c\", \"group:kids\"]";
        self.list(section, "devices", EXAMPLE, |reader, item, unique| {
            let text = reader.a_text(item, "devices", EXAMPLE)?;
            let selector = reader.device_selector(text);
            let selector = reader.accept(item.span(), selector)?;
            let key = match &selector {
                DeviceSelector::Vendor(vendor) => DeviceSelector::Vendor(vendor.to_lowercase()),
                other => other.clone(),
            };
            if let Some(first) = unique.add(key, &item.span()) {
                let what = match selector {
                    DeviceSelector::Mac(mac) => Mac::new(mac).to_string(),
                    _ => quoted_excerpt(text),
                };
                reader.twice(&what, item.span(), first);
                return None;
            }
            Some(selector)
        })
    }

    pub(super) fn device_selector(&self, text: &str) -> Result<DeviceSelector, Complaint> {
        // The name of a `[[device]]` selects that device, even where it looks like another
        // selector.
        if self.device_names.contains(text) {
            return Ok(DeviceSelector::Name(text.to_owned()));
        }
        if value::is_meant_as_mac(text) {
            return value::device(text).map(DeviceSelector::Mac);
        }
        let label = |rest: &str, example: &str| value::label(rest, "devices", example);
        match text.split_once(':') {
            Some(("vendor", vendor)) => {
                label(vendor, "devices = [\"vendor:Xiaomi\"]").map(DeviceSelector::Vendor)
            }
            Some(("kind", kind)) => {
                let written = |kind: &str| format!("\"kind:{kind}\"");
                chosen(kind, "devices", &KINDS, &KINDS_ELSEWHERE, written).map(DeviceSelector::Kind)
            }
            Some(("group", group)) if self.groups.contains(group) => {
                Ok(DeviceSelector::Group(group.to_owned()))
            }
            Some(("group", group)) => {
                let group = label(group, "devices = [\"group:kids\"]")?;
                Err(self.unknown_group(&group))
            }
            _ => {
                let name = label(text, "devices = [\"Anna's phone\"]")?;
                Err(self.unknown_device(&name))
            }
        }
    }

    fn unknown_group(&self, group: &str) -> Complaint {
        let lower = group.to_lowercase();
        let help = match likeliest(&lower, self.groups.iter()) {
            Some(meant) => format!("write `\"group:{meant}\"`"),
            None => format!(
                "add `groups = [\"{}\"]` to the `[[device]]` of each",
                value::excerpt(group)
            ),
        };
        Complaint {
            message: format!("no device is in the group `{}`", value::excerpt(group)),
            label: "not a group of any `[[device]]`".to_owned(),
            help,
        }
    }

    fn unknown_device(&self, name: &str) -> Complaint {
        let lower = name.to_lowercase();
        let kind = KINDS.iter().map(|kind| kind.name());
        let elsewhere = name.split_once(':').and_then(|(key, rest)| {
            let key = key.to_lowercase();
            let (_, better) = SELECTORS_ELSEWHERE
                .iter()
                .find(|(other, _)| *other == key)?;
            Some(format!("{better}{}", rest.trim_start()))
        });
        let meant = if let Some(better) = elsewhere {
            Some(better)
        } else if self.groups.contains(name) {
            Some(format!("group:{name}"))
        } else if let Some(name) = likeliest(&lower, self.device_names.iter()) {
            Some(name.to_owned())
        } else {
            let mut kind = kind.filter(|kind| *kind == lower);
            kind.next().map(|kind| format!("kind:{kind}"))
        };
        let help = match meant {
            Some(meant) => format!("write `\"{}\"`", value::excerpt(&meant)),
            None => format!(
                "give the device this name, or write its MAC address, `\"group:…\"`, \
                 `\"vendor:…\"` or `\"kind:…\"`\n\n[[device]]\nmac = \
                 \"a4:50:46:1f:00:2c\"\nname = \"{}\"",
                value::excerpt(name)
            ),
        };
        Complaint {
            message: format!("no device has the name `{}`", value::excerpt(name)),
            label: "not the `name` of any `[[device]]`".to_owned(),
            help,
        }
    }

    fn domains(&mut self, section: &Section<'_, '_>) -> (Vec<String>, Vec<Range<usize>>) {
        const EXAMPLE: &str = "domains = [\"ads.example.com\"]";
        let domains = self.list(section, "domains", EXAMPLE, |reader, item, unique| {
            let domain = reader.text(item, "domains", EXAMPLE, value::domain)?;
            reader.once(item, domain, |domain| domain.clone(), unique)
        });
        domains.into_iter().unzip()
    }

    fn policy_lists(&mut self, section: &Section<'_, '_>) -> (Vec<PathBuf>, Vec<Range<usize>>) {
        const EXAMPLE: &str = "lists = [\"/etc/gateway-sensor/lists/ads.txt\"]";
        let lists = self.list(section, "lists", EXAMPLE, |reader, item, unique| {
            let file = reader.text(item, "lists", EXAMPLE, |text| {
                value::absolute_path(text, || format!("write for example `{EXAMPLE}`"))
            })?;
            reader.once(item, file, |file| file.clone(), unique)
        });
        lists.into_iter().unzip()
    }

    fn owners(&mut self, section: &Section<'_, '_>) -> (Vec<String>, Vec<Range<usize>>) {
        const EXAMPLE: &str = "owner = \"Xiaomi\"";
        let owners = self.one_or_list(section, "owner", EXAMPLE, |reader, item, unique| {
            let owner = reader.text(item, "owner", EXAMPLE, |text| {
                value::label(text, "owner", EXAMPLE)
            })?;
            reader.once(item, owner, |owner| owner.to_lowercase(), unique)
        });
        owners.into_iter().unzip()
    }

    fn categories(&mut self, section: &Section<'_, '_>) -> (Vec<Category>, Vec<Range<usize>>) {
        const EXAMPLE: &str = "category = [\"telemetry\", \"advertising\"]";
        let categories = self.one_or_list(section, "category", EXAMPLE, |reader, item, unique| {
            let category = reader.text(item, "category", EXAMPLE, |text| {
                let written = |name: &str| format!("\"{name}\"");
                chosen(
                    text,
                    "category",
                    Category::VARIANTS,
                    &CATEGORIES_ELSEWHERE,
                    written,
                )
            })?;
            reader.once(item, category, |category| *category, unique)
        });
        categories.into_iter().unzip()
    }

    fn remotes(&mut self, section: &Section<'_, '_>) -> (Vec<IpNet>, Vec<Range<usize>>) {
        const EXAMPLE: &str = "remotes = [\"203.0.113.0/24\", \"2001:db8::/32\"]";
        let remotes = self.list(section, "remotes", EXAMPLE, |reader, item, unique| {
            let prefix = reader.text(item, "remotes", EXAMPLE, value::remote)?;
            if let Some(first) = unique.add(prefix, &item.span()) {
                reader.twice(&prefix.to_string(), item.span(), first);
                return None;
            }
            if value::stays_on_link(&prefix) {
                reader.problems.push(Problem {
                    level: Level::Warning,
                    message: format!("`{prefix}` has no effect"),
                    span: Some(item.span()),
                    label: "group and link-local addresses".to_owned(),
                    related: None,
                    help: "remove it: no policy applies to what stays on the link, or devices \
                           would lose the gateway itself"
                        .to_owned(),
                });
            }
            Some((prefix, item.span()))
        });
        remotes.into_iter().unzip()
    }

    fn countries(&mut self, section: &Section<'_, '_>) -> (Vec<String>, Vec<Range<usize>>) {
        const EXAMPLE: &str = "country = [\"CN\", \"RU\"]";
        let countries = self.one_or_list(section, "country", EXAMPLE, |reader, item, unique| {
            let country = reader.text(item, "country", EXAMPLE, value::country)?;
            reader.once(item, country, |country| country.clone(), unique)
        });
        countries.into_iter().unzip()
    }

    fn network_selectors(
        &mut self,
        section: &Section<'_, '_>,
    ) -> (Vec<NetworkSelector>, Vec<Range<usize>>) {
        const EXAMPLE: &str = "network = [\"AS45102\", \"Alibaba\"]";
        let networks = self.one_or_list(section, "network", EXAMPLE, |reader, item, unique| {
            let network = match item.get_ref() {
                DeValue::Integer(_) => {
                    let number = integer(item.get_ref()).unwrap_or(i64::MAX);
                    reader.accept(item.span(), value::network_number(number))
                }
                _ => reader.text(item, "network", EXAMPLE, value::network),
            }?;
            let key = |network: &NetworkSelector| match network {
                NetworkSelector::Asn(number) => NetworkSelector::Asn(*number),
                NetworkSelector::Organisation(name) => {
                    NetworkSelector::Organisation(name.to_lowercase())
                }
            };
            reader.once(item, network, key, unique)
        });
        networks.into_iter().unzip()
    }

    fn ports(&mut self, section: &Section<'_, '_>) -> Vec<Ports> {
        const EXAMPLE: &str = "ports = [443, \"8000-8100\", \"udp/443\"]";
        let ports = self.list(section, "ports", EXAMPLE, |reader, item, unique| {
            let ports = match item.get_ref() {
                DeValue::Integer(_) => {
                    let number = integer(item.get_ref()).unwrap_or(i64::MAX);
                    reader.accept(item.span(), value::port_number(number))
                }
                _ => reader.text(item, "ports", EXAMPLE, value::ports),
            }?;
            if let Some(first) = unique.add(ports, &item.span()) {
                reader.twice("this range", item.span(), first);
                return None;
            }
            Some((ports, item.span()))
        });
        if let Some((_, span)) = ports.get(MAX_PORT_RANGES) {
            self.problems.push(Problem {
                level: Level::Error,
                message: format!(
                    "{} port ranges in one policy; it may have {MAX_PORT_RANGES}",
                    ports.len()
                ),
                span: Some(span.clone()),
                label: format!("range {}", MAX_PORT_RANGES + 1),
                related: None,
                help: "join neighbouring ports to ranges such as `\"8000-8100\"`, or move the \
                       rest to a second policy"
                    .to_owned(),
            });
        }
        ports.into_iter().map(|(ports, _)| ports).collect()
    }

    fn schedule(&mut self, section: &Section<'_, '_>) -> Vec<Span> {
        const EXAMPLE: &str = "schedule = [\"mon-fri 21:00-07:00\"]";
        let spans = self.list(section, "schedule", EXAMPLE, |reader, item, unique| {
            let span = reader.text(item, "schedule", EXAMPLE, weekly::span)?;
            reader.once(item, span, |span| *span, unique)
        });
        let weeks: Vec<Week> = spans.iter().map(|(span, _)| Week::of(&[*span])).collect();
        for (number, (_, place)) in spans.iter().enumerate() {
            // Of two that are the same minutes, the first stays.
            let whole = weeks.iter().enumerate().position(|(other, week)| {
                other != number
                    && week.has_all_of(&weeks[number])
                    && (other < number || *week != weeks[number])
            });
            if let Some((_, wider)) = whole.and_then(|other| spans.get(other)) {
                self.problems.push(Problem {
                    level: Level::Warning,
                    message: "a part of this schedule adds nothing".to_owned(),
                    span: Some(place.clone()),
                    label: "lies within another".to_owned(),
                    related: Some((wider.clone(), "all of it is here")),
                    help: "remove it, or correct its days and hours".to_owned(),
                });
            }
        }
        spans.into_iter().map(|(span, _)| span).collect()
    }
}

/// How many rules a policy becomes.
fn rules_of(section: &Section<'_, '_>) -> usize {
    let has = |key: &&str| section.get(key).is_some();
    let quic = usize::from(has(&"quic"));
    let encrypted_dns = 3 * usize::from(has(&"encrypted_dns"));
    let own = usize::from(NAMES.iter().chain(&ADDRESSES).any(has) || quic + encrypted_dns == 0);
    own + quic + encrypted_dns
}

/// The known name that a wrong one was likely meant to be, whatever its case.
fn likeliest<'k>(lower: &str, known: impl Iterator<Item = &'k String> + Clone) -> Option<&'k str> {
    /// Above: `Tom's phone` where `Anna's phone` is known.
    const LEAST_LIKENESS: f64 = 0.75;
    let same = known.clone().find(|name| name.to_lowercase() == lower);
    same.map(String::as_str)
        .or_else(|| closest_from(LEAST_LIKENESS, lower, known.map(String::as_str)))
}
