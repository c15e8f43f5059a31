//! The way into the engine, the same for every dialect.

use std::sync::Arc;

use axum::extract::Request;
use tracing::{Instrument as _, info_span};
use vlmd_api::{ChatRequest, CompletionRequest};

use crate::assets::Owner;
use crate::auth::Caller;
use crate::echo::Echo;
use crate::error::Refusal;
use crate::generation::{self, Generation};
use crate::prompt::Prompt;
use crate::state::{Admission, AppState, ServedModel};
use crate::{prompt, text_prompt, tool_calls};

/// A request that was let in, before its body is read. Clones share its place.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    pub(crate) model: Arc<ServedModel>,
    pub(crate) caller: Option<Caller>,
    admission: Admission,
}

/// The answers to one of several texts.
#[derive(Debug)]
pub(crate) struct Completing {
    pub(crate) generation: Generation,
    /// What stands in front of them.
    pub(crate) echo: Option<Echo>,
}

impl Entrance {
    /// Lets a request in if there is a model and a place, and all assets that its header names.
    pub(crate) fn new(state: &AppState, request: &Request) -> Result<Self, Refusal> {
        let entrance = Self {
            model: Arc::clone(state.model()?),
            admission: state.admit()?,
            caller: request.extensions().get::<Caller>().copied(),
        };
        let owner = Owner::from(entrance.caller);
        state.assets().check_references(owner, request.headers())?;
        Ok(entrance)
    }

    /// Makes the prompt and counts its tokens. Takes of the request what [`Self::submit`] does.
    pub(crate) async fn count(
        self,
        state: &AppState,
        request: &mut ChatRequest,
    ) -> Result<usize, Refusal> {
        check_name(&self.model, &request.model)?;
        tool_calls::check(&self.model, request)?;
        let prompt = prompt::prepare(state, &self.model, request, self.caller)
            .instrument(info_span!("prepare"))
            .await?;
        Ok(prompt.prepared.tokens.len())
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

    /// The same for texts to be continued: the answers to each, and what they repeat. Takes the
    /// prompts out of the request.
    pub(crate) async fn complete(
        self,
        state: &AppState,
        request: &mut CompletionRequest,
    ) -> Result<Vec<Completing>, Refusal> {
        let model = &self.model;
        let grammar = {
            let settings = &request.settings;
            check_name(model, &settings.model)?;
            generation::check_token_ids(model, settings)?;
            tool_calls::grammar(state, model, settings).await?
        };
        let prompts = text_prompt::prepare(state, model, request, self.caller)
            .instrument(info_span!("prepare"))
            .await?;
        let (settings, grammar) = (&request.settings, grammar.as_ref());
        let submit = |prompt: Prompt| {
            let admission = self.admission.clone();
            Ok(Completing {
                generation: Generation::submit(
                    state, admission, model, settings, &prompt, grammar,
                )?,
                echo: prompt.echo,
            })
        };
        prompts.into_iter().map(submit).collect()
    }

    /// Makes the prompt of a conversation to be looked at: nothing is asked of the model.
    pub(crate) async fn show(
        &self,
        state: &AppState,
        request: &mut ChatRequest,
    ) -> Result<Prompt, Refusal> {
        tool_calls::check(&self.model, request)?;
        prompt::show(state, &self.model, request, self.caller)
            .instrument(info_span!("prepare"))
            .await
    }

    /// The same of texts.
    pub(crate) async fn show_texts(
        &self,
        state: &AppState,
        request: &mut CompletionRequest,
    ) -> Result<Vec<Prompt>, Refusal> {
        text_prompt::prepare(state, &self.model, request, self.caller)
            .instrument(info_span!("prepare"))
            .await
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
