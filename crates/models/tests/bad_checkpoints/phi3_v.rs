//! Phi-3-vision: files, weights, tokenizer and settings.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use vlmd_models::{LoadOptions, ModelFiles, load};

use crate::checkpoint::Checkpoint;

/// A checkpoint that loads, to be damaged.
const SOUND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/phi3_v");

const TEXT_FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

fn sound() -> Checkpoint {
    Checkpoint::of("phi3_v")
}

/// Rewrites the header of the weights, one byte for one byte.
fn edit_weights(checkpoint: &Checkpoint, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let path = checkpoint.path("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_sound_checkpoint_loads() {
    assert_eq!(sound().load(), Ok(()));
}

#[test]
fn a_directory_that_is_not_there() {
    let files = ModelFiles::Directory(PathBuf::from("no/such/directory"));
    let error = load(&files, &LoadOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`no/such/directory` is not a directory that can be read"
    );
}

#[test]
fn missing_files_are_named() {
    for file in ["config.json", "preprocessor_config.json", "tokenizer.json"] {
        let checkpoint = sound();
        fs::remove_file(checkpoint.path(file)).unwrap();
        checkpoint.assert_refused(&[&format!("`{file}` is missing from `")]);
    }
    let checkpoint = sound();
    fs::remove_file(checkpoint.path("model.safetensors")).unwrap();
    checkpoint.assert_refused(&["neither `model.safetensors` nor `pytorch_model.bin`"]);
}

#[test]
fn files_that_can_be_done_without() {
    let checkpoint = sound();
    fs::remove_file(checkpoint.path("generation_config.json")).unwrap();
    fs::remove_file(checkpoint.path("tokenizer_config.json")).unwrap();
    assert_eq!(checkpoint.load(), Ok(()));
}

#[test]
fn files_that_are_not_json() {
    for file in TEXT_FILES {
        let checkpoint = sound();
        fs::write(checkpoint.path(file), b"{\"version\": 1").unwrap();
        checkpoint.assert_refused(&[&format!("`{file}`")]);
    }
}

#[test]
fn a_text_file_beyond_all_measure_is_not_read() {
    let checkpoint = sound();
    let file = fs::File::create(checkpoint.path("tokenizer.json")).unwrap();
    file.set_len(1 << 40).unwrap();
    checkpoint.assert_refused(&["`tokenizer.json` has 1099511627776 bytes", "67108864"]);
}

#[test]
fn an_unknown_architecture() {
    let checkpoint = sound();
    checkpoint.edit("config.json", |config| {
        config["architectures"] = json!(["LlamaForCausalLM"]);
        config["model_type"] = json!("llama");
    });
    checkpoint.assert_refused(&["`config.json`", "`LlamaForCausalLM`", "phi3_v"]);
}

#[test]
fn sizes_that_do_not_fit_the_weights() {
    for (field, value, tensor) in [
        ("vocab_size", 831, "`model.embed_tokens.weight`"),
        (
            "intermediate_size",
            191,
            "`model.layers.0.mlp.gate_up_proj.weight`",
        ),
        ("num_hidden_layers", 4, "`model.layers.3."),
        (
            "num_key_value_heads",
            4,
            "`model.layers.0.self_attn.qkv_proj.weight`",
        ),
    ] {
        let checkpoint = sound();
        checkpoint.edit("config.json", |config| config[field] = json!(value));
        checkpoint.assert_refused(&[tensor, "model.safetensors"]);
    }
}

#[test]
fn a_tower_with_fewer_layers_than_are_asked_for() {
    let checkpoint = sound();
    checkpoint.edit("config.json", |config| {
        config["img_processor"]["layer_idx"] = json!(-5);
    });
    checkpoint.assert_refused(&["encoder.layers", "3 layers", "-5"]);
}

#[test]
fn a_missing_tensor_is_named() {
    for tensor in [
        "model.norm.weight",
        "lm_head.weight",
        "model.vision_embed_tokens.sub_GN",
        "model.vision_embed_tokens.img_projection.2.bias",
        "embeddings.position_embedding.weight",
    ] {
        let checkpoint = sound();
        let other = format!("{}?", &tensor[..tensor.len() - 1]);
        edit_weights(&checkpoint, tensor, &other);
        checkpoint.assert_refused(&[tensor]);
    }
}

#[test]
fn damaged_weights() {
    let checkpoint = sound();
    let path = checkpoint.path("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        checkpoint.assert_refused(&["model.safetensors", "not a whole safetensors file"]);
    }
    let mut huge_header = bytes;
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, &huge_header).unwrap();
    checkpoint.assert_refused(&["model.safetensors"]);
}

