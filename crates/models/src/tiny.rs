//! The default model, compiled in: what `models/tiny/train.py` made.

use serde::Deserialize;

use crate::ModelFiles;

/// A file's name and contents.
macro_rules! file {
    ($file:literal) => {
        (
            $file,
            include_bytes!(concat!("../../../models/tiny/", $file)),
        )
    };
}

/// Its files, in the layout of every other checkpoint.
const FILES: &[(&str, &[u8])] = &[
    file!("config.json"),
    file!("generation_config.json"),
    file!("preprocessor_config.json"),
    file!("tokenizer.json"),
    file!("tokenizer_config.json"),
    file!("model.safetensors"),
];

/// Pictures that it has answered questions about, by the names that the examples have for them.
const PICTURES: &[(&str, &[u8])] = &[
    file!("examples/bars.png"),
    file!("examples/noisy.png"),
    file!("examples/shapes.png"),
    file!("examples/text.png"),
];

const EXAMPLES: &[u8] = include_bytes!("../../../models/tiny/examples/examples.json");

/// A question about a picture, and the greedy answer in f32 that the model gave when it was
/// exported.
#[derive(Debug, Clone)]
pub struct Example {
    /// A PNG.
    pub picture: &'static [u8],
    /// What is asked.
    pub question: String,
    /// What PyTorch answered.
    pub answer: String,
}

/// All of `models/tiny/examples`.
#[must_use]
pub fn examples() -> Vec<Example> {
    #[derive(Deserialize)]
    struct Written {
        image: String,
        question: String,
        answer: String,
    }
    // They are part of the program, and a test reads each of them.
    let written: Vec<Written> = serde_json::from_slice(EXAMPLES).unwrap_or_default();
    let example = |written: Written| {
        let name = format!("examples/{}", written.image);
        let (_, picture) = PICTURES.iter().find(|(file, _)| *file == name)?;
        Some(Example {
            picture,
            question: written.question,
            answer: written.answer,
        })
    };
    written.into_iter().filter_map(example).collect()
}

/// The embedded model ([`EMBEDDED_MODEL`](crate::catalog::EMBEDDED_MODEL) in the catalog).
#[must_use]
pub fn embedded() -> ModelFiles {
    ModelFiles::Embedded(FILES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{EMBEDDED_MODEL, find};
    use crate::{LoadOptions, load};

    #[test]
    fn every_example_is_there_with_its_picture() {
        let written: Vec<serde_json::Value> = serde_json::from_slice(EXAMPLES).unwrap();
        let examples = examples();
        assert!(examples.len() >= 4 && examples.len() == written.len());
        for example in examples {
            assert!(example.picture.starts_with(b"\x89PNG"));
            assert!(!example.question.is_empty() && !example.answer.is_empty());
        }
    }

    #[test]
    fn the_embedded_model_is_what_its_card_says() {
        let card = find(EMBEDDED_MODEL).unwrap();
        let weights = embedded().weights().unwrap();
        let sizes = weights.names().filter_map(|name| weights.shape(name));
        let parameters: usize = sizes.map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!(parameters as u64, card.parameters);

        let loaded = load(&embedded(), &LoadOptions::default()).unwrap();
        let spec = loaded.model.spec();
        let kv_values = 2 * spec.layers * spec.kv_heads * spec.head_dim;
        assert_eq!(loaded.architecture, card.architecture);
        assert_eq!(Some(kv_values as u64), card.kv_values_per_token);
        assert_eq!(spec.max_positions, card.context);
    }
}
