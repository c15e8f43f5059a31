//! Reading request bodies: every field, every refusal, and nothing that panics.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use utoipa::PartialSchema;
use vlmd_api::{ChatRequest, MAX_CHOICES, MAX_STOPS, RequestError, StreamOptions, UNSUPPORTED};

fn body(extra: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    if let (Value::Object(body), Value::Object(extra)) = (&mut body, extra) {
        body.extend(extra);
    }
    body
}

fn read(extra: Value) -> Result<ChatRequest, RequestError> {
    ChatRequest::from_value(body(extra))
}

fn refused(extra: Value) -> Option<RequestError> {
    read(extra).err()
}

#[test]
fn a_minimal_request_has_the_documented_defaults() {
    let request = read(json!({})).unwrap();
    assert_eq!(request.max_new_tokens(), None);
    assert_eq!(request.top_k(), None);
    assert_eq!(request.wanted_logprobs(), None);
    assert!(request.stops().is_empty());
    assert!(!request.ignore_eos());
}

#[test]
fn what_is_above_zero_stays_above_it() {
    let request = read(json!({"top_p": 5e-324, "temperature": 5e-324})).unwrap();
    assert!(request.top_p.is_some_and(|value| value > 0.0));
    assert_eq!(request.temperature, Some(0.0));
}

#[test]
fn null_is_the_same_as_absent_for_every_optional_field() {
    let schema = serde_json::to_value(ChatRequest::schema()).unwrap();
    let names = schema["properties"].as_object().unwrap().keys().cloned();
    let unsupported = UNSUPPORTED.iter().map(|field| field.name.to_owned());
    let nulls: Map<_, _> = names
        .chain(unsupported)
        .filter(|name| name != "model" && name != "messages")
        .map(|name| (name, Value::Null))
        .collect();
    assert_eq!(read(Value::Object(nulls)), read(json!({})));
}

#[test]
fn every_documented_field_is_read_and_type_checked() {
    let schema = serde_json::to_value(ChatRequest::schema()).unwrap();
    for name in schema["properties"].as_object().unwrap().keys() {
        // Objects with names of the client's choice, or of which unknown ones are ignored.
        let objects = [
            "chat_template_kwargs",
            "guided_json",
            "logit_bias",
            "nvext",
            "structured_outputs",
        ];
        let wrong = if objects.contains(&name.as_str()) {
            json!("x")
        } else {
            json!({"odd": 1})
        };
        let error = refused(json!({ name: wrong })).unwrap();
        let param = error.param().unwrap();
        assert!(
            param == name || param.starts_with(&format!("{name}.")),
            "{error}"
        );
    }
}

