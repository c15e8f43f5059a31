use std::collections::BTreeSet;

use super::*;

fn environment(set: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    set.iter().map(owned).collect()
}

/// What an environment asks for, argument by argument, and what there is to say about it.
fn heard(set: &[(&str, &str)]) -> (Vec<(String, String)>, Notes) {
    let mut notes = Notes::default();
    let wishes = wishes(&environment(set), |_| false, &mut notes).unwrap();
    let said = wishes
        .into_iter()
        .map(|wish| (wish.argument, wish.values.join("|")));
    (said.collect(), notes)
}

fn fault(set: &[(&str, &str)]) -> String {
    let error = wishes(&environment(set), |_| false, &mut Notes::default()).unwrap_err();
    format!("{error:#}")
}

#[test]
fn every_name_stands_once_and_sets_what_there_is() {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    let mut seen = BTreeSet::new();
    for name in TABLE {
        assert!(name.variable.starts_with(PREFIX), "{}", name.variable);
        assert!(seen.insert(name.variable), "{} twice", name.variable);
        if let Meaning::Sets(argument, _) = name.meaning {
            let known = serve.get_arguments().any(|arg| arg.get_id() == argument);
            assert!(known, "{}: {argument}", name.variable);
        }
    }
}

#[test]
fn variables_are_heard() {
    for (variable, value, argument, heard_as) in [
        ("NIM_MODEL_NAME", "/store", "model", "/store"),
        ("NIM_MODEL_PATH", "hf://a/b", "model", "a/b"),
        ("NIM_FT_MODEL", "/ft", "model", "/ft"),
        ("NIM_SERVED_MODEL_NAME", "a,b", "served_model_name", "a|b"),
        ("NIM_CUSTOM_MODEL_NAME", "mine", "served_model_name", "mine"),
        ("NIM_MODEL_PROFILE", "vllm-fp16-tp1-pp1", "dtype", "f16"),
        (
            "NIM_CACHE_PATH",
            "/model-store",
            "cache_path",
            "/model-store",
        ),
        ("NIM_DISABLE_MODEL_DOWNLOAD", "1", "offline", "true"),
        ("NIM_SERVER_PORT", "9000", "port", "9000"),
        ("NIM_HTTP_API_PORT", "9000", "port", "9000"),
        ("NIM_HEALTH_PORT", "9001", "health_port", "9001"),
        ("NIM_LOG_LEVEL", "WARNING", "log_level", "warn"),
        ("NIM_JSONL_LOGGING", "1", "log_format", "json"),
        ("NIM_LOGGING_JSONL", "false", "log_format", "text"),
        ("NIM_CORS_ALLOW_ORIGINS", "*", "cors_allow_origins", "*"),
        (
            "NIM_CORS_ALLOW_METHODS",
            "GET,POST",
            "cors_allow_methods",
            "GET|POST",
        ),
        ("NIM_CORS_ALLOW_HEADERS", "x-a", "cors_allow_headers", "x-a"),
        (
            "NIM_CORS_EXPOSE_HEADERS",
            "x-b",
            "cors_expose_headers",
            "x-b",
        ),
        (
            "NIM_CORS_ALLOW_CREDENTIALS",
            "true",
            "cors_allow_credentials",
            "true",
        ),
        ("NIM_CORS_MAX_AGE", "60", "cors_max_age", "60"),
        (
            "NIM_DISABLE_RESPONSES_ROUTE",
            "1",
            "disable_route",
            "/v1/responses",
        ),
        ("NIM_ENABLE_OTEL", "1", "tracing", "on"),
        ("NIM_ENABLE_OTEL", "0", "tracing", "off"),
        ("NIM_MAX_MODEL_LEN", "4096", "max_model_len", "4096"),
        (
            "NIM_KVCACHE_PERCENT",
            "0.5",
            "gpu_memory_utilization",
            "0.5",
        ),
        (
            "NIM_KV_CACHE_PERCENT",
            "0.5",
            "gpu_memory_utilization",
            "0.5",
        ),
        (
            "NIM_GPU_MEM_FRACTION",
            "0.5",
            "gpu_memory_utilization",
            "0.5",
        ),
        (
            "NIM_GPU_MEMORY_UTILIZATION",
            "0.5",
            "gpu_memory_utilization",
            "0.5",
        ),
        (
            "NIM_ENABLE_KV_CACHE_REUSE",
            "true",
            "no_prefix_cache",
            "false",
        ),
        ("NIM_MAX_NUM_SEQS", "8", "max_num_seqs", "8"),
        (
            "NIM_MAX_NUM_BATCHED_TOKENS",
            "512",
            "max_num_batched_tokens",
            "512",
        ),
        ("NIM_STREAM_INTERVAL", "10", "stream_interval", "10"),
        ("NIM_MAX_IMAGES_PER_PROMPT", "2", "max_images", "2"),
        ("NIM_ALLOW_URL_INPUT", "false", "no_media_urls", "true"),
        (
            "NIM_PASSTHROUGH_ARGS",
            "--gpu-memory-utilization 0.8",
            "gpu_memory_utilization",
            "0.8",
        ),
        (
            "NIM_PASSTHROUGH_ARGS",
            "--max-num-seqs 1 --max-num-seqs=2",
            "max_num_seqs",
            "2",
        ),
    ] {
        let (said, notes) = heard(&[(variable, value)]);
        assert_eq!(
            said,
            [(argument.to_owned(), heard_as.to_owned())],
            "{variable}"
        );
        assert!(
            notes.warnings.is_empty() && notes.idle.is_empty(),
            "{notes:?}"
        );
    }
}

