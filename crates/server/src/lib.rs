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
//! `entrance` does 3 and 4, for every dialect.
//!
//! Everything that a request holds hangs on the future or the stream that hyper polls for it.
//! When the client goes away hyper drops that, the engine's streams go with it, and the engine
//! frees their blocks: there is no other way of cancelling and no list of requests to clean up.
//!
//! Every error becomes an answer in one place, `error`.

mod answer;
mod auth;
mod bad_words;
mod body;
mod config;
mod constraint;
mod entrance;
mod error;
mod generation;
mod html;
mod metrics;
mod observe;
mod openapi;
mod pictures;
mod prompt;
mod routes;
mod serve;
mod sse;
mod state;
#[cfg(feature = "otlp")]
mod telemetry;
mod tool_calls;
mod trace_context;
mod whole;

pub use auth::ApiKeys;
pub use config::ServerConfig;
pub use openapi::openapi;
pub use pictures::{ImageCacheStats, PictureMemory, PictureStore};
pub use serve::{ServeError, serve};
pub use state::{ModelSlot, ServedModel, SlotFilled};
