//! The internet's named sites, on addresses of their own, and the clients that visit them.
//!
//! nginx serves them over HTTP and TLS; some sites are served over HTTP/3 as well, by the
//! example `http3`. Each request is written down, by whoever answers it.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Host, Lab, Process, WEB_NAME};
use crate::{build, command::capture};

/// A site of the lab's internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub name: &'static str,
    /// Its addresses, IPv4 then IPv6.
    pub addresses: [&'static str; 2],
}

/// A site to browse.
pub const NEWS: Site = Site {
    name: "news.lab.example",
    addresses: ["198.51.100.21", "2001:db8:a::21"],
};
/// A site to browse.
pub const SHOP: Site = Site {
    name: "shop.lab.example",
    addresses: ["198.51.100.22", "2001:db8:a::22"],
};
/// A site to browse that speaks HTTP/3 too, and says so over TLS.
pub const VIDEO: Site = Site {
    name: "video.lab.example",
    addresses: ["198.51.100.23", "2001:db8:a::23"],
};
/// Where a Xiaomi phone sends its analytics.
pub const ANALYTICS: Site = Site {
    name: "sa.api.intl.miui.com",
    addresses: ["198.51.100.31", "2001:db8:a::31"],
};
/// Where a Xiaomi phone sends what it tracks.
pub const TRACKING: Site = Site {
    name: "tracking.intl.miui.com",
    addresses: ["198.51.100.32", "2001:db8:a::32"],
};
/// Where a Xiaomi phone looks whether it is behind a captive portal.
pub const CAPTIVE: Site = Site {
    name: "connect.rom.miui.com",
    addresses: ["198.51.100.33", "2001:db8:a::33"],
};
/// A site that a policy is about. It speaks HTTP/3 too.
pub const BLOCKED: Site = Site {
    name: "blocked.lab.example",
    addresses: ["198.51.100.41", "2001:db8:a::41"],
};
/// Another site of the server of [`BLOCKED`], at the same addresses.
pub const ALLOWED: Site = Site {
    name: "allowed.lab.example",
    addresses: BLOCKED.addresses,
};
/// A site that a policy is about, at addresses that no other name has. It speaks HTTP/3 too.
pub const ONLY_BLOCKED: Site = Site {
    name: "only-blocked.lab.example",
    addresses: ["198.51.100.42", "2001:db8:a::42"],
};
/// All there are.
pub const SITES: [Site; 9] = [
    NEWS,
    SHOP,
    VIDEO,
    ANALYTICS,
    TRACKING,
    CAPTIVE,
    BLOCKED,
    ALLOWED,
    ONLY_BLOCKED,
];
/// Those that speak HTTP/3.
const HTTP3: [Site; 3] = [VIDEO, BLOCKED, ONLY_BLOCKED];
/// Another name of the web server: a CNAME record.
pub const ALIAS_NAME: &str = "static.lab.example";

/// How long a server may take to come up.
const LIMIT: Duration = Duration::from_secs(10);
/// Seconds a browser may take, its start on a busy machine included.
const BROWSER_LIMIT: u32 = 60;
/// Where nginx writes requests down, and where the HTTP/3 server does.
const LOGS: [&str; 2] = ["requests.log", "http3-requests.log"];

/// A request, as the server that answered it wrote it down.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Request {
    /// The site's name, as the client asked for it; without one, what the server calls itself.
    pub host: String,
    /// The address it was asked at.
    pub address: IpAddr,
    /// The name in the client's hello. Empty without, and over HTTP/3.
    #[serde(default)]
    pub sni: String,
    /// `GET`, `POST` …
    pub method: String,
    /// The path, without what follows a question mark.
    pub path: String,
    /// `HTTP/1.1`, `HTTP/2.0`, `HTTP/3.0`.
    pub protocol: String,
    /// What the client calls itself.
    pub agent: String,
    /// The groups for the key exchange that the client's hello lists, colon between them; those
    /// that Debian's OpenSSL does not know by name as `0x` and four digits. Empty without TLS, and
    /// over HTTP/3.
    #[serde(default)]
    pub groups: String,
}

impl Site {
    /// What the site's page says: over HTTP/3 something else than over TCP.
    pub fn page(self, http3: bool) -> String {
        let over = if http3 { "HTTP/3" } else { "TCP" };
        format!("the page of {} over {over}", self.name)
    }
}

