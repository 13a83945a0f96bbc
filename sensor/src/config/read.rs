//! TOML to [`Config`], in one pass that reports everything it finds.

mod policy;

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    hash::Hash,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::{Range, RangeInclusive},
    path::PathBuf,
    time::Duration,
};

use ipnet::Ipv6Net;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use sensor_ebpf::parse::Mac;

use super::{
    Config, Daemon, DeviceOverride, DeviceTable, FlowTable, HookChoice, Interface, Names,
    check::{shadowed, unreachable},
    problem::{Level, Problem},
    value::{self, Complaint, closest},
};
use crate::{
    catalog::{List, Parties, lists::Category},
    model::Kind,
    policy::DeviceSelector,
};

type Value<'i> = Spanned<DeValue<'i>>;

const FLOW_CAPACITY: RangeInclusive<u32> = 64..=1_048_574;
const DEVICE_CAPACITY: RangeInclusive<u32> = 1..=65_536;
const IDLE_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
const RETIRE_AFTER: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(400 * 24);
const TICK: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(1);

// 15 is no count in the kernel's word of a flow.
const SEGMENTS: RangeInclusive<u32> = 1..=14;
const HOLD: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(1);
const TOP: RangeInclusive<u32> = 1..=1_000;

/// The most `[[list]]`.
const MOST_LISTS: usize = 256;

const HOOKS: [(&str, HookChoice); 5] = [
    ("auto", HookChoice::Auto),
    ("xdp-native", HookChoice::XdpNative),
    ("xdp-generic", HookChoice::XdpGeneric),
    ("tc", HookChoice::Tc),
    ("clsact", HookChoice::Clsact),
];

/// Words that other tools use for a hook.
const HOOKS_ELSEWHERE: [(&str, &str); 6] = [
    ("xdp", "xdp-native"),
    ("native", "xdp-native"),
    ("driver", "xdp-native"),
    ("generic", "xdp-generic"),
    ("skb", "xdp-generic"),
    ("tcx", "tc"),
];

const CATEGORIES: [(&str, Category); 4] = [
    (Category::Telemetry.name(), Category::Telemetry),
    (Category::Advertising.name(), Category::Advertising),
    (Category::DnsBypass.name(), Category::DnsBypass),
    (Category::NeverBlock.name(), Category::NeverBlock),
];

/// Words that other lists use for a category.
const CATEGORIES_ELSEWHERE: [(&str, &str); 13] = [
    ("analytics", "telemetry"),
    ("privacy", "telemetry"),
    ("tracker", "telemetry"),
    ("trackers", "telemetry"),
    ("tracking", "telemetry"),
    ("ad", "advertising"),
    ("ads", "advertising"),
    ("adware", "advertising"),
    ("dns", "dns-bypass"),
    ("doh", "dns-bypass"),
    ("allow", "never-block"),
    ("allowlist", "never-block"),
    ("whitelist", "never-block"),
];

const KINDS: [(&str, Kind); 6] = [
    ("phone", Kind::Phone),
    ("tablet", Kind::Tablet),
    ("computer", Kind::Computer),
    ("tv", Kind::Tv),
    ("iot", Kind::Iot),
    ("router", Kind::Router),
];

/// Other words for a kind of device.
const KINDS_ELSEWHERE: [(&str, &str); 17] = [
    ("iphone", "phone"),
    ("mobile", "phone"),
    ("smartphone", "phone"),
    ("telephone", "phone"),
    ("ipad", "tablet"),
    ("desktop", "computer"),
    ("laptop", "computer"),
    ("notebook", "computer"),
    ("pc", "computer"),
    ("server", "computer"),
    ("smart-tv", "tv"),
    ("television", "tv"),
    ("camera", "iot"),
    ("printer", "iot"),
    ("access-point", "router"),
    ("ap", "router"),
    ("gateway", "router"),
];

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9617);

const INTERFACE_EXAMPLE: &str =
    "name each interface of the LAN side, for example\n\n[[interface]]\nname = \"br-lan\"";

/// The result of reading a text.
pub(super) struct Read {
    /// The configuration, as far as it can be read.
    pub(super) config: Config,
    /// Every problem found.
    pub(super) problems: Vec<Problem>,
    /// The places of values that are checked once all is read.
    pub(super) places: Places,
    /// Whether the pin directory and the runtime directory are certainly those that are meant, whatever else
    /// is wrong.
    pub(super) is_place_certain: bool,
}

impl Read {
    /// Whether no problem is an error.
    pub(super) fn may_be_used(&self) -> bool {
        self.problems.iter().all(|it| it.level != Level::Error)
    }
}

/// Where things stand, in the order of the configuration.
#[derive(Default)]
pub(super) struct Places {
    /// The files of `config.lists`.
    pub(super) lists: Vec<Range<usize>>,
    /// The files of `config.parties.networks`.
    pub(super) networks: Vec<Range<usize>>,
    /// Those of `config.policies`.
    pub(super) policies: Vec<PolicyPlaces>,
}

