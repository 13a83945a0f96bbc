//! The programs that run in the lab beside the sensor, each a foreground child of this process.

use std::{
    fs::{self, Permissions},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    ECHO_PORT, GATEWAY, LAPTOP_MAC, NAME_SERVER, Options, PHONE_MAC, Phone, REDMI_HOST_NAME,
    REDMI_MAC, REDMI_VENDOR_CLASS, SITES, TRACKER, TRACKER_NAME, WEB, WEB_NAME, certificate,
    host::{Host, Process, wait_until},
    redmi, sites,
};

/// How long a server may take to come up.
const LIMIT: Duration = Duration::from_secs(10);

/// The octets of `/large` on the web server.
const LARGE: usize = 300_000;

#[derive(Debug)]
pub(super) struct Servers {
    pub(super) authority: PathBuf,
    /// The hash by which a browser knows the servers' key.
    pub(super) key: String,
    _processes: Vec<Process>,
}

impl Servers {
    pub(super) fn start(
        gateway: &Host,
        internet: &Host,
        lab: &Path,
        options: Options,
    ) -> Result<Self> {
        let mut names = vec![
            WEB_NAME,
            TRACKER_NAME,
            WEB[0],
            WEB[1],
            TRACKER[0],
            TRACKER[1],
        ];
        if options.sites {
            names.extend(SITES.map(|site| site.name));
            names.extend(sites::addresses());
        }
        let key = certificate::write(lab, &names)?;
        echo(internet)?;
        let mut processes = vec![
            name_server(internet, options)?,
            web(internet, lab, options)?,
            household(gateway, options)?,
        ];
        if options.sites {
            processes.push(sites::http3(internet, lab)?);
        }
        Ok(Self {
            authority: lab.join("authority.pem"),
            key,
            _processes: processes,
        })
    }
}

/// The name server of the internet.
fn name_server(internet: &Host, options: Options) -> Result<Process> {
    let mut configuration = format!(
        "port=53\n\
         listen-address={NAME_SERVER}\n\
         bind-interfaces\n\
         no-resolv\n\
         no-hosts\n\
         log-queries\n\
         host-record={WEB_NAME},{},{}\n\
         host-record={TRACKER_NAME},{},{}\n",
        WEB[0], WEB[1], TRACKER[0], TRACKER[1]
    );
    if options.sites {
        configuration += &sites::records();
    }
    let server: IpAddr = NAME_SERVER.parse()?;
    dnsmasq(internet, &configuration, server)
}

/// Addresses and names for the household.
fn household(gateway: &Host, options: Options) -> Result<Process> {
    let phone = match options.phone {
        Phone::Plain => format!("{PHONE_MAC},phone"),
        // Its name is the one it gives itself.
        Phone::Redmi => REDMI_MAC.to_owned(),
    };
    let configuration = format!(
        "interface=br-lan\n\
         except-interface=lo\n\
         bind-dynamic\n\
         no-resolv\n\
         no-hosts\n\
         no-ping\n\
         server={NAME_SERVER}\n\
         dhcp-authoritative\n\
         dhcp-leasefile={}\n\
         dhcp-range=192.168.77.100,192.168.77.199,1h\n\
         dhcp-host={phone},192.168.77.11\n\
         dhcp-host={LAPTOP_MAC},laptop,192.168.77.12\n\
         enable-ra\n\
         dhcp-range=2001:db8:1::,ra-stateless,64,1h\n\
         log-queries\n\
         log-dhcp\n",
        gateway.folder.join("leases").display()
    );
    let server: IpAddr = GATEWAY[0].parse()?;
    dnsmasq(gateway, &configuration, server)
}