#[test]
fn what_is_left_to_the_server_asks_for_nothing() {
    for (variable, value) in [
        ("NIM_MAX_MODEL_LEN", "-1"),
        ("NIM_SERVER_PORT", " "),
        ("NIM_SERVER_PORT", "tcp://10.0.0.1:8000"),
        ("NIM_SERVER_SERVICE_HOST", "10.0.0.1"),
        ("NIM_SERVER_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("NIM_OTHER_PORT", "tcp://10.0.0.1:8000"),
        ("NIM_SSL_MODE", "DISABLED"),
        ("NIM_SSL_KEY_PATH", "/key.pem"),
        ("NIM_DISABLE_RESPONSES_ROUTE", "0"),
    ] {
        let (said, notes) = heard(&[(variable, value)]);
        assert!(
            said.is_empty() && notes.warnings.is_empty(),
            "{variable}: {said:?}"
        );
    }
}

#[test]
fn the_mode_of_tls_says_which_files_are_needed() {
    let files = [
        ("NIM_SSL_KEY_PATH", "/key.pem"),
        ("NIM_SSL_CERTS_PATH", "/cert.pem"),
        ("NIM_SSL_CA_CERTS_PATH", "/ca.pem"),
    ];
    let with = |mode| heard(&[&files[..], &[("NIM_SSL_MODE", mode)]].concat()).0;
    let count = |mode| with(mode).len();
    assert_eq!([count("DISABLED"), count("TLS"), count("mtls")], [0, 2, 3]);
    assert_eq!(
        with("TLS")[0],
        ("ssl_certfile".to_owned(), "/cert.pem".to_owned())
    );
    for (mode, set, missing) in [
        ("TLS", &files[1..2], "NIM_SSL_KEY_PATH"),
        ("TLS", &files[..1], "NIM_SSL_CERTS_PATH"),
        ("MTLS", &files[..2], "NIM_SSL_CA_CERTS_PATH"),
    ] {
        let text = fault(&[set, &[("NIM_SSL_MODE", mode)]].concat());
        assert!(text.contains(mode) && text.contains(missing), "{text}");
    }
    // A flag may name the file.
    let set = environment(&[("NIM_SSL_MODE", "TLS"), files[1]]);
    let given = |id: &str| id == "ssl_keyfile";
    let wishes = wishes(&set, given, &mut Notes::default()).unwrap();
    assert_eq!(wishes.len(), 1);
}

#[test]
fn names_that_nobody_knows_are_told_of_once_and_together() {
    let (said, notes) = heard(&[
        ("NIM_MAX_IMAGE_PER_PROMPT", "1"),
        ("NIM_FUTURE", "1"),
        ("NIM_CAPTURE_DIR", "/tmp"),
        ("PATH", "/bin"),
    ]);
    assert!(said.is_empty());
    let told = "unknown and without effect: NIM_FUTURE, NIM_MAX_IMAGE_PER_PROMPT";
    assert_eq!(notes.warnings, [told]);
}

#[test]
fn names_without_a_meaning_here_are_reported_and_missing_things_warned_of() {
    let (_, notes) = heard(&[
        ("NIM_DISABLE_CUDA_GRAPH", "1"),
        ("NIM_TOKENIZER_MODE", "auto"),
    ]);
    assert_eq!((notes.idle.len(), notes.warnings.len()), (2, 0));
    assert!(notes.idle[0].starts_with("NIM_DISABLE_CUDA_GRAPH means nothing here: "));
    let (_, notes) = heard(&[
        ("NIM_TENSOR_PARALLEL_SIZE", "4"),
        ("NIM_CHAT_TEMPLATE", "/t.jinja"),
        ("NIM_MODEL_PROFILE", "nonsense"),
    ]);
    assert_eq!(notes.warnings.len(), 3, "{notes:?}");
    // Nothing is missing where nothing is asked for.
    let (_, notes) = heard(&[("NIM_TENSOR_PARALLEL_SIZE", "1"), ("NIM_MULTI_NODE", "0")]);
    assert!(notes.warnings.is_empty(), "{notes:?}");
    let (_, notes) = heard(&[(
        "NIM_PASSTHROUGH_ARGS",
        "--enforce-eager --max-num-seqs 4 --seed 1",
    )]);
    let told = "NIM_PASSTHROUGH_ARGS: without effect here: --enforce-eager --seed 1";
    assert_eq!(notes.warnings, [told]);
}

/// The table in `README.md`.
#[test]
fn the_readme_names_every_variable_that_sets_something() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    for name in TABLE {
        let variable = format!("`{}`", name.variable);
        match name.meaning {
            Meaning::Sets(argument, _) => {
                let arg = serve.get_arguments().find(|arg| arg.get_id() == argument);
                let flag = format!("`--{}`", arg.unwrap().get_long().unwrap());
                let row = readme.lines().any(|line| {
                    line.starts_with('|') && line.contains(&variable) && line.contains(&flag)
                });
                assert!(row, "README.md must have a row with {variable} and {flag}");
            }
            _ => assert!(readme.contains(&variable), "README.md must name {variable}"),
        }
    }
}
