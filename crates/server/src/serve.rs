//! Connections, and the way from the first signal to stop to the last answer.
//!
//! HTTP/1 only: while hyper's automatic server waits to learn which version a connection speaks
//! it has no timeout, so that silent clients would stay for ever. Proxies that speak HTTP/2 to
//! clients speak HTTP/1 to servers.
//!
//! Where there is TLS its handshake has as long as a header has, and a place among the connections
//! like any other.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tower::Layer as _;
use tower_http::normalize_path::{NormalizePath, NormalizePathLayer};

use crate::patient::Patient;
use crate::peers::{Guest, Peers};
use crate::state::AppState;
use crate::{ModelSlot, ServerConfig, Tls, routes};

/// Time that broken-off answers have to send their last frame, and connections to close.
const FAREWELL: Duration = Duration::from_secs(2);

/// Pause after a connection that could not be accepted: the process is out of file descriptors,
/// and trying again at once would only burn the CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Largest header section in bytes; hyper answers 431 beyond it.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Where the server is to be reached.
#[derive(Debug)]
pub struct Listeners {
    /// For everything.
    pub api: TcpListener,
    /// For probes alone, in plain HTTP whatever the other speaks: orchestrators have no
    /// certificate to show.
    pub health: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(api: TcpListener) -> Self {
        Self { api, health: None }
    }
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The listener has no address.
    #[error("the listener is not usable")]
    Listener(#[from] io::Error),
}

/// Serves on `listeners` until `shutdown` is ready and the requests under way have finished.
///
/// From `shutdown` on the server reports that it is not ready and refuses new chat requests,
/// but goes on accepting connections, so that load balancers see the first and clients the
/// second. Requests under way have [`ServerConfig::drain_timeout`]; then they are broken off
/// with an error. The engine is not stopped: that is for its owner, after this has returned.
///
/// # Errors
/// See [`ServeError`]. Failures of single connections are not errors.
pub async fn serve(
    listeners: impl Into<Listeners>,
    config: ServerConfig,
    slot: ModelSlot,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let Listeners { api, health } = listeners.into();
    let address = api.local_addr()?;
    let state = AppState::new(config, slot);
    let acceptor = Acceptor::new(&state, routes::router(&state), state.config().tls.clone());
    let probes = Acceptor::new(&state, routes::probes(&state), None);
    tracing::info!(%address, tls = state.config().tls.is_some(), "listening");
    tokio::select! {
        () = acceptor.run(&api) => {}
        () = probes.run_if(health.as_ref()) => {}
        () = state.config().api_keys.watch() => {}
        () = drain(&state, shutdown) => {}
    }
    drop((api, health));
    // Keep-alive connections with nothing to say close at once.
    let close = async { tokio::join!(acceptor.graceful.shutdown(), probes.graceful.shutdown()) };
    let _ = timeout(FAREWELL, close).await;
    Ok(())
}

/// Waits for the signal, then for the requests under way.
async fn drain(state: &AppState, shutdown: impl Future<Output = ()>) {
    shutdown.await;
    let limit = state.config().drain_timeout;
    tracing::info!(limit_s = limit.as_secs(), "shutting down: draining");
    state.start_draining();
    if timeout(limit, state.drained()).await.is_err() {
        tracing::warn!("breaking off what is still under way");
        state.abort();
        let _ = timeout(FAREWELL, state.drained()).await;
    }
}

struct Acceptor {
    service: NormalizePath<Router>,
    builder: Builder,
    tls: Option<Tls>,
    /// For a TLS handshake.
    handshake: Duration,
    graceful: GracefulShutdown,
    places: Arc<Semaphore>,
    peers: Peers,
    write_timeout: Duration,
}

impl Acceptor {
    fn new(state: &AppState, router: Router, tls: Option<Tls>) -> Self {
        let config = state.config();
        let mut builder = Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_buf_size(MAX_HEADER_BYTES);
        let places = config.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            // Outside the router, which must not see the slash.
            service: NormalizePathLayer::trim_trailing_slash().layer(router),
            builder,
            tls,
            handshake: config.header_timeout,
            graceful: GracefulShutdown::new(),
            places: Arc::new(Semaphore::new(places)),
            peers: Peers::new(config.max_connections_per_ip),
            write_timeout: config.write_timeout,
        }
    }

    /// Accepts connections for ever, or waits for ever.
    async fn run_if(&self, listener: Option<&TcpListener>) {
        match listener {
            Some(listener) => self.run(listener).await,
            None => std::future::pending().await,
        }
    }

    /// Accepts connections for ever.
    async fn run(&self, listener: &TcpListener) {
        loop {
            // Never closed.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => match self.peers.enter(peer.ip()) {
                    Some(guest) => self.attend(stream, (place, guest)),
                    // Closed at once: no answer is owed to whoever takes more than a share.
                    None => tracing::debug!(%peer, "too many connections from one address"),
                },
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn attend(&self, stream: TcpStream, place: (OwnedSemaphorePermit, Guest)) {
        // A token is a small packet, and must not wait for the next.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY is not to be had");
        }
        let stream = Patient::new(stream, self.write_timeout);
        let connection = Connection {
            service: TowerToHyperService::new(self.service.clone()),
            builder: self.builder.clone(),
            watcher: self.graceful.watcher(),
            place,
        };
        match self.tls.clone() {
            None => {
                tokio::spawn(connection.serve(stream));
            }
            Some(tls) => {
                let handshake = timeout(self.handshake, tls.acceptor.accept(stream));
                tokio::spawn(async move {
                    match handshake.await {
                        Ok(Ok(stream)) => connection.serve(stream).await,
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    }
                });
            }
        }
    }
}

/// What a connection is served with, whatever lies below it.
struct Connection {
    service: TowerToHyperService<NormalizePath<Router>>,
    builder: Builder,
    watcher: Watcher,
    place: (OwnedSemaphorePermit, Guest),
}

impl Connection {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let connection = self
            .builder
            .serve_connection(TokioIo::new(stream), self.service);
        // Clients that leave or speak no HTTP: their affair.
        if let Err(error) = self.watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended early");
        }
        drop(self.place);
    }
}

/// Whether only the one connection is affected, and not the listener.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
