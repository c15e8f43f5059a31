//! `preprocessor_config.json`, checked.

use serde::Deserialize;

use crate::common::levels::{Normalisation, PREPROCESSOR_FILE};
use crate::{LoadError, ModelFiles};

/// Bound on `num_crops`. A picture of this many crops takes 350 MB of pixels.
const MAX_CROPS: usize = 256;

/// `preprocessor_config.json`. Defaults are those of `Phi3VImageProcessor`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Preprocessor {
    /// Most crops that a picture is cut into, the view of the whole not counted.
    #[serde(default = "default_crops")]
    pub(super) num_crops: usize,
    /// Of each colour.
    #[serde(flatten)]
    pub(super) normalisation: Normalisation,
}

fn default_crops() -> usize {
    1
}

impl Preprocessor {
    /// Reads and checks `preprocessor_config.json`.
    pub(super) fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        let config: Self = files.json(PREPROCESSOR_FILE)?;
        if !(1..=MAX_CROPS).contains(&config.num_crops) {
            return Err(LoadError::invalid(
                PREPROCESSOR_FILE,
                format!(
                    "`num_crops` must be between 1 and {MAX_CROPS}, but is {}",
                    config.num_crops
                ),
            ));
        }
        config.normalisation.check()?;
        Ok(config)
    }
}
