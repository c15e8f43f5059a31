//! What architectures share.

pub(crate) mod clip;
pub(crate) mod decoder;
pub(crate) mod params;
pub(crate) mod rope;
pub(crate) mod text;
