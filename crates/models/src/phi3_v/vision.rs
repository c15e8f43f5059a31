//! From crops to the features that stand in the prompt.

use candle_core::{Result, Tensor, bail};
use vlmd_backend::{ImageInput, Model};

use super::TOWER;
use super::config::Config;
use crate::LoadError;
use crate::common::activation::Activation;
use crate::common::clip::{Clip, Options};
use crate::common::decoder::{Decoder, llama};
use crate::common::params::Params;
use crate::common::positions::Positions;
use crate::common::projector::Projector;
use crate::common::spliced::{self, Spliced};
use crate::common::tiles::Features;

/// Loads Phi-3-vision or Phi-3.5-vision.
pub(super) fn load(
    params: &Params<'_>,
    config: &Config,
) -> std::result::Result<Box<dyn Model>, LoadError> {
    let vision = Vision::load(params, config)?;
    let sizes = config.sizes()?;
    let (eps, tied) = (config.rms_norm_eps()?, config.tie_word_embeddings);
    let source = llama::Source::at(params, eps, tied);
    let weights = llama::load(&source, &sizes, 0..sizes.layers)?;
    let decoder = Decoder::new(params, sizes, Positions::Rotary(config.rope()?), weights);
    Ok(Box::new(Spliced::new(vision, decoder)))
}

/// The tower with the learnt separators and the projection into the decoder's width.
#[derive(Debug)]
struct Vision {
    tower: Clip,
    /// `[2, hidden]`, projected: `sub_GN`, which ends a row, then `glb_GN`, which stands before
    /// the view of the whole.
    separators: Tensor,
    projector: Projector,
}

impl Vision {
    /// Loads the `vision_embed_tokens` branch. `params` is the root.
    fn load(params: &Params<'_>, config: &Config) -> std::result::Result<Self, LoadError> {
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
        let projector = Projector::load(
            &branch.at("img_projection"),
            &["0", "2"],
            true,
            (merged, config.hidden_size()),
            Activation::Gelu,
        )?;
        Ok(Self {
            tower,
            // Each row is projected by itself: once here, not for every place that it stands in.
            separators: projector.forward(&separators)?,
            projector,
        })
    }

    /// Tokens per side of a crop.
    fn cells(&self) -> usize {
        self.tower.geometry().grid / 2
    }
}

impl spliced::Vision for Vision {
    fn tower(&self) -> &Clip {
        &self.tower
    }

    /// Side by side patches become one, the four in the order of reading, and are projected:
    /// `[n, (grid / 2)^2, hidden]`.
    ///
    /// Only crops that a picture has are computed: the reference fills up to `num_crops + 1` with
    /// zeros and drops their features afterwards.
    fn project(&self, features: &Tensor) -> Result<Tensor> {
        let (count, _, width) = features.dims3()?;
        let cells = self.cells();
        let merged = features
            .reshape(&[count, cells, 2, cells, 2, width])?
            .permute([0, 1, 3, 2, 4, 5])?
            .reshape((count, cells * cells, 4 * width))?;
        self.projector.forward(&merged)
    }

    fn project_work(&self) -> u64 {
        self.projector.work(self.cells() * self.cells())
    }

    /// One picture's crops as tokens: `[1 + h * w, cells^2, hidden]` to `[features, hidden]`.
    fn arrange(&self, encoded: &Tensor, image: &ImageInput) -> Result<Tensor> {
        let side = self.tower.geometry().side();
        let (rows, columns) = (image.size.0 / side, image.size.1 / side);
        let (crops, _, hidden) = encoded.dims3()?;
        let order = layout(rows, columns, self.cells());
        if crops != 1 + rows * columns || order.len() != image.features {
            bail!(
                "a picture of {rows} x {columns} crops and {} features has {crops} parts",
                image.features
            );
        }
        let cells = encoded.reshape(((), hidden))?;
        let distinct = Tensor::cat(&[&self.separators, &cells], 0)?;
        distinct.index_select(&Tensor::new(order, encoded.device())?, 0)
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
    let whole = Features {
        first: FIRST_CELL,
        across: 1,
        cells,
    };
    let crops = Features {
        first: FIRST_CELL + cells * cells,
        across: columns,
        cells,
    };
    let mut order = crops.read(0..rows * cells, 0..columns * cells, ROW_END);
    order.push(BEFORE_WHOLE);
    order.extend(whole.read(0..cells, 0..cells, ROW_END));
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
            vec![6, 7, 10, 11, ROW_END],
            vec![8, 9, 12, 13, ROW_END],
            vec![BEFORE_WHOLE],
            vec![2, 3, ROW_END],
            vec![4, 5, ROW_END],
        ];
        assert_eq!(layout(1, 2, 2), expected.concat());
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
