//! Chat templates against what jinja2 makes of them (`fixtures/make_templates.py`).

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use vlmd_text::{ChatTemplate, SpecialTokens, TemplateFiles, TemplateLimits, TextError};

const NOW: u64 = 1_721_900_045;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    std::fs::read_to_string(path).expect(name)
}

fn compile(source: &str) -> ChatTemplate {
    ChatTemplate::compile(source, &SpecialTokens::default()).expect(source)
}

fn render(source: &str, kwargs: &Value) -> Result<String, TextError> {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let kwargs = kwargs.as_object().expect("an object");
    compile(source).render(&messages, kwargs, true)
}

#[test]
fn templates_render_as_in_jinja2() {
    let fixtures: Value = serde_json::from_str(&fixture("templates.json")).expect("JSON");
    assert_eq!(fixtures["now"], NOW);
    let specials =
        SpecialTokens::from_json(fixtures["special_tokens"].to_string().as_bytes()).expect("valid");
    let cases = fixtures["cases"].as_array().expect("an array");
    assert!(cases.len() > 20);
    for case in cases {
        let name = case["template"].as_str().expect("a name");
        let source = fixture(&format!("templates/{name}"));
        let template =
            ChatTemplate::compile_with(&source, &specials, TemplateLimits::default(), now)
                .expect(name);
        let result = template.render(
            &case["messages"],
            case["kwargs"].as_object().expect("an object"),
            case["add_generation_prompt"].as_bool().expect("a boolean"),
        );
        match (case["expected"].as_str(), case["refused"].as_str(), result) {
            (Some(expected), None, Ok(text)) => assert_eq!(text, expected, "{name}: {case}"),
            (None, Some(reason), Err(TextError::Refused(text))) => {
                assert_eq!(text, reason, "{name}: {case}");
            }
            (.., result) => panic!("{name}: {case} gave {result:?}"),
        }
    }
}

#[test]
fn variables_of_the_server_cannot_be_given() {
    for name in [
        "messages",
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "bos_token",
        "additional_special_tokens",
    ] {
        let error = render("{{ x }}", &json!({name: "y"})).expect_err(name);
        assert!(matches!(&error, TextError::ReservedKwarg(given) if given == name));
        assert!(
            error
                .to_string()
                .contains(&format!("`chat_template_kwargs.{name}`"))
        );
    }
    assert_eq!(render("{{ x }}", &json!({"x": "y"})).expect("valid"), "y");
}

#[test]
fn tools_and_documents_are_none_unless_given() {
    let source = "{{ tools is none }} {{ documents is none }}";
    assert_eq!(render(source, &json!({})).expect("valid"), "True True");
    let given = render(source, &json!({"tools": [], "documents": []}));
    assert_eq!(given.expect("valid"), "False False");
}

#[test]
fn work_is_bounded() {
    let source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let error = render(source, &json!({})).expect_err("too much");
    assert!(matches!(error, TextError::OutOfFuel { .. }), "{error}");
}

#[test]
fn output_is_bounded() {
    let limits = TemplateLimits {
        output_bytes: 100,
        ..TemplateLimits::default()
    };
    let source = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let template =
        ChatTemplate::compile_with(source, &SpecialTokens::default(), limits, now).expect("valid");
    let message = |length| json!([{"content": "x".repeat(length)}]);
    let render = |length| template.render(&message(length), &Map::new(), true);
    assert_eq!(render(100).expect("fits").len(), 100);
    let error = render(101).expect_err("too long");
    assert!(
        matches!(error, TextError::OutputTooLong { limit: 100 }),
        "{error}"
    );
}

#[test]
fn a_refusal_inside_a_macro_keeps_its_words() {
    let source = "{% macro m() %}{{ raise_exception('Not so.') }}{% endmacro %}{{ m() }}";
    let error = render(source, &json!({})).expect_err("refused");
    assert!(
        matches!(&error, TextError::Refused(text) if text == "Not so."),
        "{error:?}"
    );
}

#[test]
fn errors_show_what_was_written_and_not_how_it_is_shielded() {
    let source = "{{ raise_exception('Cannot say ' + messages[0].content) }}";
    let messages = json!([{"content": "<\u{FDD0}|end|>"}]);
    let error = compile(source)
        .render(&messages, &Map::new(), true)
        .expect_err("refused");
    assert_eq!(error.to_string(), "Cannot say <|end|>");
}

