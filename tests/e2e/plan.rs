//! `vlmd serve --plan-only`: what the memory is for, without a download or a device.

use std::process::Output;

use serde_json::Value;

use crate::support::{golden_checkpoint, vlmd};

const LLAMA: &str = "meta/llama-3.2-11b-vision-instruct";

fn planned(arguments: &[&str]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    let mut command = vlmd();
    // Nothing is at hand, and nothing may be fetched: this is no host.
    let command = command
        .env("HF_HOME", cache.path())
        .env("HF_ENDPOINT", "http://127.0.0.1:9");
    command.arg("serve").args(arguments).output().unwrap()
}

fn json(arguments: &[&str]) -> (Option<i32>, Value) {
    let arguments = [&["--plan-only=json"], arguments].concat();
    let out = planned(&arguments);
    let err = String::from_utf8_lossy(&out.stderr);
    let plan = serde_json::from_slice(&out.stdout);
    (out.status.code(), plan.unwrap_or_else(|_| panic!("{err}")))
}

fn bytes(plan: &Value, part: &str) -> u64 {
    let parts = plan["parts"].as_array().unwrap();
    let found = parts.iter().find(|row| row["part"] == part);
    found.map_or(0, |row| row["bytes"].as_u64().unwrap())
}

fn sum(plan: &Value) -> u64 {
    let parts = plan["parts"].as_array().unwrap();
    parts.iter().map(|row| row["bytes"].as_u64().unwrap()).sum()
}

#[test]
fn a_model_of_the_catalog_is_planned_by_its_card_and_adds_up() {
    let (code, plan) = json(&["--model", LLAMA, "--gpu-memory", "80GB"]);
    assert_eq!(code, Some(0), "{plan:#}");
    assert_eq!((&plan["version"], &plan["fits"]), (&1.into(), &true.into()));
    let number = |key: &str| plan[key].as_u64().unwrap();
    assert_eq!(number("free_bytes"), 80_000_000_000);
    assert_eq!(sum(&plan) + number("spare_bytes"), 80_000_000_000);
    assert_eq!(number("over_bytes"), 0);
    assert_eq!(bytes(&plan, "weights"), 21_340_441_670);
    for part in [
        "step_activations",
        "encoder_workspace",
        "image_features",
        "cross_attention",
        "reserve",
        "kv_cache",
        "kept_free",
    ] {
        assert!(bytes(&plan, part) > 0, "{part}");
    }
    assert_eq!(number("max_model_len"), 131_072);
    assert!(number("sequences_at_full_length") >= 1);
    let cache = &plan["kv_cache"];
    assert_eq!(
        cache["tokens"].as_u64().unwrap(),
        32 * cache["blocks"].as_u64().unwrap()
    );

    let out = planned(&["--plan-only", "--model", LLAMA, "--gpu-memory", "80GB"]);
    let text = String::from_utf8(out.stdout).unwrap();
    let together = text.lines().find(|line| line.starts_with("together"));
    assert!(together.unwrap().contains("80000000000"), "{text}");
}

#[test]
fn what_does_not_fit_is_refused_with_numbers_and_what_would() {
    let arguments = ["--model", LLAMA, "--gpu-memory", "16GB"];
    let (code, plan) = json(&arguments);
    assert_eq!((code, &plan["fits"]), (Some(1), &false.into()));
    assert_eq!(sum(&plan), plan["needed_bytes"].as_u64().unwrap());
    assert!(plan["needed_bytes"].as_u64().unwrap() > 16_000_000_000);
    assert!(!plan["advice"].as_array().unwrap().is_empty());
    let others = plan["models_that_fit"].as_array().unwrap();
    assert!(
        others.iter().any(|model| model == "microsoft/kosmos-2"),
        "{others:?}"
    );
    assert!(!others.iter().any(|model| model == LLAMA));

    let out = planned(&[&["--plan-only"], &arguments[..]].concat());
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("It does not fit: it takes"), "{text}");
    assert!(
        text.contains("does not spread a model over several devices"),
        "{text}"
    );
}

#[test]
fn a_directory_is_planned_by_its_headers() {
    let checkpoint = golden_checkpoint();
    let directory = checkpoint.to_str().unwrap();
    for device in [&["--gpu-memory", "8GiB"][..], &["--device", "cpu"]] {
        let (code, plan) = json(&[&["--model", directory], device].concat());
        assert_eq!(code, Some(0), "{plan:#}");
        assert_eq!(plan["parts"][0]["known"], "headers");
        let free = plan["free_bytes"].as_u64().unwrap();
        let spare = plan["spare_bytes"].as_u64().unwrap();
        assert_eq!(
            sum(&plan) + spare,
            free + plan["over_bytes"].as_u64().unwrap()
        );
    }
}

#[test]
fn what_nobody_knows_is_said() {
    for (arguments, message) in [
        (
            &["--model", "someone/unknown"][..],
            "without fetching anything",
        ),
        (
            &["--model", "nvidia/neva-22b"],
            "the catalog does not know what it needs",
        ),
        (
            &["--device", "cpu", "--gpu-memory", "8GB"],
            "but `--device` is cpu",
        ),
    ] {
        let out = planned(&[&["--plan-only"], arguments].concat());
        assert!(!out.status.success());
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(err.contains(message), "{err}");
    }
    let out = planned(&["--gpu-memory", "8GB"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("--plan-only"));
}
