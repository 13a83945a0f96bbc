//! The internet's named sites, on addresses of their own, and the clients that visit them.
//!
//! nginx serves them over HTTP and TLS; some sites are served over HTTP/3 as well, by the example `http3`. The
//! server that answers a request writes it down.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Host, Lab, Process, WEB, WEB_NAME};
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
/// The server to which a Xiaomi phone sends its tracking data.
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
/// A name with everything below it: every such name has an IPv4 address, that of the web server.
pub const LISTED: &str = "listed.lab.example";
/// Another name of the web server: a CNAME record.
pub const ALIAS_NAME: &str = "static.lab.example";

/// How long a server may take to come up.
const LIMIT: Duration = Duration::from_secs(10);
/// Seconds a browser may take, its start on a busy machine included.
const BROWSER_LIMIT: u32 = 60;
/// Where nginx writes requests down, and where the HTTP/3 server does.
const LOGS: [&str; 2] = ["requests.log", "http3-requests.log"];
/// Where nginx writes down requests that are to none of the sites by name.
const OTHER_LOG: &str = "other-requests.log";

/// A request, as the server that answered it wrote it down.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Request {
    /// The site's name, as the client asked for it; without one, the server's own name.
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
    /// The client's user agent.
    pub agent: String,
    /// The groups for the key exchange that the client's hello lists, colon between them; those
    /// that Debian's OpenSSL does not know by name as `0x` and four digits. Empty without TLS, and
    /// over HTTP/3.
    #[serde(default)]
    pub groups: String,
}

impl Site {
    /// The text of the site's page: over HTTP/3 another than over TCP.
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
        self.requests_of(&LOGS)
    }

    /// As [`requests`](Self::requests), with those that name no site.
    ///
    /// # Errors
    /// As [`requests`](Self::requests).
    pub fn all_requests(&self) -> Result<Vec<Request>> {
        self.requests_of(&[LOGS[0], LOGS[1], OTHER_LOG])
    }

    /// How often the household's name server and the internet's were asked for this name, whatever
    /// the type and the case.
    ///
    /// # Errors
    /// Where their logs cannot be read.
    pub fn questions(&self, name: &str) -> Result<usize> {
        let asked = format!("] {} from ", name.to_ascii_lowercase());
        let mut count = 0;
        for host in [&self.gateway, &self.internet] {
            let log = fs::read_to_string(host.folder.join("dnsmasq.log"))?;
            let lines = log.lines().map(str::to_ascii_lowercase);
            count += lines
                .filter(|line| line.contains("query[") && line.contains(&asked))
                .count();
        }
        Ok(count)
    }

    fn requests_of(&self, logs: &[&str]) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        for log in logs {
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
            build::example("http3").display()
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
        self.browse_by(host, url, &[])
    }

    /// How long a browser takes for a page, or for the error page that it shows in its place, from
    /// the moment it is told to go there: in a frame of a page of [`ALLOWED`], both at the addresses
    /// of that, without asking a name server.
    ///
    /// # Errors
    /// As [`browse`](Self::browse).
    pub fn time_in_browser(&self, host: &Host, url: &str) -> Result<Duration> {
        let map = format!(
            "--host-resolver-rules=MAP *.lab.example {}",
            ALLOWED.addresses[0]
        );
        // A page over TLS has no frame without.
        let (scheme, _) = url.split_once("://").context("a URL has a scheme")?;
        let frame = format!("{scheme}://{}/frame?{url}", ALLOWED.name);
        let document = self.browse_by(host, &frame, &[&map])?;
        let milliseconds: f64 = document
            .split_once("<p id=\"ms\">")
            .and_then(|(_, rest)| rest.split_once('<')?.0.parse().ok())
            .with_context(|| format!("no time in {document}"))?;
        Ok(Duration::from_secs_f64(milliseconds / 1e3))
    }

    fn browse_by(&self, host: &Host, url: &str, more: &[&str]) -> Result<String> {
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
            .args(more)
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

/// A page with the page in it that stands behind its question mark, and how many milliseconds pass
/// until that is there, or the error page in its place.
const FRAME: &str = "<!doctype html><p id=ms>never</p><iframe id=page></iframe><script>\
    const begun = performance.now(), page = document.getElementById(\"page\");\
    page.onload = () => document.getElementById(\"ms\").textContent = performance.now() - begun;\
    page.src = decodeURIComponent(location.search.slice(1));\
    </script>";

/// The records of the sites in the internet's name server, in dnsmasq's words. A name or type without a record
/// does not exist, because a browser asks for more than addresses.
pub(super) fn records() -> String {
    let hosts: String = SITES
        .iter()
        .map(|site| {
            let [v4, v6] = site.addresses;
            format!("host-record={},{v4},{v6}\n", site.name)
        })
        .collect();
    format!(
        "{hosts}cname={ALIAS_NAME},{WEB_NAME}\naddress=/{LISTED}/{}\nlocal=/#/\n",
        WEB[0]
    )
}

/// The lines for the server of everything else, where there are sites.
pub(super) fn nginx_besides(internet: &Host) -> String {
    format!(
        "access_log {}/{OTHER_LOG} request;",
        internet.folder.display()
    )
}

/// The lines for nginx about the sites, inside its `http` block, before any other server.
pub(super) fn nginx(internet: &Host) -> String {
    let names = SITES.map(|site| site.name).join(" ");
    // The groups in the client's hello for the key exchange are known from the connection alone.
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
         \t\tlocation = /frame {{ return 200 '{FRAME}'; }}\n\
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
    build::examples()?;
    let binary = build::example("http3").display().to_string();
    let mut command = internet.command(&binary, ["serve"]);
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