fn dnsmasq(host: &Host, configuration: &str, address: IpAddr) -> Result<Process> {
    let file = host.folder.join("dnsmasq.conf");
    fs::write(&file, configuration)?;
    // Debug mode, because it is the one that does not touch its credentials: a process that does
    // loses the signal by which it ends with us.
    let arguments = [
        "--no-daemon".to_owned(),
        "--log-facility=-".to_owned(),
        format!("--conf-file={}", file.display()),
    ];
    let mut process = host.start("dnsmasq", host.command("dnsmasq", arguments))?;
    let address = SocketAddr::new(address, 53);
    process.wait_until("answering", LIMIT, || answers(host, address))?;
    Ok(process)
}

/// The web server, at every address of the internet.
fn web(internet: &Host, lab: &Path, options: Options) -> Result<Process> {
    let folder = internet.folder.display();
    let root = internet.folder.join("www");
    fs::create_dir_all(&root)?;
    fs::write(root.join("index.html"), "the lab's web server\n")?;
    fs::write(root.join("large"), vec![b'x'; LARGE])?;
    let file = internet.folder.join("nginx.conf");
    let (sites, besides) = if options.sites {
        (sites::nginx(internet), sites::nginx_besides(internet))
    } else {
        (String::new(), String::new())
    };
    // One process: a worker would outlive a master that is killed.
    fs::write(
        &file,
        format!(
            "daemon off;\n\
             master_process off;\n\
             user root;\n\
             pid {folder}/nginx.pid;\n\
             error_log stderr;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n\
             \taccess_log {folder}/access.log;\n\
             \tclient_body_temp_path {folder}/body;\n\
             \tproxy_temp_path {folder}/proxy;\n\
             \tfastcgi_temp_path {folder}/fastcgi;\n\
             \tuwsgi_temp_path {folder}/uwsgi;\n\
             \tscgi_temp_path {folder}/scgi;\n\
             \tssl_protocols TLSv1.2 TLSv1.3;\n\
             \tssl_certificate {lab}/server.pem;\n\
             \tssl_certificate_key {lab}/server.key;\n\
             {sites}\
             \tserver {{\n\
             \t\tlisten 0.0.0.0:80 default_server;\n\
             \t\tlisten [::]:80 default_server;\n\
             \t\tlisten 0.0.0.0:443 default_server ssl http2;\n\
             \t\tlisten [::]:443 default_server ssl http2;\n\
             \t\t{besides}\n\
             \t\tclient_max_body_size 0;\n\
             \t\troot {folder}/www;\n\
             \t\tlocation = /upload {{ return 204; }}\n\
             \t}}\n\
             }}\n",
            lab = lab.display(),
        ),
    )?;
    let arguments = ["-p", "-c", "-e"]
        .into_iter()
        .zip([
            folder.to_string(),
            file.display().to_string(),
            "stderr".to_owned(),
        ])
        .flat_map(|(flag, value)| [flag.to_owned(), value]);
    let mut process = internet.start("nginx", internet.command("nginx", arguments))?;
    let address = SocketAddr::new(WEB[0].parse()?, 443);
    process.wait_until("answering", LIMIT, || answers(internet, address))?;
    Ok(process)
}

fn answers(host: &Host, address: SocketAddr) -> bool {
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
    host.enter(connect).unwrap_or(false)
}

/// Sends every datagram back. Its threads end with the process.
fn echo(internet: &Host) -> Result<()> {
    for address in WEB {
        let address = SocketAddr::new(address.parse()?, ECHO_PORT);
        let socket = internet
            .enter(|| UdpSocket::bind(address))?
            .with_context(|| format!("the UDP echo cannot listen on {address}"))?;
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            // An error is an answer that could not be delivered: the next datagram may well be.
            loop {
                if let Ok((length, sender)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], sender);
                }
            }
        });
    }
    Ok(())
}

/// Runs a DHCP client on a device until the lab ends; returns once it has an address.
pub(super) fn ask_for_address(device: &Host) -> Result<Process> {
    ask(device, &["-x", &format!("hostname:{}", device.name)])
}

