//! Llama-3.2-Vision, LLaVA, LLaVA-NeXT and Kosmos-2: settings that are out of range, contradict the
//! weights, or each other.

use serde_json::{Value, json};

use crate::checkpoint::Checkpoint;

/// A file of a golden, a field in it by JSON pointer, the value that it gets, and what is said of
/// it behind the file's name.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    Value,
    &'static str,
);

#[track_caller]
fn check(cases: &[Case]) {
    for (golden, file, field, value, message) in cases {
        let checkpoint = Checkpoint::of(golden);
        checkpoint.set(file, field, value);
        let expected = format!("`{file}`: {message}");
        assert_eq!(checkpoint.refusal(), expected, "{golden}: {field}");
    }
}

#[test]
fn configurations_of_the_text_half() {
    let config = |golden, field, value, message| (golden, "config.json", field, value, message);
    check(&[
        config(
            "llava",
            "/text_config/model_type",
            json!("qwen2"),
            "`text_config.model_type` must be `llama` or `mistral`, but is qwen2",
        ),
        config(
            "llava",
            "/text_config/num_attention_heads",
            json!(0),
            "`num_attention_heads` must be between 1 and 64, but is 0",
        ),
        config(
            "llava_next",
            "/text_config/num_key_value_heads",
            json!(3),
            "`num_attention_heads` must be a multiple of `num_key_value_heads` (3), but is 4",
        ),
        config(
            "llava_next",
            "/text_config/hidden_act",
            json!("gelu"),
            "`hidden_act` must be `silu`, but is gelu",
        ),
        config(
            "llava",
            "/text_config/num_hidden_layers",
            json!(1_u64 << 40),
            "`num_hidden_layers` must be between 1 and 4096, but is 1099511627776",
        ),
        config(
            "mllama",
            "/text_config/rope_scaling/factor",
            json!(0.0),
            "`rope_scaling.factor` must be above 0 and finite, but is 0",
        ),
        config(
            "mllama",
            "/text_config/rope_scaling/rope_type",
            json!("yarn"),
            "`rope_scaling.rope_type` must be `default`, `linear` or `llama3`, but is yarn",
        ),
        config(
            "mllama",
            "/text_config/cross_attention_layers",
            json!([3, 1]),
            "`cross_attention_layers` must be in ascending order, below `num_hidden_layers` (5) and \
             not all of them, but is [3, 1]",
        ),
        config(
            "mllama",
            "/text_config/cross_attention_layers",
            json!([1, 5]),
            "`cross_attention_layers` must be in ascending order, below `num_hidden_layers` (5) and \
             not all of them, but is [1, 5]",
        ),
        config(
            "kosmos2",
            "/text_config/embed_dim",
            json!(66),
            "`text_config.embed_dim` must be a multiple of `text_config.attention_heads` (4), but \
             is 66",
        ),
    ]);
}

#[test]
fn configurations_of_the_tower() {
    let config = |golden, field, value, message| (golden, "config.json", field, value, message);
    check(&[
        config(
            "llava",
            "/vision_config/model_type",
            json!("siglip_vision_model"),
            "`vision_config.model_type` must be `clip_vision_model`, but is siglip_vision_model",
        ),
        config(
            "llava",
            "/vision_config/hidden_act",
            json!("silu"),
            "`vision_config.hidden_act` must be `gelu` or `quick_gelu`, but is silu",
        ),
        config(
            "llava",
            "/vision_config/num_attention_heads",
            json!(3),
            "`vision_config.hidden_size` must be a multiple of `vision_config.num_attention_heads` \
             (3), but is 32",
        ),
        config(
            "llava",
            "/vision_config/num_hidden_layers",
            json!(u64::MAX),
            "`vision_config.num_hidden_layers` must be between 1 and 4096, but is \
             18446744073709551615",
        ),
        config(
            "llava",
            "/vision_feature_layer",
            json!(4),
            "`vision_feature_layer` must be below 0 or one of the \
             `vision_config.num_hidden_layers`, but is 4",
        ),
        config(
            "llava",
            "/vision_feature_select_strategy",
            json!("cls"),
            "`vision_feature_select_strategy` must be `default` or `full`, but is cls",
        ),
        config(
            "llava_next",
            "/vision_feature_select_strategy",
            json!("full"),
            "`vision_feature_select_strategy` must be `default`, but is full",
        ),
        config(
            "llava",
            "/projector_hidden_act",
            json!("tanh"),
            "`projector_hidden_act` must be `gelu` or `quick_gelu`, but is tanh",
        ),
        config(
            "mllama",
            "/vision_config/max_num_tiles",
            json!(0),
            "`vision_config.max_num_tiles` must be between 1 and 64, but is 0",
        ),
        config(
            "mllama",
            "/vision_config/attention_heads",
            json!(3),
            "`vision_config.hidden_size` must be a multiple of `attention_heads` (3), but is 32",
        ),
        config(
            "mllama",
            "/vision_config/image_size",
            json!(60),
            "`vision_config.image_size` must be a multiple of `patch_size` (14), but is 60",
        ),
        config(
            "mllama",
            "/vision_config/intermediate_layers_indices",
            json!([1, 4]),
            "`vision_config.intermediate_layers_indices` must be in ascending order and below \
             `num_hidden_layers` (4), but is [1, 4]",
        ),
        config(
            "mllama",
            "/vision_config/hidden_act",
            json!("quick_gelu"),
            "`vision_config.hidden_act` must be `gelu`, but is quick_gelu",
        ),
        config(
            "kosmos2",
            "/vision_config/num_attention_heads",
            json!(0),
            "`vision_config.num_attention_heads` must be between 1 and 32, but is 0",
        ),
    ]);
}

