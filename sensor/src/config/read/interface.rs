//! `[[interface]]`.

use strum::VariantArray as _;

use crate::config::{
    HookChoice, Interface,
    problem::{Level, Problem},
    reader::{Reader, Section, Unique},
    value,
};

/// Words that other tools use for a hook.
const HOOKS_ELSEWHERE: [(&str, &str); 6] = [
    ("xdp", "xdp-native"),
    ("native", "xdp-native"),
    ("driver", "xdp-native"),
    ("generic", "xdp-generic"),
    ("skb", "xdp-generic"),
    ("tcx", "tc"),
];

const INTERFACE_EXAMPLE: &str =
    "name each interface of the LAN side, for example\n\n[[interface]]\nname = \"br-lan\"";

impl Reader {
    pub(super) fn interfaces(&mut self, root: &Section<'_, '_>) -> Vec<Interface> {
        let mut interfaces = Vec::new();
        let mut names = Unique::default();
        let sections = self.sections(root, "interface", "[[interface]]");
        for section in sections.iter().flatten() {
            self.know_keys(section, &["name", "hook", "ports", "local"]);
            let hook = self
                .choice(section, "hook", HookChoice::VARIANTS, &HOOKS_ELSEWHERE)
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
}