/// As [`ask_for_address`], in the words of the Redmi.
pub(super) fn ask_as_redmi(device: &Host) -> Result<Process> {
    let parameters: String = redmi::PARAMETERS
        .iter()
        .map(|option| format!("{option:02x}"))
        .collect();
    ask(
        device,
        &[
            "-x",
            &format!("hostname:{REDMI_HOST_NAME}"),
            "-V",
            REDMI_VENDOR_CLASS,
            // The client's own list would have the options in the order of their numbers.
            "-o",
            "-x",
            &format!("0x37:{parameters}"),
        ],
    )
}

fn ask(device: &Host, words: &[&str]) -> Result<Process> {
    let script = device.folder.join("udhcpc.script");
    let bound = device.folder.join("lease");
    if bound.exists() {
        // Of an earlier plug.
        fs::remove_file(&bound)?;
    }
    fs::write(
        &script,
        format!(
            "#!/bin/sh\n\
             set -e\n\
             case $1 in\n\
             bound|renew)\n\
             \tip -4 address replace $ip/$mask dev $interface\n\
             \tip -4 route replace default via $router dev $interface\n\
             \techo \"nameserver $dns\" > /etc/resolv.conf\n\
             \techo \"$ip\" > {}\n\
             \t;;\n\
             esac\n",
            bound.display()
        ),
    )?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    let mut command = device.command("udhcpc", ["-f", "-i", "eth0", "-S", "-s"]);
    command
        .arg(script)
        .args(["-t", "20", "-T", "1", "-A", "1"])
        .args(words);
    let mut client = device.start("udhcpc", command)?;
    client.wait_until("at an IPv4 address", LIMIT, || bound.exists())?;
    Ok(client)
}

/// A Prometheus on the gateway, which scrapes the sensor every second.
///
/// # Errors
/// Where it does not come up within 30 seconds, with its log.
pub fn prometheus(gateway: &Host, target: SocketAddr) -> Result<Process> {
    let file = gateway.folder.join("prometheus.yml");
    fs::write(
        &file,
        format!(
            "global:\n  scrape_interval: 1s\n\
             scrape_configs:\n\
             \x20 - job_name: sensor\n\
             \x20   static_configs:\n\
             \x20     - targets: ['{target}']\n"
        ),
    )?;
    let arguments = [
        format!("--config.file={}", file.display()),
        format!(
            "--storage.tsdb.path={}",
            gateway.folder.join("prometheus").display()
        ),
        format!("--web.listen-address={PROMETHEUS}"),
    ];
    let mut process = gateway.start("prometheus", gateway.command("prometheus", arguments))?;
    process.wait_until("ready", Duration::from_secs(30), || {
        gateway
            .run(&format!("curl -fsS http://{PROMETHEUS}/-/ready"))
            .is_ok()
    })?;
    Ok(process)
}

/// Where the gateway's Prometheus answers.
pub(crate) const PROMETHEUS: &str = "127.0.0.1:9090";

/// Waits until a Prometheus query has a result and gives its value.
///
/// # Errors
/// Where it has none after 20 seconds.
pub fn ask_prometheus(gateway: &Host, query: &str) -> Result<f64> {
    let mut value = None;
    let mut last = String::new();
    let waited = wait_until("a result", Duration::from_secs(20), || {
        let url = format!("http://{PROMETHEUS}/api/v1/query");
        let arguments = [
            "-fsS",
            "--get",
            "--data-urlencode",
            &format!("query={query}"),
            &url,
        ];
        let Ok(text) = crate::command::capture(&mut gateway.command("curl", arguments)) else {
            return false;
        };
        value = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|answer| {
                answer["data"]["result"][0]["value"][1]
                    .as_str()?
                    .parse()
                    .ok()
            });
        last = text;
        value.is_some()
    });
    waited.with_context(|| format!("Prometheus, asked for `{query}`, said {last}"))?;
    value.context("Prometheus gave no value")
}
