//! `POST /v1/completions`.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use vlmd_api::{CompletionRequest, ErrorBody, Null, TextCompletion, Usage, text_completion_id};

use crate::echo::Wanted;
use crate::entrance::Entrance;
use crate::error::Refusal;
use crate::sse::{Envelope, Manner};
use crate::state::{AppState, unix_time};
use crate::whole::{self, WholeAnswer};
use crate::{body, completion_stream};

/// Continues texts.
///
/// With `stream` the answers come as server-sent events, one `TextChunk` each, and end with
/// `[DONE]`; an error after the first chunk is a `StreamErrorBody`.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "completions",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answers; with `stream`, `text/event-stream` of `TextChunk`", body = TextCompletion),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(crate) async fn completions(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, Refusal> {
    let entrance = Entrance::new(&state, &request)?;
    let request = body::read(request, state.config(), CompletionRequest::from_slice).await?;
    answer(&state, entrance, request).await
}

/// Answers a request that has been read.
pub(crate) async fn answer(
    state: &AppState,
    entrance: Entrance,
    mut request: CompletionRequest,
) -> Result<Response, Refusal> {
    let mut completing = entrance.complete(state, &mut request).await?;
    let n = request.n as usize;
    let wanted = Wanted::by(&request);
    let settings = request.settings;
    let (id, created) = (text_completion_id(), unix_time());
    if settings.stream == Some(true) {
        let envelope = Envelope {
            id,
            created,
            model: settings.model,
            options: settings.stream_options,
            logprobs: wanted.logprobs.is_some(),
            manner: Manner::default(),
        };
        return Ok(completion_stream::respond(completing, n, wanted, envelope));
    }
    let generations = completing.iter_mut().map(|one| &mut one.generation);
    let whole = try_join_all(generations.map(whole::collect)).await?;
    let mut choices = Vec::new();
    for (whole, completing) in whole.into_iter().zip(&completing) {
        let mut scores = whole.prompt_logprobs;
        for answer in best(whole.answers, n) {
            let echo = completing.echo.as_ref();
            choices.push(wanted.choice(choices.len(), answer, echo, scores.take()));
        }
    }
    let usage = completing.iter().map(|one| one.generation.usage());
    let usage = usage.reduce(Usage::and).unwrap_or(Usage::new(0, 0));
    Ok(Json(TextCompletion {
        id,
        object: TextCompletion::OBJECT,
        created,
        model: settings.model,
        choices,
        usage: wanted.usage(usage),
        kv_transfer_params: Null,
    })
    .into_response())
}

/// The `n` most probable of `answers`, best first; all of them as they are if there are no more.
fn best(mut answers: Vec<WholeAnswer>, n: usize) -> Vec<WholeAnswer> {
    if answers.len() > n {
        let sum = |answer: &WholeAnswer| {
            let logprobs = answer.logprobs.iter();
            logprobs.map(|token| f64::from(token.logprob)).sum::<f64>()
        };
        answers.sort_by(|a, b| sum(b).total_cmp(&sum(a)));
        answers.truncate(n);
    }
    answers
}

#[cfg(test)]
mod tests {
    use vlmd_api::{FinishReason, TokenLogprob, TopLogprob};

    use super::*;
    use crate::answer::End;

    fn answer(text: &str, logprobs: &[f32]) -> WholeAnswer {
        let token = |&logprob| TokenLogprob::new(TopLogprob::new("x".into(), logprob), Vec::new());
        WholeAnswer {
            text: text.into(),
            calls: Vec::new(),
            logprobs: logprobs.iter().map(token).collect(),
            entities: None,
            end: End {
                reason: FinishReason::Stop,
                stop: None,
            },
        }
    }

    #[test]
    fn the_best_have_the_largest_sums() {
        let answers = || {
            vec![
                answer("poor", &[-1.0, -2.0]),
                answer("best", &[-0.5]),
                answer("good", &[-0.5, -0.5]),
            ]
        };
        let texts = |n| {
            let kept = best(answers(), n);
            kept.into_iter()
                .map(|answer| answer.text)
                .collect::<Vec<_>>()
        };
        assert_eq!(texts(1), ["best"]);
        assert_eq!(texts(2), ["best", "good"]);
        assert_eq!(texts(3), ["poor", "best", "good"]);
    }
}
