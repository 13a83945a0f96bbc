//! The sensor in the lab's gateway.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{Lab, PORTS, Process};
use crate::command::capture;

/// Where the sensor serves its metrics: the gateway's loopback, its own in every lab.
pub const LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9617));

/// How long a start may take, loading and verifying included.
const LIMIT: Duration = Duration::from_secs(30);

/// A sensor that runs on the lab's gateway.
#[derive(Debug)]
pub struct Sensor {
    /// The process.
    pub process: Process,
    binary: PathBuf,
    configuration: PathBuf,
}

impl Lab {
    /// A configuration for both ports, with `more` behind it: further lines of `[daemon]`, and tables such as
    /// `[[policy]]`. The daemon's state stays in the lab.
    pub fn configuration(&self, more: &str) -> String {
        let interfaces: String = PORTS
            .iter()
            .map(|port| format!("[[interface]]\nname = \"{port}\"\nhook = \"auto\"\n\n"))
            .collect();
        format!(
            "{interfaces}[daemon]\nlisten = \"{LISTEN}\"\npin_directory = \"{}\"\n\
             state_directory = \"{}\"\nruntime_directory = \"{}\"\n\n{more}",
            self.pins().display(),
            self.gateway.folder.join("state").display(),
            self.runtime().display()
        )
    }

    /// Where a sensor of this lab has its socket and its locks.
    pub fn runtime(&self) -> PathBuf {
        self.gateway.folder.join("run")
    }

    /// Where a sensor of this lab pins its maps. Only the gateway sees the file system there.
    pub fn pins(&self) -> PathBuf {
        self.folder.join("bpf/sensor")
    }

    /// Starts a sensor on the gateway and waits until it is ready.
    ///
    /// # Errors
    /// Where it ends or is not ready within 30 seconds, with its log.
    pub fn sensor(&self, binary: &Path, configuration: &str) -> Result<Sensor> {
        let file = self.gateway.folder.join("sensor.toml");
        write(&file, configuration)?;
        let mut sensor = Sensor {
            process: self.spawn_sensor(binary, &file)?,
            binary: binary.to_owned(),
            configuration: file,
        };
        let url = format!("http://{LISTEN}/readyz");
        sensor.process.wait_until("ready", LIMIT, || {
            let arguments = ["-fsS", "--max-time", "2", &url];
            capture(&mut self.gateway.command("curl", arguments)).is_ok()
        })?;
        Ok(sensor)
    }

    /// Starts `sensor run` on the gateway and does not wait for anything.
    ///
    /// # Errors
    /// Where the binary cannot be started.
    pub fn spawn_sensor(&self, binary: &Path, configuration: &Path) -> Result<Process> {
        let mut command = self.gateway.command(&binary.display().to_string(), ["run"]);
        command.arg("--config").arg(configuration);
        self.gateway.start("sensor", command)
    }
}

impl Sensor {
    /// A `sensor` command on the gateway with this sensor's configuration.
    pub fn command(&self, lab: &Lab, words: &[&str]) -> Command {
        let mut command = lab
            .gateway
            .command(&self.binary.display().to_string(), words);
        command.arg("--config").arg(&self.configuration);
        command
    }

    /// The output of `sensor WORD --json`.
    ///
    /// # Errors
    /// Where the command fails or gives no JSON.
    pub fn json(&self, lab: &Lab, word: &str) -> Result<serde_json::Value> {
        let text = capture(&mut self.command(lab, &[word, "--json"]))?;
        serde_json::from_str(&text)
            .with_context(|| format!("`sensor {word} --json` gave no JSON: {text}"))
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// Where it is not served.
    pub fn scrape(&self, lab: &Lab) -> Result<String> {
        lab.gateway
            .run(&format!("curl -fsS --max-time 5 http://{LISTEN}/metrics"))
    }

    /// Replaces the configuration's file as an editor does: the new one is renamed over it.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn rewrite(&self, configuration: &str) -> Result<()> {
        write(&self.configuration, configuration)
    }

    /// The configuration's file.
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, file))
        .with_context(|| format!("cannot write {}", file.display()))
}
