//! The HTTP server: routes, auth, limits, server-sent events, metrics, drain.
//!
//! [`serve`] answers as soon as the listener is open: alive at once, ready once the
//! [`ModelSlot`] is filled, and not ready again when the engine's worker is gone or a shutdown
//! has begun.
//!
//! # The way of a chat request
//!
//! 1. `auth` and `body` let it in: key, content type, size.
//! 2. [`vlmd_api::ChatRequest`] reads and checks it.
//! 3. `pictures` loads its pictures through the media gate, as far as they are not remembered, and
//!    `prompt` has the model's processor make a prompt of it all, on the blocking threads.
//!    `constraint` compiles the grammar that the answer must follow, if it must.
//! 4. `generation` puts it into the engine's line, once per wanted answer.
//! 5. `answer` turns events into text, `tool_calls` takes calls out of it; `sse` sends it piece by
//!    piece, or `whole` puts it together.
//!
//! `entrance` does 3 and 4, for every dialect. `assets` keeps pictures that were uploaded before.
//! Dialects beside OpenAI's chat are made into it by `vlmd_api`, and tell their answers by
//! themselves: `anthropic` and `responses`, streamed through `narrate`. Texts to be continued have
//! no pictures and no template: `text_prompt` takes the place of 3, and each of them has a
//! `generation`.
//!
//! Everything that a request holds hangs on the future or the stream that hyper polls for it.
//! When the client goes away hyper drops that, the engine's streams go with it, and the engine
//! frees their blocks: there is no other way of cancelling and no list of requests to clean up.
//!
//! Every error becomes an answer in one place, `error`.

mod answer;
mod anthropic;
mod assets;
mod auth;
mod bad_words;
mod body;
mod checkpoint;
mod completion_stream;
mod config;
mod constraint;
mod cors;
mod echo;
mod entrance;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod generation;
mod head;
mod html;
mod metrics;
mod narrate;
mod observe;
mod openapi;
mod pace;
mod patient;
mod peers;
mod pictures;
mod prompt;
mod responses;
mod root_path;
mod routes;
mod serve;
mod sse;
mod state;
#[cfg(feature = "otlp")]
mod telemetry;
mod text_prompt;
mod tls;
mod tool_calls;
mod trace_context;
mod whole;

pub use assets::AssetLimits;
pub use auth::{ApiKeys, KeyFileError};
pub use checkpoint::{Checkpoint, CheckpointFile};
pub use config::ServerConfig;
pub use cors::{Cors, CorsError, CorsRules};
pub use openapi::openapi;
pub use pictures::{ImageCacheStats, PictureMemory, PictureStore};
pub use responses::ResponseMemory;
pub use root_path::{InvalidRootPath, RootPath};
pub use serve::{Listeners, ServeError, serve};
pub use state::{ModelSlot, ServedModel, SlotFilled};
pub use tls::{Tls, TlsError, TlsFiles};
