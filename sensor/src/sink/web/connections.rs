//! Connections of the HTTP server: a small number at a time, each with a limit for every step.
//!
//! Any host that reaches the port can open connections, and each takes a descriptor of the process that
//! keeps the filter on the network. Therefore [`MOST`] are open at most, and a new one is always let in:
//! the one that has waited longest without a whole request is closed for it.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet, yield_now},
    time::{Instant, sleep, sleep_until, timeout},
};

/// The most connections at a time.
const MOST: usize = 16;

/// The most bytes of a request's header.
const LONGEST_HEADER: usize = 16 << 10;

/// How long answers under way may take when the server ends.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How long the server waits after a failure to accept that the next attempt would meet again.
const PAUSE: Duration = Duration::from_millis(100);

/// How often such failures are logged, at most.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Why a connection was closed or could not be accepted, or a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// A newer connection needed its place.
    GaveWay,
    /// The header of a request did not arrive in time.
    RequestTimeout,
    /// The client did not take the answer in time.
    AnswerTimeout,
    /// A request was for a host that is not this machine.
    Host,
    /// No descriptor was left to accept a connection.
    Descriptors,
    /// No memory was left to accept a connection.
    Memory,
    /// The connection ended before it was accepted.
    Aborted,
    /// A connection could not be accepted for another reason.
    Other,
}

impl Failure {
    const ALL: [(Self, &'static str); 8] = [
        (Self::GaveWay, "gave-way"),
        (Self::RequestTimeout, "request-timeout"),
        (Self::AnswerTimeout, "answer-timeout"),
        (Self::Host, "host"),
        (Self::Descriptors, "no-descriptors"),
        (Self::Memory, "no-memory"),
        (Self::Aborted, "aborted"),
        (Self::Other, "other"),
    ];

    /// Why accept(2) failed.
    fn of_accept(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Self::Descriptors,
            Some(libc::ENOMEM | libc::ENOBUFS) => Self::Memory,
            // accept(2): errors of the connection that was about to be accepted.
            Some(
                libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EPROTO
                | libc::EPERM
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP,
            ) => Self::Aborted,
            _ => Self::Other,
        }
    }
}

/// Counts of failures by reason, shared by the server and the owner of the metrics.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<[AtomicU64; Failure::ALL.len()]>);

impl Failures {
    pub(super) fn count(&self, failure: Failure) {
        let at = Failure::ALL.iter().position(|(other, _)| *other == failure);
        if let Some(counter) = at.and_then(|at| self.0.get(at)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All counts, by reason.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counters = self.0.iter().map(|counter| counter.load(Ordering::Relaxed));
        let names = Failure::ALL.iter().map(|(_, name)| *name);
        names.zip(counters).collect()
    }
}

/// The event that a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first byte of the next request.
    Idle,
    /// The rest of a request's header.
    Request,
    /// The client's taking the answer.
    Answer,
}

impl Phase {
    const fn limit(self) -> Duration {
        match self {
            // Longer than most scrape intervals.
            Self::Idle => Duration::from_secs(120),
            Self::Request => Duration::from_secs(10),
            Self::Answer => Duration::from_secs(30),
        }
    }

    /// The failure that it is when the limit is reached; `None`: none.
    const fn failure(self) -> Option<Failure> {
        match self {
            Self::Idle => None,
            Self::Request => Some(Failure::RequestTimeout),
            Self::Answer => Some(Failure::AnswerTimeout),
        }
    }
}

/// A connection's phase, and since when.
#[derive(Clone, Copy, Debug)]
struct State {
    phase: Phase,
    since: Instant,
}

/// Tells a connection's phase.
#[derive(Clone, Debug)]
struct Progress(Arc<watch::Sender<State>>);

impl Progress {
    fn new() -> Self {
        let (sender, _) = watch::channel(State {
            phase: Phase::Request,
            since: Instant::now(),
        });
        Self(Arc::new(sender))
    }

    /// Enters a phase, if the connection is in one of which this is the next.
    fn go(&self, from: &[Phase], phase: Phase) {
        self.0.send_if_modified(|state| {
            let is_next = from.contains(&state.phase);
            if is_next {
                *state = State {
                    phase,
                    since: Instant::now(),
                };
            }
            is_next
        });
    }

    fn state(&self) -> State {
        *self.0.borrow()
    }

    /// Returns when the connection has been in a phase for longer than its limit.
    async fn overdue(&self) -> Phase {
        let mut changes = self.0.subscribe();
        loop {
            let State { phase, since } = *changes.borrow_and_update();
            tokio::select! {
                () = sleep_until(since + phase.limit()) => return phase,
                _ = changes.changed() => {}
            }
        }
    }
}

/// A stream that tells when a request begins and when an answer is written.
struct Watched {
    stream: TcpStream,
    progress: Progress,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.progress.go(&[Phase::Idle], Phase::Request);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// Called when everything was handed to the kernel.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.progress.go(&[Phase::Answer], Phase::Idle);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// An open connection.
struct Open {
    progress: Progress,
    task: AbortHandle,
}

/// The open connections.
struct Connections {
    open: Vec<Open>,
    tasks: JoinSet<()>,
    failures: Failures,
    /// Closed when the server ends.
    stopped: watch::Receiver<()>,
}

impl Connections {
    /// Answers requests of a new connection, in the place of another one where all are taken.
    fn open<S>(&mut self, stream: TcpStream, service: S)
    where
        S: Answers,
    {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|one| !one.task.is_finished());
        if self.open.len() >= MOST {
            self.close_longest();
        }
        let progress = Progress::new();
        let task = self.tasks.spawn(converse(
            stream,
            progress.clone(),
            service,
            self.failures.clone(),
            self.stopped.clone(),
        ));
        self.open.push(Open { progress, task });
    }

