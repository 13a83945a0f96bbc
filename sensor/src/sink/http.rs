//! The sensor's HTTP: `/metrics`, `/healthz`, `/readyz`. It reads, and changes nothing.

mod connections;

use std::{fmt, future::Future, io, net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
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

pub use connections::Failures;

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

/// What the server answers from.
#[derive(Clone)]
pub struct Sources {
    /// The snapshots.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Whether the daemon does its work.
    pub health: Health,
    /// Where failures are counted.
    pub failures: Failures,
}

/// Answers until `shutdown` is done and the answers under way are sent.
pub async fn serve(listener: TcpListener, sources: Sources, shutdown: impl Future<Output = ()>) {
    let failures = sources.failures.clone();
    let router = Router::new()
        .route("/", get(async || INDEX))
        .route("/metrics", get(scrape))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, INDEX))
        .with_state(sources);
    let service = TowerToHyperService::new(router);
    connections::serve(listener, service, failures, shutdown).await;
}

async fn scrape(State(sources): State<Sources>) -> Response {
    let snapshot = Arc::clone(&sources.snapshots.borrow());
    match metrics::render(&snapshot, metrics::BUILD) {
        Ok(text) => (
            [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
            Bytes::from(text),
        )
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

async fn alive(State(sources): State<Sources>) -> Response {
    verdict(sources.health.alive(Instant::now()))
}

async fn ready(State(sources): State<Sources>) -> Response {
    verdict(sources.health.ready(Instant::now()))
}

fn verdict(health: Result<(), Unwell>) -> Response {
    match health {
        Ok(()) => "ok\n".into_response(),
        Err(unwell) => (StatusCode::SERVICE_UNAVAILABLE, format!("{unwell}\n")).into_response(),
    }
}
