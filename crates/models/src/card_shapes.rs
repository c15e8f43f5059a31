//! The configurations of the catalog's models, as far as they say what a model needs, so that it
//! can be told before anything is fetched.
//!
//! Each file in `models/shapes/` holds the sizes from the published `config.json` and
//! `preprocessor_config.json` under their names there: the same code reads them as reads a
//! checkpoint's.

use crate::ModelFiles;
use crate::catalog::Card;

type Files = &'static [(&'static str, &'static [u8])];

/// The configuration in a folder.
macro_rules! shape {
    ($folder:literal) => {
        &[shape!($folder, "config.json")]
    };
    ($folder:literal, preprocessor) => {
        &[
            shape!($folder, "config.json"),
            shape!($folder, "preprocessor_config.json"),
        ]
    };
    ($folder:literal, $file:literal) => {
        (
            $file,
            include_bytes!(concat!("../../../models/shapes/", $folder, "/", $file)),
        )
    };
}

/// By the cards' ids.
const SHAPES: &[(&str, Files)] = &[
    ("community/llava16-34b", shape!("llava-v1.6-34b")),
    (
        "community/llava16-mistral-7b",
        shape!("llava-v1.6-mistral-7b"),
    ),
    ("llava-hf/llava-1.5-13b-hf", shape!("llava-1.5-13b")),
    ("llava-hf/llava-1.5-7b-hf", shape!("llava-1.5-7b")),
    (
        "llava-hf/llava-v1.6-vicuna-7b-hf",
        shape!("llava-v1.6-vicuna-7b"),
    ),
    (
        "meta/llama-3.2-11b-vision-instruct",
        shape!("llama-3.2-11b-vision"),
    ),
    (
        "meta/llama-3.2-90b-vision-instruct",
        shape!("llama-3.2-90b-vision"),
    ),
    ("microsoft/kosmos-2", shape!("kosmos-2")),
    (
        "microsoft/phi-3-vision-128k-instruct",
        shape!("phi-3-vision", preprocessor),
    ),
    (
        "microsoft/phi-3.5-vision-instruct",
        shape!("phi-3.5-vision", preprocessor),
    ),
];

/// The configuration of a card's model, without weights or tokenizer; `None` where it is not known.
pub(crate) fn of(card: &Card) -> Option<ModelFiles> {
    let (_, files) = SHAPES.iter().find(|(id, _)| *id == card.id)?;
    Some(ModelFiles::Embedded(files))
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use vlmd_kernels::Place;

    use super::*;
    use crate::catalog::{EMBEDDED_MODEL, cards};
    use crate::{registry, survey_card};

    #[test]
    fn shapes_are_those_of_the_cards() {
        let mut known = 0;
        for card in cards() {
            let id = &card.id;
            let Some(need) = survey_card(card, Place::Cuda, None).unwrap() else {
                assert!(card.archive, "{id}");
                continue;
            };
            known += 1;
            let spec = &need.spec;
            if let Some(files) = of(card) {
                let entry = registry::pick(&files).unwrap();
                assert_eq!(entry.name, card.architecture, "{id}");
            }
            assert_eq!(spec.max_positions, card.context, "{id}");
            let kv_values = 2 * spec.layers * spec.kv_heads * spec.head_dim;
            assert_eq!(Some(kv_values as u64), card.kv_values_per_token, "{id}");
            assert_eq!(need.weight_bytes, card.weight_bytes(DType::BF16));

            // Most of the weights are the decoder's.
            let decoder = &need.footprint.decoder;
            let (queries, keys) = (
                decoder.heads * decoder.head_dim,
                2 * decoder.kv_heads * decoder.head_dim,
            );
            let gated = card.architecture != "kosmos-2";
            let mlp = (2 + usize::from(gated)) * decoder.inner;
            let layer = decoder.hidden * (2 * queries + keys + mlp);
            let embeddings = if gated { 2 } else { 1 };
            let weights = layer * (spec.layers + decoder.looking)
                + embeddings * decoder.hidden * decoder.vocab_size;
            let share = weights as f64 / card.parameters as f64;
            let least = if id == EMBEDDED_MODEL { 0.4 } else { 0.78 };
            assert!((least..1.0).contains(&share), "{id}: {share}");
        }
        assert_eq!(known, SHAPES.len() + 1);
    }
}
