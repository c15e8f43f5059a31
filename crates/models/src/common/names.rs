//! Where checkpoints of several parts keep them.
//!
//! transformers 4.52 moved the parts of its vision-language models below `model` and the head to
//! the root; the hub has both.

use super::params::Params;

/// The branches of a checkpoint in its layout.
pub(crate) struct Parts<'a> {
    /// Holds `embed_tokens`, `layers` and `norm`.
    pub(crate) text: Params<'a>,
    /// Holds `lm_head`.
    pub(crate) head: Params<'a>,
    /// Holds the tower and the projector.
    pub(crate) vision: Params<'a>,
}

impl<'a> Parts<'a> {
    /// Tells the layout by the embeddings' name.
    pub(crate) fn of(params: &Params<'a>) -> Self {
        let below = params.at("model").at("language_model");
        if below.has("embed_tokens.weight") {
            return Self {
                text: below,
                head: params.clone(),
                vision: params.at("model"),
            };
        }
        let text = params.at("language_model");
        Self {
            text: text.at("model"),
            head: text,
            vision: params.clone(),
        }
    }
}
