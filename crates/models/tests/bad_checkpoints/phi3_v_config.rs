//! Phi-3-vision: the configuration as it is published, and what may not stand in it.

use std::fs;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use vlmd_backend::ModelSpec;
use vlmd_models::{LoadOptions, ModelFiles, load};

use crate::checkpoint::Checkpoint;

/// The published `config.json`, as far as it matters.
fn real() -> Value {
    json!({
        "model_type": "phi3_v",
        "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 131_072,
        "rope_scaling": {
            "type": "su", "short_factor": vec![1.05; 48], "long_factor": vec![1.03; 48],
        },
        "eos_token_id": 2,
        "embd_layer": {
            "embedding_cls": "image", "hd_transform_order": "sub_glb",
            "projection_cls": "mlp", "use_hd_transform": true,
            "with_learnable_separator": true,
        },
        "img_processor": {
            "image_dim_out": 1024, "model_name": "openai/clip-vit-large-patch14-336",
            "name": "clip_vision_model", "num_img_tokens": 144,
        },
    })
}

/// A checkpoint of this configuration; its weights are another's.
fn checkpoint(config: &Value) -> Checkpoint {
    let checkpoint = Checkpoint::of("phi3_v");
    let config = serde_json::to_vec(config).unwrap();
    fs::write(checkpoint.path("config.json"), config).unwrap();
    checkpoint
}

/// What is read in a configuration, which is asked for before the weights are looked at.
fn read(config: &Value) -> ModelSpec {
    let checkpoint = checkpoint(config);
    let asked = Arc::new(Mutex::new(None));
    let hear = Arc::clone(&asked);
    let options = LoadOptions {
        admit: Some(Box::new(move |need| {
            *hear.lock().unwrap() = Some(need.spec.clone());
            Err("that is all".to_owned())
        })),
        ..LoadOptions::default()
    };
    let files = ModelFiles::Directory(checkpoint.directory().to_owned());
    let error = load(&files, &options).unwrap_err();
    assert_eq!(error.to_string(), "that is all");
    asked.lock().unwrap().take().unwrap()
}

#[test]
fn the_published_configuration_is_read() {
    let spec = read(&real());
    assert_eq!(spec.head_dim, 96);
    assert_eq!(spec.max_positions, 131_072);
}

#[test]
fn a_short_window_shortens_the_context() {
    let mut config = real();
    config["sliding_window"] = json!(2048);
    assert_eq!(read(&config).max_positions, 2048);
}

#[test]
fn both_names_of_longrope_are_known() {
    let mut config = real();
    config["rope_scaling"]["type"] = json!("longrope");
    read(&config);
    let scaling = config["rope_scaling"].as_object_mut().unwrap();
    let kind = scaling.remove("type").unwrap();
    scaling.insert("rope_type".to_owned(), kind);
    read(&config);
}

#[test]
fn bad_values_are_named_with_their_bound() {
    let cases = [
        (
            "/num_attention_heads",
            json!(0),
            "`num_attention_heads` must be between 1 and 3072, but is 0",
        ),
        (
            "/num_attention_heads",
            json!(31),
            "`hidden_size` must be a multiple of `num_attention_heads` (31), but is 3072",
        ),
        (
            "/num_attention_heads",
            json!(1024),
            "`hidden_size` must give each of the 1024 `num_attention_heads` an even width, but is 3072",
        ),
        (
            "/num_key_value_heads",
            json!(5),
            "`num_attention_heads` must be a multiple of `num_key_value_heads` (5), but is 32",
        ),
        (
            "/num_key_value_heads",
            json!(0),
            "`num_key_value_heads` must be between 1 and 32, but is 0",
        ),
        (
            "/hidden_size",
            json!(0),
            "`hidden_size` must be between 1 and 16777216, but is 0",
        ),
        (
            "/vocab_size",
            json!(1u64 << 40),
            "`vocab_size` must be between 1 and 16777216, but is 1099511627776",
        ),
        (
            "/rms_norm_eps",
            json!(-1.0),
            "`rms_norm_eps` must be at least 0 and below 1, but is -1",
        ),
        (
            "/rope_theta",
            json!(0.0),
            "`rope_theta` must be above 0 and finite, but is 0",
        ),
        (
            "/hidden_act",
            json!("gelu"),
            "`hidden_act` must be `silu`, but is gelu",
        ),
        (
            "/rope_scaling/type",
            json!("yarn"),
            "`rope_scaling.type` must be `su` or `longrope`, but is yarn",
        ),
        (
            "/rope_scaling/short_factor",
            json!([1.0]),
            "`rope_scaling.short_factor` must have 48 entries, one for each pair of a head's dimensions, but is 1 entries long",
        ),
        (
            "/rope_scaling/long_factor/3",
            json!(0.0),
            "`rope_scaling.long_factor` must be above 0 and finite in each entry, but is 0",
        ),
        (
            "/embd_layer/hd_transform_order",
            json!("glb_sub"),
            "`embd_layer.hd_transform_order` must be `sub_glb`, but is glb_sub",
        ),
        (
            "/embd_layer/projection_cls",
            json!("linear"),
            "`embd_layer.projection_cls` must be `mlp`, but is linear",
        ),
        (
            "/img_processor/name",
            json!("siglip"),
            "`img_processor.name` must be `clip_vision_model`, but is siglip",
        ),
    ];
    for (field, value, message) in cases {
        let mut config = real();
        *config.pointer_mut(field).unwrap() = value;
        assert_eq!(
            checkpoint(&config).refusal(),
            format!("`config.json`: {message}")
        );
    }
}

#[test]
fn wrong_types_and_missing_fields_are_told_with_the_file() {
    let mut config = real();
    config["hidden_size"] = json!(-3072);
    let refusal = checkpoint(&config).refusal();
    assert!(
        refusal.starts_with("`config.json` is not valid: "),
        "{refusal}"
    );
    let mut config = real();
    config.as_object_mut().unwrap().remove("vocab_size");
    checkpoint(&config).assert_refused(&["missing field `vocab_size`"]);
}