    /// Closes the connection that has waited longest without a whole request. Where each has one, it is
    /// the one whose client has let its answer wait longest.
    fn close_longest(&mut self) {
        let longest = self.open.iter().enumerate().min_by_key(|(_, one)| {
            let State { phase, since } = one.progress.state();
            (phase == Phase::Answer, since)
        });
        if let Some((at, _)) = longest {
            self.open.swap_remove(at).task.abort();
            self.failures.count(Failure::GaveWay);
        }
    }

    /// Waits for the answers under way.
    async fn end(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // Later ones are closed with the set.
        let _ = timeout(END_LIMIT, all).await;
    }
}

/// A service that answers requests of one connection.
pub(super) trait Answers:
    Service<
        hyper::Request<Incoming>,
        Response = axum::response::Response,
        Error = std::convert::Infallible,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Answers for S where
    S: Service<
            hyper::Request<Incoming>,
            Response = axum::response::Response,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// Answers requests of one connection until it ends or is too slow.
async fn converse<S: Answers>(
    stream: TcpStream,
    progress: Progress,
    service: S,
    failures: Failures,
    mut stopped: watch::Receiver<()>,
) {
    let answers = hyper::service::service_fn(|request| {
        progress.go(&[Phase::Idle, Phase::Request], Phase::Answer);
        service.call(request)
    });
    let stream = TokioIo::new(Watched {
        stream,
        progress: progress.clone(),
    });
    let connection = http1::Builder::new()
        .max_buf_size(LONGEST_HEADER)
        .serve_connection(stream, answers);
    let mut connection = std::pin::pin!(connection);
    let mut overdue = std::pin::pin!(progress.overdue());
    let mut is_ending = false;
    loop {
        tokio::select! {
            // An error is the client's: it went away, or it did not send HTTP.
            _ = connection.as_mut() => return,
            phase = &mut overdue => {
                if let Some(failure) = phase.failure() {
                    failures.count(failure);
                }
                return;
            }
            _ = stopped.changed(), if !is_ending => {
                if progress.state().phase != Phase::Answer {
                    return;
                }
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Accepts connections and answers their requests until `shutdown` is done and the answers under way are
/// sent. No failure to accept ends it.
pub(super) async fn serve(
    listener: TcpListener,
    service: impl Answers,
    failures: Failures,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopped) = watch::channel(());
    let mut connections = Connections {
        open: Vec::new(),
        tasks: JoinSet::new(),
        failures: failures.clone(),
        stopped,
    };
    let mut shutdown = std::pin::pin!(shutdown);
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        let error = match accepted {
            Ok((stream, _)) => {
                connections.open(stream, service.clone());
                // A connection that has its request with it is answered before 16 others come.
                yield_now().await;
                continue;
            }
            Err(error) => error,
        };
        let failure = Failure::of_accept(&error);
        failures.count(failure);
        if failure == Failure::Aborted {
            yield_now().await;
            continue;
        }
        if logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
            logged = Some(Instant::now());
            tracing::warn!(
                "HTTP connections cannot be accepted: {error}; accounting and filter go on, and the \
                 server tries again (sensor_http_failures_total counts the attempts)"
            );
        }
        if failure == Failure::Descriptors {
            connections.close_longest();
        }
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            () = sleep(PAUSE) => {}
        }
    }
    drop(listener);
    drop(stop);
    connections.end().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_the_connection_itself_are_followed_by_the_next_attempt_at_once() {
        let of = |number| Failure::of_accept(&io::Error::from_raw_os_error(number));
        for number in [libc::EMFILE, libc::ENFILE] {
            assert_eq!(of(number), Failure::Descriptors);
        }
        for number in [libc::ENOMEM, libc::ENOBUFS] {
            assert_eq!(of(number), Failure::Memory);
        }
        for number in [libc::ECONNABORTED, libc::EPROTO, libc::ENETDOWN] {
            assert_eq!(of(number), Failure::Aborted);
        }
        for number in [libc::EINVAL, libc::EBADF, libc::ENOSPC] {
            assert_eq!(of(number), Failure::Other);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_phase_has_its_limit_and_the_next_one_has_its_own() {
        let progress = Progress::new();
        let begun = Instant::now();
        assert_eq!(progress.overdue().await, Phase::Request);
        assert_eq!(begun.elapsed(), Phase::Request.limit());

        let begun = Instant::now();
        progress.go(&[Phase::Request], Phase::Answer);
        let later = progress.clone();
        tokio::spawn(async move {
            sleep(Duration::from_secs(20)).await;
            later.go(&[Phase::Answer], Phase::Idle);
        });
        assert_eq!(progress.overdue().await, Phase::Idle);
        assert_eq!(
            begun.elapsed(),
            Duration::from_secs(20) + Phase::Idle.limit()
        );
        // No step backwards.
        progress.go(&[Phase::Answer], Phase::Request);
        assert_eq!(progress.state().phase, Phase::Idle);
    }
}
