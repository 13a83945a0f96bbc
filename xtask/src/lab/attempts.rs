//! Attempts at the lab's sites by the hundred, by the example `attempts`.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
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
    /// The same in three segments.
    TlsThrice,
    /// HTTP/3.
    Quic,
    /// HTTP/3, with a post-quantum key share, so that the hello takes two Initials.
    QuicSplit,
    /// HTTP.
    Http,
    /// HTTP, with the host in the second segment.
    HttpLate,
    /// HTTP, with another request before that for the name, in one segment.
    HttpBehind,
    /// A question over TCP to the name server at the address, in two segments.
    DnsTcp,
}

impl Way {
    /// All there are.
    pub const ALL: [Self; 10] = [
        Self::Dns,
        Self::DnsTcp,
        Self::Tls,
        Self::TlsSplit,
        Self::TlsThrice,
        Self::Quic,
        Self::QuicSplit,
        Self::Http,
        Self::HttpLate,
        Self::HttpBehind,
    ];

    /// Whether it is HTTP/3.
    pub const fn is_quic(self) -> bool {
        matches!(self, Self::Quic | Self::QuicSplit)
    }

    /// Whether it is a question to a name server.
    pub const fn is_question(self) -> bool {
        matches!(self, Self::Dns | Self::DnsTcp)
    }

    /// As the program has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::TlsSplit => "tls-split",
            Self::TlsThrice => "tls-thrice",
            Self::Quic => "quic",
            Self::QuicSplit => "quic-split",
            Self::Http => "http",
            Self::HttpLate => "http-late",
            Self::HttpBehind => "http-behind",
            Self::DnsTcp => "dns-tcp",
        }
    }
}

/// How a site is visited again over HTTP/3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// By a new connection that says its request with its hello (0-RTT).
    Early,
    /// By the same connection, from another port.
    Migrate,
}

impl Again {
    const fn name(self) -> &'static str {
        match self {
            Self::Early => "early",
            Self::Migrate => "migrate",
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// With the reply that it asked for.
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
    /// The client's words about it.
    pub detail: String,
}

impl Lab {
    /// Makes `count` attempts at each of the targets in turn, four at a time, each from a port of
    /// its own; those over HTTP/3 so slowly that the kernel opens all of their Initials. A target is a name (empty: none is told) and an address, of a name server for
    /// [`Way::Dns`], with a port for [`Way::Quic`] where that is not 443.
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
        let text = capture(&mut self.command_of_attempts(host, way, count, targets))?;
        read(&text)
    }

    /// Makes one attempt over HTTP/3 with a hello of four Initials.
    ///
    /// # Errors
    /// As [`attempts`](Self::attempts).
    pub fn attempt_by_long_hello(&self, host: &Host, target: (&str, &str)) -> Result<Attempt> {
        let mut command = self.command_of_attempts(host, Way::Quic, 1, &[target]);
        let attempts = read(&capture(command.args(["--quic", "long"]))?)?;
        attempts.into_iter().next().context("no attempt was made")
    }

    /// Visits a site over HTTP/3, runs `between`, and visits the site again: with a session of the first visit
    /// and early data, or by the same connection from another port.
    ///
    /// # Errors
    /// As [`attempts`](Self::attempts), and the errors of `between`.
    pub fn attempt_again(
        &self,
        host: &Host,
        target: (&str, &str),
        again: Again,
        between: impl FnOnce() -> Result<()>,
    ) -> Result<Attempt> {
        let mut command = self.command_of_attempts(host, Way::Quic, 1, &[target]);
        let mut child = command
            .args(["--parallel", "1", "--quic", again.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let told = |child: &mut Child| -> Result<Attempt> {
            let mut said = BufReader::new(child.stdout.take().context("no output")?).lines();
            let first = said.next().context("the first visit failed")??;
            // An attempt that has ended already prints its outcome.
            if first == "visited" {
                between()?;
                writeln!(child.stdin.take().context("no input")?)?;
                let last = said.next().context("the second visit has no end")??;
                return serde_json::from_str(&last).with_context(|| last);
            }
            bail!("the first visit: {first}")
        };
        let attempt = told(&mut child);
        // It has ended, or is to.
        let _ = child.kill();
        child.wait()?;
        attempt
    }

    fn command_of_attempts(
        &self,
        host: &Host,
        way: Way,
        count: usize,
        targets: &[(&str, &str)],
    ) -> Command {
        /// Milliseconds: so a device says 40 Initials in a second, three for an attempt: the hello in up to two, and
        /// what answers the server.
        const PACE: &str = "75";

        let binary = build::example("attempts").display().to_string();
        let mut command = host.command(&binary, ["--path", way.name()]);
        if way.is_quic() {
            command.args(["--pace", PACE]);
        }
        command
            .arg("--count")
            .arg(count.to_string())
            .arg("--authority")
            .arg(self.authority())
            .args(
                targets
                    .iter()
                    .map(|(name, address)| format!("{name}@{address}")),
            );
        command
    }
}

fn read(text: &str) -> Result<Vec<Attempt>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no attempt in {line}")))
        .collect()
}
