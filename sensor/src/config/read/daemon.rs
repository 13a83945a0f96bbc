//! `[daemon]`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use crate::config::{
    Daemon,
    problem::{Level, Problem},
    reader::{Reader, Section},
    value,
};

const TICK: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(1);
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9617);

impl Reader {
    pub(super) fn daemon(&mut self, root: &Section<'_, '_>) -> Daemon {
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
}