/// Heads are counted in the width, and the layer of the features from the last: with other weights
/// than the configuration's the tower would compute something, and not what was trained.
#[test]
fn configurations_of_another_tower_than_the_weights() {
    let config = |golden, field, value, message| (golden, "config.json", field, value, message);
    check(&[
        config(
            "llava",
            "/vision_config/hidden_size",
            json!(64),
            "`vision_config.hidden_size` must be 32, as in the weights, but is 64",
        ),
        config(
            "llava_next",
            "/vision_config/image_size",
            json!(336),
            "`vision_config.image_size` must be 56, as in the weights, but is 336",
        ),
        config(
            "llava",
            "/vision_config/patch_size",
            json!(28),
            "`vision_config.patch_size` must be 14, as in the weights, but is 28",
        ),
        config(
            "llava",
            "/vision_config/num_hidden_layers",
            json!(2),
            "`vision_config.num_hidden_layers` must be 3, as in the weights, but is 2",
        ),
        config(
            "kosmos2",
            "/vision_config/hidden_size",
            json!(64),
            "`vision_config.hidden_size` must be 32, as in the weights, but is 64",
        ),
        config(
            "kosmos2",
            "/vision_config/image_size",
            json!(224),
            "`vision_config.image_size` must be 56, as in the weights, but is 224",
        ),
        config(
            "kosmos2",
            "/vision_config/num_hidden_layers",
            json!(2),
            "`vision_config.num_hidden_layers` must be 3, as in the weights, but is 2",
        ),
    ]);
    for (golden, field, value, message) in [
        (
            "llava",
            "/vision_config/num_hidden_layers",
            json!(4),
            "tensor `vision_tower.vision_model.encoder.layers.3.layer_norm1.weight`: is missing \
             from the weights",
        ),
        (
            "mllama",
            "/vision_config/num_hidden_layers",
            json!(5),
            "tensor `vision_model.transformer.layers.4.mlp.fc1.weight`: is missing from the weights",
        ),
        (
            "mllama",
            "/vision_config/patch_size",
            json!(28),
            "the tensor `vision_model.patch_embedding.weight` in DIR/model.safetensors has the \
             shape [32, 3, 14, 14], expected [32, 3, 28, 28]",
        ),
    ] {
        let checkpoint = Checkpoint::of(golden);
        checkpoint.set("config.json", field, &value);
        assert_eq!(checkpoint.refusal(), message, "{golden}: {field}");
    }
}

#[test]
fn settings_of_pictures() {
    let settings =
        |golden, field, value, message| (golden, "preprocessor_config.json", field, value, message);
    check(&[
        settings(
            "llava",
            "/crop_size",
            json!({"height": 336, "width": 336}),
            "`crop_size` must be 56 pixels, which is what the tower takes, but is 336 x 336",
        ),
        settings(
            "llava",
            "/size",
            json!({"shortest_edge": 57}),
            "`size` must be 56 pixels, which is what the tower takes, but is 57",
        ),
        settings(
            "llava_next",
            "/image_grid_pinpoints",
            json!([[56, 112]]),
            "`image_grid_pinpoints` must be that of `config.json`, [(56, 112), (112, 56), \
             (112, 112), (168, 56), (56, 168)], but is another",
        ),
        settings(
            "llava_next",
            "/resample",
            json!(0),
            "`resample` must be 2 (bilinear) or 3 (bicubic), but is 0",
        ),
        settings(
            "kosmos2",
            "/do_center_crop",
            json!(false),
            "`do_center_crop` must be true, but is false",
        ),
        settings(
            "kosmos2",
            "/rescale_factor",
            json!(0.5),
            "`rescale_factor` must be 1/255, but is 0.5",
        ),
        settings(
            "mllama",
            "/size",
            json!({"height": 560, "width": 560}),
            "`size` must be 56 x 56, the `vision_config.image_size` of `config.json`, but is \
             560 x 560",
        ),
        settings(
            "mllama",
            "/max_image_tiles",
            json!(3),
            "`max_image_tiles` must be 4, the `vision_config.max_num_tiles` of `config.json`, but \
             is 3",
        ),
        settings(
            "mllama",
            "/resample",
            json!(3),
            "`resample` must be 2 (bilinear), but is 3",
        ),
        settings(
            "mllama",
            "/do_pad",
            json!(false),
            "`do_pad` must be true, but is false",
        ),
        settings(
            "mllama",
            "/rescale_factor",
            json!(1.0),
            "`rescale_factor` must be 1/255, but is 1",
        ),
        settings(
            "mllama",
            "/image_std",
            json!([0.2, 0.0, 0.2]),
            "`image_std` must be above 0 and finite for each colour, but is [0.2, 0.0, 0.2]",
        ),
    ]);
}

#[test]
fn sizes_for_patches_that_the_tower_does_not_take() {
    for pinpoints in [json!([]), json!([[56, 100]]), json!([[0, 56]])] {
        let checkpoint = Checkpoint::of("llava_next");
        checkpoint.set("config.json", "/image_grid_pinpoints", &pinpoints);
        checkpoint.assert_refused(&[
            "`config.json`: `image_grid_pinpoints` must be 1 to 256 sizes whose sides are multiples \
             of 56",
        ]);
    }
}
