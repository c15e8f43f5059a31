//! `preprocessor_config.json`, checked.

use serde::Deserialize;

use crate::{LoadError, ModelFiles};

const FILE: &str = "preprocessor_config.json";

/// Bound on `num_crops`. A picture of this many crops takes 350 MB of pixels.
const MAX_CROPS: usize = 256;

/// `preprocessor_config.json`. Defaults are those of `Phi3VImageProcessor`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Preprocessor {
    /// Most crops that a picture is cut into, the view of the whole not counted.
    #[serde(default = "default_crops")]
    pub(super) num_crops: usize,
    /// Subtracted per colour from pixels between 0 and 1.
    #[serde(default = "clip_mean")]
    pub(super) image_mean: [f32; 3],
    /// Divides what remains.
    #[serde(default = "clip_std")]
    pub(super) image_std: [f32; 3],
}

fn default_crops() -> usize {
    1
}

fn clip_mean() -> [f32; 3] {
    [0.481_454_66, 0.457_827_5, 0.408_210_73]
}

fn clip_std() -> [f32; 3] {
    [0.268_629_54, 0.261_302_6, 0.275_777_1]
}

impl Preprocessor {
    /// Reads and checks `preprocessor_config.json`.
    pub(super) fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        let config: Self = files.json(FILE)?;
        if !(1..=MAX_CROPS).contains(&config.num_crops) {
            return Err(LoadError::invalid(
                FILE,
                format!(
                    "`num_crops` must be between 1 and {MAX_CROPS}, but is {}",
                    config.num_crops
                ),
            ));
        }
        if !config.image_mean.iter().all(|value| value.is_finite()) {
            return Err(LoadError::invalid(
                FILE,
                format!(
                    "`image_mean` must be finite for each colour, but is {:?}",
                    config.image_mean
                ),
            ));
        }
        let usable = |value: &f32| value.is_finite() && *value > 0.0;
        if !config.image_std.iter().all(usable) {
            return Err(LoadError::invalid(
                FILE,
                format!(
                    "`image_std` must be above 0 and finite for each colour, but is {:?}",
                    config.image_std
                ),
            ));
        }
        Ok(config)
    }
}
