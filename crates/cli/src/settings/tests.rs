use std::ffi::OsString;

use serde_json::{Value, json};

use super::*;

fn environment(set: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    set.iter().map(owned).collect()
}

fn settings(arguments: &[&str], set: &[(&str, &str)]) -> Result<Settings> {
    let words = ["vlmd"].iter().chain(arguments);
    let words: Vec<OsString> = words.map(OsString::from).collect();
    read(&words, &environment(set))
}

/// A setting's value and where it came from.
fn setting(settings: &Settings, name: &str) -> (Value, String) {
    let rows = settings.provenance.rows();
    let row = rows.into_iter().find(|row| row.name == name).unwrap();
    (row.value, row.source)
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_default() {
    let nim = [("NIM_SERVER_PORT", "9001")];
    for (arguments, set, port, source) in [
        (&["serve"][..], &[][..], "8000", "default"),
        (&["serve"], &nim[..], "9001", "NIM_SERVER_PORT"),
        (&["serve", "--port", "9002"], &nim, "9002", "flag"),
        // Without the command's name, too.
        (&[], &nim, "9001", "NIM_SERVER_PORT"),
        (&["--port", "9002"], &nim, "9002", "flag"),
    ] {
        let found = settings(arguments, set).unwrap();
        let expected = (json!(port), source.to_owned());
        assert_eq!(setting(&found, "port"), expected, "{arguments:?}");
        let args = found.serve().unwrap();
        assert_eq!(args.port.to_string(), port);
    }
}

#[test]
fn the_catalog_goes_before_the_default_and_after_everything_else() {
    let model = ["serve", "--model", "microsoft/kosmos-2"];
    let found = settings(&model, &[]).unwrap();
    assert_eq!(
        setting(&found, "max-images"),
        (json!("1"), "card".to_owned())
    );
    let (revision, source) = setting(&found, "revision");
    assert!(
        revision.is_string() && source == "card",
        "{revision} {source}"
    );
    assert_eq!(setting(&found, "served-model-name").1, "card");
    let args = found.serve().unwrap();
    // What names and revision are without a flag is for the catalog to say when they are used.
    assert_eq!((args.media.max_images, args.revision), (1, None));

    let nim = [("NIM_MAX_IMAGES_PER_PROMPT", "3")];
    let found = settings(&model, &nim).unwrap();
    assert_eq!(setting(&found, "max-images").1, "NIM_MAX_IMAGES_PER_PROMPT");
    let found = settings(&["serve", "--model", "/models/mine"], &[]).unwrap();
    assert_eq!(
        setting(&found, "max-images"),
        (json!("5"), "default".to_owned())
    );
    let nim = [("NIM_MODEL_PATH", "hf://microsoft/kosmos-2-patch14-224")];
    let found = settings(&["serve"], &nim).unwrap();
    assert_eq!(setting(&found, "max-images").1, "card");
}

#[test]
fn lists_and_switches_are_printed_as_such() {
    let set = [
        ("NIM_SERVED_MODEL_NAME", "first, second"),
        ("NIM_ENABLE_KV_CACHE_REUSE", "0"),
    ];
    let found = settings(&["serve", "--api-key", "secret"], &set).unwrap();
    let (names, source) = setting(&found, "served-model-name");
    assert_eq!(names, json!(["first", "second"]));
    assert_eq!(source, "NIM_SERVED_MODEL_NAME");
    let (off, source) = setting(&found, "no-prefix-cache");
    assert_eq!(
        (off, source.as_str()),
        (json!(true), "NIM_ENABLE_KV_CACHE_REUSE")
    );
    assert_eq!(
        setting(&found, "threads"),
        (Value::Null, "default".to_owned())
    );
    let (key, _) = setting(&found, "api-key");
    assert_eq!(key, json!(["********"]));
    let args = found.serve().unwrap();
    assert_eq!(args.served_model_name, ["first", "second"]);
    assert_eq!(args.api_key, ["secret"]);
    assert!(args.engine.no_prefix_cache);
}

#[test]
fn a_value_that_no_flag_would_take_is_named_with_its_variable_and_its_bound() {
    for (variable, value, bound) in [
        (
            "NIM_SERVER_PORT",
            "99999",
            "`--port` does not take: 99999 is not in 0..=65535",
        ),
        (
            "NIM_MAX_NUM_SEQS",
            "0",
            "`--max-num-seqs` does not take: expected a whole number of at least 1",
        ),
        (
            "NIM_KVCACHE_PERCENT",
            "90",
            "above 0 and at most 1, such as 0.9",
        ),
        ("NIM_LOG_LEVEL", "LOUD", "expected DEFAULT, TRACE"),
        ("NIM_JSONL_LOGGING", "perhaps", "expected 1 or 0"),
        (
            "NIM_MODEL_PATH",
            "s3://bucket/model",
            "`s3://` is not fetched from",
        ),
        (
            "NIM_PASSTHROUGH_ARGS",
            "--max-num-seqs none",
            "expected a whole number",
        ),
        ("NIM_PASSTHROUGH_ARGS", "--x 'open", "a quote is not closed"),
        (
            "NIM_SSL_MODE",
            "SOMETIMES",
            "expected DISABLED, TLS or MTLS",
        ),
    ] {
        let error = settings(&["serve"], &[(variable, value)]).unwrap_err();
        let text = format!("{error:#}");
        for part in [variable, value, bound] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn a_value_that_is_not_heard_is_not_looked_at() {
    let bad = [("NIM_SERVER_PORT", "many"), ("NIM_LOG_LEVEL", "LOUD")];
    let flags = ["serve", "--port", "1", "--log-level", "warn"];
    assert_eq!(settings(&flags, &bad).unwrap().serve().unwrap().port, 1);
}

#[test]
fn other_commands_do_not_listen_to_the_environment_of_a_server() {
    let found = settings(&["models"], &[("NIM_SERVER_PORT", "many")]).unwrap();
    assert!(found.printed().is_none() && found.serve().is_none());
    let set = [("NIM_CACHE_PATH", "/cache"), ("NIM_SERVER_PORT", "9000")];
    let found = settings(&["download", "a/b"], &set).unwrap();
    match found.cli.command {
        Some(Subcommand::Download(args)) => assert_eq!(args.cache_path, Some("/cache".into())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_are_printed_on_demand_only() {
    let printed = |arguments: &[&str]| settings(arguments, &[]).unwrap().printed();
    assert_eq!(printed(&["serve"]), None);
    assert_eq!(
        printed(&["serve", "--print-config"]),
        Some(PrintFormat::Text)
    );
    assert_eq!(printed(&["--print-config=json"]), Some(PrintFormat::Json));
}

#[test]
fn every_setting_has_a_variable_of_its_own() {
    let command = command();
    let serve = command.find_subcommand("serve").unwrap();
    for arg in serve.get_arguments() {
        let id = arg.get_id().as_str();
        // What is asked for once is no setting.
        if ["help", "version", "print_config", "plan_only", "gpu_memory"].contains(&id) {
            continue;
        }
        let variable = format!("VLMD_{}", id.to_ascii_uppercase());
        let found = arg.get_env().and_then(|name| name.to_str());
        assert_eq!(found, Some(variable.as_str()), "{id}");
    }
}
