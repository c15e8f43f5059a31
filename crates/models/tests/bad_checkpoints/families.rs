//! Llama-3.2-Vision, LLaVA, LLaVA-NeXT and Kosmos-2: files, weights and tokenizers.

use candle_core::Tensor;
use serde_json::json;
use vlmd_models::{Chat, LoadOptions, Message, ModelFiles, Part, load};

use crate::checkpoint::{Checkpoint, WEIGHTS};
use crate::support::SHARDS;

/// A golden to be damaged.
struct Family {
    golden: &'static str,
    /// Stands for a picture in prompts.
    image_token: &'static str,
    /// Tensors of all parts.
    tensors: &'static [&'static str],
}

const FAMILIES: [Family; 5] = [
    Family {
        golden: "llava",
        image_token: "<image>",
        tensors: &[
            "language_model.model.embed_tokens.weight",
            "language_model.model.layers.1.self_attn.k_proj.weight",
            "language_model.model.layers.2.mlp.up_proj.weight",
            "language_model.model.norm.weight",
            "language_model.lm_head.weight",
            "multi_modal_projector.linear_1.bias",
            "multi_modal_projector.linear_2.weight",
            "vision_tower.vision_model.embeddings.class_embedding",
            "vision_tower.vision_model.encoder.layers.0.mlp.fc2.bias",
            "vision_tower.vision_model.pre_layrnorm.weight",
        ],
    },
    Family {
        golden: "llava_next",
        image_token: "<image>",
        tensors: &[
            "image_newline",
            "language_model.model.layers.0.self_attn.v_proj.weight",
            "language_model.lm_head.weight",
            "multi_modal_projector.linear_1.weight",
            "vision_tower.vision_model.encoder.layers.1.layer_norm2.bias",
        ],
    },
    Family {
        golden: "mllama",
        image_token: "<|image|>",
        tensors: &[
            "language_model.model.embed_tokens.weight",
            "language_model.model.layers.1.cross_attn.q_norm.weight",
            "language_model.model.layers.1.cross_attn_attn_gate",
            "language_model.model.layers.3.cross_attn.v_proj.weight",
            "language_model.model.layers.3.mlp.down_proj.weight",
            "language_model.model.layers.4.self_attn.q_proj.weight",
            "language_model.lm_head.weight",
            "multi_modal_projector.bias",
            "vision_model.class_embedding",
            "vision_model.gated_positional_embedding.gate",
            "vision_model.gated_positional_embedding.tile_embedding.weight",
            "vision_model.global_transformer.layers.1.gate_ffn",
            "vision_model.layernorm_post.bias",
            "vision_model.patch_embedding.weight",
            "vision_model.pre_tile_positional_embedding.embedding.weight",
            "vision_model.transformer.layers.3.mlp.fc2.bias",
        ],
    },
    Family {
        golden: "mllama_base",
        image_token: "<|image|>",
        tensors: &["language_model.model.layers.0.cross_attn.k_proj.weight"],
    },
    Family {
        golden: "kosmos2",
        image_token: "<image>",
        tensors: &[
            "image_to_text_projection.dense.weight",
            "image_to_text_projection.latent_query",
            "text_model.model.embed_tokens.weight",
            "text_model.model.layers.0.self_attn.inner_attn_ln.bias",
            "text_model.model.layers.2.ffn.fc1.weight",
            "vision_model.model.embeddings.class_embedding",
            "vision_model.model.encoder.layers.2.mlp.fc2.weight",
            "vision_model.model.post_layernorm.weight",
        ],
    },
];

impl Family {
    fn sound(&self) -> Checkpoint {
        Checkpoint::of(self.golden)
    }
}

#[test]
fn sound_checkpoints_load() {
    for family in FAMILIES {
        assert_eq!(family.sound().load(), Ok(()), "{}", family.golden);
    }
}

#[test]
fn files_that_none_can_do_without_are_named() {
    for family in FAMILIES {
        for file in ["config.json", "tokenizer.json"] {
            let checkpoint = family.sound();
            checkpoint.remove(file);
            let message = format!("`{file}` is missing from `DIR`");
            assert_eq!(checkpoint.refusal(), message);
        }
        let checkpoint = family.sound();
        checkpoint.remove(WEIGHTS);
        assert_eq!(
            checkpoint.refusal(),
            "`DIR` holds neither `model.safetensors` nor `pytorch_model.bin`, nor an `.index.json` \
             of either"
        );
    }
}

#[test]
fn files_that_are_cut_off_are_named() {
    for family in FAMILIES {
        for file in [
            "config.json",
            "generation_config.json",
            "preprocessor_config.json",
            "tokenizer.json",
        ] {
            let checkpoint = family.sound();
            std::fs::write(checkpoint.path(file), b"{\"version\": 1").unwrap();
            checkpoint.assert_refused(&[&format!("`{file}`")]);
        }
        let checkpoint = family.sound();
        let whole = std::fs::read(checkpoint.path(WEIGHTS)).unwrap();
        std::fs::write(checkpoint.path(WEIGHTS), &whole[..whole.len() / 2]).unwrap();
        assert_eq!(
            checkpoint.refusal(),
            "DIR/model.safetensors is not a whole safetensors file: \
             its data is longer or shorter than its header says"
        );
    }
}

