//! What the routes share.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use vlmd_api::Health;
use vlmd_engine::{Engine, Sampling};
use vlmd_media::MediaGate;
use vlmd_models::Processor;

use crate::assets::AssetStore;
use crate::constraint::Grammars;
use crate::error::Refusal;
use crate::metrics::Metrics;
use crate::pictures::PictureStore;
use crate::responses::ResponseStore;
use crate::{Checkpoint, ServerConfig, html, openapi};

/// A loaded model with what it takes to serve it.
#[derive(Clone)]
pub struct ServedModel {
    /// Names that requests may give. The first is the one in metrics; there is at least one.
    pub names: Vec<String>,
    /// Makes prompts.
    pub processor: Arc<dyn Processor>,
    /// Answers them.
    pub engine: Engine,
    /// Loads pictures.
    pub media: MediaGate,
    /// Remembers them. This model's alone.
    pub pictures: PictureStore,
    /// What is told of the model's files.
    pub checkpoint: Checkpoint,
    /// Most tokens of an answer whose request does not bound it (`--default-max-tokens`). An
    /// admitted request holds cache blocks for its longest possible answer, and a model with
    /// LongRoPE chooses its factors by that length: without this bound every careless request
    /// would claim the whole context.
    pub default_max_tokens: usize,
    /// Most answers that are generated side by side (`--max-num-seqs`); told in metrics.
    pub max_num_seqs: usize,
    /// Length of a row of logits: token ids in requests must be below.
    pub vocab_size: usize,
    /// Most pictures in one request (`--max-images`).
    pub max_images: usize,
    /// What holds where a request says nothing. `seed`, `logit_bias` and `logprobs` are not
    /// looked at: they are the request's alone.
    pub default_sampling: Sampling,
}

impl fmt::Debug for ServedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedModel")
            .field("names", &self.names)
            .field("engine", &self.engine)
            .field("max_images", &self.max_images)
            .field("default_sampling", &self.default_sampling)
            .finish_non_exhaustive()
    }
}

/// Where the model will be once it is loaded. Clones share the place.
#[derive(Debug, Clone, Default)]
pub struct ModelSlot {
    model: Arc<OnceLock<(Arc<ServedModel>, u64)>>,
}

/// A [`ModelSlot`] holds a model already.
#[derive(Debug, thiserror::Error)]
#[error("the model slot holds a model already")]
pub struct SlotFilled;

impl ModelSlot {
    /// Puts the model into its place: from now on requests are answered.
    ///
    /// # Errors
    /// If there is one already.
    pub fn fill(&self, model: ServedModel) -> Result<(), SlotFilled> {
        self.model
            .set((Arc::new(model), unix_time()))
            .map_err(|_| SlotFilled)
    }

    /// The model, if it is loaded.
    pub(crate) fn get(&self) -> Option<&Arc<ServedModel>> {
        self.model.get().map(|(model, _)| model)
    }

    /// Unix time at which [`Self::fill`] was called.
    pub(crate) fn since(&self) -> u64 {
        self.model.get().map_or(0, |(_, since)| *since)
    }
}

/// Seconds since the Unix epoch; 0 on a machine whose clock is before it.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// What the routes share; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AppState {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ServerConfig,
    slot: ModelSlot,
    metrics: Metrics,
    openapi: Bytes,
    docs: Bytes,
    inflight: Arc<Semaphore>,
    prepare: Arc<Semaphore>,
    grammars: Grammars,
    assets: AssetStore,
    responses: ResponseStore,
    tracker: TaskTracker,
    draining: CancellationToken,
    abort: CancellationToken,
}

/// A request's place among those under way. Shutdown waits until all are dropped; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    _permit: Arc<OwnedSemaphorePermit>,
    _token: TaskTrackerToken,
}

impl AppState {
    pub(crate) fn new(config: ServerConfig, slot: ModelSlot) -> Self {
        let document = config.root_path.describe(openapi());
        let permits =
            |count: usize| Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            inner: Arc::new(Inner {
                inflight: permits(config.max_inflight),
                prepare: permits(config.prepare_concurrency),
                grammars: Grammars::default(),
                assets: AssetStore::new(config.assets),
                responses: ResponseStore::new(config.responses),
                config,
                slot,
                metrics: Metrics::default(),
                docs: html::render(&document).into(),
                openapi: document.to_string().into(),
                tracker: TaskTracker::new(),
                draining: CancellationToken::new(),
                abort: CancellationToken::new(),
            }),
        }
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.inner.config
    }

    pub(crate) fn slot(&self) -> &ModelSlot {
        &self.inner.slot
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// The OpenAPI document.
    pub(crate) fn openapi(&self) -> Bytes {
        self.inner.openapi.clone()
    }

    /// The page that shows it.
    pub(crate) fn docs(&self) -> Bytes {
        self.inner.docs.clone()
    }

    /// Places for work on the blocking threads.
    pub(crate) fn prepare_slots(&self) -> &Arc<Semaphore> {
        &self.inner.prepare
    }

    /// Where grammars are compiled.
    pub(crate) fn grammars(&self) -> &Grammars {
        &self.inner.grammars
    }

    /// What was uploaded.
    pub(crate) fn assets(&self) -> &AssetStore {
        &self.inner.assets
    }

    /// Responses that may be asked for again.
    pub(crate) fn responses(&self) -> &ResponseStore {
        &self.inner.responses
    }

    /// How the server is.
    pub(crate) fn health(&self) -> Health {
        if self.inner.draining.is_cancelled() {
            return Health::DRAINING;
        }
        match self.inner.slot.get() {
            None => Health::LOADING,
            Some(model) if !model.engine.is_ready() => Health::STOPPED,
            Some(_) => Health::READY,
        }
    }

    /// The model, if it answers at the moment.
    pub(crate) fn model(&self) -> Result<&Arc<ServedModel>, Refusal> {
        match (self.health(), self.inner.slot.get()) {
            (Health::READY, Some(model)) => Ok(model),
            (health, _) => Err(Refusal::NotReady(health)),
        }
    }

    /// Takes a place among the requests under way.
    pub(crate) fn admit(&self) -> Result<Admission, Refusal> {
        let permit = Arc::clone(&self.inner.inflight)
            .try_acquire_owned()
            .map_err(|_| Refusal::Overloaded {
                limit: self.inner.config.max_inflight,
            })?;
        Ok(Admission {
            _permit: Arc::new(permit),
            _token: self.inner.tracker.token(),
        })
    }

    /// Ends when answers under way must be broken off.
    pub(crate) fn aborted(&self) -> CancellationToken {
        self.inner.abort.clone()
    }

    /// Takes nothing new from now on.
    pub(crate) fn start_draining(&self) {
        self.inner.draining.cancel();
        self.inner.tracker.close();
    }

    /// Waits until nothing is under way.
    pub(crate) async fn drained(&self) {
        self.inner.tracker.wait().await;
    }

    /// Breaks off what is under way.
    pub(crate) fn abort(&self) {
        self.inner.abort.cancel();
    }
}
