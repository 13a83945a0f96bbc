//! Requests of the command line to a daemon that runs, and its answers.
//!
//! Names and parties are in the daemon's memory, not in the kernel's tables. The daemon listens on
//! a Unix socket without a file (`unix(7)`, abstract), named after its pin directory: nothing is
//! left behind, and two sensors of one machine do not meet. Both ends check the user at the other:
//! root, or the user of the daemon.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream},
    },
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use rustix::{net::sockopt::socket_peercred, process::geteuid};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::{
    cli::args::{DevicesArgs, ExplainArgs, FlowsArgs, Output},
    policy::DeviceSelector,
};

/// A request of the command line. The response is the text to print.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// The devices, their identities and their parties. The response is a [`Told`].
    Devices(DevicesArgs),
    /// The open flows and their names. The response is a [`Told`].
    Flows(FlowsArgs),
    /// What was refused of late, and why. The response is a [`Told`].
    Refused(DevicesArgs),
    /// Hooks, tables, policy, names and losses.
    Status(Output),
    /// The judgement of the policies on a name or an address. The response is a [`Told`].
    Explain(ExplainArgs),
    /// Block or allow a name; the daemon sets `since`. The response is a [`Told`].
    Say {
        /// The name and the devices.
        said: Said,
        /// How long it holds, in seconds; `None`: until it is taken back.
        holds_for: Option<u64>,
        /// Whether it is blocked; otherwise it is allowed.
        blocks: bool,
    },
    /// Take back a block or allow. The response is a [`Told`].
    Forget(Said),
}

/// A name and devices that a command is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The name, as `domains` has names.
    pub domain: String,
    /// The devices; `None`: all.
    pub device: Option<DeviceSelector>,
}

/// The daemon's response to a command: the text to print, or the reason for the failure.
pub type Told = Result<String, String>;

/// The longest request, in octets.
const MAX_QUESTION: u64 = 4096;

/// How long either side waits for the other to take or to send data that is ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a client waits for an answer. A daemon that ends in between closes the connection, so this is for
/// one that neither works nor ends.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5 * 60);

/// The most octets that a socket's name can have (`unix(7)`).
const LONGEST_NAME: usize = 107;

/// Where the daemon with this pin directory listens. The hash (FNV-1a, 64 bits) of a path stands
/// for it where it is too long for a name: the client checks the user of the listener in any case.
fn address(pin_directory: &Path) -> io::Result<SocketAddr> {
    const PREFIX: &[u8] = b"gateway-sensor:";

    let path = pin_directory.as_os_str().as_encoded_bytes();
    if PREFIX.len() + path.len() <= LONGEST_NAME {
        return SocketAddr::from_abstract_name([PREFIX, path].concat());
    }
    let hash = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
    });
    SocketAddr::from_abstract_name([PREFIX, format!("{hash:016x}").as_bytes()].concat())
}

/// Whether a socket's other end may ask, or may be believed.
fn is_trusted(socket: impl AsFd) -> bool {
    socket_peercred(socket).is_ok_and(|peer| peer.uid.is_root() || peer.uid == geteuid())
}

/// Listens for requests.
///
/// # Errors
///
/// When another process listens for the same pin directory.
pub fn bind(pin_directory: &Path) -> anyhow::Result<UnixListener> {
    let what = || {
        format!(
            "`sensor devices`, `flows` and `status` will show no names, `explain` not what is in \
             force, and `block`, `allow` and `forget` will not work: another process has the socket \
             for questions about {} (`ss -xlp` names it); end it, and start the sensor again",
            pin_directory.display()
        )
    };
    let listener = address(pin_directory)
        .and_then(|address| StdListener::bind_addr(&address))
        .with_context(what)?;
    listener.set_nonblocking(true)?;
    Ok(UnixListener::from_std(listener)?)
}

/// How long the daemon waits after a connection could not be accepted.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes one request after the other and hands it on, until the receiver of commands is gone. Where
/// no connection can be accepted (all descriptors are in use), it waits: accounting goes on.
pub async fn answer<T: Send + 'static>(
    listener: UnixListener,
    commands: mpsc::Sender<T>,
    command: fn(Request, oneshot::Sender<String>) -> T,
) {
    while !commands.is_closed() {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("questions of the command line cannot be accepted: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        if !is_trusted(&stream) {
            // At debug, because any user could fill the log.
            tracing::debug!("a user who is not root asked, and was not answered");
            continue;
        }
        let commands = commands.clone();
        // One task for each client: a silent client does not hold up the others.
        tokio::spawn(async move {
            if let Err(error) = converse(stream, commands, command).await {
                tracing::debug!("a question has no answer: {error:#}");
            }
        });
    }
}

async fn converse<T>(
    mut stream: UnixStream,
    commands: mpsc::Sender<T>,
    command: fn(Request, oneshot::Sender<String>) -> T,
) -> anyhow::Result<()> {
    let mut question = Vec::new();
    let mut whole = (&mut stream).take(MAX_QUESTION);
    timeout(PATIENCE, whole.read_to_end(&mut question))
        .await
        .context("it was not asked to its end")??;
    let question = serde_json::from_slice(&question)?;
    let (tell, told) = oneshot::channel();
    if commands.send(command(question, tell)).await.is_err() {
        return Ok(());
    }
    // No timeout here: a request is carried out even where its client hangs up in between.
    let answer = told.await?;
    if let Err(error) = say(&mut stream, answer.as_bytes()).await {
        tracing::debug!("what was asked is done, and its client has gone: {error}");
    }
    Ok(())
}

/// Sends a response, as long as the client goes on taking it.
async fn say(stream: &mut UnixStream, mut answer: &[u8]) -> io::Result<()> {
    while !answer.is_empty() {
        let sent = timeout(PATIENCE, stream.write(answer)).await??;
        answer = &answer[sent..];
    }
    Ok(())
}

/// Asks the daemon with this pin directory; `None` where none runs, or none that is trusted.
///
/// # Errors
///
/// When it does not answer.
pub fn ask(pin_directory: &Path, question: &Request) -> anyhow::Result<Option<String>> {
    let connected = address(pin_directory).and_then(|address| StdStream::connect_addr(&address));
    let Ok(mut stream) = connected else {
        return Ok(None);
    };
    if !is_trusted(&stream) {
        return Ok(None);
    }
    let what = || {
        format!(
            "the daemon at {} does not answer; `systemctl status gateway-sensor` and its log may \
             say why, and `sensor status` whether what was asked is done",
            pin_directory.display()
        )
    };
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
    let mut answer = String::new();
    let asked = stream
        .write_all(&serde_json::to_vec(question)?)
        .and_then(|()| stream.shutdown(std::net::Shutdown::Write))
        .and_then(|()| stream.read_to_string(&mut answer));
    // The daemon hangs up on an untrusted client. The error of the kernel's tables then names the
    // missing privilege.
    if !geteuid().is_root() && answer.is_empty() {
        return Ok(None);
    }
    asked.with_context(what)?;
    anyhow::ensure!(!answer.is_empty(), what());
    Ok(Some(answer))
}