#[test]
fn shards_are_all_needed() {
    for family in FAMILIES {
        let checkpoint = family.sound();
        checkpoint.shard();
        assert_eq!(checkpoint.load(), Ok(()));
        checkpoint.remove(SHARDS[1]);
        let message = format!(
            "`{}` is missing from `DIR`, though the index names it",
            SHARDS[1]
        );
        assert_eq!(checkpoint.refusal(), message);
    }
}

#[test]
fn missing_tensors_are_named() {
    for family in FAMILIES {
        for tensor in family.tensors {
            let checkpoint = family.sound();
            checkpoint.edit_tensors(|tensors| assert!(tensors.remove(*tensor).is_some()));
            let message = checkpoint.refusal();
            let missing = [
                format!("there is no tensor `{tensor}` in DIR/model.safetensors"),
                format!("tensor `{tensor}`: is missing from the weights"),
            ];
            assert!(missing.contains(&message), "{tensor}: {message}");
        }
    }
}

#[test]
fn tensors_of_another_shape_are_named_with_both() {
    for family in FAMILIES {
        for &name in family.tensors {
            let checkpoint = family.sound();
            let mut shapes = (Vec::new(), Vec::new());
            checkpoint.edit_tensors(|tensors| {
                let tensor = &tensors[name];
                // One more row.
                let longer = Tensor::cat(&[tensor, &tensor.narrow(0, 0, 1).unwrap()], 0).unwrap();
                shapes = (tensor.dims().to_vec(), longer.dims().to_vec());
                tensors.insert(name.to_owned(), longer);
            });
            let (expected, found) = shapes;
            assert_eq!(
                checkpoint.refusal(),
                format!(
                    "the tensor `{name}` in DIR/model.safetensors has the shape {found:?}, \
                     expected {expected:?}"
                ),
            );
        }
    }
}

#[test]
fn tokenizers_without_the_image_token_are_refused() {
    for family in FAMILIES {
        let token = family.image_token;
        let checkpoint = family.sound();
        checkpoint.replace_token(token, Some("<other>"));
        assert_eq!(
            checkpoint.refusal(),
            format!("`tokenizer.json`: the token `{token}` is not in the vocabulary")
        );
    }
}

#[test]
fn an_image_token_with_another_id_than_the_configurations_is_refused() {
    for (golden, token, id) in [
        ("llava", "<image>", 480),
        ("llava_next", "<image>", 480),
        ("mllama", "<|image|>", 384),
    ] {
        let checkpoint = Checkpoint::of(golden);
        checkpoint.set("config.json", "/image_token_index", &json!(7));
        assert_eq!(
            checkpoint.refusal(),
            format!(
                "`config.json`: `image_token_index` must be {id}, the id of `{token}` in the \
                 tokenizer, but is 7"
            )
        );
    }
}

#[test]
fn an_image_token_without_an_embedding_is_refused() {
    let checkpoint = Checkpoint::of("mllama");
    checkpoint.set("config.json", "/image_token_index", &json!(392));
    // In the vocabulary ids may leave gaps.
    checkpoint.set("tokenizer.json", "/model/vocab/<|image|>", &json!(392));
    assert_eq!(
        checkpoint.refusal(),
        "`config.json`: `image_token_index` must be below 392, the rows of the embedding, but is 392"
    );
}

#[test]
fn tokenizers_with_more_tokens_than_embeddings_are_refused() {
    for (golden, vocabulary) in [
        ("llava", 512),
        ("llava_next_yi", 512),
        ("mllama", 392),
        ("kosmos2", 1336),
    ] {
        let checkpoint = Checkpoint::of(golden);
        let mut tokens = 0;
        checkpoint.edit("tokenizer.json", |tokenizer| {
            let added = tokenizer["added_tokens"].as_array_mut().unwrap();
            let last = added
                .iter()
                .map(|entry| entry["id"].as_u64().unwrap())
                .max();
            // One behind the other, until there is one too many.
            for id in last.unwrap() + 1..=vocabulary {
                let mut entry = added[0].clone();
                entry["id"] = json!(id);
                entry["content"] = json!(format!("<further {id}>"));
                added.push(entry);
            }
            tokens = vocabulary + 1;
        });
        assert_eq!(
            checkpoint.refusal(),
            format!(
                "`tokenizer.json`: has {tokens} tokens, more than `vocab_size` ({vocabulary}) in \
                 `config.json`"
            ),
            "{golden}"
        );
    }
}

#[test]
fn templates_that_do_not_compile_are_refused() {
    for golden in ["llava", "llava_next", "mllama"] {
        let checkpoint = Checkpoint::of(golden);
        let broken = json!("{% for message in %}");
        checkpoint.set("chat_template.json", "/chat_template", &broken);
        checkpoint.assert_refused(&["chat template does not compile"]);
    }
}

/// It loads, since prompts can be given as they are, but no conversation can be had with it.
#[test]
fn a_base_model_refuses_conversations() {
    let checkpoint = Checkpoint::of("mllama_base");
    let files = ModelFiles::Directory(checkpoint.directory().to_owned());
    let processor = load(&files, &LoadOptions::default()).unwrap().processor;
    let chat = Chat {
        messages: vec![Message {
            role: "user".to_owned(),
            parts: vec![Part::Text("Hello.".to_owned())],
            ..Message::default()
        }],
        ..Chat::default()
    };
    assert_eq!(
        processor.prepare(&chat, &[]).unwrap_err().to_string(),
        "the model's chat template refuses this conversation: there is none: the checkpoint is a \
         base model, which cannot chat"
    );
}
