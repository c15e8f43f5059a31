//! The way into the engine, the same for every dialect.

use std::sync::Arc;

use axum::extract::Request;
use tracing::{Instrument as _, info_span};
use vlmd_api::ChatRequest;

use crate::auth::Caller;
use crate::error::Refusal;
use crate::generation::{self, Generation};
use crate::state::{Admission, AppState, ServedModel};
use crate::{prompt, tool_calls};

/// A request that was let in, before its body is read.
#[derive(Debug)]
pub(crate) struct Entrance {
    pub(crate) model: Arc<ServedModel>,
    pub(crate) caller: Option<Caller>,
    admission: Admission,
}

impl Entrance {
    /// Lets a request in if there is a model and a place.
    pub(crate) fn new(state: &AppState, request: &Request) -> Result<Self, Refusal> {
        Ok(Self {
            model: Arc::clone(state.model()?),
            admission: state.admit()?,
            caller: request.extensions().get::<Caller>().copied(),
        })
    }

    /// Makes the prompt and puts the request into the engine's line. Takes its messages, template
    /// arguments and bad words out of it.
    pub(crate) async fn submit(
        self,
        state: &AppState,
        request: &mut ChatRequest,
    ) -> Result<Generation, Refusal> {
        let model = &self.model;
        check_name(model, &request.model)?;
        generation::check_token_ids(model, request)?;
        let grammar = tool_calls::grammar(state, model, request).await?;
        let prompt = prompt::prepare(state, model, request, self.caller)
            .instrument(info_span!("prepare"))
            .await?;
        let grammar = grammar.as_ref();
        Generation::submit(state, self.admission, model, request, &prompt, grammar)
    }
}

/// Refuses a name that is not served.
pub(crate) fn check_name(model: &ServedModel, name: &str) -> Result<(), Refusal> {
    if model.names.iter().any(|served| served == name) {
        return Ok(());
    }
    Err(Refusal::UnknownModel {
        name: name.chars().take(128).collect(),
        served: model
            .names
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", "),
    })
}