/// Where the parts of a policy stand, each list in the order of the policy's.
#[derive(Default)]
pub(super) struct PolicyPlaces {
    pub(super) name: Range<usize>,
    pub(super) domains: Vec<Range<usize>>,
    pub(super) lists: Vec<Range<usize>>,
    pub(super) owners: Vec<Range<usize>>,
    pub(super) categories: Vec<Range<usize>>,
    pub(super) remotes: Vec<Range<usize>>,
    pub(super) countries: Vec<Range<usize>>,
    pub(super) networks: Vec<Range<usize>>,
    /// All of them, or the name where there are none.
    pub(super) ports: Range<usize>,
    pub(super) encrypted_dns: Range<usize>,
    pub(super) quic: Range<usize>,
    pub(super) schedule: Range<usize>,
}

/// Reads a text to its end, whatever is wrong with it.
pub(super) fn read(text: &str) -> Read {
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader::default();
    let config = reader.config(document.get_ref());
    if !syntax_errors.is_empty() {
        // Values from a broken text are not checked, because their problems would not be the
        // writer's.
        reader.problems = syntax_errors
            .iter()
            .map(|error| syntax_problem(text, error))
            .collect();
        reader.places = Places::default();
    } else if !reader.has_errors() {
        // The check needs policies that were read whole: it cannot know how much a damaged one
        // covers.
        let overlaps = shadowed::problems(&config, &reader.places.policies);
        reader.problems.extend(overlaps);
        let vain = unreachable::problems(&config, &reader.places.policies);
        reader.problems.extend(vain);
    }
    let is_place_certain = [
        ("pin_directory", &reader.pin_directory),
        ("runtime_directory", &reader.runtime_directory),
    ]
    .into_iter()
    .all(|(key, place)| match place {
        Some(place) => is_whole(text, place, &syntax_errors),
        // In a broken text, a line may be lost or stand in another section.
        None => !has_line_with(text, key),
    });
    Read {
        config,
        problems: reader.problems,
        places: reader.places,
        is_place_certain,
    }
}

/// Whether no error is in the line in which something stands: a text without its second quote is read
/// to the end of the line.
fn is_whole(text: &str, place: &Range<usize>, errors: &[toml::de::Error]) -> bool {
    let start = text[..place.start].rfind('\n').unwrap_or(0);
    let end = text[place.end..].find('\n').map(|end| place.end + end);
    let end = end.unwrap_or(text.len());
    errors.iter().all(|error| {
        let span = error.span();
        span.is_some_and(|span| span.end < start || span.start > end)
    })
}

/// Whether a line that is no comment has a key.
fn has_line_with(text: &str, key: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start);
    lines.any(|line| !line.starts_with('#') && line.contains(key))
}

/// Devices, as a policy names them.
pub(super) fn devices_called(
    text: &str,
    devices: &[DeviceOverride],
) -> Result<DeviceSelector, Complaint> {
    let reader = Reader {
        device_names: devices
            .iter()
            .filter_map(|device| device.name.clone())
            .collect(),
        groups: devices
            .iter()
            .flat_map(|device| device.groups.iter().cloned())
            .collect(),
        ..Reader::default()
    };
    reader.device_selector(text)
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let (message, expected) = match error.message().split_once(", expected ") {
        Some((message, expected)) => (message, Some(expected)),
        None => (error.message(), None),
    };
    let span = error.span().unwrap_or(text.len()..text.len());
    let written = text.get(span.clone()).unwrap_or_default();
    let help = match (message, expected) {
        ("string values must be quoted", _) if !written.is_empty() => {
            format!("write `\"{}\"`", value::excerpt(written))
        }
        ("duplicate key", _) => {
            "keep one of the two; only `[[interface]]`, `[[policy]]`, `[[list]]` and `[[device]]` \
             may stand more than once"
                .to_owned()
        }
        (_, Some(expected)) if expected.starts_with('`') => format!("add {expected} here"),
        _ => "write `key = value`, texts in double quotes, lists in square brackets".to_owned(),
    };
    Problem {
        level: Level::Error,
        message: format!("this is not TOML: {}", value::excerpt(message)),
        span: Some(span),
        label: expected.map_or_else(String::new, |expected| format!("expected {expected}")),
        related: None,
        help,
    }
}

/// A table of the configuration with the name it has in messages.
struct Section<'a, 'i> {
    name: &'static str,
    table: &'a DeTable<'i>,
    span: Range<usize>,
}

impl<'a, 'i> Section<'a, 'i> {
    fn get(&self, key: &str) -> Option<&'a Value<'i>> {
        self.table.get(key)
    }
}

