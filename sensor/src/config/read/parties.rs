//! `[parties]`.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf};

use ipnet::Ipv6Net;
use toml::de::DeValue;

use crate::{
    catalog::Parties,
    config::{
        Config,
        problem::{Level, Problem},
        reader::{Reader, Section, Value},
        value,
    },
};

const TOP: RangeInclusive<u32> = 1..=1_000;

impl Reader {
    pub(super) fn parties(&mut self, root: &Section<'_, '_>) -> Parties {
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
    pub(super) fn need_databases(&mut self, root: &Section<'_, '_>, config: &Config) {
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
}
