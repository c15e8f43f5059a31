//! From crops to the features that stand in the prompt.

use candle_core::{DType, Device, Result, Tensor, bail};
use vlmd_backend::ImageInput;
use vlmd_kernels::{Linear, gelu};

use super::TOWER;
use super::config::Config;
use crate::LoadError;
use crate::common::clip::{Clip, Options};
use crate::common::params::Params;

/// Crops that go through the tower at once. Bounds the memory of its inner layers (about 80 MB
/// for this many at full size), whatever the number of pictures.
const CROPS_PER_PASS: usize = 8;

/// The tower with the learnt separators and the projection into the decoder's width.
#[derive(Debug)]
pub(super) struct Vision {
    tower: Clip,
    /// `[2, 4 * width]`: `sub_GN`, which ends a row, then `glb_GN`, which stands before the view
    /// of the whole.
    separators: Tensor,
    projection: [Linear; 2],
    device: Device,
    dtype: DType,
}

impl Vision {
    /// Loads the `vision_embed_tokens` branch. `params` is the root.
    pub(super) fn load(
        params: &Params<'_>,
        config: &Config,
    ) -> std::result::Result<Self, LoadError> {
        let tower = Clip::load(&params.at(TOWER), &Options::openai(config.vision_layer()))?;
        let geometry = tower.geometry();
        let branch = params.at("model.vision_embed_tokens");
        let merged = 4 * geometry.hidden;
        let row_end = branch.activation("sub_GN", &[1, 1, 1, merged])?;
        let before_whole = branch.activation("glb_GN", &[1, 1, merged])?;
        let separators = Tensor::cat(
            &[
                row_end.reshape((1, merged))?,
                before_whole.reshape((1, merged))?,
            ],
            0,
        )?;
        let projection = branch.at("img_projection");
        let hidden = config.hidden_size();
        Ok(Self {
            tower,
            separators,
            projection: [
                projection.linear_with_bias("0", merged, hidden)?,
                projection.linear_with_bias("2", hidden, hidden)?,
            ],
            device: params.device().clone(),
            dtype: params.activation_dtype(),
        })
    }

    /// Features of each picture, `[features, hidden]`.
    ///
    /// The crops of all pictures share passes through the tower. Only crops that a picture has
    /// are computed: the reference fills up to `num_crops + 1` with zeros and drops their
    /// features afterwards.
    pub(super) fn encode(&self, images: &[&ImageInput]) -> Result<Vec<Tensor>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let pixels: Vec<&Tensor> = images.iter().map(|image| &image.pixels).collect();
        let pixels = Tensor::cat(&pixels, 0)?;
        let crops = pixels.dim(0)?;
        let mut merged = Vec::with_capacity(crops.div_ceil(CROPS_PER_PASS));
        for start in (0..crops).step_by(CROPS_PER_PASS) {
            let count = CROPS_PER_PASS.min(crops - start);
            let chunk = pixels
                .narrow(0, start, count)?
                .to_device(&self.device)?
                .to_dtype(self.dtype)?;
            merged.push(self.merge(&self.tower.patches(&chunk)?)?);
        }
        let merged = Tensor::cat(&merged, 0)?;

