//! `POST /v1/completions`.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use vlmd_api::{
    CompletionRequest, ErrorBody, Null, TextChoice, TextCompletion, TextLogprobs, Usage,
    text_completion_id,
};

use crate::entrance::Entrance;
use crate::error::Refusal;
use crate::generation::Generation;
use crate::sse::Envelope;
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
    let mut generations = entrance.complete(state, &mut request).await?;
    let (n, logprobs) = (request.n as usize, request.logprobs.is_some());
    let settings = request.settings;
    let (id, created) = (text_completion_id(), unix_time());
    if settings.stream == Some(true) {
        let envelope = Envelope {
            id,
            created,
            model: settings.model,
            options: settings.stream_options,
            logprobs,
        };
        return Ok(completion_stream::respond(generations, n, envelope));
    }
    let whole = try_join_all(generations.iter_mut().map(whole::collect)).await?;
    let mut choices = Vec::new();
    for whole in whole {
        let mut prompt_logprobs = whole.prompt_logprobs;
        for answer in best(whole.answers, n) {
            choices.push(TextChoice {
                index: choices.len(),
                logprobs: logprobs.then(|| TextLogprobs::new(answer.logprobs, 0)),
                text: answer.text,
                finish_reason: answer.end.reason,
                stop_reason: answer.end.stop,
                prompt_logprobs: prompt_logprobs.take(),
            });
        }
    }
    let usage = generations.iter().map(Generation::usage);
    Ok(Json(TextCompletion {
        id,
        object: TextCompletion::OBJECT,
        created,
        model: settings.model,
        choices,
        usage: usage.reduce(Usage::and).unwrap_or(Usage::new(0, 0)),
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
