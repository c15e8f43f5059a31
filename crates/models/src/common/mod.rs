//! What architectures share.

pub(crate) mod activation;
pub(crate) mod chat;
pub(crate) mod clip;
pub(crate) mod clip_config;
pub(crate) mod clip_image;
pub(crate) mod decoder;
pub(crate) mod encoder;
pub(crate) mod fields;
pub(crate) mod language;
pub(crate) mod levels;
pub(crate) mod names;
pub(crate) mod norm;
pub(crate) mod padding;
pub(crate) mod params;
pub(crate) mod patches;
pub(crate) mod placeholder;
pub(crate) mod positions;
pub(crate) mod preprocessor;
pub(crate) mod projector;
pub(crate) mod rope;
pub(crate) mod sizes;
pub(crate) mod spliced;
pub(crate) mod stages;
pub(crate) mod text;
pub(crate) mod text_config;
pub(crate) mod tiles;
