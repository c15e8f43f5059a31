//! From texts to be continued, or their tokens, to prompts.

use std::sync::Arc;

use vlmd_api::{CompletionRequest, RequestError, TextPrompt};
use vlmd_backend::Prepared;
use vlmd_models::PrepareError;

use crate::auth::Caller;
use crate::bad_words;
use crate::echo::Echo;
use crate::error::Refusal;
use crate::pictures::Owner;
use crate::prompt::{Origin, Prompt, at_work};
use crate::state::{AppState, ServedModel};

/// Makes the prompts of a request, which it takes out of it together with the bad words.
pub(crate) async fn prepare(
    state: &AppState,
    model: &Arc<ServedModel>,
    request: &mut CompletionRequest,
    caller: Option<Caller>,
) -> Result<Vec<Prompt>, Refusal> {
    let owner = Owner {
        caller,
        cache_salt: request.settings.cache_salt.as_deref().map(Arc::from),
    };
    let draft = Draft {
        prompts: std::mem::take(&mut request.prompt),
        add_special_tokens: request.add_special_tokens,
        bad_words: std::mem::take(&mut request.settings.bad_words),
        salt: owner.salt(),
        echo: request.echo,
        has_logprobs: request.logprobs.is_some(),
    };
    let model = Arc::clone(model);
    at_work(state, move || draft.finish(&model)).await?
}

/// The tokens of one text as it stands: control tokens that are written out are control tokens.
/// Who sends a whole prompt has nobody else's words in it to keep apart.
pub(crate) async fn tokens(
    state: &AppState,
    model: &Arc<ServedModel>,
    text: String,
    add_special_tokens: bool,
) -> Result<Vec<u32>, Refusal> {
    let model = Arc::clone(model);
    at_work(state, move || {
        encode(&model, "prompt", &text, add_special_tokens)
    })
    .await?
}

/// What is made into prompts.
struct Draft {
    prompts: Vec<TextPrompt>,
    add_special_tokens: bool,
    bad_words: Vec<String>,
    salt: Vec<u8>,
    /// Whether answers repeat their prompt, and tell the log probabilities of its tokens.
    echo: bool,
    has_logprobs: bool,
}

impl Draft {
    fn finish(self, model: &ServedModel) -> Result<Vec<Prompt>, Refusal> {
        let tokenizer = model.processor.tokenizer();
        let bad_words = bad_words::tokens(tokenizer, &self.bad_words)
            .map_err(|error| untokenizable("bad_words", &error))?;
        let single = self.prompts.len() == 1;
        let make = |(index, prompt)| {
            let field = if single {
                "prompt".to_owned()
            } else {
                format!("prompt[{index}]")
            };
            let (tokens, text) = match prompt {
                TextPrompt::Tokens(tokens) => (tokens, None),
                TextPrompt::Text(text) => (
                    encode(model, &field, &text, self.add_special_tokens)?,
                    Some(text),
                ),
            };
            check(model, &field, &tokens)?;
            let echo = self.echo.then(|| {
                let echo = Echo::new(tokenizer, &tokens, text.as_deref(), self.has_logprobs);
                echo.map_err(|error| {
                    tracing::error!(%error, "a prompt cannot be decoded");
                    Refusal::Internal
                })
            });
            Ok(Prompt {
                echo: echo.transpose()?,
                prepared: Prepared::text(tokens),
                bad_words: bad_words.clone(),
                salt: self.salt.clone(),
                origin: Origin::Text,
                continues: true,
                text,
            })
        };
        self.prompts.into_iter().enumerate().map(make).collect()
    }
}

fn encode(
    model: &ServedModel,
    field: &str,
    text: &str,
    add_special_tokens: bool,
) -> Result<Vec<u32>, Refusal> {
    let tokenizer = model.processor.tokenizer();
    // Whatever the text holds, it is not a mark of the shield's.
    let text = tokenizer.unshield(text);
    tokenizer
        .encode(&text, add_special_tokens)
        .map_err(|error| untokenizable(field, &error))
}

fn untokenizable(field: &str, error: &impl ToString) -> Refusal {
    Refusal::Prepare {
        field: field.to_owned(),
        source: PrepareError::Tokenize(error.to_string()),
    }
}

/// Refuses tokens that the model cannot read.
fn check(model: &ServedModel, field: &str, tokens: &[u32]) -> Result<(), Refusal> {
    let refused = |field, bound, value| {
        Err(RequestError::Value {
            field,
            bound,
            value,
        }
        .into())
    };
    if tokens.is_empty() {
        let bound = "a text of at least one token".into();
        return refused(field.to_owned(), bound, "one without any".into());
    }
    let vocab_size = model.engine.input_vocab_size();
    let unknown = |id: &u32| *id as usize >= vocab_size;
    match tokens.iter().position(unknown).map(|at| (at, tokens[at])) {
        None => Ok(()),
        Some((at, id)) => refused(
            format!("{field}[{at}]"),
            format!("a token id below {vocab_size}, the size of the vocabulary"),
            id.to_string(),
        ),
    }
}
