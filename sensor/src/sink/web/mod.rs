//! The sensor's HTTP: `/metrics`, `/healthz`, `/readyz`. It reads, and changes nothing.

mod connections;
mod hosts;
pub mod report;

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use axum::{
    Router, extract,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    health::{Health, Unwell},
    model::Snapshot,
    sink::metrics,
};

use connections::Failure;

pub use connections::Failures;
pub use hosts::Hosts;

const INDEX: &str = "gateway-sensor: /metrics /healthz /readyz\n";

/// Why nothing can be served.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {reason}")]
pub struct ListenError {
    address: SocketAddr,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    InUse(u16),
    NoSuchAddress,
    Privileged,
    Other(io::Error),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(port) => write!(
                f,
                "another program does already, perhaps another sensor; `ss -ltnp 'sport = \
                 :{port}'` names it; stop it, or choose another port with `listen` in [daemon]"
            ),
            Self::NoSuchAddress => f.write_str(
                "this machine does not have the address; choose one that `ip -brief address` \
                 shows with `listen` in [daemon], or 127.0.0.1",
            ),
            Self::Privileged => f.write_str(
                "this user may not use the port; choose one from 1024 on with `listen` in \
                 [daemon]",
            ),
            Self::Other(error) => write!(
                f,
                "{error}; choose another address with `listen` in [daemon]"
            ),
        }
    }
}

/// Takes the address. Errors: it is in use, not this machine's, or not for this user.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| ListenError {
            address,
            reason: match error.kind() {
                io::ErrorKind::AddrInUse => Reason::InUse(address.port()),
                io::ErrorKind::AddrNotAvailable => Reason::NoSuchAddress,
                io::ErrorKind::PermissionDenied => Reason::Privileged,
                _ => Reason::Other(error),
            },
        })
}

/// The sources of the server's answers.
#[derive(Clone)]
pub struct Sources {
    /// The snapshots.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Whether the daemon does its work.
    pub health: Health,
    /// The names that requests may be for; a reload changes them.
    pub hosts: watch::Receiver<Hosts>,
    /// Where failures are counted.
    pub failures: Failures,
}

/// Answers until `shutdown` is done and the answers under way are sent.
pub async fn serve(listener: TcpListener, sources: Sources, shutdown: impl Future<Output = ()>) {
    let failures = sources.failures.clone();
    let snapshots = sources.snapshots.clone();
    let rendered = Arc::<Rendered>::default();
    let state = State {
        sources,
        rendered: Arc::clone(&rendered),
    };
    let check = middleware::from_fn_with_state(state.clone(), check_host);
    let router = Router::new()
        .route("/", get(async || INDEX))
        .route("/metrics", get(scrape))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, INDEX))
        .layer(check)
        .with_state(state);
    let service = TowerToHyperService::new(router);
    tokio::select! {
        () = connections::serve(listener, service, failures, shutdown) => {}
        () = rendered.follow(snapshots) => {}
    }
}

/// The state that the handlers share.
#[derive(Clone)]
struct State {
    sources: Sources,
    rendered: Arc<Rendered>,
}

/// The metrics of the snapshot that was scraped last: the text of a large house takes milliseconds to
/// render and megabytes to keep, and a snapshot does not change.
#[derive(Default)]
struct Rendered(Mutex<Option<(Weak<Snapshot>, Bytes)>>);

impl Rendered {
    /// The metrics of a snapshot, rendered at its first scrape only.
    ///
    /// # Errors
    ///
    /// When a value cannot be written.
    fn metrics(&self, snapshot: &Arc<Snapshot>) -> Result<Bytes, metrics::Error> {
        let mut rendered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, text)) = &*rendered
            && Weak::as_ptr(of) == Arc::as_ptr(snapshot)
        {
            return Ok(text.clone());
        }
        let text = metrics::render(snapshot, metrics::BUILD)?;
        let text = Bytes::from(text.into_bytes().into_boxed_slice());
        // The weak reference keeps the address from being used for another snapshot.
        *rendered = Some((Arc::downgrade(snapshot), text.clone()));
        Ok(text)
    }

    /// Drops the metrics of each snapshot when the next one is there: between two scrapes they would lie in
    /// memory for nothing. It never ends.
    async fn follow(&self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        while snapshots.changed().await.is_ok() {
            let current = Arc::as_ptr(&snapshots.borrow_and_update());
            let mut rendered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            rendered.take_if(|(of, _)| Weak::as_ptr(of) != current);
        }
        std::future::pending().await
    }
}

const MISDIRECTED: &str = "this sensor does not answer to the host name of the request: ask for it by an \
    address, or add the name to `hosts` in [daemon] of its configuration\n";

/// Refuses requests for hosts that are not this machine.
async fn check_host(
    extract::State(state): extract::State<State>,
    request: extract::Request,
    next: middleware::Next,
) -> Response {
    let is_ours = {
        let hosts = state.sources.hosts.borrow();
        hosts.accept(request.uri(), request.headers())
    };
    if is_ours {
        return next.run(request).await;
    }
    state.sources.failures.count(Failure::Host);
    (StatusCode::MISDIRECTED_REQUEST, MISDIRECTED).into_response()
}

async fn scrape(extract::State(state): extract::State<State>) -> Response {
    let snapshot = Arc::clone(&state.sources.snapshots.borrow());
    match state.rendered.metrics(&snapshot) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

async fn alive(extract::State(state): extract::State<State>) -> Response {
    verdict(state.sources.health.alive(Instant::now()))
}

async fn ready(extract::State(state): extract::State<State>) -> Response {
    verdict(state.sources.health.ready(Instant::now()))
}

fn verdict(health: Result<(), Unwell>) -> Response {
    match health {
        Ok(()) => "ok\n".into_response(),
        Err(unwell) => (StatusCode::SERVICE_UNAVAILABLE, format!("{unwell}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_of_a_snapshot_are_rendered_once() {
        let rendered = Rendered::default();
        let metrics = |snapshot: &Arc<Snapshot>| rendered.metrics(snapshot).expect("a text");
        let snapshot = Arc::new(Snapshot::default());
        let first = metrics(&snapshot);
        // The same bytes, not equal ones.
        assert_eq!(metrics(&snapshot).as_ptr(), first.as_ptr());

        let next = Arc::new(Snapshot {
            unbooked_packets: 7,
            ..Snapshot::default()
        });
        drop(snapshot);
        let text = metrics(&next);
        assert_ne!(text, first);
        assert_eq!(metrics(&next).as_ptr(), text.as_ptr());
    }

    #[tokio::test]
    async fn the_metrics_of_a_snapshot_are_dropped_with_it() {
        let rendered = Rendered::default();
        let (publish, snapshots) = watch::channel(Arc::new(Snapshot::default()));
        let text = rendered.metrics(&snapshots.borrow()).expect("a text");
        let dropped = async {
            tokio::task::yield_now().await;
            assert!(
                !text.is_unique(),
                "it is kept while the snapshot is current"
            );
            publish.send_replace(Arc::default());
            while !text.is_unique() {
                tokio::task::yield_now().await;
            }
        };
        let wait = tokio::time::timeout(std::time::Duration::from_secs(5), dropped);
        tokio::select! {
            dropped = wait => assert!(dropped.is_ok(), "the text is kept"),
            () = rendered.follow(snapshots.clone()) => unreachable!("it never ends"),
        }
    }
}
