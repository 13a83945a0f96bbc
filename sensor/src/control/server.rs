//! The daemon's side: takes requests, and sends the responses of a [`Handler`].
//!
//! Each client has a task of its own, so that a silent or slow one holds up nobody. What is sent waits in a buffer
//! of fixed size, and a user has a limited number of clients.

use std::{
    collections::HashMap,
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::{sleep, timeout},
};

use super::{
    PATIENCE,
    protocol::{Hello, PROTOCOL, Request, Response},
    socket::{Listener, trusted_user},
};
use crate::causes::in_one_line;

/// The most bytes of a client's hello and request together.
const LONGEST_REQUEST: u64 = 4_096;

/// The clients that one user may have at a time.
pub const MOST_CLIENTS: usize = 32;

/// So many bytes of responses are sent together.
const BUFFERED: usize = 16 << 10;

/// How long the daemon waits after a connection could not be accepted.
const PAUSE: Duration = Duration::from_secs(1);

/// The part of the daemon that carries out requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Carries out a request, sends its responses, and gives how many entries its limit left out. It goes on
    /// where the client hangs up in between, unless it only reads.
    ///
    /// # Errors
    ///
    /// The reason why the request failed.
    fn handle(
        &self,
        request: Request,
        responses: &mut Responses,
    ) -> impl Future<Output = anyhow::Result<u64>> + Send;
}

/// The way of responses to a client.
#[derive(Debug)]
pub struct Responses {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// The client takes nothing any more: nobody waits for it a second time.
    is_gone: bool,
}

impl Responses {
    /// Sends a response, or keeps it until there is more to send.
    ///
    /// # Errors
    ///
    /// The client has gone, or takes nothing any more.
    pub async fn send(&mut self, response: &Response) -> io::Result<()> {
        self.line(response)?;
        match self.buffer.len() {
            0..BUFFERED => Ok(()),
            _ => self.flush().await,
        }
    }

    fn line(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.buffer, value)?;
        self.buffer.push(b'\n');
        Ok(())
    }

    /// Sends all, as long as the client goes on taking it.
    async fn flush(&mut self) -> io::Result<()> {
        if self.is_gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut rest = &*self.buffer;
        while !rest.is_empty() {
            let sent = timeout(PATIENCE, self.stream.write(rest)).await;
            match sent.map_err(io::Error::from).flatten() {
                Ok(sent) => rest = &rest[sent..],
                Err(error) => {
                    self.is_gone = true;
                    return Err(error);
                }
            }
        }
        self.buffer.clear();
        // One response may have been long.
        self.buffer.shrink_to(BUFFERED);
        Ok(())
    }
}

/// The clients of each user. A guard of each takes it off again.
#[derive(Clone, Default)]
struct Clients(Arc<Mutex<HashMap<u32, usize>>>);

struct Client {
    clients: Clients,
    user: u32,
}

impl Clients {
    /// Counts a client of a user; `None` where it is one too many.
    fn admit(&self, user: u32) -> Option<Client> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(user).or_default();
        if *count >= MOST_CLIENTS {
            return None;
        }
        *count += 1;
        Some(Client {
            clients: self.clone(),
            user,
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let counts = self.clients.0.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.user) {
            *count -= 1;
        }
    }
}

/// Takes clients until the task is dropped. Where no connection can be accepted (all descriptors are in use), it
/// waits: accounting goes on.
pub async fn serve(listener: Listener, handler: impl Handler) {
    let clients = Clients::default();
    loop {
        let stream = match listener.socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("requests of the command line cannot be accepted: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Some(user) = trusted_user(&stream) else {
            // At debug, because any user could fill the log.
            tracing::debug!("a user who is not root sent a request, and was not answered");
            continue;
        };
        let client = clients.admit(user);
        let handler = handler.clone();
        let mut responses = Responses {
            stream,
            buffer: Vec::new(),
            is_gone: false,
        };
        if client.is_none() {
            refuse(&responses.stream);
            continue;
        }
        tokio::spawn(async move {
            if let Err(error) = converse(&mut responses, &handler).await {
                tracing::debug!("a client has gone, or sent no request: {error:#}");
            }
            drop(client);
        });
    }
}

/// Tells a client that its user has too many already. It never waits: a socket takes two lines at once.
fn refuse(stream: &UnixStream) {
    let refused = Response::Failed(format!(
        "the daemon has {MOST_CLIENTS} other requests of this user, and takes no more until one is over"
    ));
    let lines = serde_json::to_string(&Hello::ours())
        .and_then(|hello| Ok(format!("{hello}\n{}\n", serde_json::to_string(&refused)?)));
    if let Ok(lines) = lines {
        let _ = stream.try_write(lines.as_bytes());
    }
}

async fn converse(responses: &mut Responses, handler: &impl Handler) -> anyhow::Result<()> {
    responses.line(&Hello::ours())?;
    // A client that hung up may have sent its request before.
    let _ = responses.flush().await;
    let request = timeout(PATIENCE, request(&mut responses.stream));
    let request = request.await.context("the request did not come in time")?;
    let last = match request {
        Ok(None) => return Ok(()),
        Ok(Some(request)) => match handler.handle(request, responses).await {
            Ok(left_out) => Response::End { left_out },
            Err(error) => Response::Failed(in_one_line(error.as_ref())),
        },
        Err(error) => Response::Failed(in_one_line(error.as_ref())),
    };
    responses.line(&last)?;
    responses.flush().await?;
    Ok(())
}

/// Reads a request; `None` where the client wants nothing from this daemon.
async fn request(stream: &mut UnixStream) -> anyhow::Result<Option<Request>> {
    let mut lines = BufReader::new(stream.take(LONGEST_REQUEST)).lines();
    let Some(hello) = lines.next_line().await? else {
        return Ok(None);
    };
    let hello: Hello = serde_json::from_str(&hello).context(
        "this is no request of the sensor: the daemon speaks with `sensor` of the same version",
    )?;
    anyhow::ensure!(
        hello.protocol == PROTOCOL,
        "the program is of version {} and the daemon of version {}, which do not understand each other: install \
         the same version of both, and restart the daemon (`systemctl restart gateway-sensor`)",
        hello.version,
        env!("CARGO_PKG_VERSION")
    );
    let request = lines.next_line().await?;
    let request = request.context("the client hung up before its request")?;
    let request = serde_json::from_str(&request)
        .context("the request is too long, or none of this version")?;
    Ok(Some(request))
}