impl Lab {
    /// The requests that the sites have had, those over TCP first.
    ///
    /// # Errors
    /// Where the lab has no sites.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        for log in LOGS {
            let log = self.internet.folder.join(log);
            let text = fs::read_to_string(&log)
                .with_context(|| format!("cannot read {}: has the lab sites?", log.display()))?;
            for line in text.lines() {
                let request = serde_json::from_str(line)
                    .with_context(|| format!("{} has no request in {line}", log.display()))?;
                requests.push(request);
            }
        }
        Ok(requests)
    }

    /// Fetches a page over HTTP/3 and gives its text. `family` is `-4` or `-6`.
    ///
    /// # Errors
    /// Where it cannot be had within ten seconds.
    pub fn http3(&self, host: &Host, family: &str, url: &str) -> Result<String> {
        let authority = self.authority().display();
        host.run(&format!(
            "{} get {family} --authority {authority} {url}",
            build::http3_binary().display()
        ))
    }

    /// Opens a page in a browser with a new profile and gives the document it has made of it, once
    /// it is loaded. The browser knows the key of the lab's servers, and goes to the video site by
    /// QUIC.
    ///
    /// # Errors
    /// Where it has not loaded within a minute. A page that cannot be reached is no error: the
    /// document says so.
    pub fn browse(&self, host: &Host, url: &str) -> Result<String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let profile = host.folder.join(format!("browser-{number}"));
        fs::create_dir(&profile)?;
        // In a process namespace of its own: none of its processes outlives the one that was
        // started, whatever ends that one.
        let mut browser = host.command(
            "unshare",
            ["--pid", "--fork", "--kill-child", "--mount-proc", "timeout"],
        );
        browser
            .args([&BROWSER_LIMIT.to_string(), "chromium"])
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync"])
            .arg("--disable-dev-shm-usage")
            .arg(format!(
                "--ignore-certificate-errors-spki-list={}",
                self.servers.key
            ))
            .arg(format!("--origin-to-force-quic-on={}:443", VIDEO.name))
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(["--dump-dom", url])
            .env("HOME", &profile)
            .env("XDG_CONFIG_HOME", &profile)
            .env("XDG_CACHE_HOME", &profile);
        let document = capture(&mut browser);
        // Some megabytes, which nobody will look at.
        fs::remove_dir_all(&profile)?;
        document.with_context(|| format!("the browser of {} shows no {url}", host.name))
    }
}

/// The addresses of all sites, each once.
pub(super) fn addresses() -> BTreeSet<&'static str> {
    SITES.iter().flat_map(|site| site.addresses).collect()
}

/// What the internet's name server knows of the sites, in dnsmasq's words. What it has no record
/// for does not exist: a browser asks for more than addresses.
pub(super) fn records() -> String {
    let hosts: String = SITES
        .iter()
        .map(|site| {
            let [v4, v6] = site.addresses;
            format!("host-record={},{v4},{v6}\n", site.name)
        })
        .collect();
    format!("{hosts}cname={ALIAS_NAME},{WEB_NAME}\nlocal=/#/\n")
}

/// What nginx is to know of the sites, inside its `http` block.
pub(super) fn nginx(internet: &Host) -> String {
    let names = SITES.map(|site| site.name).join(" ");
    // What the client's hello offers for the key exchange is known from the connection alone.
    format!(
        "\tlog_format request escape=json\n\
         \t\t'{{\"host\":\"$host\",\"address\":\"$server_addr\",\"sni\":\"$ssl_server_name\",'\n\
         \t\t'\"method\":\"$request_method\",\"path\":\"$uri\",'\n\
         \t\t'\"protocol\":\"$server_protocol\",\"agent\":\"$http_user_agent\",'\n\
         \t\t'\"groups\":\"$ssl_curves\"}}';\n\
         \tmap $host $also {{\n\
         \t\t{} 'h3=\":443\"; ma=3600';\n\
         \t}}\n\
         \tserver {{\n\
         \t\tlisten 0.0.0.0:80;\n\
         \t\tlisten [::]:80;\n\
         \t\tlisten 0.0.0.0:443 ssl http2;\n\
         \t\tlisten [::]:443 ssl http2;\n\
         \t\tserver_name {names};\n\
         \t\taccess_log {}/{} request;\n\
         \t\tdefault_type text/html;\n\
         \t\tadd_header Alt-Svc $also;\n\
         \t\tlocation / {{ return 200 \"the page of $host over TCP\\n\"; }}\n\
         \t\tlocation = /generate_204 {{ return 204; }}\n\
         \t\tlocation = /track {{ return 204; }}\n\
         \t}}\n",
        VIDEO.name,
        internet.folder.display(),
        LOGS[0],
    )
}

/// The sites that speak HTTP/3.
pub(super) fn http3(internet: &Host, lab: &Path) -> Result<Process> {
    let binary: PathBuf = build::http3()?;
    let mut command = internet.command(&binary.display().to_string(), ["serve"]);
    command
        .arg("--certificate")
        .arg(lab.join("server.pem"))
        .arg("--key")
        .arg(lab.join("server.key"))
        .arg("--log")
        .arg(internet.folder.join(LOGS[1]));
    for address in HTTP3.iter().flat_map(|site| site.addresses) {
        command.arg(SocketAddr::new(address.parse()?, 443).to_string());
    }
    let mut process = internet.start("http3", command)?;
    let log = internet.folder.join("http3.log");
    process.wait_until("listening", LIMIT, || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("listening"))
    })?;
    Ok(process)
}
