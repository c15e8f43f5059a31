//! How a picture is laid out in tiles, as `image_processing_mllama.py` does it.

use vlmd_backend::Pixels;
use vlmd_media::Picture;
use vlmd_media::resample::{Filter, pil};

use super::config::Vision;
use crate::common::fields::PREPROCESSOR;
use crate::common::levels::{COLOURS, Levels};
use crate::common::preprocessor::{BILINEAR, Settings, Size};
use crate::common::tiles;
use crate::{LoadError, ModelFiles};

/// Rows and columns of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Canvas {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// Every canvas of at most `max_tiles` tiles, in the reference's order, which is that of the
/// learnt embeddings of the aspect ratio: the one at `index` has the id `index + 1`.
pub(super) fn canvases(max_tiles: usize) -> Vec<Canvas> {
    let of_rows = |rows| {
        let fits = move |columns: &usize| rows * columns <= max_tiles;
        let canvas = move |columns| Canvas { rows, columns };
        (1..=max_tiles).take_while(fits).map(canvas)
    };
    (1..=max_tiles).flat_map(of_rows).collect()
}

/// The transform with its settings.
#[derive(Debug, Clone)]
pub(super) struct Tiling {
    /// Pixels per side of a tile.
    tile: usize,
    canvases: Vec<Canvas>,
    levels: Levels,
}

/// The tiles of a picture.
#[derive(Debug)]
pub(super) struct Tiles {
    /// `rows * columns` tiles, row by row.
    pub(super) pixels: Pixels,
    pub(super) canvas: Canvas,
}

impl Tiling {
    /// Reads the settings, where there are any; the sizes that they share with the tower must be
    /// the tower's.
    pub(super) fn read(files: &ModelFiles, vision: &Vision) -> Result<Self, LoadError> {
        let settings = Settings::read(files)?;
        PREPROCESSOR.all_true(&[("do_pad", settings.do_pad)])?;
        let (tile, tiles) = (vision.image_size, vision.max_num_tiles);
        let square = Size::Sides {
            height: tile,
            width: tile,
        };
        if let Some(size) = settings.size.filter(|&size| size != square) {
            let bound = format!("be {square}, the `vision_config.image_size` of `config.json`");
            return Err(PREPROCESSOR.must("size", bound, size));
        }
        if let Some(found) = settings.max_image_tiles.filter(|&found| found != tiles) {
            let bound = format!("be {tiles}, the `vision_config.max_num_tiles` of `config.json`");
            return Err(PREPROCESSOR.must("max_image_tiles", bound, found));
        }
        if let Some(found) = settings.resample.filter(|&found| found != BILINEAR) {
            return Err(PREPROCESSOR.must("resample", "be 2 (bilinear)", found));
        }
        Ok(Self {
            tile,
            canvases: canvases(tiles),
            levels: Levels::rescaled(&settings.normalisation),
        })
    }

    /// The canvas on which a picture of `width` by `height` pixels is laid: the one that enlarges
    /// it least, or else the one that shrinks it least; the smaller of equals.
    fn canvas(&self, width: usize, height: usize) -> Canvas {
        let scale = |canvas: &Canvas| {
            let down = (canvas.rows * self.tile) as f64 / height as f64;
            let across = (canvas.columns * self.tile) as f64 / width as f64;
            down.min(across)
        };
        let scales: Vec<f64> = self.canvases.iter().map(scale).collect();
        let enlarging = scales.iter().copied().filter(|&scale| scale >= 1.0);
        let chosen = enlarging
            .min_by(f64::total_cmp)
            .or_else(|| scales.iter().copied().max_by(f64::total_cmp));
        let equals = self.canvases.iter().zip(&scales);
        equals
            .filter(|(_, scale)| Some(**scale) == chosen)
            .map(|(canvas, _)| *canvas)
            .min_by_key(|canvas| canvas.rows * canvas.columns)
            .unwrap_or(Canvas {
                rows: 1,
                columns: 1,
            })
    }

    /// Size to which a picture is scaled on its canvas: its ratio is kept, its longer side grows
    /// to no less than a tile.
    fn scaled(&self, width: usize, height: usize, canvas: Canvas) -> (usize, usize) {
        let (tile, most_wide, most_high) = (
            self.tile,
            canvas.columns * self.tile,
            canvas.rows * self.tile,
        );
        let wide = width.clamp(tile, most_wide);
        let high = height.clamp(tile, most_high);
        let across = wide as f64 / width as f64;
        let down = high as f64 / height as f64;
        let kept = |side: usize, scale: f64| ((side as f64 * scale).floor() as usize).max(1);
        if across < down {
            (wide, kept(height, across).min(high))
        } else {
            (kept(width, down).min(wide), high)
        }
    }

    /// Tiles of a picture.
    pub(super) fn apply(&self, picture: &Picture) -> candle_core::Result<Tiles> {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let canvas = self.canvas(width, height);
        let (wide, high) = self.scaled(width, height, canvas);
        // A canvas has at most `max_tiles` tiles a side.
        let scaled = pil(picture, wide as u32, high as u32, Filter::Bilinear);
        let tile = self.tile;
        // What the picture does not cover is black, as if it had been drawn so.
        let surface = tiles::Canvas {
            picture: &scaled,
            at: (0, 0),
            background: 0,
        };
        let mut levels = Vec::with_capacity(canvas.rows * canvas.columns * COLOURS * tile * tile);
        for row in 0..canvas.rows {
            for column in 0..canvas.columns {
                if let Some(part) = surface.part((column * tile, row * tile), (tile, tile)) {
                    levels.extend_from_slice(part.rgb());
                }
            }
        }
        Ok(Tiles {
            pixels: self.levels.pixels(levels, (tile, tile))?,
            canvas,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canvases_stand_in_the_order_of_their_embeddings() {
        let order: Vec<_> = canvases(4).iter().map(|c| (c.rows, c.columns)).collect();
        let (wide, high) = (
            [(1, 1), (1, 2), (1, 3), (1, 4)],
            [(2, 1), (2, 2), (3, 1), (4, 1)],
        );
        assert_eq!(order, [wide, high].concat());
    }
}