#[test]
fn errors_name_the_line_and_not_the_source() {
    let error =
        render("a\n{{ messages[0].name.first }} secret", &json!({})).expect_err("undefined");
    let text = error.to_string();
    assert!(
        text.contains("line 2") && !text.contains("secret"),
        "{text}"
    );
    let error =
        ChatTemplate::compile("a\n{% if %}", &SpecialTokens::default()).expect_err("syntax");
    assert!(matches!(error, TextError::InvalidTemplate(_)));
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn dates_are_spelled_as_asked_and_bad_formats_refused() {
    let render = |format: &str| {
        let source = format!("{{{{ strftime_now('{format}') }}}}");
        ChatTemplate::compile_with(
            &source,
            &SpecialTokens::default(),
            TemplateLimits::default(),
            now,
        )
        .expect("valid")
        .render(&json!([]), &Map::new(), false)
    };
    for (format, expected) in [
        ("%d %b %Y", "25 Jul 2024"),
        ("%Y-%m-%d %H:%M:%S", "2024-07-25 09:34:05"),
        ("%A, %B %-d", "Thursday, July 25"),
        ("%a %I:%M %p, day %j, %%", "Thu 09:34 AM, day 207, %"),
        ("today", "today"),
    ] {
        assert_eq!(render(format).expect(format), expected);
    }
    assert!(matches!(render("%Q"), Err(TextError::Render(_))));
}

#[test]
fn generation_tags_leave_only_what_is_between_them() {
    for source in [
        "a{% generation %}b{% endgeneration %}c",
        "a {%- generation -%} b {%- endgeneration -%} c",
        "a\n  {% generation %}\nb\n  {% endgeneration %}\nc",
    ] {
        let text = render(source, &json!({})).expect("valid");
        assert_eq!(text.replace('\n', ""), "abc", "{source:?}");
    }
    // What looks like the end of a tag, and a tag without one.
    let text = render("{% set x = '%}' %}{{ x }}", &json!({})).expect("valid");
    assert_eq!(text, "%}");
    assert!(ChatTemplate::compile("a{% generation", &SpecialTokens::default()).is_err());
}

#[test]
fn the_template_is_found_where_transformers_finds_it() {
    let config = json!({"chat_template": [
        {"name": "tool_use", "template": "T"},
        {"name": "default", "template": "C"},
    ]})
    .to_string();
    let mut files = TemplateFiles {
        jinja: Some(b"J"),
        json: Some(br#"{"chat_template": "O"}"#),
        tokenizer_config: Some(config.as_bytes()),
    };
    assert_eq!(files.source().expect("valid").as_deref(), Some("J"));
    files.jinja = None;
    assert_eq!(files.source().expect("valid").as_deref(), Some("O"));
    files.json = Some(b"{}");
    assert_eq!(files.source().expect("valid").as_deref(), Some("C"));
    files.tokenizer_config = Some(br#"{"chat_template": null}"#);
    assert_eq!(files.source().expect("valid"), None);
}

#[test]
fn malformed_configurations_are_named() {
    for config in [
        &b"["[..],
        br#"{"chat_template": 3}"#,
        br#"{"chat_template": [{"name": "rag", "template": "x"}]}"#,
        b"[]",
    ] {
        let files = TemplateFiles {
            tokenizer_config: Some(config),
            ..TemplateFiles::default()
        };
        let error = files.source().expect_err("malformed").to_string();
        assert!(error.starts_with("`tokenizer_config.json`"), "{error}");
    }
    let files = TemplateFiles {
        jinja: Some(b"\xff"),
        ..TemplateFiles::default()
    };
    assert!(files.source().is_err());
    assert!(SpecialTokens::from_json(b"3").is_err());
}

#[test]
fn special_tokens_are_strings_or_objects() {
    let config = br#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "special": true},
        "pad_token": null, "model_max_length": 7}"#;
    let specials = SpecialTokens::from_json(config).expect("valid");
    assert_eq!(specials.get("bos_token"), Some("<s>"));
    assert_eq!(specials.get("eos_token"), Some("</s>"));
    assert_eq!(specials.get("pad_token"), None);
    let template =
        ChatTemplate::compile("{{ bos_token }}{{ eos_token }}{{ pad_token }}", &specials);
    let text = template
        .expect("valid")
        .render(&json!([]), &Map::new(), false);
    assert_eq!(text.expect("valid"), "<s></s>");
}
