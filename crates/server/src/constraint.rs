//! Grammars for answers, from a request to the engine.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use vlmd_api::{ChatRequest, ConstraintKind};
use vlmd_engine::{Constraint, ConstraintError};
use vlmd_text::constraint::{Grammar, GrammarCompiler, GrammarError, GrammarSource, Matcher};

use crate::error::Refusal;
use crate::state::{AppState, ServedModel};

/// Longest time for which a request waits for its grammar. Compilation is bounded by the size of
/// the grammar and ends by itself; this is for machines that are slow or busy.
const COMPILE_TIME: Duration = Duration::from_secs(2);

/// Grammars compiled at a time.
const MAX_COMPILES: usize = 2;

/// The model's compiler, and places for its work.
#[derive(Debug)]
pub(crate) struct Grammars {
    compiler: OnceLock<Arc<GrammarCompiler>>,
    places: Arc<Semaphore>,
}

impl Default for Grammars {
    fn default() -> Self {
        Self {
            compiler: OnceLock::new(),
            places: Arc::new(Semaphore::new(MAX_COMPILES)),
        }
    }
}

impl Grammars {
    fn compiler(&self, model: &ServedModel) -> Arc<GrammarCompiler> {
        let new = || {
            let processor = &model.processor;
            let (tokenizer, stops) = (processor.tokenizer(), processor.stop_ids());
            Arc::new(GrammarCompiler::new(tokenizer, model.vocab_size, stops))
        };
        Arc::clone(self.compiler.get_or_init(new))
    }
}

/// The grammar that the request's own fields ask for, if they do.
pub(crate) async fn of_request(
    state: &AppState,
    model: &ServedModel,
    request: &ChatRequest,
) -> Result<Option<Grammar>, Refusal> {
    match request.constraint() {
        None => Ok(None),
        Some(wanted) => {
            let source = match wanted.kind {
                ConstraintKind::JsonObject => GrammarSource::JsonObject,
                ConstraintKind::JsonSchema(schema) => GrammarSource::JsonSchema(schema),
                ConstraintKind::Regex(regex) => GrammarSource::Regex(regex),
                ConstraintKind::Choice(choices) => GrammarSource::Choice(choices),
                ConstraintKind::Grammar(grammar) => GrammarSource::Lark(grammar),
            };
            compile(state, model, &wanted.field, Some(source)).await
        }
    }
}

/// The grammar of `source`, which the request gives in its field `field`.
pub(crate) async fn compile(
    state: &AppState,
    model: &ServedModel,
    field: &str,
    source: Option<GrammarSource>,
) -> Result<Option<Grammar>, Refusal> {
    let Some(source) = source else {
        return Ok(None);
    };
    let grammars = state.grammars();
    let compiler = grammars.compiler(model);
    if let Some(grammar) = compiler.cached(&source) {
        return Ok(Some(grammar));
    }
    let refused = |problem: String| Refusal::Grammar {
        field: field.to_owned(),
        problem,
    };
    let place = Arc::clone(&grammars.places).acquire_owned();
    let place = timeout(COMPILE_TIME, place)
        .await
        .map_err(|_| Refusal::GrammarsBusy {
            limit: MAX_COMPILES,
        })?
        .map_err(|_| Refusal::Internal)?;
    // The first request of all waits for the vocabulary as well, whose time is not its fault.
    let vocabulary = Arc::clone(&compiler);
    let prepared = spawn_blocking(move || vocabulary.prepare()).await;
    let prepared = prepared.map_err(|_| Refusal::Internal)?;
    prepared.map_err(|error| refused(error.to_string()))?;
    let work = spawn_blocking(move || {
        let grammar = compiler.compile(&source);
        // It goes along: who does not wait any longer does not free it before the work is done.
        drop(place);
        grammar
    });
    let compiled: Result<Grammar, GrammarError> = match timeout(COMPILE_TIME, work).await {
        Ok(done) => done.map_err(|_| Refusal::Internal)?,
        Err(_) => {
            let seconds = COMPILE_TIME.as_secs();
            return Err(refused(format!(
                "it takes longer than {seconds} s to compile; make it simpler"
            )));
        }
    };
    compiled
        .map(Some)
        .map_err(|error| refused(error.to_string()))
}

/// A matcher, as the engine asks it.
#[derive(Debug)]
pub(crate) struct Constrained(Matcher);

impl Constrained {
    /// For the answers of one request: the engine forks it.
    pub(crate) fn start(grammar: &Grammar) -> Box<dyn Constraint> {
        Box::new(Self(grammar.start()))
    }
}

impl Constraint for Constrained {
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        self.0.mask(logits).map_err(|error| broken(&error))
    }

    fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        self.0.accept(id).map_err(|error| broken(&error))
    }

    fn forced(&mut self) -> Result<Vec<u32>, ConstraintError> {
        self.0.forced().map_err(|error| broken(&error))
    }

    fn is_complete(&self) -> bool {
        self.0.is_complete()
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Self(self.0.fork()))
    }
}

fn broken(error: &impl ToString) -> ConstraintError {
    ConstraintError(error.to_string())
}
