//! The client's side: one request, and the responses one after the other.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::geteuid;

use super::{
    PATIENCE,
    protocol::{Hello, PROTOCOL, Request, Response},
    socket::{Place, trusted_user},
};

/// How long a client waits for a response. A daemon that ends in between closes the connection, so this is for
/// one that neither works nor ends.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5 * 60);

/// The longest line that a client reads, in bytes. One device with all its parties and evidence is the longest
/// response; it has some hundred KiB.
const LONGEST_LINE: u64 = 16 << 20;

/// The responses to a request, as the daemon sends them.
#[derive(Debug)]
pub struct Answer {
    stream: BufReader<UnixStream>,
    line: String,
    place: Place,
    has_ended: bool,
    left_out: u64,
}

/// Sends a request to the daemon of a place; `None` where none runs, or none that is trusted or that trusts this
/// user.
///
/// # Errors
///
/// The daemon does not answer, or is of another version.
pub fn ask(place: &Place, request: &Request) -> anyhow::Result<Option<Answer>> {
    let Ok(stream) = UnixStream::connect(place.file()) else {
        return Ok(None);
    };
    if trusted_user(&stream).is_none() {
        return Ok(None);
    }
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
    let mut answer = Answer {
        stream: BufReader::new(stream),
        line: String::new(),
        place: place.clone(),
        has_ended: false,
        left_out: 0,
    };
    let hello = match answer.read_line() {
        // The daemon hangs up on a user that it does not trust. The error of the kernel's tables then names
        // the missing privilege.
        Ok(()) | Err(_) if answer.line.is_empty() && !geteuid().is_root() => return Ok(None),
        read => read.and_then(|()| answer.parsed::<Hello>())?,
    };
    anyhow::ensure!(
        hello.protocol == PROTOCOL,
        "the daemon is of version {} and this program of version {}, which do not understand each other: restart \
         the daemon (`systemctl restart gateway-sensor`)",
        hello.version,
        env!("CARGO_PKG_VERSION")
    );
    let mut lines = Vec::new();
    serde_json::to_writer(&mut lines, &Hello::ours())?;
    lines.push(b'\n');
    serde_json::to_writer(&mut lines, request)?;
    lines.push(b'\n');
    let stream = answer.stream.get_mut();
    let sent = stream.write_all(&lines);
    // The daemon may have hung up, and said why before.
    let _ = sent.and_then(|()| stream.shutdown(Shutdown::Write));
    Ok(Some(answer))
}

impl Answer {
    /// Entries that the request's limit left out; 0 before the last response.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The one response of a request that has one.
    ///
    /// # Errors
    ///
    /// The request failed, or the daemon does not answer.
    pub fn only(mut self) -> anyhow::Result<Response> {
        let only = self.next().transpose()?.with_context(|| self.silence())?;
        // The request is done when the daemon has said so.
        match self.next() {
            None => Ok(only),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) => anyhow::bail!("the daemon sent more than was asked for"),
        }
    }

    fn silence(&self) -> String {
        format!(
            "the daemon at {} does not answer; `systemctl status gateway-sensor` and its log may say why, and \
             `sensor status` whether what was asked is done",
            self.place.pin_directory().display()
        )
    }

    /// Reads a line; the line is empty where the daemon has hung up.
    fn read_line(&mut self) -> anyhow::Result<()> {
        self.line.clear();
        let mut limited = (&mut self.stream).take(LONGEST_LINE);
        let read = limited.read_line(&mut self.line);
        read.map(drop).with_context(|| self.silence())
    }

    /// Parses the line that was read.
    fn parsed<T: serde::de::DeserializeOwned>(&self) -> anyhow::Result<T> {
        anyhow::ensure!(self.line.ends_with('\n'), self.silence());
        serde_json::from_str(&self.line).context(
            "the daemon sent what this program does not understand: restart it (`systemctl restart \
             gateway-sensor`)",
        )
    }

    fn read(&mut self) -> anyhow::Result<Option<Response>> {
        self.read_line()?;
        match self.parsed()? {
            Response::End { left_out } => {
                self.left_out = left_out;
                Ok(None)
            }
            Response::Failed(reason) => Err(anyhow::Error::msg(reason)),
            response => Ok(Some(response)),
        }
    }
}

impl Iterator for Answer {
    type Item = anyhow::Result<Response>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let read = self.read();
        self.has_ended = !matches!(read, Ok(Some(_)));
        read.transpose()
    }
}