        let mut first = 0;
        let mut features = Vec::with_capacity(images.len());
        for image in images {
            let crops = image.pixels.dim(0)?;
            features.push(self.arrange(&merged.narrow(0, first, crops)?, image)?);
            first += crops;
        }
        Ok(features)
    }

    /// Side by side patches become one: `[n, grid * grid, width]` to
    /// `[n, (grid / 2)^2, 4 * width]`, the four in the order of reading.
    fn merge(&self, features: &Tensor) -> Result<Tensor> {
        let (count, _, width) = features.dims3()?;
        let cells = self.cells();
        features
            .reshape(&[count, cells, 2, cells, 2, width])?
            .permute([0, 1, 3, 2, 4, 5])?
            .reshape((count, cells * cells, 4 * width))
    }

    /// One picture's merged crops as tokens: `[1 + h * w, cells^2, 4 * width]` to
    /// `[features, hidden]`.
    fn arrange(&self, merged: &Tensor, image: &ImageInput) -> Result<Tensor> {
        let side = self.tower.geometry().side();
        let (rows, columns) = (image.size.0 / side, image.size.1 / side);
        let (crops, _, width) = merged.dims3()?;
        let order = layout(rows, columns, self.cells());
        if crops != 1 + rows * columns || order.len() != image.features {
            bail!(
                "a picture of {rows} x {columns} crops and {} features has {crops} parts",
                image.features
            );
        }
        // Each row is projected by itself, so a separator need not be projected for every place
        // that it stands in.
        let distinct = Tensor::cat(&[&self.separators, &merged.reshape(((), width))?], 0)?;
        let [first, second] = &self.projection;
        let projected = second.forward(&gelu(&first.forward(&distinct)?)?)?;
        projected.index_select(&Tensor::new(order, &self.device)?, 0)
    }

    /// Tokens per side of a crop.
    fn cells(&self) -> usize {
        self.tower.geometry().grid / 2
    }
}

/// Index of the row separator among the rows to be arranged.
const ROW_END: u32 = 0;
/// Index of the separator before the view of the whole.
const BEFORE_WHOLE: u32 = 1;
/// Index of the first cell: those of the view of the whole, then crop after crop.
const FIRST_CELL: usize = 2;

/// The order "sub_glb": the picture row by row across its `rows` x `columns` crops, a separator,
/// the view of the whole row by row. Every row ends with a separator.
fn layout(rows: usize, columns: usize, cells: usize) -> Vec<u32> {
    let cell = |crop: usize, row: usize, column: usize| {
        (FIRST_CELL + (crop * cells + row) * cells + column) as u32
    };
    let mut order = Vec::with_capacity(features(rows, columns, cells));
    for row in 0..rows * cells {
        for column in 0..columns * cells {
            let crop = 1 + row / cells * columns + column / cells;
            order.push(cell(crop, row % cells, column % cells));
        }
        order.push(ROW_END);
    }
    order.push(BEFORE_WHOLE);
    for row in 0..cells {
        order.extend((0..cells).map(|column| cell(0, row, column)));
        order.push(ROW_END);
    }
    order
}

/// Tokens of a picture of `rows` x `columns` crops with `cells` x `cells` tokens each.
pub(super) fn features(rows: usize, columns: usize, cells: usize) -> usize {
    (rows * columns + 1) * cells * cells + 1 + (rows + 1) * cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_come_first_and_the_whole_last() {
        // Two crops side by side, two by two cells each. Cells: whole 2..6, crops 6..10, 10..14.
        let expected = [
            6,
            7,
            10,
            11,
            ROW_END,
            8,
            9,
            12,
            13,
            ROW_END,
            BEFORE_WHOLE,
            2,
            3,
            ROW_END,
            4,
            5,
            ROW_END,
        ];
        assert_eq!(layout(1, 2, 2), expected);
    }

    #[test]
    fn every_cell_stands_once() {
        for (rows, columns) in [(1, 1), (4, 1), (2, 2), (1, 16), (4, 4)] {
            let order = layout(rows, columns, 12);
            assert_eq!(order.len(), features(rows, columns, 12));
            let mut cells: Vec<u32> = order.into_iter().filter(|&i| i > BEFORE_WHOLE).collect();
            cells.sort_unstable();
            let count = (rows * columns + 1) * 144;
            assert!(cells.into_iter().eq(2..2 + count as u32));
        }
    }

    #[test]
    fn the_real_models_counts_are_the_references() {
        // (h * w + 1) * 144 + 1 + (h + 1) * 12, as `processing_phi3_v.py` counts.
        assert_eq!(features(1, 1, 12), 313);
        assert_eq!(features(1, 2, 12), 457);
        assert_eq!(features(4, 4, 12), 2509);
    }
}
