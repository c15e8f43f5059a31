//! `preprocessor_config.json`, as transformers' image processors have it in common.

use std::fmt;

use serde::Deserialize;

use super::fields::PREPROCESSOR;
use super::levels::{Normalisation, check_rescale_factor};
use crate::{LoadError, ModelFiles};

/// The settings.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Settings {
    pub(crate) size: Option<Size>,
    /// Kosmos-2's older way to say that `size` is that of both sides.
    #[serde(default)]
    pub(crate) use_square_size: bool,
    pub(crate) crop_size: Option<Size>,
    pub(crate) max_image_tiles: Option<usize>,
    /// By PIL's numbers: [`BILINEAR`] or [`BICUBIC`], say.
    pub(crate) resample: Option<u8>,
    do_resize: Option<bool>,
    pub(crate) do_center_crop: Option<bool>,
    pub(crate) do_pad: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    rescale_factor: Option<f64>,
    #[serde(flatten)]
    pub(crate) normalisation: Normalisation,
}

/// `resample` by PIL's numbers.
pub(crate) const BILINEAR: u8 = 2;
pub(crate) const BICUBIC: u8 = 3;

impl Settings {
    /// Reads them, where there are any, and checks what is the same for all.
    pub(crate) fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        let settings: Self = files.json_or_default(PREPROCESSOR.0)?;
        PREPROCESSOR.all_true(&[
            ("do_resize", settings.do_resize),
            ("do_rescale", settings.do_rescale),
            ("do_normalize", settings.do_normalize),
        ])?;
        check_rescale_factor(settings.rescale_factor)?;
        settings.normalisation.check()?;
        Ok(settings)
    }
}

/// A size as a number, or by its sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Size {
    Side(usize),
    Shortest { shortest_edge: usize },
    Sides { height: usize, width: usize },
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Side(side)
            | Self::Shortest {
                shortest_edge: side,
            } => write!(f, "{side}"),
            Self::Sides { height, width } => write!(f, "{width} x {height}"),
        }
    }
}

impl Size {
    /// The side of a square.
    pub(crate) fn side(self) -> Option<usize> {
        match self {
            Self::Side(side)
            | Self::Shortest {
                shortest_edge: side,
            } => Some(side),
            Self::Sides { height, width } => (height == width).then_some(height),
        }
    }
}
