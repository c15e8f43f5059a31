//! `preprocessor_config.json`, checked.

use serde::Deserialize;

use super::config::Vision;
use crate::common::levels::{Normalisation, PREPROCESSOR_FILE, check_rescale_factor};
use crate::{LoadError, ModelFiles};

/// `resample` by PIL's number, which is what the tiling does.
const BILINEAR: u8 = 2;

/// The settings; the sizes that they share with the tower must be the tower's.
#[derive(Debug, Default, Deserialize)]
struct Settings {
    size: Option<Size>,
    max_image_tiles: Option<usize>,
    resample: Option<u8>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    do_pad: Option<bool>,
    rescale_factor: Option<f64>,
    #[serde(flatten)]
    normalisation: Normalisation,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Size {
    height: usize,
    width: usize,
}

/// Reads the settings, where there are any, for the tower of `vision`; gives what normalises.
pub(super) fn read(files: &ModelFiles, vision: &Vision) -> Result<Normalisation, LoadError> {
    let settings: Settings = files.json_or_default(PREPROCESSOR_FILE)?;
    let tile = vision.image_size;
    if let Some(Size { height, width }) = settings.size
        && (height, width) != (tile, tile)
    {
        return Err(must(
            "size",
            &format!("be {tile} x {tile}, the `vision_config.image_size` of `config.json`"),
            &format!("{width} x {height}"),
        ));
    }
    let tiles = vision.max_num_tiles;
    if let Some(found) = settings.max_image_tiles.filter(|&found| found != tiles) {
        return Err(must(
            "max_image_tiles",
            &format!("be {tiles}, the `vision_config.max_num_tiles` of `config.json`"),
            &found.to_string(),
        ));
    }
    if let Some(found) = settings.resample.filter(|&found| found != BILINEAR) {
        return Err(must("resample", "be 2 (bilinear)", &found.to_string()));
    }
    for (field, step) in [
        ("do_resize", settings.do_resize),
        ("do_rescale", settings.do_rescale),
        ("do_normalize", settings.do_normalize),
        ("do_pad", settings.do_pad),
    ] {
        if step == Some(false) {
            return Err(must(field, "be true", "false"));
        }
    }
    check_rescale_factor(settings.rescale_factor)?;
    settings.normalisation.check()?;
    Ok(settings.normalisation)
}

fn must(field: &str, bound: &str, value: &str) -> LoadError {
    LoadError::invalid(
        PREPROCESSOR_FILE,
        format!("`{field}` must {bound}, but is {value}"),
    )
}