#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
    places: Places,
    /// Where the pin directory stands, if it can be read.
    pin_directory: Option<Range<usize>>,
    /// Where the runtime directory stands.
    runtime_directory: Option<Range<usize>>,
    /// The names by which a policy may select devices, also those of devices with a problem.
    device_names: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl Reader {
    fn has_errors(&self) -> bool {
        self.problems.iter().any(|p| p.level == Level::Error)
    }

    fn config(&mut self, document: &DeTable<'_>) -> Config {
        let root = Section {
            name: "the configuration",
            table: document,
            span: 0..0,
        };
        self.know_keys(
            &root,
            &[
                "interface",
                "flow_table",
                "device_table",
                "daemon",
                "policy",
                "names",
                "parties",
                "list",
                "device",
            ],
        );
        // Policies name devices.
        let devices = self.device_overrides(&root);
        let config = Config {
            interfaces: self.interfaces(&root),
            flow_table: self.flow_table(&root),
            device_table: self.device_table(&root),
            daemon: self.daemon(&root),
            policies: self.policies(&root),
            names: self.names(&root),
            parties: self.parties(&root),
            lists: self.lists(&root),
            devices,
        };
        self.need_databases(&root, &config);
        config
    }

    fn interfaces(&mut self, root: &Section<'_, '_>) -> Vec<Interface> {
        let mut interfaces = Vec::new();
        let mut names = Unique::default();
        let sections = self.sections(root, "interface", "[[interface]]");
        for section in sections.iter().flatten() {
            self.know_keys(section, &["name", "hook", "ports", "local"]);
            let hook = self
                .choice(section, "hook", &HOOKS, &HOOKS_ELSEWHERE)
                .unwrap_or_default();
            let ports = self.boolean(Some(section), "ports", false);
            let local = self.boolean(Some(section), "local", false);
            self.fit_to_ports(section, hook, ports, local);
            let Some((name, span)) =
                self.required_text(section, "name", "name = \"br-lan\"", value::interface_name)
            else {
                continue;
            };
            if let Some(first) = names.add(name.clone(), &span) {
                self.problems.push(Problem {
                    level: Level::Error,
                    message: format!("interface `{name}` is configured twice"),
                    span: Some(span),
                    label: "again".to_owned(),
                    related: Some((first, "first here")),
                    help: "remove one of the two".to_owned(),
                });
                continue;
            }
            interfaces.push(Interface {
                name,
                hook,
                ports,
                local,
            });
        }
        if sections.is_some_and(|sections| sections.is_empty()) {
            self.problems.push(Problem {
                level: Level::Error,
                message: "no interface is configured".to_owned(),
                span: None,
                label: String::new(),
                related: None,
                help: INTERFACE_EXAMPLE.to_owned(),
            });
        }
        interfaces
    }

    /// Complains of keys that contradict `ports`.
    fn fit_to_ports(
        &mut self,
        section: &Section<'_, '_>,
        hook: HookChoice,
        ports: bool,
        local: bool,
    ) {
        let mut complain = |key: &str, message: &str, label: &str, help: &str| {
            self.problems.push(Problem {
                level: Level::Error,
                message: message.to_owned(),
                span: section.get(key).map(toml::Spanned::span),
                label: label.to_owned(),
                related: None,
                help: help.to_owned(),
            });
        };
        if ports && matches!(hook, HookChoice::XdpNative | HookChoice::XdpGeneric) {
            complain(
                "hook",
                "a bridge's ports are watched at TC",
                "XDP does not see which frames stay in the bridge",
                "remove `hook`, or write `hook = \"tc\"`",
            );
        }
        if local && !ports {
            complain(
                "local",
                "`local` says something about a bridge's ports, and they are not watched",
                "without `ports = true`",
                "add `ports = true`, or remove `local`",
            );
        }
    }

    fn flow_table(&mut self, root: &Section<'_, '_>) -> FlowTable {
        let section = self.section(root, "flow_table", "[flow_table]");
        let section = section.as_ref();
        self.know_keys_of(section, &["capacity", "idle_after"]);
        FlowTable {
            capacity: self.number(section, "capacity", FLOW_CAPACITY, 65_536),
            idle_after: self.duration(section, "idle_after", IDLE_AFTER, Duration::from_mins(2)),
        }
    }

    fn device_table(&mut self, root: &Section<'_, '_>) -> DeviceTable {
        let section = self.section(root, "device_table", "[device_table]");
        let section = section.as_ref();
        self.know_keys_of(section, &["capacity", "retire_after"]);
        let week = Duration::from_hours(7 * 24);
        DeviceTable {
            capacity: self.number(section, "capacity", DEVICE_CAPACITY, 1_024),
            retire_after: self.duration(section, "retire_after", RETIRE_AFTER, week),
        }
    }

    fn daemon(&mut self, root: &Section<'_, '_>) -> Daemon {
        let section = self.section(root, "daemon", "[daemon]");
        let section = section.as_ref();
        self.know_keys_of(
            section,
            &[
                "tick",
                "listen",
                "hosts",
                "pin_directory",
                "keep_running",
                "state_directory",
                "runtime_directory",
                "time_zone",
            ],
        );
        Daemon {
            tick: self.duration(section, "tick", TICK, Duration::from_secs(1)),
            listen: self.listen(section),
            hosts: section.map_or_else(Vec::new, |section| self.hosts(section)),
            pin_directory: self.pin_directory(section),
            keep_running: self.boolean(section, "keep_running", true),
            state_directory: self.state_directory(section),
            runtime_directory: self.runtime_directory(section),
            time_zone: self.time_zone(section),
        }
    }

    fn listen(&mut self, section: Option<&Section<'_, '_>>) -> SocketAddr {
        let example = format!("listen = \"{DEFAULT_LISTEN}\"");
        let Some((listen, span)) = self.optional_text(section, "listen", &example, |text| {
            value::listen(text, DEFAULT_LISTEN)
        }) else {
            return DEFAULT_LISTEN;
        };
        if !listen.ip().is_loopback() {
            self.problems.push(Problem {
                level: Level::Warning,
                message: "the metrics will be served beyond this machine".to_owned(),
                span: Some(span),
                label: "not a loopback address".to_owned(),
                related: None,
                help: format!(
                    "whoever reaches this address can read which devices are in the house and \
                     when they are awake; keep it to this machine with `{example}`, or let the \
                     firewall allow the scraper alone"
                ),
            });
        }
        listen
    }

    fn hosts(&mut self, section: &Section<'_, '_>) -> Vec<String> {
        const EXAMPLE: &str = "hosts = [\"gateway.lan\"]";
        let hosts = self.items(section, "hosts", EXAMPLE, |reader, item, unique| {
            let host = reader.text(item, "hosts", EXAMPLE, value::host)?;
            if let Some(first) = unique.add(host.clone(), &item.span()) {
                reader.twice("this name", item.span(), first);
                return None;
            }
            Some(host)
        });
        hosts.unwrap_or_default()
    }

    fn pin_directory(&mut self, section: Option<&Section<'_, '_>>) -> PathBuf {
        const DEFAULT: &str = "/sys/fs/bpf/gateway-sensor";
        let example = format!("pin_directory = \"{DEFAULT}\"");
        let directory = self.optional_text(section, "pin_directory", &example, |text| {
            value::absolute_path(text, || {
                format!("write a folder on a bpffs, for example `{example}`")
            })
        });
        let (path, place) = directory.unzip();
        self.pin_directory = place;
        path.unwrap_or_else(|| PathBuf::from(DEFAULT))
    }

    fn state_directory(&mut self, section: Option<&Section<'_, '_>>) -> PathBuf {
        const DEFAULT: &str = "/var/lib/gateway-sensor";
        let example = format!("state_directory = \"{DEFAULT}\"");
        let directory = self.optional_text(section, "state_directory", &example, |text| {
            value::absolute_path(text, || format!("write a folder, for example `{example}`"))
        });
        directory.map_or_else(|| PathBuf::from(DEFAULT), |(path, _)| path)
    }

    fn runtime_directory(&mut self, section: Option<&Section<'_, '_>>) -> PathBuf {
        const DEFAULT: &str = "/run/gateway-sensor";
        let example = format!("runtime_directory = \"{DEFAULT}\"");
        let directory = self.optional_text(section, "runtime_directory", &example, |text| {
            value::absolute_path(text, || format!("write a folder, for example `{example}`"))
        });
        let (path, place) = directory.unzip();
        self.runtime_directory = place;
        path.unwrap_or_else(|| PathBuf::from(DEFAULT))
    }

    fn time_zone(&mut self, section: Option<&Section<'_, '_>>) -> Option<String> {
        const EXAMPLE: &str = "time_zone = \"Europe/Berlin\"";
        let zone = self.optional_text(section, "time_zone", EXAMPLE, value::time_zone);
        zone.map(|(zone, _)| zone)
    }

    fn names(&mut self, root: &Section<'_, '_>) -> Names {
        let section = self.section(root, "names", "[names]");
        let section = section.as_ref();
        self.know_keys_of(section, &["segments", "hold"]);
        let segments = self.number(section, "segments", SEGMENTS, 4);
        Names {
            segments: u8::try_from(segments).unwrap_or(u8::MAX),
            hold: self.duration(section, "hold", HOLD, Duration::from_millis(20)),
        }
    }

    fn parties(&mut self, root: &Section<'_, '_>) -> Parties {
        let section = self.section(root, "parties", "[parties]");
        let section = section.as_ref();
        let keys = ["top", "builtin_lists", "resolvers", "networks", "nat64"];
        self.know_keys_of(section, &keys);
        Parties {
            top: self.number(section, "top", TOP, 20),
            builtin_lists: self.boolean(section, "builtin_lists", true),
            resolvers: section.map_or_else(Vec::new, |section| self.resolvers(section)),
            networks: section.map_or_else(Vec::new, |section| self.networks(section)),
            nat64: section.map_or_else(Vec::new, |section| self.nat64(section)),
        }
    }

    fn resolvers(&mut self, section: &Section<'_, '_>) -> Vec<IpAddr> {
        const EXAMPLE: &str = "resolvers = [\"192.168.1.53\"]";
        let resolvers = self.items(section, "resolvers", EXAMPLE, |reader, item, unique| {
            let resolver = reader.text(item, "resolvers", EXAMPLE, value::resolver)?;
            if let Some(first) = unique.add(resolver, &item.span()) {
                reader.twice("this resolver", item.span(), first);
                return None;
            }
            Some(resolver)
        });
        resolvers.unwrap_or_default()
    }

    fn nat64(&mut self, section: &Section<'_, '_>) -> Vec<Ipv6Net> {
        const EXAMPLE: &str = "nat64 = [\"2001:db8:64::/96\"]";
        let prefixes = self.items(section, "nat64", EXAMPLE, |reader, item, unique| {
            let prefix = reader.text(item, "nat64", EXAMPLE, value::nat64)?;
            if let Some(first) = unique.add(prefix, &item.span()) {
                reader.twice(&prefix.to_string(), item.span(), first);
                return None;
            }
            Some(prefix)
        });
        prefixes.unwrap_or_default()
    }

    fn networks(&mut self, section: &Section<'_, '_>) -> Vec<PathBuf> {
        const EXAMPLE: &str = "networks = [\"/usr/share/GeoIP/GeoLite2-Country.mmdb\"]";
        let files = self.items(section, "networks", EXAMPLE, |reader, item, unique| {
            let file = reader.text(item, "networks", EXAMPLE, |text| {
                value::absolute_path(text, || format!("write for example `{EXAMPLE}`"))
            })?;
            if let Some(first) = unique.add(file.clone(), &item.span()) {
                reader.twice("this file", item.span(), first);
                return None;
            }
            Some((file, item.span()))
        });
        let (files, places) = files.unwrap_or_default().into_iter().unzip();
        self.places.networks = places;
        files
    }

    /// Countries and networks are known from databases alone.
    fn need_databases(&mut self, root: &Section<'_, '_>, config: &Config) {
        let parties = root.get("parties").map(Value::get_ref);
        let written = match parties.and_then(DeValue::as_table) {
            Some(table) => table.get("networks"),
            None => None,
        };
        // Any other problem with them is reported already.
        let are_none = written.is_none_or(|value| {
            let items = value.get_ref().as_array();
            items.is_some_and(|items| items.is_empty())
        });
        if !are_none {
            return;
        }
        for (policy, places) in config.policies.iter().zip(&self.places.policies) {
            let first = places.countries.first().or(places.networks.first());
            let Some(place) = first else {
                continue;
            };
            self.problems.push(Problem {
                level: Level::Error,
                message: format!(
                    "policy `{}` is about a country or a network, and no database tells them",
                    policy.name
                ),
                span: Some(place.clone()),
                label: "needs a database".to_owned(),
                related: None,
                help: "name one in `[parties]`, for example\n\n[parties]\nnetworks = \
                       [\"/usr/share/GeoIP/GeoLite2-Country.mmdb\", \
                       \"/usr/share/GeoIP/GeoLite2-ASN.mmdb\"]"
                    .to_owned(),
            });
        }
    }

    fn lists(&mut self, root: &Section<'_, '_>) -> Vec<List> {
        let mut lists = Vec::new();
        let mut files = Unique::default();
        let sections = self.sections(root, "list", "[[list]]").unwrap_or_default();
        if let Some(first_too_many) = sections.get(MOST_LISTS) {
            self.problems.push(Problem {
                level: Level::Error,
                message: format!(
                    "{} lists are configured; at most {MOST_LISTS} can be used",
                    sections.len()
                ),
                span: Some(first_too_many.span.clone()),
                label: format!("list {}", MOST_LISTS + 1),
                related: None,
                help: "put the names of lists with the same category and owner into one file"
                    .to_owned(),
            });
        }
        for section in &sections {
            const EXAMPLE: &str = "file = \"/etc/gateway-sensor/lists/mine.txt\"";
            self.know_keys(section, &["file", "category", "owner"]);
            let category = self.choice(section, "category", &CATEGORIES, &CATEGORIES_ELSEWHERE);
            let owner = self.label(section, "owner", "owner = \"Xiaomi\"");
            let Some((file, span)) = self.required_text(section, "file", EXAMPLE, |text| {
                value::absolute_path(text, || format!("write for example `{EXAMPLE}`"))
            }) else {
                continue;
            };
            if let Some(first) = files.add(file.clone(), &span) {
                self.problems.push(Problem {
                    level: Level::Error,
                    message: "two lists are the same file".to_owned(),
                    span: Some(span),
                    label: "again".to_owned(),
                    related: Some((first, "first here")),
                    help: "remove one of the two; lines `# category: …` and `# owner: …` in the \
                           file divide it"
                        .to_owned(),
                });
                continue;
            }
            self.places.lists.push(span);
            lists.push(List {
                file,
                category,
                owner,
            });
        }
        lists
    }

    fn device_overrides(&mut self, root: &Section<'_, '_>) -> Vec<DeviceOverride> {
        let mut devices = Vec::new();
        let mut macs = Unique::default();
        let sections = self
            .sections(root, "device", "[[device]]")
            .unwrap_or_default();
        for section in &sections {
            self.know_keys(section, &["mac", "name", "kind", "vendor", "groups"]);
            let name = self.label(section, "name", "name = \"Anna's phone\"");
            let kind = self.choice(section, "kind", &KINDS, &KINDS_ELSEWHERE);
            let vendor = self.label(section, "vendor", "vendor = \"Xiaomi\"");
            let groups = self.groups(section);
            self.device_names.extend(name.clone());
            self.groups.extend(groups.iter().cloned());
            let Some((mac, span)) =
                self.required_text(section, "mac", "mac = \"a4:50:46:1f:00:2c\"", value::device)
            else {
                continue;
            };
            if let Some(first) = macs.add(mac, &span) {
                self.problems.push(Problem {
                    level: Level::Error,
                    message: format!("device `{}` is described twice", Mac::new(mac)),
                    span: Some(span),
                    label: "again".to_owned(),
                    related: Some((first, "first here")),
                    help: "put what is known of it into one `[[device]]`".to_owned(),
                });
                continue;
            }
            let says_nothing = ["name", "kind", "vendor", "groups"]
                .iter()
                .all(|key| section.get(key).is_none());
            if says_nothing {
                self.problems.push(Problem {
                    level: Level::Warning,
                    message: format!("nothing is said of device `{}`", Mac::new(mac)),
                    span: Some(span),
                    label: "has no `name`, no `kind`, no `vendor` and no `groups`".to_owned(),
                    related: None,
                    help: "say what it is, for example `name = \"Anna's phone\"`, or remove it"
                        .to_owned(),
                });
            }
            devices.push(DeviceOverride {
                mac,
                name,
                kind,
                vendor,
                groups,
            });
        }
        devices
    }

    fn groups(&mut self, section: &Section<'_, '_>) -> Vec<String> {
        const EXAMPLE: &str = "groups = [\"kids\"]";
        let groups = self.items(section, "groups", EXAMPLE, |reader, item, unique| {
            let group = reader.text(item, "groups", EXAMPLE, |text| {
                value::label(text, "groups", EXAMPLE)
            })?;
            if let Some(first) = unique.add(group.clone(), &item.span()) {
                reader.twice(&quoted_excerpt(&group), item.span(), first);
                return None;
            }
            Some(group)
        });
        groups.unwrap_or_default()
    }

    /// A text that people read.
    fn label(&mut self, section: &Section<'_, '_>, key: &str, example: &str) -> Option<String> {
        let label = self.optional_text(Some(section), key, example, |text| {
            value::label(text, key, example)
        });
        label.map(|(text, _)| text)
    }

    fn twice(&mut self, what: &str, span: Range<usize>, first: Range<usize>) {
        self.problems.push(Problem {
            level: Level::Warning,
            message: format!("{what} stands twice in this list"),
            span: Some(span),
            label: "again".to_owned(),
            related: Some((first, "first here")),
            help: "remove one of the two".to_owned(),
        });
    }

    /// The items of a policy's list that could be read. A list that is written and empty is
    /// refused: it reads as "none" and would mean "all".
    fn list<'i, K, T>(
        &mut self,
        section: &Section<'_, 'i>,
        key: &str,
        example: &str,
        item: impl FnMut(&mut Self, &Value<'i>, &mut Unique<K>) -> Option<T>,
    ) -> Vec<T>
    where
        Unique<K>: Default,
    {
        if let Some(value) = section.get(key)
            && value
                .get_ref()
                .as_array()
                .is_some_and(|items| items.is_empty())
        {
            self.problems.push(Problem {
                level: Level::Error,
                message: format!("`{key}` is an empty list"),
                span: Some(value.span()),
                label: "none, or all?".to_owned(),
                related: None,
                help: format!(
                    "leave `{key}` out where all are meant; remove the policy where none is"
                ),
            });
        }
        self.items(section, key, example, item).unwrap_or_default()
    }

    /// The items of a policy's list, or the one that stands there without brackets.
    fn one_or_list<'i, K, T>(
        &mut self,
        section: &Section<'_, 'i>,
        key: &str,
        example: &str,
        mut item: impl FnMut(&mut Self, &Value<'i>, &mut Unique<K>) -> Option<T>,
    ) -> Vec<T>
    where
        Unique<K>: Default,
    {
        match section.get(key) {
            Some(value) if !value.get_ref().is_array() => {
                let one = item(self, value, &mut Unique::default());
                one.into_iter().collect()
            }
            _ => self.list(section, key, example, item),
        }
    }

    /// The items of a list that could be read; `None` where there is no list.
    fn items<'i, K, T>(
        &mut self,
        section: &Section<'_, 'i>,
        key: &str,
        example: &str,
        mut item: impl FnMut(&mut Self, &Value<'i>, &mut Unique<K>) -> Option<T>,
    ) -> Option<Vec<T>>
    where
        Unique<K>: Default,
    {
        let value = section.get(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(value, key, "a list", example);
            return None;
        };
        let mut unique = Unique::default();
        let read = items
            .iter()
            .filter_map(|value| item(self, value, &mut unique));
        Some(read.collect())
    }

    /// Reports keys that mean nothing.
    fn know_keys(&mut self, section: &Section<'_, '_>, known: &[&str]) {
        for key in section.table.keys() {
            let written: &str = key.get_ref();
            if known.contains(&written) {
                continue;
            }
            let help = match closest(written, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("it takes {}", quoted(known.iter().copied())),
            };
            self.problems.push(Problem {
                level: Level::Error,
                message: format!(
                    "`{}` is not a key of {}",
                    value::excerpt(written),
                    section.name
                ),
                span: Some(key.span()),
                label: "unknown key".to_owned(),
                related: None,
                help,
            });
        }
    }

    fn know_keys_of(&mut self, section: Option<&Section<'_, '_>>, known: &[&str]) {
        if let Some(section) = section {
            self.know_keys(section, known);
        }
    }

    /// A table that may stand once.
    fn section<'a, 'i>(
        &mut self,
        root: &Section<'a, 'i>,
        key: &str,
        name: &'static str,
    ) -> Option<Section<'a, 'i>> {
        let value = root.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section {
                name,
                table,
                span: value.span(),
            }),
            other => {
                let label = if is_list_of_tables(other) {
                    "two brackets".to_owned()
                } else {
                    what_it_is(other)
                };
                self.problems.push(Problem {
                    level: Level::Error,
                    message: format!("`{key}` is to be one table"),
                    span: Some(value.span()),
                    label,
                    related: None,
                    help: format!("write `{name}` in a line of its own, once, and its keys below"),
                });
                None
            }
        }
    }

    /// The tables of a list of tables; `None` where something else stands there.
    fn sections<'a, 'i>(
        &mut self,
        root: &Section<'a, 'i>,
        key: &str,
        name: &'static str,
    ) -> Option<Vec<Section<'a, 'i>>> {
        let Some(value) = root.get(key) else {
            return Some(Vec::new());
        };
        let mut problem = |span: Range<usize>, label: String| {
            self.problems.push(Problem {
                level: Level::Error,
                message: format!("`{key}` is to be a list of tables"),
                span: Some(span),
                label,
                related: None,
                help: format!(
                    "write `{name}` with two brackets in a line of its own, and its keys below"
                ),
            });
        };
        match value.get_ref() {
            DeValue::Array(items) => {
                let mut sections = Vec::new();
                for item in items.iter() {
                    match item.get_ref() {
                        DeValue::Table(table) => sections.push(Section {
                            name,
                            table,
                            span: item.span(),
                        }),
                        other => {
                            problem(item.span(), what_it_is(other));
                            return None;
                        }
                    }
                }
                Some(sections)
            }
            DeValue::Table(_) => {
                problem(value.span(), "one table".to_owned());
                None
            }
            other => {
                problem(value.span(), what_it_is(other));
                None
            }
        }
    }

    fn required_text<T>(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        example: &str,
        check: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<(T, Range<usize>)> {
        if section.get(key).is_none() {
            self.problems.push(Problem {
                level: Level::Error,
                message: format!("this {} has no `{key}`", section.name),
                span: Some(section.span.clone()),
                label: format!("`{key}` is missing"),
                related: None,
                help: format!("add a line such as `{example}`"),
            });
            return None;
        }
        self.optional_text(Some(section), key, example, check)
    }

    fn optional_text<T>(
        &mut self,
        section: Option<&Section<'_, '_>>,
        key: &str,
        example: &str,
        check: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<(T, Range<usize>)> {
        let value = section?.get(key)?;
        Some((self.text(value, key, example, check)?, value.span()))
    }

    fn a_text<'v>(&mut self, value: &'v Value<'_>, key: &str, example: &str) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(value, key, "a text in quotes", example);
        }
        text
    }

    fn text<T>(
        &mut self,
        value: &Value<'_>,
        key: &str,
        example: &str,
        check: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        let text = self.a_text(value, key, example)?;
        self.accept(value.span(), check(text))
    }

    /// The value, or its complaint reported.
    fn accept<T>(&mut self, span: Range<usize>, result: Result<T, Complaint>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.problems.push(Problem {
                    level: Level::Error,
                    message: complaint.message,
                    span: Some(span),
                    label: complaint.label,
                    related: None,
                    help: complaint.help,
                });
                None
            }
        }
    }

    fn wrong_type(&mut self, value: &Value<'_>, key: &str, wanted: &str, example: &str) {
        self.problems.push(Problem {
            level: Level::Error,
            message: format!("`{key}` takes {wanted}"),
            span: Some(value.span()),
            label: what_it_is(value.get_ref()),
            related: None,
            help: format!("write for example `{example}`"),
        });
    }

    fn choice<T: Copy>(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        choices: &[(&str, T)],
        elsewhere: &[(&str, &str)],
    ) -> Option<T> {
        let example = format!("{key} = \"{}\"", choices.first()?.0);
        let written = |name: &str| format!("{key} = \"{name}\"");
        let chosen = self.optional_text(Some(section), key, &example, |text| {
            chosen(text, key, choices, elsewhere, written)
        });
        chosen.map(|(choice, _)| choice)
    }

    fn number(
        &mut self,
        section: Option<&Section<'_, '_>>,
        key: &str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        let Some(value) = section.and_then(|section| section.get(key)) else {
            return default;
        };
        let example = format!("{key} = {default}");
        if !value.get_ref().is_integer() {
            self.wrong_type(value, key, "a whole number", &example);
            return default;
        }
        let number = integer(value.get_ref()).and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                let (least, most) = range.into_inner();
                self.out_of_range(value, key, &least.to_string(), &most.to_string(), &example);
                default
            }
        }
    }

    fn duration(
        &mut self,
        section: Option<&Section<'_, '_>>,
        key: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(value) = section.and_then(|section| section.get(key)) else {
            return default;
        };
        let example = format!("{key} = \"{}\"", value::duration_text(default));
        if value.get_ref().is_integer() {
            let number = integer(value.get_ref()).unwrap_or(i64::MAX);
            let mut without_unit = value::duration(&number.to_string());
            if *range.end() <= Duration::from_secs(1)
                && let Err(complaint) = &mut without_unit
            {
                complaint.help = format!("write `\"{number}ms\"` for milliseconds");
            }
            self.accept(value.span(), without_unit);
            return default;
        }
        let Some(duration) = self.text(value, key, &example, value::duration) else {
            return default;
        };
        if range.contains(&duration) {
            return duration;
        }
        let least = value::duration_text(*range.start());
        let most = value::duration_text(*range.end());
        self.out_of_range(value, key, &least, &most, &example);
        default
    }

    fn boolean(&mut self, section: Option<&Section<'_, '_>>, key: &str, default: bool) -> bool {
        let Some(value) = section.and_then(|section| section.get(key)) else {
            return default;
        };
        if let Some(boolean) = value.get_ref().as_bool() {
            return boolean;
        }
        let example = format!("{key} = {default}");
        self.wrong_type(value, key, "`true` or `false`", &example);
        default
    }

    fn out_of_range(
        &mut self,
        value: &Value<'_>,
        key: &str,
        least: &str,
        most: &str,
        example: &str,
    ) {
        self.problems.push(Problem {
            level: Level::Error,
            message: format!("`{key}` is out of range"),
            span: Some(value.span()),
            label: format!("may be {least} to {most}"),
            related: None,
            help: format!("write for example `{example}`, the default"),
        });
    }
}

