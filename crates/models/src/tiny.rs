//! The default model, compiled in: what `models/tiny/train.py` made.

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