/// Makes the one file of weights a shard, as an index names it.
fn index(checkpoint: &Checkpoint, shards: &[&str]) {
    let map: serde_json::Map<String, Value> = shards
        .iter()
        .enumerate()
        .map(|(i, shard)| (format!("tensor.{i}"), json!(shard)))
        .collect();
    let index = json!({"metadata": {}, "weight_map": map});
    let index = serde_json::to_vec(&index).unwrap();
    fs::write(checkpoint.path("model.safetensors.index.json"), index).unwrap();
    fs::rename(
        checkpoint.path("model.safetensors"),
        checkpoint.path("model-00001-of-00002.safetensors"),
    )
    .unwrap();
}

#[test]
fn shards_are_found_through_the_index() {
    let checkpoint = sound();
    index(&checkpoint, &["model-00001-of-00002.safetensors"]);
    assert_eq!(checkpoint.load(), Ok(()));
}

#[test]
fn a_missing_shard_is_named() {
    let checkpoint = sound();
    index(
        &checkpoint,
        &[
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ],
    );
    checkpoint.assert_refused(&["`model-00002-of-00002.safetensors` is missing", "index"]);
}

#[test]
fn a_shard_outside_the_directory_is_not_opened() {
    let checkpoint = sound();
    index(&checkpoint, &["../model-00001-of-00002.safetensors"]);
    checkpoint.assert_refused(&[
        "`model.safetensors.index.json`",
        "`../model-00001-of-00002.safetensors`",
        "not a `.safetensors` file beside it",
    ]);
}

#[test]
fn a_tokenizer_without_the_models_tokens() {
    for token in ["<|end|>", "<|user|>", "<|assistant|>"] {
        let checkpoint = sound();
        checkpoint.edit("tokenizer.json", |tokenizer| {
            let added = tokenizer["added_tokens"].as_array_mut().unwrap();
            let entry = added.iter_mut().find(|entry| entry["content"] == token);
            entry.unwrap()["content"] = json!("<|other|>");
        });
        checkpoint.assert_refused(&["`tokenizer.json`", token]);
    }
}

#[test]
fn a_tokenizer_with_more_tokens_than_embeddings() {
    let checkpoint = sound();
    checkpoint.edit("tokenizer.json", |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        for id in 813..900 {
            let mut entry = added[0].clone();
            entry["id"] = json!(id);
            entry["content"] = json!(format!("<|further{id}|>"));
            added.push(entry);
        }
    });
    checkpoint.assert_refused(&["`tokenizer.json`", "`vocab_size` (832)"]);
}

#[test]
fn a_template_that_does_not_compile() {
    let checkpoint = sound();
    checkpoint.edit("tokenizer_config.json", |config| {
        config["chat_template"] = json!("{% for message in %}");
    });
    checkpoint.assert_refused(&["chat template does not compile"]);
}

#[test]
fn impossible_settings_of_the_image_processor() {
    for (field, value, words) in [
        (
            "num_crops",
            json!(0),
            "`num_crops` must be between 1 and 256, but is 0",
        ),
        (
            "num_crops",
            json!(1u64 << 60),
            "`num_crops` must be between 1 and 256",
        ),
        (
            "image_mean",
            json!([0.5, 1e300, 0.5]),
            "`image_mean` must be finite",
        ),
        (
            "image_std",
            json!([0.2, 0.0, 0.2]),
            "`image_std` must be above 0",
        ),
    ] {
        let checkpoint = sound();
        checkpoint.edit("preprocessor_config.json", |config| config[field] = value);
        checkpoint.assert_refused(&["`preprocessor_config.json`", words]);
    }
}

#[test]
fn impossible_token_ids() {
    let checkpoint = sound();
    checkpoint.edit("generation_config.json", |config| {
        config["eos_token_id"] = json!(-1);
    });
    checkpoint.assert_refused(&["`generation_config.json`", "token id"]);
}

#[test]
fn types_that_cannot_be_computed_with() {
    let options = LoadOptions {
        dtype: Some(candle_core::DType::U8),
        ..LoadOptions::default()
    };
    let files = ModelFiles::Directory(PathBuf::from(SOUND));
    assert_eq!(
        load(&files, &options).unwrap_err().to_string(),
        "`dtype` must be `f32`, `f16` or `bf16`, but is `u8`"
    );
}

#[test]
fn progress_rises_to_the_size_of_the_weights() {
    use std::sync::{Arc, Mutex};
    let reports = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&reports);
    let options = LoadOptions {
        on_progress: Some(Box::new(move |done, total| {
            heard.lock().unwrap().push((done, total));
        })),
        ..LoadOptions::default()
    };
    let files = ModelFiles::Directory(PathBuf::from(SOUND));
    let loaded = load(&files, &options).unwrap();
    let reports = reports.lock().unwrap();
    let total = loaded.weight_bytes;
    assert!(reports.len() > 10);
    assert!(reports.is_sorted());
    assert!(reports.iter().all(|(_, all)| *all == total));
    assert_eq!(reports.last(), Some(&(total, total)));
}
