//! The lab for a person: shells in its hosts, with a sensor to play with.

use std::{
    fs,
    io::{BufRead, Write},
    process::Command,
};

use anyhow::Result;

use crate::{
    build::{self, Profile},
    command::say,
    lab::{self, Device, Host, Lab, Options, Phone, REDMI_MAC, TRACKER_PREFIXES},
    setup::{self, Need},
};

/// The household of the demo and of the lab: its phone is a Redmi, its internet has sites.
pub const HOUSEHOLD: Options = Options {
    offloads: false,
    sites: true,
    phone: Phone::Redmi,
    delay: None,
};

/// The policies of the demo and of the lab: the phone is kept from the tracker, and the questions of every
/// device to name servers are observed.
pub fn policies() -> String {
    let [v4, v6] = TRACKER_PREFIXES;
    format!(
        "[[policy]]\n\
         name = \"no-tracker\"\n\
         devices = [\"{REDMI_MAC}\"]\n\
         remotes = [\"{v4}\", \"{v6}\"]\n\
         action = \"reject\"\n\n\
         [[policy]]\n\
         name = \"watch-dns\"\n\
         ports = [\"udp/53\"]\n\
         action = \"observe\"\n"
    )
}

/// Starts a lab with a running sensor and gives out shells until told to end.
///
/// # Errors
/// Where something cannot be built or started.
pub fn lab() -> Result<()> {
    setup::ensure(&[Need::Kernel, Need::Lab])?;
    let binary = build::all(Profile::Release)?;
    let mut lab = Lab::start(HOUSEHOLD)?;
    let sensor = lab.sensor(&binary, &lab.configuration(&policies()))?;
    lab.plug(Device::Phone)?;
    lab.plug(Device::Laptop)?;
    say(&format!(
        "\n\
         phone  eth0 ═══ lan0 ┐\n\
         \x20                    ├ br-lan  gateway  wan0 ═══ eth0  internet\n\
         laptop eth0 ═══ lan1 ┘\n\n\
         lab {}; files and logs: {}\n\
         On the phone:    curl http://{}/    curl --cacert {} https://{}/\n\
         \x20                curl http://{}/    (refused on the phone, not on the laptop)\n\
         Sites:           {}\n\
         On the gateway:  {} flows --config {}\n\
         From another terminal: cargo xtask lab enter phone",
        lab.id,
        lab.folder.display(),
        lab::WEB_NAME,
        lab.authority().display(),
        lab::WEB_NAME,
        lab::TRACKER_NAME,
        lab::SITES.map(|site| site.name).join(" "),
        binary.display(),
        sensor.configuration().display(),
    ));
    for line in prompts() {
        match line.trim() {
            "" => {}
            "exit" | "quit" => break,
            name => match lab.host(name) {
                Some(host) => shell(host)?,
                None => say(&format!("no host {name}")),
            },
        }
    }
    say("the lab ends");
    Ok(())
}

/// A shell on a host of a lab that runs in another terminal.
///
/// # Errors
/// Where there is no such lab or host.
pub fn enter(lab: Option<&str>, host: &str) -> Result<()> {
    interactive(lab::command_in(lab, host, "bash")?, host, None)
}

fn shell(host: &Host) -> Result<()> {
    let start = host.folder.join("bashrc");
    fs::write(&start, format!("PS1='{}# '\n", host.name))?;
    let command = host.command::<&str>("bash", []);
    interactive(command, host.name, start.to_str())
}

fn interactive(mut shell: Command, host: &str, start: Option<&str>) -> Result<()> {
    match start {
        Some(file) => shell.args(["--rcfile", file]),
        None => shell.arg("--norc").env("PS1", format!("{host}# ")),
    };
    // Its status is that of the last command typed, and no concern of ours.
    shell.arg("-i").status()?;
    Ok(())
}

/// The lines typed, to the end of the input.
fn prompts() -> impl Iterator<Item = String> {
    let mut lines = std::io::stdin().lock().lines();
    std::iter::from_fn(move || {
        print!("\nphone, laptop, gateway, internet or exit> ");
        // Where the prompt is not shown, typed lines still count.
        let _ = std::io::stdout().flush();
        lines.next()?.ok()
    })
}
