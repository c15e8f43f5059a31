//! Distributions against those of transformers' own processors (`tests/reference/sampling.py`).

use std::path::Path;

use serde_json::Value;

use super::*;

/// Both sides compute weights from f32 logits, the reference in f64 and this one to 43 bits.
const TOLERANCE: f64 = 1e-5;

fn number(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |id: &Value| id.as_u64().unwrap() as u32;
    value.as_array().unwrap().iter().map(id).collect()
}

fn sampling(settings: &Value) -> Sampling {
    let mut sampling = Sampling {
        seed: Some(1),
        ..Sampling::default()
    };
    for (name, value) in settings.as_object().unwrap() {
        match name.as_str() {
            "temperature" => sampling.temperature = number(value),
            "top_k" => sampling.top_k = Some(number(value) as u32),
            "top_p" => sampling.top_p = number(value),
            "min_p" => sampling.min_p = number(value),
            "typical_p" => sampling.typical_p = number(value),
            "repetition_penalty" => sampling.repetition_penalty = number(value),
            "no_repeat_ngram_size" => sampling.no_repeat_ngram_size = number(value) as usize,
            "allowed_tokens" => sampling.allowed_tokens = Some(ids(value)),
            "bad_words" => {
                sampling.bad_words = value.as_array().unwrap().iter().map(ids).collect();
            }
            "logit_bias" => {
                let entries = value.as_array().unwrap().iter();
                sampling.logit_bias = entries
                    .map(|entry| (number(&entry[0]) as u32, number(&entry[1])))
                    .collect();
            }
            other => panic!("{other} is not known to this test"),
        }
    }
    sampling
}

/// What each token is drawn by.
fn probabilities(case: &Value) -> Vec<f64> {
    let prompt = ids(&case["prompt"]);
    let sampling = sampling(&case["sampling"]);
    let mut sampler = Sampler::new(sampling, None, prompt.clone()).after(&prompt);
    for id in ids(&case["answer"]) {
        sampler.note(id).unwrap();
    }
    let logits = case["logits"].as_array().unwrap().iter();
    let mut logits: Vec<f32> = logits
        .map(|logit| logit.as_f64().map_or(f32::NEG_INFINITY, |l| l as f32))
        .collect();
    let suppressed = ids(&case["suppressed"]);
    sampler.apply_rules(&mut logits, &suppressed).unwrap();
    let mut weights = vec![0.0; logits.len()];
    for candidate in sampler.candidates(&logits).unwrap() {
        weights[candidate.id as usize] = candidate.weight as f64;
    }
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

#[test]
fn distributions_are_those_of_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/sampling/distributions.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 40);
    for case in cases {
        let expected = case["probabilities"].as_array().unwrap();
        let found = probabilities(case);
        assert_eq!(found.len(), expected.len());
        for (id, (found, expected)) in found.iter().zip(expected).enumerate() {
            let expected = expected.as_f64().unwrap();
            let close = (found - expected).abs() < TOLERANCE && (*found > 0.0) == (expected > 0.0);
            assert!(
                close,
                "{}: token {id}: {found} for {expected}",
                case["name"]
            );
        }
    }
}
