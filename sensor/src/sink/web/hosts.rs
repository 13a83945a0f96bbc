//! Which names requests may be for.
//!
//! A web site can have its own name resolve to an address of this machine; for the browser, the sensor's
//! answer is then the site's own (DNS rebinding). The `Host` of such a request is the site's name, and a
//! page cannot choose another one.

use std::{fs, net::IpAddr};

use axum::http::{HeaderMap, Uri, header};
use rustix::system::uname;

/// The names that this machine answers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Those of the configuration, in lower case.
    configured: Vec<String>,
    /// The names with a domain that the machine's own file of names has, in lower case.
    listed: Vec<String>,
}

impl Hosts {
    /// Those of the configuration and of this machine.
    pub fn new(configured: Vec<String>) -> Self {
        let file = fs::read_to_string("/etc/hosts").unwrap_or_default();
        Self::of(configured, &file)
    }

    /// Of a text in the format of hosts(5).
    fn of(configured: Vec<String>, file: &str) -> Self {
        let lines = file.lines().map(|line| line.split('#').next());
        let names = lines.flat_map(|line| line.unwrap_or_default().split_whitespace().skip(1));
        Self {
            configured,
            listed: names
                .filter(|name| name.contains('.'))
                .map(str::to_ascii_lowercase)
                .collect(),
        }
    }

    /// Whether a request is for this machine. One without a host is: no browser sends it.
    pub(super) fn accept(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let node = uname().nodename().to_string_lossy().to_ascii_lowercase();
        let mut hosts = headers.get_all(header::HOST).iter();
        // RFC 9112, 3.2.2: the target's host stands above the header's.
        uri.host().is_none_or(|host| self.is_ours(host, &node))
            && hosts.all(|host| {
                let host = host.to_str().ok().and_then(without_port);
                host.is_some_and(|host| self.is_ours(host, &node))
            })
    }

    /// Whether a host is an address, or a name of this machine, which calls itself `node`.
    fn is_ours(&self, host: &str, node: &str) -> bool {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if bare.unwrap_or(host).parse::<IpAddr>().is_ok() {
            return true;
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let label = |name: &str| name.split('.').next().map(str::to_owned);
        let is_listed = || self.listed.contains(&host) && label(&host) == label(node);
        host == "localhost"
            || self.configured.contains(&host)
            || (!host.is_empty() && (host == node || Some(&host) == label(node).as_ref()))
            || is_listed()
    }
}

/// The host of a `Host` header; `None` where the text behind the colon is no port.
fn without_port(header: &str) -> Option<&str> {
    // The colons of an IPv6 address stand in brackets.
    match header.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => port
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(host),
        _ => Some(header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_name_of_this_machine() {
        let file = "127.0.0.1 localhost\n127.0.1.1\tGate.home.example gate # gate.comment\n\
                    192.0.2.9 other.home.example\n";
        let hosts = Hosts::of(vec!["sensor.lan".to_owned()], file);
        let is_ours =
            |host: &str| without_port(host).is_some_and(|host| hosts.is_ours(host, "gate"));
        for ours in [
            "127.0.0.1",
            "192.168.1.1:9617",
            "[::1]",
            "[fe80::1]:9617",
            "localhost",
            "LOCALHOST.:80",
            "gate",
            "gate:9617",
            "gate.home.example",
            "sensor.lan:9617",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for strange in [
            "",
            ":9617",
            "evil.example",
            "evil.example:9617",
            "gate.evil.example",
            "gate.comment",
            "other.home.example",
            "sensor.lan.evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "gate:evil",
            "[::1",
        ] {
            assert!(!is_ours(strange), "{strange}");
        }
        // A machine whose own name has a domain answers to it without.
        assert!(
            hosts.is_ours("node", "node.example") && hosts.is_ours("node.example", "node.example")
        );
        // Nor is one without a name called by none.
        assert!(!hosts.is_ours("", ""));
    }

    #[test]
    fn every_host_of_a_request_counts() {
        let hosts = Hosts::default();
        let accept = |target: &str, names: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append(header::HOST, header::HeaderValue::from_static(name));
            }
            hosts.accept(&target.parse().expect("a target"), &headers)
        };
        assert!(accept("/metrics", &[]));
        assert!(accept("/metrics", &["localhost"]));
        assert!(!accept("/metrics", &["localhost", "evil.example"]));
        assert!(!accept("http://evil.example/metrics", &["localhost"]));
        assert!(!accept("http://localhost/metrics", &["evil.example"]));
    }
}
