//! A server for one test, and a client for it.

use std::sync::{Arc, Once};
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vlmd_backend::KvDtype;
use vlmd_backend::Model as _;
use vlmd_engine::{Engine, EngineConfig, Sampling, Stats};
use vlmd_media::{MediaConfig, MediaGate};
use vlmd_server::{
    Checkpoint, CheckpointFile, ModelSlot, PictureMemory, PictureStore, ServeError, ServedModel,
    ServerConfig, serve,
};

use crate::script::{Role, ScriptedModel, ScriptedProcessor};

/// Name under which the model is served.
pub(crate) const MODEL: &str = "org/alphabet";

/// What a test may want to be otherwise.
pub(crate) struct Setup {
    pub(crate) config: ServerConfig,
    pub(crate) media: MediaConfig,
    pub(crate) pictures: PictureMemory,
    pub(crate) max_model_len: usize,
    pub(crate) max_num_seqs: usize,
    pub(crate) max_queue: usize,
    /// Whether answers point at what they name.
    pub(crate) points: bool,
    /// What the model says instead of the alphabet.
    pub(crate) role: Option<Role>,
    /// How long the model takes for a step.
    pub(crate) pace: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: ServerConfig::default(),
            media: MediaConfig::default(),
            pictures: PictureMemory::default(),
            max_model_len: 4096,
            max_num_seqs: 64,
            max_queue: 64,
            points: false,
            role: None,
            pace: Duration::ZERO,
        }
    }
}

pub(crate) struct TestServer {
    pub(crate) base: String,
    pub(crate) client: Client,
    pub(crate) slot: ModelSlot,
    engine: Option<Engine>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl TestServer {
    /// Starts with the model loaded.
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let (config, model) = load(setup).await;
        let mut server = Self::loading(config).await;
        server.engine = Some(model.engine.clone());
        server.slot.fill(model).unwrap();
        server
    }

    /// Starts without a model.
    pub(crate) async fn loading(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let slot = ModelSlot::default();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, config, slot.clone(), shutdown));
        Self {
            base,
            client: client(),
            slot,
            engine: None,
            stop: Some(stop),
            task,
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    pub(crate) fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.client
            .post(format!("{}/v1/chat/completions", self.base))
            .header(CONTENT_TYPE, "application/json")
            .body(body)
    }

    /// Posts JSON to `path`.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> Response {
        self.client
            .post(format!("{}{path}", self.base))
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string())
            .send()
            .await
            .unwrap()
    }

    /// Sends a chat request: `extra` over a minimal one.
    pub(crate) async fn chat(&self, extra: &Value) -> Response {
        let body = chat_body(extra).to_string();
        self.post(body).send().await.unwrap()
    }

    /// Sends a chat request that is answered.
    pub(crate) async fn answer(&self, extra: &Value) -> Value {
        let response = self.chat(extra).await;
        let status = response.status();
        let body = json_of(response).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Sends a chat request that is refused; gives status and error.
    pub(crate) async fn refusal(&self, extra: &Value) -> (u16, Value) {
        error_of(self.chat(extra).await).await
    }

    /// Waits until the engine has nothing to do.
    pub(crate) async fn idle(&self) -> Stats {
        loop {
            let stats = self.engine().stats();
            if stats.running == 0 && stats.waiting == 0 {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until the engine is at work on `count` answers.
    pub(crate) async fn busy(&self, count: usize) {
        while self.engine().stats().running < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Tells the server to stop.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until it has.
    pub(crate) async fn stopped(self) {
        self.task.await.unwrap().unwrap();
    }
}

/// Loads the scripted model.
pub(crate) async fn load(setup: Setup) -> (ServerConfig, ServedModel) {
    let blocks = setup.max_model_len.div_ceil(32) * 4;
    let engine_config = EngineConfig {
        max_num_seqs: setup.max_num_seqs,
        max_queue: setup.max_queue,
        ..EngineConfig::new(blocks, KvDtype::F32, setup.max_model_len)
    };
    let model = Box::new(ScriptedModel::new(setup.pace, setup.role.clone()));
    let vocab_size = model.spec().vocab_size;
    let engine = tokio::task::spawn_blocking(move || Engine::start(model, engine_config))
        .await
        .unwrap()
        .unwrap();
    let model = ServedModel {
        names: vec![MODEL.to_owned(), "alias".to_owned()],
        processor: Arc::new(ScriptedProcessor::new(setup.points, setup.role)),
        engine,
        media: MediaGate::new(setup.media).unwrap(),
        pictures: PictureStore::new(setup.pictures),
        checkpoint: checkpoint(),
        vocab_size,
        max_images: 5,
        max_num_seqs: 8,
        default_max_tokens: usize::MAX,
        default_sampling: Sampling::default(),
    };
    (setup.config, model)
}

/// What is told of the scripted model.
fn checkpoint() -> Checkpoint {
    let file = |name: &str, sha256: Option<&str>| CheckpointFile {
        name: name.to_owned(),
        sha256: sha256.map(str::to_owned),
    };
    Checkpoint {
        url: "hf://org/alphabet@v1".to_owned(),
        version: "v1".to_owned(),
        architecture: "script".to_owned(),
        precision: None,
        weight_bytes: 26,
        licence: Some("MIT".to_owned()),
        files: vec![file("config.json", Some("ab")), file("a: \"b\"", None)],
    }
}

/// `extra` over a minimal chat request.
pub(crate) fn chat_body(extra: &Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]});
    let fields = extra.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body
}

/// The JSON of a response.
pub(crate) async fn json_of(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// Status and error of a response, which must have the envelope.
pub(crate) async fn error_of(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert!(response.headers().contains_key("x-request-id"));
    let text = response.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}"));
    let error = body["error"].clone();
    for field in ["message", "type", "code"] {
        assert!(error[field].is_string(), "{status}: {body}");
    }
    (status, error)
}

fn client() -> Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Another test may have been faster with the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Client::builder().no_proxy().build().unwrap()
}