/// Where a value stood first.
struct Unique<K>(HashMap<K, Range<usize>>);

impl<K> Default for Unique<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Unique<K> {
    /// Notes the place of a value; the first place where it had one.
    fn add(&mut self, value: K, span: &Range<usize>) -> Option<Range<usize>> {
        match self.0.entry(value) {
            Entry::Occupied(first) => Some(first.get().clone()),
            Entry::Vacant(place) => {
                place.insert(span.clone());
                None
            }
        }
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn is_list_of_tables(value: &DeValue<'_>) -> bool {
    value
        .as_array()
        .is_some_and(|items| !items.is_empty() && items.iter().all(|i| i.get_ref().is_table()))
}

fn what_it_is(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "this is a text",
        DeValue::Integer(_) => "this is a whole number",
        DeValue::Float(_) => "this is a number with a point",
        DeValue::Boolean(_) => "this is `true` or `false`",
        DeValue::Datetime(_) => "this is a date or a time",
        DeValue::Array(_) => "this is a list",
        DeValue::Table(_) => "this is a table",
    }
    .to_owned()
}

/// The choice with the name that is written; `written` is how a name is to be written there.
fn chosen<T: Copy>(
    text: &str,
    key: &str,
    choices: &[(&str, T)],
    elsewhere: &[(&str, &str)],
    written: impl Fn(&str) -> String,
) -> Result<T, Complaint> {
    if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*choice);
    }
    let names = || choices.iter().map(|(name, _)| *name);
    let lower = text.to_ascii_lowercase();
    let meant = elsewhere
        .iter()
        .find(|(word, _)| *word == lower)
        .map(|(_, name)| *name)
        .or_else(|| closest(&lower, names()));
    let help = match meant {
        Some(meant) => format!("write `{}`", written(meant)),
        None => {
            let first = names().next().unwrap_or_default();
            format!("write for example `{}`", written(first))
        }
    };
    Err(Complaint {
        message: format!("`{}` is not a value of `{key}`", value::excerpt(text)),
        label: format!("not one of {}", quoted(names())),
        help,
    })
}

fn quoted<'k>(words: impl Iterator<Item = &'k str>) -> String {
    let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

fn quoted_excerpt(text: &str) -> String {
    format!("`{}`", value::excerpt(text))
}