#[test]
fn numbers_out_of_range_are_refused_with_bound_and_value() {
    let cases = [
        (json!({"temperature": -0.1}), "between 0 and 2, got -0.1"),
        (json!({"temperature": 2.01}), "between 0 and 2, got 2.01"),
        (json!({"top_p": 0}), "greater than 0 and at most 1, got 0"),
        (
            json!({"top_p": 1.1}),
            "greater than 0 and at most 1, got 1.1",
        ),
        (json!({"min_p": -1}), "between 0 and 1, got -1"),
        (json!({"top_k": -2}), "between -1 and 4294967295, got -2"),
        (json!({"n": 0}), "between 1 and 16, got 0"),
        (json!({"n": MAX_CHOICES + 1}), "between 1 and 16, got 17"),
        (json!({"max_tokens": 0}), "between 1 and 4294967295, got 0"),
        (
            json!({"max_tokens": -5}),
            "between 1 and 4294967295, got -5",
        ),
        (
            json!({"max_tokens": 1e30}),
            "between 1 and 4294967295, got 1e+30",
        ),
        (
            json!({"max_completion_tokens": 0}),
            "between 1 and 4294967295, got 0",
        ),
        (
            json!({"min_tokens": -1}),
            "between 0 and 4294967295, got -1",
        ),
        (json!({"frequency_penalty": 3}), "between -2 and 2, got 3"),
        (json!({"presence_penalty": -3}), "between -2 and 2, got -3"),
        (
            json!({"repetition_penalty": 0}),
            "greater than 0 and at most 2, got 0",
        ),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "between 0 and 20, got 21",
        ),
        (
            json!({"stop_token_ids": [-1]}),
            "between 0 and 4294967295, got -1",
        ),
        (
            json!({"logit_bias": {"5": 101}}),
            "between -100 and 100, got 101",
        ),
        (
            json!({"nvext": {"top_k": -2}}),
            "between -1 and 4294967295, got -2",
        ),
        (
            json!({"no_repeat_ngram_size": 65}),
            "between 0 and 64, got 65",
        ),
        (
            json!({"num_frames_per_inference": 33}),
            "between 1 and 32, got 33",
        ),
    ];
    for (extra, message) in cases {
        let error = refused(extra).unwrap();
        assert_eq!(error.code(), "invalid_value");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn other_malformed_fields_are_named() {
    let cases = [
        (json!({"model": null}), "model"),
        (json!({"model": 3}), "model"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "hi"}), "messages"),
        (json!({"messages": ["hi"]}), "messages[0]"),
        (
            json!({"messages": [{"role": "user", "content": "x"}, {"content": "x"}]}),
            "messages[1].role",
        ),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": ["x", ""]}), "stop[1]"),
        (json!({"stop": ["x", 5]}), "stop[1]"),
        (json!({"stop": vec!["x"; MAX_STOPS + 1]}), "stop"),
        (json!({"stop": "x".repeat(2000)}), "stop"),
        (json!({"logit_bias": {"cat": 1}}), "logit_bias"),
        (json!({"logit_bias": {"5": "x"}}), "logit_bias.5"),
        (json!({"stream": "yes"}), "stream"),
        (
            json!({"stream_options": {"include_usage": true}}),
            "stream_options",
        ),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
        ),
        (json!({"top_logprobs": 3}), "top_logprobs"),
        (json!({"min_tokens": 9, "max_tokens": 8}), "min_tokens"),
        (
            json!({"chat_template_kwargs": {"messages": []}}),
            "chat_template_kwargs.messages",
        ),
        (
            json!({"guided_json": {}, "nvext": {"guided_json": {}}}),
            "nvext.guided_json",
        ),
        (
            json!({"guided_regex": "a", "guided_choice": ["a"]}),
            "guided_choice",
        ),
        (
            json!({"guided_json": {}, "guided_whitespace_pattern": " ?"}),
            "guided_whitespace_pattern",
        ),
        (json!({"guided_json": "{"}), "guided_json"),
        (json!({"guided_choice": ["a", 1]}), "guided_choice[1]"),
        (
            json!({"structured_outputs": {"structural_tag": {}}}),
            "structured_outputs.structural_tag",
        ),
        (
            json!({"structured_outputs": {"json": {}, "disable_any_whitespace": true}}),
            "structured_outputs.disable_any_whitespace",
        ),
        (json!({"metadata": "x"}), "metadata"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"functions": [{}]}), "functions[0].name"),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
        ),
        (json!({"echo": "x"}), "echo"),
        (json!({"function_call": {"name": "f"}}), "function_call"),
        (
            json!({"tools": [{"type": "function"}], "tool_choice": "none"}),
            "tools[0].function",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (
            json!({"tools": [{"function": {"name": "f"}}], "tool_choice": "required",
                "guided_regex": "a"}),
            "tool_choice",
        ),
    ];
    for (extra, param) in cases {
        let error = refused(extra).unwrap();
        assert_eq!(error.param(), Some(param), "{error}");
    }
}

