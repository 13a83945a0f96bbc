//! Attempts at the lab's sites by the hundred, by the example `attempts`.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Host, Lab};
use crate::{build, command::capture};

/// By which way an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A question to the name server at the address.
    Dns,
    /// A TLS hello in one segment.
    Tls,
    /// A TLS hello with a post-quantum key share, split anywhere.
    TlsSplit,
    /// HTTP/3.
    Quic,
    /// HTTP.
    Http,
}

impl Way {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Dns, Self::Tls, Self::TlsSplit, Self::Quic, Self::Http];

    /// As the program has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::TlsSplit => "tls-split",
            Self::Quic => "quic",
            Self::Http => "http",
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// With what was asked for.
    Answered,
    /// By RST, ICMP, NXDOMAIN or an address of zeros.
    Refused,
    /// By nothing, for two seconds.
    Silent,
    /// By anything else.
    Failed,
}

/// One attempt.
#[derive(Clone, Debug, Deserialize)]
pub struct Attempt {
    /// The place of its target.
    pub target: usize,
    /// Its number among all: the request's path is `/attempts/NUMBER`.
    pub number: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// When, in milliseconds.
    pub ms: f64,
    /// What the client says of it.
    pub detail: String,
}

impl Lab {
    /// Makes `count` attempts at each of the targets in turn, four at a time, each from a port of
    /// its own. A target is a name (empty: none is told) and an address, of a name server for
    /// [`Way::Dns`].
    ///
    /// # Errors
    /// Where the program fails; that attempts do is none.
    pub fn attempts(
        &self,
        host: &Host,
        way: Way,
        count: usize,
        targets: &[(&str, &str)],
    ) -> Result<Vec<Attempt>> {
        let binary = build::example("attempts").display().to_string();
        let mut command = host.command(&binary, ["--path", way.name()]);
        command
            .arg("--count")
            .arg(count.to_string())
            .arg("--authority")
            .arg(self.authority());
        for (name, address) in targets {
            command.arg(format!("{name}@{address}"));
        }
        capture(&mut command)?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no attempt in {line}")))
            .collect()
    }
}
