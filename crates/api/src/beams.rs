//! Beam search instead of drawing tokens, as vLLM's requests ask for it.

use crate::{ChatRequest, RequestError};

/// Checks the fields of a search against the rest of the request.
pub(crate) fn check(request: &ChatRequest) -> Result<(), RequestError> {
    let conflict = |field: &str, problem: String| {
        Err(RequestError::Conflict {
            field: field.to_owned(),
            problem,
        })
    };
    let n = request.n.unwrap_or(1);
    let searches = request.use_beam_search.unwrap_or(false);
    if let Some(best_of) = request.best_of {
        if best_of < n {
            return conflict(
                "best_of",
                format!("must be at least `n`, which is {n}, got {best_of}"),
            );
        }
        if best_of > n && !searches {
            return conflict("best_of", "above `n` needs `use_beam_search`".into());
        }
    }
    if !searches {
        let unused = [
            (
                "length_penalty",
                request.length_penalty.is_some_and(|p| p != 1.0),
            ),
            ("early_stopping", request.early_stopping.unwrap_or(false)),
        ];
        let unused = unused.into_iter().find(|(_, set)| *set);
        return unused.map_or(Ok(()), |(field, _)| {
            conflict(field, "needs `use_beam_search` to be true".into())
        });
    }
    if let Some(constraint) = request.constraint() {
        return conflict(
            &constraint.field,
            "cannot be had with `use_beam_search`".into(),
        );
    }
    for (field, set) in [
        ("logprobs", request.logprobs.unwrap_or(false)),
        ("prompt_logprobs", request.prompt_logprobs.is_some()),
        ("logit_bias", !request.logit_bias.is_empty()),
        ("bad_words", !request.bad_words.is_empty()),
        ("allowed_token_ids", request.allowed_token_ids.is_some()),
        ("stop", !request.stops().is_empty()),
    ] {
        if set {
            return conflict(field, "cannot be had with `use_beam_search`".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{ChatRequest, RequestError};

    fn request(more: &Value) -> Result<ChatRequest, RequestError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        ChatRequest::from_value(body)
    }

    #[test]
    fn a_search_has_as_many_beams_as_answers_or_more() {
        for more in [
            json!({"use_beam_search": true}),
            json!({"use_beam_search": true, "n": 3, "best_of": 5, "length_penalty": 0.5,
                "early_stopping": true}),
            json!({"best_of": 1, "use_beam_search": false, "length_penalty": 1.0,
                "early_stopping": false}),
            json!({"n": 4, "best_of": 4}),
        ] {
            assert!(request(&more).is_ok(), "{more}");
        }
        for (more, field) in [
            (
                json!({"use_beam_search": true, "n": 3, "best_of": 2}),
                "best_of",
            ),
            (json!({"best_of": 2}), "best_of"),
            (json!({"best_of": 17, "use_beam_search": true}), "best_of"),
            (json!({"length_penalty": 2}), "length_penalty"),
            (json!({"early_stopping": true}), "early_stopping"),
            (
                json!({"use_beam_search": true, "logprobs": true}),
                "logprobs",
            ),
            (json!({"use_beam_search": true, "stop": "x"}), "stop"),
            (
                json!({"use_beam_search": true, "guided_regex": "x"}),
                "guided_regex",
            ),
            (
                json!({"use_beam_search": true, "response_format": {"type": "json_object"}}),
                "response_format",
            ),
            (
                json!({"use_beam_search": true, "logit_bias": {"1": 2}}),
                "logit_bias",
            ),
        ] {
            assert_eq!(request(&more).unwrap_err().param(), Some(field), "{more}");
        }
    }
}