#[test]
fn bodies_that_are_no_json_objects_are_refused() {
    for text in [
        "",
        "{",
        "hello",
        "{\"model\": NaN}",
        "{\"a\": 1e999}",
        "{} {}",
        "\u{0}",
    ] {
        let error = ChatRequest::from_slice(text.as_bytes()).unwrap_err();
        assert_eq!(error.code(), "invalid_json", "{text}: {error}");
        assert_eq!(error.param(), None);
    }
    assert_eq!(
        ChatRequest::from_slice(b"\xff{}").unwrap_err().code(),
        "invalid_json"
    );
    for text in ["null", "[]", "5", "\"x\""] {
        let error = ChatRequest::from_slice(text.as_bytes()).unwrap_err();
        assert_eq!(error.code(), "invalid_type", "{text}: {error}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_stack_overflow() {
    let deep = "[".repeat(1_000_000);
    assert_eq!(
        ChatRequest::from_slice(deep.as_bytes()).unwrap_err().code(),
        "invalid_json"
    );
}

#[test]
fn unknown_fields_are_ignored() {
    let extra = json!({"x_future": {"a": 1}, "nvext": {"agent_hints": {"osl": 5}, "new": 1},
        "store": true, "metadata": {"a": "b"}, "reasoning_effort": "low",
        "parallel_tool_calls": false, "user": "u"});
    assert!(read(extra).is_ok());
}

#[test]
fn tools_that_must_not_be_called_are_not_usable() {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let usable = |choice: Value| {
        let request = read(json!({"tools": tools, "tool_choice": choice})).unwrap();
        request.usable_tools().len()
    };
    assert_eq!(usable(json!("none")), 0);
    assert_eq!(usable(json!("auto")), 1);
    assert_eq!(usable(json!(null)), 1);
}

#[test]
fn the_top_level_wins_over_nvext() {
    let ext = json!({"top_k": 5, "ignore_eos": true, "repetition_penalty": 1.5});
    let request = read(json!({"nvext": ext})).unwrap();
    assert_eq!(request.top_k(), Some(Some(5)));
    assert!(request.ignore_eos());
    assert_eq!(request.repetition_penalty(), Some(1.5));
    let request = read(json!({"nvext": ext, "top_k": -1, "ignore_eos": false,
        "repetition_penalty": 1}))
    .unwrap();
    assert_eq!(request.top_k(), Some(None));
    assert!(!request.ignore_eos());
    assert_eq!(request.repetition_penalty(), Some(1.0));
}

#[test]
fn pointing_is_asked_for_under_two_names() {
    let grounded = |extra| read(extra).unwrap().grounded_response;
    assert_eq!(grounded(json!({})), None);
    assert_eq!(grounded(json!({"grounded_response": false})), Some(false));
    assert_eq!(grounded(json!({"bounding_boxes": false})), Some(false));
    let both = json!({"grounded_response": true, "bounding_boxes": false});
    assert_eq!(grounded(both), Some(true));
    let error = refused(json!({"bounding_boxes": 1})).unwrap();
    assert!(error.to_string().contains("bounding_boxes"), "{error}");
}

#[test]
fn aliases_and_defaults_follow_the_contract() {
    let request = read(json!({"max_tokens": 5, "max_completion_tokens": 7.0})).unwrap();
    assert_eq!(request.max_new_tokens(), Some(7));
    assert_eq!(request.max_new_tokens_field(), "max_completion_tokens");
    assert_eq!(
        read(json!({"logprobs": true})).unwrap().wanted_logprobs(),
        Some(1)
    );
    let none = read(json!({"logprobs": true, "top_logprobs": 0})).unwrap();
    assert_eq!(none.wanted_logprobs(), Some(0));
    let options = |options| read(json!({"stream": true, "stream_options": options})).unwrap();
    assert_eq!(
        options(json!({})).stream_options,
        Some(StreamOptions {
            include_usage: true,
            continuous_usage_stats: false
        })
    );
    assert_eq!(read(json!({"stop": "x"})).unwrap().stops(), ["x"]);
    assert_eq!(
        read(json!({"stop": ["x", "y"]})).unwrap().stops(),
        ["x", "y"]
    );
}

#[test]
fn a_request_written_out_reads_back_as_itself() {
    let request = read(
        json!({"temperature": 0.5, "top_k": 4, "stop": ["a"], "seed": -3,
        "logit_bias": {"9": -1.5}, "stop_token_ids": [7], "logprobs": true, "top_logprobs": 2,
        "stream": true, "stream_options": {"include_usage": false},
        "chat_template_kwargs": {"enable_thinking": false}, "nvext": {"top_k": 9},
        "messages": [{"role": "developer", "content": "be brief"}, {"role": "user",
            "content": [{"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}]}]}),
    )
    .unwrap();
    let written = serde_json::to_vec(&request).unwrap();
    assert_eq!(ChatRequest::from_slice(&written).unwrap(), request);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC*".prop_map(Value::from),
        Just(json!("<img src=\"data:x\">")),
        prop_oneof![Just("user"), Just("text"), Just("image_url"), Just("none")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((any_name(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_name() -> impl Strategy<Value = String> {
    let known = [
        "model",
        "messages",
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "image",
        "stop",
        "n",
        "nvext",
        "top_k",
        "logit_bias",
        "stream_options",
        "tools",
        "function",
        "name",
        "tool_choice",
        "tool_calls",
        "stop_token_ids",
    ];
    prop_oneof![
        prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        "[a-z0-9]{0,4}",
    ]
}

proptest! {
    #[test]
    fn arbitrary_json_never_panics(value in any_json()) {
        let _ = ChatRequest::from_value(value.clone());
        let _ = read(value);
    }

    #[test]
    fn arbitrary_messages_never_panic(messages in prop::collection::vec(any_json(), 0..3)) {
        let _ = read(json!({ "messages": messages }));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = ChatRequest::from_slice(&bytes);
    }

    #[test]
    fn arbitrary_user_text_never_panics(text in "[<img src='\"/>=data:hs\\n é]{0,60}") {
        let _ = read(json!({"messages": [{"role": "user", "content": text}]}));
    }
}
