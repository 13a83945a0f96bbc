//! `[[device]]`.

use sensor_ebpf::parse::Mac;

use crate::{
    config::{
        DeviceOverride,
        problem::{Level, Problem},
        reader::{Reader, Section, Unique, quoted_excerpt},
        value,
    },
    model::Kind,
};

/// The kinds that an owner may say: all that are known.
pub(super) const KINDS: [Kind; 6] = [
    Kind::Phone,
    Kind::Tablet,
    Kind::Computer,
    Kind::Tv,
    Kind::Iot,
    Kind::Router,
];

/// Other words for a kind of device.
pub(super) const KINDS_ELSEWHERE: [(&str, &str); 17] = [
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

impl Reader {
    pub(super) fn device_overrides(&mut self, root: &Section<'_, '_>) -> Vec<DeviceOverride> {
        let mut devices = Vec::new();
        let mut macs = Unique::default();
        let sections = self
            .sections(root, "device", "[[device]]")
            .unwrap_or_default();
        for section in &sections {
            self.know_keys(
                section,
                &[
                    "mac",
                    "name",
                    "kind",
                    "vendor",
                    "groups",
                    "history",
                    "show_sites",
                ],
            );
            let name = self.label(section, "name", "name = \"Anna's phone\"");
            let kind = self.choice(section, "kind", &KINDS, &KINDS_ELSEWHERE);
            let vendor = self.label(section, "vendor", "vendor = \"Xiaomi\"");
            let groups = self.groups(section);
            let history = self.boolean(Some(section), "history", true);
            let show_sites = self.boolean(Some(section), "show_sites", false);
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
            let says_nothing = ["name", "kind", "vendor", "groups", "history", "show_sites"]
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
                history,
                show_sites,
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
}
