//! Connections, and the way from the first signal to stop to the last answer.
//!
//! HTTP/1 only: while hyper's automatic server waits to learn which version a connection speaks
//! it has no timeout, so that silent clients would stay for ever. Proxies that speak HTTP/2 to
//! clients speak HTTP/1 to servers.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tower::Layer as _;
use tower_http::normalize_path::{NormalizePath, NormalizePathLayer};

use crate::state::AppState;
use crate::{ModelSlot, ServerConfig, routes};

/// Time that broken-off answers have to send their last frame, and connections to close.
const FAREWELL: Duration = Duration::from_secs(2);

/// Pause after a connection that could not be accepted: the process is out of file descriptors,
/// and trying again at once would only burn the CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Largest header section in bytes; hyper answers 431 beyond it.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The listener has no address.
    #[error("the listener is not usable")]
    Listener(#[from] io::Error),
}

/// Serves on `listener` until `shutdown` is ready and the requests under way have finished.
///
/// From `shutdown` on the server reports that it is not ready and refuses new chat requests,
/// but goes on accepting connections, so that load balancers see the first and clients the
/// second. Requests under way have [`ServerConfig::drain_timeout`]; then they are broken off
/// with an error. The engine is not stopped: that is for its owner, after this has returned.
///
/// # Errors
/// See [`ServeError`]. Failures of single connections are not errors.
pub async fn serve(
    listener: TcpListener,
    config: ServerConfig,
    slot: ModelSlot,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    let state = AppState::new(config, slot);
    let acceptor = Acceptor::new(&state);
    tracing::info!(%address, "listening");
    tokio::select! {
        () = acceptor.run(&listener) => {}
        () = drain(&state, shutdown) => {}
    }
    drop(listener);
    // Keep-alive connections with nothing to say close at once.
    let _ = timeout(FAREWELL, acceptor.graceful.shutdown()).await;
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
    graceful: GracefulShutdown,
    places: Arc<Semaphore>,
}

impl Acceptor {
    fn new(state: &AppState) -> Self {
        let config = state.config();
        let mut builder = Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_buf_size(MAX_HEADER_BYTES);
        let places = config.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            // Outside the router, which must not see the slash.
            service: NormalizePathLayer::trim_trailing_slash().layer(routes::router(state)),
            builder,
            graceful: GracefulShutdown::new(),
            places: Arc::new(Semaphore::new(places)),
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
                Ok((stream, _)) => self.attend(stream, place),
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn attend(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        // A token is a small packet, and must not wait for the next.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY is not to be had");
        }
        let service = TowerToHyperService::new(self.service.clone());
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let connection = self.graceful.watch(connection);
        tokio::spawn(async move {
            // Clients that leave or speak no HTTP: their affair.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
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
